//! Link emulation on transmit: delay, rate, queue, loss, duplication, reordering (the terms of tc-netem(8)).

/// Settings and state of one emulated link direction.
#[derive(Clone, Debug, Default)]
pub struct Netem {}
