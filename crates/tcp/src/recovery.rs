//! Loss recovery: the states Open, Disorder, CWR, Recovery and Loss; proportional rate reduction (RFC 6937),
//! undo of spurious recoveries (RFC 3522 by timestamps, RFC 3708 by D-SACK), F-RTO (RFC 5682).

use core::time::Duration;

use ferronet_core::Mib;

use crate::cong::INFINITE_SSTHRESH;
use crate::rcv::ack::{AckRound, DATA_SACKED, ORIG_SACK_ACKED, SACK_RENEGING, SET_TIMER, SND_UNA_ADVANCED};
use crate::sack::{EVER_RETRANS, LOST, RETRANS, SACKED, TxSeg};
use crate::segment::Cx;
use crate::state::Tcb;
use crate::timers::Rtx;

/// Congestion avoidance state (`enum tcp_ca_state`, `tcpi_ca_state`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum CaState {
    /// Nothing suspicious.
    #[default]
    Open = 0,
    /// Duplicate ACKs or SACK blocks, no loss yet.
    Disorder = 1,
    /// The window is being reduced because of ECN or a local event.
    Cwr = 2,
    /// Fast recovery.
    Recovery = 3,
    /// After a timeout.
    Loss = 4,
}

/// What an ACK lets us send besides new data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Rexmit {
    #[default]
    None,
    /// Lost segments.
    Lost,
    /// New data first (F-RTO), lost segments only when there is none.
    New,
}

/// State of loss recovery. Counts are wire segments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) state: CaState,
    pub(crate) rexmit: Rexmit,
    /// F-RTO runs.
    pub(crate) frto: bool,
    /// The pending loss probe was a retransmission.
    pub(crate) tlp_retrans: bool,
    /// Timeouts in a row without progress (`icsk_retransmits`).
    pub(crate) retransmits: u8,
    /// Unanswered window probes (`icsk_probes_out`).
    pub(crate) probes_out: u8,
    /// Recovery ends when this is acknowledged.
    pub(crate) high_seq: u64,
    /// Where the recovery that could be undone began; 0: none.
    pub(crate) undo_marker: u64,
    /// Retransmissions that no D-SACK has answered; negative: unknown.
    pub(crate) undo_retrans: i32,
    /// Timestamp of the first retransmission of this episode; 0: none.
    pub(crate) retrans_stamp: u32,
    /// When the first timeout of this episode hit, for the user timeout.
    pub(crate) first_timeout: Option<ferronet_core::Instant>,
    pub(crate) tlp_high_seq: u64,
    pub(crate) sacked_out: u32,
    pub(crate) lost_out: u32,
    pub(crate) retrans_out: u32,
    /// End of the highest SACKed record (`tcp_highest_sack_seq`); good while `sacked_out` is not 0.
    pub(crate) high_sacked: u64,
    /// No lost, unretransmitted record starts before this.
    pub(crate) hint: u64,
    pub(crate) reordering: u32,
    pub(crate) prior_cwnd: u32,
    pub(crate) prior_ssthresh: u32,
    pub(crate) prr_delivered: u32,
    pub(crate) prr_out: u32,
    /// Running totals of delivered and lost segments.
    pub(crate) delivered: u32,
    pub(crate) lost: u32,
    pub(crate) delivered_at: ferronet_core::Instant,
    /// SACK blocks of the last ACK.
    pub(crate) sack_cache: [(u64, u64); 4],
    pub(crate) rack: crate::rcv::rack::Rack,
    /// Most segments in flight in the current window, where that window ends, and whether cwnd was the limit.
    pub(crate) max_packets_out: u32,
    pub(crate) cwnd_usage_seq: u64,
    pub(crate) cwnd_limited: bool,
    /// The window, or what was in flight beyond it, at the last ACK: for the pacing rate; 0: no ACK yet.
    pub(crate) pacing_cwnd: u32,
}

impl Tcb {
    /// Segments in the network (`tcp_packets_in_flight`).
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        (self.txq.packets + self.rec.retrans_out).saturating_sub(self.rec.sacked_out + self.rec.lost_out)
    }

    pub(crate) fn in_cwnd_reduction(&self) -> bool {
        match self.rec.state {
            CaState::Cwr | CaState::Recovery => true,
            CaState::Open | CaState::Disorder | CaState::Loss => false,
        }
    }

    /// Splits record `i` and keeps the marks' counts.
    pub(crate) fn split_tx(&mut self, i: usize, at: u64) {
        let Some(flags) = self.txq.get(i).map(|s| s.flags) else { return };
        let d = self.txq.split(i, at);
        if d != 0 {
            let r = &mut self.rec;
            for (bit, count) in
                [(SACKED, &mut r.sacked_out), (LOST, &mut r.lost_out), (RETRANS, &mut r.retrans_out)]
            {
                if flags & bit != 0 {
                    *count = count.saturating_add_signed(d);
                }
            }
        }
    }

    /// Marks a record lost (`tcp_mark_skb_lost`). A lost retransmission leaves the network as well.
    pub(crate) fn mark_lost(rec: &mut Recovery, cx: &mut Cx<'_>, s: &mut TxSeg) {
        if s.is(SACKED) {
            return;
        }
        let n = u32::from(s.pcount);
        rec.hint = rec.hint.min(s.seq);
        if s.is(LOST) {
            if s.is(RETRANS) {
                s.flags &= !RETRANS;
                rec.retrans_out = rec.retrans_out.saturating_sub(n);
                rec.lost += n;
                cx.mib.add(Mib::TcpExtTCPLostRetransmit, u64::from(n));
            }
        } else {
            s.flags |= LOST;
            rec.lost_out += n;
            rec.lost += n;
            if s.is(RETRANS) {
                s.flags &= !RETRANS;
                rec.retrans_out = rec.retrans_out.saturating_sub(n);
            }
        }
    }

    /// Starts a window reduction (RFC 6937 §3).
    pub(crate) fn init_cwnd_reduction(&mut self) {
        let r = &mut self.rec;
        r.high_seq = self.snd.nxt;
        r.tlp_high_seq = 0;
        r.prior_cwnd = self.w.cwnd;
        r.prr_delivered = 0;
        r.prr_out = 0;
        self.w.cnt = 0;
        self.w.ssthresh = self.cong.ssthresh(self.w.cwnd);
        self.ecn.queue_cwr = self.ecn.ok;
    }

    /// RFC 6937 §3.1: DeliveredData, prr_delivered and prr_out decide how much may be sent now.
    pub(crate) fn cwnd_reduction(&mut self, acked_sacked: u32, newly_lost: u32, advanced: bool) {
        let r = &mut self.rec;
        if acked_sacked == 0 || r.prior_cwnd == 0 {
            return;
        }
        r.prr_delivered += acked_sacked;
        let (delivered, out) = (i64::from(r.prr_delivered), i64::from(r.prr_out));
        let prior = i64::from(r.prior_cwnd);
        let flight = i64::from(self.in_flight());
        let ssthresh = i64::from(self.w.ssthresh);
        let delta = ssthresh - flight;
        let mut n = if delta < 0 {
            (ssthresh * delivered + prior - 1) / prior - out
        } else {
            // PRR-SSRB, one more when the ACK shows that the retransmission got through.
            let mut n = (delivered - out).max(i64::from(acked_sacked));
            if advanced && newly_lost == 0 {
                n += 1;
            }
            n.min(delta)
        };
        n = n.max(i64::from(out == 0));
        self.w.cwnd = (flight + n).max(1) as u32;
    }

    pub(crate) fn end_cwnd_reduction(&mut self) {
        if self.w.ssthresh < INFINITE_SSTHRESH
            && (self.rec.state == CaState::Cwr || self.rec.undo_marker != 0)
        {
            self.w.cwnd = self.w.ssthresh;
        }
    }

    /// Congestion seen without loss (ECN, local drops).
    pub(crate) fn enter_cwr(&mut self) {
        self.rec.prior_ssthresh = 0;
        if self.rec.state < CaState::Cwr {
            self.rec.undo_marker = 0;
            self.init_cwnd_reduction();
            self.rec.state = CaState::Cwr;
        }
    }

    fn current_ssthresh(&self) -> u32 {
        if self.in_cwnd_reduction() {
            self.w.ssthresh
        } else {
            self.w.ssthresh.max((self.w.cwnd >> 1) + (self.w.cwnd >> 2))
        }
    }

    fn init_undo(&mut self) {
        self.rec.undo_marker = self.snd.una;
        let probe = u32::from(self.rec.tlp_high_seq != 0 && self.rec.tlp_retrans);
        let out = (self.rec.retrans_out + probe) as i32;
        self.rec.undo_retrans = if out > 0 { out } else { -1 };
    }

    /// Loss was detected without an ACK.
    pub(crate) fn enter_recovery_by_timer(&mut self, cx: &mut Cx<'_>) {
        self.enter_recovery(cx, false);
    }

    fn enter_recovery(&mut self, cx: &mut Cx<'_>, ece: bool) {
        cx.inc(if self.sack_on { Mib::TcpExtTCPSackRecovery } else { Mib::TcpExtTCPRenoRecovery });
        self.rec.prior_ssthresh = 0;
        self.init_undo();
        if !self.in_cwnd_reduction() {
            if !ece {
                self.rec.prior_ssthresh = self.current_ssthresh();
            }
            self.init_cwnd_reduction();
        }
        self.rec.state = CaState::Recovery;
    }

    /// A retransmission timeout: everything is lost until shown otherwise (`tcp_enter_loss`).
    pub(crate) fn enter_loss(&mut self, cx: &mut Cx<'_>) {
        let new_recovery = self.rec.state < CaState::Recovery;
        self.timeout_mark_lost(cx);
        if self.rec.state <= CaState::Disorder
            || self.snd.una >= self.rec.high_seq
            || (self.rec.state == CaState::Loss && self.rec.retransmits == 0)
        {
            self.rec.prior_ssthresh = self.current_ssthresh();
            self.rec.prior_cwnd = self.w.cwnd;
            self.w.ssthresh = self.cong.ssthresh(self.w.cwnd);
            self.cong.on_rto();
            self.init_undo();
        }
        self.w.cwnd = self.in_flight() + 1;
        self.w.cnt = 0;
        if self.rec.state <= CaState::Disorder && self.rec.sacked_out >= cx.cfg.reordering {
            self.rec.reordering = self.rec.reordering.min(cx.cfg.reordering);
        }
        self.rec.state = CaState::Loss;
        self.rec.high_seq = self.snd.nxt;
        self.rec.tlp_high_seq = 0;
        self.rec.rexmit = Rexmit::Lost;
        self.ecn.queue_cwr = self.ecn.ok;
        // RFC 5682 §2.1: F-RTO starts with the first timeout, or again when the retransmission timed out.
        self.rec.frto = cx.cfg.frto && (new_recovery || self.rec.retransmits > 0);
    }

    fn timeout_mark_lost(&mut self, cx: &mut Cx<'_>) {
        let reneging = self.txq.front().is_some_and(|s| s.is(SACKED));
        if reneging {
            // RFC 2018 §8: the receiver may forget; the timeout clears all SACK information.
            cx.inc(Mib::TcpExtTCPSACKReneging);
            self.rec.sacked_out = 0;
            for s in self.txq.iter_mut() {
                s.flags &= !SACKED;
            }
            self.rec.sack_cache = Default::default();
        } else if !self.sack_on {
            self.rec.sacked_out = 0;
        }
        // Only what was sent a timeout ago is lost for sure; younger segments may still be on their way.
        let limit = Duration::from_micros(u64::from(self.rec.rack.rtt_us));
        let rack_ok = self.sack_on && self.rec.rack.rtt_us > 0 && !reneging;
        let rec = &mut self.rec;
        for (i, s) in self.txq.iter_mut().enumerate() {
            if i == 0 || !rack_ok || cx.now - s.tx >= limit {
                Tcb::mark_lost(rec, cx, s);
            }
        }
        if self.txq.is_empty() {
            self.rec.lost_out = 0;
        }
    }

    fn any_retrans_done(&self) -> bool {
        self.rec.retrans_out > 0 || self.txq.front().is_some_and(|s| s.is(EVER_RETRANS))
    }

    /// RFC 3522: the ACK echoes a timestamp from before the first retransmission; or nothing was retransmitted
    /// at all before what seemed lost arrived.
    fn packet_delayed(&self, a: &AckRound) -> bool {
        if self.rec.retrans_stamp == 0 {
            // Without SACK the stamp is also cleared at the end of a recovery (tcp_packet_delayed, 6.18).
            return self.sack_on || self.snd.una < self.rec.high_seq;
        }
        a.tsecr.is_some_and(|e| e != 0 && (e.wrapping_sub(self.rec.retrans_stamp) as i32) < 0)
    }

    fn may_undo(&self, a: &AckRound) -> bool {
        self.rec.undo_marker != 0 && (self.rec.undo_retrans == 0 || self.packet_delayed(a))
    }

    fn undo_cwnd_reduction(&mut self, unmark_loss: bool) {
        if unmark_loss {
            for s in self.txq.iter_mut() {
                s.flags &= !LOST;
            }
            self.rec.lost_out = 0;
        }
        if self.rec.prior_ssthresh != 0 {
            self.w.cwnd = self.cong.undo_cwnd(&self.w, self.rec.prior_cwnd);
            if self.rec.prior_ssthresh > self.w.ssthresh {
                self.w.ssthresh = self.rec.prior_ssthresh;
                self.ecn.queue_cwr = false;
            }
        }
        self.rec.undo_marker = 0;
        self.rec.rack.advanced = true;
    }

    /// Recovery has ended. True: stay in it (Reno waits for one more ACK against false retransmits).
    fn try_undo_recovery(&mut self, cx: &mut Cx<'_>, a: &AckRound) -> bool {
        if self.may_undo(a) {
            let loss = self.rec.state == CaState::Loss;
            self.undo_cwnd_reduction(false);
            cx.inc(if loss { Mib::TcpExtTCPLossUndo } else { Mib::TcpExtTCPFullUndo });
        } else if self.rec.rack.reo_wnd_persist > 0 {
            self.rec.rack.reo_wnd_persist -= 1;
        }
        if self.snd.una == self.rec.high_seq && !self.sack_on {
            if !self.any_retrans_done() {
                self.rec.retrans_stamp = 0;
            }
            return true;
        }
        self.rec.state = CaState::Open;
        false
    }

    fn try_undo_dsack(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.rec.undo_marker == 0 || self.rec.undo_retrans != 0 {
            return false;
        }
        self.rec.rack.reo_wnd_persist = (self.rec.rack.reo_wnd_persist + 1).min(16);
        self.undo_cwnd_reduction(false);
        cx.inc(Mib::TcpExtTCPDSACKUndo);
        true
    }

    fn try_undo_loss(&mut self, cx: &mut Cx<'_>, a: &AckRound, frto: bool) -> bool {
        if !frto && !self.may_undo(a) {
            return false;
        }
        self.undo_cwnd_reduction(true);
        cx.inc(Mib::TcpExtTCPLossUndo);
        if frto {
            cx.inc(Mib::TcpExtTCPSpuriousRTOs);
        }
        self.rec.retransmits = 0;
        if frto || self.sack_on {
            self.rec.state = CaState::Open;
            self.rec.frto = false;
        }
        true
    }

    fn try_undo_partial(&mut self, cx: &mut Cx<'_>, a: &AckRound) -> bool {
        if self.rec.undo_marker == 0 || !self.packet_delayed(a) {
            return false;
        }
        self.check_sack_reordering(cx, a.prior_una, true);
        if self.rec.retrans_out > 0 {
            return true;
        }
        if !self.any_retrans_done() {
            self.rec.retrans_stamp = 0;
        }
        self.undo_cwnd_reduction(true);
        cx.inc(Mib::TcpExtTCPPartialUndo);
        self.try_keep_open();
        true
    }

    pub(crate) fn try_keep_open(&mut self) {
        let disorder = self.rec.sacked_out + self.rec.lost_out > 0 || self.any_retrans_done();
        let to = if disorder { CaState::Disorder } else { CaState::Open };
        if self.rec.state != to {
            self.rec.state = to;
            self.rec.high_seq = self.snd.nxt;
        }
    }

    fn try_to_open(&mut self, a: &AckRound) {
        if !self.any_retrans_done() {
            self.rec.retrans_stamp = 0;
        }
        if a.ece {
            self.enter_cwr();
        }
        if self.rec.state != CaState::Cwr {
            self.try_keep_open();
        }
    }

    /// Without SACK each duplicate ACK stands for one segment that arrived (RFC 6582).
    fn add_reno_sack(&mut self, cx: &mut Cx<'_>, a: &mut AckRound) {
        if a.num_dupack == 0 {
            return;
        }
        let before = self.rec.sacked_out;
        self.rec.sacked_out += a.num_dupack;
        self.limit_reno_sacked(cx);
        let more = self.rec.sacked_out.saturating_sub(before);
        self.rec.delivered = self.rec.delivered.wrapping_add(more);
    }

    fn limit_reno_sacked(&mut self, cx: &mut Cx<'_>) {
        let holes = self.rec.lost_out.max(1).min(self.txq.packets);
        if self.rec.sacked_out + holes > self.txq.packets {
            // More duplicates than segments: reordering, not loss.
            self.rec.sacked_out = self.txq.packets - holes;
            let seen = self.txq.packets;
            if seen > self.rec.reordering {
                self.rec.reordering = seen.min(cx.cfg.max_reordering);
                self.stats.reord_seen += 1;
                cx.inc(Mib::TcpExtTCPRenoReorder);
            }
        }
    }

    pub(crate) fn remove_reno_sacks(&mut self, cx: &mut Cx<'_>, acked: u32) {
        if acked > 0 {
            // One of them filled the hole.
            let more = acked.saturating_sub(self.rec.sacked_out).max(1);
            self.rec.delivered = self.rec.delivered.wrapping_add(more);
            self.rec.sacked_out = self.rec.sacked_out.saturating_sub(acked - 1);
        }
        self.limit_reno_sacked(cx);
    }

    fn newreno_mark_lost(&mut self, cx: &mut Cx<'_>, advanced: bool) {
        let state = self.rec.state;
        if (state < CaState::Recovery && self.rec.sacked_out >= self.rec.reordering)
            || (state == CaState::Recovery && advanced)
        {
            let Some(s) = self.txq.front().copied() else { return };
            if s.is(LOST) {
                return;
            }
            if s.pcount > 1 {
                self.split_tx(0, s.seq + u64::from(s.mss));
            }
            if let Some(s) = self.txq.get_mut(0) {
                Tcb::mark_lost(&mut self.rec, cx, s);
            }
        }
    }

    fn identify_loss(&mut self, cx: &mut Cx<'_>, a: &AckRound) {
        if self.txq.is_empty() {
            return;
        }
        if self.sack_on {
            self.rack_mark_lost(cx);
        } else {
            self.newreno_mark_lost(cx, a.is(SND_UNA_ADVANCED));
        }
    }

    /// RFC 2018 §8: the receiver threw away what it had reported. A retransmission that is already under way gets half
    /// a round trip to show otherwise, then a timeout sends everything again (`tcp_check_sack_reneging`).
    fn check_sack_reneging(&mut self, cx: &Cx<'_>, a: &mut AckRound) -> bool {
        if !a.is(SACK_RENEGING) || !a.is(SND_UNA_ADVANCED) {
            return false;
        }
        let half = Duration::from_micros(u64::from(self.rtt.srtt_us() / 2));
        self.timers.set_rtx(Rtx::Retrans, cx.now + half.max(Duration::from_millis(10)));
        a.flag &= !SET_TIMER;
        true
    }

    /// Leaves a state when what was in flight at its start is acknowledged. True: nothing more is to be done.
    fn leave_state(&mut self, cx: &mut Cx<'_>, a: &AckRound) -> bool {
        if self.rec.state == CaState::Open {
            self.rec.retrans_stamp = 0;
        } else if self.snd.una >= self.rec.high_seq {
            match self.rec.state {
                CaState::Cwr => {
                    if self.snd.una != self.rec.high_seq {
                        self.end_cwnd_reduction();
                        self.rec.state = CaState::Open;
                    }
                }
                CaState::Recovery => {
                    if !self.sack_on {
                        self.rec.sacked_out = 0;
                    }
                    if self.try_undo_recovery(cx, a) {
                        return true;
                    }
                    self.end_cwnd_reduction();
                }
                CaState::Open | CaState::Disorder | CaState::Loss => {}
            }
        }
        false
    }

    /// The state machine of recovery (`tcp_fastretrans_alert`).
    pub(crate) fn fastretrans_alert(&mut self, cx: &mut Cx<'_>, a: &mut AckRound) {
        if a.ece {
            self.rec.prior_ssthresh = 0;
        }
        if self.check_sack_reneging(cx, a) {
            return;
        }
        if self.leave_state(cx, a) {
            return;
        }
        match self.rec.state {
            CaState::Recovery => {
                if !a.is(SND_UNA_ADVANCED) {
                    if !self.sack_on {
                        self.add_reno_sack(cx, a);
                    }
                } else if self.try_undo_partial(cx, a) {
                    return;
                }
                if self.try_undo_dsack(cx) {
                    self.try_to_open(a);
                }
                self.identify_loss(cx, a);
                if self.rec.state != CaState::Recovery {
                    if self.rec.lost_out == 0 {
                        self.try_to_open(a);
                        return;
                    }
                    self.enter_recovery(cx, a.ece);
                }
            }
            CaState::Loss => {
                self.process_loss(cx, a);
                if self.rec.state != CaState::Loss {
                    self.identify_loss(cx, a);
                    if self.rec.state == CaState::Open && self.rec.lost_out > 0 {
                        self.enter_recovery(cx, a.ece);
                        self.rec.rexmit = Rexmit::Lost;
                    }
                } else {
                    self.identify_loss(cx, a);
                }
                return;
            }
            CaState::Open | CaState::Disorder | CaState::Cwr => {
                if !self.sack_on {
                    if a.is(SND_UNA_ADVANCED) {
                        self.rec.sacked_out = 0;
                    }
                    self.add_reno_sack(cx, a);
                }
                if self.rec.state <= CaState::Disorder {
                    self.try_undo_dsack(cx);
                }
                self.identify_loss(cx, a);
                if self.rec.lost_out == 0 {
                    self.try_to_open(a);
                    return;
                }
                self.enter_recovery(cx, a.ece);
            }
        }
        self.rec.rexmit = Rexmit::Lost;
    }

    /// An ACK after a timeout (`tcp_process_loss`, RFC 5682 §3 with SACK).
    fn process_loss(&mut self, cx: &mut Cx<'_>, a: &mut AckRound) {
        let recovered = self.snd.una >= self.rec.high_seq;
        let advanced = a.is(SND_UNA_ADVANCED);
        if advanced && self.try_undo_loss(cx, a, false) {
            return;
        }
        if self.rec.frto {
            // Something that was never retransmitted arrived: the timeout was spurious.
            if a.is(ORIG_SACK_ACKED) && self.try_undo_loss(cx, a, true) {
                return;
            }
            if self.snd.nxt > self.rec.high_seq {
                if a.is(DATA_SACKED) || a.num_dupack > 0 {
                    self.rec.frto = false;
                }
            } else if advanced && !recovered {
                self.rec.high_seq = self.snd.nxt;
                if self.has_unsent_in_window() {
                    self.rec.rexmit = Rexmit::New;
                    return;
                }
                self.rec.frto = false;
            }
        }
        if recovered {
            self.try_undo_recovery(cx, a);
            return;
        }
        if !self.sack_on {
            if self.snd.nxt > self.rec.high_seq && a.num_dupack > 0 {
                self.add_reno_sack(cx, a);
            } else if advanced {
                self.rec.sacked_out = 0;
            }
        }
        self.rec.rexmit = Rexmit::Lost;
    }
}
