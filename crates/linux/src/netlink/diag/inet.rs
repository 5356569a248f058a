//! TCP, UDP and raw sockets (`net/ipv4/inet_diag.c`, `tcp_diag.c`, `udp_diag.c`, `raw_diag.c`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, NsId};
use ferronet_stack::Namespace;
use ferronet_stack::sock::{Proto, SockFlags, SockKey};
use ferronet_stack::tcp::{self, TcpKind};
use ferronet_stack::udp;

use super::super::Req;
use super::super::codec::{AttrIter, Fields, Msg, nlm_f};
use super::super::dump::{DumpCx, Out, Source};
use super::rows::{self, Row, Who, state};
use super::{AF_INET, AF_INET6, SOCK_DIAG_BY_FAMILY, bytecode};
use crate::kernel::Kernel;
use crate::socket::opts::tcp_info;

/// Attributes of an answer (`INET_DIAG_*`); an extension is asked for with bit n − 1.
mod attr {
    pub(super) const MEMINFO: u16 = 1;
    pub(super) const INFO: u16 = 2;
    pub(super) const CONG: u16 = 4;
    pub(super) const TOS: u16 = 5;
    pub(super) const TCLASS: u16 = 6;
    pub(super) const SKMEMINFO: u16 = 7;
    pub(super) const SHUTDOWN: u16 = 8;
    pub(super) const SKV6ONLY: u16 = 11;
    pub(super) const PROTOCOL: u16 = 12;
    pub(super) const MARK: u16 = 15;
    pub(super) const CLASS_ID: u16 = 17;
    pub(super) const SOCKOPT: u16 = 22;
}

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// Bytes of `struct inet_diag_req_v2`.
const REQ: usize = 56;

/// A request.
#[derive(Clone, Debug)]
struct Query {
    family: u8,
    protocol: u8,
    ext: u8,
    states: u32,
    sport: u16,
    dport: u16,
    src: [u8; 16],
    dst: [u8; 16],
    dev: u32,
    cookie: u64,
    code: Vec<u8>,
}

fn read(r: &mut Req<'_, '_>) -> Result<Query, Errno> {
    const REQ_BYTECODE: u16 = 1;
    const REQ_PROTOCOL: u16 = 3;
    let (head, attrs) = r.split(REQ).ok_or(Errno::EINVAL)?;
    let mut f = Fields(head);
    let (family, protocol, ext, _) = (f.u8(), f.u8(), f.u8(), f.u8());
    let states = f.u32();
    let (sport, dport) = (f.be16(), f.be16());
    let (src, dst) = (f.b16(), f.b16());
    let dev = f.u32();
    let cookie = u64::from(f.u32()) | u64::from(f.u32()) << 32;
    let mut q =
        Query { family, protocol, ext, states, sport, dport, src, dst, dev, cookie, code: Vec::new() };
    let mut long = None;
    for a in attrs as AttrIter<'_> {
        match a.ty {
            REQ_BYTECODE => {
                if a.data.len() < 4 {
                    return Err(Errno::EINVAL);
                }
                bytecode::audit(a.data)?;
                q.code = a.data.to_vec();
            }
            REQ_PROTOCOL => long = Some(a.u32()),
            _ => {}
        }
    }
    if let Some(p) = long {
        // Numbers beyond 255, such as MPTCP, belong to protocols that are not here.
        q.protocol = u8::try_from(p).unwrap_or(0);
    }
    Ok(q)
}

/// All sockets of a protocol. As without the module raw_diag, `ss` reads raw sockets from /proc/net: of iproute2 6.1
/// and others, only that way shows the right name of the protocol.
fn all_rows(ns: &Namespace, protocol: u8) -> Option<Vec<Row>> {
    match protocol {
        IPPROTO_TCP => Some(rows::tcp_rows(ns)),
        IPPROTO_UDP => Some(rows::udp_rows(ns)),
        _ => None,
    }
}

impl Query {
    fn fits(&self, row: &Row) -> bool {
        let v6 = self.family == AF_INET6;
        row.v6 == v6
            && row.state < 32
            && self.states & (1 << row.state) != 0
            && (self.sport == 0 || self.sport == row.local.1)
            && (self.dport == 0 || self.dport == row.remote.1)
            && (self.code.is_empty() || bytecode::run(&self.code, row))
    }

    /// Is it the one socket that a request without dump names?
    fn names(&self, row: &Row) -> bool {
        const NO_COOKIE: u64 = u64::MAX;
        let exact = words(row.local.0) == self.src
            && words(row.remote.0) == self.dst
            && self.sport == row.local.1
            && self.dport == row.remote.1;
        let listener = row.state == state::LISTEN
            && self.sport == row.local.1
            && (words(row.local.0) == self.src || words(row.local.0) == [0; 16]);
        (row.v6 == (self.family == AF_INET6))
            && (self.dev == 0 || row.dev == 0 || row.dev == self.dev)
            && (self.cookie == NO_COOKIE || self.cookie == row.cookie)
            && (exact || listener)
    }
}

/// An address as `struct inet_diag_sockid` has it.
fn words(a: IpAddr) -> [u8; 16] {
    match a {
        IpAddr::V6(a) => a.octets(),
        IpAddr::V4(a) => {
            let [b0, b1, b2, b3] = Ipv4Addr::octets(&a);
            [b0, b1, b2, b3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

/// `inet_sk_diag_fill` and its like.
fn fill(ns: &Namespace, row: &Row, q: &Query, mut m: Msg, admin: bool) -> Vec<u8> {
    m.raw(&[if row.v6 { AF_INET6 } else { AF_INET }, row.state, row.timer, row.retrans]);
    let [s0, s1] = row.local.1.to_be_bytes();
    let [d0, d1] = row.remote.1.to_be_bytes();
    m.raw(&[s0, s1, d0, d1]);
    m.raw(&words(row.local.0));
    m.raw(&words(row.remote.0));
    m.raw(&row.dev.to_ne_bytes());
    m.raw(&row.cookie.to_ne_bytes());
    for v in [row.expires_ms, row.rqueue, row.wqueue, row.uid, row.inode as u32] {
        m.raw(&v.to_ne_bytes());
    }
    match row.who {
        Who::Sock(key) => fill_sock(ns, key, row, q, &mut m, admin),
        Who::Mini if admin => m.u32(attr::MARK, row.mark),
        Who::Mini => {}
    }
    m.finish()
}

fn fill_sock(ns: &Namespace, key: SockKey, row: &Row, q: &Query, m: &mut Msg, admin: bool) {
    let Some(s) = ns.socks.socks.get(key) else { return };
    let c = &s.common;
    let wants = |a: u16| q.ext & (1_u8.checked_shl(u32::from(a) - 1).unwrap_or(0)) != 0;
    let is_tcp = matches!(s.proto, Proto::Tcp(_));
    let shutdown = match &s.proto {
        Proto::Tcp(t) => t.shutdown_bits(),
        Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => c.shutdown,
    };
    m.u8(attr::SHUTDOWN, shutdown);
    if wants(attr::TOS) {
        m.u8(attr::TOS, c.tos);
    }
    if row.v6 {
        if wants(attr::TCLASS) {
            m.u8(attr::TCLASS, c.opts.as_ref().map_or(0, |o| o.tclass.max(0) as u8));
        }
        if row.state == state::LISTEN || row.state == state::CLOSE {
            m.u8(attr::SKV6ONLY, u8::from(c.flags.contains(SockFlags::V6ONLY)));
        }
    }
    if admin {
        m.u32(attr::MARK, c.mark);
    }
    if wants(attr::TCLASS) {
        m.u32(attr::CLASS_ID, c.priority);
    }
    m.put(attr::SOCKOPT, &sockopt_bits(c.flags, is_tcp));
    let (rmem, wmem, forward) = match s.proto.rx() {
        Some(rx) => (rx.rmem, 0, rx.forward_alloc),
        None => {
            let (r, w) = tcp::opts::memory(ns, key);
            (r, w, 0)
        }
    };
    if wants(attr::MEMINFO) {
        put_words(m, attr::MEMINFO, &[rmem, wmem, forward, 0]);
    }
    if wants(attr::SKMEMINFO) {
        let (rcvbuf, sndbuf) =
            tcp::opts::buffers(ns, key).unwrap_or((c.rcvbuf.cast_unsigned(), c.sndbuf.cast_unsigned()));
        let drops = s.proto.drops();
        put_words(m, attr::SKMEMINFO, &[rmem, rcvbuf, 0, sndbuf, forward, wmem, 0, 0, drops]);
    }
    match &s.proto {
        Proto::Raw(_) => m.u8(attr::PROTOCOL, c.protocol),
        Proto::Tcp(_) => {
            if wants(attr::INFO)
                && let Some(i) = tcp::user::info(ns, key)
            {
                m.put(attr::INFO, &tcp_info::bytes(&i, row.v6));
            }
            if wants(attr::CONG) {
                m.str(attr::CONG, tcp::opts::congestion(ns, key).name());
            }
        }
        Proto::Udp(_) | Proto::Ping(_) | Proto::Packet(_) => {}
    }
}

fn put_words(m: &mut Msg, ty: u16, v: &[u32]) {
    let b: Vec<u8> = v.iter().flat_map(|x| x.to_ne_bytes()).collect();
    m.put(ty, &b);
}

/// `struct inet_diag_sockopt`: recverr, is_icsk, freebind, hdrincl, mc_loop, transparent, mc_all, nodefrag;
/// bind_address_no_port, recverr_rfc4884.
fn sockopt_bits(f: SockFlags, is_tcp: bool) -> [u8; 2] {
    let bit = |on: bool, n: u8| u8::from(on) << n;
    let has = |x| f.contains(x);
    let low = bit(has(SockFlags::RECVERR), 0)
        | bit(is_tcp, 1)
        | bit(has(SockFlags::FREEBIND), 2)
        | bit(has(SockFlags::HDRINCL), 3)
        | bit(has(SockFlags::MC_LOOP), 4)
        | bit(has(SockFlags::TRANSPARENT), 5)
        | bit(has(SockFlags::MC_ALL), 6)
        | bit(has(SockFlags::NODEFRAG), 7);
    [low, bit(has(SockFlags::BIND_NO_PORT), 0) | bit(has(SockFlags::RECVERR_RFC4884), 1)]
}

/// One socket (`inet_diag_dump_one_icsk`).
pub(super) fn get(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let q = read(r)?;
    let net = r.kernel.world.ns(r.ns).ok_or(Errno::ENOENT)?;
    let all = all_rows(net, q.protocol).ok_or(Errno::ENOENT)?;
    let row = pick(&q, &all).ok_or(Errno::ENOENT)?;
    let m = fill(net, row, &q, r.answer(SOCK_DIAG_BY_FAMILY, 0), r.caller.capable(crate::Caps::NET_ADMIN));
    r.replies.push(m);
    Ok(())
}

/// The socket a request names; a connection before a listener.
fn pick<'a>(q: &Query, all: &'a [Row]) -> Option<&'a Row> {
    let named = |listener: bool| all.iter().find(|x| (x.state == state::LISTEN) == listener && q.names(x));
    named(false).or_else(|| named(true))
}

/// `ss -K` (`SOCK_DESTROY`, `tcp_diag_destroy`, `udp_diag_destroy`).
pub(super) fn destroy(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    if !r.caller.capable(crate::Caps::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let q = read(r)?;
    let ns = r.kernel.world.ns_mut(r.ns).ok_or(Errno::ENOENT)?;
    let all = all_rows(ns, q.protocol).ok_or(Errno::ENOENT)?;
    let row = pick(&q, &all).ok_or(Errno::ENOENT)?;
    let Who::Sock(key) = row.who else { return Err(Errno::EOPNOTSUPP) };
    match ns.socks.socks.get(key).map(|s| &s.proto) {
        Some(Proto::Tcp(t)) if !matches!(t.kind, TcpKind::Closed) => tcp::user::abort(ns, key),
        Some(Proto::Udp(_)) => {
            udp::abort(ns, key);
            Ok(())
        }
        Some(Proto::Tcp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_)) => Err(Errno::EOPNOTSUPP),
        None => Err(Errno::ENOENT),
    }
}

/// All sockets (`inet_diag_dump`).
pub(super) fn dump(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let q = read(r)?;
    let net = r.kernel.world.ns(r.ns).ok_or(Errno::ENOENT)?;
    let Some(all) = all_rows(net, q.protocol) else {
        // A protocol without sockets here: MPTCP has none, others have no handler at all.
        if q.protocol == 0 {
            r.start(super::Nothing::default());
        } else {
            r.fail_dump(Errno::ENOENT, false);
        }
        return Ok(());
    };
    let keep: Vec<Row> = all.into_iter().filter(|x| q.fits(x)).collect();
    let admin = r.caller.capable(crate::Caps::NET_ADMIN);
    r.start(DiagDump { ns: r.ns, rows: keep, done: 0, q, admin });
    Ok(())
}

/// The rows were chosen when the dump began; a socket that ended since is told as it was.
#[derive(Debug)]
struct DiagDump {
    ns: NsId,
    rows: Vec<Row>,
    done: usize,
    q: Query,
    admin: bool,
}

impl Source for DiagDump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        for row in self.rows.get(self.done..).unwrap_or_default() {
            if out.bytes() >= want {
                return Ok(false);
            }
            let m = Msg::new(SOCK_DIAG_BY_FAMILY, nlm_f::MULTI, cx.seq, cx.portid);
            out.push(fill(net, row, &self.q, m, self.admin));
            self.done += 1;
        }
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
}
