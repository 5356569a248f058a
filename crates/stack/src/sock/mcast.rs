//! Multicast membership of sockets and their filters by source (`ip_mc_join_group`, `ip_mc_source`, `ip_mc_msfilter`,
//! `ipv6_sock_mc_join`, `ip6_mc_source`, `ip6_mc_msfilter`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, Sysctl};

use super::{SockCommon, SockFlags, SockKey};
use crate::dev::mcast::McFilter;
use crate::fib::Flow;
use crate::ns::Namespace;

/// A group that a socket joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Group.
    pub group: IpAddr,
    /// On which device.
    pub dev: IfIndex,
    /// From which sources.
    pub filter: McFilter,
    /// Sources were named once: the mode of the filter is settled (`sflist`).
    settled: bool,
}

/// Which membership of a socket a call means.
#[derive(Clone, Copy, Debug)]
pub struct Which {
    /// Group.
    pub group: IpAddr,
    /// Device, if it was named by its index.
    pub dev: IfIndex,
    /// Device, if it was named by an address (`imr_interface`).
    pub addr: Ipv4Addr,
}

/// A change of one source (`IP_BLOCK_SOURCE` and the like).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceOp {
    /// `IP_ADD_SOURCE_MEMBERSHIP`, `MCAST_JOIN_SOURCE_GROUP`: joins when needed.
    Join,
    /// `IP_DROP_SOURCE_MEMBERSHIP`, `MCAST_LEAVE_SOURCE_GROUP`: leaves with the last source.
    Leave,
    /// `IP_BLOCK_SOURCE`, `MCAST_BLOCK_SOURCE`.
    Block,
    /// `IP_UNBLOCK_SOURCE`, `MCAST_UNBLOCK_SOURCE`.
    Unblock,
}

/// The device a membership without one is for: that of the address, or of the route to the group
/// (`ip_mc_find_dev`).
fn find_dev(ns: &Namespace, w: &Which) -> Option<IfIndex> {
    if !w.dev.is_none() {
        return ns.devs.get(w.dev).map(|d| d.index);
    }
    if !w.addr.is_unspecified() {
        let has = |d: &&crate::dev::Device| d.addrs.iter().any(|a| a.local == IpAddr::V4(w.addr));
        return ns.devs.iter().find(has).map(|d| d.index);
    }
    super::datagram::route_output(ns, &Flow::to(w.group)).ok().map(|(r, _)| r.dev)
}

/// Sources that one filter may name (`igmp_max_msf`, `mld_max_msf`).
#[must_use]
pub fn max_sources(ns: &Namespace, v6: bool) -> usize {
    let max = ns.env.sysctl.get(if v6 { Sysctl::Ip6MldMaxMsf } else { Sysctl::IgmpMaxMsf });
    usize::try_from(max).unwrap_or(0)
}

/// Joins a group (`IP_ADD_MEMBERSHIP`, `IPV6_ADD_MEMBERSHIP`).
///
/// # Errors
/// `EINVAL` for an address that is no group; `ENODEV`; `EADDRINUSE` when joined already; `ENOBUFS` beyond
/// `igmp_max_memberships`.
pub fn join(ns: &mut Namespace, key: SockKey, w: &Which) -> Result<(), Errno> {
    join_with(ns, key, w, McFilter::all())
}

/// `ip_mc_join_group_ssm`, `ipv6_sock_mc_join_ssm`.
fn join_with(ns: &mut Namespace, key: SockKey, w: &Which, filter: McFilter) -> Result<(), Errno> {
    if !w.group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let dev = find_dev(ns, w).ok_or(Errno::ENODEV)?;
    let limit = usize::try_from(ns.env.sysctl.get(Sysctl::IgmpMaxMemberships)).unwrap_or(0);
    let groups = &mut ns.socks.common_mut(key)?.rare().groups;
    if groups.iter().any(|m| m.group == w.group && m.dev == dev) {
        return Err(Errno::EADDRINUSE);
    }
    // Linux bounds IPv6 memberships by option memory only; a bound is a bound.
    if groups.len() >= if w.group.is_ipv4() { limit } else { 4096 } {
        return Err(Errno::ENOBUFS);
    }
    dev_change(ns, dev, w.group, None, Some(&filter));
    let groups = &mut ns.socks.common_mut(key)?.rare().groups;
    groups.push(Membership { group: w.group, dev, filter, settled: false });
    Ok(())
}

/// Leaves a group.
///
/// # Errors
/// `EADDRNOTAVAIL` when it was not joined there, `ENODEV` for an unknown device.
pub fn leave(ns: &mut Namespace, key: SockKey, w: &Which) -> Result<(), Errno> {
    let anywhere = w.dev.is_none() && w.addr.is_unspecified();
    let wanted = if anywhere { None } else { Some(find_dev(ns, w).ok_or(Errno::ENODEV)?) };
    let groups = &mut ns.socks.common_mut(key)?.rare().groups;
    let i = groups
        .iter()
        .position(|m| m.group == w.group && wanted.is_none_or(|d| d == m.dev))
        .ok_or(Errno::EADDRNOTAVAIL)?;
    let m = groups.remove(i);
    dev_change(ns, m.dev, m.group, Some(&m.filter), None);
    Ok(())
}

/// The membership that a call about sources means.
fn find(ns: &mut Namespace, key: SockKey, w: &Which) -> Result<usize, Errno> {
    if !w.group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let dev = find_dev(ns, w).ok_or(Errno::ENODEV)?;
    let groups = &ns.socks.common_mut(key)?.rare().groups;
    groups.iter().position(|m| m.group == w.group && m.dev == dev).ok_or(Errno::EINVAL)
}

/// Changes one source of a membership (`ip_mc_source`, `ip6_mc_source`).
///
/// # Errors
/// `EINVAL` when the group was not joined, or the filter is of the other mode; `EADDRNOTAVAIL` for a source that is there
/// already, or is not; `ENOBUFS` beyond `igmp_max_msf`; as [`join`].
pub fn source(
    ns: &mut Namespace,
    key: SockKey,
    w: &Which,
    source: IpAddr,
    op: SourceOp,
) -> Result<(), Errno> {
    if op == SourceOp::Join {
        // Joined already, perhaps with another source: that is fine.
        match join_with(ns, key, w, McFilter::default()) {
            Ok(()) | Err(Errno::EADDRINUSE) => {}
            Err(e) => return Err(e),
        }
    }
    let exclude = matches!(op, SourceOp::Block | SourceOp::Unblock);
    let add = matches!(op, SourceOp::Join | SourceOp::Block);
    let i = find(ns, key, w)?;
    let limit = max_sources(ns, w.group.is_ipv6());
    let m = ns.socks.common_mut(key)?.rare().groups.get(i).ok_or(Errno::EINVAL)?;
    if m.settled && m.filter.exclude != exclude {
        return Err(Errno::EINVAL);
    }
    // A filter that names nobody yet takes the mode of the call, even of one that fails.
    let mut filter = McFilter { exclude, sources: m.filter.sources.clone() };
    let at = filter.sources.iter().position(|s| *s == source);
    let result = match (add, at) {
        (true, None) if filter.sources.len() >= limit => Err(Errno::ENOBUFS),
        (true, None) => {
            filter.sources.push(source);
            Ok(())
        }
        (false, Some(_)) if filter.sources.len() == 1 && !exclude => return leave(ns, key, w),
        (false, Some(i)) => {
            filter.sources.remove(i);
            Ok(())
        }
        (true, Some(_)) | (false, None) => Err(Errno::EADDRNOTAVAIL),
    };
    let settled = m.settled || result.is_ok();
    replace(ns, key, i, filter, settled)?;
    result
}

/// Replaces the filter of a membership (`ip_mc_msfilter`, `ip6_mc_msfilter`).
///
/// # Errors
/// `EINVAL` when the group was not joined; as [`leave`] for a filter that lets nothing pass, which leaves the group.
pub fn set_filter(ns: &mut Namespace, key: SockKey, w: &Which, filter: McFilter) -> Result<(), Errno> {
    if filter == McFilter::default() {
        if !w.group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        find_dev(ns, w).ok_or(Errno::ENODEV)?;
        return leave(ns, key, w);
    }
    let i = find(ns, key, w)?;
    let settled = !filter.sources.is_empty();
    replace(ns, key, i, filter, settled)
}

/// The filter of a membership (`ip_mc_msfget`, `ip6_mc_msfget`).
///
/// # Errors
/// `EINVAL` for what is no group, `ENODEV`, `EADDRNOTAVAIL` when it was not joined.
pub fn filter(ns: &mut Namespace, key: SockKey, w: &Which) -> Result<McFilter, Errno> {
    if !w.group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let dev = find_dev(ns, w).ok_or(Errno::ENODEV)?;
    let groups = &ns.socks.common_mut(key)?.rare().groups;
    let m = groups.iter().find(|m| m.group == w.group && m.dev == dev).ok_or(Errno::EADDRNOTAVAIL)?;
    Ok(m.filter.clone())
}

fn replace(ns: &mut Namespace, key: SockKey, i: usize, new: McFilter, settled: bool) -> Result<(), Errno> {
    let m = ns.socks.common_mut(key)?.rare().groups.get_mut(i).ok_or(Errno::EINVAL)?;
    m.settled = settled;
    let old = core::mem::replace(&mut m.filter, new.clone());
    let (dev, group) = (m.dev, m.group);
    dev_change(ns, dev, group, Some(&old), Some(&new));
    Ok(())
}

/// The socket goes away with its memberships (`ip_mc_drop_socket`).
pub(super) fn drop_all(ns: &mut Namespace, key: SockKey) {
    let Ok(c) = ns.socks.common_mut(key) else { return };
    let Some(o) = c.opts.as_mut() else { return };
    for m in core::mem::take(&mut o.groups) {
        dev_change(ns, m.dev, m.group, Some(&m.filter), None);
    }
}

/// The device's own list counts users and reports to routers.
fn dev_change(
    ns: &mut Namespace,
    dev: IfIndex,
    group: IpAddr,
    old: Option<&McFilter>,
    new: Option<&McFilter>,
) {
    // Cached input routes depend on membership.
    ns.devs.generation += 1;
    match group {
        IpAddr::V4(g) => crate::ipv4::igmp::ip_mc_set_filter(ns, dev, g, old, new),
        IpAddr::V6(g) => crate::ipv6::mcast::ip6_mc_set_filter(ns, dev, g, old, new),
    }
}

/// Does a socket take a group packet of `source` that came in on `dev` (`ip_mc_sf_allow`, `inet6_mc_check`)? A socket that did
/// not join takes it only with `IP_MULTICAST_ALL`.
#[must_use]
pub(crate) fn allows(c: &SockCommon, group: IpAddr, source: IpAddr, dev: IfIndex) -> bool {
    if !group.is_multicast() {
        return true;
    }
    let joined = c.opts.as_ref().and_then(|o| o.groups.iter().find(|m| m.group == group && m.dev == dev));
    match joined {
        Some(m) => m.filter.allows(source),
        None => c.flags.contains(if group.is_ipv4() { SockFlags::MC_ALL } else { SockFlags::MC6_ALL }),
    }
}
