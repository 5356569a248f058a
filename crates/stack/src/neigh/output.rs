//! Stages around the neighbour table: output, timers, failures.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{DropReason, IfIndex, Packet, PacketQueue};
use ferronet_netfilter::{Netfilter, PostRouted};
use ferronet_wire::ethernet::{ETH_P_IP, ETH_P_IPV6, MacAddr};

use super::{NeighKey, News, Probe, Resolve};
use crate::dev::Device;
use crate::dev::tx::{dev_hard_header, dev_queue_xmit, hand_over, takes_as_it_is};
use crate::fib::Family;
use crate::ns::Namespace;

/// The usual case of [`neigh_output`] at once: the address of a unicast IPv4 neighbour is known, and an Ethernet
/// device takes the packet as it is. Gives the packet back when anything else is to be done.
// Into the forwarding path: a third fewer instructions than the calls.
#[inline(always)]
pub(crate) fn neigh_output_ready(
    ns: &mut Namespace,
    mut p: Packet,
    dev: IfIndex,
    addr: Ipv4Addr,
    _proof: &PostRouted,
) -> Result<(), Packet> {
    let tapped = ns.devs.taps_all > 0;
    let Some(d) = ns.devs.get_mut(dev) else { return Err(p) };
    if is_group(addr) || tapped || !d.is_up() || !d.needs_neigh() || !takes_as_it_is(&ns.env, d, &p) {
        return Err(p);
    }
    let Some(mac) = ns.neigh.ready_v4(ns.env.now, dev, addr) else { return Err(p) };
    dev_hard_header(d, &mut p, mac, ETH_P_IP);
    // Ethernet devices with neighbours do not loop.
    match hand_over(&mut ns.env, d, p) {
        None => Ok(()),
        Some(p) => Err(p),
    }
}

/// 224.0.0.0 and above: groups and the limited broadcast.
#[inline]
fn is_group(a: Ipv4Addr) -> bool {
    a.to_bits() >= 0xe000_0000
}

/// A network packet for the neighbour `addr` on `dev` (`neigh_output`, `ip_finish_output2`). `broadcast`:
/// the route says that the destination is the link's broadcast address.
pub fn neigh_output(
    ns: &mut Namespace,
    mut p: Packet,
    dev: IfIndex,
    addr: IpAddr,
    broadcast: bool,
    proof: PostRouted,
) {
    ns.env.stage(&p, "neigh_output");
    let Some(d) = ns.devs.get(dev) else {
        ns.env.drop(p, DropReason::DevGone);
        return;
    };
    // The protocol of the packet, not of the gateway (`via inet6`).
    let proto = match (p.network().first().map(|b| b >> 4), addr) {
        (Some(4), _) | (_, IpAddr::V4(_)) => ETH_P_IP,
        (_, IpAddr::V6(_)) => ETH_P_IPV6,
    };
    let group = match addr {
        IpAddr::V4(a) => is_group(a),
        IpAddr::V6(a) => a.is_multicast(),
    };
    let fixed = if broadcast || group || !d.needs_neigh() { fixed_mac(d, addr, broadcast) } else { None };
    let key = NeighKey { dev, addr };
    let mac = match fixed.or_else(|| ns.neigh.ready(ns.env.now, key)) {
        Some(mac) => mac,
        None => {
            let parms = match Family::of(addr) {
                Family::V4 => &d.neigh4,
                Family::V6 => &d.neigh6,
            };
            match ns.neigh.resolve(&mut ns.env, parms, key, p) {
                Resolve::Ready(mac, resolved) => {
                    p = resolved;
                    mac
                }
                Resolve::Waits(probe) => {
                    if let Some(probe) = probe {
                        solicit(ns, &probe);
                    }
                    return;
                }
            }
        }
    };
    dev_hard_header(d, &mut p, mac, proto);
    dev_queue_xmit(ns, p, dev, proof);
}

/// The link address that needs no resolution (`arp_constructor`, `ndisc_constructor`).
fn fixed_mac(d: &Device, addr: IpAddr, broadcast: bool) -> Option<MacAddr> {
    match addr {
        _ if !d.needs_neigh() => Some(MacAddr([0; 6])),
        _ if broadcast => Some(MacAddr([0xff; 6])),
        IpAddr::V4(a) if a.is_broadcast() => Some(MacAddr([0xff; 6])),
        IpAddr::V4(a) if a.is_multicast() => Some(MacAddr::ipv4_multicast(a)),
        IpAddr::V6(a) if a.is_multicast() => Some(MacAddr::ipv6_multicast(a)),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Sends a solicitation (`neigh_probe`).
fn solicit(ns: &mut Namespace, probe: &Probe) {
    match probe.key.addr {
        IpAddr::V4(a) => super::arp::arp_solicit(ns, probe, a),
        IpAddr::V6(a) => crate::ipv6::ndisc::ndisc_solicit(ns, probe, a),
    }
}

/// News about a neighbour from ARP, neighbour discovery or the administrator; sends what waited.
pub fn neigh_update(ns: &mut Namespace, key: NeighKey, create: bool, news: News) {
    if !create && ns.neigh.get(key).is_none() {
        return;
    }
    let Some(id) = ns.neigh.create(&mut ns.env, key) else { return };
    let Some(d) = ns.devs.get(key.dev) else { return };
    let parms = match Family::of(key.addr) {
        Family::V4 => &d.neigh4,
        Family::V6 => &d.neigh6,
    };
    let released = ns.neigh.update(&mut ns.env, parms, &mut ns.notify, id, news);
    send_released(ns, key, released);
}

/// Begins to resolve a neighbour without a packet (`neigh_event_send`).
pub fn neigh_event_send(ns: &mut Namespace, key: NeighKey) {
    let Some(d) = ns.devs.get(key.dev) else { return };
    let parms = match Family::of(key.addr) {
        Family::V4 => &d.neigh4,
        Family::V6 => &d.neigh6,
    };
    if let Some(probe) = ns.neigh.event_send(&mut ns.env, parms, key) {
        solicit(ns, &probe);
    }
}

fn send_released(ns: &mut Namespace, key: NeighKey, mut released: PacketQueue) {
    while let Some(p) = released.pop() {
        // These went through POSTROUTING before they began to wait.
        neigh_output(ns, p, key.dev, key.addr, false, Netfilter::passed_before_waiting());
    }
}

/// An entry's timer fired.
pub fn neigh_timer(ns: &mut Namespace, id: u64) {
    let Some(key) = ns.neigh.key_of(id) else { return };
    let Some(d) = ns.devs.get(key.dev) else { return };
    let parms = match Family::of(key.addr) {
        Family::V4 => &d.neigh4,
        Family::V6 => &d.neigh6,
    };
    let work = ns.neigh.on_timer(&mut ns.env, parms, &mut ns.notify, id);
    if let Some(probe) = work.probe {
        solicit(ns, &probe);
    }
    for p in work.failed {
        match key.addr {
            IpAddr::V4(_) => crate::ipv4::icmp::host_unreachable(ns, p, DropReason::NeighFailed),
            IpAddr::V6(_) => crate::ipv6::icmp::addr_unreachable(ns, p, DropReason::NeighFailed),
        }
    }
}
