//! A small direct-mapped cache in front of the input lookup.
//!
//! Linux gave its unbounded route cache up because senders could make it useless and slow to clean; this one
//! is fixed in size, an entry costs one compare to refuse, and every change of routes, devices or tunables
//! empties it by moving a generation. A sender who defeats it pays the price of a plain lookup, no more.

use core::net::Ipv4Addr;

use ferronet_core::IfIndex;

use crate::fib::Route;

/// What an input lookup depends on besides the tables, in three words that compare fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputKey {
    /// Source and destination.
    addrs: u64,
    /// Device and mark.
    from: u64,
    tos: u8,
}

impl InputKey {
    /// The key of a packet that came in on `dev`.
    #[inline]
    #[must_use]
    pub fn new(saddr: Ipv4Addr, daddr: Ipv4Addr, tos: u8, dev: IfIndex, mark: u32) -> Self {
        InputKey {
            addrs: u64::from(saddr.to_bits()) << 32 | u64::from(daddr.to_bits()),
            from: u64::from(dev.0) << 32 | u64::from(mark),
            tos,
        }
    }
    /// Source.
    #[must_use]
    pub fn saddr(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addrs >> 32) as u32)
    }
    /// Destination.
    #[must_use]
    pub fn daddr(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addrs as u32)
    }
    /// Type of service.
    #[must_use]
    pub fn tos(&self) -> u8 {
        self.tos
    }
}

/// Generations of routes, devices and tunables.
pub type Generation = (u64, u64, u64);

const SLOTS: usize = 512;

/// The cache; empty (and without memory) until the first packet.
#[derive(Debug, Default)]
pub struct InputCache {
    slots: Vec<Option<(InputKey, Route)>>,
    generation: Generation,
}

impl InputCache {
    #[inline]
    fn slot(k: &InputKey) -> usize {
        // Fibonacci hashing: quick, and secret enough for a cache, since a sender who makes entries collide
        // only pays with plain lookups.
        let k = k.addrs ^ k.from.rotate_left(17) ^ u64::from(k.tos);
        (k.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % SLOTS
    }

    /// The route found before, if nothing has changed since.
    #[inline]
    #[must_use]
    pub fn get(&self, now: Generation, k: &InputKey) -> Option<&Route> {
        if self.generation != now {
            return None;
        }
        match self.slots.get(Self::slot(k)) {
            Some(Some((key, r))) if key == k => Some(r),
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
        let i = Self::slot(&k);
        self.slots[i] = Some((k, r));
    }
}
