//! Netlink: sockets, messages, families (netlink(7)).

/// A netlink socket.
#[derive(Debug)]
pub struct NetlinkSock {}
