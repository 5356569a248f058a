//! ICMPv6 (RFC 4443, `net/ipv6/icmp.c`): echo, errors out, errors in, rate limits.

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::{DropReason, Errno, IfIndex, Meta, Mib, Packet, PktType, Sysctl};
use ferronet_wire::checksum::{csum_fold, csum_ipv6_nofold, csum_partial};
use ferronet_wire::icmpv6::{self as wire, Icmp6Hdr};
use ferronet_wire::ipproto::IPPROTO_ICMPV6;
use ferronet_wire::ipv6::{IP6_OFFSET, IPV6_MIN_MTU, Ipv6Hdr, ipv6_skip_exthdr};

use super::addr::{ipv6_chk_addr, need_strict};
use super::output::{Ip6Header, queue_icmp6};
use super::route::{hop_limit, ip6_route_output};
use crate::fib::{Family, Flow, Route, RouteType, table_id};
use crate::ipv4::icmp::{IcmpError, quote};
use crate::ipv4::input::{checksum_ok, csum_packet};
use crate::ns::Namespace;

/// Most bytes of the packet that an error quotes (RFC 4443 §2.4(c)).
const QUOTE_MAX: usize = IPV6_MIN_MTU as usize - Ipv6Hdr::LEN - Icmp6Hdr::LEN;

/// The device a received packet counts as received on (`icmp6_iif`).
fn icmp6_iif(p: &Packet) -> IfIndex {
    if p.meta().dev == IfIndex::LO && !p.meta().iif.is_none() { p.meta().iif } else { p.meta().dev }
}

/// Sends an error about `orig` (found by its network header mark); `info` is the second word: MTU or pointer.
/// RFC 4443 §2.4(e) says about which packets never (`icmp6_send`).
pub fn icmpv6_send(ns: &mut Namespace, orig: &Packet, icmp6_type: u8, code: u8, info: u32) {
    let Some(ip) = Ipv6Hdr::view(orig.network()).copied() else { return };
    let (saddr, daddr) = (ip.saddr(), ip.daddr());
    let dev = icmp6_iif(orig);
    let mut source = ipv6_chk_addr(ns, daddr, dev).then_some(daddr);
    if daddr.is_multicast() || orig.meta().pkt_type != PktType::Host {
        let unrec = icmp6_type == wire::ICMPV6_PARAMPROB
            && code == wire::ICMPV6_UNK_OPTION
            && orig.network().get(info as usize).is_some_and(|b| b & 0xc0 == 0x80);
        if icmp6_type != wire::ICMPV6_PKT_TOOBIG && !unrec {
            return;
        }
        source = None;
    }
    if saddr.is_unspecified() || saddr.is_multicast() || is_ineligible(orig, &ip) {
        return;
    }
    let flow = Flow {
        src: IpAddr::V6(source.unwrap_or(Ipv6Addr::UNSPECIFIED)),
        mark: if ns.env.sysctl.on(Sysctl::Ip6FwmarkReflect) { orig.meta().mark } else { 0 },
        oif: if need_strict(saddr) { dev } else { IfIndex::NONE },
        proto: IPPROTO_ICMPV6,
        ..Flow::to(IpAddr::V6(saddr))
    };
    if !global_allow(ns, icmp6_type, orig.meta().dev) {
        return;
    }
    let Ok((route, source)) = ip6_route_output(ns, &flow) else {
        ns.env.mib.inc(Mib::Ip6OutNoRoutes);
        return;
    };
    if !xrlim_allow(ns, icmp6_type, &route, saddr) {
        return;
    }
    let body = quote(orig, QUOTE_MAX);
    let mut hdr = Icmp6Hdr::new(icmp6_type, code, info);
    hdr.fill_checksum(&source, &saddr, body.len(), csum_partial(&body, 0));
    let mut message = Vec::with_capacity(Icmp6Hdr::LEN + body.len());
    message.extend_from_slice(hdr.bytes());
    message.extend_from_slice(&body);
    let mut h = Ip6Header {
        saddr: source,
        daddr: saddr,
        protocol: IPPROTO_ICMPV6,
        tclass: 0,
        hop_limit: hop_limit(ns, &route),
        flowlabel: 0,
    };
    h.flowlabel = super::output::make_flowlabel(ns, orig, &h);
    queue_icmp6(ns, &h, if need_strict(saddr) { dev } else { IfIndex::NONE }, &message);
}

/// What a header says, for its automatic flow label.
fn reply_header(h: &Ipv6Hdr) -> Ip6Header {
    Ip6Header {
        saddr: h.saddr(),
        daddr: h.daddr(),
        protocol: h.nexthdr(),
        tclass: 0,
        hop_limit: h.hop_limit(),
        flowlabel: 0,
    }
}

/// No error about an ICMPv6 error, or about what cannot be read as anything else (`is_ineligible`).
fn is_ineligible(orig: &Packet, ip: &Ipv6Hdr) -> bool {
    let b = orig.network();
    match ipv6_skip_exthdr(b, Ipv6Hdr::LEN, ip.nexthdr()) {
        Some(s) if s.nexthdr == IPPROTO_ICMPV6 => {
            b.get(s.offset).is_none_or(|t| t & wire::ICMPV6_INFOMSG_MASK == 0)
        }
        Some(_) | None => false,
    }
}

/// Bit per type: limited? Reads `net.ipv6.icmp.ratemask`, a list of numbers and ranges.
fn ratemask(ns: &mut Namespace) -> [u64; 4] {
    let generation = ns.env.sysctl.generation;
    if ns.inet6.ratemask.0 != generation {
        let mut mask = [0u64; 4];
        for part in ns.env.sysctl.text(Sysctl::Ip6IcmpRatemask).split(',') {
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            let (Ok(a), Ok(b)) = (a.trim().parse::<u8>(), b.trim().parse::<u8>()) else { continue };
            for t in a..=b {
                mask[usize::from(t / 64)] |= 1 << (t % 64);
            }
        }
        ns.inet6.ratemask = (generation, mask);
    }
    ns.inet6.ratemask.1
}

fn masked(ns: &mut Namespace, t: u8) -> bool {
    ratemask(ns)[usize::from(t / 64)] & (1 << (t % 64)) != 0
}

/// `icmpv6_global_allow`: the limit that both families share.
fn global_allow(ns: &mut Namespace, t: u8, dev: IfIndex) -> bool {
    if dev == IfIndex::LO || !masked(ns, t) {
        return true;
    }
    let clip = |v: i64| u32::try_from(v.max(0)).unwrap_or(u32::MAX);
    let per_sec = clip(ns.env.sysctl.get(Sysctl::IcmpMsgsPerSec));
    let burst = clip(ns.env.sysctl.get(Sysctl::IcmpMsgsBurst));
    let ok = ns.icmp.global_allow(ns.env.now, per_sec, burst);
    if !ok {
        ns.env.mib.inc(Mib::IcmpOutRateLimitGlobal);
    }
    ok
}

/// `icmpv6_xrlim_allow`: the limit per destination, wider for wider prefixes.
fn xrlim_allow(ns: &mut Namespace, t: u8, r: &Route, dst: Ipv6Addr) -> bool {
    if r.dev == IfIndex::LO || !masked(ns, t) {
        return true;
    }
    let mut interval = u64::try_from(ns.env.sysctl.get(Sysctl::Ip6IcmpRatelimit)).unwrap_or(0);
    interval >>= (128 - u32::from(r.dst_len.min(128))) >> 5;
    let ok = ns.icmp.peer_allow(ns.env.now, IpAddr::V6(dst), interval);
    if !ok {
        ns.env.mib.inc(Mib::Icmp6OutRateLimitHost);
    }
    ok
}

/// Counts a message that goes out, whoever made it.
pub fn count_out(ns: &mut Namespace, t: u8) {
    ns.env.mib.inc(Mib::Icmp6OutMsgs);
    ns.env.mib.icmp6msg[1][usize::from(t)] += 1;
    if let Some((_, m)) = by_type(t) {
        ns.env.mib.inc(m);
    }
}

/// Counters by type: received, sent.
fn by_type(t: u8) -> Option<(Mib, Mib)> {
    Some(match t {
        wire::ICMPV6_DEST_UNREACH => (Mib::Icmp6InDestUnreachs, Mib::Icmp6OutDestUnreachs),
        wire::ICMPV6_PKT_TOOBIG => (Mib::Icmp6InPktTooBigs, Mib::Icmp6OutPktTooBigs),
        wire::ICMPV6_TIME_EXCEED => (Mib::Icmp6InTimeExcds, Mib::Icmp6OutTimeExcds),
        wire::ICMPV6_PARAMPROB => (Mib::Icmp6InParmProblems, Mib::Icmp6OutParmProblems),
        wire::ICMPV6_ECHO_REQUEST => (Mib::Icmp6InEchos, Mib::Icmp6OutEchos),
        wire::ICMPV6_ECHO_REPLY => (Mib::Icmp6InEchoReplies, Mib::Icmp6OutEchoReplies),
        wire::ICMPV6_MGM_QUERY => (Mib::Icmp6InGroupMembQueries, Mib::Icmp6OutGroupMembQueries),
        wire::ICMPV6_MGM_REPORT => (Mib::Icmp6InGroupMembResponses, Mib::Icmp6OutGroupMembResponses),
        wire::ICMPV6_MGM_REDUCTION => (Mib::Icmp6InGroupMembReductions, Mib::Icmp6OutGroupMembReductions),
        wire::NDISC_ROUTER_SOLICITATION => (Mib::Icmp6InRouterSolicits, Mib::Icmp6OutRouterSolicits),
        wire::NDISC_ROUTER_ADVERTISEMENT => {
            (Mib::Icmp6InRouterAdvertisements, Mib::Icmp6OutRouterAdvertisements)
        }
        wire::NDISC_NEIGHBOUR_SOLICITATION => (Mib::Icmp6InNeighborSolicits, Mib::Icmp6OutNeighborSolicits),
        wire::NDISC_NEIGHBOUR_ADVERTISEMENT => {
            (Mib::Icmp6InNeighborAdvertisements, Mib::Icmp6OutNeighborAdvertisements)
        }
        wire::NDISC_REDIRECT => (Mib::Icmp6InRedirects, Mib::Icmp6OutRedirects),
        wire::ICMPV6_MLD2_REPORT => (Mib::Icmp6InMLDv2Reports, Mib::Icmp6OutMLDv2Reports),
        _ => return None,
    })
}

/// An ICMPv6 message for this host, at its header (`icmpv6_rcv`).
pub fn icmpv6_rcv(ns: &mut Namespace, mut p: Packet) {
    ns.env.stage(&p, "icmpv6_rcv");
    ns.env.mib.inc(Mib::Icmp6InMsgs);
    let Some(ip) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::Ip6Hdr);
        return;
    };
    let pseudo = csum_ipv6_nofold(&ip.saddr(), &ip.daddr(), p.len() as u32, IPPROTO_ICMPV6, 0);
    if !checksum_ok(&mut p, pseudo) {
        ns.env.mib.inc(Mib::Icmp6InErrors);
        ns.env.drop(p, DropReason::Icmp6Csum);
        return;
    }
    let h = if p.may_pull(Icmp6Hdr::LEN) { Icmp6Hdr::view(p.data()).copied() } else { None };
    let Some(h) = h else {
        ns.env.drop(p, DropReason::Icmp6Invalid);
        return;
    };
    let t = h.icmp6_type;
    ns.env.mib.icmp6msg[0][usize::from(t)] += 1;
    if let Some((m, _)) = by_type(t) {
        ns.env.mib.inc(m);
    }
    match t {
        wire::ICMPV6_ECHO_REQUEST => icmpv6_echo_reply(ns, p, &ip, h),
        wire::ICMPV6_ECHO_REPLY => {
            crate::sock::ping::ping_rcv(ns, &p);
            ns.env.consume(p);
        }
        wire::ICMPV6_DEST_UNREACH
        | wire::ICMPV6_PKT_TOOBIG
        | wire::ICMPV6_TIME_EXCEED
        | wire::ICMPV6_PARAMPROB => icmpv6_notify(ns, p, &ip, h),
        wire::NDISC_ROUTER_SOLICITATION..=wire::NDISC_REDIRECT => super::ndisc::ndisc_rcv(ns, p, &ip, t),
        wire::ICMPV6_MGM_QUERY => super::mcast::igmp6_event_query(ns, p, &ip),
        wire::ICMPV6_MGM_REPORT => super::mcast::igmp6_event_report(ns, p, &ip),
        wire::ICMPV6_MGM_REDUCTION | wire::ICMPV6_MLD2_REPORT => ns.env.consume(p),
        // RFC 4443 §2.4(b): unknown informational messages are discarded silently; unknown errors reach the
        // upper layer.
        _ if t & wire::ICMPV6_INFOMSG_MASK != 0 => ns.env.drop(p, DropReason::IcmpIgnored),
        _ => icmpv6_notify(ns, p, &ip, h),
    }
}

/// Turns the packet round (`icmpv6_echo_reply`).
fn icmpv6_echo_reply(ns: &mut Namespace, mut p: Packet, ip: &Ipv6Hdr, h: Icmp6Hdr) {
    let (saddr, daddr) = (ip.saddr(), ip.daddr());
    let dev = icmp6_iif(&p);
    let s = &ns.env.sysctl;
    let group = daddr.is_multicast();
    let anycast = !group && is_anycast(ns, daddr);
    if s.on(Sysctl::Ip6IcmpEchoIgnoreAll)
        || (group && s.on(Sysctl::Ip6IcmpEchoIgnoreMulticast))
        || (anycast && s.on(Sysctl::Ip6IcmpEchoIgnoreAnycast))
        || saddr.is_multicast()
        || saddr.is_unspecified()
    {
        ns.env.drop(p, DropReason::IcmpIgnored);
        return;
    }
    let keep = !group && (!anycast || s.on(Sysctl::Ip6AnycastSrcEchoReply));
    let oif = if need_strict(saddr) { dev } else { IfIndex::NONE };
    let mark = if s.on(Sysctl::Ip6FwmarkReflect) { p.meta().mark } else { 0 };
    let src = IpAddr::V6(if keep { daddr } else { Ipv6Addr::UNSPECIFIED });
    let flow = Flow { src, oif, mark, proto: IPPROTO_ICMPV6, ..Flow::to(IpAddr::V6(saddr)) };
    let (route, source) = match ip6_route_output(ns, &flow) {
        Ok(r) => r,
        Err(e) => {
            ns.env.drop(p, super::output::no_route(e));
            return;
        }
    };
    if !global_allow(ns, wire::ICMPV6_ECHO_REPLY, p.meta().dev)
        || !xrlim_allow(ns, wire::ICMPV6_ECHO_REPLY, &route, saddr)
    {
        ns.env.drop(p, DropReason::IcmpIgnored);
        return;
    }
    let mut reply = h;
    reply.icmp6_type = wire::ICMPV6_ECHO_REPLY;
    reply.set_icmp6_cksum(0);
    let _ = reply.put(p.data_mut());
    let pseudo = csum_ipv6_nofold(&source, &saddr, p.len() as u32, IPPROTO_ICMPV6, 0);
    let c = csum_fold(csum_packet(&p, pseudo));
    if let Some(h) = Icmp6Hdr::view_mut(p.data_mut()) {
        h.set_icmp6_cksum(c);
    }
    count_out(ns, wire::ICMPV6_ECHO_REPLY);
    let trace = p.meta().trace;
    *p.meta_mut() = Meta { trace, mark, local_out: true, dev: oif, ..Meta::default() };
    p.set_transport_header(0);
    let mut out = Ipv6Hdr::new(source, saddr, IPPROTO_ICMPV6, hop_limit(ns, &route), p.len());
    let label = if ns.env.sysctl.get(Sysctl::Ip6FlowlabelReflect) & 4 != 0 { ip.flowlabel() } else { 0 };
    let label = match label {
        0 => super::output::make_flowlabel(ns, &p, &reply_header(&out)),
        l => l,
    };
    out.set_flow(ip.tclass(), label);
    let _ = out.put(p.push(Ipv6Hdr::LEN));
    p.set_network_header();
    ns.env.backlog.push(p);
}

fn is_anycast(ns: &Namespace, a: Ipv6Addr) -> bool {
    ns.fib.table(Family::V6, table_id::LOCAL).is_some_and(|t| t.has_kind(IpAddr::V6(a), RouteType::Anycast))
}

/// Errno and severity of an error (`icmpv6_err_convert`).
#[must_use]
pub fn icmpv6_err_convert(icmp6_type: u8, code: u8) -> (Errno, bool) {
    const UNREACH: [(Errno, bool); 7] = [
        (Errno::ENETUNREACH, false),
        (Errno::EACCES, true),
        (Errno::EHOSTUNREACH, false),
        (Errno::EHOSTUNREACH, false),
        (Errno::ECONNREFUSED, true),
        (Errno::EACCES, true),
        (Errno::EACCES, true),
    ];
    match icmp6_type {
        wire::ICMPV6_DEST_UNREACH => UNREACH.get(usize::from(code)).copied().unwrap_or((Errno::EPROTO, true)),
        wire::ICMPV6_PKT_TOOBIG => (Errno::EMSGSIZE, false),
        wire::ICMPV6_PARAMPROB => (Errno::EPROTO, true),
        wire::ICMPV6_TIME_EXCEED => (Errno::EHOSTUNREACH, false),
        _ => (Errno::EPROTO, false),
    }
}

/// An error about a packet of ours: learn, then tell the transport (`icmpv6_notify`).
fn icmpv6_notify(ns: &mut Namespace, mut p: Packet, ip: &Ipv6Hdr, h: Icmp6Hdr) {
    let want = p.len().min(Icmp6Hdr::LEN + 256);
    let _ = p.may_pull(want);
    let quoted = p.data().get(Icmp6Hdr::LEN..).unwrap_or(&[]);
    let inner = Ipv6Hdr::view(quoted).copied();
    let skip = inner.and_then(|i| ipv6_skip_exthdr(quoted, Ipv6Hdr::LEN, i.nexthdr()));
    let (Some(inner), Some(skip)) = (inner, skip) else {
        ns.env.drop(p, DropReason::Icmp6Invalid);
        return;
    };
    let Some(transport) = quoted.get(skip.offset..).filter(|t| t.len() >= 8) else {
        ns.env.drop(p, DropReason::Icmp6Invalid);
        return;
    };
    if skip.frag_off & IP6_OFFSET != 0 {
        ns.env.drop(p, DropReason::IcmpIgnored);
        return;
    }
    let transport = transport.to_vec();
    let (errno, fatal) = icmpv6_err_convert(h.icmp6_type, h.icmp6_code);
    let too_big = h.icmp6_type == wire::ICMPV6_PKT_TOOBIG;
    if too_big {
        super::route::update_pmtu(ns, inner.daddr(), h.mtu());
    }
    let e = IcmpError {
        icmp_type: h.icmp6_type,
        code: h.icmp6_code,
        from: IpAddr::V6(ip.saddr()),
        saddr: IpAddr::V6(inner.saddr()),
        daddr: IpAddr::V6(inner.daddr()),
        protocol: skip.nexthdr,
        errno,
        fatal,
        mtu: if too_big { h.mtu() } else { 0 },
        dev: icmp6_iif(&p),
        to: IpAddr::V6(ip.daddr()),
        ttl: ip.hop_limit(),
        tos: ip.tclass(),
    };
    crate::sock::icmp_err(ns, &e, &transport);
    ns.env.consume(p);
}

/// A packet's neighbour does not answer: tell the sender, over `lo` when that is this host
/// (`ndisc_error_report`, `ip6_link_failure`).
pub fn addr_unreachable(ns: &mut Namespace, mut p: Packet, r: DropReason) {
    let network = p.meta().network;
    let _ = p.seek(network);
    if p.meta().forwarded {
        let dev = p.meta().iif;
        p.meta_mut().dev = dev;
    }
    p.meta_mut().pkt_type = PktType::Host;
    icmpv6_send(ns, &p, wire::ICMPV6_DEST_UNREACH, wire::ICMPV6_ADDR_UNREACH, 0);
    ns.env.drop(p, r);
}
