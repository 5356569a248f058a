use ferronet_core::Packet;

use super::*;
use crate::testnet::Net;

/// IPv4 multicast messages of protocol 2 and IPv6 reports among what a namespace sent.
fn reports(n: &mut Net, ns: ferronet_core::NsId, ms: u64) -> Vec<Vec<u8>> {
    let end = n.world.now() + Duration::from_millis(ms);
    let mut out = Vec::new();
    while let Some(t) = n.world.next_timeout().filter(|t| *t <= end) {
        n.world.set_now(t.max(n.world.now() + Duration::from_nanos(1)));
        let m = n.at(ns);
        m.on_timeout();
        while let Some(p) = m.env.tx.pop() {
            let b: Vec<u8> = Packet::to_vec(&p);
            m.env.consume(p);
            if (b[12..14] == [8, 0] && b[23] == 2) || (b[12..14] == [0x86, 0xdd] && b[20] == 0) {
                out.push(b);
            }
        }
        n.settle();
    }
    n.world.set_now(end);
    out
}

#[test]
fn joins_leaves_and_queries_are_reported() {
    let mut n = Net::new(1);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.addr(a, da, "10.0.0.1/24");
    n.pass(10_000);
    let g = Ipv4Addr::new(239, 1, 2, 3);
    ip_mc_join(n.at(a), da, g).expect("joined");
    ip_mc_join(n.at(a), da, g).expect("joined");
    let r = reports(&mut n, a, 5000);
    assert_eq!(r.len(), 2, "robustness 2");
    let want = [0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 2, 3];
    assert_eq!((&r[0][38..40], &r[0][42..54]), (&want[..2], &want[4..]));
    assert_eq!(r[0][..6], [1, 0, 0x5e, 0, 0, 22]);
    assert_eq!((r[0][22], r[0][15], &r[0][26..30]), (1, 0xc0, &[10, 0, 0, 1][..]), "TTL, TOS, source");
    assert_eq!(r[0][34..38], [148, 4, 0, 0], "router alert");
    ip_mc_leave(n.at(a), da, g).expect("there");
    assert!(reports(&mut n, a, 5000).is_empty(), "one user is left");
    ip_mc_leave(n.at(a), da, g).expect("there");
    let r = reports(&mut n, a, 5000);
    assert_eq!((r.len(), r[0][46]), (2, 3), "change to include");
    assert_eq!(ip_mc_leave(n.at(a), da, g), Err(Errno::EADDRNOTAVAIL));
    // A version 2 query makes version 2 reports of it.
    ip_mc_join(n.at(a), da, g).expect("joined");
    let _ = reports(&mut n, a, 5000);
    let query = |n: &mut Net, body: &[u8], group: Ipv4Addr| {
        let mut m = body.to_vec();
        let c = ip_compute_csum(&m).to_be_bytes();
        m[2..4].copy_from_slice(&c);
        let h = Ipv4Hdr::new(Ipv4Addr::new(10, 0, 0, 9), group, 2, 1, m.len());
        let mut f = vec![1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
        let mut ip = h.bytes().to_vec();
        let _ = ferronet_wire::ipv4::ip_send_check(&mut ip);
        f.extend_from_slice(&ip);
        f.extend_from_slice(&m);
        n.rx(a, da, &f);
    };
    query(&mut n, &[0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0], IGMP_ALL_HOSTS);
    let r = reports(&mut n, a, 1100);
    assert_eq!((r.len(), r[0][38], r[0][46]), (1, 0x22, 2), "all groups, version 3");
    query(&mut n, &[0x11, 10, 0, 0, 0, 0, 0, 0], IGMP_ALL_HOSTS);
    let r = reports(&mut n, a, 1100);
    assert_eq!((r.len(), r[0][38], &r[0][30..34]), (1, 0x16, &[239, 1, 2, 3][..]), "version 2");
    ip_mc_leave(n.at(a), da, g).expect("there");
    let r = reports(&mut n, a, 1100);
    assert_eq!((r.len(), r[0][38], &r[0][30..34]), (1, 0x17, &[224, 0, 0, 2][..]));
}

#[test]
fn listeners_report_their_groups() {
    let mut n = Net::new(2);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.pass(10_000);
    let g: core::net::Ipv6Addr = "ff05::1234".parse().expect("a group");
    crate::ipv6::mcast::ipv6_mc_join(n.at(a), da, g).expect("joined");
    let r = reports(&mut n, a, 5000);
    assert_eq!(r.len(), 2);
    assert_eq!(r[0][14 + 24..14 + 40], MLDV2.octets());
    // Hop limit 1, router alert, version 2 report, one record: changed to exclude nothing.
    assert_eq!(r[0][14 + 7], 1);
    assert_eq!(r[0][54..62], [58, 0, 5, 2, 0, 0, 1, 0]);
    assert_eq!((r[0][62], r[0][69], r[0][70]), (143, 1, 4));
    assert_eq!(r[0][74..90], g.octets());
    crate::ipv6::mcast::ipv6_mc_leave(n.at(a), da, g).expect("there");
    let r = reports(&mut n, a, 5000);
    assert_eq!((r.len(), r[0][70]), (2, 3));
    // With sources: one is allowed; of a general query only what is wanted is told.
    let source: core::net::Ipv6Addr = "fd00::9".parse().expect("a source");
    let f = McFilter { exclude: false, sources: vec![IpAddr::V6(source)] };
    crate::ipv6::mcast::ip6_mc_set_filter(n.at(a), da, g, None, Some(&f));
    let r = reports(&mut n, a, 5000);
    assert_eq!((r.len(), r[0].len(), &r[0][70..74]), (2, 106, &[5, 0, 0, 1][..]));
    assert_eq!((&r[0][74..90], &r[0][90..106]), (&g.octets()[..], &source.octets()[..]));
    crate::ipv6::mcast::ip6_mc_set_filter(n.at(a), da, g, Some(&f), None);
    let r = reports(&mut n, a, 5000);
    assert_eq!((r.len(), r[0][70]), (2, 6), "blocked");
}

const MLDV2: core::net::Ipv6Addr = core::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// Kind, group and sources of the records of a version 3 report over IPv4.
fn records_of(report: &[u8]) -> Vec<(u8, [u8; 4], Vec<[u8; 4]>)> {
    let (mut at, mut out) = (46, Vec::new());
    for _ in 0..u16::from_be_bytes([report[44], report[45]]) {
        let word = |i: usize| *report[i..].first_chunk::<4>().expect("a word");
        let n = usize::from(u16::from_be_bytes([report[at + 2], report[at + 3]]));
        out.push((report[at], word(at + 4), (0..n).map(|i| word(at + 8 + 4 * i)).collect()));
        at += 8 + 4 * n;
    }
    assert_eq!(at, report.len());
    out
}

#[test]
fn sources_are_reported_as_they_change() {
    let mut n = Net::new(1);
    let (a, b) = (n.ns(), n.ns());
    let (da, db) = n.veth((a, "e", 1), (b, "e", 2));
    n.up(a, da);
    n.up(b, db);
    n.addr(a, da, "10.0.0.1/24");
    n.pass(10_000);
    let g = Ipv4Addr::new(232, 1, 2, 3);
    let source = |i: u8| IpAddr::from([10, 9, 9, i]);
    let filter = |exclude, l: &[u8]| McFilter { exclude, sources: l.iter().map(|i| source(*i)).collect() };
    let mut now: Option<McFilter> = None;
    let mut step = |n: &mut Net, new: Option<McFilter>, want: &[(u8, &[u8])]| {
        ip_mc_set_filter(n.at(a), da, g, now.as_ref(), new.as_ref());
        now = new;
        let got: Vec<_> = reports(n, a, 5000).iter().map(|r| records_of(r)).collect();
        let want: Vec<_> = want
            .iter()
            .map(|(k, l)| (*k, g.octets(), l.iter().map(|i| [10, 9, 9, *i]).collect::<Vec<_>>()))
            .collect();
        let times = if want.is_empty() { 0 } else { 2 };
        assert_eq!(got, vec![want; times]);
    };
    step(&mut n, Some(filter(false, &[])), &[]);
    step(&mut n, Some(filter(false, &[1, 2])), &[(5, &[1, 2])]);
    step(&mut n, Some(filter(false, &[2, 3])), &[(5, &[3]), (6, &[1])]);
    step(&mut n, Some(filter(true, &[4])), &[(4, &[4])]);
    step(&mut n, Some(filter(true, &[5])), &[(5, &[4]), (6, &[5])]);
    step(&mut n, Some(filter(false, &[6])), &[(3, &[6])]);
    step(&mut n, None, &[(6, &[6])]);
    // Two changes before the first is reported: one report of both, and each is repeated.
    let (one, both) = (filter(false, &[1]), filter(false, &[1, 2]));
    ip_mc_set_filter(n.at(a), da, g, None, Some(&one));
    ip_mc_set_filter(n.at(a), da, g, Some(&one), Some(&both));
    let r = reports(&mut n, a, 5000);
    assert_eq!((r.len(), records_of(&r[0])[0].2.len()), (2, 2));
}

#[test]
fn long_lists_are_spread_over_reports() {
    use crate::dev::mcast::{Record, record, reports_of};
    let r = |kind, n: u32| Record { kind, group: 7u32, sources: (0..n).collect() };
    let sizes = |v: Vec<Vec<Record<u32>>>| -> Vec<Vec<usize>> {
        v.iter().map(|p| p.iter().map(|r| r.sources.len()).collect()).collect()
    };
    // Room for 48 bytes: a record and ten sources.
    let allow = r(record::ALLOW_NEW_SOURCES, 25);
    assert_eq!(sizes(reports_of(std::slice::from_ref(&allow), 48, 8, 4)), [[10], [10], [5]]);
    let exclude = r(record::MODE_IS_EXCLUDE, 25);
    assert_eq!(sizes(reports_of(&[exclude], 48, 8, 4)), [[10]], "cut");
    let small = r(record::MODE_IS_EXCLUDE, 0);
    assert_eq!(sizes(reports_of(&vec![small; 7], 48, 8, 4)), [vec![0; 6], vec![0; 1]]);
    assert!(reports_of::<u32>(&[], 48, 8, 4).is_empty());
}
