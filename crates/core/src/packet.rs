//! `Packet`: a pooled box with a linear head (headers, small payloads) and shared read-only pieces.
//!
//! The split is `sk_buff`'s: headers are always linear; payload moves through veth and into the receive
//! queue by reference. A packet is handed on or ends in [`crate::Env::drop`] / [`crate::Env::consume`];
//! a debug build panics when one is lost silently.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::ids::IfIndex;
use crate::time::Instant;

mod queue;
pub use queue::PacketQueue;

/// Bytes reserved in front for headers that lower layers push.
pub const HEADROOM: usize = 128;
/// Bytes of the linear head behind the headroom.
pub const LINEAR: usize = 512;
const HEAD: usize = HEADROOM + LINEAR;
/// Most pieces a packet may have (`MAX_SKB_FRAGS`).
pub const MAX_FRAGS: usize = 17;
/// Largest packet, with headers (`GSO_LEGACY_MAX_SIZE`, plus a link header).
pub const MAX_LEN: usize = 65536 + 64;

/// What is known about the L4 checksum (`skb->ip_summed`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Csum {
    /// Nothing: software must check.
    #[default]
    None,
    /// Checked, or cannot have been damaged (came from a local sender).
    Unnecessary,
    /// The folded one's complement sum of everything from the network header on.
    Complete(u16),
    /// To be filled in at `start + offset` over everything from `start` (offsets from the L4 header). The
    /// field holds the pseudo-header sum.
    Partial,
}

/// How a large packet is cut (`SKB_GSO_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GsoKind {
    /// Not a GSO packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of equal size (`UDP_SEGMENT`).
    UdpL4,
}

/// Segmentation data (`skb_shinfo`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gso {
    /// Payload bytes per segment; 0 for an ordinary packet.
    pub size: u16,
    /// Number of segments.
    pub segs: u16,
    /// Protocol that cuts.
    pub kind: GsoKind,
}

/// `skb->pkt_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum PktType {
    /// To us.
    #[default]
    Host = 0,
    /// To all.
    Broadcast = 1,
    /// To a group.
    Multicast = 2,
    /// To someone else.
    OtherHost = 3,
    /// From us.
    Outgoing = 4,
    /// Looped back.
    Loopback = 5,
}

/// The fields of an `sk_buff`, and no more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    /// Device the packet came in on (`skb_iif`), or none for local output.
    pub iif: IfIndex,
    /// Device it is on (`skb->dev`).
    pub dev: IfIndex,
    /// `SO_MARK` / nft mark.
    pub mark: u32,
    /// `SO_PRIORITY`.
    pub priority: u32,
    /// Flow hash, 0 when not computed.
    pub hash: u32,
    /// Names the packet's way in the trace; 0 when not traced.
    pub trace: u32,
    /// EtherType, host order.
    pub protocol: u16,
    /// VLAN tag control information; 0 for none.
    pub vlan: u16,
    /// L2, L3 and L4 header positions in the head (absolute, so they survive push and pull).
    pub mac: u16,
    /// Network header.
    pub network: u16,
    /// Transport header.
    pub transport: u16,
    /// Position of the checksum field behind the transport header, for [`Csum::Partial`].
    pub csum_offset: u16,
    /// Checksum state.
    pub csum: Csum,
    /// Segmentation.
    pub gso: Gso,
    /// Class of the link destination.
    pub pkt_type: PktType,
    /// Fragment locally even though DF is set (`skb->ignore_df`); the path MTU rules of the sender decide.
    pub ignore_df: bool,
    /// Passed `ip_forward` (IPSKB_FORWARDED).
    pub forwarded: bool,
    /// In the backlog: a locally made packet that waits for `ip_local_out` (ICMP errors, replies).
    pub local_out: bool,
    /// IPv6: largest fragment seen in reassembly; IPv4 likewise (`frag_max_size`).
    pub frag_max_size: u16,
    /// Arrival time, or earliest departure on output.
    pub tstamp: Instant,
}

/// In this order: what every stage touches shares two cache lines, and the headers of a frame from a device, which
/// begins at [`HEADROOM`], a third.
#[derive(Debug)]
#[repr(C, align(64))]
struct Inner {
    meta: Meta,
    /// Ends of the linear part in the head. Words, though 16 bits would do: the processor forwards a store to a load
    /// of the same width.
    data: u32,
    tail: u32,
    frag_len: u32,
    /// Somebody owns it: dropping it now is a bug. Only debug builds ask.
    live: bool,
    frags: SmallVec<[Bytes; 2]>,
    head: Head,
}

#[derive(Debug)]
#[repr(align(64))]
struct Head([u8; HEAD]);

impl core::ops::Deref for Head {
    type Target = [u8; HEAD];
    #[inline]
    fn deref(&self) -> &[u8; HEAD] {
        &self.0
    }
}
impl core::ops::DerefMut for Head {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8; HEAD] {
        &mut self.0
    }
}

const _: () = assert!(size_of::<Meta>() <= 64 && HEADROOM.is_multiple_of(64));

/// An owned packet. See the module text.
#[derive(Debug)]
pub struct Packet(Box<Inner>);

/// Recycles packet boxes. One per namespace; `World` keeps them balanced across veth.
#[derive(Debug, Default)]
pub struct Pool {
    free: Vec<Packet>,
    /// Boxes allocated from the system so far.
    pub allocated: u64,
}

/// Boxes a pool keeps at most.
const POOL_KEEP: usize = 4096;

impl Pool {
    /// An empty packet with [`HEADROOM`] in front.
    #[inline]
    pub fn get(&mut self) -> Packet {
        let mut p = self.free.pop().unwrap_or_else(|| self.allocate());
        p.0.live = true;
        p
    }

    #[cold]
    fn allocate(&mut self) -> Packet {
        self.allocated += 1;
        Packet(Box::new(Inner {
            meta: Meta::default(),
            data: HEADROOM as u32,
            tail: HEADROOM as u32,
            frag_len: 0,
            live: true,
            frags: SmallVec::new(),
            head: Head([0; HEAD]),
        }))
    }

    /// A packet that holds `bytes`: linear when they fit, otherwise headers linear and the rest one piece.
    pub fn from_slice(&mut self, bytes: &[u8]) -> Packet {
        let mut p = self.get();
        let (linear, rest) = bytes.split_at(if bytes.len() <= LINEAR { bytes.len() } else { 128 });
        let i = &mut *p.0;
        i.head[HEADROOM..HEADROOM + linear.len()].copy_from_slice(linear);
        i.tail = (HEADROOM + linear.len()) as u32;
        if !rest.is_empty() {
            p.push_frag(Bytes::copy_from_slice(rest));
        }
        p
    }

    /// Takes a box back. Only [`crate::Env`] ends packets; this is its mechanism.
    #[inline]
    pub fn put(&mut self, mut p: Packet) {
        if self.free.len() >= POOL_KEEP {
            p.release();
            return;
        }
        let i = &mut *p.0;
        i.live = false;
        // No piece is empty, so their bytes tell whether there are any.
        if i.frag_len > 0 {
            i.frags.clear();
            i.frag_len = 0;
        }
        i.meta = Meta::default();
        i.data = HEADROOM as u32;
        i.tail = HEADROOM as u32;
        self.free.push(p);
    }

    /// Gives an empty box to `other` when it has fewer: called for each packet that crossed from `other`'s
    /// owner to ours, so that boxes do not gather at the receiving end.
    pub fn rebalance(&mut self, other: &mut Pool) {
        if self.free.len() > other.free.len()
            && let Some(p) = self.free.pop()
        {
            other.free.push(p);
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        debug_assert!(
            !self.0.live || std::thread::panicking(),
            "a packet was lost silently: it must end in env.drop or env.consume"
        );
    }
}

#[inline]
fn inner(p: &Packet) -> &Inner {
    &p.0
}
#[inline]
fn inner_mut(p: &mut Packet) -> &mut Inner {
    &mut p.0
}

impl Packet {
    /// Ends the packet without a pool: for owners that go away with their queues.
    pub fn release(mut self) {
        self.0.live = false;
    }

    /// The metadata.
    #[inline]
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &inner(self).meta
    }
    /// The metadata, to change.
    #[inline]
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut inner_mut(self).meta
    }
    /// Bytes in all: linear part and pieces (`skb->len`).
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        let i = inner(self);
        (i.tail - i.data) as usize + i.frag_len as usize
    }
    /// `true` when it holds no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The linear bytes from the current header on.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        let i = inner(self);
        &i.head[i.data as usize..i.tail as usize]
    }
    /// The linear bytes, to change.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let i = inner_mut(self);
        &mut i.head[i.data as usize..i.tail as usize]
    }
    /// The pieces behind the linear part.
    #[inline]
    #[must_use]
    pub fn frags(&self) -> &[Bytes] {
        &inner(self).frags
    }
    /// Position of the current header in the head (what the offsets in [`Meta`] count in).
    #[inline]
    #[must_use]
    pub fn pos(&self) -> u16 {
        inner(self).data as u16
    }
    /// Linear bytes from the absolute position `pos` (an offset of [`Meta`]).
    #[inline]
    #[must_use]
    pub fn at(&self, pos: u16) -> &[u8] {
        let i = inner(self);
        i.head.get(usize::from(pos)..i.tail as usize).unwrap_or(&[])
    }
    /// Likewise, to change.
    #[inline]
    pub fn at_mut(&mut self, pos: u16) -> &mut [u8] {
        let i = inner_mut(self);
        i.head.get_mut(usize::from(pos)..i.tail as usize).unwrap_or(&mut [])
    }
    /// Room in front.
    #[must_use]
    pub fn headroom(&self) -> usize {
        inner(self).data as usize
    }
    /// Room behind the linear part.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        HEAD - inner(self).tail as usize
    }

    /// Grows at the front by `n` bytes and returns them (`skb_push`). Headers fit the headroom by
    /// construction.
    ///
    /// # Panics
    /// When the headroom is used up, which is a bug of the caller.
    #[inline(always)]
    pub fn push(&mut self, n: usize) -> &mut [u8] {
        let i = inner_mut(self);
        let new = (i.data as usize).checked_sub(n);
        debug_assert!(new.is_some(), "headroom used up");
        i.data = new.unwrap_or(0) as u32;
        let d = i.data as usize;
        &mut i.head[d..d + n]
    }

    /// Grows the linear part at the end by `n` bytes (zeroed) and returns them (`skb_put`).
    ///
    /// # Panics
    /// When `n` exceeds [`Packet::tailroom`], which is a bug of the caller.
    #[inline]
    pub fn put(&mut self, n: usize) -> &mut [u8] {
        let i = inner_mut(self);
        let t = i.tail as usize;
        let room = &mut i.head[t..t + n];
        room.fill(0);
        i.tail += n as u32;
        room
    }

    /// Removes `n` linear bytes in front (`skb_pull`); `false` when there are not as many.
    #[inline]
    #[must_use]
    pub fn pull(&mut self, n: usize) -> bool {
        let i = inner_mut(self);
        if n > (i.tail - i.data) as usize {
            return false;
        }
        i.data += n as u32;
        true
    }

    /// Makes at least `n` bytes linear (`pskb_may_pull`); `false` when the packet is shorter or the head full.
    #[inline]
    #[must_use]
    pub fn may_pull(&mut self, n: usize) -> bool {
        let i = inner_mut(self);
        let have = (i.tail - i.data) as usize;
        if n <= have { true } else { self.pull_tail(n - have) }
    }

    #[cold]
    fn pull_tail(&mut self, mut need: usize) -> bool {
        let i = inner_mut(self);
        if need > i.frag_len as usize || i.tail as usize + need > HEAD {
            return false;
        }
        while need > 0 {
            let f = &mut i.frags[0];
            let n = need.min(f.len());
            let t = i.tail as usize;
            i.head[t..t + n].copy_from_slice(&f[..n]);
            bytes::Buf::advance(f, n);
            let gone = f.is_empty();
            i.tail += n as u32;
            i.frag_len -= n as u32;
            need -= n;
            if gone {
                i.frags.remove(0);
            }
        }
        true
    }

    /// Shortens to `len` bytes (`pskb_trim`): link padding, for instance.
    #[inline]
    pub fn trim(&mut self, len: usize) {
        let i = inner_mut(self);
        let linear = (i.tail - i.data) as usize;
        if len <= linear {
            i.tail = i.data + len as u32;
            if i.frag_len > 0 {
                i.frags.clear();
                i.frag_len = 0;
            }
            return;
        }
        let keep = len - linear;
        if keep < i.frag_len as usize {
            self.trim_frags(keep);
        }
    }

    #[cold]
    fn trim_frags(&mut self, mut keep: usize) {
        let i = inner_mut(self);
        i.frag_len = keep as u32;
        i.frags.retain(|f| {
            let n = keep.min(f.len());
            f.truncate(n);
            keep -= n;
            n > 0
        });
    }

    /// Appends a piece without copying. Empty pieces are ignored.
    pub fn push_frag(&mut self, b: Bytes) {
        if !b.is_empty() {
            let i = inner_mut(self);
            i.frag_len += b.len() as u32;
            i.frags.push(b);
        }
    }

    /// Copies `out.len()` bytes from `offset` behind the current header; `false` when out of range.
    #[must_use]
    pub fn copy_bits(&self, offset: usize, out: &mut [u8]) -> bool {
        if offset + out.len() > self.len() {
            return false;
        }
        let (mut skip, mut done) = (offset, 0);
        self.for_each_slice(&mut |s| {
            if skip >= s.len() {
                skip -= s.len();
                return;
            }
            let n = (s.len() - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&s[skip..skip + n]);
            done += n;
            skip = 0;
        });
        true
    }

    /// Calls `f` with each contiguous run from the current header on.
    pub fn for_each_slice(&self, f: &mut dyn FnMut(&[u8])) {
        f(self.data());
        for b in self.frags() {
            f(b);
        }
    }

    /// All bytes from the current header on, copied.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = Vec::with_capacity(self.len());
        self.for_each_slice(&mut |s| v.extend_from_slice(s));
        v
    }

    /// Takes the payload behind the first `header` bytes as pieces: the linear rest is copied (it is small),
    /// the pieces move. The packet keeps its headers.
    pub fn take_payload(&mut self, header: usize, out: &mut SmallVec<[Bytes; 2]>) {
        let i = inner_mut(self);
        let from = i.data as usize + header;
        let tail = i.tail as usize;
        if from < tail {
            out.push(Bytes::copy_from_slice(&i.head[from..tail]));
            i.tail = from as u32;
        }
        out.extend(i.frags.drain(..));
        i.frag_len = 0;
    }

    /// A second packet with the same bytes; pieces are shared, the head is copied (`skb_copy`).
    #[must_use]
    pub fn copy(&self, pool: &mut Pool) -> Packet {
        let mut p = pool.get();
        let (from, to) = (inner(self), inner_mut(&mut p));
        to.meta = from.meta;
        to.data = from.data;
        to.tail = from.tail;
        to.frag_len = from.frag_len;
        to.frags.extend(from.frags.iter().cloned());
        // From the link header, when there is one in front of the current header.
        let start = if from.meta.mac == 0 { from.data } else { from.data.min(from.meta.mac.into()) };
        let from_range = start as usize..from.tail as usize;
        to.head[from_range.clone()].copy_from_slice(&from.head[from_range]);
        p
    }

    /// Bytes of memory the packet accounts for (`skb->truesize`): payload plus the box.
    #[must_use]
    pub fn truesize(&self) -> usize {
        core::mem::size_of::<Inner>() + inner(self).frag_len as usize
    }

    // Header positions -------------------------------------------------------------------------------

    /// Marks the current position as the network header.
    #[inline]
    pub fn set_network_header(&mut self) {
        let i = inner_mut(self);
        i.meta.network = i.data as u16;
    }
    /// Marks the current position as the link header.
    #[inline]
    pub fn set_mac_header(&mut self) {
        let i = inner_mut(self);
        i.meta.mac = i.data as u16;
    }
    /// Marks `offset` bytes behind the current position as the transport header.
    #[inline]
    pub fn set_transport_header(&mut self, offset: usize) {
        let i = inner_mut(self);
        i.meta.transport = i.data as u16 + offset as u16;
    }
    /// Bytes from the network header on.
    #[inline]
    #[must_use]
    pub fn network(&self) -> &[u8] {
        self.at(inner(self).meta.network)
    }
    /// Likewise, to change.
    #[inline]
    pub fn network_mut(&mut self) -> &mut [u8] {
        let n = inner(self).meta.network;
        self.at_mut(n)
    }
    /// Bytes from the transport header on.
    #[inline]
    #[must_use]
    pub fn transport(&self) -> &[u8] {
        self.at(inner(self).meta.transport)
    }
    /// Likewise, to change.
    #[inline]
    pub fn transport_mut(&mut self) -> &mut [u8] {
        let n = inner(self).meta.transport;
        self.at_mut(n)
    }
    /// Moves the current position to an absolute one (back to the network header, say). `false` when it lies
    /// outside the linear part.
    #[must_use]
    pub fn seek(&mut self, pos: u16) -> bool {
        let i = inner_mut(self);
        if u32::from(pos) > i.tail {
            return false;
        }
        i.data = pos.into();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_push_trim_and_copy_bits() {
        let mut pool = Pool::default();
        let bytes: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
        let mut p = pool.from_slice(&bytes);
        assert_eq!((p.len(), p.data().len()), (2000, 128));
        assert!(p.may_pull(300));
        assert_eq!(p.data(), &bytes[..300]);
        assert!(!p.may_pull(600), "the head is full");
        assert!(p.pull(14));
        assert_eq!(p.len(), 1986);
        let mut out = [0; 500];
        assert!(p.copy_bits(200, &mut out));
        assert_eq!(out[..], bytes[214..714]);
        p.trim(1000);
        assert_eq!(p.to_vec(), &bytes[14..1014]);
        let q = p.copy(&mut pool);
        assert_eq!(q.to_vec(), p.to_vec());
        p.push(2).copy_from_slice(&[1, 2]);
        assert_eq!(p.len(), 1002);
        pool.put(p);
        pool.put(q);
        assert_eq!(pool.allocated, 2);
        let p = pool.get();
        assert!(p.is_empty());
        pool.put(p);
    }

    #[test]
    #[should_panic(expected = "lost silently")]
    fn a_lost_packet_panics() {
        let _ = Pool::default().get();
    }
}
