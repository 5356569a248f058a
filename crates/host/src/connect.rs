//! connect(2) on TCP sockets, blocking and not.
//!
//! Not blocking: the program's send buffer is made small and filled, so that poll does not call it writable; success drains it,
//! which gives exactly one EPOLLOUT edge; failure closes our end with the filling unread, which gives POLLERR | POLLHUP.
//! No copy of the program's end is kept meanwhile: it would hide that the program closed it.

use std::os::fd::{AsFd, OwnedFd};

use ferronet_core::Errno;
use ferronet_linux::Ready;

use crate::obj::{Key, Phase, Stream};
use crate::os;
use crate::seccomp;
use crate::supervisor::{Answer, Call, Supervisor};

/// Send buffer while connecting: the smallest the kernel gives (SOCK_MIN_SNDBUF).
const TINY: i32 = 1;
/// It is filled in writes of this size; two do it.
const FILL: usize = 2048;
/// No buffer as small as that takes more.
const FILL_MAX: usize = 64 * 1024;

impl Supervisor {
    /// connect(2) with the address already read.
    pub(crate) fn connect_stream(&mut self, call: &Call, key: Key, theirs: OwnedFd, name: &[u8]) -> Answer {
        let Some((sock, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EBADF) };
        let nonblocking = os::status_flags(theirs.as_fd()) & libc::O_NONBLOCK != 0;
        let theirs = match st.phase {
            Phase::Dead => match self.revive(call, key, theirs) {
                Ok(t) => t,
                Err(e) => return Answer::Err(e),
            },
            Phase::Fresh | Phase::Connecting { .. } | Phase::Listening { .. } | Phase::Open => theirs,
        };
        if call.parked.is_none()
            && self.objects.stream(key).is_some_and(|(_, st, _)| matches!(st.phase, Phase::Fresh))
            && let Ok(v) = self.kernel.getsockopt(sock, libc::SOL_SOCKET, libc::SO_RCVTIMEO, 16)
        {
            // From now on a read waits as long as the program wants it to.
            os::set_rcvtimeo(theirs.as_fd(), &v);
        }
        let r = match self.with_sock_caller(call.n.tid, |k, c| k.connect(c, sock, name)) {
            Ok(r) => r,
            Err(e) => return Answer::Err(e),
        };
        if name.starts_with(&[0, 0]) {
            return self.disconnected(key, r);
        }
        // The handshake may end within this very turn (loopback): let it, before deciding to park.
        let r = if r == Err(Errno::EINPROGRESS) && !nonblocking { self.rush(key, r) } else { r };
        if r == Ok(()) {
            // It is told now: another call says EISCONN.
            let _ = self.with_sock_caller(call.n.tid, |k, c| k.connect(c, sock, name));
        }
        let Some((_, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EBADF) };
        match r {
            Ok(()) => {
                st.unclaimed = false;
                self.connected(key);
                Answer::Ret(0)
            }
            Err(Errno::EISCONN) if call.parked.is_some() || st.unclaimed => {
                st.unclaimed = false;
                self.connected(key);
                Answer::Ret(0)
            }
            Err(Errno::EINPROGRESS | Errno::EALREADY) if !nonblocking => {
                if call.expired {
                    return Answer::Err(libc::EINPROGRESS);
                }
                if !matches!(st.phase, Phase::Connecting { .. }) {
                    self.fill(key, &theirs);
                }
                Answer::Park(key, self.timeout_of(sock, libc::SO_SNDTIMEO))
            }
            Err(Errno::EINPROGRESS) => {
                // Linux says so even when the peer has answered: it holds the socket locked meanwhile. poll() then
                // finds it connected.
                if self.rush(key, r) == Ok(()) {
                    self.writable_edge(key, &theirs);
                    self.connected(key);
                    if let Some((_, st, _)) = self.objects.stream(key) {
                        st.unclaimed = true;
                    }
                } else {
                    self.fill(key, &theirs);
                }
                Answer::Err(libc::EINPROGRESS)
            }
            Err(e) => {
                if e != Errno::EALREADY && matches!(st.phase, Phase::Connecting { .. }) {
                    st.phase = Phase::Fresh;
                    self.refresh(key);
                }
                e.into()
            }
        }
    }

    /// A socket whose connection failed or ended may connect again: it gets a new pair, under the same number. Copies of the
    /// old descriptor, and epoll sets, keep the old one.
    fn revive(&mut self, call: &Call, key: Key, theirs: OwnedFd) -> Result<OwnedFd, i32> {
        let fd = call.n.int(0);
        let (_, st, _) = self.objects.stream(key).ok_or(libc::EBADF)?;
        match st.refused {
            // An established connection that ended: the socket stays connected (SS_CONNECTED).
            None => return Err(libc::EISCONN),
            // inet_stream_connect: the first connect() after a failed one tells its error, or ECONNABORTED when that was told.
            Some(false) => {
                st.refused = Some(true);
                return Err(self.take_refusal(key, &theirs).unwrap_or(libc::ECONNABORTED));
            }
            Some(true) => {}
        }
        let (sock, ..) = self.objects.stream(key).ok_or(libc::EBADF)?;
        let nonblocking = os::status_flags(theirs.as_fd()) & libc::O_NONBLOCK;
        let (mine, new) = os::socketpair(libc::SOCK_STREAM | nonblocking).map_err(|e| os::errno_of(&e))?;
        let cloexec = os::is_cloexec(call.n.tid, fd);
        let listener = self.listener(call.listener).ok_or(libc::EBADF)?;
        seccomp::replace(listener, call.n.id, new.as_fd(), fd as u32, cloexec)
            .map_err(|e| os::errno_of(&e))?;
        self.kernel.set_inode(sock, os::inode(new.as_fd()));
        self.objects.replace_end(key, mine, os::cookie(new.as_fd()).unwrap_or(0));
        self.watch_end(key);
        if let Some((_, st, _)) = self.objects.stream(key) {
            *st = Stream::new(Phase::Fresh);
        }
        Ok(new)
    }

    /// The error of a failed connect(), if it was not told yet; from now on it was.
    fn take_refusal(&mut self, key: Key, theirs: &OwnedFd) -> Option<i32> {
        let (sock, st, _) = self.objects.stream(key)?;
        let known = st.error.take();
        let stack = self.kernel.getsockopt(sock, libc::SOL_SOCKET, libc::SO_ERROR, 4).ok()?;
        // Asking clears it; a reader may have got it.
        let pending = os::getsockopt_u64(theirs.as_fd(), libc::SO_ERROR)? != 0;
        let stack = stack.first_chunk().map(|b| i32::from_ne_bytes(*b)).filter(|e| *e != 0);
        known.or(stack).filter(|_| pending)
    }

    /// connect() to AF_UNSPEC: the socket may connect again (`tcp_disconnect`).
    fn disconnected(&mut self, key: Key, r: Result<(), Errno>) -> Answer {
        if let Err(e) = r {
            return e.into();
        }
        let Some((_, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EBADF) };
        st.refused = Some(true);
        match st.phase {
            Phase::Fresh | Phase::Dead => {}
            Phase::Connecting { .. } | Phase::Listening { .. } | Phase::Open => {
                self.kill_end(key);
                self.wake(key, false);
            }
        }
        Answer::Ret(0)
    }

    /// shutdown() while connect() runs ends the attempt (`inet_shutdown` in SYN_SENT disconnects).
    pub(crate) fn shutdown_connect(&mut self, call: &Call, key: Key) {
        let Some((sock, st, _)) = self.objects.stream(key) else { return };
        st.error = Some(libc::ECONNRESET);
        st.refused = Some(true);
        // AF_UNSPEC.
        let _ = self.with_caller(call.n.tid, |k, c| k.connect(c, sock, &[0; 16]));
        self.kill_end(key);
        self.wake(key, false);
    }

    /// From now on the program's end is not writable.
    fn fill(&mut self, key: Key, theirs: &OwnedFd) {
        os::set_sndbuf(theirs.as_fd(), TINY);
        let mut fill = 0;
        // Every byte is counted: what is not taken back later would go to the peer.
        while fill < FILL_MAX
            && let Ok(n) = os::send(theirs.as_fd(), &[0; FILL])
        {
            fill += n;
        }
        let Some((_, st, _)) = self.objects.stream(key) else { return };
        st.phase = Phase::Connecting { fill };
        st.unclaimed = true;
        st.narrow = fill > 0;
        self.refresh(key);
    }

    /// The program's end becomes writable once more: who watched it before connect() gets its edge. A byte goes through;
    /// what was written before connect(), EPIPE on Linux, goes with it.
    fn writable_edge(&mut self, key: Key, theirs: &OwnedFd) {
        let Some((_, _, Some(mine))) = self.objects.stream(key) else { return };
        if os::send(theirs.as_fd(), b"!").is_ok() {
            let _ = self.bufs.read(mine.as_fd());
        }
    }

    /// Takes the filling back. The program's send buffer gets large before: its going is the edge that makes it write.
    fn drain(&mut self, key: Key, mut fill: usize) {
        if self.objects.stream(key).is_some_and(|(_, st, _)| st.narrow) {
            self.enlarge(key, None);
        }
        let Some((_, _, Some(mine))) = self.objects.stream(key) else { return };
        let mut sink = [0u8; FILL];
        while fill > 0 {
            match os::recv_bytes(mine.as_fd(), sink.get_mut(..fill.min(FILL)).unwrap_or_default()) {
                Ok(n) if n > 0 => fill -= n,
                _ => break,
            }
        }
    }

    /// Runs the stack once, in case the answer is already there.
    fn rush(&mut self, key: Key, r: Result<(), Errno>) -> Result<(), Errno> {
        let Some((sock, st, _)) = self.objects.stream(key) else { return r };
        if !matches!(st.phase, Phase::Fresh) {
            return r;
        }
        for _ in 0..8 {
            if !self.kernel.run(64) {
                break;
            }
        }
        if self.kernel.getpeername(sock).is_ok() { Ok(()) } else { r }
    }

    /// The stack decided a connection attempt (or shows an intermediate event).
    pub(crate) fn connect_event(&mut self, key: Key, r: Ready) {
        let Some((sock, st, _)) = self.objects.stream(key) else { return };
        let Phase::Connecting { fill } = st.phase else { return };
        // inet_getname: ENOTCONN in SYN_SENT and CLOSE.
        if self.kernel.getpeername(sock).is_ok() {
            self.connected(key);
            self.wake(key, false);
        } else if r.intersects(Ready::ERR | Ready::HUP) {
            if self.is_waited_for(key) {
                // A blocking connect() gets the error, and the socket may connect again.
                self.drain(key, fill);
                if let Some((_, st, _)) = self.objects.stream(key) {
                    st.phase = Phase::Fresh;
                }
                self.refresh(key);
                self.wake(key, false);
            } else {
                // Unread filling: the program sees POLLERR | POLLHUP; SO_ERROR comes from the stack.
                if let Some((_, st, _)) = self.objects.stream(key) {
                    st.refused = Some(false);
                }
                self.kill_end(key);
            }
        }
    }

    /// From now on bytes flow.
    fn connected(&mut self, key: Key) {
        let Some((_, st, Some(_))) = self.objects.stream(key) else { return };
        if matches!(st.phase, Phase::Open) {
            return;
        }
        let fill = match std::mem::replace(&mut st.phase, Phase::Open) {
            Phase::Connecting { fill } => fill,
            Phase::Fresh | Phase::Listening { .. } | Phase::Open | Phase::Dead => 0,
        };
        self.drain(key, fill);
        // Has the program written meanwhile, our end is readable and says so.
        self.refresh(key);
        self.pump_in(key);
    }
}
