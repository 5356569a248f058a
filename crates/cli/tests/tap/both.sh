# Real programs over a TAP device, both ways: the host's kernel here, a lab's namespace `server` there.
# Runs in a network namespace of its own: FERRONET LAB NAME DIR BYTES
set -eu
ferronet=$1 lab=$2 name=$3 dir=$4 bytes=$5
here=10.77.0.1 there=10.77.0.2

say() { echo "$*" >&2; }
# Waits up to 20 s for a condition; a lossy link may need some tries.
until_ok() {
    i=0
    until "$@" >/dev/null 2>&1; do
        i=$((i + 1))
        [ $i -lt 200 ] || { say "never true: $*"; exit 1; }
        sleep 0.1
    done
}
on() { "$ferronet" exec "$name" --ns server -- "$@"; }
listens() { ss -Hltn "sport = :$1" | grep -q .; }
listens_there() { on ss -Hltn "sport = :$1" | grep -q .; }

ip link set lo up
"$ferronet" up --keep --name "$name" "$lab" >"$dir/up.log" 2>&1 &
up=$!
pids=$up
finish() { kill $pids 2>/dev/null || true; wait $up 2>/dev/null || true; }
trap finish EXIT
until_ok grep -q 'staying up' "$dir/up.log"

say "ping"
# A clean cable loses nothing: five requests are sent, five answers come. Over a bad one ping sends until five are
# answered, and three within the time are enough.
if grep -q loss "$lab"; then
    limit="-w 20" answers='([3-9]|[1-9][0-9]+)'
else
    limit="-W 10" answers=5
fi
pings() { "$@" | tee -a /dev/stderr | grep -Eq " $answers received"; }
pings ping -q -c 5 -i 0.2 $limit $there
pings on ping -q -c 5 -i 0.2 $limit $here

say "tracepath"
trace() { "$@" | tee -a "$dir/trace.txt" | grep -q 'pmtu 1500.*hops 1\|Resume: pmtu 1500'; }
trace tracepath -n $there
trace on tracepath -n $here

say "DNS"
dns() { echo "dnsmasq --no-daemon --no-resolv --no-hosts --conf-file=/dev/null --user=root --port=53 --bind-interfaces --listen-address=$1 --address=/host.test/192.0.2.7 --pid-file="; }
$(dns $here) >/dev/null 2>&1 &
pids="$pids $!"
on $(dns $there) >/dev/null 2>&1 &
pids="$pids $!"
answers() { [ "$("$@" +short +notcp +tries=5 +time=2 -t A host.test)" = 192.0.2.7 ]; }
until_ok answers dig @$there
until_ok answers on dig @$here

say "HTTP"
head -c "$bytes" /dev/urandom >"$dir/data"
sum=$(sha256sum <"$dir/data")
for side in here there; do
    eval "address=\$$side"
    mkdir -p "$dir/$side"
    cat >"$dir/$side.conf" <<END
daemon off; worker_processes 1; user root; error_log stderr; pid $dir/$side/pid;
events { worker_connections 64; }
http { access_log off; client_body_temp_path $dir/$side/a; proxy_temp_path $dir/$side/b; fastcgi_temp_path $dir/$side/c;
uwsgi_temp_path $dir/$side/d; scgi_temp_path $dir/$side/e; server { listen $address:80; root $dir; } }
END
done
nginx -c "$dir/here.conf" 2>/dev/null &
pids="$pids $!"
on nginx -c "$dir/there.conf" 2>/dev/null &
pids="$pids $!"
until_ok listens 80
until_ok listens_there 80
same() { [ "$("$@" | sha256sum)" = "$sum" ]; }
# At 128 KiB/s at least: a bad cable carries some 3 Mbit/s of one flow.
get="curl -sS --fail --max-time $((240 + bytes / 131072)) --speed-time 20 --speed-limit 1000"
start=$(date +%s%N)
same $get http://$there/data
middle=$(date +%s%N)
same on $get http://$here/data
end=$(date +%s%N)
say "$bytes bytes from there in $(((middle - start) / 1000000)) ms, from here in $(((end - middle) / 1000000)) ms"

say "iperf3"
on iperf3 -s >/dev/null 2>&1 &
pids="$pids $!"
until_ok listens_there 5201
for way in "" -R; do
    timeout 30 iperf3 -c $there -t 2 $way -J >"$dir/iperf$way.json"
    grep -q '"sum_received"' "$dir/iperf$way.json"
done

# Nothing is left in a half-open state: no connection is stuck.
settled() { ! on ss -Htan state established state syn-sent state syn-recv state close-wait | grep -v ':5201' | grep -q .; }
until_ok settled
say "done"
