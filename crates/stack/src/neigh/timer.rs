//! What time does to neighbours: probes, decay, clean-up.

use core::time::Duration;

use ferronet_core::sysctl::{NeighParm, NeighParms};
use ferronet_core::timer::TimerId;
use ferronet_core::{Env, Packet, Sysctl};
use slotmap::KeyData;

use super::{
    NeighId, NeighKey, NeighTable, Probe, count, millis, nud, packet_saddr, reachable_time, seconds,
    timer_key,
};
use crate::fib::Family;
use crate::notify::Notifications;

/// What a timer asks for.
#[derive(Debug, Default)]
pub struct TimerWork {
    /// A probe to send.
    pub probe: Option<Probe>,
    /// Packets whose neighbour does not answer; each gets an ICMP error.
    pub failed: Vec<Packet>,
}

/// Probes without an answer until an entry fails (`neigh_max_probes`). Each tunable goes up to `i32::MAX`.
fn max_probes(p: &NeighParms, state: u8) -> u32 {
    let last = if state == nud::INCOMPLETE { NeighParm::McastSolicit } else { NeighParm::McastResolicit };
    count(p, NeighParm::UcastSolicit)
        .saturating_add(count(p, NeighParm::AppSolicit))
        .saturating_add(count(p, last))
}

impl NeighTable {
    /// An entry's timer fired (`neigh_timer_handler`).
    pub fn on_timer(
        &mut self,
        env: &mut Env,
        parms: &NeighParms,
        notify: &mut Notifications,
        id: u64,
    ) -> TimerWork {
        let id = NeighId::from(KeyData::from_ffi(id));
        let mut work = TimerWork::default();
        let Some(n) = self.entries.get_mut(id) else { return work };
        n.timer = TimerId::NONE;
        let now = env.now;
        let delay = seconds(parms, NeighParm::DelayFirstProbeTime);
        let retrans = millis(parms, NeighParm::RetransTimeMs).max(Duration::from_millis(10));
        let reach = reachable_time(&mut env.rng, parms);
        let mut next = now + retrans;
        match n.state {
            nud::REACHABLE if now < n.confirmed + reach => next = n.confirmed + reach,
            nud::REACHABLE if now < n.used + delay => {
                n.set_state(env, notify, nud::DELAY);
                n.updated = now;
                next = now + delay;
            }
            nud::REACHABLE => {
                n.updated = now;
                n.set_state(env, notify, nud::STALE);
                return work;
            }
            nud::DELAY if now < n.confirmed + delay => {
                n.updated = now;
                n.set_state(env, notify, nud::REACHABLE);
                next = n.confirmed + reach;
            }
            nud::DELAY => {
                n.set_state(env, notify, nud::PROBE);
                n.updated = now;
                n.probes = 0;
            }
            _ => {}
        }
        if n.state & (nud::INCOMPLETE | nud::PROBE) != 0 {
            let max = max_probes(parms, n.state);
            if n.probes >= max {
                n.updated = now;
                n.set_state(env, notify, nud::FAILED);
                while let Some(p) = n.queue.pop() {
                    work.failed.push(p);
                }
                n.queue_bytes = 0;
                return work;
            }
            n.probes += 1;
            let unicast = (n.state == nud::PROBE).then_some(n.mac);
            let saddr = n.queue.front().and_then(packet_saddr);
            work.probe = Some(Probe { key: n.key, unicast, saddr });
        }
        if n.state & nud::IN_TIMER != 0 {
            n.timer = env.timers.arm(next, timer_key(id));
        }
        work
    }

    /// Periodic clean-up (`neigh_periodic_work`): idle entries beyond `gc_thresh1` go.
    pub fn periodic_gc(&mut self, env: &mut Env, stale: Duration) {
        for (f, s) in [(Family::V4, Sysctl::Neigh4GcThresh1), (Family::V6, Sysctl::Neigh6GcThresh1)] {
            if self.counts[f as usize] < usize::try_from(env.sysctl.get(s)).unwrap_or(0) {
                continue;
            }
            let now = env.now;
            let old: Vec<NeighKey> = self
                .entries
                .values()
                .filter(|n| Family::of(n.key.addr) == f && n.state & (nud::PERMANENT | nud::IN_TIMER) == 0)
                .filter(|n| n.state == nud::FAILED || now - n.used.max(n.confirmed) > stale)
                .map(|n| n.key)
                .collect();
            for k in old {
                self.remove(env, k);
            }
        }
    }
}
