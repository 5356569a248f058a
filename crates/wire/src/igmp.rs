//! IGMP (RFC 2236 §2, RFC 3376 §4): the 8 bytes all versions begin with, and version 3 group records.

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Membership query.
pub const IGMP_HOST_MEMBERSHIP_QUERY: u8 = 0x11;
/// Version 1 report.
pub const IGMP_HOST_MEMBERSHIP_REPORT: u8 = 0x12;
/// Version 2 report.
pub const IGMPV2_HOST_MEMBERSHIP_REPORT: u8 = 0x16;
/// Version 2 leave.
pub const IGMP_HOST_LEAVE_MESSAGE: u8 = 0x17;
/// Version 3 report.
pub const IGMPV3_HOST_MEMBERSHIP_REPORT: u8 = 0x22;
/// Record: current filter is INCLUDE.
pub const IGMPV3_MODE_IS_INCLUDE: u8 = 1;
/// Record: current filter is EXCLUDE.
pub const IGMPV3_MODE_IS_EXCLUDE: u8 = 2;
/// Record: filter changed to INCLUDE.
pub const IGMPV3_CHANGE_TO_INCLUDE: u8 = 3;
/// Record: filter changed to EXCLUDE.
pub const IGMPV3_CHANGE_TO_EXCLUDE: u8 = 4;

/// The first 8 bytes (`struct igmphdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IgmpHdr {
    /// Type.
    pub igmp_type: u8,
    /// Largest response time in tenths of a second (version 2).
    pub code: u8,
    /// Checksum of the whole message.
    pub csum: U16,
    /// Group; 0 in a general query. In a version 3 report: reserved, then the number of records.
    pub group: [u8; 4],
}

header_views!(IgmpHdr);
be_fields!(IgmpHdr {
    /// Checksum of the whole message.
    csum / set_csum: u16,
});

impl IgmpHdr {
    /// Group, or 0.0.0.0.
    #[must_use]
    pub const fn group(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.group)
    }
}

/// The fixed part of a group record in a version 3 report (RFC 3376 §4.2.4, `struct igmpv3_grec`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Igmpv3Grec {
    /// Record type.
    pub grec_type: u8,
    /// Auxiliary data in 32-bit words: 0.
    pub grec_auxwords: u8,
    /// Source addresses that follow.
    pub grec_nsrcs: U16,
    /// Group.
    pub grec_mca: [u8; 4],
}

header_views!(Igmpv3Grec);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let h = IgmpHdr::view(&[0x16, 0, 9, 4, 224, 0, 0, 251]).unwrap();
        assert_eq!(
            (h.igmp_type, h.csum(), h.group()),
            (IGMPV2_HOST_MEMBERSHIP_REPORT, 0x0904, [224, 0, 0, 251].into())
        );
        assert_eq!(Igmpv3Grec::LEN, 8);
    }
}
