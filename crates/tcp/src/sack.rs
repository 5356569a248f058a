//! The retransmission queue: one record for each transmission of up to 64 KiB, with the SACK scoreboard's
//! marks (RFC 6675 §4), and the order of transmissions that RACK needs (RFC 8985).

use std::collections::VecDeque;

use ferronet_core::time::Instant;

pub(crate) const SACKED: u8 = 1;
pub(crate) const LOST: u8 = 2;
/// Retransmitted and that copy is in flight.
pub(crate) const RETRANS: u8 = 4;
/// Retransmitted at least once: no RTT samples (Karn).
pub(crate) const EVER_RETRANS: u8 = 8;
/// Ends with a FIN.
pub(crate) const FIN: u8 = 16;
/// What a program wrote at once ends here; joined segments keep it.
pub(crate) const PSH: u8 = 32;

/// One transmission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxSeg {
    pub(crate) seq: u64,
    /// Behind its last byte, or behind its FIN.
    pub(crate) end: u64,
    pub(crate) tx: Instant,
    /// Delivery rate: what had been delivered when this was sent, and when that was.
    pub(crate) delivered_at: Instant,
    pub(crate) delivered: u32,
    pub(crate) mss: u16,
    /// Wire segments.
    pub(crate) pcount: u16,
    pub(crate) flags: u8,
}

impl TxSeg {
    #[inline]
    pub(crate) fn is(&self, f: u8) -> bool {
        self.flags & f != 0
    }
    pub(crate) fn recount(&mut self) {
        let len = self.end - self.seq;
        self.pcount = len.div_ceil(u64::from(self.mss.max(1))).clamp(1, 65535) as u16;
    }
}

/// A transmission in time order. It is current for a record that still has `tx`.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: u64,
    end: u64,
    tx: Instant,
}

/// Records in sequence order without gaps from `una` to `nxt`.
#[derive(Debug, Default)]
pub(crate) struct TxQueue {
    segs: VecDeque<TxSeg>,
    sent: VecDeque<Sent>,
    /// Wire segments in `segs` (`packets_out`).
    pub(crate) packets: u32,
}

impl TxQueue {
    pub(crate) fn clear(&mut self) {
        *self = TxQueue::default();
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.segs.is_empty()
    }
    pub(crate) fn len(&self) -> usize {
        self.segs.len()
    }
    pub(crate) fn front(&self) -> Option<&TxSeg> {
        self.segs.front()
    }
    pub(crate) fn back(&self) -> Option<&TxSeg> {
        self.segs.back()
    }
    pub(crate) fn get(&self, i: usize) -> Option<&TxSeg> {
        self.segs.get(i)
    }
    pub(crate) fn get_mut(&mut self, i: usize) -> Option<&mut TxSeg> {
        self.segs.get_mut(i)
    }
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut TxSeg> {
        self.segs.iter_mut()
    }
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &TxSeg> {
        self.segs.iter()
    }

    pub(crate) fn push(&mut self, s: TxSeg) {
        self.packets += u32::from(s.pcount);
        self.note_sent(s.seq, s.end, s.tx);
        self.segs.push_back(s);
    }

    /// Appends to the time order. `tx` never goes back, so the order is that of the calls.
    pub(crate) fn note_sent(&mut self, seq: u64, end: u64, tx: Instant) {
        self.sent.push_back(Sent { seq, end, tx });
        if self.sent.len() > 2 * self.segs.len() + 64 {
            let mut old = core::mem::take(&mut self.sent);
            old.retain(|e| self.any_current(e.seq, e.end, e.tx));
            self.sent = old;
        }
    }

    /// Takes the first record off.
    pub(crate) fn pop_front(&mut self) -> Option<TxSeg> {
        let s = self.segs.pop_front()?;
        self.packets -= u32::from(s.pcount);
        if self.segs.is_empty() {
            // An idle connection keeps no memory.
            self.segs = VecDeque::new();
            self.sent = VecDeque::new();
        } else {
            while self.sent.front().is_some_and(|e| e.end <= s.end) {
                self.sent.pop_front();
            }
        }
        Some(s)
    }

    /// Index of the record that holds `seq`, or `len()`.
    pub(crate) fn find(&self, seq: u64) -> usize {
        self.segs.partition_point(|s| s.end <= seq)
    }

    /// Splits record `i` before `at`, which must be inside it. Keeps `packets` right; the caller adjusts its
    /// own counts by the returned change of the record's segments (at most one more).
    pub(crate) fn split(&mut self, i: usize, at: u64) -> i32 {
        let Some(s) = self.segs.get_mut(i) else { return 0 };
        if at <= s.seq || at >= s.end {
            return 0;
        }
        let before = i32::from(s.pcount);
        let mut second = *s;
        second.seq = at;
        s.end = at;
        s.flags &= !(FIN | PSH);
        s.recount();
        second.recount();
        let change = i32::from(s.pcount) + i32::from(second.pcount) - before;
        self.segs.insert(i + 1, second);
        self.packets = self.packets.saturating_add_signed(change);
        change
    }

    /// Joins record `i`, which was just SACKed, with SACKed neighbours: the receiver's blocks are then as many
    /// records here, and looking at them again costs nothing. Returns where it is now, and how many it swallowed.
    pub(crate) fn merge_sacked(&mut self, i: usize) -> (usize, u64) {
        let mut at = i;
        let mut merged = 0;
        if self.join(i, i + 1) {
            merged += 1;
        }
        if i > 0 && self.join(i - 1, i) {
            at = i - 1;
            merged += 1;
        }
        (at, merged)
    }

    fn join(&mut self, a: usize, b: usize) -> bool {
        let (Some(x), Some(y)) = (self.segs.get(a), self.segs.get(b)) else { return false };
        let Some(sum) = x.pcount.checked_add(y.pcount) else { return false };
        // A D-SACK may still tell of one whose retransmission is under way (tcp_shift_skb_data).
        if !x.is(SACKED) || !y.is(SACKED) || x.mss != y.mss || (x.flags | y.flags) & (RETRANS | LOST) != 0 {
            return false;
        }
        let (end, flags) = (y.end, y.flags);
        if let Some(x) = self.segs.get_mut(a) {
            x.end = end;
            x.pcount = sum;
            x.flags |= flags;
        }
        self.segs.remove(b);
        true
    }

    /// Record `i` takes over what the next one holds; both are one segment, and together not more: of `mss`, which may be
    /// more than when they were sent.
    pub(crate) fn swallow_next(&mut self, i: usize, mss: u16) {
        let Some(next) = self.segs.remove(i + 1) else { return };
        self.packets = self.packets.saturating_sub(u32::from(next.pcount));
        if let Some(s) = self.segs.get_mut(i) {
            s.end = next.end;
            s.mss = s.mss.max(mss);
            s.flags |= next.flags & (EVER_RETRANS | FIN | PSH);
        }
    }

    /// Cuts the first `n` bytes off the first record (a partial acknowledgment). Returns segments removed.
    pub(crate) fn trim_front(&mut self, una: u64) -> u32 {
        let Some(s) = self.segs.front_mut() else { return 0 };
        if una <= s.seq || una >= s.end {
            return 0;
        }
        let before = u32::from(s.pcount);
        s.seq = una;
        s.recount();
        let gone = before.saturating_sub(u32::from(s.pcount));
        self.packets -= gone;
        gone
    }

    fn any_current(&self, seq: u64, end: u64, tx: Instant) -> bool {
        let mut i = self.find(seq);
        while let Some(s) = self.segs.get(i) {
            if s.seq >= end {
                return false;
            }
            if s.tx == tx && !s.is(SACKED) && (!s.is(LOST) || s.is(RETRANS)) {
                return true;
            }
            i += 1;
        }
        false
    }

    /// When the youngest current transmission before the one at `tx` that ended at `end` was made.
    pub(crate) fn youngest_before(&self, tx: Instant, end: u64) -> Option<Instant> {
        /// Entries that are looked at; they are of the same flight, so the first will nearly always do.
        const NEAR: usize = 32;
        let n = self.sent.partition_point(|e| (e.tx, e.end) < (tx, end));
        let mut near = self.sent.range(..n).rev().take(NEAR);
        near.find(|e| self.any_current(e.seq, e.end, e.tx)).map(|e| e.tx)
    }

    /// RACK's walk: goes through transmissions from the oldest on while `lost` says that a record counts as lost
    /// (it then marks it) and forgets them. Stops at the first that is not, which bounds the work by the number
    /// of transmissions. `lost` gets the record and returns `None` to stop, or whether the record is settled.
    pub(crate) fn walk_sent(&mut self, mut lost: impl FnMut(&mut TxSeg) -> bool) {
        while let Some(&e) = self.sent.front() {
            let mut i = self.find(e.seq);
            while let Some(s) = self.segs.get_mut(i) {
                if s.seq >= e.end {
                    break;
                }
                let current = s.tx == e.tx && !s.is(SACKED) && (!s.is(LOST) || s.is(RETRANS));
                if current && !lost(s) {
                    return;
                }
                i += 1;
            }
            self.sent.pop_front();
        }
    }
}
