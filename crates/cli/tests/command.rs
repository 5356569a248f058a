//! The command line as a user meets it.

mod common;

use common::{Running, can_run, ferronet, run};
use serde_json::Value;

#[test]
fn without_arguments_the_help_is_shown() {
    let e = run(ferronet(&[]));
    assert!(e.err.contains("Usage: ferronet") && e.err.contains("ferronet shell"), "{e:?}");
    for command in ["shell", "run", "up", "ps", "exec", "trace", "drops", "sysctl"] {
        let e = run(ferronet(&[command, "--help"]));
        assert!(e.code == 0 && e.out.contains("Examples:"), "{command}");
    }
}

#[test]
fn wrong_input_gives_one_sentence() {
    for (args, want) in [
        (&["trace", "tpc"][..], "`tpc` is not a word of filters; did you mean `tcp`?"),
        (&["exec", "no-such-stack", "--", "ls"], "there is no running stack `no-such-stack`"),
        (&["sysctl", "--explain", "tcp_banana"], "no setting has `tcp_banana` in its name"),
        (&["tool", "fetch", "https://x/"], "`https` is not spoken here; use http://"),
        (&["tool", "ping", "300.1.1.1"], "300.1.1.1"),
    ] {
        let e = run(ferronet(args));
        assert_eq!(e.code, 1, "{args:?}: {e:?}");
        assert!(e.err.contains(want), "{args:?}: {}", e.err);
        assert_eq!(e.err.lines().count(), 1, "{args:?}: {}", e.err);
    }
}

#[test]
fn settings_and_drop_reasons_are_explained() {
    let e = run(ferronet(&["sysctl", "--explain", "tcp_rmem", "--json"]));
    let list: Value = serde_json::from_str(&e.out).unwrap();
    assert_eq!(list[0]["name"], "net.ipv4.tcp_rmem");
    assert!(list[0]["default"].as_str().unwrap().starts_with("4096 131072 "), "{list}");
    let e = run(ferronet(&["drops", "--explain"]));
    assert!(
        e.out.lines().any(|l| l.contains("SocketRcvbuff") && l.contains("net.core.rmem_max")),
        "{}",
        e.out
    );
}

#[test]
fn the_exit_status_is_passed_on() {
    if !can_run("the_exit_status_is_passed_on") {
        return;
    }
    for (argv, want) in
        [(&["sh", "-c", "exit 7"][..], 7), (&["sh", "-c", "kill -9 $$"], 137), (&["/no/such/program"], 127)]
    {
        let mut args = vec!["run", "--"];
        args.extend(argv);
        assert_eq!(run(ferronet(&args)).code, want, "{argv:?}");
    }
}

#[test]
fn a_running_stack_can_be_listed_and_joined() {
    if !can_run("a_running_stack_can_be_listed_and_joined") {
        return;
    }
    let name = format!("t{}", std::process::id());
    let stack = Running::start(ferronet(&[
        "run",
        "--name",
        &name,
        "--",
        "sh",
        "-c",
        "echo up; exec cat /dev/zero > /dev/null",
    ]));
    stack.line_with("up");
    let e = run(ferronet(&["ps", "--json"]));
    let list: Value = serde_json::from_str(&e.out).unwrap();
    let mine = list.as_array().unwrap().iter().find(|s| s["name"] == name.as_str()).expect("listed").clone();
    assert_eq!(mine["namespaces"][0], "main");
    let e = run(ferronet(&["exec", &name, "--", "sh", "-c", "echo joined; exit 3"]));
    assert_eq!((e.code, e.out.as_str()), (3, "joined\n"), "{e:?}");
    let pid = mine["pid"].to_string();
    assert_eq!(run(ferronet(&["exec", &pid, "--", "true"])).code, 0);
    let e = run(ferronet(&["exec", &name, "--ns", "nowhere", "--", "true"]));
    assert!(e.code == 1 && e.err.contains("has no namespace `nowhere`"), "{e:?}");
    let e = run(ferronet(&["drops", "--name", &name, "--json"]));
    assert!(serde_json::from_str::<Value>(&e.out).is_ok_and(|v| v.is_array()), "{e:?}");
}

#[test]
fn fetch_gets_what_serve_sends() {
    let server = Running::start(ferronet(&["tool", "serve", "--port", "0", "--bind", "127.0.0.1"]));
    let at = server.line_with("serving on ");
    let base = at.trim_start_matches("serving on ").trim_end_matches('/').to_owned();
    let e = run(ferronet(&["tool", "fetch", &format!("{base}/1MiB"), "--sha256", "--json"]));
    let one: Value = serde_json::from_str(&e.out).unwrap();
    assert_eq!(one["bytes"], 1 << 20);
    let e = run(ferronet(&[
        "tool",
        "fetch",
        &format!("{base}/1MiB"),
        "--sha256",
        "--json",
        "--count",
        "20",
        "--parallel",
        "4",
    ]));
    let many: Value = serde_json::from_str(&e.out).unwrap();
    assert_eq!(
        (&many["requests"], &many["bytes"], &many["sha256"]),
        (&20.into(), &(20 << 20).into(), &one["sha256"])
    );
    let e = run(ferronet(&["tool", "fetch", &format!("{base}/nothing")]));
    assert!(e.code == 1 && e.out.starts_with("404 "), "{e:?}");
}
