//! The IPv6 header (RFC 8200 §3), the walk over extension headers (§4) and their options.

use crate::WireError;
use crate::ipproto::*;
use core::net::Ipv6Addr;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Smallest MTU of a link (RFC 8200 §5), in bytes.
pub const IPV6_MIN_MTU: u32 = 1280;
/// More fragments, in the fragment header's `frag_off`.
pub const IP6_MF: u16 = 0x0001;
/// Mask of the fragment offset in `frag_off`; the value is in bytes as it stands.
pub const IP6_OFFSET: u16 = 0xfff8;
/// Padding of one byte.
pub const IPV6_TLV_PAD1: u8 = 0;
/// Padding of two bytes or more.
pub const IPV6_TLV_PADN: u8 = 1;
/// Router alert (RFC 2711).
pub const IPV6_TLV_ROUTERALERT: u8 = 5;
/// In-situ operations (RFC 9486).
pub const IPV6_TLV_IOAM: u8 = 49;
/// Jumbo payload (RFC 2675).
pub const IPV6_TLV_JUMBO: u8 = 194;
/// Mobile home address (RFC 6275).
pub const IPV6_TLV_HAO: u8 = 201;

/// The fixed 40 bytes (`struct ipv6hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6Hdr {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub ver_tc_flow: U32,
    /// Bytes behind this header.
    pub payload_len: U16,
    /// What follows (`IPPROTO_*`).
    pub nexthdr: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source.
    pub saddr: [u8; 16],
    /// Destination.
    pub daddr: [u8; 16],
}

header_views!(Ipv6Hdr);
be_fields!(Ipv6Hdr {
    /// The first word as it stands: version, traffic class, flow label (`ip6_flowinfo`).
    ver_tc_flow / set_ver_tc_flow: u32,
    /// Bytes behind this header; 0 with a jumbo payload option.
    payload_len / set_payload_len: u16,
});

impl Ipv6Hdr {
    /// A header with traffic class and flow label 0; `payload_len` in bytes (cut to 16 bits).
    #[must_use]
    pub const fn new(
        saddr: Ipv6Addr,
        daddr: Ipv6Addr,
        nexthdr: u8,
        hop_limit: u8,
        payload_len: usize,
    ) -> Self {
        Ipv6Hdr {
            ver_tc_flow: U32::new(0x6000_0000),
            payload_len: U16::new(payload_len as u16),
            nexthdr,
            hop_limit,
            saddr: saddr.octets(),
            daddr: daddr.octets(),
        }
    }

    /// Version: 6.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u8 {
        (self.ver_tc_flow.get() >> 28) as u8
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    #[must_use]
    pub fn tclass(&self) -> u8 {
        (self.ver_tc_flow.get() >> 20) as u8
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline]
    #[must_use]
    pub fn flowlabel(&self) -> u32 {
        self.ver_tc_flow.get() & 0xf_ffff
    }

    /// Sets version 6, the traffic class and the flow label (cut to 20 bits) (`ip6_flow_hdr`).
    #[inline]
    pub fn set_flow(&mut self, tclass: u8, flowlabel: u32) {
        self.ver_tc_flow.set(0x6000_0000 | u32::from(tclass) << 20 | (flowlabel & 0xf_ffff));
    }

    /// What follows (`IPPROTO_*`).
    #[inline]
    #[must_use]
    pub const fn nexthdr(&self) -> u8 {
        self.nexthdr
    }

    /// Hops left.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    /// Source.
    #[inline]
    #[must_use]
    pub const fn saddr(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.saddr)
    }

    /// Destination.
    #[inline]
    #[must_use]
    pub const fn daddr(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.daddr)
    }

    /// Sets the source.
    #[inline]
    pub fn set_saddr(&mut self, a: Ipv6Addr) {
        self.saddr = a.octets();
    }

    /// Sets the destination.
    #[inline]
    pub fn set_daddr(&mut self, a: Ipv6Addr) {
        self.daddr = a.octets();
    }

    /// ECN field, 0..=3 (RFC 3168 §5).
    #[inline]
    #[must_use]
    pub fn ecn(&self) -> u8 {
        self.tclass() & 3
    }

    /// Marks congestion experienced; false when the packet is not ECN-capable and nothing was changed.
    pub fn set_ce(&mut self) -> bool {
        let capable = self.ecn() != 0;
        if capable {
            self.set_flow(self.tclass() | 3, self.flowlabel());
        }
        capable
    }

    /// Validates as `ip6_rcv_core` does (length and version). `head` begins at the header; `packet_len` counts from the
    /// header to the end of the packet. Returns the bytes of the packet: header plus payload; what is behind is padding.
    /// A payload length of 0 before a hop-by-hop header may be a jumbogram (RFC 2675): then it is `packet_len`.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::BadVersion`], [`WireError::Truncated`].
    pub fn check_packet(head: &[u8], packet_len: usize) -> Result<usize, WireError> {
        let h = Self::view(head).ok_or(WireError::TooShort)?;
        if h.version() != 6 {
            return Err(WireError::BadVersion);
        }
        let payload = usize::from(h.payload_len.get());
        if payload == 0 && h.nexthdr == IPPROTO_HOPOPTS {
            return if packet_len < Self::LEN { Err(WireError::TooShort) } else { Ok(packet_len) };
        }
        let len = Self::LEN + payload;
        if len > packet_len { Err(WireError::Truncated) } else { Ok(len) }
    }
}

/// The fragment header (RFC 8200 §4.5, `struct frag_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FragHdr {
    /// What follows.
    pub nexthdr: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset, two reserved bits, more fragments.
    pub frag_off: U16,
    /// Identification for reassembly.
    pub identification: U32,
}

header_views!(FragHdr);
be_fields!(FragHdr {
    /// Offset and flags as they stand.
    frag_off / set_frag_off: u16,
    /// Identification for reassembly.
    identification / set_identification: u32,
});

impl FragHdr {
    /// Makes a header; `offset` in bytes is a multiple of 8 (other bits are cut).
    #[must_use]
    pub const fn new(nexthdr: u8, offset: u16, more: bool, identification: u32) -> Self {
        let frag_off = U16::new((offset & IP6_OFFSET) | more as u16);
        FragHdr { nexthdr, reserved: 0, frag_off, identification: U32::new(identification) }
    }

    /// Offset of this piece in bytes.
    #[must_use]
    pub fn offset_bytes(&self) -> usize {
        usize::from(self.frag_off.get() & IP6_OFFSET)
    }

    /// More fragments follow.
    #[must_use]
    pub fn more(&self) -> bool {
        self.frag_off.get() & IP6_MF != 0
    }
}

/// Type and length at the start of hop-by-hop, destination and routing headers (`struct ipv6_opt_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6OptHdr {
    /// What follows.
    pub nexthdr: u8,
    /// Length in units of 8 bytes, the first 8 not counted.
    pub hdrlen: u8,
}

header_views!(Ipv6OptHdr);

impl Ipv6OptHdr {
    /// Length in bytes, 8..=2048 (`ipv6_optlen`).
    #[must_use]
    pub const fn optlen(&self) -> usize {
        (self.hdrlen as usize + 1) * 8
    }
}

/// Where [`ipv6_skip_exthdr`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkipExthdr {
    /// Bytes from the start of the slice to the header named by `nexthdr`.
    pub offset: usize,
    /// First header that is no extension header; `IPPROTO_FRAGMENT` when stopped at a later fragment.
    pub nexthdr: u8,
    /// The last fragment header's `frag_off` as it stands; 0 without one.
    pub frag_off: u16,
}

/// The headers this crate walks over (`ipv6_ext_hdr`). ESP is not one: what is behind is encrypted.
#[inline]
#[must_use]
pub const fn ipv6_ext_hdr(nexthdr: u8) -> bool {
    matches!(
        nexthdr,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_AH | IPPROTO_NONE | IPPROTO_DSTOPTS
    )
}

/// Walks from the header at `start`, whose kind is `nexthdr`, over extension headers to the transport header
/// (`ipv6_skip_exthdr`; RFC 8200 §4). Stops at a fragment header with an offset: there is no transport header in it.
/// `None` when headers run out of the slice or end in "no next header". The transport header itself need not be there.
#[must_use]
pub fn ipv6_skip_exthdr(b: &[u8], start: usize, nexthdr: u8) -> Option<SkipExthdr> {
    let mut at = SkipExthdr { offset: start, nexthdr, frag_off: 0 };
    while ipv6_ext_hdr(at.nexthdr) {
        if at.nexthdr == IPPROTO_NONE {
            return None;
        }
        let rest = b.get(at.offset..)?;
        let h = Ipv6OptHdr::view(rest)?;
        let len = match at.nexthdr {
            IPPROTO_FRAGMENT => {
                at.frag_off = FragHdr::view(rest)?.frag_off.get();
                if at.frag_off & IP6_OFFSET != 0 {
                    break;
                }
                8
            }
            // RFC 4302 §2.2: the authentication header counts in 4-byte units, minus two.
            IPPROTO_AH => (usize::from(h.hdrlen) + 2) * 4,
            _ => h.optlen(),
        };
        at.nexthdr = h.nexthdr;
        at.offset += len;
    }
    Some(at)
}

/// One option of a hop-by-hop or destination options header (RFC 8200 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlvOption<'a> {
    /// Type (`IPV6_TLV_*`); its two high bits say what to do when unknown, see [`TlvOption::unknown_action`].
    pub kind: u8,
    /// Where the option begins, in bytes from the start of the extension header.
    pub offset: usize,
    /// Data behind type and length.
    pub data: &'a [u8],
}

/// What to do with a packet that has an option of unknown type (RFC 8200 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlvAction {
    /// 00: skip over the option.
    Skip,
    /// 01: discard silently.
    Discard,
    /// 10: discard, and send ICMPv6 parameter problem code 2 even for multicast.
    DiscardIcmp,
    /// 11: discard, and send parameter problem code 2 unless the destination was multicast.
    DiscardIcmpUnicast,
}

impl TlvOption<'_> {
    /// The action bits of the type.
    #[must_use]
    pub const fn unknown_action(&self) -> TlvAction {
        match self.kind >> 6 {
            0 => TlvAction::Skip,
            1 => TlvAction::Discard,
            2 => TlvAction::DiscardIcmp,
            _ => TlvAction::DiscardIcmpUnicast,
        }
    }
}

/// Walks the options of a hop-by-hop or destination options header, padding included. A malformed option yields one
/// `Err` with its offset and ends the walk.
#[derive(Clone, Debug)]
pub struct TlvOptions<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> TlvOptions<'a> {
    /// Over a whole extension header, beginning at its next-header byte.
    ///
    /// # Errors
    /// [`WireError::TooShort`] when the slice is shorter than the header says.
    pub fn new(header: &'a [u8]) -> Result<Self, WireError> {
        let len = Ipv6OptHdr::view(header).ok_or(WireError::TooShort)?.optlen();
        let rest = header.get(2..len).ok_or(WireError::TooShort)?;
        Ok(TlvOptions { rest, offset: 2 })
    }
}

impl<'a> Iterator for TlvOptions<'a> {
    type Item = Result<TlvOption<'a>, usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, behind) = self.rest.split_first()?;
        let offset = self.offset;
        if kind == IPV6_TLV_PAD1 {
            self.rest = behind;
            self.offset += 1;
            return Some(Ok(TlvOption { kind, offset, data: &[] }));
        }
        let parts = behind.split_first().and_then(|(&l, d)| d.split_at_checked(usize::from(l)));
        let Some((data, rest)) = parts else {
            self.rest = &[];
            return Some(Err(offset));
        };
        self.rest = rest;
        self.offset += 2 + data.len();
        Some(Ok(TlvOption { kind, offset, data }))
    }
}

/// The solicited-node multicast group of an address (RFC 4291 §2.7.1, `addrconf_addr_solict_mult`).
#[must_use]
pub const fn solicited_node(a: &Ipv6Addr) -> Ipv6Addr {
    let [.., x, y, z] = a.octets();
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z])
}

/// Is this a solicited-node multicast group (`ipv6_addr_is_solict_mult`)?
#[must_use]
pub const fn is_solicited_node(a: &Ipv6Addr) -> bool {
    matches!(a.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, _, _, _])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fixed_header() {
        let (s, d): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        let mut h = Ipv6Hdr::new(s, d, IPPROTO_UDP, 64, 9);
        h.set_flow(0xb9, 0xabcde);
        assert_eq!(h.bytes()[..8], [0x6b, 0x9a, 0xbc, 0xde, 0, 9, 17, 64]);
        assert_eq!((h.version(), h.tclass(), h.flowlabel(), h.ecn()), (6, 0xb9, 0xabcde, 1));
        assert!(h.set_ce() && h.tclass() == 0xbb);
        assert_eq!((h.saddr(), h.daddr()), (s, d));
        assert_eq!(Ipv6Hdr::check_packet(h.bytes(), 60), Ok(49));
        assert_eq!(Ipv6Hdr::check_packet(h.bytes(), 48), Err(WireError::Truncated));
        assert_eq!(Ipv6Hdr::check_packet(&h.bytes()[..39], 49), Err(WireError::TooShort));
        h.set_ver_tc_flow(0x4000_0000);
        assert_eq!(Ipv6Hdr::check_packet(h.bytes(), 60), Err(WireError::BadVersion));
        assert_eq!(solicited_node(&"2001:db8::1:2aa:bb".parse().unwrap()).to_string(), "ff02::1:ffaa:bb");
    }

    #[test]
    fn skip() {
        // hop-by-hop (8), destination options (16), fragment (8), TCP
        let mut b = vec![0u8; 36];
        b[0] = IPPROTO_DSTOPTS;
        (b[8], b[9]) = (IPPROTO_FRAGMENT, 1);
        b[24] = IPPROTO_TCP;
        b[27] = 1;
        let r = ipv6_skip_exthdr(&b, 0, IPPROTO_HOPOPTS);
        assert_eq!(r, Some(SkipExthdr { offset: 32, nexthdr: IPPROTO_TCP, frag_off: 1 }));
        b[27] = 8; // a later fragment
        let r = ipv6_skip_exthdr(&b, 0, IPPROTO_HOPOPTS);
        assert_eq!(r, Some(SkipExthdr { offset: 24, nexthdr: IPPROTO_FRAGMENT, frag_off: 8 }));
        assert_eq!(ipv6_skip_exthdr(&b, 0, IPPROTO_NONE), None);
        assert_eq!(ipv6_skip_exthdr(&b[..9], 0, IPPROTO_HOPOPTS), None);
        assert_eq!(ipv6_skip_exthdr(&[IPPROTO_UDP, 4], 0, IPPROTO_AH).map(|r| r.offset), Some(24));
        assert_eq!(ipv6_skip_exthdr(&[], 0, IPPROTO_UDP).map(|r| r.offset), Some(0));
    }

    #[test]
    fn tlv() {
        let b = [58, 0, IPV6_TLV_ROUTERALERT, 2, 0, 0, IPV6_TLV_PADN, 0];
        let v: Vec<_> =
            TlvOptions::new(&b).unwrap().map(|o| o.map(|o| (o.kind, o.offset, o.data.len()))).collect();
        assert_eq!(v, [Ok((5, 2, 2)), Ok((1, 6, 0))]);
        let b = [58, 0, IPV6_TLV_PAD1, 0xc2, 4, 0, 0, 0];
        let v: Vec<_> = TlvOptions::new(&b).unwrap().collect();
        assert_eq!(v[1..], [Err(3)]);
        assert!(TlvOptions::new(&b[..7]).is_err());
        let o = |kind| TlvOption { kind, offset: 0, data: &[] }.unknown_action();
        assert_eq!(o(0xc2), TlvAction::DiscardIcmpUnicast);
        assert_eq!(
            (o(0x3f), o(0x40), o(0x80)),
            (TlvAction::Skip, TlvAction::Discard, TlvAction::DiscardIcmp)
        );
    }

    #[test]
    fn fragment() {
        let f = FragHdr::new(IPPROTO_UDP, 1480, true, 0x0102_0304);
        assert_eq!(f.bytes(), [17, 0, 5, 0xc9, 1, 2, 3, 4]);
        assert!(f.more() && f.offset_bytes() == 1480);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn any_bytes(b in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..3, Just(60), Just(44)], 0..120), n: u8) {
            let _ = ipv6_skip_exthdr(&b, 0, n);
            let _ = ipv6_skip_exthdr(&b, usize::MAX - 3, n);
            let _ = Ipv6Hdr::check_packet(&b, b.len());
            if let Ok(o) = TlvOptions::new(&b) {
                prop_assert!(o.count() <= b.len());
            }
        }
    }
}
