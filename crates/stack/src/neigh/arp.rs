//! ARP for Ethernet and IPv4 (RFC 826, `net/ipv4/arp.c`).

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use ferronet_core::sysctl::{Conf4, NeighParm};
use ferronet_core::{DropReason, IfIndex, Packet, PktType};
use ferronet_netfilter::{Hook, Netfilter, Pf};
use ferronet_wire::ArpHdr;
use ferronet_wire::arp::{ARPOP_REPLY, ARPOP_REQUEST};
use ferronet_wire::ethernet::{ETH_P_ARP, MacAddr};

use super::output::neigh_update;
use super::{NeighKey, News, Probe, Update, nud};
use crate::dev::scope;
use crate::dev::tx::{dev_hard_header, dev_queue_xmit};
use crate::fib::{Family, RouteType, table_id};
use crate::ipv4::route::{inet_select_addr, ip_route_input};
use crate::ns::Namespace;

/// An ARP packet from a device.
pub fn arp_rcv(ns: &mut Namespace, mut p: Packet) {
    ns.env.stage(&p, "arp_rcv");
    let noarp = ns.devs.get(p.meta().dev).is_none_or(|d| !d.needs_neigh());
    if noarp || matches!(p.meta().pkt_type, PktType::OtherHost | PktType::Loopback) {
        ns.env.drop(p, DropReason::ArpIgnored);
        return;
    }
    if !p.may_pull(ArpHdr::LEN) {
        ns.env.drop(p, DropReason::ArpInvalid);
        return;
    }
    let Some(p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Arp, Hook::LocalIn) else { return };
    match arp_process(ns, &p) {
        Ok(()) => ns.env.consume(p),
        Err(r) => ns.env.drop(p, r),
    }
}

fn arp_process(ns: &mut Namespace, p: &Packet) -> Result<(), DropReason> {
    let h = *ArpHdr::check(p.data()).map_err(|_| DropReason::ArpInvalid)?;
    let (op, sip, tip, sha) = (h.ar_op(), h.sip(), h.tip(), h.ar_sha);
    if op != ARPOP_REQUEST && op != ARPOP_REPLY {
        return Err(DropReason::ArpInvalid);
    }
    let dev = p.meta().dev;
    let conf = |c| ns.devs.get(dev).map_or(0, |d| d.conf4.get(c).max(ns.conf.all4.get(c)));
    let route_localnet = conf(Conf4::RouteLocalnet) != 0;
    if tip.is_multicast() || (!route_localnet && tip.is_loopback()) {
        return Err(DropReason::ArpIgnored);
    }
    let gratuitous = sip == tip;
    if conf(Conf4::DropGratuitousArp) != 0 && gratuitous {
        return Err(DropReason::ArpIgnored);
    }
    // RFC 5227 §2.1: a probe (sender address 0) is answered when we have the address.
    if sip.is_unspecified() {
        if op == ARPOP_REQUEST && is_local(ns, tip) && !arp_ignore(ns, dev, sip, tip) {
            arp_send(ns, dev, ArpHdr::new(ARPOP_REPLY, mac_of(ns, dev), tip, sha, sip), sha);
            return Ok(());
        }
        return Err(DropReason::ArpIgnored);
    }
    let key = NeighKey { dev, addr: IpAddr::V4(sip) };
    if op == ARPOP_REQUEST {
        // A sender with one of our addresses is a martian: no route back, no answer (ip_route_input, RFC 5227 §2.4).
        if is_local(ns, tip) && !is_local(ns, sip) {
            if arp_ignore(ns, dev, sip, tip) {
                return Err(DropReason::ArpIgnored);
            }
            // neigh_event_ns: the asker's address is known now, not yet proven.
            let how = Update { override_lladdr: true, ..Update::default() };
            neigh_update(ns, key, true, News { lladdr: Some(sha), state: nud::STALE, how });
            arp_send(ns, dev, ArpHdr::new(ARPOP_REPLY, mac_of(ns, dev), tip, sha, sip), sha);
            return Ok(());
        }
        if proxy_arp(ns, dev, sip, tip, p) {
            arp_send(ns, dev, ArpHdr::new(ARPOP_REPLY, mac_of(ns, dev), tip, sha, sip), sha);
            return Ok(());
        }
    }
    let Some(n) = ns.neigh.get(key) else {
        let accept = ns
            .devs
            .get(dev)
            .map_or(0, |d| d.conf4.get(Conf4::ArpAccept).max(ns.conf.all4.get(Conf4::ArpAccept)));
        if accept == 1 && gratuitous {
            let how = Update { override_lladdr: true, ..Update::default() };
            neigh_update(ns, key, true, News { lladdr: Some(sha), state: nud::STALE, how });
            return Ok(());
        }
        return Err(DropReason::ArpIgnored);
    };
    // A second answer within `locktime` (hundredths of a second) does not replace the first.
    let lock = ns.devs.get(dev).map_or(0, |d| d.neigh4.get(NeighParm::Locktime));
    let locked = Duration::from_millis(10 * u64::try_from(lock).unwrap_or(0));
    let override_lladdr = ns.env.now > n.updated + locked || gratuitous;
    let solicited = op == ARPOP_REPLY && p.meta().pkt_type == PktType::Host;
    let state = if solicited { nud::REACHABLE } else { nud::STALE };
    let how = Update { override_lladdr, ..Update::default() };
    neigh_update(ns, key, false, News { lladdr: Some(sha), state, how });
    Ok(())
}

fn mac_of(ns: &Namespace, dev: IfIndex) -> MacAddr {
    ns.devs.get(dev).map_or(MacAddr([0; 6]), |d| d.mac)
}

fn is_local(ns: &Namespace, a: Ipv4Addr) -> bool {
    ns.fib
        .table(Family::V4, table_id::LOCAL)
        .is_some_and(|t| t.lookup(IpAddr::V4(a), 0, |e| Some(e.kind == RouteType::Local)).unwrap_or(false))
}

/// `arp_ignore` (ip-sysctl.rst): when an address of ours is not answered for on this device.
fn arp_ignore(ns: &Namespace, dev: IfIndex, sip: Ipv4Addr, tip: Ipv4Addr) -> bool {
    let Some(d) = ns.devs.get(dev) else { return true };
    let on_dev = || d.addrs.iter().find(|a| a.local == IpAddr::V4(tip));
    match d.conf4.get(Conf4::ArpIgnore).max(ns.conf.all4.get(Conf4::ArpIgnore)) {
        1 => on_dev().is_none(),
        2 => on_dev().is_none_or(|a| !a.contains(IpAddr::V4(sip))),
        3 => !ns
            .devs
            .iter()
            .flat_map(|d| &d.addrs)
            .any(|a| a.local == IpAddr::V4(tip) && a.scope < scope::LINK),
        8 => true,
        _ => false,
    }
}

/// Whether we answer for somebody else: forwarding, `proxy_arp` or an entry, and the way there leaves another device.
fn proxy_arp(ns: &mut Namespace, dev: IfIndex, sip: Ipv4Addr, tip: Ipv4Addr, p: &Packet) -> bool {
    let Some(d) = ns.devs.get(dev) else { return false };
    if d.conf4.get(Conf4::Forwarding) == 0 {
        return false;
    }
    let any = d.conf4.get(Conf4::ProxyArp) != 0 || ns.conf.all4.get(Conf4::ProxyArp) != 0;
    let pvlan = d.conf4.get(Conf4::ProxyArpPvlan) != 0;
    let entry = ns.neigh.proxies.lookup(NeighKey { dev, addr: IpAddr::V4(tip) }).is_some();
    if !any && !pvlan && !entry {
        return false;
    }
    match ip_route_input(ns, p, sip, tip, 0, dev) {
        Ok(r) if r.kind == RouteType::Unicast => ((any || entry) && r.dev != dev) || (pvlan && r.dev == dev),
        Ok(_) | Err(_) => false,
    }
}

/// Asks for a neighbour (`arp_solicit`); the sender address follows `arp_announce`.
pub fn arp_solicit(ns: &mut Namespace, probe: &Probe, target: Ipv4Addr) {
    let dev = probe.key.dev;
    let Some(d) = ns.devs.get(dev) else { return };
    let mac = d.mac;
    let hint = match probe.saddr {
        Some(IpAddr::V4(a)) => Some(a),
        Some(IpAddr::V6(_)) | None => None,
    };
    let announce = d.conf4.get(Conf4::ArpAnnounce).max(ns.conf.all4.get(Conf4::ArpAnnounce));
    let same_net =
        |a: Ipv4Addr| d.addrs.iter().any(|i| i.contains(IpAddr::V4(target)) && i.local == IpAddr::V4(a));
    let saddr = hint
        .filter(|&a| is_local(ns, a))
        .filter(|&a| announce == 0 || (announce == 1 && same_net(a)))
        .or_else(|| inet_select_addr(ns, dev, target, scope::LINK))
        .unwrap_or(Ipv4Addr::UNSPECIFIED);
    let dest = probe.unicast.unwrap_or(MacAddr([0xff; 6]));
    arp_send(ns, dev, ArpHdr::new(ARPOP_REQUEST, mac, saddr, MacAddr([0; 6]), target), dest);
}

/// Announces an address (gratuitous request, RFC 5227 §2.3): `arp_notify`, `ip link set address`.
pub fn arp_announce(ns: &mut Namespace, dev: IfIndex, a: Ipv4Addr) {
    let mac = mac_of(ns, dev);
    arp_send(ns, dev, ArpHdr::new(ARPOP_REQUEST, mac, a, MacAddr([0; 6]), a), MacAddr([0xff; 6]));
}

fn arp_send(ns: &mut Namespace, dev: IfIndex, h: ArpHdr, dest: MacAddr) {
    let mut p = ns.env.pool.get();
    let _ = h.put(p.put(ArpHdr::LEN));
    p.set_network_header();
    let Some(mut p) = ns.nf.nf_hook(&mut ns.env, p, Pf::Arp, Hook::LocalOut) else { return };
    match ns.devs.get(dev) {
        Some(d) => {
            dev_hard_header(d, &mut p, dest, ETH_P_ARP);
            dev_queue_xmit(ns, p, dev, Netfilter::link_layer_only());
        }
        None => ns.env.drop(p, DropReason::DevGone),
    }
}
