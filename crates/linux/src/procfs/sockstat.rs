//! `/proc/net/{sockstat,sockstat6,protocols}` (`sockstat_seq_show`, `sockstat6_seq_show`, `proto_seq_printf`).

use core::fmt::Write as _;

use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;
use ferronet_stack::sock::Proto;
use ferronet_stack::tcp::TcpKind;

use crate::kernel::{File, Kernel};

/// Bytes of a page, the unit of protocol memory.
const PAGE: u64 = 4096;

/// Sockets in use (hashed) and memory of one family.
#[derive(Clone, Copy, Default)]
struct Count {
    tcp: usize,
    udp: usize,
    raw: usize,
    ping: usize,
}

#[derive(Default)]
struct Counts {
    /// IPv4, IPv6.
    family: [Count; 2],
    packet: usize,
    netlink: usize,
    /// All sockets of the namespace.
    used: usize,
    /// TCP sockets in any state, and those without a program.
    tcp_alloc: usize,
    orphans: usize,
    tcp_mem: u64,
    udp_mem: u64,
}

fn count(k: &Kernel, ns: &Namespace) -> Counts {
    let mut n = Counts { used: k.files.values().filter(|f| f.ns == ns.id).count(), ..Counts::default() };
    n.netlink = k.files.values().filter(|f| f.ns == ns.id && matches!(f.file, File::Netlink(_))).count();
    n.orphans = ns.socks.tcp.orphans as usize;
    for s in ns.socks.socks.values() {
        let c = &s.common;
        let [v4, v6] = &mut n.family;
        let f = if c.is_v6() { v6 } else { v4 };
        match &s.proto {
            Proto::Tcp(t) => {
                n.tcp_alloc += 1;
                match &t.kind {
                    TcpKind::Closed => {}
                    TcpKind::Listen(_) => f.tcp += 1,
                    TcpKind::Conn(tcb) => {
                        f.tcp += 1;
                        n.tcp_mem += u64::from(tcb.inq()) + u64::from(tcb.wmem_queued());
                    }
                }
            }
            Proto::Udp(u) => {
                f.udp += usize::from(c.lport != 0);
                n.udp_mem += u64::from(u.rx.rmem);
            }
            Proto::Raw(_) => f.raw += 1,
            Proto::Ping(_) => f.ping += usize::from(c.lport != 0),
            Proto::Packet(_) => n.packet += 1,
        }
    }
    n
}

/// Sockets by protocol. Memory is in pages of 4 KiB, of fragments in bytes.
pub(super) fn sockstat(k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let n = count(k, ns);
    let [v4, _] = n.family;
    format!(
        "sockets: used {}\nTCP: inuse {} orphan {} tw {} alloc {} mem {}\nUDP: inuse {} mem {}\nUDPLITE: inuse 0\n\
         RAW: inuse {}\nFRAG: inuse {} memory {}\n",
        n.used,
        v4.tcp,
        n.orphans,
        ns.socks.tcp.time_wait.len(),
        n.tcp_alloc,
        n.tcp_mem.div_ceil(PAGE),
        v4.udp,
        n.udp_mem.div_ceil(PAGE),
        v4.raw,
        ns.frags.count(Family::V4),
        ns.frags.memory(Family::V4)
    )
    .into_bytes()
}

/// Likewise for IPv6.
pub(super) fn sockstat6(k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let [_, v6] = count(k, ns).family;
    format!(
        "TCP6: inuse {}\nUDP6: inuse {}\nUDPLITE6: inuse 0\nRAW6: inuse {}\nFRAG6: inuse {} memory {}\n",
        v6.tcp,
        v6.udp,
        v6.raw,
        ns.frags.count(Family::V6),
        ns.frags.memory(Family::V6)
    )
    .into_bytes()
}

/// Name, object size, longest header, slab, and the calls it has (the letters of the header's last columns).
const PROTOCOLS: &[(&str, u32, u32, bool, &str)] = &[
    ("PACKET", 1600, 0, false, "nnnnnnnnnnnnnnnnnn"),
    ("PINGv6", 1344, 0, true, "yyynnynnyyyyyynyyn"),
    ("RAWv6", 1344, 0, true, "yyynyyynyyyyyyyynn"),
    ("UDPLITEv6", 1472, 0, true, "yyynyyynyyyynnyyyn"),
    ("UDPv6", 1472, 0, true, "yyynyyynyyyynnyyyn"),
    ("TCPv6", 2432, 192, true, "yyyyyyyyyyyynyyyyy"),
    ("UNIX-STREAM", 1152, 0, true, "ynnnnnnnnnnnnnnnnn"),
    ("UNIX", 1152, 0, true, "ynnnnnnnnnnnnnnnnn"),
    ("UDP-Lite", 1344, 0, true, "yyynyyynyyyynnyyyn"),
    ("PING", 1016, 0, true, "yyynnynnyyyyyynyyn"),
    ("RAW", 1152, 0, true, "yyynyyynyyyyyyyynn"),
    ("UDP", 1344, 0, true, "yyynyyynyyyynnyyyn"),
    ("TCP", 2304, 192, true, "yyyyyyyyyyyynyyyyy"),
    ("NETLINK", 1096, 0, false, "nnnnnnnnnnnnnnnnnn"),
];

/// `proto_seq_printf`.
pub(super) fn protocols(k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let n = count(k, ns);
    let [v4, v6] = n.family;
    let mut s = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha \
                 uh gp em\n"
        .to_owned();
    for &(name, size, header, slab, calls) in PROTOCOLS {
        let sockets = match name {
            "PACKET" => n.packet,
            "PINGv6" => v6.ping,
            "RAWv6" => v6.raw,
            "UDPv6" => v6.udp,
            "TCPv6" => v6.tcp,
            "PING" => v4.ping,
            "RAW" => v4.raw,
            "UDP" => v4.udp,
            "TCP" => v4.tcp,
            "NETLINK" => n.netlink,
            _ => 0,
        };
        let tcp = name.starts_with("TCP");
        let memory = match name {
            _ if tcp => n.tcp_mem.div_ceil(PAGE).to_string(),
            _ if name.starts_with("UDP") => n.udp_mem.div_ceil(PAGE).to_string(),
            _ => "-1".to_owned(),
        };
        let calls: Vec<String> = calls.chars().map(|c| format!("{c:>2}")).collect();
        let press = if tcp { "no" } else { "NI" };
        let slab = if slab { "yes" } else { "no" };
        let _ = writeln!(
            s,
            "{name:<9} {size:>4} {sockets:>6}  {memory:>6}   {press:<3} {header:>6}   {slab:<3}  {:<10} {}",
            "kernel",
            calls.join(" ")
        );
    }
    s.into_bytes()
}
