//! The host's kernel as neighbour of a lab, with real programs: over a clean cable and over an emulated bad one.
//!
//! "The host" is a network namespace of the test's own, so the real one is not touched.

mod common;

use common::{Ended, can_run, ferronet, lab, run};
use ferronet_sim::need;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// 20 ms each way, 1 % loss, and 1 % of the packets overtake.
const BAD: &str = "delay = \"20ms\"\nloss = \"1%\"\nreorder = \"1%\"\n";

const ONE: &str = r#"
[[namespace]]
name = "server"
addresses = { eth0 = "10.77.0.2/24" }
[[tap]]
end = "server:eth0"
host_name = "fntap0"
host_address = "10.77.0.1/24"
"#;

/// A router of ours between two kernels; the second cable is the one that is compared.
const THROUGH: &str = r#"
[[namespace]]
name = "router"
addresses = { near = "10.78.1.2/24", far = "10.78.2.2/24" }
sysctls = { "net.ipv4.ip_forward" = 1 }
[[tap]]
end = "router:near"
host_name = "fnnear"
host_address = "10.78.1.1/24"
[[tap]]
end = "router:far"
host_name = "fnfar"
"#;

const END: &str = r#"
[[namespace]]
name = "end"
addresses = { eth0 = "10.79.0.2/24" }
[[tap]]
end = "end:eth0"
host_name = "fnend"
host_address = "10.79.0.1/24"
"#;

const PROGRAMS: &[&str] = &[
    "ip",
    "ss",
    "ping",
    "tracepath",
    "dnsmasq",
    "dig",
    "nginx",
    "curl",
    "iperf3",
    "unshare",
    "nsenter",
    "timeout",
    "sha256sum",
];

/// Whether this machine has what the test needs; a directory for its files.
fn prepare(test: &str) -> Option<PathBuf> {
    if !need::root(test) || !need::device(test, "/dev/net/tun") {
        return None;
    }
    for p in PROGRAMS {
        need::program(test, p)?;
    }
    if !can_run(test) {
        return None;
    }
    let dir = std::env::temp_dir().join(format!("fn-tap-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for the test");
    Some(dir)
}

/// Runs a script of `tests/tap` in a fresh network namespace, for `seconds` at most. Whatever it started ends with it.
fn in_namespace(script: &str, seconds: u32, args: &[&str]) -> Ended {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tap").join(script);
    let mut c = Command::new("timeout");
    c.args(["-k", "5", &seconds.to_string(), "unshare", "-n", "sh"]).arg(script);
    c.arg(ferronet(&[]).get_program()).args(args).stdin(Stdio::null());
    common::run_for(c, seconds + 10)
}

fn both_ways(test: &str, link: &str, bytes: u64, seconds: u32) {
    let Some(dir) = prepare(test) else { return };
    let file = lab(&format!("tap-{test}"), &format!("{ONE}{link}"));
    let name = format!("tap-{test}-{}", std::process::id());
    let path = |p: &std::path::Path| p.display().to_string();
    let e = in_namespace("both.sh", seconds, &[&path(&file), &name, &path(&dir), &bytes.to_string()]);
    let log = std::fs::read_to_string(dir.join("up.log")).unwrap_or_default();
    let _ = std::fs::remove_dir_all(&dir);
    eprintln!("{}", e.err);
    assert!(e.code == 0 && e.err.ends_with("done\n"), "{}\n{}\nlab: {log}", e.code, e.err);
}

#[test]
fn clean_cable_to_the_kernel() {
    both_ways("clean", "", 256 << 20, 120);
}

#[test]
fn bad_cable_to_the_kernel() {
    // A flow makes some 3 Mbit/s of this cable: 8 MiB each way here, 256 in the night's round.
    let mib: u64 = std::env::var("FERRONET_BAD_CABLE_MIB").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    both_ways("bad", BAD, mib << 20, 120 + 10 * mib as u32);
}

/// Bits per second of all flows together, as the receiver counted them.
fn rate(dir: &std::path::Path, file: &str) -> f64 {
    let text = std::fs::read_to_string(dir.join(file)).expect("iperf3 wrote a report");
    let v: Value = serde_json::from_str(&text).expect("JSON");
    v["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_else(|| panic!("{file}: {text}"))
}

/// Over the same bad cable our TCP gets at least three quarters of what the kernel's gets, sending and receiving.
#[test]
fn bad_cable_is_as_fast_as_between_kernels() {
    let Some(dir) = prepare("rate") else { return };
    let through = lab("tap-through", &format!("{THROUGH}{BAD}"));
    let end = lab("tap-end", &format!("{END}{BAD}"));
    let name = format!("tap-rate-{}", std::process::id());
    let path = |p: &std::path::Path| p.display().to_string();
    let e = in_namespace("rate.sh", 90, &[&path(&through), &path(&end), &name, &path(&dir), "16", "12"]);
    assert_eq!(e.code, 0, "{}", e.err);
    let [kernel, sends, receives] = ["kernel.json", "sends.json", "receives.json"].map(|f| rate(&dir, f));
    let _ = std::fs::remove_dir_all(&dir);
    let text = format!(
        "16 flows: kernel to kernel {:.1} Mbit/s, ferronet to kernel {:.1}, kernel to ferronet {:.1}",
        kernel / 1e6,
        sends / 1e6,
        receives / 1e6
    );
    eprintln!("{text}");
    assert!(sends >= 0.75 * kernel && receives >= 0.75 * kernel, "{text}");
}

/// What the host must do is in the message, when the user may not do it.
#[test]
fn an_ordinary_user_reads_what_root_must_do() {
    let test = "an_ordinary_user_reads_what_root_must_do";
    let have = |p| need::program(test, p).is_some();
    if !need::root(test)
        || !need::device(test, "/dev/net/tun")
        || !have("unshare")
        || !have("setpriv")
        || !can_run(test)
    {
        return;
    }
    let file = lab("tap-user", ONE);
    let mut c = Command::new("unshare");
    c.args(["-n", "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
    c.arg(ferronet(&[]).get_program()).args(["up".as_ref(), file.as_os_str()]).stdin(Stdio::null());
    let e = run(c);
    assert_eq!(e.code, 1, "{e:?}");
    assert!(
        e.err.contains("TAP interface `fntap0`") && e.err.contains("ip tuntap add dev NAME mode tap"),
        "{}",
        e.err
    );
}
