//! `RequestSock`: a connection request in SYN-RECEIVED, small because anybody can make one.

use core::time::Duration;

use ferronet_core::time::Instant;
use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::{FastopenCookie, SeqNr, TCP_MSS_DEFAULT, TcpFlags, TcpOptions, Timestamps};

use crate::config::SockOpts;
use crate::connect::Open;
use crate::output::TSTAMP_LEN;
use crate::rtt::TIMEOUT_INIT;
use crate::segment::{Cx, Kind, Segment, Transmit, reset_for};
use crate::syncookie::{TsOptions, encode_timestamp};
use crate::window::initial_window;

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct RequestSock {
    pub(crate) irs: SeqNr,
    pub(crate) iss: SeqNr,
    pub(crate) ts_offset: u32,
    pub(crate) ts_recent: u32,
    pub(crate) rcv_wnd: u32,
    pub(crate) rcvbuf: u32,
    pub(crate) clamp: u32,
    pub(crate) path_mss: u16,
    pub(crate) advmss: u16,
    pub(crate) mss_clamp: u16,
    pub(crate) peer_wnd: u16,
    pub(crate) snd_wscale: u8,
    pub(crate) rcv_wscale: u8,
    pub(crate) wscale_ok: bool,
    pub(crate) ts_ok: bool,
    pub(crate) sack_ok: bool,
    pub(crate) ecn_ok: bool,
    pub(crate) cookie: bool,
    /// SYN-ACKs sent again.
    pub(crate) retrans: u8,
    /// Timeouts so far.
    timeouts: u8,
    /// The final ACK came but the accept queue was full, or deferred (`TCP_DEFER_ACCEPT`).
    pub acked: bool,
    pub(crate) sent_at: Instant,
    last_oow_ack: Instant,
    deadline: Instant,
    /// The Fast Open cookie the SYN-ACK brings.
    pub fastopen: Option<FastopenCookie>,
}

/// What to do with a segment for a request.
#[derive(Clone, Debug)]
pub enum ReqVerdict {
    /// Nothing more.
    Drop(DropReason),
    /// A repeated SYN: send [`RequestSock::syn_ack`] again.
    ResendSynAck,
    /// Send this acknowledgment.
    Ack(Box<Transmit>),
    /// Send this reset, keep the request.
    Rst(Box<Transmit>),
    /// The request ends; with a reset to send when the segment was a SYN.
    End(Option<Box<Transmit>>),
    /// Make the connection with [`crate::Tcb::from_request`].
    Established,
}

/// What a timer of a request means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReqTimeout {
    /// Send [`RequestSock::syn_ack`] again.
    Resend,
    /// Waiting for the accept queue only: nothing to send.
    Wait,
    /// Given up.
    Expired,
}

impl RequestSock {
    /// The request of a SYN. `opts` are the listener's.
    #[must_use]
    pub fn new(cx: &Cx<'_>, opts: &SockOpts, syn: &Segment, open: Open) -> RequestSock {
        let advmss = if opts.user_mss > 0 { open.path_mss.min(opts.user_mss) } else { open.path_mss };
        let o = &syn.opts;
        let ts_ok = cx.cfg.timestamps && o.timestamps.is_some();
        // Whole segments as they will come (tcp_openreq_init_rwin).
        let win =
            initial_window(cx.cfg, opts, if ts_ok { advmss.saturating_sub(TSTAMP_LEN) } else { advmss });
        let wscale_ok = cx.cfg.window_scaling && o.wscale.is_some();
        // RFC 3168 §6.1.1: ECN-setup SYN is ECE and CWR.
        let ecn_ok = cx.cfg.ecn > 0 && syn.has(TcpFlags::ECE | TcpFlags::CWR);
        RequestSock {
            irs: syn.seq,
            iss: open.iss,
            ts_offset: open.ts_offset,
            ts_recent: o.timestamps.map_or(0, |t| t.tsval),
            rcv_wnd: win.wnd,
            rcvbuf: win.rcvbuf,
            clamp: if wscale_ok { win.clamp } else { win.clamp.min(65535) },
            path_mss: open.path_mss,
            advmss,
            mss_clamp: o.mss.unwrap_or(TCP_MSS_DEFAULT).max(cx.cfg.min_snd_mss),
            peer_wnd: syn.wnd,
            snd_wscale: if wscale_ok { o.wscale.unwrap_or(0).min(14) } else { 0 },
            rcv_wscale: if wscale_ok { win.wscale } else { 0 },
            wscale_ok,
            ts_ok,
            sack_ok: cx.cfg.sack && o.sack_permitted,
            ecn_ok,
            cookie: false,
            retrans: 0,
            timeouts: 0,
            acked: false,
            sent_at: Instant::ZERO,
            last_oow_ack: Instant::ZERO,
            deadline: cx.now + TIMEOUT_INIT,
            fastopen: None,
        }
    }

    /// Turns it into one that is forgotten after its SYN-ACK: `cookie` and `mss` come from
    /// [`crate::syncookie::encode`].
    pub fn make_cookie(&mut self, cookie: SeqNr, mss: u16) {
        self.iss = cookie;
        self.mss_clamp = mss;
        self.cookie = true;
        if !self.ts_ok {
            // Without timestamps there is no place to remember these.
            self.sack_ok = false;
            self.wscale_ok = false;
            self.snd_wscale = 0;
            self.rcv_wscale = 0;
            self.ecn_ok = false;
            self.clamp = self.clamp.min(65535);
        }
    }

    /// The request that a valid cookie in a final ACK stands for: `mss` from [`crate::syncookie::decode`], the
    /// options from [`crate::syncookie::decode_timestamp`] when the ACK has a timestamp. `None` when the
    /// namespace no longer allows what was promised.
    #[must_use]
    pub fn from_cookie(
        cx: &Cx<'_>,
        opts: &SockOpts,
        ack: &Segment,
        open: Open,
        mss: u16,
        ts: Option<TsOptions>,
    ) -> Option<RequestSock> {
        let mut syn = Segment { seq: ack.seq - 1, flags: TcpFlags::SYN, ..Segment::default() };
        syn.opts.mss = Some(mss);
        if let Some(o) = ts {
            if (o.sack && !cx.cfg.sack)
                || (o.wscale.is_some() && !cx.cfg.window_scaling)
                || !cx.cfg.timestamps
            {
                return None;
            }
            syn.opts.wscale = o.wscale;
            syn.opts.sack_permitted = o.sack;
            syn.opts.timestamps = ack.opts.timestamps;
            if o.ecn {
                syn.flags |= TcpFlags::ECE | TcpFlags::CWR;
            }
        }
        let open = Open { iss: ack.ack - 1, ..open };
        let mut r = RequestSock::new(cx, opts, &syn, open);
        r.cookie = true;
        r.peer_wnd = ack.wnd;
        Some(r)
    }

    fn ts_now(&self, now: Instant) -> u32 {
        (now.millis() as u32).wrapping_add(self.ts_offset)
    }

    /// The SYN-ACK. Counts a retransmission when it is not the first.
    pub fn syn_ack(&mut self, cx: &mut Cx<'_>) -> Transmit {
        let mut t = Transmit::bare(self.iss, self.irs + 1, TcpFlags::SYN | TcpFlags::ACK, Kind::Syn);
        if self.ecn_ok {
            t.flags |= TcpFlags::ECE;
        }
        t.wnd = self.rcv_wnd.min(65535) as u16;
        let mut tsval = self.ts_now(cx.now);
        if self.cookie && self.ts_ok {
            let o = TsOptions {
                wscale: self.wscale_ok.then_some(self.snd_wscale),
                sack: self.sack_ok,
                ecn: self.ecn_ok,
            };
            tsval = encode_timestamp(cx.now.millis() as u32, o).wrapping_add(self.ts_offset);
        }
        t.opts = TcpOptions {
            mss: Some(self.advmss),
            wscale: self.wscale_ok.then_some(self.rcv_wscale),
            sack_permitted: self.sack_ok,
            timestamps: self.ts_ok.then_some(Timestamps { tsval, tsecr: self.ts_recent }),
            fastopen: self.fastopen,
            ..TcpOptions::default()
        };
        if self.sent_at == Instant::ZERO {
            self.sent_at = cx.now.max(Instant(1));
        } else {
            self.retrans = self.retrans.saturating_add(1);
            cx.inc(Mib::TcpRetransSegs);
            cx.inc(Mib::TcpExtTCPSynRetrans);
        }
        t
    }

    /// When [`RequestSock::on_timeout`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The SYN-ACK's timer: exponential, `tcp_synack_retries` times.
    pub fn on_timeout(&mut self, cx: &mut Cx<'_>, opts: &SockOpts) -> ReqTimeout {
        let (n, defer) = (self.timeouts, opts.defer_accept);
        let max = match (defer, opts.syn_retries) {
            (0, 0) => cx.cfg.synack_retries,
            (0, max) | (max, _) => max,
        };
        if n >= max {
            return ReqTimeout::Expired;
        }
        // syn_ack_recalc (6.18): whoever answered is left alone until the last chance for data. An ACK that found no
        // room in the accept queue comes again only when it is asked for.
        let resend = defer == 0 || !self.acked || n + 1 >= defer;
        self.timeouts += 1;
        self.deadline = cx.now + self.wait(cx);
        if resend { ReqTimeout::Resend } else { ReqTimeout::Wait }
    }

    /// Time until the next SYN-ACK.
    fn wait(&self, cx: &Cx<'_>) -> Duration {
        (TIMEOUT_INIT * (1 << u32::from(self.timeouts.min(16)))).min(cx.cfg.rto_max)
    }

    fn rate_limited(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.last_oow_ack != Instant::ZERO && cx.now - self.last_oow_ack < cx.cfg.invalid_ratelimit {
            cx.inc(Mib::TcpExtTCPACKSkippedSynRecv);
            return true;
        }
        self.last_oow_ack = cx.now.max(Instant(1));
        false
    }

    /// A segment arrives in SYN-RECEIVED (`tcp_check_req`; RFC 9293 §3.10.7.4 for that state).
    pub fn rcv(&mut self, cx: &mut Cx<'_>, seg: &Segment) -> ReqVerdict {
        let (syn, ack, rst) = (seg.has(TcpFlags::SYN), seg.has(TcpFlags::ACK), seg.has(TcpFlags::RST));
        let paws = self.ts_ok
            && seg.opts.timestamps.is_some_and(|t| (self.ts_recent.wrapping_sub(t.tsval) as i32) > 0);
        if seg.seq == self.irs && syn && !ack && !rst && !paws {
            // Our SYN-ACK was lost, or the peer is impatient.
            if self.rate_limited(cx) {
                return ReqVerdict::Drop(DropReason::TcpInvalidSyn);
            }
            // The timer starts again (tcp_check_req).
            self.deadline = cx.now + self.wait(cx);
            return ReqVerdict::ResendSynAck;
        }
        if ack && seg.ack != self.iss + 1 {
            return match reset_for(seg) {
                Some(t) => ReqVerdict::Rst(Box::new(t)),
                None => ReqVerdict::Drop(DropReason::TcpReset),
            };
        }
        // First, the sequence number: in the window that the SYN-ACK offered.
        let nxt = self.irs + 1;
        let end = seg.seq + seg.seq_len();
        let limit = nxt + self.rcv_wnd;
        let in_window =
            seg.seq == nxt || (seg.seq.lt(limit) && end.gt(nxt)) || (seg.seq == limit && end == limit);
        if paws || !in_window {
            if paws {
                cx.inc(Mib::TcpExtPAWSEstab);
            }
            let why = if paws { DropReason::TcpPaws } else { DropReason::TcpOutOfWindow };
            if rst || self.rate_limited(cx) {
                return ReqVerdict::Drop(why);
            }
            let mut t = Transmit::bare(self.iss + 1, nxt, TcpFlags::ACK, Kind::Ack);
            t.wnd = (self.rcv_wnd >> self.rcv_wscale).min(65535) as u16;
            t.opts.timestamps =
                self.ts_ok.then(|| Timestamps { tsval: self.ts_now(cx.now), tsecr: self.ts_recent });
            return ReqVerdict::Ack(Box::new(t));
        }
        if let (true, Some(ts)) = (self.ts_ok, seg.opts.timestamps)
            && !seg.seq.gt(nxt)
        {
            self.ts_recent = ts.tsval;
        }
        // Second and fourth: RST ends the request; a SYN in the window is an error of the peer.
        let syn = syn && seg.seq != self.irs;
        if rst || syn {
            cx.inc(Mib::TcpAttemptFails);
            cx.inc(Mib::TcpExtEmbryonicRsts);
            return ReqVerdict::End(if rst { None } else { reset_for(seg).map(Box::new) });
        }
        if !ack {
            return ReqVerdict::Drop(DropReason::TcpFlags);
        }
        ReqVerdict::Established
    }

    /// Number of SYN-ACK retransmissions, for `ss`.
    #[must_use]
    pub fn retransmits(&self) -> u8 {
        self.retrans
    }
    /// Our initial sequence number and the peer's.
    #[must_use]
    pub fn isns(&self) -> (SeqNr, SeqNr) {
        (self.iss, self.irs)
    }
    /// Time until the timer.
    #[must_use]
    pub fn expires_in(&self, now: Instant) -> Duration {
        self.deadline - now
    }
}
