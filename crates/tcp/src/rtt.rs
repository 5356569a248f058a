//! Round trip time and retransmission timeout (RFC 6298), with the fixed-point filter and the variance
//! floor of Linux (`tcp_rtt_estimator`), so that `ss -ti` shows comparable numbers.

use core::time::Duration;

use ferronet_core::time::Instant;

/// RTO before the first sample (RFC 6298 §2.1).
pub const TIMEOUT_INIT: Duration = Duration::from_secs(1);
/// RTO after a SYN was lost without timestamps (RFC 6298 §5.7).
pub const TIMEOUT_FALLBACK: Duration = Duration::from_secs(3);

/// The estimator. All times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rtt {
    /// Smoothed RTT times 8.
    srtt8: u32,
    /// Mean deviation times 4, as the filter sees it.
    mdev4: u32,
    /// Largest `mdev4` in this window of data.
    mdev_max4: u32,
    /// What the RTO uses: `mdev_max4`, decaying once per window.
    rttvar4: u32,
    min_us: u32,
    min_at: Instant,
    /// `rttvar4` decays when this sequence is acknowledged.
    window_end: u64,
    /// The current timeout, including backoff.
    pub(crate) rto: Duration,
    /// Number of doublings in `rto`.
    pub(crate) backoff: u8,
}

impl Default for Rtt {
    fn default() -> Self {
        Rtt {
            srtt8: 0,
            mdev4: 1_000_000,
            mdev_max4: 0,
            rttvar4: 0,
            min_us: u32::MAX,
            min_at: Instant::ZERO,
            window_end: 0,
            rto: TIMEOUT_INIT,
            backoff: 0,
        }
    }
}

/// A minimum of the RTT older than this is forgotten (`tcp_min_rtt_wlen`).
const MIN_RTT_WINDOW: Duration = Duration::from_secs(300);

impl Rtt {
    /// Takes one sample and recomputes the timeout. `una` and `nxt` bound the data in flight.
    pub fn sample(&mut self, rtt: Duration, una: u64, nxt: u64, rto_min: Duration, rto_max: Duration) {
        let m = (rtt.as_micros().min(120_000_000) as u32).max(1);
        let floor = rto_min.as_micros() as u32;
        if self.srtt8 == 0 {
            // RFC 6298 §2.2: SRTT = R, RTTVAR = R/2.
            self.srtt8 = m << 3;
            self.mdev4 = m << 1;
            self.rttvar4 = self.mdev4.max(floor);
            self.mdev_max4 = self.rttvar4;
            self.window_end = nxt;
        } else {
            // RFC 6298 §2.3 with alpha = 1/8, beta = 1/4. A falling RTT raises the deviation eight times
            // more slowly, so that a drop in delay does not lengthen the timeout.
            let err = i64::from(m) - i64::from(self.srtt8 >> 3);
            self.srtt8 = (i64::from(self.srtt8) + err).max(1) as u32;
            let mut d = err.abs() - i64::from(self.mdev4 >> 2);
            if err < 0 && d > 0 {
                d >>= 3;
            }
            self.mdev4 = (i64::from(self.mdev4) + d).max(0) as u32;
            if self.mdev4 > self.mdev_max4 {
                self.mdev_max4 = self.mdev4;
                self.rttvar4 = self.rttvar4.max(self.mdev_max4);
            }
            if una > self.window_end {
                if self.mdev_max4 < self.rttvar4 {
                    self.rttvar4 -= (self.rttvar4 - self.mdev_max4) >> 2;
                }
                self.window_end = nxt;
                self.mdev_max4 = floor;
            }
        }
        self.backoff = 0;
        self.rto = self.base(rto_max);
    }

    /// The timeout without backoff.
    #[must_use]
    pub fn base(&self, rto_max: Duration) -> Duration {
        if self.srtt8 == 0 {
            return TIMEOUT_INIT;
        }
        Duration::from_micros(u64::from(self.srtt8 >> 3) + u64::from(self.rttvar4)).min(rto_max)
    }

    /// Forgets the backoff (RFC 6298 §5.7: new data was acknowledged).
    pub fn reset_backoff(&mut self, rto_max: Duration) {
        if self.backoff > 0 {
            self.backoff = 0;
            self.rto = self.base(rto_max);
        }
    }

    /// RFC 6298 §5.5: doubles the timeout.
    pub fn back_off(&mut self, rto_max: Duration) {
        self.backoff = self.backoff.saturating_add(1);
        self.rto = (self.rto * 2).min(rto_max);
    }

    /// Notes a sample for the windowed minimum.
    pub fn note_min(&mut self, rtt: Duration, now: Instant) {
        let us = (rtt.as_micros().min(u128::from(u32::MAX - 1)) as u32).max(1);
        if us <= self.min_us || now - self.min_at > MIN_RTT_WINDOW {
            self.min_us = us;
            self.min_at = now;
        }
    }

    /// Whether a sample was ever taken.
    #[must_use]
    pub fn has_sample(&self) -> bool {
        self.srtt8 != 0
    }
    /// Smoothed RTT in microseconds, 0 before the first sample.
    #[must_use]
    pub fn srtt_us(&self) -> u32 {
        self.srtt8 >> 3
    }
    /// Mean deviation in microseconds (`tcpi_rttvar`).
    #[must_use]
    pub fn rttvar_us(&self) -> u32 {
        self.mdev4 >> 2
    }
    /// Least RTT of the last minutes in microseconds; `u32::MAX` before the first sample.
    #[must_use]
    pub fn min_us(&self) -> u32 {
        self.min_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(120);

    #[test]
    fn first_sample_and_floor() {
        let mut r = Rtt::default();
        assert_eq!(r.rto, TIMEOUT_INIT);
        r.sample(Duration::from_millis(100), 1, 2, MIN, MAX);
        assert_eq!(r.srtt_us(), 100_000);
        assert_eq!(r.rttvar_us(), 50_000);
        assert_eq!(r.rto, Duration::from_millis(300));
        // Linux on a local link: RTO 200 ms + srtt (`ss -ti` shows rto:201 there).
        let mut r = Rtt::default();
        for i in 0..50 {
            r.sample(Duration::from_micros(50), i * 10, i * 10 + 5, MIN, MAX);
        }
        assert_eq!(r.rto, Duration::from_micros(200_050));
    }

    #[test]
    fn backoff_doubles_up_to_the_maximum() {
        let mut r = Rtt::default();
        for _ in 0..40 {
            r.back_off(MAX);
        }
        assert_eq!(r.rto, MAX);
        r.sample(Duration::from_millis(10), 1, 2, MIN, MAX);
        assert_eq!((r.backoff, r.rto), (0, Duration::from_millis(210)));
    }

    #[test]
    fn minimum_ages() {
        let mut r = Rtt::default();
        r.note_min(Duration::from_millis(5), Instant::ZERO);
        r.note_min(Duration::from_millis(9), Instant::from_millis(1000));
        assert_eq!(r.min_us(), 5000);
        r.note_min(Duration::from_millis(9), Instant::from_millis(400_000));
        assert_eq!(r.min_us(), 9000);
    }
}
