//! `cargo xtask tidy`: the house rules that a program can check.
//!
//! * `arrows`: which crate may know which, from `cargo metadata`;
//! * `bans`: what code below `host` may not name (clocks, threads, sockets, files, printing, unsafe, cfg);
//! * `sizes`: length of files, functions and inline test modules;
//! * `allow`: the exceptions in `tidy.allow`, each with its reason; one that is not needed any more is an error.
//!
//! Sources are read as tokens (`lexer`), so words in comments and strings do not count.

mod allow;
mod arrows;
mod bans;
mod lexer;
mod sizes;

use crate::cargo;
use std::path::Path;

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// File relative to the workspace.
    pub path: String,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// Name of the rule, as used in `tidy.allow`.
    pub rule: &'static str,
    /// Name of the function meant, for rules about functions.
    pub function: Option<String>,
    /// What is wrong and what to do.
    pub text: String,
    /// False for hard limits, which `tidy.allow` cannot excuse.
    pub excusable: bool,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, text: String) -> Finding {
        Finding { path: path.to_owned(), line, rule, function: None, text, excusable: true }
    }
}

/// Checks the whole workspace.
pub(crate) fn run() -> Result<(), String> {
    let root = cargo::root();
    let packages = cargo::packages()?;
    let mut findings = arrows::check(&packages);
    let mut files = 0;
    for p in &packages {
        let mut paths = Vec::new();
        rust_files(&root.join(&p.dir), &mut paths)?;
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let shown = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let source = lexer::Source::new(&shown, &text);
            files += 1;
            findings.extend(sizes::check(&source));
            findings.extend(bans::check(&p.name, &source));
        }
    }
    let allow_file = root.join("tidy.allow");
    let allow_text =
        std::fs::read_to_string(&allow_file).map_err(|e| format!("{}: {e}", allow_file.display()))?;
    let mut left = allow::apply("tidy.allow", &allow_text, findings);
    left.sort();
    for f in &left {
        println!("{}:{}: {}: {}", f.path, f.line, f.rule, f.text);
    }
    if left.is_empty() {
        println!("tidy: {} crates, {files} files, nothing to mend", packages.len());
        Ok(())
    } else {
        Err(format!("{} thing(s) to mend", left.len()))
    }
}

/// All Rust files below a package's directory, in a stable order; build output is left out.
fn rust_files(dir: &Path, out: &mut Vec<std::path::PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
    paths.sort();
    for p in paths {
        if p.is_dir() {
            if p.file_name().is_some_and(|n| n != "target") {
                rust_files(&p, out)?;
            }
        } else if p.extension().is_some_and(|e| e == "rs") {
            out.push(p);
        }
    }
    Ok(())
}

/// The part of a package's name that ARCHITECTURE.md uses: `ferronet-tcp` is `tcp`, `ferronet` is `cli`.
fn short_name(package: &str) -> &str {
    match package {
        "ferronet" => "cli",
        other => other.strip_prefix("ferronet-").unwrap_or(other),
    }
}

/// Whether the sans-IO rules hold for this crate (everything up to `linux`).
fn below_host(package: &str) -> bool {
    matches!(short_name(package), "wire" | "core" | "tcp" | "netfilter" | "bpf" | "stack" | "linux")
}
