//! Input: from an IP packet to its owner (`tcp_v4_rcv`, `tcp_v6_rcv`).

use core::net::IpAddr;

use ferronet_core::{DropReason, IfIndex, Mib, Packet, PktType};
use ferronet_tcp::{Payload, Segment, reset_for};
use ferronet_wire::checksum::{csum_ipv6_nofold, csum_tcpudp_nofold};
use ferronet_wire::ipproto::IPPROTO_TCP;
use ferronet_wire::{Ipv4Hdr, Ipv6Hdr, TcpFlags, TcpHdr, TcpOptions};

use super::{FourTuple, Owner};
use crate::ipv4::input::checksum_ok;
use crate::ns::Namespace;

/// A TCP segment over IPv4, at its header.
pub fn tcp_v4_rcv(ns: &mut Namespace, p: Packet) {
    let Some(ip) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::TcpHdr);
        return;
    };
    let pseudo = csum_tcpudp_nofold(ip.saddr(), ip.daddr(), p.len() as u32, IPPROTO_TCP, 0);
    let ends = (IpAddr::V4(ip.daddr()), IpAddr::V4(ip.saddr()));
    tcp_rcv(ns, p, ends, pseudo, ip.ecn() == 3);
}

/// A TCP segment over IPv6, at its header.
pub fn tcp_v6_rcv(ns: &mut Namespace, p: Packet) {
    let Some(ip) = Ipv6Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::TcpHdr);
        return;
    };
    let pseudo = csum_ipv6_nofold(&ip.saddr(), &ip.daddr(), p.len() as u32, IPPROTO_TCP, 0);
    let ends = (IpAddr::V6(ip.daddr()), IpAddr::V6(ip.saddr()));
    tcp_rcv(ns, p, ends, pseudo, ip.ecn() == 3);
}

/// What came, with where it belongs.
pub(super) struct Incoming {
    pub(super) seg: Segment,
    pub(super) tuple: FourTuple,
    pub(super) dev: IfIndex,
    pub(super) hdr_len: usize,
    /// Sum of addresses and ports, for choosing among a SO_REUSEPORT group.
    pub(super) hash: u64,
}

fn tcp_rcv(ns: &mut Namespace, mut p: Packet, ends: (IpAddr, IpAddr), pseudo: u32, ce: bool) {
    if p.meta().pkt_type != PktType::Host {
        // A unicast frame with an IP destination that is not unicast is counted and never answered (tcp_v4_rcv tests
        // pkt_type, tcp_v4_send_reset the route's type).
        let alone = ferronet_wire::ethernet::EthHdr::view(p.at(p.meta().mac))
            .is_some_and(|e| p.meta().mac != 0 && !e.h_dest.is_broadcast() && !e.h_dest.is_multicast());
        if alone {
            ns.env.mib.add(Mib::TcpInSegs, u64::from(p.meta().gso.segs.max(1)));
        }
        ns.env.drop(p, DropReason::OtherHost);
        return;
    }
    ns.env.mib.add(Mib::TcpInSegs, u64::from(p.meta().gso.segs.max(1)));
    let Some(inc) = parse(&mut p, ends, ce) else {
        ns.env.drop(p, DropReason::TcpHdr);
        return;
    };
    if !checksum_ok(&mut p, pseudo) {
        ns.env.mib.inc(Mib::TcpInErrs);
        ns.env.drop(p, DropReason::TcpCsum);
        return;
    }
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let v6 = inc.tuple.laddr.is_ipv6();
    ns.env.stage(&p, if v6 { "tcp_v6_rcv" } else { "tcp_v4_rcv" });
    match ns.socks.tcp.established(&inc.tuple) {
        Some(Owner::Sock(key)) => to_connection(ns, p, key, &inc),
        Some(Owner::Request(key)) => super::listen::tcp_check_req(ns, p, key, &inc),
        Some(Owner::TimeWait(key)) => super::timewait::tcp_timewait_rcv(ns, p, key, &inc),
        None => to_listener(ns, p, &inc),
    }
}

/// RFC 9293 §3.1; options as `tcp_parse_options`.
fn parse(p: &mut Packet, ends: (IpAddr, IpAddr), ce: bool) -> Option<Incoming> {
    if !p.may_pull(TcpHdr::LEN) {
        return None;
    }
    let hdr_len = TcpHdr::view(p.data())?.hdr_len();
    if hdr_len < TcpHdr::LEN || !p.may_pull(hdr_len) {
        return None;
    }
    p.set_transport_header(0);
    let h = TcpHdr::view(p.data())?;
    let mut opts = TcpOptions::parse(ferronet_wire::tcp::option_bytes(p.data()));
    if !h.flags().contains(TcpFlags::SYN) {
        // These have a meaning on SYN segments only.
        (opts.mss, opts.wscale, opts.sack_permitted) = (None, None, false);
    }
    let seg = Segment {
        seq: h.seq(),
        ack: h.ack_seq(),
        flags: h.flags(),
        wnd: h.window(),
        urg: h.urg_ptr(),
        opts,
        len: (p.len() - hdr_len) as u32,
        gso_size: p.meta().gso.size,
        ce,
    };
    let (laddr, raddr) = ends;
    let tuple = FourTuple { laddr, lport: h.dest(), raddr, rport: h.source() };
    let hash = u64::from(h.source()).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ match raddr {
            IpAddr::V4(a) => u64::from(a.to_bits()).wrapping_mul(0xBF58_476D_1CE4_E5B9),
            IpAddr::V6(a) => (a.to_bits() as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9),
        };
    Some(Incoming { seg, tuple, dev: p.meta().iif, hdr_len, hash: hash ^ (hash >> 32) })
}

/// Does the socket's filter refuse the segment (`tcp_filter`)? It is whole or not at all here: the kernel cuts it as far as
/// the filter says, which nobody can use for a stream.
fn filtered(ns: &mut Namespace, key: crate::sock::SockKey, p: &Packet) -> bool {
    let Some(s) = ns.socks.socks.get(key) else { return false };
    s.common.opts.as_ref().is_some_and(|o| o.filter.is_some())
        && crate::sock::datagram::filter(&mut ns.env, &s.common, p, 1) == 0
}

/// A segment for a full socket.
pub(super) fn to_connection(ns: &mut Namespace, mut p: Packet, key: crate::sock::SockKey, inc: &Incoming) {
    if filtered(ns, key, &p) {
        ns.env.drop(p, DropReason::SocketFilter);
        return;
    }
    let mut payload = Payload::new();
    p.take_payload(inc.hdr_len, &mut payload);
    let seg = inc.seg;
    match super::tx::with_tcb(ns, key, |tcb, cx| tcb.rcv(cx, &seg, payload)) {
        Some(Ok(())) => {
            if ns.env.trace.enabled() {
                let inode = ns.socks.socks.get(key).map_or(0, |s| s.common.inode);
                ns.env.trace(&p, ferronet_core::trace::Step::Socket(inode));
            }
            ns.env.consume(p);
        }
        Some(Err(reason)) => ns.env.drop(p, reason),
        None => {
            ns.env.drop(p, DropReason::TcpClosed);
            return;
        }
    }
    super::tx::tcp_push(ns, key);
}

/// No connection: a listener, or nobody (RFC 9293 §3.10.7.1 and §3.10.7.2).
pub(super) fn to_listener(ns: &mut Namespace, p: Packet, inc: &Incoming) {
    let Some(key) = super::demux::lookup_listener(&ns.socks, &inc.tuple, inc.dev, inc.hash) else {
        no_socket(ns, p, inc);
        return;
    };
    if filtered(ns, key, &p) {
        ns.env.drop(p, DropReason::SocketFilter);
        return;
    }
    super::listen::tcp_rcv_listen(ns, p, key, inc);
}

/// A segment for which there is no socket is answered with a reset.
pub(super) fn no_socket(ns: &mut Namespace, p: Packet, inc: &Incoming) {
    send_reset(ns, inc);
    ns.env.drop(p, DropReason::NoSocket);
}

/// `tcp_v4_send_reset` for a segment without connection.
pub(super) fn send_reset(ns: &mut Namespace, inc: &Incoming) {
    if let Some(t) = reset_for(&inc.seg) {
        let oif = if link_local(inc.tuple.raddr) { inc.dev } else { IfIndex::NONE };
        super::tx::send_unbound(ns, t, inc.tuple, (oif, 0, 0));
    }
}

pub(super) fn link_local(a: IpAddr) -> bool {
    matches!(a, IpAddr::V6(a) if a.is_unicast_link_local())
}
