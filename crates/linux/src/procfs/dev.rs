//! Devices: `/proc/net/dev`, `dev_mcast`, `softnet_stat` (`net/core/net-procfs.c`).

use core::fmt::Write as _;
use core::net::IpAddr;

use ferronet_core::DropReason;
use ferronet_stack::Namespace;
use ferronet_stack::dev::Device;
use ferronet_wire::ethernet::MacAddr;

use crate::kernel::Kernel;

/// `dev_seq_show`.
pub(super) fn dev(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls \
         carrier compressed\n",
    );
    for d in ns.devs.iter() {
        let c = &d.stats;
        let _ = writeln!(
            s,
            "{:>6}: {:>7} {:>7} {:>4} {:>4} {:>4} {:>5} {:>10} {:>9} {:>8} {:>7} {:>4} {:>4} {:>4} {:>5} {:>7} {:>10}",
            d.name,
            c.rx_bytes,
            c.rx_packets,
            c.rx_errors,
            c.rx_dropped,
            0,
            0,
            0,
            c.multicast,
            c.tx_bytes,
            c.tx_packets,
            c.tx_errors,
            c.tx_dropped,
            0,
            0,
            c.tx_carrier_errors,
            0
        );
    }
    s.into_bytes()
}

/// The multicast groups of a device with their users, the implicit ones of an interface that is up included
/// (`ip_mc_up`: 224.0.0.1).
pub(super) fn groups(d: &Device) -> Vec<(IpAddr, u32)> {
    let mut g = d.mcast.clone();
    let all = IpAddr::V4(core::net::Ipv4Addr::new(224, 0, 0, 1));
    if d.is_up() && !g.iter().any(|(a, _)| *a == all) {
        g.push((all, 1));
    }
    g
}

/// The link address of a group (RFC 1112 §6.4, RFC 2464 §7).
fn group_mac(a: IpAddr) -> MacAddr {
    match a {
        IpAddr::V4(a) => {
            let [_, b, c, d] = a.octets();
            MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(a) => {
            let [.., w, x, y, z] = a.octets();
            MacAddr([0x33, 0x33, w, x, y, z])
        }
    }
}

/// `dev_mc_seq_show`.
pub(super) fn dev_mcast(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    for d in ns.devs.iter().filter(|d| !d.is_loopback()) {
        let mut macs: Vec<(MacAddr, u32)> = Vec::new();
        // The list of the device has the oldest first, IPv4 before IPv6 as they come up.
        let mut all = groups(d);
        all.reverse();
        all.sort_by_key(|g| g.0.is_ipv6());
        for (a, _) in all {
            // A group of interface scope never reaches the link (RFC 4291 §2.7).
            if matches!(a, IpAddr::V6(a) if a.octets()[1] & 0xf <= 1) {
                continue;
            }
            let mac = group_mac(a);
            match macs.iter_mut().find(|(m, _)| *m == mac) {
                Some((_, n)) => *n += 1,
                None => macs.push((mac, 1)),
            }
        }
        for (mac, users) in macs {
            let hex: String = mac.0.iter().map(|b| format!("{b:02x}")).collect();
            let _ = writeln!(s, "{:<4} {:<15} {:<5} {:<5} {hex}", d.index.0, d.name, users, 0);
        }
    }
    s.into_bytes()
}

/// `softnet_seq_show`: one line, the stack of a namespace runs on one processor.
pub(super) fn softnet_stat(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut columns = [0u32; 15];
    columns[0] = ns.devs.iter().map(|d| d.stats.rx_packets).sum::<u64>() as u32;
    columns[1] = ns.env.drops.get(DropReason::CpuBacklog) as u32;
    columns[11] = ns.env.backlog.len() as u32;
    columns[13] = columns[11];
    let line: Vec<String> = columns.iter().map(|c| format!("{c:08x}")).collect();
    format!("{}\n", line.join(" ")).into_bytes()
}
