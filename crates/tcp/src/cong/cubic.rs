//! CUBIC (RFC 9438) with HyStart (both detections) for leaving slow start.
//!
//! Integer arithmetic: windows in segments, times in milliseconds. With C = 0.4 a time of `t` ms from the
//! plateau means `t^3 / 2.5e9` segments.

use core::time::Duration;

use super::{AckEvent, Cwnd, Hystart, INFINITE_SSTHRESH};
use ferronet_core::time::Instant;

/// 1/C in ms³ per segment.
const INV_C: u64 = 2_500_000_000;
/// beta_cubic = 0.7 as 717/1024 (RFC 9438 §4.6).
const BETA: u64 = 717;
const SCALE: u64 = 1024;
/// alpha_cubic = 3(1-β)/(1+β) = 9/17 (§4.3), times 1024.
const ALPHA: u64 = 542;
/// HyStart: fewest RTT samples in a round, smallest window, bounds of the delay step.
const HYSTART_MIN_SAMPLES: u8 = 8;
const HYSTART_LOW_WINDOW: u32 = 16;
/// ACKs further apart than this end a train.
const HYSTART_ACK_DELTA: Duration = Duration::from_millis(2);
const HYSTART_DELAY_MIN: Duration = Duration::from_millis(4);
const HYSTART_DELAY_MAX: Duration = Duration::from_millis(16);
/// So long after the start of an epoch round trips are not taken.
const SETTLING: Duration = Duration::from_secs(1);

/// State of CUBIC.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cubic {
    /// Window before the last reduction, after fast convergence.
    w_max: u32,
    /// Window before the last reduction, as it was.
    cwnd_prior: u32,
    /// Start of the current congestion avoidance epoch; zero: none.
    epoch: Instant,
    /// Plateau of this epoch.
    origin: u32,
    /// Time from the epoch to the plateau, ms.
    k_ms: u32,
    /// Reno-friendly window, times 1024.
    w_est: u64,
    /// HyStart: least RTT ever, and least RTT of this round, µs.
    delay_min: u32,
    curr_rtt: u32,
    round_end: u64,
    /// When this round began, and its last ACK of the unbroken train.
    round_start: Instant,
    train_at: Instant,
    samples: u8,
    found: bool,
}

impl Cubic {
    pub(super) fn reset(&mut self) {
        let keep = self.delay_min;
        *self = Cubic { delay_min: keep, w_max: self.w_max, cwnd_prior: self.cwnd_prior, ..Cubic::default() };
    }

    /// RFC 9438 §4.6 and §4.7 (fast convergence).
    pub(super) fn ssthresh(&mut self, cwnd: u32) -> u32 {
        self.epoch = Instant::ZERO;
        self.cwnd_prior = cwnd;
        self.w_max =
            if cwnd < self.w_max { (u64::from(cwnd) * (SCALE + BETA) / (2 * SCALE)) as u32 } else { cwnd };
        ((u64::from(cwnd) * BETA / SCALE) as u32).max(2)
    }

    /// RFC 9438 §5.8: the clock stands still while nothing is sent.
    pub(super) fn on_tx_start(&mut self, now: Instant, last_tx: Instant) {
        if self.epoch != Instant::ZERO {
            self.epoch = (self.epoch + (now - last_tx)).min(now);
        }
    }

    pub(super) fn on_ack(&mut self, w: &mut Cwnd, a: &AckEvent) {
        if !a.cwnd_limited {
            return;
        }
        let mut acked = a.acked;
        if w.in_slow_start() {
            acked = w.slow_start(acked);
            if acked == 0 {
                return;
            }
        }
        let cnt = self.update(w, a, acked);
        w.cong_avoid_ai(cnt, acked);
    }

    /// Acknowledged segments for one segment of growth.
    fn update(&mut self, w: &Cwnd, a: &AckEvent, acked: u32) -> u32 {
        let cwnd = w.cwnd;
        if self.epoch == Instant::ZERO {
            self.epoch = a.now.max(Instant(1));
            self.w_est = u64::from(cwnd) * SCALE;
            if cwnd < self.w_max {
                // §4.2: K = cbrt((W_max - cwnd_epoch) / C).
                self.k_ms = icbrt(u64::from(self.w_max - cwnd) * INV_C);
                self.origin = self.w_max;
            } else {
                self.k_ms = 0;
                self.origin = cwnd;
            }
        }
        // §4.4: the target one RTT from now.
        let t = ((a.now - self.epoch) + Duration::from_micros(u64::from(self.delay_min))).as_millis() as u64;
        let k = u64::from(self.k_ms);
        let off = t.abs_diff(k).min(1_000_000);
        let delta = ((u128::from(off) * u128::from(off) * u128::from(off)) / u128::from(INV_C)) as u64;
        let delta = delta.min(u64::from(u32::MAX / 2)) as u32;
        let target =
            if t < k { self.origin.saturating_sub(delta) } else { self.origin.saturating_add(delta) };
        // §4.4: target is clamped to [cwnd, 1.5 cwnd].
        let target = target.min(cwnd.saturating_add(cwnd / 2).max(cwnd + 1));
        let mut cnt = if target > cwnd { cwnd / (target - cwnd) } else { cwnd.saturating_mul(100) };
        // §4.3 Reno-friendly region: W_est grows by alpha per window, by 1 once it reached the old window.
        let alpha = if self.w_est >= u64::from(self.cwnd_prior) * SCALE { SCALE } else { ALPHA };
        self.w_est += alpha * u64::from(acked) / u64::from(cwnd.max(1));
        let est = (self.w_est / SCALE) as u32;
        if est > cwnd {
            cnt = cnt.min(cwnd / (est - cwnd));
        }
        if self.w_max == 0 && cnt > 20 {
            // No loss yet: as fast as 5 % per RTT.
            cnt = 20;
        }
        cnt.max(2)
    }

    pub(super) fn on_rtt(&mut self, w: &mut Cwnd, a: &AckEvent) -> Option<Hystart> {
        // Right after a recovery the queue is not what it was (cubictcp_acked, 6.18).
        if self.epoch != Instant::ZERO && a.now - self.epoch < SETTLING {
            return None;
        }
        let us = (a.rtt?.as_micros() as u32).max(1);
        if self.delay_min == 0 || us < self.delay_min {
            self.delay_min = us;
        }
        if self.found || !w.in_slow_start() {
            return None;
        }
        if a.una > self.round_end {
            self.round_end = a.nxt;
            self.curr_rtt = u32::MAX;
            self.samples = 0;
            self.round_start = a.now;
            self.train_at = a.now;
        }
        if w.cwnd < HYSTART_LOW_WINDOW || w.ssthresh != INFINITE_SSTHRESH {
            return None;
        }
        let how = self.hystart(a.now, us)?;
        self.found = true;
        w.ssthresh = w.cwnd;
        Some(how)
    }

    fn hystart(&mut self, now: Instant, us: u32) -> Option<Hystart> {
        // Closely spaced ACKs for half of the least RTT mean that the pipe is full.
        if now - self.train_at <= HYSTART_ACK_DELTA {
            self.train_at = now;
            if (now - self.round_start).as_micros() as u64 > u64::from(self.delay_min / 2) {
                return Some(Hystart::Train);
            }
        }
        self.curr_rtt = self.curr_rtt.min(us);
        if self.samples < HYSTART_MIN_SAMPLES {
            self.samples += 1;
            return None;
        }
        let step =
            Duration::from_micros(u64::from(self.delay_min >> 3)).clamp(HYSTART_DELAY_MIN, HYSTART_DELAY_MAX);
        let limit = u64::from(self.delay_min) + step.as_micros() as u64;
        (u64::from(self.curr_rtt) > limit).then_some(Hystart::Delay)
    }
}

/// Integer cube root, rounded down; saturates at `u32::MAX`.
fn icbrt(x: u64) -> u32 {
    let mut y: u64 = 0;
    let mut x = x;
    let mut s: i32 = 63;
    while s >= 0 {
        y <<= 1;
        let b = (3 * y * (y + 1) + 1) << (s as u32 % 64);
        // The shift cannot lose bits when the quotient below is non-zero.
        if (x >> s) > 3 * y * (y + 1) {
            x -= b;
            y += 1;
        }
        s -= 3;
    }
    y as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_root() {
        for v in [0u64, 1, 7, 8, 26, 27, 1000, 999_999_999_999, u64::MAX / 2, u64::MAX] {
            let r = u128::from(icbrt(v));
            assert!(r * r * r <= u128::from(v) && (r + 1).pow(3) > u128::from(v), "{v} {r}");
        }
    }

    fn ack(ms: u64, acked: u32) -> AckEvent {
        AckEvent {
            now: Instant::from_millis(ms),
            acked,
            una: 0,
            nxt: 0,
            rtt: None,
            srtt: Duration::from_millis(50),
            cwnd_limited: true,
        }
    }

    #[test]
    fn concave_to_the_plateau_then_convex() {
        let (mut c, mut w) = (Cubic::default(), Cwnd { cwnd: 1000, cnt: 0, ssthresh: 500 });
        w.ssthresh = c.ssthresh(w.cwnd);
        w.cwnd = w.ssthresh;
        assert_eq!(w.cwnd, 700);
        // K = cbrt(300/0.4) = 9.08 s.
        let mut at = Vec::new();
        for i in 0..400u64 {
            let n = w.cwnd;
            c.on_ack(&mut w, &ack(1000 + i * 50, n));
            at.push(w.cwnd);
        }
        let k = 182; // 9.1 s in rounds of 50 ms
        assert!((970..=1010).contains(&at[k]), "{}", at[k]);
        assert!(at[40] - at[0] > 5 * (at[k] - at[k - 40]), "flat near the plateau");
        assert!(at[399] - at[359] > 100, "and steep later");
    }

    #[test]
    fn fast_convergence_lowers_the_plateau() {
        let mut c = Cubic::default();
        c.ssthresh(1000);
        assert_eq!(c.w_max, 1000);
        c.ssthresh(800);
        assert_eq!(c.w_max, 680);
    }
}
