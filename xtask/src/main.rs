//! Project tasks: `cargo xtask tidy|test|bench|docs|fuzz-short|nightly|gates`.
//!
//! Each task is one module with a `run` that returns an error text made for a person: what is wrong, where, and
//! what to do about it. Nothing here is part of the product.

mod bench;
mod cargo;
mod docs;
mod fuzz;
mod gates;
mod test;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
Project tasks of ferronet.

usage: cargo xtask TASK [OPTIONS]

  tidy                 crate arrows, bans below `host`, file and function sizes
  test [--forbid-skip] [--no-install] [-- ARGS]
                       installs what the real-program tests need (root on Debian), then `cargo test --workspace`;
                       lists the tests that skipped themselves; with --forbid-skip (or FERRONET_FORBID_SKIP=1) a
                       skipped test is a failure; ARGS go to cargo test
  bench [--out FILE]   runs every `bench` binary of the workspace in release mode and writes BENCHMARKS.md
  docs [--open]        the API documentation, warnings are errors
  fuzz-short [N [SEEDS]]
                       N mutated frames (default 1000000) and SEEDS simulated TCP worlds (default 1000)
  nightly              the same with 100,000,000 frames and 20,000 worlds; then 256 MiB over a bad cable (root)
  gates                instructions per operation (callgrind) against the limits in xtask/src/gates.rs

The whole check of a change is .ci/run.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((t, r)) => (t.as_str(), r),
        None => ("help", &[][..]),
    };
    let done = match task {
        "tidy" => tidy::run(),
        "test" => test::run(rest),
        "bench" => bench::run(rest),
        "docs" => docs::run(rest),
        "fuzz-short" => fuzz::run(rest),
        "nightly" => fuzz::nightly(),
        "gates" => gates::run(),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!(
            "there is no task `{other}`; the tasks are tidy, test, bench, docs, fuzz-short, nightly, gates"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask {task}: {why}");
            ExitCode::FAILURE
        }
    }
}
