//! Filters by source: what each member of a group asks for, and what the device asks for on behalf of all of them
//! (RFC 3376 §3, RFC 3810 §4; `ip_mc_add_src`, `ip6_mc_add_src`).

use core::net::IpAddr;

use ferronet_core::IfIndex;

use super::super::Devices;

/// From which sources a member, or the whole device, takes packets of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct McFilter {
    /// `MCAST_EXCLUDE`: all but the sources. Otherwise `MCAST_INCLUDE`: the sources alone.
    pub exclude: bool,
    /// The sources.
    pub sources: Vec<IpAddr>,
}

impl McFilter {
    /// Takes packets of all sources, as every membership without a filter does.
    #[must_use]
    pub fn all() -> McFilter {
        McFilter { exclude: true, sources: Vec::new() }
    }

    /// Its sources that `other` does not name.
    #[must_use]
    pub fn without(&self, other: &McFilter) -> Vec<IpAddr> {
        self.sources.iter().filter(|s| !other.sources.contains(s)).copied().collect()
    }

    /// Does it let a packet of this source pass?
    #[must_use]
    pub fn allows(&self, source: IpAddr) -> bool {
        self.sources.contains(&source) != self.exclude
    }
}

/// What members of one group ask for beyond "everything"; a group without it has members without filters alone.
#[derive(Clone, Debug)]
pub struct McSources {
    /// The group.
    pub group: IpAddr,
    /// Members whose filter includes (`sfcount[MCAST_INCLUDE]`).
    include: u32,
    /// Source, members that include it, members that exclude it.
    pub sources: Vec<(IpAddr, u32, u32)>,
}

impl McSources {
    /// A member's filter comes or goes.
    fn count(&mut self, f: &McFilter, more: bool) {
        let change = |n: &mut u32| *n = if more { n.saturating_add(1) } else { n.saturating_sub(1) };
        if !f.exclude {
            change(&mut self.include);
        }
        for s in &f.sources {
            let at = match self.sources.iter().position(|x| x.0 == *s) {
                Some(i) => i,
                None => {
                    self.sources.push((*s, 0, 0));
                    self.sources.len() - 1
                }
            };
            if let Some(x) = self.sources.get_mut(at) {
                change(if f.exclude { &mut x.2 } else { &mut x.1 });
            }
        }
        self.sources.retain(|x| x.1 > 0 || x.2 > 0);
    }
}

impl Devices {
    /// A member's filter for a group changes from `old` to `new`; `None` for one that is not, or no more, a member.
    pub fn mc_set_filter(
        &mut self,
        dev: IfIndex,
        group: IpAddr,
        old: Option<&McFilter>,
        new: Option<&McFilter>,
    ) {
        if old.is_none() {
            self.mc_inc(dev, group);
        }
        if let Some(d) = self.get_mut(dev)
            && [old, new].into_iter().flatten().any(|f| *f != McFilter::all())
        {
            let at = match d.mc_sources.iter().position(|s| s.group == group) {
                Some(i) => i,
                None => {
                    d.mc_sources.push(McSources { group, include: 0, sources: Vec::new() });
                    d.mc_sources.len() - 1
                }
            };
            if let Some(s) = d.mc_sources.get_mut(at) {
                // The new one first: a source that is in both keeps its place.
                new.into_iter().for_each(|f| s.count(f, true));
                old.into_iter().for_each(|f| s.count(f, false));
                if s.include == 0 && s.sources.is_empty() {
                    d.mc_sources.remove(at);
                }
            }
        }
        if new.is_none() {
            self.mc_dec(dev, group);
        }
    }

    /// The device's own filter for a group (RFC 3376 §3.2): nothing when there is no member.
    #[must_use]
    pub fn mc_filter(&self, dev: IfIndex, group: IpAddr) -> McFilter {
        let Some(d) = self.get(dev) else { return McFilter::default() };
        let Some((_, users)) = d.mcast.iter().find(|m| m.0 == group) else { return McFilter::default() };
        let Some(s) = d.mc_sources.iter().find(|s| s.group == group) else { return McFilter::all() };
        let excluding = users.saturating_sub(s.include);
        // Excluded is what all that exclude agree on and nobody includes.
        let wanted = |x: &&(IpAddr, u32, u32)| {
            if excluding > 0 { x.2 == excluding && x.1 == 0 } else { x.1 > 0 }
        };
        McFilter { exclude: excluding > 0, sources: s.sources.iter().filter(wanted).map(|x| x.0).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::Net;

    fn a(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn filter(exclude: bool, sources: &[u8]) -> McFilter {
        McFilter { exclude, sources: sources.iter().map(|n| a(*n)).collect() }
    }

    #[test]
    fn the_device_asks_for_what_its_members_ask_for() {
        let mut n = Net::new(1);
        let ns = n.ns();
        let (g, lo) = (IpAddr::from([239, 1, 1, 1]), IfIndex::LO);
        let d = &mut n.at(ns).devs;
        let members =
            [filter(false, &[1, 2]), filter(false, &[2, 3]), filter(true, &[2, 4]), filter(true, &[4, 5])];
        let want =
            [filter(false, &[1, 2]), filter(false, &[1, 2, 3]), filter(true, &[4]), filter(true, &[4])];
        for (m, w) in members.iter().zip(want) {
            d.mc_set_filter(lo, g, None, Some(m));
            assert_eq!(d.mc_filter(lo, g), w);
        }
        // A member without a filter takes everything.
        d.mc_set_filter(lo, g, None, Some(&McFilter::all()));
        assert_eq!(d.mc_filter(lo, g), McFilter::all());
        d.mc_set_filter(lo, g, Some(&McFilter::all()), None);
        // One changes its mind, then all leave.
        d.mc_set_filter(lo, g, Some(&members[3]), Some(&filter(true, &[])));
        assert_eq!(d.mc_filter(lo, g), McFilter::all());
        d.mc_set_filter(lo, g, Some(&filter(true, &[])), None);
        for m in &members[..3] {
            d.mc_set_filter(lo, g, Some(m), None);
        }
        assert_eq!(d.mc_filter(lo, g), McFilter::default());
        assert!(d.get(lo).unwrap().mc_sources.is_empty());
    }
}
