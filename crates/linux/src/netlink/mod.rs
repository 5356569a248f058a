//! Netlink: sockets, messages, families (netlink(7)). Start reading at [`sendmsg`].
#![deny(clippy::indexing_slicing)]

mod ack;
mod codec;
mod diag;
mod dump;
mod genl;
mod notify;
mod nsid;
mod route;
mod sock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ferronet_core::{Errno, NsId};
pub use sock::{NetlinkSock, SOL_NETLINK};

use crate::kernel::{Caller, File, Kernel, Ready, Received, RecvReq, SendMsg, SockId};
use ack::ExtAck;
use codec::{HDRLEN, Hdr, align4, nlm_f, nlmsg};
pub use notify::drain;

/// What netlink knows beyond its sockets.
#[derive(Debug)]
pub(crate) struct State {
    /// Who has a port: namespace, protocol, port.
    ports: BTreeMap<(NsId, i32, u32), SockId>,
    /// Sockets that joined groups, by namespace; looked at when something changes.
    listeners: BTreeMap<NsId, Vec<SockId>>,
    /// Sockets that hear all namespaces that have an id in theirs.
    nsids: nsid::Nsids,
    /// The next port when the process id is taken (`netlink_autobind`).
    rover: i32,
}

impl Default for State {
    fn default() -> Self {
        State {
            ports: BTreeMap::new(),
            listeners: BTreeMap::new(),
            nsids: nsid::Nsids::default(),
            rover: -4097,
        }
    }
}

/// A request while it is handled.
pub(crate) struct Req<'a, 'c> {
    kernel: &'a mut Kernel,
    caller: &'a mut Caller<'c>,
    /// Namespace of the socket.
    ns: NsId,
    hdr: Hdr,
    /// The whole message, header first.
    msg: &'a [u8],
    portid: u32,
    strict: bool,
    ext: ExtAck,
    /// Answers, in order; the acknowledgement follows them.
    replies: Vec<Vec<u8>>,
    /// A dump that begins.
    dump: Option<Box<dump::Dump>>,
}

impl<'a> Req<'a, '_> {
    /// What follows the netlink header.
    fn body(&self) -> &'a [u8] {
        self.msg.get(HDRLEN..).unwrap_or_default()
    }
    /// A header of `n` bytes and the attributes behind it; `EINVAL` when it is short.
    fn split(&self, n: usize) -> Option<(&'a [u8], codec::AttrIter<'a>)> {
        let body = self.body();
        let head = body.get(..n)?;
        let rest = body.get(align4(n)..).unwrap_or_default();
        Some((head, codec::AttrIter::new(rest, HDRLEN + align4(n))))
    }
    fn has(&self, flags: u16) -> bool {
        self.hdr.flags & flags == flags
    }
    /// Begins an answer.
    fn answer(&self, ty: u16, flags: u16) -> codec::Msg {
        codec::Msg::new(ty, flags, self.hdr.seq, self.portid)
    }
    /// Begins a dump.
    fn start(&mut self, s: impl dump::Source + 'static) {
        self.dump = Some(Box::new(dump::Dump::new(self.hdr, Box::new(s))));
    }
    /// A dump that fails at once: the error travels in `NLMSG_DONE`.
    fn fail_dump(&mut self, e: Errno, filtered: bool) {
        let ext = core::mem::take(&mut self.ext);
        self.dump = Some(Box::new(dump::Dump::failed(self.hdr, e, ext, filtered)));
    }
}

/// The netlink socket behind an id, with its namespace.
pub(crate) fn sock_mut(k: &mut Kernel, s: SockId) -> Option<(NsId, &mut NetlinkSock)> {
    let f = k.files.get_mut(s)?;
    match &mut f.file {
        File::Netlink(n) => Some((f.ns, n)),
        _ => None,
    }
}

/// Binds to a free port: the process id or, when that is taken, a negative number (`netlink_autobind`).
fn autobind(k: &mut Kernel, s: SockId, pid: u32) -> Result<u32, Errno> {
    let (ns, sock) = sock_mut(k, s).ok_or(Errno::EBADF)?;
    if let Some(p) = sock.portid() {
        return Ok(p);
    }
    let proto = sock.protocol();
    let mut port = pid;
    while taken(k, (ns, proto, port)) {
        port = k.nl.rover.cast_unsigned();
        k.nl.rover = if k.nl.rover == i32::MIN { -4097 } else { k.nl.rover - 1 };
    }
    take_port(k, s, port)?;
    Ok(port)
}

/// Is a port in use by a socket that is still open?
fn taken(k: &Kernel, key: (NsId, i32, u32)) -> bool {
    k.nl.ports.get(&key).is_some_and(|s| k.files.contains_key(*s))
}

fn take_port(k: &mut Kernel, s: SockId, port: u32) -> Result<(), Errno> {
    let (ns, sock) = sock_mut(k, s).ok_or(Errno::EBADF)?;
    let key = (ns, sock.protocol(), port);
    if taken(k, key) {
        return Err(Errno::EADDRINUSE);
    }
    k.nl.ports.insert(key, s);
    if let Some((_, sock)) = sock_mut(k, s) {
        sock.set_portid(port);
    }
    Ok(())
}

/// `bind(2)` of a netlink socket.
///
/// # Errors
/// `EINVAL` for a bad address or another port than the bound one, `EADDRINUSE`.
pub fn bind(k: &mut Kernel, c: &Caller<'_>, s: SockId, addr: &[u8]) -> Result<(), Errno> {
    let (pid, groups) = sock::parse_sockaddr(addr)?;
    let (_, sock) = sock_mut(k, s).ok_or(Errno::EBADF)?;
    match sock.portid() {
        Some(p) if pid != p && pid != 0 => return Err(Errno::EINVAL),
        Some(_) => {}
        None if pid != 0 => take_port(k, s, pid)?,
        None => {
            autobind(k, s, c.pid)?;
        }
    }
    if let Some((_, sock)) = sock_mut(k, s) {
        sock.bind_groups(groups);
    }
    update_listener(k, s);
    Ok(())
}

/// `connect(2)` of a netlink socket: where messages without an address go.
///
/// # Errors
/// `EINVAL` for a bad address.
pub fn connect(k: &mut Kernel, c: &Caller<'_>, s: SockId, addr: &[u8]) -> Result<(), Errno> {
    if addr.first_chunk::<2>() == Some(&[0; 2]) {
        sock_mut(k, s).ok_or(Errno::EBADF)?.1.set_dst((0, 0));
        return Ok(());
    }
    let dst = sock::parse_sockaddr(addr)?;
    autobind(k, s, c.pid)?;
    sock_mut(k, s).ok_or(Errno::EBADF)?.1.set_dst(dst);
    Ok(())
}

/// `setsockopt(2)` of a netlink socket.
///
/// # Errors
/// As [`NetlinkSock::setsockopt`].
pub fn setsockopt(k: &mut Kernel, s: SockId, opt: (i32, i32), val: &[u8]) -> Result<(), Errno> {
    sock_mut(k, s).ok_or(Errno::EBADF)?.1.setsockopt(opt.0, opt.1, val)?;
    update_listener(k, s);
    Ok(())
}

/// Keeps the list of sockets with groups.
fn update_listener(k: &mut Kernel, s: SockId) {
    let Some((ns, sock)) = sock_mut(k, s) else { return };
    let listens = sock.groups() != 0;
    let list = k.nl.listeners.entry(ns).or_default();
    list.retain(|o| *o != s);
    if listens {
        list.push(s);
    } else if list.is_empty() {
        k.nl.listeners.remove(&ns);
    }
    notify::listeners_changed(k);
}

/// The socket was closed: its port and groups are free again. Call it before the file goes.
pub fn release(k: &mut Kernel, s: SockId) {
    let Some((ns, sock)) = sock_mut(k, s) else { return };
    let proto = sock.protocol();
    if let Some(p) = sock.portid() {
        k.nl.ports.remove(&(ns, proto, p));
    }
    if let Some(l) = k.nl.listeners.get_mut(&ns) {
        l.retain(|o| *o != s);
        if l.is_empty() {
            k.nl.listeners.remove(&ns);
        }
    }
    notify::listeners_changed(k);
}

/// A namespace ends: its number in others is free again.
pub fn ns_destroyed(k: &mut Kernel, ns: NsId) {
    nsid::forget(k, ns);
    k.nl.ports.retain(|key, _| key.0 != ns);
    k.nl.listeners.remove(&ns);
}

/// `sendmsg(2)` to the kernel: handles each message of the datagram and queues the answers.
///
/// # Errors
/// `EINVAL` for a bad address, `ENODATA` for no data, `EMSGSIZE`, `ECONNREFUSED` for a port nobody has, `EPERM` for
/// groups.
pub fn sendmsg(k: &mut Kernel, c: &mut Caller<'_>, s: SockId, m: &SendMsg<'_>) -> Result<usize, Errno> {
    const MSG_OOB: i32 = 1;
    if m.flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if m.data.is_empty() {
        return Err(Errno::ENODATA);
    }
    let (ns, sock) = sock_mut(k, s).ok_or(Errno::EBADF)?;
    let (dst, groups) = if m.name.is_empty() { sock.dst() } else { sock::parse_sockaddr(m.name)? };
    let proto = sock.protocol();
    if m.data.len() > sock.sndbuf().saturating_sub(32) {
        return Err(Errno::EMSGSIZE);
    }
    if groups != 0 {
        return Err(Errno::EPERM);
    }
    let portid = autobind(k, s, c.pid)?;
    if dst != 0 {
        let to = k.nl.ports.get(&(ns, proto, dst)).copied().ok_or(Errno::ECONNREFUSED)?;
        let (_, peer) = sock_mut(k, to).ok_or(Errno::ECONNREFUSED)?;
        peer.unicast(m.data.to_vec(), portid);
        k.events.push((to, Ready::IN));
        return Ok(m.data.len());
    }
    netlink_rcv_skb(k, c, s, &m.data);
    Ok(m.data.len())
}

/// Handles the messages of a datagram one after the other.
fn netlink_rcv_skb(k: &mut Kernel, c: &mut Caller<'_>, s: SockId, mut data: &[u8]) {
    while let Some(hdr) = Hdr::parse(data) {
        let len = hdr.len as usize;
        let Some(msg) = data.get(..len).filter(|_| len >= HDRLEN) else { return };
        one_message(k, c, s, hdr, msg);
        data = data.get(align4(len)..).unwrap_or_default();
    }
}

fn one_message(k: &mut Kernel, c: &mut Caller<'_>, s: SockId, hdr: Hdr, msg: &[u8]) {
    let Some((ns, sock)) = sock_mut(k, s) else { return };
    let (to, strict, proto, busy) = (sock.ack_to(), sock.strict(), sock.protocol(), sock.dump.is_some());
    k.world.touch(ns);
    let mut r = Req {
        kernel: k,
        caller: c,
        ns,
        hdr,
        msg,
        portid: to.portid,
        strict,
        ext: ExtAck::default(),
        replies: Vec::new(),
        dump: None,
    };
    let request = hdr.flags & nlm_f::REQUEST != 0 && hdr.ty >= nlmsg::MIN_TYPE;
    let mut result = match proto {
        _ if !request => Ok(()),
        sock::proto::ROUTE => route::rcv_msg(&mut r),
        sock::proto::GENERIC => genl::rcv_msg(&mut r),
        sock::proto::SOCK_DIAG => diag::rcv_msg(&mut r),
        _ => Err(Errno::EINVAL),
    };
    let (replies, started, ext) = (r.replies, r.dump, r.ext);
    if started.is_some() && busy {
        result = Err(Errno::EBUSY);
    }
    let origin =
        notify::Origin { sock: s, portid: to.portid, seq: hdr.seq, echo: hdr.flags & nlm_f::ECHO != 0 };
    notify::drain_from(k, Some(origin));
    let Some((_, sock)) = sock_mut(k, s) else { return };
    let mut readable = false;
    for m in replies {
        readable |= sock.unicast(m, 0);
    }
    let dumping = result.is_ok() && started.is_some();
    if dumping {
        sock.dump = started;
    } else if result.is_err() || hdr.flags & nlm_f::ACK != 0 {
        readable |= sock.unicast(ack::ack(msg, result.err(), &ext, to), 0);
    }
    if readable {
        k.events.push((s, Ready::IN));
    }
    if dumping {
        dump::run(k, s);
    }
}

/// `recvmsg(2)`: the next datagram; a dump goes on as there is room again.
///
/// # Errors
/// As [`NetlinkSock::recvmsg`].
pub fn recvmsg(k: &mut Kernel, s: SockId, r: RecvReq) -> Result<Received, Errno> {
    let got = sock_mut(k, s).ok_or(Errno::EBADF)?.1.recvmsg(r);
    if got.is_ok() {
        dump::run(k, s);
    }
    got
}
