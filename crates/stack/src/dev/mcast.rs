//! The groups a device listens to, and which reports it owes, and when: what IGMP (RFC 3376 §5) and MLD
//! (RFC 3810 §6) share.

use core::net::IpAddr;
use core::time::Duration;

use ferronet_core::rng::Rng;
use ferronet_core::timer::TimerId;
use ferronet_core::{IfIndex, Instant};

use super::Devices;

mod filter;

pub use filter::{McFilter, McSources};

/// Groups per device for which a report may wait; beyond it the report to all groups says the same.
const LIMIT: usize = 1024;
/// A change is reported after this time, so that several go into one report (two jiffies in Linux).
const GATHER: Duration = Duration::from_millis(2);
/// A querier of an older version counts as present this long (RFC 3376 §8.12 with the default intervals).
const OLDER_QUERIER: Duration = Duration::from_secs(2 * 125 + 10);

/// What changed about a group, to be told to routers (RFC 3376 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<A> {
    /// The group.
    pub group: A,
    /// Reports of the filter's mode, with all sources, still to send.
    mode: u8,
    /// Sources, whether they are allowed or blocked from now, and reports still to send.
    sources: Vec<(A, bool, u8)>,
}

impl<A: Copy + Eq> Change<A> {
    /// The mode is reported, with the sources as they are now.
    #[must_use]
    pub fn mode_changed(&self) -> bool {
        self.mode > 0
    }
    /// Sources that are allowed (or blocked) from now.
    #[must_use]
    pub fn sources(&self, allowed: bool) -> Vec<A> {
        self.sources.iter().filter(|s| s.1 == allowed).map(|s| s.0).collect()
    }
    fn sent(&mut self) {
        self.mode = self.mode.saturating_sub(1);
        for s in &mut self.sources {
            s.2 = s.2.saturating_sub(1);
        }
        self.sources.retain(|s| s.2 > 0);
    }
    fn done(&self) -> bool {
        self.mode == 0 && self.sources.is_empty()
    }
}

/// One group record of a report, `struct igmpv3_grec`, `struct mld2_grec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<A> {
    /// `IGMPV3_*`, the same numbers in MLD.
    pub kind: u8,
    /// The group.
    pub group: A,
    /// Its sources.
    pub sources: Vec<A>,
}

/// `IGMPV3_MODE_IS_INCLUDE` and the others have the numbers of RFC 3376 §4.2.12 and RFC 3810 §5.2.12.
pub mod record {
    #![allow(missing_docs, reason = "RFC 3376 §4.2.12")]
    pub const MODE_IS_INCLUDE: u8 = 1;
    pub const MODE_IS_EXCLUDE: u8 = 2;
    pub const CHANGE_TO_INCLUDE: u8 = 3;
    pub const CHANGE_TO_EXCLUDE: u8 = 4;
    pub const ALLOW_NEW_SOURCES: u8 = 5;
    pub const BLOCK_OLD_SOURCES: u8 = 6;
}

/// Packs records into reports of at most `room` bytes: a record has `fixed` bytes, a source `each`. Lists that are too
/// long go into several records; a list of excluded sources is cut (RFC 3376 §4.2.16).
#[must_use]
pub fn reports_of<A: Copy>(
    records: &[Record<A>],
    room: usize,
    fixed: usize,
    each: usize,
) -> Vec<Vec<Record<A>>> {
    let most = (room.saturating_sub(fixed) / each).max(1);
    let mut out: Vec<Vec<Record<A>>> = Vec::new();
    let mut used = room;
    for r in records {
        let cut = matches!(r.kind, record::MODE_IS_EXCLUDE | record::CHANGE_TO_EXCLUDE);
        let mut rest = &r.sources[..];
        loop {
            let (now, later) = rest.split_at(rest.len().min(most));
            let size = fixed + each * now.len();
            if used + size > room {
                out.push(Vec::new());
                used = 0;
            }
            used += size;
            if let Some(l) = out.last_mut() {
                l.push(Record { kind: r.kind, group: r.group, sources: now.to_vec() });
            }
            rest = later;
            if rest.is_empty() || cut {
                break;
            }
        }
    }
    out
}

/// A report that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due<A> {
    /// Of all groups.
    General,
    /// Of one group.
    Group(A),
    /// Of what changed.
    Changes(Vec<Change<A>>),
}

/// What a device owes in one family.
#[derive(Clone, Debug)]
pub struct Reports<A> {
    changes: Vec<Change<A>>,
    change_at: Option<Instant>,
    general_at: Option<Instant>,
    groups: Vec<(A, Instant)>,
    /// A querier of version 1 (and in IPv4 version 2) is there until then.
    older: [Option<Instant>; 2],
    /// The next report.
    pub timer: TimerId,
}

impl<A> Default for Reports<A> {
    fn default() -> Self {
        Reports {
            changes: Vec::new(),
            change_at: None,
            general_at: None,
            groups: Vec::new(),
            older: [None; 2],
            timer: TimerId::NONE,
        }
    }
}

impl<A: Copy + Eq> Reports<A> {
    /// The filter's mode changed, or the group is new or left; it is reported `times` times (the robustness variable).
    pub fn changed(&mut self, now: Instant, group: A, joined: bool, times: u8) {
        if !joined {
            self.groups.retain(|g| g.0 != group);
        }
        if let Some(c) = self.change(group) {
            // The report of the mode names all sources.
            c.mode = times;
            c.sources.clear();
        }
        self.change_at = Some(now + GATHER);
    }

    /// Sources are allowed or blocked from now; each is reported `times` times.
    pub fn sources_changed(&mut self, now: Instant, group: A, (allow, block): (&[A], &[A]), times: u8) {
        if let Some(c) = self.change(group) {
            let news = allow.iter().map(|a| (*a, true)).chain(block.iter().map(|a| (*a, false)));
            for (a, allowed) in news {
                c.sources.retain(|s| s.0 != a);
                c.sources.push((a, allowed, times));
            }
            if c.mode > 0 || c.sources.len() > LIMIT {
                // What is reported with the mode needs no report of its own.
                c.mode = times;
                c.sources.clear();
            }
        }
        self.change_at = Some(now + GATHER);
    }

    /// The changes of a group that wait, unless there are too many groups.
    fn change(&mut self, group: A) -> Option<&mut Change<A>> {
        match self.changes.iter().position(|c| c.group == group) {
            Some(i) => self.changes.get_mut(i),
            None if self.changes.len() < LIMIT => {
                self.changes.push(Change { group, mode: 0, sources: Vec::new() });
                self.changes.last_mut()
            }
            None => None,
        }
    }

    /// A general query: all groups within `max`.
    pub fn general_query(&mut self, now: Instant, rng: &mut Rng, max: Duration) {
        let at = now + random(rng, max);
        if self.general_at.is_none_or(|t| at < t) {
            self.general_at = Some(at);
        }
    }

    /// A query for one group: within `max`, unless a report is due earlier.
    pub fn group_query(&mut self, now: Instant, rng: &mut Rng, group: A, max: Duration) {
        let at = now + random(rng, max);
        if self.general_at.is_some_and(|t| t <= at) {
            return;
        }
        if let Some(g) = self.groups.iter_mut().find(|g| g.0 == group) {
            g.1 = g.1.min(at);
        } else if self.groups.len() < LIMIT {
            self.groups.push((group, at));
        } else {
            self.general_at = Some(at);
        }
    }

    /// Another host reported the group to an old querier: ours is not needed (`true`: there was one waiting).
    pub fn suppress(&mut self, group: A) {
        self.groups.retain(|g| g.0 != group);
    }

    /// A querier of an older version spoke: 0 for version 1, 1 for version 2.
    pub fn older_querier(&mut self, now: Instant, version: usize) {
        self.older[version & 1] = Some(now + OLDER_QUERIER);
    }

    /// Is a querier of this older version (0: 1, 1: 2) there?
    #[must_use]
    pub fn has_older(&self, now: Instant, version: usize) -> bool {
        self.older[version & 1].is_some_and(|t| t > now)
    }

    /// Forgets all that waits.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.groups.clear();
        (self.change_at, self.general_at) = (None, None);
    }

    /// When the next report is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let groups = self.groups.iter().map(|g| g.1);
        groups.chain(self.change_at).chain(self.general_at).min()
    }

    /// What is due; changes are repeated within `interval`.
    pub fn due(&mut self, now: Instant, rng: &mut Rng, interval: Duration) -> Vec<Due<A>> {
        let mut out = Vec::new();
        if self.general_at.is_some_and(|t| t <= now) {
            self.general_at = None;
            out.push(Due::General);
        }
        self.groups.retain(|g| {
            let due = g.1 <= now;
            if due {
                out.push(Due::Group(g.0));
            }
            !due
        });
        if self.change_at.is_some_and(|t| t <= now) {
            out.push(Due::Changes(self.changes.clone()));
            self.changes.iter_mut().for_each(Change::sent);
            self.changes.retain(|c| !c.done());
            self.change_at = (!self.changes.is_empty()).then(|| now + random(rng, interval) + GATHER);
        }
        out
    }
}

fn random(rng: &mut Rng, max: Duration) -> Duration {
    let micros = u32::try_from(max.as_micros()).unwrap_or(u32::MAX);
    Duration::from_micros(u64::from(rng.below(micros)))
}

/// Groups per device at most.
const MAX_GROUPS: usize = 65_536;

impl Devices {
    /// One more user of a group; `true` for the first one. Nothing happens without the device or beyond
    /// the limit.
    pub fn mc_inc(&mut self, dev: IfIndex, group: IpAddr) -> bool {
        let Some(d) = self.get_mut(dev) else { return false };
        if let Some(m) = d.mcast.iter_mut().find(|m| m.0 == group) {
            m.1 += 1;
            return false;
        }
        if d.mcast.len() >= MAX_GROUPS {
            return false;
        }
        // The newest first, as `ip maddr` prints them.
        d.mcast.insert(0, (group, 1));
        // Cached input lookups know who is a member.
        self.generation += 1;
        true
    }

    /// One user less; `true` for the last one.
    pub fn mc_dec(&mut self, dev: IfIndex, group: IpAddr) -> bool {
        let Some(d) = self.get_mut(dev) else { return false };
        let Some(i) = d.mcast.iter().position(|m| m.0 == group) else { return false };
        d.mcast[i].1 = d.mcast[i].1.saturating_sub(1);
        if d.mcast[i].1 > 0 {
            return false;
        }
        d.mcast.remove(i);
        d.mc_sources.retain(|s| s.group != group);
        self.generation += 1;
        true
    }

    /// Somebody on the device is in the group.
    #[must_use]
    pub fn mc_member(&self, dev: IfIndex, group: IpAddr) -> bool {
        self.get(dev).is_some_and(|d| d.mcast.iter().any(|m| m.0 == group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_repeated_and_queries_answered_once() {
        let mut rng = Rng::new(1);
        let mut r = Reports::default();
        let t0 = Instant::ZERO;
        let second = Duration::from_secs(1);
        r.changed(t0, 7u32, true, 2);
        assert!(r.due(t0, &mut rng, second).is_empty());
        let t1 = t0 + GATHER;
        assert!(
            matches!(&r.due(t1, &mut rng, second)[..], [Due::Changes(c)] if c[0].group == 7 && c[0].mode_changed())
        );
        let t2 = r.next().expect("a repetition");
        assert!(t2 > t1 && t2 <= t1 + second + GATHER);
        assert_eq!(r.due(t2, &mut rng, second).len(), 1);
        assert_eq!(r.next(), None);
        r.general_query(t2, &mut rng, second);
        r.group_query(t2, &mut rng, 9, second * 100);
        assert_eq!(r.due(t2 + second, &mut rng, second), vec![Due::General]);
        assert_eq!(r.next(), None, "the general report covers the group");
        r.group_query(t2, &mut rng, 9, second);
        r.suppress(9);
        assert_eq!(r.next(), None);
    }
}
