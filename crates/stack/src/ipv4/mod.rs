//! IPv4: input, forwarding, output, ICMP (`net/ipv4`).

pub mod forward;
pub mod frag;
pub mod icmp;
pub mod igmp;
pub mod input;
mod options;
pub mod output;
pub mod route;
pub mod rtcache;
