//! A TAP device: the host's kernel is the neighbour. Checksums and segmentation are left to whoever needs them
//! (`IFF_VNET_HDR`), in both directions.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use ferronet_core::packet::MAX_LEN;
use ferronet_core::{DropReason, IfIndex, NsId, Packet};
use ferronet_linux::{BackendDev, Kernel};
use ferronet_wire::virtio::VirtioNetHdr;

use super::tap_frame::{VNET_HDR, fill, vnet_from};
use crate::error::{HostError, Result};
use crate::os::cvt;
use crate::poller::{Poller, Token, bits};
use crate::supervisor::Supervisor;

// linux/if_tun.h; libc lacks most of them.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETVNETLE: libc::c_ulong = 0x4004_54dc;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// TUN_F_CSUM, TSO4, TSO6 and TSO_ECN.
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x08;
/// TUN_F_CSUM alone.
const OFFLOAD_CSUM: libc::c_ulong = 0x01;
/// TUN_F_USO4 and USO6, since Linux 6.2.
const OFFLOAD_UDP: libc::c_ulong = 0x20 | 0x40;

/// Frames read in one turn.
const RX_BATCH: usize = 128;
/// Frames that wait for the host at most, per device (`tx_queue_len`).
const TX_LIMIT: usize = 1000;
/// Frames up to this size are copied, so that small ones do not hold a large buffer.
const COPY_BELOW: usize = 4096;
/// Size of a receive buffer; it is shared by the frames in it and used again when they are gone.
const CHUNK: usize = 512 << 10;

/// An open TAP device of the host.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// Opens the interface `host_ifname` of the caller's network namespace, made when it does not exist (it then ends with
    /// this value). A `%d` in the name stands for a free number.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn open(host_ifname: &str) -> Result<Self> {
        let fail = |what: &str, hint: &str| {
            let step = format!("{what} for the TAP interface `{host_ifname}`{hint}");
            HostError::step(step)
        };
        let mut req = [0u8; 40];
        let name = host_ifname.as_bytes();
        if name.is_empty() || name.len() > 15 {
            return Err(fail("an interface name has 1 to 15 bytes", "")(io::Error::from_raw_os_error(
                libc::EINVAL,
            )));
        }
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let file =
            file.map_err(fail("opening /dev/net/tun", " (needs root, or read and write permission on it)"))?;
        let fd = OwnedFd::from(file);
        if let Some(room) = req.get_mut(..name.len()) {
            room.copy_from_slice(name);
        }
        if let Some(room) = req.get_mut(16..18) {
            room.copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
        }
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, 40 bytes.
        cvt(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, req.as_mut_ptr()) }.into()).map_err(fail(
            "TUNSETIFF",
            " (needs root, or an interface that root made for you: ip tuntap add dev NAME mode tap user YOU vnet_hdr)",
        ))?;
        let one: libc::c_int = 1;
        let size = VNET_HDR as libc::c_int;
        // SAFETY: both read one int.
        cvt(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &size) }.into())
            .map_err(fail("TUNSETVNETHDRSZ", ""))?;
        // SAFETY: reads one int.
        cvt(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETLE, &one) }.into())
            .map_err(fail("TUNSETVNETLE", ""))?;
        // SAFETY: the argument is a number.
        let offload =
            |what: libc::c_ulong| cvt(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, what) }.into());
        offload(OFFLOADS | OFFLOAD_UDP).or_else(|_| offload(OFFLOADS)).map_err(fail("TUNSETOFFLOAD", ""))?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| fail("FIONBIO", "")(e.into()))?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| fail("FD_CLOEXEC", "")(e.into()))?;
        let end = req.iter().take(16).position(|b| *b == 0).unwrap_or(16);
        let name = String::from_utf8_lossy(req.get(..end).unwrap_or_default()).into_owned();
        Ok(Self { fd, name })
    }

    /// From now on the host cuts large frames to the MTU before they come: for an emulated link, which carries frames as a
    /// wire does. Checksums are still left to us.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn without_segmentation(&self) -> Result<()> {
        // SAFETY: the argument is a number.
        cvt(unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETOFFLOAD, OFFLOAD_CSUM) }.into())
            .map(drop)
            .map_err(HostError::step(format!("TUNSETOFFLOAD for the TAP interface `{}`", self.name)))
    }

    /// The interface's name in the host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A TAP device with its end in the stack.
struct Attached {
    tap: Tap,
    ns: NsId,
    dev: IfIndex,
    /// Frames the host did not take yet.
    waiting: VecDeque<Packet>,
    rx: BytesMut,
}

/// The TAP devices of a session.
#[derive(Default)]
pub(crate) struct Taps(Vec<Option<Attached>>);

impl Taps {
    /// No device?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the device `name` of namespace `ns` whose other end is `tap`.
    pub(crate) fn attach(
        &mut self,
        k: &mut Kernel,
        poller: &Poller,
        ns: NsId,
        name: &str,
        tap: Tap,
    ) -> Result<IfIndex> {
        let dev = k.dev_attach(ns, name, BackendDev::Tap).map_err(|e| HostError::Stack {
            what: format!("making the device `{name}`"),
            source: io::Error::from_raw_os_error(e.0.into()),
        })?;
        if let Some(n) = k.world.ns_mut(ns) {
            n.devs.update(dev, |d| d.tun.vnet_hdr = true);
        }
        let token = Token::Tap(self.0.len() as u32);
        poller.add(tap.fd.as_fd(), token, bits::IN).map_err(HostError::step("epoll"))?;
        self.0.push(Some(Attached { tap, ns, dev, waiting: VecDeque::new(), rx: BytesMut::new() }));
        Ok(dev)
    }

    /// A device has frames, or room again.
    pub(crate) fn event(&mut self, k: &mut Kernel, poller: &Poller, index: u32, ev: u32) {
        let Some(slot) = self.0.get_mut(index as usize) else { return };
        let Some(a) = slot else { return };
        let mut alive = true;
        if ev & bits::OUT != 0 {
            a.flush(k);
            if a.waiting.is_empty() {
                poller.modify(a.tap.fd.as_fd(), Token::Tap(index), bits::IN);
            }
        }
        if ev & (bits::IN | bits::ERR | bits::HUP) != 0 {
            alive = a.receive(k);
        }
        if !alive {
            // The interface was deleted in the host.
            poller.remove(a.tap.fd.as_fd());
            k.world.set_carrier(a.ns, a.dev, false);
            for p in a.waiting.drain(..) {
                k.world.backend_done(a.ns, p);
            }
            *slot = None;
        }
    }

    /// Gives the host what the stack has sent.
    pub(crate) fn transmit(&mut self, sup: &mut Supervisor) {
        if self.0.is_empty() && sup.tuns.is_empty() {
            return;
        }
        while let Some((ns, p)) = sup.kernel.dev_tx() {
            let dev = p.meta().dev;
            let of = |a: &&mut Option<Attached>| a.as_ref().is_some_and(|a| a.ns == ns && a.dev == dev);
            match self.0.iter_mut().find(of) {
                Some(Some(a)) if a.waiting.len() < TX_LIMIT => a.waiting.push_back(p),
                Some(_) => drop_in(&mut sup.kernel, ns, p),
                None => sup.tun_send(ns, p),
            }
        }
        for (i, a) in self.0.iter_mut().enumerate() {
            let Some(a) = a else { continue };
            if !a.waiting.is_empty() && !a.flush(&mut sup.kernel) {
                sup.poller.modify(a.tap.fd.as_fd(), Token::Tap(i as u32), bits::IN | bits::OUT);
            }
        }
    }
}

fn drop_in(k: &mut Kernel, ns: NsId, p: Packet) {
    match k.world.ns_mut(ns) {
        Some(n) => n.env.drop(p, DropReason::TapFull),
        None => p.release(),
    }
}

impl Attached {
    /// Writes what waits; false when the host has no room.
    fn flush(&mut self, k: &mut Kernel) -> bool {
        while let Some(p) = self.waiting.pop_front() {
            match write_frame(self.tap.fd.as_fd(), &p) {
                Ok(()) => k.world.backend_done(self.ns, p),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.push_front(p);
                    return false;
                }
                // EIO: the host's side is down. The frame is lost as on a cable without a partner.
                Err(_) => drop_in(k, self.ns, p),
            }
        }
        true
    }

    /// Reads frames into the stack; false when the interface is gone.
    fn receive(&mut self, k: &mut Kernel) -> bool {
        for _ in 0..RX_BATCH {
            let mut hdr = [0u8; VNET_HDR];
            if self.rx.capacity() - self.rx.len() < MAX_LEN {
                self.rx.reserve(CHUNK);
            }
            match read_frame(self.tap.fd.as_fd(), &mut hdr, &mut self.rx) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) => return e.raw_os_error() != Some(libc::EBADFD),
            }
            let frame = if self.rx.len() < COPY_BELOW {
                let f = bytes::Bytes::copy_from_slice(&self.rx);
                self.rx.clear();
                f
            } else {
                self.rx.split().freeze()
            };
            let Some(h) = VirtioNetHdr::view(&hdr) else { continue };
            let Some(n) = k.world.ns_mut(self.ns) else { return false };
            let mut p = n.env.pool.get();
            if fill(&mut p, h, frame) {
                k.dev_rx(self.ns, self.dev, p);
            } else {
                n.env.drop(p, DropReason::PktTooSmall);
            }
        }
        true
    }
}

/// Reads one frame behind the (empty) contents of `buf`; false when it was shorter than its header.
fn read_frame(fd: BorrowedFd<'_>, hdr: &mut [u8; VNET_HDR], buf: &mut BytesMut) -> io::Result<bool> {
    let room = buf.spare_capacity_mut();
    let iov = [
        libc::iovec { iov_base: hdr.as_mut_ptr().cast(), iov_len: hdr.len() },
        libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
    ];
    // SAFETY: both vectors describe memory that is ours and valid for writes.
    let n = cvt(unsafe { libc::readv(fd.as_raw_fd(), iov.as_ptr(), 2) } as libc::c_long)? as usize;
    let Some(len) = n.checked_sub(VNET_HDR) else { return Ok(false) };
    // SAFETY: the kernel wrote `len` bytes behind the old contents, within the capacity.
    unsafe { buf.set_len(buf.len() + len) };
    Ok(true)
}

/// Writes one frame with its header; the host takes all or nothing.
fn write_frame(fd: BorrowedFd<'_>, p: &Packet) -> io::Result<()> {
    let h = vnet_from(p);
    let mut iov: smallvec::SmallVec<[libc::iovec; 20]> = smallvec::SmallVec::new();
    let mut add =
        |s: &[u8]| iov.push(libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() });
    add(h.bytes());
    p.for_each_slice(&mut add);
    // SAFETY: the vectors describe slices that live through the call, which only reads them.
    cvt(unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) } as libc::c_long)
        .map(drop)
}
