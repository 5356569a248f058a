//! UDP input (`__udp4_lib_rcv`, `__udp6_lib_rcv`).

use core::hash::BuildHasher;
use core::net::IpAddr;

use ferronet_core::packet::GsoKind;
use ferronet_core::{DropReason, Mib, Packet, PacketQueue, PktType};
use ferronet_wire::checksum::{csum_ipv6_nofold, csum_tcpudp_nofold};
use ferronet_wire::icmp as wire_icmp;
use ferronet_wire::icmpv6 as wire_icmp6;
use ferronet_wire::ipproto::IPPROTO_UDP;
use ferronet_wire::{IcmpHdr, Ipv4Hdr, Ipv6Hdr, UdpHdr};

use super::table;
use crate::ipv4::icmp::IcmpError;
use crate::ipv4::input::checksum_ok;
use crate::ns::Namespace;
use crate::sock::common::pmtudisc;
use crate::sock::datagram::{filter, queue_rcv};
use crate::sock::{Proto, SockFlags, SockKey, errqueue, mcast};
use crate::tcp::FourTuple;

/// The counters of one family.
#[derive(Clone, Copy)]
struct Mibs {
    no_ports: Mib,
    in_errors: Mib,
    rcvbuf_errors: Mib,
    csum_errors: Mib,
    ignored_multi: Mib,
}

const V4: Mibs = Mibs {
    no_ports: Mib::UdpNoPorts,
    in_errors: Mib::UdpInErrors,
    rcvbuf_errors: Mib::UdpRcvbufErrors,
    csum_errors: Mib::UdpInCsumErrors,
    ignored_multi: Mib::UdpIgnoredMulti,
};
const V6: Mibs = Mibs {
    no_ports: Mib::Udp6NoPorts,
    in_errors: Mib::Udp6InErrors,
    rcvbuf_errors: Mib::Udp6RcvbufErrors,
    csum_errors: Mib::Udp6InCsumErrors,
    ignored_multi: Mib::Udp6IgnoredMulti,
};

/// A UDP datagram over IPv4, at its header.
pub fn udp_rcv(ns: &mut Namespace, p: Packet) {
    let Some(ip) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    rcv(ns, p, IpAddr::V4(ip.saddr()), IpAddr::V4(ip.daddr()));
}

/// A UDP datagram over IPv6, at its header.
pub fn udpv6_rcv(ns: &mut Namespace, p: Packet) {
    let Some(ip) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    rcv(ns, p, IpAddr::V6(ip.saddr()), IpAddr::V6(ip.daddr()));
}

fn mibs(a: IpAddr) -> Mibs {
    match a {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

fn fail(ns: &mut Namespace, p: Packet, mib: Mib, r: DropReason) {
    ns.env.mib.inc(mib);
    ns.env.drop(p, r);
}

fn rcv(ns: &mut Namespace, mut p: Packet, saddr: IpAddr, daddr: IpAddr) {
    let m = mibs(daddr);
    let len = p.len();
    let checked = if p.may_pull(UdpHdr::LEN) { UdpHdr::check_packet(p.data(), len).ok() } else { None };
    // A length of 0 stands for a jumbogram, which no device here carries (RFC 2675 §4).
    let (Some(len), Some(h)) = (checked, UdpHdr::view(p.data()).copied()) else {
        return fail(ns, p, m.in_errors, DropReason::UdpHdr);
    };
    p.trim(len);
    p.set_transport_header(0);
    let pseudo = match (saddr, daddr) {
        (IpAddr::V4(s), IpAddr::V4(d)) => csum_tcpudp_nofold(s, d, len as u32, IPPROTO_UDP, 0),
        (IpAddr::V6(s), IpAddr::V6(d)) => csum_ipv6_nofold(&s, &d, len as u32, IPPROTO_UDP, 0),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    let none = h.check() == 0;
    if !none && !checksum_ok(&mut p, pseudo) {
        ns.env.mib.inc(m.csum_errors);
        return fail(ns, p, m.in_errors, DropReason::UdpCsum);
    }
    ns.env.stage(&p, if daddr.is_ipv6() { "udpv6_rcv" } else { "udp_rcv" });
    let tuple = FourTuple { laddr: daddr, lport: h.dest(), raddr: saddr, rport: h.source() };
    if daddr.is_multicast() || matches!(p.meta().pkt_type, PktType::Broadcast | PktType::Multicast) {
        mcast_deliver(ns, p, &tuple, none);
        return;
    }
    let hash = ns.socks.udp.hasher().hash_one(tuple) as u32;
    let dev = p.meta().iif;
    match table::lookup(&ns.socks, &tuple, dev, hash) {
        // RFC 8200 §8.1: over IPv6 the checksum is not optional, except where RFC 6935 says so.
        Some(key) if none && daddr.is_ipv6() && !takes_no_checksum(ns, key) => {
            ns.env.mib.inc(m.csum_errors);
            fail(ns, p, m.in_errors, DropReason::UdpCsum);
        }
        Some(key) => queue_rcv_skb(ns, p, key, m),
        None => no_port(ns, p, daddr, m),
    }
}

fn takes_no_checksum(ns: &Namespace, key: SockKey) -> bool {
    matches!(ns.socks.socks.get(key).map(|s| &s.proto), Some(Proto::Udp(u)) if u.no_check6_rx)
}

/// Nobody there: the sender is told (RFC 1122 §4.1.3.1).
fn no_port(ns: &mut Namespace, mut p: Packet, daddr: IpAddr, m: Mibs) {
    ns.env.mib.inc(m.no_ports);
    let at = p.meta().network;
    let _ = p.seek(at);
    match daddr {
        IpAddr::V4(_) => crate::ipv4::icmp::icmp_send(
            ns,
            &p,
            IcmpHdr::new(wire_icmp::ICMP_DEST_UNREACH, wire_icmp::ICMP_PORT_UNREACH),
        ),
        IpAddr::V6(_) => crate::ipv6::icmp::icmpv6_send(
            ns,
            &p,
            wire_icmp6::ICMPV6_DEST_UNREACH,
            wire_icmp6::ICMPV6_PORT_UNREACH,
            0,
        ),
    }
    ns.env.drop(p, DropReason::NoSocket);
}

/// To all sockets that want it (`__udp4_lib_mcast_deliver`).
fn mcast_deliver(ns: &mut Namespace, p: Packet, t: &FourTuple, no_checksum: bool) {
    let dev = p.meta().iif;
    let m = mibs(t.laddr);
    let want: Vec<SockKey> = ns
        .socks
        .udp
        .of_port(t.lport)
        .into_iter()
        .filter(|k| {
            ns.socks.socks.get(*k).is_some_and(|s| {
                let c = &s.common;
                let peer = c.peer.is_none_or(|(a, port)| a.to_canonical() == t.raddr && port == t.rport);
                peer && table::score(c, t.laddr, dev).is_some() && mcast::allows(c, t.laddr, t.raddr, dev)
            })
        })
        .filter(|k| !no_checksum || t.laddr.is_ipv4() || takes_no_checksum(ns, *k))
        .collect();
    let Some((last, others)) = want.split_last() else {
        ns.env.mib.inc(m.ignored_multi);
        ns.env.consume(p);
        return;
    };
    for k in others {
        let c = p.copy(&mut ns.env.pool);
        queue_rcv_skb(ns, c, *k, m);
    }
    queue_rcv_skb(ns, p, *last, m);
}

/// A datagram for a socket, at its UDP header; a GSO packet is cut unless the socket takes it whole (`UDP_GRO`).
fn queue_rcv_skb(ns: &mut Namespace, mut p: Packet, key: SockKey, m: Mibs) {
    let gro = matches!(ns.socks.socks.get(key).map(|s| &s.proto), Some(Proto::Udp(u)) if u.gro);
    if p.meta().gso.kind != GsoKind::UdpL4 || gro {
        queue_one(ns, p, key, m);
        return;
    }
    let (network, transport) = (p.meta().network, p.meta().transport);
    let _ = p.seek(network);
    let mut segs = PacketQueue::new();
    crate::dev::gso::skb_gso_segment(&mut ns.env, p, &mut segs);
    while let Some(mut s) = segs.pop() {
        let _ = s.seek(transport);
        s.meta_mut().csum = ferronet_core::Csum::Unnecessary;
        queue_one(ns, s, key, m);
    }
}

fn queue_one(ns: &mut Namespace, mut p: Packet, key: SockKey, m: Mibs) {
    let Some(s) = ns.socks.socks.get(key) else {
        ns.env.drop(p, DropReason::NoSocket);
        return;
    };
    let c = &s.common;
    let keep = filter(&mut ns.env, c, &p, 1);
    let hops = match p.network().first().map(|b| b >> 4) {
        Some(4) => Ipv4Hdr::view(p.network()).map(|h| h.ttl()),
        _ => Ipv6Hdr::view(p.network()).map(|h| h.hop_limit()),
    };
    let low = c.opts.as_ref().is_some_and(|o| hops.is_some_and(|h| h < o.min_ttl.max(o.min_hops)));
    if keep == 0 || low {
        if let Some(rx) = ns.socks.socks.get_mut(key).and_then(|s| s.proto.rx_mut()) {
            rx.drops += 1;
        }
        return fail(ns, p, m.in_errors, DropReason::SocketFilter);
    }
    p.trim(keep.max(UdpHdr::LEN));
    if !p.pull(UdpHdr::LEN) {
        return fail(ns, p, m.in_errors, DropReason::UdpHdr);
    }
    if let Err(p) = queue_rcv(ns, key, p) {
        ns.env.mib.inc(m.rcvbuf_errors);
        fail(ns, p, m.in_errors, DropReason::SocketRcvbuff);
    }
}

/// An ICMP error about a datagram of ours; `transport` is the quoted UDP header (`__udp4_lib_err`).
pub fn udp_err(ns: &mut Namespace, e: &IcmpError, transport: &[u8]) {
    let Some(&[a, b, c, d]) = transport.first_chunk::<4>() else { return };
    let t = FourTuple {
        laddr: e.saddr,
        lport: u16::from_be_bytes([a, b]),
        raddr: e.daddr,
        rport: u16::from_be_bytes([c, d]),
    };
    let Some(key) = table::lookup(&ns.socks, &t, e.dev, 0) else {
        ns.env.mib.inc(if e.daddr.is_ipv6() { Mib::Icmp6InErrors } else { Mib::IcmpInErrors });
        return;
    };
    let Ok(common) = ns.socks.common(key) else { return };
    let mode = if e.daddr.is_ipv6() { common.pmtudisc6 } else { common.pmtudisc };
    let connected = common.peer.is_some();
    let mut hard = e.fatal;
    if e.mtu > 0 {
        // Path MTU discovery: the program is told unless it switched it off.
        if mode == pmtudisc::DONT {
            return;
        }
        hard = true;
    }
    let always = hard && connected;
    let recverr = common.flags.intersects(SockFlags::RECVERR | SockFlags::RECVERR6);
    if recverr || always {
        errqueue::report(ns, key, e, (t.raddr, t.rport), transport.get(8..).unwrap_or(&[]), always);
    }
}
