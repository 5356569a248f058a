//! TCP options: reading as tolerantly as `tcp_parse_options`, writing in the order of `tcp_options_write`.

use super::{SeqNr, TCP_MAX_WSCALE};

/// End of the list.
pub const TCPOPT_EOL: u8 = 0;
/// Padding.
pub const TCPOPT_NOP: u8 = 1;
/// Maximum segment size (RFC 9293 §3.7.1).
pub const TCPOPT_MSS: u8 = 2;
/// Window scale (RFC 7323 §2).
pub const TCPOPT_WINDOW: u8 = 3;
/// SACK permitted (RFC 2018 §2).
pub const TCPOPT_SACK_PERM: u8 = 4;
/// SACK blocks (RFC 2018 §3).
pub const TCPOPT_SACK: u8 = 5;
/// Timestamps (RFC 7323 §3).
pub const TCPOPT_TIMESTAMP: u8 = 8;
/// MD5 signature (RFC 2385).
pub const TCPOPT_MD5SIG: u8 = 19;
/// Authentication (RFC 5925).
pub const TCPOPT_AO: u8 = 29;
/// Multipath (RFC 8684).
pub const TCPOPT_MPTCP: u8 = 30;
/// Fast open (RFC 7413).
pub const TCPOPT_FASTOPEN: u8 = 34;
/// Experimental (RFC 6994).
pub const TCPOPT_EXP: u8 = 254;
/// Experiment identifier of the old fast open option.
pub const TCPOPT_FASTOPEN_MAGIC: u16 = 0xf989;

/// Padded size of a timestamps option in bytes.
pub const TCPOLEN_TSTAMP_ALIGNED: usize = 12;
/// Size of the MSS option in bytes.
pub const TCPOLEN_MSS_ALIGNED: usize = 4;
/// Padded size of a window scale option in bytes.
pub const TCPOLEN_WSCALE_ALIGNED: usize = 4;
/// Padded size of a SACK permitted option in bytes.
pub const TCPOLEN_SACKPERM_ALIGNED: usize = 4;
/// Padded size of type and length of a SACK option in bytes.
pub const TCPOLEN_SACK_BASE_ALIGNED: usize = 4;
/// Size of a SACK block in bytes.
pub const TCPOLEN_SACK_PERBLOCK: usize = 8;
/// Most SACK blocks in a header.
pub const TCP_NUM_SACKS: usize = 4;
/// Shortest fast open cookie in bytes.
pub const TCP_FASTOPEN_COOKIE_MIN: usize = 4;
/// Longest fast open cookie in bytes.
pub const TCP_FASTOPEN_COOKIE_MAX: usize = 16;

/// Timestamps (RFC 7323 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timestamps {
    /// Sender's clock.
    pub tsval: u32,
    /// Echo of the other's clock; significant with ACK.
    pub tsecr: u32,
}

/// Received data: `start` up to, not including, `end` (RFC 2018 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SackBlock {
    /// First sequence number.
    pub start: SeqNr,
    /// One behind the last.
    pub end: SeqNr,
}

/// Up to [`TCP_NUM_SACKS`] blocks, in the order of the option.
#[derive(Clone, Copy, Debug, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; TCP_NUM_SACKS],
    len: u8,
}

impl SackBlocks {
    /// Adds a block at the end; false when there is no room.
    pub fn push(&mut self, b: SackBlock) -> bool {
        let Some(slot) = self.blocks.get_mut(usize::from(self.len)) else { return false };
        *slot = b;
        self.len += 1;
        true
    }

    /// The blocks.
    #[must_use]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Number of blocks, 0..=4.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// No blocks.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n.min(TCP_NUM_SACKS) as u8);
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl PartialEq for SackBlocks {
    fn eq(&self, o: &Self) -> bool {
        self.as_slice() == o.as_slice()
    }
}

impl Eq for SackBlocks {}

/// Fast open option (RFC 7413 §2; `struct tcp_fastopen_cookie`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FastopenCookie {
    val: [u8; TCP_FASTOPEN_COOKIE_MAX],
    len: u8,
    /// Written as the experimental option 254 with magic, as old peers do.
    pub exp: bool,
}

impl FastopenCookie {
    /// A request for a cookie: the option without one.
    pub const REQUEST: FastopenCookie =
        FastopenCookie { val: [0; TCP_FASTOPEN_COOKIE_MAX], len: 0, exp: false };

    /// A cookie of 4..=16 bytes, even; `None` for other lengths.
    #[must_use]
    pub fn new(cookie: &[u8], exp: bool) -> Option<Self> {
        let n = cookie.len();
        if !(TCP_FASTOPEN_COOKIE_MIN..=TCP_FASTOPEN_COOKIE_MAX).contains(&n) || !n.is_multiple_of(2) {
            return None;
        }
        let mut val = [0; TCP_FASTOPEN_COOKIE_MAX];
        val.get_mut(..n)?.copy_from_slice(cookie);
        Some(FastopenCookie { val, len: n as u8, exp })
    }

    /// The cookie; empty for a request.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.val.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Bytes of the option without padding.
    const fn option_len(&self) -> usize {
        self.len as usize + if self.exp { 4 } else { 2 }
    }
}

/// The options the stack knows, as values. Some are significant in a SYN only (MSS, window scale, SACK permitted,
/// fast open): the reader of a segment without SYN ignores them, as the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Maximum segment size in bytes; never `Some(0)` when parsed.
    pub mss: Option<u16>,
    /// Window scale, 0..=14 when parsed.
    pub wscale: Option<u8>,
    /// The peer takes SACK.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks.
    pub sack: SackBlocks,
    /// Fast open cookie or request.
    pub fastopen: Option<FastopenCookie>,
    /// An MD5 signature or authentication option is present (not verified here).
    pub auth: bool,
    /// Window scale was above 14 and is taken as 14 (RFC 7323 §2.3: use 14, and log).
    pub wscale_clamped: bool,
}

impl TcpOptions {
    /// Reads the option bytes of a header (`tcp_parse_options`): unknown options are skipped, known ones with a wrong
    /// length too, the walk ends at a length below 2 or over the end; a later option of a kind wins.
    #[must_use]
    pub fn parse(options: &[u8]) -> Self {
        let mut o = TcpOptions::default();
        // Nearly every segment of a connection: NOP NOP timestamps (`tcp_parse_aligned_timestamp`).
        if let [TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10, ts @ ..] = options
            && let Ok(ts) = <&[u8; 8]>::try_from(ts)
        {
            o.timestamps = Some(timestamps(*ts));
            return o;
        }
        let mut rest = options;
        while let Some((&kind, behind)) = rest.split_first() {
            match kind {
                TCPOPT_EOL => break,
                TCPOPT_NOP => rest = behind,
                _ => {
                    let Some(&len) = behind.first() else { break };
                    if len < 2 {
                        break;
                    }
                    let Some((this, next)) = rest.split_at_checked(usize::from(len)) else { break };
                    o.parse_one(kind, this.get(2..).unwrap_or(&[]));
                    rest = next;
                }
            }
        }
        o
    }

    /// One option; `data` is what is behind type and length.
    fn parse_one(&mut self, kind: u8, data: &[u8]) {
        match (kind, data) {
            (TCPOPT_MSS, &[a, b]) => {
                let mss = u16::from_be_bytes([a, b]);
                // tcp_parse_options takes no notice of an MSS of 0.
                if mss != 0 {
                    self.mss = Some(mss);
                }
            }
            (TCPOPT_WINDOW, &[s]) => {
                self.wscale_clamped = s > TCP_MAX_WSCALE;
                self.wscale = Some(s.min(TCP_MAX_WSCALE));
            }
            (TCPOPT_SACK_PERM, []) => self.sack_permitted = true,
            (TCPOPT_TIMESTAMP, ts) => {
                if let Ok(ts) = <[u8; 8]>::try_from(ts) {
                    self.timestamps = Some(timestamps(ts));
                }
            }
            (TCPOPT_SACK, blocks) => self.parse_sack(blocks),
            (TCPOPT_MD5SIG | TCPOPT_AO, _) => self.auth = true,
            (TCPOPT_FASTOPEN, cookie) => self.parse_fastopen(cookie, false),
            (TCPOPT_EXP, &[a, b, ref cookie @ ..]) if u16::from_be_bytes([a, b]) == TCPOPT_FASTOPEN_MAGIC => {
                self.parse_fastopen(cookie, true);
            }
            (_, _) => {}
        }
    }

    /// SACK blocks; at least one, and nothing left over.
    fn parse_sack(&mut self, data: &[u8]) {
        let (blocks, rest) = data.as_chunks::<8>();
        if blocks.is_empty() || !rest.is_empty() {
            return;
        }
        self.sack.clear();
        for b in blocks {
            let ts = timestamps(*b);
            self.sack.push(SackBlock { start: SeqNr(ts.tsval), end: SeqNr(ts.tsecr) });
        }
    }

    /// A cookie of an impossible length is no option at all: `tcp_parse_fastopen_option`.
    fn parse_fastopen(&mut self, cookie: &[u8], exp: bool) {
        if cookie.is_empty() {
            self.fastopen = Some(FastopenCookie { exp, ..FastopenCookie::REQUEST });
        } else if let Some(c) = FastopenCookie::new(cookie, exp) {
            self.fastopen = Some(c);
        }
    }

    /// Bytes [`TcpOptions::emit`] writes: a multiple of 4. More than 40 does not fit a header.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut n = 0;
        if self.mss.is_some() {
            n += TCPOLEN_MSS_ALIGNED;
        }
        if self.timestamps.is_some() {
            n += TCPOLEN_TSTAMP_ALIGNED;
        } else if self.sack_permitted {
            n += TCPOLEN_SACKPERM_ALIGNED;
        }
        if self.wscale.is_some() {
            n += TCPOLEN_WSCALE_ALIGNED;
        }
        if !self.sack.is_empty() {
            n += TCPOLEN_SACK_BASE_ALIGNED + self.sack.len() * TCPOLEN_SACK_PERBLOCK;
        }
        if let Some(c) = &self.fastopen {
            n += c.option_len().next_multiple_of(4);
        }
        n
    }

    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the options in Linux's order and padding (`tcp_options_write`, 6.18): MSS; timestamps, whose padding is
    /// SACK permitted when both are there; SACK permitted alone; window scale; SACK blocks; fast open. Returns the
    /// bytes written, a multiple of 4; 0, and nothing written, when `out` is shorter than [`TcpOptions::len`].
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let len = self.len();
        let Some(out) = out.get_mut(..len) else { return 0 };
        let mut w = Writer { out };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            w.put(&[TCPOPT_MSS, 4, a, b]);
        }
        if let Some(ts) = self.timestamps {
            let [a, b] = if self.sack_permitted { [TCPOPT_SACK_PERM, 2] } else { [TCPOPT_NOP, TCPOPT_NOP] };
            w.put(&[a, b, TCPOPT_TIMESTAMP, 10]);
            w.put(&ts.tsval.to_be_bytes());
            w.put(&ts.tsecr.to_be_bytes());
        } else if self.sack_permitted {
            w.put(&[TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK_PERM, 2]);
        }
        if let Some(s) = self.wscale {
            w.put(&[TCPOPT_NOP, TCPOPT_WINDOW, 3, s]);
        }
        if !self.sack.is_empty() {
            let n = 2 + self.sack.len() * TCPOLEN_SACK_PERBLOCK;
            w.put(&[TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK, n as u8]);
            for b in self.sack.as_slice() {
                w.put(&b.start.0.to_be_bytes());
                w.put(&b.end.0.to_be_bytes());
            }
        }
        if let Some(c) = &self.fastopen {
            let n = c.option_len();
            if c.exp {
                let [a, b] = TCPOPT_FASTOPEN_MAGIC.to_be_bytes();
                w.put(&[TCPOPT_EXP, n as u8, a, b]);
            } else {
                w.put(&[TCPOPT_FASTOPEN, n as u8]);
            }
            w.put(c.as_slice());
            // Cookies are even, so the padding is none or two.
            if n % 4 != 0 {
                w.put(&[TCPOPT_NOP, TCPOPT_NOP]);
            }
        }
        len
    }
}

/// Two big-endian words.
#[inline]
fn timestamps([a, b, c, d, e, f, g, h]: [u8; 8]) -> Timestamps {
    Timestamps { tsval: u32::from_be_bytes([a, b, c, d]), tsecr: u32::from_be_bytes([e, f, g, h]) }
}

/// Writes pieces one behind the other; pieces that do not fit are left out (lengths were computed before).
struct Writer<'a> {
    out: &'a mut [u8],
}

impl Writer<'_> {
    #[inline]
    fn put(&mut self, b: &[u8]) {
        if let Some((to, rest)) = core::mem::take(&mut self.out).split_at_mut_checked(b.len()) {
            to.copy_from_slice(b);
            self.out = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(o: &TcpOptions) -> Vec<u8> {
        let mut b = [0xee; 80];
        let n = o.emit(&mut b);
        assert_eq!(n, o.len());
        assert!(b[n..].iter().all(|&x| x == 0xee));
        b[..n].to_vec()
    }

    #[test]
    fn linux_syn() {
        let ts = Some(Timestamps { tsval: 0x0102_0304, tsecr: 0 });
        let o = TcpOptions {
            mss: Some(1460),
            wscale: Some(7),
            sack_permitted: true,
            timestamps: ts,
            ..Default::default()
        };
        // tcpdump of a 6.x kernel: mss 1460,sackOK,TS val .. ecr 0,nop,wscale 7
        let want = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(bytes(&o), want);
        assert_eq!(TcpOptions::parse(&want), o);
        let no_ts = TcpOptions { timestamps: None, ..o };
        assert_eq!(bytes(&no_ts), [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7]);
        let no_sack = TcpOptions { sack_permitted: false, mss: None, wscale: None, ..o };
        assert_eq!(bytes(&no_sack), [1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(TcpOptions::parse(&bytes(&no_sack)), no_sack);
    }

    #[test]
    fn linux_ack_with_sack() {
        let mut o = TcpOptions { timestamps: Some(Timestamps { tsval: 1, tsecr: 2 }), ..Default::default() };
        assert!(o.sack.push(SackBlock { start: SeqNr(3), end: SeqNr(4) }));
        let want = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 10, 0, 0, 0, 3, 0, 0, 0, 4];
        assert_eq!(bytes(&o), want);
        assert_eq!(TcpOptions::parse(&want), o);
        assert_eq!(o.emit(&mut [0; 23]), 0);
    }

    #[test]
    fn fast_open() {
        let request = TcpOptions { fastopen: Some(FastopenCookie::REQUEST), ..Default::default() };
        assert_eq!(bytes(&request), [34, 2, 1, 1]);
        let c = FastopenCookie::new(&[1, 2, 3, 4, 5, 6, 7, 8], false);
        let o = TcpOptions { fastopen: c, ..Default::default() };
        assert_eq!(bytes(&o), [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]);
        let e = TcpOptions { fastopen: FastopenCookie::new(&[1, 2, 3, 4], true), ..Default::default() };
        assert_eq!(bytes(&e), [254, 8, 0xf9, 0x89, 1, 2, 3, 4]);
        for o in [request, o, e] {
            assert_eq!(TcpOptions::parse(&bytes(&o)), o);
        }
        assert!(
            FastopenCookie::new(&[0; 18], false).is_none() && FastopenCookie::new(&[0; 5], false).is_none()
        );
    }

    #[test]
    fn tolerance() {
        let none = TcpOptions::default();
        for b in [
            &[][..],
            &[2],
            &[2, 4, 5],
            &[2, 1, 5, 5],
            &[2, 3, 5],
            &[2, 4, 0, 0],
            &[0, 2, 4, 5, 0xb4],
            &[9, 2],
        ] {
            assert_eq!(TcpOptions::parse(b), none, "{b:?}");
        }
        assert_eq!(TcpOptions::parse(&[5, 2]), none);
        assert_eq!(TcpOptions::parse(&[5, 9, 0, 0, 0, 0, 0, 0, 0]), none);
        // an unknown option is skipped, a wrong length of a known one too
        assert_eq!(TcpOptions::parse(&[77, 3, 0, 3, 4, 0, 0, 2, 4, 1, 0]).mss, Some(256));
        let w = TcpOptions::parse(&[3, 3, 15]);
        assert_eq!((w.wscale, w.wscale_clamped), (Some(14), true));
        assert_eq!(TcpOptions::parse(&[2, 4, 1, 0, 2, 4, 2, 0]).mss, Some(512));
    }

    prop_compose! {
        fn any_options()(
            mss in proptest::option::of(1u16..),
            wscale in proptest::option::of(0u8..=14),
            sack_permitted: bool,
            ts in proptest::option::of(any::<(u32, u32)>()),
            blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..=4),
            cookie in proptest::option::of((2usize..=8, any::<[u8; 16]>(), any::<bool>())),
        ) -> TcpOptions {
            let mut o = TcpOptions { mss, wscale, sack_permitted, ..Default::default() };
            o.timestamps = ts.map(|(tsval, tsecr)| Timestamps { tsval, tsecr });
            for (a, b) in blocks {
                o.sack.push(SackBlock { start: SeqNr(a), end: SeqNr(b) });
            }
            o.fastopen = cookie.and_then(|(n, c, exp)| FastopenCookie::new(&c[..n * 2], exp));
            o
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn round_trip(o in any_options()) {
            let b = bytes(&o);
            prop_assert_eq!(b.len() % 4, 0);
            prop_assert_eq!(TcpOptions::parse(&b), o);
        }

        #[test]
        fn any_bytes(b in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..12], 0..60)) {
            let o = TcpOptions::parse(&b);
            prop_assert!(o.sack.len() <= 4 && o.mss != Some(0) && o.wscale.unwrap_or(0) <= 14);
            prop_assert_eq!(TcpOptions::parse(&bytes(&o)).sack, o.sack);
        }
    }
}
