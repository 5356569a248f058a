//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo-headers.
//!
//! Partial sums are `u32` whose value is the sum of **big-endian 16-bit words read as host integers**,
//! not yet complemented, with carries in the upper half. They can be added ([`csum_add`]), moved to an
//! odd offset ([`csum_block_add`]) and folded ([`csum_fold`]). Names are those of `include/net/checksum.h`;
//! the kernel's values are in memory order, ours in host order, so they print as they stand in the packet.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Sum of a slice added to `sum`; the slice is taken to start at an even offset.
///
/// Speed: 64 bytes a round in eight independent 64-bit lanes that cannot overflow below 2^32 rounds, which
/// compilers turn into vector code. Byte order does not matter until the end (RFC 1071 §2(B)).
#[inline]
#[must_use]
pub fn csum_partial(data: &[u8], sum: u32) -> u32 {
    csum_add(sum, u32::from(sum16(data)))
}

/// Ones' complement sum of the big-endian words of a slice, folded to 16 bits, not complemented.
#[inline]
fn sum16(data: &[u8]) -> u16 {
    let (blocks, rest) = data.as_chunks::<64>();
    let mut acc = if blocks.is_empty() { 0 } else { sum_blocks(blocks) };
    let (words, rest) = rest.as_chunks::<4>();
    for w in words {
        acc += u64::from(u32::from_ne_bytes(*w));
    }
    let (halves, rest) = rest.as_chunks::<2>();
    for h in halves {
        acc += u64::from(u16::from_ne_bytes(*h));
    }
    if let [last] = rest {
        // RFC 1071 §4.1: an odd last byte is padded with a zero behind it.
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold64(acc))
}

/// Sum of whole blocks, in memory order, small enough that what is left can be added without overflow.
fn sum_blocks(blocks: &[[u8; 64]]) -> u64 {
    let mut lo = [0u64; 8];
    let mut hi = [0u64; 8];
    for b in blocks {
        let (words, _) = b.as_chunks::<8>();
        for ((l, h), w) in lo.iter_mut().zip(hi.iter_mut()).zip(words) {
            let w = u64::from_ne_bytes(*w);
            // Each lane grows by less than 2^32 per block: no carry is ever lost below 2^32 blocks.
            *l += w & 0xffff_ffff;
            *h += w >> 32;
        }
    }
    // 2^16 ≡ 1 in ones' complement arithmetic, so 32-bit halves are folded one by one before they are added.
    lo.iter().chain(hi.iter()).map(|v| (v >> 32) + (v & 0xffff_ffff)).sum()
}

/// Folds a 64-bit sum to 16 bits, not complemented.
#[inline]
fn fold64(mut s: u64) -> u16 {
    s = (s >> 32) + (s & 0xffff_ffff);
    s = (s >> 16) + (s & 0xffff);
    s = (s >> 16) + (s & 0xffff);
    s = (s >> 16) + (s & 0xffff);
    s as u16
}

/// Folds a partial sum to 16 bits without complementing it: what a virtio or `CHECKSUM_PARTIAL` packet carries.
#[inline]
#[must_use]
pub fn csum_fold_partial(sum: u32) -> u16 {
    fold64(u64::from(sum))
}

/// Folds and complements: the value for the checksum field, or 0 when a packet with its field in place verifies.
#[inline]
#[must_use]
pub fn csum_fold(sum: u32) -> u16 {
    !csum_fold_partial(sum)
}

/// The partial sum whose fold is `!check`: what a checksum field says about the bytes it covers.
#[inline]
#[must_use]
pub fn csum_unfold(check: u16) -> u32 {
    u32::from(check)
}

/// Adds two partial sums with end-around carry.
#[inline]
#[must_use]
pub fn csum_add(a: u32, b: u32) -> u32 {
    let (s, c) = a.overflowing_add(b);
    s.wrapping_add(u32::from(c))
}

/// Takes `b` away from the partial sum `a`.
#[inline]
#[must_use]
pub fn csum_sub(a: u32, b: u32) -> u32 {
    csum_add(a, !b)
}

/// Adds the sum of a block that begins `offset` bytes behind the start: at odd offsets its bytes swap places
/// (RFC 1071 §2(B)), which is a rotation by eight bits.
#[inline]
#[must_use]
pub fn csum_block_add(sum: u32, block: u32, offset: usize) -> u32 {
    csum_add(sum, if offset & 1 == 1 { block.rotate_right(8) } else { block })
}

/// Takes away the sum of a block at `offset`; the inverse of [`csum_block_add`].
#[inline]
#[must_use]
pub fn csum_block_sub(sum: u32, block: u32, offset: usize) -> u32 {
    csum_block_add(sum, !block, offset)
}

/// Checksum over pieces in sequence, at any lengths: headers, then the fragments of the payload.
#[must_use]
pub fn csum_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, sum: u32) -> u32 {
    let mut offset = 0usize;
    let mut sum = sum;
    for p in pieces {
        sum = csum_block_add(sum, csum_partial(p, 0), offset);
        offset = offset.wrapping_add(p.len());
    }
    sum
}

/// The complete Internet checksum of a slice: for ICMP, IGMP and the IPv4 header.
#[inline]
#[must_use]
pub fn ip_compute_csum(data: &[u8]) -> u16 {
    csum_fold(csum_partial(data, 0))
}

/// Sum of an IPv4 pseudo-header (RFC 9293 §3.1, RFC 768); `len` is the transport header plus payload in bytes.
#[inline]
#[must_use]
pub fn csum_tcpudp_nofold(saddr: Ipv4Addr, daddr: Ipv4Addr, len: u32, proto: u8, sum: u32) -> u32 {
    let words = |v: u32| u64::from(v >> 16) + u64::from(v & 0xffff);
    let s = u64::from(sum) + words(saddr.to_bits()) + words(daddr.to_bits()) + words(len) + u64::from(proto);
    ((s >> 32) as u32).wrapping_add(s as u32)
}

/// The transport checksum over IPv4: pseudo-header plus `sum` of header and payload, folded, complemented.
#[inline]
#[must_use]
pub fn csum_tcpudp_magic(saddr: Ipv4Addr, daddr: Ipv4Addr, len: u32, proto: u8, sum: u32) -> u16 {
    csum_fold(csum_tcpudp_nofold(saddr, daddr, len, proto, sum))
}

/// Sum of an IPv6 pseudo-header (RFC 8200 §8.1); `len` is the upper-layer length in bytes.
#[inline]
#[must_use]
pub fn csum_ipv6_nofold(saddr: &Ipv6Addr, daddr: &Ipv6Addr, len: u32, proto: u8, sum: u32) -> u32 {
    let words = |v: u128| fold64((v >> 64) as u64);
    let low = |v: u128| fold64(v as u64);
    let (s, d) = (saddr.to_bits(), daddr.to_bits());
    let mut t =
        u64::from(sum) + u64::from(words(s)) + u64::from(low(s)) + u64::from(words(d)) + u64::from(low(d));
    t += u64::from(len >> 16) + u64::from(len & 0xffff) + u64::from(proto);
    ((t >> 32) as u32).wrapping_add(t as u32)
}

/// The transport checksum over IPv6: pseudo-header plus `sum` of header and payload, folded, complemented.
#[inline]
#[must_use]
pub fn csum_ipv6_magic(saddr: &Ipv6Addr, daddr: &Ipv6Addr, len: u32, proto: u8, sum: u32) -> u16 {
    csum_fold(csum_ipv6_nofold(saddr, daddr, len, proto, sum))
}

/// The checksum after a 16-bit word of the covered bytes changed (RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m')).
#[inline]
#[must_use]
pub fn csum_replace2(check: u16, old: u16, new: u16) -> u16 {
    csum_fold(u32::from(!check) + u32::from(!old) + u32::from(new))
}

/// The checksum after an aligned 32-bit word changed (an address, or two ports).
#[inline]
#[must_use]
pub fn csum_replace4(check: u16, old: u32, new: u32) -> u16 {
    csum_fold(csum_add(csum_add(u32::from(!check), !old), new))
}

/// The checksum after bytes at an even offset changed; both slices cover the same bytes and are of even length.
#[must_use]
pub fn csum_replace_bytes(check: u16, old: &[u8], new: &[u8]) -> u16 {
    csum_fold(csum_add(csum_sub(u32::from(!check), csum_partial(old, 0)), csum_partial(new, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(data: &[u8]) -> u16 {
        let mut s = 0u64;
        for c in data.chunks(2) {
            s += u64::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]));
        }
        while s > 0xffff {
            s = (s >> 16) + (s & 0xffff);
        }
        !(s as u16)
    }

    #[test]
    fn rfc1071_example() {
        // RFC 1071 §3: the words 0001 f203 f4f5 f6f7 sum to ddf2.
        assert_eq!(csum_fold_partial(csum_partial(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    #[test]
    fn rfc1624_example() {
        // RFC 1624 §4: HC = DD2F, m = 5555, m' = 3285 gives 0000, not FFFF.
        assert_eq!(csum_replace2(0xdd2f, 0x5555, 0x3285), 0);
    }

    #[test]
    fn all_ones_of_every_length() {
        let b = [0xffu8; 400];
        for n in 0..400 {
            assert_eq!(ip_compute_csum(&b[..n]), naive(&b[..n]), "{n}");
        }
    }

    #[test]
    fn pseudo_headers() {
        let (s4, d4) = (Ipv4Addr::new(255, 255, 255, 254), Ipv4Addr::new(192, 0, 2, 77));
        let mut ph = [0u8; 12];
        ph[..4].copy_from_slice(&s4.octets());
        ph[4..8].copy_from_slice(&d4.octets());
        ph[9] = 17;
        ph[10..].copy_from_slice(&1234u16.to_be_bytes());
        assert_eq!(csum_tcpudp_magic(s4, d4, 1234, 17, 0), naive(&ph));
        let (s6, d6): (Ipv6Addr, Ipv6Addr) =
            ("fe80::1234:ffff".parse().unwrap(), "2001:db8::ff".parse().unwrap());
        let mut ph = [0u8; 40];
        ph[..16].copy_from_slice(&s6.octets());
        ph[16..32].copy_from_slice(&d6.octets());
        ph[32..36].copy_from_slice(&70000u32.to_be_bytes());
        ph[39] = 58;
        assert_eq!(csum_ipv6_magic(&s6, &d6, 70000, 58, 0), naive(&ph));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn equals_naive(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(ip_compute_csum(&data), naive(&data));
        }

        #[test]
        fn pieces_equal_whole(data in proptest::collection::vec(any::<u8>(), 1..300), a in 0usize..300, b in 0usize..300, seed: u32) {
            let (a, b) = (a.min(b).min(data.len()), a.max(b).min(data.len()));
            let whole = csum_fold(csum_partial(&data, seed));
            let parts = csum_pieces([&data[..a], &data[a..b], &data[b..]], seed);
            prop_assert_eq!(csum_fold(parts), whole);
            let tail = csum_partial(&data[a..], 0);
            let head = csum_block_sub(csum_partial(&data, 0), tail, a);
            let h = csum_fold(head);
            let n = naive(&data[..a]);
            // Both zeros of ones' complement are the same sum.
            prop_assert!(h == n || (h == 0 && n == 0xffff), "{:x} {:x}", h, n);
        }

        #[test]
        fn replace_equals_recompute(mut data in proptest::collection::vec(1u8.., 64), i in 0usize..15, new: u32) {
            let before = ip_compute_csum(&data);
            let at = i * 4;
            let old = u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
            data[at..at + 4].copy_from_slice(&new.to_be_bytes());
            let after = ip_compute_csum(&data);
            prop_assert_eq!(csum_replace4(before, old, new), after);
            prop_assert_eq!(csum_replace_bytes(before, &old.to_be_bytes(), &new.to_be_bytes()), after);
            let mid = csum_replace2(before, (old >> 16) as u16, (new >> 16) as u16);
            prop_assert_eq!(csum_replace2(mid, old as u16, new as u16), after);
        }
    }
}
