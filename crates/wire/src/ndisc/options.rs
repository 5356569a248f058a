//! Options of neighbour discovery messages (RFC 4861 §4.6): type, length in units of 8 bytes, data.

use crate::{MacAddr, WireError};
use core::net::Ipv6Addr;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Source link-layer address.
pub const ND_OPT_SOURCE_LL_ADDR: u8 = 1;
/// Target link-layer address.
pub const ND_OPT_TARGET_LL_ADDR: u8 = 2;
/// Prefix information.
pub const ND_OPT_PREFIX_INFO: u8 = 3;
/// Redirected header.
pub const ND_OPT_REDIRECT_HDR: u8 = 4;
/// MTU of the link.
pub const ND_OPT_MTU: u8 = 5;
/// Nonce (RFC 3971 §5.3.2, RFC 7527).
pub const ND_OPT_NONCE: u8 = 14;
/// Route information (RFC 4191 §2.3).
pub const ND_OPT_ROUTE_INFO: u8 = 24;
/// Recursive DNS servers (RFC 8106 §5.1).
pub const ND_OPT_RDNSS: u8 = 25;
/// DNS search list (RFC 8106 §5.2).
pub const ND_OPT_DNSSL: u8 = 31;
/// Captive portal (RFC 8910 §2.3).
pub const ND_OPT_CAPTIVE_PORTAL: u8 = 37;
/// NAT64 prefix (RFC 8781).
pub const ND_OPT_PREF64: u8 = 38;

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdOpt<'a> {
    /// Type (`ND_OPT_*`).
    pub kind: u8,
    /// The whole option with type and length, a multiple of 8 bytes.
    pub bytes: &'a [u8],
}

impl NdOpt<'_> {
    /// An Ethernet address (RFC 2464 §6); `None` unless the option is 8 bytes (`ndisc_opt_addr_data`).
    #[must_use]
    pub fn lladdr(&self) -> Option<MacAddr> {
        if self.bytes.len() == 8 { self.bytes.get(2..).and_then(MacAddr::from_slice) } else { None }
    }

    /// MTU of the link in bytes (RFC 4861 §4.6.4).
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        let b = if self.bytes.len() == 8 { self.bytes.get(4..)?.first_chunk()? } else { return None };
        Some(u32::from_be_bytes(*b))
    }

    /// Prefix information, when the option is that and long enough.
    #[must_use]
    pub fn prefix_info(&self) -> Option<&PrefixInfo> {
        if self.kind == ND_OPT_PREFIX_INFO { PrefixInfo::view(self.bytes) } else { None }
    }
}

/// Walks options. A length of 0 or over the end yields one `Err` and ends the walk: such a message is discarded whole
/// (RFC 4861 §4.6).
#[derive(Clone, Debug)]
pub struct NdOptIter<'a> {
    rest: &'a [u8],
}

impl<'a> NdOptIter<'a> {
    /// Over what is behind the fixed part of a message.
    #[must_use]
    pub const fn new(options: &'a [u8]) -> Self {
        NdOptIter { rest: options }
    }
}

impl<'a> Iterator for NdOptIter<'a> {
    type Item = Result<NdOpt<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, behind) = self.rest.split_first()?;
        let len = behind.first().map_or(0, |&l| usize::from(l) * 8);
        match self.rest.split_at_checked(len) {
            Some((bytes, rest)) if len > 0 => {
                self.rest = rest;
                Some(Ok(NdOpt { kind, bytes }))
            }
            Some(_) | None => {
                self.rest = &[];
                Some(Err(WireError::BadOption))
            }
        }
    }
}

/// The options that appear once, for Ethernet; of several of a kind the first counts (`ndisc_parse_options`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NdOptions {
    /// Source link-layer address.
    pub slla: Option<MacAddr>,
    /// Target link-layer address.
    pub tlla: Option<MacAddr>,
    /// MTU of the link in bytes.
    pub mtu: Option<u32>,
    /// Nonce of 6 bytes; other lengths are left out.
    pub nonce: Option<[u8; 6]>,
}

impl NdOptions {
    /// Reads all options and checks that all are well-formed.
    ///
    /// # Errors
    /// [`WireError::BadOption`] for a length of 0 or over the end; for a link-layer address that is not 8 bytes
    /// long (Linux drops the message: "invalid link-layer address length").
    pub fn parse(options: &[u8]) -> Result<Self, WireError> {
        let mut o = NdOptions::default();
        for opt in NdOptIter::new(options) {
            let opt = opt?;
            match opt.kind {
                ND_OPT_SOURCE_LL_ADDR if o.slla.is_none() => {
                    o.slla = Some(opt.lladdr().ok_or(WireError::BadOption)?);
                }
                ND_OPT_TARGET_LL_ADDR if o.tlla.is_none() => {
                    o.tlla = Some(opt.lladdr().ok_or(WireError::BadOption)?);
                }
                ND_OPT_MTU if o.mtu.is_none() => o.mtu = opt.mtu(),
                ND_OPT_NONCE if o.nonce.is_none() && opt.bytes.len() == 8 => {
                    o.nonce = opt.bytes.get(2..).and_then(|b| b.first_chunk::<6>()).copied();
                }
                _ => {}
            }
        }
        Ok(o)
    }
}

/// Prefix information (RFC 4861 §4.6.2, `struct prefix_info`), the whole 32-byte option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PrefixInfo {
    /// [`ND_OPT_PREFIX_INFO`].
    pub kind: u8,
    /// 4 units.
    pub length: u8,
    /// Bits of the prefix that are valid, 0..=128.
    pub prefix_len: u8,
    /// `0x80` on link, `0x40` autonomous, `0x20` router address.
    pub flags: u8,
    /// Seconds the prefix is valid; all ones for ever.
    pub valid: U32,
    /// Seconds addresses are preferred; all ones for ever.
    pub prefered: U32,
    /// Zero.
    pub reserved2: U32,
    /// The prefix.
    pub prefix: [u8; 16],
}

header_views!(PrefixInfo);
be_fields!(PrefixInfo {
    /// Seconds the prefix is valid; all ones for ever.
    valid / set_valid: u32,
    /// Seconds addresses are preferred; all ones for ever.
    prefered / set_prefered: u32,
});

impl PrefixInfo {
    /// On link and autonomous, the usual advertisement; lifetimes in seconds.
    #[must_use]
    pub const fn new(prefix: Ipv6Addr, prefix_len: u8, valid_s: u32, preferred_s: u32) -> Self {
        PrefixInfo {
            kind: ND_OPT_PREFIX_INFO,
            length: 4,
            prefix_len,
            flags: 0xc0,
            valid: U32::new(valid_s),
            prefered: U32::new(preferred_s),
            reserved2: U32::ZERO,
            prefix: prefix.octets(),
        }
    }

    /// The prefix can be used for on-link determination.
    #[must_use]
    pub const fn onlink(&self) -> bool {
        self.flags & 0x80 != 0
    }

    /// The prefix can be used for stateless address configuration (RFC 4862 §5.5).
    #[must_use]
    pub const fn autoconf(&self) -> bool {
        self.flags & 0x40 != 0
    }

    /// The prefix.
    #[must_use]
    pub const fn prefix(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.prefix)
    }
}

/// The MTU option (RFC 4861 §4.6.4), the whole 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MtuOpt {
    /// [`ND_OPT_MTU`].
    pub kind: u8,
    /// 1 unit.
    pub length: u8,
    /// Zero.
    pub reserved: U16,
    /// MTU of the link in bytes.
    pub mtu: U32,
}

header_views!(MtuOpt);
be_fields!(MtuOpt {
    /// MTU of the link in bytes.
    mtu / set_mtu: u32,
});

impl MtuOpt {
    /// Makes the option; `mtu` in bytes.
    #[must_use]
    pub const fn new(mtu: u32) -> Self {
        MtuOpt { kind: ND_OPT_MTU, length: 1, reserved: U16::ZERO, mtu: U32::new(mtu) }
    }
}
