//! IPv6 reassembly (RFC 8200 §4.5, `net/ipv6/reassembly.c`).

use ferronet_core::Packet;

use crate::ns::Namespace;

/// The first fragment of a datagram that did not become complete in time.
pub fn frag_expired(_ns: &mut Namespace, _p: &Packet) {}
