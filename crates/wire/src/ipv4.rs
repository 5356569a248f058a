//! The IPv4 header (RFC 791 §3.1) and its options.

use crate::WireError;
use crate::checksum::{csum_replace2, ip_compute_csum};
use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Reserved flag ("evil bit", RFC 3514), as it stands in `frag_off`.
pub const IP_CE: u16 = 0x8000;
/// Do not fragment, as it stands in `frag_off`.
pub const IP_DF: u16 = 0x4000;
/// More fragments, as it stands in `frag_off`.
pub const IP_MF: u16 = 0x2000;
/// Mask of the fragment offset, in units of 8 bytes.
pub const IP_OFFSET: u16 = 0x1fff;
/// Largest header in bytes.
pub const MAX_IPHLEN: usize = 60;
/// Smallest MTU of a link (RFC 791 §3.2), in bytes.
pub const IPV4_MIN_MTU: u32 = 68;
/// Usual initial time to live.
pub const IPDEFTTL: u8 = 64;

/// Mask of the ECN field in the type of service (RFC 3168 §5).
pub const INET_ECN_MASK: u8 = 3;
/// Not ECN-capable.
pub const INET_ECN_NOT_ECT: u8 = 0;
/// ECN-capable transport, ECT(1).
pub const INET_ECN_ECT_1: u8 = 1;
/// ECN-capable transport, ECT(0).
pub const INET_ECN_ECT_0: u8 = 2;
/// Congestion experienced.
pub const INET_ECN_CE: u8 = 3;

/// Copied into every fragment, as a bit of the option type.
pub const IPOPT_COPY: u8 = 0x80;
/// End of the option list.
pub const IPOPT_END: u8 = 0;
/// No operation.
pub const IPOPT_NOOP: u8 = 1;
/// Record route.
pub const IPOPT_RR: u8 = 7;
/// Timestamp.
pub const IPOPT_TIMESTAMP: u8 = 68;
/// Loose source route.
pub const IPOPT_LSRR: u8 = 131;
/// CIPSO security label.
pub const IPOPT_CIPSO: u8 = 134;
/// Stream identifier (obsolete).
pub const IPOPT_SID: u8 = 136;
/// Strict source route.
pub const IPOPT_SSRR: u8 = 137;
/// Router alert (RFC 2113).
pub const IPOPT_RA: u8 = 148;

/// The fixed 20 bytes (`struct iphdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4Hdr {
    /// Version (high nibble) and header length in 32-bit words.
    pub version_ihl: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Header and payload in bytes.
    pub tot_len: U16,
    /// Identification for reassembly.
    pub id: U16,
    /// Flags and fragment offset.
    pub frag_off: U16,
    /// Time to live in hops.
    pub ttl: u8,
    /// What is inside (`IPPROTO_*`).
    pub protocol: u8,
    /// Header checksum.
    pub check: U16,
    /// Source.
    pub saddr: [u8; 4],
    /// Destination.
    pub daddr: [u8; 4],
}

header_views!(Ipv4Hdr);
be_fields!(Ipv4Hdr {
    /// Header and payload in bytes.
    tot_len / set_tot_len: u16,
    /// Identification for reassembly.
    id / set_id: u16,
    /// Flags and fragment offset as they stand; see [`Ipv4Hdr::flags`] and [`Ipv4Hdr::offset_bytes`].
    frag_off / set_frag_off: u16,
    /// Header checksum.
    check / set_check: u16,
});

/// What [`Ipv4Hdr::check_packet`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Lens {
    /// Bytes of the header with options, 20..=60.
    pub hdr_len: usize,
    /// Bytes of the datagram; what is behind is link-layer padding to be trimmed.
    pub tot_len: usize,
    /// Type of service.
    pub tos: u8,
}

impl Ipv4Hdr {
    /// A header without options, checksum not yet computed; `payload_len` is what follows, in bytes (cut to 16 bits).
    #[must_use]
    pub const fn new(saddr: Ipv4Addr, daddr: Ipv4Addr, protocol: u8, ttl: u8, payload_len: usize) -> Self {
        Ipv4Hdr {
            version_ihl: 0x45,
            tos: 0,
            tot_len: U16::new((payload_len as u16).wrapping_add(20)),
            id: U16::ZERO,
            frag_off: U16::ZERO,
            ttl,
            protocol,
            check: U16::ZERO,
            saddr: saddr.octets(),
            daddr: daddr.octets(),
        }
    }

    /// Version: 4.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length in 32-bit words, 5..=15.
    #[inline]
    #[must_use]
    pub const fn ihl(&self) -> u8 {
        self.version_ihl & 15
    }

    /// Header length in bytes, as the field says.
    #[inline]
    #[must_use]
    pub const fn hdr_len(&self) -> usize {
        self.ihl() as usize * 4
    }

    /// Sets version 4 and the header length in 32-bit words (cut to 4 bits).
    #[inline]
    pub fn set_ihl(&mut self, words: u8) {
        self.version_ihl = 0x40 | (words & 15);
    }

    /// Type of service.
    #[inline]
    #[must_use]
    pub const fn tos(&self) -> u8 {
        self.tos
    }

    /// The three flags, as they stand in `frag_off` ([`IP_DF`], [`IP_MF`], [`IP_CE`]).
    #[inline]
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.frag_off.get() & !IP_OFFSET
    }

    /// Fragment offset in bytes, 0..=65528.
    #[inline]
    #[must_use]
    pub fn offset_bytes(&self) -> usize {
        usize::from(self.frag_off.get() & IP_OFFSET) * 8
    }

    /// One piece of a fragmented datagram (`ip_is_fragment`).
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.frag_off.get() & (IP_MF | IP_OFFSET) != 0
    }

    /// Do not fragment.
    #[inline]
    #[must_use]
    pub fn df(&self) -> bool {
        self.frag_off.get() & IP_DF != 0
    }

    /// Time to live.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.ttl
    }

    /// What is inside (`IPPROTO_*`).
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Source.
    #[inline]
    #[must_use]
    pub const fn saddr(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.saddr)
    }

    /// Destination.
    #[inline]
    #[must_use]
    pub const fn daddr(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.daddr)
    }

    /// Sets the source; the checksum is the caller's.
    #[inline]
    pub fn set_saddr(&mut self, a: Ipv4Addr) {
        self.saddr = a.octets();
    }

    /// Sets the destination; the checksum is the caller's.
    #[inline]
    pub fn set_daddr(&mut self, a: Ipv4Addr) {
        self.daddr = a.octets();
    }

    /// ECN field, 0..=3.
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.tos & INET_ECN_MASK
    }

    /// Marks congestion experienced and updates the checksum (`IP_ECN_set_ce`); false when the packet is not
    /// ECN-capable and nothing was changed (RFC 3168 §5).
    pub fn set_ce(&mut self) -> bool {
        if self.ecn() == INET_ECN_NOT_ECT {
            return false;
        }
        self.change_tos(self.tos | INET_ECN_CE);
        true
    }

    /// Sets the type of service and updates the checksum.
    pub fn change_tos(&mut self, tos: u8) {
        let word = |t| u16::from_be_bytes([self.version_ihl, t]);
        let check = csum_replace2(self.check.get(), word(self.tos), word(tos));
        self.check.set(check);
        self.tos = tos;
    }

    /// Takes one from the time to live and updates the checksum (RFC 1624 §3; `ip_decrease_ttl`). Returns the new
    /// value. At 0 nothing is changed: the forwarding path has dropped such a packet before.
    #[inline]
    pub fn decrease_ttl(&mut self) -> u8 {
        if self.ttl == 0 {
            return 0;
        }
        // The word (ttl, protocol) shrinks by 0x0100, so the complement grows by it, with end-around carry.
        let c = u32::from(self.check.get()) + 0x0100;
        self.check.set((c + u32::from(c >= 0xffff)) as u16);
        self.ttl -= 1;
        self.ttl
    }

    /// Version 4 without options: the first byte of nearly every packet.
    #[inline]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.version_ihl == 0x45
    }

    /// As [`Self::check_packet`], for a plain header ([`Self::is_plain`]): the packet's length when all holds.
    #[inline]
    #[must_use]
    pub fn check_plain(&self, packet_len: usize) -> Option<usize> {
        let tot_len = usize::from(self.tot_len.get());
        let fits = tot_len >= Self::LEN && tot_len <= packet_len;
        (fits && ip_compute_csum(self.bytes()) == 0).then_some(tot_len)
    }

    /// Validates as `ip_rcv_core` does, in its order. `head` begins at the header and must hold all of it;
    /// `packet_len` counts from the header to the end of the packet, payload pieces included.
    ///
    /// # Errors
    /// [`WireError::TooShort`] (RFC 1122 §3.2.1.1, fewer bytes than the header), [`WireError::BadVersion`],
    /// [`WireError::BadHeaderLen`], [`WireError::BadChecksum`] (§3.2.1.2), [`WireError::Truncated`] when the packet
    /// is shorter than `tot_len`, [`WireError::BadTotalLen`] when `tot_len` is shorter than the header.
    #[inline]
    pub fn check_packet(head: &[u8], packet_len: usize) -> Result<Ipv4Lens, WireError> {
        let h = Self::view(head).ok_or(WireError::TooShort)?;
        if h.version() != 4 {
            return Err(WireError::BadVersion);
        }
        let hdr_len = h.hdr_len();
        if hdr_len < Self::LEN {
            return Err(WireError::BadHeaderLen);
        }
        let whole = head.get(..hdr_len).ok_or(WireError::TooShort)?;
        // Without options the length is known when compiled, and the sum is five additions.
        let sum = if hdr_len == Self::LEN { ip_compute_csum(h.bytes()) } else { ip_compute_csum(whole) };
        if sum != 0 {
            return Err(WireError::BadChecksum);
        }
        let tot_len = usize::from(h.tot_len.get());
        if packet_len < tot_len {
            return Err(WireError::Truncated);
        }
        if tot_len < hdr_len {
            return Err(WireError::BadTotalLen);
        }
        Ok(Ipv4Lens { hdr_len, tot_len, tos: h.tos })
    }
}

/// Computes and stores the header checksum (`ip_send_check`). `head` begins at the header; its length comes from the
/// header length field. `None`, and nothing written, when `head` is shorter.
#[inline]
#[must_use]
pub fn ip_send_check(head: &mut [u8]) -> Option<()> {
    let len = Ipv4Hdr::view(head)?.hdr_len();
    if len < Ipv4Hdr::LEN || head.len() < len {
        return None;
    }
    Ipv4Hdr::view_mut(head)?.check = U16::ZERO;
    let c = ip_compute_csum(head.get(..len)?);
    Ipv4Hdr::view_mut(head)?.check.set(c);
    Some(())
}

/// The option bytes of a validated header; empty when it has none or `head` is too short.
#[must_use]
pub fn option_bytes(head: &[u8]) -> &[u8] {
    Ipv4Hdr::view(head).and_then(|h| head.get(Ipv4Hdr::LEN..h.hdr_len())).unwrap_or(&[])
}

/// One option of the IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpOption<'a> {
    /// Type (`IPOPT_*`), with the copy bit.
    pub kind: u8,
    /// Where the option begins, in bytes from the start of the IPv4 header, as ICMP parameter problem counts.
    pub offset: usize,
    /// The whole option: type, length, data. One byte for no-operation.
    pub bytes: &'a [u8],
}

/// Walks the options (RFC 791 §3.1). Ends at `IPOPT_END` or the end; a malformed option yields one `Err` with its
/// offset from the header start (what `ip_options_compile` reports) and ends the walk.
#[derive(Clone, Debug)]
pub struct IpOptions<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> IpOptions<'a> {
    /// Over the option bytes ([`option_bytes`]).
    #[must_use]
    pub const fn new(options: &'a [u8]) -> Self {
        IpOptions { rest: options, offset: Ipv4Hdr::LEN }
    }
}

impl<'a> Iterator for IpOptions<'a> {
    type Item = Result<IpOption<'a>, usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, _) = self.rest.split_first()?;
        let offset = self.offset;
        let len = match (kind, self.rest.get(1)) {
            (IPOPT_END, _) => {
                self.rest = &[];
                return None;
            }
            (IPOPT_NOOP, _) => 1,
            (_, Some(&l)) if l >= 2 => usize::from(l),
            (_, _) => 0,
        };
        match self.rest.split_at_checked(len) {
            Some((bytes, rest)) if len > 0 => {
                self.rest = rest;
                self.offset += len;
                Some(Ok(IpOption { kind, offset, bytes }))
            }
            Some(_) | None => {
                self.rest = &[];
                Some(Err(offset))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> [u8; 20] {
        let mut h = Ipv4Hdr::new(Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 0, 199), 17, 64, 95);
        h.set_frag_off(IP_DF);
        let mut b = [0; 20];
        h.put(&mut b).unwrap();
        ip_send_check(&mut b).unwrap();
        b
    }

    #[test]
    fn known_header() {
        let b = sample();
        assert_eq!(
            b,
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199]
        );
        let h = Ipv4Hdr::view(&b).unwrap();
        assert!(h.df() && !h.is_fragment() && h.offset_bytes() == 0 && h.flags() == IP_DF);
        assert_eq!(Ipv4Hdr::check_packet(&b, 115), Ok(Ipv4Lens { hdr_len: 20, tot_len: 115, tos: 0 }));
    }

    #[test]
    fn what_is_refused() {
        let b = sample();
        let case = |f: &dyn Fn(&mut [u8; 20]), len| {
            let mut c = b;
            f(&mut c);
            Ipv4Hdr::check_packet(&c, len)
        };
        assert_eq!(Ipv4Hdr::check_packet(&b[..19], 115), Err(WireError::TooShort));
        assert_eq!(case(&|c| c[0] = 0x65, 115), Err(WireError::BadVersion));
        assert_eq!(case(&|c| c[0] = 0x44, 115), Err(WireError::BadHeaderLen));
        assert_eq!(case(&|c| c[0] = 0x46, 115), Err(WireError::TooShort));
        assert_eq!(case(&|c| c[8] = 63, 115), Err(WireError::BadChecksum));
        assert_eq!(case(&|_| (), 114), Err(WireError::Truncated));
        let short = |c: &mut [u8; 20]| {
            c[3] = 19;
            ip_send_check(c).unwrap();
        };
        assert_eq!(case(&short, 115), Err(WireError::BadTotalLen));
    }

    #[test]
    fn options_walk() {
        let o = [IPOPT_NOOP, IPOPT_RA, 4, 0, 0, IPOPT_RR, 3, 4, IPOPT_END, 99];
        let v: Vec<_> = IpOptions::new(&o).map(|r| r.map(|o| (o.kind, o.offset, o.bytes.len()))).collect();
        assert_eq!(v, [Ok((IPOPT_NOOP, 20, 1)), Ok((IPOPT_RA, 21, 4)), Ok((IPOPT_RR, 25, 3))]);
        for bad in [&[IPOPT_RR][..], &[IPOPT_RR, 1], &[IPOPT_RR, 0], &[IPOPT_RR, 4, 0]] {
            assert_eq!(IpOptions::new(bad).collect::<Vec<_>>(), [Err(20)]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn ttl_and_tos_keep_the_checksum(ttl in 1u8.., id: u16, s: [u8; 4], d: [u8; 4], tos: u8) {
            let mut h = Ipv4Hdr::new(s.into(), d.into(), 6, ttl, 0);
            h.set_id(id);
            let mut b = [0; 20];
            h.put(&mut b).unwrap();
            ip_send_check(&mut b).unwrap();
            prop_assert_eq!(Ipv4Hdr::view_mut(&mut b).unwrap().decrease_ttl(), ttl - 1);
            prop_assert!(Ipv4Hdr::check_packet(&b, 20).is_ok());
            Ipv4Hdr::view_mut(&mut b).unwrap().change_tos(tos);
            let ce = Ipv4Hdr::view_mut(&mut b).unwrap().set_ce();
            prop_assert_eq!(ce, tos & 3 != 0);
            prop_assert!(Ipv4Hdr::check_packet(&b, 20).is_ok());
        }

        #[test]
        fn any_bytes(b in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(l) = Ipv4Hdr::check_packet(&b, b.len()) {
                prop_assert!(l.hdr_len >= 20 && l.hdr_len <= l.tot_len && l.tot_len <= b.len());
            }
            prop_assert!(IpOptions::new(&b).count() <= b.len());
            let _ = option_bytes(&b);
            let mut b = b;
            if ip_send_check(&mut b).is_some() {
                prop_assert_eq!(ip_compute_csum(&b[..Ipv4Hdr::view(&b).unwrap().hdr_len()]), 0);
            }
        }
    }
}
