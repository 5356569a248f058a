//! The virtio network header (VIRTIO 1.2 §5.1.6.1) that TAP devices carry in front of a frame: unfinished
//! checksums and segmentation of the frame. Little-endian, as `TUNSETVNETLE` and modern devices use.

use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `csum_start` and `csum_offset` say what is still to be summed.
pub const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
/// The checksum is known to be right.
pub const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;
/// Not segmented.
pub const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
/// UDP fragmentation (old).
pub const VIRTIO_NET_HDR_GSO_UDP: u8 = 3;
/// TCP over IPv6.
pub const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
/// UDP segmentation, IPv4 and IPv6.
pub const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
/// Bit beside the TCP kinds: the packet has congestion bits set.
pub const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

/// The 10-byte header (`struct virtio_net_hdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VirtioNetHdr {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers, Ethernet to transport; a hint that is not to be trusted.
    pub hdr_len: U16,
    /// Payload bytes of each segment.
    pub gso_size: U16,
    /// Where summing begins, in bytes from the start of the frame.
    pub csum_start: U16,
    /// Where the checksum is stored, in bytes from `csum_start`.
    pub csum_offset: U16,
}

header_views!(VirtioNetHdr);
be_fields!(VirtioNetHdr {
    /// Bytes of all headers (hint).
    hdr_len / set_hdr_len: u16,
    /// Payload bytes of each segment.
    gso_size / set_gso_size: u16,
    /// Where summing begins, in bytes from the start of the frame.
    csum_start / set_csum_start: u16,
    /// Where the checksum is stored, in bytes from `csum_start`.
    csum_offset / set_csum_offset: u16,
});

impl VirtioNetHdr {
    /// The segmentation kind without the ECN bit.
    #[must_use]
    pub const fn gso_kind(&self) -> u8 {
        self.gso_type & !VIRTIO_NET_HDR_GSO_ECN
    }

    /// Checksum still to be completed.
    #[must_use]
    pub const fn needs_csum(&self) -> bool {
        self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
    }
}

/// The 12-byte header with the number of merged buffers (`struct virtio_net_hdr_mrg_rxbuf`), also the size of every
/// header of a version 1 device.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VirtioNetHdrMrgRxbuf {
    /// The first ten bytes.
    pub hdr: VirtioNetHdr,
    /// Buffers the frame is spread over; 1 on TAP.
    pub num_buffers: U16,
}

header_views!(VirtioNetHdrMrgRxbuf);
be_fields!(VirtioNetHdrMrgRxbuf {
    /// Buffers the frame is spread over.
    num_buffers / set_num_buffers: u16,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let b = [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0];
        let h = VirtioNetHdrMrgRxbuf::view(&b).unwrap();
        assert_eq!((VirtioNetHdr::LEN, VirtioNetHdrMrgRxbuf::LEN), (10, 12));
        assert!(h.hdr.needs_csum() && h.hdr.gso_kind() == VIRTIO_NET_HDR_GSO_TCPV4);
        assert_eq!(
            (h.hdr.hdr_len(), h.hdr.gso_size(), h.hdr.csum_start(), h.hdr.csum_offset()),
            (66, 1448, 34, 16)
        );
        assert_eq!(h.num_buffers(), 1);
    }
}
