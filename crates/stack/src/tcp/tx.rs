//! Output: from a `Transmit` to an IP packet (`__tcp_transmit_skb`), and the connection's timer.

use core::net::IpAddr;

use ferronet_core::env::TimerKey;
use ferronet_core::packet::{Gso, GsoKind};
use ferronet_core::{Csum, Errno, IfIndex, Mib, Packet};
use ferronet_tcp::{Cx, Kind, Tcb, Transmit};
use ferronet_wire::checksum::{csum_fold_partial, csum_ipv6_nofold, csum_tcpudp_nofold};
use ferronet_wire::ipproto::IPPROTO_TCP;
use ferronet_wire::{TcpFlags, TcpHdr};
use slotmap::Key;

use super::{FourTuple, TcpKind, TcpSock};
use crate::fib::{Family, Flow, Route};
use crate::ipv4::output::{IpHeader, ip_queue_xmit};
use crate::ipv6::output::{Ip6Header, ip6_xmit};
use crate::ns::Namespace;
use crate::sock::common::IpFields;
use crate::sock::{Proto, SockCommon, SockKey};

/// Offset of the checksum in the TCP header.
const CSUM_OFFSET: u16 = 16;

/// What the IP layer needs besides the segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Via {
    pub(super) tuple: FourTuple,
    pub(super) route: Route,
    pub(super) ip: IpFields,
    pub(super) ip_id: u16,
    pub(super) df: bool,
    pub(super) flowlabel: u32,
}

/// Builds the packet and hands it to IP.
pub(super) fn tcp_transmit_skb(ns: &mut Namespace, t: Transmit, via: &Via) {
    let segs = t.segs();
    // RFC 4022 tcpOutSegs: segments with retransmitted data only are not counted.
    if t.kind != Kind::Retrans {
        ns.env.mib.add(Mib::TcpOutSegs, u64::from(segs));
    }
    let mut p = ns.env.pool.get();
    let len = t.len;
    for b in t.payload {
        p.push_frag(b);
    }
    let opt_len = t.opts.len();
    let hdr_len = TcpHdr::LEN + opt_len;
    let mut h = TcpHdr::new(via.tuple.lport, via.tuple.rport);
    h.set_seq(t.seq);
    h.set_ack_seq(t.ack);
    h.set_flags(t.flags);
    h.set_window(t.wnd);
    h.set_urg_ptr(t.urg);
    h.set_hdr_len(hdr_len);
    let l4_len = len + hdr_len as u32;
    let pseudo = match (via.tuple.laddr, via.tuple.raddr) {
        (IpAddr::V4(s), IpAddr::V4(d)) => csum_tcpudp_nofold(s, d, l4_len, IPPROTO_TCP, 0),
        (IpAddr::V6(s), IpAddr::V6(d)) => csum_ipv6_nofold(&s, &d, l4_len, IPPROTO_TCP, 0),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    h.set_check(csum_fold_partial(pseudo));
    let b = p.push(hdr_len);
    let _ = h.put(b);
    if opt_len > 0 {
        t.opts.emit(&mut b[TcpHdr::LEN..]);
    }
    let m = p.meta_mut();
    m.csum = Csum::Partial;
    m.csum_offset = CSUM_OFFSET;
    (m.mark, m.priority) = (via.ip.mark, via.ip.priority);
    if let Some(size) = t.gso_size
        && len > u32::from(size)
    {
        let kind = match via.tuple.laddr {
            IpAddr::V4(_) => GsoKind::TcpV4,
            IpAddr::V6(_) => GsoKind::TcpV6,
        };
        m.gso = Gso { size, segs: segs as u16, kind };
    }
    let tos = if t.ect { via.ip.tos | 2 } else { via.ip.tos };
    xmit(ns, p, via, tos);
}

fn xmit(ns: &mut Namespace, p: Packet, via: &Via, tos: u8) {
    match (via.tuple.laddr, via.tuple.raddr) {
        (IpAddr::V4(saddr), IpAddr::V4(daddr)) => {
            let h = IpHeader {
                saddr,
                daddr,
                protocol: IPPROTO_TCP,
                tos,
                ttl: via.ip.ttl,
                df: via.df,
                id: via.ip_id,
            };
            ip_queue_xmit(ns, p, &h, &via.route);
        }
        (IpAddr::V6(saddr), IpAddr::V6(daddr)) => {
            let h = Ip6Header {
                saddr,
                daddr,
                protocol: IPPROTO_TCP,
                tclass: tos,
                hop_limit: via.ip.ttl,
                flowlabel: via.flowlabel,
            };
            ip6_xmit(ns, p, &h, &via.route);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            ns.env.drop(p, ferronet_core::DropReason::IpOutNoRoute);
        }
    }
}

/// The route of a flow in either family.
pub(super) fn route_output(ns: &Namespace, flow: &Flow) -> Result<(Route, IpAddr), Errno> {
    match flow.dst {
        IpAddr::V4(_) => crate::ipv4::route::ip_route_output(ns, flow).map(|(r, s)| (r, IpAddr::V4(s))),
        IpAddr::V6(_) => crate::ipv6::route::ip6_route_output(ns, flow).map(|(r, s)| (r, IpAddr::V6(s))),
    }
}

/// The path's largest TCP payload without options, from the route (`tcp_mtu_to_mss`), bounded by the
/// route's `advmss`.
pub(super) fn path_mss(ns: &Namespace, r: &Route, daddr: IpAddr) -> u16 {
    let (header, mtu) = match daddr {
        IpAddr::V6(_) => (60, crate::ipv6::route::dst_mtu(ns, r, daddr)),
        IpAddr::V4(_) => (40, crate::ipv4::route::dst_mtu(ns, r, daddr)),
    };
    let mss = mtu.saturating_sub(header).min(if r.advmss > 0 { r.advmss } else { u32::MAX });
    u16::try_from(mss.clamp(48, 65495)).unwrap_or(u16::MAX)
}

/// The flow of a connection.
pub(super) fn flow_of(c: &SockCommon, t: &FourTuple) -> Flow {
    Flow {
        src: t.laddr,
        tos: c.tos & 0x1c,
        scope: crate::udp::flow_scope(c, false, t.raddr),
        mark: c.mark,
        oif: c.bound_dev,
        uid: c.uid,
        proto: IPPROTO_TCP,
        sport: t.lport,
        dport: t.rport,
        ..Flow::to(t.raddr)
    }
}

/// The socket's four-tuple, with v4-mapped addresses as IPv4.
pub(super) fn tuple_of(c: &SockCommon) -> Option<FourTuple> {
    let (raddr, rport) = c.peer?;
    let norm = |a: IpAddr| a.to_canonical();
    Some(FourTuple { laddr: norm(c.local), lport: c.lport, raddr: norm(raddr), rport })
}

/// Sends all that the connection has to send, then sees to its timer, its events and its end.
pub(super) fn tcp_push(ns: &mut Namespace, key: SockKey) {
    while let Some(t) = with_tcb(ns, key, |tcb, cx| tcb.poll_transmit(cx)).flatten() {
        match via(ns, key, t.segs()) {
            Some(mut via) => {
                if t.flags.contains(TcpFlags::SYN) && is_fastopen(ns, key) {
                    // As every SYN-ACK of a listener (ip_build_and_send_pkt).
                    via.ip_id = 0;
                }
                tcp_transmit_skb(ns, t, &via);
            }
            // Nothing goes out; the retransmission timer tries again (RFC 1122 §4.2.3.9).
            None => ns.env.mib.inc(Mib::IpOutNoRoutes),
        }
    }
    super::user::after_change(ns, key);
}

fn is_fastopen(ns: &mut Namespace, key: SockKey) -> bool {
    match tcp_sock_mut(ns, key).map(|t| &t.kind) {
        Some(TcpKind::Conn(t)) => t.is_fastopen(),
        Some(TcpKind::Closed | TcpKind::Listen(_)) | None => false,
    }
}

/// Addresses, route and header fields for `segs` segments of a connection; `None` without a route.
fn via(ns: &mut Namespace, key: SockKey, segs: u32) -> Option<Via> {
    let generation = (ns.fib.generation, ns.devs.generation);
    let s = ns.socks.socks.get_mut(key)?;
    let tuple = tuple_of(&s.common)?;
    let ip = s.common.ip_fields(Family::of(tuple.raddr));
    let Proto::Tcp(ts) = &mut s.proto else { return None };
    let ip_id = ts.ip_id;
    ts.ip_id = ip_id.wrapping_add(segs as u16);
    let route = match ts.route {
        Some((r, f, d)) if (f, d) == generation => r,
        Some(_) | None => {
            let flow = flow_of(&s.common, &tuple);
            let r = route_output(ns, &flow).ok()?.0;
            tcp_sock_mut(ns, key)?.route = Some((r, generation.0, generation.1));
            r
        }
    };
    Some(Via { tuple, route, ip, ip_id, df: true, flowlabel: 0 })
}

/// A socket's TCP part.
pub(super) fn tcp_sock_mut(ns: &mut Namespace, key: SockKey) -> Option<&mut TcpSock> {
    match ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
        Some(Proto::Tcp(t)) => Some(t),
        Some(Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_)) | None => None,
    }
}

/// Calls `f` with the connection and its context.
pub(super) fn with_tcb<R>(
    ns: &mut Namespace,
    key: SockKey,
    f: impl FnOnce(&mut Tcb, &mut Cx<'_>) -> R,
) -> Option<R> {
    let Some(Proto::Tcp(ts)) = ns.socks.socks.get_mut(key).map(|s| &mut s.proto) else { return None };
    let TcpKind::Conn(tcb) = &mut ts.kind else { return None };
    let mut cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    Some(f(tcb, &mut cx))
}

/// Arms the wheel for the connection's next deadline. A deadline that moved away is left: the timer fires
/// early and is armed anew, which is cheaper than moving it with every segment.
pub(super) fn rearm(ns: &mut Namespace, key: SockKey) {
    let Some(Proto::Tcp(ts)) = ns.socks.socks.get_mut(key).map(|s| &mut s.proto) else { return };
    let TcpKind::Conn(tcb) = &ts.kind else { return };
    match tcb.next_deadline() {
        Some(at) => {
            if ts.timer.is_none() || at < ts.armed {
                ts.armed = at;
                ns.env.timers.rearm(&mut ts.timer, at, TimerKey::Tcp(key.data().as_ffi()));
            }
        }
        None => {
            ns.env.timers.cancel(&mut ts.timer);
        }
    }
}

/// The wheel fired for a connection.
pub fn tcp_timer(ns: &mut Namespace, id: u64) {
    let key = SockKey::from(slotmap::KeyData::from_ffi(id));
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let now = ns.env.now;
    let Some(ts) = tcp_sock_mut(ns, key) else { return };
    ts.timer = ferronet_core::timer::TimerId::NONE;
    ts.armed = ferronet_core::Instant::NEVER;
    let due = match &ts.kind {
        TcpKind::Conn(t) => t.next_deadline().is_some_and(|d| d <= now),
        TcpKind::Closed | TcpKind::Listen(_) => return,
    };
    if due {
        with_tcb(ns, key, |tcb, cx| tcb.on_timeout(cx));
        tcp_push(ns, key);
    } else {
        rearm(ns, key);
    }
}

/// Sends a segment that belongs to no connection: a reset, or an answer from TIME_WAIT.
pub(super) fn send_unbound(ns: &mut Namespace, t: Transmit, tuple: FourTuple, opts: (IfIndex, u32, u8)) {
    let (oif, mark, tos) = opts;
    let flow = Flow { src: tuple.laddr, mark, oif, proto: IPPROTO_TCP, ..Flow::to(tuple.raddr) };
    let Ok((route, _)) = route_output(ns, &flow) else {
        ns.env.mib.inc(Mib::IpOutNoRoutes);
        return;
    };
    send_by(ns, t, tuple, route, IpFields { tos, mark, ..IpFields::default() });
}

/// Likewise, by a route that is known.
pub(super) fn send_by(ns: &mut Namespace, t: Transmit, tuple: FourTuple, route: Route, ip: IpFields) {
    if t.kind == Kind::Rst {
        ns.env.mib.inc(Mib::TcpOutRsts);
    }
    // ID 0: the packet has DF (RFC 6864 §4.1), and no socket holds an ID counter (ip_select_ident).
    let via = Via { tuple, route, ip, ip_id: 0, df: true, flowlabel: 0 };
    tcp_transmit_skb(ns, t, &via);
}
