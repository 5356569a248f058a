//! Multicast groups of devices and listener discovery (RFC 3810, RFC 2710; `net/ipv6/mcast.c`).

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::sysctl::Conf6;
use ferronet_core::{DropReason, Errno, IfIndex, Packet};
use ferronet_wire::Icmp6Hdr;
use ferronet_wire::icmpv6::{self as wire, icmp6_send_check};
use ferronet_wire::ipproto::{IPPROTO_HOPOPTS, IPPROTO_ICMPV6};
use ferronet_wire::ipv6::Ipv6Hdr;

use super::addr::{
    LINKLOCAL_ALLNODES, LINKLOCAL_ALLROUTERS, SCOPE_LINKLOCAL, addr_scope, ipv6_chk_mcast_addr,
    ipv6_get_lladdr, is_link_local,
};
use super::output::{Ip6Header, send_icmp6};
use crate::dev::ifa_f;
use crate::dev::mcast::{Due, Reports};
use crate::ns::Namespace;

/// Reports that a device owes.
pub type Mld = Reports<Ipv6Addr>;

/// All listeners of version 2, `ff02::16`.
const MLDV2_ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Records in one report: 64 of 20 bytes fit the smallest MTU.
const RECORDS: usize = 60;
/// Record: everything but no source is excluded now.
const MODE_IS_EXCLUDE: u8 = 2;
/// Record: left.
const CHANGE_TO_INCLUDE: u8 = 3;
/// Record: joined.
const CHANGE_TO_EXCLUDE: u8 = 4;
/// Hop-by-hop header with a router alert for listener discovery (RFC 2711), padded.
const ROUTER_ALERT: [u8; 8] = [IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// Reported are all groups but those every node has (RFC 3810 §6).
fn reported(g: Ipv6Addr) -> bool {
    g != LINKLOCAL_ALLNODES && addr_scope(g) >= SCOPE_LINKLOCAL
}

/// One more user of a group (`__ipv6_dev_mc_inc`); the first one joins it.
pub fn ipv6_dev_mc_inc(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) {
    if ns.devs.mc_inc(dev, IpAddr::V6(group)) {
        changed(ns, dev, group, true);
    }
}

/// One user less (`__ipv6_dev_mc_dec`); the last one leaves.
pub fn ipv6_dev_mc_dec(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) {
    if ns.devs.mc_dec(dev, IpAddr::V6(group)) {
        changed(ns, dev, group, false);
    }
}

/// A program joins a group on a device (`ipv6_sock_mc_join`).
///
/// # Errors
/// `EINVAL` for what is no group, `ENODEV`.
pub fn ipv6_mc_join(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) -> Result<(), Errno> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    ns.devs.get(dev).ok_or(Errno::ENODEV)?;
    ipv6_dev_mc_inc(ns, dev, group);
    Ok(())
}

/// A program leaves a group (`ipv6_sock_mc_drop`).
///
/// # Errors
/// `EADDRNOTAVAIL` when nobody is in it.
pub fn ipv6_mc_leave(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) -> Result<(), Errno> {
    if !ipv6_chk_mcast_addr(ns, dev, group) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    ipv6_dev_mc_dec(ns, dev, group);
    Ok(())
}

fn changed(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr, joined: bool) {
    let now = ns.env.now;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    if !reported(group) || d.is_loopback() || !d.is_up() {
        return;
    }
    // RFC 3810 §9.1: the robustness variable is 2.
    d.inet6.mld.changed(now, group, joined, 2);
    rearm(ns, dev);
}

fn rearm(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    match d.inet6.mld.next() {
        Some(at) => ns.env.timers.rearm(&mut d.inet6.mld.timer, at, TimerKey::Mcast(dev)),
        None => {
            ns.env.timers.cancel(&mut d.inet6.mld.timer);
        }
    }
}

/// The groups of a device that are reported.
fn groups(ns: &Namespace, dev: IfIndex) -> Vec<Ipv6Addr> {
    let Some(d) = ns.devs.get(dev) else { return Vec::new() };
    d.mcast
        .iter()
        .filter_map(|m| match m.0 {
            IpAddr::V6(a) if reported(a) => Some(a),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        })
        .collect()
}

/// A device is up, or back with carrier: its groups are news to the link (`ipv6_mc_up`).
pub fn ipv6_mc_up(ns: &mut Namespace, dev: IfIndex) {
    for g in groups(ns, dev) {
        changed(ns, dev, g, true);
    }
}

/// There is a link-local address to report from now (`ipv6_mc_dad_complete`).
pub fn ipv6_mc_dad_complete(ns: &mut Namespace, dev: IfIndex) {
    ipv6_mc_up(ns, dev);
}

/// A device goes down (`ipv6_mc_down`).
pub fn ipv6_mc_down(ns: &mut Namespace, dev: IfIndex) {
    if let Some(d) = ns.devs.get_mut(dev) {
        d.inet6.mld.clear();
    }
    rearm(ns, dev);
}

fn version1(ns: &Namespace, dev: IfIndex) -> bool {
    let Some(d) = ns.devs.get(dev) else { return false };
    match d.conf6.get(Conf6::ForceMldVersion).max(ns.conf.all6.get(Conf6::ForceMldVersion)) {
        1 => true,
        2 => false,
        _ => d.inet6.mld.has_older(ns.env.now, 0),
    }
}

/// A device's report timer fired.
pub fn timer(ns: &mut Namespace, dev: IfIndex) {
    let v1 = version1(ns, dev);
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let c = if v1 { Conf6::Mldv1UnsolicitedReportInterval } else { Conf6::Mldv2UnsolicitedReportInterval };
    let interval = Duration::from_millis(u64::try_from(d.conf6.get(c)).unwrap_or(0));
    let due = d.inet6.mld.due(ns.env.now, &mut ns.env.rng, interval);
    for r in due {
        let records: Vec<(u8, Ipv6Addr)> = match r {
            Due::General => groups(ns, dev).into_iter().map(|g| (MODE_IS_EXCLUDE, g)).collect(),
            Due::Group(g) if ipv6_chk_mcast_addr(ns, dev, g) => vec![(MODE_IS_EXCLUDE, g)],
            Due::Group(_) => Vec::new(),
            Due::Changes(c) => c
                .iter()
                .map(|c| (if c.joined { CHANGE_TO_EXCLUDE } else { CHANGE_TO_INCLUDE }, c.group))
                .collect(),
        };
        if v1 {
            for (kind, g) in records {
                report_v1(ns, dev, kind, g);
            }
        } else {
            for part in records.chunks(RECORDS) {
                report_v2(ns, dev, part);
            }
        }
    }
    rearm(ns, dev);
}

/// A version 2 report (RFC 3810 §5.2).
fn report_v2(ns: &mut Namespace, dev: IfIndex, records: &[(u8, Ipv6Addr)]) {
    let mut m = Icmp6Hdr::new(wire::ICMPV6_MLD2_REPORT, 0, records.len() as u32).bytes().to_vec();
    for (kind, g) in records {
        m.extend_from_slice(&[*kind, 0, 0, 0]);
        m.extend_from_slice(&g.octets());
    }
    send(ns, dev, MLDV2_ALL_ROUTERS, &mut m);
}

/// A version 1 report or "done" (RFC 2710 §3).
fn report_v1(ns: &mut Namespace, dev: IfIndex, kind: u8, group: Ipv6Addr) {
    let leave = kind == CHANGE_TO_INCLUDE;
    let t = if leave { wire::ICMPV6_MGM_REDUCTION } else { wire::ICMPV6_MGM_REPORT };
    let mut m = Icmp6Hdr::new(t, 0, 0).bytes().to_vec();
    m.extend_from_slice(&group.octets());
    send(ns, dev, if leave { LINKLOCAL_ALLROUTERS } else { group }, &mut m);
}

/// RFC 3810 §5: from a link-local address, or none while there is none; hop limit 1; with a router alert.
fn send(ns: &mut Namespace, dev: IfIndex, daddr: Ipv6Addr, m: &mut [u8]) {
    if !ns.devs.get(dev).is_some_and(crate::dev::Device::is_running) {
        return;
    }
    let saddr = ipv6_get_lladdr(ns, dev, ifa_f::TENTATIVE).unwrap_or(Ipv6Addr::UNSPECIFIED);
    let _ = icmp6_send_check(&saddr, &daddr, m);
    let mut message = ROUTER_ALERT.to_vec();
    message.extend_from_slice(m);
    let h = Ip6Header { saddr, daddr, protocol: IPPROTO_HOPOPTS, tclass: 0, hop_limit: 1, flowlabel: 0 };
    send_icmp6(ns, &h, dev, &message);
}

/// RFC 3810 §5.1.3: above 32,768 milliseconds the code is a floating-point number.
fn max_response(code: u16) -> Duration {
    let c = u64::from(code);
    let ms = if c < 32_768 { c } else { ((c & 0xfff) | 0x1000) << (((c >> 12) & 7) + 3) };
    Duration::from_millis(ms)
}

/// A query of a router, at its ICMPv6 header (`igmp6_event_query`).
pub fn igmp6_event_query(ns: &mut Namespace, mut p: Packet, ip: &Ipv6Hdr) {
    let dev = p.meta().dev;
    let len = p.len();
    let want = len.min(28);
    let valid = is_link_local(ip.saddr())
        && ip.hop_limit() == 1
        && ip.nexthdr() == IPPROTO_HOPOPTS
        && len >= 24
        && p.may_pull(want);
    let group = p.data().get(8..24).and_then(|b| b.first_chunk::<16>()).map(|b| Ipv6Addr::from_octets(*b));
    let code = p.data().get(4..6).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let (true, Some(group)) = (valid, group) else {
        ns.env.drop(p, DropReason::Icmp6Invalid);
        return;
    };
    ns.env.consume(p);
    let member = ipv6_chk_mcast_addr(ns, dev, group);
    let now = ns.env.now;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let v1 = len == 24;
    if v1 {
        d.inet6.mld.older_querier(now, 0);
    } else if len < 28 {
        return;
    }
    let max = if v1 { Duration::from_millis(u64::from(code)) } else { max_response(code) };
    if group.is_unspecified() {
        d.inet6.mld.general_query(now, &mut ns.env.rng, max);
    } else if member {
        d.inet6.mld.group_query(now, &mut ns.env.rng, group, max);
    }
    rearm(ns, dev);
}

/// A version 1 report of another listener makes ours superfluous (`igmp6_event_report`).
pub fn igmp6_event_report(ns: &mut Namespace, mut p: Packet, ip: &Ipv6Hdr) {
    let dev = p.meta().dev;
    if !p.may_pull(24) || !is_link_local(ip.saddr()) {
        ns.env.drop(p, DropReason::Icmp6Invalid);
        return;
    }
    let group = p.data().get(8..24).and_then(|b| b.first_chunk::<16>()).map(|b| Ipv6Addr::from_octets(*b));
    ns.env.consume(p);
    if let (Some(g), Some(d)) = (group, ns.devs.get_mut(dev)) {
        d.inet6.mld.suppress(g);
    }
    rearm(ns, dev);
}
