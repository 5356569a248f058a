//! Ping sockets (`IPPROTO_ICMP` datagram sockets, `net/ipv4/ping.c`).

use ferronet_core::Packet;

use crate::ns::Namespace;

/// An echo reply for a ping socket.
pub fn ping_rcv(_ns: &mut Namespace, _p: &Packet) {}
