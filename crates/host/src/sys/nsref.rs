//! Network namespaces that programs name by descriptor or pid (IFLA_NET_NS_FD, IFLA_NET_NS_PID, /proc/PID/net).
//!
//! The supervisor never looks a name up in a tree that programs can change: what stands there may be a FIFO, a device, or a
//! file system that one of them serves, and opening it would wait for them. A pid is turned into the one that the supervisor
//! sees, whose own /proc answers; what a descriptor is gets looked at before any request is made of it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ferronet_linux::NsRef;
use rustix::fs::{AtFlags, StatxFlags};

use crate::os;
use crate::task::Tasks;

/// NS_GET_NSTYPE (linux/nsfs.h).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
/// NS_GET_PID_FROM_PIDNS: a pid of that namespace as the caller's namespace knows it (linux/nsfs.h, 6.11).
const NS_GET_PID_FROM_PIDNS: libc::c_ulong = 0x8004_b706;

/// Opens the namespace; returns its inode and a descriptor. Pids are those the calling thread sees.
pub(crate) fn open(tasks: &mut Tasks, tid: u32, r: NsRef) -> Option<(u64, OwnedFd)> {
    let fd = match r {
        NsRef::Fd(n) => tasks.getfd(tid, n).ok()?,
        NsRef::Pid(pid) => {
            let own = fs::File::open(format!("/proc/{}/ns/net", outer_pid(tid, pid)?));
            OwnedFd::from(own.ok()?)
        }
    };
    inode(fd.as_fd()).map(|ino| (ino, fd))
}

/// The inode when this is an open network namespace.
pub(crate) fn inode(fd: BorrowedFd<'_>) -> Option<u64> {
    let ino = nsfs_inode(fd)?;
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    (kind == libc::CLONE_NEWNET).then_some(ino)
}

/// The inode when this is a file of nsfs. The device says so, and nothing is asked of the file itself: AT_STATX_DONT_SYNC
/// takes what the kernel has.
fn nsfs_inode(fd: BorrowedFd<'_>) -> Option<u64> {
    static NSFS: std::sync::OnceLock<Option<(u32, u32)>> = std::sync::OnceLock::new();
    let nsfs = NSFS.get_or_init(|| {
        let own = fs::File::open("/proc/self/ns/net").ok()?;
        kept(own.as_fd()).map(|s| (s.stx_dev_major, s.stx_dev_minor))
    });
    let s = kept(fd)?;
    ((*nsfs)? == (s.stx_dev_major, s.stx_dev_minor)).then_some(s.stx_ino)
}

/// What the kernel knows of a file without asking anybody.
fn kept(fd: BorrowedFd<'_>) -> Option<rustix::fs::Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, c"", flags, StatxFlags::INO).ok()
}

/// The network namespace bound at `name` in the directory, which is ours; `None` when something else stands there.
pub(crate) fn open_named(dir: BorrowedFd<'_>, name: &str) -> Option<(u64, OwnedFd)> {
    use rustix::fs::{Mode, OFlags, openat};
    // O_PATH opens nothing: a FIFO does not wait, a device does not start, a link is not followed.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = openat(dir, name, flags, Mode::empty()).ok()?;
    nsfs_inode(path.as_fd())?;
    let fd = OwnedFd::from(fs::File::open(format!("/proc/self/fd/{}", path.as_raw_fd())).ok()?);
    inode(fd.as_fd()).map(|ino| (ino, fd))
}

/// The names in a directory of ours and the inodes of the network namespaces bound there.
pub(crate) fn named(dir: BorrowedFd<'_>) -> Vec<(String, u64)> {
    let Ok(entries) = rustix::fs::Dir::read_from(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().to_str().ok().map(str::to_owned));
    names.filter_map(|n| open_named(dir, &n).map(|(ino, _)| (n, ino))).collect()
}

/// The pid, in our namespace, of the process or thread that `tid` knows as `pid`.
fn outer_pid(tid: u32, pid: u32) -> Option<u32> {
    let pid = i32::try_from(pid).ok().filter(|p| *p > 0)?;
    let ns = fs::File::open(format!("/proc/{tid}/ns/pid")).ok()?;
    // SAFETY: the argument is a plain number.
    let r = unsafe { libc::ioctl(ns.as_raw_fd(), NS_GET_PID_FROM_PIDNS, pid) };
    match u32::try_from(r) {
        Ok(outer) => Some(outer),
        // Before 6.11.
        Err(_) if os::errno_of(&std::io::Error::last_os_error()) == libc::ENOTTY => search_pid(&ns, pid),
        Err(_) => None,
    }
}

/// As `outer_pid` where the kernel does not tell: all processes of that pid namespace are looked through.
fn search_pid(ns: &fs::File, pid: i32) -> Option<u32> {
    let wanted = nsfs_inode(ns.as_fd())?;
    let numbers = fs::read_dir("/proc").ok()?.flatten();
    numbers.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).find(|outer| {
        let text = fs::read_to_string(format!("/proc/{outer}/status")).unwrap_or_default();
        let inner = text.lines().find_map(|l| l.strip_prefix("NSpid:")?.split_whitespace().last());
        inner.and_then(|n| n.parse().ok()) == Some(pid)
            && fs::File::open(format!("/proc/{outer}/ns/pid"))
                .is_ok_and(|f| nsfs_inode(f.as_fd()) == Some(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_namespace_is_one() {
        let is = |path: &str| fs::File::open(path).is_ok_and(|f| inode(f.as_fd()).is_some());
        assert!(is("/proc/self/ns/net"));
        for other in ["/proc/self/ns/pid", "/proc/self/status", "/dev/null", "/"] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn what_waits_when_it_is_opened_is_not_opened() {
        let dir = tempdir("nsref");
        let fd = fs::File::open(&dir).expect("a directory");
        rustix::fs::mknodat(&fd, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("mkfifo");
        std::os::unix::fs::symlink("/proc/self/ns/net", dir.join("link")).expect("symlink");
        // A FIFO that nobody writes to: open(2) would wait for ever.
        assert_eq!(named(fd.as_fd()), []);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn pids_are_our_own_in_our_own_namespace() {
        let own = std::process::id();
        assert_eq!(outer_pid(own, own), Some(own));
        assert_eq!(outer_pid(own, u32::MAX), None);
        let ns = fs::File::open("/proc/self/ns/pid").expect("own namespace");
        assert!(search_pid(&ns, own as i32).is_some());
    }

    fn tempdir(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("ferronet-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }
}
