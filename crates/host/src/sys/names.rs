//! bind, connect, getsockname, getpeername, shutdown.

use std::os::fd::AsFd;

use ferronet_linux::SockId;

use crate::obj::{Key, Phase};
use crate::os;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::{Ours, addr};

/// bind(fd, addr, len).
pub(crate) fn bind(s: &mut Supervisor, call: &Call, sock: SockId) -> Answer {
    let name = match addr::get(call.n.tid, call.n.ptr(1), call.n.ptr(2)) {
        Ok(n) => n,
        Err(e) => return Answer::Err(e),
    };
    match s.with_caller(call.n.tid, |k, c| k.bind(c, sock, &name)) {
        Ok(Ok(())) => Answer::Ret(0),
        Ok(Err(e)) => e.into(),
        Err(e) => Answer::Err(e),
    }
}

/// connect(fd, addr, len).
pub(crate) fn connect(s: &mut Supervisor, call: &Call, o: Ours, stream: bool, sock: SockId) -> Answer {
    let name = match addr::get(call.n.tid, call.n.ptr(1), call.n.ptr(2)) {
        Ok(n) => n,
        Err(e) => return Answer::Err(e),
    };
    if stream {
        if let Some(x) = s.objects.get_mut(o.key) {
            x.owner = (call.n.tid, call.n.int(0) as u32);
        }
        let key = o.key;
        let Some(theirs) = o.into_theirs(s) else { return Answer::Err(libc::EBADF) };
        return s.connect_stream(call, key, theirs, &name);
    }
    match s.with_caller(call.n.tid, |k, c| k.connect(c, sock, &name)) {
        Ok(Ok(())) => Answer::Ret(0),
        Ok(Err(e)) => e.into(),
        Err(e) => Answer::Err(e),
    }
}

/// getsockname and getpeername(fd, addr, len*).
pub(crate) fn name(s: &mut Supervisor, call: &Call, sock: SockId) -> Answer {
    let r = if call.n.nr == libc::SYS_getsockname {
        s.kernel.getsockname(sock)
    } else {
        s.kernel.getpeername(sock)
    };
    match r {
        Ok(name) => match addr::put(call.n.tid, &name, call.n.ptr(1), call.n.ptr(2)) {
            Ok(()) => Answer::Ret(0),
            Err(e) => Answer::Err(e),
        },
        Err(e) => e.into(),
    }
}

/// shutdown(fd, how).
pub(crate) fn shutdown(s: &mut Supervisor, call: &Call, o: &Ours, stream: bool, sock: SockId) -> Answer {
    let key = o.key;
    let how = call.n.int(1);
    if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
        return Answer::Err(libc::EINVAL);
    }
    if !stream {
        return match s.kernel.shutdown(sock, how) {
            Ok(()) => Answer::Ret(0),
            Err(e) => e.into(),
        };
    }
    if s.objects.stream(key).is_some_and(|(_, st, _)| matches!(st.phase, Phase::Connecting { .. })) {
        s.shutdown_connect(call, key);
        return Answer::Ret(0);
    }
    if let Err(e) = s.kernel.getpeername(sock)
        && !listening(s, key)
    {
        return e.into();
    }
    if how != libc::SHUT_WR {
        if let Some((_, st, mine)) = s.objects.stream(key)
            && let (Some(mine), false) = (mine, st.in_eof)
        {
            // Readers of the program wake with end of file.
            os::shutdown(mine.as_fd(), libc::SHUT_WR);
            st.in_eof = true;
        }
        let _ = s.kernel.shutdown(sock, libc::SHUT_RD);
    }
    if how != libc::SHUT_RD {
        let theirs = o.theirs(s);
        if let Some((_, st, _)) = s.objects.stream(key) {
            st.shut_wr = true;
            if let (Some(theirs), Phase::Open) = (theirs, &st.phase) {
                // Behind what was written; and the next write is EPIPE.
                os::shutdown(theirs, libc::SHUT_WR);
                st.wr_closed = true;
            }
        }
        // Everything written before is in our end's queue already.
        s.pump_out(key);
    }
    s.wake(key, false);
    Answer::Ret(0)
}

fn listening(s: &mut Supervisor, key: Key) -> bool {
    s.objects.stream(key).is_some_and(|(_, st, _)| matches!(st.phase, Phase::Listening { .. }))
}
