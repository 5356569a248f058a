//! Routing decisions of IPv6 (`net/ipv6/route.c`) and the choice of a source address (RFC 6724, `addrconf.c`).

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use ferronet_core::sysctl::Conf6;
use ferronet_core::timer::TimerId;
use ferronet_core::{DropReason, Errno, IfIndex, Instant, Packet, Sysctl};
use ferronet_wire::icmpv6 as wire;
use ferronet_wire::ipv6::IPV6_MIN_MTU;

use super::addr::{SCOPE_LINKLOCAL, addr_scope, common_prefix, is_link_local, need_strict};
use crate::dev::{IfAddr, ifa_f, scope};
use crate::fib::{Family, Flow, Route, RouteType, table_id};
use crate::ns::Namespace;

/// Why an input lookup gave no usable route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteError {
    /// How the packet ends.
    pub reason: DropReason,
    /// ICMPv6 destination-unreachable code to send; `None` for silence.
    pub code: Option<u8>,
}

/// A route that needs no table: straight to the link (`icmp6_dst_alloc`), or in from it.
#[must_use]
pub fn direct(dev: IfIndex, kind: RouteType) -> Route {
    Route {
        kind,
        dev,
        gw: None,
        prefsrc: None,
        scope: scope::UNIVERSE,
        table: table_id::LOCAL,
        dst_len: 128,
        mtu: 0,
        advmss: 0,
        hoplimit: 0,
        initcwnd: 0,
        nh_flags: 0,
        multipath: false,
    }
}

/// Where a received packet goes (`ip6_route_input`). For a local address the route's device is the one that has the
/// address.
///
/// # Errors
/// No route, and routes that refuse.
pub fn ip6_route_input(
    ns: &Namespace,
    p: &Packet,
    saddr: Ipv6Addr,
    daddr: Ipv6Addr,
    tclass: u8,
    dev: IfIndex,
) -> Result<Route, RouteError> {
    if daddr.is_multicast() {
        return Ok(direct(dev, RouteType::Multicast));
    }
    // Link-local addresses belong to one link; what comes over lo was routed by its sender.
    let strict = need_strict(daddr) && dev != IfIndex::LO;
    let flow = Flow {
        src: IpAddr::V6(saddr),
        tos: tclass,
        mark: p.meta().mark,
        iif: dev,
        oif: if strict { dev } else { IfIndex::NONE },
        hash: p.meta().hash,
        ..Flow::to(IpAddr::V6(daddr))
    };
    let no = |reason, code| Err(RouteError { reason, code });
    let Some(r) = ns.fib.lookup(&flow, &ns.devs) else {
        let reason = if daddr.is_unspecified() { DropReason::Ip6InAddr } else { DropReason::Ip6NoRoute };
        return no(reason, Some(wire::ICMPV6_NOROUTE));
    };
    match r.kind {
        RouteType::Local | RouteType::Anycast | RouteType::Unicast => Ok(r),
        RouteType::Blackhole => no(DropReason::IpRouteBlackhole, None),
        RouteType::Prohibit => no(DropReason::IpRouteProhibit, Some(wire::ICMPV6_ADM_PROHIBITED)),
        RouteType::Unreachable => no(DropReason::Ip6NoRoute, Some(wire::ICMPV6_NOROUTE)),
        RouteType::Multicast | RouteType::Broadcast | RouteType::Throw => {
            no(DropReason::Ip6NoRoute, Some(wire::ICMPV6_NOROUTE))
        }
    }
}

/// A route for local output and the source address to use (`ip6_route_output`, `ip6_dst_lookup_tail`). `flow.src`
/// may be unspecified; `flow.oif` is the device a socket is bound to or the scope of a link-local destination.
///
/// # Errors
/// `ENETUNREACH` without a route; `EHOSTUNREACH`, `EACCES`, `EINVAL` by route type; `EADDRNOTAVAIL` when no address
/// of ours can speak to the destination.
pub fn ip6_route_output(ns: &Namespace, flow: &Flow) -> Result<(Route, Ipv6Addr), Errno> {
    let (IpAddr::V6(daddr), IpAddr::V6(saddr)) = (flow.dst, flow.src) else {
        return Err(Errno::EAFNOSUPPORT);
    };
    // Connecting to the unspecified address means this host (tcp_v6_connect, udpv6_sendmsg).
    let daddr = if daddr.is_unspecified() { Ipv6Addr::LOCALHOST } else { daddr };
    let flow = Flow { dst: IpAddr::V6(daddr), ..*flow };
    let any_src = saddr.is_unspecified();
    let mut found = ns.fib.lookup(&flow, &ns.devs);
    if found.is_none() && !flow.oif.is_none() && !any_src && !need_strict(daddr) {
        // The device is only a preference then (RT6_LOOKUP_F_IFACE is not set).
        found = ns.fib.lookup(&Flow { oif: IfIndex::NONE, ..flow }, &ns.devs);
    }
    let mut r = found.ok_or(Errno::ENETUNREACH)?;
    if let (Some(_), Some(hop)) = (r.gw, ns.inet6.redirects.get(r.dev, daddr)) {
        r.gw = (hop != daddr).then_some(IpAddr::V6(hop));
    }
    match r.kind {
        RouteType::Blackhole => return Err(Errno::EINVAL),
        RouteType::Unreachable | RouteType::Broadcast => return Err(Errno::EHOSTUNREACH),
        RouteType::Throw => return Err(Errno::ENETUNREACH),
        RouteType::Prohibit => return Err(Errno::EACCES),
        RouteType::Unicast | RouteType::Local | RouteType::Anycast | RouteType::Multicast => {}
    }
    if daddr.is_multicast() {
        r.kind = RouteType::Multicast;
    }
    let src = match (any_src, r.prefsrc) {
        (false, _) => saddr,
        (true, Some(IpAddr::V6(p))) => p,
        (true, Some(IpAddr::V4(_)) | None) => {
            ipv6_dev_get_saddr(ns, r.dev, daddr).ok_or(Errno::EADDRNOTAVAIL)?
        }
    };
    if matches!(r.kind, RouteType::Local | RouteType::Anycast) {
        r.dev = IfIndex::LO;
    }
    Ok((r, src))
}

/// How good an address is, most important first; larger is better (RFC 6724 §5 as `ipv6_get_saddr_eval` orders it).
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Rule 1: the destination itself.
    same: bool,
    /// Rule 2: the smallest scope that is large enough.
    scope: i16,
    /// Rule 3: not deprecated.
    preferred: bool,
    /// Rule 5: on the device the packet leaves by.
    oif: bool,
    /// Rule 6: same label.
    label: bool,
    /// Rule 8: longest common prefix, within the address's own.
    prefix: u8,
    /// Not optimistic.
    settled: bool,
}

/// The source address for `daddr` when it is sent through `dev` (`ipv6_dev_get_saddr`).
#[must_use]
pub fn ipv6_dev_get_saddr(ns: &Namespace, dev: IfIndex, daddr: Ipv6Addr) -> Option<Ipv6Addr> {
    // The unspecified address has less than any scope.
    let dst_scope = if daddr.is_unspecified() { -1 } else { i16::from(addr_scope(daddr)) };
    let only_oif = !dev.is_none()
        && (daddr.is_multicast()
            || dst_scope <= i16::from(SCOPE_LINKLOCAL)
            || ns.devs.get(dev).is_some_and(|d| d.conf6.get(Conf6::UseOifAddrsOnly) != 0));
    let dst_label = ns.inet6.labels.label(daddr, dev);
    let mut best: Option<(Score, Ipv6Addr)> = None;
    for d in ns.devs.iter().filter(|d| !only_oif || d.index == dev) {
        for i in &d.addrs {
            let IpAddr::V6(a) = i.local else { continue };
            if i.flags & ifa_f::TENTATIVE != 0 && i.flags & ifa_f::OPTIMISTIC == 0 {
                continue;
            }
            let s = Score {
                oif: dev.is_none() || d.index == dev,
                label: ns.inet6.labels.label(a, d.index) == dst_label,
                ..score(i, a, daddr, dst_scope)
            };
            if best.as_ref().is_none_or(|b| s > b.0) {
                best = Some((s, a));
            }
        }
    }
    best.map(|b| b.1)
}

/// What does not depend on the device and the labels.
fn score(i: &IfAddr, a: Ipv6Addr, daddr: Ipv6Addr, dst_scope: i16) -> Score {
    let s = i16::from(addr_scope(a));
    Score {
        same: a == daddr,
        scope: if s >= dst_scope { -s } else { s - 128 },
        preferred: a.is_loopback() || i.flags & (ifa_f::DEPRECATED | ifa_f::OPTIMISTIC) == 0,
        oif: false,
        label: false,
        prefix: common_prefix(a, daddr).min(i.prefix_len),
        settled: i.flags & ifa_f::OPTIMISTIC == 0,
    }
}

/// The path MTU towards a route: learned (`pmtu`), the route's, or the device's (`ip6_mtu`). Never below 1,280.
#[must_use]
pub fn dst_mtu(ns: &Namespace, r: &Route, daddr: IpAddr) -> u32 {
    // IP6_MAX_MTU: the largest payload plus the header.
    const MAX: u32 = 65_535 + 40;
    let dev = ns.devs.get(r.dev).map_or(IPV6_MIN_MTU, |d| {
        u32::try_from(d.conf6.get(Conf6::Mtu)).unwrap_or(0).min(d.mtu).clamp(IPV6_MIN_MTU, MAX)
    });
    let base = if r.mtu > 0 { r.mtu.min(dev).max(IPV6_MIN_MTU) } else { dev };
    ns.pmtu.get(ns.env.now, daddr).map_or(base, |m| m.min(base))
}

/// Learns a path MTU from a packet-too-big message (`__ip6_rt_update_pmtu`). Below 1,280 it is ignored: since RFC 8200
/// no link may ask for less, and acting on it allowed attacks with atomic fragments (RFC 8021).
pub fn update_pmtu(ns: &mut Namespace, daddr: Ipv6Addr, mtu: u32) {
    let a = IpAddr::V6(daddr);
    let known = ns.pmtu.get(ns.env.now, a);
    if mtu < IPV6_MIN_MTU || known.is_some_and(|m| mtu >= m) {
        return;
    }
    let secs = u64::try_from(ns.env.sysctl.get(Sysctl::Ip6RouteMtuExpires)).unwrap_or(0);
    ns.pmtu.learn(ns.env.now, a, mtu, Duration::from_secs(secs));
}

/// The hop limit of a packet to a route (`ip6_dst_hoplimit`).
#[must_use]
pub fn hop_limit(ns: &Namespace, r: &Route) -> u8 {
    if r.hoplimit != 0 {
        return r.hoplimit;
    }
    let conf = ns
        .devs
        .get(r.dev)
        .map_or_else(|| ns.conf.all6.get(Conf6::HopLimit), |d| d.conf6.get(Conf6::HopLimit));
    u8::try_from(conf).unwrap_or(64)
}

/// Does the flow between these two need the device to be named (`__ipv6_addr_needs_scope_id`)?
#[must_use]
pub fn needs_scope_id(a: Ipv6Addr) -> bool {
    is_link_local(a) || (a.is_multicast() && addr_scope(a) <= SCOPE_LINKLOCAL)
}

/// Better first hops that routers told us about (RFC 4861 §8.3; `RTF_DYNAMIC` exceptions of Linux).
#[derive(Debug)]
pub struct Redirects {
    map: KeyedMap<(u32, u128), Ipv6Addr>,
}

/// Redirected destinations at most; beyond it the cache starts anew.
const MAX_REDIRECTS: usize = 4096;

impl Redirects {
    /// An empty cache with its own hash key.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        Redirects { map: KeyedMap::with_hasher(KeyedState::new(rng)) }
    }
    /// The first hop for a destination on a device; the destination itself when it is on the link.
    #[must_use]
    pub fn get(&self, dev: IfIndex, dest: Ipv6Addr) -> Option<Ipv6Addr> {
        if self.map.is_empty() {
            return None;
        }
        self.map.get(&(dev.0, dest.to_bits())).copied()
    }
    /// Remembers one.
    pub fn learn(&mut self, dev: IfIndex, dest: Ipv6Addr, hop: Ipv6Addr) {
        if self.map.len() >= MAX_REDIRECTS {
            self.map.clear();
        }
        self.map.insert((dev.0, dest.to_bits()), hop);
    }
    /// Forgets all (routes changed, `ip -6 route flush cache`).
    pub fn flush(&mut self) {
        self.map.clear();
    }
    /// Forgets those through a device.
    pub fn forget_dev(&mut self, dev: IfIndex) {
        self.map.retain(|k, _| k.0 != dev.0);
    }
}

/// A route ends at `expires`: makes sure that [`fib6_gc`] runs then.
pub fn fib6_arm_gc(ns: &mut Namespace, expires: Option<Instant>) {
    let Some(at) = expires else { return };
    if ns.inet6.route_gc_at > at || ns.inet6.route_timer.is_none() {
        ns.inet6.route_gc_at = at;
        ns.env.timers.rearm(&mut ns.inet6.route_timer, at, TimerKey::Route(0));
    }
}

/// Removes routes whose time is up (`fib6_run_gc`).
pub fn fib6_gc(ns: &mut Namespace) {
    ns.inet6.route_timer = TimerId::NONE;
    ns.inet6.route_gc_at = Instant::NEVER;
    let now = ns.env.now;
    ns.fib.flush(&mut ns.notify, Family::V6, |e| e.expires.is_some_and(|t| t <= now));
    let next = ns.fib.tables(Family::V6).flat_map(|t| t.1.iter()).filter_map(|e| e.expires).min();
    fib6_arm_gc(ns, next);
}
