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
