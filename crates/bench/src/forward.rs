//! Forwarding of 64-byte frames: in on one back-end device, through the router, out on another.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Instant, NsId, Packet};
use ferronet_linux::BackendDev;
use ferronet_sim::Net;
use ferronet_stack::dev::IfAddr;
use ferronet_stack::dev::addr_ops::inet_insert_ifa;
use ferronet_stack::neigh::output::neigh_update;
use ferronet_stack::neigh::{NeighKey, News, Update, nud};
use ferronet_wire::ethernet::ETH_P_IP;
use ferronet_wire::ipproto::IPPROTO_UDP;
use ferronet_wire::ipv4::ip_send_check;
use ferronet_wire::{EthHdr, Ipv4Hdr, MacAddr, UdpHdr};

/// What forwarding costs.
pub(crate) struct Cost {
    /// Nanoseconds a packet, making and taking it included.
    pub(crate) nanos: f64,
    /// Packet boxes allocated after warm-up.
    pub(crate) boxes: f64,
}

const BATCH: u64 = 64;

/// Forwards `packets` packets after a warm-up.
pub(crate) fn run(packets: u64) -> Cost {
    let mut net = Net::new(1);
    let ns = net.ns();
    let mut devs = Vec::new();
    for (i, name) in ["in0", "out0"].into_iter().enumerate() {
        let d = net.kernel.dev_attach(ns, name, BackendDev::Tap).expect("fresh name");
        let n = net.kernel.world.ns_mut(ns).expect("fresh namespace");
        let a = IfAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, i as u8, 1)), 24);
        inet_insert_ifa(n, d, a).expect("fresh address");
        net.kernel.world.link_set_up(ns, d, true).expect("device exists");
        devs.push(d);
    }
    net.forward(ns);
    // Address detection, solicitations and reports come to rest.
    net.sleep(core::time::Duration::from_secs(30));
    let n = net.kernel.world.ns_mut(ns).expect("namespace exists");
    let how = Update { admin: true, override_lladdr: true, ..Update::default() };
    let key = NeighKey { dev: devs[1], addr: IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2)) };
    neigh_update(
        n,
        key,
        true,
        News { lladdr: Some(MacAddr([2, 0, 0, 0, 0, 9])), state: nud::PERMANENT, how },
    );
    let router = n.devs.get(devs[0]).map_or(MacAddr([0; 6]), |d| d.mac);
    while let Some((ns, p)) = net.kernel.dev_tx() {
        net.kernel.world.backend_done(ns, p);
    }
    let frame = frame(router);
    let mut now = net.now();
    let mut round = |count: u64| {
        for _ in 0..count / BATCH {
            for _ in 0..BATCH {
                let p = make(&mut net, ns, &frame);
                net.kernel.dev_rx(ns, devs[0], p);
            }
            net.kernel.run(1 << 20);
            now = Instant(now.0 + 1000);
            net.kernel.set_now(now);
            let mut out = 0;
            while let Some((ns, p)) = net.kernel.dev_tx() {
                out += 1;
                net.kernel.world.backend_done(ns, p);
            }
            // Group reports and router solicitations of the devices may come out beside them.
            assert!(out >= BATCH, "every packet is forwarded: {out}");
        }
        net.kernel.world.ns(ns).map_or(0, |n| n.env.pool.allocated)
    };
    let warm = round(BATCH * 100);
    let start = std::time::Instant::now();
    let after = round(packets);
    Cost { nanos: start.elapsed().as_nanos() as f64 / packets as f64, boxes: (after - warm) as f64 }
}

fn make(net: &mut Net, ns: NsId, frame: &[u8]) -> Packet {
    let n = net.kernel.world.ns_mut(ns).expect("namespace exists");
    n.env.pool.from_slice(frame)
}

/// 60 bytes, 64 with the check sequence that a wire adds.
fn frame(router: MacAddr) -> Vec<u8> {
    let mut f = Vec::new();
    f.extend_from_slice(EthHdr::new(router, MacAddr([2, 0, 0, 0, 0, 8]), ETH_P_IP).bytes());
    let h = Ipv4Hdr::new(Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 1, 2), IPPROTO_UDP, 64, 26);
    f.extend_from_slice(h.bytes());
    let _ = ip_send_check(&mut f[14..]);
    f.extend_from_slice(UdpHdr::new(9, 9, 18).bytes());
    f.resize(60, 0);
    f
}
