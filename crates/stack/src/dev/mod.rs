//! Network devices of a namespace: names, flags, addresses, counters, kinds.

mod addr;
mod kind;
pub use addr::{IfAddr, ifa_f, scope};
pub use kind::{DevKind, Features, KindInfo, arphrd};

use core::net::IpAddr;

use ferronet_core::sysctl::{Conf4, Conf6, DevConf4, DevConf6, NeighParms};
use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_wire::ethernet::MacAddr;

use crate::notify::Notify;
use crate::ns::{ConfSet, Namespace};

/// Interface flags (`IFF_*`, `linux/if.h`).
#[allow(missing_docs, reason = "netdevice(7)")]
pub mod iff {
    pub const UP: u32 = 0x1;
    pub const BROADCAST: u32 = 0x2;
    pub const LOOPBACK: u32 = 0x8;
    pub const POINTOPOINT: u32 = 0x10;
    pub const RUNNING: u32 = 0x40;
    pub const NOARP: u32 = 0x80;
    pub const PROMISC: u32 = 0x100;
    pub const ALLMULTI: u32 = 0x200;
    pub const MULTICAST: u32 = 0x1000;
    pub const LOWER_UP: u32 = 0x1_0000;
    pub const DORMANT: u32 = 0x2_0000;
}

/// What a tun or tap device knows of the program behind it (`struct tun_struct`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunInfo {
    /// Frames have a `struct tun_pi` before them (no `IFF_NO_PI`).
    pub pi: bool,
    /// Frames have a `struct virtio_net_hdr` before them (`IFF_VNET_HDR`).
    pub vnet_hdr: bool,
    /// Stays when its file is closed (`TUNSETPERSIST`).
    pub persist: bool,
    /// The open file behind it, as the edge numbers its files. It goes with the device to other namespaces.
    pub file: Option<u64>,
}

/// `struct rtnl_link_stats64`, the fields that move here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "linux/if_link.h documents them")]
pub struct DevStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
    pub multicast: u64,
    pub tx_carrier_errors: u64,
    pub rx_nohandler: u64,
}

/// A network device.
#[derive(Clone, Debug)]
pub struct Device {
    /// 1-based.
    pub index: IfIndex,
    /// Up to 15 bytes.
    pub name: String,
    /// Alternative names, up to 127 bytes each.
    pub altnames: Vec<String>,
    /// `ip link set DEV alias`.
    pub alias: String,
    /// What it is.
    pub kind: DevKind,
    /// Administrative and constant flags (`iff`), without RUNNING and LOWER_UP, which are derived.
    pub flags: u32,
    /// The other end is there (`netif_carrier_ok`).
    pub carrier: bool,
    /// It was up since it came into its namespace: it has a queueing discipline.
    pub activated: bool,
    /// Creation.
    pub created: Instant,
    /// Carrier transitions since creation: up and down counts.
    pub carrier_changes: [u32; 2],
    /// Link address.
    pub mac: MacAddr,
    /// Largest network packet.
    pub mtu: u32,
    /// `txqueuelen`.
    pub tx_queue_len: u32,
    /// `ip link set DEV group N`.
    pub group: u32,
    /// Offloads.
    pub features: Features,
    /// Counters.
    pub stats: DevStats,
    /// IPv4 and IPv6 addresses in the order they print.
    pub addrs: Vec<IfAddr>,
    /// Multicast groups joined, with a user count.
    pub mcast: Vec<(IpAddr, u32)>,
    /// What members of groups ask for by source.
    pub mc_sources: Vec<mcast::McSources>,
    /// `net.ipv4.conf.DEV`.
    pub conf4: DevConf4,
    /// `net.ipv4.conf.DEV`: those set for this device, by bit; the others follow `default`.
    pub conf4_set: u64,
    /// `net.ipv6.conf.DEV`.
    pub conf6: DevConf6,
    /// `net.ipv4.neigh.DEV`.
    pub neigh4: NeighParms,
    /// Those of `neigh4` set for this device, by bit.
    pub neigh4_set: u32,
    /// `net.ipv6.neigh.DEV`.
    pub neigh6: NeighParms,
    /// Those of `neigh6` set for this device, by bit.
    pub neigh6_set: u32,
    /// Packet sockets that look at this device (taps), so that the path pays one branch.
    pub taps: u32,
    /// Last transmission (`trans_start`), for watchdogs and `ip -s`.
    pub trans_start: Instant,
    /// What IPv6 keeps for the device.
    pub inet6: crate::ipv6::Inet6Dev,
    /// IPv4 group reports that are due.
    pub igmp: crate::ipv4::igmp::Igmp,
    /// Link emulation on transmit, when set.
    pub netem: Option<Box<netem::Netem>>,
    /// Link emulation on receive, when set: for devices whose other end is not ours (back ends).
    pub netem_rx: Option<Box<netem::Netem>>,
    /// Of tun and tap devices.
    pub tun: TunInfo,
}

impl Device {
    /// Administratively up?
    #[inline]
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & iff::UP != 0
    }
    /// Up with carrier (`netif_running && netif_carrier_ok`).
    #[inline]
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_up() && self.carrier
    }
    /// Flags as `ip link` and `SIOCGIFFLAGS` show them (`dev_get_flags`).
    #[must_use]
    pub fn dev_flags(&self) -> u32 {
        let mut f = self.flags;
        if self.is_running() {
            f |= iff::RUNNING | iff::LOWER_UP;
        }
        f
    }
    /// `true` for `lo`.
    #[inline]
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        matches!(self.kind, DevKind::Loopback)
    }
    /// Frames carry an Ethernet header?
    #[inline]
    #[must_use]
    pub fn has_ethernet(&self) -> bool {
        !matches!(self.kind, DevKind::Backend { ethernet: false, .. })
    }
    /// Neighbours are resolved on it (no ARP on `lo`, point-to-point and NOARP devices).
    #[inline]
    #[must_use]
    pub fn needs_neigh(&self) -> bool {
        self.has_ethernet() && self.flags & (iff::NOARP | iff::LOOPBACK) == 0
    }
    /// Sets the MTU, and with it `net.ipv6.conf.DEV.mtu` (`addrconf_notify`, `NETDEV_CHANGEMTU`).
    pub(crate) fn set_mtu(&mut self, mtu: u32) {
        self.mtu = mtu;
        self.conf6.0[Conf6::Mtu as usize] = i32::try_from(mtu).unwrap_or(i32::MAX);
    }
    /// A veth end's partner.
    #[must_use]
    pub fn peer(&self) -> Option<(NsId, IfIndex)> {
        match self.kind {
            DevKind::Veth(p) => p,
            DevKind::Loopback | DevKind::Dummy | DevKind::Backend { .. } => None,
        }
    }
}

/// The devices of one namespace, by index. Lookup by index is an array access.
#[derive(Debug)]
pub struct Devices {
    slots: Vec<Option<Box<Device>>>,
    next: u32,
    /// Moved when an address, flag, name or device changes; route caches compare it.
    pub(crate) generation: u64,
    /// `AF_PACKET` sockets bound to all devices.
    pub taps_all: u32,
}

/// Devices per namespace at most.
pub const MAX_DEVICES: u32 = 65_536;

impl Devices {
    /// Just `lo`.
    #[must_use]
    pub fn new(conf: &ConfSet) -> Self {
        let mut d = Devices { slots: vec![None], next: 1, generation: 1, taps_all: 0 };
        let mut lo = Device::new("lo".to_owned(), DevKind::Loopback, MacAddr([0; 6]), conf);
        lo.index = IfIndex::LO;
        d.insert(lo);
        d
    }

    /// The device with this index.
    #[inline]
    #[must_use]
    pub fn get(&self, i: IfIndex) -> Option<&Device> {
        self.slots.get(i.0 as usize)?.as_deref()
    }
    /// Changes a device in a way that routing may see: what was decided before is decided anew. Who changes what
    /// `ip link` shows calls [`Namespace::netdev_state_change`](crate::Namespace::netdev_state_change) instead, which
    /// also tells the listeners. `None` when there is no such device.
    pub fn update<R>(&mut self, i: IfIndex, change: impl FnOnce(&mut Device) -> R) -> Option<R> {
        let r = change(self.get_mut(i)?);
        self.generation += 1;
        Some(r)
    }
    /// Moves with every change of a device or an address that routing may see.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// Likewise, for counters and what only the stack keeps in a device. Who changes what routing sees moves
    /// `generation`.
    #[inline]
    pub(crate) fn get_mut(&mut self, i: IfIndex) -> Option<&mut Device> {
        self.slots.get_mut(i.0 as usize)?.as_deref_mut()
    }
    /// Somebody looks at what this device sends and receives.
    #[inline]
    #[must_use]
    pub fn tapped(&self, i: IfIndex) -> bool {
        self.taps_all > 0 || self.get(i).is_some_and(|d| d.taps > 0)
    }
    /// The device with this name or alternative name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Device> {
        self.iter().find(|d| d.name == name || d.altnames.iter().any(|a| a == name))
    }
    /// In order of index.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.slots.iter().filter_map(|d| d.as_deref())
    }
    /// In order of index, to change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Device> {
        self.slots.iter_mut().filter_map(|d| d.as_deref_mut())
    }
    /// Puts a device in: under its own index when that is set and free (`ip link add index N`, or coming
    /// from another namespace), else under the next one (`dev_new_index`). `None` when the table is full.
    pub fn insert(&mut self, mut dev: Device) -> Option<IfIndex> {
        if dev.index.is_none() || self.get(dev.index).is_some() || dev.index.0 > MAX_DEVICES {
            while self.get(IfIndex(self.next)).is_some() {
                self.next += 1;
            }
            dev.index = IfIndex(self.next);
        }
        let i = dev.index;
        if i.0 > MAX_DEVICES {
            return None;
        }
        if self.slots.len() <= i.0 as usize {
            self.slots.resize_with(i.0 as usize + 1, || None);
        }
        self.next = self.next.max(i.0 + 1);
        self.slots[i.0 as usize] = Some(Box::new(dev));
        self.generation += 1;
        Some(i)
    }
    /// Takes a device out.
    pub fn remove(&mut self, i: IfIndex) -> Option<Device> {
        self.generation += 1;
        self.slots.get_mut(i.0 as usize)?.take().map(|b| *b)
    }
    /// A free name for a pattern such as `veth%d` (`dev_alloc_name`).
    #[must_use]
    pub fn alloc_name(&self, pattern: &str) -> String {
        let stem = pattern.strip_suffix("%d").unwrap_or(pattern);
        (0..).map(|n| format!("{stem}{n}")).find(|n| self.by_name(n).is_none()).unwrap_or_default()
    }
}

impl Device {
    /// A device as the kernel's `setup` functions make it: down, with the MTU and flags of its kind.
    #[must_use]
    pub fn new(name: String, kind: DevKind, mac: MacAddr, conf: &ConfSet) -> Self {
        let info = kind.info();
        let carrier = match kind {
            DevKind::Loopback | DevKind::Dummy => true,
            DevKind::Veth(_) => false,
            DevKind::Backend { attached, .. } => attached,
        };
        let (conf4, conf6, set4) = dev_conf(&kind, info.mtu, conf);
        Device {
            index: IfIndex::NONE,
            name,
            altnames: Vec::new(),
            alias: String::new(),
            kind,
            flags: info.flags,
            carrier,
            activated: false,
            created: Instant::ZERO,
            // veth_newlink turns the carrier off.
            carrier_changes: [0, u32::from(!carrier)],
            mac,
            mtu: info.mtu,
            tx_queue_len: info.tx_queue_len,
            group: 0,
            features: info.features,
            stats: DevStats::default(),
            addrs: Vec::new(),
            mc_sources: Vec::new(),
            mcast: vec![
                (IpAddr::V6(crate::ipv6::addr::LINKLOCAL_ALLNODES), 1),
                (IpAddr::V6(crate::ipv6::addr::INTERFACELOCAL_ALLNODES), 1),
            ],
            conf4,
            conf4_set: conf.default4_set | set4,
            conf6,
            neigh4: conf.neigh4.clone(),
            neigh4_set: 0,
            neigh6: conf.neigh6.clone(),
            neigh6_set: 0,
            taps: 0,
            trans_start: Instant::ZERO,
            inet6: crate::ipv6::Inet6Dev::default(),
            igmp: crate::ipv4::igmp::Igmp::default(),
            netem: None,
            netem_rx: None,
            tun: TunInfo::default(),
        }
    }
}

impl Namespace {
    /// Changes what `ip link` shows of a device: routing decides anew, and listeners get RTM_NEWLINK. Netlink, ioctl and
    /// sysctl all change a device through here, so that none of them can forget either (`netdev_state_change`).
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn netdev_state_change(
        &mut self,
        dev: IfIndex,
        change: impl FnOnce(&mut Device),
    ) -> Result<(), Errno> {
        self.devs.update(dev, change).ok_or(Errno::ENODEV)?;
        self.notify.push(Notify::LinkNew(dev, 0));
        Ok(())
    }
}

/// Tunables of a new device: `default`, with what `inetdev_init` and `ipv6_add_dev` set apart, and which IPv4 ones
/// do not follow `default`, by bit.
fn dev_conf(kind: &DevKind, mtu: u32, conf: &ConfSet) -> (DevConf4, DevConf6, u64) {
    let (mut c4, mut c6, mut set4) = (conf.default4.clone(), conf.default6.clone(), 0);
    c6.0[Conf6::Mtu as usize] = i32::try_from(mtu).unwrap_or(i32::MAX);
    if *kind == DevKind::Loopback {
        for c in [Conf4::DisablePolicy, Conf4::DisableXfrm] {
            c4.0[c as usize] = 1;
            set4 |= 1 << (c as u32);
        }
        c6.0[Conf6::AcceptDad as usize] = -1;
        c6.0[Conf6::UseTempaddr as usize] = -1;
    }
    (c4, c6, set4)
}

pub mod addr_ops;
pub mod flows;
pub mod gro;
pub mod gso;
pub mod mcast;
pub mod netem;
pub mod rx;
pub mod tx;
