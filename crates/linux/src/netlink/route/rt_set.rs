//! RTM_NEWROUTE, RTM_DELROUTE: from attributes to a route (`rtm_to_fib_config`, `rtm_to_fib6_config`). The checks are
//! in [`ferronet_stack::fib::semantics`].

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::fib::semantics::{self, Refused};
use ferronet_stack::fib::{Family, FibEntry, How, Metrics, NextHop, RouteType, table_id};
use ferronet_tcp::CongAlg;
use smallvec::SmallVec;

use super::super::Req;
use super::super::codec::{Attr, Attrs, Fields, Policy, Strictness, nlm_f, parse};
use super::ifindex;
use super::rt::{POLICY4, POLICY6, RTMSG, route_type, rta, rtnh_f};

type Tb<'a> = Attrs<'a, 31>;

/// A route as a request describes it (`struct fib_config`).
struct Config<'a> {
    entry: FibEntry,
    /// Type of the request as it came, 0 when it does not matter (deletion).
    kind: u8,
    scope: u8,
    tb: Tb<'a>,
}

fn refused(r: &mut Req<'_, '_>, e: Refused) -> Errno {
    if !e.text.is_empty() {
        r.ext.msg(e.text);
    }
    e.errno
}

/// An address attribute of a route's family; IPv6 prefixes may be cut short.
fn address(a: Attr<'_>, f: Family) -> Option<IpAddr> {
    match f {
        Family::V4 => a.ip4().map(IpAddr::V4),
        Family::V6 => {
            let mut b = [0; 16];
            for (d, s) in b.iter_mut().zip(a.data) {
                *d = *s;
            }
            Some(IpAddr::from(b))
        }
    }
}

/// `fib_gw_from_via`.
fn via(r: &mut Req<'_, '_>, a: Attr<'_>) -> Result<IpAddr, Errno> {
    let mut f = Fields(a.data);
    let family = f.u16();
    let b = f.b16();
    match (family, a.data.len()) {
        (2, 6..) => Ok(IpAddr::from([b[0], b[1], b[2], b[3]])),
        (10, 18..) => Ok(IpAddr::from(b)),
        (2 | 10, _) => r.ext.err(Errno::EINVAL, "Invalid attribute length for RTA_VIA"),
        _ => r.ext.err(Errno::EINVAL, "Unsupported address family in RTA_VIA"),
    }
}

/// `ip_metrics_convert`.
fn metrics(r: &mut Req<'_, '_>, a: Attr<'_>) -> Result<Metrics, Errno> {
    let mut m = Metrics::default();
    for x in a.nested() {
        let v = x.u32();
        if x.ty != 16 && x.data.len() != 4 && (1..=17).contains(&x.ty) {
            return r.ext.err_at(Errno::EINVAL, x.off, "Invalid attribute in metrics");
        }
        match x.ty {
            0 => {}
            1 => (m.mtu_lock, m.lock) = (v & 4 != 0, v),
            2 => m.mtu = v.min(65535 - 15),
            3 => m.window = v,
            4 => m.rtt = v,
            5 => m.rttvar = v,
            6 => m.ssthresh = v,
            7 => m.cwnd = v,
            8 => m.advmss = v.min(65535 - 40),
            9 => m.reordering = v,
            10 => m.hoplimit = v.min(255),
            11 => m.initcwnd = v,
            12 => m.features = v,
            13 => m.rto_min = v,
            14 => m.initrwnd = v,
            15 => m.quickack = v,
            16 => match CongAlg::from_name(&x.str()) {
                None => return r.ext.err(Errno::EINVAL, "Unknown tcp congestion algorithm"),
                alg => m.cc = alg,
            },
            17 => {}
            _ => return r.ext.err(Errno::EINVAL, "Invalid metric type"),
        }
    }
    Ok(m)
}

/// The next hops of `RTA_MULTIPATH` (`fib_get_nhs`).
fn multipath(r: &mut Req<'_, '_>, a: Attr<'_>, f: Family) -> Result<SmallVec<[NextHop; 1]>, Errno> {
    const INVALID: &str = "Invalid nexthop configuration - extra data after nexthop";
    let mut out = SmallVec::new();
    let mut rest = a.data;
    let mut off = a.off + 4;
    while !rest.is_empty() {
        let mut h = Fields(rest);
        let (len, flags, hops, dev) = (usize::from(h.u16()), h.u8(), h.u8(), h.i32());
        let Some(body) = rest.get(8..len) else {
            return r.ext.err(Errno::EINVAL, INVALID);
        };
        if flags & (rtnh_f::DEAD | rtnh_f::LINKDOWN) != 0 {
            let text = "Invalid flags for nexthop - can not contain DEAD or LINKDOWN";
            return r.ext.err(Errno::EINVAL, text);
        }
        let it = super::super::codec::AttrIter::new(body, off + 8);
        let (mut gw, mut realm) = (None, 0);
        for x in it {
            match x.ty {
                rta::GATEWAY => gw = address(x, f),
                rta::VIA => gw = Some(via(r, x)?),
                rta::FLOW => realm = x.u32(),
                _ => {}
            }
        }
        let dev = ifindex(dev).unwrap_or(IfIndex::NONE);
        out.push(NextHop { gw: gw.filter(|g| !g.is_unspecified()), dev, weight: hops, flags, realm });
        let step = super::super::codec::align4(len).min(rest.len());
        off += step;
        rest = rest.get(step..).unwrap_or_default();
    }
    Ok(out)
}

fn read<'a>(r: &mut Req<'a, '_>, f: Family) -> Result<Config<'a>, Errno> {
    let (head, attrs) = r.split(RTMSG).ok_or(Errno::EINVAL)?;
    let policy: &[Policy; 31] = match f {
        Family::V4 => &POLICY4,
        Family::V6 => &POLICY6,
    };
    let tb = parse(attrs, policy, Strictness::Liberal, &mut r.ext)?;
    let mut h = Fields(head);
    let (_, dst_len, src_len, tos) = (h.u8(), h.u8(), h.u8(), h.u8());
    let (table, protocol, rscope, kind, flags) = (h.u8(), h.u8(), h.u8(), h.u8(), h.u32());
    check_header(r, f, (dst_len, src_len, tos, kind), flags)?;
    if f == Family::V6 && src_len != 0 {
        return r.ext.err(Errno::EINVAL, "Specifying source address requires IPV6_SUBTREES to be enabled");
    }
    let dst = match tb.get(rta::DST) {
        Some(a) => address(a, f).ok_or(Errno::EINVAL)?,
        None => f.any(),
    };
    if f == Family::V4 && ferronet_stack::fib::prefix(dst, dst_len) != dst {
        return r.ext.err(Errno::EINVAL, "Invalid prefix for given prefix length");
    }
    let dev = tb.get(rta::OIF).and_then(|a| ifindex(a.i32())).unwrap_or(IfIndex::NONE);
    let mut gw = tb.get(rta::GATEWAY).and_then(|a| address(a, f)).filter(|g| !g.is_unspecified());
    if let Some(a) = tb.get(rta::VIA) {
        if tb.has(rta::GATEWAY) {
            let text = "Nexthop configuration can not contain both GATEWAY and VIA";
            return r.ext.err(Errno::EINVAL, text);
        }
        gw = Some(via(r, a)?);
    }
    if tb.u32(rta::NH_ID).is_some_and(|id| id != 0) {
        return r.ext.err(Errno::EINVAL, "Nexthop id does not exist");
    }
    let mut nexthops = match tb.get(rta::MULTIPATH).filter(|a| !a.data.is_empty()) {
        Some(a) => multipath(r, a, f)?,
        None => SmallVec::new(),
    };
    if nexthops.is_empty() {
        let realm = tb.u32(rta::FLOW).unwrap_or(0);
        nexthops.push(NextHop { gw, dev, weight: 0, flags: flags as u8, realm });
    }
    let mut table = tb.u32(rta::TABLE).unwrap_or(u32::from(table));
    if table == 0 {
        table = table_id::MAIN;
    }
    let priority = tb.u32(rta::PRIORITY).unwrap_or(0);
    let metrics = match tb.get(rta::METRICS) {
        Some(a) => metrics(r, a)?,
        None => Metrics::default(),
    };
    let entry = FibEntry {
        dst: ferronet_stack::fib::prefix(dst, dst_len),
        dst_len,
        tos: if f == Family::V4 { tos } else { 0 },
        table,
        priority,
        protocol,
        scope: rscope,
        kind: route_type(kind).unwrap_or(RouteType::Unicast),
        prefsrc: tb.get(rta::PREFSRC).and_then(|a| address(a, f)).filter(|a| !a.is_unspecified()),
        nexthops,
        metrics,
        pref: tb.get(rta::PREF).map_or(0, |a| a.u8()),
        expires: expires(r, &tb),
    };
    Ok(Config { entry, kind, scope: rscope, tb })
}

fn expires(r: &Req<'_, '_>, tb: &Tb<'_>) -> Option<ferronet_core::Instant> {
    let secs = tb.u32(rta::EXPIRES).filter(|s| *s != 0)?;
    Some(r.net().ok()?.env.now + core::time::Duration::from_secs(u64::from(secs)))
}

/// What the fixed part may say.
fn check_header(r: &mut Req<'_, '_>, f: Family, h: (u8, u8, u8, u8), flags: u32) -> Result<(), Errno> {
    let (dst_len, src_len, tos, kind) = h;
    if f == Family::V6 && tos != 0 {
        return r.ext.err(Errno::EINVAL, "Invalid dsfield (tos): option not available for IPv6");
    }
    if f == Family::V4 && tos & 3 != 0 {
        return r.ext.err(Errno::EINVAL, "Invalid dsfield (tos): ECN bits must be 0");
    }
    // RTN_MAX is 11: NAT and xresolve have numbers, though nothing implements them.
    if kind > 11 {
        return r.ext.err(Errno::EINVAL, "Invalid route type");
    }
    if f == Family::V4 && dst_len > 32 {
        return r.ext.err(Errno::EINVAL, "Invalid prefix length");
    }
    if f == Family::V6 && (dst_len > 128 || src_len > 128) {
        return Err(Errno::EINVAL);
    }
    let bad = u32::from(rtnh_f::DEAD | rtnh_f::LINKDOWN);
    if flags & bad != 0 && r.hdr.ty == super::rtm::NEWROUTE {
        return r.ext.err(Errno::EINVAL, "Invalid rtm_flags - can not contain DEAD or LINKDOWN");
    }
    Ok(())
}

/// RTM_NEWROUTE (`inet_rtm_newroute`, `inet6_rtm_newroute`).
pub(super) fn newroute(r: &mut Req<'_, '_>, f: Family) -> Result<(), Errno> {
    let c = read(r, f)?;
    let mut e = c.entry;
    if c.tb.has(rta::MULTIPATH) && f == Family::V4 {
        let oif = c.tb.get(rta::OIF).and_then(|a| ifindex(a.i32()));
        if oif.is_some_and(|o| e.nexthops.iter().any(|n| n.dev != o)) {
            return r.ext.err(Errno::EINVAL, "Nexthop device index does not match RTA_OIF");
        }
    }
    // RTN_NAT and RTN_XRESOLVE have a scope that no route can have (fib_props).
    if c.kind > 9 && f == Family::V4 {
        return r.ext.err(Errno::EINVAL, "Invalid scope");
    }
    if c.kind == 0 {
        e.kind = RouteType::Unicast;
    }
    let how = How {
        create: r.has(nlm_f::CREATE),
        excl: r.has(nlm_f::EXCL),
        replace: r.has(nlm_f::REPLACE),
        append: r.has(nlm_f::APPEND),
    };
    let net = r.net_mut()?;
    match semantics::route_add(net, e, how) {
        Ok(()) => Ok(()),
        Err(x) => Err(refused(r, x)),
    }
}

/// RTM_DELROUTE: the first route that fits what the request names (`fib_table_delete`, `ip6_route_del`).
pub(super) fn delroute(r: &mut Req<'_, '_>, f: Family) -> Result<(), Errno> {
    let c = read(r, f)?;
    let e = c.entry;
    if r.net()?.fib.table(f, e.table).is_none_or(|t| !t.was_used() && e.table != table_id::MAIN) {
        return r.ext.err(Errno::ESRCH, "FIB table does not exist");
    }
    let what =
        semantics::Delete { kind: c.kind, scope: c.scope, multipath: c.tb.has(rta::MULTIPATH), route: e };
    let net = r.net_mut()?;
    semantics::route_del(net, &what)
}
