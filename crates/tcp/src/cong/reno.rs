//! Reno (RFC 5681 §3.1).

use super::{AckEvent, Cwnd};

/// Half the window, at least 2 (RFC 5681 equation 4, with the window for the flight as Linux does).
pub(super) fn ssthresh(cwnd: u32) -> u32 {
    (cwnd >> 1).max(2)
}

pub(super) fn on_ack(w: &mut Cwnd, a: &AckEvent) {
    if !a.cwnd_limited {
        return;
    }
    let mut acked = a.acked;
    if w.in_slow_start() {
        acked = w.slow_start(acked);
        if acked == 0 {
            return;
        }
    }
    let cwnd = w.cwnd;
    w.cong_avoid_ai(cwnd, acked);
}
