//! The socket calls as programs make them, compared with what Linux answers.

use bytes::Bytes;
use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_stack::dev::IfAddr;
use ferronet_stack::dev::addr_ops::inet_insert_ifa;

use crate::kernel::{Caller, Config, Kernel, NsRef, Ready, Received, RecvReq, SendMsg, SockId};

mod ifreq;
mod messages;
mod options;
mod props;
mod segments;

/// A kernel with two namespaces, 10.0.0.1 and 10.0.0.2 on a veth pair.
struct Lab {
    k: Kernel,
    a: NsId,
    b: NsId,
}

fn caller<'a>(ns: NsId, f: &'a mut dyn FnMut(NsRef) -> Option<u64>) -> Caller<'a> {
    Caller { ns, pid: 1, uid: 0, caps: &crate::Caps::all, resolve_ns: f }
}

impl Lab {
    fn new() -> Lab {
        let mut k = Kernel::new(Config { seed: 3, wall_offset: 1_700_000_000_000_000_000, memory: 0 });
        let (a, b) = (k.ns_create(1).unwrap(), k.ns_create(2).unwrap());
        let spec = |n: &str| ferronet_stack::world::link::LinkSpec { name: n.into(), ..Default::default() };
        let (i, j) = k.world.link_add_veth(a, &spec("v0"), b, &spec("v1")).unwrap();
        for (n, d, ip) in [(a, i, "10.0.0.1"), (b, j, "10.0.0.2")] {
            k.world.link_set_up(n, IfIndex::LO, true).unwrap();
            k.world.link_set_up(n, d, true).unwrap();
            let addr = IfAddr::new(ip.parse().unwrap(), 24);
            inet_insert_ifa(k.world.ns_mut(n).unwrap(), d, addr).unwrap();
        }
        k.set_now(Instant::from_millis(5));
        Lab { k, a, b }
    }
    /// A namespace with `lo` only.
    fn empty(&mut self) -> NsId {
        if let Some(n) = self.k.ns_by_cookie(9) {
            return n;
        }
        let n = self.k.ns_create(9).unwrap();
        self.k.world.link_set_up(n, IfIndex::LO, true).unwrap();
        n
    }
    fn socket(&mut self, ns: NsId, family: i32, ty: i32, proto: i32) -> Result<SockId, Errno> {
        let mut f = |_| None;
        self.k.socket(&mut caller(ns, &mut f), family, ty, proto)
    }
    fn bind(&mut self, s: SockId, addr: &[u8]) -> Result<(), Errno> {
        let (mut f, ns) = (|_| None, self.a);
        self.k.bind(&mut caller(ns, &mut f), s, addr)
    }
    fn connect(&mut self, s: SockId, addr: &[u8]) -> Result<(), Errno> {
        let (mut f, ns) = (|_| None, self.a);
        self.k.connect(&mut caller(ns, &mut f), s, addr)
    }
    fn set(&mut self, s: SockId, level: i32, name: i32, val: &[u8]) -> Result<(), Errno> {
        let (mut f, ns) = (|_| None, self.a);
        self.k.setsockopt(&mut caller(ns, &mut f), s, (level, name), val)
    }
    fn on(&mut self, s: SockId, level: i32, name: i32) {
        self.set(s, level, name, &1i32.to_ne_bytes()).unwrap();
    }
    fn send(&mut self, s: SockId, name: &[u8], data: &'static [u8], control: &[u8]) -> Result<usize, Errno> {
        let (mut f, ns) = (|_| None, self.a);
        let m = SendMsg { name, data: Bytes::from_static(data), control, flags: 0 };
        let r = self.k.sendmsg(&mut caller(ns, &mut f), s, m);
        self.run();
        r
    }
    fn recv(&mut self, s: SockId, flags: i32) -> Result<Received, Errno> {
        self.k.recvmsg(s, RecvReq { len: 2000, control_len: 512, flags })
    }
    fn ioctl(&mut self, s: SockId, cmd: u32, arg: &[u8]) -> Result<Vec<u8>, Errno> {
        let (mut f, ns) = (|_| None, self.a);
        self.k.ioctl(&mut caller(ns, &mut f), Some(s), cmd, arg)
    }
    fn run(&mut self) {
        while self.k.run(1000) {}
    }
}

/// `struct sockaddr_in`.
fn sin(a: &str, port: u16) -> Vec<u8> {
    super::addr::print(2, a.parse().unwrap(), port, IfIndex::NONE)
}

/// `struct sockaddr_in6`.
fn sin6(a: &str, port: u16) -> Vec<u8> {
    super::addr::print(10, a.parse().unwrap(), port, IfIndex::NONE)
}
