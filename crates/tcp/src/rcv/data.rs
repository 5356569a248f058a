//! RFC 9293 §3.10.7.4, seventh and eighth step: segment text and FIN; and what the program reads.

use bytes::{Buf, BytesMut};
use ferronet_core::{DropReason, Errno, Mib};
use ferronet_wire::tcp::TcpFlags;
use smallvec::SmallVec;

use super::ack_out::MAX_QUICKACKS;
use crate::segment::{Cx, Discard, Payload, Segment};
use crate::state::{Events, State, Tcb, wire};

/// Memory charged for each queued piece besides its bytes.
pub(crate) const PIECE_OVERHEAD: u32 = 128;
/// Payloads below this are copied together, so that a flood of tiny segments costs little memory.
pub(crate) const COALESCE: u32 = 1024;
const COALESCE_BUF: usize = 16 * 1024;
/// Slices given to the reader at once.
const READ_SLICES: usize = 32;

impl Tcb {
    /// RFC 9293: "Seventh, process the segment text".
    pub(crate) fn seventh_process_text(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
        end: u64,
        payload: Payload,
    ) -> Result<(), Discard> {
        let fin = seg.has(TcpFlags::FIN);
        match self.state {
            State::Established => {}
            State::FinWait1 | State::FinWait2 => {
                // RFC 1122 §4.2.2.13: data for a program that closed, or will read no more, is answered with a RST.
                // The peer's FIN would have led out of these states, so this is our own shutdown.
                if self.rcv.shutdown && seg.len > 0 && end - u64::from(fin) > self.rcv.nxt {
                    cx.inc(Mib::TcpExtTCPAbortOnData);
                    self.owed.rst = Some((seg.ack, wire(0), TcpFlags::RST));
                    self.done(cx, Some(Errno::ECONNRESET));
                    return Err(DropReason::TcpAbortOnData);
                }
            }
            State::CloseWait | State::LastAck | State::Closing => {
                // "This should not occur since a FIN has been received from the remote side. Ignore the text."
                // What we have already is acknowledged again below; there is nothing behind the FIN.
                if end != seq && end > self.rcv.nxt {
                    return Err(DropReason::TcpFlags);
                }
            }
            // Our FIN was just acknowledged in CLOSING.
            State::TimeWait => return Ok(()),
            State::SynRecv | State::SynSent | State::Close | State::Listen => {
                return Err(DropReason::TcpFlags);
            }
        }
        if end == seq {
            return Ok(());
        }
        self.data_queue(cx, seg, seq, end, payload)
    }

    /// `tcp_data_queue`: in order, repeated, beyond the window, or early.
    fn data_queue(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
        end: u64,
        payload: Payload,
    ) -> Result<(), Discard> {
        let nxt = self.rcv.nxt;
        let window = self.receive_window();
        if end <= nxt {
            // A retransmission of what we have: our ACK was lost, tell at once (RFC 2883).
            cx.inc(Mib::TcpExtDelayedACKLost);
            self.dsack_set(cx, seq, end);
            self.enter_quickack(MAX_QUICKACKS);
            self.ack.now = true;
            return Err(DropReason::TcpOldSequence);
        }
        if seq >= nxt + u64::from(window) && !(seq == nxt && seg.len == 0) {
            if seq == nxt {
                cx.inc(Mib::TcpExtTCPZeroWindowDrop);
            }
            self.enter_quickack(MAX_QUICKACKS);
            self.ack.now = true;
            return Err(if seq == nxt { DropReason::TcpZeroWindow } else { DropReason::TcpOutOfWindow });
        }
        if seq > nxt {
            return self.data_queue_ofo(cx, seg, seq, end, payload);
        }
        if seq < nxt {
            self.dsack_set(cx, seq, nxt);
            if window == 0 {
                self.enter_quickack(MAX_QUICKACKS);
                self.ack.now = true;
                return Err(DropReason::TcpZeroWindow);
            }
        }
        if !self.mem_ok(seg.len) {
            self.prune_ofo(cx);
            if !self.mem_ok(seg.len) {
                cx.inc(Mib::TcpExtTCPRcvQDrop);
                self.ack.now = true;
                return Err(DropReason::TcpRcvQDrop);
            }
        }
        self.queue_in_order(cx, seg, seq, payload, (nxt - seq) as u32);
        self.event_data_recv(cx, seg);
        if seg.has(TcpFlags::FIN) {
            self.eighth_check_fin(cx);
        }
        if !self.rcv.ofo.is_empty() {
            self.ofo_drain(cx);
            // RFC 5681 §4.2: a segment that fills a gap is acknowledged at once.
            if self.rcv.ofo.is_empty() {
                self.ack.now = true;
            }
        }
        Ok(())
    }

    /// Whether `len` more bytes may be charged. One large segment is taken into an empty queue in any case.
    pub(crate) fn mem_ok(&self, len: u32) -> bool {
        self.rcv.mem == 0 || self.rcv.mem.saturating_add(len) <= self.rcv.rcvbuf
    }

    /// Appends payload that starts at `seq` to the receive queue, without its first `skip` bytes.
    pub(crate) fn queue_in_order(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
        payload: Payload,
        skip: u32,
    ) {
        let end = seq + u64::from(seg.len);
        self.append(cx, payload, skip);
        self.stats.bytes_received += end - self.rcv.nxt;
        self.rcv.nxt = end;
        self.events.add(Events::READABLE);
    }

    /// Moves payload to the end of the queue.
    pub(crate) fn append(&mut self, cx: &mut Cx<'_>, payload: Payload, skip: u32) {
        let mut skip = skip as usize;
        for mut p in payload {
            let cut = skip.min(p.len());
            skip -= cut;
            p.advance(cut);
            if p.is_empty() {
                continue;
            }
            let n = p.len() as u32;
            let r = &mut self.rcv;
            if n < COALESCE && (!r.tail.is_empty() || r.q.back().is_some_and(|b| b.len() < COALESCE as usize))
            {
                if r.tail.len() + p.len() > COALESCE_BUF {
                    let full = core::mem::take(&mut r.tail);
                    r.q.push_back(full.freeze());
                    r.mem += PIECE_OVERHEAD;
                }
                if r.tail.is_empty() {
                    r.tail = BytesMut::with_capacity(2048);
                    if let Some(b) = r.q.back()
                        && b.len() < COALESCE as usize
                        && let Some(b) = r.q.pop_back()
                    {
                        r.tail.extend_from_slice(&b);
                        r.mem = r.mem.saturating_sub(PIECE_OVERHEAD);
                    }
                }
                r.tail.extend_from_slice(&p);
                r.mem += n;
                cx.inc(Mib::TcpExtTCPRcvCoalesce);
                continue;
            }
            if !r.tail.is_empty() {
                let t = core::mem::take(&mut r.tail);
                r.q.push_back(t.freeze());
                r.mem += PIECE_OVERHEAD;
            }
            r.mem += n + PIECE_OVERHEAD;
            r.q.push_back(p);
        }
    }

    /// RFC 9293: "Eighth, check the FIN bit".
    pub(crate) fn eighth_check_fin(&mut self, cx: &mut Cx<'_>) {
        self.rcv.nxt += 1;
        self.rcv.fin = true;
        self.rcv.shutdown = true;
        self.ack.sched = true;
        self.ofo_clear();
        self.events.add(Events::READABLE);
        self.events.add(Events::STATE);
        match self.state {
            State::SynRecv | State::Established => {
                self.set_state(cx, State::CloseWait);
                // Our FIN will likely follow at once and carry the ACK.
                self.ack.pingpong = cx.cfg.pingpong_thresh;
            }
            State::FinWait1 => {
                // Simultaneous close: our FIN is not acknowledged yet.
                self.ack.now = true;
                self.set_state(cx, State::Closing);
            }
            State::FinWait2 => {
                self.ack.now = true;
                self.enter_time_wait(cx);
            }
            State::CloseWait | State::LastAck | State::Closing => {}
            State::SynSent | State::TimeWait | State::Close | State::Listen => {}
        }
    }

    /// A read would return something: data, end of stream or an error.
    #[must_use]
    pub fn readable(&self) -> bool {
        // The urgent byte in front does not count (tcp_poll).
        let hole = u32::from(!self.opts.oobinline && self.urg_offset() == Some(0));
        self.inq() >= self.opts.rcvlowat.max(1).min(self.rcv.rcvbuf / 2) + hole
            || (self.inq() > hole && self.rcv.ssthresh <= self.inq())
            || self.rcv.shutdown
            || self.error.is_some()
    }

    /// Lets `f` see up to `max` readable bytes as slices and take some from the front; `f` returns how many it
    /// took, fewer to peek. Returns that number.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing yet; the pending error of the connection. `Ok(0)` is the end of the stream.
    pub fn recv_slices(
        &mut self,
        cx: &mut Cx<'_>,
        max: usize,
        f: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<usize, Errno> {
        // The urgent byte is not part of the stream, and a read ends in front of it.
        let (hole, max) = match self.urg_offset() {
            Some(0) if self.opts.oobinline => (0, max),
            Some(0) => (1, max),
            Some(at) => (0, max.min(at)),
            None => (0, max),
        };
        if hole > 0 && self.inq() == 1 {
            self.consume(cx, 1);
        }
        if self.inq() == 0 {
            if let Some(e) = self.error.take() {
                return Err(e);
            }
            if self.rcv.shutdown || self.state == State::Close {
                // Reading the end of the stream takes the FIN.
                self.rcv.copied = self.rcv.nxt;
                return Ok(0);
            }
            return Err(Errno::EAGAIN);
        }
        if max == 0 {
            return Ok(0);
        }
        let taken = self.offer(hole, max, f);
        self.consume(cx, if taken > 0 { taken + hole } else { 0 });
        Ok(taken)
    }

    /// Shows the readable bytes after the first `skip`.
    fn offer(&self, mut skip: usize, max: usize, f: &mut dyn FnMut(&[&[u8]]) -> usize) -> usize {
        let mut slices: SmallVec<[&[u8]; READ_SLICES]> = SmallVec::new();
        let mut left = max;
        let tail: &[u8] = &self.rcv.tail;
        for b in self.rcv.q.iter().map(|b| &b[..]).chain((!tail.is_empty()).then_some(tail)) {
            if left == 0 || slices.len() == READ_SLICES {
                break;
            }
            let b = &b[skip.min(b.len())..];
            if b.is_empty() {
                skip = 0;
                continue;
            }
            skip = 0;
            let n = b.len().min(left);
            slices.push(&b[..n]);
            left -= n;
        }
        let offered = slices.iter().map(|s| s.len()).sum::<usize>();
        f(&slices).min(offered)
    }

    /// Drops `n` readable bytes; the window may open.
    pub(crate) fn consume(&mut self, cx: &mut Cx<'_>, n: usize) {
        if n == 0 {
            return;
        }
        self.drop_front(n);
        self.urg_passed();
        self.rcv_space_adjust(cx);
        self.cleanup_rbuf(cx, n as u32);
    }

    /// Takes `n` bytes from the front of the queue.
    pub(crate) fn drop_front(&mut self, n: usize) {
        let mut left = n;
        let r = &mut self.rcv;
        while left > 0 {
            let Some(b) = r.q.front_mut() else {
                let k = left.min(r.tail.len());
                r.tail.advance(k);
                r.mem = r.mem.saturating_sub(k as u32);
                break;
            };
            let k = left.min(b.len());
            b.advance(k);
            left -= k;
            r.mem = r.mem.saturating_sub(k as u32);
            if b.is_empty() {
                r.q.pop_front();
                r.mem = r.mem.saturating_sub(PIECE_OVERHEAD);
            }
        }
        if r.q.is_empty() && r.q.capacity() > 0 {
            r.q = Default::default();
        }
        if r.tail.is_empty() && r.tail.capacity() > 0 {
            r.tail = BytesMut::new();
        }
        r.copied += n as u64;
    }
}
