//! The SYN queue and the accept queue (`tcp_conn_request`, `tcp_check_req`, `inet_csk_reqsk_queue_*`).

use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::timer::TimerId;
use ferronet_core::{DropReason, IfIndex, Mib, Packet, Sysctl};
use ferronet_tcp::{Cx, Open, ReqTimeout, ReqVerdict, RequestSock, Tcb};
use ferronet_wire::{SeqNr, TcpFlags};
use slotmap::Key;

use super::rx::{Incoming, link_local, send_reset, to_connection};
use super::tx::{flow_of, path_mss, route_output, send_by, send_unbound, tcp_sock_mut};
use super::{FourTuple, Owner, ReqKey, Request, TcpKind, TcpSock};
use crate::fib::Flow;
use crate::ns::Namespace;
use crate::sock::{SockKey, poll};

/// How long cookies are believed after the queue overflowed (`TCP_SYNCOOKIE_VALID`).
const SYNCOOKIE_VALID: Duration = Duration::from_secs(120);

/// A segment for a listening socket (`tcp_rcv_state_process` in LISTEN, RFC 9293 §3.10.7.2).
pub(super) fn tcp_rcv_listen(ns: &mut Namespace, p: Packet, key: SockKey, inc: &Incoming) {
    let f = inc.seg.flags;
    if f.contains(TcpFlags::RST) {
        ns.env.drop(p, DropReason::TcpReset);
    } else if f.contains(TcpFlags::ACK) {
        // Perhaps the answer to a cookie.
        if !f.contains(TcpFlags::SYN) && super::cookie::cookie_check(ns, key, inc) {
            super::cookie::cookie_child(ns, p, key, inc);
            return;
        }
        send_reset(ns, inc);
        ns.env.drop(p, DropReason::TcpFlags);
    } else if f.contains(TcpFlags::SYN) && !f.contains(TcpFlags::FIN) {
        let mut p = p;
        match tcp_conn_request(ns, key, &mut p, inc) {
            Ok(()) => ns.env.consume(p),
            Err(r) => ns.env.drop(p, r),
        }
    } else {
        ns.env.drop(p, DropReason::TcpFlags);
    }
}

fn listener(ns: &mut Namespace, key: SockKey) -> Option<&mut super::Listener> {
    match &mut tcp_sock_mut(ns, key)?.kind {
        TcpKind::Listen(l) => Some(l),
        TcpKind::Closed | TcpKind::Conn(_) => None,
    }
}

impl super::Listener {
    /// `sk_acceptq_is_full`: the bound is exceeded, not reached, so one more than `backlog` fit.
    #[must_use]
    pub fn acceptq_is_full(&self) -> bool {
        self.accept_queue.len() as u32 > self.max_ack_backlog
    }
    /// `inet_csk_reqsk_queue_is_full`: exceeded here, too (6.18; it was "reached" until 6.8).
    #[must_use]
    pub fn reqsk_queue_is_full(&self) -> bool {
        self.qlen > self.max_ack_backlog
    }
}

/// `tcp_listendrop` counts beside the reason, for the namespace and for the socket.
pub(super) fn listen_drop(ns: &mut Namespace, key: SockKey, r: DropReason) -> DropReason {
    ns.env.mib.inc(Mib::TcpExtListenDrops);
    if let Some(l) = listener(ns, key) {
        l.drops = l.drops.wrapping_add(1);
    }
    r
}

/// A SYN (`tcp_conn_request`).
fn tcp_conn_request(
    ns: &mut Namespace,
    key: SockKey,
    p: &mut Packet,
    inc: &Incoming,
) -> Result<(), DropReason> {
    let cookies = ns.env.sysctl.get(Sysctl::TcpSyncookies);
    let max_syn = u32::try_from(ns.env.sysctl.get(Sysctl::TcpMaxSynBacklog)).unwrap_or(u32::MAX);
    let now = ns.env.now;
    let Some(l) = listener(ns, key) else { return Err(DropReason::NoSocket) };
    let (syn_full, accept_full, qlen) = (l.reqsk_queue_is_full(), l.acceptq_is_full(), l.qlen);
    let mut want_cookie = false;
    if cookies == 2 || syn_full {
        // tcp_syn_flood_action
        if cookies == 0 {
            ns.env.mib.inc(Mib::TcpExtTCPReqQFullDrop);
            return Err(listen_drop(ns, key, DropReason::TcpReqQFull));
        }
        ns.env.mib.inc(Mib::TcpExtTCPReqQFullDoCookies);
        want_cookie = true;
        if let Some(l) = listener(ns, key) {
            l.last_overflow = Some(now);
        }
    }
    if accept_full {
        // The drop reason counts ListenOverflows.
        return Err(listen_drop(ns, key, DropReason::TcpListenOverflow));
    }
    // Without cookies the last quarter of the queue is for peers that were seen before.
    if !want_cookie && cookies == 0 && max_syn.saturating_sub(qlen) < max_syn >> 2 {
        return Err(listen_drop(ns, key, DropReason::TcpReqQFull));
    }
    let (open, route) = prepare(ns, key, inc).ok_or(DropReason::IpOutNoRoute)?;
    if want_cookie {
        super::cookie::send_cookie(ns, key, inc, open);
        return Ok(());
    }
    let opts = tcp_sock_mut(ns, key).map(|t| t.opts).unwrap_or_default();
    let cx = Cx { now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let mut req = RequestSock::new(&cx, &opts, &inc.seg, open);
    if super::fastopen::tcp_try_fastopen(ns, key, p, inc, &mut req) {
        return Ok(());
    }
    let mut cx = Cx { now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let reply = req.syn_ack(&mut cx);
    let deadline = req.deadline();
    let oif = if link_local(inc.tuple.raddr) { inc.dev } else { IfIndex::NONE };
    let entry =
        Request { listener: key, tuple: inc.tuple, dev: oif, req, timer: TimerId::NONE, num_timeout: 0 };
    let rk = ns.socks.tcp.requests.insert(entry);
    ns.socks.tcp.by_listener.insert((key, rk));
    let timer = ns.env.timers.arm(deadline, TimerKey::Request(rk.data().as_ffi()));
    if let Some(e) = ns.socks.tcp.requests.get_mut(rk) {
        e.timer = timer;
    }
    ns.socks.tcp.hash(inc.tuple, Owner::Request(rk));
    if let Some(l) = listener(ns, key) {
        l.qlen += 1;
        l.young += 1;
    }
    let family = crate::fib::Family::of(inc.tuple.raddr);
    let ip = ns.socks.socks.get(key).map(|s| s.common.ip_fields(family)).unwrap_or_default();
    send_by(ns, reply, inc.tuple, route, ip);
    Ok(())
}

/// The route of an answer (`inet_csk_route_req`, `inet_csk_route_child_sock`).
pub(super) fn route_back(ns: &Namespace, key: SockKey, inc: &Incoming) -> Option<crate::fib::Route> {
    let c = &ns.socks.socks.get(key)?.common;
    let oif = if link_local(inc.tuple.raddr) { inc.dev } else { c.bound_dev };
    route_output(ns, &Flow { oif, ..flow_of(c, &inc.tuple) }).ok().map(|(route, _)| route)
}

/// Route, MSS and initial sequence number for an answer.
pub(super) fn prepare(ns: &mut Namespace, key: SockKey, inc: &Incoming) -> Option<(Open, crate::fib::Route)> {
    let route = route_back(ns, key, inc)?;
    let open = Open {
        iss: SeqNr(ns.socks.tcp.isn(&inc.tuple, ns.env.now)),
        ts_offset: ns.socks.tcp.ts_offset(&inc.tuple),
        path_mss: path_mss(ns, &route, inc.tuple.raddr),
    };
    Some((open, route))
}

/// A segment for a request socket (`tcp_check_req`).
pub(super) fn tcp_check_req(ns: &mut Namespace, p: Packet, rk: ReqKey, inc: &Incoming) {
    let Some(r) = ns.socks.tcp.requests.get_mut(rk) else {
        super::rx::to_listener(ns, p, inc);
        return;
    };
    let (parent, dev) = (r.listener, r.dev);
    let mut cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    match r.req.rcv(&mut cx, &inc.seg) {
        ReqVerdict::Drop(reason) => ns.env.drop(p, reason),
        ReqVerdict::ResendSynAck => {
            let t = r.req.syn_ack(&mut cx);
            ns.env.timers.rearm(&mut r.timer, r.req.deadline(), TimerKey::Request(rk.data().as_ffi()));
            ns.env.consume(p);
            send_unbound(ns, t, inc.tuple, (dev, 0, 0));
        }
        ReqVerdict::Ack(t) | ReqVerdict::Rst(t) => {
            ns.env.consume(p);
            send_unbound(ns, *t, inc.tuple, (dev, 0, 0));
        }
        ReqVerdict::End(reset) => {
            forget(ns, rk);
            ns.env.drop(p, DropReason::TcpReset);
            if let Some(t) = reset {
                send_unbound(ns, *t, inc.tuple, (dev, 0, 0));
            }
        }
        ReqVerdict::Established => established(ns, p, rk, parent, inc),
    }
}

/// The handshake is complete (`tcp_v4_syn_recv_sock`): a child for the accept queue, if there is room.
fn established(ns: &mut Namespace, p: Packet, rk: ReqKey, parent: SockKey, inc: &Incoming) {
    let Some(l) = listener(ns, parent) else {
        forget(ns, rk);
        super::rx::no_socket(ns, p, inc);
        return;
    };
    let full = l.acceptq_is_full();
    let defer = tcp_sock_mut(ns, parent).map_or(0, |t| t.opts.defer_accept);
    if let Some(e) = ns.socks.tcp.requests.get_mut(rk)
        && e.num_timeout < defer
        && inc.seg.len == 0
        && !inc.seg.flags.contains(TcpFlags::FIN)
    {
        // tcp_check_req: "While TCP_DEFER_ACCEPT is active, drop bare ACK."
        e.req.acked = true;
        ns.env.drop(p, DropReason::TcpDeferAccept);
        return;
    }
    if full {
        let r = listen_drop(ns, parent, DropReason::TcpListenOverflow);
        if ns.env.sysctl.on(Sysctl::TcpAbortOnOverflow) {
            send_reset(ns, inc);
            forget(ns, rk);
            ns.env.mib.inc(Mib::TcpExtEmbryonicRsts);
        } else if let Some(e) = ns.socks.tcp.requests.get_mut(rk) {
            e.req.acked = true;
        }
        ns.env.drop(p, r);
        return;
    }
    let Some(e) = ns.socks.tcp.requests.get(rk) else { return };
    let req = e.req;
    forget(ns, rk);
    let Some(child) = make_child(ns, parent, &req, inc) else {
        let r = listen_drop(ns, parent, DropReason::NoMemory);
        ns.env.drop(p, r);
        return;
    };
    ns.socks.tcp.hash(inc.tuple, Owner::Sock(child));
    to_connection(ns, p, child, inc);
    enqueue(ns, parent, child);
}

/// A full socket out of a request, with the listener's options.
pub(super) fn make_child(
    ns: &mut Namespace,
    parent: SockKey,
    req: &RequestSock,
    inc: &Incoming,
) -> Option<SockKey> {
    let route = route_back(ns, parent, inc)?;
    let opts = tcp_sock_mut(ns, parent)?.opts;
    let mut cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let tcb = Tcb::from_request(&mut cx, opts, req);
    make_socket(ns, parent, (tcb, opts, route), inc)
}

/// The socket around a new connection.
pub(super) fn make_socket(
    ns: &mut Namespace,
    parent: SockKey,
    (tcb, opts, route): (Tcb, ferronet_tcp::SockOpts, crate::fib::Route),
    inc: &Incoming,
) -> Option<SockKey> {
    let ip_id = ns.env.rng.next_u32() as u16;
    let ts = TcpSock {
        kind: TcpKind::Conn(Box::new(tcb)),
        opts,
        route: Some((route, ns.fib.generation, ns.devs.generation)),
        ip_id,
        bound: true,
        parent: Some(parent),
        ..TcpSock::default()
    };
    let t: FourTuple = inc.tuple;
    ns.socks.new_child(parent, (t.laddr, t.lport), (t.raddr, t.rport), inc.dev, ts)
}

/// Into the accept queue; the program sees the listener become readable.
pub(super) fn enqueue(ns: &mut Namespace, parent: SockKey, child: SockKey) {
    if let Some(l) = listener(ns, parent) {
        l.accept_queue.push_back(child);
        ns.socks.event(parent, poll::IN);
    }
}

/// Takes a request out of the SYN queue.
fn forget(ns: &mut Namespace, rk: ReqKey) {
    let Some(mut r) = ns.socks.tcp.requests.remove(rk) else { return };
    ns.socks.tcp.by_listener.remove(&(r.listener, rk));
    ns.env.timers.cancel(&mut r.timer);
    ns.socks.tcp.unhash(&r.tuple, Owner::Request(rk));
    if let Some(l) = listener(ns, r.listener) {
        l.qlen = l.qlen.saturating_sub(1);
        if r.num_timeout == 0 {
            l.young = l.young.saturating_sub(1);
        }
    }
}

/// The listener is going away with its SYN queue.
pub(super) fn forget_requests(ns: &mut Namespace, parent: SockKey) {
    let first = (parent, ReqKey::from(slotmap::KeyData::from_ffi(0)));
    while let Some(&(listener, rk)) = ns.socks.tcp.by_listener.range(first..).next()
        && listener == parent
    {
        forget(ns, rk);
    }
}

/// The SYN-ACK was not answered in time (`reqsk_timer_handler`): again, or give up. A full queue ages faster.
pub fn request_timer(ns: &mut Namespace, id: u64) {
    let rk = ReqKey::from(slotmap::KeyData::from_ffi(id));
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let Some(r) = ns.socks.tcp.requests.get_mut(rk) else { return };
    r.timer = TimerId::NONE;
    let (parent, tuple, dev, num) = (r.listener, r.tuple, r.dev, r.num_timeout);
    let Some((qlen, young, max)) = listener(ns, parent).map(|l| (l.qlen, l.young, l.max_ack_backlog)) else {
        forget(ns, rk);
        return;
    };
    let opts = tcp_sock_mut(ns, parent).map(|t| t.opts).unwrap_or_default();
    // Normally five retransmissions; fewer when more than half of the queue is old.
    let mut retries = u32::from(ns.socks.tcp.cfg.synack_retries);
    if (qlen << 1) > max.max(8) {
        let mut y = young << 1;
        while retries > 2 && qlen >= y {
            retries -= 1;
            y = (y << 1).max(1);
        }
    }
    let mut cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let Some(r) = ns.socks.tcp.requests.get_mut(rk) else { return };
    // A listener that waits for data has its own number.
    let verdict = if opts.defer_accept == 0 && u32::from(num) >= retries {
        ReqTimeout::Expired
    } else {
        r.req.on_timeout(&mut cx, &opts)
    };
    let reply = match verdict {
        ReqTimeout::Expired => {
            forget(ns, rk);
            return;
        }
        ReqTimeout::Wait => None,
        ReqTimeout::Resend => {
            cx.mib.inc(Mib::TcpExtTCPTimeouts);
            Some(r.req.syn_ack(&mut cx))
        }
    };
    r.num_timeout += 1;
    r.timer = ns.env.timers.arm(r.req.deadline(), TimerKey::Request(id));
    if num == 0
        && let Some(l) = listener(ns, parent)
    {
        l.young = l.young.saturating_sub(1);
    }
    if let Some(t) = reply {
        send_unbound(ns, t, tuple, (dev, 0, 0));
    }
}

/// Cookies are believed only for a while after an overflow, or always with `tcp_syncookies` 2.
pub(super) fn cookies_expected(ns: &mut Namespace, key: SockKey) -> bool {
    let mode = ns.env.sysctl.get(Sysctl::TcpSyncookies);
    let now = ns.env.now;
    mode == 2
        || (mode == 1
            && listener(ns, key).and_then(|l| l.last_overflow).is_some_and(|t| now - t <= SYNCOOKIE_VALID))
}
