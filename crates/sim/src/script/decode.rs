//! From the bytes of a frame that came out to what a script says about it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::build::{LOCAL4, LOCAL6, REMOTE4, REMOTE6, checksum, pseudo};
use super::flow::{Flows, REMOTE_ISN, REMOTE_MAC};
use super::opts::{hex, to_text};
use super::{Pkt, pattern};

pub(super) fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).and_then(|x| x.try_into().ok()).map_or(0, u16::from_be_bytes)
}

pub(super) fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|x| x.try_into().ok()).map_or(0, u32::from_be_bytes)
}

pub(super) fn mac_text(b: &[u8]) -> String {
    b.iter().take(6).map(|x| format!("{x:02x}")).collect::<Vec<_>>().join(":")
}

fn addr4(b: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(be32(b, at))
}

fn addr6(b: &[u8], at: usize) -> Ipv6Addr {
    let o: [u8; 16] = b.get(at..at + 16).and_then(|x| x.try_into().ok()).unwrap_or_default();
    Ipv6Addr::from(o)
}

/// What the IP header says.
struct Net {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    /// Not a first or only fragment.
    tail: bool,
    /// A fragment of any kind: its checksum covers more than it holds.
    fragment: bool,
}

/// Describes a frame with its Ethernet header, and names its protocol for `show`: `ip`, `arp`, `nd`, `mld`, `igmp`.
pub(super) fn decode(frame: &[u8], flows: &mut Flows) -> (&'static str, Pkt) {
    let mut p = Pkt::default();
    let dst = frame.get(..6).unwrap_or_default();
    let body = frame.get(14..).unwrap_or_default();
    let ethertype = be16(frame, 12);
    if dst != REMOTE_MAC {
        p.set_ip("mac", mac_text(dst));
    }
    match ethertype {
        0x0806 => {
            arp(body, &mut p);
            ("arp", p)
        }
        0x0800 => {
            let total = usize::from(be16(body, 2)).min(body.len());
            let ip = body.get(..total).unwrap_or_default();
            let net = ip4(ip, &mut p);
            let header = usize::from(ip.first().copied().unwrap_or(0) & 15) * 4;
            let tag = if net.proto == 2 { "igmp" } else { "ip" };
            inner(&net, ip.get(header..).unwrap_or_default(), &mut p, flows);
            flows.last_out = ip.to_vec();
            (tag, p)
        }
        0x86dd => {
            let total = (usize::from(be16(body, 4)) + 40).min(body.len());
            let ip = body.get(..total).unwrap_or_default();
            let (net, header) = ip6(ip, &mut p);
            let l4 = ip.get(header..).unwrap_or_default();
            inner(&net, l4, &mut p, flows);
            flows.last_out = ip.to_vec();
            let ty = l4.first().copied().unwrap_or(0);
            let tag = match (net.proto, ty) {
                (58, 133..=137) => "nd",
                (58, 130..=132 | 143) => "mld",
                _ => "ip",
            };
            (tag, p)
        }
        _ => {
            "hex".clone_into(&mut p.kind);
            p.set("bytes", hex(frame));
            ("ip", p)
        }
    }
}

fn arp(b: &[u8], p: &mut Pkt) {
    "arp".clone_into(&mut p.kind);
    match be16(b, 6) {
        1 => p.set("op", "request"),
        2 => p.set("op", "reply"),
        n => p.set("op", n),
    }
    p.set("sip", addr4(b, 14));
    p.set("sha", mac_text(b.get(8..14).unwrap_or_default()));
    p.set("tip", addr4(b, 24));
    p.set("tha", mac_text(b.get(18..24).unwrap_or_default()));
}

fn ip4(ip: &[u8], p: &mut Pkt) -> Net {
    let header = usize::from(ip.first().copied().unwrap_or(0) & 15) * 4;
    let frag = be16(ip, 6);
    p.set_ip("ttl", ip.get(8).copied().unwrap_or(0));
    if ip.get(1).is_some_and(|t| *t != 0) {
        p.set_ip("tos", ip[1]);
    }
    if frag & 0x4000 != 0 {
        p.set_ip("df", "");
    }
    // What is not zero grows or is random.
    p.set_ip("id", if be16(ip, 4) == 0 { "0" } else { "~" });
    if header > 20 {
        p.set_ip("opts", hex(ip.get(20..header).unwrap_or_default()));
    }
    if checksum(ip.get(..header).unwrap_or_default(), 0) != 0 {
        p.set_ip("badsum", "");
    }
    let (offset, more) = (usize::from(frag & 0x1fff) * 8, frag & 0x2000 != 0);
    if offset > 0 || more {
        let end = offset + ip.len().saturating_sub(header);
        p.set_ip("frag", format!("{offset}:{end}{}", if more { "+" } else { "" }));
    }
    let proto = ip.get(9).copied().unwrap_or(0);
    let (src, dst) = (addr4(ip, 12).into(), addr4(ip, 16).into());
    Net { src, dst, proto, tail: offset > 0, fragment: offset > 0 || more }
}

/// With the length of the header and its extensions.
fn ip6(ip: &[u8], p: &mut Pkt) -> (Net, usize) {
    p.set_ip("ttl", ip.get(7).copied().unwrap_or(0));
    let word = be32(ip, 0);
    if word >> 20 & 0xff != 0 {
        p.set_ip("tos", word >> 20 & 0xff);
    }
    if word & 0xf_ffff != 0 {
        p.set_ip("label", "~");
    }
    let (mut proto, mut at) = (ip.get(6).copied().unwrap_or(0), 40);
    let (mut tail, mut fragment) = (false, false);
    while matches!(proto, 0 | 43 | 44 | 60) && at + 8 <= ip.len() {
        let len = if proto == 44 { 8 } else { 8 + 8 * usize::from(ip[at + 1]) };
        if proto == 44 {
            let f = be16(ip, at + 2);
            let (offset, more) = (usize::from(f & !7), f & 1 != 0);
            let end = offset + ip.len().saturating_sub(at + len);
            p.set_ip("frag", format!("{offset}:{end}{}", if more { "+" } else { "" }));
            (tail, fragment) = (offset > 0, true);
        } else {
            p.set_ip("ext", format!("{proto}={}", hex(ip.get(at + 2..at + len).unwrap_or_default())));
        }
        (proto, at) = (ip[at], at + len);
    }
    (Net { src: addr6(ip, 8).into(), dst: addr6(ip, 24).into(), proto, tail, fragment }, at)
}

/// What is behind the IP header.
fn inner(net: &Net, b: &[u8], p: &mut Pkt, flows: &mut Flows) {
    let sum_ok = net.fragment || checksum(b, pseudo(net.src, net.dst, net.proto, b.len())) == 0;
    let usual =
        [(LOCAL4.into(), REMOTE4.into()), (LOCAL6.into(), REMOTE6.into())].contains(&(net.src, net.dst));
    let ports = matches!(net.proto, 6 | 17) && !net.tail;
    if !ports && !usual {
        p.addrs = Some((net.src.to_string(), net.dst.to_string()));
    }
    match net.proto {
        _ if net.tail => other(net, b, p),
        6 => tcp(net, b, p, flows),
        17 => udp(net, b, p, flows),
        1 => icmp(b, p, flows),
        58 => icmp6(b, p, flows),
        2 => {
            "igmp".clone_into(&mut p.kind);
            p.set("type", b.first().copied().unwrap_or(0));
            p.set("data", hex(b.get(4..).unwrap_or_default()));
        }
        _ => other(net, b, p),
    }
    let covered = match net.proto {
        1 | 2 => net.fragment || checksum(b, 0) == 0,
        17 if be16(b, 6) == 0 && net.src.is_ipv4() => true,
        6 | 17 | 58 => sum_ok,
        _ => true,
    };
    if !covered && !net.tail {
        p.set("badsum", "");
    }
}

fn other(net: &Net, b: &[u8], p: &mut Pkt) {
    "proto".clone_into(&mut p.kind);
    p.set("number", net.proto);
    p.set("len", b.len());
}

/// Names the flow or the addresses with ports; the flow's index for the rest.
fn ends<'a>(net: &Net, b: &[u8], p: &mut Pkt, flows: &'a mut Flows) -> Option<&'a mut super::flow::Flow> {
    let (sport, dport) = (be16(b, 0), be16(b, 2));
    match flows.of_out((net.src, sport), (net.dst, dport)) {
        Some(f) => {
            f.name.clone_into(&mut p.flow);
            Some(f)
        }
        None => {
            let at = |a: IpAddr, port| core::net::SocketAddr::new(a, port).to_string();
            p.addrs = Some((at(net.src, sport), at(net.dst, dport)));
            None
        }
    }
}

/// Says when data is not the pattern from `first` on.
fn data(b: &[u8], first: u64, p: &mut Pkt) {
    if b.iter().zip(first..).any(|(x, i)| *x != pattern(i)) {
        let sum = b.iter().fold(0u32, |s, x| s.wrapping_mul(31).wrapping_add(u32::from(*x)));
        p.set("data", if b.len() <= 16 { hex(b) } else { format!("#{sum:08x}") });
    }
}

fn tcp(net: &Net, b: &[u8], p: &mut Pkt, flows: &mut Flows) {
    "tcp".clone_into(&mut p.kind);
    let mut flow = ends(net, b, p, flows);
    let bits = be16(b, 12) & 0x1ff;
    let mut flags: String = b"FSRP.UECA"
        .iter()
        .enumerate()
        .filter(|(i, _)| bits >> i & 1 != 0)
        .map(|(_, c)| *c as char)
        .collect();
    // As people write them: SYN first, ACK last.
    let ack = flags.contains('.');
    flags.retain(|c| c != '.');
    if ack {
        flags.push('.');
    }
    if flags.is_empty() {
        flags.push('-');
    }
    let header = usize::from(b.get(12).copied().unwrap_or(0) >> 4) * 4;
    let payload = b.get(header..).unwrap_or_default();
    let raw = be32(b, 4);
    let syn = bits & 2 != 0;
    if let Some(f) = &mut flow
        && (syn || f.local_isn.is_none() && bits & 4 == 0)
    {
        f.local_isn = Some(if syn { raw } else { raw.wrapping_sub(1) });
    }
    let seq = raw.wrapping_sub(flow.as_ref().and_then(|f| f.local_isn).unwrap_or(0));
    p.set("flags", flags);
    if flow.is_none() && !ack && bits & 4 == 0 {
        p.set("range", format!("~({})", payload.len()));
    } else {
        p.set("range", format!("{seq}:{}({})", seq.wrapping_add(payload.len() as u32), payload.len()));
    }
    if ack {
        p.set("ack", be32(b, 8).wrapping_sub(REMOTE_ISN));
    } else if be32(b, 8) != 0 {
        p.set("ackfield", be32(b, 8));
    }
    p.set("win", be16(b, 14));
    if be16(b, 18) != 0 {
        p.set("urg", be16(b, 18));
    }
    if header > 20 {
        let o = to_text(b.get(20..header).unwrap_or_default(), flow);
        p.set("opts", o);
    }
    data(payload, u64::from(seq.wrapping_sub(1)), p);
}

fn udp(net: &Net, b: &[u8], p: &mut Pkt, flows: &mut Flows) {
    "udp".clone_into(&mut p.kind);
    let _ = ends(net, b, p, flows);
    p.set("len", usize::from(be16(b, 4)).saturating_sub(8));
    if be16(b, 6) == 0 {
        p.set("nosum", "1");
    }
    data(b.get(8..).unwrap_or_default(), 0, p);
}

/// How much of the last packet that went in is quoted here.
fn quote(b: &[u8], p: &mut Pkt, flows: &Flows) {
    let same = b.iter().zip(&flows.last_in).take_while(|(a, c)| a == c).count();
    if same == b.len() {
        p.set("quote", same);
    } else {
        p.set("quote", format!("{same}then{}", hex(b.get(same..same + 8).unwrap_or_default())));
    }
    p.set("len", b.len());
}

fn icmp(b: &[u8], p: &mut Pkt, flows: &Flows) {
    "icmp".clone_into(&mut p.kind);
    let (ty, code) = (b.first().copied().unwrap_or(0), b.get(1).copied().unwrap_or(0));
    p.set("type", format!("{ty}/{code}"));
    let rest = b.get(8..).unwrap_or_default();
    match ty {
        0 | 8 | 13..=18 => {
            // Identifiers of our own requests are chosen.
            p.set("id", be16(b, 4));
            p.set("seq", be16(b, 6));
            p.set("len", rest.len());
            data(rest, 0, p);
        }
        3 | 4 | 5 | 11 | 12 => {
            match (ty, code) {
                (3, 4) => p.set("mtu", be16(b, 6)),
                (5, _) => p.set("gw", addr4(b, 4)),
                _ if be32(b, 4) != 0 => p.set("rest", be32(b, 4)),
                _ => {}
            }
            quote(rest, p, flows);
        }
        _ => p.set("data", hex(b.get(4..).unwrap_or_default())),
    }
}

fn icmp6(b: &[u8], p: &mut Pkt, flows: &Flows) {
    "icmp6".clone_into(&mut p.kind);
    let (ty, code) = (b.first().copied().unwrap_or(0), b.get(1).copied().unwrap_or(0));
    p.set("type", format!("{ty}/{code}"));
    let rest = b.get(8..).unwrap_or_default();
    match ty {
        1..=4 => {
            match ty {
                2 => p.set("mtu", be32(b, 4)),
                _ if be32(b, 4) != 0 => p.set("rest", be32(b, 4)),
                _ => {}
            }
            quote(rest, p, flows);
        }
        128 | 129 => {
            p.set("id", be16(b, 4));
            p.set("seq", be16(b, 6));
            p.set("len", rest.len());
            data(rest, 0, p);
        }
        135 | 136 => {
            p.set("target", addr6(b, 8));
            let flags = b.get(4).copied().unwrap_or(0);
            for (bit, name) in [(0x80, "router"), (0x40, "solicited"), (0x20, "override")] {
                if flags & bit != 0 {
                    p.set(name, "");
                }
            }
            match b.get(24) {
                Some(1) => p.set("slla", mac_text(b.get(26..).unwrap_or_default())),
                Some(2) => p.set("tlla", mac_text(b.get(26..).unwrap_or_default())),
                _ => {}
            }
        }
        _ => p.set("data", hex(b.get(4..).unwrap_or_default())),
    }
}
