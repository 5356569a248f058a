//! `cargo xtask fuzz-short`: mutated frames and simulated networks, as many as asked for.
//!
//! The fuzzers are ordinary seeded tests of `ferronet-sim` that read how much to do from the environment, so that no
//! nightly compiler is needed, every `cargo test` runs a short round, and a failing seed can be run again by hand.

use crate::cargo::{cargo, must};

/// Runs `N` frames and `SEEDS` worlds (default one million and one thousand) with optimisation and with checks.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (frames, seeds) = amounts(args)?;
    let mut c = cargo();
    c.args(["test", "--package", "ferronet-sim", "--test", "mutated_frames", "--test", "transfers"]);
    must(c.env("FERRONET_FRAMES", frames.to_string()).env("FERRONET_SEEDS", seeds.to_string()))
}

/// The night's round: one hundred million frames, twenty thousand worlds, 256 MiB each way over a cable with loss
/// and reordering to the host's kernel (root). Most of an hour, nearly all of it the cable's.
pub(crate) fn nightly() -> Result<(), String> {
    run(&["100000000".to_owned(), "20000".to_owned()])?;
    let mut c = cargo();
    c.args(["test", "--package", "ferronet", "--test", "tap", "bad_cable_to_the_kernel"]);
    must(c.env("FERRONET_BAD_CABLE_MIB", "256"))
}

fn amounts(args: &[String]) -> Result<(u64, u64), String> {
    let number = |i: usize, default: u64| match args.get(i) {
        None => Ok(default),
        Some(n) => {
            n.parse().map_err(|_| format!("`{n}` is not a number; usage: cargo xtask fuzz-short [N [SEEDS]]"))
        }
    };
    Ok((number(0, 1_000_000)?, number(1, 1_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_defaults() {
        let args = |s: &str| s.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(amounts(&[]), Ok((1_000_000, 1_000)));
        assert_eq!(amounts(&args("5 6")), Ok((5, 6)));
        assert!(amounts(&args("many")).is_err());
    }
}
