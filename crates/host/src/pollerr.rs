//! POLLERR of message sockets: an error queue (`IP_RECVERR`, `MSG_ERRQUEUE`) that is not empty.
//!
//! Readiness is the readiness of the pair, and a socket of a pair says POLLERR only when its peer was closed with unread data. So
//! that is done when the first error is queued, and the program's next call on the descriptor, which is about that error, gets a
//! new pair under the same number once the queue is empty. (Who waits for POLLIN alone may see that a moment earlier; POLLHUP is
//! there, too, which Linux does not say.) Two things have to be kept up meanwhile. Our end is gone and cannot
//! tell when the program closes: a message with a descriptor in it is left in the program's queue, and that descriptor's other
//! end hangs up when the queue dies. And epoll sets know open files, not numbers: the new file is entered where the old one was.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ferronet_linux::Ready;

use crate::obj::Key;
use crate::os::{self, cvt};
use crate::poller::bits;
use crate::seccomp;
use crate::supervisor::{Call, Supervisor};
use crate::sys::Ours;

impl Supervisor {
    /// Makes the program's descriptor say POLLERR if its error queue wants to be read. Where the descriptor is not where it was
    /// put (another process has it), the queue just makes it readable.
    pub(crate) fn raise_pollerr(&mut self, key: Key) -> bool {
        let Some((sock, m, _)) = self.objects.message(key) else { return false };
        if m.raised {
            return true;
        }
        if m.native || !self.kernel.has_queued_error(sock) {
            return false;
        }
        let Some(o) = Ours::at_home(self, key) else { return false };
        let Some(theirs) = o.theirs(self) else { return false };
        let Ok((watch, left)) = os::socketpair(libc::SOCK_SEQPACKET) else { return false };
        let Some((_, m, Some(mine))) = self.objects.message(key) else { return false };
        let raised = os::send_fds_how(mine.as_fd(), b"e", &[left.as_raw_fd()], libc::MSG_DONTWAIT).is_ok()
            // Unread in our queue when our end closes.
            && os::send(theirs, b"!").is_ok();
        if raised {
            (m.raised, m.tokens) = (true, 0);
            if let Some(x) = self.objects.get_mut(key) {
                x.interest = bits::IN;
                x.mine = Some(watch);
            }
            self.watch_end(key);
        }
        raised
    }

    /// Gives the program a new pair once its error queue was read; to be called within a call on the descriptor.
    pub(crate) fn lower_pollerr(&mut self, call: &Call, o: &Ours) {
        let Some((sock, m, _)) = self.objects.message(o.key) else { return };
        if !m.raised || self.kernel.poll(sock).contains(Ready::ERR) {
            return;
        }
        let (tid, fd) = (call.n.tid, call.n.int(0));
        let Some(old) = o.theirs(self) else { return };
        let nonblocking = os::status_flags(old) & libc::O_NONBLOCK;
        let Ok((mine, new)) = os::socketpair(libc::SOCK_SEQPACKET | nonblocking) else { return };
        let sets = epoll_sets(tid, fd, os::inode(old));
        let cloexec = os::is_cloexec(tid, fd);
        let Some(listener) = self.listener(call.listener) else { return };
        if seccomp::replace(listener, call.n.id, new.as_fd(), fd as u32, cloexec).is_err() {
            return;
        }
        self.kernel.set_inode(sock, os::inode(new.as_fd()));
        self.objects.replace_end(o.key, mine, os::cookie(new.as_fd()).unwrap_or(0));
        if let Some((_, m, _)) = self.objects.message(o.key) {
            m.raised = false;
        }
        if let Some(x) = self.objects.get_mut(o.key) {
            x.owner = (tid, fd as u32);
        }
        self.watch_end(o.key);
        for (set, events, data) in sets {
            if let Ok(set) = self.tasks.getfd(tid, set)
                && let Err(e) = enter(set, new.as_fd(), fd, libc::epoll_event { events, u64: data })
            {
                tracing::debug!("epoll set of thread {tid}: {e}");
            }
        }
        self.add_message_token(o.key);
    }
}

/// The epoll sets of a process that contain the file with inode `ino` as descriptor `fd`: number, events, data
/// (/proc/PID/fdinfo, proc(5)).
fn epoll_sets(tid: u32, fd: i32, ino: u64) -> Vec<(i32, u32, u64)> {
    let mut out = Vec::new();
    let Ok(dir) = fs::read_dir(format!("/proc/{tid}/fdinfo")) else { return out };
    for entry in dir.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let Some(set) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        out.extend(text.lines().filter_map(|l| target(l, fd, ino)).map(|(events, data)| (set, events, data)));
    }
    out
}

/// `tfd:        5 events:       19 data:                5  pos:0 ino:32a1 sdev:9`, numbers but the first in hexadecimal.
fn target(line: &str, fd: i32, ino: u64) -> Option<(u32, u64)> {
    let mut words = line.split([' ', ':']).filter(|w| !w.is_empty());
    let mut field = |name: &str| words.by_ref().find(|w| *w == name).and_then(|_| words.next());
    let same = field("tfd")?.parse() == Ok(fd);
    let events = u32::from_str_radix(field("events")?, 16).ok()?;
    let data = u64::from_str_radix(field("data")?, 16).ok()?;
    let inode = u64::from_str_radix(field("ino")?, 16).ok()?;
    (same && inode == ino).then_some((events, data))
}

/// Adds `file` to a program's epoll set under the program's number for it. The number is looked up in the caller's table, so a
/// thread with a table of its own makes the call.
fn enter(set: OwnedFd, file: BorrowedFd<'_>, number: i32, mut event: libc::epoll_event) -> io::Result<()> {
    let (set_fd, file_fd) = (set.as_raw_fd(), file.as_raw_fd());
    let work = move || -> io::Result<()> {
        // SAFETY: no memory is involved. The copy of the table ends with this thread.
        cvt(unsafe { libc::unshare(libc::CLONE_FILES) }.into())?;
        // The set may have the very number that is needed: a free one first.
        // SAFETY: F_DUPFD takes no memory.
        let set = cvt(unsafe { libc::fcntl(set_fd, libc::F_DUPFD_CLOEXEC, number + 1) }.into())?;
        if file_fd != number {
            // SAFETY: in this thread's own table nothing else uses the number.
            cvt(unsafe { libc::dup3(file_fd, number, libc::O_CLOEXEC) }.into())?;
        }
        // SAFETY: `event` is a valid epoll_event.
        cvt(unsafe { libc::epoll_ctl(set as i32, libc::EPOLL_CTL_ADD, number, &mut event) }.into()).map(drop)
    };
    let done = std::thread::Builder::new().name("epoll".into()).spawn(work)?.join();
    drop(set);
    done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_takes_the_old_ones_place_in_an_epoll_set() {
        // SAFETY: no memory is involved.
        let set = os::cvt_fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into()).expect("epoll");
        let (a, b) = os::socketpair(libc::SOCK_SEQPACKET).expect("a pair");
        let number = a.as_raw_fd();
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0xfeed };
        // SAFETY: `event` is valid.
        cvt(unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, number, &mut event) }.into())
            .expect("added");
        let found = epoll_sets(std::process::id(), number, os::inode(a.as_fd()));
        assert!(found.contains(&(
            set.as_raw_fd(),
            (libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP) as u32,
            0xfeed
        )));
        let (c, d) = os::socketpair(libc::SOCK_SEQPACKET).expect("a pair");
        let copy = set.try_clone().expect("a copy");
        enter(copy, c.as_fd(), number, libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 })
            .expect("entered");
        os::send(d.as_fd(), b"x").expect("room");
        let mut got = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: one event fits.
        assert_eq!(unsafe { libc::epoll_wait(set.as_raw_fd(), &mut got, 1, 5000) }, 1);
        assert_eq!({ got.u64 }, 7);
        drop((a, b));
    }
}
