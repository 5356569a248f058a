//! Text against text: the same commands in namespaces of the running kernel and on a ferronet stack. The commands are
//! in `text/*.steps`, one a line; `text/play.sh` runs them in one shell. Both sides have their own `/run`, process
//! numbers and network, so that names, indexes and addresses are the same, and everything is gone at the end.

mod common;

use std::process::{Command, Stdio};

use common::{Ended, can_run, ferronet, repository, run};
use ferronet_sim::need;

/// What a step said: the command, and its output with the exit status.
type Step = (String, String);

/// Plays a file of steps on both sides and compares what each step says after `normal` took out what must differ.
fn twin(test: &str, needs: &[&str], normal: fn(&str, &str) -> String) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !release.starts_with("6.18.") {
        need::skip(test, &format!("compares with Linux 6.18, this is {}", release.trim()));
        return;
    }
    let there = needs.iter().all(|p| need::program(test, p).is_some());
    if !need::root(test) || !there || !can_run(test) {
        return;
    }
    let dir = repository("crates/cli/tests/text");
    let play = [format!("{dir}/play.sh"), format!("{dir}/{test}.steps")];
    // SIGKILL to unshare ends the whole pid namespace, so nothing outlives the test.
    let mut real = Command::new("unshare");
    real.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
    real.arg("mount -t tmpfs tmpfs /run && exec sh \"$@\"").arg("sh").args(&play);
    let mut ours = ferronet(&["run", "--", "sh"]);
    ours.args(&play);
    let [real, ours] = [real, ours].map(|mut c| {
        c.current_dir(&dir).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        steps(&run(c), normal)
    });
    let mut wrong = String::new();
    for (r, o) in real.iter().zip(&ours).filter(|(r, o)| r != o) {
        assert_eq!(r.0, o.0, "the sides are at different steps");
        wrong += &format!("\n@ {}\n--- kernel\n{}--- ferronet\n{}", r.0, r.1, o.1);
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(real.len(), ours.len(), "a side ended early");
    assert!(real.len() > 10, "the script did not run: {real:?}");
}

/// The steps of a run.
fn steps(e: &Ended, normal: fn(&str, &str) -> String) -> Vec<Step> {
    assert_eq!(e.code, 0, "{}\n{}", e.out, e.err);
    assert_eq!(e.err, "");
    let text = format!("\n{}", e.out);
    let mut all = text.split("\n@ ").skip(1).map(|s| {
        let (command, output) = s.split_once('\n').unwrap_or((s, ""));
        let output = output.lines().fold(String::new(), |all, l| all + &normal(command, l) + "\n");
        (command.to_owned(), output)
    });
    let mut list: Vec<Step> = all.by_ref().collect();
    for (command, output) in &mut list {
        if command.split_whitespace().any(|w| w == "ss") {
            *output = ss_rows(output);
        }
    }
    list
}

/// Rows of `ss`: the kernel lists by keyed hashes, so the order is free; the width of columns depends on numbers of
/// processes; lines that go on are part of their row.
fn ss_rows(output: &str) -> String {
    let mut rows: Vec<String> = Vec::new();
    for line in output.lines() {
        let goes_on = line.starts_with(['\t', ' ']);
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        match rows.last_mut().filter(|_| goes_on) {
            Some(last) => *last += &format!(" {line}"),
            None => rows.push(line),
        }
    }
    if let Some(rows) = rows.get_mut(1..) {
        rows.sort();
    }
    rows.join("\n") + "\n"
}

/// Replaces what follows each `mark` and consists of `set` by N.
fn mask(line: &str, mark: &str, set: fn(char) -> bool) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(mark) {
        out += before;
        out += mark;
        let tail = after.trim_start_matches(set);
        if tail.len() < after.len() {
            out.push('N');
        }
        rest = tail;
    }
    out + rest
}

/// Replaces the number before each `unit` by N: seconds that pass between the steps.
fn mask_before(line: &str, unit: &str) -> String {
    let mut out = String::new();
    let parts: Vec<&str> = line.split(unit).collect();
    for (i, part) in parts.iter().enumerate() {
        let cut = part.trim_end_matches(|c: char| c.is_ascii_digit());
        if i + 1 < parts.len() && cut.len() < part.len() {
            out += &format!("{cut}N{unit}");
        } else {
            out += part;
            out += if i + 1 < parts.len() { unit } else { "" };
        }
    }
    out
}

/// `ip`: seconds that are left, holders of a cached route, the time a ping took.
fn ip(_: &str, line: &str) -> String {
    let forever = line.replace("4294967295", "forever");
    let digits = |c: char| c.is_ascii_digit();
    let forever = mask(&mask(&forever, "cache users ", digits), "packet loss, time ", digits);
    ["\"valid_life_time\":", "\"preferred_life_time\":", "\"expires\":"]
        .iter()
        .fold(mask_before(&forever, "sec"), |l, m| mask(&l, m, digits))
}

/// What the files of `ip` steps need.
const IP: &[&str] = &["ip", "unshare", "sysctl", "ping"];

#[test]
fn link() {
    twin("link", IP, ip);
}

#[test]
fn addr() {
    twin("addr", IP, ip);
}

#[test]
fn route() {
    twin("route", IP, ip);
}

#[test]
fn lookup() {
    twin("lookup", IP, ip);
}

#[test]
fn route6() {
    twin("route6", IP, ip);
}

#[test]
fn rule() {
    twin("rule", IP, ip);
}

#[test]
fn stats() {
    twin("stats", IP, ip);
}

/// `ss`: process and descriptor numbers, inodes and cookies, what was measured, and memory that is counted otherwise.
/// Control groups are the host's; its kernel counts TCP sockets of all namespaces together.
fn ss(command: &str, line: &str) -> String {
    let number = |c: char| c.is_ascii_digit() || c == '.' || c == '/';
    let hex = |c: char| c.is_ascii_hexdigit();
    let mut l = ip(command, line).replace(" cgroup:/", "");
    for mark in
        ["pid=", "fd=", "ino:", "rto:", "rtt:", "rcv_ssthresh:", "snd_wnd:", "keepalive,", "timewait,", "on,"]
    {
        l = mask(&l, mark, number);
    }
    for mark in
        ["lastsnd:", "lastrcv:", "lastack:", "send ", "pacing_rate ", "delivery_rate ", "(r", ",f", ",t"]
    {
        l = mask(&l, mark, number);
    }
    for unit in ["ms,0)", "sec,0)", "min,0)"] {
        l = l.replace(&format!("N{unit}"), "N,0)");
    }
    // ss leaves out a time of 0 ms.
    for zero in [" rcv_rtt:N", " lastsnd:N", " lastrcv:N", " lastack:N"] {
        l = l.replace(zero, "");
    }
    l = mask(&l, "sk:", hex);
    if l.starts_with("Total: ") || l.starts_with("TCP:   ") {
        l = ["Total: ", "TCP:   ", "closed ", "orphaned "].iter().fold(l, |l, m| mask(&l, m, number));
    }
    l
}

#[test]
fn sockets() {
    twin("ss", &["ip", "ss", "unshare", "python3", "mkfifo"], ss);
}

#[test]
fn neigh() {
    twin("neigh", IP, ip);
}

#[test]
fn tables() {
    // Times are drawn; who holds the parameters is the kernel's affair.
    twin("tables", IP, |_, line| {
        ["refcnt ", " reachable ", "\"refcnt\":", "\"reachable\":"]
            .iter()
            .fold(line.to_owned(), |l, m| mask(&l, m, |c| c.is_ascii_digit()))
    });
}

#[test]
fn monitor() {
    twin("monitor", IP, ip);
}

#[test]
fn masks_take_out_only_what_they_name() {
    assert_eq!(mask("a pid=17,fd=3 pid=x", "pid=", |c| c.is_ascii_digit()), "a pid=N,fd=3 pid=x");
    assert_eq!(
        mask_before("valid_lft 99sec preferred_lft forever", "sec"),
        "valid_lft Nsec preferred_lft forever"
    );
    assert_eq!(ss_rows("head  x\nb 1\n\tmore\na 2\n"), "head x\na 2\nb 1 more\n");
}
