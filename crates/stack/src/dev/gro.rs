//! Generic receive offload (`net/core/gro.c`, `tcp_offload.c`): TCP segments of one flow that arrive in order within
//! one batch become one packet, so that what lies above pays once.
//!
//! What is merged can be cut again into the same packets ([`super::gso`]): headers must agree in all that segmentation
//! would not restore. At the end of the batch nothing is held back.

use core::net::IpAddr;

use bytes::Bytes;
use ferronet_core::packet::{Gso, GsoKind, MAX_FRAGS};
use ferronet_core::{Csum, Packet, PacketQueue, PktType};
use ferronet_wire::checksum::{csum_fold, csum_fold_partial, csum_ipv6_nofold, csum_tcpudp_nofold};
use ferronet_wire::ethernet::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6};
use ferronet_wire::ipproto::IPPROTO_TCP;
use ferronet_wire::ipv4::{Ipv4Hdr, ip_send_check};
use ferronet_wire::{EthHdr, Ipv6Hdr, TcpFlags, TcpHdr};
use smallvec::SmallVec;

use crate::ipv4::input::csum_packet;
use crate::ns::Namespace;

/// Flows held at once; a further one sends the oldest on (`MAX_GRO_SKBS`).
const MAX_HELD: usize = 8;
/// Longest network packet that is made.
const MAX_PACKET: usize = 65_535;

/// What a segment's headers say.
#[derive(Clone, Copy, Debug)]
struct Segment {
    v4: bool,
    saddr: IpAddr,
    daddr: IpAddr,
    ports: u32,
    /// Bytes of the link, network and transport header.
    lens: (usize, usize, usize),
    /// Payload bytes.
    payload: usize,
    seq: u32,
    flags: TcpFlags,
    /// IPv4 identification and DF.
    id: u16,
    df: bool,
}

impl Segment {
    fn same_flow(&self, o: &Segment) -> bool {
        self.ports == o.ports && self.saddr == o.saddr && self.daddr == o.daddr
    }
    fn header(&self) -> usize {
        self.lens.0 + self.lens.1 + self.lens.2
    }
}

/// A packet that grows.
#[derive(Debug)]
struct Held {
    packet: Packet,
    first: Segment,
    /// Sequence number expected next.
    next: u32,
    segs: u16,
    /// Flags of the last segment that the whole must show.
    flags: TcpFlags,
}

/// The packets held during one batch of a namespace.
#[derive(Debug, Default)]
pub struct Gro {
    held: Vec<Held>,
}

impl Drop for Gro {
    fn drop(&mut self) {
        for h in self.held.drain(..) {
            h.packet.release();
        }
    }
}

/// Reads the headers of a packet at its link header (`ethernet`) or network header. `None`: not a plain TCP segment
/// with a valid checksum.
fn parse(p: &mut Packet, ethernet: bool) -> Option<Segment> {
    let m = p.meta();
    if m.gso.kind != GsoKind::None || m.vlan != 0 {
        return None;
    }
    let link = if ethernet { ETH_HLEN } else { 0 };
    let len = p.len();
    if !p.may_pull(link + Ipv4Hdr::LEN + TcpHdr::LEN) {
        return None;
    }
    let proto = if ethernet {
        EthHdr::view(p.data())?.h_proto()
    } else if p.data().first()? >> 4 == 4 {
        ETH_P_IP
    } else {
        ETH_P_IPV6
    };
    match proto {
        ETH_P_IP => parse_v4(p, link, len),
        ETH_P_IPV6 => parse_v6(p, link, len),
        _ => None,
    }
}

fn parse_v4(p: &mut Packet, link: usize, len: usize) -> Option<Segment> {
    let b = p.data().get(link..)?;
    let lens = Ipv4Hdr::check_packet(b, len - link).ok()?;
    let h = *Ipv4Hdr::view(b)?;
    if lens.hdr_len != Ipv4Hdr::LEN || h.is_fragment() || h.protocol() != IPPROTO_TCP {
        return None;
    }
    p.trim(link + lens.tot_len);
    let l4 = lens.tot_len - lens.hdr_len;
    let pseudo = csum_tcpudp_nofold(h.saddr(), h.daddr(), l4 as u32, IPPROTO_TCP, 0);
    let t = parse_tcp(p, link + Ipv4Hdr::LEN, l4, pseudo)?;
    Some(Segment {
        v4: true,
        saddr: IpAddr::V4(h.saddr()),
        daddr: IpAddr::V4(h.daddr()),
        lens: (link, Ipv4Hdr::LEN, t.lens.2),
        id: h.id(),
        df: h.df(),
        ..t
    })
}

fn parse_v6(p: &mut Packet, link: usize, len: usize) -> Option<Segment> {
    if !p.may_pull(link + Ipv6Hdr::LEN + TcpHdr::LEN) {
        return None;
    }
    let b = p.data().get(link..)?;
    let total = Ipv6Hdr::check_packet(b, len - link).ok()?;
    let h = *Ipv6Hdr::view(b)?;
    if h.nexthdr() != IPPROTO_TCP {
        return None;
    }
    p.trim(link + total);
    let l4 = total - Ipv6Hdr::LEN;
    let pseudo = csum_ipv6_nofold(&h.saddr(), &h.daddr(), l4 as u32, IPPROTO_TCP, 0);
    let t = parse_tcp(p, link + Ipv6Hdr::LEN, l4, pseudo)?;
    Some(Segment {
        v4: false,
        saddr: IpAddr::V6(h.saddr()),
        daddr: IpAddr::V6(h.daddr()),
        lens: (link, Ipv6Hdr::LEN, t.lens.2),
        ..t
    })
}

fn parse_tcp(p: &mut Packet, at: usize, l4: usize, pseudo: u32) -> Option<Segment> {
    let hdr_len = TcpHdr::view(p.data().get(at..)?)?.hdr_len();
    if hdr_len < TcpHdr::LEN || hdr_len > l4 || !p.may_pull(at + hdr_len) {
        return None;
    }
    let t = *TcpHdr::view(p.data().get(at..)?)?;
    // skb_gro_checksum_validate: only what is intact is merged.
    if matches!(p.meta().csum, Csum::None | Csum::Complete(_)) {
        let start = p.pos();
        let _ = p.pull(at);
        let ok = csum_fold(csum_packet(p, pseudo)) == 0;
        let _ = p.seek(start);
        if !ok {
            return None;
        }
        p.meta_mut().csum = Csum::Unnecessary;
    }
    let ports = u32::from_be_bytes(*p.data().get(at..)?.first_chunk::<4>()?);
    Some(Segment {
        v4: true,
        saddr: IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
        daddr: IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
        ports,
        lens: (0, 0, hdr_len),
        payload: l4 - hdr_len,
        seq: t.seq().0,
        flags: t.flags(),
        id: 0,
        df: false,
    })
}

/// Do the headers differ in nothing but what segmentation makes (`tcp_gro_receive`, `inet_gro_receive`)?
fn mergeable(h: &Held, s: &Segment, p: &Packet) -> bool {
    let (a, b) = (h.packet.data(), p.data());
    let f = &h.first;
    let (link, net, tcp) = s.lens;
    if f.lens != s.lens || h.packet.meta().mark != p.meta().mark || a.get(..link) != b.get(..link) {
        return false;
    }
    let (Some(na), Some(nb)) = (a.get(link..link + net), b.get(link..link + net)) else { return false };
    let network = if s.v4 {
        // Type of service, flags, TTL; the identification counts up, or is the same where it means nothing (RFC 6864).
        let step = s.id.wrapping_sub(f.id);
        na.get(1) == nb.get(1)
            && na.get(6..9) == nb.get(6..9)
            && (step == h.segs || (s.df && f.df && step == 0))
    } else {
        na.get(..4) == nb.get(..4) && na.get(7) == nb.get(7)
    };
    let at = link + net;
    let (Some(ta), Some(tb)) = (a.get(at..at + tcp), b.get(at..at + tcp)) else { return false };
    let ending = TcpFlags::FIN | TcpFlags::PSH;
    let flags = f.flags.symmetric_difference(s.flags).difference(ending).is_empty();
    // Acknowledgement, window and urgent pointer, options.
    network
        && flags
        && ta.get(8..12) == tb.get(8..12)
        && ta.get(14..16) == tb.get(14..16)
        && ta.get(18..) == tb.get(18..)
}

/// Flags with which a segment stays alone.
fn stays_alone(f: TcpFlags) -> bool {
    f.intersects(TcpFlags::SYN | TcpFlags::RST | TcpFlags::URG | TcpFlags::CWR)
}

impl Gro {
    /// A packet from a device, at its link header; what can go on now is appended to `out` in order
    /// (`dev_gro_receive`). `true` when the packet was merged: its header bytes are returned for the counters.
    fn receive(&mut self, mut p: Packet, ethernet: bool, out: &mut PacketQueue) -> Option<usize> {
        let Some(s) = parse(&mut p, ethernet) else {
            // Perhaps a damaged segment of a flow that is held: order within flows is kept for those only.
            out.push(p);
            return None;
        };
        let at = self.held.iter().position(|h| h.first.same_flow(&s));
        let alone = s.payload == 0 || stays_alone(s.flags);
        if let Some(i) = at {
            let h = &mut self.held[i];
            let mss = h.first.payload;
            let pieces = p.frags().len() + usize::from(p.data().len() > s.header());
            let total = h.packet.len() + s.payload - s.lens.0;
            let fits = total <= MAX_PACKET && h.packet.frags().len() + pieces <= MAX_FRAGS;
            if !alone && s.seq == h.next && s.payload <= mss && fits && mergeable(h, &s, &p) {
                let ends = s.payload < mss || s.flags.intersects(TcpFlags::FIN | TcpFlags::PSH);
                merge(h, &s, p, out);
                if ends {
                    let h = self.held.remove(i);
                    out.push(finish(h));
                }
                return Some(s.header());
            }
            let h = self.held.remove(i);
            out.push(finish(h));
        }
        if alone || s.flags.intersects(TcpFlags::FIN | TcpFlags::PSH) {
            out.push(p);
            return None;
        }
        if self.held.len() >= MAX_HELD {
            let h = self.held.remove(0);
            out.push(finish(h));
        }
        let next = s.seq.wrapping_add(s.payload as u32);
        self.held.push(Held { packet: p, first: s, next, segs: 1, flags: TcpFlags::empty() });
        None
    }

    /// Lets everything go (`gro_flush`), oldest first.
    fn flush(&mut self, out: &mut PacketQueue) {
        for h in self.held.drain(..) {
            out.push(finish(h));
        }
    }
}

/// Appends the payload; the emptied packet goes to `out` to be ended by the caller.
fn merge(h: &mut Held, s: &Segment, mut p: Packet, out: &mut PacketQueue) {
    let mut pieces: SmallVec<[Bytes; 2]> = SmallVec::new();
    p.take_payload(s.header(), &mut pieces);
    for b in pieces {
        h.packet.push_frag(b);
    }
    h.next = h.next.wrapping_add(s.payload as u32);
    h.segs += 1;
    h.flags |= s.flags & (TcpFlags::FIN | TcpFlags::PSH);
    p.trim(0);
    out.push(p);
}

/// The headers of the whole (`inet_gro_complete`, `tcp_gro_complete`): as a sender with segmentation offload makes them.
fn finish(h: Held) -> Packet {
    let Held { packet: mut p, first, segs, flags, .. } = h;
    if segs == 1 {
        return p;
    }
    let (link, net, _) = first.lens;
    let total = p.len() - link;
    let start = p.pos();
    let l4 = (total - net) as u32;
    {
        let m = p.meta_mut();
        m.network = start + link as u16;
        m.transport = m.network + net as u16;
        m.csum = Csum::Partial;
        m.csum_offset = 16;
        let kind = if first.v4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
        m.gso = Gso { size: first.payload as u16, segs, kind };
    }
    let pseudo = match (first.saddr, first.daddr) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            if let Some(w) = Ipv4Hdr::view_mut(p.network_mut()) {
                w.set_tot_len(total as u16);
            }
            let _ = ip_send_check(p.network_mut());
            csum_tcpudp_nofold(s, d, l4, IPPROTO_TCP, 0)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            if let Some(w) = Ipv6Hdr::view_mut(p.network_mut()) {
                w.set_payload_len((total - Ipv6Hdr::LEN) as u16);
            }
            csum_ipv6_nofold(&s, &d, l4, IPPROTO_TCP, 0)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    if let Some(t) = TcpHdr::view_mut(p.transport_mut()) {
        t.set_flags(t.flags() | flags);
        t.set_check(csum_fold_partial(pseudo));
    }
    p
}

/// A packet from the backlog whose device merges: what may go on goes on (`napi_gro_receive`).
pub fn napi_gro_receive(ns: &mut Namespace, p: Packet) {
    let dev = p.meta().dev;
    let Some(d) = ns.devs.get(dev) else {
        super::rx::netif_receive_skb(ns, p);
        return;
    };
    // A packet that ip_mc_output looped back has no link header; receive() drops what a device that is down gets.
    let ethernet = d.has_ethernet();
    if p.meta().pkt_type == PktType::Loopback || !d.is_up() {
        super::rx::netif_receive_skb(ns, p);
        return;
    }
    let mut out = PacketQueue::new();
    if let Some(header) = ns.gro.receive(p, ethernet, &mut out)
        && let Some(d) = ns.devs.get_mut(dev)
    {
        // The device saw these bytes; the merged packet shows its headers once.
        d.stats.rx_bytes += header as u64;
    }
    deliver(ns, out);
}

/// The end of a batch (`gro_normal_list`).
pub fn napi_gro_flush(ns: &mut Namespace) {
    if ns.gro.held.is_empty() {
        return;
    }
    let mut out = PacketQueue::new();
    ns.gro.flush(&mut out);
    deliver(ns, out);
}

fn deliver(ns: &mut Namespace, mut out: PacketQueue) {
    while let Some(p) = out.pop() {
        if p.is_empty() {
            // The box of a merged segment.
            ns.env.consume(p);
        } else {
            super::rx::netif_receive_skb(ns, p);
        }
    }
}

#[cfg(test)]
mod tests;
