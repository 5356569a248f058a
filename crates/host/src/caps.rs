//! What a thread may do to its network: its effective capabilities, seen from the user namespace that owns that network.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ferronet_linux::Caps;

use crate::os;

/// NS_GET_USERNS: the user namespace that owns a namespace (linux/nsfs.h).
const NS_GET_USERNS: libc::c_ulong = 0xb701;
/// NS_GET_PARENT: the user namespace around a user namespace.
const NS_GET_PARENT: libc::c_ulong = 0xb702;
/// NS_GET_OWNER_UID: who made a user namespace.
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
/// User namespaces nest at most this deep (create_user_ns).
const DEEPEST: usize = 33;

/// A namespace that an ioctl of nsfs returns.
fn related(ns: &OwnedFd, request: libc::c_ulong) -> Option<OwnedFd> {
    // SAFETY: the request takes no argument and returns a descriptor.
    os::cvt_fd(unsafe { libc::ioctl(ns.as_raw_fd(), request) }.into()).ok()
}

/// Who made a user namespace, as seen outside.
fn owner(user: &OwnedFd) -> Option<u32> {
    let mut uid = 0u32;
    // SAFETY: the request writes a uid_t.
    let r = unsafe { libc::ioctl(user.as_raw_fd(), NS_GET_OWNER_UID, std::ptr::from_mut(&mut uid)) };
    (r == 0).then_some(uid)
}

/// `cap_capable` for a thread with effective user id `euid` (as seen outside) and the owner of its network namespace. `None`
/// when the thread is gone.
pub(crate) fn effective(tid: u32, euid: u32) -> Option<Caps> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let bits = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let has = Caps::from_bits_truncate(u64::from_str_radix(bits.trim(), 16).ok()?);
    let open = |what: &str| File::open(format!("/proc/{tid}/ns/{what}")).map(OwnedFd::from).ok();
    let own = os::inode(open("user")?.as_fd());
    let mut user = related(&open("net")?, NS_GET_USERNS)?;
    for _ in 0..DEEPEST {
        if os::inode(user.as_fd()) == own {
            return Some(has);
        }
        // The parent's user who made a namespace may do everything in it.
        let parent = related(&user, NS_GET_PARENT);
        if parent.as_ref().is_some_and(|p| os::inode(p.as_fd()) == own) && owner(&user) == Some(euid) {
            return Some(Caps::all());
        }
        // Beyond our own user namespace the kernel shows none, and no thread of the session is there.
        let Some(parent) = parent else { break };
        user = parent;
    }
    Some(Caps::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_are_those_of_our_status() {
        let uid = rustix::process::geteuid().as_raw();
        let own = effective(std::process::id(), uid).expect("we are here");
        let status = fs::read_to_string("/proc/self/status").expect("status");
        let text = status.lines().find_map(|l| l.strip_prefix("CapEff:")).expect("CapEff");
        let bits = u64::from_str_radix(text.trim(), 16).expect("hexadecimal");
        // Nobody without capabilities is told to have some.
        assert!(bits != 0 || own.is_empty());
        assert_eq!(effective(u32::MAX, uid), None);
    }
}
