//! Packet sockets (packet(7), `net/packet/af_packet.c`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ferronet_core::{DropReason, Errno, IfIndex, Packet, PktType};
use ferronet_netfilter::Netfilter;
use ferronet_wire::EthHdr;
use ferronet_wire::ethernet::{ETH_HLEN, ETH_P_ALL, MacAddr};

use super::datagram::{RxQueue, charge, filter};
use super::{Proto, SockKey, poll};
use crate::dev::iff;
use crate::ns::Namespace;

/// A packet socket.
#[derive(Debug, Default)]
pub struct PacketSock {
    /// Frames that wait, each at its link header (`SOCK_RAW`) or network header (`SOCK_DGRAM`).
    pub rx: RxQueue,
    /// Length of each frame that waits before the filter cut it.
    pub lens: VecDeque<u32>,
    /// `SOCK_DGRAM`: without link header.
    pub dgram: bool,
    /// EtherType to receive, host order; `ETH_P_ALL` for all, 0 for none.
    pub protocol: u16,
    /// Device bound to; none for all.
    pub dev: IfIndex,
    /// Hooked in (`po->running`).
    running: bool,
    /// Frames received and dropped since the last `PACKET_STATISTICS`.
    pub stats: (u32, u32),
    /// `PACKET_AUXDATA`.
    pub auxdata: bool,
    /// `PACKET_ORIGDEV`.
    pub origdev: bool,
    /// `PACKET_IGNORE_OUTGOING`.
    pub ignore_outgoing: bool,
    /// `PACKET_VERSION`: 0 is TPACKET_V1.
    pub version: i32,
    /// `PACKET_RESERVE`: bytes left free before the link header of each frame in a ring.
    pub reserve: u32,
    /// `PACKET_RX_RING`: frames go to shared memory. The edge owns that memory and moves them there.
    pub ring: Option<RxRing>,
    /// `PACKET_ADD_MEMBERSHIP`: device, type, address.
    memberships: Vec<PacketMreq>,
}

impl PacketSock {
    /// A socket that is not hooked in yet; `dgram` without link headers.
    #[must_use]
    pub fn new(dgram: bool) -> Self {
        PacketSock { dgram, ..Default::default() }
    }
    /// It receives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running
    }
}

/// A receive ring in memory shared with the program (`struct tpacket_req3`), checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxRing {
    /// 0, 1, 2: TPACKET_V1 to V3.
    pub version: i32,
    /// Without link headers (`SOCK_DGRAM`).
    pub dgram: bool,
    /// `PACKET_RESERVE`, bytes.
    pub reserve: u32,
    /// Bytes of a block, a multiple of the page size.
    pub block_size: u32,
    /// Blocks.
    pub block_nr: u32,
    /// Bytes of a frame (V1, V2).
    pub frame_size: u32,
    /// V3: a block that holds frames is handed over at the latest after this many milliseconds.
    pub retire_ms: u32,
    /// V3: bytes of each block that are the program's own.
    pub private: u32,
}

/// `struct packet_mreq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketMreq {
    /// Device.
    pub dev: IfIndex,
    /// `PACKET_MR_*`: multicast 0, promiscuous 1, all multicast 2, unicast 3.
    pub kind: u16,
    /// Address.
    pub addr: [u8; 8],
    /// Bytes of it.
    pub alen: u16,
}

/// Packet sockets.
#[derive(Debug, Default)]
pub struct PacketTable {
    /// All, in order of creation.
    pub list: Vec<SockKey>,
    /// Users of promiscuous mode by device.
    promisc: BTreeMap<IfIndex, u32>,
    /// The one that is sending now: it does not see its own frames.
    sending: Option<SockKey>,
}

/// Memberships of one socket at most.
const MAX_MEMBERSHIPS: usize = 1024;

fn sock_mut(ns: &mut Namespace, key: SockKey) -> Result<&mut PacketSock, Errno> {
    match ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
        Some(Proto::Packet(p)) => Ok(p),
        Some(Proto::Tcp(_) | Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_)) | None => Err(Errno::EBADF),
    }
}

/// Counts the taps of a device, so that the packet path pays one branch when nobody looks.
fn count_taps(ns: &mut Namespace, dev: IfIndex, up: bool) {
    let n = if dev.is_none() {
        &mut ns.devs.taps_all
    } else {
        match ns.devs.get_mut(dev) {
            Some(d) => &mut d.taps,
            None => return,
        }
    };
    *n = if up { *n + 1 } else { n.saturating_sub(1) };
}

/// `bind(2)`: which device and protocol to receive (`packet_do_bind`). Protocol 0 keeps the one it has.
///
/// # Errors
/// `ENODEV` for an unknown device.
pub fn bind(ns: &mut Namespace, key: SockKey, dev: IfIndex, protocol: u16) -> Result<(), Errno> {
    let up = if dev.is_none() { true } else { ns.devs.get(dev).ok_or(Errno::ENODEV)?.is_up() };
    let s = sock_mut(ns, key)?;
    let (was, old) = (s.running, s.dev);
    if protocol != 0 {
        s.protocol = protocol;
    }
    s.dev = dev;
    s.running = s.protocol != 0;
    let now = s.running;
    if was {
        count_taps(ns, old, false);
    }
    if now {
        count_taps(ns, dev, true);
    }
    if !up {
        ns.socks.common_mut(key)?.err = Some(Errno::ENETDOWN);
        ns.socks.event(key, poll::ERR);
    }
    Ok(())
}

/// The socket is closed: its hook and memberships go.
pub(super) fn release(ns: &mut Namespace, key: SockKey) {
    let Ok(s) = sock_mut(ns, key) else { return };
    let (running, dev) = (core::mem::take(&mut s.running), s.dev);
    let memberships = core::mem::take(&mut s.memberships);
    if running {
        count_taps(ns, dev, false);
    }
    for m in memberships {
        drop_membership(ns, m);
    }
    ns.socks.packet.list.retain(|k| *k != key);
}

/// `PACKET_ADD_MEMBERSHIP`.
///
/// # Errors
/// `ENODEV`, `EINVAL` for an unknown type, `ENOBUFS`.
pub fn add_membership(ns: &mut Namespace, key: SockKey, m: PacketMreq) -> Result<(), Errno> {
    if ns.devs.get(m.dev).is_none() {
        return Err(Errno::ENODEV);
    }
    if m.kind > 3 {
        return Err(Errno::EINVAL);
    }
    let s = sock_mut(ns, key)?;
    if s.memberships.len() >= MAX_MEMBERSHIPS {
        return Err(Errno::ENOBUFS);
    }
    s.memberships.push(m);
    if m.kind == 1 {
        *ns.socks.packet.promisc.entry(m.dev).or_insert(0) += 1;
        if let Some(d) = ns.devs.get_mut(m.dev) {
            d.flags |= iff::PROMISC;
        }
    }
    Ok(())
}

/// `PACKET_DROP_MEMBERSHIP`.
///
/// # Errors
/// `EADDRNOTAVAIL` when there is none.
pub fn del_membership(ns: &mut Namespace, key: SockKey, m: PacketMreq) -> Result<(), Errno> {
    let s = sock_mut(ns, key)?;
    let i = s.memberships.iter().position(|x| *x == m).ok_or(Errno::EADDRNOTAVAIL)?;
    s.memberships.remove(i);
    drop_membership(ns, m);
    Ok(())
}

fn drop_membership(ns: &mut Namespace, m: PacketMreq) {
    if m.kind != 1 {
        return;
    }
    let users = ns.socks.packet.promisc.entry(m.dev).or_insert(1);
    *users = users.saturating_sub(1);
    if *users == 0 {
        ns.socks.packet.promisc.remove(&m.dev);
        if let Some(d) = ns.devs.get_mut(m.dev) {
            d.flags &= !iff::PROMISC;
        }
    }
}

/// Copies a packet to the packet sockets that want it. On reception `p` is behind its link header; on
/// transmission (`kind` is `Outgoing`) it is at it (`dev_queue_xmit_nit`).
pub fn deliver_taps(ns: &mut Namespace, p: &Packet, kind: PktType) {
    let outgoing = kind == PktType::Outgoing;
    let dev = p.meta().dev;
    let Some(d) = ns.devs.get(dev) else { return };
    let header = if d.has_ethernet() { ETH_HLEN } else { 0 };
    let hatype = if d.is_loopback() { 772 } else { 1 };
    for i in 0..ns.socks.packet.list.len() {
        let Some(&key) = ns.socks.packet.list.get(i) else { break };
        let Some(s) = ns.socks.socks.get_mut(key) else { continue };
        let Proto::Packet(ps) = &s.proto else { continue };
        let wanted = ps.running
            && (ps.dev.is_none() || ps.dev == dev)
            && (ps.protocol == ETH_P_ALL || (!outgoing && ps.protocol == p.meta().protocol))
            && !(outgoing && (ps.ignore_outgoing || ns.socks.packet.sending == Some(key)));
        if !wanted {
            continue;
        }
        let mut q = p.copy(&mut ns.env.pool);
        let network = q.meta().network;
        let at = match (outgoing, ps.dgram) {
            (true, true) => q.pos() + header as u16,
            (true, false) => q.pos(),
            (false, true) => network,
            (false, false) => q.meta().mac,
        };
        let _ = q.seek(at);
        if outgoing {
            q.meta_mut().pkt_type = PktType::Outgoing;
            if q.meta().tstamp.0 == 0 {
                q.meta_mut().tstamp = ns.env.now;
            }
        }
        let keep = filter(&mut ns.env, &s.common, &q, hatype);
        if keep == 0 {
            // Not of interest: as if it had never been copied.
            ns.env.pool.put(q);
            continue;
        }
        let full = q.len() as u32;
        q.trim(keep);
        let rcvbuf = u32::try_from(s.common.rcvbuf).unwrap_or(0);
        let Proto::Packet(ps) = &mut s.proto else { continue };
        if ps.rx.rmem >= rcvbuf {
            ps.stats.1 = ps.stats.1.saturating_add(1);
            ps.rx.drops = ps.rx.drops.saturating_add(1);
            ns.env.drop(q, DropReason::PacketSockError);
            continue;
        }
        ps.stats.0 = ps.stats.0.saturating_add(1);
        ps.lens.push_back(full);
        let size = charge(&q);
        ps.rx.push(q, size);
        ns.socks.event(key, poll::IN);
    }
}

/// Where a frame goes (`struct sockaddr_ll`).
#[derive(Clone, Copy, Debug)]
pub struct LinkDest {
    /// Device.
    pub dev: IfIndex,
    /// EtherType, host order.
    pub protocol: u16,
    /// Link address, for `SOCK_DGRAM`.
    pub addr: [u8; 8],
    /// Bytes of it.
    pub halen: u8,
}

/// `sendmsg(2)` (`packet_snd`).
///
/// # Errors
/// `ENXIO` without a device, `ENETDOWN`, `EMSGSIZE`, `EINVAL`.
pub fn sendmsg(
    ns: &mut Namespace,
    key: SockKey,
    dest: Option<LinkDest>,
    data: &Bytes,
) -> Result<usize, Errno> {
    let s = sock_mut(ns, key)?;
    let dgram = s.dgram;
    let named = dest.is_some();
    let dest = dest.unwrap_or(LinkDest { dev: s.dev, protocol: s.protocol, addr: [0; 8], halen: 0 });
    let d = ns.devs.get(dest.dev).ok_or(Errno::ENXIO)?;
    if !d.is_up() {
        return Err(Errno::ENETDOWN);
    }
    let header = if d.has_ethernet() { ETH_HLEN } else { 0 };
    let len = data.len();
    let room = d.mtu as usize + if dgram { 0 } else { header + 4 };
    if len > room {
        return Err(Errno::EMSGSIZE);
    }
    // packet_snd does not ask for sll_halen. Without any address only devices that resolve none know a destination (eth_header).
    let nobody = dgram && header > 0 && !named && !d.is_loopback() && d.flags & iff::NOARP == 0;
    if (!dgram && len < header) || nobody {
        return Err(Errno::EINVAL);
    }
    let source = d.mac;
    let c = ns.socks.common(key)?;
    let (mark, priority) = (c.mark, c.priority);
    let mut p = ns.env.pool.from_slice(data);
    let mut protocol = dest.protocol;
    if dgram && header > 0 {
        let [a, b, c, d, e, f, ..] = dest.addr;
        let _ = EthHdr::new(MacAddr([a, b, c, d, e, f]), source, protocol).put(p.push(ETH_HLEN));
    } else if header > 0 && (protocol == 0 || protocol == ETH_P_ALL) {
        protocol = EthHdr::view(p.data()).map_or(0, |h| h.h_proto());
    }
    p.set_mac_header();
    let network = p.pos() + header as u16;
    let m = p.meta_mut();
    (m.network, m.protocol, m.mark, m.priority) = (network, protocol, mark, priority);
    ns.socks.packet.sending = Some(key);
    crate::dev::tx::dev_queue_xmit(ns, p, dest.dev, Netfilter::link_layer_only());
    ns.socks.packet.sending = None;
    Ok(len)
}
