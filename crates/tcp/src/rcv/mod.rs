//! Segment arrival (RFC 9293 §3.10.7): the steps of §3.10.7.4 in their order.

pub(crate) mod ack;
mod ack_out;
pub(crate) mod data;
mod fast;
mod ofo;
pub(crate) mod rack;
mod reset;
mod sacktag;
pub(crate) mod urg;

use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::TcpFlags;

use crate::segment::{Cx, Discard, Payload, Segment};
use crate::state::{State, Tcb};

/// A peer that was silent for this long has restarted its timestamp clock (`TCP_PAWS_24DAYS`).
const PAWS_24DAYS: core::time::Duration = core::time::Duration::from_secs(24 * 24 * 3600);

impl Tcb {
    /// Takes a segment for this connection. Afterwards call [`Tcb::poll_transmit`] until `None`, look at
    /// [`Tcb::state`] and [`Tcb::take_events`], and rearm the timer from [`Tcb::next_deadline`].
    ///
    /// # Errors
    /// The reason why the segment was of no use. The connection may have answered it nevertheless.
    pub fn rcv(&mut self, cx: &mut Cx<'_>, seg: &Segment, payload: Payload) -> Result<(), Discard> {
        self.count_in(seg);
        if self.state == State::Established && self.fast_path_ok(seg) {
            return self.rcv_fast(cx, seg, payload);
        }
        self.rcv_slow(cx, seg, payload)
    }

    fn count_in(&mut self, seg: &Segment) {
        self.stats.segs_in = self.stats.segs_in.wrapping_add(seg.segs());
        if seg.len > 0 {
            self.stats.data_segs_in = self.stats.data_segs_in.wrapping_add(seg.segs());
        }
    }

    #[cfg(test)]
    pub(crate) fn count_in_for_test(&mut self, seg: &Segment) {
        self.count_in(seg);
    }

    pub(crate) fn rcv_slow(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        payload: Payload,
    ) -> Result<(), Discard> {
        match self.state {
            State::Close | State::Listen => return Err(DropReason::TcpClosed),
            State::TimeWait => return Err(DropReason::TcpTimeWait),
            State::SynSent => return self.rcv_syn_sent(cx, seg),
            State::SynRecv
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::LastAck
            | State::Closing => {}
        }
        let seq = self.unwrap_seq(seg.seq);
        if self.fastopen_syn_again(cx, seg, seq) {
            return Err(DropReason::TcpOldSequence);
        }
        let end = seq + u64::from(seg.seq_len());
        self.first_check_sequence(cx, seg, seq, end)?;
        self.second_check_rst(cx, seg, seq)?;
        // Third, security: RFC 793's compartments are not used.
        self.fourth_check_syn(cx, seg, seq)?;
        self.fifth_check_ack(cx, seg, seq)?;
        // Only a SYN-ACK that completes a simultaneous open comes so far. Its SYN is known already: a repetition,
        // which is acknowledged at once and with D-SACK (tcp_data_queue, 6.18).
        let text = seq + u64::from(seg.has(TcpFlags::SYN));
        self.sixth_check_urg(cx, seg, text, &payload);
        let seq = if end > text { text } else { seq };
        self.seventh_process_text(cx, seg, seq, end, payload)?;
        self.ack_snd_check(cx);
        Ok(())
    }

    /// RFC 9293: "First, check sequence number", preceded by PAWS (RFC 7323 §5.3 R1): "if there is a Timestamps
    /// option and SEG.TSval < TS.Recent and the RST bit is off, the segment is not acceptable; send an ACK and drop".
    fn first_check_sequence(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
        end: u64,
    ) -> Result<(), Discard> {
        if self.paws_discard(cx, seg, seq) && !seg.has(TcpFlags::RST) && !seg.has(TcpFlags::SYN) {
            if seg.seq_len() == 0 && seg.has(TcpFlags::ACK) && seq < self.rcv.nxt {
                // An old pure ACK is common and no reason to answer (tcp_disordered_ack_check).
                cx.inc(Mib::TcpExtPAWSOldAck);
                return Err(DropReason::TcpPaws);
            }
            cx.inc(Mib::TcpExtPAWSEstab);
            if !self.oow_rate_limited(cx, seg, Mib::TcpExtTCPACKSkippedPAWS) {
                self.send_dupack(cx, seq, end);
            }
            return Err(DropReason::TcpPaws);
        }
        if let Err(reason) = self.acceptable(seq, end) {
            if seg.has(TcpFlags::RST) {
                return Err(DropReason::TcpReset);
            }
            if seg.has(TcpFlags::SYN) {
                // RFC 5961 §4.2: a SYN is challenged wherever it is.
                cx.inc(Mib::TcpInErrs);
                cx.inc(Mib::TcpExtTCPSYNChallenge);
                self.send_challenge_ack(cx);
                return Err(DropReason::TcpInvalidSyn);
            }
            if reason == DropReason::TcpOutOfWindow {
                cx.inc(Mib::TcpExtBeyondWindow);
            }
            if !self.oow_rate_limited(cx, seg, Mib::TcpExtTCPACKSkippedSeq) {
                self.send_dupack(cx, seq, end);
            }
            return Err(reason);
        }
        // RFC 7323 §4.3 (2): remember the timestamp of the segment that spans Last.ACK.sent.
        if let Some(ts) = seg.opts.timestamps
            && self.ts_on
            && seq <= self.rcv.wup
            && (self.rcv.ts_recent.wrapping_sub(ts.tsval) as i32) <= 0
        {
            self.rcv.ts_recent = ts.tsval;
            self.rcv.ts_recent_at = cx.now;
        }
        Ok(())
    }

    /// As `tcp_sequence` (6.18): some part must be inside the window; what reaches beyond it is taken only when
    /// the program has nothing left to read.
    fn acceptable(&self, seq: u64, end: u64) -> Result<(), DropReason> {
        if end < self.rcv.wup {
            return Err(DropReason::TcpOldSequence);
        }
        let limit = self.rcv.nxt + u64::from(self.receive_window());
        if end > limit && (seq > limit || !self.rcv.q.is_empty() || !self.rcv.tail.is_empty()) {
            return Err(DropReason::TcpOutOfWindow);
        }
        Ok(())
    }

    fn paws_discard(&self, cx: &Cx<'_>, seg: &Segment, seq: u64) -> bool {
        let Some(ts) = seg.opts.timestamps else { return false };
        // TCP_PAWS_WINDOW: a clock that stepped back by one tick is forgiven.
        if !self.ts_on || (self.rcv.ts_recent.wrapping_sub(ts.tsval) as i32) <= 1 {
            return false;
        }
        if cx.now - self.rcv.ts_recent_at > PAWS_24DAYS {
            return false;
        }
        // A pure ACK that was overtaken (tcp_disordered_ack): harmless, and must not trigger an ACK storm.
        let wnd = u32::from(seg.wnd) << self.snd.wscale;
        let disordered = seg.seq_len() == 0
            && seq == self.rcv.nxt
            && self.unwrap_ack(seg.ack) == self.snd.una
            && wnd == self.snd.wnd
            && self.rcv.ts_recent.wrapping_sub(ts.tsval) <= (self.rtt.rto.as_millis() as u32).max(1);
        !disordered
    }

    /// RFC 9293: "Fifth, check the ACK field".
    fn fifth_check_ack(&mut self, cx: &mut Cx<'_>, seg: &Segment, seq: u64) -> Result<(), Discard> {
        if !seg.has(TcpFlags::ACK) {
            // "if the ACK bit is off, drop the segment and return"
            return Err(DropReason::TcpFlags);
        }
        if self.state == State::SynRecv {
            return self.ack_in_syn_recv(cx, seg, seq);
        }
        match self.tcp_ack(cx, seg, seq) {
            Ok(_) => {}
            Err(reason) => {
                if reason == DropReason::TcpTooNewAck {
                    self.send_challenge_ack(cx);
                }
                return Err(reason);
            }
        }
        self.ack_in_closing_states(cx);
        if self.state == State::Close {
            // LAST_ACK: all is done; whatever else the segment has is of no interest.
            return Err(DropReason::TcpClosed);
        }
        Ok(())
    }
}
