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
    pub(crate) const PRI: u32 = libc::EPOLLPRI as u32;
    pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
    pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
    pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
    pub(crate) const ET: u32 = libc::EPOLLET as u32;
}

/// An epoll instance, and beside it the seccomp listeners.
///
/// A listener's wake-up asks for the caller's own processor (`SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`), and poll(2) hears
/// that; epoll forgets it on the way, and the supervisor would be woken on an idle processor, which costs ten times
/// the call itself.
pub(crate) struct Poller {
    ep: OwnedFd,
    /// `ep`, then the listeners.
    polled: Vec<libc::pollfd>,
    /// Whose events they are: one for each listener.
    tokens: Vec<Token>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let ep = cvt_fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())?;
        let polled = vec![libc::pollfd { fd: ep.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        Ok(Self { ep, polled, tokens: Vec::new() })
    }

    /// Starts watching a seccomp listener for calls and for its end.
    pub(crate) fn add_listener(&mut self, fd: BorrowedFd<'_>, token: Token) {
        self.polled.push(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        self.tokens.push(token);
    }

    /// Stops watching a seccomp listener. Must be called before it is closed.
    pub(crate) fn remove_listener(&mut self, token: Token) {
        if let Some(i) = self.tokens.iter().position(|t| *t == token) {
            self.tokens.swap_remove(i);
            self.polled.swap_remove(i + 1);
        }
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

    /// Waits up to `timeout_ns` (`None`: for ever) and appends (token, events) to `out`, listeners last; a signal ends
    /// the wait early.
    pub(crate) fn wait(&mut self, timeout_ns: Option<u64>, out: &mut Vec<(Token, u32)>) -> io::Result<()> {
        match self.ppoll(timeout_ns) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(e),
        }
        let Some((ep, listeners)) = self.polled.split_first() else { return Ok(()) };
        if ep.revents != 0 {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
            let n = self.take(&mut events)?;
            for e in events.iter().take(n) {
                let (bits, data) = (e.events, e.u64);
                out.extend(Token::unpack(data).map(|t| (t, bits)));
            }
        }
        let called = listeners.iter().zip(&self.tokens).filter(|(p, _)| p.revents != 0);
        // The bits of poll and epoll are the same.
        out.extend(called.map(|(p, t)| (*t, u32::from(p.revents as u16))));
        Ok(())
    }

    fn ppoll(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        let ts = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let tsp = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let n = self.polled.len() as libc::nfds_t;
        // SAFETY: the array is valid for its length, the timespec is null or valid, no signal mask is given.
        let r = unsafe { libc::ppoll(self.polled.as_mut_ptr(), n, tsp, std::ptr::null()) };
        cvt(r.into()).map(drop)
    }

    /// The events that are there.
    fn take(&self, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        // SAFETY: the event array is valid for its length.
        let r = unsafe {
            libc::epoll_wait(self.ep.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, 0)
        };
        match cvt(r.into()) {
            Ok(n) => Ok(n as usize),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
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
