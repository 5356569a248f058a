//! IPv4 input (`net/ipv4/ip_input.c`).

use ferronet_core::{Csum, DropReason, Mib, Packet, PktType};
use ferronet_netfilter::{Hook, Pf};
use ferronet_wire::ipproto;
use ferronet_wire::ipv4::Ipv4Hdr;
use ferronet_wire::{IcmpHdr, WireError, icmp as wire_icmp};

use super::route::{RouteError, ip_route_input};
use super::rtcache::InputKey;
use crate::dev::rx::count_ecn;
use crate::fib::{Route, RouteType};
use crate::ns::Namespace;

/// An IPv4 packet from a device, at its header.
pub fn ip_rcv(ns: &mut Namespace, p: Packet) {
    let Some(p) = ip_rcv_core(ns, p) else { return };
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv4, Hook::PreRouting) else { return };
    ip_rcv_finish(ns, p);
}

/// Validation: RFC 1122 §3.2.1.1 and §3.2.1.2.
#[inline]
fn ip_rcv_core(ns: &mut Namespace, mut p: Packet) -> Option<Packet> {
    // Promiscuous reception ends here.
    if p.meta().pkt_type == PktType::OtherHost {
        ns.env.drop(p, DropReason::OtherHost);
        return None;
    }
    let segs = u64::from(p.meta().gso.segs.max(1));
    let len = p.len();
    ns.env.mib.add(Mib::IpInReceives, segs);
    if let Some(h) = Ipv4Hdr::view(p.data()).filter(|h| h.is_plain())
        && let Some(tot_len) = h.check_plain(len)
    {
        ns.env.mib.add(Mib::IpExtInOctets, len as u64);
        count_ecn(ns, h.tos(), segs);
        p.trim(tot_len);
        p.set_transport_header(Ipv4Hdr::LEN);
        return Some(p);
    }
    ip_rcv_checked(ns, p, len, segs)
}

/// Options, pieces where the header should be, and all that is wrong.
fn ip_rcv_checked(ns: &mut Namespace, mut p: Packet, len: usize, segs: u64) -> Option<Packet> {
    let linear = p.may_pull(Ipv4Hdr::LEN)
        && match Ipv4Hdr::view(p.data()).map_or(0, Ipv4Hdr::hdr_len) {
            Ipv4Hdr::LEN => true,
            options => p.may_pull(options),
        };
    let checked = if linear { Ipv4Hdr::check_packet(p.data(), len) } else { Err(WireError::TooShort) };
    // As it came, link padding too; the ECN code point of every header that is one (ip_rcv_core).
    ns.env.mib.add(Mib::IpExtInOctets, len as u64);
    if let Some(h) = Ipv4Hdr::view(p.data()).filter(|h| linear && h.version() == 4 && h.ihl() >= 5) {
        count_ecn(ns, h.tos(), segs);
    }
    match checked {
        Ok(l) => {
            p.trim(l.tot_len);
            p.set_transport_header(l.hdr_len);
            Some(p)
        }
        Err(e) => {
            let r = match e {
                WireError::BadChecksum => {
                    ns.env.mib.inc(Mib::IpExtInCsumErrors);
                    DropReason::IpCsum
                }
                WireError::Truncated => DropReason::IpTruncated,
                _ => DropReason::IpHdr,
            };
            ns.env.drop(p, r);
            None
        }
    }
}

/// The routing decision (`ip_rcv_finish`).
#[inline]
fn ip_rcv_finish(ns: &mut Namespace, mut p: Packet) {
    let Some(h) = Ipv4Hdr::view(p.network()) else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    let dev = p.meta().dev;
    let key = InputKey::new(h.saddr(), h.daddr(), h.tos() & 0x1c, dev, p.meta().mark);
    let options = h.hdr_len() > Ipv4Hdr::LEN;
    let generation = (ns.fib.generation, ns.devs.generation, ns.env.sysctl.generation);
    let r = match ns.rt_input.get(generation, &key) {
        Some(r) => *r,
        None => match route_input_slow(ns, &p, key) {
            Ok(r) => r,
            Err(e) => {
                if let Some(code) = e.code {
                    super::icmp::icmp_send(ns, &p, IcmpHdr::new(wire_icmp::ICMP_DEST_UNREACH, code));
                }
                ns.env.drop(p, e.reason);
                return;
            }
        },
    };
    if options && let Err(reason) = super::options::ip_rcv_options(ns, &mut p, &r) {
        ns.env.drop(p, reason);
        return;
    }
    ns.env.trace_route(&p, || kind_name(r.kind), r.dev);
    match r.kind {
        RouteType::Broadcast => {
            ns.env.mib.inc(Mib::IpExtInBcastPkts);
            ns.env.mib.add(Mib::IpExtInBcastOctets, p.len() as u64);
            p.meta_mut().pkt_type = PktType::Broadcast;
            ip_local_deliver(ns, p);
        }
        RouteType::Multicast => {
            ns.env.mib.inc(Mib::IpExtInMcastPkts);
            ns.env.mib.add(Mib::IpExtInMcastOctets, p.len() as u64);
            p.meta_mut().pkt_type = PktType::Multicast;
            ip_local_deliver(ns, p);
        }
        RouteType::Local => ip_local_deliver(ns, p),
        _ => super::forward::ip_forward(ns, p, &r),
    }
}

/// The lookup in the tables; the cache remembers it.
#[cold]
fn route_input_slow(ns: &mut Namespace, p: &Packet, key: InputKey) -> Result<Route, RouteError> {
    let r = ip_route_input(ns, p, key.saddr(), key.daddr(), key.tos(), p.meta().dev)?;
    // A multipath choice depends on the packet's hash, which the key does not hold.
    if !r.multipath {
        let generation = (ns.fib.generation, ns.devs.generation, ns.env.sysctl.generation);
        ns.rt_input.put(generation, key, r);
    }
    Ok(r)
}

/// Name of a route type as `ip route` prints it.
#[must_use]
pub const fn kind_name(k: RouteType) -> &'static str {
    match k {
        RouteType::Unicast => "unicast",
        RouteType::Local => "local",
        RouteType::Broadcast => "broadcast",
        RouteType::Anycast => "anycast",
        RouteType::Multicast => "multicast",
        RouteType::Blackhole => "blackhole",
        RouteType::Unreachable => "unreachable",
        RouteType::Prohibit => "prohibit",
        RouteType::Throw => "throw",
    }
}

/// For this host: reassemble, then INPUT (`ip_local_deliver`).
pub fn ip_local_deliver(ns: &mut Namespace, p: Packet) {
    ns.env.stage(&p, "ip_local_deliver");
    let fragment = Ipv4Hdr::view(p.network()).is_some_and(Ipv4Hdr::is_fragment);
    let p = if fragment {
        match super::frag::ip_defrag(ns, p) {
            Some(p) => p,
            None => return,
        }
    } else {
        p
    };
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Ipv4, Hook::LocalIn) else { return };
    ip_local_deliver_finish(ns, p);
}

/// To the transport protocols (`ip_protocol_deliver_rcu`).
fn ip_local_deliver_finish(ns: &mut Namespace, mut p: Packet) {
    let Some(h) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    let raw = crate::sock::raw::raw_local_deliver(ns, &p, h.protocol());
    if !p.pull(h.hdr_len()) {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    }
    let known = matches!(
        h.protocol(),
        ipproto::IPPROTO_TCP | ipproto::IPPROTO_UDP | ipproto::IPPROTO_ICMP | ipproto::IPPROTO_IGMP
    );
    if known || raw {
        ns.env.mib.inc(Mib::IpInDelivers);
    }
    match h.protocol() {
        ipproto::IPPROTO_TCP => crate::tcp::tcp_v4_rcv(ns, p),
        ipproto::IPPROTO_UDP => crate::udp::udp_rcv(ns, p),
        ipproto::IPPROTO_ICMP => super::icmp::icmp_rcv(ns, p),
        ipproto::IPPROTO_IGMP => super::igmp::igmp_rcv(ns, p),
        _ if raw => ns.env.consume(p),
        _ => {
            let mut q = p;
            let network = q.meta().network;
            let _ = q.seek(network);
            super::icmp::icmp_send(
                ns,
                &q,
                IcmpHdr::new(wire_icmp::ICMP_DEST_UNREACH, wire_icmp::ICMP_PROT_UNREACH),
            );
            ns.env.drop(q, DropReason::IpNoProto);
        }
    }
}

/// Checks a transport checksum over the packet from its current position on, with `pseudo` as the sum of the
/// pseudo-header (0 for ICMP). Marks the packet when it holds.
#[must_use]
pub fn checksum_ok(p: &mut Packet, pseudo: u32) -> bool {
    match p.meta().csum {
        Csum::Unnecessary | Csum::Partial => true,
        Csum::None | Csum::Complete(_) => {
            let sum = csum_packet(p, pseudo);
            let ok = ferronet_wire::checksum::csum_fold(sum) == 0;
            if ok {
                p.meta_mut().csum = Csum::Unnecessary;
            }
            ok
        }
    }
}

/// One's complement sum of the packet from its current position on.
#[must_use]
pub fn csum_packet(p: &Packet, mut sum: u32) -> u32 {
    use ferronet_wire::checksum::{csum_block_add, csum_partial};
    sum = csum_partial(p.data(), sum);
    let mut offset = p.data().len();
    for f in p.frags() {
        sum = csum_block_add(sum, csum_partial(f, 0), offset);
        offset += f.len();
    }
    sum
}
