use core::net::Ipv4Addr;
use core::time::Duration;

use ferronet_core::rng::Rng;
use ferronet_core::{DropReason, Instant, Mib, NsId, Packet};
use ferronet_wire::ipproto::IPPROTO_UDP;
use proptest::prelude::*;

use super::*;

fn ns() -> Namespace {
    Namespace::new(NsId(0), 1)
}

/// A packet at its header with `options` and `len` bytes of payload in pieces of `piece` bytes.
fn packet(ns: &mut Namespace, options: &[u8], len: usize, piece: usize) -> Packet {
    let body: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut p = ns.env.pool.get();
    let hdr_len = Ipv4Hdr::LEN + options.len();
    let mut h = Ipv4Hdr::new(
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(10, 0, 0, 2),
        IPPROTO_UDP,
        64,
        len + options.len(),
    );
    h.set_ihl((hdr_len / 4) as u8);
    h.set_id(77);
    let b = p.put(hdr_len);
    let _ = h.put(b);
    b[Ipv4Hdr::LEN..].copy_from_slice(options);
    let _ = ip_send_check(p.data_mut());
    p.set_network_header();
    for c in body.chunks(piece.max(1)) {
        p.push_frag(Bytes::copy_from_slice(c));
    }
    p
}

fn cut(ns: &mut Namespace, p: Packet, mtu: usize) -> Vec<Packet> {
    let mut out = Vec::new();
    ip_fragment(ns, p, mtu, &mut |_, f| out.push(f));
    out
}

fn shuffle<T>(rng: &mut Rng, v: &mut [T]) {
    for i in (1..v.len()).rev() {
        v.swap(i, rng.below(i as u32 + 1) as usize);
    }
}

fn feed(ns: &mut Namespace, v: Vec<Packet>) -> Vec<Packet> {
    v.into_iter().filter_map(|f| ip_defrag(ns, f)).collect()
}

fn drop_all(ns: &mut Namespace, v: Vec<Packet>) {
    for p in v {
        ns.env.consume(p);
    }
}

#[test]
fn fragments_in_any_order_give_the_packet_back() {
    let mut ns = ns();
    let mut rng = Rng::new(5);
    for round in 0..50u64 {
        let p = packet(&mut ns, &[], 4000, 1000);
        let want = p.to_vec();
        let mut f = cut(&mut ns, p, 576);
        assert_eq!(f.len(), 8);
        assert!(f.iter().all(|p| p.len() <= 576));
        shuffle(&mut rng, &mut f);
        let got = feed(&mut ns, f);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].to_vec(), want, "round {round}");
        assert_eq!(got[0].meta().frag_max_size, 572);
        drop_all(&mut ns, got);
    }
    assert_eq!(ns.env.mib.get(Mib::IpReasmReqds), 400);
    assert_eq!(ns.env.mib.get(Mib::IpReasmOKs), 50);
    assert_eq!(ns.env.mib.get(Mib::IpFragOKs), 50);
    assert_eq!(ns.env.mib.get(Mib::IpFragCreates), 400);
    assert_eq!((ns.frags.count(Family::V4), ns.frags.memory(Family::V4)), (0, 0));
    assert!(ns.env.timers.is_empty());
}

#[test]
fn payload_is_shared_not_copied() {
    let mut ns = ns();
    let p = packet(&mut ns, &[], 3000, 3000);
    let original = p.frags()[0].as_ptr() as usize;
    let f = cut(&mut ns, p, 1500);
    assert_eq!(f[1].frags()[0].as_ptr() as usize, original + 1480);
    let got = feed(&mut ns, f);
    assert_eq!(got[0].frags().len(), 3);
    assert_eq!(got[0].frags()[0].as_ptr() as usize, original);
    drop_all(&mut ns, got);
}

#[test]
fn options_are_copied_as_rfc_791_says() {
    let mut ns = ns();
    // Record route (not copied), then stream identifier (copied).
    let options = [7, 7, 4, 0, 0, 0, 0, 136, 4, 1, 2, 0];
    let p = packet(&mut ns, &options, 100, 100);
    let f = cut(&mut ns, p, 80);
    assert!(f.len() > 1);
    assert_eq!(f[0].network()[20..32], options);
    for g in &f[1..] {
        assert_eq!(g.network()[20..32], [1, 1, 1, 1, 1, 1, 1, 136, 4, 1, 2, 0]);
        assert!(Ipv4Hdr::check_packet(g.network(), g.len()).is_ok());
    }
    drop_all(&mut ns, f);
}

#[test]
fn an_overlap_ends_the_datagram_and_a_duplicate_does_not() {
    let mut ns = ns();
    let make = |ns: &mut Namespace| {
        let p = packet(ns, &[], 3000, 3000);
        cut(ns, p, 1004)
    };
    // A duplicate is ignored.
    let mut a = make(&mut ns);
    let b = make(&mut ns);
    let copy = b[0].copy(&mut ns.env.pool);
    drop_all(&mut ns, b);
    a.insert(1, copy);
    let got = feed(&mut ns, a);
    assert_eq!(got.len(), 1);
    drop_all(&mut ns, got);
    assert_eq!(ns.env.drops.get(DropReason::FragDuplicate), 1);
    // A fragment that covers old and new bytes ends it.
    let mut a = make(&mut ns);
    let mut liar = a[1].copy(&mut ns.env.pool);
    if let Some(h) = Ipv4Hdr::view_mut(liar.network_mut()) {
        h.set_frag_off(h.frag_off() - 1);
    }
    a.insert(1, liar);
    assert!(feed(&mut ns, a).is_empty());
    assert_eq!(ns.env.mib.get(Mib::IpExtReasmOverlaps), 1);
    assert_eq!(ns.env.mib.get(Mib::IpReasmFails), 1);
}

#[test]
fn time_is_limited_and_the_sender_is_told_when_the_first_fragment_came() {
    for first in [true, false] {
        let mut ns = ns();
        let p = packet(&mut ns, &[], 3000, 3000);
        let mut f = cut(&mut ns, p, 1004);
        let gone = f.remove(usize::from(first));
        ns.env.consume(gone);
        assert!(feed(&mut ns, f).is_empty());
        ns.env.now = Instant::ZERO + Duration::from_secs(29);
        ns.on_timeout();
        assert_eq!(ns.frags.count(Family::V4), 1);
        ns.env.now = Instant::ZERO + Duration::from_secs(30);
        ns.on_timeout();
        assert_eq!(ns.frags.count(Family::V4), 0);
        assert_eq!(ns.env.mib.get(Mib::IpReasmTimeout), 1);
        assert_eq!(ns.env.mib.get(Mib::IpReasmFails), 1);
        match ns.env.backlog.pop() {
            Some(e) => {
                assert!(first);
                let h = IcmpHdr::view(e.transport()).copied().expect("an ICMP header");
                assert_eq!(
                    (h.icmp_type, h.code),
                    (wire_icmp::ICMP_TIME_EXCEEDED, wire_icmp::ICMP_EXC_FRAGTIME)
                );
                ns.env.consume(e);
            }
            None => assert!(!first),
        }
    }
}

#[test]
fn memory_is_limited() {
    let mut ns = ns();
    ns.env.sysctl.set(Sysctl::IpfragHighThresh, 100_000);
    for id in 0..2000u16 {
        let p = packet(&mut ns, &[], 2000, 2000);
        let mut f = cut(&mut ns, p, 1500);
        let gone = f.pop().expect("two fragments");
        ns.env.consume(gone);
        if let Some(h) = Ipv4Hdr::view_mut(f[0].network_mut()) {
            h.set_id(id);
        }
        assert!(feed(&mut ns, f).is_empty());
        assert!(ns.frags.memory(Family::V4) < 104_000);
    }
    assert!(ns.env.drops.get(DropReason::FragMemory) > 1900);
    ns.env.now = Instant::ZERO + Duration::from_secs(31);
    ns.on_timeout();
    assert_eq!(ns.frags.memory(Family::V4), 0);
}

#[test]
fn df_is_respected_and_the_sender_told() {
    let mut ns = ns();
    let mut p = packet(&mut ns, &[], 2000, 2000);
    if let Some(h) = Ipv4Hdr::view_mut(p.network_mut()) {
        h.set_frag_off(IP_DF);
    }
    assert!(cut(&mut ns, p, 1500).is_empty());
    assert_eq!(ns.env.drops.get(DropReason::IpNeedFrag), 1);
    assert_eq!(ns.env.mib.get(Mib::IpFragFails), 1);
    let e = ns.env.backlog.pop().expect("an ICMP error");
    assert_eq!(IcmpHdr::view(e.transport()).map(|h| h.mtu()), Some(1500));
    ns.env.consume(e);
}

#[test]
fn more_pieces_than_a_packet_may_have_are_joined() {
    let mut ns = ns();
    let p = packet(&mut ns, &[], 60_000, 4000);
    let want = p.to_vec();
    let f = cut(&mut ns, p, 576);
    let got = feed(&mut ns, f);
    assert_eq!(got[0].to_vec(), want);
    assert!(got[0].frags().len() <= ferronet_core::packet::MAX_FRAGS);
    drop_all(&mut ns, got);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn fragment_then_reassemble_is_identity(
        len in 1usize..65_000, mtu in 68usize..9000, piece in 200usize..9000, noops in 0usize..10, seed: u64,
    ) {
        let mut ns = ns();
        let p = packet(&mut ns, &vec![IPOPT_NOOP; noops * 4], len, piece);
        let want = p.to_vec();
        let mut f = cut(&mut ns, p, mtu);
        prop_assert!(f.iter().all(|p| p.len() <= mtu));
        shuffle(&mut Rng::new(seed), &mut f);
        let got = if f.len() == 1 { f } else { ns.env.sysctl.set(Sysctl::IpfragMaxDist, 0); feed(&mut ns, f) };
        prop_assert_eq!(got.len(), 1);
        prop_assert_eq!(got[0].to_vec(), want);
        drop_all(&mut ns, got);
    }

    #[test]
    fn any_fragments_end_well(frames in proptest::collection::vec((0u16..32, any::<bool>(), 0usize..200), 0..60)) {
        let mut ns = ns();
        for (off, more, len) in frames {
            let mut p = packet(&mut ns, &[], len, 50);
            if let Some(h) = Ipv4Hdr::view_mut(p.network_mut()) {
                h.set_frag_off(off | if more { IP_MF } else { 0 });
            }
            if let Some(p) = ip_defrag(&mut ns, p) {
                ns.env.consume(p);
            }
        }
        ns.env.now = Instant::ZERO + Duration::from_secs(100);
        ns.on_timeout();
        prop_assert_eq!(ns.frags.memory(Family::V4), 0);
    }
}
