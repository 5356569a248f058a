//! Receive rings of packet sockets (PACKET_RX_RING), which libpcap needs: since 1.10 it has no other way to capture.
//!
//! The ring is a memfd that the program maps through its socket's descriptor (`tracee`) and that we map too. Frames move from
//! the socket's queue into it as long as there is room. The program gives room back by a store that nobody tells us of, so
//! we look, at first soon and then less often, while there is something to take back.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use ferronet_linux::socket::tpacket::{self, BLOCK_HDR, Frame};
use ferronet_linux::{Received, RecvReq, RxRing, SockId};

use crate::obj::Key;
use crate::os::{self, cvt, cvt_fd};
use crate::seccomp;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::{self, Ours};
use crate::tracee;

/// First and longest time between two looks at what the program gave back, nanoseconds.
const LOOK: (u64, u64) = (200_000, 20_000_000);
/// Bytes taken of one frame.
const SNAP: usize = 256 << 10;
/// A block handed over because its time was up (TP_STATUS_BLK_TMO).
const BLK_TMO: u32 = 1 << 5;
const USER: u32 = 1;

/// Memory shared with a program, which may write it at any time.
struct Shared {
    at: NonNull<u8>,
    len: usize,
}

impl Shared {
    fn new(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(p.cast()) {
            Some(at) if p != libc::MAP_FAILED => Ok(Self { at, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len, "offsets follow from the checked layout");
        // SAFETY: inside the mapping, aligned; shared words are only touched as atomics.
        unsafe { AtomicU32::from_ptr(self.at.as_ptr().add(at).cast()) }
    }

    fn put(&self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.len, "offsets follow from the checked layout");
        // SAFETY: inside the mapping; the sealed memfd cannot shrink. What the program does to its own copy is its affair.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.as_ptr().add(at), data.len()) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// V3: the block that is being filled.
#[derive(Default)]
struct Open {
    /// Bytes used.
    used: usize,
    frames: u32,
    /// Where the last frame is.
    last: usize,
    /// Its time, seconds and nanoseconds.
    stamp: [u32; 2],
    /// Handed over at the latest then, CLOCK_MONOTONIC nanoseconds.
    deadline: u64,
}

/// One ring.
pub(crate) struct Ring {
    spec: RxRing,
    fd: OwnedFd,
    mem: Shared,
    /// Next frame (V1, V2) or block (V3).
    head: usize,
    /// Where the status is that was handed over last.
    handed: Option<usize>,
    open: Option<Open>,
    blocks: u64,
    /// Frames whose place the header cannot say, not yet counted in tp_drops.
    lost: u32,
    /// A frame that found no room.
    waiting: Option<Received>,
    /// When to look next, and how long after that.
    look: Option<(u64, u64)>,
}

/// All rings, by socket.
pub(crate) type Rings = HashMap<Key, Ring>;

impl Ring {
    fn new(spec: RxRing) -> io::Result<Self> {
        let len = spec.block_size as usize * spec.block_nr as usize;
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: a NUL-terminated name; then numbers only.
        let fd = unsafe {
            let fd = cvt_fd(libc::memfd_create(c"packet-ring".as_ptr(), flags).into())?;
            cvt(libc::ftruncate(fd.as_raw_fd(), len as libc::off_t).into())?;
            let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
            cvt(libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals).into())?;
            fd
        };
        let mem = Shared::new(&fd, len)?;
        Ok(Self {
            spec,
            fd,
            mem,
            head: 0,
            handed: None,
            open: None,
            blocks: 0,
            lost: 0,
            waiting: None,
            look: None,
        })
    }

    /// Is there something the program has not given back? Exactly what packet_poll asks: the part handed over last.
    fn readable(&self) -> bool {
        self.handed.is_some_and(|at| self.mem.word(at).load(Ordering::Acquire) != 0)
    }

    /// Writes one frame; gives it back when there is no room.
    fn push(&mut self, r: Received, now: u64) -> Option<Received> {
        if self.spec.version == 2 { self.push_block(r, now) } else { self.push_frame(r) }
    }

    /// TPACKET_V1 and V2: frames of one size.
    fn push_frame(&mut self, r: Received) -> Option<Received> {
        let (size, block) = (self.spec.frame_size as usize, self.spec.block_size as usize);
        let in_block = block / size;
        let at = self.head / in_block * block + self.head % in_block * size;
        if self.mem.word(at).load(Ordering::Acquire) != 0 {
            return Some(r);
        }
        let Some(f) = tpacket::frame(&self.spec, &r, size) else {
            self.lost += 1;
            return None;
        };
        self.write(at, &f, &r);
        self.mem.word(at + f.status_at).store(f.status | USER, Ordering::Release);
        self.handed = Some(at + f.status_at);
        self.head = (self.head + 1) % (in_block * self.spec.block_nr as usize);
        None
    }

    /// Everything but the status.
    fn write(&self, at: usize, f: &Frame, r: &Received) {
        let kept = f.head.get(f.status_at + 4..).unwrap_or_default();
        self.mem.put(at, f.head.get(..f.status_at).unwrap_or_default());
        self.mem.put(at + f.status_at + 4, kept);
        self.mem.put(at + f.data_at, r.data.get(..f.snaplen).unwrap_or_default());
    }

    /// TPACKET_V3: frames of any size, handed over by blocks.
    fn push_block(&mut self, r: Received, now: u64) -> Option<Received> {
        let size = self.spec.block_size as usize;
        let first = BLOCK_HDR + (self.spec.private as usize).next_multiple_of(8);
        let Some(f) = tpacket::frame(&self.spec, &r, size - first) else {
            self.lost += 1;
            return None;
        };
        let need = (f.data_at + f.snaplen).next_multiple_of(8);
        if self.open.as_ref().is_some_and(|o| o.used + need > size) {
            self.retire(0);
        }
        let base = self.head * size;
        if self.open.is_none() {
            if self.mem.word(base + 8).load(Ordering::Acquire) != 0 {
                return Some(r);
            }
            self.blocks += 1;
            let [sec, nsec] = stamp(&r);
            // struct tpacket_block_desc: version (TPACKET_V3 is 2), offset of the private part; then the number and times.
            self.mem.put(base, &words([2, BLOCK_HDR as u32]));
            self.mem.put(base + 24, &self.blocks.to_ne_bytes());
            self.mem.put(base + 32, &words([sec, nsec]));
            let deadline = now + u64::from(self.spec.retire_ms) * 1_000_000;
            self.open = Some(Open { used: first, deadline, ..Open::default() });
        }
        let o = self.open.as_mut()?;
        let at = base + o.used;
        if o.frames > 0 {
            // tp_next_offset of the one before.
            self.mem.word(o.last).store((at - o.last) as u32, Ordering::Relaxed);
        }
        (o.last, o.stamp) = (at, stamp(&r));
        o.frames += 1;
        o.used += need;
        self.write(at, &f, &r);
        self.mem.word(at + f.status_at).store(f.status | USER, Ordering::Relaxed);
        None
    }

    /// Hands the open block over.
    fn retire(&mut self, why: u32) {
        let Some(o) = self.open.take() else { return };
        let first = BLOCK_HDR + (self.spec.private as usize).next_multiple_of(8);
        let base = self.head * self.spec.block_size as usize;
        self.mem.put(base + 12, &words([o.frames, first as u32, o.used as u32]));
        self.mem.put(base + 40, &words(o.stamp));
        self.mem.word(base + 8).store(USER | why, Ordering::Release);
        self.handed = Some(base + 8);
        self.head = (self.head + 1) % self.spec.block_nr as usize;
    }
}

fn words<const N: usize>(v: [u32; N]) -> Vec<u8> {
    v.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn stamp(r: &Received) -> [u32; 2] {
    [(r.stamp / 1_000_000_000) as u32, (r.stamp % 1_000_000_000) as u32]
}

/// mmap(addr, len, prot, flags, fd, offset) of a descriptor with a high number.
pub(crate) fn mmap(s: &mut Supervisor, call: &Call) -> Answer {
    let fd = call.n.int(4);
    // What is no ring of ours the kernel refuses itself.
    let Some(o) = sys::ours_at(s, call, fd) else { return Answer::Continue };
    let Some(r) = s.rings.get(&o.key) else {
        let sock = s.objects.message(o.key).map(|(sock, ..)| sock);
        let packet = sock.and_then(|k| s.kernel.sock_info(k)).is_some_and(|(f, ..)| f == libc::AF_PACKET);
        return if packet { Answer::Err(libc::EINVAL) } else { Answer::Continue };
    };
    if call.n.ptr(5) != 0 || call.n.ptr(1) != r.mem.len as u64 {
        return Answer::Err(libc::EINVAL);
    }
    let Some(listener) = s.listener(call.listener) else { return Answer::Done };
    match tracee::mmap(call.n.tid, call.n.args, || seccomp::give(listener, call.n.id, r.fd.as_fd())) {
        Ok(()) => Answer::Done,
        // The call was cancelled, or the program killed.
        Err(e) if matches!(os::errno_of(&e), libc::ENOENT | libc::ESRCH | libc::ECHILD) => Answer::Done,
        Err(e) => {
            tracing::warn!("a packet ring cannot be mapped (is the program being traced?): {e}");
            Answer::Err(libc::EPERM)
        }
    }
}

impl Supervisor {
    /// The socket's ring was asked for or given up; an errno when there is no memory.
    pub(crate) fn ring_changed(&mut self, key: Key, sock: SockId) -> Result<(), i32> {
        match self.kernel.packet_ring(sock) {
            None => {
                self.rings.remove(&key);
            }
            Some(spec) if !self.rings.contains_key(&key) => {
                let ring = Ring::new(spec).map_err(|_| libc::ENOMEM)?;
                self.rings.insert(key, ring);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Moves frames from the socket's queue into its ring and says so.
    pub(crate) fn ring_ready(&mut self, key: Key) {
        let Some((sock, ..)) = self.objects.message(key) else { return };
        let now = self.now_ns;
        let Some(ring) = self.rings.get_mut(&key) else { return };
        loop {
            let next = ring.waiting.take().map_or_else(
                || self.kernel.recvmsg(sock, RecvReq { len: SNAP, control_len: 0, flags: 0 }),
                Ok,
            );
            let Ok(r) = next else { break };
            ring.waiting = ring.push(r, now);
            if ring.waiting.is_some() {
                break;
            }
        }
        let lost = std::mem::take(&mut ring.lost);
        if lost > 0 {
            self.kernel.packet_ring_lost(sock, lost);
        }
        if ring.readable() {
            ring.look = Some((now + LOOK.0, LOOK.0));
            self.add_message_token(key);
        }
    }

    pub(crate) fn ring_readable(&self, key: Key) -> Option<bool> {
        self.rings.get(&key).map(Ring::readable)
    }

    /// When a ring wants attention, CLOCK_MONOTONIC nanoseconds.
    pub(crate) fn ring_deadline(&self) -> Option<u64> {
        let of = |r: &Ring| {
            let retire = r.open.as_ref().map(|o| o.deadline);
            retire.into_iter().chain(r.look.map(|l| l.0)).min()
        };
        self.rings.values().filter_map(of).min()
    }

    /// Hands over blocks whose time is up and takes notice of what programs gave back.
    pub(crate) fn ring_timers(&mut self) {
        if self.rings.is_empty() {
            return;
        }
        let now = self.now_ns;
        let due = |r: &Ring| {
            r.open.as_ref().is_some_and(|o| o.deadline <= now) || r.look.is_some_and(|l| l.0 <= now)
        };
        let keys: Vec<Key> = self.rings.iter().filter(|(_, r)| due(r)).map(|(k, _)| *k).collect();
        for key in keys {
            let Some(r) = self.rings.get_mut(&key) else { continue };
            if r.open.as_ref().is_some_and(|o| o.deadline <= now) {
                r.retire(BLK_TMO);
                r.look = Some((now + LOOK.0, LOOK.0));
                self.add_message_token(key);
                continue;
            }
            if r.readable() {
                let again = r.look.map_or(LOOK.0, |l| (l.1 * 2).min(LOOK.1));
                let full = r.waiting.is_some();
                r.look = Some((now + again, again));
                if full {
                    self.ring_ready(key);
                }
            } else {
                self.ring_given_back(key);
            }
        }
    }

    /// Takes notice of what programs gave back before their next call is served: without one it may be seen as late as
    /// the next look.
    pub(crate) fn rings_given_back(&mut self) {
        if self.rings.is_empty() {
            return;
        }
        let back = |r: &Ring| r.look.is_some() && !r.readable();
        let keys: Vec<Key> = self.rings.iter().filter(|(_, r)| back(r)).map(|(k, _)| *k).collect();
        for key in keys {
            self.ring_given_back(key);
        }
    }

    /// The part handed over last was given back.
    fn ring_given_back(&mut self, key: Key) {
        let Some(r) = self.rings.get_mut(&key) else { return };
        r.look = None;
        self.ring_ready(key);
        if self.ring_readable(key) == Some(false)
            && let Some(o) = Ours::at_home(self, key)
        {
            self.settle_message(&o);
            // The descriptor could not be had just now: it must not stay readable.
            if self.objects.message(key).is_some_and(|(_, m, _)| m.tokens > 0)
                && let Some(r) = self.rings.get_mut(&key)
            {
                r.look = Some((self.now_ns + LOOK.1, LOOK.1));
            }
        }
    }
}
