//! ICMP for IPv4 (`net/ipv4/icmp.c`): echo, errors out, errors in, rate limits.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::hash::{KeyedMap, KeyedState};
use ferronet_core::rng::Rng;
use ferronet_core::{DropReason, Errno, IfIndex, Instant, Mib, Packet, PktType, Sysctl};
use ferronet_wire::icmp::{self as wire, IcmpHdr};
use ferronet_wire::ipproto;
use ferronet_wire::ipv4::Ipv4Hdr;

use super::input::{checksum_ok, csum_packet};
use super::options::ip_options_echo;
use super::route::{addr_type, is_local};
use crate::fib::{Route, RouteType};
use crate::ns::Namespace;

/// Token buckets of ICMP errors and replies: one global, one per destination (`inet_peer`).
#[derive(Debug)]
pub struct IcmpLimits {
    credit: u32,
    stamp: Instant,
    peers: KeyedMap<IpAddr, (Instant, u64)>,
}

/// Peers remembered at most; old ones are the first to go.
const MAX_PEERS: usize = 4096;

impl IcmpLimits {
    /// Full buckets.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        IcmpLimits { credit: 50, stamp: Instant::ZERO, peers: KeyedMap::with_hasher(KeyedState::new(rng)) }
    }

    /// `icmp_global_allow`: `per_sec` messages, at most `burst` at once.
    pub fn global_allow(&mut self, now: Instant, per_sec: u32, burst: u32) -> bool {
        let elapsed = (now - self.stamp).as_millis().min(1000) as u32;
        let fresh = (u64::from(per_sec) * u64::from(elapsed) / 1000) as u32;
        if fresh > 0 {
            self.credit = self.credit.saturating_add(fresh).min(burst);
            self.stamp = now;
        }
        if self.credit == 0 {
            return false;
        }
        self.credit -= 1;
        true
    }

    /// `inet_peer_xrlim_allow`: one message per `interval_ms`, with a burst of six.
    pub fn peer_allow(&mut self, now: Instant, peer: IpAddr, interval_ms: u64) -> bool {
        const BURST: u64 = 6;
        if interval_ms == 0 {
            return true;
        }
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            let full = BURST * interval_ms;
            self.peers.retain(|_, (t, _)| u128::from(full) > (now - *t).as_millis());
            if self.peers.len() >= MAX_PEERS {
                return false;
            }
        }
        let (stamp, tokens) = self.peers.entry(peer).or_insert((now, BURST * interval_ms));
        *tokens = (*tokens + (now - *stamp).as_millis() as u64).min(BURST * interval_ms);
        *stamp = now;
        if *tokens < interval_ms {
            return false;
        }
        *tokens -= interval_ms;
        true
    }
}

/// Sends an error about `orig` (at its network header position or beyond; the header is found by its mark).
/// RFC 1122 §3.2.2 says about which packets never; RFC 1812 §4.3.2.3 allows to quote up to 576 bytes.
pub fn icmp_send(ns: &mut Namespace, orig: &Packet, hdr: IcmpHdr) {
    let Some(ip) = Ipv4Hdr::view(orig.network()).copied() else { return };
    let saddr = ip.saddr();
    let dev = orig.meta().dev;
    if orig.meta().pkt_type != PktType::Host
        || ip.offset_bytes() != 0
        || matches!(addr_type(ns, ip.daddr()), RouteType::Broadcast | RouteType::Multicast)
        || matches!(addr_type(ns, saddr), RouteType::Broadcast | RouteType::Multicast)
        || saddr.is_unspecified()
    {
        return;
    }
    if hdr.is_error() && ip.protocol() == ipproto::IPPROTO_ICMP {
        // About an ICMP error none is sent; what cannot be read counts as one.
        let t = orig.network().get(ip.hdr_len());
        if t.is_none_or(|t| wire::icmp_is_err(*t)) {
            return;
        }
    }
    if !rate_allows(ns, hdr.icmp_type, hdr.code, saddr, dev) {
        return;
    }
    // The address that was spoken to, or one of the device that received the packet.
    let source = if is_local(ns, ip.daddr()) {
        ip.daddr()
    } else if ns.env.sysctl.on(Sysctl::IcmpErrorsUseInboundIfaddr) {
        super::route::inet_select_addr(ns, dev, saddr, crate::dev::scope::LINK)
            .unwrap_or(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    // Precedence "internetwork control" (RFC 1812 §4.3.2.5), as icmp_send.
    let tos = if hdr.is_error() { (ip.tos() & 0x1e) | 0xc0 } else { ip.tos() };
    // What is not well-formed is not taken along.
    let options = match hdr.icmp_type {
        wire::ICMP_PARAMETERPROB => Some(Default::default()),
        _ => ip_options_echo(ns, orig, source, saddr),
    };
    let Some(options) = options else { return };
    let quoted = quote(orig, 576 - Ipv4Hdr::LEN - options.len() - IcmpHdr::LEN);
    count_out(ns, hdr.icmp_type);
    let ip = Ipv4Hdr::new(source, saddr, ipproto::IPPROTO_ICMP, 0, 0);
    push_icmp(ns, Ipv4Hdr { tos, ..ip }, &options, hdr, &quoted);
}

/// The network packet from its header on, cut to `max` bytes.
pub(crate) fn quote(orig: &Packet, max: usize) -> Vec<u8> {
    let skip = usize::from(orig.pos()).saturating_sub(usize::from(orig.meta().network));
    let have = orig.len() + skip;
    let mut out = vec![0; have.min(max)];
    let linear = orig.network();
    let n = linear.len().min(out.len());
    out[..n].copy_from_slice(&linear[..n]);
    if n < out.len() {
        let at = n - skip.min(n);
        let _ = orig.copy_bits(at, &mut out[n..]);
    }
    out
}

/// `icmpv4_mask_allow`, `icmp_global_allow`, `icmpv4_xrlim_allow`.
fn rate_allows(ns: &mut Namespace, icmp_type: u8, code: u8, dst: Ipv4Addr, dev: IfIndex) -> bool {
    // Path MTU discovery is never limited.
    if icmp_type == wire::ICMP_DEST_UNREACH && code == wire::ICMP_FRAG_NEEDED {
        return true;
    }
    let s = &ns.env.sysctl;
    if icmp_type > wire::NR_ICMP_TYPES || s.get(Sysctl::IcmpRatemask) & (1 << icmp_type) == 0 {
        return true;
    }
    let (per_sec, burst) = (s.get(Sysctl::IcmpMsgsPerSec), s.get(Sysctl::IcmpMsgsBurst));
    let limit = s.get(Sysctl::IcmpRatelimit);
    if dev == IfIndex::LO {
        return true;
    }
    let clip = |v: i64| u32::try_from(v.max(0)).unwrap_or(u32::MAX);
    if !ns.icmp.global_allow(ns.env.now, clip(per_sec), clip(burst)) {
        ns.env.mib.inc(Mib::IcmpOutRateLimitGlobal);
        return false;
    }
    if !ns.icmp.peer_allow(ns.env.now, IpAddr::V4(dst), limit.max(0) as u64) {
        ns.env.mib.inc(Mib::IcmpOutRateLimitHost);
        return false;
    }
    true
}

/// Builds the message and queues it for `ip_local_out`: nothing re-enters the path.
fn push_icmp(ns: &mut Namespace, like: Ipv4Hdr, options: &[u8], mut hdr: IcmpHdr, body: &[u8]) {
    hdr.fill_checksum(ferronet_wire::checksum::csum_partial(body, 0));
    let mut p = ns.env.pool.from_slice(body);
    let _ = hdr.put(p.push(IcmpHdr::LEN));
    p.set_transport_header(0);
    push_ip(ns, p, like, options);
}

/// Adds the header with its options (a multiple of four bytes) to a message and queues it. `like` says the addresses
/// and the type of service.
fn push_ip(ns: &mut Namespace, mut p: Packet, like: Ipv4Hdr, options: &[u8]) {
    let ttl = ns.env.sysctl.get(Sysctl::IpDefaultTtl) as u8;
    let len = p.len() + options.len();
    let mut ip = Ipv4Hdr::new(like.saddr(), like.daddr(), ipproto::IPPROTO_ICMP, ttl, len);
    ip.tos = like.tos;
    ip.set_ihl((5 + options.len() / 4) as u8);
    ip.set_id(ns.env.rng.next_u32() as u16);
    let b = p.push(Ipv4Hdr::LEN + options.len());
    let _ = ip.put(b);
    b[Ipv4Hdr::LEN..].copy_from_slice(options);
    p.set_network_header();
    p.meta_mut().local_out = true;
    ns.env.backlog.push(p);
}

fn count_out(ns: &mut Namespace, icmp_type: u8) {
    ns.env.mib.inc(Mib::IcmpOutMsgs);
    ns.env.mib.icmpmsg[1][usize::from(icmp_type)] += 1;
    if let Some(m) = by_type(
        icmp_type,
        [Mib::IcmpOutEchoReps, Mib::IcmpOutDestUnreachs, Mib::IcmpOutSrcQuenchs, Mib::IcmpOutRedirects],
        [Mib::IcmpOutEchos, Mib::IcmpOutTimeExcds, Mib::IcmpOutParmProbs],
        [Mib::IcmpOutTimestamps, Mib::IcmpOutTimestampReps, Mib::IcmpOutAddrMasks, Mib::IcmpOutAddrMaskReps],
    ) {
        ns.env.mib.inc(m);
    }
}

/// Counts an ICMP message that a program sent (ping and raw sockets).
pub fn count_sent(ns: &mut Namespace, icmp_type: u8) {
    count_out(ns, icmp_type);
}

fn by_type(t: u8, low: [Mib; 4], mid: [Mib; 3], high: [Mib; 4]) -> Option<Mib> {
    match t {
        wire::ICMP_ECHOREPLY => Some(low[0]),
        wire::ICMP_DEST_UNREACH => Some(low[1]),
        wire::ICMP_SOURCE_QUENCH => Some(low[2]),
        wire::ICMP_REDIRECT => Some(low[3]),
        wire::ICMP_ECHO => Some(mid[0]),
        wire::ICMP_TIME_EXCEEDED => Some(mid[1]),
        wire::ICMP_PARAMETERPROB => Some(mid[2]),
        wire::ICMP_TIMESTAMP => Some(high[0]),
        wire::ICMP_TIMESTAMPREPLY => Some(high[1]),
        wire::ICMP_ADDRESS => Some(high[2]),
        wire::ICMP_ADDRESSREPLY => Some(high[3]),
        _ => None,
    }
}

/// An ICMP message for this host, at its header (`icmp_rcv`).
pub fn icmp_rcv(ns: &mut Namespace, mut p: Packet) {
    ns.env.stage(&p, "icmp_rcv");
    ns.env.mib.inc(Mib::IcmpInMsgs);
    if !checksum_ok(&mut p, 0) {
        ns.env.mib.inc(Mib::IcmpInErrors);
        ns.env.drop(p, DropReason::IcmpCsum);
        return;
    }
    if !p.may_pull(IcmpHdr::LEN) {
        ns.env.drop(p, DropReason::IcmpInvalid);
        return;
    }
    let Some(h) = IcmpHdr::view(p.data()).copied() else {
        ns.env.drop(p, DropReason::IcmpInvalid);
        return;
    };
    ns.env.mib.icmpmsg[0][usize::from(h.icmp_type)] += 1;
    let counter = by_type(
        h.icmp_type,
        [Mib::IcmpInEchoReps, Mib::IcmpInDestUnreachs, Mib::IcmpInSrcQuenchs, Mib::IcmpInRedirects],
        [Mib::IcmpInEchos, Mib::IcmpInTimeExcds, Mib::IcmpInParmProbs],
        [Mib::IcmpInTimestamps, Mib::IcmpInTimestampReps, Mib::IcmpInAddrMasks, Mib::IcmpInAddrMaskReps],
    );
    if let Some(m) = counter {
        ns.env.mib.inc(m);
    }
    // RFC 1122 §3.2.2.6: echo requests to groups may be ignored; so does Linux by default.
    let to_group = p.meta().pkt_type != PktType::Host;
    if to_group
        && matches!(h.icmp_type, wire::ICMP_ECHO | wire::ICMP_TIMESTAMP)
        && ns.env.sysctl.on(Sysctl::IcmpEchoIgnoreBroadcasts)
    {
        ns.env.mib.inc(Mib::IcmpInErrors);
        ns.env.drop(p, DropReason::IcmpIgnored);
        return;
    }
    match h.icmp_type {
        wire::ICMP_ECHO => icmp_echo(ns, p, h),
        wire::ICMP_ECHOREPLY => {
            crate::sock::ping::ping_rcv(ns, &p);
            ns.env.consume(p);
        }
        wire::ICMP_TIMESTAMP => icmp_timestamp(ns, p, h),
        wire::ICMP_DEST_UNREACH
        | wire::ICMP_TIME_EXCEEDED
        | wire::ICMP_PARAMETERPROB
        | wire::ICMP_SOURCE_QUENCH => icmp_unreach(ns, p, h),
        wire::ICMP_REDIRECT => {
            // Accepting redirects changes routes; only its counter moves until route exceptions carry gateways.
            ns.env.drop(p, DropReason::IcmpIgnored);
        }
        _ => ns.env.consume(p),
    }
}

/// RFC 792: the data come back as they came.
fn icmp_echo(ns: &mut Namespace, p: Packet, h: IcmpHdr) {
    if ns.env.sysctl.on(Sysctl::IcmpEchoIgnoreAll) {
        ns.env.drop(p, DropReason::IcmpIgnored);
        return;
    }
    let mut reply = h;
    reply.icmp_type = wire::ICMP_ECHOREPLY;
    icmp_reply(ns, p, reply);
}

fn icmp_timestamp(ns: &mut Namespace, mut p: Packet, h: IcmpHdr) {
    if !p.may_pull(IcmpHdr::LEN + 12) {
        ns.env.drop(p, DropReason::IcmpInvalid);
        return;
    }
    // Milliseconds since midnight UT (RFC 792, RFC 1122 §3.2.2.8).
    let ms = super::options::current_timestamp(ns);
    let b = p.data_mut();
    b[12..16].copy_from_slice(&ms);
    b[16..20].copy_from_slice(&ms);
    let mut reply = h;
    reply.icmp_type = wire::ICMP_TIMESTAMPREPLY;
    icmp_reply(ns, p, reply);
}

/// Turns the packet round (`icmp_reply`): the same buffer goes back with a new header.
fn icmp_reply(ns: &mut Namespace, mut p: Packet, mut hdr: IcmpHdr) {
    let Some(ip) = Ipv4Hdr::view(p.network()).copied() else {
        ns.env.drop(p, DropReason::IpHdr);
        return;
    };
    let dev = p.meta().dev;
    if !rate_allows(ns, hdr.icmp_type, hdr.code, ip.saddr(), dev) {
        ns.env.drop(p, DropReason::IcmpIgnored);
        return;
    }
    let saddr = if is_local(ns, ip.daddr()) { ip.daddr() } else { Ipv4Addr::UNSPECIFIED };
    let Some(options) = ip_options_echo(ns, &p, saddr, ip.saddr()) else {
        ns.env.drop(p, DropReason::IpOptions);
        return;
    };
    hdr.set_checksum(0);
    let _ = hdr.put(p.data_mut());
    let c = ferronet_wire::checksum::csum_fold(csum_packet(&p, 0));
    if let Some(h) = IcmpHdr::view_mut(p.data_mut()) {
        h.set_checksum(c);
    }
    count_out(ns, hdr.icmp_type);
    let trace = p.meta().trace;
    let mark = if ns.env.sysctl.on(Sysctl::FwmarkReflect) { p.meta().mark } else { 0 };
    *p.meta_mut() = ferronet_core::Meta { trace, mark, local_out: true, ..Default::default() };
    p.set_transport_header(0);
    let like = Ipv4Hdr::new(saddr, ip.saddr(), ipproto::IPPROTO_ICMP, 0, 0);
    push_ip(ns, p, Ipv4Hdr { tos: ip.tos(), ..like }, &options);
}

/// What an ICMP error says to the transport that sent the quoted packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub code: u8,
    /// Who says it.
    pub from: IpAddr,
    /// Source of the quoted packet: us.
    pub saddr: IpAddr,
    /// Its destination.
    pub daddr: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Errno for the program (`icmp_err_convert`).
    pub errno: Errno,
    /// Ends the connection or only informs.
    pub fatal: bool,
    /// Path MTU of "fragmentation needed" / "packet too big", else 0.
    pub mtu: u32,
    /// Device the error came in on.
    pub dev: IfIndex,
    /// Where the error was sent to.
    pub to: IpAddr,
    /// Time to live (hop limit) the error arrived with.
    pub ttl: u8,
    /// Its type of service (traffic class).
    pub tos: u8,
}

/// `icmp_err_convert`: errno and severity by unreachable code.
const UNREACH: [(Errno, bool); 16] = [
    (Errno::ENETUNREACH, false),
    (Errno::EHOSTUNREACH, false),
    (Errno::ENOPROTOOPT, true),
    (Errno::ECONNREFUSED, true),
    (Errno::EMSGSIZE, false),
    (Errno::EOPNOTSUPP, false),
    (Errno::ENETUNREACH, true),
    (Errno::EHOSTDOWN, true),
    (Errno::ENONET, true),
    (Errno::ENETUNREACH, true),
    (Errno::EHOSTUNREACH, true),
    (Errno::ENETUNREACH, false),
    (Errno::EHOSTUNREACH, false),
    (Errno::EHOSTUNREACH, true),
    (Errno::EHOSTUNREACH, true),
    (Errno::EHOSTUNREACH, true),
];

/// An error about a packet of ours: learn, then tell the transport (`icmp_unreach`).
fn icmp_unreach(ns: &mut Namespace, mut p: Packet, h: IcmpHdr) {
    let outer = Ipv4Hdr::view(p.network()).copied();
    let want = (IcmpHdr::LEN + 60 + 20).min(p.len());
    let _ = p.may_pull(want);
    let quoted = p.data().get(IcmpHdr::LEN..).unwrap_or(&[]);
    let (Some(outer), Some(inner)) = (outer, Ipv4Hdr::view(quoted).copied()) else {
        ns.env.drop(p, DropReason::IcmpInvalid);
        return;
    };
    if inner.hdr_len() < Ipv4Hdr::LEN || quoted.len() < inner.hdr_len() + 8 {
        ns.env.drop(p, DropReason::IcmpInvalid);
        return;
    }
    let (errno, fatal) = match h.icmp_type {
        wire::ICMP_DEST_UNREACH => UNREACH[usize::from(h.code.min(15))],
        wire::ICMP_PARAMETERPROB => (Errno::EPROTO, true),
        _ => (Errno::EHOSTUNREACH, false),
    };
    let mut mtu = 0;
    if h.icmp_type == wire::ICMP_DEST_UNREACH && h.code == wire::ICMP_FRAG_NEEDED {
        mtu = learn_pmtu(ns, &inner, u32::from(h.mtu()));
    }
    let e = IcmpError {
        icmp_type: h.icmp_type,
        code: h.code,
        from: IpAddr::V4(outer.saddr()),
        saddr: IpAddr::V4(inner.saddr()),
        daddr: IpAddr::V4(inner.daddr()),
        protocol: inner.protocol(),
        errno,
        fatal,
        mtu,
        dev: p.meta().dev,
        to: IpAddr::V4(outer.daddr()),
        ttl: outer.ttl(),
        tos: outer.tos(),
    };
    let payload = quoted.get(inner.hdr_len()..).unwrap_or(&[]).to_vec();
    crate::sock::icmp_err(ns, &e, &payload);
    ns.env.consume(p);
}

/// RFC 1191 §6: an MTU of 0 from old routers means the next plateau; never below `min_pmtu`.
fn learn_pmtu(ns: &mut Namespace, inner: &Ipv4Hdr, said: u32) -> u32 {
    let floor = u32::try_from(ns.env.sysctl.get(Sysctl::RouteMinPmtu)).unwrap_or(552);
    let mtu = if said == 0 { 576 } else { said }.max(floor);
    let daddr = IpAddr::V4(inner.daddr());
    let ttl = core::time::Duration::from_secs(ns.env.sysctl.get(Sysctl::RouteMtuExpires).max(0) as u64);
    if ns.env.sysctl.get(Sysctl::IpNoPmtuDisc) == 0 && ns.pmtu.get(ns.env.now, daddr).is_none_or(|m| mtu < m)
    {
        ns.pmtu.learn(ns.env.now, daddr, mtu, ttl);
    }
    mtu
}

/// Tells a host on the link that a better gateway exists (`ip_rt_send_redirect`).
pub fn ip_rt_send_redirect(ns: &mut Namespace, p: &Packet, r: &Route) {
    let Some(ip) = Ipv4Hdr::view(p.network()).copied() else { return };
    // Only when the sender sits on the same link as the gateway.
    let gw = match r.next_hop(IpAddr::V4(ip.daddr())) {
        IpAddr::V4(g) => g,
        IpAddr::V6(_) => return,
    };
    let on_link = ns.devs.get(r.dev).is_some_and(|d| {
        d.addrs.iter().any(|a| a.contains(IpAddr::V4(ip.saddr())) && a.contains(IpAddr::V4(gw)))
    });
    if !on_link {
        return;
    }
    let mut h = IcmpHdr::new(wire::ICMP_REDIRECT, wire::ICMP_REDIR_HOST);
    h.un = gw.octets();
    icmp_send(ns, p, h);
}

/// A packet's neighbour does not answer: tell the sender (`arp_error_report`).
pub fn host_unreachable(ns: &mut Namespace, mut p: Packet, r: DropReason) {
    let network = p.meta().network;
    let _ = p.seek(network);
    // A forwarded packet is answered; for a local one the socket learns it at once.
    if p.meta().forwarded {
        let dev = p.meta().iif;
        p.meta_mut().dev = dev;
        icmp_send(ns, &p, IcmpHdr::new(wire::ICMP_DEST_UNREACH, wire::ICMP_HOST_UNREACH));
    } else if let Some(ip) = Ipv4Hdr::view(p.network()).copied() {
        let e = IcmpError {
            icmp_type: wire::ICMP_DEST_UNREACH,
            code: wire::ICMP_HOST_UNREACH,
            from: IpAddr::V4(ip.saddr()),
            saddr: IpAddr::V4(ip.saddr()),
            daddr: IpAddr::V4(ip.daddr()),
            protocol: ip.protocol(),
            errno: Errno::EHOSTUNREACH,
            fatal: false,
            mtu: 0,
            dev: p.meta().dev,
            to: IpAddr::V4(ip.saddr()),
            ttl: u8::try_from(ns.env.sysctl.get(Sysctl::IpDefaultTtl)).unwrap_or(64),
            tos: 0xc0,
        };
        let payload = p.network().get(ip.hdr_len()..).unwrap_or(&[]).to_vec();
        crate::sock::icmp_err(ns, &e, &payload);
        // The kernel also sends the error to itself, where raw and error-queue readers see it.
        p.meta_mut().pkt_type = PktType::Host;
        icmp_send(ns, &p, IcmpHdr::new(wire::ICMP_DEST_UNREACH, wire::ICMP_HOST_UNREACH));
    }
    ns.env.drop(p, r);
}
