//! Every message written and read back, and what must be refused.

use super::*;
use crate::checksum::{csum_ipv6_magic, csum_partial};
use crate::ipv6::solicited_node;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

fn a(s: &str) -> Ipv6Addr {
    s.parse().unwrap()
}

fn from(s: &str, d: &str) -> NdFrom {
    NdFrom { saddr: a(s), daddr: a(d), hop_limit: 255 }
}

fn sums(f: &NdFrom, m: &[u8]) -> bool {
    csum_ipv6_magic(&f.saddr, &f.daddr, m.len() as u32, 58, csum_partial(m, 0)) == 0
}

#[test]
fn solicitation() {
    let ns = NeighSolicit { target: a("fe80::2"), slla: Some(MAC), nonce: None };
    let f = NdFrom { daddr: solicited_node(&ns.target), ..from("fe80::1", "::") };
    let mut b = [0; 64];
    let n = ns.emit(&f.saddr, &f.daddr, &mut b);
    assert_eq!(n, 32);
    assert_eq!(b[..2], [135, 0]);
    assert_eq!(b[24..32], [1, 1, 2, 0, 0, 0, 0, 7]);
    assert!(sums(&f, &b[..n]));
    assert_eq!(NeighSolicit::parse(&b[..n], &f), Ok(ns));
    assert_eq!(NeighSolicit::parse(&b[..n], &NdFrom { hop_limit: 254, ..f }), Err(WireError::BadField));
    assert_eq!(NeighSolicit::parse(&b[..23], &f), Err(WireError::TooShort));
    assert_eq!(NeighSolicit::parse(&b[..31], &f), Err(WireError::BadOption));
    // Duplicate address detection: no source option, and to a solicited-node group.
    let dad = NdFrom { saddr: Ipv6Addr::UNSPECIFIED, ..f };
    assert_eq!(NeighSolicit::parse(&b[..n], &dad), Err(WireError::BadField));
    assert!(NeighSolicit::parse(&b[..24], &dad).is_ok());
    assert!(NeighSolicit::parse(&b[..24], &NdFrom { daddr: a("fe80::2"), ..dad }).is_err());
    b[8] = 0xff;
    assert_eq!(NeighSolicit::parse(&b[..n], &f), Err(WireError::BadField));
    assert_eq!(ns.emit(&f.saddr, &f.daddr, &mut [0; 31]), 0);
}

#[test]
fn advertisement() {
    let f = from("fe80::2", "fe80::1");
    let mut b = [0; 64];
    for bits in 0..8 {
        let (router, solicited, override_) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let na = NeighAdvert { target: a("fe80::2"), router, solicited, override_, tlla: Some(MAC) };
        let n = na.emit(&f.saddr, &f.daddr, &mut b);
        assert!(n == 32 && sums(&f, &b[..n]));
        assert_eq!(NeighAdvert::parse(&b[..n], &f), Ok(na));
        let all = NdFrom { daddr: a("ff02::1"), ..f };
        assert_eq!(NeighAdvert::parse(&b[..n], &all).is_err(), solicited);
    }
}

#[test]
fn routers() {
    let f = from("fe80::2", "ff02::2");
    let mut b = [0; 128];
    let rs = RouterSolicit { slla: Some(MAC) };
    let n = rs.emit(&f.saddr, &f.daddr, &mut b);
    assert!(n == 16 && sums(&f, &b[..n]));
    assert_eq!(RouterSolicit::parse(&b[..n], &f), Ok(rs));
    assert!(RouterSolicit::parse(&b[..n], &from("::", "ff02::2")).is_err());

    let mut options = [0; 40];
    PrefixInfo::new(a("2001:db8::"), 64, 86400, 14400).put(&mut options).unwrap();
    MtuOpt::new(1400).put(&mut options[32..]).unwrap();
    let ra = RouterAdvert {
        cur_hop_limit: 64,
        flags: ND_RA_FLAG_OTHER,
        lifetime_s: 1800,
        reachable_ms: 30000,
        retrans_ms: 1000,
        options: &options,
    };
    let n = ra.emit(&f.saddr, &f.daddr, &mut b);
    assert!(n == 56 && sums(&f, &b[..n]));
    let got = RouterAdvert::parse(&b[..n], &f).unwrap();
    assert_eq!(got, ra);
    let opts: Vec<_> = NdOptIter::new(got.options).map(|o| o.unwrap()).collect();
    let p = opts[0].prefix_info().unwrap();
    assert_eq!((p.prefix(), p.prefix_len, p.valid(), p.prefered()), (a("2001:db8::"), 64, 86400, 14400));
    assert!(p.onlink() && p.autoconf() && opts[1].mtu() == Some(1400));
    assert_eq!(RouterAdvert::parse(&b[..n], &from("2001:db8::1", "ff02::1")), Err(WireError::BadField));
}

#[test]
fn redirects() {
    let f = from("fe80::2", "2001:db8::9");
    let quoted = [0x60; 2000];
    let r = Redirect { target: a("fe80::3"), dest: a("2001:db8:1::1"), tlla: Some(MAC), quoted: &quoted };
    let mut b = [0; 1400];
    let n = r.emit(&f.saddr, &f.daddr, &mut b);
    assert!(n == 1240 && sums(&f, &b[..n]));
    let got = Redirect::parse(&b[..n], &f).unwrap();
    assert_eq!((got.target, got.dest, got.tlla, got.quoted.len()), (r.target, r.dest, r.tlla, 1184));
    assert!(Redirect::parse(&b[..n], &from("2001:db8::2", "2001:db8::9")).is_err());
    let off_link = Redirect { target: a("2001:db8::3"), ..r };
    let n = off_link.emit(&f.saddr, &f.daddr, &mut b);
    assert_eq!(Redirect::parse(&b[..n], &f), Err(WireError::BadField));
}

#[test]
fn malformed_options() {
    for bad in
        [&[1][..], &[1, 0, 0, 0, 0, 0, 0, 0], &[1, 2, 0, 0, 0, 0, 0, 0], &[1, 2, 0, 0, 0, 0, 0, 0].repeat(2)]
    {
        assert_eq!(NdOptions::parse(bad), Err(WireError::BadOption), "{bad:?}");
    }
    // An unknown one is skipped; of two the first counts.
    let o = [200, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 7, 1, 1, 2, 0, 0, 0, 0, 8];
    assert_eq!(NdOptions::parse(&o).unwrap().slla, Some(MAC));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_bytes(mut b in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..4], 0..90), kind in 133u8..138) {
        if let [k, c, ..] = &mut b[..] {
            (*k, *c) = (kind, 0);
        }
        let f = from("fe80::1", "ff02::1");
        let _ = NeighSolicit::parse(&b, &f);
        let _ = NeighAdvert::parse(&b, &f);
        let _ = RouterSolicit::parse(&b, &f);
        let _ = RouterAdvert::parse(&b, &f);
        let _ = Redirect::parse(&b, &f);
        prop_assert!(NdOptIter::new(&b).count() <= b.len() / 8 + 1);
    }
}
