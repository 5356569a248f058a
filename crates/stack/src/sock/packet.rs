//! Packet sockets (packet(7), `net/packet/af_packet.c`).

use ferronet_core::{Packet, PacketQueue, PktType};

use super::SockKey;
use crate::ns::Namespace;

/// A packet socket.
#[derive(Debug, Default)]
pub struct PacketSock {
    /// Frames that wait.
    pub rx: PacketQueue,
    /// Bytes they account for.
    pub rmem: u32,
    /// Frames dropped since the last `PACKET_STATISTICS`.
    pub drops: u32,
}

/// Packet sockets.
#[derive(Debug, Default)]
pub struct PacketTable {
    /// In order of creation.
    pub list: Vec<SockKey>,
}

/// Copies a packet to the packet sockets that want it.
pub fn deliver_taps(_ns: &mut Namespace, _p: &Packet, _kind: PktType) {}
