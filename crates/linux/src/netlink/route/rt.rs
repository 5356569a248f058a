//! The content of RTM_NEWROUTE and dumps of routes (`fib_dump_info`, `rt6_fill_node`, `inet_dump_fib`).

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_stack::fib::{Family, FibEntry, Metrics, NextHop, Place, RouteType, table_id};

use super::super::Req;
use super::super::codec::{Fields, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Out, Source};
use super::{family, ifindex, pf_of, rtm};
use crate::kernel::Kernel;

/// Attributes of a route (`RTA_*`).
#[allow(missing_docs, reason = "rtnetlink(7)")]
pub(super) mod rta {
    pub(crate) const DST: u16 = 1;
    pub(crate) const SRC: u16 = 2;
    pub(crate) const IIF: u16 = 3;
    pub(crate) const OIF: u16 = 4;
    pub(crate) const GATEWAY: u16 = 5;
    pub(crate) const PRIORITY: u16 = 6;
    pub(crate) const PREFSRC: u16 = 7;
    pub(crate) const METRICS: u16 = 8;
    pub(crate) const MULTIPATH: u16 = 9;
    pub(crate) const FLOW: u16 = 11;
    pub(crate) const CACHEINFO: u16 = 12;
    pub(crate) const TABLE: u16 = 15;
    pub(crate) const MARK: u16 = 16;
    pub(crate) const VIA: u16 = 18;
    pub(crate) const PREF: u16 = 20;
    pub(crate) const EXPIRES: u16 = 23;
    pub(crate) const UID: u16 = 25;
    pub(crate) const IP_PROTO: u16 = 27;
    pub(crate) const SPORT: u16 = 28;
    pub(crate) const DPORT: u16 = 29;
    pub(crate) const NH_ID: u16 = 30;
}

/// Flags of a route message.
pub(super) mod rtm_f {
    pub(crate) const CLONED: u32 = 0x200;
    pub(crate) const PREFIX: u32 = 0x800;
    pub(crate) const LOOKUP_TABLE: u32 = 0x1000;
    pub(crate) const FIB_MATCH: u32 = 0x2000;
}

/// Flags of a next hop.
pub(super) mod rtnh_f {
    pub(crate) const DEAD: u8 = 1;
    pub(crate) const LINKDOWN: u8 = 16;
}

/// Bytes of `struct rtmsg`.
pub(super) const RTMSG: usize = 12;

/// `rtm_ipv4_policy`.
#[rustfmt::skip]
pub(super) const POLICY4: [Policy; 31] = {
    use Policy::{Any, Min, Nested, U8, U16, U32, Binary};
    [
        Any, U32, U32, U32, U32, U32, U32, U32, Nested, Min(8), // 0 to 9
        Any, U32, Any, Any, Any, U32, U32, Any, Binary(18), Any, // 10 to 19
        Any, U16, Nested, Any, Any, U32, Any, U8, U16, U16, // 20 to 29
        U32,
    ]
};
/// `rtm_ipv6_policy`.
#[rustfmt::skip]
pub(super) const POLICY6: [Policy; 31] = {
    use Policy::{Any, Min, Nested, U8, U16, U32};
    [
        Any, Any, Any, U32, U32, Min(16), U32, Any, Nested, Min(8), // 0 to 9
        Any, Any, Any, Any, Any, U32, U32, Any, Any, Any, // 10 to 19
        U8, U16, Nested, U32, Any, U32, Any, U8, U16, U16, // 20 to 29
        U32,
    ]
};

/// `RTAX_*` numbers with the values of a route, in order.
fn rtax(m: &Metrics) -> [(u16, u32); 14] {
    [
        (1, m.lock),
        (2, m.mtu),
        (3, m.window),
        (4, m.rtt),
        (5, m.rttvar),
        (6, m.ssthresh),
        (7, m.cwnd),
        (8, m.advmss),
        (9, m.reordering),
        (10, m.hoplimit),
        (11, m.initcwnd),
        (12, m.features),
        (13, m.rto_min),
        (14, m.initrwnd),
    ]
}

/// `rtnetlink_put_metrics`.
pub(super) fn put_metrics(m: &mut Msg, x: &Metrics) {
    let n = m.nest(rta::METRICS);
    let before = m.len();
    for (ty, v) in rtax(x).into_iter().chain([(15, x.quickack)]).filter(|v| v.1 != 0) {
        // RTAX_LOCK, then by number as the kernel's array.
        m.u32(ty, v);
    }
    if let Some(cc) = x.cc {
        m.str(16, cc.name());
    }
    if m.len() == before {
        m.cancel(n);
    } else {
        m.end(n);
    }
}

/// `RTA_GATEWAY`, or `RTA_VIA` for a gateway of the other family.
pub(super) fn put_gateway(m: &mut Msg, family: Family, gw: IpAddr) {
    if Family::of(gw) == family {
        m.ip(rta::GATEWAY, gw);
        return;
    }
    let mut via = u16::from(pf_of(Family::of(gw))).to_ne_bytes().to_vec();
    match gw {
        IpAddr::V4(a) => via.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => via.extend_from_slice(&a.octets()),
    }
    m.put(rta::VIA, &via);
}

/// `rta_cacheinfo`: users, last use, expiry in hundredths of a second, error.
pub(super) fn put_cacheinfo(m: &mut Msg, users: u32, expires: i32, error: i32) {
    let words = [users, 0, expires.cast_unsigned(), error.cast_unsigned(), 0, 0, 0, 0];
    let b: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    m.put(rta::CACHEINFO, &b);
}

/// Hundredths of a second until `at`.
pub(super) fn clock_t(at: Option<Instant>, now: Instant) -> i32 {
    at.map_or(0, |t| i32::try_from((t - now).as_millis() / 10).unwrap_or(i32::MAX))
}

/// `struct rtmsg`.
pub(super) struct RtMsg {
    pub(super) family: u8,
    pub(super) lens: (u8, u8),
    pub(super) tos: u8,
    pub(super) table: u32,
    pub(super) protocol: u8,
    pub(super) scope: u8,
    pub(super) kind: u8,
    pub(super) flags: u32,
}

impl RtMsg {
    /// Writes it and `RTA_TABLE`.
    pub(super) fn put(&self, m: &mut Msg) {
        const RT_TABLE_COMPAT: u8 = 252;
        let table = u8::try_from(self.table).unwrap_or(RT_TABLE_COMPAT);
        m.raw(&[self.family, self.lens.0, self.lens.1, self.tos]);
        m.raw(&[table, self.protocol, self.scope, self.kind]);
        m.raw(&self.flags.to_ne_bytes());
        m.u32(rta::TABLE, self.table);
    }
}

/// `RTA_FLOW` (CONFIG_IP_ROUTE_CLASSID).
fn put_realm(m: &mut Msg, n: &NextHop) {
    if n.realm != 0 {
        m.u32(rta::FLOW, n.realm);
    }
}

fn put_nexthops(m: &mut Msg, family: Family, e: &FibEntry) {
    match e.nexthops.as_slice() {
        // Refusing routes of IPv6 point to lo.
        [] if family == Family::V6 => m.u32(rta::OIF, 1),
        [] => {}
        [n] => {
            if let Some(g) = n.gw {
                put_gateway(m, family, g);
            }
            if !n.dev.is_none() {
                m.u32(rta::OIF, n.dev.0);
            }
            put_realm(m, n);
        }
        many => {
            let nest = m.nest(rta::MULTIPATH);
            for n in many {
                let at = m.len();
                m.raw(&[0, 0, n.flags, n.weight]);
                m.raw(&n.dev.0.to_ne_bytes());
                if let Some(g) = n.gw {
                    put_gateway(m, family, g);
                }
                put_realm(m, n);
                let len = u16::try_from(m.len() - at).unwrap_or(u16::MAX);
                m.patch(at, &len.to_ne_bytes());
            }
            m.end(nest);
        }
    }
}

/// Writes a route into a message that has only its netlink header.
pub(in super::super) fn fill(mut m: Msg, e: &FibEntry, now: Instant) -> Vec<u8> {
    let f = Family::of(e.dst);
    let flags = match e.nexthops.as_slice() {
        [n] => u32::from(n.flags),
        // fib_info: the route itself is down when all its next hops are.
        [_, ..] if f == Family::V4 && e.nexthops.iter().all(|n| n.flags & rtnh_f::LINKDOWN != 0) => {
            u32::from(rtnh_f::LINKDOWN)
        }
        _ => 0,
    };
    let scope = if f == Family::V6 { 0 } else { e.scope };
    RtMsg {
        family: pf_of(f),
        lens: (e.dst_len, 0),
        tos: e.tos,
        table: e.table,
        protocol: e.protocol,
        scope,
        kind: e.kind as u8,
        flags,
    }
    .put(&mut m);
    if e.dst_len > 0 {
        m.ip(rta::DST, e.dst);
    }
    match f {
        Family::V4 => {
            if e.priority != 0 {
                m.u32(rta::PRIORITY, e.priority);
            }
            put_metrics(&mut m, &e.metrics);
            if let Some(p) = e.prefsrc {
                m.ip(rta::PREFSRC, p);
            }
            put_nexthops(&mut m, f, e);
        }
        Family::V6 => {
            if let Some(p) = e.prefsrc {
                m.ip(rta::PREFSRC, p);
            }
            put_metrics(&mut m, &e.metrics);
            m.u32(rta::PRIORITY, e.priority);
            put_nexthops(&mut m, f, e);
            put_cacheinfo(&mut m, 0, clock_t(e.expires, now), 0);
            m.u8(rta::PREF, e.pref);
        }
    }
    m.finish()
}

/// RTM_GETROUTE for all.
pub(super) fn dump(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let mut d = RouteDump { ns: r.ns, family: family(pf), ..RouteDump::default() };
    match dump_filter(r, &mut d) {
        Ok(()) => r.start(d),
        Err((e, filtered)) => r.fail_dump(e, filtered),
    }
    Ok(())
}

/// `ip_valid_fib_dump_req`.
fn dump_filter(r: &mut Req<'_, '_>, d: &mut RouteDump) -> Result<(), (Errno, bool)> {
    let Some((head, attrs)) = r.split(RTMSG) else {
        if r.strict {
            r.ext.msg("Invalid header for FIB dump request");
            return Err((Errno::EINVAL, false));
        }
        return Ok(());
    };
    let mut f = Fields(head);
    let (_, dst_len, src_len, tos) = (f.u8(), f.u8(), f.u8(), f.u8());
    let (table, protocol, scope, kind, flags) = (f.u8(), f.u8(), f.u8(), f.u8(), f.u32());
    d.cache_only = flags & rtm_f::CLONED != 0;
    if !r.strict {
        return Ok(());
    }
    let no = (Errno::EINVAL, false);
    if dst_len != 0 || src_len != 0 || tos != 0 || scope != 0 {
        r.ext.msg("Invalid values in header for FIB dump request");
        return Err(no);
    }
    if flags & !(rtm_f::CLONED | rtm_f::PREFIX) != 0 {
        r.ext.msg("Invalid flags for FIB dump request");
        return Err(no);
    }
    d.protocol = protocol;
    d.kind = kind;
    d.table = u32::from(table);
    let tb = parse(attrs, &POLICY4, Strictness::Strict, &mut r.ext).map_err(|e| (e, false))?;
    if tb.iter().any(|a| a.ty != rta::TABLE && a.ty != rta::OIF) {
        r.ext.msg("Unsupported attribute in dump request");
        return Err(no);
    }
    if let Some(t) = tb.u32(rta::TABLE) {
        d.table = t;
    }
    if let Some(a) = tb.get(rta::OIF) {
        let dev = ifindex(a.i32()).filter(|i| r.net().is_ok_and(|n| n.devs.get(*i).is_some()));
        d.dev = Some(dev.ok_or((Errno::ENODEV, false))?);
    }
    d.filtered = flags & rtm_f::CLONED != 0 || protocol != 0 || kind != 0 || d.table != 0 || d.dev.is_some();
    // Asked for all families, a table that one of them lacks is no error.
    let Some(family) = d.family else { return Ok(()) };
    let there = r.net().ok().and_then(|n| n.fib.table(family, d.table));
    // IPv4 makes tables, except main, with their first route.
    let there = there.filter(|t| family == Family::V6 || d.table == table_id::MAIN || t.was_used());
    if d.table != 0 && there.is_none() {
        r.ext.msg(match family {
            Family::V4 => "ipv4: FIB table does not exist",
            Family::V6 => "ipv6: FIB table does not exist",
        });
        return Err((Errno::ENOENT, true));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct RouteDump {
    ns: NsId,
    /// Both when `None`.
    family: Option<Family>,
    table: u32,
    protocol: u8,
    kind: u8,
    dev: Option<IfIndex>,
    filtered: bool,
    /// Only learned exceptions are asked for, of which none are kept as routes.
    cache_only: bool,
    v4_done: bool,
    /// Table to go on with, the last prefix of it that is done, and routes of the next one that are done.
    at: (u32, Option<Place>, usize),
}

impl RouteDump {
    fn wants(&self, e: &FibEntry) -> bool {
        (self.protocol == 0 || e.protocol == self.protocol)
            && (self.kind == 0 || e.kind as u8 == self.kind)
            && self.dev.is_none_or(|d| e.nexthops.iter().any(|n: &NextHop| n.dev == d))
    }

    fn one_family(&mut self, cx: &mut DumpCx<'_>, f: Family, want: usize, out: &mut Out) -> bool {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return true };
        let flags = nlm_f::MULTI | if self.filtered { nlm_f::DUMP_FILTERED } else { 0 };
        let order_of = net.fib.dump_order(f);
        let from = order_of.iter().position(|id| *id == self.at.0).unwrap_or(0);
        for (id, t) in order_of.into_iter().skip(from).filter_map(|id| Some((id, net.fib.table(f, id)?))) {
            if self.table != 0 && self.table != id {
                continue;
            }
            if id != self.at.0 {
                self.at = (id, None, 0);
            }
            for (place, routes) in t.dump(self.at.1) {
                for e in routes.iter().skip(self.at.2) {
                    if out.bytes() >= want {
                        return false;
                    }
                    self.at.2 += 1;
                    if self.wants(e) {
                        out.push(fill(Msg::new(rtm::NEWROUTE, flags, cx.seq, cx.portid), e, net.env.now));
                    }
                }
                self.at = (id, Some(place), 0);
            }
        }
        true
    }
}

impl Source for RouteDump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        if self.cache_only {
            return Ok(true);
        }
        if self.family != Some(Family::V6) && !self.v4_done {
            if !self.one_family(cx, Family::V4, want, out) {
                return Ok(false);
            }
            self.v4_done = true;
            self.at = (0, None, 0);
        }
        if self.family == Some(Family::V4) {
            return Ok(true);
        }
        Ok(self.one_family(cx, Family::V6, want, out))
    }
    fn generation(&self, k: &Kernel, ns: NsId) -> u64 {
        super::generation(k, ns)
    }
    fn filtered(&self) -> bool {
        self.filtered
    }
}

/// The route type of a number (`RTN_*`).
pub(super) fn route_type(n: u8) -> Option<RouteType> {
    Some(match n {
        1 => RouteType::Unicast,
        2 => RouteType::Local,
        3 => RouteType::Broadcast,
        4 => RouteType::Anycast,
        5 => RouteType::Multicast,
        6 => RouteType::Blackhole,
        7 => RouteType::Unreachable,
        8 => RouteType::Prohibit,
        9 => RouteType::Throw,
        _ => return None,
    })
}
