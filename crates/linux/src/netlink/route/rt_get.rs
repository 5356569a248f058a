//! RTM_GETROUTE for one destination: `ip route get` (`inet_rtm_getroute`, `inet6_rtm_getroute`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::Namespace;
use ferronet_stack::fib::{Family, FibEntry, Flow, Metrics, Route, RouteType, table_id};
use ferronet_stack::{ipv4, ipv6};

use super::super::Req;
use super::super::codec::{Attrs, Fields, Msg, Policy, Strictness, parse};
use super::rt::{POLICY4, POLICY6, RTMSG, RtMsg, fill, put_cacheinfo, put_gateway, put_metrics, rta, rtm_f};
use super::{ifindex, pf_of, rtm};

/// `RTCF_*` as `ip route get` shows them.
const RTCF_BROADCAST: u32 = 0x1000_0000;
const RTCF_MULTICAST: u32 = 0x2000_0000;
const RTCF_LOCAL: u32 = 0x8000_0000;

/// What is asked for.
struct Query {
    flow: Flow,
    src: Option<IpAddr>,
    iif: Option<IfIndex>,
    tos: u8,
    flags: u32,
    uid: u32,
}

fn header(r: &mut Req<'_, '_>, h: &mut Fields<'_>, f: Family) -> Result<(u8, u32), Errno> {
    let (_, dst_len, src_len, tos) = (h.u8(), h.u8(), h.u8(), h.u8());
    let (table, protocol, scope, kind, flags) = (h.u8(), h.u8(), h.u8(), h.u8(), h.u32());
    if !r.strict {
        return Ok((tos, flags));
    }
    let len_ok = |n: u8| n == 0 || n == f.bits();
    let bad = !len_ok(dst_len) || !len_ok(src_len) || table != 0 || protocol != 0 || scope != 0 || kind != 0;
    let known = 0x100 | rtm_f::LOOKUP_TABLE | rtm_f::FIB_MATCH;
    let text = match (f, bad) {
        (Family::V4, true) => "ipv4: Invalid values in header for route get request",
        (Family::V6, true) => "Invalid values in header for get route request",
        (Family::V4, false) => "ipv4: Unsupported rtm_flags for route get request",
        (Family::V6, false) => "Invalid flags for get route request",
    };
    if bad || flags & !known != 0 {
        return r.ext.err(Errno::EINVAL, text);
    }
    Ok((tos, flags))
}

fn read(r: &mut Req<'_, '_>, f: Family) -> Result<Query, Errno> {
    let Some((head, attrs)) = r.split(RTMSG) else {
        return r.ext.err(
            Errno::EINVAL,
            match f {
                Family::V4 => "ipv4: Invalid header for route get request",
                Family::V6 => "Invalid header for get route request",
            },
        );
    };
    let (tos, flags) = header(r, &mut Fields(head), f)?;
    let policy: &[Policy; 31] = match f {
        Family::V4 => &POLICY4,
        Family::V6 => &POLICY6,
    };
    let how = if r.strict { Strictness::Strict } else { Strictness::Liberal };
    let tb: Attrs<'_, 31> = parse(attrs, policy, how, &mut r.ext)?;
    let addr = |ty| {
        tb.get(ty).and_then(|a| match f {
            Family::V4 => a.ip4().map(IpAddr::V4),
            Family::V6 => a.ip6().map(IpAddr::V6),
        })
    };
    if f == Family::V6 && (tb.has(rta::DST) && addr(rta::DST).is_none()) {
        return Err(Errno::EINVAL);
    }
    let dev = |ty| tb.get(ty).and_then(|a| ifindex(a.i32()));
    let uid = tb.u32(rta::UID).unwrap_or(r.caller.uid);
    let port = |ty| tb.get(ty).and_then(|a| a.data.first_chunk::<2>()).map_or(0, |b| u16::from_be_bytes(*b));
    let src = addr(rta::SRC);
    let flow = Flow {
        src: src.unwrap_or(f.any()),
        tos: tos & 0xfc,
        mark: tb.u32(rta::MARK).unwrap_or(0),
        oif: dev(rta::OIF).unwrap_or(IfIndex::NONE),
        uid,
        proto: tb.get(rta::IP_PROTO).map_or(17, |a| a.u8()),
        sport: port(rta::SPORT),
        dport: port(rta::DPORT),
        ..Flow::to(addr(rta::DST).unwrap_or(f.any()))
    };
    let iif = dev(rta::IIF);
    let net = r.net()?;
    let missing = |i: Option<IfIndex>| i.is_some_and(|i| net.devs.get(i).is_none());
    if missing(iif) || missing(Some(flow.oif).filter(|o| !o.is_none()).filter(|_| f == Family::V4)) {
        return Err(Errno::ENODEV);
    }
    Ok(Query { flow, src, iif, tos, flags, uid })
}

/// The route that serves a query, with its metrics, for `fibmatch` and the attributes of the answer.
fn entry_of(net: &Namespace, flow: &Flow) -> Option<FibEntry> {
    net.fib.lookup_with(flow, &net.devs, &mut |e, _| e.clone())
}

fn refusal(kind: RouteType, f: Family) -> Option<Errno> {
    Some(match kind {
        RouteType::Blackhole => Errno::EINVAL,
        RouteType::Unreachable => Errno::EHOSTUNREACH,
        RouteType::Prohibit => Errno::EACCES,
        RouteType::Throw if f == Family::V4 => Errno::ENETUNREACH,
        RouteType::Throw => Errno::ENETUNREACH,
        RouteType::Unicast
        | RouteType::Local
        | RouteType::Broadcast
        | RouteType::Anycast
        | RouteType::Multicast => return None,
    })
}

/// RTM_GETROUTE.
pub(super) fn getroute(r: &mut Req<'_, '_>, f: Family) -> Result<(), Errno> {
    let mut q = read(r, f)?;
    let net = r.net()?;
    if let Some(i) = q.iif {
        q.flow.iif = i;
        q.flow.oif = IfIndex::NONE;
    }
    if q.flags & rtm_f::FIB_MATCH != 0 {
        let e = entry_of(net, &q.flow).ok_or(Errno::ENETUNREACH)?;
        if let Some(e) = refusal(e.kind, f).filter(|_| f == Family::V4) {
            return Err(e);
        }
        let m = fill(r.answer(rtm::NEWROUTE, 0), &e, net.env.now);
        r.replies.push(m);
        return Ok(());
    }
    let m = r.answer(rtm::NEWROUTE, 0);
    let m = match f {
        Family::V4 => get4(net, &q, m)?,
        Family::V6 => get6(net, &q, m)?,
    };
    r.replies.push(m);
    Ok(())
}

/// The route an incoming packet would take (`ip_route_input_rcu`).
fn input4(net: &Namespace, q: &Query) -> Result<Route, Errno> {
    use ferronet_core::sysctl::Conf4;
    let dev = q.iif.and_then(|i| net.devs.get(i)).ok_or(Errno::ENODEV)?;
    let rt = net.fib.lookup(&q.flow, &net.devs);
    let forwarding = dev.conf4.get(Conf4::Forwarding) != 0;
    match rt {
        None => Err(if forwarding { Errno::ENETUNREACH } else { Errno::EHOSTUNREACH }),
        Some(r) => match refusal(r.kind, Family::V4) {
            Some(e) => Err(e),
            None if r.kind == RouteType::Unicast && !forwarding => Err(Errno::EHOSTUNREACH),
            None => Ok(r),
        },
    }
}

/// `rt_fill_info`.
fn get4(net: &Namespace, q: &Query, mut m: Msg) -> Result<Vec<u8>, Errno> {
    let mut flow = q.flow;
    let unspecified = flow.dst.is_unspecified();
    let (rt, src) = match q.iif {
        Some(_) => (input4(net, q)?, None),
        None => {
            if let Some(IpAddr::V4(s)) = q.src
                && !s.is_unspecified()
                && flow.oif.is_none()
                && !ipv4::route::is_local(net, s)
            {
                return Err(Errno::ENETUNREACH);
            }
            let (rt, src) = ipv4::route::ip_route_output(net, &flow)?;
            (rt, Some(src))
        }
    };
    if unspecified {
        flow.dst = IpAddr::V4(Ipv4Addr::LOCALHOST);
    }
    let mut flags = rtm_f::CLONED;
    flags |= match rt.kind {
        RouteType::Local => RTCF_LOCAL,
        RouteType::Broadcast => RTCF_LOCAL | RTCF_BROADCAST,
        RouteType::Multicast => RTCF_MULTICAST,
        _ => 0,
    };
    let table = if q.flags & rtm_f::LOOKUP_TABLE != 0 { rt.table } else { table_id::MAIN };
    let lens = (32, if q.src.is_some() { 32 } else { 0 });
    RtMsg { family: 2, lens, tos: q.tos, table, protocol: 0, scope: 0, kind: rt.kind as u8, flags }
        .put(&mut m);
    m.ip(rta::DST, q.flow.dst);
    if let Some(s) = q.src {
        m.ip(rta::SRC, s);
    }
    if !rt.dev.is_none() {
        m.u32(rta::OIF, rt.dev.0);
    }
    if let Some(s) = src.map(IpAddr::V4).filter(|s| Some(*s) != q.src) {
        m.ip(rta::PREFSRC, s);
    }
    if let Some(g) = rt.gw {
        put_gateway(&mut m, Family::V4, g);
    }
    let now = net.env.now;
    let mut metrics = entry_of(net, &flow).map_or(Metrics::default(), |e| e.metrics);
    let expires = net.pmtu.expires(now, flow.dst);
    if let Some(mtu) = net.pmtu.get(now, flow.dst) {
        metrics.mtu = mtu;
    }
    put_metrics(&mut m, &metrics);
    if q.flow.mark != 0 {
        m.u32(rta::MARK, q.flow.mark);
    }
    m.u32(rta::UID, q.uid);
    if let Some(i) = q.iif {
        m.u32(rta::IIF, i.0);
    }
    put_cacheinfo(&mut m, 1, super::rt::clock_t(expires, now), 0);
    Ok(m.finish())
}

/// `rt6_fill_node` for a looked-up destination.
fn get6(net: &Namespace, q: &Query, mut m: Msg) -> Result<Vec<u8>, Errno> {
    let (rt, src) = match q.iif {
        Some(_) => {
            let rt = net.fib.lookup(&q.flow, &net.devs).ok_or(Errno::ENETUNREACH)?;
            (rt, None)
        }
        None => match ipv6::route::ip6_route_output(net, &q.flow) {
            Ok((rt, s)) => (rt, Some(s)),
            Err(Errno::EADDRNOTAVAIL) => {
                (net.fib.lookup(&q.flow, &net.devs).ok_or(Errno::ENETUNREACH)?, None)
            }
            Err(e) => return Err(e),
        },
    };
    if let Some(e) = refusal(rt.kind, Family::V6) {
        return Err(e);
    }
    let e = entry_of(net, &q.flow);
    let (protocol, priority) = e.as_ref().map_or((0, 0), |e| (e.protocol, e.priority));
    RtMsg {
        family: pf_of(Family::V6),
        lens: (128, 128),
        tos: 0,
        table: rt.table,
        protocol,
        scope: 0,
        kind: rt.kind as u8,
        flags: 0,
    }
    .put(&mut m);
    m.ip(rta::DST, q.flow.dst);
    m.ip(rta::SRC, q.src.unwrap_or(Family::V6.any()));
    if let Some(i) = q.iif {
        m.u32(rta::IIF, i.0);
    } else if let Some(s) = src {
        m.ip(rta::PREFSRC, IpAddr::V6(s));
    }
    if let Some(e) = &e {
        put_metrics(&mut m, &e.metrics);
    }
    m.u32(rta::PRIORITY, priority);
    if let Some(g) = rt.gw {
        put_gateway(&mut m, Family::V6, g);
    }
    // A local destination shows the device that has the address, which its route names.
    let dev = e.as_ref().and_then(|e| e.nexthops.first()).map_or(rt.dev, |n| n.dev);
    let dev = if rt.kind == RouteType::Local { dev } else { rt.dev };
    m.u32(rta::OIF, dev.0);
    put_cacheinfo(&mut m, 2, 0, 0);
    m.u8(rta::PREF, e.map_or(0, |e| e.pref));
    Ok(m.finish())
}
