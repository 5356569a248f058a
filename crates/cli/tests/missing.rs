//! Where the kernel, or a container around us, lacks what programs need to be put on a stack, the command says what is
//! missing and what to do about it: one sentence and its own exit status.

mod common;

use common::user::User;
use common::{Ended, can_run, lab, run};
use std::process::{Command, Stdio};

/// `ferronet ARGS` behind a filter that answers as if something were missing (see `helpers/without.py`).
fn without(what: &str, args: &[&str]) -> Ended {
    let script = format!("{}/tests/helpers/without.py", env!("CARGO_MANIFEST_DIR"));
    let mut c = Command::new("python3");
    c.args([&script, what, env!("CARGO_BIN_EXE_ferronet")]).args(args).stdin(Stdio::null());
    run(c)
}

/// One sentence with these words, and status 125: neither the program's nor a shell's "not found".
fn says(e: &Ended, words: &[&str]) {
    assert_eq!((e.code, e.out.as_str()), (125, ""), "{}", e.err);
    assert_eq!(e.err.lines().count(), 1, "{}", e.err);
    for w in words {
        assert!(e.err.contains(w), "`{w}`: {}", e.err);
    }
}

const NOTIFY: &[&str] =
    &["ferronet: seccomp user notification is missing (", "Linux 5.14", "actions_avail", "seccomp profile"];
const USERNS: &[&str] = &[
    "ferronet: user namespaces are missing or forbidden here (",
    "sysctl user.max_user_namespaces=",
    "seccomp profile",
];

/// Without seccomp, without the action, and where a listener is refused although the kernel knows it.
#[test]
fn user_notification() {
    let test = "user_notification";
    if ferronet_sim::need::program(test, "python3").is_none() || !can_run(test) {
        return;
    }
    for what in ["seccomp", "user-notify", "listener", "listener-permission"] {
        says(&without(what, &["run", "--", "echo", "started"]), NOTIFY);
    }
    says(&without("user-notify", &["shell"]), NOTIFY);
    let file = lab(
        "missing",
        "[[namespace]]\nname = \"a\"\n[[program]]\nname = \"x\"\nns = \"a\"\ncmd = \"true\"\n",
    );
    let e = without("user-notify", &["up", file.to_str().expect("a path in UTF-8")]);
    assert!(e.code == 1 && e.err.contains(NOTIFY[0]), "{e:?}");
}

/// Refused as a container's filter refuses them.
#[test]
fn user_namespaces_by_a_filter() {
    let test = "user_namespaces_by_a_filter";
    if ferronet_sim::need::program(test, "python3").is_none() || !can_run(test) {
        return;
    }
    says(&without("user-namespaces", &["run", "--", "echo", "started"]), USERNS);
    says(&without("user-namespaces", &["shell"]), USERNS);
}

/// None allowed by the sysctl, for root and for an ordinary user. A user namespace around us has limits of its own, so
/// the machine's setting stays as it is.
#[test]
fn user_namespaces_by_the_sysctl() {
    let test = "user_namespaces_by_the_sysctl";
    if ferronet_sim::need::program(test, "unshare").is_none() || !can_run(test) {
        return;
    }
    let none = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" run -- echo started";
    let mut c = Command::new("unshare");
    c.args(["-Ur", "sh", "-c", none, env!("CARGO_BIN_EXE_ferronet")]).stdin(Stdio::null());
    says(&run(c), USERNS);
    let Some(user) = User::new(test, false) else { return };
    let mut c = user.command();
    c.args(["unshare", "-Ur", "sh", "-c", none]).arg(user.ferronet());
    says(&run(c), USERNS);
}
