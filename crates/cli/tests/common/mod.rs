//! Running the command itself, bounded in time.
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub(crate) mod user;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A test waits no longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command under test.
pub(crate) fn ferronet(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_ferronet"));
    c.args(args).stdin(Stdio::null());
    c
}

/// A child that does not outlive its test.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status; -1 when killed.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Running {
    /// Starts a command; its output can be waited for.
    pub(crate) fn start(mut c: Command) -> Running {
        let mut child = c.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ferronet starts");
        let out = child.stdout.take().expect("piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the output, which is when its last holder is gone.
    pub(crate) fn ends(&self) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                Err(e) => panic!("still running: {e}"),
            }
        }
    }

    /// The first line that contains the text; the test fails when none comes.
    pub(crate) fn line_with(&self, text: &str) -> String {
        self.lines_to(text).pop().unwrap_or_default()
    }

    /// The lines up to the first that contains the text, that one too; the test fails when none comes.
    pub(crate) fn lines_to(&self, text: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("no line with `{text}`, but {said:?}: {e}"));
            let found = line.contains(text);
            said.push(line);
            if found {
                return said;
            }
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(c: Command) -> Ended {
    run_for(c, PATIENCE.as_secs() as u32)
}

/// Runs a command to its end, which must come within this many seconds.
pub(crate) fn run_for(mut c: Command, seconds: u32) -> Ended {
    let mut child = c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ferronet starts");
    let reader = |mut r: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = r.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = reader(Box::new(child.stdout.take().expect("piped")));
    let err = reader(Box::new(child.stderr.take().expect("piped")));
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    let status = loop {
        if let Some(s) = child.try_wait().expect("waiting for ferronet") {
            break s;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("did not end in time: {c:?}");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    let code = status.code().unwrap_or(-1);
    Ended { code, out: out.join().expect("reader"), err: err.join().expect("reader") }
}

/// Whether programs can be put on a stack here; if not, the test is recorded as skipped.
pub(crate) fn can_run(test: &str) -> bool {
    user::Who::Me.can_run(test)
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).display().to_string()
}

/// A lab file of this test.
pub(crate) fn lab(test: &str, text: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&dir).expect("a directory for test files");
    let path = dir.join(format!("{test}.toml"));
    std::fs::write(&path, text).expect("writing a lab file");
    path
}

/// A script of `tests/twin`.
fn twin_script(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/twin").join(name).display().to_string()
}

/// Plays a Python script in a namespace of the real kernel and on a stack of our own, and demands the same output.
///
/// `unshare` makes the namespace, with a user namespace around it when this is not root. Returns what was printed.
pub(crate) fn twin(test: &str, script: &str) -> Option<String> {
    twin_in(test, script, "-Urn")
}

/// As `twin`, for root: the script becomes other users too, who exist in no user namespace that `unshare` makes.
pub(crate) fn twin_of_root(test: &str, script: &str) -> Option<String> {
    if !ferronet_sim::need::root(test) {
        return None;
    }
    twin_in(test, script, "-n")
}

/// `unshare` with these flags makes the kernel's namespace.
fn twin_in(test: &str, script: &str, flags: &str) -> Option<String> {
    for n in ["python3", "unshare", "ip", "ss", "sysctl"] {
        ferronet_sim::need::program(test, n)?;
    }
    if !can_run(test) {
        return None;
    }
    let script = twin_script(script);
    let mut kernel = Command::new("unshare");
    kernel.args([flags, "python3", &script]).stdin(Stdio::null());
    let (real, ours) = (run(kernel), run(ferronet(&["run", "--", "python3", &script])));
    assert_eq!((real.code, ours.code), (0, 0), "\nkernel: {}\nferronet: {}{}", real.err, ours.out, ours.err);
    assert_same(&real.out, &ours.out);
    Some(ours.out)
}

/// The two texts are equal; if not, the lines that differ are shown.
fn assert_same(kernel: &str, ferronet: &str) {
    if kernel == ferronet {
        return;
    }
    let (a, b): (Vec<_>, Vec<_>) = (kernel.lines().collect(), ferronet.lines().collect());
    let at = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let part =
        |v: &[&str]| v.iter().skip(at.saturating_sub(3)).take(12).copied().collect::<Vec<_>>().join("\n");
    panic!("line {} differs\n--- kernel\n{}\n--- ferronet\n{}", at + 1, part(&a), part(&b));
}
