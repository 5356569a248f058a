//! Path MTU exceptions (`fib_nh_exception`): what ICMP said about a destination, with an end.

use core::net::IpAddr;
use core::time::Duration;

use ferronet_core::Instant;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;

/// Entries at most; beyond it the oldest information is not worth keeping and the cache starts anew.
const LIMIT: usize = 16_384;

/// Learned path MTUs.
#[derive(Debug)]
pub struct PmtuCache {
    map: KeyedMap<IpAddr, (u32, Instant)>,
}

impl PmtuCache {
    /// An empty cache with its own hash key.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        PmtuCache { map: KeyedMap::with_hasher(KeyedState::new(rng)) }
    }
    /// What is known about `dst`, in bytes.
    #[inline]
    #[must_use]
    pub fn get(&self, now: Instant, dst: IpAddr) -> Option<u32> {
        if self.map.is_empty() {
            return None;
        }
        self.map.get(&dst).filter(|e| e.1 > now).map(|e| e.0)
    }
    /// When what is known about `dst` ends.
    #[must_use]
    pub fn expires(&self, now: Instant, dst: IpAddr) -> Option<Instant> {
        self.map.get(&dst).filter(|e| e.1 > now).map(|e| e.1)
    }
    /// Learns `mtu` for `dst`, kept for `ttl` (`mtu_expires`).
    pub fn learn(&mut self, now: Instant, dst: IpAddr, mtu: u32, ttl: Duration) {
        if self.map.len() >= LIMIT && !self.map.contains_key(&dst) {
            self.map.retain(|_, e| e.1 > now);
            if self.map.len() >= LIMIT {
                self.map.clear();
            }
        }
        self.map.insert(dst, (mtu, now + ttl));
    }
    /// Forgets everything (route changes, `ip route flush cache`).
    pub fn flush(&mut self) {
        self.map.clear();
    }
}
