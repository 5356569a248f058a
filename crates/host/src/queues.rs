//! What is on the way between programs and the stack, for those who look at queue lengths (`ss`, /proc/net/tcp).
//!
//! A stream's bytes leave the stack's receive queue as soon as the socket pair takes them; on Linux they would count until
//! the program reads them. So the pairs are asked before the stack answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ferronet_linux::EdgeQueues;

use crate::os;
use crate::supervisor::Supervisor;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_RQLEN`: attribute `UNIX_DIAG_RQLEN` = {rqueue, wqueue}.
const SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_RQLEN: u16 = 4;
/// `UDIAG_SHOW_PEER`: attribute `UNIX_DIAG_PEER` = inode.
const SHOW_PEER: u32 = 0x4;
const UNIX_DIAG_PEER: u16 = 2;
/// `TCPF_ESTABLISHED`, which unix sockets of a pair are in.
const ESTABLISHED: u32 = 1 << 1;

/// An int that an ioctl of a socket gives; 0 when it cannot.
pub(crate) fn ioctl_int(fd: BorrowedFd<'_>, cmd: libc::c_ulong) -> u32 {
    let mut v = 0i32;
    // SAFETY: FIONREAD and TIOCOUTQ write one int.
    unsafe { libc::ioctl(fd.as_raw_fd(), cmd as _, &mut v) };
    u32::try_from(v).unwrap_or(0)
}

impl Supervisor {
    /// Tells the stack how much of each connection lies in its socket pair.
    pub(crate) fn refresh_edge_queues(&mut self) {
        let mut waiting = false;
        let mut found = Vec::new();
        for (sock, o, st) in self.objects.open_streams() {
            let Some(mine) = o.mine.as_ref().map(AsFd::as_fd) else { continue };
            let unsent = ioctl_int(mine, libc::FIONREAD) + st.out.as_ref().map_or(0, |b| b.len() as u32);
            // Not exact (it counts memory), but 0 says that the program has read everything.
            let unread = ioctl_int(mine, libc::TIOCOUTQ);
            waiting |= unread > 0;
            found.push((sock, unsent, unread > 0, st.in_eof));
        }
        let lengths = if waiting { unix_queues().unwrap_or_default() } else { HashMap::new() };
        for (sock, unsent, some, eof) in found {
            let bytes = match (some, self.kernel.inode(sock)) {
                (true, Some(ino)) => lengths.get(&(ino as u32)).copied().unwrap_or(0),
                (false, _) | (true, None) => 0,
            };
            // An end of stream behind unread data was not read either.
            let unread = bytes + u32::from(eof && bytes > 0);
            self.kernel.set_edge_queues(sock, EdgeQueues { unread, unsent });
        }
    }
}

/// Asks unix_diag (sock_diag(7)) about this network namespace: one socket, or all connected ones when `ino` is 0.
fn ask(ino: u32, show: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = os::cvt_fd(
        unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG)
        }
        .into(),
    )?;
    // struct nlmsghdr, struct unix_diag_req {u8 family, u8 protocol, u16 pad, u32 states, u32 ino, u32 show, u32 cookie[2]}.
    let flags = (libc::NLM_F_REQUEST | if ino == 0 { libc::NLM_F_DUMP } else { 0 }) as u16;
    let mut req = Vec::with_capacity(40);
    req.extend_from_slice(&40u32.to_ne_bytes());
    req.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    req.extend_from_slice(&flags.to_ne_bytes());
    req.extend_from_slice(&[0; 8]);
    req.extend_from_slice(&[libc::AF_UNIX as u8, 0, 0, 0]);
    // INET_DIAG_NOCOOKIE: any.
    for word in [ESTABLISHED, ino, show, u32::MAX, u32::MAX] {
        req.extend_from_slice(&word.to_ne_bytes());
    }
    os::send(fd.as_fd(), &req)?;
    Ok(fd)
}

/// Has the other end of this unix socket still got a descriptor? True only when the kernel surely says so.
pub(crate) fn peer_is_open(fd: BorrowedFd<'_>) -> bool {
    let mut buf = [0u8; 512];
    let got = ask(os::inode(fd) as u32, SHOW_PEER).and_then(|nl| os::recv_bytes(nl.as_fd(), &mut buf));
    let Ok(n) = got else { return false };
    let b = buf.get(..n).unwrap_or_default();
    let attrs = b.get(32..).filter(|_| u16_at(b, 4) == Some(BY_FAMILY));
    // A socket without a descriptor has inode 0.
    attrs.and_then(|a| attr(a, UNIX_DIAG_PEER)).is_some_and(|ino| ino != 0)
}

/// Receive queues of the connected unix sockets, by inode.
fn unix_queues() -> io::Result<HashMap<u32, u32>> {
    let fd = ask(0, SHOW_RQLEN)?;
    let mut out = HashMap::new();
    let mut buf = vec![0u8; 32 << 10];
    loop {
        // The kernel made the answer within send() or makes it within this call; it never has to be waited for.
        let n = os::recv_bytes(fd.as_fd(), &mut buf)?;
        if n == 0 || !rows(buf.get(..n).unwrap_or_default(), &mut out) {
            return Ok(out);
        }
    }
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// Reads one datagram of the dump; false at its end.
fn rows(mut b: &[u8], out: &mut HashMap<u32, u32>) -> bool {
    while let (Some(len), Some(ty)) = (u32_at(b, 0), u16_at(b, 4)) {
        if ty != BY_FAMILY {
            return false;
        }
        let Some(m) = b.get(16..len as usize) else { return false };
        // struct unix_diag_msg: u8 family, type, state, pad; u32 ino; u32 cookie[2]; then attributes.
        if let (Some(ino), Some(q)) = (u32_at(m, 4), m.get(16..).and_then(|a| attr(a, UNIX_DIAG_RQLEN))) {
            out.insert(ino, q);
        }
        b = b.get((len as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// The first word of an attribute.
fn attr(mut attrs: &[u8], want: u16) -> Option<u32> {
    while let (Some(len), Some(ty)) = (u16_at(attrs, 0), u16_at(attrs, 2)) {
        if ty == want {
            return u32_at(attrs, 4);
        }
        attrs = attrs.get(usize::from(len).max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_kernel_tells_what_a_pair_holds() {
        let (a, b) = os::socketpair(libc::SOCK_STREAM).expect("a pair");
        os::send(a.as_fd(), b"seven!!").expect("room");
        let q = unix_queues().expect("unix_diag");
        assert_eq!(q.get(&(os::inode(b.as_fd()) as u32)), Some(&7));
        assert_eq!(q.get(&(os::inode(a.as_fd()) as u32)), Some(&0));
        assert!(ioctl_int(a.as_fd(), libc::TIOCOUTQ) > 0);
        assert_eq!(ioctl_int(b.as_fd(), libc::FIONREAD), 7);
        assert!(peer_is_open(a.as_fd()));
        os::shutdown(a.as_fd(), libc::SHUT_RDWR);
        assert!(peer_is_open(a.as_fd()));
        drop(b);
        // A child that another test forks just now has a copy of b until it starts its program.
        let end = Instant::now() + Duration::from_secs(10);
        while peer_is_open(a.as_fd()) {
            assert!(Instant::now() < end, "b is closed");
            std::thread::yield_now();
        }
    }
}
