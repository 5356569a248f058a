# One flow after the other is slow; N flows at once over an emulated link that does not limit the rate are N samples.
# Prints a line for each way: kernel to kernel (through ferronet), ferronet to kernel, kernel to ferronet; bit/s.
# Runs in a network namespace of its own: FERRONET THROUGH.toml END.toml NAME DIR FLOWS SECONDS
set -eu
ferronet=$1 through=$2 end=$3 name=$4 dir=$5 flows=$6 seconds=$7

until_ok() {
    i=0
    until "$@" >/dev/null 2>&1; do
        i=$((i + 1))
        [ $i -lt 200 ] || { echo "never true: $*" >&2; exit 1; }
        sleep 0.1
    done
}
ip link set lo up
pids=
finish() { kill $pids 2>/dev/null || true; wait 2>/dev/null || true; }
trap finish EXIT
# The other kernel: a namespace that ends with its process.
unshare -n sleep 100 &
other=$!
pids="$pids $other"
far() { nsenter -t $other -n "$@"; }
until_ok sh -c "[ \"\$(readlink /proc/$other/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ]"

start() {
    "$ferronet" up --keep --name "$1" "$2" >"$dir/$1.log" 2>&1 &
    pids="$pids $!"
    until_ok grep -q 'staying up' "$dir/$1.log"
}
start "$name-t" "$through"
start "$name-e" "$end"
ip link set fnfar netns $other
far ip link set lo up
far ip link set fnfar up
far ip addr add 10.78.2.1/24 dev fnfar
# Both kernels with the congestion control that ferronet has.
ip route add 10.78.2.0/24 via 10.78.1.2 congctl cubic
far ip route add 10.78.1.0/24 via 10.78.2.2 congctl cubic
ip route replace 10.79.0.0/24 dev fnend src 10.79.0.1 congctl cubic

# Not by `far`: a function in the background is a shell that would not pass the signal on.
nsenter -t $other -n iperf3 -s -p 5301 >/dev/null 2>&1 &
pids="$pids $!"
"$ferronet" exec "$name-e" --ns end -- iperf3 -s -p 5302 >/dev/null 2>&1 &
pids="$pids $!"
"$ferronet" exec "$name-e" --ns end -- iperf3 -s -p 5303 >/dev/null 2>&1 &
pids="$pids $!"
up() { timeout 2 iperf3 -c "$1" -p "$2" -n 1; }
until_ok up 10.78.2.1 5301
until_ok up 10.79.0.2 5302
until_ok up 10.79.0.2 5303
# The server may still be busy with the question whether it is there.
measure() {
    out=$1; shift; n=0
    until timeout $((seconds + 30)) iperf3 -J -O 1 -t "$seconds" -P "$flows" "$@" >"$out" && ! grep -q '"error"' "$out"; do
        n=$((n + 1))
        [ $n -lt 20 ] && grep -q 'busy' "$out" || return 1
        sleep 0.1
    done
}
measure "$dir/kernel.json" -c 10.78.2.1 -p 5301 &
a=$!
measure "$dir/sends.json" -c 10.79.0.2 -p 5302 -R &
b=$!
measure "$dir/receives.json" -c 10.79.0.2 -p 5303 &
c=$!
wait $a
wait $b
wait $c
