//! Transmitting: from the link header to the device (`__dev_queue_xmit`, `dev_hard_start_xmit`).

use ferronet_core::packet::GsoKind;
use ferronet_core::trace::Step;
use ferronet_core::{Csum, DropReason, Env, IfIndex, Packet, PktType};
use ferronet_netfilter::PostRouted;
use ferronet_wire::EthHdr;
use ferronet_wire::ethernet::{ETH_HLEN, MacAddr};

use super::{DevKind, Device};
use crate::ns::Namespace;

/// Frames for the host that wait in a namespace at most.
const HOST_LIMIT: usize = 8192;

/// Pushes the link header of a device (`dev_hard_header`).
#[inline(always)]
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
    let tapped = ns.devs.taps_all > 0;
    let Some(d) = ns.devs.get_mut(dev) else {
        ns.env.drop(p, DropReason::DevGone);
        return;
    };
    if !d.is_up() {
        d.stats.tx_dropped += 1;
        ns.env.drop(p, DropReason::DevDown);
        return;
    }
    if tapped || !takes_as_it_is(&ns.env, d, &p) {
        xmit_slow(ns, p, dev);
    } else if let Some(p) = hand_over(&mut ns.env, d, p) {
        ns.netif_rx(p);
    }
}

/// The device has to cut what it cannot send whole.
#[inline]
fn must_cut(d: &Device, p: &Packet) -> bool {
    match p.meta().gso.kind {
        GsoKind::None => false,
        GsoKind::TcpV4 | GsoKind::TcpV6 => !d.features.tso,
        GsoKind::UdpL4 => !d.features.uso,
    }
}

/// Nothing is left to software, nobody looks at the device, and it emulates no link.
#[inline(always)]
pub(crate) fn takes_as_it_is(env: &Env, d: &Device, p: &Packet) -> bool {
    let must_sum = p.meta().csum == Csum::Partial && !d.features.tx_csum;
    d.taps == 0 && d.netem.is_none() && !must_cut(d, p) && !must_sum && !env.trace.enabled()
}

/// Software does what the device cannot.
fn xmit_slow(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    if !ns.devs.get(dev).is_some_and(|d| must_cut(d, &p)) {
        xmit_one(ns, p, dev);
        return;
    }
    let mut segs = ferronet_core::packet::PacketQueue::new();
    super::gso::skb_gso_segment(&mut ns.env, p, &mut segs);
    while let Some(s) = segs.pop() {
        xmit_one(ns, s, dev);
    }
}

fn xmit_one(ns: &mut Namespace, mut p: Packet, dev: IfIndex) {
    let (csum, emulated) =
        ns.devs.get(dev).map_or((true, false), |d| (d.features.tx_csum, d.netem.is_some()));
    if p.meta().csum == Csum::Partial && !csum {
        super::gso::skb_checksum_help(&mut p);
    }
    if emulated {
        super::netem::enqueue(ns, p, dev);
    } else {
        dev_hard_start_xmit(ns, p, dev);
    }
}

/// The device's transmit function, after those who look at the device.
pub fn dev_hard_start_xmit(ns: &mut Namespace, p: Packet, dev: IfIndex) {
    if ns.devs.tapped(dev) {
        crate::sock::packet::deliver_taps(ns, &p, PktType::Outgoing);
    }
    ns.env.trace(&p, Step::Tx);
    let Some(d) = ns.devs.get_mut(dev) else {
        ns.env.drop(p, DropReason::DevGone);
        return;
    };
    if let Some(p) = hand_over(&mut ns.env, d, p) {
        ns.netif_rx(p);
    }
}

/// The device takes the packet; gives it back when it loops to the backlog.
// Into its callers: a call and its saved registers are a tenth of what is done here.
#[inline(always)]
pub(crate) fn hand_over(env: &mut Env, d: &mut Device, mut p: Packet) -> Option<Packet> {
    let header = if d.has_ethernet() { ETH_HLEN } else { 0 };
    let wire = (p.len() - header) as u64;
    let packets = u64::from(p.meta().gso.segs.max(1));
    if p.meta().gso.kind == GsoKind::None && wire > u64::from(d.mtu) && !d.is_loopback() {
        d.stats.tx_dropped += 1;
        env.drop(p, DropReason::MtuExceeded);
        return None;
    }
    if !d.carrier {
        d.stats.tx_dropped += 1;
        env.drop(p, DropReason::NoCarrier);
        return None;
    }
    d.stats.tx_packets += packets;
    d.stats.tx_bytes += if d.is_loopback() { wire } else { p.len() as u64 };
    d.trans_start = env.now;
    match d.kind {
        DevKind::Loopback => {
            // The sender's trace goes on: it is the same packet in the same namespace.
            let m = p.meta_mut();
            m.iif = d.index;
            m.local_out = false;
            m.tstamp = ferronet_core::Instant::ZERO;
            return Some(p);
        }
        DevKind::Veth(_) => {
            p.meta_mut().local_out = false;
            p.meta_mut().tstamp = ferronet_core::Instant::ZERO;
            env.tx.push(p);
        }
        DevKind::Backend { .. } if env.host_tx.len() < HOST_LIMIT => {
            p.meta_mut().local_out = false;
            p.meta_mut().tstamp = ferronet_core::Instant::ZERO;
            env.host_tx.push(p);
        }
        DevKind::Backend { .. } => env.drop(p, DropReason::TapFull),
        DevKind::Dummy => env.consume(p),
    }
    None
}
