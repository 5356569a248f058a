//! Packet sockets (packet(7), `net/packet/af_packet.c`).

use ferronet_core::{Packet, PktType};

use crate::ns::Namespace;

/// Copies a packet to the packet sockets that want it.
pub fn deliver_taps(_ns: &mut Namespace, _p: &Packet, _kind: PktType) {}
