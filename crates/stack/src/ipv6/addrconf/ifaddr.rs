//! Addresses of devices and the routes and groups that follow them (`net/ipv6/addrconf.c`).

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use ferronet_core::sysctl::Conf6;
use ferronet_core::{Errno, IfIndex, Instant};
use ferronet_wire::ipv6::solicited_node;

use super::super::addr::{SCOPE_LINKLOCAL, SCOPE_SITELOCAL, addr_scope};
use super::super::mcast::{ipv6_dev_mc_dec, ipv6_dev_mc_inc};
use super::{add_mroute, conf, dad, rearm};
use crate::dev::addr_ops::MAX_ADDRS;
use crate::dev::{IfAddr, ifa_f, iff, scope};
use crate::fib::{Family, FibEntry, How, Metrics, NextHop, RouteType, prefix, proto, table_id};
use crate::notify::Notify;
use crate::ns::Namespace;

/// Metric of prefix routes (`IP6_RT_PRIO_ADDRCONF`).
pub const IP6_RT_PRIO_ADDRCONF: u32 = 256;
/// `RTNH_F_LINKDOWN`.
const RTNH_F_LINKDOWN: u8 = 16;

/// A route that the kernel makes by itself.
#[derive(Clone, Copy, Debug)]
pub struct Magic {
    /// Type.
    pub kind: RouteType,
    /// Table.
    pub table: u32,
    /// Destination; host bits are cleared.
    pub dst: Ipv6Addr,
    /// Length of the prefix.
    pub len: u8,
    /// Metric.
    pub metric: u32,
    /// When it ends.
    pub expires: Option<Instant>,
}

fn same_way(e: &FibEntry, dev: IfIndex, m: &Magic) -> bool {
    e.kind == m.kind
        && e.priority == m.metric
        && e.protocol == proto::KERNEL
        && e.nexthops.iter().any(|n| n.dev == dev && n.gw.is_none())
}

/// Adds such a route unless it is there; then only its end changes.
pub fn add_route(ns: &mut Namespace, dev: IfIndex, m: Magic) {
    let Some(d) = ns.devs.get(dev).filter(|d| d.is_up()) else { return };
    // Routes to ourselves work without carrier (fib6_nh_init).
    let own = matches!(m.kind, RouteType::Local | RouteType::Anycast);
    let flags = if own || d.carrier { 0 } else { RTNH_F_LINKDOWN };
    let e = FibEntry {
        dst: prefix(IpAddr::V6(m.dst), m.len),
        dst_len: m.len,
        tos: 0,
        table: m.table,
        priority: m.metric,
        protocol: proto::KERNEL,
        scope: scope::UNIVERSE,
        kind: m.kind,
        prefsrc: None,
        nexthops: smallvec::smallvec![NextHop { gw: None, dev, weight: 0, flags, realm: 0 }],
        metrics: Metrics::default(),
        pref: 0,
        expires: m.expires,
    };
    let t = ns.fib.table(Family::V6, m.table);
    if t.is_some_and(|t| t.routes(e.dst, e.dst_len).iter().any(|o| same_way(o, dev, &m))) {
        set_expires(ns, dev, &m);
        return;
    }
    let how = How { create: true, excl: false, replace: false, append: true };
    if ns.fib.insert(&mut ns.notify, e, how).is_ok() {
        super::super::route::fib6_arm_gc(ns, m.expires);
    }
}

fn set_expires(ns: &mut Namespace, dev: IfIndex, m: &Magic) {
    let dst = prefix(IpAddr::V6(m.dst), m.len);
    ns.fib.change((m.table, dst, m.len), |e| {
        let same = same_way(e, dev, m);
        if same {
            e.expires = m.expires;
        }
        same
    });
    super::super::route::fib6_arm_gc(ns, m.expires);
}

/// Removes such a route.
pub fn del_route(ns: &mut Namespace, dev: IfIndex, m: &Magic) {
    let dst = prefix(IpAddr::V6(m.dst), m.len);
    let _ = ns.fib.remove(&mut ns.notify, (m.table, dst, m.len), |o| same_way(o, dev, m));
}

/// The route of an address's prefix.
fn prefix_magic(a: &IfAddr, v: Ipv6Addr) -> Magic {
    let metric = if a.metric == 0 { IP6_RT_PRIO_ADDRCONF } else { a.metric };
    let expires = (a.valid_lft != u32::MAX).then(|| a.updated + Duration::from_secs(u64::from(a.valid_lft)));
    Magic { kind: RouteType::Unicast, table: table_id::MAIN, dst: v, len: a.prefix_len, metric, expires }
}

fn local_magic(v: Ipv6Addr) -> Magic {
    Magic { kind: RouteType::Local, table: table_id::LOCAL, dst: v, len: 128, metric: 0, expires: None }
}

/// `addrconf_prefix_route` for an address that wants one.
pub(super) fn add_prefix_route(ns: &mut Namespace, dev: IfIndex, a: &IfAddr) {
    let IpAddr::V6(v) = a.local else { return };
    if a.flags & ifa_f::NOPREFIXROUTE == 0 {
        add_route(ns, dev, prefix_magic(a, v));
    }
}

/// The entry of an address.
pub(super) fn get_mut(ns: &mut Namespace, dev: IfIndex, a: Ipv6Addr) -> Option<&mut IfAddr> {
    ns.devs.get_mut(dev)?.addrs.iter_mut().find(|i| i.local == IpAddr::V6(a))
}

/// Route scope of an address (`rt_scope(ifa->scope)`).
fn rt_scope(a: Ipv6Addr) -> u8 {
    match addr_scope(a) {
        _ if a.is_loopback() => scope::HOST,
        SCOPE_LINKLOCAL => scope::LINK,
        SCOPE_SITELOCAL => scope::SITE,
        _ => scope::UNIVERSE,
    }
}

/// Puts an address on a device, tentative unless NODAD says otherwise; no routes yet (`ipv6_add_addr`).
///
/// # Errors
/// `ENODEV`; `EADDRNOTAVAIL` for an address that no device can have; `EACCES` with IPv6 disabled, `EINVAL` with an MTU below 1280; `EEXIST`.
pub(super) fn ipv6_add_addr(ns: &mut Namespace, dev: IfIndex, mut a: IfAddr) -> Result<(), Errno> {
    let now = ns.env.now;
    let d = ns.devs.get_mut(dev).ok_or(Errno::ENODEV)?;
    let IpAddr::V6(v) = a.local else { return Err(Errno::EINVAL) };
    let loopback = d.flags & iff::LOOPBACK != 0;
    if v.is_unspecified() || v.is_multicast() || (v.is_loopback() && !loopback) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    // ipv6_find_idev: no IPv6 on a link that cannot carry its least packet.
    if d.mtu < super::IPV6_MIN_MTU {
        return Err(Errno::EINVAL);
    }
    if d.conf6.get(Conf6::DisableIpv6) != 0 {
        return Err(Errno::EACCES);
    }
    if d.addrs.iter().any(|o| o.local == a.local) {
        return Err(Errno::EEXIST);
    }
    if d.addrs.len() >= MAX_ADDRS {
        return Err(Errno::ENOBUFS);
    }
    if a.flags & ifa_f::NODAD == 0 {
        a.flags |= ifa_f::TENTATIVE;
    }
    a.scope = rt_scope(v);
    a.created = now;
    a.updated = now;
    // Larger scopes first, the newest first within one (ipv6_link_dev_addr); IPv4 before IPv6.
    let rank = |x: &IfAddr| match x.local {
        IpAddr::V4(_) => u8::MAX,
        IpAddr::V6(x) => addr_scope(x),
    };
    let at = d.addrs.partition_point(|x| rank(x) > addr_scope(v));
    d.addrs.insert(at, a);
    ns.devs.generation += 1;
    Ok(())
}

/// Adds an address as a program asks for it (`inet6_addr_add`), with its routes and the detection of duplicates.
/// `valid_lft` and `preferred_lft` count from now.
///
/// # Errors
/// `ENODEV`; `EINVAL` for a bad prefix length or lifetimes; `EACCES`, `EADDRNOTAVAIL`, `EEXIST` as the kernel.
pub fn inet6_addr_add(ns: &mut Namespace, dev: IfIndex, mut a: IfAddr) -> Result<(), Errno> {
    let IpAddr::V6(v) = a.local else { return Err(Errno::EINVAL) };
    if a.prefix_len > 128 || a.valid_lft == 0 || a.preferred_lft > a.valid_lft {
        return Err(Errno::EINVAL);
    }
    if a.flags & ifa_f::MANAGETEMPADDR != 0 && a.prefix_len != 64 {
        return Err(Errno::EINVAL);
    }
    let d = ns.devs.get(dev).ok_or(Errno::ENODEV)?;
    let loopback = d.is_loopback();
    set_lifetime_flags(&mut a);
    ipv6_add_addr(ns, dev, a)?;
    if !loopback {
        add_mroute(ns, dev);
    }
    let Some(i) = super::super::addr::find_addr(ns, dev, v).cloned() else { return Ok(()) };
    add_prefix_route(ns, dev, &i);
    if i.flags & ifa_f::OPTIMISTIC == 0 {
        ns.notify.push(Notify::AddrNew(dev, i.local, i.prefix_len));
    }
    if ns.devs.get(dev).is_some_and(crate::dev::Device::is_up) {
        dad::dad_start(ns, dev, v);
    }
    rearm(ns, dev);
    Ok(())
}

fn set_lifetime_flags(a: &mut IfAddr) {
    a.flags &= !(ifa_f::PERMANENT | ifa_f::DEPRECATED);
    if a.valid_lft == u32::MAX {
        a.flags |= ifa_f::PERMANENT;
    }
    if a.preferred_lft == 0 {
        a.flags |= ifa_f::DEPRECATED;
    }
}

/// Changes flags, lifetimes and metric of an address that exists (`inet6_addr_modify`, `ip addr change|replace`).
///
/// # Errors
/// `EADDRNOTAVAIL` when there is none, `EINVAL` for bad lifetimes.
pub fn inet6_addr_modify(ns: &mut Namespace, dev: IfIndex, new: &IfAddr) -> Result<(), Errno> {
    let IpAddr::V6(v) = new.local else { return Err(Errno::EINVAL) };
    if new.valid_lft == 0 || new.preferred_lft > new.valid_lft {
        return Err(Errno::EINVAL);
    }
    let now = ns.env.now;
    let old = get_mut(ns, dev, v).ok_or(Errno::EADDRNOTAVAIL)?.clone();
    let mut a = old.clone();
    let settable = ifa_f::NODAD | ifa_f::HOMEADDRESS | ifa_f::MANAGETEMPADDR | ifa_f::NOPREFIXROUTE;
    a.flags = (old.flags & !settable) | (new.flags & settable);
    (a.valid_lft, a.preferred_lft, a.updated, a.proto) = (new.valid_lft, new.preferred_lft, now, new.proto);
    if new.metric != 0 {
        a.metric = new.metric;
    }
    if new.peer != new.local {
        a.peer = new.peer;
    }
    set_lifetime_flags(&mut a);
    if let Some(i) = get_mut(ns, dev, v) {
        *i = a.clone();
    }
    if old.flags & ifa_f::NOPREFIXROUTE == 0
        && (a.flags & ifa_f::NOPREFIXROUTE != 0 || prefix_magic(&old, v).metric != prefix_magic(&a, v).metric)
    {
        cleanup_prefix_route(ns, dev, &old, v);
    }
    add_prefix_route(ns, dev, &a);
    if a.flags & ifa_f::TENTATIVE == 0 {
        ns.notify.push(Notify::AddrNew(dev, a.local, a.prefix_len));
    }
    ns.devs.generation += 1;
    rearm(ns, dev);
    Ok(())
}

/// Removes an IPv6 address (`inet6_addr_del`).
///
/// # Errors
/// `ENODEV`; `EADDRNOTAVAIL` when there is none with this prefix length.
pub fn inet6_addr_del(ns: &mut Namespace, dev: IfIndex, a: IpAddr, len: Option<u8>) -> Result<(), Errno> {
    let IpAddr::V6(v) = a else { return Err(Errno::EADDRNOTAVAIL) };
    ns.devs.get(dev).ok_or(Errno::ENODEV)?;
    ipv6_del_addr(ns, dev, v, len)?;
    rearm(ns, dev);
    Ok(())
}

/// Takes an address away with its routes and groups (`ipv6_del_addr`).
pub(super) fn ipv6_del_addr(
    ns: &mut Namespace,
    dev: IfIndex,
    v: Ipv6Addr,
    len: Option<u8>,
) -> Result<(), Errno> {
    let d = ns.devs.get_mut(dev).ok_or(Errno::ENODEV)?;
    let i = d
        .addrs
        .iter()
        .position(|a| a.local == IpAddr::V6(v) && len.is_none_or(|n| n == a.prefix_len))
        .ok_or(Errno::EADDRNOTAVAIL)?;
    let a = d.addrs.remove(i);
    d.inet6.dad.retain(|p| p.addr != v);
    ns.devs.generation += 1;
    if a.flags & ifa_f::PERMANENT != 0 && a.flags & ifa_f::NOPREFIXROUTE == 0 {
        cleanup_prefix_route(ns, dev, &a, v);
    }
    ns.notify.push(Notify::AddrDel(dev, Box::new(a.clone())));
    if conf(ns, dev, Conf6::Forwarding) != 0 {
        leave_anycast(ns, dev, &a);
    }
    leave_groups(ns, dev, v);
    if let (IpAddr::V6(peer), true) = (a.peer, a.peer != a.local) {
        let m = Magic { len: 128, ..prefix_magic(&a, peer) };
        del_route(ns, dev, &m);
    }
    del_route(ns, dev, &local_magic(v));
    // Routes that preferred the address as source choose another (rt6_remove_prefsrc).
    let gone = IpAddr::V6(v);
    if ns.fib.prefers_source(gone) && !ns.devs.iter().any(|d| d.addrs.iter().any(|a| a.local == gone)) {
        ns.fib.source_gone(&mut ns.notify, gone);
    }
    Ok(())
}

/// The prefix route stays when another address of the device has the same prefix (`check_cleanup_prefix_route`).
fn cleanup_prefix_route(ns: &mut Namespace, dev: IfIndex, a: &IfAddr, v: Ipv6Addr) {
    let m = prefix_magic(a, v);
    let net = prefix(IpAddr::V6(v), a.prefix_len);
    let shared = ns.devs.get(dev).is_some_and(|d| {
        d.addrs.iter().any(|o| {
            o.local != a.local
                && o.prefix_len == a.prefix_len
                && o.flags & ifa_f::NOPREFIXROUTE == 0
                && o.flags & ifa_f::PERMANENT != 0
                && o.local.is_ipv6()
                && prefix(o.local, o.prefix_len) == net
                && prefix_magic(o, v).metric == m.metric
        })
    });
    if !shared {
        del_route(ns, dev, &m);
    }
}

/// The address is ours for good: its local route, that of its peer, and the anycast address of its subnet
/// (`__ipv6_ifa_notify`, RTM_NEWADDR).
pub(super) fn ifa_notify_new(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr) {
    let Some(a) = super::super::addr::find_addr(ns, dev, v).cloned() else { return };
    add_route(ns, dev, local_magic(v));
    if conf(ns, dev, Conf6::Forwarding) != 0 {
        join_anycast(ns, dev, &a);
    }
    if let (IpAddr::V6(peer), true) = (a.peer, a.peer != a.local) {
        add_route(ns, dev, Magic { len: 128, expires: None, ..prefix_magic(&a, peer) });
    }
    ns.devs.generation += 1;
    ns.notify.push(Notify::AddrNew(dev, a.local, a.prefix_len));
}

/// Joins the group on which others ask for the address (`addrconf_join_solict`).
pub(super) fn join_solict(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr) {
    let Some(d) = ns.devs.get_mut(dev).filter(|d| d.flags & (iff::LOOPBACK | iff::NOARP) == 0) else {
        return;
    };
    d.inet6.solicited.push(v);
    ipv6_dev_mc_inc(ns, dev, solicited_node(&v));
}

/// Leaves it, once for each time it was joined for this address.
pub(super) fn leave_groups(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let Some(i) = d.inet6.solicited.iter().position(|a| *a == v) else { return };
    d.inet6.solicited.swap_remove(i);
    ipv6_dev_mc_dec(ns, dev, solicited_node(&v));
}

/// The subnet-router anycast address (RFC 4291 §2.6.1); none for /127 (RFC 6164).
fn subnet_router(a: &IfAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(net) = prefix(a.local, a.prefix_len) else { return None };
    (a.prefix_len < 127 && !net.is_unspecified()).then_some(net)
}

fn anycast_magic(v: Ipv6Addr) -> Magic {
    Magic { kind: RouteType::Anycast, ..local_magic(v) }
}

/// `addrconf_join_anycast`.
pub(super) fn join_anycast(ns: &mut Namespace, dev: IfIndex, a: &IfAddr) {
    let (Some(v), Some(d)) = (subnet_router(a), ns.devs.get_mut(dev)) else { return };
    if d.is_loopback() {
        return;
    }
    if let Some(u) = d.inet6.anycast.iter_mut().find(|u| u.0 == v) {
        u.1 += 1;
        return;
    }
    d.inet6.anycast.insert(0, (v, 1));
    add_route(ns, dev, anycast_magic(v));
    join_solict(ns, dev, v);
}

/// `addrconf_leave_anycast`.
pub(super) fn leave_anycast(ns: &mut Namespace, dev: IfIndex, a: &IfAddr) {
    let (Some(v), Some(d)) = (subnet_router(a), ns.devs.get_mut(dev)) else { return };
    let Some(i) = d.inet6.anycast.iter().position(|u| u.0 == v) else { return };
    d.inet6.anycast[i].1 -= 1;
    if d.inet6.anycast[i].1 > 0 {
        return;
    }
    d.inet6.anycast.remove(i);
    leave_groups(ns, dev, v);
    del_route(ns, dev, &anycast_magic(v));
}
