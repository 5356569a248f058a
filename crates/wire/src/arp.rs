//! Address resolution for IPv4 over Ethernet (RFC 826).

use crate::{MacAddr, WireError};
use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Who has this address?
pub const ARPOP_REQUEST: u16 = 1;
/// I have it.
pub const ARPOP_REPLY: u16 = 2;
/// Ethernet as hardware type.
pub const ARPHRD_ETHER: u16 = 1;
/// IEEE 802 hardware type, which Linux accepts for Ethernet devices (`arp_process`).
pub const ARPHRD_IEEE802: u16 = 6;

/// The whole 28-byte packet for Ethernet and IPv4 (`struct arphdr` and the four addresses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArpHdr {
    /// Hardware type.
    pub ar_hrd: U16,
    /// Protocol type.
    pub ar_pro: U16,
    /// Bytes of a hardware address: 6.
    pub ar_hln: u8,
    /// Bytes of a protocol address: 4.
    pub ar_pln: u8,
    /// Operation.
    pub ar_op: U16,
    /// Sender's hardware address.
    pub ar_sha: MacAddr,
    /// Sender's IPv4 address.
    pub ar_sip: [u8; 4],
    /// Target's hardware address; zero in a request.
    pub ar_tha: MacAddr,
    /// Target's IPv4 address.
    pub ar_tip: [u8; 4],
}

header_views!(ArpHdr);
be_fields!(ArpHdr {
    /// Operation (`ARPOP_*`).
    ar_op / set_ar_op: u16,
});

impl ArpHdr {
    /// Makes a packet for Ethernet and IPv4.
    #[must_use]
    pub const fn new(op: u16, sha: MacAddr, sip: Ipv4Addr, tha: MacAddr, tip: Ipv4Addr) -> Self {
        ArpHdr {
            ar_hrd: U16::new(ARPHRD_ETHER),
            ar_pro: U16::new(crate::ethernet::ETH_P_IP),
            ar_hln: 6,
            ar_pln: 4,
            ar_op: U16::new(op),
            ar_sha: sha,
            ar_sip: sip.octets(),
            ar_tha: tha,
            ar_tip: tip.octets(),
        }
    }

    /// Sender's IPv4 address.
    #[must_use]
    pub const fn sip(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.ar_sip)
    }

    /// Target's IPv4 address.
    #[must_use]
    pub const fn tip(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.ar_tip)
    }

    /// Validates the fixed part as `arp_rcv` and `arp_process` do for an Ethernet device.
    ///
    /// # Errors
    /// [`WireError::TooShort`]; [`WireError::BadField`] for another hardware or protocol type or other lengths.
    pub fn check(b: &[u8]) -> Result<&Self, WireError> {
        let h = Self::view(b).ok_or(WireError::TooShort)?;
        let hrd = h.ar_hrd.get();
        let known =
            (hrd == ARPHRD_ETHER || hrd == ARPHRD_IEEE802) && h.ar_pro.get() == crate::ethernet::ETH_P_IP;
        if known && h.ar_hln == 6 && h.ar_pln == 4 { Ok(h) } else { Err(WireError::BadField) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_and_check() {
        let m = MacAddr([2, 0, 0, 0, 0, 1]);
        let h = ArpHdr::new(
            ARPOP_REQUEST,
            m,
            Ipv4Addr::new(10, 0, 0, 1),
            MacAddr::ZERO,
            Ipv4Addr::new(10, 0, 0, 2),
        );
        let b = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
        assert_eq!(h.bytes(), b);
        assert_eq!(ArpHdr::check(&b), Ok(&h));
        assert_eq!(
            (h.sip(), h.tip(), h.ar_op()),
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), ARPOP_REQUEST)
        );
        for i in [0, 2, 4, 5] {
            let mut bad = b;
            bad[i] ^= 0x40;
            assert_eq!(ArpHdr::check(&bad), Err(WireError::BadField), "{i}");
        }
        assert_eq!(ArpHdr::check(&b[..27]), Err(WireError::TooShort));
    }
}
