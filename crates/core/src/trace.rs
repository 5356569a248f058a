//! The packet's way, stage by stage. Off unless somebody looks; one branch on the path then.

use std::collections::VecDeque;

use crate::drop::DropReason;
use crate::ids::IfIndex;
use crate::time::Instant;

/// One step on a packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Came in on a device.
    Rx,
    /// Entered a stage, by its kernel name.
    Stage(&'static str),
    /// Went through a netfilter hook.
    Hook(&'static str),
    /// The type of the route, as `ip route` names it, and its output device.
    Route(&'static str, IfIndex),
    /// Delivered to a socket, by inode.
    Socket(u64),
    /// Left on a device.
    Tx,
    /// Ended.
    Drop(DropReason),
    /// Ended well.
    Consumed,
}

/// A recorded step.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which packet.
    pub id: u32,
    /// When.
    pub at: Instant,
    /// On which device.
    pub dev: IfIndex,
    /// The step.
    pub step: Step,
    /// The first bytes from the network or link header, with [`Step::Rx`], [`Step::Tx`] and [`Step::Drop`].
    pub bytes: Box<[u8]>,
    /// Length on the wire.
    pub len: u32,
}

/// Records kept until somebody takes them.
const LIMIT: usize = 65_536;
/// Bytes of each packet kept.
pub const SNAPLEN: usize = 96;

/// The trace of one namespace.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    next: u32,
    records: VecDeque<Record>,
    /// Records lost because nobody took them.
    pub lost: u64,
}

impl Trace {
    /// Switches recording.
    pub fn enable(&mut self, on: bool) {
        self.on = on;
        if !on {
            self.records.clear();
        }
    }
    /// Is anybody looking?
    #[inline]
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.on
    }
    /// A new packet id, never 0.
    pub fn new_id(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1).max(1);
        self.next
    }
    /// Appends.
    pub fn push(&mut self, r: Record) {
        if self.records.len() >= LIMIT {
            self.records.pop_front();
            self.lost += 1;
        }
        self.records.push_back(r);
    }
    /// Takes what was recorded.
    pub fn take(&mut self) -> impl Iterator<Item = Record> + '_ {
        self.records.drain(..)
    }
}
