//! TCP Fast Open for listeners (RFC 7413; `tcp_try_fastopen`, 6.18).

use core::net::IpAddr;

use ferronet_core::hash::siphash24;
use ferronet_core::{Mib, Packet, Sysctl};
use ferronet_tcp::{Cx, Payload, RequestSock, State, Tcb};
use ferronet_wire::tcp::FastopenCookie;

use super::listen::{enqueue, make_socket, route_back};
use super::rx::Incoming;
use super::tx::{tcp_push, tcp_sock_mut};
use super::{FourTuple, Owner, TcpKind};
use crate::ns::Namespace;
use crate::sock::{Proto, SockKey};

/// Bits of `tcp_fastopen` (`TFO_*`).
const SERVER_ENABLE: i64 = 2;
const SERVER_COOKIE_NOT_REQD: i64 = 0x200;
const SERVER_WO_SOCKOPT1: i64 = 0x400;

/// What a listener without `TCP_FASTOPEN` gets, by `tcp_fastopen`: 0 or its backlog.
pub(super) fn default_qlen(ns: &Namespace, backlog: u32) -> u32 {
    let both = SERVER_ENABLE | SERVER_WO_SOCKOPT1;
    if ns.env.sysctl.get(Sysctl::TcpFastopen) & both == both { backlog } else { 0 }
}

/// Bytes of addresses in the order of the packet, as siphash's words.
fn words(t: &FourTuple) -> Vec<u64> {
    let bytes: Vec<u8> = match (t.raddr, t.laddr) {
        (IpAddr::V4(s), IpAddr::V4(d)) => [s.octets(), d.octets()].concat(),
        (IpAddr::V6(s), IpAddr::V6(d)) => [s.octets(), d.octets()].concat(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    };
    bytes.chunks_exact(8).filter_map(|c| c.try_into().ok().map(u64::from_le_bytes)).collect()
}

/// The keys of `tcp_fastopen_key`, the one in use first; one of the namespace's own while nobody has set any
/// (`tcp_fastopen_init_key_once`).
fn keys(ns: &Namespace) -> Vec<[u64; 2]> {
    let key = |text: &str| -> Option<[u64; 2]> {
        let mut w = text.trim().split('-').map(|g| u64::from_str_radix(g, 16).ok());
        let mut pair = || Some(w.next()?? | w.next()?? << 32);
        Some([pair()?, pair()?])
    };
    let set: Vec<[u64; 2]> = ns.env.sysctl.text(Sysctl::TcpFastopenKey).split(',').filter_map(key).collect();
    if set.iter().all(|k| *k == [0, 0]) { vec![ns.socks.tcp.fastopen_key()] } else { set }
}

/// `__tcp_fastopen_cookie_gen_cipher`.
fn cookie(key: [u64; 2], t: &FourTuple, exp: bool) -> Option<FastopenCookie> {
    FastopenCookie::new(&siphash24(key, &words(t)).to_le_bytes(), exp)
}

/// `tcp_fastopen_queue_check`: room for one more connection whose handshake is not complete.
fn room(ns: &mut Namespace, key: SockKey) -> bool {
    let Some(ts) = tcp_sock_mut(ns, key) else { return false };
    let max = ts.opts.fastopen_qlen;
    let TcpKind::Listen(l) = &mut ts.kind else { return false };
    if max == 0 {
        return false;
    }
    // Who is through with the handshake is looked for only when that may make room.
    if (l.fastopen.len() as u64) < u64::from(max) {
        return true;
    }
    let mut pending = core::mem::take(&mut l.fastopen);
    pending.retain(|k| super::user::state(ns, *k) == Some(State::SynRecv));
    let free = (pending.len() as u64) < u64::from(max);
    if !free {
        ns.env.mib.inc(Mib::TcpExtTCPFastOpenListenOverflow);
    }
    if let Some(TcpKind::Listen(l)) = tcp_sock_mut(ns, key).map(|t| &mut t.kind) {
        l.fastopen = pending;
    }
    free
}

/// A SYN with data or with the Fast Open option: makes the connection at once, or says which cookie the SYN-ACK brings.
/// True when the connection is made and its SYN-ACK is out.
pub(super) fn tcp_try_fastopen(
    ns: &mut Namespace,
    key: SockKey,
    p: &mut Packet,
    inc: &Incoming,
    req: &mut RequestSock,
) -> bool {
    let offered = inc.seg.opts.fastopen;
    if offered.is_none() && inc.seg.len == 0 {
        return false;
    }
    if offered.is_some_and(|c| c.as_slice().is_empty()) {
        ns.env.mib.inc(Mib::TcpExtTCPFastOpenCookieReqd);
    }
    let mode = ns.env.sysctl.get(Sysctl::TcpFastopen);
    if mode & SERVER_ENABLE == 0 || !room(ns, key) {
        return false;
    }
    let free = mode & SERVER_COOKIE_NOT_REQD != 0
        || tcp_sock_mut(ns, key).is_some_and(|t| t.opts.fastopen_no_cookie);
    let exp = offered.is_some_and(|c| c.exp);
    let valid: Vec<FastopenCookie> =
        keys(ns).into_iter().filter_map(|k| cookie(k, &inc.tuple, exp)).collect();
    let matched = match offered {
        Some(c) if !c.as_slice().is_empty() => valid.iter().position(|v| v.as_slice() == c.as_slice()),
        Some(_) | None => None,
    };
    if free || matched.is_some() {
        let renewed = if free || matched == Some(0) { None } else { valid.first().copied() };
        req.fastopen = renewed;
        if create_child(ns, key, p, inc, req) {
            if renewed.is_some() {
                ns.env.mib.inc(Mib::TcpExtTCPFastOpenPassiveAltKey);
            }
            ns.env.mib.inc(Mib::TcpExtTCPFastOpenPassive);
            return true;
        }
        ns.env.mib.inc(Mib::TcpExtTCPFastOpenPassiveFail);
    } else if offered.is_some_and(|c| !c.as_slice().is_empty()) {
        ns.env.mib.inc(Mib::TcpExtTCPFastOpenPassiveFail);
    }
    req.fastopen = offered.and(valid.first().copied());
    false
}

/// `tcp_fastopen_create_child`.
fn create_child(
    ns: &mut Namespace,
    parent: SockKey,
    p: &mut Packet,
    inc: &Incoming,
    req: &RequestSock,
) -> bool {
    let Some(route) = route_back(ns, parent, inc) else { return false };
    let Some(opts) = tcp_sock_mut(ns, parent).map(|t| t.opts) else { return false };
    let mut payload = Payload::new();
    p.take_payload(inc.hdr_len, &mut payload);
    let mut cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let tcb = Tcb::from_fastopen(&mut cx, opts, req, &inc.seg, payload);
    let Some(child) = make_socket(ns, parent, (tcb, opts, route), inc) else { return false };
    ns.socks.tcp.hash(inc.tuple, Owner::Sock(child));
    if let Some(Proto::Tcp(ts)) = ns.socks.socks.get_mut(parent).map(|s| &mut s.proto)
        && let TcpKind::Listen(l) = &mut ts.kind
    {
        l.fastopen.push(child);
    }
    enqueue(ns, parent, child);
    tcp_push(ns, child);
    true
}
