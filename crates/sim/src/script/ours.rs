//! ferronet as a player: one namespace with a TAP device, in simulated time.

use core::net::IpAddr;
use core::time::Duration;

use bytes::Bytes;
use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_linux::kernel::{RecvReq, SendMsg};
use ferronet_linux::{BackendDev, SockId};
use ferronet_stack::dev::{Features, IfAddr, addr_ops, ifa_f};
use ferronet_stack::fib::{Family, FibEntry, How, Metrics, NextHop, RouteType, prefix, proto, table_id};
use ferronet_stack::neigh::{NeighKey, News, Update, nud};
use ferronet_wire::MacAddr;
use slotmap::{Key as _, KeyData};

use super::build::{LOCAL4, LOCAL6, REMOTE4, REMOTE6};
use super::flow::{LOCAL_MAC, REMOTE_MAC};
use super::parse::Setup;
use super::play::{Answer, Player, SysCall};
use crate::net::Net;

/// A namespace of ferronet.
#[derive(Debug)]
pub struct Ferronet {
    net: Net,
    ns: NsId,
    dev: IfIndex,
    start: Instant,
}

impl Ferronet {
    /// A fresh one; the seed decides everything random.
    ///
    /// # Panics
    /// When it cannot be built, which is a bug.
    #[must_use]
    pub fn new(seed: u64) -> Ferronet {
        let mut net = Net::new(seed);
        // The first namespace is the host's: some defaults are its own.
        let _ = net.ns();
        let ns = net.ns();
        let dev = net.kernel.dev_attach(ns, "tap0", BackendDev::Tap).expect("a fresh name");
        let start = net.now();
        Ferronet { net, ns, dev, start }
    }

    fn address(&mut self, a: IpAddr, len: u8) -> Result<(), String> {
        let mut i = IfAddr::new(a, len);
        let n = self.net.kernel.world.ns_mut(self.ns).ok_or("no namespace")?;
        let r = match a {
            IpAddr::V4(_) => addr_ops::inet_insert_ifa(n, self.dev, i),
            IpAddr::V6(_) => {
                i.flags |= ifa_f::NODAD;
                ferronet_stack::ipv6::addrconf::inet6_addr_add(n, self.dev, i)
            }
        };
        r.map_err(|e| format!("{a}: {e:?}"))
    }

    fn route(&mut self, dst: IpAddr, len: u8, via: IpAddr) -> Result<(), String> {
        let n = self.net.kernel.world.ns_mut(self.ns).ok_or("no namespace")?;
        let family = Family::of(dst);
        let e = FibEntry {
            dst: prefix(dst, len),
            dst_len: len,
            tos: 0,
            table: table_id::MAIN,
            priority: if family == Family::V6 { 1024 } else { 0 },
            protocol: proto::STATIC,
            scope: 0,
            kind: RouteType::Unicast,
            prefsrc: None,
            nexthops: smallvec::smallvec![NextHop {
                gw: Some(via),
                dev: self.dev,
                weight: 0,
                flags: 0,
                realm: 0
            }],
            metrics: Metrics::default(),
            pref: 0,
            expires: None,
        };
        n.fib.insert(&mut n.notify, e, How::ADD).map_err(|e| format!("{dst}: {e:?}"))
    }

    /// `ip neigh add ADDR lladdr REMOTE dev tap0 nud permanent`.
    fn neighbour(&mut self, addr: IpAddr) -> Result<(), String> {
        let dev = self.dev;
        let n = self.net.kernel.world.ns_mut(self.ns).ok_or("no namespace")?;
        let id = n.neigh.create(&mut n.env, NeighKey { dev, addr }).ok_or("no room")?;
        let d = n.devs.get(dev).ok_or("no device")?;
        let parms = if addr.is_ipv4() { d.neigh4.clone() } else { d.neigh6.clone() };
        let news = News {
            lladdr: Some(MacAddr(REMOTE_MAC)),
            state: nud::PERMANENT,
            how: Update { admin: true, override_lladdr: true, ..Update::default() },
        };
        let _ = n.neigh.update(&mut n.env, &parms, &mut n.notify, id, news);
        Ok(())
    }

    fn take_frames(&mut self, out: &mut Vec<(Duration, Vec<u8>)>) {
        let at = self.now();
        while let Some((ns, p)) = self.net.kernel.dev_tx() {
            out.push((at, p.to_vec()));
            self.net.kernel.world.backend_done(ns, p);
        }
    }
}

fn id(fd: i64) -> SockId {
    SockId::from(KeyData::from_ffi(fd as u64))
}

fn value(v: i64) -> Answer {
    Answer { value: v, ..Answer::default() }
}

impl Player for Ferronet {
    fn setup(&mut self, s: &Setup) -> Result<(), String> {
        let (ns, dev) = (self.ns, self.dev);
        let w = &mut self.net.kernel.world;
        let err = |e: Errno| format!("setting up: {e:?}");
        w.link_set_address(ns, dev, MacAddr(LOCAL_MAC)).map_err(err)?;
        w.link_set_mtu(ns, dev, s.mtu).map_err(err)?;
        // The other end is a wire: one packet a frame, checksums written.
        let n = w.ns_mut(ns).ok_or(Errno::ENODEV).map_err(err)?;
        n.devs.update(dev, |d| d.features = Features { gro: false, ..Features::NONE });
        for (path, v) in super::parse::QUIET {
            self.write(path, v).map_err(|e| format!("{path}: errno {e}"))?;
        }
        for (path, v) in &s.sysctls {
            self.write(path, v).map_err(|e| format!("{path}: errno {e}"))?;
        }
        self.net.kernel.world.link_set_up(ns, dev, true).map_err(err)?;
        self.address(LOCAL4.into(), 24)?;
        self.address(LOCAL6.into(), 64)?;
        for (a, len) in &s.addrs {
            self.address(*a, *len)?;
        }
        self.route(IpAddr::from([0, 0, 0, 0]), 0, REMOTE4.into())?;
        self.route(IpAddr::from([0u16; 8]), 0, REMOTE6.into())?;
        for (a, len, via) in &s.routes {
            self.route(*a, *len, *via)?;
        }
        if s.neigh {
            self.neighbour(REMOTE4.into())?;
            self.neighbour(REMOTE6.into())?;
        }
        // Group reports and announcements of the new addresses are over when the script begins.
        self.net.sleep(super::parse::SETTLE);
        self.take_frames(&mut Vec::new());
        self.start = self.net.now();
        Ok(())
    }

    fn now(&self) -> Duration {
        self.net.now() - self.start
    }

    fn wait(&mut self, until: Duration, enough: usize, out: &mut Vec<(Duration, Vec<u8>)>) {
        self.net.run();
        self.take_frames(out);
        while out.len() < enough && self.now() < until {
            self.net.step(until - self.now());
            self.take_frames(out);
        }
    }

    fn inject(&mut self, frame: &[u8]) {
        let Some(n) = self.net.kernel.world.ns_mut(self.ns) else { return };
        let p = n.env.pool.from_slice(frame);
        self.net.kernel.dev_rx(self.ns, self.dev, p);
        self.net.run();
    }

    fn call(&mut self, c: &SysCall<'_>) -> Result<Answer, i32> {
        let r = self.net.call(self.ns, |k, who| -> Result<Answer, Errno> {
            Ok(match *c {
                SysCall::Socket(f, t, p) => value(k.socket(who, f, t, p)?.data().as_ffi() as i64),
                SysCall::Bind(s, a) => k.bind(who, id(s), a).map(|()| value(0))?,
                SysCall::Listen(s, n) => k.listen(id(s), n).map(|()| value(0))?,
                SysCall::Connect(s, a) => k.connect(who, id(s), a).map(|()| value(0))?,
                SysCall::Accept(s) => value(k.accept(id(s))?.0.data().as_ffi() as i64),
                SysCall::Send(s, data, flags, to) => {
                    let m = SendMsg { name: to, data: Bytes::copy_from_slice(data), control: &[], flags };
                    value(k.sendmsg(who, id(s), m)? as i64)
                }
                SysCall::Recv(s, len, flags) => {
                    let r = k.recvmsg(id(s), RecvReq { len, control_len: 0, flags })?;
                    // MSG_TRUNC: the length of the message.
                    let n = if flags & 0x20 == 0 { r.data.len() } else { r.len };
                    Answer { value: n as i64, data: r.data, name: r.name }
                }
                SysCall::Shutdown(s, how) => k.shutdown(id(s), how).map(|()| value(0))?,
                SysCall::Close(s) => {
                    k.close(id(s));
                    value(0)
                }
                SysCall::SetOpt(s, l, n, v) => k.setsockopt(who, id(s), (l, n), v).map(|()| value(0))?,
                SysCall::GetOpt(s, l, n, len) => {
                    Answer { data: k.getsockopt(id(s), l, n, len)?, ..Answer::default() }
                }
                SysCall::Poll(s) => value(k.poll(id(s)).bits().into()),
            })
        });
        self.net.run();
        r.map_err(|e| e.0.into())
    }

    fn read(&mut self, path: &str) -> String {
        let b = self.net.call(self.ns, |k, c| k.proc_open(c, path)).unwrap_or_default();
        String::from_utf8_lossy(&b).into_owned()
    }

    fn write(&mut self, path: &str, text: &str) -> Result<(), i32> {
        let r = self.net.call(self.ns, |k, c| k.proc_write(c, path, text.as_bytes()));
        r.map(drop).map_err(|e| e.0.into())
    }
}
