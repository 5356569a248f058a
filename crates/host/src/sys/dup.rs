//! dup, dup2, dup3 and F_DUPFD of message sockets: copies stay at numbers the filter sees, where that is possible.

use ferronet_linux::SockId;

use crate::join::FD_BASE;
use crate::listen::sys_limit;
use crate::obj::Body;
use crate::os;
use crate::seccomp::{self, Slot};
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::Ours;

/// dup(fd), dup2(fd, new), dup3(fd, new, flags), fcntl(fd, F_DUPFD…, min).
pub(crate) fn dup(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    if !matches!(s.objects.get(o.key).map(|x| &x.body), Some(Body::Message(..))) {
        return Answer::Continue;
    }
    let n = &call.n;
    let chosen = n.nr != libc::SYS_dup && n.nr != libc::SYS_fcntl;
    if chosen {
        s.forget_fds();
        if n.int(1) >= 0 && n.ptr(1) as u32 >= FD_BASE {
            return Answer::Continue;
        }
        return to_low(s, o, sock);
    }
    if n.nr == libc::SYS_fcntl && n.ptr(2) as u32 > FD_BASE {
        return Answer::Continue;
    }
    let cloexec = n.nr == libc::SYS_fcntl && n.int(1) == libc::F_DUPFD_CLOEXEC;
    let slot = s.high_slot(n.tid);
    if matches!(slot, Slot::Lowest) {
        return to_low(s, o, sock);
    }
    let Some(theirs) = o.theirs(s) else { return Answer::Continue };
    let Some(l) = s.listener(call.listener) else { return Answer::Done };
    match seccomp::inject(l, n.id, theirs, slot, cloexec) {
        Ok(_) => Answer::Done,
        Err(e) if os::errno_of(&e) == libc::ENOENT => Answer::Done,
        Err(e) => Answer::Err(sys_limit(&e)),
    }
}

/// A copy below the base. A connected socket works there, as bytes flow through the pair; another one would lose who sent what
/// without a word, so it is told that there is no such descriptor to have. Raw sockets are let through: their datagrams hold the
/// IPv4 header, and busybox moves every one it makes to a low number (its ping looks no further).
fn to_low(s: &mut Supervisor, o: &Ours, sock: SockId) -> Answer {
    let raw = s
        .kernel
        .getsockopt(sock, libc::SOL_SOCKET, libc::SO_TYPE, 4)
        .is_ok_and(|v| v.first_chunk() == Some(&libc::SOCK_RAW.to_ne_bytes()));
    if !raw && s.kernel.getpeername(sock).is_err() {
        return Answer::Err(libc::EMFILE);
    }
    go_native(s, o);
    Answer::Continue
}

/// From now on bytes flow through the pair: names and control data are lost.
fn go_native(s: &mut Supervisor, o: &Ours) {
    // What lies in the queue of a pair that says POLLERR tells us when it is closed.
    if s.objects.message(o.key).is_none_or(|(_, m, _)| m.raised) {
        return;
    }
    if let Some(theirs) = o.theirs(s) {
        let mut sink = [0u8; 8];
        while os::recv_bytes(theirs, &mut sink).is_ok_and(|n| n > 0) {}
    }
    if let Some((_, m, _)) = s.objects.message(o.key) {
        m.tokens = 0;
        m.native = true;
    }
    s.message_push(o.key);
}
