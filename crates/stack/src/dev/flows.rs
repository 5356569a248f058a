//! Who talks to whom: packets, bytes and retransmissions by flow, counted where packets leave.

use core::net::IpAddr;

use ferronet_core::Packet;
use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use ferronet_wire::ipproto::{IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use ferronet_wire::ipv6::ipv6_skip_exthdr;
use ferronet_wire::{Ipv4Hdr, Ipv6Hdr, SeqNr, TcpFlags, TcpHdr, UdpHdr};

/// Flows kept; packets of further ones are counted together.
const MAX_FLOWS: usize = 16_384;

/// One direction of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// IP protocol.
    pub proto: u8,
    /// Sender's port, 0 where there is none.
    pub sport: u16,
    /// Receiver's port, 0 where there is none.
    pub dport: u16,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// Packets; the segments of a large one are counted one by one.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
    /// TCP segments with data (or SYN, FIN) that had been sent before.
    pub retransmitted: u64,
    /// TCP: the highest sequence number sent so far.
    end: Option<SeqNr>,
}

/// The flows of one device.
#[derive(Debug)]
pub struct Flows {
    flows: KeyedMap<FlowKey, FlowCount>,
    /// Packets of flows beyond the limit.
    pub others: FlowCount,
}

/// What the headers of an IP packet say.
struct Seen {
    key: FlowKey,
    /// TCP: the sequence numbers it takes, first and one past the last.
    seq: Option<(SeqNr, SeqNr)>,
}

impl Flows {
    /// No flow yet.
    pub fn new(rng: &mut Rng) -> Self {
        Flows { flows: KeyedMap::with_hasher(KeyedState::new(rng)), others: FlowCount::default() }
    }

    /// Counts a frame whose IP header starts at byte `network` of its data; other frames are not counted.
    pub fn account(&mut self, p: &Packet, network: usize) {
        let len = p.len().saturating_sub(network);
        let Some(seen) = p.data().get(network..).and_then(|head| look(head, len)) else { return };
        let full = self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&seen.key);
        let count = if full { &mut self.others } else { self.flows.entry(seen.key).or_default() };
        let segs = u64::from(p.meta().gso.segs.max(1));
        count.packets += segs;
        count.bytes += len as u64;
        if let Some((from, to)) = seen.seq
            && !full
        {
            // Before the highest number sent: it was sent already (RFC 9293 §3.4 on wrapping).
            if count.end.is_some_and(|end| from.lt(end)) {
                count.retransmitted += segs;
            }
            count.end = Some(count.end.map_or(to, |end| end.max(to)));
        }
    }

    /// All flows, sorted by key.
    #[must_use]
    pub fn sorted(&self) -> Vec<(FlowKey, FlowCount)> {
        let mut all: Vec<_> = self.flows.iter().map(|(k, c)| (*k, *c)).collect();
        all.sort_unstable_by_key(|(k, _)| *k);
        all
    }
}

/// Reads the headers; `len` is the length of the whole packet.
fn look(head: &[u8], len: usize) -> Option<Seen> {
    let (src, dst, proto, transport) = match head.first()? >> 4 {
        4 => {
            let h = Ipv4Hdr::view(head)?;
            let at = if h.offset_bytes() == 0 { Some(usize::from(h.ihl()) * 4) } else { None };
            (h.saddr().into(), h.daddr().into(), h.protocol, at)
        }
        6 => {
            let h = Ipv6Hdr::view(head)?;
            let (nexthdr, at) = match ipv6_skip_exthdr(head, Ipv6Hdr::LEN, h.nexthdr) {
                Some(s) if s.frag_off & 0xfff8 == 0 => (s.nexthdr, Some(s.offset)),
                Some(_) | None => (h.nexthdr, None),
            };
            (IpAddr::V6(h.saddr()), IpAddr::V6(h.daddr()), nexthdr, at)
        }
        _ => return None,
    };
    // Neighbour discovery and listener reports (RFC 4861, 3810) are for IPv6 what ARP is for IPv4: no conversation.
    let link_business = |b: &[u8]| b.first().is_some_and(|t| matches!(t, 130..=137 | 143));
    if proto == IPPROTO_ICMPV6 && transport.and_then(|at| head.get(at..)).is_some_and(link_business) {
        return None;
    }
    let mut key = FlowKey { src, dst, proto, sport: 0, dport: 0 };
    let mut seq = None;
    let rest = transport.and_then(|at| head.get(at..));
    if proto == IPPROTO_TCP
        && let Some(h) = rest.and_then(TcpHdr::view)
    {
        (key.sport, key.dport) = (h.source(), h.dest());
        let data = len.saturating_sub(transport.unwrap_or(0) + h.hdr_len()) as u32;
        let flags = h.flags();
        let takes =
            data + u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
        if takes > 0 {
            seq = Some((h.seq(), h.seq() + takes));
        }
    } else if proto == IPPROTO_UDP
        && let Some(h) = rest.and_then(UdpHdr::view)
    {
        (key.sport, key.dport) = (h.source(), h.dest());
    }
    Some(Seen { key, seq })
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use ferronet_core::Env;

    use super::*;

    fn tcp(seq: u32, flags: TcpFlags, data: usize) -> Vec<u8> {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut h = TcpHdr::new(4711, 80);
        h.set_seq(SeqNr(seq));
        h.set_flags(flags);
        let ip = Ipv4Hdr::new(a, b, IPPROTO_TCP, 64, TcpHdr::LEN + data);
        [ip.bytes(), h.bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn retransmissions_are_seen_across_the_wrap() {
        let mut env = Env::new(1);
        let mut flows = Flows::new(&mut env.rng);
        let start = u32::MAX - 50;
        for (seq, flags, data) in [
            (start, TcpFlags::SYN, 0),
            (start.wrapping_add(1), TcpFlags::ACK, 100),
            (start.wrapping_add(101), TcpFlags::ACK, 100),
            (start.wrapping_add(1), TcpFlags::ACK, 100),
            (start.wrapping_add(201), TcpFlags::ACK, 0),
            (start.wrapping_add(201), TcpFlags::FIN, 0),
        ] {
            let p = env.pool.from_slice(&tcp(seq, flags, data));
            flows.account(&p, 0);
            env.consume(p);
        }
        let all = flows.sorted();
        assert_eq!(all.len(), 1);
        let (key, count) = all[0];
        assert_eq!((key.sport, key.dport, key.proto), (4711, 80, IPPROTO_TCP));
        assert_eq!((count.packets, count.bytes, count.retransmitted), (6, 6 * 40 + 300, 1));
    }

    #[test]
    fn other_frames_and_broken_ones_are_not_counted() {
        let mut env = Env::new(1);
        let mut flows = Flows::new(&mut env.rng);
        for bytes in [&[][..], &[0; 60], &[0x45], &[0x60; 20]] {
            let p = env.pool.from_slice(bytes);
            flows.account(&p, 0);
            env.consume(p);
        }
        assert!(flows.sorted().is_empty());
    }
}
