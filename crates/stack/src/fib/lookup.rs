//! The lookup: rules in order, tables by longest prefix, next hops by weight (`fib_lookup`).

use core::net::IpAddr;

use ferronet_core::IfIndex;

use super::{Family, Fib, FibEntry, NextHop, RouteType, Rule, RuleAction, table::key};
use crate::dev::{Devices, scope};

/// What a lookup is about (`struct flowi`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Flow {
    /// Destination.
    pub dst: IpAddr,
    /// Source; unspecified when not chosen yet.
    pub src: IpAddr,
    /// Type of service.
    pub tos: u8,
    /// Packet or socket mark.
    pub mark: u32,
    /// Device the packet came in on; `lo` for local output, as in the kernel.
    pub iif: IfIndex,
    /// Device the socket is bound to.
    pub oif: IfIndex,
    /// Owner of the socket.
    pub uid: u32,
    /// Transport protocol.
    pub proto: u8,
    /// Ports, 0 when unknown.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Flow hash for multipath.
    pub hash: u32,
    /// Routes of a wider scope do not count (`flowi4_scope`): [`scope::LINK`] for what may not go through a gateway.
    pub scope: u8,
}

impl Flow {
    /// Local output to `dst`.
    #[must_use]
    pub fn to(dst: IpAddr) -> Flow {
        Flow {
            dst,
            src: Family::of(dst).any(),
            tos: 0,
            mark: 0,
            iif: IfIndex::LO,
            oif: IfIndex::NONE,
            uid: 0,
            proto: 0,
            sport: 0,
            dport: 0,
            hash: 0,
            scope: scope::UNIVERSE,
        }
    }
}

/// The result (`struct rtable`, `struct rt6_info`): small, `Copy`, good until [`Fib::generation`] moves.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Route {
    /// Type.
    pub kind: RouteType,
    /// Device to send on.
    pub dev: IfIndex,
    /// Gateway, when not on the link.
    pub gw: Option<IpAddr>,
    /// Preferred source address of the route.
    pub prefsrc: Option<IpAddr>,
    /// Scope of the route.
    pub scope: u8,
    /// Table it came from.
    pub table: u32,
    /// Prefix length that matched.
    pub dst_len: u8,
    /// Route MTU; 0 when the device's holds.
    pub mtu: u32,
    /// Advertised MSS; 0 for the default.
    pub advmss: u32,
    /// Hop limit; 0 for the default.
    pub hoplimit: u8,
    /// `initcwnd`; 0 for the default.
    pub initcwnd: u16,
    /// Next-hop flags.
    pub nh_flags: u8,
    /// One of several next hops, chosen by the flow's hash.
    pub multipath: bool,
}

impl Route {
    fn new(e: &FibEntry, nh: Option<&NextHop>) -> Route {
        Route {
            kind: e.kind,
            dev: nh.map_or(IfIndex::NONE, |n| n.dev),
            gw: nh.and_then(|n| n.gw),
            prefsrc: e.prefsrc,
            scope: e.scope,
            table: e.table,
            dst_len: e.dst_len,
            mtu: e.metrics.mtu,
            advmss: e.metrics.advmss,
            hoplimit: e.metrics.hoplimit as u8,
            initcwnd: e.metrics.initcwnd as u16,
            nh_flags: nh.map_or(0, |n| n.flags),
            multipath: e.nexthops.len() > 1,
        }
    }
    /// The address to resolve on the link: the gateway or the destination itself.
    #[inline]
    #[must_use]
    pub fn next_hop(&self, dst: IpAddr) -> IpAddr {
        self.gw.unwrap_or(dst)
    }
}

/// `RTNH_F_DEAD | RTNH_F_LINKDOWN` as far as a lookup refuses them.
const RTNH_F_DEAD: u8 = 1;

impl Fib {
    /// The route for a flow; `None` when no table has one. Types such as `Unreachable` are results too.
    #[inline]
    #[must_use]
    pub fn lookup(&self, flow: &Flow, devs: &Devices) -> Option<Route> {
        self.lookup_with(flow, devs, &mut |e, nh| Route::new(e, nh))
    }

    /// Likewise, but with the whole entry (`ip route get`).
    pub fn lookup_with<R>(
        &self,
        flow: &Flow,
        devs: &Devices,
        make: &mut dyn FnMut(&FibEntry, Option<&NextHop>) -> R,
    ) -> Option<R> {
        let family = Family::of(flow.dst);
        let mut after = 0;
        for (i, rule) in self.rules(family).enumerate() {
            if i < after || !(self.plain[family as usize] || matches_rule(rule, flow, devs)) {
                continue;
            }
            match rule.action {
                RuleAction::ToTable => {
                    let Some(t) = self.table(family, rule.table) else { continue };
                    let hit = t.lookup(flow.dst, flow.tos, |e| pick((rule, devs), e, flow, make));
                    if let Some(Some(r)) = hit {
                        return Some(r);
                    }
                }
                RuleAction::Goto(to) => {
                    after = self.rules(family).position(|r| r.priority >= to).unwrap_or(usize::MAX);
                }
                RuleAction::Nop => {}
                RuleAction::Blackhole => return Some(make(&rule_entry(rule, RouteType::Blackhole), None)),
                RuleAction::Unreachable => {
                    return Some(make(&rule_entry(rule, RouteType::Unreachable), None));
                }
                RuleAction::Prohibit => return Some(make(&rule_entry(rule, RouteType::Prohibit), None)),
            }
        }
        None
    }
}

/// Whether an entry serves the flow. `Some(None)` ends the search in this table (throw, suppression).
fn pick<R>(
    (rule, devs): (&Rule, &Devices),
    e: &FibEntry,
    flow: &Flow,
    make: &mut dyn FnMut(&FibEntry, Option<&NextHop>) -> R,
) -> Option<Option<R>> {
    if e.kind == RouteType::Throw {
        return Some(None);
    }
    // fib_table_lookup: a gateway's route is UNIVERSE, one on the link is LINK.
    if e.scope < flow.scope {
        return None;
    }
    let suppressed = rule.suppress_prefixlen.is_some_and(|n| u32::from(e.dst_len) <= n);
    if e.nexthops.is_empty() {
        return Some((!suppressed).then(|| make(e, None)));
    }
    // Whoever is bound to a device does not reach the addresses of another one here, but on its link, if at all.
    let usable = |n: &&NextHop| n.flags & RTNH_F_DEAD == 0 && (flow.oif.is_none() || n.dev == flow.oif);
    let total: u32 = e.nexthops.iter().filter(usable).map(|n| u32::from(n.weight) + 1).sum();
    if total == 0 {
        return None;
    }
    let mut point =
        if e.nexthops.len() == 1 { 0 } else { ((u64::from(flow.hash) * u64::from(total)) >> 32) as u32 };
    let nh = e.nexthops.iter().filter(usable).find(|n| {
        let w = u32::from(n.weight) + 1;
        let here = point < w;
        point = point.wrapping_sub(w);
        here
    })?;
    let group = devs.get(nh.dev).map(|d| d.group);
    let suppressed = suppressed || (rule.suppress_ifgroup.is_some() && group == rule.suppress_ifgroup);
    Some((!suppressed).then(|| make(e, Some(nh))))
}

fn rule_entry(rule: &Rule, kind: RouteType) -> FibEntry {
    FibEntry {
        dst: rule.family.any(),
        dst_len: 0,
        tos: 0,
        table: rule.table,
        priority: 0,
        protocol: 0,
        scope: scope::UNIVERSE,
        kind,
        prefsrc: None,
        nexthops: smallvec::SmallVec::new(),
        metrics: super::Metrics::default(),
        pref: 0,
        expires: None,
    }
}

fn in_prefix(p: Option<(IpAddr, u8)>, a: IpAddr) -> bool {
    p.is_none_or(|(n, len)| len == 0 || (key(n) ^ key(a)) >> (128 - u32::from(len.min(128))) == 0)
}

/// `fib_rule_match`.
fn matches_rule(r: &Rule, f: &Flow, devs: &Devices) -> bool {
    let dev_is = |name: &Option<String>, i: IfIndex| {
        name.as_ref().is_none_or(|n| devs.get(i).is_some_and(|d| d.name == *n))
    };
    let in_range = |r: Option<(u16, u16)>, p: u16| r.is_none_or(|(a, b)| p >= a && p <= b);
    // No tunnel gives its number to a packet yet.
    let hit = !r.l3mdev
        && r.tun_id == 0
        && in_prefix(r.src, f.src)
        && in_prefix(r.dst, f.dst)
        && (r.tos == 0 || r.tos == f.tos)
        && dev_is(&r.iif, f.iif)
        && dev_is(&r.oif, f.oif)
        && r.fwmark.is_none_or(|(m, mask)| (f.mark ^ m) & mask == 0)
        && r.uid_range.is_none_or(|(a, b)| f.uid >= a && f.uid <= b)
        && (r.ip_proto == 0 || r.ip_proto == f.proto)
        && in_range(r.sport, f.sport)
        && in_range(r.dport, f.dport);
    hit != r.invert
}
