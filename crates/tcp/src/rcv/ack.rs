//! RFC 9293 §3.10.7.4, fifth step: the ACK field. Acknowledged data leaves the queue, SACK blocks mark it,
//! round trips are measured, the window is updated, and recovery and congestion control decide.

use core::time::Duration;

use ferronet_core::time::Instant;
use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::TcpFlags;

use crate::cong::{AckEvent, Hystart};
use crate::recovery::{CaState, Rexmit};
use crate::sack::{EVER_RETRANS, LOST, RETRANS, SACKED};
use crate::segment::{Cx, Discard, Segment};
use crate::state::{Events, State, Tcb};

pub(crate) const DATA: u16 = 1;
pub(crate) const WIN_UPDATE: u16 = 2;
pub(crate) const DATA_ACKED: u16 = 4;
pub(crate) const RETRANS_ACKED: u16 = 8;
pub(crate) const DATA_SACKED: u16 = 16;
pub(crate) const SND_UNA_ADVANCED: u16 = 32;
pub(crate) const DSACKING: u16 = 64;
pub(crate) const ORIG_SACK_ACKED: u16 = 128;
pub(crate) const SET_TIMER: u16 = 256;
pub(crate) const DSACK_TLP: u16 = 512;
/// What is now first in the queue was reported as received.
pub(crate) const SACK_RENEGING: u16 = 1024;

/// What one ACK did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckRound {
    pub(crate) flag: u16,
    pub(crate) ece: bool,
    pub(crate) num_dupack: u32,
    pub(crate) prior_una: u64,
    /// End of the highest SACKed record before this ACK.
    prior_fack: u64,
    prior_delivered: u32,
    prior_lost: u32,
    pub(crate) tsecr: Option<u32>,
    /// Transmission times of the first and last newly acknowledged, never retransmitted records, and the same for SACK.
    pub(super) first_acked: Option<Instant>,
    pub(super) last_acked: Option<Instant>,
    pub(super) first_sacked: Option<Instant>,
    pub(super) last_sacked: Option<Instant>,
    /// Lowest never retransmitted record that arrived after later ones.
    pub(super) reord: u64,
    /// Of the most recently sent delivered record.
    rate: Option<(Instant, u32, Instant)>,
}

impl AckRound {
    #[inline]
    pub(crate) fn is(&self, f: u16) -> bool {
        self.flag & f != 0
    }
}

impl Tcb {
    fn ack_round(&self, seg: &Segment) -> AckRound {
        AckRound {
            flag: 0,
            ece: false,
            num_dupack: 0,
            prior_una: self.snd.una,
            prior_fack: if self.rec.sacked_out > 0 { self.rec.high_sacked } else { self.snd.una },
            prior_delivered: self.rec.delivered,
            prior_lost: self.rec.lost,
            tsecr: if self.ts_on { seg.opts.timestamps.map(|t| t.tsecr) } else { None },
            first_acked: None,
            last_acked: None,
            first_sacked: None,
            last_sacked: None,
            reord: self.snd.nxt,
            rate: None,
        }
    }

    /// The ACK of a segment whose sequence number was accepted. Returns whether it acknowledged something new
    /// or repeated (`false`: an old ACK, the segment's data is still good).
    pub(crate) fn tcp_ack(&mut self, cx: &mut Cx<'_>, seg: &Segment, seq: u64) -> Result<bool, Discard> {
        let ack = self.unwrap_ack(seg.ack);
        if ack < self.snd.una {
            return self.old_ack(cx, seg, ack);
        }
        // RFC 9293: "If the ACK acks something not yet sent ... drop the segment". Linux sends no ACK for it
        // in ESTABLISHED (tcp_ack, 6.18); our caller does in the other states.
        if ack > self.snd.nxt {
            return Err(DropReason::TcpTooNewAck);
        }
        let mut a = self.ack_round(seg);
        if ack > self.snd.una {
            a.flag |= SND_UNA_ADVANCED;
            self.rec.retransmits = 0;
            self.rec.first_timeout = None;
        }
        self.update_window(cx, seg, seq, ack, &mut a);
        if seg.len > 0 {
            a.flag |= DATA;
        } else {
            cx.inc(Mib::TcpExtTCPPureAcks);
        }
        if self.ecn.ok && seg.has(TcpFlags::ECE) && !seg.has(TcpFlags::SYN) {
            a.ece = true;
        }
        self.stats.last_ack_rx = cx.now;
        self.soft_error = None;
        self.rec.probes_out = 0;
        let had_packets = !self.txq.is_empty();
        let prior_una = self.snd.una;
        if !seg.opts.sack.is_empty() && self.sack_on {
            self.sacktag(cx, seg.opts.sack.as_slice(), ack, &mut a);
        }
        if !had_packets {
            self.snd.una = ack;
            if a.is(DSACKING) {
                // All is acknowledged, and still it may turn out that nothing had been lost.
                self.fastretrans_alert(cx, &mut a);
                self.newly_delivered(cx, &a);
            }
            if self.has_unsent() {
                self.ack_probe(cx);
            }
            return Ok(true);
        }
        self.clean_rtx_queue(cx, ack, &mut a);
        self.stats.bytes_acked += ack - prior_una;
        self.tlp_ack(cx, ack, &mut a);
        if self.rec.delivered != a.prior_delivered {
            self.rack_update_reo_wnd(cx, a.rate.map_or(0, |r| r.1));
        }
        if self.ack_is_dubious(&a) {
            if a.flag & (SND_UNA_ADVANCED | DSACKING) == 0
                && (a.flag & (DATA | WIN_UPDATE) == 0 || a.is(DATA_SACKED))
            {
                a.num_dupack = seg.segs();
            }
            self.fastretrans_alert(cx, &mut a);
        }
        if a.is(SET_TIMER) {
            self.set_xmit_timer(cx);
        }
        let newly = self.newly_delivered(cx, &a);
        self.rate_sample(cx, &a, newly);
        self.cong_control(cx, &a, newly);
        self.rec.pacing_cwnd = self.w.cwnd.max(self.txq.packets);
        self.after_ack(cx);
        Ok(true)
    }

    /// Segments that this ACK showed to be delivered; without SACK, duplicates stand for some (`tcp_newly_delivered`).
    fn newly_delivered(&mut self, cx: &mut Cx<'_>, a: &AckRound) -> u32 {
        let newly = self.rec.delivered.wrapping_sub(a.prior_delivered);
        if newly > 0 {
            cx.mib.add(Mib::TcpExtTCPDelivered, u64::from(newly));
            if a.ece {
                cx.mib.add(Mib::TcpExtTCPDeliveredCE, u64::from(newly));
                self.stats.delivered_ce = self.stats.delivered_ce.wrapping_add(newly);
            }
        }
        newly
    }

    /// RFC 5961 §5.2: an ACK older than the largest window ever offered is answered with a challenge ACK and
    /// dropped. A merely old one may still carry SACK blocks.
    fn old_ack(&mut self, cx: &mut Cx<'_>, seg: &Segment, ack: u64) -> Result<bool, Discard> {
        if ack + u64::from(self.snd.max_wnd) < self.snd.una {
            self.send_challenge_ack(cx);
            return Err(DropReason::TcpOldAck);
        }
        if !seg.opts.sack.is_empty() && self.sack_on && !self.txq.is_empty() {
            let mut a = self.ack_round(seg);
            self.sacktag(cx, seg.opts.sack.as_slice(), ack, &mut a);
            if self.rec.delivered != a.prior_delivered {
                self.fastretrans_alert(cx, &mut a);
                self.newly_delivered(cx, &a);
                self.after_ack(cx);
            }
        }
        Ok(false)
    }

    /// RFC 9293 §3.10.7.4: SND.WND is taken from segments that are newer by sequence, or by ACK, or larger.
    fn update_window(&mut self, cx: &mut Cx<'_>, seg: &Segment, seq: u64, ack: u64, a: &mut AckRound) {
        let scale = if seg.has(TcpFlags::SYN) { 0 } else { self.snd.wscale };
        let wnd = u32::from(seg.wnd) << scale;
        let s = &mut self.snd;
        if ack > s.una || seq > s.wl1 || (seq == s.wl1 && (wnd > s.wnd || wnd == 0)) {
            a.flag |= WIN_UPDATE;
            s.wl1 = seq;
            s.wnd = wnd;
            if wnd > s.max_wnd {
                s.max_wnd = wnd;
                self.sync_mss(cx);
            }
        }
    }

    #[inline]
    fn ack_is_dubious(&self, a: &AckRound) -> bool {
        // "Not a duplicate" is: it acknowledged data, updated the window or carried data.
        a.flag & (DATA | WIN_UPDATE | DATA_ACKED) == 0
            || a.is(DATA_SACKED | DSACKING)
            || a.ece
            || self.rec.state != CaState::Open
    }

    /// Removes what is acknowledged from the retransmission queue and the send queue.
    fn clean_rtx_queue(&mut self, cx: &mut Cx<'_>, ack: u64, a: &mut AckRound) {
        let min_rtt = self.rtt.min_us();
        let mut acked_packets = 0;
        while let Some(s) = self.txq.front().copied() {
            let full = s.end <= ack;
            let n = if full {
                u32::from(s.pcount)
            } else {
                if ack <= s.seq {
                    break;
                }
                self.txq.trim_front(ack)
            };
            if n == 0 {
                // Part of one segment: it is not delivered before all of it is (tcp_tso_acked).
                break;
            }
            acked_packets += n;
            if s.is(EVER_RETRANS) {
                if s.is(RETRANS) {
                    self.rec.retrans_out = self.rec.retrans_out.saturating_sub(n);
                }
                a.flag |= RETRANS_ACKED;
            } else if !s.is(SACKED) {
                a.last_acked = Some(s.tx);
                a.first_acked.get_or_insert(s.tx);
                a.reord = a.reord.min(s.seq);
                if s.end <= self.rec.high_seq {
                    a.flag |= ORIG_SACK_ACKED;
                }
            }
            if s.is(SACKED) {
                self.rec.sacked_out = self.rec.sacked_out.saturating_sub(n);
            } else if self.sack_on {
                self.rec.delivered = self.rec.delivered.wrapping_add(n);
                self.rec.rack.advance(&s, cx.now, min_rtt);
            }
            if s.is(LOST) {
                self.rec.lost_out = self.rec.lost_out.saturating_sub(n);
            }
            Self::rate_delivered(a, &s);
            a.flag |= DATA_ACKED;
            if !full {
                break;
            }
            self.txq.pop_front();
        }
        self.snd.una = ack;
        if ack > self.rec.hint {
            self.rec.hint = ack;
        }
        self.snd_acked(cx, ack);
        if a.is(DATA_ACKED) {
            a.flag |= SET_TIMER;
        }
        if self.txq.front().is_some_and(|s| s.is(SACKED)) {
            a.flag |= SACK_RENEGING;
        }
        let ca_rtt = self.rtt_from_ack(cx, a);
        if a.is(DATA_ACKED) {
            if !self.sack_on {
                self.remove_reno_sacks(cx, acked_packets);
            } else if a.reord < a.prior_fack {
                self.check_sack_reordering(cx, a.reord, false);
            }
        }
        if self.txq.is_empty() {
            self.rec.lost_out = 0;
            self.rec.sacked_out = 0;
            self.rec.retrans_out = 0;
        }
        if let Some(rtt) = ca_rtt {
            self.pkts_acked(cx, acked_packets, rtt);
        }
    }

    /// Tells congestion control of a round trip (`pkts_acked`).
    fn pkts_acked(&mut self, cx: &mut Cx<'_>, acked: u32, rtt: Duration) {
        let ev = self.ack_event(cx.now, acked, Some(rtt));
        let counters = match self.cong.on_rtt(&mut self.w, &ev) {
            None => return,
            Some(Hystart::Train) => (Mib::TcpExtTCPHystartTrainDetect, Mib::TcpExtTCPHystartTrainCwnd),
            Some(Hystart::Delay) => (Mib::TcpExtTCPHystartDelayDetect, Mib::TcpExtTCPHystartDelayCwnd),
        };
        cx.inc(counters.0);
        cx.mib.add(counters.1, u64::from(self.w.cwnd));
    }

    /// RFC 6298 §3 (Karn): no samples from retransmitted segments, except by timestamp (RFC 7323 §4.1).
    fn rtt_from_ack(&mut self, cx: &mut Cx<'_>, a: &AckRound) -> Option<Duration> {
        let now = cx.now;
        let mut seq_rtt = None;
        let mut ca_rtt = None;
        if let (Some(f), Some(l)) = (a.first_acked, a.last_acked)
            && !a.is(RETRANS_ACKED)
        {
            seq_rtt = Some(now - f);
            ca_rtt = Some(now - l);
        }
        if let (Some(f), Some(l)) = (a.first_sacked, a.last_sacked) {
            seq_rtt = seq_rtt.or(Some(now - f));
            ca_rtt = Some(now - l);
        }
        if seq_rtt.is_none()
            && a.is(DATA_ACKED)
            && let Some(e) = a.tsecr
            && e != 0
        {
            let ms = self.ts_now(now).wrapping_sub(e);
            if ms < 1 << 24 {
                seq_rtt = Some(Duration::from_millis(u64::from(ms.max(1))));
                ca_rtt = seq_rtt;
            }
        }
        let rtt = seq_rtt?;
        if let Some(c) = ca_rtt {
            self.rtt.note_min(c, now);
        }
        self.rtt.sample(rtt, self.snd.una, self.snd.nxt, cx.cfg.rto_min, self.rto_max(cx));
        ca_rtt
    }

    pub(super) fn rate_delivered(a: &mut AckRound, s: &crate::sack::TxSeg) {
        if a.rate.is_none_or(|(_, d, _)| s.delivered >= d) {
            a.rate = Some((s.delivered_at, s.delivered, s.tx));
        }
    }

    /// The delivery rate (draft-cheng-iccrg-delivery-rate-estimation): delivered segments over the time since the record's sending.
    fn rate_sample(&mut self, cx: &Cx<'_>, a: &AckRound, newly: u32) {
        if newly == 0 {
            return;
        }
        self.rec.delivered_at = cx.now;
        let Some((at, prior, _)) = a.rate else { return };
        let n = self.rec.delivered.wrapping_sub(prior);
        let us = ((cx.now - at).as_micros().min(u128::from(u32::MAX)) as u32).max(1);
        if us < self.rtt.min_us() && self.rtt.min_us() != u32::MAX {
            return;
        }
        let (old_n, old_us) = (self.stats.rate_delivered, self.stats.rate_interval_us);
        if old_us == 0
            || !self.app_limited()
            || u64::from(n) * u64::from(old_us) >= u64::from(old_n) * u64::from(us)
        {
            self.stats.rate_delivered = n;
            self.stats.rate_interval_us = us;
        }
    }

    fn ack_event(&self, now: Instant, acked: u32, rtt: Option<Duration>) -> AckEvent {
        AckEvent {
            now,
            acked,
            una: self.snd.una,
            nxt: self.snd.nxt,
            rtt,
            srtt: Duration::from_micros(u64::from(self.rtt.srtt_us())),
            cwnd_limited: self.is_cwnd_limited(),
        }
    }

    fn cong_control(&mut self, cx: &mut Cx<'_>, a: &AckRound, newly: u32) {
        if self.in_cwnd_reduction() {
            let lost = self.rec.lost.wrapping_sub(a.prior_lost);
            self.cwnd_reduction(newly, lost, a.is(SND_UNA_ADVANCED));
            return;
        }
        let may_raise = if self.rec.reordering > cx.cfg.reordering {
            a.is(DATA_ACKED | DATA_SACKED)
        } else {
            a.is(DATA_ACKED)
        };
        if may_raise && newly > 0 {
            let ev = self.ack_event(cx.now, newly, None);
            self.cong.on_ack(&mut self.w, &ev);
        }
    }

    /// The window was in use, so that a larger one would have been used too (`tcp_is_cwnd_limited`).
    fn is_cwnd_limited(&self) -> bool {
        self.rec.cwnd_limited || (self.w.in_slow_start() && self.w.cwnd < 2 * self.rec.max_packets_out)
    }

    /// RFC 8985 §7.4: what the ACK says about the outstanding loss probe.
    fn tlp_ack(&mut self, cx: &mut Cx<'_>, ack: u64, a: &mut AckRound) {
        let high = self.rec.tlp_high_seq;
        if high == 0 || ack < high {
            return;
        }
        if !self.rec.tlp_retrans || a.is(DSACK_TLP) {
            self.rec.tlp_high_seq = 0;
        } else if ack > high {
            // The probe repaired a loss: react to it as to any other.
            self.init_cwnd_reduction();
            self.rec.state = CaState::Cwr;
            self.end_cwnd_reduction();
            self.rec.tlp_high_seq = 0;
            self.try_keep_open();
            cx.inc(Mib::TcpExtTCPLossProbeRecovery);
        } else if a.flag & (SND_UNA_ADVANCED | DATA | WIN_UPDATE | DATA_ACKED | DATA_SACKED) == 0 {
            self.rec.tlp_high_seq = 0;
        }
    }

    /// The send buffer shrank: wake a waiting writer, or let it grow.
    fn after_ack(&mut self, cx: &mut Cx<'_>) {
        self.sndbuf_expand(cx);
        if self.snd.nospace && self.writable() {
            self.snd.nospace = false;
            self.events.add(Events::WRITABLE);
        }
    }

    /// An ACK while nothing is in flight but data waits for the window (`tcp_ack_probe`).
    fn ack_probe(&mut self, cx: &mut Cx<'_>) {
        if self.has_unsent_in_window() {
            self.timers.clear_rtx();
            self.rtt.reset_backoff(self.rto_max(cx));
        } else {
            self.arm_probe0(cx);
        }
    }

    /// For states behind ESTABLISHED: is everything including our FIN acknowledged?
    pub(crate) fn fin_acked(&self) -> bool {
        self.snd.fin && self.snd.una > self.snd.write_seq
    }

    /// What an acknowledgment of our FIN means in each state.
    pub(crate) fn ack_in_closing_states(&mut self, cx: &mut Cx<'_>) {
        if !self.fin_acked() {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.set_state(cx, State::FinWait2);
                self.snd.wq = Default::default();
                if self.orphan {
                    self.enter_fin_wait2_orphan(cx);
                }
            }
            State::Closing => self.enter_time_wait(cx),
            State::LastAck => self.done(cx, None),
            State::Established
            | State::SynSent
            | State::SynRecv
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::CloseWait
            | State::Listen => {}
        }
    }

    /// Used by the sender: stop keeping lost segments back.
    pub(crate) fn rexmit_done(&mut self) {
        self.rec.rexmit = Rexmit::None;
    }
}
