//! Addresses, groups and neighbours: `/proc/net/{arp,if_inet6,igmp,igmp6,mcfilter,mcfilter6}`.

use core::fmt::Write as _;
use core::net::{IpAddr, Ipv6Addr};

use ferronet_stack::Namespace;
use ferronet_stack::dev::Device;
use ferronet_stack::dev::mcast::McSources;
use ferronet_stack::neigh::nud;

use super::dev::groups;
use crate::kernel::Kernel;

/// 32 hexadecimal digits (`%pi6`).
pub(super) fn pi6(a: Ipv6Addr) -> String {
    format!("{:032x}", a.to_bits())
}

/// `arp_seq_show`.
pub(super) fn arp(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s =
        String::from("IP address       HW type     Flags       HW address            Mask     Device\n");
    for n in ns.neigh.sorted() {
        let IpAddr::V4(a) = n.key.addr else { continue };
        // neigh_seq_start with NEIGH_SEQ_SKIP_NOARP.
        if n.state & !nud::NOARP == 0 {
            continue;
        }
        let Some(d) = ns.devs.get(n.key.dev) else { continue };
        let flags = match n.state {
            st if st & nud::PERMANENT != 0 => 6,
            st if st & nud::VALID != 0 => 2,
            _ => 0,
        };
        let mac: Vec<String> = n.mac.0.iter().map(|b| format!("{b:02x}")).collect();
        let hw_type = if d.is_loopback() { 772 } else { 1 };
        let _ = writeln!(
            s,
            "{:<16} 0x{:<10x}0x{:<10x}{:<17}     *        {}",
            a.to_string(),
            hw_type,
            flags,
            mac.join(":"),
            d.name
        );
    }
    s.into_bytes()
}

/// `if6_seq_show`.
pub(super) fn if_inet6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    for d in ns.devs.iter() {
        for a in &d.addrs {
            let IpAddr::V6(v6) = a.local else { continue };
            let scope = match v6.segments()[0] & 0xffc0 {
                _ if v6.is_loopback() => 0x10,
                0xfe80 => 0x20,
                0xfec0 => 0x40,
                _ => 0x00,
            };
            let _ = writeln!(
                s,
                "{} {:02x} {:02x} {:02x} {:02x} {:>8}",
                pi6(v6),
                d.index.0,
                a.prefix_len,
                scope,
                a.flags & 0xff,
                d.name
            );
        }
    }
    s.into_bytes()
}

/// `igmp_mc_seq_show`.
pub(super) fn igmp(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::from("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
    for d in ns.devs.iter() {
        let v4: Vec<_> = groups(d)
            .into_iter()
            .filter_map(|(a, n)| match a {
                IpAddr::V4(a) => Some((a, n)),
                IpAddr::V6(_) => None,
            })
            .collect();
        if v4.is_empty() {
            continue;
        }
        let _ = writeln!(s, "{}\t{:<10}: {:>5} {:>7}", d.index.0, d.name, v4.len(), "V3");
        // The newest group comes first, 224.0.0.1 last, as it was joined first.
        for (a, users) in &v4 {
            let raw = u32::from_le_bytes(a.octets());
            let _ = writeln!(s, "\t\t\t\t{raw:08X} {users:>5} 0:00000000\t\t0");
        }
    }
    s.into_bytes()
}

/// `igmp6_mc_seq_show`.
pub(super) fn igmp6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    /// `MAF_LAST_REPORTER`.
    const REPORTER: u32 = 4;
    /// `MAF_NOREPORT`.
    const NOREPORT: u32 = 8;
    let mut s = String::new();
    for d in ns.devs.iter() {
        let v6 = d.mcast.iter().filter_map(|(a, n)| match a {
            IpAddr::V6(a) => Some((*a, *n)),
            IpAddr::V4(_) => None,
        });
        for (a, users) in v6 {
            // Reports are not sent for all-nodes and interface scope (RFC 2710 §5).
            let flags = match a.segments() {
                [0xff02, 0, 0, 0, 0, 0, 0, 1] => NOREPORT | REPORTER,
                [first, ..] if first & 0xf <= 1 => NOREPORT,
                _ => REPORTER,
            };
            let _ = writeln!(s, "{:<4} {:<15} {} {users:>5} {flags:08X} 0", d.index.0, d.name, pi6(a));
        }
    }
    s.into_bytes()
}

/// `igmp_mcf_seq_show`.
pub(super) fn mcfilter(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::from("Idx Device        MCA        SRC    INC    EXC\n");
    for (d, m) in filters(ns) {
        let IpAddr::V4(group) = m.group else { continue };
        for (a, inc, exc) in &m.sources {
            let IpAddr::V4(a) = a else { continue };
            let (group, a) = (group.to_bits(), a.to_bits());
            let _ = writeln!(s, "{:>3} {:>6.6} {group:#010x} {a:#010x} {inc:>6} {exc:>6}", d.index.0, d.name);
        }
    }
    s.into_bytes()
}

/// `igmp6_mcf_seq_show`.
pub(super) fn mcfilter6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::from(
        "Idx Device                Multicast Address                   Source Address    INC    EXC\n",
    );
    for (d, m) in filters(ns) {
        let IpAddr::V6(group) = m.group else { continue };
        for (a, inc, exc) in &m.sources {
            let IpAddr::V6(a) = a else { continue };
            let (group, a) = (pi6(group), pi6(*a));
            let _ = writeln!(s, "{:>3} {:>6.6} {group} {a} {inc:>6} {exc:>6}", d.index.0, d.name);
        }
    }
    s.into_bytes()
}

/// Filters by source of all devices, in the order of their groups.
fn filters(ns: &Namespace) -> impl Iterator<Item = (&Device, &McSources)> {
    ns.devs.iter().flat_map(|d| {
        let of = |g: &(IpAddr, u32)| d.mc_sources.iter().find(|m| m.group == g.0);
        d.mcast.iter().filter_map(of).map(move |m| (d, m))
    })
}
