use core::net::{Ipv4Addr, Ipv6Addr};

use ferronet_core::rng::Rng;
use ferronet_core::{Env, IfIndex};
use ferronet_wire::MacAddr;
use proptest::prelude::*;

use super::*;
use crate::dev::gso::{skb_checksum_help, skb_gso_segment};
use crate::testnet::Net;

/// A TCP packet with its link header, `len` bytes of payload in pieces, ready for segmentation at `mss`.
fn big(env: &mut Env, v4: bool, seq: u32, len: usize, mss: u16, options: &[u8]) -> Packet {
    let body: Vec<u8> = (0..len).map(|i| (i as u32 * 31 + seq) as u8).collect();
    let (s4, d4) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let (s6, d6): (Ipv6Addr, Ipv6Addr) =
        (crate::testnet::v6("2001:db8::1"), crate::testnet::v6("2001:db8::2"));
    let tcp = TcpHdr::LEN + options.len();
    let l4 = (tcp + len) as u32;
    let mut p = env.pool.get();
    let (proto, net) = if v4 { (ETH_P_IP, Ipv4Hdr::LEN) } else { (ETH_P_IPV6, Ipv6Hdr::LEN) };
    let _ = EthHdr::new(MacAddr([2; 6]), MacAddr([4; 6]), proto).put(p.put(ETH_HLEN));
    let b = p.put(net);
    let pseudo = if v4 {
        let mut h = Ipv4Hdr::new(s4, d4, IPPROTO_TCP, 64, tcp + len);
        h.set_id(seq as u16);
        let _ = h.put(b);
        let _ = ip_send_check(b);
        csum_tcpudp_nofold(s4, d4, l4, IPPROTO_TCP, 0)
    } else {
        let mut h = Ipv6Hdr::new(s6, d6, IPPROTO_TCP, 64, tcp + len);
        h.set_flow(0, 0x1234);
        let _ = h.put(b);
        csum_ipv6_nofold(&s6, &d6, l4, IPPROTO_TCP, 0)
    };
    let mut t = TcpHdr::default();
    t.source.set(1000);
    t.dest.set(2000);
    t.set_seq(ferronet_wire::SeqNr(seq));
    t.set_window(500);
    t.set_hdr_len(tcp);
    t.set_flags(TcpFlags::ACK | TcpFlags::PSH);
    t.set_check(csum_fold_partial(pseudo));
    let b = p.put(tcp);
    let _ = t.put(b);
    b[TcpHdr::LEN..].copy_from_slice(options);
    for c in body.chunks(70_000) {
        p.push_frag(Bytes::copy_from_slice(c));
    }
    let at = p.pos();
    let m = p.meta_mut();
    m.mac = at;
    m.network = at + ETH_HLEN as u16;
    m.transport = m.network + net as u16;
    m.csum = Csum::Partial;
    m.csum_offset = 16;
    if len > usize::from(mss) {
        let kind = if v4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
        m.gso = Gso { size: mss, segs: len.div_ceil(usize::from(mss)) as u16, kind };
    }
    p
}

/// Cut, with checksums as they are on a wire.
fn cut(env: &mut Env, p: Packet) -> Vec<Packet> {
    let mut q = PacketQueue::new();
    if p.meta().gso.kind == GsoKind::None {
        q.push(p);
    } else {
        skb_gso_segment(env, p, &mut q);
    }
    let mut v = Vec::new();
    while let Some(mut s) = q.pop() {
        skb_checksum_help(&mut s);
        let trace = s.meta().trace;
        *s.meta_mut() = ferronet_core::Meta { trace, ..Default::default() };
        v.push(s);
    }
    v
}

/// All that comes out, empty boxes ended.
fn gro(env: &mut Env, v: Vec<Packet>) -> Vec<Packet> {
    let (mut g, mut out) = (Gro::default(), PacketQueue::new());
    for p in v {
        g.receive(p, true, &mut out);
    }
    g.flush(&mut out);
    let mut r = Vec::new();
    while let Some(p) = out.pop() {
        if p.is_empty() {
            env.consume(p);
        } else {
            r.push(p);
        }
    }
    r
}

fn end(env: &mut Env, v: Vec<Packet>) {
    for p in v {
        env.consume(p);
    }
}

#[test]
fn what_does_not_belong_together_stays_apart() {
    let mut env = Env::new(1);
    let e = &mut env;
    let change = |e: &mut Env, f: &dyn Fn(&mut Packet)| {
        let p = big(e, true, 1, 3000, 1000, &[]);
        let mut v = cut(e, p);
        f(&mut v[1]);
        // The damage is on purpose: the checksum is taken as verified.
        for p in &mut v {
            p.meta_mut().csum = Csum::Unnecessary;
            let n = usize::from(p.pos()) + ETH_HLEN;
            let _ = ip_send_check(p.at_mut(n as u16));
        }
        let r = gro(e, v);
        let segs: Vec<u16> = r.iter().map(|p| p.meta().gso.segs.max(1)).collect();
        end(e, r);
        segs
    };
    assert_eq!(change(e, &|_| ()), [3]);
    assert_eq!(change(e, &|p| p.data_mut()[14 + 1] = 3), [1, 1, 1], "CE");
    assert_eq!(change(e, &|p| p.data_mut()[14 + 8] = 63), [1, 1, 1], "TTL");
    assert_eq!(change(e, &|p| p.data_mut()[14 + 5] ^= 8), [1, 1, 1], "identification");
    assert_eq!(change(e, &|p| p.data_mut()[34 + 11] ^= 1), [1, 1, 1], "acknowledgement");
    assert_eq!(change(e, &|p| p.data_mut()[34 + 15] ^= 1), [1, 1, 1], "window");
    assert_eq!(change(e, &|p| p.data_mut()[34 + 13] |= 0x20), [1, 1, 1], "urgent");
    assert_eq!(change(e, &|p| p.data_mut()[34 + 13] |= 0x01), [2, 1], "FIN ends");
    assert_eq!(change(e, &|p| p.data_mut()[34 + 7] ^= 1), [1, 1, 1], "sequence");
    assert_eq!(change(e, &|p| p.data_mut()[34 + 1] ^= 1), [1, 1, 1], "other flow in between");
    // A damaged payload is not merged.
    let p = big(e, true, 1, 3000, 1000, &[]);
    let mut v = cut(e, p);
    let at = v[1].data().len() - 1;
    v[1].data_mut()[at] ^= 1;
    let r = gro(e, v);
    assert_eq!(r.len(), 3);
    end(e, r);
}

#[test]
fn order_within_a_flow_is_kept() {
    let mut env = Env::new(2);
    let e = &mut env;
    let mut rng = Rng::new(3);
    for _ in 0..200 {
        let mut v = Vec::new();
        let mut seq = 1000;
        for _ in 0..rng.below(6) {
            let len = 1 + rng.below(9000) as usize;
            let p = big(e, rng.below(2) == 0, seq, len, 1000, &[]);
            v.extend(cut(e, p));
            seq += len as u32 + rng.below(2);
        }
        let count = |v: &[Packet]| v.iter().map(|p| usize::from(p.meta().gso.segs.max(1))).sum::<usize>();
        let total = v.len();
        let r = gro(e, v);
        assert_eq!(count(&r), total);
        for v4 in [true, false] {
            let net = if v4 { 20 } else { 40 };
            let seqs: Vec<u32> = r
                .iter()
                .filter(|p| (p.data()[12] == 8) == v4)
                .map(|p| TcpHdr::view(&p.data()[14 + net..]).expect("a header").seq().0)
                .collect();
            assert!(seqs.is_sorted(), "{seqs:?}");
        }
        end(e, r);
    }
}

#[test]
fn a_device_with_gro_hands_up_fewer_packets() {
    let mut n = Net::new(1);
    let a = n.ns();
    let spec = crate::world::link::LinkSpec {
        mac: Some(MacAddr([2; 6])),
        ..crate::world::link::LinkSpec::default()
    };
    let kind = crate::dev::DevKind::Backend { ethernet: true, attached: true };
    let dev: IfIndex = n.world.link_add(a, &spec, kind).expect("a device");
    n.up(a, dev);
    n.addr(a, dev, "10.0.0.2/24");
    n.at(a).devs.get_mut(dev).expect("a device").features.gro = true;
    n.settle();
    let before = n.at(a).devs.get(dev).expect("a device").stats;
    let ns = n.at(a);
    let p = big(&mut ns.env, true, 1, 10_000, 1000, &[]);
    let v = cut(&mut ns.env, p);
    let bytes: usize = v.iter().map(Packet::len).sum();
    for mut p in v {
        p.meta_mut().dev = dev;
        ns.netif_rx(p);
    }
    n.settle();
    let ns = n.at(a);
    let s = ns.devs.get(dev).expect("a device").stats;
    assert_eq!((s.rx_packets - before.rx_packets, s.rx_bytes - before.rx_bytes), (10, bytes as u64));
    assert_eq!(ns.env.mib.get(ferronet_core::Mib::TcpInSegs), 10);
    assert_eq!(ns.env.mib.get(ferronet_core::Mib::IpInDelivers), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn gso_then_gro_is_identity(v4: bool, seq: u32, mss in 536u16..1500, segs in 1usize..17, last in 1usize..536, ts: bool) {
        let mut env = Env::new(1);
        let options: &[u8] = if ts { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
        let len = usize::from(mss) * (segs - 1) + last;
        let p = big(&mut env, v4, seq, len, mss, options);
        let want = (p.to_vec(), p.meta().gso);
        let v = cut(&mut env, p);
        let n = v.len();
        let r = gro(&mut env, v);
        let got: Vec<_> = r.iter().map(|p| (p.to_vec(), p.meta().gso, p.meta().csum)).collect();
        end(&mut env, r);
        prop_assert_eq!(got.len(), 1);
        if n > 1 {
            prop_assert_eq!(&got[0], &(want.0, want.1, Csum::Partial));
        }
    }

    #[test]
    fn anything_goes_through(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..20)) {
        let mut env = Env::new(1);
        let v: Vec<Packet> = frames.iter().filter(|f| !f.is_empty()).map(|f| env.pool.from_slice(f)).collect();
        let n = v.len();
        let r = gro(&mut env, v);
        prop_assert_eq!(r.len(), n);
        end(&mut env, r);
    }
}
