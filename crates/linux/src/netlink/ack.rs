//! Acknowledgements, errors and what goes with them (`netlink_ack`, `struct netlink_ext_ack`).

use std::borrow::Cow;

use ferronet_core::Errno;

use super::codec::{HDRLEN, Hdr, Msg, NLA_F_NESTED, Policy, nlm_f, nlmsg};

/// Reports to the program beyond the errno.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtAck {
    /// Text, without a full stop, which `ip` adds.
    pub(crate) text: Option<Cow<'static, str>>,
    /// Offset of the attribute at fault from the front of the message.
    pub(crate) offs: Option<u32>,
    /// Its policy.
    pub(crate) policy: Option<Policy>,
    /// Type of an attribute that is missing.
    pub(crate) miss_type: Option<u32>,
}

impl ExtAck {
    /// Sets the text.
    pub(crate) fn msg(&mut self, s: &'static str) {
        self.text = Some(Cow::Borrowed(s));
    }
    /// Sets the text and the attribute at fault.
    pub(crate) fn bad(&mut self, off: usize, s: &'static str) {
        self.msg(s);
        self.offs = u32::try_from(off).ok();
    }
    /// Sets the text and gives the error, to be returned in one step.
    pub(crate) fn err<T>(&mut self, e: Errno, s: &'static str) -> Result<T, Errno> {
        self.msg(s);
        Err(e)
    }
    /// Likewise, with the attribute at fault.
    pub(crate) fn err_at<T>(&mut self, e: Errno, off: usize, s: &'static str) -> Result<T, Errno> {
        self.bad(off, s);
        Err(e)
    }
    /// The attributes (`netlink_ack_tlv_fill`).
    pub(crate) fn fill(&self, m: &mut Msg, failed: bool) {
        if let Some(t) = &self.text {
            m.str(1, t);
        }
        if !failed {
            return;
        }
        if let Some(o) = self.offs {
            m.u32(2, o);
        }
        if let Some(p) = self.policy {
            fill_policy(m, p);
        }
        if let Some(t) = self.miss_type {
            m.u32(5, t);
        }
    }
    fn tells(&self, failed: bool) -> bool {
        self.text.is_some()
            || (failed && (self.offs.is_some() || self.policy.is_some() || self.miss_type.is_some()))
    }
}

/// `__netlink_policy_dump_write_attr`.
fn fill_policy(m: &mut Msg, p: Policy) {
    // NL_ATTR_TYPE_*: 2 u8, 3 u16, 4 u32, 5 u64, 8 s32, 10 binary, 11 string, 13 nested, 1 flag.
    let (ty, max) = match p {
        Policy::Any | Policy::Min(_) | Policy::Reject => return,
        Policy::U8 => (2, Some(u64::from(u8::MAX))),
        Policy::U16 => (3, Some(u64::from(u16::MAX))),
        Policy::U32 => (4, Some(u64::from(u32::MAX))),
        Policy::U64 => (5, Some(u64::MAX)),
        Policy::S32 => (8, None),
        Policy::Str(_) => (11, None),
        Policy::Binary(_) | Policy::Exact(_) => (10, None),
        Policy::Nested => (13, None),
        Policy::Flag => (1, None),
    };
    let n = m.nest(4 | NLA_F_NESTED);
    if let Some(max) = max {
        m.u64(4, 0);
        m.u64(5, max);
    }
    match p {
        Policy::S32 => {
            m.u64(2, i64::from(i32::MIN).cast_unsigned());
            m.u64(3, i64::from(i32::MAX).cast_unsigned());
        }
        Policy::Str(len) | Policy::Binary(len) if len > 0 => m.u32(7, u32::from(len)),
        Policy::Exact(len) => {
            m.u32(6, u32::from(len));
            m.u32(7, u32::from(len));
        }
        Policy::Any
        | Policy::U8
        | Policy::U16
        | Policy::U32
        | Policy::U64
        | Policy::Str(_)
        | Policy::Binary(_)
        | Policy::Min(_)
        | Policy::Nested
        | Policy::Flag
        | Policy::Reject => {}
    }
    m.u32(1, ty);
    m.end(n);
}

fn errno_field(e: Option<Errno>) -> i32 {
    e.map_or(0, |e| -i32::from(e.0))
}

/// The answer to `request` (whole message, header first): an error, or 0 as acknowledgement.
#[must_use]
pub(crate) fn ack(request: &[u8], e: Option<Errno>, ext: &ExtAck, to: AckTo) -> Vec<u8> {
    let h = Hdr::parse(request).unwrap_or_default();
    let mut flags = 0;
    let full = e.is_some() && !to.cap_ack;
    if !full {
        flags |= nlm_f::CAPPED;
    }
    let tlvs = to.ext_ack && ext.tells(e.is_some());
    if tlvs {
        flags |= nlm_f::ACK_TLVS;
    }
    let mut m = Msg::new(nlmsg::ERROR, flags, h.seq, to.portid);
    m.raw(&errno_field(e).to_ne_bytes());
    let end = if full { h.len as usize } else { HDRLEN };
    m.raw(request.get(..end).or(request.get(..HDRLEN)).unwrap_or_default());
    if tlvs {
        ext.fill(&mut m, e.is_some());
    }
    m.finish()
}

/// To whom an acknowledgement goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckTo {
    /// Port of the socket.
    pub(crate) portid: u32,
    /// `NETLINK_EXT_ACK`.
    pub(crate) ext_ack: bool,
    /// `NETLINK_CAP_ACK`.
    pub(crate) cap_ack: bool,
}

/// The end of a dump (`netlink_dump_done`).
#[must_use]
pub(crate) fn done(seq: u32, flags: u16, e: Option<Errno>, ext: &ExtAck, to: AckTo) -> Vec<u8> {
    let mut m = Msg::new(nlmsg::DONE, nlm_f::MULTI | flags, seq, to.portid);
    m.raw(&errno_field(e).to_ne_bytes());
    if to.ext_ack && ext.tells(true) {
        m.add_flags(nlm_f::ACK_TLVS);
        ext.fill(&mut m, true);
    }
    m.finish()
}
