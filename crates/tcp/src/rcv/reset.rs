//! Resets, SYNs in a connection, and challenge ACKs (RFC 5961).

use ferronet_core::{DropReason, Errno, Mib};
use ferronet_wire::tcp::TcpFlags;

use crate::segment::{Cx, Discard, Segment};
use crate::state::{State, Tcb};

impl Tcb {
    /// RFC 9293: "Second, check the RST bit", with RFC 5961 §3.2: only a RST exactly at RCV.NXT is believed; one
    /// elsewhere in the window is answered with a challenge ACK.
    pub(crate) fn second_check_rst(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
    ) -> Result<(), Discard> {
        if !seg.has(TcpFlags::RST) {
            return Ok(());
        }
        let fin_state = match self.state {
            State::CloseWait | State::LastAck | State::Closing => true,
            State::Established
            | State::SynSent
            | State::SynRecv
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::Listen => false,
        };
        // A peer that resets right after its FIN may use the FIN's own number (tcp_reset_check, 6.18); one that
        // has data out of order may use the end of that (tcp_validate_incoming).
        let exact = seq == self.rcv.nxt || (fin_state && seq + 1 == self.rcv.nxt);
        let after_sack = self.sack_on
            && self.rcv.sacks[..usize::from(self.rcv.nsacks)].iter().any(|b| b.1 == seq)
            && self.rcv.ofo.last_key_value().is_some_and(|(_, s)| s.end == seq);
        if exact || after_sack {
            if self.is_fastopen() {
                // Counted by tcp_check_req, and again with the end of the connection.
                cx.inc(Mib::TcpAttemptFails);
            }
            self.tcp_reset(cx);
        } else {
            self.send_challenge_ack(cx);
        }
        Err(DropReason::TcpReset)
    }

    /// The peer reset the connection (`tcp_reset`).
    pub(crate) fn tcp_reset(&mut self, cx: &mut Cx<'_>) {
        let e = match self.state {
            State::SynSent => Errno::ECONNREFUSED,
            State::CloseWait => Errno::EPIPE,
            State::Established
            | State::SynRecv
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::LastAck
            | State::Listen
            | State::Closing => Errno::ECONNRESET,
        };
        self.done(cx, Some(e));
    }

    /// RFC 9293: "Fourth, check the SYN bit"; RFC 5961 §4.2: never believe it, send a challenge ACK.
    pub(crate) fn fourth_check_syn(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
    ) -> Result<(), Discard> {
        if !seg.has(TcpFlags::SYN) {
            return Ok(());
        }
        // Simultaneous open: the SYN-ACK that completes it starts at the SYN we have seen.
        if self.state == State::SynRecv
            && seg.has(TcpFlags::ACK)
            && seq + 1 == self.rcv.nxt
            && self.unwrap_ack(seg.ack) == self.snd.nxt
        {
            return Ok(());
        }
        cx.inc(Mib::TcpInErrs);
        cx.inc(Mib::TcpExtTCPSYNChallenge);
        self.send_challenge_ack(cx);
        Err(DropReason::TcpInvalidSyn)
    }

    /// RFC 5961 §7: challenge ACKs are limited in rate.
    pub(crate) fn send_challenge_ack(&mut self, cx: &mut Cx<'_>) {
        if self.rate_limited(cx, Mib::TcpExtTCPACKSkippedChallenge) {
            return;
        }
        cx.inc(Mib::TcpExtTCPChallengeACK);
        self.ack.now = true;
    }

    /// ACKs that answer segments without data are limited, so that two confused ends do not talk forever.
    pub(crate) fn oow_rate_limited(&mut self, cx: &mut Cx<'_>, seg: &Segment, mib: Mib) -> bool {
        if seg.len > 0 && !seg.has(TcpFlags::SYN) {
            return false;
        }
        self.rate_limited(cx, mib)
    }

    fn rate_limited(&mut self, cx: &mut Cx<'_>, mib: Mib) -> bool {
        if self.last_oow_ack != ferronet_core::Instant::ZERO
            && cx.now - self.last_oow_ack < cx.cfg.invalid_ratelimit
        {
            cx.inc(mib);
            return true;
        }
        self.last_oow_ack = cx.now.max(ferronet_core::Instant(1));
        false
    }

    /// Answers a segment that is outside the window (RFC 9293: "send an acknowledgment"), with D-SACK when it
    /// repeats what we have (`tcp_send_dupack`).
    pub(crate) fn send_dupack(&mut self, cx: &mut Cx<'_>, seq: u64, end: u64) {
        if end != seq && seq < self.rcv.nxt {
            cx.inc(Mib::TcpExtDelayedACKLost);
            self.enter_quickack(16);
            if self.sack_on && cx.cfg.dsack {
                self.dsack_set(cx, seq, end.min(self.rcv.nxt));
            }
        }
        self.ack.now = true;
    }
}
