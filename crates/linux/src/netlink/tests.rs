//! Conversations with the requests of real programs; the answers' shapes were recorded from Linux 6.18.
#![allow(clippy::indexing_slicing, reason = "a test may fail by a bad index")]

use bytes::Bytes;
use ferronet_core::{Errno, NsId};
use proptest::prelude::*;

use super::codec::{AttrIter, Hdr, Msg, nlm_f};
use crate::kernel::{Caller, Config, Kernel, NsRef, Ready, RecvReq, SendMsg, SockId, af, sock_type};

const CREATE: u16 = nlm_f::REQUEST | nlm_f::ACK | nlm_f::CREATE | nlm_f::EXCL;
const DUMP: u16 = nlm_f::REQUEST | nlm_f::DUMP;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

struct Net {
    k: Kernel,
    ns: NsId,
    other: NsId,
}

impl Net {
    fn new() -> Net {
        let mut k = Kernel::new(Config { seed: 7, ..Config::default() });
        let ns = k.ns_create(100).expect("a namespace");
        let other = k.ns_create(200).expect("a namespace");
        Net { k, ns, other }
    }
    fn with<R>(&mut self, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> R) -> R {
        let mut resolve = |r: NsRef| (r == NsRef::Fd(5)).then_some(200);
        let mut c =
            Caller { ns: self.ns, pid: 42, uid: 0, caps: &crate::Caps::all, resolve_ns: &mut resolve };
        f(&mut self.k, &mut c)
    }
    fn open(&mut self, proto: i32) -> SockId {
        let s = self.with(|k, c| k.socket(c, af::NETLINK, sock_type::RAW, proto)).expect("a socket");
        // NETLINK_EXT_ACK.
        self.with(|k, c| k.setsockopt(c, s, (270, 11), &1_i32.to_ne_bytes())).expect("an option");
        s
    }
    fn send(&mut self, s: SockId, data: Vec<u8>) -> Result<usize, Errno> {
        let m = SendMsg { name: &[], data: Bytes::from(data), control: &[], flags: 0 };
        self.with(|k, c| k.sendmsg(c, s, m))
    }
    /// All messages that wait.
    fn recv(&mut self, s: SockId) -> Vec<(Hdr, Vec<u8>)> {
        let mut out = Vec::new();
        while let Ok(r) = self.k.recvmsg(s, RecvReq { len: 32768, control_len: 0, flags: 0 }) {
            let mut d = &r.data[..];
            while let Some(h) = Hdr::parse(d) {
                out.push((h, d[16..h.len as usize].to_vec()));
                d = d.get(h.len.next_multiple_of(4) as usize..).unwrap_or_default();
            }
        }
        out
    }
    fn ask(&mut self, s: SockId, m: Msg) -> Vec<(Hdr, Vec<u8>)> {
        self.send(s, m.finish()).expect("sent");
        self.recv(s)
    }
    /// The error of an acknowledgement and its text.
    fn errno(&mut self, s: SockId, m: Msg) -> (i32, String) {
        let a = self.ask(s, m);
        let (h, b) = a.last().expect("an acknowledgement");
        assert_eq!(h.ty, 2);
        let e = i32::from_ne_bytes(b[..4].try_into().expect("four bytes"));
        let inner = Hdr::parse(&b[4..]).expect("a header");
        let at = if h.flags & nlm_f::CAPPED != 0 { 20 } else { 4 + inner.len as usize };
        let tlvs = h.flags & nlm_f::ACK_TLVS != 0;
        let text = AttrIter::new(&b[at..], 0).filter(|_| tlvs).find(|a| a.ty == 1).map(|a| a.str());
        (e, text.unwrap_or_default())
    }
}

fn link(ty: u16, flags: u16, index: i32, up: bool) -> Msg {
    let mut m = Msg::new(ty, flags, 1, 0);
    m.raw(&[0; 4]);
    m.raw(&index.to_ne_bytes());
    m.raw(&u32::from(up).to_ne_bytes());
    m.raw(&u32::from(up).to_ne_bytes());
    m
}

fn veth(name: &str, peer: &str, fd: Option<i32>) -> Msg {
    let mut m = link(RTM_NEWLINK, CREATE, 0, false);
    m.str(3, name);
    let info = m.nest(18);
    m.str(1, "veth");
    let data = m.nest(2);
    let p = m.nest(1);
    m.raw(&[0; 16]);
    m.str(3, peer);
    if let Some(fd) = fd {
        m.i32(28, fd);
    }
    m.end(p);
    m.end(data);
    m.end(info);
    m
}

fn addr(index: u32, a: [u8; 4], len: u8) -> Msg {
    let mut m = Msg::new(RTM_NEWADDR, CREATE, 1, 0);
    m.raw(&[2, len, 0, 0]);
    m.raw(&index.to_ne_bytes());
    m.put(2, &a);
    m.put(1, &a);
    m
}

fn route(flags: u16, dst: [u8; 4], len: u8, gw: [u8; 4]) -> Msg {
    let mut m = Msg::new(RTM_NEWROUTE, flags, 1, 0);
    m.raw(&[2, len, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
    m.put(1, &dst);
    m.put(5, &gw);
    m
}

fn types(b: &[u8], header: usize) -> Vec<u16> {
    AttrIter::new(&b[header..], 0).map(|a| a.ty).collect()
}

/// A namespace with v0 (up, 10.1.1.1/24) whose peer is v1.
fn with_veth() -> (Net, SockId) {
    let mut n = Net::new();
    let s = n.open(0);
    assert_eq!(n.errno(s, veth("v0", "v1", None)).0, 0);
    for i in [1, 2, 3] {
        assert_eq!(n.errno(s, link(RTM_NEWLINK, nlm_f::REQUEST | nlm_f::ACK, i, true)).0, 0);
    }
    assert_eq!(n.errno(s, addr(3, [10, 1, 1, 1], 24)).0, 0);
    (n, s)
}

#[test]
fn links_have_the_attributes_of_the_kernel_in_its_order() {
    let (mut n, s) = with_veth();
    let got = n.ask(s, link(RTM_GETLINK, DUMP, 0, false));
    assert_eq!(got.iter().map(|m| m.0.ty).collect::<Vec<_>>(), [16, 16, 16, 3]);
    let common = [
        3, 13, 16, 17, 67, 4, 50, 51, 27, 30, 61, 31, 40, 41, 58, 63, 64, 59, 60, 66, 32, 33, 35, 47, 48, 68,
        69, 39, 1, 2, 23, 7, 43,
    ];
    let lo = [&common[..], &[6, 26, 14, 62, 65]].concat();
    assert_eq!(types(&got[0].1, 16), lo);
    let veth = [&common[..], &[18, 5, 6, 26, 14, 62, 65]].concat();
    assert_eq!(types(&got[1].1, 16), veth);
    // The size of lo's message on Linux 6.18, counters included.
    assert_eq!(got[0].0.len, 1468);
}

#[test]
fn a_peer_in_another_namespace_gets_a_number() {
    let mut n = Net::new();
    let s = n.open(0);
    assert_eq!(n.errno(s, veth("v0", "v1", Some(5))).0, 0);
    let got = n.ask(s, link(RTM_GETLINK, nlm_f::REQUEST, 2, false));
    let all: Vec<_> = AttrIter::new(&got[0].1[16..], 0).collect();
    let nsid = all.iter().find(|a| a.ty == 37).expect("IFLA_LINK_NETNSID");
    assert_eq!(nsid.i32(), 0);
    assert!(n.k.world.ns(n.other).expect("there").devs.by_name("v1").is_some());
    assert_eq!(n.errno(s, veth("v2", "v3", Some(9))).0, -9);
    // ip link add v4 netns OTHER type veth peer name v5: the described peer stays with the caller.
    let mut m = veth("v4", "v5", None);
    m.i32(28, 5);
    assert_eq!(n.errno(s, m).0, 0);
    let other = &n.k.world.ns(n.other).expect("there").devs;
    assert!(other.by_name("v4").is_some() && other.by_name("v5").is_none());
}

#[test]
fn errors_and_their_texts() {
    let (mut n, s) = with_veth();
    let is = |e: Errno, t: &str| (-i32::from(e.0), t.to_owned());
    let ack = nlm_f::REQUEST | nlm_f::ACK;
    assert_eq!(n.errno(s, link(RTM_NEWLINK, ack, 0, false)), is(Errno::ENODEV, ""));
    assert_eq!(n.errno(s, link(RTM_GETLINK, ack, 99, false)), is(Errno::ENODEV, ""));
    assert_eq!(n.errno(s, link(RTM_NEWLINK, CREATE, 0, false)), is(Errno::EOPNOTSUPP, "Unknown device type"));
    assert_eq!(n.errno(s, addr(3, [10, 1, 1, 1], 24)), is(Errno::EEXIST, "ipv4: Address already assigned"));
    assert_eq!(n.errno(s, addr(99, [10, 1, 1, 2], 24)), is(Errno::ENODEV, "ipv4: Device not found"));
    assert_eq!(n.errno(s, addr(3, [10, 1, 1, 2], 33)), is(Errno::EINVAL, "ipv4: Invalid prefix length"));
    let far = n.errno(s, route(CREATE, [10, 9, 0, 0], 16, [77, 1, 1, 1]));
    assert_eq!(far, is(Errno::ENETUNREACH, "Nexthop has invalid gateway"));
    let bits = n.errno(s, route(CREATE, [10, 9, 1, 0], 16, [10, 1, 1, 2]));
    assert_eq!(bits, is(Errno::EINVAL, "Invalid prefix for given prefix length"));
    assert_eq!(n.errno(s, route(CREATE, [10, 9, 0, 0], 16, [10, 1, 1, 2])), is(Errno(0), ""));
    assert_eq!(n.errno(s, route(CREATE, [10, 9, 0, 0], 16, [10, 1, 1, 2])), is(Errno::EEXIST, ""));
    let change = nlm_f::REQUEST | nlm_f::ACK | nlm_f::REPLACE;
    assert_eq!(n.errno(s, route(change, [10, 8, 0, 0], 16, [10, 1, 1, 2])), is(Errno::ENOENT, ""));
}

#[test]
fn dumps_of_addresses_and_routes() {
    let (mut n, s) = with_veth();
    let mut m = Msg::new(RTM_GETADDR, DUMP, 1, 0);
    m.raw(&[2, 0, 0, 0, 0, 0, 0, 0]);
    let got = n.ask(s, m);
    assert_eq!(types(&got[0].1, 8), [1, 2, 3, 8, 6]);
    assert_eq!(got.iter().filter(|m| m.0.ty == RTM_NEWADDR).count(), 2);
    let mut m = Msg::new(RTM_GETROUTE, DUMP, 1, 0);
    m.raw(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let got = n.ask(s, m);
    let tables: Vec<u8> = got.iter().filter(|m| m.0.ty == RTM_NEWROUTE).map(|m| m.1[4]).collect();
    // main: the subnet; local: three of v0's address, three of 127.0.0.1, without 10.1.1.0 since 5.x.
    assert_eq!(tables, [254, 255, 255, 255, 255, 255]);
    assert_eq!(types(&got[0].1, 12), [15, 1, 7, 4]);
}

#[test]
fn route_get_answers_as_a_cache_entry() {
    let (mut n, s) = with_veth();
    let mut m = Msg::new(RTM_GETROUTE, nlm_f::REQUEST, 1, 0);
    m.raw(&[2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    m.put(1, &[10, 1, 1, 2]);
    let got = n.ask(s, m);
    assert_eq!(got[0].1[..12], [2, 32, 0, 0, 254, 0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(types(&got[0].1, 12), [15, 1, 4, 7, 25, 12]);
}

#[test]
fn groups_hear_changes_and_others_do_not() {
    let (mut n, s) = with_veth();
    let l = n.open(0);
    // sockaddr_nl with group RTNLGRP_IPV4_IFADDR.
    let name = [&16_u16.to_ne_bytes()[..], &[0; 6], &0x10_u32.to_ne_bytes()].concat();
    n.with(|k, c| k.bind(c, l, &name)).expect("bound");
    assert_eq!(n.errno(s, addr(3, [10, 1, 2, 1], 24)).0, 0);
    let got = n.recv(l);
    assert_eq!(got.iter().map(|m| m.0.ty).collect::<Vec<_>>(), [RTM_NEWADDR]);
    assert_eq!(n.k.poll(l), Ready::OUT);
    // The second socket of the process has a port of its own.
    let port = u32::from_ne_bytes(n.k.getsockname(l).expect("a name")[4..8].try_into().expect("four bytes"));
    assert!(port > i32::MAX as u32, "negative ports follow the first: {port}");
}

#[test]
fn big_dumps_come_in_parts_and_short_buffers_say_so() {
    let (mut n, s) = with_veth();
    for i in 0..200_u8 {
        assert_eq!(n.errno(s, addr(3, [10, 2, i, 1], 24)).0, 0);
    }
    let mut m = Msg::new(RTM_GETADDR, DUMP, 1, 0);
    m.raw(&[2, 0, 0, 0, 0, 0, 0, 0]);
    // A socket that never read: its first part is NLMSG_GOODSIZE at most.
    let s = n.open(0);
    n.send(s, m.finish()).expect("sent");
    let peek = RecvReq { len: 0, control_len: 0, flags: 0x22 };
    let first = n.k.recvmsg(s, peek).expect("a part");
    assert!(first.len <= 3776 && first.flags & 0x20 != 0);
    let got = n.recv(s);
    assert_eq!(got.iter().filter(|m| m.0.ty == RTM_NEWADDR).count(), 202);
    assert_eq!(got.last().map(|m| m.0.ty), Some(3));
}

#[test]
fn programs_without_privilege_only_look() {
    let mut n = Net::new();
    let s = n.open(0);
    let mut resolve = |_: NsRef| None;
    let mut c = Caller { ns: n.ns, pid: 42, uid: 1000, caps: &crate::Caps::empty, resolve_ns: &mut resolve };
    let m = veth("v0", "v1", None).finish();
    n.k.sendmsg(&mut c, s, SendMsg { name: &[], data: m.into(), control: &[], flags: 0 }).expect("sent");
    let got = n.recv(s);
    assert_eq!(got[0].1[..4], (-1_i32).to_ne_bytes());
}

#[test]
fn unknown_protocols_and_families() {
    let mut n = Net::new();
    let audit = n.with(|k, c| k.socket(c, af::NETLINK, sock_type::RAW, 9));
    assert_eq!(audit, Err(Errno::EPROTONOSUPPORT));
    let g = n.open(16);
    let mut m = Msg::new(16, nlm_f::REQUEST, 1, 0);
    m.raw(&[3, 1, 0, 0]);
    m.str(2, "ethtool");
    assert_eq!(n.errno(g, m).0, -2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever a program sends, the kernel answers or is silent, and never panics.
    #[test]
    fn any_bytes_are_survived(
        proto in prop_oneof![Just(0_i32), Just(4), Just(16)],
        ty in 16_u16..124,
        flags in any::<u16>(),
        body in proptest::collection::vec(any::<u8>(), 0..160),
        family in prop_oneof![Just(0_u8), Just(2), Just(10)],
    ) {
        let mut n = Net::new();
        let s = n.open(proto);
        let mut m = Msg::new(ty, flags | nlm_f::REQUEST, 1, 0);
        m.raw(&[family]);
        m.raw(&body);
        let _ = n.send(s, m.finish());
        let _ = n.send(s, body);
        let _ = n.recv(s);
        n.k.run(1000);
    }
}
