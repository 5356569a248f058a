//! The send queue: shared chunks with stream positions; small writes are gathered.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use ferronet_core::Errno;
use ferronet_wire::tcp::TCP_MSS_DEFAULT;

use crate::cong::INIT_CWND;
use crate::segment::{Cx, MAX_PIECES, Payload};
use crate::state::{Chunk, State, Tcb};

/// Writes below this are copied together; larger ones are shared.
const SMALL: usize = 4096;
/// Size of the buffers in which small writes are gathered.
const GATHER: usize = 16 * 1024;
/// Memory charged for each chunk besides its bytes.
const CHUNK_OVERHEAD: u32 = 64;

impl Tcb {
    /// Queues data for sending, without copying it when it is large. Takes as much as the send buffer has room
    /// for and returns how much that was. `more`: more follows soon (`MSG_MORE`), a last partial segment may wait.
    ///
    /// # Errors
    /// The pending error of the connection; `EPIPE` after shutdown; `EAGAIN` when the buffer is full (then
    /// [`crate::Events::WRITABLE`] comes) or the connection is not yet established.
    pub fn send(&mut self, cx: &mut Cx<'_>, mut data: Bytes, more: bool) -> Result<usize, Errno> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        if self.snd.fin {
            return Err(Errno::EPIPE);
        }
        match self.state {
            State::Established | State::CloseWait => {}
            State::SynRecv if self.fastopen.as_ref().is_some_and(|f| f.shut) => return Err(Errno::EPIPE),
            State::SynRecv if self.fastopen.is_some() => {}
            State::SynSent | State::SynRecv => {
                self.snd.nospace = true;
                return Err(Errno::EAGAIN);
            }
            State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::LastAck
            | State::Listen
            | State::Closing => return Err(Errno::EPIPE),
        }
        if data.is_empty() {
            return Ok(0);
        }
        let room = self.snd.sndbuf.saturating_sub(self.wmem_queued());
        if room == 0 || self.notsent_bytes() >= self.notsent_lowat(cx) {
            self.snd.nospace = true;
            return Err(Errno::EAGAIN);
        }
        let n = data.len().min(room as usize);
        if n < data.len() {
            self.snd.nospace = true;
            data.truncate(n);
        }
        if self.stats.busy_since.is_none() {
            self.stats.busy_since = Some(cx.now);
        }
        self.snd.more = more && n > 0;
        self.push_bytes(data);
        Ok(n)
    }

    fn push_bytes(&mut self, data: Bytes) {
        let s = &mut self.snd;
        let n = data.len();
        if n < SMALL {
            if s.tail.is_empty()
                && let Some(last) = s.wq.back()
                && last.seq >= s.nxt
                && last.data.len() < SMALL
                && let Some(last) = s.wq.pop_back()
            {
                s.tail = BytesMut::with_capacity(2 * (last.data.len() + n));
                s.tail.extend_from_slice(&last.data);
            }
            if !s.tail.is_empty() {
                if s.tail.len() + n > GATHER {
                    self.flush_tail();
                    self.push_bytes(data);
                    return;
                }
                s.tail.extend_from_slice(&data);
                s.write_seq += n as u64;
                return;
            }
        }
        self.flush_tail();
        let s = &mut self.snd;
        s.wq.push_back(Chunk { seq: s.write_seq, data });
        s.write_seq += n as u64;
    }

    /// Moves gathered small writes into the queue.
    pub(crate) fn flush_tail(&mut self) {
        let s = &mut self.snd;
        if !s.tail.is_empty() {
            let data = core::mem::take(&mut s.tail).freeze();
            s.wq.push_back(Chunk { seq: s.write_seq - data.len() as u64, data });
        }
    }

    /// Bytes charged to the send buffer (`sk_wmem_queued`).
    #[must_use]
    pub fn wmem_queued(&self) -> u32 {
        let bytes = self.snd.write_seq.saturating_sub(self.snd.una).min(u64::from(u32::MAX / 2)) as u32;
        bytes + self.snd.wq.len() as u32 * CHUNK_OVERHEAD
    }
    /// Send buffer size (`SO_SNDBUF`).
    #[must_use]
    pub fn sndbuf(&self) -> u32 {
        self.snd.sndbuf
    }
    /// Sets `SO_SNDBUF` to `bytes` (already doubled and bounded) and stops auto-tuning.
    pub fn set_sndbuf(&mut self, bytes: u32) {
        self.opts.sndbuf = bytes;
        self.snd.sndbuf = bytes;
    }
    /// Bytes queued and not yet acknowledged, and the FIN as one more (`SIOCOUTQ`: `write_seq - snd_una`).
    #[must_use]
    pub fn outq(&self) -> u32 {
        (self.snd.write_seq + u64::from(self.snd.fin)).saturating_sub(self.snd.una) as u32
    }
    /// Bytes queued and not yet sent (`SIOCOUTQNSD`).
    #[must_use]
    pub fn notsent_bytes(&self) -> u32 {
        self.snd.write_seq.saturating_sub(self.snd.nxt) as u32
    }
    fn notsent_lowat(&self, cx: &Cx<'_>) -> u32 {
        if self.opts.notsent_lowat > 0 { self.opts.notsent_lowat } else { cx.cfg.notsent_lowat }
    }
    /// A write would take something, as `poll` says it: a third of the buffer is free.
    #[must_use]
    pub fn writable(&self) -> bool {
        match self.state {
            State::Established | State::CloseWait | State::SynRecv
                if !self.snd.fin && (self.state != State::SynRecv || self.is_fastopen()) =>
            {
                let q = self.wmem_queued();
                let lowat = if self.opts.notsent_lowat > 0 { self.opts.notsent_lowat } else { u32::MAX };
                self.snd.sndbuf.saturating_sub(q) >= q >> 1 && self.notsent_bytes() < lowat
            }
            State::SynSent | State::SynRecv => false,
            // Shut down: a write returns EPIPE at once.
            State::Established
            | State::CloseWait
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::LastAck
            | State::Listen
            | State::Closing => true,
        }
    }

    /// Data, or a FIN, that was never sent.
    pub(crate) fn has_unsent(&self) -> bool {
        self.snd.nxt < self.snd.write_seq + u64::from(self.snd.fin)
    }
    pub(crate) fn has_unsent_in_window(&self) -> bool {
        self.has_unsent() && self.snd.nxt < self.snd.una + u64::from(self.snd.wnd)
    }

    /// Forgets what is acknowledged.
    pub(crate) fn snd_acked(&mut self, cx: &Cx<'_>, ack: u64) {
        let s = &mut self.snd;
        while let Some(c) = s.wq.front() {
            if c.seq + c.data.len() as u64 > ack {
                break;
            }
            s.wq.pop_front();
        }
        if s.wq.is_empty() && s.tail.is_empty() {
            s.wq = VecDeque::new();
            if let Some(since) = self.stats.busy_since.take() {
                self.stats.busy_us += (cx.now - since).as_micros() as u64;
            }
        }
    }

    /// The queued bytes from `seq` on, `len` of them, as shared pieces. More than [`MAX_PIECES`] are copied together.
    pub(crate) fn slice(&self, seq: u64, len: u32) -> Payload {
        let mut out = Payload::new();
        let wq = &self.snd.wq;
        let mut i = wq.partition_point(|c| c.seq + c.data.len() as u64 <= seq);
        let mut at = seq;
        let end = seq + u64::from(len);
        while at < end {
            let Some(c) = wq.get(i) else { break };
            let from = (at - c.seq) as usize;
            let to = c.data.len().min((end - c.seq) as usize);
            if out.len() + 1 == MAX_PIECES && (to - from) as u64 != end - at {
                let mut rest = BytesMut::with_capacity((end - at) as usize);
                while at < end {
                    let Some(c) = wq.get(i) else { break };
                    let mut d = &c.data[(at - c.seq) as usize..];
                    let n = d.len().min((end - at) as usize);
                    rest.extend_from_slice(&d[..n]);
                    d.advance(n);
                    at += n as u64;
                    i += 1;
                }
                out.push(rest.freeze());
                break;
            }
            out.push(c.data.slice(from..to));
            at = c.seq + to as u64;
            i += 1;
        }
        out
    }

    /// Grows the send buffer with the window within `tcp_wmem[2]` (`tcp_sndbuf_expand`): room for two windows
    /// of segments with the memory Linux would charge for each.
    pub(crate) fn sndbuf_expand(&mut self, cx: &Cx<'_>) {
        if self.opts.sndbuf > 0 {
            return;
        }
        let per_mss = u32::from(self.snd.mss_clamp.max(self.snd.mss).max(TCP_MSS_DEFAULT)) + 512;
        let per_mss = per_mss.next_power_of_two() + 256;
        let segs = self.w.cwnd.max(INIT_CWND).max(self.rec.reordering + 1);
        let want = (u64::from(per_mss) * u64::from(segs) * 2).min(u64::from(cx.cfg.wmem[2])) as u32;
        if want > self.snd.sndbuf {
            self.snd.sndbuf = want;
        }
    }
}
