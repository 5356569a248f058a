//! Which calls need which capability, beside the real kernel (`twin/caps.py`).

mod common;

use common::twin_of_root;
use ferronet_sim::need;

#[test]
fn capabilities_are_those_of_the_calling_thread() {
    let name = "capabilities_are_those_of_the_calling_thread";
    if need::program(name, "setpriv").is_none() {
        return;
    }
    let Some(out) = twin_of_root(name, "caps.py") else { return };
    // A few of the answers, so that a script that asks nothing cannot pass.
    for want in [
        "nobody bind: tcp 80=ok",
        "nobody bind: raw=EPERM",
        "root none: tcp 80=EACCES",
        "root none: netlink=EPERM",
        "nobody admin: sysctl=ok",
        "ambient: bound",
    ] {
        assert!(out.contains(&format!("{want}\n")), "{want}: {out}");
    }
}
