//! What datagram sockets answer: the same questions to the real kernel and to a stack of our own, and the same answers.

mod common;

use common::twin;

#[test]
fn nobody_sends_from_foreign_addresses() {
    let Some(out) = twin("nobody_sends_from_foreign_addresses", "sources.py") else { return };
    // A few of the answers, so that a script that asks nothing cannot pass.
    for want in [
        "9.9.9.9 dev 0: ENETUNREACH",
        "10.0.0.1 dev 0: 1",
        "fd99::1 dev 0: EINVAL",
        "fd00::1 dev 0: 1",
        "connected: ENETUNREACH",
        "name: ('0.0.0.0', 112)",
    ] {
        assert!(out.contains(&format!("  {want}\n")), "{want}: {out}");
    }
}

#[test]
fn source_specific_multicast_is_the_kernels() {
    let Some(out) = twin("source_specific_multicast_is_the_kernels", "ssm.py") else { return };
    for want in [
        "second: None",
        "again: EADDRNOTAVAIL",
        "reports a second one: [(5, '232.3.3.3', ['1.2.3.5'])]",
        "from 10.6.0.9: nothing",
    ] {
        assert!(out.contains(&format!("  {want}\n")), "{want}: {out}");
    }
}

#[test]
fn routes_and_sizes_of_datagrams_are_the_kernels() {
    let Some(out) = twin("routes_and_sizes_of_datagrams_are_the_kernels", "sends.py") else { return };
    for want in [
        "2 10.9.0.1 MSG_DONTROUTE: ENETUNREACH",
        "10.9.1.1 mode 1 1746 by 873: EMSGSIZE",
        "10.9.1.1 mode 1 1744 by 872: 1744",
        "e0 2 0: 64",
        "e0 2 bound: EINVAL",
        "lo 2 0: 64",
    ] {
        assert!(out.contains(&format!("  {want}\n")), "{want}: {out}");
    }
}
