//! Changes of routes and of the addresses they follow, seen in the tables and in what listeners are told.

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, NsId};

use super::semantics::{Delete, route_del};
use super::*;
use crate::dev::addr_ops::{inet_del_ifa, inet_insert_ifa};
use crate::dev::{DevKind, Device, IfAddr, iff, scope};
use crate::notify::Notify;
use crate::ns::Namespace;

fn ip(s: &str) -> IpAddr {
    s.parse().expect("an address")
}

/// A namespace with `d1` and `d2`, up, and somebody who listens.
fn two_devices() -> (Namespace, IfIndex, IfIndex) {
    let mut ns = Namespace::new(NsId::new(0, 0), 1);
    let mut devs = ["d1", "d2"].map(|name| {
        let mac = ferronet_wire::ethernet::MacAddr([2, 0, 0, 0, 0, name.as_bytes()[1]]);
        let mut d = Device::new(name.to_owned(), DevKind::Dummy, mac, &ns.conf);
        d.flags |= iff::UP;
        ns.devs.insert(d).expect("room")
    });
    ns.notify.listening = true;
    devs.sort();
    (ns, devs[0], devs[1])
}

fn entry(dst: &str, len: u8, hops: &[(Option<&str>, IfIndex)]) -> FibEntry {
    FibEntry {
        dst: ip(dst),
        dst_len: len,
        tos: 0,
        table: table_id::MAIN,
        priority: 1024,
        protocol: proto::BOOT,
        scope: scope::UNIVERSE,
        kind: RouteType::Unicast,
        prefsrc: None,
        nexthops: hops
            .iter()
            .map(|(gw, dev)| NextHop { gw: gw.map(ip), dev: *dev, weight: 0, flags: 0, realm: 0 })
            .collect(),
        metrics: Metrics::default(),
        pref: 0,
        expires: None,
    }
}

fn hops(ns: &Namespace, dst: &str, len: u8) -> Vec<Vec<IfIndex>> {
    let t = ns.fib.table(Family::of(ip(dst)), table_id::MAIN).expect("main");
    t.routes(ip(dst), len).iter().map(|e| e.nexthops.iter().map(|n| n.dev).collect()).collect()
}

/// The next hops of the routes that listeners were told are gone.
fn told_gone(ns: &mut Namespace) -> Vec<usize> {
    let one = |n| match n {
        Notify::RouteDel(e) => Some(e.nexthops.len()),
        _ => None,
    };
    ns.notify.take().into_iter().filter_map(one).collect()
}

fn delete(e: FibEntry) -> Delete {
    Delete {
        route: FibEntry { priority: 0, protocol: 0, ..e },
        kind: 0,
        scope: scope::NOWHERE,
        multipath: false,
    }
}

#[test]
fn the_generation_moves_when_something_changed_and_only_then() {
    let (mut ns, d1, _) = two_devices();
    let e = entry("10.9.0.0", 16, &[(None, d1)]);
    let before = ns.fib.generation;
    assert_eq!(route_del(&mut ns, &delete(e.clone())), Err(Errno::ESRCH));
    ns.fib.flush(&mut ns.notify, Family::V4, |_| true);
    ns.fib.source_gone(&mut ns.notify, ip("10.0.0.1"));
    assert!(!ns.fib.change((table_id::MAIN, e.dst, 16), |_| true));
    assert_eq!(ns.fib.generation, before);
    ns.fib.insert(&mut ns.notify, e.clone(), How::ADD).expect("new");
    let added = ns.fib.generation;
    assert!(added > before);
    assert_eq!(route_del(&mut ns, &delete(e)), Ok(()));
    assert!(ns.fib.generation > added);
}

#[test]
fn an_ipv6_route_loses_the_next_hop_that_was_named() {
    let (mut ns, d1, d2) = two_devices();
    let both = entry("2001:db8:9::", 64, &[(Some("2001:db8:1::2"), d1), (Some("2001:db8:2::2"), d2)]);
    ns.fib.insert(&mut ns.notify, both.clone(), How::ADD).expect("new");
    ns.notify.take();
    // A gateway names one next hop.
    let leg = entry("2001:db8:9::", 64, &[(Some("2001:db8:1::2"), IfIndex::NONE)]);
    assert_eq!(route_del(&mut ns, &delete(leg.clone())), Ok(()));
    assert_eq!((hops(&ns, "2001:db8:9::", 64), told_gone(&mut ns)), (vec![vec![d2]], vec![1]));
    assert_eq!(route_del(&mut ns, &delete(leg)), Err(Errno::ESRCH));
    // A device, or nothing, names the whole route.
    ns.fib
        .insert(
            &mut ns.notify,
            entry("2001:db8:8::", 64, &[(Some("2001:db8:1::2"), d1), (Some("2001:db8:2::2"), d2)]),
            How::ADD,
        )
        .expect("new");
    ns.notify.take();
    assert_eq!(route_del(&mut ns, &delete(entry("2001:db8:8::", 64, &[(None, d1)]))), Ok(()));
    assert_eq!((hops(&ns, "2001:db8:8::", 64), told_gone(&mut ns)), (vec![], vec![2]));
}

#[test]
fn a_device_takes_its_ipv6_next_hops_and_its_ipv4_routes_along() {
    let (mut ns, d1, d2) = two_devices();
    let v6 = entry("2001:db8:9::", 64, &[(Some("2001:db8:1::2"), d1), (Some("2001:db8:2::2"), d2)]);
    let v4 = entry("10.9.0.0", 16, &[(Some("10.1.0.2"), d1), (Some("10.2.0.2"), d2)]);
    for e in [v6, v4] {
        ns.fib.insert(&mut ns.notify, e, How::ADD).expect("new");
    }
    ns.notify.take();
    ns.fib.dev_gone(&mut ns.notify, d2);
    assert_eq!(hops(&ns, "2001:db8:9::", 64), vec![vec![d1]]);
    assert_eq!(hops(&ns, "10.9.0.0", 16), Vec::<Vec<IfIndex>>::new());
    // Of the IPv4 route nobody is told (fib_table_flush).
    assert_eq!(told_gone(&mut ns), vec![1]);
}

#[test]
fn a_source_that_goes_takes_ipv4_routes_along_and_leaves_ipv6_ones() {
    let (mut ns, d1, _) = two_devices();
    for (dst, len, src) in [("10.9.0.0", 16, "10.1.0.1"), ("2001:db8:9::", 64, "2001:db8:1::1")] {
        let e = FibEntry { prefsrc: Some(ip(src)), ..entry(dst, len, &[(None, d1)]) };
        ns.fib.insert(&mut ns.notify, e.clone(), How::ADD).expect("new");
        // Replacing and deleting keep the count of those that prefer the source.
        ns.fib.insert(&mut ns.notify, e, How::REPLACE).expect("replaced");
        assert!(ns.fib.prefers_source(ip(src)));
        ns.fib.source_gone(&mut ns.notify, ip(src));
        assert!(!ns.fib.prefers_source(ip(src)));
    }
    assert!(hops(&ns, "10.9.0.0", 16).is_empty());
    let t = ns.fib.table(Family::V6, table_id::MAIN).expect("main");
    assert!(t.routes(ip("2001:db8:9::"), 64).iter().map(|e| e.prefsrc).eq([None]));
}

#[test]
fn many_addresses_come_and_go_with_their_routes() {
    let (mut ns, d1, _) = two_devices();
    let routes = |ns: &Namespace| ns.fib.tables(Family::V4).map(|t| t.1.len()).sum::<usize>();
    // One subnet: the primary, and secondaries whose broadcast route is the primary's.
    for i in 1..=1000u32 {
        let a = IpAddr::from((0x0a01_0000 + i).to_be_bytes());
        let broadcast = Some(core::net::Ipv4Addr::new(10, 1, 255, 254));
        inet_insert_ifa(&mut ns, d1, IfAddr { broadcast, ..IfAddr::new(a, 16) }).expect("added");
    }
    // 1,000 local, the prefix and two broadcast addresses.
    assert_eq!(routes(&ns), 1003);
    ns.notify.take();
    // The primary takes the others along in one request.
    inet_del_ifa(&mut ns, d1, ip("10.1.0.1"), None).expect("there");
    assert_eq!(routes(&ns), 0);
    let told = ns.notify.take();
    assert_eq!(told.iter().filter(|n| matches!(n, Notify::AddrDel(..))).count(), 1000);
    assert_eq!(told.iter().filter(|n| matches!(n, Notify::RouteDel(_))).count(), 1003);
    // A broadcast address that another subnet needs too stays until both are gone.
    for a in ["10.1.0.1", "10.1.0.2"] {
        inet_insert_ifa(&mut ns, d1, IfAddr::new(ip(a), if a.ends_with('1') { 16 } else { 17 }))
            .expect("added");
    }
    inet_insert_ifa(&mut ns, d1, IfAddr::new(ip("10.1.128.1"), 17)).expect("added");
    let has = |ns: &Namespace| {
        ns.fib
            .table(Family::V4, table_id::LOCAL)
            .is_some_and(|t| t.has_kind(ip("10.1.255.255"), RouteType::Broadcast))
    };
    inet_del_ifa(&mut ns, d1, ip("10.1.0.1"), None).expect("there");
    assert!(has(&ns));
    inet_del_ifa(&mut ns, d1, ip("10.1.128.1"), None).expect("there");
    assert!(!has(&ns));
}
