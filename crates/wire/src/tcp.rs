//! TCP (RFC 9293 §3.1): header, flags, sequence numbers. Options are in the module `options`.

use crate::WireError;
use bitflags::bitflags;
use core::ops::{Add, AddAssign, Sub, SubAssign};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

mod options;
pub use options::*;

/// Largest header in bytes.
pub const MAX_TCP_HEADER_LEN: usize = 60;
/// Room for options in bytes.
pub const MAX_TCP_OPTION_SPACE: usize = 40;
/// Largest window without scaling, in bytes.
pub const MAX_TCP_WINDOW: u32 = 32767;
/// Largest window scale (RFC 7323 §2.3).
pub const TCP_MAX_WSCALE: u8 = 14;
/// MSS to assume for IPv4 when the peer names none (RFC 9293 §3.7.1), in bytes.
pub const TCP_MSS_DEFAULT: u16 = 536;
/// Smallest MSS the kernel uses, in bytes.
pub const TCP_MIN_MSS: u16 = 88;

bitflags! {
    /// Control bits, as the low 9 bits of the fourth word's upper half.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct TcpFlags: u16 {
        /// No more data from the sender.
        const FIN = 0x001;
        /// Synchronise sequence numbers.
        const SYN = 0x002;
        /// Reset the connection.
        const RST = 0x004;
        /// Push.
        const PSH = 0x008;
        /// The acknowledgment field is significant.
        const ACK = 0x010;
        /// The urgent pointer is significant.
        const URG = 0x020;
        /// ECN echo (RFC 3168 §6.1).
        const ECE = 0x040;
        /// Congestion window reduced (RFC 3168 §6.1).
        const CWR = 0x080;
        /// Accurate ECN (RFC 9768 §3.1), once the nonce sum.
        const AE = 0x100;
    }
}

/// The fixed 20 bytes (`struct tcphdr`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct TcpHdr {
    /// Source port.
    pub source: U16,
    /// Destination port.
    pub dest: U16,
    /// Sequence number of the first byte, or of SYN.
    pub seq: U32,
    /// Next sequence number expected.
    pub ack_seq: U32,
    /// Header length in 32-bit words (4 bits), reserved (3), control bits (9).
    pub doff_flags: U16,
    /// Window, unscaled as it stands.
    pub window: U16,
    /// Checksum with pseudo-header.
    pub check: U16,
    /// Urgent pointer.
    pub urg_ptr: U16,
}

header_views!(TcpHdr);
be_fields!(TcpHdr {
    /// Source port.
    source / set_source: u16,
    /// Destination port.
    dest / set_dest: u16,
    /// Window, unscaled as it stands.
    window / set_window: u16,
    /// Checksum with pseudo-header.
    check / set_check: u16,
    /// Urgent pointer.
    urg_ptr / set_urg_ptr: u16,
});

impl TcpHdr {
    /// A header with length 20 and everything else 0.
    #[must_use]
    pub const fn new(source: u16, dest: u16) -> Self {
        TcpHdr {
            source: U16::new(source),
            dest: U16::new(dest),
            seq: U32::ZERO,
            ack_seq: U32::ZERO,
            doff_flags: U16::new(0x5000),
            window: U16::ZERO,
            check: U16::ZERO,
            urg_ptr: U16::ZERO,
        }
    }

    /// Sequence number.
    #[inline]
    #[must_use]
    pub fn seq(&self) -> SeqNr {
        SeqNr(self.seq.get())
    }

    /// Acknowledgment number; significant with [`TcpFlags::ACK`].
    #[inline]
    #[must_use]
    pub fn ack_seq(&self) -> SeqNr {
        SeqNr(self.ack_seq.get())
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_seq(&mut self, s: SeqNr) {
        self.seq.set(s.0);
    }

    /// Sets the acknowledgment number.
    #[inline]
    pub fn set_ack_seq(&mut self, s: SeqNr) {
        self.ack_seq.set(s.0);
    }

    /// Control bits; the reserved ones are left out.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags::from_bits_truncate(self.doff_flags.get())
    }

    /// Sets the control bits and keeps the rest.
    #[inline]
    pub fn set_flags(&mut self, f: TcpFlags) {
        self.doff_flags.set(self.doff_flags.get() & !TcpFlags::all().bits() | f.bits());
    }

    /// Header length in bytes, as the field says.
    #[inline]
    #[must_use]
    pub fn hdr_len(&self) -> usize {
        usize::from(self.doff_flags.get() >> 12) * 4
    }

    /// Sets the header length in bytes, a multiple of 4 up to 60 (other bits are cut).
    #[inline]
    pub fn set_hdr_len(&mut self, bytes: usize) {
        let words = (bytes / 4) as u16 & 15;
        self.doff_flags.set(self.doff_flags.get() & 0x0fff | words << 12);
    }

    /// Validates the header length as `tcp_v4_rcv` does. Returns the header's bytes with options, 20..=60.
    ///
    /// # Errors
    /// [`WireError::TooShort`] when `head` does not hold the whole header, [`WireError::BadHeaderLen`].
    pub fn check_header(head: &[u8]) -> Result<usize, WireError> {
        let len = Self::view(head).ok_or(WireError::TooShort)?.hdr_len();
        if len < Self::LEN {
            return Err(WireError::BadHeaderLen);
        }
        if head.len() < len { Err(WireError::TooShort) } else { Ok(len) }
    }
}

/// The option bytes of a validated header; empty when it has none or `head` is too short.
#[must_use]
pub fn option_bytes(head: &[u8]) -> &[u8] {
    TcpHdr::view(head).and_then(|h| head.get(TcpHdr::LEN..h.hdr_len())).unwrap_or(&[])
}

/// A sequence number: 32 bits that wrap (RFC 9293 §3.4). Deliberately without `Ord`: "before" holds only within half
/// of the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SeqNr(pub u32);

impl SeqNr {
    /// `self` before `o` (`before`).
    #[inline]
    #[must_use]
    pub const fn lt(self, o: SeqNr) -> bool {
        self.diff(o) < 0
    }

    /// `self` before `o` or equal.
    #[inline]
    #[must_use]
    pub const fn le(self, o: SeqNr) -> bool {
        !o.lt(self)
    }

    /// `self` after `o` (`after`).
    #[inline]
    #[must_use]
    pub const fn gt(self, o: SeqNr) -> bool {
        o.lt(self)
    }

    /// `self` after `o` or equal.
    #[inline]
    #[must_use]
    pub const fn ge(self, o: SeqNr) -> bool {
        !self.lt(o)
    }

    /// `low` ≤ `self` ≤ `high` (`between`).
    #[inline]
    #[must_use]
    pub const fn between(self, low: SeqNr, high: SeqNr) -> bool {
        high.0.wrapping_sub(low.0) >= self.0.wrapping_sub(low.0)
    }

    /// Signed distance from `o` to `self`, in bytes.
    #[inline]
    #[must_use]
    pub const fn diff(self, o: SeqNr) -> i32 {
        self.0.wrapping_sub(o.0) as i32
    }

    /// The later of two.
    #[inline]
    #[must_use]
    pub const fn max(self, o: SeqNr) -> SeqNr {
        if self.lt(o) { o } else { self }
    }

    /// The earlier of two.
    #[inline]
    #[must_use]
    pub const fn min(self, o: SeqNr) -> SeqNr {
        if o.lt(self) { o } else { self }
    }
}

impl core::fmt::Display for SeqNr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}

impl Add<u32> for SeqNr {
    type Output = SeqNr;
    #[inline]
    fn add(self, n: u32) -> SeqNr {
        SeqNr(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for SeqNr {
    #[inline]
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl Sub<u32> for SeqNr {
    type Output = SeqNr;
    #[inline]
    fn sub(self, n: u32) -> SeqNr {
        SeqNr(self.0.wrapping_sub(n))
    }
}

impl SubAssign<u32> for SeqNr {
    #[inline]
    fn sub_assign(&mut self, n: u32) {
        *self = *self - n;
    }
}

/// Bytes from `o` up to `self`, modulo 2^32; meaningful when `self` is not before `o`.
impl Sub<SeqNr> for SeqNr {
    type Output = u32;
    #[inline]
    fn sub(self, o: SeqNr) -> u32 {
        self.0.wrapping_sub(o.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header() {
        let mut h = TcpHdr::new(80, 40000);
        h.set_seq(SeqNr(0x0102_0304));
        h.set_ack_seq(SeqNr(0x0506_0708));
        h.set_flags(TcpFlags::SYN | TcpFlags::ACK | TcpFlags::AE);
        h.set_hdr_len(40);
        h.set_window(65535);
        let b = [0, 80, 0x9c, 0x40, 1, 2, 3, 4, 5, 6, 7, 8, 0xa1, 0x12, 255, 255, 0, 0, 0, 0];
        assert_eq!(h.bytes(), b);
        assert_eq!(h.flags(), TcpFlags::SYN | TcpFlags::ACK | TcpFlags::AE);
        assert_eq!(TcpHdr::check_header(&b), Err(WireError::TooShort));
        h.set_hdr_len(16);
        assert_eq!(TcpHdr::check_header(h.bytes()), Err(WireError::BadHeaderLen));
        h.set_hdr_len(20);
        assert_eq!(TcpHdr::check_header(h.bytes()), Ok(20));
        assert_eq!(option_bytes(h.bytes()), b"");
    }

    #[test]
    fn sequence_space() {
        let (a, b) = (SeqNr(u32::MAX - 1), SeqNr(3));
        assert!(a.lt(b) && a.le(b) && b.gt(a) && b.ge(a) && a.le(a) && !a.lt(a));
        assert_eq!((b - a, a + 5, b - 5, b.diff(a), a.diff(b)), (5, b, a, 5, -5));
        assert!(SeqNr(0).between(a, b) && a.between(a, b) && b.between(a, b) && !SeqNr(4).between(a, b));
        assert_eq!((a.max(b), a.min(b)), (b, a));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn order_is_that_of_distance(a: u32, d in 1u32..0x7fff_ffff) {
            let (x, y) = (SeqNr(a), SeqNr(a) + d);
            prop_assert!(x.lt(y) && y.gt(x) && x.le(y) && !y.le(x) && y - x == d);
        }

        #[test]
        fn any_header(b in proptest::collection::vec(any::<u8>(), 0..70)) {
            if let Ok(n) = TcpHdr::check_header(&b) {
                prop_assert!((20..=60).contains(&n) && option_bytes(&b).len() == n - 20);
            }
        }
    }
}
