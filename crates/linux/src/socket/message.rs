//! Sockets that carry whole messages: UDP, raw, ping, packet.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, Packet, Sysctl};
use ferronet_stack::Namespace;
use ferronet_stack::sock::packet::LinkDest;
use ferronet_stack::sock::{
    self, NewSock, Proto, SockCommon, SockKey, datagram, packet, ping, poll, ports, raw,
};
use ferronet_stack::udp::{self, Dest, MsgOpts};
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use ferronet_wire::{EthHdr, Ipv4Hdr, Ipv6Hdr, UdpHdr};
use slotmap::Key;

use super::{InetSock, addr, cmsg};
use crate::kernel::{Caller, Caps, File, Kernel, Received, RecvReq, SendMsg, SockId, af, sock_type};
use crate::uapi::if_packet::*;
use crate::uapi::socket::*;
use crate::uapi::udp::UDP_GRO;

/// Bytes of `struct sockaddr_ll`.
const SOCKADDR_LL: usize = 20;

/// A parsed `struct sockaddr_ll`. Its family matters to bind(2) alone (`packet_bind`), not to sendto(2).
pub(super) fn parse_ll(b: &[u8]) -> Result<LinkDest, Errno> {
    let b: &[u8; SOCKADDR_LL] = b.first_chunk().ok_or(Errno::EINVAL)?;
    let mut addr = [0; 8];
    addr.copy_from_slice(&b[12..20]);
    Ok(LinkDest {
        protocol: u16::from_be_bytes([b[2], b[3]]),
        dev: IfIndex(u32::from_ne_bytes([b[4], b[5], b[6], b[7]])),
        halen: b[11],
        addr,
    })
}

/// `ARPHRD_*` of a device.
pub(super) fn hatype(ns: &Namespace, dev: IfIndex) -> u16 {
    match ns.devs.get(dev) {
        Some(d) if d.is_loopback() => 772,
        Some(d) if !d.has_ethernet() => 0xfffe,
        Some(_) => 1,
        None => 0,
    }
}

/// Writes a `struct sockaddr_ll`.
pub(super) fn print_ll(protocol: u16, dev: IfIndex, hatype: u16, kind: u8, mac: &[u8]) -> Vec<u8> {
    let mut v = Vec::with_capacity(SOCKADDR_LL);
    v.extend_from_slice(&(af::PACKET as u16).to_ne_bytes());
    v.extend_from_slice(&protocol.to_be_bytes());
    v.extend_from_slice(&dev.0.to_ne_bytes());
    v.extend_from_slice(&hatype.to_ne_bytes());
    v.push(kind);
    v.push(mac.len() as u8);
    v.extend_from_slice(mac);
    v.resize(SOCKADDR_LL, 0);
    v
}

/// Which protocol a `socket(2)` call means.
///
/// # Errors
/// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM`, `EACCES`.
fn choose(ns: &Namespace, c: &Caller<'_>, family: i32, ty: i32, proto: i32) -> Result<(Proto, u8), Errno> {
    let v6 = family == af::INET6;
    if family == af::PACKET {
        return match ty {
            _ if !c.capable(Caps::NET_RAW) => Err(Errno::EPERM),
            sock_type::RAW | sock_type::DGRAM => {
                let s = packet::PacketSock::new(ty == sock_type::DGRAM);
                Ok((Proto::Packet(Box::new(s)), 0))
            }
            _ => Err(Errno::ESOCKTNOSUPPORT),
        };
    }
    if family != af::INET && !v6 {
        return Err(Errno::EAFNOSUPPORT);
    }
    if !(0..263).contains(&proto) {
        return Err(Errno::EINVAL);
    }
    let icmp = i32::from(if v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP });
    match (ty, proto) {
        (sock_type::STREAM, 0 | 6) => Ok((Proto::Tcp(Box::default()), IPPROTO_TCP)),
        (sock_type::DGRAM, 0 | 17) => Ok((Proto::Udp(Box::default()), IPPROTO_UDP)),
        (sock_type::DGRAM, p) if p == icmp => {
            // ping_group_range: an empty range (the default) allows nobody. Inside, the caller's groups are those of
            // the user who started us, so any range allows.
            let [lo, hi, _] = ns.env.sysctl.get3(Sysctl::PingGroupRange);
            if lo > hi {
                return Err(Errno::EACCES);
            }
            Ok((Proto::Ping(Box::default()), icmp as u8))
        }
        (sock_type::RAW, 1..=255) if !c.capable(Caps::NET_RAW) => Err(Errno::EPERM),
        (sock_type::RAW, 1..=255) => {
            let checksum = (v6 && proto == icmp).then_some(raw::ICMPV6_CHECKSUM_AT);
            Ok((Proto::Raw(Box::new(raw::RawSock { checksum, ..Default::default() })), proto as u8))
        }
        (sock_type::STREAM | sock_type::DGRAM | sock_type::RAW, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// An address that belongs to one link binds the socket to its device (`__inet6_bind`, `rawv6_bind`,
/// `__ipv6_addr_needs_scope_id`).
///
/// # Errors
/// `EINVAL` when no device was named, here or before.
pub(super) fn bind_scope(c: &mut SockCommon, a: &addr::InetAddr) -> Result<(), Errno> {
    if !matches!(a.addr, IpAddr::V6(x) if ferronet_stack::ipv6::route::needs_scope_id(x)) {
        return Ok(());
    }
    if !a.scope.is_none() {
        c.bound_dev = a.scope;
    }
    if c.bound_dev.is_none() { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Where the arrival time of a packet lies on the wall clock.
fn wall(ns: &Namespace, p: &Packet) -> u64 {
    let t = if p.meta().tstamp.0 == 0 { ns.env.now } else { p.meta().tstamp };
    ns.env.wall_offset + t.0
}

impl Kernel {
    /// Makes the part behind a descriptor of the internet and packet families; returns it with the protocol.
    pub(super) fn open_inet(
        &mut self,
        c: &Caller<'_>,
        id: SockId,
        family: i32,
        ty: i32,
        proto: i32,
    ) -> Result<(File, i32), Errno> {
        let ns = self.world.ns_mut(c.ns).ok_or(Errno::ENXIO)?;
        let (part, protocol) = choose(ns, c, family, ty, proto)?;
        let is_packet = family == af::PACKET;
        let new = NewSock { family: family as u8, protocol, uid: c.uid, token: id.data().as_ffi() };
        let key = sock::create(ns, new, part)?;
        if is_packet {
            // The protocol comes in network order; the socket receives from all devices until it is bound.
            packet::bind(ns, key, IfIndex::NONE, u16::from_be(proto as u16))?;
        }
        let shown = if is_packet { proto } else { i32::from(protocol) };
        Ok((File::Inet(InetSock { key }), shown))
    }

    /// `bind(2)` of raw and packet sockets; `None` for the others, which have ports.
    pub(super) fn bind_portless(&mut self, s: SockId, name: &[u8]) -> Result<Option<()>, Errno> {
        let family = self.files.get(s).ok_or(Errno::EBADF)?.family;
        let (ns, key) = self.inet(s)?;
        match &ns.socks.socks.get(key).ok_or(Errno::EBADF)?.proto {
            Proto::Packet(_) => {
                let a = parse_ll(name)?;
                if name.first_chunk().is_none_or(|f| u16::from_ne_bytes(*f) != af::PACKET as u16) {
                    return Err(Errno::EINVAL);
                }
                packet::bind(ns, key, a.dev, a.protocol).map(Some)
            }
            Proto::Raw(_) => {
                let a = addr::parse(family, name)?;
                bind_scope(ns.socks.common_mut(key)?, &a)?;
                raw::bind(ns, key, a.addr).map(Some)
            }
            Proto::Tcp(_) | Proto::Udp(_) | Proto::Ping(_) => Ok(None),
        }
    }

    /// `connect(2)` of message sockets.
    pub(super) fn connect_message(&mut self, s: SockId, a: addr::InetAddr) -> Result<(), Errno> {
        let (ns, key) = self.inet(s)?;
        let dest = Dest { addr: a.addr.to_canonical(), port: a.port, scope: a.scope };
        match &ns.socks.socks.get(key).ok_or(Errno::EBADF)?.proto {
            Proto::Packet(_) | Proto::Tcp(_) => Err(Errno::EOPNOTSUPP),
            Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) if a.unspec => {
                udp::disconnect(ns, key);
                Ok(())
            }
            Proto::Udp(_) => udp::connect(ns, key, &dest),
            Proto::Raw(_) => raw::connect(ns, key, &dest),
            Proto::Ping(_) => {
                ports::autobind(ns, key)?;
                raw::connect(ns, key, &dest)
            }
        }
    }

    /// `shutdown(2)` of message sockets: takes effect in any state, but only a connected one says so
    /// (`inet_shutdown`).
    pub(super) fn shutdown_message(&mut self, s: SockId, how: u8) -> Result<(), Errno> {
        let (ns, key) = self.inet(s)?;
        let x = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
        if let Proto::Packet(_) = x.proto {
            return Err(Errno::EOPNOTSUPP);
        }
        x.common.shutdown |= how;
        let connected = x.common.peer.is_some();
        let bits = sock::poll_bits(ns, key) & (poll::IN | poll::RDHUP | poll::HUP | poll::OUT);
        ns.socks.event(key, bits);
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    /// `sendmsg(2)` of message sockets.
    pub(super) fn send_message(&mut self, c: &Caller<'_>, s: SockId, m: SendMsg<'_>) -> Result<usize, Errno> {
        if m.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let family = self.files.get(s).ok_or(Errno::EBADF)?.family;
        let (ns, key) = self.inet(s)?;
        let x = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
        if let Proto::Packet(_) = x.proto {
            let dest = if m.name.is_empty() { None } else { Some(parse_ll(m.name)?) };
            return packet::sendmsg(ns, key, dest, &m.data);
        }
        let mut o = MsgOpts {
            more: m.flags & MSG_MORE != 0,
            dontroute: m.flags & MSG_DONTROUTE != 0,
            confirm: m.flags & MSG_CONFIRM != 0,
            ..MsgOpts::default()
        };
        let dest = if m.name.is_empty() {
            None
        } else {
            let a = addr::parse(family, m.name)?;
            o.flowinfo = a.flowinfo;
            // udpv6_sendmsg: AF_UNSPEC means the peer; for IPv4 it means AF_INET.
            let peer = a.unspec && family == af::INET6;
            (!peer).then(|| Dest { addr: a.addr.to_canonical(), port: a.port, scope: a.scope })
        };
        if let Some(t) = &x.common.opts
            && family == af::INET6
            && let Some((a, dev)) = t.sticky_pktinfo
        {
            o.oif = dev;
            o.saddr = (!a.is_unspecified()).then_some(IpAddr::V6(a));
        }
        if x.common.flags.contains(sock::SockFlags::DONTFRAG6) {
            o.dontfrag = Some(true);
        }
        let to = dest.map(|d| d.addr).or_else(|| x.common.peer.map(|p| p.0.to_canonical()));
        let speaks = match (family, to) {
            (af::INET6, Some(IpAddr::V4(_))) => cmsg::Speaks::Mapped,
            (af::INET6, _) => cmsg::Speaks::Ip6,
            (_, _) => cmsg::Speaks::Ip,
        };
        cmsg::send_opts(m.control, speaks, c.caps, &mut o)?;
        match &x.proto {
            Proto::Udp(_) => udp::sendmsg(ns, key, dest, m.data, &o),
            Proto::Raw(_) => raw::sendmsg(ns, key, dest, m.data, &o),
            Proto::Ping(_) => ping::sendmsg(ns, key, dest, m.data, &o),
            Proto::Tcp(_) | Proto::Packet(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// `recvmsg(2)` of message sockets.
    pub(super) fn recv_message(&mut self, s: SockId, r: RecvReq) -> Result<Received, Errno> {
        let family = self.files.get(s).ok_or(Errno::EBADF)?.family;
        let (ns, key) = self.inet(s)?;
        if r.flags & MSG_ERRQUEUE != 0 {
            return recv_error(ns, key, family, r);
        }
        let x = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
        let kind = kind_of(&x.proto);
        // Facts that are not in the packet, gathered before it is lent out.
        let peek = r.flags & MSG_PEEK != 0;
        let off = peek_off(&x.proto, &x.common);
        let (nth, skip) = match (peek, x.proto.rx()) {
            (true, Some(q)) => q.peek_position(off.unwrap_or(0)),
            (_, _) => (0, 0),
        };
        let front = x.proto.rx().and_then(|q| q.nth(nth));
        let stamp = front.map_or(0, |p| wall(ns, p));
        let drops = x.proto.rx().map_or(0, |q| q.drops);
        let spec = front.map_or(Ipv4Addr::UNSPECIFIED, |p| spec_dst(ns, p));
        let ll = match (&x.proto, front) {
            (Proto::Packet(ps), Some(p)) => Some(link_facts(ns, ps, p)),
            _ => None,
        };
        let show = |p: &Packet, c: &SockCommon| {
            let mut out = Received { len: p.len(), ..Received::default() };
            let mut data = vec![0; r.len.min(p.len() - skip.min(p.len()))];
            let _ = p.copy_bits(skip, &mut data);
            out.data = data;
            let mut w = cmsg::Writer::new(r.control_len);
            cmsg::sock_recv(&mut w, c, p, stamp, drops);
            out.stamp = stamp;
            if let Some(l) = &ll {
                out.name.clone_from(&l.name);
                out.aux = l.aux;
                out.len = l.full as usize;
                if l.auxdata {
                    w.put(SOL_PACKET, PACKET_AUXDATA, &l.aux);
                }
            } else {
                out.name = name_of(family, kind, p);
                if let Kind::Udp { gro: true } = kind
                    && p.meta().gso.size > 0
                {
                    w.put(SOL_UDP, UDP_GRO, &i32::from(p.meta().gso.size).to_ne_bytes());
                }
                cmsg::ip_recv(&mut w, c, p, spec);
            }
            (out.control, out.flags) = w.finish();
            if out.len > out.data.len() + skip {
                out.flags |= MSG_TRUNC;
            }
            out
        };
        let got =
            if peek { datagram::peek_nth(ns, key, nth, show) } else { datagram::recv(ns, key, false, show) }?;
        if let Some(g) = &got {
            if let Some(off) = off {
                move_peek_off(
                    ns,
                    key,
                    if peek { off + g.data.len() } else { off.saturating_sub(g.data.len()) },
                );
            }
            if !peek && let Some(Proto::Packet(ps)) = ns.socks.socks.get_mut(key).map(|x| &mut x.proto) {
                ps.lens.pop_front();
            }
            remember_stamp(ns, key, stamp);
        }
        Ok(got.unwrap_or_default())
    }
}

/// Where MSG_PEEK of a UDP socket reads (`SO_PEEK_OFF`), bytes; `None` while it is off.
fn peek_off(proto: &Proto, c: &SockCommon) -> Option<usize> {
    match proto {
        Proto::Udp(_) => usize::try_from(c.opts.as_ref().map_or(-1, |o| o.peek_off)).ok(),
        Proto::Tcp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => None,
    }
}

/// `sk_peek_offset_fwd`, `sk_peek_offset_bwd`.
fn move_peek_off(ns: &mut Namespace, key: SockKey, off: usize) {
    if let Ok(c) = ns.socks.common_mut(key) {
        c.rare().peek_off = i32::try_from(off).unwrap_or(i32::MAX);
    }
}

/// `SIOCGSTAMP` tells the arrival of the last message; kept only by sockets that have rare options anyway or asked.
fn remember_stamp(ns: &mut Namespace, key: SockKey, stamp: u64) {
    if let Ok(SockCommon { opts: Some(o), .. }) = ns.socks.common_mut(key) {
        o.stamp = stamp;
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Udp { gro: bool },
    Other,
}

fn kind_of(p: &Proto) -> Kind {
    match p {
        Proto::Udp(u) => Kind::Udp { gro: u.gro },
        Proto::Tcp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => Kind::Other,
    }
}

/// The sender's address as the socket shows it.
fn name_of(family: i32, kind: Kind, p: &Packet) -> Vec<u8> {
    let saddr = match p.network().first().map(|b| b >> 4) {
        Some(4) => Ipv4Hdr::view(p.network()).map(|h| IpAddr::V4(h.saddr())),
        _ => Ipv6Hdr::view(p.network()).map(|h| IpAddr::V6(h.saddr())),
    };
    let Some(saddr) = saddr else { return Vec::new() };
    let port = match kind {
        Kind::Udp { .. } => UdpHdr::view(p.transport()).map_or(0, UdpHdr::source),
        Kind::Other => 0,
    };
    addr::print(family, saddr, port, p.meta().iif)
}

/// The address a reply should come from (`fib_compute_spec_dst`): the one spoken to, or for groups the device's own.
fn spec_dst(ns: &Namespace, p: &Packet) -> Ipv4Addr {
    let Some(h) = Ipv4Hdr::view(p.network()).filter(|h| h.version() == 4) else {
        return Ipv4Addr::UNSPECIFIED;
    };
    if ferronet_stack::ipv4::route::is_local(ns, h.daddr()) {
        return h.daddr();
    }
    ferronet_stack::ipv4::route::inet_select_addr(ns, p.meta().iif, h.saddr(), 0).unwrap_or(h.daddr())
}

/// What a packet socket says about a frame.
struct LinkFacts {
    name: Vec<u8>,
    full: u32,
    auxdata: bool,
    aux: [u8; 20],
}

fn link_facts(ns: &Namespace, ps: &packet::PacketSock, p: &Packet) -> LinkFacts {
    let full = ps.lens.front().copied().unwrap_or(p.len() as u32);
    let m = p.meta();
    let link = EthHdr::view(p.at(m.mac)).map(|h| h.h_source.octets());
    let ethernet = ns.devs.get(m.dev).is_some_and(ferronet_stack::dev::Device::has_ethernet);
    let mac: &[u8] = match &link {
        Some(a) if ethernet => a,
        _ => &[],
    };
    let status = TP_STATUS_USER
        | match m.csum {
            ferronet_core::Csum::Partial => TP_STATUS_CSUMNOTREADY,
            ferronet_core::Csum::Unnecessary | ferronet_core::Csum::Complete(_) => TP_STATUS_CSUM_VALID,
            ferronet_core::Csum::None => 0,
        };
    let mut aux = [0; 20];
    aux[..4].copy_from_slice(&status.to_ne_bytes());
    aux[4..8].copy_from_slice(&full.to_ne_bytes());
    aux[8..12].copy_from_slice(&(p.len() as u32).to_ne_bytes());
    // skb_network_offset: 0 where the link header is not given.
    let net = m.network.saturating_sub(p.pos());
    aux[14..16].copy_from_slice(&net.to_ne_bytes());
    LinkFacts {
        name: print_ll(m.protocol, m.dev, hatype(ns, m.dev), m.pkt_type as u8, mac),
        full,
        auxdata: ps.auxdata,
        aux,
    }
}

/// `MSG_ERRQUEUE`: the oldest error with the data that caused it.
fn recv_error(ns: &mut Namespace, key: SockKey, family: i32, r: RecvReq) -> Result<Received, Errno> {
    let c = ns.socks.common_mut(key)?;
    let Some(q) = c.opts.as_mut().map(|o| &mut o.errq) else { return Err(Errno::EAGAIN) };
    let e = q.pop().ok_or(Errno::EAGAIN)?;
    // sock_dequeue_err_skb: SO_ERROR follows the queue.
    let next = q.front().map(|n| n.errno);
    c.err = next;
    let mut w = cmsg::Writer::new(r.control_len);
    cmsg::error(&mut w, c, &e);
    let (control, flags) = w.finish();
    let mut data = e.data;
    let len = data.len();
    data.truncate(r.len);
    let cut = if len > data.len() { MSG_TRUNC } else { 0 };
    let name = addr::print(family, e.dest.0, e.dest.1, e.dev);
    Ok(Received { data, len, name, control, flags: flags | cut | MSG_ERRQUEUE, ..Received::default() })
}
