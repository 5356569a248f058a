//! Raw sockets (raw(7), `net/ipv4/raw.c`, `net/ipv6/raw.c`).

use core::net::IpAddr;

use bytes::Bytes;
use ferronet_core::{DropReason, Errno, IfIndex, Packet};
use ferronet_wire::checksum::{csum_fold, csum_ipv6_nofold};
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_RAW};
use ferronet_wire::{Ipv4Hdr, Ipv6Hdr};
use smallvec::SmallVec;

use super::datagram::{RxQueue, filter, output_dev, queue_rcv};
use super::{Proto, SockCommon, SockFlags, SockKey, errqueue, mcast, ports, xmit};
use crate::fib::{Family, Flow, RouteType};
use crate::ipv4::icmp::IcmpError;
use crate::ipv4::input::csum_packet;
use crate::ns::Namespace;
use crate::udp::{Dest, MsgOpts, check_family, flow_scope, flow_tos, lookup, scope_of};

/// A raw socket.
#[derive(Debug, Default)]
pub struct RawSock {
    /// Packets that wait, each at its IP header (IPv4) or transport header (IPv6).
    pub rx: RxQueue,
    /// `IPV6_CHECKSUM`: offset of the checksum to fill in and check.
    pub checksum: Option<u16>,
}

/// Raw sockets by protocol.
#[derive(Debug, Default)]
pub struct RawTable {
    /// IPv6, protocol, socket; sorted by family and protocol, then in order of creation.
    list: Vec<(bool, u8, SockKey)>,
}

impl RawTable {
    pub(super) fn insert(&mut self, v6: bool, protocol: u8, key: SockKey) {
        let at = self.list.partition_point(|e| (e.0, e.1) <= (v6, protocol));
        self.list.insert(at, (v6, protocol, key));
    }
    pub(super) fn remove(&mut self, key: SockKey) {
        self.list.retain(|e| e.2 != key);
    }
    fn of(&self, v6: bool, protocol: u8) -> SmallVec<[SockKey; 4]> {
        let from = self.list.partition_point(|e| (e.0, e.1) < (v6, protocol));
        self.list[from..].iter().take_while(|e| (e.0, e.1) == (v6, protocol)).map(|e| e.2).collect()
    }
    /// All sockets: IPv6, protocol, key.
    pub fn iter(&self) -> impl Iterator<Item = (bool, u8, SockKey)> + '_ {
        self.list.iter().copied()
    }
}

/// `raw_v4_match`, `raw_v6_match`.
fn matches(c: &SockCommon, laddr: IpAddr, raddr: IpAddr, dev: IfIndex) -> bool {
    let local = c.local.to_canonical();
    (local.is_unspecified() || local == laddr)
        && c.peer.is_none_or(|(a, _)| a.to_canonical() == raddr)
        && (c.bound_dev.is_none() || c.bound_dev == dev)
        && mcast::allows(c, laddr, raddr, dev)
}

/// Copies an IPv4 packet to the raw sockets of its protocol; `true` when there was one. `p` is at its IP header.
pub fn raw_local_deliver(ns: &mut Namespace, p: &Packet, protocol: u8) -> bool {
    if ns.socks.raw.list.is_empty() {
        return false;
    }
    let Some(ip) = Ipv4Hdr::view(p.network()).copied() else { return false };
    let (saddr, daddr, dev) = (IpAddr::V4(ip.saddr()), IpAddr::V4(ip.daddr()), p.meta().iif);
    let icmp_type = (protocol == IPPROTO_ICMP).then(|| p.network().get(ip.hdr_len()).copied()).flatten();
    let mut delivered = false;
    for key in ns.socks.raw.of(false, protocol) {
        let Ok(c) = ns.socks.common(key) else { continue };
        if !matches(c, daddr, saddr, dev) {
            continue;
        }
        delivered = true;
        let mask = c.opts.as_ref().map_or(0, |o| o.icmp_filter);
        if icmp_type.is_some_and(|t| t < 32 && mask & (1 << t) != 0) {
            continue;
        }
        let mut q = p.copy(&mut ns.env.pool);
        let network = q.meta().network;
        let _ = q.seek(network);
        deliver(ns, key, q);
    }
    delivered
}

/// Likewise for IPv6; `p` is at its transport header (`raw6_local_deliver`).
pub fn raw6_local_deliver(ns: &mut Namespace, p: &Packet, nexthdr: u8) -> bool {
    if ns.socks.raw.list.is_empty() {
        return false;
    }
    let Some(ip) = Ipv6Hdr::view(p.network()).copied() else { return false };
    let (saddr, daddr, dev) = (IpAddr::V6(ip.saddr()), IpAddr::V6(ip.daddr()), p.meta().iif);
    let icmp_type = (nexthdr == IPPROTO_ICMPV6).then(|| p.data().first().copied()).flatten();
    let mut delivered = false;
    for key in ns.socks.raw.of(true, nexthdr) {
        let Ok(c) = ns.socks.common(key) else { continue };
        if !matches(c, daddr, saddr, dev) {
            continue;
        }
        delivered = true;
        let blocked = |t: u8| {
            c.opts.as_ref().is_some_and(|o| o.icmp6_filter[usize::from(t >> 5)] & (1 << (t & 31)) != 0)
        };
        if icmp_type.is_some_and(blocked) {
            continue;
        }
        let checked =
            matches!(ns.socks.socks.get(key).map(|s| &s.proto), Some(Proto::Raw(r)) if r.checksum.is_some());
        if checked && p.meta().csum == ferronet_core::Csum::None {
            let pseudo = csum_ipv6_nofold(&ip.saddr(), &ip.daddr(), p.len() as u32, nexthdr, 0);
            if csum_fold(csum_packet(p, pseudo)) != 0 {
                continue;
            }
        }
        let q = p.copy(&mut ns.env.pool);
        deliver(ns, key, q);
    }
    delivered
}

fn deliver(ns: &mut Namespace, key: SockKey, mut q: Packet) {
    let Some(s) = ns.socks.socks.get(key) else {
        ns.env.drop(q, DropReason::NoSocket);
        return;
    };
    let keep = filter(&mut ns.env, &s.common, &q, 1);
    if keep == 0 {
        ns.env.drop(q, DropReason::SocketFilter);
        return;
    }
    q.trim(keep);
    if let Err(q) = queue_rcv(ns, key, q) {
        ns.env.drop(q, DropReason::SocketRcvbuff);
    }
}

/// An ICMP error for raw sockets (`raw_err`, `rawv6_err`).
pub(super) fn raw_icmp_error(ns: &mut Namespace, e: &IcmpError, transport: &[u8]) {
    if ns.socks.raw.list.is_empty() {
        return;
    }
    for key in ns.socks.raw.of(e.daddr.is_ipv6(), e.protocol) {
        let Ok(c) = ns.socks.common(key) else { continue };
        if !matches(c, e.saddr, e.daddr, e.dev) {
            continue;
        }
        let recverr = c.flags.intersects(SockFlags::RECVERR | SockFlags::RECVERR6);
        let hard = e.fatal || (e.mtu > 0 && c.pmtudisc != super::common::pmtudisc::DONT);
        if recverr || (c.peer.is_some() && hard) {
            errqueue::report(ns, key, e, (e.daddr, 0), transport, hard);
        }
    }
}

/// `bind(2)`: an address of ours, a group, or any.
///
/// # Errors
/// `EADDRNOTAVAIL`.
pub fn bind(ns: &mut Namespace, key: SockKey, addr: IpAddr) -> Result<(), Errno> {
    let c = ns.socks.common(key)?;
    if !ports::addr_ok(ns, c, addr.to_canonical()) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let c = ns.socks.common_mut(key)?;
    c.local = addr;
    c.flags |= SockFlags::BINDADDR_LOCK;
    Ok(())
}

/// `connect(2)`, for raw and ping sockets: remembers the peer and chooses the source by the route.
///
/// # Errors
/// Routing errors; `EACCES` for broadcast; `EINVAL` for link-local addresses without device.
pub fn connect(ns: &mut Namespace, key: SockKey, dest: &Dest) -> Result<(), Errno> {
    let c = ns.socks.common(key)?;
    check_family(c, dest.addr)?;
    let oif = scope_of(c, dest)?;
    let local = c.local.to_canonical();
    let src = if local.is_multicast() { Family::of(dest.addr).any() } else { local };
    let flow = Flow {
        src,
        oif: output_dev(c, dest.addr, oif),
        tos: flow_tos(c, None, dest.addr),
        scope: flow_scope(c, false, dest.addr),
        mark: c.mark,
        uid: c.uid,
        proto: c.protocol,
        ..Flow::to(dest.addr)
    };
    let flags = c.flags;
    let (route, saddr) = lookup(ns, flags, &flow)?;
    let c = ns.socks.common_mut(key)?;
    if route.kind == RouteType::Broadcast && !c.flags.contains(SockFlags::BROADCAST) {
        return Err(Errno::EACCES);
    }
    c.peer = Some((dest.addr, dest.port));
    if c.any_addr() {
        c.local = saddr;
    }
    if c.bound_dev.is_none() && !oif.is_none() {
        c.bound_dev = oif;
    }
    Ok(())
}

/// `sendmsg(2)` (`raw_sendmsg`, `rawv6_sendmsg`).
///
/// # Errors
/// `EMSGSIZE`, `EDESTADDRREQ`, `EINVAL`, `EACCES`, routing errors.
pub fn sendmsg(
    ns: &mut Namespace,
    key: SockKey,
    dest: Option<Dest>,
    data: Bytes,
    m: &MsgOpts,
) -> Result<usize, Errno> {
    let len = data.len();
    if len > 0xffff {
        return Err(Errno::EMSGSIZE);
    }
    let s = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
    let c = &s.common;
    let Proto::Raw(raw) = &s.proto else { return Err(Errno::EOPNOTSUPP) };
    // The port of connect(2) is remembered and means nothing.
    let connected = c.peer.map(|(a, _)| Dest { addr: a, port: 0, scope: c.bound_dev });
    let dest = dest.or(connected).ok_or(Errno::EDESTADDRREQ)?;
    let v6 = c.is_v6();
    if v6 != dest.addr.is_ipv6() {
        return Err(Errno::EINVAL);
    }
    // rawv6_sendmsg: a port in the address names the protocol, which must be the socket's.
    if v6 && dest.port != 0 && dest.port != u16::from(c.protocol) && c.protocol != IPPROTO_RAW {
        return Err(Errno::EINVAL);
    }
    let checksum = raw.checksum.map(usize::from);
    let hdrincl = c.flags.contains(SockFlags::HDRINCL) || c.protocol == IPPROTO_RAW;
    if hdrincl && v6 {
        return Err(Errno::EOPNOTSUPP);
    }
    let to = xmit::portless_way(ns, key, &dest, m)?;
    if hdrincl {
        return send_hdrinc(ns, key, data, to.route, to.saddr);
    }
    xmit::check_len(ns, key, &to, len, m)?;
    let mut p = ns.env.pool.from_slice(&data);
    if let (Some(at), IpAddr::V6(s), IpAddr::V6(d)) = (checksum, to.saddr, to.daddr)
        && !fill_checksum(&mut p, at, csum_ipv6_nofold(&s, &d, len as u32, to.protocol, 0))
    {
        ns.env.consume(p);
        return Err(Errno::EINVAL);
    }
    count_icmp(ns, to.protocol, data.first().copied());
    xmit::ip_xmit(ns, key, p, &to, m);
    Ok(len)
}

/// Computes a checksum at `at`; `false` when there is no room for one.
fn fill_checksum(p: &mut Packet, at: usize, pseudo: u32) -> bool {
    if !p.may_pull(at + 2) {
        return false;
    }
    let put = |p: &mut Packet, v: u16| {
        if let Some(b) = p.data_mut().get_mut(at..at + 2) {
            b.copy_from_slice(&v.to_be_bytes());
        }
    };
    put(p, 0);
    let sum = csum_fold(csum_packet(p, pseudo));
    put(p, if sum == 0 { 0xffff } else { sum });
    true
}

/// A packet whose IP header the program wrote (`raw_send_hdrinc`).
fn send_hdrinc(
    ns: &mut Namespace,
    key: SockKey,
    data: Bytes,
    route: crate::fib::Route,
    saddr: IpAddr,
) -> Result<usize, Errno> {
    let len = data.len();
    let mtu = ns.devs.get(route.dev).map_or(1500, |d| d.mtu) as usize;
    if len > mtu {
        errqueue::local_error(ns, key, Errno::EMSGSIZE, mtu as u32, (saddr, 0));
        return Err(Errno::EMSGSIZE);
    }
    let h = Ipv4Hdr::view(&data).copied().ok_or(Errno::EINVAL)?;
    if h.hdr_len() < Ipv4Hdr::LEN || h.hdr_len() > len {
        return Err(Errno::EINVAL);
    }
    // sock_alloc_send_skb. What the kernel builds a header for (ip_append_data without a transport header) takes the packet
    // from elsewhere and does not ask: traceroute relies on it.
    super::datagram::pending_error(ns, key)?;
    let c = ns.socks.common(key)?;
    let (mark, priority) = (c.mark, c.priority);
    let id = ns.env.rng.next_u32() as u16;
    let mut p = ns.env.pool.from_slice(&data);
    p.set_network_header();
    p.set_transport_header(h.hdr_len());
    p.meta_mut().mark = mark;
    p.meta_mut().priority = priority;
    if let Some(w) = Ipv4Hdr::view_mut(p.data_mut()) {
        w.set_tot_len(len as u16);
        if let (true, IpAddr::V4(s)) = (w.saddr().is_unspecified(), saddr) {
            w.set_saddr(s);
        }
        if w.id() == 0 {
            w.set_id(id);
        }
        w.set_check(0);
    }
    count_icmp(ns, h.protocol(), data.get(h.hdr_len()).copied());
    crate::ipv4::output::ip_local_out(ns, p, &route);
    Ok(len)
}

fn count_icmp(ns: &mut Namespace, protocol: u8, icmp_type: Option<u8>) {
    match (protocol, icmp_type) {
        (IPPROTO_ICMP, Some(t)) => crate::ipv4::icmp::count_sent(ns, t),
        (IPPROTO_ICMPV6, Some(t)) => crate::ipv6::icmp::count_out(ns, t),
        _ => {}
    }
}

/// Where the checksum of ICMPv6 stands: raw ICMPv6 sockets always have it filled in (RFC 3542 §3.1).
pub const ICMPV6_CHECKSUM_AT: u16 = 2;
