//! Packet formats: one header per file, zero-copy views.
//!
//! Every header is a `#[repr(C)]` structure of bytes and big-endian integers that is laid over the packet,
//! never copied: `Hdr::view(&bytes)`, `Hdr::view_mut(&mut bytes)`, `Hdr::split(&bytes)`. A view says only
//! that enough bytes are there. Where the kernel validates more, the header has a pure `check` that names
//! what is wrong with a [`WireError`]. Field and constant names are the kernel's (`saddr`, `tot_len`,
//! `ICMP_FRAG_NEEDED`); accessors speak host integers.
//!
//! Nothing here allocates, knows a socket, or may panic on any input.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used))]

#[macro_use]
mod header;

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod igmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndisc;
pub mod tcp;
pub mod udp;
pub mod virtio;

pub use arp::ArpHdr;
pub use ethernet::{EthHdr, MacAddr, VlanHdr};
pub use header::WireError;
pub use icmp::IcmpHdr;
pub use icmpv6::Icmp6Hdr;
pub use ipv4::Ipv4Hdr;
pub use ipv6::Ipv6Hdr;
pub use tcp::{SeqNr, TcpFlags, TcpHdr, TcpOptions};
pub use udp::UdpHdr;

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers"; `include/uapi/linux/in.h`).
pub mod ipproto {
    /// IPv6 hop-by-hop options (RFC 8200 §4.3); as an IPv4 protocol: dummy for raw sockets (`IPPROTO_IP`).
    pub const IPPROTO_HOPOPTS: u8 = 0;
    /// ICMP for IPv4 (RFC 792).
    pub const IPPROTO_ICMP: u8 = 1;
    /// Internet group management (RFC 3376).
    pub const IPPROTO_IGMP: u8 = 2;
    /// IPv4 in IP (RFC 2003).
    pub const IPPROTO_IPIP: u8 = 4;
    /// Transmission control protocol (RFC 9293).
    pub const IPPROTO_TCP: u8 = 6;
    /// User datagram protocol (RFC 768).
    pub const IPPROTO_UDP: u8 = 17;
    /// IPv6 in IP (RFC 4213).
    pub const IPPROTO_IPV6: u8 = 41;
    /// IPv6 routing header (RFC 8200 §4.4).
    pub const IPPROTO_ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 §4.5).
    pub const IPPROTO_FRAGMENT: u8 = 44;
    /// Generic routing encapsulation (RFC 2784).
    pub const IPPROTO_GRE: u8 = 47;
    /// Encapsulating security payload (RFC 4303).
    pub const IPPROTO_ESP: u8 = 50;
    /// Authentication header (RFC 4302).
    pub const IPPROTO_AH: u8 = 51;
    /// ICMP for IPv6 (RFC 4443).
    pub const IPPROTO_ICMPV6: u8 = 58;
    /// Nothing follows (RFC 8200 §4.7).
    pub const IPPROTO_NONE: u8 = 59;
    /// IPv6 destination options (RFC 8200 §4.6).
    pub const IPPROTO_DSTOPTS: u8 = 60;
    /// Stream control transmission protocol (RFC 9260).
    pub const IPPROTO_SCTP: u8 = 132;
    /// Lightweight UDP (RFC 3828).
    pub const IPPROTO_UDPLITE: u8 = 136;
    /// Raw IP packets; on sockets only.
    pub const IPPROTO_RAW: u8 = 255;
}
