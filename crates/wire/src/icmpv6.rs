//! ICMP for IPv6 (RFC 4443).

use crate::checksum::{csum_ipv6_magic, csum_partial};
use crate::ipproto::IPPROTO_ICMPV6;
use core::net::Ipv6Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Destination unreachable.
pub const ICMPV6_DEST_UNREACH: u8 = 1;
/// Packet too big; the MTU is in [`Icmp6Hdr::mtu`].
pub const ICMPV6_PKT_TOOBIG: u8 = 2;
/// Time exceeded.
pub const ICMPV6_TIME_EXCEED: u8 = 3;
/// Parameter problem; the pointer is [`Icmp6Hdr::mtu`]'s word.
pub const ICMPV6_PARAMPROB: u8 = 4;
/// Types below are errors, at and above informational (RFC 4443 §2.1).
pub const ICMPV6_INFOMSG_MASK: u8 = 0x80;
/// Echo request.
pub const ICMPV6_ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ICMPV6_ECHO_REPLY: u8 = 129;
/// Multicast listener query (RFC 2710, RFC 3810).
pub const ICMPV6_MGM_QUERY: u8 = 130;
/// Multicast listener report, version 1.
pub const ICMPV6_MGM_REPORT: u8 = 131;
/// Multicast listener done, version 1.
pub const ICMPV6_MGM_REDUCTION: u8 = 132;
/// Router solicitation.
pub const NDISC_ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement.
pub const NDISC_ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation.
pub const NDISC_NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement.
pub const NDISC_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect.
pub const NDISC_REDIRECT: u8 = 137;
/// Multicast listener report, version 2.
pub const ICMPV6_MLD2_REPORT: u8 = 143;

/// Unreachable: no route.
pub const ICMPV6_NOROUTE: u8 = 0;
/// Unreachable: prohibited.
pub const ICMPV6_ADM_PROHIBITED: u8 = 1;
/// Unreachable: beyond scope of the source.
pub const ICMPV6_NOT_NEIGHBOUR: u8 = 2;
/// Unreachable: address.
pub const ICMPV6_ADDR_UNREACH: u8 = 3;
/// Unreachable: port.
pub const ICMPV6_PORT_UNREACH: u8 = 4;
/// Unreachable: failed ingress or egress policy.
pub const ICMPV6_POLICY_FAIL: u8 = 5;
/// Unreachable: reject route.
pub const ICMPV6_REJECT_ROUTE: u8 = 6;
/// Hop limit exceeded in transit.
pub const ICMPV6_EXC_HOPLIMIT: u8 = 0;
/// Fragment reassembly time exceeded.
pub const ICMPV6_EXC_FRAGTIME: u8 = 1;
/// Erroneous header field.
pub const ICMPV6_HDR_FIELD: u8 = 0;
/// Unknown next header.
pub const ICMPV6_UNK_NEXTHDR: u8 = 1;
/// Unknown option.
pub const ICMPV6_UNK_OPTION: u8 = 2;
/// First fragment without the whole header chain (RFC 7112).
pub const ICMPV6_HDR_INCOMP: u8 = 3;

/// The 8-byte header (`struct icmp6hdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Icmp6Hdr {
    /// Type.
    pub icmp6_type: u8,
    /// Code within the type.
    pub icmp6_code: u8,
    /// Checksum with pseudo-header.
    pub icmp6_cksum: U16,
    /// The second word: identifier and sequence, MTU, pointer or flags, by type.
    pub icmp6_dataun: [u8; 4],
}

header_views!(Icmp6Hdr);
be_fields!(Icmp6Hdr {
    /// Checksum with pseudo-header.
    icmp6_cksum / set_icmp6_cksum: u16,
});

impl Icmp6Hdr {
    /// A header with this second word (MTU, pointer, or 0) and no checksum yet.
    #[must_use]
    pub const fn new(icmp6_type: u8, icmp6_code: u8, word: u32) -> Self {
        Icmp6Hdr { icmp6_type, icmp6_code, icmp6_cksum: U16::ZERO, icmp6_dataun: word.to_be_bytes() }
    }

    /// An echo request or reply.
    #[must_use]
    pub const fn echo(icmp6_type: u8, id: u16, sequence: u16) -> Self {
        Self::new(icmp6_type, 0, (id as u32) << 16 | sequence as u32)
    }

    /// Identifier of an echo.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        (self.mtu() >> 16) as u16
    }

    /// Sequence number of an echo.
    #[inline]
    #[must_use]
    pub const fn sequence(&self) -> u16 {
        self.mtu() as u16
    }

    /// Sets the identifier of an echo.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.icmp6_dataun = (u32::from(id) << 16 | u32::from(self.sequence())).to_be_bytes();
    }

    /// MTU of packet too big in bytes, pointer of parameter problem: the second word.
    #[inline]
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        u32::from_be_bytes(self.icmp6_dataun)
    }

    /// An error message about another packet, which it quotes (RFC 4443 §2.1).
    #[inline]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.icmp6_type & ICMPV6_INFOMSG_MASK == 0
    }

    /// Computes and stores the checksum; `payload_len` bytes with partial sum `payload_sum` follow the header.
    pub fn fill_checksum(
        &mut self,
        saddr: &Ipv6Addr,
        daddr: &Ipv6Addr,
        payload_len: usize,
        payload_sum: u32,
    ) {
        self.icmp6_cksum = U16::ZERO;
        let len = (Self::LEN as u32).wrapping_add(payload_len as u32);
        let c = csum_ipv6_magic(saddr, daddr, len, IPPROTO_ICMPV6, csum_partial(self.bytes(), payload_sum));
        self.icmp6_cksum.set(c);
    }
}

/// Computes and stores the checksum of a whole message in one slice. `None` when it is shorter than a header.
#[must_use]
pub fn icmp6_send_check(saddr: &Ipv6Addr, daddr: &Ipv6Addr, message: &mut [u8]) -> Option<()> {
    Icmp6Hdr::view_mut(message)?.icmp6_cksum = U16::ZERO;
    let sum = csum_partial(message, 0);
    let c = csum_ipv6_magic(saddr, daddr, message.len() as u32, IPPROTO_ICMPV6, sum);
    Icmp6Hdr::view_mut(message)?.icmp6_cksum.set(c);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_and_error() {
        let (s, d): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let mut h = Icmp6Hdr::echo(ICMPV6_ECHO_REQUEST, 0x1234, 7);
        let payload = b"abcde";
        h.fill_checksum(&s, &d, 5, csum_partial(payload, 0));
        let mut all = h.bytes().to_vec();
        all.extend_from_slice(payload);
        assert_eq!(csum_ipv6_magic(&s, &d, 13, IPPROTO_ICMPV6, csum_partial(&all, 0)), 0);
        let was = all.clone();
        icmp6_send_check(&s, &d, &mut all).unwrap();
        assert_eq!(all, was);
        assert_eq!((h.id(), h.sequence(), h.is_error()), (0x1234, 7, false));
        h.set_id(1);
        assert_eq!((h.id(), h.sequence()), (1, 7));
        let e = Icmp6Hdr::new(ICMPV6_PKT_TOOBIG, 0, 1280);
        assert!(e.is_error() && e.mtu() == 1280);
        assert!(icmp6_send_check(&s, &d, &mut [0; 7]).is_none());
    }
}
