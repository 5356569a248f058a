//! Good files, and one sentence for each wrong one.

use super::*;
use std::time::Duration;

const GOOD: &str = r#"
seed = 7
timeout = "1min"

[[namespace]]
name = "client"
addresses = { eth0 = ["10.0.1.2/24", "fd00:1::2/64"] }
routes = ["default via 10.0.1.1", "fd00:2::/64 via fd00:1::1 dev eth0 metric 5"]

[[namespace]]
name = "router"
addresses = { eth0 = "10.0.1.1/24" }
sysctls = { "net.ipv4.ip_forward" = 1, "net.ipv4.tcp_rmem" = "4096 131072 6291456" }

[[link]]
ends = ["client:eth0", "router:eth0"]
delay = "20ms"
jitter = "1ms"
rate = "100mbit"
queue = 50
loss = "1%"
mtu = 1400

[[program]]
name = "server"
ns = "router"
cmd = "ferronet tool serve --port 80 'a b'"
ready = "tcp:80"
stop_at_end = true

[[program]]
name = "get"
ns = "client"
cmd = ["sh", "-c", "echo $X | cat"]
after = "server"
env = { X = 1 }

[[tap]]
end = "router:tap0"
host_name = "ferro0"
host_address = ["10.77.0.1/24", "fd77::1/64"]
mtu = 9000
delay = "20ms"
loss = "1%"
reorder = "2%"
"#;

fn error(text: &str) -> String {
    let e = parse("lab.toml", text).expect_err("this file is wrong");
    format!("{}:{}: {}", e.line, e.column, e.text)
}

/// The good file with one line replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

#[test]
fn a_good_file_is_read_completely() {
    let lab = parse("lab.toml", GOOD).unwrap();
    assert_eq!((lab.seed, lab.timeout), (Some(7), Some(Duration::from_secs(60))));
    let client = &lab.namespaces[0];
    assert_eq!(client.addresses.len(), 2);
    assert_eq!(client.addresses[1], ("eth0".to_owned(), "fd00:1::2".parse().unwrap(), 64));
    let default = Route { to: None, via: Some("10.0.1.1".parse().unwrap()), dev: None, metric: None };
    assert_eq!(client.routes[0], default);
    assert_eq!(client.routes[1].metric, Some(5));
    let sysctls = &lab.namespaces[1].sysctls;
    assert_eq!(sysctls[0], ("ipv4/ip_forward".to_owned(), "1".to_owned()));
    assert_eq!(sysctls[1].1, "4096 131072 6291456");
    let link = &lab.links[0];
    assert_eq!(link.mtu, Some(1400));
    assert_eq!(link.impairment.delay, Duration::from_millis(20));
    assert_eq!(
        (link.impairment.rate, link.impairment.queue, link.impairment.loss),
        (100_000_000, 50, 10_000)
    );
    let tap = &lab.taps[0];
    assert_eq!((tap.end.namespace, tap.end.device.as_str()), (1, "tap0"));
    assert_eq!((tap.host_name.as_str(), tap.mtu), ("ferro0", Some(9000)));
    assert_eq!(tap.host_addresses[1], ("fd77::1".parse().unwrap(), 64));
    assert_eq!((tap.impairment.loss, tap.impairment.reorder), (10_000, 20_000));
    let [server, get] = lab.programs.as_slice() else { panic!("two programs") };
    assert_eq!(server.cmd, ["ferronet", "tool", "serve", "--port", "80", "a b"]);
    assert_eq!((server.ready.clone(), server.stop_at_end), (Some(Ready::Tcp(80)), true));
    assert_eq!((get.after.as_slice(), get.must_succeed), (&[0][..], true));
    assert_eq!(get.env, [("X".to_owned(), "1".to_owned())]);
}

#[test]
fn errors_name_the_place_and_show_the_line() {
    let e = parse("lab.toml", &with("delay =", "dealy =")).unwrap_err();
    let shown = e.to_string();
    assert_eq!(
        shown,
        "lab.toml:17:1: `dealy` is not a setting of a [[link]]; did you mean `delay`?\n   |\n17 | dealy = \"20ms\"\n   | ^^^^^"
    );
}

#[test]
fn unknown_keys_and_wrong_types() {
    assert_eq!(
        error(&with("seed", "sede")),
        "2:1: `sede` is not a setting of the file; did you mean `seed`?"
    );
    assert!(error(&with("mtu = 1400", "banana = 1")).contains("it has ends, mtu, delay"));
    assert_eq!(error(&with("mtu = 1400", "mtu = \"x\"")), "22:7: `mtu` is a whole number, not a text");
    assert_eq!(error(&with("mtu = 1400", "mtu = 5")), "22:7: `mtu` is a whole number from 68 to 65535");
    assert_eq!(error(&with("\"20ms\"", "20")), "17:9: `20` has no unit; write for example 20ms or 20s");
    assert_eq!(error(&with("\"1%\"", "\"120%\"")), "21:8: `120%` is more than 100%");
    assert_eq!(
        error(&with("stop_at_end = true", "stop_at_end = 1")),
        "29:15: `stop_at_end` is true or false, not a whole number"
    );
    assert_eq!(error("namespace = 1"), "1:13: write [[namespace]] with two brackets: there can be several");
    assert!(error("[[namespace]\nname = 1").starts_with("1:13: this is not TOML"));
    assert!(error("").contains("there is no namespace"));
    assert!(error("[[namespace]]\n").contains("a [[namespace]] needs `name`, for example name = \"client\""));
}

#[test]
fn names_refer_to_something() {
    assert_eq!(
        error(&with("\"client:eth0\"", "\"clinet:eth0\"")),
        "16:9: there is no namespace `clinet`; did you mean `client`?"
    );
    assert!(error(&with("\"client:eth0\"", "\"eth0\"")).contains("write NAMESPACE:DEVICE"));
    assert!(
        error(&with("\"client:eth0\"", "\"router:eth0\"")).contains("`router` already has a device `eth0`")
    );
    assert!(error(&with("\"client:eth0\"", "\"client:a-very-long-name\"")).contains("not a device name"));
    assert!(
        error(&with("{ eth0 = \"10.0.1.1/24\" }", "{ eth1 = \"10.0.1.1/24\" }"))
            .contains("`router` has no device `eth1`; did you mean `eth0`?")
    );
    assert!(
        error(&with("name = \"router\"", "name = \"client\""))
            .contains("there is already a namespace `client`")
    );
    assert!(
        error(&with("after = \"server\"", "after = \"sevrer\""))
            .contains("no program `sevrer`; did you mean `server`?")
    );
    assert!(error(&with("after = \"server\"", "after = \"get\"")).contains("`get` waits for itself"));
    assert!(
        error(&with("ends = [\"client:eth0\", \"router:eth0\"]", "ends = [\"client:eth0\"]"))
            .contains("two ends")
    );
}

#[test]
fn the_ends_of_a_tap_are_checked() {
    assert!(
        error(&with("\"router:tap0\"", "\"router:eth0\"")).contains("`router` already has a device `eth0`")
    );
    assert!(error(&with("host_name = \"ferro0\"\n", "")).contains("a [[tap]] needs `host_name`"));
    assert!(error(&with("\"ferro0\"", "\"a name\"")).contains("`a name` is not an interface name"));
    assert!(error(&with("10.77.0.1/24", "10.77.0.1/40")).contains("`/40` is not a prefix length"));
    assert!(error(&with("mtu = 9000", "mtu = 65535")).contains("from 68 to 65521"));
    assert!(error(&with("\nloss = \"1%\"\nreorder", "\nlos = 1\nreorder")).contains("did you mean `loss`?"));
    let second = format!("{GOOD}[[tap]]\nend = \"client:tap0\"\nhost_name = \"ferro0\"\n");
    assert!(error(&second).contains("another [[tap]] already has the host's interface `ferro0`"));
}

#[test]
fn values_are_checked() {
    assert!(
        error(&with("10.0.1.1/24", "10.0.1.1/33"))
            .contains("`/33` is not a prefix length; it is from 0 to 32")
    );
    assert!(error(&with("10.0.1.1/24", "10.0.1.300/24")).contains("`10.0.1.300` is not an address"));
    assert!(error(&with("default via 10.0.1.1", "default")).contains("needs `via ADDRESS` or `dev DEVICE`"));
    assert!(
        error(&with("default via 10.0.1.1", "default by 10.0.1.1")).contains("`by` is not part of a route")
    );
    assert!(
        error(&with("fd00:2::/64 via fd00:1::1", "fd00:2::/64 via 10.0.1.1")).contains("different families")
    );
    assert!(error(&with("net.ipv4.ip_forward", "kernel.pid_max")).contains("not a network setting"));
    assert!(error(&with("tcp:80", "tcp:x")).contains("`x` is not a port"));
    assert!(error(&with("tcp:80", "soon")).contains("tcp:PORT, udp:PORT or output:TEXT"));
    assert!(error(&with("'a b'", "> file")).contains("no shell runs the command"));
    assert!(error(&with("'a b'", "'a b")).contains("not closed"));
    assert!(error(&with("jitter = \"1ms\"", "jitter = \"30ms\"")).contains("more than `delay`"));
    assert!(error(&with("rate = \"100mbit\"\n", "")).contains("`queue` needs a `rate`"));
}

#[test]
fn commands_are_split_like_a_shell_does() {
    let words = |t: &str| split_command(t).unwrap();
    assert_eq!(words(r#"a  'b c' "d \" e" f\ g '' "#), ["a", "b c", "d \" e", "f g", ""]);
    assert!(words("").is_empty());
}
