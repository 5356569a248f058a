//! The control socket: how other terminals find and join a running session.
//!
//! One SOCK_SEQPACKET socket per session in `$XDG_RUNTIME_DIR/ferronet` (or `/tmp/ferronet-UID`, mode 0700), and a second one
//! inside the sandbox ([`INSIDE`]), where programs of the session find it without a name. A request is one
//! datagram of words, each ended by a NUL byte. Answers are datagrams whose first byte says what follows: `o` output, `n`
//! namespaces (with descriptors), `e` the end with a status as decimal text.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use ferronet_linux::Kernel;

use crate::error::{HostError, Result};
use crate::join::{self, Command};
use crate::os::{self, cvt, cvt_fd, recv_fds, send_fds};
use crate::poller::{Poller, Token, bits};
use crate::sandbox::Namespaces;
use crate::seccomp;
use crate::session::Exit;
use crate::supervisor::Supervisor;

/// Where root inside a session finds the session's own socket.
pub const INSIDE: &str = "/run/ferronet/control.sock";
/// Largest datagram either way.
const MAX: usize = 64 << 10;
/// Output a slow reader may leave unread before he is cut off.
const BACKLOG: usize = 4 << 20;

/// How long a session that ends takes at most from the end of its programs to that of its sockets, milliseconds.
const ENDING_MS: i32 = 5000;

/// How long the other end of a conversation may take for one answer, seconds: it does nothing but read its tables.
const PATIENCE: i64 = 2;

/// What a handler made of a request.
pub enum Served {
    /// All output is written; the status is the command's exit status.
    Done(i32),
    /// Call again after every turn until it returns false.
    Stream(Streamer),
    /// No such request.
    Unknown,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(s) => write!(f, "Done({s})"),
            Self::Stream(_) => write!(f, "Stream"),
            Self::Unknown => write!(f, "Unknown"),
        }
    }
}

/// Appends new output; false when there will be no more.
pub type Streamer = Box<dyn FnMut(&mut Kernel, &mut Vec<u8>) -> bool>;
/// Answers a request (its words) by appending output.
pub type Handler = Box<dyn FnMut(&mut Kernel, &[String], &mut Vec<u8>) -> Served>;

struct Peer {
    fd: OwnedFd,
    out: Vec<u8>,
    stream: Option<Streamer>,
    end: Option<i32>,
}

/// The session's side.
pub(crate) struct Control {
    /// Listening: in the user's directory, and inside the sandbox.
    fds: Vec<OwnedFd>,
    path: PathBuf,
    name: String,
    peers: Vec<Option<Peer>>,
    handler: Option<Handler>,
}

/// The directory of control sockets, made with mode 0700; refused when it is somebody else's.
fn directory() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(d) if fs::metadata(&d).is_ok_and(|m| m.uid() == uid) => d.join("ferronet"),
        _ => PathBuf::from(format!("/tmp/ferronet-{uid}")),
    };
    let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir);
    made.map_err(HostError::step(format!("making {}", dir.display())))?;
    let m = fs::symlink_metadata(&dir).map_err(HostError::step("control directory"))?;
    if m.uid() != uid || m.mode() & 0o077 != 0 || !m.is_dir() {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        return Err(HostError::Step {
            step: format!("{} must be yours alone (mode 0700)", dir.display()),
            source,
        });
    }
    Ok(dir)
}

/// struct sockaddr_un of a path.
fn address(path: &std::path::Path) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: zero is a valid sockaddr_un.
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= a.sun_path.len() {
        return Err(HostError::Name(path.display().to_string()));
    }
    for (d, s) in a.sun_path.iter_mut().zip(bytes) {
        *d = *s as libc::c_char;
    }
    Ok((a, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn seqpacket(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    cvt_fd(
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags, 0) }.into(),
    )
}

/// A connection for a conversation: connect, send and receive all fail with EAGAIN after `PATIENCE`.
fn connect(path: &std::path::Path) -> Result<OwnedFd> {
    let (a, len) = address(path)?;
    let step = || HostError::step(format!("no session answers at {}", path.display()));
    let fd = seqpacket(0).map_err(step())?;
    // A connect to a session whose queue is full waits as long as a send does (SO_SNDTIMEO).
    for timeout in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
        set_patience(fd.as_fd(), timeout, PATIENCE).map_err(step())?;
    }
    // SAFETY: `a` is a valid address of `len` bytes.
    cvt(unsafe { libc::connect(fd.as_raw_fd(), std::ptr::from_ref(&a).cast(), len) }.into())
        .map_err(|e| silent(path, e))?;
    Ok(fd)
}

/// Sets SO_RCVTIMEO or SO_SNDTIMEO; zero waits for ever.
fn set_patience(fd: BorrowedFd<'_>, name: i32, seconds: i64) -> io::Result<()> {
    os::setsockopt_raw(fd, libc::SOL_SOCKET, name, &[seconds, 0].map(i64::to_ne_bytes).concat())
}

/// A conversation with the session at `path` failed: by its end, or because it stands still.
fn silent(path: &std::path::Path, e: io::Error) -> HostError {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match e.kind() {
        io::ErrorKind::WouldBlock => HostError::Silent(name),
        _ => HostError::step(format!("no session answers at {}", path.display()))(e),
    }
}

/// Does somebody listen at `path`? Says so at once, whatever that session does: a start depends on no other session. One whose
/// queue is full (EAGAIN) stands still, but it is there.
fn is_taken(path: &std::path::Path) -> bool {
    let (Ok((a, len)), Ok(fd)) = (address(path), seqpacket(libc::SOCK_NONBLOCK)) else { return false };
    // SAFETY: `a` is a valid address of `len` bytes.
    let r = unsafe { libc::connect(fd.as_raw_fd(), std::ptr::from_ref(&a).cast(), len) };
    r == 0 || io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// A listening socket at `path` that only its owner may connect to.
fn listen(path: &std::path::Path) -> Result<OwnedFd> {
    let step = || HostError::step(format!("control socket {}", path.display()));
    let fd = seqpacket(libc::SOCK_NONBLOCK).map_err(step())?;
    let (a, len) = address(path)?;
    // SAFETY: `a` is a valid address of `len` bytes.
    unsafe {
        cvt(libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&a).cast(), len).into()).map_err(step())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(step())?;
        cvt(libc::listen(fd.as_raw_fd(), 16).into()).map_err(step())?;
    }
    Ok(fd)
}

impl Control {
    /// Listens under `name`, or under a free name of its own.
    pub(crate) fn new(name: Option<&str>) -> Result<Self> {
        let dir = directory()?;
        let name = match name {
            Some(n) => n.to_owned(),
            None => (1..)
                .map(|i| format!("net{i}"))
                .find(|n| !is_taken(&dir.join(format!("{n}.sock"))))
                .unwrap_or_default(),
        };
        join::check_name(&name)?;
        let path = dir.join(format!("{name}.sock"));
        if is_taken(&path) {
            let source = io::Error::from_raw_os_error(libc::EADDRINUSE);
            return Err(HostError::Step {
                step: format!("a session named `{name}` is running already"),
                source,
            });
        }
        // Left behind by a session that was killed.
        let _ = fs::remove_file(&path);
        let fds = vec![listen(&path)?];
        Ok(Self { fds, path, name, peers: Vec::new(), handler: None })
    }

    /// Listens inside the sandbox too; `path` is [`INSIDE`] as the supervisor sees it.
    pub(crate) fn listen_inside(&mut self, path: &std::path::Path) -> Result<()> {
        self.fds.push(listen(path)?);
        Ok(())
    }

    /// The listening sockets.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_handler(&mut self, h: Handler) {
        self.handler = Some(h);
    }

    /// Does anybody wait for a stream of output?
    pub(crate) fn streaming(&self) -> bool {
        self.peers.iter().flatten().any(|p| p.stream.is_some() || !p.out.is_empty())
    }

    pub(crate) fn accept(&mut self, poller: &Poller) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let one = |fd: &OwnedFd| {
            // SAFETY: null address pointers are allowed.
            let r =
                unsafe { libc::accept4(fd.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
            cvt_fd(r.into()).ok()
        };
        let new: Vec<OwnedFd> = self.fds.iter().filter_map(one).collect();
        for fd in new {
            self.welcome(fd, poller);
        }
    }

    fn welcome(&mut self, fd: OwnedFd, poller: &Poller) {
        let i = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
        if i < 64 && poller.add(fd.as_fd(), Token::Client(i as u32), bits::IN).is_ok() {
            let peer = Some(Peer { fd, out: Vec::new(), stream: None, end: None });
            match self.peers.get_mut(i) {
                Some(p) => *p = peer,
                None => self.peers.push(peer),
            }
        }
    }

    fn hang_up(&mut self, index: u32, poller: &Poller) {
        if let Some(p) = self.peers.get_mut(index as usize).and_then(Option::take) {
            poller.remove(p.fd.as_fd());
        }
    }

    /// Serves one request; returns seccomp listeners that programs of other terminals handed over.
    pub(crate) fn serve(
        &mut self,
        index: u32,
        ev: u32,
        sup: &mut Supervisor,
        ns: &Namespaces,
        children: &[u32],
    ) -> Vec<OwnedFd> {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return Vec::new() };
        let mut buf = vec![0; MAX];
        let got = recv_fds(peer.fd.as_fd(), &mut buf, libc::MSG_DONTWAIT);
        let (n, fds) = match got {
            Ok((n, fds)) if n > 0 => (n, fds),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && ev & bits::HUP == 0 => return Vec::new(),
            _ => {
                self.hang_up(index, &sup.poller);
                return Vec::new();
            }
        };
        let text = String::from_utf8_lossy(buf.get(..n).unwrap_or_default()).into_owned();
        let words: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        let served = match words.first().map(String::as_str) {
            Some("listener") => {
                return fds.into_iter().filter(|fd| seccomp::is_listener(fd.as_fd())).collect();
            }
            Some("join") => {
                let all = [&ns.user, &ns.mnt, &ns.pid, &ns.net, &ns.root].map(AsRawFd::as_raw_fd);
                let _ = send_fds(peer.fd.as_fd(), b"n", &all);
                return Vec::new();
            }
            Some("pids") => {
                for c in children {
                    peer.out.extend_from_slice(format!("{c}\n").as_bytes());
                }
                Served::Done(0)
            }
            _ => match &mut self.handler {
                Some(h) => h(&mut sup.kernel, &words, &mut peer.out),
                None => Served::Unknown,
            },
        };
        match served {
            Served::Done(s) => peer.end = Some(s),
            Served::Stream(f) => peer.stream = Some(f),
            Served::Unknown => {
                peer.out.extend_from_slice(b"this session does not know that request\n");
                peer.end = Some(2);
            }
        }
        self.flush(index as usize, &sup.poller);
        Vec::new()
    }

    /// Collects output of streams and sends what can be sent.
    pub(crate) fn stream(&mut self, kernel: &mut Kernel, poller: &Poller) {
        for i in 0..self.peers.len() {
            if let Some(Some(p)) = self.peers.get_mut(i)
                && let Some(f) = &mut p.stream
                && !f(kernel, &mut p.out)
            {
                p.stream = None;
                p.end = Some(0);
            }
            self.flush(i, poller);
        }
    }

    fn flush(&mut self, index: usize, poller: &Poller) {
        let Some(Some(p)) = self.peers.get_mut(index) else { return };
        let mut gone = p.out.len() > BACKLOG;
        while !p.out.is_empty() && !gone {
            let n = p.out.len().min(MAX - 1);
            let mut m = Vec::with_capacity(n + 1);
            m.push(b'o');
            m.extend(p.out.iter().take(n));
            match os::send(p.fd.as_fd(), &m) {
                Ok(_) => drop(p.out.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => gone = true,
            }
        }
        if let (Some(status), false) = (p.end, gone) {
            match os::send(p.fd.as_fd(), format!("e{status}").as_bytes()) {
                Ok(_) => p.end = None,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => gone = true,
            }
        }
        if gone {
            self.hang_up(index as u32, poller);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Names of the running sessions of this user, sorted. Sockets of dead sessions are removed.
///
/// # Errors
/// When the control directory cannot be used.
pub fn sessions() -> Result<Vec<String>> {
    let dir = directory()?;
    let mut out = Vec::new();
    for e in fs::read_dir(&dir).map_err(HostError::step("control directory"))?.flatten() {
        let file = e.file_name();
        let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".sock")) else { continue };
        if is_taken(&e.path()) {
            out.push(name.to_owned());
        } else {
            let _ = fs::remove_file(e.path());
        }
    }
    out.sort();
    Ok(out)
}

/// One answer of a session.
#[derive(Debug)]
pub enum Reply {
    /// Output.
    Data(Vec<u8>),
    /// The end, with the exit status of the command.
    End(i32),
}

/// A connection to a running session.
#[derive(Debug)]
pub struct Client {
    fd: OwnedFd,
    name: String,
}

impl Client {
    /// Connects to the session named `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn connect(name: &str) -> Result<Self> {
        join::check_name(name)?;
        connect(&directory()?.join(format!("{name}.sock"))).map(|fd| Self { fd, name: name.into() })
    }

    /// Connects to the session that the caller runs in; `None` when it runs in none.
    ///
    /// # Errors
    /// When the caller may not (only root inside may).
    pub fn here() -> Result<Option<Self>> {
        match fs::exists(INSIDE) {
            Ok(true) => connect(INSIDE.as_ref()).map(|fd| Some(Self { fd, name: "this stack".into() })),
            _ => Ok(None),
        }
    }

    /// Replaces the calling process by a program; for callers inside the session, which are supervised already. Of the
    /// command, the network namespace, arguments and environment count.
    ///
    /// # Errors
    /// Returns only on failure.
    pub fn replace(&self, cmd: &Command) -> Result<std::convert::Infallible> {
        self.request(&["join"])?;
        join::replace(&self.joined()?.net, cmd)
    }

    /// The namespaces that a session hands over.
    fn joined(&self) -> Result<Namespaces> {
        let mut buf = [0; 16];
        let (_, fds) =
            recv_fds(self.fd.as_fd(), &mut buf, 0).map_err(|e| self.failed("the session's answer", e))?;
        let Ok([user, mnt, pid, net, root]) = <[OwnedFd; 5]>::try_from(fds) else {
            return Err(HostError::SandboxDied);
        };
        Ok(Namespaces { user, mnt, pid, net, root })
    }

    fn failed(&self, step: &str, e: io::Error) -> HostError {
        match e.kind() {
            io::ErrorKind::WouldBlock => HostError::Silent(self.name.clone()),
            _ => HostError::step(step)(e),
        }
    }

    /// From now on an answer may take as long as it likes: a stream of output has no end.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn wait_for_ever(&self) -> Result<()> {
        set_patience(self.fd.as_fd(), libc::SO_RCVTIMEO, 0).map_err(HostError::step("the session's socket"))
    }

    /// Sends a request of words without NUL bytes.
    ///
    /// # Errors
    /// When the session is gone.
    pub fn request(&self, words: &[&str]) -> Result<()> {
        self.send(words, &[])
    }

    fn send(&self, words: &[&str], fds: &[i32]) -> Result<()> {
        let mut m = Vec::new();
        for w in words {
            m.extend_from_slice(w.as_bytes());
            m.push(0);
        }
        send_fds(self.fd.as_fd(), &m, fds).map_err(|e| self.failed("asking the session", e))
    }

    /// Waits for the next answer; `None` when the session is gone.
    ///
    /// # Errors
    /// When the socket fails; [`HostError::Silent`] when the session does not answer.
    pub fn reply(&self) -> Result<Option<Reply>> {
        let mut buf = vec![0; MAX];
        let (n, _) =
            recv_fds(self.fd.as_fd(), &mut buf, 0).map_err(|e| self.failed("the session's answer", e))?;
        buf.truncate(n);
        Ok(match buf.split_first() {
            None => None,
            Some((b'e', s)) => Some(Reply::End(String::from_utf8_lossy(s).parse().unwrap_or(1))),
            Some((_, data)) => Some(Reply::Data(data.to_vec())),
        })
    }

    /// Runs a program inside the session, with the caller's terminal; returns how it ended.
    ///
    /// The calling process must have a single thread.
    ///
    /// # Errors
    /// The step that failed; [`HostError::Exec`] when the program cannot be executed; [`HostError::StackEnded`] when it failed
    /// because the session ended.
    pub fn exec(&self, cmd: &Command) -> Result<Exit> {
        let ended = self.exec_steps(cmd);
        if matches!(ended, Ok(Exit::Code(0))) || !self.has_ended() {
            return ended;
        }
        Err(HostError::StackEnded)
    }

    /// Is the session gone or about to go? A program may fail for that before the session's socket is closed: it is killed
    /// with the sandbox, or nobody answers its calls (ENOSYS). One that is alive answers any request at once.
    fn has_ended(&self) -> bool {
        if self.request(&["pids"]).is_err() {
            return true;
        }
        let mut p = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        let told = unsafe { libc::poll(&mut p, 1, ENDING_MS) == 1 };
        told && !matches!(self.reply(), Ok(Some(_)))
    }

    fn exec_steps(&self, cmd: &Command) -> Result<Exit> {
        self.request(&["join"])?;
        let ns = self.joined()?;
        // SAFETY: no memory is involved. The program gets its defaults back before exec.
        let group = unsafe {
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            libc::signal(libc::SIGQUIT, libc::SIG_IGN);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::getpgrp()
        };
        let child = join::spawn(&ns, cmd)?;
        self.send(&["listener"], &[child.listener.as_raw_fd()])?;
        drop(child.listener);
        let mut status = 0;
        // SAFETY: `status` is valid for writes; tcsetpgrp takes numbers only.
        unsafe {
            while libc::waitpid(child.pid as libc::pid_t, &mut status, 0) < 0 {
                if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return Err(HostError::SandboxDied);
                }
            }
            if cmd.foreground {
                libc::tcsetpgrp(0, group);
            }
        }
        Ok(if libc::WIFEXITED(status) {
            Exit::Code(libc::WEXITSTATUS(status))
        } else {
            Exit::Signal(libc::WTERMSIG(status))
        })
    }
}
