//! A real network namespace to compare with.

use std::fs::File;
use std::process::{Command, Stdio};

use ferronet_sim::need;

/// A named namespace of the running kernel, deleted at the end.
pub(crate) struct RealNs {
    name: String,
}

impl RealNs {
    /// A fresh namespace; without root, `ip` or Linux 6.18 the test `test` is recorded as skipped.
    pub(crate) fn new(test: &str) -> Option<RealNs> {
        if !need::root(test) {
            return None;
        }
        let ip = need::program(test, "ip")?;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        if !release.starts_with("6.18.") {
            need::skip(test, &format!("compares with Linux 6.18, this is {}", release.trim()));
            return None;
        }
        let name = format!("fn-twin-{}-{test}", std::process::id());
        let made = Command::new(ip).args(["netns", "add", &name]).stderr(Stdio::null()).status();
        if !made.is_ok_and(|s| s.success()) {
            need::skip(test, "`ip netns add` is not allowed here");
            return None;
        }
        Some(RealNs { name })
    }

    /// Runs `f` on a thread inside the namespace.
    pub(crate) fn inside<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|s| {
            s.spawn(move || {
                let ns = File::open(path).expect("the namespace file");
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&ns),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .expect("root may enter");
                f()
            })
            .join()
            .expect("no panic inside")
        })
    }

    /// Runs a shell script inside; its standard output.
    #[allow(dead_code, reason = "each test file takes what it needs of this module")]
    pub(crate) fn sh(&self, script: &str) -> String {
        let out = Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-ec", script])
            .output()
            .expect("ip is installed");
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for RealNs {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}
