//! Making and closing sockets.

use ferronet_core::{Errno, Sysctl};

use super::{MAX_SOCKS, Proto, Sock, SockCommon, SockFlags, SockKey, mcast, packet, ports};
use crate::ns::Namespace;

/// What a new socket is.
#[derive(Clone, Copy, Debug)]
pub struct NewSock {
    /// `AF_INET` 2, `AF_INET6` 10, `AF_PACKET` 17.
    pub family: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Owner.
    pub uid: u32,
    /// What the program's side knows it by; not 0.
    pub token: u64,
}

/// Makes a socket; `proto` is its fresh protocol part.
///
/// # Errors
/// `ENFILE` when there are too many.
pub fn create(ns: &mut Namespace, new: NewSock, proto: Proto) -> Result<SockKey, Errno> {
    if ns.socks.socks.len() >= MAX_SOCKS {
        return Err(Errno::ENFILE);
    }
    let clip = |v: i64| i32::try_from(v).unwrap_or(i32::MAX);
    let mut common = SockCommon::new(new.family, new.protocol);
    common.uid = new.uid;
    common.token = new.token;
    let s = &ns.env.sysctl;
    (common.rcvbuf, common.sndbuf) = match proto {
        Proto::Tcp(_) => (clip(s.get3(Sysctl::TcpRmem)[1]), clip(s.get3(Sysctl::TcpWmem)[1])),
        Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => {
            (clip(s.get(Sysctl::RmemDefault)), clip(s.get(Sysctl::WmemDefault)))
        }
    };
    common.flags.set(SockFlags::V6ONLY, common.is_v6() && s.on(Sysctl::Ip6Bindv6only));
    if s.get(Sysctl::IpNoPmtuDisc) != 0 {
        common.pmtudisc = super::common::pmtudisc::DONT;
    }
    // inet6_create leaves IP_MULTICAST_ALL off.
    common.flags.set(SockFlags::MC_ALL, !common.is_v6());
    let raw = matches!(proto, Proto::Raw(_));
    let is_packet = matches!(proto, Proto::Packet(_));
    // IPPROTO_RAW: the program writes the header.
    if raw && new.protocol == ferronet_wire::ipproto::IPPROTO_RAW {
        common.flags |= SockFlags::HDRINCL;
    }
    let v6 = common.is_v6();
    // Raw sockets have INET_PROTOSW_REUSE.
    common.flags.set(SockFlags::REUSEADDR, raw);
    let key = ns.socks.socks.insert(Sock { common, proto });
    if raw {
        ns.socks.raw.insert(v6, new.protocol, key);
    }
    if is_packet {
        ns.socks.packet.list.push(key);
    }
    Ok(key)
}

/// The last descriptor was closed. A TCP connection may live on without a program.
pub fn close(ns: &mut Namespace, key: SockKey) {
    mcast::drop_all(ns, key);
    let Some(s) = ns.socks.socks.get_mut(key) else { return };
    s.common.token = 0;
    s.common.edges = 0;
    match &mut s.proto {
        Proto::Tcp(_) => {
            crate::tcp::user::close(ns, key);
            return;
        }
        Proto::Udp(_) => crate::udp::push_pending(ns, key),
        Proto::Raw(_) => ns.socks.raw.remove(key),
        Proto::Packet(_) => packet::release(ns, key),
        Proto::Ping(_) => {}
    }
    ports::release(ns, key);
    if let Some(mut s) = ns.socks.socks.remove(key)
        && let Some(rx) = s.proto.rx_mut()
    {
        rx.purge(&mut ns.env);
    }
}

/// Readiness of any socket, as [`super::poll`] bits.
#[must_use]
pub fn poll_bits(ns: &crate::ns::Namespace, key: SockKey) -> u16 {
    let Some(s) = ns.socks.socks.get(key) else { return super::poll::ERR | super::poll::HUP };
    match s.proto.rx() {
        Some(rx) => super::datagram::poll_bits(&s.common, rx),
        None => crate::tcp::user::poll_bits(ns, key),
    }
}
