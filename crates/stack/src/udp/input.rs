//! UDP input (`__udp4_lib_rcv`, `__udp6_lib_rcv`).

use ferronet_core::{DropReason, Packet};

use crate::ipv4::icmp::IcmpError;
use crate::ns::Namespace;

/// A UDP datagram over IPv4, at its header.
pub fn udp_rcv(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::NoSocket);
}

/// A UDP datagram over IPv6, at its header.
pub fn udpv6_rcv(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::NoSocket);
}

/// An ICMP error about a datagram of ours; `transport` is the quoted UDP header.
pub fn udp_err(_ns: &mut Namespace, _e: &IcmpError, _transport: &[u8]) {}
