//! Opening: active (SYN-SENT, RFC 9293 §3.10.7.3), from a request (SYN-RECEIVED's end), simultaneous.

use ferronet_core::time::{Duration, Instant};
use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::{SeqNr, TCP_MSS_DEFAULT, TcpFlags, TcpOptions, Timestamps};

use crate::config::SockOpts;
use crate::cong::{Congestion, Cwnd};
use crate::output::TSTAMP_LEN;
use crate::recovery::Recovery;
use crate::request::RequestSock;
use crate::rtt::{Rtt, TIMEOUT_FALLBACK};
use crate::segment::{Cx, Discard, Kind, Segment, Transmit, reset_for};
use crate::state::{Ecn, Events, Owed, Rcv, Snd, State, Stats, Tcb, origin, wire};
use crate::timers::Timers;
use crate::window::{InitialWindow, initial_window};

/// What the caller decides about a connection that opens.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Initial sequence number ([`crate::isn::secure_tcp_seq`]).
    pub iss: SeqNr,
    /// Timestamp offset ([`crate::isn::secure_tcp_ts_off`]).
    pub ts_offset: u32,
    /// The path's MTU less IP and TCP headers without options; bytes.
    pub path_mss: u16,
}

impl Tcb {
    pub(crate) fn new(cx: &Cx<'_>, opts: SockOpts, open: Open, state: State) -> Tcb {
        let iss = origin(open.iss);
        let alg = opts.congestion.unwrap_or(cx.cfg.congestion);
        let mut t = Tcb {
            state,
            opts,
            snd: Snd { iss, una: iss, nxt: iss, write_seq: iss + 1, ..Snd::default() },
            rcv: Rcv::default(),
            ack: Default::default(),
            rtt: Rtt::default(),
            w: Cwnd::default(),
            cong: Congestion::new(alg),
            rec: Recovery { reordering: cx.cfg.reordering, ..Recovery::default() },
            txq: Default::default(),
            timers: Timers::default(),
            owed: Owed::default(),
            ecn: Ecn::default(),
            stats: Stats::default(),
            ts_offset: open.ts_offset,
            ts_on: false,
            sack_on: false,
            wscale_on: false,
            orphan: false,
            passive: false,
            fastopen: None,
            error: None,
            soft_error: None,
            events: Events::default(),
            last_oow_ack: Instant::ZERO,
        };
        t.snd.path_mss = open.path_mss.max(cx.cfg.min_snd_mss);
        t.snd.mss_clamp = u16::MAX;
        t.snd.sndbuf = if opts.sndbuf > 0 { opts.sndbuf } else { cx.cfg.wmem[1] };
        t.rcv.advmss = t.local_mss();
        t.ack.rcv_mss = TCP_MSS_DEFAULT.min(t.rcv.advmss);
        t
    }

    /// The MSS we announce.
    fn local_mss(&self) -> u16 {
        match self.opts.user_mss {
            0 => self.snd.path_mss,
            m => self.snd.path_mss.min(m),
        }
    }

    fn set_initial_window(&mut self, i: &InitialWindow) {
        self.rcv.rcvbuf = i.rcvbuf;
        self.rcv.wnd = i.wnd;
        self.rcv.clamp = i.clamp;
        self.rcv.ssthresh = i.wnd;
        self.rcv.wscale = i.wscale;
    }

    /// Opens actively: the SYN is the first thing [`Tcb::poll_transmit`] returns.
    #[must_use]
    pub fn connect(cx: &mut Cx<'_>, opts: SockOpts, open: Open) -> Tcb {
        let mut t = Tcb::new(cx, opts, open, State::SynSent);
        let win = initial_window(cx.cfg, &opts, t.rcv.advmss);
        t.set_initial_window(&win);
        t.snd.nxt = t.snd.iss + 1;
        t.owed.syn = true;
        cx.inc(Mib::TcpActiveOpens);
        t
    }

    /// The connection of a request whose final ACK has arrived ([`crate::ReqVerdict::Established`]). It is
    /// ESTABLISHED; give it that same segment with [`Tcb::rcv`] next, for its data, window and FIN.
    #[must_use]
    pub fn from_request(cx: &mut Cx<'_>, opts: SockOpts, req: &RequestSock) -> Tcb {
        let mut t = Tcb::of_request(cx, opts, req);
        t.snd.una = t.snd.nxt;
        // The window is the final ACK's, which is processed next; that of the SYN counts for nothing
        // (tcp_create_openreq_child).
        t.snd.wl1 = t.rcv.irs;
        t.stats.total_retrans = u32::from(req.retrans);
        if req.retrans == 0 && req.sent_at != Instant::ZERO {
            let rtt = cx.now - req.sent_at;
            t.rtt.note_min(rtt, cx.now);
            t.rtt.sample(rtt, t.snd.una, t.snd.nxt, cx.cfg.rto_min, t.rto_max(cx));
        } else {
            t.rtt.rto = TIMEOUT_FALLBACK;
            if req.retrans > 1 {
                t.w.cwnd = 1;
            }
        }
        t.establish(cx);
        t
    }

    /// What a request has agreed on (`tcp_create_openreq_child`); in SYN-RECEIVED.
    pub(crate) fn of_request(cx: &mut Cx<'_>, opts: SockOpts, req: &RequestSock) -> Tcb {
        let open = Open { iss: req.iss, ts_offset: req.ts_offset, path_mss: req.path_mss };
        let mut t = Tcb::new(cx, opts, open, State::SynRecv);
        t.passive = true;
        let win =
            InitialWindow { rcvbuf: req.rcvbuf, wnd: req.rcv_wnd, clamp: req.clamp, wscale: req.rcv_wscale };
        t.set_initial_window(&win);
        t.wscale_on = req.wscale_ok;
        t.snd.wscale = req.snd_wscale;
        t.ts_on = req.ts_ok;
        t.sack_on = req.sack_ok;
        t.ecn.ok = req.ecn_ok;
        t.rcv.ts_recent = req.ts_recent;
        t.rcv.ts_recent_at = cx.now;
        t.snd.mss_clamp = req.mss_clamp;
        t.start_receiving(req.irs);
        t.snd.nxt = t.snd.iss + 1;
        cx.inc(Mib::TcpPassiveOpens);
        t
    }

    fn start_receiving(&mut self, irs: SeqNr) {
        let r = &mut self.rcv;
        r.irs = origin(irs);
        r.nxt = r.irs + 1;
        r.wup = r.nxt;
        r.copied = r.nxt;
        r.space_seq = r.nxt;
    }

    pub(crate) fn establish(&mut self, cx: &mut Cx<'_>) {
        self.set_state(cx, State::Established);
        self.timers.clear_rtx();
        self.rec.retransmits = 0;
        self.rec.first_timeout = None;
        self.rec.retrans_stamp = 0;
        self.sync_mss(cx);
        if self.ts_on {
            self.rcv.advmss = self.rcv.advmss.saturating_sub(TSTAMP_LEN);
        }
        self.init_buffer_space(cx);
        // As Linux counts: the SYN or SYN-ACK was delivered; an active opener's SYN is an acknowledged byte, a
        // passive one's SYN has come in before this record was there.
        self.rec.delivered = 1;
        if self.passive {
            self.stats.segs_in = 1;
        } else {
            self.stats.bytes_acked = 1;
            cx.inc(Mib::TcpExtTCPDelivered);
        }
        self.sndbuf_expand(cx);
        self.ack.last_rx = cx.now;
        self.stats.last_ack_rx = cx.now;
        self.snd.nospace = false;
        self.rec.delivered_at = cx.now;
        self.events.add(Events::WRITABLE);
        self.update_keepalive(cx);
    }

    /// Payload of a full segment from path, peer's MSS, half of its largest window, and our options
    /// (`tcp_sync_mss`).
    pub(crate) fn sync_mss(&mut self, cx: &Cx<'_>) {
        let mut m = u32::from(self.local_mss().min(self.snd.mss_clamp)).max(u32::from(cx.cfg.min_snd_mss));
        if self.ts_on {
            m = m.saturating_sub(u32::from(TSTAMP_LEN)).max(8);
        }
        let max = self.snd.max_wnd;
        let half = if max > u32::from(TCP_MSS_DEFAULT) { max >> 1 } else { max };
        if half > 0 && m > half {
            // tcp_bound_to_half_wnd
            m = half.max(if self.ts_on { 36 } else { 48 });
        }
        self.snd.mss = m as u16;
    }

    /// The path takes at most `path_mss` bytes of TCP payload now (ICMP "fragmentation needed", route change).
    /// What was sent in larger pieces is lost and goes out again (`tcp_simple_retransmit`).
    pub fn mtu_reduced(&mut self, cx: &mut Cx<'_>, path_mss: u16) {
        if path_mss >= self.snd.path_mss {
            return;
        }
        self.snd.path_mss = path_mss.max(cx.cfg.min_snd_mss);
        self.sync_mss(cx);
        let mss = self.snd.mss;
        let rec = &mut self.rec;
        let mut any = false;
        for s in self.txq.iter_mut() {
            if s.mss > mss && (s.end - s.seq) > u64::from(mss) {
                if s.is(crate::sack::RETRANS) {
                    s.flags &= !crate::sack::RETRANS;
                    rec.retrans_out = rec.retrans_out.saturating_sub(u32::from(s.pcount));
                }
                Tcb::mark_lost(rec, cx, s);
                any = true;
            }
        }
        if any {
            // Not congestion: the window stays (RFC 1191 §6.4), only the segments are sent again.
            if self.rec.state != crate::recovery::CaState::Loss {
                self.rec.high_seq = self.snd.nxt;
                self.rec.prior_ssthresh = 0;
                self.rec.undo_marker = 0;
                self.rec.state = crate::recovery::CaState::Loss;
            }
            self.rec.rexmit = crate::recovery::Rexmit::Lost;
        }
    }

    /// An ICMP error for this connection: it ends an attempt, an established connection only remembers it
    /// (RFC 1122 §4.2.3.9, RFC 5927 §4).
    pub fn icmp_error(&mut self, cx: &mut Cx<'_>, e: ferronet_core::Errno) {
        match self.state {
            // Any error ends an attempt (tcp_v4_err); RFC 1122 would go on.
            State::SynSent | State::SynRecv => self.done(cx, Some(e)),
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::TimeWait
            | State::Close
            | State::CloseWait
            | State::LastAck
            | State::Listen
            | State::Closing => self.soft_error = Some(e),
        }
    }

    /// SYN, or SYN-ACK in a simultaneous open.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Cx<'_>) -> Option<Transmit> {
        if !self.owed.syn {
            return if self.state == State::SynRecv && self.ack.now {
                Some(self.build(cx, self.snd.nxt, TcpFlags::ACK, 0, Kind::Ack))
            } else {
                None
            };
        }
        self.owed.syn = false;
        let both = self.state == State::SynRecv;
        let mut t = Transmit::bare(wire(self.snd.iss), SeqNr(0), TcpFlags::SYN, Kind::Syn);
        // Also the SYN-ACK of a simultaneous open says what we can do, not what was agreed: it is the SYN with one
        // flag more (tcp_send_synack, 6.18).
        // What holds is what both SYNs had. For a listener's peer it says what was agreed.
        let (ts, sack, ws) = if self.fastopen.is_some() {
            (self.ts_on, self.sack_on, self.wscale_on)
        } else {
            (cx.cfg.timestamps, cx.cfg.sack, cx.cfg.window_scaling)
        };
        if both {
            t.flags |= TcpFlags::ACK;
            t.ack = wire(self.rcv.nxt);
            self.rcv.wup = self.rcv.nxt;
            if self.fastopen.is_none() {
                // Its sequence number was sent before, with the SYN: not one of OutSegs.
                t.kind = Kind::Retrans;
            }
        } else if cx.cfg.ecn == 1 && self.rec.retransmits == 0 {
            // RFC 3168 §6.1.1; a lost ECN SYN is repeated without (tcp_ecn_fallback).
            t.flags |= TcpFlags::ECE | TcpFlags::CWR;
        }
        t.wnd = self.rcv.wnd.min(65535) as u16;
        t.opts = TcpOptions {
            mss: Some(self.rcv.advmss),
            wscale: ws.then_some(self.rcv.wscale),
            sack_permitted: sack,
            timestamps: ts.then(|| Timestamps { tsval: self.ts_now(cx.now), tsecr: self.rcv.ts_recent }),
            fastopen: self.fastopen.as_ref().and_then(|f| f.cookie),
            ..TcpOptions::default()
        };
        self.stats.segs_out += 1;
        if self.rec.retransmits > 0 {
            // A SYN-ACK for a listener's peer counts as sent each time (tcp_make_synack).
            t.kind = if self.fastopen.is_some() { Kind::Syn } else { Kind::Retrans };
            self.stats.total_retrans += 1;
            cx.inc(Mib::TcpRetransSegs);
            cx.inc(Mib::TcpExtTCPSynRetrans);
        } else {
            // SYN's departure, for the first RTT sample.
            self.snd.last_tx = cx.now;
            if let Some(f) = &mut self.fastopen {
                f.sent = cx.now;
            }
            self.rec.retrans_stamp = self.ts_now(cx.now).max(1);
            self.rec.first_timeout.get_or_insert(cx.now);
        }
        if !self.timers.rtx_pending() {
            self.reset_rto(cx);
        }
        Some(t)
    }

    pub(crate) fn reply_reset(&mut self, seg: &Segment) {
        if let Some(t) = reset_for(seg) {
            self.owed.rst = Some((t.seq, t.ack, t.flags));
        }
    }

    /// Segment arrives in SYN-SENT (RFC 9293 §3.10.7.3).
    pub(crate) fn rcv_syn_sent(&mut self, cx: &mut Cx<'_>, seg: &Segment) -> Result<(), Discard> {
        let acked = seg.has(TcpFlags::ACK);
        if acked {
            // "If SEG.ACK =< ISS or SEG.ACK > SND.NXT, send a reset (unless the RST bit is set)"
            let ack = self.unwrap_ack(seg.ack);
            if ack <= self.snd.iss || ack > self.snd.nxt {
                self.reply_reset(seg);
                return Err(DropReason::TcpTooNewAck);
            }
            // An echo of a timestamp we never sent belongs to an older connection.
            if let Some(ts) = seg.opts.timestamps
                && ts.tsecr != 0
            {
                let (first, now) = (self.rec.retrans_stamp, self.ts_now(cx.now));
                if now.wrapping_sub(ts.tsecr) > now.wrapping_sub(first) {
                    cx.inc(Mib::TcpExtPAWSActive);
                    self.reply_reset(seg);
                    return Err(DropReason::TcpPaws);
                }
            }
        }
        if seg.has(TcpFlags::RST) {
            if acked {
                self.tcp_reset(cx);
            }
            return Err(DropReason::TcpReset);
        }
        if !seg.has(TcpFlags::SYN) {
            return Err(DropReason::TcpFlags);
        }
        self.take_syn_options(cx, seg);
        self.start_receiving(seg.seq);
        self.snd.wl1 = self.rcv.irs;
        self.snd.wnd = u32::from(seg.wnd);
        self.snd.max_wnd = self.snd.wnd;
        if !acked {
            // Simultaneous open: "enter SYN-RECEIVED, form a SYN,ACK segment and send it".
            self.set_state(cx, State::SynRecv);
            self.sync_mss(cx);
            self.owed.syn = true;
            return Ok(());
        }
        self.ecn.ok = cx.cfg.ecn == 1 && seg.flags & (TcpFlags::ECE | TcpFlags::CWR) == TcpFlags::ECE;
        self.snd.una = self.snd.nxt;
        self.take_syn_rtt(cx);
        self.establish(cx);
        // The ACK that completes the handshake leaves at once.
        self.ack.now = true;
        Ok(())
    }

    pub(crate) fn take_syn_rtt(&mut self, cx: &Cx<'_>) {
        if self.rec.retransmits == 0 {
            let rtt = (cx.now - self.snd.last_tx).max(Duration::from_micros(1));
            self.rtt.note_min(rtt, cx.now);
            self.rtt.sample(rtt, self.snd.una, self.snd.nxt, cx.cfg.rto_min, self.rto_max(cx));
        } else {
            // RFC 6298 §5.7; RFC 5681 §3.1: after a lost SYN the window starts with one segment.
            self.rtt = Rtt::default();
            self.rtt.rto = TIMEOUT_FALLBACK;
            if self.rec.retransmits > 1 {
                self.w.cwnd = 1;
            }
        }
        self.snd.last_tx = Instant::ZERO;
    }

    fn take_syn_options(&mut self, cx: &Cx<'_>, seg: &Segment) {
        let o = &seg.opts;
        self.snd.mss_clamp = o.mss.unwrap_or(TCP_MSS_DEFAULT).max(cx.cfg.min_snd_mss);
        self.ts_on = cx.cfg.timestamps && o.timestamps.is_some();
        if let (true, Some(t)) = (self.ts_on, o.timestamps) {
            self.rcv.ts_recent = t.tsval;
            self.rcv.ts_recent_at = cx.now;
        }
        self.sack_on = cx.cfg.sack && o.sack_permitted;
        match o.wscale {
            Some(w) if cx.cfg.window_scaling => {
                self.wscale_on = true;
                self.snd.wscale = w.min(14);
            }
            Some(_) | None => {
                self.wscale_on = false;
                self.snd.wscale = 0;
                self.rcv.wscale = 0;
                self.rcv.clamp = self.rcv.clamp.min(65535);
            }
        }
    }

    /// The ACK in SYN-RECEIVED of a simultaneous open: "if SND.UNA < SEG.ACK =< SND.NXT, enter ESTABLISHED",
    /// otherwise send a reset.
    pub(crate) fn ack_in_syn_recv(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
    ) -> Result<(), Discard> {
        let ack = self.unwrap_ack(seg.ack);
        if ack <= self.snd.una || ack > self.snd.nxt {
            self.reply_reset(seg);
            return Err(DropReason::TcpTooNewAck);
        }
        if let Some(f) = self.fastopen.take() {
            return self.fastopen_established(cx, seg, seq, *f);
        }
        self.snd.una = ack;
        // Scaled even when it is a SYN-ACK (tcp_rcv_state_process), against RFC 7323 §2.2.
        self.snd.wnd = u32::from(seg.wnd) << self.snd.wscale;
        self.snd.max_wnd = self.snd.max_wnd.max(self.snd.wnd);
        self.snd.wl1 = seq;
        self.owed.syn = false;
        self.take_syn_rtt(cx);
        self.establish(cx);
        Ok(())
    }
}
