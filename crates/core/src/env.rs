//! `Env`: what every stage and table needs of its namespace besides the tables. Concrete, passed as `&mut`.

use crate::drop::DropReason;
use crate::ids::IfIndex;
use crate::mib::MibTable;
use crate::packet::{Packet, PacketQueue, Pool};
use crate::rng::Rng;
use crate::sysctl::SysctlTable;
use crate::time::Instant;
use crate::timer::Timers;
use crate::trace::{Record, SNAPLEN, Step, Trace};

/// Whose timer it is; the number names the entry in its table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimerKey {
    /// A neighbour entry.
    Neigh(u64),
    /// Periodic work of the neighbour table.
    NeighGc,
    /// A reassembly queue.
    Frag(u64),
    /// A full TCP socket.
    Tcp(u64),
    /// A request socket (SYN queue).
    Request(u64),
    /// A TIME_WAIT entry.
    TimeWait(u64),
    /// IPv6 address: DAD and lifetimes.
    Addr6(u64),
    /// Router solicitation of a device.
    RouterSolicit(IfIndex),
    /// Route lifetime.
    Route(u64),
    /// A device's queueing discipline or link emulation.
    Qdisc(IfIndex),
    /// Bridge ageing, STP.
    Bridge(IfIndex),
    /// Multicast reports of a device (IGMP, MLD).
    Mcast(IfIndex),
    /// Conntrack garbage collection.
    Conntrack,
}

/// Counts by drop reason.
#[derive(Clone, Debug)]
pub struct DropCounters(Box<[u64]>);

impl Default for DropCounters {
    fn default() -> Self {
        DropCounters(vec![0; DropReason::ALL.len()].into_boxed_slice())
    }
}

impl DropCounters {
    /// How many packets ended for this reason.
    #[must_use]
    pub fn get(&self, r: DropReason) -> u64 {
        self.0[r as usize]
    }
    /// The reasons seen, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&r| (r, self.get(r))).filter(|&(_, n)| n > 0)
    }
}

/// See the module text.
#[derive(Debug)]
pub struct Env {
    /// The present.
    pub now: Instant,
    /// Wall clock minus `now`, nanoseconds since 1970 at the origin; for timestamps programs see.
    pub wall_offset: u64,
    /// Randomness.
    pub rng: Rng,
    /// All timers of the namespace.
    pub timers: Timers<TimerKey>,
    /// Counters.
    pub mib: MibTable,
    /// Tunables.
    pub sysctl: SysctlTable,
    /// The packets' ways.
    pub trace: Trace,
    /// Packet boxes.
    pub pool: Pool,
    /// Packets for local delivery, taken up by the softirq loop: loopback, veth, ICMP errors.
    pub backlog: PacketQueue,
    /// Packets that left through a device whose other end is a device too: `World` delivers them.
    pub tx: PacketQueue,
    /// Packets that left through a device whose other end is the host.
    pub host_tx: PacketQueue,
    /// Drops by reason.
    pub drops: DropCounters,
}

impl Env {
    /// A fresh environment; `seed` decides everything random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Env {
            now: Instant::ZERO,
            wall_offset: 0,
            rng: Rng::new(seed),
            timers: Timers::new(),
            mib: MibTable::default(),
            sysctl: SysctlTable::default(),
            trace: Trace::default(),
            pool: Pool::default(),
            backlog: PacketQueue::new(),
            tx: PacketQueue::new(),
            host_tx: PacketQueue::new(),
            drops: DropCounters::default(),
        }
    }

    /// The only way to lose a packet: counts the reason and its MIB counter (`kfree_skb_reason`).
    #[cold]
    pub fn drop(&mut self, p: Packet, r: DropReason) {
        self.drops.0[r as usize] += 1;
        if let Some(m) = r.mib() {
            self.mib.inc(m);
        }
        self.trace(&p, Step::Drop(r));
        self.pool.put(p);
    }

    /// Ends a packet that reached its goal (`consume_skb`).
    #[inline]
    pub fn consume(&mut self, p: Packet) {
        if self.trace.enabled() {
            self.trace(&p, Step::Consumed);
        }
        self.pool.put(p);
    }

    /// Records a step of a packet that is traced.
    #[inline]
    pub fn trace(&mut self, p: &Packet, step: Step) {
        if self.trace.enabled() && p.meta().trace != 0 {
            self.record(p, step);
        }
    }

    /// Records that a traced packet is at a stage. The step is made only then: a branch is all that others pay.
    #[inline]
    pub fn stage(&mut self, p: &Packet, name: &'static str) {
        if self.trace.enabled() && p.meta().trace != 0 {
            self.record(p, Step::Stage(name));
        }
    }

    /// Records the route a traced packet takes; its kind is named only then.
    #[inline]
    pub fn trace_route(&mut self, p: &Packet, kind: impl FnOnce() -> &'static str, dev: IfIndex) {
        if self.trace.enabled() && p.meta().trace != 0 {
            self.record(p, Step::Route(kind(), dev));
        }
    }

    /// Records a hook behind the stage that consists of little more, if there is a name for it.
    #[inline]
    pub fn trace_hook(
        &mut self,
        p: &Packet,
        stage: impl FnOnce() -> Option<&'static str>,
        hook: impl FnOnce() -> &'static str,
    ) {
        if self.trace.enabled() && p.meta().trace != 0 {
            if let Some(name) = stage() {
                self.record(p, Step::Stage(name));
            }
            self.record(p, Step::Hook(hook()));
        }
    }

    #[cold]
    fn record(&mut self, p: &Packet, step: Step) {
        let m = p.meta();
        let keep = matches!(step, Step::Rx | Step::Tx | Step::Drop(_));
        let mut bytes = vec![0; if keep { p.len().min(SNAPLEN) } else { 0 }];
        let _ = p.copy_bits(0, &mut bytes);
        self.trace.push(Record {
            id: m.trace,
            at: self.now,
            dev: m.dev,
            step,
            bytes: bytes.into_boxed_slice(),
            len: p.len() as u32,
        });
    }
}
