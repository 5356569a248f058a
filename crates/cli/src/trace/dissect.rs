//! One line about a packet, from its first bytes, and the facts that filters ask for.

use ferronet_wire::arp::ArpHdr;
use ferronet_wire::ethernet::{ETH_HLEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6};
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IGMP, IPPROTO_TCP, IPPROTO_UDP};
use ferronet_wire::ipv6::ipv6_skip_exthdr;
use ferronet_wire::{EthHdr, Icmp6Hdr, IcmpHdr, Ipv4Hdr, Ipv6Hdr, TcpFlags, TcpHdr, UdpHdr};
use std::net::IpAddr;

/// What the headers say; everything is optional because the bytes may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dissected {
    /// `arp`, `ip`, `ip6` or nothing.
    pub network: &'static str,
    /// `tcp`, `udp`, `icmp`, `icmp6`, `igmp` or nothing.
    pub transport: &'static str,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// For people.
    pub text: String,
}

/// Looks at the first bytes of a packet, from the link header or the network header on; `len` is its length.
pub(crate) fn dissect(bytes: &[u8], len: usize) -> Dissected {
    // A record starts where the packet's data started at that step: with the link header on devices, with the
    // network header in between.
    match EthHdr::view(bytes).map(EthHdr::h_proto) {
        Some(ETH_P_ARP) => arp(&bytes[ETH_HLEN..]),
        Some(ETH_P_IP) if nibble(bytes, ETH_HLEN) == Some(4) => {
            ip4(&bytes[ETH_HLEN..], len.saturating_sub(ETH_HLEN))
        }
        Some(ETH_P_IPV6) if nibble(bytes, ETH_HLEN) == Some(6) => {
            ip6(&bytes[ETH_HLEN..], len.saturating_sub(ETH_HLEN))
        }
        proto => match nibble(bytes, 0) {
            Some(4) if Ipv4Hdr::view(bytes).is_some_and(|h| h.ihl() >= 5) => ip4(bytes, len),
            Some(6) if Ipv6Hdr::view(bytes).is_some() => ip6(bytes, len),
            _ => {
                let text =
                    proto.map_or(format!("{len} bytes"), |p| format!("ethertype {p:#06x}, {len} bytes"));
                Dissected { text, ..Dissected::default() }
            }
        },
    }
}

fn nibble(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).map(|b| b >> 4)
}

fn arp(b: &[u8]) -> Dissected {
    let mut d = Dissected { network: "arp", ..Dissected::default() };
    let Some(h) = ArpHdr::view(b) else {
        d.text = "arp, cut short".to_owned();
        return d;
    };
    (d.src, d.dst) = (Some(h.sip().into()), Some(h.tip().into()));
    d.text = match h.ar_op() {
        1 => format!("arp who-has {} tell {}", h.tip(), h.sip()),
        2 => format!("arp {} is-at {}", h.sip(), h.ar_sha),
        op => format!("arp operation {op}"),
    };
    d
}

fn ip4(b: &[u8], len: usize) -> Dissected {
    let mut d = Dissected { network: "ip", ..Dissected::default() };
    let Some(h) = Ipv4Hdr::view(b) else {
        d.text = "ip, cut short".to_owned();
        return d;
    };
    (d.src, d.dst) = (Some(h.saddr().into()), Some(h.daddr().into()));
    let header = usize::from(h.ihl()) * 4;
    if h.offset_bytes() > 0 {
        d.text = format!("{} > {} fragment at {}", h.saddr(), h.daddr(), h.offset_bytes());
        return d;
    }
    let rest = b.get(header..).unwrap_or_default();
    transport(&mut d, h.protocol, rest, len.saturating_sub(header));
    d
}

fn ip6(b: &[u8], len: usize) -> Dissected {
    let mut d = Dissected { network: "ip6", ..Dissected::default() };
    let Some(h) = Ipv6Hdr::view(b) else {
        d.text = "ip6, cut short".to_owned();
        return d;
    };
    (d.src, d.dst) = (Some(h.saddr().into()), Some(h.daddr().into()));
    match ipv6_skip_exthdr(b, Ipv6Hdr::LEN, h.nexthdr) {
        Some(s) if s.frag_off & 0xfff8 == 0 => {
            let rest = b.get(s.offset..).unwrap_or_default();
            transport(&mut d, s.nexthdr, rest, len.saturating_sub(s.offset));
        }
        Some(s) => d.text = format!("{} > {} fragment at {}", h.saddr(), h.daddr(), s.frag_off & 0xfff8),
        None => d.text = format!("{} > {} no next header", h.saddr(), h.daddr()),
    }
    d
}

/// Fills in the transport part; `rest` are the bytes there, `len` how many there were.
fn transport(d: &mut Dissected, protocol: u8, rest: &[u8], len: usize) {
    let (src, dst) =
        (d.src.map(|a| a.to_string()).unwrap_or_default(), d.dst.map(|a| a.to_string()).unwrap_or_default());
    let what = match protocol {
        IPPROTO_TCP => {
            d.transport = "tcp";
            match TcpHdr::view(rest) {
                Some(h) => {
                    (d.sport, d.dport) = (Some(h.source()), Some(h.dest()));
                    tcp(h, len)
                }
                None => "tcp, cut short".to_owned(),
            }
        }
        IPPROTO_UDP => {
            d.transport = "udp";
            match UdpHdr::view(rest) {
                Some(h) => {
                    (d.sport, d.dport) = (Some(h.source()), Some(h.dest()));
                    format!("udp {} bytes", len.saturating_sub(UdpHdr::LEN))
                }
                None => "udp, cut short".to_owned(),
            }
        }
        IPPROTO_ICMP => {
            d.transport = "icmp";
            IcmpHdr::view(rest).map_or("icmp, cut short".to_owned(), icmp)
        }
        IPPROTO_ICMPV6 => {
            d.transport = "icmp6";
            Icmp6Hdr::view(rest).map_or("icmp6, cut short".to_owned(), icmp6)
        }
        IPPROTO_IGMP => {
            d.transport = "igmp";
            "igmp".to_owned()
        }
        other => format!("protocol {other}, {len} bytes"),
    };
    let end = |ip: String, port: Option<u16>| match port {
        Some(p) if ip.contains(':') => format!("[{ip}]:{p}"),
        Some(p) => format!("{ip}:{p}"),
        None => ip,
    };
    d.text = format!("{} > {} {what}", end(src, d.sport), end(dst, d.dport));
}

fn tcp(h: &TcpHdr, len: usize) -> String {
    let mut flags = String::new();
    for (flag, letter) in [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::URG, 'U'),
        (TcpFlags::ACK, '.'),
    ] {
        if h.flags().contains(flag) {
            flags.push(letter);
        }
    }
    let data = len.saturating_sub(h.hdr_len());
    let ack = if h.flags().contains(TcpFlags::ACK) { format!(" ack {}", h.ack_seq()) } else { String::new() };
    format!("tcp [{flags}] seq {}{ack} win {} len {data}", h.seq(), h.window())
}

fn icmp(h: &IcmpHdr) -> String {
    let about = match (h.icmp_type, h.code) {
        (0, _) => format!("echo reply id {} seq {}", h.id(), h.sequence()),
        (8, _) => format!("echo request id {} seq {}", h.id(), h.sequence()),
        (3, 0) => "net unreachable".to_owned(),
        (3, 1) => "host unreachable".to_owned(),
        (3, 2) => "protocol unreachable".to_owned(),
        (3, 3) => "port unreachable".to_owned(),
        (3, 4) => format!("fragmentation needed, mtu {}", h.sequence()),
        (3, c) => format!("unreachable code {c}"),
        (5, c) => format!("redirect code {c}"),
        (11, 0) => "time exceeded in transit".to_owned(),
        (11, _) => "reassembly time exceeded".to_owned(),
        (t, c) => format!("type {t} code {c}"),
    };
    format!("icmp {about}")
}

fn icmp6(h: &Icmp6Hdr) -> String {
    let about = match (h.icmp6_type, h.icmp6_code) {
        (128, _) => format!("echo request id {} seq {}", h.id(), h.sequence()),
        (129, _) => format!("echo reply id {} seq {}", h.id(), h.sequence()),
        (1, 0) => "no route".to_owned(),
        (1, 1) => "prohibited".to_owned(),
        (1, 3) => "address unreachable".to_owned(),
        (1, 4) => "port unreachable".to_owned(),
        (1, c) => format!("unreachable code {c}"),
        (2, _) => "packet too big".to_owned(),
        (3, _) => "time exceeded".to_owned(),
        (133, _) => "router solicitation".to_owned(),
        (134, _) => "router advertisement".to_owned(),
        (135, _) => "neighbour solicitation".to_owned(),
        (136, _) => "neighbour advertisement".to_owned(),
        (137, _) => "redirect".to_owned(),
        (143, _) => "multicast listener report".to_owned(),
        (t, c) => format!("type {t} code {c}"),
    };
    format!("icmp6 {about}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferronet_wire::MacAddr;
    use std::net::{Ipv4Addr, Ipv6Addr};

    pub(in crate::trace) fn frame(proto: u16, inner: &[&[u8]]) -> Vec<u8> {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        [EthHdr::new(mac, mac, proto).bytes(), &inner.concat()].concat()
    }

    #[test]
    fn tcp_over_ethernet_and_bare() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut t = TcpHdr::new(4711, 80);
        t.set_flags(TcpFlags::SYN);
        let ip = Ipv4Hdr::new(a, b, IPPROTO_TCP, 64, 20);
        let f = frame(ETH_P_IP, &[ip.bytes(), t.bytes()]);
        let d = dissect(&f, f.len());
        assert_eq!(d.text, "10.0.0.1:4711 > 10.0.0.2:80 tcp [S] seq 0 win 0 len 0");
        assert_eq!((d.network, d.transport, d.dport), ("ip", "tcp", Some(80)));
        assert_eq!(dissect(&f[14..], f.len() - 14), d);
    }

    #[test]
    fn icmp6_arp_and_others() {
        let a = Ipv6Addr::LOCALHOST;
        let ip = Ipv6Hdr::new(a, a, IPPROTO_ICMPV6, 64, 8);
        let f = frame(ETH_P_IPV6, &[ip.bytes(), &[128, 0, 0, 0, 0, 1, 0, 2]]);
        assert_eq!(dissect(&f, f.len()).text, "::1 > ::1 icmp6 echo request id 1 seq 2");
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let who = ArpHdr::new(1, mac, Ipv4Addr::new(10, 0, 0, 1), MacAddr::ZERO, Ipv4Addr::new(10, 0, 0, 2));
        let f = frame(ETH_P_ARP, &[who.bytes()]);
        assert_eq!(dissect(&f, f.len()).text, "arp who-has 10.0.0.2 tell 10.0.0.1");
        assert_eq!(dissect(&frame(0x88cc, &[]), 14).text, "ethertype 0x88cc, 14 bytes");
    }

    #[test]
    fn no_bytes_panic() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let ip = Ipv4Hdr::new(a, b, IPPROTO_TCP, 64, 20);
        let whole = frame(ETH_P_IP, &[ip.bytes(), TcpHdr::new(1, 2).bytes()]);
        for n in 0..whole.len() {
            let _ = dissect(&whole[..n], whole.len());
            let _ = dissect(&whole[n..], 0);
            for b in [0, 0x45, 0x4f, 0x60, 0xff] {
                let mut broken = whole.clone();
                broken[n] = b;
                let _ = dissect(&broken, n);
            }
        }
    }
}
