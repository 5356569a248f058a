//! Sockets: the table, what all kinds have in common, ports, readiness (`net/core/sock.c`, `net/ipv4/af_inet.c`).

mod bpf;
pub mod common;
mod create;
pub mod datagram;
pub mod errqueue;
pub mod mcast;
pub mod packet;
pub mod ping;
pub mod ports;
pub mod raw;
pub(crate) mod xmit;

#[cfg(test)]
pub(crate) mod tests;

use core::net::IpAddr;

use ferronet_core::rng::Rng;
use ferronet_core::{Errno, IfIndex};
use slotmap::{SlotMap, new_key_type};

pub use bpf::{BpfInsn, BpfProg};
pub use common::{RareOpts, SockCommon, SockFlags, poll, shut};
pub use create::{NewSock, close, create, poll_bits};
pub use errqueue::{ErrQueue, SockErr, icmp_err};

use crate::tcp::{TcpSock, TcpTables};
use crate::udp::{UdpSock, UdpTable};
use packet::{PacketSock, PacketTable};
use ping::{PingSock, PingTable};
use ports::Ports;
use raw::{RawSock, RawTable};

new_key_type! {
    /// Names a socket of one namespace.
    pub struct SockKey;
}

/// Sockets per namespace at most.
pub const MAX_SOCKS: usize = 4_000_000;

/// A socket.
#[derive(Debug)]
pub struct Sock {
    /// What all kinds have.
    pub common: SockCommon,
    /// Its protocol's part.
    pub proto: Proto,
}

/// The protocols.
#[derive(Debug)]
pub enum Proto {
    /// `SOCK_STREAM`.
    Tcp(Box<TcpSock>),
    /// `SOCK_DGRAM`.
    Udp(Box<UdpSock>),
    /// `SOCK_RAW`.
    Raw(Box<RawSock>),
    /// `SOCK_DGRAM` with `IPPROTO_ICMP` or `IPPROTO_ICMPV6`.
    Ping(Box<PingSock>),
    /// `AF_PACKET`.
    Packet(Box<PacketSock>),
}

/// All sockets of a namespace with the tables that find them.
#[derive(Debug)]
pub struct Sockets {
    /// The sockets.
    pub socks: SlotMap<SockKey, Sock>,
    /// Sockets with readiness edges that nobody took yet; each is listed once.
    events: Vec<SockKey>,
    /// Local ports.
    pub ports: Ports,
    /// Connections, listeners, requests, TIME_WAIT.
    pub tcp: TcpTables,
    /// UDP sockets by port.
    pub udp: UdpTable,
    /// Raw sockets by protocol.
    pub raw: RawTable,
    /// Ping sockets.
    pub ping: PingTable,
    /// Packet sockets.
    pub packet: PacketTable,
}

impl Sockets {
    /// No sockets.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        Sockets {
            socks: SlotMap::with_key(),
            events: Vec::new(),
            ports: Ports::new(rng),
            tcp: TcpTables::new(rng),
            udp: UdpTable::new(rng),
            raw: RawTable::default(),
            ping: PingTable::new(rng),
            packet: PacketTable::default(),
        }
    }

    /// Readiness edges of a socket: `bits` of [`poll`] became true. They add up until taken.
    pub fn event(&mut self, key: SockKey, bits: u16) {
        let Some(s) = self.socks.get_mut(key) else { return };
        // A connection that was not accepted yet has no program to tell; accept(2) looks at its state.
        if bits == 0 || s.common.token == 0 {
            return;
        }
        if s.common.edges == 0 {
            self.events.push(key);
        }
        s.common.edges |= bits;
    }

    /// Takes all edges: token and bits, in order of their first occurrence.
    pub fn take_events(&mut self, f: &mut dyn FnMut(u64, u16)) {
        for key in core::mem::take(&mut self.events) {
            if let Some(s) = self.socks.get_mut(key) {
                f(s.common.token, core::mem::take(&mut s.common.edges));
            }
        }
    }

    /// Anything to take?
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// A connection out of a listener (`inet_csk_clone_lock`): it has the listener's options and shares its port.
    /// Addresses come in their canonical form and are stored in the listener's family. `None` when there are too
    /// many sockets.
    pub fn new_child(
        &mut self,
        parent: SockKey,
        local: (IpAddr, u16),
        peer: (IpAddr, u16),
        dev: IfIndex,
        tcp: TcpSock,
    ) -> Option<SockKey> {
        if self.socks.len() >= MAX_SOCKS {
            return None;
        }
        let mut common = self.socks.get(parent)?.common.clone_for_child();
        common.lport = local.1;
        common.local = common.own_family(local.0);
        common.peer = Some((common.own_family(peer.0), peer.1));
        // Link-local peers are reached through the device that the handshake came in on.
        if matches!(peer.0, IpAddr::V6(a) if a.is_unicast_link_local()) && common.bound_dev.is_none() {
            common.bound_dev = dev;
        }
        let key = self.socks.insert(Sock { common, proto: Proto::Tcp(Box::new(tcp)) });
        ports::inherit(self, key);
        Some(key)
    }

    /// What a socket has in common with others, by key.
    ///
    /// # Errors
    /// `EBADF` when there is no such socket.
    pub fn common(&self, key: SockKey) -> Result<&SockCommon, Errno> {
        self.socks.get(key).map(|s| &s.common).ok_or(Errno::EBADF)
    }

    /// Likewise, to change.
    ///
    /// # Errors
    /// `EBADF` when there is no such socket.
    pub fn common_mut(&mut self, key: SockKey) -> Result<&mut SockCommon, Errno> {
        self.socks.get_mut(key).map(|s| &mut s.common).ok_or(Errno::EBADF)
    }
}
