//! The connection: states, [`Tcb`] and its parts.
//!
//! Sequence numbers are kept as 64-bit stream positions whose low 32 bits are the wire's sequence number, so
//! that comparing them needs no modular arithmetic. A number from the wire is unwrapped once, against
//! `rcv.nxt` or `snd.una`, in `Tcb::rcv`. Positions start above 2^32, so going back never underflows.
//!
//! ```text
//!   send:    una            nxt        una+wnd       write_seq
//!     ───────┼───────────────┼────────────┼──────────────┼───▶
//!      acked │   in flight   │ may be sent│  must wait   │
//!   receive: copied         nxt          wup+wnd
//!     ───────┼───────────────┼────────────────┼───▶
//!       read │   readable    │     window     │
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use ferronet_core::time::{Duration, Instant};
use ferronet_core::{Errno, Mib};
use ferronet_wire::tcp::{SeqNr, TcpFlags};

use crate::config::SockOpts;
use crate::cong::{Congestion, Cwnd};
use crate::rtt::Rtt;
use crate::segment::{Cx, Payload};
use crate::timers::Timers;

/// Connection states with the numbers of Linux (`include/net/tcp_states.h`).
#[allow(missing_docs, reason = "RFC 9293 §3.3.2 documents them")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

impl State {
    /// The peer acknowledged our SYN and we its.
    #[must_use]
    pub const fn is_synchronized(self) -> bool {
        match self {
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::CloseWait
            | State::LastAck
            | State::Closing => true,
            State::SynSent | State::SynRecv | State::Close | State::Listen => false,
        }
    }
    /// Data may be sent.
    #[must_use]
    pub const fn can_send(self) -> bool {
        match self {
            State::Established | State::CloseWait => true,
            State::SynSent
            | State::SynRecv
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::LastAck
            | State::Listen
            | State::Closing => false,
        }
    }
}

/// Edges since the last [`Tcb::take_events`]; a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Events(pub u8);

impl Events {
    /// More to read, or end of stream.
    pub const READABLE: Events = Events(1);
    /// Room in the send buffer after it was full, or connected.
    pub const WRITABLE: Events = Events(2);
    /// An error to report.
    pub const ERROR: Events = Events(4);
    /// The state changed.
    pub const STATE: Events = Events(8);
    /// Urgent data.
    pub const URGENT: Events = Events(16);

    /// All of `o` set.
    #[must_use]
    pub const fn contains(self, o: Events) -> bool {
        self.0 & o.0 == o.0
    }
    /// None set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub(crate) fn add(&mut self, o: Events) {
        self.0 |= o.0;
    }
}

/// Bytes of a send queue with the stream position of their first.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) seq: u64,
    pub(crate) data: Bytes,
}

/// The sending side.
#[derive(Debug, Default)]
pub(crate) struct Snd {
    pub(crate) iss: u64,
    pub(crate) una: u64,
    pub(crate) nxt: u64,
    /// End of queued data; the FIN, if any, has this position.
    pub(crate) write_seq: u64,
    /// `seq` of the segment that last set `wnd` (`snd_wl1`).
    pub(crate) wl1: u64,
    /// End of the last segment below the MSS (Minshall's Nagle).
    pub(crate) sml: u64,
    /// End of urgent data; 0 for none.
    pub(crate) up: u64,
    /// Peer's window in bytes, and the largest seen.
    pub(crate) wnd: u32,
    pub(crate) max_wnd: u32,
    pub(crate) sndbuf: u32,
    /// What the path takes: MTU less fixed headers.
    pub(crate) path_mss: u16,
    /// The peer's MSS option.
    pub(crate) mss_clamp: u16,
    /// Payload of a full segment: the least of both, less timestamps.
    pub(crate) mss: u16,
    pub(crate) wscale: u8,
    pub(crate) fin: bool,
    /// The program saw a full buffer and waits.
    pub(crate) nospace: bool,
    /// The last send said that more follows (`MSG_MORE`).
    pub(crate) more: bool,
    pub(crate) wq: VecDeque<Chunk>,
    /// Small writes are gathered here; its data follows `wq`'s.
    pub(crate) tail: BytesMut,
    /// Last data transmission (`lsndtime`).
    pub(crate) last_tx: Instant,
}

/// Out-of-order data.
#[derive(Clone, Debug)]
pub(crate) struct OfoSeg {
    pub(crate) end: u64,
    pub(crate) fin: bool,
    pub(crate) payload: Payload,
}

/// The receiving side.
#[derive(Debug, Default)]
pub(crate) struct Rcv {
    pub(crate) irs: u64,
    pub(crate) nxt: u64,
    /// The program has read up to here.
    pub(crate) copied: u64,
    /// `nxt` when the window was last advertised, and that window.
    pub(crate) wup: u64,
    pub(crate) wnd: u32,
    /// Current limit of the window offered (`rcv_ssthresh`), and its bound.
    pub(crate) ssthresh: u32,
    pub(crate) clamp: u32,
    pub(crate) rcvbuf: u32,
    /// Memory charged for `q` and `ofo`.
    pub(crate) mem: u32,
    pub(crate) advmss: u16,
    pub(crate) wscale: u8,
    pub(crate) fin: bool,
    /// Reads return end of stream: peer's FIN, or `SHUT_RD`, or close.
    pub(crate) shutdown: bool,
    pub(crate) nsacks: u8,
    pub(crate) q: VecDeque<Bytes>,
    /// Small payloads are gathered here; its data follows `q`'s.
    pub(crate) tail: BytesMut,
    pub(crate) ofo: BTreeMap<u64, OfoSeg>,
    pub(crate) sacks: [(u64, u64); 4],
    pub(crate) dsack: Option<(u64, u64)>,
    pub(crate) ts_recent: u32,
    pub(crate) ts_recent_at: Instant,
    /// Position of the urgent byte, if there is one.
    pub(crate) up: u64,
    pub(crate) urg: crate::rcv::urg::Urg,
    /// Receiver's RTT estimate times 8, µs, and its running measurement.
    pub(crate) rtt8_us: u32,
    pub(crate) rtt_seq: u64,
    pub(crate) rtt_at: Instant,
    pub(crate) rtt_tsecr: u32,
    /// Bytes the program read in the last RTT, and since when this one runs.
    pub(crate) space: u32,
    pub(crate) space_seq: u64,
    pub(crate) space_at: Instant,
}

/// Delayed acknowledgment (`inet_connection_sock::icsk_ack`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DelAck {
    /// An ACK is owed.
    pub(crate) sched: bool,
    /// Owed at once.
    pub(crate) now: bool,
    /// Data was acknowledged late because a PSH segment came (ACK when the queue is read empty).
    pub(crate) pushed: u8,
    /// ACKs that go out at once.
    pub(crate) quick: u8,
    /// Interactive: replies carry ACKs.
    pub(crate) pingpong: u8,
    /// Delay, µs.
    pub(crate) ato_us: u32,
    /// Guess of the sender's MSS, and the last segment's size.
    pub(crate) rcv_mss: u16,
    pub(crate) last_seg_size: u16,
    pub(crate) last_rx: Instant,
}

/// ECN (RFC 3168 §6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ecn {
    pub(crate) ok: bool,
    /// Tell the peer until it says CWR.
    pub(crate) demand_cwr: bool,
    /// Our window was reduced: say so.
    pub(crate) queue_cwr: bool,
    pub(crate) seen: bool,
}

/// Counts for `tcp_info`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) segs_in: u32,
    pub(crate) segs_out: u32,
    pub(crate) data_segs_in: u32,
    pub(crate) data_segs_out: u32,
    pub(crate) total_retrans: u32,
    pub(crate) dsack_dups: u32,
    pub(crate) reord_seen: u32,
    pub(crate) rcv_ooopack: u32,
    pub(crate) delivered_ce: u32,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_retrans: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_acked: u64,
    pub(crate) last_ack_rx: Instant,
    /// Delivery rate: segments, the interval in µs they took, and whether the program limited it.
    pub(crate) rate_delivered: u32,
    pub(crate) rate_interval_us: u32,
    /// Busy sending since (NEVER: not), and total, µs.
    pub(crate) busy_since: Option<Instant>,
    pub(crate) busy_us: u64,
}

/// What `poll_transmit` owes besides data and ACKs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owed {
    pub(crate) syn: bool,
    pub(crate) probe0: bool,
    pub(crate) keepalive: bool,
    pub(crate) tlp: bool,
    /// The timeout's own retransmission is still to come.
    pub(crate) rto_head: bool,
    pub(crate) rst: Option<(SeqNr, SeqNr, TcpFlags)>,
}

/// One connection.
#[derive(Debug)]
pub struct Tcb {
    pub(crate) state: State,
    /// Socket options; change them at any time.
    pub opts: SockOpts,
    pub(crate) snd: Snd,
    pub(crate) rcv: Rcv,
    pub(crate) ack: DelAck,
    pub(crate) rtt: Rtt,
    pub(crate) w: Cwnd,
    pub(crate) cong: Congestion,
    pub(crate) rec: crate::recovery::Recovery,
    pub(crate) txq: crate::sack::TxQueue,
    pub(crate) timers: Timers,
    pub(crate) owed: Owed,
    pub(crate) ecn: Ecn,
    pub(crate) stats: Stats,
    pub(crate) ts_offset: u32,
    pub(crate) ts_on: bool,
    pub(crate) sack_on: bool,
    pub(crate) wscale_on: bool,
    /// The program closed it.
    pub(crate) orphan: bool,
    pub(crate) passive: bool,
    /// Made by a SYN with a Fast Open cookie, whose handshake is not complete.
    pub(crate) fastopen: Option<Box<crate::fastopen::Handshake>>,
    pub(crate) error: Option<Errno>,
    pub(crate) soft_error: Option<Errno>,
    pub(crate) events: Events,
    /// Last ACK that answered an invalid segment.
    pub(crate) last_oow_ack: Instant,
}

impl Tcb {
    /// Current state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }
    /// Takes the edges.
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }
    /// Takes the error that `SO_ERROR` or the next call reports.
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }
    /// The pending error, left in place.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        self.error
    }
    /// The last error that did not end the connection (`sk_err_soft`).
    #[must_use]
    pub fn soft_error(&self) -> Option<Errno> {
        self.soft_error
    }
    /// The program closed this connection; it finishes by itself.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        self.orphan
    }
    /// Whether a quoted sequence number is of a segment in flight (RFC 5927 §4.1).
    #[must_use]
    pub fn sent_and_unacked(&self, seq: SeqNr) -> bool {
        let s = self.unwrap_ack(seq);
        s >= self.snd.una && s < self.snd.nxt
    }
    /// Nothing more will be read: peer's FIN or our `SHUT_RD`.
    #[must_use]
    pub fn rcv_shutdown(&self) -> bool {
        self.rcv.shutdown
    }
    /// Nothing more may be written.
    #[must_use]
    pub fn snd_shutdown(&self) -> bool {
        self.snd.fin || self.state == State::Close
    }

    /// Moves to `to` and counts (RFC 4022: `tcpCurrEstab` is ESTABLISHED and CLOSE_WAIT).
    pub(crate) fn set_state(&mut self, cx: &mut Cx<'_>, to: State) {
        let from = self.state;
        if from == to {
            return;
        }
        let counted = |s| s == State::Established || s == State::CloseWait;
        match (counted(from), counted(to)) {
            (false, true) => cx.mib.inc(Mib::TcpCurrEstab),
            (true, false) => cx.mib.dec(Mib::TcpCurrEstab),
            (true, true) | (false, false) => {}
        }
        if to == State::Close && counted(from) {
            cx.inc(Mib::TcpEstabResets);
        }
        self.state = to;
        self.events.add(Events::STATE);
    }

    /// The timestamp clock: milliseconds (RFC 7323 §5.4), plus this connection's offset.
    #[inline]
    pub(crate) fn ts_now(&self, now: Instant) -> u32 {
        (now.millis() as u32).wrapping_add(self.ts_offset)
    }

    /// Stream position of a peer's sequence number.
    #[inline]
    pub(crate) fn unwrap_seq(&self, s: SeqNr) -> u64 {
        unwrap_near(self.rcv.nxt, s)
    }
    /// Stream position of an acknowledgment number.
    #[inline]
    pub(crate) fn unwrap_ack(&self, a: SeqNr) -> u64 {
        unwrap_near(self.snd.una, a)
    }
    /// End of the window the peer may use (`rcv_wup + rcv_wnd`), as bytes from `rcv.nxt`.
    #[inline]
    pub(crate) fn receive_window(&self) -> u32 {
        (self.rcv.wup + u64::from(self.rcv.wnd)).saturating_sub(self.rcv.nxt) as u32
    }
    /// Ends the connection with an error for the program, if there is still one.
    pub(crate) fn done(&mut self, cx: &mut Cx<'_>, error: Option<Errno>) {
        if let Some(e) = error {
            self.error = Some(e);
            self.events.add(Events::ERROR);
        }
        if matches!(self.state, State::SynSent | State::SynRecv) {
            cx.inc(Mib::TcpAttemptFails);
        }
        self.timers = Timers::default();
        self.ack = DelAck::default();
        self.owed.syn = false;
        self.owed.probe0 = false;
        self.owed.keepalive = false;
        self.owed.tlp = false;
        self.purge_send();
        self.rcv.shutdown = true;
        self.ofo_clear();
        self.set_state(cx, State::Close);
        self.events.add(Events::READABLE);
        self.events.add(Events::WRITABLE);
    }
    pub(crate) fn purge_send(&mut self) {
        self.snd.wq = VecDeque::new();
        self.snd.tail = BytesMut::new();
        self.txq.clear();
        self.rec.lost_out = 0;
        self.rec.sacked_out = 0;
        self.rec.retrans_out = 0;
    }

    /// Longest retransmission timeout (`tcp_rto_max`).
    pub(crate) fn rto_max(&self, cx: &Cx<'_>) -> Duration {
        match self.opts.rto_max_ms {
            0 => cx.cfg.rto_max,
            ms => Duration::from_millis(u64::from(ms)),
        }
    }

    /// User timeout or `None`.
    pub(crate) fn user_timeout(&self) -> Option<Duration> {
        (self.opts.user_timeout_ms > 0).then(|| Duration::from_millis(u64::from(self.opts.user_timeout_ms)))
    }
}

/// The position whose low 32 bits are `s` and that is nearest to `near`.
#[inline]
pub(crate) fn unwrap_near(near: u64, s: SeqNr) -> u64 {
    near.wrapping_add_signed(i64::from(s.0.wrapping_sub(near as u32) as i32))
}

/// First position of a stream that starts with wire number `s`.
pub(crate) fn origin(s: SeqNr) -> u64 {
    (1 << 32) | u64::from(s.0)
}

/// The wire's form of a position.
#[inline]
pub(crate) fn wire(p: u64) -> SeqNr {
    SeqNr(p as u32)
}
