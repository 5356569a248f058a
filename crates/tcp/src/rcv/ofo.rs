//! The out-of-order queue and the SACK blocks we send (RFC 2018, RFC 2883).

use bytes::{Buf, Bytes};
use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::TcpFlags;
use smallvec::SmallVec;

use super::data::{COALESCE, PIECE_OVERHEAD};
use crate::segment::{Cx, Discard, Payload, Segment};
use crate::state::{OfoSeg, Tcb};

/// Memory charged for one entry.
const ENTRY_OVERHEAD: u32 = 128;

fn cost(p: &Payload) -> u32 {
    p.iter().map(|b| b.len() as u32 + PIECE_OVERHEAD).sum::<u32>() + ENTRY_OVERHEAD
}

fn skip_front(p: &mut Payload, mut n: usize) {
    for b in p.iter_mut() {
        let k = n.min(b.len());
        b.advance(k);
        n -= k;
    }
    p.retain(|b| !b.is_empty());
}

fn keep_front(p: &mut Payload, mut n: usize) {
    for b in p.iter_mut() {
        let k = n.min(b.len());
        b.truncate(k);
        n -= k;
    }
    p.retain(|b| !b.is_empty());
}

/// A small piece may be a slice of a large receive buffer, which it would keep alive: copy it.
fn compact(p: &mut Payload) {
    for b in p.iter_mut().filter(|b| b.len() < COALESCE as usize) {
        *b = Bytes::copy_from_slice(b);
    }
}

impl Tcb {
    /// Keeps a segment that is ahead of RCV.NXT. What overlaps is cut, so that entries never do.
    pub(crate) fn data_queue_ofo(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
        end: u64,
        mut payload: Payload,
    ) -> Result<(), Discard> {
        self.ecn_check(seg);
        self.ack.sched = true;
        self.ack.now = true;
        if !self.make_room_ofo(cx, seq, &payload) {
            cx.inc(Mib::TcpExtTCPOFODrop);
            return Err(DropReason::TcpOfoDrop);
        }
        self.stats.rcv_ooopack = self.stats.rcv_ooopack.wrapping_add(seg.segs());
        cx.inc(Mib::TcpExtTCPOFOQueue);
        let fin = seg.has(TcpFlags::FIN);
        let (mut start, mut stop) = (seq, end);
        // The entry before.
        if let Some((&s, e)) = self.rcv.ofo.range(..=start).next_back()
            && e.end > start
        {
            if e.end >= stop {
                self.dsack_set(cx, start, stop);
                cx.inc(Mib::TcpExtTCPOFOMerge);
                self.sack_note(s, e_end(&self.rcv.ofo, s));
                return Err(DropReason::TcpOldSequence);
            }
            let e_end = e.end;
            self.dsack_set(cx, start, e_end);
            skip_front(&mut payload, (e_end - start) as usize);
            start = e_end;
        }
        // The entries behind: swallow the covered ones, stop at one that reaches further.
        let mut covered: SmallVec<[u64; 8]> = SmallVec::new();
        for (&s, e) in self.rcv.ofo.range(start..stop) {
            if e.end > stop || (e.end == stop && e.fin && !fin) {
                stop = s;
                break;
            }
            covered.push(s);
        }
        for s in covered {
            if let Some(e) = self.rcv.ofo.remove(&s) {
                self.rcv.mem = self.rcv.mem.saturating_sub(cost(&e.payload));
                self.dsack_set(cx, s, e.end);
                cx.inc(Mib::TcpExtTCPOFOMerge);
            }
        }
        let fin = fin && stop == end;
        keep_front(&mut payload, (stop - start) as usize - usize::from(fin));
        if stop > start {
            compact(&mut payload);
            self.rcv.mem += cost(&payload);
            self.rcv.ofo.insert(start, OfoSeg { end: stop, fin, payload });
        }
        self.sack_note(seq, end);
        Ok(())
    }

    /// Makes room in the receive buffer; the entries furthest away go first (`tcp_prune_ofo_queue`).
    fn make_room_ofo(&mut self, cx: &mut Cx<'_>, seq: u64, payload: &Payload) -> bool {
        let need = cost(payload);
        if self.rcv.mem.saturating_add(need) <= self.rcv.rcvbuf {
            return true;
        }
        cx.inc(Mib::TcpExtPruneCalled);
        while self.rcv.mem.saturating_add(need) > self.rcv.rcvbuf {
            match self.rcv.ofo.last_key_value() {
                Some((&s, _)) if s > seq => {
                    if let Some(e) = self.rcv.ofo.remove(&s) {
                        self.rcv.mem = self.rcv.mem.saturating_sub(cost(&e.payload));
                        cx.inc(Mib::TcpExtOfoPruned);
                        self.sack_forget(s);
                    }
                }
                Some(_) | None => return false,
            }
        }
        true
    }

    /// Gives up out-of-order data in favour of in-order data.
    pub(crate) fn prune_ofo(&mut self, cx: &mut Cx<'_>) {
        if self.rcv.ofo.is_empty() {
            return;
        }
        cx.inc(Mib::TcpExtPruneCalled);
        cx.inc(Mib::TcpExtOfoPruned);
        self.ofo_clear();
    }

    /// Forgets all out-of-order data.
    pub(crate) fn ofo_clear(&mut self) {
        self.rcv.mem = self.rcv.mem.saturating_sub(self.ofo_cost());
        self.rcv.ofo.clear();
        self.rcv.nsacks = 0;
    }

    /// Memory charged for out-of-order data.
    pub(crate) fn ofo_cost(&self) -> u32 {
        self.rcv.ofo.values().map(|e| cost(&e.payload)).sum()
    }

    /// Moves what has become next in order to the receive queue.
    pub(crate) fn ofo_drain(&mut self, cx: &mut Cx<'_>) {
        while let Some((&s, _)) = self.rcv.ofo.first_key_value() {
            if s > self.rcv.nxt {
                break;
            }
            let Some((s, mut e)) = self.rcv.ofo.pop_first() else { break };
            self.rcv.mem = self.rcv.mem.saturating_sub(cost(&e.payload));
            if e.end <= self.rcv.nxt {
                self.dsack_set(cx, s, e.end);
                continue;
            }
            if s < self.rcv.nxt {
                self.dsack_set(cx, s, self.rcv.nxt);
                skip_front(&mut e.payload, (self.rcv.nxt - s) as usize);
            }
            let data_end = e.end - u64::from(e.fin);
            self.stats.bytes_received += data_end.saturating_sub(self.rcv.nxt);
            self.append(cx, e.payload, 0);
            self.rcv.nxt = data_end;
            if e.fin {
                self.eighth_check_fin(cx);
            }
        }
        self.sack_advance();
    }

    /// RFC 2883: report `start..end` as received twice, in the next ACK.
    pub(crate) fn dsack_set(&mut self, cx: &mut Cx<'_>, start: u64, end: u64) {
        if !self.sack_on || !cx.cfg.dsack {
            return;
        }
        cx.inc(if start < self.rcv.nxt { Mib::TcpExtTCPDSACKOldSent } else { Mib::TcpExtTCPDSACKOfoSent });
        self.rcv.dsack = Some(match self.rcv.dsack {
            Some((a, b)) if start <= b && end >= a => (a.min(start), b.max(end)),
            Some(first) => first,
            None => (start, end),
        });
    }

    /// RFC 2018 §4: the block with the newest segment comes first; blocks that meet become one.
    fn sack_note(&mut self, start: u64, end: u64) {
        let (mut a, mut b) = (start, end);
        let n = usize::from(self.rcv.nsacks);
        let mut kept: SmallVec<[(u64, u64); 4]> = SmallVec::new();
        for &(s, e) in &self.rcv.sacks[..n] {
            if s <= b && e >= a {
                a = a.min(s);
                b = b.max(e);
            } else {
                kept.push((s, e));
            }
        }
        // A merge may have made it touch a block that was kept earlier; the next segment repairs that.
        let mut out = [(0, 0); 4];
        out[0] = (a, b);
        let m = kept.len().min(3);
        out[1..=m].copy_from_slice(&kept[..m]);
        self.rcv.sacks = out;
        self.rcv.nsacks = m as u8 + 1;
    }

    /// RCV.NXT moved: blocks below it are acknowledged.
    fn sack_advance(&mut self) {
        if self.rcv.ofo.is_empty() {
            self.rcv.nsacks = 0;
            return;
        }
        let nxt = self.rcv.nxt;
        self.sack_retain(|b| b.1 > nxt && b.0 > nxt);
    }

    /// The entry at `s` was pruned: no longer claim what is there (RFC 2018 §8 allows it, but it costs the peer).
    fn sack_forget(&mut self, s: u64) {
        for b in &mut self.rcv.sacks[..usize::from(self.rcv.nsacks)] {
            if b.1 > s {
                b.1 = s.max(b.0);
            }
        }
        self.sack_retain(|b| b.1 > b.0);
    }

    fn sack_retain(&mut self, mut keep: impl FnMut(&(u64, u64)) -> bool) {
        let mut m = 0;
        for i in 0..usize::from(self.rcv.nsacks) {
            let b = self.rcv.sacks[i];
            if keep(&b) {
                self.rcv.sacks[m] = b;
                m += 1;
            }
        }
        self.rcv.nsacks = m as u8;
    }
}

fn e_end(ofo: &std::collections::BTreeMap<u64, OfoSeg>, s: u64) -> u64 {
    ofo.get(&s).map_or(s, |e| e.end)
}
