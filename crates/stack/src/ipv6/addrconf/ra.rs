//! Routers: solicitation (RFC 4861 §6.3.7, RFC 7559), advertisements (§6.3.4), address autoconfiguration
//! (RFC 4862 §5.5).

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::sysctl::{Conf6, NeighParm};
use ferronet_core::{IfIndex, Instant};
use ferronet_wire::MacAddr;
use ferronet_wire::ipv6::IPV6_MIN_MTU;
use ferronet_wire::ndisc::{
    ND_RA_FLAG_MANAGED, ND_RA_FLAG_OTHER, ND_RA_FLAG_PREF, NdOptIter, NdOptions, PrefixInfo, RouterAdvert,
};

use super::super::addr::{LINKLOCAL_ALLROUTERS, is_link_local};
use super::super::ndisc;
use super::super::route::fib6_arm_gc;
use super::ifaddr::{self, Magic};
use super::{conf, dad, ifaprot, rearm};
use crate::dev::{IfAddr, ifa_f, scope};
use crate::fib::{Family, FibEntry, How, Metrics, NextHop, RouteType, proto, table_id};
use crate::neigh::output::neigh_update;
use crate::neigh::{NeighKey, News, Update, nud};
use crate::notify::Notify;
use crate::ns::Namespace;

/// An address made from an advertisement keeps at least this much of its life (RFC 4862 §5.5.3(e)).
const MIN_VALID_LIFETIME_S: u32 = 7200;

/// Does the device listen to routers (`ipv6_accept_ra`)? A router itself only with `accept_ra` 2.
#[must_use]
pub fn accept_ra(ns: &Namespace, dev: IfIndex) -> bool {
    let v = conf(ns, dev, Conf6::AcceptRa);
    if conf(ns, dev, Conf6::Forwarding) != 0 { v == 2 } else { v != 0 }
}

/// `irt` ± 10 % (RFC 3315 §14).
fn backoff_init(ns: &mut Namespace, irt: Duration) -> Duration {
    let ppm = 900_000 + u64::from(ns.env.rng.below(200_001));
    Duration::from_nanos((irt.as_nanos() as u64 / 1_000_000).saturating_mul(ppm))
}

fn backoff_update(ns: &mut Namespace, rt: Duration, mrt: Duration) -> Duration {
    let ppm = 1_900_000 + u64::from(ns.env.rng.below(200_001));
    let next = Duration::from_nanos((rt.as_nanos() as u64 / 1_000_000).saturating_mul(ppm));
    if next > mrt && !mrt.is_zero() { backoff_init(ns, mrt) } else { next }
}

fn secs(ns: &Namespace, dev: IfIndex, c: Conf6) -> Duration {
    Duration::from_secs(u64::try_from(conf(ns, dev, c)).unwrap_or(0))
}

/// The first solicitation, once there is a link-local address (end of `addrconf_dad_completed`).
pub(super) fn rs_start(ns: &mut Namespace, dev: IfIndex, lladdr: Ipv6Addr) {
    ndisc::ndisc_send_rs(ns, dev, lladdr, LINKLOCAL_ALLROUTERS);
    let base = secs(ns, dev, Conf6::RouterSolicitationInterval);
    let interval = backoff_init(ns, base);
    let at = ns.env.now + interval;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    (d.inet6.rs_interval, d.inet6.rs_probes, d.inet6.rs_sent) = (interval, 1, true);
    ns.env.timers.rearm(&mut d.inet6.rs_timer, at, TimerKey::RouterSolicit(dev));
}

/// No router answered yet (`addrconf_rs_timer`).
pub fn rs_timer(ns: &mut Namespace, dev: IfIndex) {
    let max = conf(ns, dev, Conf6::RouterSolicitations);
    let listens = accept_ra(ns, dev);
    let Some(d) = ns.devs.get_mut(dev) else { return };
    d.inet6.rs_timer = ferronet_core::timer::TimerId::NONE;
    if !d.is_up() || !d.inet6.ready || !listens || d.inet6.ra_rcvd {
        return;
    }
    let probes = d.inet6.rs_probes;
    if max >= 0 && i64::from(probes) >= i64::from(max) {
        return;
    }
    d.inet6.rs_probes += 1;
    let last = d.inet6.rs_interval;
    let Some(lladdr) = super::super::addr::ipv6_get_lladdr(ns, dev, ifa_f::TENTATIVE) else { return };
    ndisc::ndisc_send_rs(ns, dev, lladdr, LINKLOCAL_ALLROUTERS);
    let mrt = secs(ns, dev, Conf6::RouterSolicitationMaxInterval);
    let mut interval = backoff_update(ns, last, mrt);
    if i64::from(probes) + 1 == i64::from(max) {
        interval = secs(ns, dev, Conf6::RouterSolicitationDelay);
    }
    let at = ns.env.now + interval;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    d.inet6.rs_interval = interval;
    ns.env.timers.rearm(&mut d.inet6.rs_timer, at, TimerKey::RouterSolicit(dev));
}

/// A valid advertisement from `saddr` (`ndisc_router_discovery`).
pub fn ndisc_router_discovery(ns: &mut Namespace, dev: IfIndex, saddr: Ipv6Addr, ra: &RouterAdvert<'_>) {
    if !accept_ra(ns, dev) {
        return;
    }
    let own =
        conf(ns, dev, Conf6::AcceptRaFromLocal) == 0 && super::super::addr::ipv6_chk_addr(ns, saddr, dev);
    let Some(d) = ns.devs.get_mut(dev) else { return };
    if d.inet6.rs_sent {
        d.inet6.ra_rcvd = true;
    }
    d.inet6.ra_managed = ra.flags & ND_RA_FLAG_MANAGED != 0;
    d.inet6.ra_other = ra.flags & ND_RA_FLAG_OTHER != 0;
    let options = NdOptions::parse(ra.options).unwrap_or_default();
    if !own {
        default_router(ns, dev, saddr, ra);
        link_params(ns, dev, ra);
    }
    router_neigh(ns, dev, saddr, options.slla);
    if !own && conf(ns, dev, Conf6::AcceptRaPinfo) != 0 {
        for p in NdOptIter::new(ra.options).flatten().filter_map(|o| o.prefix_info().copied()) {
            addrconf_prefix_rcv(ns, dev, &p);
        }
    }
    if let (Some(mtu), true) = (options.mtu, conf(ns, dev, Conf6::AcceptRaMtu) != 0) {
        link_mtu(ns, dev, mtu);
    }
}

/// A default route of this router.
fn is_dflt(e: &FibEntry, dev: IfIndex, gw: Ipv6Addr) -> bool {
    e.protocol == proto::RA
        && e.dst_len == 0
        && e.nexthops.iter().any(|n| n.dev == dev && n.gw == Some(IpAddr::V6(gw)))
}

fn default_router(ns: &mut Namespace, dev: IfIndex, saddr: Ipv6Addr, ra: &RouterAdvert<'_>) {
    if conf(ns, dev, Conf6::AcceptRaDefrtr) == 0 {
        return;
    }
    let min_lft = conf(ns, dev, Conf6::AcceptRaMinLft);
    if ra.lifetime_s != 0 && i32::from(ra.lifetime_s) < min_lft {
        return;
    }
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let place = (table_id::MAIN, any, 0);
    if ra.lifetime_s == 0 {
        let _ = ns.fib.remove(&mut ns.notify, place, |e| is_dflt(e, dev, saddr));
        return;
    }
    // RFC 4191 §2.2: 01 high, 11 low, 10 is reserved and means medium.
    let pref = match (conf(ns, dev, Conf6::AcceptRaRtrPref), ra.flags & ND_RA_FLAG_PREF) {
        (0, _) => 0,
        (_, 0x08) => 1,
        (_, 0x18) => 3,
        (_, _) => 0,
    };
    let hops = i32::from(ra.cur_hop_limit);
    let hoplimit = (hops != 0 && hops >= conf(ns, dev, Conf6::AcceptRaMinHopLimit)).then_some(hops);
    if let (Some(h), Some(d)) = (hoplimit, ns.devs.get_mut(dev)) {
        d.conf6.0[Conf6::HopLimit as usize] = h;
    }
    let m = Metrics { hoplimit: hoplimit.map_or(0, i32::cast_unsigned), ..Metrics::default() };
    let expires = Some(ns.env.now + Duration::from_secs(u64::from(ra.lifetime_s)));
    let known = ns.fib.change(place, |e| {
        let same = is_dflt(e, dev, saddr);
        if same {
            (e.pref, e.expires) = (pref, expires);
            e.metrics.hoplimit = if m.hoplimit == 0 { e.metrics.hoplimit } else { m.hoplimit };
        }
        same
    });
    if !known {
        let gw = NextHop { gw: Some(IpAddr::V6(saddr)), dev, weight: 0, flags: 0, realm: 0 };
        let e = FibEntry {
            dst: any,
            dst_len: 0,
            tos: 0,
            table: table_id::MAIN,
            priority: u32::try_from(conf(ns, dev, Conf6::RaDefrtrMetric)).unwrap_or(1024),
            protocol: proto::RA,
            scope: scope::UNIVERSE,
            kind: RouteType::Unicast,
            prefsrc: None,
            nexthops: smallvec::smallvec![gw],
            metrics: m,
            pref,
            expires,
        };
        let how = How { create: true, excl: false, replace: false, append: true };
        let _ = ns.fib.insert(&mut ns.notify, e, how);
    }
    fib6_arm_gc(ns, expires);
}

/// Times of neighbour discovery that the router announces.
fn link_params(ns: &mut Namespace, dev: IfIndex, ra: &RouterAdvert<'_>) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    // Beyond this Linux takes the value for a mistake (MAX_SCHEDULE_TIMEOUT / HZ is far larger, i32 is our limit).
    let ok = |ms: u32| i32::try_from(ms).ok().filter(|v| *v > 0);
    if let Some(v) = ok(ra.retrans_ms) {
        d.neigh6.0[NeighParm::RetransTimeMs as usize] = v.max(10);
    }
    if let Some(v) = ok(ra.reachable_ms) {
        d.neigh6.0[NeighParm::BaseReachableTimeMs as usize] = v.max(10);
    }
}

fn router_neigh(ns: &mut Namespace, dev: IfIndex, saddr: Ipv6Addr, slla: Option<MacAddr>) {
    let key = NeighKey { dev, addr: IpAddr::V6(saddr) };
    let how = Update { override_lladdr: true, weak_override: true, is_router: Some(true), admin: false };
    neigh_update(ns, key, slla.is_some(), News { lladdr: slla, state: nud::STALE, how });
}

/// The MTU of the link, when it is a possible one.
fn link_mtu(ns: &mut Namespace, dev: IfIndex, mtu: u32) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let (Ok(v), true) = (i32::try_from(mtu), (IPV6_MIN_MTU..=d.mtu).contains(&mtu)) else { return };
    if d.conf6.get(Conf6::Mtu) != v {
        d.conf6.0[Conf6::Mtu as usize] = v;
        ns.devs.generation += 1;
    }
}

/// A prefix of the link (`addrconf_prefix_rcv`).
fn addrconf_prefix_rcv(ns: &mut Namespace, dev: IfIndex, p: &PrefixInfo) {
    let prefix = p.prefix();
    let (valid, preferred) = (p.valid(), p.prefered());
    if prefix.is_multicast() || is_link_local(prefix) || preferred > valid || p.prefix_len > 128 {
        return;
    }
    if p.onlink() {
        onlink_prefix(ns, dev, prefix, p.prefix_len, valid);
    }
    if p.autoconf() && conf(ns, dev, Conf6::Autoconf) != 0 && p.prefix_len == 64 {
        let half = prefix.to_bits() >> 64 << 64;
        let mode = conf(ns, dev, Conf6::AddrGenMode);
        let (iid, stable) = super::interface_id(ns, dev, half, mode);
        let a = Ipv6Addr::from_bits(half | u128::from(iid));
        add_autoconf(ns, dev, a, (valid, preferred), stable);
    }
}

fn until(now: Instant, secs: u32) -> Option<Instant> {
    (secs != u32::MAX).then(|| now + Duration::from_secs(u64::from(secs)))
}

/// The prefix can be reached without a router.
fn onlink_prefix(ns: &mut Namespace, dev: IfIndex, dst: Ipv6Addr, len: u8, valid: u32) {
    let m = Magic {
        kind: RouteType::Unicast,
        table: table_id::MAIN,
        dst,
        len,
        metric: ifaddr::IP6_RT_PRIO_ADDRCONF,
        expires: until(ns.env.now, valid),
    };
    if valid == 0 {
        ifaddr::del_route(ns, dev, &m);
    } else {
        ifaddr::add_route(ns, dev, m);
    }
}

/// RFC 4862 §5.5.3: a new address, or new lifetimes for one that exists (`addrconf_prefix_rcv_add_addr`).
fn add_autoconf(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr, (valid, preferred): (u32, u32), stable: bool) {
    let now = ns.env.now;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    if let Some(a) = d.addrs.iter_mut().find(|a| a.local == IpAddr::V6(v)) {
        if a.flags & ifa_f::PERMANENT != 0 {
            return;
        }
        // (e): no advertisement cuts the remaining life below two hours, unless it was shorter already.
        let age = u32::try_from((now - a.updated).as_secs()).unwrap_or(u32::MAX);
        let stored = if a.valid_lft == u32::MAX { u32::MAX } else { a.valid_lft.saturating_sub(age) };
        a.valid_lft = valid.max(stored.min(MIN_VALID_LIFETIME_S));
        a.preferred_lft = preferred;
        a.updated = now;
        if preferred > 0 {
            a.flags &= !ifa_f::DEPRECATED;
        }
        let (len, settled) = (a.prefix_len, a.flags & ifa_f::TENTATIVE == 0);
        if settled {
            ns.notify.push(Notify::AddrNew(dev, IpAddr::V6(v), len));
        }
        rearm(ns, dev);
        return;
    }
    let max = d.conf6.get(Conf6::MaxAddresses);
    let have = d.addrs.iter().filter(|a| a.local.is_ipv6()).count();
    if valid == 0 || (max > 0 && have >= max as usize) {
        return;
    }
    let mut flags = ifa_f::MANAGETEMPADDR;
    if stable {
        flags |= ifa_f::STABLE_PRIVACY;
    }
    if preferred == 0 {
        flags |= ifa_f::DEPRECATED;
    }
    let a = IfAddr {
        flags,
        valid_lft: valid,
        preferred_lft: preferred,
        proto: ifaprot::KERNEL_RA,
        ..IfAddr::new(IpAddr::V6(v), 64)
    };
    if ifaddr::ipv6_add_addr(ns, dev, a).is_ok() {
        ns.notify.push(Notify::AddrNew(dev, IpAddr::V6(v), 64));
        dad::dad_start(ns, dev, v);
        rearm(ns, dev);
    }
}

/// A router takes no default routes from others (`rt6_purge_dflt_routers`), except on devices with `accept_ra` 2.
pub fn rt6_purge_dflt_routers(ns: &mut Namespace) {
    let keep: Vec<IfIndex> =
        ns.devs.iter().filter(|d| d.conf6.get(Conf6::AcceptRa) == 2).map(|d| d.index).collect();
    let gone = |e: &FibEntry| {
        e.protocol == proto::RA && e.dst_len == 0 && !e.nexthops.iter().any(|n| keep.contains(&n.dev))
    };
    ns.fib.flush(&mut ns.notify, Family::V6, gone);
}

/// A neighbour says that it is a router no longer (`rt6_clean_tohost`).
pub fn rt6_clean_tohost(ns: &mut Namespace, gw: Ipv6Addr) {
    let gone =
        |e: &FibEntry| e.protocol == proto::RA && e.nexthops.iter().any(|n| n.gw == Some(IpAddr::V6(gw)));
    ns.fib.flush(&mut ns.notify, Family::V6, gone);
}
