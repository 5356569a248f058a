//! Hostile segments: no panic, bounded memory; and the fast path against the slow one.

use bytes::Bytes;
use ferronet_core::Mib;
use ferronet_core::time::Duration;
use ferronet_wire::tcp::{SackBlock, SeqNr, TcpFlags, TcpOptions, Timestamps};
use proptest::prelude::*;

use super::Env;
use super::link::check;
use crate::{Open, Payload, ReqVerdict, RequestSock, Segment, SockOpts, Tcb, Transmit};

const OURS: u32 = 0xffff_f000;
const PEER: u32 = 0xffff_ff00;

/// Established with the given options, MSS 1000.
fn established(env: &mut Env, ts: bool, sack: bool) -> Tcb {
    let open = Open { iss: SeqNr(OURS), ts_offset: 0, path_mss: 1012 };
    let mut t = Tcb::connect(&mut env.cx(), SockOpts::default(), open);
    let _ = t.poll_transmit(&mut env.cx());
    env.now += Duration::from_millis(10);
    let syn_ack = Segment {
        seq: SeqNr(PEER),
        ack: SeqNr(OURS.wrapping_add(1)),
        flags: TcpFlags::SYN | TcpFlags::ACK,
        wnd: 60_000,
        opts: TcpOptions {
            mss: Some(1012),
            wscale: Some(3),
            sack_permitted: sack,
            timestamps: ts.then_some(Timestamps { tsval: 1000, tsecr: 1000 }),
            ..TcpOptions::default()
        },
        ..Segment::default()
    };
    t.rcv(&mut env.cx(), &syn_ack, Payload::new()).expect("handshake");
    let _ = t.poll_transmit(&mut env.cx());
    t
}

#[derive(Clone, Debug)]
enum Op {
    Seg {
        flags: u16,
        seq: i32,
        ack: i32,
        wnd: u16,
        len: u32,
        ts: Option<i32>,
        sack: Vec<(i32, i32)>,
        urg: u16,
        gso: u16,
        ce: bool,
    },
    Write(usize),
    Read(usize),
    Wait(u64),
    Shutdown,
    Close,
    Mtu(u16),
}

fn near() -> impl Strategy<Value = i32> {
    prop_oneof![
        4 => Just(0),
        4 => (-3i32..4).prop_map(|n| n * 1000),
        3 => -70_000i32..140_000,
        1 => any::<i32>(),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let flags = prop_oneof![
        8 => Just(TcpFlags::ACK.bits()),
        3 => Just((TcpFlags::ACK | TcpFlags::PSH).bits()),
        1 => Just((TcpFlags::ACK | TcpFlags::FIN).bits()),
        1 => any::<u16>().prop_map(|f| f & 0x1ff & !TcpFlags::RST.bits()),
        1 => any::<u16>().prop_map(|f| f & 0x1ff),
    ];
    let len = prop_oneof![3 => Just(0u32), 3 => Just(1000), 2 => 1u32..3000, 1 => 1u32..65_000];
    let seg = (
        flags,
        near(),
        near(),
        any::<u16>(),
        len,
        proptest::option::of(-5i32..50),
        proptest::collection::vec((near(), near()), 0..5),
        (any::<u16>(), prop_oneof![Just(0u16), 1u16..1500], any::<bool>()),
    )
        .prop_map(|(flags, seq, ack, wnd, len, ts, sack, (urg, gso, ce))| Op::Seg {
            flags,
            seq,
            ack,
            wnd,
            len,
            ts,
            sack,
            urg,
            gso,
            ce,
        });
    prop_oneof![
        12 => seg,
        4 => (1usize..40_000).prop_map(Op::Write),
        3 => (1usize..70_000).prop_map(Op::Read),
        4 => prop_oneof![0u64..50, 0u64..2000, 0u64..200_000].prop_map(Op::Wait),
        1 => Just(Op::Mtu(300)),
        1 => Just(Op::Shutdown),
        1 => Just(Op::Close),
    ]
}

fn run(env: &mut Env, t: &mut Tcb, ops: &[Op], slow: bool, out: &mut Vec<Transmit>) {
    for op in ops {
        match op {
            Op::Seg { flags, seq, ack, wnd, len, ts, sack, urg, gso, ce } => {
                let (nxt, una) = (t.rcv.nxt as u32, t.snd.una as u32);
                let at = |n: i32| SeqNr(una.wrapping_add(n as u32));
                let mut seg = Segment {
                    seq: SeqNr(nxt.wrapping_add(*seq as u32)),
                    ack: at(*ack),
                    flags: TcpFlags::from_bits_truncate(*flags),
                    wnd: *wnd,
                    urg: *urg,
                    len: *len,
                    gso_size: *gso,
                    ce: *ce,
                    ..Segment::default()
                };
                seg.opts.timestamps = ts.map(|d| Timestamps {
                    tsval: t.rcv.ts_recent.wrapping_add(d as u32),
                    tsecr: t.ts_now(env.now),
                });
                for &(a, b) in sack {
                    seg.opts.sack.push(SackBlock { start: at(a), end: at(b) });
                }
                let payload: Payload =
                    (*len > 0).then(|| Bytes::from(vec![1; *len as usize])).into_iter().collect();
                if slow {
                    t.count_in_for_test(&seg);
                    let _ = t.rcv_slow(&mut env.cx(), &seg, payload);
                } else {
                    let _ = t.rcv(&mut env.cx(), &seg, payload);
                }
            }
            Op::Write(n) => {
                let _ = t.send(&mut env.cx(), Bytes::from(vec![2; *n]), n % 7 == 0);
            }
            Op::Read(n) => {
                let _ = t.recv_slices(&mut env.cx(), *n, &mut |s| s.iter().map(|b| b.len()).sum());
            }
            Op::Wait(ms) => {
                env.now += Duration::from_millis(*ms);
                if t.next_deadline().is_some_and(|d| d <= env.now) {
                    t.on_timeout(&mut env.cx());
                }
            }
            Op::Shutdown => {
                let _ = t.shutdown_write(&mut env.cx());
            }
            Op::Close => t.close(&mut env.cx(), false),
            Op::Mtu(m) => t.mtu_reduced(&mut env.cx(), *m),
        }
        check(t);
        let mut n = 0;
        while let Some(x) = t.poll_transmit(&mut env.cx()) {
            check(t);
            out.push(x);
            n += 1;
            assert!(n < 5000, "endless output");
        }
        assert!(
            t.next_deadline().is_none_or(|d| d > env.now) || matches!(op, Op::Seg { .. } | Op::Write(_)),
            "a timer that stays due"
        );
    }
}

/// What two connections must agree on. Counters of the fast path itself are left out.
fn picture(env: &mut Env, t: &Tcb) -> String {
    let mut m = env.mib.clone();
    for c in [Mib::TcpExtTCPHPHits, Mib::TcpExtTCPHPAcks] {
        while m.get(c) > 0 {
            m.dec(c);
        }
    }
    let counters: Vec<&[u64]> = ferronet_core::Mib::GROUPS.iter().map(|g| m.group(g)).collect();
    format!("{t:?}\n{counters:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hostile_segments(ts: bool, sack: bool, ops in proptest::collection::vec(op(), 1..80)) {
        let mut env = Env::new();
        let mut t = established(&mut env, ts, sack);
        run(&mut env, &mut t, &ops, false, &mut Vec::new());
        prop_assert!(t.wmem_queued() <= t.sndbuf() + 65_536);
    }

    #[test]
    fn fast_path_is_the_slow_path(ts: bool, sack: bool, ops in proptest::collection::vec(op(), 1..60)) {
        let (mut a, mut b) = (Env::new(), Env::new());
        let mut fast = established(&mut a, ts, sack);
        let mut slow = established(&mut b, ts, sack);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        run(&mut a, &mut fast, &ops, false, &mut x);
        run(&mut b, &mut slow, &ops, true, &mut y);
        prop_assert_eq!(format!("{:?}", x), format!("{:?}", y));
        prop_assert_eq!(picture(&mut a, &fast), picture(&mut b, &slow));
    }
}

fn raw_segment() -> impl Strategy<Value = (u16, i32, i32, u16, u32, Option<i32>)> {
    (
        any::<u16>().prop_map(|f| f & 0x1ff),
        near(),
        near(),
        any::<u16>(),
        prop_oneof![Just(0u32), 1u32..2000],
        proptest::option::of(-5i32..50),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A request is established only by an ACK of exactly our SYN-ACK, from inside the offered window.
    #[test]
    fn request_sock_takes_only_the_right_ack(syn_ts: bool, segs in proptest::collection::vec(raw_segment(), 1..30)) {
        let mut env = Env::new();
        let open = Open { iss: SeqNr(OURS), ts_offset: 0, path_mss: 1460 };
        let mut syn = Segment { seq: SeqNr(PEER), flags: TcpFlags::SYN, wnd: 5000, ..Segment::default() };
        syn.opts.timestamps = syn_ts.then_some(Timestamps { tsval: 1000, tsecr: 0 });
        let mut r = RequestSock::new(&env.cx(), &SockOpts::default(), &syn, open);
        let _ = r.syn_ack(&mut env.cx());
        for (flags, seq, ack, wnd, len, ts) in segs {
            env.now += Duration::from_millis(300);
            let mut s = Segment {
                seq: SeqNr(PEER.wrapping_add(1).wrapping_add(seq as u32)),
                ack: SeqNr(OURS.wrapping_add(1).wrapping_add(ack as u32)),
                flags: TcpFlags::from_bits_truncate(flags),
                wnd,
                len,
                ..Segment::default()
            };
            s.opts.timestamps = ts.map(|d| Timestamps { tsval: 1000u32.wrapping_add(d as u32), tsecr: 1 });
            match r.rcv(&mut env.cx(), &s) {
                ReqVerdict::Established => {
                    prop_assert!(s.has(TcpFlags::ACK) && !s.flags.intersects(TcpFlags::RST) && ack == 0);
                    prop_assert!((-2000..70_000).contains(&seq));
                    let mut t = Tcb::from_request(&mut env.cx(), SockOpts::default(), &r);
                    let payload: Payload = (len > 0).then(|| Bytes::from(vec![1; len as usize])).into_iter().collect();
                    let _ = t.rcv(&mut env.cx(), &s, payload);
                    check(&t);
                    break;
                }
                ReqVerdict::End(_) => break,
                ReqVerdict::Rst(t) => prop_assert!(t.flags.contains(TcpFlags::RST) && !s.has(TcpFlags::RST)),
                ReqVerdict::Ack(_) | ReqVerdict::Drop(_) | ReqVerdict::ResendSynAck => {}
            }
        }
    }
}
