//! Addresses of a device.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::Instant;
use ferronet_core::timer::TimerId;

/// Route and address scopes (`rtnetlink(7)`).
#[allow(missing_docs, reason = "rtnetlink(7)")]
pub mod scope {
    pub const UNIVERSE: u8 = 0;
    pub const SITE: u8 = 200;
    pub const LINK: u8 = 253;
    pub const HOST: u8 = 254;
    pub const NOWHERE: u8 = 255;
}

/// `struct in_ifaddr` and `struct inet6_ifaddr` in one.
#[derive(Clone, Debug, PartialEq)]
pub struct IfAddr {
    /// The address itself (`IFA_LOCAL`).
    pub local: IpAddr,
    /// The peer's address on point-to-point links, else the same (`IFA_ADDRESS`).
    pub peer: IpAddr,
    /// Bits of the prefix.
    pub prefix_len: u8,
    /// IPv4 broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// `scope::*`.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
    /// IPv4 label (`eth0:1`), the device name by default.
    pub label: String,
    /// Seconds of preference, `u32::MAX` for ever, counted from `updated`.
    pub preferred_lft: u32,
    /// Seconds of validity, `u32::MAX` for ever.
    pub valid_lft: u32,
    /// Metric of the prefix route, 0 for the default.
    pub metric: u32,
    /// `IFA_PROTO` (kernel_lo 1, kernel_ra 2, kernel_ll 3).
    pub proto: u8,
    /// Creation.
    pub created: Instant,
    /// Last change.
    pub updated: Instant,
    /// DAD probes still to send.
    pub dad_probes: u8,
    /// DAD or lifetime timer.
    pub timer: TimerId,
}

impl IfAddr {
    /// An address without end, label and broadcast address.
    #[must_use]
    pub fn new(local: IpAddr, prefix_len: u8) -> IfAddr {
        IfAddr {
            local,
            peer: local,
            prefix_len,
            broadcast: None,
            scope: scope::UNIVERSE,
            flags: ifa_f::PERMANENT,
            label: String::new(),
            preferred_lft: u32::MAX,
            valid_lft: u32::MAX,
            metric: 0,
            proto: 0,
            created: Instant::ZERO,
            updated: Instant::ZERO,
            dad_probes: 0,
            timer: TimerId::NONE,
        }
    }

    /// Is `a` inside this prefix (`inet_ifa_match`)?
    #[must_use]
    pub fn contains(&self, a: IpAddr) -> bool {
        match (self.peer, a) {
            (IpAddr::V4(n), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
                (n.to_bits() ^ a.to_bits()) & mask == 0
            }
            (IpAddr::V6(n), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0);
                (n.to_bits() ^ a.to_bits()) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Address flags (`IFA_F_*`, `linux/if_addr.h`).
#[allow(missing_docs, reason = "linux/if_addr.h")]
pub mod ifa_f {
    pub const SECONDARY: u32 = 0x01;
    pub const NODAD: u32 = 0x02;
    pub const OPTIMISTIC: u32 = 0x04;
    pub const DADFAILED: u32 = 0x08;
    pub const HOMEADDRESS: u32 = 0x10;
    pub const DEPRECATED: u32 = 0x20;
    pub const TENTATIVE: u32 = 0x40;
    pub const PERMANENT: u32 = 0x80;
    pub const MANAGETEMPADDR: u32 = 0x100;
    pub const NOPREFIXROUTE: u32 = 0x200;
    pub const MCAUTOJOIN: u32 = 0x400;
    pub const STABLE_PRIVACY: u32 = 0x800;
}
