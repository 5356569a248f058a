//! Namespaces, devices, neighbours, routing, IPv4, IPv6, ICMP, UDP, TCP glue and sockets.
//!
//! Start reading at [`path`].
#![forbid(unsafe_code)]

pub mod dev;
pub mod fib;
pub mod inet_frag;
pub mod ipv4;
pub mod ipv6;
pub mod neigh;
pub mod notify;
pub mod ns;
pub mod path;
pub mod pmtu;
pub mod sock;
pub mod sysctl;
pub mod tcp;
#[cfg(test)]
pub(crate) mod testnet;
pub mod timers;
pub mod udp;
pub mod world;

pub use ns::Namespace;
pub use world::World;
