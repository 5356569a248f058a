//! IPv6 configuration of devices (`net/ipv6/addrconf.c`): what follows from a device going up and down, from its
//! carrier, and from the tunables. Addresses are in [`ifaddr`], duplicate address detection and lifetimes in [`dad`],
//! routers in [`ra`].

pub mod dad;
pub mod ifaddr;
pub mod ra;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::hash::siphash24;
use ferronet_core::sysctl::Conf6;
use ferronet_core::{IfIndex, Instant};
use ferronet_wire::ipv6::IPV6_MIN_MTU;

pub use ifaddr::{inet6_addr_add, inet6_addr_del, inet6_addr_modify};

use super::addr::{INTERFACELOCAL_ALLROUTERS, LINKLOCAL_ALLROUTERS, SITELOCAL_ALLROUTERS, is_link_local};
use super::mcast::{ipv6_dev_mc_dec, ipv6_dev_mc_inc};
use crate::dev::{DevKind, Device, IfAddr, ifa_f, iff, scope};
use crate::fib::{Family, RouteType, table_id};
use crate::notify::Notify;
use crate::ns::Namespace;

/// Where an address came from (`IFAPROT_*`).
pub mod ifaprot {
    /// `::1`.
    pub const KERNEL_LO: u8 = 1;
    /// A router advertisement.
    pub const KERNEL_RA: u8 = 2;
    /// The link-local address.
    pub const KERNEL_LL: u8 = 3;
}

/// How the link-local address is made (`addr_gen_mode`).
mod gen_mode {
    pub(super) const EUI64: i32 = 0;
    pub(super) const NONE: i32 = 1;
}

/// A tunable of a device, or the `all` row when that is larger.
pub(super) fn max_conf(ns: &Namespace, dev: IfIndex, c: Conf6) -> i32 {
    ns.devs.get(dev).map_or(0, |d| d.conf6.get(c)).max(ns.conf.all6.get(c))
}

pub(super) fn conf(ns: &Namespace, dev: IfIndex, c: Conf6) -> i32 {
    ns.devs.get(dev).map_or(0, |d| d.conf6.get(c))
}

fn disabled(d: &Device) -> bool {
    d.conf6.get(Conf6::DisableIpv6) != 0 || d.mtu < IPV6_MIN_MTU
}

/// The IPv6 addresses of a device with their prefix lengths.
fn addrs(ns: &Namespace, dev: IfIndex) -> Vec<IfAddr> {
    ns.devs
        .get(dev)
        .map(|d| d.addrs.iter().filter(|a| a.local.is_ipv6()).cloned().collect())
        .unwrap_or_default()
}

/// A device went up (`addrconf_notify`, NETDEV_UP).
pub fn dev_up(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get(dev) else { return };
    if disabled(d) {
        return;
    }
    if d.is_loopback() {
        init_loopback(ns, dev);
        return;
    }
    let (carrier, router) = (d.carrier, d.conf6.get(Conf6::Forwarding) != 0);
    if router && !super::addr::ipv6_chk_mcast_addr(ns, dev, LINKLOCAL_ALLROUTERS) {
        dev_forward_change(ns, dev);
    }
    // Addresses that were kept, or added while the device was down, get their routes (addrconf_permanent_addr).
    for a in addrs(ns, dev) {
        ifaddr::add_prefix_route(ns, dev, &a);
        if let IpAddr::V6(v) = a.local {
            dad::dad_start(ns, dev, v);
        }
    }
    if carrier {
        link_ready(ns, dev);
    }
}

/// The first time that a device is up with carrier: link-local address, then detection of duplicates for all.
fn link_ready(ns: &mut Namespace, dev: IfIndex) {
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6.ready = true;
    }
    addrconf_dev_config(ns, dev);
    for a in addrs(ns, dev) {
        if let IpAddr::V6(v) = a.local
            && a.flags & ifa_f::TENTATIVE != 0
            && a.flags & ifa_f::DADFAILED == 0
        {
            dad::dad_start(ns, dev, v);
        }
    }
    super::mcast::ipv6_mc_up(ns, dev);
}

/// The carrier of a device that is up changed.
pub fn carrier_changed(ns: &mut Namespace, dev: IfIndex, on: bool) {
    let Some(d) = ns.devs.get(dev) else { return };
    if !on || disabled(d) || d.is_loopback() {
        return;
    }
    if d.inet6.ready {
        // It may be another link now: its switches need to hear of our groups.
        super::mcast::ipv6_mc_up(ns, dev);
    } else {
        link_ready(ns, dev);
    }
}

/// `::1` (`init_loopback`).
fn init_loopback(ns: &mut Namespace, dev: IfIndex) {
    let a = IfAddr {
        scope: scope::HOST,
        flags: ifa_f::PERMANENT | ifa_f::NODAD,
        proto: ifaprot::KERNEL_LO,
        ..IfAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128)
    };
    if ifaddr::ipv6_add_addr(ns, dev, a).is_ok() {
        if let Some(i) = ifaddr::get_mut(ns, dev, Ipv6Addr::LOCALHOST) {
            // ip prints no "nodad" for it.
            i.flags = ifa_f::PERMANENT;
        }
        ifaddr::ifa_notify_new(ns, dev, Ipv6Addr::LOCALHOST);
    }
}

/// The multicast route of a device (`addrconf_add_mroute`).
pub(super) fn add_mroute(ns: &mut Namespace, dev: IfIndex) {
    let r = ifaddr::Magic {
        kind: RouteType::Multicast,
        table: table_id::LOCAL,
        dst: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
        len: 8,
        metric: 256,
        expires: None,
    };
    ifaddr::add_route(ns, dev, r);
}

/// `addrconf_dev_config`: the multicast route and the link-local address.
fn addrconf_dev_config(ns: &mut Namespace, dev: IfIndex) {
    add_mroute(ns, dev);
    let Some(d) = ns.devs.get(dev) else { return };
    if d.addrs.iter().any(|a| matches!(a.local, IpAddr::V6(v) if is_link_local(v))) {
        return;
    }
    let mode = d.conf6.get(Conf6::AddrGenMode);
    if mode == gen_mode::NONE {
        return;
    }
    let (iid, stable) = interface_id(ns, dev, 0xfe80 << 112, mode);
    let a = Ipv6Addr::from_bits((0xfe80 << 112) | u128::from(iid));
    addrconf_add_linklocal(ns, dev, a, if stable { ifa_f::STABLE_PRIVACY } else { 0 });
}

/// The lower half of an address with this prefix: modified EUI-64 (RFC 4291 appendix A), or a stable random one
/// (RFC 7217) when the mode says so or the device has no link address. `true`: the latter.
pub(super) fn interface_id(ns: &Namespace, dev: IfIndex, prefix: u128, mode: i32) -> (u64, bool) {
    let Some(d) = ns.devs.get(dev) else { return (0, false) };
    let has_mac = !matches!(d.kind, DevKind::Backend { ethernet: false, .. });
    if mode == gen_mode::EUI64 && has_mac {
        return (u64::from_be_bytes(d.mac.eui64()), false);
    }
    let mac = d.mac.octets().iter().fold(0u64, |a, b| a << 8 | u64::from(*b));
    let words = [(prefix >> 64) as u64, mac, u64::from(dev.0)];
    (siphash24(ns.inet6.id_key, &words), true)
}

fn addrconf_add_linklocal(ns: &mut Namespace, dev: IfIndex, a: Ipv6Addr, flags: u32) {
    let new = IfAddr {
        scope: scope::LINK,
        flags: ifa_f::PERMANENT | flags,
        proto: ifaprot::KERNEL_LL,
        ..IfAddr::new(IpAddr::V6(a), 64)
    };
    if ifaddr::ipv6_add_addr(ns, dev, new.clone()).is_ok() {
        ifaddr::add_prefix_route(ns, dev, &new);
        dad::dad_start(ns, dev, a);
    }
}

/// A device went down, or IPv6 was switched off on it (`addrconf_ifdown`): routes go, addresses too unless they are
/// static and `keep_addr_on_down` is set.
pub fn dev_down(ns: &mut Namespace, dev: IfIndex) {
    stop_timers(ns, dev);
    super::mcast::ipv6_mc_down(ns, dev);
    let off = ns.devs.get(dev).is_none_or(disabled);
    let keep = !off && max_conf(ns, dev, Conf6::KeepAddrOnDown) > 0;
    for a in addrs(ns, dev) {
        let IpAddr::V6(v) = a.local else { continue };
        if keep && a.flags & ifa_f::PERMANENT != 0 && !is_link_local(v) && !v.is_loopback() {
            ifaddr::leave_groups(ns, dev, v);
            if let Some(i) = ifaddr::get_mut(ns, dev, v)
                && i.flags & ifa_f::NODAD == 0
            {
                i.flags |= ifa_f::TENTATIVE;
                i.flags &= !ifa_f::DADFAILED;
            }
        } else {
            let _ = ifaddr::ipv6_del_addr(ns, dev, v, None);
        }
    }
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6.ready = false;
        (d.inet6.rs_sent, d.inet6.ra_rcvd) = (false, false);
        d.inet6.anycast.clear();
    }
    ns.fib.dev_down(&mut ns.notify, Family::V6, dev);
}

fn stop_timers(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    d.inet6.dad.clear();
    ns.env.timers.cancel(&mut d.inet6.addr_timer);
    ns.env.timers.cancel(&mut d.inet6.rs_timer);
}

/// A device leaves the namespace: nothing of it may fire any more.
pub fn dev_gone(ns: &mut Namespace, dev: IfIndex) {
    stop_timers(ns, dev);
    super::mcast::ipv6_mc_down(ns, dev);
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6 = super::Inet6Dev::default();
        d.mcast.retain(|g| match g.0 {
            IpAddr::V6(a) => {
                a == super::addr::LINKLOCAL_ALLNODES || a == super::addr::INTERFACELOCAL_ALLNODES
            }
            IpAddr::V4(_) => true,
        });
    }
}

/// A tunable of a device was written; `old` is what it was, the device holds the new value already. Does what the
/// kernel's handlers do (`addrconf_sysctl_forward`, `addrconf_sysctl_disable`, …).
pub fn conf6_changed(ns: &mut Namespace, dev: IfIndex, c: Conf6, old: i32) {
    let new = conf(ns, dev, c);
    let on = new != 0;
    if old == new {
        return;
    }
    ns.devs.generation += 1;
    match c {
        Conf6::Forwarding if (old != 0) != on => {
            dev_forward_change(ns, dev);
            if on {
                ra::rt6_purge_dflt_routers(ns);
            }
        }
        Conf6::DisableIpv6 if (old != 0) != on => disable_changed(ns, dev, on),
        Conf6::AddrGenMode => {
            let ready = ns.devs.get(dev).is_some_and(|d| d.is_up() && d.inet6.ready && !disabled(d));
            if ready {
                addrconf_dev_config(ns, dev);
            }
        }
        _ => {}
    }
}

/// `dev_disable_change`.
fn disable_changed(ns: &mut Namespace, dev: IfIndex, off: bool) {
    if !ns.devs.get(dev).is_some_and(Device::is_up) {
        return;
    }
    if off {
        dev_down(ns, dev);
        ns.neigh.flush_dev_family(&mut ns.env, &mut ns.notify, dev, Family::V6);
    } else {
        dev_up(ns, dev);
    }
}

/// `dev_forward_change`: a router listens to the routers' groups and owns the subnet-router anycast addresses.
fn dev_forward_change(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get(dev) else { return };
    let on = d.conf6.get(Conf6::Forwarding) != 0;
    if d.flags & iff::MULTICAST != 0 && !disabled(d) {
        for g in [LINKLOCAL_ALLROUTERS, INTERFACELOCAL_ALLROUTERS, SITELOCAL_ALLROUTERS] {
            let member = super::addr::ipv6_chk_mcast_addr(ns, dev, g);
            if on && !member {
                ipv6_dev_mc_inc(ns, dev, g);
            } else if !on && member {
                ipv6_dev_mc_dec(ns, dev, g);
            }
        }
    }
    for a in addrs(ns, dev) {
        if a.flags & ifa_f::TENTATIVE != 0 {
            continue;
        }
        if on {
            ifaddr::join_anycast(ns, dev, &a);
        } else {
            ifaddr::leave_anycast(ns, dev, &a);
        }
    }
    ns.notify.push(Notify::LinkNew(dev, 0));
}

/// A device's address timer fired: detection of duplicates, lifetimes.
pub fn addr_timer(ns: &mut Namespace, dev: IfIndex) {
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6.addr_timer = ferronet_core::timer::TimerId::NONE;
    }
    dad::run(ns, dev);
    dad::addrconf_verify(ns, dev);
    rearm(ns, dev);
}

/// Arms the device's address timer for what comes next.
pub(super) fn rearm(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let dad = d.inet6.dad.iter().map(|p| p.at);
    let life = d.addrs.iter().filter(|a| a.local.is_ipv6()).map(dad::lifetime_event);
    let next = dad.chain(life).min().unwrap_or(Instant::NEVER);
    if next == Instant::NEVER {
        ns.env.timers.cancel(&mut d.inet6.addr_timer);
    } else {
        let key = ferronet_core::env::TimerKey::Addr6(u64::from(dev.0));
        ns.env.timers.rearm(&mut d.inet6.addr_timer, next, key);
    }
}
