//! Figures of unmodified programs under the supervisor, each beside the real kernel's in the same run: iperf3, nginx with wrk,
//! and one TCP flow to the host's kernel over TAP. Needs root and the programs; a row says what is missing.

#[path = "../figure.rs"]
mod figure;

use figure::{against, beside, median, not_measured};
use std::path::Path;
use std::process::{Command, Stdio};

/// Two namespaces and a veth between them; the same script on the kernel and on ferronet. `$1` is a directory for nginx.
const VETH: &str = r#"
set -e
ip netns add srv
ip link add v0 type veth peer name v1
ip link set v1 netns srv
ip addr add 10.99.0.1/24 dev v0; ip link set v0 up; ip link set lo up
ip -n srv addr add 10.99.0.2/24 dev v1; ip -n srv link set v1 up; ip -n srv link set lo up
n=ip\ netns\ exec\ srv
$n iperf3 -s -1 >/dev/null & 
$n nginx -c "$1/nginx.conf" & nginx=$!
i=0
until [ "$($n ss -Hltn 'sport = :80 or sport = :5201' | wc -l)" = 2 ]; do i=$((i+1)); [ $i -lt 200 ] || exit 9; sleep 0.05; done
iperf3 -c 10.99.0.2 -t 2 -J | tr -d '\n' | sed 's/^/iperf /'; echo
wrk -t1 -c64 -d2s -H 'Connection: close' http://10.99.0.2/ | sed -n 's/^Requests.sec:/new/p'
wrk -t1 -c64 -d2s http://10.99.0.2/ | sed -n 's/^Requests.sec:/kept/p'
kill $nginx
wait
"#;

/// One flow each way between this kernel and ferronet. `$1` is the ferronet command.
const TAP: &str = r#"
ip link set lo up
"$1" run --tap tap0=fnbench -- sh -c 'ip link set lo up; ip link set tap0 up; ip addr add 10.77.0.2/24 dev tap0
iperf3 -s -1 >/dev/null; iperf3 -s -1 >/dev/null' &
i=0
until ip addr add 10.77.0.1/24 dev fnbench 2>/dev/null; do i=$((i+1)); [ $i -lt 200 ] || exit 9; sleep 0.05; done
ip link set fnbench up
for way in to from; do
    r=; [ $way = to ] || r=-R
    i=0
    until iperf3 -c 10.77.0.2 -t 2 $r -J >"$2/tap" 2>/dev/null && grep -q sum_received "$2/tap"; do
        i=$((i+1)); [ $i -lt 200 ] || exit 9; sleep 0.05
    done
    tr -d '\n' <"$2/tap" | sed "s/^/$way /"; echo
done
wait
"#;

const NGINX: &str = "daemon off; worker_processes 1; user root; error_log stderr; pid DIR/pid;
events { worker_connections 1024; }
http { access_log off; client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d;
scgi_temp_path DIR/e; server { listen 80 backlog=4096; location / { return 200 'hello'; } } }
";

const GROUP: &str = "Unmodified programs, against the kernel";
const IPERF: &str = "iperf3, one flow between two namespaces";
const NEW: &str = "nginx and wrk, a new connection for each request";
const KEPT: &str = "nginx and wrk, kept connections";
const TO: &str = "one TCP flow over TAP, from the host's kernel";
const FROM: &str = "one TCP flow over TAP, to the host's kernel";
const ROUNDS: usize = 5;

/// What is missing, if anything.
fn missing(ferronet: &Path) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let euid = status.lines().find_map(|l| l.strip_prefix("Uid:")).and_then(|l| l.split_whitespace().nth(1));
    if euid != Some("0") {
        return Some("needs root, for namespaces of the real kernel".to_owned());
    }
    if !ferronet.is_file() {
        return Some("build the command first: cargo build --release -p ferronet".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let found =
        |p: &str| path.split(':').chain(["/usr/sbin", "/sbin"]).any(|d| Path::new(d).join(p).is_file());
    let programs = ["ip", "ss", "iperf3", "nginx", "wrk", "unshare", "timeout", "sed"];
    programs.iter().find(|p| !found(p)).map(|p| format!("the program `{p}` is not installed"))
}

/// The values of lines that start with a word: a number, or the received rate of an iperf3 report in Gbit/s.
fn value(output: &str, word: &str) -> Option<f64> {
    let rest = output.lines().find_map(|l| l.strip_prefix(word)?.strip_prefix(' '))?.trim();
    if let Ok(v) = rest.parse() {
        return Some(v);
    }
    let v: serde_json::Value = serde_json::from_str(rest).ok()?;
    v["end"]["sum_received"]["bits_per_second"].as_f64().map(|b| b / 1e9)
}

/// Runs a command for 30 s at most; its output.
fn output(argv: &[&str]) -> String {
    let mut c = Command::new("timeout");
    c.args(["-k", "2", "30"]).args(argv).stdin(Stdio::null()).stderr(Stdio::null());
    c.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// Figures of all rounds.
#[derive(Default)]
struct Series {
    ours: Vec<f64>,
    kernel: Vec<f64>,
}

fn main() {
    let exe = std::env::current_exe().unwrap_or_default();
    let ferronet = exe.with_file_name("ferronet");
    if let Some(why) = missing(&ferronet) {
        for name in [IPERF, NEW, KEPT, TO, FROM] {
            not_measured(GROUP, name, &why);
        }
        return;
    }
    let dir = std::env::temp_dir().join(format!("ferronet-bench-{}", std::process::id()));
    if let Err(e) = run(&ferronet, &dir) {
        eprintln!("{}: {e}", dir.display());
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn run(ferronet: &Path, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let d = dir.display().to_string();
    let f = ferronet.display().to_string();
    std::fs::write(dir.join("nginx.conf"), NGINX.replace("DIR", &d))?;
    let mut all: [Series; 5] = Default::default();
    // One after the other, again and again, so that a machine that changes speed changes both. The private mount of
    // /run/netns keeps the kernel's named namespaces to themselves.
    let private = format!("mkdir -p /run/netns; mount -t tmpfs none /run/netns; {VETH}");
    for _ in 0..ROUNDS {
        let kernel = output(&["unshare", "-n", "-m", "sh", "-c", &private, "sh", &d]);
        let ours = output(&[&f, "run", "--", "sh", "-c", VETH, "sh", &d]);
        let tap = output(&["unshare", "-n", "sh", "-c", TAP, "sh", &f, &d]);
        for (s, word) in all.iter_mut().zip(["iperf", "new", "kept"]) {
            s.kernel.extend(value(&kernel, word));
            s.ours.extend(value(&ours, word));
        }
        for (s, word) in all.iter_mut().skip(3).zip(["to", "from"]) {
            s.kernel.extend(value(&kernel, "iperf"));
            s.ours.extend(value(&tap, word));
        }
    }
    let rows = [
        (IPERF, "Gbit/s", 0.5),
        (NEW, "per second", 0.25),
        (KEPT, "per second", 0.0),
        (TO, "Gbit/s", 0.4),
        (FROM, "Gbit/s", 0.4),
    ];
    for (i, ((name, unit, goal), s)) in rows.into_iter().zip(&mut all).enumerate() {
        if s.ours.is_empty() || s.kernel.is_empty() {
            not_measured(
                GROUP,
                name,
                if s.kernel.is_empty() { "the kernel's run failed" } else { "ferronet's run failed" },
            );
            continue;
        }
        let (ours, kernel) = (median(&mut s.ours), median(&mut s.kernel));
        let peer = if i < 3 { "the kernel" } else { "the kernel's veth" };
        if name == KEPT {
            beside(GROUP, name, ours, unit, (peer, kernel));
            continue;
        }
        // TAP: 4 Gbit/s, or 0.4 of the kernel's veth, whichever is less.
        let goal = if i < 3 { goal } else { f64::min(goal, 4.0 / kernel) };
        against(GROUP, name, ours, unit, (peer, kernel), (goal * 100.0).floor() / 100.0);
    }
    Ok(())
}
