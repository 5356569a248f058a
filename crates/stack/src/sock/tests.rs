//! Binding compared with the kernel's answers; raw, ping and packet sockets between two namespaces.

use core::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ferronet_core::{Errno, IfIndex, Mib, NsId};

use super::*;
use crate::dev::IfAddr;
use crate::dev::addr_ops::inet_insert_ifa;
use crate::udp::{Dest, MsgOpts};
use crate::world::link::LinkSpec;
use crate::{Namespace, World};

/// Two namespaces with a veth pair, 10.0.0.1 and 10.0.0.2.
pub(crate) struct Two {
    pub(crate) w: World,
    pub(crate) a: NsId,
    pub(crate) b: NsId,
    pub(crate) dev: IfIndex,
}

pub(crate) const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
pub(crate) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Two {
    pub(crate) fn new() -> Two {
        let mut w = World::new(7, 0);
        let (a, b) = (w.ns_create().unwrap(), w.ns_create().unwrap());
        let spec = |n: &str| LinkSpec { name: n.into(), ..LinkSpec::default() };
        let (i, j) = w.link_add_veth(a, &spec("v0"), b, &spec("v1")).unwrap();
        for (n, d, ip) in [(a, i, A), (b, j, B)] {
            w.link_set_up(n, IfIndex::LO, true).unwrap();
            w.link_set_up(n, d, true).unwrap();
            let mut addr = IfAddr::new(ip, 24);
            addr.broadcast = Some(Ipv4Addr::new(10, 0, 0, 255));
            inet_insert_ifa(w.ns_mut(n).unwrap(), d, addr).unwrap();
        }
        w.set_now(ferronet_core::Instant::from_millis(1));
        Two { w, a, b, dev: j }
    }
    pub(crate) fn run(&mut self) {
        while self.w.run_softirq(10_000) {}
    }
    pub(crate) fn ns(&mut self, n: NsId) -> &mut Namespace {
        self.w.ns_mut(n).unwrap()
    }
    pub(crate) fn sock(&mut self, n: NsId, family: u8, protocol: u8, proto: Proto) -> SockKey {
        create(self.ns(n), NewSock { family, protocol, uid: 0, token: 1 }, proto).unwrap()
    }
    pub(crate) fn udp(&mut self, n: NsId) -> SockKey {
        self.sock(n, 2, 17, Proto::Udp(Box::default()))
    }
    pub(crate) fn mib(&self, n: NsId, m: Mib) -> u64 {
        self.w.ns(n).unwrap().env.mib.get(m)
    }
    pub(crate) fn recv(&mut self, n: NsId, key: SockKey) -> Result<Option<Vec<u8>>, Errno> {
        datagram::recv(self.ns(n), key, false, |p, _| p.to_vec())
    }
}

pub(crate) fn to(addr: IpAddr, port: u16) -> Option<Dest> {
    Some(Dest { addr, port, scope: IfIndex::NONE })
}

/// Bind (and listen) of a second socket after a first one, on Linux 6.18: for each pair of addresses in the order of
/// [`ADDRS`] nine digits, by the options of both: none, SO_REUSEADDR, SO_REUSEPORT. 0: EADDRINUSE at bind; 1: bound,
/// but listen failed (or datagram sockets: bound); 2: bound, both listen.
const TCP_BOUND: &str = "000010002|000010002|000010002|000010002|222222222|222222222|000010002|000010002|000010002|222222222|000010002|222222222|222222222|000010002|000010002|222222222|000010002|000010002|222222222|222222222|222222222|000010002|000010002|000010002|000010002|000010002|000010002|000010002|222222222|222222222|222222222|000010002|000010002|000010002|222222222|222222222|222222222|222222222|000010002|000010002|000010002|222222222|000010002|000010002|222222222|000010002|222222222|222222222|000010002";
const TCP_LISTENING: &str = "000000002|000000002|000000002|000000002|222222222|222222222|000000002|000000002|000000002|222222222|000000002|222222222|222222222|000000002|000000002|222222222|000000002|000000002|222222222|222222222|222222222|000000002|000000002|000000002|000000002|000000002|000000002|000000002|222222222|222222222|222222222|000000002|000000002|000000002|222222222|222222222|222222222|222222222|000000002|000000002|000000002|222222222|000000002|000000002|222222222|000000002|222222222|222222222|000000002";
const UDP_BOUND: &str = "000010001|000010001|000010001|000010001|111111111|111111111|000010001|000010001|000010001|111111111|000010001|111111111|111111111|000010001|000010001|111111111|000010001|000010001|111111111|111111111|111111111|000010001|000010001|000010001|000010001|000010001|000010001|000010001|111111111|111111111|111111111|000010001|000010001|000010001|111111111|111111111|111111111|111111111|000010001|000010001|000010001|111111111|000010001|000010001|111111111|000010001|111111111|111111111|000010001";
const ADDRS: [(u8, &str, bool); 7] = [
    (2, "0.0.0.0", false),
    (2, "127.0.0.1", false),
    (2, "127.0.0.2", false),
    (10, "::", false),
    (10, "::", true),
    (10, "::1", false),
    (10, "::ffff:127.0.0.1", false),
];

fn bound(t: &mut Two, tcp: bool, at: (u8, &str, bool), flag: usize, port: u16) -> (SockKey, bool) {
    let proto = if tcp { Proto::Tcp(Box::default()) } else { Proto::Udp(Box::default()) };
    let n = t.a;
    let key = t.sock(n, at.0, if tcp { 6 } else { 17 }, proto);
    let n = t.ns(n);
    let c = n.socks.common_mut(key).unwrap();
    c.flags.set(SockFlags::V6ONLY, at.2);
    c.flags |= [SockFlags::empty(), SockFlags::REUSEADDR, SockFlags::REUSEPORT][flag];
    (key, ports::bind(n, key, at.1.parse().unwrap(), port, true).is_ok())
}

fn conflict_table(tcp: bool, listening: bool) -> String {
    let mut t = Two::new();
    let n = t.a;
    let lo = t.ns(n).devs.get_mut(IfIndex::LO).unwrap();
    if !lo.addrs.iter().any(|a| a.local == "::1".parse::<IpAddr>().unwrap()) {
        lo.addrs.push(IfAddr::new("::1".parse().unwrap(), 128));
    }
    let listen = |t: &mut Two, k| crate::tcp::user::listen(t.ns(n), k, 1).is_ok();
    let mut port = 20000;
    let mut rows = Vec::new();
    for a in ADDRS {
        for b in ADDRS {
            let mut row = String::new();
            for i in 0..9 {
                port += 1;
                let (s, ok) = bound(&mut t, tcp, a, i / 3, port);
                assert!(ok);
                assert!(!listening || listen(&mut t, s));
                let (k, ok) = bound(&mut t, tcp, b, i % 3, port);
                let mut r = u8::from(ok);
                if ok && tcp {
                    assert!(listening || listen(&mut t, s));
                    r += u8::from(listen(&mut t, k));
                }
                row.push(char::from(b'0' + r));
                close(t.ns(n), s);
                close(t.ns(n), k);
            }
            rows.push(row);
        }
    }
    assert_eq!(t.ns(n).socks.ports.in_use(if tcp { 6 } else { 17 }), 0, "closed sockets hold no port");
    rows.join("|")
}

#[test]
fn bind_conflicts_are_the_kernels() {
    assert_eq!(conflict_table(true, false), TCP_BOUND);
    assert_eq!(conflict_table(true, true), TCP_LISTENING);
    assert_eq!(conflict_table(false, false), UDP_BOUND);
}

#[test]
fn bind_refuses_foreign_addresses_privileged_ports_and_a_second_time() {
    let mut t = Two::new();
    let n = t.a;
    let k = t.udp(n);
    assert_eq!(ports::bind(t.ns(n), k, B, 7000, true), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(ports::bind(t.ns(n), k, A, 80, false), Err(Errno::EACCES));
    assert_eq!(ports::bind(t.ns(n), k, A, 80, true), Ok(()));
    assert_eq!(ports::bind(t.ns(n), k, A, 81, true), Err(Errno::EINVAL));
    let k = t.udp(n);
    t.ns(n).socks.common_mut(k).unwrap().flags |= SockFlags::FREEBIND;
    assert_eq!(ports::bind(t.ns(n), k, B, 7000, true), Ok(()));
}

#[test]
fn ephemeral_ports_stay_in_range_skip_reserved_ones_and_run_out() {
    let mut t = Two::new();
    let n = t.a;
    let ns = t.ns(n);
    ns.env.sysctl.write(ferronet_core::Sysctl::IpLocalPortRange, b"40000 40009").unwrap();
    ns.env
        .sysctl
        .write(ferronet_core::Sysctl::IpLocalReservedPorts, b"40004-40005,40003,40003-40004")
        .unwrap();
    let mut got = Vec::new();
    for _ in 0..7 {
        let k = t.udp(n);
        got.push(ports::autobind(t.ns(n), k).unwrap());
    }
    got.sort();
    assert_eq!(got, [40000, 40001, 40002, 40006, 40007, 40008, 40009]);
    let k = t.udp(n);
    assert_eq!(ports::autobind(t.ns(n), k), Err(Errno::EAGAIN));
    for _ in 0..7 {
        let k = t.sock(n, 2, 6, Proto::Tcp(Box::default()));
        ports::ephemeral_for_connect(t.ns(n), k, A, B, 80).unwrap();
    }
    let k = t.sock(n, 2, 6, Proto::Tcp(Box::default()));
    ports::bind(t.ns(n), k, ANY, 40000, true).expect_err("a connection holds it");
}

fn echo(id: u16, seq: u16) -> Bytes {
    let mut v = ferronet_wire::IcmpHdr::echo(8, id, seq).bytes().to_vec();
    v.extend_from_slice(b"ferronet");
    Bytes::from(v)
}

#[test]
fn ping_socket_gets_its_replies_only() {
    let mut t = Two::new();
    let (n, m) = (t.a, MsgOpts::default());
    let one = t.sock(n, 2, 1, Proto::Ping(Box::default()));
    let two = t.sock(n, 2, 1, Proto::Ping(Box::default()));
    assert_eq!(ping::sendmsg(t.ns(n), one, to(B, 0), echo(0, 1), &m), Ok(16));
    assert_eq!(ping::sendmsg(t.ns(n), two, to(B, 0), echo(0, 2), &m), Ok(16));
    assert_eq!(ping::sendmsg(t.ns(n), two, to(B, 0), Bytes::from_static(&[0; 8]), &m), Err(Errno::EINVAL));
    t.run();
    for (k, seq) in [(one, 1), (two, 2)] {
        let id = t.ns(n).socks.common(k).unwrap().lport;
        let got = t.recv(n, k).unwrap().unwrap();
        let h = ferronet_wire::IcmpHdr::view(&got).unwrap();
        assert_eq!((h.icmp_type, h.id(), h.sequence(), &got[8..]), (0, id, seq, &b"ferronet"[..]));
        assert_eq!(t.recv(n, k), Err(Errno::EAGAIN));
    }
    assert_eq!(t.mib(n, Mib::IcmpOutEchos), 2);
    assert_eq!(t.mib(n, Mib::IcmpInEchoReps), 2);
}

#[test]
fn raw_socket_gets_whole_packets_and_filters_by_type() {
    let mut t = Two::new();
    let (n, m) = (t.a, MsgOpts::default());
    let k = t.sock(n, 2, 1, Proto::Raw(Box::default()));
    let mut v = echo(77, 1).to_vec();
    let c = ferronet_wire::checksum::ip_compute_csum(&v);
    v[2..4].copy_from_slice(&c.to_be_bytes());
    assert_eq!(raw::sendmsg(t.ns(n), k, to(B, 0), Bytes::from(v.clone()), &m), Ok(16));
    t.run();
    let got = t.recv(n, k).unwrap().unwrap();
    assert_eq!((got.len(), got[0], &got[12..16], got[20]), (36, 0x45, &[10, 0, 0, 2][..], 0));
    t.ns(n).socks.common_mut(k).unwrap().rare().icmp_filter = 1;
    raw::sendmsg(t.ns(n), k, to(B, 0), Bytes::from(v.clone()), &m).unwrap();
    t.run();
    assert_eq!(t.recv(n, k), Err(Errno::EAGAIN));
    // With its own header: total length, identification and checksum are filled in.
    let raw_ip = t.sock(n, 2, 255, Proto::Raw(Box::default()));
    let mut h = ferronet_wire::Ipv4Hdr::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 2), 1, 9, 0);
    h.set_tot_len(0);
    let mut whole = h.bytes().to_vec();
    whole.extend_from_slice(&v);
    let other = t.sock(t.b, 2, 1, Proto::Raw(Box::default()));
    assert_eq!(raw::sendmsg(t.ns(n), raw_ip, to(B, 0), Bytes::from(whole), &m), Ok(36));
    t.run();
    let b = t.b;
    let first = t.recv(b, other).unwrap().unwrap();
    assert_eq!((first[8], &first[12..16], first.len()), (9, &[10, 0, 0, 1][..], 36));
}

#[test]
fn packet_socket_sees_both_directions_with_a_filter() {
    let mut t = Two::new();
    let (a, b, m) = (t.a, t.b, MsgOpts::default());
    let all = t.sock(b, 17, 0, Proto::Packet(Box::default()));
    packet::bind(t.ns(b), all, IfIndex::NONE, 3).unwrap();
    let arp = t.sock(b, 17, 0, Proto::Packet(Box::default()));
    let dev = t.dev;
    packet::bind(t.ns(b), arp, dev, 0x806).unwrap();
    let icmp = t.sock(b, 17, 0, Proto::Packet(Box::default()));
    packet::bind(t.ns(b), icmp, dev, 3).unwrap();
    // tcpdump -ddd icmp and ip, cut to 24 bytes.
    let insn = |code, jt, jf, k| BpfInsn { code, jt, jf, k };
    let prog = [
        insn(0x28, 0, 0, 12),
        insn(0x15, 0, 3, 0x800),
        insn(0x30, 0, 0, 23),
        insn(0x15, 0, 1, 1),
        insn(6, 0, 0, 24),
        insn(6, 0, 0, 0),
    ];
    t.ns(b).socks.common_mut(icmp).unwrap().rare().filter = Some(Box::new(BpfProg::new(&prog).unwrap()));
    let k = t.sock(a, 2, 1, Proto::Ping(Box::default()));
    ping::sendmsg(t.ns(a), k, to(B, 0), echo(0, 1), &m).unwrap();
    t.run();
    let mut kinds = Vec::new();
    while let Ok(Some((proto, kind))) =
        datagram::recv(t.ns(b), all, false, |p, _| (p.meta().protocol, p.meta().pkt_type))
    {
        kinds.push((proto, kind));
    }
    use ferronet_core::PktType::{Broadcast, Host, Outgoing};
    assert_eq!(kinds, [(0x806, Broadcast), (0x806, Outgoing), (0x800, Host), (0x800, Outgoing)]);
    assert_eq!(t.recv(b, arp).unwrap().unwrap().len(), 42);
    assert_eq!(t.recv(b, arp), Err(Errno::EAGAIN));
    assert_eq!(t.recv(b, icmp).unwrap().unwrap().len(), 24);
    assert_eq!(t.recv(b, icmp).unwrap().unwrap().len(), 24);
    for k in [all, arp, icmp] {
        close(t.ns(b), k);
    }
    let ns = t.ns(b);
    assert_eq!((ns.devs.taps_all, ns.devs.get(dev).unwrap().taps), (0, 0));
}

#[test]
fn bpf_checks_programs() {
    let insn = |code, jt, jf, k| BpfInsn { code, jt, jf, k };
    assert!(BpfProg::new(&[]).is_err());
    assert!(BpfProg::new(&[insn(0, 0, 0, 1)]).is_err(), "no return");
    assert!(BpfProg::new(&[insn(5, 0, 0, 1), insn(6, 0, 0, 0)]).is_err(), "jump beyond the end");
    assert!(BpfProg::new(&[insn(0x34, 0, 0, 0), insn(6, 0, 0, 0)]).is_err(), "division by zero");
    assert!(BpfProg::new(&[insn(0x60, 0, 0, 16), insn(6, 0, 0, 0)]).is_err(), "scratch cell");
    assert!(BpfProg::new(&[insn(0xff, 0, 0, 0), insn(6, 0, 0, 0)]).is_err(), "unknown");
}

mod props {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn bpf_never_panics(raw in proptest::collection::vec((0u16..0x100, any::<u8>(), any::<u8>(), any::<u32>()), 1..20),
                            bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut insns: Vec<_> = raw
                .into_iter()
                .map(|(code, jt, jf, k)| BpfInsn { code, jt: jt % 4, jf: jf % 4, k: if k % 3 == 0 { k } else { k % 40 } })
                .filter(|i| BpfProg::new(&[*i, BpfInsn { code: 6, ..*i }, BpfInsn { code: 6, ..*i }]).is_ok())
                .collect();
            insns.push(BpfInsn { code: 0x16, ..BpfInsn::default() });
            if let Ok(prog) = BpfProg::new(&insns) {
                let mut pool = ferronet_core::Pool::default();
                let p = pool.from_slice(&bytes);
                let _ = prog.run(&p, &Default::default());
                pool.put(p);
            }
        }
    }
}
