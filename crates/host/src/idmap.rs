//! User and group id maps of the sandbox (user_namespaces(7)).

use std::io;
use std::process::{Command, Stdio};

use crate::error::{HostError, Result};

/// The whole id range, as init's user namespace has it.
const ALL: &str = "0 0 4294967295\n";

/// Writes the maps of process `pid`, which has just entered its new user namespace.
///
/// As root every id we have is mapped to itself. An ordinary user becomes root inside; where newuidmap and newgidmap are
/// installed and /etc/subuid grants a range, ids from 1 up are mapped too, so that servers can drop privileges.
pub(crate) fn write_maps(pid: u32) -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    if uid == 0 {
        for file in ["uid_map", "gid_map"] {
            let own = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_else(|_| ALL.into());
            put(pid, file, &identity(&own))?;
        }
        return Ok(());
    }
    if helper("newuidmap", "/etc/subuid", pid, uid) && helper("newgidmap", "/etc/subgid", pid, gid) {
        return Ok(());
    }
    // newuidmap may have succeeded alone; then the map is written already and this is EPERM.
    let _ = put(pid, "uid_map", &format!("0 {uid} 1\n"));
    put(pid, "setgroups", "deny")?;
    put(pid, "gid_map", &format!("0 {gid} 1\n"))
}

/// Every extent of our own map, mapped to itself.
fn identity(own: &str) -> String {
    let mut out = String::new();
    for line in own.lines() {
        let mut f = line.split_whitespace();
        if let (Some(inside), Some(_), Some(count)) = (f.next(), f.next(), f.next()) {
            out.push_str(&format!("{inside} {inside} {count}\n"));
        }
    }
    out
}

fn put(pid: u32, file: &str, text: &str) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/{file}"), text).map_err(HostError::IdMap)
}

/// First range of `name` or `id` in a subuid(5) file.
fn sub_range(text: &str, name: &str, id: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|l| {
        let mut f = l.trim().split(':');
        let (who, start, count) = (f.next()?, f.next()?.parse().ok()?, f.next()?.parse().ok()?);
        (who == name || who.parse() == Ok(id)).then_some((start, count))
    })
}

fn helper(program: &str, file: &str, pid: u32, id: u32) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    let name = user_name(uid).unwrap_or_default();
    let Some((start, count)) = std::fs::read_to_string(file).ok().and_then(|t| sub_range(&t, &name, uid))
    else {
        return false;
    };
    let run = Command::new(program)
        .args([pid, 0, id, 1, 1, start, count].map(|n| n.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    matches!(run, Ok(s) if s.success())
}

/// The login name of `uid`, from /etc/passwd.
pub(crate) fn user_name(uid: u32) -> io::Result<String> {
    let text = std::fs::read_to_string("/etc/passwd")?;
    text.lines()
        .find_map(|l| {
            let mut f = l.split(':');
            let (name, id) = (f.next()?, f.nth(1)?);
            (id.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let t = "alice:100000:65536\n1001:200000:65536\n";
        assert_eq!(sub_range(t, "alice", 5), Some((100_000, 65_536)));
        assert_eq!(sub_range(t, "bob", 1001), Some((200_000, 65_536)));
        assert_eq!(sub_range(t, "carol", 7), None);
    }

    #[test]
    fn own_map_becomes_an_identity() {
        assert_eq!(
            identity("         0       1000          1\n         1     100000      65536\n"),
            "0 0 1\n1 1 65536\n"
        );
    }
}
