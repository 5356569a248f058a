//! TIME_WAIT (`net/ipv4/tcp_minisocks.c`): about 200 bytes stand for a finished connection.

use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::timer::TimerId;
use ferronet_core::{DropReason, IfIndex, Mib, Packet, Sysctl};
use ferronet_tcp::{State, TwVerdict};
use slotmap::Key;

use super::rx::{Incoming, to_listener};
use super::tx::{send_unbound, tuple_of};
use super::{FourTuple, Owner, TimeWaitSock, TwKey};
use crate::ns::Namespace;
use crate::sock::{SockKey, ports};

/// When the connection only waits for its end (TIME_WAIT, or FIN_WAIT2 that no program holds), a small entry
/// takes its place and the program's socket is closed (`tcp_time_wait`). `true` when it did.
pub(super) fn tcp_time_wait(ns: &mut Namespace, key: SockKey) -> bool {
    let limit = usize::try_from(ns.env.sysctl.get(Sysctl::TcpMaxTwBuckets)).unwrap_or(0);
    let Some(c) = ns.socks.socks.get(key).map(|s| &s.common) else { return false };
    let (tuple, uid, mark, tos, family) = (tuple_of(c), c.uid, c.mark, c.tos, c.family);
    let Some(tuple) = tuple else { return false };
    let Some(tw) = super::tx::with_tcb(ns, key, |t, cx| t.to_time_wait(cx)).flatten() else { return false };
    if ns.socks.tcp.time_wait.len() >= limit {
        // Too many: the connection just ends.
        ns.env.mib.inc(Mib::TcpExtTCPTimeWaitOverflow);
        ns.socks.tcp.unhash(&tuple, Owner::Sock(key));
        super::user::finish(ns, key);
        return true;
    }
    let bound = ports::share_with_time_wait(ns, key);
    let deadline = tw.deadline;
    // Counted when it begins, by how long it will last (__inet_twsk_schedule, 6.18).
    let short = deadline - ns.env.now <= Duration::from_secs(4);
    ns.env.mib.inc(if short { Mib::TcpExtTWKilled } else { Mib::TcpExtTW });
    let entry = TimeWaitSock { tuple, tw, timer: TimerId::NONE, uid, bound, mark, tos, family };
    let id = ns.socks.tcp.time_wait.insert(entry);
    let timer = ns.env.timers.arm(deadline, TimerKey::TimeWait(id.data().as_ffi()));
    if let Some(e) = ns.socks.tcp.time_wait.get_mut(id) {
        e.timer = timer;
    }
    ns.socks.tcp.hash(tuple, Owner::TimeWait(id));
    super::user::finish(ns, key);
    true
}

/// The 60 seconds are over.
pub fn timewait_timer(ns: &mut Namespace, id: u64) {
    let key = TwKey::from(slotmap::KeyData::from_ffi(id));
    remove(ns, key);
}

fn remove(ns: &mut Namespace, key: TwKey) -> bool {
    let Some(mut e) = ns.socks.tcp.time_wait.remove(key) else { return false };
    ns.env.timers.cancel(&mut e.timer);
    ns.socks.tcp.unhash(&e.tuple, Owner::TimeWait(key));
    if e.bound {
        ports::release_time_wait(ns, e.family, e.tuple.laddr, e.tuple.lport);
    }
    true
}

/// A segment for a connection in TIME_WAIT (`tcp_timewait_state_process`).
pub(super) fn tcp_timewait_rcv(ns: &mut Namespace, p: Packet, key: TwKey, inc: &Incoming) {
    let Some(e) = ns.socks.tcp.time_wait.get_mut(key) else {
        to_listener(ns, p, inc);
        return;
    };
    let mut cx = ferronet_tcp::Cx { now: ns.env.now, cfg: &ns.socks.tcp.cfg, mib: &mut ns.env.mib };
    let verdict = e.tw.rcv(&mut cx, &inc.seg);
    let deadline = e.tw.deadline;
    ns.env.timers.rearm(&mut e.timer, deadline, TimerKey::TimeWait(key.data().as_ffi()));
    let how = (IfIndex::NONE, e.mark, e.tos);
    match verdict {
        TwVerdict::Drop(reason) => ns.env.drop(p, reason),
        TwVerdict::Ack(t) => {
            ns.env.consume(p);
            send_unbound(ns, *t, inc.tuple, how);
        }
        TwVerdict::Rst { reset, end } => {
            if end {
                remove(ns, key);
            }
            ns.env.drop(p, DropReason::TcpTimeWait);
            if let Some(t) = reset {
                send_unbound(ns, *t, inc.tuple, how);
            }
        }
        TwVerdict::End => {
            remove(ns, key);
            ns.env.drop(p, DropReason::TcpReset);
        }
        // RFC 1122 §4.2.2.13: a new SYN beyond the old sequence space opens anew, if somebody listens.
        TwVerdict::Reopen(isn) => {
            if super::demux::lookup_listener(&ns.socks, &inc.tuple, inc.dev, inc.hash).is_some() {
                remove(ns, key);
                ns.socks.tcp.next_isn = Some(isn);
                to_listener(ns, p, inc);
                ns.socks.tcp.next_isn = None;
            } else {
                super::rx::no_socket(ns, p, inc);
            }
        }
    }
}

/// Whether connect(2) may take this four-tuple: free, or in TIME_WAIT and old enough with timestamps
/// (`tcp_tw_reuse`, `tcp_twsk_unique`).
pub(super) fn may_reuse(ns: &mut Namespace, tuple: &FourTuple) -> bool {
    match ns.socks.tcp.established(tuple) {
        None => true,
        Some(Owner::TimeWait(k)) => {
            let mode = ns.env.sysctl.get(Sysctl::TcpTwReuse);
            let lo = tuple.laddr.is_loopback() || tuple.raddr.is_loopback();
            let now = ns.env.now;
            let delay = ns.env.sysctl.get(Sysctl::TcpTwReuseDelay);
            let delay = Duration::from_millis(u64::try_from(delay).unwrap_or(0));
            let isn = ns.socks.tcp.time_wait.get(k).and_then(|e| e.tw.reusable(now, delay));
            let ok = (mode == 1 || (mode == 2 && lo)) && isn.is_some();
            if ok {
                ns.socks.tcp.next_isn = isn;
            }
            ok && remove(ns, k)
        }
        Some(Owner::Sock(_) | Owner::Request(_)) => false,
    }
}

impl TimeWaitSock {
    /// State for `ss`: TIME_WAIT or FIN_WAIT2.
    #[must_use]
    pub fn state(&self) -> State {
        self.tw.state
    }
}
