//! Forwarding information base: rules, tables, longest-prefix match, for IPv4 and IPv6.

mod change;
mod lookup;
mod lpm;
pub mod semantics;
mod table;
#[cfg(test)]
mod tests;

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, Instant};
pub use lookup::{Flow, Route};
pub use lpm::{DumpOrder, Lpm, Place};
pub use table::{FibTable, How, Inserted, prefix};

/// Address family of routes and rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Family of an address.
    #[must_use]
    pub const fn of(a: IpAddr) -> Family {
        match a {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
    /// Bits of an address.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
    /// The all-zero address.
    #[must_use]
    pub const fn any(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// Route types (`RTN_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "rtnetlink(7)")]
pub enum RouteType {
    Unicast = 1,
    Local = 2,
    Broadcast = 3,
    Anycast = 4,
    Multicast = 5,
    Blackhole = 6,
    Unreachable = 7,
    Prohibit = 8,
    Throw = 9,
}

/// Table numbers (`RT_TABLE_*`).
pub mod table_id {
    /// `default`.
    pub const DEFAULT: u32 = 253;
    /// `main`.
    pub const MAIN: u32 = 254;
    /// `local`.
    pub const LOCAL: u32 = 255;
}

/// Who made a route (`RTPROT_*`).
pub mod proto {
    /// By an ICMP redirect.
    pub const REDIRECT: u8 = 1;
    /// By the kernel, for an address.
    pub const KERNEL: u8 = 2;
    /// During boot; what `ip route add` uses.
    pub const BOOT: u8 = 3;
    /// By the administrator.
    pub const STATIC: u8 = 4;
    /// By a router advertisement.
    pub const RA: u8 = 9;
}

/// One way onward (`struct fib_nh`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// Gateway; `None` when the destination is on the link. May be IPv6 for an IPv4 route (`via inet6`).
    pub gw: Option<IpAddr>,
    /// Device; none for blackhole and its like.
    pub dev: IfIndex,
    /// Weight − 1, as on the wire.
    pub weight: u8,
    /// `RTNH_F_*` (onlink 4, linkdown 16, dead 1).
    pub flags: u8,
    /// `RTA_FLOW`: realm of the destination, and of the source in the upper half; kept for those who ask.
    pub realm: u32,
}

/// Per-route metrics (`RTAX_*`); 0 means not set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs, reason = "ip-route(8)")]
pub struct Metrics {
    pub mtu: u32,
    pub mtu_lock: bool,
    /// `RTAX_LOCK`: bit n stands for metric n.
    pub lock: u32,
    pub advmss: u32,
    pub window: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub ssthresh: u32,
    pub cwnd: u32,
    pub reordering: u32,
    pub hoplimit: u32,
    pub initcwnd: u32,
    pub initrwnd: u32,
    pub rto_min: u32,
    pub quickack: u32,
    pub features: u32,
    /// `congctl`.
    pub cc: Option<ferronet_tcp::CongAlg>,
}

/// A route as `ip route` shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct FibEntry {
    /// Destination prefix (host bits zero).
    pub dst: IpAddr,
    /// Its length.
    pub dst_len: u8,
    /// Type of service the route is for; 0 for any.
    pub tos: u8,
    /// Table.
    pub table: u32,
    /// Metric (`RTA_PRIORITY`).
    pub priority: u32,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `scope::*`.
    pub scope: u8,
    /// Type.
    pub kind: RouteType,
    /// Preferred source.
    pub prefsrc: Option<IpAddr>,
    /// Ways onward: one, several (multipath), or none for blackhole and its like.
    pub nexthops: smallvec::SmallVec<[NextHop; 1]>,
    /// Metrics.
    pub metrics: Metrics,
    /// IPv6: `RTF_*`-derived preference (0 medium, 1 high, 3 low).
    pub pref: u8,
    /// IPv6: when it ends.
    pub expires: Option<Instant>,
}

/// A policy rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Family.
    pub family: Family,
    /// Evaluated in ascending order.
    pub priority: u32,
    /// `from PREFIX`.
    pub src: Option<(IpAddr, u8)>,
    /// `to PREFIX`.
    pub dst: Option<(IpAddr, u8)>,
    /// `tos`.
    pub tos: u8,
    /// `iif NAME`, matched by name as the kernel does.
    pub iif: Option<String>,
    /// `oif NAME`.
    pub oif: Option<String>,
    /// `fwmark MARK/MASK`.
    pub fwmark: Option<(u32, u32)>,
    /// `uidrange`.
    pub uid_range: Option<(u32, u32)>,
    /// `tun_id`: the number of the tunnel a packet came through. There are no tunnels, so it never matches.
    pub tun_id: u64,
    /// `ipproto`.
    pub ip_proto: u8,
    /// `sport`.
    pub sport: Option<(u16, u16)>,
    /// `dport`.
    pub dport: Option<(u16, u16)>,
    /// Matches when the rest does not (`not`).
    pub invert: bool,
    /// What to do.
    pub action: RuleAction,
    /// Table to look up.
    pub table: u32,
    /// `suppress_prefixlength`.
    pub suppress_prefixlen: Option<u32>,
    /// `suppress_ifgroup`.
    pub suppress_ifgroup: Option<u32>,
    /// `l3mdev`: the table of the master device. There are no such masters, so it never matches.
    pub l3mdev: bool,
    /// `realms SRC/DST`; kept for those who ask.
    pub realms: u32,
    /// `RTPROT_*`.
    pub protocol: u8,
}

/// `FR_ACT_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleAction {
    /// Look the table up.
    ToTable,
    /// Jump to a rule priority.
    Goto(u32),
    /// Do nothing.
    Nop,
    /// Drop silently.
    Blackhole,
    /// Unreachable.
    Unreachable,
    /// Prohibited.
    Prohibit,
}

/// Routing tables and rules of a namespace.
#[derive(Debug)]
pub struct Fib {
    /// Tables by family and number, sorted.
    tables: Vec<(Family, u32, FibTable)>,
    /// Rules sorted by family and priority.
    rules: Vec<Rule>,
    /// The rules are the three of a fresh namespace: local and main are looked up directly.
    plain: [bool; 2],
    /// There was another IPv4 rule once: until then the kernel keeps local within main (`fib_unmerge`).
    unmerged: bool,
    /// How many routes prefer a source address: one that no route prefers goes without a look at the tables.
    sources: std::collections::BTreeMap<IpAddr, u32>,
    /// Moves with every change, and only with one.
    pub generation: u64,
}

/// Routes per namespace at most.
pub const MAX_ROUTES: usize = 4_000_000;
/// Rules per namespace at most.
pub const MAX_RULES: usize = 65_536;

impl Default for Fib {
    fn default() -> Self {
        Self::new()
    }
}

impl Fib {
    /// The rules of a fresh namespace (IPv4: 0, 32766, 32767; IPv6: 0, 32766) and empty tables.
    #[must_use]
    pub fn new() -> Self {
        let mut f = Fib {
            tables: Vec::new(),
            rules: Vec::new(),
            plain: [true; 2],
            unmerged: false,
            sources: std::collections::BTreeMap::new(),
            generation: 1,
        };
        for family in [Family::V4, Family::V6] {
            for (priority, table) in
                [(0, table_id::LOCAL), (32766, table_id::MAIN), (32767, table_id::DEFAULT)]
            {
                if family == Family::V6 && table == table_id::DEFAULT {
                    continue;
                }
                f.rules.push(Rule::lookup(family, priority, table));
                f.tables.push((family, table, FibTable::new(family)));
            }
        }
        f.tables.sort_by_key(|t| (t.0, t.1));
        f
    }

    /// The rules of a family, in order.
    pub fn rules(&self, family: Family) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |r| r.family == family)
    }

    /// Tables that exist, in order of number.
    pub fn tables(&self, family: Family) -> impl Iterator<Item = (u32, &FibTable)> {
        self.tables.iter().filter(move |t| t.0 == family).map(|t| (t.1, &t.2))
    }

    /// One table.
    #[must_use]
    pub fn table(&self, family: Family, id: u32) -> Option<&FibTable> {
        let i = self.tables.binary_search_by_key(&(family, id), |t| (t.0, t.1)).ok()?;
        Some(&self.tables[i].2)
    }

    /// Adds a rule; without a priority (0 given as `None`) one before the last but first, as the kernel
    /// picks (`fib_default_rule_pref`).
    ///
    /// # Errors
    /// `EEXIST` for an equal rule, `ENOSPC` beyond [`MAX_RULES`].
    pub fn rule_add(&mut self, mut rule: Rule, priority: Option<u32>) -> Result<Rule, Errno> {
        if self.rules.len() >= MAX_RULES {
            return Err(Errno::ENOSPC);
        }
        rule.priority = priority.unwrap_or_else(|| self.default_rule_priority(rule.family));
        if self.rules.contains(&rule) {
            return Err(Errno::EEXIST);
        }
        let at = self.rules.partition_point(|r| (r.family, r.priority) <= (rule.family, rule.priority));
        self.rules.insert(at, rule.clone());
        self.unmerged |= rule.family == Family::V4;
        self.rules_changed();
        Ok(rule)
    }

    /// The priority of a rule that names none: before the second one (`fib_default_rule_pref`).
    #[must_use]
    pub fn default_rule_priority(&self, family: Family) -> u32 {
        self.rules(family).nth(1).map_or(0, |r| r.priority.saturating_sub(1))
    }

    /// The table that a lookup says it found an IPv4 route in: main for local, while the kernel has them in one.
    #[must_use]
    pub fn shown_table(&self, table: u32) -> u32 {
        if table == table_id::LOCAL && !self.unmerged { table_id::MAIN } else { table }
    }

    /// Numbers of tables in the order in which the kernel dumps them: by hash chain, the newest of a chain first
    /// (`fib_new_table`, `fib6_link_table`).
    #[must_use]
    pub fn dump_order(&self, family: Family) -> Vec<u32> {
        let mut all: Vec<(u32, core::cmp::Reverse<u64>, u32)> =
            self.tables(family).map(|(id, t)| (id & 255, core::cmp::Reverse(t.born), id)).collect();
        all.sort_unstable();
        all.into_iter().map(|x| x.2).collect()
    }

    /// Deletes the first rule for which `matches` holds.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn rule_del(&mut self, matches: impl Fn(&Rule) -> bool) -> Result<Rule, Errno> {
        let i = self.rules.iter().position(matches).ok_or(Errno::ENOENT)?;
        let r = self.rules.remove(i);
        self.unmerged |= r.family == Family::V4;
        self.rules_changed();
        Ok(r)
    }

    fn rules_changed(&mut self) {
        self.generation += 1;
        let fresh = Fib::new();
        for (i, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            self.plain[i] = self.rules(family).eq(fresh.rules(family));
        }
    }
}

impl Rule {
    /// `from all lookup TABLE`.
    #[must_use]
    pub fn lookup(family: Family, priority: u32, table: u32) -> Rule {
        Rule {
            family,
            priority,
            src: None,
            dst: None,
            tos: 0,
            iif: None,
            oif: None,
            fwmark: None,
            uid_range: None,
            ip_proto: 0,
            sport: None,
            dport: None,
            invert: false,
            action: RuleAction::ToTable,
            table,
            suppress_prefixlen: None,
            suppress_ifgroup: None,
            l3mdev: false,
            tun_id: 0,
            realms: 0,
            protocol: proto::KERNEL,
        }
    }
}
