//! Local ports: the bind table, its conflict rules and the choice of ephemeral ports
//! (`net/ipv4/inet_connection_sock.c`, `inet_hashtables.c`, `udp.c`).
//!
//! A bucket is a (protocol, port). It holds classes of owners, not owners: sockets that are alike for the conflict
//! rules (address, device, flags, user, listening) share an entry with a count. So a listener's 100,000 connections
//! are one entry, and no operation walks sockets.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_core::hash::{KeyedMap, KeyedState, siphash24};
use ferronet_core::rng::Rng;
use ferronet_core::sysctl::SysctlTable;
use ferronet_core::{Errno, IfIndex, Sysctl};
use ferronet_wire::ipproto::{IPPROTO_TCP, IPPROTO_UDP};
use slotmap::{SlotMap, new_key_type};
use smallvec::SmallVec;

use super::{Proto, Sock, SockCommon, SockFlags, SockKey, Sockets};
use crate::ns::Namespace;
use crate::tcp::FourTuple;

new_key_type! {
    /// Names an entry of the bind table.
    pub struct BindId;
}

/// Sockets that the conflict rules cannot tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Class {
    /// Canonical address; unspecified IPv6 also stands for a dual-stack wildcard.
    addr: IpAddr,
    v6only: bool,
    dev: IfIndex,
    reuse: bool,
    reuseport: bool,
    uid: u32,
    listen: bool,
    time_wait: bool,
    /// The port was chosen by connect(2): other connects may share it (`tb->fastreuse` below zero).
    connect: bool,
}

#[derive(Debug)]
struct Entry {
    proto: u8,
    port: u16,
    class: Class,
    count: u32,
}

/// The bind table of a namespace.
#[derive(Debug)]
pub struct Ports {
    buckets: KeyedMap<(u8, u16), SmallVec<[BindId; 2]>>,
    entries: SlotMap<BindId, Entry>,
    /// Key of the ephemeral port hash (RFC 6056 §3.3.3).
    secret: [u64; 2],
    /// `table_perturb`: a counter per hash bucket of (addresses, remote port), RFC 6056 §3.3.4.
    perturb: Box<[u16]>,
    reserved: Reserved,
}

/// `ip_local_reserved_ports`, parsed once per change of the tunables.
#[derive(Debug, Default)]
struct Reserved {
    generation: Option<u64>,
    /// Disjoint and in order.
    ranges: Vec<(u16, u16)>,
}

impl Reserved {
    fn contains(&self, port: u16) -> bool {
        let i = self.ranges.partition_point(|r| r.1 < port);
        self.ranges.get(i).is_some_and(|r| r.0 <= port)
    }
}

/// Buckets of `table_perturb` (Linux: 2^16 of four bytes; a namespace here is smaller).
const PERTURB: usize = 4096;

impl Ports {
    /// An empty table with fresh keys.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        Ports {
            buckets: KeyedMap::with_hasher(KeyedState::new(rng)),
            entries: SlotMap::with_key(),
            secret: [rng.next_u64(), rng.next_u64()],
            perturb: vec![0; PERTURB].into_boxed_slice(),
            reserved: Reserved::default(),
        }
    }

    /// Ports in use of a protocol.
    #[must_use]
    pub fn in_use(&self, proto: u8) -> usize {
        self.buckets.keys().filter(|k| k.0 == proto).count()
    }

    fn add(&mut self, proto: u8, port: u16, class: Class) -> BindId {
        let bucket = self.buckets.entry((proto, port)).or_default();
        for &id in bucket.iter() {
            if let Some(e) = self.entries.get_mut(id)
                && e.class == class
            {
                e.count += 1;
                return id;
            }
        }
        let id = self.entries.insert(Entry { proto, port, class, count: 1 });
        bucket.push(id);
        id
    }

    fn remove(&mut self, id: BindId) {
        let Some(e) = self.entries.get_mut(id) else { return };
        e.count -= 1;
        if e.count > 0 {
            return;
        }
        let at = (e.proto, e.port);
        self.entries.remove(id);
        if let Some(b) = self.buckets.get_mut(&at) {
            b.retain(|x| *x != id);
            if b.is_empty() {
                self.buckets.remove(&at);
            }
        }
    }

    fn classes(&self, proto: u8, port: u16) -> impl Iterator<Item = (BindId, &Entry)> {
        self.buckets
            .get(&(proto, port))
            .into_iter()
            .flatten()
            .filter_map(|id| self.entries.get(*id).map(|e| (*id, e)))
    }

    /// Does `new` conflict with an owner of the port? `own`: the entry that already stands for the socket itself.
    fn conflicts(&self, proto: u8, port: u16, new: &Class, own: Option<BindId>, explicit: bool) -> bool {
        self.classes(proto, port).any(|(id, e)| {
            let others = e.count - u32::from(own == Some(id));
            others > 0
                && dev_overlap(new.dev, e.class.dev)
                && addr_overlap(new, &e.class)
                && if proto == IPPROTO_TCP {
                    tcp_conflict(new, &e.class, explicit)
                } else {
                    udp_conflict(new, &e.class)
                }
        })
    }

    /// The reserved ports, to be put back after the search that changes the rest of the table.
    fn take_reserved(&mut self, sysctl: &SysctlTable) -> Reserved {
        if self.reserved.generation != Some(sysctl.generation) {
            let ranges = parse_ranges(sysctl.text(Sysctl::IpLocalReservedPorts));
            self.reserved = Reserved { generation: Some(sysctl.generation), ranges };
        }
        core::mem::take(&mut self.reserved)
    }
}

/// `3000,4000-4010` (`proc_do_large_bitmap`); what cannot be read is left out.
fn parse_ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |r: &str| {
        let (a, b) = r.split_once('-').unwrap_or((r, r));
        Some((a.trim().parse().ok()?, b.trim().parse().ok()?))
    };
    let mut all: Vec<(u16, u16)> = text.split(',').filter_map(range).filter(|r| r.0 <= r.1).collect();
    all.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(all.len());
    for r in all {
        match merged.last_mut() {
            Some(last) if r.0 <= last.1 => last.1 = last.1.max(r.1),
            Some(_) | None => merged.push(r),
        }
    }
    merged
}

fn dev_overlap(a: IfIndex, b: IfIndex) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// `inet_rcv_saddr_equal` with wildcards.
fn addr_overlap(a: &Class, b: &Class) -> bool {
    match (a.addr, b.addr) {
        (IpAddr::V4(x), IpAddr::V4(y)) => x == y || x.is_unspecified() || y.is_unspecified(),
        (IpAddr::V6(x), IpAddr::V6(y)) => x == y || x.is_unspecified() || y.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(y)) => y.is_unspecified() && !b.v6only,
        (IpAddr::V6(x), IpAddr::V4(_)) => x.is_unspecified() && !a.v6only,
    }
}

/// `inet_bind_conflict` (6.18): `relax` and `reuseport_ok` are set when the port was asked for.
fn tcp_conflict(new: &Class, old: &Class, explicit: bool) -> bool {
    let same_user = old.time_wait || old.uid == new.uid;
    let shared = new.reuseport && old.reuseport && same_user;
    let quiet = new.reuse && old.reuse && !old.listen;
    !explicit || !(quiet || shared)
}

/// `udp_lib_lport_inuse`.
fn udp_conflict(new: &Class, old: &Class) -> bool {
    let shared = new.reuseport && old.reuseport && new.uid == old.uid;
    !(shared || (new.reuse && old.reuse))
}

fn protocol_of(s: &Sock) -> u8 {
    match s.proto {
        Proto::Tcp(_) => IPPROTO_TCP,
        Proto::Udp(_) => IPPROTO_UDP,
        // Ping identifiers: a space of their own per family.
        Proto::Ping(_) | Proto::Raw(_) | Proto::Packet(_) => s.common.protocol,
    }
}

fn listening(s: &Sock) -> bool {
    matches!(&s.proto, Proto::Tcp(t) if t.is_listening())
}

fn class_of(c: &SockCommon, listen: bool) -> Class {
    let f = c.flags;
    // An IPv6 wildcard stays one; `::ffff:0.0.0.0` is the IPv4 wildcard.
    let addr = c.local.to_canonical();
    Class {
        addr,
        v6only: f.contains(SockFlags::V6ONLY),
        dev: c.bound_dev,
        reuse: f.contains(SockFlags::REUSEADDR),
        reuseport: f.contains(SockFlags::REUSEPORT),
        uid: c.uid,
        listen,
        time_wait: false,
        connect: f.contains(SockFlags::CONNECT_PORT),
    }
}

/// Is `a` an address that a socket may bind: local, wildcard, group or broadcast (`inet_addr_valid_or_nonlocal`)?
pub(super) fn addr_ok(ns: &Namespace, c: &SockCommon, a: IpAddr) -> bool {
    use crate::fib::RouteType;
    let any = c.flags.intersects(SockFlags::FREEBIND | SockFlags::TRANSPARENT);
    match a {
        IpAddr::V4(a) => {
            any || a.is_unspecified()
                || ns.env.sysctl.on(Sysctl::IpNonlocalBind)
                || matches!(
                    crate::ipv4::route::addr_type(ns, a),
                    RouteType::Local | RouteType::Multicast | RouteType::Broadcast
                )
        }
        IpAddr::V6(a) => {
            any || a.is_unspecified()
                || a.is_multicast()
                || ns.env.sysctl.on(Sysctl::Ip6IpNonlocalBind)
                || is_local6(ns, c.bound_dev, a)
        }
    }
}

/// One of our IPv6 addresses (`ipv6_chk_addr`): on the device for link-local ones.
#[must_use]
pub fn is_local6(ns: &Namespace, dev: IfIndex, a: Ipv6Addr) -> bool {
    let here = |d: &crate::dev::Device| {
        use crate::dev::ifa_f::{OPTIMISTIC, TENTATIVE};
        // An optimistic address may be used while it is still looked for (RFC 4429).
        d.addrs
            .iter()
            .any(|x| x.local == IpAddr::V6(a) && (x.flags & TENTATIVE == 0 || x.flags & OPTIMISTIC != 0))
    };
    if a.is_unicast_link_local() && !dev.is_none() {
        return ns.devs.get(dev).is_some_and(here);
    }
    ns.devs.iter().any(here)
}

/// `bind(2)` for TCP, UDP and ping sockets (`__inet_bind`, `__inet6_bind`). `addr` is in the socket's own family;
/// port 0 asks for any. `privileged`: may bind below `ip_unprivileged_port_start`.
///
/// # Errors
/// `EINVAL` when already bound, `EADDRNOTAVAIL` for an address that is not ours, `EACCES` for a privileged port,
/// `EADDRINUSE`.
pub fn bind(
    ns: &mut Namespace,
    key: SockKey,
    addr: IpAddr,
    port: u16,
    privileged: bool,
) -> Result<(), Errno> {
    let s = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
    let c = &s.common;
    if !addr_ok(ns, c, addr.to_canonical()) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    // ping_check_bind_addr: hosts only.
    if matches!(s.proto, Proto::Ping(_)) {
        let group = addr.is_multicast()
            || matches!(addr, IpAddr::V4(a) if !a.is_unspecified()
                && crate::ipv4::route::addr_type(ns, a) == crate::fib::RouteType::Broadcast);
        match addr {
            IpAddr::V4(_) if group => return Err(Errno::EADDRNOTAVAIL),
            IpAddr::V6(_) if group => return Err(Errno::EINVAL),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    let floor = ns.env.sysctl.get(Sysctl::IpUnprivilegedPortStart);
    let ping = matches!(s.proto, Proto::Ping(_));
    if port != 0 && i64::from(port) < floor && !privileged && !ping {
        return Err(Errno::EACCES);
    }
    if c.lport != 0 || c.peer.is_some() {
        return Err(Errno::EINVAL);
    }
    let c = ns.socks.common_mut(key)?;
    let before = (c.local, c.flags);
    c.local = addr;
    if !addr.to_canonical().is_unspecified() {
        c.flags |= SockFlags::BINDADDR_LOCK;
        // __inet6_bind (6.18): an IPv6 address proper makes the socket sk_ipv6only.
        if addr.to_canonical().is_ipv6() {
            c.flags |= SockFlags::V6ONLY;
        }
    }
    let no_port = c.flags.contains(SockFlags::BIND_NO_PORT) && port == 0;
    let r = if no_port { Ok(0) } else { get_port(ns, key, port) };
    let c = ns.socks.common_mut(key)?;
    match r {
        Ok(_) => {
            if port != 0 {
                c.flags |= SockFlags::BINDPORT_LOCK;
            }
            Ok(())
        }
        Err(e) => {
            (c.local, c.flags) = before;
            Err(e)
        }
    }
}

/// `sk_prot->get_port`: takes the port, or any when `port` is 0.
fn get_port(ns: &mut Namespace, key: SockKey, port: u16) -> Result<u16, Errno> {
    let s = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
    let proto = protocol_of(s);
    let class = class_of(&s.common, listening(s));
    let port = if port == 0 {
        find_open_port(ns, key, proto, &class)?
    } else if ns.socks.ports.conflicts(proto, port, &class, None, true) {
        return Err(Errno::EADDRINUSE);
    } else {
        port
    };
    let id = ns.socks.ports.add(proto, port, class);
    let c = ns.socks.common_mut(key)?;
    c.bind = Some(id);
    c.lport = port;
    crate::udp::hash(ns, key);
    super::ping::hash(ns, key);
    Ok(port)
}

/// A port for a socket that has none, when it sends or listens (`inet_autobind`).
///
/// # Errors
/// `EAGAIN` when all are in use.
pub fn autobind(ns: &mut Namespace, key: SockKey) -> Result<u16, Errno> {
    match ns.socks.common(key)?.lport {
        0 => get_port(ns, key, 0).map_err(|e| if e == Errno::EADDRINUSE { Errno::EAGAIN } else { e }),
        p => Ok(p),
    }
}

/// The range to choose from, inclusive (`inet_sk_get_local_port_range`).
fn port_range(ns: &Namespace, key: SockKey) -> (u16, u16) {
    let [lo, hi, _] = ns.env.sysctl.get3(Sysctl::IpLocalPortRange);
    let clip = |v: i64| u16::try_from(v.clamp(1, 65535)).unwrap_or(65535);
    let (mut lo, mut hi) = (clip(lo), clip(hi));
    if let Some(o) = ns.socks.common(key).ok().and_then(|c| c.opts.as_ref()) {
        let (l, h) = o.port_range;
        if l >= lo && l <= hi {
            lo = l;
        }
        if h >= lo && h != 0 && h <= hi {
            hi = h;
        }
    }
    (lo, hi.max(lo))
}

/// A free port for bind(0) (`inet_csk_find_open_port`, `udp_lib_get_port`): TCP takes odd offsets first so that even
/// ones stay for connect(2); with SO_REUSEADDR it looks in the lower half first.
fn find_open_port(ns: &mut Namespace, key: SockKey, proto: u8, class: &Class) -> Result<u16, Errno> {
    let (low, high) =
        if proto == IPPROTO_TCP || proto == IPPROTO_UDP { port_range(ns, key) } else { (1, 65535) };
    let n = u32::from(high - low) + 1;
    let reserved = ns.socks.ports.take_reserved(&ns.env.sysctl);
    let start = ns.env.rng.below(n);
    let (step, passes) = if proto == IPPROTO_TCP && n > 1 { (2, 2) } else { (1, 1) };
    // inet_csk_find_open_port: offset |= 1 relative to an even low.
    let start = if passes == 2 { start | 1 } else { start };
    let mut ports = (0..passes)
        .flat_map(|pass| (0..n.div_ceil(step)).map(move |i| (start + i * step + n - pass) % n))
        .map(|offset| low + offset as u16);
    let free = ports
        .find(|&port| !reserved.contains(port) && !ns.socks.ports.conflicts(proto, port, class, None, false));
    ns.socks.ports.reserved = reserved;
    free.ok_or(Errno::EADDRINUSE)
}

fn word(a: IpAddr) -> [u64; 2] {
    let b = match a {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    [b as u64, (b >> 64) as u64]
}

/// A port for connect(2) (`__inet_hash_connect`, RFC 6056 §3.3.4): the same start for the same destination, moved
/// on by each use; even offsets first. A port is free when nobody bound it and the four-tuple is unique. The port is
/// taken for the socket.
///
/// # Errors
/// `EADDRNOTAVAIL` when all are in use.
pub fn ephemeral_for_connect(
    ns: &mut Namespace,
    key: SockKey,
    saddr: IpAddr,
    raddr: IpAddr,
    rport: u16,
) -> Result<u16, Errno> {
    let (low, high) = port_range(ns, key);
    let high = u32::from(high) + 1;
    let mut n = high - u32::from(low);
    if n > 1 {
        n &= !1;
    }
    let [s, d] = [word(saddr), word(raddr)];
    let hash = siphash24(ns.socks.ports.secret, &[s[0], s[1], d[0], d[1], u64::from(rport)]);
    let index = (hash as usize) % PERTURB;
    let offset = (u32::from(ns.socks.ports.perturb[index]) + (hash >> 32) as u32) % n;
    let even = offset & !1;
    let reserved = ns.socks.ports.take_reserved(&ns.env.sysctl);
    // First the parity that bind(2) does not use, then the other.
    let mut tries = (0..if n == 1 { 1 } else { 2 })
        .flat_map(|parity| (0..n).step_by(2).map(move |i| (i, (even + parity + i) % n)))
        .map(|(i, offset)| (i, low + offset as u16));
    let free =
        tries.find(|&(_, port)| !reserved.contains(port) && connect_free(ns, key, port, saddr, raddr, rport));
    ns.socks.ports.reserved = reserved;
    let (i, port) = free.ok_or(Errno::EADDRNOTAVAIL)?;
    let p = &mut ns.socks.ports.perturb[index];
    *p = p.wrapping_add(i as u16 + 2);
    take_for_connect(ns, key, port, saddr)?;
    Ok(port)
}

/// Nobody bound the port, and this connection would be the only one with its four-tuple.
fn connect_free(
    ns: &mut Namespace,
    _key: SockKey,
    lport: u16,
    laddr: IpAddr,
    raddr: IpAddr,
    rport: u16,
) -> bool {
    if ns.socks.ports.classes(IPPROTO_TCP, lport).any(|(_, e)| !e.class.connect) {
        return false;
    }
    crate::tcp::connect_may_use(ns, &FourTuple { laddr, lport, raddr, rport })
}

fn take_for_connect(ns: &mut Namespace, key: SockKey, port: u16, saddr: IpAddr) -> Result<(), Errno> {
    let s = ns.socks.socks.get_mut(key).ok_or(Errno::EBADF)?;
    s.common.flags |= SockFlags::CONNECT_PORT;
    s.common.lport = port;
    let class = Class { addr: saddr, ..class_of(&s.common, false) };
    let id = ns.socks.ports.add(IPPROTO_TCP, port, class);
    ns.socks.common_mut(key)?.bind = Some(id);
    Ok(())
}

/// A listener's port is checked again when it begins to listen (`inet_csk_listen_start`): another socket that
/// shares the port by SO_REUSEADDR may not listen too.
///
/// # Errors
/// `EADDRINUSE`.
pub fn check_listen(ns: &mut Namespace, key: SockKey) -> Result<(), Errno> {
    let s = ns.socks.socks.get(key).ok_or(Errno::EBADF)?;
    let class = class_of(&s.common, true);
    let own = s.common.bind;
    let port = s.common.lport;
    if ns.socks.ports.conflicts(IPPROTO_TCP, port, &class, own, true) {
        return Err(Errno::EADDRINUSE);
    }
    rebind(&mut ns.socks, key, true);
    Ok(())
}

/// The socket's options that matter for conflicts changed, or it began or ceased to listen: its entry follows.
pub fn rebind(socks: &mut Sockets, key: SockKey, listen: bool) {
    let Some(s) = socks.socks.get_mut(key) else { return };
    let Some(id) = s.common.bind else { return };
    let Some(e) = socks.ports.entries.get(id) else { return };
    let (proto, port, addr) = (e.proto, e.port, e.class.addr);
    let class = Class { addr, ..class_of(&s.common, listen) };
    let new = socks.ports.add(proto, port, class);
    socks.ports.remove(id);
    if let Some(s) = socks.socks.get_mut(key) {
        s.common.bind = Some(new);
    }
}

/// The local address changed (connect(2) of UDP chose it, or it was forgotten).
pub fn address_changed(socks: &mut Sockets, key: SockKey) {
    let Some(s) = socks.socks.get_mut(key) else { return };
    let Some(id) = s.common.bind else { return };
    let Some(e) = socks.ports.entries.get(id) else { return };
    let (proto, port) = (e.proto, e.port);
    let class = class_of(&s.common, false);
    let new = socks.ports.add(proto, port, class);
    socks.ports.remove(id);
    if let Some(s) = socks.socks.get_mut(key) {
        s.common.bind = Some(new);
    }
}

/// Likewise, keeping the listening state.
pub fn options_changed(socks: &mut Sockets, key: SockKey) {
    if let Some(s) = socks.socks.get(key) {
        let listen = listening(s);
        rebind(socks, key, listen);
    }
}

/// A connection out of a listener shares its port (`__inet_inherit_port`).
pub(super) fn inherit(socks: &mut Sockets, key: SockKey) {
    let Some(s) = socks.socks.get(key) else { return };
    let class = class_of(&s.common, false);
    let port = s.common.lport;
    let id = socks.ports.add(IPPROTO_TCP, port, class);
    if let Some(s) = socks.socks.get_mut(key) {
        s.common.bind = Some(id);
    }
}

/// Gives the socket's port back (`inet_put_port`), with its place in the UDP table. The local port of the socket is
/// cleared; also its address unless bind(2) chose it.
pub fn release(ns: &mut Namespace, key: SockKey) {
    crate::udp::unhash(ns, key);
    super::ping::unhash(ns, key);
    let Ok(c) = ns.socks.common_mut(key) else { return };
    let id = c.bind.take();
    c.lport = 0;
    c.flags.remove(SockFlags::CONNECT_PORT);
    if !c.flags.contains(SockFlags::BINDADDR_LOCK) {
        c.local =
            if c.is_v6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    }
    if let Some(id) = id {
        ns.socks.ports.remove(id);
    }
}

/// A TIME_WAIT entry will hold the port too; `true` when the socket had one. Give it back with
/// [`release_time_wait`].
pub fn share_with_time_wait(ns: &mut Namespace, key: SockKey) -> bool {
    let Ok(c) = ns.socks.common(key) else { return false };
    if c.bind.is_none() {
        return false;
    }
    let class = Class { addr: c.local.to_canonical(), time_wait: true, ..class_of(c, false) };
    let port = c.lport;
    ns.socks.ports.add(IPPROTO_TCP, port, class);
    true
}

/// The TIME_WAIT entry is over.
pub fn release_time_wait(ns: &mut Namespace, _family: u8, laddr: IpAddr, lport: u16) {
    let found = ns
        .socks
        .ports
        .classes(IPPROTO_TCP, lport)
        .find(|(_, e)| e.class.time_wait && e.class.addr == laddr.to_canonical())
        .map(|(id, _)| id);
    if let Some(id) = found {
        ns.socks.ports.remove(id);
    }
}
