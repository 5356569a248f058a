//! Multicast groups of devices and listener discovery (RFC 3810, RFC 2710; `net/ipv6/mcast.c`).

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::sysctl::Conf6;
use ferronet_core::{DropReason, Errno, IfIndex, Packet, Sysctl};
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
use crate::dev::mcast::{Due, McFilter, Record, Reports, record, reports_of};
use crate::ns::Namespace;

/// Reports that a device owes.
pub type Mld = Reports<Ipv6Addr>;

/// All listeners of version 2, `ff02::16`.
const MLDV2_ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Bytes of a report in front of the records (`struct mld2_report`).
const REPORT_LEN: usize = Icmp6Hdr::LEN;
/// Bytes of a record without its sources (`struct mld2_grec`).
const RECORD_LEN: usize = 20;
/// Hop-by-hop header with a router alert for listener discovery (RFC 2711), padded.
const ROUTER_ALERT: [u8; 8] = [IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// Reported are all groups but those every node has (RFC 3810 §6).
fn reported(g: Ipv6Addr) -> bool {
    g != LINKLOCAL_ALLNODES && addr_scope(g) >= SCOPE_LINKLOCAL
}

/// One more user of a group (`__ipv6_dev_mc_inc`); the first one joins it.
pub fn ipv6_dev_mc_inc(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) {
    ip6_mc_set_filter(ns, dev, group, None, Some(&McFilter::all()));
}

/// One user less (`__ipv6_dev_mc_dec`); the last one leaves.
pub fn ipv6_dev_mc_dec(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) {
    ip6_mc_set_filter(ns, dev, group, Some(&McFilter::all()), None);
}

/// A user's filter changes (`ip6_mc_add_src`, `ip6_mc_del_src`): `None` before it joins and after it left. Routers hear of
/// what this changes for the device.
pub fn ip6_mc_set_filter(
    ns: &mut Namespace,
    dev: IfIndex,
    group: Ipv6Addr,
    old: Option<&McFilter>,
    new: Option<&McFilter>,
) {
    let g = IpAddr::V6(group);
    let (was, before) = (ns.devs.mc_member(dev, g), ns.devs.mc_filter(dev, g));
    ns.devs.mc_set_filter(dev, g, old, new);
    news(ns, dev, group, was, &before);
}

/// Tells routers what is other than `before` (RFC 3810 §6.1). Those of version 1 know members alone.
fn news(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr, was: bool, before: &McFilter) {
    let now = ns.env.now;
    let v1 = version1(ns, dev);
    let g = IpAddr::V6(group);
    let (is, after) = (ns.devs.mc_member(dev, g), ns.devs.mc_filter(dev, g));
    let robustness = u8::try_from(ns.env.sysctl.get(Sysctl::Ip6MldQrv)).unwrap_or(2).max(1);
    let Some(d) = ns.devs.get_mut(dev) else { return };
    if !reported(group) || d.is_loopback() || !d.is_up() {
        return;
    }
    if before.exclude != after.exclude || (v1 && was != is) {
        d.inet6.mld.changed(now, group, is, robustness);
    } else if !v1 && before.sources != after.sources {
        let (new, gone) = (v6s(&after.without(before)), v6s(&before.without(&after)));
        let (allow, block) = if after.exclude { (&gone, &new) } else { (&new, &gone) };
        d.inet6.mld.sources_changed(now, group, (allow, block), robustness);
    } else {
        return;
    }
    rearm(ns, dev);
}

fn v6s(l: &[IpAddr]) -> Vec<Ipv6Addr> {
    l.iter()
        .filter_map(|a| match a {
            IpAddr::V6(a) => Some(*a),
            IpAddr::V4(_) => None,
        })
        .collect()
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
        news(ns, dev, g, false, &McFilter::default());
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
        if v1 {
            let changed: Vec<Ipv6Addr> = match r {
                Due::General => groups(ns, dev),
                Due::Group(g) if ipv6_chk_mcast_addr(ns, dev, g) => vec![g],
                Due::Group(_) => Vec::new(),
                Due::Changes(c) => c.iter().map(|c| c.group).collect(),
            };
            for g in changed {
                report_v1(ns, dev, g);
            }
        } else {
            let room = room(ns, dev);
            for part in reports_of(&records(ns, dev, &r), room, RECORD_LEN, size_of::<Ipv6Addr>()) {
                report_v2(ns, dev, &part);
            }
        }
    }
    rearm(ns, dev);
}

/// Room for records in a report of a device, bytes.
fn room(ns: &Namespace, dev: IfIndex) -> usize {
    let mtu = ns.devs.get(dev).map_or(0, |d| d.mtu as usize).clamp(1280, 0xffff);
    mtu - (Ipv6Hdr::LEN + ROUTER_ALERT.len() + REPORT_LEN)
}

/// What a report says of the groups that it is about.
fn records(ns: &Namespace, dev: IfIndex, due: &Due<Ipv6Addr>) -> Vec<Record<Ipv6Addr>> {
    let state = |group: Ipv6Addr, include: u8, exclude: u8| {
        let f = ns.devs.mc_filter(dev, IpAddr::V6(group));
        let kind = if f.exclude { exclude } else { include };
        Record { kind, group, sources: v6s(&f.sources) }
    };
    // A group that nothing is wanted from is not there (RFC 3810 §5.2.12).
    let current = |g| {
        let r = state(g, record::MODE_IS_INCLUDE, record::MODE_IS_EXCLUDE);
        (r.kind == record::MODE_IS_EXCLUDE || !r.sources.is_empty()).then_some(r)
    };
    match due {
        Due::General => groups(ns, dev).into_iter().filter_map(current).collect(),
        Due::Group(g) => current(*g).into_iter().collect(),
        Due::Changes(c) => c
            .iter()
            .flat_map(|c| {
                if c.mode_changed() {
                    return vec![state(c.group, record::CHANGE_TO_INCLUDE, record::CHANGE_TO_EXCLUDE)];
                }
                [(true, record::ALLOW_NEW_SOURCES), (false, record::BLOCK_OLD_SOURCES)]
                    .map(|(allowed, kind)| Record { kind, group: c.group, sources: c.sources(allowed) })
                    .into_iter()
                    .filter(|r| !r.sources.is_empty())
                    .collect()
            })
            .collect(),
    }
}

/// A version 2 report (RFC 3810 §5.2).
fn report_v2(ns: &mut Namespace, dev: IfIndex, records: &[Record<Ipv6Addr>]) {
    let mut m = Icmp6Hdr::new(wire::ICMPV6_MLD2_REPORT, 0, records.len() as u32).bytes().to_vec();
    for r in records {
        let [a, b] = (r.sources.len() as u16).to_be_bytes();
        m.extend_from_slice(&[r.kind, 0, a, b]);
        m.extend_from_slice(&r.group.octets());
        r.sources.iter().for_each(|s| m.extend_from_slice(&s.octets()));
    }
    send(ns, dev, MLDV2_ALL_ROUTERS, &mut m);
}

/// A version 1 report or "done" (RFC 2710 §3), by whether somebody listens.
fn report_v1(ns: &mut Namespace, dev: IfIndex, group: Ipv6Addr) {
    let leave = !ipv6_chk_mcast_addr(ns, dev, group);
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
