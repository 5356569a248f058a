//! Multicast membership of sockets (`ip_mc_join_group`, `ipv6_sock_mc_join`).

use core::net::IpAddr;

use ferronet_core::IfIndex;

/// A group that a socket joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Group.
    pub group: IpAddr,
    /// On which device.
    pub dev: IfIndex,
}
