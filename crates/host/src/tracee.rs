//! System calls made in a program's place, by ptrace(2).
//!
//! Only mmap(2) of a packet ring needs this: a mapping can be made by nobody but the process itself, the file to map is not
//! the descriptor that the program names, and a filter cannot change arguments. It happens once for each ring.
//!
//! Signals for the thread wait until it is let go: they are blocked while it is under our hands, and one that is on its way
//! already is handed back, which the kernel queues again, siginfo and all, because it is blocked (ptrace_signal, 6.18).

use std::io;

use crate::join::FD_BASE;
use crate::os::{cvt, errno_of, monotonic_ns};

/// How long a thread that was interrupted may take to stop, nanoseconds. Nobody else is served meanwhile.
const PATIENCE: u64 = 2_000_000_000;

#[cfg(target_arch = "x86_64")]
type Regs = libc::user_regs_struct;
#[cfg(target_arch = "aarch64")]
type Regs = libc::user_regs_struct;

/// A thread under our hands; it goes on when this is dropped.
struct Tracee {
    tid: libc::pid_t,
    /// The signals that the thread itself has blocked, once all are.
    blocked: Option<u64>,
    /// While it is known to have stopped: for which signal, 0 for none. It must get it when it goes on.
    signal: Option<usize>,
}

/// The signal set of the kernel's size; SIGKILL and SIGSTOP cannot be blocked.
const ALL: u64 = !0;

/// PTRACE_EVENT_STOP in the second byte of a status: the stop of PTRACE_INTERRUPT, or of the whole process (SIGSTOP).
const EVENT_STOP: i32 = 128;

fn ptrace(request: libc::c_uint, tid: libc::pid_t, addr: usize, data: usize) -> io::Result<()> {
    // SAFETY: callers pass requests whose address and data are numbers, or point to a register structure or an iovec.
    let r = unsafe { libc::ptrace(request as _, tid, addr, data) };
    cvt(r).map(drop)
}

/// NT_PRSTATUS: the general registers.
const PRSTATUS: usize = 1;

fn get_regs(tid: libc::pid_t) -> io::Result<Regs> {
    // SAFETY: integers only; zero is valid.
    let mut r: Regs = unsafe { std::mem::zeroed() };
    let mut iov = libc::iovec { iov_base: std::ptr::from_mut(&mut r).cast(), iov_len: size_of::<Regs>() };
    ptrace(libc::PTRACE_GETREGSET, tid, PRSTATUS, std::ptr::from_mut(&mut iov) as usize)?;
    Ok(r)
}

fn set_regs(tid: libc::pid_t, mut r: Regs) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: std::ptr::from_mut(&mut r).cast(), iov_len: size_of::<Regs>() };
    ptrace(libc::PTRACE_SETREGSET, tid, PRSTATUS, std::ptr::from_mut(&mut iov) as usize)
}

fn get_blocked(tid: libc::pid_t) -> io::Result<u64> {
    let mut set = 0_u64;
    ptrace(libc::PTRACE_GETSIGMASK as _, tid, size_of::<u64>(), std::ptr::from_mut(&mut set) as usize)?;
    Ok(set)
}

fn set_blocked(tid: libc::pid_t, mut set: u64) -> io::Result<()> {
    ptrace(libc::PTRACE_SETSIGMASK as _, tid, size_of::<u64>(), std::ptr::from_mut(&mut set) as usize)
}

/// What PTRACE_CONT and its like must bring the thread back after it stopped with this status: its signal, if it is one.
fn to_hand_back(status: i32) -> usize {
    if status & !0x7f == 0 { status as usize } else { 0 }
}

/// A thread that was killed while it was ours is a zombie until its tracer looks at it: not even its parent is told. But if
/// we are the parent too, whoever waits for the program does that, and wants its status.
fn bury(tid: libc::pid_t) {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<libc::pid_t>().ok()).unwrap_or(0)
    };
    // SAFETY: no memory is involved.
    let us = unsafe { libc::getpid() };
    if field("Tgid:") == tid && field("PPid:") == us {
        return;
    }
    // It may be on its way out still.
    let end = monotonic_ns() + PATIENCE;
    while monotonic_ns() < end {
        // SAFETY: zero is a valid siginfo; waitid writes it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::__WALL;
        // SAFETY: as above.
        let r = unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, flags) };
        if r != 0 || info.si_signo != 0 {
            return;
        }
        nap();
    }
}

fn nap() {
    let t = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
    // SAFETY: a valid timespec; the rest is not wanted.
    unsafe { libc::nanosleep(&t, std::ptr::null_mut()) };
}

/// Waits until the thread stops; its status code (the signal, with 0x80 at a system call). Exits are left to others.
fn stopped(tid: libc::pid_t) -> io::Result<i32> {
    let end = monotonic_ns() + PATIENCE;
    while monotonic_ns() < end {
        // SAFETY: zero is a valid siginfo; waitid writes it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
        // SAFETY: as above.
        cvt(unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, flags) }.into())?;
        // SAFETY: the fields are set when the signal number is.
        if info.si_signo != 0 {
            // SAFETY: as above.
            return Ok(unsafe { info.si_status() });
        }
        nap();
    }
    Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
}

/// At this address is the instruction that made the interrupted call.
#[cfg(target_arch = "x86_64")]
fn call_site(saved: &Regs) -> u64 {
    saved.rip - 2
}
/// As above; arm64 has moved the program counter back already (do_signal).
#[cfg(target_arch = "aarch64")]
fn call_site(saved: &Regs) -> u64 {
    saved.pc
}

#[cfg(target_arch = "x86_64")]
fn with_call(mut r: Regs, nr: i64, a: [u64; 6]) -> Regs {
    r.rip = call_site(&r);
    (r.rax, r.orig_rax) = (nr as u64, u64::MAX);
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = a;
    r
}
#[cfg(target_arch = "aarch64")]
fn with_call(mut r: Regs, nr: i64, a: [u64; 6]) -> Regs {
    r.pc = call_site(&r);
    r.regs[..6].copy_from_slice(&a);
    r.regs[8] = nr as u64;
    r
}

#[cfg(target_arch = "x86_64")]
fn result(r: &Regs) -> i64 {
    r.rax as i64
}
#[cfg(target_arch = "aarch64")]
fn result(r: &Regs) -> i64 {
    r.regs[0] as i64
}

/// Behind the interrupted call, with this result.
#[cfg(target_arch = "x86_64")]
fn with_result(mut r: Regs, v: i64) -> Regs {
    (r.rax, r.orig_rax) = (v as u64, u64::MAX);
    r
}
#[cfg(target_arch = "aarch64")]
fn with_result(mut r: Regs, v: i64) -> Regs {
    r.pc += 4;
    r.regs[0] = v as u64;
    r
}

impl Tracee {
    /// From now on the thread stops before it takes a signal.
    fn seize(tid: u32) -> io::Result<Self> {
        let tid = tid as libc::pid_t;
        ptrace(libc::PTRACE_SEIZE as _, tid, 0, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        Ok(Self { tid, blocked: None, signal: None })
    }

    /// Stops the thread for PTRACE_INTERRUPT or for a signal; a call that it waits in is cancelled. Its status.
    fn interrupt(&mut self) -> io::Result<i32> {
        ptrace(libc::PTRACE_INTERRUPT as _, self.tid, 0, 0)?;
        let status = stopped(self.tid)?;
        self.signal = Some(to_hand_back(status));
        Ok(status)
    }

    /// Lets it go on by this request until it stops again; its status.
    fn go(&mut self, request: libc::c_uint) -> io::Result<i32> {
        ptrace(request, self.tid, 0, self.signal.take().unwrap_or(0))?;
        let status = stopped(self.tid)?;
        self.signal = Some(to_hand_back(status));
        Ok(status)
    }

    /// Cancels the call in which the thread waits. Its registers: it is about to begin the call anew.
    fn cancel_call(&mut self) -> io::Result<Regs> {
        let mut status = self.interrupt()?;
        self.blocked = Some(get_blocked(self.tid)?);
        set_blocked(self.tid, ALL)?;
        while status >> 8 != EVENT_STOP {
            status = self.go(libc::PTRACE_CONT as _)?;
        }
        get_regs(self.tid)
    }

    /// One system call by the thread, from where it is about to make another; its result as the kernel gave it (negative:
    /// errno).
    fn call(&mut self, from: Regs, nr: i64, args: [u64; 6]) -> io::Result<i64> {
        set_regs(self.tid, with_call(from, nr, args))?;
        // Its entry, then its exit.
        for _ in 0..2 {
            while self.go(libc::PTRACE_SYSCALL as _)? != libc::SIGTRAP | 0x80 {}
        }
        get_regs(self.tid).map(|r| result(&r))
    }

    fn leave(&mut self) -> io::Result<()> {
        // It may have stopped for a signal unseen.
        let signal = match self.signal {
            Some(s) => s,
            None => to_hand_back(self.interrupt()?),
        };
        if let Some(set) = self.blocked {
            set_blocked(self.tid, set)?;
        }
        ptrace(libc::PTRACE_DETACH as _, self.tid, 0, signal)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.leave().is_err() {
            bury(self.tid);
        }
    }
}

/// In a thread that waits in an mmap call: maps the descriptor that `give` puts into its process with the other arguments as
/// given, closes it, and ends the call with the result; with EMFILE when all the numbers below `FD_BASE` are in use.
///
/// # Errors
/// ENOENT when the thread waits no more, ESRCH or ECHILD when it was killed, EPERM when somebody else traces it.
pub(crate) fn mmap(tid: u32, args: [u64; 6], give: impl FnOnce() -> io::Result<u32>) -> io::Result<()> {
    // In this order: when the thread still waits once it is seized, no signal gets it out of the call unseen.
    let mut t = Tracee::seize(tid)?;
    let fd = match give() {
        Ok(fd) => fd,
        Err(e) if errno_of(&e) == libc::ENOENT => return Err(e),
        Err(e) => {
            let r = t.cancel_call()?;
            return set_regs(t.tid, with_result(r, -i64::from(errno_of(&e))));
        }
    };
    let r = t.cancel_call()?;
    let [addr, len, prot, flags, _, offset] = args;
    // From there on mmap comes to the supervisor, which is us, waiting for it to end.
    let seen = fd >= FD_BASE;
    let at = match seen {
        false => t.call(r, libc::SYS_mmap, [addr, len, prot, flags, fd.into(), offset])?,
        true => -i64::from(libc::EMFILE),
    };
    t.call(r, libc::SYS_close, [fd.into(), 0, 0, 0, 0, 0])?;
    set_regs(t.tid, with_result(r, at))
}
