//! What overload and forgotten closes look like: the same script plays in a namespace of the real kernel and on a
//! stack of our own, with the real `ss` and the real counters, and the texts are equal.

mod common;

use common::twin;

/// Backlog 8, nobody accepts, 100 connects: nine wait, 91 are counted as overflows and drops.
#[test]
fn a_full_backlog() {
    let Some(out) = twin("a_full_backlog", "backlog.py") else { return };
    for want in ["connected 9\nTcpExtListenOverflows 91\nTcpExtListenDrops 91\n", "LISTEN 9      8 "] {
        assert!(out.contains(want), "{want}{out}");
    }
}

/// sent - received = drops in /proc/net/udp = UdpRcvbufErrors (the script insists), and the queue holds what the
/// kernel's holds.
#[test]
fn a_udp_flood() {
    let Some(out) = twin("a_udp_flood", "flood.py") else { return };
    assert!(out.contains("received 9 of 300 "), "{out}");
}

/// A leaked close is CLOSE-WAIT with the program's name, number and descriptor, and with what it has not read; the
/// other side waits in FIN-WAIT-2 and TIME-WAIT, whose timers start at 60 s. (That TIME-WAIT lasts these 60 s shows
/// `time_wait_lasts_sixty_seconds` in the tests of /proc, in simulated time.)
#[test]
fn a_leaked_close() {
    let Some(out) = twin("a_leaked_close", "states.py") else { return };
    let want = "$ -tanp state close-wait\nRecv-Q Send-Q Local Address:Port Peer Address:Port Process\n\
                5      0          127.0.0.1:80      127.0.0.1:40000 users:((\"python3\",pid=OURS,fd=5))\n";
    assert!(out.contains(want), "{out}");
    assert!(out.contains("timer:(timewait,60sec,0)"), "{out}");
}
