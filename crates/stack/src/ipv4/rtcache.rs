//! A small direct-mapped cache in front of the input lookup.
//!
//! Linux gave its unbounded route cache up because senders could make it useless and slow to clean; this one
//! is fixed in size, an entry costs one compare to refuse, and every change of routes, devices or tunables
//! empties it by moving a generation. A sender who defeats it pays the price of a plain lookup, no more.

use core::hash::BuildHasher;
use core::net::Ipv4Addr;

use ferronet_core::IfIndex;
use ferronet_core::hash::KeyedState;
use ferronet_core::rng::Rng;

use crate::fib::Route;

/// What an input lookup depends on besides the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputKey {
    /// Source.
    pub saddr: Ipv4Addr,
    /// Destination.
    pub daddr: Ipv4Addr,
    /// Device it came in on.
    pub dev: IfIndex,
    /// Mark.
    pub mark: u32,
    /// Type of service.
    pub tos: u8,
}

/// Generations of routes, devices and tunables.
pub type Generation = (u64, u64, u64);

const SLOTS: usize = 512;

/// The cache; empty (and without memory) until the first packet.
#[derive(Debug)]
pub struct InputCache {
    slots: Vec<Option<(InputKey, Route)>>,
    generation: Generation,
    hash: KeyedState,
}

impl InputCache {
    /// An empty cache with its own hash key.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        InputCache { slots: Vec::new(), generation: (0, 0, 0), hash: KeyedState::new(rng) }
    }

    #[inline]
    fn slot(&self, k: &InputKey) -> usize {
        let a = u64::from(k.saddr.to_bits()) << 32 | u64::from(k.daddr.to_bits());
        let b = u64::from(k.dev.0) << 32 | u64::from(k.mark ^ u32::from(k.tos));
        self.hash.hash_one((a, b)) as usize % SLOTS
    }

    /// The route found before, if nothing has changed since.
    #[inline]
    #[must_use]
    pub fn get(&self, now: Generation, k: &InputKey) -> Option<Route> {
        if self.generation != now {
            return None;
        }
        match self.slots.get(self.slot(k)) {
            Some(Some((key, r))) if key == k => Some(*r),
            Some(_) | None => None,
        }
    }

    /// Remembers a route.
    pub fn put(&mut self, now: Generation, k: InputKey, r: Route) {
        if self.generation != now || self.slots.is_empty() {
            self.slots.clear();
            self.slots.resize(SLOTS, None);
            self.generation = now;
        }
        let i = self.slot(&k);
        self.slots[i] = Some((k, r));
    }
}
