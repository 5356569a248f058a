//! Congestion control: an enum of algorithms over one [`Cwnd`].

mod cubic;
mod reno;

use core::time::Duration;

pub use cubic::Cubic;
use ferronet_core::time::Instant;

use crate::config::CongAlg;

/// "No threshold yet" (`TCP_INFINITE_SSTHRESH`).
pub const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;
/// Initial window (RFC 6928), segments.
pub const INIT_CWND: u32 = 10;

/// The congestion window. All in segments.
#[derive(Clone, Copy, Debug)]
pub struct Cwnd {
    /// Window.
    pub cwnd: u32,
    /// Acknowledged segments that did not yet raise the window.
    pub cnt: u32,
    /// Slow start threshold.
    pub ssthresh: u32,
}

impl Default for Cwnd {
    fn default() -> Self {
        Cwnd { cwnd: INIT_CWND, cnt: 0, ssthresh: INFINITE_SSTHRESH }
    }
}

impl Cwnd {
    /// Below the threshold.
    #[must_use]
    pub fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// RFC 5681 §3.1 with appropriate byte counting: grows by what was acknowledged, up to the threshold.
    /// Returns the part of `acked` that is left for congestion avoidance.
    pub fn slow_start(&mut self, acked: u32) -> u32 {
        let cwnd = self.cwnd.saturating_add(acked).min(self.ssthresh);
        let left = acked - (cwnd - self.cwnd).min(acked);
        self.cwnd = cwnd;
        left
    }

    /// Additive increase: one segment for every `w` acknowledged ones.
    pub fn cong_avoid_ai(&mut self, w: u32, acked: u32) {
        let w = w.max(1);
        if self.cnt >= w {
            self.cnt = 0;
            self.cwnd += 1;
        }
        self.cnt += acked;
        if self.cnt >= w {
            let delta = self.cnt / w;
            self.cnt -= delta * w;
            self.cwnd = self.cwnd.saturating_add(delta);
        }
    }
}

/// What an ACK says to the algorithm.
#[derive(Clone, Copy, Debug)]
pub struct AckEvent {
    /// Now.
    pub now: Instant,
    /// Newly delivered segments.
    pub acked: u32,
    /// Acknowledged up to here, and sent up to here (for rounds).
    pub una: u64,
    /// See `una`.
    pub nxt: u64,
    /// RTT of this ACK, if it measured one.
    pub rtt: Option<Duration>,
    /// Smoothed RTT.
    pub srtt: Duration,
    /// Whether the window was in use, so that growing it is allowed (RFC 7661).
    pub cwnd_limited: bool,
}

/// How HyStart saw that the pipe is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hystart {
    /// A train of ACKs half an RTT long.
    Train,
    /// A longer RTT.
    Delay,
}

/// One of the algorithms with its state.
#[derive(Clone, Copy, Debug)]
pub enum Congestion {
    /// RFC 5681.
    Reno,
    /// RFC 9438.
    Cubic(Cubic),
}

impl Congestion {
    /// A fresh state.
    #[must_use]
    pub fn new(alg: CongAlg) -> Self {
        match alg {
            CongAlg::Reno => Congestion::Reno,
            CongAlg::Cubic => Congestion::Cubic(Cubic::default()),
        }
    }
    /// Which one it is.
    #[must_use]
    pub fn alg(&self) -> CongAlg {
        match self {
            Congestion::Reno => CongAlg::Reno,
            Congestion::Cubic(_) => CongAlg::Cubic,
        }
    }
    /// Slow start threshold after a loss with window `cwnd`.
    pub fn ssthresh(&mut self, cwnd: u32) -> u32 {
        match self {
            Congestion::Reno => reno::ssthresh(cwnd),
            Congestion::Cubic(c) => c.ssthresh(cwnd),
        }
    }
    /// An ACK in the open state.
    pub fn on_ack(&mut self, w: &mut Cwnd, a: &AckEvent) {
        match self {
            Congestion::Reno => reno::on_ack(w, a),
            Congestion::Cubic(c) => c.on_ack(w, a),
        }
    }
    /// Any ACK that measured a round trip. Says when HyStart ended slow start with it.
    pub fn on_rtt(&mut self, w: &mut Cwnd, a: &AckEvent) -> Option<Hystart> {
        match self {
            Congestion::Reno => None,
            Congestion::Cubic(c) => c.on_rtt(w, a),
        }
    }
    /// A retransmission timeout.
    pub fn on_rto(&mut self) {
        match self {
            Congestion::Reno => {}
            Congestion::Cubic(c) => c.reset(),
        }
    }
    /// Sending starts again after an idle time.
    pub fn on_tx_start(&mut self, now: Instant, last_tx: Instant) {
        match self {
            Congestion::Reno => {}
            Congestion::Cubic(c) => c.on_tx_start(now, last_tx),
        }
    }
    /// The loss was none: the window to go back to.
    #[must_use]
    pub fn undo_cwnd(&self, w: &Cwnd, prior_cwnd: u32) -> u32 {
        w.cwnd.max(prior_cwnd)
    }
}
