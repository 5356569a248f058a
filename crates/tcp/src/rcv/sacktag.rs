//! SACK blocks of an ACK (RFC 2018 §4, RFC 2883 §4): they mark records of the retransmission queue as held by the
//! receiver, tell of duplicates, and of reordering (`tcp_sacktag_write_queue`).

use ferronet_core::Mib;
use ferronet_wire::tcp::SackBlock;

use super::ack::{AckRound, DATA_SACKED, DSACK_TLP, DSACKING, ORIG_SACK_ACKED};
use crate::recovery::CaState;
use crate::sack::{EVER_RETRANS, LOST, RETRANS, SACKED};
use crate::segment::Cx;
use crate::state::{Tcb, unwrap_near};

impl Tcb {
    pub(crate) fn check_sack_reordering(&mut self, cx: &mut Cx<'_>, low: u64, ts: bool) {
        let fack = if self.rec.sacked_out > 0 { self.rec.high_sacked } else { self.snd.una };
        if fack <= low {
            return;
        }
        let mss = u64::from(self.snd.mss.max(1));
        let metric = (fack - low).div_ceil(mss);
        if metric > u64::from(self.rec.reordering) {
            self.rec.reordering = metric.min(u64::from(cx.cfg.max_reordering)) as u32;
        }
        self.stats.reord_seen += 1;
        cx.inc(if ts { Mib::TcpExtTCPTSReorder } else { Mib::TcpExtTCPSACKReorder });
    }

    /// Reads the SACK blocks (RFC 2018 §4, RFC 2883 §4).
    pub(super) fn sacktag(&mut self, cx: &mut Cx<'_>, blocks: &[SackBlock], ack: u64, a: &mut AckRound) {
        let una = self.snd.una;
        if self.rec.sacked_out == 0 {
            self.rec.high_sacked = 0;
            self.rec.sack_cache = Default::default();
        }
        let mut list = [(0u64, 0u64); 4];
        let mut n = 0;
        for b in blocks {
            list[n] = (unwrap_near(una, b.start), unwrap_near(una, b.end));
            n += 1;
        }
        let dup = self.check_dsack(cx, &list[..n], ack, a);
        let first = usize::from(dup);
        // Blocks that were there already need no second look, which keeps the work to what is new.
        for &(start, end) in &list[first.min(n)..n] {
            if start >= end || end > self.snd.nxt || start < una.min(ack) {
                cx.inc(Mib::TcpExtTCPSACKDiscard);
                continue;
            }
            if end <= una {
                // An ACK that was overtaken.
                continue;
            }
            let start = start.max(una);
            match self.rec.sack_cache.iter().find(|c| c.0 <= start && c.1 > start && c.1 > c.0) {
                Some(&(_, known)) if known >= end => {}
                Some(&(_, known)) => self.tag_range(cx, known, end, a),
                None => self.tag_range(cx, start, end, a),
            }
        }
        if dup && n > 0 && list[0].0 >= ack {
            self.tag_dup(list[0], a);
        }
        let mut cache = [(0, 0); 4];
        for (to, from) in
            cache.iter_mut().zip(list[first.min(n)..n].iter().filter(|b| b.0 < b.1 && b.1 <= self.snd.nxt))
        {
            *to = *from;
        }
        self.rec.sack_cache = cache;
        if self.rec.state != CaState::Loss || self.rec.undo_marker != 0 {
            self.check_sack_reordering(cx, a.reord, false);
        }
    }

    /// RFC 2883 §4: the first block reports a duplicate when it is below the ACK or inside the second.
    fn check_dsack(&mut self, cx: &mut Cx<'_>, l: &[(u64, u64)], ack: u64, a: &mut AckRound) -> bool {
        let Some(&(start, end)) = l.first() else { return false };
        if start < ack {
            cx.inc(Mib::TcpExtTCPDSACKRecv);
        } else if l.get(1).is_some_and(|s| end <= s.1 && start >= s.0) {
            cx.inc(Mib::TcpExtTCPDSACKOfoRecv);
        } else {
            return false;
        }
        let undo = self.rec.undo_marker;
        if end <= start || end > self.snd.nxt || start < self.snd.iss {
            cx.inc(Mib::TcpExtTCPDSACKIgnoredDubious);
            a.flag |= DSACKING;
            return true;
        }
        let segs = ((end - start).div_ceil(u64::from(self.snd.mss.max(1)))) as u32;
        if segs == 1 && self.rec.tlp_high_seq == end {
            a.flag |= DSACK_TLP;
        }
        // No receiver has room for so much: a lie, which must not count (tcp_dsack_seen, 6.18).
        let lie = end - start > u64::from(self.snd.max_wnd);
        if !lie {
            self.stats.dsack_dups = self.stats.dsack_dups.saturating_add(segs);
        }
        // More duplicates than were sent again: the network made them, they say nothing about our patience.
        if lie || self.stats.dsack_dups > self.stats.total_retrans {
            cx.inc(Mib::TcpExtTCPDSACKIgnoredDubious);
            return false;
        }
        a.flag |= DSACKING;
        cx.mib.add(Mib::TcpExtTCPDSACKRecvSegs, u64::from(segs));
        // Without reordering, and for a probe (its timer is not RACK's), patience is not the cure (tcp_dsack_seen, 6.18).
        if self.stats.reord_seen > 0 && !a.is(DSACK_TLP) {
            self.rec.rack.dsack_seen = true;
        }
        // The needless copy was delivered too.
        self.rec.delivered = self.rec.delivered.wrapping_add(segs);
        // Each duplicate tells of a retransmission that was not needed.
        if undo != 0 && self.rec.undo_retrans > 0 && end <= a.prior_una && end > undo {
            self.rec.undo_retrans = (self.rec.undo_retrans - segs as i32).max(0);
        } else if undo == 0 {
            cx.inc(Mib::TcpExtTCPDSACKIgnoredNoUndo);
        } else if end <= undo {
            cx.inc(Mib::TcpExtTCPDSACKIgnoredOld);
        }
        true
    }

    /// A D-SACK inside the window: a retransmission that was not needed has arrived.
    fn tag_dup(&mut self, block: (u64, u64), a: &mut AckRound) {
        let mut i = self.txq.find(block.0);
        while let Some(s) = self.txq.get(i) {
            if s.seq >= block.1 {
                break;
            }
            if s.is(RETRANS | EVER_RETRANS) {
                match self.fit_to_block(i, block) {
                    Some(true) => self.dup_one(i, a),
                    Some(false) => {}
                    None => break,
                }
            }
            i += 1;
        }
    }

    fn dup_one(&mut self, i: usize, a: &mut AckRound) {
        let Some(s) = self.txq.get_mut(i) else { return };
        let (n, rec) = (u32::from(s.pcount), &mut self.rec);
        if rec.undo_marker != 0 && rec.undo_retrans > 0 && s.end > rec.undo_marker {
            rec.undo_retrans = (rec.undo_retrans - n as i32).max(0);
        }
        if s.is(SACKED) {
            a.reord = a.reord.min(s.seq);
        }
        if s.is(RETRANS) {
            s.flags &= !RETRANS;
            rec.retrans_out = rec.retrans_out.saturating_sub(n);
        }
    }

    /// Splits record `i` at the ends of a SACK block; only whole segments count. `Some(true)`: the record is inside
    /// now. `Some(false)`: the next one may be. `None`: nothing more is.
    fn fit_to_block(&mut self, i: usize, (start, end): (u64, u64)) -> Option<bool> {
        let s = self.txq.get(i).copied()?;
        let mss = u64::from(s.mss.max(1));
        if s.seq < start {
            let at = s.seq + (start - s.seq).div_ceil(mss) * mss;
            if at < s.end {
                self.split_tx(i, at);
            }
            return Some(false);
        }
        if s.end > end {
            let whole = (end - s.seq) / mss * mss;
            if whole == 0 {
                return None;
            }
            self.split_tx(i, s.seq + whole);
        }
        Some(true)
    }

    /// Marks `start..end` as held by the receiver. Records are split at segment boundaries where needed.
    fn tag_range(&mut self, cx: &mut Cx<'_>, start: u64, end: u64, a: &mut AckRound) {
        let mut i = self.txq.find(start);
        while let Some(s) = self.txq.get(i) {
            if s.seq >= end {
                break;
            }
            if !s.is(SACKED) {
                match self.fit_to_block(i, (start, end)) {
                    Some(true) => {
                        self.tag_one(cx, i, a);
                        let (at, merged) = self.txq.merge_sacked(i);
                        cx.mib.add(Mib::TcpExtTCPSackMerged, merged);
                        i = at;
                    }
                    Some(false) => {}
                    None => break,
                }
            }
            i += 1;
        }
    }

    fn tag_one(&mut self, cx: &Cx<'_>, i: usize, a: &mut AckRound) {
        let min_rtt = self.rtt.min_us();
        let Some(s) = self.txq.get_mut(i) else { return };
        let n = u32::from(s.pcount);
        let r = &mut self.rec;
        r.rack.advance(s, cx.now, min_rtt);
        if s.is(RETRANS) {
            // The retransmission may have been lost and this be the original: it is out of the network either way.
            if s.is(LOST) {
                s.flags &= !(LOST | RETRANS);
                r.lost_out = r.lost_out.saturating_sub(n);
                r.retrans_out = r.retrans_out.saturating_sub(n);
            }
        } else {
            if !s.is(EVER_RETRANS) {
                if s.seq < r.high_sacked {
                    a.reord = a.reord.min(s.seq);
                }
                if s.end <= r.high_seq {
                    a.flag |= ORIG_SACK_ACKED;
                }
                a.first_sacked.get_or_insert(s.tx);
                a.last_sacked = Some(s.tx);
            }
            if s.is(LOST) {
                s.flags &= !LOST;
                r.lost_out = r.lost_out.saturating_sub(n);
            }
        }
        s.flags |= SACKED;
        a.flag |= DATA_SACKED;
        r.sacked_out += n;
        r.delivered = r.delivered.wrapping_add(n);
        r.high_sacked = r.high_sacked.max(s.end);
        Self::rate_delivered(a, s);
    }
}
