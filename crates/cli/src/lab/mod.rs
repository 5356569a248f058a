//! The lab file: namespaces, links, programs (`ferronet up FILE.toml`).
//!
//! `doc` reads TOML with positions, `parse` turns it into the model below and checks it as a whole, `run` builds
//! it on a stack and runs its programs, `hostside` is about TAP devices, `report` is the summary.

mod build;
mod doc;
mod hostside;
mod output;
mod parse;
pub(crate) mod report;
mod run;

pub(crate) use parse::parse;
pub(crate) use run::up;

use std::net::IpAddr;
use std::time::Duration;

/// A whole lab, checked: every name refers to something.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Lab {
    /// Decides everything random; random itself when it is not given.
    pub seed: Option<u64>,
    /// Longest time for all programs together.
    pub timeout: Option<Duration>,
    pub namespaces: Vec<Namespace>,
    pub links: Vec<Link>,
    pub taps: Vec<Tap>,
    pub programs: Vec<Program>,
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Namespace {
    pub name: String,
    /// `(device, address, prefix length)`, in the order of the file.
    pub addresses: Vec<(String, IpAddr, u8)>,
    pub routes: Vec<Route>,
    /// `(net.ipv4.ip_forward, 1)`; the path below /proc/sys/net with slashes.
    pub sysctls: Vec<(String, String)>,
}

/// A route, as `ip route` writes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    /// `None` is `default`.
    pub to: Option<(IpAddr, u8)>,
    pub via: Option<IpAddr>,
    pub dev: Option<String>,
    pub metric: Option<u32>,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// Index into [`Lab::namespaces`].
    pub namespace: usize,
    pub device: String,
}

/// A veth pair with the same emulation in both directions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Link {
    pub ends: [End; 2],
    pub mtu: Option<u32>,
    pub impairment: Impairment,
}

/// A TAP device: one end in a namespace, the other an interface of the host, with emulation in both directions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tap {
    pub end: End,
    /// The interface outside.
    pub host_name: String,
    /// Addresses with prefix lengths for the interface outside.
    pub host_addresses: Vec<(IpAddr, u8)>,
    pub mtu: Option<u32>,
    pub impairment: Impairment,
}

/// What a link does to packets, in each direction (terms of tc-netem(8)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Impairment {
    /// One-way delay.
    pub delay: Duration,
    /// The delay varies by up to this much either way.
    pub jitter: Duration,
    /// Bits per second; 0 is unlimited.
    pub rate: u64,
    /// Packets that wait for the rate at most; 0 is the default of 1000.
    pub queue: u32,
    /// Parts per million.
    pub loss: u32,
    /// Parts per million.
    pub duplicate: u32,
    /// Parts per million of packets that are sent without the delay.
    pub reorder: u32,
}

/// When a program counts as ready, for those that wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Somebody listens on this TCP port in the program's namespace.
    Tcp(u16),
    /// Somebody has bound this UDP port.
    Udp(u16),
    /// It has printed this text.
    Output(String),
}

/// A program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    pub name: String,
    /// Index into [`Lab::namespaces`].
    pub namespace: usize,
    pub cmd: Vec<String>,
    /// Indices into [`Lab::programs`]: wait until these are ready, or have ended well when they have no `ready`.
    pub after: Vec<usize>,
    pub ready: Option<Ready>,
    /// The lab fails when it fails.
    pub must_succeed: bool,
    /// Runs beside the others and is stopped when they have ended.
    pub stop_at_end: bool,
    /// It fails when it takes longer.
    pub timeout: Option<Duration>,
    pub env: Vec<(String, String)>,
}

impl Program {
    /// Whether waiting for it means waiting for its end.
    pub(crate) fn waits_for_exit(&self) -> bool {
        self.ready.is_none() && !self.stop_at_end
    }
}
