//! Mutated frames: no panic, memory within its limit. `FERRONET_FRAMES=N` throws more (nightly: 100,000,000).

use ferronet_sim::frames::Target;

#[test]
fn nothing_panics_and_memory_is_bounded() {
    let frames: u64 = std::env::var("FERRONET_FRAMES").ok().and_then(|s| s.parse().ok()).unwrap_or(1_000_000);
    let worlds = 10;
    for seed in 0..worlds {
        let mut t = Target::new(seed);
        t.throw(frames / worlds);
        assert!(t.boxes() < 20_000, "seed {seed}: {} packet boxes", t.boxes());
        assert!(t.entries() < 5_000, "seed {seed}: {} entries", t.entries());
    }
}
