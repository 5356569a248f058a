//! IPv4 output (`net/ipv4/ip_output.c`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::packet::GsoKind;
use ferronet_core::{DropReason, Errno, Mib, Packet, PktType, Sysctl};
use ferronet_netfilter::{Hook, Pf, PostRouted};
use ferronet_wire::ipv4::{IP_DF, Ipv4Hdr, ip_send_check};

use super::route::{dst_mtu, ip_route_output};
use crate::fib::{Flow, Route, RouteType};
use crate::neigh::output::{neigh_output, neigh_output_ready};
use crate::ns::Namespace;

/// What the IPv4 header of a local packet says.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader {
    /// Source.
    pub saddr: Ipv4Addr,
    /// Destination.
    pub daddr: Ipv4Addr,
    /// Payload protocol.
    pub protocol: u8,
    /// Type of service.
    pub tos: u8,
    /// Time to live; 0 for the route's or the default.
    pub ttl: u8,
    /// Set DF.
    pub df: bool,
    /// Identification.
    pub id: u16,
}

/// Adds the header to a transport packet and sends it (`ip_queue_xmit`). `p` is at its transport header.
pub fn ip_queue_xmit(ns: &mut Namespace, mut p: Packet, h: &IpHeader, r: &Route) {
    let len = p.len();
    let ttl = match (h.ttl, r.hoplimit) {
        (0, 0) => ns.env.sysctl.get(Sysctl::IpDefaultTtl) as u8,
        (0, n) => n,
        (n, _) => n,
    };
    p.set_transport_header(0);
    let mut hdr = Ipv4Hdr::new(h.saddr, h.daddr, h.protocol, ttl, len);
    hdr.tos = h.tos;
    hdr.set_id(h.id);
    hdr.set_frag_off(if h.df { IP_DF } else { 0 });
    let b = p.push(Ipv4Hdr::LEN);
    let _ = hdr.put(b);
    p.set_network_header();
    ip_local_out(ns, p, r);
}

/// A complete local packet at its IPv4 header: length and checksum, OUTPUT, then out (`ip_local_out`).
pub fn ip_local_out(ns: &mut Namespace, mut p: Packet, r: &Route) {
    ns.env.mib.inc(Mib::IpOutRequests);
    let _ = ip_send_check(p.data_mut());
    p.meta_mut().protocol = ferronet_wire::ethernet::ETH_P_IP;
    p.meta_mut().dev = r.dev;
    if ns.env.trace.enabled() && p.meta().trace == 0 {
        p.meta_mut().trace = ns.env.trace.new_id();
    }
    ns.env.trace_route(&p, || super::input::kind_name(r.kind), r.dev);
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv4, Hook::LocalOut) else { return };
    ip_output(ns, p, r);
}

/// A locally made packet from the backlog: look its route up and send it.
pub fn ip_local_out_queued(ns: &mut Namespace, mut p: Packet) {
    p.meta_mut().local_out = false;
    let Some(h) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    let flow = Flow {
        src: IpAddr::V4(h.saddr()),
        tos: h.tos() & 0x1c,
        mark: p.meta().mark,
        oif: p.meta().dev,
        proto: h.protocol(),
        ..Flow::to(IpAddr::V4(h.daddr()))
    };
    match ip_route_output(ns, &flow) {
        Ok((r, src)) => {
            if h.saddr().is_unspecified()
                && let Some(w) = Ipv4Hdr::view_mut(p.network_mut())
            {
                w.set_saddr(src);
            }
            ip_local_out(ns, p, &r);
        }
        Err(e) => ns.env.drop(p, no_route(e)),
    }
}

/// The drop reason for a failed output lookup.
#[must_use]
pub fn no_route(e: Errno) -> DropReason {
    match e {
        Errno::EACCES => DropReason::IpRouteProhibit,
        Errno::EINVAL => DropReason::IpRouteBlackhole,
        Errno::EHOSTUNREACH => DropReason::IpRouteUnreachable,
        _ => DropReason::IpOutNoRoute,
    }
}

/// To the device of the route.
pub fn ip_output(ns: &mut Namespace, p: Packet, r: &Route) {
    let Some(daddr) = Ipv4Hdr::view(p.network()).map(|h| IpAddr::V4(h.daddr())) else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    let mtu = dst_mtu(ns, r, daddr);
    dst_output(ns, p, r, mtu);
}

/// Likewise, when the path MTU of the route is known (`dst_output`: `ip_output`, `ip_mc_output`).
#[inline(always)]
pub(super) fn dst_output(ns: &mut Namespace, mut p: Packet, r: &Route, mtu: u32) {
    p.meta_mut().dev = r.dev;
    match r.kind {
        RouteType::Multicast | RouteType::Broadcast if !p.meta().forwarded => ip_mc_output(ns, &p, r),
        _ => {}
    }
    let Some((p, proof)) = ns.nf.post_routing(&mut ns.env, p, Pf::Ipv4) else { return };
    ip_finish_output(ns, p, r, mtu as usize, proof);
}

/// Counts group packets and hands a copy to this host when it is a member (`ip_mc_output`).
fn ip_mc_output(ns: &mut Namespace, p: &Packet, r: &Route) {
    let Some(h) = Ipv4Hdr::view(p.network()).copied() else { return };
    let multicast = r.kind == RouteType::Multicast;
    let (packets, octets) = if multicast {
        (Mib::IpExtOutMcastPkts, Mib::IpExtOutMcastOctets)
    } else {
        (Mib::IpExtOutBcastPkts, Mib::IpExtOutBcastOctets)
    };
    ns.env.mib.inc(packets);
    ns.env.mib.add(octets, p.len() as u64);
    let loopback = r.dev == ferronet_core::IfIndex::LO;
    let member = |d: &crate::dev::Device| d.mcast.iter().any(|g| g.0 == IpAddr::V4(h.daddr()));
    let wanted = if multicast { ns.devs.get(r.dev).is_some_and(member) } else { true };
    if loopback || !wanted {
        return;
    }
    let mut c = p.copy(&mut ns.env.pool);
    let m = c.meta_mut();
    m.dev = r.dev;
    m.pkt_type = PktType::Loopback;
    ns.netif_rx(c);
}

/// Segmentation or fragmentation to the path MTU (`__ip_finish_output`).
#[inline(always)]
fn ip_finish_output(ns: &mut Namespace, mut p: Packet, r: &Route, mtu: usize, proof: PostRouted) {
    let Some(daddr) = Ipv4Hdr::view(p.network()).map(Ipv4Hdr::daddr) else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    if p.meta().gso.kind != GsoKind::None {
        if crate::dev::gso::network_seglen(&p) <= mtu {
            ip_finish_output2(ns, p, r, daddr, proof);
            return;
        }
        // Segments that do not fit the path: cut here, then fragment each (ip_finish_output_gso).
        let mut segs = ferronet_core::PacketQueue::new();
        crate::dev::gso::skb_gso_segment(&mut ns.env, p, &mut segs);
        while let Some(s) = segs.pop() {
            super::frag::ip_fragment(ns, s, mtu, &mut |ns, f| {
                ip_finish_output2(ns, f, r, daddr, ferronet_netfilter::Netfilter::piece_of(&proof));
            });
        }
        return;
    }
    if p.len() > mtu || usize::from(p.meta().frag_max_size) > mtu {
        p.meta_mut().dev = r.dev;
        super::frag::ip_fragment(ns, p, mtu, &mut |ns, f| {
            ip_finish_output2(ns, f, r, daddr, ferronet_netfilter::Netfilter::piece_of(&proof));
        });
        return;
    }
    count_output(ns, &p);
    let hop = match r.gw {
        _ if r.kind == RouteType::Broadcast => None,
        None => Some(daddr),
        Some(IpAddr::V4(gw)) => Some(gw),
        Some(IpAddr::V6(_)) => None,
    };
    let rest = match hop {
        Some(hop) => neigh_output_ready(ns, p, r.dev, hop, &proof),
        None => Err(p),
    };
    if let Err(p) = rest {
        to_neighbour(ns, p, r, daddr, proof);
    }
}

fn to_neighbour(ns: &mut Namespace, p: Packet, r: &Route, daddr: Ipv4Addr, proof: PostRouted) {
    neigh_output(ns, p, r.dev, r.next_hop(daddr.into()), r.kind == RouteType::Broadcast, proof);
}

/// Behind fragmentation: each piece counts.
#[inline]
fn count_output(ns: &mut Namespace, p: &Packet) {
    ns.env.mib.inc(Mib::IpOutTransmits);
    ns.env.mib.add(Mib::IpExtOutOctets, p.len() as u64);
}

/// A segment or fragment to the neighbour.
fn ip_finish_output2(ns: &mut Namespace, p: Packet, r: &Route, daddr: Ipv4Addr, proof: PostRouted) {
    count_output(ns, &p);
    to_neighbour(ns, p, r, daddr, proof);
}

/// Whether a local UDP or raw packet may be fragmented here, or the sender is told (`EMSGSIZE`).
#[must_use]
pub fn too_big(ns: &Namespace, r: &Route, daddr: Ipv4Addr, len: usize, df: bool) -> Option<Errno> {
    (df && len > dst_mtu(ns, r, IpAddr::V4(daddr)) as usize).then_some(Errno::EMSGSIZE)
}
