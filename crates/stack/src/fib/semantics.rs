//! What a program may add as a route: next hops must be reachable, sources must be ours (`net/ipv4/fib_semantics.c`,
//! `net/ipv6/route.c`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex};

use super::{Family, FibEntry, Flow, How, MAX_ROUTES, NextHop, RouteType, table_id};
use crate::dev::{Device, scope};
use crate::ns::Namespace;

/// Why a route was refused, with the kernel's text for the program (empty when it has none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// For the program.
    pub errno: Errno,
    /// `NL_SET_ERR_MSG` without a full stop.
    pub text: &'static str,
}

const fn no(errno: Errno, text: &'static str) -> Refused {
    Refused { errno, text }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Refused { errno, text: "" }
    }
}

const NOT_UP: &str = "Nexthop device is not up";
const RTNH_F_PERVASIVE: u8 = 2;
const RTNH_F_ONLINK: u8 = 4;
const RTNH_F_LINKDOWN: u8 = 16;
/// `IP6_RT_PRIO_USER`.
const IP6_RT_PRIO_USER: u32 = 1024;

/// Checks a route and puts it into its table (`fib_table_insert`, `ip6_route_add`). `e.nexthops` holds what the
/// request named: a next hop without device or gateway when it named nothing.
///
/// # Errors
/// As the kernel: `ENETUNREACH`, `EHOSTUNREACH` or the error of the refusing route for a gateway that is not on a
/// link, `ENODEV`, `ENETDOWN`, `EINVAL`, `EEXIST`, `ENOENT`.
pub fn route_add(ns: &mut Namespace, mut e: FibEntry, mut how: How) -> Result<(), Refused> {
    let family = Family::of(e.dst);
    let total: usize = ns.fib.tables(family).map(|t| t.1.len()).sum();
    if total >= MAX_ROUTES {
        return Err(no(Errno::ENOBUFS, ""));
    }
    match family {
        Family::V4 => fib_create_info(ns, &mut e)?,
        Family::V6 => ip6_route_info_create(ns, &mut e)?,
    }
    if family == Family::V6 && !how.create {
        // fib6_add_1: a change needs something to change, everything else may create.
        if how.replace && ns.fib.table(family, e.table).is_none_or(|t| t.routes(e.dst, e.dst_len).is_empty())
        {
            return Err(no(Errno::ENOENT, "Can not replace route - no match found"));
        }
        how.create = true;
    }
    Ok(ns.fib.insert(&mut ns.notify, e, how)?)
}

/// What a request to delete a route names (`struct fib_config`); what it leaves out matches anything.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Prefix, table and what else was named; 0 or `None` where nothing was.
    pub route: FibEntry,
    /// `RTN_*`, 0 for any.
    pub kind: u8,
    /// `scope::*`, NOWHERE for any.
    pub scope: u8,
    /// The next hops came as RTA_MULTIPATH.
    pub multipath: bool,
}

/// Deletes the first route that fits what the request names (`fib_table_delete`, `ip6_route_del`).
///
/// # Errors
/// `ESRCH` when there is none, `EINVAL` for a bad prefix length.
pub fn route_del(ns: &mut Namespace, d: &Delete) -> Result<(), Errno> {
    let e = &d.route;
    let place = (e.table, e.dst, e.dst_len);
    let same_hop =
        |w: &NextHop, n: &NextHop| (w.dev.is_none() || n.dev == w.dev) && (w.gw.is_none() || n.gw == w.gw);
    let named = |o: &FibEntry| {
        (e.priority == 0 || o.priority == e.priority) && (e.protocol == 0 || o.protocol == e.protocol)
    };
    match Family::of(e.dst) {
        Family::V4 => ns.fib.remove(&mut ns.notify, place, |o| {
            let hops = match (d.multipath, e.nexthops.first()) {
                (true, _) => {
                    o.nexthops.len() == e.nexthops.len()
                        && o.nexthops.iter().zip(&e.nexthops).all(|(n, w)| same_hop(w, n))
                }
                (false, Some(w)) => {
                    (w.dev.is_none() || o.nexthops.iter().any(|n| n.dev == w.dev))
                        && (w.gw.is_none() || o.nexthops.iter().any(|n| n.gw == w.gw))
                }
                (false, None) => true,
            };
            named(o)
                && hops
                && (d.kind == 0 || o.kind as u8 == d.kind)
                && (d.scope == scope::NOWHERE || o.scope == d.scope)
                && o.tos == e.tos
                && (e.prefsrc.is_none() || o.prefsrc == e.prefsrc)
        }),
        // ip6_route_multipath_del: each next hop by itself; the others of the route stay.
        Family::V6 if d.multipath => {
            let mut result = Ok(());
            for w in &e.nexthops {
                let one = ns.fib.remove_nexthop(&mut ns.notify, place, named, |n| same_hop(w, n));
                result = one.and(result);
            }
            result
        }
        // A gateway names one next hop, everything else the whole route.
        Family::V6 => match e.nexthops.first() {
            Some(w) if w.gw.is_some() => {
                ns.fib.remove_nexthop(&mut ns.notify, place, named, |n| same_hop(w, n))
            }
            hop => ns.fib.remove(&mut ns.notify, place, |o| {
                named(o) && hop.is_none_or(|w| w.dev.is_none() || o.nexthops.iter().any(|n| n.dev == w.dev))
            }),
        },
    }
}

/// `fib_props`: the least scope of a type, and whether it refuses packets.
const fn props(kind: RouteType) -> (u8, bool) {
    match kind {
        RouteType::Unicast | RouteType::Multicast => (scope::UNIVERSE, false),
        RouteType::Local => (scope::HOST, false),
        RouteType::Broadcast | RouteType::Anycast => (scope::LINK, false),
        RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            (scope::UNIVERSE, true)
        }
    }
}

fn named(n: &NextHop) -> bool {
    n.gw.is_some() || !n.dev.is_none()
}

/// `fib_create_info`.
fn fib_create_info(ns: &Namespace, e: &mut FibEntry) -> Result<(), Refused> {
    let (least, refuses) = props(e.kind);
    if least > e.scope {
        return Err(no(Errno::EINVAL, "Invalid scope"));
    }
    if refuses {
        if e.nexthops.iter().any(named) {
            return Err(no(
                Errno::EINVAL,
                "Gateway, device and multipath can not be specified for this route type",
            ));
        }
        e.nexthops.clear();
        return Ok(());
    }
    if e.scope > scope::HOST {
        return Err(no(Errno::EINVAL, "Invalid scope"));
    } else if e.scope == scope::HOST {
        if e.nexthops.len() != 1 {
            return Err(no(Errno::EINVAL, "Route with host scope can not have multiple nexthops"));
        }
        if e.nexthops[0].gw.is_some() {
            return Err(no(Errno::EINVAL, "Route with host scope can not have a gateway"));
        }
        ns.devs.get(e.nexthops[0].dev).ok_or(Errno::ENODEV)?;
    } else {
        let (table, s) = (e.table, e.scope);
        for n in &mut e.nexthops {
            match n.gw {
                Some(IpAddr::V4(gw)) => fib_check_nh_v4_gw(ns, n, gw, table, s)?,
                Some(IpAddr::V6(_)) => check_nh6(ns, n, table)?,
                None => fib_check_nh_nongw(ns, n)?,
            }
        }
    }
    match e.prefsrc {
        Some(IpAddr::V4(p)) if !fib_valid_prefsrc(ns, e, p) => {
            Err(no(Errno::EINVAL, "Invalid prefsrc address"))
        }
        _ => Ok(()),
    }
}

/// `fib_valid_prefsrc`.
fn fib_valid_prefsrc(ns: &Namespace, e: &FibEntry, p: Ipv4Addr) -> bool {
    (e.kind == RouteType::Local && e.dst == IpAddr::V4(p)) || crate::ipv4::route::is_local(ns, p)
}

/// The device of a next hop, up; its carrier goes into the flags.
fn use_dev<'a>(ns: &'a Namespace, n: &mut NextHop, down: &'static str) -> Result<&'a Device, Refused> {
    let d = ns.devs.get(n.dev).ok_or(Errno::ENODEV)?;
    if !d.is_up() {
        return Err(no(Errno::ENETDOWN, down));
    }
    if !d.carrier {
        n.flags |= RTNH_F_LINKDOWN;
    }
    Ok(d)
}

fn fib_check_nh_nongw(ns: &Namespace, n: &mut NextHop) -> Result<(), Refused> {
    if n.flags & (RTNH_F_PERVASIVE | RTNH_F_ONLINK) != 0 {
        return Err(no(Errno::EINVAL, "Invalid flags for nexthop - PERVASIVE and ONLINK can not be set"));
    }
    use_dev(ns, n, "Device for nexthop is not up").map(|_| ())
}

fn fib_check_nh_v4_gw(
    ns: &Namespace,
    n: &mut NextHop,
    gw: Ipv4Addr,
    table: u32,
    route_scope: u8,
) -> Result<(), Refused> {
    const INVALID: &str = "Nexthop has invalid gateway";
    if n.flags & RTNH_F_ONLINK != 0 {
        if route_scope >= scope::LINK {
            return Err(no(Errno::EINVAL, "Nexthop has invalid scope"));
        }
        if ns.devs.get(n.dev).is_none() {
            return Err(no(Errno::ENODEV, "Nexthop device required for onlink"));
        }
        use_dev(ns, n, NOT_UP)?;
        if crate::ipv4::route::addr_type(ns, gw) != RouteType::Unicast {
            return Err(no(Errno::EINVAL, INVALID));
        }
        return Ok(());
    }
    let need = route_scope.saturating_add(1).max(scope::LINK);
    let flow = Flow { oif: n.dev, ..Flow::to(IpAddr::V4(gw)) };
    let look = |e: &FibEntry, nh: Option<&NextHop>| (e.kind, e.scope, nh.map_or(IfIndex::NONE, |n| n.dev));
    let mut hit = None;
    if table != 0
        && table != table_id::MAIN
        && let Some(t) = ns.fib.table(Family::V4, table)
    {
        hit = t.lookup(flow.dst, 0, |e| {
            let nh = e.nexthops.iter().find(|n| flow.oif.is_none() || n.dev == flow.oif);
            (e.scope >= need && nh.is_some()).then(|| look(e, nh))
        });
    }
    // A route of too wide a scope is passed over by the kernel's lookup; the next best prefix is what `addr` has.
    let hit = hit.or_else(|| ns.fib.lookup_with(&flow, &ns.devs, &mut |e, nh| look(e, nh)));
    let (kind, s, dev) = hit.ok_or(no(Errno::ENETUNREACH, INVALID))?;
    match kind {
        RouteType::Blackhole => return Err(no(Errno::EINVAL, INVALID)),
        RouteType::Unreachable => return Err(no(Errno::EHOSTUNREACH, INVALID)),
        RouteType::Prohibit => return Err(no(Errno::EACCES, INVALID)),
        RouteType::Throw => return Err(no(Errno::ENETUNREACH, INVALID)),
        RouteType::Unicast | RouteType::Local if s < need => return Err(no(Errno::ENETUNREACH, INVALID)),
        RouteType::Unicast | RouteType::Local => {}
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            return Err(no(Errno::EINVAL, INVALID));
        }
    }
    if dev.is_none() {
        return Err(no(Errno::EINVAL, "No egress device for nexthop gateway"));
    }
    n.dev = dev;
    use_dev(ns, n, "").map(|_| ())
}

/// `ip6_route_info_create`.
fn ip6_route_info_create(ns: &Namespace, e: &mut FibEntry) -> Result<(), Refused> {
    if e.priority == 0 {
        e.priority = IP6_RT_PRIO_USER;
    }
    e.scope = scope::UNIVERSE;
    if props(e.kind).1 {
        e.nexthops.clear();
    }
    let table = e.table;
    for n in &mut e.nexthops {
        check_nh6(ns, n, table)?;
    }
    if let Some(IpAddr::V6(p)) = e.prefsrc
        && !crate::ipv6::addr::ipv6_chk_addr(ns, p, e.nexthops.first().map_or(IfIndex::NONE, |n| n.dev))
    {
        return Err(no(Errno::EINVAL, "Invalid source address"));
    }
    Ok(())
}

/// `fib6_nh_init`.
fn check_nh6(ns: &Namespace, n: &mut NextHop, table: u32) -> Result<(), Refused> {
    if !n.dev.is_none() {
        let d = ns.devs.get(n.dev).ok_or(Errno::ENODEV)?;
        // in6_dev_get: none on a link that cannot carry IPv6.
        if d.mtu < ferronet_wire::ipv6::IPV6_MIN_MTU && !d.is_loopback() {
            return Err(Errno::ENODEV.into());
        }
    }
    if n.flags & RTNH_F_ONLINK != 0 {
        if n.dev.is_none() {
            return Err(no(Errno::ENODEV, "Nexthop device required for onlink"));
        }
        use_dev(ns, n, NOT_UP)?;
    }
    if let Some(gw) = n.gw {
        ip6_validate_gw(ns, n, gw, table)?;
    }
    use ferronet_core::sysctl::Conf6;
    let d = use_dev(ns, n, NOT_UP)?;
    if d.conf6.get(Conf6::DisableIpv6) != 0 {
        return Err(no(Errno::EACCES, "IPv6 is disabled on nexthop device"));
    }
    Ok(())
}

/// `ip6_validate_gw`.
fn ip6_validate_gw(ns: &Namespace, n: &mut NextHop, gw: IpAddr, table: u32) -> Result<(), Refused> {
    let IpAddr::V6(g) = gw else { return Err(no(Errno::EINVAL, "Invalid gateway address")) };
    let link_local = crate::ipv6::addr::is_link_local(g);
    let local = |dev| crate::ipv6::addr::ipv6_chk_addr(ns, g, dev);
    let early = if link_local { !n.dev.is_none() && local(n.dev) } else { local(IfIndex::NONE) };
    if early {
        return Err(no(Errno::EINVAL, "Gateway can not be a local address"));
    }
    if !link_local {
        if g.is_multicast() || g.is_unspecified() || g.is_loopback() {
            return Err(no(Errno::EINVAL, "Invalid gateway address"));
        }
        if n.flags & RTNH_F_ONLINK == 0 {
            ip6_route_check_nh(ns, n, gw, table)?;
        } else {
            ip6_route_check_nh_onlink(ns, n.dev, gw)?;
        }
    }
    match ns.devs.get(n.dev) {
        None => Err(no(Errno::EINVAL, "Egress device not specified")),
        Some(d) if d.is_loopback() => {
            Err(no(Errno::EINVAL, "Egress device can not be loopback device for this route"))
        }
        Some(_) => Ok(()),
    }
}

/// `ip6_route_check_nh_onlink`: no other route than the default may lead the gateway elsewhere.
fn ip6_route_check_nh_onlink(ns: &Namespace, dev: IfIndex, gw: IpAddr) -> Result<(), Refused> {
    let Some(t) = ns.fib.table(Family::V6, table_id::MAIN) else { return Ok(()) };
    let best = t.lookup(gw, 0, |e| Some((e.dst_len, props(e.kind).1)));
    let Some((len, false)) = best.filter(|b| b.0 != 0) else { return Ok(()) };
    let here = |e: &FibEntry| {
        e.dst_len == len && e.kind == RouteType::Unicast && e.nexthops.iter().any(|h| h.dev == dev)
    };
    match t.lookup(gw, 0, |e| here(e).then_some(())) {
        Some(()) => Ok(()),
        None => Err(no(Errno::EINVAL, "Nexthop has invalid gateway or device mismatch")),
    }
}

/// `ip6_route_check_nh`: the gateway itself is on a link, that of the device when one is named.
fn ip6_route_check_nh(ns: &Namespace, n: &mut NextHop, gw: IpAddr, table: u32) -> Result<(), Refused> {
    let on_link = |e: &FibEntry, nh: Option<&NextHop>| {
        let nh = nh.filter(|h| h.gw.is_none() && !props(e.kind).1)?;
        Some(nh.dev)
    };
    let own = ns.fib.table(Family::V6, table).and_then(|t| {
        t.lookup(gw, 0, |e| {
            let nh = e.nexthops.iter().find(|h| n.dev.is_none() || h.dev == n.dev);
            nh.map(|h| on_link(e, Some(h)))
        })
    });
    let flow = Flow { oif: n.dev, ..Flow::to(gw) };
    let hit =
        own.flatten().or_else(|| ns.fib.lookup_with(&flow, &ns.devs, &mut |e, h| on_link(e, h)).flatten());
    let dev = hit.ok_or(Errno::EHOSTUNREACH)?;
    if !n.dev.is_none() && n.dev != dev {
        return Err(Errno::EHOSTUNREACH.into());
    }
    n.dev = dev;
    Ok(())
}
