//! The summary of a lab: programs, who talked to whom, links, drops by reason.

use super::Lab;
use crate::rtnl;
use crate::units::show_size;
use ferronet_core::NsId;
use ferronet_linux::Kernel;
use ferronet_stack::dev::flows::FlowCount;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// How a program went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub name: String,
    /// `exited 0`, `killed by signal 9`, `not started: serve failed`.
    pub how: String,
    pub took: Duration,
    pub failed: bool,
}

/// What passed between two namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Talk {
    from: String,
    to: String,
    what: String,
    /// Flows in each direction.
    flows: [u64; 2],
    out: FlowCount,
    back: FlowCount,
}

impl Talk {
    /// Connections, or what comes closest.
    fn flows(&self) -> u64 {
        self.flows[0].max(self.flows[1])
    }
}

/// Everything worth telling.
#[derive(Debug)]
pub(crate) struct Report {
    outcomes: Vec<Outcome>,
    talks: Vec<Talk>,
    /// `(namespace, device, packets out, bytes out, lost by chance, queue full)`.
    links: Vec<(String, String, u64, u64, u64, u64)>,
    /// `(namespace, retransmitted segments)` as /proc/net/snmp counts them.
    retransmits: Vec<(String, u64)>,
    /// `(namespace, reason, packets, meaning, setting)`.
    drops: Vec<(String, &'static str, u64, &'static str, &'static str)>,
}

/// Gathers the figures.
pub(crate) fn gather(kernel: &mut Kernel, lab: &Lab, ids: &[NsId], outcomes: Vec<Outcome>) -> Report {
    let mut r = Report {
        outcomes,
        talks: talks(kernel, lab, ids),
        links: Vec::new(),
        retransmits: Vec::new(),
        drops: Vec::new(),
    };
    for (n, &id) in lab.namespaces.iter().zip(ids) {
        let Some(ns) = kernel.world.ns(id) else { continue };
        for d in ns.devs.iter() {
            if let Some(netem) = &d.netem {
                let s = netem.stats;
                // What was lost on the way in belongs to the same link.
                let rx = d.netem_rx.as_ref().map(|n| n.stats).unwrap_or_default();
                r.links.push((
                    n.name.clone(),
                    d.name.clone(),
                    d.stats.tx_packets,
                    d.stats.tx_bytes,
                    s.lost + rx.lost,
                    s.overflowed + rx.overflowed,
                ));
            }
        }
        for (reason, count) in ns.env.drops.iter() {
            r.drops.push((n.name.clone(), reason.name(), count, reason.meaning(), reason.tunable()));
        }
        let snmp = rtnl::proc_read(kernel, id, "net/snmp").unwrap_or_default();
        r.retransmits.push((n.name.clone(), snmp_value(&snmp, "Tcp", "RetransSegs").unwrap_or(0)));
    }
    r.drops.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| (&a.0, a.1).cmp(&(&b.0, b.1))));
    r
}

/// A counter of /proc/net/snmp: a line of names, then a line of values.
fn snmp_value(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|l| l.split(':').next() == Some(group));
    let at = lines.next()?.split_whitespace().position(|w| w == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// Conversations, counted at their senders, grouped by the two namespaces and the server's port.
fn talks(kernel: &Kernel, lab: &Lab, ids: &[NsId]) -> Vec<Talk> {
    let outside = |ip: IpAddr| lab.taps.iter().any(|t| t.host_addresses.iter().any(|(a, _)| *a == ip));
    let owner = |ip: IpAddr| {
        let named = lab.namespaces.iter().find(|n| n.addresses.iter().any(|(_, a, _)| *a == ip));
        named.map(|n| n.name.clone())
    };
    let name = |ip: IpAddr| {
        let host = outside(ip).then(|| "host".to_owned());
        owner(ip).or(host).unwrap_or_else(|| ip.to_string())
    };
    // Both directions of a flow, keyed by the end that is not the server.
    let mut groups: BTreeMap<(String, String, String), Talk> = BTreeMap::new();
    for (n, &id) in lab.namespaces.iter().zip(ids) {
        let Some(ns) = kernel.world.ns(id) else { continue };
        let sent = ns.devs.iter().filter_map(|d| Some((d.netem.as_ref()?, false)));
        let received = ns.devs.iter().filter_map(|d| Some((d.netem_rx.as_ref()?, true)));
        for (flows, from_outside) in sent.chain(received).filter_map(|(n, rx)| Some((n.flows.as_ref()?, rx)))
        {
            for (key, count) in flows.sorted() {
                // A router counts what it forwards again; only the sender's own count is taken, or that of the device where
                // a packet came in.
                let sender = owner(key.src);
                if if from_outside { sender.is_some() } else { sender.as_ref() != Some(&n.name) } {
                    continue;
                }
                let (from, to) = (name(key.src), name(key.dst));
                let is_server = key.sport != 0 && key.sport < key.dport;
                let service = key.sport.min(key.dport);
                let what = describe(key.proto, service);
                let (a, b) = if is_server { (to, from) } else { (from, to) };
                // Without ports the namespace that comes first in the file is the first.
                let swap = service == 0 && position(lab, &a) > position(lab, &b);
                let (a, b, reverse) = if swap { (b, a, !is_server) } else { (a, b, is_server) };
                let talk = groups.entry((a.clone(), b.clone(), what.clone())).or_insert_with(|| Talk {
                    from: a,
                    to: b,
                    what,
                    flows: [0; 2],
                    out: FlowCount::default(),
                    back: FlowCount::default(),
                });
                talk.flows[usize::from(reverse)] += 1;
                let side = if reverse { &mut talk.back } else { &mut talk.out };
                side.packets += count.packets;
                side.bytes += count.bytes;
                side.retransmitted += count.retransmitted;
            }
        }
    }
    let mut all: Vec<Talk> = groups.into_values().collect();
    all.sort_by_key(|t| std::cmp::Reverse(t.out.bytes + t.back.bytes));
    all
}

fn position(lab: &Lab, name: &str) -> usize {
    lab.namespaces.iter().position(|n| n.name == name).unwrap_or(usize::MAX)
}

fn describe(proto: u8, port: u16) -> String {
    use ferronet_wire::ipproto as p;
    match proto {
        p::IPPROTO_TCP => format!("tcp {port}"),
        p::IPPROTO_UDP => format!("udp {port}"),
        p::IPPROTO_ICMP => "icmp".to_owned(),
        p::IPPROTO_ICMPV6 => "icmp6".to_owned(),
        n => format!("protocol {n}"),
    }
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut s = String::from("\nprograms\n");
        let rows: Vec<Vec<String>> = self
            .outcomes
            .iter()
            .map(|o| {
                let mark = if o.failed { "FAILED" } else { "ok" };
                vec![o.name.clone(), mark.to_owned(), o.how.clone(), format!("{:.2} s", o.took.as_secs_f64())]
            })
            .collect();
        table(&mut s, &[], &rows);
        s.push_str("\nwho talked to whom\n");
        let rows: Vec<Vec<String>> = self
            .talks
            .iter()
            .map(|t| {
                vec![
                    format!("{} -> {}", t.from, t.to),
                    t.what.clone(),
                    t.flows().to_string(),
                    format!("{} in {} packets", show_size(t.out.bytes), t.out.packets),
                    format!("{} in {} packets", show_size(t.back.bytes), t.back.packets),
                    (t.out.retransmitted + t.back.retransmitted).to_string(),
                ]
            })
            .collect();
        table(&mut s, &["", "", "flows", "sent", "answered", "retransmitted"], &rows);
        if self.talks.is_empty() {
            s.push_str("  nobody\n");
        }
        s.push_str("\ndropped packets\n");
        let rows: Vec<Vec<String>> = self
            .drops
            .iter()
            .map(|(ns, reason, count, meaning, setting)| {
                let hint = if setting.is_empty() { String::new() } else { format!(" (see {setting})") };
                vec![ns.clone(), count.to_string(), (*reason).to_owned(), format!("{meaning}{hint}")]
            })
            .collect();
        table(&mut s, &[], &rows);
        if self.drops.is_empty() {
            s.push_str("  none\n");
        }
        s
    }

    /// For scripts.
    pub(crate) fn json(&self, ok: bool) -> Value {
        let count =
            |c: &FlowCount| json!({"packets": c.packets, "bytes": c.bytes, "retransmitted": c.retransmitted});
        json!({
            "ok": ok,
            "programs": self.outcomes.iter().map(|o| json!({
                "name": o.name, "result": o.how, "seconds": o.took.as_secs_f64(), "failed": o.failed,
            })).collect::<Vec<_>>(),
            "conversations": self.talks.iter().map(|t| json!({
                "from": t.from, "to": t.to, "service": t.what, "flows": t.flows(),
                "sent": count(&t.out), "answered": count(&t.back),
            })).collect::<Vec<_>>(),
            "links": self.links.iter().map(|(ns, dev, packets, bytes, lost, overflowed)| json!({
                "namespace": ns, "device": dev, "tx_packets": packets, "tx_bytes": bytes,
                "lost": lost, "queue_full": overflowed,
            })).collect::<Vec<_>>(),
            "tcp_retransmitted_segments": self.retransmits.iter().map(|(ns, n)| (ns.clone(), json!(n)))
                .collect::<serde_json::Map<String, Value>>(),
            "drops": self.drops.iter().map(|(ns, reason, count, meaning, setting)| json!({
                "namespace": ns, "reason": reason, "packets": count, "meaning": meaning, "setting": setting,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Aligned columns, two blanks before each.
pub(crate) fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(head.len());
    let cell = |row: &[String], i: usize| row.get(i).map_or(0, |c| c.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().map(|r| cell(r, i)).max().unwrap_or(0).max(head.get(i).map_or(0, |h| h.len())))
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (c, w) in cells.zip(&widths) {
            let _ = write!(text, "  {c:w$}");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    if !head.is_empty() {
        line(&mut head.iter().copied());
    }
    for r in rows {
        line(&mut r.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snmp_counters_are_found_by_name() {
        let t = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm RetransSegs InErrs\nTcp: 1 42 0\n";
        assert_eq!(snmp_value(t, "Tcp", "RetransSegs"), Some(42));
        assert_eq!(snmp_value(t, "Tcp", "Nothing"), None);
        assert_eq!(snmp_value("", "Tcp", "RetransSegs"), None);
    }

    #[test]
    fn columns_are_aligned() {
        let mut s = String::new();
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        table(&mut s, &["who", "n"], &[row("a", "1"), row("longer", "22")]);
        assert_eq!(s, "  who     n\n  a       1\n  longer  22\n");
    }
}
