//! Thin safe wrappers around the system calls of the edge that rustix does not cover.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Turns a C return value into a result.
pub(crate) fn cvt(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// Turns a C return value that is a new descriptor into an owned one.
pub(crate) fn cvt_fd(ret: libc::c_long) -> io::Result<OwnedFd> {
    let fd = cvt(ret)?;
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The error number of an I/O error, EIO when it has none.
pub(crate) fn errno_of(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// The processor this thread runs on.
pub(crate) fn current_cpu() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::sched_getcpu() }
}

/// The processor a thread runs on or ran on last: field 39 of /proc/TID/stat.
pub(crate) fn processor_of(tid: u32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    // The second field is the name in parentheses, which may hold anything.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(36)?.parse().ok()
}

/// Makes this thread give way to all others (SCHED_IDLE); false when that is refused.
pub(crate) fn schedule_idle() -> bool {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is valid for the call; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) == 0 }
}

/// How many processors this thread may run on.
pub(crate) fn allowed_cpus() -> usize {
    // SAFETY: a set of processors is plain bits; the kernel writes at most its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return 1;
        }
        usize::try_from(libc::CPU_COUNT(&set)).unwrap_or(1)
    }
}

/// Binds this thread to one processor; false when that is refused.
pub(crate) fn run_on(cpu: i32) -> bool {
    let Ok(cpu) = usize::try_from(cpu) else { return false };
    if cpu >= libc::CPU_SETSIZE as usize {
        return false;
    }
    // SAFETY: a set of processors is plain bits, `cpu` is within it, and it lives across the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

/// A pair of connected AF_UNIX sockets, close-on-exec; `ty` is SOCK_STREAM or SOCK_SEQPACKET, or'ed with SOCK_NONBLOCK. We
/// never rely on O_NONBLOCK ourselves (every call says MSG_DONTWAIT), so it is the program's business alone.
pub(crate) fn socketpair(ty: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1i32; 2];
    // SAFETY: `fds` is an array of two ints, as socketpair(2) wants.
    cvt(unsafe { libc::socketpair(libc::AF_UNIX, ty | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) }.into())?;
    let [a, b] = fds;
    // SAFETY: both descriptors are new and ours alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(a), OwnedFd::from_raw_fd(b)) })
}

/// Descriptors that are left for what a call needs for a moment, and for other terminals.
const SPARE: u64 = 128;

/// Is this one of the last that our limit allows? (The lowest free number is given.)
pub(crate) fn is_spare(fd: BorrowedFd<'_>) -> bool {
    fd.as_raw_fd() as u64 + SPARE >= nofile().1
}

/// As `socketpair`, for a new object of a program: ENFILE when too few descriptors would be left.
pub(crate) fn object_pair(ty: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (mine, theirs) = socketpair(ty)?;
    if is_spare(mine.as_fd()) { Err(io::Error::from_raw_os_error(libc::ENFILE)) } else { Ok((mine, theirs)) }
}

/// O_NONBLOCK and the access mode of an open file (F_GETFL).
pub(crate) fn status_flags(fd: BorrowedFd<'_>) -> i32 {
    // SAFETY: F_GETFL takes no memory.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }.max(0)
}

/// Does this descriptor of a thread close on exec? (The flag is the number's, not the file's: /proc/TID/fdinfo.)
pub(crate) fn is_cloexec(tid: u32, fd: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = text.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or("0");
    i32::from_str_radix(flags.trim(), 8).unwrap_or(0) & libc::O_CLOEXEC != 0
}

/// Reads an integer socket option; `None` when `fd` is no socket.
pub(crate) fn getsockopt_u64(fd: BorrowedFd<'_>, name: i32) -> Option<u64> {
    let mut val = 0u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).ok()?;
    // SAFETY: `val` and `len` are valid for writes and `len` is the size of `val`.
    let r = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(&mut val).cast(),
            &mut len,
        )
    };
    (r == 0).then_some(val)
}

/// SO_COOKIE: the identity of an open socket across dup, fork and SCM_RIGHTS.
pub(crate) fn cookie(fd: BorrowedFd<'_>) -> Option<u64> {
    getsockopt_u64(fd, libc::SO_COOKIE)
}

/// setsockopt with an opaque value on a native socket.
pub(crate) fn setsockopt_raw(fd: BorrowedFd<'_>, level: i32, name: i32, val: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `val`.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, val.as_ptr().cast(), val.len() as libc::socklen_t)
    };
    cvt(r.into()).map(drop)
}

/// Sets SO_RCVTIMEO to a struct timeval as the stack keeps it: seconds and microseconds, 64 bits each.
pub(crate) fn set_rcvtimeo(fd: BorrowedFd<'_>, val: &[u8]) {
    let _ = setsockopt_raw(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, val);
}

/// Sets SO_SNDBUF (bytes, the kernel doubles it); too large a value is silently cut to wmem_max.
pub(crate) fn set_sndbuf(fd: BorrowedFd<'_>, bytes: i32) {
    let v = bytes.to_ne_bytes();
    if setsockopt_raw(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &v).is_err() {
        let _ = setsockopt_raw(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &v);
    }
}

/// What an open file is, as /proc/self/fd names it: a path, `socket:[17]`, `anon_inode:…`. Asks no file system.
pub(crate) fn kind_of(fd: BorrowedFd<'_>) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.map(|l| l.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Inode number of an open file.
pub(crate) fn inode(fd: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(fd).map(|s| s.st_ino).unwrap_or(0)
}

/// send(2) that never blocks and never raises SIGPIPE.
pub(crate) fn send(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `data`.
    let r = unsafe {
        libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    cvt(r as libc::c_long).map(|n| n as usize)
}

/// send(2) of one byte with MSG_OOB, which never blocks.
pub(crate) fn send_oob(fd: BorrowedFd<'_>, byte: u8) -> io::Result<()> {
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: one byte is read.
    cvt(unsafe { libc::send(fd.as_raw_fd(), std::ptr::from_ref(&byte).cast(), 1, flags) } as libc::c_long)
        .map(drop)
}

/// Does poll(2) say POLLPRI now?
pub(crate) fn has_oob(fd: BorrowedFd<'_>) -> bool {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one valid structure; it does not wait.
    unsafe { libc::poll(&mut p, 1, 0) == 1 && p.revents & libc::POLLPRI != 0 }
}

/// Waits until there is something to read, or the end of it; false after `ms` milliseconds without.
pub(crate) fn readable_within(fd: BorrowedFd<'_>, ms: i32) -> bool {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid structure.
    unsafe { libc::poll(&mut p, 1, ms) == 1 }
}

/// recv(2) that never blocks, into uninitialised space; returns the number of bytes written.
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buf`; the kernel only writes.
    let r = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
    cvt(r as libc::c_long).map(|n| n as usize)
}

/// recv(2) that never blocks, into a byte slice.
pub(crate) fn recv_bytes(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buf`; initialised bytes stay initialised.
    let r = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
    cvt(r as libc::c_long).map(|n| n as usize)
}

/// writev to a socket that never blocks and never raises SIGPIPE; at most 64 slices are taken.
pub(crate) fn sendv(fd: BorrowedFd<'_>, slices: &[&[u8]]) -> io::Result<usize> {
    let mut iov = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 64];
    let mut n = 0;
    for (v, s) in iov.iter_mut().zip(slices) {
        *v = libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() };
        n += 1;
    }
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = iov.as_mut_ptr();
    m.msg_iovlen = n;
    // SAFETY: the message points to `n` slices that outlive the call; sendmsg only reads them.
    let r = unsafe { libc::sendmsg(fd.as_raw_fd(), &m, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    cvt(r as libc::c_long).map(|n| n as usize)
}

/// shutdown(2).
pub(crate) fn shutdown(fd: BorrowedFd<'_>, how: i32) {
    // SAFETY: no memory is involved.
    let _ = unsafe { libc::shutdown(fd.as_raw_fd(), how) };
}

/// Sends one byte string with descriptors (SCM_RIGHTS); at most 16 descriptors.
pub(crate) fn send_fds(fd: BorrowedFd<'_>, data: &[u8], fds: &[RawFd]) -> io::Result<()> {
    send_fds_how(fd, data, fds, 0)
}

/// As `send_fds`, with flags of sendmsg(2).
pub(crate) fn send_fds_how(fd: BorrowedFd<'_>, data: &[u8], fds: &[RawFd], flags: i32) -> io::Result<()> {
    let mut control = [0u64; 16];
    let bytes = size_of_val(fds);
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &mut iov;
    m.msg_iovlen = 1;
    if !fds.is_empty() {
        // SAFETY: pure arithmetic.
        let space = unsafe { libc::CMSG_SPACE(bytes as u32) } as usize;
        if space > size_of_val(&control) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = space as _;
        // SAFETY: the control buffer is aligned, large enough for one header and `bytes` of data.
        unsafe {
            let c = libc::CMSG_FIRSTHDR(&m);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(bytes as u32) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(c), bytes);
        }
    }
    // SAFETY: all pointers in the message are valid for the call.
    cvt(unsafe { libc::sendmsg(fd.as_raw_fd(), &m, flags | libc::MSG_NOSIGNAL) } as libc::c_long).map(drop)
}

/// Receives bytes and descriptors; returns the byte count (0: end of file) and the descriptors, all close-on-exec.
pub(crate) fn recv_fds(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0u64; 16];
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &mut iov;
    m.msg_iovlen = 1;
    m.msg_control = control.as_mut_ptr().cast();
    m.msg_controllen = size_of_val(&control) as _;
    // SAFETY: all pointers in the message are valid for writes of the lengths given.
    let n = cvt(
        unsafe { libc::recvmsg(fd.as_raw_fd(), &mut m, flags | libc::MSG_CMSG_CLOEXEC) } as libc::c_long
    )?;
    let mut fds = Vec::new();
    // SAFETY: the kernel filled msg_controllen bytes of well-formed control messages.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(&m);
        while !c.is_null() {
            if (*c).cmsg_level == libc::SOL_SOCKET && (*c).cmsg_type == libc::SCM_RIGHTS {
                let count =
                    ((*c).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(c).cast::<RawFd>();
                for i in 0..count {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            c = libc::CMSG_NXTHDR(&m, c);
        }
    }
    Ok((n as usize, fds))
}

/// RLIMIT_NOFILE, soft and hard, before `raise_nofile` changed it: what programs inherit.
static NOFILE: std::sync::OnceLock<(u64, u64)> = std::sync::OnceLock::new();

fn current_nofile() -> (u64, u64) {
    let mut l = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    // SAFETY: `l` is a valid rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut l) };
    (l.rlim_cur, l.rlim_max)
}

/// The limit on open files that the caller of this program had set.
pub(crate) fn nofile() -> (u64, u64) {
    *NOFILE.get_or_init(current_nofile)
}

/// Raises the soft RLIMIT_NOFILE to the hard one, which is returned: the supervisor needs a descriptor per socket.
pub(crate) fn raise_nofile() -> u64 {
    let (_, hard) = nofile();
    set_nofile((hard, hard));
    hard
}

/// Sets RLIMIT_NOFILE.
pub(crate) fn set_nofile((soft, hard): (u64, u64)) {
    let l = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `l` is a valid rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &l) };
}
