//! IPv6 forwarding (`ip6_forward`).

use core::net::IpAddr;

use ferronet_core::packet::GsoKind;
use ferronet_core::sysctl::Conf6;
use ferronet_core::{DropReason, Mib, Packet, PktType};
use ferronet_netfilter::{Hook, Pf};
use ferronet_wire::icmpv6 as wire;
use ferronet_wire::ipv6::Ipv6Hdr;

use super::addr::is_link_local;
use super::icmp::icmpv6_send;
use super::route::dst_mtu;
use crate::fib::Route;
use crate::ns::Namespace;

/// A packet for somebody else, at its header.
pub fn ip6_forward(ns: &mut Namespace, mut p: Packet, r: &Route) {
    ns.env.stage(&p, "ip6_forward");
    let dev = p.meta().dev;
    let forced = ns.devs.get(dev).is_some_and(|d| d.conf6.get(Conf6::ForceForwarding) != 0);
    // `all` decides, as in Linux: a device's own `forwarding` makes it a router interface, no more.
    if ns.conf.all6.get(Conf6::Forwarding) == 0 && !forced {
        ns.env.drop(p, DropReason::Ip6InAddr);
        return;
    }
    if p.meta().pkt_type != PktType::Host {
        ns.env.drop(p, DropReason::OtherHost);
        return;
    }
    let Some(h) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    if h.hop_limit() <= 1 {
        icmpv6_send(ns, &p, wire::ICMPV6_TIME_EXCEED, wire::ICMPV6_EXC_HOPLIMIT, 0);
        ns.env.drop(p, DropReason::Ip6HopLimit);
        return;
    }
    let saddr = h.saddr();
    if r.dev == dev {
        super::ndisc::ndisc_send_redirect(ns, &p, r);
    } else {
        // RFC 4291 §2.5.6: link-local packets stay on their link.
        if saddr.is_unspecified() || saddr.is_multicast() || saddr.is_loopback() {
            ns.env.drop(p, DropReason::Ip6InAddr);
            return;
        }
        if is_link_local(saddr) {
            icmpv6_send(ns, &p, wire::ICMPV6_DEST_UNREACH, wire::ICMPV6_NOT_NEIGHBOUR, 0);
            ns.env.drop(p, DropReason::Ip6InAddr);
            return;
        }
    }
    let mtu = dst_mtu(ns, r, IpAddr::V6(h.daddr()));
    if pkt_too_big(&p, mtu as usize) {
        icmpv6_send(ns, &p, wire::ICMPV6_PKT_TOOBIG, 0, mtu);
        ns.env.mib.inc(Mib::Ip6FragFails);
        ns.env.drop(p, DropReason::Ip6TooBig);
        return;
    }
    p.meta_mut().forwarded = true;
    if let Some(h) = Ipv6Hdr::view_mut(p.network_mut()) {
        h.hop_limit -= 1;
    }
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv6, Hook::Forward) else { return };
    ns.env.mib.inc(Mib::Ip6OutForwDatagrams);
    super::output::ip6_output(ns, p, r);
}

/// `ip6_pkt_too_big`: a GSO packet counts by its segments, a reassembled one by its largest fragment.
fn pkt_too_big(p: &Packet, mtu: usize) -> bool {
    if p.len() <= mtu {
        return false;
    }
    if p.meta().frag_max_size > 0 {
        return usize::from(p.meta().frag_max_size) > mtu;
    }
    p.meta().gso.kind == GsoKind::None || crate::dev::gso::network_seglen(p) > mtu
}
