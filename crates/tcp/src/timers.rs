//! Timers: an array of deadlines. One retransmission timer serves as RTO, loss probe, reordering and window
//! probe timer, as in Linux; these never run together.

use core::time::Duration;

use ferronet_core::time::Instant;
use ferronet_core::{Errno, Mib};
use ferronet_wire::tcp::TcpFlags;

use crate::recovery::CaState;
use crate::rtt::TIMEOUT_INIT;
use crate::segment::Cx;
use crate::state::{Events, State, Tcb, wire};

/// Least delay of an ACK (`TCP_ATO_MIN`, `TCP_DELACK_MIN`), and the most (`TCP_DELACK_MAX`).
pub(crate) const ATO_MIN: Duration = Duration::from_millis(40);
pub(crate) const DELACK_MAX: Duration = Duration::from_millis(200);
/// How long TIME_WAIT lasts (`TCP_TIMEWAIT_LEN`).
pub const TIMEWAIT_LEN: Duration = Duration::from_secs(60);
/// Wait before a probe when buffers are short (`TCP_RESOURCE_PROBE_INTERVAL`).
const RESOURCE_PROBE: Duration = Duration::from_millis(500);
/// Allowance of the probe and reordering timers for the peer and the machine (`TCP_TIMEOUT_MIN_US`).
pub(crate) const TIMEOUT_MIN: Duration = Duration::from_millis(2);
/// One tick of Linux at its usual 250 Hz.
const TICK: Duration = Duration::from_millis(4);

/// When a timer for `wait` fires in Linux: it counts whole ticks, rounded up, and starts within one; so on average
/// half a tick later. With the exact time a reader that is a few milliseconds late would look like a lost tail.
pub(crate) fn in_ticks(wait: Duration) -> Duration {
    let tick = TICK.as_micros() as u64;
    Duration::from_micros((wait.as_micros() as u64).div_ceil(tick) * tick) + TICK / 2
}

/// What the retransmission timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Rtx {
    #[default]
    None,
    Retrans,
    LossProbe,
    Reo,
    Probe0,
}

/// The deadlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    pub(crate) rtx: Rtx,
    pub(crate) rtx_at: Instant,
    pub(crate) delack_at: Instant,
    pub(crate) keep_at: Instant,
    pub(crate) fin_at: Instant,
}

impl Default for Timers {
    fn default() -> Self {
        let n = Instant::NEVER;
        Timers { rtx: Rtx::None, rtx_at: n, delack_at: n, keep_at: n, fin_at: n }
    }
}

impl Timers {
    pub(crate) fn set_rtx(&mut self, kind: Rtx, at: Instant) {
        self.rtx = kind;
        self.rtx_at = at;
    }
    pub(crate) fn clear_rtx(&mut self) {
        self.rtx = Rtx::None;
        self.rtx_at = Instant::NEVER;
    }
    pub(crate) fn rtx_pending(&self) -> bool {
        self.rtx != Rtx::None
    }
    fn next(&self) -> Instant {
        self.rtx_at.min(self.delack_at).min(self.keep_at).min(self.fin_at)
    }
}

/// After how long without an answer `boundary` retransmissions have been made, doubling from `base`.
fn model_timeout(rto_max: Duration, boundary: u8, base: Duration) -> Duration {
    let base_ms = (base.as_millis() as u64).max(1);
    let max = (rto_max.as_millis() as u64).max(base_ms);
    let thresh = (max / base_ms).max(1).ilog2();
    let b = u32::from(boundary);
    let ms = if b <= thresh {
        ((2u64 << b) - 1) * base_ms
    } else {
        ((2u64 << thresh) - 1) * base_ms + u64::from(b - thresh) * max
    };
    Duration::from_millis(ms)
}

impl Tcb {
    /// When [`Tcb::on_timeout`] wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let t = self.timers.next();
        (t != Instant::NEVER).then_some(t)
    }

    /// Runs what is due. Then call [`Tcb::poll_transmit`].
    pub fn on_timeout(&mut self, cx: &mut Cx<'_>) {
        if self.timers.delack_at <= cx.now {
            self.delack_timer(cx);
        }
        if self.timers.rtx_at <= cx.now {
            let kind = self.timers.rtx;
            self.timers.clear_rtx();
            match kind {
                Rtx::None => {}
                Rtx::Retrans => self.retransmit_timer(cx),
                Rtx::LossProbe => self.loss_probe_timer(cx),
                Rtx::Reo => self.rack_reo_timeout(cx),
                Rtx::Probe0 => self.probe_timer(cx),
            }
        }
        if self.timers.keep_at <= cx.now {
            self.keepalive_timer(cx);
        }
        if self.timers.fin_at <= cx.now {
            self.timers.fin_at = Instant::NEVER;
            if self.state == State::FinWait2 && self.orphan {
                self.done(cx, None);
            }
        }
    }

    /// RFC 8985 §7.3: "at most one outstanding probe". A second one was only planned; the timeout then counts from the
    /// transmission of the head (tcp_send_loss_probe, 6.18).
    fn loss_probe_timer(&mut self, cx: &mut Cx<'_>) {
        if self.rec.tlp_high_seq == 0 {
            self.owed.tlp = true;
            self.reset_rto(cx);
        } else {
            self.timers.rtx = Rtx::LossProbe;
            self.rearm_rto(cx);
        }
    }

    fn delack_timer(&mut self, cx: &mut Cx<'_>) {
        self.timers.delack_at = Instant::NEVER;
        if !self.ack.sched {
            return;
        }
        let rto = self.rtt.rto.as_micros() as u32;
        if self.ack.pingpong >= cx.cfg.pingpong_thresh {
            // Delayed ACK missed its chance to ride on data: not interactive after all.
            self.ack.pingpong = 0;
            self.ack.ato_us = ATO_MIN.as_micros() as u32;
        } else {
            self.ack.ato_us = (self.ack.ato_us << 1).min(rto.max(1));
        }
        self.ack.now = true;
        cx.inc(Mib::TcpExtDelayedACKs);
    }

    /// Starts the retransmission timer with the full timeout.
    pub(crate) fn reset_rto(&mut self, cx: &Cx<'_>) {
        self.timers.set_rtx(Rtx::Retrans, cx.now + self.rtt.rto.min(self.rto_max(cx)));
    }

    /// What is left of `TCP_USER_TIMEOUT` since `since`, at least a tick; `wait` when that is less
    /// (`tcp_clamp_rto_to_user_timeout`, `tcp_clamp_probe0_to_user_timeout`).
    fn within_user_timeout(&self, cx: &Cx<'_>, since: Option<Instant>, wait: Duration) -> Duration {
        let (Some(limit), Some(since)) = (self.user_timeout(), since) else { return wait };
        wait.min(limit.saturating_sub(cx.now - since).max(TICK))
    }

    fn reset_rto_within_user_timeout(&mut self, cx: &Cx<'_>) {
        let rto = self.rtt.rto.min(self.rto_max(cx));
        let wait = self.within_user_timeout(cx, self.rec.first_timeout, rto);
        self.timers.set_rtx(Rtx::Retrans, cx.now + wait);
    }

    /// RFC 6298 §5.1–5.3: runs while something is in flight, counted from the head's transmission when the timer
    /// had been used for a probe or for reordering.
    pub(crate) fn rearm_rto(&mut self, cx: &Cx<'_>) {
        let Some(head) = self.txq.front() else {
            if self.timers.rtx != Rtx::Probe0 {
                self.timers.clear_rtx();
            }
            return;
        };
        let mut at = cx.now + self.rtt.rto;
        if matches!(self.timers.rtx, Rtx::LossProbe | Rtx::Reo) {
            at = (head.tx + self.rtt.rto).max(cx.now + Duration::from_millis(1));
        }
        self.timers.set_rtx(Rtx::Retrans, at);
    }

    /// After an ACK that took something off the queue (`tcp_set_xmit_timer`).
    pub(crate) fn set_xmit_timer(&mut self, cx: &Cx<'_>) {
        if self.timers.rtx == Rtx::Reo && !self.txq.is_empty() {
            return;
        }
        if !self.schedule_loss_probe(cx, true) {
            self.rearm_rto(cx);
        }
    }

    pub(crate) fn set_xmit_timer_after_send(&mut self, cx: &Cx<'_>, first: bool) {
        // The SYN-ACK of a Fast Open connection has the timer (tcp_rearm_rto).
        if self.is_fastopen() {
            return;
        }
        if first || matches!(self.timers.rtx, Rtx::LossProbe | Rtx::None | Rtx::Probe0) {
            self.rearm_rto(cx);
        }
        self.schedule_loss_probe(cx, false);
    }

    /// RFC 8985 §7.2: two round trips after the last transmission, if that is before the RTO.
    fn schedule_loss_probe(&mut self, cx: &Cx<'_>, advancing: bool) -> bool {
        if !matches!(cx.cfg.early_retrans, 3 | 4) || !self.sack_on || self.txq.is_empty() {
            return false;
        }
        match self.rec.state {
            CaState::Open | CaState::Cwr => {}
            CaState::Disorder | CaState::Recovery | CaState::Loss => return false,
        }
        let mut wait = if self.rtt.has_sample() {
            let two = Duration::from_micros(2 * u64::from(self.rtt.srtt_us()));
            // One segment alone: the peer may delay its ACK.
            in_ticks(two + if self.txq.packets == 1 { cx.cfg.rto_min } else { TIMEOUT_MIN })
        } else {
            TIMEOUT_INIT
        };
        let rto = if advancing || self.timers.rtx != Rtx::Retrans {
            self.rtt.rto
        } else {
            self.timers.rtx_at - cx.now
        };
        if rto > Duration::ZERO {
            wait = wait.min(rto);
        }
        self.timers.set_rtx(Rtx::LossProbe, cx.now + wait);
        true
    }

    /// RFC 9293 §3.8.6.1: probes of a closed window, at growing intervals, for as long as they are answered.
    pub(crate) fn arm_probe0(&mut self, cx: &Cx<'_>) {
        let base = self.rtt.rto.max(cx.cfg.rto_min);
        let shift = u32::from(self.rtt.backoff.min(20));
        let base =
            if self.rtt.backoff > 0 { self.rtt.base(self.rto_max(cx)).max(cx.cfg.rto_min) } else { base };
        let when = base.saturating_mul(1 << shift).min(self.rto_max(cx));
        self.timers.set_rtx(Rtx::Probe0, cx.now + when);
    }

    fn probe_timer(&mut self, cx: &mut Cx<'_>) {
        if !self.txq.is_empty() || !self.has_unsent() {
            self.rec.probes_out = 0;
            return;
        }
        if self.rec.probes_out == 0 {
            self.rec.first_timeout = Some(cx.now);
        }
        let waited = self.rec.first_timeout.map_or(Duration::ZERO, |t| cx.now - t);
        if self.rec.probes_out > 0 && self.user_timeout().is_some_and(|t| waited >= t) {
            return self.write_err(cx);
        }
        let mut max = cx.cfg.retries2;
        if self.orphan {
            max = self.orphan_retries(cx, self.rtt.rto < self.rto_max(cx));
            if self.rec.probes_out >= max {
                return self.write_err(cx);
            }
        }
        if self.rec.probes_out >= max {
            return self.write_err(cx);
        }
        self.owed.probe0 = true;
        self.rec.probes_out = self.rec.probes_out.saturating_add(1);
        if self.rtt.backoff < cx.cfg.retries2 {
            self.rtt.backoff += 1;
        }
        self.arm_probe0(cx);
        let at = self.timers.rtx_at.max(cx.now + RESOURCE_PROBE.min(cx.cfg.rto_min));
        self.timers.rtx_at = cx.now + self.within_user_timeout(cx, self.rec.first_timeout, at - cx.now);
    }

    fn orphan_retries(&self, cx: &Cx<'_>, alive: bool) -> u8 {
        let n = cx.cfg.orphan_retries;
        // As tcp_orphan_retries (6.18): with an error from the network and a long timeout there is no hope.
        if self.soft_error.is_some() && !alive {
            0
        } else if n == 0 && alive {
            8
        } else {
            n
        }
    }

    /// The connection is given up.
    pub(crate) fn write_err(&mut self, cx: &mut Cx<'_>) {
        let e = self.soft_error.take().unwrap_or(Errno::ETIMEDOUT);
        self.done(cx, Some(e));
        cx.inc(Mib::TcpExtTCPAbortOnTimeout);
    }

    /// Whether the retransmissions have lasted too long (`tcp_write_timeout`).
    fn write_timeout(&mut self, cx: &mut Cx<'_>) -> bool {
        let r = self.rec.retransmits;
        let waited = self.rec.first_timeout.map_or(Duration::ZERO, |t| cx.now - t);
        let expired = if matches!(self.state, State::SynSent | State::SynRecv) {
            let n = match self.opts.syn_retries {
                // tcp_fastopen_synack_timer: one more, the peer may be waiting for an answer to its data.
                0 if self.is_fastopen() => cx.cfg.synack_retries.saturating_add(1),
                0 => cx.cfg.syn_retries,
                n => n,
            };
            // The first ones are not spaced out, and do not count (tcp_syn_linear_timeouts); but the attempt lasts no
            // longer than `n` doublings of one second (retransmits_timed_out).
            let linear = if self.state == State::SynSent { cx.cfg.syn_linear_timeouts } else { 0 };
            let limit = self
                .user_timeout()
                .or_else(|| (!self.is_fastopen()).then(|| model_timeout(self.rto_max(cx), n, TIMEOUT_INIT)));
            r >= n.saturating_add(linear) || (r > 0 && limit.is_some_and(|t| waited >= t))
        } else {
            let mut n = cx.cfg.retries2;
            if self.orphan {
                n = self.orphan_retries(cx, self.rtt.rto < self.rto_max(cx));
            }
            let limit =
                self.user_timeout().unwrap_or_else(|| model_timeout(self.rto_max(cx), n, cx.cfg.rto_min));
            // A peer that closed its window over data in flight but still answers is alive; Linux gives it up
            // after two of the longest timeouts without an answer (tcp_rtx_probe0_timed_out).
            let closed = self.snd.wnd == 0 && !self.orphan;
            r > 0 && waited >= limit && !(closed && cx.now - self.stats.last_ack_rx < 2 * self.rto_max(cx))
        };
        if expired {
            self.write_err(cx);
        }
        expired
    }

    /// The RTO has passed (RFC 6298 §5.4–5.7).
    fn retransmit_timer(&mut self, cx: &mut Cx<'_>) {
        let syn = matches!(self.state, State::SynSent | State::SynRecv);
        if !syn && self.txq.is_empty() {
            return;
        }
        // An attempt to connect counts from its first SYN, other data from its first retransmission.
        if self.rec.retransmits == 0 && !syn {
            self.rec.first_timeout = Some(cx.now);
        }
        cx.inc(Mib::TcpExtTCPTimeouts);
        if self.write_timeout(cx) {
            return;
        }
        // Another way through the network, where there are several: IPv6's flow label changes (sk_rethink_txhash).
        if !self.is_fastopen() {
            cx.inc(Mib::TcpExtTcpTimeoutRehash);
        }
        if syn {
            if self.rec.retransmits > 0 {
                cx.inc(Mib::TcpExtTCPLostRetransmit);
            }
            self.owed.syn = true;
            if self.state == State::SynRecv || self.rec.retransmits >= cx.cfg.syn_linear_timeouts {
                self.rtt.back_off(self.rto_max(cx));
            }
            self.rec.retransmits = self.rec.retransmits.saturating_add(1);
            self.reset_rto_within_user_timeout(cx);
            return;
        }
        if self.rec.retransmits == 0 {
            self.count_failure(cx);
        }
        self.enter_loss(cx);
        self.owed.rto_head = true;
        self.rec.retransmits = self.rec.retransmits.saturating_add(1);
        self.rtt.back_off(self.rto_max(cx));
        self.reset_rto_within_user_timeout(cx);
    }

    fn count_failure(&self, cx: &mut Cx<'_>) {
        let sack = self.sack_on;
        match self.rec.state {
            CaState::Recovery => {
                cx.inc(if sack { Mib::TcpExtTCPSackRecoveryFail } else { Mib::TcpExtTCPRenoRecoveryFail });
            }
            CaState::Loss => cx.inc(Mib::TcpExtTCPLossFailures),
            CaState::Open | CaState::Disorder | CaState::Cwr => {
                if self.rec.state == CaState::Disorder || self.rec.sacked_out > 0 {
                    cx.inc(if sack { Mib::TcpExtTCPSackFailures } else { Mib::TcpExtTCPRenoFailures });
                }
            }
        }
    }

    fn keepalive_time(&self, cx: &Cx<'_>) -> Duration {
        match self.opts.keepidle {
            0 => cx.cfg.keepalive_time,
            s => Duration::from_secs(u64::from(s)),
        }
    }

    /// Starts or stops keepalive after `SO_KEEPALIVE` or `TCP_KEEPIDLE` changed.
    pub fn update_keepalive(&mut self, cx: &Cx<'_>) {
        self.timers.keep_at = match self.state {
            State::Close | State::Listen | State::SynSent | State::TimeWait => Instant::NEVER,
            State::Established
            | State::SynRecv
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::LastAck
            | State::Closing => {
                if self.opts.keepalive {
                    let idle = self.keepalive_time(cx);
                    self.ack.last_rx.max(self.stats.last_ack_rx).max(Instant(1)) + idle
                } else {
                    Instant::NEVER
                }
            }
        };
        self.timers.keep_at = self.timers.keep_at.max(cx.now);
    }

    /// RFC 9293 §3.8.4.
    fn keepalive_timer(&mut self, cx: &mut Cx<'_>) {
        self.timers.keep_at = Instant::NEVER;
        if !self.opts.keepalive || matches!(self.state, State::Close | State::SynSent) {
            return;
        }
        let time = self.keepalive_time(cx);
        if !self.txq.is_empty() || self.has_unsent() {
            self.timers.keep_at = cx.now + time;
            return;
        }
        let elapsed = cx.now - self.ack.last_rx.max(self.stats.last_ack_rx);
        if elapsed < time {
            self.timers.keep_at = cx.now + (time - elapsed);
            return;
        }
        let probes = if self.opts.keepcnt > 0 { self.opts.keepcnt } else { cx.cfg.keepalive_probes };
        let out = self.rec.probes_out;
        let dead = match self.user_timeout() {
            Some(t) => elapsed >= t && out > 0,
            None => out >= probes,
        };
        if dead {
            let rst = (wire(self.snd.nxt), wire(self.rcv.nxt), TcpFlags::RST | TcpFlags::ACK);
            self.write_err(cx);
            self.owed.rst = Some(rst);
            self.events.add(Events::STATE);
            return;
        }
        self.owed.keepalive = true;
        self.rec.probes_out = out.saturating_add(1);
        let intvl = match self.opts.keepintvl {
            0 => cx.cfg.keepalive_intvl,
            s => Duration::from_secs(u64::from(s)),
        };
        self.timers.keep_at = cx.now + intvl;
    }
}
