use core::net::IpAddr;

use ferronet_core::Mib;
use ferronet_core::sysctl::Conf6;
use ferronet_wire::ndisc::{MtuOpt, PrefixInfo, RouterAdvert};
use ferronet_wire::{EthHdr, Ipv6Hdr, MacAddr};

use super::*;
use crate::testnet::{Net, addrs6, groups, routes6, v6};

const T: u32 = ifa_f::TENTATIVE | ifa_f::PERMANENT;
const P: u32 = ifa_f::PERMANENT;

/// The state of a real 6.18 kernel at each step, as `ip -6 route show table all` and `ip -6 addr` printed it.
#[test]
fn routes_and_addresses_are_the_kernels() {
    let mut n = Net::new(1);
    let (a, b) = (n.ns(), n.ns());
    assert_eq!(routes6(n.at(a)), "local ::1 dev lo table local proto kernel metric 0 pref medium\n");
    let (da, db) = n.veth((a, "fnv6a", 1), (b, "fnv6b", 2));
    n.up(a, da);
    n.pass(5000);
    assert_eq!(routes6(n.at(a)), "local ::1 dev lo table local proto kernel metric 0 pref medium\n");
    let i = IfAddr::new("2001:db8::1".parse().expect("an address"), 64);
    inet6_addr_add(n.at(a), da, i).expect("added");
    n.settle();
    assert_eq!(
        routes6(n.at(a)),
        "2001:db8::/64 dev fnv6a proto kernel metric 256 linkdown pref medium\n\
         local ::1 dev lo table local proto kernel metric 0 pref medium\n\
         multicast ff00::/8 dev fnv6a table local proto kernel metric 256 linkdown pref medium\n"
    );
    assert_eq!(addrs6(n.at(a), da), [("2001:db8::1/64".to_owned(), T)]);
    n.up(b, db);
    n.settle();
    assert_eq!(
        routes6(n.at(a)),
        "2001:db8::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         fe80::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         local ::1 dev lo table local proto kernel metric 0 pref medium\n\
         multicast ff00::/8 dev fnv6a table local proto kernel metric 256 pref medium\n"
    );
    let both = |f| [("2001:db8::1/64".to_owned(), f), ("fe80::ff:fe00:1/64".to_owned(), f)];
    assert_eq!(addrs6(n.at(a), da), both(T));
    n.pass(3000);
    let settled = "2001:db8::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         fe80::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         local ::1 dev lo table local proto kernel metric 0 pref medium\n\
         local 2001:db8::1 dev fnv6a table local proto kernel metric 0 pref medium\n\
         local fe80::ff:fe00:1 dev fnv6a table local proto kernel metric 0 pref medium\n\
         multicast ff00::/8 dev fnv6a table local proto kernel metric 256 pref medium\n";
    assert_eq!(routes6(n.at(a)), settled);
    assert_eq!(addrs6(n.at(a), da), both(P));
    let g = |s: &[(&str, u32)]| s.iter().map(|(a, n)| ((*a).to_owned(), *n)).collect::<Vec<_>>();
    let v6only = |v: Vec<(String, u32)>| v.into_iter().filter(|g| g.0.contains(':')).collect::<Vec<_>>();
    let have = v6only(groups(n.at(a), da));
    assert_eq!(have, g(&[("ff02::1:ff00:1", 2), ("ff02::1", 1), ("ff01::1", 1)]));
    n.down(b, db);
    assert_eq!(
        routes6(n.at(a)),
        "2001:db8::/64 dev fnv6a proto kernel metric 256 linkdown pref medium\n\
         fe80::/64 dev fnv6a proto kernel metric 256 linkdown pref medium\n\
         local ::1 dev lo table local proto kernel metric 0 pref medium\n\
         local 2001:db8::1 dev fnv6a table local proto kernel metric 0 pref medium\n\
         local fe80::ff:fe00:1 dev fnv6a table local proto kernel metric 0 pref medium\n\
         multicast ff00::/8 dev fnv6a table local proto kernel metric 256 linkdown pref medium\n"
    );
    n.up(b, db);
    assert_eq!(routes6(n.at(a)), settled);
    n.down(a, da);
    n.settle();
    assert_eq!(routes6(n.at(a)), "local ::1 dev lo table local proto kernel metric 0 pref medium\n");
    assert!(addrs6(n.at(a), da).is_empty());
    assert_eq!(v6only(groups(n.at(a), da)), g(&[("ff02::1", 1), ("ff01::1", 1)]));
    n.down(a, IfIndex::LO);
    assert_eq!(routes6(n.at(a)), "");
}

#[test]
fn every_kind_of_address_gets_the_kernels_routes() {
    let mut n = Net::new(2);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "fnv6a", 1), (b, "fnv6b", 2));
    n.up(a, da);
    n.up(b, db);
    n.pass(3000);
    let new = |s: &str, len| IfAddr::new(s.parse().expect("an address"), len);
    let all = [
        new("2001:db8::1", 64),
        IfAddr { metric: 77, ..new("2001:db8:1::1", 64) },
        new("2001:db8:2::1", 128),
        IfAddr { peer: "2001:db8:3::2".parse().expect("an address"), ..new("2001:db8:3::1", 64) },
        IfAddr { flags: ifa_f::NOPREFIXROUTE, ..new("2001:db8:4::1", 64) },
        IfAddr { flags: ifa_f::NODAD, ..new("2001:db8:5::1", 64) },
        IfAddr { valid_lft: 100, preferred_lft: 50, ..new("2001:db8:6::1", 64) },
    ];
    for i in all {
        inet6_addr_add(n.at(a), da, i).expect("added");
    }
    n.settle();
    assert_eq!(
        routes6(n.at(a)),
        "2001:db8::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         2001:db8:1::/64 dev fnv6a proto kernel metric 77 pref medium\n\
         2001:db8:2::1 dev fnv6a proto kernel metric 256 pref medium\n\
         2001:db8:3::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         2001:db8:5::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         2001:db8:6::/64 dev fnv6a proto kernel metric 256 expires 100sec pref medium\n\
         fe80::/64 dev fnv6a proto kernel metric 256 pref medium\n\
         local ::1 dev lo table local proto kernel metric 0 pref medium\n\
         local 2001:db8:5::1 dev fnv6a table local proto kernel metric 0 pref medium\n\
         local fe80::ff:fe00:1 dev fnv6a table local proto kernel metric 0 pref medium\n\
         multicast ff00::/8 dev fnv6a table local proto kernel metric 256 pref medium\n"
    );
    let order: Vec<String> = addrs6(n.at(a), da).into_iter().map(|x| x.0).collect();
    assert_eq!(
        order,
        [
            "2001:db8:6::1/64",
            "2001:db8:5::1/64",
            "2001:db8:4::1/64",
            "2001:db8:3::1/64",
            "2001:db8:2::1/128",
            "2001:db8:1::1/64",
            "2001:db8::1/64",
            "fe80::ff:fe00:1/64",
        ]
    );
    assert_eq!(inet6_addr_add(n.at(a), da, new("2001:db8::1", 64)), Err(ferronet_core::Errno::EEXIST));
    n.pass(3000);
    // Forwarding: anycast addresses and the routers' groups come, and go.
    let set = |n: &mut Net, v: &[u8]| {
        n.at(a).sysctl_write("ipv6/conf/all/forwarding", v).expect("written");
        n.settle();
    };
    let before = (routes6(n.at(a)), groups(n.at(a), da));
    set(&mut n, b"1");
    assert!(routes6(n.at(a)).contains("anycast 2001:db8:: dev fnv6a table local proto kernel metric 0"));
    assert!(routes6(n.at(a)).contains("anycast fe80:: dev fnv6a table local proto kernel metric 0"));
    for g in ["ff02::2", "ff01::2", "ff05::2"] {
        assert!(groups(n.at(a), da).iter().any(|x| x.0 == g), "{g}");
    }
    set(&mut n, b"0");
    assert_eq!((routes6(n.at(a)), groups(n.at(a), da)), before);
    // Lifetimes.
    n.pass(48_000);
    let of = |n: &mut Net, s: &str| addrs6(n.at(a), da).into_iter().find(|x| x.0 == s).map(|x| x.1);
    assert_eq!(of(&mut n, "2001:db8:6::1/64"), Some(ifa_f::DEPRECATED));
    n.pass(50_000);
    assert_eq!(of(&mut n, "2001:db8:6::1/64"), None);
    assert!(!routes6(n.at(a)).contains("2001:db8:6"));
    // All of them go.
    for (s, _) in addrs6(n.at(a), da) {
        let (v, len) = s.split_once('/').expect("a prefix");
        inet6_addr_del(n.at(a), da, v.parse().expect("an address"), len.parse().ok()).expect("there");
    }
    assert_eq!(
        routes6(n.at(a)),
        "local ::1 dev lo table local proto kernel metric 0 pref medium\n\
         multicast ff00::/8 dev fnv6a table local proto kernel metric 256 pref medium\n"
    );
}

#[test]
fn a_duplicate_is_detected_by_both() {
    let mut n = Net::new(3);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.pass(3000);
    // One has it already.
    n.addr(a, da, "2001:db8::1/64");
    inet6_addr_add(n.at(b), db, IfAddr::new("2001:db8::1".parse().expect("an address"), 64)).expect("added");
    n.pass(3000);
    let flags = |n: &mut Net, ns, dev, s: &str| {
        addrs6(n.at(ns), dev).into_iter().find(|x| x.0 == s).map(|x| x.1).unwrap_or(0)
    };
    assert_eq!(flags(&mut n, b, db, "2001:db8::1/64"), T | ifa_f::DADFAILED);
    assert_eq!(flags(&mut n, a, da, "2001:db8::1/64"), P | ifa_f::NODAD);
    // Both at once.
    for (ns, dev) in [(a, da), (b, db)] {
        let i = IfAddr::new("2001:db8::7".parse().expect("an address"), 64);
        inet6_addr_add(n.at(ns), dev, i).expect("added");
    }
    n.pass(3000);
    let failed = [(a, da), (b, db)]
        .iter()
        .filter(|(ns, dev)| flags(&mut n, *ns, *dev, "2001:db8::7/64") & ifa_f::DADFAILED != 0)
        .count();
    assert!(failed >= 1);
    assert!(n.at(a).env.mib.get(Mib::Icmp6OutNeighborSolicits) > 0);
}

/// An Ethernet frame with a router advertisement.
fn advertisement(mac: u8, ra: &RouterAdvert<'_>) -> Vec<u8> {
    let saddr = v6(&format!("fe80::{mac}"));
    let daddr = v6("ff02::1");
    let mut m = [0; 512];
    let len = ra.emit(&saddr, &daddr, &mut m);
    let eth = EthHdr::new(MacAddr::ipv6_multicast(daddr), MacAddr([2, 0, 0, 0, 0, mac]), 0x86dd);
    let mut f = eth.bytes().to_vec();
    f.extend_from_slice(Ipv6Hdr::new(saddr, daddr, 58, 255, len).bytes());
    f.extend_from_slice(&m[..len]);
    f
}

fn options(lft: (u32, u32), mtu: u32, mac: u8) -> Vec<u8> {
    let mut o = PrefixInfo::new(v6("2001:db8:5::"), 64, lft.0, lft.1).bytes().to_vec();
    o.extend_from_slice(MtuOpt::new(mtu).bytes());
    o.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, mac]);
    o
}

#[test]
fn a_router_configures_the_host() {
    let mut n = Net::new(4);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.pass(3000);
    assert!(n.at(a).env.mib.get(Mib::Icmp6OutRouterSolicits) >= 1, "the host asks for routers");
    let o = options((7200, 3600), 1400, 9);
    let ra = RouterAdvert {
        cur_hop_limit: 33,
        flags: 0,
        lifetime_s: 1800,
        reachable_ms: 12_000,
        retrans_ms: 0,
        options: &o,
    };
    n.rx(a, da, &advertisement(9, &ra));
    n.pass(3000);
    let asked = n.at(a).env.mib.get(Mib::Icmp6OutRouterSolicits);
    let r = routes6(n.at(a));
    assert!(
        r.starts_with("default via fe80::9 dev e proto ra metric 1024 expires 1797sec pref medium\n"),
        "{r}"
    );
    assert!(r.contains("2001:db8:5::/64 dev e proto kernel metric 256 expires 7197sec pref medium\n"), "{r}");
    let want = ("2001:db8:5:0:0:ff:fe00:1/64".to_owned(), ifa_f::MANAGETEMPADDR);
    let got = addrs6(n.at(a), da);
    assert_eq!(got[0].1, want.1);
    assert_eq!(got[0].0, "2001:db8:5::ff:fe00:1/64");
    let d = n.at(a).devs.get(da).expect("a device").clone();
    assert_eq!((d.conf6.get(Conf6::Mtu), d.conf6.get(Conf6::HopLimit), d.mtu), (1400, 33, 1500));
    let flow = crate::fib::Flow::to(IpAddr::V6(v6("2001:db8:ffff::1")));
    let (route, src) = crate::ipv6::route::ip6_route_output(n.at(a), &flow).expect("a route");
    assert_eq!((route.gw, src), (Some("fe80::9".parse().expect("an address")), v6("2001:db8:5::ff:fe00:1")));
    assert_eq!(crate::ipv6::route::dst_mtu(n.at(a), &route, flow.dst), 1400);
    // No more questions once a router answered.
    n.pass(60_000);
    assert_eq!(n.at(a).env.mib.get(Mib::Icmp6OutRouterSolicits), asked);
    // A better router wins, a lifetime of 0 ends it.
    let high = RouterAdvert { flags: 0x08, options: &[], ..ra };
    n.rx(a, da, &advertisement(7, &high));
    let r = routes6(n.at(a));
    assert!(
        r.starts_with("default via fe80::7 dev e proto ra metric 1024 expires 1800sec pref high\n"),
        "{r}"
    );
    n.rx(a, da, &advertisement(7, &RouterAdvert { lifetime_s: 0, ..high }));
    assert!(!routes6(n.at(a)).contains("fe80::7"));
    // (e) of RFC 4862 §5.5.3: two hours are left at least.
    let o = options((60, 30), 1400, 9);
    n.rx(a, da, &advertisement(9, &RouterAdvert { options: &o, ..ra }));
    let life =
        n.at(a).devs.get(da).expect("a device").addrs.iter().find(|a| a.valid_lft != u32::MAX).cloned();
    assert!(life.is_some_and(|a| a.valid_lft > 7000 && a.preferred_lft == 30));
    // All ends without the router.
    n.pass(1_801_000);
    assert!(!routes6(n.at(a)).contains("default"));
    n.pass(7_300_000);
    assert_eq!(addrs6(n.at(a), da).len(), 1);
    assert!(!routes6(n.at(a)).contains("2001:db8:5"));
}

#[test]
fn ipv6_can_be_switched_off_and_on() {
    let mut n = Net::new(5);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.pass(3000);
    let set = |n: &mut Net, v: &[u8]| {
        n.at(a).sysctl_write("ipv6/conf/e/disable_ipv6", v).expect("written");
        n.settle();
    };
    set(&mut n, b"1");
    assert!(addrs6(n.at(a), da).is_empty());
    let i = IfAddr::new("2001:db8::1".parse().expect("an address"), 64);
    assert_eq!(inet6_addr_add(n.at(a), da, i), Err(ferronet_core::Errno::EACCES));
    set(&mut n, b"0");
    n.pass(3000);
    assert_eq!(addrs6(n.at(a), da), [("fe80::ff:fe00:1/64".to_owned(), P)]);
    // Kept addresses survive a device that goes down, and are checked again.
    n.addr(a, da, "2001:db8::9/64");
    inet6_addr_add(n.at(a), da, IfAddr::new("2001:db8::8".parse().expect("an address"), 64)).expect("added");
    n.pass(3000);
    n.at(a).conf.all6.0[Conf6::KeepAddrOnDown as usize] = 1;
    n.down(a, da);
    assert_eq!(addrs6(n.at(a), da).len(), 2);
    n.up(a, da);
    n.pass(3000);
    assert_eq!(addrs6(n.at(a), da).len(), 3);
    assert!(addrs6(n.at(a), da).iter().all(|x| x.1 & ifa_f::TENTATIVE == 0));
    assert!(routes6(n.at(a)).contains("local 2001:db8::8 dev e table local"));
}
