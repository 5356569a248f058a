//! Signals of the supervisor itself, as descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::os::{cvt, cvt_fd};

/// One signal that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Its number.
    pub(crate) signal: i32,
    /// Sent by a process (kill), not by the terminal, which reaches our programs by itself.
    pub(crate) by_process: bool,
}

/// Signals that ask the supervisor to end.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// A blocked signal that asks this process to end and waits to be read.
pub(crate) fn pending_end() -> Option<i32> {
    // SAFETY: the set is written by sigpending before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigpending(&mut set);
        ENDING.into_iter().find(|s| libc::sigismember(&set, *s) == 1)
    }
}

/// A signalfd for the signals the supervisor handles; they stay blocked for the life of the process.
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before use; the calls only read it afterwards.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for s in ENDING.into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(&mut set, s);
            }
            cvt(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()).into())?;
            // A write to a socket or terminal that is gone must be an error, not our end.
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            let fd = cvt_fd(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
            Ok(Self { fd })
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next signal, if one is pending.
    pub(crate) fn next(&self) -> Option<Arrived> {
        // SAFETY: integers only; zero is valid; read writes at most its size.
        let (n, info) = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let n = libc::read(self.fd.as_raw_fd(), std::ptr::from_mut(&mut info).cast(), size_of_val(&info));
            (n, info)
        };
        (n > 0).then_some(Arrived { signal: info.ssi_signo as i32, by_process: info.ssi_code <= 0 })
    }
}
