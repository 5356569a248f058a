//! `cargo xtask gates`: instructions per operation, counted by callgrind, against the limits below.
//!
//! Instruction counts repeat exactly on any load, so they can fail a build; wall time cannot. Two runs of
//! different length are subtracted: what is left is the cost of one operation without start-up.

use crate::cargo::{cargo, must, root};
use std::process::Command;

/// `(workload of the bench binary, operations in the short and the long run, most instructions per operation)`.
/// A limit is the present count and about five per cent; lower it with every improvement.
const GATES: &[(&str, [u64; 2], f64)] =
    &[("forward", [20_000, 40_000], 880.0), ("connections", [1_000, 2_000], 72_000.0)];

/// Builds the bench binary and checks every gate.
pub(crate) fn run() -> Result<(), String> {
    must(cargo().args(["build", "--release", "--quiet", "-p", "ferronet-bench"]))?;
    let mut slow = Vec::new();
    for (name, [short, long], limit) in GATES {
        let cost = (count(name, *long)? - count(name, *short)?) / (long - short) as f64;
        println!("{name}: {cost:.0} instructions per operation (limit {limit:.0})");
        if cost > *limit {
            slow.push(format!("{name} takes {cost:.0} instructions, more than {limit:.0}"));
        }
    }
    if slow.is_empty() { Ok(()) } else { Err(slow.join("; ")) }
}

/// Instructions of one run.
fn count(workload: &str, n: u64) -> Result<f64, String> {
    let bench = root().join("target/release/bench");
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(bench)
        .args([workload, &n.to_string()])
        .output()
        .map_err(|e| format!("valgrind did not start ({e}); `apt-get install valgrind`"))?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        return Err(format!("the workload `{workload}` failed: {text}"));
    }
    refs(&text).ok_or_else(|| format!("callgrind printed no count: {text}"))
}

/// The number behind `I   refs:`.
fn refs(text: &str) -> Option<f64> {
    let line = text.lines().find(|l| l.contains("refs:"))?;
    line.rsplit(':').next()?.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_count_is_read() {
        assert_eq!(super::refs("==1== \n==1== I   refs:      38,505,569\n"), Some(38_505_569.0));
        assert_eq!(super::refs("nothing"), None);
    }
}
