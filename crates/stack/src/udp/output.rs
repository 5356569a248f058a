//! UDP output (`udp_sendmsg`, `udpv6_sendmsg`, `ip4_datagram_connect`, `ip6_datagram_connect`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use ferronet_core::packet::{Gso, GsoKind};
use ferronet_core::sysctl::Conf4;
use ferronet_core::{Csum, Errno, IfIndex, Mib, Sysctl};
use ferronet_wire::UdpHdr;
use ferronet_wire::checksum::{csum_fold_partial, csum_ipv6_nofold, csum_tcpudp_nofold};
use ferronet_wire::ipproto::IPPROTO_UDP;

use super::{Cork, MsgOpts, table};
use crate::dev::scope;
use crate::fib::{Family, Flow, Route, RouteType};
use crate::ns::Namespace;
use crate::sock::datagram::{ignore_df, output_dev, path_mtu, pending_error, route_output};
use crate::sock::{Proto, SockCommon, SockFlags, SockKey, errqueue, poll, ports, xmit};

/// Where a message goes.
#[derive(Clone, Copy, Debug)]
pub struct Dest {
    /// Canonical address: IPv4 is never mapped.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Scope of a link-local address.
    pub scope: IfIndex,
}

/// Segments of one message at most (`UDP_MAX_SEGMENTS`).
const UDP_MAX_SEGMENTS: usize = 128;

/// `connect(2)`: remembers the peer and chooses the source address by the route.
///
/// # Errors
/// `EAGAIN` without a free port, `EACCES` for a broadcast address without `SO_BROADCAST`, `EINVAL` for a link-local
/// address without device, routing errors.
pub fn connect(ns: &mut Namespace, key: SockKey, dest: &Dest) -> Result<(), Errno> {
    ports::autobind(ns, key)?;
    let mut dest = *dest;
    if dest.addr.is_unspecified() {
        dest.addr = match dest.addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
    }
    let c = ns.socks.common(key)?;
    check_family(c, dest.addr)?;
    let oif = scope_of(c, &dest)?;
    let src = c.local.to_canonical();
    let src = if src.is_ipv4() == dest.addr.is_ipv4() { src } else { Family::of(dest.addr).any() };
    let mut flow = flow_of(
        c,
        &dest,
        if src.is_multicast() { Family::of(dest.addr).any() } else { src },
        oif,
        &MsgOpts::default(),
    );
    flow.oif = output_dev(c, dest.addr, oif);
    let flags = c.flags;
    let (route, saddr) = lookup(ns, flags, &flow)?;
    let c = ns.socks.common(key)?;
    if route.kind == RouteType::Broadcast && !c.flags.contains(SockFlags::BROADCAST) {
        return Err(Errno::EACCES);
    }
    table::unhash(ns, key);
    let c = ns.socks.common_mut(key)?;
    // Set first: an unspecified local address is stored by its family.
    c.peer = Some((dest.addr, dest.port));
    c.peer = Some((c.own_family(dest.addr), dest.port));
    if c.any_addr() {
        c.local = c.own_family(saddr);
    }
    if link_local(dest.addr) && c.bound_dev.is_none() {
        c.bound_dev = oif;
    }
    let id = ns.env.rng.next_u32() as u16;
    if let Some(Proto::Udp(u)) = ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
        u.ip_id = id;
    }
    ports::address_changed(&mut ns.socks, key);
    table::hash(ns, key);
    Ok(())
}

/// `connect(2)` to `AF_UNSPEC` (`__udp_disconnect`): address and port return to what bind(2) said.
pub fn disconnect(ns: &mut Namespace, key: SockKey) {
    table::unhash(ns, key);
    let Ok(c) = ns.socks.common_mut(key) else { return };
    c.peer = None;
    c.bound_dev = IfIndex::NONE;
    if !c.flags.contains(SockFlags::BINDADDR_LOCK) {
        c.local =
            if c.is_v6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    }
    if c.flags.contains(SockFlags::BINDPORT_LOCK) {
        ports::address_changed(&mut ns.socks, key);
        table::hash(ns, key);
    } else {
        ports::release(ns, key);
    }
}

/// Ended from outside (`udp_abort`, `ss -K`): the program is told `ECONNABORTED`; what bind(2) gave stays.
pub fn abort(ns: &mut Namespace, key: SockKey) {
    if let Ok(c) = ns.socks.common_mut(key) {
        c.err = Some(Errno::ECONNABORTED);
    }
    ns.socks.event(key, poll::ERR | poll::IN | poll::OUT);
    disconnect(ns, key);
}

fn link_local(a: IpAddr) -> bool {
    matches!(a, IpAddr::V6(a) if a.is_unicast_link_local() || (a.is_multicast() && a.octets()[1] & 15 <= 2))
}

/// A socket speaks IPv4, IPv6 or both.
pub(crate) fn check_family(c: &SockCommon, a: IpAddr) -> Result<(), Errno> {
    match a {
        IpAddr::V4(_) if c.is_v6() && c.flags.contains(SockFlags::V6ONLY) => Err(Errno::ENETUNREACH),
        // A socket bound to an IPv6 address cannot send IPv4, and the other way round.
        IpAddr::V4(_) if c.is_v6() && !c.local.is_unspecified() && c.local.to_canonical().is_ipv6() => {
            Err(Errno::ENETUNREACH)
        }
        IpAddr::V6(_) if !c.is_v6() => Err(Errno::EAFNOSUPPORT),
        IpAddr::V6(_) if !c.any_addr() && c.local.to_canonical().is_ipv4() => Err(Errno::ENETUNREACH),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

/// The device of a link-local destination: its scope, or what the socket is bound to or uses for groups.
pub(crate) fn scope_of(c: &SockCommon, d: &Dest) -> Result<IfIndex, Errno> {
    if !link_local(d.addr) {
        return Ok(IfIndex::NONE);
    }
    let own = output_dev(c, d.addr, IfIndex::NONE);
    match (d.scope, c.bound_dev) {
        (s, b) if !s.is_none() && !b.is_none() && s != b => Err(Errno::EINVAL),
        (s, _) if !s.is_none() => Ok(s),
        _ if own.is_none() => Err(Errno::EINVAL),
        _ => Ok(own),
    }
}

fn flow_of(c: &SockCommon, d: &Dest, src: IpAddr, oif: IfIndex, m: &MsgOpts) -> Flow {
    Flow {
        src,
        tos: flow_tos(c, m.tos, d.addr),
        scope: flow_scope(c, m.dontroute, d.addr),
        mark: c.mark,
        oif,
        uid: c.uid,
        proto: IPPROTO_UDP,
        sport: c.lport,
        dport: d.port,
        ..Flow::to(d.addr)
    }
}

/// The traffic class that rules and routes see: `IP_TOS` of the message or socket, or `IPV6_TCLASS` (`ip6_make_flowinfo`)
/// without its ECN bits.
pub(crate) fn flow_tos(c: &SockCommon, tos: Option<u8>, dst: IpAddr) -> u8 {
    match dst {
        IpAddr::V4(_) => tos.unwrap_or(c.tos) & 0x1c,
        IpAddr::V6(_) => {
            let own = || c.opts.as_ref().map_or(0, |o| u8::try_from(o.tclass).unwrap_or(0));
            tos.unwrap_or_else(own) & 0xfc
        }
    }
}

/// `SO_DONTROUTE` and `MSG_DONTROUTE` ask for a destination on the link (`ip_sock_rt_scope`); IPv6 knows neither.
pub(crate) fn flow_scope(c: &SockCommon, dontroute: bool, dst: IpAddr) -> u8 {
    let on_link = dontroute || c.flags.contains(SockFlags::DONTROUTE);
    if on_link && dst.is_ipv4() { scope::LINK } else { scope::UNIVERSE }
}

/// A lookup whose failure counts (`ip_route_output_flow` in `udp_sendmsg`). `flags` are the socket's.
///
/// # Errors
/// Those of [`check_source`] and [`route_output`].
pub(crate) fn lookup(ns: &mut Namespace, flags: SockFlags, flow: &Flow) -> Result<(Route, IpAddr), Errno> {
    let r = check_source(ns, flags, flow).and_then(|()| route_output(ns, flow)).and_then(|(r, s)| {
        source_may_leave(ns, &r, s)?;
        Ok((r, s))
    });
    if r == Err(Errno::ENETUNREACH) {
        ns.env.mib.inc(if flow.dst.is_ipv6() { Mib::Ip6OutNoRoutes } else { Mib::IpOutNoRoutes });
    }
    r
}

/// Nobody sends from an IPv4 address that is not this host's (`ip_route_output_key_hash`), be it given by `IP_PKTINFO` or
/// by a bind(2) whose address went away, unless the socket may (`FLOWI_FLAG_ANYSRC`). IPv6 asks only about what
/// `IPV6_PKTINFO` names: [`check_pktinfo6`].
fn check_source(ns: &Namespace, flags: SockFlags, flow: &Flow) -> Result<(), Errno> {
    let IpAddr::V4(s) = flow.src else { return Ok(()) };
    if s.is_unspecified() {
        return Ok(());
    }
    if s.is_multicast() || s.is_broadcast() {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(SockFlags::TRANSPARENT | SockFlags::HDRINCL) || crate::ipv4::route::is_local(ns, s) {
        return Ok(());
    }
    Err(Errno::ENETUNREACH)
}

/// An address of 127.0.0.0/8 stays inside (`__mkroute_output`), where `route_localnet` does not say otherwise.
fn source_may_leave(ns: &Namespace, r: &Route, saddr: IpAddr) -> Result<(), Errno> {
    let IpAddr::V4(s) = saddr else { return Ok(()) };
    let stays = s.is_loopback() && ns.devs.get(r.dev).is_some_and(|d| !d.is_loopback());
    if stays && !crate::ipv4::route::dev_conf(ns, r.dev, Conf4::RouteLocalnet) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// What `IPV6_PKTINFO` may name (`ip6_datagram_send_ctl`): the device that the socket or the destination's scope says, and
/// an address of ours that is not tentative, a link-local one with its device.
///
/// # Errors
/// `EINVAL`; `ENODEV` for an unknown device.
pub(crate) fn check_pktinfo6(ns: &Namespace, c: &SockCommon, d: &Dest, m: &MsgOpts) -> Result<(), Errno> {
    if !m.pktinfo || !d.addr.is_ipv6() {
        return Ok(());
    }
    let said = if c.bound_dev.is_none() && link_local(d.addr) { d.scope } else { c.bound_dev };
    if !m.oif.is_none() && !said.is_none() && m.oif != said {
        return Err(Errno::EINVAL);
    }
    let dev = if m.oif.is_none() { said } else { m.oif };
    if !dev.is_none() && ns.devs.get(dev).is_none() {
        return Err(Errno::ENODEV);
    }
    let Some(a) = m.saddr else { return Ok(()) };
    let IpAddr::V6(a) = a else { return Err(Errno::EINVAL) };
    if dev.is_none() && a.is_unicast_link_local() {
        return Err(Errno::EINVAL);
    }
    let nonlocal = c.flags.intersects(SockFlags::FREEBIND | SockFlags::TRANSPARENT)
        || ns.env.sysctl.on(Sysctl::Ip6IpNonlocalBind);
    // ::1 has the scope of a link: it is an address of lo alone.
    let elsewhere = a.is_loopback() && !dev.is_none() && dev != IfIndex::LO;
    if nonlocal || (!elsewhere && ports::is_local6(ns, dev, a)) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `sendmsg(2)`. `dest` is canonical; `None` for the peer of a connected socket.
///
/// # Errors
/// `EDESTADDRREQ`, `EMSGSIZE`, `EINVAL`, `EACCES`, `EAGAIN` without a free port, routing errors.
pub fn sendmsg(
    ns: &mut Namespace,
    key: SockKey,
    dest: Option<Dest>,
    data: Bytes,
    m: &MsgOpts,
) -> Result<usize, Errno> {
    let len = data.len();
    if len > 0xffff {
        return Err(Errno::EMSGSIZE);
    }
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    if s.common.shutdown & crate::sock::shut::SEND != 0 {
        return Err(Errno::EPIPE);
    }
    let Proto::Udp(u) = &mut s.proto else { return Err(Errno::EOPNOTSUPP) };
    let more = m.more || u.corkflag;
    let corked = u.cork.take();
    let connected =
        s.common.peer.map(|(a, port)| Dest { addr: a.to_canonical(), port, scope: s.common.bound_dev });
    let dest = match (&corked, dest.or(connected)) {
        (Some(c), _) => c.dest,
        (None, Some(d)) if d.port != 0 => d,
        (None, Some(_)) => return Err(Errno::EINVAL),
        (None, None) => return Err(Errno::EDESTADDRREQ),
    };
    let data = if corked.is_some() || more {
        let mut buf = corked.map_or_else(BytesMut::new, |c| c.data);
        if buf.len() + len > 0xffff - 28 {
            // udp_flush_pending_frames: what was held back is lost with it.
            return Err(Errno::EMSGSIZE);
        }
        buf.extend_from_slice(&data);
        if more {
            u.cork = Some(Box::new(Cork { data: buf, dest }));
            return Ok(len);
        }
        buf.freeze()
    } else {
        data
    };
    if ns.socks.common(key)?.lport == 0 {
        ports::autobind(ns, key)?;
    }
    pending_error(ns, key)?;
    send_one(ns, key, dest, data, m)?;
    Ok(len)
}

/// `UDP_CORK` was switched off: what was held back goes out (`udp_push_pending_frames`).
pub fn push_pending(ns: &mut Namespace, key: SockKey) {
    let Some(Proto::Udp(u)) = ns.socks.socks.get_mut(key).map(|s| &mut s.proto) else { return };
    let Some(c) = u.cork.take() else { return };
    // A failure has no caller to tell.
    let _ = send_one(ns, key, c.dest, c.data.freeze(), &MsgOpts::default());
}

/// Checks and route of one datagram, then the packet.
fn send_one(ns: &mut Namespace, key: SockKey, mut dest: Dest, data: Bytes, m: &MsgOpts) -> Result<(), Errno> {
    let c = ns.socks.common(key)?;
    check_family(c, dest.addr)?;
    if dest.addr.is_unspecified() {
        dest.addr = match (dest.addr, c.local.to_canonical()) {
            // The unspecified address means this host: the address the socket is bound to, or loopback.
            (IpAddr::V4(_), IpAddr::V4(l)) if !l.is_unspecified() => IpAddr::V4(l),
            (IpAddr::V4(_), _) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (IpAddr::V6(_), _) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
    }
    check_pktinfo6(ns, c, &dest, m)?;
    let dev = if m.oif.is_none() { scope_of(c, &dest)? } else { m.oif };
    let own = c.local.to_canonical();
    let any = Family::of(dest.addr).any();
    let own = if own.is_ipv4() == dest.addr.is_ipv4() && !own.is_multicast() { own } else { any };
    let mut src = m.saddr.filter(|a| !a.is_unspecified()).unwrap_or(own);
    if let (true, true, Some(o)) = (src.is_unspecified(), dest.addr.is_multicast(), &c.opts)
        && dest.addr.is_ipv4()
    {
        src = IpAddr::V4(o.mc_addr);
    }
    let mut flow = flow_of(c, &dest, src, output_dev(c, dest.addr, dev), m);
    flow.mark = m.mark.unwrap_or(c.mark);
    let flags = c.flags;
    let (route, saddr) = lookup(ns, flags, &flow)?;
    let c = ns.socks.common(key)?;
    if route.kind == RouteType::Broadcast && !c.flags.contains(SockFlags::BROADCAST) {
        return Err(Errno::EACCES);
    }
    let gso = match &ns.socks.socks.get(key).ok_or(Errno::EBADF)?.proto {
        Proto::Udp(u) => m.gso_size.unwrap_or(u.gso_size),
        Proto::Tcp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => 0,
    };
    let header = if dest.addr.is_ipv4() { 20 } else { 40 };
    let mtu = path_mtu(ns, c, &route, dest.addr);
    let mode = if dest.addr.is_ipv4() { c.pmtudisc } else { c.pmtudisc6 };
    let whole = header + UdpHdr::LEN + data.len();
    let max = if gso > 0 || (ignore_df(mode) && m.dontfrag != Some(true)) { 0xffff } else { mtu };
    let limit =
        if dest.addr.is_ipv4() { max } else { max.saturating_add(if max == 0xffff { header } else { 0 }) };
    if whole > limit {
        let info = (mtu - header.min(mtu)) as u32 + if dest.addr.is_ipv4() { header as u32 } else { 0 };
        errqueue::local_error(ns, key, Errno::EMSGSIZE, info, (dest.addr, dest.port));
        return Err(Errno::EMSGSIZE);
    }
    let gso = usize::from(gso);
    if gso > 0 {
        // udp_send_skb, udp_v6_send_skb: each segment must fit the path as it is.
        if header + UdpHdr::LEN + gso.min(data.len()) > mtu {
            return Err(Errno::EMSGSIZE);
        }
        if data.len() > gso * UDP_MAX_SEGMENTS || c.flags.contains(SockFlags::NO_CHECK) {
            return Err(Errno::EINVAL);
        }
    }
    if m.confirm {
        let k = crate::neigh::NeighKey { dev: route.dev, addr: route.next_hop(dest.addr) };
        ns.neigh.confirm(ns.env.now, k);
    }
    let v = Via { saddr, dest, route, mtu, gso };
    transmit(ns, key, &v, data, m)
}

struct Via {
    saddr: IpAddr,
    dest: Dest,
    route: Route,
    mtu: usize,
    gso: usize,
}

/// Builds the datagram and hands it to IP (`udp_send_skb`).
fn transmit(ns: &mut Namespace, key: SockKey, v: &Via, data: Bytes, m: &MsgOpts) -> Result<(), Errno> {
    let len = data.len();
    let l4 = UdpHdr::LEN + len;
    let c = ns.socks.common(key)?;
    let h = UdpHdr::new(c.lport, v.dest.port, len);
    let no_check = match v.dest.addr {
        IpAddr::V4(_) => c.flags.contains(SockFlags::NO_CHECK),
        IpAddr::V6(_) => {
            matches!(ns.socks.socks.get(key).map(|s| &s.proto), Some(Proto::Udp(u)) if u.no_check6_tx)
        }
    };
    let mut p = ns.env.pool.get();
    p.push_frag(data);
    let _ = h.put(p.push(UdpHdr::LEN));
    p.set_transport_header(0);
    if !no_check {
        let pseudo = match (v.saddr, v.dest.addr) {
            (IpAddr::V4(s), IpAddr::V4(d)) => csum_tcpudp_nofold(s, d, l4 as u32, IPPROTO_UDP, 0),
            (IpAddr::V6(s), IpAddr::V6(d)) => csum_ipv6_nofold(&s, &d, l4 as u32, IPPROTO_UDP, 0),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
        };
        if let Some(u) = UdpHdr::view_mut(p.data_mut()) {
            u.set_check(csum_fold_partial(pseudo));
        }
        p.meta_mut().csum = Csum::Partial;
        p.meta_mut().csum_offset = 6;
    }
    let header = if v.dest.addr.is_ipv4() { 20 } else { 40 };
    if v.gso > 0 && len > v.gso {
        let segs = len.div_ceil(v.gso) as u16;
        p.meta_mut().gso = Gso { size: v.gso as u16, segs, kind: GsoKind::UdpL4 };
    } else if header + l4 > v.mtu {
        // Fragments carry a finished checksum (ip_do_fragment).
        crate::dev::gso::skb_checksum_help(&mut p);
    }
    ns.env.mib.inc(if v.dest.addr.is_ipv4() { Mib::UdpOutDatagrams } else { Mib::Udp6OutDatagrams });
    let to =
        xmit::To { saddr: v.saddr, daddr: v.dest.addr, protocol: IPPROTO_UDP, route: v.route, mtu: v.mtu };
    xmit::ip_xmit(ns, key, p, &to, m);
    Ok(())
}
