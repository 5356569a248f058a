//! Frames of a TAP device: the virtio network header and `Packet`, both ways.

use bytes::Bytes;
use ferronet_core::packet::{Gso, GsoKind, MAX_LEN};
use ferronet_core::{Csum, Packet};
use ferronet_wire::virtio::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
    VirtioNetHdr,
};
use ferronet_wire::{TcpFlags, TcpHdr, UdpHdr};

/// Bytes of `struct virtio_net_hdr`, which `TUNSETVNETHDRSZ` asks for.
pub(super) const VNET_HDR: usize = VirtioNetHdr::LEN;
/// Headers of a large frame are made linear up to here; the rest becomes one piece.
const HEADERS: usize = 128;

/// The header for a frame that is at its link header (`virtio_net_hdr_from_skb`).
pub(super) fn vnet_from(p: &Packet) -> VirtioNetHdr {
    let m = p.meta();
    let mut h = VirtioNetHdr::default();
    let start = m.transport.saturating_sub(p.pos());
    if m.csum == Csum::Partial {
        h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        h.set_csum_start(start);
        h.set_csum_offset(m.csum_offset);
    } else if m.csum == Csum::Unnecessary {
        h.flags = VIRTIO_NET_HDR_F_DATA_VALID;
    }
    let kind = match m.gso.kind {
        GsoKind::None => return h,
        GsoKind::TcpV4 => VIRTIO_NET_HDR_GSO_TCPV4,
        GsoKind::TcpV6 => VIRTIO_NET_HDR_GSO_TCPV6,
        GsoKind::UdpL4 => VIRTIO_NET_HDR_GSO_UDP_L4,
    };
    h.gso_type = kind;
    h.set_gso_size(m.gso.size);
    let l4 = match TcpHdr::view(p.transport()) {
        Some(t) if m.gso.kind != GsoKind::UdpL4 => {
            // RFC 3168: only the first segment may carry CWR; the kernel must know (SKB_GSO_TCP_ECN).
            if t.flags().contains(TcpFlags::CWR) {
                h.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
            }
            t.hdr_len()
        }
        _ => UdpHdr::LEN,
    };
    h.set_hdr_len(start + l4 as u16);
    h
}

/// Fills an empty packet with a frame (`tun_get_user`, `virtio_net_hdr_to_skb`). `false`: header and frame do not agree.
pub(super) fn fill(p: &mut Packet, h: &VirtioNetHdr, mut frame: Bytes) -> bool {
    let gso = h.gso_kind();
    if frame.len() > MAX_LEN {
        return false;
    }
    // The host's hint of the header length is right for large frames; elsewhere a common header fits.
    let hint =
        if gso == VIRTIO_NET_HDR_GSO_NONE { HEADERS } else { usize::from(h.hdr_len()).clamp(54, HEADERS) };
    let linear = frame.len().min(hint);
    let head = frame.split_to(linear);
    p.put(linear).copy_from_slice(&head);
    p.push_frag(frame);
    if h.needs_csum() {
        let (start, offset) = (usize::from(h.csum_start()), usize::from(h.csum_offset()));
        if start + offset + 2 > p.len() || !p.may_pull(start + offset + 2) {
            return false;
        }
        p.set_transport_header(start);
        p.meta_mut().csum_offset = h.csum_offset();
        p.meta_mut().csum = Csum::Partial;
    } else if h.flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 {
        p.meta_mut().csum = Csum::Unnecessary;
    }
    if gso == VIRTIO_NET_HDR_GSO_NONE {
        return true;
    }
    let kind = match gso {
        VIRTIO_NET_HDR_GSO_TCPV4 => GsoKind::TcpV4,
        VIRTIO_NET_HDR_GSO_TCPV6 => GsoKind::TcpV6,
        VIRTIO_NET_HDR_GSO_UDP_L4 => GsoKind::UdpL4,
        _ => return false,
    };
    let l4 = match kind {
        GsoKind::UdpL4 => UdpHdr::LEN,
        GsoKind::None | GsoKind::TcpV4 | GsoKind::TcpV6 => {
            if !p.may_pull(usize::from(h.csum_start()) + TcpHdr::LEN) {
                return false;
            }
            TcpHdr::view(p.transport()).map_or(TcpHdr::LEN, |t| t.hdr_len())
        }
    };
    let headers = usize::from(h.csum_start()) + l4;
    let size = usize::from(h.gso_size());
    // A large frame without an unfinished checksum or with nothing in it cannot be cut.
    if !h.needs_csum() || size == 0 || headers >= p.len() || !p.may_pull(headers) {
        return false;
    }
    let segs = (p.len() - headers).div_ceil(size);
    p.meta_mut().gso = Gso { size: h.gso_size(), segs: segs as u16, kind };
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferronet_core::packet::Pool;

    fn tcp_frame(payload: usize) -> Vec<u8> {
        let mut f = vec![0u8; 14 + 20 + 20 + payload];
        f[14] = 0x45;
        f[46] = 5 << 4;
        f
    }

    #[test]
    fn large_frames_keep_their_payload_in_one_piece_and_their_header_both_ways() {
        let mut pool = Pool::default();
        let mut h = VirtioNetHdr { flags: 1, gso_type: VIRTIO_NET_HDR_GSO_TCPV4, ..Default::default() };
        h.set_hdr_len(54);
        h.set_gso_size(1460);
        h.set_csum_start(34);
        h.set_csum_offset(16);
        let frame = Bytes::from(tcp_frame(4000));
        let mut p = pool.get();
        assert!(fill(&mut p, &h, frame.clone()));
        assert_eq!((p.data().len(), p.frags().len(), p.len()), (54, 1, frame.len()));
        assert_eq!(p.frags()[0].as_ptr(), frame[54..].as_ptr(), "not copied");
        assert_eq!(p.meta().gso, Gso { size: 1460, segs: 3, kind: GsoKind::TcpV4 });
        assert_eq!(vnet_from(&p), h);
        pool.put(p);
    }

    #[test]
    fn headers_that_do_not_agree_with_the_frame_are_refused() {
        let mut pool = Pool::default();
        let bad = |change: &dyn Fn(&mut VirtioNetHdr)| {
            let mut h = VirtioNetHdr { flags: 1, gso_type: VIRTIO_NET_HDR_GSO_TCPV4, ..Default::default() };
            h.set_hdr_len(54);
            h.set_gso_size(1000);
            h.set_csum_start(34);
            h.set_csum_offset(16);
            change(&mut h);
            h
        };
        let cases = [
            bad(&|h| h.set_gso_size(0)),
            bad(&|h| h.set_csum_start(3000)),
            bad(&|h| h.set_csum_offset(u16::MAX)),
            bad(&|h| h.flags = 0),
            bad(&|h| h.gso_type = 77),
        ];
        for h in cases {
            let mut p = pool.get();
            assert!(!fill(&mut p, &h, Bytes::from(tcp_frame(2000))), "{h:?}");
            pool.put(p);
        }
    }
}
