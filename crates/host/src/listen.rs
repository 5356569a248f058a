//! Listeners: tokens make the program's end readable while connections are queued; accept() injects new pairs.

use std::os::fd::AsFd;

use ferronet_core::Errno;
use ferronet_linux::{Ready, SockId};

use crate::join::FD_BASE;
use crate::obj::{Body, Key, Object, Phase, Stream};
use crate::os;
use crate::poller::bits;
use crate::seccomp::{self, Slot};
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::message::may_block;
use crate::sys::{Ours, addr};

/// Most tokens in a listener's queue: enough for one edge per connection without filling the pair.
const TOKENS: u32 = 64;

impl Supervisor {
    /// listen(2).
    pub(crate) fn listen(&mut self, key: Key, backlog: i32) -> Answer {
        let Some((sock, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EOPNOTSUPP) };
        if let Err(e) = self.kernel.listen(sock, backlog) {
            return e.into();
        }
        if !matches!(st.phase, Phase::Listening { .. }) {
            st.phase = Phase::Listening { tokens: 0 };
        }
        Answer::Ret(0)
    }

    /// A connection was queued (or the listener failed).
    pub(crate) fn listener_ready(&mut self, key: Key, r: Ready) {
        if r.contains(Ready::ERR) {
            // Ended from outside (ss -K).
            self.wake(key, false);
            self.stream_fail(key, Errno::ECONNABORTED);
            return;
        }
        if !r.contains(Ready::IN) {
            return;
        }
        self.wake(key, true);
        self.add_token(key);
    }

    /// One more token if a connection is waiting: level for poll, and an edge for edge-triggered epoll.
    fn add_token(&mut self, key: Key) {
        let Some((sock, st, mine)) = self.objects.stream(key) else { return };
        let (Phase::Listening { tokens }, Some(mine)) = (&mut st.phase, mine) else { return };
        if *tokens < TOKENS
            && self.kernel.poll(sock).contains(Ready::IN)
            && os::send(mine.as_fd(), b"c").is_ok()
        {
            *tokens += 1;
        }
    }

    /// Takes all tokens back when no connection is left.
    fn settle_tokens(&mut self, o: &Ours) {
        let Some((sock, st, _)) = self.objects.stream(o.key) else { return };
        let Phase::Listening { tokens } = &mut st.phase else { return };
        if *tokens == 0 || !st.stash.is_empty() || self.kernel.poll(sock).contains(Ready::IN) {
            return;
        }
        let Some(theirs) = o.theirs(self) else { return };
        let mut sink = [0u8; TOKENS as usize];
        let n = os::recv_bytes(theirs, &mut sink).unwrap_or(0) as u32;
        if let Some((_, st, _)) = self.objects.stream(o.key)
            && let Phase::Listening { tokens } = &mut st.phase
        {
            *tokens = tokens.saturating_sub(n);
        }
    }

    /// accept(2) and accept4(2): arguments are the descriptor, address, address length, flags.
    pub(crate) fn accept(&mut self, call: &Call, o: &Ours, flags: i32) -> Answer {
        let key = o.key;
        if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return Answer::Err(libc::EINVAL);
        }
        let Some((sock, st, _)) = self.objects.stream(key) else { return Answer::Err(libc::EOPNOTSUPP) };
        let got = match st.stash.pop_front() {
            Some(s) => Ok(s),
            None => self.kernel.accept(sock),
        };
        let (new, peer) = match got {
            Ok(x) => x,
            Err(Errno::EAGAIN) if !matches!(st.phase, Phase::Listening { .. }) => {
                return Answer::Err(libc::EINVAL);
            }
            Err(Errno::EAGAIN) => {
                self.settle_tokens(o);
                if !may_block(self, call, o, 0) {
                    return Answer::Err(libc::EAGAIN);
                }
                return Answer::Park(key, self.timeout_of(sock, libc::SO_RCVTIMEO));
            }
            Err(e) => return e.into(),
        };
        // Before the answer: the program may poll at once.
        self.settle_tokens(o);
        self.accept_inject(call, key, (new, peer), flags)
    }

    fn accept_inject(&mut self, call: &Call, key: Key, got: (SockId, Vec<u8>), flags: i32) -> Answer {
        let (new, peer) = got;
        if call.n.ptr(1) != 0
            && let Err(e) = addr::put(call.n.tid, &peer, call.n.ptr(1), call.n.ptr(2))
        {
            self.kernel.close(new);
            return Answer::Err(e);
        }
        let (mine, theirs) = match os::object_pair(libc::SOCK_STREAM | (flags & libc::SOCK_NONBLOCK)) {
            Ok(p) => p,
            Err(e) => {
                self.give_back(key, (new, peer));
                return Answer::Err(os::errno_of(&e));
            }
        };
        self.kernel.set_inode(new, os::inode(theirs.as_fd()));
        let cookie = os::cookie(theirs.as_fd()).unwrap_or(0);
        if self.kernel.oob_inline(new) {
            let _ =
                os::setsockopt_raw(theirs.as_fd(), libc::SOL_SOCKET, libc::SO_OOBINLINE, &1i32.to_ne_bytes());
        }
        let cloexec = flags & libc::SOCK_CLOEXEC != 0;
        let Some(listener) = self.listener(call.listener) else { return Answer::Done };
        match seccomp::inject(listener, call.n.id, theirs.as_fd(), Slot::Lowest, cloexec) {
            Ok(fd) => {
                drop(theirs);
                if fd >= FD_BASE {
                    self.replaced_fd(fd as i32);
                }
                let new_key = self.adopt(Object {
                    mine: Some(mine),
                    cookie,
                    owner: (call.n.tid, fd),
                    waiters: Vec::new(),
                    interest: bits::IN | bits::PRI,
                    body: Body::Stream(new, Stream::new(Phase::Open)),
                });
                // What arrived with or before accept() is readable at once.
                self.pump_in(new_key);
                Answer::Done
            }
            Err(e) if os::errno_of(&e) == libc::ENOENT => {
                // Interrupted: the connection stays queued, as nothing happened.
                self.give_back(key, (new, peer));
                Answer::Done
            }
            Err(e) => {
                self.give_back(key, (new, peer));
                Answer::Err(sys_limit(&e))
            }
        }
    }

    /// An accept() came to nothing: the next one gets the connection.
    fn give_back(&mut self, key: Key, got: (SockId, Vec<u8>)) {
        if let Some((_, st, _)) = self.objects.stream(key) {
            st.stash.push_front(got);
        }
        // Not now: each of a thousand waiting threads may fail like this one.
        self.given_back.push(key);
        self.unsettled = true;
        self.add_token(key);
    }
}

/// What a full descriptor table looks like to the program.
pub(crate) fn sys_limit(e: &std::io::Error) -> i32 {
    match os::errno_of(e) {
        libc::EBADF => libc::EMFILE,
        e => e,
    }
}
