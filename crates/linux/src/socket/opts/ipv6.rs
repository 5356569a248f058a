//! `IPPROTO_IPV6` (`net/ipv6/ipv6_sockglue.c`, ipv6(7), RFC 3542).

use core::net::Ipv6Addr;

use ferronet_core::{Errno, IfIndex};
use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;
use ferronet_stack::sock::SockFlags;

use super::{Who, flag, int, set_bind_flag, set_flag, to_int, u32_at};

/// Options that are a flag and nothing else.
fn flag_of(name: i32) -> Option<SockFlags> {
    Some(match name {
        11 => SockFlags::FLOWINFO,
        19 => SockFlags::MC6_LOOP,
        25 => SockFlags::RECVERR6,
        29 => SockFlags::MC6_ALL,
        33 => SockFlags::FLOWINFO_SEND,
        49 => SockFlags::PKTINFO6,
        51 => SockFlags::RECVHOPLIMIT,
        60 => SockFlags::RECVPATHMTU,
        62 => SockFlags::DONTFRAG6,
        66 => SockFlags::RECVTCLASS,
        70 => SockFlags::AUTOFLOWLABEL,
        74 => SockFlags::RECVORIGDST6,
        78 => SockFlags::FREEBIND,
        _ => return None,
    })
}

/// `getsockopt`.
pub(super) fn get(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    if name == 70 {
        return Ok(int(1));
    }
    if let Some(f) = flag_of(name) {
        return flag(ns, w.key, f);
    }
    let c = ns.socks.common(w.key)?;
    let o = c.opts.as_deref();
    Ok(match name {
        2 | 3 | 4 | 5 | 8 | 22 | 30 | 31 | 53 | 56 | 58 | 77 => int(0),
        54 | 55 | 57 | 59 => Vec::new(),
        16 => int(if c.hops < 0 { 64 } else { i32::from(c.hops) }),
        17 => int(o.map_or(0, |o| o.mc6_index.0 as i32)),
        18 => int(o.map_or(1, |o| i32::from(o.mc_hops))),
        23 => int(i32::from(c.pmtudisc6)),
        24 => int(super::ip::mtu(ns, w, Family::V6)?),
        26 => return flag(ns, w.key, SockFlags::V6ONLY),
        67 => int(o.map_or(0, |o| i32::from(o.tclass.max(0)))),
        72 => int(o.map_or(0x500, |o| if o.addr_prefs == 0 { 0x500 } else { o.addr_prefs })),
        73 => int(o.map_or(0, |o| i32::from(o.min_hops))),
        75 => return flag(ns, w.key, SockFlags::TRANSPARENT),
        76 => o.map_or(0, |o| o.uc_index.0).to_be_bytes().to_vec(),
        1 if w.ty == crate::kernel::sock_type::RAW => return Err(Errno::ENOPROTOOPT),
        6 if w.stream() => Vec::new(),
        7 => int(super::misc::checksum(ns, w)?),
        36 if w.ty == crate::kernel::sock_type::RAW => int(0),
        1 | 61 => return Err(Errno::ENOTCONN),
        32 | 48 | 64 | 65 | 68 | 69 => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// `setsockopt`.
pub(super) fn set(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    if let Some(r) = super::mcast::set_ipv6(ns, w, name, val) {
        return r;
    }
    match name {
        17 | 18 if w.stream() => return Err(Errno::ENOPROTOOPT),
        // Old option data: none is made.
        6 => return Ok(()),
        27 | 28 | 32 | 35 | 64 | 65 => return Err(Errno::EINVAL),
        34 => return Err(Errno::EOPNOTSUPP),
        22 if val.len() >= 4 => return Err(Errno::ENOPROTOOPT),
        61 | 68 | 69 => return Err(Errno::ENOPROTOOPT),
        62 | 70 | 77 if val.len() < 4 => return Ok(()),
        7 if w.proto == i32::from(ferronet_wire::ipproto::IPPROTO_ICMPV6) => return Err(Errno::EINVAL),
        50 => return sticky_pktinfo(ns, w, val),
        // Extension headers of every packet: none is supported, removing them is.
        53..=59 if val.is_empty() => return Ok(()),
        54 | 55 | 57 | 59 => return Err(Errno::EINVAL),
        _ => {}
    }
    let v = to_int(val)?;
    if matches!(name, 19 | 31) && !(0..=1).contains(&v) {
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
        26 => {
            if ns.socks.common(w.key)?.lport != 0 || w.ty == crate::kernel::sock_type::RAW {
                return Err(Errno::EINVAL);
            }
            return set_bind_flag(ns, w.key, SockFlags::V6ONLY, v != 0);
        }
        75 if v != 0 && !w.raw_or_admin() => return Err(Errno::EPERM),
        75 => return set_flag(ns, w.key, SockFlags::TRANSPARENT, v != 0),
        17 | 76 => {
            let dev = if name == 76 { u32::from_be(v as u32) } else { v as u32 };
            return set_dev(ns, w, name, dev);
        }
        _ => {}
    }
    let c = ns.socks.common_mut(w.key)?;
    match name {
        16 => c.hops = byte()?,
        18 => c.rare().mc_hops = u8::try_from(byte()?).unwrap_or(1),
        23 => c.pmtudisc6 = u8::try_from(v).ok().filter(|m| *m <= 5).ok_or(Errno::EINVAL)?,
        24 if v != 0 && v < 1280 => return Err(Errno::EINVAL),
        24 => c.rare().frag_size = v as u32,
        67 => {
            c.rare().tclass = byte()?;
            if w.stream() {
                c.tos = v.max(0) as u8 & !3;
            }
        }
        72 if v < 0 => return Err(Errno::EINVAL),
        72 => c.rare().addr_prefs = v,
        // IPV6_ADDRFORM
        1 if v == 2 && w.ty != crate::kernel::sock_type::RAW => return Err(Errno::ENOTCONN),
        1 if v == 2 => return Err(Errno::ENOPROTOOPT),
        1 => return Err(Errno::EINVAL),
        36 if v == 0 => {}
        73 => c.rare().min_hops = u8::try_from(v).map_err(|_| Errno::EINVAL)?,
        2 | 3 | 4 | 5 | 8 | 22 | 30 | 31 | 53 | 56 | 58 | 63 | 77 => {}
        7 => return super::misc::set_checksum(ns, w, v),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// `IPV6_MULTICAST_IF`, `IPV6_UNICAST_IF`.
fn set_dev(ns: &mut Namespace, w: Who, name: i32, dev: u32) -> Result<(), Errno> {
    if dev != 0 && ns.devs.get(IfIndex(dev)).is_none() {
        return Err(if name == 17 { Errno::ENODEV } else { Errno::EADDRNOTAVAIL });
    }
    let c = ns.socks.common_mut(w.key)?;
    if dev != 0 && !c.bound_dev.is_none() && c.bound_dev.0 != dev {
        return Err(Errno::EINVAL);
    }
    let o = c.rare();
    *(if name == 17 { &mut o.mc6_index } else { &mut o.uc_index }) = IfIndex(dev);
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
