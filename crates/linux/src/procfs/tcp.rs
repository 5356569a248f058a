//! `/proc/net/{tcp,tcp6}` (`net/ipv4/tcp_ipv4.c`, `net/ipv6/tcp_ipv6.c`).

use core::fmt::Write as _;
use core::net::IpAddr;
use core::time::Duration;

use ferronet_stack::Namespace;
use ferronet_stack::sock::{Proto, SockKey};
use ferronet_stack::tcp::{FourTuple, Owner, Request, TcpKind, TimeWaitSock, user};
use ferronet_tcp::{Tcb, TimerInfo};
use slotmap::Key as _;

use crate::kernel::Kernel;

/// `TCP_*` state numbers of the kernel (`net/tcp_states.h`) that have no Tcb.
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// `TCP_INFINITE_SSTHRESH`: still in the first slow start.
const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;

/// An address as the kernel prints it: each 32-bit word in memory order, read as a number.
pub(super) fn hex(a: IpAddr, v6: bool) -> String {
    let words = |o: [u8; 16]| {
        o.chunks(4)
            .map(|w| format!("{:02X}{:02X}{:02X}{:02X}", at(w, 3), at(w, 2), at(w, 1), at(w, 0)))
            .collect()
    };
    match (a, v6) {
        (IpAddr::V4(a), false) => format!("{:08X}", a.to_bits().swap_bytes()),
        (IpAddr::V4(a), true) if a.is_unspecified() => words([0; 16]),
        (IpAddr::V4(a), true) => words(a.to_ipv6_mapped().octets()),
        (IpAddr::V6(a), _) => words(a.octets()),
    }
}

fn at(b: &[u8], i: usize) -> u8 {
    b.get(i).copied().unwrap_or(0)
}

/// Clock ticks of 10 ms (`jiffies_to_clock_t`).
fn ticks(d: Duration) -> u64 {
    d.as_millis() as u64 / 10
}

/// What a pointer column shows without leaking one: a number that names the object.
pub(super) fn pointer(key: u64) -> String {
    format!("{:016x}", key & 0xffff_ffff)
}

/// The columns up to `retrnsmt` that all rows share.
struct Row {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    state: u8,
    queues: (u32, u32),
    timer: (u8, u64),
    retransmits: u32,
}

struct Table {
    text: String,
    v6: bool,
    n: usize,
}

impl Table {
    fn new(v6: bool) -> Table {
        let text = if v6 {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr \
             tm->when retrnsmt   uid  timeout inode\n"
                .to_owned()
        } else {
            let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
            format!("{head:<149}\n")
        };
        Table { text, v6, n: 0 }
    }

    fn push(&mut self, r: &Row, rest: &str) {
        let (l, m) = (hex(r.local.0, self.v6), hex(r.remote.0, self.v6));
        let row = format!(
            "{:>4}: {l}:{:04X} {m}:{:04X} {:02X} {:08X}:{:08X} {:02X}:{:08X} {:08X} {rest}",
            self.n,
            r.local.1,
            r.remote.1,
            r.state,
            r.queues.0,
            r.queues.1,
            r.timer.0,
            r.timer.1,
            r.retransmits
        );
        let _ = if self.v6 { writeln!(self.text, "{row}") } else { writeln!(self.text, "{row:<149}") };
        self.n += 1;
    }

    /// A full socket (`get_tcp4_sock`).
    fn sock(&mut self, ns: &Namespace, key: SockKey) {
        let Some(s) = ns.socks.socks.get(key) else { return };
        let Proto::Tcp(t) = &s.proto else { return };
        let c = &s.common;
        if c.is_v6() != self.v6 {
            return;
        }
        let mut row = Row {
            local: (c.local, c.lport),
            remote: c.peer.unwrap_or((any(self.v6), 0)),
            state: CLOSE,
            queues: (0, 0),
            timer: (0, 0),
            retransmits: 0,
        };
        let mut tail = "100 0 0 10 0".to_owned();
        let mut probes = 0;
        match &t.kind {
            TcpKind::Listen(l) => {
                row.state = LISTEN;
                row.queues.1 = l.accept_queue.len() as u32;
            }
            TcpKind::Conn(tcb) => {
                row.state = tcb.state() as u8;
                let (rqueue, wqueue) = user::queues(ns, key);
                row.queues = (wqueue, rqueue);
                row.timer = timer(ns, tcb);
                row.retransmits = u32::from(tcb.retransmits());
                probes = tcb.probes();
                let ((cwnd, ssthresh), (ato, quick)) = (tcb.cwnd(), tcb.ack_info());
                let ssthresh = if ssthresh >= INFINITE_SSTHRESH { -1 } else { i64::from(ssthresh) };
                tail = format!("{} {} {quick} {cwnd} {ssthresh}", ticks(tcb.rto()), ato / 10);
            }
            TcpKind::Closed => {}
        }
        // References: the table's and the program's; a running timer holds one more.
        let refs = 1 + u32::from(row.timer.0 != 0);
        let rest =
            format!("{:>5} {probes:>8} {} {refs} {} {tail}", c.uid, c.inode, pointer(key.data().as_ffi()));
        self.push(&row, &rest);
    }

    /// `get_openreq4`.
    fn request(&mut self, ns: &Namespace, q: &Request, key: u64) {
        let Some(l) = ns.socks.socks.get(q.listener).map(|s| &s.common) else { return };
        if l.is_v6() != self.v6 {
            return;
        }
        let row = Row {
            local: (q.tuple.laddr, q.tuple.lport),
            remote: (q.tuple.raddr, q.tuple.rport),
            state: SYN_RECV,
            queues: (0, 0),
            timer: (1, ticks(q.req.expires_in(ns.env.now))),
            retransmits: u32::from(q.num_timeout),
        };
        self.push(&row, &format!("{:>5} {:>8} 0 0 {}", l.uid, 0, pointer(key)));
    }

    /// `get_timewait4_sock`.
    fn time_wait(&mut self, ns: &Namespace, tuple: &FourTuple, w: &TimeWaitSock, key: u64) {
        if w.is_v6() != self.v6 {
            return;
        }
        let row = Row {
            local: (tuple.laddr, tuple.lport),
            remote: (tuple.raddr, tuple.rport),
            state: w.tw.state as u8,
            queues: (0, 0),
            timer: (3, ticks(w.tw.deadline - ns.env.now)),
            retransmits: 0,
        };
        self.push(&row, &format!("{:>5} {:>8} 0 3 {}", 0, 0, pointer(key)));
    }
}

/// The timer column and its time: 1 retransmission, 2 keepalive, 4 zero window probe.
fn timer(ns: &Namespace, tcb: &Tcb) -> (u8, u64) {
    match tcb.timer() {
        TimerInfo::Off => (0, 0),
        TimerInfo::Retrans(t) => (1, ticks(t - ns.env.now)),
        TimerInfo::Keepalive(t) => (2, ticks(t - ns.env.now)),
        TimerInfo::Persist(t) => (4, ticks(t - ns.env.now)),
    }
}

fn any(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)
    }
}

fn table(ns: &Namespace, v6: bool) -> Vec<u8> {
    let mut t = Table::new(v6);
    for (_, key) in ns.socks.tcp.listening() {
        t.sock(ns, key);
    }
    for (tuple, owner) in ns.socks.tcp.sorted() {
        match owner {
            Owner::Sock(key) => t.sock(ns, key),
            Owner::Request(key) => {
                if let Some(q) = ns.socks.tcp.requests.get(key) {
                    t.request(ns, q, key.data().as_ffi());
                }
            }
            Owner::TimeWait(key) => {
                if let Some(w) = ns.socks.tcp.time_wait.get(key) {
                    t.time_wait(ns, &tuple, w, key.data().as_ffi());
                }
            }
        }
    }
    t.text.into_bytes()
}

/// `tcp4_seq_show`: listeners, then connections in order of their addresses.
pub(super) fn tcp(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    table(ns, false)
}

/// `tcp6_seq_show`.
pub(super) fn tcp6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    table(ns, true)
}
