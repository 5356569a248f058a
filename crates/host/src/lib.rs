//! Host edge: devices, run loop, and the seccomp supervisor that puts unmodified programs on the stack.
//!
//! [`Session`] is the door: it makes the sandbox, starts programs in it and runs the stack for them. [`control`] lets other
//! terminals join a running session. The mechanism: a seccomp filter (user notifications) brings the few calls that
//! matter to the supervisor, which answers them from `ferronet_linux::Kernel` and injects ends of AF_UNIX socket pairs, so
//! that read, write, poll, epoll, sendfile, dup and fork work natively on real descriptors.
#![deny(unsafe_op_in_unsafe_fn)]

mod awake;
mod bpf;
mod bufs;
mod caps;
mod connect;
pub mod control;
mod dev;
mod error;
mod idmap;
mod join;
mod listen;
mod mem;
mod mounts;
mod nswatch;
mod obj;
mod os;
mod poller;
mod pollerr;
mod queues;
mod ring;
mod sandbox;
mod seccomp;
mod session;
mod signals;
mod stream;
mod supervisor;
mod sys;
mod task;
mod tracee;

pub use dev::Tap;
pub use error::{HostError, Result};
pub use join::{Child, Command, FD_BASE, Net, spawn};
pub use sandbox::{Namespaces, Sandbox};
pub use session::{Config, Exit, NetnsNames, Session, SourceId};
