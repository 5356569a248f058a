//! Multicast groups of devices and IGMP (RFC 3376, RFC 2236; `net/ipv4/igmp.c`).

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use ferronet_core::env::TimerKey;
use ferronet_core::sysctl::Conf4;
use ferronet_core::{DropReason, Errno, IfIndex, Packet, Sysctl};
use ferronet_wire::checksum::ip_compute_csum;
use ferronet_wire::igmp as wire;
use ferronet_wire::igmp::IgmpHdr;
use ferronet_wire::ipproto::IPPROTO_IGMP;
use ferronet_wire::ipv4::{IP_DF, IPOPT_RA, Ipv4Hdr};

use super::input::checksum_ok;
use super::output::ip_local_out;
use super::route::inet_select_addr;
use crate::dev::mcast::{Due, McFilter, Record, Reports, record, reports_of};
use crate::dev::{Device, scope};
use crate::fib::{Route, RouteType};
use crate::ns::Namespace;

/// Reports that a device owes.
pub type Igmp = Reports<Ipv4Addr>;

/// All hosts, 224.0.0.1: every device is in it, nobody reports it.
pub const IGMP_ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// All routers.
const IGMP_ALL_ROUTER: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// All routers that speak version 3.
const IGMPV3_ALL_MCR: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// Bytes of a report in front of the records (`struct igmpv3_report`).
const REPORT_LEN: usize = 8;
/// Bytes of a record without its sources (`struct igmpv3_grec`).
const RECORD_LEN: usize = 8;

/// Reported are all groups but 224.0.0.1, those of the link only when `igmp_link_local_mcast_reports` says so.
fn reported(ns: &Namespace, g: Ipv4Addr) -> bool {
    let local = g.octets()[..3] == [224, 0, 0];
    g != IGMP_ALL_HOSTS && (!local || ns.env.sysctl.on(Sysctl::IgmpLinkLocalMcastReports))
}

/// One more user of a group (`ip_mc_inc_group`); the first one joins it.
pub fn ip_mc_inc_group(ns: &mut Namespace, dev: IfIndex, group: Ipv4Addr) {
    ip_mc_set_filter(ns, dev, group, None, Some(&McFilter::all()));
}

/// One user less (`ip_mc_dec_group`); the last one leaves.
pub fn ip_mc_dec_group(ns: &mut Namespace, dev: IfIndex, group: Ipv4Addr) {
    ip_mc_set_filter(ns, dev, group, Some(&McFilter::all()), None);
}

/// A user's filter changes (`ip_mc_add_src`, `ip_mc_del_src`): `None` before it joins and after it left. Routers hear of what
/// this changes for the device.
pub fn ip_mc_set_filter(
    ns: &mut Namespace,
    dev: IfIndex,
    group: Ipv4Addr,
    old: Option<&McFilter>,
    new: Option<&McFilter>,
) {
    let g = IpAddr::V4(group);
    let (was, before) = (ns.devs.mc_member(dev, g), ns.devs.mc_filter(dev, g));
    ns.devs.mc_set_filter(dev, g, old, new);
    news(ns, dev, group, was, &before);
}

/// Tells routers what is other than `before` (RFC 3376 §5.1). Those of older versions know members alone.
fn news(ns: &mut Namespace, dev: IfIndex, group: Ipv4Addr, was: bool, before: &McFilter) {
    let now = ns.env.now;
    let v3 = version(ns, dev) == 3;
    let g = IpAddr::V4(group);
    let (is, after) = (ns.devs.mc_member(dev, g), ns.devs.mc_filter(dev, g));
    let wanted = reported(ns, group);
    let robustness = u8::try_from(ns.env.sysctl.get(Sysctl::IgmpQrv)).unwrap_or(2).max(1);
    let Some(d) = ns.devs.get_mut(dev) else { return };
    if !wanted || d.is_loopback() || !d.is_up() {
        return;
    }
    if before.exclude != after.exclude || (!v3 && was != is) {
        // A version 2 leave is said once (RFC 2236 §3).
        let times = if is || v3 { robustness } else { 1 };
        d.igmp.changed(now, group, is, times);
    } else if v3 && before.sources != after.sources {
        let (new, gone) = (v4s(&after.without(before)), v4s(&before.without(&after)));
        let (allow, block) = if after.exclude { (&gone, &new) } else { (&new, &gone) };
        d.igmp.sources_changed(now, group, (allow, block), robustness);
    } else {
        return;
    }
    rearm(ns, dev);
}

fn v4s(l: &[IpAddr]) -> Vec<Ipv4Addr> {
    l.iter()
        .filter_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// A program joins a group on a device (`ip_mc_join_group`). The limit per socket is the caller's.
///
/// # Errors
/// `EINVAL` for what is no group, `ENODEV`.
pub fn ip_mc_join(ns: &mut Namespace, dev: IfIndex, group: Ipv4Addr) -> Result<(), Errno> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    ns.devs.get(dev).ok_or(Errno::ENODEV)?;
    ip_mc_inc_group(ns, dev, group);
    Ok(())
}

/// A program leaves a group (`ip_mc_leave_group`).
///
/// # Errors
/// `EADDRNOTAVAIL` when nobody is in it.
pub fn ip_mc_leave(ns: &mut Namespace, dev: IfIndex, group: Ipv4Addr) -> Result<(), Errno> {
    if !ns.devs.mc_member(dev, IpAddr::V4(group)) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    ip_mc_dec_group(ns, dev, group);
    Ok(())
}

fn rearm(ns: &mut Namespace, dev: IfIndex) {
    let Some(d) = ns.devs.get_mut(dev) else { return };
    match d.igmp.next() {
        Some(at) => ns.env.timers.rearm(&mut d.igmp.timer, at, TimerKey::Mcast(dev)),
        None => {
            ns.env.timers.cancel(&mut d.igmp.timer);
        }
    }
}

fn groups(ns: &Namespace, dev: IfIndex) -> Vec<Ipv4Addr> {
    let Some(d) = ns.devs.get(dev) else { return Vec::new() };
    d.mcast
        .iter()
        .filter_map(|m| match m.0 {
            IpAddr::V4(a) if reported(ns, a) => Some(a),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect()
}

/// A device went up: it is in 224.0.0.1, and its groups are news to the link (`ip_mc_up`).
pub fn ip_mc_up(ns: &mut Namespace, dev: IfIndex) {
    ip_mc_inc_group(ns, dev, IGMP_ALL_HOSTS);
    for g in groups(ns, dev) {
        news(ns, dev, g, false, &McFilter::default());
    }
}

/// A device goes down (`ip_mc_down`).
pub fn ip_mc_down(ns: &mut Namespace, dev: IfIndex) {
    if let Some(d) = ns.devs.get_mut(dev) {
        d.igmp.clear();
    }
    ip_mc_dec_group(ns, dev, IGMP_ALL_HOSTS);
    rearm(ns, dev);
}

/// The version to speak (`IGMP_V1_SEEN`, `IGMP_V2_SEEN`).
fn version(ns: &Namespace, dev: IfIndex) -> u8 {
    let Some(d) = ns.devs.get(dev) else { return 3 };
    match d.conf4.get(Conf4::ForceIgmpVersion).max(ns.conf.all4.get(Conf4::ForceIgmpVersion)) {
        v @ 1..=3 => v as u8,
        _ if d.igmp.has_older(ns.env.now, 0) => 1,
        _ if d.igmp.has_older(ns.env.now, 1) => 2,
        _ => 3,
    }
}

/// A device's report timer fired.
pub fn timer(ns: &mut Namespace, dev: IfIndex) {
    let v = version(ns, dev);
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let c =
        if v < 3 { Conf4::Igmpv2UnsolicitedReportInterval } else { Conf4::Igmpv3UnsolicitedReportInterval };
    let interval = Duration::from_millis(u64::try_from(d.conf4.get(c)).unwrap_or(0));
    let due = d.igmp.due(ns.env.now, &mut ns.env.rng, interval);
    for r in due {
        if v == 3 {
            let room = room(ns, dev);
            for part in reports_of(&records(ns, dev, &r), room, RECORD_LEN, size_of::<Ipv4Addr>()) {
                report_v3(ns, dev, &part);
            }
        } else {
            let changed: Vec<Ipv4Addr> = match r {
                Due::General => groups(ns, dev),
                Due::Group(g) => vec![g],
                Due::Changes(c) => c.iter().map(|c| c.group).collect(),
            };
            for g in changed {
                report_old(ns, dev, v, g);
            }
        }
    }
    rearm(ns, dev);
}

/// Room for records in a report of a device, bytes.
fn room(ns: &Namespace, dev: IfIndex) -> usize {
    let mtu = ns.devs.get(dev).map_or(0, |d| d.mtu as usize).clamp(576, 0xffff);
    mtu - (Ipv4Hdr::LEN + 4 + REPORT_LEN)
}

/// What a report says of the groups that it is about.
fn records(ns: &Namespace, dev: IfIndex, due: &Due<Ipv4Addr>) -> Vec<Record<Ipv4Addr>> {
    let state = |group: Ipv4Addr, include: u8, exclude: u8| {
        let f = ns.devs.mc_filter(dev, IpAddr::V4(group));
        let kind = if f.exclude { exclude } else { include };
        Record { kind, group, sources: v4s(&f.sources) }
    };
    // A group that nothing is wanted from is not there (RFC 3376 §5.2).
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

/// A version 3 report (RFC 3376 §4.2).
fn report_v3(ns: &mut Namespace, dev: IfIndex, records: &[Record<Ipv4Addr>]) {
    let [a, b] = (records.len() as u16).to_be_bytes();
    let mut m = vec![wire::IGMPV3_HOST_MEMBERSHIP_REPORT, 0, 0, 0, 0, 0, a, b];
    for r in records {
        let [a, b] = (r.sources.len() as u16).to_be_bytes();
        m.extend_from_slice(&[r.kind, 0, a, b]);
        m.extend_from_slice(&r.group.octets());
        r.sources.iter().for_each(|s| m.extend_from_slice(&s.octets()));
    }
    send(ns, dev, IGMPV3_ALL_MCR, &mut m);
}

/// A report or leave message of version 1 or 2 (RFC 2236 §2), by whether somebody is in the group.
fn report_old(ns: &mut Namespace, dev: IfIndex, version: u8, group: Ipv4Addr) {
    let member = ns.devs.mc_member(dev, IpAddr::V4(group));
    let (t, to) = match (member, version) {
        (false, 1) => return,
        (false, _) => (wire::IGMP_HOST_LEAVE_MESSAGE, IGMP_ALL_ROUTER),
        (true, 1) => (wire::IGMP_HOST_MEMBERSHIP_REPORT, group),
        (true, _) => (wire::IGMPV2_HOST_MEMBERSHIP_REPORT, group),
    };
    let mut m = vec![t, 0, 0, 0];
    m.extend_from_slice(&group.octets());
    send(ns, dev, to, &mut m);
}

/// With a router alert (RFC 2113), TTL 1 and precedence "internetwork control" (RFC 3376 §4).
fn send(ns: &mut Namespace, dev: IfIndex, daddr: Ipv4Addr, m: &mut [u8]) {
    if !ns.devs.get(dev).is_some_and(Device::is_running) {
        return;
    }
    let c = ip_compute_csum(m).to_be_bytes();
    m[2..4].copy_from_slice(&c);
    let saddr = inet_select_addr(ns, dev, daddr, scope::LINK).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let mut p = ns.env.pool.from_slice(m);
    p.set_transport_header(0);
    let mut h = Ipv4Hdr::new(saddr, daddr, IPPROTO_IGMP, 1, m.len() + 4);
    h.set_ihl(6);
    h.tos = 0xc0;
    h.set_frag_off(IP_DF);
    let b = p.push(Ipv4Hdr::LEN + 4);
    let _ = h.put(b);
    b[Ipv4Hdr::LEN..].copy_from_slice(&[IPOPT_RA, 4, 0, 0]);
    p.set_network_header();
    let route = Route { kind: RouteType::Multicast, ..crate::ipv6::route::direct(dev, RouteType::Multicast) };
    ip_local_out(ns, p, &route);
}

/// RFC 3376 §4.1.1: above 128 tenths of a second the code is a floating-point number.
fn max_response(code: u8) -> Duration {
    let c = u64::from(code);
    let tenths = if c < 128 { c } else { ((c & 15) | 16) << (((c >> 4) & 7) + 3) };
    Duration::from_millis(100 * tenths)
}

/// An IGMP message, at its header (`igmp_rcv`).
pub fn igmp_rcv(ns: &mut Namespace, mut p: Packet) {
    let len = p.len();
    let h = if checksum_ok(&mut p, 0) && p.may_pull(len.min(12)) {
        IgmpHdr::view(p.data()).copied()
    } else {
        None
    };
    let Some(h) = h else {
        ns.env.drop(p, DropReason::IcmpInvalid);
        return;
    };
    let dev = p.meta().dev;
    ns.env.consume(p);
    match h.igmp_type {
        wire::IGMP_HOST_MEMBERSHIP_QUERY => igmp_heard_query(ns, dev, &h, len),
        wire::IGMP_HOST_MEMBERSHIP_REPORT | wire::IGMPV2_HOST_MEMBERSHIP_REPORT => {
            if let Some(d) = ns.devs.get_mut(dev) {
                d.igmp.suppress(h.group());
            }
            rearm(ns, dev);
        }
        _ => {}
    }
}

/// A router asks (`igmp_heard_query`).
fn igmp_heard_query(ns: &mut Namespace, dev: IfIndex, h: &IgmpHdr, len: usize) {
    let group = h.group();
    let wanted = reported(ns, group)
        && ns.devs.get(dev).is_some_and(|d| d.mcast.iter().any(|m| m.0 == IpAddr::V4(group)));
    let now = ns.env.now;
    let Some(d) = ns.devs.get_mut(dev) else { return };
    let max = match (len, h.code) {
        // RFC 2236 §4: version 1 routers leave the code 0 and mean ten seconds.
        (8, 0) => {
            d.igmp.older_querier(now, 0);
            Duration::from_secs(10)
        }
        (8, code) => {
            d.igmp.older_querier(now, 1);
            Duration::from_millis(100 * u64::from(code))
        }
        (12.., code) => max_response(code),
        (_, _) => return,
    };
    if group.is_unspecified() {
        d.igmp.general_query(now, &mut ns.env.rng, max);
    } else if wanted {
        d.igmp.group_query(now, &mut ns.env.rng, group, max);
    }
    rearm(ns, dev);
}

#[cfg(test)]
mod tests;
