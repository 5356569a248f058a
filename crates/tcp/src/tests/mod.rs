//! Tests: connection scripts, a simulated link, the fast path against the slow one, hostile segments.

mod fuzz;
mod link;
mod script;
mod transfer;

use ferronet_core::mib::MibTable;
use ferronet_core::time::Instant;

use crate::{Config, Cx, Segment, Transmit};

/// What a call needs, owned.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) now: Instant,
    pub(super) cfg: Config,
    pub(super) mib: MibTable,
}

impl Env {
    pub(super) fn new() -> Env {
        // Packets as large as the window allows, so that tests need not think of the pacing rate.
        let cfg = Config { min_tso_segs: 255, ..Config::default() };
        Env { now: Instant::from_millis(1000), cfg, mib: MibTable::default() }
    }
    pub(super) fn cx(&mut self) -> Cx<'_> {
        Cx { now: self.now, cfg: &self.cfg, mib: &mut self.mib }
    }
}

/// The header the peer sees.
pub(super) fn seg_of(t: &Transmit) -> Segment {
    Segment {
        seq: t.seq,
        ack: t.ack,
        flags: t.flags,
        wnd: t.wnd,
        urg: t.urg,
        opts: t.opts,
        len: t.len,
        gso_size: t.gso_size.unwrap_or(0),
        ce: false,
    }
}
