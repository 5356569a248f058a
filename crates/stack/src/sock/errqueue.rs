//! The error queue (`MSG_ERRQUEUE`, `IP_RECVERR`), and ICMP errors on their way to sockets.

use core::net::IpAddr;
use std::collections::VecDeque;

use ferronet_core::{Errno, IfIndex};
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use super::{SockFlags, SockKey, poll};
use crate::ipv4::icmp::IcmpError;
use crate::ns::Namespace;

/// Who says it (`SO_EE_ORIGIN_*`).
#[allow(missing_docs, reason = "linux/errqueue.h")]
pub mod origin {
    pub const LOCAL: u8 = 1;
    pub const ICMP: u8 = 2;
    pub const ICMP6: u8 = 3;
}

/// One entry: `struct sock_extended_err` with addresses and the data that caused it.
#[derive(Clone, Debug)]
pub struct SockErr {
    /// `ee_errno`.
    pub errno: Errno,
    /// `ee_origin`, see [`origin`].
    pub origin: u8,
    /// `ee_type`.
    pub icmp_type: u8,
    /// `ee_code`.
    pub code: u8,
    /// `ee_info`: path MTU.
    pub info: u32,
    /// `SO_EE_OFFENDER`.
    pub offender: Option<IpAddr>,
    /// Where the packet was going: what `msg_name` says.
    pub dest: (IpAddr, u16),
    /// Device the error came in on.
    pub dev: IfIndex,
    /// Where the ICMP error was sent to; the local end for a local error.
    pub to: IpAddr,
    /// Time to live (hop limit) the ICMP error arrived with; 0 for a local error.
    pub ttl: u8,
    /// Its type of service (traffic class).
    pub tos: u8,
    /// When it came, nanoseconds of the wall clock.
    pub stamp: u64,
    /// Payload of the packet, as far as it was quoted.
    pub data: Vec<u8>,
}

/// Entries at most; Linux bounds by receive memory.
const LIMIT: usize = 128;

/// Errors that wait.
#[derive(Clone, Debug, Default)]
pub struct ErrQueue(VecDeque<SockErr>);

impl ErrQueue {
    /// Appends, unless full.
    pub fn push(&mut self, e: SockErr) -> bool {
        let room = self.0.len() < LIMIT;
        if room {
            self.0.push_back(e);
        }
        room
    }
    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<SockErr> {
        self.0.pop_front()
    }
    /// The oldest.
    #[must_use]
    pub fn front(&self) -> Option<&SockErr> {
        self.0.front()
    }
    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An ICMP error about a packet of ours; `transport` is the quoted transport header (at least 8 bytes) with what
/// was quoted behind it.
pub fn icmp_err(ns: &mut Namespace, e: &IcmpError, transport: &[u8]) {
    super::raw::raw_icmp_error(ns, e, transport);
    match e.protocol {
        IPPROTO_TCP => crate::tcp::tcp_err(ns, e, transport),
        IPPROTO_UDP => crate::udp::udp_err(ns, e, transport),
        IPPROTO_ICMP | IPPROTO_ICMPV6 => super::ping::ping_err(ns, e, transport),
        _ => {}
    }
}

/// Puts an error where the program sees it: the queue when it asked for it (`ip_icmp_error`), and `SO_ERROR` when
/// it is hard or the program asked (`sk_error_report`). `data` is the payload that was quoted.
pub(crate) fn report(
    ns: &mut Namespace,
    key: SockKey,
    e: &IcmpError,
    dest: (IpAddr, u16),
    data: &[u8],
    always: bool,
) {
    let stamp = ns.env.wall_offset + ns.env.now.0;
    let Ok(c) = ns.socks.common_mut(key) else { return };
    let v6 = e.daddr.is_ipv6();
    let recverr = c.flags.contains(if v6 { SockFlags::RECVERR6 } else { SockFlags::RECVERR });
    if recverr {
        let entry = SockErr {
            errno: e.errno,
            origin: if v6 { origin::ICMP6 } else { origin::ICMP },
            icmp_type: e.icmp_type,
            code: e.code,
            info: e.mtu,
            offender: Some(e.from),
            dest,
            dev: e.dev,
            to: e.to,
            ttl: e.ttl,
            tos: e.tos,
            stamp,
            data: data.to_vec(),
        };
        c.rare().errq.push(entry);
    } else if !always {
        return;
    }
    c.err = Some(e.errno);
    ns.socks.event(key, poll::ERR | poll::IN | poll::OUT);
}

/// A local error, such as a packet larger than the path MTU (`ip_local_error`).
pub(crate) fn local_error(ns: &mut Namespace, key: SockKey, errno: Errno, info: u32, dest: (IpAddr, u16)) {
    let stamp = ns.env.wall_offset + ns.env.now.0;
    let Ok(c) = ns.socks.common_mut(key) else { return };
    let v6 = dest.0.is_ipv6();
    if !c.flags.contains(if v6 { SockFlags::RECVERR6 } else { SockFlags::RECVERR }) {
        return;
    }
    let e = SockErr {
        errno,
        origin: origin::LOCAL,
        icmp_type: 0,
        code: 0,
        info,
        offender: None,
        dest,
        dev: IfIndex::NONE,
        to: dest.0,
        ttl: 0,
        tos: 0,
        stamp,
        data: Vec::new(),
    };
    c.rare().errq.push(e);
    c.err = Some(errno);
    ns.socks.event(key, poll::ERR);
}
