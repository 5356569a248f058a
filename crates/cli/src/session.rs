//! `ferronet shell` and `ferronet run`: one program on a fresh stack.

use crate::args::{RunArgs, StackArgs};
use crate::serve;
use ferronet_host::{Command, Config, HostError, Session, Tap};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// A random seed from the kernel.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // std seeds its hasher from getrandom(2); the stack's own keys are made from this seed.
    let a = std::hash::RandomState::new().build_hasher().finish();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    a ^ clock.as_nanos() as u64
}

/// The stack's configuration: random, with the machine's wall clock and memory.
pub(crate) fn kernel() -> ferronet_linux::Config {
    let monotonic = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
    };
    // The stack's clock is CLOCK_MONOTONIC; the difference turns it into wall-clock time. Of several tries the one with the
    // least time between the two clocks counts, or a received packet may seem to be older than its question.
    let difference = || {
        let before = monotonic();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        (monotonic() - before, wall.saturating_sub(before))
    };
    let wall_offset = (0..32).map(|_| difference()).min().map_or(0, |(_, d)| d);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|k| k.parse::<u64>().ok()).unwrap_or(0);
    ferronet_linux::Config { seed: seed(), wall_offset, memory: kib * 1024 }
}

/// A shell in the terminal.
pub(crate) fn shell(args: &StackArgs) -> Result<u8, String> {
    let shell = std::env::var_os("SHELL").map(PathBuf::from).filter(|s| s.is_file());
    let shell = shell.unwrap_or_else(|| PathBuf::from("/bin/sh"));
    let greet = std::io::stdin().is_terminal();
    let argv = vec![shell.to_string_lossy().into_owned()];
    start(args, argv, ("shell", greet))
}

/// One command.
pub(crate) fn run(args: &RunArgs) -> Result<u8, String> {
    // The command line takes an unknown option for the command, because a command has options of its own.
    if let Some(word) = args.cmd.first().filter(|w| w.starts_with('-')) {
        return Err(format!("`{word}` is no option of ferronet run (see ferronet run --help)"));
    }
    let what = format!("run {}", args.cmd.join(" "));
    start(&args.stack, args.cmd.clone(), (&what, false))
}

/// Opens the host's ends of `NAME[=HOSTIF]`, before the sandbox is entered.
fn open_taps(specs: &[String]) -> Result<Vec<(String, Tap)>, String> {
    let open = |spec: &String| {
        let (name, host) = spec.split_once('=').unwrap_or((spec, spec));
        Ok((name.to_owned(), Tap::open(host).map_err(|e| e.to_string())?))
    };
    specs.iter().map(open).collect()
}

fn start(args: &StackArgs, argv: Vec<String>, (what, greet): (&str, bool)) -> Result<u8, String> {
    let taps = open_taps(&args.tap)?;
    let mut session = match Session::new(&Config { kernel: kernel(), name: args.name.clone() }) {
        Ok(s) => s,
        Err(e) => return failed_to_start(&e),
    };
    serve::install(&mut session, what);
    for (name, tap) in taps {
        let ns = session.first_ns();
        session.attach_tap(ns, &name, tap).map_err(|e| e.to_string())?;
    }
    if let Some(file) = &args.pcapng {
        crate::capture::install(&mut session, file)?;
    }
    if greet {
        let name = session.name().unwrap_or("this stack");
        eprintln!(
            "A fresh stack, `{name}`. Its network is empty: start with `ip link set lo up`. Ctrl-D leaves."
        );
    }
    let env = Some(environment(session.name()));
    let cmd = Command { env, foreground: std::io::stdin().is_terminal(), ..Command::new(argv) };
    match session.spawn(&cmd) {
        Ok(pid) => {
            let exit = session.run_until_exit(pid).map_err(|e| e.to_string())?;
            Ok(u8::try_from(exit.code()).unwrap_or(u8::MAX))
        }
        Err(e) => failed_to_start(&e),
    }
}

/// Says in the environment of programs on which stack they run.
pub(crate) const NAME_VARIABLE: &str = "FERRONET";

/// The caller's environment and the name of the stack.
pub(crate) fn environment(name: Option<&str>) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(k, _)| k != NAME_VARIABLE).collect();
    env.push((NAME_VARIABLE.into(), name.unwrap_or_default().into()));
    env
}

/// The sentence goes to standard error, the exit status is that of a shell (127, 126).
pub(crate) fn failed_to_start(e: &HostError) -> Result<u8, String> {
    eprintln!("ferronet: {e}");
    Ok(u8::try_from(e.exit_code()).unwrap_or(1))
}
