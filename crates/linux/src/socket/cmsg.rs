//! Control messages, in and out (cmsg(3), `net/core/scm.c`, `net/ipv4/ip_sockglue.c`, `net/ipv6/datagram.c`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::{Errno, IfIndex, Packet};
use ferronet_stack::sock::errqueue::{SockErr, origin};
use ferronet_stack::sock::{SockCommon, SockFlags};
use ferronet_stack::udp::MsgOpts;
use ferronet_wire::{Ipv4Hdr, Ipv6Hdr, UdpHdr};

use super::addr;
use crate::kernel::af;
use crate::uapi::in4::*;
use crate::uapi::in6::*;
use crate::uapi::socket::*;
use crate::uapi::udp::UDP_SEGMENT;

/// Bytes of `struct cmsghdr`.
const HDR: usize = 16;

/// `SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE`.
const TS_RX_SOFTWARE: u32 = 1 << 3 | 1 << 4;

/// Builds the control data of a received message within the room the program gave.
#[derive(Debug)]
pub(super) struct Writer {
    out: Vec<u8>,
    room: usize,
    /// `MSG_*` to report.
    pub(super) flags: i32,
}

impl Writer {
    pub(super) fn new(room: usize) -> Writer {
        Writer { out: Vec::new(), room, flags: 0 }
    }

    /// One message (`put_cmsg`): cut when the room ends, with `MSG_CTRUNC`.
    pub(super) fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.room - self.out.len().min(self.room);
        if left < HDR {
            self.flags |= MSG_CTRUNC;
            return;
        }
        let mut len = HDR + data.len();
        if left < len {
            self.flags |= MSG_CTRUNC;
            len = left;
        }
        self.out.extend_from_slice(&(len as u64).to_ne_bytes());
        self.out.extend_from_slice(&level.to_ne_bytes());
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(data.get(..len - HDR).unwrap_or(data));
        let padded = self.out.len().next_multiple_of(8).min(self.room);
        self.out.resize(padded.max(self.out.len()), 0);
    }

    fn int(&mut self, level: i32, kind: i32, v: i32) {
        self.put(level, kind, &v.to_ne_bytes());
    }

    pub(super) fn finish(self) -> (Vec<u8>, i32) {
        (self.out, self.flags)
    }
}

/// One control message of a program.
struct Cmsg<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

impl Cmsg<'_> {
    fn int(&self) -> Result<i32, Errno> {
        self.data.first_chunk().map(|b| i32::from_ne_bytes(*b)).ok_or(Errno::EINVAL)
    }
    /// `struct in6_pktinfo`: the address, and the device if it names one.
    fn pktinfo6(&self) -> Result<(Ipv6Addr, Option<IfIndex>), Errno> {
        let a: [u8; 16] = self.data.first_chunk().copied().ok_or(Errno::EINVAL)?;
        let dev = self.data.get(16..20).and_then(|x| x.try_into().ok()).map(u32::from_ne_bytes);
        let dev = IfIndex(dev.ok_or(Errno::EINVAL)?);
        Ok((Ipv6Addr::from(a), (!dev.is_none()).then_some(dev)))
    }
    /// An int and nothing else.
    fn exact_int(&self) -> Result<i32, Errno> {
        self.data.try_into().map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL)
    }
    fn addr4(&self, at: usize) -> Result<Ipv4Addr, Errno> {
        let b: [u8; 4] = self.data.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
        Ok(Ipv4Addr::from(b))
    }
}

/// Walks control data (`for_each_cmsghdr`, `CMSG_OK`).
fn parse<'a>(mut b: &'a [u8], f: &mut dyn FnMut(Cmsg<'a>) -> Result<(), Errno>) -> Result<(), Errno> {
    while b.len() >= HDR {
        let (Some(len), Some(level), Some(kind)) = (
            b.first_chunk::<8>().map(|x| u64::from_ne_bytes(*x)),
            b.get(8..12).and_then(|x| x.try_into().ok()).map(i32::from_ne_bytes),
            b.get(12..16).and_then(|x| x.try_into().ok()).map(i32::from_ne_bytes),
        ) else {
            return Err(Errno::EINVAL);
        };
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let data = b.get(HDR..len).ok_or(Errno::EINVAL)?;
        f(Cmsg { level, kind, data })?;
        b = b.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Ok(())
}

/// Which protocol's control messages a `sendmsg` may carry: that of the destination (`udpv6_sendmsg` turns to IPv4 before
/// it looks at them).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Speaks {
    /// IPv4.
    Ip,
    /// IPv4 from an IPv6 socket, which also takes `IPV6_PKTINFO` with a mapped address.
    Mapped,
    /// IPv6.
    Ip6,
}

/// What the control messages of a `sendmsg` say.
///
/// # Errors
/// `EINVAL` for malformed or unknown messages of our levels, `EPERM` for `SO_MARK` without privilege.
pub(super) fn send_opts(
    control: &[u8],
    speaks: Speaks,
    caps: &dyn Fn() -> crate::Caps,
    m: &mut MsgOpts,
) -> Result<(), Errno> {
    parse(control, &mut |c| match c.level {
        SOL_SOCKET => sock_cmsg_send(&c, caps, m),
        SOL_UDP => udp_cmsg_send(&c, m),
        SOL_IP if speaks != Speaks::Ip6 => ip_cmsg_send(&c, m),
        SOL_IPV6 if speaks == Speaks::Ip6 => ip6_cmsg_send(&c, m),
        SOL_IPV6 if speaks == Speaks::Mapped && c.kind == 50 => {
            let (a, dev) = c.pktinfo6()?;
            m.saddr = Some(IpAddr::V4(a.to_ipv4_mapped().ok_or(Errno::EINVAL)?));
            m.oif = dev.unwrap_or(m.oif);
            Ok(())
        }
        _ => Ok(()),
    })
}

/// `__sock_cmsg_send`.
fn sock_cmsg_send(c: &Cmsg<'_>, caps: &dyn Fn() -> crate::Caps, m: &mut MsgOpts) -> Result<(), Errno> {
    match c.kind {
        SO_MARK if !caps().intersects(crate::Caps::NET_RAW | crate::Caps::NET_ADMIN) => {
            return Err(Errno::EPERM);
        }
        SO_MARK => m.mark = Some(c.int()? as u32),
        SO_PRIORITY => m.priority = Some(c.int()? as u32),
        // Accepted, no effect.
        SCM_RIGHTS | SCM_CREDENTIALS | SO_TIMESTAMPING | SO_TIMESTAMPING_NEW | SCM_TXTIME => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn udp_cmsg_send(c: &Cmsg<'_>, m: &mut MsgOpts) -> Result<(), Errno> {
    if c.kind != UDP_SEGMENT || c.data.len() != 2 {
        return Err(Errno::EINVAL);
    }
    m.gso_size = c.data.first_chunk().map(|b| u16::from_ne_bytes(*b));
    Ok(())
}

/// `ip_cmsg_send`.
fn ip_cmsg_send(c: &Cmsg<'_>, m: &mut MsgOpts) -> Result<(), Errno> {
    match c.kind {
        IP_PKTINFO => {
            if c.data.len() != 12 {
                return Err(Errno::EINVAL);
            }
            let ifindex = c.int()? as u32;
            if ifindex != 0 {
                m.oif = IfIndex(ifindex);
            }
            m.saddr = Some(IpAddr::V4(c.addr4(4)?));
        }
        IP_TTL => m.ttl = Some(u8::try_from(c.exact_int()?).ok().filter(|t| *t > 0).ok_or(Errno::EINVAL)?),
        // An int or a byte.
        IP_TOS => {
            let v = if let [b] = c.data { i32::from(*b) } else { c.exact_int()? };
            m.tos = Some(u8::try_from(v).map_err(|_| Errno::EINVAL)?);
        }
        IP_RETOPTS | IP_PROTOCOL => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// `ip6_datagram_send_ctl`.
fn ip6_cmsg_send(c: &Cmsg<'_>, m: &mut MsgOpts) -> Result<(), Errno> {
    let signed = |v: i32| match v {
        -1 => Ok(None),
        0..=255 => Ok(Some(v as u8)),
        _ => Err(Errno::EINVAL),
    };
    match c.kind {
        IPV6_PKTINFO => {
            let (a, dev) = c.pktinfo6()?;
            m.oif = dev.unwrap_or(m.oif);
            m.saddr = (!a.is_unspecified()).then_some(IpAddr::V6(a));
            m.pktinfo = true;
        }
        IPV6_HOPLIMIT => m.ttl = signed(c.int()?)?,
        IPV6_TCLASS => m.tos = signed(c.int()?)?,
        IPV6_DONTFRAG => {
            m.dontfrag = Some(match c.int()? {
                0 => false,
                1 => true,
                _ => return Err(Errno::EINVAL),
            });
        }
        IPV6_FLOWINFO => m.flowinfo = u32::from_be(c.int()? as u32) & 0xf_ffff,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Seconds and nanoseconds as two 64-bit words.
fn timespec(ns: u64, unit: u64) -> [u8; 16] {
    let mut b = [0; 16];
    let (s, f) = b.split_at_mut(8);
    s.copy_from_slice(&(ns / 1_000_000_000).to_ne_bytes());
    f.copy_from_slice(&(ns % 1_000_000_000 / unit).to_ne_bytes());
    b
}

/// What every socket may ask for (`sock_recv_cmsgs`): timestamps, drops, mark, priority. `stamp`: arrival, wall clock.
pub(super) fn sock_recv(w: &mut Writer, c: &SockCommon, p: &Packet, stamp: u64, drops: u32) {
    timestamps(w, c, stamp);
    if c.flags.contains(SockFlags::RXQ_OVFL) && drops > 0 {
        w.put(SOL_SOCKET, SO_RXQ_OVFL, &drops.to_ne_bytes());
    }
    if c.flags.contains(SockFlags::RCVMARK) {
        w.put(SOL_SOCKET, SO_MARK, &p.meta().mark.to_ne_bytes());
    }
    if c.flags.contains(SockFlags::RCVPRIORITY) {
        w.put(SOL_SOCKET, SO_PRIORITY, &p.meta().priority.to_ne_bytes());
    }
}

/// `sock_recv_timestamp`. `stamp`: arrival, wall clock nanoseconds.
fn timestamps(w: &mut Writer, c: &SockCommon, stamp: u64) {
    let new = c.flags.contains(SockFlags::TSTAMP_NEW);
    if c.flags.contains(SockFlags::TIMESTAMPNS) {
        w.put(SOL_SOCKET, if new { SO_TIMESTAMPNS_NEW } else { SO_TIMESTAMPNS }, &timespec(stamp, 1));
    } else if c.flags.contains(SockFlags::TIMESTAMP) {
        w.put(SOL_SOCKET, if new { SO_TIMESTAMP_NEW } else { SO_TIMESTAMP }, &timespec(stamp, 1000));
    }
    if c.opts.as_ref().is_some_and(|o| o.tsflags & TS_RX_SOFTWARE == TS_RX_SOFTWARE) {
        let mut b = [0; 48];
        b[..16].copy_from_slice(&timespec(stamp, 1));
        w.put(SOL_SOCKET, if new { SO_TIMESTAMPING_NEW } else { SO_TIMESTAMPING }, &b);
    }
}

/// What IP sockets may ask for. `spec`: the local address a reply should come from.
pub(super) fn ip_recv(w: &mut Writer, c: &SockCommon, p: &Packet, spec: Ipv4Addr) {
    let dport = UdpHdr::view(p.transport()).map_or(0, UdpHdr::dest);
    match p.network().first().map(|b| b >> 4) {
        Some(4) => {
            let Some(h) = Ipv4Hdr::view(p.network()) else { return };
            if c.is_v6() && c.flags.contains(SockFlags::PKTINFO6) {
                pktinfo6(w, h.daddr().to_ipv6_mapped(), p.meta().iif);
            }
            ip4_recv(w, c, p, h, (spec, dport));
        }
        Some(6) => {
            let Some(h) = Ipv6Hdr::view(p.network()) else { return };
            if c.flags.contains(SockFlags::PKTINFO6) {
                pktinfo6(w, h.daddr(), p.meta().iif);
            }
            if c.flags.contains(SockFlags::RECVHOPLIMIT) {
                w.int(SOL_IPV6, IPV6_HOPLIMIT, i32::from(h.hop_limit()));
            }
            if c.flags.contains(SockFlags::RECVTCLASS) {
                w.int(SOL_IPV6, IPV6_TCLASS, i32::from(h.tclass()));
            }
            if c.flags.contains(SockFlags::FLOWINFO) && h.ver_tc_flow() & 0x0fff_ffff != 0 {
                w.put(SOL_IPV6, IPV6_FLOWINFO, &(h.ver_tc_flow() & 0x0fff_ffff).to_be_bytes());
            }
            if c.flags.contains(SockFlags::RECVORIGDST6) {
                let a = addr::print(af::INET6, IpAddr::V6(h.daddr()), dport, p.meta().iif);
                w.put(SOL_IPV6, IPV6_ORIGDSTADDR, &a);
            }
        }
        _ => {}
    }
}

/// `ip_cmsg_recv_offset`, in its order.
fn ip4_recv(w: &mut Writer, c: &SockCommon, p: &Packet, h: &Ipv4Hdr, (spec, dport): (Ipv4Addr, u16)) {
    if c.flags.contains(SockFlags::PKTINFO) {
        let mut b = [0; 12];
        b[..4].copy_from_slice(&p.meta().iif.0.to_ne_bytes());
        b[4..8].copy_from_slice(&spec.octets());
        b[8..].copy_from_slice(&h.daddr().octets());
        w.put(SOL_IP, IP_PKTINFO, &b);
    }
    if c.flags.contains(SockFlags::RECVTTL) {
        w.int(SOL_IP, IP_TTL, i32::from(h.ttl()));
    }
    if c.flags.contains(SockFlags::RECVTOS) {
        w.put(SOL_IP, IP_TOS, &[h.tos()]);
    }
    let options = p.network().get(Ipv4Hdr::LEN..h.hdr_len()).unwrap_or(&[]);
    if c.flags.contains(SockFlags::RECVOPTS) && !options.is_empty() {
        w.put(SOL_IP, IP_RECVOPTS, options);
    }
    if c.flags.contains(SockFlags::RECVORIGDST) {
        w.put(SOL_IP, IP_ORIGDSTADDR, &addr::print(af::INET, IpAddr::V4(h.daddr()), dport, IfIndex::NONE));
    }
}

fn pktinfo6(w: &mut Writer, a: Ipv6Addr, dev: IfIndex) {
    let mut b = [0; 20];
    b[..16].copy_from_slice(&a.octets());
    b[16..].copy_from_slice(&dev.0.to_ne_bytes());
    w.put(SOL_IPV6, IPV6_PKTINFO, &b);
}

/// An entry of the error queue (`ip_recv_error`, `ipv6_recv_error`): `struct sock_extended_err` and the offender.
/// in front of it what the socket asks to know of each packet, here of the ICMP message.
pub(super) fn error(w: &mut Writer, c: &SockCommon, e: &SockErr) {
    timestamps(w, c, e.stamp);
    match e.to {
        _ if e.origin == origin::LOCAL => {}
        IpAddr::V4(to) => {
            if c.flags.contains(SockFlags::PKTINFO) {
                let mut b = [0; 12];
                b[..4].copy_from_slice(&e.dev.0.to_ne_bytes());
                b[8..].copy_from_slice(&to.octets());
                w.put(SOL_IP, IP_PKTINFO, &b);
            }
            if c.flags.contains(SockFlags::RECVTTL) {
                w.int(SOL_IP, IP_TTL, i32::from(e.ttl));
            }
            if c.flags.contains(SockFlags::RECVTOS) {
                w.put(SOL_IP, IP_TOS, &[e.tos]);
            }
        }
        IpAddr::V6(to) => {
            if c.flags.contains(SockFlags::PKTINFO6) {
                pktinfo6(w, to, e.dev);
            }
            if c.flags.contains(SockFlags::RECVHOPLIMIT) {
                w.int(SOL_IPV6, IPV6_HOPLIMIT, i32::from(e.ttl));
            }
            if c.flags.contains(SockFlags::RECVTCLASS) {
                w.int(SOL_IPV6, IPV6_TCLASS, i32::from(e.tos));
            }
        }
    }
    let family = i32::from(c.family);
    let mut b = Vec::with_capacity(44);
    b.extend_from_slice(&u32::from(e.errno.0).to_ne_bytes());
    b.extend_from_slice(&[e.origin, e.icmp_type, e.code, 0]);
    b.extend_from_slice(&e.info.to_ne_bytes());
    b.extend_from_slice(&[0; 4]);
    let len = if family == af::INET6 { 28 } else { 16 };
    match e.offender {
        Some(a) if e.origin != origin::LOCAL => b.extend(addr::print(family, a, 0, e.dev)),
        _ => b.resize(16 + len, 0),
    }
    if family == af::INET6 {
        w.put(SOL_IPV6, IPV6_RECVERR, &b);
    } else {
        w.put(SOL_IP, IP_RECVERR, &b);
    }
}
