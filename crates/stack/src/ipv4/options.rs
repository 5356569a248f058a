//! Options of the IPv4 header (RFC 791 §3.1, `net/ipv4/ip_options.c`): what a received header asks for is checked and
//! filled in, and an ICMP message takes the recorded way back to the sender.

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::sysctl::Conf4;
use ferronet_core::{DropReason, Packet};
use ferronet_wire::icmp::{self as wire_icmp, IcmpHdr};
use ferronet_wire::ipv4::{
    IPOPT_CIPSO, IPOPT_END, IPOPT_LSRR, IPOPT_NOOP, IPOPT_RA, IPOPT_RR, IPOPT_SSRR, IPOPT_TIMESTAMP, Ipv4Hdr,
    ip_send_check, option_bytes,
};
use smallvec::SmallVec;

use super::route::{addr_type, inet_select_addr};
use crate::fib::{Route, RouteType};
use crate::ns::Namespace;

/// Options of one header, with padding: up to 40 bytes.
pub(super) type OptionBytes = SmallVec<[u8; 40]>;

/// `IPOPT_TS_TSONLY`, `IPOPT_TS_TSANDADDR`, `IPOPT_TS_PRESPEC`.
const TSONLY: u8 = 0;
const TSANDADDR: u8 = 1;
const PRESPEC: u8 = 3;

/// Milliseconds since midnight UT, as the wire has them (RFC 791 §3.1, `inet_current_timestamp`).
pub(super) fn current_timestamp(ns: &Namespace) -> [u8; 4] {
    let wall_ms = (ns.env.wall_offset + ns.env.now.0) / 1_000_000;
    ((wall_ms % 86_400_000) as u32).to_be_bytes()
}

/// Options of a received packet whose route is known (`ip_rcv_options`): a broken one is answered with a parameter
/// problem, a source route is refused unless allowed, our address and the time go where they are asked for.
#[cold]
pub(super) fn ip_rcv_options(ns: &mut Namespace, p: &mut Packet, r: &Route) -> Result<(), DropReason> {
    let Some(h) = Ipv4Hdr::view(p.network()).copied() else { return Err(DropReason::IpHdr) };
    let dev = p.meta().dev;
    let ours = match r.kind {
        RouteType::Local => h.daddr(),
        RouteType::Broadcast | RouteType::Multicast => select(ns, dev, h.saddr()),
        RouteType::Unicast
        | RouteType::Anycast
        | RouteType::Blackhole
        | RouteType::Unreachable
        | RouteType::Prohibit
        | RouteType::Throw => select(ns, r.dev, h.daddr()),
    };
    let now = current_timestamp(ns);
    let mut bytes = OptionBytes::from_slice(option_bytes(p.network()));
    let foreign = |a: Ipv4Addr| addr_type(ns, a) == RouteType::Unicast;
    let mut c = Compile { o: &mut bytes, ours, now, foreign: &foreign, seen: [false; 3] };
    match c.run() {
        Ok(()) => {}
        Err(at) => {
            let mut e = IcmpHdr::new(wire_icmp::ICMP_PARAMETERPROB, 0);
            e.un = [(Ipv4Hdr::LEN + at) as u8, 0, 0, 0];
            super::icmp::icmp_send(ns, p, e);
            return Err(DropReason::IpOptions);
        }
    }
    if c.seen[SRR] {
        let own = ns.devs.get(dev).is_some_and(|d| d.conf4.get(Conf4::AcceptSourceRoute) != 0);
        // Both rows must allow it (IN_DEV_ANDCONF); routing by the option itself is not supported.
        if !own || ns.conf.all4.get(Conf4::AcceptSourceRoute) == 0 {
            return Err(DropReason::IpSourceRoute);
        }
    }
    let head = p.network_mut();
    if let Some(to) = head.get_mut(Ipv4Hdr::LEN..Ipv4Hdr::LEN + bytes.len())
        && to != &bytes[..]
    {
        to.copy_from_slice(&bytes);
        let _ = ip_send_check(head);
    }
    Ok(())
}

fn select(ns: &Namespace, dev: ferronet_core::IfIndex, to: Ipv4Addr) -> Ipv4Addr {
    inet_select_addr(ns, dev, to, crate::dev::scope::LINK).unwrap_or(Ipv4Addr::UNSPECIFIED)
}

const SRR: usize = 0;
const RR: usize = 1;
const TS: usize = 2;

/// `__ip_options_compile` for a received packet; errors are offsets in the options.
struct Compile<'a> {
    o: &'a mut [u8],
    ours: Ipv4Addr,
    now: [u8; 4],
    /// An address of somebody else (`inet_addr_type` says unicast).
    foreign: &'a dyn Fn(Ipv4Addr) -> bool,
    /// Source route, record route, timestamp: each at most once.
    seen: [bool; 3],
}

impl Compile<'_> {
    fn run(&mut self) -> Result<(), usize> {
        let mut i = 0;
        while let Some(&kind) = self.o.get(i) {
            if kind == IPOPT_END {
                self.o[i..].fill(IPOPT_END);
                return Ok(());
            }
            if kind == IPOPT_NOOP {
                i += 1;
                continue;
            }
            let len = usize::from(self.o.get(i + 1).copied().unwrap_or(0));
            if len < 2 || i + len > self.o.len() {
                return Err(i);
            }
            match kind {
                IPOPT_SSRR | IPOPT_LSRR => {
                    self.pointer(i, len, 3, 4)?;
                    self.once(SRR, i)?;
                }
                IPOPT_RR => self.record_route(i, len)?,
                IPOPT_TIMESTAMP => self.timestamp(i, len)?,
                IPOPT_RA if len < 4 => return Err(i + 1),
                _ => {}
            }
            i += len;
        }
        Ok(())
    }

    fn once(&mut self, what: usize, i: usize) -> Result<(), usize> {
        if core::mem::replace(&mut self.seen[what], true) { Err(i) } else { Ok(()) }
    }

    /// The pointer of the option at `i`: it counts from 1 and lies behind the option's fixed part.
    fn pointer(&self, i: usize, len: usize, fixed: usize, least: u8) -> Result<usize, usize> {
        if len < fixed {
            return Err(i + 1);
        }
        let p = self.o[i + 2];
        if p < least { Err(i + 2) } else { Ok(usize::from(p)) }
    }

    fn put(&mut self, at: usize, v: [u8; 4]) {
        if let Some(to) = self.o.get_mut(at..at + 4) {
            to.copy_from_slice(&v);
        }
    }

    fn record_route(&mut self, i: usize, len: usize) -> Result<(), usize> {
        self.once(RR, i)?;
        let p = self.pointer(i, len, 3, 4)?;
        if p <= len {
            if p + 3 > len {
                return Err(i + 2);
            }
            self.put(i + p - 1, self.ours.octets());
            self.o[i + 2] += 4;
        }
        Ok(())
    }

    fn timestamp(&mut self, i: usize, len: usize) -> Result<(), usize> {
        self.once(TS, i)?;
        let p = self.pointer(i, len, 4, 5)?;
        let flags = self.o[i + 3];
        let kind = flags & 15;
        if p > len {
            if kind != PRESPEC {
                // RFC 791: "if there is some room but not enough ... or the overflow count itself overflows".
                if flags >> 4 == 15 {
                    return Err(i + 3);
                }
                self.o[i + 3] += 16;
            }
            return Ok(());
        }
        let needs = if kind == TSANDADDR || kind == PRESPEC { 7 } else { 3 };
        if p + needs > len {
            return Err(i + 2);
        }
        match kind {
            TSONLY => {
                self.put(i + p - 1, self.now);
                self.o[i + 2] += 4;
            }
            TSANDADDR => {
                self.put(i + p - 1, self.ours.octets());
                self.put(i + p + 3, self.now);
                self.o[i + 2] += 8;
            }
            PRESPEC if !(self.foreign)(address_at(self.o, i + p - 1)) => {
                self.put(i + p + 3, self.now);
                self.o[i + 2] += 8;
            }
            _ => {}
        }
        Ok(())
    }
}

fn address_at(o: &[u8], at: usize) -> Ipv4Addr {
    let b = o.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    b.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from)
}

/// The options of an ICMP message to `to`, in answer to or about `p`, which was compiled when it came (`ip_options_echo`,
/// `ip_options_build`): its record of the route and of times goes on with the message's source. `source` may be open.
/// `None`: broken, send nothing.
pub(super) fn ip_options_echo(
    ns: &Namespace,
    p: &Packet,
    source: Ipv4Addr,
    to: Ipv4Addr,
) -> Option<OptionBytes> {
    let src = option_bytes(p.network());
    let mut out = OptionBytes::new();
    if src.is_empty() {
        return Some(out);
    }
    let ours = source_for(ns, source, p, to);
    let find = |kind| {
        let mut all = ferronet_wire::ipv4::IpOptions::new(src).filter_map(Result::ok);
        all.find(|o| o.kind == kind).map(|o| o.bytes)
    };
    if let Some(o) = find(IPOPT_RR) {
        let at = out.len();
        out.extend_from_slice(o);
        echo_route(&mut out[at..], ours)?;
    }
    if let Some(o) = find(IPOPT_TIMESTAMP) {
        let at = out.len();
        out.extend_from_slice(o);
        echo_timestamp(ns, &mut out[at..], ours)?;
    }
    // A source route that was accepted would come back reversed; routing by it is not supported.
    if let Some(o) = find(IPOPT_CIPSO) {
        out.extend_from_slice(o);
    }
    while !out.len().is_multiple_of(4) {
        out.push(IPOPT_END);
    }
    Some(out)
}

fn echo_route(o: &mut [u8], ours: Ipv4Addr) -> Option<()> {
    let p = usize::from(*o.get(2)?);
    if p <= o.len() {
        o.get_mut(p.checked_sub(1)?..p + 3)?.copy_from_slice(&ours.octets());
        o[2] += 4;
    }
    Some(())
}

fn echo_timestamp(ns: &Namespace, o: &mut [u8], ours: Ipv4Addr) -> Option<()> {
    let p = usize::from(*o.get(2)?);
    let kind = *o.get(3)? & 15;
    if p > o.len() {
        return Some(());
    }
    if p < 5 {
        return None;
    }
    let now = current_timestamp(ns);
    match kind {
        TSONLY => {
            o.get_mut(p - 1..p + 3)?.copy_from_slice(&now);
            o[2] += 4;
        }
        TSANDADDR => {
            o.get_mut(p - 1..p + 3)?.copy_from_slice(&ours.octets());
            o.get_mut(p + 3..p + 7)?.copy_from_slice(&now);
            o[2] += 8;
        }
        PRESPEC if p + 7 <= o.len() && addr_type(ns, address_at(o, p - 1)) != RouteType::Unicast => {
            o.get_mut(p + 3..p + 7)?.copy_from_slice(&now);
            o[2] += 8;
        }
        _ => {}
    }
    Some(())
}

/// The source that a message will have: the given one, or what the device that received the packet offers.
fn source_for(ns: &Namespace, given: Ipv4Addr, p: &Packet, to: Ipv4Addr) -> Ipv4Addr {
    if !given.is_unspecified() {
        return given;
    }
    let flow = crate::fib::Flow { mark: p.meta().mark, ..crate::fib::Flow::to(IpAddr::V4(to)) };
    super::route::ip_route_output(ns, &flow).map_or(given, |(_, src)| src)
}
