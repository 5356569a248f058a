//! What all sockets have in common (`struct sock`, `struct inet_sock`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bitflags::bitflags;
use ferronet_core::{Errno, IfIndex};

use super::errqueue::ErrQueue;
use super::ports::BindId;
use crate::fib::Family;

/// Readiness bits, with the values of `poll(2)`.
#[allow(missing_docs, reason = "poll(2)")]
pub mod poll {
    pub const IN: u16 = 0x001;
    pub const PRI: u16 = 0x002;
    pub const OUT: u16 = 0x004;
    pub const ERR: u16 = 0x008;
    pub const HUP: u16 = 0x010;
    pub const RDHUP: u16 = 0x2000;
}

/// Directions that are shut (`sk_shutdown`).
pub mod shut {
    /// Reading.
    pub const RCV: u8 = 1;
    /// Writing.
    pub const SEND: u8 = 2;
}

bitflags! {
    /// Options that are on or off. Names follow the option or the kernel's socket flag.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SockFlags: u64 {
        /// `SO_REUSEADDR`.
        const REUSEADDR = 1;
        /// `SO_REUSEPORT`.
        const REUSEPORT = 1 << 1;
        /// `SO_BROADCAST`.
        const BROADCAST = 1 << 2;
        /// `IPV6_V6ONLY`.
        const V6ONLY = 1 << 3;
        /// `SO_KEEPALIVE`.
        const KEEPALIVE = 1 << 4;
        /// `SO_LINGER` is on.
        const LINGER = 1 << 5;
        /// `SO_TIMESTAMP`.
        const TIMESTAMP = 1 << 6;
        /// `SO_TIMESTAMPNS` (with `TIMESTAMP`).
        const TIMESTAMPNS = 1 << 7;
        /// `SO_TIMESTAMP_NEW` / `SO_TIMESTAMPNS_NEW` numbers were used.
        const TSTAMP_NEW = 1 << 8;
        /// `SO_OOBINLINE`.
        const OOBINLINE = 1 << 9;
        /// `SO_RCVBUF` was set (`SOCK_RCVBUF_LOCK`).
        const RCVBUF_LOCK = 1 << 10;
        /// `SO_SNDBUF` was set.
        const SNDBUF_LOCK = 1 << 11;
        /// The local address was given by bind(2) (`SOCK_BINDADDR_LOCK`).
        const BINDADDR_LOCK = 1 << 12;
        /// The local port was given by bind(2).
        const BINDPORT_LOCK = 1 << 13;
        /// `SO_NO_CHECK`.
        const NO_CHECK = 1 << 14;
        /// `SO_DONTROUTE`.
        const DONTROUTE = 1 << 15;
        /// `IP_FREEBIND`.
        const FREEBIND = 1 << 16;
        /// `IP_TRANSPARENT`.
        const TRANSPARENT = 1 << 17;
        /// `IP_HDRINCL`.
        const HDRINCL = 1 << 18;
        /// `IP_RECVERR`.
        const RECVERR = 1 << 19;
        /// `IPV6_RECVERR`.
        const RECVERR6 = 1 << 20;
        /// `IP_PKTINFO`.
        const PKTINFO = 1 << 21;
        /// `IPV6_RECVPKTINFO`.
        const PKTINFO6 = 1 << 22;
        /// `IP_RECVTTL`.
        const RECVTTL = 1 << 23;
        /// `IPV6_RECVHOPLIMIT`.
        const RECVHOPLIMIT = 1 << 24;
        /// `IP_RECVTOS`.
        const RECVTOS = 1 << 25;
        /// `IPV6_RECVTCLASS`.
        const RECVTCLASS = 1 << 26;
        /// `IP_RECVORIGDSTADDR`.
        const RECVORIGDST = 1 << 27;
        /// `IP_BIND_ADDRESS_NO_PORT`.
        const BIND_NO_PORT = 1 << 28;
        /// `IP_MULTICAST_LOOP`.
        const MC_LOOP = 1 << 29;
        /// `IP_MULTICAST_ALL`.
        const MC_ALL = 1 << 30;
        /// `IPV6_MULTICAST_LOOP`.
        const MC6_LOOP = 1 << 31;
        /// `IPV6_MULTICAST_ALL`.
        const MC6_ALL = 1 << 32;
        /// `SO_RXQ_OVFL`.
        const RXQ_OVFL = 1 << 33;
        /// `IPV6_AUTOFLOWLABEL`.
        const AUTOFLOWLABEL = 1 << 34;
        /// `IP_RECVOPTS`.
        const RECVOPTS = 1 << 35;
        /// `IP_RETOPTS`.
        const RETOPTS = 1 << 36;
        /// `SO_DEBUG`.
        const DEBUG = 1 << 37;
        /// `SO_ZEROCOPY`.
        const ZEROCOPY = 1 << 38;
        /// `SO_LOCK_FILTER`.
        const LOCK_FILTER = 1 << 39;
        /// `IPV6_DONTFRAG`.
        const DONTFRAG6 = 1 << 40;
        /// `IPV6_RECVORIGDSTADDR`.
        const RECVORIGDST6 = 1 << 41;
        /// `SO_PASSCRED`-like options that are kept and have no effect here.
        const PASSCRED = 1 << 42;
        /// `SO_RCVMARK`.
        const RCVMARK = 1 << 43;
        /// `SO_RCVPRIORITY`.
        const RCVPRIORITY = 1 << 44;
        /// `SO_WIFI_STATUS` and its like: kept, no effect.
        const WIFI_STATUS = 1 << 45;
        /// `IP_NODEFRAG`.
        const NODEFRAG = 1 << 46;
        /// `SO_SELECT_ERR_QUEUE`.
        const SELECT_ERR = 1 << 47;
        /// `IPV6_FLOWINFO_SEND`.
        const FLOWINFO_SEND = 1 << 48;
        /// `IPV6_FLOWINFO`.
        const FLOWINFO = 1 << 49;
        /// `connect(2)`, not `bind(2)`, chose the local port (no `SOCK_BINDPORT_LOCK`): disconnecting releases it.
        const CONNECT_PORT = 1 << 50;
        /// `IP_CHECKSUM`: recvmsg reports the checksum.
        const IP_CHECKSUM = 1 << 51;
        /// `IP_RECVFRAGSIZE`.
        const RECVFRAGSIZE = 1 << 52;
        /// `IPV6_RECVPATHMTU`.
        const RECVPATHMTU = 1 << 53;
        /// `IP_RECVERR_RFC4884`.
        const RECVERR_RFC4884 = 1 << 54;
    }
}

/// `IP_PMTUDISC_*` (the same numbers for IPv6).
#[allow(missing_docs, reason = "ip(7)")]
pub mod pmtudisc {
    pub const DONT: u8 = 0;
    pub const WANT: u8 = 1;
    pub const DO: u8 = 2;
    pub const PROBE: u8 = 3;
    pub const INTERFACE: u8 = 4;
    pub const OMIT: u8 = 5;
}

/// Options that few sockets set; allocated with the first of them.
#[derive(Clone, Debug)]
pub struct RareOpts {
    /// `IP_MULTICAST_TTL`.
    pub mc_ttl: u8,
    /// `IPV6_MULTICAST_HOPS`, 0..=255.
    pub mc_hops: u8,
    /// `IP_MINTTL`.
    pub min_ttl: u8,
    /// `IPV6_MINHOPCOUNT`.
    pub min_hops: u8,
    /// `IP_MULTICAST_IF`: device.
    pub mc_index: IfIndex,
    /// `IP_MULTICAST_IF`: address.
    pub mc_addr: Ipv4Addr,
    /// `IPV6_MULTICAST_IF`.
    pub mc6_index: IfIndex,
    /// `IP_UNICAST_IF` and `IPV6_UNICAST_IF`.
    pub uc_index: IfIndex,
    /// Groups joined.
    pub groups: Vec<super::mcast::Membership>,
    /// `ICMP_FILTER`: set bits are types that are dropped.
    pub icmp_filter: u32,
    /// `ICMP6_FILTER`: set bits are types that are dropped.
    pub icmp6_filter: [u32; 8],
    /// Error queue (`sk_error_queue`).
    pub errq: ErrQueue,
    /// `SO_ATTACH_FILTER`.
    pub filter: Option<Box<super::BpfProg>>,
    /// `SO_RCVTIMEO`, nanoseconds; 0 for none. The edge waits, this only remembers.
    pub rcvtimeo: u64,
    /// `SO_SNDTIMEO`, nanoseconds; 0 for none.
    pub sndtimeo: u64,
    /// `SO_PEEK_OFF`; negative when off.
    pub peek_off: i32,
    /// `SO_TIMESTAMPING` flags.
    pub tsflags: u32,
    /// `SO_RCVLOWAT`, bytes.
    pub rcvlowat: i32,
    /// `SO_BUSY_POLL`, kept.
    pub busy_poll: i32,
    /// `SO_INCOMING_CPU`, kept.
    pub incoming_cpu: i32,
    /// `SO_MAX_PACING_RATE`, bytes per second.
    pub max_pacing_rate: u64,
    /// `IP_OPTIONS`.
    pub ip_options: Vec<u8>,
    /// `IP_LOCAL_PORT_RANGE`: low and high, 0 for the namespace's.
    pub port_range: (u16, u16),
    /// Last packet's arrival, wall clock nanoseconds (`SIOCGSTAMP`).
    pub stamp: u64,
    /// `IPV6_TCLASS`.
    pub tclass: i16,
    /// `IPV6_PKTINFO` set as an option: source and device.
    pub sticky_pktinfo: Option<(Ipv6Addr, IfIndex)>,
    /// `IPV6_MTU`; 0 when not set.
    pub frag_size: u32,
    /// `IPV6_USE_MIN_MTU`, `IPV6_ADDR_PREFERENCES`, kept.
    pub addr_prefs: i32,
}

impl Default for RareOpts {
    fn default() -> Self {
        RareOpts {
            mc_ttl: 1,
            mc_hops: 1,
            min_ttl: 0,
            min_hops: 0,
            mc_index: IfIndex::NONE,
            mc_addr: Ipv4Addr::UNSPECIFIED,
            mc6_index: IfIndex::NONE,
            uc_index: IfIndex::NONE,
            groups: Vec::new(),
            icmp_filter: 0,
            icmp6_filter: [0; 8],
            errq: ErrQueue::default(),
            filter: None,
            rcvtimeo: 0,
            sndtimeo: 0,
            peek_off: -1,
            tsflags: 0,
            rcvlowat: 1,
            busy_poll: 0,
            incoming_cpu: -1,
            max_pacing_rate: u64::MAX,
            ip_options: Vec::new(),
            port_range: (0, 0),
            stamp: 0,
            tclass: -1,
            sticky_pktinfo: None,
            frag_size: 0,
            addr_prefs: 0,
        }
    }
}

/// The part that every socket has; about 170 bytes.
#[derive(Clone, Debug)]
pub struct SockCommon {
    /// `AF_INET` 2, `AF_INET6` 10, `AF_PACKET` 17.
    pub family: u8,
    /// Set of [`shut`].
    pub shutdown: u8,
    /// `IP_TOS`.
    pub tos: u8,
    /// `IP_TTL`; 0 for the default.
    pub ttl: u8,
    /// `IPV6_UNICAST_HOPS`; -1 for the default.
    pub hops: i16,
    /// `IP_MTU_DISCOVER`.
    pub pmtudisc: u8,
    /// `IPV6_MTU_DISCOVER`.
    pub pmtudisc6: u8,
    /// Local port; 0 when not bound.
    pub lport: u16,
    /// `SO_LINGER`, seconds.
    pub linger: u16,
    /// Readiness edges not taken yet.
    pub(super) edges: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Local address in the socket's own family (IPv4 as mapped on an IPv6 socket); unspecified when any.
    pub local: IpAddr,
    /// The peer, likewise.
    pub peer: Option<(IpAddr, u16)>,
    /// `SO_BINDTODEVICE`.
    pub bound_dev: IfIndex,
    /// `SO_MARK`.
    pub mark: u32,
    /// `SO_PRIORITY`.
    pub priority: u32,
    /// Owner.
    pub uid: u32,
    /// What the `linux` crate knows it by; 0 while nobody accepted it.
    pub token: u64,
    /// Inode of the program's descriptor.
    pub inode: u64,
    /// Options that are on or off.
    pub flags: SockFlags,
    /// Receive buffer in bytes, as `SO_RCVBUF` reads (doubled).
    pub rcvbuf: i32,
    /// Send buffer in bytes, likewise.
    pub sndbuf: i32,
    /// Pending error (`sk_err`).
    pub err: Option<Errno>,
    /// Error that explains a later timeout (`sk_err_soft`).
    pub soft_err: Option<Errno>,
    /// Entry in the bind table.
    pub(super) bind: Option<BindId>,
    /// Rare options.
    pub opts: Option<Box<RareOpts>>,
}

/// `AF_INET`.
pub const AF_INET: u8 = 2;
/// `AF_INET6`.
pub const AF_INET6: u8 = 10;
/// `AF_PACKET`.
pub const AF_PACKET: u8 = 17;

/// What a socket chooses of the IP header and of the packet's marks (`inet_sk`, `inet6_sk`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IpFields {
    /// TOS, or the traffic class of IPv6.
    pub(crate) tos: u8,
    /// TTL, or the hop limit of IPv6; 0 for that of the route.
    pub(crate) ttl: u8,
    /// `SO_MARK`.
    pub(crate) mark: u32,
    /// `SO_PRIORITY`.
    pub(crate) priority: u32,
}

impl SockCommon {
    /// The header fields for unicast packets to an address of this family. A socket of `AF_INET6` that talks to an
    /// IPv4-mapped address sends IPv4, with `IP_TTL` and `IP_TOS`.
    pub(crate) fn ip_fields(&self, family: Family) -> IpFields {
        let (tos, ttl) = match family {
            Family::V4 => (self.tos, self.ttl),
            Family::V6 => {
                let tclass = self.opts.as_ref().map_or(0, |o| u8::try_from(o.tclass).unwrap_or(0));
                (tclass, u8::try_from(self.hops).unwrap_or(0))
            }
        };
        IpFields { tos, ttl, mark: self.mark, priority: self.priority }
    }
    /// A fresh socket's common part.
    #[must_use]
    pub fn new(family: u8, protocol: u8) -> Self {
        let local = if family == AF_INET6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        SockCommon {
            family,
            shutdown: 0,
            tos: 0,
            ttl: 0,
            hops: -1,
            pmtudisc: pmtudisc::WANT,
            pmtudisc6: pmtudisc::WANT,
            lport: 0,
            linger: 0,
            edges: 0,
            protocol,
            local,
            peer: None,
            bound_dev: IfIndex::NONE,
            mark: 0,
            priority: 0,
            uid: 0,
            token: 0,
            inode: 0,
            flags: SockFlags::MC_LOOP | SockFlags::MC_ALL | SockFlags::MC6_LOOP | SockFlags::MC6_ALL,
            rcvbuf: 212_992,
            sndbuf: 212_992,
            err: None,
            soft_err: None,
            bind: None,
            opts: None,
        }
    }

    /// The rare options, to change; made when missing.
    pub fn rare(&mut self) -> &mut RareOpts {
        self.opts.get_or_insert_with(Box::default)
    }

    /// An IPv6 socket?
    #[inline]
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.family == AF_INET6
    }

    /// An address as this socket stores it: IPv4 becomes mapped on an IPv6 socket.
    #[inline]
    #[must_use]
    pub fn own_family(&self, a: IpAddr) -> IpAddr {
        match a {
            IpAddr::V4(a) if self.is_v6() => IpAddr::V6(if a.is_unspecified() && self.peer.is_none() {
                Ipv6Addr::UNSPECIFIED
            } else {
                a.to_ipv6_mapped()
            }),
            IpAddr::V4(_) | IpAddr::V6(_) => a,
        }
    }

    /// `SO_LINGER` with a time of 0: close(2) resets.
    #[must_use]
    pub fn linger_zero(&self) -> bool {
        self.flags.contains(SockFlags::LINGER) && self.linger == 0
    }

    /// Takes the pending error (`sock_error`).
    pub fn take_err(&mut self) -> Option<Errno> {
        self.err.take()
    }

    /// The local address is any (`inet_rcv_saddr_any`)?
    #[inline]
    #[must_use]
    pub fn any_addr(&self) -> bool {
        self.local.to_canonical().is_unspecified()
    }

    /// What a connection takes over from its listener (`sk_clone_lock`): options, not identity.
    pub(super) fn clone_for_child(&self) -> SockCommon {
        let opts = self
            .opts
            .as_ref()
            .map(|o| Box::new(RareOpts { groups: Vec::new(), errq: ErrQueue::default(), ..(**o).clone() }));
        SockCommon {
            token: 0,
            inode: 0,
            edges: 0,
            shutdown: 0,
            err: None,
            soft_err: None,
            bind: None,
            opts,
            ..self.clone()
        }
    }
}
