//! stat, statx, access and readlink of names in /proc/sys/net: they are the stack's, not the kernel's.

use ferronet_core::NsId;

use crate::mem;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::path::{Target, classify};
use crate::sys::procfs::exists;

/// Serves the stat family.
pub(crate) fn stat(s: &mut Supervisor, call: &Call) -> Answer {
    let n = &call.n;
    let at = matches!(
        n.nr,
        libc::SYS_newfstatat
            | libc::SYS_statx
            | libc::SYS_faccessat
            | libc::SYS_faccessat2
            | libc::SYS_readlinkat
    );
    let (dirfd, ptr) = if at { (n.int(0), n.ptr(1)) } else { (libc::AT_FDCWD, n.ptr(0)) };
    let Some(Target::Sys(ns, path)) = classify(s, call, dirfd, ptr) else { return Answer::Continue };
    if path.starts_with("sys/net/unix") {
        return Answer::Continue;
    }
    let Some(mode) = mode(s, call, ns, &path) else { return Answer::Err(libc::ENOENT) };
    let r = match n.nr {
        libc::SYS_newfstatat => write_stat(n.tid, n.ptr(2), mode),
        libc::SYS_statx => mem::write(n.tid, n.ptr(4), &statx_bytes(mode)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat | libc::SYS_lstat => write_stat(n.tid, n.ptr(1), mode),
        // Nothing there is a link; realpath(3), which sysctl(8) calls, goes on with EINVAL and gives up with ENOENT.
        libc::SYS_readlinkat => Err(libc::EINVAL),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink => Err(libc::EINVAL),
        _ => Ok(()),
    };
    match r {
        Ok(()) => Answer::Ret(0),
        Err(e) => Answer::Err(e),
    }
}

/// Type and permissions as procfs shows them; `None`: no such name.
fn mode(s: &mut Supervisor, call: &Call, ns: NsId, path: &str) -> Option<u32> {
    if s.kernel.proc_list(ns, path).is_some() {
        return Some(libc::S_IFDIR | 0o555);
    }
    if !exists(s, call, ns, path) {
        return None;
    }
    let readable = s.with_caller_in(call.n.tid, ns, |k, c| k.proc_read(c, path)).is_some();
    Some(libc::S_IFREG | if readable { 0o644 } else { 0o200 })
}

fn write_stat(tid: u32, ptr: u64, mode: u32) -> Result<(), i32> {
    // SAFETY: struct stat is integers only; zero is valid.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    st.st_mode = mode;
    st.st_nlink = 1;
    st.st_ino = 1;
    st.st_blksize = 1024;
    mem::write_val(tid, ptr, &st)
}

/// struct statx (linux/stat.h), 256 bytes.
fn statx_bytes(mode: u32) -> [u8; 256] {
    let mut b = [0u8; 256];
    let mut put = |at: usize, v: &[u8]| {
        if let Some(d) = b.get_mut(at..at + v.len()) {
            d.copy_from_slice(v);
        }
    };
    put(0, &0x7ffu32.to_ne_bytes()); // STATX_BASIC_STATS
    put(4, &1024u32.to_ne_bytes());
    put(16, &1u32.to_ne_bytes());
    put(28, &(mode as u16).to_ne_bytes());
    put(32, &1u64.to_ne_bytes());
    b
}
