//! Socket options: `getsockopt(2)` and `setsockopt(2)`, level by level.

mod ip;
mod ipv6;
mod mcast;
mod misc;
mod socket;
mod tcp;
pub(crate) mod tcp_info;

use ferronet_core::Errno;
use ferronet_stack::Namespace;
use ferronet_stack::sock::{Proto, SockFlags, SockKey, ports};

use crate::kernel::{Caller, Caps, Kernel, SockId, af, sock_type};
use crate::uapi::socket::*;

/// What the option functions know of a socket and its caller.
#[derive(Clone, Copy)]
struct Who {
    key: SockKey,
    family: i32,
    ty: i32,
    proto: i32,
    /// The caller's capabilities, as far as they were asked for.
    caps: Caps,
}

impl Who {
    /// `sk_mark` and its kind: either of the two will do (`sockopt_ns_capable`).
    fn raw_or_admin(self) -> bool {
        self.caps.intersects(Caps::NET_RAW | Caps::NET_ADMIN)
    }
    fn v6(self) -> bool {
        self.family == af::INET6
    }
    fn stream(self) -> bool {
        self.ty == sock_type::STREAM
    }
}

/// An int as option value.
fn int(v: i32) -> Vec<u8> {
    v.to_ne_bytes().to_vec()
}

/// The int of an option value.
fn to_int(val: &[u8]) -> Result<i32, Errno> {
    val.first_chunk().map(|b| i32::from_ne_bytes(*b)).ok_or(Errno::EINVAL)
}

/// An int or, when the value is shorter, a byte (`ip_setsockopt`).
fn int_or_byte(val: &[u8]) -> i32 {
    match val {
        [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]),
        [a, ..] => i32::from(*a),
        [] => 0,
    }
}

/// Two 32-bit words.
pub(super) fn u32_at(val: &[u8], at: usize) -> Result<u32, Errno> {
    val.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or(Errno::EINVAL)
}

/// Switches a flag of the socket.
fn set_flag(ns: &mut Namespace, key: SockKey, f: SockFlags, on: bool) -> Result<(), Errno> {
    ns.socks.common_mut(key)?.flags.set(f, on);
    Ok(())
}

/// Likewise one that the bind table knows.
fn set_bind_flag(ns: &mut Namespace, key: SockKey, f: SockFlags, on: bool) -> Result<(), Errno> {
    set_flag(ns, key, f, on)?;
    ports::options_changed(&mut ns.socks, key);
    Ok(())
}

fn flag(ns: &Namespace, key: SockKey, f: SockFlags) -> Result<Vec<u8>, Errno> {
    Ok(int(i32::from(ns.socks.common(key)?.flags.contains(f))))
}

impl Kernel {
    fn who(&self, s: SockId, caps: Caps) -> Result<Who, Errno> {
        let f = self.files.get(s).ok_or(Errno::EBADF)?;
        let (_, key) = self.inet_ref(s)?;
        Ok(Who { key, family: f.family, ty: f.ty, proto: f.proto, caps })
    }

    /// `getsockopt(2)` of internet and packet sockets.
    pub(super) fn get_opt(&mut self, s: SockId, level: i32, name: i32, len: usize) -> Result<Vec<u8>, Errno> {
        let w = self.who(s, Caps::empty())?;
        let (ns, _) = self.inet(s)?;
        let v = match level {
            // It must be asked for exactly.
            SOL_SOCKET if name == SO_NETNS_COOKIE && len != 8 => return Err(Errno::EINVAL),
            SOL_SOCKET => socket::get(ns, w, name)?,
            _ if w.family == af::PACKET => match level {
                SOL_PACKET => misc::get_packet(ns, w, name)?,
                _ => return Err(Errno::ENOPROTOOPT),
            },
            SOL_TCP if w.stream() => tcp::get(ns, w, name)?,
            SOL_UDP if w.proto == SOL_UDP => misc::get_udp(ns, w, name)?,
            SOL_RAW | SOL_ICMPV6 if w.ty == sock_type::RAW => misc::get_raw(ns, w, level, name)?,
            SOL_IP if !(w.v6() && w.ty == sock_type::RAW) => shorten(ip::get(ns, w, name)?, len),
            SOL_IPV6 if w.v6() => shorten(ipv6::get(ns, w, name)?, len),
            // ip_getsockopt and ipv6_getsockopt differ here.
            _ if w.v6() => return Err(Errno::ENOPROTOOPT),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        Ok(v.get(..len).map_or_else(|| v.clone(), <[u8]>::to_vec))
    }

    /// `SO_SNDTIMEO` or `SO_RCVTIMEO` as it counts, nanoseconds: 0 waits for ever, 1 not at all (what was set was negative, which
    /// `getsockopt` shows as 0). `None` for other families.
    #[must_use]
    pub fn timeo(&self, s: SockId, send: bool) -> Option<u64> {
        let (ns, key) = self.inet_ref(s).ok()?;
        let o = ns.socks.socks.get(key)?.common.opts.as_deref();
        Some(o.map_or(0, |o| if send { o.sndtimeo } else { o.rcvtimeo }))
    }

    /// `setsockopt(2)` of internet and packet sockets.
    pub(super) fn set_opt(
        &mut self,
        c: &Caller<'_>,
        s: SockId,
        (level, name): (i32, i32),
        val: &[u8],
    ) -> Result<(), Errno> {
        // Few options need a capability, and asking is dear: it is done when one says EPERM without. None has an effect then.
        match self.set_opt_with(Caps::empty(), s, (level, name), val) {
            Err(Errno::EPERM) => self.set_opt_with((c.caps)(), s, (level, name), val),
            r => r,
        }
    }

    fn set_opt_with(
        &mut self,
        caps: Caps,
        s: SockId,
        (level, name): (i32, i32),
        val: &[u8],
    ) -> Result<(), Errno> {
        let w = self.who(s, caps)?;
        let (ns, _) = self.inet(s)?;
        match level {
            SOL_SOCKET => socket::set(ns, w, name, val),
            _ if w.family == af::PACKET => match level {
                SOL_PACKET => misc::set_packet(ns, w, name, val),
                _ => Err(Errno::ENOPROTOOPT),
            },
            SOL_TCP if w.stream() => tcp::set(ns, w, name, val),
            SOL_UDP if w.proto == SOL_UDP => misc::set_udp(ns, w, name, val),
            SOL_RAW | SOL_ICMPV6 if w.ty == sock_type::RAW => misc::set_raw(ns, w, (level, name), val),
            SOL_IP if !(w.v6() && w.ty == sock_type::RAW) => ip::set(ns, w, name, val),
            SOL_IPV6 if w.v6() => ipv6::set(ns, w, name, val),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
}

/// A small int fits a byte when the program has no room for more (`do_ip_getsockopt`).
fn shorten(v: Vec<u8>, len: usize) -> Vec<u8> {
    match v.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)) {
        Some(n @ 0..=255) if v.len() == 4 && (1..4).contains(&len) => vec![n as u8],
        _ => v,
    }
}

/// A socket's UDP part.
fn udp_mut(ns: &mut Namespace, key: SockKey) -> Result<&mut ferronet_stack::udp::UdpSock, Errno> {
    match ns.socks.socks.get_mut(key).map(|s| &mut s.proto) {
        Some(Proto::Udp(u)) => Ok(u),
        Some(Proto::Tcp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_)) | None => {
            Err(Errno::ENOPROTOOPT)
        }
    }
}
