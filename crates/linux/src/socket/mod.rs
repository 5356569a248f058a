//! Socket system calls (socket(2), ip(7), tcp(7), udp(7), packet(7)).

use bytes::Bytes;
use ferronet_core::Errno;

use crate::kernel::{Caller, Kernel, Ready, Received, RecvReq, SendMsg, SockId};

/// An internet or packet socket.
#[derive(Debug)]
pub struct InetSock {}

type Slices<'a> = &'a mut dyn FnMut(&[&[u8]]) -> usize;

impl Kernel {
    /// `socket(2)`; `ty` without `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM`.
    pub fn socket(
        &mut self,
        _c: &mut Caller<'_>,
        _family: i32,
        _ty: i32,
        _proto: i32,
    ) -> Result<SockId, Errno> {
        Err(Errno::EAFNOSUPPORT)
    }
    /// `bind(2)`.
    ///
    /// # Errors
    /// As bind(2).
    pub fn bind(&mut self, _c: &mut Caller<'_>, _s: SockId, _addr: &[u8]) -> Result<(), Errno> {
        Err(Errno::EBADF)
    }
    /// `connect(2)`: TCP returns `EINPROGRESS`, then `EALREADY`, then 0 once, then `EISCONN`.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&mut self, _c: &mut Caller<'_>, _s: SockId, _addr: &[u8]) -> Result<(), Errno> {
        Err(Errno::EBADF)
    }
    /// `listen(2)`.
    ///
    /// # Errors
    /// As listen(2).
    pub fn listen(&mut self, _s: SockId, _backlog: i32) -> Result<(), Errno> {
        Err(Errno::EBADF)
    }
    /// `accept(2)`: the new socket and the peer's address.
    ///
    /// # Errors
    /// `EAGAIN` when there is none; as accept(2).
    pub fn accept(&mut self, _s: SockId) -> Result<(SockId, Vec<u8>), Errno> {
        Err(Errno::EBADF)
    }
    /// `sendmsg(2)`.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room; as sendmsg(2).
    pub fn sendmsg(&mut self, _c: &mut Caller<'_>, _s: SockId, _m: SendMsg<'_>) -> Result<usize, Errno> {
        Err(Errno::EBADF)
    }
    /// `recvmsg(2)`.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing; as recvmsg(2).
    pub fn recvmsg(&mut self, _s: SockId, _r: RecvReq) -> Result<Received, Errno> {
        Err(Errno::EBADF)
    }
    /// Puts data into a stream's send queue without copying; short when it is full.
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE`, a pending error.
    pub fn stream_send(&mut self, _s: SockId, _data: Bytes) -> Result<usize, Errno> {
        Err(Errno::EBADF)
    }
    /// Shows up to `max` bytes of a stream's receive queue to `f`, which says how many it took. `Ok(0)` without
    /// a call of `f` is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN`, a pending error.
    pub fn stream_recv(&mut self, _s: SockId, _max: usize, _f: Slices<'_>) -> Result<usize, Errno> {
        Err(Errno::EBADF)
    }
    /// `shutdown(2)`; 0 read, 1 write, 2 both.
    ///
    /// # Errors
    /// `ENOTCONN`, `EINVAL`.
    pub fn shutdown(&mut self, _s: SockId, _how: i32) -> Result<(), Errno> {
        Err(Errno::EBADF)
    }
    /// The last descriptor was closed.
    pub fn close(&mut self, s: SockId) {
        self.files.remove(s);
    }
    /// `getsockopt(2)`, at most `len` bytes.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`.
    pub fn getsockopt(&mut self, _s: SockId, _level: i32, _name: i32, _len: usize) -> Result<Vec<u8>, Errno> {
        Err(Errno::EBADF)
    }
    /// `setsockopt(2)`.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`, `EPERM`.
    pub fn setsockopt(
        &mut self,
        _c: &mut Caller<'_>,
        _s: SockId,
        _opt: (i32, i32),
        _val: &[u8],
    ) -> Result<(), Errno> {
        Err(Errno::EBADF)
    }
    /// `getsockname(2)`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn getsockname(&self, _s: SockId) -> Result<Vec<u8>, Errno> {
        Err(Errno::EBADF)
    }
    /// `getpeername(2)`.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn getpeername(&self, _s: SockId) -> Result<Vec<u8>, Errno> {
        Err(Errno::EBADF)
    }
    /// `ioctl(2)` of a socket or, without one, of a device (`SIOCGIF*` on any socket). `arg` has
    /// [`Kernel::ioctl_arg_len`] bytes; returns the bytes to write back.
    ///
    /// # Errors
    /// `ENOTTY` for an unknown command, `ENODEV`, `EPERM`.
    pub fn ioctl(
        &mut self,
        _c: &mut Caller<'_>,
        _s: Option<SockId>,
        _cmd: u32,
        _arg: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Bytes behind the argument of an ioctl (`struct ifreq`: 40; an int: 4).
    #[must_use]
    pub fn ioctl_arg_len(cmd: u32) -> usize {
        if cmd >> 8 == 0x89 && !matches!(cmd, 0x8901..=0x8907) { 40 } else { 4 }
    }
    /// `poll(2)`.
    #[must_use]
    pub fn poll(&self, _s: SockId) -> Ready {
        Ready::empty()
    }
}
