//! IPv4 routing decisions: input, output, source address selection (`net/ipv4/route.c`, `devinet.c`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::sysctl::Conf4;
use ferronet_core::{DropReason, Errno, IfIndex, Packet};

use crate::dev::{ifa_f, scope};
use crate::fib::{Family, Flow, Route, RouteType, table_id};
use crate::ns::Namespace;

/// Why an input lookup gave no usable route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteError {
    /// How the packet ends.
    pub reason: DropReason,
    /// ICMP destination-unreachable code to send when this host forwards; `None` for silence.
    pub code: Option<u8>,
}

const fn silent(reason: DropReason) -> RouteError {
    RouteError { reason, code: None }
}

/// `IN_DEV_*` of a device with the `all` row: the larger of both (`IN_DEV_MAXCONF`).
#[must_use]
pub fn max_conf(ns: &Namespace, dev: IfIndex, c: Conf4) -> i32 {
    ns.devs.get(dev).map_or(0, |d| d.conf4.get(c)).max(ns.conf.all4.get(c))
}

/// The device's own value as a truth value, without the `all` row.
#[must_use]
pub(crate) fn dev_conf(ns: &Namespace, dev: IfIndex, c: Conf4) -> bool {
    ns.devs.get(dev).is_some_and(|d| d.conf4.get(c) != 0)
}

/// Is `a` one of our addresses (`inet_addr_type == RTN_LOCAL`)?
#[must_use]
pub fn is_local(ns: &Namespace, a: Ipv4Addr) -> bool {
    addr_type(ns, a) == RouteType::Local
}

/// `inet_addr_type`: what the local table says; `Unicast` when nothing.
#[must_use]
pub fn addr_type(ns: &Namespace, a: Ipv4Addr) -> RouteType {
    if a.is_multicast() {
        return RouteType::Multicast;
    }
    if a.is_unspecified() || a.is_broadcast() {
        return RouteType::Broadcast;
    }
    ns.fib
        .table(Family::V4, table_id::LOCAL)
        .and_then(|t| t.lookup(IpAddr::V4(a), 0, |e| Some(e.kind)))
        .unwrap_or(RouteType::Unicast)
}

fn local_broadcast(dev: IfIndex, kind: RouteType) -> Route {
    Route {
        kind,
        dev,
        gw: None,
        prefsrc: None,
        scope: scope::LINK,
        table: table_id::LOCAL,
        dst_len: 32,
        mtu: 0,
        advmss: 0,
        hoplimit: 0,
        initcwnd: 0,
        nh_flags: 0,
        multipath: false,
    }
}

/// Where a received packet goes (`ip_route_input_slow`).
///
/// # Errors
/// Martian addresses, failed source validation, no route, and routes that refuse.
pub fn ip_route_input(
    ns: &Namespace,
    p: &Packet,
    saddr: Ipv4Addr,
    daddr: Ipv4Addr,
    tos: u8,
    dev: IfIndex,
) -> Result<Route, RouteError> {
    let (mark, hash) = (p.meta().mark, p.meta().hash);
    let flow =
        Flow { src: IpAddr::V4(saddr), tos: tos & 0x1c, mark, iif: dev, hash, ..Flow::to(IpAddr::V4(daddr)) };
    ip_route_input_flow(ns, &flow)
}

/// Likewise for a packet that is only described (`ip route get ... iif`).
///
/// # Errors
/// As [`ip_route_input`].
pub fn ip_route_input_flow(ns: &Namespace, flow: &Flow) -> Result<Route, RouteError> {
    let (saddr, daddr, dev) = (v4(flow.src), v4(flow.dst), flow.iif);
    if saddr.is_multicast() || saddr.is_broadcast() {
        return Err(silent(DropReason::IpMartianSource));
    }
    if daddr.is_multicast() {
        return ip_route_input_mc(ns, daddr, dev);
    }
    if daddr.is_broadcast() || (saddr.is_unspecified() && daddr.is_unspecified()) {
        return Ok(local_broadcast(dev, RouteType::Broadcast));
    }
    // RFC 1122 §3.2.1.3: 0.0.0.0/8 is no source and no destination.
    if saddr.octets()[0] == 0 {
        return Err(silent(DropReason::IpMartianSource));
    }
    if daddr.octets()[0] == 0 {
        return Err(silent(DropReason::IpMartianDest));
    }
    let is_lo = dev == IfIndex::LO;
    if !is_lo && (daddr.is_loopback() || saddr.is_loopback()) && max_conf(ns, dev, Conf4::RouteLocalnet) == 0
    {
        let bad_dest = daddr.is_loopback();
        return Err(silent(if bad_dest { DropReason::IpMartianDest } else { DropReason::IpMartianSource }));
    }
    let forwarding = dev_conf(ns, dev, Conf4::Forwarding);
    let Some(r) = ns.fib.lookup(flow, &ns.devs) else {
        // ip_error: with forwarding off nobody is told.
        return Err(if forwarding {
            RouteError { reason: DropReason::IpNoRoute, code: Some(ferronet_wire::icmp::ICMP_NET_UNREACH) }
        } else {
            silent(DropReason::IpInAddr)
        });
    };
    match r.kind {
        RouteType::Local => {
            if !is_lo {
                fib_validate_source(ns, saddr, flow, dev, false)?;
            }
            Ok(Route { dev: IfIndex::LO, ..r })
        }
        RouteType::Broadcast => Ok(r),
        RouteType::Unicast if !forwarding => Err(silent(DropReason::IpInAddr)),
        RouteType::Unicast => {
            fib_validate_source(ns, saddr, flow, dev, true)?;
            Ok(r)
        }
        RouteType::Blackhole => Err(silent(DropReason::IpRouteBlackhole)),
        RouteType::Unreachable => Err(RouteError {
            reason: DropReason::IpRouteUnreachable,
            code: forwarding.then_some(ferronet_wire::icmp::ICMP_HOST_UNREACH),
        }),
        RouteType::Prohibit => Err(RouteError {
            reason: DropReason::IpRouteProhibit,
            code: forwarding.then_some(ferronet_wire::icmp::ICMP_PKT_FILTERED),
        }),
        RouteType::Multicast | RouteType::Anycast | RouteType::Throw => {
            Err(silent(DropReason::IpMartianDest))
        }
    }
}

/// A group we joined on this device, or nothing (`ip_mc_check_igmp`).
fn ip_route_input_mc(ns: &Namespace, daddr: Ipv4Addr, dev: IfIndex) -> Result<Route, RouteError> {
    let member = ns.devs.get(dev).is_some_and(|d| d.mcast.iter().any(|g| g.0 == IpAddr::V4(daddr)));
    // 224.0.0.1 is joined by every multicast device.
    if member || daddr == Ipv4Addr::new(224, 0, 0, 1) || dev == IfIndex::LO {
        Ok(local_broadcast(dev, RouteType::Multicast))
    } else {
        Err(silent(DropReason::IpInAddr))
    }
}

/// `fib_validate_source`: rp_filter, and our own addresses never come from outside.
fn fib_validate_source(
    ns: &Namespace,
    saddr: Ipv4Addr,
    flow: &Flow,
    dev: IfIndex,
    _forward: bool,
) -> Result<(), RouteError> {
    let rpf = max_conf(ns, dev, Conf4::RpFilter);
    let accept_local = dev_conf(ns, dev, Conf4::AcceptLocal);
    if rpf == 0 {
        if !accept_local && is_local(ns, saddr) {
            return Err(silent(DropReason::IpMartianSource));
        }
        return Ok(());
    }
    let mark = if dev_conf(ns, dev, Conf4::SrcValidMark) { flow.mark } else { 0 };
    let back = Flow { src: flow.dst, tos: flow.tos, mark, iif: IfIndex::LO, ..Flow::to(IpAddr::V4(saddr)) };
    match ns.fib.lookup(&back, &ns.devs) {
        Some(r) if r.kind == RouteType::Unicast => {
            if rpf == 1 && r.dev != dev {
                return Err(silent(DropReason::IpRpFilter));
            }
            Ok(())
        }
        Some(r) if r.kind == RouteType::Local && accept_local => Ok(()),
        Some(_) => Err(silent(DropReason::IpMartianSource)),
        None => Err(silent(DropReason::IpRpFilter)),
    }
}

/// A route for local output, and the source address to use (`ip_route_output_key_hash`). `flow.src` may be
/// unspecified; `flow.oif` binds to a device.
///
/// # Errors
/// `ENETUNREACH` without a route, `EHOSTUNREACH`, `EACCES`, `EINVAL` by route type or a bad address.
pub fn ip_route_output(ns: &Namespace, flow: &Flow) -> Result<(Route, Ipv4Addr), Errno> {
    let (IpAddr::V4(daddr), IpAddr::V4(saddr)) = (flow.dst, flow.src) else {
        return Err(Errno::EAFNOSUPPORT);
    };
    if !saddr.is_unspecified() && (saddr.is_multicast() || saddr.is_broadcast()) {
        return Err(Errno::EINVAL);
    }
    // Connecting to the unspecified address means this host.
    let daddr = match (daddr.is_unspecified(), saddr.is_unspecified()) {
        (true, true) => Ipv4Addr::LOCALHOST,
        (true, false) => saddr,
        (false, _) => daddr,
    };
    // Bound to a device: one that is down reaches nothing.
    let bound = match flow.oif.is_none() {
        true => None,
        false => Some(ns.devs.get(flow.oif).ok_or(Errno::ENODEV)?),
    };
    if bound.is_some_and(|d| !d.is_up()) {
        return Err(Errno::ENETUNREACH);
    }
    if let Some(d) = bound.filter(|_| daddr.is_multicast() || daddr.is_broadcast()) {
        let kind = if daddr.is_multicast() { RouteType::Multicast } else { RouteType::Broadcast };
        let src = or_select(ns, saddr, d.index, daddr, scope::LINK);
        return Ok((local_broadcast(d.index, kind), src));
    }
    let flow = Flow { dst: IpAddr::V4(daddr), ..*flow };
    let Some(mut r) = ns.fib.lookup(&flow, &ns.devs) else {
        // Bound to a device: assume that the destination is on its link.
        let d = bound.ok_or(Errno::ENETUNREACH)?;
        let src = or_select(ns, saddr, d.index, daddr, scope::LINK);
        return Ok((local_broadcast(d.index, RouteType::Unicast), src));
    };
    let src = match r.kind {
        RouteType::Local => {
            let own = r.prefsrc.map_or(daddr, v4);
            let src = if saddr.is_unspecified() { own } else { saddr };
            r.dev = IfIndex::LO;
            return Ok((r, src));
        }
        RouteType::Unicast | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            if daddr.is_multicast() {
                r.kind = RouteType::Multicast;
            } else if daddr.is_broadcast() {
                r.kind = RouteType::Broadcast;
            }
            // __mkroute_output: a group is reached on the link, whatever the default route's gateway.
            if r.kind == RouteType::Broadcast || (r.kind == RouteType::Multicast && r.dst_len < 4) {
                r.gw = None;
            }
            if let (true, Some(p)) = (saddr.is_unspecified(), r.prefsrc) {
                v4(p)
            } else {
                let gw = match r.gw {
                    Some(IpAddr::V4(g)) => g,
                    Some(IpAddr::V6(_)) | None => daddr,
                };
                or_select(ns, saddr, r.dev, gw, r.scope)
            }
        }
        RouteType::Blackhole => return Err(Errno::EINVAL),
        RouteType::Unreachable | RouteType::Throw => return Err(Errno::EHOSTUNREACH),
        RouteType::Prohibit => return Err(Errno::EACCES),
    };
    Ok((r, src))
}

fn v4(a: IpAddr) -> Ipv4Addr {
    match a {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn or_select(ns: &Namespace, saddr: Ipv4Addr, dev: IfIndex, dst: Ipv4Addr, s: u8) -> Ipv4Addr {
    if saddr.is_unspecified() {
        inet_select_addr(ns, dev, dst, s).unwrap_or(Ipv4Addr::UNSPECIFIED)
    } else {
        saddr
    }
}

/// The source address for `dst` on `dev` (`inet_select_addr`): a primary address whose subnet holds it, else
/// the first of sufficient scope, else one of another device.
#[must_use]
pub fn inet_select_addr(ns: &Namespace, dev: IfIndex, dst: Ipv4Addr, max_scope: u8) -> Option<Ipv4Addr> {
    let mut first = None;
    // Addresses of this host only, 127.0.0.1 above all, are for the link where route_localnet says so.
    let localnet = if dev_conf(ns, dev, Conf4::RouteLocalnet) { scope::LINK } else { scope::HOST };
    let of = |a: &crate::dev::IfAddr| match a.local {
        IpAddr::V4(v) if a.flags & ifa_f::SECONDARY == 0 && a.scope.min(localnet) <= max_scope => Some(v),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    if let Some(d) = ns.devs.get(dev) {
        for a in &d.addrs {
            let Some(v) = of(a) else { continue };
            if dst.is_unspecified() || a.contains(IpAddr::V4(dst)) {
                return Some(v);
            }
            first = first.or(Some(v));
        }
    }
    first.or_else(|| {
        ns.devs
            .iter()
            .filter(|d| d.index != dev)
            .flat_map(|d| &d.addrs)
            .filter(|a| a.scope != scope::LINK && a.scope <= max_scope)
            .find_map(of)
    })
}

/// The path MTU towards a route: learned (`pmtu`), the route's, or the device's.
#[must_use]
pub fn dst_mtu(ns: &Namespace, r: &Route, daddr: IpAddr) -> u32 {
    let dev = ns.devs.get(r.dev).map_or(1500, |d| d.mtu.min(65535));
    let base = if r.mtu > 0 { r.mtu.min(dev) } else { dev };
    ns.pmtu.get(ns.env.now, daddr).map_or(base, |m| m.min(base))
}
