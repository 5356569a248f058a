//! IPv6 reassembly (RFC 8200 §4.5, `net/ipv6/reassembly.c`).

use core::net::IpAddr;
use core::time::Duration;

use ferronet_core::{DropReason, IfIndex, Mib, Packet, Sysctl};
use ferronet_wire::icmpv6::{self as wire, Icmp6Hdr};
use ferronet_wire::ipproto::{IPPROTO_ICMPV6, IPPROTO_NONE, IPPROTO_TCP, IPPROTO_UDP};
use ferronet_wire::ipv6::{FragHdr, Ipv6Hdr, Ipv6OptHdr, ipv6_skip_exthdr};
use ferronet_wire::{TcpHdr, UdpHdr};

use super::addr::is_link_local;
use super::icmp::icmpv6_send;
use crate::inet_frag::{DefragUser, Done, FragKey, Limits, Piece};
use crate::ns::Namespace;

/// Largest payload of an IPv6 packet.
const IPV6_MAXPLEN: usize = 65_535;

fn limits(ns: &Namespace) -> Limits {
    let get = |s| u64::try_from(ns.env.sysctl.get(s)).unwrap_or(0);
    Limits {
        high_thresh: get(Sysctl::Ip6Ip6fragHighThresh) as usize,
        timeout: Duration::from_secs(get(Sysctl::Ip6Ip6fragTime)),
        max_dist: 0,
    }
}

/// The first fragment of a datagram that did not become complete in time: its sender is told.
pub fn frag_expired(ns: &mut Namespace, p: &Packet) {
    icmpv6_send(ns, p, wire::ICMPV6_TIME_EXCEED, wire::ICMPV6_EXC_FRAGTIME, 0);
}

fn refuse(ns: &mut Namespace, p: Packet, code: u8, pointer: usize, r: DropReason) -> Option<(Packet, usize)> {
    icmpv6_send(ns, &p, wire::ICMPV6_PARAMPROB, code, pointer as u32);
    ns.env.mib.inc(Mib::Ip6InHdrErrors);
    ns.env.drop(p, r);
    None
}

/// A fragment, at its fragment header (`ipv6_frag_rcv`). When the datagram is complete: the whole, behind where the
/// fragment header was, and where its next-header byte stands, from the IPv6 header.
pub fn ipv6_frag_rcv(ns: &mut Namespace, mut p: Packet) -> Option<(Packet, usize)> {
    ns.env.mib.inc(Mib::Ip6ReasmReqds);
    let at = usize::from(p.pos() - p.meta().network);
    let ip = Ipv6Hdr::view(p.network()).copied();
    let (Some(ip), true) = (ip, p.may_pull(FragHdr::LEN)) else {
        return refuse(ns, p, wire::ICMPV6_HDR_FIELD, at, DropReason::FragInvalid);
    };
    // A jumbogram cannot be fragmented.
    if ip.payload_len() == 0 {
        return refuse(ns, p, wire::ICMPV6_HDR_FIELD, at, DropReason::FragInvalid);
    }
    let Some(fh) = FragHdr::view(p.data()).copied() else {
        return refuse(ns, p, wire::ICMPV6_HDR_FIELD, at, DropReason::FragInvalid);
    };
    let (offset, more) = (fh.offset_bytes(), fh.more());
    if offset == 0 && !more {
        // An "atomic" fragment (RFC 6946): not one of several.
        ns.env.mib.inc(Mib::Ip6ReasmOKs);
        let _ = p.pull(FragHdr::LEN);
        return Some((p, at));
    }
    let size = p.len() + at;
    let len = p.len() - FragHdr::LEN;
    // RFC 8200 §4.5: the first fragment must have all headers up to the transport's.
    if offset == 0 && thdr_truncated(&mut p, &fh) {
        return refuse(ns, p, wire::ICMPV6_HDR_INCOMP, 0, DropReason::FragInvalid);
    }
    if offset + len > IPV6_MAXPLEN {
        return refuse(ns, p, wire::ICMPV6_HDR_FIELD, at + 2, DropReason::FragInvalid);
    }
    if more && len & 7 != 0 {
        // The payload length is to blame: it stands 4 bytes into the header.
        return refuse(ns, p, wire::ICMPV6_HDR_FIELD, 4, DropReason::FragInvalid);
    }
    let local = ip.daddr().is_multicast() || is_link_local(ip.daddr());
    let key = FragKey {
        saddr: IpAddr::V6(ip.saddr()),
        daddr: IpAddr::V6(ip.daddr()),
        id: fh.identification(),
        proto: 0,
        dev: if local { p.meta().dev } else { IfIndex::NONE },
        user: DefragUser::LocalDeliver,
    };
    let piece = Piece {
        offset: offset as u32,
        end: (offset + len) as u32,
        more,
        ecn: ip.ecn(),
        size: size as u32,
        df: false,
    };
    let _ = p.pull(FragHdr::LEN);
    let limits = limits(ns);
    let done = ns.frags.queue(&mut ns.env, &limits, key, piece, p)?;
    ip6_frag_reasm(ns, done)
}

/// Takes the fragment header out and makes the header of the whole (`ip6_frag_reasm`).
fn ip6_frag_reasm(ns: &mut Namespace, done: Done) -> Option<(Packet, usize)> {
    let mut p = done.packet;
    let network = p.meta().network;
    let before = usize::from(p.pos() - network) - FragHdr::LEN;
    let payload = before - Ipv6Hdr::LEN + done.len as usize;
    let nexthdr = p.network().get(before).copied();
    let (Some(nexthdr), true) = (nexthdr, payload <= IPV6_MAXPLEN) else {
        ns.env.mib.inc(Mib::Ip6ReasmFails);
        ns.env.drop(p, DropReason::FragInvalid);
        return None;
    };
    // What every fragment repeats moves over the fragment header.
    p.network_mut().copy_within(0..before, FragHdr::LEN);
    let m = p.meta_mut();
    m.network += FragHdr::LEN as u16;
    m.mac = m.network;
    m.frag_max_size = done.max_size.min(u32::from(u16::MAX)) as u16;
    let nhoff = last_nexthdr(p.network(), before);
    if let Some(b) = p.network_mut().get_mut(nhoff) {
        *b = nexthdr;
    }
    if let Some(h) = Ipv6Hdr::view_mut(p.network_mut()) {
        h.set_payload_len(payload as u16);
        let tclass = h.tclass() | done.ecn;
        h.set_flow(tclass, h.flowlabel());
    }
    ns.env.mib.inc(Mib::Ip6ReasmOKs);
    Some((p, nhoff))
}

/// Where the next-header byte stands that names what begins at `end`.
fn last_nexthdr(b: &[u8], end: usize) -> usize {
    let (mut at, mut prev) = (Ipv6Hdr::LEN, 6);
    while at < end {
        let Some(h) = b.get(at..).and_then(Ipv6OptHdr::view) else { break };
        prev = at;
        at += h.optlen();
    }
    prev
}

/// Does the first fragment end before the transport header does (`ipv6frag_thdr_truncated`)?
fn thdr_truncated(p: &mut Packet, fh: &FragHdr) -> bool {
    // All of it, as far as the head can hold it.
    let want = p.len().min(256);
    let _ = p.may_pull(want);
    let len = p.len();
    let Some(s) = ipv6_skip_exthdr(p.data(), FragHdr::LEN, fh.nexthdr) else {
        return fh.nexthdr != IPPROTO_NONE && len <= 256;
    };
    let need = match s.nexthdr {
        IPPROTO_TCP => TcpHdr::LEN,
        IPPROTO_UDP => UdpHdr::LEN,
        IPPROTO_ICMPV6 => Icmp6Hdr::LEN,
        _ => 1,
    };
    s.offset + need > len
}
