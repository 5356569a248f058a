//! IPv6 output (`net/ipv6/ip6_output.c`).

use core::net::{IpAddr, Ipv6Addr};

use bytes::Bytes;
use ferronet_core::hash::siphash24;
use ferronet_core::packet::GsoKind;
use ferronet_core::sysctl::Conf6;
use ferronet_core::{Csum, DropReason, Errno, IfIndex, Mib, Packet, PacketQueue, PktType, Sysctl};
use ferronet_netfilter::{Hook, Netfilter, Pf, PostRouted};
use ferronet_wire::ethernet::ETH_P_IPV6;
use ferronet_wire::icmpv6::{self as wire, Icmp6Hdr};
use ferronet_wire::ipproto::{
    IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ICMPV6, IPPROTO_ROUTING, IPPROTO_TCP,
    IPPROTO_UDP,
};
use ferronet_wire::ipv6::{FragHdr, IPV6_MIN_MTU, Ipv6Hdr, Ipv6OptHdr};
use smallvec::SmallVec;

use super::addr::{SCOPE_NODELOCAL, addr_scope, ipv6_chk_mcast_addr, need_strict};
use super::icmp::icmpv6_send;
use super::route::{direct, dst_mtu, hop_limit, ip6_route_output};
use crate::fib::{Flow, Route, RouteType};
use crate::ipv4::frag::Pieces;
use crate::neigh::output::neigh_output;
use crate::ns::Namespace;

/// What the IPv6 header of a local packet says.
#[derive(Clone, Copy, Debug)]
pub struct Ip6Header {
    /// Source.
    pub saddr: Ipv6Addr,
    /// Destination.
    pub daddr: Ipv6Addr,
    /// Payload protocol.
    pub protocol: u8,
    /// Traffic class.
    pub tclass: u8,
    /// Hop limit; 0 for the route's or the device's.
    pub hop_limit: u8,
    /// Flow label, 20 bits; 0 for an automatic one when `auto_flowlabels` allows.
    pub flowlabel: u32,
}

/// Adds the header to a transport packet and sends it (`ip6_xmit`). `p` is at its transport header.
pub fn ip6_xmit(ns: &mut Namespace, mut p: Packet, h: &Ip6Header, r: &Route) {
    let len = p.len();
    let hops = if h.hop_limit == 0 { hop_limit(ns, r) } else { h.hop_limit };
    p.set_transport_header(0);
    let mut hdr = Ipv6Hdr::new(h.saddr, h.daddr, h.protocol, hops, len);
    let label = if h.flowlabel == 0 { make_flowlabel(ns, &p, h) } else { h.flowlabel };
    hdr.set_flow(h.tclass, label);
    if len > usize::from(u16::MAX) {
        // A GSO packet: its segments get their own lengths.
        hdr.set_payload_len(0);
    }
    let _ = hdr.put(p.push(Ipv6Hdr::LEN));
    p.set_network_header();
    ip6_local_out(ns, p, r);
}

/// A label that is the same for all packets of a flow and says nothing else (RFC 6437 §3, `ip6_make_flowlabel`).
pub(super) fn make_flowlabel(ns: &Namespace, p: &Packet, h: &Ip6Header) -> u32 {
    // 0 off, 1 on unless the socket says no, 2 on when the socket says so, 3 on always.
    if !matches!(ns.env.sysctl.get(Sysctl::Ip6AutoFlowlabels), 1 | 3) {
        return 0;
    }
    let ports = match (h.protocol, p.data().first_chunk::<4>()) {
        (IPPROTO_TCP | IPPROTO_UDP, Some(b)) => u32::from_be_bytes(*b),
        (_, _) => 0,
    };
    let (s, d) = (h.saddr.to_bits(), h.daddr.to_bits());
    let words = [
        (s >> 64) as u64,
        s as u64,
        (d >> 64) as u64,
        d as u64,
        u64::from(ports) << 8 | u64::from(h.protocol),
    ];
    siphash24(ns.inet6.flow_key, &words) as u32 & 0xf_ffff
}

/// A complete local packet at its IPv6 header: OUTPUT, then out (`ip6_local_out`).
pub fn ip6_local_out(ns: &mut Namespace, mut p: Packet, r: &Route) {
    ns.env.mib.inc(Mib::Ip6OutRequests);
    p.meta_mut().protocol = ETH_P_IPV6;
    p.meta_mut().dev = r.dev;
    if ns.env.trace.enabled() && p.meta().trace == 0 {
        p.meta_mut().trace = ns.env.trace.new_id();
    }
    ns.env.trace_route(&p, || crate::ipv4::input::kind_name(r.kind), r.dev);
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv6, Hook::LocalOut) else { return };
    ip6_output(ns, p, r);
}

/// Is this neighbour discovery or a listener report? They go straight to the link and are never looped back.
fn is_link_control(p: &Packet, h: &Ipv6Hdr) -> bool {
    let at = |n: usize| p.network().get(n).copied();
    match h.nexthdr() {
        IPPROTO_ICMPV6 => at(Ipv6Hdr::LEN).is_some_and(|t| {
            (wire::NDISC_ROUTER_SOLICITATION..=wire::NDISC_REDIRECT).contains(&t) && h.hop_limit() == 255
        }),
        // Listener reports carry a router alert in front (RFC 3810 §5).
        IPPROTO_HOPOPTS => {
            at(Ipv6Hdr::LEN) == Some(IPPROTO_ICMPV6)
                && matches!(
                    at(Ipv6Hdr::LEN + 8),
                    Some(wire::ICMPV6_MGM_REPORT | wire::ICMPV6_MGM_REDUCTION | wire::ICMPV6_MLD2_REPORT)
                )
        }
        _ => false,
    }
}

/// A locally made packet from the backlog: look its route up and send it. `meta.dev` binds it to a device.
pub fn ip6_local_out_queued(ns: &mut Namespace, mut p: Packet) {
    p.meta_mut().local_out = false;
    let Some(h) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    let oif = p.meta().dev;
    if is_link_control(&p, &h) && !oif.is_none() {
        let kind = if h.daddr().is_multicast() { RouteType::Multicast } else { RouteType::Unicast };
        let mine = !h.daddr().is_multicast() && super::addr::ipv6_chk_addr(ns, h.daddr(), oif);
        ip6_local_out(ns, p, &direct(if mine { IfIndex::LO } else { oif }, kind));
        return;
    }
    let flow = Flow {
        src: IpAddr::V6(h.saddr()),
        tos: h.tclass(),
        mark: p.meta().mark,
        oif: if need_strict(h.daddr()) { oif } else { IfIndex::NONE },
        proto: h.nexthdr(),
        ..Flow::to(IpAddr::V6(h.daddr()))
    };
    match ip6_route_output(ns, &flow) {
        Ok((r, _)) => ip6_local_out(ns, p, &r),
        Err(e) => {
            let reason = no_route(e);
            ns.env.drop(p, reason);
        }
    }
}

/// The drop reason for a failed output lookup.
#[must_use]
pub fn no_route(e: Errno) -> DropReason {
    match e {
        Errno::EACCES => DropReason::IpRouteProhibit,
        Errno::EINVAL => DropReason::IpRouteBlackhole,
        _ => DropReason::Ip6OutNoRoute,
    }
}

/// To the device of the route (`ip6_output`).
pub fn ip6_output(ns: &mut Namespace, mut p: Packet, r: &Route) {
    p.meta_mut().dev = r.dev;
    if ns.devs.get(r.dev).is_some_and(|d| d.conf6.get(Conf6::DisableIpv6) != 0) {
        ns.env.mib.inc(Mib::Ip6OutDiscards);
        ns.env.drop(p, DropReason::Ip6Disabled);
        return;
    }
    let Some((p, proof)) = ns.nf.post_routing(&mut ns.env, p, Pf::Ipv6) else { return };
    ip6_finish_output(ns, p, r, proof);
}

/// Segmentation or fragmentation to the path MTU (`__ip6_finish_output`).
fn ip6_finish_output(ns: &mut Namespace, p: Packet, r: &Route, proof: PostRouted) {
    let Some(h) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    let daddr = h.daddr();
    let mtu = dst_mtu(ns, r, IpAddr::V6(daddr)) as usize;
    if p.meta().gso.kind != GsoKind::None {
        if crate::dev::gso::network_seglen(&p) <= mtu {
            ip6_finish_output2(ns, p, r, daddr, proof);
            return;
        }
        let mut segs = PacketQueue::new();
        crate::dev::gso::skb_gso_segment(&mut ns.env, p, &mut segs);
        while let Some(s) = segs.pop() {
            ip6_fragment(ns, s, mtu, &mut |ns, f| {
                ip6_finish_output2(ns, f, r, daddr, Netfilter::piece_of(&proof));
            });
        }
        return;
    }
    let largest = usize::from(p.meta().frag_max_size);
    if p.len() > mtu || (largest > 0 && p.len() > largest) {
        ip6_fragment(ns, p, mtu, &mut |ns, f| {
            ip6_finish_output2(ns, f, r, daddr, Netfilter::piece_of(&proof));
        });
        return;
    }
    ip6_finish_output2(ns, p, r, daddr, proof);
}

/// Group packets come back to this host when it is a member; then to the neighbour (`ip6_finish_output2`).
fn ip6_finish_output2(ns: &mut Namespace, p: Packet, r: &Route, daddr: Ipv6Addr, proof: PostRouted) {
    let len = p.len() as u64;
    if daddr.is_multicast() {
        let Some(h) = Ipv6Hdr::view(p.network()).copied() else {
            ns.env.drop(p, DropReason::Ip6Hdr);
            return;
        };
        let loopback = r.dev == IfIndex::LO;
        if !loopback
            && !p.meta().forwarded
            && ipv6_chk_mcast_addr(ns, r.dev, daddr)
            && !is_link_control(&p, &h)
        {
            let mut c = p.copy(&mut ns.env.pool);
            c.meta_mut().dev = r.dev;
            c.meta_mut().pkt_type = PktType::Loopback;
            ns.netif_rx(c);
        }
        if h.hop_limit() == 0 && !loopback {
            ns.env.mib.inc(Mib::Ip6OutDiscards);
            ns.env.consume(p);
            return;
        }
        ns.env.mib.inc(Mib::Ip6OutMcastPkts);
        ns.env.mib.add(Mib::Ip6OutMcastOctets, len);
        if addr_scope(daddr) <= SCOPE_NODELOCAL && !loopback {
            ns.env.consume(p);
            return;
        }
    }
    ns.env.mib.inc(Mib::Ip6OutTransmits);
    ns.env.mib.add(Mib::Ip6OutOctets, len);
    neigh_output(ns, p, r.dev, r.next_hop(IpAddr::V6(daddr)), false, proof);
}

/// Cuts a local packet at its header into fragments of at most `mtu` bytes (RFC 8200 §4.5, `ip6_fragment`); payload
/// is shared. Routers never fragment: for a forwarded packet the sender is told.
pub fn ip6_fragment(
    ns: &mut Namespace,
    p: Packet,
    mtu: usize,
    output: &mut dyn FnMut(&mut Namespace, Packet),
) {
    let m = *p.meta();
    let largest = usize::from(m.frag_max_size);
    if p.len() <= mtu && (largest == 0 || p.len() <= largest) {
        output(ns, p);
        return;
    }
    let hdr_len = ip6_find_1stfragopt(p.network());
    let too_big = (m.forwarded && largest == 0) || largest > mtu;
    let Some((hdr_len, prev)) = hdr_len.filter(|_| !too_big) else {
        icmpv6_send(ns, &p, wire::ICMPV6_PKT_TOOBIG, 0, mtu as u32);
        ns.env.mib.inc(Mib::Ip6FragFails);
        ns.env.drop(p, DropReason::Ip6FragFail);
        return;
    };
    let mtu = if largest > 0 { mtu.min(largest.max(IPV6_MIN_MTU as usize)) } else { mtu };
    ip6_do_fragment(ns, p, (hdr_len, prev), mtu, output);
}

fn ip6_do_fragment(
    ns: &mut Namespace,
    mut p: Packet,
    (hdr_len, prev): (usize, usize),
    mtu: usize,
    output: &mut dyn FnMut(&mut Namespace, Packet),
) {
    if p.meta().csum == Csum::Partial {
        crate::dev::gso::skb_checksum_help(&mut p);
    }
    let whole = mtu.saturating_sub(hdr_len + FragHdr::LEN);
    let room = whole & !7;
    if room == 0 || p.data().len() < hdr_len {
        ns.env.mib.inc(Mib::Ip6FragFails);
        ns.env.drop(p, DropReason::Ip6FragFail);
        return;
    }
    let nexthdr = p.network().get(prev).copied().unwrap_or(0);
    let id = ns.env.rng.next_u32().max(1);
    let mut pieces: SmallVec<[Bytes; 2]> = SmallVec::new();
    p.take_payload(hdr_len, &mut pieces);
    if let Some(b) = p.network_mut().get_mut(prev) {
        *b = IPPROTO_FRAGMENT;
    }
    let mut rest = Pieces { pieces: &pieces, at: 0, offset: 0 };
    let total: usize = pieces.iter().map(Bytes::len).sum();
    let mut done = 0;
    while done < total {
        let left = total - done;
        let n = if left <= whole { left } else { room };
        let mut f = p.copy(&mut ns.env.pool);
        let _ = FragHdr::new(nexthdr, done as u16, n < left, id).put(f.put(FragHdr::LEN));
        rest.move_to(&mut f, n);
        let len = f.len() - Ipv6Hdr::LEN;
        if let Some(h) = Ipv6Hdr::view_mut(f.network_mut()) {
            h.set_payload_len(len as u16);
        }
        f.meta_mut().frag_max_size = 0;
        f.meta_mut().csum = Csum::None;
        done += n;
        ns.env.mib.inc(Mib::Ip6FragCreates);
        output(ns, f);
    }
    ns.env.mib.inc(Mib::Ip6FragOKs);
    ns.env.consume(p);
}

/// Bytes of the part that every fragment repeats, and where its last next-header byte stands
/// (`ip6_find_1stfragopt`, RFC 8200 §4.5: up to and with the routing header, or hop-by-hop options).
fn ip6_find_1stfragopt(b: &[u8]) -> Option<(usize, usize)> {
    let mut nexthdr = Ipv6Hdr::view(b)?.nexthdr();
    let (mut at, mut prev) = (Ipv6Hdr::LEN, 6);
    let mut routed = false;
    loop {
        match nexthdr {
            IPPROTO_HOPOPTS => {}
            IPPROTO_ROUTING => routed = true,
            // Destination options behind a routing header are for the destination.
            IPPROTO_DSTOPTS if !routed => {}
            _ => return Some((at, prev)),
        }
        let h = Ipv6OptHdr::view(b.get(at..)?)?;
        prev = at;
        nexthdr = h.nexthdr;
        at += h.optlen();
        if at > b.len() {
            return None;
        }
    }
}

/// Builds an ICMPv6 message from its bytes and queues it for [`ip6_local_out_queued`]: nothing re-enters the path.
/// The checksum must be there already.
pub fn queue_icmp6(ns: &mut Namespace, h: &Ip6Header, dev: IfIndex, message: &[u8]) {
    let p = build(ns, h, message);
    let mut p = p;
    p.meta_mut().dev = dev;
    p.meta_mut().local_out = true;
    ns.env.backlog.push(p);
}

/// Likewise, but sends at once to the link: for messages that no received packet caused.
pub fn send_icmp6(ns: &mut Namespace, h: &Ip6Header, dev: IfIndex, message: &[u8]) {
    let p = build(ns, h, message);
    let kind = if h.daddr.is_multicast() { RouteType::Multicast } else { RouteType::Unicast };
    ip6_local_out(ns, p, &direct(dev, kind));
}

fn build(ns: &mut Namespace, h: &Ip6Header, message: &[u8]) -> Packet {
    let mut p = ns.env.pool.from_slice(message);
    p.set_transport_header(0);
    let mut hdr = Ipv6Hdr::new(h.saddr, h.daddr, h.protocol, h.hop_limit, message.len());
    hdr.set_flow(h.tclass, h.flowlabel);
    let _ = hdr.put(p.push(Ipv6Hdr::LEN));
    p.set_network_header();
    p.meta_mut().protocol = ETH_P_IPV6;
    if let Some(t) = message.get(if h.protocol == IPPROTO_HOPOPTS { 8 } else { 0 }) {
        super::icmp::count_out(ns, *t);
    }
    debug_assert!(message.len() >= Icmp6Hdr::LEN, "a whole message");
    p
}
