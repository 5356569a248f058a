//! From which addresses a program may send. The answers are those of Linux 6.18 (faults 11-pktinfo.py).

use super::*;
use crate::dev::addr_ops::inet_insert_ifa;
use crate::dev::{IfAddr, ifa_f};
use crate::sock::raw;

const SPOOFED: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

fn v6(a: &str) -> IpAddr {
    IpAddr::V6(a.parse().unwrap())
}

/// `fd00::1` (and `fd00::66`, tentative) and `fe80::1` in a; `fd00::2` in b.
fn with_v6(t: &mut Two) {
    let (a, b) = (t.a, t.b);
    for (n, ip, flags) in [
        (a, "fd00::1", ifa_f::NODAD),
        (a, "fe80::aa", ifa_f::NODAD),
        (a, "fd00::66", 0),
        (b, "fd00::2", ifa_f::NODAD),
    ] {
        let dev = if n == a { IfIndex(2) } else { t.dev };
        let addr = IfAddr { flags, ..IfAddr::new(v6(ip), 64) };
        crate::ipv6::addrconf::inet6_addr_add(t.ns(n), dev, addr).unwrap();
    }
}

fn from(t: &mut Two, k: SockKey, dst: IpAddr, saddr: IpAddr, oif: u32) -> Result<usize, Errno> {
    let m = MsgOpts { saddr: Some(saddr), oif: IfIndex(oif), pktinfo: dst.is_ipv6(), ..MsgOpts::default() };
    let a = t.a;
    let r = sendmsg(t.ns(a), k, to(dst, 9), Bytes::from_static(b"x"), &m);
    t.run();
    r
}

#[test]
fn ipv4_sources_are_own_addresses() {
    let mut t = Two::new();
    let a = t.a;
    let k = t.udp(a);
    let at = |b: [u8; 4]| IpAddr::V4(Ipv4Addr::from(b));
    for (source, oif, want) in [
        (A, 0, Ok(1)),
        (A, 2, Ok(1)),
        (ANY, 2, Ok(1)),
        (SPOOFED, 0, Err(Errno::ENETUNREACH)),
        (SPOOFED, 2, Err(Errno::ENETUNREACH)),
        (at([10, 0, 0, 255]), 0, Err(Errno::ENETUNREACH)),
        (at([127, 0, 0, 1]), 0, Err(Errno::EINVAL)),
        (at([224, 0, 0, 1]), 0, Err(Errno::EINVAL)),
        (at([255; 4]), 0, Err(Errno::EINVAL)),
        (at([0, 0, 0, 9]), 0, Err(Errno::ENETUNREACH)),
        (SPOOFED, 99, Err(Errno::ENETUNREACH)),
        (A, 99, Err(Errno::ENODEV)),
        (ANY, 99, Err(Errno::ENODEV)),
    ] {
        assert_eq!(from(&mut t, k, B, source, oif), want, "{source} {oif}");
    }
    // What is inside may speak from 127.0.0.1.
    assert_eq!(from(&mut t, k, at([127, 0, 0, 1]), at([127, 0, 0, 1]), 0), Ok(1));
    // Raw and ping sockets likewise.
    let r = t.sock(a, 2, 112, Proto::Raw(Box::default()));
    let m = MsgOpts { saddr: Some(SPOOFED), ..MsgOpts::default() };
    let data = || Bytes::from_static(b"\x08\0\0\0\0\0\0\0");
    assert_eq!(raw::sendmsg(t.ns(a), r, to(B, 0), data(), &m), Err(Errno::ENETUNREACH));
    let p = t.sock(a, 2, 1, Proto::Ping(Box::default()));
    let send = crate::sock::ping::sendmsg(t.ns(a), p, to(B, 0), data(), &m);
    assert_eq!(send, Err(Errno::ENETUNREACH));
    // Only IP_TRANSPARENT makes a foreign address a source; IP_FREEBIND is for bind(2) alone.
    t.ns(a).socks.common_mut(k).unwrap().flags |= SockFlags::FREEBIND;
    assert_eq!(from(&mut t, k, B, SPOOFED, 0), Err(Errno::ENETUNREACH));
    t.ns(a).socks.common_mut(k).unwrap().flags |= SockFlags::TRANSPARENT;
    assert_eq!(from(&mut t, k, B, SPOOFED, 0), Ok(1));
}

#[test]
fn an_address_that_was_taken_away_sends_no_more() {
    let mut t = Two::new();
    let a = t.a;
    let bound = bind(&mut t, a, A, 1000);
    let conn = t.udp(a);
    connect(t.ns(a), conn, &to(B, 9).unwrap()).unwrap();
    inet_insert_ifa(t.ns(a), IfIndex(2), IfAddr::new("10.0.0.3".parse().unwrap(), 24)).unwrap();
    crate::dev::addr_ops::inet_del_ifa(t.ns(a), IfIndex(2), A, Some(24)).unwrap();
    assert_eq!(send(&mut t, a, bound, to(B, 9), b"x"), Err(Errno::ENETUNREACH));
    assert_eq!(send(&mut t, a, conn, None, b"x"), Err(Errno::ENETUNREACH));
    assert_eq!(connect(t.ns(a), bound, &to(B, 9).unwrap()), Err(Errno::ENETUNREACH));
}

#[test]
fn ipv6_pktinfo_names_own_addresses_and_devices() {
    let mut t = Two::new();
    with_v6(&mut t);
    let a = t.a;
    let k = t.sock(a, 10, 17, Proto::Udp(Box::default()));
    let dst = v6("fd00::2");
    for (source, oif, want) in [
        ("fd00::1", 0, Ok(1)),
        ("fd00::1", 2, Ok(1)),
        ("fe80::aa", 2, Ok(1)),
        ("fe80::aa", 0, Err(Errno::EINVAL)),
        ("fe80::1", 2, Err(Errno::EINVAL)),
        ("fd99::1", 0, Err(Errno::EINVAL)),
        ("fd99::1", 2, Err(Errno::EINVAL)),
        ("ff02::1", 2, Err(Errno::EINVAL)),
        ("::ffff:10.0.0.1", 0, Err(Errno::EINVAL)),
        ("::1", 2, Err(Errno::EINVAL)),
        ("fd00::66", 0, Err(Errno::EINVAL)),
        ("fd00::1", 99, Err(Errno::ENODEV)),
    ] {
        assert_eq!(from(&mut t, k, dst, v6(source), oif), want, "{source} {oif}");
    }
    // Another device than the one the socket is bound to.
    t.ns(a).socks.common_mut(k).unwrap().bound_dev = IfIndex(2);
    let m = MsgOpts { oif: IfIndex::LO, pktinfo: true, ..MsgOpts::default() };
    let x = || Bytes::from_static(b"x");
    assert_eq!(sendmsg(t.ns(a), k, to(dst, 9), x(), &m), Err(Errno::EINVAL));
    t.ns(a).socks.common_mut(k).unwrap().flags |= SockFlags::FREEBIND;
    assert_eq!(from(&mut t, k, dst, v6("fd99::1"), 0), Ok(1), "ipv6_can_nonlocal_bind");
    // IPV6_PKTINFO as an option is not looked at, as on Linux.
    t.ns(a).socks.common_mut(k).unwrap().flags.remove(SockFlags::FREEBIND);
    let sticky = MsgOpts { saddr: Some(v6("fd99::1")), ..MsgOpts::default() };
    assert_eq!(sendmsg(t.ns(a), k, to(dst, 9), x(), &sticky), Ok(1));
    let r = t.sock(a, 10, 112, Proto::Raw(Box::default()));
    let m = MsgOpts { saddr: Some(v6("fd99::1")), pktinfo: true, ..MsgOpts::default() };
    assert_eq!(raw::sendmsg(t.ns(a), r, to(dst, 0), x(), &m), Err(Errno::EINVAL));
}
