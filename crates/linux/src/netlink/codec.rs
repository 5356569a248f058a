//! Messages and attributes: writer, reader, policies (`lib/nlattr.c`, `linux/netlink.h`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::Errno;

use super::ack::ExtAck;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HDRLEN: usize = 16;
/// `NLA_F_NESTED`.
pub(crate) const NLA_F_NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Message flags (`NLM_F_*`).
#[allow(missing_docs, reason = "netlink(7)")]
pub(crate) mod nlm_f {
    pub(crate) const REQUEST: u16 = 0x01;
    pub(crate) const MULTI: u16 = 0x02;
    pub(crate) const ACK: u16 = 0x04;
    pub(crate) const ECHO: u16 = 0x08;
    pub(crate) const DUMP_INTR: u16 = 0x10;
    pub(crate) const DUMP_FILTERED: u16 = 0x20;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
    pub(crate) const CAPPED: u16 = 0x100;
    pub(crate) const ACK_TLVS: u16 = 0x200;
}

/// Message types of every family.
#[allow(missing_docs, reason = "netlink(7)")]
pub(crate) mod nlmsg {
    pub(crate) const ERROR: u16 = 2;
    pub(crate) const DONE: u16 = 3;
    pub(crate) const MIN_TYPE: u16 = 0x10;
}

/// `n` rounded up to 4.
#[must_use]
pub(crate) const fn align4(n: usize) -> usize {
    (n + 3) & !3
}

/// A message header (`struct nlmsghdr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hdr {
    /// Length with the header.
    pub(crate) len: u32,
    /// Type.
    pub(crate) ty: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    /// Sequence number.
    pub(crate) seq: u32,
    /// Port of the sender.
    pub(crate) pid: u32,
}

impl Hdr {
    /// The header at the front of `b`.
    #[must_use]
    pub(crate) fn parse(b: &[u8]) -> Option<Hdr> {
        let (len, b) = b.split_first_chunk::<4>()?;
        let (ty, b) = b.split_first_chunk::<2>()?;
        let (flags, b) = b.split_first_chunk::<2>()?;
        let (seq, b) = b.split_first_chunk::<4>()?;
        let pid = b.first_chunk::<4>()?;
        Some(Hdr {
            len: u32::from_ne_bytes(*len),
            ty: u16::from_ne_bytes(*ty),
            flags: u16::from_ne_bytes(*flags),
            seq: u32::from_ne_bytes(*seq),
            pid: u32::from_ne_bytes(*pid),
        })
    }
    /// Its 16 bytes.
    #[must_use]
    pub(crate) fn bytes(&self) -> [u8; HDRLEN] {
        let mut b = [0; HDRLEN];
        let parts = self
            .len
            .to_ne_bytes()
            .into_iter()
            .chain(self.ty.to_ne_bytes())
            .chain(self.flags.to_ne_bytes())
            .chain(self.seq.to_ne_bytes())
            .chain(self.pid.to_ne_bytes());
        for (d, s) in b.iter_mut().zip(parts) {
            *d = s;
        }
        b
    }
}

/// Writes one message.
#[derive(Debug)]
pub(crate) struct Msg {
    buf: Vec<u8>,
    hdr: Hdr,
}

/// Where a nested attribute began.
#[derive(Debug)]
#[must_use]
pub(crate) struct Nest(usize);

impl Msg {
    /// A message with its header; `len` is set at the end.
    #[must_use]
    pub(crate) fn new(ty: u16, flags: u16, seq: u32, pid: u32) -> Msg {
        let hdr = Hdr { len: 0, ty, flags, seq, pid };
        let mut buf = Vec::with_capacity(256);
        buf.extend_from_slice(&hdr.bytes());
        Msg { buf, hdr }
    }
    /// Adds flags to the header.
    pub(crate) fn add_flags(&mut self, flags: u16) {
        self.hdr.flags |= flags;
    }
    /// Appends bytes, such as the family's header, and pads to 4.
    pub(crate) fn raw(&mut self, b: &[u8]) {
        self.buf.extend_from_slice(b);
        self.buf.resize(align4(self.buf.len()), 0);
    }
    /// Bytes so far.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }
    /// Overwrites bytes written before, at an offset from the front of the message.
    pub(crate) fn patch(&mut self, at: usize, b: &[u8]) {
        if let Some(d) = self.buf.get_mut(at..at + b.len()) {
            d.copy_from_slice(b);
        }
    }
    /// An attribute (`nla_put`).
    pub(crate) fn put(&mut self, ty: u16, data: &[u8]) {
        let len = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&ty.to_ne_bytes());
        self.raw(data);
    }
    /// An attribute of one byte.
    pub(crate) fn u8(&mut self, ty: u16, v: u8) {
        self.put(ty, &[v]);
    }
    /// An attribute of two bytes.
    pub(crate) fn u16(&mut self, ty: u16, v: u16) {
        self.put(ty, &v.to_ne_bytes());
    }
    /// An attribute of four bytes.
    pub(crate) fn u32(&mut self, ty: u16, v: u32) {
        self.put(ty, &v.to_ne_bytes());
    }
    /// An attribute of four bytes, signed.
    pub(crate) fn i32(&mut self, ty: u16, v: i32) {
        self.put(ty, &v.to_ne_bytes());
    }
    /// An attribute of eight bytes (not aligned to 8, as 64-bit kernels with unaligned access write them).
    pub(crate) fn u64(&mut self, ty: u16, v: u64) {
        self.put(ty, &v.to_ne_bytes());
    }
    /// A string with its final NUL.
    pub(crate) fn str(&mut self, ty: u16, s: &str) {
        let mut b = Vec::with_capacity(s.len() + 1);
        b.extend_from_slice(s.as_bytes());
        b.push(0);
        self.put(ty, &b);
    }
    /// An address, 4 or 16 bytes.
    pub(crate) fn ip(&mut self, ty: u16, a: IpAddr) {
        match a {
            IpAddr::V4(a) => self.put(ty, &a.octets()),
            IpAddr::V6(a) => self.put(ty, &a.octets()),
        }
    }
    /// Begins a nested attribute without `NLA_F_NESTED` (`nla_nest_start_noflag`).
    pub(crate) fn nest(&mut self, ty: u16) -> Nest {
        let at = self.buf.len();
        self.put(ty, &[]);
        Nest(at)
    }
    /// Ends it.
    pub(crate) fn end(&mut self, n: Nest) {
        let len = u16::try_from(self.buf.len() - n.0).unwrap_or(u16::MAX);
        self.patch(n.0, &len.to_ne_bytes());
    }
    /// Takes a nested attribute back (`nla_nest_cancel`).
    pub(crate) fn cancel(&mut self, n: Nest) {
        self.buf.truncate(n.0);
    }
    /// The message, with its length.
    #[must_use]
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.hdr.len = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        let b = self.hdr.bytes();
        self.patch(0, &b);
        self.buf
    }
}

/// One attribute of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attr<'a> {
    /// Its type without flags.
    pub(crate) ty: u16,
    /// Its content.
    pub(crate) data: &'a [u8],
    /// Where its header begins, from the front of the message.
    pub(crate) off: usize,
}

impl<'a> Attr<'a> {
    /// First byte, 0 when there is none.
    #[must_use]
    pub(crate) fn u8(&self) -> u8 {
        self.data.first().copied().unwrap_or(0)
    }
    /// First two bytes, 0 when there are fewer.
    #[must_use]
    pub(crate) fn u16(&self) -> u16 {
        self.data.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b))
    }
    /// First four bytes, 0 when there are fewer.
    #[must_use]
    pub(crate) fn u32(&self) -> u32 {
        self.data.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
    }
    /// Likewise, signed.
    #[must_use]
    pub(crate) fn i32(&self) -> i32 {
        self.data.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b))
    }
    /// Text up to the first NUL (`nla_strscpy`); bytes that are no UTF-8 are replaced.
    #[must_use]
    pub(crate) fn str(&self) -> String {
        let end = self.data.iter().position(|b| *b == 0).unwrap_or(self.data.len());
        String::from_utf8_lossy(self.data.get(..end).unwrap_or_default()).into_owned()
    }
    /// An IPv4 address.
    #[must_use]
    pub(crate) fn ip4(&self) -> Option<Ipv4Addr> {
        self.data.first_chunk::<4>().map(|b| Ipv4Addr::from(*b))
    }
    /// An IPv6 address.
    #[must_use]
    pub(crate) fn ip6(&self) -> Option<Ipv6Addr> {
        self.data.first_chunk::<16>().map(|b| Ipv6Addr::from(*b))
    }
    /// An address by its length, 4 or 16 bytes.
    #[must_use]
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.data.len() {
            4 => self.ip4().map(IpAddr::V4),
            16 => self.ip6().map(IpAddr::V6),
            _ => None,
        }
    }
    /// The attributes inside.
    #[must_use]
    pub(crate) fn nested(&self) -> AttrIter<'a> {
        AttrIter { rest: self.data, off: self.off + 4 }
    }
}

/// Walks attributes; ends at the first that does not fit (`nla_for_each_attr`).
#[derive(Clone, Debug)]
pub(crate) struct AttrIter<'a> {
    rest: &'a [u8],
    off: usize,
}

impl<'a> AttrIter<'a> {
    /// The attributes in `b`, which begins `off` bytes into the message.
    #[must_use]
    pub(crate) fn new(b: &'a [u8], off: usize) -> Self {
        AttrIter { rest: b, off }
    }
    /// Bytes that did not make an attribute.
    #[must_use]
    pub(crate) fn leftover(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for AttrIter<'a> {
    type Item = Attr<'a>;
    fn next(&mut self) -> Option<Attr<'a>> {
        let (len, r) = self.rest.split_first_chunk::<2>()?;
        let ty = r.first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let data = self.rest.get(4..len)?;
        let ty = u16::from_ne_bytes(*ty) & NLA_TYPE_MASK;
        let a = Attr { ty, data, off: self.off };
        let step = align4(len).min(self.rest.len());
        self.rest = self.rest.get(step..).unwrap_or_default();
        self.off += step;
        Some(a)
    }
}

/// What an attribute must look like (`struct nla_policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    /// Nothing is known: any length.
    Any,
    /// At least one byte.
    U8,
    /// At least two bytes.
    U16,
    /// At least four bytes.
    U32,
    /// At least four bytes, signed.
    S32,
    /// At least eight bytes.
    U64,
    /// Text of at most this length, the final NUL not counted; 0 for any.
    Str(u16),
    /// At most this many bytes.
    Binary(u16),
    /// Exactly this many bytes.
    Exact(u16),
    /// At least this many bytes (an untyped policy with a length).
    Min(u16),
    /// Other attributes.
    Nested,
    /// No content.
    Flag,
    /// Not for requests.
    Reject,
}

/// How strictly a message is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Strictness {
    /// Unknown types and bytes at the end are ignored (`nlmsg_parse_deprecated`).
    Liberal,
    /// Unknown types are refused (`nlmsg_parse_deprecated_strict`).
    Strict,
}

/// Attributes by type, 0 to `N` − 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attrs<'a, const N: usize>([Option<Attr<'a>>; N]);

impl<'a, const N: usize> Attrs<'a, N> {
    /// The attribute of a type.
    #[must_use]
    pub(crate) fn get(&self, ty: u16) -> Option<Attr<'a>> {
        self.0.get(usize::from(ty)).copied().flatten()
    }
    /// Is it there?
    #[must_use]
    pub(crate) fn has(&self, ty: u16) -> bool {
        self.get(ty).is_some()
    }
    /// Its number, when it is there.
    #[must_use]
    pub(crate) fn u32(&self, ty: u16) -> Option<u32> {
        self.get(ty).map(|a| a.u32())
    }
    /// All that are there, by type.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Attr<'a>> + '_ {
        self.0.iter().flatten().copied()
    }
}

fn length_ok(p: Policy, data: &[u8]) -> bool {
    let n = data.len();
    match p {
        Policy::Any => true,
        Policy::U8 => n >= 1,
        Policy::U16 => n >= 2,
        Policy::U32 | Policy::S32 => n >= 4,
        Policy::U64 => n >= 8,
        Policy::Str(0) => n >= 1,
        Policy::Str(max) => n >= 1 && n - usize::from(data.last() == Some(&0)) <= usize::from(max),
        Policy::Binary(max) => n <= usize::from(max),
        Policy::Exact(len) => n == usize::from(len),
        Policy::Min(len) => n >= usize::from(len),
        Policy::Nested => n == 0 || n >= 4,
        Policy::Flag => n == 0,
        Policy::Reject => false,
    }
}

/// Reads attributes against a policy, indexed by type (`__nla_validate_parse`).
///
/// # Errors
/// `ERANGE` for a wrong length, `EINVAL` for what strict reading refuses; `ext` says which attribute.
pub(crate) fn parse<'a, const N: usize>(
    mut it: AttrIter<'a>,
    policy: &[Policy; N],
    how: Strictness,
    ext: &mut ExtAck,
) -> Result<Attrs<'a, N>, Errno> {
    let mut tb = [None; N];
    for a in it.by_ref() {
        let (Some(slot), Some(&p)) = (tb.get_mut(usize::from(a.ty)), policy.get(usize::from(a.ty))) else {
            if how == Strictness::Strict {
                ext.bad(a.off, "Unknown attribute type");
                return Err(Errno::EINVAL);
            }
            continue;
        };
        if a.ty == 0 {
            if how == Strictness::Strict {
                ext.bad(a.off, "Unknown attribute type");
                return Err(Errno::EINVAL);
            }
            continue;
        }
        if p == Policy::Reject {
            ext.bad(a.off, "Attribute failed policy validation");
            return Err(Errno::EINVAL);
        }
        if !length_ok(p, a.data) {
            ext.bad(a.off, "Attribute failed policy validation");
            ext.policy = Some(p);
            return Err(Errno::ERANGE);
        }
        *slot = Some(a);
    }
    if it.leftover() > 0 {
        ext.msg("bytes leftover after parsing attributes");
        if how == Strictness::Strict {
            return Err(Errno::EINVAL);
        }
    }
    Ok(Attrs(tb))
}

/// Reads fixed-size fields of a request's header one after the other; missing bytes are zero.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((c, r)) => {
                self.0 = r;
                *c
            }
            None => {
                self.0 = &[];
                [0; N]
            }
        }
    }
    /// One byte.
    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_ne_bytes(self.take())
    }
    /// Two bytes.
    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }
    /// Two bytes in network order.
    pub(crate) fn be16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }
    /// Four bytes.
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }
    /// Four bytes, signed.
    pub(crate) fn i32(&mut self) -> i32 {
        i32::from_ne_bytes(self.take())
    }
    /// Sixteen bytes as they are.
    pub(crate) fn b16(&mut self) -> [u8; 16] {
        self.take()
    }
}
