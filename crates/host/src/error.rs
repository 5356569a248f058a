//! What can go wrong when the edge is set up; every message says which feature is missing and what to do.

use std::io;

/// A failure of the host edge.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// clone(2) with CLONE_NEWUSER was refused.
    #[error(
        "user namespaces are missing or forbidden here ({0}); enable them with \
         `sysctl user.max_user_namespaces=15000` and, where the kernel has it, \
         `sysctl kernel.unprivileged_userns_clone=1` or `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; \
         in a container, allow clone and unshare in its seccomp profile"
    )]
    UserNamespace(io::Error),
    /// The kernel has no SECCOMP_RET_USER_NOTIF.
    #[error(
        "seccomp user notification is missing ({0}); ferronet needs Linux 5.14 or newer built with \
         CONFIG_SECCOMP_FILTER (check `cat /proc/sys/kernel/seccomp/actions_avail` for user_notif); in a container, allow \
         seccomp in its seccomp profile"
    )]
    UserNotify(io::Error),
    /// A supervisor is already above us: only one listener per process tree.
    #[error(
        "this shell is already supervised by another seccomp listener; leave the running `ferronet shell` \
         (or container that uses seccomp notify) and start again outside of it"
    )]
    AlreadySupervised,
    /// The uid or gid map was refused.
    #[error("cannot map user ids into the new user namespace ({0}); check /etc/subuid and /etc/subgid")]
    IdMap(io::Error),
    /// RLIMIT_NOFILE is too small.
    #[error("only {0} open files are allowed; raise the limit with `ulimit -n 4096` or more")]
    OpenFiles(u64),
    /// A step inside the sandbox failed.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot run {program}: {source}{}", exec_hint(source))]
    Exec {
        /// The first word of the command.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A name that is not acceptable as a namespace name.
    #[error(
        "`{0}` cannot name a stack or a network namespace: use letters, digits, '.', '_' and '-', at most 100 of them"
    )]
    Name(String),
    /// The first process of the sandbox is gone.
    #[error("the sandbox was killed from outside")]
    SandboxDied,
    /// The stack that a program was started on from outside has ended, and the program with it.
    #[error("the stack has ended, and the program with it")]
    StackEnded,
    /// A session is there and does nothing: stopped, or stuck.
    #[error("the stack `{0}` does not answer; is it stopped? (`kill -CONT` lets it go on)")]
    Silent(String),
    /// A signal ended the start.
    #[error("ended by signal {0}")]
    Interrupted(i32),
    /// An operation of the running stack answered with an error number.
    #[error("{what}: {source}")]
    Stack {
        /// What was asked.
        what: String,
        /// The answer.
        source: io::Error,
    },
}

/// What to do when a program cannot be executed.
fn exec_hint(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::ENOENT) => "; is it installed, and its directory in PATH?",
        Some(libc::EACCES) => "; is it a program, with permission to execute it (chmod +x)?",
        Some(libc::ENOEXEC) => "; a script needs a first line such as #!/bin/sh",
        _ => "",
    }
}

impl HostError {
    /// Wraps an I/O error with what was being done.
    pub fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }

    /// The exit status a shell would use for this failure: 127 not found, 126 not executable, 125 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exec { source, .. } if source.raw_os_error() == Some(libc::ENOENT) => 127,
            Self::Exec { .. } => 126,
            Self::Interrupted(signal) => 128 + signal,
            _ => 125,
        }
    }
}

/// Result of the host edge.
pub type Result<T> = std::result::Result<T, HostError>;
