//! Classes of addresses (RFC 4291, `include/net/ipv6.h`, `net/ipv6/addrconf_core.c`).

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::IfIndex;

use crate::dev::{IfAddr, ifa_f};
use crate::ns::Namespace;

/// Interface-local scope.
pub const SCOPE_NODELOCAL: u8 = 1;
/// Link-local scope.
pub const SCOPE_LINKLOCAL: u8 = 2;
/// Site-local scope.
pub const SCOPE_SITELOCAL: u8 = 5;
/// Global scope.
pub const SCOPE_GLOBAL: u8 = 14;

/// All nodes of the link, `ff02::1`.
pub const LINKLOCAL_ALLNODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All nodes of the interface, `ff01::1`.
pub const INTERFACELOCAL_ALLNODES: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
/// All routers of the link, `ff02::2`.
pub const LINKLOCAL_ALLROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// All routers of the interface, `ff01::2`.
pub const INTERFACELOCAL_ALLROUTERS: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 2);
/// All routers of the site, `ff05::2`.
pub const SITELOCAL_ALLROUTERS: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2);

/// Scope of an address in the numbering of multicast scopes (`ipv6_addr_src_scope`): loopback counts as link-local.
#[must_use]
pub const fn addr_scope(a: Ipv6Addr) -> u8 {
    let o = a.octets();
    if a.is_multicast() {
        o[1] & 15
    } else if a.is_unicast_link_local() || a.is_loopback() {
        SCOPE_LINKLOCAL
    } else if o[0] == 0xfe && o[1] & 0xc0 == 0xc0 {
        SCOPE_SITELOCAL
    } else {
        SCOPE_GLOBAL
    }
}

/// A unicast link-local address.
#[must_use]
pub const fn is_link_local(a: Ipv6Addr) -> bool {
    a.is_unicast_link_local()
}

/// Means something only together with a device (`rt6_need_strict`).
#[must_use]
pub const fn need_strict(a: Ipv6Addr) -> bool {
    a.is_multicast() || a.is_unicast_link_local() || a.is_loopback()
}

/// An IPv6 address of a device.
#[must_use]
pub fn find_addr(ns: &Namespace, dev: IfIndex, a: Ipv6Addr) -> Option<&IfAddr> {
    ns.devs.get(dev)?.addrs.iter().find(|i| i.local == IpAddr::V6(a))
}

/// Is this one of our addresses, usable, on `dev` when the address is link-local (`ipv6_chk_addr`)?
#[must_use]
pub fn ipv6_chk_addr(ns: &Namespace, a: Ipv6Addr, dev: IfIndex) -> bool {
    let usable = |i: &IfAddr| i.local == IpAddr::V6(a) && i.flags & ifa_f::TENTATIVE == 0;
    let strict = is_link_local(a) && !dev.is_none() && dev != IfIndex::LO;
    ns.devs.iter().filter(|d| !strict || d.index == dev).any(|d| d.addrs.iter().any(usable))
}

/// A link-local address of a device that has none of the `banned` flags (`ipv6_get_lladdr`).
#[must_use]
pub fn ipv6_get_lladdr(ns: &Namespace, dev: IfIndex, banned: u32) -> Option<Ipv6Addr> {
    ns.devs.get(dev)?.addrs.iter().find_map(|i| match i.local {
        IpAddr::V6(a) if is_link_local(a) && i.flags & banned == 0 => Some(a),
        IpAddr::V6(_) | IpAddr::V4(_) => None,
    })
}

/// Has the device joined this group (`ipv6_chk_mcast_addr`)?
#[must_use]
pub fn ipv6_chk_mcast_addr(ns: &Namespace, dev: IfIndex, group: Ipv6Addr) -> bool {
    ns.devs.get(dev).is_some_and(|d| d.mcast.iter().any(|g| g.0 == IpAddr::V6(group)))
}

/// Leading bits two addresses share (`ipv6_addr_diff`).
#[must_use]
pub const fn common_prefix(a: Ipv6Addr, b: Ipv6Addr) -> u8 {
    (a.to_bits() ^ b.to_bits()).leading_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Ipv6Addr {
        s.parse().expect("an address")
    }

    #[test]
    fn scopes() {
        let cases = [
            ("::1", 2),
            ("fe80::1", 2),
            ("fec0::1", 5),
            ("fd00::1", 14),
            ("2001:db8::1", 14),
            ("2001::1", 14),
            ("2001:10::1", 14),
            ("2002::1", 14),
            ("::10.0.0.1", 14),
            ("::ffff:10.0.0.1", 14),
            ("ff02::1", 2),
            ("ff05::2", 5),
        ];
        for (s, scope) in cases {
            assert_eq!(addr_scope(a(s)), scope, "{s}");
        }
        assert_eq!(common_prefix(a("2001:db8::"), a("2001:db8:8000::")), 32);
        assert_eq!(common_prefix(a("::1"), a("::1")), 128);
    }
}
