//! IPv6 input (`net/ipv6/ip6_input.c`).

use ferronet_core::sysctl::Conf6;
use ferronet_core::{DropReason, IfIndex, Mib, Packet, PktType};
use ferronet_netfilter::{Hook, Pf};
use ferronet_wire::WireError;
use ferronet_wire::icmpv6 as wire;
use ferronet_wire::ipproto;
use ferronet_wire::ipv6::Ipv6Hdr;

use super::addr::{SCOPE_NODELOCAL, addr_scope, ipv6_chk_mcast_addr};
use super::exthdrs::{Taken, ipv6_destopt_rcv, ipv6_parse_hopopts, ipv6_rthdr_rcv};
use super::icmp::icmpv6_send;
use super::route::ip6_route_input;
use crate::fib::RouteType;
use crate::ns::Namespace;

/// An IPv6 packet from a device, at its header.
pub fn ipv6_rcv(ns: &mut Namespace, p: Packet) {
    let Some(p) = ip6_rcv_core(ns, p) else { return };
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv6, Hook::PreRouting) else { return };
    ip6_rcv_finish(ns, p);
}

/// Validation (`ip6_rcv_core`).
fn ip6_rcv_core(ns: &mut Namespace, mut p: Packet) -> Option<Packet> {
    if p.meta().pkt_type == PktType::OtherHost {
        ns.env.drop(p, DropReason::OtherHost);
        return None;
    }
    ns.env.mib.inc(Mib::Ip6InReceives);
    let bytes = p.len();
    ns.env.mib.add(Mib::Ip6InOctets, bytes as u64);
    let dev = p.meta().dev;
    if ns.devs.get(dev).is_none_or(|d| d.conf6.get(Conf6::DisableIpv6) != 0) {
        ns.env.mib.inc(Mib::Ip6InDiscards);
        ns.env.drop(p, DropReason::Ip6Disabled);
        return None;
    }
    let checked = if p.may_pull(Ipv6Hdr::LEN) {
        Ipv6Hdr::check_packet(p.data(), bytes)
    } else {
        Err(WireError::TooShort)
    };
    let reason = match (checked, Ipv6Hdr::view(p.data()).copied()) {
        (Ok(len), Some(h)) => {
            count_ecn(ns, h.ecn(), u64::from(p.meta().gso.segs.max(1)));
            match addresses(&h, dev, &p, ns) {
                None => {
                    // The length of a GSO packet beyond 64 KiB is 0.
                    if h.payload_len() != 0 || p.meta().gso.segs == 0 {
                        p.trim(len);
                    }
                    p.set_transport_header(Ipv6Hdr::LEN);
                    return hop_by_hop(ns, p, &h);
                }
                Some(r) => r,
            }
        }
        (Err(WireError::Truncated), _) => DropReason::Ip6Truncated,
        (Err(_), _) | (Ok(_), None) => DropReason::Ip6Hdr,
    };
    ns.env.drop(p, reason);
    None
}

fn count_ecn(ns: &mut Namespace, ecn: u8, segs: u64) {
    let m = match ecn {
        0 => Mib::Ip6InNoECTPkts,
        1 => Mib::Ip6InECT1Pkts,
        2 => Mib::Ip6InECT0Pkts,
        _ => Mib::Ip6InCEPkts,
    };
    ns.env.mib.add(m, segs);
}

/// Addresses that cannot be in a packet on the wire (RFC 4291 §2.5.3, §2.7).
fn addresses(h: &Ipv6Hdr, dev: IfIndex, p: &Packet, ns: &Namespace) -> Option<DropReason> {
    let (s, d) = (h.saddr(), h.daddr());
    let loopback = dev == IfIndex::LO;
    let own = p.meta().pkt_type == PktType::Loopback;
    let l2_group = matches!(p.meta().pkt_type, PktType::Multicast | PktType::Broadcast);
    let strict_l2 = ns.devs.get(dev).is_some_and(|x| x.conf6.get(Conf6::DropUnicastInL2Multicast) != 0);
    let bad = (!loopback && (s.is_loopback() || d.is_loopback()))
        || (!loopback && !own && d.is_multicast() && addr_scope(d) <= SCOPE_NODELOCAL)
        || (d.is_multicast() && addr_scope(d) == 0)
        || (l2_group && strict_l2 && !d.is_multicast())
        || s.is_multicast();
    bad.then_some(DropReason::Ip6Hdr)
}

/// Hop-by-hop options are for every node on the way.
fn hop_by_hop(ns: &mut Namespace, mut p: Packet, h: &Ipv6Hdr) -> Option<Packet> {
    if h.nexthdr() != ipproto::IPPROTO_HOPOPTS {
        return Some(p);
    }
    let network = p.meta().network;
    let _ = p.pull(Ipv6Hdr::LEN);
    match ipv6_parse_hopopts(ns, p) {
        Taken::Next(mut p) => {
            p.set_transport_header(0);
            let _ = p.seek(network);
            Some(p)
        }
        Taken::Ended => None,
    }
}

/// The routing decision (`ip6_rcv_finish`).
fn ip6_rcv_finish(ns: &mut Namespace, mut p: Packet) {
    let Some(h) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    let dev = p.meta().dev;
    match ip6_route_input(ns, &p, h.saddr(), h.daddr(), h.tclass(), dev) {
        Ok(r) => {
            let step = ferronet_core::trace::Step::Route(crate::ipv4::input::kind_name(r.kind), r.dev);
            ns.env.trace(&p, step);
            match r.kind {
                RouteType::Multicast => ip6_mc_input(ns, p),
                RouteType::Local | RouteType::Anycast => {
                    // Over lo the packet counts as received on the device that has the address, so that replies
                    // to link-local addresses find their link (IP6CB(skb)->iif).
                    if dev == IfIndex::LO {
                        p.meta_mut().iif = r.dev;
                    }
                    ip6_input(ns, p);
                }
                _ => super::forward::ip6_forward(ns, p, &r),
            }
        }
        Err(e) => {
            if let Some(code) = e.code {
                icmpv6_send(ns, &p, wire::ICMPV6_DEST_UNREACH, code, 0);
            }
            ns.env.drop(p, e.reason);
        }
    }
}

/// To a group (`ip6_mc_input`).
fn ip6_mc_input(ns: &mut Namespace, mut p: Packet) {
    ns.env.stage(&p, "ip6_mc_input");
    let Some(h) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    ns.env.mib.inc(Mib::Ip6InMcastPkts);
    ns.env.mib.add(Mib::Ip6InMcastOctets, p.len() as u64);
    let dev = p.meta().dev;
    if !ipv6_chk_mcast_addr(ns, dev, h.daddr()) {
        ns.env.drop(p, DropReason::Ip6NotMember);
        return;
    }
    if p.meta().pkt_type != PktType::Loopback {
        p.meta_mut().pkt_type = PktType::Multicast;
    }
    ip6_input(ns, p);
}

/// For this host (`ip6_input`).
pub fn ip6_input(ns: &mut Namespace, p: Packet) {
    ns.env.stage(&p, "ip6_input");
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv6, Hook::LocalIn) else { return };
    ip6_protocol_deliver(ns, p);
}

/// Over the extension headers to the transport protocol (`ip6_protocol_deliver_rcu`).
fn ip6_protocol_deliver(ns: &mut Namespace, mut p: Packet) {
    // Where the byte stands that says what is at the packet's position, from the IPv6 header.
    let mut nhoff = 6;
    let hop = Ipv6Hdr::view(p.network()).is_some_and(|h| h.nexthdr() == ipproto::IPPROTO_HOPOPTS);
    let transport = p.meta().transport;
    if hop {
        nhoff = Ipv6Hdr::LEN;
    }
    if !p.seek(transport) {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    }
    loop {
        let nexthdr = p.network().get(nhoff).copied().unwrap_or(ipproto::IPPROTO_NONE);
        let here = usize::from(p.pos() - p.meta().network);
        let taken = match nexthdr {
            ipproto::IPPROTO_ROUTING => ipv6_rthdr_rcv(ns, p),
            ipproto::IPPROTO_DSTOPTS => ipv6_destopt_rcv(ns, p),
            ipproto::IPPROTO_FRAGMENT => match super::reassembly::ipv6_frag_rcv(ns, p) {
                Some((q, at)) => {
                    p = q;
                    nhoff = at;
                    p.set_transport_header(0);
                    continue;
                }
                None => return,
            },
            _ => return deliver(ns, p, nexthdr, nhoff),
        };
        match taken {
            Taken::Next(q) => {
                p = q;
                nhoff = here;
                p.set_transport_header(0);
            }
            Taken::Ended => return,
        }
    }
}

fn deliver(ns: &mut Namespace, mut p: Packet, nexthdr: u8, nhoff: usize) {
    p.set_transport_header(0);
    let raw = crate::sock::raw::raw6_local_deliver(ns, &p, nexthdr);
    match nexthdr {
        ipproto::IPPROTO_TCP | ipproto::IPPROTO_UDP | ipproto::IPPROTO_ICMPV6 | ipproto::IPPROTO_NONE => {
            ns.env.mib.inc(Mib::Ip6InDelivers);
        }
        _ if raw => ns.env.mib.inc(Mib::Ip6InDelivers),
        _ => {}
    }
    match nexthdr {
        ipproto::IPPROTO_TCP => crate::tcp::tcp_v6_rcv(ns, p),
        ipproto::IPPROTO_UDP => crate::udp::udpv6_rcv(ns, p),
        ipproto::IPPROTO_ICMPV6 => super::icmp::icmpv6_rcv(ns, p),
        ipproto::IPPROTO_NONE => ns.env.consume(p),
        _ if raw => ns.env.consume(p),
        _ => {
            icmpv6_send(ns, &p, wire::ICMPV6_PARAMPROB, wire::ICMPV6_UNK_NEXTHDR, nhoff as u32);
            ns.env.drop(p, DropReason::Ip6NoProto);
        }
    }
}
