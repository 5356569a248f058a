//! How much of a link TCP uses when the link reorders.

use core::time::Duration;

use ferronet_sim::transfer::{Outcome, Setup, transfer};
use ferronet_stack::dev::netem::Params;

/// 50 Mbit/s, 20 ms there and back; `reorder_ppm` of the frames overtake those before them by 10 ms.
fn run(seed: u64, reorder_ppm: u32) -> Outcome {
    let p =
        Params { delay: Duration::from_millis(10), rate_bps: 50_000_000, reorder_ppm, ..Params::default() };
    let setup = Setup { bytes: [6 << 20, 0], link: [p, p], limit: Duration::from_secs(600), chunk: 16 << 10 };
    transfer(seed, &setup).unwrap_or_else(|e| panic!("{e}"))
}

/// One frame in ten overtakes those of half a round trip. RFC 8985 §6.2 makes the sender patient after the first
/// rounds, and D-SACKs undo what it did before that; what it loses is the beginning.
#[test]
fn reordering_costs_little() {
    let mbit = |o: &Outcome| o.bytes as f64 * 8.0 / o.took.as_secs_f64() / 1e6;
    let (mut plain, mut mixed) = (0.0, 0.0);
    for seed in 0..6 {
        let (a, b) = (run(seed, 0), run(seed, 100_000));
        println!("seed {seed}: {:.1} Mbit/s, reordered {:.1} Mbit/s", mbit(&a), mbit(&b));
        assert_eq!(a.retransmits, 0, "seed {seed}: nothing is lost");
        plain += mbit(&a);
        mixed += mbit(&b);
    }
    assert!(mixed > 0.75 * plain, "{mixed:.0} of {plain:.0}");
}
