//! What other terminals see of a running stack: ways, drops, captures.

mod common;

use common::{Running, can_run, ferronet, run};
use serde_json::Value;

/// A stack whose loopback is pinged for ever.
fn pinging(test: &str) -> Option<(Running, String)> {
    ferronet_sim::need::program(test, "ping")?;
    ferronet_sim::need::program(test, "ip")?;
    if !can_run(test) {
        return None;
    }
    let name = format!("{test}-{}", std::process::id());
    let script = "ip link set lo up; echo up; exec ping -i 0.05 127.0.0.1";
    let stack = Running::start(ferronet(&["run", "--name", &name, "--", "sh", "-c", script]));
    stack.line_with("up");
    Some((stack, name))
}

#[test]
fn ways_of_packets_are_shown() {
    let Some((_stack, name)) = pinging("ways") else { return };
    let e = run(ferronet(&["trace", "--name", &name, "--count", "3", "--json", "icmp", "dev", "lo"]));
    assert_eq!(e.code, 0, "{e:?}");
    let ways: Vec<Value> = e.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(ways.len(), 3);
    for w in &ways {
        assert!(w["packet"].as_str().unwrap().starts_with("127.0.0.1 > 127.0.0.1 icmp echo"), "{w}");
        assert!(
            w["steps"].as_array().unwrap().iter().any(|s| s["what"].as_str().unwrap().starts_with("route ")),
            "{w}"
        );
        assert_eq!(w["dropped"], Value::Null);
    }
    let e = run(ferronet(&["trace", "--name", &name, "--count", "1"]));
    assert!(e.code == 0 && e.out.contains("127.0.0.1"), "{e:?}");
}

#[test]
fn ways_become_a_capture() {
    let Some((_stack, name)) = pinging("capture") else { return };
    let file = std::env::temp_dir().join(format!("ferronet-{name}.pcapng"));
    let e = run(ferronet(&["trace", "--name", &name, "--count", "2", "--pcapng", file.to_str().unwrap()]));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(e.code, 0, "{e:?}");
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    assert!(bytes.windows(6).any(|w| w == b"route "), "the way is in the comment");
}

#[test]
fn drops_are_explained() {
    let Some((_stack, name)) = pinging("drops") else { return };
    let script = "exec 3<>/dev/udp/127.0.0.1/9; echo x >&3; echo x >&3 || true";
    let e = run(ferronet(&["exec", &name, "--", "bash", "-c", script]));
    assert_eq!(e.code, 0, "{e:?}");
    let e = run(ferronet(&["drops", "--name", &name]));
    assert!(e.out.lines().any(|l| l.contains("NoSocket") && l.contains("ss -tulnp")), "{e:?}");
}

#[test]
fn a_session_can_be_captured() {
    let test = "a_session_can_be_captured";
    if ferronet_sim::need::program(test, "ping").is_none() || !can_run(test) {
        return;
    }
    let file = std::env::temp_dir().join(format!("ferronet-session-{}.pcapng", std::process::id()));
    let path = file.to_str().unwrap();
    let e = run(ferronet(&[
        "run",
        "--pcapng",
        path,
        "--",
        "sh",
        "-c",
        "ip link set lo up; ping -c 2 -i 0.05 127.0.0.1",
    ]));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(e.code, 0, "{e:?}");
    // Two requests and two replies, each sent and received on lo.
    let packets = bytes.windows(4).filter(|w| *w == [127, 0, 0, 1]).count();
    assert!(packets >= 8, "{packets}");
}

/// A client (`main`), a router and a server with IPv4 and IPv6.
const ROUTED: &str = "
    ip link set lo up; ip netns add router; ip netns add server
    ip link add eth0 type veth peer name c0 netns router
    ip -n router link add s0 type veth peer name eth0 netns server
    ip link set eth0 up; ip -n router link set c0 up; ip -n router link set s0 up; ip -n server link set eth0 up
    ip addr add 10.1.0.2/24 dev eth0; ip -n router addr add 10.1.0.1/24 dev c0
    ip -n router addr add 10.2.0.1/24 dev s0; ip -n server addr add 10.2.0.2/24 dev eth0
    ip addr add fd01::2/64 dev eth0 nodad; ip -n router addr add fd01::1/64 dev c0 nodad
    ip -n router addr add fd02::1/64 dev s0 nodad; ip -n server addr add fd02::2/64 dev eth0 nodad
    ip route add default via 10.1.0.1; ip -6 route add default via fd01::1
    ip -n server route add default via 10.2.0.1; ip -n server -6 route add default via fd02::1
    ip netns exec router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
";

/// What `ferronet trace` shows inside the network while `traffic` runs for ever in the background.
fn traced(traffic: &str, trace: &str) -> Vec<Value> {
    let script = format!(
        "{ROUTED} set +e; while :; do {traffic}; sleep 0.05; done > /dev/null 2>&1 & ferronet trace --json {trace}"
    );
    let e = run(ferronet(&["run", "--", "bash", "-ec", &script]));
    assert_eq!(e.code, 0, "{e:?}");
    e.out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|_| panic!("{e:?}"))).collect()
}

fn way(w: &Value) -> String {
    let one = |s: &Value| s["what"].as_str().unwrap_or("?").to_owned();
    w["steps"].as_array().expect("a list").iter().map(one).collect::<Vec<_>>().join(" > ")
}

#[test]
fn every_stage_from_client_over_router_to_server_is_shown() {
    let test = "every_stage_from_client_over_router_to_server_is_shown";
    if ["ping", "ip", "bash", "sysctl"].iter().any(|p| ferronet_sim::need::program(test, p).is_none())
        || !can_run(test)
    {
        return;
    }
    // Names of the stages in both versions; where a packet waits for its neighbour, neigh_output comes twice.
    for (ping, proto, server, v) in [
        (
            "ping -c 1 10.2.0.2",
            "icmp",
            "10.2.0.2",
            ["ip_rcv", "ip_local_deliver", "ip_forward", "ip_output", "ip_local_out", "icmp_rcv"],
        ),
        (
            "ping -c 1 fd02::2",
            "icmp6",
            "fd02::2",
            ["ipv6_rcv", "ip6_input", "ip6_forward", "ip6_output", "ip6_local_out", "icmpv6_rcv"],
        ),
    ] {
        let [rcv, deliver, forward, output, out, transport] = v;
        let ways = traced(ping, &format!("--count 40 {proto} host {server}"));
        let sent = format!("{output} > hook postrouting > neigh_output > tx");
        for (ns, is_reply, want) in [
            ("main", false, format!("route unicast dev eth0 > {out} > hook output > {sent}")),
            (
                "router",
                false,
                format!(
                    "rx > {rcv} > hook prerouting > route unicast dev s0 > {forward} > hook forward > {sent}"
                ),
            ),
            // The answer is the same packet's way on.
            (
                "server",
                false,
                format!(
                    "rx > {rcv} > hook prerouting > route local > {deliver} > hook input > {transport} > route unicast dev eth0 > {out} > hook output > {sent}"
                ),
            ),
            (
                "router",
                true,
                format!(
                    "rx > {rcv} > hook prerouting > route unicast dev c0 > {forward} > hook forward > {sent}"
                ),
            ),
            (
                "main",
                true,
                format!(
                    "rx > {rcv} > hook prerouting > route local > {deliver} > hook input > socket > {transport} > done"
                ),
            ),
        ] {
            let kind = if is_reply { "echo reply" } else { "echo request" };
            let mine =
                |w: &&Value| w["namespace"] == ns && w["packet"].as_str().is_some_and(|p| p.contains(kind));
            let shown: Vec<String> = ways.iter().filter(mine).map(way).collect();
            // Inode numbers differ, ping holds one or two sockets, a packet that waited passes neigh_output twice, and the
            // device of a local route is lo or the address's own.
            let plain = |w: &String| {
                let step = |s: &'static str| move |t: &str| t.starts_with(s).then_some(s);
                let name =
                    |t: &str| step("socket")(t).or_else(|| step("route local")(t)).unwrap_or(t).to_owned();
                let mut steps: Vec<String> = w.split(" > ").map(name).collect();
                steps.dedup();
                steps.join(" > ")
            };
            assert!(shown.iter().map(plain).any(|w| w == want), "{ns} {kind}: want {want}, have {shown:#?}");
        }
    }
}

#[test]
fn filters_choose_ways() {
    let test = "filters_choose_ways";
    if ["ping", "ip", "bash", "sysctl"].iter().any(|p| ferronet_sim::need::program(test, p).is_none())
        || !can_run(test)
    {
        return;
    }
    let traffic = "ping -c 1 -t 1 10.2.0.2; echo x > /dev/udp/10.2.0.2/9; echo x > /dev/tcp/fd02::2/9; ping -c 1 fd02::2";
    let text = |w: &Value| format!("{} {} {}", w["namespace"], w["packet"], way(w));
    type Holds = fn(&Value, &str) -> bool;
    let cases: [(&str, Holds); 7] = [
        ("ns router udp", |w, t| w["namespace"] == "router" && t.contains(" udp ")),
        ("dev s0 and ip6", |w, t| w["namespace"] == "router" && (t.contains("ipv6_") || t.contains("ip6_"))),
        ("drop IpTtl", |w, _| w["dropped"] == "IpTtl" && w["namespace"] == "router"),
        ("drop not icmp and udp", |w, t| w["dropped"] == "NoSocket" && t.contains("udp_rcv > DROP NoSocket")),
        ("tcp and dst fd02::/64 ns server", |w, t| t.contains("tcp_v6_rcv") && w["namespace"] == "server"),
        ("'(' sport 9 or icmp6 ')' src fd02::2", |_, t| t.contains("fd02::2")),
        ("dport 9 udp ns main", |_, t| t.contains(":9 udp") && t.contains("ip_local_out")),
    ];
    for (filter, holds) in cases {
        let ways = traced(traffic, &format!("--count 3 {filter}"));
        assert_eq!(ways.len(), 3, "{filter}");
        for w in &ways {
            assert!(holds(w, &text(w)), "{filter}: {}", text(w));
        }
    }
}
