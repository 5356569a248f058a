//! What programs do with TCP sockets: connect, listen, accept, send, receive, close (`net/ipv4/tcp.c`,
//! `af_inet.c`). All calls return at once.

use core::net::IpAddr;

use bytes::Bytes;
use ferronet_core::{Errno, Sysctl};
use ferronet_tcp::{Events, Open, State, Tcb, TcpInfo};
use ferronet_wire::SeqNr;

use super::tx::{flow_of, path_mss, rearm, route_output, tcp_push, tcp_sock_mut, tuple_of, with_tcb};
use super::{Listener, Owner, TcpKind};
use crate::ns::Namespace;
use crate::sock::{SockFlags, SockKey, poll, ports};

/// Read, write or both (`shutdown(2)`, `RCV_SHUTDOWN`, `SEND_SHUTDOWN`).
pub const RCV_SHUTDOWN: u8 = 1;
/// See [`RCV_SHUTDOWN`].
pub const SEND_SHUTDOWN: u8 = 2;

/// `connect(2)`: chooses addresses and port, sends the SYN.
///
/// # Errors
/// `EINPROGRESS` when the SYN is out; `EISCONN`, `EALREADY`, `EADDRNOTAVAIL`, `EADDRINUSE`, `ENETUNREACH` and
/// the other routing errors; the connection's error when it failed (`ECONNREFUSED`, `ETIMEDOUT`).
pub fn connect(ns: &mut Namespace, key: SockKey, addr: IpAddr, port: u16) -> Result<(), Errno> {
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let state = state(ns, key).ok_or(Errno::EBADF)?;
    match state {
        State::Close => {}
        State::SynSent | State::SynRecv => return Err(Errno::EALREADY),
        // The first call after the handshake says so, as a blocking one would have (__inet_stream_connect).
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::TimeWait
        | State::CloseWait
        | State::LastAck
        | State::Closing
            if tcp_sock_mut(ns, key).is_some_and(|t| core::mem::take(&mut t.connecting)) =>
        {
            return Ok(());
        }
        State::Listen => return Err(Errno::EISCONN),
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::TimeWait
        | State::CloseWait
        | State::LastAck
        | State::Closing => return Err(Errno::EISCONN),
    }
    if let Some(failed) = with_tcb(ns, key, |t, _| t.take_error()) {
        // The attempt before failed: the socket is as new (inet_stream_connect disconnects it).
        disconnect(ns, key)?;
        if let Some(e) = failed {
            return Err(e);
        }
    }
    let addr = addr.to_canonical();
    if addr.is_multicast() || matches!(addr, IpAddr::V4(a) if a.is_broadcast()) {
        return Err(Errno::ENETUNREACH);
    }
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    let v6 = matches!(s.common.local, IpAddr::V6(_));
    if v6 && s.common.flags.contains(SockFlags::V6ONLY) && addr.is_ipv4() {
        return Err(Errno::ENETUNREACH);
    }
    let bound_src =
        Some(s.common.local.to_canonical()).filter(|a| !a.is_unspecified() && a.is_ipv4() == addr.is_ipv4());
    let probe = super::FourTuple {
        laddr: bound_src.unwrap_or(crate::fib::Family::of(addr).any()),
        lport: s.common.lport,
        raddr: addr,
        rport: port,
    };
    let flow = flow_of(&s.common, &probe);
    let (route, saddr) = route_output(ns, &flow)?;
    if matches!(route.kind, crate::fib::RouteType::Broadcast | crate::fib::RouteType::Multicast) {
        return Err(Errno::ENETUNREACH);
    }
    // The unspecified address means this host.
    let raddr = if addr.is_unspecified() { saddr } else { addr };
    let lport = match ns.socks.socks.get(key).map_or(0, |s| s.common.lport) {
        0 => ports::ephemeral_for_connect(ns, key, saddr, raddr, port)?,
        p => p,
    };
    let tuple = super::FourTuple { laddr: saddr, lport, raddr, rport: port };
    if !super::timewait::may_reuse(ns, &tuple) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    start(ns, key, tuple, &route)?;
    tcp_push(ns, key);
    Err(Errno::EINPROGRESS)
}

fn start(
    ns: &mut Namespace,
    key: SockKey,
    tuple: super::FourTuple,
    route: &crate::fib::Route,
) -> Result<(), Errno> {
    let open = Open {
        iss: SeqNr(ns.socks.tcp.isn(&tuple, ns.env.now)),
        ts_offset: ns.socks.tcp.ts_offset(&tuple),
        path_mss: path_mss(ns, route, tuple.raddr),
    };
    let ip_id = ns.env.rng.next_u32() as u16;
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    // Stored in the socket's own family: a dual-stack socket sees mapped addresses.
    let v6 = matches!(s.common.local, IpAddr::V6(_));
    let own = |a: IpAddr| match a {
        IpAddr::V4(a) if v6 => IpAddr::V6(a.to_ipv6_mapped()),
        IpAddr::V4(_) | IpAddr::V6(_) => a,
    };
    s.common.local = own(tuple.laddr);
    s.common.lport = tuple.lport;
    s.common.peer = Some((own(tuple.raddr), tuple.rport));
    let crate::sock::Proto::Tcp(ts) = &mut s.proto else { return Err(Errno::EBADF) };
    ts.ip_id = ip_id;
    ts.connecting = true;
    ts.route = None;
    let mut cx = ferronet_tcp::Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    ts.kind = TcpKind::Conn(Box::new(Tcb::connect(&mut cx, ts.opts, open)));
    ns.socks.tcp.hash(tuple, Owner::Sock(key));
    Ok(())
}

/// `listen(2)`: the accept queue is bounded by `min(backlog, somaxconn)`; a second call changes the bound.
///
/// # Errors
/// `EINVAL` for a connected socket, `EADDRINUSE`.
pub fn listen(ns: &mut Namespace, key: SockKey, backlog: i32) -> Result<(), Errno> {
    let somaxconn = u32::try_from(ns.env.sysctl.get(Sysctl::Somaxconn)).unwrap_or(4096);
    // A negative backlog is a large unsigned one, as in the kernel.
    let max = (backlog as u32).min(somaxconn);
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    let lport = s.common.lport;
    let crate::sock::Proto::Tcp(ts) = &mut s.proto else { return Err(Errno::EOPNOTSUPP) };
    match &mut ts.kind {
        TcpKind::Listen(l) => {
            l.max_ack_backlog = max;
            return Ok(());
        }
        TcpKind::Closed => {}
        TcpKind::Conn(t) if t.state() == State::Close => {}
        TcpKind::Conn(_) => return Err(Errno::EINVAL),
    }
    let lport = if lport == 0 { ports::autobind(ns, key)? } else { lport };
    ports::check_listen(ns, key)?;
    let fastopen = super::fastopen::default_qlen(ns, max);
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    s.common.peer = None;
    if let crate::sock::Proto::Tcp(ts) = &mut s.proto {
        if ts.opts.fastopen_qlen == 0 {
            ts.opts.fastopen_qlen = fastopen;
        }
        ts.kind = TcpKind::Listen(Box::new(Listener { max_ack_backlog: max, ..Listener::default() }));
    }
    ns.socks.tcp.listen_hash(lport, key);
    Ok(())
}

/// `accept(2)`: the oldest established connection.
///
/// # Errors
/// `EAGAIN` when there is none; `EINVAL` when the socket does not listen.
pub fn accept(ns: &mut Namespace, key: SockKey) -> Result<SockKey, Errno> {
    let ts = tcp_sock_mut(ns, key).ok_or(Errno::EBADF)?;
    let TcpKind::Listen(l) = &mut ts.kind else { return Err(Errno::EINVAL) };
    let child = l.accept_queue.pop_front().ok_or(Errno::EAGAIN)?;
    if let Some(c) = tcp_sock_mut(ns, child) {
        c.parent = None;
    }
    Ok(child)
}

/// The state `ss` and `TCP_INFO` show.
#[must_use]
pub fn state(ns: &Namespace, key: SockKey) -> Option<State> {
    let crate::sock::Proto::Tcp(ts) = &ns.socks.socks.get(key)?.proto else { return None };
    Some(match &ts.kind {
        TcpKind::Closed => State::Close,
        TcpKind::Listen(_) => State::Listen,
        TcpKind::Conn(t) => t.state(),
    })
}

/// How data is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendHow {
    /// Without flags.
    Plain,
    /// `MSG_MORE`: more follows soon.
    More,
    /// `MSG_OOB`: its last byte is urgent.
    Urgent,
}

/// Queues data and sends what may be sent. Short when the send buffer fills up.
///
/// # Errors
/// `EAGAIN` without room, `EPIPE` after a shutdown, `ENOTCONN`, or the connection's error.
pub fn send(ns: &mut Namespace, key: SockKey, data: Bytes, how: SendHow) -> Result<usize, Errno> {
    ns.socks.tcp.refresh(&ns.env.sysctl);
    if matches!(state(ns, key), Some(State::Listen))
        || matches!(tcp_sock_mut(ns, key).map(|t| &t.kind), Some(TcpKind::Closed))
    {
        return Err(Errno::EPIPE);
    }
    let more = how == SendHow::More;
    let r = with_tcb(ns, key, |t, cx| {
        let n = t.send(cx, data, more)?;
        if how == SendHow::Urgent {
            t.mark_urgent();
        }
        Ok(n)
    })
    .ok_or(Errno::EPIPE)?;
    tcp_push(ns, key);
    r
}

/// Shows up to `max` readable bytes to `f`, which says how many it took. `Ok(0)` without a call of `f` is the
/// end of the stream.
///
/// # Errors
/// `EAGAIN` when there is nothing, `ENOTCONN`, or the connection's error.
pub fn recv(
    ns: &mut Namespace,
    key: SockKey,
    max: usize,
    f: &mut dyn FnMut(&[&[u8]]) -> usize,
) -> Result<usize, Errno> {
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let Some(r) = with_tcb(ns, key, |t, cx| t.recv_slices(cx, max, f)) else { return Err(Errno::ENOTCONN) };
    if matches!(r, Ok(n) if n > 0) {
        tcp_push(ns, key);
    }
    r
}

/// `MSG_OOB`: the urgent byte, left in place with `peek`; `None` when there will be none.
///
/// # Errors
/// `EINVAL`, `EAGAIN`, `ENOTCONN`.
pub fn recv_urgent(ns: &mut Namespace, key: SockKey, peek: bool) -> Result<Option<u8>, Errno> {
    with_tcb(ns, key, |t, _| t.recv_urgent(peek)).ok_or(Errno::EINVAL)?
}

/// The connection of a socket, to look at.
fn conn(ns: &Namespace, key: SockKey) -> Option<&Tcb> {
    let crate::sock::Proto::Tcp(ts) = &ns.socks.socks.get(key)?.proto else { return None };
    match &ts.kind {
        TcpKind::Conn(t) => Some(t),
        TcpKind::Closed | TcpKind::Listen(_) => None,
    }
}

/// `SIOCATMARK`.
#[must_use]
pub fn at_mark(ns: &Namespace, key: SockKey) -> bool {
    conn(ns, key).is_some_and(|t| t.at_mark())
}

/// The urgent byte when it is the next to read.
#[must_use]
pub fn urgent_next(ns: &Namespace, key: SockKey) -> Option<u8> {
    conn(ns, key)?.urgent_next()
}

/// That byte was passed on.
pub fn pass_urgent(ns: &mut Namespace, key: SockKey) {
    with_tcb(ns, key, |t, cx| t.pass_urgent(cx));
    tcp_push(ns, key);
}

/// `shutdown(2)`; `how` is a set of [`RCV_SHUTDOWN`] and [`SEND_SHUTDOWN`].
///
/// # Errors
/// `ENOTCONN`.
pub fn shutdown(ns: &mut Namespace, key: SockKey, how: u8) -> Result<(), Errno> {
    match state(ns, key).ok_or(Errno::EBADF)? {
        State::Listen if how & RCV_SHUTDOWN != 0 => {
            stop_listening(ns, key);
            return Ok(());
        }
        State::Listen => return Ok(()),
        State::Close => return Err(Errno::ENOTCONN),
        State::SynSent
        | State::SynRecv
        | State::Established
        | State::FinWait1
        | State::FinWait2
        | State::TimeWait
        | State::CloseWait
        | State::LastAck
        | State::Closing => {}
    }
    with_tcb(ns, key, |t, cx| {
        if how & RCV_SHUTDOWN != 0 {
            t.shutdown_read();
        }
        if how & SEND_SHUTDOWN != 0 {
            let _ = t.shutdown_write(cx);
        }
    });
    tcp_push(ns, key);
    Ok(())
}

/// The last descriptor is closed (`tcp_close`): data unread means a reset, otherwise the connection finishes
/// by itself. The socket goes now or when the connection ends.
pub fn close(ns: &mut Namespace, key: SockKey) {
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let linger = ns.socks.socks.get(key).is_some_and(|s| s.common.linger_zero());
    let Some(ts) = tcp_sock_mut(ns, key) else { return };
    match &mut ts.kind {
        TcpKind::Listen(_) => stop_listening(ns, key),
        TcpKind::Closed => {}
        TcpKind::Conn(t) if t.state() == State::Close => {}
        TcpKind::Conn(_) => {
            ts.orphan = true;
            ns.socks.tcp.orphans += 1;
            with_tcb(ns, key, |t, cx| t.close(cx, linger));
            tcp_push(ns, key);
            return;
        }
    }
    destroy(ns, key);
}

/// Ends listening: connections that nobody accepted are reset, requests forgotten (`inet_csk_listen_stop`).
fn stop_listening(ns: &mut Namespace, key: SockKey) {
    let lport = ns.socks.socks.get(key).map_or(0, |s| s.common.lport);
    ns.socks.tcp.listen_unhash(lport, key);
    let Some(ts) = tcp_sock_mut(ns, key) else { return };
    let TcpKind::Listen(l) = core::mem::replace(&mut ts.kind, TcpKind::Closed) else { return };
    super::listen::forget_requests(ns, key);
    for child in l.accept_queue {
        if let Some(c) = tcp_sock_mut(ns, child) {
            c.orphan = true;
            c.parent = None;
            ns.socks.tcp.orphans += 1;
        }
        with_tcb(ns, child, |t, cx| {
            t.close(cx, true);
        });
        tcp_push(ns, child);
    }
}

/// Frees the socket with its port, hash entry and timer.
fn destroy(ns: &mut Namespace, key: SockKey) {
    unhash(ns, key);
    if let Some(ts) = tcp_sock_mut(ns, key) {
        let mut timer = core::mem::take(&mut ts.timer);
        let orphan = ts.orphan;
        ns.env.timers.cancel(&mut timer);
        if orphan {
            ns.socks.tcp.orphans = ns.socks.tcp.orphans.saturating_sub(1);
        }
    }
    ports::release(ns, key);
    ns.socks.socks.remove(key);
}

fn unhash(ns: &mut Namespace, key: SockKey) {
    if let Some(t) = ns.socks.socks.get(key).and_then(|s| tuple_of(&s.common)) {
        ns.socks.tcp.unhash(&t, Owner::Sock(key));
    }
}

/// After anything that may have changed a connection: events for the program, TIME_WAIT, the end, the timer.
pub(super) fn after_change(ns: &mut Namespace, key: SockKey) {
    let Some((ev, state, parent)) = tcp_sock_mut(ns, key).and_then(|ts| {
        let parent = ts.parent;
        match &mut ts.kind {
            TcpKind::Conn(t) => Some((t.take_events(), t.state(), parent)),
            TcpKind::Closed | TcpKind::Listen(_) => None,
        }
    }) else {
        return;
    };
    if !ev.is_empty() && parent.is_none() {
        let mut bits = 0;
        if ev.contains(Events::READABLE) {
            bits |= poll::IN;
        }
        if ev.contains(Events::WRITABLE) {
            bits |= poll::OUT;
        }
        if ev.contains(Events::ERROR) {
            bits |= poll::ERR | poll::IN | poll::OUT;
        }
        if ev.contains(Events::URGENT) {
            bits |= poll::PRI;
        }
        if ev.contains(Events::STATE) {
            bits |= poll_bits(ns, key) & (poll::HUP | poll::RDHUP | poll::OUT | poll::IN);
        }
        ns.socks.event(key, bits);
    }
    if !ev.contains(Events::STATE) {
        rearm(ns, key);
        return;
    }
    if super::timewait::tcp_time_wait(ns, key) {
        return;
    }
    if state == State::Close {
        unhash(ns, key);
        finish(ns, key);
    } else {
        rearm(ns, key);
    }
}

/// Used by `timewait` when the full socket gives way.
pub(super) fn finish(ns: &mut Namespace, key: SockKey) {
    let orphan = tcp_sock_mut(ns, key).is_some_and(|t| t.orphan);
    if orphan {
        destroy(ns, key);
    } else if let Some(ts) = tcp_sock_mut(ns, key) {
        let mut timer = core::mem::take(&mut ts.timer);
        ns.env.timers.cancel(&mut timer);
    }
}

/// Level of readiness (`tcp_poll`), as `poll` bits.
#[must_use]
pub fn poll_bits(ns: &Namespace, key: SockKey) -> u16 {
    let Some(s) = ns.socks.socks.get(key) else { return poll::ERR };
    let crate::sock::Proto::Tcp(ts) = &s.proto else { return 0 };
    match &ts.kind {
        TcpKind::Closed => poll::OUT | poll::HUP,
        TcpKind::Listen(l) => {
            if l.accept_queue.is_empty() {
                0
            } else {
                poll::IN
            }
        }
        TcpKind::Conn(t) => {
            let mut m = 0;
            let state = t.state();
            if state == State::Close || (t.rcv_shutdown() && t.snd_shutdown()) {
                m |= poll::HUP;
            }
            if t.rcv_shutdown() {
                m |= poll::IN | poll::RDHUP;
            }
            if state != State::SynSent && (state != State::SynRecv || t.is_fastopen()) {
                if t.readable() {
                    m |= poll::IN;
                }
                if t.snd_shutdown() || t.writable() {
                    m |= poll::OUT;
                }
            }
            if t.urgent_readable() {
                m |= poll::PRI;
            }
            if t.error().is_some() {
                m |= poll::ERR;
            }
            m
        }
    }
}

/// `TCP_INFO`.
#[must_use]
pub fn info(ns: &Namespace, key: SockKey) -> Option<TcpInfo> {
    let crate::sock::Proto::Tcp(ts) = &ns.socks.socks.get(key)?.proto else { return None };
    match &ts.kind {
        TcpKind::Conn(t) => Some(t.info(ns.env.now)),
        // tcp_get_info: for a listener, unacked and sacked are the accept queue and its limit.
        TcpKind::Listen(l) => Some(TcpInfo {
            state: State::Listen as u8,
            unacked: l.accept_queue.len() as u32,
            sacked: l.max_ack_backlog,
            reordering: ns.socks.tcp.cfg.reordering,
            snd_cwnd: ferronet_tcp::cong::INIT_CWND,
            pacing_rate: u64::MAX,
            max_pacing_rate: u64::MAX,
            ..TcpInfo::default()
        }),
        TcpKind::Closed => Some(TcpInfo { state: State::Close as u8, ..TcpInfo::default() }),
    }
}

/// Takes the pending error (`SO_ERROR`).
pub fn take_error(ns: &mut Namespace, key: SockKey) -> Option<Errno> {
    with_tcb(ns, key, |t, _| t.take_error()).flatten()
}

/// Receive and send queue lengths as `ss` shows them: bytes, or for a listener connections and their limit.
#[must_use]
pub fn queues(ns: &Namespace, key: SockKey) -> (u32, u32) {
    let Some(crate::sock::Proto::Tcp(ts)) = ns.socks.socks.get(key).map(|s| &s.proto) else { return (0, 0) };
    match &ts.kind {
        TcpKind::Conn(t) => {
            (t.rqueue().saturating_add(ts.edge.unread), t.outq().saturating_add(ts.edge.unsent))
        }
        TcpKind::Listen(l) => (l.accept_queue.len() as u32, l.max_ack_backlog),
        TcpKind::Closed => (0, 0),
    }
}

/// Bytes that can be read (`SIOCINQ`), and bytes written but not acknowledged (`SIOCOUTQ`), as far as the stack has them.
#[must_use]
pub fn inq_outq(ns: &Namespace, key: SockKey) -> (u32, u32) {
    let Some(crate::sock::Proto::Tcp(ts)) = ns.socks.socks.get(key).map(|s| &s.proto) else { return (0, 0) };
    match &ts.kind {
        TcpKind::Conn(t) => (t.inq_to_mark(), t.outq()),
        TcpKind::Closed | TcpKind::Listen(_) => (0, 0),
    }
}

/// Ends a connection from outside (`ss -K`, `SOCK_DESTROY`): reset to the peer, `ECONNABORTED` for the program.
///
/// # Errors
/// `EOPNOTSUPP` for a socket that is not connected.
pub fn abort(ns: &mut Namespace, key: SockKey) -> Result<(), Errno> {
    match state(ns, key) {
        Some(State::Listen) => {
            stop_listening(ns, key);
            ns.socks.common_mut(key)?.err = Some(Errno::ECONNABORTED);
            ns.socks.event(key, poll::ERR | poll::HUP | poll::IN);
            Ok(())
        }
        Some(State::Close) | None => Err(Errno::ENOENT),
        Some(
            State::SynSent
            | State::SynRecv
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::CloseWait
            | State::LastAck
            | State::Closing,
        ) => {
            with_tcb(ns, key, |t, cx| t.abort(cx, Some(Errno::ECONNABORTED)));
            tcp_push(ns, key);
            Ok(())
        }
    }
}

/// May connect(2) take this four-tuple: free, or in a TIME_WAIT that may be reused (which ends it)?
pub fn connect_may_use(ns: &mut Namespace, t: &super::FourTuple) -> bool {
    super::timewait::may_reuse(ns, t)
}

/// Has a peer: established or on its way to the end.
#[must_use]
pub fn is_connected(ns: &Namespace, key: SockKey) -> bool {
    !matches!(state(ns, key), None | Some(State::Close | State::Listen | State::SynSent))
}

/// In LISTEN?
#[must_use]
pub fn is_listening(ns: &Namespace, key: SockKey) -> bool {
    state(ns, key) == Some(State::Listen)
}

/// `connect(2)` with `AF_UNSPEC` (`tcp_disconnect`): the connection is reset, the socket can be used again.
///
/// # Errors
/// `EBADF`.
pub fn disconnect(ns: &mut Namespace, key: SockKey) -> Result<(), Errno> {
    match state(ns, key).ok_or(Errno::EBADF)? {
        State::Listen => stop_listening(ns, key),
        State::Close => {}
        State::SynSent
        | State::SynRecv
        | State::Established
        | State::FinWait1
        | State::FinWait2
        | State::TimeWait
        | State::CloseWait
        | State::LastAck
        | State::Closing => {
            with_tcb(ns, key, |t, cx| t.abort(cx, None));
            tcp_push(ns, key);
        }
    }
    unhash(ns, key);
    if let Some(ts) = tcp_sock_mut(ns, key) {
        ts.kind = TcpKind::Closed;
        ts.route = None;
    }
    let c = ns.socks.common_mut(key)?;
    c.peer = None;
    // What bind(2) gave stays.
    if !c.flags.contains(SockFlags::BINDPORT_LOCK) {
        ports::release(ns, key);
    } else if !c.flags.contains(SockFlags::BINDADDR_LOCK) {
        c.local = c.own_family(crate::fib::Family::V4.any());
        if c.is_v6() {
            c.local = crate::fib::Family::V6.any();
        }
    }
    Ok(())
}
