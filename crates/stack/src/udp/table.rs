//! Finding UDP sockets: connected ones by their four-tuple, others by port with a score (`__udp4_lib_lookup`).

use core::net::IpAddr;

use ferronet_core::IfIndex;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use smallvec::SmallVec;

use crate::ns::Namespace;
use crate::sock::{Proto, SockCommon, SockFlags, SockKey, Sockets};
use crate::tcp::FourTuple;

/// UDP sockets of one port.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) open: SmallVec<[SockKey; 2]>,
    pub(super) connected: SmallVec<[SockKey; 1]>,
}

/// The table.
#[derive(Debug)]
pub struct UdpTable {
    ports: KeyedMap<u16, Port>,
    /// `hash4`: connected sockets by canonical addresses.
    conn: KeyedMap<FourTuple, SmallVec<[SockKey; 1]>>,
}

impl UdpTable {
    /// An empty table with its own keys.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        UdpTable {
            ports: KeyedMap::with_hasher(KeyedState::new(rng)),
            conn: KeyedMap::with_hasher(KeyedState::new(rng)),
        }
    }

    /// The keyed hash of flows, for SO_REUSEPORT groups.
    pub(super) fn hasher(&self) -> &KeyedState {
        self.conn.hasher()
    }

    /// All sockets, by port.
    #[must_use]
    pub fn sorted(&self) -> Vec<(u16, SockKey)> {
        let mut v: Vec<_> = self
            .ports
            .iter()
            .flat_map(|(p, l)| l.open.iter().chain(&l.connected).map(|k| (*p, *k)))
            .collect();
        v.sort();
        v
    }

    /// All sockets of a port.
    pub(super) fn of_port(&self, port: u16) -> SmallVec<[SockKey; 4]> {
        self.ports
            .get(&port)
            .map(|l| l.open.iter().chain(&l.connected).copied().collect())
            .unwrap_or_default()
    }
}

/// The canonical four-tuple of a connected socket.
fn tuple_of(c: &SockCommon) -> Option<FourTuple> {
    let (raddr, rport) = c.peer?;
    let laddr = c.local.to_canonical();
    (!laddr.is_unspecified()).then(|| FourTuple { laddr, lport: c.lport, raddr: raddr.to_canonical(), rport })
}

/// Enters a UDP socket that has a port (`udp_lib_get_port`, `udp_lib_hash4`); others are left alone.
pub(crate) fn hash(ns: &mut Namespace, key: SockKey) {
    let Some(s) = ns.socks.socks.get_mut(key) else { return };
    let Proto::Udp(u) = &mut s.proto else { return };
    if s.common.lport == 0 || u.hashed {
        return;
    }
    u.hashed = true;
    let port = ns.socks.udp.ports.entry(s.common.lport).or_default();
    match tuple_of(&s.common) {
        Some(t) => {
            port.connected.push(key);
            ns.socks.udp.conn.entry(t).or_default().push(key);
        }
        None => port.open.push(key),
    }
}

/// Takes a UDP socket out; call it before its addresses change.
pub(crate) fn unhash(ns: &mut Namespace, key: SockKey) {
    let Some(s) = ns.socks.socks.get_mut(key) else { return };
    let Proto::Udp(u) = &mut s.proto else { return };
    if !core::mem::take(&mut u.hashed) {
        return;
    }
    let table = &mut ns.socks.udp;
    if let Some(l) = table.ports.get_mut(&s.common.lport) {
        let list = if tuple_of(&s.common).is_some() {
            remove(&mut l.connected, key)
        } else {
            remove(&mut l.open, key)
        };
        debug_assert!(list, "a hashed socket is in its list");
        if l.open.is_empty() && l.connected.is_empty() {
            table.ports.remove(&s.common.lport);
        }
    }
    if let Some(t) = tuple_of(&s.common)
        && let Some(l) = table.conn.get_mut(&t)
    {
        remove(l, key);
        if l.is_empty() {
            table.conn.remove(&t);
        }
    }
}

fn remove<A: smallvec::Array<Item = SockKey>>(l: &mut SmallVec<A>, key: SockKey) -> bool {
    match l.iter().position(|k| *k == key) {
        Some(i) => {
            l.remove(i);
            true
        }
        None => false,
    }
}

/// Does a socket take datagrams for `t.laddr` on `dev` (`compute_score` without the peer)? Higher is closer.
pub(super) fn score(c: &SockCommon, laddr: IpAddr, dev: IfIndex) -> Option<u32> {
    let mut score = match (c.local, laddr) {
        (IpAddr::V4(a), IpAddr::V4(b)) if a.is_unspecified() || a == b => 2 + 4 * u32::from(a == b),
        (IpAddr::V6(a), IpAddr::V6(b)) if a.is_unspecified() || a == b => 1 + 4 * u32::from(a == b),
        (IpAddr::V6(a), IpAddr::V4(_)) if a.is_unspecified() && !c.flags.contains(SockFlags::V6ONLY) => 1,
        (IpAddr::V6(a), IpAddr::V4(b)) => match a.to_ipv4_mapped()? {
            m if m == b || m.is_unspecified() => 1 + 4 * u32::from(m == b),
            _ => return None,
        },
        _ => return None,
    };
    if !c.bound_dev.is_none() {
        if c.bound_dev != dev {
            return None;
        }
        score += 4;
    }
    Some(score)
}

/// The socket for a datagram: connected, else the best score; among equals of a SO_REUSEPORT group the flow's
/// hash decides.
pub(super) fn lookup(socks: &Sockets, t: &FourTuple, dev: IfIndex, hash: u32) -> Option<SockKey> {
    if let Some(l) = socks.udp.conn.get(t) {
        for &k in l {
            let c = &socks.socks.get(k)?.common;
            if c.bound_dev.is_none() || c.bound_dev == dev {
                return Some(k);
            }
        }
    }
    let open = &socks.udp.ports.get(&t.lport)?.open;
    let (mut best, mut best_score, mut equals) = (None, 0, 0u32);
    let mut group = false;
    for &k in open {
        let Some(c) = socks.socks.get(k).map(|s| &s.common) else { continue };
        if c.peer.is_some() {
            continue;
        }
        match score(c, t.laddr, dev) {
            Some(s) if s > best_score => {
                (best, best_score, equals) = (Some(k), s, 1);
                group = c.flags.contains(SockFlags::REUSEPORT);
            }
            Some(s) if s == best_score && group && c.flags.contains(SockFlags::REUSEPORT) => equals += 1,
            Some(_) | None => {}
        }
    }
    if equals < 2 {
        return best;
    }
    // reciprocal_scale(hash, group size), as reuseport_select_sock.
    let mut pick = ((u64::from(hash) * u64::from(equals)) >> 32) as u32;
    for &k in open {
        let Some(c) = socks.socks.get(k).map(|s| &s.common) else { continue };
        let member = c.peer.is_none()
            && c.flags.contains(SockFlags::REUSEPORT)
            && score(c, t.laddr, dev) == Some(best_score);
        if member {
            if pick == 0 {
                return Some(k);
            }
            pick -= 1;
        }
    }
    best
}
