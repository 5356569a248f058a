//! ICMPv6 (RFC 4443, `net/ipv6/icmp.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A packet's neighbour does not answer: tell the sender (`ndisc_error_report`).
pub fn addr_unreachable(ns: &mut Namespace, p: Packet, r: DropReason) {
    ns.env.drop(p, r);
}
