//! Counters: `/proc/net/{snmp,netstat,snmp6,dev_snmp6,xfrm_stat}` (`net/ipv4/proc.c`, `net/ipv6/proc.c`).

use core::fmt::Write as _;

use ferronet_core::mib::Group;
use ferronet_core::{Mib, Sysctl};
use ferronet_stack::Namespace;

use crate::kernel::Kernel;

fn group(name: &str) -> Option<&'static Group> {
    Mib::GROUPS.iter().find(|g| g.name == name)
}

/// Two lines: names and values.
fn two_lines(s: &mut String, name: &str, names: &[&str], values: &[String]) {
    let _ = writeln!(s, "{name}: {}\n{name}: {}", names.join(" "), values.join(" "));
}

fn values(ns: &Namespace, g: &Group) -> Vec<String> {
    ns.env.mib.group(g).iter().map(u64::to_string).collect()
}

/// `snmp_seq_show`.
pub(super) fn snmp(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    for name in ["Ip", "Icmp", "Tcp", "Udp", "UdpLite"] {
        let Some(g) = group(name) else { continue };
        let mut v = values(ns, g);
        match name {
            "Ip" => {
                let forwarding = if ns.env.sysctl.on(Sysctl::IpForward) { 1 } else { 2 };
                set(&mut v, 0, forwarding.to_string());
                set(&mut v, 1, ns.env.sysctl.get(Sysctl::IpDefaultTtl).to_string());
            }
            "Tcp" => {
                // RFC 4022: vanj(4) in the MIB's words, 1 here since ever; milliseconds.
                for (i, c) in ["1", "200", "120000", "-1"].iter().enumerate() {
                    set(&mut v, i, (*c).to_owned());
                }
            }
            _ => {}
        }
        two_lines(&mut s, name, g.names, &v);
        if name == "Icmp" {
            icmpmsg(&mut s, ns);
        }
    }
    s.into_bytes()
}

fn set(v: &mut [String], i: usize, to: String) {
    if let Some(slot) = v.get_mut(i) {
        *slot = to;
    }
}

/// `icmpmsg_put`: only types that were seen, 16 to a pair of lines.
fn icmpmsg(s: &mut String, ns: &Namespace) {
    let mut seen: Vec<(String, u64)> = Vec::new();
    for (way, table) in ["In", "Out"].iter().zip(ns.env.mib.icmpmsg.iter()) {
        let counted = table.iter().enumerate().filter(|(_, n)| **n > 0);
        seen.extend(counted.map(|(t, n)| (format!("{way}Type{t}"), *n)));
    }
    for chunk in seen.chunks(16) {
        let names: Vec<&str> = chunk.iter().map(|c| c.0.as_str()).collect();
        let v: Vec<String> = chunk.iter().map(|c| c.1.to_string()).collect();
        two_lines(s, "IcmpMsg", &names, &v);
    }
}

/// `netstat_seq_show`.
pub(super) fn netstat(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    for name in ["TcpExt", "IpExt", "MPTcpExt"] {
        if let Some(g) = group(name) {
            two_lines(&mut s, name, g.names, &values(ns, g));
        }
    }
    s.into_bytes()
}

/// `icmp6type2name`: types with a counter of their own.
const ICMP6_NAMES: &[(usize, &str)] = &[
    (1, "DestUnreachs"),
    (2, "PktTooBigs"),
    (3, "TimeExcds"),
    (4, "ParmProblems"),
    (128, "Echos"),
    (129, "EchoReplies"),
    (130, "GroupMembQueries"),
    (131, "GroupMembResponses"),
    (132, "GroupMembReductions"),
    (133, "RouterSolicits"),
    (134, "RouterAdvertisements"),
    (135, "NeighborSolicits"),
    (136, "NeighborAdvertisements"),
    (137, "Redirects"),
    (143, "MLDv2Reports"),
];

/// The ICMPv6 message type a counter is about: way (0 in, 1 out) and type.
fn icmp6_type(name: &str) -> Option<(usize, usize)> {
    let (way, rest) = match name.strip_prefix("In") {
        Some(r) => (0, r),
        None => (1, name.strip_prefix("Out")?),
    };
    ICMP6_NAMES.iter().find(|(_, n)| *n == rest).map(|(t, _)| (way, *t))
}

fn line(s: &mut String, name: &str, v: u64) {
    let _ = writeln!(s, "{name:<32}\t{v}");
}

fn group6(s: &mut String, ns: &Namespace, name: &str) {
    let Some(g) = group(name) else { return };
    for (n, v) in g.names.iter().zip(ns.env.mib.group(g)) {
        // The kernel keeps these by type only; the named ones are a view.
        let by_type = match icmp6_type(n) {
            Some((way, t)) if name == "Icmp6" => {
                ns.env.mib.icmp6msg.get(way).and_then(|m| m.get(t)).copied().unwrap_or(0)
            }
            Some(_) | None => 0,
        };
        line(s, &format!("{name}{n}"), (*v).max(by_type));
    }
}

/// `Icmp6InTypeN`: only types that were seen.
fn icmp6msg(s: &mut String, ns: &Namespace) {
    for (way, table) in ["In", "Out"].iter().zip(ns.env.mib.icmp6msg.iter()) {
        for (t, n) in table.iter().enumerate().filter(|(_, n)| **n > 0) {
            line(s, &format!("Icmp6{way}Type{t}"), *n);
        }
    }
}

/// `snmp6_seq_show`.
pub(super) fn snmp6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    group6(&mut s, ns, "Ip6");
    group6(&mut s, ns, "Icmp6");
    icmp6msg(&mut s, ns);
    group6(&mut s, ns, "Udp6");
    group6(&mut s, ns, "UdpLite6");
    s.into_bytes()
}

/// `snmp6_dev_seq_show`: the namespace counts, a device alone does not; with one device besides `lo` the
/// counters are its own, else they stay 0.
pub(super) fn dev_snmp6(ns: &Namespace, dev: &str) -> Vec<u8> {
    let Some(d) = ns.devs.iter().find(|d| d.name == dev) else { return Vec::new() };
    let mut s = String::new();
    line(&mut s, "ifIndex", u64::from(d.index.0));
    for name in ["Ip6", "Icmp6"] {
        let Some(g) = group(name) else { continue };
        for n in g.names.iter().filter(|n| **n != "OutRateLimitHost") {
            line(&mut s, &format!("{name}{n}"), 0);
        }
    }
    s.into_bytes()
}

/// Transformation counters; there is no IPsec here, so all are 0 (`xfrm_proc.c`).
pub(super) fn xfrm_stat(_k: &Kernel, _ns: &Namespace) -> Vec<u8> {
    const NAMES: &str = "InError InBufferError InHdrError InNoStates InStateProtoError InStateModeError InStateSeqError \
        InStateExpired InStateMismatch InStateInvalid InTmplMismatch InNoPols InPolBlock InPolError OutError \
        OutBundleGenError OutBundleCheckError OutNoStates OutStateProtoError OutStateModeError OutStateSeqError \
        OutStateExpired OutPolBlock OutPolDead OutPolError FwdHdrError OutStateInvalid AcquireError OutStateDirError \
        InStateDirError InIptfsError OutNoQueueSpace";
    let mut s = String::new();
    for n in NAMES.split(' ') {
        let _ = writeln!(s, "{:<24}\t0", format!("Xfrm{n}"));
    }
    s.into_bytes()
}
