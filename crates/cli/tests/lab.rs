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

#[test]
fn the_web_example_downloads_through_the_router() {
    if !can_run("the_web_example_downloads_through_the_router") {
        return;
    }
    let e = run(ferronet(&["up", "--json", &repository("examples/web.toml")]));
    assert_eq!(e.code, 0, "{e:?}");
    assert!(e.err.contains("200 OK: 16777216 bytes"), "{}", e.err);
    let report: Value = serde_json::from_str(&e.out).unwrap();
    let talk = report["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["service"] == "tcp 80")
        .expect("http")
        .clone();
    assert_eq!((&talk["from"], &talk["to"]), (&"client".into(), &"server".into()));
    assert!(talk["answered"]["bytes"].as_u64().unwrap() > 20 << 20, "{talk}");
    let forwarded = |ns: &str| {
        let links = report["links"].as_array().unwrap();
        links.iter().filter(|l| l["namespace"] == ns).map(|l| l["tx_bytes"].as_u64().unwrap()).sum::<u64>()
    };
    assert!(forwarded("router") > 20 << 20, "{report}");
}

/// A lossy link loses what it should, and says so.
#[test]
fn losses_are_counted_by_reason() {
    if !can_run("losses_are_counted_by_reason") {
        return;
    }
    let text = r#"
seed = 1
timeout = "50s"
[[namespace]]
name = "a"
addresses = { eth0 = "10.0.0.1/24" }
[[namespace]]
name = "b"
addresses = { eth0 = "10.0.0.2/24" }
[[link]]
ends = ["a:eth0", "b:eth0"]
delay = "1ms"
loss = "5%"
[[program]]
name = "serve"
ns = "a"
cmd = "ferronet tool serve --port 80"
ready = "tcp:80"
stop_at_end = true
[[program]]
name = "fetch"
ns = "b"
cmd = "ferronet tool fetch http://10.0.0.1/2MiB"
after = "serve"
"#;
    let file = lab("loss", text);
    let e = run(ferronet(&["up", "--json", file.to_str().unwrap()]));
    assert_eq!(e.code, 0, "{e:?}");
    let report: Value = serde_json::from_str(&e.out).unwrap();
    let lost = |ns: &str| {
        let drops = report["drops"].as_array().unwrap();
        drops
            .iter()
            .filter(|d| d["namespace"] == ns && d["reason"] == "LinkLoss")
            .map(|d| d["packets"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(lost("a") > 20, "{report}");
    let sent_again = report["tcp_retransmitted_segments"]["a"].as_u64().unwrap();
    assert!(sent_again >= lost("a") / 2, "{report}");
}
