//! RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE (`net/core/fib_rules.c`).

use core::net::IpAddr;

use ferronet_core::{Errno, NsId};
use ferronet_stack::Namespace;
use ferronet_stack::fib::{Family, Rule, RuleAction};
use ferronet_stack::notify::Notify;

use super::super::Req;
use super::super::codec::{Attr, Attrs, Fields, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Nothing, Out, Source};
use super::{family, pf, pf_of, rtm};
use crate::kernel::Kernel;

/// Attributes of a rule (`FRA_*`).
mod fra {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const IIFNAME: u16 = 3;
    pub(super) const GOTO: u16 = 4;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const FWMARK: u16 = 10;
    pub(super) const FLOW: u16 = 11;
    pub(super) const TUN_ID: u16 = 12;
    pub(super) const SUPPRESS_IFGROUP: u16 = 13;
    pub(super) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(super) const TABLE: u16 = 15;
    pub(super) const FWMASK: u16 = 16;
    pub(super) const OIFNAME: u16 = 17;
    pub(super) const L3MDEV: u16 = 19;
    pub(super) const UID_RANGE: u16 = 20;
    pub(super) const PROTOCOL: u16 = 21;
    pub(super) const IP_PROTO: u16 = 22;
    pub(super) const SPORT_RANGE: u16 = 23;
    pub(super) const DPORT_RANGE: u16 = 24;
    pub(super) const SPORT_MASK: u16 = 28;
    pub(super) const DPORT_MASK: u16 = 29;
}

/// Rule flags.
const INVERT: u32 = 2;
const UNRESOLVED: u32 = 4;
const IIF_DETACHED: u32 = 8;
const OIF_DETACHED: u32 = 16;

/// Bytes of `struct fib_rule_hdr`.
const HDR: usize = 12;
/// `fib_rule_policy`.
#[rustfmt::skip]
const POLICY: [Policy; 30] = {
    use Policy::{Any, Exact, Min, Str, U8, U16, U32, U64};
    [
        Any, Any, Any, Str(15), U32, Any, U32, Any, Any, Any, // 0 to 9
        U32, U32, U64, U32, U32, U32, U32, Str(15), Any, U8, // 10 to 19
        Min(8), U8, U8, Exact(4), Exact(4), U8, U32, U32, U16, U16, // 20 to 29
    ]
};

fn action_number(a: RuleAction) -> u8 {
    match a {
        RuleAction::ToTable => 1,
        RuleAction::Goto(_) => 2,
        RuleAction::Nop => 3,
        RuleAction::Blackhole => 6,
        RuleAction::Unreachable => 7,
        RuleAction::Prohibit => 8,
    }
}

/// Writes a rule into a message that has only its netlink header (`fib_nl_fill_rule`).
pub(in super::super) fn fill(mut m: Msg, net: &Namespace, r: &Rule) -> Vec<u8> {
    const RT_TABLE_COMPAT: u8 = 252;
    let len = |p: Option<(IpAddr, u8)>| p.map_or(0, |p| p.1);
    let mut flags = if r.invert { INVERT } else { 0 };
    let there = |n: &Option<String>| n.as_ref().is_none_or(|n| net.devs.iter().any(|d| d.name == *n));
    if !there(&r.iif) {
        flags |= IIF_DETACHED;
    }
    if !there(&r.oif) {
        flags |= OIF_DETACHED;
    }
    if let RuleAction::Goto(to) = r.action
        && !net.fib.rules(r.family).any(|o| o.priority == to)
    {
        flags |= UNRESOLVED;
    }
    m.raw(&[pf_of(r.family), len(r.dst), len(r.src), r.tos]);
    let table = u8::try_from(r.table).unwrap_or(RT_TABLE_COMPAT);
    m.raw(&[table, 0, 0, action_number(r.action)]);
    m.raw(&flags.to_ne_bytes());
    m.u32(fra::TABLE, r.table);
    m.u32(fra::SUPPRESS_PREFIXLEN, r.suppress_prefixlen.unwrap_or(u32::MAX));
    m.u8(fra::PROTOCOL, r.protocol);
    if let Some(g) = r.suppress_ifgroup {
        m.u32(fra::SUPPRESS_IFGROUP, g);
    }
    if r.l3mdev {
        m.u8(fra::L3MDEV, 1);
    }
    if let Some(n) = &r.iif {
        m.str(fra::IIFNAME, n);
    }
    if let Some(n) = &r.oif {
        m.str(fra::OIFNAME, n);
    }
    if r.priority != 0 {
        m.u32(fra::PRIORITY, r.priority);
    }
    if let Some((mark, mask)) = r.fwmark {
        if mark != 0 {
            m.u32(fra::FWMARK, mark);
        }
        m.u32(fra::FWMASK, mask);
    }
    if let RuleAction::Goto(to) = r.action {
        m.u32(fra::GOTO, to);
    }
    if r.tun_id != 0 {
        m.put(fra::TUN_ID, &r.tun_id.to_be_bytes());
    }
    if let Some((a, b)) = r.uid_range {
        m.put(fra::UID_RANGE, &[a.to_ne_bytes(), b.to_ne_bytes()].concat());
    }
    put_ports(&mut m, fra::SPORT_RANGE, fra::SPORT_MASK, r.sport);
    put_ports(&mut m, fra::DPORT_RANGE, fra::DPORT_MASK, r.dport);
    if r.ip_proto != 0 {
        m.u8(fra::IP_PROTO, r.ip_proto);
    }
    for (ty, p) in [(fra::DST, r.dst), (fra::SRC, r.src)] {
        if let Some((a, 1..)) = p {
            m.ip(ty, a);
        }
    }
    if r.realms != 0 {
        m.u32(fra::FLOW, r.realms);
    }
    m.finish()
}

/// A range of ports; a single port has a mask as well.
fn put_ports(m: &mut Msg, range: u16, mask: u16, p: Option<(u16, u16)>) {
    let Some((a, b)) = p else { return };
    m.put(range, &[a.to_ne_bytes(), b.to_ne_bytes()].concat());
    if a == b {
        m.u16(mask, u16::MAX);
    }
}

/// A request: the rule it describes and what it says explicitly.
struct RuleReq<'a> {
    rule: Rule,
    action: u8,
    priority: Option<u32>,
    tb: Attrs<'a, 30>,
}

/// A prefix, when the header has a length for it.
fn prefix(
    r: &mut Req<'_, '_>,
    a: Option<Attr<'_>>,
    len: u8,
    f: Family,
    text: &'static str,
) -> Result<Option<(IpAddr, u8)>, Errno> {
    if len == 0 {
        return Ok(None);
    }
    let a = a.and_then(|a| a.ip()).filter(|a| Family::of(*a) == f && len <= f.bits());
    match a {
        Some(a) => Ok(Some((a, len))),
        None => r.ext.err(Errno::EINVAL, text),
    }
}

fn range(r: &mut Req<'_, '_>, a: Option<Attr<'_>>, text: &'static str) -> Result<Option<(u16, u16)>, Errno> {
    let Some(a) = a else { return Ok(None) };
    let mut f = Fields(a.data);
    let (lo, hi) = (f.u16(), f.u16());
    if lo == 0 || hi == 0 || hi < lo || hi == u16::MAX {
        return r.ext.err(Errno::EINVAL, text);
    }
    Ok(Some((lo, hi)))
}

fn read<'a>(r: &mut Req<'a, '_>, pf: u8) -> Result<RuleReq<'a>, Errno> {
    let Some((head, attrs)) = r.split(HDR) else { return r.ext.err(Errno::EINVAL, "Invalid msg length") };
    let Some(f) = family(pf) else { return r.ext.err(Errno::EAFNOSUPPORT, "Rule family not supported") };
    let mut h = Fields(head);
    let (_, dst_len, src_len, tos) = (h.u8(), h.u8(), h.u8(), h.u8());
    let (table, _, _, action, flags) = (h.u8(), h.u8(), h.u8(), h.u8(), h.u32());
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let src = prefix(r, tb.get(fra::SRC), src_len, f, "Invalid source address")?;
    let dst = prefix(r, tb.get(fra::DST), dst_len, f, "Invalid dst address")?;
    let priority = tb.u32(fra::PRIORITY);
    let name = |ty| tb.get(ty).map(|a: Attr<'_>| a.str()).filter(|n| !n.is_empty());
    let goto = tb.u32(fra::GOTO);
    if action != 2 && goto.is_some() {
        return r.ext.err(Errno::EINVAL, "Unexpected goto");
    }
    let act = match (action, goto) {
        (1, _) => RuleAction::ToTable,
        (2, Some(to)) if to <= priority.unwrap_or(r.net()?.fib.default_rule_priority(f)) => {
            return r.ext.err(Errno::EINVAL, "Backward goto not supported");
        }
        (2, Some(to)) => RuleAction::Goto(to),
        (2, None) => return r.ext.err(Errno::EINVAL, "Missing goto target for action goto"),
        (6, _) => RuleAction::Blackhole,
        (7, _) => RuleAction::Unreachable,
        (8, _) => RuleAction::Prohibit,
        _ => RuleAction::Nop,
    };
    if tos & 3 != 0 {
        return r.ext.err(Errno::EINVAL, "Invalid dsfield (tos): ECN bits must be 0");
    }
    let uid_range = match tb.get(fra::UID_RANGE) {
        Some(a) => {
            let mut f = Fields(a.data);
            let (lo, hi) = (f.u32(), f.u32());
            if hi < lo || lo == u32::MAX {
                return r.ext.err(Errno::EINVAL, "Invalid uid range");
            }
            Some((lo, hi))
        }
        None => None,
    };
    let mark = tb.u32(fra::FWMARK);
    let fwmark = match (mark, tb.u32(fra::FWMASK)) {
        (None, None) => None,
        (m, mask) => Some((m.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    let rule = Rule {
        family: f,
        priority: priority.unwrap_or(0),
        src,
        dst,
        tos,
        iif: name(fra::IIFNAME),
        oif: name(fra::OIFNAME),
        fwmark,
        uid_range,
        tun_id: tb.get(fra::TUN_ID).and_then(|a| a.data.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b)),
        ip_proto: tb.get(fra::IP_PROTO).map_or(0, |a| a.u8()),
        sport: range(r, tb.get(fra::SPORT_RANGE), "Invalid sport range")?,
        dport: range(r, tb.get(fra::DPORT_RANGE), "Invalid dport range")?,
        invert: flags & INVERT != 0,
        action: act,
        table: tb.u32(fra::TABLE).unwrap_or(u32::from(table)),
        suppress_prefixlen: tb.u32(fra::SUPPRESS_PREFIXLEN).filter(|n| *n != u32::MAX),
        suppress_ifgroup: tb.u32(fra::SUPPRESS_IFGROUP).filter(|g| *g != u32::MAX),
        l3mdev: tb.get(fra::L3MDEV).is_some_and(|a| a.u8() != 0),
        realms: tb.u32(fra::FLOW).filter(|_| f == Family::V4).unwrap_or(0),
        protocol: tb.get(fra::PROTOCOL).map_or(0, |a| a.u8()),
    };
    Ok(RuleReq { rule, action, priority, tb })
}

/// RTM_NEWRULE (`fib_nl_newrule`).
pub(super) fn newrule(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let mut q = read(r, pf)?;
    let net = r.net_mut()?;
    if q.rule.action == RuleAction::ToTable && q.rule.table == 0 && !q.rule.l3mdev {
        // fib_empty_table: a table that nobody uses.
        let f = q.rule.family;
        let used = |n: u32| net.fib.table(f, n).is_some() || net.fib.rules(f).any(|r| r.table == n);
        if f == Family::V6 {
            return r.ext.err(Errno::EINVAL, "Invalid table");
        }
        q.rule.table = (1..=255).find(|n| !used(*n)).ok_or(Errno::ENOBUFS)?;
    }
    let rule = net.fib.rule_add(q.rule, q.priority)?;
    net.notify.push(Notify::Rule(true, Box::new(rule)));
    Ok(())
}

/// RTM_DELRULE: the first rule that has all that the request names (`fib_nl_delrule`).
pub(super) fn delrule(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let q = read(r, pf)?;
    let w = q.rule;
    let named = |ty| q.tb.has(ty);
    let net = r.net_mut()?;
    let gone = net.fib.rule_del(|o| {
        o.family == w.family
            && (q.action == 0 || action_number(o.action) == q.action)
            && (w.table == 0 || o.table == w.table)
            && q.priority.is_none_or(|p| o.priority == p)
            && (w.iif.is_none() || o.iif == w.iif)
            && (w.oif.is_none() || o.oif == w.oif)
            && (!named(fra::FWMARK) || o.fwmark.map(|m| m.0) == w.fwmark.map(|m| m.0))
            && (!named(fra::FWMASK) || o.fwmark.map(|m| m.1) == w.fwmark.map(|m| m.1))
            && (w.suppress_prefixlen.is_none() || o.suppress_prefixlen == w.suppress_prefixlen)
            && (w.suppress_ifgroup.is_none() || o.suppress_ifgroup == w.suppress_ifgroup)
            && (w.tun_id == 0 || o.tun_id == w.tun_id)
            && (!w.l3mdev || o.l3mdev)
            && (w.realms == 0 || o.realms == w.realms)
            && (w.uid_range.is_none() || o.uid_range == w.uid_range)
            && (w.ip_proto == 0 || o.ip_proto == w.ip_proto)
            && (w.protocol == 0 || o.protocol == w.protocol)
            && (w.sport.is_none() || o.sport == w.sport)
            && (w.dport.is_none() || o.dport == w.dport)
            && (w.src.is_none() || o.src == w.src)
            && (w.dst.is_none() || o.dst == w.dst)
            && (w.tos == 0 || o.tos == w.tos)
    })?;
    net.notify.push(Notify::Rule(false, Box::new(gone)));
    Ok(())
}

/// RTM_GETRULE (`fib_nl_dumprule`).
pub(super) fn dump(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    if r.strict {
        let valid = valid_dump_req(r);
        if let Err(e) = valid {
            r.fail_dump(e, false);
            return Ok(());
        }
    }
    let f = family(pf);
    if pf != pf::UNSPEC && f.is_none() {
        if (128..=129).contains(&pf) {
            r.start(Nothing::default());
        } else {
            r.fail_dump(Errno::EAFNOSUPPORT, false);
        }
        return Ok(());
    }
    r.start(RuleDump { ns: r.ns, family: f, done: 0 });
    Ok(())
}

/// `fib_valid_dumprule_req`.
fn valid_dump_req(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let Some((head, rest)) = r.split(HDR) else {
        return r.ext.err(Errno::EINVAL, "Invalid header for fib rule dump request");
    };
    if head.iter().skip(1).any(|b| *b != 0) {
        return r.ext.err(Errno::EINVAL, "Invalid values in header for fib rule dump request");
    }
    if rest.leftover() > 0 {
        return r.ext.err(Errno::EINVAL, "Invalid data after header in fib rule dump request");
    }
    Ok(())
}

#[derive(Debug)]
struct RuleDump {
    ns: NsId,
    family: Option<Family>,
    done: usize,
}

impl Source for RuleDump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        let both = [Family::V4, Family::V6];
        let all =
            both.iter().filter(|f| self.family.is_none_or(|w| w == **f)).flat_map(|f| net.fib.rules(*f));
        for rule in all.skip(self.done) {
            if out.bytes() >= want {
                return Ok(false);
            }
            out.push(fill(Msg::new(rtm::NEWRULE, nlm_f::MULTI, cx.seq, cx.portid), net, rule));
            self.done += 1;
        }
        Ok(true)
    }
    fn generation(&self, k: &Kernel, ns: NsId) -> u64 {
        super::generation(k, ns)
    }
    fn done_in_last(&self) -> bool {
        true
    }
}
