//! TCP sockets: pumping bytes between the program's socket pair and the stack, with back pressure both ways.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ferronet_core::Errno;
use ferronet_linux::{Ready, SockId};

use crate::obj::{Key, Phase, Stream};
use crate::os;
use crate::poller::bits;
use crate::queues::ioctl_int;
use crate::supervisor::Supervisor;

/// ioctl(2): does the next read begin at the urgent byte?
const SIOCATMARK: libc::c_ulong = 0x8905;
/// Reads per turn before other work gets its chance.
const BUDGET: usize = 16;
/// Most bytes moved to the program per step.
const CHUNK: usize = 256 * 1024;
/// Send buffer of an end that moves data in bulk, bytes (the kernel doubles it).
pub(crate) const SNDBUF: i32 = 512 * 1024;
/// Reads below this size emptied the queue: the kernel makes larger pieces of larger writes.
const SHORT: usize = 16 * 1024;
/// A read this large means that the program fills its send buffer.
const BULK: usize = 64 * 1024;

/// From now on the mark is looked for; urgent bytes are read in their place.
fn expect_oob(st: &mut Stream, mine: Option<&OwnedFd>) {
    if let (false, Some(mine)) = (st.oob_out, mine) {
        st.oob_out =
            os::setsockopt_raw(mine.as_fd(), libc::SOL_SOCKET, libc::SO_OOBINLINE, &1i32.to_ne_bytes())
                .is_ok();
    }
}

/// One read of what the program wrote; the urgent byte comes alone.
fn read_program(
    bufs: &mut crate::bufs::Bufs,
    st: &Stream,
    mine: &OwnedFd,
    urgent: &mut bool,
) -> std::io::Result<bytes::Bytes> {
    let fd = mine.as_fd();
    // The mark stays when its byte was read; POLLPRI does not.
    *urgent = st.oob_out && os::has_oob(fd) && ioctl_int(fd, SIOCATMARK) != 0;
    if !*urgent {
        return bufs.read(fd);
    }
    let mut byte = [0];
    let n = os::recv_bytes(fd, &mut byte)?;
    Ok(bytes::Bytes::copy_from_slice(byte.get(..n).unwrap_or_default()))
}

impl Supervisor {
    /// Something happened at our end of a stream.
    pub(crate) fn stream_event(&mut self, key: Key, ev: u32) {
        let hup = ev & bits::HUP != 0 && self.program_closed(key);
        let Some((_, st, mine)) = self.objects.stream(key) else { return };
        if ev & bits::PRI != 0 {
            expect_oob(st, mine.as_ref());
        }
        if hup {
            st.closing = true;
            if ev & bits::ERR != 0 {
                // Closed with unread data: Linux answers with RST (tcp_close, 6.18).
                st.abort = true;
            }
        }
        if ev & bits::OUT != 0 && st.in_blocked {
            st.in_blocked = false;
            self.pump_in(key);
        }
        self.pump_out(key);
    }

    /// A hang-up of our end: did the program close? When both directions were shut down it looks the same.
    fn program_closed(&mut self, key: Key) -> bool {
        match self.objects.stream(key) {
            Some((_, st, Some(mine))) if st.wr_closed && st.in_eof => {
                !crate::queues::peer_is_open(mine.as_fd())
            }
            _ => true,
        }
    }

    /// The stack has an event for the stream.
    pub(crate) fn stream_ready(&mut self, key: Key, r: Ready) {
        let Some((_, st, _)) = self.objects.stream(key) else { return };
        match st.phase {
            Phase::Connecting { .. } => self.connect_event(key, r),
            Phase::Listening { .. } => self.listener_ready(key, r),
            Phase::Open => {
                st.oob_in |= r.contains(Ready::PRI);
                if r.intersects(Ready::IN | Ready::HUP | Ready::RDHUP | Ready::ERR | Ready::PRI) {
                    self.pump_in(key);
                }
                if r.intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
                    self.pump_out(key);
                }
                if r.contains(Ready::ERR) {
                    self.stream_error(key);
                }
            }
            Phase::Fresh | Phase::Dead => {}
        }
    }

    /// Program to stack.
    pub(crate) fn pump_out(&mut self, key: Key) {
        for _ in 0..BUDGET {
            let Some((sock, st, mine)) = self.objects.stream(key) else { return };
            let Some(mine) = mine else { return };
            match st.phase {
                Phase::Open => {}
                // Filling, or tokens' other side: nothing of the program's is in the queue.
                Phase::Connecting { .. } | Phase::Listening { .. } | Phase::Fresh if st.closing => {
                    self.stream_close(key);
                    return;
                }
                Phase::Fresh | Phase::Listening { .. } => {
                    // Written without a connection: Linux would have said EPIPE. Left there it would wake us for ever.
                    if self.bufs.read(mine.as_fd()).is_ok_and(|d| d.is_empty()) {
                        // Somebody outside, where no filter is, shut a copy of the descriptor for writing.
                        st.wr_eof = true;
                        self.refresh(key);
                    }
                    return;
                }
                Phase::Connecting { .. } | Phase::Dead => return,
            }
            let mut urgent = std::mem::take(&mut st.out_urgent);
            let data = match st.out.take() {
                Some(d) => d,
                None => match read_program(&mut self.bufs, st, mine, &mut urgent) {
                    Ok(d) if d.is_empty() && st.wr_closed && !st.closing => {
                        st.wr_eof = true;
                        self.out_drained(key);
                        return;
                    }
                    Ok(d) if d.is_empty() => {
                        self.stream_end(key);
                        return;
                    }
                    Ok(d) => d,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                        self.out_drained(key);
                        return;
                    }
                    Err(_) => {
                        // ECONNRESET: the program closed with unread data; what it had written is lost as on Linux.
                        if let Some((_, st, _)) = self.objects.stream(key) {
                            st.abort = true;
                        }
                        self.stream_close(key);
                        return;
                    }
                },
            };
            let len = data.len();
            if len >= BULK && !st.bulk {
                st.bulk = true;
                self.enlarge(key, None);
            }
            if !self.out_send(key, sock, data, urgent) {
                return;
            }
            // A short read took all there was; epoll says when there is more.
            if len < SHORT && self.objects.stream(key).is_some_and(|(_, st, _)| !st.shut_wr && !st.closing) {
                break;
            }
            if len >= SHORT
                && let Some((_, st, Some(mine))) = self.objects.stream(key)
                && os::has_oob(mine.as_fd())
            {
                expect_oob(st, Some(mine));
            }
        }
        // The rest later: our end is still readable.
        self.refresh(key);
    }

    /// Hands `data` to the stack; false when the pump has to stop.
    fn out_send(&mut self, key: Key, sock: SockId, data: bytes::Bytes, urgent: bool) -> bool {
        let len = data.len();
        let sent = if urgent {
            self.kernel.stream_send_urgent(sock, data.clone())
        } else {
            self.kernel.stream_send(sock, data.clone())
        };
        let rest = match sent {
            Ok(n) if n >= len => return true,
            Ok(n) => data.slice(n..),
            Err(Errno::EAGAIN) => data,
            Err(e) => {
                self.stream_fail(key, e);
                return false;
            }
        };
        let Some((_, st, _)) = self.objects.stream(key) else { return false };
        st.out = Some(rest);
        st.out_urgent = urgent;
        self.refresh(key);
        false
    }

    /// Makes the program's send buffer large: through `theirs`, a copy of its end, or if the program still has the
    /// descriptor we gave it.
    pub(crate) fn enlarge(&mut self, key: Key, theirs: Option<BorrowedFd<'_>>) {
        let Some(o) = self.objects.get(key) else { return };
        let (owner, cookie) = (o.owner, o.cookie);
        match (theirs, self.tasks.getfd(owner.0, owner.1 as i32)) {
            (Some(fd), _) => os::set_sndbuf(fd, SNDBUF),
            (None, Ok(fd)) if os::cookie(fd.as_fd()) == Some(cookie) => os::set_sndbuf(fd.as_fd(), SNDBUF),
            (None, _) => return,
        }
        if let Some((_, st, _)) = self.objects.stream(key) {
            st.narrow = false;
        }
    }

    /// All that the program wrote is with the stack.
    fn out_drained(&mut self, key: Key) {
        let Some((sock, st, _)) = self.objects.stream(key) else { return };
        if st.shut_wr {
            st.shut_wr = false;
            let _ = self.kernel.shutdown(sock, libc::SHUT_WR);
        }
        self.refresh(key);
    }

    /// An error that neither reading nor writing has met: the peer's reset after its end of stream.
    fn stream_error(&mut self, key: Key) {
        let Some((sock, st, _)) = self.objects.stream(key) else { return };
        // What is queued comes first; the pump meets the error behind it.
        if st.in_blocked || !matches!(st.phase, Phase::Open) || !self.kernel.poll(sock).contains(Ready::ERR) {
            return;
        }
        let e = self.kernel.getsockopt(sock, libc::SOL_SOCKET, libc::SO_ERROR, 4).unwrap_or_default();
        let e = e.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
        if let Ok(e) = u16::try_from(e) {
            self.stream_fail(key, Errno(e));
        }
    }

    /// End of file from the program, which did not ask for it with shutdown(): it closed.
    fn stream_end(&mut self, key: Key) {
        let Some((_, st, _)) = self.objects.stream(key) else { return };
        st.closing = true;
        self.stream_close(key);
    }

    /// Stack to program.
    pub(crate) fn pump_in(&mut self, key: Key) {
        // Ends: the stack does not run meanwhile, and the pair's buffer is finite.
        loop {
            let Some((sock, st, mine)) = self.objects.stream(key) else { return };
            if st.in_blocked || st.in_eof || st.closing {
                break;
            }
            let Some(mine) = mine else { return };
            let fd = mine.as_fd();
            if st.oob_in
                && let Some(byte) = self.kernel.stream_urgent(sock)
            {
                match os::send_oob(fd, byte) {
                    Ok(()) => self.kernel.stream_pass_urgent(sock),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                        st.in_blocked = true;
                        break;
                    }
                    // A kernel without CONFIG_AF_UNIX_OOB: the byte is lost to the stream, as Linux takes it out, too.
                    Err(_) => self.kernel.stream_pass_urgent(sock),
                }
                continue;
            }
            let (mut blocked, mut broken, mut asked) = (false, false, false);
            let r = self.kernel.stream_recv(sock, CHUNK, &mut |slices| {
                asked = true;
                let want: usize = slices.iter().take(64).map(|s| s.len()).sum();
                match os::sendv(fd, slices) {
                    Ok(n) => {
                        blocked = n < want;
                        n
                    }
                    Err(e) => {
                        blocked = e.kind() == std::io::ErrorKind::WouldBlock;
                        broken = !blocked;
                        0
                    }
                }
            });
            match r {
                Ok(0) if !asked => {
                    os::shutdown(fd, libc::SHUT_WR);
                    st.in_eof = true;
                }
                // The program is gone; its HUP is on the way.
                Ok(_) if broken => break,
                Ok(_) if blocked => {
                    if !std::mem::replace(&mut st.in_blocked, true) {
                        os::set_sndbuf(fd, SNDBUF);
                    }
                    break;
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => {
                    st.oob_in = st.oob_in && self.kernel.poll(sock).contains(Ready::PRI);
                    break;
                }
                Err(e) => {
                    self.stream_fail(key, e);
                    return;
                }
            }
        }
        self.refresh(key);
    }

    /// Recomputes what we wait for at our end.
    pub(crate) fn refresh(&mut self, key: Key) {
        let Some((_, st, _)) = self.objects.stream(key) else { return };
        let mut want = if st.in_blocked { bits::OUT } else { 0 };
        if matches!(st.phase, Phase::Connecting { .. }) {
            // Our own filling lies in the queue, or what another thread writes; only a hang-up (always reported) is news.
            want |= bits::ET;
        } else if st.wr_eof {
            // Readable for ever; only the program's close is news.
            want |= bits::ET;
        } else if st.out.is_none() {
            want |= bits::IN | bits::PRI;
        } else {
            // Edge-triggered, or a hang-up that cannot be served yet would spin.
            want |= bits::ET;
        }
        self.set_interest(key, want);
    }

    /// The connection failed or was reset: the program sees ECONNRESET, and what it was by SO_ERROR.
    pub(crate) fn stream_fail(&mut self, key: Key, e: Errno) {
        if let Some((_, st, _)) = self.objects.stream(key) {
            st.error = Some(e.0.into());
        }
        let Some(o) = self.objects.get_mut(key) else { return };
        let (owner, cookie) = (o.owner, o.cookie);
        // EPIPE is a reset behind the end of the stream, which is what reading says (tcp_reset in CLOSE_WAIT).
        if e != Errno::EPIPE {
            // A byte left unread in our queue makes the kernel report ECONNRESET to the program when we close.
            if let Ok(theirs) = self.tasks.getfd(owner.0, owner.1 as i32)
                && os::cookie(theirs.as_fd()) == Some(cookie)
            {
                let _ = os::send(theirs.as_fd(), b"!");
            }
        }
        self.kill_end(key);
    }

    /// Closes our end; the object stays for SO_ERROR and friends until too many are dead or the session ends.
    pub(crate) fn kill_end(&mut self, key: Key) {
        let Some((_, st, mine)) = self.objects.stream(key) else { return };
        let closing = st.closing;
        st.phase = Phase::Dead;
        st.out = None;
        *mine = None;
        if closing {
            self.forget(key);
        } else if let Some(old) = self.objects.bury(key) {
            self.forget(old);
        }
    }

    /// The program closed its last descriptor: flush, then close the stack's socket.
    pub(crate) fn stream_close(&mut self, key: Key) {
        let Some((sock, st, _)) = self.objects.stream(key) else { return };
        if st.abort {
            st.out = None;
            // struct linger { 1, 0 }: close() sends RST.
            let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
            let _ = self.as_edge(|k, c| k.setsockopt(c, sock, (libc::SOL_SOCKET, libc::SO_LINGER), &linger));
        }
        self.forget(key);
    }

    /// Closes everything of an object.
    pub(crate) fn forget(&mut self, key: Key) {
        self.drop_waiters(key);
        self.rings.remove(&key);
        // Closing our end, the only copy, ends its epoll registration.
        let Some(o) = self.objects.remove(key) else { return };
        if let crate::obj::Body::Stream(_, st) = &o.body {
            for (accepted, _) in &st.stash {
                self.kernel.close(*accepted);
            }
        }
        if let Some(sock) = o.sock() {
            self.kernel.close(sock);
        }
    }
}
