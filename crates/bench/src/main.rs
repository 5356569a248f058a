//! In-process figures: one flow, connections, forwarding, idle memory; with smoltcp as the peer in the same run.
//!
//! One JSON object per figure goes to standard output (see `cargo xtask bench`). `bench forward N` and
//! `bench connections N` run one workload alone, for counting instructions under callgrind.

mod figure;
mod flows;
mod forward;
mod peer;

use figure::{against, figure, median};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).and_then(|s| s.parse().ok()).unwrap_or(100_000);
    match args.first().map(String::as_str) {
        Some("forward") => {
            println!("{:.1} ns a packet", forward::run(number(1)).nanos);
            return;
        }
        Some("idle") => {
            let i = flows::idle(number(1));
            println!(
                "{:.0} bytes, {:.0} new per second beside them, {:.0} without",
                i.bytes, i.with_idle, i.empty
            );
            return;
        }
        Some("bulk") => {
            println!("{:.1} Gbit/s copied", flows::bulk(number(1) << 20, flows::User::Copies));
            println!("{:.1} Gbit/s lent", flows::bulk(number(1) << 20, flows::User::Lends));
            return;
        }
        Some("connections") => {
            flows::connections(number(1));
            return;
        }
        Some(other) => {
            eprintln!(
                "`{other}` is no workload; there are forward N, connections N, bulk MIB and idle N, or none for all"
            );
            std::process::exit(2);
        }
        None => {}
    }
    bulk();
    let per_second = median(&mut (0..5).map(|_| flows::connections(20_000)).collect::<Vec<_>>());
    figure(
        "TCP in process",
        "connect, one byte each way, close",
        per_second,
        "per second",
        Some((true, 60_000.0)),
    );
    let runs: Vec<_> = (0..5).map(|_| forward::run(1_000_000)).collect();
    let nanos = median(&mut runs.iter().map(|c| c.nanos).collect::<Vec<_>>());
    let boxes = runs.iter().map(|c| c.boxes).fold(0.0, f64::max);
    figure(
        "Forwarding in process",
        "64-byte packets through a router namespace",
        nanos,
        "ns",
        Some((false, 120.0)),
    );
    figure("Forwarding in process", "allocations after warm-up", boxes, "packet boxes", Some((false, 0.0)));
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

/// One flow, beside smoltcp's own loopback benchmark.
fn bulk() {
    let (mut lent, mut copied, mut theirs, mut wide) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Interleaved, so that a machine that changes speed changes all.
    for _ in 0..3 {
        lent.push(flows::bulk(8 << 30, flows::User::Lends));
        copied.push(flows::bulk(4 << 30, flows::User::Copies));
        theirs.push(peer::smoltcp_loopback(2 << 30, 65536));
        wide.push(peer::smoltcp_loopback(2 << 30, 1 << 20));
    }
    const GROUP: &str = "TCP in process";
    against(
        GROUP,
        "one flow between two namespaces over veth, no copy from or to a user",
        median(&mut lent),
        "Gbit/s",
        (
            "smoltcp 0.14 over its loopback device, no copy from or to a user, 64 KiB buffers",
            median(&mut theirs),
        ),
        2.5,
    );
    figure(
        GROUP,
        "smoltcp the same with buffers of 1 MiB, for comparison",
        median(&mut wide),
        "Gbit/s",
        None,
    );
    figure(GROUP, "the flow with one copy in and one copy out", median(&mut copied), "Gbit/s", None);
}
