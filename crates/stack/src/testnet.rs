//! Small networks for tests: namespaces, veth pairs, time that moves from timer to timer.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use std::fmt::Write as _;

use ferronet_core::{IfIndex, NsId};
use ferronet_wire::MacAddr;

use crate::dev::{IfAddr, ifa_f};
use crate::fib::{Family, table_id};
use crate::ns::Namespace;
use crate::world::World;
use crate::world::link::LinkSpec;

/// A world with helpers.
pub(crate) struct Net {
    pub(crate) world: World,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Net {
        Net { world: World::new(seed, 0) }
    }
    /// A namespace with `lo` up.
    pub(crate) fn ns(&mut self) -> NsId {
        let id = self.world.ns_create().expect("a namespace");
        self.world.link_set_up(id, IfIndex::LO, true).expect("lo");
        id
    }
    /// A pair with MAC addresses 02::`a` and 02::`b`; both down.
    pub(crate) fn veth(&mut self, a: (NsId, &str, u8), b: (NsId, &str, u8)) -> (IfIndex, IfIndex) {
        let spec = |name: &str, n: u8| LinkSpec {
            name: name.to_owned(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, n])),
            ..LinkSpec::default()
        };
        self.world.link_add_veth(a.0, &spec(a.1, a.2), b.0, &spec(b.1, b.2)).expect("a pair")
    }
    pub(crate) fn up(&mut self, ns: NsId, dev: IfIndex) {
        self.world.link_set_up(ns, dev, true).expect("a device");
    }
    pub(crate) fn down(&mut self, ns: NsId, dev: IfIndex) {
        self.world.link_set_up(ns, dev, false).expect("a device");
    }
    pub(crate) fn at(&mut self, ns: NsId) -> &mut Namespace {
        self.world.ns_mut(ns).expect("a namespace")
    }
    /// Adds an IPv6 address without duplicate address detection.
    pub(crate) fn addr(&mut self, ns: NsId, dev: IfIndex, a: &str) {
        let (a, len) = a.split_once('/').expect("a prefix");
        let mut i = IfAddr::new(a.parse().expect("an address"), len.parse().expect("a length"));
        if i.local.is_ipv6() {
            i.flags |= ifa_f::NODAD;
            crate::ipv6::addrconf::inet6_addr_add(self.at(ns), dev, i).expect("added");
        } else {
            crate::dev::addr_ops::inet_insert_ifa(self.at(ns), dev, i).expect("added");
        }
    }
    /// Handles all that is to do at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.world.run_softirq(1000) {
                return;
            }
        }
        panic!("a storm of packets");
    }
    /// Lets time pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.world.now() + Duration::from_millis(ms);
        self.settle();
        while let Some(t) = self.world.next_timeout().filter(|t| *t <= end) {
            let now = self.world.now();
            self.world.set_now(t.max(now + Duration::from_nanos(1)).min(end));
            self.settle();
            if self.world.now() == end {
                break;
            }
        }
        self.world.set_now(end);
        self.settle();
    }
    /// A frame arrives at a device.
    pub(crate) fn rx(&mut self, ns: NsId, dev: IfIndex, frame: &[u8]) {
        let n = self.at(ns);
        let mut p = n.env.pool.from_slice(frame);
        p.meta_mut().dev = dev;
        n.netif_rx(p);
        self.settle();
    }
}

/// `ip -6 route show table main` and `local`, as iproute2 prints them.
pub(crate) fn routes6(ns: &Namespace) -> String {
    let mut out = String::new();
    for table in [table_id::MAIN, table_id::LOCAL] {
        let Some(t) = ns.fib.table(Family::V6, table) else { continue };
        for e in t.iter() {
            if table == table_id::LOCAL || e.kind != crate::fib::RouteType::Unicast {
                let _ = write!(out, "{} ", crate::ipv4::input::kind_name(e.kind));
            }
            if e.dst_len == 0 {
                out.push_str("default");
            } else if e.dst_len == 128 {
                let _ = write!(out, "{}", e.dst);
            } else {
                let _ = write!(out, "{}/{}", e.dst, e.dst_len);
            }
            for n in &e.nexthops {
                if let Some(g) = n.gw {
                    let _ = write!(out, " via {g}");
                }
                let _ = write!(out, " dev {}", ns.devs.get(n.dev).map_or("?", |d| d.name.as_str()));
            }
            if table == table_id::LOCAL {
                out.push_str(" table local");
            }
            let proto = match e.protocol {
                2 => "kernel",
                9 => "ra",
                _ => "static",
            };
            let _ = write!(out, " proto {proto} metric {}", e.priority);
            if e.nexthops.iter().any(|n| n.flags & 16 != 0) {
                out.push_str(" linkdown");
            }
            if let Some(t) = e.expires {
                let _ = write!(out, " expires {}sec", (t - ns.env.now).as_secs());
            }
            let pref = ["medium", "high", "?", "low"][usize::from(e.pref & 3)];
            let _ = writeln!(out, " pref {pref}");
        }
    }
    out
}

/// The IPv6 addresses of a device in order: `address/len flags`.
pub(crate) fn addrs6(ns: &Namespace, dev: IfIndex) -> Vec<(String, u32)> {
    let d = ns.devs.get(dev).expect("a device");
    d.addrs
        .iter()
        .filter(|a| a.local.is_ipv6())
        .map(|a| (format!("{}/{}", a.local, a.prefix_len), a.flags))
        .collect()
}

/// The groups of a device with users, as `ip maddr` prints them.
pub(crate) fn groups(ns: &Namespace, dev: IfIndex) -> Vec<(String, u32)> {
    ns.devs.get(dev).expect("a device").mcast.iter().map(|m| (m.0.to_string(), m.1)).collect()
}

pub(crate) fn v6(s: &str) -> Ipv6Addr {
    s.parse().expect("an IPv6 address")
}

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().expect("an address")
}
