//! The namespaces of one shard: creation, time, the softirq loop and the crossing of veth pairs.

use std::collections::{BTreeSet, VecDeque};

use ferronet_core::packet::PacketQueue;
use ferronet_core::rng::Rng;
use ferronet_core::{DropReason, Instant, NsId, Packet};

use crate::dev::DevKind;
use crate::ns::Namespace;

/// Namespaces with their links.
#[derive(Debug)]
pub struct World {
    namespaces: Vec<Option<Box<Namespace>>>,
    /// Numbers of namespaces that are gone, oldest first.
    free: VecDeque<NsId>,
    /// Namespaces with work, in order.
    ready: VecDeque<NsId>,
    /// What the loop knows about each namespace.
    turns: Vec<Turn>,
    /// The next timer of each namespace that is not in `ready`.
    deadlines: BTreeSet<(Instant, NsId)>,
    /// Namespaces not in `ready` whose sockets have readiness edges.
    eventful: Vec<NsId>,
    now: Instant,
    wall_offset: u64,
    rng: Rng,
    /// Frames that left through devices that end in the host.
    backend_tx: PacketQueue,
    /// Of which namespaces they are: number of frames in a row.
    backend_ns: VecDeque<(NsId, u32)>,
}

/// One namespace in the loop. Nothing in a namespace changes unless it is in `ready`, so what is noted when it
/// has run stays true until it is woken.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// It is in `World::ready`.
    queued: bool,
    /// It is in `World::eventful`.
    eventful: bool,
    /// Its entry in `World::deadlines`; `NEVER` for none.
    deadline: Instant,
}

const IDLE: Turn = Turn { queued: false, eventful: false, deadline: Instant::NEVER };

/// Namespaces per world at most.
pub const MAX_NAMESPACES: usize = 65_536;
/// Frames for the host that wait at most.
const BACKEND_LIMIT: usize = 8192;

impl World {
    /// An empty world. `seed` decides everything random; `wall_offset` is the wall clock (nanoseconds since
    /// 1970) at [`Instant::ZERO`].
    #[must_use]
    pub fn new(seed: u64, wall_offset: u64) -> Self {
        World {
            namespaces: Vec::new(),
            free: VecDeque::new(),
            ready: VecDeque::new(),
            turns: Vec::new(),
            deadlines: BTreeSet::new(),
            eventful: Vec::new(),
            now: Instant::ZERO,
            wall_offset,
            rng: Rng::new(seed),
            backend_tx: PacketQueue::new(),
            backend_ns: VecDeque::new(),
        }
    }

    /// A new namespace; `None` beyond [`MAX_NAMESPACES`].
    pub fn ns_create(&mut self) -> Option<NsId> {
        let id = match self.free.pop_front() {
            Some(id) => id,
            None if self.namespaces.len() >= MAX_NAMESPACES => return None,
            None => {
                self.namespaces.push(None);
                self.turns.push(IDLE);
                NsId(self.namespaces.len() as u32 - 1)
            }
        };
        let mut ns = Box::new(Namespace::new(id, self.rng.next_u64()));
        ns.env.now = self.now;
        ns.env.wall_offset = self.wall_offset;
        for d in ns.devs.iter_mut() {
            d.created = self.now;
        }
        ns.init = id.0 == 0;
        if let Some(Some(init)) = self.namespaces.first() {
            crate::sysctl::inherit(&mut ns, init);
        }
        self.namespaces[id.0 as usize] = Some(ns);
        self.wake(id);
        Some(id)
    }

    /// Deletes a namespace with all it owns; veth partners elsewhere go with their ends (`cleanup_net`).
    pub fn ns_destroy(&mut self, id: NsId) {
        let Some(ns) = self.namespaces.get_mut(id.0 as usize).and_then(Option::take) else { return };
        let peers: Vec<_> = ns.devs.iter().filter_map(|d| d.peer()).collect();
        drop(ns);
        let turn = core::mem::replace(&mut self.turns[id.0 as usize], IDLE);
        self.deadlines.remove(&(turn.deadline, id));
        self.ready.retain(|i| *i != id);
        self.eventful.retain(|i| *i != id);
        self.free.push_back(id);
        for (peer_ns, dev) in peers {
            self.link_forget(peer_ns, dev);
        }
    }

    /// A namespace to look at.
    #[must_use]
    pub fn ns(&self, id: NsId) -> Option<&Namespace> {
        self.namespaces.get(id.0 as usize)?.as_deref()
    }

    /// A namespace to change; it is run at the next [`World::run_softirq`].
    pub fn ns_mut(&mut self, id: NsId) -> Option<&mut Namespace> {
        self.namespaces.get(id.0 as usize)?.as_ref()?;
        self.wake(id);
        self.namespaces[id.0 as usize].as_deref_mut()
    }

    /// Puts a namespace into the queue of those with work.
    #[inline]
    fn wake(&mut self, id: NsId) {
        let turn = &mut self.turns[id.0 as usize];
        if !turn.queued {
            turn.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Notes what a namespace that has run waits for.
    fn settle(&mut self, id: NsId) {
        let Some(ns) = self.namespaces[id.0 as usize].as_deref() else { return };
        let turn = &mut self.turns[id.0 as usize];
        let deadline = ns.env.timers.next_timeout().unwrap_or(Instant::NEVER);
        if deadline != turn.deadline {
            self.deadlines.remove(&(turn.deadline, id));
            turn.deadline = deadline;
            if deadline != Instant::NEVER {
                self.deadlines.insert((deadline, id));
            }
        }
        if ns.socks.has_events() && !turn.eventful {
            turn.eventful = true;
            self.eventful.push(id);
        }
    }

    /// All namespaces, in order of creation.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter().filter_map(|n| n.as_deref())
    }

    /// Likewise, to change what needs no run.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Namespace> {
        self.namespaces.iter_mut().filter_map(|n| n.as_deref_mut())
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Moves time forward; timers fire at the next [`World::run_softirq`]. Never goes back.
    pub fn set_now(&mut self, now: Instant) {
        if now <= self.now {
            return;
        }
        self.now = now;
        // One store each; what is due is found without looking at the others.
        for ns in self.namespaces.iter_mut().filter_map(|n| n.as_deref_mut()) {
            ns.env.now = now;
        }
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.turns[id.0 as usize].deadline = Instant::NEVER;
            self.wake(id);
        }
    }

    /// The earliest timer of all namespaces.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let settled = self.deadlines.first().map(|&(at, _)| at);
        let awake = self.ready.iter().filter_map(|&id| self.ns(id)?.env.timers.next_timeout()).min();
        match (settled, awake) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Runs namespaces with work until none is left or about `budget` packets were handled. `true`: call
    /// again, there is more.
    pub fn run_softirq(&mut self, mut budget: usize) -> bool {
        while let Some(&id) = self.ready.front() {
            if budget == 0 {
                return true;
            }
            self.ready.pop_front();
            self.turns[id.0 as usize].queued = false;
            let Some(ns) = self.namespaces[id.0 as usize].as_deref_mut() else { continue };
            ns.on_timeout();
            let done = ns.net_rx_action(budget.min(64));
            let more = !ns.env.backlog.is_empty();
            budget -= done.min(budget);
            self.cross(id);
            if more {
                self.wake(id);
            } else {
                self.settle(id);
            }
        }
        false
    }

    /// Hands what left a namespace to the other ends of its devices.
    #[inline]
    fn cross(&mut self, id: NsId) {
        // Delivery never transmits, so the queue can be away while it is emptied.
        let Some(ns) = self.namespaces[id.0 as usize].as_deref_mut() else { return };
        if ns.env.tx.is_empty() {
            return;
        }
        let mut queue = core::mem::take(&mut ns.env.tx);
        while let Some(mut p) = queue.pop() {
            let Some(ns) = self.namespaces[id.0 as usize].as_deref_mut() else { break };
            match ns.devs.get(p.meta().dev).map(|d| &d.kind) {
                Some(&DevKind::Veth(Some((peer_ns, peer)))) => {
                    p.meta_mut().dev = peer;
                    self.deliver(id, peer_ns, p);
                }
                Some(DevKind::Backend { .. }) if self.backend_tx.len() < BACKEND_LIMIT => {
                    match self.backend_ns.back_mut() {
                        Some((last, n)) if *last == id => *n += 1,
                        Some(_) | None => self.backend_ns.push_back((id, 1)),
                    }
                    self.backend_tx.push(p);
                }
                Some(DevKind::Backend { .. }) => ns.env.drop(p, DropReason::TapFull),
                Some(DevKind::Veth(None)) => ns.env.drop(p, DropReason::NoCarrier),
                Some(DevKind::Loopback | DevKind::Dummy) | None => ns.env.drop(p, DropReason::DevGone),
            }
        }
        if let Some(ns) = self.namespaces[id.0 as usize].as_deref_mut() {
            ns.env.tx = queue;
        }
    }

    fn drop_in(&mut self, id: NsId, p: Packet, r: DropReason) {
        match self.namespaces[id.0 as usize].as_deref_mut() {
            Some(ns) => ns.env.drop(p, r),
            None => p.release(),
        }
    }

    /// veth_xmit, second half: into the peer's backlog.
    #[inline]
    fn deliver(&mut self, from: NsId, to: NsId, mut p: Packet) {
        {
            let m = p.meta_mut();
            m.trace = 0;
            m.iif = m.dev;
        }
        if from == to {
            match self.ns_mut(to) {
                Some(ns) => ns.netif_rx(p),
                None => p.release(),
            }
            return;
        }
        let Ok([a, b]) = self.namespaces.get_disjoint_mut([from.0 as usize, to.0 as usize]) else {
            self.drop_in(from, p, DropReason::NsGone);
            return;
        };
        match (a.as_deref_mut(), b.as_deref_mut()) {
            (Some(a), Some(b)) => {
                b.env.pool.rebalance(&mut a.env.pool);
                b.netif_rx(p);
                self.wake(to);
            }
            (Some(a), None) => a.env.drop(p, DropReason::NsGone),
            (None, _) => p.release(),
        }
    }

    /// Takes the readiness edges of all sockets: token and `poll` bits.
    pub fn take_sock_events(&mut self, f: &mut dyn FnMut(u64, u16)) {
        for id in core::mem::take(&mut self.eventful) {
            self.turns[id.0 as usize].eventful = false;
            if let Some(ns) = self.namespaces[id.0 as usize].as_deref_mut() {
                ns.socks.take_events(f);
            }
        }
        for &id in &self.ready {
            if let Some(ns) = self.namespaces[id.0 as usize].as_deref_mut()
                && ns.socks.has_events()
            {
                ns.socks.take_events(f);
            }
        }
    }

    /// A frame from the host for a back-end device. Queued; [`World::run_softirq`] handles it.
    pub fn backend_rx(&mut self, ns: NsId, mut p: Packet, dev: ferronet_core::IfIndex) {
        p.meta_mut().dev = dev;
        p.meta_mut().iif = dev;
        match self.ns_mut(ns) {
            Some(n) => crate::dev::netem::enqueue_rx(n, p, dev),
            None => p.release(),
        }
    }

    /// The next frame that left through a back-end device (`meta.dev` says which).
    pub fn take_backend_tx(&mut self) -> Option<(NsId, Packet)> {
        let (ns, n) = self.backend_ns.front_mut()?;
        let p = self.backend_tx.pop()?;
        let ns = *ns;
        *n -= 1;
        if *n == 0 {
            self.backend_ns.pop_front();
        }
        Some((ns, p))
    }

    /// Gives the box of a frame back that the host has sent.
    pub fn backend_done(&mut self, ns: NsId, p: Packet) {
        match self.namespaces.get_mut(ns.0 as usize).and_then(|n| n.as_deref_mut()) {
            Some(n) => n.env.consume(p),
            None => p.release(),
        }
    }
}

pub mod link;

#[cfg(test)]
mod tests {
    use super::*;
    use ferronet_core::env::TimerKey;

    #[test]
    fn numbers_of_gone_namespaces_are_used_again() {
        let mut w = World::new(1, 0);
        let keep = w.ns_create().expect("room");
        for _ in 0..3 * MAX_NAMESPACES / 1000 {
            let ids: Vec<_> = (0..10).map(|_| w.ns_create().expect("room")).collect();
            w.run_softirq(1000);
            ids.into_iter().for_each(|id| w.ns_destroy(id));
        }
        assert_eq!(w.iter().count(), 1);
        assert!(w.ns(keep).is_some());
        assert!(w.namespaces.len() < 20, "{}", w.namespaces.len());
    }

    #[test]
    fn only_namespaces_with_something_due_run() {
        let mut w = World::new(1, 0);
        let ids: Vec<_> = (0..4).map(|_| w.ns_create().expect("room")).collect();
        w.run_softirq(1000);
        let at = Instant(5_000_000_000);
        let ns = w.ns_mut(ids[2]).expect("exists");
        ns.env.timers.arm(at, TimerKey::Conntrack);
        assert!(w.next_timeout().is_some_and(|t| t <= at), "also before the loop has seen it");
        w.run_softirq(1000);
        // The wheel may ask for turns before; only this namespace has them.
        let mut turns = 0;
        while let Some(t) = w.next_timeout() {
            w.set_now(t);
            assert_eq!(w.ready, [ids[2]]);
            w.run_softirq(1000);
            turns += 1;
        }
        assert!((1..10).contains(&turns) && w.now() == at, "{turns} turns, {:?}", w.now());
        assert!(w.iter().all(|n| n.env.now == at));
    }
}
