//! What the supervisor knows about the threads that call: pidfd, network namespace, process, user.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use ferronet_linux::Caps;

use crate::caps;
use crate::os::{cvt, cvt_fd, errno_of, inode, is_spare};

/// PIDFD_GET_NET_NAMESPACE (linux/pidfd.h, 6.11).
const PIDFD_GET_NET_NAMESPACE: libc::c_ulong = 0xff04;
/// PIDFD_GET_INFO with the first version of its structure, 64 bytes (linux/pidfd.h, 6.13).
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
/// PIDFD_THREAD = O_EXCL (linux/pidfd.h, 6.9).
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
/// More threads than this are forgotten and looked up again.
const CACHED: usize = 4096;

struct Task {
    pidfd: OwnedFd,
    /// Inode of the network namespace, while it is known to hold.
    net: Option<u64>,
    /// (process id, effective user id), both as seen outside.
    info: Option<(u32, u32)>,
    /// What `caps` found, for which effective user, and when.
    caps: Option<(Caps, u32, u64)>,
}

/// How long capabilities are believed to be what they were, nanoseconds. What changes them is seen (capset, setns, unshare, a
/// change of the user, the first file that a dynamic program opens), except the execution of a static one.
const BELIEVED: u64 = 100_000_000;

/// Cache of threads by thread id.
#[derive(Default)]
pub(crate) struct Tasks {
    map: HashMap<u32, Task>,
    /// (inside, outside, count) of the sandbox's user map.
    uids: Vec<(u32, u32, u32)>,
}

fn open(tid: u32) -> Result<OwnedFd, i32> {
    let call = |pid: u32, flags: libc::c_int| {
        // SAFETY: no memory is involved.
        cvt_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) }).map_err(|e| errno_of(&e))
    };
    match call(tid, PIDFD_THREAD) {
        // Before 6.9 only processes have pidfds; descriptors are the process's anyway.
        Err(libc::EINVAL) => call(status_field(tid, "Tgid:").unwrap_or(tid), 0),
        r => r,
    }
}

/// First number behind `field` in /proc/TID/status.
fn status_field(tid: u32, field: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
}

impl Tasks {
    /// Reads the user map of the sandbox once it is written.
    pub(crate) fn set_user_map(&mut self, init_pid: u32) {
        let text = fs::read_to_string(format!("/proc/{init_pid}/uid_map")).unwrap_or_default();
        self.uids = text
            .lines()
            .filter_map(|l| {
                let mut f = l.split_whitespace().map(|n| n.parse().ok());
                Some((f.next()??, f.next()??, f.next()??))
            })
            .collect();
    }

    fn task(&mut self, tid: u32) -> Result<&mut Task, i32> {
        if !self.map.contains_key(&tid) {
            let pidfd = open(tid)?;
            if self.map.len() >= CACHED || is_spare(pidfd.as_fd()) {
                self.map.clear();
            }
            self.map.insert(tid, Task { pidfd, net: None, info: None, caps: None });
        }
        self.map.get_mut(&tid).ok_or(libc::ESRCH)
    }

    /// Forgets what a thread may do: it may have executed a program.
    pub(crate) fn forget_caps(&mut self, tid: u32) {
        if let Some(t) = self.map.get_mut(&tid) {
            t.caps = None;
        }
    }

    /// The thread's effective capabilities in the user namespace that owns its network namespace.
    pub(crate) fn caps(&mut self, tid: u32, now_ns: u64) -> Caps {
        self.who(tid);
        let Ok(task) = self.task(tid) else { return Caps::empty() };
        let uid = task.info.map_or(u32::MAX, |(_, uid)| uid);
        if let Some((caps, of, at)) = task.caps
            && of == uid
            && now_ns.saturating_sub(at) < BELIEVED
        {
            return caps;
        }
        let caps = caps::effective(tid, uid).unwrap_or_default();
        task.caps = Some((caps, uid, now_ns));
        caps
    }

    /// Forgets a thread's namespaces and capabilities: it is about to call setns, unshare or capset.
    pub(crate) fn forget_net(&mut self, tid: u32) {
        self.map.remove(&tid);
    }

    /// A copy of the program's descriptor `fd`; EBADF when it has none.
    pub(crate) fn getfd(&mut self, tid: u32, fd: i32) -> Result<OwnedFd, i32> {
        if fd < 0 {
            return Err(libc::EBADF);
        }
        for _ in 0..2 {
            let task = self.task(tid)?;
            // SAFETY: no memory is involved.
            let r = cvt_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, task.pidfd.as_raw_fd(), fd, 0) });
            match r {
                Ok(fd) => return Ok(fd),
                // The number was reused by a new thread: our pidfd is of a dead one.
                Err(e) if errno_of(&e) == libc::ESRCH => self.map.remove(&tid),
                Err(e) => return Err(errno_of(&e)),
            };
        }
        Err(libc::EBADF)
    }

    /// Inode of the thread's network namespace if it is cached; ask `who` first when the thread may be a new one.
    pub(crate) fn known_net(&self, tid: u32) -> Option<u64> {
        self.map.get(&tid)?.net
    }

    /// Opens the thread's network namespace and remembers its inode.
    pub(crate) fn open_net(&mut self, tid: u32) -> Result<(u64, OwnedFd), i32> {
        let task = self.task(tid)?;
        // SAFETY: the request takes no argument and returns a descriptor.
        let r = unsafe { libc::ioctl(task.pidfd.as_raw_fd(), PIDFD_GET_NET_NAMESPACE, 0) };
        let fd = match cvt_fd(r.into()) {
            Ok(fd) => fd,
            Err(_) => {
                fs::File::open(format!("/proc/{tid}/ns/net")).map(OwnedFd::from).map_err(|e| errno_of(&e))?
            }
        };
        let ino = inode(fd.as_fd());
        task.net = Some(ino);
        Ok((ino, fd))
    }

    /// Process id as seen outside, and effective user id as seen inside. One system call, which also notices that a
    /// thread id now belongs to a new thread.
    pub(crate) fn who(&mut self, tid: u32) -> (u32, u32) {
        for _ in 0..2 {
            let Ok(task) = self.task(tid) else { break };
            match credentials(&task.pidfd) {
                Ok((pid, uid)) => {
                    task.info = Some((pid, uid));
                    return (pid, self.inside(uid));
                }
                Err(libc::ESRCH) => self.map.remove(&tid),
                // Before 6.13.
                Err(_) => return self.who_by_proc(tid),
            };
        }
        (tid, 65534)
    }

    /// As `who`, as it was when it was asked last: for calls whose permission was checked before.
    pub(crate) fn who_cached(&mut self, tid: u32) -> (u32, u32) {
        match self.map.get(&tid).and_then(|t| t.info) {
            Some((pid, uid)) => (pid, self.inside(uid)),
            None => self.who(tid),
        }
    }

    fn who_by_proc(&mut self, tid: u32) -> (u32, u32) {
        let dead = self.map.get(&tid).is_some_and(|t| {
            // SAFETY: signal 0 only probes.
            let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, t.pidfd.as_raw_fd(), 0, 0, 0) };
            r < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
        });
        if dead {
            self.map.remove(&tid);
        }
        let pid = status_field(tid, "Tgid:").unwrap_or(tid);
        let uid = owner(tid);
        if let Ok(task) = self.task(tid) {
            task.info = Some((pid, uid));
        }
        (pid, self.inside(uid))
    }

    fn inside(&self, uid: u32) -> u32 {
        let hit = self.uids.iter().find(|(_, out, n)| uid >= *out && uid - out < *n);
        hit.map_or(65534, |(inner, out, _)| inner + (uid - out))
    }
}

/// Effective user id from the owner of /proc/TID.
fn owner(tid: u32) -> u32 {
    fs::metadata(format!("/proc/{tid}")).map(|m| m.uid()).unwrap_or(65534)
}

/// (process id, effective user id) by PIDFD_GET_INFO.
fn credentials(pidfd: &OwnedFd) -> Result<(u32, u32), i32> {
    // struct pidfd_info: mask u64, cgroupid u64, then pid tgid ppid ruid rgid euid … as u32.
    let mut info = [0u32; 16];
    info[0] = 3; // PIDFD_INFO_PID | PIDFD_INFO_CREDS
    // SAFETY: `info` is 64 bytes, the size encoded in the request.
    let r = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, info.as_mut_ptr()) };
    cvt(r.into()).map_err(|e| errno_of(&e))?;
    Ok((info[5], info[9]))
}
