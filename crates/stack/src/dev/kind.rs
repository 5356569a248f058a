//! Kinds of devices, and the row of facts that each kind answers.

use ferronet_core::{IfIndex, NsId};

use super::iff;

/// What a device is. Inner devices are an enum so that the compiler lists what a new kind must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevKind {
    /// `lo`.
    Loopback,
    /// One end of a pair; the other end, while it exists.
    Veth(Option<(NsId, IfIndex)>),
    /// Takes everything, gives nothing.
    Dummy,
    /// Ends in the host: its frames come out of [`crate::World::take_backend_tx`]. `true`: link frames
    /// (tap); `false`: bare IP packets (tun).
    Backend {
        /// Link frames (tap) or bare IP packets (tun).
        ethernet: bool,
        /// Has its owner attached (carrier).
        attached: bool,
    },
}

/// What a device takes without software help (`ethtool -k`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// TCP segments larger than the MTU, with [`ferronet_core::packet::Gso`].
    pub tso: bool,
    /// UDP likewise (`tx-udp-segmentation`).
    pub uso: bool,
    /// [`ferronet_core::Csum::Partial`] packets.
    pub tx_csum: bool,
    /// Merge small packets on receipt.
    pub gro: bool,
}

impl Features {
    /// Everything: memory-to-memory devices.
    pub const ALL: Features = Features { tso: true, uso: true, tx_csum: true, gro: false };
    /// Nothing: a plain Ethernet port.
    pub const NONE: Features = Features { tso: false, uso: false, tx_csum: false, gro: true };
}

/// `ARPHRD_*` (`linux/if_arp.h`).
#[allow(missing_docs, reason = "netdevice(7)")]
pub mod arphrd {
    pub const ETHER: u16 = 1;
    pub const LOOPBACK: u16 = 772;
    pub const NONE: u16 = 0xfffe;
}

/// What the kernel's `setup` function of a kind writes into a new device (`ether_setup`, `loopback_setup`,
/// `tun_net_initialize`), and what its `rtnl_link_ops` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// `IFLA_INFO_KIND`; `None` for `lo`, which has no `rtnl_link_ops`.
    pub name: Option<&'static str>,
    /// What a name given by the kernel begins with.
    pub stem: &'static str,
    /// `ARPHRD_*`.
    pub arphrd: u16,
    /// MTU of a new device.
    pub mtu: u32,
    /// Least MTU that can be set.
    pub min_mtu: u32,
    /// Largest MTU that can be set; 0 for no limit.
    pub max_mtu: u32,
    /// `txqueuelen` of a new device.
    pub tx_queue_len: u32,
    /// `IFF_*` of a new device.
    pub flags: u32,
    /// Offloads of a new device.
    pub features: Features,
}

/// `ETH_MIN_MTU`: the least that IPv4 can use (RFC 791 §3.2).
const ETH_MIN_MTU: u32 = 68;
/// `ETH_MAX_MTU`.
const ETH_MAX_MTU: u32 = 65535;
/// `DEFAULT_TX_QUEUE_LEN`.
const DEFAULT_TX_QUEUE_LEN: u32 = 1000;

impl DevKind {
    /// The facts of this kind.
    #[must_use]
    pub const fn info(&self) -> KindInfo {
        const ETHER: KindInfo = KindInfo {
            name: Some("veth"),
            stem: "veth",
            arphrd: arphrd::ETHER,
            mtu: 1500,
            min_mtu: ETH_MIN_MTU,
            max_mtu: ETH_MAX_MTU,
            tx_queue_len: DEFAULT_TX_QUEUE_LEN,
            flags: iff::BROADCAST | iff::MULTICAST,
            features: Features::ALL,
        };
        match self {
            DevKind::Loopback => KindInfo {
                name: None,
                stem: "lo",
                arphrd: arphrd::LOOPBACK,
                mtu: 65536,
                min_mtu: 0,
                max_mtu: 0,
                flags: iff::LOOPBACK,
                ..ETHER
            },
            DevKind::Veth(_) => ETHER,
            DevKind::Dummy => KindInfo {
                name: Some("dummy"),
                stem: "dummy",
                min_mtu: 0,
                max_mtu: 0,
                flags: iff::BROADCAST | iff::NOARP,
                ..ETHER
            },
            // tun_net_initialize: a tap leaves room for the Ethernet header in 65535 bytes.
            DevKind::Backend { ethernet: true, .. } => {
                KindInfo { name: Some("tun"), stem: "tap", max_mtu: ETH_MAX_MTU - 14, ..ETHER }
            }
            DevKind::Backend { ethernet: false, .. } => KindInfo {
                name: Some("tun"),
                stem: "tun",
                arphrd: arphrd::NONE,
                tx_queue_len: 500,
                flags: iff::POINTOPOINT | iff::NOARP | iff::MULTICAST,
                ..ETHER
            },
        }
    }
}

impl KindInfo {
    /// May a device of this kind have this MTU (`dev_validate_mtu`)?
    ///
    /// # Errors
    /// The sentence that `ip` prints with `EINVAL`.
    pub const fn validate_mtu(&self, mtu: u32) -> Result<(), &'static str> {
        if mtu < self.min_mtu || mtu > i32::MAX as u32 {
            Err("mtu less than device minimum")
        } else if self.max_mtu != 0 && mtu > self.max_mtu {
            Err("mtu greater than device maximum")
        } else {
            Ok(())
        }
    }
}
