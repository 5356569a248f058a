//! Socket system calls (socket(2), ip(7), tcp(7), udp(7), packet(7)).

#[cfg(test)]
mod tests;

pub(crate) mod addr;
mod cmsg;
mod ioctl;
mod message;
pub(crate) mod opts;
pub mod tpacket;

use bytes::Bytes;
use ferronet_core::Errno;
use ferronet_stack::sock::{self, SockFlags, SockKey, ports};
use ferronet_stack::{Namespace, tcp};
use slotmap::Key;
use tcp::user::SendHow;

use crate::netlink::{self, NetlinkSock};
use crate::uapi::socket::*;

use crate::kernel::{
    Caller, Caps, File, Kernel, OpenFile, Ready, Received, RecvReq, SendMsg, SockId, af, sock_type,
};

/// An internet or packet socket: its name in the namespace.
#[derive(Clone, Copy, Debug)]
pub struct InetSock {
    pub(crate) key: SockKey,
}

type Slices<'a> = &'a mut dyn FnMut(&[&[u8]]) -> usize;

/// Open sockets at most.
const MAX_FILES: usize = 4_000_000;

impl Kernel {
    /// The namespace and key of an internet socket.
    pub(crate) fn inet(&mut self, s: SockId) -> Result<(&mut Namespace, SockKey), Errno> {
        let f = self.files.get(s).ok_or(Errno::EBADF)?;
        let File::Inet(i) = &f.file else { return Err(Errno::EOPNOTSUPP) };
        let (ns, key) = (f.ns, i.key);
        Ok((self.world.ns_mut(ns).ok_or(Errno::ENXIO)?, key))
    }

    /// Likewise, only to look.
    pub(crate) fn inet_ref(&self, s: SockId) -> Result<(&Namespace, SockKey), Errno> {
        let f = self.files.get(s).ok_or(Errno::EBADF)?;
        let File::Inet(i) = &f.file else { return Err(Errno::EOPNOTSUPP) };
        Ok((self.world.ns(f.ns).ok_or(Errno::ENXIO)?, i.key))
    }

    /// Is it a netlink socket?
    fn is_netlink(&self, s: SockId) -> bool {
        self.files.get(s).is_some_and(|f| matches!(f.file, File::Netlink(_)))
    }

    fn is_tcp(&self, s: SockId) -> bool {
        self.files.get(s).is_some_and(|f| f.ty == sock_type::STREAM)
    }

    /// `socket(2)`; `ty` without `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM`.
    pub fn socket(&mut self, c: &mut Caller<'_>, family: i32, ty: i32, proto: i32) -> Result<SockId, Errno> {
        if self.files.len() >= MAX_FILES {
            return Err(Errno::ENFILE);
        }
        if family == af::NETLINK {
            let file = File::Netlink(Box::new(NetlinkSock::new(ty, proto)?));
            return Ok(self.files.insert(OpenFile { ns: c.ns, file, inode: 0, family, ty, proto }));
        }
        let id = self.files.insert(OpenFile {
            ns: c.ns,
            file: File::Inet(InetSock { key: SockKey::null() }),
            inode: 0,
            family,
            ty,
            proto,
        });
        match self.open(c, id, family, ty, proto) {
            Ok((file, proto)) => {
                if let Some(f) = self.files.get_mut(id) {
                    (f.file, f.proto) = (file, proto);
                }
                Ok(id)
            }
            Err(e) => {
                self.files.remove(id);
                Err(e)
            }
        }
    }

    /// Makes the part behind the descriptor; returns it with the effective protocol.
    fn open(
        &mut self,
        c: &mut Caller<'_>,
        id: SockId,
        family: i32,
        ty: i32,
        proto: i32,
    ) -> Result<(File, i32), Errno> {
        self.open_inet(c, id, family, ty, proto)
    }

    /// `bind(2)`.
    ///
    /// # Errors
    /// As bind(2).
    pub fn bind(&mut self, c: &mut Caller<'_>, s: SockId, addr: &[u8]) -> Result<(), Errno> {
        if self.is_netlink(s) {
            return netlink::bind(self, c, s, addr);
        }
        let family = self.files.get(s).ok_or(Errno::EBADF)?.family;
        if let Some(()) = self.bind_portless(s, addr)? {
            return Ok(());
        }
        let (ns, key) = self.inet(s)?;
        let a = addr::parse(family, addr)?;
        if a.unspec && !a.addr.is_unspecified() {
            return Err(Errno::EAFNOSUPPORT);
        }
        let common = ns.socks.common_mut(key)?;
        if family == af::INET6 && a.addr.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        if common.flags.contains(SockFlags::V6ONLY) && a.addr.to_canonical().is_ipv4() && family == af::INET6
        {
            return Err(Errno::EINVAL);
        }
        message::bind_scope(common, &a)?;
        // inet_bind asks for CAP_NET_BIND_SERVICE only when the port needs it (EACCES).
        match ports::bind(ns, key, a.addr, a.port, false) {
            Err(Errno::EACCES) if c.capable(Caps::NET_BIND_SERVICE) => {
                ports::bind(ns, key, a.addr, a.port, true)
            }
            r => r,
        }
    }

    /// `connect(2)`: TCP returns `EINPROGRESS`, then `EALREADY`, then 0 once, then `EISCONN`.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&mut self, c: &mut Caller<'_>, s: SockId, addr: &[u8]) -> Result<(), Errno> {
        if self.is_netlink(s) {
            return netlink::connect(self, c, s, addr);
        }
        let family = self.files.get(s).ok_or(Errno::EBADF)?.family;
        let tcp = self.is_tcp(s);
        let (ns, key) = self.inet(s)?;
        let a = addr::parse(family, addr)?;
        if tcp {
            if a.unspec {
                return tcp::user::disconnect(ns, key);
            }
            if !a.scope.is_none() && matches!(a.addr, core::net::IpAddr::V6(x) if x.is_unicast_link_local()) {
                ns.socks.common_mut(key)?.bound_dev = a.scope;
            }
            return tcp::user::connect(ns, key, a.addr, a.port);
        }
        self.connect_message(s, a)
    }

    /// `listen(2)`.
    ///
    /// # Errors
    /// As listen(2).
    pub fn listen(&mut self, s: SockId, backlog: i32) -> Result<(), Errno> {
        if !self.is_tcp(s) {
            return Err(Errno::EOPNOTSUPP);
        }
        let (ns, key) = self.inet(s)?;
        tcp::user::listen(ns, key, backlog)
    }

    /// `accept(2)`: the new socket and the peer's address.
    ///
    /// # Errors
    /// `EAGAIN` when there is none; as accept(2).
    pub fn accept(&mut self, s: SockId) -> Result<(SockId, Vec<u8>), Errno> {
        if !self.is_tcp(s) {
            return Err(Errno::EOPNOTSUPP);
        }
        let f = self.files.get(s).ok_or(Errno::EBADF)?;
        let (ns_id, family, proto) = (f.ns, f.family, f.proto);
        if self.files.len() >= MAX_FILES {
            return Err(Errno::ENFILE);
        }
        let (ns, key) = self.inet(s)?;
        let child = tcp::user::accept(ns, key)?;
        let c = ns.socks.common(child)?;
        let (peer, port) = c.peer.unwrap_or((c.local, 0));
        let name = addr::print(family, peer, port, c.bound_dev);
        let id = self.files.insert(OpenFile {
            ns: ns_id,
            file: File::Inet(InetSock { key: child }),
            inode: 0,
            family,
            ty: sock_type::STREAM,
            proto,
        });
        let (ns, child) = self.inet(id)?;
        ns.socks.common_mut(child)?.token = id.data().as_ffi();
        Ok((id, name))
    }

    /// `sendmsg(2)`.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room; as sendmsg(2).
    pub fn sendmsg(&mut self, c: &mut Caller<'_>, s: SockId, m: SendMsg<'_>) -> Result<usize, Errno> {
        if self.is_netlink(s) {
            return netlink::sendmsg(self, c, s, &m);
        }
        if !self.is_tcp(s) {
            return self.send_message(c, s, m);
        }
        let how = match m.flags {
            f if f & MSG_OOB != 0 => SendHow::Urgent,
            f if f & MSG_MORE != 0 => SendHow::More,
            _ => SendHow::Plain,
        };
        let (ns, key) = self.inet(s)?;
        tcp::user::send(ns, key, m.data, how)
    }

    /// `recvmsg(2)`.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing; as recvmsg(2).
    pub fn recvmsg(&mut self, s: SockId, r: RecvReq) -> Result<Received, Errno> {
        if self.is_netlink(s) {
            return netlink::recvmsg(self, s, r);
        }
        if !self.is_tcp(s) {
            return self.recv_message(s, r);
        }
        let (ns, key) = self.inet(s)?;
        let mut data = Vec::new();
        let peek = r.flags & MSG_PEEK != 0;
        if r.flags & MSG_OOB != 0 {
            let data: Vec<u8> = tcp::user::recv_urgent(ns, key, peek)?.into_iter().take(r.len).collect();
            return Ok(Received { len: data.len(), data, flags: MSG_OOB, ..Received::default() });
        }
        let n = tcp::user::recv(ns, key, r.len, &mut |slices| {
            data = slices.concat();
            if peek { 0 } else { data.len() }
        });
        match n {
            Ok(_) => Ok(Received { len: data.len(), data, ..Received::default() }),
            Err(e) => Err(e),
        }
    }

    /// Puts data into a stream's send queue without copying; short when it is full.
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE`, a pending error.
    pub fn stream_send(&mut self, s: SockId, data: Bytes) -> Result<usize, Errno> {
        let (ns, key) = self.inet(s)?;
        tcp::user::send(ns, key, data, SendHow::Plain)
    }

    /// As `stream_send`, with the last byte urgent.
    ///
    /// # Errors
    /// As `stream_send`.
    pub fn stream_send_urgent(&mut self, s: SockId, data: Bytes) -> Result<usize, Errno> {
        let (ns, key) = self.inet(s)?;
        tcp::user::send(ns, key, data, SendHow::Urgent)
    }

    /// `SO_OOBINLINE`.
    #[must_use]
    pub fn oob_inline(&self, s: SockId) -> bool {
        let c = self.inet_ref(s).ok().and_then(|(ns, key)| ns.socks.common(key).ok());
        c.is_some_and(|c| c.flags.contains(SockFlags::OOBINLINE))
    }

    /// The urgent byte of a stream when it is the next to read.
    #[must_use]
    pub fn stream_urgent(&self, s: SockId) -> Option<u8> {
        let (ns, key) = self.inet_ref(s).ok()?;
        tcp::user::urgent_next(ns, key)
    }

    /// That byte was passed on and leaves the stream.
    pub fn stream_pass_urgent(&mut self, s: SockId) {
        if let Ok((ns, key)) = self.inet(s) {
            tcp::user::pass_urgent(ns, key);
        }
    }

    /// Shows up to `max` bytes of a stream's receive queue to `f`, which says how many it took. `Ok(0)` without
    /// a call of `f` is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN`, a pending error.
    pub fn stream_recv(&mut self, s: SockId, max: usize, f: Slices<'_>) -> Result<usize, Errno> {
        let (ns, key) = self.inet(s)?;
        tcp::user::recv(ns, key, max, f)
    }

    /// `shutdown(2)`; 0 read, 1 write, 2 both.
    ///
    /// # Errors
    /// `ENOTCONN`, `EINVAL`.
    pub fn shutdown(&mut self, s: SockId, how: i32) -> Result<(), Errno> {
        let how = match how {
            0 => tcp::user::RCV_SHUTDOWN,
            1 => tcp::user::SEND_SHUTDOWN,
            2 => tcp::user::RCV_SHUTDOWN | tcp::user::SEND_SHUTDOWN,
            _ => return Err(Errno::EINVAL),
        };
        if !self.is_tcp(s) {
            return self.shutdown_message(s, how);
        }
        let (ns, key) = self.inet(s)?;
        tcp::user::shutdown(ns, key, how)
    }

    /// The last descriptor was closed.
    pub fn close(&mut self, s: SockId) {
        netlink::release(self, s);
        let tcp = self.is_tcp(s);
        if let Ok((ns, key)) = self.inet(s) {
            if tcp {
                tcp::user::close(ns, key);
            } else {
                sock::close(ns, key);
            }
        }
        self.files.remove(s);
    }

    /// `getsockname(2)`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn getsockname(&self, s: SockId) -> Result<Vec<u8>, Errno> {
        let f = self.files.get(s).ok_or(Errno::EBADF)?;
        if let File::Netlink(n) = &f.file {
            return Ok(n.getsockname());
        }
        let family = f.family;
        let (ns, key) = self.inet_ref(s)?;
        let x = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
        if let sock::Proto::Packet(p) = &x.proto {
            let mac = ns.devs.get(p.dev).filter(|d| d.has_ethernet()).map(|d| d.mac.octets());
            let mac = mac.as_ref().map_or(&[][..], |m| &m[..]);
            return Ok(message::print_ll(p.protocol, p.dev, message::hatype(ns, p.dev), 0, mac));
        }
        let c = &x.common;
        // inet_sport of a raw socket is its protocol (inet_create).
        let port = if let sock::Proto::Raw(_) = x.proto { u16::from(c.protocol) } else { c.lport };
        Ok(addr::print(family, c.local, port, c.bound_dev))
    }

    /// `getpeername(2)`.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn getpeername(&self, s: SockId) -> Result<Vec<u8>, Errno> {
        let f = self.files.get(s).ok_or(Errno::EBADF)?;
        if let File::Netlink(n) = &f.file {
            return Ok(n.getpeername());
        }
        let (ns, key) = self.inet_ref(s)?;
        if f.ty == sock_type::STREAM && !tcp::user::is_connected(ns, key) {
            return Err(Errno::ENOTCONN);
        }
        let c = ns.socks.common(key)?;
        let (peer, port) = c.peer.ok_or(Errno::ENOTCONN)?;
        Ok(addr::print(f.family, peer, port, c.bound_dev))
    }

    /// `poll(2)`.
    #[must_use]
    pub fn poll(&self, s: SockId) -> Ready {
        if let Some(File::Netlink(n)) = self.files.get(s).map(|f| &f.file) {
            return n.poll();
        }
        let Ok((ns, key)) = self.inet_ref(s) else { return Ready::empty() };
        Ready::from_bits_truncate(sock::poll_bits(ns, key))
    }

    /// Does an error wait for `MSG_ERRQUEUE`?
    #[must_use]
    pub fn has_queued_error(&self, s: SockId) -> bool {
        let c = self.inet_ref(s).ok().and_then(|(ns, key)| ns.socks.common(key).ok());
        c.and_then(|c| c.opts.as_ref()).is_some_and(|o| !o.errq.is_empty())
    }

    /// The inode that was set.
    #[must_use]
    pub fn inode(&self, s: SockId) -> Option<u64> {
        self.files.get(s).map(|f| f.inode)
    }

    /// Says what of a connection is on the way between the program and the stack.
    pub fn set_edge_queues(&mut self, s: SockId, edge: ferronet_stack::tcp::EdgeQueues) {
        if let Ok((ns, key)) = self.inet(s)
            && let Some(sock::Proto::Tcp(t)) = ns.socks.socks.get_mut(key).map(|x| &mut x.proto)
        {
            t.edge = edge;
        }
    }

    /// Says which inode the program's descriptor has, for `ss -p` and `/proc/net/tcp`.
    pub fn set_inode(&mut self, s: SockId, ino: u64) {
        if let Some(f) = self.files.get_mut(s) {
            f.inode = ino;
        }
        if let Ok((ns, key)) = self.inet(s)
            && let Ok(c) = ns.socks.common_mut(key)
        {
            c.inode = ino;
        }
    }

    /// Takes the readiness edges since the last call.
    pub fn take_events(&mut self, out: &mut Vec<(SockId, Ready)>) {
        out.append(&mut self.events);
        self.world.take_sock_events(&mut |token, bits| {
            let id = SockId::from(slotmap::KeyData::from_ffi(token));
            out.push((id, Ready::from_bits_truncate(bits)));
        });
    }

    /// `getsockopt(2)`, at most `len` bytes.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`.
    pub fn getsockopt(&mut self, s: SockId, level: i32, name: i32, len: usize) -> Result<Vec<u8>, Errno> {
        if let Some((_, n)) = netlink::sock_mut(self, s) {
            return n.getsockopt(level, name, len);
        }
        if let Some(f) = self.files.get(s) {
            self.world.touch(f.ns);
        }
        self.get_opt(s, level, name, len)
    }

    /// `setsockopt(2)`. `SO_ATTACH_FILTER` comes with the instructions themselves.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`, `EPERM`.
    pub fn setsockopt(
        &mut self,
        c: &mut Caller<'_>,
        s: SockId,
        opt: (i32, i32),
        val: &[u8],
    ) -> Result<(), Errno> {
        if self.is_netlink(s) {
            return netlink::setsockopt(self, s, opt, val);
        }
        self.set_opt(c, s, opt, val)
    }
}
