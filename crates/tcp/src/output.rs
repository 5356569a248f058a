//! What to send next: [`Tcb::poll_transmit`].

use core::time::Duration;

use ferronet_core::Mib;
use ferronet_wire::tcp::{SackBlock, SackBlocks, TcpFlags, TcpOptions, Timestamps};

use crate::recovery::{CaState, Rexmit};
use crate::sack::{EVER_RETRANS, FIN, LOST, PSH, RETRANS, SACKED, TxSeg};
use crate::segment::{Cx, GSO_MAX_PAYLOAD, Kind, Transmit};
use crate::state::{State, Tcb, wire};
use crate::timers::Rtx;

/// Bytes of the timestamp option with padding.
pub(crate) const TSTAMP_LEN: u16 = 12;

impl Tcb {
    /// The next segment to send, or `None`. Call until `None` after every other call.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) -> Option<Transmit> {
        if let Some((seq, ack, flags)) = self.owed.rst.take() {
            cx.inc(Mib::TcpOutRsts);
            let mut t = Transmit::bare(seq, ack, flags, Kind::Rst);
            if flags.contains(TcpFlags::ACK) {
                // The program's own reset is a segment of the connection like others (tcp_send_active_reset).
                t.wnd = self.advertise_window(cx);
                t.opts.timestamps =
                    self.ts_on.then(|| Timestamps { tsval: self.ts_now(cx.now), tsecr: self.rcv.ts_recent });
            }
            return Some(t);
        }
        match self.state {
            State::Close | State::Listen => None,
            State::SynRecv if self.fastopen.is_some() => {
                self.poll_handshake(cx).or_else(|| self.poll_data(cx)).or_else(|| self.poll_ack(cx))
            }
            State::SynSent | State::SynRecv => self.poll_handshake(cx),
            State::TimeWait => self.poll_ack(cx),
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::LastAck
            | State::Closing => self.poll_data(cx).or_else(|| self.poll_ack(cx)),
        }
    }

    fn poll_data(&mut self, cx: &mut Cx<'_>) -> Option<Transmit> {
        if self.owed.tlp {
            self.owed.tlp = false;
            if let Some(t) = self.loss_probe(cx) {
                return Some(t);
            }
        }
        match self.rec.rexmit {
            Rexmit::None => {}
            Rexmit::New => {
                if let Some(t) = self.xmit_new(cx, false) {
                    return Some(t);
                }
                if self.snd.nxt > self.rec.high_seq {
                    self.rexmit_done();
                } else {
                    self.rec.frto = false;
                    self.rec.rexmit = Rexmit::Lost;
                }
            }
            Rexmit::Lost => {}
        }
        if self.rec.rexmit == Rexmit::Lost {
            if let Some(t) = self.xmit_retransmit(cx) {
                return Some(t);
            }
            self.rexmit_done();
        }
        if self.has_unsent() {
            if let Some(t) = self.xmit_new(cx, false) {
                return Some(t);
            }
            // Nothing in flight and still data: the window is closed or too small. Probe (RFC 9293 §3.8.6.1).
            if self.txq.is_empty() && !self.timers.rtx_pending() {
                self.arm_probe0(cx);
            }
        }
        if self.owed.probe0 {
            self.owed.probe0 = false;
            return Some(self.write_wakeup(cx, Mib::TcpExtTCPWinProbe));
        }
        if self.owed.keepalive {
            self.owed.keepalive = false;
            return Some(self.write_wakeup(cx, Mib::TcpExtTCPKeepAlive));
        }
        None
    }

    fn poll_ack(&mut self, cx: &mut Cx<'_>) -> Option<Transmit> {
        if !self.ack.now {
            return None;
        }
        let t = self.build(cx, self.snd.nxt.max(self.snd.una), TcpFlags::ACK, 0, Kind::Ack);
        Some(t)
    }

    /// Payload of a full segment right now: SACK blocks take their room.
    fn current_mss(&self) -> u16 {
        let blocks = self.sack_blocks().len() as u16;
        if blocks == 0 { self.snd.mss } else { self.snd.mss.saturating_sub(4 + 8 * blocks).max(8) }
    }

    fn sack_blocks(&self) -> SackBlocks {
        let mut out = SackBlocks::default();
        if !self.sack_on || (self.rcv.nsacks == 0 && self.rcv.dsack.is_none()) {
            return out;
        }
        let max = if self.ts_on { 3 } else { 4 };
        let dsack = self.rcv.dsack.iter();
        for &(a, b) in dsack.chain(&self.rcv.sacks[..usize::from(self.rcv.nsacks)]).take(max) {
            out.push(SackBlock { start: wire(a), end: wire(b) });
        }
        out
    }

    /// A segment with our acknowledgment, window and options. Notes that an ACK went out.
    pub(crate) fn build(
        &mut self,
        cx: &mut Cx<'_>,
        seq: u64,
        flags: TcpFlags,
        len: u32,
        kind: Kind,
    ) -> Transmit {
        let sack = self.sack_blocks();
        self.rcv.dsack = None;
        let mut t = Transmit::bare(wire(seq), wire(self.rcv.nxt), flags, kind);
        t.wnd = self.advertise_window(cx);
        t.opts = TcpOptions {
            timestamps: self
                .ts_on
                .then(|| Timestamps { tsval: self.ts_now(cx.now), tsecr: self.rcv.ts_recent }),
            sack,
            ..TcpOptions::default()
        };
        if len > 0 {
            t.payload = self.slice(seq, len);
            t.len = len;
        }
        if self.ecn.ok {
            if self.ecn.demand_cwr {
                t.flags |= TcpFlags::ECE;
            }
            if kind == Kind::Data && len > 0 {
                t.ect = true;
                if self.ecn.queue_cwr {
                    self.ecn.queue_cwr = false;
                    t.flags |= TcpFlags::CWR;
                }
            }
        }
        if self.urg_mode() && self.snd.up > seq {
            // tcp_transmit_skb: urgent data more than 65535 bytes ahead sends URG with 0xffff once everything before it was sent.
            match u16::try_from(self.snd.up - seq) {
                Ok(urg) => (t.flags, t.urg) = (t.flags | TcpFlags::URG, urg),
                Err(_) if seq + 0xffff > self.snd.nxt => (t.flags, t.urg) = (t.flags | TcpFlags::URG, 0xffff),
                Err(_) => {}
            }
        }
        self.stats.segs_out = self.stats.segs_out.wrapping_add(t.segs());
        self.ack_sent();
        t
    }

    /// Congestion window in segments that is free; not more than half of it for one packet, so that ACKs come
    /// steadily (`tcp_cwnd_test`).
    fn cwnd_quota(&self) -> u32 {
        self.w.cwnd.saturating_sub(self.in_flight()).min((self.w.cwnd >> 1).max(1))
    }

    /// Nagle (RFC 9293 §3.7.4) with Minshall's change: hold a partial segment only while a smaller one is
    /// unacknowledged. `TCP_CORK` and `MSG_MORE` hold it always.
    fn nagle_holds(&self) -> bool {
        // tcp_nagle_test: neither the FIN nor urgent data waits.
        if self.snd.fin || self.urg_mode() {
            return false;
        }
        if self.opts.cork || self.snd.more {
            return true;
        }
        !self.opts.nodelay
            && !self.txq.is_empty()
            && self.snd.sml > self.snd.una
            && self.snd.sml <= self.snd.nxt
    }

    /// New data, as far as congestion window, peer's window and Nagle allow (`tcp_write_xmit`).
    fn xmit_new(&mut self, cx: &mut Cx<'_>, probe: bool) -> Option<Transmit> {
        if !self.has_unsent() {
            return None;
        }
        if self.txq.is_empty() {
            self.slow_start_after_idle(cx);
        }
        let mss = self.current_mss();
        let mss32 = u32::from(mss);
        let avail = (self.snd.write_seq - self.snd.nxt.min(self.snd.write_seq)).min(1 << 30) as u32;
        let room = (self.snd.una + u64::from(self.snd.wnd)).saturating_sub(self.snd.nxt).min(1 << 30) as u32;
        let mut quota = if probe { 1 } else { self.cwnd_quota() };
        if quota == 0 {
            if avail == 0 && self.snd.fin {
                // The final FIN is not held back by the congestion window.
                quota = 1;
            } else {
                self.cwnd_validate(true);
                return None;
            }
        }
        if avail.min(mss32).max(1) > room {
            return None;
        }
        // Each segment has an urgent pointer of its own.
        let max_segs = if self.urg_mode() { 1 } else { self.tso_segs(cx, mss32) };
        let limit = quota.min(max_segs).saturating_mul(mss32).min(room);
        let mut len = avail.min(limit);
        let part = len % mss32;
        if part > 0 && len > mss32 && len < avail {
            len -= part;
        }
        if len == avail && part > 0 && !probe && self.nagle_holds() {
            len -= part;
            if len == 0 {
                return None;
            }
        }
        if len > 0 && len < avail && !probe && self.tso_defers(cx, max_segs, room) {
            return None;
        }
        let fin = self.snd.fin && len == avail && room > len;
        if len == 0 && !fin {
            return None;
        }
        Some(self.send_new(cx, len, fin, mss))
    }

    /// Segments for one packet: about a millisecond of the rate, more on a short path, so that a long one is not
    /// fed in bursts (`tcp_tso_autosize`).
    fn tso_segs(&self, cx: &Cx<'_>, mss: u32) -> u32 {
        let mut bytes = self.pacing_rate() >> 10;
        let r = self.rtt.min_us() >> cx.cfg.tso_rtt_log.min(31);
        if r < 32 {
            bytes += u64::from(GSO_MAX_PAYLOAD >> r);
        }
        let most = GSO_MAX_PAYLOAD / mss;
        let segs = (bytes.min(u64::from(GSO_MAX_PAYLOAD)) as u32 / mss).max(cx.cfg.min_tso_segs);
        segs.min(most).max(1)
    }

    /// Wait for more window to make a larger packet, as long as ACKs are sure to come (`tcp_tso_should_defer`).
    fn tso_defers(&mut self, cx: &Cx<'_>, max_segs: u32, room: u32) -> bool {
        let mss = u32::from(self.snd.mss.max(1));
        if self.rec.state >= CaState::Recovery || self.in_flight() == 0 {
            return false;
        }
        // Only in a run of writes: who has not sent for a while would send in bursts.
        if cx.now - self.snd.last_tx > Duration::from_millis(1) {
            return false;
        }
        let cong = self.w.cwnd.saturating_sub(self.in_flight()).saturating_mul(mss);
        let limit = cong.min(room);
        if limit >= max_segs.saturating_mul(mss) {
            return false;
        }
        let chunk = self.snd.wnd.min(self.w.cwnd.saturating_mul(mss)) / cx.cfg.tso_win_divisor.max(1);
        if limit >= chunk {
            return false;
        }
        // The next ACK is more than half a round trip away: waiting would leave the link idle.
        let half = u64::from(self.rtt.srtt_us() / 2);
        if self.txq.front().is_none_or(|s| ((cx.now - s.tx).as_micros() as u64) < half) {
            return false;
        }
        if cong < room {
            self.cwnd_validate(true);
        }
        true
    }

    fn send_new(&mut self, cx: &mut Cx<'_>, len: u32, fin: bool, mss: u16) -> Transmit {
        self.flush_tail();
        let seq = self.snd.nxt;
        let end = seq + u64::from(len) + u64::from(fin);
        let mut flags = TcpFlags::ACK;
        let mut marks = 0;
        if fin {
            flags |= TcpFlags::FIN;
            marks |= FIN;
        }
        if len > 0 && seq + u64::from(len) == self.snd.write_seq && !self.snd.more {
            flags |= TcpFlags::PSH;
            marks |= PSH;
        }
        let was_empty = self.txq.is_empty();
        if was_empty {
            self.rec.delivered_at = cx.now;
        }
        let mut rec = TxSeg {
            seq,
            end,
            tx: cx.now,
            delivered_at: self.rec.delivered_at,
            delivered: self.rec.delivered,
            mss,
            pcount: 1,
            flags: marks,
        };
        rec.recount();
        self.txq.push(rec);
        self.snd.nxt = end;
        if !len.is_multiple_of(u32::from(mss.max(1))) {
            self.snd.sml = end;
        }
        self.data_sent(cx, len, u32::from(rec.pcount));
        if self.in_cwnd_reduction() {
            self.rec.prr_out += u32::from(rec.pcount);
        }
        let mut t = self.build(cx, seq, flags, len, Kind::Data);
        self.cut(&mut t, mss);
        if was_empty || !matches!(self.timers.rtx, Rtx::Reo) {
            self.set_xmit_timer_after_send(cx, was_empty);
        }
        self.cwnd_validate(self.in_flight() >= self.w.cwnd);
        t
    }

    fn data_sent(&mut self, cx: &mut Cx<'_>, len: u32, segs: u32) {
        // A FIN counts, too (tcp_event_new_data_sent).
        cx.mib.add(Mib::TcpExtTCPOrigDataSent, u64::from(segs));
        if len == 0 {
            return;
        }
        self.stats.data_segs_out = self.stats.data_segs_out.wrapping_add(segs);
        self.stats.bytes_sent += u64::from(len);
        self.snd.last_tx = cx.now;
        // A quick answer to what came in: an interactive session, where data carries the ACKs.
        if ((cx.now - self.ack.last_rx).as_micros() as u64) < u64::from(self.ack.ato_us) {
            self.ack.pingpong = self.ack.pingpong.saturating_add(1);
        }
    }

    /// RFC 5681 §4.1: after an idle time of more than one RTO the window starts again (halved per RTO, as RFC 2861).
    fn slow_start_after_idle(&mut self, cx: &Cx<'_>) {
        let idle = cx.now - self.snd.last_tx;
        if self.snd.last_tx == ferronet_core::Instant::ZERO {
            return;
        }
        self.cong.on_tx_start(cx.now, self.snd.last_tx);
        if cx.cfg.slow_start_after_idle && idle > self.rtt.rto && self.has_unsent() {
            self.w.ssthresh = if self.in_cwnd_reduction() {
                self.w.ssthresh
            } else {
                self.w.ssthresh.max((self.w.cwnd >> 1) + (self.w.cwnd >> 2))
            };
            let floor = crate::cong::INIT_CWND.min(self.w.cwnd);
            let mut left = idle;
            while left > self.rtt.rto && self.w.cwnd > floor {
                left -= self.rtt.rto;
                self.w.cwnd >>= 1;
            }
            self.w.cwnd = self.w.cwnd.max(floor);
            self.snd.last_tx = cx.now;
        }
    }

    fn cwnd_validate(&mut self, limited: bool) {
        let out = self.txq.packets;
        let r = &mut self.rec;
        if self.snd.una >= r.cwnd_usage_seq || limited || (!r.cwnd_limited && out > r.max_packets_out) {
            r.cwnd_limited = limited;
            r.max_packets_out = out;
            r.cwnd_usage_seq = self.snd.nxt;
        }
    }

    pub(crate) fn app_limited(&self) -> bool {
        !self.has_unsent() && self.in_flight() < self.w.cwnd
    }

    /// The next lost segment (`tcp_xmit_retransmit_queue`).
    fn xmit_retransmit(&mut self, cx: &mut Cx<'_>) -> Option<Transmit> {
        if self.rec.lost_out == 0 {
            return None;
        }
        let mut i = self.txq.find(self.rec.hint);
        loop {
            let s = self.txq.get(i).copied()?;
            if s.is(LOST) && !s.is(RETRANS | SACKED) {
                break;
            }
            i += 1;
            self.rec.hint = s.end;
        }
        let quota = self.w.cwnd.saturating_sub(self.in_flight());
        let quota = quota.min(self.tso_segs(cx, u32::from(self.current_mss())));
        if quota == 0 {
            return None;
        }
        let s = self.txq.get(i).copied()?;
        let wnd_end = self.snd.una + u64::from(self.snd.wnd);
        if s.seq >= wnd_end && s.seq != self.snd.una {
            return None;
        }
        let mib = if self.rec.state == CaState::Loss {
            Mib::TcpExtTCPSlowStartRetrans
        } else {
            Mib::TcpExtTCPFastRetrans
        };
        let t = self.retransmit(cx, i, quota)?;
        // What the timer itself sends is not counted as recovery (tcp_retransmit_timer).
        let by_timer = core::mem::take(&mut self.owed.rto_head);
        if !by_timer {
            cx.mib.add(mib, u64::from(t.segs()));
        }
        if self.in_cwnd_reduction() {
            self.rec.prr_out += t.segs();
        }
        // The timeout has set the timer itself, cut to the user timeout.
        if i == 0 && self.timers.rtx != Rtx::Reo && !by_timer {
            self.reset_rto(cx);
        }
        Some(t)
    }

    /// Sends up to `segs` segments of record `i` again (`tcp_retransmit_skb`).
    fn retransmit(&mut self, cx: &mut Cx<'_>, i: usize, segs: u32) -> Option<Transmit> {
        let t = self.send_again(cx, i, segs)?;
        let stamp = self.ts_now(cx.now).max(1);
        let s = self.txq.get_mut(i)?;
        let n = u32::from(s.pcount);
        if !s.is(RETRANS) {
            self.rec.retrans_out += n;
        }
        s.flags |= RETRANS;
        if self.rec.retrans_stamp == 0 {
            self.rec.retrans_stamp = stamp;
        }
        self.rec.undo_retrans = self.rec.undo_retrans.max(0) + n as i32;
        Some(t)
    }

    /// The sending itself (`__tcp_retransmit_skb`). A loss probe does no more: it is not part of a recovery, and does
    /// not count as a retransmission in flight.
    fn send_again(&mut self, cx: &mut Cx<'_>, i: usize, segs: u32) -> Option<Transmit> {
        self.refit_record(i);
        let s = self.txq.get(i).copied()?;
        let mss = u64::from(s.mss.max(1));
        let most = u64::from(segs.max(1)).min((u64::from(GSO_MAX_PAYLOAD) / mss).max(1));
        if u64::from(s.pcount) > most {
            self.split_tx(i, s.seq + most * mss);
        } else if s.pcount == 1 && cx.cfg.retrans_collapse {
            self.retrans_try_collapse(i);
        }
        let s = self.txq.get_mut(i)?;
        let n = u32::from(s.pcount);
        s.flags |= EVER_RETRANS;
        s.tx = cx.now;
        s.delivered = self.rec.delivered;
        s.delivered_at = self.rec.delivered_at;
        let s = *s;
        self.txq.note_sent(s.seq, s.end, cx.now);
        let fin = s.is(FIN);
        let len = (s.end - s.seq) as u32 - u32::from(fin);
        let mut flags = TcpFlags::ACK;
        if fin {
            flags |= TcpFlags::FIN;
        }
        if len > 0 && s.is(PSH) {
            flags |= TcpFlags::PSH;
        }
        self.stats.total_retrans += n;
        self.stats.bytes_retrans += u64::from(len);
        self.stats.bytes_sent += u64::from(len);
        if len > 0 {
            self.stats.data_segs_out = self.stats.data_segs_out.wrapping_add(n);
        }
        cx.mib.add(Mib::TcpRetransSegs, u64::from(n));
        let mut t = self.build(cx, s.seq, flags, len, Kind::Retrans);
        self.cut(&mut t, s.mss);
        Some(t)
    }

    /// A small segment that is sent again takes the small ones behind it along, as far as they fit into one
    /// (`tcp_retrans_try_collapse`; RFC 9293 §3.8.6 calls it repacketization).
    fn retrans_try_collapse(&mut self, i: usize) {
        let current = self.current_mss();
        let mss = u64::from(current);
        let wnd_end = self.snd.una + u64::from(self.snd.wnd);
        if self.txq.get(i).is_none_or(|s| s.end - s.seq >= mss) {
            return;
        }
        while let (Some(s), Some(next)) = (self.txq.get(i).copied(), self.txq.get(i + 1).copied()) {
            let whole = next.pcount == 1 && !next.is(SACKED) && !s.is(SACKED | FIN);
            let len = next.end - s.seq - u64::from(next.is(FIN));
            if !whole || len > mss || next.end > wnd_end {
                return;
            }
            let r = &mut self.rec;
            for (bit, c) in [(LOST, &mut r.lost_out), (RETRANS, &mut r.retrans_out)] {
                *c = c.saturating_sub(u32::from(next.is(bit)));
            }
            self.txq.swallow_next(i, current);
        }
    }

    /// A segment beyond the MSS leaves as several, all of which count.
    fn cut(&mut self, t: &mut Transmit, mss: u16) {
        if t.len > u32::from(mss) {
            t.gso_size = Some(mss);
            // The peer's GRO need not wait for more (__tcp_transmit_skb).
            t.flags |= TcpFlags::PSH;
            self.stats.segs_out = self.stats.segs_out.wrapping_add(t.segs() - 1);
        }
    }

    /// The MSS became smaller since the record was sent: count and cut it anew.
    fn refit_record(&mut self, i: usize) {
        let mss = self.current_mss();
        let Some(s) = self.txq.get_mut(i) else { return };
        if mss >= s.mss {
            return;
        }
        let before = i64::from(s.pcount);
        s.mss = mss;
        s.recount();
        let d = (i64::from(s.pcount) - before) as i32;
        let flags = s.flags;
        self.txq.packets = self.txq.packets.saturating_add_signed(d);
        let r = &mut self.rec;
        for (bit, c) in [(LOST, &mut r.lost_out), (RETRANS, &mut r.retrans_out), (SACKED, &mut r.sacked_out)]
        {
            if flags & bit != 0 {
                *c = c.saturating_add_signed(d);
            }
        }
    }

    /// RFC 8985 §7.3: the tail loss probe: new data if the window has room, else the last segment again.
    fn loss_probe(&mut self, cx: &mut Cx<'_>) -> Option<Transmit> {
        if self.rec.tlp_high_seq != 0 || self.txq.is_empty() {
            self.rearm_rto(cx);
            return None;
        }
        self.rec.tlp_retrans = false;
        let t = match if self.has_unsent() { self.xmit_new(cx, true) } else { None } {
            Some(t) => t,
            None => {
                let last = self.txq.len() - 1;
                let s = self.txq.back().copied()?;
                let tail = u64::from(s.pcount - 1) * u64::from(s.mss);
                if s.pcount > 1 {
                    self.split_tx(last, s.seq + tail);
                }
                self.rec.tlp_retrans = true;
                self.send_again(cx, self.txq.len() - 1, 1)?
            }
        };
        self.rec.tlp_high_seq = self.snd.nxt;
        cx.inc(Mib::TcpExtTCPLossProbes);
        self.reset_rto(cx);
        Some(t)
    }

    /// A probe: what the window has room for, or a segment without data from before the window, which the peer
    /// must answer with an ACK (`tcp_write_wakeup`).
    fn write_wakeup(&mut self, cx: &mut Cx<'_>, mib: Mib) -> Transmit {
        let room = (self.snd.una + u64::from(self.snd.wnd)).saturating_sub(self.snd.nxt) as u32;
        let avail = (self.snd.write_seq - self.snd.nxt.min(self.snd.write_seq)) as u32;
        if self.txq.is_empty() && avail > 0 && room > 0 {
            let mss = self.current_mss();
            let len = avail.min(room).min(u32::from(mss));
            let fin = self.snd.fin && len == avail && room > len;
            let mut t = self.send_new(cx, len, fin, mss);
            t.flags |= TcpFlags::PSH;
            return t;
        }
        cx.inc(mib);
        self.build(cx, self.snd.una - 1, TcpFlags::ACK, 0, Kind::Probe)
    }
}
