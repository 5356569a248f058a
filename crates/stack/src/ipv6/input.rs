//! IPv6 input (`net/ipv6/ip6_input.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// An IPv6 packet from a device, at its header.
pub fn ipv6_rcv(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::Ip6Disabled);
}
