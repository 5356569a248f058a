//! The host's kernel as neighbour over TAP, inside a network namespace made by the test. Needs root.
//!
//! Without a harness, because a session wants a process with one thread: the binary runs itself as the supervisor
//! (`tap --session TAP CMD…`) inside the namespace.

use std::process::{Command, Output, Stdio};

use ferronet_host::{Config, HostError, Session, Tap};
use ferronet_sim::need;

/// Both ends' set-up; `$1` is the program for the inside, `$2` for the outside.
const SCRIPT: &str = r#"
ip link set lo up
"$0" --session fntap0 sh -c "ip link set lo up; ip link set tap0 up; ip addr add 10.77.0.2/24 dev tap0; $1" &
inside=$!
i=0
until ip addr add 10.77.0.1/24 dev fntap0 2>/dev/null; do i=$((i+1)); [ $i -lt 200 ] || exit 99; sleep 0.05; done
ip link set fntap0 up
sh -c "$2"; outside=$?
wait $inside; inside=$?
echo "inside $inside outside $outside"
[ $inside = 0 ] && [ $outside = 0 ]
"#;

fn supervise(tap: &str, argv: &[String]) -> Result<i32, HostError> {
    let tap = Tap::open(tap)?;
    let mut session = Session::new(&Config::default())?;
    let first = session.first_ns();
    session.attach_tap(first, "tap0", tap)?;
    let pid = session.spawn(&ferronet_host::Command::new(argv))?;
    Ok(session.run_until_exit(pid)?.code())
}

fn both(inside: &str, outside: &str) -> Output {
    Command::new("timeout")
        .args(["-k", "5", "120", "unshare", "-n", "sh", "-c", SCRIPT])
        .arg(std::env::current_exe().expect("own path"))
        .args([inside, outside])
        .stdin(Stdio::null())
        .output()
        .expect("start")
}

fn works(name: &str, inside: &str, outside: &str) {
    let o = both(inside, outside);
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(o.status.success(), "{name}: {}\n{}{}", o.status, text(&o.stdout), text(&o.stderr));
    println!("ok {name}");
}

/// Serves one connection: sends `n` bytes, or receives to the end; prints the sha256 of the data.
const PEER: &str = r"
import socket, sys, hashlib, time
role, n = sys.argv[1], int(sys.argv[2])
data = bytes(i * 7 % 251 for i in range(65521))
if role == 'serve':
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((sys.argv[3], 5001)); s.listen(); c, _ = s.accept()
else:
    for _ in range(400):
        try:
            c = socket.create_connection((sys.argv[3], 5001), 5); break
        except OSError:
            time.sleep(0.05)
    c.settimeout(60)
want = hashlib.sha256(); got = hashlib.sha256(); left = n
if role == 'serve':
    while left:
        d = data[:left]; c.sendall(d); left -= len(d)
    c.shutdown(socket.SHUT_WR)
while left < n or role != 'serve':
    d = c.recv(1 << 20)
    if not d: break
    got.update(d)
    if role == 'serve': continue
while left:
    d = data[:left]; want.update(d); left -= len(d)
if role != 'serve':
    assert got.digest() == want.digest()
    c.sendall(b'done')
";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, tap, argv @ ..] = args.as_slice()
        && flag == "--session"
    {
        match supervise(tap, argv) {
            Ok(code) => std::process::exit(code),
            Err(e) => {
                eprintln!("tap: {e}");
                std::process::exit(e.exit_code());
            }
        }
    }
    let wanted = |name: &str| args.iter().all(|a| a.starts_with('-') || name.contains(a.as_str()));
    for name in ["tap_ping", "tap_tcp_out", "tap_tcp_in"] {
        let have = |p| need::program(name, p).is_some();
        if !wanted(name) || !need::root(name) || !need::device(name, "/dev/net/tun") {
            continue;
        }
        if !["ip", "unshare", "ping", "python3", "timeout"].into_iter().all(have) {
            continue;
        }
        let script = std::env::temp_dir().join(format!("fn-tap-{}.py", std::process::id()));
        std::fs::write(&script, PEER).expect("write the script");
        let py = |role: &str, addr: &str| format!("python3 {} {role} 33554432 {addr}", script.display());
        match name {
            "tap_ping" => works(
                name,
                "ping -c 3 -i 0.2 -w 20 10.77.0.1 && ping -c 2 -i 0.2 -s 4000 -w 20 10.77.0.1 && sleep 2",
                "ping -c 3 -i 0.2 -w 20 10.77.0.2 && ping -c 2 -i 0.2 -s 4000 -w 20 10.77.0.2",
            ),
            "tap_tcp_out" => works(name, &py("serve", "10.77.0.2"), &py("fetch", "10.77.0.2")),
            _ => works(name, &py("fetch", "10.77.0.1"), &py("serve", "10.77.0.1")),
        }
        let _ = std::fs::remove_file(script);
    }
}
