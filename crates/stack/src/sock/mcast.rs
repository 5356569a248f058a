//! Multicast membership of sockets (`ip_mc_join_group`, `ipv6_sock_mc_join`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, Sysctl};

use super::{SockCommon, SockFlags, SockKey};
use crate::fib::Flow;
use crate::ns::Namespace;

/// A group that a socket joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Group.
    pub group: IpAddr,
    /// On which device.
    pub dev: IfIndex,
}

/// The device a membership without one is for: that of the address, or of the route to the group
/// (`ip_mc_find_dev`).
fn find_dev(ns: &Namespace, group: IpAddr, dev: IfIndex, addr: Ipv4Addr) -> Option<IfIndex> {
    if !dev.is_none() {
        return ns.devs.get(dev).map(|d| d.index);
    }
    if !addr.is_unspecified() {
        return ns.devs.iter().find(|d| d.addrs.iter().any(|a| a.local == IpAddr::V4(addr))).map(|d| d.index);
    }
    super::datagram::route_output(ns, &Flow::to(group)).ok().map(|(r, _)| r.dev)
}

/// Joins a group (`IP_ADD_MEMBERSHIP`, `IPV6_ADD_MEMBERSHIP`).
///
/// # Errors
/// `EINVAL` for an address that is no group; `ENODEV`; `EADDRINUSE` when joined already; `ENOBUFS` beyond
/// `igmp_max_memberships`.
pub fn join(
    ns: &mut Namespace,
    key: SockKey,
    group: IpAddr,
    dev: IfIndex,
    addr: Ipv4Addr,
) -> Result<(), Errno> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let dev = find_dev(ns, group, dev, addr).ok_or(Errno::ENODEV)?;
    let limit = usize::try_from(ns.env.sysctl.get(Sysctl::IgmpMaxMemberships)).unwrap_or(0);
    let groups = &mut ns.socks.common_mut(key)?.rare().groups;
    let m = Membership { group, dev };
    if groups.contains(&m) {
        return Err(Errno::EADDRINUSE);
    }
    // Linux bounds IPv6 memberships by option memory only; a bound is a bound.
    if groups.len() >= if group.is_ipv4() { limit } else { 4096 } {
        return Err(Errno::ENOBUFS);
    }
    groups.push(m);
    dev_join(ns, dev, group);
    Ok(())
}

/// Leaves a group.
///
/// # Errors
/// `EADDRNOTAVAIL` when it was not joined there, `ENODEV` for an unknown device.
pub fn leave(
    ns: &mut Namespace,
    key: SockKey,
    group: IpAddr,
    dev: IfIndex,
    addr: Ipv4Addr,
) -> Result<(), Errno> {
    let wanted = if dev.is_none() && addr.is_unspecified() { None } else { find_dev(ns, group, dev, addr) };
    if wanted.is_none() && !(dev.is_none() && addr.is_unspecified()) {
        return Err(Errno::ENODEV);
    }
    let groups = &mut ns.socks.common_mut(key)?.rare().groups;
    let i = groups
        .iter()
        .position(|m| m.group == group && wanted.is_none_or(|d| d == m.dev))
        .ok_or(Errno::EADDRNOTAVAIL)?;
    let m = groups.remove(i);
    dev_leave(ns, m.dev, m.group);
    Ok(())
}

/// The socket goes away with its memberships (`ip_mc_drop_socket`).
pub(super) fn drop_all(ns: &mut Namespace, key: SockKey) {
    let Ok(c) = ns.socks.common_mut(key) else { return };
    let Some(o) = c.opts.as_mut() else { return };
    for m in core::mem::take(&mut o.groups) {
        dev_leave(ns, m.dev, m.group);
    }
}

/// The device's own list counts users and reports to routers.
fn dev_join(ns: &mut Namespace, dev: IfIndex, group: IpAddr) {
    // Cached input routes depend on membership.
    ns.devs.generation += 1;
    match group {
        IpAddr::V4(g) => crate::ipv4::igmp::ip_mc_inc_group(ns, dev, g),
        IpAddr::V6(g) => crate::ipv6::mcast::ipv6_dev_mc_inc(ns, dev, g),
    }
}

fn dev_leave(ns: &mut Namespace, dev: IfIndex, group: IpAddr) {
    // Cached input routes depend on membership.
    ns.devs.generation += 1;
    match group {
        IpAddr::V4(g) => crate::ipv4::igmp::ip_mc_dec_group(ns, dev, g),
        IpAddr::V6(g) => crate::ipv6::mcast::ipv6_dev_mc_dec(ns, dev, g),
    }
}

/// Does a socket take a group packet that came in on `dev` (`ip_mc_sf_allow`, `inet6_mc_check`)? A socket that did
/// not join takes it only with `IP_MULTICAST_ALL`.
#[must_use]
pub(crate) fn allows(c: &SockCommon, group: IpAddr, dev: IfIndex) -> bool {
    if !group.is_multicast() {
        return true;
    }
    let joined = c.opts.as_ref().is_some_and(|o| o.groups.iter().any(|m| m.group == group && m.dev == dev));
    joined || c.flags.contains(if group.is_ipv4() { SockFlags::MC_ALL } else { SockFlags::MC6_ALL })
}
