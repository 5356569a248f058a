//! The owner of all tables of one network namespace. Whoever holds `&mut Namespace` is the kernel.

use ferronet_core::sysctl::{Conf4, Conf6, DevConf4, DevConf6, NeighParm, NeighParms};
use ferronet_core::{Env, NsId};
use ferronet_netfilter::Netfilter;

use crate::dev::Devices;
use crate::fib::Fib;
use crate::inet_frag::FragTable;
use crate::ipv4::icmp::IcmpLimits;
use crate::ipv4::rtcache::InputCache;
use crate::neigh::NeighTable;
use crate::notify::Notifications;
use crate::pmtu::PmtuCache;
use crate::sock::Sockets;

/// `all` and `default` rows of the per-device tunables.
#[derive(Clone, Debug)]
pub struct ConfSet {
    /// `net.ipv4.conf.all`.
    pub all4: DevConf4,
    /// `net.ipv4.conf.default`: copied into new devices.
    pub default4: DevConf4,
    /// Those of `default4` that were written, by bit.
    pub default4_set: u64,
    /// `net.ipv6.conf.all`.
    pub all6: DevConf6,
    /// `net.ipv6.conf.default`.
    pub default6: DevConf6,
    /// `net.ipv4.neigh.default`.
    pub neigh4: NeighParms,
    /// `net.ipv6.neigh.default`.
    pub neigh6: NeighParms,
    /// `net.ipv6.conf.*.stable_secret`, those that are set.
    pub stable_secret: Vec<(crate::sysctl::Row, core::net::Ipv6Addr)>,
}

impl Default for ConfSet {
    fn default() -> Self {
        let conf4 = ferronet_core::sysctl::Conf(Conf4::DEFAULTS);
        let conf6 = ferronet_core::sysctl::Conf(Conf6::DEFAULTS);
        let neigh = ferronet_core::sysctl::Conf(NeighParm::DEFAULTS);
        // The `all` rows differ in one place each (ipv4_devconf, ipv6_devconf).
        let (mut all4, mut all6, mut neigh6) = (conf4.clone(), conf6.clone(), neigh.clone());
        all4.0[Conf4::AcceptSourceRoute as usize] = 0;
        all6.0[Conf6::AcceptDad as usize] = 0;
        neigh6.0[NeighParm::Locktime as usize] = 0;
        ConfSet {
            all4,
            default4: conf4,
            default4_set: 0,
            all6,
            default6: conf6,
            neigh4: neigh,
            neigh6,
            stable_secret: Vec::new(),
        }
    }
}

/// One network namespace.
#[derive(Debug)]
pub struct Namespace {
    /// Its name within the world.
    pub id: NsId,
    /// Shows the tunables that hold for all namespaces, as the kernel's initial one.
    pub init: bool,
    /// Time, randomness, timers, counters, tunables, packet pool, queues.
    pub env: Env,
    /// Devices with their addresses.
    pub devs: Devices,
    /// ARP and neighbour discovery caches.
    pub neigh: NeighTable,
    /// Routing tables and rules, IPv4 and IPv6.
    pub fib: Fib,
    /// Netfilter hooks.
    pub nf: Netfilter,
    /// `all` and `default` tunables.
    pub conf: ConfSet,
    /// Changes for netlink listeners.
    pub notify: Notifications,
    /// ICMP rate limits.
    pub icmp: IcmpLimits,
    /// Results of IPv4 input lookups.
    pub rt_input: InputCache,
    /// Learned path MTUs.
    pub pmtu: PmtuCache,
    /// Reassembly queues.
    pub frags: FragTable,
    /// Sockets.
    pub socks: Sockets,
    /// Segments that wait for the next of their flow, within one batch.
    pub gro: crate::dev::gro::Gro,
    /// Keys and timers of IPv6.
    pub inet6: crate::ipv6::Inet6,
}

impl Namespace {
    /// A namespace as the kernel makes one: `lo`, down, and nothing else.
    #[must_use]
    pub fn new(id: NsId, seed: u64) -> Self {
        let mut env = Env::new(seed);
        let conf = ConfSet::default();
        let devs = Devices::new(&conf);
        let neigh = NeighTable::new(&mut env.rng);
        let fib = Fib::new();
        let icmp = IcmpLimits::new(&mut env.rng);
        let rt_input = InputCache::default();
        let pmtu = PmtuCache::new(&mut env.rng);
        let frags = FragTable::new(&mut env.rng);
        let socks = Sockets::new(&mut env.rng);
        let inet6 = crate::ipv6::Inet6::new(&mut env.rng);
        Namespace {
            id,
            init: false,
            env,
            devs,
            neigh,
            fib,
            nf: Netfilter::default(),
            conf,
            notify: Notifications::default(),
            icmp,
            rt_input,
            pmtu,
            frags,
            socks,
            gro: crate::dev::gro::Gro::default(),
            inet6,
        }
    }
}
