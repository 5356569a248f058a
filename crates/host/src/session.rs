//! A session: one sandbox, one stack, the programs started in it, and the loop that runs them all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use ferronet_core::{IfIndex, NsId};
use ferronet_linux::{Kernel, Ready};

use crate::control::Control;
use crate::dev::{Tap, Taps};
use crate::error::{HostError, Result};
use crate::join::{self, Command};
use crate::os;
use crate::poller::{Token, bits};
use crate::sandbox::{Namespaces, Sandbox};
use crate::seccomp;
use crate::signals::Signals;
use crate::supervisor::Supervisor;
use crate::sys::nsref;

/// What a session starts with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The stack's own configuration.
    pub kernel: ferronet_linux::Config,
    /// Name under which `ferronet exec`, `ps`, `trace` and `drops` find it; `None`: a free one.
    pub name: Option<String>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// exit() with this status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl Exit {
    /// The status a shell would report: 128 + signal for a killed program.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(c) => c,
            Self::Signal(s) => 128 + s,
        }
    }
}

/// Names a registered descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(u32);

/// Called when a registered descriptor is ready; false ends the registration.
type OnReady = Box<dyn FnMut(&mut Kernel, BorrowedFd<'_>, Ready) -> bool>;
/// Called after every turn of the stack.
type AfterTurn = Box<dyn FnMut(&mut Kernel)>;

struct Source {
    fd: OwnedFd,
    on_ready: OnReady,
}

/// The directory of the named namespaces. What programs put there besides is not looked into.
#[derive(Clone, Debug)]
pub struct NetnsNames(Rc<OwnedFd>);

impl NetnsNames {
    /// Each name with the inode of its namespace, which is the stack's cookie of it.
    #[must_use]
    pub fn read(&self) -> Vec<(String, u64)> {
        nsref::named(self.0.as_fd())
    }
}

/// A running session. Dropping it kills every program in it; nothing is left behind.
pub struct Session {
    // Fields drop in this order: the programs die first.
    sandbox: Sandbox,
    children: Vec<u32>,
    namespaces: Namespaces,
    netns: Rc<OwnedFd>,
    sup: Supervisor,
    signals: Signals,
    sources: Vec<Option<Source>>,
    after_turn: Vec<AfterTurn>,
    taps: Taps,
    control: Option<Control>,
    exits: Vec<(u32, Exit)>,
    asked_to_end: Option<i32>,
    terminal: Option<i32>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("sandbox", &self.sandbox)
            .field("children", &self.children)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Makes the sandbox and an empty stack.
    ///
    /// The calling process must have a single thread. It becomes the supervisor: SIGCHLD, SIGINT, SIGTERM, SIGHUP and SIGQUIT
    /// are blocked and handled by the session from now on.
    ///
    /// # Errors
    /// Which feature of the system is missing, and what to do.
    pub fn new(config: &Config) -> Result<Self> {
        let hard = os::raise_nofile();
        if hard < 1024 {
            return Err(HostError::OpenFiles(hard));
        }
        seccomp::probe()?;
        // SAFETY: no memory is involved.
        let terminal = unsafe { libc::tcgetpgrp(0) };
        let mut sandbox = Sandbox::new()?;
        let namespaces = sandbox.namespaces()?;
        let signals = Signals::new().map_err(HostError::step("signalfd"))?;
        let first = os::inode(namespaces.net.as_fd());
        let netns = Rc::new(sandbox.directory(crate::mounts::NETNS_DIR)?);
        let sup = Supervisor::new(Kernel::new(config.kernel), &mut sandbox, first)?;
        let add = |fd: BorrowedFd<'_>, t| sup.poller.add(fd, t, bits::IN).map_err(HostError::step("epoll"));
        add(signals.fd(), Token::Signals)?;
        add(sandbox.init_fd(), Token::Init)?;
        let control = match Control::new(config.name.as_deref()) {
            Ok(mut c) => {
                if let Err(e) = c.listen_inside(sandbox.path(crate::control::INSIDE).as_ref()) {
                    tracing::warn!("programs of the session cannot ask it: {e}");
                }
                for fd in c.fds() {
                    add(fd, Token::Control)?;
                }
                Some(c)
            }
            Err(e) if config.name.is_some() => return Err(e),
            Err(e) => {
                tracing::warn!("other terminals cannot join this session: {e}");
                None
            }
        };
        // SAFETY: no memory is involved.
        let terminal = (terminal > 0 && terminal == unsafe { libc::getpgrp() }).then_some(terminal);
        Ok(Self {
            sandbox,
            children: Vec::new(),
            namespaces,
            netns,
            sup,
            signals,
            sources: Vec::new(),
            after_turn: Vec::new(),
            taps: Taps::default(),
            control,
            exits: Vec::new(),
            asked_to_end: None,
            terminal,
        })
    }

    /// The name other terminals know the session by.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.control.as_ref().map(Control::name)
    }

    /// The stack. Its clock is set to now.
    pub fn kernel(&mut self) -> &mut Kernel {
        self.sup.tick();
        self.sup.unsettled = true;
        &mut self.sup.kernel
    }

    /// Our side of the session's first network namespace.
    #[must_use]
    pub fn first_ns(&self) -> NsId {
        self.sup.first_ns
    }

    /// The namespace bound at `/run/netns/NAME`, made when it does not exist.
    ///
    /// # Errors
    /// A bad name, or the step that failed.
    pub fn namespace(&mut self, name: &str) -> Result<NsId> {
        join::make_named(&self.namespaces, name)?;
        self.named(name).ok_or_else(|| HostError::Name(name.into()))
    }

    fn named(&mut self, name: &str) -> Option<NsId> {
        let (ino, fd) = nsref::open_named(self.netns.as_fd(), name)?;
        self.sup.ns_of_inode(ino, fd.as_fd()).ok()
    }

    /// All named namespaces, sorted by name.
    pub fn named_namespaces(&mut self) -> Vec<(String, NsId)> {
        let mut names: Vec<String> =
            nsref::named(self.netns.as_fd()).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names.into_iter().filter_map(|n| Some((n.clone(), self.named(&n)?))).collect()
    }

    /// The names bound below /run/netns, now and later.
    #[must_use]
    pub fn netns_names(&self) -> NetnsNames {
        NetnsNames(self.netns.clone())
    }

    /// Starts a program; returns its pid as seen outside.
    ///
    /// # Errors
    /// [`HostError::Exec`] when the program cannot be executed, else the step that failed.
    pub fn spawn(&mut self, cmd: &Command) -> Result<u32> {
        let child = join::spawn(&self.namespaces, cmd)?;
        self.sup.add_listener(child.listener)?;
        self.children.push(child.pid);
        Ok(child.pid)
    }

    /// Sends a signal to a started program, or to its whole process group when it was started detached.
    pub fn signal(&self, pid: u32, signal: i32, group: bool) {
        if self.children.contains(&pid) {
            let pid = pid as libc::pid_t;
            // SAFETY: no memory is involved; the child was not reaped yet.
            unsafe { libc::kill(if group { -pid } else { pid }, signal) };
        }
    }

    /// Runs the loop until something happened, at most for `max_wait`.
    ///
    /// # Errors
    /// [`HostError::SandboxDied`] when the sandbox was killed from outside.
    pub fn step(&mut self, max_wait: Option<Duration>) -> Result<()> {
        let max = max_wait.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let streaming = self.control.as_ref().is_some_and(Control::streaming);
        let max = if streaming { Some(max.unwrap_or(u64::MAX).min(100_000_000)) } else { max };
        let mut events = Vec::new();
        // What was done from outside may have sent something; it must be out before we wait.
        if self.sup.unsettled && !(self.taps.is_empty() && self.sup.tuns.is_empty()) {
            self.sup.tick();
            self.sup.settle();
            self.taps.transmit(&mut self.sup);
        }
        self.sup.turn(max, &mut events)?;
        let mut died = false;
        let busy = !events.is_empty();
        for (token, ev) in events {
            match token {
                Token::Signals => self.take_signals(),
                Token::Init => died = true,
                Token::Source(i) => self.source_event(i, ev),
                Token::Control => self.control_accept(),
                Token::Client(i) => self.client_event(i, ev),
                Token::Tap(i) => self.taps.event(&mut self.sup.kernel, &self.sup.poller, i, ev),
                Token::Listener(_) | Token::Object(..) | Token::Namespaces => {}
            }
        }
        if busy {
            self.sup.settle();
        }
        self.taps.transmit(&mut self.sup);
        for f in &mut self.after_turn {
            f(&mut self.sup.kernel);
        }
        if let Some(c) = &mut self.control {
            c.stream(&mut self.sup.kernel, &self.sup.poller);
        }
        if died { Err(HostError::SandboxDied) } else { Ok(()) }
    }

    /// Runs the loop until program `pid` ends.
    ///
    /// # Errors
    /// As `step`.
    pub fn run_until_exit(&mut self, pid: u32) -> Result<Exit> {
        loop {
            if let Some(i) = self.exits.iter().position(|(p, _)| *p == pid) {
                let (_, exit) = self.exits.swap_remove(i);
                return Ok(exit);
            }
            self.step(None)?;
        }
    }

    /// Programs that ended since the last call.
    pub fn take_exits(&mut self) -> Vec<(u32, Exit)> {
        std::mem::take(&mut self.exits)
    }

    /// The signal (SIGINT, SIGTERM, SIGHUP, SIGQUIT) that asked the session to end, once. It was passed on to the programs.
    pub fn take_end_request(&mut self) -> Option<i32> {
        self.asked_to_end.take()
    }

    /// Watches a descriptor; `on_ready` gets the stack and what happened, and returns false to end the registration.
    ///
    /// # Errors
    /// When epoll refuses the descriptor.
    pub fn register(&mut self, fd: OwnedFd, on_ready: OnReady) -> Result<SourceId> {
        let i = self.sources.iter().position(Option::is_none).unwrap_or(self.sources.len());
        self.sup
            .poller
            .add(fd.as_fd(), Token::Source(i as u32), bits::IN)
            .map_err(HostError::step("epoll"))?;
        let source = Some(Source { fd, on_ready });
        match self.sources.get_mut(i) {
            Some(s) => *s = source,
            None => self.sources.push(source),
        }
        Ok(SourceId(i as u32))
    }

    /// Ends a registration and closes its descriptor.
    pub fn unregister(&mut self, id: SourceId) {
        if let Some(s) = self.sources.get_mut(id.0 as usize).and_then(Option::take) {
            self.sup.poller.remove(s.fd.as_fd());
        }
    }

    /// Makes the device `name` in namespace `ns`, down, whose other end is the host's interface `tap`. It loses its carrier
    /// when the interface is deleted in the host.
    ///
    /// # Errors
    /// A name that is taken or not acceptable.
    pub fn attach_tap(&mut self, ns: NsId, name: &str, tap: Tap) -> Result<IfIndex> {
        self.sup.unsettled = true;
        self.taps.attach(&mut self.sup.kernel, &self.sup.poller, ns, name, tap)
    }

    /// Calls `f` after every turn of the stack: for devices that transmit.
    pub fn after_turn(&mut self, f: AfterTurn) {
        self.after_turn.push(f);
    }

    /// Answers requests of other terminals that the session does not answer itself.
    pub fn on_request(&mut self, handler: crate::control::Handler) {
        if let Some(c) = &mut self.control {
            c.set_handler(handler);
        }
    }

    fn source_event(&mut self, index: u32, ev: u32) {
        let Some(Some(s)) = self.sources.get_mut(index as usize) else { return };
        let ready = Ready::from_bits_truncate(ev as u16);
        if !(s.on_ready)(&mut self.sup.kernel, s.fd.as_fd(), ready) {
            self.unregister(SourceId(index));
        }
    }

    fn control_accept(&mut self) {
        if let Some(c) = &mut self.control {
            c.accept(&self.sup.poller);
        }
    }

    fn client_event(&mut self, index: u32, ev: u32) {
        let Some(c) = &mut self.control else { return };
        let listeners = c.serve(index, ev, &mut self.sup, &self.namespaces, &self.children);
        for l in listeners {
            if let Err(e) = self.sup.add_listener(l) {
                tracing::error!("a program of another terminal: {e}");
            }
        }
    }

    fn take_signals(&mut self) {
        while let Some(s) = self.signals.next() {
            if s.signal == libc::SIGCHLD {
                self.reap();
            } else {
                self.asked_to_end = Some(s.signal);
                // The terminal's own signals reached the programs already.
                if s.by_process {
                    for pid in self.children.clone() {
                        self.signal(pid, s.signal, false);
                    }
                }
            }
        }
    }

    fn reap(&mut self) {
        let mut i = 0;
        while let Some(&pid) = self.children.get(i) {
            let mut status = 0;
            // SAFETY: `status` is valid for writes.
            let r = unsafe { libc::waitpid(pid as libc::pid_t, &mut status, libc::WNOHANG) };
            if r == pid as libc::pid_t {
                self.children.remove(i);
                let exit = if libc::WIFEXITED(status) {
                    Exit::Code(libc::WEXITSTATUS(status))
                } else {
                    Exit::Signal(libc::WTERMSIG(status))
                };
                self.exits.push((pid, exit));
                self.take_terminal_back();
            } else {
                i += 1;
            }
        }
    }

    /// A shell that ends leaves the terminal to a process group that is gone.
    fn take_terminal_back(&self) {
        if let Some(group) = self.terminal {
            // SAFETY: no memory is involved; SIGTTOU is ignored.
            unsafe { libc::tcsetpgrp(0, group) };
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sandbox.kill();
        for pid in &self.children {
            // SAFETY: reaps a killed child.
            unsafe { libc::waitpid(*pid as libc::pid_t, std::ptr::null_mut(), 0) };
        }
        self.take_terminal_back();
    }
}
