//! epoll with typed tokens.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::os::{cvt, cvt_fd};

/// Who an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Seccomp listener with this index.
    Listener(u32),
    /// An injected object: index and generation (24 bits).
    Object(u32, u32),
    /// The signalfd.
    Signals,
    /// The namespace watcher.
    Namespaces,
    /// Process 1 of the sandbox died.
    Init,
    /// A registered source.
    Source(u32),
    /// The control socket's listener.
    Control,
    /// A control client.
    Client(u32),
    /// A TAP device.
    Tap(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (tag, generation, index) = match self {
            Self::Listener(i) => (1u64, 0, i),
            Self::Object(i, g) => (2, g & 0xff_ffff, i),
            Self::Signals => (3, 0, 0),
            Self::Namespaces => (4, 0, 0),
            Self::Init => (5, 0, 0),
            Self::Source(i) => (6, 0, i),
            Self::Control => (7, 0, 0),
            Self::Client(i) => (8, 0, i),
            Self::Tap(i) => (9, 0, i),
        };
        tag << 56 | u64::from(generation) << 32 | u64::from(index)
    }

    fn unpack(v: u64) -> Option<Self> {
        let index = v as u32;
        Some(match v >> 56 {
            1 => Self::Listener(index),
            2 => Self::Object(index, (v >> 32) as u32 & 0xff_ffff),
            3 => Self::Signals,
            4 => Self::Namespaces,
            5 => Self::Init,
            6 => Self::Source(index),
            7 => Self::Control,
            8 => Self::Client(index),
            9 => Self::Tap(index),
            _ => return None,
        })
    }
}

/// Event bits of epoll(7) as we use them.
pub(crate) mod bits {
    pub(crate) const IN: u32 = libc::EPOLLIN as u32;
    pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
    pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
    pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
    pub(crate) const ET: u32 = libc::EPOLLET as u32;
}

/// An epoll instance.
pub(crate) struct Poller {
    ep: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        cvt_fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into()).map(|ep| Self { ep })
    }

    fn ctl(&self, op: i32, fd: BorrowedFd<'_>, token: Token, interest: u32) -> io::Result<()> {
        let mut ev = libc::epoll_event { events: interest, u64: token.pack() };
        // SAFETY: `ev` is valid for the call.
        cvt(unsafe { libc::epoll_ctl(self.ep.as_raw_fd(), op, fd.as_raw_fd(), &mut ev) }.into()).map(drop)
    }

    /// Starts watching.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: Token, interest: u32) -> io::Result<()> {
        self.ctl(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes the interest.
    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, token: Token, interest: u32) {
        if let Err(e) = self.ctl(libc::EPOLL_CTL_MOD, fd, token, interest) {
            tracing::error!("epoll_ctl: {e}");
        }
    }

    /// Stops watching. Must be called before a descriptor is closed that may have copies.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.ctl(libc::EPOLL_CTL_DEL, fd, Token::Signals, 0);
    }

    /// Waits up to `timeout_ns` (`None`: for ever) and appends (token, events) to `out`; a signal ends the wait early.
    pub(crate) fn wait(&self, timeout_ns: Option<u64>, out: &mut Vec<(Token, u32)>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
        let n = match self.wait_raw(timeout_ns, &mut events) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        for e in events.iter().take(n) {
            let (bits, data) = (e.events, e.u64);
            out.extend(Token::unpack(data).map(|t| (t, bits)));
        }
        Ok(())
    }

    fn wait_raw(&self, timeout_ns: Option<u64>, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        let ts = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let tsp = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the event array is valid for its length, the timespec is null or valid, no signal mask is given.
        let r = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.ep.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                tsp,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        cvt(r).map(|n| n as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for t in [
            Token::Listener(3),
            Token::Object(7, 0xff_ffff),
            Token::Control,
            Token::Client(9),
            Token::Source(1),
        ] {
            assert_eq!(Token::unpack(t.pack()), Some(t));
        }
    }
}
