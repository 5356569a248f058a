//! Link emulation on transmit: delay, rate, queue, loss, duplication, reordering (the terms of tc-netem(8)).

use ferronet_core::{IfIndex, Packet};

use crate::ns::Namespace;

/// Settings and state of one emulated link direction.
#[derive(Clone, Debug, Default)]
pub struct Netem {}

/// A frame enters the emulated link.
pub fn enqueue(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    super::tx::dev_hard_start_xmit(ns, p, dev);
}

/// The device's timer fired: frames whose time has come leave.
pub fn on_timer(_ns: &mut Namespace, _dev: IfIndex) {}
