//! Messages, control data, the error queue, ioctls.

use super::*;

/// Control messages as (level, type, data).
fn cmsgs(mut b: &[u8]) -> Vec<(i32, i32, Vec<u8>)> {
    let mut v = Vec::new();
    while b.len() >= 16 {
        let len = u64::from_ne_bytes(b[..8].try_into().unwrap()) as usize;
        let word = |at: usize| i32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
        v.push((word(8), word(12), b[16..len].to_vec()));
        b = b.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    v
}

fn cmsg(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut v = ((16 + data.len()) as u64).to_ne_bytes().to_vec();
    v.extend_from_slice(&level.to_ne_bytes());
    v.extend_from_slice(&kind.to_ne_bytes());
    v.extend_from_slice(data);
    v.resize(v.len().next_multiple_of(8), 0);
    v
}

#[test]
fn udp_with_control_messages() {
    let mut l = Lab::new();
    let (a, b) = (l.a, l.b);
    let s = l.socket(b, 2, 2, 0).unwrap();
    l.bind(s, &sin("0.0.0.0", 5000)).unwrap();
    for (level, name) in [(0, 8), (0, 12), (0, 13), (1, 35), (1, 40)] {
        l.on(s, level, name);
    }
    let c = l.socket(a, 2, 2, 17).unwrap();
    let ttl = [cmsg(0, 2, &9i32.to_ne_bytes()), cmsg(0, 1, &[0x10])].concat();
    assert_eq!(l.send(c, &sin("10.0.0.2", 5000), b"hello", &ttl), Ok(5));
    let mut events = Vec::new();
    l.k.take_events(&mut events);
    assert!(events.contains(&(s, Ready::IN)), "{events:?}");
    assert_eq!(l.k.poll(s), Ready::IN | Ready::OUT);
    let r = l.recv(s, 0).unwrap();
    let port = l.k.getsockname(c).unwrap()[2..4].to_vec();
    assert_eq!((&r.data[..], &r.name[2..4], &r.name[4..8]), (&b"hello"[..], &port[..], &[10, 0, 0, 1][..]));
    let mut info = 2i32.to_ne_bytes().to_vec();
    info.extend_from_slice(&[10, 0, 0, 2, 10, 0, 0, 2]);
    let mut stamp = 1_700_000_000u64.to_ne_bytes().to_vec();
    stamp.extend_from_slice(&5_000_000u64.to_ne_bytes());
    let want = [(1, 35, stamp), (0, 8, info), (0, 2, 9i32.to_ne_bytes().to_vec()), (0, 1, vec![0x10])];
    assert_eq!(cmsgs(&r.control), want);
    assert_eq!(l.recv(s, 0).unwrap_err(), Errno::EAGAIN);
    // A small room: what fits, and MSG_CTRUNC.
    l.send(c, &sin("10.0.0.2", 5000), b"again", &[]).unwrap();
    let r = l.k.recvmsg(s, RecvReq { len: 2, control_len: 20, flags: 0 }).unwrap();
    assert_eq!((r.flags, r.data.len(), r.len, r.control.len()), (0x20 | 8, 2, 5, 20));
}

#[test]
fn bad_control_messages_are_refused() {
    let mut l = Lab::new();
    let a = l.a;
    let c = l.socket(a, 2, 2, 17).unwrap();
    let to = sin("10.0.0.2", 5000);
    for (bad, e) in [
        (cmsg(0, 2, &0i32.to_ne_bytes()), Errno::EINVAL),
        (cmsg(0, 99, &[0; 4]), Errno::EINVAL),
        (cmsg(1, 99, &[0; 4]), Errno::EINVAL),
        (cmsg(17, 103, &[0; 4]), Errno::EINVAL),
        (vec![255; 24], Errno::EINVAL),
    ] {
        assert_eq!(l.send(c, &to, b"x", &bad), Err(e));
    }
    assert_eq!(l.send(c, &to[..8], b"x", &[]), Err(Errno::EINVAL));
    assert_eq!(l.send(c, &sin6("::1", 1), b"x", &[]), Err(Errno::EAFNOSUPPORT));
    assert_eq!(l.send(c, &sin("10.0.0.2", 0), b"x", &[]), Err(Errno::EINVAL));
}

#[test]
fn refused_datagram_shows_in_every_way() {
    let mut l = Lab::new();
    let a = l.a;
    let c = l.socket(a, 2, 2, 17).unwrap();
    l.connect(c, &sin("10.0.0.2", 9)).unwrap();
    l.send(c, &[], b"x", &[]).unwrap();
    assert!(l.k.poll(c).contains(Ready::ERR));
    assert_eq!(l.k.getsockopt(c, 1, 4, 4).unwrap(), 111i32.to_ne_bytes());
    assert_eq!(l.k.getsockopt(c, 1, 4, 4).unwrap(), [0; 4]);
    l.on(c, 0, 11);
    l.send(c, &[], b"data", &[]).unwrap();
    let r = l.recv(c, 0x2000).unwrap();
    assert_eq!((&r.data[..], r.flags, r.name), (&b"data"[..], 0x2000, sin("10.0.0.2", 9)));
    let m = cmsgs(&r.control);
    assert_eq!((m[0].0, m[0].1), (0, 11));
    // errno, origin ICMP, type 3 code 3, then the offender.
    assert_eq!(m[0].2[..8], [111, 0, 0, 0, 2, 3, 3, 0]);
    assert_eq!(m[0].2[16..], sin("10.0.0.2", 0));
    assert_eq!(l.recv(c, 0x2000).unwrap_err(), Errno::EAGAIN);
    // Dissolve the association: no peer, no port.
    l.connect(c, &[0; 16]).unwrap();
    assert_eq!(l.k.getpeername(c).unwrap_err(), Errno::ENOTCONN);
    assert_eq!(l.k.getsockname(c).unwrap(), sin("0.0.0.0", 0));
}

#[test]
fn ping_over_raw_and_the_errno_of_the_ping_socket() {
    let mut l = Lab::new();
    let a = l.a;
    assert_eq!(l.socket(a, 2, 2, 1).unwrap_err(), Errno::EACCES, "ping_group_range is empty by default");
    let s = l.socket(a, 2, 3, 1).unwrap();
    // ICMP_FILTER: only echo replies.
    l.set(s, 255, 1, &(!1u32).to_ne_bytes()).unwrap();
    l.on(s, 0, 12);
    let echo = b"\x08\x00\xf7\xfe\x00\x01\x00\x00";
    assert_eq!(l.send(s, &sin("10.0.0.2", 0), echo, &[]), Ok(8));
    let r = l.recv(s, 0).unwrap();
    assert_eq!((r.data.len(), r.data[20], &r.name[..]), (28, 0, &sin("10.0.0.2", 0)[..]));
    assert_eq!(cmsgs(&r.control), [(0, 2, 64i32.to_ne_bytes().to_vec())]);
    l.k.world.ns_mut(a).unwrap().env.sysctl.write(ferronet_core::Sysctl::PingGroupRange, b"0 10").unwrap();
    let p = l.socket(a, 2, 2, 1).unwrap();
    assert_eq!(l.send(p, &sin("10.0.0.2", 0), echo, &[]), Ok(8));
    assert_eq!(l.recv(p, 0).unwrap().data[0], 0);
}

#[test]
fn socket_refuses_what_linux_refuses() {
    let mut l = Lab::new();
    let a = l.a;
    for (f, t, p, e) in [
        (2, 2, 6, Errno::EPROTONOSUPPORT),
        (2, 1, 17, Errno::EPROTONOSUPPORT),
        (2, 3, 0, Errno::EPROTONOSUPPORT),
        (2, 5, 0, Errno::ESOCKTNOSUPPORT),
        (2, 1, -1, Errno::EINVAL),
        (2, 1, 300, Errno::EINVAL),
        (99, 1, 0, Errno::EAFNOSUPPORT),
        (10, 2, 1, Errno::EPROTONOSUPPORT),
    ] {
        assert_eq!(l.socket(a, f, t, p).unwrap_err(), e, "{f} {t} {p}");
    }
    let mut f = |_| None;
    let mut c = Caller { uid: 1000, caps: &crate::Caps::empty, ..caller(a, &mut f) };
    assert_eq!(l.k.socket(&mut c, 2, 3, 1).unwrap_err(), Errno::EPERM);
    assert_eq!(l.k.socket(&mut c, 17, 3, 0).unwrap_err(), Errno::EPERM);
    let s = l.k.socket(&mut c, 2, 1, 0).unwrap();
    assert_eq!(l.k.bind(&mut c, s, &sin("0.0.0.0", 80)), Err(Errno::EACCES));
}

/// Each capability opens what it is for and nothing else, whoever the user is.
#[test]
fn capabilities_not_users_decide() {
    use crate::Caps;
    let mut l = Lab::new();
    let a = l.a;
    let mut ask = |uid: u32, caps: Caps| {
        let mut f = |_| None;
        let caps = move || caps;
        let mut c = Caller { uid, caps: &caps, ..caller(a, &mut f) };
        let raw = l.k.socket(&mut c, 2, 3, 1).map(drop);
        let udp = l.k.socket(&mut c, 2, 2, 0).unwrap();
        let mark = l.k.setsockopt(&mut c, udp, (1, 36), &5u32.to_ne_bytes());
        let force = l.k.setsockopt(&mut c, udp, (1, 33), &5u32.to_ne_bytes());
        let bound = l.k.bind(&mut c, udp, &sin("0.0.0.0", 80));
        l.k.close(udp);
        [raw, mark, force, bound].map(|r| r.err())
    };
    let (perm, access) = (Some(Errno::EPERM), Some(Errno::EACCES));
    for uid in [0, 1000] {
        assert_eq!(ask(uid, Caps::empty()), [perm, perm, perm, access]);
        assert_eq!(ask(uid, Caps::NET_RAW), [None, None, perm, access]);
        assert_eq!(ask(uid, Caps::NET_ADMIN), [perm, None, None, access]);
        assert_eq!(ask(uid, Caps::NET_BIND_SERVICE), [perm, perm, perm, None]);
    }
}

#[test]
fn interface_requests() {
    let mut l = Lab::new();
    let a = l.a;
    let s = l.socket(a, 2, 2, 0).unwrap();
    let req = |name: &str, union: &[u8]| {
        let mut b = [0u8; 40];
        b[..name.len()].copy_from_slice(name.as_bytes());
        b[16..16 + union.len()].copy_from_slice(union);
        b
    };
    let conf = l.ioctl(s, 0x8912, &4096i32.to_ne_bytes()).unwrap();
    assert_eq!(
        (conf.len(), &conf[..3], &conf[40..43], &conf[60..64]),
        (80, &b"lo\0"[..], &b"v0\0"[..], &[10, 0, 0, 1][..])
    );
    let i = l.ioctl(s, 0x8933, &req("v0", &[])).unwrap();
    assert_eq!(i[16..20], 2i32.to_ne_bytes());
    assert_eq!(&l.ioctl(s, 0x8910, &req("", &2i32.to_ne_bytes())).unwrap()[..3], b"v0\0");
    assert_eq!(l.ioctl(s, 0x8933, &req("nope", &[])).unwrap_err(), Errno::ENODEV);
    assert_eq!(l.ioctl(s, 0x8913, &req("v0", &[])).unwrap()[16..18], 0x1043u16.to_ne_bytes());
    assert_eq!(l.ioctl(s, 0x891b, &req("v0", &[])).unwrap()[20..24], [255, 255, 255, 0]);
    assert_eq!(l.ioctl(s, 0x8921, &req("lo", &[])).unwrap()[16..20], 65536i32.to_ne_bytes());
    assert_eq!(l.ioctl(s, 0x8927, &req("lo", &[])).unwrap()[16..18], 772u16.to_ne_bytes());
    // ETHTOOL_GLINK is answered, ETHTOOL_GSET is not.
    let ethtool = |cmd: u32| [req("lo", &[]).to_vec(), cmd.to_ne_bytes().to_vec(), vec![0; 4]].concat();
    assert_eq!(l.ioctl(s, 0x8946, &ethtool(1)).unwrap_err(), Errno::EOPNOTSUPP);
    assert_eq!(l.ioctl(s, 0x8946, &ethtool(10)).unwrap()[..4], 10u32.to_ne_bytes());
    assert_eq!(l.ioctl(s, 0x1234, &[0; 4]).unwrap_err(), Errno::ENOTTY);
    // ifconfig v0:1 172.16.5.4 netmask 255.255.255.0
    l.ioctl(s, 0x8916, &req("v0:1", &sin("172.16.5.4", 0))).unwrap();
    l.ioctl(s, 0x891c, &req("v0:1", &sin("255.255.255.0", 0))).unwrap();
    assert_eq!(l.ioctl(s, 0x8915, &req("v0:1", &[])).unwrap()[20..24], [172, 16, 5, 4]);
    assert_eq!(l.ioctl(s, 0x8919, &req("v0:1", &[])).unwrap()[20..24], [172, 16, 5, 255]);
    l.ioctl(s, 0x8914, &req("v0", &0u16.to_ne_bytes())).unwrap();
    // dev_change_flags takes MULTICAST from the request; BROADCAST is the device's own.
    assert_eq!(l.ioctl(s, 0x8913, &req("v0", &[])).unwrap()[16..18], 0x0002u16.to_ne_bytes());
    // Queue lengths and timestamps.
    l.bind(s, &sin("127.0.0.1", 7)).unwrap();
    assert_eq!(l.ioctl(s, 0x8906, &[0; 4]).unwrap_err(), Errno::ENOENT);
    l.send(s, &sin("127.0.0.1", 7), b"12345", &[]).unwrap();
    assert_eq!(l.ioctl(s, 0x541b, &[0; 4]).unwrap(), 5i32.to_ne_bytes());
    l.recv(s, 0).unwrap();
    assert_eq!(l.ioctl(s, 0x8906, &[0; 4]).unwrap()[..8], 1_700_000_000u64.to_ne_bytes());
}

#[test]
fn packet_socket_with_auxdata() {
    let mut l = Lab::new();
    let (a, b) = (l.a, l.b);
    let s = l.socket(b, 17, 3, 0x0300).unwrap();
    let ll = super::super::message::print_ll(3, IfIndex(2), 0, 0, &[]);
    l.bind(s, &ll).unwrap();
    l.on(s, 263, 8);
    let c = l.socket(a, 2, 2, 0).unwrap();
    l.send(c, &sin("10.0.0.2", 9), b"hello", &[]).unwrap();
    let arp = loop {
        // IPv6 talks too.
        let r = l.recv(s, 0).unwrap();
        if r.data[12..14] == [8, 6] {
            break r;
        }
    };
    assert_eq!((arp.len, &arp.data[12..14], arp.name.len(), arp.name[10]), (42, &[8, 6][..], 20, 1));
    let m = cmsgs(&arp.control);
    assert_eq!((m[0].0, m[0].1, m[0].2.len(), m[0].2[4]), (263, 8, 20, 42));
    // A frame of our own, and the counters.
    let frame = b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5payload";
    assert_eq!(l.send(s, &[], frame, &[]), Ok(21));
    let stats = l.k.getsockopt(s, 263, 6, 8).unwrap();
    let seen = u32::from_ne_bytes(stats[..4].try_into().unwrap());
    assert!(seen >= 4, "ARP both ways, the datagram, the ICMP error: {seen}");
    assert_eq!(l.k.getsockopt(s, 263, 6, 8).unwrap(), [0; 8], "reading them resets them");
}

#[test]
fn udp_over_ipv6_loopback_and_mapped() {
    let mut l = Lab::new();
    let a = l.a;
    let s = l.socket(a, 10, 2, 0).unwrap();
    l.bind(s, &sin6("::", 6000)).unwrap();
    for (level, name) in [(41, 49), (41, 51), (41, 66)] {
        l.on(s, level, name);
    }
    let c = l.socket(a, 10, 2, 0).unwrap();
    assert_eq!(l.send(c, &sin6("::1", 6000), b"six", &[]), Ok(3));
    let r = l.recv(s, 0).unwrap();
    assert_eq!((&r.data[..], &r.name[8..24]), (&b"six"[..], &sin6("::1", 0)[8..24]));
    let kinds: Vec<_> = cmsgs(&r.control).iter().map(|m| (m.0, m.1, m.2.len())).collect();
    assert_eq!(kinds, [(41, 50, 20), (41, 52, 4), (41, 67, 4)]);
    let four = l.socket(a, 2, 2, 0).unwrap();
    l.send(four, &sin("127.0.0.1", 6000), b"four", &[]).unwrap();
    let r = l.recv(s, 0).unwrap();
    assert_eq!((&r.data[..], &r.name[8..24]), (&b"four"[..], &sin6("::ffff:127.0.0.1", 0)[8..24]));
    assert_eq!(cmsgs(&r.control).len(), 1, "the destination, mapped");
    // Nobody there.
    l.connect(c, &sin6("::1", 6001)).unwrap();
    l.send(c, &[], b"x", &[]).unwrap();
    assert_eq!(l.recv(c, 0).unwrap_err(), Errno::ECONNREFUSED);
}

#[test]
fn tcp_between_namespaces_with_info() {
    let mut l = Lab::new();
    let (a, b) = (l.a, l.b);
    let s = l.socket(b, 2, 1, 0).unwrap();
    l.bind(s, &sin("0.0.0.0", 80)).unwrap();
    l.k.listen(s, 5).unwrap();
    let c = l.socket(a, 2, 1, 0).unwrap();
    l.on(c, 6, 1);
    assert_eq!(l.connect(c, &sin("10.0.0.2", 80)), Err(Errno::EINPROGRESS));
    l.run();
    let (n, peer) = l.k.accept(s).unwrap();
    assert_eq!(peer, l.k.getsockname(c).unwrap());
    let info = l.k.getsockopt(c, 6, 11, 1000).unwrap();
    assert_eq!((info.len(), info[0]), (280, 1));
    assert_eq!(l.k.getsockopt(c, 6, 1, 4).unwrap(), 1i32.to_ne_bytes());
    assert_eq!(l.k.getsockopt(c, 6, 2, 4).unwrap(), 1448i32.to_ne_bytes());
    l.set(n, 1, 8, &8192i32.to_ne_bytes()).unwrap();
    assert_eq!(l.k.getsockopt(n, 1, 8, 4).unwrap(), 16384i32.to_ne_bytes());
    // Corked data waits until the cork is out.
    l.on(c, 6, 3);
    l.send(c, &[], b"abc", &[]).unwrap();
    assert_eq!(l.ioctl(n, 0x541b, &[0; 4]).unwrap(), [0; 4]);
    l.set(c, 6, 3, &[0; 4]).unwrap();
    l.run();
    assert_eq!(l.ioctl(n, 0x541b, &[0; 4]).unwrap(), 3i32.to_ne_bytes());
    l.k.ns_destroy(b);
    assert_eq!(l.k.sock_info(n), None);
}

#[test]
fn peeking_goes_on_where_it_ended() {
    const SO_PEEK_OFF: i32 = 42;
    const MSG_PEEK: i32 = 2;
    const MSG_TRUNC: i32 = 0x20;
    let mut l = Lab::new();
    let a = l.a;
    let s = l.socket(a, 2, 2, 0).unwrap();
    l.bind(s, &sin("127.0.0.1", 7)).unwrap();
    l.set(s, 1, SO_PEEK_OFF, &0i32.to_ne_bytes()).unwrap();
    l.send(s, &sin("127.0.0.1", 7), b"abcdef", &[]).unwrap();
    l.send(s, &sin("127.0.0.1", 7), b"ghi", &[]).unwrap();
    let off = |l: &mut Lab| {
        i32::from_ne_bytes(l.k.getsockopt(s, 1, SO_PEEK_OFF, 4).unwrap()[..].try_into().unwrap())
    };
    let recv = |l: &mut Lab, len, flags| {
        l.k.recvmsg(s, RecvReq { len, control_len: 0, flags })
            .map(|r| (r.data.to_vec(), r.flags & MSG_TRUNC != 0))
    };
    assert_eq!(recv(&mut l, 2, MSG_PEEK), Ok((b"ab".to_vec(), true)));
    assert_eq!(off(&mut l), 2);
    assert_eq!(recv(&mut l, 2, MSG_PEEK), Ok((b"cd".to_vec(), true)));
    assert_eq!(recv(&mut l, 9, MSG_PEEK), Ok((b"ef".to_vec(), false)));
    assert_eq!(recv(&mut l, 9, MSG_PEEK), Ok((b"ghi".to_vec(), false)), "the next message");
    assert_eq!(off(&mut l), 9);
    assert_eq!(recv(&mut l, 9, MSG_PEEK), Err(Errno::EAGAIN));
    // What is read lies no more before the offset.
    assert_eq!(recv(&mut l, 3, 0), Ok((b"abc".to_vec(), true)));
    assert_eq!(off(&mut l), 6, "what was copied counts, not what was lost");
    assert_eq!(recv(&mut l, 9, 0), Ok((b"ghi".to_vec(), false)));
    assert_eq!(off(&mut l), 3);
}
