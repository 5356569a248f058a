//! `IPPROTO_IP` (`net/ipv4/ip_sockglue.c`, ip(7)).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, Sysctl};
use ferronet_stack::Namespace;
use ferronet_stack::fib::{Family, Flow};
use ferronet_stack::sock::{SockFlags, datagram};

use super::{Who, flag, int, int_or_byte, set_flag, u32_at};
use crate::kernel::sock_type;
use crate::uapi::in4::*;

/// Options that are a flag and nothing else.
fn flag_of(name: i32) -> Option<SockFlags> {
    Some(match name {
        IP_RECVOPTS => SockFlags::RECVOPTS,
        IP_RETOPTS => SockFlags::RETOPTS,
        IP_PKTINFO => SockFlags::PKTINFO,
        IP_RECVERR => SockFlags::RECVERR,
        IP_RECVTTL => SockFlags::RECVTTL,
        IP_RECVTOS => SockFlags::RECVTOS,
        IP_RECVORIGDSTADDR => SockFlags::RECVORIGDST,
        IP_CHECKSUM => SockFlags::IP_CHECKSUM,
        IP_BIND_ADDRESS_NO_PORT => SockFlags::BIND_NO_PORT,
        IP_RECVFRAGSIZE => SockFlags::RECVFRAGSIZE,
        IP_RECVERR_RFC4884 => SockFlags::RECVERR_RFC4884,
        IP_MULTICAST_LOOP => SockFlags::MC_LOOP,
        IP_MULTICAST_ALL => SockFlags::MC_ALL,
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
        IP_TOS => int(i32::from(c.tos)),
        IP_TTL if c.ttl == 0 => int(ns.env.sysctl.get(Sysctl::IpDefaultTtl) as i32),
        IP_TTL => int(i32::from(c.ttl)),
        IP_HDRINCL => return flag(ns, w.key, SockFlags::HDRINCL),
        IP_OPTIONS => o.map_or_else(Vec::new, |o| o.ip_options.clone()),
        IP_ROUTER_ALERT | IP_PASSSEC => int(0),
        IP_PKTOPTIONS if w.stream() => Vec::new(),
        IP_MTU_DISCOVER => int(i32::from(c.pmtudisc)),
        IP_MTU => int(mtu(ns, w, Family::V4)?),
        IP_FREEBIND => return flag(ns, w.key, SockFlags::FREEBIND),
        IP_TRANSPARENT => return flag(ns, w.key, SockFlags::TRANSPARENT),
        IP_MINTTL => int(o.map_or(0, |o| i32::from(o.min_ttl))),
        IP_NODEFRAG => return flag(ns, w.key, SockFlags::NODEFRAG),
        IP_MULTICAST_IF => o.map_or([0; 4], |o| o.mc_addr.octets()).to_vec(),
        IP_MULTICAST_TTL => int(o.map_or(1, |o| i32::from(o.mc_ttl))),
        IP_MSFILTER => return Err(Errno::ENODEV),
        MCAST_MSFILTER => return Err(Errno::EINVAL),
        IP_UNICAST_IF => (o.map_or(0, |o| o.uc_index.0)).to_be_bytes().to_vec(),
        IP_LOCAL_PORT_RANGE => {
            let (lo, hi) = o.map_or((0, 0), |o| o.port_range);
            int((u32::from(lo) | u32::from(hi) << 16) as i32)
        }
        // inet_num: the port, or the protocol of a raw socket.
        IP_PROTOCOL if w.ty == sock_type::RAW => int(w.proto),
        IP_PROTOCOL => int(i32::from(c.lport)),
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
        IP_MULTICAST_IF => return multicast_if(ns, w, val),
        IP_FREEBIND => return set_flag(ns, w.key, SockFlags::FREEBIND, v != 0),
        IP_TRANSPARENT if v != 0 && !w.raw_or_admin() => return Err(Errno::EPERM),
        IP_TRANSPARENT => return set_flag(ns, w.key, SockFlags::TRANSPARENT, v != 0),
        IP_HDRINCL if w.ty != sock_type::RAW => return Err(Errno::ENOPROTOOPT),
        IP_HDRINCL => return set_flag(ns, w.key, SockFlags::HDRINCL, v != 0),
        IP_NODEFRAG if w.ty != sock_type::RAW => return Err(Errno::ENOPROTOOPT),
        IP_NODEFRAG => return set_flag(ns, w.key, SockFlags::NODEFRAG, v != 0),
        _ => {}
    }
    let c = ns.socks.common_mut(w.key)?;
    match name {
        IP_TOS => {
            let keep = if w.stream() { c.tos & 3 } else { v as u8 & 3 };
            c.tos = v as u8 & !3 | keep;
            c.priority = TOS2PRIO[usize::from((c.tos & 0x1e) >> 1)];
        }
        IP_TTL => match v {
            _ if val.is_empty() => return Err(Errno::EINVAL),
            -1 => c.ttl = 0,
            1..=255 => c.ttl = v as u8,
            _ => return Err(Errno::EINVAL),
        },
        IP_OPTIONS if val.len() > 40 || ferronet_wire::ipv4::IpOptions::new(val).any(|o| o.is_err()) => {
            return Err(Errno::EINVAL);
        }
        IP_OPTIONS => c.rare().ip_options = val.to_vec(),
        IP_MTU_DISCOVER => c.pmtudisc = u8::try_from(v).ok().filter(|m| *m <= 5).ok_or(Errno::EINVAL)?,
        // IP_ROUTER_ALERT
        IP_ROUTER_ALERT if w.ty != sock_type::RAW => return Err(Errno::EINVAL),
        IP_ROUTER_ALERT if v == 0 => return Err(Errno::ENOBUFS),
        IP_ROUTER_ALERT | IP_PASSSEC => {}
        IP_IPSEC_POLICY => return Err(Errno::EOPNOTSUPP),
        IP_XFRM_POLICY => return Err(if w.v6() { Errno::EOPNOTSUPP } else { Errno::EINVAL }),
        IP_MINTTL => c.rare().min_ttl = u8::try_from(v).map_err(|_| Errno::EINVAL)?,
        IP_MULTICAST_TTL if w.stream() || val.is_empty() => return Err(Errno::EINVAL),
        IP_MULTICAST_TTL if v == -1 => c.rare().mc_ttl = 1,
        IP_MULTICAST_TTL => c.rare().mc_ttl = u8::try_from(v).map_err(|_| Errno::EINVAL)?,
        IP_UNICAST_IF => {
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
        IP_LOCAL_PORT_RANGE => {
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
        IP_MULTICAST_LOOP => val.is_empty(),
        IP_RECVERR_RFC4884 | IP_MULTICAST_ALL => !(0..=1).contains(&v),
        IP_RECVFRAGSIZE => w.stream(),
        _ => false,
    };
    if bad {
        return Err(Errno::EINVAL);
    }
    set_flag(ns, w.key, f, v != 0)?;
    // ip_icmp_error is off: what is queued goes.
    if name == IP_RECVERR
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
