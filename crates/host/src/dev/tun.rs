//! /dev/net/tun for programs of the session (drivers/net/tun.c): a device of the stack whose other end is the program.
//!
//! The program's descriptor is one end of a SOCK_SEQPACKET pair, so that read, write and poll run natively, a frame a message;
//! only open and the ioctls come here.

use std::os::fd::AsFd;

use bytes::Bytes;
use ferronet_core::{DropReason, IfIndex, NsId, Packet};
use ferronet_linux::BackendDev;
use ferronet_stack::dev::{DevKind, Device};
use ferronet_wire::virtio::VirtioNetHdr;

use super::tap_frame::{fill, vnet_from};
use crate::mem;
use crate::obj::{Body, Key, Object};
use crate::os;
use crate::poller::bits;
use crate::seccomp::Slot;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::socket;

const IFF_TUN: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_ONE_QUEUE: u16 = 0x2000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;
/// Bytes of struct ifreq.
const IFREQ: usize = 40;
/// Bytes of struct virtio_net_hdr without num_buffers, what a program has when it asks for nothing else.
const VNET_HDR: i32 = 10;
/// TUN_F_CSUM; TSO4 and TSO6 together.
const CSUM: u32 = 1;
const TSO: u32 = 6;
/// EBADFD: no TUNSETIFF yet.
const EBADFD: i32 = 77;
/// Frames taken from one program in a turn of the loop; the rest of what it wrote is told again.
const RX_BATCH: usize = 64;

/// An open /dev/net/tun.
pub(crate) struct TunFile {
    /// The namespace it was opened in.
    ns: NsId,
    /// Where its device was when it was last looked for; it may have gone to another namespace since.
    dev: Option<(NsId, IfIndex)>,
    flags: u16,
    hdr_size: i32,
    sndbuf: i32,
}

/// How many files of the session have a device.
#[derive(Default)]
pub(crate) struct Tuns(usize);

impl Tuns {
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// The number of a file in its device ([`ferronet_stack::dev::TunInfo`]).
fn number(key: Key) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.index)
}

fn key_of(number: u64) -> Key {
    Key { index: number as u32, generation: (number >> 32) as u32 }
}

/// open("/dev/net/tun").
pub(crate) fn open(s: &mut Supervisor, call: &Call, flags: i32) -> Answer {
    let ns = match s.ns_of(call.n.tid) {
        Ok(ns) => ns,
        Err(e) => return Answer::Err(e),
    };
    let (mine, theirs) = match os::object_pair(libc::SOCK_SEQPACKET | (flags & libc::O_NONBLOCK)) {
        Ok(p) => p,
        Err(e) => return Answer::Err(os::errno_of(&e)),
    };
    let file = TunFile { ns, dev: None, flags: 0, hdr_size: VNET_HDR, sndbuf: i32::MAX };
    let object = Object {
        mine: Some(mine),
        cookie: os::cookie(theirs.as_fd()).unwrap_or(0),
        owner: (call.n.tid, 0),
        waiters: Vec::new(),
        interest: bits::IN,
        body: Body::Tun(file),
    };
    socket::inject(s, call, object, theirs.as_fd(), Slot::Lowest, flags & libc::O_CLOEXEC != 0)
}

/// ioctl on it (`__tun_chr_ioctl`).
pub(crate) fn ioctl(s: &mut Supervisor, call: &Call, key: Key) -> Answer {
    let (cmd, arg, tid) = (call.n.ptr(1) as u32, call.n.ptr(2), call.n.tid);
    let put = |v: i32| mem::write(tid, arg, &v.to_ne_bytes()).map(|()| 0);
    let got = || mem::read_val::<i32>(tid, arg);
    if cmd == 0x400454ca {
        return done(set_iff(s, call, key));
    }
    if cmd == 0x800454cf {
        let all = IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR;
        return done(put(all.into()));
    }
    let Some(at) = s.tun_device(key) else { return Answer::Err(EBADFD) };
    let Some(Body::Tun(f)) = s.objects.get_mut(key).map(|o| &mut o.body) else { return Answer::Err(EBADFD) };
    done(match cmd {
        // TUNSETDEBUG, -OWNER, -GROUP: whoever opens it here is root inside.
        0x400454c9 | 0x400454cc | 0x400454ce => Ok(0),
        0x400454cb => {
            if let Some(n) = s.kernel.world.ns_mut(at.0) {
                n.devs.update(at.1, |d| d.tun.persist = arg != 0);
            }
            Ok(0)
        }
        0x400454d0 => offload(s, key, at, arg as u32),
        0x800454d2 => get_iff(s, call, key, at),
        0x800454d3 => put(f.sndbuf),
        0x400454d4 => got().map(|v| f.sndbuf = v).map(|()| 0),
        0x800454d7 => put(f.hdr_size),
        0x400454d8 => match got() {
            Ok(v) if (VNET_HDR..=256).contains(&v) => {
                f.hdr_size = v;
                Ok(0)
            }
            Ok(_) => Err(libc::EINVAL),
            Err(e) => Err(e),
        },
        // TUNSETVNETLE, TUNGETVNETLE: all machines we run on are little-endian.
        0x400454dc => Ok(0),
        0x800454dd => put(1),
        // TUNSETQUEUE, filters, other link types.
        _ => Err(libc::EINVAL),
    })
}

fn done(r: Result<i64, i32>) -> Answer {
    r.map_or_else(Answer::Err, Answer::Ret)
}

fn is_tun(d: &Device) -> Option<bool> {
    match d.kind {
        DevKind::Backend { ethernet, .. } => Some(ethernet),
        _ => None,
    }
}

/// TUNSETIFF (`tun_set_iff`).
fn set_iff(s: &mut Supervisor, call: &Call, key: Key) -> Result<i64, i32> {
    let (tid, arg) = (call.n.tid, call.n.ptr(2));
    let mut ifr = mem::read_vec(tid, arg, IFREQ)?;
    let flags = ifr.get(16..18).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
    let name = ifr.get(..15).unwrap_or_default().split(|b| *b == 0).next().unwrap_or_default();
    let name = String::from_utf8(name.to_vec()).map_err(|_| libc::EINVAL)?;
    if s.tun_device(key).is_some() {
        return Err(libc::EEXIST);
    }
    let Some(Body::Tun(f)) = s.objects.get(key).map(|o| &o.body) else { return Err(EBADFD) };
    let ns = f.ns;
    let known = IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR | IFF_TUN_EXCL;
    if flags & !known != 0 {
        tracing::warn!(
            "TUNSETIFF of `{name}`: several queues and fragments (flags {flags:#x}) are not supported"
        );
        return Err(libc::EINVAL);
    }
    let ethernet = match flags & (IFF_TUN | IFF_TAP) {
        IFF_TUN => false,
        IFF_TAP => true,
        _ => return Err(libc::EINVAL),
    };
    if s.tasks.who(tid).1 != 0 {
        return Err(libc::EPERM);
    }
    let devs = &s.kernel.world.ns(ns).ok_or(libc::ENODEV)?.devs;
    let name = match name.split_once("%d") {
        Some((a, b)) => {
            (0..).map(|i| format!("{a}{i}{b}")).find(|n| devs.by_name(n).is_none()).unwrap_or_default()
        }
        None => name,
    };
    let dev = match devs.by_name(&name) {
        Some(_) if flags & IFF_TUN_EXCL != 0 => return Err(libc::EBUSY),
        Some(d) if is_tun(d) != Some(ethernet) => return Err(libc::EINVAL),
        // In use; or of the host, by --tap.
        Some(d) if d.tun.file.is_some() || !d.tun.persist => return Err(libc::EBUSY),
        Some(d) => d.index,
        None => {
            let kind = if ethernet { BackendDev::Tap } else { BackendDev::Tun };
            s.kernel.dev_attach(ns, &name, kind).map_err(|e| i32::from(e.0))?
        }
    };
    s.kernel.world.set_carrier(ns, dev, true);
    s.tuns.0 += 1;
    if let Some(Body::Tun(f)) = s.objects.get_mut(key).map(|o| &mut o.body) {
        (f.dev, f.flags) = (Some((ns, dev)), flags & !IFF_TUN_EXCL);
    }
    if let Some(n) = s.kernel.world.ns_mut(ns) {
        n.devs.update(dev, |d| {
            d.tun.file = Some(number(key));
            (d.tun.pi, d.tun.vnet_hdr) = (flags & IFF_NO_PI == 0, flags & IFF_VNET_HDR != 0);
            put_name(&mut ifr, &d.name);
        });
    }
    offload(s, key, (ns, dev), 0)?;
    mem::write(tid, arg, &ifr).map(|()| 0)
}

fn put_name(ifr: &mut [u8], name: &str) {
    for (i, b) in ifr.iter_mut().take(16).enumerate() {
        *b = name.as_bytes().get(i).copied().unwrap_or(0);
    }
}

/// TUNGETIFF.
fn get_iff(s: &mut Supervisor, call: &Call, key: Key, (ns, dev): (NsId, IfIndex)) -> Result<i64, i32> {
    let Some(Body::Tun(f)) = s.objects.get(key).map(|o| &o.body) else { return Err(EBADFD) };
    let mut ifr = [0; IFREQ];
    ifr[16..18].copy_from_slice(&f.flags.to_ne_bytes());
    let d = s.kernel.world.ns(ns).and_then(|n| n.devs.get(dev)).ok_or(EBADFD)?;
    put_name(&mut ifr, &d.name);
    mem::write(call.n.tid, call.n.ptr(2), &ifr).map(|()| 0)
}

/// TUNSETOFFLOAD: what the program does itself. Without a virtio header it can do nothing.
fn offload(s: &mut Supervisor, key: Key, (ns, dev): (NsId, IfIndex), what: u32) -> Result<i64, i32> {
    let vnet =
        matches!(s.objects.get(key).map(|o| &o.body), Some(Body::Tun(f)) if f.flags & IFF_VNET_HDR != 0);
    let csum = vnet && what & CSUM != 0;
    let set = |d: &mut Device| {
        d.features.tx_csum = csum;
        d.features.tso = csum && what & TSO == TSO;
        d.features.uso = false;
    };
    s.kernel.world.ns_mut(ns).and_then(|n| n.devs.update(dev, set)).ok_or(EBADFD)?;
    Ok(0)
}

impl Supervisor {
    /// Where a file's device is, in whatever namespace; `None` before TUNSETIFF and when the device is gone.
    fn tun_device(&mut self, key: Key) -> Option<(NsId, IfIndex)> {
        let Some(Body::Tun(f)) = self.objects.get(key).map(|o| &o.body) else { return None };
        let (at, file) = (f.dev?, Some(number(key)));
        let world = &self.kernel.world;
        if world.ns(at.0).and_then(|n| n.devs.get(at.1)).is_some_and(|d| d.tun.file == file) {
            return Some(at);
        }
        let moved =
            world.iter().find_map(|n| Some((n.id, n.devs.iter().find(|d| d.tun.file == file)?.index)));
        if let Some(Body::Tun(f)) = self.objects.get_mut(key).map(|o| &mut o.body) {
            f.dev = moved;
        }
        if moved.is_none() {
            // tun_net_uninit: the file is as if fresh, so another TUNSETIFF may follow.
            self.tuns.0 = self.tuns.0.saturating_sub(1);
        }
        moved
    }

    /// The program wrote frames, or closed the last copy of its descriptor.
    pub(crate) fn tun_event(&mut self, key: Key, ev: u32) {
        let at = self.tun_device(key);
        // What a batch leaves comes again: the poller is level-triggered.
        for _ in 0..RX_BATCH {
            let Some(o) = self.objects.get(key) else { return };
            let (Some(mine), Body::Tun(f)) = (&o.mine, &o.body) else { return };
            let (flags, hdr) = (f.flags, f.hdr_size);
            match self.bufs.read(mine.as_fd()) {
                Ok(frame) if !frame.is_empty() => {
                    if let Some(at) = at {
                        self.tun_receive(at, flags, hdr, frame);
                    }
                }
                // An empty frame, or the end.
                Ok(_) if ev & bits::HUP == 0 => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && ev & bits::HUP == 0 => return,
                Ok(_) | Err(_) => return self.tun_close(key),
            }
        }
    }

    /// `tun_get_user`.
    fn tun_receive(&mut self, (ns, dev): (NsId, IfIndex), flags: u16, hdr: i32, frame: Bytes) {
        let Some(n) = self.kernel.world.ns_mut(ns) else { return };
        let mut p = n.env.pool.get();
        let whole = take_headers(flags, hdr, frame)
            .is_some_and(|(vnet, frame)| !frame.is_empty() && fill(&mut p, &vnet, frame));
        if whole {
            self.kernel.dev_rx(ns, dev, p);
        } else {
            n.env.drop(p, DropReason::PktTooSmall);
        }
        self.unsettled = true;
    }

    /// A frame that the stack sends on a device (`tun_net_xmit`, `tun_put_user`).
    pub(crate) fn tun_send(&mut self, ns: NsId, p: Packet) {
        let file = self.kernel.world.ns(ns).and_then(|n| n.devs.get(p.meta().dev)).and_then(|d| d.tun.file);
        let sent = file.and_then(|f| self.objects.get(key_of(f))).is_some_and(|o| {
            let (Some(mine), Body::Tun(f)) = (&o.mine, &o.body) else { return false };
            let mut m = Vec::with_capacity(p.len() + 32);
            if f.flags & IFF_NO_PI == 0 {
                m.extend_from_slice(&[0, 0]);
                m.extend_from_slice(&p.meta().protocol.to_be_bytes());
            }
            if f.flags & IFF_VNET_HDR != 0 {
                let end = m.len() + f.hdr_size as usize;
                m.extend(vnet_from(&p).bytes().iter().take(f.hdr_size as usize));
                m.resize(end, 0);
            }
            p.for_each_slice(&mut |s| m.extend_from_slice(s));
            os::send(mine.as_fd(), &m).is_ok()
        });
        if sent {
            self.kernel.world.backend_done(ns, p);
        } else {
            match self.kernel.world.ns_mut(ns) {
                Some(n) => n.env.drop(p, DropReason::TapFull),
                None => p.release(),
            }
        }
    }

    /// The file is closed: its device goes, or stays without carrier.
    fn tun_close(&mut self, key: Key) {
        if let Some((ns, dev)) = self.tun_device(key) {
            self.tuns.0 = self.tuns.0.saturating_sub(1);
            let detach = |d: &mut Device| {
                d.tun.file = None;
                d.tun.persist
            };
            if self.kernel.world.ns_mut(ns).and_then(|n| n.devs.update(dev, detach)) == Some(true) {
                self.kernel.world.set_carrier(ns, dev, false);
            } else {
                let _ = self.kernel.world.link_del(ns, dev);
            }
            self.unsettled = true;
        }
        self.forget(key);
    }
}

/// Takes the headers off that a program puts before a frame; `None` when they are not whole.
fn take_headers(flags: u16, hdr: i32, mut frame: Bytes) -> Option<(VirtioNetHdr, Bytes)> {
    let pi = if flags & IFF_NO_PI == 0 { 4 } else { 0 };
    let vnet = if flags & IFF_VNET_HDR != 0 { usize::try_from(hdr).ok()? } else { 0 };
    if frame.len() < pi + vnet {
        return None;
    }
    let _ = frame.split_to(pi);
    let mut bytes = [0; VirtioNetHdr::LEN];
    for (b, v) in bytes.iter_mut().zip(frame.split_to(vnet)) {
        *b = v;
    }
    Some((VirtioNetHdr::view(&bytes).copied().unwrap_or_default(), frame))
}
