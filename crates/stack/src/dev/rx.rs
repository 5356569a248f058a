//! Receiving: from the backlog to the network layer (`net/core/dev.c`).

use ferronet_core::trace::Step;
use ferronet_core::{DropReason, Mib, Packet, PktType, Sysctl};
use ferronet_wire::EthHdr;
use ferronet_wire::ethernet::{ETH_HLEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, MacAddr};

use crate::ns::Namespace;
use crate::{ipv4, ipv6, neigh};

impl Namespace {
    /// Queues a frame for the softirq loop (`netif_rx`). `meta.dev` says on which device it is.
    #[inline]
    pub fn netif_rx(&mut self, p: Packet) {
        let limit = self.env.sysctl.get(Sysctl::NetdevMaxBacklog);
        if self.env.backlog.len() as i64 >= limit {
            if let Some(d) = self.devs.get_mut(p.meta().dev) {
                d.stats.rx_dropped += 1;
            }
            self.env.drop(p, DropReason::CpuBacklog);
        } else {
            self.env.backlog.push(p);
        }
    }

    /// Handles up to `budget` packets of the backlog; returns how many.
    pub fn net_rx_action(&mut self, budget: usize) -> usize {
        let mut done = 0;
        while done < budget {
            let Some(p) = self.env.backlog.pop() else { break };
            done += 1;
            if p.meta().local_out {
                match p.network().first().map(|b| b >> 4) {
                    Some(4) => ipv4::output::ip_local_out_queued(self, p),
                    Some(6) => ipv6::output::ip6_local_out_queued(self, p),
                    _ => self.env.drop(p, DropReason::UnhandledProto),
                }
            } else if self.devs.get(p.meta().dev).is_some_and(|d| d.features.gro) {
                super::gro::napi_gro_receive(self, p);
            } else {
                receive(self, p);
            }
        }
        super::gro::napi_gro_flush(self);
        done
    }
}

/// One frame or packet from a device, at its link header where the device has one.
pub fn netif_receive_skb(ns: &mut Namespace, p: Packet) {
    receive(ns, p);
}

// Into the softirq loop.
#[inline(always)]
fn receive(ns: &mut Namespace, mut p: Packet) {
    let now = ns.env.now;
    let len = p.len() as u64;
    if ns.env.trace.enabled() && p.meta().trace == 0 {
        p.meta_mut().trace = ns.env.trace.new_id();
    }
    let dev_index = p.meta().dev;
    if p.meta().pkt_type == PktType::Loopback {
        loopback_rcv(ns, p);
        return;
    }
    {
        let m = p.meta_mut();
        m.iif = dev_index;
        if m.tstamp.0 == 0 {
            m.tstamp = now;
        }
    }
    let Some(dev) = ns.devs.get_mut(dev_index) else {
        ns.env.drop(p, DropReason::DevGone);
        return;
    };
    if !dev.is_up() {
        ns.env.drop(p, DropReason::DevDown);
        return;
    }
    let ethernet = dev.has_ethernet();
    let (mac, loopback) = (dev.mac, dev.is_loopback());
    dev.stats.rx_packets += u64::from(p.meta().gso.segs.max(1));
    // loopback_xmit counts after eth_type_trans; the others count whole frames.
    dev.stats.rx_bytes += if loopback { len.saturating_sub(ETH_HLEN as u64) } else { len };
    let tapped = dev.taps + ns.devs.taps_all > 0;
    p.set_mac_header();
    if ethernet {
        if !eth_type_trans(&mut p, mac, loopback) {
            ns.env.drop(p, DropReason::PktTooSmall);
            return;
        }
    } else {
        let proto = match p.data().first().map(|b| b >> 4) {
            Some(4) => ETH_P_IP,
            Some(6) => ETH_P_IPV6,
            _ => 0,
        };
        p.meta_mut().protocol = proto;
        p.meta_mut().pkt_type = PktType::Host;
    }
    p.set_network_header();
    trace_rx(ns, &p);
    if tapped {
        crate::sock::packet::deliver_taps(ns, &p, PktType::Host);
    }
    match p.meta().protocol {
        ETH_P_IP => ipv4::input::ip_rcv(ns, p),
        ETH_P_IPV6 => ipv6::input::ipv6_rcv(ns, p),
        ETH_P_ARP => neigh::arp::arp_rcv(ns, p),
        _ => {
            if let Some(dev) = ns.devs.get_mut(dev_index) {
                dev.stats.rx_nohandler += 1;
                dev.stats.rx_dropped += 1;
            }
            ns.env.drop(p, DropReason::UnhandledProto);
        }
    }
}

/// The way begins; what is called next is known by the protocol, so the handlers need no mark of their own.
#[inline]
fn trace_rx(ns: &mut Namespace, p: &Packet) {
    if ns.env.trace.enabled() {
        ns.env.trace(p, Step::Rx);
        trace_handler(ns, p);
    }
}

#[cold]
fn trace_handler(ns: &mut Namespace, p: &Packet) {
    match p.meta().protocol {
        ETH_P_IP => ns.env.stage(p, "ip_rcv"),
        ETH_P_IPV6 => ns.env.stage(p, "ipv6_rcv"),
        _ => {}
    }
}

/// A group packet of our own that comes back without having been on a device, at its network header
/// (`dev_loopback_xmit`): no link header, no device counters.
fn loopback_rcv(ns: &mut Namespace, mut p: Packet) {
    p.set_network_header();
    let dev = p.meta().dev;
    p.meta_mut().iif = dev;
    trace_handler(ns, &p);
    match p.meta().protocol {
        ETH_P_IPV6 => ipv6::input::ipv6_rcv(ns, p),
        ETH_P_IP => ipv4::input::ip_rcv(ns, p),
        _ => ns.env.drop(p, DropReason::UnhandledProto),
    }
}

/// Reads the link header, classifies the packet and moves to the network header (`eth_type_trans`).
#[inline]
fn eth_type_trans(p: &mut Packet, own: MacAddr, loopback: bool) -> bool {
    if !p.may_pull(ETH_HLEN) {
        return false;
    }
    let Some(h) = EthHdr::view(p.data()) else { return false };
    let (dest, proto) = (h.h_dest, h.h_proto());
    let kind = if loopback || dest == own {
        PktType::Host
    } else if dest.is_broadcast() {
        PktType::Broadcast
    } else if dest.is_multicast() {
        PktType::Multicast
    } else {
        PktType::OtherHost
    };
    let m = p.meta_mut();
    m.pkt_type = kind;
    m.protocol = proto;
    p.pull(ETH_HLEN)
}

/// Counts the ECN code point of a received IPv4 packet (`IpExt`).
#[inline]
pub(crate) fn count_ecn(ns: &mut Namespace, tos: u8, segs: u64) {
    let ect = match tos & 3 {
        0 => Mib::IpExtInNoECTPkts,
        1 => Mib::IpExtInECT1Pkts,
        2 => Mib::IpExtInECT0Pkts,
        _ => Mib::IpExtInCEPkts,
    };
    ns.env.mib.add(ect, segs);
}
