//! Keeps processors from halting while programs and the supervisor answer each other in short turns.
//!
//! A call of a program ends a sleep of the supervisor, its answer one of the program, and the scheduler likes to wake
//! either on an idle processor. One that has halted takes long to come back: 20 to 40 µs on a virtual machine
//! without halt polling, the tenfold of the call. So while sleeps are short and many, a thread of policy SCHED_IDLE,
//! which gives way to everything, runs on each processor where the supervisor or a program that calls it was lately;
//! it stops by itself soon after the last turn. New connections of nginx and wrk, on two processors without
//! halt polling: 1,600–1,800 a second without, 2,100–2,800 with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};

use crate::os;

/// Processors that are kept awake at most.
const MAX: usize = 4;
/// A sleep shorter than this is one between two turns of the same talk, ns.
const SHORT: u64 = 200_000;
/// So many short sleeps in a row make a talk.
const TALK: u32 = 32;
/// How long after the last turn processors stay awake, ns.
const LINGER: u64 = 300_000;
/// How long a processor counts as used after somebody was seen there, ns.
const USED: u64 = 20_000_000;
/// After so many turns it is looked where one of the callers is.
const LOOK: u32 = 32;
/// Callers that are remembered.
const CALLERS: usize = 4;

/// One kept processor, shared with its thread.
struct Slot {
    /// Its number; negative: none yet.
    cpu: AtomicI32,
    /// When somebody was last seen there, CLOCK_MONOTONIC ns.
    seen: AtomicU64,
    /// The thread runs (or was just told to).
    running: AtomicBool,
    /// The thread may not do its work here: wrong rights, or a processor that is not ours.
    refused: AtomicBool,
}

struct Shared {
    slots: [Slot; MAX],
    /// Nobody spins beyond this time, ns.
    until: AtomicU64,
    ended: AtomicBool,
}

/// The threads, started when they are first needed.
pub(crate) struct Awake {
    shared: Arc<Shared>,
    threads: [Option<JoinHandle<()>>; MAX],
    /// Short sleeps in a row.
    short: u32,
    /// Threads that called lately.
    callers: [u32; CALLERS],
    /// More than one processor, so that there is another to be woken on.
    several: bool,
}

impl Awake {
    pub(crate) fn new() -> Self {
        let slot = || Slot {
            cpu: AtomicI32::new(-1),
            seen: AtomicU64::new(0),
            running: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(Shared {
                slots: std::array::from_fn(|_| slot()),
                until: AtomicU64::new(0),
                ended: AtomicBool::new(false),
            }),
            threads: Default::default(),
            short: 0,
            callers: [0; CALLERS],
            several: os::allowed_cpus() > 1 && !has_quota(),
        }
    }

    /// The supervisor slept from `before` to `now` (CLOCK_MONOTONIC, ns), or did not need to.
    pub(crate) fn turned(&mut self, before: u64, now: u64) {
        if now.saturating_sub(before) > SHORT {
            self.short = 0;
            return;
        }
        self.short = self.short.saturating_add(1);
        if self.short < TALK || !self.several {
            return;
        }
        self.shared.until.store(now + LINGER, Relaxed);
        self.seen(os::current_cpu(), now);
        if self.short.is_multiple_of(LOOK) {
            let caller = self.callers.get((self.short / LOOK) as usize % CALLERS).filter(|tid| **tid != 0);
            if let Some(cpu) = caller.and_then(|tid| os::processor_of(*tid)) {
                self.seen(cpu, now);
            }
        }
    }

    /// A thread made a call.
    pub(crate) fn called(&mut self, tid: u32) {
        if !self.callers.contains(&tid) {
            self.callers.rotate_right(1);
            self.callers[0] = tid;
        }
    }

    /// Somebody runs on `cpu`.
    fn seen(&mut self, cpu: i32, now: u64) {
        let slots = &self.shared.slots;
        let known = slots.iter().position(|s| s.cpu.load(Relaxed) == cpu);
        let oldest = || (0..MAX).min_by_key(|i| slots.get(*i).map_or(u64::MAX, |s| s.seen.load(Relaxed)));
        let Some((i, slot)) = known.or_else(oldest).and_then(|i| Some((i, slots.get(i)?))) else { return };
        slot.cpu.store(cpu, Relaxed);
        slot.seen.store(now, Relaxed);
        if !slot.running.load(Relaxed) && !slot.refused.load(Relaxed) {
            slot.running.store(true, Relaxed);
            self.start(i);
        }
    }

    fn start(&mut self, i: usize) {
        let Some(thread) = self.threads.get_mut(i) else { return };
        match thread {
            Some(t) => t.thread().unpark(),
            None => {
                let shared = Arc::clone(&self.shared);
                let work = move || shared.slots.get(i).map_or((), |slot| keep(&shared, slot));
                *thread = Builder::new().name("awake".to_owned()).stack_size(64 * 1024).spawn(work).ok();
            }
        }
    }
}

/// A control group limits the time on processors: what is spun would be missing elsewhere.
fn has_quota() -> bool {
    std::thread::available_parallelism().is_ok_and(|n| n.get() < os::allowed_cpus())
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
        for t in self.threads.iter_mut().filter_map(Option::take) {
            t.thread().unpark();
            let _ = t.join();
        }
    }
}

/// The thread: spins on its processor while it is wanted, sleeps else.
fn keep(shared: &Shared, slot: &Slot) {
    // Never at a policy that would take time from anybody.
    let mut at = -1;
    if !os::schedule_idle() {
        slot.refused.store(true, Relaxed);
    }
    while !shared.ended.load(Relaxed) {
        let cpu = slot.cpu.load(Relaxed);
        if cpu != at && !os::run_on(cpu) {
            slot.refused.store(true, Relaxed);
        }
        at = cpu;
        while wanted(shared, slot) && slot.cpu.load(Relaxed) == at {
            for _ in 0..64 {
                std::hint::spin_loop();
            }
        }
        if !wanted(shared, slot) {
            slot.running.store(false, Relaxed);
            std::thread::park();
        }
    }
}

fn wanted(shared: &Shared, slot: &Slot) -> bool {
    let now = os::monotonic_ns();
    let used = slot.seen.load(Relaxed) + USED;
    now < used.min(shared.until.load(Relaxed)) && !shared.ended.load(Relaxed) && !slot.refused.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_run_in_a_talk_and_end_after_it() {
        let mut a = Awake::new();
        a.several = true;
        let mut now = os::monotonic_ns();
        for _ in 0..TALK - 1 {
            a.turned(now, now + 10_000);
            now += 10_000;
        }
        assert!(a.threads.iter().all(Option::is_none), "a few short sleeps are no talk");
        a.turned(now, os::monotonic_ns());
        assert_eq!(a.threads.iter().flatten().count(), 1);
        // It stops by itself.
        while a.shared.slots.iter().any(|s| s.running.load(Relaxed)) {
            std::thread::yield_now();
        }
        let now = os::monotonic_ns();
        a.turned(now, now + SHORT + 1);
        assert_eq!(a.short, 0);
        drop(a);
    }
}
