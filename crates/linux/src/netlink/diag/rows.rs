//! What sock_diag tells of one socket, read from the tables.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use ferronet_stack::Namespace;
use ferronet_stack::sock::{Proto, SockFlags, SockKey};
use ferronet_stack::tcp::{self, Owner, TcpKind};
use ferronet_tcp::TimerInfo;
use slotmap::Key;

/// Socket states (`TCP_*`).
pub(super) mod state {
    pub(crate) const ESTABLISHED: u8 = 1;
    pub(crate) const SYN_RECV: u8 = 3;
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const LISTEN: u8 = 10;
}

/// What a row stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Sock(SockKey),
    /// A request socket or TIME_WAIT: nothing but the row itself.
    Mini,
}

/// One socket.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) who: Who,
    pub(super) v6: bool,
    pub(super) state: u8,
    pub(super) timer: u8,
    pub(super) retrans: u8,
    pub(super) expires_ms: u32,
    pub(super) local: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
    pub(super) dev: u32,
    pub(super) cookie: u64,
    pub(super) rqueue: u32,
    pub(super) wqueue: u32,
    pub(super) uid: u32,
    pub(super) inode: u64,
    pub(super) mark: u32,
    /// The program chose the port.
    pub(super) bound_port: bool,
}

fn any(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

fn ms(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

/// A full socket.
pub(super) fn sock(ns: &Namespace, key: SockKey) -> Option<Row> {
    let s = ns.socks.socks.get(key)?;
    let c = &s.common;
    let mut row = Row {
        who: Who::Sock(key),
        v6: c.is_v6(),
        state: state::CLOSE,
        timer: 0,
        retrans: 0,
        expires_ms: 0,
        local: (c.local, c.lport),
        remote: c.peer.unwrap_or((any(c.is_v6()), 0)),
        dev: c.bound_dev.0,
        cookie: key.data().as_ffi(),
        rqueue: 0,
        wqueue: 0,
        uid: c.uid,
        inode: c.inode,
        mark: c.mark,
        bound_port: c.flags.contains(SockFlags::BINDPORT_LOCK),
    };
    match &s.proto {
        Proto::Tcp(t) => {
            (row.rqueue, row.wqueue) = tcp::user::queues(ns, key);
            match &t.kind {
                TcpKind::Closed => {}
                TcpKind::Listen(_) => row.state = state::LISTEN,
                TcpKind::Conn(tcb) => {
                    row.state = tcb.state() as u8;
                    let left = |at| ms(at - ns.env.now);
                    (row.timer, row.retrans, row.expires_ms) = match tcb.timer() {
                        TimerInfo::Off => (0, 0, 0),
                        TimerInfo::Retrans(at) => (1, tcb.retransmits(), left(at)),
                        TimerInfo::Keepalive(at) => (2, tcb.probes(), left(at)),
                        TimerInfo::Persist(at) => (4, tcb.probes(), left(at)),
                    };
                }
            }
        }
        Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => {
            if c.peer.is_some() {
                row.state = state::ESTABLISHED;
            }
            row.rqueue = s.proto.rx().map_or(0, |x| x.rqueue());
        }
    }
    Some(row)
}

/// All TCP sockets: listeners, then connections with requests and TIME_WAIT.
pub(super) fn tcp_rows(ns: &Namespace) -> Vec<Row> {
    let t = &ns.socks.tcp;
    let mut out: Vec<Row> = t.listening().into_iter().filter_map(|(_, k)| sock(ns, k)).collect();
    for (tuple, owner) in t.sorted() {
        let (local, remote) = ((tuple.laddr, tuple.lport), (tuple.raddr, tuple.rport));
        match owner {
            Owner::Sock(k) => out.extend(sock(ns, k)),
            Owner::Request(k) => {
                let Some(q) = t.requests.get(k) else { continue };
                let Ok(l) = ns.socks.common(q.listener) else { continue };
                let left = q.req.expires_in(ns.env.now);
                let base = mini(l.is_v6(), state::SYN_RECV, local, remote);
                let row = Row {
                    timer: 1,
                    retrans: q.num_timeout,
                    expires_ms: ms(left),
                    mark: l.mark,
                    cookie: k.data().as_ffi() ^ (1 << 63),
                    ..base
                };
                out.push(row);
            }
            Owner::TimeWait(k) => {
                let Some(w) = t.time_wait.get(k) else { continue };
                let base = mini(w.is_v6(), w.state() as u8, local, remote);
                let row = Row {
                    timer: 3,
                    expires_ms: ms(w.tw.deadline - ns.env.now),
                    cookie: k.data().as_ffi() ^ (1 << 62),
                    ..base
                };
                out.push(row);
            }
        }
    }
    out
}

fn mini(v6: bool, state: u8, local: (IpAddr, u16), remote: (IpAddr, u16)) -> Row {
    let own = |a: IpAddr| match a {
        IpAddr::V4(a) if v6 => IpAddr::V6(a.to_ipv6_mapped()),
        a => a,
    };
    Row {
        who: Who::Mini,
        v6,
        state,
        timer: 0,
        retrans: 0,
        expires_ms: 0,
        local: (own(local.0), local.1),
        remote: (own(remote.0), remote.1),
        dev: 0,
        cookie: 0,
        rqueue: 0,
        wqueue: 0,
        uid: 0,
        inode: 0,
        mark: 0,
        bound_port: true,
    }
}

/// All UDP sockets, by port.
pub(super) fn udp_rows(ns: &Namespace) -> Vec<Row> {
    ns.socks.udp.sorted().into_iter().filter_map(|(_, k)| sock(ns, k)).collect()
}
