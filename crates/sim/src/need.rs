//! What a test needs from the machine, and an honest skip where it is not there.
//!
//! A skipped test prints `SKIP name: reason` and appends the line to the file that `FERRONET_SKIP_LOG` names, so
//! that `cargo xtask test` can show all skips at its end and `--forbid-skip` can make them failures.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Records that the test `name` did not run, and why.
pub fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    eprint!("{line}");
    if let Some(log) = std::env::var_os("FERRONET_SKIP_LOG") {
        // One write in append mode: lines of tests that run at the same time do not mix.
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&log);
        file.and_then(|mut f| f.write_all(line.as_bytes()))
            .expect("FERRONET_SKIP_LOG must name a writable file");
    }
}

/// The path of a program, searched in `PATH` and the directories of administration programs; without it the test
/// `name` is recorded as skipped.
pub fn program(name: &str, program: &str) -> Option<PathBuf> {
    let found = find_program(program);
    if found.is_none() {
        skip(name, &format!("the program `{program}` is not installed"));
    }
    found
}

/// The path of a program, if it is installed.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]).filter(|d| !d.is_empty());
    dirs.map(|d| Path::new(d).join(program)).find(|p| p.is_file())
}

/// Whether the effective user is root; if not, the test `name` is recorded as skipped.
pub fn root(name: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
    let is_root = uids.split_whitespace().nth(1) == Some("0");
    if !is_root {
        skip(name, "needs root");
    }
    is_root
}

/// Whether a device or file can be opened for reading and writing; if not, the test `name` is recorded as skipped.
pub fn device(name: &str, path: &str) -> bool {
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => true,
        Err(e) => {
            skip(name, &format!("{path}: {e}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        assert!(find_program("sh").is_some_and(|p| p.is_absolute()));
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
