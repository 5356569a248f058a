//! Ping sockets (`IPPROTO_ICMP` and `IPPROTO_ICMPV6` datagram sockets, `net/ipv4/ping.c`): echo requests out, their
//! replies in, told apart by the identifier, which is the socket's port.

use core::net::IpAddr;

use bytes::Bytes;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use ferronet_core::{DropReason, Errno, IfIndex, Packet};
use ferronet_wire::checksum::{csum_fold, csum_ipv6_nofold};
use ferronet_wire::icmp::ICMP_ECHO;
use ferronet_wire::icmpv6::ICMPV6_ECHO_REQUEST;
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use ferronet_wire::{IcmpHdr, Ipv4Hdr, Ipv6Hdr};
use smallvec::SmallVec;

use super::datagram::{RxQueue, filter, queue_rcv};
use super::{Proto, SockFlags, SockKey, Sockets, errqueue, ports, xmit};
use crate::ipv4::icmp::IcmpError;
use crate::ipv4::input::csum_packet;
use crate::ns::Namespace;
use crate::udp::{Dest, MsgOpts, check_family};

/// A ping socket.
#[derive(Debug, Default)]
pub struct PingSock {
    /// Replies that wait, each at its ICMP header.
    pub rx: RxQueue,
}

/// Ping sockets by family and identifier.
#[derive(Debug)]
pub struct PingTable(KeyedMap<(bool, u16), SmallVec<[SockKey; 1]>>);

impl PingTable {
    /// An empty table with its own key.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        PingTable(KeyedMap::with_hasher(KeyedState::new(rng)))
    }
    /// All sockets, sorted by identifier.
    #[must_use]
    pub fn sorted(&self) -> Vec<(u16, SockKey)> {
        let mut v: Vec<_> = self.0.iter().flat_map(|((_, id), l)| l.iter().map(|k| (*id, *k))).collect();
        v.sort();
        v
    }
}

/// Enters a socket that has an identifier.
pub(super) fn hash(ns: &mut Namespace, key: SockKey) {
    let Some(s) = ns.socks.socks.get(key) else { return };
    if let Proto::Ping(_) = s.proto {
        let at = (s.common.is_v6(), s.common.lport);
        ns.socks.ping.0.entry(at).or_default().push(key);
    }
}

/// Takes it out.
pub(super) fn unhash(ns: &mut Namespace, key: SockKey) {
    let Some(s) = ns.socks.socks.get(key) else { return };
    if let Proto::Ping(_) = s.proto {
        let at = (s.common.is_v6(), s.common.lport);
        if let Some(l) = ns.socks.ping.0.get_mut(&at) {
            l.retain(|k| *k != key);
            if l.is_empty() {
                ns.socks.ping.0.remove(&at);
            }
        }
    }
}

fn lookup_sock(socks: &Sockets, id: u16, laddr: IpAddr, dev: IfIndex) -> Option<SockKey> {
    socks.ping.0.get(&(laddr.is_ipv6(), id))?.iter().copied().find(|k| {
        socks.socks.get(*k).is_some_and(|s| {
            let c = &s.common;
            (c.any_addr() || c.local.to_canonical() == laddr) && (c.bound_dev.is_none() || c.bound_dev == dev)
        })
    })
}

/// An echo reply, at its ICMP header; a ping socket with its identifier gets a copy.
pub fn ping_rcv(ns: &mut Namespace, p: &Packet) {
    let Some(id) = IcmpHdr::view(p.data()).map(IcmpHdr::id) else { return };
    let laddr = match p.network().first().map(|b| b >> 4) {
        Some(4) => Ipv4Hdr::view(p.network()).map(|h| IpAddr::V4(h.daddr())),
        _ => Ipv6Hdr::view(p.network()).map(|h| IpAddr::V6(h.daddr())),
    };
    let Some(key) = laddr.and_then(|a| lookup_sock(&ns.socks, id, a, p.meta().iif)) else { return };
    let q = p.copy(&mut ns.env.pool);
    let keep = ns.socks.socks.get(key).map_or(0, |s| filter(&mut ns.env, &s.common, &q, 1));
    if keep == 0 {
        ns.env.drop(q, DropReason::SocketFilter);
    } else if let Err(q) = queue_rcv(ns, key, q) {
        ns.env.drop(q, DropReason::SocketRcvbuff);
    }
}

/// An ICMP error about an echo request (`ping_err`).
pub(super) fn ping_err(ns: &mut Namespace, e: &IcmpError, transport: &[u8]) {
    let echo = if e.daddr.is_ipv6() { ICMPV6_ECHO_REQUEST } else { ICMP_ECHO };
    let Some(h) = IcmpHdr::view(transport).filter(|h| h.icmp_type == echo) else { return };
    let Some(key) = lookup_sock(&ns.socks, h.id(), e.saddr, e.dev) else { return };
    let Ok(c) = ns.socks.common(key) else { return };
    let recverr = c.flags.contains(if c.is_v6() { SockFlags::RECVERR6 } else { SockFlags::RECVERR });
    let hard = e.fatal || (e.mtu > 0 && c.pmtudisc != super::common::pmtudisc::DONT);
    if recverr || (hard && c.peer.is_some()) {
        errqueue::report(ns, key, e, (e.daddr, 0), transport, true);
    }
}

/// `sendmsg(2)` (`ping_v4_sendmsg`, `ping_v6_sendmsg`): `data` begins with an ICMP header, whose identifier and
/// checksum are filled in.
///
/// # Errors
/// `EINVAL` for anything but an echo request, `EDESTADDRREQ`, `EMSGSIZE`, `EACCES`, routing errors.
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
    let h = IcmpHdr::view(&data).copied().ok_or(Errno::EINVAL)?;
    let c = ns.socks.common(key)?;
    let v6 = c.is_v6();
    let echo = if v6 { ICMPV6_ECHO_REQUEST } else { ICMP_ECHO };
    if h.icmp_type != echo || h.code != 0 {
        return Err(Errno::EINVAL);
    }
    let connected = c.peer.map(|(a, port)| Dest { addr: a, port, scope: c.bound_dev });
    let dest = dest.or(connected).ok_or(Errno::EDESTADDRREQ)?;
    if v6 != dest.addr.is_ipv6() {
        return Err(Errno::EINVAL);
    }
    check_family(c, dest.addr)?;
    let id = ports::autobind(ns, key)?;
    let protocol = if v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    let to = xmit::To { protocol, ..xmit::portless_way(ns, key, &dest, m)? };
    super::datagram::pending_error(ns, key)?;
    xmit::check_len(ns, key, &to, len, m)?;
    let mut p = ns.env.pool.from_slice(&data);
    let pseudo = match (to.saddr, to.daddr) {
        (IpAddr::V6(s), IpAddr::V6(d)) => csum_ipv6_nofold(&s, &d, len as u32, IPPROTO_ICMPV6, 0),
        _ => 0,
    };
    if let Some(w) = IcmpHdr::view_mut(p.data_mut()) {
        w.set_id(id);
        w.set_checksum(0);
    }
    let sum = csum_fold(csum_packet(&p, pseudo));
    if let Some(w) = IcmpHdr::view_mut(p.data_mut()) {
        w.set_checksum(sum);
    }
    if v6 {
        crate::ipv6::icmp::count_out(ns, echo);
    } else {
        crate::ipv4::icmp::count_sent(ns, echo);
    }
    xmit::ip_xmit(ns, key, p, &to, m);
    Ok(len)
}
