//! Options of TCP sockets (`tcp_setsockopt`): kept for connections to come, and applied to the one that is.

use ferronet_tcp::{CongAlg, SockOpts};

use super::tx::{tcp_push, tcp_sock_mut, with_tcb};
use super::{TcpKind, TcpSock};
use crate::ns::Namespace;
use crate::sock::{Proto, SockKey};

/// The options of a TCP socket.
#[must_use]
pub fn get(ns: &Namespace, key: SockKey) -> Option<SockOpts> {
    let Proto::Tcp(ts) = &ns.socks.socks.get(key)?.proto else { return None };
    Some(ts.opts)
}

/// Changes options, with effect on the connection: buffers, keepalive, congestion control; data that an option
/// held back goes out.
pub fn set(ns: &mut Namespace, key: SockKey, f: impl FnOnce(&mut SockOpts)) {
    let Some(ts) = tcp_sock_mut(ns, key) else { return };
    let old = ts.opts;
    f(&mut ts.opts);
    let new = ts.opts;
    with_tcb(ns, key, |t, cx| {
        t.opts = new;
        if new.sndbuf != old.sndbuf {
            t.set_sndbuf(new.sndbuf);
        }
        if new.rcvbuf != old.rcvbuf {
            t.set_rcvbuf(new.rcvbuf);
        }
        if let Some(alg) = new.congestion.filter(|_| new.congestion != old.congestion) {
            t.set_congestion(alg);
        }
        if (new.keepalive, new.keepidle) != (old.keepalive, old.keepidle) {
            t.update_keepalive(cx);
        }
    });
    tcp_push(ns, key);
}

/// `TCP_QUICKACK`.
pub fn set_quickack(ns: &mut Namespace, key: SockKey, on: bool) {
    with_tcb(ns, key, |t, cx| t.set_quickack(cx, on));
    tcp_push(ns, key);
}

/// What `TCP_QUICKACK` reads.
pub fn quickack(ns: &mut Namespace, key: SockKey) -> bool {
    with_tcb(ns, key, |t, cx| t.quickack(cx)).unwrap_or(true)
}

fn sock(ns: &Namespace, key: SockKey) -> Option<&TcpSock> {
    match &ns.socks.socks.get(key)?.proto {
        Proto::Tcp(ts) => Some(ts),
        Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => None,
    }
}

/// Segment size `TCP_MAXSEG` reads: the connection's, else what was set, else RFC 9293 §3.7.1's default.
#[must_use]
pub fn mss(ns: &Namespace, key: SockKey) -> u16 {
    match sock(ns, key).map(|t| (&t.kind, t.opts.user_mss)) {
        Some((TcpKind::Conn(t), _)) => t.mss(),
        Some((_, m)) if m > 0 => m,
        _ => 536,
    }
}

/// Congestion control in use.
#[must_use]
pub fn congestion(ns: &Namespace, key: SockKey) -> CongAlg {
    match sock(ns, key).map(|t| (&t.kind, t.opts.congestion)) {
        Some((TcpKind::Conn(t), _)) => t.congestion(),
        Some((_, Some(a))) => a,
        _ => super::default_congestion(&ns.env.sysctl),
    }
}

/// Receive and send buffers of a connection in bytes; `None` when there is none.
#[must_use]
pub fn buffers(ns: &Namespace, key: SockKey) -> Option<(u32, u32)> {
    match &sock(ns, key)?.kind {
        TcpKind::Conn(t) => Some((t.rcvbuf(), t.sndbuf())),
        TcpKind::Closed | TcpKind::Listen(_) => None,
    }
}

/// Memory charged: received and unread, queued to send; bytes.
#[must_use]
pub fn memory(ns: &Namespace, key: SockKey) -> (u32, u32) {
    match sock(ns, key).map(|t| &t.kind) {
        Some(TcpKind::Conn(t)) => (t.rmem_alloc(), t.wmem_queued()),
        Some(TcpKind::Closed | TcpKind::Listen(_)) | None => (0, 0),
    }
}

/// Bytes queued and not sent (`SIOCOUTQNSD`).
#[must_use]
pub fn notsent(ns: &Namespace, key: SockKey) -> u32 {
    match sock(ns, key).map(|t| &t.kind) {
        Some(TcpKind::Conn(t)) => t.notsent_bytes(),
        Some(TcpKind::Closed | TcpKind::Listen(_)) | None => 0,
    }
}
