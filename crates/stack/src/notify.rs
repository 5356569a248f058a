//! What changed, for the netlink groups. The `linux` crate drains these and renders messages.

use core::net::IpAddr;

use ferronet_core::{IfIndex, NsId};

use crate::dev::Device;
use crate::fib::{Family, FibEntry};
use crate::neigh::{Neigh, NeighKey};
use crate::ns::Namespace;
use crate::sysctl::Row;

/// A device as it was when something happened to it: what comes later may have changed it again, or taken it away.
#[derive(Debug)]
pub struct LinkThen {
    /// The device then.
    pub dev: Device,
    /// RTM_DELLINK rather than RTM_NEWLINK.
    pub gone: bool,
    /// `ifi_change`.
    pub change: u32,
    /// Carrier of a veth's partner in the same namespace.
    pub peer_carrier: Option<bool>,
    /// There is a carrier that the operational state does not know of yet (`linkwatch` comes later).
    pub lower_up: bool,
    /// The namespace and index it went to.
    pub moved: Option<(NsId, IfIndex)>,
}

/// Which tunable of `ip netconf` changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChange {
    /// `forwarding`.
    Forwarding,
    /// `rp_filter`.
    RpFilter,
    /// `proxy_arp` or `proxy_ndp`.
    ProxyNeigh,
    /// `ignore_routes_with_linkdown`.
    IgnoreRoutesWithLinkdown,
}

/// A change of what `ip netconf` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Whose.
    pub row: Row,
    /// Which one; `None` for all.
    pub what: Option<ConfChange>,
    /// They went with their device (RTM_DELNETCONF).
    pub gone: bool,
}

/// A change of a namespace's objects.
#[derive(Debug)]
pub enum Notify {
    /// RTM_NEWLINK: a device appeared or changed (`change` is `ifi_change`).
    LinkNew(IfIndex, u32),
    /// RTM_NEWLINK or RTM_DELLINK with the device as it was then.
    Link(Box<LinkThen>),
    /// RTM_NEWNETCONF or RTM_DELNETCONF.
    NetConf(NetConf),
    /// RTM_NEWADDR.
    AddrNew(IfIndex, IpAddr, u8),
    /// RTM_DELADDR, with what is needed to print it.
    AddrDel(IfIndex, Box<crate::dev::IfAddr>),
    /// RTM_NEWROUTE.
    RouteNew(Box<FibEntry>),
    /// RTM_DELROUTE.
    RouteDel(Box<FibEntry>),
    /// RTM_NEWNEIGH.
    NeighNew(NeighKey),
    /// RTM_DELNEIGH.
    NeighDel(NeighKey),
    /// RTM_DELNEIGH of an entry that went with its device.
    NeighGone(Box<Neigh>),
    /// RTM_NEWRULE or RTM_DELRULE of a family: added?, the rule.
    Rule(bool, Box<crate::fib::Rule>),
}

/// Changes kept until `linux` takes them; beyond this listeners get ENOBUFS as from the kernel.
pub const LIMIT: usize = 65_536;

/// The queue of changes.
#[derive(Debug, Default)]
pub struct Notifications {
    queue: Vec<Notify>,
    /// Somebody listens; otherwise changes are not kept.
    pub listening: bool,
    /// Something was lost.
    pub overrun: bool,
}

impl Notifications {
    /// Appends a change, if somebody listens.
    pub fn push(&mut self, n: Notify) {
        if !self.listening {
            return;
        }
        if self.queue.len() < LIMIT {
            self.queue.push(n);
        } else {
            self.overrun = true;
        }
    }
    /// Takes all.
    pub fn take(&mut self) -> Vec<Notify> {
        core::mem::take(&mut self.queue)
    }
    /// Nothing to take?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Namespace {
    /// Tells of a device as it is at this moment; `lower_up` when its carrier just came.
    pub(crate) fn notify_link(&mut self, dev: IfIndex, change: u32, lower_up: bool) {
        if !self.notify.listening {
            return;
        }
        let Some(d) = self.devs.get(dev) else { return };
        let peer = d.peer().filter(|p| p.0 == self.id && p.1 != dev).and_then(|p| self.devs.get(p.1));
        let (peer_carrier, dev) = (peer.map(|p| p.carrier), d.clone());
        self.notify.push(Notify::Link(Box::new(LinkThen {
            dev,
            gone: false,
            change,
            peer_carrier,
            lower_up,
            moved: None,
        })));
    }

    /// Tells of the tunables of a new device, or of one that goes (`inet_netconf_notify_devconf`).
    pub(crate) fn notify_netconf_dev(&mut self, dev: IfIndex, gone: bool) {
        for family in [Family::V4, Family::V6] {
            self.notify.push(Notify::NetConf(NetConf { family, row: Row::Dev(dev), what: None, gone }));
        }
    }

    /// Tells that a tunable changed.
    pub(crate) fn notify_netconf(&mut self, family: Family, row: Row, what: ConfChange) {
        self.notify.push(Notify::NetConf(NetConf { family, row, what: Some(what), gone: false }));
    }
}
