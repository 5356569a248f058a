//! UDP between two namespaces.

mod pktinfo;

use core::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ferronet_core::{Errno, IfIndex, Mib};

use super::*;
use crate::sock::tests::{A, ANY, B, Two, to};
use crate::sock::{Proto, SockFlags, SockKey, close, datagram, mcast, poll, poll_bits, ports};

fn bind(t: &mut Two, n: ferronet_core::NsId, addr: IpAddr, port: u16) -> SockKey {
    let k = t.udp(n);
    ports::bind(t.ns(n), k, addr, port, true).unwrap();
    k
}

fn send(
    t: &mut Two,
    n: ferronet_core::NsId,
    k: SockKey,
    d: Option<Dest>,
    data: &'static [u8],
) -> Result<usize, Errno> {
    sendmsg(t.ns(n), k, d, Bytes::from_static(data), &MsgOpts::default())
}

#[test]
fn exchange_after_arp_resolution() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let s = bind(&mut t, b, ANY, 53);
    let c = t.udp(a);
    assert_eq!(send(&mut t, a, c, to(B, 53), b"ask"), Ok(3));
    assert_eq!(poll_bits(t.w.ns(b).unwrap(), s), poll::OUT);
    t.run();
    assert_eq!(poll_bits(t.w.ns(b).unwrap(), s), poll::OUT | poll::IN);
    let mut events = Vec::new();
    t.ns(b).socks.take_events(&mut |token, bits| events.push((token, bits)));
    assert_eq!(events, [(1, poll::IN)]);
    let (src, data) = datagram::recv(t.ns(b), s, false, |p, _| {
        let u = ferronet_wire::UdpHdr::view(p.transport()).unwrap();
        (u.source(), p.to_vec())
    })
    .unwrap()
    .unwrap();
    assert_eq!(data, b"ask");
    assert_eq!(src, t.ns(a).socks.common(c).unwrap().lport, "the port that was chosen");
    assert_eq!(send(&mut t, b, s, to(A, src), b"answer"), Ok(6));
    t.run();
    assert_eq!(t.recv(a, c).unwrap().unwrap(), b"answer");
    assert_eq!((t.mib(a, Mib::UdpOutDatagrams), t.mib(a, Mib::UdpInDatagrams)), (1, 1));
}

#[test]
fn port_unreachable_reaches_a_connected_socket_once() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let c = t.udp(a);
    connect(t.ns(a), c, &to(B, 9).unwrap()).unwrap();
    assert_eq!(t.ns(a).socks.common(c).unwrap().local, A);
    send(&mut t, a, c, None, b"x").unwrap();
    t.run();
    assert_eq!((t.mib(b, Mib::UdpNoPorts), t.mib(b, Mib::IcmpOutDestUnreachs)), (1, 1));
    assert_eq!(poll_bits(t.w.ns(a).unwrap(), c) & poll::ERR, poll::ERR);
    assert_eq!(t.recv(a, c), Err(Errno::ECONNREFUSED));
    assert_eq!(t.recv(a, c), Err(Errno::EAGAIN));
    // An unconnected socket learns nothing, unless it asks for the error queue.
    let u = t.udp(a);
    send(&mut t, a, u, to(B, 9), b"x").unwrap();
    t.run();
    assert_eq!(t.recv(a, u), Err(Errno::EAGAIN));
    t.ns(a).socks.common_mut(u).unwrap().flags |= SockFlags::RECVERR;
    send(&mut t, a, u, to(B, 9), b"data").unwrap();
    t.run();
    let e = t.ns(a).socks.common_mut(u).unwrap().rare().errq.pop().unwrap();
    assert_eq!(
        (e.errno, e.dest, e.offender, &e.data[..]),
        (Errno::ECONNREFUSED, (B, 9), Some(B), &b"data"[..])
    );
}

#[test]
fn flood_against_a_small_buffer_is_fully_accounted() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let s = bind(&mut t, b, B, 5000);
    t.ns(b).socks.common_mut(s).unwrap().rcvbuf = 2 * 4096;
    let c = t.udp(a);
    const SENT: u64 = 1000;
    for _ in 0..SENT {
        send(&mut t, a, c, to(B, 5000), &[7; 100]).unwrap();
        t.run();
    }
    let mut received = 0;
    while t.recv(b, s).is_ok() {
        received += 1;
    }
    // 8192 bytes of buffer, 832 for each datagram: as on Linux.
    assert_eq!(received, 9);
    let drops = u64::from(t.w.ns(b).unwrap().socks.socks[s].proto.rx().unwrap().drops);
    assert_eq!(SENT - received, drops);
    assert_eq!((t.mib(b, Mib::UdpRcvbufErrors), t.mib(b, Mib::UdpInErrors)), (drops, drops));
    assert_eq!(t.mib(b, Mib::UdpInDatagrams), received);
    assert_eq!(t.w.ns(b).unwrap().socks.socks[s].proto.rx().unwrap().rmem, 0);
}

#[test]
fn connected_beats_bound_beats_wildcard() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let reuse = |t: &mut Two, addr| {
        let k = t.udp(b);
        t.ns(b).socks.common_mut(k).unwrap().flags |= SockFlags::REUSEADDR;
        ports::bind(t.ns(b), k, addr, 7, true).unwrap();
        k
    };
    let (wild, specific, conn) = (reuse(&mut t, ANY), reuse(&mut t, B), reuse(&mut t, B));
    let c = bind(&mut t, a, A, 1000);
    connect(t.ns(b), conn, &to(A, 1000).unwrap()).unwrap();
    let who = |t: &mut Two| {
        send(t, a, c, to(B, 7), b"x").unwrap();
        t.run();
        [wild, specific, conn].iter().position(|k| t.recv(b, *k).is_ok())
    };
    assert_eq!(who(&mut t), Some(2));
    disconnect(t.ns(b), conn);
    close(t.ns(b), conn);
    assert_eq!(who(&mut t), Some(1));
    close(t.ns(b), specific);
    assert_eq!(who(&mut t), Some(0));
    close(t.ns(b), wild);
    assert_eq!(who(&mut t), None);
    assert!(t.ns(b).socks.udp.sorted().is_empty());
}

#[test]
fn reuseport_group_spreads_flows_and_keeps_each_on_one_member() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let group: Vec<SockKey> = (0..4)
        .map(|_| {
            let k = t.udp(b);
            t.ns(b).socks.common_mut(k).unwrap().flags |= SockFlags::REUSEPORT;
            ports::bind(t.ns(b), k, ANY, 443, true).unwrap();
            k
        })
        .collect();
    let mut seen = [0; 4];
    for port in 2000..2200 {
        let c = bind(&mut t, a, A, port);
        for _ in 0..2 {
            send(&mut t, a, c, to(B, 443), b"x").unwrap();
        }
        t.run();
        let got: Vec<usize> = (0..4).filter(|i| t.recv(b, group[*i]).is_ok()).collect();
        assert_eq!(got.len(), 1, "both datagrams of a flow reach one member");
        assert!(t.recv(b, group[got[0]]).is_ok());
        seen[got[0]] += 1;
        close(t.ns(a), c);
    }
    assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
}

#[test]
fn broadcast_needs_permission_and_reaches_all() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let all = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 255));
    let socks: Vec<SockKey> = (0..2)
        .map(|_| {
            let k = t.udp(b);
            t.ns(b).socks.common_mut(k).unwrap().flags |= SockFlags::REUSEADDR;
            ports::bind(t.ns(b), k, ANY, 67, true).unwrap();
            k
        })
        .collect();
    let c = t.udp(a);
    assert_eq!(send(&mut t, a, c, to(all, 67), b"x"), Err(Errno::EACCES));
    t.ns(a).socks.common_mut(c).unwrap().flags |= SockFlags::BROADCAST;
    send(&mut t, a, c, to(all, 67), b"x").unwrap();
    t.run();
    for k in socks {
        assert!(t.recv(b, k).is_ok());
    }
    send(&mut t, a, c, to(all, 68), b"x").unwrap();
    t.run();
    assert_eq!((t.mib(b, Mib::UdpIgnoredMulti), t.mib(b, Mib::UdpNoPorts)), (1, 0));
}

#[test]
fn multicast_reaches_members() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let group = IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3));
    let member = bind(&mut t, b, ANY, 5353);
    let dev = t.dev;
    let at = mcast::Which { group, dev, addr: Ipv4Addr::UNSPECIFIED };
    mcast::join(t.ns(b), member, &at).unwrap();
    assert_eq!(mcast::join(t.ns(b), member, &at), Err(Errno::EADDRINUSE));
    let c = t.udp(a);
    assert_eq!(send(&mut t, a, c, to(group, 5353), b"x"), Err(Errno::ENETUNREACH));
    t.ns(a).socks.common_mut(c).unwrap().rare().mc_index = IfIndex(2);
    send(&mut t, a, c, to(group, 5353), b"x").unwrap();
    t.run();
    assert!(t.recv(b, member).is_ok());
    mcast::leave(t.ns(b), member, &at).unwrap();
    send(&mut t, a, c, to(group, 5353), b"x").unwrap();
    t.run();
    assert_eq!(t.recv(b, member), Err(Errno::EAGAIN));
}

#[test]
fn sizes_segments_and_corking() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let s = bind(&mut t, b, B, 5000);
    let c = t.udp(a);
    assert_eq!(
        sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![0; 65508]), &MsgOpts::default()),
        Err(Errno::EMSGSIZE)
    );
    t.ns(a).socks.common_mut(c).unwrap().pmtudisc = crate::sock::common::pmtudisc::DO;
    assert_eq!(
        sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![0; 1473]), &MsgOpts::default()),
        Err(Errno::EMSGSIZE)
    );
    assert_eq!(sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![0; 1472]), &MsgOpts::default()), Ok(1472));
    t.run();
    assert_eq!(t.recv(b, s).unwrap().unwrap().len(), 1472);
    // UDP_SEGMENT: one call, three datagrams.
    let m = MsgOpts { gso_size: Some(1000), ..MsgOpts::default() };
    assert_eq!(sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![9; 2500]), &m), Ok(2500));
    let too_big = MsgOpts { gso_size: Some(1473), ..MsgOpts::default() };
    assert_eq!(sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![9; 2500]), &too_big), Err(Errno::EMSGSIZE));
    // One segment alone must fit, too; one that is shorter than its limit does.
    assert_eq!(sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![9; 1473]), &too_big), Err(Errno::EMSGSIZE));
    let many = MsgOpts { gso_size: Some(10), ..MsgOpts::default() };
    assert_eq!(sendmsg(t.ns(a), c, to(B, 5000), Bytes::from(vec![9; 1281]), &many), Err(Errno::EINVAL));
    t.run();
    let mut sizes = Vec::new();
    while let Ok(Some(d)) = t.recv(b, s) {
        sizes.push(d.len());
    }
    assert_eq!(sizes, [1000, 1000, 500]);
    // MSG_MORE: two calls, one datagram.
    let more = MsgOpts { more: true, ..MsgOpts::default() };
    assert_eq!(sendmsg(t.ns(a), c, to(B, 5000), Bytes::from_static(b"ab"), &more), Ok(2));
    assert_eq!(send(&mut t, a, c, to(B, 5000), b"cd"), Ok(2));
    t.run();
    assert_eq!(t.recv(b, s).unwrap().unwrap(), b"abcd");
}

#[test]
fn errors_of_sendmsg() {
    let mut t = Two::new();
    let a = t.a;
    let c = t.udp(a);
    assert_eq!(send(&mut t, a, c, None, b"x"), Err(Errno::EDESTADDRREQ));
    assert_eq!(send(&mut t, a, c, to(B, 0), b"x"), Err(Errno::EINVAL));
    let far = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(send(&mut t, a, c, to(far, 1), b"x"), Err(Errno::ENETUNREACH));
    assert_eq!(t.mib(a, Mib::IpOutNoRoutes), 1);
    assert!(matches!(t.ns(a).socks.socks[c].proto, Proto::Udp(_)));
}

#[test]
fn dual_stack_socket_speaks_ipv4() {
    let mut t = Two::new();
    let (a, b) = (t.a, t.b);
    let s = t.sock(b, 10, 17, Proto::Udp(Box::default()));
    ports::bind(t.ns(b), s, "::".parse().unwrap(), 4000, true).unwrap();
    let c = bind(&mut t, a, A, 4001);
    send(&mut t, a, c, to(B, 4000), b"hi").unwrap();
    t.run();
    assert_eq!(t.recv(b, s).unwrap().unwrap(), b"hi");
    assert_eq!(send(&mut t, b, s, to(A, 4001), b"ho"), Ok(2));
    t.run();
    assert_eq!(t.recv(a, c).unwrap().unwrap(), b"ho");
    t.ns(b).socks.common_mut(s).unwrap().flags |= SockFlags::V6ONLY;
    assert_eq!(send(&mut t, b, s, to(A, 4001), b"ho"), Err(Errno::ENETUNREACH));
}

#[test]
fn filters_by_source_decide_what_a_member_receives() {
    use mcast::SourceOp::{Block, Join, Leave, Unblock};
    let mut t = Two::new();
    let (a, b, dev) = (t.a, t.b, t.dev);
    let other: IpAddr = "10.0.0.9".parse().unwrap();
    let group = IpAddr::V4(Ipv4Addr::new(232, 1, 2, 3));
    let at = mcast::Which { group, dev, addr: Ipv4Addr::UNSPECIFIED };
    let r = bind(&mut t, b, ANY, 5353);
    // A second member of everything keeps the device in the group.
    let all = bind(&mut t, b, ANY, 5354);
    mcast::join(t.ns(b), all, &at).unwrap();
    let c = t.udp(a);
    t.ns(a).socks.common_mut(c).unwrap().rare().mc_index = IfIndex(2);
    let reached = |t: &mut Two| {
        send(t, a, c, to(group, 5353), b"x").unwrap();
        t.run();
        t.recv(b, r).is_ok()
    };
    let op = |t: &mut Two, source, o| mcast::source(t.ns(b), r, &at, source, o);
    assert_eq!(op(&mut t, other, Join), Ok(()));
    assert!(!reached(&mut t), "another source is wanted");
    assert_eq!(op(&mut t, A, Join), Ok(()));
    assert!(reached(&mut t));
    assert_eq!(op(&mut t, A, Join), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(op(&mut t, A, Block), Err(Errno::EINVAL), "the filter includes");
    assert_eq!(op(&mut t, A, Leave), Ok(()));
    assert!(!reached(&mut t));
    // The last source is the membership; then IP_MULTICAST_ALL decides.
    assert_eq!(op(&mut t, other, Leave), Ok(()));
    assert_eq!(mcast::leave(t.ns(b), r, &at), Err(Errno::EADDRNOTAVAIL));
    assert!(reached(&mut t));
    mcast::join(t.ns(b), r, &at).unwrap();
    assert_eq!(op(&mut t, A, Block), Ok(()));
    assert!(!reached(&mut t));
    assert_eq!(op(&mut t, A, Unblock), Ok(()));
    assert!(reached(&mut t));
    for i in 0..10 {
        assert_eq!(op(&mut t, IpAddr::from([1, 1, 1, i]), Block), Ok(()));
    }
    assert_eq!(op(&mut t, other, Block), Err(Errno::ENOBUFS), "igmp_max_msf");
    mcast::leave(t.ns(b), r, &at).unwrap();
    mcast::leave(t.ns(b), all, &at).unwrap();
    assert!(t.ns(b).devs.get(dev).unwrap().mc_sources.is_empty());
}

#[test]
fn dontroute_reaches_the_link_alone() {
    use crate::dev::scope;
    use crate::fib::{FibEntry, How, Metrics, NextHop, RouteType, proto, table_id};
    let mut t = Two::new();
    let a = t.a;
    let far: IpAddr = "10.9.0.1".parse().unwrap();
    let on_link: IpAddr = "10.8.0.1".parse().unwrap();
    for (prefix, gw) in [("10.9.0.0", Some(B)), ("10.8.0.0", None)] {
        let e = FibEntry {
            dst: prefix.parse().unwrap(),
            dst_len: 16,
            tos: 0,
            table: table_id::MAIN,
            priority: 0,
            protocol: proto::BOOT,
            scope: if gw.is_some() { scope::UNIVERSE } else { scope::LINK },
            kind: RouteType::Unicast,
            prefsrc: None,
            nexthops: smallvec::smallvec![NextHop { gw, dev: IfIndex(2), weight: 0, flags: 0, realm: 0 }],
            metrics: Metrics::default(),
            pref: 0,
            expires: None,
        };
        let n = t.ns(a);
        n.fib.insert(&mut n.notify, e, How::ADD).unwrap();
    }
    let c = t.udp(a);
    let once = MsgOpts { dontroute: true, ..MsgOpts::default() };
    let x = || Bytes::from_static(b"\x08\0\0\0\0\0\0\0");
    assert_eq!(sendmsg(t.ns(a), c, to(far, 9), x(), &MsgOpts::default()), Ok(8));
    assert_eq!(sendmsg(t.ns(a), c, to(far, 9), x(), &once), Err(Errno::ENETUNREACH));
    assert_eq!(sendmsg(t.ns(a), c, to(on_link, 9), x(), &once), Ok(8));
    assert_eq!(sendmsg(t.ns(a), c, to(B, 9), x(), &once), Ok(8));
    t.ns(a).socks.common_mut(c).unwrap().flags |= SockFlags::DONTROUTE;
    assert_eq!(send(&mut t, a, c, to(far, 9), b"x"), Err(Errno::ENETUNREACH));
    assert_eq!(connect(t.ns(a), c, &to(far, 9).unwrap()), Err(Errno::ENETUNREACH));
    let p = t.sock(a, 2, 1, Proto::Ping(Box::default()));
    assert_eq!(crate::sock::ping::sendmsg(t.ns(a), p, to(far, 0), x(), &once), Err(Errno::ENETUNREACH));
    let r = t.sock(a, 2, 112, Proto::Raw(Box::default()));
    assert_eq!(crate::sock::raw::sendmsg(t.ns(a), r, to(far, 0), x(), &once), Err(Errno::ENETUNREACH));
}
