//! TIME_WAIT (and FIN_WAIT2 without a program): a small record that answers what still comes.

use core::time::Duration;

use ferronet_core::time::Instant;
use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::{SeqNr, TcpFlags, TcpOptions, Timestamps};

use crate::segment::{Cx, Kind, Segment, Transmit, reset_for};
use crate::state::State;
use crate::timers::TIMEWAIT_LEN;

/// What remains of a connection.
#[derive(Clone, Copy, Debug)]
pub struct TimeWait {
    /// `TimeWait` or `FinWait2`.
    pub state: State,
    pub(crate) rcv_wscale: u8,
    pub(crate) ts_ok: bool,
    pub(crate) rcv_nxt: SeqNr,
    pub(crate) snd_nxt: SeqNr,
    pub(crate) rcv_wnd: u32,
    pub(crate) ts_offset: u32,
    pub(crate) ts_recent: u32,
    pub(crate) ts_recent_at: Instant,
    pub(crate) last_oow_ack: Instant,
    /// When it goes away.
    pub deadline: Instant,
}

/// What to do with a segment for a [`TimeWait`].
#[derive(Clone, Debug)]
pub enum TwVerdict {
    /// Nothing more.
    Drop(DropReason),
    /// Send this acknowledgment; rearm [`TimeWait::deadline`].
    Ack(Box<Transmit>),
    /// Send this reset; the record is gone when `end`.
    Rst {
        /// The reset, when the segment may be answered with one.
        reset: Option<Box<Transmit>>,
        /// Whether the record ends.
        end: bool,
    },
    /// The record ends (RST).
    End,
    /// A SYN that may open a new connection (RFC 6191): remove the record, treat it as a SYN for the listener,
    /// and start with at least this sequence number.
    Reopen(SeqNr),
}

impl TimeWait {
    fn ts_now(&self, now: Instant) -> u32 {
        (now.millis() as u32).wrapping_add(self.ts_offset)
    }

    /// The ACK that repeats what was acknowledged last.
    fn ack(&self, now: Instant) -> Box<Transmit> {
        let mut t = Transmit::bare(self.snd_nxt, self.rcv_nxt, TcpFlags::ACK, Kind::Ack);
        t.wnd = (self.rcv_wnd >> self.rcv_wscale).min(65535) as u16;
        t.opts = TcpOptions {
            timestamps: self.ts_ok.then(|| Timestamps { tsval: self.ts_now(now), tsecr: self.ts_recent }),
            ..TcpOptions::default()
        };
        Box::new(t)
    }

    fn oow_ack(&mut self, cx: &mut Cx<'_>, seg: &Segment, mib: Mib, why: DropReason) -> TwVerdict {
        // Data is not part of a loop of acknowledgements (tcp_oow_rate_limited).
        if seg.seq_len() > 0 && !seg.has(TcpFlags::SYN) {
            return TwVerdict::Ack(self.ack(cx.now));
        }
        if self.last_oow_ack != Instant::ZERO && cx.now - self.last_oow_ack < cx.cfg.invalid_ratelimit {
            cx.inc(mib);
            return TwVerdict::Drop(why);
        }
        self.last_oow_ack = cx.now;
        TwVerdict::Ack(self.ack(cx.now))
    }

    fn paws_reject(&self, seg: &Segment) -> bool {
        self.ts_ok
            && seg.opts.timestamps.is_some_and(|t| (self.ts_recent.wrapping_sub(t.tsval) as i32) > 0)
            && !seg.has(TcpFlags::RST)
    }

    fn take_ts(&mut self, cx: &Cx<'_>, seg: &Segment) {
        if let (true, Some(t)) = (self.ts_ok, seg.opts.timestamps) {
            self.ts_recent = t.tsval;
            self.ts_recent_at = cx.now;
        }
    }

    /// A segment arrives (`tcp_timewait_state_process`, RFC 9293 §3.10.7.4, RFC 6191 §2).
    pub fn rcv(&mut self, cx: &mut Cx<'_>, seg: &Segment) -> TwVerdict {
        if self.state == State::FinWait2 { self.rcv_fin_wait2(cx, seg) } else { self.rcv_time_wait(cx, seg) }
    }

    fn rcv_fin_wait2(&mut self, cx: &mut Cx<'_>, seg: &Segment) -> TwVerdict {
        let end = seg.seq + seg.seq_len();
        let limit = self.rcv_nxt + self.rcv_wnd;
        let in_window = seg.seq == self.rcv_nxt
            || (seg.seq.lt(limit) && end.gt(self.rcv_nxt))
            || (seg.seq == limit && end == limit);
        if self.paws_reject(seg) || !in_window {
            return self.oow_ack(cx, seg, Mib::TcpExtTCPACKSkippedFinWait2, DropReason::TcpOutOfWindow);
        }
        if seg.has(TcpFlags::RST) {
            return TwVerdict::End;
        }
        if seg.has(TcpFlags::SYN) && !seg.seq.lt(self.rcv_nxt) {
            return TwVerdict::Rst { reset: reset_for(seg).map(Box::new), end: true };
        }
        if !seg.has(TcpFlags::ACK) || !end.gt(self.rcv_nxt) || end == seg.seq {
            return TwVerdict::Drop(DropReason::TcpTimeWait);
        }
        // New data, or a FIN that does not come next: there is nobody to read it.
        if !seg.has(TcpFlags::FIN) || end != self.rcv_nxt + 1 {
            return TwVerdict::Rst { reset: reset_for(seg).map(Box::new), end: true };
        }
        self.state = State::TimeWait;
        self.rcv_nxt = end;
        self.take_ts(cx, seg);
        self.deadline = cx.now + TIMEWAIT_LEN;
        TwVerdict::Ack(self.ack(cx.now))
    }

    fn rcv_time_wait(&mut self, cx: &mut Cx<'_>, seg: &Segment) -> TwVerdict {
        let paws = self.paws_reject(seg);
        let rst = seg.has(TcpFlags::RST);
        if !paws && seg.seq == self.rcv_nxt && (seg.seq_len() == 0 || rst) {
            if rst {
                // RFC 1337: assassination of TIME_WAIT; Linux allows it unless told otherwise.
                if !cx.cfg.rfc1337 {
                    return TwVerdict::End;
                }
            } else {
                self.deadline = cx.now + TIMEWAIT_LEN;
            }
            self.take_ts(cx, seg);
            return TwVerdict::Drop(DropReason::TcpTimeWait);
        }
        // RFC 6191: a SYN with a later timestamp, or a higher sequence number, opens a new connection.
        let newer_ts = self.ts_ok
            && seg.opts.timestamps.is_some_and(|t| (self.ts_recent.wrapping_sub(t.tsval) as i32) < 0);
        if seg.has(TcpFlags::SYN)
            && !rst
            && !seg.has(TcpFlags::ACK)
            && !paws
            && (seg.seq.gt(self.rcv_nxt) || newer_ts)
        {
            let mut isn = self.snd_nxt + (65535 + 2);
            if isn.0 == 0 {
                isn += 1;
            }
            return TwVerdict::Reopen(isn);
        }
        if paws {
            cx.inc(Mib::TcpExtPAWSEstab);
        }
        if rst {
            return TwVerdict::Drop(DropReason::TcpTimeWait);
        }
        // An old duplicate or a retransmitted FIN: our last ACK was lost. The wait starts again.
        if paws || seg.has(TcpFlags::ACK) {
            self.deadline = cx.now + TIMEWAIT_LEN;
        }
        self.oow_ack(cx, seg, Mib::TcpExtTCPACKSkippedTimeWait, DropReason::TcpTimeWait)
    }

    /// Whether an active open may reuse the pair (`tcp_twsk_unique`): the peer's PAWS protects it once the
    /// timestamp clock has moved on for `delay`. Returns the ISN and the timestamp to remember.
    #[must_use]
    pub fn reusable(&self, now: Instant, delay: Duration) -> Option<SeqNr> {
        (self.ts_ok && now - self.ts_recent_at > delay).then(|| self.snd_nxt + (65535 + 2))
    }
    /// Next sequence number expected and next sequence number sent, for `ss`.
    #[must_use]
    pub fn seqs(&self) -> (SeqNr, SeqNr) {
        (self.rcv_nxt, self.snd_nxt)
    }
}
