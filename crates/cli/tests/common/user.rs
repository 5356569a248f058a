//! Who runs `ferronet`: whoever runs the tests, or an ordinary user made for one test.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{ferronet, run};

/// Where an ordinary user finds programs; what lies in the home of the one who tests is not for him.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An account that is removed when the test ends, with a copy of the command that it may execute.
pub(crate) struct User {
    pub(crate) name: String,
    command: PathBuf,
}

impl User {
    /// Makes one, with a range of subordinate ids (for newuidmap) or without; `None` when that cannot be done here.
    pub(crate) fn new(test: &str, subordinate: bool) -> Option<User> {
        for n in ["useradd", "userdel", "setpriv"] {
            ferronet_sim::need::program(test, n)?;
        }
        if !ferronet_sim::need::root(test)
            || subordinate && ferronet_sim::need::program(test, "newuidmap").is_none()
        {
            return None;
        }
        let name = format!("fn-prog-{}-{}", if subordinate { "s" } else { "n" }, std::process::id());
        let dir = std::env::temp_dir().join(format!("ferronet-{name}"));
        let user = User { name, command: dir.join("ferronet") };
        let mut c = Command::new("useradd");
        // Accounts of the system get no subordinate ids.
        c.args(["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh"]);
        c.args((!subordinate).then_some("--system")).arg(&user.name);
        let e = run(c);
        assert_eq!(e.code, 0, "useradd: {}", e.err);
        std::fs::create_dir_all(&dir).expect("a directory for the command");
        std::fs::copy(env!("CARGO_BIN_EXE_ferronet"), &user.command).expect("a copy of the command");
        for f in [&dir, &user.command] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(f, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        Some(user)
    }

    /// The copy of the command.
    pub(crate) fn ferronet(&self) -> &std::path::Path {
        &self.command
    }

    /// A command as this user, without groups and with little else of ours.
    pub(crate) fn command(&self) -> Command {
        let mut c = Command::new("setpriv");
        c.arg(format!("--reuid={}", self.name)).arg(format!("--regid={}", self.name));
        c.args(["--clear-groups", "--inh-caps=-all", "--"]).stdin(Stdio::null());
        c.env_clear().env("PATH", PATH).env("HOME", "/nonexistent").env("USER", &self.name).env("LANG", "C");
        c.current_dir("/");
        c
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Where the sessions of a user without XDG_RUNTIME_DIR have their sockets.
        if let Ok(out) = Command::new("id").args(["-u", &self.name]).output() {
            let uid = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            let _ = (!uid.is_empty()).then(|| std::fs::remove_dir_all(format!("/tmp/ferronet-{uid}")));
        }
        let _ = Command::new("userdel").arg(&self.name).stderr(Stdio::null()).status();
        let _ = self.command.parent().map(std::fs::remove_dir_all);
    }
}

/// Who runs the command.
pub(crate) enum Who {
    /// Whoever runs the tests.
    Me,
    /// An ordinary user.
    User(User),
}

impl Who {
    /// What distinguishes a test's name.
    pub(crate) fn suffix(&self) -> String {
        match self {
            Who::Me => String::new(),
            Who::User(u) => {
                format!(" as {}", u.name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-'))
            }
        }
    }

    /// The command under test, run by this one.
    pub(crate) fn ferronet(&self, args: &[&str]) -> Command {
        match self {
            Who::Me => ferronet(args),
            Who::User(u) => {
                let mut c = u.command();
                c.arg(&u.command).args(args);
                c
            }
        }
    }

    /// The path of a program that this one may run; without it the test is recorded as skipped.
    pub(crate) fn program(&self, test: &str, program: &str) -> Option<PathBuf> {
        match self {
            Who::Me => ferronet_sim::need::program(test, program),
            Who::User(_) => {
                let found = PATH.split(':').map(|d| PathBuf::from(d).join(program)).find(|p| p.is_file());
                if found.is_none() {
                    ferronet_sim::need::skip(test, &format!("`{program}` is in no directory of all users"));
                }
                found
            }
        }
    }

    /// Whether programs can be put on a stack by this one; if not, the test is recorded as skipped.
    pub(crate) fn can_run(&self, test: &str) -> bool {
        let e = run(self.ferronet(&["run", "--", "true"]));
        if e.code != 0 {
            ferronet_sim::need::skip(test, e.err.trim());
        }
        e.code == 0
    }
}
