//! IPv6: input, forwarding, output, ICMPv6, neighbour discovery (`net/ipv6`).

pub mod addr;
pub mod addrconf;
pub mod exthdrs;
pub mod forward;
pub mod icmp;
pub mod input;
pub mod mcast;
pub mod ndisc;
pub mod output;
pub mod reassembly;
pub mod route;

use ferronet_core::rng::Rng;
use ferronet_core::timer::TimerId;

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
}

impl Inet6 {
    /// Fresh keys.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let mut key = || [rng.next_u64(), rng.next_u64()];
        Inet6 { flow_key: key(), id_key: key(), ratemask: (u64::MAX, [0; 4]), route_timer: TimerId::NONE }
    }
}
