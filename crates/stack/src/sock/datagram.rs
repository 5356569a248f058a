//! What sockets that take whole messages share: the receive queue with its memory accounting, routes, readiness
//! (`net/core/datagram.c`, `sock_queue_rcv_skb`).

use core::net::IpAddr;

use ferronet_core::{Env, Errno, IfIndex, Packet, PacketQueue};

use super::bpf::BpfAux;
use super::common::pmtudisc;
use super::{Proto, SockCommon, SockKey, poll, shut};
use crate::fib::{Flow, Route};
use crate::ns::Namespace;

/// Messages that wait, and what they cost.
#[derive(Debug, Default)]
pub struct RxQueue {
    queue: PacketQueue,
    /// Bytes accounted for, by Linux's measure (`sk_rmem_alloc`).
    pub rmem: u32,
    /// Messages dropped because there was no room (`sk_drops`).
    pub drops: u32,
    /// Bytes reserved and not in use (`sk_forward_alloc`).
    pub forward_alloc: u32,
    /// Messages that `recv` has taken over from the queue that input fills (UDP's `reader_queue`).
    reader: usize,
    /// Bytes of messages taken from it and not yet given back (UDP's `forward_deficit`).
    deficit: u32,
}

/// Memory is reserved in these units (`PAGE_SIZE`), bytes.
const PAGE: u32 = 4096;

/// What Linux charges for a message with `len` bytes behind the network header (`skb->truesize` of a locally sent
/// datagram, measured on 6.18): the smallest slab that holds it with its overhead (`more` than with IPv4, bytes), or
/// pages beyond 16 KiB.
#[must_use]
pub const fn truesize(len: usize, more: usize) -> u32 {
    const SK_BUFF: u32 = 256;
    let need = len + more + 379;
    let slabs = [576, 1024, 2048, 4096, 8192, 16384];
    let mut i = 0;
    while i < slabs.len() {
        if need <= slabs[i] {
            return SK_BUFF + slabs[i] as u32;
        }
        i += 1;
    }
    832 + len as u32
}

impl RxQueue {
    /// Is there room for `size` more bytes? An empty queue takes anything (`__udp_enqueue_schedule_skb`, 6.18).
    #[must_use]
    pub fn has_room(&self, size: u32, rcvbuf: i32) -> bool {
        let limit = u64::try_from(rcvbuf).unwrap_or(0);
        self.rmem == 0 || u64::from(self.rmem) + u64::from(size) <= limit
    }
    /// Appends; `size` was checked.
    pub fn push(&mut self, p: Packet, size: u32) {
        self.rmem = self.rmem.saturating_add(size);
        if size > self.forward_alloc {
            let more = (size - self.forward_alloc).next_multiple_of(PAGE);
            self.forward_alloc = self.forward_alloc.saturating_add(more);
        }
        self.forward_alloc -= size.min(self.forward_alloc);
        self.queue.push(p);
    }
    /// The oldest.
    #[must_use]
    pub fn front(&self) -> Option<&Packet> {
        self.queue.front()
    }
    /// The `n`th oldest.
    #[must_use]
    pub fn nth(&self, n: usize) -> Option<&Packet> {
        self.queue.iter().nth(n)
    }
    /// Which message lies `off` bytes behind the oldest one's start (`SO_PEEK_OFF`), and how many bytes of it come before
    /// (`__skb_try_recv_from_queue`).
    #[must_use]
    pub fn peek_position(&self, mut off: usize) -> (usize, usize) {
        for (n, p) in self.queue.iter().enumerate() {
            if off == 0 || off < p.len() {
                return (n, off);
            }
            off -= p.len();
        }
        (self.queue.len(), off)
    }
    /// Takes the oldest; `size` tells what it was charged.
    pub fn pop(&mut self, size: impl FnOnce(&Packet) -> u32) -> Option<Packet> {
        let p = self.queue.pop()?;
        // sock_rfree, sk_mem_uncharge: whole pages go back.
        let size = size(&p);
        self.rmem = self.rmem.saturating_sub(size);
        self.forward_alloc = self.forward_alloc.saturating_add(size) % PAGE;
        Some(p)
    }
    /// Bytes that wait for a reader (`udp_rqueue_get`): what was read but not yet given back does not count.
    #[must_use]
    pub fn rqueue(&self) -> u32 {
        self.rmem.saturating_sub(self.deficit)
    }
    /// As `pop` for UDP: what readers take is given back in lots (`udp_rmem_release`, 6.18), so that `rmem` falls when
    /// a quarter of the receive buffer was read or nothing of what was there is left.
    pub fn pop_udp(&mut self, size: impl FnOnce(&Packet) -> u32, rcvbuf: i32) -> Option<Packet> {
        if self.reader == 0 {
            self.reader = self.queue.len();
        }
        let p = self.queue.pop()?;
        self.reader -= 1;
        self.deficit = self.deficit.saturating_add(size(&p));
        if i64::from(self.deficit) >= i64::from(rcvbuf >> 2) || self.reader == 0 {
            let size = core::mem::take(&mut self.deficit);
            self.rmem = self.rmem.saturating_sub(size);
            self.forward_alloc = self.forward_alloc.saturating_add(size);
            // One byte less than there is: a socket in use keeps up to a page.
            self.forward_alloc -= self.forward_alloc.saturating_sub(1) / PAGE * PAGE;
            // With the lock at hand readers take over what has come meanwhile.
            self.reader = self.queue.len();
        }
        Some(p)
    }
    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
    /// Gives all boxes back.
    pub fn purge(&mut self, env: &mut Env) {
        while let Some(p) = self.queue.pop() {
            env.drop(p, ferronet_core::DropReason::SocketClosed);
        }
        (self.rmem, self.forward_alloc, self.reader, self.deficit) = (0, 0, 0, 0);
    }
}

/// Bytes a queued message is charged: a function of its length, so that it need not be stored.
#[must_use]
pub fn charge(p: &Packet) -> u32 {
    // The IPv6 header is 20 bytes longer.
    let six = p.meta().protocol == ferronet_wire::ethernet::ETH_P_IPV6;
    truesize(p.len(), if six { 20 } else { 0 })
}

impl Proto {
    /// The receive queue of message sockets.
    #[must_use]
    pub fn rx(&self) -> Option<&RxQueue> {
        match self {
            Proto::Tcp(_) => None,
            Proto::Udp(s) => Some(&s.rx),
            Proto::Raw(s) => Some(&s.rx),
            Proto::Ping(s) => Some(&s.rx),
            Proto::Packet(s) => Some(&s.rx),
        }
    }
    /// Messages, or a listener's connection requests, that found no room (`sk_drops`).
    #[must_use]
    pub fn drops(&self) -> u32 {
        match self {
            Proto::Tcp(s) => match &s.kind {
                crate::tcp::TcpKind::Listen(l) => l.drops,
                crate::tcp::TcpKind::Closed | crate::tcp::TcpKind::Conn(_) => 0,
            },
            Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => {
                self.rx().map_or(0, |x| x.drops)
            }
        }
    }
    /// The receive queue, to change.
    pub fn rx_mut(&mut self) -> Option<&mut RxQueue> {
        match self {
            Proto::Tcp(_) => None,
            Proto::Udp(s) => Some(&mut s.rx),
            Proto::Raw(s) => Some(&mut s.rx),
            Proto::Ping(s) => Some(&mut s.rx),
            Proto::Packet(s) => Some(&mut s.rx),
        }
    }
}

/// Queues a message on a socket, or gives it back when there is no room (counted in the socket's drops). The charge
/// is [`charge`] of the packet as it is.
pub(crate) fn queue_rcv(ns: &mut Namespace, key: SockKey, p: Packet) -> Result<(), Packet> {
    let Some(s) = ns.socks.socks.get_mut(key) else { return Err(p) };
    let rcvbuf = s.common.rcvbuf;
    let inode = s.common.inode;
    let udp = matches!(s.proto, Proto::Udp(_));
    let Some(rx) = s.proto.rx_mut() else { return Err(p) };
    let size = charge(&p);
    // sock_queue_rcv_skb lets the last message exceed the limit; UDP does not (udp_rmem checks before it adds).
    let room = if udp { rx.has_room(size, rcvbuf) } else { i64::from(rx.rmem) < i64::from(rcvbuf) };
    if !room {
        rx.drops = rx.drops.saturating_add(1);
        return Err(p);
    }
    ns.env.trace(&p, ferronet_core::trace::Step::Socket(inode));
    rx.push(p, size);
    ns.socks.event(key, poll::IN);
    Ok(())
}

/// A pending asynchronous error is reported once, by the first call that follows (udp(7)); that may be a send
/// (`sock_alloc_send_skb`, where the packet is made).
pub(crate) fn pending_error(ns: &mut Namespace, key: SockKey) -> Result<(), Errno> {
    ns.socks.common_mut(key)?.take_err().map_or(Ok(()), Err)
}

/// Shows the oldest message to `f`, and takes it unless `peek`. `Ok(None)`: the program shut reading.
///
/// # Errors
/// The pending error, once; `EAGAIN` when there is nothing.
pub fn recv<R>(
    ns: &mut Namespace,
    key: SockKey,
    peek: bool,
    f: impl FnOnce(&Packet, &SockCommon) -> R,
) -> Result<Option<R>, Errno> {
    if peek {
        return peek_nth(ns, key, 0, f);
    }
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    if let Some(e) = s.common.take_err() {
        return Err(e);
    }
    let shut = s.common.shutdown & shut::RCV != 0;
    let udp = matches!(s.proto, Proto::Udp(_));
    let Some(rx) = s.proto.rx_mut() else { return Err(Errno::EOPNOTSUPP) };
    let got = if udp { rx.pop_udp(charge, s.common.rcvbuf) } else { rx.pop(charge) };
    match got {
        Some(p) => {
            let r = f(&p, &s.common);
            if udp {
                let v4 = p.meta().protocol == ferronet_wire::ethernet::ETH_P_IP;
                ns.env.mib.inc(if v4 {
                    ferronet_core::Mib::UdpInDatagrams
                } else {
                    ferronet_core::Mib::Udp6InDatagrams
                });
            }
            ns.env.pool.put(p);
            Ok(Some(r))
        }
        None if shut => Ok(None),
        None => Err(Errno::EAGAIN),
    }
}

/// Shows the `n`th oldest message and leaves it.
///
/// # Errors
/// As [`recv`].
pub fn peek_nth<R>(
    ns: &mut Namespace,
    key: SockKey,
    n: usize,
    f: impl FnOnce(&Packet, &SockCommon) -> R,
) -> Result<Option<R>, Errno> {
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    if let Some(e) = s.common.take_err() {
        return Err(e);
    }
    let rx = s.proto.rx().ok_or(Errno::EOPNOTSUPP)?;
    match rx.nth(n) {
        Some(p) => Ok(Some(f(p, &s.common))),
        None if s.common.shutdown & shut::RCV != 0 => Ok(None),
        None => Err(Errno::EAGAIN),
    }
}

/// Readiness of a message socket (`datagram_poll`).
#[must_use]
pub fn poll_bits(c: &SockCommon, rx: &RxQueue) -> u16 {
    let mut m = 0;
    if c.err.is_some() || c.opts.as_ref().is_some_and(|o| !o.errq.is_empty()) {
        m |= poll::ERR;
    }
    if c.shutdown & shut::RCV != 0 {
        m |= poll::RDHUP | poll::IN;
    }
    if c.shutdown == shut::RCV | shut::SEND {
        m |= poll::HUP;
    }
    if !rx.is_empty() {
        m |= poll::IN;
    }
    m | poll::OUT
}

/// Runs the socket's filter over a packet from its current position; bytes to keep, 0 to drop (`sk_filter`).
pub(crate) fn filter(env: &mut Env, c: &SockCommon, p: &Packet, hatype: u16) -> usize {
    let Some(f) = c.opts.as_ref().and_then(|o| o.filter.as_ref()) else { return usize::MAX };
    let m = p.meta();
    let aux = BpfAux {
        protocol: m.protocol,
        pkt_type: m.pkt_type as u8,
        ifindex: m.dev.0,
        hatype,
        mark: m.mark,
        rxhash: m.hash,
        vlan_tci: m.vlan,
        random: env.rng.next_u32(),
    };
    f.run(p, &aux) as usize
}

/// The route and source address of a flow in either family.
///
/// # Errors
/// As [`crate::ipv4::route::ip_route_output`] and [`crate::ipv6::route::ip6_route_output`].
pub fn route_output(ns: &Namespace, flow: &Flow) -> Result<(Route, IpAddr), Errno> {
    match flow.dst {
        IpAddr::V4(_) => crate::ipv4::route::ip_route_output(ns, flow).map(|(r, s)| (r, IpAddr::V4(s))),
        IpAddr::V6(_) => crate::ipv6::route::ip6_route_output(ns, flow).map(|(r, s)| (r, IpAddr::V6(s))),
    }
}

/// Largest packet towards a destination that the socket may send: the path's MTU, or the device's when the socket
/// probes (`ip_sk_use_pmtu`).
pub(crate) fn path_mtu(ns: &Namespace, c: &SockCommon, r: &Route, daddr: IpAddr) -> usize {
    let mode = if daddr.is_ipv6() { c.pmtudisc6 } else { c.pmtudisc };
    if mode >= pmtudisc::PROBE {
        return ns.devs.get(r.dev).map_or(1500, |d| d.mtu.min(65535)) as usize;
    }
    match daddr {
        IpAddr::V4(_) => crate::ipv4::route::dst_mtu(ns, r, daddr) as usize,
        IpAddr::V6(_) => crate::ipv6::route::dst_mtu(ns, r, daddr) as usize,
    }
}

/// The local sender may fragment (`ip_sk_ignore_df`).
#[must_use]
pub(crate) fn ignore_df(mode: u8) -> bool {
    mode < pmtudisc::DO || mode == pmtudisc::OMIT
}

/// The device a socket's packets leave by, when it says so: the one it is bound to, or for groups and unicast the
/// one of its options.
pub(crate) fn output_dev(c: &SockCommon, dst: IpAddr, oif: IfIndex) -> IfIndex {
    if !oif.is_none() {
        return oif;
    }
    if !c.bound_dev.is_none() {
        return c.bound_dev;
    }
    let Some(o) = &c.opts else { return IfIndex::NONE };
    match dst {
        IpAddr::V4(a) if a.is_multicast() => o.mc_index,
        IpAddr::V6(a) if a.is_multicast() => o.mc6_index,
        IpAddr::V4(_) | IpAddr::V6(_) => o.uc_index,
    }
}
