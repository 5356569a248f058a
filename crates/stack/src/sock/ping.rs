//! Ping sockets (`IPPROTO_ICMP` datagram sockets, `net/ipv4/ping.c`).

use ferronet_core::{Packet, PacketQueue};

use crate::ipv4::icmp::IcmpError;
use crate::ns::Namespace;

/// A ping socket.
#[derive(Debug, Default)]
pub struct PingSock {
    /// Replies that wait, each at its ICMP header.
    pub rx: PacketQueue,
    /// Bytes they account for.
    pub rmem: u32,
    /// Replies dropped.
    pub drops: u32,
}

/// An echo reply for a ping socket.
pub fn ping_rcv(_ns: &mut Namespace, _p: &Packet) {}

/// An ICMP error about an echo request.
pub fn ping_err(_ns: &mut Namespace, _e: &IcmpError, _transport: &[u8]) {}
