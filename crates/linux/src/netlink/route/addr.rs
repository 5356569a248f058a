//! RTM_GETADDR and the content of RTM_NEWADDR (`inet_fill_ifaddr`, `inet6_fill_ifaddr`).

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_stack::dev::{IfAddr, ifa_f};
use ferronet_stack::fib::Family;

use super::super::Req;
use super::super::codec::{Fields, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Out, Source};
use super::{family, hundredths, ifindex, pf_of, rtm};
use crate::kernel::Kernel;

/// Attributes of an address (`IFA_*`).
#[allow(missing_docs, reason = "linux/if_addr.h")]
pub(super) mod ifa {
    pub(crate) const ADDRESS: u16 = 1;
    pub(crate) const LOCAL: u16 = 2;
    pub(crate) const LABEL: u16 = 3;
    pub(crate) const BROADCAST: u16 = 4;
    pub(crate) const CACHEINFO: u16 = 6;
    pub(crate) const FLAGS: u16 = 8;
    pub(crate) const RT_PRIORITY: u16 = 9;
    pub(crate) const TARGET_NETNSID: u16 = 10;
    pub(crate) const PROTO: u16 = 11;
}

/// Bytes of `struct ifaddrmsg`.
pub(super) const IFADDR: usize = 8;
/// `ifa_ipv4_policy`.
pub(super) const POLICY4: [Policy; 12] = [
    Policy::Any,
    Policy::U32,
    Policy::U32,
    Policy::Str(15),
    Policy::U32,
    Policy::Any,
    Policy::Min(16),
    Policy::Any,
    Policy::U32,
    Policy::U32,
    Policy::S32,
    Policy::U8,
];
/// `ifa_ipv6_policy`.
pub(super) const POLICY6: [Policy; 12] = [
    Policy::Any,
    Policy::Min(16),
    Policy::Min(16),
    Policy::Any,
    Policy::Any,
    Policy::Any,
    Policy::Min(16),
    Policy::Any,
    Policy::U32,
    Policy::U32,
    Policy::S32,
    Policy::U8,
];

/// Seconds that remain of a lifetime (`inet_fill_ifaddr`).
fn remaining(lft: u32, since: Instant, now: Instant) -> u32 {
    if lft == u32::MAX {
        return lft;
    }
    lft.saturating_sub(u32::try_from((now - since).as_secs()).unwrap_or(u32::MAX))
}

/// Writes an address into a message that has only its netlink header.
pub(in super::super) fn fill(mut m: Msg, dev: IfIndex, a: &IfAddr, now: Instant) -> Vec<u8> {
    let family = Family::of(a.local);
    m.raw(&[pf_of(family), a.prefix_len, a.flags as u8, a.scope]);
    m.raw(&dev.0.to_ne_bytes());
    // inet6_fill_ifaddr: one that stays may still be preferred for a time only.
    let for_ever = family == Family::V4 || a.preferred_lft == u32::MAX;
    let (mut pref, valid) = if a.flags & ifa_f::PERMANENT != 0 && for_ever {
        (u32::MAX, u32::MAX)
    } else {
        (remaining(a.preferred_lft, a.updated, now), remaining(a.valid_lft, a.updated, now))
    };
    if family == Family::V6 && a.preferred_lft == 0 {
        pref = 0;
    }
    let info: Vec<u8> = [pref, valid, hundredths(a.created), hundredths(a.updated)]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    match a.local {
        IpAddr::V4(_) => {
            m.ip(ifa::ADDRESS, a.peer);
            m.ip(ifa::LOCAL, a.local);
            if let Some(b) = a.broadcast.filter(|b| !b.is_unspecified()) {
                m.ip(ifa::BROADCAST, IpAddr::V4(b));
            }
            if !a.label.is_empty() {
                m.str(ifa::LABEL, &a.label);
            }
            if a.proto != 0 {
                m.u8(ifa::PROTO, a.proto);
            }
            m.u32(ifa::FLAGS, a.flags);
            if a.metric != 0 {
                m.u32(ifa::RT_PRIORITY, a.metric);
            }
            m.put(ifa::CACHEINFO, &info);
        }
        IpAddr::V6(_) => {
            if a.peer != a.local {
                m.ip(ifa::LOCAL, a.local);
            }
            m.ip(ifa::ADDRESS, a.peer);
            if a.metric != 0 {
                m.u32(ifa::RT_PRIORITY, a.metric);
            }
            m.put(ifa::CACHEINFO, &info);
            m.u32(ifa::FLAGS, a.flags);
            if a.proto != 0 {
                m.u8(ifa::PROTO, a.proto);
            }
        }
    }
    m.finish()
}

/// RTM_GETADDR for one IPv6 address (`inet6_rtm_getaddr`).
pub(super) fn get6(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let Some((head, attrs)) = r.split(IFADDR) else {
        return r.ext.err(Errno::EINVAL, "ipv6: Invalid header for get address request");
    };
    let mut f = Fields(head);
    f.u32();
    let index = ifindex(f.i32());
    let tb = parse(attrs, &POLICY6, Strictness::Liberal, &mut r.ext)?;
    let a = tb.get(ifa::LOCAL).or(tb.get(ifa::ADDRESS)).and_then(|a| a.ip6()).ok_or(Errno::EINVAL)?;
    let net = r.net()?;
    let found = net
        .devs
        .iter()
        .filter(|d| index.is_none_or(|i| d.index == i))
        .find_map(|d| d.addrs.iter().find(|x| x.local == IpAddr::V6(a)).map(|x| (d.index, x)));
    let (dev, x) = found.ok_or(Errno::EADDRNOTAVAIL)?;
    let m = fill(r.answer(rtm::NEWADDR, 0), dev, x, net.env.now);
    r.replies.push(m);
    Ok(())
}

/// RTM_GETADDR for all (`inet_dump_ifaddr`, `inet6_dump_addr`; of both families for another family).
pub(super) fn dump(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let mut d = AddrDump { ns: r.ns, family: family(pf), ..AddrDump::default() };
    let filtered = match dump_filter(r, &mut d, pf) {
        Ok(()) => {
            r.start(d);
            return Ok(());
        }
        Err(f) => f,
    };
    r.fail_dump(filtered.0, filtered.1);
    Ok(())
}

fn dump_filter(r: &mut Req<'_, '_>, d: &mut AddrDump, pf: u8) -> Result<(), (Errno, bool)> {
    // Asked for all families, both look at the request (rtnl_dump_all).
    if !r.strict {
        return Ok(());
    }
    let v6 = pf == super::pf::INET6;
    let say = |four: &'static str, six: &'static str| if v6 { six } else { four };
    let no = (Errno::EINVAL, false);
    let Some((head, attrs)) = r.split(IFADDR) else {
        r.ext.msg(say(
            "ipv4: Invalid header for address dump request",
            "ipv6: Invalid header for address dump request",
        ));
        return Err(no);
    };
    let mut f = Fields(head);
    let (_, plen, flags, scope, index) = (f.u8(), f.u8(), f.u8(), f.u8(), f.i32());
    if plen != 0 || flags != 0 || scope != 0 {
        r.ext.msg(say(
            "ipv4: Invalid values in header for address dump request",
            "ipv6: Invalid values in header for address dump request",
        ));
        return Err(no);
    }
    d.dev = ifindex(index);
    let tb = parse(attrs, &POLICY4, Strictness::Strict, &mut r.ext).map_err(|e| (e, d.dev.is_some()))?;
    if tb.iter().any(|a| a.ty != ifa::TARGET_NETNSID) {
        r.ext.msg(say(
            "ipv4: Unsupported attribute in dump request",
            "ipv6: Unsupported attribute in dump request",
        ));
        return Err((Errno::EINVAL, d.dev.is_some()));
    }
    if let Some(a) = tb.get(ifa::TARGET_NETNSID) {
        let Some(ns) = r.kernel.nl.nsids.by_id(r.ns, a.i32()) else {
            r.ext.msg(say(
                "ipv4: Invalid target network namespace id",
                "ipv6: Invalid target network namespace id",
            ));
            return Err(no);
        };
        d.ns = ns;
    }
    if let Some(i) = d.dev
        && r.kernel.world.ns(d.ns).is_none_or(|n| n.devs.get(i).is_none())
    {
        return Err((Errno::ENODEV, true));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct AddrDump {
    ns: NsId,
    /// Both when `None`: all of IPv4, then all of IPv6.
    family: Option<Family>,
    dev: Option<IfIndex>,
    /// Family that is done, device to go on with, addresses of it that are done.
    v4_done: bool,
    at: (u32, usize),
}

impl AddrDump {
    fn one_family(&mut self, cx: &mut DumpCx<'_>, f: Family, want: usize, out: &mut Out) -> bool {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return true };
        let from = self.at.0;
        for d in net.devs.iter().filter(|d| d.index.0 >= from) {
            if self.dev.is_some_and(|i| i != d.index) {
                continue;
            }
            let skip = if d.index.0 == self.at.0 { self.at.1 } else { 0 };
            let mine = d.addrs.iter().filter(|a| Family::of(a.local) == f);
            for (i, a) in mine.enumerate().skip(skip) {
                if out.bytes() >= want {
                    return false;
                }
                let flags = nlm_f::MULTI | if self.dev.is_some() { nlm_f::DUMP_FILTERED } else { 0 };
                let m = Msg::new(rtm::NEWADDR, flags, cx.seq, cx.portid);
                out.push(fill(m, d.index, a, net.env.now));
                self.at = (d.index.0, i + 1);
            }
        }
        true
    }
}

impl Source for AddrDump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        if self.family != Some(Family::V6) && !self.v4_done {
            if !self.one_family(cx, Family::V4, want, out) {
                return Ok(false);
            }
            self.v4_done = true;
            self.at = (0, 0);
        }
        if self.family == Some(Family::V4) {
            return Ok(true);
        }
        Ok(self.one_family(cx, Family::V6, want, out))
    }
    fn generation(&self, k: &Kernel, ns: NsId) -> u64 {
        super::generation(k, ns)
    }
    fn filtered(&self) -> bool {
        self.dev.is_some()
    }
}
