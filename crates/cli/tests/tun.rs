//! /dev/net/tun inside a session: programs that are a network card.

mod common;

use common::{can_run, ferronet, repository, run};

fn ready(test: &str) -> bool {
    ["python3", "ip", "ping"].iter().all(|p| ferronet_sim::need::program(test, p).is_some()) && can_run(test)
}

/// Runs `command` beside a device `tun0` or `tap0` whose other end answers echo requests.
fn beside(kind: &str, pi: &str, command: &str) -> String {
    let script = repository("crates/cli/tests/scripts/tun.py");
    let e = run(ferronet(&["run", "--", "python3", &script, kind, pi, command]));
    assert_eq!(e.code, 0, "{e:?}");
    e.out
}

#[test]
fn a_program_behind_a_tun_device_answers_pings() {
    if !ready("a_program_behind_a_tun_device_answers_pings") {
        return;
    }
    for (kind, pi) in [("tun", "no"), ("tun", "pi"), ("tap", "no"), ("tap", "pi")] {
        let command = format!(
            "ip addr add 10.7.0.1/24 dev {kind}0; ip link set {kind}0 up; ip -d link show {kind}0
             ping -q -c 3 -i 0.05 10.7.0.9; ping -q -c 1 -s 1400 10.7.0.8"
        );
        let out = beside(kind, pi, &command);
        let said = [
            "before EBADFD\nfeatures True\nneither EINVAL\nlo EINVAL\n".to_owned(),
            format!("name {kind}0\nagain EEXIST\ntaken EBUSY\n"),
            "3 packets transmitted, 3 received, 0% packet loss".to_owned(),
            "1 packets transmitted, 1 received, 0% packet loss".to_owned(),
            if kind == "tun" { "link/none".to_owned() } else { "link/ether".to_owned() },
            format!("tun type {kind}"),
        ];
        for s in &said {
            assert!(out.contains(s), "{kind} {pi}: {s}: {out}");
        }
    }
}

#[test]
fn persistent_devices_stay_and_others_go() {
    if !ready("persistent_devices_stay_and_others_go") {
        return;
    }
    let script = repository("crates/cli/tests/scripts/tun.py");
    let e = run(ferronet(&[
        "run",
        "--",
        "sh",
        "-ec",
        &format!(
            "python3 {script} tun no 'ip -br link show tun0' > /dev/null; ip link show tun0 2>&1 || echo gone
             ip tuntap add dev tun0 mode tun; ip link set tun0 up; ip link show tun0
             python3 {script} tap no 'ip addr add 10.7.0.1/24 dev tap0; ip link set tap0 up; ping -q -c 1 10.7.0.9'
             ip tuntap del dev tun0 mode tun; ip link show tun0 2>&1 || echo gone again"
        ),
    ]));
    assert_eq!(e.code, 0, "{e:?}");
    for said in
        ["\ngone\n", "tun0: <NO-CARRIER,POINTOPOINT,MULTICAST,NOARP,UP>", " 0% packet loss", "gone again"]
    {
        assert!(e.out.contains(said), "{said}: {e:?}");
    }
}
