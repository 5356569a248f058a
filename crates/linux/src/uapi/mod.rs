//! Numbers of the Linux ABI under their names, one table for each group of a header.
//!
//! The values are facts of the interface; `crates/host/tests/uapi.rs` compares them with `libc` and with the headers of
//! the machine. Code says `IP_TTL`, never 2: `cargo xtask tidy` refuses bare numbers in socket calls and netlink.

/// One group of names: all have one type and belong together in the header.
pub type Table = &'static [(&'static str, i64)];

/// Declares the constants of a group, and the group itself as a [`Table`].
macro_rules! names {
    ($(#[$doc:meta])* $table:ident: $ty:ty; $($name:ident = $value:expr,)+) => {
        $(#[allow(missing_docs, reason = "the manual page and the header say what it means")]
        pub const $name: $ty = $value;)+
        $(#[$doc])*
        pub const $table: super::Table = &[$((stringify!($name), $value)),+];
    };
}

pub mod genetlink;
pub mod icmp;
pub mod if_link;
pub mod if_packet;
pub mod in4;
pub mod in6;
pub mod netlink;
pub mod rtnetlink;
pub mod socket;
pub mod sockios;
pub mod tcp;
pub mod udp;

/// Every group, for the comparison with other sources.
pub const ALL: &[Table] = &[
    genetlink::CTRL_ATTR_NAMES,
    genetlink::CTRL_CMD_NAMES,
    icmp::ICMPV6_NAMES,
    icmp::ICMP_NAMES,
    if_link::IFLA_NAMES,
    if_link::IFLA_INET_NAMES,
    if_link::IFLA_INET6_NAMES,
    if_link::IFLA_INFO_NAMES,
    if_link::IFLA_PROTO_DOWN_REASON_NAMES,
    if_link::IFLA_TUN_NAMES,
    if_link::VETH_INFO_NAMES,
    if_packet::PACKET_NAMES,
    if_packet::TPACKET_NAMES,
    if_packet::TP_STATUS_NAMES,
    in4::IP_NAMES,
    in4::IP_PMTUDISC_NAMES,
    in6::IP6T_SO_NAMES,
    in6::IPV6_NAMES,
    netlink::NETLINK_NAMES,
    netlink::NETLINK_PROTO_NAMES,
    netlink::NLMSGERR_ATTR_NAMES,
    netlink::NL_ATTR_TYPE_NAMES,
    netlink::NL_POLICY_TYPE_ATTR_NAMES,
    rtnetlink::RTAX_NAMES,
    rtnetlink::RTN_NAMES,
    rtnetlink::RTNH_F_NAMES,
    sockios::SIOC_NAMES,
    socket::MSG_NAMES,
    socket::SCM_NAMES,
    socket::SO_NAMES,
    socket::SOL_NAMES,
    tcp::TCP_NAMES,
    udp::UDP_NAMES,
    udp::UDPLITE_NAMES,
];
