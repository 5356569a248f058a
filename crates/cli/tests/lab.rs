//! `ferronet up` with real programs.

mod common;

use common::{can_run, ferronet, lab, repository, run};
use serde_json::Value;

const TWO: &str = r#"
timeout = "30s"
[[namespace]]
name = "a"
[[namespace]]
name = "b"
[[link]]
ends = ["a:eth0", "b:eth0"]
[[program]]
name = "server"
ns = "a"
cmd = ["sh", "-c", "echo I am ready; exec cat /dev/zero > /dev/null"]
ready = "output:ready"
stop_at_end = true
[[program]]
name = "one"
ns = "b"
cmd = ["sh", "-c", "ls /run/netns; printf 'no end of line'"]
after = "server"
[[program]]
name = "two"
ns = "b"
cmd = "LAST"
after = "one"
"#;

#[test]
fn all_examples_are_good() {
    for entry in std::fs::read_dir(repository("examples")).unwrap() {
        let file = entry.unwrap().path().display().to_string();
        let e = run(ferronet(&["up", "--check", &file]));
        assert_eq!((e.code, e.err.as_str()), (0, ""), "{file}");
    }
}

#[test]
fn a_wrong_file_is_shown_with_its_line() {
    let file = lab("wrong", &TWO.replace("after = \"one\"", "afther = \"one\""));
    let e = run(ferronet(&["up", file.to_str().unwrap()]));
    assert_eq!(e.code, 1);
    assert!(
        e.err.contains("wrong.toml:24:1: `afther` is not a setting of a [[program]]; did you mean `after`?"),
        "{}",
        e.err
    );
    let e = run(ferronet(&["up", "no-such-file.toml"]));
    assert!(e.code == 1 && e.err.contains("no-such-file.toml: No such file"), "{}", e.err);
}

#[test]
fn programs_run_in_order_and_servers_are_stopped() {
    if !can_run("programs_run_in_order_and_servers_are_stopped") {
        return;
    }
    let file = lab("order", &TWO.replace("LAST", "echo done"));
    let e = run(ferronet(&["up", file.to_str().unwrap()]));
    assert_eq!(e.code, 0, "{e:?}");
    let lines: Vec<&str> = e.out.lines().take(5).collect();
    assert_eq!(
        lines,
        ["server | I am ready", "one    | a", "one    | b", "one    | no end of line", "two    | done"]
    );
    assert!(e.out.contains("server  ok  stopped at the end"), "{}", e.out);
}

#[test]
fn a_failed_program_fails_the_lab_and_what_waits_for_it_does_not_start() {
    if !can_run("a_failed_program_fails_the_lab_and_what_waits_for_it_does_not_start") {
        return;
    }
    let text = TWO.replace("LAST", "echo never").replace("printf 'no end of line'", "exit 3");
    let file = lab("failure", &text);
    let e = run(ferronet(&["up", "--json", file.to_str().unwrap()]));
    assert_eq!(e.code, 1, "{e:?}");
    let report: Value = serde_json::from_str(&e.out).unwrap();
    let result = |i: usize| report["programs"][i]["result"].as_str().unwrap_or_default().to_owned();
    assert_eq!((result(1).as_str(), result(2).as_str()), ("exited 3", "not started: one failed"));
    assert!(!e.err.contains("never"), "{}", e.err);
}

#[test]
fn a_program_that_takes_too_long_fails() {
    if !can_run("a_program_that_takes_too_long_fails") {
        return;
    }
    let file = lab("slow", &TWO.replace("cmd = \"LAST\"", "cmd = \"sleep 600\"\ntimeout = \"200ms\""));
    let e = run(ferronet(&["up", file.to_str().unwrap()]));
    assert_eq!(e.code, 1, "{e:?}");
    assert!(e.out.contains("two     FAILED  stopped: timeout"), "{}", e.out);
}
