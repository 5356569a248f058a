//! Extension headers (RFC 8200 §4, `net/ipv6/exthdrs.c`).

use ferronet_core::{DropReason, Packet, PktType, Sysctl};
use ferronet_wire::icmpv6 as wire;
use ferronet_wire::ipv6::{
    IPV6_TLV_HAO, IPV6_TLV_IOAM, IPV6_TLV_JUMBO, IPV6_TLV_PAD1, IPV6_TLV_PADN, IPV6_TLV_ROUTERALERT, Ipv6Hdr,
    Ipv6OptHdr, TlvAction, TlvOption, TlvOptions,
};

use super::icmp::icmpv6_send;
use crate::ns::Namespace;

/// How a header was taken.
pub enum Taken {
    /// Go on behind it; `p` is there.
    Next(Packet),
    /// The packet ended.
    Ended,
}

/// What an option makes of its packet.
enum Bad {
    /// Ends silently.
    Silent,
    /// Ends, and the sender is told: code, pointer from the IPv6 header.
    Tell(u8, u32),
}

/// Bytes of the header at the packet's position when all of it is linear.
fn pull_header(p: &mut Packet) -> Option<usize> {
    if !p.may_pull(8) {
        return None;
    }
    let len = Ipv6OptHdr::view(p.data())?.optlen();
    p.may_pull(len).then_some(len)
}

/// Offset of the packet's position from its IPv6 header.
fn offset(p: &Packet) -> usize {
    usize::from(p.pos() - p.meta().network)
}

/// Hop-by-hop options, at their header (`ipv6_parse_hopopts`).
pub fn ipv6_parse_hopopts(ns: &mut Namespace, mut p: Packet) -> Taken {
    let Some(len) = pull_header(&mut p) else {
        ns.env.drop(p, DropReason::Ip6ExtHdr);
        return Taken::Ended;
    };
    let (max_len, max_count) = (Sysctl::Ip6MaxHbhLength, Sysctl::Ip6MaxHbhOptsNumber);
    parse(ns, p, len, (max_len, max_count), true)
}

/// Destination options, at their header (`ipv6_destopt_rcv`).
pub fn ipv6_destopt_rcv(ns: &mut Namespace, mut p: Packet) -> Taken {
    let Some(len) = pull_header(&mut p) else {
        ns.env.drop(p, DropReason::Ip6ExtHdr);
        return Taken::Ended;
    };
    let (max_len, max_count) = (Sysctl::Ip6MaxDstOptsLength, Sysctl::Ip6MaxDstOptsNumber);
    parse(ns, p, len, (max_len, max_count), false)
}

fn parse(ns: &mut Namespace, mut p: Packet, len: usize, limits: (Sysctl, Sysctl), hop: bool) -> Taken {
    let max_len = ns.env.sysctl.get(limits.0);
    let result = if len as i64 > max_len {
        Err(Bad::Silent)
    } else {
        ip6_parse_tlv(&p, len, ns.env.sysctl.get(limits.1), hop)
    };
    match result {
        Ok(()) if p.pull(len) => Taken::Next(p),
        Ok(()) | Err(Bad::Silent) => {
            ns.env.drop(p, DropReason::Ip6ExtHdr);
            Taken::Ended
        }
        Err(Bad::Tell(code, pointer)) => {
            icmpv6_send(ns, &p, wire::ICMPV6_PARAMPROB, code, pointer);
            ns.env.drop(p, DropReason::Ip6ExtHdr);
            Taken::Ended
        }
    }
}

/// `ip6_parse_tlv`: at most `max` options that are no padding (negative: as many, unknown ones forbidden), padding of
/// zeros and at most seven bytes in a row.
fn ip6_parse_tlv(p: &Packet, len: usize, max: i64, hop: bool) -> Result<(), Bad> {
    let base = offset(p) as u32;
    let header = p.data().get(..len).ok_or(Bad::Silent)?;
    let options = TlvOptions::new(header).map_err(|_| Bad::Silent)?;
    let (mut padding, mut count) = (0usize, 0i64);
    for o in options {
        let o = o.map_err(|_| Bad::Silent)?;
        match o.kind {
            IPV6_TLV_PAD1 => padding += 1,
            IPV6_TLV_PADN => {
                padding += 2 + o.data.len();
                if o.data.iter().any(|b| *b != 0) {
                    return Err(Bad::Silent);
                }
            }
            _ => {
                padding = 0;
                count += 1;
                if count > max.abs() {
                    return Err(Bad::Silent);
                }
                known_option(p, &o, base, max < 0, hop)?;
            }
        }
        if padding > 7 {
            return Err(Bad::Silent);
        }
    }
    Ok(())
}

fn known_option(p: &Packet, o: &TlvOption<'_>, base: u32, strict: bool, hop: bool) -> Result<(), Bad> {
    let pointer = base + o.offset as u32;
    match o.kind {
        IPV6_TLV_ROUTERALERT if hop => return if o.data.len() == 2 { Ok(()) } else { Err(Bad::Silent) },
        IPV6_TLV_IOAM if hop => return Ok(()),
        // RFC 2675 §3: a jumbogram is larger than 65,535 bytes, which no packet here is.
        IPV6_TLV_JUMBO if hop => {
            let payload = Ipv6Hdr::view(p.network()).map_or(0, |h| h.payload_len());
            let aligned = o.data.len() == 4 && o.offset & 3 == 2;
            return Err(match (aligned, payload) {
                (false, _) => Bad::Silent,
                (true, 0) => Bad::Tell(wire::ICMPV6_HDR_FIELD, pointer + 2),
                (true, _) => Bad::Tell(wire::ICMPV6_HDR_FIELD, pointer),
            });
        }
        IPV6_TLV_HAO if !hop => {}
        _ => {}
    }
    // ip6_tlvopt_unknown: the type says what to do.
    match o.unknown_action() {
        TlvAction::Skip if !strict => Ok(()),
        TlvAction::Skip | TlvAction::Discard => Err(Bad::Silent),
        TlvAction::DiscardIcmp => Err(Bad::Tell(wire::ICMPV6_UNK_OPTION, pointer)),
        TlvAction::DiscardIcmpUnicast => {
            let group = Ipv6Hdr::view(p.network()).is_none_or(|h| h.daddr().is_multicast());
            Err(if group { Bad::Silent } else { Bad::Tell(wire::ICMPV6_UNK_OPTION, pointer) })
        }
    }
}

/// A routing header (`ipv6_rthdr_rcv`). RFC 5095: type 0 is not processed; without segments left any type is skipped.
pub fn ipv6_rthdr_rcv(ns: &mut Namespace, mut p: Packet) -> Taken {
    let Some(len) = pull_header(&mut p) else {
        ns.env.drop(p, DropReason::Ip6ExtHdr);
        return Taken::Ended;
    };
    let group = Ipv6Hdr::view(p.network()).is_none_or(|h| h.daddr().is_multicast());
    if group || p.meta().pkt_type != PktType::Host {
        ns.env.drop(p, DropReason::Ip6InAddr);
        return Taken::Ended;
    }
    if p.data().get(3) == Some(&0) && p.pull(len) {
        return Taken::Next(p);
    }
    let pointer = offset(&p) as u32 + 2;
    icmpv6_send(ns, &p, wire::ICMPV6_PARAMPROB, wire::ICMPV6_HDR_FIELD, pointer);
    ns.env.drop(p, DropReason::Ip6ExtHdr);
    Taken::Ended
}
