//! Socket addresses: bytes in, bytes out (`struct sockaddr_in`, `sockaddr_in6`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::{Errno, IfIndex};

use crate::kernel::af;

/// A parsed internet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InetAddr {
    /// Address; IPv4 when the program said `AF_INET`.
    pub(crate) addr: IpAddr,
    /// Port.
    pub(crate) port: u16,
    /// `sin6_scope_id`.
    pub(crate) scope: IfIndex,
    /// `sin6_flowinfo`.
    pub(crate) flowinfo: u32,
    /// `AF_UNSPEC` was given: dissolve an association, or for bind(2) `AF_INET` with the address 0.
    pub(crate) unspec: bool,
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?))
}
fn ne32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// Reads an address for a socket of `family`.
///
/// # Errors
/// `EINVAL` when it is too short, `EAFNOSUPPORT` for another family.
pub(crate) fn parse(family: i32, b: &[u8]) -> Result<InetAddr, Errno> {
    let fam = b.get(..2).and_then(|f| f.try_into().ok()).map(u16::from_ne_bytes).ok_or(Errno::EINVAL)?;
    let v4 = |unspec| -> Result<InetAddr, Errno> {
        let octets: [u8; 4] = b.get(4..8).and_then(|a| a.try_into().ok()).ok_or(Errno::EINVAL)?;
        Ok(InetAddr {
            addr: IpAddr::V4(Ipv4Addr::from(octets)),
            port: be16(b, 2).ok_or(Errno::EINVAL)?,
            scope: IfIndex::NONE,
            flowinfo: 0,
            unspec,
        })
    };
    match i32::from(fam) {
        0 if b.len() >= 16 => v4(true),
        0 => Ok(InetAddr {
            addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            scope: IfIndex::NONE,
            flowinfo: 0,
            unspec: true,
        }),
        af::INET if b.len() < 16 => Err(Errno::EINVAL),
        af::INET => v4(false),
        // SIN6_LEN_RFC2133: the scope may be missing.
        af::INET6 if family == af::INET6 && b.len() >= 24 => {
            let octets: [u8; 16] = b.get(8..24).and_then(|a| a.try_into().ok()).ok_or(Errno::EINVAL)?;
            Ok(InetAddr {
                addr: IpAddr::V6(Ipv6Addr::from(octets)),
                port: be16(b, 2).ok_or(Errno::EINVAL)?,
                scope: IfIndex(ne32(b, 24).unwrap_or(0)),
                flowinfo: ne32(b, 4).map_or(0, u32::from_be),
                unspec: false,
            })
        }
        af::INET6 if family == af::INET6 => Err(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// Writes an address as a socket of `family` shows it: mapped when an IPv6 socket speaks IPv4.
pub(crate) fn print(family: i32, a: IpAddr, port: u16, scope: IfIndex) -> Vec<u8> {
    let mut v = Vec::with_capacity(28);
    if family == af::INET6 {
        let a6 = match a {
            IpAddr::V4(a) if a.is_unspecified() => Ipv6Addr::UNSPECIFIED,
            IpAddr::V4(a) => a.to_ipv6_mapped(),
            IpAddr::V6(a) => a,
        };
        v.extend_from_slice(&(af::INET6 as u16).to_ne_bytes());
        v.extend_from_slice(&port.to_be_bytes());
        v.extend_from_slice(&[0; 4]);
        v.extend_from_slice(&a6.octets());
        let scope = if a6.is_unicast_link_local() { scope.0 } else { 0 };
        v.extend_from_slice(&scope.to_ne_bytes());
    } else {
        let a4 = match a.to_canonical() {
            IpAddr::V4(a) => a,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        v.extend_from_slice(&(af::INET as u16).to_ne_bytes());
        v.extend_from_slice(&port.to_be_bytes());
        v.extend_from_slice(&a4.octets());
        v.extend_from_slice(&[0; 8]);
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_there_and_back() {
        let a = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
        let b = print(af::INET, a, 80, IfIndex::NONE);
        let p = parse(af::INET, &b).unwrap();
        assert_eq!((p.addr, p.port, b.len()), (a, 80, 16));
        let l = IpAddr::V6("fe80::1".parse().unwrap());
        let b = print(af::INET6, l, 9, IfIndex(3));
        let p = parse(af::INET6, &b).unwrap();
        assert_eq!((p.addr, p.port, p.scope, b.len()), (l, 9, IfIndex(3), 28));
        assert_eq!(parse(af::INET, &b), Err(Errno::EAFNOSUPPORT));
        assert_eq!(parse(af::INET, &b[..1]), Err(Errno::EINVAL));
        assert_eq!(parse(af::INET6, &b[..20]), Err(Errno::EINVAL));
    }
}
