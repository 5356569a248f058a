//! Mutated frames against a namespace with sockets: nothing may panic and memory stays within its limit.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ferronet_core::rng::Rng;
use ferronet_core::{IfIndex, NsId};
use ferronet_linux::kernel::{af, sock_type};
use ferronet_wire::ethernet::{ETH_P_ARP, ETH_P_IP, ETH_P_IPV6};
use ferronet_wire::ipproto::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use ferronet_wire::{ArpHdr, EthHdr, IcmpHdr, Ipv4Hdr, Ipv6Hdr, MacAddr, TcpFlags, TcpHdr, UdpHdr};

use crate::net::{Net, sockaddr};

const US: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// A namespace that forwards, listens on TCP and UDP, and has a device to throw frames at.
#[derive(Debug)]
pub struct Target {
    net: Net,
    ns: NsId,
    dev: IfIndex,
    mac: MacAddr,
    rng: Rng,
}

impl Target {
    /// A fresh target.
    ///
    /// # Panics
    /// When it cannot be built, which is a bug.
    #[must_use]
    pub fn new(seed: u64) -> Target {
        let mut net = Net::new(seed);
        let (ns, other) = (net.ns(), net.ns());
        let (dev, _) = net.link((ns, "eth0", US), (other, "eth0", PEER));
        net.forward(ns);
        for port in [80u16, 443] {
            let _ = net.listen(ns, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), 16).expect("listen");
        }
        for port in [53u16, 123] {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            net.call(ns, |k, c| {
                let s = k.socket(c, af::INET, sock_type::DGRAM, 0).expect("socket");
                k.bind(c, s, &sockaddr(any)).expect("bind");
            });
        }
        net.run();
        let mac = net.kernel.world.ns(ns).and_then(|n| n.devs.get(dev)).map(|d| d.mac).expect("device");
        Target { net, ns, dev, mac, rng: Rng::new(seed) }
    }

    /// Throws `count` frames, each a valid one with a few bytes changed, some of them cut or grown.
    pub fn throw(&mut self, count: u64) {
        for i in 0..count {
            let mut f = self.frame();
            self.mutate(&mut f);
            if let Some(n) = self.net.kernel.world.ns_mut(self.ns) {
                let mut p = n.env.pool.from_slice(&f);
                p.meta_mut().dev = self.dev;
                n.netif_rx(p);
            }
            if i % 16 == 0 {
                self.net.run();
            }
            if i % 4096 == 0 {
                self.net.step(core::time::Duration::from_millis(u64::from(self.rng.below(500))));
            }
        }
        self.net.run();
    }

    /// Boxes allocated for packets so far: bounded whatever was thrown.
    #[must_use]
    pub fn boxes(&self) -> u64 {
        self.net.kernel.world.ns(self.ns).map_or(0, |n| n.env.pool.allocated)
    }

    /// TCP requests, connections and TIME_WAIT entries, and neighbours: all of them are bounded.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.net.kernel.world.ns(self.ns).map_or(0, |n| {
            n.socks.tcp.requests.len()
                + n.socks.tcp.time_wait.len()
                + n.socks.socks.len()
                + n.neigh.count(ferronet_stack::fib::Family::V4)
                + n.neigh.count(ferronet_stack::fib::Family::V6)
        })
    }

    fn frame(&mut self) -> Vec<u8> {
        let r = &mut self.rng;
        let mut f = Vec::with_capacity(256);
        let src = MacAddr([2, 0, 0, 0, 0, r.below(4) as u8]);
        let dst = if r.below(4) == 0 { MacAddr([0xff; 6]) } else { self.mac };
        let kind = r.below(8);
        let proto = match kind {
            0 => ETH_P_ARP,
            1 | 2 => ETH_P_IPV6,
            _ => ETH_P_IP,
        };
        f.extend_from_slice(EthHdr::new(dst, src, proto).bytes());
        let peer = Ipv4Addr::new(10, 7, 0, 2 + r.below(200) as u8);
        if kind == 0 {
            let op = 1 + r.below(2) as u16;
            f.extend_from_slice(ArpHdr::new(op, src, peer, self.mac, US).bytes());
            return f;
        }
        let (l4, body) = self.transport(proto == ETH_P_IPV6);
        if proto == ETH_P_IPV6 {
            let s = Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0, 0, 2]);
            let d = if self.rng.below(2) == 0 { Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]) } else { s };
            f.extend_from_slice(Ipv6Hdr::new(s, d, l4, 255, body.len()).bytes());
        } else {
            let d = if self.rng.below(5) == 0 { Ipv4Addr::new(10, 8, 0, 1) } else { US };
            let mut h = Ipv4Hdr::new(peer, d, l4, 1 + self.rng.below(64) as u8, body.len());
            if self.rng.below(6) == 0 {
                h.set_frag_off((self.rng.below(40) as u16) | if self.rng.below(2) == 0 { 0x2000 } else { 0 });
                h.set_id(self.rng.below(4) as u16);
            }
            let at = f.len();
            f.extend_from_slice(h.bytes());
            let _ = ferronet_wire::ipv4::ip_send_check(&mut f[at..]);
        }
        f.extend_from_slice(&body);
        f
    }

    fn transport(&mut self, v6: bool) -> (u8, Vec<u8>) {
        let r = &mut self.rng;
        let mut b = Vec::new();
        let proto = match r.below(4) {
            0 if v6 => IPPROTO_ICMPV6,
            0 => IPPROTO_ICMP,
            1 => IPPROTO_UDP,
            _ => IPPROTO_TCP,
        };
        let extra = r.below(80) as usize;
        if proto == IPPROTO_TCP {
            let mut h = TcpHdr::new(1024 + r.below(8) as u16, if r.below(2) == 0 { 80 } else { 443 });
            h.set_flags(TcpFlags::from_bits_truncate(r.below(64) as u16));
            h.set_window(r.next_u32() as u16);
            h.set_seq(ferronet_wire::SeqNr(r.below(1000)));
            let words = r.below(10) as usize;
            h.set_hdr_len(20 + 4 * words);
            b.extend_from_slice(h.bytes());
            b.resize(20 + 4 * words, 1);
        } else if proto == IPPROTO_UDP {
            b.extend_from_slice(UdpHdr::new(5000, if r.below(2) == 0 { 53 } else { 9 }, extra).bytes());
        } else {
            b.extend_from_slice(IcmpHdr::new(r.next_u32() as u8, r.below(5) as u8).bytes());
        }
        for _ in 0..extra {
            b.push(r.next_u32() as u8);
        }
        (proto, b)
    }

    fn mutate(&mut self, f: &mut Vec<u8>) {
        let r = &mut self.rng;
        for _ in 0..r.below(4) {
            let at = r.below(f.len() as u32) as usize;
            f[at] = match r.below(4) {
                0 => 0,
                1 => 0xff,
                2 => f[at] ^ (1 << r.below(8)),
                _ => r.next_u32() as u8,
            };
        }
        match r.below(16) {
            0 => f.truncate(r.below(f.len() as u32 + 1) as usize),
            1 => f.resize(f.len() + r.below(2000) as usize, 0xaa),
            _ => {}
        }
    }
}
