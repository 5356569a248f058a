//! System calls of the programs, one concern a file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ferronet_linux::SockId;

use crate::join::FD_BASE;
use crate::obj::{Body, Key};
use crate::os;
use crate::supervisor::{Answer, Call, Supervisor};

pub(crate) mod addr;
pub(crate) mod control_msg;
pub(crate) mod dup;
pub(crate) mod ioctl;
pub(crate) mod message;
pub(crate) mod mmsg;
pub(crate) mod names;
pub(crate) mod nsref;
pub(crate) mod opts;
pub(crate) mod path;
pub(crate) mod procfs;
pub(crate) mod socket;
pub(crate) mod stat;
pub(crate) mod tree;

/// An object of ours behind a program's descriptor.
pub(crate) struct Ours {
    pub(crate) key: Key,
    tid: u32,
    fd: i32,
    /// A copy of the program's descriptor, made when it is needed.
    theirs: std::cell::OnceCell<Option<OwnedFd>>,
}

impl Ours {
    /// An object at the descriptor where it was put; whether it still is there is seen when it is used.
    pub(crate) fn at_home(s: &Supervisor, key: Key) -> Option<Self> {
        let (tid, fd) = s.objects.get(key)?.owner;
        Some(Self { key, tid, fd: fd as i32, theirs: std::cell::OnceCell::new() })
    }

    /// A copy of the program's descriptor.
    pub(crate) fn theirs(&self, s: &mut Supervisor) -> Option<BorrowedFd<'_>> {
        let get = || {
            let fd = s.tasks.getfd(self.tid, self.fd).ok()?;
            // It may have been closed or replaced by another thread meanwhile.
            (s.objects.get(self.key)?.cookie == os::cookie(fd.as_fd())?).then_some(fd)
        };
        self.theirs.get_or_init(get).as_ref().map(AsFd::as_fd)
    }

    /// The copy itself.
    pub(crate) fn into_theirs(self, s: &mut Supervisor) -> Option<OwnedFd> {
        self.theirs(s);
        self.theirs.into_inner().flatten()
    }
}

/// Serves one call.
pub(crate) fn dispatch(s: &mut Supervisor, call: &Call) -> Answer {
    let nr = call.n.nr;
    match nr {
        libc::SYS_socket => socket::socket(s, call),
        libc::SYS_openat | libc::SYS_openat2 => {
            // A program that was just executed begins so (its loader), and may have other capabilities than the one before.
            s.tasks.forget_caps(call.n.tid);
            procfs::open(s, call)
        }
        libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_faccessat
        | libc::SYS_faccessat2
        | libc::SYS_readlinkat => stat::stat(s, call),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => procfs::open(s, call),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat | libc::SYS_lstat | libc::SYS_access | libc::SYS_readlink => stat::stat(s, call),
        libc::SYS_setns | libc::SYS_unshare | libc::SYS_capset => {
            s.tasks.forget_net(call.n.tid);
            Answer::Continue
        }
        libc::SYS_ioctl => ioctl::ioctl(s, call),
        libc::SYS_mmap => crate::ring::mmap(s, call),
        libc::SYS_splice => splice(s, call),
        _ => match ours(s, call) {
            Some(o) => on_object(s, call, o),
            None => Answer::Continue,
        },
    }
}

/// splice(2): what lies in the pair of a message socket are tokens, not data. As for a file that cannot be spliced, upon which
/// programs read and write.
fn splice(s: &mut Supervisor, call: &Call) -> Answer {
    for fd in [call.n.int(0), call.n.int(2)] {
        if let Some(o) = ours_at(s, call, fd)
            && matches!(s.objects.get(o.key).map(|x| &x.body), Some(Body::Message(..) | Body::Proc(_)))
        {
            return Answer::Err(libc::EINVAL);
        }
    }
    Answer::Continue
}

/// The object behind the call's first argument; `None` when it is not one of ours (or no descriptor at all).
pub(crate) fn ours(s: &mut Supervisor, call: &Call) -> Option<Ours> {
    ours_at(s, call, call.n.int(0))
}

/// As `ours`, for descriptor `fd`.
pub(crate) fn ours_at(s: &mut Supervisor, call: &Call, fd: i32) -> Option<Ours> {
    let tid = call.n.tid;
    let high = fd >= FD_BASE as i32;
    let known = call.parked.or_else(|| if high { s.known_fd(tid, fd) } else { None });
    if let Some(key) = known {
        return Some(Ours { key, tid, fd, theirs: std::cell::OnceCell::new() });
    }
    // The kernel says EBADF better than we do.
    let theirs = s.tasks.getfd(tid, fd).ok()?;
    let key = os::cookie(theirs.as_fd()).and_then(|c| s.objects.by_cookie(c))?;
    if high && matches!(s.objects.get(key).map(|o| &o.body), Some(Body::Message(..))) {
        s.learn_fd(tid, fd, key);
    }
    Some(Ours { key, tid, fd, theirs: Some(theirs).into() })
}

fn on_object(s: &mut Supervisor, call: &Call, o: Ours) -> Answer {
    let key = o.key;
    let (stream, sock) = match s.objects.get(key).map(|x| &x.body) {
        Some(Body::Stream(sock, _)) => (true, *sock),
        Some(Body::Message(sock, _)) => (false, *sock),
        // Behind them are sockets of ours, which a shutdown() would reach.
        Some(Body::Proc(_) | Body::Tun(_)) if is_of_sockets(call.n.nr) => return Answer::Err(libc::ENOTSOCK),
        Some(Body::Proc(_)) => return procfs::call(s, call, key),
        // Frames flow natively.
        Some(Body::Tun(_)) => return Answer::Continue,
        None => return Answer::Err(libc::EBADF),
    };
    match call.n.nr {
        libc::SYS_bind => names::bind(s, call, sock),
        libc::SYS_connect => names::connect(s, call, o, stream, sock),
        libc::SYS_listen if stream => s.listen(key, call.n.int(1)),
        libc::SYS_listen | libc::SYS_accept4 if !stream => Answer::Err(libc::EOPNOTSUPP),
        libc::SYS_accept4 => s.accept(call, &o, call.n.int(3)),
        libc::SYS_accept if stream => s.accept(call, &o, 0),
        libc::SYS_accept => Answer::Err(libc::EOPNOTSUPP),
        libc::SYS_getsockname | libc::SYS_getpeername => names::name(s, call, sock),
        libc::SYS_setsockopt => opts::set(s, call, &o, stream, sock),
        libc::SYS_getsockopt => opts::get(s, call, &o, sock),
        libc::SYS_shutdown => names::shutdown(s, call, &o, stream, sock),
        libc::SYS_dup | libc::SYS_dup3 | libc::SYS_fcntl => dup::dup(s, call, &o, sock),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_dup2 => dup::dup(s, call, &o, sock),
        // As Linux without TFO_CLIENT_ENABLE: programs connect then.
        libc::SYS_sendto if stream && call.n.int(3) & libc::MSG_FASTOPEN != 0 => {
            Answer::Err(libc::EOPNOTSUPP)
        }
        // A TCP socket that happens to have a high number: bytes flow natively.
        _ if stream => Answer::Continue,
        // As splice() above.
        libc::SYS_sendfile => Answer::Err(libc::EINVAL),
        libc::SYS_preadv2 | libc::SYS_pwritev2 => Answer::Err(libc::EOPNOTSUPP),
        // The kernel says ESPIPE.
        libc::SYS_pread64 | libc::SYS_pwrite64 | libc::SYS_lseek => Answer::Continue,
        libc::SYS_sendmmsg => mmsg::send(s, call, &o, sock),
        libc::SYS_recvmmsg => mmsg::recv(s, call, &o, sock),
        _ => message::call(s, call, &o, sock),
    }
}

/// Calls that say ENOTSOCK to files.
fn is_of_sockets(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_bind
            | libc::SYS_connect
            | libc::SYS_listen
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_getsockname
            | libc::SYS_getpeername
            | libc::SYS_setsockopt
            | libc::SYS_getsockopt
            | libc::SYS_shutdown
            | libc::SYS_sendto
            | libc::SYS_recvfrom
            | libc::SYS_sendmsg
            | libc::SYS_recvmsg
            | libc::SYS_sendmmsg
            | libc::SYS_recvmmsg
    )
}

impl Supervisor {
    /// The CLOCK_MONOTONIC deadline a call that starts now has by SO_RCVTIMEO or SO_SNDTIMEO; `None`: waits for ever.
    pub(crate) fn timeout_of(&mut self, sock: SockId, name: i32) -> Option<u64> {
        if let Some(t) = self.kernel.timeo(sock, name == libc::SO_SNDTIMEO) {
            return (t > 0).then(|| self.now_ns.saturating_add(t));
        }
        // A netlink socket.
        let v = self.kernel.getsockopt(sock, libc::SOL_SOCKET, name, 16).ok()?;
        let part = |at: usize| v.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_ne_bytes);
        let (sec, usec) = (part(0)?, part(8)?);
        let ns = u64::try_from(sec)
            .ok()?
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(usec).ok()? * 1000);
        (ns > 0).then(|| self.now_ns.saturating_add(ns))
    }
}
