//! TCP glue: demultiplexing, listeners, the SYN queue, accept, TIME_WAIT, output (`net/ipv4/tcp_ipv4.c`,
//! `tcp_minisocks.c`, `inet_connection_sock.c`). The protocol itself is the crate `ferronet-tcp`.
//!
//! Four memory classes, as in the kernel: [`Listener`], [`Request`] (SYN queue), a full [`TcpSock`] with its
//! `Tcb`, and [`TimeWaitSock`].

mod cookie;
mod demux;
mod err;
mod fastopen;
mod listen;
mod metrics;
pub mod opts;
mod rx;
#[cfg(test)]
mod tests;
mod timewait;
mod tx;
pub mod user;

use std::collections::VecDeque;

use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use ferronet_core::timer::TimerId;
use ferronet_core::{IfIndex, Instant, Sysctl};
use ferronet_tcp::{Config, CongAlg, RequestSock, SockOpts, Tcb, TimeWait};
use ferronet_wire::SeqNr;
use slotmap::{SlotMap, new_key_type};

pub use demux::FourTuple;
pub use err::tcp_err;
pub use listen::request_timer;
pub use metrics::config_from_sysctl;
pub use rx::{tcp_v4_rcv, tcp_v6_rcv};
pub use timewait::timewait_timer;
pub use tx::tcp_timer;
pub use user::connect_may_use;

use crate::fib::Route;
use crate::sock::SockKey;

new_key_type! {
    /// Names a request socket.
    pub struct ReqKey;
    /// Names a TIME_WAIT entry.
    pub struct TwKey;
}

/// A program's TCP socket.
#[derive(Debug)]
pub struct TcpSock {
    /// What it is now.
    pub kind: TcpKind,
    /// Options set before and after; copied into connections.
    pub opts: SockOpts,
    /// Route of the last transmission with the generations it is good for.
    route: Option<(Route, u64, u64)>,
    /// One wheel entry stands for all timers of the connection; it may fire early.
    timer: TimerId,
    armed: Instant,
    /// IPv4 identification of the next packet.
    ip_id: u16,
    /// Holds its local port in the bind table.
    pub bound: bool,
    /// connect(2) was called and has not yet told that it succeeded (`SS_CONNECTING`).
    connecting: bool,
    /// The listener that made it, while it waits to be accepted.
    parent: Option<SockKey>,
    /// The program closed it; it goes when the connection ends.
    pub orphan: bool,
    /// Bytes on the way between the program and the stack, for those who look at queues.
    pub edge: EdgeQueues,
}

/// What the edge has taken out of the stack and the program has not read, and the other way round; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeQueues {
    /// Received, not read by the program; an unread end of the stream counts one as in `rcv_nxt - copied_seq`.
    pub unread: u32,
    /// Written by the program, not yet in the send queue.
    pub unsent: u32,
}

/// The classes of a program's socket.
#[derive(Debug)]
pub enum TcpKind {
    /// Neither connected nor listening.
    Closed,
    /// Listening.
    Listen(Box<Listener>),
    /// A connection, in any state up to closed.
    Conn(Box<Tcb>),
}

/// A listening socket's queues.
#[derive(Debug, Default)]
pub struct Listener {
    /// Limit of the accept queue: min(backlog, somaxconn).
    pub max_ack_backlog: u32,
    /// Connections that wait for accept(2).
    pub accept_queue: VecDeque<SockKey>,
    /// Connections made by their SYN whose handshake ran when it was asked last.
    pub fastopen: Vec<SockKey>,
    /// Entries in the SYN queue (request sockets).
    pub qlen: u32,
    /// Of these, entries whose SYN-ACK was sent only once.
    pub young: u32,
    /// When the accept queue last overflowed: cookies are believed for a while after.
    pub last_overflow: Option<Instant>,
    /// Connection requests turned away (`sk_drops`).
    pub drops: u32,
}

/// An entry of the SYN queue.
#[derive(Debug)]
pub struct Request {
    /// Whose.
    pub listener: SockKey,
    /// Addresses.
    pub tuple: FourTuple,
    /// Device for link-local peers.
    pub dev: IfIndex,
    /// The protocol's part.
    pub req: RequestSock,
    timer: TimerId,
    /// Timeouts so far.
    pub num_timeout: u8,
}

/// An entry in TIME_WAIT (or FIN_WAIT2 without a program).
#[derive(Debug)]
pub struct TimeWaitSock {
    /// Addresses.
    pub tuple: FourTuple,
    /// The protocol's part.
    pub tw: TimeWait,
    timer: TimerId,
    /// Owner, for `ss`.
    pub uid: u32,
    /// Holds the local port.
    bound: bool,
    mark: u32,
    tos: u8,
    family: u8,
}

/// Who owns a four-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A full socket.
    Sock(SockKey),
    /// A request socket.
    Request(ReqKey),
    /// TIME_WAIT.
    TimeWait(TwKey),
}

/// TCP's tables of one namespace.
#[derive(Debug)]
pub struct TcpTables {
    ehash: KeyedMap<FourTuple, Owner>,
    listeners: KeyedMap<u16, smallvec::SmallVec<[SockKey; 1]>>,
    /// The SYN queues.
    pub requests: SlotMap<ReqKey, Request>,
    /// The same by their listeners, for the end of one.
    by_listener: std::collections::BTreeSet<(SockKey, ReqKey)>,
    /// TIME_WAIT.
    pub time_wait: SlotMap<TwKey, TimeWaitSock>,
    cfg: Config,
    cfg_generation: u64,
    isn_key: [u64; 2],
    ts_key: [u64; 2],
    cookie_key: [u64; 2],
    /// Connections without a program.
    pub orphans: u32,
    /// The next initial sequence number, when TIME_WAIT dictates it.
    next_isn: Option<SeqNr>,
}

impl TcpTables {
    /// Empty tables with fresh keys.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let mut key = || [rng.next_u64(), rng.next_u64()];
        let (isn_key, ts_key, cookie_key) = (key(), key(), key());
        TcpTables {
            ehash: KeyedMap::with_hasher(KeyedState::new(rng)),
            listeners: KeyedMap::with_hasher(KeyedState::new(rng)),
            requests: SlotMap::with_key(),
            by_listener: std::collections::BTreeSet::new(),
            time_wait: SlotMap::with_key(),
            cfg: Config::default(),
            cfg_generation: u64::MAX,
            isn_key,
            ts_key,
            cookie_key,
            orphans: 0,
            next_isn: None,
        }
    }

    /// Connections, requests and TIME_WAIT entries with their addresses, sorted.
    #[must_use]
    pub fn sorted(&self) -> Vec<(FourTuple, Owner)> {
        let mut v: Vec<_> = self.ehash.iter().map(|(t, o)| (*t, *o)).collect();
        v.sort_by_key(|e| e.0);
        v
    }

    /// Listening sockets, by port.
    #[must_use]
    pub fn listening(&self) -> Vec<(u16, SockKey)> {
        let mut v: Vec<_> = self.listeners.iter().flat_map(|(p, l)| l.iter().map(|k| (*p, *k))).collect();
        v.sort();
        v
    }
}

impl TimeWaitSock {
    /// Of an IPv6 socket?
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.family == crate::sock::common::AF_INET6
    }
}

impl TcpSock {
    /// In LISTEN?
    #[must_use]
    pub fn is_listening(&self) -> bool {
        matches!(self.kind, TcpKind::Listen(_))
    }
    /// `sk_shutdown`: the peer's FIN or the program's wish ends receiving (1), the own FIN sending (2).
    #[must_use]
    pub fn shutdown_bits(&self) -> u8 {
        match &self.kind {
            TcpKind::Conn(t) => u8::from(t.rcv_shutdown()) | u8::from(t.snd_shutdown()) << 1,
            TcpKind::Closed | TcpKind::Listen(_) => 0,
        }
    }
}

impl Default for TcpSock {
    fn default() -> Self {
        TcpSock {
            kind: TcpKind::Closed,
            opts: SockOpts::default(),
            route: None,
            timer: TimerId::NONE,
            armed: Instant::NEVER,
            ip_id: 0,
            bound: false,
            connecting: false,
            parent: None,
            orphan: false,
            edge: EdgeQueues::default(),
        }
    }
}

/// The congestion control a namespace uses by default.
#[must_use]
pub fn default_congestion(t: &ferronet_core::sysctl::SysctlTable) -> CongAlg {
    CongAlg::from_name(t.text(Sysctl::TcpCongestionControl)).unwrap_or_default()
}
