//! Neighbour discovery (RFC 4861, `net/ipv6/ndisc.c`).

use core::net::Ipv6Addr;

use crate::neigh::Probe;
use crate::ns::Namespace;

/// Asks for a neighbour (`ndisc_solicit`).
pub fn ndisc_solicit(_ns: &mut Namespace, _probe: &Probe, _target: Ipv6Addr) {}

/// A neighbour discovery message for this host (`ndisc_rcv`).
pub fn ndisc_rcv(ns: &mut Namespace, p: ferronet_core::Packet, _ip: &ferronet_wire::Ipv6Hdr, _kind: u8) {
    ns.env.drop(p, ferronet_core::DropReason::NdiscInvalid);
}

/// Tells a host on the link that a better first hop exists (`ndisc_send_redirect`).
pub fn ndisc_send_redirect(_ns: &mut Namespace, _p: &ferronet_core::Packet, _r: &crate::fib::Route) {}
