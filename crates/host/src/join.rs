//! Starting a program inside the sandbox: join the namespaces, install the filter, exec.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{HostError, Result};
use crate::os::{cvt, errno_of, recv_fds, send_fds};
use crate::sandbox::Namespaces;
use crate::{mounts, os, seccomp, signals};

/// Message sockets are injected at or above this number, so that the filter can tell them by number; below 1024 for select(2).
pub const FD_BASE: u32 = 512;

/// How soon a signal ends a start that waits, milliseconds.
const INTERRUPTIBLE: i32 = 50;

/// Which network namespace a program starts in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// The session's first one.
    #[default]
    First,
    /// `/run/netns/NAME`, made when it does not exist.
    Named(String),
    /// One of its own that ends with its last process.
    Fresh,
}

/// A program to run inside.
#[derive(Debug, Default)]
pub struct Command {
    /// Program and arguments; the program is looked up in PATH.
    pub argv: Vec<OsString>,
    /// Environment; `None`: that of the caller.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// Working directory; `None`: the caller's.
    pub cwd: Option<PathBuf>,
    /// Network namespace.
    pub net: Net,
    /// Standard input, output and error; `None`: the caller's.
    pub stdio: [Option<OwnedFd>; 3],
    /// User and group inside; `None`: root.
    pub user: Option<(u32, u32)>,
    /// Give the program a process group of its own, and the terminal when standard input is one: for interactive shells.
    pub foreground: bool,
    /// Give the program a session and process group of its own: for programs in the background whose whole group is stopped at the end.
    pub detached: bool,
}

/// A started program.
#[derive(Debug)]
pub struct Child {
    /// Pid as seen outside; a child of the calling process.
    pub pid: u32,
    /// The seccomp listener of it and of everything it starts.
    pub listener: OwnedFd,
}

impl Command {
    /// A command with these arguments and defaults for the rest.
    pub fn new<I: IntoIterator<Item = S>, S: Into<OsString>>(argv: I) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// A namespace name that may become a file name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if name.is_empty() || name.len() > 100 || !name.chars().all(good) || name == "." || name == ".." {
        return Err(HostError::Name(name.into()));
    }
    Ok(())
}

/// Everything exec needs, allocated before the fork.
struct Prepared {
    argv: Vec<CString>,
    envp: Vec<CString>,
    paths: Vec<CString>,
    cwd: CString,
    netns: Option<CString>,
    nofile: (u64, u64),
}

fn cstring(s: &OsStr) -> Result<CString> {
    CString::new(s.as_bytes()).map_err(|_| HostError::Step {
        step: "an argument contains a NUL byte".into(),
        source: io::Error::from_raw_os_error(libc::EINVAL),
    })
}

fn prepare(cmd: &Command) -> Result<Prepared> {
    let mut env: Vec<(OsString, OsString)> = cmd.env.clone().unwrap_or_else(|| std::env::vars_os().collect());
    let old = env.iter().find(|(k, _)| k == "PATH").map(|(_, v)| v.clone());
    let old = old.unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut path = OsString::from(mounts::BIN_DIR);
    path.push(":");
    path.push(&old);
    // An ordinary user's PATH often lacks the places of ip, ss and sysctl; inside he is root.
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !std::env::split_paths(&old).any(|p| p == std::path::Path::new(dir)) {
            path.push(":");
            path.push(dir);
        }
    }
    env.retain(|(k, _)| k != "PATH");
    env.push(("PATH".into(), path.clone()));
    let program = cmd.argv.first().cloned().unwrap_or_default();
    let paths = if program.as_bytes().contains(&b'/') {
        vec![cstring(&program)?]
    } else {
        std::env::split_paths(&path).map(|d| cstring(d.join(&program).as_os_str())).collect::<Result<_>>()?
    };
    let join = |k: &OsStr, v: &OsStr| {
        let mut s = k.to_owned();
        s.push("=");
        s.push(v);
        cstring(&s)
    };
    let netns = match &cmd.net {
        Net::Named(n) => {
            check_name(n)?;
            Some(cstring(OsStr::new(&format!("{}/{n}", mounts::NETNS_DIR)))?)
        }
        Net::First | Net::Fresh => None,
    };
    let cwd = cmd.cwd.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_else(|| "/".into());
    Ok(Prepared {
        argv: cmd.argv.iter().map(|a| cstring(a)).collect::<Result<_>>()?,
        envp: env.iter().map(|(k, v)| join(k, v)).collect::<Result<_>>()?,
        paths,
        cwd: cstring(cwd.as_os_str())?,
        netns,
        nofile: os::nofile(),
    })
}

/// Starts `cmd` inside `ns`; returns when the program was executed or could not be.
///
/// The calling process must have a single thread.
///
/// # Errors
/// Which step failed; `HostError::Exec` when the program itself cannot be executed.
pub fn spawn(ns: &Namespaces, cmd: &Command) -> Result<Child> {
    let prepared = prepare(cmd)?;
    let (ours, theirs) =
        crate::os::socketpair(libc::SOCK_SEQPACKET).map_err(HostError::step("making a socket pair"))?;
    // SAFETY: plain fork of a process with one thread; the child runs `helper`, which never returns.
    let helper_pid = cvt(unsafe { libc::fork() }.into()).map_err(HostError::step("fork"))?;
    if helper_pid == 0 {
        drop(ours);
        helper(ns, cmd, &prepared, &theirs);
    }
    drop(theirs);
    let out = collect(&ours, cmd);
    if matches!(out, Err(HostError::Interrupted(_))) {
        // SAFETY: the helper was not reaped yet; what it started dies with the sandbox, which its starter gives up.
        unsafe { libc::kill(helper_pid as libc::pid_t, libc::SIGKILL) };
    }
    // SAFETY: reaps the helper, which has exited or is about to.
    unsafe { libc::waitpid(helper_pid as libc::pid_t, std::ptr::null_mut(), 0) };
    out
}

/// Binds a network namespace at `/run/netns/NAME`, as `ip netns add` does; does nothing when there is one.
///
/// # Errors
/// A bad name, or the step that failed.
pub(crate) fn make_named(ns: &Namespaces, name: &str) -> Result<()> {
    let cmd = Command { net: Net::Named(name.into()), ..Command::default() };
    match spawn(ns, &cmd) {
        // Without a program there is no listener: the child ends once the namespace exists.
        Err(HostError::SandboxDied) => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Ok(()),
    }
}

/// Reads the child's reports: its pid, its listener, then nothing (exec closed the socket) or a failure.
fn collect(link: &OwnedFd, cmd: &Command) -> Result<Child> {
    let lost = |e| HostError::Step { step: "starting a program".into(), source: e };
    let (mut pid, mut listener, mut failure) = (None, None, None);
    let mut buf = [0u8; 256];
    loop {
        // What is executed may lie on a file system that does not answer. The supervisor blocks the signals that end it.
        while !os::readable_within(link.as_fd(), INTERRUPTIBLE) {
            if let Some(signal) = signals::pending_end() {
                return Err(HostError::Interrupted(signal));
            }
        }
        let (n, mut fds) = recv_fds(link.as_fd(), &mut buf, 0).map_err(lost)?;
        match buf.get(..n).and_then(<[u8]>::split_first) {
            None => break,
            Some((b'p', p)) => pid = p.try_into().ok().map(u32::from_ne_bytes),
            Some((b'l', _)) => listener = fds.pop(),
            Some((_, report)) => failure = Some(decode(report, cmd)),
        }
    }
    if let (Some(failure), pid) = (failure, pid) {
        if let Some(p) = pid {
            // SAFETY: reaps the failed child.
            unsafe { libc::waitpid(p as libc::pid_t, std::ptr::null_mut(), 0) };
        }
        return Err(failure);
    }
    match (pid, listener) {
        (Some(pid), Some(listener)) => Ok(Child { pid, listener }),
        (Some(pid), None) => {
            // SAFETY: reaps the child, which has exited.
            unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
            Err(HostError::SandboxDied)
        }
        _ => Err(HostError::SandboxDied),
    }
}

fn decode(report: &[u8], cmd: &Command) -> HostError {
    let (errno, text) = report.split_at_checked(4).unwrap_or((&[], b"unknown step"));
    let errno = errno.try_into().map_or(libc::EIO, i32::from_ne_bytes);
    let source = io::Error::from_raw_os_error(errno);
    match text {
        b"exec" => HostError::Exec {
            program: cmd.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default(),
            source,
        },
        b"filter" if errno == libc::EBUSY => HostError::AlreadySupervised,
        b"filter" => HostError::UserNotify(source),
        _ => HostError::Step { step: String::from_utf8_lossy(text).into_owned(), source },
    }
}

fn report(link: &OwnedFd, step: &str, e: &io::Error) -> ! {
    let mut r = vec![b'e'];
    r.extend_from_slice(&errno_of(e).to_ne_bytes());
    r.extend_from_slice(step.as_bytes());
    let _ = send_fds(link.as_fd(), &r, &[]);
    // SAFETY: ends the process without running the parent's destructors.
    unsafe { libc::_exit(125) }
}

/// Between the two forks: joins the namespaces; a pid namespace takes effect for children only.
fn helper(ns: &Namespaces, cmd: &Command, p: &Prepared, link: &OwnedFd) -> ! {
    let join = |fd: &OwnedFd, kind: libc::c_int, step: &str| {
        // SAFETY: no memory is involved.
        if let Err(e) = cvt(unsafe { libc::setns(fd.as_raw_fd(), kind) }.into()) {
            report(link, step, &e);
        }
    };
    // The working directory belongs to the old mount namespace; it is opened again by path in the new one.
    join(&ns.user, libc::CLONE_NEWUSER, "joining the user namespace");
    join(&ns.mnt, libc::CLONE_NEWNS, "joining the mount namespace");
    join(&ns.pid, libc::CLONE_NEWPID, "joining the pid namespace");
    join(&ns.net, libc::CLONE_NEWNET, "joining the network namespace");
    // SAFETY: a plain fork; CLONE_PARENT makes the new process a child of our parent, who waits for it.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD), 0, 0, 0, 0)
    };
    match cvt(pid) {
        Ok(0) => {
            let (step, e) = exec(cmd, p, link);
            report(link, step, &e)
        }
        Ok(pid) => {
            let mut m = vec![b'p'];
            m.extend_from_slice(&(pid as u32).to_ne_bytes());
            let _ = send_fds(link.as_fd(), &m, &[]);
            // SAFETY: ends the helper without destructors.
            unsafe { libc::_exit(0) }
        }
        Err(e) => report(link, "fork in the sandbox", &e),
    }
}

/// In the new process; returns only on failure.
fn exec(cmd: &Command, p: &Prepared, link: &OwnedFd) -> (&'static str, io::Error) {
    match exec_steps(cmd, p, link) {
        Err(e) => e,
        Ok(e) => ("exec", e),
    }
}

type Step = (&'static str, io::Error);

fn exec_steps(cmd: &Command, p: &Prepared, link: &OwnedFd) -> std::result::Result<io::Error, Step> {
    let step = |s: &'static str| move |e: io::Error| (s, e);
    // SAFETY: no memory is involved. If the starter dies, so do we; the sandbox's process 1 covers the rest.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    become_root().map_err(step("becoming root inside"))?;
    match (&cmd.net, &p.netns) {
        (Net::Fresh, _) => unshare_net().map_err(step("making a network namespace"))?,
        (Net::Named(_), Some(path)) => {
            named_net(path).map_err(step("joining the named network namespace"))?
        }
        _ => {}
    }
    if cmd.argv.is_empty() {
        // SAFETY: ends the process without running the parent's destructors.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: a NUL-terminated path.
    if unsafe { libc::chdir(p.cwd.as_ptr()) } != 0 {
        // SAFETY: as above; a directory under the private /run is not there inside.
        unsafe { libc::chdir(c"/".as_ptr()) };
    }
    os::set_nofile(p.nofile);
    groups_and_stdio(cmd).map_err(step("standard input and output"))?;
    let listener = seccomp::install(FD_BASE).map_err(step("filter"))?;
    send_fds(link.as_fd(), b"l", &[listener.as_raw_fd()]).map_err(step("handing over the listener"))?;
    drop(listener);
    if let Some((uid, gid)) = cmd.user {
        // SAFETY: no memory is involved (an empty group list).
        unsafe {
            libc::setgroups(0, std::ptr::null());
            cvt(libc::setresgid(gid, gid, gid).into()).map_err(step("setting the group"))?;
            cvt(libc::setresuid(uid, uid, uid).into()).map_err(step("setting the user"))?;
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
    }
    Ok(execve(p))
}

/// Becomes `cmd` in network namespace `first`, or in the named one that `cmd` asks for. For a process that is in the sandbox
/// already, with its filter: neither is possible twice.
pub(crate) fn replace(first: &OwnedFd, cmd: &Command) -> Result<std::convert::Infallible> {
    let p = prepare(cmd)?;
    match (&cmd.net, &p.netns) {
        (Net::Fresh, _) => unshare_net(),
        (Net::Named(_), Some(path)) => named_net(path),
        // SAFETY: no memory is involved.
        _ => cvt(unsafe { libc::setns(first.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop),
    }
    .map_err(HostError::step("joining the network namespace"))?;
    // SAFETY: no memory is involved. Rust programs ignore SIGPIPE; others expect its default.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let source = execve(&p);
    let program = cmd.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
    Err(HostError::Exec { program, source })
}

/// Root inside: the user who started us is mapped to it already unless the map is an identity.
fn become_root() -> io::Result<()> {
    // SAFETY: no memory is involved.
    unsafe {
        cvt(libc::setresgid(0, 0, 0).into())?;
        cvt(libc::setresuid(0, 0, 0).into())?;
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    Ok(())
}

fn unshare_net() -> io::Result<()> {
    // SAFETY: no memory is involved.
    cvt(unsafe { libc::unshare(libc::CLONE_NEWNET) }.into()).map(drop)
}

/// Joins /run/netns/NAME, made as `ip netns add` makes it when missing.
fn named_net(path: &CString) -> io::Result<()> {
    // SAFETY: a NUL-terminated path.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        // SAFETY: the descriptor was just opened.
        let r = cvt(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }.into());
        // SAFETY: as above.
        unsafe { libc::close(fd) };
        return r.map(drop);
    }
    // SAFETY: NUL-terminated strings; the file is made only when it does not exist.
    unsafe {
        let f = cvt_open(path)?;
        libc::close(f);
        unshare_net()?;
        cvt(libc::mount(
            c"/proc/thread-self/ns/net".as_ptr(),
            path.as_ptr(),
            c"none".as_ptr(),
            libc::MS_BIND,
            std::ptr::null(),
        )
        .into())?;
    }
    Ok(())
}

fn cvt_open(path: &CString) -> io::Result<RawFd> {
    // SAFETY: a NUL-terminated path.
    let f = unsafe {
        libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC, 0o444)
    };
    cvt(f.into()).map(|f| f as RawFd)
}

fn groups_and_stdio(cmd: &Command) -> io::Result<()> {
    // SAFETY: numbers of open descriptors; signal sets are initialised by the calls; no other thread exists.
    unsafe {
        for (n, fd) in cmd.stdio.iter().enumerate() {
            if let Some(fd) = fd {
                cvt(libc::dup2(fd.as_raw_fd(), n as RawFd).into())?;
            }
        }
        if cmd.detached {
            libc::setsid();
        } else if cmd.foreground {
            libc::setpgid(0, 0);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpgrp());
        }
        // The supervisor blocks and ignores signals that programs expect at their defaults.
        for sig in [
            libc::SIGPIPE,
            libc::SIGTTOU,
            libc::SIGTTIN,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGCHLD,
        ] {
            libc::signal(sig, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    Ok(())
}

/// Tries the candidates in PATH order; returns the error to report.
fn execve(p: &Prepared) -> io::Error {
    let pointers = |v: &[CString]| {
        let mut p: Vec<*const libc::c_char> = v.iter().map(|s| s.as_ptr()).collect();
        p.push(std::ptr::null());
        p
    };
    let (argv, envp) = (pointers(&p.argv), pointers(&p.envp));
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for path in &p.paths {
        // SAFETY: NUL-terminated strings in null-terminated arrays.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let e = io::Error::last_os_error();
        if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            worst = e;
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        assert!(check_name("web-1.lan").is_ok());
        for bad in ["", ".", "..", "a/b", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn own_bin_directory_is_first_in_path() {
        let mut c = Command::new(["true"]);
        c.env = Some(vec![("PATH".into(), "/usr/bin".into())]);
        let p = prepare(&c).expect("plain command");
        assert_eq!(p.paths.first().map(|p| p.to_bytes()), Some(&b"/run/ferronet/bin/true"[..]));
    }
}
