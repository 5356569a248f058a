//! TCP over bad links: every byte arrives, in order, in both directions; the same seed gives the same world.
//! `FERRONET_SEEDS=N` runs more seeds; a failing seed is in the message.

use ferronet_sim::transfer::{random_setup, transfer};

fn seeds(default: u64) -> u64 {
    std::env::var("FERRONET_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

#[test]
fn every_byte_arrives_and_each_world_repeats() {
    let (mut retransmits, mut hashes) = (0, std::collections::BTreeSet::new());
    let seeds = seeds(1000);
    for seed in 0..seeds {
        let setup = random_setup(seed, 200_000);
        let first = transfer(seed, &setup).unwrap_or_else(|e| panic!("{e}; {setup:?}"));
        let second = transfer(seed, &setup).unwrap_or_else(|e| panic!("{e}; {setup:?}"));
        assert_eq!(first, second, "seed {seed} did not repeat");
        retransmits += first.retransmits;
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len() as u64, seeds, "different seeds are different worlds");
    // Small segments are joined when they are sent again, so this is less than what was lost.
    assert!(retransmits > 12 * seeds, "the links lose: {retransmits} segments sent again in {seeds} worlds");
}
