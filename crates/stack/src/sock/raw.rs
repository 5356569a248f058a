//! Raw sockets (raw(7), `net/ipv4/raw.c`).

use ferronet_core::{Packet, PacketQueue};

use super::SockKey;
use crate::ipv4::icmp::IcmpError;
use crate::ns::Namespace;

/// A raw socket.
#[derive(Debug, Default)]
pub struct RawSock {
    /// Packets that wait, each at its IP header (IPv4) or transport header (IPv6).
    pub rx: PacketQueue,
    /// Bytes they account for.
    pub rmem: u32,
    /// Packets dropped.
    pub drops: u32,
    /// `IPV6_CHECKSUM`: offset of the checksum to fill in and check; -1 for none.
    pub checksum: i32,
}

/// Raw sockets by protocol.
#[derive(Debug, Default)]
pub struct RawTable {
    /// Sorted by family, protocol, then creation.
    pub list: Vec<(u8, u8, SockKey)>,
}

/// Copies an IPv4 packet to the raw sockets of its protocol; `true` when there was one.
pub fn raw_local_deliver(_ns: &mut Namespace, _p: &Packet, _protocol: u8) -> bool {
    false
}

/// An ICMP error for raw sockets.
pub fn raw_icmp_error(_ns: &mut Namespace, _e: &IcmpError, _transport: &[u8]) {}
/// Copies an IPv6 packet, at its transport header, to the raw sockets of its protocol; `true` when there was one.
pub fn raw6_local_deliver(_ns: &mut Namespace, _p: &Packet, _nexthdr: u8) -> bool {
    false
}
