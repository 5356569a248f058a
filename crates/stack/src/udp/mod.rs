//! UDP (`net/ipv4/udp.c`, `net/ipv6/udp.c`): one file set for both families over one table.

mod input;
mod output;
mod table;

#[cfg(test)]
mod tests;

use bytes::BytesMut;
use ferronet_core::IfIndex;

use crate::sock::datagram::RxQueue;

pub use input::{udp_err, udp_rcv, udpv6_rcv};
pub use output::{Dest, abort, connect, disconnect, push_pending, sendmsg};
pub(crate) use output::{check_family, check_pktinfo6, flow_scope, flow_tos, lookup, scope_of};
pub use table::UdpTable;
pub(crate) use table::{hash, unhash};

/// A UDP socket.
#[derive(Debug, Default)]
pub struct UdpSock {
    /// Datagrams that wait, each at its UDP payload.
    pub rx: RxQueue,
    /// IPv4 identification of the last packet to the peer.
    pub ip_id: u16,
    /// `UDP_SEGMENT`; 0 for none.
    pub gso_size: u16,
    /// `UDP_GRO`.
    pub gro: bool,
    /// `UDP_ENCAP`, kept.
    pub encap: i32,
    /// `UDP_NO_CHECK6_TX`.
    pub no_check6_tx: bool,
    /// `UDP_NO_CHECK6_RX`.
    pub no_check6_rx: bool,
    /// `UDP_CORK`.
    pub corkflag: bool,
    /// Data held back by `MSG_MORE` or `UDP_CORK`.
    pub cork: Option<Box<Cork>>,
    /// In the table.
    pub(crate) hashed: bool,
}

/// A datagram in the making.
#[derive(Debug)]
pub struct Cork {
    /// Payload so far.
    pub data: BytesMut,
    /// Where to.
    pub dest: Dest,
}

/// `struct ipcm_cookie`: what one message says beyond the socket's options.
#[derive(Clone, Debug, Default)]
pub struct MsgOpts {
    /// Source address (`IP_PKTINFO`, `IPV6_PKTINFO`).
    pub saddr: Option<core::net::IpAddr>,
    /// `IPV6_PKTINFO` was given with the message: source and device are looked at.
    pub pktinfo: bool,
    /// Device (likewise, or the scope of the address).
    pub oif: IfIndex,
    /// `IP_TTL` / `IPV6_HOPLIMIT`.
    pub ttl: Option<u8>,
    /// `IP_TOS` / `IPV6_TCLASS`.
    pub tos: Option<u8>,
    /// `UDP_SEGMENT`.
    pub gso_size: Option<u16>,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// `SO_PRIORITY`.
    pub priority: Option<u32>,
    /// `MSG_DONTROUTE`.
    pub dontroute: bool,
    /// `IPV6_DONTFRAG`.
    pub dontfrag: Option<bool>,
    /// `MSG_MORE`.
    pub more: bool,
    /// `MSG_PROBE`, `MSG_CONFIRM`: the neighbour was heard of.
    pub confirm: bool,
    /// IPv6 flow label of the address.
    pub flowinfo: u32,
}
