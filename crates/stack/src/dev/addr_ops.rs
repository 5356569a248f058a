//! IPv4 addresses of devices and the routes that follow them (`net/ipv4/devinet.c`, `fib_frontend.c`), and
//! what happens when a device goes up or down.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use ferronet_core::{Errno, IfIndex};

use super::{IfAddr, ifa_f, iff, scope};
use crate::fib::{Family, FibEntry, How, Metrics, NextHop, RouteType, prefix, proto, table_id};
use crate::notify::Notify;
use crate::ns::Namespace;

/// IPv4 and IPv6 addresses per device at most.
pub const MAX_ADDRS: usize = 65_536;

/// Adds an IPv4 address (`__inet_insert_ifa`), with its local, broadcast and prefix routes.
///
/// # Errors
/// `ENODEV`; `EEXIST` for the same address and prefix; `EINVAL` for a bad prefix length, or a scope other than that of
/// the subnet's first address.
pub fn inet_insert_ifa(ns: &mut Namespace, dev: IfIndex, mut a: IfAddr) -> Result<(), Errno> {
    let now = ns.env.now;
    let d = ns.devs.get_mut(dev).ok_or(Errno::ENODEV)?;
    let (IpAddr::V4(local), IpAddr::V4(_)) = (a.local, a.peer) else { return Err(Errno::EINVAL) };
    if a.prefix_len > 32 || d.addrs.len() >= MAX_ADDRS {
        return Err(Errno::EINVAL);
    }
    a.flags &= !ifa_f::SECONDARY;
    for o in d.addrs.iter().filter(|o| matches!(o.local, IpAddr::V4(_))) {
        if o.prefix_len == a.prefix_len && o.contains(a.peer) {
            if o.local == a.local {
                return Err(Errno::EEXIST);
            }
            if o.scope != a.scope {
                return Err(Errno::EINVAL);
            }
            a.flags |= ifa_f::SECONDARY;
        }
    }
    if a.label.is_empty() {
        a.label.clone_from(&d.name);
    }
    a.created = now;
    a.updated = now;
    // ipv4_devconf_setall: a device with an address does not follow `default` any more (lo's own is exempt).
    if !d.is_loopback() {
        d.conf4_set = u64::MAX;
        d.neigh4_set = u32::MAX;
    }
    let at = place(&d.addrs, &a);
    d.addrs.insert(at, a.clone());
    ns.devs.generation += 1;
    ns.notify.push(Notify::AddrNew(dev, IpAddr::V4(local), a.prefix_len));
    fib_add_ifaddr(ns, dev, &a);
    Ok(())
}

/// Where a new IPv4 address goes (`__inet_insert_ifa`): a primary behind the last primary of its scope or a wider one, a
/// secondary at the end; IPv6 comes after IPv4.
fn place(addrs: &[IfAddr], a: &IfAddr) -> usize {
    let v4 = addrs.partition_point(|x| matches!(x.local, IpAddr::V4(_)));
    if a.flags & ifa_f::SECONDARY != 0 {
        return v4;
    }
    let before = |x: &IfAddr| x.flags & ifa_f::SECONDARY == 0 && a.scope <= x.scope;
    addrs[..v4].iter().rposition(before).map_or(0, |i| i + 1)
}

/// Removes an IPv4 address (`inet_del_ifa`). Secondaries of a removed primary go too, or the first is
/// promoted when `promote_secondaries` is set.
///
/// # Errors
/// `ENODEV`; `EADDRNOTAVAIL` when there is none.
pub fn inet_del_ifa(
    ns: &mut Namespace,
    dev: IfIndex,
    local: IpAddr,
    prefix_len: Option<u8>,
) -> Result<(), Errno> {
    use ferronet_core::sysctl::Conf4;
    let d = ns.devs.get_mut(dev).ok_or(Errno::ENODEV)?;
    let i = d
        .addrs
        .iter()
        .position(|a| a.local == local && prefix_len.is_none_or(|n| n == a.prefix_len))
        .ok_or(Errno::EADDRNOTAVAIL)?;
    let gone = d.addrs.remove(i);
    let own = d.conf4.get(Conf4::PromoteSecondaries) != 0;
    let promote = own || ns.conf.all4.get(Conf4::PromoteSecondaries) != 0;
    let mut removed = vec![gone.clone()];
    if gone.flags & ifa_f::SECONDARY == 0 {
        let same = |a: &IfAddr| secondary_of(a, &gone);
        if promote && d.addrs.iter().any(same) {
            promote_secondary(ns, dev, gone);
            return Ok(());
        }
        let (out, keep) = core::mem::take(&mut d.addrs).into_iter().partition(same);
        d.addrs = keep;
        let out: Vec<IfAddr> = out;
        removed.extend(out);
    }
    ns.devs.generation += 1;
    // Secondaries first, the primary last, as the kernel reports them.
    removed.reverse();
    let wanted = Wanted::by_others(ns, dev, &removed);
    for a in removed {
        ns.notify.push(Notify::AddrDel(dev, Box::new(a.clone())));
        fib_del_ifaddr(ns, dev, &a, &wanted);
    }
    // The last address of the device takes all its IPv4 routes along (fib_disable_ip, forced).
    if !ns.devs.get(dev).is_some_and(|d| d.addrs.first().is_some_and(|a| a.local.is_ipv4())) {
        let uses = |e: &FibEntry| e.nexthops.iter().any(|n| n.dev == dev);
        ns.fib.flush(&mut ns.notify, Family::V4, uses);
    }
    Ok(())
}

/// Is `a` a secondary of the subnet of `primary`?
fn secondary_of(a: &IfAddr, primary: &IfAddr) -> bool {
    a.flags & ifa_f::SECONDARY != 0 && a.prefix_len == primary.prefix_len && primary.contains(a.peer)
}

/// The first secondary takes the place of a primary that was removed; the others name it as their source
/// (`__inet_del_ifa`).
fn promote_secondary(ns: &mut Namespace, dev: IfIndex, gone: IfAddr) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let (mut subnet, keep): (Vec<IfAddr>, Vec<IfAddr>) =
        core::mem::take(&mut d.addrs).into_iter().partition(|a| secondary_of(a, &gone));
    d.addrs = keep;
    ns.devs.generation += 1;
    let wanted = Wanted::by_others(ns, dev, subnet.iter().chain([&gone]));
    for a in &subnet {
        fib_del_ifaddr(ns, dev, a, &wanted);
    }
    ns.notify.push(Notify::AddrDel(dev, Box::new(gone.clone())));
    fib_del_ifaddr(ns, dev, &gone, &wanted);
    if let Some(a) = subnet.first_mut() {
        a.flags &= !ifa_f::SECONDARY;
    }
    for (i, a) in subnet.into_iter().enumerate() {
        let Some(d) = ns.devs.get_mut(dev) else { return };
        let at = place(&d.addrs, &a);
        d.addrs.insert(at, a.clone());
        if i == 0 {
            ns.notify.push(Notify::AddrNew(dev, a.local, a.prefix_len));
        }
        fib_add_ifaddr(ns, dev, &a);
    }
}

/// The metric of an address changes, and with it its prefix route (`fib_modify_prefix_metric`).
pub fn fib_modify_prefix_metric(ns: &mut Namespace, dev: IfIndex, a: &IfAddr, metric: u32) {
    let up = ns.devs.get(dev).is_some_and(super::Device::is_up);
    let new = IfAddr { metric, ..a.clone() };
    let prefix_route = |ns: &Namespace, a: &IfAddr| {
        let all = ifaddr_routes(ns, dev, a, up).into_iter();
        all.skip(1).find(|r| matches!(r.kind, RouteType::Unicast | RouteType::Local))
    };
    let Some((old, new)) = prefix_route(ns, a).zip(prefix_route(ns, &new)) else { return };
    let how = How { create: true, excl: false, replace: false, append: true };
    let _ = ns.fib.insert(&mut ns.notify, new, how);
    let same = |e: &FibEntry| e.kind == old.kind && e.prefsrc == old.prefsrc && e.priority == old.priority;
    let _ = ns.fib.remove(&mut ns.notify, (old.table, old.dst, old.dst_len), same);
}

/// A route that the kernel makes for an address (`fib_magic`).
fn magic(kind: RouteType, dst: Ipv4Addr, len: u8, dev: IfIndex, a: &IfAddr, metric: u32) -> FibEntry {
    FibEntry {
        dst: prefix(IpAddr::V4(dst), len),
        dst_len: len,
        tos: 0,
        table: if kind == RouteType::Unicast { table_id::MAIN } else { table_id::LOCAL },
        priority: metric,
        protocol: proto::KERNEL,
        scope: if kind == RouteType::Local { scope::HOST } else { scope::LINK },
        kind,
        prefsrc: Some(a.local),
        nexthops: smallvec::smallvec![NextHop { gw: None, dev, weight: 0, flags: 0, realm: 0 }],
        metrics: Metrics::default(),
        pref: 0,
        expires: None,
    }
}

/// Broadcast address of a prefix.
fn net_broadcast(a: Ipv4Addr, len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(a.to_bits() | u32::MAX.checked_shr(u32::from(len)).unwrap_or(0))
}

/// The routes of an address: (route, belongs to the prefix rather than to the address).
fn ifaddr_routes(ns: &Namespace, dev: IfIndex, a: &IfAddr, up: bool) -> Vec<FibEntry> {
    let (IpAddr::V4(local), IpAddr::V4(peer)) = (a.local, a.peer) else { return Vec::new() };
    // The source of a secondary's own route is its primary (fib_add_ifaddr).
    let secondary = a.flags & ifa_f::SECONDARY != 0;
    let same =
        |o: &&IfAddr| o.flags & ifa_f::SECONDARY == 0 && o.prefix_len == a.prefix_len && o.contains(a.peer);
    let primary = ns.devs.get(dev).filter(|_| secondary).and_then(|d| d.addrs.iter().find(same));
    let mut out = vec![magic(RouteType::Local, local, 32, dev, primary.unwrap_or(a), 0)];
    if !up {
        return out;
    }
    if let Some(b) = a.broadcast.filter(|b| !b.is_broadcast()) {
        out.push(magic(RouteType::Broadcast, b, 32, dev, primary.unwrap_or(a), 0));
    }
    let IpAddr::V4(net) = prefix(IpAddr::V4(peer), a.prefix_len) else { return out };
    if net.octets()[0] != 0 && a.flags & ifa_f::SECONDARY == 0 && (net != local || a.prefix_len < 32) {
        if a.flags & ifa_f::NOPREFIXROUTE == 0 {
            let lo = ns.devs.get(dev).is_some_and(|d| d.flags & iff::LOOPBACK != 0);
            let kind = if lo { RouteType::Local } else { RouteType::Unicast };
            out.push(magic(kind, net, a.prefix_len, dev, a, a.metric));
        }
        if a.prefix_len < 31 {
            let b = net_broadcast(net, a.prefix_len);
            out.push(magic(RouteType::Broadcast, b, 32, dev, a, 0));
        }
    }
    out
}

/// `fib_add_ifaddr`.
fn fib_add_ifaddr(ns: &mut Namespace, dev: IfIndex, a: &IfAddr) {
    let up = ns.devs.get(dev).is_some_and(super::Device::is_up);
    for r in ifaddr_routes(ns, dev, a, up) {
        let how = How { create: true, excl: false, replace: false, append: true };
        let _ = ns.fib.insert(&mut ns.notify, r, how);
    }
}

/// The routes of addresses that are to go, and which of them other addresses of the device need too.
struct Wanted(BTreeMap<(IpAddr, u8, u8), bool>);

impl Wanted {
    /// One look at each address that goes and at each one that stays.
    fn by_others<'a>(ns: &Namespace, dev: IfIndex, going: impl IntoIterator<Item = &'a IfAddr>) -> Wanted {
        let mut w = BTreeMap::new();
        for a in going {
            w.extend(ifaddr_routes(ns, dev, a, true).iter().map(|r| (Wanted::key(r), false)));
        }
        let ends = w.first_key_value().zip(w.last_key_value()).map(|(a, b)| a.0.0..=b.0.0);
        let Some(near) = ends else { return Wanted(w) };
        // Most addresses have no route between the first and the last in question: they cost a comparison each.
        let may_need = |o: &&IfAddr| {
            let (IpAddr::V4(_), IpAddr::V4(peer)) = (o.local, o.peer) else { return false };
            let net = prefix(o.peer, o.prefix_len);
            let all = IpAddr::V4(net_broadcast(peer, o.prefix_len));
            near.contains(&o.local)
                || near.contains(&net)
                || near.contains(&all)
                || o.broadcast.is_some_and(|b| near.contains(&IpAddr::V4(b)))
        };
        for o in ns.devs.get(dev).map_or(&[][..], |d| &d.addrs).iter().filter(may_need) {
            for r in ifaddr_routes(ns, dev, o, true) {
                if let Some(needed) = w.get_mut(&Wanted::key(&r)) {
                    *needed = true;
                }
            }
        }
        Wanted(w)
    }

    fn key(r: &FibEntry) -> (IpAddr, u8, u8) {
        (r.dst, r.dst_len, r.kind as u8)
    }

    fn stays(&self, r: &FibEntry) -> bool {
        self.0.get(&Wanted::key(r)).is_some_and(|needed| *needed)
    }
}

/// `fib_del_ifaddr`: what no other address still needs.
fn fib_del_ifaddr(ns: &mut Namespace, dev: IfIndex, a: &IfAddr, wanted: &Wanted) {
    // The prefix goes first, the address itself last.
    let mut mine = ifaddr_routes(ns, dev, a, true);
    mine.sort_by_key(|r| match (r.kind, r.dst_len) {
        (RouteType::Broadcast, _) => 1,
        (_, 32) => 2,
        _ => 0,
    });
    for r in mine.iter().filter(|r| !wanted.stays(r)) {
        let same = |e: &FibEntry| {
            // The route of a secondary names its primary as the source.
            e.kind == r.kind
                && (r.kind == RouteType::Local || e.prefsrc == r.prefsrc)
                && e.nexthops == r.nexthops
                && e.protocol == proto::KERNEL
        };
        let _ = ns.fib.remove(&mut ns.notify, (r.table, r.dst, r.dst_len), same);
    }
    // Routes that preferred the address as source go with it (fib_sync_down_addr), unless another device has it too.
    let ours =
        ns.fib.table(Family::V4, table_id::LOCAL).is_some_and(|t| t.has_kind(a.local, RouteType::Local));
    if !ours {
        ns.fib.source_gone(&mut ns.notify, a.local);
    }
}

/// A device went up: `lo` gets 127.0.0.1, address routes return (`inetdev_event`, `fib_netdev_event`).
pub fn dev_up(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get(dev) else { return };
    let carrier = d.carrier;
    let v4: Vec<IfAddr> = d.addrs.iter().filter(|a| matches!(a.local, IpAddr::V4(_))).cloned().collect();
    if d.is_loopback() && v4.is_empty() {
        let a = IfAddr {
            scope: scope::HOST,
            flags: ifa_f::PERMANENT,
            ..IfAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8)
        };
        let _ = inet_insert_ifa(ns, dev, a);
    }
    for a in &v4 {
        fib_add_ifaddr(ns, dev, a);
    }
    ns.fib.dev_up(dev, carrier);
    crate::ipv4::igmp::ip_mc_up(ns, dev);
    crate::ipv6::addrconf::dev_up(ns, dev);
}

/// A device went down: its routes go, except those to its own addresses; neighbours are forgotten.
pub fn dev_down(ns: &mut Namespace, dev: IfIndex) {
    ns.neigh.flush_dev_family(&mut ns.env, &mut ns.notify, dev, Family::V4);
    crate::ipv6::addrconf::dev_down(ns, dev);
    crate::ipv4::igmp::ip_mc_down(ns, dev);
    ns.inet6.redirects.forget_dev(dev);
    ns.fib.dev_down(&mut ns.notify, Family::V4, dev);
    ns.neigh.flush_dev(&mut ns.env, &mut ns.notify, dev, false);
}

/// The carrier of a device that is up changed: next hops are marked `linkdown` or cleared
/// (`fib_sync_down_dev`, `fib_sync_up`).
pub fn carrier_changed(ns: &mut Namespace, dev: IfIndex, on: bool) {
    ns.fib.dev_carrier(dev, on);
    if !on {
        ns.neigh.flush_dev(&mut ns.env, &mut ns.notify, dev, true);
    }
    crate::ipv6::addrconf::carrier_changed(ns, dev, on);
}

/// Removes all addresses of a device that leaves the namespace.
pub fn flush_addrs(ns: &mut Namespace, dev: IfIndex) {
    let all: Vec<(IpAddr, u8)> = ns
        .devs
        .get(dev)
        .map(|d| d.addrs.iter().map(|a| (a.local, a.prefix_len)).collect())
        .unwrap_or_default();
    for (a, len) in all {
        match a {
            IpAddr::V4(_) => {
                let _ = inet_del_ifa(ns, dev, a, Some(len));
            }
            IpAddr::V6(_) => {
                let _ = crate::ipv6::addrconf::inet6_addr_del(ns, dev, a, Some(len));
            }
        }
    }
    ns.fib.dev_gone(&mut ns.notify, dev);
    crate::ipv6::addrconf::dev_gone(ns, dev);
}

/// Switches IPv4 forwarding on or off everywhere (`net.ipv4.ip_forward`).
pub fn inet_forward_change(ns: &mut Namespace, on: bool) {
    crate::sysctl::inet_forward_change(ns, i32::from(on));
}
