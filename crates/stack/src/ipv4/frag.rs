//! IPv4 fragmentation (`ip_do_fragment`) and reassembly (`net/ipv4/ip_fragment.c`).

use core::net::IpAddr;
use core::time::Duration;

use bytes::Bytes;
use ferronet_core::{Csum, DropReason, IfIndex, Mib, Packet, Sysctl};
use ferronet_wire::icmp::{self as wire_icmp, IcmpHdr};
use ferronet_wire::ipv4::{IP_DF, IP_MF, IPOPT_COPY, IPOPT_END, IPOPT_NOOP, Ipv4Hdr, ip_send_check};
use smallvec::SmallVec;

use super::icmp::icmp_send;
use crate::fib::Family;
use crate::inet_frag::{DefragUser, Done, FragKey, Limits, Piece};
use crate::ns::Namespace;

/// Largest IPv4 datagram.
const MAX_DATAGRAM: u32 = 65_535;

fn limits(ns: &Namespace) -> Limits {
    let get = |s| u64::try_from(ns.env.sysctl.get(s)).unwrap_or(0);
    Limits {
        high_thresh: get(Sysctl::IpfragHighThresh) as usize,
        timeout: Duration::from_secs(get(Sysctl::IpfragTime)),
        max_dist: get(Sysctl::IpfragMaxDist).min(u64::from(u32::MAX)) as u32,
    }
}

/// A fragment arrived, at its header; the whole packet, at its header, once it is complete (`ip_defrag`).
pub fn ip_defrag(ns: &mut Namespace, mut p: Packet) -> Option<Packet> {
    ns.env.stage(&p, "ip_defrag");
    ns.env.mib.inc(Mib::IpReasmReqds);
    let Some(h) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::FragInvalid);
        return None;
    };
    let hdr_len = h.hdr_len();
    let size = p.len();
    let offset = h.offset_bytes() as u32;
    let more = h.flags() & IP_MF != 0;
    let mut end = offset + size.saturating_sub(hdr_len) as u32;
    if more {
        // All but the last carry multiples of eight bytes; what is beyond is cut off.
        end &= !7;
    }
    let key = FragKey {
        saddr: IpAddr::V4(h.saddr()),
        daddr: IpAddr::V4(h.daddr()),
        id: u32::from(h.id()),
        proto: h.protocol(),
        dev: IfIndex::NONE,
        user: DefragUser::LocalDeliver,
    };
    let _ = p.pull(hdr_len);
    let piece = Piece { offset, end, more, ecn: h.ecn(), size: size as u32, df: h.df() };
    let limits = limits(ns);
    let done = ns.frags.queue(&mut ns.env, &limits, key, piece, p)?;
    ip_frag_reasm(ns, done)
}

/// Makes the header of the whole (`ip_frag_reasm`).
fn ip_frag_reasm(ns: &mut Namespace, done: Done) -> Option<Packet> {
    let mut p = done.packet;
    let network = p.meta().network;
    let seek = p.seek(network);
    let hdr_len = Ipv4Hdr::view(p.network()).map_or(0, |h| h.hdr_len()) as u32;
    let total = hdr_len + done.len;
    let Some(h) = Ipv4Hdr::view_mut(p.network_mut()).filter(|_| seek && total <= MAX_DATAGRAM) else {
        ns.env.mib.inc(Mib::IpReasmFails);
        ns.env.drop(p, DropReason::FragInvalid);
        return None;
    };
    h.set_tot_len(total as u16);
    h.tos |= done.ecn;
    // The sender did path MTU discovery with fragments: keep DF for those who fragment it again.
    let df = done.max_df_size == done.max_size;
    h.set_frag_off(if df { IP_DF } else { 0 });
    let _ = ip_send_check(p.network_mut());
    p.meta_mut().frag_max_size = done.max_size.max(done.max_df_size) as u16;
    ns.env.mib.inc(Mib::IpReasmOKs);
    Some(p)
}

/// A reassembly queue's time is up (`ip_expire`, `ip6frag_expire_frag_queue`).
pub fn frag_timeout(ns: &mut Namespace, id: u64) {
    let Some(e) = ns.frags.expire(&mut ns.env, id) else { return };
    let Some(mut p) = e.first else { return };
    p.meta_mut().dev = e.dev;
    match e.family {
        // RFC 792: code 1, only when fragment zero is there.
        Family::V4 => {
            let h = IcmpHdr::new(wire_icmp::ICMP_TIME_EXCEEDED, wire_icmp::ICMP_EXC_FRAGTIME);
            icmp_send(ns, &p, h);
        }
        Family::V6 => crate::ipv6::reassembly::frag_expired(ns, &p),
    }
    ns.env.drop(p, DropReason::FragTimeout);
}

/// Cuts a packet at its header into fragments of at most `mtu` bytes and hands each to `output` (`ip_fragment`,
/// `ip_do_fragment`). Payload is shared, not copied. With DF set and not to be ignored the sender is told.
pub fn ip_fragment(
    ns: &mut Namespace,
    p: Packet,
    mtu: usize,
    output: &mut dyn FnMut(&mut Namespace, Packet),
) {
    let Some(h) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::IpFragFail);
        return;
    };
    let m = *p.meta();
    let largest = usize::from(m.frag_max_size);
    if p.len() <= mtu && largest <= mtu {
        output(ns, p);
        return;
    }
    if h.df() && (!m.ignore_df || largest > mtu) {
        icmp_send(ns, &p, IcmpHdr::frag_needed(mtu.min(0xffff) as u16));
        ns.env.drop(p, DropReason::IpNeedFrag);
        return;
    }
    // What was reassembled is never cut into larger pieces than it came in.
    let mtu = if largest > 0 { mtu.min(largest) } else { mtu };
    ip_do_fragment(ns, p, &h, mtu, output);
}

fn ip_do_fragment(
    ns: &mut Namespace,
    mut p: Packet,
    h: &Ipv4Hdr,
    mtu: usize,
    output: &mut dyn FnMut(&mut Namespace, Packet),
) {
    if p.meta().csum == Csum::Partial {
        crate::dev::gso::skb_checksum_help(&mut p);
    }
    let hdr_len = h.hdr_len();
    let room = mtu.saturating_sub(hdr_len) & !7;
    if room == 0 || p.data().len() < hdr_len {
        ns.env.drop(p, DropReason::IpFragFail);
        return;
    }
    let df = if h.df() && p.meta().frag_max_size > 0 { IP_DF } else { 0 };
    let last_has_more = h.flags() & IP_MF;
    let mut pieces: SmallVec<[Bytes; 2]> = SmallVec::new();
    p.take_payload(hdr_len, &mut pieces);
    let mut rest = Pieces { pieces: &pieces, at: 0, offset: 0 };
    let total: usize = pieces.iter().map(Bytes::len).sum();
    let mut done = 0;
    while done < total {
        // The last one may use the bytes up to the MTU that are no multiple of eight.
        let left = total - done;
        let n = if left <= mtu - hdr_len { left } else { room };
        let mut f = p.copy(&mut ns.env.pool);
        rest.move_to(&mut f, n);
        let mf = if n < left { IP_MF } else { last_has_more };
        if let Some(w) = Ipv4Hdr::view_mut(f.network_mut()) {
            w.set_frag_off((((h.offset_bytes() + done) / 8) as u16) | mf | df);
            w.set_tot_len((hdr_len + n) as u16);
        }
        let _ = ip_send_check(f.network_mut());
        if done == 0 && h.offset_bytes() == 0 {
            ip_options_fragment(p.network_mut(), hdr_len);
        }
        done += n;
        f.meta_mut().frag_max_size = 0;
        f.meta_mut().csum = Csum::None;
        ns.env.mib.inc(Mib::IpFragCreates);
        output(ns, f);
    }
    ns.env.mib.inc(Mib::IpFragOKs);
    ns.env.consume(p);
}

/// Walks over payload pieces and shares runs of them.
pub(crate) struct Pieces<'a> {
    pub(crate) pieces: &'a [Bytes],
    pub(crate) at: usize,
    pub(crate) offset: usize,
}

impl Pieces<'_> {
    /// Appends the next `n` bytes to `p`.
    pub(crate) fn move_to(&mut self, p: &mut Packet, mut n: usize) {
        while n > 0 {
            let Some(b) = self.pieces.get(self.at) else { return };
            let take = n.min(b.len() - self.offset);
            p.push_frag(b.slice(self.offset..self.offset + take));
            n -= take;
            self.offset += take;
            if self.offset == b.len() {
                (self.at, self.offset) = (self.at + 1, 0);
            }
        }
    }
}

/// Options that are not copied into fragments become no-operations in all but the first (RFC 791 §3.1,
/// `ip_options_fragment`): the header keeps its length.
fn ip_options_fragment(header: &mut [u8], hdr_len: usize) {
    let Some(o) = header.get_mut(Ipv4Hdr::LEN..hdr_len) else { return };
    let mut i = 0;
    while let Some(&kind) = o.get(i) {
        let len = match (kind, o.get(i + 1)) {
            (IPOPT_END, _) => return,
            (IPOPT_NOOP, _) => 1,
            (_, Some(&l)) if l >= 2 && i + usize::from(l) <= o.len() => usize::from(l),
            (_, _) => return,
        };
        if kind & IPOPT_COPY == 0 {
            o[i..i + len].fill(IPOPT_NOOP);
        }
        i += len;
    }
}

#[cfg(test)]
mod tests;
