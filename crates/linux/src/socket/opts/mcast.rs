//! Multicast memberships and their filters by source (ip(7), RFC 3678).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::Namespace;
use ferronet_stack::dev::mcast::McFilter;
use ferronet_stack::sock::mcast::{self, SourceOp, Which};

use super::{Who, u32_at};
use crate::kernel::af;

const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IP_UNBLOCK_SOURCE: i32 = 37;
const IP_BLOCK_SOURCE: i32 = 38;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const IP_DROP_SOURCE_MEMBERSHIP: i32 = 40;
pub(super) const IP_MSFILTER: i32 = 41;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_BLOCK_SOURCE: i32 = 43;
const MCAST_UNBLOCK_SOURCE: i32 = 44;
const MCAST_LEAVE_GROUP: i32 = 45;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const MCAST_LEAVE_SOURCE_GROUP: i32 = 47;
pub(super) const MCAST_MSFILTER: i32 = 48;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_DROP_MEMBERSHIP: i32 = 21;

/// `MCAST_EXCLUDE`; `MCAST_INCLUDE` is 1.
const MCAST_EXCLUDE: u32 = 0;
const MCAST_INCLUDE: u32 = 1;

/// Bytes of `struct sockaddr_storage`, and where it stands in `struct group_req` and `struct group_filter`.
const SOCKADDR_STORAGE: usize = 128;
const GROUP_AT: usize = 8;
/// Bytes of `struct group_req`.
const GROUP_REQ: usize = GROUP_AT + SOCKADDR_STORAGE;
/// Bytes of `struct group_source_req`.
const GROUP_SOURCE_REQ: usize = GROUP_REQ + SOCKADDR_STORAGE;
/// Bytes of `struct group_filter` without sources (`GROUP_FILTER_SIZE(0)`).
const GROUP_FILTER: usize = GROUP_REQ + 8;
/// Bytes of `struct ip_msfilter` without sources (`IP_MSFILTER_SIZE(0)`).
const IP_MSFILTER_LEN: usize = 16;
/// Bytes of `struct ip_mreq_source`.
const IP_MREQ_SOURCE: usize = 12;

/// Options of `IPPROTO_IP`; `None` for others.
pub(super) fn set_ip(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Option<Result<(), Errno>> {
    Some(match name {
        IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP => ip_mreq(ns, w, name == IP_ADD_MEMBERSHIP, val),
        IP_ADD_SOURCE_MEMBERSHIP => ip_mreq_source(ns, w, SourceOp::Join, val),
        IP_DROP_SOURCE_MEMBERSHIP => ip_mreq_source(ns, w, SourceOp::Leave, val),
        IP_BLOCK_SOURCE => ip_mreq_source(ns, w, SourceOp::Block, val),
        IP_UNBLOCK_SOURCE => ip_mreq_source(ns, w, SourceOp::Unblock, val),
        IP_MSFILTER => ip_msfilter(ns, w, val),
        _ => return set_group(ns, w, af::INET, name, val),
    })
}

/// Options of `IPPROTO_IPV6`; `None` for others.
pub(super) fn set_ipv6(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Option<Result<(), Errno>> {
    Some(match name {
        IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP => ipv6_mreq(ns, w, name == IPV6_ADD_MEMBERSHIP, val),
        _ => return set_group(ns, w, af::INET6, name, val),
    })
}

/// The options that both levels have, with addresses of the level's family.
fn set_group(ns: &mut Namespace, w: Who, family: i32, name: i32, val: &[u8]) -> Option<Result<(), Errno>> {
    Some(match name {
        MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP => group_req(ns, w, family, name == MCAST_JOIN_GROUP, val),
        MCAST_JOIN_SOURCE_GROUP => group_source_req(ns, w, family, SourceOp::Join, val),
        MCAST_LEAVE_SOURCE_GROUP => group_source_req(ns, w, family, SourceOp::Leave, val),
        MCAST_BLOCK_SOURCE => group_source_req(ns, w, family, SourceOp::Block, val),
        MCAST_UNBLOCK_SOURCE => group_source_req(ns, w, family, SourceOp::Unblock, val),
        MCAST_MSFILTER => group_filter(ns, w, family, val),
        _ => return None,
    })
}

fn addr4(val: &[u8], at: usize) -> Result<Ipv4Addr, Errno> {
    let b: [u8; 4] = val.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(Ipv4Addr::from(b))
}

/// An address of the family in a `struct sockaddr_storage`.
fn storage(family: i32, val: &[u8], at: usize) -> Result<IpAddr, Errno> {
    let b = val.get(at..).unwrap_or(&[]);
    let given = b.first_chunk().map_or(0, |f| i32::from(u16::from_ne_bytes(*f)));
    if given != family {
        return Err(Errno::EADDRNOTAVAIL);
    }
    Ok(crate::socket::addr::parse(family, b).map_err(|_| Errno::EADDRNOTAVAIL)?.addr)
}

/// `IP_ADD_MEMBERSHIP`, `IP_DROP_MEMBERSHIP`: `struct ip_mreq` or `struct ip_mreqn`.
fn ip_mreq(ns: &mut Namespace, w: Who, join: bool, val: &[u8]) -> Result<(), Errno> {
    if w.stream() {
        return Err(Errno::EPROTO);
    }
    let m = Which {
        group: IpAddr::V4(addr4(val, 0)?),
        addr: addr4(val, 4)?,
        dev: IfIndex(u32_at(val, 8).unwrap_or(0)),
    };
    if join { mcast::join(ns, w.key, &m) } else { mcast::leave(ns, w.key, &m) }
}

/// `IPV6_JOIN_GROUP`, `IPV6_LEAVE_GROUP`: `struct ipv6_mreq`.
fn ipv6_mreq(ns: &mut Namespace, w: Who, join: bool, val: &[u8]) -> Result<(), Errno> {
    let octets: [u8; 16] = *val.first_chunk().ok_or(Errno::EINVAL)?;
    let dev = IfIndex(u32_at(val, 16)?);
    if join && w.stream() {
        return Err(Errno::EPROTO);
    }
    let m = Which { group: IpAddr::V6(Ipv6Addr::from(octets)), dev, addr: Ipv4Addr::UNSPECIFIED };
    if join { mcast::join(ns, w.key, &m) } else { mcast::leave(ns, w.key, &m) }
}

/// `struct ip_mreq_source`: group, interface, source.
fn ip_mreq_source(ns: &mut Namespace, w: Who, op: SourceOp, val: &[u8]) -> Result<(), Errno> {
    if val.len() != IP_MREQ_SOURCE {
        return Err(Errno::EINVAL);
    }
    let m = Which { group: IpAddr::V4(addr4(val, 0)?), addr: addr4(val, 4)?, dev: IfIndex::NONE };
    mcast::source(ns, w.key, &m, IpAddr::V4(addr4(val, 8)?), op)
}

/// The device and group of `struct group_req` and those that begin like it.
fn group_of(family: i32, val: &[u8]) -> Result<Which, Errno> {
    let dev = IfIndex(u32_at(val, 0)?);
    Ok(Which { group: storage(family, val, GROUP_AT)?, dev, addr: Ipv4Addr::UNSPECIFIED })
}

/// `struct group_req`: interface, group.
fn group_req(ns: &mut Namespace, w: Who, family: i32, join: bool, val: &[u8]) -> Result<(), Errno> {
    if val.len() < GROUP_REQ {
        return Err(Errno::EINVAL);
    }
    let m = group_of(family, val)?;
    if join { mcast::join(ns, w.key, &m) } else { mcast::leave(ns, w.key, &m) }
}

/// `struct group_source_req`: interface, group, source.
fn group_source_req(ns: &mut Namespace, w: Who, family: i32, op: SourceOp, val: &[u8]) -> Result<(), Errno> {
    if val.len() < GROUP_SOURCE_REQ {
        return Err(Errno::EINVAL);
    }
    let m = group_of(family, val)?;
    mcast::source(ns, w.key, &m, storage(family, val, GROUP_REQ)?, op)
}

/// How many sources a filter of `head` bytes names; there must be room for them in the value.
fn count(ns: &Namespace, val: &[u8], head: usize, each: usize, v6: bool) -> Result<usize, Errno> {
    let n = usize::try_from(u32_at(val, head - 4)?).map_err(|_| Errno::ENOBUFS)?;
    if n > mcast::max_sources(ns, v6) {
        return Err(Errno::ENOBUFS);
    }
    if val.len() < head + n * each {
        return Err(Errno::EINVAL);
    }
    Ok(n)
}

/// `MCAST_INCLUDE` or `MCAST_EXCLUDE`.
fn exclude(mode: u32) -> Result<bool, Errno> {
    match mode {
        MCAST_EXCLUDE => Ok(true),
        MCAST_INCLUDE => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct ip_msfilter`: group, interface, mode, number of sources, sources.
fn ip_msfilter(ns: &mut Namespace, w: Who, val: &[u8]) -> Result<(), Errno> {
    if val.len() < IP_MSFILTER_LEN {
        return Err(Errno::EINVAL);
    }
    let n = count(ns, val, IP_MSFILTER_LEN, size_of::<Ipv4Addr>(), false)?;
    let m = Which { group: IpAddr::V4(addr4(val, 0)?), addr: addr4(val, 4)?, dev: IfIndex::NONE };
    let sources: Result<_, Errno> =
        (0..n).map(|i| Ok(IpAddr::V4(addr4(val, IP_MSFILTER_LEN + i * size_of::<Ipv4Addr>())?))).collect();
    let filter = McFilter { exclude: exclude(u32_at(val, 8)?)?, sources: sources? };
    mcast::set_filter(ns, w.key, &m, filter)
}

/// `struct group_filter`: interface, group, mode, number of sources, sources.
fn group_filter(ns: &mut Namespace, w: Who, family: i32, val: &[u8]) -> Result<(), Errno> {
    if val.len() < GROUP_FILTER {
        return Err(Errno::EINVAL);
    }
    let n = count(ns, val, GROUP_FILTER, SOCKADDR_STORAGE, family == af::INET6)?;
    // Only IPv4 looks at the families; for IPv6 what is read as another family's is no group.
    let other = |e| if family == af::INET6 { Errno::EINVAL } else { e };
    let m = group_of(family, val).map_err(other)?;
    let sources: Result<_, Errno> =
        (0..n).map(|i| storage(family, val, GROUP_FILTER + i * SOCKADDR_STORAGE)).collect();
    let filter = McFilter { exclude: exclude(u32_at(val, GROUP_REQ)?)?, sources: sources? };
    mcast::set_filter(ns, w.key, &m, filter)
}
