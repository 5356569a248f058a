//! A program cannot stop the supervisor, make it spin, or use it up.

mod common;

use std::process::Command;

use common::{Running, can_run, ferronet, repository, run};
use ferronet_sim::need;

/// Processor time of the command and of what it started that is called as it is, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let stat = read("stat");
    // utime and stime are the 12th and 13th behind the name.
    let own: u64 = stat
        .rsplit(") ")
        .next()
        .map_or(0, |s| s.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum());
    if !stat.contains("(ferronet") {
        return 0;
    }
    let children = read(&format!("task/{pid}/children"));
    own + children.split_whitespace().filter_map(|c| c.parse().ok()).map(ticks).sum::<u64>()
}

/// Runs a case of `scripts/hostile.py`: it says these lines, and the supervisor rests afterwards.
fn case(name: &str, says: &[&str]) -> Vec<String> {
    if need::program(name, "python3").is_none() || !can_run(name) {
        return Vec::new();
    }
    let script = repository("crates/cli/tests/scripts/hostile.py");
    let mut c: Command = ferronet(&["run", "--", "sh", "-ec"]);
    c.arg(format!("ip link set lo up; exec python3 {script} {name}"));
    let r = Running::start(c);
    let mut said = Vec::new();
    for line in says.iter().chain(&["idle"]) {
        said.extend(r.lines_to(line));
    }
    let before = ticks(r.id());
    r.line_with("end");
    let spent = ticks(r.id()).saturating_sub(before);
    assert!(spent < 50, "{spent} of the second's 100 ticks");
    r.ends();
    said
}

#[test]
fn giant_vectors() {
    case("giant_vectors", &["Cannot allocate memory", "Invalid argument"]);
}

#[test]
fn tun_shutdown() {
    case("tun_shutdown", &["Socket operation on non-socket"]);
}

#[test]
fn write_on_listener() {
    case("write_on_listener", &["b'hello'"]);
}

#[test]
fn absurd_sizes() {
    case("absurd_sizes", &["lives"]);
}

#[test]
fn many_sockets() {
    case("many_sockets", &["below 512: 0", "True"]);
}

#[test]
fn ring_with_full_table() {
    case("ring_with_full_table", &["at once: True"]);
}

#[test]
fn files_that_wait() {
    case(
        "files_that_wait",
        &["chroot: No such file or directory", "\"answers\":true", "refused: True", "answers"],
    );
}

#[test]
fn numbers_without_addresses() {
    let full = "Too many open files";
    let says = [
        &format!("dup2: {full}"),
        "raw: True",
        "splice: Invalid argument",
        "received: True",
        &format!("socket: {full}"),
    ];
    case("numbers_without_addresses", &says);
}

#[test]
fn links_in_the_tree() {
    case("links_in_the_tree", &["refused: True", "written: []"]);
}

#[test]
fn families() {
    let said = case("families", &["vsock: Address family not supported by protocol"]);
    assert!(!said.iter().any(|l| l.contains("opened") || l.contains("socket ")), "{said:?}");
}

/// A session that stands still does not keep others from starting, however often; `ps` names it, and who wants it is told.
#[test]
fn a_stopped_session() {
    if need::program("a_stopped_session", "sh").is_none() || !can_run("a_stopped_session") {
        return;
    }
    let dir = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stopped");
    std::fs::create_dir_all(&dir).expect("a directory");
    let with = |args: &[&str]| {
        let mut c = ferronet(args);
        c.env("XDG_RUNTIME_DIR", &dir);
        c
    };
    let r = Running::start(with(&["run", "--name", "stopped", "--", "sh", "-c", "echo runs; exec sleep 60"]));
    r.line_with("runs");
    let signal = |name: &str| {
        let done = Command::new("kill").args([name, &r.id().to_string()]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill {name}");
    };
    signal("-STOP");
    // More than the queue of its control socket holds.
    for _ in 0..20 {
        let e = run(with(&["run", "--", "true"]));
        assert_eq!((e.code, e.err.as_str()), (0, ""));
    }
    let e = run(with(&["ps"]));
    assert!(
        e.out.lines().any(|l| l.trim_start().starts_with("stopped ") && l.contains("does not answer")),
        "{e:?}"
    );
    for args in [
        &["drops", "--name", "stopped"][..],
        &["exec", "stopped", "--", "true"],
        &["trace", "--name", "stopped"],
    ] {
        let e = run(with(args));
        assert!(e.code != 0 && e.err.contains("does not answer"), "{args:?}: {e:?}");
    }
    signal("-CONT");
    let e = run(with(&["ps", "--json"]));
    assert!(e.out.contains("\"answers\":true"), "{e:?}");
}

#[test]
fn killed_waiters() {
    case("killed_waiters", &["b'x'"]);
}
