//! RACK-TLP (RFC 8985): loss by time, and the window of patience for reordering.

use core::time::Duration;

use ferronet_core::time::Instant;

use crate::recovery::CaState;
use crate::sack::{EVER_RETRANS, RETRANS, TxSeg};
use crate::segment::Cx;
use crate::state::Tcb;
use crate::timers::{Rtx, TIMEOUT_MIN, in_ticks};

/// State of RACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rack {
    /// Transmission time and end of the most recently sent segment that was delivered.
    xmit_ts: Instant,
    end_seq: u64,
    pub(crate) rtt_us: u32,
    /// Something new was delivered since the last detection.
    pub(crate) advanced: bool,
    pub(crate) dsack_seen: bool,
    reo_wnd_steps: u8,
    /// Recoveries until the window of patience shrinks again.
    pub(crate) reo_wnd_persist: u8,
    last_delivered: u32,
}

impl Default for Rack {
    fn default() -> Self {
        Rack {
            xmit_ts: Instant::ZERO,
            end_seq: 0,
            rtt_us: 0,
            advanced: false,
            dsack_seen: false,
            reo_wnd_steps: 1,
            reo_wnd_persist: 0,
            last_delivered: 0,
        }
    }
}

/// `tcp_recovery` bits.
const STATIC_REO_WND: u8 = 2;
const NO_DUPTHRESH: u8 = 4;

impl Rack {
    /// RFC 8985 §6.2 step 2: notes a delivered segment.
    pub(crate) fn advance(&mut self, s: &TxSeg, now: Instant, min_rtt_us: u32) {
        let rtt = ((now - s.tx).as_micros().min(u128::from(u32::MAX)) as u32).max(1);
        // An ACK of a retransmission that is faster than the path was for the original.
        if rtt < min_rtt_us && s.is(RETRANS | EVER_RETRANS) {
            return;
        }
        self.advanced = true;
        self.rtt_us = rtt;
        if (s.tx, s.end) > (self.xmit_ts, self.end_seq) {
            self.xmit_ts = s.tx;
            self.end_seq = s.end;
        }
    }
}

impl Tcb {
    /// RFC 8985 §6.2 step 4: the reordering window.
    pub(crate) fn rack_reo_wnd(&self, cx: &Cx<'_>) -> Duration {
        if self.stats.reord_seen == 0 {
            if self.rec.state >= CaState::Recovery {
                return Duration::ZERO;
            }
            if self.rec.sacked_out >= self.rec.reordering && cx.cfg.recovery & NO_DUPTHRESH == 0 {
                return Duration::ZERO;
            }
        }
        let min = if self.rtt.min_us() == u32::MAX { 0 } else { self.rtt.min_us() };
        let wnd = (min >> 2).saturating_mul(u32::from(self.rec.rack.reo_wnd_steps));
        Duration::from_micros(u64::from(wnd.min(self.rtt.srtt_us())))
    }

    /// RFC 8985 §6.2 step 5: marks what was sent sufficiently long before something that arrived. Returns how
    /// long to wait for the rest.
    fn rack_detect_loss(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let reo = self.rack_reo_wnd(cx);
        let rack = self.rec.rack;
        let patience = Duration::from_micros(u64::from(rack.rtt_us)) + reo;
        let mut wait = None;
        let (rec, txq) = (&mut self.rec, &mut self.txq);
        txq.walk_sent(|s| {
            if (s.tx, s.end) >= (rack.xmit_ts, rack.end_seq) {
                return false;
            }
            let deadline = s.tx + patience;
            if deadline > cx.now {
                wait = Some(deadline - cx.now);
                return false;
            }
            Tcb::mark_lost(rec, cx, s);
            true
        });
        // Until the last of them is due, as tcp_rack_detect_loss (6.18): ACKs that come before look at each.
        let last = wait.and_then(|_| self.txq.youngest_before(rack.xmit_ts, rack.end_seq));
        wait.max(last.map(|tx| (tx + patience) - cx.now))
    }

    fn set_reo_timer(&mut self, cx: &Cx<'_>, wait: Duration) {
        self.timers.set_rtx(Rtx::Reo, cx.now + in_ticks(wait + TIMEOUT_MIN));
    }

    pub(crate) fn rack_mark_lost(&mut self, cx: &mut Cx<'_>) {
        if !self.rec.rack.advanced {
            return;
        }
        self.rec.rack.advanced = false;
        if let Some(wait) = self.rack_detect_loss(cx) {
            self.set_reo_timer(cx, wait);
        }
    }

    /// RFC 8985 §6.3: the reordering timer.
    pub(crate) fn rack_reo_timeout(&mut self, cx: &mut Cx<'_>) {
        let (before, lost) = (self.in_flight(), self.rec.lost);
        let wait = self.rack_detect_loss(cx);
        if before != self.in_flight() {
            if self.rec.state != CaState::Recovery {
                self.enter_recovery_by_timer(cx);
                self.cwnd_reduction(1, self.rec.lost.wrapping_sub(lost), false);
            }
            self.rec.rexmit = crate::recovery::Rexmit::Lost;
        }
        match wait {
            Some(w) => self.set_reo_timer(cx, w),
            None => {
                // The timeout counts from the transmission of the head, not from now.
                self.timers.rtx = Rtx::Reo;
                self.rearm_rto(cx);
            }
        }
    }

    /// RFC 8985 §6.2 step 4 and appendix: D-SACKs widen the window, sixteen recoveries without narrow it.
    pub(crate) fn rack_update_reo_wnd(&mut self, cx: &Cx<'_>, prior_delivered: u32) {
        let rack = &mut self.rec.rack;
        if cx.cfg.recovery & STATIC_REO_WND != 0 || prior_delivered == 0 {
            return;
        }
        if prior_delivered < rack.last_delivered {
            rack.dsack_seen = false;
        }
        if rack.dsack_seen {
            rack.reo_wnd_steps = rack.reo_wnd_steps.saturating_add(1);
            rack.dsack_seen = false;
            rack.last_delivered = self.rec.delivered;
            rack.reo_wnd_persist = 16;
        } else if rack.reo_wnd_persist == 0 {
            rack.reo_wnd_steps = 1;
        }
    }
}
