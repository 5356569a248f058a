//! From what a script says to the bytes of a frame.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::flow::{Flow, Flows, LOCAL_MAC, REMOTE_ISN, REMOTE_MAC};
use super::opts::{from_text, unhex};
use super::{Pkt, pattern};

/// The local and the remote address when a script names none.
pub(super) const LOCAL4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const REMOTE4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const LOCAL6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(super) const REMOTE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The Internet checksum (RFC 1071) of `b` on top of a partial sum.
pub(super) fn checksum(b: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for c in b.chunks(2) {
        sum += u64::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
pub(super) fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> u32 {
    let mut b = Vec::new();
    for a in [src, dst] {
        match a {
            IpAddr::V4(a) => b.extend(a.octets()),
            IpAddr::V6(a) => b.extend(a.octets()),
        }
    }
    b.extend((len as u32).to_be_bytes());
    b.extend([0, proto]);
    u32::from(!checksum(&b, 0))
}

type Result<T> = core::result::Result<T, String>;

fn number<T: core::str::FromStr>(what: &str, v: Option<&str>, default: T) -> Result<T> {
    match v {
        None => Ok(default),
        Some(v) => v.parse().map_err(|_| format!("{what}: `{v}` is no such number")),
    }
}

pub(super) fn parse_mac(s: &str) -> Result<[u8; 6]> {
    let b = unhex(&s.replace(':', ""))?;
    b.try_into().map_err(|_| format!("`{s}` is no link address"))
}

/// Ends of an inbound packet.
struct Ends {
    src: SocketAddr,
    dst: SocketAddr,
}

fn ends(p: &Pkt, flows: &Flows) -> Result<Ends> {
    if let Some((s, d)) = &p.addrs {
        let parse = |t: &str| -> Result<SocketAddr> {
            t.parse()
                .or_else(|_| t.parse::<IpAddr>().map(|a| SocketAddr::new(a, 0)))
                .map_err(|_| format!("`{t}` is no address"))
        };
        return Ok(Ends { src: parse(s)?, dst: parse(d)? });
    }
    match p.kind.as_str() {
        "tcp" | "udp" => {
            let f = flows.by_name(&p.flow).ok_or_else(|| format!("no flow `{}`", p.flow))?;
            Ok(Ends { src: f.remote, dst: f.local })
        }
        "icmp6" => Ok(Ends { src: (REMOTE6, 0).into(), dst: (LOCAL6, 0).into() }),
        _ => Ok(Ends { src: (REMOTE4, 0).into(), dst: (LOCAL4, 0).into() }),
    }
}

/// The frame that stands for an inbound packet; remembered for quotes.
pub(super) fn build(p: &Pkt, flows: &mut Flows) -> Result<Vec<u8>> {
    let mut frame = p.ip("mac").map_or(Ok(LOCAL_MAC), parse_mac)?.to_vec();
    frame.extend(REMOTE_MAC);
    if p.kind == "arp" {
        frame.extend([8, 6]);
        arp(p, &mut frame)?;
        return Ok(frame);
    }
    let ip = if p.kind == "hex" {
        unhex(p.get("bytes").unwrap_or(""))?
    } else {
        let e = ends(p, flows)?;
        let (proto, mut body) = inner(p, &e, flows)?;
        if let Some(f) = p.ip("frag") {
            let (range, _) = f.split_once('+').unwrap_or((f, ""));
            let (s, t) = range.split_once(':').ok_or("frag is FIRST:END or FIRST:END+")?;
            let (s, t): (usize, usize) = (number("frag", Some(s), 0)?, number("frag", Some(t), 0)?);
            body = body
                .get(s..t)
                .ok_or_else(|| format!("frag {f}: the packet has {} bytes", body.len()))?
                .to_vec();
        }
        match (e.src.ip(), e.dst.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => ip4(p, (s, d), proto, &body)?,
            (IpAddr::V6(s), IpAddr::V6(d)) => ip6(p, (s, d), proto, &body)?,
            _ => return Err("addresses of two families".to_owned()),
        }
    };
    frame.extend(if ip.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(&ip);
    flows.last_in = ip;
    Ok(frame)
}

fn arp(p: &Pkt, out: &mut Vec<u8>) -> Result<()> {
    let op: u16 = match p.get("op") {
        Some("request") => 1,
        Some("reply") => 2,
        n => number("arp", n, 1)?,
    };
    out.extend([0, 1, 8, 0, 6, 4]);
    out.extend(op.to_be_bytes());
    for (ha, pa, default) in [("sha", "sip", REMOTE_MAC), ("tha", "tip", [0; 6])] {
        out.extend(p.get(ha).map_or(Ok(default), parse_mac)?);
        let a: Ipv4Addr = p.get(pa).unwrap_or("0.0.0.0").parse().map_err(|_| format!("{pa}: no address"))?;
        out.extend(a.octets());
    }
    Ok(())
}

/// Offset in units of bytes, more fragments.
fn frag(p: &Pkt) -> Result<(u16, bool)> {
    let Some(f) = p.ip("frag") else { return Ok((0, false)) };
    let first = f.split(':').next();
    Ok((number("frag", first, 0)?, f.ends_with('+')))
}

fn ip4(p: &Pkt, (src, dst): (Ipv4Addr, Ipv4Addr), proto: u8, body: &[u8]) -> Result<Vec<u8>> {
    let opts = unhex(p.ip("opts").unwrap_or(""))?;
    let header = 20 + opts.len();
    let (offset, more) = frag(p)?;
    let mut word = offset / 8;
    if more {
        word |= 0x2000;
    }
    if p.ip("df").is_some() {
        word |= 0x4000;
    }
    let mut h = vec![0x40 | (header / 4) as u8, number("tos", p.ip("tos"), 0u8)?];
    h.extend(((header + body.len()) as u16).to_be_bytes());
    h.extend(number("id", p.ip("id"), 0u16)?.to_be_bytes());
    h.extend(word.to_be_bytes());
    h.extend([number("ttl", p.ip("ttl"), 64u8)?, proto, 0, 0]);
    h.extend(src.octets());
    h.extend(dst.octets());
    h.extend(&opts);
    let mut sum = checksum(&h, 0);
    if p.ip("badsum").is_some() {
        sum ^= 0x0101;
    }
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    h.extend(body);
    Ok(h)
}

fn ip6(p: &Pkt, (src, dst): (Ipv6Addr, Ipv6Addr), proto: u8, body: &[u8]) -> Result<Vec<u8>> {
    let mut body = body.to_vec();
    let mut next = proto;
    if p.ip("frag").is_some() {
        let (offset, more) = frag(p)?;
        let mut ext = vec![proto, 0];
        ext.extend((offset & !7 | u16::from(more)).to_be_bytes());
        ext.extend(number("id", p.ip("id"), 0u32)?.to_be_bytes());
        ext.extend(body);
        (body, next) = (ext, 44);
    }
    let tos = number("tos", p.ip("tos"), 0u32)?;
    let mut h = (6u32 << 28 | tos << 20).to_be_bytes().to_vec();
    h.extend((body.len() as u16).to_be_bytes());
    h.extend([next, number("ttl", p.ip("ttl"), 64u8)?]);
    h.extend(src.octets());
    h.extend(dst.octets());
    h.extend(body);
    Ok(h)
}

/// Protocol and bytes behind the IP header.
fn inner(p: &Pkt, e: &Ends, flows: &Flows) -> Result<(u8, Vec<u8>)> {
    let len: usize = number("length", p.get("len"), 0)?;
    let data = |first: u64| (first..first + len as u64).map(pattern);
    let (proto, mut b, sum_at) = match p.kind.as_str() {
        "tcp" => (6, tcp(p, e, flows)?, 16),
        "udp" => {
            let mut b = Vec::new();
            b.extend(e.src.port().to_be_bytes());
            b.extend(e.dst.port().to_be_bytes());
            b.extend((8 + len as u16).to_be_bytes());
            b.extend([0, 0]);
            b.extend(data(0));
            (17, b, 6)
        }
        "icmp" | "icmp6" => (if p.kind == "icmp" { 1 } else { 58 }, icmp(p, flows)?, 2),
        "igmp" => {
            let mut b = vec![number("type", p.get("type"), 0)?, number("code", p.get("code"), 0u8)?, 0, 0];
            b.extend(unhex(p.get("data").unwrap_or(""))?);
            (2, b, 2)
        }
        _ => return Ok((number("proto", p.get("number"), 0)?, data(0).collect())),
    };
    let start = match proto {
        1 | 2 => 0,
        _ => pseudo(e.src.ip(), e.dst.ip(), proto, b.len()),
    };
    let mut sum = checksum(&b, start);
    if proto == 17 && sum == 0 {
        sum = 0xffff;
    }
    if p.get("badsum").is_some() {
        sum ^= 0x0101;
    }
    if proto == 17 && p.get("nosum").is_some() {
        sum = 0;
    }
    b[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok((proto, b))
}

fn tcp(p: &Pkt, e: &Ends, flows: &Flows) -> Result<Vec<u8>> {
    let none = Flow { name: String::new(), remote: e.src, local: e.dst, local_isn: None, last_tsval: 0 };
    let flow = flows.by_name(&p.flow).filter(|_| p.addrs.is_none()).unwrap_or(&none);
    let seq = p.get("range").unwrap_or("");
    let (first, rest) = seq.split_once(':').ok_or("a sent packet needs FIRST:END(LENGTH)")?;
    let (end, len) = rest.split_once('(').ok_or("FIRST:END(LENGTH)")?;
    let (first, end): (u32, u32) = (number("seq", Some(first), 0)?, number("seq", Some(end), 0)?);
    let len: u32 = number("length", Some(len.trim_end_matches(')')), 0)?;
    if first.wrapping_add(len) != end {
        return Err(format!("{seq}: the length does not fit"));
    }
    let mut bits = 0u16;
    for c in p.get("flags").unwrap_or("").bytes().filter(|c| *c != b'-') {
        bits |= 1 << b"FSRP.UECA".iter().position(|x| *x == c).unwrap_or(0);
    }
    let ack = match p.get("ack") {
        Some(_) => flow.local_isn.unwrap_or(0).wrapping_add(number("ack", p.get("ack"), 0)?),
        None => 0,
    };
    let opts = from_text(p.get("opts").unwrap_or(""), flow)?;
    let mut b = Vec::new();
    b.extend(e.src.port().to_be_bytes());
    b.extend(e.dst.port().to_be_bytes());
    b.extend(REMOTE_ISN.wrapping_add(first).to_be_bytes());
    b.extend(ack.to_be_bytes());
    b.extend((((20 + opts.len()) as u16 / 4) << 12 | bits).to_be_bytes());
    b.extend(number("win", p.get("win"), 65535u16)?.to_be_bytes());
    b.extend([0, 0]);
    b.extend(number("urg", p.get("urg"), 0u16)?.to_be_bytes());
    b.extend(opts);
    let from = u64::from(first.wrapping_sub(1));
    b.extend((from..from + u64::from(len)).map(pattern));
    Ok(b)
}

fn icmp(p: &Pkt, flows: &Flows) -> Result<Vec<u8>> {
    let (ty, code) = p.get("type").and_then(|t| t.split_once('/')).ok_or("ICMP needs TYPE/CODE")?;
    let mut b = vec![number("type", Some(ty), 0u8)?, number("code", Some(code), 0u8)?, 0, 0];
    if let Some(g) = p.get("gw") {
        let a: Ipv4Addr = g.parse().map_err(|_| "gw: no address")?;
        b.extend(a.octets());
    } else if p.get("id").is_some() || p.get("seq").is_some() {
        b.extend(number("id", p.get("id"), 0u16)?.to_be_bytes());
        b.extend(number("seq", p.get("seq"), 0u16)?.to_be_bytes());
    } else if p.get("target").is_some() {
        let flag = |k, bit: u8| if p.get(k).is_some() { bit } else { 0 };
        b.extend([flag("router", 0x80) | flag("solicited", 0x40) | flag("override", 0x20), 0, 0, 0]);
    } else {
        let rest = p.get("mtu").or_else(|| p.get("rest"));
        b.extend(number("mtu", rest, 0u32)?.to_be_bytes());
    }
    if let Some(t) = p.get("target") {
        let a: Ipv6Addr = t.parse().map_err(|_| "target: no address")?;
        b.extend(a.octets());
    }
    for (key, n) in [("slla", 1), ("tlla", 2)] {
        if let Some(m) = p.get(key) {
            b.extend([n, 1]);
            b.extend(parse_mac(m)?);
        }
    }
    if let Some(n) = p.get("quote") {
        let n: usize = number("quote", Some(n), 28)?;
        b.extend(flows.last_out.iter().take(n));
    } else {
        b.extend(unhex(p.get("data").unwrap_or(""))?);
        let len: u64 = number("length", p.get("len"), 0)?;
        b.extend((0..len).map(pattern));
    }
    Ok(b)
}
