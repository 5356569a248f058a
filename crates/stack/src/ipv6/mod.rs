//! IPv6: input, forwarding, output, ICMPv6, neighbour discovery (`net/ipv6`).

pub mod addr;
pub mod addrconf;
pub mod addrlabel;
pub mod exthdrs;
pub mod forward;
pub mod icmp;
pub mod input;
pub mod mcast;
pub mod ndisc;
pub mod output;
pub mod reassembly;
pub mod route;
#[cfg(test)]
mod tests;

use core::net::Ipv6Addr;
use core::time::Duration;

use ferronet_core::Instant;
use ferronet_core::rng::Rng;
use ferronet_core::timer::TimerId;

/// What IPv6 keeps per device (`struct inet6_dev`) besides addresses and tunables.
#[derive(Clone, Debug, Default)]
pub struct Inet6Dev {
    /// Was up with carrier since it last went up (`IF_READY`).
    pub ready: bool,
    /// A router solicitation was sent (`IF_RS_SENT`).
    pub rs_sent: bool,
    /// A router answered (`IF_RA_RCVD`).
    pub ra_rcvd: bool,
    /// The last router wants addresses to come from DHCPv6 (`IF_RA_MANAGED`).
    pub ra_managed: bool,
    /// The last router wants other configuration to come from DHCPv6 (`IF_RA_OTHERCONF`).
    pub ra_other: bool,
    /// Solicitations sent.
    pub rs_probes: u32,
    /// Time between the last two.
    pub rs_interval: Duration,
    /// The next solicitation.
    pub rs_timer: TimerId,
    /// Addresses on which duplicate address detection runs.
    pub dad: Vec<addrconf::dad::Dad>,
    /// Detection, and lifetimes of addresses.
    pub addr_timer: TimerId,
    /// Anycast addresses with a user count (`/proc/net/anycast6`).
    pub anycast: Vec<(Ipv6Addr, u32)>,
    /// Addresses whose solicited-node group was joined, once for each time.
    pub solicited: Vec<Ipv6Addr>,
    /// Reports of groups.
    pub mld: mcast::Mld,
}

/// What IPv6 keeps per namespace besides tables that both families share.
#[derive(Debug)]
pub struct Inet6 {
    /// Key of automatic flow labels (RFC 6437).
    pub flow_key: [u64; 2],
    /// Key of fragment identifications and stable interface identifiers (RFC 7739, RFC 7217).
    pub id_key: [u64; 2],
    /// Which ICMPv6 types are rate-limited, read from the sysctl of this generation.
    pub ratemask: (u64, [u64; 4]),
    /// When the next route or default router ends.
    pub route_timer: TimerId,
    /// That time.
    pub route_gc_at: Instant,
    /// What routers said about better first hops.
    pub redirects: route::Redirects,
    /// Labels of addresses for source address selection.
    pub labels: addrlabel::AddrLabels,
}

impl Inet6 {
    /// Fresh keys.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let mut key = || [rng.next_u64(), rng.next_u64()];
        let (flow_key, id_key) = (key(), key());
        Inet6 {
            flow_key,
            id_key,
            ratemask: (u64::MAX, [0; 4]),
            route_timer: TimerId::NONE,
            route_gc_at: Instant::NEVER,
            redirects: route::Redirects::new(rng),
            labels: addrlabel::AddrLabels::default(),
        }
    }
}
