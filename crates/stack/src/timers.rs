//! Timers that fired, to their owners.

use core::time::Duration;

use ferronet_core::env::TimerKey;

use crate::ns::Namespace;

impl Namespace {
    /// Handles every timer that is due.
    pub fn on_timeout(&mut self) {
        if self.env.timers.next_timeout().is_none_or(|t| t > self.env.now) {
            return;
        }
        let mut due = Vec::new();
        self.env.timers.expire(self.env.now, &mut due);
        for key in due {
            match key {
                TimerKey::Neigh(id) => crate::neigh::output::neigh_timer(self, id),
                TimerKey::NeighGc => {
                    self.neigh.periodic_gc(&mut self.env, Duration::from_secs(60));
                }
                TimerKey::Frag(id) => crate::ipv4::frag::frag_timeout(self, id),
                TimerKey::Qdisc(dev) => crate::dev::netem::on_timer(self, dev),
                TimerKey::Tcp(id) => crate::tcp::tcp_timer(self, id),
                TimerKey::Request(id) => crate::tcp::request_timer(self, id),
                TimerKey::TimeWait(id) => crate::tcp::timewait_timer(self, id),
                TimerKey::Addr6(_)
                | TimerKey::RouterSolicit(_)
                | TimerKey::Route(_)
                | TimerKey::Bridge(_)
                | TimerKey::Mcast(_)
                | TimerKey::Conntrack => {}
            }
        }
    }
}
