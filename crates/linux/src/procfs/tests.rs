//! Files against texts of a real namespace of Linux 6.18.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, Mib, NsId};
use ferronet_stack::dev::{IfAddr, addr_ops};
use ferronet_stack::fib::{FibEntry, How, Metrics, NextHop, RouteType, table_id};
use ferronet_stack::world::link::LinkSpec;
use proptest::prelude::*;

use crate::kernel::{Caller, Config, Kernel};

fn kernel() -> (Kernel, NsId) {
    let mut k = Kernel::new(Config { seed: 1, ..Config::default() });
    let ns = k.ns_create(1).expect("room");
    (k, ns)
}

fn with<R>(k: &mut Kernel, ns: NsId, uid: u32, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> R) -> R {
    let mut none = |_| None;
    let caps = move || if uid == 0 { crate::Caps::all() } else { crate::Caps::empty() };
    let mut c = Caller { ns, pid: 1, uid, caps: &caps, resolve_ns: &mut none };
    f(k, &mut c)
}

fn read(k: &mut Kernel, ns: NsId, path: &str) -> String {
    let b = with(k, ns, 0, |k, c| k.proc_open(c, path)).unwrap_or_else(|e| panic!("{path}: {e:?}"));
    String::from_utf8(b).expect("text")
}

fn up(k: &mut Kernel, ns: NsId, dev: IfIndex) {
    k.world.link_set_up(ns, dev, true).expect("up");
}

/// `fnpv1` and `fnpv0` as in the recorded namespace: the peer has the lower index.
fn veth(k: &mut Kernel, ns: NsId) -> IfIndex {
    let spec = LinkSpec { name: "fnpv0".to_owned(), ..LinkSpec::default() };
    let peer = LinkSpec { name: "fnpv1".to_owned(), ..LinkSpec::default() };
    let (i, j) = k.world.link_add_veth(ns, &spec, ns, &peer).expect("veth");
    for d in [IfIndex::LO, j, i] {
        up(k, ns, d);
    }
    i
}

fn address(k: &mut Kernel, ns: NsId, dev: IfIndex, a: [u8; 4], len: u8) {
    let ns = k.world.ns_mut(ns).expect("there");
    addr_ops::inet_insert_ifa(ns, dev, IfAddr::new(IpAddr::V4(Ipv4Addr::from(a)), len)).expect("address");
}

fn route(
    k: &mut Kernel,
    ns: NsId,
    dst: [u8; 4],
    len: u8,
    via: Option<(IfIndex, Option<[u8; 4]>)>,
    kind: RouteType,
) {
    let gw = |g: Option<[u8; 4]>| g.map(|g| IpAddr::V4(Ipv4Addr::from(g)));
    let e = FibEntry {
        dst: IpAddr::V4(Ipv4Addr::from(dst)),
        dst_len: len,
        tos: 0,
        table: table_id::MAIN,
        priority: 0,
        protocol: 3,
        scope: if via.is_some_and(|v| v.1.is_none()) { 253 } else { 0 },
        kind,
        prefsrc: None,
        nexthops: via
            .into_iter()
            .map(|(dev, g)| NextHop { gw: gw(g), dev, weight: 0, flags: 0, realm: 0 })
            .collect(),
        metrics: Metrics::default(),
        pref: 0,
        expires: None,
    };
    let n = k.world.ns_mut(ns).expect("there");
    n.fib.insert(&mut n.notify, e, How::ADD).expect("route");
}

const TRIE: &str = "  +-- 0.0.0.0/1 2 0 2
     +-- 0.0.0.0/4 2 0 2
        |-- 0.0.0.0
           /0 universe UNICAST
        +-- 10.8.0.0/15 2 0 2
           |-- 10.8.0.0
              /16 universe BLACKHOLE
           +-- 10.9.0.0/24 2 0 2
              +-- 10.9.0.0/31 1 0 0
                 |-- 10.9.0.0
                    /24 link UNICAST
                 |-- 10.9.0.1
                    /32 host LOCAL
              |-- 10.9.0.255
                 /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
";

#[test]
fn route_files_equal_the_kernels() {
    let (mut k, ns) = kernel();
    let dev = veth(&mut k, ns);
    address(&mut k, ns, dev, [10, 9, 0, 1], 24);
    route(&mut k, ns, [0; 4], 0, Some((dev, Some([10, 9, 0, 2]))), RouteType::Unicast);
    route(&mut k, ns, [10, 8, 0, 0], 16, None, RouteType::Blackhole);
    let text = read(&mut k, ns, "net/route");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.iter().all(|l| l.len() == 127), "{text}");
    let trimmed: Vec<&str> = lines.iter().map(|l| l.trim_end()).collect();
    assert_eq!(
        trimmed,
        [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
            "fnpv0\t00000000\t0200090A\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            "*\t0000080A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0",
            "fnpv0\t0000090A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
        ]
    );
    assert_eq!(read(&mut k, ns, "net/fib_trie"), format!("Main:\n{TRIE}Local:\n{TRIE}"));
    let stat = "\tAver depth:     3.37\n\tMax depth:      5\n\tLeaves:         8\n\tPrefixes:       8\n\
                \tInternal nodes: 7\n\t  1: 2  2: 5\n\tPointers: 24\nNull ptrs: 10\nTotal size: 2  kB\n";
    assert_eq!(
        read(&mut k, ns, "net/fib_triestat"),
        format!("Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.\nMain:\n{stat}Local:\n{stat}")
    );
}

#[test]
fn the_trie_grows_as_the_kernels() {
    let (mut k, ns) = kernel();
    let dev = veth(&mut k, ns);
    address(&mut k, ns, dev, [10, 9, 0, 1], 24);
    let gw = Some((dev, Some([10, 9, 0, 2])));
    for (dst, len, via, kind) in [
        ([0, 0, 0, 0], 0, gw, RouteType::Unicast),
        ([10, 8, 0, 0], 16, None, RouteType::Blackhole),
        ([10, 7, 0, 0], 16, None, RouteType::Unreachable),
        ([10, 6, 0, 1], 32, gw, RouteType::Unicast),
        ([10, 9, 0, 0], 16, Some((dev, None)), RouteType::Unicast),
        ([10, 5, 0, 0], 16, gw, RouteType::Unicast),
    ] {
        route(&mut k, ns, dst, len, via, kind);
    }
    let want = "        +-- 10.0.0.0/12 2 1 2
           +-- 10.4.0.0/14 2 0 1
              |-- 10.5.0.0
                 /16 universe UNICAST
              |-- 10.6.0.1
                 /32 universe UNICAST
              |-- 10.7.0.0
                 /16 universe UNREACHABLE
           +-- 10.8.0.0/15 2 0 2
              |-- 10.8.0.0
                 /16 universe BLACKHOLE
              +-- 10.9.0.0/24 2 0 2
                 +-- 10.9.0.0/31 1 0 0
                    |-- 10.9.0.0
                       /24 link UNICAST
                       /16 link UNICAST
";
    let text = read(&mut k, ns, "net/fib_trie");
    assert!(text.contains(want), "{text}");
}

#[test]
fn counters_have_the_kernels_lines() {
    let (mut k, ns) = kernel();
    let text = read(&mut k, ns, "net/snmp");
    assert!(text.contains("\nTcp: 1 200 120000 -1 0 0 0 0 0 0 0 0 0 0 0\n"), "{text}");
    assert!(text.contains("\nIp: 2 64 0 0"), "{text}");
    assert!(!text.contains("IcmpMsg"));
    let n = k.world.ns_mut(ns).expect("there");
    n.env.mib.icmpmsg[0][8] = 1;
    n.env.mib.icmpmsg[1][0] = 1;
    n.env.mib.icmp6msg[1][133] = 18;
    n.env.mib.inc(Mib::IpInReceives);
    n.sysctl_write("ipv4/ip_forward", b"1").expect("written");
    let text = read(&mut k, ns, "net/snmp");
    assert!(text.contains("\nIcmpMsg: InType8 OutType0\nIcmpMsg: 1 1\nTcp: "), "{text}");
    assert!(text.contains("\nIp: 1 64 1 0"), "{text}");
    let text = read(&mut k, ns, "net/snmp6");
    assert!(text.contains("Icmp6OutRouterSolicits          \t18\n"), "{text}");
    assert!(
        text.contains("\nIcmp6OutType133                 \t18\nUdp6InDatagrams                 \t0\n"),
        "{text}"
    );
}

#[test]
fn files_and_directories_agree() {
    let (mut k, ns) = kernel();
    let mut todo = vec!["net".to_owned(), "sys/net".to_owned()];
    let mut n = 0;
    while let Some(dir) = todo.pop() {
        assert_eq!(k.proc_stat(ns, &dir).map(|s| s.dir), Some(true), "{dir}");
        let list = k.proc_list(ns, &dir).expect("a directory");
        assert!(list.is_sorted(), "{dir}");
        for (name, is_dir) in list {
            let path = format!("{dir}/{name}");
            let st = k.proc_stat(ns, &path).unwrap_or_else(|| panic!("{path} is listed"));
            assert_eq!(st.dir, is_dir, "{path}");
            if is_dir {
                todo.push(path);
                continue;
            }
            n += 1;
            let r = with(&mut k, ns, 0, |k, c| k.proc_open(c, &path));
            match st.mode {
                0o200 => assert_eq!(r, Err(Errno::EACCES), "{path}"),
                _ if name == "stable_secret" => assert_eq!(r, Err(Errno::EIO), "{path}"),
                _ => assert!(r.is_ok(), "{path}"),
            }
        }
    }
    assert!(n > 500);
}

#[test]
fn writes_are_checked() {
    let (mut k, ns) = kernel();
    let mut w = |uid, path: &str, data: &[u8]| with(&mut k, ns, uid, |k, c| k.proc_write(c, path, data));
    assert_eq!(w(0, "sys/net/ipv4/ip_forward", b"1\n"), Ok(2));
    assert_eq!(w(0, "sys/net/ipv4/ip_forward", b"x"), Err(Errno::EINVAL));
    assert_eq!(w(1000, "sys/net/ipv4/ip_forward", b"1"), Err(Errno::EACCES));
    assert_eq!(w(0, "sys/net/ipv4/no_such", b"1"), Err(Errno::ENOENT));
    assert_eq!(w(0, "sys/net/ipv4/tcp_ehash_entries", b"1"), Err(Errno::EACCES));
    assert_eq!(w(0, "sys/net/ipv4", b"1"), Err(Errno::EISDIR));
    assert_eq!(w(0, "net/snmp", b"1"), Err(Errno::EIO));
    assert_eq!(w(0, "sys/kernel/hostname", b"1"), Err(Errno::ENOENT));
    assert_eq!(w(0, "netx", b"1"), Err(Errno::ENOENT));
}

proptest! {
    #[test]
    fn no_path_and_no_data_panic(
        dir in prop::sample::select(vec!["net/", "sys/net/", "sys/net/ipv4/", "sys/net/ipv4/conf/", "sys/net/ipv6/neigh/", ""]),
        rest in "[a-z0-9_/.]{0,24}",
        data in prop::collection::vec(any::<u8>(), 0..64),
        pick in any::<prop::sample::Index>(),
    ) {
        let (mut k, ns) = kernel();
        let path = format!("{dir}{rest}");
        let _ = with(&mut k, ns, 0, |k, c| k.proc_open(c, &path));
        let _ = k.proc_list(ns, &path);
        let _ = with(&mut k, ns, 0, |k, c| k.proc_write(c, &path, &data));
        let known = pick.get(ferronet_core::Sysctl::ALL).def().path;
        let _ = with(&mut k, ns, 0, |k, c| k.proc_write(c, &format!("sys/net/{known}"), &data));
        prop_assert!(with(&mut k, ns, 0, |k, c| k.proc_open(c, "net/snmp")).is_ok());
    }
}

/// The side that closes first waits 60 s (`TCP_TIMEWAIT_LEN`), and /proc/net/tcp counts them down.
#[test]
fn time_wait_lasts_sixty_seconds() {
    use ferronet_core::Instant;
    let (mut k, ns) = kernel();
    up(&mut k, ns, IfIndex::LO);
    // struct sockaddr_in of 127.0.0.1:80.
    let name = [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let socket = |k: &mut Kernel| with(k, ns, 0, |k, c| k.socket(c, 2, 1, 0)).expect("socket");
    let run = |k: &mut Kernel| while k.run(64) {};
    let (listener, client) = (socket(&mut k), socket(&mut k));
    with(&mut k, ns, 0, |k, c| k.bind(c, listener, &name)).expect("bind");
    k.listen(listener, 1).expect("listen");
    assert_eq!(with(&mut k, ns, 0, |k, c| k.connect(c, client, &name)), Err(Errno::EINPROGRESS));
    run(&mut k);
    let (served, _) = k.accept(listener).expect("accept");
    k.close(client);
    run(&mut k);
    k.close(served);
    run(&mut k);
    k.close(listener);
    let mut at = |ms: u64| {
        k.set_now(Instant(ms * 1_000_000));
        run(&mut k);
        let text = read(&mut k, ns, "net/tcp");
        text.lines().nth(1).map(|row| row[34..].split_whitespace().take(3).collect::<Vec<_>>().join(" "))
    };
    let row = |ticks: u32| Some(format!("06 00000000:00000000 03:{ticks:08X}"));
    assert_eq!(at(0), row(6000));
    assert_eq!(at(15_000), row(4500));
    assert_eq!(at(59_990), row(1));
    assert_eq!(at(60_010), None);
}
