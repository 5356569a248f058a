//! RTM_NEWADDR, RTM_DELADDR (`inet_rtm_newaddr`, `inet6_rtm_newaddr` and their opposites).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::dev::addr_ops::{fib_modify_prefix_metric, inet_del_ifa, inet_insert_ifa};
use ferronet_stack::dev::{IfAddr, ifa_f};
use ferronet_stack::fib::Family;
use ferronet_stack::ipv6::addrconf;
use ferronet_stack::notify::Notify;
use ferronet_wire::ipv6::IPV6_MIN_MTU;

use super::super::Req;
use super::super::codec::{Attrs, Fields, Strictness, nlm_f, parse};
use super::addr::{IFADDR, POLICY4, POLICY6, ifa};
use super::ifindex;

/// `struct ifaddrmsg` and its attributes.
struct AddrReq<'a> {
    plen: u8,
    flags: u32,
    scope: u8,
    dev: Option<IfIndex>,
    tb: Attrs<'a, 12>,
}

fn read<'a>(r: &mut Req<'a, '_>, f: Family) -> Result<AddrReq<'a>, Errno> {
    let (head, attrs) = r.split(IFADDR).ok_or(Errno::EINVAL)?;
    let policy = match f {
        Family::V4 => &POLICY4,
        Family::V6 => &POLICY6,
    };
    let tb = parse(attrs, policy, Strictness::Liberal, &mut r.ext)?;
    let mut h = Fields(head);
    let (_, plen, flags, scope, index) = (h.u8(), h.u8(), h.u8(), h.u8(), h.i32());
    let flags = tb.u32(ifa::FLAGS).unwrap_or(u32::from(flags));
    Ok(AddrReq { plen, flags, scope, dev: ifindex(index), tb })
}

/// Lifetimes of `IFA_CACHEINFO`: preferred, valid.
fn lifetimes(q: &AddrReq<'_>) -> Option<(u32, u32)> {
    let a = q.tb.get(ifa::CACHEINFO)?;
    let mut f = Fields(a.data);
    Some((f.u32(), f.u32()))
}

/// RTM_NEWADDR.
pub(super) fn newaddr(r: &mut Req<'_, '_>, f: Family) -> Result<(), Errno> {
    match f {
        Family::V4 => newaddr4(r),
        Family::V6 => newaddr6(r),
    }
}

/// RTM_DELADDR.
pub(super) fn deladdr(r: &mut Req<'_, '_>, f: Family) -> Result<(), Errno> {
    match f {
        Family::V4 => deladdr4(r),
        Family::V6 => deladdr6(r),
    }
}

/// `rtm_to_ifaddr` and `inet_rtm_newaddr`.
fn newaddr4(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let q = read(r, Family::V4)?;
    if q.plen > 32 {
        return r.ext.err(Errno::EINVAL, "ipv4: Invalid prefix length");
    }
    let Some(local) = q.tb.get(ifa::LOCAL).and_then(|a| a.ip4()) else {
        return r.ext.err(Errno::EINVAL, "ipv4: Local address is not supplied");
    };
    let Some(dev) = q.dev.filter(|d| r.net().is_ok_and(|n| n.devs.get(*d).is_some())) else {
        return r.ext.err(Errno::ENODEV, "ipv4: Device not found");
    };
    let peer = q.tb.get(ifa::ADDRESS).and_then(|a| a.ip4()).unwrap_or(local);
    let broadcast = q.tb.get(ifa::BROADCAST).and_then(|a| a.ip4());
    let mut a = IfAddr {
        peer: IpAddr::V4(peer),
        broadcast: broadcast.filter(|b| *b != Ipv4Addr::UNSPECIFIED),
        scope: q.scope,
        flags: q.flags | ifa_f::PERMANENT,
        label: q.tb.get(ifa::LABEL).map(|a| a.str()).unwrap_or_default(),
        metric: q.tb.u32(ifa::RT_PRIORITY).unwrap_or(0),
        proto: q.tb.get(ifa::PROTO).map_or(0, |a| a.u8()),
        ..IfAddr::new(IpAddr::V4(local), q.plen)
    };
    if let Some((preferred, valid)) = lifetimes(&q) {
        if valid == 0 || preferred > valid {
            return r.ext.err(Errno::EINVAL, "ipv4: address lifetime invalid");
        }
        set_lifetimes(&mut a, preferred, valid);
    }
    let (excl, replace) = (r.has(nlm_f::EXCL), r.has(nlm_f::REPLACE));
    let net = r.net_mut()?;
    let now = net.env.now;
    let (local, len, peer) = (a.local, a.prefix_len, a.peer);
    let same = |o: &IfAddr| o.local == local && o.prefix_len == len && o.peer == peer;
    let old = net.devs.get(dev).and_then(|d| d.addrs.iter().find(|o| same(o)).cloned());
    let Some(before) = old else {
        return match inet_insert_ifa(net, dev, a) {
            Err(Errno::EINVAL) => r.ext.err(Errno::EINVAL, "ipv4: Invalid scope value"),
            other => other,
        };
    };
    if excl || !replace {
        return r.ext.err(Errno::EEXIST, "ipv4: Address already assigned");
    }
    // An address that is there: lifetime and metric change, other flags stay.
    const LIFE: u32 = ifa_f::PERMANENT | ifa_f::DEPRECATED;
    net.devs.update(dev, |d| {
        let Some(old) = d.addrs.iter_mut().find(|o| same(o)) else { return };
        old.metric = a.metric;
        old.proto = a.proto;
        old.flags = (old.flags & !LIFE) | (a.flags & LIFE);
        old.preferred_lft = a.preferred_lft;
        old.valid_lft = a.valid_lft;
        old.updated = now;
    });
    if before.metric != a.metric {
        fib_modify_prefix_metric(net, dev, &before, a.metric);
    }
    net.notify.push(Notify::AddrNew(dev, local, len));
    Ok(())
}

/// `set_ifa_lifetime`.
fn set_lifetimes(a: &mut IfAddr, preferred: u32, valid: u32) {
    a.flags &= !(ifa_f::PERMANENT | ifa_f::DEPRECATED);
    a.valid_lft = valid;
    a.preferred_lft = preferred;
    if valid == u32::MAX {
        a.flags |= ifa_f::PERMANENT;
    }
    if preferred == 0 {
        a.flags |= ifa_f::DEPRECATED;
    }
}

/// `inet_rtm_deladdr`.
fn deladdr4(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let q = read(r, Family::V4)?;
    let Some(dev) = q.dev.filter(|d| r.net().is_ok_and(|n| n.devs.get(*d).is_some())) else {
        return r.ext.err(Errno::ENODEV, "ipv4: Device not found");
    };
    let local = q.tb.get(ifa::LOCAL).and_then(|a| a.ip4());
    let label = q.tb.get(ifa::LABEL).map(|a| a.str());
    let address = q.tb.get(ifa::ADDRESS).and_then(|a| a.ip4()).map(IpAddr::V4);
    let net = r.net_mut()?;
    let hit = net.devs.get(dev).and_then(|d| {
        d.addrs.iter().find(|a| {
            matches!(a.local, IpAddr::V4(_))
                && local.is_none_or(|l| a.local == IpAddr::V4(l))
                && label.as_ref().is_none_or(|l| a.label == *l)
                && address.is_none_or(|p| a.prefix_len == q.plen && a.contains(p))
        })
    });
    let Some((a, len)) = hit.map(|a| (a.local, a.prefix_len)) else {
        return r.ext.err(Errno::EADDRNOTAVAIL, "ipv4: Address not found");
    };
    inet_del_ifa(net, dev, a, Some(len))
}

/// Local and peer address of a request (`extract_addr`).
fn extract6(q: &AddrReq<'_>) -> Option<(IpAddr, Option<IpAddr>)> {
    let address = q.tb.get(ifa::ADDRESS).and_then(|a| a.ip6());
    let local = q.tb.get(ifa::LOCAL).and_then(|a| a.ip6());
    match (local, address) {
        (Some(l), Some(p)) if l != p => Some((l.into(), Some(p.into()))),
        (Some(l), _) => Some((l.into(), None)),
        (None, Some(a)) => Some((a.into(), None)),
        (None, None) => None,
    }
}

/// `inet6_rtm_newaddr`.
fn newaddr6(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    const FLAGS: u32 = ifa_f::NODAD
        | ifa_f::HOMEADDRESS
        | ifa_f::MANAGETEMPADDR
        | ifa_f::NOPREFIXROUTE
        | ifa_f::MCAUTOJOIN
        | ifa_f::OPTIMISTIC;
    let q = read(r, Family::V6)?;
    let (local, peer) = extract6(&q).ok_or(Errno::EINVAL)?;
    let (preferred, valid) = lifetimes(&q).unwrap_or((u32::MAX, u32::MAX));
    let Some(dev) = q.dev.filter(|d| r.net().is_ok_and(|n| n.devs.get(*d).is_some())) else {
        return r.ext.err(Errno::ENODEV, "ipv6: Unable to find the interface");
    };
    if q.plen > 128 {
        return r.ext.err(Errno::EINVAL, "ipv6: Invalid prefix length");
    }
    if valid == 0 || preferred > valid {
        return r.ext.err(Errno::EINVAL, "ipv6: address lifetime invalid");
    }
    check6(r, dev, local, q.flags)?;
    let mut a = IfAddr {
        peer: peer.unwrap_or(local),
        flags: (q.flags & FLAGS) | ifa_f::PERMANENT,
        metric: q.tb.u32(ifa::RT_PRIORITY).unwrap_or(0),
        proto: q.tb.get(ifa::PROTO).map_or(0, |a| a.u8()),
        ..IfAddr::new(local, q.plen)
    };
    set_lifetimes(&mut a, preferred, valid);
    let (excl, replace) = (r.has(nlm_f::EXCL), r.has(nlm_f::REPLACE));
    let net = r.net_mut()?;
    let now = net.env.now;
    let old = net.devs.get(dev).and_then(|d| d.addrs.iter().find(|o| o.local == local));
    let Some(len) = old.map(|o| o.prefix_len) else {
        return match addrconf::inet6_addr_add(net, dev, a) {
            Err(Errno::EACCES) => r.ext.err(Errno::EACCES, "ipv6: IPv6 is disabled on this device"),
            other => other,
        };
    };
    if excl || !replace {
        return r.ext.err(Errno::EEXIST, "ipv6: address already assigned");
    }
    net.devs.update(dev, |d| {
        let Some(old) = d.addrs.iter_mut().find(|o| o.local == local) else { return };
        let kept = old.flags & !(FLAGS | ifa_f::PERMANENT | ifa_f::DEPRECATED);
        old.flags = kept | (a.flags & !ifa_f::NODAD);
        old.preferred_lft = preferred;
        old.valid_lft = valid;
        old.metric = a.metric;
        old.updated = now;
    });
    net.notify.push(Notify::AddrNew(dev, local, len));
    Ok(())
}

/// What cannot be assigned (`ipv6_add_addr`).
fn check6(r: &mut Req<'_, '_>, dev: IfIndex, a: IpAddr, flags: u32) -> Result<(), Errno> {
    let lo = r.net()?.devs.get(dev).is_some_and(ferronet_stack::dev::Device::is_loopback);
    if a.is_unspecified() {
        return r.ext.err(Errno::EADDRNOTAVAIL, "ipv6: Invalid address");
    }
    if a.is_multicast() && flags & ifa_f::MCAUTOJOIN == 0 {
        return r.ext.err(
            Errno::EADDRNOTAVAIL,
            "ipv6: Cannot assign multicast address without \"IFA_F_MCAUTOJOIN\" flag",
        );
    }
    if a.is_loopback() && !lo {
        return r.ext.err(Errno::EADDRNOTAVAIL, "ipv6: Cannot assign loopback address on this device");
    }
    Ok(())
}

/// `inet6_rtm_deladdr`.
fn deladdr6(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let q = read(r, Family::V6)?;
    let (local, _) = extract6(&q).ok_or(Errno::EINVAL)?;
    if q.plen > 128 {
        return r.ext.err(Errno::EINVAL, "ipv6: Invalid prefix length");
    }
    let Some(dev) = q.dev.filter(|d| r.net().is_ok_and(|n| n.devs.get(*d).is_some())) else {
        return r.ext.err(Errno::ENODEV, "ipv6: Unable to find the interface");
    };
    // __in6_dev_get: such a link carries no IPv6.
    if r.net()?.devs.get(dev).is_some_and(|d| d.mtu < IPV6_MIN_MTU && !d.is_loopback()) {
        return r.ext.err(Errno::ENXIO, "ipv6: IPv6 is disabled on this device");
    }
    let net = r.net_mut()?;
    match addrconf::inet6_addr_del(net, dev, local, Some(q.plen)) {
        Err(Errno::EADDRNOTAVAIL) => r.ext.err(Errno::EADDRNOTAVAIL, "ipv6: address not found"),
        other => other,
    }
}
