//! Neighbour discovery (RFC 4861, `net/ipv6/ndisc.c`).

use core::net::Ipv6Addr;

use crate::neigh::Probe;
use crate::ns::Namespace;

/// Asks for a neighbour (`ndisc_solicit`).
pub fn ndisc_solicit(_ns: &mut Namespace, _probe: &Probe, _target: Ipv6Addr) {}
