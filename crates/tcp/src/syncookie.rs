//! SYN cookies: a SYN-ACK sequence number that carries what a `RequestSock` would have remembered.
//!
//! Layout as in Linux (`net/ipv4/syncookies.c`): the peer's ISN plus a keyed hash, 8 bits of a minute counter
//! on top, and an index into a table of MSS values hidden in the low 24 bits. When the peer sent timestamps,
//! the low 6 bits of our first timestamp carry window scale, SACK and ECN.

use ferronet_core::hash::siphash24;
use ferronet_core::time::Instant;

/// MSS values for IPv4 (`msstab`).
pub const MSS_TABLE_V4: [u16; 4] = [536, 1300, 1440, 1460];
/// MSS values for IPv6.
pub const MSS_TABLE_V6: [u16; 4] = [1220, 1440, 1460, 8940];
/// Cookies are good for this many minutes (`MAX_SYNCOOKIE_AGE`).
const MAX_AGE: u32 = 2;
const COOKIE_BITS: u32 = 24;
const COOKIE_MASK: u32 = (1 << COOKIE_BITS) - 1;

const TSBITS: u32 = 6;
const TSMASK: u32 = (1 << TSBITS) - 1;
const TS_OPT_WSCALE_MASK: u32 = 0xf;
const TS_OPT_SACK: u32 = 1 << 4;
const TS_OPT_ECN: u32 = 1 << 5;

fn minutes(now: Instant) -> u32 {
    (now.millis() / 60_000) as u32
}

fn cookie_hash(key: [u64; 2], flow: [u64; 5], count: u32, c: u64) -> u32 {
    let [a, b, d, e, f] = flow;
    siphash24(key, &[a, b, d, e, f, u64::from(count) << 8 | c]) as u32
}

/// Describes a flow to the cookie: addresses as four words, ports as the fifth.
pub type Flow = [u64; 5];

/// Encodes a cookie. Returns it and the MSS it stands for: the largest table entry not above `mss`.
#[must_use]
pub fn encode(
    key: [u64; 2],
    flow: Flow,
    peer_isn: u32,
    mss: u16,
    table: &[u16; 4],
    now: Instant,
) -> (u32, u16) {
    let index = table.iter().rposition(|&m| m <= mss).unwrap_or(0);
    let count = minutes(now);
    let low = cookie_hash(key, flow, count, 1).wrapping_add(index as u32) & COOKIE_MASK;
    let cookie = cookie_hash(key, flow, 0, 0)
        .wrapping_add(peer_isn)
        .wrapping_add(count << COOKIE_BITS)
        .wrapping_add(low);
    (cookie, table[index])
}

/// Checks the cookie of a final ACK (`cookie` = ack - 1, `peer_isn` = seq - 1) and returns the MSS in it.
#[must_use]
pub fn decode(
    key: [u64; 2],
    flow: Flow,
    peer_isn: u32,
    cookie: u32,
    table: &[u16; 4],
    now: Instant,
) -> Option<u16> {
    let rest = cookie.wrapping_sub(cookie_hash(key, flow, 0, 0)).wrapping_sub(peer_isn);
    let count = minutes(now);
    let age = count.wrapping_sub(rest >> COOKIE_BITS) & (u32::MAX >> COOKIE_BITS);
    if age >= MAX_AGE {
        return None;
    }
    let index = rest.wrapping_sub(cookie_hash(key, flow, count.wrapping_sub(age), 1)) & COOKIE_MASK;
    table.get(index as usize).copied()
}

/// Options that travel in the timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TsOptions {
    /// The peer's window scale, if it sent one.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// ECN negotiated.
    pub ecn: bool,
}

/// The timestamp that carries `o`: `ts` with its low 6 bits replaced, never later than `ts`
/// (`cookie_init_timestamp`).
#[must_use]
pub fn encode_timestamp(ts: u32, o: TsOptions) -> u32 {
    let mut bits = match o.wscale {
        Some(w) => u32::from(w.min(14)),
        None => TS_OPT_WSCALE_MASK,
    };
    if o.sack {
        bits |= TS_OPT_SACK;
    }
    if o.ecn {
        bits |= TS_OPT_ECN;
    }
    let with = (ts & !TSMASK) | bits;
    if with > ts { with.wrapping_sub(TSMASK + 1) } else { with }
}

/// Reads the options from the echoed timestamp (offset already removed). `None` when the window scale is
/// impossible, so the ACK cannot be for one of our cookies.
#[must_use]
pub fn decode_timestamp(tsecr: u32) -> Option<TsOptions> {
    let w = tsecr & TS_OPT_WSCALE_MASK;
    let wscale = if w == TS_OPT_WSCALE_MASK { None } else { Some(w as u8) };
    if w > 14 && wscale.is_some() {
        return None;
    }
    Some(TsOptions { wscale, sack: tsecr & TS_OPT_SACK != 0, ecn: tsecr & TS_OPT_ECN != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    const KEY: [u64; 2] = [11, 22];
    const FLOW: Flow = [1, 2, 3, 4, 5];

    #[test]
    fn round_trip_and_age() {
        let now = Instant::from_millis(600_000);
        for (mss, want) in [(100, 536), (536, 536), (1439, 1300), (1460, 1460), (9000, 1460)] {
            let (c, m) = encode(KEY, FLOW, 777, mss, &MSS_TABLE_V4, now);
            assert_eq!(m, want);
            assert_eq!(decode(KEY, FLOW, 777, c, &MSS_TABLE_V4, now), Some(want));
            let later = Instant::from_millis(600_000 + 60_000);
            assert_eq!(decode(KEY, FLOW, 777, c, &MSS_TABLE_V4, later), Some(want));
            let late = Instant::from_millis(600_000 + 120_000);
            assert_eq!(decode(KEY, FLOW, 777, c, &MSS_TABLE_V4, late), None);
            assert_eq!(decode(KEY, [1, 2, 3, 4, 6], 777, c, &MSS_TABLE_V4, now), None);
        }
    }

    #[test]
    fn guesses_do_not_pass() {
        let mut rng = ferronet_core::rng::Rng::new(3);
        let hits = (0..100_000)
            .filter(|_| {
                decode(KEY, FLOW, 1, rng.next_u32(), &MSS_TABLE_V4, Instant::from_millis(1)).is_some()
            })
            .count();
        assert_eq!(hits, 0);
    }

    #[test]
    fn timestamp_options() {
        for ts in [0u32, 63, 64, 12345, u32::MAX] {
            for wscale in [None, Some(0), Some(7), Some(14)] {
                let o = TsOptions { wscale, sack: ts % 2 == 0, ecn: ts % 3 == 0 };
                let t = encode_timestamp(ts, o);
                assert!(ts.wrapping_sub(t) < 64 + 64);
                assert_eq!(decode_timestamp(t), Some(o));
            }
        }
    }
}
