//! Finding the owner of a segment: one hash lookup for connections, one by port for listeners
//! (`__inet_lookup_established`, `__inet_lookup_listener`).

use core::hash::{Hash, Hasher};
use core::net::IpAddr;

use ferronet_core::IfIndex;

use super::{Owner, TcpTables};
use crate::sock::{SockFlags, SockKey, Sockets};

/// Addresses and ports of a connection, as seen from this host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FourTuple {
    /// Our address.
    pub laddr: IpAddr,
    /// Our port.
    pub lport: u16,
    /// The peer's address.
    pub raddr: IpAddr,
    /// The peer's port.
    pub rport: u16,
}

impl Hash for FourTuple {
    fn hash<H: Hasher>(&self, h: &mut H) {
        let ports = u64::from(self.lport) << 16 | u64::from(self.rport);
        match (self.laddr, self.raddr) {
            (IpAddr::V4(l), IpAddr::V4(r)) => {
                h.write_u64(u64::from(l.to_bits()) << 32 | u64::from(r.to_bits()));
                h.write_u64(ports);
            }
            (l, r) => {
                for a in [l, r] {
                    h.write_u128(match a {
                        IpAddr::V4(a) => u128::from(a.to_bits()),
                        IpAddr::V6(a) => a.to_bits(),
                    });
                }
                h.write_u64(ports);
            }
        }
    }
}

impl TcpTables {
    /// Who owns this connection.
    #[inline]
    #[must_use]
    pub fn established(&self, t: &FourTuple) -> Option<Owner> {
        self.ehash.get(t).copied()
    }

    /// Enters or replaces an owner.
    pub(super) fn hash(&mut self, t: FourTuple, o: Owner) {
        self.ehash.insert(t, o);
    }

    /// Takes an owner out, if it is the one given.
    pub(super) fn unhash(&mut self, t: &FourTuple, o: Owner) {
        if self.ehash.get(t) == Some(&o) {
            self.ehash.remove(t);
        }
    }

    pub(super) fn listen_hash(&mut self, port: u16, k: SockKey) {
        self.listeners.entry(port).or_default().push(k);
    }

    pub(super) fn listen_unhash(&mut self, port: u16, k: SockKey) {
        if let Some(l) = self.listeners.get_mut(&port) {
            l.retain(|x| *x != k);
            if l.is_empty() {
                self.listeners.remove(&port);
            }
        }
    }
}

/// The listener for a segment: the best score wins, among equals of a SO_REUSEPORT group the flow's hash
/// decides (`inet_lhash2_lookup`, `compute_score`).
pub(super) fn lookup_listener(socks: &Sockets, t: &FourTuple, dev: IfIndex, hash: u64) -> Option<SockKey> {
    let candidates = socks.tcp.listeners.get(&t.lport)?;
    let (mut best, mut best_score, mut equals) = (None, 0, 0u64);
    for &k in candidates {
        let Some(c) = socks.socks.get(k).map(|s| &s.common) else { continue };
        let Some(score) = score(c, t, dev) else { continue };
        if score > best_score {
            (best, best_score, equals) = (Some(k), score, 1);
        } else if score == best_score && c.flags.contains(SockFlags::REUSEPORT) {
            // Reservoir choice keyed by the flow: the same flow finds the same member.
            equals += 1;
            if hash.rotate_left(equals as u32).is_multiple_of(equals) {
                best = Some(k);
            }
        }
    }
    best
}

fn score(c: &crate::sock::SockCommon, t: &FourTuple, dev: IfIndex) -> Option<u32> {
    let mut score = 1;
    if !c.bound_dev.is_none() {
        if c.bound_dev != dev {
            return None;
        }
        score += 4;
    }
    match (c.local, t.laddr) {
        (a, b) if a == b => score += 2,
        (IpAddr::V4(a), IpAddr::V4(_)) if a.is_unspecified() => score += 1,
        // A wildcard IPv6 listener also takes IPv4, unless IPV6_V6ONLY.
        (IpAddr::V6(a), IpAddr::V6(_)) if a.is_unspecified() => score += 1,
        (IpAddr::V6(a), IpAddr::V4(_)) if a.is_unspecified() && !c.flags.contains(SockFlags::V6ONLY) => {}
        _ => return None,
    }
    Some(score)
}
