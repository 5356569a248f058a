//! rtnetlink: links, addresses, routes, neighbours, rules (`net/core/rtnetlink.c`, rtnetlink(7)).

pub(super) mod addr;
mod addr_set;
mod addrlabel;
pub(super) mod link;
mod link_af;
mod link_set;
pub(super) mod neigh;
pub(super) mod netconf;
mod ntable;
pub(super) mod rt;
mod rt_get;
mod rt_set;
pub(super) mod rule;

use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;

use super::codec::nlm_f;
use super::{Req, nsid};

/// Message types (rtnetlink(7)).
#[allow(missing_docs, reason = "rtnetlink(7)")]
pub(super) mod rtm {
    pub(crate) const NEWLINK: u16 = 16;
    pub(crate) const DELLINK: u16 = 17;
    pub(crate) const GETLINK: u16 = 18;
    pub(crate) const SETLINK: u16 = 19;
    pub(crate) const NEWADDR: u16 = 20;
    pub(crate) const DELADDR: u16 = 21;
    pub(crate) const GETADDR: u16 = 22;
    pub(crate) const NEWROUTE: u16 = 24;
    pub(crate) const DELROUTE: u16 = 25;
    pub(crate) const GETROUTE: u16 = 26;
    pub(crate) const NEWNEIGH: u16 = 28;
    pub(crate) const DELNEIGH: u16 = 29;
    pub(crate) const GETNEIGH: u16 = 30;
    pub(crate) const NEWRULE: u16 = 32;
    pub(crate) const DELRULE: u16 = 33;
    pub(crate) const GETRULE: u16 = 34;
    pub(crate) const NEWNEIGHTBL: u16 = 64;
    pub(crate) const GETNEIGHTBL: u16 = 66;
    pub(crate) const SETNEIGHTBL: u16 = 67;
    pub(crate) const NEWADDRLABEL: u16 = 72;
    pub(crate) const DELADDRLABEL: u16 = 73;
    pub(crate) const GETADDRLABEL: u16 = 74;
    pub(crate) const NEWNETCONF: u16 = 80;
    pub(crate) const DELNETCONF: u16 = 81;
    pub(crate) const GETNETCONF: u16 = 82;
    pub(crate) const NEWNSID: u16 = 88;
    pub(crate) const DELNSID: u16 = 89;
    pub(crate) const GETNSID: u16 = 90;
    pub(crate) const NEWLINKPROP: u16 = 108;
    pub(crate) const DELLINKPROP: u16 = 109;
    /// `RTM_MAX` of Linux 6.18.
    pub(crate) const MAX: u16 = 123;
}

/// Address families in messages.
pub(super) mod pf {
    pub(crate) const UNSPEC: u8 = 0;
    pub(crate) const INET: u8 = 2;
    pub(crate) const BRIDGE: u8 = 7;
    pub(crate) const INET6: u8 = 10;
}

/// The routing family of a protocol family.
pub(super) fn family(pf: u8) -> Option<Family> {
    match pf {
        pf::INET => Some(Family::V4),
        pf::INET6 => Some(Family::V6),
        _ => None,
    }
}

/// The protocol family of a routing family.
pub(super) fn pf_of(f: Family) -> u8 {
    match f {
        Family::V4 => pf::INET,
        Family::V6 => pf::INET6,
    }
}

/// `rtnetlink_rcv_msg`.
pub(super) fn rcv_msg(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    if r.hdr.ty > rtm::MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    let Some(&pf) = r.body().first() else { return Ok(()) };
    let get = r.hdr.ty & 3 == 2;
    if !get && !r.caller.capable(crate::Caps::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    if get && r.hdr.flags & nlm_f::DUMP != 0 {
        return match r.hdr.ty {
            rtm::GETLINK => link::dump(r, pf),
            rtm::GETADDR => addr::dump(r, pf),
            rtm::GETROUTE => rt::dump(r, pf),
            rtm::GETNEIGH => neigh::dump(r, pf),
            rtm::GETRULE => rule::dump(r, pf),
            rtm::GETNEIGHTBL => ntable::dump(r, pf),
            rtm::GETADDRLABEL => addrlabel::dump(r, pf),
            rtm::GETNETCONF => netconf::dump(r, pf),
            rtm::GETNSID => nsid::dump_nsid(r),
            _ => Err(Errno::EOPNOTSUPP),
        };
    }
    match (r.hdr.ty, family(pf)) {
        (rtm::GETLINK, _) => link::get(r),
        (rtm::NEWLINK, _) => link_set::newlink(r),
        (rtm::SETLINK, _) => link_set::setlink(r),
        (rtm::DELLINK, _) => link_set::dellink(r),
        (rtm::NEWLINKPROP | rtm::DELLINKPROP, _) => link_set::linkprop(r),
        (rtm::NEWADDR, Some(f)) => addr_set::newaddr(r, f),
        (rtm::DELADDR, Some(f)) => addr_set::deladdr(r, f),
        (rtm::GETADDR, Some(Family::V6)) => addr::get6(r),
        (rtm::NEWROUTE, Some(f)) => rt_set::newroute(r, f),
        (rtm::DELROUTE, Some(f)) => rt_set::delroute(r, f),
        (rtm::GETROUTE, Some(f)) => rt_get::getroute(r, f),
        (rtm::NEWNEIGH, _) => neigh::newneigh(r, pf),
        (rtm::DELNEIGH, _) => neigh::delneigh(r, pf),
        (rtm::GETNEIGH, _) => neigh::getneigh(r, pf),
        (rtm::NEWRULE, _) => rule::newrule(r, pf),
        (rtm::DELRULE, _) => rule::delrule(r, pf),
        (rtm::SETNEIGHTBL, _) => ntable::set(r, pf),
        (rtm::NEWADDRLABEL, Some(Family::V6)) => addrlabel::newdel(r, true),
        (rtm::DELADDRLABEL, Some(Family::V6)) => addrlabel::newdel(r, false),
        (rtm::GETADDRLABEL, Some(Family::V6)) => addrlabel::get(r),
        (rtm::GETNETCONF, Some(f)) => netconf::get(r, f),
        (rtm::NEWNSID, _) => nsid::new_nsid(r),
        (rtm::GETNSID, _) => nsid::get_nsid(r),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

impl Req<'_, '_> {
    /// The namespace of the socket.
    pub(super) fn net(&self) -> Result<&Namespace, Errno> {
        self.kernel.world.ns(self.ns).ok_or(Errno::ENODEV)
    }
    /// Likewise, to change.
    pub(super) fn net_mut(&mut self) -> Result<&mut Namespace, Errno> {
        self.kernel.world.ns_mut(self.ns).ok_or(Errno::ENODEV)
    }
}

/// A device index from the wire; `None` for 0 and negative numbers.
pub(super) fn ifindex(i: i32) -> Option<IfIndex> {
    u32::try_from(i).ok().filter(|i| *i != 0).map(IfIndex)
}

/// Hundredths of a second since the start, as `cstamp` and `tstamp` count.
pub(super) fn hundredths(t: ferronet_core::Instant) -> u32 {
    (t.millis() / 10) as u32
}

/// What consistency checks of a dump compare.
pub(super) fn generation(k: &crate::Kernel, ns: NsId) -> u64 {
    k.world.ns(ns).map_or(1, |n| n.devs.generation().wrapping_add(n.fib.generation << 20))
}
