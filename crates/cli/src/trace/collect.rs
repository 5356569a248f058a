//! From the stack's records to the ways of packets.

use super::dissect::{Dissected, dissect};
use super::filter::{Filter, Subject};
use crate::serve::{Guard, Names};
use ferronet_core::trace::{Record, Step};
use ferronet_core::{IfIndex, Instant, NsId};
use ferronet_linux::Kernel;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A way that shows no further step for this long is complete.
const QUIET: Duration = Duration::from_millis(50);
/// Ways that are open at the same time; the oldest are completed beyond it.
const OPEN_LIMIT: usize = 4096;
/// Steps kept of one way.
const STEP_LIMIT: usize = 64;

/// A packet's way through one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub namespace: String,
    /// First step, on the stack's clock.
    pub at: Instant,
    /// First step, nanoseconds since 1970.
    pub wall_ns: u64,
    last: Instant,
    pub packet: Dissected,
    /// The first bytes of the packet as it was first seen.
    pub bytes: Vec<u8>,
    pub len: u32,
    /// `(device, what happened)`.
    pub steps: Vec<(String, String)>,
    pub dropped: Option<&'static str>,
    ended: bool,
}

impl Way {
    /// One JSON object.
    pub(crate) fn json(&self) -> Value {
        let hex = self.bytes.iter().fold(String::new(), |s, b| s + &format!("{b:02x}"));
        json!({
            "namespace": self.namespace, "time_ns": self.wall_ns, "packet": self.packet.text, "len": self.len,
            "steps": self.steps.iter().map(|(dev, what)| json!({"dev": dev, "what": what})).collect::<Vec<_>>(),
            "dropped": self.dropped, "bytes": hex,
        })
    }
}

/// Collects records into ways and keeps those that a filter lets through.
#[derive(Debug)]
pub(crate) struct Collector {
    names: Names,
    known: BTreeMap<NsId, String>,
    filter: Filter,
    open: BTreeMap<(NsId, u32), Way>,
    _guard: Guard,
}

impl Collector {
    pub(crate) fn new(names: Names, filter: Filter, guard: Guard) -> Collector {
        Collector { names, known: BTreeMap::new(), filter, open: BTreeMap::new(), _guard: guard }
    }

    /// Takes the new records; returns the ways that are complete, in order of their start.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel) -> Vec<Way> {
        if kernel.world.iter().any(|n| !self.known.contains_key(&n.id)) {
            self.known = self.names.read(kernel);
        }
        let ids: Vec<NsId> = kernel.world.iter().map(|n| n.id).collect();
        let now = kernel.world.now();
        for id in ids {
            let Some(ns) = kernel.world.ns_mut(id) else { continue };
            let records: Vec<Record> = ns.env.trace.take().collect();
            let wall = ns.env.wall_offset;
            let device = |i: IfIndex| ns.devs.get(i).map(|d| d.name.clone()).unwrap_or_default();
            let name = self.known.get(&id).cloned().unwrap_or_default();
            for r in records {
                let dev = device(r.dev);
                let via = match &r.step {
                    Step::Route(_, out) => device(*out),
                    _ => String::new(),
                };
                self.open.entry((id, r.id)).or_insert_with(|| Way::new(&name, &r, wall)).add(&r, dev, &via);
            }
        }
        self.complete(now)
    }

    fn complete(&mut self, now: Instant) -> Vec<Way> {
        let surplus = self.open.len().saturating_sub(OPEN_LIMIT);
        let mut done: Vec<Way> = Vec::new();
        let mut taken = 0;
        self.open.retain(|_, w| {
            let complete = w.ended || now - w.last >= QUIET || taken < surplus;
            if complete {
                taken += 1;
                done.push(w.clone());
            }
            !complete
        });
        done.retain(|w| {
            let devices: Vec<String> = w.steps.iter().map(|(d, _)| d.clone()).collect();
            let subject =
                Subject { packet: &w.packet, devices: &devices, namespace: &w.namespace, dropped: w.dropped };
            self.filter.matches(&subject)
        });
        done.sort_by_key(|w| w.at);
        done
    }
}

impl Way {
    fn new(namespace: &str, r: &Record, wall: u64) -> Way {
        Way {
            namespace: namespace.to_owned(),
            at: r.at,
            wall_ns: wall.saturating_add(r.at.0),
            last: r.at,
            packet: Dissected::default(),
            bytes: Vec::new(),
            len: 0,
            steps: Vec::new(),
            dropped: None,
            ended: false,
        }
    }

    fn add(&mut self, r: &Record, dev: String, via: &str) {
        self.last = r.at;
        if self.packet.text.is_empty() && !r.bytes.is_empty() {
            self.packet = dissect(&r.bytes, r.len as usize);
            self.bytes = r.bytes.to_vec();
            self.len = r.len;
        }
        let what = match &r.step {
            Step::Rx => "rx".to_owned(),
            Step::Tx => "tx".to_owned(),
            Step::Stage(name) => (*name).to_owned(),
            Step::Hook(name) => format!("hook {name}"),
            Step::Route(kind, _) if via.is_empty() => format!("route {kind}"),
            Step::Route(kind, _) => format!("route {kind} dev {via}"),
            Step::Socket(inode) => format!("socket {inode}"),
            Step::Drop(reason) => {
                self.dropped = Some(reason.name());
                format!("DROP {}: {}", reason.name(), reason.meaning())
            }
            Step::Consumed => "done".to_owned(),
        };
        self.ended |= matches!(r.step, Step::Drop(_) | Step::Consumed);
        if self.steps.len() < STEP_LIMIT {
            self.steps.push((dev, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferronet_core::DropReason;

    fn record(id: u32, ms: u64, step: Step, bytes: &[u8]) -> Record {
        let (at, len) = (Instant::from_millis(ms), bytes.len() as u32);
        Record { id, at, dev: IfIndex(2), step, bytes: bytes.into(), len }
    }

    #[test]
    fn a_dropped_packet_is_complete_at_once() {
        let first = record(1, 5, Step::Rx, &[0; 20]);
        let mut w = Way::new("router", &first, 1_000);
        w.add(&first, "eth0".to_owned(), "");
        w.add(&record(1, 5, Step::Route("unicast", IfIndex(3)), &[]), "eth0".to_owned(), "eth1");
        assert!(!w.ended);
        w.add(&record(1, 6, Step::Drop(DropReason::IpTtl), &[0; 20]), "eth0".to_owned(), "");
        assert!(w.ended);
        let j = w.json();
        assert_eq!(j["dropped"], "IpTtl");
        assert_eq!(j["steps"][1]["what"], "route unicast dev eth1");
        assert_eq!(j["time_ns"], 5_001_000);
    }
}
