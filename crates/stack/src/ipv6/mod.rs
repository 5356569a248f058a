//! IPv6: input, forwarding, output, ICMPv6, neighbour discovery (`net/ipv6`).

pub mod addrconf;
pub mod icmp;
pub mod input;
pub mod ndisc;
pub mod output;
pub mod reassembly;
pub mod route;
