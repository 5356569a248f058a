//! The receive window: what to offer (RFC 9293 §3.8.6, RFC 7323 §2), receive buffer accounting and
//! auto-tuning (dynamic right-sizing).

use core::time::Duration;

use ferronet_core::Mib;

use crate::config::{Config, SockOpts};
use crate::segment::Cx;
use crate::state::Tcb;

/// Half of the receive buffer is for bookkeeping (`tcp_adv_win_scale` 1, `TCP_DEFAULT_SCALING_RATIO`).
pub(crate) fn win_from_space(space: u32) -> u32 {
    space / 2
}
fn space_from_win(win: u32) -> u32 {
    win.saturating_mul(2)
}

/// The window and scale for a handshake (`tcp_select_initial_window`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct InitialWindow {
    pub(crate) rcvbuf: u32,
    pub(crate) wnd: u32,
    pub(crate) clamp: u32,
    pub(crate) wscale: u8,
}

pub(crate) fn initial_window(cfg: &Config, opts: &SockOpts, mss: u16) -> InitialWindow {
    let locked = opts.rcvbuf > 0;
    let rcvbuf = if locked { opts.rcvbuf } else { cfg.rmem[1] };
    let clamp = if opts.window_clamp > 0 { opts.window_clamp } else { 65535 << 14 };
    // A buffer that the program chose does not grow: no scale for more (tcp_openreq_init_rwin, tcp_connect_init).
    let clamp = if locked { clamp.min(win_from_space(rcvbuf)) } else { clamp };
    let mut space = win_from_space(rcvbuf).min(clamp);
    let mss32 = u32::from(mss.max(1));
    if space > mss32 {
        space = space / mss32 * mss32;
    }
    let wnd = space.min(65535);
    let wnd = if wnd > mss32 { wnd / mss32 * mss32 } else { wnd };
    let mut wscale = 0;
    if cfg.window_scaling {
        // Room for the largest window that auto-tuning may reach.
        let max = space.max(cfg.rmem[2]).max(cfg.rmem_max).min(clamp);
        wscale = (max.max(1).ilog2() as u8).saturating_sub(15).min(14);
    }
    InitialWindow { rcvbuf, wnd, clamp: clamp.min(65535 << wscale), wscale }
}

impl Tcb {
    /// Bytes that can be read.
    #[inline]
    #[must_use]
    pub fn inq(&self) -> u32 {
        (self.rcv.nxt - self.rcv.copied) as u32 - u32::from(self.rcv.fin && self.rcv.nxt > self.rcv.copied)
    }
    /// What `ss` and /proc show as receive queue (`rcv_nxt - copied_seq`): a FIN that was not read yet counts.
    #[must_use]
    pub fn rqueue(&self) -> u32 {
        (self.rcv.nxt - self.rcv.copied) as u32
    }
    /// Receive buffer size (`SO_RCVBUF`).
    #[must_use]
    pub fn rcvbuf(&self) -> u32 {
        self.rcv.rcvbuf
    }
    /// Memory charged to the receive buffer (`sk_rmem_alloc`).
    #[must_use]
    pub fn rmem_alloc(&self) -> u32 {
        self.rcv.mem
    }
    /// Sets `SO_RCVBUF` to `bytes` (already doubled and bounded) and stops auto-tuning.
    pub fn set_rcvbuf(&mut self, bytes: u32) {
        self.opts.rcvbuf = bytes;
        self.rcv.rcvbuf = bytes;
    }

    /// The bounds once the connection is open: one segment of the buffer is kept in reserve
    /// (`tcp_init_buffer_space`), so that the window stays below what the buffer holds.
    pub(crate) fn init_buffer_space(&mut self, cx: &Cx<'_>) {
        let mss = u32::from(self.rcv.advmss);
        let full = self.full_space();
        self.rcv.clamp = self.rcv.clamp.min(full);
        if self.rcv.clamp > 2 * mss && self.rcv.clamp + mss > full {
            self.rcv.clamp = (2 * mss).max(full.saturating_sub(mss));
        }
        self.rcv.ssthresh = self.rcv.ssthresh.min(self.rcv.clamp);
        // What the program may read in the first RTT without a larger buffer.
        self.rcv.space = self.rcv.ssthresh.min(self.rcv.wnd).min(10 * mss);
        self.rcv.space_at = cx.now;
    }

    fn full_space(&self) -> u32 {
        win_from_space(self.rcv.rcvbuf)
    }

    /// The window we would like to offer (`__tcp_select_window`; silly window avoidance of RFC 9293 §3.8.6.2.2).
    pub(crate) fn select_window(&mut self) -> u32 {
        let r = &self.rcv;
        let full = self.full_space().min(r.clamp);
        let mss = u32::from(self.ack.rcv_mss).min(full).max(1);
        let unread = self.inq();
        let mut free = self.full_space().saturating_sub(unread).min(r.rcvbuf.saturating_sub(r.mem));
        let unit = 1u32 << r.wscale;
        if free < full >> 1 {
            // Little memory: no hurry for the sender, no window smaller than what is worth it, no larger one by rounding.
            self.ack.quick = 0;
            free = free / unit * unit;
            if free < self.full_space() >> 4 || free < mss {
                return 0;
            }
        }
        free = free.min(r.ssthresh.max(mss));
        if r.wscale > 0 {
            return free.next_multiple_of(unit).min(65535 << r.wscale);
        }
        // The window of the last ACK stays as long as it fits, so that its edge moves by whole segments.
        if r.wnd + mss <= free || r.wnd > free {
            free / mss * mss
        } else if mss == full && free > r.wnd + (full >> 1) {
            free
        } else {
            r.wnd
        }
    }

    /// The window field of the next segment. A window once offered is never taken back (RFC 9293 §3.8.6).
    pub(crate) fn advertise_window(&mut self, cx: &mut Cx<'_>) -> u16 {
        let old = self.rcv.wnd;
        let cur = self.receive_window();
        let mut new = self.select_window();
        if new < cur {
            if new == 0 {
                cx.inc(Mib::TcpExtTCPWantZeroWindowAdv);
            }
            new = cur.next_multiple_of(1 << self.rcv.wscale);
        }
        new = new.min(65535 << self.rcv.wscale);
        self.rcv.wnd = new;
        self.rcv.wup = self.rcv.nxt;
        let field = (new >> self.rcv.wscale).min(65535) as u16;
        if field == 0 && old > 0 {
            cx.inc(Mib::TcpExtTCPToZeroWindowAdv);
        } else if field > 0 && old == 0 {
            cx.inc(Mib::TcpExtTCPFromZeroWindowAdv);
        }
        field
    }

    /// A good segment arrived: offer more, step by step (`tcp_grow_window`).
    pub(crate) fn grow_window(&mut self, len: u32) {
        let bound = self.rcv.clamp.min(self.full_space());
        if self.rcv.ssthresh < bound {
            let inc = 2 * u32::from(self.rcv.advmss).max(len);
            self.rcv.ssthresh = (self.rcv.ssthresh + inc).min(bound);
            self.ack.quick |= 1;
        }
    }

    /// The program read `copied` bytes: measure what it takes per RTT and size the buffer for twice that
    /// (`tcp_rcv_space_adjust`).
    pub(crate) fn rcv_space_adjust(&mut self, cx: &mut Cx<'_>) {
        let rtt = Duration::from_micros(u64::from(self.rcv.rtt8_us >> 3));
        if rtt.is_zero() || cx.now - self.rcv.space_at < rtt {
            return;
        }
        let copied = (self.rcv.copied - self.rcv.space_seq).min(u64::from(u32::MAX / 4)) as u32;
        if copied > self.rcv.space {
            if cx.cfg.moderate_rcvbuf && self.opts.rcvbuf == 0 {
                // Twice what was read, room for the initial window, and in proportion to the growth: the
                // sender may be in slow start.
                let mut win = 2 * u64::from(copied) + 16 * u64::from(self.rcv.advmss);
                let grow = win * u64::from(copied - self.rcv.space) / u64::from(self.rcv.space.max(1));
                win += grow << 1;
                let want = space_from_win(win.min(1 << 30) as u32).min(cx.cfg.rmem[2]);
                if want > self.rcv.rcvbuf {
                    self.rcv.rcvbuf = want;
                    let max = if self.opts.window_clamp > 0 {
                        self.opts.window_clamp
                    } else {
                        65535 << self.rcv.wscale
                    };
                    self.rcv.clamp = win_from_space(want).min(max);
                }
            }
            self.rcv.space = copied;
        }
        self.rcv.space_seq = self.rcv.copied;
        self.rcv.space_at = cx.now;
    }

    /// Receiver's RTT without timestamps: the time in which one window's worth of data arrives
    /// (`tcp_rcv_rtt_measure`).
    pub(crate) fn rcv_rtt_measure(&mut self, cx: &Cx<'_>) {
        let r = &mut self.rcv;
        if r.rtt_seq != 0 {
            if r.nxt < r.rtt_seq {
                return;
            }
            let us = (cx.now - r.rtt_at).as_micros() as u32;
            update_rcv_rtt(&mut r.rtt8_us, us.max(1), true);
        }
        r.rtt_seq = r.nxt + u64::from(r.wnd);
        r.rtt_at = cx.now;
    }

    /// Receiver's RTT from the echoed timestamp of a full-sized segment (`tcp_rcv_rtt_measure_ts`).
    pub(crate) fn rcv_rtt_measure_ts(&mut self, cx: &Cx<'_>, tsecr: u32, len: u32) {
        if tsecr == 0 || tsecr == self.rcv.rtt_tsecr {
            return;
        }
        self.rcv.rtt_tsecr = tsecr;
        if len < u32::from(self.ack.rcv_mss) {
            return;
        }
        // Below the clock's resolution the measurement by windows is better.
        let ms = self.ts_now(cx.now).wrapping_sub(tsecr);
        if ms > 0 && ms < 1 << 20 {
            update_rcv_rtt(&mut self.rcv.rtt8_us, ms * 1000, false);
        }
    }
}

/// Smoothing by 1/8; window-based samples only ever lower the estimate, because they include waiting.
fn update_rcv_rtt(rtt8: &mut u32, sample_us: u32, win_dep: bool) {
    let m = sample_us.min(60_000_000);
    if *rtt8 == 0 {
        *rtt8 = m << 3;
    } else if win_dep {
        *rtt8 = (*rtt8).min(m << 3);
    } else {
        *rtt8 = (i64::from(*rtt8) + i64::from(m) - i64::from(*rtt8 >> 3)).max(1) as u32;
    }
}
