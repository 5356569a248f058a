//! One routing table: prefixes, each with its routes in order of type of service and metric.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::Errno;
use smallvec::SmallVec;

use super::{DumpOrder, Family, FibEntry, Lpm, Place, RouteType};

/// Left-aligned key of an address.
#[inline]
#[must_use]
pub(super) fn key(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// `a` with the bits beyond `len` cleared.
#[must_use]
pub fn prefix(a: IpAddr, len: u8) -> IpAddr {
    let k = if len == 0 { 0 } else { key(a) & (u128::MAX << (128 - u32::from(len.min(128)))) };
    match a {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((k >> 96) as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(k)),
    }
}

/// Can an IPv6 route have siblings (`rt6_qualify_for_ecmp`)?
fn multipath(e: &FibEntry) -> bool {
    e.kind == RouteType::Unicast
        && e.protocol != super::proto::RA
        && !e.nexthops.is_empty()
        && e.nexthops.iter().all(|n| n.gw.is_some())
}

/// Routers by preference (RFC 4191 §3.2): high 1, medium 0, low 3.
fn rank(e: &FibEntry) -> u8 {
    match e.pref {
        1 => 0,
        0 => 1,
        _ => 2,
    }
}

/// How to add a route: the netlink flags of `ip route add|replace|change|append|prepend`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct How {
    /// `NLM_F_CREATE`.
    pub create: bool,
    /// `NLM_F_EXCL`.
    pub excl: bool,
    /// `NLM_F_REPLACE`.
    pub replace: bool,
    /// `NLM_F_APPEND`.
    pub append: bool,
}

impl How {
    /// `ip route add`.
    pub const ADD: How = How { create: true, excl: true, replace: false, append: false };
    /// `ip route replace`.
    pub const REPLACE: How = How { create: true, excl: false, replace: true, append: false };
}

/// What became of a route that was inserted.
#[derive(Debug)]
pub enum Inserted {
    /// It is a route of its own.
    New,
    /// It took the place of this one.
    Replaced(FibEntry),
    /// IPv6: its next hops joined those of a route with the same metric.
    Joined,
}

/// A routing table of one family.
#[derive(Debug)]
pub struct FibTable {
    family: Family,
    trie: Lpm<SmallVec<[FibEntry; 1]>>,
    count: usize,
    /// Generation of its making; later ones are larger.
    pub(super) born: u64,
    /// It had a route once.
    used: bool,
}

impl FibTable {
    /// An empty table.
    #[must_use]
    pub fn new(family: Family) -> Self {
        FibTable { family, trie: Lpm::default(), count: 0, born: 0, used: false }
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }
    /// Did it ever have a route? The kernel makes most tables with their first one, and keeps them.
    #[must_use]
    pub fn was_used(&self) -> bool {
        self.used
    }
    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds or replaces (`fib_table_insert`, `fib6_add_rt2node`). Only [`super::Fib::insert`] calls it.
    ///
    /// # Errors
    /// `EEXIST` when there is one and `excl` (or an equal one), `ENOENT` when `create` is not set and there
    /// is none, `EINVAL` for a bad prefix length.
    pub(super) fn insert(&mut self, e: FibEntry, how: How) -> Result<Inserted, Errno> {
        if e.dst_len > self.family.bits()
            || Family::of(e.dst) != self.family
            || prefix(e.dst, e.dst_len) != e.dst
        {
            return Err(Errno::EINVAL);
        }
        let v6 = self.family == Family::V6;
        self.used = true;
        if self.trie.get(key(e.dst), e.dst_len).is_none() && !how.create {
            return Err(Errno::ENOENT);
        }
        let list = self.trie.get_or_insert_with(key(e.dst), e.dst_len, SmallVec::new);
        // The group a new route competes with: same TOS and metric.
        let first = list.partition_point(|o| {
            (core::cmp::Reverse(o.tos), o.priority) < (core::cmp::Reverse(e.tos), e.priority)
        });
        let group = list[first..].iter().take_while(|o| o.tos == e.tos && o.priority == e.priority).count();
        if group > 0 {
            if how.excl {
                return Err(Errno::EEXIST);
            }
            if how.replace {
                return Ok(Inserted::Replaced(core::mem::replace(&mut list[first], e)));
            }
            let hops = |o: &FibEntry| v6 && multipath(o) && o.nexthops.iter().any(|n| e.nexthops.contains(n));
            if list[first..first + group].iter().any(|o| *o == e || (multipath(&e) && hops(o))) {
                return Err(Errno::EEXIST);
            }
            if !how.append && !v6 {
                list.insert(first, e);
                self.count += 1;
                return Ok(Inserted::New);
            }
        } else if !how.create {
            return Err(Errno::ENOENT);
        }
        if v6
            && multipath(&e)
            && let Some(o) = list[first..first + group].iter_mut().find(|o| multipath(o))
        {
            // fib6_add_rt2node: routes through gateways with the same metric become next hops of one.
            o.nexthops.extend(e.nexthops);
            return Ok(Inserted::Joined);
        }
        let worse = list[first..first + group].iter().position(|o| v6 && rank(o) > rank(&e)).unwrap_or(group);
        list.insert(first + worse, e);
        self.count += 1;
        Ok(Inserted::New)
    }

    /// Removes the first route of the prefix that `matches`.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub(super) fn remove(
        &mut self,
        dst: IpAddr,
        len: u8,
        matches: impl Fn(&FibEntry) -> bool,
    ) -> Result<FibEntry, Errno> {
        if len > self.family.bits() || Family::of(dst) != self.family {
            return Err(Errno::EINVAL);
        }
        if self.trie.get(key(dst), len).is_none() {
            return Err(Errno::ESRCH);
        }
        let list = self.trie.get_or_insert_with(key(dst), len, SmallVec::new);
        let i = list.iter().position(matches).ok_or(Errno::ESRCH)?;
        let e = list.remove(i);
        let empty = list.is_empty();
        self.count -= 1;
        if empty {
            self.trie.remove(key(dst), len);
        }
        Ok(e)
    }

    /// Removes all routes for which `gone` holds and returns them (device down, address removed, flush).
    pub(super) fn retain(&mut self, mut gone: impl FnMut(&FibEntry) -> bool) -> Vec<FibEntry> {
        let hit: Vec<(u128, u8)> =
            self.trie.iter().filter(|(_, _, l)| l.iter().any(&mut gone)).map(|(k, n, _)| (k, n)).collect();
        let mut out = Vec::new();
        for (k, n) in hit {
            let list = self.trie.get_or_insert_with(k, n, SmallVec::new);
            let mut i = 0;
            while i < list.len() {
                if gone(&list[i]) {
                    out.push(list.remove(i));
                } else {
                    i += 1;
                }
            }
            if list.is_empty() {
                self.trie.remove(k, n);
            }
        }
        self.count -= out.len();
        out
    }

    /// A device goes down: its next hops are dead, and routes are gone that have no others (`fib_sync_down_dev`,
    /// `fib6_ifdown`). Those of our own IPv4 addresses stay. Returns the routes that are gone.
    pub(super) fn dev_down(&mut self, dev: ferronet_core::IfIndex) -> Vec<FibEntry> {
        const DEAD_LINKDOWN: u8 = 1 | 16;
        let own_v4 = self.family == Family::V4;
        self.trie.for_each_mut(|list| {
            for e in list.iter_mut().filter(|e| !(own_v4 && e.kind == RouteType::Local)) {
                for n in e.nexthops.iter_mut().filter(|n| n.dev == dev) {
                    n.flags |= DEAD_LINKDOWN;
                }
            }
        });
        self.retain(|e| !e.nexthops.is_empty() && e.nexthops.iter().all(|n| n.flags & 1 != 0))
    }

    /// A device came up: its next hops live again (`fib_sync_up`, `fib6_ifup`).
    pub(super) fn dev_up(&mut self, dev: ferronet_core::IfIndex, carrier: bool) {
        let clear = if carrier { 1 | 16 } else { 1 };
        self.trie.for_each_mut(|list| {
            for n in list.iter_mut().flat_map(|e| &mut e.nexthops).filter(|n| n.dev == dev) {
                n.flags &= !clear;
            }
        });
    }

    /// Changes the first route of the prefix for which `f` says that it did. Metric and type of service must stay, the
    /// preference may change.
    pub(super) fn change(&mut self, dst: IpAddr, len: u8, mut f: impl FnMut(&mut FibEntry) -> bool) -> bool {
        if len > self.family.bits() || self.trie.get(key(dst), len).is_none() {
            return false;
        }
        let list = self.trie.get_or_insert_with(key(dst), len, SmallVec::new);
        let changed = list.iter_mut().any(&mut f);
        if self.family == Family::V6 {
            list.sort_by_key(|e| (core::cmp::Reverse(e.tos), e.priority, rank(e)));
        }
        changed
    }

    /// Calls `f` with every route, to change what neither its place nor its source depends on.
    pub(super) fn for_each_mut(&mut self, mut f: impl FnMut(&mut FibEntry)) {
        self.trie.for_each_mut(|list| list.iter_mut().for_each(&mut f));
    }

    /// Changes the next hops through a device, except those of our own addresses: they need no link
    /// (`fib_sync_down_dev`, `fib6_ifdown`).
    pub(super) fn for_each_nexthop(
        &mut self,
        dev: ferronet_core::IfIndex,
        mut f: impl FnMut(&mut super::NextHop),
    ) {
        let own = |e: &&mut FibEntry| !matches!(e.kind, RouteType::Local | RouteType::Anycast);
        self.trie.for_each_mut(|list| {
            for n in list.iter_mut().filter(own).flat_map(|e| &mut e.nexthops).filter(|n| n.dev == dev) {
                f(n);
            }
        });
    }

    /// The best route for `dst` that `accept` takes: longest prefix, then type of service, then metric.
    #[inline]
    #[must_use]
    pub fn lookup<R>(
        &self,
        dst: IpAddr,
        tos: u8,
        mut accept: impl FnMut(&FibEntry) -> Option<R>,
    ) -> Option<R> {
        self.trie
            .lookup(key(dst), |list| list.iter().filter(|e| e.tos == 0 || e.tos == tos).find_map(&mut accept))
            .map(|(_, r)| r)
    }

    /// All routes in order of prefix.
    pub fn iter(&self) -> impl Iterator<Item = &FibEntry> {
        self.trie.iter().flat_map(|(_, _, l)| l.iter())
    }

    /// The prefixes that stand behind `after` in a dump of Linux, each with its routes.
    pub fn dump(&self, after: Option<Place>) -> impl Iterator<Item = (Place, &[FibEntry])> {
        let order = match self.family {
            Family::V4 => DumpOrder::ByKey,
            Family::V6 => DumpOrder::InsideFirst,
        };
        self.trie.dump(order, after).map(|(place, l)| (place, l.as_slice()))
    }

    /// The routes of exactly one prefix.
    #[must_use]
    pub fn routes(&self, dst: IpAddr, len: u8) -> &[FibEntry] {
        self.trie.get(key(dst), len).map_or(&[], |l| l.as_slice())
    }

    /// Is there a local or broadcast route for exactly this address?
    #[must_use]
    pub fn has_kind(&self, dst: IpAddr, kind: RouteType) -> bool {
        self.routes(dst, self.family.bits()).iter().any(|e| e.kind == kind)
    }
}
