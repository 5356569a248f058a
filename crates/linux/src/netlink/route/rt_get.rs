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
const RTCF_DOREDIRECT: u32 = 0x0100_0000;
const RTCF_NOTIFY: u32 = 0x0001_0000;
/// `RTM_F_NOTIFY`.
const RTM_F_NOTIFY: u32 = 0x100;

/// What is asked for.
struct Query {
    flow: Flow,
    src: Option<IpAddr>,
    iif: Option<IfIndex>,
    flags: u32,
    /// The asker's, or the one it names; of an incoming packet only the latter.
    uid: Option<u32>,
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
    let iif = dev(rta::IIF);
    let uid = tb.u32(rta::UID).or(Some(r.caller.uid).filter(|_| iif.is_none()));
    let port = |ty| tb.get(ty).and_then(|a| a.data.first_chunk::<2>()).map_or(0, |b| u16::from_be_bytes(*b));
    let src = addr(rta::SRC);
    let flow = Flow {
        src: src.unwrap_or(f.any()),
        tos: tos & 0xfc,
        mark: tb.u32(rta::MARK).unwrap_or(0),
        oif: dev(rta::OIF).unwrap_or(IfIndex::NONE),
        uid: uid.unwrap_or(u32::MAX),
        proto: tb.get(rta::IP_PROTO).map_or(17, |a| a.u8()),
        sport: port(rta::SPORT),
        dport: port(rta::DPORT),
        ..Flow::to(addr(rta::DST).unwrap_or(f.any()))
    };
    let net = r.net()?;
    let missing = |i: Option<IfIndex>| i.is_some_and(|i| net.devs.get(i).is_none());
    if missing(iif) || missing(Some(flow.oif).filter(|o| !o.is_none()).filter(|_| f == Family::V4)) {
        return Err(Errno::ENODEV);
    }
    Ok(Query { flow, src, iif, flags, uid })
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
        // A route without an entry is one that was assumed for a bound socket.
        if f == Family::V4 && q.iif.is_none() {
            ipv4::route::ip_route_output(net, &q.flow)?;
        }
        let none = if f == Family::V4 { Errno::EHOSTUNREACH } else { Errno::ENETUNREACH };
        let e = entry_of(net, &q.flow).ok_or(none)?;
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
    use ferronet_core::DropReason as D;
    net.devs.get(q.flow.iif).ok_or(Errno::ENODEV)?;
    let multicast = matches!(q.flow.dst, IpAddr::V4(d) if d.is_multicast());
    ipv4::route::ip_route_input_flow(net, &q.flow).map_err(|e| match e.reason {
        D::IpNoRoute => Errno::ENETUNREACH,
        D::IpRpFilter => Errno::EXDEV,
        D::IpRouteProhibit => Errno::EACCES,
        D::IpRouteUnreachable => Errno::EHOSTUNREACH,
        D::IpInAddr if !multicast => Errno::EHOSTUNREACH,
        _ => Errno::EINVAL,
    })
}

/// Would a packet that leaves where it came from make us tell its sender of a better way (`__mkroute_input`)?
fn redirects(net: &Namespace, q: &Query, rt: &Route) -> bool {
    use ferronet_core::sysctl::Conf4;
    let send = ipv4::route::max_conf(net, rt.dev, Conf4::SendRedirects) != 0;
    let back = net.fib.lookup(&Flow::to(q.flow.src), &net.devs);
    let neighbour = back.is_some_and(|b| b.dev == rt.dev && b.gw.is_none());
    rt.kind == RouteType::Unicast && q.iif == Some(rt.dev) && send && neighbour
}

/// `rtm_flags` of an answer.
fn flags4(net: &Namespace, q: &Query, (rt, dst): (&Route, IpAddr)) -> u32 {
    // The group is joined on the device that sends to it (ip_check_mc_rcu).
    let joined = |d: &ferronet_stack::dev::Device| d.mcast.iter().any(|g| g.0 == dst);
    let member = net.devs.get(rt.dev).is_some_and(joined);
    let mut flags = rtm_f::CLONED;
    flags |= match rt.kind {
        RouteType::Local => RTCF_LOCAL,
        RouteType::Broadcast => RTCF_LOCAL | RTCF_BROADCAST,
        RouteType::Multicast => RTCF_MULTICAST | if member { RTCF_LOCAL } else { 0 },
        _ => 0,
    };
    // __mkroute_output.
    if q.iif.is_none() && net.devs.get(rt.dev).is_some_and(|d| d.is_loopback()) {
        flags |= RTCF_LOCAL;
    }
    if q.iif.is_some() && redirects(net, q, rt) {
        flags |= RTCF_DOREDIRECT;
    }
    if q.flags & RTM_F_NOTIFY != 0 {
        flags |= RTM_F_NOTIFY | RTCF_NOTIFY;
    }
    flags
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
    let flags = flags4(net, q, (&rt, flow.dst));
    let entry = entry_of(net, &flow);
    let table = match (&entry, q.flags & rtm_f::LOOKUP_TABLE != 0) {
        (_, false) => table_id::MAIN,
        // Bound to a device without a route: no table.
        (None, true) => 0,
        (Some(e), true) => net.fib.shown_table(e.table),
    };
    let lens = (32, if q.src.is_some() { 32 } else { 0 });
    let tos = entry.as_ref().map_or(0, |e| e.tos);
    RtMsg { family: 2, lens, tos, table, protocol: 0, scope: 0, kind: rt.kind as u8, flags }.put(&mut m);
    m.ip(rta::DST, q.flow.dst);
    if let Some(s) = q.src {
        m.ip(rta::SRC, s);
    }
    let mut rt_dev = rt.dev;
    if q.iif.is_some() && matches!(rt.kind, RouteType::Local | RouteType::Broadcast) {
        rt_dev = IfIndex::LO;
    }
    if !rt_dev.is_none() {
        m.u32(rta::OIF, rt_dev.0);
    }
    if let Some(s) = src.map(IpAddr::V4).filter(|s| *s != q.src.unwrap_or(Family::V4.any())) {
        m.ip(rta::PREFSRC, s);
    }
    if let Some(g) = rt.gw {
        put_gateway(&mut m, Family::V4, g);
    }
    let now = net.env.now;
    // A group or broadcast through a wide route has nothing of it (__mkroute_output: fi is NULL).
    let bare = rt.kind == RouteType::Broadcast || (rt.kind == RouteType::Multicast && rt.dst_len < 4);
    let mut metrics = entry.filter(|_| !bare).map_or(Metrics::default(), |e| e.metrics);
    let expires = net.pmtu.expires(now, flow.dst);
    if let Some(mtu) = net.pmtu.get(now, flow.dst) {
        metrics.mtu = mtu;
    }
    put_metrics(&mut m, &metrics);
    if q.flow.mark != 0 {
        m.u32(rta::MARK, q.flow.mark);
    }
    if let Some(uid) = q.uid {
        m.u32(rta::UID, uid);
    }
    if let Some(i) = q.iif {
        m.u32(rta::IIF, i.0);
    }
    put_cacheinfo(&mut m, 1, super::rt::clock_t(expires, now), 0);
    Ok(m.finish())
}

/// `rt6_fill_node` for a looked-up destination.
fn get6(net: &Namespace, q: &Query, mut m: Msg) -> Result<Vec<u8>, Errno> {
    let any = q.flow.dst.is_unspecified();
    let (rt, _) = match q.iif {
        Some(_) => {
            let rt = net.fib.lookup(&q.flow, &net.devs).ok_or(Errno::ENETUNREACH)?;
            (rt, None)
        }
        // A program that connects to :: means this host; the table has another answer.
        None if any => (net.fib.lookup(&q.flow, &net.devs).ok_or(Errno::ENETUNREACH)?, None),
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
    // What would be chosen, whatever source the question names (rt6_fill_node).
    let prefsrc = match (e.as_ref().and_then(|e| e.prefsrc), q.flow.dst) {
        (Some(IpAddr::V6(p)), _) => Some(p),
        (_, IpAddr::V6(d)) => ipv6::route::ipv6_dev_get_saddr(net, rt.dev, d),
        _ => None,
    };
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
    } else if let Some(s) = prefsrc {
        m.ip(rta::PREFSRC, IpAddr::V6(s));
    }
    if let Some(e) = &e {
        put_metrics(&mut m, &e.metrics);
    }
    m.u32(rta::PRIORITY, priority);
    if let Some(g) = rt.gw {
        put_gateway(&mut m, Family::V6, g);
    }
    // ip6_rt_get_dev_rcu.
    let own = matches!(rt.kind, RouteType::Local | RouteType::Anycast);
    let dev = if own { IfIndex::LO } else { rt.dev };
    m.u32(rta::OIF, dev.0);
    put_cacheinfo(&mut m, 2, 0, 0);
    m.u8(rta::PREF, e.map_or(0, |e| e.pref));
    Ok(m.finish())
}
