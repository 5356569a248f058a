//! SYN cookies (`net/ipv4/syncookies.c`): the SYN queue in the peer's head.

use core::net::IpAddr;

use ferronet_core::{IfIndex, Instant, Mib, Packet};
use ferronet_tcp::{Cx, Open, RequestSock, isn, syncookie};
use ferronet_wire::tcp::SeqNr;

use super::listen::{cookies_expected, enqueue, make_child, prepare};
use super::rx::{Incoming, to_connection};
use super::tx::{send_unbound, tcp_sock_mut};
use super::{FourTuple, Owner, TcpTables};
use crate::ns::Namespace;
use crate::sock::SockKey;

fn words(t: &FourTuple) -> [u64; 5] {
    let split = |a: IpAddr| match a {
        IpAddr::V4(a) => [u64::from(a.to_bits()), 0],
        IpAddr::V6(a) => [(a.to_bits() >> 64) as u64, a.to_bits() as u64],
    };
    let ([a, b], [c, d]) = (split(t.laddr), split(t.raddr));
    [a, b, c, d, u64::from(t.lport) << 16 | u64::from(t.rport)]
}

impl TcpTables {
    /// Initial sequence number (RFC 6528).
    pub(super) fn isn(&mut self, t: &FourTuple, now: Instant) -> u32 {
        match self.next_isn.take() {
            Some(i) => i.0,
            None => isn::secure_tcp_seq(self.isn_key, &words(t), now),
        }
    }
    /// Offset of the timestamp clock for a pair of hosts.
    pub(super) fn ts_offset(&self, t: &FourTuple) -> u32 {
        let w = words(t);
        isn::secure_tcp_ts_off(self.ts_key, &w[..4])
    }
    /// Key of Fast Open cookies while `tcp_fastopen_key` is not set.
    pub(super) fn fastopen_key(&self) -> [u64; 2] {
        [self.isn_key[1] ^ 0x7466_6f20_6b65_7921, self.ts_key[0]]
    }
    /// Reads the settings again when a sysctl changed.
    #[inline]
    pub fn refresh(&mut self, t: &ferronet_core::sysctl::SysctlTable) {
        if self.cfg_generation != t.generation {
            self.cfg = super::config_from_sysctl(t);
            self.cfg_generation = t.generation;
        }
    }
}

fn mss_table(t: &FourTuple) -> &'static [u16; 4] {
    match t.laddr {
        IpAddr::V4(_) => &syncookie::MSS_TABLE_V4,
        IpAddr::V6(_) => &syncookie::MSS_TABLE_V6,
    }
}

/// Answers a SYN without remembering it.
pub(super) fn send_cookie(ns: &mut Namespace, key: SockKey, inc: &Incoming, open: Open) {
    let mss = inc.seg.opts.mss.unwrap_or(536).min(open.path_mss);
    let (cookie, clamped) = syncookie::encode(
        ns.socks.tcp.cookie_key,
        words(&inc.tuple),
        inc.seg.seq.0,
        mss,
        mss_table(&inc.tuple),
        ns.env.now,
    );
    let opts = tcp_sock_mut(ns, key).map(|t| t.opts).unwrap_or_default();
    let mut cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let mut req = RequestSock::new(&cx, &opts, &inc.seg, open);
    req.make_cookie(SeqNr(cookie), clamped);
    let reply = req.syn_ack(&mut cx);
    ns.env.mib.inc(Mib::TcpExtSyncookiesSent);
    send_unbound(ns, reply, inc.tuple, (IfIndex::NONE, 0, 0));
}

fn decode(ns: &Namespace, inc: &Incoming) -> Option<u16> {
    let (peer_isn, cookie) = (inc.seg.seq.0.wrapping_sub(1), inc.seg.ack.0.wrapping_sub(1));
    syncookie::decode(
        ns.socks.tcp.cookie_key,
        words(&inc.tuple),
        peer_isn,
        cookie,
        mss_table(&inc.tuple),
        ns.env.now,
    )
}

/// Is this ACK the answer to a cookie of ours?
pub(super) fn cookie_check(ns: &mut Namespace, key: SockKey, inc: &Incoming) -> bool {
    if !cookies_expected(ns, key) {
        return false;
    }
    let ok = decode(ns, inc).is_some();
    ns.env.mib.inc(if ok { Mib::TcpExtSyncookiesRecv } else { Mib::TcpExtSyncookiesFailed });
    ok
}

/// The connection that the cookie stands for.
pub(super) fn cookie_child(ns: &mut Namespace, p: Packet, key: SockKey, inc: &Incoming) {
    let full = match tcp_sock_mut(ns, key).map(|t| &t.kind) {
        Some(super::TcpKind::Listen(l)) => l.acceptq_is_full(),
        Some(super::TcpKind::Closed | super::TcpKind::Conn(_)) | None => true,
    };
    if full {
        let r = super::listen::listen_drop(ns, key, ferronet_core::DropReason::TcpListenOverflow);
        ns.env.drop(p, r);
        return;
    }
    let child = decode(ns, inc).and_then(|mss| {
        let (open, _) = prepare(ns, key, inc)?;
        let opts = tcp_sock_mut(ns, key).map(|t| t.opts).unwrap_or_default();
        let ts = match inc.seg.opts.timestamps {
            Some(t) => Some(syncookie::decode_timestamp(t.tsecr.wrapping_sub(open.ts_offset))?),
            None => None,
        };
        let cx = Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
        let req = RequestSock::from_cookie(&cx, &opts, &inc.seg, open, mss, ts)?;
        make_child(ns, key, &req, inc)
    });
    let Some(child) = child else {
        ns.env.drop(p, ferronet_core::DropReason::TcpBadCookie);
        return;
    };
    ns.socks.tcp.hash(inc.tuple, Owner::Sock(child));
    to_connection(ns, p, child, inc);
    enqueue(ns, key, child);
}
