//! The exact path of message sockets: every send and receive is served here, with names, control data and exact errors.

use std::os::fd::AsFd;

use bytes::Bytes;
use ferronet_core::Errno;
use ferronet_linux::{Ready, Received, RecvReq, SendMsg, SockId};

use crate::mem;
use crate::obj::Key;
use crate::os;
use crate::poller::bits;
use crate::seccomp;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::control_msg::{self, Header, MAX_CONTROL, MAX_MESSAGE};
use crate::sys::{Ours, addr};

/// Most tokens outstanding: each gives an edge to edge-triggered programs.
const TOKENS: u32 = 4;
/// Natively written datagrams that are taken in one turn, so that nobody keeps the supervisor to himself.
const PULL: usize = 64;

/// Dispatches one call on a message socket.
pub(crate) fn call(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let n = &call.n;
    let native = s.objects.message(o.key).is_some_and(|(_, m, _)| m.native);
    let receives = matches!(n.nr, libc::SYS_read | libc::SYS_readv | libc::SYS_recvfrom | libc::SYS_recvmsg);
    if native && receives {
        return Answer::Continue;
    }

    match n.nr {
        libc::SYS_read => recv_plain(s, call, o, sock, &one(n.ptr(1), n.ptr(2))),
        libc::SYS_readv => control_msg::iovecs(n.tid, n.ptr(1), n.ptr(2) as usize)
            .map(|(iov, _)| recv_plain(s, call, o, sock, &iov))
            .unwrap_or_else(Answer::Err),
        libc::SYS_recvfrom => recvfrom(s, call, o, sock),
        libc::SYS_recvmsg => recvmsg(s, call, o, sock),
        libc::SYS_write => send_data(s, call, o, sock, gather_one(n.tid, n.ptr(1), n.ptr(2))),
        libc::SYS_writev => {
            let data = control_msg::iovecs(n.tid, n.ptr(1), n.ptr(2) as usize)
                .and_then(|(iov, t)| control_msg::gather(n.tid, &iov, t));
            send_data(s, call, o, sock, data)
        }
        libc::SYS_sendto => sendto(s, call, o, sock),
        libc::SYS_sendmsg => sendmsg(s, call, o, sock),
        _ => Answer::Continue,
    }
}

fn one(ptr: u64, len: u64) -> [libc::iovec; 1] {
    [libc::iovec { iov_base: ptr as *mut libc::c_void, iov_len: len as usize }]
}

fn gather_one(tid: u32, ptr: u64, len: u64) -> Result<Vec<u8>, i32> {
    control_msg::gather(tid, &one(ptr, len), len as usize)
}

/// May this call wait? The status flags are those of the shared open file.
pub(crate) fn may_block(s: &mut Supervisor, call: &Call, o: &Ours, flags: i32) -> bool {
    !call.expired
        && flags & libc::MSG_DONTWAIT == 0
        && o.theirs(s).is_some_and(|fd| os::status_flags(fd) & libc::O_NONBLOCK == 0)
}

/// Takes one message, from the stash of a cancelled call or from the stack.
pub(crate) fn take(s: &mut Supervisor, key: Key, sock: SockId, req: &RecvReq) -> Result<Received, Errno> {
    if req.flags & libc::MSG_ERRQUEUE == 0
        && let Some((_, m, _)) = s.objects.message(key)
        && let Some(r) = m.stash.take()
    {
        if req.flags & libc::MSG_PEEK != 0 {
            m.stash = Some(r.clone());
        }
        return Ok(r);
    }
    s.kernel.recvmsg(sock, RecvReq { len: req.len, control_len: req.control_len, flags: req.flags })
}

/// A receive that may park.
fn receive(
    s: &mut Supervisor,
    call: &Call,
    o: &Ours,
    sock: SockId,
    req: &RecvReq,
) -> Result<Received, Answer> {
    match take(s, o.key, sock, req) {
        Ok(r) => Ok(r),
        Err(Errno::EAGAIN) => {
            s.settle_message(o);
            s.lower_pollerr(call, o);
            if req.flags & libc::MSG_ERRQUEUE == 0 && may_block(s, call, o, req.flags) {
                Err(Answer::Park(o.key, s.timeout_of(sock, libc::SO_RCVTIMEO)))
            } else {
                Err(Answer::Err(libc::EAGAIN))
            }
        }
        Err(e) => {
            s.settle_message(o);
            s.lower_pollerr(call, o);
            Err(e.into())
        }
    }
}

/// Answers a receive; a message whose call was cancelled goes back to the head of the queue.
fn finish(
    s: &mut Supervisor,
    call: &Call,
    o: &Ours,
    r: Received,
    flags: i32,
    put: Result<(), i32>,
) -> Answer {
    let n = if flags & libc::MSG_TRUNC != 0 { r.len } else { r.data.len() };
    if let Err(e) = put {
        s.settle_message(o);
        return Answer::Err(e);
    }
    // Before the answer: the program may poll at once.
    s.settle_message(o);
    s.lower_pollerr(call, o);
    let sent = s.listener(call.listener).is_some_and(|l| seccomp::answer(l, call.n.id, n as i64));
    if !sent
        && flags & libc::MSG_PEEK == 0
        && let Some((_, m, _)) = s.objects.message(o.key)
    {
        m.stash = Some(r);
        s.add_message_token(o.key);
    }
    Answer::Done
}

fn recv_plain(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId, iov: &[libc::iovec]) -> Answer {
    let len = iov.iter().map(|v| v.iov_len).sum::<usize>().min(MAX_MESSAGE);
    match receive(s, call, o, sock, &RecvReq { len, control_len: 0, flags: 0 }) {
        Ok(r) => {
            let put = mem::scatter(call.n.tid, iov, &r.data).map(drop);
            finish(s, call, o, r, 0, put)
        }
        Err(a) => a,
    }
}

/// recvfrom(fd, buf, len, flags, addr, addrlen*).
fn recvfrom(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let n = &call.n;
    let (len, flags) = ((n.ptr(2) as usize).min(MAX_MESSAGE), n.int(3));
    match receive(s, call, o, sock, &RecvReq { len, control_len: 0, flags }) {
        Ok(r) => {
            let mut put = mem::scatter(n.tid, &one(n.ptr(1), n.ptr(2)), &r.data).map(drop);
            if put.is_ok() && n.ptr(4) != 0 {
                put = addr::put(n.tid, &r.name, n.ptr(4), n.ptr(5));
            }
            finish(s, call, o, r, flags, put)
        }
        Err(a) => a,
    }
}

/// recvmsg(fd, msghdr*, flags).
fn recvmsg(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let flags = call.n.int(2);
    let h = match control_msg::header(call.n.tid, call.n.ptr(1)) {
        Ok(h) => h,
        Err(e) => return Answer::Err(e),
    };
    match receive(s, call, o, sock, &request(&h, flags)) {
        Ok(r) => {
            let put = h.put(call.n.tid, &r);
            finish(s, call, o, r, flags, put)
        }
        Err(a) => a,
    }
}

/// What a msghdr asks for.
pub(crate) fn request(h: &Header, flags: i32) -> RecvReq {
    let control_len = if h.m.msg_control.is_null() { 0 } else { h.m.msg_controllen.min(MAX_CONTROL) };
    RecvReq { len: h.total.min(MAX_MESSAGE), control_len, flags }
}

/// sendto(fd, buf, len, flags, addr, addrlen).
fn sendto(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let n = &call.n;
    let name = if n.ptr(4) == 0 { Ok(0) } else { addr::check(n.ptr(5)) };
    let len = n.ptr(2) as usize;
    if len > MAX_MESSAGE {
        return Answer::Err(libc::EMSGSIZE);
    }
    // Name and data in one call.
    let both = name.and_then(|k| Ok((k, mem::read_two(n.tid, (n.ptr(4), k), (n.ptr(1), len))?)));
    match both {
        Ok((k, both)) => {
            let mut data = Bytes::from(both);
            let name = data.split_to(k).to_vec();
            send(s, call, o, sock, &Outgoing { name, data, control: Vec::new(), flags: n.int(3) })
        }
        Err(e) => Answer::Err(e),
    }
}

/// sendmsg(fd, msghdr*, flags).
fn sendmsg(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId) -> Answer {
    let n = &call.n;
    match control_msg::header(n.tid, n.ptr(1)).and_then(|h| outgoing(n.tid, &h, n.int(2))) {
        Ok(m) => send(s, call, o, sock, &m),
        Err(e) => Answer::Err(e),
    }
}

/// A message read from a program.
pub(crate) struct Outgoing {
    pub(crate) name: Vec<u8>,
    pub(crate) data: Bytes,
    pub(crate) control: Vec<u8>,
    pub(crate) flags: i32,
}

/// Reads everything a msghdr points to.
pub(crate) fn outgoing(tid: u32, h: &Header, flags: i32) -> Result<Outgoing, i32> {
    let name = if h.m.msg_name.is_null() {
        Vec::new()
    } else {
        addr::get(tid, h.m.msg_name as u64, h.m.msg_namelen.into())?
    };
    let control_len = h.m.msg_controllen;
    if control_len > MAX_CONTROL {
        return Err(libc::ENOBUFS);
    }
    let control = mem::read_vec(tid, h.m.msg_control as u64, control_len)?;
    Ok(Outgoing { name, data: control_msg::gather(tid, &h.iov, h.total)?.into(), control, flags })
}

fn send_data(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId, data: Result<Vec<u8>, i32>) -> Answer {
    match data {
        Ok(d) => send(
            s,
            call,
            o,
            sock,
            &Outgoing { name: Vec::new(), data: d.into(), control: Vec::new(), flags: 0 },
        ),
        Err(e) => Answer::Err(e),
    }
}

/// Hands one message to the stack.
pub(crate) fn submit(s: &mut Supervisor, tid: u32, sock: SockId, m: &Outgoing) -> Result<usize, i32> {
    s.with_sock_caller(tid, |k, c| {
        k.sendmsg(
            c,
            sock,
            SendMsg { name: &m.name, data: m.data.clone(), control: &m.control, flags: m.flags },
        )
    })?
    .map_err(|e| i32::from(e.0))
}

fn send(s: &mut Supervisor, call: &Call, o: &Ours, sock: SockId, m: &Outgoing) -> Answer {
    // The memory was read: does the call still exist? Requests that change something must not be made twice; for a datagram
    // the check buys nothing, as the signal may as well come after it.
    let netlink = s.kernel.sock_info(sock).is_some_and(|(family, ..)| family == libc::AF_NETLINK);
    if netlink && !s.listener(call.listener).is_some_and(|l| seccomp::valid(l, call.n.id)) {
        return Answer::Done;
    }
    if s.kernel.sock_info(sock).is_some_and(|i| i.0 == libc::AF_NETLINK && i.2 == libc::NETLINK_SOCK_DIAG) {
        s.refresh_edge_queues();
    }
    match submit(s, call.n.tid, sock, m) {
        Ok(n) => Answer::Ret(n as i64),
        Err(libc::EAGAIN) if may_block(s, call, o, m.flags) => {
            Answer::Park(o.key, s.timeout_of(sock, libc::SO_SNDTIMEO))
        }
        Err(e) => Answer::Err(e),
    }
}

impl Supervisor {
    /// The stack has an event for a message socket.
    pub(crate) fn message_ready(&mut self, key: Key, r: Ready) {
        if self.objects.message(key).is_some_and(|(_, m, _)| m.native) {
            self.message_push(key);
            return;
        }
        if self.rings.contains_key(&key) {
            self.ring_ready(key);
            return;
        }
        self.wake(key, true);
        if r.intersects(Ready::IN | Ready::ERR | Ready::HUP | Ready::RDHUP) {
            self.add_message_token(key);
        }
    }

    fn readable(&mut self, key: Key) -> bool {
        if let Some(r) = self.ring_readable(key) {
            return r;
        }
        let Some((sock, m, _)) = self.objects.message(key) else { return false };
        m.stash.is_some() || self.kernel.poll(sock).intersects(Ready::IN | Ready::ERR | Ready::RDHUP)
    }

    /// One more token if there is something to receive.
    pub(crate) fn add_message_token(&mut self, key: Key) {
        if !self.readable(key) || self.raise_pollerr(key) {
            return;
        }
        let Some((_, m, Some(mine))) = self.objects.message(key) else { return };
        if m.tokens < TOKENS && os::send(mine.as_fd(), b"m").is_ok() {
            m.tokens += 1;
        }
    }

    /// Takes the tokens back when nothing is left to receive.
    pub(crate) fn settle_message(&mut self, o: &Ours) {
        if self.objects.message(o.key).is_none_or(|(_, m, _)| m.tokens == 0) || self.readable(o.key) {
            return;
        }
        let Some(theirs) = o.theirs(self) else { return };
        let mut sink = [0u8; 8];
        while os::recv_bytes(theirs, &mut sink).is_ok_and(|n| n > 0) {}
        if let Some((_, m, _)) = self.objects.message(o.key) {
            m.tokens = 0;
        }
    }

    /// Something happened at our end: the program closed, or wrote natively.
    pub(crate) fn message_event(&mut self, key: Key, ev: u32) {
        if ev & bits::IN != 0 && !self.message_pull(key) {
            // The rest in the next turn, before the hang-up behind it.
            return;
        }
        if ev & (bits::HUP | bits::ERR) != 0 {
            self.forget(key);
        }
    }

    /// Datagrams written natively, through a low descriptor number; false when there may be more.
    fn message_pull(&mut self, key: Key) -> bool {
        for _ in 0..PULL {
            let owner = self.objects.get(key).map_or(0, |o| o.owner.0);
            let Some((sock, _, Some(mine))) = self.objects.message(key) else { return true };
            match self.bufs.read(mine.as_fd()) {
                Ok(d) if d.is_empty() => return true,
                Ok(data) => {
                    let m = Outgoing { name: Vec::new(), data, control: Vec::new(), flags: 0 };
                    if let Err(e) = submit(self, owner, sock, &m) {
                        tracing::debug!("a datagram written natively was refused: errno {e}");
                    }
                }
                Err(_) => return true,
            }
        }
        false
    }

    /// Hands received datagrams to a program that reads natively.
    pub(crate) fn message_push(&mut self, key: Key) {
        loop {
            let Some((sock, m, Some(mine))) = self.objects.message(key) else { return };
            let got = match m.stash.take() {
                Some(r) => r,
                None => {
                    match self.kernel.recvmsg(sock, RecvReq { len: MAX_MESSAGE, control_len: 0, flags: 0 }) {
                        Ok(r) => r,
                        Err(_) => return,
                    }
                }
            };
            if os::send(mine.as_fd(), &got.data).is_err() {
                m.stash = Some(got);
                return;
            }
        }
    }
}
