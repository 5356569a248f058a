//! Neighbours used lately: saves the keyed hash and the probe of the table for nearly every packet.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::{IfIndex, Instant};
use ferronet_wire::MacAddr;
use slotmap::Key;

use super::{NeighId, NeighKey, NeighTable, nud};

/// Entries of each family.
const HOT: usize = 16;

/// Direct-mapped by the last bits of the address, in which neighbours of a link differ. No secret is needed, as the
/// table stands behind: a key that is not here costs one plain lookup.
#[derive(Debug)]
pub(super) struct Hot {
    /// Device and address in one word; 0 for none, as no device has index 0.
    v4: [(u64, NeighId); HOT],
    v6: [(IfIndex, Ipv6Addr, NeighId); HOT],
}

impl Default for Hot {
    fn default() -> Self {
        let id = NeighId::null();
        Hot { v4: [(0, id); HOT], v6: [(IfIndex::NONE, Ipv6Addr::UNSPECIFIED, id); HOT] }
    }
}

#[inline]
fn word(dev: IfIndex, a: Ipv4Addr) -> u64 {
    u64::from(dev.0) << 32 | u64::from(a.to_bits())
}

#[inline]
fn slot(dev: IfIndex, low: u32) -> usize {
    (low ^ dev.0 << 2) as usize % HOT
}

impl Hot {
    /// The entry is gone.
    pub(super) fn forget(&mut self, k: &NeighKey) {
        match k.addr {
            IpAddr::V4(a) => self.v4[slot(k.dev, a.to_bits())].0 = 0,
            IpAddr::V6(a) => self.v6[slot(k.dev, a.to_bits() as u32)].0 = IfIndex::NONE,
        }
    }
}

impl NeighTable {
    /// The link address of an entry that may be used as it is: the fast path of [`NeighTable::resolve`].
    #[inline]
    pub fn ready(&mut self, now: Instant, key: NeighKey) -> Option<MacAddr> {
        match key.addr {
            IpAddr::V4(a) => self.ready_v4(now, key.dev, a),
            IpAddr::V6(a) => self.ready_v6(now, key.dev, a),
        }
    }

    /// Likewise, for an IPv4 neighbour.
    #[inline(always)]
    pub fn ready_v4(&mut self, now: Instant, dev: IfIndex, a: Ipv4Addr) -> Option<MacAddr> {
        let (key, i) = (word(dev, a), slot(dev, a.to_bits()));
        if self.hot.v4[i].0 != key {
            self.hot.v4[i] = (key, self.find(NeighKey { dev, addr: IpAddr::V4(a) })?);
        }
        self.usable(now, self.hot.v4[i].1)
    }

    fn ready_v6(&mut self, now: Instant, dev: IfIndex, a: Ipv6Addr) -> Option<MacAddr> {
        let i = slot(dev, a.to_bits() as u32);
        let (d, b, _) = self.hot.v6[i];
        if (d, b) != (dev, a) {
            self.hot.v6[i] = (dev, a, self.find(NeighKey { dev, addr: IpAddr::V6(a) })?);
        }
        self.usable(now, self.hot.v6[i].2)
    }

    #[cold]
    fn find(&self, key: NeighKey) -> Option<NeighId> {
        self.map.get(&key).copied()
    }

    #[inline(always)]
    fn usable(&mut self, now: Instant, id: NeighId) -> Option<MacAddr> {
        let n = self.entries.get_mut(id)?;
        n.used = now;
        (n.state & (nud::CONNECTED | nud::DELAY | nud::PROBE) != 0).then_some(n.mac)
    }
}
