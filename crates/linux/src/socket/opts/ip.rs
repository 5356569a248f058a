//! `IPPROTO_IP` (`net/ipv4/ip_sockglue.c`, ip(7)).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, Sysctl};
use ferronet_stack::Namespace;
use ferronet_stack::fib::{Family, Flow};
use ferronet_stack::sock::{SockFlags, datagram};

use super::{Who, flag, int, int_or_byte, set_flag, u32_at};
use crate::kernel::sock_type;

/// Options that are a flag and nothing else.
fn flag_of(name: i32) -> Option<SockFlags> {
    Some(match name {
        6 => SockFlags::RECVOPTS,
        7 => SockFlags::RETOPTS,
        8 => SockFlags::PKTINFO,
        11 => SockFlags::RECVERR,
        12 => SockFlags::RECVTTL,
        13 => SockFlags::RECVTOS,
        20 => SockFlags::RECVORIGDST,
        23 => SockFlags::IP_CHECKSUM,
        24 => SockFlags::BIND_NO_PORT,
        25 => SockFlags::RECVFRAGSIZE,
        26 => SockFlags::RECVERR_RFC4884,
        34 => SockFlags::MC_LOOP,
        49 => SockFlags::MC_ALL,
        _ => return None,
    })
}

/// `ip_tos2prio`: traffic class by the TOS bits (tc-prio(8)).
const TOS2PRIO: [u32; 16] = [0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4];

/// `getsockopt`.
pub(super) fn get(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    if let Some(f) = flag_of(name) {
        return flag(ns, w.key, f);
    }
    let c = ns.socks.common(w.key)?;
    let o = c.opts.as_deref();
    Ok(match name {
        1 => int(i32::from(c.tos)),
        2 if c.ttl == 0 => int(ns.env.sysctl.get(Sysctl::IpDefaultTtl) as i32),
        2 => int(i32::from(c.ttl)),
        3 => return flag(ns, w.key, SockFlags::HDRINCL),
        4 => o.map_or_else(Vec::new, |o| o.ip_options.clone()),
        5 | 18 => int(0),
        9 if w.stream() => Vec::new(),
        10 => int(i32::from(c.pmtudisc)),
        14 => int(mtu(ns, w, Family::V4)?),
        15 => return flag(ns, w.key, SockFlags::FREEBIND),
        19 => return flag(ns, w.key, SockFlags::TRANSPARENT),
        21 => int(o.map_or(0, |o| i32::from(o.min_ttl))),
        22 => return flag(ns, w.key, SockFlags::NODEFRAG),
        32 => o.map_or([0; 4], |o| o.mc_addr.octets()).to_vec(),
        33 => int(o.map_or(1, |o| i32::from(o.mc_ttl))),
        41 => return Err(Errno::ENODEV),
        48 => return Err(Errno::EINVAL),
        50 => (o.map_or(0, |o| o.uc_index.0)).to_be_bytes().to_vec(),
        51 => {
            let (lo, hi) = o.map_or((0, 0), |o| o.port_range);
            int((u32::from(lo) | u32::from(hi) << 16) as i32)
        }
        // inet_num: the port, or the protocol of a raw socket.
        52 if w.ty == sock_type::RAW => int(w.proto),
        52 => int(i32::from(c.lport)),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// `IP_MTU`, `IPV6_MTU`: the path MTU of a connected socket.
pub(super) fn mtu(ns: &Namespace, w: Who, family: Family) -> Result<i32, Errno> {
    let c = ns.socks.common(w.key)?;
    let (peer, _) = c.peer.ok_or(Errno::ENOTCONN)?;
    let peer = peer.to_canonical();
    if Family::of(peer) != family {
        return Err(Errno::ENOTCONN);
    }
    let src = c.local.to_canonical();
    let flow = Flow { src, oif: c.bound_dev, mark: c.mark, uid: c.uid, ..Flow::to(peer) };
    let (r, _) = datagram::route_output(ns, &flow).map_err(|_| Errno::ENOTCONN)?;
    let mtu = match peer {
        IpAddr::V4(_) => ferronet_stack::ipv4::route::dst_mtu(ns, &r, peer),
        IpAddr::V6(_) => ferronet_stack::ipv6::route::dst_mtu(ns, &r, peer),
    };
    Ok(mtu as i32)
}

/// `setsockopt`.
pub(super) fn set(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    let v = int_or_byte(val);
    if let Some(r) = super::mcast::set_ip(ns, w, name, val) {
        return r;
    }
    if let Some(f) = flag_of(name) {
        return set_simple(ns, w, (name, f), v, val);
    }
    match name {
        32 => return multicast_if(ns, w, val),
        15 => return set_flag(ns, w.key, SockFlags::FREEBIND, v != 0),
        19 if v != 0 && !w.raw_or_admin() => return Err(Errno::EPERM),
        19 => return set_flag(ns, w.key, SockFlags::TRANSPARENT, v != 0),
        3 if w.ty != sock_type::RAW => return Err(Errno::ENOPROTOOPT),
        3 => return set_flag(ns, w.key, SockFlags::HDRINCL, v != 0),
        22 if w.ty != sock_type::RAW => return Err(Errno::ENOPROTOOPT),
        22 => return set_flag(ns, w.key, SockFlags::NODEFRAG, v != 0),
        _ => {}
    }
    let c = ns.socks.common_mut(w.key)?;
    match name {
        1 => {
            let keep = if w.stream() { c.tos & 3 } else { v as u8 & 3 };
            c.tos = v as u8 & !3 | keep;
            c.priority = TOS2PRIO[usize::from((c.tos & 0x1e) >> 1)];
        }
        2 => match v {
            _ if val.is_empty() => return Err(Errno::EINVAL),
            -1 => c.ttl = 0,
            1..=255 => c.ttl = v as u8,
            _ => return Err(Errno::EINVAL),
        },
        4 if val.len() > 40 || ferronet_wire::ipv4::IpOptions::new(val).any(|o| o.is_err()) => {
            return Err(Errno::EINVAL);
        }
        4 => c.rare().ip_options = val.to_vec(),
        10 => c.pmtudisc = u8::try_from(v).ok().filter(|m| *m <= 5).ok_or(Errno::EINVAL)?,
        // IP_ROUTER_ALERT
        5 if w.ty != sock_type::RAW => return Err(Errno::EINVAL),
        5 if v == 0 => return Err(Errno::ENOBUFS),
        5 | 18 => {}
        16 => return Err(Errno::EOPNOTSUPP),
        17 => return Err(if w.v6() { Errno::EOPNOTSUPP } else { Errno::EINVAL }),
        21 => c.rare().min_ttl = u8::try_from(v).map_err(|_| Errno::EINVAL)?,
        33 if w.stream() || val.is_empty() => return Err(Errno::EINVAL),
        33 if v == -1 => c.rare().mc_ttl = 1,
        33 => c.rare().mc_ttl = u8::try_from(v).map_err(|_| Errno::EINVAL)?,
        50 => {
            let dev = IfIndex(u32::from_be(u32_at(val, 0)?));
            let known = dev.is_none() || ns.devs.get(dev).is_some();
            let c = ns.socks.common_mut(w.key)?;
            if !known {
                return Err(Errno::EADDRNOTAVAIL);
            }
            if !c.bound_dev.is_none() && !dev.is_none() && c.bound_dev != dev {
                return Err(Errno::EINVAL);
            }
            c.rare().uc_index = dev;
        }
        51 => {
            let v = u32_at(val, 0)?;
            let (lo, hi) = (v as u16, (v >> 16) as u16);
            if lo != 0 && hi != 0 && lo > hi {
                return Err(Errno::EINVAL);
            }
            c.rare().port_range = (lo, hi);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// An option that is a flag.
fn set_simple(
    ns: &mut Namespace,
    w: Who,
    (name, f): (i32, SockFlags),
    v: i32,
    val: &[u8],
) -> Result<(), Errno> {
    let bad = match name {
        34 => val.is_empty(),
        26 | 49 => !(0..=1).contains(&v),
        25 => w.stream(),
        _ => false,
    };
    if bad {
        return Err(Errno::EINVAL);
    }
    set_flag(ns, w.key, f, v != 0)?;
    // ip_icmp_error is off: what is queued goes.
    if name == 11
        && v == 0
        && let Some(o) = ns.socks.common_mut(w.key)?.opts.as_mut()
    {
        o.errq = Default::default();
    }
    Ok(())
}

fn addr4(val: &[u8], at: usize) -> Result<Ipv4Addr, Errno> {
    let b: [u8; 4] = val.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(Ipv4Addr::from(b))
}

/// `IP_MULTICAST_IF`: `struct in_addr`, `ip_mreq` or `ip_mreqn`.
fn multicast_if(ns: &mut Namespace, w: Who, val: &[u8]) -> Result<(), Errno> {
    if w.stream() {
        return Err(Errno::EINVAL);
    }
    let (addr, dev) = match val.len() {
        12.. => (addr4(val, 4)?, IfIndex(u32_at(val, 8)?)),
        8.. => (addr4(val, 4)?, IfIndex::NONE),
        _ => (addr4(val, 0)?, IfIndex::NONE),
    };
    let found = if !dev.is_none() {
        Some(ns.devs.get(dev).ok_or(Errno::EADDRNOTAVAIL)?.index)
    } else if addr.is_unspecified() {
        None
    } else {
        let has = |d: &&ferronet_stack::dev::Device| d.addrs.iter().any(|a| a.local == IpAddr::V4(addr));
        Some(ns.devs.iter().find(has).ok_or(Errno::EADDRNOTAVAIL)?.index)
    };
    let c = ns.socks.common_mut(w.key)?;
    if let (Some(d), false) = (found, c.bound_dev.is_none())
        && d != c.bound_dev
    {
        return Err(Errno::EINVAL);
    }
    let o = c.rare();
    o.mc_index = found.unwrap_or(IfIndex::NONE);
    o.mc_addr = addr;
    Ok(())
}
