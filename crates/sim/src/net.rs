//! A simulated network: namespaces, links, a clock.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use ferronet_core::rng::Rng;
use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_linux::kernel::{af, sock_type};
use ferronet_linux::{Caller, Config, Kernel, NsRef, SockId};
use ferronet_stack::dev::addr_ops::inet_insert_ifa;
use ferronet_stack::dev::netem::{Netem, Params};
use ferronet_stack::dev::{IfAddr, addr_ops};
use ferronet_stack::fib::{FibEntry, How, Metrics, NextHop, RouteType, prefix, proto, table_id};
use ferronet_stack::world::link::LinkSpec;

/// A world with a clock.
#[derive(Debug)]
pub struct Net {
    /// The kernel: namespaces and sockets.
    pub kernel: Kernel,
    now: Instant,
    cookies: u64,
}

impl Net {
    /// An empty network; the seed decides everything random in it.
    #[must_use]
    pub fn new(seed: u64) -> Net {
        let mut kernel = Kernel::new(Config { seed, wall_offset: 1_700_000_000_000_000_000, memory: 0 });
        // Not at the origin, so that "never" and "just now" differ.
        let now = Instant::from_millis(1_000);
        kernel.set_now(now);
        Net { kernel, now, cookies: 0 }
    }

    /// A namespace with `lo` up.
    ///
    /// # Panics
    /// When there are too many.
    pub fn ns(&mut self) -> NsId {
        self.cookies += 1;
        let id = self.kernel.ns_create(self.cookies).expect("a simulated network is small");
        self.kernel.world.link_set_up(id, IfIndex::LO, true).expect("lo exists");
        id
    }

    /// A veth pair between two namespaces, up, each end with an IPv4 address of a /24.
    ///
    /// # Panics
    /// When a name or address is taken.
    pub fn link(&mut self, a: (NsId, &str, Ipv4Addr), b: (NsId, &str, Ipv4Addr)) -> (IfIndex, IfIndex) {
        let spec = |name: &str| LinkSpec { name: name.to_owned(), ..LinkSpec::default() };
        let (i, j) = self.kernel.world.link_add_veth(a.0, &spec(a.1), b.0, &spec(b.1)).expect("fresh names");
        for (ns, dev, addr) in [(a.0, i, a.2), (b.0, j, b.2)] {
            let n = self.kernel.world.ns_mut(ns).expect("namespace exists");
            inet_insert_ifa(n, dev, IfAddr::new(IpAddr::V4(addr), 24)).expect("fresh address");
            self.kernel.world.link_set_up(ns, dev, true).expect("device exists");
        }
        (i, j)
    }

    /// Emulates a link in the direction out of `dev`. Frames are cut to the MTU first, as on a wire.
    ///
    /// # Panics
    /// When there is no such device.
    pub fn impair(&mut self, ns: NsId, dev: IfIndex, params: Params) {
        let n = self.kernel.world.ns_mut(ns).expect("namespace exists");
        let set = |d: &mut ferronet_stack::dev::Device| {
            d.netem = Some(Box::new(Netem::new(params)));
            d.features.tso = false;
            d.features.uso = false;
        };
        n.devs.update(dev, set).expect("device exists");
    }

    /// `ip route add DST via GW`.
    ///
    /// # Panics
    /// When the route exists.
    pub fn route(&mut self, ns: NsId, dst: (Ipv4Addr, u8), via: (Ipv4Addr, IfIndex)) {
        let n = self.kernel.world.ns_mut(ns).expect("namespace exists");
        let e = FibEntry {
            dst: prefix(IpAddr::V4(dst.0), dst.1),
            dst_len: dst.1,
            tos: 0,
            table: table_id::MAIN,
            priority: 0,
            protocol: proto::STATIC,
            scope: 0,
            kind: RouteType::Unicast,
            prefsrc: None,
            nexthops: smallvec::smallvec![NextHop {
                gw: Some(IpAddr::V4(via.0)),
                dev: via.1,
                weight: 0,
                flags: 0,
                realm: 0
            }],
            metrics: Metrics::default(),
            pref: 0,
            expires: None,
        };
        n.fib.insert(&mut n.notify, e, How::ADD).expect("fresh route");
    }

    /// `sysctl net.ipv4.ip_forward=1`.
    ///
    /// # Panics
    /// When there is no such namespace.
    pub fn forward(&mut self, ns: NsId) {
        addr_ops::inet_forward_change(self.kernel.world.ns_mut(ns).expect("namespace exists"), true);
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Handles everything that happens at the present moment.
    pub fn run(&mut self) {
        while self.kernel.run(1 << 16) {}
    }

    /// Moves to the next timer, at most by `limit`; `false` when there is none before.
    pub fn step(&mut self, limit: Duration) -> bool {
        self.run();
        let end = self.now + limit;
        let next = self.kernel.next_timeout().filter(|t| *t <= end);
        self.now = next.map_or(end, |t| t.max(self.now + Duration::from_nanos(1)));
        self.kernel.set_now(self.now);
        self.run();
        next.is_some()
    }

    /// Lets `d` pass.
    pub fn sleep(&mut self, d: Duration) {
        let end = self.now + d;
        while self.now < end {
            self.step(end - self.now);
        }
    }

    /// Calls `f` with the kernel and a caller in `ns` (uid 0).
    pub fn call<R>(&mut self, ns: NsId, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> R) -> R {
        let mut resolve = |_: NsRef| None;
        let mut c = Caller { ns, pid: 1, uid: 0, caps: &ferronet_linux::Caps::all, resolve_ns: &mut resolve };
        f(&mut self.kernel, &mut c)
    }

    /// A TCP socket.
    ///
    /// # Errors
    /// As socket(2).
    pub fn tcp(&mut self, ns: NsId) -> Result<SockId, Errno> {
        self.call(ns, |k, c| k.socket(c, af::INET, sock_type::STREAM, 0))
    }

    /// A listening TCP socket.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub fn listen(&mut self, ns: NsId, addr: SocketAddr, backlog: i32) -> Result<SockId, Errno> {
        let s = self.tcp(ns)?;
        self.call(ns, |k, c| k.bind(c, s, &sockaddr(addr)))?;
        self.kernel.listen(s, backlog)?;
        Ok(s)
    }

    /// A TCP socket that begins to connect.
    ///
    /// # Errors
    /// As connect(2), without `EINPROGRESS`.
    pub fn connect(&mut self, ns: NsId, addr: SocketAddr) -> Result<SockId, Errno> {
        let s = self.tcp(ns)?;
        match self.call(ns, |k, c| k.connect(c, s, &sockaddr(addr))) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(s),
            Err(e) => Err(e),
        }
    }
}

/// `struct sockaddr_in` or `sockaddr_in6`.
#[must_use]
pub fn sockaddr(a: SocketAddr) -> Vec<u8> {
    let mut v = Vec::with_capacity(28);
    match a {
        SocketAddr::V4(a) => {
            v.extend_from_slice(&2u16.to_ne_bytes());
            v.extend_from_slice(&a.port().to_be_bytes());
            v.extend_from_slice(&a.ip().octets());
            v.extend_from_slice(&[0; 8]);
        }
        SocketAddr::V6(a) => {
            v.extend_from_slice(&10u16.to_ne_bytes());
            v.extend_from_slice(&a.port().to_be_bytes());
            v.extend_from_slice(&a.flowinfo().to_be_bytes());
            v.extend_from_slice(&a.ip().octets());
            v.extend_from_slice(&a.scope_id().to_ne_bytes());
        }
    }
    v
}

/// Random settings of a bad link: up to `max_ppm` of loss, duplication and reordering each, some delay and
/// sometimes a rate.
pub fn random_params(rng: &mut Rng, max_ppm: u32) -> Params {
    Params {
        delay: Duration::from_micros(u64::from(rng.below(20_000))),
        jitter: Duration::from_micros(u64::from(rng.below(2_000))),
        rate_bps: if rng.below(2) == 0 { 0 } else { 1_000_000 + u64::from(rng.below(100_000_000)) },
        limit: 0,
        loss_ppm: rng.below(max_ppm + 1),
        duplicate_ppm: rng.below(max_ppm + 1),
        reorder_ppm: rng.below(max_ppm + 1),
    }
}
