//! IPv6 output (`net/ipv6/ip6_output.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A locally made packet from the backlog: look its route up and send it.
pub fn ip6_local_out_queued(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::Ip6Disabled);
}
