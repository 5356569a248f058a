//! When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2): every second full segment at once, others within 40 to
//! 200 ms, the first of a connection at once, in interactive sessions with the answer.

use core::time::Duration;

use ferronet_core::time::Instant;
use ferronet_wire::tcp::{TCP_MIN_MSS, TCP_MSS_DEFAULT, TcpFlags};

use crate::segment::{Cx, Segment};
use crate::state::Tcb;
use crate::timers::{ATO_MIN, DELACK_MAX};

/// Most ACKs at once at the start (`TCP_MAX_QUICKACKS`).
pub(crate) const MAX_QUICKACKS: u8 = 16;

impl Tcb {
    fn incr_quickack(&mut self, max: u8) {
        let n = self.rcv.wnd / (2 * u32::from(self.ack.rcv_mss.max(1)));
        let n = if n == 0 { 2 } else { n.min(u32::from(max)) as u8 };
        self.ack.quick = self.ack.quick.max(n);
    }

    pub(crate) fn enter_quickack(&mut self, max: u8) {
        self.incr_quickack(max);
        self.ack.pingpong = 0;
        self.ack.ato_us = ATO_MIN.as_micros() as u32;
        self.ack.sched = true;
    }

    fn in_quickack_mode(&self, cx: &Cx<'_>) -> bool {
        self.ack.quick > 0 && self.ack.pingpong < cx.cfg.pingpong_thresh
    }

    /// `TCP_QUICKACK`: on or off until the next change of mind.
    pub fn set_quickack(&mut self, cx: &mut Cx<'_>, on: bool) {
        if on {
            self.ack.pingpong = 0;
            if self.state.is_synchronized() && self.ack.sched {
                self.ack.pushed = 1;
                self.cleanup_rbuf(cx, 1);
            }
        } else {
            self.ack.pingpong = cx.cfg.pingpong_thresh;
        }
    }
    /// What `TCP_QUICKACK` reads.
    #[must_use]
    pub fn quickack(&self, cx: &Cx<'_>) -> bool {
        self.ack.pingpong < cx.cfg.pingpong_thresh
    }

    /// Data came in order (`tcp_event_data_recv`): an ACK is owed; adapt its delay to the arrival rate.
    pub(crate) fn event_data_recv(&mut self, cx: &mut Cx<'_>, seg: &Segment) {
        self.ack.sched = true;
        self.measure_rcv_mss(seg);
        self.rcv_rtt_measure(cx);
        if let (true, Some(t)) = (self.ts_on, seg.opts.timestamps) {
            self.rcv_rtt_measure_ts(cx, t.tsecr, seg.len);
        }
        let min = ATO_MIN.as_micros() as u32;
        if self.ack.ato_us == 0 {
            // Delayed ACKs would slow the sender's first rounds down.
            self.incr_quickack(MAX_QUICKACKS);
            self.ack.ato_us = min;
        } else {
            let m = (cx.now - self.ack.last_rx).as_micros().min(u128::from(u32::MAX)) as u32;
            let rto = self.rtt.rto.as_micros() as u32;
            if m <= min / 2 {
                self.ack.ato_us = (self.ack.ato_us >> 1) + min / 2;
            } else if m < self.ack.ato_us {
                self.ack.ato_us = ((self.ack.ato_us >> 1) + m).min(rto);
            } else if m > rto {
                // A long pause: the sender may be in slow start again.
                self.incr_quickack(MAX_QUICKACKS);
            }
        }
        self.ack.last_rx = cx.now;
        self.ecn_check(seg);
        if seg.len >= 128 {
            self.grow_window(seg.len);
        }
    }

    /// Guess of the sender's segment size (`tcp_measure_rcv_mss`).
    fn measure_rcv_mss(&mut self, seg: &Segment) {
        let len = if seg.gso_size > 0 { u32::from(seg.gso_size) } else { seg.len };
        let len = len.min(u32::from(u16::MAX)) as u16;
        let last = core::mem::take(&mut self.ack.last_seg_size);
        if len >= self.ack.rcv_mss {
            self.ack.rcv_mss = len.min(self.rcv.advmss);
            if u32::from(len) == seg.len && seg.has(TcpFlags::PSH) {
                self.ack.pushed = self.ack.pushed.max(1);
            }
        } else {
            if len >= TCP_MSS_DEFAULT || (len >= TCP_MIN_MSS && !seg.has(TcpFlags::PSH)) {
                self.ack.last_seg_size = len;
                if len == last {
                    self.ack.rcv_mss = len;
                    return;
                }
            }
            self.ack.pushed = (self.ack.pushed + 1).min(2);
        }
    }

    /// RFC 3168 §6.1.3: echo congestion marks until the peer has reacted.
    pub(crate) fn ecn_check(&mut self, seg: &Segment) {
        if !self.ecn.ok {
            return;
        }
        if seg.has(TcpFlags::CWR) {
            self.ecn.demand_cwr = false;
            self.ack.now = true;
        }
        if seg.ce {
            if !self.ecn.demand_cwr {
                self.enter_quickack(2);
                self.ecn.demand_cwr = true;
            }
            self.ecn.seen = true;
        }
    }

    /// Is the owed ACK due (`__tcp_ack_snd_check`)?
    pub(crate) fn ack_snd_check(&mut self, cx: &mut Cx<'_>) {
        if !self.ack.sched || self.ack.now {
            return;
        }
        let more_than_one = self.rcv.nxt - self.rcv.wup > u64::from(self.ack.rcv_mss);
        if (more_than_one && self.select_window() >= self.rcv.wnd)
            || self.in_quickack_mode(cx)
            || !self.rcv.ofo.is_empty()
        {
            self.ack.now = true;
        } else {
            self.send_delayed_ack(cx);
        }
    }

    fn send_delayed_ack(&mut self, cx: &mut Cx<'_>) {
        let mut ato = Duration::from_micros(u64::from(self.ack.ato_us));
        if ato > ATO_MIN {
            let mut max = Duration::from_millis(500);
            if self.ack.pingpong >= cx.cfg.pingpong_thresh || self.ack.pushed > 0 {
                max = DELACK_MAX;
            }
            if self.rtt.has_sample() {
                let rtt = Duration::from_micros(u64::from(self.rtt.srtt_us())).max(ATO_MIN);
                max = max.min(rtt);
            }
            ato = ato.min(max);
        }
        let at = cx.now + ato.min(DELACK_MAX);
        if self.timers.delack_at != Instant::NEVER {
            // Already late: send with what is left less than a quarter.
            if self.timers.delack_at <= cx.now + ato / 4 {
                self.ack.now = true;
                return;
            }
            if at >= self.timers.delack_at {
                return;
            }
        }
        self.timers.delack_at = at;
    }

    /// An ACK left, alone or with data (`tcp_event_ack_sent`).
    pub(crate) fn ack_sent(&mut self) {
        if self.ack.quick > 0 {
            self.ack.quick -= 1;
            if self.ack.quick == 0 {
                self.ack.ato_us = ATO_MIN.as_micros() as u32;
            }
        }
        self.ack.sched = false;
        self.ack.now = false;
        self.ack.pushed = 0;
        self.timers.delack_at = Instant::NEVER;
    }

    /// The program read `copied` bytes: is an ACK due, because it took all of a short segment or because the
    /// window can open by a worthwhile amount (`tcp_cleanup_rbuf`)?
    pub(crate) fn cleanup_rbuf(&mut self, cx: &mut Cx<'_>, copied: u32) {
        if !self.state.is_synchronized() {
            return;
        }
        let mut due = false;
        if self.ack.sched {
            let empty = self.inq() == 0;
            due = self.rcv.nxt > self.rcv.wup + u64::from(self.ack.rcv_mss)
                || (copied > 0
                    && empty
                    && (self.ack.pushed > 1
                        || (self.ack.pushed == 1 && self.ack.pingpong < cx.cfg.pingpong_thresh)));
        }
        if copied > 0 && !due && !self.rcv.shutdown {
            let now = self.receive_window();
            if 2 * u64::from(now) <= u64::from(self.rcv.clamp) {
                let new = self.select_window();
                due = new > 0 && u64::from(new) >= 2 * u64::from(now);
            }
        }
        if due {
            self.ack.now = true;
        }
    }
}
