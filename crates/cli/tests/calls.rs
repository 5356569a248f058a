//! What socket calls answer when they block, fail or are interrupted, and what readiness says: the same questions to the
//! real kernel and to a stack of our own, and the same answers.

mod common;

use common::twin;

#[test]
fn files_and_timeouts_answer_as_the_kernels() {
    let Some(out) = twin("files_and_timeouts_answer_as_the_kernels", "files.py") else { return };
    for want in
        ["pread b'0\\n'", "r+ 64 65", "negative SO_RCVTIMEO EAGAIN True", "recvmmsg 1 b'late' time left True"]
    {
        assert!(out.contains(want), "{want}: {out}");
    }
}

#[test]
fn calls_answer_as_the_kernels() {
    let Some(out) = twin("calls_answer_as_the_kernels", "calls.py") else { return };
    // A few of the answers, so that a script that asks nothing cannot pass.
    for want in [
        "read interrupted: EINTR",
        "read restarts: 4",
        "accept: ('EAGAIN', 'in time')",
        "SIGPIPE after shutdown: -13",
        "recv after a reset: ECONNRESET",
        "connect to nobody: ECONNREFUSED",
        "a passed listener: b'accepted'",
    ] {
        assert!(out.contains(&format!("  {want}\n")), "{want}: {out}");
    }
}
