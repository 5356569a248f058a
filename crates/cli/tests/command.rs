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

/// What a new user types wrong: the exit status and one sentence that says what is wrong and what to do.
#[test]
fn mistakes_are_named() {
    let mut cases: Vec<(&[&str], i32, &str)> = vec![
        (&["up", "/nonexistent.toml"], 1, "cannot read the lab file /nonexistent.toml: No such file"),
        (&["up", "/"], 1, "cannot read the lab file /: Is a directory"),
        (&["tool", "serve", "--dir", "/nonexistent"], 1, "cannot serve /nonexistent: it is no directory"),
        (&["tool", "fetch", "http://"], 1, "names no host; write for example"),
        (&["trace", "--name", "no-such-stack"], 1, "there is no running stack `no-such-stack`"),
        (&["drops", "--name", "no-such-stack"], 1, "there is no running stack `no-such-stack`"),
        (&["run", "--nmae", "x", "--", "true"], 1, "`--nmae` is no option of ferronet run"),
        (&["trace", "port", "http"], 1, "`http` is not a port"),
    ];
    if can_run("mistakes_are_named") {
        cases.extend([
            (
                &["run", "--", "no-such-program"][..],
                127,
                "cannot run no-such-program: No such file or directory (os error 2); is it installed",
            ),
            (&["run", "--", "/etc/passwd"], 126, "is it a program, with permission to execute it"),
            (&["run", "--name", "a b", "--", "true"], 125, "`a b` cannot name a stack"),
            (
                &["run", "--pcapng", "/nonexistent/x", "--", "true"],
                1,
                "cannot write the capture /nonexistent/x: No such file",
            ),
        ]);
    }
    for (args, code, want) in cases {
        let e = run(ferronet(args));
        assert_eq!(e.code, code, "{args:?}: {e:?}");
        assert!(e.err.contains(want) && e.err.lines().count() == 1, "{args:?}: {}", e.err);
    }
    // What the command line itself refuses names the word and the way to the help.
    for (args, want) in [
        (&["frobnicate"][..], "unrecognized subcommand 'frobnicate'"),
        (&["shel"], "'shell'"),
        (&["run"], "<CMD>..."),
        (&["exec", "web", "ls"], "Usage: ferronet exec"),
        (&["trace", "--count", "x"], "invalid value 'x' for '--count <K>'"),
        (&["tool", "serve", "--port", "99999"], "99999 is not in 0..=65535"),
        (&["ps", "extra"], "unexpected argument 'extra'"),
    ] {
        let e = run(ferronet(args));
        assert_eq!(e.code, 2, "{args:?}: {e:?}");
        assert!(e.err.contains(want) && e.err.contains("--help"), "{args:?}: {}", e.err);
    }
}

/// Ctrl-C, SIGTERM and a terminal that hangs up end a command and everything it started.
#[test]
fn signals_end_a_session() {
    let test = "signals_end_a_session";
    if ferronet_sim::need::program(test, "kill").is_none() || !can_run(test) {
        return;
    }
    for signal in ["INT", "TERM", "HUP"] {
        let name = format!("sig{}{}", std::process::id(), signal.to_lowercase());
        let stack =
            Running::start(ferronet(&["run", "--name", &name, "--", "sh", "-c", "echo up; exec sleep 1000"]));
        stack.line_with("up");
        let e = run(ferronet(&["ps", "--json"]));
        let list: Value = serde_json::from_str(&e.out).unwrap();
        let pid =
            list.as_array().unwrap().iter().find(|s| s["name"] == name.as_str()).expect("listed")["pid"]
                .to_string();
        let mut kill = std::process::Command::new("kill");
        kill.args([&format!("-{signal}"), &pid]);
        assert_eq!(run(kill).code, 0);
        // Standard output ends when its last holder is gone.
        stack.ends();
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

/// `ps`, `exec`, `drops` and `trace` typed inside a session need no name, whatever the environment and the namespace.
#[test]
fn a_session_can_be_asked_from_inside() {
    let test = "a_session_can_be_asked_from_inside";
    if ferronet_sim::need::program(test, "ping").is_none() || !can_run(test) {
        return;
    }
    let name = format!("in{}", std::process::id());
    let inside = |script: &str| run(ferronet(&["run", "--name", &name, "--", "sh", "-ec", script]));
    let e = inside("ferronet ps --json; env -i PATH=\"$PATH\" ferronet drops");
    let mut text = e.out.lines();
    let list: Value =
        serde_json::from_str(text.next().unwrap_or_default()).unwrap_or_else(|_| panic!("{e:?}"));
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!((&list[0]["name"], text.next()), (&Value::from(name.clone()), Some("nothing was dropped")));
    let e = inside(
        "ip netns add far; ip netns exec far ip link set lo up; ip link set lo up
         ferronet exec --ns far -- ip -br link show up; ip netns exec far ferronet exec -- sh -c 'exit 9' || echo $?
         ip netns exec far ping -i 0.05 127.0.0.1 > /dev/null &
         ip netns exec far ferronet trace --count 2 icmp ns far; ferronet trace --json --count 1 icmp",
    );
    assert_eq!(e.code, 0, "{e:?}");
    assert!(e.out.starts_with("lo ") && e.out.contains("\n9\n"), "{e:?}");
    let ways = e.out.matches("127.0.0.1 > 127.0.0.1 icmp echo").count();
    assert!(ways == 3 && e.out.contains(" far "), "{e:?}");
    let e = inside("ferronet drops --name other");
    assert!(e.code == 1 && e.err.contains(&format!("a program on the stack `{name}`")), "{e:?}");
    let e = inside("ferronet exec -- no-such-program");
    assert_eq!((e.code, e.err.lines().count()), (127, 1), "{e:?}");
    let e = inside("ferronet run -- true");
    assert!(e.code == 125 && e.err.contains("already supervised"), "{e:?}");
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
