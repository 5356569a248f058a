//! Neighbour discovery (RFC 4861, `net/ipv6/ndisc.c`).

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::sysctl::Conf6;
use ferronet_core::{DropReason, IfIndex, Packet, PktType};
use ferronet_wire::icmpv6 as wire;
use ferronet_wire::ipproto::IPPROTO_ICMPV6;
use ferronet_wire::ipv6::{Ipv6Hdr, solicited_node};
use ferronet_wire::ndisc::{
    NDISC_HOP_LIMIT, NdFrom, NeighAdvert, NeighSolicit, Redirect, RouterAdvert, RouterSolicit,
};

use super::addr::{LINKLOCAL_ALLNODES, find_addr, ipv6_get_lladdr, is_link_local};
use super::addrconf::{conf, dad, max_conf, ra};
use super::output::{Ip6Header, queue_icmp6, send_icmp6};
use super::route::ipv6_dev_get_saddr;
use crate::dev::ifa_f;
use crate::fib::{Flow, Route, RouteType};
use crate::neigh::output::neigh_update;
use crate::neigh::{NeighKey, News, Probe, Update, nud};
use crate::ns::Namespace;

/// Longest message that is built on the stack: a redirect.
const MESSAGE_MAX: usize = 1280;

fn header(ns: &Namespace, dev: IfIndex, saddr: Ipv6Addr, daddr: Ipv6Addr) -> Ip6Header {
    let tclass = u8::try_from(conf(ns, dev, Conf6::NdiscTclass)).unwrap_or(0);
    Ip6Header { saddr, daddr, protocol: IPPROTO_ICMPV6, tclass, hop_limit: NDISC_HOP_LIMIT, flowlabel: 0 }
}

/// The link address of a device whose neighbours are resolved.
fn lladdr(ns: &Namespace, dev: IfIndex) -> Option<ferronet_wire::MacAddr> {
    ns.devs.get(dev).filter(|d| d.has_ethernet() && !d.is_loopback()).map(|d| d.mac)
}

/// A neighbour solicitation (`ndisc_send_ns`). Without a source a link-local address is used; without one of those
/// nothing is sent.
pub fn ndisc_send_ns(
    ns: &mut Namespace,
    dev: IfIndex,
    target: Ipv6Addr,
    daddr: Ipv6Addr,
    saddr: Option<Ipv6Addr>,
    nonce: Option<[u8; 6]>,
) {
    let Some(saddr) = saddr.or_else(|| ipv6_get_lladdr(ns, dev, ifa_f::TENTATIVE)) else { return };
    let slla = if saddr.is_unspecified() { None } else { lladdr(ns, dev) };
    let mut b = [0; 64];
    let n = NeighSolicit { target, slla, nonce }.emit(&saddr, &daddr, &mut b);
    let h = header(ns, dev, saddr, daddr);
    send_icmp6(ns, &h, dev, &b[..n]);
}

/// A router solicitation (`ndisc_send_rs`).
pub fn ndisc_send_rs(ns: &mut Namespace, dev: IfIndex, saddr: Ipv6Addr, daddr: Ipv6Addr) {
    let mut b = [0; 32];
    let slla = if saddr.is_unspecified() { None } else { lladdr(ns, dev) };
    let n = RouterSolicit { slla }.emit(&saddr, &daddr, &mut b);
    let h = header(ns, dev, saddr, daddr);
    send_icmp6(ns, &h, dev, &b[..n]);
}

/// A neighbour advertisement about `a.target` (`ndisc_send_na`); `a.tlla` is filled in here when `with_lladdr`.
fn make_na(
    ns: &Namespace,
    dev: IfIndex,
    daddr: Ipv6Addr,
    mut a: NeighAdvert,
    with_lladdr: bool,
) -> Option<(Ip6Header, [u8; 64], usize)> {
    let mut with = with_lladdr;
    let saddr = match find_addr(ns, dev, a.target) {
        Some(i) => {
            a.override_ &= i.flags & ifa_f::OPTIMISTIC == 0;
            with |= conf(ns, dev, Conf6::ForceTllao) != 0;
            a.target
        }
        // For an anycast address one of our own speaks.
        None => ipv6_dev_get_saddr(ns, dev, daddr)?,
    };
    a.tlla = lladdr(ns, dev).filter(|_| with);
    let mut b = [0; 64];
    let n = a.emit(&saddr, &daddr, &mut b);
    Some((header(ns, dev, saddr, daddr), b, n))
}

fn is_router(ns: &Namespace, dev: IfIndex) -> bool {
    conf(ns, dev, Conf6::Forwarding) != 0
}

/// Tells the link about an address of ours (`ndisc_notify`, RFC 4861 §7.2.6).
pub fn unsolicited_na(ns: &mut Namespace, dev: IfIndex, daddr: Ipv6Addr, target: Ipv6Addr) {
    let router = is_router(ns, dev);
    let a = NeighAdvert { target, router, solicited: false, override_: true, tlla: None };
    if let Some((h, b, n)) = make_na(ns, dev, daddr, a, true) {
        send_icmp6(ns, &h, dev, &b[..n]);
    }
}

/// Asks for a neighbour (`ndisc_solicit`): by multicast, or straight to it while its address is being verified.
pub fn ndisc_solicit(ns: &mut Namespace, probe: &Probe, target: Ipv6Addr) {
    let dev = probe.key.dev;
    let ours = |a: &Ipv6Addr| {
        find_addr(ns, dev, *a).is_some_and(|i| i.flags & (ifa_f::TENTATIVE | ifa_f::OPTIMISTIC) == 0)
    };
    let saddr = match probe.saddr {
        Some(IpAddr::V6(a)) => Some(a).filter(ours),
        Some(IpAddr::V4(_)) | None => None,
    };
    let daddr = if probe.unicast.is_some() { target } else { solicited_node(&target) };
    ndisc_send_ns(ns, dev, target, daddr, saddr, None);
}

/// A neighbour discovery message for this host, at its header, checksum verified (`ndisc_rcv`).
pub fn ndisc_rcv(ns: &mut Namespace, mut p: Packet, ip: &Ipv6Hdr, kind: u8) {
    // RFC 6980: no fragments.
    let fragmented = p.meta().frag_max_size > 0 && conf(ns, p.meta().dev, Conf6::SuppressFragNdisc) != 0;
    let len = p.len();
    if fragmented || len > 4096 || !p.may_pull(len.min(ferronet_core::packet::LINEAR)) {
        ns.env.drop(p, DropReason::NdiscInvalid);
        return;
    }
    let whole;
    let m = if p.data().len() == len {
        p.data()
    } else {
        whole = p.to_vec();
        &whole
    };
    let f = NdFrom { saddr: ip.saddr(), daddr: ip.daddr(), hop_limit: ip.hop_limit() };
    let dev = p.meta().dev;
    let own = p.meta().pkt_type == PktType::Loopback;
    let r = match kind {
        wire::NDISC_NEIGHBOUR_SOLICITATION => {
            NeighSolicit::parse(m, &f).map(|n| ndisc_recv_ns(ns, dev, &f, &n)).map_err(|_| ())
        }
        wire::NDISC_NEIGHBOUR_ADVERTISEMENT => {
            NeighAdvert::parse(m, &f).map(|n| ndisc_recv_na(ns, dev, &f, &n, own)).map_err(|_| ())
        }
        wire::NDISC_ROUTER_SOLICITATION => {
            RouterSolicit::parse(m, &f).map(|n| ndisc_recv_rs(ns, dev, &f, &n)).map_err(|_| ())
        }
        wire::NDISC_ROUTER_ADVERTISEMENT => RouterAdvert::parse(m, &f)
            .map(|n| ra::ndisc_router_discovery(ns, dev, f.saddr, &n))
            .map_err(|_| ()),
        _ => Redirect::parse(m, &f).map(|n| ndisc_redirect_rcv(ns, dev, &f, &n)).map_err(|_| ()),
    };
    match r {
        Ok(()) => ns.env.consume(p),
        Err(()) => ns.env.drop(p, DropReason::NdiscInvalid),
    }
}

/// Somebody asks for an address (RFC 4861 §7.2.3, §7.2.4; `ndisc_recv_ns`).
fn ndisc_recv_ns(ns: &mut Namespace, dev: IfIndex, f: &NdFrom, n: &NeighSolicit) {
    let dad = f.saddr.is_unspecified();
    let group = f.daddr.is_multicast();
    let flags = find_addr(ns, dev, n.target).map(|i| i.flags);
    let unicast = flags.is_some();
    let mut proxy = None;
    match flags {
        Some(fl) if fl & (ifa_f::TENTATIVE | ifa_f::OPTIMISTIC) != 0 => {
            if dad {
                // RFC 7527 §4.2: our own probe that came back is no duplicate.
                let mine = ns.devs.get(dev).is_some_and(|d| {
                    d.inet6.dad.iter().any(|p| p.addr == n.target && p.nonce.is_some() && p.nonce == n.nonce)
                });
                if !mine {
                    dad::addrconf_dad_failure(ns, dev, n.target);
                }
                return;
            }
            if fl & ifa_f::OPTIMISTIC == 0 {
                return;
            }
        }
        Some(_) => {}
        None => {
            let anycast = ns.devs.get(dev).is_some_and(|d| d.inet6.anycast.iter().any(|a| a.0 == n.target));
            // Forwarding and proxy_ndp: for the entries of `ip neigh add proxy`.
            let key = NeighKey { dev, addr: IpAddr::V6(n.target) };
            let on = is_router(ns, dev) && max_conf(ns, dev, Conf6::ProxyNdp) != 0;
            proxy = ns.neigh.proxies.lookup(key).filter(|_| on);
            if !anycast && proxy.is_none() {
                return;
            }
        }
    }
    let router = proxy.map_or_else(|| is_router(ns, dev), |p| p.router);
    let a = NeighAdvert { target: n.target, router, solicited: !dad, override_: unicast, tlla: None };
    if dad {
        reply(ns, dev, LINKLOCAL_ALLNODES, a, true);
        return;
    }
    let how = Update { override_lladdr: true, weak_override: true, is_router: None, admin: false };
    let key = NeighKey { dev, addr: IpAddr::V6(f.saddr) };
    neigh_update(ns, key, !group || n.slla.is_some(), News { lladdr: n.slla, state: nud::STALE, how });
    reply(ns, dev, f.saddr, NeighAdvert { override_: unicast && group, ..a }, group);
}

/// Queues an advertisement: it answers a received packet.
fn reply(ns: &mut Namespace, dev: IfIndex, daddr: Ipv6Addr, a: NeighAdvert, with_lladdr: bool) {
    if let Some((h, b, n)) = make_na(ns, dev, daddr, a, with_lladdr) {
        queue_icmp6(ns, &h, dev, &b[..n]);
    }
}

/// Somebody says what its address is (RFC 4861 §7.2.5; `ndisc_recv_na`).
fn ndisc_recv_na(ns: &mut Namespace, dev: IfIndex, f: &NdFrom, n: &NeighAdvert, own: bool) {
    if f.daddr.is_multicast() && max_conf(ns, dev, Conf6::DropUnsolicitedNa) != 0 {
        return;
    }
    if let Some(i) = find_addr(ns, dev, n.target) {
        if !own && i.flags & ifa_f::TENTATIVE != 0 {
            dad::addrconf_dad_failure(ns, dev, n.target);
        }
        // An address that is settled is defended by nobody: Linux only logs.
        return;
    }
    let key = NeighKey { dev, addr: IpAddr::V6(n.target) };
    let Some(old) = ns.neigh.get(key) else { return };
    if old.state & nud::FAILED != 0 {
        return;
    }
    let was_router = old.router;
    let state = if n.solicited { nud::REACHABLE } else { nud::STALE };
    let how =
        Update { override_lladdr: n.override_, weak_override: true, is_router: Some(n.router), admin: false };
    neigh_update(ns, key, false, News { lladdr: n.tlla, state, how });
    if was_router && !n.router {
        ra::rt6_clean_tohost(ns, n.target);
    }
}

/// A host looks for routers: a router learns its address (`ndisc_recv_rs`); answering is a daemon's work.
fn ndisc_recv_rs(ns: &mut Namespace, dev: IfIndex, f: &NdFrom, n: &RouterSolicit) {
    if !is_router(ns, dev) || f.saddr.is_unspecified() {
        return;
    }
    let how = Update { override_lladdr: true, weak_override: true, is_router: Some(false), admin: false };
    let key = NeighKey { dev, addr: IpAddr::V6(f.saddr) };
    neigh_update(ns, key, n.slla.is_some(), News { lladdr: n.slla, state: nud::STALE, how });
}

/// A router knows a better first hop (RFC 4861 §8.3; `rt6_do_redirect`): it must be the one we use.
fn ndisc_redirect_rcv(ns: &mut Namespace, dev: IfIndex, f: &NdFrom, n: &Redirect<'_>) {
    if is_router(ns, dev) || max_conf(ns, dev, Conf6::AcceptRedirects) == 0 {
        return;
    }
    let flow = Flow { oif: dev, ..Flow::to(IpAddr::V6(n.dest)) };
    let from_first_hop = ns.fib.lookup(&flow, &ns.devs).is_some_and(|r| r.gw == Some(IpAddr::V6(f.saddr)));
    let old = ns.inet6.redirects.get(dev, n.dest).is_some_and(|gw| gw == f.saddr);
    if !from_first_hop && !old {
        return;
    }
    let on_link = n.target == n.dest;
    let how = Update {
        override_lladdr: true,
        weak_override: true,
        is_router: if on_link { None } else { Some(true) },
        admin: false,
    };
    let key = NeighKey { dev, addr: IpAddr::V6(n.target) };
    neigh_update(ns, key, n.tlla.is_some(), News { lladdr: n.tlla, state: nud::STALE, how });
    ns.inet6.redirects.learn(dev, n.dest, n.target);
    ns.devs.generation += 1;
}

/// Tells a host on the link that a better first hop exists (RFC 4861 §8.2; `ndisc_send_redirect`). `p` is at its
/// header, on the device it came in on.
pub fn ndisc_send_redirect(ns: &mut Namespace, p: &Packet, r: &Route) {
    let Some(ip) = Ipv6Hdr::view(p.network()).copied() else { return };
    let dev = p.meta().dev;
    let dest = ip.daddr();
    let IpAddr::V6(target) = r.next_hop(IpAddr::V6(dest)) else { return };
    // The sender must be a neighbour, and the better hop too.
    let back = ns.fib.lookup(&Flow { oif: dev, ..Flow::to(IpAddr::V6(ip.saddr())) }, &ns.devs);
    let neighbour = back.is_some_and(|b| b.kind == RouteType::Unicast && b.gw.is_none());
    if !neighbour || (target != dest && !is_link_local(target)) || ip.saddr().is_unspecified() {
        return;
    }
    let Some(saddr) = ipv6_get_lladdr(ns, dev, ifa_f::TENTATIVE | ifa_f::OPTIMISTIC) else { return };
    if !ns.icmp.peer_allow(ns.env.now, IpAddr::V6(ip.saddr()), 1000) {
        return;
    }
    let key = NeighKey { dev, addr: IpAddr::V6(target) };
    let tlla = ns.neigh.get(key).filter(|n| n.state & nud::VALID != 0).map(|n| n.mac);
    let quoted = crate::ipv4::icmp::quote(p, MESSAGE_MAX);
    let mut b = [0; MESSAGE_MAX];
    let n = Redirect { target, dest, tlla, quoted: &quoted }.emit(&saddr, &ip.saddr(), &mut b);
    if n > 0 {
        let h = header(ns, dev, saddr, ip.saddr());
        queue_icmp6(ns, &h, dev, &b[..n]);
    }
}
