//! From a message socket to IP: the header fields that options and control messages decide (`ip_make_skb`,
//! `ip6_make_skb`).

use core::net::IpAddr;

use ferronet_core::{Errno, Packet};

use super::common::pmtudisc;
use super::datagram::{ignore_df, output_dev, path_mtu};
use super::{Proto, SockFlags, SockKey, errqueue};
use crate::fib::{Family, Flow, Route, RouteType};
use crate::ipv4::output::{IpHeader, ip_queue_xmit};
use crate::ipv6::output::{Ip6Header, ip6_xmit};
use crate::ns::Namespace;
use crate::udp::{Dest, MsgOpts, check_pktinfo6, flow_scope, flow_tos, lookup, scope_of};

/// Addresses and route of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To {
    pub(crate) saddr: IpAddr,
    pub(crate) daddr: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) route: Route,
    /// Path MTU in bytes.
    pub(crate) mtu: usize,
}

/// The way of a message of a socket without ports (ping, raw): to its destination, or the peer's of a connected
/// socket, by the options of socket and message.
///
/// # Errors
/// `EACCES` for a broadcast that is not allowed, routing errors.
pub(crate) fn portless_way(ns: &mut Namespace, key: SockKey, dest: &Dest, m: &MsgOpts) -> Result<To, Errno> {
    let c = ns.socks.common(key)?;
    check_pktinfo6(ns, c, dest, m)?;
    let scope = if m.oif.is_none() { scope_of(c, dest)? } else { m.oif };
    let local = c.local.to_canonical();
    let own = if local.is_multicast() { Family::of(dest.addr).any() } else { local };
    let flow = Flow {
        src: m.saddr.filter(|a| !a.is_unspecified()).unwrap_or(own),
        oif: output_dev(c, dest.addr, scope),
        tos: flow_tos(c, m.tos, dest.addr),
        scope: flow_scope(c, m.dontroute, dest.addr),
        mark: m.mark.unwrap_or(c.mark),
        uid: c.uid,
        proto: c.protocol,
        ..Flow::to(dest.addr)
    };
    let flags = c.flags;
    let (route, saddr) = lookup(ns, flags, &flow)?;
    let c = ns.socks.common(key)?;
    if route.kind == RouteType::Broadcast && !c.flags.contains(SockFlags::BROADCAST) {
        return Err(Errno::EACCES);
    }
    let daddr = if dest.addr.is_unspecified() { saddr } else { dest.addr };
    let mtu = path_mtu(ns, c, &route, daddr);
    Ok(To { saddr, daddr, protocol: c.protocol, route, mtu })
}

/// Refuses a message that is too long for its way and may not be fragmented; the error queue learns the MTU.
///
/// # Errors
/// `EMSGSIZE`.
pub(crate) fn check_len(
    ns: &mut Namespace,
    key: SockKey,
    to: &To,
    len: usize,
    m: &MsgOpts,
) -> Result<(), Errno> {
    let c = ns.socks.common(key)?;
    let (mode, header) = if c.is_v6() { (c.pmtudisc6, 40) } else { (c.pmtudisc, 20) };
    let may_fragment = ignore_df(mode) && m.dontfrag != Some(true);
    if len + header <= if may_fragment { 0xffff } else { to.mtu } {
        return Ok(());
    }
    errqueue::local_error(ns, key, Errno::EMSGSIZE, to.mtu as u32, (to.daddr, 0));
    Err(Errno::EMSGSIZE)
}

/// Sends a transport packet of a message socket. `p` is at its transport header.
pub(crate) fn ip_xmit(ns: &mut Namespace, key: SockKey, mut p: Packet, to: &To, m: &MsgOpts) {
    let Some(s) = ns.socks.socks.get_mut(key) else {
        ns.env.drop(p, ferronet_core::DropReason::NoSocket);
        return;
    };
    let c = &s.common;
    {
        let meta = p.meta_mut();
        meta.mark = m.mark.unwrap_or(c.mark);
        meta.priority = m.priority.unwrap_or(c.priority);
    }
    let group = to.daddr.is_multicast() || matches!(to.route.kind, RouteType::Multicast);
    let opts = c.opts.as_deref();
    match (to.saddr, to.daddr) {
        (IpAddr::V4(saddr), IpAddr::V4(daddr)) => {
            let len = p.len() + 20;
            let gso = p.meta().gso.size > 0;
            // ip_dont_fragment: always with DO, with WANT while it fits.
            let df = match c.pmtudisc {
                pmtudisc::DO | pmtudisc::PROBE => true,
                pmtudisc::WANT => gso || len <= to.mtu,
                _ => false,
            };
            let ttl = match m.ttl {
                Some(t) => t,
                None if group => opts.map_or(1, |o| o.mc_ttl),
                None => c.ip_fields(Family::V4).ttl,
            };
            let tos = m.tos.unwrap_or(c.tos);
            // ip_select_ident: connected sockets count, others need no identification while DF is set.
            let id = match &mut s.proto {
                Proto::Udp(u) if c.peer.is_some() => {
                    u.ip_id = u.ip_id.wrapping_add(p.meta().gso.segs.max(1));
                    u.ip_id
                }
                _ if df && !super::datagram::ignore_df(c.pmtudisc) => 0,
                _ => ns.env.rng.next_u32() as u16,
            };
            let h = IpHeader { saddr, daddr, protocol: to.protocol, tos, ttl, df, id };
            ip_queue_xmit(ns, p, &h, &to.route);
        }
        (IpAddr::V6(saddr), IpAddr::V6(daddr)) => {
            let hops = match m.ttl {
                Some(t) => t,
                None if group => opts.map_or(1, |o| o.mc_hops),
                None => c.ip_fields(Family::V6).ttl,
            };
            let tclass = m.tos.unwrap_or_else(|| c.ip_fields(Family::V6).tos);
            let h = Ip6Header {
                saddr,
                daddr,
                protocol: to.protocol,
                tclass,
                hop_limit: hops,
                flowlabel: m.flowinfo & 0xf_ffff,
            };
            ip6_xmit(ns, p, &h, &to.route);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            ns.env.drop(p, ferronet_core::DropReason::IpOutNoRoute);
        }
    }
}
