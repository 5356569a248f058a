//! `Kernel`: the world and the open sockets of its programs.

use bitflags::bitflags;
use bytes::Bytes;
use ferronet_core::{Errno, IfIndex, Instant, NsId, Packet};
use ferronet_stack::World;
use ferronet_stack::sock::Proto;
use ferronet_stack::sock::packet::RxRing;
use slotmap::{SlotMap, new_key_type};
use std::collections::BTreeMap;

use crate::netlink::NetlinkSock;
use crate::socket::InetSock;

new_key_type! {
    /// One open file description of a program: a socket.
    pub struct SockId;
}

bitflags! {
    /// Readiness, with the values of `poll(2)`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Ready: u16 {
        /// Data, a connection or an end of file to read.
        const IN = 0x001;
        /// Urgent data.
        const PRI = 0x002;
        /// Room to write.
        const OUT = 0x004;
        /// An error is pending.
        const ERR = 0x008;
        /// Both directions are shut.
        const HUP = 0x010;
        /// The peer has shut its writing half.
        const RDHUP = 0x2000;
    }
}

/// What a kernel starts with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Decides everything random.
    pub seed: u64,
    /// Wall clock at [`Instant::ZERO`], nanoseconds since 1970.
    pub wall_offset: u64,
    /// Bytes of memory to derive limits from (`tcp_mem`); 0 for 1 GiB.
    pub memory: u64,
}

/// How a program names another namespace in a netlink message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NsRef {
    /// A descriptor of the calling process (`IFLA_NET_NS_FD`).
    Fd(i32),
    /// A process (`IFLA_NET_NS_PID`).
    Pid(u32),
}

bitflags::bitflags! {
    /// Capabilities that the network looks at: bits as in `CapEff` of /proc/PID/status (linux/capability.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Caps: u64 {
        /// `CAP_NET_BIND_SERVICE`: ports below `ip_unprivileged_port_start`.
        const NET_BIND_SERVICE = 1 << 10;
        /// `CAP_NET_ADMIN`: changes of the namespace.
        const NET_ADMIN = 1 << 12;
        /// `CAP_NET_RAW`: raw and packet sockets.
        const NET_RAW = 1 << 13;
    }
}

/// Who makes a call.
pub struct Caller<'a> {
    /// Network namespace of the calling thread.
    pub ns: NsId,
    /// Process id.
    pub pid: u32,
    /// Effective user id, as the program sees it.
    pub uid: u32,
    /// The effective capabilities of the calling thread in the user namespace that owns `ns`. Called only where one is
    /// needed, since asking costs the edge more than the rest of most calls.
    pub caps: &'a dyn Fn() -> Caps,
    /// Finds the namespace that a descriptor or process stands for: its cookie, as for [`Kernel::ns_create`]. Call it
    /// through [`Kernel::ns_resolve`], which makes a namespace that was never seen before.
    pub resolve_ns: &'a mut dyn FnMut(NsRef) -> Option<u64>,
}

impl Caller<'_> {
    /// `ns_capable` in the user namespace of the network namespace.
    pub(crate) fn capable(&self, cap: Caps) -> bool {
        (self.caps)().contains(cap)
    }
}

/// Arguments of `sendmsg`.
#[derive(Debug)]
pub struct SendMsg<'a> {
    /// Destination address, may be empty.
    pub name: &'a [u8],
    /// Data.
    pub data: Bytes,
    /// Control messages.
    pub control: &'a [u8],
    /// `MSG_*`.
    pub flags: i32,
}

/// Arguments of `recvmsg`.
#[derive(Clone, Copy, Debug)]
pub struct RecvReq {
    /// Room for data in bytes.
    pub len: usize,
    /// Room for control messages in bytes.
    pub control_len: usize,
    /// `MSG_*`.
    pub flags: i32,
}

/// Result of `recvmsg`.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// At most `RecvReq::len` bytes.
    pub data: Vec<u8>,
    /// Full length of the message (for `MSG_TRUNC`).
    pub len: usize,
    /// Source address.
    pub name: Vec<u8>,
    /// Control messages.
    pub control: Vec<u8>,
    /// `MSG_*` of the result.
    pub flags: i32,
    /// Arrival, nanoseconds since 1970; 0 when it is not known.
    pub stamp: u64,
    /// `struct tpacket_auxdata` of a frame, for rings.
    pub aux: [u8; 20],
}

/// Devices whose other end is in the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendDev {
    /// Link frames.
    Tap,
    /// Bare IP packets.
    Tun,
}

/// What an open socket is.
#[derive(Debug)]
pub(crate) enum File {
    /// `AF_INET`, `AF_INET6`, `AF_PACKET`.
    Inet(InetSock),
    /// `AF_NETLINK`.
    Netlink(Box<NetlinkSock>),
}

/// One open socket.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) ns: NsId,
    pub(crate) file: File,
    /// Inode of the descriptor that the program sees.
    pub(crate) inode: u64,
    pub(crate) family: i32,
    pub(crate) ty: i32,
    pub(crate) proto: i32,
}

/// The world, the open sockets, and the way namespaces are known outside.
#[derive(Debug)]
pub struct Kernel {
    /// The namespaces.
    pub world: World,
    pub(crate) files: SlotMap<SockId, OpenFile>,
    pub(crate) events: Vec<(SockId, Ready)>,
    by_cookie: BTreeMap<u64, NsId>,
    pub(crate) nl: crate::netlink::State,
}

/// `SOCK_STREAM` and its like (`linux/net.h`).
#[allow(missing_docs, reason = "socket(2)")]
pub mod sock_type {
    pub const STREAM: i32 = 1;
    pub const DGRAM: i32 = 2;
    pub const RAW: i32 = 3;
    pub const SEQPACKET: i32 = 5;
}

/// Address families.
#[allow(missing_docs, reason = "address_families(7)")]
pub mod af {
    pub const INET: i32 = 2;
    pub const INET6: i32 = 10;
    pub const NETLINK: i32 = 16;
    pub const PACKET: i32 = 17;
}

impl Kernel {
    /// A kernel without namespaces.
    #[must_use]
    pub fn new(cfg: Config) -> Kernel {
        Kernel {
            world: World::new(cfg.seed, cfg.wall_offset),
            files: SlotMap::with_key(),
            events: Vec::new(),
            by_cookie: BTreeMap::new(),
            nl: crate::netlink::State::default(),
        }
    }

    /// A new namespace, known outside by `cookie` (the inode of the program's empty kernel namespace).
    ///
    /// # Errors
    /// `ENOSPC` when there are too many.
    pub fn ns_create(&mut self, cookie: u64) -> Result<NsId, Errno> {
        let id = self.world.ns_create().ok_or(Errno::ENOSPC)?;
        self.by_cookie.insert(cookie, id);
        Ok(id)
    }

    /// The namespace known by `cookie`.
    #[must_use]
    pub fn ns_by_cookie(&self, cookie: u64) -> Option<NsId> {
        self.by_cookie.get(&cookie).copied()
    }

    /// The cookie of a namespace.
    #[must_use]
    pub fn ns_cookie(&self, ns: NsId) -> Option<u64> {
        self.by_cookie.iter().find(|(_, v)| **v == ns).map(|(k, _)| *k)
    }

    /// The namespace a caller names by descriptor or process; made when it was never seen before.
    pub fn ns_resolve(&mut self, c: &mut Caller<'_>, r: NsRef) -> Option<NsId> {
        let cookie = (c.resolve_ns)(r)?;
        self.ns_by_cookie(cookie).or_else(|| self.ns_create(cookie).ok())
    }

    /// Ends a namespace with its sockets.
    pub fn ns_destroy(&mut self, ns: NsId) {
        self.by_cookie.retain(|_, v| *v != ns);
        let gone: Vec<SockId> = self.files.iter().filter(|(_, f)| f.ns == ns).map(|(k, _)| k).collect();
        for s in gone {
            self.close(s);
        }
        crate::netlink::ns_destroyed(self, ns);
        self.world.ns_destroy(ns);
        crate::netlink::drain(self);
    }

    /// Family, type and protocol of a socket.
    #[must_use]
    pub fn sock_info(&self, s: SockId) -> Option<(i32, i32, i32)> {
        self.files.get(s).map(|f| (f.family, f.ty, f.proto))
    }

    /// The receive ring that a packet socket asked for (`PACKET_RX_RING`).
    #[must_use]
    pub fn packet_ring(&self, s: SockId) -> Option<RxRing> {
        let (ns, key) = self.inet_ref(s).ok()?;
        match &ns.socks.socks.get(key)?.proto {
            Proto::Packet(p) => p.ring,
            Proto::Tcp(_) | Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) => None,
        }
    }

    /// Moves `frames` from `tp_packets` to `tp_drops`: they did not fit into the ring, and no slot shows it.
    pub fn packet_ring_lost(&mut self, s: SockId, frames: u32) {
        let Ok((ns, key)) = self.inet(s) else { return };
        if let Some(Proto::Packet(p)) = ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
            p.stats.0 = p.stats.0.saturating_sub(frames);
            p.stats.1 = p.stats.1.saturating_add(frames);
        }
    }

    /// Moves time forward.
    pub fn set_now(&mut self, now: Instant) {
        self.world.set_now(now);
    }

    /// Runs the stack until nothing is left or about `budget` packets were handled. `true`: there is more.
    pub fn run(&mut self, budget: usize) -> bool {
        let more = self.world.run_softirq(budget);
        crate::netlink::drain(self);
        more
    }

    /// When [`Kernel::set_now`] and [`Kernel::run`] must be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.world.next_timeout()
    }

    /// A device whose other end is in the host; down, with carrier.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` by name.
    pub fn dev_attach(&mut self, ns: NsId, name: &str, kind: BackendDev) -> Result<IfIndex, Errno> {
        let spec = ferronet_stack::world::link::LinkSpec { name: name.to_owned(), ..Default::default() };
        let ethernet = kind == BackendDev::Tap;
        self.world.link_add(ns, &spec, ferronet_stack::dev::DevKind::Backend { ethernet, attached: true })
    }

    /// A frame from the host.
    pub fn dev_rx(&mut self, ns: NsId, dev: IfIndex, p: Packet) {
        self.world.backend_rx(ns, p, dev);
    }

    /// The next frame for the host; give it back with [`World::backend_done`] once it is sent.
    pub fn dev_tx(&mut self) -> Option<(NsId, Packet)> {
        self.world.take_backend_tx()
    }
}
