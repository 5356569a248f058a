//! Whoever is killed, at whatever moment: no process stays behind, and nobody hangs.
//!
//! Every process of a test carries a mark in its environment, so that none can hide: not the supervisor's helpers, not
//! process 1 of the sandbox, not daemons.

mod common;

use common::{can_run, ferronet, repository};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
const MARK: &str = "FERRONET_KILL_TEST";

/// A command and everything that comes from it; what is left at the end of the test is killed.
struct Marked {
    mark: String,
    child: Child,
}

impl Marked {
    fn start(args: &[&str]) -> Marked {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Marked::with(ferronet(args), mark)
    }

    fn with(mut c: Command, mark: String) -> Marked {
        let child = c.env(MARK, &mark).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        Marked { mark, child: child.expect("ferronet starts") }
    }

    /// Another command with the same mark.
    fn also(&self, args: &[&str]) -> Marked {
        Marked::with(ferronet(args), self.mark.clone())
    }

    /// Processes that carry the mark, with their names; zombies are gone already.
    fn processes(&self) -> Vec<(u32, String)> {
        let want = format!("{MARK}={}", self.mark);
        let mut out = Vec::new();
        for e in std::fs::read_dir("/proc").expect("proc").flatten() {
            let Some(pid) = e.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let environ = std::fs::read(e.path().join("environ")).unwrap_or_default();
            if environ.split(|b| *b == 0).any(|v| v == want.as_bytes()) {
                let comm = std::fs::read_to_string(e.path().join("comm")).unwrap_or_default();
                out.push((pid, comm.trim().to_owned()));
            }
        }
        out
    }

    /// Waits for a line of output.
    fn line(&mut self, text: &str) {
        let out = self.child.stdout.take().expect("piped, taken once");
        let (send, got) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for l in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(l);
            }
        });
        loop {
            let l = got.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no line `{text}`: {e}"));
            if l.contains(text) {
                return;
            }
        }
    }

    /// Waits until `n` processes of this name wait in a system call.
    fn blocked(&self, name: &str, n: usize) {
        let asleep = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|s| s.starts_with('S'))
        };
        self.until(&format!("{n} processes `{name}` that wait"), |all| {
            all.iter().filter(|(p, c)| c == name && asleep(*p)).count() >= n
        });
    }

    fn until(&self, what: &str, holds: impl Fn(&[(u32, String)]) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.processes();
            if holds(&all) {
                return;
            }
            assert!(Instant::now() < end, "{what}: {all:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn kill(&self) {
        signal(self.child.id(), "KILL");
    }

    /// Nothing with the mark is left, and nothing hangs.
    fn nothing_left(&mut self, after: &str) {
        let mine = self.child.id();
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < end, "{after}: the command hangs; {:?}", self.processes());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.until(&format!("{after}: something is left of {mine}"), <[_]>::is_empty);
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            signal(pid, "KILL");
        }
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}

/// Lets `ms` milliseconds go by: the moment of a kill is what these tests vary.
fn moment(ms: u64) {
    let end = Instant::now() + Duration::from_millis(ms);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Programs that block in everything there is to block in, a stopped one, some in namespaces of their own and daemons.
const BLOCKED: &str = r#"
import os, select, socket, sys
lo = "127.0.0.1"
def tcp():
    s = socket.socket(); s.bind((lo, 0)); s.listen(1); return s
def accept(): tcp().accept()
def recv():
    s = tcp(); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); c.recv(1)
def send():
    s = tcp(); c = socket.create_connection(s.getsockname()); a, _ = s.accept()
    while True: c.sendall(b"x" * (1 << 20))
def shared():
    s = tcp(); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); os.fork(); c.recv(1)
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((lo, 0)); s.recv(1)
def poll():
    p = select.poll(); s = tcp(); p.register(s, select.POLLIN); p.poll()
def epoll():
    e = select.epoll(); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); e.register(s, select.EPOLLIN); e.poll()
def connect(): socket.create_connection(("10.9.9.9", 80))
def netlink():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0)); s.recv(1)
def packet(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x7777).recv(1)
globals()[sys.argv[1]]()
"#;
const WAYS: [&str; 10] =
    ["accept", "recv", "send", "shared", "udp", "poll", "epoll", "connect", "netlink", "packet"];

/// A session in which each of [`WAYS`] blocks (in `n` copies), ready.
fn blocked(n: usize) -> Marked {
    let mut script =
        "ip link set lo up; ip link add d0 type dummy; ip addr add 10.9.9.1/24 dev d0; ip link set d0 up
        ip netns add far; setsid sleep 1000 & ip netns exec far sleep 1000 & unshare -n sleep 1000 &\n"
            .to_owned();
    for way in WAYS.iter().filter(|w| **w != "connect") {
        script.push_str(&format!("for i in $(seq {n}); do python3 -c \"$0\" {way} & done\n"));
    }
    script.push_str("echo ready; wait");
    let mut s = Marked::start(&["run", "--", "sh", "-ec", &script, BLOCKED]);
    s.line("ready");
    // All but connect, and `shared` is two.
    s.blocked("python3", WAYS.len() * n);
    s
}

fn ready(test: &str) -> bool {
    ["python3", "ip", "setsid", "unshare", "kill"]
        .iter()
        .all(|p| ferronet_sim::need::program(test, p).is_some())
        && can_run(test)
}

#[test]
fn killing_the_supervisor_ends_blocked_programs() {
    if !ready("killing_the_supervisor_ends_blocked_programs") {
        return;
    }
    let mut s = blocked(1);
    s.kill();
    s.nothing_left("supervisor killed");
}

#[test]
fn stopped_programs_end_too() {
    if !ready("stopped_programs_end_too") {
        return;
    }
    let mut s = blocked(1);
    for (pid, comm) in s.processes() {
        if comm == "python3" || comm == "sleep" || comm == "sh" {
            signal(pid, "STOP");
        }
    }
    s.kill();
    s.nothing_left("supervisor killed, programs stopped");
}

#[test]
fn killing_programs_leaves_the_others_at_work() {
    if !ready("killing_programs_leaves_the_others_at_work") {
        return;
    }
    let mut s = blocked(1);
    for (pid, comm) in s.processes() {
        if comm == "python3" {
            signal(pid, "KILL");
        }
    }
    s.until("killed programs are gone", |all| all.iter().all(|(_, c)| c != "python3"));
    // The shell waited for them; the daemons end with it.
    for (pid, comm) in s.processes() {
        if comm == "sleep" {
            signal(pid, "KILL");
        }
    }
    s.nothing_left("all programs killed");
}

#[test]
fn connecting_when_the_supervisor_dies() {
    if !ready("connecting_when_the_supervisor_dies") {
        return;
    }
    let script = "ip link add d0 type dummy; ip addr add 10.9.9.1/24 dev d0; ip link set d0 up; echo ready
        python3 -c \"$0\" connect";
    let mut s = Marked::start(&["run", "--", "sh", "-ec", script, BLOCKED]);
    s.line("ready");
    s.blocked("python3", 1);
    s.kill();
    s.nothing_left("supervisor killed while a program connects");
}

/// Kills the supervisor as soon as a phase of its start-up is seen.
#[test]
fn the_supervisor_may_die_in_each_phase_of_its_start() {
    if !ready("the_supervisor_may_die_in_each_phase_of_its_start") {
        return;
    }
    type Seen = fn(&[(u32, String)]) -> bool;
    let phases: [(&str, Seen); 5] = [
        ("exec of the command", |p| !p.is_empty()),
        ("clone of the sandbox", |p| p.len() > 1),
        ("process 1 with its own name", |p| p.iter().any(|(_, c)| c == "ferronet-init")),
        ("helper of the first program", |p| p.iter().filter(|(_, c)| c == "ferronet").count() > 1),
        ("the program runs", |p| p.iter().any(|(_, c)| c == "sleep")),
    ];
    for (name, seen) in phases {
        for _ in 0..3 {
            let mut s = Marked::start(&["run", "--", "sleep", "1000"]);
            let end = Instant::now() + Duration::from_millis(500);
            // A phase may be too short to be seen; then the kill comes later.
            while !seen(&s.processes()) && Instant::now() < end {
                std::hint::spin_loop();
            }
            s.kill();
            s.nothing_left(name);
        }
    }
}

#[test]
fn exec_ends_with_its_stack_and_leaves_nothing_when_killed() {
    if !ready("exec_ends_with_its_stack_and_leaves_nothing_when_killed") {
        return;
    }
    let name = format!("kill{}", std::process::id());
    let mut s = Marked::start(&["run", "--name", &name, "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    s.line("ready");
    let mut joined = s.also(&["exec", &name, "--", "python3", "-c", BLOCKED, "accept"]);
    s.blocked("python3", 1);
    let mut tracing = s.also(&["trace", "--name", &name]);
    // Killing the joining command takes its program along and leaves the stack at work.
    joined.kill();
    let _ = joined.child.wait();
    s.until("the joined program ends", |all| all.iter().all(|(_, c)| c != "python3"));
    let mut joined = s.also(&["exec", &name, "--", "sleep", "1001"]);
    s.until("two sleep", |all| all.iter().filter(|(_, c)| c == "sleep").count() == 2);
    s.kill();
    s.nothing_left("supervisor killed under exec and trace");
    let code = |m: &mut Marked| m.child.wait().expect("wait").code();
    assert_eq!(code(&mut joined), Some(125), "exec tells that the stack has ended");
    assert_eq!(code(&mut tracing), Some(1), "trace tells that the stack has ended");
    // The name is free again.
    let e = common::run(ferronet(&["run", "--name", &name, "--", "true"]));
    assert_eq!(e.code, 0, "{e:?}");
}

/// One sentence and status 125 (1 before it has joined), whenever the stack dies: also while the program is being loaded, when
/// calls that find nobody who answers make it fail in its own ways.
#[test]
fn a_stack_that_dies_while_a_program_joins() {
    if !ready("a_stack_that_dies_while_a_program_joins") {
        return;
    }
    let name = format!("dies{}", std::process::id());
    for step in 0..24 {
        let mut s = Marked::start(&["run", "--name", &name, "--", "sh", "-c", "echo ready; exec sleep 1000"]);
        s.line("ready");
        let mut c = ferronet(&["exec", &name, "--", "python3", "-c", "import time; time.sleep(1000)"]);
        c.env(MARK, &s.mark).stderr(Stdio::piped());
        let joining = std::thread::spawn(move || common::run_for(c, 20));
        moment(step * 3);
        s.kill();
        let e = joining.join().expect("exec ends");
        let said = e.err.lines().filter(|l| l.starts_with("ferronet: ")).count();
        assert!(matches!(e.code, 1 | 125) && said == 1, "after {} ms: {e:?}", step * 3);
        assert!(!e.err.contains("os error"), "after {} ms: {e:?}", step * 3);
        s.nothing_left("supervisor killed while a program joins");
    }
}

#[test]
fn a_lab_may_be_killed_at_any_moment() {
    if !ready("a_lab_may_be_killed_at_any_moment") {
        return;
    }
    let file = repository("examples/web.toml");
    for ms in [5, 20, 40, 80, 160, 320] {
        let name = format!("lab{}-{ms}", std::process::id());
        let mut s = Marked::start(&["up", &file, "--name", &name]);
        moment(ms);
        s.kill();
        s.nothing_left(&format!("ferronet up killed after {ms} ms"));
    }
}

/// Any process of a busy session, at any moment; then, if it lives, the supervisor. FERRONET_KILL_SEEDS sets how many seeds.
#[test]
fn anybody_may_be_killed_at_any_moment() {
    if !ready("anybody_may_be_killed_at_any_moment") {
        return;
    }
    let script = "ip link set lo up; ip netns add far; while :; do
          python3 -c \"$0\" send & python3 -c \"$0\" shared & ip netns exec far ip link set lo up
          ip netns add x; ip link add a type veth peer name b; ip link set b netns x; ip netns del x
          kill $! ; setsid sleep 100 & unshare -n true; done";
    let seeds = std::env::var("FERRONET_KILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12u64);
    for seed in 1..=seeds {
        // A step of Knuth's MMIX generator for each choice; the high bits are the good ones.
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut s = Marked::start(&["run", "--", "sh", "-c", script, BLOCKED]);
        moment(below(400));
        let all = s.processes();
        let victim = all.get(below(all.len().max(1) as u64) as usize).cloned();
        if let Some((pid, _)) = &victim {
            signal(*pid, "KILL");
        }
        moment(below(50));
        s.kill();
        s.nothing_left(&format!("seed {seed}: {victim:?} killed"));
    }
}
