//! socket(2): a socket of the stack behind one end of an injected AF_UNIX pair.

use std::os::fd::AsFd;

use crate::listen::sys_limit;
use crate::obj::{Body, Message, Object, Phase, Stream};
use crate::os;
use crate::poller::bits;
use crate::seccomp::{self, Slot};
use crate::supervisor::{Answer, Call, Supervisor};

/// Arguments: family, type with flags, protocol.
pub(crate) fn socket(s: &mut Supervisor, call: &Call) -> Answer {
    let (family, ty, proto) = (call.n.int(0), call.n.int(1), call.n.int(2));
    let flags = ty & (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let kind = ty & 0xf;
    if ty & !(0xf | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Answer::Err(libc::EINVAL);
    }
    let tid = call.n.tid;
    let sock = match s.with_caller(tid, |k, c| k.socket(c, family, kind, proto)) {
        Ok(Ok(sock)) => sock,
        Ok(Err(e)) => return e.into(),
        Err(e) => return Answer::Err(e),
    };
    let stream = kind == libc::SOCK_STREAM && matches!(family, libc::AF_INET | libc::AF_INET6);
    let pair = if stream { libc::SOCK_STREAM } else { libc::SOCK_SEQPACKET };
    let (mine, theirs) = match os::object_pair(pair | (flags & libc::SOCK_NONBLOCK)) {
        Ok(p) => p,
        Err(e) => {
            s.kernel.close(sock);
            return Answer::Err(os::errno_of(&e));
        }
    };
    s.kernel.set_inode(sock, os::inode(theirs.as_fd()));
    let slot = if stream { Slot::Lowest } else { s.high_slot(tid) };
    if !stream && matches!(slot, Slot::Lowest) {
        // At a low number the filter cannot see it: bytes would flow without addresses and control data.
        s.kernel.close(sock);
        return Answer::Err(libc::EMFILE);
    }
    let cookie = os::cookie(theirs.as_fd()).unwrap_or(0);
    let body = if stream {
        Body::Stream(sock, Stream::new(Phase::Fresh))
    } else {
        Body::Message(sock, Message::default())
    };
    if stream {
        // Linux says ENOTCONN to who reads now; here a read at least ends, with EAGAIN, until connect() (connect.rs).
        os::set_rcvtimeo(theirs.as_fd(), &[0i64, 1].map(i64::to_ne_bytes).concat());
    }
    let interest = if stream { bits::IN | bits::PRI } else { bits::IN };
    let object = Object { mine: Some(mine), cookie, owner: (tid, 0), waiters: Vec::new(), interest, body };
    inject(s, call, object, theirs.as_fd(), slot, flags & libc::SOCK_CLOEXEC != 0)
}

/// Puts `theirs` into the program as the call's result and keeps `object`; undoes everything when that fails.
pub(crate) fn inject(
    s: &mut Supervisor,
    call: &Call,
    mut object: Object,
    theirs: std::os::fd::BorrowedFd<'_>,
    slot: Slot,
    cloexec: bool,
) -> Answer {
    let Some(listener) = s.listener(call.listener) else { return Answer::Done };
    let mut slot = slot;
    let mut done = seccomp::inject(listener, call.n.id, theirs, slot, cloexec);
    while let (Err(e), Slot::At(n)) = (&done, slot)
        && os::errno_of(e) == libc::EBADF
    {
        // Beyond the program's RLIMIT_NOFILE. When all our numbers are: no socket (EMFILE), but a low one for a file.
        slot = s.lower_slot(call.n.tid, n);
        if matches!((&object.body, slot), (Body::Message(..), Slot::Lowest)) {
            break;
        }
        let Some(listener) = s.listener(call.listener) else { return Answer::Done };
        done = seccomp::inject(listener, call.n.id, theirs, slot, cloexec);
    }
    match done {
        Ok(fd) => {
            object.owner = (call.n.tid, fd);
            let message = matches!(object.body, Body::Message(..));
            let key = s.adopt(object);
            s.replaced_fd(fd as i32);
            if message && matches!(slot, Slot::At(_)) {
                s.learn_fd(call.n.tid, fd as i32, key);
            }
            Answer::Done
        }
        Err(e) => {
            if let Some(sock) = object.sock() {
                s.kernel.close(sock);
            }
            if os::errno_of(&e) == libc::ENOENT { Answer::Done } else { Answer::Err(sys_limit(&e)) }
        }
    }
}
