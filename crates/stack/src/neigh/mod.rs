//! Neighbours: one table for ARP and neighbour discovery, with Linux's states (`net/core/neighbour.c`).
//!
//! The table owns entries and the packets that wait in them; it never transmits. What must be sent comes
//! back as a value ([`Probe`], released queues) for the stages in [`output`].

pub mod arp;
mod hot;
pub mod output;
pub mod proxy;
#[cfg(test)]
mod tests;
mod timer;

pub use timer::TimerWork;

use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use ferronet_core::sysctl::{NeighParm, NeighParms};
use ferronet_core::timer::TimerId;
use ferronet_core::{DropReason, Env, IfIndex, Instant, Packet, PacketQueue, Sysctl};
use ferronet_wire::ethernet::MacAddr;
use slotmap::{Key, KeyData, SlotMap, new_key_type};

use crate::fib::Family;
use crate::notify::{Notifications, Notify};

/// Neighbour states (`NUD_*`).
#[allow(missing_docs, reason = "rtnetlink(7), ip-neighbour(8)")]
pub mod nud {
    pub const NONE: u8 = 0x00;
    pub const INCOMPLETE: u8 = 0x01;
    pub const REACHABLE: u8 = 0x02;
    pub const STALE: u8 = 0x04;
    pub const DELAY: u8 = 0x08;
    pub const PROBE: u8 = 0x10;
    pub const FAILED: u8 = 0x20;
    pub const NOARP: u8 = 0x40;
    pub const PERMANENT: u8 = 0x80;
    /// A timer runs.
    pub const IN_TIMER: u8 = INCOMPLETE | REACHABLE | DELAY | PROBE;
    /// The link address is good to use.
    pub const VALID: u8 = PERMANENT | NOARP | REACHABLE | PROBE | STALE | DELAY;
    /// Known to answer.
    pub const CONNECTED: u8 = PERMANENT | NOARP | REACHABLE;
}

/// `NEIGH_UPDATE_F_*`: how an update may change an entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Update {
    /// May replace a different link address.
    pub override_lladdr: bool,
    /// A different link address only makes the entry STALE, it is not taken.
    pub weak_override: bool,
    /// `IsRouter` is meaningful and this is its value.
    pub is_router: Option<bool>,
    /// Comes from the administrator.
    pub admin: bool,
}

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NeighKey {
    /// Device.
    pub dev: IfIndex,
    /// Network address.
    pub addr: IpAddr,
}

impl Hash for NeighKey {
    fn hash<H: Hasher>(&self, h: &mut H) {
        match self.addr {
            IpAddr::V4(a) => h.write_u64(u64::from(self.dev.0) << 32 | u64::from(a.to_bits())),
            IpAddr::V6(a) => {
                h.write_u128(a.to_bits());
                h.write_u32(self.dev.0);
            }
        }
    }
}

new_key_type! {
    /// Names an entry; stale ids are harmless.
    pub struct NeighId;
}

/// One neighbour.
#[derive(Debug)]
pub struct Neigh {
    /// Device and address.
    pub key: NeighKey,
    /// Link address, meaningful in a `nud::VALID` state.
    pub mac: MacAddr,
    /// `nud::*`.
    pub state: u8,
    /// It said that it is a router (IPv6).
    pub router: bool,
    /// Probes sent in this state.
    pub probes: u32,
    /// Last proof of reachability.
    pub confirmed: Instant,
    /// Last use for output.
    pub used: Instant,
    /// Last change.
    pub updated: Instant,
    /// `NDA_PROTOCOL`.
    pub protocol: u8,
    /// A control program manages it (`NTF_EXT_LEARNED`).
    pub ext_learned: bool,
    timer: TimerId,
    queue: PacketQueue,
    queue_bytes: usize,
}

/// A solicitation to send.
#[derive(Debug)]
pub struct Probe {
    /// Whom to ask for.
    pub key: NeighKey,
    /// To its known address, or to all when `None`.
    pub unicast: Option<MacAddr>,
    /// Source address of the packet that waits, as a hint for the sender address.
    pub saddr: Option<IpAddr>,
}

/// What became of a packet for a neighbour.
#[derive(Debug)]
pub enum Resolve {
    /// Send it to this link address.
    Ready(MacAddr, Packet),
    /// It waits (or was dropped); send this probe if there is one.
    Waits(Option<Probe>),
}

/// The table.
#[derive(Debug)]
pub struct NeighTable {
    map: KeyedMap<NeighKey, NeighId>,
    entries: SlotMap<NeighId, Neigh>,
    counts: [usize; 2],
    last_gc: Instant,
    /// Addresses that we answer for.
    pub proxies: proxy::ProxyTable,
    hot: hot::Hot,
}

fn millis(p: &NeighParms, n: NeighParm) -> Duration {
    Duration::from_millis(u64::try_from(p.get(n)).unwrap_or(0))
}
fn seconds(p: &NeighParms, n: NeighParm) -> Duration {
    Duration::from_secs(u64::try_from(p.get(n)).unwrap_or(0))
}
fn count(p: &NeighParms, n: NeighParm) -> u32 {
    u32::try_from(p.get(n)).unwrap_or(0)
}
/// `neigh_rand_reach_time`: uniform in 1/2 to 3/2 of the base.
fn reachable_time(rng: &mut Rng, p: &NeighParms) -> Duration {
    let base = u64::try_from(p.get(NeighParm::BaseReachableTimeMs)).unwrap_or(0);
    Duration::from_millis(base / 2 + u64::from(rng.below(base.max(1) as u32)))
}
fn timer_key(id: NeighId) -> TimerKey {
    TimerKey::Neigh(id.data().as_ffi())
}

impl NeighTable {
    /// An empty table with its own hash key.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        NeighTable {
            map: KeyedMap::with_hasher(KeyedState::new(rng)),
            entries: SlotMap::with_key(),
            counts: [0; 2],
            last_gc: Instant::ZERO,
            proxies: proxy::ProxyTable::default(),
            hot: hot::Hot::default(),
        }
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, key: NeighKey) -> Option<&Neigh> {
        self.entries.get(*self.map.get(&key)?)
    }

    /// One entry, to say who made it.
    pub fn get_mut(&mut self, key: NeighKey) -> Option<&mut Neigh> {
        self.entries.get_mut(*self.map.get(&key)?)
    }

    /// Begins to resolve an entry without a packet (`ip neigh add ... use`). Returns the probe to send.
    pub fn event_send(&mut self, env: &mut Env, parms: &NeighParms, key: NeighKey) -> Option<Probe> {
        let id = self.create(env, key)?;
        let n = &mut self.entries[id];
        n.used = env.now;
        match n.state {
            nud::STALE => n.delay(env, parms, timer_key(id)),
            nud::NONE | nud::FAILED => return n.begin(env, parms, timer_key(id), None),
            _ => {}
        }
        None
    }

    /// What an entry is about, from its timer's number.
    #[must_use]
    pub fn key_of(&self, id: u64) -> Option<NeighKey> {
        self.entries.get(NeighId::from(KeyData::from_ffi(id))).map(|n| n.key)
    }

    /// All entries, sorted by device and address.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Neigh> {
        let mut v: Vec<_> = self.entries.values().collect();
        v.sort_by_key(|n| n.key);
        v
    }

    /// Number of entries of a family.
    #[must_use]
    pub fn count(&self, f: Family) -> usize {
        self.counts[f as usize]
    }

    /// An entry, made in state NONE when missing; `None` when the table is full (`neigh_alloc`).
    pub fn create(&mut self, env: &mut Env, key: NeighKey) -> Option<NeighId> {
        if let Some(&id) = self.map.get(&key) {
            return Some(id);
        }
        let f = Family::of(key.addr);
        let (t2, t3) = match f {
            Family::V4 => (Sysctl::Neigh4GcThresh2, Sysctl::Neigh4GcThresh3),
            Family::V6 => (Sysctl::Neigh6GcThresh2, Sysctl::Neigh6GcThresh3),
        };
        let limit = |s| usize::try_from(env.sysctl.get(s)).unwrap_or(0);
        let (t2, t3) = (limit(t2), limit(t3));
        let n = self.counts[f as usize];
        if n >= t3 || (n >= t2 && env.now - self.last_gc > Duration::from_secs(5)) {
            self.forced_gc(env, f);
            if self.counts[f as usize] >= t3 {
                return None;
            }
        }
        let id = self.entries.insert(Neigh {
            key,
            mac: MacAddr([0; 6]),
            state: nud::NONE,
            router: false,
            probes: 0,
            confirmed: env.now,
            used: env.now,
            updated: env.now,
            protocol: 0,
            ext_learned: false,
            timer: TimerId::NONE,
            queue: PacketQueue::new(),
            queue_bytes: 0,
        });
        self.map.insert(key, id);
        self.counts[f as usize] += 1;
        Some(id)
    }

    /// `neigh_forced_gc`: entries nobody waits for and that are not connected go.
    fn forced_gc(&mut self, env: &mut Env, f: Family) {
        self.last_gc = env.now;
        let old: Vec<NeighKey> = self
            .entries
            .values()
            .filter(|n| Family::of(n.key.addr) == f && n.queue.is_empty())
            .filter(|n| n.state & (nud::PERMANENT | nud::REACHABLE | nud::INCOMPLETE) == 0)
            .map(|n| n.key)
            .collect();
        for k in old {
            self.remove(env, k);
        }
    }

    /// Deletes an entry; packets that waited end as `NeighDead`.
    pub fn remove(&mut self, env: &mut Env, key: NeighKey) -> bool {
        self.take(env, key).is_some()
    }

    fn take(&mut self, env: &mut Env, key: NeighKey) -> Option<Neigh> {
        let id = self.map.remove(&key)?;
        self.hot.forget(&key);
        let mut n = self.entries.remove(id)?;
        env.timers.cancel(&mut n.timer);
        while let Some(p) = n.queue.pop() {
            env.drop(p, DropReason::NeighDead);
        }
        self.counts[Family::of(key.addr) as usize] -= 1;
        Some(n)
    }

    /// Deletes all entries of a device (`neigh_ifdown`); `keep_permanent` on carrier loss (`neigh_carrier_down`).
    pub fn flush_dev(
        &mut self,
        env: &mut Env,
        notify: &mut Notifications,
        dev: IfIndex,
        keep_permanent: bool,
    ) {
        if !keep_permanent {
            self.proxies.forget_dev(dev);
        }
        self.flush(env, notify, |n| n.key.dev == dev && !(keep_permanent && n.state & nud::PERMANENT != 0));
    }

    /// Deletes all entries of one family of a device (IPv6 was switched off).
    pub fn flush_dev_family(&mut self, env: &mut Env, notify: &mut Notifications, dev: IfIndex, f: Family) {
        self.flush(env, notify, |n| n.key.dev == dev && Family::of(n.key.addr) == f);
    }

    /// `neigh_flush_dev`: each entry is told of as it was.
    fn flush(&mut self, env: &mut Env, notify: &mut Notifications, which: impl Fn(&Neigh) -> bool) {
        let gone: Vec<NeighKey> = self.entries.values().filter(|n| which(n)).map(|n| n.key).collect();
        for k in gone {
            if let Some(n) = self.take(env, k) {
                notify.push(Notify::NeighGone(Box::new(n)));
            }
        }
    }

    /// Resolves the link address for a packet, or lets the packet wait (`neigh_event_send`).
    pub fn resolve(&mut self, env: &mut Env, parms: &NeighParms, key: NeighKey, p: Packet) -> Resolve {
        let Some(id) = self.create(env, key) else {
            env.drop(p, DropReason::NeighTableFull);
            return Resolve::Waits(None);
        };
        let n = &mut self.entries[id];
        n.used = env.now;
        if n.state & (nud::CONNECTED | nud::DELAY | nud::PROBE) != 0 {
            return Resolve::Ready(n.mac, p);
        }
        if n.state == nud::STALE {
            n.delay(env, parms, timer_key(id));
            return Resolve::Ready(n.mac, p);
        }
        let mut probe = None;
        if n.state & nud::INCOMPLETE == 0 {
            probe = n.begin(env, parms, timer_key(id), packet_saddr(&p));
            if probe.is_none() {
                env.drop(p, DropReason::NeighFailed);
                return Resolve::Waits(None);
            }
        }
        n.enqueue(env, usize::try_from(parms.get(NeighParm::UnresQlenBytes)).unwrap_or(0), p);
        Resolve::Waits(probe)
    }

    /// News about a neighbour (`neigh_update`). Returns the packets that waited and may go now.
    pub fn update(
        &mut self,
        env: &mut Env,
        parms: &NeighParms,
        notify: &mut Notifications,
        id: NeighId,
        news: News,
    ) -> PacketQueue {
        let Some(n) = self.entries.get_mut(id) else { return PacketQueue::new() };
        let News { lladdr, mut state, how } = news;
        let old = n.state;
        if !how.admin && old & (nud::NOARP | nud::PERMANENT) != 0 {
            return PacketQueue::new();
        }
        if let Some(r) = how.is_router {
            n.router = r;
        }
        if state & nud::VALID == 0 {
            env.timers.cancel(&mut n.timer);
            n.set_state(env, notify, state);
            return PacketQueue::new();
        }
        let mut mac = lladdr.unwrap_or(n.mac);
        if lladdr.is_none() && old & nud::VALID == 0 {
            return PacketQueue::new();
        }
        if state & nud::CONNECTED != 0 {
            n.confirmed = env.now;
        }
        if old & nud::VALID != 0 && mac != n.mac && !how.override_lladdr {
            if how.weak_override && old & nud::CONNECTED != 0 {
                mac = n.mac;
                state = nud::STALE;
            } else {
                return PacketQueue::new();
            }
        } else if state == nud::STALE && mac == n.mac && old & nud::CONNECTED != 0 && !how.admin {
            // An unsolicited confirmation of what is known changes nothing.
            state = old;
        }
        let moved = mac != n.mac || old & nud::VALID == 0;
        n.mac = mac;
        n.arm_for(env, parms, timer_key(id), state);
        if state != old || moved {
            n.set_state(env, notify, state);
            n.updated = env.now;
            if state == old {
                notify.push(Notify::NeighNew(n.key));
            }
        }
        if old & nud::VALID == 0 { n.take_queue() } else { PacketQueue::new() }
    }

    /// Upper layers saw progress (`neigh_confirm`).
    pub fn confirm(&mut self, now: Instant, key: NeighKey) {
        if let Some(n) = self.map.get(&key).and_then(|&id| self.entries.get_mut(id)) {
            n.confirmed = now;
        }
    }
}

/// The content of an update.
#[derive(Clone, Copy, Debug)]
pub struct News {
    /// Link address, when the message carried one.
    pub lladdr: Option<MacAddr>,
    /// New state.
    pub state: u8,
    /// What it may change.
    pub how: Update,
}

impl Neigh {
    /// Used again after a while: proof is asked for later.
    fn delay(&mut self, env: &mut Env, parms: &NeighParms, key: TimerKey) {
        self.state = nud::DELAY;
        self.updated = env.now;
        let at = env.now + seconds(parms, NeighParm::DelayFirstProbeTime);
        env.timers.rearm(&mut self.timer, at, key);
    }

    /// Nothing is known: the first question to all; `None`, and the entry failed, when none may be asked.
    fn begin(
        &mut self,
        env: &mut Env,
        parms: &NeighParms,
        key: TimerKey,
        saddr: Option<IpAddr>,
    ) -> Option<Probe> {
        if count(parms, NeighParm::McastSolicit) + count(parms, NeighParm::AppSolicit) == 0 {
            self.state = nud::FAILED;
            return None;
        }
        self.state = nud::INCOMPLETE;
        self.updated = env.now;
        // The unicast probes count as spent: an unknown address is asked for by broadcast only.
        self.probes = count(parms, NeighParm::UcastSolicit) + 1;
        let wait = millis(parms, NeighParm::RetransTimeMs).max(Duration::from_millis(10));
        env.timers.rearm(&mut self.timer, env.now + wait, key);
        Some(Probe { key: self.key, unicast: None, saddr })
    }

    fn enqueue(&mut self, env: &mut Env, limit: usize, p: Packet) {
        let size = p.truesize();
        while self.queue_bytes + size > limit {
            let Some(old) = self.queue.pop() else { break };
            self.queue_bytes -= old.truesize();
            env.drop(old, DropReason::NeighQueueFull);
        }
        self.queue_bytes += size;
        self.queue.push(p);
    }

    fn take_queue(&mut self) -> PacketQueue {
        self.queue_bytes = 0;
        core::mem::take(&mut self.queue)
    }

    fn set_state(&mut self, _env: &Env, notify: &mut Notifications, state: u8) {
        let seen = self.state != state;
        self.state = state;
        if seen {
            notify.push(Notify::NeighNew(self.key));
        }
    }

    fn arm_for(&mut self, env: &mut Env, parms: &NeighParms, key: TimerKey, state: u8) {
        if state & nud::IN_TIMER == 0 {
            env.timers.cancel(&mut self.timer);
            return;
        }
        let wait = match state {
            nud::REACHABLE => reachable_time(&mut env.rng, parms),
            nud::DELAY => seconds(parms, NeighParm::DelayFirstProbeTime),
            _ => millis(parms, NeighParm::RetransTimeMs),
        };
        if self.state != state || self.timer.is_none() {
            // Of the other states the count stays what it was (__neigh_update).
            if state == nud::PROBE {
                self.probes = 0;
            }
            env.timers.rearm(&mut self.timer, env.now + wait, key);
        }
    }

    /// Packets that wait.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }
}

/// The source address of an IP packet that waits, for `arp_announce` and DAD rules.
fn packet_saddr(p: &Packet) -> Option<IpAddr> {
    let h = p.network();
    match h.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(h.get(12..16)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(h.get(8..24)?).ok()?)),
        _ => None,
    }
}
