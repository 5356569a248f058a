//! Transmitting: from the link header to the device (`__dev_queue_xmit`, `dev_hard_start_xmit`).

use ferronet_core::packet::GsoKind;
use ferronet_core::trace::Step;
use ferronet_core::{Csum, DropReason, IfIndex, Packet, PktType};
use ferronet_netfilter::PostRouted;
use ferronet_wire::EthHdr;
use ferronet_wire::ethernet::{ETH_HLEN, MacAddr};

use super::{DevKind, Device};
use crate::ns::Namespace;

/// Pushes the link header of a device (`dev_hard_header`).
#[inline]
pub fn dev_hard_header(d: &Device, p: &mut Packet, dest: MacAddr, proto: u16) {
    if d.has_ethernet() {
        let _ = EthHdr::new(dest, d.mac, proto).put(p.push(ETH_HLEN));
    }
    p.meta_mut().protocol = proto;
    p.set_mac_header();
}

/// A packet with its link header goes to a device. Software does what the device cannot: segmentation and
/// checksums. The token proves that POSTROUTING saw the packet.
pub fn dev_queue_xmit(ns: &mut Namespace, mut p: Packet, dev: IfIndex, _proof: PostRouted) {
    p.meta_mut().dev = dev;
    let Some(d) = ns.devs.get_mut(dev) else {
        ns.env.drop(p, DropReason::DevGone);
        return;
    };
    if !d.is_up() {
        d.stats.tx_dropped += 1;
        ns.env.drop(p, DropReason::DevDown);
        return;
    }
    let (f, emulated) = (d.features, d.netem.is_some());
    let gso = p.meta().gso.kind;
    let must_cut = match gso {
        GsoKind::None => false,
        GsoKind::TcpV4 | GsoKind::TcpV6 => !f.tso,
        GsoKind::UdpL4 => !f.uso,
    };
    if must_cut {
        let mut segs = ferronet_core::packet::PacketQueue::new();
        super::gso::skb_gso_segment(&mut ns.env, p, &mut segs);
        while let Some(s) = segs.pop() {
            xmit_segment(ns, s, dev, f.tx_csum, emulated);
        }
    } else {
        xmit_one(ns, p, dev, f.tx_csum, emulated);
    }
}

fn xmit_segment(ns: &mut Namespace, p: Packet, dev: IfIndex, tx_csum: bool, emulated: bool) {
    xmit_one(ns, p, dev, tx_csum, emulated);
}

#[inline(always)]
fn xmit_one(ns: &mut Namespace, mut p: Packet, dev: IfIndex, tx_csum: bool, emulated: bool) {
    if p.meta().csum == Csum::Partial && !tx_csum {
        super::gso::skb_checksum_help(&mut p);
    }
    if emulated {
        super::netem::enqueue(ns, p, dev);
    } else {
        start_xmit(ns, p, dev);
    }
}

/// The device's transmit function, for what waited in link emulation.
pub fn dev_hard_start_xmit(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    start_xmit(ns, p, dev);
}

// Into `dev_queue_xmit`: a call and its saved registers are a tenth of what is done here.
#[inline(always)]
fn start_xmit(ns: &mut Namespace, mut p: Packet, dev: IfIndex) {
    if ns.devs.tapped(dev) {
        crate::sock::packet::deliver_taps(ns, &p, PktType::Outgoing);
    }
    ns.env.trace(&p, Step::Tx);
    let Some(d) = ns.devs.get_mut(dev) else {
        ns.env.drop(p, DropReason::DevGone);
        return;
    };
    let header = if d.has_ethernet() { ETH_HLEN } else { 0 };
    let wire = (p.len() - header) as u64;
    let packets = u64::from(p.meta().gso.segs.max(1));
    if p.meta().gso.kind == GsoKind::None && wire > u64::from(d.mtu) && !d.is_loopback() {
        d.stats.tx_dropped += 1;
        ns.env.drop(p, DropReason::MtuExceeded);
        return;
    }
    if !d.carrier {
        d.stats.tx_dropped += 1;
        ns.env.drop(p, DropReason::NoCarrier);
        return;
    }
    d.stats.tx_packets += packets;
    d.stats.tx_bytes += if d.is_loopback() { wire } else { p.len() as u64 };
    d.trans_start = ns.env.now;
    match d.kind {
        DevKind::Loopback => {
            // The sender's trace goes on: it is the same packet in the same namespace.
            let m = p.meta_mut();
            m.iif = dev;
            m.local_out = false;
            m.tstamp = ferronet_core::Instant::ZERO;
            ns.netif_rx(p);
        }
        DevKind::Veth(_) | DevKind::Backend { .. } => {
            p.meta_mut().local_out = false;
            p.meta_mut().tstamp = ferronet_core::Instant::ZERO;
            ns.env.tx.push(p);
        }
        DevKind::Dummy => ns.env.consume(p),
    }
}
