//! Packets made by hand between namespaces.

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::rng::Rng;
use ferronet_core::sysctl::Conf6;
use ferronet_core::{DropReason, IfIndex, Mib, NsId, Sysctl};
use ferronet_wire::checksum::csum_partial;
use ferronet_wire::icmpv6::{self as wire, Icmp6Hdr};
use ferronet_wire::{EthHdr, Ipv6Hdr, MacAddr};
use proptest::prelude::*;

use super::output::{Ip6Header, ip6_xmit};
use super::route::{ip6_route_output, ipv6_dev_get_saddr};
use crate::dev::ifa_f;
use crate::fib::{Family, FibEntry, Flow, How, Metrics, NextHop, RouteType, proto, table_id};
use crate::neigh::{NeighKey, nud};
use crate::testnet::{Net, ip, v6};

/// Sends an echo request with `len` bytes of data; `false` without a route.
fn ping(n: &mut Net, ns: NsId, to: Ipv6Addr, oif: IfIndex, len: usize) -> bool {
    let m = n.at(ns);
    let flow = Flow { oif, ..Flow::to(IpAddr::V6(to)) };
    let Ok((r, saddr)) = ip6_route_output(m, &flow) else { return false };
    let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let mut h = Icmp6Hdr::echo(wire::ICMPV6_ECHO_REQUEST, 7, 1);
    h.fill_checksum(&saddr, &to, body.len(), csum_partial(&body, 0));
    let mut b = h.bytes().to_vec();
    b.extend_from_slice(&body);
    let p = m.env.pool.from_slice(&b);
    let h = Ip6Header { saddr, daddr: to, protocol: 58, tclass: 0, hop_limit: 0, flowlabel: 0 };
    ip6_xmit(m, p, &h, &r);
    n.settle();
    true
}

fn replies(n: &mut Net, ns: NsId) -> u64 {
    n.at(ns).env.mib.get(Mib::Icmp6InEchoReplies)
}

/// Two namespaces on one link, settled.
fn pair(seed: u64) -> (Net, (NsId, IfIndex), (NsId, IfIndex)) {
    let mut n = Net::new(seed);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.addr(a, da, "2001:db8::1/64");
    n.addr(b, db, "2001:db8::2/64");
    n.pass(3000);
    (n, (a, da), (b, db))
}

#[test]
fn echo_over_neighbour_discovery() {
    let (mut n, (a, da), (b, db)) = pair(1);
    assert!(ping(&mut n, a, v6("2001:db8::2"), IfIndex::NONE, 56));
    assert_eq!(replies(&mut n, a), 1);
    let state = |n: &mut Net, ns, dev, s| n.at(ns).neigh.get(NeighKey { dev, addr: ip(s) }).map(|x| x.state);
    assert_eq!(state(&mut n, a, da, "2001:db8::2"), Some(nud::REACHABLE));
    assert_eq!(state(&mut n, b, db, "2001:db8::1"), Some(nud::DELAY), "stale, and in use for the reply");
    // Link-local, ourselves, a group.
    assert!(ping(&mut n, a, v6("fe80::ff:fe00:2"), da, 8));
    assert!(ping(&mut n, a, v6("2001:db8::1"), IfIndex::NONE, 8));
    assert!(ping(&mut n, a, v6("fe80::ff:fe00:1"), da, 8));
    assert!(ping(&mut n, a, v6("::1"), IfIndex::NONE, 8));
    assert_eq!(replies(&mut n, a), 5);
    assert!(ping(&mut n, a, v6("ff02::1"), da, 8));
    assert_eq!(replies(&mut n, a), 7, "the other one and ourselves");
    // b verifies its stale entry by unicast.
    n.pass(10_000);
    assert!(matches!(state(&mut n, b, db, "2001:db8::1"), Some(nud::REACHABLE | nud::STALE)));
    // Nobody there: the program learns it.
    assert!(ping(&mut n, a, v6("2001:db8::99"), IfIndex::NONE, 8));
    n.pass(4000);
    assert_eq!(n.at(a).env.mib.get(Mib::Icmp6InDestUnreachs), 1);
    assert_eq!(n.at(a).env.drops.get(DropReason::NeighFailed), 1);
    assert!(!ping(&mut n, a, v6("2001:db9::1"), IfIndex::NONE, 8), "no route");
}

#[test]
fn large_packets_are_fragmented_and_reassembled() {
    let (mut n, (a, _), (b, _)) = pair(2);
    for len in [1500, 1452, 1453, 8000, 60_000] {
        let before = replies(&mut n, a);
        assert!(ping(&mut n, a, v6("2001:db8::2"), IfIndex::NONE, len));
        assert_eq!(replies(&mut n, a), before + 1, "{len}");
    }
    let m = &n.at(b).env.mib;
    assert_eq!((m.get(Mib::Ip6ReasmOKs), m.get(Mib::Ip6FragOKs)), (4, 4));
    assert_eq!(m.get(Mib::Ip6ReasmFails), 0);
    assert_eq!(n.at(a).frags.count(Family::V6), 0);
    // UDP-sized packets over IPv4 go the same way (ipv4::frag has its own tests).
}

fn route(n: &mut Net, ns: NsId, dst: &str, gw: &str, dev: IfIndex) {
    let (d, len) = dst.split_once('/').expect("a prefix");
    let e = FibEntry {
        dst: ip(d),
        dst_len: len.parse().expect("a length"),
        tos: 0,
        table: table_id::MAIN,
        priority: 1024,
        protocol: proto::BOOT,
        scope: 0,
        kind: RouteType::Unicast,
        prefsrc: None,
        nexthops: smallvec::smallvec![NextHop { gw: Some(ip(gw)), dev, weight: 0, flags: 0, realm: 0 }],
        metrics: Metrics::default(),
        pref: 0,
        expires: None,
    };
    let n = n.at(ns);
    n.fib.insert(&mut n.notify, e, How::ADD).expect("inserted");
}

#[test]
fn a_router_forwards_and_says_what_is_too_big() {
    let mut n = Net::new(3);
    let (a, r, b) = (n.ns(), n.ns(), n.ns());
    let (da, r1) = n.veth((a, "e", 1), (r, "e1", 2));
    let (r2, db) = n.veth((r, "e2", 3), (b, "e", 4));
    n.world.link_set_mtu(r, r2, 1280).expect("an MTU");
    n.world.link_set_mtu(b, db, 1280).expect("an MTU");
    for (ns, dev) in [(a, da), (r, r1), (r, r2), (b, db)] {
        n.up(ns, dev);
    }
    for (ns, dev, s) in [
        (a, da, "2001:db8:1::1/64"),
        (r, r1, "2001:db8:1::ff/64"),
        (r, r2, "2001:db8:2::ff/64"),
        (b, db, "2001:db8:2::1/64"),
    ] {
        n.addr(ns, dev, s);
    }
    route(&mut n, a, "::/0", "2001:db8:1::ff", da);
    route(&mut n, b, "::/0", "2001:db8:2::ff", db);
    n.pass(3000);
    let to = v6("2001:db8:2::1");
    ping(&mut n, a, to, IfIndex::NONE, 8);
    assert_eq!(replies(&mut n, a), 0, "forwarding is off");
    assert_eq!(n.at(r).env.mib.get(Mib::Ip6InAddrErrors), 1);
    n.at(r).sysctl_write("ipv6/conf/all/forwarding", b"1").expect("written");
    ping(&mut n, a, to, IfIndex::NONE, 8);
    assert_eq!(replies(&mut n, a), 1);
    assert_eq!(n.at(r).env.mib.get(Mib::Ip6OutForwDatagrams), 2);
    // Too big for the second link: learned, then fragmented by the sender.
    ping(&mut n, a, to, IfIndex::NONE, 1400);
    assert_eq!(replies(&mut n, a), 1);
    assert_eq!(n.at(a).env.mib.get(Mib::Icmp6InPktTooBigs), 1);
    assert_eq!(n.at(r).env.mib.get(Mib::Ip6InTooBigErrors), 1);
    let now = n.at(a).env.now;
    assert_eq!(n.at(a).pmtu.get(now, IpAddr::V6(to)), Some(1280));
    ping(&mut n, a, to, IfIndex::NONE, 1400);
    assert_eq!(replies(&mut n, a), 2);
    assert_eq!(n.at(a).env.mib.get(Mib::Ip6FragOKs), 1);
    // The hop limit ends at the router.
    let m = n.at(a);
    m.devs.get_mut(da).expect("a device").conf6.0[Conf6::HopLimit as usize] = 1;
    ping(&mut n, a, to, IfIndex::NONE, 8);
    assert_eq!(n.at(a).env.mib.get(Mib::Icmp6InTimeExcds), 1);
    // No route at the router.
    n.at(a).devs.get_mut(da).expect("a device").conf6.0[Conf6::HopLimit as usize] = 64;
    ping(&mut n, a, v6("2001:db8:77::1"), IfIndex::NONE, 8);
    assert_eq!(n.at(a).env.mib.get(Mib::Icmp6InDestUnreachs), 1);
    // Link-local packets are not forwarded.
    let ll = v6("fe80::ff:fe00:1");
    let frame = echo_frame((1, 2), (ll, to), &[]);
    n.rx(r, r1, &frame);
    assert_eq!(n.at(a).env.mib.icmp6msg[0][1], 2, "beyond the scope of the source");
}

/// An Ethernet frame with an echo request behind `ext` (whose first header's kind is `ext.0`).
fn echo_frame(macs: (u8, u8), (s, d): (Ipv6Addr, Ipv6Addr), ext: &[(u8, &[u8])]) -> Vec<u8> {
    let mut h = Icmp6Hdr::echo(wire::ICMPV6_ECHO_REQUEST, 1, 1);
    h.fill_checksum(&s, &d, 0, 0);
    let mut payload = Vec::new();
    for (i, (_, b)) in ext.iter().enumerate() {
        let next = ext.get(i + 1).map_or(58, |e| e.0);
        payload.push(next);
        payload.extend_from_slice(&b[1..]);
    }
    payload.extend_from_slice(h.bytes());
    let first = ext.first().map_or(58, |e| e.0);
    let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
    let mut f = EthHdr::new(mac(macs.1), mac(macs.0), 0x86dd).bytes().to_vec();
    f.extend_from_slice(Ipv6Hdr::new(s, d, first, 64, payload.len()).bytes());
    f.extend_from_slice(&payload);
    f
}

#[test]
fn extension_headers() {
    let (mut n, (a, da), (_, _)) = pair(4);
    // What cannot be answered is told to this address, which has answered before.
    let (s, d) = (v6("2001:db8::2"), v6("2001:db8::1"));
    let pad: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let sent = |n: &mut Net| n.at(a).env.mib.get(Mib::Icmp6OutEchoReplies);
    let told = |n: &mut Net| n.at(a).env.mib.get(Mib::Icmp6OutParmProblems);
    let mut case = |ext: &[(u8, &[u8])], answered: bool, problem: bool| {
        let (e, t) = (sent(&mut n), told(&mut n));
        n.rx(a, da, &echo_frame((2, 1), (s, d), ext));
        assert_eq!(sent(&mut n) - e, u64::from(answered), "{ext:?}");
        assert_eq!(told(&mut n) - t, u64::from(problem), "{ext:?}");
        n.pass(1000);
    };
    case(&[], true, false);
    case(&[(0, pad)], true, false);
    case(&[(60, pad)], true, false);
    case(&[(0, pad), (60, pad)], true, false);
    // Hop-by-hop options anywhere but first.
    case(&[(60, pad), (0, pad)], false, true);
    // Padding that is not zero; unknown options by their action bits.
    case(&[(60, &[0, 0, 1, 4, 0, 1, 0, 0])], false, false);
    case(&[(60, &[0, 0, 0x1e, 4, 0, 0, 0, 0])], true, false);
    case(&[(60, &[0, 0, 0x5e, 4, 0, 0, 0, 0])], false, false);
    case(&[(60, &[0, 0, 0x9e, 4, 0, 0, 0, 0])], false, true);
    case(&[(0, &[0, 0, 0xde, 4, 0, 0, 0, 0])], false, true);
    // RFC 5095: a routing header with segments left, and one without.
    case(&[(43, &[0, 0, 0, 1, 0, 0, 0, 0])], false, true);
    case(&[(43, &[0, 0, 0, 0, 0, 0, 0, 0])], true, false);
    // Router alert, jumbo payload.
    case(&[(0, &[0, 0, 5, 2, 0, 0, 1, 0])], true, false);
    case(&[(0, &[0, 0, 194, 4, 0, 1, 0, 0])], false, true);
    // An atomic fragment; a fragment that stays alone; one of a bad length.
    case(&[(44, &[0, 0, 0, 0, 0, 0, 0, 9])], true, false);
    case(&[(44, &[0, 0, 0, 1, 0, 0, 0, 9])], false, false);
    // Nothing that is known.
    case(&[(60, &[0, 0, 1, 4, 0, 0, 0, 0]), (253, pad)], false, true);
}

#[test]
fn a_fragment_queue_that_ends_is_told() {
    let (mut n, (a, da), (b, _)) = pair(5);
    let (s, d) = (v6("2001:db8::2"), v6("2001:db8::1"));
    ping(&mut n, b, d, IfIndex::NONE, 8);
    n.rx(a, da, &echo_frame((2, 1), (s, d), &[(44, &[0, 0, 0, 1, 0, 0, 0, 9])]));
    n.pass(59_000);
    assert_eq!(n.at(b).env.mib.get(Mib::Icmp6InTimeExcds), 0);
    n.pass(2000);
    assert_eq!(n.at(b).env.mib.get(Mib::Icmp6InTimeExcds), 1);
    assert_eq!(n.at(a).env.mib.get(Mib::Ip6ReasmTimeout), 1);
}

#[test]
fn source_addresses_are_chosen_by_rfc_6724() {
    let (mut n, (a, da), _) = pair(6);
    n.addr(a, da, "fd00::1/64");
    n.addr(a, da, "2001:db8:7::1/64");
    let pick = |n: &mut Net, d: &str| ipv6_dev_get_saddr(n.at(a), da, v6(d)).map(|a| a.to_string());
    assert_eq!(pick(&mut n, "2001:db8::5").as_deref(), Some("2001:db8::1"), "rule 8");
    assert_eq!(pick(&mut n, "2001:db8:7::5").as_deref(), Some("2001:db8:7::1"), "rule 8");
    assert_eq!(pick(&mut n, "fd00::5").as_deref(), Some("fd00::1"), "rule 6");
    assert_eq!(pick(&mut n, "fe80::5").as_deref(), Some("fe80::ff:fe00:1"), "rule 2");
    assert_eq!(pick(&mut n, "ff02::5").as_deref(), Some("fe80::ff:fe00:1"), "rule 2");
    assert_eq!(pick(&mut n, "fd00::1").as_deref(), Some("fd00::1"), "rule 1");
    for i in &mut n.at(a).devs.get_mut(da).expect("a device").addrs {
        if i.local == ip("2001:db8:7::1") {
            i.flags |= ifa_f::DEPRECATED;
        }
    }
    assert_eq!(pick(&mut n, "2001:db8:7::5").as_deref(), Some("2001:db8::1"), "rule 3");
}

#[test]
fn errors_are_limited_in_rate() {
    let (mut n, (a, da), (_, _)) = pair(7);
    for _ in 0..200 {
        let f =
            echo_frame((2, 1), (v6("2001:db8::2"), v6("2001:db8::1")), &[(253, &[0, 0, 1, 4, 0, 0, 0, 0])]);
        n.rx(a, da, &f);
    }
    let sent = n.at(a).env.mib.get(Mib::Icmp6OutParmProblems);
    assert!(sent > 0 && sent <= 60, "{sent}");
    n.at(a).env.sysctl.write(Sysctl::Ip6IcmpRatemask, b"0-3\n").expect("a mask");
    for _ in 0..50 {
        let f =
            echo_frame((2, 1), (v6("2001:db8::2"), v6("2001:db8::1")), &[(253, &[0, 0, 1, 4, 0, 0, 0, 0])]);
        n.rx(a, da, &f);
    }
    assert_eq!(n.at(a).env.mib.get(Mib::Icmp6OutParmProblems), sent + 50);
}

/// One frame that looks like something, damaged at random.
fn mutated(rng: &mut Rng) -> Vec<u8> {
    let addrs = [
        "2001:db8::1",
        "2001:db8::2",
        "fe80::ff:fe00:1",
        "fe80::9",
        "ff02::1",
        "ff02::1:ff00:1",
        "::",
        "::1",
    ];
    let pick = |rng: &mut Rng| v6(addrs[rng.below(addrs.len() as u32) as usize]);
    let (s, d) = (pick(rng), pick(rng));
    let nexthdrs = [0u8, 6, 17, 43, 44, 58, 59, 60, 200];
    let nexthdr = nexthdrs[rng.below(nexthdrs.len() as u32) as usize];
    let len = rng.below(120) as usize;
    let mut payload: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
    if nexthdr == 58 && len >= 8 {
        payload[0] = [1, 2, 3, 4, 128, 129, 130, 131, 133, 134, 135, 136, 137, 143][rng.below(14) as usize];
        payload[1] = 0;
        let _ = wire::icmp6_send_check(&s, &d, &mut payload);
    } else if let Some(b) = payload.first_mut() {
        *b = nexthdrs[rng.below(nexthdrs.len() as u32) as usize];
        if len > 8 && rng.below(2) == 0 {
            payload[1] = rng.below(3) as u8;
        }
    }
    let hops = [1, 64, 255][rng.below(3) as usize];
    let mut f =
        EthHdr::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 9]), 0x86dd).bytes().to_vec();
    f.extend_from_slice(Ipv6Hdr::new(s, d, nexthdr, hops, payload.len()).bytes());
    f.extend_from_slice(&payload);
    if rng.below(4) == 0 {
        let at = rng.below(f.len() as u32) as usize;
        f[at] = rng.next_u32() as u8;
    }
    if rng.below(8) == 0 {
        f.truncate(rng.below(f.len() as u32) as usize);
    }
    f
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn random_frames_never_panic(seed: u64) {
        let (mut n, (a, da), _) = pair(seed);
        if seed & 1 == 1 {
            n.at(a).sysctl_write("ipv6/conf/all/forwarding", b"1").expect("written");
        }
        let mut rng = Rng::new(seed);
        for _ in 0..400 {
            let f = mutated(&mut rng);
            n.rx(a, da, &f);
        }
        n.pass(70_000);
        prop_assert_eq!(n.at(a).frags.memory(Family::V6), 0);
        prop_assert_eq!(n.at(a).frags.memory(Family::V4), 0);
    }
}
