//! Opening, reading and writing /proc/net and /proc/sys/net.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ferronet_core::NsId;
use ferronet_linux::{Caller, Caps, Kernel, NsRef};

use crate::mem;
use crate::obj::{Body, Key, Object, ProcFile};
use crate::os;
use crate::poller::bits;
use crate::seccomp::Slot;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::path::{Target, classify};
use crate::sys::{control_msg, socket, tree};

/// Longest value written to a sysctl.
const MAX_WRITE: usize = 64 << 10;
/// A write of so much is refused (proc_sys_call_handler: KMALLOC_MAX_SIZE).
const TOO_LARGE: usize = 4 << 20;
/// Native writes that are taken in one turn.
const WRITES: usize = 16;

/// (dirfd, path pointer, flags) of the three open calls.
fn arguments(call: &Call) -> Option<(i32, u64, i32)> {
    let n = &call.n;
    match n.nr {
        libc::SYS_openat => Some((n.int(0), n.ptr(1), n.int(2))),
        libc::SYS_openat2 => {
            let how: libc::open_how = mem::read_val(n.tid, n.ptr(2)).ok()?;
            Some((n.int(0), n.ptr(1), how.flags as i32))
        }
        _ => Some((libc::AT_FDCWD, n.ptr(0), n.int(1))),
    }
}

/// The one device file that is ours.
fn is_tun(tid: u32, ptr: u64) -> bool {
    const PATH: &[u8] = b"/dev/net/tun\0";
    mem::read_vec(tid, ptr, PATH.len()).is_ok_and(|p| p == PATH)
}

/// open, openat, openat2.
pub(crate) fn open(s: &mut Supervisor, call: &Call) -> Answer {
    let Some((dirfd, ptr, flags)) = arguments(call) else { return Answer::Continue };
    if flags & libc::O_PATH == 0 && is_tun(call.n.tid, ptr) {
        return crate::dev::tun::open(s, call, flags);
    }
    let target = classify(s, call, dirfd, ptr);
    if flags & libc::O_PATH != 0 {
        return Answer::Continue;
    }
    let cloexec = flags & libc::O_CLOEXEC != 0;
    match target {
        None => Answer::Continue,
        Some(Target::Net(ns, path)) => {
            if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_DIRECTORY != 0 {
                return Answer::Continue;
            }
            if path.starts_with("net/tcp") {
                s.refresh_edge_queues();
            }
            match s.with_caller_in(call.n.tid, ns, |k, c| k.proc_read(c, &path)) {
                Some(text) => inject_text(s, call, &path, &text, cloexec),
                // What the stack does not render (net/unix) is the kernel's, of the empty namespace.
                None => Answer::Continue,
            }
        }
        Some(Target::Sys(_, path)) if path.starts_with("sys/net/unix") => Answer::Continue,
        Some(Target::Sys(ns, path)) => open_sys(s, call, ns, path, flags),
    }
}

fn open_sys(s: &mut Supervisor, call: &Call, ns: NsId, path: String, flags: i32) -> Answer {
    let cloexec = flags & libc::O_CLOEXEC != 0;
    let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
    if let Some(list) = s.kernel.proc_list(ns, &path) {
        return if write {
            Answer::Err(libc::EISDIR)
        } else {
            inject_dir(s, call, ns, &path, &list, cloexec)
        };
    }
    if flags & libc::O_DIRECTORY != 0 {
        return Answer::Err(if exists(s, call, ns, &path) { libc::ENOTDIR } else { libc::ENOENT });
    }
    if !write {
        return match s.with_caller_in(call.n.tid, ns, |k, c| k.proc_read(c, &path)) {
            Some(text) => inject_text(s, call, &path, &text, cloexec),
            None if exists(s, call, ns, &path) => Answer::Err(libc::EACCES),
            None => Answer::Err(libc::ENOENT),
        };
    }
    if !exists(s, call, ns, &path) {
        return Answer::Err(libc::ENOENT);
    }
    // As when it is written (net_ctl_permissions).
    let (tid, now) = (call.n.tid, s.now_ns);
    if s.tasks.who(tid).1 != 0 && !s.tasks.caps(tid, now).contains(Caps::NET_ADMIN) {
        return Answer::Err(libc::EACCES);
    }
    // A high number, so that write() is served here and a bad value can be refused.
    let (mine, theirs) = match os::object_pair(libc::SOCK_STREAM) {
        Ok(p) => p,
        Err(e) => return Answer::Err(os::errno_of(&e)),
    };
    let slot = s.high_slot(call.n.tid);
    let object = Object {
        mine: Some(mine),
        cookie: os::cookie(theirs.as_fd()).unwrap_or(0),
        owner: (call.n.tid, 0),
        waiters: Vec::new(),
        interest: bits::IN,
        body: Body::Proc(ProcFile { path, ns, offset: 0 }),
    };
    socket::inject(s, call, object, theirs.as_fd(), slot, cloexec)
}

/// Is there a sysctl of this name, readable or not?
pub(crate) fn exists(s: &mut Supervisor, call: &Call, ns: NsId, path: &str) -> bool {
    let Some((dir, name)) = path.rsplit_once('/') else { return false };
    match s.kernel.proc_list(ns, dir) {
        Some(list) => list.iter().any(|(n, _)| n == name),
        None => s.with_caller_in(call.n.tid, ns, |k, c| k.proc_read(c, path)).is_some(),
    }
}

/// A read-only file with this text.
fn memfd(name: &str, text: &[u8]) -> io::Result<OwnedFd> {
    let name =
        CString::new(name.replace('/', ".")).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a NUL-terminated name.
    let fd = os::cvt_fd(unsafe { libc::memfd_create(name.as_ptr(), flags) }.into())?;
    let mut file = fs::File::from(fd);
    file.write_all(text)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: F_ADD_SEALS takes an int.
    os::cvt(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into())?;
    // Opened anew: read-only, at offset 0.
    fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map(OwnedFd::from)
}

fn inject_text(s: &mut Supervisor, call: &Call, path: &str, text: &[u8], cloexec: bool) -> Answer {
    match memfd(path, text) {
        Ok(fd) => inject_plain(s, call, &fd, cloexec),
        Err(e) => Answer::Err(os::errno_of(&e)),
    }
}

/// Injects a descriptor that needs no supervision.
pub(crate) fn inject_plain(s: &Supervisor, call: &Call, fd: &OwnedFd, cloexec: bool) -> Answer {
    let Some(l) = s.listener(call.listener) else { return Answer::Done };
    match crate::seccomp::inject(l, call.n.id, fd.as_fd(), Slot::Lowest, cloexec) {
        Ok(_) => Answer::Done,
        Err(e) if os::errno_of(&e) == libc::ENOENT => Answer::Done,
        Err(e) => Answer::Err(crate::listen::sys_limit(&e)),
    }
}

/// A directory that lists our names: a tree of empty files in the sandbox's private /run stands in for it.
fn inject_dir(
    s: &mut Supervisor,
    call: &Call,
    ns: NsId,
    path: &str,
    list: &[(String, bool)],
    cloexec: bool,
) -> Answer {
    let Some(ino) = s.kernel.ns_cookie(ns) else { return Answer::Err(libc::ENOENT) };
    match tree::mirror(s.tree.as_fd(), &format!("{ino}/{path}"), list) {
        Ok(dir) => inject_plain(s, call, &dir, cloexec),
        Err(e) => Answer::Err(os::errno_of(&e)),
    }
}

/// A call on a sysctl opened for writing.
pub(crate) fn call(s: &mut Supervisor, call: &Call, key: Key) -> Answer {
    let n = &call.n;
    let wanted = |total: usize| if total < TOO_LARGE { Ok(total.min(MAX_WRITE)) } else { Err(libc::ENOMEM) };
    let data = match n.nr {
        libc::SYS_write => wanted(n.ptr(2) as usize).and_then(|total| mem::read_vec(n.tid, n.ptr(1), total)),
        libc::SYS_writev => control_msg::iovecs(n.tid, n.ptr(1), n.ptr(2) as usize)
            .and_then(|(iov, total)| control_msg::gather(n.tid, &iov, wanted(total)?)),
        libc::SYS_pwrite64 => {
            wanted(n.ptr(2) as usize).and_then(|total| mem::read_vec(n.tid, n.ptr(1), total))
        }
        libc::SYS_read => return read(s, call, key, None),
        libc::SYS_pread64 => return read(s, call, key, Some(n.ptr(3))),
        libc::SYS_lseek => return lseek(s, call, key),
        libc::SYS_sendfile | libc::SYS_preadv2 | libc::SYS_pwritev2 => return Answer::Err(libc::EINVAL),
        _ => return Answer::Continue,
    };
    match data.and_then(|d| write(s, key, n.tid, &d)) {
        Ok(done) => Answer::Ret(done as i64),
        Err(e) => Answer::Err(e),
    }
}

fn write(s: &mut Supervisor, key: Key, tid: u32, data: &[u8]) -> Result<usize, i32> {
    let Some(Body::Proc(f)) = s.objects.get(key).map(|o| &o.body) else { return Err(libc::EBADF) };
    let (ns, path) = (f.ns, f.path.clone());
    s.with_caller_in(tid, ns, |k, c| k.proc_write(c, &path, data)).map_err(|e| i32::from(e.0))
}

/// lseek(2): the text has no length before it is read (SEEK_END is 0).
fn lseek(s: &mut Supervisor, call: &Call, key: Key) -> Answer {
    let Some(Body::Proc(f)) = s.objects.get_mut(key).map(|o| &mut o.body) else {
        return Answer::Err(libc::EBADF);
    };
    let base = match call.n.int(2) {
        libc::SEEK_SET | libc::SEEK_END => 0,
        libc::SEEK_CUR => f.offset,
        _ => return Answer::Err(libc::EINVAL),
    };
    let to = i64::try_from(base).ok().and_then(|b| b.checked_add(call.n.ptr(1) as i64));
    match to.and_then(|t| usize::try_from(t).ok()) {
        Some(to) => {
            f.offset = to;
            Answer::Ret(to as i64)
        }
        None => Answer::Err(libc::EINVAL),
    }
}

/// read(2), or pread(2) at an offset, which leaves the position alone.
fn read(s: &mut Supervisor, call: &Call, key: Key, offset: Option<u64>) -> Answer {
    let n = &call.n;
    if offset.is_some_and(|o| (o as i64) < 0) {
        return Answer::Err(libc::EINVAL);
    }
    let Some(Body::Proc(f)) = s.objects.get(key).map(|o| &o.body) else { return Answer::Err(libc::EBADF) };
    let at = offset.map_or(f.offset, |o| usize::try_from(o).unwrap_or(usize::MAX));
    let (ns, path) = (f.ns, f.path.clone());
    let text = s.with_caller_in(n.tid, ns, |k, c| k.proc_read(c, &path)).unwrap_or_default();
    let rest = text.get(at..).unwrap_or_default();
    let part = rest.get(..rest.len().min(n.ptr(2) as usize)).unwrap_or_default();
    if let Err(e) = mem::write(n.tid, n.ptr(1), part) {
        return Answer::Err(e);
    }
    if offset.is_none()
        && let Some(Body::Proc(f)) = s.objects.get_mut(key).map(|o| &mut o.body)
    {
        f.offset += part.len();
    }
    Answer::Ret(part.len() as i64)
}

impl Supervisor {
    /// A sysctl written through a low descriptor number (`echo 7 > FILE`): apply it, say what was wrong.
    pub(crate) fn proc_event(&mut self, key: Key, ev: u32) {
        for _ in 0..WRITES {
            let Some(o) = self.objects.get(key) else { return };
            let (Some(mine), Body::Proc(f)) = (&o.mine, &o.body) else { return };
            let (ns, path) = (f.ns, f.path.clone());
            match self.bufs.read(mine.as_fd()) {
                Ok(d) if !d.is_empty() => {
                    if let Err(e) = self.edge_in(ns, |k, c| k.proc_write(c, &path, &d)) {
                        let value = String::from_utf8_lossy(&d);
                        tracing::warn!("writing {:?} to /proc/{path}: {}", value.trim_end(), e.text());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && ev & bits::HUP == 0 => return,
                Ok(_) | Err(_) => return self.forget(key),
            }
        }
    }

    fn edge_in<T>(&mut self, ns: NsId, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T) -> T {
        let mut none = |_: NsRef| None;
        let mut caller = Caller { ns, pid: 0, uid: 0, caps: &Caps::all, resolve_ns: &mut none };
        f(&mut self.kernel, &mut caller)
    }
}
