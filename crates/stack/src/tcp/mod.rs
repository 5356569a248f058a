//! TCP glue: demultiplexing, listeners, the SYN queue, accept, TIME_WAIT, output (`net/ipv4/tcp_ipv4.c`).

use ferronet_core::{DropReason, Packet};

use crate::ns::Namespace;

/// A TCP segment over IPv4, at its header.
pub fn tcp_v4_rcv(ns: &mut Namespace, p: Packet) {
    ns.env.drop(p, DropReason::NoSocket);
}
