//! Options of UDP (udp(7)), raw (raw(7), RFC 3542) and packet sockets (packet(7)).

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::Namespace;
use ferronet_stack::sock::packet::{self, PacketMreq, PacketSock};
use ferronet_stack::sock::raw::RawSock;
use ferronet_stack::sock::{Proto, SockKey};
use ferronet_stack::udp;
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6};

use crate::socket::tpacket;
use crate::uapi::icmp::*;
use crate::uapi::if_packet::*;
use crate::uapi::in6::IPV6_CHECKSUM;
use crate::uapi::socket::{SOL_ICMPV6, SOL_RAW};
use crate::uapi::udp::*;

use super::{Who, int, to_int, u32_at, udp_mut};

/// `SOL_UDP`, get.
pub(super) fn get_udp(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    let u = udp_mut(ns, w.key)?;
    Ok(int(match name {
        UDP_CORK => i32::from(u.corkflag),
        UDP_ENCAP => u.encap,
        UDP_NO_CHECK6_TX => i32::from(u.no_check6_tx),
        UDP_NO_CHECK6_RX => i32::from(u.no_check6_rx),
        UDP_SEGMENT => i32::from(u.gso_size),
        UDPLITE_SEND_CSCOV | UDPLITE_RECV_CSCOV => 0,
        UDP_GRO => i32::from(u.gro),
        _ => return Err(Errno::ENOPROTOOPT),
    }))
}

/// `SOL_UDP`, set.
pub(super) fn set_udp(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    let v = to_int(val)?;
    let u = udp_mut(ns, w.key)?;
    match name {
        UDP_CORK => {
            u.corkflag = v != 0;
            if v == 0 {
                udp::push_pending(ns, w.key);
            }
        }
        // Encapsulation (ESP in UDP, L2TP) is not here.
        UDP_ENCAP if v != 0 => return Err(Errno::ENOPROTOOPT),
        UDP_ENCAP => {}
        UDP_NO_CHECK6_TX => u.no_check6_tx = v != 0,
        UDP_NO_CHECK6_RX => u.no_check6_rx = v != 0,
        UDP_SEGMENT => u.gso_size = u16::try_from(v).map_err(|_| Errno::EINVAL)?,
        UDP_GRO => u.gro = v != 0,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn raw_mut(ns: &mut Namespace, key: SockKey) -> Result<&mut RawSock, Errno> {
    match ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
        Some(Proto::Raw(r)) => Ok(r),
        Some(Proto::Tcp(_) | Proto::Udp(_) | Proto::Ping(_) | Proto::Packet(_)) | None => {
            Err(Errno::ENOPROTOOPT)
        }
    }
}

/// `SOL_RAW`, `SOL_ICMPV6`, get.
pub(super) fn get_raw(ns: &mut Namespace, w: Who, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    match (level, name) {
        (SOL_RAW, ICMP_FILTER) if w.proto == i32::from(IPPROTO_ICMP) && !w.v6() => {
            let c = ns.socks.common(w.key)?;
            Ok(c.opts.as_ref().map_or(0, |o| o.icmp_filter).to_ne_bytes().to_vec())
        }
        (SOL_RAW, ICMP_FILTER) if !w.v6() => Err(Errno::EOPNOTSUPP),
        (SOL_ICMPV6, ICMPV6_FILTER) if w.v6() && w.proto == i32::from(IPPROTO_ICMPV6) => {
            let c = ns.socks.common(w.key)?;
            let f = c.opts.as_ref().map_or([0; 8], |o| o.icmp6_filter);
            Ok(f.iter().flat_map(|x| x.to_ne_bytes()).collect())
        }
        (SOL_ICMPV6, _) if w.v6() => Err(Errno::EOPNOTSUPP),
        (SOL_RAW, IPV6_CHECKSUM) if w.v6() => Ok(int(raw_mut(ns, w.key)?.checksum.map_or(-1, i32::from))),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// `SOL_RAW`, `SOL_ICMPV6`, set.
pub(super) fn set_raw(ns: &mut Namespace, w: Who, opt: (i32, i32), val: &[u8]) -> Result<(), Errno> {
    match opt {
        (SOL_RAW, ICMP_FILTER) if w.proto == i32::from(IPPROTO_ICMP) && !w.v6() => {
            let o = ns.socks.common_mut(w.key)?.rare();
            let mut b = o.icmp_filter.to_ne_bytes();
            for (x, v) in b.iter_mut().zip(val) {
                *x = *v;
            }
            o.icmp_filter = u32::from_ne_bytes(b);
            Ok(())
        }
        (SOL_RAW, ICMP_FILTER) if !w.v6() => Err(Errno::EOPNOTSUPP),
        (SOL_ICMPV6, ICMPV6_FILTER) if w.v6() && w.proto == i32::from(IPPROTO_ICMPV6) => {
            let f = &mut ns.socks.common_mut(w.key)?.rare().icmp6_filter;
            for (word, b) in f.iter_mut().zip(val.chunks_exact(4)) {
                *word = b.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
            }
            Ok(())
        }
        (SOL_ICMPV6, _) if w.v6() => Err(Errno::EOPNOTSUPP),
        (SOL_RAW, IPV6_CHECKSUM) if w.v6() => set_checksum(ns, w, to_int(val)?),
        (SOL_RAW, _) if w.v6() && val.len() < 4 => Err(Errno::EINVAL),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// `IPV6_CHECKSUM`: offset of the checksum, even; negative for none.
pub(super) fn set_checksum(ns: &mut Namespace, w: Who, v: i32) -> Result<(), Errno> {
    let r = raw_mut(ns, w.key)?;
    if v > 0 && v & 1 != 0 {
        return Err(Errno::EINVAL);
    }
    r.checksum = u16::try_from(v).ok();
    Ok(())
}

/// What `IPV6_CHECKSUM` reads.
pub(super) fn checksum(ns: &mut Namespace, w: Who) -> Result<i32, Errno> {
    Ok(raw_mut(ns, w.key)?.checksum.map_or(-1, i32::from))
}

fn packet_mut(ns: &mut Namespace, key: SockKey) -> Result<&mut PacketSock, Errno> {
    match ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
        Some(Proto::Packet(p)) => Ok(p),
        Some(Proto::Tcp(_) | Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_)) | None => {
            Err(Errno::ENOPROTOOPT)
        }
    }
}

/// `SOL_PACKET`, get.
pub(super) fn get_packet(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    let p = packet_mut(ns, w.key)?;
    Ok(match name {
        PACKET_STATISTICS => {
            let (packets, drops) = core::mem::take(&mut p.stats);
            let mut v = [packets.saturating_add(drops).to_ne_bytes(), drops.to_ne_bytes()].concat();
            if p.version == TPACKET_V3 {
                // struct tpacket_stats_v3: how often the queue froze; ours never does.
                v.extend_from_slice(&[0; 4]);
            }
            v
        }
        PACKET_AUXDATA => int(i32::from(p.auxdata)),
        PACKET_ORIGDEV => int(i32::from(p.origdev)),
        PACKET_VERSION => int(p.version),
        // PACKET_HDRLEN asks with a value, which the edge reads: `tpacket::hdrlen`.
        PACKET_HDRLEN => return Err(Errno::EINVAL),
        PACKET_RESERVE => p.reserve.to_ne_bytes().to_vec(),
        PACKET_COPY_THRESH | PACKET_LOSS | PACKET_VNET_HDR | PACKET_TIMESTAMP | PACKET_FANOUT
        | PACKET_TX_HAS_OFF | PACKET_QDISC_BYPASS | PACKET_VNET_HDR_SZ => int(0),
        PACKET_ROLLOVER_STATS => return Err(Errno::EINVAL),
        PACKET_IGNORE_OUTGOING => int(i32::from(p.ignore_outgoing)),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// `SOL_PACKET`, set. Rings to send from are refused, so that programs send frame by frame.
pub(super) fn set_packet(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    if let PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP = name {
        let addr = val.get(8..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
        let word = u32_at(val, 4)?.to_ne_bytes();
        let m = PacketMreq {
            dev: IfIndex(u32_at(val, 0)?),
            kind: u16::from_ne_bytes([word[0], word[1]]),
            alen: u16::from_ne_bytes([word[2], word[3]]),
            addr,
        };
        return if name == PACKET_ADD_MEMBERSHIP {
            packet::add_membership(ns, w.key, m)
        } else {
            packet::del_membership(ns, w.key, m)
        };
    }
    if let PACKET_STATISTICS | PACKET_HDRLEN | PACKET_ROLLOVER_STATS = name {
        return Err(Errno::ENOPROTOOPT);
    }
    let p = packet_mut(ns, w.key)?;
    if name == PACKET_RX_RING {
        return tpacket::set_rx_ring(p, val);
    }
    let v = to_int(val)?;
    match name {
        PACKET_VERSION | PACKET_RESERVE if p.ring.is_some() => return Err(Errno::EBUSY),
        PACKET_RESERVE => p.reserve = u32::try_from(v).map_err(|_| Errno::EINVAL)?,
        PACKET_COPY_THRESH | PACKET_LOSS | PACKET_TIMESTAMP | PACKET_TX_HAS_OFF | PACKET_QDISC_BYPASS => {}
        PACKET_VNET_HDR | PACKET_VNET_HDR_SZ if v == 0 => {}
        PACKET_VNET_HDR | PACKET_FANOUT_DATA | PACKET_VNET_HDR_SZ => return Err(Errno::EINVAL),
        PACKET_AUXDATA => p.auxdata = v != 0,
        PACKET_ORIGDEV => p.origdev = v != 0,
        PACKET_VERSION if !(TPACKET_V1..=TPACKET_V3).contains(&v) => return Err(Errno::EINVAL),
        PACKET_VERSION => p.version = v,
        PACKET_IGNORE_OUTGOING if !(0..=1).contains(&v) => return Err(Errno::EINVAL),
        PACKET_IGNORE_OUTGOING => p.ignore_outgoing = v != 0,
        PACKET_TX_RING | PACKET_FANOUT => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}
