//! ICMP errors about TCP segments (`tcp_v4_err`, `tcp_v6_err`).

use ferronet_core::Mib;
use ferronet_wire::tcp::SeqNr;

use super::tx::{tcp_push, with_tcb};
use super::{FourTuple, Owner};
use crate::ipv4::icmp::IcmpError;
use crate::ns::Namespace;

/// `transport` is the quoted TCP header, at least its first eight bytes: ports and sequence number.
pub fn tcp_err(ns: &mut Namespace, e: &IcmpError, transport: &[u8]) {
    let Some(&[a, b, c, d, s0, s1, s2, s3]) = transport.first_chunk::<8>() else { return };
    let tuple = FourTuple {
        laddr: e.saddr,
        lport: u16::from_be_bytes([a, b]),
        raddr: e.daddr,
        rport: u16::from_be_bytes([c, d]),
    };
    let seq = SeqNr(u32::from_be_bytes([s0, s1, s2, s3]));
    ns.socks.tcp.refresh(&ns.env.sysctl);
    let key = match ns.socks.tcp.established(&tuple) {
        Some(Owner::Sock(k)) => k,
        Some(Owner::Request(_) | Owner::TimeWait(_)) => return,
        None => {
            ns.env.mib.inc(Mib::IcmpInErrors);
            return;
        }
    };
    let mtu = e.mtu;
    let header = if e.daddr.is_ipv6() { 60 } else { 40 };
    let outcome = with_tcb(ns, key, |t, cx| {
        // RFC 5927 §4.1: only what is in flight can be in an ICMP error.
        if !t.sent_and_unacked(seq) {
            cx.mib.inc(Mib::TcpExtOutOfWindowIcmps);
            return;
        }
        if mtu > 0 {
            t.mtu_reduced(cx, u16::try_from(mtu.saturating_sub(header)).unwrap_or(u16::MAX));
        } else {
            t.icmp_error(cx, e.errno);
        }
    });
    if outcome.is_some() {
        tcp_push(ns, key);
    }
}
