//! Addresses that we answer for although they are somebody else's (`struct pneigh_entry`, `ip neigh add proxy`).

use std::collections::BTreeMap;

use ferronet_core::{Errno, IfIndex};

use super::NeighKey;
use crate::fib::Family;

/// Entries per namespace at most.
pub const MAX_PROXIES: usize = 65_536;

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Proxy {
    /// The advertisement says that the neighbour is a router (IPv6).
    pub router: bool,
    /// `NDA_PROTOCOL`.
    pub protocol: u8,
}

/// The table; a device of none holds for all devices.
#[derive(Debug, Default)]
pub struct ProxyTable(BTreeMap<NeighKey, Proxy>);

impl ProxyTable {
    /// Adds or changes an entry (`pneigh_create`).
    ///
    /// # Errors
    /// `ENOBUFS` beyond [`MAX_PROXIES`].
    pub fn add(&mut self, key: NeighKey, p: Proxy) -> Result<(), Errno> {
        if self.0.len() >= MAX_PROXIES && !self.0.contains_key(&key) {
            return Err(Errno::ENOBUFS);
        }
        self.0.insert(key, p);
        Ok(())
    }

    /// Deletes an entry (`pneigh_delete`).
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn remove(&mut self, key: NeighKey) -> Result<Proxy, Errno> {
        self.0.remove(&key).ok_or(Errno::ENOENT)
    }

    /// Exactly this entry.
    #[must_use]
    pub fn get(&self, key: NeighKey) -> Option<Proxy> {
        self.0.get(&key).copied()
    }

    /// The entry that holds for an address on a device (`pneigh_lookup`).
    #[must_use]
    pub fn lookup(&self, key: NeighKey) -> Option<Proxy> {
        self.get(key).or_else(|| self.get(NeighKey { dev: IfIndex::NONE, ..key }))
    }

    /// All entries of a family, in order.
    pub fn iter(&self, f: Family) -> impl Iterator<Item = (NeighKey, Proxy)> {
        self.0.iter().filter(move |(k, _)| Family::of(k.addr) == f).map(|(k, p)| (*k, *p))
    }

    /// A device is gone (`pneigh_ifdown_and_unlock`).
    pub fn forget_dev(&mut self, dev: IfIndex) {
        self.0.retain(|k, _| k.dev != dev);
    }
}
