//! How routes change: only here. Listeners are told and the generation moves exactly when something changed.

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex};

use super::{Family, Fib, FibEntry, FibTable, How, Inserted, NextHop};
use crate::notify::{Notifications, Notify};

/// `RTNH_F_LINKDOWN`.
const RTNH_F_LINKDOWN: u8 = 16;

impl Fib {
    /// The table of a route, made when missing (`fib_new_table`).
    fn table_mut(&mut self, family: Family, id: u32) -> &mut FibTable {
        let i = match self.tables.binary_search_by_key(&(family, id), |t| (t.0, t.1)) {
            Ok(i) => i,
            Err(i) => {
                let mut t = FibTable::new(family);
                t.born = self.generation;
                self.tables.insert(i, (family, id, t));
                i
            }
        };
        &mut self.tables[i].2
    }

    fn existing(&mut self, family: Family, id: u32) -> Option<&mut FibTable> {
        let i = self.tables.binary_search_by_key(&(family, id), |t| (t.0, t.1)).ok()?;
        Some(&mut self.tables[i].2)
    }

    /// Whatever was remembered of earlier lookups holds no longer (`rt_cache_flush`).
    pub fn rt_cache_flush(&mut self) {
        self.generation += 1;
    }

    fn source_free(&mut self, e: &FibEntry) {
        let Some(p) = e.prefsrc else { return };
        if let Some(n) = self.sources.get_mut(&p) {
            *n -= 1;
            if *n == 0 {
                self.sources.remove(&p);
            }
        }
    }

    /// Does any route prefer this source address (`fib_info_laddrhash`)?
    #[must_use]
    pub fn prefers_source(&self, a: IpAddr) -> bool {
        self.sources.contains_key(&a)
    }

    /// Adds or replaces a route in its table and tells of it (`fib_table_insert`, `fib6_add`).
    ///
    /// # Errors
    /// `EEXIST` when there is one and `excl` (or an equal one), `ENOENT` when `create` is not set and there
    /// is none, `EINVAL` for a bad prefix length.
    pub fn insert(&mut self, notify: &mut Notifications, e: FibEntry, how: How) -> Result<(), Errno> {
        self.generation += 1;
        let told = notify.listening.then(|| Box::new(e.clone()));
        self.insert_quietly(e, how)?;
        if let Some(e) = told {
            notify.push(Notify::RouteNew(e));
        }
        Ok(())
    }

    fn insert_quietly(&mut self, e: FibEntry, how: How) -> Result<(), Errno> {
        let (family, source) = (Family::of(e.dst), e.prefsrc);
        match self.table_mut(family, e.table).insert(e, how)? {
            Inserted::New => {}
            Inserted::Replaced(old) => self.source_free(&old),
            Inserted::Joined => return Ok(()),
        }
        if let Some(p) = source {
            *self.sources.entry(p).or_default() += 1;
        }
        Ok(())
    }

    /// Removes the first route of a prefix that `matches`, and tells of it (`fib_table_delete`, `ip6_del_rt`).
    ///
    /// # Errors
    /// `ESRCH` when there is none, `EINVAL` for a bad prefix length.
    pub fn remove(
        &mut self,
        notify: &mut Notifications,
        (table, dst, len): (u32, IpAddr, u8),
        matches: impl Fn(&FibEntry) -> bool,
    ) -> Result<(), Errno> {
        let family = Family::of(dst);
        let e = self.existing(family, table).ok_or(Errno::ESRCH)?.remove(dst, len, matches)?;
        self.generation += 1;
        self.source_free(&e);
        notify.push(Notify::RouteDel(Box::new(e)));
        Ok(())
    }

    /// Removes one next hop of the first IPv6 route of a prefix that `matches` and has it; the route goes with its
    /// last one (`fib6_del_route`).
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn remove_nexthop(
        &mut self,
        notify: &mut Notifications,
        (table, dst, len): (u32, IpAddr, u8),
        matches: impl Fn(&FibEntry) -> bool,
        hop: impl Fn(&NextHop) -> bool,
    ) -> Result<(), Errno> {
        let t = self.existing(Family::of(dst), table).ok_or(Errno::ESRCH)?;
        // The first route that fits loses the leg, as in the kernel, where each leg is a route that follows the others.
        let fits = |o: &FibEntry| matches(o) && o.nexthops.iter().any(&hop);
        let Some(first) = t.routes(dst, len).iter().find(|o| fits(o)) else { return Err(Errno::ESRCH) };
        if first.nexthops.len() == 1 {
            return self.remove(notify, (table, dst, len), fits);
        }
        let mut gone = None;
        t.change(dst, len, |e| {
            let Some(i) = e.nexthops.iter().position(&hop).filter(|_| matches(e)) else { return false };
            let n = e.nexthops.remove(i);
            gone = Some(FibEntry { nexthops: smallvec::smallvec![n], ..e.clone() });
            true
        });
        self.generation += 1;
        if let Some(e) = gone {
            notify.push(Notify::RouteDel(Box::new(e)));
        }
        Ok(())
    }

    /// Changes the first route of a prefix for which `f` says that it did; nobody is told. `f` must leave the place
    /// (prefix, type of service, metric) and the source alone.
    pub fn change(
        &mut self,
        (table, dst, len): (u32, IpAddr, u8),
        f: impl FnMut(&mut FibEntry) -> bool,
    ) -> bool {
        let changed = self.existing(Family::of(dst), table).is_some_and(|t| t.change(dst, len, f));
        self.generation += u64::from(changed);
        changed
    }

    /// Removes the routes of a family for which `gone` holds, in all tables. Linux sends no RTM_DELROUTE for IPv4 routes
    /// removed with their device or source (`fib_table_flush`).
    pub fn flush(&mut self, notify: &mut Notifications, family: Family, gone: impl Fn(&FibEntry) -> bool) {
        let mut out = Vec::new();
        for t in self.tables.iter_mut().filter(|t| t.0 == family && !t.2.is_empty()) {
            out.append(&mut t.2.retain(&gone));
        }
        self.gone(notify, family, out);
    }

    fn gone(&mut self, notify: &mut Notifications, family: Family, out: Vec<FibEntry>) {
        self.generation += u64::from(!out.is_empty());
        for e in out {
            self.source_free(&e);
            if family == Family::V6 {
                notify.push(Notify::RouteDel(Box::new(e)));
            }
        }
    }

    /// An address is ours no longer: IPv4 routes that preferred it as source go (`fib_sync_down_addr`), IPv6 ones
    /// choose another (`rt6_remove_prefsrc`).
    pub fn source_gone(&mut self, notify: &mut Notifications, a: IpAddr) {
        if !self.prefers_source(a) {
            return;
        }
        if a.is_ipv4() {
            self.flush(notify, Family::V4, |e| e.prefsrc == Some(a));
            return;
        }
        for t in self.tables.iter_mut().filter(|t| t.0 == Family::V6) {
            t.2.for_each_mut(|e| e.prefsrc = e.prefsrc.filter(|p| *p != a));
        }
        self.sources.remove(&a);
        self.generation += 1;
    }

    /// A device leaves the namespace. An IPv4 route goes when any of its next hops used it (`fib_sync_down_dev`), of
    /// an IPv6 route the next hops that did (`fib6_ifdown`, NETDEV_UNREGISTER).
    pub fn dev_gone(&mut self, notify: &mut Notifications, dev: IfIndex) {
        let uses = |e: &FibEntry| e.nexthops.iter().any(|n| n.dev == dev);
        self.flush(notify, Family::V4, uses);
        let only = |e: &FibEntry| !e.nexthops.is_empty() && e.nexthops.iter().all(|n| n.dev == dev);
        self.flush(notify, Family::V6, only);
        let mut legs = Vec::new();
        for t in self.tables.iter_mut().filter(|t| t.0 == Family::V6) {
            t.2.for_each_mut(|e| {
                if uses(e) {
                    let hops = e.nexthops.iter().filter(|n| n.dev == dev).copied().collect();
                    e.nexthops.retain(|n| n.dev != dev);
                    legs.push(FibEntry { nexthops: hops, prefsrc: None, ..e.clone() });
                }
            });
        }
        self.gone(notify, Family::V6, legs);
    }

    /// The next hops through a device that went down are dead; routes without others go (`fib_sync_down_dev`,
    /// `fib6_ifdown`).
    pub fn dev_down(&mut self, notify: &mut Notifications, family: Family, dev: IfIndex) {
        self.generation += 1;
        let mut out = Vec::new();
        for t in self.tables.iter_mut().filter(|t| t.0 == family && !t.2.is_empty()) {
            out.append(&mut t.2.dev_down(dev));
        }
        self.gone(notify, family, out);
    }

    /// A device came up: its next hops live again (`fib_sync_up`, `fib6_ifup`).
    pub fn dev_up(&mut self, dev: IfIndex, carrier: bool) {
        self.generation += 1;
        for t in &mut self.tables {
            t.2.dev_up(dev, carrier);
        }
    }

    /// The carrier of a device changed: its next hops are marked or cleared.
    pub fn dev_carrier(&mut self, dev: IfIndex, on: bool) {
        self.generation += 1;
        for t in &mut self.tables {
            t.2.for_each_nexthop(dev, |n| {
                n.flags = if on { n.flags & !RTNH_F_LINKDOWN } else { n.flags | RTNH_F_LINKDOWN };
            });
        }
    }
}
