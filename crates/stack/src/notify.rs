//! What changed, for the netlink groups. The `linux` crate drains these and renders messages.

use core::net::IpAddr;

use ferronet_core::IfIndex;

use crate::fib::FibEntry;
use crate::neigh::NeighKey;

/// A change of a namespace's objects.
#[derive(Clone, Debug)]
pub enum Notify {
    /// RTM_NEWLINK: a device appeared or changed (`change` is `ifi_change`).
    LinkNew(IfIndex, u32),
    /// RTM_DELLINK: a device went away; its last name and flags.
    LinkDel(IfIndex, String, u32),
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
