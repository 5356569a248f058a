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
                TimerKey::Addr6(dev) => {
                    crate::ipv6::addrconf::addr_timer(self, ferronet_core::IfIndex(dev as u32));
                }
                TimerKey::RouterSolicit(dev) => crate::ipv6::addrconf::ra::rs_timer(self, dev),
                TimerKey::Route(_) => crate::ipv6::route::fib6_gc(self),
                TimerKey::Mcast(dev) => {
                    crate::ipv4::igmp::timer(self, dev);
                    crate::ipv6::mcast::timer(self, dev);
                }
                TimerKey::Bridge(_) | TimerKey::Conntrack => {}
            }
        }
    }
}
