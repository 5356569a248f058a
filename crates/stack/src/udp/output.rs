//! UDP output (`udp_sendmsg`, `udpv6_sendmsg`).

use core::net::IpAddr;

use bytes::Bytes;
use ferronet_core::{Errno, IfIndex};

use super::MsgOpts;
use crate::ns::Namespace;
use crate::sock::SockKey;

/// Where a message goes.
#[derive(Clone, Debug)]
pub struct Dest {
    /// Canonical address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Scope of a link-local address.
    pub scope: IfIndex,
}

/// `connect(2)`.
///
/// # Errors
/// Routing errors.
pub fn connect(_ns: &mut Namespace, _key: SockKey, _dest: &Dest) -> Result<(), Errno> {
    Err(Errno::EOPNOTSUPP)
}

/// `connect(2)` to `AF_UNSPEC`.
pub fn disconnect(_ns: &mut Namespace, _key: SockKey) {}

/// `sendmsg(2)`.
///
/// # Errors
/// As udp(7).
pub fn sendmsg(
    _ns: &mut Namespace,
    _key: SockKey,
    _dest: Option<Dest>,
    _data: Bytes,
    _m: &MsgOpts,
) -> Result<usize, Errno> {
    Err(Errno::EOPNOTSUPP)
}
