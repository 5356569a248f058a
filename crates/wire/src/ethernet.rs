//! Ethernet II (IEEE 802.3) and the 802.1Q tag.

use core::fmt;
use core::str::FromStr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// Address resolution protocol.
pub const ETH_P_ARP: u16 = 0x0806;
/// Reverse ARP.
pub const ETH_P_RARP: u16 = 0x8035;
/// 802.1Q VLAN tag.
pub const ETH_P_8021Q: u16 = 0x8100;
/// 802.1ad service VLAN tag.
pub const ETH_P_8021AD: u16 = 0x88a8;
/// IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// MPLS unicast.
pub const ETH_P_MPLS_UC: u16 = 0x8847;
/// Link layer discovery.
pub const ETH_P_LLDP: u16 = 0x88cc;
/// Loopback test frames.
pub const ETH_P_LOOP: u16 = 0x0060;
/// Smallest number that is a type; below it the field is an 802.3 length.
pub const ETH_P_802_3_MIN: u16 = 0x0600;
/// Pseudo-type: every packet (packet sockets only).
pub const ETH_P_ALL: u16 = 0x0003;
/// Pseudo-type: 802.3 frames without a type.
pub const ETH_P_802_3: u16 = 0x0001;
/// Pseudo-type: 802.2 frames.
pub const ETH_P_802_2: u16 = 0x0004;

/// Bytes of an address.
pub const ETH_ALEN: usize = 6;
/// Bytes of the header.
pub const ETH_HLEN: usize = 14;
/// Smallest frame without its check sequence, in bytes.
pub const ETH_ZLEN: usize = 60;
/// Usual largest payload in bytes.
pub const ETH_DATA_LEN: usize = 1500;
/// Largest frame of the usual size, without check sequence, in bytes.
pub const ETH_FRAME_LEN: usize = 1514;
/// Smallest MTU that IPv4 can use (RFC 791 §3.2), in bytes.
pub const ETH_MIN_MTU: u32 = 68;
/// Largest MTU the kernel sets, in bytes.
pub const ETH_MAX_MTU: u32 = 65535;

/// A 48-bit link-layer address.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// `00:00:00:00:00:00`.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The first six bytes of a slice; `None` when there are fewer.
    #[must_use]
    pub fn from_slice(b: &[u8]) -> Option<Self> {
        b.first_chunk::<6>().map(|c| MacAddr(*c))
    }

    /// The bytes in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// All ones.
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Group bit set; broadcast is a multicast address too (`is_multicast_ether_addr`).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// All zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Neither multicast nor zero: may be an interface's own (`is_valid_ether_addr`).
    #[must_use]
    pub fn is_valid(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// The locally-administered bit.
    #[must_use]
    pub const fn is_local(self) -> bool {
        let [first, ..] = self.0;
        first & 2 != 0
    }

    /// Makes a random address from random bytes: unicast, locally administered (`eth_random_addr`).
    #[must_use]
    pub const fn from_random(r: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = r;
        MacAddr([(a & 0xfe) | 0x02, b, c, d, e, f])
    }

    /// The group address of an IPv4 multicast group (RFC 1112 §6.4, `ip_eth_mc_map`).
    #[must_use]
    pub const fn ipv4_multicast(group: core::net::Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 multicast group (RFC 2464 §7, `ipv6_eth_mc_map`).
    #[must_use]
    pub const fn ipv6_multicast(group: core::net::Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        MacAddr([0x33, 0x33, a, b, c, d])
    }

    /// The modified EUI-64 interface identifier (RFC 4291 appendix A).
    #[must_use]
    pub const fn eui64(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0;
        [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text is not six hexadecimal bytes with colons between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacParseError;

impl fmt::Display for MacParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a link-layer address (six hexadecimal bytes with colons between)")
    }
}

impl core::error::Error for MacParseError {}

impl FromStr for MacAddr {
    type Err = MacParseError;

    fn from_str(s: &str) -> Result<Self, MacParseError> {
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for o in &mut out {
            let p = parts.next().ok_or(MacParseError)?;
            if p.is_empty() || p.len() > 2 || !p.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(MacParseError);
            }
            *o = u8::from_str_radix(p, 16).map_err(|_| MacParseError)?;
        }
        if parts.next().is_some() { Err(MacParseError) } else { Ok(MacAddr(out)) }
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(b: [u8; 6]) -> Self {
        MacAddr(b)
    }
}

/// The 14-byte header (`struct ethhdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EthHdr {
    /// Destination.
    pub h_dest: MacAddr,
    /// Source.
    pub h_source: MacAddr,
    /// Type, or length below [`ETH_P_802_3_MIN`].
    pub h_proto: U16,
}

header_views!(EthHdr);
be_fields!(EthHdr {
    /// Type (`ETH_P_*`), or a length below [`ETH_P_802_3_MIN`].
    h_proto / set_h_proto: u16,
});

impl EthHdr {
    /// Makes a header.
    #[must_use]
    pub const fn new(dest: MacAddr, source: MacAddr, proto: u16) -> Self {
        EthHdr { h_dest: dest, h_source: source, h_proto: U16::new(proto) }
    }
}

/// An 802.1Q tag as it stands behind the source address' type field: control word, then the inner type
/// (`struct vlan_hdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VlanHdr {
    /// Priority (3 bits), drop eligible (1 bit), identifier (12 bits).
    pub h_vlan_tci: U16,
    /// Type of what is inside.
    pub h_vlan_encapsulated_proto: U16,
}

header_views!(VlanHdr);
be_fields!(VlanHdr {
    /// The whole control word.
    h_vlan_tci / set_h_vlan_tci: u16,
    /// Type of what is inside (`ETH_P_*`).
    h_vlan_encapsulated_proto / set_h_vlan_encapsulated_proto: u16,
});

impl VlanHdr {
    /// Makes a tag; `vid` 0..=4095, `prio` 0..=7, both cut to their width.
    #[must_use]
    pub const fn new(vid: u16, prio: u8, inner: u16) -> Self {
        let tci = (vid & 0xfff) | ((prio as u16 & 7) << 13);
        VlanHdr { h_vlan_tci: U16::new(tci), h_vlan_encapsulated_proto: U16::new(inner) }
    }

    /// VLAN identifier, 0..=4095.
    #[must_use]
    pub fn vid(&self) -> u16 {
        self.h_vlan_tci.get() & 0xfff
    }

    /// Priority code point, 0..=7.
    #[must_use]
    pub fn prio(&self) -> u8 {
        (self.h_vlan_tci.get() >> 13) as u8
    }

    /// Drop eligible indicator.
    #[must_use]
    pub fn dei(&self) -> bool {
        self.h_vlan_tci.get() & 0x1000 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text() {
        let m: MacAddr = "02:42:aC:1:00:fe".parse().unwrap();
        assert_eq!(m, MacAddr([2, 0x42, 0xac, 1, 0, 0xfe]));
        assert_eq!(m.to_string(), "02:42:ac:01:00:fe");
        for bad in ["", "1:2:3:4:5", "1:2:3:4:5:6:7", "1:2:3:4:5:g", "001:2:3:4:5:6", "+1:2:3:4:5:6", ":::::"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_kinds() {
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
        assert!(!MacAddr::ZERO.is_valid() && MacAddr([2, 0, 0, 0, 0, 1]).is_valid());
        assert!(MacAddr::from_random([0xff; 6]).is_valid() && MacAddr::from_random([0xff; 6]).is_local());
        assert_eq!(MacAddr::ipv4_multicast("224.129.2.3".parse().unwrap()).to_string(), "01:00:5e:01:02:03");
        assert_eq!(
            MacAddr::ipv6_multicast("ff02::1:ff00:102".parse().unwrap()).to_string(),
            "33:33:ff:00:01:02"
        );
        assert_eq!(MacAddr([0x02, 1, 2, 3, 4, 5]).eui64(), [0, 1, 2, 0xff, 0xfe, 3, 4, 5]);
    }

    #[test]
    fn header_layout() {
        let h = EthHdr::new(MacAddr::BROADCAST, MacAddr([1, 2, 3, 4, 5, 6]), ETH_P_ARP);
        assert_eq!(h.bytes(), [255, 255, 255, 255, 255, 255, 1, 2, 3, 4, 5, 6, 8, 6]);
        assert!(EthHdr::view(&[0; 13]).is_none());
        assert_eq!(EthHdr::view(h.bytes()), Some(&h));
        let v = VlanHdr::new(100, 5, ETH_P_IP);
        assert_eq!(v.bytes(), [0xa0, 100, 8, 0]);
        assert_eq!((v.vid(), v.prio(), v.dei()), (100, 5, false));
    }
}
