//! `/proc/net/{udp,udp6,udplite,udplite6,raw,raw6,icmp,icmp6,packet}`.

use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferronet_stack::Namespace;
use ferronet_stack::sock::{Proto, SockKey};
use slotmap::Key as _;

use super::tcp::{hex, pointer};
use crate::kernel::Kernel;

/// Chains of the kernel's UDP table: a socket's chain is its line number.
const UDP_CHAINS: usize = 16_384;
/// `TCP_ESTABLISHED` and `TCP_CLOSE` stand for connected and not.
const CONNECTED: u8 = 1;
const UNCONNECTED: u8 = 7;

/// Line number, width of that column, and the socket.
type Entry = (usize, SockKey);

/// The IPv6 form of all of them (`ip6_dgram_sock_seq_show`).
const HEAD6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue \
                     tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

/// One line without the newline; the socket's queue, or nothing when it is of the other family.
fn row(ns: &Namespace, (n, key): Entry, v6: bool, width: usize) -> Option<String> {
    let s = ns.socks.socks.get(key)?;
    let c = &s.common;
    if c.is_v6() != v6 {
        return None;
    }
    let (rmem, drops) = s.proto.rx().map_or((0, 0), |q| (q.rqueue(), q.drops));
    let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let (peer, pport) = c.peer.unwrap_or((any, 0));
    let (lport, pport) = match s.proto {
        // Raw sockets show their protocol as the port.
        Proto::Raw(_) => (u16::from(c.protocol), 0),
        Proto::Tcp(_) | Proto::Udp(_) | Proto::Ping(_) | Proto::Packet(_) => (c.lport, pport),
    };
    let state = if c.peer.is_some() { CONNECTED } else { UNCONNECTED };
    Some(format!(
        "{n:>width$}: {}:{lport:04X} {}:{pport:04X} {state:02X} {:08X}:{rmem:08X} 00:00000000 00000000 {:>5} {:>8} {} 2 {} \
         {drops}",
        hex(c.local, v6),
        hex(peer, v6),
        0,
        c.uid,
        0,
        c.inode,
        pointer(key.data().as_ffi())
    ))
}

/// Lines padded to 127 columns (`udp4_seq_show`, `ping_v4_seq_show`).
fn padded(ns: &Namespace, head: &str, entries: impl Iterator<Item = Entry>) -> Vec<u8> {
    let mut s = format!("{head:<127}\n");
    for r in entries.filter_map(|e| row(ns, e, false, 5)) {
        let _ = writeln!(s, "{r:<127}");
    }
    s.into_bytes()
}

fn plain(
    ns: &Namespace,
    head: &str,
    v6: bool,
    width: usize,
    entries: impl Iterator<Item = Entry>,
) -> Vec<u8> {
    let mut s = head.to_owned();
    for r in entries.filter_map(|e| row(ns, e, v6, width)) {
        let _ = writeln!(s, "{r}");
    }
    s.into_bytes()
}

/// UDP's header has one space more than the others.
const UDP_HEAD: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
const HEAD4: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";

fn udp_entries(ns: &Namespace) -> impl Iterator<Item = Entry> {
    let mut v: Vec<Entry> =
        ns.socks.udp.sorted().into_iter().map(|(port, key)| (usize::from(port) % UDP_CHAINS, key)).collect();
    v.sort();
    v.into_iter()
}

/// `udp4_seq_show`.
pub(super) fn udp(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    padded(ns, UDP_HEAD, udp_entries(ns))
}

/// `udp6_seq_show`.
pub(super) fn udp6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    plain(ns, HEAD6, true, 5, udp_entries(ns))
}

/// There is no UDP-Lite.
pub(super) fn udplite(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    padded(ns, UDP_HEAD, core::iter::empty())
}

/// There is no UDP-Lite.
pub(super) fn udplite6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    plain(ns, HEAD6, true, 5, core::iter::empty())
}

fn raw_entries(ns: &Namespace, v6: bool) -> impl Iterator<Item = Entry> {
    ns.socks.raw.iter().filter(move |e| e.0 == v6).map(|(_, protocol, key)| (usize::from(protocol), key))
}

/// `raw_seq_show`.
pub(super) fn raw(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    plain(ns, &format!("{HEAD4}\n"), false, 4, raw_entries(ns, false))
}

/// `raw6_seq_show`.
pub(super) fn raw6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    plain(ns, HEAD6, true, 5, raw_entries(ns, true))
}

fn ping_entries(ns: &Namespace) -> impl Iterator<Item = Entry> {
    /// `PING_HTABLE_SIZE`.
    const CHAINS: usize = 64;
    let mut v: Vec<Entry> =
        ns.socks.ping.sorted().into_iter().map(|(id, key)| (usize::from(id) % CHAINS, key)).collect();
    v.sort();
    v.into_iter()
}

/// `ping_v4_seq_show`.
pub(super) fn icmp(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    padded(ns, HEAD4, ping_entries(ns))
}

/// `ping_v6_seq_show`.
pub(super) fn icmp6(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    plain(ns, HEAD6, true, 5, ping_entries(ns))
}

/// `packet_seq_show`.
pub(super) fn packet(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_owned();
    for &key in &ns.socks.packet.list {
        let Some(sock) = ns.socks.socks.get(key) else { continue };
        let Proto::Packet(p) = &sock.proto else { continue };
        // SOCK_DGRAM 2, SOCK_RAW 3.
        let ty = if p.dgram { 2 } else { 3 };
        let running = u8::from(p.is_running());
        let _ = writeln!(
            s,
            "{} {:<6} {ty:<4} {:04x}   {:<5} {running:<1} {:<6} {:<6} {:<6}",
            pointer(key.data().as_ffi()),
            2 + running,
            p.protocol,
            p.dev.0,
            p.rx.rmem,
            sock.common.uid,
            sock.common.inode
        );
    }
    s.into_bytes()
}
