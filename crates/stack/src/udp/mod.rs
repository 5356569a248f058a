//! UDP (`net/ipv4/udp.c`, `net/ipv6/udp.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A UDP datagram over IPv4, at its header.
pub fn udp_rcv(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::NoSocket);
}
