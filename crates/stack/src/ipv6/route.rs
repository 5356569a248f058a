//! IPv6 routing decisions (`net/ipv6/route.c`).

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::Errno;

use crate::fib::{Flow, Route};
use crate::ns::Namespace;

/// A route for local output, and the source address to use.
///
/// # Errors
/// `ENETUNREACH` without a route.
pub fn ip6_route_output(_ns: &Namespace, _flow: &Flow) -> Result<(Route, Ipv6Addr), Errno> {
    Err(Errno::ENETUNREACH)
}

/// The path MTU towards a route.
#[must_use]
pub fn dst_mtu(ns: &Namespace, r: &Route, daddr: IpAddr) -> u32 {
    crate::ipv4::route::dst_mtu(ns, r, daddr)
}
