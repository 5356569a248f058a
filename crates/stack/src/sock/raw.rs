//! Raw sockets (raw(7), `net/ipv4/raw.c`).

use ferronet_core::Packet;

use crate::ns::Namespace;

/// Copies an IPv4 packet to the raw sockets of its protocol; `true` when there was one.
pub fn raw_local_deliver(_ns: &mut Namespace, _p: &Packet, _protocol: u8) -> bool {
    false
}
