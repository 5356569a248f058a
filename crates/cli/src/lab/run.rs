//! Runs a lab: builds it, starts programs when what they wait for is ready, stops them at the end.

use super::output::Prefixed;
use super::report::{self, Outcome};
use super::{Lab, Program, Ready, build, hostside};
use crate::args::UpArgs;
use crate::serve;
use ferronet_core::NsId;
use ferronet_host::{Command, Config, Exit, Net, Session};
use rustix::fd::OwnedFd;
use std::cell::RefCell;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// A program that was asked to stop is killed after this time.
const GRACE: Duration = Duration::from_secs(3);
/// How often ports are looked at while somebody waits for them.
const LOOK: Duration = Duration::from_millis(20);
/// A lab that shows nothing says after this time what it waits for, and then again and again.
const PROGRESS: Duration = Duration::from_secs(5);

/// Where a program is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Running { pid: u32, ready: bool, asked_to_stop: Option<Instant>, killed: bool },
    Ended { ok: bool, how: String },
}

/// A program of the lab as it runs.
struct Running {
    spec: Program,
    state: State,
    started: Option<Instant>,
    took: Duration,
    output: Rc<RefCell<Prefixed>>,
}

/// Reads, builds, runs, reports. The exit status says whether every program that must succeed did.
pub(crate) fn up(args: &UpArgs, lab: &Lab) -> Result<u8, String> {
    let stem = args.file.file_stem().map(|s| s.to_string_lossy().into_owned());
    // An explicit name must be free; the file's own name is only a suggestion.
    let name = match (&args.name, stem) {
        (Some(n), _) => Some(n.clone()),
        (None, Some(s)) if ferronet_host::control::sessions().is_ok_and(|all| !all.contains(&s)) => Some(s),
        (None, _) => None,
    };
    let kernel = ferronet_linux::Config {
        seed: lab.seed.unwrap_or_else(crate::session::seed),
        ..crate::session::kernel()
    };
    let taps = hostside::open(lab)?;
    let mut session = Session::new(&Config { kernel, name }).map_err(|e| e.to_string())?;
    serve::install(&mut session, &format!("up {}", args.file.display()));
    let ids: Vec<NsId> = lab
        .namespaces
        .iter()
        .map(|n| session.namespace(&n.name).map_err(|e| format!("namespace {}: {e}", n.name)))
        .collect::<Result<_, _>>()?;
    hostside::attach(&mut session, lab, &ids, taps)?;
    build::build(session.kernel(), lab, &ids)?;
    let mut runner = Runner::new(session, lab, ids, args.json);
    let interrupted = runner.run()?;
    if args.keep && interrupted.is_none() {
        eprintln!("staying up as `{}`; Ctrl-C ends it", runner.session.name().unwrap_or("?"));
        while runner.session.take_end_request().is_none() {
            runner.session.step(None).map_err(|e| e.to_string())?;
        }
    }
    let outcomes = runner.outcomes();
    let ok = outcomes.iter().all(|o| !o.failed) && interrupted.is_none();
    let Runner { session, ids, .. } = &mut runner;
    let report = report::gather(session.kernel(), lab, ids, outcomes);
    if args.json {
        println!("{}", report.json(ok));
    } else {
        print!("{}", report.text());
    }
    Ok(match interrupted {
        Some(signal) => 128 + signal as u8,
        None => u8::from(!ok),
    })
}

struct Runner {
    session: Session,
    ids: Vec<NsId>,
    /// Names of the namespaces.
    names: Vec<String>,
    programs: Vec<Running>,
    deadline: Option<Instant>,
    /// A progress line is due.
    progress: Instant,
}

impl Runner {
    fn new(session: Session, lab: &Lab, ids: Vec<NsId>, to_stderr: bool) -> Runner {
        let width = lab.programs.iter().map(|p| p.name.len()).max().unwrap_or(0);
        let program = |(i, p): (usize, &Program)| {
            let awaited = match &p.ready {
                Some(Ready::Output(text)) => Some(text.clone()),
                _ => None,
            };
            let output = Prefixed::new(&p.name, width, i, to_stderr, awaited);
            let output = Rc::new(RefCell::new(output));
            Running { spec: p.clone(), state: State::Waiting, started: None, took: Duration::ZERO, output }
        };
        let now = Instant::now();
        Runner {
            session,
            ids,
            names: lab.namespaces.iter().map(|n| n.name.clone()).collect(),
            programs: lab.programs.iter().enumerate().map(program).collect(),
            deadline: lab.timeout.map(|t| now + t),
            progress: now + PROGRESS,
        }
    }

    /// Runs until every program has ended; `Some` is the signal that ended it early.
    fn run(&mut self) -> Result<Option<i32>, String> {
        let mut interrupted = None;
        loop {
            let now = Instant::now();
            self.take_exits(now);
            self.look_whether_ready();
            if interrupted.is_none() {
                self.start_what_can(now)?;
            }
            self.enforce_times(now);
            if let Some(signal) = self.session.take_end_request() {
                interrupted = Some(signal);
                self.stop(now, |_| true);
            }
            // When only servers are left, their work is done.
            if self.programs.iter().all(|p| p.spec.stop_at_end || matches!(p.state, State::Ended { .. })) {
                self.stop(now, |_| true);
            }
            let running = |p: &Running| matches!(p.state, State::Running { .. });
            if !self
                .programs
                .iter()
                .any(|p| running(p) || (p.state == State::Waiting && interrupted.is_none()))
            {
                self.last_words()?;
                return Ok(interrupted);
            }
            self.show_progress(now);
            let wait = self.wait(now);
            self.session.step(Some(wait)).map_err(|e| e.to_string())?;
        }
    }

    /// Starts each program whose conditions are met; gives up those whose conditions cannot be met any more.
    fn start_what_can(&mut self, now: Instant) -> Result<(), String> {
        for i in 0..self.programs.len() {
            if self.programs[i].state != State::Waiting {
                continue;
            }
            let after = self.programs[i].spec.after.clone();
            if let Some(&bad) =
                after.iter().find(|&&a| matches!(self.programs[a].state, State::Ended { ok: false, .. }))
            {
                let how = format!("not started: {} failed", self.programs[bad].spec.name);
                self.programs[i].state = State::Ended { ok: false, how };
                continue;
            }
            let ready = |p: &Running| match &p.state {
                State::Waiting => false,
                State::Running { ready, .. } => *ready && !p.spec.waits_for_exit(),
                State::Ended { ok, .. } => *ok,
            };
            if after.iter().all(|&a| ready(&self.programs[a])) {
                self.start(i, now)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, i: usize, now: Instant) -> Result<(), String> {
        let p = &mut self.programs[i];
        let mut argv: Vec<OsString> = p.spec.cmd.iter().map(OsString::from).collect();
        // `ferronet` in a lab is this very program, installed or not.
        if p.spec.cmd.first().is_some_and(|c| c == "ferronet") {
            argv[0] =
                std::env::current_exe().map_err(|e| format!("finding ferronet's own file: {e}"))?.into();
        }
        let (read, out, err, null) = pipes().map_err(|e| format!("making a pipe: {e}"))?;
        let mut env = crate::session::environment(self.session.name());
        env.extend(p.spec.env.iter().map(|(k, v)| (k.into(), v.into())));
        let net = Net::Named(self.names[p.spec.namespace].clone());
        let cmd = Command {
            env: Some(env),
            net,
            stdio: [Some(null), Some(out), Some(err)],
            detached: true,
            ..Command::new(argv)
        };
        let p = &mut self.programs[i];
        p.started = Some(now);
        match self.session.spawn(&cmd) {
            Ok(pid) => {
                let ready = p.spec.ready.is_none();
                p.state = State::Running { pid, ready, asked_to_stop: None, killed: false };
            }
            Err(e) => {
                p.output.borrow_mut().push(format!("{e}\n").as_bytes());
                p.state = State::Ended { ok: false, how: "could not be started".to_owned() };
                return Ok(());
            }
        }
        // Our copies of the writing end are closed, so that the end of the program is the end of the pipe.
        drop(cmd);
        let output = p.output.clone();
        let reader =
            move |_: &mut ferronet_linux::Kernel, fd: rustix::fd::BorrowedFd<'_>, _| read_some(fd, &output);
        self.session.register(read, Box::new(reader)).map_err(|e| e.to_string())?;
        Ok(())
    }

    fn take_exits(&mut self, now: Instant) {
        for (pid, exit) in self.session.take_exits() {
            let found = |p: &&mut Running| matches!(p.state, State::Running { pid: q, .. } if q == pid);
            let Some(p) = self.programs.iter_mut().find(found) else { continue };
            let stopped = matches!(p.state, State::Running { asked_to_stop: Some(_), .. });
            let timed_out = p.spec.timeout.is_some_and(|t| p.started.is_some_and(|s| now - s >= t));
            let how = match exit {
                Exit::Code(0) => "exited 0".to_owned(),
                Exit::Code(c) => format!("exited {c}"),
                Exit::Signal(s) => format!("killed by signal {s}"),
            };
            p.took = p.started.map(|s| now - s).unwrap_or_default();
            p.state = match exit {
                _ if stopped && p.spec.stop_at_end && !timed_out => {
                    State::Ended { ok: true, how: "stopped at the end".to_owned() }
                }
                _ if stopped => State::Ended {
                    ok: false,
                    how: format!("stopped: {}", if timed_out { "timeout" } else { "the lab ended" }),
                },
                Exit::Code(0) => State::Ended { ok: true, how },
                _ => State::Ended { ok: false, how },
            };
        }
    }

    fn look_whether_ready(&mut self) {
        for i in 0..self.programs.len() {
            let p = &self.programs[i];
            let State::Running { ready: false, .. } = p.state else { continue };
            let is_ready = match &p.spec.ready {
                None => true,
                Some(Ready::Output(_)) => p.output.borrow().seen,
                Some(r) => {
                    let (r, ns) = (r.clone(), self.ids[p.spec.namespace]);
                    build::is_ready(self.session.kernel(), ns, &r)
                }
            };
            if let State::Running { ready, .. } = &mut self.programs[i].state {
                *ready = is_ready;
            }
        }
    }

    /// Timeouts, and the end of patience with programs that were asked to stop.
    fn enforce_times(&mut self, now: Instant) {
        if self.deadline.is_some_and(|d| now >= d) {
            eprintln!("the lab's timeout is over");
            self.deadline = None;
            for p in &mut self.programs {
                if p.state == State::Waiting {
                    p.state =
                        State::Ended { ok: false, how: "not started: the lab's timeout is over".to_owned() };
                }
            }
            self.stop(now, |p| !p.spec.stop_at_end);
        }
        self.stop(now, |p| p.spec.timeout.is_some_and(|t| p.started.is_some_and(|s| now - s >= t)));
        for p in &mut self.programs {
            if let State::Running { pid, asked_to_stop: Some(at), killed, .. } = &mut p.state
                && !*killed
                && now - *at >= GRACE
            {
                *killed = true;
                self.session.signal(*pid, SIGKILL, true);
            }
        }
    }

    /// Asks programs to stop, the last one started first.
    fn stop(&mut self, now: Instant, which: impl Fn(&Running) -> bool) {
        let mut order: Vec<usize> = (0..self.programs.len()).filter(|&i| which(&self.programs[i])).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.programs[i].started));
        for i in order {
            if let State::Running { pid, asked_to_stop, .. } = &mut self.programs[i].state
                && asked_to_stop.is_none()
            {
                *asked_to_stop = Some(now);
                self.session.signal(*pid, SIGTERM, true);
            }
        }
    }

    /// How long to wait for events at most.
    fn wait(&self, now: Instant) -> Duration {
        let mut wait = self.progress.saturating_duration_since(now);
        let mut until = |at: Instant| wait = wait.min(at.saturating_duration_since(now));
        if let Some(d) = self.deadline {
            until(d);
        }
        for p in &self.programs {
            match &p.state {
                State::Running { ready: false, .. } if !matches!(p.spec.ready, Some(Ready::Output(_))) => {
                    until(now + LOOK)
                }
                State::Running { asked_to_stop: Some(at), killed: false, .. } => until(*at + GRACE),
                _ => {}
            }
            if let (State::Running { .. }, Some(t), Some(s)) = (&p.state, p.spec.timeout, p.started) {
                until(s + t);
            }
        }
        wait.max(Duration::from_millis(1))
    }

    fn show_progress(&mut self, now: Instant) {
        if now < self.progress {
            return;
        }
        self.progress = now + PROGRESS;
        if !std::io::stderr().is_terminal() {
            return;
        }
        let about = |p: &Running| match &p.state {
            State::Running { ready: false, .. } => Some(format!("{} (not ready yet)", p.spec.name)),
            State::Running { .. } if !p.spec.stop_at_end => {
                Some(format!("{} ({} s)", p.spec.name, p.started.map_or(0, |s| (now - s).as_secs())))
            }
            _ => None,
        };
        let all: Vec<String> = self.programs.iter().filter_map(about).collect();
        if !all.is_empty() {
            eprintln!("... running: {}", all.join(", "));
        }
    }

    /// What is still in the pipes.
    fn last_words(&mut self) -> Result<(), String> {
        self.session.step(Some(Duration::ZERO)).map_err(|e| e.to_string())?;
        self.session.step(Some(Duration::ZERO)).map_err(|e| e.to_string())?;
        for p in &self.programs {
            p.output.borrow_mut().finish();
        }
        Ok(())
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let one = |p: &Running| {
            let (ok, how) = match &p.state {
                State::Ended { ok, how } => (*ok, how.clone()),
                State::Waiting => (false, "not started".to_owned()),
                State::Running { .. } => (false, "still running".to_owned()),
            };
            Outcome { name: p.spec.name.clone(), how, took: p.took, failed: !ok && p.spec.must_succeed }
        };
        self.programs.iter().map(one).collect()
    }
}

/// A pipe for both outputs, and /dev/null for the input.
fn pipes() -> std::io::Result<(OwnedFd, OwnedFd, OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let err = write.try_clone()?;
    let null = std::fs::File::open("/dev/null")?;
    Ok((read, write, err, null.into()))
}

/// Takes what is in a pipe; false at its end.
fn read_some(fd: rustix::fd::BorrowedFd<'_>, output: &Rc<RefCell<Prefixed>>) -> bool {
    let mut buffer = [0u8; 16 * 1024];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => {
                output.borrow_mut().finish();
                return false;
            }
            Ok(n) => output.borrow_mut().push(&buffer[..n]),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}
