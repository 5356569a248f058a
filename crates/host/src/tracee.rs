//! System calls made in a program's place, by ptrace(2).
//!
//! Only mmap(2) of a packet ring needs this: a mapping can be made by nobody but the process itself, the file to map is not
//! the descriptor that the program names, and a filter cannot change arguments. It happens once for each ring.

use std::io;

use crate::os::cvt;

/// How long a thread that was interrupted may take to stop, in naps of 20 µs: five seconds.
const NAPS: u32 = 250_000;

#[cfg(target_arch = "x86_64")]
type Regs = libc::user_regs_struct;
#[cfg(target_arch = "aarch64")]
type Regs = libc::user_regs_struct;

/// A thread that is stopped under our hands; it goes on when this is dropped.
struct Tracee {
    tid: libc::pid_t,
    /// Registers at the stop: the thread was about to begin its interrupted call anew.
    saved: Regs,
}

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

/// Waits until the thread stops; its status code (the signal, with 0x80 at a system call). Exits are left to others.
fn stopped(tid: libc::pid_t) -> io::Result<i32> {
    for _ in 0..NAPS {
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
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
        // SAFETY: a valid timespec; the rest is not wanted.
        unsafe { libc::nanosleep(&nap, std::ptr::null_mut()) };
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
    /// Stops a thread that waits for the answer to a call. The call is cancelled; `None`: a signal came first, and the
    /// thread goes its own way.
    fn seize(tid: u32) -> io::Result<Option<Self>> {
        let tid = tid as libc::pid_t;
        ptrace(libc::PTRACE_SEIZE as _, tid, 0, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        ptrace(libc::PTRACE_INTERRUPT as _, tid, 0, 0)?;
        let signal = stopped(tid)?;
        // PTRACE_EVENT_STOP comes with SIGTRAP, its number in the second byte.
        if signal & 0xff != libc::SIGTRAP {
            ptrace(libc::PTRACE_DETACH as _, tid, 0, (signal & 0x7f) as usize)?;
            return Ok(None);
        }
        Ok(Some(Self { tid, saved: get_regs(tid)? }))
    }

    /// One system call by the thread; its result as the kernel gave it (negative: errno).
    fn call(&self, nr: i64, args: [u64; 6]) -> io::Result<i64> {
        set_regs(self.tid, with_call(self.saved, nr, args))?;
        // Its entry, then its exit.
        for _ in 0..2 {
            ptrace(libc::PTRACE_SYSCALL as _, self.tid, 0, 0)?;
            while stopped(self.tid)? != libc::SIGTRAP | 0x80 {
                ptrace(libc::PTRACE_SYSCALL as _, self.tid, 0, 0)?;
            }
        }
        get_regs(self.tid).map(|r| result(&r))
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = ptrace(libc::PTRACE_DETACH as _, self.tid, 0, 0);
    }
}

/// In a thread that waits in an mmap call: maps its descriptor `fd` with the other arguments as given, closes it, and ends
/// the call with the result. `None`: a signal came first; the program makes the call again, or gets EINTR.
pub(crate) fn mmap(tid: u32, args: [u64; 6], fd: u32) -> io::Result<Option<()>> {
    let Some(t) = Tracee::seize(tid)? else { return Ok(None) };
    let [addr, len, prot, flags, _, offset] = args;
    let at = t.call(libc::SYS_mmap, [addr, len, prot, flags, fd.into(), offset])?;
    t.call(libc::SYS_close, [fd.into(), 0, 0, 0, 0, 0])?;
    set_regs(t.tid, with_result(t.saved, at))?;
    Ok(Some(()))
}
