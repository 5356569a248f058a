//! The netlink socket: port, groups, options, receive queue (`net/netlink/af_netlink.c`).

use std::collections::VecDeque;

use ferronet_core::Errno;

use super::ack::AckTo;
use super::codec::Fields;
use super::dump::Dump;
use crate::kernel::{Ready, Received, RecvReq};

/// Netlink protocols.
#[allow(missing_docs, reason = "netlink(7)")]
pub(crate) mod proto {
    pub(crate) const ROUTE: i32 = 0;
    pub(crate) const SOCK_DIAG: i32 = 4;
    pub(crate) const GENERIC: i32 = 16;
}

/// `SOL_NETLINK`.
pub const SOL_NETLINK: i32 = 270;
/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;
/// `AF_NETLINK`.
const AF_NETLINK: u16 = 16;
/// Groups per protocol, rounded to whole words of the bitmap.
const GROUPS: u32 = 64;
/// `net.core.rmem_default`.
const RCVBUF: usize = 212_992;
/// `net.core.rmem_max` and `wmem_max`.
const BUF_MAX: usize = 4_194_304;
/// `SKB_WITH_OVERHEAD(32768)`: the largest buffer a dump fills.
const DUMP_MAX: usize = 32_448;
/// `NLMSG_GOODSIZE` with pages of 4 KiB.
const DUMP_MIN: usize = 3_776;

/// `MSG_*` flags of recvmsg.
mod msg {
    pub(super) const OOB: i32 = 0x1;
    pub(super) const PEEK: i32 = 0x2;
    pub(super) const TRUNC: i32 = 0x20;
    pub(super) const CTRUNC: i32 = 0x8;
}

/// Options that are on or off, by their number in `SOL_NETLINK`.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    pktinfo: bool,
    broadcast_error: bool,
    no_enobufs: bool,
    listen_all_nsid: bool,
    cap_ack: bool,
    ext_ack: bool,
    strict: bool,
    passcred: bool,
}

/// One queued datagram.
#[derive(Debug)]
struct Skb {
    data: Vec<u8>,
    /// Group it was sent to, 0 for this socket alone.
    group: u32,
    /// Sender, 0 for the kernel.
    portid: u32,
    /// Namespace it came from, as this one numbers it, when that is another.
    nsid: Option<i32>,
}

impl Skb {
    /// About what `skb->truesize` would be.
    fn truesize(&self) -> usize {
        (self.data.len() + 320).next_multiple_of(512) + 256
    }
}

/// A netlink socket.
#[derive(Debug)]
pub struct NetlinkSock {
    proto: i32,
    portid: Option<u32>,
    groups: u64,
    dst: (u32, u32),
    opt: Options,
    rcvbuf: usize,
    sndbuf: usize,
    queue: VecDeque<Skb>,
    queued: usize,
    congested: bool,
    err: Option<Errno>,
    drops: u64,
    max_recvmsg_len: usize,
    pub(super) dump: Option<Box<Dump>>,
}

/// `struct sockaddr_nl`.
fn sockaddr(pid: u32, groups: u32) -> Vec<u8> {
    let mut b = Vec::with_capacity(12);
    b.extend_from_slice(&AF_NETLINK.to_ne_bytes());
    b.extend_from_slice(&[0; 2]);
    b.extend_from_slice(&pid.to_ne_bytes());
    b.extend_from_slice(&groups.to_ne_bytes());
    b
}

/// Port and groups of a `struct sockaddr_nl`.
///
/// # Errors
/// `EINVAL` when it is short or of another family.
pub(super) fn parse_sockaddr(addr: &[u8]) -> Result<(u32, u32), Errno> {
    if addr.len() < 12 {
        return Err(Errno::EINVAL);
    }
    let mut f = Fields(addr);
    if f.u16() != AF_NETLINK {
        return Err(Errno::EINVAL);
    }
    f.u16();
    Ok((f.u32(), f.u32()))
}

impl NetlinkSock {
    /// A socket of a protocol.
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT` unless `ty` is `SOCK_RAW` or `SOCK_DGRAM`, `EPROTONOSUPPORT`.
    pub fn new(ty: i32, protocol: i32) -> Result<NetlinkSock, Errno> {
        if ty != crate::kernel::sock_type::RAW && ty != crate::kernel::sock_type::DGRAM {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if ![proto::ROUTE, proto::SOCK_DIAG, proto::GENERIC].contains(&protocol) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        Ok(NetlinkSock {
            proto: protocol,
            portid: None,
            groups: 0,
            dst: (0, 0),
            opt: Options::default(),
            rcvbuf: RCVBUF,
            sndbuf: RCVBUF,
            queue: VecDeque::new(),
            queued: 0,
            congested: false,
            err: None,
            drops: 0,
            max_recvmsg_len: 0,
            dump: None,
        })
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> i32 {
        self.proto
    }
    /// Its port, once bound.
    #[must_use]
    pub fn portid(&self) -> Option<u32> {
        self.portid
    }
    pub(super) fn set_portid(&mut self, p: u32) {
        self.portid = Some(p);
    }
    /// The destination that `connect` set.
    pub(super) fn dst(&self) -> (u32, u32) {
        self.dst
    }
    pub(super) fn set_dst(&mut self, d: (u32, u32)) {
        self.dst = d;
    }
    /// Groups as a bitmap: bit n − 1 for group n.
    pub(super) fn groups(&self) -> u64 {
        self.groups
    }
    /// `bind` replaces the first 32.
    pub(super) fn bind_groups(&mut self, low: u32) {
        self.groups = (self.groups & !0xffff_ffff) | u64::from(low);
    }
    pub(super) fn strict(&self) -> bool {
        self.opt.strict
    }
    pub(super) fn listens_all_nsid(&self) -> bool {
        self.opt.listen_all_nsid
    }
    pub(super) fn sndbuf(&self) -> usize {
        self.sndbuf
    }
    pub(super) fn ack_to(&self) -> AckTo {
        AckTo { portid: self.portid.unwrap_or(0), ext_ack: self.opt.ext_ack, cap_ack: self.opt.cap_ack }
    }

    /// `getsockname(2)`.
    #[must_use]
    pub fn getsockname(&self) -> Vec<u8> {
        sockaddr(self.portid.unwrap_or(0), self.groups as u32)
    }
    /// `getpeername(2)`: netlink answers with where it sends to, the kernel when not connected.
    #[must_use]
    pub fn getpeername(&self) -> Vec<u8> {
        sockaddr(self.dst.0, self.dst.1)
    }

    /// `poll(2)`.
    #[must_use]
    pub fn poll(&self) -> Ready {
        let mut r = Ready::OUT;
        if !self.queue.is_empty() {
            r |= Ready::IN;
        }
        if self.err.is_some() {
            r |= Ready::ERR;
        }
        r
    }

    /// `setsockopt(2)`.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`.
    pub fn setsockopt(&mut self, level: i32, name: i32, val: &[u8]) -> Result<(), Errno> {
        let int = val.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b));
        match level {
            SOL_NETLINK => self.set_netlink(name, int.ok_or(Errno::EINVAL)?.cast_unsigned()),
            SOL_SOCKET => self.set_socket(name, int),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_netlink(&mut self, name: i32, v: u32) -> Result<(), Errno> {
        let on = v != 0;
        match name {
            1 | 2 => {
                if v == 0 || v > GROUPS {
                    return Err(Errno::EINVAL);
                }
                let bit = 1_u64 << (v - 1);
                self.groups = if name == 1 { self.groups | bit } else { self.groups & !bit };
            }
            3 => self.opt.pktinfo = on,
            4 => self.opt.broadcast_error = on,
            5 => {
                self.opt.no_enobufs = on;
                if on {
                    self.congested = false;
                }
            }
            8 => self.opt.listen_all_nsid = on,
            10 => self.opt.cap_ack = on,
            11 => self.opt.ext_ack = on,
            12 => self.opt.strict = on,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn set_socket(&mut self, name: i32, int: Option<i32>) -> Result<(), Errno> {
        // sock_setsockopt: buffers are doubled for bookkeeping, within limits.
        let size = |v: i32, max: usize| usize::try_from(v).unwrap_or(0).min(max).saturating_mul(2).max(2304);
        match name {
            8 => self.rcvbuf = size(int.ok_or(Errno::EINVAL)?, BUF_MAX),
            33 => self.rcvbuf = size(int.ok_or(Errno::EINVAL)?, usize::from(u16::MAX) * 4096),
            7 => self.sndbuf = size(int.ok_or(Errno::EINVAL)?, BUF_MAX).max(4608),
            32 => self.sndbuf = size(int.ok_or(Errno::EINVAL)?, usize::from(u16::MAX) * 4096),
            16 => self.opt.passcred = int.ok_or(Errno::EINVAL)? != 0,
            // Address reuse, priority, mark, time stamps, timeouts, filters: taken, without effect here.
            2 | 9 | 12 | 20 | 21 | 26 | 27 | 29 | 35 | 36 | 63 | 64 | 66 | 67 => {}
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// `getsockopt(2)`, at most `len` bytes.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL` for a short buffer.
    pub fn getsockopt(&mut self, level: i32, name: i32, len: usize) -> Result<Vec<u8>, Errno> {
        let int = |v: i32| v.to_ne_bytes().into_iter().take(len).collect::<Vec<u8>>();
        let flag = |b: bool| if len < 4 { Err(Errno::EINVAL) } else { Ok(int(i32::from(b))) };
        let size = |n: usize| int(i32::try_from(n).unwrap_or(i32::MAX));
        match (level, name) {
            (SOL_NETLINK, 3) => flag(self.opt.pktinfo),
            (SOL_NETLINK, 4) => flag(self.opt.broadcast_error),
            (SOL_NETLINK, 5) => flag(self.opt.no_enobufs),
            (SOL_NETLINK, 8) => flag(self.opt.listen_all_nsid),
            (SOL_NETLINK, 9) => Ok(self.groups.to_le_bytes().into_iter().take(len & !3).collect()),
            (SOL_NETLINK, 10) => flag(self.opt.cap_ack),
            (SOL_NETLINK, 11) => flag(self.opt.ext_ack),
            (SOL_NETLINK, 12) => flag(self.opt.strict),
            (SOL_SOCKET, 3) => Ok(int(crate::kernel::sock_type::RAW)),
            (SOL_SOCKET, 4) => {
                let e = self.err.take();
                Ok(int(e.map_or(0, |e| i32::from(e.0))))
            }
            (SOL_SOCKET, 7) => Ok(size(self.sndbuf)),
            (SOL_SOCKET, 8) => Ok(size(self.rcvbuf)),
            (SOL_SOCKET, 16) => Ok(int(i32::from(self.opt.passcred))),
            (SOL_SOCKET, 30) => Ok(int(0)),
            (SOL_SOCKET, 38) => Ok(int(self.proto)),
            (SOL_SOCKET, 39) => Ok(int(i32::from(AF_NETLINK))),
            // SO_REUSEADDR, BROADCAST, PRIORITY, TIMESTAMP*, MARK, TIMEO, RXQ_OVFL: their defaults.
            (SOL_SOCKET, 2 | 6 | 9 | 10 | 12 | 29 | 35 | 36 | 40 | 63 | 64) => Ok(int(0)),
            (SOL_SOCKET, 20 | 21 | 66 | 67) => Ok(vec![0; len.min(16)]),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// Room for a message from the kernel to this socket alone? If so it is queued, else it is lost and the
    /// program learns it by `ENOBUFS` (`netlink_unicast` without waiting, `netlink_overrun`).
    pub(super) fn unicast(&mut self, data: Vec<u8>, portid: u32) -> bool {
        if self.queued > self.rcvbuf {
            self.overrun();
            return false;
        }
        self.push(Skb { data, group: 0, portid, nsid: None });
        true
    }

    /// Likewise for a message to a group (`netlink_broadcast_deliver`).
    pub(super) fn broadcast(&mut self, data: &[u8], group: u32, nsid: Option<i32>) -> bool {
        if self.queued > self.rcvbuf || self.congested {
            self.overrun();
            return false;
        }
        self.push(Skb { data: data.to_vec(), group, portid: 0, nsid });
        true
    }

    fn push(&mut self, s: Skb) {
        self.queued += s.truesize();
        self.queue.push_back(s);
    }

    /// `netlink_overrun`.
    pub(super) fn overrun(&mut self) {
        if !self.opt.no_enobufs && !self.congested {
            self.congested = true;
            self.err = Some(Errno::ENOBUFS);
        }
        self.drops += 1;
    }

    /// May a dump go on (`netlink_recvmsg`: the queue is at most half full)?
    pub(super) fn dump_has_room(&self) -> bool {
        self.queued <= self.rcvbuf / 2
    }
    /// Bytes the next part of a dump may have (`netlink_dump`).
    pub(super) fn dump_size(&self) -> usize {
        self.max_recvmsg_len.max(DUMP_MIN)
    }

    /// `recvmsg(2)`; call [`super::recvmsg`], which also continues dumps.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing, `ENOBUFS` after messages were lost, `EOPNOTSUPP` for `MSG_OOB`.
    pub fn recvmsg(&mut self, r: RecvReq) -> Result<Received, Errno> {
        if r.flags & msg::OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(e) = self.err.take() {
            return Err(e);
        }
        let peek = r.flags & msg::PEEK != 0;
        let s = self.queue.front().ok_or(Errno::EAGAIN)?;
        self.max_recvmsg_len = self.max_recvmsg_len.max(r.len).min(DUMP_MAX);
        let n = s.data.len().min(r.len);
        let mask = if s.group == 0 || s.group > 32 { 0 } else { 1 << (s.group - 1) };
        let mut flags = 0;
        if n < s.data.len() {
            flags |= msg::TRUNC;
        }
        let (control, cut) = self.control(s, r.control_len);
        if cut {
            flags |= msg::CTRUNC;
        }
        let mut out = Received {
            data: Vec::new(),
            len: s.data.len(),
            name: sockaddr(s.portid, mask),
            control,
            flags,
            ..Received::default()
        };
        if peek {
            out.data = s.data.get(..n).unwrap_or_default().to_vec();
        } else if let Some(mut s) = self.queue.pop_front() {
            self.queued = self.queued.saturating_sub(s.truesize());
            s.data.truncate(n);
            out.data = s.data;
            if self.queue.is_empty() {
                self.congested = false;
            }
        }
        Ok(out)
    }

    /// Control messages: group, namespace, credentials of the kernel.
    fn control(&self, s: &Skb, room: usize) -> (Vec<u8>, bool) {
        let mut out: Vec<u8> = Vec::new();
        let mut cut = false;
        let mut put = |level: i32, ty: i32, data: &[u8]| {
            if out.len() + 16 + data.len() > room {
                cut = true;
                return;
            }
            out.extend_from_slice(&(16 + data.len()).to_ne_bytes());
            out.extend_from_slice(&level.to_ne_bytes());
            out.extend_from_slice(&ty.to_ne_bytes());
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(8).min(room), 0);
        };
        if self.opt.pktinfo {
            put(SOL_NETLINK, 3, &s.group.to_ne_bytes());
        }
        if let (true, Some(id)) = (self.opt.listen_all_nsid, s.nsid) {
            put(SOL_NETLINK, 8, &id.to_ne_bytes());
        }
        if self.opt.passcred {
            // SCM_CREDENTIALS: process 0 and root are the kernel.
            put(SOL_SOCKET, 2, &[0; 12]);
        }
        (out, cut)
    }
}
