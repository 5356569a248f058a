//! `/proc/net` of a real namespace and of ours after the same calls, text against text. What must differ (inodes,
//! pointers, reference counts, hash chains, order within a table) is taken out of both.

mod real;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use bytes::Bytes;
use ferronet_core::{IfIndex, Instant, NsId};
use ferronet_linux::kernel::{Config, SendMsg};
use ferronet_linux::{Caller, Kernel, SockId};
use ferronet_stack::dev::{IfAddr, addr_ops};
use ferronet_stack::world::link::LinkSpec;
use real::RealNs;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const STREAM: i32 = 1;
const DGRAM: i32 = 2;

struct Ours {
    k: Kernel,
    ns: NsId,
    ms: u64,
}

impl Ours {
    fn new() -> Ours {
        let mut k = Kernel::new(Config { seed: 7, ..Config::default() });
        k.ns_create(1).expect("the initial one");
        let ns = k.ns_create(2).expect("a second one");
        Ours { k, ns, ms: 1000 }
    }
    fn call<R>(&mut self, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> R) -> R {
        let mut none = |_| None;
        f(
            &mut self.k,
            &mut Caller {
                ns: self.ns,
                pid: 1,
                uid: 0,
                caps: &ferronet_linux::Caps::all,
                resolve_ns: &mut none,
            },
        )
    }
    /// Lets `ms` of time pass.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.ms += 1;
            self.k.set_now(Instant::from_millis(self.ms));
            while self.k.run(1000) {}
        }
    }
    fn read(&mut self, path: &str) -> String {
        let b = self.call(|k, c| k.proc_open(c, path)).unwrap_or_else(|e| panic!("{path}: {e:?}"));
        String::from_utf8_lossy(&b).into_owned()
    }
    fn socket(&mut self, family: i32, ty: i32) -> SockId {
        self.call(|k, c| k.socket(c, family, ty, 0)).expect("a socket")
    }
    fn bound(&mut self, family: i32, ty: i32, port: u16) -> SockId {
        let s = self.socket(family, ty);
        let a = sockaddr(family, port);
        self.call(|k, c| k.bind(c, s, &a)).expect("bound");
        s
    }
    fn connect(&mut self, s: SockId, family: i32, port: u16) {
        let a = sockaddr(family, port);
        let _ = self.call(|k, c| k.connect(c, s, &a));
        self.run(2);
    }
}

/// 127.0.0.1 or ::1.
fn sockaddr(family: i32, port: u16) -> Vec<u8> {
    let mut b = (family as u16).to_ne_bytes().to_vec();
    b.extend(port.to_be_bytes());
    if family == AF_INET {
        b.extend([127, 0, 0, 1]);
        b.extend([0; 8]);
    } else {
        b.extend([0; 4]);
        b.extend(core::net::Ipv6Addr::LOCALHOST.octets());
        b.extend([0; 4]);
    }
    b
}

fn read_real(file: &str) -> String {
    let b = std::fs::read(Path::new("/proc/thread-self/net").join(file))
        .unwrap_or_else(|e| panic!("{file}: {e}"));
    String::from_utf8_lossy(&b).into_owned()
}

/// Lines without what must differ, sorted behind the header. Ports that were chosen are `X`.
fn socket_lines(text: &str, fixed_ports: &[u16]) -> Vec<String> {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default().to_owned();
    let port = |a: &str| match a.rsplit_once(':') {
        Some((ip, p)) if fixed_ports.iter().any(|f| p == format!("{f:04X}")) || p == "0000" => {
            format!("{ip}:{p}")
        }
        Some((ip, _)) => format!("{ip}:X"),
        None => a.to_owned(),
    };
    let mut rows: Vec<String> = lines
        .map(|l| {
            let w: Vec<&str> = l.split_whitespace().collect();
            let mut out: Vec<String> = w.iter().map(|s| (*s).to_owned()).collect();
            out[0] = "n".to_owned();
            out[1] = port(w[1]);
            out[2] = port(w[2]);
            // Time left, inode (0 stays 0), references, pointer.
            let timer = w[5].split(':').next().unwrap_or_default().to_owned();
            out[5] = timer;
            if out[9] != "0" {
                out[9] = "inode".to_owned();
            }
            out[10] = "ref".to_owned();
            out[11] = "ptr".to_owned();
            // The congestion window after the first data is the TCP twin's business.
            if let Some(cwnd) = out.get_mut(15) {
                cwnd.clear();
            }
            out.join(" ")
        })
        .collect();
    rows.sort();
    rows.insert(0, head);
    rows
}

#[test]
fn socket_files_equal_the_kernels() {
    let Some(ns) = RealNs::new("procfs_twin_sockets") else { return };
    ns.sh("ip link set lo up");
    let files =
        ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6", "udplite", "udplite6", "sockstat6"];
    let ports = [8080, 8081, 8082, 5300, 5301];
    let real: Vec<String> = ns.inside(|| {
        let l = TcpListener::bind("127.0.0.1:8080").expect("listener");
        let l6 = TcpListener::bind("[::1]:8081").expect("listener");
        let c = TcpStream::connect("127.0.0.1:8080").expect("connected");
        let (a, _) = l.accept().expect("accepted");
        std::io::Write::write_all(&mut &c, &[7; 1000]).expect("sent");
        let waiting = TcpStream::connect("127.0.0.1:8080").expect("connected");
        let closed = TcpStream::connect("127.0.0.1:8080").expect("connected");
        let waiting6 = TcpStream::connect("[::1]:8081").expect("connected");
        let (w, _) = l.accept().expect("accepted");
        let (x, _) = l.accept().expect("accepted");
        drop(x);
        drop(closed);
        let u = UdpSocket::bind("127.0.0.1:5300").expect("bound");
        let u2 = UdpSocket::bind("127.0.0.1:0").expect("bound");
        u2.connect("127.0.0.1:5300").expect("connected");
        u2.send(b"abc").expect("sent");
        let u6 = UdpSocket::bind("[::1]:5301").expect("bound");
        let out = files.iter().map(|f| read_real(f)).collect();
        drop((l, l6, c, a, waiting, waiting6, w, u, u2, u6));
        out
    });
    let mut o = Ours::new();
    o.k.world.link_set_up(o.ns, IfIndex::LO, true).expect("up");
    o.run(2);
    let l = o.bound(AF_INET, STREAM, 8080);
    o.k.listen(l, 128).expect("listens");
    let l6 = o.bound(AF_INET6, STREAM, 8081);
    o.k.listen(l6, 128).expect("listens");
    let c = o.socket(AF_INET, STREAM);
    o.connect(c, AF_INET, 8080);
    let (a, _) = o.k.accept(l).expect("accepted");
    assert_eq!(o.k.stream_send(c, Bytes::from(vec![7; 1000])), Ok(1000));
    o.run(2);
    let (waiting, closed, waiting6) =
        (o.socket(AF_INET, STREAM), o.socket(AF_INET, STREAM), o.socket(AF_INET6, STREAM));
    o.connect(waiting, AF_INET, 8080);
    o.connect(closed, AF_INET, 8080);
    o.connect(waiting6, AF_INET6, 8081);
    let (w, _) = o.k.accept(l).expect("accepted");
    let (x, _) = o.k.accept(l).expect("accepted");
    o.k.close(x);
    o.run(2);
    o.k.close(closed);
    o.run(2);
    let u = o.bound(AF_INET, DGRAM, 5300);
    let u2 = o.bound(AF_INET, DGRAM, 0);
    o.connect(u2, AF_INET, 5300);
    let m = SendMsg { name: &[], data: Bytes::from_static(b"abc"), control: &[], flags: 0 };
    o.call(|k, c| k.sendmsg(c, u2, m)).expect("sent");
    let u6 = o.bound(AF_INET6, DGRAM, 5301);
    o.run(2);
    for (i, s) in [l, l6, c, a, waiting, waiting6, w, u, u2, u6].into_iter().enumerate() {
        o.k.set_inode(s, 100 + i as u64);
    }
    for (f, real) in files.iter().zip(&real) {
        let ours = o.read(&format!("net/{f}"));
        if *f == "sockstat6" {
            assert_eq!(&ours, real);
            continue;
        }
        assert_eq!(
            socket_lines(&ours, &ports),
            socket_lines(real, &ports),
            "{f}:\nreal\n{real}\nours\n{ours}"
        );
        let widths = |t: &str| t.lines().map(str::len).collect::<std::collections::BTreeSet<_>>();
        if f.starts_with("tcp") && !f.ends_with('6') || f.starts_with("udp") && !f.ends_with('6') {
            assert_eq!(widths(&ours), widths(real), "{f}");
        }
    }
}

#[test]
fn device_and_route_files_equal_the_kernels() {
    let Some(ns) = RealNs::new("procfs_twin_routes") else { return };
    ns.sh("ip link add d0 type veth peer name d1; ip link set lo up; for d in d0 d1; do \
         echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; ip link set $d up; done; \
         ip addr add 10.9.0.1/24 dev d0; ip addr add 10.9.0.2/24 dev d0; ip addr add 192.168.7.1/30 dev d0; \
         ip neigh add 10.9.0.9 lladdr 02:00:00:00:00:09 dev d0 nud permanent");
    let files = [
        "route",
        "fib_trie",
        "fib_triestat",
        "arp",
        "igmp",
        "rt_cache",
        "snmp",
        "netstat",
        "psched",
        "unix",
        "mcfilter",
        "mcfilter6",
        "ip_mr_cache",
        "ip_mr_vif",
        "ip6_mr_cache",
        "ip6_mr_vif",
        "ip6_flowlabel",
        "xfrm_stat",
        "sockstat",
        "rt_acct",
        "anycast6",
    ];
    let real: Vec<String> = ns.inside(|| files.iter().map(|f| read_real(f)).collect());
    let mut o = Ours::new();
    let named = |n: &str| LinkSpec { name: n.to_owned(), ..LinkSpec::default() };
    let (d0, d1) = o.k.world.link_add_veth(o.ns, &named("d0"), o.ns, &named("d1")).expect("a pair");
    for d in ["d0", "d1"] {
        let n = o.k.world.ns_mut(o.ns).expect("there");
        n.sysctl_write(&format!("ipv6/conf/{d}/disable_ipv6"), b"1").expect("off");
    }
    for d in [IfIndex::LO, d0, d1] {
        o.k.world.link_set_up(o.ns, d, true).expect("up");
    }
    let n = o.k.world.ns_mut(o.ns).expect("there");
    for (a, len) in [([10, 9, 0, 1], 24), ([10, 9, 0, 2], 24), ([192, 168, 7, 1], 30)] {
        let a = IfAddr::new(core::net::IpAddr::from(a), len);
        addr_ops::inet_insert_ifa(n, d0, a).expect("address");
    }
    let key = ferronet_stack::neigh::NeighKey { dev: d0, addr: [10, 9, 0, 9].into() };
    let id = n.neigh.create(&mut n.env, key).expect("room");
    let parms = n.devs.get(d0).expect("there").neigh4.clone();
    let news = ferronet_stack::neigh::News {
        lladdr: Some(ferronet_wire::ethernet::MacAddr([2, 0, 0, 0, 0, 9])),
        state: ferronet_stack::neigh::nud::PERMANENT,
        how: ferronet_stack::neigh::Update { admin: true, override_lladdr: true, ..Default::default() },
    };
    let _ = n.neigh.update(&mut n.env, &parms, &mut n.notify, id, news);
    for (f, real) in files.iter().zip(&real) {
        let ours = o.read(&format!("net/{f}"));
        match *f {
            // Names and shape: duplicate address detection and reports of the real one count as they come.
            "snmp" | "netstat" => {
                let names = |t: &str| -> Vec<String> {
                    t.lines().filter(|l| !l.starts_with("IcmpMsg")).step_by(2).map(str::to_owned).collect()
                };
                assert_eq!(names(&ours), names(real), "{f}");
            }
            // Memory and sockets of the whole machine.
            "sockstat" => {
                let shape = |t: &str| t.replace(|c: char| c.is_ascii_digit(), "");
                assert_eq!(shape(&ours), shape(real), "{f}");
            }
            _ => assert_eq!(&ours, real, "{f}"),
        }
    }
}
