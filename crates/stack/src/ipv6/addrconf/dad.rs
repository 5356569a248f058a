//! Duplicate address detection (RFC 4862 §5.4, RFC 7527) and lifetimes of addresses.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use ferronet_core::sysctl::{Conf6, NeighParm};
use ferronet_core::{IfIndex, Instant};
use ferronet_wire::ipv6::solicited_node;

use super::super::addr::{LINKLOCAL_ALLNODES, is_link_local};
use super::super::ndisc;
use super::ifaddr::{self, get_mut, ifa_notify_new, ipv6_del_addr, join_solict};
use super::{conf, max_conf, ra, rearm};
use crate::dev::{IfAddr, ifa_f, iff};
use crate::notify::Notify;
use crate::ns::Namespace;

/// An address on which detection runs.
#[derive(Clone, Copy, Debug)]
pub struct Dad {
    /// The address.
    pub addr: Ipv6Addr,
    /// The next probe, or the end.
    pub at: Instant,
    /// Probes still to send.
    pub probes: u8,
    /// Marks our probes, so that one that comes back is not a duplicate (RFC 7527).
    pub nonce: Option<[u8; 6]>,
}

/// Starts detection for an address, or takes it at once where there is nothing to detect (`addrconf_dad_begin`).
pub(super) fn dad_start(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr) {
    let Some(d) = ns.devs.get(dev) else { return };
    let Some(a) = d.addrs.iter().find(|a| a.local == IpAddr::V6(v)) else { return };
    if d.inet6.dad.iter().any(|p| p.addr == v) {
        return;
    }
    let flags = a.flags;
    let nothing = d.flags & (iff::NOARP | iff::LOOPBACK) != 0
        || flags & ifa_f::TENTATIVE == 0
        || flags & ifa_f::NODAD != 0;
    let ready = d.inet6.ready;
    if !d.inet6.solicited.contains(&v) {
        join_solict(ns, dev, v);
    }
    if nothing || max_conf(ns, dev, Conf6::AcceptDad) < 1 {
        // An unsolicited advertisement is due only where others could have asked in vain.
        let was = flags & (ifa_f::TENTATIVE | ifa_f::OPTIMISTIC) == ifa_f::TENTATIVE;
        dad_completed(ns, dev, v, was);
        return;
    }
    if !ready {
        // Waits for the carrier; an address that is not permanent would grow old meanwhile and goes.
        if flags & ifa_f::PERMANENT == 0 {
            let _ = ipv6_del_addr(ns, dev, v, None);
        }
        return;
    }
    let secs = u64::try_from(conf(ns, dev, Conf6::RouterSolicitationDelay)).unwrap_or(0);
    let span = u32::try_from(secs * 1_000_000).unwrap_or(1_000_000).max(1);
    let wait = Duration::from_micros(u64::from(ns.env.rng.below(span)));
    let wait = if flags & ifa_f::OPTIMISTIC != 0 { Duration::ZERO } else { wait };
    let enhanced = max_conf(ns, dev, Conf6::EnhancedDad) != 0;
    let r = ns.env.rng.next_u64().to_be_bytes();
    let nonce = enhanced.then_some([r[0], r[1], r[2], r[3], r[4], r[5]]);
    let probes = u8::try_from(conf(ns, dev, Conf6::DadTransmits).max(0)).unwrap_or(u8::MAX);
    let at = ns.env.now + wait;
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6.dad.push(Dad { addr: v, at, probes, nonce });
    }
    if let Some(a) = get_mut(ns, dev, v) {
        a.dad_probes = probes;
    }
    rearm(ns, dev);
}

/// What is due: probes go out, detection that heard nothing ends (`addrconf_dad_work`).
pub(super) fn run(ns: &mut Namespace, dev: IfIndex) {
    let now = ns.env.now;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let retrans = u64::try_from(d.neigh6.get(NeighParm::RetransTimeMs)).unwrap_or(1000).max(10);
    let (mut done, mut ask) = (Vec::new(), Vec::new());
    d.inet6.dad.retain_mut(|p| {
        if p.at > now {
            return true;
        }
        if p.probes == 0 {
            done.push(p.addr);
            return false;
        }
        p.probes -= 1;
        p.at = now + Duration::from_millis(retrans);
        ask.push(*p);
        true
    });
    for p in ask {
        if let Some(a) = get_mut(ns, dev, p.addr) {
            a.dad_probes = p.probes;
        }
        let to = solicited_node(&p.addr);
        ndisc::ndisc_send_ns(ns, dev, p.addr, to, Some(Ipv6Addr::UNSPECIFIED), p.nonce);
    }
    for v in done {
        dad_completed(ns, dev, v, true);
    }
}

/// Nobody else has it (`addrconf_dad_completed`).
fn dad_completed(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr, send_na: bool) {
    let Some(a) = get_mut(ns, dev, v) else { return };
    a.flags &= !(ifa_f::TENTATIVE | ifa_f::OPTIMISTIC | ifa_f::DADFAILED);
    a.dad_probes = 0;
    ifa_notify_new(ns, dev, v);
    let Some(d) = ns.devs.get(dev) else { return };
    let link_locals = d.addrs.iter().filter(|a| matches!(a.local, IpAddr::V6(x) if is_link_local(x))).count();
    let first = is_link_local(v) && link_locals == 1;
    let listens = d.flags & (iff::LOOPBACK | iff::MULTICAST) == iff::MULTICAST;
    let solicits =
        first && listens && conf(ns, dev, Conf6::RouterSolicitations) != 0 && ra::accept_ra(ns, dev);
    if first {
        super::super::mcast::ipv6_mc_dad_complete(ns, dev);
    }
    if send_na && max_conf(ns, dev, Conf6::NdiscNotify) != 0 {
        ndisc::unsolicited_na(ns, dev, LINKLOCAL_ALLNODES, v);
    }
    if solicits {
        ra::rs_start(ns, dev, v);
    }
}

/// Somebody else has it, or is asking for it (`addrconf_dad_failure`, `addrconf_dad_stop`).
pub fn addrconf_dad_failure(ns: &mut Namespace, dev: IfIndex, v: Ipv6Addr) {
    let (gen_mode, accept) = (conf(ns, dev, Conf6::AddrGenMode), max_conf(ns, dev, Conf6::AcceptDad));
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6.dad.retain(|p| p.addr != v);
    }
    let Some(a) = get_mut(ns, dev, v) else { return };
    if a.flags & ifa_f::PERMANENT != 0 {
        a.flags |= ifa_f::TENTATIVE | ifa_f::DADFAILED;
        let (local, len) = (a.local, a.prefix_len);
        ns.notify.push(Notify::AddrNew(dev, local, len));
        ns.devs.generation += 1;
    } else {
        let _ = ipv6_del_addr(ns, dev, v, None);
    }
    // RFC 4862 §5.4.5: the link address itself is a duplicate; accept_dad 2 takes IPv6 off the device.
    let eui = super::interface_id(ns, dev, 0, 0).0;
    if accept > 1 && gen_mode == 0 && is_link_local(v) && v.to_bits() as u64 == eui {
        if let Some(d) = ns.devs.get_mut(dev) {
            d.conf6.0[Conf6::DisableIpv6 as usize] = 1;
        }
        super::conf6_changed(ns, dev, Conf6::DisableIpv6, 0);
    }
    rearm(ns, dev);
}

/// When an address next changes by age: it becomes deprecated, or it goes.
pub(super) fn lifetime_event(a: &IfAddr) -> Instant {
    let at = |secs: u32| a.updated + Duration::from_secs(u64::from(secs));
    if a.preferred_lft != u32::MAX && a.flags & ifa_f::DEPRECATED == 0 {
        at(a.preferred_lft)
    } else if a.valid_lft != u32::MAX {
        at(a.valid_lft)
    } else {
        Instant::NEVER
    }
}

/// Applies the lifetimes (`addrconf_verify`).
pub(super) fn addrconf_verify(ns: &mut Namespace, dev: IfIndex) {
    let now = ns.env.now;
    let due: Vec<Ipv6Addr> = super::addrs(ns, dev)
        .iter()
        .filter(|a| lifetime_event(a) <= now)
        .filter_map(|a| match a.local {
            IpAddr::V6(v) => Some(v),
            IpAddr::V4(_) => None,
        })
        .collect();
    for v in due {
        let Some(a) = get_mut(ns, dev, v) else { continue };
        let age = now - a.updated;
        if a.valid_lft != u32::MAX && age >= Duration::from_secs(u64::from(a.valid_lft)) {
            let _ = ifaddr::ipv6_del_addr(ns, dev, v, None);
            continue;
        }
        a.flags |= ifa_f::DEPRECATED;
        let (local, len, settled) = (a.local, a.prefix_len, a.flags & ifa_f::TENTATIVE == 0);
        ns.devs.generation += 1;
        if settled {
            ns.notify.push(Notify::AddrNew(dev, local, len));
        }
    }
}
