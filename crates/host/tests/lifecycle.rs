//! The life of a session with real processes: exit status, signals, and nothing left behind whoever is killed.
//!
//! Without a harness, because a session wants a process with one thread: the binary runs itself as the supervisor
//! (`lifecycle --session CMD…`) and the tests one after the other.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};

use ferronet_host::{Config, HostError, Session};
use ferronet_sim::need;

/// Longest wait for something that must happen, milliseconds.
const PATIENCE: i32 = 20_000;

fn supervise(argv: Vec<std::ffi::OsString>) -> Result<i32, HostError> {
    let mut session = Session::new(&Config::default())?;
    let pid = session.spawn(&ferronet_host::Command::new(argv))?;
    Ok(session.run_until_exit(pid)?.code())
}

/// Supervises a program that makes network namespaces; says whether the stack saw them, and forgot them while the program
/// was still there.
fn namespaces_seen_and_forgotten() -> Result<(bool, bool), HostError> {
    let mut session = Session::new(&Config::default())?;
    // Looking at /proc/net makes the stack see the namespace.
    let script = "for i in 1 2 3; do unshare -n cat /proc/net/dev; done >/dev/null; read x";
    let (ours, theirs) = std::io::pipe().expect("pipe");
    let mut cmd = ferronet_host::Command::new(["sh", "-c", script]);
    cmd.stdio[0] = Some(ours.into());
    let pid = session.spawn(&cmd)?;
    let (mut seen, mut forgotten) = (false, false);
    // Every step is an event or 10 ms.
    for _ in 0..2000 {
        let now = session.kernel().world.iter().count();
        seen |= now > 1;
        forgotten = seen && now == 1;
        if forgotten {
            break;
        }
        session.step(Some(std::time::Duration::from_millis(10)))?;
    }
    drop(theirs);
    session.run_until_exit(pid)?;
    Ok((seen, forgotten))
}

fn session(argv: &[&str]) -> Command {
    let mut c = Command::new(std::env::current_exe().expect("own path"));
    c.arg("--session").args(argv).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// Runs to the end: status, standard output, standard error.
fn run(argv: &[&str]) -> (ExitStatus, String, String) {
    let out = session(argv).output().expect("start");
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    (out.status, text(out.stdout), text(out.stderr))
}

/// A descriptor that becomes readable when the process ends.
fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "pidfd_open {pid}: {}", std::io::Error::last_os_error());
    // SAFETY: just returned to us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn ends(fd: &OwnedFd) -> bool {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut p, 1, PATIENCE) == 1 }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: numbers only; the process is a child that was not reaped yet, or a descendant.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// All descendants of a process, as seen here.
fn descendants(pid: u32) -> Vec<u32> {
    let mut out = Vec::new();
    let mut todo = vec![pid];
    while let Some(p) = todo.pop() {
        let text = std::fs::read_to_string(format!("/proc/{p}/task/{p}/children")).unwrap_or_default();
        for c in text.split_whitespace().filter_map(|c| c.parse().ok()) {
            out.push(c);
            todo.push(c);
        }
    }
    out
}

/// A session with programs in the background, in a second namespace and daemonised; ready when this returns.
fn busy() -> (Child, BufReader<std::process::ChildStdout>) {
    let script = "setsid sleep 1000 & unshare -n sleep 1000 & mkdir /run/x; mount -t tmpfs none /run/x; \
                  (sleep 1000 & echo ready; exec sleep 1000)";
    let mut child = session(&["sh", "-c", script]).spawn().expect("start");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n", "{}", rest(&mut child));
    (child, out)
}

fn rest(child: &mut Child) -> String {
    let mut s = String::new();
    if let Some(e) = &mut child.stderr {
        let _ = e.read_to_string(&mut s);
    }
    s
}

/// Kills `victim` with SIGKILL and demands that the whole tree ends.
fn nothing_left_after(mut child: Child, mut out: BufReader<std::process::ChildStdout>, victim: u32) {
    let tree = descendants(child.id());
    assert!(tree.len() >= 5, "{tree:?}");
    let namespaces: Vec<_> =
        tree.iter().filter_map(|p| std::fs::read_link(format!("/proc/{p}/ns/mnt")).ok()).collect();
    let watched: Vec<OwnedFd> = tree.iter().map(|p| pidfd(*p)).collect();
    kill(victim, libc::SIGKILL);
    for (fd, pid) in watched.iter().zip(&tree) {
        assert!(ends(fd), "process {pid} is still there");
    }
    // Every holder of the pipe is gone.
    out.read_to_string(&mut String::new()).expect("end of file");
    child.wait().expect("reap");
    let own = std::fs::read_link("/proc/self/ns/mnt").expect("own namespace");
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        if let Ok(ns) = std::fs::read_link(entry.path().join("ns/mnt")) {
            assert!(ns == own || !namespaces.contains(&ns), "{:?} is still in the sandbox", entry.path());
        }
    }
}

fn exit_status_is_passed_on() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        let (status, _, err) = run(&["sh", "-c", script]);
        assert_eq!(status.code(), Some(code), "{script}: {err}");
    }
    assert_eq!(run(&["no-such-program-here"]).0.code(), Some(127));
    assert_eq!(run(&["/etc/passwd"]).0.code(), Some(126));
}

fn programs_are_root_in_their_own_world() {
    let (status, out, err) =
        run(&["sh", "-c", "id -u; sudo -n id -u; command -v sudo; ls /run/netns; ls -d /sys/class/net/lo"]);
    assert!(status.success(), "{err}");
    assert_eq!(out, "0\n0\n/run/ferronet/bin/sudo\n/sys/class/net/lo\n");
}

fn killing_the_supervisor_leaves_nothing() {
    let (child, out) = busy();
    let id = child.id();
    nothing_left_after(child, out, id);
}

fn killing_process_one_leaves_nothing() {
    let (child, out) = busy();
    let id = child.id();
    let init = descendants(id).into_iter().find(|p| {
        std::fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|c| c.trim() == "ferronet-init")
    });
    nothing_left_after(child, out, init.expect("process one"));
}

fn ending_the_program_ends_its_daemons() {
    let (status, out, err) = run(&["sh", "-c", "setsid sleep 1000 & sleep 1000 & echo $!"]);
    // `output` returned: the pipe has no holder any more.
    assert!(status.success(), "{err}");
    assert!(!out.is_empty());
}

fn a_termination_signal_reaches_the_program() {
    let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done";
    let mut child = session(&["sh", "-c", script]).spawn().expect("start");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n");
    kill(child.id(), libc::SIGTERM);
    line.clear();
    out.read_line(&mut line).expect("read");
    assert_eq!(line, "got\n");
    assert_eq!(child.wait().expect("reap").code(), Some(3));
}

fn a_session_inside_a_session_says_so() {
    let own = std::env::current_exe().expect("own path");
    let (status, _, err) = run(&[&own.to_string_lossy(), "--session", "true"]);
    assert_eq!(status.code(), Some(125), "{err}");
    assert!(err.contains("already supervised"), "{err}");
}

fn missing_user_namespaces_are_named() {
    if !need::root("missing_user_namespaces_are_named") {
        return;
    }
    let own = std::env::current_exe().expect("own path");
    // A child user namespace has limits of its own, so the machine's setting stays as it is.
    let script =
        format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {} --session true", own.display());
    let out = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).output().expect("unshare");
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(125), "{err}");
    assert!(err.contains("user.max_user_namespaces"), "{err}");
}

fn namespaces_end_with_the_kernels() {
    let own = std::env::current_exe().expect("own path");
    let out = Command::new(own).arg("--namespaces").output().expect("start");
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(text, "(true, true)\n", "{err}");
}

const TESTS: &[(&str, fn())] = &[
    ("exit_status_is_passed_on", exit_status_is_passed_on),
    ("programs_are_root_in_their_own_world", programs_are_root_in_their_own_world),
    ("killing_the_supervisor_leaves_nothing", killing_the_supervisor_leaves_nothing),
    ("killing_process_one_leaves_nothing", killing_process_one_leaves_nothing),
    ("ending_the_program_ends_its_daemons", ending_the_program_ends_its_daemons),
    ("a_termination_signal_reaches_the_program", a_termination_signal_reaches_the_program),
    ("a_session_inside_a_session_says_so", a_session_inside_a_session_says_so),
    ("namespaces_end_with_the_kernels", namespaces_end_with_the_kernels),
    ("missing_user_namespaces_are_named", missing_user_namespaces_are_named),
];

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|a| a == "--session") {
        match supervise(args.into_iter().skip(1).collect()) {
            Ok(code) => std::process::exit(code),
            Err(e) => {
                eprintln!("session: {e}");
                std::process::exit(e.exit_code());
            }
        }
    }
    if args.first().is_some_and(|a| a == "--namespaces") {
        match namespaces_seen_and_forgotten() {
            Ok(r) => println!("{r:?}"),
            Err(e) => eprintln!("session: {e}"),
        }
        return;
    }
    if args.iter().any(|a| a == "--list") {
        for (name, _) in TESTS {
            println!("{name}: test");
        }
        return;
    }
    let filter =
        args.iter().filter_map(|a| a.to_str()).find(|a| !a.starts_with('-')).unwrap_or("").to_owned();
    let (status, _, err) = run(&["true"]);
    for (name, test) in TESTS.iter().filter(|(n, _)| n.contains(&filter)) {
        if status.success() {
            test();
            println!("test {name} ... ok");
        } else {
            need::skip(name, err.trim());
        }
    }
}
