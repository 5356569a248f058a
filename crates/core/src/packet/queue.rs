//! A queue of packets.

use std::collections::VecDeque;

use super::Packet;

/// A queue that owns packets and may go away with them: sockets, neighbours, reassembly, devices.
#[derive(Debug, Default)]
pub struct PacketQueue(VecDeque<Packet>);

impl PacketQueue {
    /// An empty queue; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        PacketQueue(VecDeque::new())
    }
    /// Appends.
    #[inline]
    pub fn push(&mut self, p: Packet) {
        self.0.push_back(p);
    }
    /// Takes the oldest.
    #[inline]
    pub fn pop(&mut self) -> Option<Packet> {
        self.0.pop_front()
    }
    /// Puts back in front.
    pub fn push_front(&mut self, p: Packet) {
        self.0.push_front(p);
    }
    /// The oldest.
    #[must_use]
    pub fn front(&self) -> Option<&Packet> {
        self.0.front()
    }
    /// How many.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// None?
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Oldest to newest.
    pub fn iter(&self) -> impl Iterator<Item = &Packet> {
        self.0.iter()
    }
}

impl Drop for PacketQueue {
    fn drop(&mut self) {
        for p in self.0.drain(..) {
            p.release();
        }
    }
}
