//! Every byte arrives in order, whatever the link does, and each world runs the same way twice.

use bytes::Bytes;
use ferronet_core::rng::Rng;
use ferronet_core::time::{Duration, Instant};

use super::link::{Link, World};
use crate::{CongAlg, State};

fn byte(seed: u64, at: u64) -> u8 {
    (seed.wrapping_add(at).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// Sends `total[i]` bytes from end `i`, reads everything, closes both ends. Returns the hash and the time it took.
pub(super) fn transfer(w: &mut World, seed: u64, total: [u64; 2], limit: Duration) -> (u64, Duration) {
    let mut rng = Rng::new(seed ^ 0x5555);
    let start = w.now;
    let deadline: Instant = start + limit;
    w.connect();
    let mut sent = [0u64; 2];
    let mut got = [0u64; 2];
    let mut closed = [false; 2];
    let mut eof = [false; 2];
    loop {
        for end in 0..2 {
            if w.tcb[end].is_none() {
                continue;
            }
            let key = seed ^ end as u64;
            if let Some(t) = w.tcb[end].as_mut() {
                t.opts.nodelay = seed.is_multiple_of(3);
            }
            while sent[end] < total[end] && w.state(end).can_send() {
                let n = (u64::from(rng.below(20_000)) + 1).min(total[end] - sent[end]);
                let data: Vec<u8> = (0..n).map(|i| byte(key, sent[end] + i)).collect();
                let more = rng.chance_ppm(100_000);
                match w.with(end, |t, cx| t.send(cx, Bytes::from(data), more)) {
                    Ok(n) => sent[end] += n as u64,
                    Err(_) => break,
                }
            }
            if sent[end] == total[end] && !closed[end] && w.state(end).can_send() {
                w.with(end, |t, cx| t.shutdown_write(cx)).expect("connected");
                closed[end] = true;
            }
            let peer = seed ^ (1 - end) as u64;
            loop {
                let max = rng.below(60_000) as usize + 1;
                let at = got[end];
                let r = w.with(end, |t, cx| {
                    t.recv_slices(cx, max, &mut |s| {
                        let mut n = 0;
                        for b in s.iter().flat_map(|s| s.iter()) {
                            assert_eq!(*b, byte(peer, at + n), "byte {} of end {end}", at + n);
                            n += 1;
                        }
                        n as usize
                    })
                });
                match r {
                    Ok(0) => {
                        assert!(
                            got[end] == total[1 - end],
                            "seed {seed} end {end}: stream ended at {} of {}: {:?}",
                            got[end],
                            total[1 - end],
                            w.info(end)
                        );
                        eof[end] = true;
                        break;
                    }
                    Ok(n) => got[end] += n as u64,
                    Err(_) => break,
                }
            }
        }
        if eof == [true; 2] && w.state(0) == State::Close && w.state(1) == State::Close {
            break;
        }
        let more = w.step();
        if !more || w.now > deadline {
            for e in 0..2 {
                eprintln!(
                    "{e}: {:?}\n{:?} {:?}",
                    w.info(e),
                    w.tcb[e].as_ref().map(|t| t.timers),
                    w.tcb[e].as_ref().map(|t| t.rec)
                );
            }
            panic!(
                "{}: seed {seed} {:?} sent {sent:?} of {total:?} got {got:?}",
                if more { "too slow" } else { "stuck" },
                w.now
            );
        }
    }
    (w.hash, w.now - start)
}

fn random_link(rng: &mut Rng) -> Link {
    Link {
        loss_ppm: rng.below(200_000),
        dup_ppm: rng.below(100_000),
        reorder_ppm: rng.below(200_000),
        delay: Duration::from_micros(u64::from(rng.below(100_000))),
        rate: if rng.chance_ppm(500_000) { 1_000_000 + u64::from(rng.below(100_000_000)) } else { 0 },
        queue: 20_000 + u64::from(rng.below(300_000)),
        cut: rng.chance_ppm(700_000),
        ce_ppm: rng.below(50_000),
    }
}

fn random_world(seed: u64) -> (World, [u64; 2]) {
    let mut rng = Rng::new(seed);
    let mut w = World::new(seed, random_link(&mut rng));
    w.mss = [536, 1448, 1460, 8960, 65483][rng.below(5) as usize];
    for e in &mut w.env {
        e.cfg.sack = rng.chance_ppm(800_000);
        e.cfg.timestamps = rng.chance_ppm(800_000);
        e.cfg.window_scaling = rng.chance_ppm(800_000);
        e.cfg.ecn = rng.below(3) as u8;
        e.cfg.syn_retries = 20;
        e.cfg.synack_retries = 20;
        e.cfg.congestion = if rng.chance_ppm(500_000) { CongAlg::Reno } else { CongAlg::Cubic };
        if rng.chance_ppm(200_000) {
            e.cfg.rmem[1] = 8192;
            e.cfg.rmem[2] = 8192 + rng.below(100_000);
        }
    }
    let total = [u64::from(rng.below(300_000)), u64::from(rng.below(300_000))];
    (w, total)
}

#[test]
fn every_byte_in_order_over_bad_links() {
    let limit = Duration::from_secs(4 * 3600);
    for seed in 0..500 {
        let run = || {
            let (mut w, total) = random_world(seed);
            transfer(&mut w, seed, total, limit)
        };
        let a = run();
        if seed % 20 == 0 {
            assert_eq!(a, run(), "seed {seed}: not the same twice");
        }
    }
}

#[test]
fn clean_link_is_used_fully() {
    // 100 Mbit/s, 20 ms each way: 10 MB take 0.8 s plus slow start.
    let link =
        Link { rate: 100_000_000, delay: Duration::from_millis(20), queue: 1_000_000, ..Link::default() };
    let mut w = World::new(1, link);
    let (_, t) = transfer(&mut w, 1, [10_000_000, 0], Duration::from_secs(60));
    assert!(t < Duration::from_millis(2000), "{t:?}");
    let retrans = w.env[0].mib.get(ferronet_core::Mib::TcpRetransSegs);
    assert_eq!(retrans, 0);
}

#[test]
fn one_percent_loss_still_moves() {
    let link =
        Link { loss_ppm: 10_000, delay: Duration::from_millis(10), rate: 100_000_000, ..Link::default() };
    let mut w = World::new(2, link);
    let (_, t) = transfer(&mut w, 2, [10_000_000, 0], Duration::from_secs(600));
    // The Mathis model gives about 1460 B / 20 ms * 1.2 / sqrt(0.01) = 880 kB/s for Reno.
    assert!(t < Duration::from_secs(16), "{t:?}");
    let to = w.env[0].mib.get(ferronet_core::Mib::TcpExtTCPTimeouts);
    assert!(to < 8, "{to} timeouts");
}

#[test]
fn ecn_marks_reduce_the_window_without_loss() {
    let link = Link { ce_ppm: 20_000, rate: 100_000_000, queue: 10_000_000, ..Link::default() };
    let mut w = World::new(3, link);
    w.env[0].cfg.ecn = 1;
    transfer(&mut w, 3, [3_000_000, 0], Duration::from_secs(60));
    assert_eq!(w.env[0].mib.get(ferronet_core::Mib::TcpRetransSegs), 0);
    let (cwnd, ssthresh) = w.tcb[0].as_ref().expect("open").cwnd();
    assert!(ssthresh < 200 && cwnd < 400, "{cwnd} {ssthresh}");
    assert!(w.info(1).expect("open").options & 16 != 0, "marks were seen");
}
