//! /dev/net/tun opened by programs: the kernel's own device answers, in the sandbox's empty namespaces.

use crate::obj::Key;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::Ours;

/// A device of the stack behind an opened /dev/net/tun.
pub(crate) struct Attached;

/// Devices whose packets go to programs.
#[derive(Default)]
pub(crate) struct Devices;

/// TUNSETNOCSUM … TUNSETCARRIER.
pub(crate) fn is_tun(cmd: u32) -> bool {
    (0x54c8..0x5500).contains(&(cmd & 0xffff))
}

/// Opening /dev/net/tun.
pub(crate) fn open(_s: &mut Supervisor, _call: &Call, _cloexec: bool, _flags: i32) -> Answer {
    Answer::Continue
}

/// TUN* requests.
pub(crate) fn ioctl(_s: &mut Supervisor, _call: &Call, _o: &Ours, _cmd: u32) -> Answer {
    Answer::Continue
}

impl Supervisor {
    pub(crate) fn tun_event(&mut self, _key: Key, _ev: u32) {}
    pub(crate) fn transmit_devices(&mut self) {}
}
