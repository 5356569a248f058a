//! IPv4 forwarding (`net/ipv4/ip_forward.c`).

use core::net::IpAddr;

use ferronet_core::packet::GsoKind;
use ferronet_core::sysctl::Conf4;
use ferronet_core::{DropReason, Mib, Packet, PktType};
use ferronet_netfilter::{Hook, Pf};
use ferronet_wire::icmp::{self as wire_icmp, IcmpHdr};
use ferronet_wire::ipv4::Ipv4Hdr;

use super::icmp::icmp_send;
use super::route::{dst_mtu, max_conf};
use crate::fib::Route;
use crate::ns::Namespace;

/// A packet for somebody else (`ip_forward`).
#[inline(always)]
pub fn ip_forward(ns: &mut Namespace, mut p: Packet, r: &Route) {
    ns.env.stage(&p, "ip_forward");
    if p.meta().pkt_type != PktType::Host {
        ns.env.drop(p, DropReason::OtherHost);
        return;
    }
    let Some(h) = Ipv4Hdr::view(p.network()) else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    let (ttl, df, daddr, options) = (h.ttl(), h.df(), h.daddr(), h.hdr_len() > Ipv4Hdr::LEN);
    // RFC 1812 §5.3.1: the time to live is checked before anything is changed.
    if ttl <= 1 {
        icmp_send(ns, &p, IcmpHdr::new(wire_icmp::ICMP_TIME_EXCEEDED, wire_icmp::ICMP_EXC_TTL));
        ns.env.drop(p, DropReason::IpTtl);
        return;
    }
    p.meta_mut().forwarded = true;
    let mtu = dst_mtu(ns, r, IpAddr::V4(daddr));
    if df && exceeds_mtu(&p, mtu) {
        icmp_send(ns, &p, IcmpHdr::frag_needed(mtu as u16));
        ns.env.drop(p, DropReason::IpNeedFrag);
        return;
    }
    if r.dev == p.meta().dev && !options && max_conf(ns, r.dev, Conf4::SendRedirects) != 0 {
        super::icmp::ip_rt_send_redirect(ns, &p, r);
    }
    if let Some(h) = Ipv4Hdr::view_mut(p.network_mut()) {
        h.decrease_ttl();
    }
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv4, Hook::Forward) else { return };
    ns.env.mib.inc(Mib::IpForwDatagrams);
    super::output::dst_output(ns, p, r, mtu);
}

/// `ip_exceeds_mtu`: a GSO packet counts by its segments.
fn exceeds_mtu(p: &Packet, mtu: u32) -> bool {
    if p.len() <= mtu as usize {
        return false;
    }
    let g = p.meta().gso;
    if g.kind == GsoKind::None {
        return true;
    }
    crate::dev::gso::network_seglen(p) > mtu as usize
}
