//! In-process figures: one flow, connections, forwarding, idle memory; with smoltcp as the peer in the same run.
//!
//! One JSON object per figure goes to standard output (see `cargo xtask bench`). `bench forward N` and
//! `bench connections N` run one workload alone, for counting instructions under callgrind.

mod flows;
mod forward;
mod peer;

use serde_json::json;

/// Prints a figure; `goal` is (at least?, value).
fn figure(group: &str, name: &str, value: f64, unit: &str, goal: Option<(bool, f64)>) {
    let mut v = json!({"group": group, "name": name, "value": value, "unit": unit});
    if let Some((at_least, g)) = goal {
        v["goal"] = json!(format!("{} {g} {unit}", if at_least { ">=" } else { "<=" }));
        v["met"] = json!(if at_least { value >= g } else { value <= g });
    }
    println!("{v}");
}

/// Prints a figure with a peer's in the same run; the goal is a ratio.
fn against(group: &str, name: &str, value: f64, unit: &str, peer: (&str, f64), goal: f64) {
    let ratio = value / peer.1;
    let v = json!({"group": group, "name": name, "value": value, "unit": unit, "peer": peer.0,
        "peer_value": peer.1, "ratio": ratio, "goal": format!(">= {goal} x"), "met": ratio >= goal});
    println!("{v}");
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).and_then(|s| s.parse().ok()).unwrap_or(100_000);
    match args.first().map(String::as_str) {
        Some("forward") => {
            forward::run(number(1));
            return;
        }
        Some("connections") => {
            flows::connections(number(1));
            return;
        }
        Some(other) => {
            eprintln!("`{other}` is no workload; there are forward N and connections N, or none for all");
            std::process::exit(2);
        }
        None => {}
    }
    // Interleaved, so that a machine that changes speed changes both.
    let (mut ours, mut theirs, mut wide) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(flows::bulk(4 << 30));
        theirs.push(peer::smoltcp_loopback(2 << 30, 65536));
        wide.push(peer::smoltcp_loopback(2 << 30, 1 << 20));
    }
    against(
        "TCP in process",
        "one flow between two namespaces over veth",
        median(&mut ours),
        "Gbit/s",
        (
            "smoltcp 0.14 over its loopback device, 64 KiB buffers, no copy to or from a user",
            median(&mut theirs),
        ),
        2.5,
    );
    figure(
        "TCP in process",
        "smoltcp the same with buffers of 1 MiB, for comparison",
        median(&mut wide),
        "Gbit/s",
        None,
    );
    let per_second = flows::connections(50_000);
    figure(
        "TCP in process",
        "connect, one byte each way, close",
        per_second,
        "per second",
        Some((true, 60_000.0)),
    );
    let f = forward::run(3_000_000);
    figure(
        "Forwarding in process",
        "64-byte packets through a router namespace",
        f.nanos,
        "ns",
        Some((false, 120.0)),
    );
    figure("Forwarding in process", "allocations after warm-up", f.boxes, "packet boxes", Some((false, 0.0)));
    let idle = flows::idle(100_000);
    figure("Memory", "an established idle connection, one end", idle.bytes, "bytes", Some((false, 2048.0)));
    against(
        "Memory",
        "new connections with 100,000 idle ones",
        idle.with_idle,
        "per second",
        ("empty stack", idle.empty),
        0.8,
    );
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
