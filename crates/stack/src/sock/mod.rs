//! Sockets: the table, demultiplexing, ports, options, events.

pub mod packet;
pub mod ping;
pub mod raw;

use crate::ipv4::icmp::IcmpError;
use crate::ns::Namespace;

/// An ICMP error about a packet of ours; `transport` is the quoted transport header (at least 8 bytes).
pub fn icmp_err(_ns: &mut Namespace, _e: &IcmpError, _transport: &[u8]) {}
