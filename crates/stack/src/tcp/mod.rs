//! TCP glue: demultiplexing, listeners, the SYN queue, accept, TIME_WAIT, output (`net/ipv4/tcp_ipv4.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A TCP segment over IPv4, at its header.
pub fn tcp_v4_rcv(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::NoSocket);
}

/// Addresses and ports of a connection, as seen from this host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FourTuple {
    /// Our address.
    pub laddr: core::net::IpAddr,
    /// Our port.
    pub lport: u16,
    /// The peer's address.
    pub raddr: core::net::IpAddr,
    /// The peer's port.
    pub rport: u16,
}

/// A program's TCP socket.
#[derive(Debug, Default)]
pub struct TcpSock {}

impl TcpSock {
    /// In LISTEN?
    #[must_use]
    pub fn is_listening(&self) -> bool {
        false
    }
}

/// TCP's tables of one namespace.
#[derive(Debug)]
pub struct TcpTables {}

impl TcpTables {
    /// Empty tables with fresh keys.
    #[must_use]
    pub fn new(_rng: &mut ferronet_core::rng::Rng) -> Self {
        TcpTables {}
    }
}

/// May connect(2) take this four-tuple: free, or in a TIME_WAIT that may be reused (which ends it)?
pub fn connect_may_use(_ns: &mut Namespace, _t: &FourTuple) -> bool {
    true
}

/// An ICMP error about a segment of ours; `transport` is the quoted header.
pub fn tcp_err(_ns: &mut Namespace, _e: &crate::ipv4::icmp::IcmpError, _transport: &[u8]) {}
