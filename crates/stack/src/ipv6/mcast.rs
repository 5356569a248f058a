//! Multicast listener discovery (RFC 3810, `net/ipv6/mcast.c`).

use ferronet_core::Packet;
use ferronet_wire::Ipv6Hdr;

use crate::ns::Namespace;

/// A query of a router.
pub fn igmp6_event_query(ns: &mut Namespace, p: Packet, _ip: &Ipv6Hdr) {
    ns.env.consume(p);
}

/// A version 1 report of another listener.
pub fn igmp6_event_report(ns: &mut Namespace, p: Packet, _ip: &Ipv6Hdr) {
    ns.env.consume(p);
}
