//! Neighbours found without hashing are those of the table, whatever happened to them; limits of the tunables.

use ferronet_core::sysctl::NeighParm;
use ferronet_core::{IfIndex, NsId};
use ferronet_wire::MacAddr;

use super::output::neigh_update;
use super::{NeighKey, News, Update, nud};
use crate::fib::Family;
use crate::sysctl::Row;
use crate::testnet::{Net, ip};

const ADMIN: Update = Update { override_lladdr: true, weak_override: false, is_router: None, admin: true };

/// Of both families; the third and fourth share a place with the first two among those used lately.
const ADDRS: [&str; 4] = ["10.0.0.2", "fd00::2", "10.0.0.18", "fd00::12"];

struct One {
    net: Net,
    ns: NsId,
    dev: IfIndex,
    other: (NsId, IfIndex),
}

impl One {
    /// A device whose neighbours are all known and were just used.
    fn new() -> One {
        let mut net = Net::new(7);
        let (a, b) = (net.ns(), net.ns());
        let (dev, peer) = net.veth((a, "e", 1), (b, "e", 2));
        net.up(a, dev);
        net.up(b, peer);
        let mut o = One { net, ns: a, dev, other: (b, peer) };
        for (n, s) in ADDRS.into_iter().enumerate() {
            o.set(s, n as u8, nud::REACHABLE);
            assert_eq!(o.ready(s), Some(n as u8));
        }
        o
    }
    fn key(&self, s: &str) -> NeighKey {
        NeighKey { dev: self.dev, addr: ip(s) }
    }
    fn set(&mut self, s: &str, mac: u8, state: u8) {
        let news = News { lladdr: Some(MacAddr([2, 0, 0, 0, 1, mac])), state, how: ADMIN };
        let key = self.key(s);
        neigh_update(self.net.at(self.ns), key, true, news);
    }
    fn ready(&mut self, s: &str) -> Option<u8> {
        let key = self.key(s);
        let n = self.net.at(self.ns);
        n.neigh.ready(n.env.now, key).map(|m| m.0[5])
    }
    fn all(&mut self) -> [Option<u8>; 4] {
        ADDRS.map(|s| self.ready(s))
    }
}

#[test]
fn a_change_of_address_or_state_is_seen_at_once() {
    let mut o = One::new();
    for (n, s) in ADDRS.into_iter().enumerate() {
        o.set(s, n as u8 + 100, nud::REACHABLE);
        assert_eq!(o.ready(s), Some(n as u8 + 100), "another link address");
        for state in [nud::STALE, nud::FAILED, nud::INCOMPLETE] {
            o.set(s, 1, nud::PERMANENT);
            assert_eq!(o.ready(s), Some(1));
            o.set(s, 1, state);
            assert_eq!(o.ready(s), None, "{s} in state {state:#x} is not to be used as it is");
        }
    }
}

#[test]
fn an_entry_that_is_gone_is_not_found_and_its_successor_is() {
    let mut o = One::new();
    for (n, s) in ADDRS.into_iter().enumerate() {
        let key = o.key(s);
        let m = o.net.at(o.ns);
        assert!(m.neigh.remove(&mut m.env, key));
        assert_eq!(o.ready(s), None);
        o.set(s, n as u8 + 50, nud::REACHABLE);
    }
    assert_eq!(o.all(), [Some(50), Some(51), Some(52), Some(53)], "each its own, in a shared place too");
}

/// What happens, and whether each of [`ADDRS`] is still known.
type Case = (&'static str, fn(&mut One), [bool; 4]);

#[test]
fn what_takes_a_devices_neighbours_takes_them_here() {
    let gone: [Case; 5] = [
        ("down", |o| o.net.down(o.ns, o.dev), [false; 4]),
        ("no carrier", |o| o.net.down(o.other.0, o.other.1), [false; 4]),
        (
            "another address of its own",
            |o| o.net.world.link_set_address(o.ns, o.dev, MacAddr([2, 0, 0, 0, 0, 9])).expect("set"),
            [false; 4],
        ),
        ("deleted", |o| o.net.world.link_del(o.ns, o.dev).expect("deleted"), [false; 4]),
        (
            "without IPv6",
            |o| {
                let n = o.net.at(o.ns);
                n.sysctl_write("ipv6/conf/e/disable_ipv6", b"1").expect("written");
            },
            [true, false, true, false],
        ),
    ];
    for (what, f, stays) in gone {
        let mut o = One::new();
        f(&mut o);
        assert_eq!(o.all().map(|m| m.is_some()), stays, "{what}");
    }
}

#[test]
fn the_largest_numbers_of_probes_are_no_overflow() {
    let mut o = One::new();
    let key = o.key("10.0.0.99");
    let n = o.net.at(o.ns);
    for p in
        [NeighParm::UcastSolicit, NeighParm::AppSolicit, NeighParm::McastSolicit, NeighParm::McastResolicit]
    {
        n.set_neigh_parm(Family::V4, Row::Dev(key.dev), p, i64::from(i32::MAX)).expect("a device");
    }
    super::output::neigh_event_send(n, key);
    o.net.pass(10_000);
    assert_eq!(o.net.at(o.ns).neigh.get(key).map(|n| n.state), Some(nud::INCOMPLETE), "still asking");
}
