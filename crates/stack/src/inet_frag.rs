//! Reassembly queues of both families (`net/ipv4/inet_fragment.c`): keyed lookup, a limit on memory, a timer per
//! datagram, and runs of fragments in order.
//!
//! As in Linux since 4.18 nothing is evicted: while the memory limit is exceeded new fragments are refused, and the
//! timers give the memory back. A flood can so delay reassembly, but it cannot throw out what is nearly complete.

use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use ferronet_core::env::TimerKey;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::packet::MAX_FRAGS;
use ferronet_core::rng::Rng;
use ferronet_core::timer::TimerId;
use ferronet_core::{Csum, DropReason, Env, IfIndex, Mib, Packet, PacketQueue};
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use smallvec::SmallVec;

use crate::fib::Family;

/// Who asks for reassembly (`enum ip_defrag_users`): datagrams of different users never mix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DefragUser {
    /// Local delivery.
    LocalDeliver,
    /// Connection tracking on input.
    ConntrackIn,
    /// Connection tracking on output.
    ConntrackOut,
}

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragKey {
    /// Source.
    pub saddr: IpAddr,
    /// Destination.
    pub daddr: IpAddr,
    /// Identification (16 bits in IPv4).
    pub id: u32,
    /// Protocol; 0 in IPv6, where it is not part of the key (RFC 8200 §4.5).
    pub proto: u8,
    /// Device, where the addresses mean nothing without (link-local and multicast in IPv6).
    pub dev: IfIndex,
    /// Who asks.
    pub user: DefragUser,
}

impl Hash for FragKey {
    fn hash<H: Hasher>(&self, h: &mut H) {
        for a in [self.saddr, self.daddr] {
            match a {
                IpAddr::V4(a) => h.write_u32(a.to_bits()),
                IpAddr::V6(a) => h.write_u128(a.to_bits()),
            }
        }
        h.write_u64(u64::from(self.id) << 32 | u64::from(self.dev.0) << 8 | u64::from(self.proto));
        self.user.hash(h);
    }
}

/// One fragment, as its header describes it.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First byte within the datagram's payload.
    pub offset: u32,
    /// Behind its last byte.
    pub end: u32,
    /// More fragments follow.
    pub more: bool,
    /// ECN field, 0..=3.
    pub ecn: u8,
    /// Bytes with the network header.
    pub size: u32,
    /// Do not fragment was set.
    pub df: bool,
}

/// The tunables.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory of all queues of the family.
    pub high_thresh: usize,
    /// Life of a queue.
    pub timeout: Duration,
    /// Fragments of the same source that may come between two of one datagram; 0 for any number.
    pub max_dist: u32,
}

/// A complete datagram.
#[derive(Debug)]
pub struct Done {
    /// The first fragment at its payload, with the payload of all others behind it.
    pub packet: Packet,
    /// Bytes of the whole payload.
    pub len: u32,
    /// The ECN field of the whole, to be added to the first fragment's.
    pub ecn: u8,
    /// Largest fragment, with its header.
    pub max_size: u32,
    /// Largest fragment that had DF set.
    pub max_df_size: u32,
}

/// A queue whose time is up.
#[derive(Debug)]
pub struct Expired {
    /// Family.
    pub family: Family,
    /// What its fragments had in common.
    pub key: FragKey,
    /// Device of the last fragment.
    pub dev: IfIndex,
    /// The first fragment at its payload, when it had arrived: the sender is told (RFC 792, RFC 4443 §3.3).
    pub first: Option<Packet>,
}

new_key_type! {
    /// Names a queue; stale ids are harmless.
    struct FragId;
}

/// Fragments without a gap.
#[derive(Debug)]
struct Run {
    end: u32,
    packets: PacketQueue,
}

#[derive(Debug)]
struct FragQueue {
    key: FragKey,
    runs: BTreeMap<u32, Run>,
    /// End of the last byte seen; the final length once the last fragment came.
    len: u32,
    /// Bytes here.
    meat: u32,
    last_in: bool,
    /// One bit per ECN code point seen.
    ecn_seen: u8,
    max_size: u32,
    max_df_size: u32,
    /// The source's fragment count at our last fragment.
    rid: u32,
    memory: usize,
    dev: IfIndex,
    timer: TimerId,
}

/// Fragments of one source.
#[derive(Debug, Default)]
struct Peer {
    rid: u32,
    queues: u32,
}

/// The queues of one namespace.
#[derive(Debug)]
pub struct FragTable {
    map: KeyedMap<FragKey, FragId>,
    queues: SlotMap<FragId, FragQueue>,
    peers: KeyedMap<IpAddr, Peer>,
    memory: [usize; 2],
    counts: [usize; 2],
}

/// Why a fragment does not fit into its queue.
enum Misfit {
    /// All its bytes are there already: only the copy goes.
    Duplicate,
    /// Some of its bytes are there: the whole datagram goes (RFC 5722, and Linux for IPv4 too).
    Overlap,
}

/// Memory of a queue itself.
const QUEUE_SIZE: usize = 256;

fn fails(f: Family) -> Mib {
    match f {
        Family::V4 => Mib::IpReasmFails,
        Family::V6 => Mib::Ip6ReasmFails,
    }
}

/// RFC 3168 §5.3: `CE` in one makes the whole `CE`; a mix of capable and not capable is refused.
/// `seen` has one bit per code point. `ip_frag_ecn_table`.
fn combine_ecn(seen: u8) -> Option<u8> {
    const NOT_ECT: u8 = 1;
    const CE: u8 = 1 << 3;
    if seen & NOT_ECT != 0 && seen != NOT_ECT {
        return None;
    }
    Some(if seen & CE != 0 && seen != CE { 3 } else { 0 })
}

impl FragTable {
    /// An empty table with its own hash keys.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        FragTable {
            map: KeyedMap::with_hasher(KeyedState::new(rng)),
            queues: SlotMap::with_key(),
            peers: KeyedMap::with_hasher(KeyedState::new(rng)),
            memory: [0; 2],
            counts: [0; 2],
        }
    }

    /// Queues of a family (`FRAG: inuse` of `/proc/net/sockstat`).
    #[must_use]
    pub fn count(&self, f: Family) -> usize {
        self.counts[f as usize]
    }
    /// Bytes of memory of a family (`FRAG: memory`).
    #[must_use]
    pub fn memory(&self, f: Family) -> usize {
        self.memory[f as usize]
    }

    fn find(&mut self, env: &mut Env, limits: &Limits, key: FragKey) -> Option<FragId> {
        let f = Family::of(key.saddr);
        if limits.high_thresh == 0 || self.memory[f as usize] > limits.high_thresh {
            return None;
        }
        if let Some(&id) = self.map.get(&key) {
            return Some(id);
        }
        let peer = self.peers.entry(key.saddr).or_default();
        peer.queues += 1;
        let rid = peer.rid;
        let id = self.queues.insert(FragQueue {
            key,
            runs: BTreeMap::new(),
            len: 0,
            meat: 0,
            last_in: false,
            ecn_seen: 0,
            max_size: 0,
            max_df_size: 0,
            rid,
            memory: QUEUE_SIZE,
            dev: IfIndex::NONE,
            timer: TimerId::NONE,
        });
        let q = &mut self.queues[id];
        q.timer = env.timers.arm(env.now + limits.timeout, TimerKey::Frag(id.data().as_ffi()));
        self.map.insert(key, id);
        self.memory[f as usize] += QUEUE_SIZE;
        self.counts[f as usize] += 1;
        Some(id)
    }

    /// Takes a queue out of the table (`inet_frag_kill`).
    fn kill(&mut self, env: &mut Env, id: FragId) -> Option<FragQueue> {
        let mut q = self.queues.remove(id)?;
        env.timers.cancel(&mut q.timer);
        self.map.remove(&q.key);
        let f = Family::of(q.key.saddr) as usize;
        self.memory[f] -= q.memory;
        self.counts[f] -= 1;
        if let Some(p) = self.peers.get_mut(&q.key.saddr) {
            p.queues -= 1;
            if p.queues == 0 {
                self.peers.remove(&q.key.saddr);
            }
        }
        Some(q)
    }

    /// Gives a queue up with all its fragments.
    fn discard(&mut self, env: &mut Env, id: FragId) {
        if let Some(mut q) = self.kill(env, id) {
            env.mib.inc(fails(Family::of(q.key.saddr)));
            q.purge(env, DropReason::FragEvicted);
        }
    }

    /// One fragment, at its payload (`ip_frag_queue`, `ip6_frag_queue`). Whatever cannot be used ends here with its
    /// counters; the whole comes back when this fragment completes it.
    pub fn queue(
        &mut self,
        env: &mut Env,
        limits: &Limits,
        key: FragKey,
        piece: Piece,
        mut p: Packet,
    ) -> Option<Done> {
        let f = Family::of(key.saddr);
        let Some(id) = self.find(env, limits, key) else {
            env.mib.inc(fails(f));
            env.drop(p, DropReason::FragMemory);
            return None;
        };
        self.too_far(env, limits, id);
        let q = &mut self.queues[id];
        if let Err(r) = q.admit(&piece) {
            env.drop(p, r);
            self.discard(env, id);
            return None;
        }
        p.trim((piece.end - piece.offset) as usize);
        let (size, dev) = (p.truesize(), p.meta().dev);
        match q.insert(&piece, p) {
            Ok(()) => {}
            Err((Misfit::Duplicate, p)) => {
                env.drop(p, DropReason::FragDuplicate);
                return None;
            }
            Err((Misfit::Overlap, p)) => {
                if f == Family::V4 {
                    env.mib.inc(Mib::IpExtReasmOverlaps);
                }
                env.drop(p, DropReason::FragOverlap);
                self.discard(env, id);
                return None;
            }
        }
        q.dev = dev;
        q.meat += piece.end - piece.offset;
        q.ecn_seen |= 1 << (piece.ecn & 3);
        q.max_size = q.max_size.max(piece.size);
        if piece.df {
            q.max_df_size = q.max_df_size.max(piece.size);
        }
        q.memory += size;
        self.memory[f as usize] += size;
        if !(q.last_in && q.meat == q.len && q.runs.contains_key(&0)) {
            return None;
        }
        let mut q = self.kill(env, id)?;
        match (combine_ecn(q.ecn_seen), q.assemble(env)) {
            (Some(ecn), Some(packet)) => {
                Some(Done { packet, len: q.len, ecn, max_size: q.max_size, max_df_size: q.max_df_size })
            }
            (_, packet) => {
                env.mib.inc(fails(f));
                if let Some(p) = packet {
                    env.drop(p, DropReason::FragInvalid);
                }
                None
            }
        }
    }

    /// `ip_frag_too_far`: when more than `max_dist` other fragments of the source came since the last of this
    /// datagram, its identification was used again and what is here belongs to another datagram.
    fn too_far(&mut self, env: &mut Env, limits: &Limits, id: FragId) {
        let q = &mut self.queues[id];
        let Some(peer) = self.peers.get_mut(&q.key.saddr) else { return };
        peer.rid = peer.rid.wrapping_add(1);
        let distance = peer.rid.wrapping_sub(q.rid);
        q.rid = peer.rid;
        if limits.max_dist == 0 || distance <= limits.max_dist || q.runs.is_empty() {
            return;
        }
        let f = Family::of(q.key.saddr);
        env.mib.inc(fails(f));
        q.purge(env, DropReason::FragEvicted);
        self.memory[f as usize] -= q.memory - QUEUE_SIZE;
        (q.len, q.meat, q.last_in, q.ecn_seen) = (0, 0, false, 0);
        (q.max_size, q.max_df_size, q.memory) = (0, 0, QUEUE_SIZE);
        env.timers.rearm(&mut q.timer, env.now + limits.timeout, TimerKey::Frag(id.data().as_ffi()));
    }

    /// A queue's timer fired; counts, and hands out what the sender must be told about.
    pub fn expire(&mut self, env: &mut Env, id: u64) -> Option<Expired> {
        let mut q = self.kill(env, FragId::from(KeyData::from_ffi(id)))?;
        let f = Family::of(q.key.saddr);
        env.mib.inc(fails(f));
        env.mib.inc(match f {
            Family::V4 => Mib::IpReasmTimeout,
            Family::V6 => Mib::Ip6ReasmTimeout,
        });
        let first = q.runs.get_mut(&0).and_then(|r| r.packets.pop());
        q.purge(env, DropReason::FragTimeout);
        Some(Expired { family: f, key: q.key, dev: q.dev, first })
    }
}

impl FragQueue {
    /// Does the fragment agree with what is known about the length?
    fn admit(&mut self, piece: &Piece) -> Result<(), DropReason> {
        if piece.more {
            // Bytes beyond the end.
            if piece.end > self.len && self.last_in {
                return Err(DropReason::FragInvalid);
            }
            self.len = self.len.max(piece.end);
        } else {
            // A last fragment before other bytes, or two different ends.
            if piece.end < self.len || (self.last_in && piece.end != self.len) {
                return Err(DropReason::FragInvalid);
            }
            self.last_in = true;
            self.len = piece.end;
        }
        if piece.end <= piece.offset { Err(DropReason::FragInvalid) } else { Ok(()) }
    }

    /// `inet_frag_queue_insert`: in order is the common case and appends to the last run.
    fn insert(&mut self, piece: &Piece, p: Packet) -> Result<(), (Misfit, Packet)> {
        let (start, end) = (piece.offset, piece.end);
        if let Some(mut last) = self.runs.last_entry()
            && last.get().end == start
        {
            last.get_mut().end = end;
            last.get_mut().packets.push(p);
            return Ok(());
        }
        if let Some((_, before)) = self.runs.range(..=start).next_back()
            && before.end > start
        {
            let m = if end <= before.end { Misfit::Duplicate } else { Misfit::Overlap };
            return Err((m, p));
        }
        if self.runs.range(start..).next().is_some_and(|(&s, _)| s < end) {
            return Err((Misfit::Overlap, p));
        }
        let mut packets = PacketQueue::new();
        packets.push(p);
        self.runs.insert(start, Run { end, packets });
        Ok(())
    }

    fn purge(&mut self, env: &mut Env, r: DropReason) {
        for (_, mut run) in core::mem::take(&mut self.runs) {
            while let Some(p) = run.packets.pop() {
                env.drop(p, r);
            }
        }
    }

    /// The first fragment with the payload of the others behind it. Pieces are shared; only when there are more than a
    /// packet may have are they copied together.
    fn assemble(&mut self, env: &mut Env) -> Option<Packet> {
        let mut all = core::mem::take(&mut self.runs).into_values();
        let mut run = all.next()?;
        let mut first = run.packets.pop()?;
        let mut pieces: SmallVec<[Bytes; 2]> = SmallVec::new();
        let linear = first.data().len();
        first.take_payload(linear, &mut pieces);
        loop {
            while let Some(mut p) = run.packets.pop() {
                p.take_payload(0, &mut pieces);
                env.consume(p);
            }
            match all.next() {
                Some(r) => run = r,
                None => break,
            }
        }
        if pieces.len() > MAX_FRAGS {
            let total = pieces.iter().map(Bytes::len).sum();
            let mut one = BytesMut::with_capacity(total);
            for b in &pieces {
                one.extend_from_slice(b);
            }
            first.push_frag(one.freeze());
        } else {
            for b in pieces {
                first.push_frag(b);
            }
        }
        first.meta_mut().csum = Csum::None;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_combines_as_in_the_kernels_table() {
        // Bits: not-ECT 1, ECT(1) 2, ECT(0) 4, CE 8.
        assert_eq!(combine_ecn(1), Some(0));
        assert_eq!(combine_ecn(2), Some(0));
        assert_eq!(combine_ecn(4), Some(0));
        assert_eq!(combine_ecn(6), Some(0));
        assert_eq!(combine_ecn(8), Some(0), "all CE: the first has it already");
        assert_eq!(combine_ecn(12), Some(3));
        assert_eq!(combine_ecn(10), Some(3));
        assert_eq!(combine_ecn(9), None);
        assert_eq!(combine_ecn(5), None);
        assert_eq!(combine_ecn(3), None);
    }
}
