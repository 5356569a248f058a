//! Neighbour discovery for IPv6 (RFC 4861 §4): messages as values, read with the validity rules of §6.1, §7.1 and
//! §8.1 and written into a buffer with their checksum. Options are in the module `options`.

use crate::icmpv6::*;
use crate::{Icmp6Hdr, Ipv6Hdr, MacAddr, WireError};
use core::net::Ipv6Addr;

mod options;
pub use options::*;

/// Every message is sent, and only taken, with this hop limit: it cannot come from off the link (RFC 4861 §7.1).
pub const NDISC_HOP_LIMIT: u8 = 255;

/// Router flag of an advertisement, in the second word.
pub const NDISC_NA_ROUTER: u32 = 0x8000_0000;
/// Solicited flag.
pub const NDISC_NA_SOLICITED: u32 = 0x4000_0000;
/// Override flag.
pub const NDISC_NA_OVERRIDE: u32 = 0x2000_0000;

/// Managed address configuration flag of a router advertisement.
pub const ND_RA_FLAG_MANAGED: u8 = 0x80;
/// Other configuration flag.
pub const ND_RA_FLAG_OTHER: u8 = 0x40;
/// Mobile home agent flag (RFC 6275 §7.1).
pub const ND_RA_FLAG_HOME_AGENT: u8 = 0x20;
/// Mask of the router preference (RFC 4191 §2.2): 0x08 high, 0x18 low, 0x00 medium.
pub const ND_RA_FLAG_PREF: u8 = 0x18;

/// What the IPv6 header said about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdFrom {
    /// Source.
    pub saddr: Ipv6Addr,
    /// Destination.
    pub daddr: Ipv6Addr,
    /// Hop limit on arrival.
    pub hop_limit: u8,
}

/// The message header, type, code and hop limit checked, and the `N` bytes that stand between header and options.
fn open<const N: usize>(m: &[u8], kind: u8, f: &NdFrom) -> Result<([u8; 4], [u8; N], NdOptions), WireError> {
    let (h, rest) = Icmp6Hdr::split(m).ok_or(WireError::TooShort)?;
    if h.icmp6_type != kind || h.icmp6_code != 0 || f.hop_limit != NDISC_HOP_LIMIT {
        return Err(WireError::BadField);
    }
    let (fixed, options) = rest.split_first_chunk::<N>().ok_or(WireError::TooShort)?;
    Ok((h.icmp6_dataun, *fixed, NdOptions::parse(options)?))
}

/// Sixteen bytes as an address.
const fn addr(b: [u8; 16]) -> Ipv6Addr {
    Ipv6Addr::from_octets(b)
}

/// A unicast link-local address (RFC 4291 §2.5.6).
const fn is_link_local(a: &Ipv6Addr) -> bool {
    a.is_unicast_link_local()
}

/// Bytes behind each other in a buffer; becomes 0 for good when something does not fit.
struct Out<'a> {
    buf: &'a mut [u8],
    at: usize,
    fits: bool,
}

impl<'a> Out<'a> {
    /// Begins with the header.
    fn new(buf: &'a mut [u8], kind: u8, word: u32) -> Self {
        let mut o = Out { buf, at: 0, fits: true };
        o.put(Icmp6Hdr::new(kind, 0, word).bytes());
        o
    }

    fn put(&mut self, b: &[u8]) {
        match self.buf.get_mut(self.at..).and_then(|r| r.get_mut(..b.len())) {
            Some(to) => {
                to.copy_from_slice(b);
                self.at += b.len();
            }
            None => self.fits = false,
        }
    }

    /// An Ethernet address option, 8 bytes (RFC 2464 §6).
    fn lladdr(&mut self, kind: u8, mac: Option<MacAddr>) {
        if let Some(m) = mac {
            self.put(&[kind, 1]);
            self.put(&m.0);
        }
    }

    /// Stores the checksum; bytes of the message, or 0.
    fn finish(self, saddr: &Ipv6Addr, daddr: &Ipv6Addr) -> usize {
        let message = if self.fits { self.buf.get_mut(..self.at) } else { None };
        match message.and_then(|m| icmp6_send_check(saddr, daddr, m)) {
            Some(()) => self.at,
            None => 0,
        }
    }
}

/// Neighbour solicitation (RFC 4861 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighSolicit {
    /// Whose link-layer address is asked for.
    pub target: Ipv6Addr,
    /// Link-layer address of the asker; none in duplicate address detection.
    pub slla: Option<MacAddr>,
    /// Nonce of duplicate address detection (RFC 7527 §4.1).
    pub nonce: Option<[u8; 6]>,
}

impl NeighSolicit {
    /// Reads and validates (RFC 4861 §7.1.1; `ndisc_recv_ns`). The checksum is the caller's.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::BadOption`], [`WireError::BadField`].
    pub fn parse(m: &[u8], f: &NdFrom) -> Result<Self, WireError> {
        let (_, target, opts) = open::<16>(m, NDISC_NEIGHBOUR_SOLICITATION, f)?;
        let target = addr(target);
        let dad = f.saddr.is_unspecified();
        // §7.1.1: from the unspecified address only to a solicited-node group, and without a source address option.
        // Linux checks "a solicited-node group" and not that it is the target's (ipv6_addr_is_solict_mult, 6.18).
        let dad_ok = !dad || (crate::ipv6::is_solicited_node(&f.daddr) && opts.slla.is_none());
        if target.is_multicast() || !dad_ok {
            return Err(WireError::BadField);
        }
        Ok(NeighSolicit { target, slla: opts.slla, nonce: opts.nonce })
    }

    /// Writes the message with its checksum. Returns its bytes (at most 40), or 0 when `out` is too short.
    #[must_use]
    pub fn emit(&self, saddr: &Ipv6Addr, daddr: &Ipv6Addr, out: &mut [u8]) -> usize {
        let mut o = Out::new(out, NDISC_NEIGHBOUR_SOLICITATION, 0);
        o.put(&self.target.octets());
        o.lladdr(ND_OPT_SOURCE_LL_ADDR, self.slla);
        if let Some(n) = self.nonce {
            o.put(&[ND_OPT_NONCE, 1]);
            o.put(&n);
        }
        o.finish(saddr, daddr)
    }
}

/// Neighbour advertisement (RFC 4861 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighAdvert {
    /// Whose link-layer address this is.
    pub target: Ipv6Addr,
    /// The sender is a router.
    pub router: bool,
    /// Answer to a solicitation.
    pub solicited: bool,
    /// Replace a cached link-layer address.
    pub override_: bool,
    /// The link-layer address.
    pub tlla: Option<MacAddr>,
}

impl NeighAdvert {
    /// Reads and validates (RFC 4861 §7.1.2; `ndisc_recv_na`). The checksum is the caller's.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::BadOption`], [`WireError::BadField`].
    pub fn parse(m: &[u8], f: &NdFrom) -> Result<Self, WireError> {
        let (word, target, opts) = open::<16>(m, NDISC_NEIGHBOUR_ADVERTISEMENT, f)?;
        let (target, flags) = (addr(target), u32::from_be_bytes(word));
        let solicited = flags & NDISC_NA_SOLICITED != 0;
        if target.is_multicast() || (f.daddr.is_multicast() && solicited) {
            return Err(WireError::BadField);
        }
        Ok(NeighAdvert {
            target,
            router: flags & NDISC_NA_ROUTER != 0,
            solicited,
            override_: flags & NDISC_NA_OVERRIDE != 0,
            tlla: opts.tlla,
        })
    }

    /// Writes the message with its checksum. Returns its bytes (at most 32), or 0 when `out` is too short.
    #[must_use]
    pub fn emit(&self, saddr: &Ipv6Addr, daddr: &Ipv6Addr, out: &mut [u8]) -> usize {
        let bit = |on, v| if on { v } else { 0 };
        let flags = bit(self.router, NDISC_NA_ROUTER)
            | bit(self.solicited, NDISC_NA_SOLICITED)
            | bit(self.override_, NDISC_NA_OVERRIDE);
        let mut o = Out::new(out, NDISC_NEIGHBOUR_ADVERTISEMENT, flags);
        o.put(&self.target.octets());
        o.lladdr(ND_OPT_TARGET_LL_ADDR, self.tlla);
        o.finish(saddr, daddr)
    }
}

/// Router solicitation (RFC 4861 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterSolicit {
    /// Link-layer address of the asker; none from the unspecified address.
    pub slla: Option<MacAddr>,
}

impl RouterSolicit {
    /// Reads and validates (RFC 4861 §6.1.1). The checksum is the caller's.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::BadOption`], [`WireError::BadField`].
    pub fn parse(m: &[u8], f: &NdFrom) -> Result<Self, WireError> {
        let (_, [], opts) = open::<0>(m, NDISC_ROUTER_SOLICITATION, f)?;
        if f.saddr.is_unspecified() && opts.slla.is_some() {
            return Err(WireError::BadField);
        }
        Ok(RouterSolicit { slla: opts.slla })
    }

    /// Writes the message with its checksum. Returns its bytes (at most 16), or 0 when `out` is too short.
    #[must_use]
    pub fn emit(&self, saddr: &Ipv6Addr, daddr: &Ipv6Addr, out: &mut [u8]) -> usize {
        let mut o = Out::new(out, NDISC_ROUTER_SOLICITATION, 0);
        o.lladdr(ND_OPT_SOURCE_LL_ADDR, self.slla);
        o.finish(saddr, daddr)
    }
}

/// Router advertisement (RFC 4861 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvert<'a> {
    /// Hop limit hosts should use; 0 says nothing.
    pub cur_hop_limit: u8,
    /// `ND_RA_FLAG_*`.
    pub flags: u8,
    /// Seconds this router is a default router; 0 is not one.
    pub lifetime_s: u16,
    /// Milliseconds a neighbour is reachable after confirmation; 0 says nothing.
    pub reachable_ms: u32,
    /// Milliseconds between solicitations; 0 says nothing.
    pub retrans_ms: u32,
    /// The option bytes, well-formed when parsed: walk them with [`NdOptIter`].
    pub options: &'a [u8],
}

impl<'a> RouterAdvert<'a> {
    /// Reads and validates (RFC 4861 §6.1.2; `ndisc_router_discovery`). The checksum is the caller's.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::BadOption`], [`WireError::BadField`].
    pub fn parse(m: &'a [u8], f: &NdFrom) -> Result<Self, WireError> {
        let ([hops, flags, l0, l1], fixed, _) = open::<8>(m, NDISC_ROUTER_ADVERTISEMENT, f)?;
        if !is_link_local(&f.saddr) {
            return Err(WireError::BadField);
        }
        let [a, b, c, d, e, g, h, i] = fixed;
        Ok(RouterAdvert {
            cur_hop_limit: hops,
            flags,
            lifetime_s: u16::from_be_bytes([l0, l1]),
            reachable_ms: u32::from_be_bytes([a, b, c, d]),
            retrans_ms: u32::from_be_bytes([e, g, h, i]),
            options: m.get(Icmp6Hdr::LEN + 8..).unwrap_or(&[]),
        })
    }

    /// Writes the message with its checksum. Returns its bytes, or 0 when `out` is too short.
    #[must_use]
    pub fn emit(&self, saddr: &Ipv6Addr, daddr: &Ipv6Addr, out: &mut [u8]) -> usize {
        let [l0, l1] = self.lifetime_s.to_be_bytes();
        let word = u32::from_be_bytes([self.cur_hop_limit, self.flags, l0, l1]);
        let mut o = Out::new(out, NDISC_ROUTER_ADVERTISEMENT, word);
        o.put(&self.reachable_ms.to_be_bytes());
        o.put(&self.retrans_ms.to_be_bytes());
        o.put(self.options);
        o.finish(saddr, daddr)
    }
}

/// Redirect (RFC 4861 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect<'a> {
    /// Better first hop; equal to `dest` when that is on the link.
    pub target: Ipv6Addr,
    /// Destination that is redirected.
    pub dest: Ipv6Addr,
    /// Link-layer address of `target`.
    pub tlla: Option<MacAddr>,
    /// The redirected packet, cut; empty without the option. When written, cut to a multiple of 8 and to
    /// 1,184 bytes.
    pub quoted: &'a [u8],
}

/// Most bytes of the redirected packet in a redirect: with the fixed part, the address option and the option header
/// the message stays within the smallest MTU (RFC 4861 §4.6.3).
const REDIRECT_QUOTE_MAX: usize = 1280 - Ipv6Hdr::LEN - 40 - 8 - 8;

impl<'a> Redirect<'a> {
    /// Reads and validates (RFC 4861 §8.1; `ndisc_redirect_rcv`). The checksum is the caller's.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::BadOption`], [`WireError::BadField`].
    pub fn parse(m: &'a [u8], f: &NdFrom) -> Result<Self, WireError> {
        let (_, fixed, opts) = open::<32>(m, NDISC_REDIRECT, f)?;
        let (addrs, _) = fixed.as_chunks::<16>();
        let &[target, dest] = addrs else { return Err(WireError::TooShort) };
        let (target, dest) = (addr(target), addr(dest));
        if !is_link_local(&f.saddr) || dest.is_multicast() || (target != dest && !is_link_local(&target)) {
            return Err(WireError::BadField);
        }
        let options = m.get(Icmp6Hdr::LEN + 32..).unwrap_or(&[]);
        let quoted = NdOptIter::new(options).flatten().find(|o| o.kind == ND_OPT_REDIRECT_HDR);
        let quoted = quoted.and_then(|o| o.bytes.get(8..)).unwrap_or(&[]);
        Ok(Redirect { target, dest, tlla: opts.tlla, quoted })
    }

    /// Writes the message with its checksum. Returns its bytes (at most 1,240), or 0 when `out` is too short.
    #[must_use]
    pub fn emit(&self, saddr: &Ipv6Addr, daddr: &Ipv6Addr, out: &mut [u8]) -> usize {
        let mut o = Out::new(out, NDISC_REDIRECT, 0);
        o.put(&self.target.octets());
        o.put(&self.dest.octets());
        o.lladdr(ND_OPT_TARGET_LL_ADDR, self.tlla);
        let n = self.quoted.len().min(REDIRECT_QUOTE_MAX) & !7;
        if n > 0 {
            // At most 1,184 / 8 + 1 = 149 units: fits the byte.
            o.put(&[ND_OPT_REDIRECT_HDR, (n / 8 + 1) as u8, 0, 0, 0, 0, 0, 0]);
            o.put(self.quoted.get(..n).unwrap_or(&[]));
        }
        o.finish(saddr, daddr)
    }
}

#[cfg(test)]
mod tests;
