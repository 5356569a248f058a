//! What changed goes to the sockets that joined the groups (`rtnl_notify`, `netlink_broadcast`).

use ferronet_core::NsId;
use ferronet_stack::fib::Family;
use ferronet_stack::notify::Notify;

use super::codec::Msg;
use super::route::{self, link::View, rtm};
use super::{nsid, sock, sock_mut};
use crate::kernel::{Kernel, Ready, SockId};

/// Groups of rtnetlink (`RTNLGRP_*`).
mod group {
    pub(super) const LINK: u32 = 1;
    pub(super) const NEIGH: u32 = 3;
    pub(super) const IPV4_IFADDR: u32 = 5;
    pub(super) const IPV4_ROUTE: u32 = 7;
    pub(super) const IPV4_RULE: u32 = 8;
    pub(super) const IPV6_IFADDR: u32 = 9;
    pub(super) const IPV6_ROUTE: u32 = 11;
    pub(super) const IPV6_RULE: u32 = 19;
    pub(super) const IPV4_NETCONF: u32 = 24;
    pub(super) const IPV6_NETCONF: u32 = 25;
    pub(super) const NSID: u32 = 28;
}

/// The request that made a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) sock: SockId,
    pub(super) portid: u32,
    pub(super) seq: u32,
    /// `NLM_F_ECHO`: the asker gets a copy although it joined no group.
    pub(super) echo: bool,
}

/// Tells the namespaces whether anybody listens.
pub(super) fn listeners_changed(k: &mut Kernel) {
    let all = hears_all(k);
    let ids: Vec<NsId> = k.world.iter().map(|n| n.id).collect();
    for ns in ids {
        let listening = all || k.nl.listeners.contains_key(&ns);
        if k.world.ns(ns).is_some_and(|n| n.notify.listening != listening)
            && let Some(n) = k.world.ns_mut(ns)
        {
            n.notify.listening = listening;
            n.notify.take();
        }
    }
}

/// Does a socket listen to namespaces other than its own?
fn hears_all(k: &mut Kernel) -> bool {
    let socks: Vec<SockId> = k.nl.listeners.values().flatten().copied().collect();
    socks.into_iter().any(|s| sock_mut(k, s).is_some_and(|(_, s)| s.listens_all_nsid()))
}

/// Renders what changed and hands it to the listeners. Costs nothing when nobody listens.
pub fn drain(k: &mut Kernel) {
    drain_from(k, None);
}

/// Likewise after a request.
pub(super) fn drain_from(k: &mut Kernel, origin: Option<Origin>) {
    if k.nl.listeners.is_empty() {
        return;
    }
    let ids: Vec<NsId> = k.world.iter().filter(|n| !n.notify.is_empty()).map(|n| n.id).collect();
    for ns in ids {
        let Some(n) = k.world.ns_mut(ns) else { continue };
        let overrun = core::mem::take(&mut n.notify.overrun);
        for what in n.notify.take() {
            one(k, ns, what, origin);
        }
        if overrun {
            for s in k.nl.listeners.get(&ns).cloned().unwrap_or_default() {
                if let Some((_, sock)) = sock_mut(k, s) {
                    sock.overrun();
                    k.events.push((s, Ready::ERR));
                }
            }
        }
    }
}

/// A number for a namespace within another, with a message to those who listen for it.
pub(super) fn peernet2id_alloc(k: &mut Kernel, ns: NsId, other: NsId) -> i32 {
    let (id, new) = k.nl.nsids.alloc(ns, other);
    if new {
        nsid_event(k, ns, id, true);
    }
    id
}

/// A number was given or taken back.
pub(super) fn nsid_event(k: &mut Kernel, ns: NsId, id: i32, new: bool) {
    if k.nl.listeners.is_empty() {
        return;
    }
    let ty = if new { rtm::NEWNSID } else { rtm::DELNSID };
    let m = nsid::fill(ty, 0, 0, 0, id);
    multicast(k, ns, group::NSID, &m, None);
}

fn one(k: &mut Kernel, ns: NsId, what: Notify, origin: Option<Origin>) {
    let (portid, seq) = origin.map_or((0, 0), |o| (o.portid, o.seq));
    let Some((grp, m)) = render(k, ns, what, (portid, seq)) else { return };
    multicast(k, ns, grp, &m, origin.filter(|o| o.echo).map(|o| o.sock));
    if let Some(o) = origin.filter(|o| o.echo)
        && let Some((own, s)) = sock_mut(k, o.sock)
        && own == ns
    {
        s.unicast(m, 0);
        k.events.push((o.sock, Ready::IN));
    }
}

/// The group and message of a change.
fn render(k: &mut Kernel, ns: NsId, what: Notify, who: (u32, u32)) -> Option<(u32, Vec<u8>)> {
    let (portid, seq) = who;
    let by_family = |f: Family, v4, v6| match f {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    Some(match what {
        Notify::LinkNew(dev, change) => {
            let v = View { ty: rtm::NEWLINK, flags: 0, seq, portid, change, ext_mask: 0 };
            (group::LINK, route::link::fill(k, ns, dev, v)?)
        }
        Notify::Link(then) => {
            let ty = if then.gone { rtm::DELLINK } else { rtm::NEWLINK };
            let v = View { ty, flags: 0, seq, portid, change: then.change, ext_mask: 0 };
            (group::LINK, route::link::fill_then(k, ns, &then, v))
        }
        Notify::NetConf(n) => {
            let g = by_family(n.family, group::IPV4_NETCONF, group::IPV6_NETCONF);
            (g, route::netconf::notice(k.world.ns(ns)?, n, who)?)
        }
        Notify::AddrNew(dev, a, len) => {
            let net = k.world.ns(ns)?;
            let d = net.devs.get(dev)?;
            let ifa = d.addrs.iter().find(|x| x.local == a && x.prefix_len == len)?;
            let m = Msg::new(rtm::NEWADDR, 0, seq, portid);
            let g = by_family(Family::of(a), group::IPV4_IFADDR, group::IPV6_IFADDR);
            (g, route::addr::fill(m, dev, ifa, net.env.now))
        }
        Notify::AddrDel(dev, ifa) => {
            let m = Msg::new(rtm::DELADDR, 0, seq, portid);
            let g = by_family(Family::of(ifa.local), group::IPV4_IFADDR, group::IPV6_IFADDR);
            (g, route::addr::fill(m, dev, &ifa, k.world.ns(ns)?.env.now))
        }
        Notify::RouteNew(e) => {
            let m = Msg::new(rtm::NEWROUTE, 0, seq, portid);
            let g = by_family(Family::of(e.dst), group::IPV4_ROUTE, group::IPV6_ROUTE);
            (g, route::rt::fill(m, &e, k.world.ns(ns)?.env.now))
        }
        Notify::RouteDel(e) => {
            let m = Msg::new(rtm::DELROUTE, 0, seq, portid);
            let g = by_family(Family::of(e.dst), group::IPV4_ROUTE, group::IPV6_ROUTE);
            (g, route::rt::fill(m, &e, k.world.ns(ns)?.env.now))
        }
        Notify::NeighNew(key) => {
            let m = Msg::new(rtm::NEWNEIGH, 0, 0, 0);
            (group::NEIGH, route::neigh::fill_key(m, k.world.ns(ns)?, key))
        }
        Notify::NeighDel(key) => {
            let m = Msg::new(rtm::DELNEIGH, 0, 0, 0);
            (group::NEIGH, route::neigh::fill_key(m, k.world.ns(ns)?, key))
        }
        Notify::NeighGone(n) => {
            let m = Msg::new(rtm::DELNEIGH, 0, 0, 0);
            (group::NEIGH, route::neigh::fill_gone(m, &n, k.world.ns(ns)?.env.now))
        }
        Notify::Rule(added, rule) => {
            let ty = if added { rtm::NEWRULE } else { rtm::DELRULE };
            let m = Msg::new(ty, 0, seq, portid);
            let g = by_family(rule.family, group::IPV4_RULE, group::IPV6_RULE);
            (g, route::rule::fill(m, k.world.ns(ns)?, &rule))
        }
    })
}

/// To all sockets of the namespace that joined the group, and to those that hear all namespaces.
fn multicast(k: &mut Kernel, ns: NsId, grp: u32, m: &[u8], except: Option<SockId>) {
    let socks: Vec<SockId> = k.nl.listeners.values().flatten().copied().collect();
    for s in socks {
        let Some((own, sock)) = sock_mut(k, s) else { continue };
        let joined = sock.groups() >> (grp - 1) & 1 == 1 && sock.protocol() == sock::proto::ROUTE;
        if !joined || except == Some(s) || (own != ns && !sock.listens_all_nsid()) {
            continue;
        }
        let from = if own == ns { None } else { k.nl.nsids.get(own, ns) };
        if own != ns && from.is_none() {
            continue;
        }
        let Some((_, sock)) = sock_mut(k, s) else { continue };
        let ready = if sock.broadcast(m, grp, from) { Ready::IN } else { Ready::ERR };
        k.events.push((s, ready));
    }
}
