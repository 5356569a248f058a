//! ICMP for IPv4 (RFC 792, RFC 1122 §3.2.2, RFC 1191).

use crate::checksum::{csum_fold, csum_partial};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Echo reply.
pub const ICMP_ECHOREPLY: u8 = 0;
/// Destination unreachable.
pub const ICMP_DEST_UNREACH: u8 = 3;
/// Source quench (deprecated by RFC 6633).
pub const ICMP_SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const ICMP_REDIRECT: u8 = 5;
/// Echo request.
pub const ICMP_ECHO: u8 = 8;
/// Time exceeded.
pub const ICMP_TIME_EXCEEDED: u8 = 11;
/// Parameter problem; the pointer is the first byte of [`IcmpHdr::un`].
pub const ICMP_PARAMETERPROB: u8 = 12;
/// Timestamp request.
pub const ICMP_TIMESTAMP: u8 = 13;
/// Timestamp reply.
pub const ICMP_TIMESTAMPREPLY: u8 = 14;
/// Information request (obsolete).
pub const ICMP_INFO_REQUEST: u8 = 15;
/// Information reply (obsolete).
pub const ICMP_INFO_REPLY: u8 = 16;
/// Address mask request.
pub const ICMP_ADDRESS: u8 = 17;
/// Address mask reply.
pub const ICMP_ADDRESSREPLY: u8 = 18;
/// Extended echo request (RFC 8335).
pub const ICMP_EXT_ECHO: u8 = 42;
/// Extended echo reply (RFC 8335).
pub const ICMP_EXT_ECHOREPLY: u8 = 43;
/// Highest type the kernel handles.
pub const NR_ICMP_TYPES: u8 = 18;

/// Unreachable: network.
pub const ICMP_NET_UNREACH: u8 = 0;
/// Unreachable: host.
pub const ICMP_HOST_UNREACH: u8 = 1;
/// Unreachable: protocol.
pub const ICMP_PROT_UNREACH: u8 = 2;
/// Unreachable: port.
pub const ICMP_PORT_UNREACH: u8 = 3;
/// Unreachable: fragmentation needed and DF set; the MTU is in [`IcmpHdr::mtu`] (RFC 1191 §4).
pub const ICMP_FRAG_NEEDED: u8 = 4;
/// Unreachable: source route failed.
pub const ICMP_SR_FAILED: u8 = 5;
/// Unreachable: network unknown.
pub const ICMP_NET_UNKNOWN: u8 = 6;
/// Unreachable: host unknown.
pub const ICMP_HOST_UNKNOWN: u8 = 7;
/// Unreachable: host isolated.
pub const ICMP_HOST_ISOLATED: u8 = 8;
/// Unreachable: network prohibited.
pub const ICMP_NET_ANO: u8 = 9;
/// Unreachable: host prohibited.
pub const ICMP_HOST_ANO: u8 = 10;
/// Unreachable: network, for this type of service.
pub const ICMP_NET_UNR_TOS: u8 = 11;
/// Unreachable: host, for this type of service.
pub const ICMP_HOST_UNR_TOS: u8 = 12;
/// Unreachable: filtered (RFC 1812 §5.2.7.1).
pub const ICMP_PKT_FILTERED: u8 = 13;
/// Unreachable: precedence violation.
pub const ICMP_PREC_VIOLATION: u8 = 14;
/// Unreachable: precedence cutoff.
pub const ICMP_PREC_CUTOFF: u8 = 15;
/// Highest code of unreachable.
pub const NR_ICMP_UNREACH: u8 = 15;
/// Redirect for the network.
pub const ICMP_REDIR_NET: u8 = 0;
/// Redirect for the host.
pub const ICMP_REDIR_HOST: u8 = 1;
/// Redirect for network and type of service.
pub const ICMP_REDIR_NETTOS: u8 = 2;
/// Redirect for host and type of service.
pub const ICMP_REDIR_HOSTTOS: u8 = 3;
/// Time to live exceeded in transit.
pub const ICMP_EXC_TTL: u8 = 0;
/// Fragment reassembly time exceeded.
pub const ICMP_EXC_FRAGTIME: u8 = 1;

/// The 8-byte header (`struct icmphdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IcmpHdr {
    /// Type (`ICMP_*`).
    pub icmp_type: u8,
    /// Code within the type.
    pub code: u8,
    /// Checksum over header and payload, no pseudo-header.
    pub checksum: U16,
    /// The second word: identifier and sequence, gateway, MTU or pointer, by type.
    pub un: [u8; 4],
}

header_views!(IcmpHdr);
be_fields!(IcmpHdr {
    /// Checksum over header and payload.
    checksum / set_checksum: u16,
});

impl IcmpHdr {
    /// A header with the second word 0 and no checksum yet.
    #[must_use]
    pub const fn new(icmp_type: u8, code: u8) -> Self {
        IcmpHdr { icmp_type, code, checksum: U16::ZERO, un: [0; 4] }
    }

    /// An echo request or reply.
    #[must_use]
    pub const fn echo(icmp_type: u8, id: u16, sequence: u16) -> Self {
        let ([a, b], [c, d]) = (id.to_be_bytes(), sequence.to_be_bytes());
        IcmpHdr { icmp_type, code: 0, checksum: U16::ZERO, un: [a, b, c, d] }
    }

    /// "Fragmentation needed" with the next hop's MTU in bytes (RFC 1191 §4), cut to 16 bits.
    #[must_use]
    pub const fn frag_needed(mtu: u16) -> Self {
        let [c, d] = mtu.to_be_bytes();
        IcmpHdr {
            icmp_type: ICMP_DEST_UNREACH,
            code: ICMP_FRAG_NEEDED,
            checksum: U16::ZERO,
            un: [0, 0, c, d],
        }
    }

    /// Identifier of echo and timestamp messages.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        let [a, b, ..] = self.un;
        u16::from_be_bytes([a, b])
    }

    /// Sequence number of echo and timestamp messages.
    #[inline]
    #[must_use]
    pub const fn sequence(&self) -> u16 {
        let [.., c, d] = self.un;
        u16::from_be_bytes([c, d])
    }

    /// Sets the identifier (a translator's or a ping socket's).
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        let [a, b] = id.to_be_bytes();
        let [.., c, d] = self.un;
        self.un = [a, b, c, d];
    }

    /// Next hop's MTU of "fragmentation needed", in bytes; 0 from routers older than RFC 1191.
    #[inline]
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.sequence()
    }

    /// Gateway of a redirect.
    #[inline]
    #[must_use]
    pub const fn gateway(&self) -> core::net::Ipv4Addr {
        core::net::Ipv4Addr::from_octets(self.un)
    }

    /// Pointer of a parameter problem: offset of the bad byte in the quoted header.
    #[inline]
    #[must_use]
    pub const fn pointer(&self) -> u8 {
        let [p, ..] = self.un;
        p
    }

    /// An error message about another packet, which it quotes (RFC 1122 §3.2.2); never answered with an error.
    #[inline]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        icmp_is_err(self.icmp_type)
    }

    /// Computes and stores the checksum; `payload_sum` is the partial sum of what follows the header.
    pub fn fill_checksum(&mut self, payload_sum: u32) {
        self.checksum = U16::ZERO;
        let c = csum_fold(csum_partial(self.bytes(), payload_sum));
        self.checksum.set(c);
    }
}

/// Is this type an error message (`icmp_is_err`)?
#[inline]
#[must_use]
pub const fn icmp_is_err(icmp_type: u8) -> bool {
    matches!(
        icmp_type,
        ICMP_DEST_UNREACH | ICMP_SOURCE_QUENCH | ICMP_REDIRECT | ICMP_TIME_EXCEEDED | ICMP_PARAMETERPROB
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::ip_compute_csum;

    #[test]
    fn echo() {
        let mut h = IcmpHdr::echo(ICMP_ECHO, 0x1234, 7);
        let payload = b"abcdefg";
        h.fill_checksum(csum_partial(payload, 0));
        let mut all = h.bytes().to_vec();
        all.extend_from_slice(payload);
        assert_eq!(ip_compute_csum(&all), 0);
        assert_eq!((h.id(), h.sequence(), h.is_error()), (0x1234, 7, false));
        h.set_id(9);
        assert_eq!((h.id(), h.sequence()), (9, 7));
    }

    #[test]
    fn errors() {
        let h = IcmpHdr::frag_needed(1400);
        assert_eq!(h.bytes(), [3, 4, 0, 0, 0, 0, 5, 120]);
        assert!(h.is_error() && h.mtu() == 1400);
        let g = IcmpHdr { un: [10, 0, 0, 1], ..IcmpHdr::new(ICMP_REDIRECT, ICMP_REDIR_HOST) };
        assert_eq!((g.gateway(), g.pointer()), ([10, 0, 0, 1].into(), 10));
    }
}
