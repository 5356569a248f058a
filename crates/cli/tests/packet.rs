//! Packet sockets: tcpdump, arping, programs with rings of their own, filters; beside the real kernel where that is possible.

mod common;

use common::{Running, can_run, ferronet, repository, run};
use std::process::Command;

/// eth0 of the first namespace and of `far`, 10.9.0.1 and 10.9.0.2.
const PAIR: &str = "
    ip link set lo up; ip netns add far; ip link add eth0 type veth peer name eth0 netns far
    ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up
    ip -n far addr add 10.9.0.2/24 dev eth0; ip -n far link set eth0 up; ip -n far link set lo up
";

fn ready(test: &str, programs: &[&str]) -> bool {
    programs.iter().all(|p| ferronet_sim::need::program(test, p).is_some()) && can_run(test)
}

fn in_pair(script: &str) -> common::Ended {
    run(ferronet(&["run", "--", "sh", "-ec", &format!("{PAIR}{script}")]))
}

#[test]
fn tcpdump_shows_and_writes_packets() {
    if !ready("tcpdump_shows_and_writes_packets", &["tcpdump", "ping"]) {
        return;
    }
    let file = std::env::temp_dir().join(format!("ferronet-tcpdump-{}.pcap", std::process::id()));
    let path = file.display();
    let e = in_pair(&format!(
        "ping -q -i 0.1 10.9.0.2 > /dev/null & 
         timeout 20 tcpdump -tni eth0 -c 4 icmp; echo ---
         timeout 20 tcpdump -tni eth0 -c 2 'icmp[icmptype] == icmp-echoreply and src host 10.9.0.2'; echo ---
         timeout 20 tcpdump -tni any -c 2 icmp; echo ---
         timeout 20 tcpdump -U -ni eth0 -c 4 -w {path} icmp; tcpdump -tnr {path}; echo ---
         tcpdump -D; echo ---
         tcpdump -ni nosuch || true; tcpdump -tni eth0 'no such filter' || true"
    ));
    let _ = std::fs::remove_file(&file);
    assert_eq!(e.code, 0, "{e:?}");
    let parts: Vec<Vec<&str>> = e.out.split("---\n").map(|p| p.lines().collect()).collect();
    assert_eq!(parts.len(), 6, "{e:?}");
    let request = "IP 10.9.0.1 > 10.9.0.2: ICMP echo request, id ";
    let reply = "IP 10.9.0.2 > 10.9.0.1: ICMP echo reply, id ";
    let both = |lines: &[&str]| {
        lines.len() == 4
            && lines.iter().filter(|l| l.starts_with(request)).count() == 2
            && lines.iter().filter(|l| l.starts_with(reply)).count() == 2
    };
    assert!(both(&parts[0]) && both(&parts[3]), "{e:?}");
    assert!(parts[1].len() == 2 && parts[1].iter().all(|l| l.starts_with(reply)), "{e:?}");
    let any = ["eth0  Out IP 10.9.0.1", "eth0  In  IP 10.9.0.2"];
    assert!(any.iter().all(|a| parts[2].iter().any(|l| l.starts_with(a))), "{e:?}");
    for device in ["1.eth0 [Up, Running, Connected]", "lo [Up, Running, Loopback]"] {
        assert!(parts[4].iter().any(|l| l.ends_with(device)), "{device}: {e:?}");
    }
    for said in
        ["4 packets captured", "0 packets dropped by kernel", "nosuch: No such device exists", "syntax error"]
    {
        assert!(e.err.contains(said), "{said}: {e:?}");
    }
}

#[test]
fn tcpdump_ends_at_a_signal_and_counts() {
    let test = "tcpdump_ends_at_a_signal_and_counts";
    if !ready(test, &["tcpdump", "ping"]) {
        return;
    }
    let e = in_pair(
        "f=$(mktemp); tcpdump --immediate-mode -tni eth0 -w /dev/null icmp 2> $f & t=$!
         until grep -q listening $f; do sleep 0.05; done
         ping -q -c 5 -i 0.05 10.9.0.2 > /dev/null; kill -INT $t; wait $t; cat $f; rm $f",
    );
    assert!(e.code == 0 && e.out.contains("10 packets captured\n10 packets received by filter"), "{e:?}");
}

#[test]
fn arping_asks_and_detects_duplicates() {
    if !ready("arping_asks_and_detects_duplicates", &["arping"]) {
        return;
    }
    let e = in_pair(
        "arping -c 2 -I eth0 10.9.0.2; arping -D -c 1 -I eth0 10.9.0.2 || echo taken
         arping -D -w 1 -c 1 -I eth0 10.9.0.9 && echo free; arping -U -c 1 -w 1 -I eth0 10.9.0.1 || true
         ip -n far neigh show 10.9.0.1",
    );
    assert_eq!(e.code, 0, "{e:?}");
    for said in ["Received 2 response(s)", "\ntaken\n", "\nfree\n", "lladdr"] {
        assert!(e.out.contains(said), "{said}: {e:?}");
    }
}

/// The same script on the real kernel and here: equal text.
#[test]
fn rings_filters_and_frames_are_as_on_the_kernel() {
    let test = "rings_filters_and_frames_are_as_on_the_kernel";
    if !ready(test, &["python3"]) {
        return;
    }
    let script = repository("crates/cli/tests/scripts/rings.py");
    let here = run(ferronet(&["run", "--", "sh", "-ec", &format!("ip link set lo up; python3 {script}")]));
    assert_eq!(here.code, 0, "{here:?}");
    assert!(here.out.lines().count() > 60, "{here:?}");
    if !ferronet_sim::need::root(test) || ferronet_sim::need::program(test, "unshare").is_none() {
        return;
    }
    let mut c = Command::new("unshare");
    c.args(["-n", "sh", "-ec", &format!("ip link set lo up; python3 {script}")]);
    let kernel = run(c);
    assert_eq!(kernel.code, 0, "{kernel:?}");
    for (i, (h, k)) in here.out.lines().zip(kernel.out.lines()).enumerate() {
        assert_eq!(h, k, "line {i}; here:\n{}\nthe kernel:\n{}", here.out, kernel.out);
    }
    assert_eq!(here.out, kernel.out);
}

/// A ring keeps what came while the program did not look, and a stopped program holds nothing up.
#[test]
fn a_capture_of_bulk_loses_nothing() {
    let test = "a_capture_of_bulk_loses_nothing";
    if !ready(test, &["tcpdump"]) {
        return;
    }
    let stack = Running::start(ferronet(&[
        "run",
        "--",
        "sh",
        "-ec",
        &format!(
            "{PAIR} f=$(mktemp); ip netns exec far ferronet tool serve --port 80 --size 4MiB --quiet > /dev/null &
             tcpdump --immediate-mode -U -B 65536 -s 96 -ni eth0 -w $f tcp port 80 2> $f.err & t=$!
             until grep -q listening $f.err; do sleep 0.05; done
             ferronet tool fetch http://10.9.0.2/ --count 4; s=-1
             while [ $s != $(stat -c %s $f) ]; do s=$(stat -c %s $f); sleep 0.2; done; kill -INT $t; wait $t || true
             cat $f.err; tcpdump -nr $f 2> /dev/null | sed -n 's/.*length \\([0-9]*\\).*/\\1/p' | awk '{{ n += $1 }} END {{ print \"payload\", n }}'; rm $f $f.err"
        ),
    ]));
    stack.line_with("0 packets dropped by kernel");
    let payload: u64 = stack.line_with("payload ").trim_start_matches("payload ").parse().unwrap();
    assert!(payload >= 4 * (4 << 20), "{payload}");
}

/// Signals that come while a ring is being mapped all arrive; no mapping fails, no descriptor is left.
#[test]
fn signals_while_rings_are_mapped_all_arrive() {
    let test = "signals_while_rings_are_mapped_all_arrive";
    if !ready(test, &["python3"]) {
        return;
    }
    let script = repository("crates/cli/tests/scripts/ring_signals.py");
    let e = run(ferronet(&["run", "--", "sh", "-ec", &format!("ip link set lo up; python3 {script}")]));
    assert_eq!((e.code, e.out.as_str()), (0, "sent 2000, got 2000, descriptors left 0\n"), "{e:?}");
}

/// A program that is killed while a ring is being mapped ends, and its parent is told.
#[test]
fn who_is_killed_while_mapping_a_ring_ends() {
    let test = "who_is_killed_while_mapping_a_ring_ends";
    if !ready(test, &["python3"]) {
        return;
    }
    let script = repository("crates/cli/tests/scripts/ring_signals.py");
    let e = run(ferronet(&["run", "--", "sh", "-ec", &format!("ip link set lo up; python3 {script} kill")]));
    assert_eq!((e.code, e.out.as_str()), (0, "40 killed\n"), "{e:?}");
}
