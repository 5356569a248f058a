//! Generic segmentation offload: cutting large packets where a device cannot take them (`skb_gso_segment`),
//! and filling in checksums (`skb_checksum_help`).

use bytes::Bytes;
use ferronet_core::packet::{Gso, GsoKind, PacketQueue};
use ferronet_core::{Csum, DropReason, Env, Packet};
use ferronet_wire::checksum::{csum_fold, csum_fold_partial, csum_ipv6_nofold, csum_tcpudp_nofold};
use ferronet_wire::ipproto::{IPPROTO_TCP, IPPROTO_UDP};
use ferronet_wire::ipv4::{Ipv4Hdr, ip_send_check};
use ferronet_wire::{Ipv6Hdr, TcpFlags, TcpHdr, UdpHdr};

use crate::ipv4::input::csum_packet;

/// Bytes of the transport header of a GSO packet.
fn transport_len(p: &Packet) -> usize {
    match p.meta().gso.kind {
        GsoKind::UdpL4 => UdpHdr::LEN,
        GsoKind::None | GsoKind::TcpV4 | GsoKind::TcpV6 => {
            TcpHdr::view(p.transport()).map_or(TcpHdr::LEN, |h| h.hdr_len().max(TcpHdr::LEN))
        }
    }
}

/// Length of a full segment from the network header on (`skb_gso_network_seglen`).
#[must_use]
pub fn network_seglen(p: &Packet) -> usize {
    let m = p.meta();
    usize::from(m.transport - m.network) + transport_len(p) + usize::from(m.gso.size)
}

/// Cuts a GSO packet into segments with complete headers and [`Csum::Partial`] checksums. Payload pieces are
/// shared, not copied.
pub fn skb_gso_segment(env: &mut Env, mut p: Packet, out: &mut PacketQueue) {
    let gso = p.meta().gso;
    let start = p.pos();
    let header = usize::from(p.meta().transport - start) + transport_len(&p);
    if gso.size == 0 || !p.may_pull(header) {
        env.drop(p, DropReason::PktTooSmall);
        return;
    }
    let size = usize::from(gso.size);
    let mut payload = smallvec::SmallVec::<[Bytes; 2]>::new();
    p.take_payload(header, &mut payload);
    let total: usize = payload.iter().map(Bytes::len).sum();
    let count = total.div_ceil(size).max(1);
    let (mut piece, mut offset) = (0, 0);
    for i in 0..count {
        let mut s = p.copy(&mut env.pool);
        let want = size.min(total - i * size);
        let mut left = want;
        while left > 0 {
            let b = &payload[piece];
            let n = left.min(b.len() - offset);
            s.push_frag(b.slice(offset..offset + n));
            left -= n;
            offset += n;
            if offset == b.len() {
                (piece, offset) = (piece + 1, 0);
            }
        }
        s.meta_mut().gso = Gso::default();
        fix_headers(&mut s, gso.kind, i, i + 1 == count, i * size, want);
        out.push(s);
    }
    env.consume(p);
}

/// Lengths, identification, sequence number, flags and checksums of segment `i`.
fn fix_headers(s: &mut Packet, kind: GsoKind, i: usize, last: bool, offset: usize, payload: usize) {
    let m = *s.meta();
    let l4_len = (transport_len_of(s, kind) + payload) as u32;
    let proto = if kind == GsoKind::UdpL4 { IPPROTO_UDP } else { IPPROTO_TCP };
    let ip_len = usize::from(m.transport - m.network);
    let v4 = s.network().first().is_some_and(|b| b >> 4 == 4);
    let pseudo = if v4 {
        let Some(h) = Ipv4Hdr::view_mut(s.network_mut()) else { return };
        h.set_tot_len((ip_len as u32 + l4_len) as u16);
        let id = h.id().wrapping_add(i as u16);
        h.set_id(id);
        let sum = csum_tcpudp_nofold(h.saddr(), h.daddr(), l4_len, proto, 0);
        let _ = ip_send_check(s.network_mut());
        sum
    } else {
        let Some(h) = Ipv6Hdr::view_mut(s.network_mut()) else { return };
        h.set_payload_len((ip_len as u32 - Ipv6Hdr::LEN as u32 + l4_len) as u16);
        csum_ipv6_nofold(&h.saddr(), &h.daddr(), l4_len, proto, 0)
    };
    if kind == GsoKind::UdpL4 {
        if let Some(u) = UdpHdr::view_mut(s.transport_mut()) {
            u.set_len(l4_len as u16);
            u.set_check(csum_fold_partial(pseudo));
        }
        s.meta_mut().csum_offset = 6;
    } else {
        if let Some(t) = TcpHdr::view_mut(s.transport_mut()) {
            let seq = t.seq();
            t.set_seq(seq + offset as u32);
            let mut f = t.flags();
            if !last {
                f.remove(TcpFlags::FIN | TcpFlags::PSH);
            }
            if i > 0 {
                f.remove(TcpFlags::CWR);
            }
            t.set_flags(f);
            t.set_check(csum_fold_partial(pseudo));
        }
        s.meta_mut().csum_offset = 16;
    }
    s.meta_mut().csum = Csum::Partial;
}

fn transport_len_of(s: &Packet, kind: GsoKind) -> usize {
    if kind == GsoKind::UdpL4 {
        UdpHdr::LEN
    } else {
        TcpHdr::view(s.transport()).map_or(TcpHdr::LEN, |h| h.hdr_len().max(TcpHdr::LEN))
    }
}

/// Computes a [`Csum::Partial`] checksum in software.
pub fn skb_checksum_help(p: &mut Packet) {
    let m = *p.meta();
    let pos = p.pos();
    if m.csum != Csum::Partial || !p.seek(m.transport) {
        return;
    }
    let sum = csum_packet(p, 0);
    let mut check = csum_fold(sum);
    // A UDP checksum of 0 means "none" (RFC 768).
    if check == 0 && m.csum_offset == 6 {
        check = 0xffff;
    }
    let at = usize::from(m.csum_offset);
    if let Some(b) = p.data_mut().get_mut(at..at + 2) {
        b.copy_from_slice(&check.to_be_bytes());
    }
    let _ = p.seek(pos);
    p.meta_mut().csum = Csum::None;
}
