//! The seccomp filter that brings the calls that matter to the supervisor, and the notification protocol.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::bpf::{ARCH, Asm, Label, NR, arg_hi, arg_lo};
use crate::error::{HostError, Result};
use crate::os::{self, cvt, cvt_fd};

/// AUDIT_ARCH of programs of this machine.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
/// AUDIT_ARCH of programs of this machine.
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// AUDIT_ARCH_I386.
const I386: u32 = 0x4000_0003;
/// Bit of x32 call numbers.
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const EAFNOSUPPORT: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;

/// One notified call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notif {
    /// Cookie of this call; dies with the call.
    pub(crate) id: u64,
    /// Thread id, in the supervisor's pid namespace.
    pub(crate) tid: u32,
    /// Call number.
    pub(crate) nr: i64,
    /// Arguments.
    pub(crate) args: [u64; 6],
}

impl Notif {
    /// Argument `n` as a C int.
    pub(crate) fn int(&self, n: usize) -> i32 {
        self.args.get(n).map_or(0, |v| *v as i32)
    }
    /// Argument `n` as a pointer or size.
    pub(crate) fn ptr(&self, n: usize) -> u64 {
        self.args.get(n).copied().unwrap_or(0)
    }
}

/// Calls whose first argument is a descriptor and that matter only on descriptors at or above the base.
const BY_FD: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_sendfile,
    libc::SYS_dup,
    libc::SYS_dup3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
];

/// Calls that are always of interest.
const ALWAYS: &[libc::c_long] = &[
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_capset,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// Address families that the stack serves.
const FAMILIES: &[i32] = &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// Families that the kernel serves, because nothing can leave a network namespace through them: sockets between processes
/// (the namespace has its own abstract names) and the interface to its cryptography. Every other family does not exist inside:
/// AF_VSOCK, for one, reaches the machine's host from any namespace, and AF_XDP, AF_SMC or AF_RDS are the kernel's network.
const NATIVE_FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_ALG];

/// i386 calls that would reach a network: socketcall, bpf, socket…shutdown, io_uring_setup.
const I386_NET: &[u32] =
    &[102, 357, 359, 360, 361, 362, 363, 364, 365, 366, 367, 368, 369, 370, 371, 372, 373, 425];

/// `fd_base`: message sockets live at or above this number.
fn program(fd_base: u32) -> Vec<libc::sock_filter> {
    let mut a = Asm::default();
    let (native, allow, notify, enosys) = (a.label(), a.label(), a.label(), a.label());
    let (by_fd, socket, ioctl, fcntl, sendto, fstat, statx, mmap) =
        (a.label(), a.label(), a.label(), a.label(), a.label(), a.label(), a.label(), a.label());
    let (socketpair, splice, splice_from) = (a.label(), a.label(), a.label());
    a.load(ARCH);
    a.jeq(NATIVE, native);
    foreign(&mut a, enosys);

    a.place(native);
    a.load(NR);
    if cfg!(target_arch = "x86_64") {
        a.jge(X32, enosys);
    }
    let on = |a: &mut Asm, nr: libc::c_long, l: Label| a.jeq(nr as u32, l);
    for nr in BY_FD {
        if *nr == libc::SYS_sendto {
            on(&mut a, *nr, sendto);
        } else {
            on(&mut a, *nr, by_fd);
        }
    }
    on(&mut a, libc::SYS_socket, socket);
    on(&mut a, libc::SYS_socketpair, socketpair);
    on(&mut a, libc::SYS_ioctl, ioctl);
    on(&mut a, libc::SYS_fcntl, fcntl);
    on(&mut a, libc::SYS_newfstatat, fstat);
    on(&mut a, libc::SYS_statx, statx);
    on(&mut a, libc::SYS_mmap, mmap);
    on(&mut a, libc::SYS_splice, splice);
    for nr in ALWAYS {
        on(&mut a, *nr, notify);
    }
    on(&mut a, libc::SYS_bpf, enosys);
    on(&mut a, libc::SYS_io_uring_setup, enosys);
    a.ret(ALLOW);

    // sendto with an address, on any descriptor: the native path would lose the address.
    a.place(sendto);
    for half in [arg_lo(4), arg_hi(4)] {
        a.load(half);
        a.jset(u32::MAX, notify);
    }
    a.place(by_fd);
    fd_check(&mut a, fd_base, allow, notify);

    // splice(2) from or to one.
    a.place(splice);
    a.load(arg_lo(2));
    a.jge(0x8000_0000, splice_from);
    a.jge(fd_base, notify);
    a.place(splice_from);
    fd_check(&mut a, fd_base, allow, notify);

    // Shared mappings of our descriptors: packet rings. The one call in here that is frequent otherwise.
    a.place(mmap);
    a.load(arg_lo(3));
    a.jset(libc::MAP_ANONYMOUS as u32, allow);
    a.load(arg_lo(4));
    a.jge(0x8000_0000, allow);
    a.jge(fd_base, notify);
    a.ret(ALLOW);

    families(&mut a, (socket, socketpair), allow, notify);

    a.place(ioctl);
    ioctl_check(&mut a, fd_base, allow, notify);

    a.place(fcntl);
    fcntl_check(&mut a, fd_base, allow, notify);

    // fstat(fd) in disguise (AT_EMPTY_PATH) is never about a path.
    a.place(fstat);
    a.load(arg_lo(3));
    a.jset(libc::AT_EMPTY_PATH as u32, allow);
    a.ret(NOTIFY);
    a.place(statx);
    a.load(arg_lo(2));
    a.jset(libc::AT_EMPTY_PATH as u32, allow);
    a.ret(NOTIFY);

    a.place(allow);
    a.ret(ALLOW);
    a.place(notify);
    a.ret(NOTIFY);
    a.place(enosys);
    a.ret(ENOSYS);
    a.finish()
}

/// Programs of another architecture: i386 may run without a network, nothing else may.
fn foreign(a: &mut Asm, enosys: Label) {
    let i386 = a.label();
    a.jeq(I386, i386);
    a.ret(ENOSYS);
    a.place(i386);
    a.load(NR);
    for nr in I386_NET {
        a.jeq(*nr, enosys);
    }
    a.ret(ALLOW);
}

/// socket(2) and socketpair(2): which families there are. A family is an int; its upper half does not count.
fn families(a: &mut Asm, (socket, socketpair): (Label, Label), allow: Label, notify: Label) {
    a.place(socket);
    a.load(arg_lo(0));
    for f in FAMILIES {
        a.jeq(*f as u32, notify);
    }
    for f in NATIVE_FAMILIES {
        a.jeq(*f as u32, allow);
    }
    a.ret(EAFNOSUPPORT);
    // The kernel refuses pairs of the stack's families itself (EOPNOTSUPP).
    a.place(socketpair);
    a.load(arg_lo(0));
    for f in FAMILIES.iter().chain(NATIVE_FAMILIES) {
        a.jeq(*f as u32, allow);
    }
    a.ret(EAFNOSUPPORT);
}

/// Which ioctl commands matter.
fn ioctl_check(a: &mut Asm, fd_base: u32, allow: Label, notify: Label) {
    // 0x89xx: SIOC*; 0x54c8..0x54ff: TUN*. FIONREAD (SIOCINQ) and TIOCOUTQ (SIOCOUTQ) only on our message sockets.
    let outq = a.label();
    a.load(arg_lo(1));
    a.jeq(libc::FIONREAD as u32, outq);
    a.jeq(libc::TIOCOUTQ as u32, notify);
    a.and(0xffff_ff00);
    a.jeq(0x8900, notify);
    a.load(arg_lo(1));
    a.and(0xffff_0000);
    let tun = a.label();
    for dir in [0x4004_0000u32, 0x8004_0000, 0x8010_0000, 0x4010_0000] {
        a.jeq(dir, tun);
    }
    a.ret(ALLOW);
    a.place(tun);
    a.load(arg_lo(1));
    a.and(0xffff);
    let (ge, not) = (a.label(), a.label());
    a.jge(0x54c8, ge);
    a.ret(ALLOW);
    a.place(ge);
    a.jge(0x5500, not);
    a.ret(NOTIFY);
    a.place(not);
    a.ret(ALLOW);
    a.place(outq);
    fd_check(a, fd_base, allow, notify);
}

/// F_DUPFD and F_DUPFD_CLOEXEC on our message sockets.
fn fcntl_check(a: &mut Asm, fd_base: u32, allow: Label, notify: Label) {
    a.load(arg_lo(0));
    a.jge(0x8000_0000, allow);
    let candidate = a.label();
    a.jge(fd_base, candidate);
    a.ret(ALLOW);
    a.place(candidate);
    a.load(arg_lo(1));
    a.jeq(libc::F_DUPFD as u32, notify);
    a.jeq(libc::F_DUPFD_CLOEXEC as u32, notify);
    a.ret(ALLOW);
}

/// Notify when the descriptor (argument 0, an int) is at or above the base; else allow.
fn fd_check(a: &mut Asm, fd_base: u32, allow: Label, notify: Label) {
    a.load(arg_lo(0));
    a.jge(0x8000_0000, allow);
    a.jge(fd_base, notify);
    a.ret(ALLOW);
}

/// Installs the filter in the calling thread and returns the listener. Needs CAP_SYS_ADMIN in the user namespace.
pub(crate) fn install(fd_base: u32) -> io::Result<OwnedFd> {
    let prog = program(fd_base);
    let fprog = libc::sock_fprog { len: prog.len() as u16, filter: prog.as_ptr().cast_mut() };
    // SAFETY: `fprog` points to `len` instructions that live across the call; the kernel copies them.
    cvt_fd(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            std::ptr::from_ref(&fprog),
        )
    })
}

/// Fails with a clear message where the kernel has no user notification.
pub(crate) fn probe() -> Result<()> {
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: GET_ACTION_AVAIL reads one u32.
    let r = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&action))
    };
    cvt(r).map(drop).map_err(HostError::UserNotify)
}

/// Synchronous wake-ups: a call takes 2.3 µs with them and 45 µs without (a wake-up on another processor).
pub(crate) fn set_sync_wake(listener: BorrowedFd<'_>) {
    // SAFETY: the argument is a plain integer. SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1; older kernels answer EINVAL.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1u64) };
}

/// Receives one notification; `Ok(None)` when the call went away meanwhile.
pub(crate) fn recv(listener: BorrowedFd<'_>) -> io::Result<Option<Notif>> {
    // SAFETY: plain integers; the kernel demands zeroes.
    let mut n: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `n` is valid for writes of the structure the request names.
    let r = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut n) };
    match cvt(r.into()) {
        Ok(_) => Ok(Some(Notif { id: n.id, tid: n.pid, nr: n.data.nr.into(), args: n.data.args })),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(e) => Err(e),
    }
}

fn send(listener: BorrowedFd<'_>, resp: &mut libc::seccomp_notif_resp) -> bool {
    // SAFETY: `resp` is valid for the call.
    let r = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, std::ptr::from_mut(resp))
    };
    r == 0
}

/// Answers with a value (≥ 0) or a negative errno; false when the call was cancelled by a signal or death.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, value: i64) -> bool {
    let error = if value < 0 { value as i32 } else { 0 };
    send(
        listener,
        &mut libc::seccomp_notif_resp { id, val: if value < 0 { 0 } else { value }, error, flags: 0 },
    )
}

/// Lets the kernel run the call as it is.
pub(crate) fn resume(listener: BorrowedFd<'_>, id: u64) -> bool {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    send(listener, &mut libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
}

/// Is the call still waiting? Must be asked after reading the program's memory and before acting on it.
pub(crate) fn valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: reads one u64.
    unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, std::ptr::from_ref(&id)) == 0
    }
}

/// Is this the listener of a filter? Of anything else poll(2) and our calls would not agree. Its kind is looked at first: what
/// an ioctl does to some other file is its driver's business (FUSE would wait for a program).
pub(crate) fn is_listener(fd: BorrowedFd<'_>) -> bool {
    if !os::kind_of(fd).starts_with("anon_inode:seccomp") {
        return false;
    }
    let id = 0_u64;
    // SAFETY: reads one u64.
    let r =
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, std::ptr::from_ref(&id)) };
    // No call has the id 0, or else it is one of a listener.
    r == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
}

/// Where an injected descriptor goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    /// Lowest free number.
    Lowest,
    /// Exactly this number, replacing what was there.
    At(u32),
}

/// Puts a copy of `fd` into the program at the lowest free number, close-on-exec; the call goes on waiting.
pub(crate) fn give(listener: BorrowedFd<'_>, id: u64, fd: BorrowedFd<'_>) -> io::Result<u32> {
    add(listener, id, fd, (0, 0), true)
}

/// Puts a copy of `fd` into the program and answers the call with its number, atomically.
/// Errors: EMFILE or EBADF from the program's RLIMIT_NOFILE, ENOENT when the call was cancelled.
pub(crate) fn inject(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    slot: Slot,
    cloexec: bool,
) -> io::Result<u32> {
    let (set, newfd) = match slot {
        Slot::Lowest => (0, 0),
        Slot::At(n) => (libc::SECCOMP_ADDFD_FLAG_SETFD, n),
    };
    add(listener, id, fd, ((set | libc::SECCOMP_ADDFD_FLAG_SEND) as u32, newfd), cloexec)
}

fn add(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    (flags, newfd): (u32, u32),
    cloexec: bool,
) -> io::Result<u32> {
    let add = libc::seccomp_notif_addfd {
        id,
        flags,
        srcfd: fd.as_raw_fd() as u32,
        newfd,
        newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: `add` is valid for the call.
    let r = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, std::ptr::from_ref(&add))
    };
    cvt(r.into()).map(|n| n as u32)
}

/// Puts a copy of `fd` at number `at` of the program, in place of what was there; the call still waits for its answer.
pub(crate) fn replace(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    at: u32,
    cloexec: bool,
) -> io::Result<()> {
    let add = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: fd.as_raw_fd() as u32,
        newfd: at,
        newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: `add` is valid for the call.
    let r = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, std::ptr::from_ref(&add))
    };
    cvt(r.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_fits_and_is_well_formed() {
        let p = program(512);
        assert!(p.len() < 4096, "BPF_MAXINSNS");
        for (i, f) in p.iter().enumerate() {
            if f.code == 0x05 {
                assert!(i + 1 + (f.k as usize) < p.len());
            }
        }
        assert_eq!(p.last().map(|f| f.code), Some(0x06));
    }
}
