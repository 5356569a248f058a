//! IPv6 addresses of devices: link-local, DAD, autoconfiguration (`net/ipv6/addrconf.c`).

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex};

use crate::ns::Namespace;

/// A device went up.
pub fn dev_up(_ns: &mut Namespace, _dev: IfIndex) {}

/// A device went down.
pub fn dev_down(_ns: &mut Namespace, _dev: IfIndex) {}

/// The carrier of a device that is up changed.
pub fn carrier_changed(_ns: &mut Namespace, _dev: IfIndex, _on: bool) {}

/// Removes an IPv6 address (`inet6_addr_del`).
///
/// # Errors
/// `EADDRNOTAVAIL` when there is none.
pub fn inet6_addr_del(_ns: &mut Namespace, _dev: IfIndex, _a: IpAddr, _len: Option<u8>) -> Result<(), Errno> {
    Err(Errno::EADDRNOTAVAIL)
}
