//! Routes: `/proc/net/{route,ipv6_route,rt6_stats}` (`net/ipv4/fib_trie.c`, `net/ipv6/ip6_fib.c`).

use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_stack::Namespace;
use ferronet_stack::fib::{Family, FibEntry, RouteType, table_id};

use super::addr::pi6;
use crate::kernel::Kernel;

/// Route flags (`RTF_*`, `linux/route.h`, `linux/ipv6_route.h`).
mod rtf {
    pub(super) const UP: u32 = 0x1;
    pub(super) const GATEWAY: u32 = 0x2;
    pub(super) const HOST: u32 = 0x4;
    pub(super) const REJECT: u32 = 0x200;
    pub(super) const DEFAULT: u32 = 0x1_0000;
    pub(super) const ADDRCONF: u32 = 0x4_0000;
    pub(super) const ANYCAST: u32 = 0x10_0000;
    pub(super) const NONEXTHOP: u32 = 0x20_0000;
    pub(super) const EXPIRES: u32 = 0x40_0000;
    pub(super) const LOCAL: u32 = 0x8000_0000;
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

/// Network byte order printed as the machine's number, as the kernel does.
fn raw(a: u32) -> u32 {
    a.swap_bytes()
}

/// `fib_route_seq_show`: the main table; an address's shorter prefixes follow its longer ones.
pub(super) fn route(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mut s = format!("{head:<127}\n");
    let mut all: Vec<(Ipv4Addr, &FibEntry)> = ns
        .fib
        .table(Family::V4, table_id::MAIN)
        .map(|t| {
            t.iter().filter_map(|e| if let IpAddr::V4(a) = e.dst { Some((a, e)) } else { None }).collect()
        })
        .unwrap_or_default();
    all.sort_by_key(|(a, e)| (*a, core::cmp::Reverse(e.dst_len)));
    for (a, e) in
        all.into_iter().filter(|(_, e)| !matches!(e.kind, RouteType::Broadcast | RouteType::Multicast))
    {
        let nh = e.nexthops.first();
        let gw = match nh.and_then(|n| n.gw) {
            Some(IpAddr::V4(g)) => g.to_bits(),
            Some(IpAddr::V6(_)) | None => 0,
        };
        let mut flags = rtf::UP;
        if matches!(e.kind, RouteType::Unreachable | RouteType::Prohibit) {
            flags = rtf::REJECT;
        }
        // fib_flag_trans.
        if gw != 0 {
            flags |= rtf::GATEWAY;
        }
        if e.dst_len == 32 {
            flags |= rtf::HOST;
        }
        flags |= rtf::UP;
        let dev = nh.and_then(|n| ns.devs.get(n.dev)).map_or("*", |d| d.name.as_str());
        let m = &e.metrics;
        let advmss = if m.advmss == 0 { 0 } else { m.advmss + 40 };
        let text = format!(
            "{dev}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t{advmss}\t{}\t{}",
            raw(a.to_bits()),
            raw(gw),
            e.priority as i32,
            raw(mask(e.dst_len)),
            m.window,
            m.rtt >> 3
        );
        let _ = writeln!(s, "{text:<127}");
    }
    s.into_bytes()
}

fn line6(s: &mut String, e: &FibEntry, gw: Option<IpAddr>, flags: u32, dev: &str) {
    let IpAddr::V6(dst) = e.dst else { return };
    let gw = match gw {
        Some(IpAddr::V6(g)) => g,
        Some(IpAddr::V4(_)) | None => Ipv6Addr::UNSPECIFIED,
    };
    let _ = writeln!(
        s,
        "{} {:02x} {} 00 {} {:08x} {:08x} {:08x} {flags:08x} {dev:>8}",
        pi6(dst),
        e.dst_len,
        pi6(Ipv6Addr::UNSPECIFIED),
        pi6(gw),
        e.priority,
        1,
        0
    );
}

fn flags6(e: &FibEntry, gw: Option<IpAddr>) -> u32 {
    /// `RTPROT_RA`.
    const RA: u8 = 9;
    let reject = matches!(
        e.kind,
        RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
    );
    if reject {
        return rtf::REJECT | rtf::NONEXTHOP;
    }
    let mut f = rtf::UP;
    if gw.is_some() {
        f |= rtf::GATEWAY;
    }
    match e.kind {
        RouteType::Local => f |= rtf::LOCAL | rtf::NONEXTHOP,
        RouteType::Anycast => f |= rtf::ANYCAST | rtf::NONEXTHOP,
        _ => {}
    }
    if e.expires.is_some() {
        f |= rtf::EXPIRES;
    }
    if e.protocol == RA {
        f |= if e.dst_len == 0 { rtf::DEFAULT | rtf::ADDRCONF } else { rtf::ADDRCONF };
    }
    // rt6_pref: bits 27 and 28 (IPV6_EXTRACT_PREF).
    f | u32::from(e.pref & 3) << 27
}

/// `rt6_fill_node` of the proc file (`rt6_nh_dump`, `ipv6_route_native_seq_show`): tables in order main, local
/// (254, 255), each in post-order: a prefix follows what it contains.
pub(super) fn ipv6_route(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    for (_, t) in ns.fib.tables(Family::V6) {
        let mut all: Vec<(u128, &FibEntry)> = t
            .iter()
            .filter_map(|e| if let IpAddr::V6(a) = e.dst { Some((last(a, e.dst_len), e)) } else { None })
            .collect();
        // Post-order: by the last address of the prefix, the longer first.
        all.sort_by_key(|(end, e)| (*end, core::cmp::Reverse(e.dst_len)));
        let mut default = false;
        for (_, e) in &all {
            default |= e.dst_len == 0;
            if e.nexthops.is_empty() {
                line6(&mut s, e, None, flags6(e, None), "lo");
            }
            for nh in &e.nexthops {
                let dev = ns.devs.get(nh.dev).map_or("", |d| d.name.as_str());
                let dev = if flags6(e, nh.gw) & rtf::REJECT != 0 { "lo" } else { dev };
                line6(&mut s, e, nh.gw, flags6(e, nh.gw), dev);
            }
        }
        // The root of a table without a default route is the null entry.
        if !default {
            let z = pi6(Ipv6Addr::UNSPECIFIED);
            let flags = rtf::REJECT | rtf::NONEXTHOP;
            let _ = writeln!(s, "{z} 00 {z} 00 {z} ffffffff 00000001 00000000 {flags:08x} {:>8}", "lo");
        }
    }
    s.into_bytes()
}

fn last(a: Ipv6Addr, len: u8) -> u128 {
    a.to_bits() | u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

/// `rt6_stats_seq_show`: nodes, route nodes, allocated, entries, cached, dsts, discarded.
pub(super) fn rt6_stats(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let (mut prefixes, mut routes) = (0, 0);
    for (_, t) in ns.fib.tables(Family::V6) {
        routes += t.len();
        let mut seen: Vec<_> = t.iter().map(|e| (e.dst, e.dst_len)).collect();
        seen.dedup();
        prefixes += seen.len();
    }
    format!("{:04x} {prefixes:04x} {routes:04x} {routes:04x} 0000 0000 0000\n", prefixes + 2).into_bytes()
}
