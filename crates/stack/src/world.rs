//! The namespaces of one shard: creation, time, the softirq loop and the crossing of veth pairs.

use std::collections::{BTreeSet, VecDeque};

use ferronet_core::rng::Rng;
use ferronet_core::{DropReason, Instant, NsId, Packet};

use crate::dev::DevKind;
use crate::ns::Namespace;

/// Namespaces with their links.
#[derive(Debug)]
pub struct World {
    namespaces: Vec<Option<Box<Namespace>>>,
    /// Ids for places whose namespace is gone, oldest first.
    free: VecDeque<NsId>,
    /// Namespaces with work, in order; `Place::queued` says who is in.
    ready: VecDeque<NsId>,
    places: Vec<Place>,
    /// `Place::deadline` of all namespaces with timers, so that time passes without a look at each namespace.
    deadlines: BTreeSet<(Instant, NsId)>,
    /// Namespaces whose sockets have readiness edges; `Place::edges` says who is in.
    with_edges: Vec<NsId>,
    /// Scratch: namespaces whose timers are due.
    due: Vec<NsId>,
    now: Instant,
    wall_offset: u64,
    rng: Rng,
    /// Namespaces with frames that left through devices that end in the host; `Place::host` says who is in.
    with_host: VecDeque<NsId>,
}

/// What the world keeps about each namespace.
#[derive(Clone, Copy, Debug)]
struct Place {
    queued: bool,
    edges: bool,
    host: bool,
    /// Its earliest timer as `World::deadlines` has it; NEVER: none.
    deadline: Instant,
}

impl Place {
    const EMPTY: Self = Place { queued: false, edges: false, host: false, deadline: Instant::NEVER };
}

/// Namespaces per world at most.
pub const MAX_NAMESPACES: usize = 65_536;
impl World {
    /// An empty world. `seed` decides everything random; `wall_offset` is the wall clock (nanoseconds since
    /// 1970) at [`Instant::ZERO`].
    #[must_use]
    pub fn new(seed: u64, wall_offset: u64) -> Self {
        World {
            namespaces: Vec::new(),
            free: VecDeque::new(),
            ready: VecDeque::new(),
            places: Vec::new(),
            deadlines: BTreeSet::new(),
            with_edges: Vec::new(),
            due: Vec::new(),
            now: Instant::ZERO,
            wall_offset,
            rng: Rng::new(seed),
            with_host: VecDeque::new(),
        }
    }

    /// A new namespace; `None` beyond [`MAX_NAMESPACES`].
    pub fn ns_create(&mut self) -> Option<NsId> {
        let id = match self.free.pop_front() {
            Some(id) => id,
            None if self.namespaces.len() >= MAX_NAMESPACES => return None,
            None => {
                self.namespaces.push(None);
                self.places.push(Place::EMPTY);
                NsId::new(self.namespaces.len() as u32 - 1, 0)
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
        self.namespaces[id.index()] = Some(ns);
        Some(id)
    }

    /// Deletes a namespace with all it owns; veth partners elsewhere go with their ends (`cleanup_net`).
    pub fn ns_destroy(&mut self, id: NsId) {
        let Some(ns) = self.namespaces.get_mut(id.index()).and_then(|n| n.take_if(|n| n.id == id)) else {
            return;
        };
        let peers: Vec<_> = ns.devs.iter().filter_map(|d| d.peer()).collect();
        drop(ns);
        self.deadlines.remove(&(self.places[id.index()].deadline, id));
        self.places[id.index()] = Place::EMPTY;
        self.ready.retain(|i| *i != id);
        self.with_edges.retain(|i| *i != id);
        self.with_host.retain(|i| *i != id);
        self.free.push_back(id.next_generation());
        for (peer_ns, dev) in peers {
            self.link_forget(peer_ns, dev);
        }
    }

    /// A namespace to look at.
    #[must_use]
    pub fn ns(&self, id: NsId) -> Option<&Namespace> {
        self.namespaces.get(id.index())?.as_deref().filter(|n| n.id == id)
    }

    /// A namespace to change; it is run at the next [`World::run_softirq`].
    pub fn ns_mut(&mut self, id: NsId) -> Option<&mut Namespace> {
        let i = id.index();
        let ns = self.namespaces.get_mut(i)?.as_deref_mut().filter(|n| n.id == id)?;
        ns.env.now = self.now;
        if !self.places[i].queued {
            self.places[i].queued = true;
            self.ready.push_back(id);
        }
        Some(ns)
    }

    fn queue(&mut self, id: NsId) {
        let place = &mut self.places[id.index()];
        if !place.queued {
            place.queued = true;
            self.ready.push_back(id);
        }
    }

    fn set_deadline(&mut self, id: NsId, at: Instant) {
        let place = &mut self.places[id.index()];
        // A deadline that moves away is left alone: the namespace runs early once and is noted anew. Most do
        // so with every packet.
        if place.deadline == at || (place.deadline < at && place.deadline > self.now) {
            return;
        }
        if place.deadline != Instant::NEVER {
            self.deadlines.remove(&(place.deadline, id));
        }
        place.deadline = at;
        if at != Instant::NEVER {
            self.deadlines.insert((at, id));
        }
    }

    /// After a namespace ran: its frames cross, its timers and readiness edges are noted.
    fn after_run(&mut self, id: NsId) {
        self.cross(id);
        let i = id.index();
        let Some(ns) = self.namespaces[i].as_deref() else { return };
        let at = ns.env.timers.next_timeout().unwrap_or(Instant::NEVER);
        if !ns.env.host_tx.is_empty() && !self.places[i].host {
            self.places[i].host = true;
            self.with_host.push_back(id);
        }
        if ns.socks.has_events() && !self.places[i].edges {
            self.places[i].edges = true;
            self.with_edges.push(id);
        }
        if !ns.env.backlog.is_empty() {
            self.queue(id);
        }
        self.set_deadline(id, at);
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

    /// Moves time forward; timers fire at the next [`World::run_softirq`]. Never goes back. A namespace learns
    /// the time when it is run or changed ([`World::ns_mut`]); whoever only looks at it calls [`World::touch`].
    pub fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Tells a namespace the time, before something is read that depends on it.
    pub fn touch(&mut self, id: NsId) {
        if let Some(Some(ns)) = self.namespaces.get_mut(id.index())
            && ns.id == id
        {
            ns.env.now = self.now;
        }
    }

    /// The earliest timer of all namespaces. May be early when one was disarmed since the last run.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        // Those that were changed since are in `ready`.
        let changed = self.ready.iter().filter_map(|id| self.ns(*id)?.env.timers.next_timeout());
        changed.chain(self.deadlines.first().map(|d| d.0)).min()
    }

    /// Runs namespaces with work until none is left or about `budget` packets were handled. `true`: call
    /// again, there is more.
    ///
    /// Frames come before timers: what has arrived is taken in first, so that no timer claims it has not (an
    /// ACK that only waited for this turn of the loop is no reason for a loss probe).
    pub fn run_softirq(&mut self, mut budget: usize) -> bool {
        loop {
            while let Some(&id) = self.ready.front() {
                if budget == 0 {
                    // A flood does not hold up the timers.
                    self.run_timers();
                    return true;
                }
                self.ready.pop_front();
                self.places[id.index()].queued = false;
                let Some(ns) = self.namespaces[id.index()].as_deref_mut() else { continue };
                ns.env.now = self.now;
                let done = ns.net_rx_action(budget.min(64));
                budget -= done.min(budget);
                self.after_run(id);
            }
            self.run_timers();
            if self.ready.is_empty() {
                return false;
            }
        }
    }

    /// Runs the timers that are due, once for each namespace.
    fn run_timers(&mut self) {
        let mut due = core::mem::take(&mut self.due);
        due.extend(self.deadlines.iter().take_while(|d| d.0 <= self.now).map(|d| d.1));
        for id in due.drain(..) {
            let Some(ns) = self.namespaces[id.index()].as_deref_mut() else { continue };
            ns.env.now = self.now;
            ns.on_timeout();
            self.after_run(id);
        }
        self.due = due;
    }

    /// Hands what left a namespace to the other ends of its devices.
    #[inline]
    fn cross(&mut self, id: NsId) {
        // Delivery never transmits, so the queue can be away while it is emptied.
        let Some(ns) = self.namespaces[id.index()].as_deref_mut() else { return };
        if ns.env.tx.is_empty() {
            return;
        }
        let mut queue = core::mem::take(&mut ns.env.tx);
        while let Some(mut p) = queue.pop() {
            let Some(ns) = self.namespaces[id.index()].as_deref_mut() else { break };
            match ns.devs.get(p.meta().dev).map(|d| &d.kind) {
                Some(&DevKind::Veth(Some((peer_ns, peer)))) => {
                    p.meta_mut().dev = peer;
                    self.deliver(id, peer_ns, p);
                }
                Some(DevKind::Veth(None)) => ns.env.drop(p, DropReason::NoCarrier),
                Some(DevKind::Loopback | DevKind::Dummy | DevKind::Backend { .. }) | None => {
                    ns.env.drop(p, DropReason::DevGone);
                }
            }
        }
        if let Some(ns) = self.namespaces[id.index()].as_deref_mut() {
            ns.env.tx = queue;
        }
    }

    fn drop_in(&mut self, id: NsId, p: Packet, r: DropReason) {
        match self.namespaces[id.index()].as_deref_mut() {
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
        let Ok([a, b]) = self.namespaces.get_disjoint_mut([from.index(), to.index()]) else {
            self.drop_in(from, p, DropReason::NsGone);
            return;
        };
        match (a.as_deref_mut(), b.as_deref_mut().filter(|b| b.id == to)) {
            (Some(a), Some(b)) => {
                b.env.pool.rebalance(&mut a.env.pool);
                b.env.now = self.now;
                b.netif_rx(p);
                self.queue(to);
            }
            (Some(a), None) => a.env.drop(p, DropReason::NsGone),
            (None, _) => p.release(),
        }
    }

    /// Takes the readiness edges of all sockets: token and `poll` bits.
    pub fn take_sock_events(&mut self, f: &mut dyn FnMut(u64, u16)) {
        let mut ids = core::mem::take(&mut self.with_edges);
        for id in &ids {
            self.places[id.index()].edges = false;
        }
        // Those changed since their last run are in `ready`.
        for id in ids.iter().chain(&self.ready) {
            let ns = self.namespaces.get_mut(id.index()).and_then(|n| n.as_deref_mut());
            if let Some(ns) = ns.filter(|n| n.socks.has_events()) {
                ns.socks.take_events(f);
            }
        }
        ids.clear();
        self.with_edges = ids;
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
    #[inline]
    pub fn take_backend_tx(&mut self) -> Option<(NsId, Packet)> {
        while let Some(&id) = self.with_host.front() {
            let ns = self.namespaces.get_mut(id.index()).and_then(|n| n.as_deref_mut());
            if let Some(p) = ns.and_then(|n| n.env.host_tx.pop()) {
                return Some((id, p));
            }
            self.with_host.pop_front();
            self.places[id.index()].host = false;
        }
        None
    }

    /// Gives the box of a frame back that the host has sent.
    pub fn backend_done(&mut self, ns: NsId, p: Packet) {
        match self.namespaces.get_mut(ns.index()).and_then(|n| n.as_deref_mut()).filter(|n| n.id == ns) {
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
    fn places_of_gone_namespaces_are_used_again_under_other_ids() {
        let mut w = World::new(1, 0);
        let keep = w.ns_create().expect("room");
        let mut gone = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let ids: Vec<_> = (0..10).map(|_| w.ns_create().expect("room")).collect();
            assert!(ids.iter().all(|id| w.ns_mut(*id).is_some()));
            w.run_softirq(1000);
            ids.iter().for_each(|id| w.ns_destroy(*id));
            gone.extend(ids);
        }
        assert_eq!(w.iter().count(), 1);
        assert!(w.ns(keep).is_some());
        assert!(w.namespaces.len() < 20, "{}", w.namespaces.len());
        // Whoever kept an id finds nothing behind it, and destroys nobody else.
        assert_eq!(gone.len(), 2000, "no id was given twice");
        let last = w.ns_create().expect("room");
        for id in gone {
            assert!(w.ns(id).is_none() && w.ns_mut(id).is_none());
            w.ns_destroy(id);
        }
        assert!(w.ns(last).is_some());
    }

    #[test]
    fn a_timer_is_known_before_and_after_the_loop_ran() {
        let mut w = World::new(1, 0);
        let ids: Vec<_> = (0..4).map(|_| w.ns_create().expect("room")).collect();
        w.run_softirq(1000);
        let at = Instant(5_000_000_000);
        w.ns_mut(ids[2]).expect("exists").env.timers.arm(at, TimerKey::Conntrack);
        assert!(w.next_timeout().is_some_and(|t| t <= at), "also before the loop has seen it");
        w.run_softirq(1000);
        // The wheel may ask for turns before.
        let mut turns = 0;
        while let Some(t) = w.next_timeout() {
            w.set_now(t);
            w.run_softirq(1000);
            turns += 1;
        }
        assert!((1..10).contains(&turns) && w.now() == at, "{turns} turns, {:?}", w.now());
    }
}
