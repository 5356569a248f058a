//! Which paths are ours: /proc/net, /proc/PID/net, /proc/sys/net, however they are spelled.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use ferronet_core::NsId;
use ferronet_linux::NsRef;

use crate::mem;
use crate::mounts::TREE_DIR;
use crate::supervisor::{Call, Supervisor};
use crate::sys::nsref;

/// PATH_MAX.
const MAX: usize = 4096;

/// A path of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Below /proc/net of a namespace: "net/tcp".
    Net(NsId, String),
    /// Below /proc/sys/net of a namespace: "sys/net/ipv4/ip_forward".
    Sys(NsId, String),
}

/// Whose namespace a path names.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Caller,
    Pid(u32),
    Inode(u64),
}

/// Classifies the path at `ptr`, relative to `dirfd`; `None`: not ours, or unreadable (the kernel says EFAULT itself).
pub(crate) fn classify(s: &mut Supervisor, call: &Call, dirfd: i32, ptr: u64) -> Option<Target> {
    let tid = call.n.tid;
    let path = mem::read_cstr(tid, ptr, MAX).ok()?;
    let full = if path.first() == Some(&b'/') {
        if !interesting(&path) {
            return None;
        }
        path
    } else {
        let base = if dirfd == libc::AT_FDCWD {
            fs::read_link(format!("/proc/{tid}/cwd"))
        } else {
            fs::read_link(format!("/proc/{tid}/fd/{dirfd}"))
        };
        let mut base = base.ok()?.as_os_str().as_bytes().to_vec();
        base.push(b'/');
        if !interesting(&base) {
            return None;
        }
        base.extend_from_slice(&path);
        base
    };
    let parts = normalise(std::str::from_utf8(&full).ok()?);
    let (whose, rest) = split(&parts)?;
    let ns = match whose {
        Whose::Caller => s.ns_of(tid).ok()?,
        Whose::Pid(pid) => {
            let (ino, fd) = nsref::open(&mut s.tasks, tid, NsRef::Pid(pid))?;
            s.ns_of_inode(ino, std::os::fd::AsFd::as_fd(&fd)).ok()?
        }
        Whose::Inode(ino) => s.kernel.ns_by_cookie(ino)?,
    };
    match rest.first() {
        Some(&"net") => Some(Target::Net(ns, rest.join("/"))),
        _ => Some(Target::Sys(ns, rest.join("/"))),
    }
}

/// Can a path that starts like this be ours?
fn interesting(path: &[u8]) -> bool {
    let p = path.strip_prefix(b"/").unwrap_or(path);
    p.starts_with(b"proc/")
        || p.starts_with(b"/")
        || p.starts_with(b"./")
        || path.starts_with(TREE_DIR.as_bytes())
}

/// Components without ".", ".." and empty ones.
fn normalise(path: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            p => out.push(p),
        }
    }
    out
}

/// Splits "proc/…" into whose namespace and the path below it.
fn split<'a>(parts: &[&'a str]) -> Option<(Whose, Vec<&'a str>)> {
    let tree = ["run", "ferronet", "tree"];
    if parts.starts_with(&tree) {
        let ino = parts.get(3)?.parse().ok()?;
        return Some((Whose::Inode(ino), parts.get(4..)?.to_vec()))
            .filter(|(_, r)| r.starts_with(&["sys", "net"]));
    }
    if parts.first() != Some(&"proc") {
        return None;
    }
    let rest = parts.get(1..)?;
    let below = |n: usize| rest.get(n..).filter(|r| r.first() == Some(&"net")).map(<[&str]>::to_vec);
    match *rest {
        ["net", ..] => Some((Whose::Caller, rest.to_vec())),
        ["sys", "net", ..] => Some((Whose::Caller, rest.to_vec())),
        [_, "task", tid, "net", ..] => Some((Whose::Pid(tid.parse().ok()?), below(3)?)),
        ["self" | "thread-self", "net", ..] => Some((Whose::Caller, below(1)?)),
        [pid, "net", ..] => Some((Whose::Pid(pid.parse().ok()?), below(1)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<(Whose, String)> {
        split(&normalise(path)).map(|(w, r)| (w, r.join("/")))
    }

    #[test]
    fn spellings_of_our_paths() {
        assert_eq!(of("/proc/net/tcp"), Some((Whose::Caller, "net/tcp".into())));
        assert_eq!(of("/proc/self/net/tcp"), Some((Whose::Caller, "net/tcp".into())));
        assert_eq!(of("/proc//thread-self/./net/dev"), Some((Whose::Caller, "net/dev".into())));
        assert_eq!(of("/proc/17/net/dev"), Some((Whose::Pid(17), "net/dev".into())));
        assert_eq!(of("/proc/17/task/18/net/dev"), Some((Whose::Pid(18), "net/dev".into())));
        assert_eq!(of("/proc/sys/vm/../net/ipv4"), Some((Whose::Caller, "sys/net/ipv4".into())));
        assert_eq!(of("/run/ferronet/tree/42/sys/net/ipv4"), Some((Whose::Inode(42), "sys/net/ipv4".into())));
        assert_eq!(of("/proc/self/status"), None);
        assert_eq!(of("/proc/sys/vm/swappiness"), None);
        assert_eq!(of("/etc/passwd"), None);
    }
}
