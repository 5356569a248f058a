//! Link emulation on transmit: delay, rate, queue, loss, duplication, reordering (the terms of tc-netem(8)).
//!
//! A frame first waits for its turn on the wire (`rate`, with at most `limit` frames waiting), then it is on its
//! way for `delay` ± `jitter`. A link keeps the order of frames: jitter alone never reorders (in tc-netem it does);
//! `reorder` does, by sending a frame without the delay. Frames are cut to the MTU before they come here when the
//! link is slow, late or lossy, because a wire does not carry 64 KiB frames.
//!
//! Both directions of a veth are emulated at their senders. A device whose other end is in the host has the direction
//! from there emulated as frames come in (`enqueue_rx`), as tc-netem(8) does it with an ifb device.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use ferronet_core::env::TimerKey;
use ferronet_core::timer::TimerId;
use ferronet_core::{DropReason, Env, IfIndex, Instant, Packet};
use ferronet_wire::ethernet::ETH_HLEN;

use super::Device;
use super::flows::Flows;
use crate::ns::Namespace;

/// Frames that wait for the rate when nothing else is said (tc-netem(8): 1000).
pub const DEFAULT_LIMIT: u32 = 1000;
/// Frames on their way at most, so that memory is bounded whatever the delay.
const MAX_ON_THE_WAY: usize = 65_536;

/// Settings of one direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// One-way delay.
    pub delay: Duration,
    /// The delay varies uniformly by up to this much either way.
    pub jitter: Duration,
    /// Bits per second on the wire, Ethernet header included; 0 is unlimited.
    pub rate_bps: u64,
    /// Frames that wait for the rate at most; 0 is [`DEFAULT_LIMIT`].
    pub limit: u32,
    /// Frames lost, parts per million.
    pub loss_ppm: u32,
    /// Frames sent twice, parts per million.
    pub duplicate_ppm: u32,
    /// Frames sent without the delay, parts per million.
    pub reorder_ppm: u32,
}

impl Params {
    /// Changes nothing.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        *self == Params { limit: self.limit, ..Params::default() }
    }
}

/// What the link did to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames that left.
    pub sent: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Frames lost because the queue was full.
    pub overflowed: u64,
    /// Frames sent twice.
    pub duplicated: u64,
    /// Frames sent ahead of others.
    pub reordered: u64,
}

/// Settings and state of one direction of an emulated link.
#[derive(Debug, Default)]
pub struct Netem {
    params: Params,
    /// The wire is busy until then.
    busy_until: Instant,
    /// When the frames that wait for the wire, or are on it, will have left it.
    on_wire: VecDeque<Instant>,
    /// Frames by time of arrival and order.
    on_the_way: BTreeMap<(Instant, u64), Packet>,
    order: u64,
    /// Arrival of the last frame that kept its place.
    last: Instant,
    timer: TimerId,
    /// Counters.
    pub stats: Stats,
    /// Who talks to whom, when somebody wants to know.
    pub flows: Option<Flows>,
}

impl Netem {
    /// A link with these settings.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let mut n = Netem::default();
        n.params = params;
        n
    }

    fn with_flows(params: Params, flows: Option<Flows>) -> Box<Self> {
        let mut n = Box::new(Netem::new(params));
        n.flows = flows;
        n
    }

    /// The settings.
    #[must_use]
    pub fn params(&self) -> Params {
        self.params
    }

    /// New settings for frames to come; those on their way keep their time.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
    }

    /// A frame enters: it is lost, or leaves at a time of its own (`netem_enqueue`).
    pub fn push(&mut self, env: &mut Env, p: Packet) {
        if env.rng.chance_ppm(self.params.loss_ppm) {
            self.stats.lost += 1;
            env.drop(p, DropReason::LinkLoss);
            return;
        }
        if env.rng.chance_ppm(self.params.duplicate_ppm) {
            self.stats.duplicated += 1;
            let copy = p.copy(&mut env.pool);
            self.place(env, copy);
        }
        self.place(env, p);
    }

    /// Gives a frame its time.
    fn place(&mut self, env: &mut Env, p: Packet) {
        let sent = match self.serialize(env.now, p.len()) {
            Some(t) if self.on_the_way.len() < MAX_ON_THE_WAY => t,
            Some(_) | None => {
                self.stats.overflowed += 1;
                env.drop(p, DropReason::LinkQueue);
                return;
            }
        };
        let at = if env.rng.chance_ppm(self.params.reorder_ppm) {
            self.stats.reordered += 1;
            sent
        } else {
            let jitter = self.params.jitter.as_nanos() as u64;
            let low = (self.params.delay.as_nanos() as u64).saturating_sub(jitter);
            // 32 random bits spread over twice the jitter: finer than a microsecond for an hour of jitter.
            let spread = (u128::from(jitter) * 2 * u128::from(env.rng.next_u32())) >> 32;
            let at = sent + Duration::from_nanos(low) + Duration::from_nanos(spread as u64);
            self.last = self.last.max(at);
            self.last
        };
        self.order += 1;
        self.on_the_way.insert((at, self.order), p);
    }

    /// When the last bit of a frame has left, or `None` when the queue is full.
    fn serialize(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        if self.params.rate_bps == 0 {
            return Some(now);
        }
        while self.on_wire.front().is_some_and(|t| *t <= now) {
            self.on_wire.pop_front();
        }
        let limit = if self.params.limit == 0 { DEFAULT_LIMIT } else { self.params.limit };
        // The frame on the wire does not wait.
        if self.on_wire.len() > limit as usize {
            return None;
        }
        let nanos = u128::from(bytes as u64) * 8 * 1_000_000_000 / u128::from(self.params.rate_bps);
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos as u64);
        self.on_wire.push_back(self.busy_until);
        Some(self.busy_until)
    }

    /// The next frame whose time has come (`netem_dequeue`).
    pub fn pop(&mut self, now: Instant) -> Option<Packet> {
        let first = self.on_the_way.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        self.stats.sent += 1;
        Some(first.remove())
    }

    /// When the next frame leaves.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.on_the_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// Frames inside.
    #[must_use]
    pub fn len(&self) -> usize {
        self.on_the_way.len()
    }

    /// No frame inside?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.on_the_way.is_empty()
    }
}

impl Clone for Netem {
    /// The settings; frames and counters stay with the original.
    fn clone(&self) -> Self {
        Netem::new(self.params)
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        for (_, p) in core::mem::take(&mut self.on_the_way) {
            p.release();
        }
    }
}

/// Puts emulation on a device, or takes it away; frames inside go with it. `account` records who talks to whom.
/// `false` when there is no such device.
pub fn configure(ns: &mut Namespace, dev: IfIndex, params: Option<Params>, account: bool) -> bool {
    let flows = account.then(|| Flows::new(&mut ns.env.rng));
    let Some(d) = ns.devs.get_mut(dev) else { return false };
    if params.is_some_and(|p| !p.is_transparent()) {
        d.features.tso = false;
        d.features.uso = false;
    }
    let new = params.map(|p| Netem::with_flows(p, flows));
    let old = core::mem::replace(&mut d.netem, new);
    forget(ns, old);
    true
}

/// As [`configure`], for frames that come in from the other end of a back end. The sender must cut large frames itself.
pub fn configure_rx(ns: &mut Namespace, dev: IfIndex, params: Option<Params>, account: bool) -> bool {
    let flows = account.then(|| Flows::new(&mut ns.env.rng));
    let Some(d) = ns.devs.get_mut(dev) else { return false };
    let new = params.map(|p| Netem::with_flows(p, flows));
    let old = core::mem::replace(&mut d.netem_rx, new);
    forget(ns, old);
    true
}

/// An emulation was taken away, with what is on its way in it.
fn forget(ns: &mut Namespace, old: Option<Box<Netem>>) {
    let Some(mut old) = old else { return };
    ns.env.timers.cancel(&mut old.timer);
    while let Some(p) = old.pop(Instant::NEVER) {
        ns.env.drop(p, DropReason::QdiscDrop);
    }
}

/// A frame enters the emulated link.
pub fn enqueue(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    let Some((network, n)) = ns.devs.get_mut(dev).and_then(|d| {
        let header = if d.has_ethernet() { ETH_HLEN } else { 0 };
        d.netem.as_mut().map(|n| (header, n))
    }) else {
        super::tx::dev_hard_start_xmit(ns, p, dev);
        return;
    };
    if let Some(f) = &mut n.flows {
        f.account(&p, network);
    }
    if n.params.is_transparent() {
        n.stats.sent += 1;
        super::tx::dev_hard_start_xmit(ns, p, dev);
        return;
    }
    ns.env.stage(&p, "netem_enqueue");
    n.push(&mut ns.env, p);
    on_timer(ns, dev);
}

/// A frame comes in from the other end of a device; it is handled when its time has come.
#[inline]
pub fn enqueue_rx(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    if ns.devs.get(dev).is_some_and(|d| d.netem_rx.is_some()) {
        enqueue_emulated_rx(ns, p, dev);
    } else {
        ns.netif_rx(p);
    }
}

fn enqueue_emulated_rx(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    let Some((network, n)) = ns.devs.get_mut(dev).and_then(|d| {
        let header = if d.has_ethernet() { ETH_HLEN } else { 0 };
        d.netem_rx.as_mut().map(|n| (header, n))
    }) else {
        ns.netif_rx(p);
        return;
    };
    if let Some(f) = &mut n.flows {
        f.account(&p, network);
    }
    if n.params.is_transparent() {
        n.stats.sent += 1;
        ns.netif_rx(p);
        return;
    }
    n.push(&mut ns.env, p);
    on_timer(ns, dev);
}

/// The device's timer fired: frames whose time has come leave, and come in.
pub fn on_timer(ns: &mut Namespace, dev: IfIndex) {
    while let Some(p) = due(ns, dev, |d| d.netem.as_deref_mut()) {
        super::tx::dev_hard_start_xmit(ns, p, dev);
    }
    while let Some(p) = due(ns, dev, |d| d.netem_rx.as_deref_mut()) {
        ns.netif_rx(p);
    }
}

/// The next frame of one direction whose time has come; without one the timer is set for the next.
fn due(ns: &mut Namespace, dev: IfIndex, which: fn(&mut Device) -> Option<&mut Netem>) -> Option<Packet> {
    let n = which(ns.devs.get_mut(dev)?)?;
    if let Some(p) = n.pop(ns.env.now) {
        return Some(p);
    }
    match n.next_deadline() {
        Some(at) => ns.env.timers.rearm(&mut n.timer, at, TimerKey::Qdisc(dev)),
        None => {
            ns.env.timers.cancel(&mut n.timer);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    /// Sends `n` frames of 1000 bytes at once, and says which left when, in milliseconds.
    fn send(params: Params, n: u8) -> (Vec<(u8, u64)>, Stats, Env) {
        let mut env = Env::new(1);
        let mut link = Netem::new(params);
        for i in 0..n {
            let mut bytes = [0; 1000];
            bytes[0] = i;
            let p = env.pool.from_slice(&bytes);
            link.push(&mut env, p);
        }
        let mut out = Vec::new();
        while let Some(at) = link.next_deadline() {
            let early = at.0.checked_sub(1).and_then(|t| link.pop(Instant(t)));
            assert!(early.is_none(), "nothing leaves before its time");
            let p = link.pop(at).expect("its time has come");
            out.push((p.data()[0], at.millis()));
            env.consume(p);
        }
        (out, link.stats, env)
    }

    #[test]
    fn delay_keeps_order_and_rate_spaces() {
        let delay = Duration::from_millis(20);
        let (out, _, _) = send(Params { delay, ..Params::default() }, 3);
        assert_eq!(out, [(0, 20), (1, 20), (2, 20)]);
        // 1000 bytes at 1 Mbit/s take 8 ms.
        let (out, _, _) = send(Params { delay, rate_bps: 1_000_000, ..Params::default() }, 3);
        assert_eq!(out, [(0, 28), (1, 36), (2, 44)]);
    }

    #[test]
    fn the_queue_is_limited_and_drops_have_names() {
        let (out, stats, env) = send(Params { rate_bps: 1_000_000, limit: 2, ..Params::default() }, 10);
        // One on the wire and two that wait.
        assert_eq!(out.len(), 3);
        assert_eq!((stats.overflowed, stats.sent), (7, 3));
        assert_eq!(env.drops.get(DropReason::LinkQueue), 7);
    }

    #[test]
    fn jitter_stays_in_its_range_and_in_order() {
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(5));
        let (out, _, _) = send(Params { delay, jitter, ..Params::default() }, 200);
        assert!(out.iter().all(|(_, at)| (15..=25).contains(at)));
        assert!(out.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn loss_duplication_and_reordering_happen_about_as_often_as_asked() {
        let delay = Duration::from_millis(20);
        let p = Params {
            delay,
            loss_ppm: 200_000,
            duplicate_ppm: 100_000,
            reorder_ppm: 100_000,
            ..Params::default()
        };
        let (out, stats, env) = send(p, 250);
        assert_eq!(env.drops.get(DropReason::LinkLoss), stats.lost);
        assert_eq!(out.len() as u64, 250 - stats.lost + stats.duplicated);
        assert!((25..=75).contains(&stats.lost) && (8..=40).contains(&stats.duplicated));
        assert!((8..=45).contains(&stats.reordered));
        assert_eq!(out.iter().filter(|(_, at)| *at == 0).count() as u64, stats.reordered);
    }

    #[test]
    fn a_link_that_goes_away_takes_its_frames_along() {
        let mut env = Env::new(1);
        let mut link = Netem::new(Params { delay: Duration::from_secs(1), ..Params::default() });
        let p = env.pool.from_slice(&[0; 60]);
        link.push(&mut env, p);
        assert_eq!((link.len(), link.pop(ms(999)).is_none()), (1, true));
    }
}
