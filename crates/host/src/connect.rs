//! connect(2) on TCP sockets, blocking and not.
//!
//! Not blocking: the program's send buffer is made small and filled, so that poll does not call it writable; success drains it,
//! which gives exactly one EPOLLOUT edge; failure closes our end with the filling unread, which gives POLLERR | POLLHUP.
//! No copy of the program's end is kept meanwhile: it would hide that the program closed it.

use std::os::fd::{AsFd, OwnedFd};

use ferronet_core::Errno;
use ferronet_linux::Ready;

use crate::obj::{Key, Phase};
use crate::os;
use crate::supervisor::{Answer, Call, Supervisor};

/// Send buffer while connecting: the smallest the kernel gives (SOCK_MIN_SNDBUF).
const TINY: i32 = 1;
/// One write of this size takes more than a quarter of it, which is what poll looks at (unix_writable).
const FILL: usize = 2048;

impl Supervisor {
    /// connect(2) with the address already read.
    pub(crate) fn connect_stream(&mut self, call: &Call, key: Key, theirs: OwnedFd, name: &[u8]) -> Answer {
        let Some((sock, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EBADF) };
        let nonblocking = os::status_flags(theirs.as_fd()) & libc::O_NONBLOCK != 0;
        if matches!(st.phase, Phase::Dead) {
            return Answer::Err(libc::ECONNABORTED);
        }
        let r = match self.with_caller(call.n.tid, |k, c| k.connect(c, sock, name)) {
            Ok(r) => r,
            Err(e) => return Answer::Err(e),
        };
        // The handshake may end within this very turn (loopback): let it, before deciding to park.
        let r = if r == Err(Errno::EINPROGRESS) && !nonblocking { self.rush(key, r) } else { r };
        let Some((_, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EBADF) };
        match r {
            Ok(()) => {
                self.connected(key);
                Answer::Ret(0)
            }
            Err(Errno::EISCONN) if call.parked.is_some() => {
                self.connected(key);
                Answer::Ret(0)
            }
            Err(Errno::EINPROGRESS | Errno::EALREADY) if !nonblocking => {
                if call.expired {
                    return Answer::Err(libc::EINPROGRESS);
                }
                if !matches!(st.phase, Phase::Connecting { .. }) {
                    st.phase = Phase::Connecting { fill: 0 };
                }
                Answer::Park(key, self.timeout_of(sock, libc::SO_SNDTIMEO))
            }
            Err(Errno::EINPROGRESS) => {
                os::set_sndbuf(theirs.as_fd(), TINY);
                let fill = os::send(theirs.as_fd(), &[0; FILL]).unwrap_or(0);
                st.phase = Phase::Connecting { fill };
                st.narrow = fill > 0;
                self.refresh(key);
                Answer::Err(libc::EINPROGRESS)
            }
            Err(e) => {
                if matches!(st.phase, Phase::Connecting { .. }) {
                    st.phase = Phase::Fresh;
                }
                e.into()
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
        let Phase::Connecting { fill, .. } = &st.phase else { return };
        let filled = *fill > 0;
        // inet_getname: ENOTCONN in SYN_SENT and CLOSE.
        if self.kernel.getpeername(sock).is_ok() {
            if !filled {
                self.wake(key, false);
            }
            self.connected(key);
        } else if r.intersects(Ready::ERR | Ready::HUP) {
            if filled {
                // Unread filling: the program sees POLLERR | POLLHUP; SO_ERROR comes from the stack.
                self.kill_end(key);
            } else {
                self.wake(key, false);
                self.reset_connect(key);
            }
        }
    }

    /// A blocking connect that nobody waits for any more (interrupted) failed: the socket may connect again.
    fn reset_connect(&mut self, key: Key) {
        if let Some((_, st, _)) = self.objects.stream(key)
            && matches!(st.phase, Phase::Connecting { .. })
        {
            st.phase = Phase::Fresh;
        }
    }

    /// From now on bytes flow.
    fn connected(&mut self, key: Key) {
        let Some((_, st, Some(_))) = self.objects.stream(key) else { return };
        if matches!(st.phase, Phase::Open) {
            return;
        }
        let mut fill = match std::mem::replace(&mut st.phase, Phase::Open) {
            Phase::Connecting { fill } => fill,
            Phase::Fresh | Phase::Listening { .. } | Phase::Open | Phase::Dead => 0,
        };
        let mut sink = [0u8; FILL];
        if st.narrow {
            // Before the filling goes: its going is the edge that makes the program write.
            self.enlarge(key, None);
        }
        let Some((_, _, Some(mine))) = self.objects.stream(key) else { return };
        while fill > 0 {
            match os::recv_bytes(mine.as_fd(), sink.get_mut(..fill.min(FILL)).unwrap_or_default()) {
                Ok(n) if n > 0 => fill -= n,
                _ => break,
            }
        }
        self.refresh(key);
        self.pump_in(key);
        self.pump_out(key);
    }
}
