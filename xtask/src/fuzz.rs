//! `cargo xtask fuzz-short`: mutated inputs and simulated networks for a bounded time.
//!
//! The fuzzers are ordinary seeded binaries of `ferronet-sim` (`fuzz`: mutated frames and netlink messages into
//! a namespace with sockets; `simulate`: seeded TCP transfers over bad links), so that no nightly compiler is
//! needed and a failing seed can be run again by hand.

use crate::cargo::{cargo, must, packages};

/// Runs the fuzzers with `args[0]` inputs (default one million).
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let inputs: u64 = match args {
        [] => 1_000_000,
        [n] => n.parse().map_err(|_| format!("`{n}` is not a number of inputs"))?,
        _ => return Err("usage: cargo xtask fuzz-short [N]".to_owned()),
    };
    let all = packages()?;
    let sim = all.iter().find(|p| p.name == "ferronet-sim").ok_or("the workspace has no ferronet-sim")?;
    let has = |bin: &str| sim.targets.iter().any(|(k, n)| k == "bin" && n == bin);
    let mut missing = Vec::new();
    for (bin, option, count) in [("fuzz", "--inputs", inputs), ("simulate", "--seeds", 200)] {
        if has(bin) {
            let mut c = cargo();
            c.args(["run", "--release", "--quiet", "-p", "ferronet-sim", "--bin", bin, "--", option]);
            must(c.arg(count.to_string()))?;
        } else {
            missing.push(bin);
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("ferronet-sim has no binary `{}`: nothing was run for it", missing.join("`, `")))
    }
}
