//! The user, pid, mount and network namespaces that all programs of one session live in.
//!
//! Process 1 of the pid namespace does nothing but wait: when the supervisor dies, by whatever signal, the kernel kills
//! process 1 (PR_SET_PDEATHSIG, and the end of file on its pipe), and with it every process of the pid namespace; the mounts
//! and network namespaces lose their last user and vanish.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::error::{HostError, Result};
use crate::os::{cvt, cvt_fd, errno_of, recv_fds, send_fds};
use crate::{idmap, mounts};

/// Namespaces to join; what `ferronet exec` gets from the running supervisor.
#[derive(Debug)]
pub struct Namespaces {
    /// User namespace.
    pub user: OwnedFd,
    /// Mount namespace.
    pub mnt: OwnedFd,
    /// Pid namespace.
    pub pid: OwnedFd,
    /// Network namespace of process 1, the session's first one.
    pub net: OwnedFd,
    /// Root directory inside the mount namespace.
    pub root: OwnedFd,
}

/// The running sandbox; dropping it kills everything inside.
#[derive(Debug)]
pub struct Sandbox {
    init: OwnedFd,
    init_pid: u32,
    /// Its end of file tells process 1 that we are gone.
    _lifeline: OwnedFd,
    /// A route netlink socket in the kernel's own first network namespace, for events about namespaces.
    nsid: Option<OwnedFd>,
}

const FLAGS: libc::c_int = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET;

impl Sandbox {
    /// Makes the namespaces.
    ///
    /// The calling process must have a single thread, and that thread must outlive the sandbox.
    ///
    /// # Errors
    /// Which feature is missing, and what to do.
    pub fn new() -> Result<Self> {
        let (ours, theirs) =
            crate::os::socketpair(libc::SOCK_SEQPACKET).map_err(HostError::step("making a socket pair"))?;
        let mut pidfd: RawFd = -1;
        // SAFETY: a plain fork into new namespaces (no CLONE_VM); the parent has one thread, so the child may run Rust code.
        // With CLONE_PIDFD the third argument receives the descriptor.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(FLAGS | libc::CLONE_PIDFD | libc::SIGCHLD),
                0,
                std::ptr::from_mut(&mut pidfd),
                0,
                0,
            )
        };
        if pid == 0 {
            drop(ours);
            init(&theirs);
        }
        cvt(pid).map_err(HostError::UserNamespace)?;
        let init = cvt_fd(pidfd.into()).map_err(HostError::step("pidfd of the sandbox"))?;
        drop(theirs);
        let mut sandbox = Self { init, init_pid: pid as u32, _lifeline: ours, nsid: None };
        sandbox.start()?;
        Ok(sandbox)
    }

    /// Hand-shake with process 1: id maps, then its report.
    fn start(&mut self) -> Result<()> {
        idmap::write_maps(self.init_pid)?;
        let lost = |e| HostError::Step { step: "starting the sandbox".into(), source: e };
        send_fds(self._lifeline.as_fd(), b"m", &[]).map_err(lost)?;
        let mut buf = [0u8; 256];
        let (n, mut fds) = recv_fds(self._lifeline.as_fd(), &mut buf, 0).map_err(lost)?;
        match buf.get(..n).and_then(<[u8]>::split_first) {
            Some((b'k', _)) => {
                self.nsid = fds.pop();
                Ok(())
            }
            Some((_, report)) => Err(decode_report(report)),
            None => Err(HostError::SandboxDied),
        }
    }

    /// Pid of process 1, as the supervisor sees it.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init_pid
    }

    /// Becomes readable when process 1 has died.
    #[must_use]
    pub fn init_fd(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }

    /// The netlink socket for namespace events, once.
    pub(crate) fn take_nsid_socket(&mut self) -> Option<OwnedFd> {
        self.nsid.take()
    }

    /// Opens the namespaces for joining.
    ///
    /// # Errors
    /// When process 1 is dead.
    pub fn namespaces(&self) -> Result<Namespaces> {
        let open = |name: &str| {
            File::open(format!("/proc/{}/{name}", self.init_pid))
                .map(OwnedFd::from)
                .map_err(HostError::step(format!("opening {name} of the sandbox")))
        };
        Ok(Namespaces {
            user: open("ns/user")?,
            mnt: open("ns/mnt")?,
            pid: open("ns/pid")?,
            net: open("ns/net")?,
            root: open("root")?,
        })
    }

    /// A directory inside, for what lies below it later; to be opened before the first program runs, while its path is ours.
    pub(crate) fn directory(&self, inside: &str) -> Result<OwnedFd> {
        let open = File::open(self.path(inside)).map(OwnedFd::from);
        open.map_err(HostError::step(format!("opening {inside} of the sandbox")))
    }

    /// A path inside the sandbox as the supervisor can open it.
    pub(crate) fn path(&self, inside: &str) -> String {
        format!("/proc/{}/root{inside}", self.init_pid)
    }
}

impl Sandbox {
    /// Kills everything inside; returns at once.
    pub(crate) fn kill(&self) {
        // SAFETY: no memory is involved; the pidfd is ours.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.init.as_raw_fd(), libc::SIGKILL, 0, 0) };
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        // Process 1 ends after all others of its namespace were reaped; an `exec` client that is stopped must not hold us up.
        let mut p = libc::pollfd { fd: self.init.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd; waitpid without a status pointer.
        unsafe {
            libc::poll(&mut p, 1, 1000);
            libc::waitpid(self.init_pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
        }
    }
}

fn decode_report(report: &[u8]) -> HostError {
    let (errno, text) = report.split_at_checked(4).unwrap_or((&[], b"unknown step"));
    let errno = errno.try_into().map_or(libc::EIO, i32::from_ne_bytes);
    HostError::Step {
        step: String::from_utf8_lossy(text).into_owned(),
        source: io::Error::from_raw_os_error(errno),
    }
}

/// Process 1. Never returns.
fn init(link: &OwnedFd) -> ! {
    let fail = |step: &str, e: &io::Error| -> ! {
        let mut r = vec![b'e'];
        r.extend_from_slice(&errno_of(e).to_ne_bytes());
        r.extend_from_slice(step.as_bytes());
        let _ = send_fds(link.as_fd(), &r, &[]);
        exit();
    };
    let mut buf = [0u8; 1];
    // The maps are written when the parent says so.
    if !matches!(recv_fds(link.as_fd(), &mut buf, 0), Ok((1, _))) {
        exit();
    }
    // SAFETY: plain system calls without memory, except the name, a NUL-terminated literal.
    unsafe {
        libc::setresgid(0, 0, 0);
        libc::setresuid(0, 0, 0);
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"ferronet-init".as_ptr());
        // After the change of ids, which clears it.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::umask(0o022);
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        libc::chdir(c"/".as_ptr());
    }
    if let Err((step, e)) = mounts::prepare() {
        fail(step, &e);
    }
    // SAFETY: no memory is involved.
    let nl = cvt_fd(
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) }
            .into(),
    );
    let sent = match &nl {
        Ok(fd) => send_fds(link.as_fd(), b"k", &[fd.as_raw_fd()]),
        Err(_) => send_fds(link.as_fd(), b"k", &[]),
    };
    drop(nl);
    if sent.is_err() {
        exit();
    }
    forget_descriptors(link.as_raw_fd());
    // Until the supervisor's end is closed, by exit or by death.
    while matches!(recv_fds(link.as_fd(), &mut buf, 0), Ok((1, _))) {}
    exit()
}

/// Closes every descriptor but `keep`, so that pipes and terminals of the caller are not held open.
fn forget_descriptors(keep: RawFd) {
    // SAFETY: only numbers; nothing in this process uses those descriptors afterwards.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        if keep > 3 {
            libc::syscall(libc::SYS_close_range, 3, keep - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0);
    }
}

fn exit() -> ! {
    // SAFETY: ends the process without running destructors of the parent's copies.
    unsafe { libc::_exit(0) }
}
