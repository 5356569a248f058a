//! Network namespaces that programs name by descriptor or pid (IFLA_NET_NS_FD, IFLA_NET_NS_PID).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use ferronet_linux::NsRef;

use crate::os;
use crate::task::Tasks;

/// NS_GET_NSTYPE (linux/nsfs.h).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Opens the namespace; returns its inode and a descriptor. Pids are those the calling thread sees.
pub(crate) fn open(tasks: &mut Tasks, root: &str, tid: u32, r: NsRef) -> Option<(u64, OwnedFd)> {
    let fd = match r {
        NsRef::Fd(n) => tasks.getfd(tid, n).ok()?,
        NsRef::Pid(pid) => {
            let own = File::open(format!("/proc/{tid}/root/proc/{pid}/ns/net"));
            own.or_else(|_| File::open(format!("{root}/proc/{pid}/ns/net"))).map(OwnedFd::from).ok()?
        }
    };
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&fd), NS_GET_NSTYPE) };
    (kind == libc::CLONE_NEWNET).then(|| (os::inode(fd.as_fd()), fd))
}
