//! IPv6 output (`net/ipv6/ip6_output.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A locally made packet from the backlog: look its route up and send it.
pub fn ip6_local_out_queued(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::Ip6Disabled);
}

/// What the IPv6 header of a local packet says.
#[derive(Clone, Copy, Debug)]
pub struct Ip6Header {
    /// Source.
    pub saddr: core::net::Ipv6Addr,
    /// Destination.
    pub daddr: core::net::Ipv6Addr,
    /// Payload protocol.
    pub protocol: u8,
    /// Traffic class.
    pub tclass: u8,
    /// Hop limit; 0 for the route's or the default.
    pub hop_limit: u8,
    /// Flow label.
    pub flowlabel: u32,
}

/// Adds the header to a transport packet and sends it (`ip6_xmit`).
pub fn ip6_xmit(ns: &mut Namespace, p: Packet, _h: &Ip6Header, _r: crate::fib::Route) {
    ns.env.drop(p, DropReason::Ip6Disabled);
}
