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

/// A bound address decides before a bound device (`__inet_lookup_listener` looks for the address first), and a listener
/// of the segment's own family before a dual-stack one. A v4-mapped address is an IPv4 address.
fn score(c: &crate::sock::SockCommon, t: &FourTuple, dev: IfIndex) -> Option<u32> {
    let mut score = 1;
    if !c.bound_dev.is_none() {
        if c.bound_dev != dev {
            return None;
        }
        score += 2;
    }
    match (c.local.to_canonical(), t.laddr) {
        (a, b) if a == b => score += 8,
        (IpAddr::V4(a), IpAddr::V4(_)) if a.is_unspecified() => {}
        (IpAddr::V6(a), IpAddr::V6(_)) if a.is_unspecified() => {}
        // A wildcard IPv6 listener also takes IPv4, unless IPV6_V6ONLY.
        (IpAddr::V6(a), IpAddr::V4(_)) if a.is_unspecified() && !c.flags.contains(SockFlags::V6ONLY) => {}
        _ => return None,
    }
    Some(score + u32::from(c.local.is_ipv4() && t.laddr.is_ipv4()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sock::SockCommon;

    fn score_of(local: &str, dev: u32, to: &str) -> Option<u32> {
        let local: IpAddr = local.parse().unwrap();
        let mut c = SockCommon::new(if local.is_ipv6() { 10 } else { 2 }, 6);
        (c.local, c.bound_dev) = (local, IfIndex(dev));
        let to: IpAddr = to.parse().unwrap();
        score(&c, &FourTuple { laddr: to, lport: 80, raddr: to, rport: 9 }, IfIndex(3))
    }

    #[test]
    fn a_mapped_listener_takes_its_ipv4_address_only() {
        assert!(score_of("::ffff:127.0.0.1", 0, "127.0.0.1").is_some());
        assert!(score_of("::ffff:0.0.0.0", 0, "127.0.0.1").is_some());
        assert_eq!(score_of("::ffff:127.0.0.1", 0, "127.0.0.2"), None);
        assert_eq!(score_of("::ffff:127.0.0.1", 0, "::1"), None);
        assert_eq!(score_of("::ffff:0.0.0.0", 0, "::1"), None);
    }

    #[test]
    fn the_address_decides_before_the_device_and_the_family() {
        let best_first = [
            ("127.0.0.1", 3),
            ("127.0.0.1", 0),
            ("::ffff:127.0.0.1", 0),
            ("0.0.0.0", 3),
            ("::", 3),
            ("0.0.0.0", 0),
            ("::", 0),
        ];
        let scores: Vec<_> = best_first.iter().map(|(a, d)| score_of(a, *d, "127.0.0.1").unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a > b), "{scores:?}");
        assert_eq!(score_of("0.0.0.0", 4, "127.0.0.1"), None);
    }
}
