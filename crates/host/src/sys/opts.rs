//! getsockopt and setsockopt.

use ferronet_core::Errno;
use ferronet_linux::{Caller, Kernel, SockId};

use ferronet_linux::socket::tpacket;

use crate::mem;
use crate::obj::Phase;
use crate::os;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::Ours;

/// Largest option value that is read.
const MAX: usize = 65536;
/// PACKET_RX_RING and PACKET_HDRLEN.
const PACKET_RX_RING: i32 = 5;
const PACKET_HDRLEN: i32 = 11;
/// SO_RCVTIMEO_NEW and SO_SNDTIMEO_NEW.
const TIMEO_NEW: [i32; 2] = [66, 67];

/// setsockopt(fd, level, name, value, len).
pub(crate) fn set(s: &mut Supervisor, call: &Call, o: &Ours, stream: bool, sock: SockId) -> Answer {
    let (level, name) = (call.n.int(1), call.n.int(2));
    let Ok(len) = usize::try_from(call.n.int(4)) else { return Answer::Err(libc::EINVAL) };
    let tid = call.n.tid;
    let mut val = match mem::read_vec(tid, call.n.ptr(3), len.min(MAX)) {
        Ok(v) => v,
        Err(e) => return Answer::Err(e),
    };
    let filter = [libc::SO_ATTACH_FILTER, libc::SO_ATTACH_REUSEPORT_CBPF].contains(&name);
    if level == libc::SOL_SOCKET && filter {
        // struct sock_fprog: the stack gets the instructions themselves.
        val = match filter_program(tid, &val) {
            Ok(v) => v,
            Err(e) => return Answer::Err(e),
        };
    }
    // TCP's own options need no rights.
    let free = level == libc::IPPROTO_TCP;
    let set = |k: &mut Kernel, c: &mut Caller<'_>| k.setsockopt(c, sock, (level, name), &val);
    let r = match if free { s.with_sock_caller(tid, set) } else { s.with_caller(tid, set) } {
        Ok(r) => r,
        Err(e) => return Answer::Err(e),
    };
    if let Err(e) = r {
        return e.into();
    }
    if (level, name) == (libc::SOL_PACKET, PACKET_RX_RING)
        && let Err(e) = s.ring_changed(o.key, sock)
    {
        return Answer::Err(e);
    }
    let native = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO, libc::SO_RCVLOWAT, libc::SO_OOBINLINE];
    // Reads and writes of streams run natively on the pair; these options must hold there.
    if stream
        && level == libc::SOL_SOCKET
        && (native.contains(&name) || TIMEO_NEW.contains(&name))
        && let Some(theirs) = o.theirs(s)
    {
        let _ = os::setsockopt_raw(theirs, level, name, &val);
    }
    Answer::Ret(0)
}

/// The instructions a struct sock_fprog {u16 len; struct sock_filter *filter} points to.
fn filter_program(tid: u32, val: &[u8]) -> Result<Vec<u8>, i32> {
    let len = val.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or(libc::EINVAL)?;
    let ptr = val.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes).ok_or(libc::EINVAL)?;
    if len == 0 || len > 4096 {
        return Err(libc::EINVAL);
    }
    mem::read_vec(tid, ptr, usize::from(len) * size_of::<libc::sock_filter>())
}

/// The error of a connection that ended, once: reading may have told the program already, so the pair decides whether it is
/// still pending, and we know which it was.
pub(crate) fn dead_error(s: &mut Supervisor, o: &Ours) -> Option<i32> {
    let (_, st, _) = s.objects.stream(o.key)?;
    let Phase::Dead = st.phase else { return None };
    let known = st.error.take();
    let theirs = o.theirs(s)?;
    let pending = os::getsockopt_u64(theirs, libc::SO_ERROR).unwrap_or(0) != 0;
    known.map(|e| if pending { e } else { 0 })
}

/// getsockopt(fd, level, name, value, len*).
pub(crate) fn get(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let tid = call.n.tid;
    // SO_ERROR follows a connect(); the descriptor may have gone to another process meanwhile.
    if s.objects.stream(o.key).is_some_and(|(_, st, _)| st.narrow && matches!(st.phase, Phase::Open))
        && let Some(theirs) = o.theirs(s)
    {
        s.enlarge(o.key, Some(theirs));
    }
    let len = match mem::read_val::<i32>(tid, call.n.ptr(4)).map(usize::try_from) {
        Ok(Ok(l)) => l.min(MAX),
        Ok(Err(_)) => return Answer::Err(libc::EINVAL),
        Err(e) => return Answer::Err(e),
    };
    let (level, name) = (call.n.int(1), call.n.int(2));
    let got = if (level, name) == (libc::SOL_PACKET, PACKET_HDRLEN) && is_packet(s, sock) {
        hdrlen(tid, call.n.ptr(3), len)
    } else {
        s.kernel.getsockopt(sock, level, name, len)
    };
    let mut val = match got {
        Ok(v) => v,
        Err(e) => return e.into(),
    };
    if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR)
        && let Some(e) = dead_error(s, o)
    {
        val = e.to_ne_bytes().to_vec();
    }
    val.truncate(len);
    match mem::write_two(tid, (call.n.ptr(3), &val), (call.n.ptr(4), &(val.len() as i32).to_ne_bytes())) {
        Ok(()) => Answer::Ret(0),
        Err(e) => Answer::Err(e),
    }
}

fn is_packet(s: &Supervisor, sock: SockId) -> bool {
    s.kernel.sock_info(sock).is_some_and(|(family, ..)| family == libc::AF_PACKET)
}

/// PACKET_HDRLEN, the option whose value is also a question: which version's header?
fn hdrlen(tid: u32, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    if len < 4 {
        return Err(Errno::EINVAL);
    }
    let version = mem::read_val::<i32>(tid, at).map_err(|_| Errno::EFAULT)?;
    tpacket::hdrlen(version).map(|n| (n as i32).to_ne_bytes().to_vec())
}
