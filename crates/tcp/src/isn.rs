//! Initial sequence numbers and timestamp offsets (RFC 6528 §3, RFC 7323 §5.4).
//!
//! The caller describes a flow as words (addresses, ports); this crate does not know what they mean.

use ferronet_core::hash::siphash24;
use ferronet_core::time::Instant;

/// ISN = M + F(flow, secret). M ticks every 64 ns as in Linux (`seq_scale`), so the space wraps after 4.5
/// minutes and the ISNs of one flow grow faster than any sender within TIME_WAIT.
#[must_use]
pub fn secure_tcp_seq(key: [u64; 2], flow: &[u64], now: Instant) -> u32 {
    (siphash24(key, flow) as u32).wrapping_add((now.0 >> 6) as u32)
}

/// Offset that is added to the timestamp clock of a connection (`secure_tcp_ts_off`): one per address pair,
/// so that timestamps stay monotonic over ports and reveal no uptime.
#[must_use]
pub fn secure_tcp_ts_off(key: [u64; 2], addresses: &[u64]) -> u32 {
    siphash24([key[0] ^ 0x7473_6f66_6621_7473, key[1]], addresses) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_time_and_differs_by_flow() {
        let k = [1, 2];
        let a = secure_tcp_seq(k, &[1, 2], Instant(0));
        assert_eq!(secure_tcp_seq(k, &[1, 2], Instant(64_000)).wrapping_sub(a), 1000);
        assert_ne!(a, secure_tcp_seq(k, &[1, 3], Instant(0)));
        assert_ne!(secure_tcp_ts_off(k, &[1]), secure_tcp_ts_off(k, &[2]));
    }
}
