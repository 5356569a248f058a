//! `IPPROTO_IPV6` (`net/ipv6/ipv6_sockglue.c`, ipv6(7), RFC 3542).

use core::net::Ipv6Addr;

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;
use ferronet_stack::sock::SockFlags;

use crate::uapi::in4::*;
use crate::uapi::in6::*;

use super::{Who, flag, int, set_bind_flag, set_flag, to_int, u32_at};

/// Options that are a flag and nothing else.
fn flag_of(name: i32) -> Option<SockFlags> {
    Some(match name {
        IPV6_FLOWINFO => SockFlags::FLOWINFO,
        IPV6_MULTICAST_LOOP => SockFlags::MC6_LOOP,
        IPV6_RECVERR => SockFlags::RECVERR6,
        IPV6_MULTICAST_ALL => SockFlags::MC6_ALL,
        IPV6_FLOWINFO_SEND => SockFlags::FLOWINFO_SEND,
        IPV6_RECVPKTINFO => SockFlags::PKTINFO6,
        IPV6_RECVHOPLIMIT => SockFlags::RECVHOPLIMIT,
        IPV6_RECVPATHMTU => SockFlags::RECVPATHMTU,
        IPV6_DONTFRAG => SockFlags::DONTFRAG6,
        IPV6_RECVTCLASS => SockFlags::RECVTCLASS,
        IPV6_AUTOFLOWLABEL => SockFlags::AUTOFLOWLABEL,
        IPV6_RECVORIGDSTADDR => SockFlags::RECVORIGDST6,
        IPV6_FREEBIND => SockFlags::FREEBIND,
        _ => return None,
    })
}

/// `getsockopt`.
pub(super) fn get(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    if name == IPV6_AUTOFLOWLABEL {
        return Ok(int(1));
    }
    if let Some(f) = flag_of(name) {
        return flag(ns, w.key, f);
    }
    let c = ns.socks.common(w.key)?;
    let o = c.opts.as_deref();
    Ok(match name {
        IPV6_2292PKTINFO
        | IPV6_2292HOPOPTS
        | IPV6_2292DSTOPTS
        | IPV6_2292RTHDR
        | IPV6_2292HOPLIMIT
        | IPV6_ROUTER_ALERT
        | IPV6_ROUTER_ALERT_ISOLATE
        | IPV6_RECVERR_RFC4884
        | IPV6_RECVHOPOPTS
        | IPV6_RECVRTHDR
        | IPV6_RECVDSTOPTS
        | IPV6_RECVFRAGSIZE => int(0),
        IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_RTHDR | IPV6_DSTOPTS => Vec::new(),
        IPV6_UNICAST_HOPS => int(if c.hops < 0 { 64 } else { i32::from(c.hops) }),
        IPV6_MULTICAST_IF => int(o.map_or(0, |o| o.mc6_index.0 as i32)),
        IPV6_MULTICAST_HOPS => int(o.map_or(1, |o| i32::from(o.mc_hops))),
        IPV6_MTU_DISCOVER => int(i32::from(c.pmtudisc6)),
        IPV6_MTU => int(super::ip::mtu(ns, w, Family::V6)?),
        IPV6_V6ONLY => return flag(ns, w.key, SockFlags::V6ONLY),
        IPV6_TCLASS => int(o.map_or(0, |o| i32::from(o.tclass.max(0)))),
        IPV6_ADDR_PREFERENCES => {
            int(o.map_or(0x500, |o| if o.addr_prefs == 0 { 0x500 } else { o.addr_prefs }))
        }
        IPV6_MINHOPCOUNT => int(o.map_or(0, |o| i32::from(o.min_hops))),
        IPV6_TRANSPARENT => return flag(ns, w.key, SockFlags::TRANSPARENT),
        IPV6_UNICAST_IF => o.map_or(0, |o| o.uc_index.0).to_be_bytes().to_vec(),
        IPV6_ADDRFORM if w.ty == crate::kernel::sock_type::RAW => return Err(Errno::ENOPROTOOPT),
        IPV6_2292PKTOPTIONS if w.stream() => Vec::new(),
        IPV6_CHECKSUM => int(super::misc::checksum(ns, w)?),
        IPV6_HDRINCL if w.ty == crate::kernel::sock_type::RAW => int(0),
        IPV6_ADDRFORM | IPV6_PATHMTU => return Err(Errno::ENOTCONN),
        IPV6_FLOWLABEL_MGR
        | MCAST_MSFILTER
        | IP6T_SO_SET_REPLACE
        | IP6T_SO_SET_ADD_COUNTERS
        | IP6T_SO_GET_REVISION_MATCH
        | IP6T_SO_GET_REVISION_TARGET => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// Options of `setsockopt` whose answer does not depend on the value as an int; `None`: the value decides.
fn set_fixed(w: Who, name: i32, val: &[u8]) -> Option<Result<(), Errno>> {
    Some(match name {
        IPV6_MULTICAST_IF | IPV6_MULTICAST_HOPS if w.stream() => Err(Errno::ENOPROTOOPT),
        // Old option data: none is made.
        IPV6_2292PKTOPTIONS => Ok(()),
        IPV6_JOIN_ANYCAST
        | IPV6_LEAVE_ANYCAST
        | IPV6_FLOWLABEL_MGR
        | IPV6_XFRM_POLICY
        | IP6T_SO_SET_REPLACE
        | IP6T_SO_SET_ADD_COUNTERS => Err(Errno::EINVAL),
        IPV6_IPSEC_POLICY => Err(Errno::EOPNOTSUPP),
        IPV6_ROUTER_ALERT if val.len() >= 4 => Err(Errno::ENOPROTOOPT),
        IPV6_PATHMTU | IP6T_SO_GET_REVISION_MATCH | IP6T_SO_GET_REVISION_TARGET => Err(Errno::ENOPROTOOPT),
        IPV6_DONTFRAG | IPV6_AUTOFLOWLABEL | IPV6_RECVFRAGSIZE if val.len() < 4 => Ok(()),
        IPV6_CHECKSUM if w.proto == i32::from(ferronet_wire::ipproto::IPPROTO_ICMPV6) => Err(Errno::EINVAL),
        // Extension headers of every packet: none is supported, removing them is.
        IPV6_RECVHOPOPTS | IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_RECVRTHDR | IPV6_RTHDR
        | IPV6_RECVDSTOPTS | IPV6_DSTOPTS
            if val.is_empty() =>
        {
            Ok(())
        }
        IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_RTHDR | IPV6_DSTOPTS => Err(Errno::EINVAL),
        _ => return None,
    })
}

/// Options that are accepted and change nothing here.
fn is_without_effect(name: i32) -> bool {
    matches!(
        name,
        IPV6_2292PKTINFO
            | IPV6_2292HOPOPTS
            | IPV6_2292DSTOPTS
            | IPV6_2292RTHDR
            | IPV6_2292HOPLIMIT
            | IPV6_ROUTER_ALERT
            | IPV6_ROUTER_ALERT_ISOLATE
            | IPV6_RECVERR_RFC4884
            | IPV6_RECVHOPOPTS
            | IPV6_RECVRTHDR
            | IPV6_RECVDSTOPTS
            | IPV6_USE_MIN_MTU
            | IPV6_RECVFRAGSIZE
    )
}

/// `setsockopt`.
pub(super) fn set(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    if let Some(r) = super::mcast::set_ipv6(ns, w, name, val) {
        return r;
    }
    if let Some(r) = set_fixed(w, name, val) {
        return r;
    }
    if name == IPV6_PKTINFO {
        return sticky_pktinfo(ns, w, val);
    }
    let v = to_int(val)?;
    if matches!(name, IPV6_MULTICAST_LOOP | IPV6_RECVERR_RFC4884) && !(0..=1).contains(&v) {
        return Err(Errno::EINVAL);
    }
    if let Some(f) = flag_of(name) {
        return set_flag(ns, w.key, f, v != 0);
    }
    let byte = || match v {
        -1 => Ok(-1),
        0..=255 => Ok(v as i16),
        _ => Err(Errno::EINVAL),
    };
    match name {
        IPV6_V6ONLY => {
            if ns.socks.common(w.key)?.lport != 0 || w.ty == crate::kernel::sock_type::RAW {
                return Err(Errno::EINVAL);
            }
            return set_bind_flag(ns, w.key, SockFlags::V6ONLY, v != 0);
        }
        IPV6_TRANSPARENT if v != 0 && !w.raw_or_admin() => return Err(Errno::EPERM),
        IPV6_TRANSPARENT => return set_flag(ns, w.key, SockFlags::TRANSPARENT, v != 0),
        IPV6_MULTICAST_IF | IPV6_UNICAST_IF => {
            let dev = if name == IPV6_UNICAST_IF { u32::from_be(v as u32) } else { v as u32 };
            return set_dev(ns, w, name, dev);
        }
        _ => {}
    }
    let c = ns.socks.common_mut(w.key)?;
    match name {
        IPV6_UNICAST_HOPS => c.hops = byte()?,
        IPV6_MULTICAST_HOPS => c.rare().mc_hops = u8::try_from(byte()?).unwrap_or(1),
        IPV6_MTU_DISCOVER => c.pmtudisc6 = u8::try_from(v).ok().filter(|m| *m <= 5).ok_or(Errno::EINVAL)?,
        IPV6_MTU if v != 0 && v < 1280 => return Err(Errno::EINVAL),
        IPV6_MTU => c.rare().frag_size = v as u32,
        IPV6_TCLASS => {
            c.rare().tclass = byte()?;
            if w.stream() {
                c.tos = v.max(0) as u8 & !3;
            }
        }
        IPV6_ADDR_PREFERENCES if v < 0 => return Err(Errno::EINVAL),
        IPV6_ADDR_PREFERENCES => c.rare().addr_prefs = v,
        // IPV6_ADDRFORM
        IPV6_ADDRFORM if v == 2 && w.ty != crate::kernel::sock_type::RAW => return Err(Errno::ENOTCONN),
        IPV6_ADDRFORM if v == 2 => return Err(Errno::ENOPROTOOPT),
        IPV6_ADDRFORM => return Err(Errno::EINVAL),
        IPV6_HDRINCL if v == 0 => {}
        IPV6_MINHOPCOUNT => c.rare().min_hops = u8::try_from(v).map_err(|_| Errno::EINVAL)?,
        _ if is_without_effect(name) => {}
        IPV6_CHECKSUM => return super::misc::set_checksum(ns, w, v),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// `IPV6_MULTICAST_IF`, `IPV6_UNICAST_IF`.
fn set_dev(ns: &mut Namespace, w: Who, name: i32, dev: u32) -> Result<(), Errno> {
    if dev != 0 && ns.devs.get(IfIndex(dev)).is_none() {
        return Err(if name == IPV6_MULTICAST_IF { Errno::ENODEV } else { Errno::EADDRNOTAVAIL });
    }
    let c = ns.socks.common_mut(w.key)?;
    if dev != 0 && !c.bound_dev.is_none() && c.bound_dev.0 != dev {
        return Err(Errno::EINVAL);
    }
    let o = c.rare();
    *(if name == IPV6_MULTICAST_IF { &mut o.mc6_index } else { &mut o.uc_index }) = IfIndex(dev);
    Ok(())
}

/// `IPV6_PKTINFO` as an option: source and device of all packets; zeros to forget.
fn sticky_pktinfo(ns: &mut Namespace, w: Who, val: &[u8]) -> Result<(), Errno> {
    let a: [u8; 16] = *val.first_chunk().ok_or(Errno::EINVAL)?;
    let dev = IfIndex(u32_at(val, 16)?);
    let c = ns.socks.common_mut(w.key)?;
    if !dev.is_none() && !c.bound_dev.is_none() && dev != c.bound_dev {
        return Err(Errno::EINVAL);
    }
    c.rare().sticky_pktinfo = Some((Ipv6Addr::from(a), dev));
    Ok(())
}
