//! sendmmsg and recvmmsg.

use ferronet_core::Errno;
use ferronet_linux::SockId;

use crate::mem;
use crate::seccomp;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::message::{self, may_block};
use crate::sys::{Ours, control_msg};

/// UIO_MAXIOV also bounds the vector of messages.
const MAX: usize = 1024;

fn slot(call: &Call, i: usize) -> u64 {
    call.n.ptr(1) + (i * size_of::<libc::mmsghdr>()) as u64
}

/// Offset of msg_len in struct mmsghdr.
const LEN_AT: u64 = size_of::<libc::msghdr>() as u64;

/// sendmmsg(fd, mmsghdr*, n, flags).
pub(crate) fn send(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let n = (call.n.ptr(2) as u32 as usize).min(MAX);
    let (tid, flags) = (call.n.tid, call.n.int(3));
    if !s.listener(call.listener).is_some_and(|l| seccomp::valid(l, call.n.id)) {
        return Answer::Done;
    }
    let mut done = 0;
    let mut failed = 0;
    while done < n {
        let at = slot(call, done);
        let r = control_msg::header(tid, at)
            .and_then(|h| message::outgoing(tid, &h, flags))
            .and_then(|m| message::submit(s, tid, sock, &m))
            .and_then(|sent| mem::write_val(tid, at + LEN_AT, &(sent as u32)));
        match r {
            Ok(()) => done += 1,
            Err(e) => {
                failed = e;
                break;
            }
        }
    }
    match (done, failed) {
        (0, libc::EAGAIN) if may_block(s, call, o, flags) => {
            Answer::Park(o.key, s.timeout_of(sock, libc::SO_SNDTIMEO))
        }
        (0, e) if e != 0 => Answer::Err(e),
        _ => Answer::Ret(done as i64),
    }
}

/// recvmmsg(fd, mmsghdr*, n, flags, timeout*). Linux waits for all `n` unless MSG_WAITFORONE; we return what there is as
/// soon as there is one, which every caller has to expect anyway (signals).
pub(crate) fn recv(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    const MSG_WAITFORONE: i32 = 0x10000;
    let n = (call.n.ptr(2) as u32 as usize).min(MAX);
    let (tid, flags) = (call.n.tid, call.n.int(3) & !MSG_WAITFORONE);
    let mut done = 0usize;
    while done < n {
        let at = slot(call, done);
        let h = match control_msg::header(tid, at) {
            Ok(h) => h,
            Err(e) if done == 0 => return Answer::Err(e),
            Err(_) => break,
        };
        match message::take(s, o.key, sock, &message::request(&h, flags)) {
            Ok(r) => {
                let len = if flags & libc::MSG_TRUNC != 0 { r.len } else { r.data.len() };
                let put = h.put(tid, &r).and_then(|()| mem::write_val(tid, at + LEN_AT, &(len as u32)));
                match put {
                    Ok(()) => done += 1,
                    Err(e) if done == 0 => return Answer::Err(e),
                    Err(_) => break,
                }
            }
            Err(Errno::EAGAIN) if done == 0 => {
                s.settle_message(o);
                return wait(s, call, o, sock, flags);
            }
            Err(e) if done == 0 => return e.into(),
            Err(_) => break,
        }
    }
    s.settle_message(o);
    s.lower_pollerr(call, o);
    match time_left(s, call, sock) {
        Ok(()) => Answer::Ret(done as i64),
        Err(e) => Answer::Err(e),
    }
}

/// Writes the time that is left into the timeout argument, as after at least one datagram (`__sys_recvmmsg`).
fn time_left(s: &mut Supervisor, call: &Call, sock: SockId) -> Result<(), i32> {
    let (tid, ptr) = (call.n.tid, call.n.ptr(4));
    if ptr == 0 {
        return Ok(());
    }
    let whole = timeout_ns(&mem::read_val(tid, ptr)?)?;
    // A parked call began as long before its deadline as the shorter of the two times it had.
    let limit =
        s.timeout_of(sock, libc::SO_RCVTIMEO).map_or(whole, |at| whole.min(at.saturating_sub(s.now_ns)));
    let begun = call.deadline.map_or(s.now_ns, |at| at.saturating_sub(limit));
    let left = whole.saturating_sub(s.now_ns.saturating_sub(begun));
    let t = libc::timespec { tv_sec: (left / SECOND) as i64, tv_nsec: (left % SECOND) as i64 };
    mem::write_val(tid, ptr, &t)
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A timeout in nanoseconds; EINVAL for none (`poll_select_set_timeout`).
fn timeout_ns(t: &libc::timespec) -> Result<u64, i32> {
    let sec = u64::try_from(t.tv_sec).map_err(|_| libc::EINVAL)?;
    let nsec = u64::try_from(t.tv_nsec).ok().filter(|n| *n < SECOND).ok_or(libc::EINVAL)?;
    Ok(sec.saturating_mul(SECOND).saturating_add(nsec))
}

fn wait(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId, flags: i32) -> Answer {
    if !may_block(s, call, o, flags) {
        return Answer::Err(libc::EAGAIN);
    }
    let mut deadline = s.timeout_of(sock, libc::SO_RCVTIMEO);
    if call.n.ptr(4) != 0 {
        match mem::read_val(call.n.tid, call.n.ptr(4)).and_then(|t| timeout_ns(&t)) {
            Ok(ns) => {
                let at = s.now_ns.saturating_add(ns);
                deadline = Some(deadline.map_or(at, |d| d.min(at)));
            }
            Err(e) => return Answer::Err(e),
        }
    }
    Answer::Park(o.key, deadline)
}
