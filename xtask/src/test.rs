//! `cargo xtask test`: what the real-program tests need, then every test, then what was skipped.
//!
//! A test that cannot run here says so with `ferronet_sim::need` (it prints `SKIP name: reason` and appends the
//! same line to the file named by `FERRONET_SKIP_LOG`); this task shows these lines at the end, because a test
//! that silently did nothing looks exactly like one that passed.

use crate::cargo::{cargo, must, root};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `(program the tests call, Debian package that has it)`.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("arping", "iputils-arping"),
    ("ping", "iputils-ping"),
    ("tracepath", "iputils-tracepath"),
    ("traceroute", "traceroute"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("iperf3", "iperf3"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("wrk", "wrk"),
    ("python3", "python3"),
    ("sysctl", "procps"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("valgrind", "valgrind"),
    ("strace", "strace"),
    ("su", "util-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("useradd", "passwd"),
    ("newuidmap", "uidmap"),
    ("sudo", "sudo"),
    ("nc.openbsd", "netcat-openbsd"),
    ("git", "git"),
];

/// Options of the task.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    forbid_skip: bool,
    install: bool,
    cargo_args: Vec<String>,
}

/// Reads the options; everything after `--` is for `cargo test`.
fn options(args: &[String], env_forbids: bool) -> Result<Options, String> {
    let mut o = Options { forbid_skip: env_forbids, install: true, cargo_args: Vec::new() };
    let mut it = args.iter();
    while let Some(a) = it.next() {
        match a.as_str() {
            "--forbid-skip" => o.forbid_skip = true,
            "--no-install" => o.install = false,
            "--" => {
                o.cargo_args = it.cloned().collect();
                break;
            }
            other => {
                return Err(format!(
                    "`{other}` is no option; there are --forbid-skip, --no-install and `-- ARGS`"
                ));
            }
        }
    }
    Ok(o)
}

/// Installs, tests, reports.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let forbids = std::env::var("FERRONET_FORBID_SKIP").is_ok_and(|v| v == "1");
    let o = options(args, forbids)?;
    if o.install {
        install_missing()?;
    }
    let log = root().join("target").join("skipped-tests.txt");
    std::fs::create_dir_all(root().join("target")).map_err(|e| format!("cannot make target/: {e}"))?;
    std::fs::write(&log, "").map_err(|e| format!("cannot write {}: {e}", log.display()))?;
    let mut c = cargo();
    c.args(["test", "--workspace", "--no-fail-fast"]).args(&o.cargo_args);
    c.env("FERRONET_SKIP_LOG", &log).env("PATH", path_with_sbin());
    let passed = must(&mut c);
    let skipped = read_skips(&std::fs::read_to_string(&log).unwrap_or_default());
    for line in &skipped {
        println!("skipped: {line}");
    }
    println!("{} test(s) skipped", skipped.len());
    passed?;
    if o.forbid_skip && !skipped.is_empty() {
        return Err(
            "skipped tests are forbidden here; install what they ask for (see the lines above)".to_owned()
        );
    }
    Ok(())
}

/// The lines of the skip log, sorted and without repeats.
fn read_skips(log: &str) -> Vec<String> {
    let set: BTreeSet<&str> = log.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    set.into_iter().map(|l| l.strip_prefix("SKIP ").unwrap_or(l).to_owned()).collect()
}

/// `PATH` with the directories of administration programs, which ordinary users often lack.
fn path_with_sbin() -> String {
    let mut path = std::env::var("PATH").unwrap_or_default();
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !path.split(':').any(|p| p == dir) {
            path.push(':');
            path.push_str(dir);
        }
    }
    path
}

/// Whether a program can be found.
fn found(program: &str, path: &str) -> bool {
    path.split(':').any(|dir| Path::new(dir).join(program).is_file())
}

/// The packages whose programs are missing.
fn missing_packages() -> BTreeSet<&'static str> {
    let path = path_with_sbin();
    PROGRAMS.iter().filter(|(program, _)| !found(program, &path)).map(|(_, package)| *package).collect()
}

/// Installs missing packages when this is root on a Debian; otherwise says what is missing and goes on.
fn install_missing() -> Result<(), String> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<&str> = missing.iter().copied().collect();
    let root_user = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    if !root_user || !found("apt-get", &path_with_sbin()) {
        println!("Some tests will skip themselves. To have them all: apt-get install {}", list.join(" "));
        return Ok(());
    }
    let _no_services = NoServices::new()?;
    must(apt().args(["update", "-q"]))?;
    let mut c = apt();
    c.args(["install", "-y", "-q", "--no-install-recommends"]).args(&list);
    must(&mut c)
}

/// `apt-get` that asks nothing.
fn apt() -> Command {
    let mut c = Command::new("apt-get");
    c.env("DEBIAN_FRONTEND", "noninteractive").env("PATH", path_with_sbin()).stdin(Stdio::null());
    c
}

/// While it lives, packages that are installed start no service (Debian policy-rc.d, exit status 101).
struct NoServices {
    made: Option<PathBuf>,
}

impl NoServices {
    fn new() -> Result<NoServices, String> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(NoServices { made: None });
        }
        std::fs::write(&path, "#!/bin/sh\nexit 101\n").map_err(|e| format!("{}: {e}", path.display()))?;
        must(Command::new("chmod").arg("755").arg(&path))?;
        Ok(NoServices { made: Some(path) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Left behind it would only keep services from starting; nothing better can be done in a drop.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(s: &str) -> Vec<String> {
        s.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let o = options(&words("--forbid-skip -- -p ferronet-tcp --lib"), false).unwrap();
        assert!(o.forbid_skip && o.install);
        assert_eq!(o.cargo_args, words("-p ferronet-tcp --lib"));
        assert!(options(&words(""), true).unwrap().forbid_skip);
        assert!(options(&words("--skip"), false).unwrap_err().contains("`--skip`"));
    }

    #[test]
    fn skips_are_sorted_and_counted_once() {
        let log = "SKIP b: no nginx\n\nSKIP a: no root\nSKIP b: no nginx\n";
        assert_eq!(read_skips(log), ["a: no root", "b: no nginx"]);
    }

    #[test]
    fn sbin_is_searched() {
        assert!(path_with_sbin().split(':').any(|d| d == "/usr/sbin"));
        assert!(!found("no-such-program-here", &path_with_sbin()));
    }
}
