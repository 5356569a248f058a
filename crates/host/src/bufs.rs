//! Large read buffers that go round: read from the program, handed to the stack as `Bytes`, reused when acknowledged.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use bytes::{Bytes, BytesMut};

use crate::os::recv;

/// Size of one buffer, bytes.
const CHUNK: usize = 256 * 1024;
/// A buffer with less room than this is put back to be reclaimed.
const ROOM: usize = 64 * 1024;
/// Reads up to this size are copied, so that a few idle bytes do not pin a whole buffer.
const SMALL: usize = 4096;
/// Buffers kept for reuse.
const KEPT: usize = 32;

/// The ring of buffers.
#[derive(Default)]
pub(crate) struct Bufs {
    current: BytesMut,
    used: VecDeque<BytesMut>,
}

impl Bufs {
    /// One read without blocking; empty `Bytes` at end of file.
    pub(crate) fn read(&mut self, fd: BorrowedFd<'_>) -> io::Result<Bytes> {
        if self.current.capacity() < ROOM {
            self.next();
        }
        let n = recv(fd, self.current.spare_capacity_mut())?;
        // SAFETY: the kernel initialised the first `n` bytes of the spare capacity; the length before was 0.
        unsafe { self.current.set_len(n) };
        if n <= SMALL {
            let small = Bytes::copy_from_slice(&self.current);
            self.current.clear();
            return Ok(small);
        }
        Ok(self.current.split_to(n).freeze())
    }

    fn next(&mut self) {
        let old = std::mem::take(&mut self.current);
        if old.capacity() > 0 && self.used.len() < KEPT {
            self.used.push_back(old);
        }
        let free = self.used.iter_mut().position(|b| b.try_reclaim(CHUNK));
        self.current =
            free.and_then(|i| self.used.remove(i)).unwrap_or_else(|| BytesMut::with_capacity(CHUNK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn small_reads_are_copied_and_large_ones_shared() {
        let (a, b) = crate::os::socketpair(libc::SOCK_STREAM).expect("socket pair");
        let mut bufs = Bufs::default();
        crate::os::send(b.as_fd(), b"hello").expect("room");
        assert_eq!(bufs.read(a.as_fd()).expect("data"), &b"hello"[..]);
        let big = vec![7u8; 20_000];
        crate::os::send(b.as_fd(), &big).expect("room");
        assert_eq!(bufs.read(a.as_fd()).expect("data"), big);
        drop(b);
        assert!(bufs.read(a.as_fd()).expect("end of file").is_empty());
    }
}
