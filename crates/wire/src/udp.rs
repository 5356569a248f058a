//! UDP (RFC 768).

use crate::WireError;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What stands in the field when the computed checksum is 0: 0 means "none" (RFC 768).
pub const CSUM_MANGLED_0: u16 = 0xffff;

/// The 8-byte header (`struct udphdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct UdpHdr {
    /// Source port.
    pub source: U16,
    /// Destination port.
    pub dest: U16,
    /// Header and payload in bytes.
    pub len: U16,
    /// Checksum with pseudo-header; 0 is none (forbidden over IPv6, RFC 8200 §8.1).
    pub check: U16,
}

header_views!(UdpHdr);
be_fields!(UdpHdr {
    /// Source port.
    source / set_source: u16,
    /// Destination port.
    dest / set_dest: u16,
    /// Header and payload in bytes.
    len / set_len: u16,
    /// Checksum; 0 is none.
    check / set_check: u16,
});

impl UdpHdr {
    /// A header without checksum; `payload_len` in bytes (cut to 16 bits).
    #[must_use]
    pub const fn new(source: u16, dest: u16, payload_len: usize) -> Self {
        UdpHdr {
            source: U16::new(source),
            dest: U16::new(dest),
            len: U16::new((payload_len as u16).wrapping_add(8)),
            check: U16::ZERO,
        }
    }

    /// Sets a computed checksum, 0 written as all ones (RFC 768).
    #[inline]
    pub fn set_computed(&mut self, check: u16) {
        self.check.set(if check == 0 { CSUM_MANGLED_0 } else { check });
    }

    /// Validates the length as `__udp4_lib_rcv` does; `packet_len` counts from the UDP header to the end of the IP
    /// payload. Returns the bytes of the datagram with header; what is behind is trimmed. The checksum is the caller's.
    ///
    /// # Errors
    /// [`WireError::TooShort`]; [`WireError::Truncated`] when `len` is more than the packet;
    /// [`WireError::BadTotalLen`] when it is less than the header.
    pub fn check_packet(head: &[u8], packet_len: usize) -> Result<usize, WireError> {
        let h = Self::view(head).ok_or(WireError::TooShort)?;
        let len = usize::from(h.len.get());
        if len > packet_len {
            return Err(WireError::Truncated);
        }
        if len < Self::LEN { Err(WireError::BadTotalLen) } else { Ok(len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_and_check() {
        let mut h = UdpHdr::new(53, 4000, 5);
        h.set_computed(0);
        assert_eq!(h.bytes(), [0, 53, 15, 160, 0, 13, 255, 255]);
        assert_eq!(UdpHdr::check_packet(h.bytes(), 20), Ok(13));
        assert_eq!(UdpHdr::check_packet(h.bytes(), 12), Err(WireError::Truncated));
        assert_eq!(UdpHdr::check_packet(&h.bytes()[..7], 13), Err(WireError::TooShort));
        h.set_len(7);
        assert_eq!(UdpHdr::check_packet(h.bytes(), 20), Err(WireError::BadTotalLen));
    }
}
