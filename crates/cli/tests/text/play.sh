# Plays a file of commands, one a line, in one shell; each command is shown before its output, its exit status after
# it when that is not 0. Lines that begin with # are comments.
mkdir -p /run/netns

# says PATTERN COMMAND...: waits, ten seconds at most, until the output of a command has a line with the pattern. The
# kernel does some of what a command starts a little later: carriers, addresses of a link, the end of a namespace.
says() {
    pattern=$1
    shift
    tries=0
    until "$@" 2>&1 | grep -q "$pattern"; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || {
            echo "never said $pattern: $*"
            "$@"
            return 1
        }
        sleep 0.02
    done
}
silent_about() {
    pattern=$1
    shift
    tries=0
    while "$@" 2>&1 | grep -q "$pattern"; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || {
            echo "still says $pattern: $*"
            return 1
        }
        sleep 0.02
    done
}
# ready DEVICE...: the devices have a carrier and, unless IPv6 is off, their address of the link is settled.
ready() {
    for dev in "$@"; do
        says 'state UP' ip link show "$dev"
        [ "$(cat "/proc/sys/net/ipv6/conf/$dev/disable_ipv6")" = 1 ] || says 'inet6 fe80' ip -6 addr show dev "$dev"
    done
    silent_about tentative ip -6 addr
}
down() { says 'state [A-Z]*DOWN' ip link show "$1"; }

while IFS= read -r step <&3; do
    case $step in '' | '#'*) continue ;; esac
    echo "@ $step"
    eval "$step" </dev/null 2>&1 3<&-
    status=$?
    [ $status = 0 ] || echo "= $status"
done 3<"$1"
