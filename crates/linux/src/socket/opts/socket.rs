//! `SOL_SOCKET` (`net/core/sock.c`, socket(7)). Numbers of asm-generic/socket.h.

use ferronet_core::{Errno, IfIndex, Sysctl};
use ferronet_stack::sock::{BpfInsn, BpfProg, SockFlags, ports};
use ferronet_stack::{Namespace, tcp};
use slotmap::Key;

use super::{Who, flag, int, set_bind_flag, set_flag, to_int, u32_at};
use crate::kernel::{af, sock_type};
use crate::uapi::socket::*;

/// `SOCK_MIN_RCVBUF` and `SOCK_MIN_SNDBUF`.
const MIN_RCVBUF: i32 = 2304;
const MIN_SNDBUF: i32 = 4608;

/// Options that are a flag and nothing else.
fn flag_of(name: i32) -> Option<SockFlags> {
    Some(match name {
        SO_DEBUG => SockFlags::DEBUG,
        SO_DONTROUTE => SockFlags::DONTROUTE,
        SO_BROADCAST => SockFlags::BROADCAST,
        SO_NO_CHECK => SockFlags::NO_CHECK,
        SO_RXQ_OVFL => SockFlags::RXQ_OVFL,
        SO_WIFI_STATUS => SockFlags::WIFI_STATUS,
        SO_SELECT_ERR_QUEUE => SockFlags::SELECT_ERR,
        SO_RCVMARK => SockFlags::RCVMARK,
        SO_RCVPRIORITY => SockFlags::RCVPRIORITY,
        _ => return None,
    })
}

fn timeval(ns: u64) -> Vec<u8> {
    let mut v = ((ns / 1_000_000_000) as i64).to_ne_bytes().to_vec();
    v.extend_from_slice(&((ns % 1_000_000_000 / 1000) as i64).to_ne_bytes());
    v
}

/// `sock_set_timeout`: nanoseconds, 0 for none; a negative time means "at once".
fn parse_timeval(val: &[u8]) -> Result<u64, Errno> {
    let part = |at: usize| {
        val.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_ne_bytes).ok_or(Errno::EINVAL)
    };
    let (sec, usec) = (part(0)?, part(8)?);
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    Ok(match u64::try_from(sec) {
        Ok(s) => s.saturating_mul(1_000_000_000).saturating_add(usec as u64 * 1000),
        Err(_) => 1,
    })
}

/// `getsockopt`.
pub(super) fn get(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    if let Some(f) = flag_of(name) {
        return flag(ns, w.key, f);
    }
    if name == SO_ERROR {
        let e = tcp::user::take_error(ns, w.key).or_else(|| ns.socks.common_mut(w.key).ok()?.take_err());
        return Ok(int(e.map_or(0, |e| i32::from(e.0))));
    }
    let c = ns.socks.common(w.key)?;
    let on = |f: SockFlags| Ok(int(i32::from(c.flags.contains(f))));
    let o = c.opts.as_deref();
    Ok(match name {
        SO_REUSEADDR => return on(SockFlags::REUSEADDR),
        SO_REUSEPORT => return on(SockFlags::REUSEPORT),
        SO_TYPE => int(w.ty),
        SO_SNDBUF => int(buffers(ns, w)?.1),
        SO_RCVBUF => int(buffers(ns, w)?.0),
        SO_KEEPALIVE => return on(SockFlags::KEEPALIVE),
        SO_OOBINLINE => return on(SockFlags::OOBINLINE),
        SO_PRIORITY => int(c.priority as i32),
        SO_LINGER => [int(i32::from(c.flags.contains(SockFlags::LINGER))), int(i32::from(c.linger))].concat(),
        SO_BSDCOMPAT | SO_NOFCS | SO_BUSY_POLL | SO_INCOMING_NAPI_ID | SO_PREFER_BUSY_POLL
        | SO_RESERVE_MEM => int(0),
        // SO_PEERCRED of a socket without peer credentials.
        SO_PEERCRED => [0i32, -1, -1].iter().flat_map(|v| v.to_ne_bytes()).collect(),
        SO_RCVLOWAT => int(o.map_or(1, |o| o.rcvlowat)),
        SO_SNDLOWAT => int(1),
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => timeval(o.map_or(0, |o| o.rcvtimeo)),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => timeval(o.map_or(0, |o| o.sndtimeo)),
        SO_BINDTODEVICE => match ns.devs.get(c.bound_dev) {
            Some(d) => [d.name.as_bytes(), &[0]].concat(),
            None => Vec::new(),
        },
        SO_ATTACH_FILTER => o.and_then(|o| o.filter.as_ref()).map_or_else(Vec::new, |f| {
            f.insns()
                .iter()
                .flat_map(|i| {
                    let k = i.k.to_ne_bytes();
                    let c = i.code.to_ne_bytes();
                    [c[0], c[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
                })
                .collect()
        }),
        SO_PEERNAME => return Err(if c.peer.is_some() { Errno::ENOPROTOOPT } else { Errno::ENOTCONN }),
        SO_TIMESTAMP | SO_TIMESTAMP_NEW | SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW => {
            let (nano, new) = (
                matches!(name, SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW),
                matches!(name, SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW),
            );
            let is = c.flags.contains(SockFlags::TIMESTAMP)
                && c.flags.contains(SockFlags::TIMESTAMPNS) == nano
                && c.flags.contains(SockFlags::TSTAMP_NEW) == new;
            int(i32::from(is))
        }
        SO_ACCEPTCONN => int(i32::from(tcp::user::is_listening(ns, w.key))),
        SO_MARK => int(c.mark as i32),
        SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => [int(o.map_or(0, |o| o.tsflags as i32)), int(0)].concat(),
        SO_PROTOCOL => int(w.proto),
        SO_DOMAIN => int(w.family),
        SO_PEEK_OFF if no_peek_off(w) => return Err(Errno::EOPNOTSUPP),
        SO_PEEK_OFF => int(o.map_or(-1, |o| o.peek_off)),
        SO_LOCK_FILTER => return on(SockFlags::LOCK_FILTER),
        SO_MAX_PACING_RATE => o.map_or(u64::MAX, |o| o.max_pacing_rate).to_ne_bytes().to_vec(),
        SO_BPF_EXTENSIONS => int(64),
        SO_INCOMING_CPU => int(o.map_or(-1, |o| o.incoming_cpu)),
        SO_MEMINFO => meminfo(ns, w)?,
        SO_COOKIE => w.key.data().as_ffi().to_ne_bytes().to_vec(),
        SO_PEERGROUPS | SO_PEERPIDFD => return Err(Errno::ENODATA),
        SO_ZEROCOPY => return on(SockFlags::ZEROCOPY),
        SO_TXTIME => vec![0; 8],
        SO_BINDTOIFINDEX => int(c.bound_dev.0 as i32),
        SO_NETNS_COOKIE => (ns.id.0 + 1).to_ne_bytes().to_vec(),
        SO_BUF_LOCK => int(i32::from(c.flags.contains(SockFlags::SNDBUF_LOCK))
            | i32::from(c.flags.contains(SockFlags::RCVBUF_LOCK)) << 1),
        SO_TXREHASH if w.stream() => int(1),
        SO_PASSCRED | SO_PASSSEC | SO_TXREHASH | SO_PASSPIDFD | SO_PASSRIGHTS => {
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// Raw and packet sockets have no `SO_PEEK_OFF` and no zero copy.
fn no_peek_off(w: Who) -> bool {
    w.ty == sock_type::RAW || w.family == af::PACKET
}

/// Receive and send buffer as the socket has them now: TCP's grow by themselves.
fn buffers(ns: &Namespace, w: Who) -> Result<(i32, i32), Errno> {
    let c = ns.socks.common(w.key)?;
    Ok(match tcp::opts::buffers(ns, w.key) {
        Some((r, s)) => (r as i32, s as i32),
        None => (c.rcvbuf, c.sndbuf),
    })
}

/// `SO_MEMINFO` (`sk_get_meminfo`): received, its limit, in flight, its limit, reserve, queued, options, backlog,
/// drops.
fn meminfo(ns: &Namespace, w: Who) -> Result<Vec<u8>, Errno> {
    let s = ns.socks.socks.get(w.key).ok_or(Errno::EBADF)?;
    let (r, q, forward) = match s.proto.rx() {
        Some(rx) => (rx.rmem, 0, rx.forward_alloc),
        None => {
            let (r, q) = tcp::opts::memory(ns, w.key);
            (r, q, 0)
        }
    };
    let (rcvbuf, sndbuf) = buffers(ns, w)?;
    let drops = s.proto.drops();
    let v = [r, rcvbuf as u32, 0, sndbuf as u32, forward, q, 0, 0, drops];
    Ok(v.iter().flat_map(|x| x.to_ne_bytes()).collect())
}

/// `setsockopt`.
pub(super) fn set(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    if name == SO_BINDTODEVICE {
        return bind_to_device(ns, w, val);
    }
    if let Some(f) = flag_of(name) {
        return set_flag(ns, w.key, f, to_int(val)? != 0);
    }
    // An int at least, whatever the option.
    let v = to_int(val)?;
    let on = v != 0;
    match name {
        SO_REUSEADDR => set_bind_flag(ns, w.key, SockFlags::REUSEADDR, on),
        SO_REUSEPORT if w.family == af::PACKET && on => Err(Errno::EOPNOTSUPP),
        SO_REUSEPORT => set_bind_flag(ns, w.key, SockFlags::REUSEPORT, on),
        SO_SNDBUF | SO_SNDBUFFORCE | SO_RCVBUF | SO_RCVBUFFORCE => set_buffer(ns, w, name, v),
        SO_KEEPALIVE | SO_OOBINLINE => set_tcp_flag(ns, w, name, on),
        SO_LINGER => {
            let secs = u32_at(val, 4)? as i32;
            let c = ns.socks.common_mut(w.key)?;
            c.flags.set(SockFlags::LINGER, on);
            if on {
                c.linger = u16::try_from(secs).unwrap_or(u16::MAX);
            }
            Ok(())
        }
        SO_BSDCOMPAT | SO_WIFI_STATUS | SO_NOFCS => Ok(()),
        SO_TYPE | SO_ERROR | SO_PROTOCOL | SO_DOMAIN | SO_ACCEPTCONN | SO_SNDLOWAT | SO_PEERNAME => {
            Err(Errno::ENOPROTOOPT)
        }
        SO_PRIORITY | SO_MARK => {
            if !w.raw_or_admin() && (name == SO_MARK || !(0..=6).contains(&v)) {
                return Err(Errno::EPERM);
            }
            let c = ns.socks.common_mut(w.key)?;
            *(if name == SO_PRIORITY { &mut c.priority } else { &mut c.mark }) = v as u32;
            Ok(())
        }
        SO_RCVLOWAT => {
            let n = if v < 0 { i32::MAX } else { v.max(1) };
            ns.socks.common_mut(w.key)?.rare().rcvlowat = n;
            if w.stream() {
                tcp::opts::set(ns, w.key, |o| o.rcvlowat = n as u32);
            }
            Ok(())
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO | SO_SNDTIMEO_NEW => {
            let t = parse_timeval(val)?;
            let o = ns.socks.common_mut(w.key)?.rare();
            *(if matches!(name, SO_RCVTIMEO | SO_RCVTIMEO_NEW) {
                &mut o.rcvtimeo
            } else {
                &mut o.sndtimeo
            }) = t;
            Ok(())
        }
        SO_ATTACH_FILTER | SO_DETACH_FILTER => set_filter(ns, w, name, val),
        SO_TIMESTAMP | SO_TIMESTAMP_NEW | SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW => {
            let c = ns.socks.common_mut(w.key)?;
            c.flags.set(SockFlags::TIMESTAMP, on);
            c.flags.set(SockFlags::TIMESTAMPNS, on && matches!(name, SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW));
            c.flags.set(SockFlags::TSTAMP_NEW, on && matches!(name, SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW));
            Ok(())
        }
        SO_BINDTOIFINDEX => {
            let dev = IfIndex(u32::try_from(v).map_err(|_| Errno::EINVAL)?);
            bind_dev(ns, w, dev)
        }
        _ => set_rare(ns, w, name, val, v),
    }
}

/// Options kept with the rare ones, most without effect here.
fn set_rare(ns: &mut Namespace, w: Who, name: i32, val: &[u8], v: i32) -> Result<(), Errno> {
    let c = ns.socks.common_mut(w.key)?;
    match name {
        // SOF_TIMESTAMPING_MASK; OPT_ID_TCP needs OPT_ID.
        SO_TIMESTAMPING | SO_TIMESTAMPING_NEW if v as u32 >> 18 != 0 || v & (1 << 16 | 1 << 7) == 1 << 16 => {
            return Err(Errno::EINVAL);
        }
        SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => c.rare().tsflags = v as u32,
        SO_PEEK_OFF if no_peek_off(w) => return Err(Errno::EOPNOTSUPP),
        SO_PEEK_OFF => c.rare().peek_off = v,
        SO_LOCK_FILTER if v == 0 && c.flags.contains(SockFlags::LOCK_FILTER) => return Err(Errno::EPERM),
        SO_LOCK_FILTER => c.flags.set(SockFlags::LOCK_FILTER, v != 0),
        SO_BUSY_POLL if v < 0 => return Err(Errno::EINVAL),
        SO_BUSY_POLL => c.rare().busy_poll = v,
        SO_MAX_PACING_RATE => {
            c.rare().max_pacing_rate = match val.first_chunk() {
                Some(b) => u64::from_ne_bytes(*b),
                None if v == -1 => u64::MAX,
                None => u64::from(v as u32),
            };
        }
        SO_INCOMING_CPU => c.rare().incoming_cpu = v,
        SO_BUSY_POLL_BUDGET if !(0..=0xffff).contains(&v) => return Err(Errno::EINVAL),
        SO_BUF_LOCK if v & !3 != 0 => return Err(Errno::EINVAL),
        SO_BUF_LOCK => {
            c.flags.set(SockFlags::SNDBUF_LOCK, v & 1 != 0);
            c.flags.set(SockFlags::RCVBUF_LOCK, v & 2 != 0);
        }
        SO_RESERVE_MEM => return Err(if v < 0 { Errno::EINVAL } else { Errno::EOPNOTSUPP }),
        SO_CNX_ADVICE | SO_PREFER_BUSY_POLL | SO_BUSY_POLL_BUDGET => {}
        // eBPF programs, transmission times, device memory: what they need is not here.
        SO_ATTACH_BPF
        | SO_ATTACH_REUSEPORT_CBPF
        | SO_ATTACH_REUSEPORT_EBPF
        | SO_TXTIME
        | SO_DETACH_REUSEPORT_BPF => return Err(Errno::EINVAL),
        SO_DEVMEM_DONTNEED => return Err(if w.stream() { Errno::EINVAL } else { Errno::EBADF }),
        SO_ZEROCOPY if !no_peek_off(w) && !(0..=1).contains(&v) => return Err(Errno::EINVAL),
        SO_ZEROCOPY if no_peek_off(w) => return Err(Errno::EOPNOTSUPP),
        SO_TXREHASH if (-1..=1).contains(&v) && w.stream() => {}
        SO_TXREHASH if w.stream() => return Err(Errno::EINVAL),
        // Without completions on the error queue programs would wait for ever.
        SO_ZEROCOPY if v == 0 => {}
        SO_PASSCRED | SO_PASSSEC | SO_ZEROCOPY | SO_TXREHASH | SO_PASSPIDFD | SO_PASSRIGHTS => {
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// `SO_SNDBUF`, `SO_RCVBUF` and their `FORCE` variants: doubled for overhead, bounded by sysctls and minima.
fn set_buffer(ns: &mut Namespace, w: Who, name: i32, v: i32) -> Result<(), Errno> {
    let force = matches!(name, SO_SNDBUFFORCE | SO_RCVBUFFORCE);
    let send = matches!(name, SO_SNDBUF | SO_SNDBUFFORCE);
    if force && !w.caps.contains(crate::Caps::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let max = ns.env.sysctl.get(if send { Sysctl::WmemMax } else { Sysctl::RmemMax });
    let v = if force {
        v.max(0)
    } else {
        // Compared without sign: a negative value is a large one.
        (v as u32).min(u32::try_from(max).unwrap_or(u32::MAX)) as i32
    };
    let v = v.clamp(0, i32::MAX / 2) * 2;
    let c = ns.socks.common_mut(w.key)?;
    if send {
        c.sndbuf = v.max(MIN_SNDBUF);
        c.flags |= SockFlags::SNDBUF_LOCK;
    } else {
        c.rcvbuf = v.max(MIN_RCVBUF);
        c.flags |= SockFlags::RCVBUF_LOCK;
    }
    let (rcvbuf, sndbuf) = (c.rcvbuf as u32, c.sndbuf as u32);
    if w.stream() {
        tcp::opts::set(ns, w.key, |o| if send { o.sndbuf = sndbuf } else { o.rcvbuf = rcvbuf });
    }
    Ok(())
}

fn set_tcp_flag(ns: &mut Namespace, w: Who, name: i32, on: bool) -> Result<(), Errno> {
    let f = if name == SO_KEEPALIVE { SockFlags::KEEPALIVE } else { SockFlags::OOBINLINE };
    set_flag(ns, w.key, f, on)?;
    if w.stream() {
        tcp::opts::set(ns, w.key, |o| if name == SO_KEEPALIVE { o.keepalive = on } else { o.oobinline = on });
    }
    Ok(())
}

/// `SO_BINDTODEVICE`: a name, empty to unbind.
fn bind_to_device(ns: &mut Namespace, w: Who, val: &[u8]) -> Result<(), Errno> {
    let name = val.split(|b| *b == 0).next().unwrap_or(&[]);
    let name = name.get(..name.len().min(15)).unwrap_or(name);
    if name.is_empty() {
        return bind_dev(ns, w, IfIndex::NONE);
    }
    let name = core::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
    let dev = ns.devs.by_name(name).ok_or(Errno::ENODEV)?.index;
    bind_dev(ns, w, dev)
}

/// `sock_bindtoindex`.
fn bind_dev(ns: &mut Namespace, w: Who, dev: IfIndex) -> Result<(), Errno> {
    let c = ns.socks.common_mut(w.key)?;
    if !c.bound_dev.is_none() && !w.caps.contains(crate::Caps::NET_RAW) {
        return Err(Errno::EPERM);
    }
    c.bound_dev = dev;
    ports::options_changed(&mut ns.socks, w.key);
    Ok(())
}

/// `SO_ATTACH_FILTER` with the instructions themselves, `SO_DETACH_FILTER`.
fn set_filter(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    let c = ns.socks.common_mut(w.key)?;
    if c.flags.contains(SockFlags::LOCK_FILTER) {
        return Err(Errno::EPERM);
    }
    if name == SO_DETACH_FILTER {
        return match c.opts.as_mut().and_then(|o| o.filter.take()) {
            Some(_) => Ok(()),
            None => Err(Errno::ENOENT),
        };
    }
    let (insns, rest) = val.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Errno::EINVAL);
    }
    let insns: Vec<BpfInsn> = insns
        .iter()
        .map(|[a, b, jt, jf, k @ ..]| BpfInsn {
            code: u16::from_ne_bytes([*a, *b]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes(*k),
        })
        .collect();
    let prog = BpfProg::new(&insns)?;
    let s = ns.socks.socks.get_mut(w.key).ok_or(Errno::EBADF)?;
    s.common.rare().filter = Some(Box::new(prog));
    Ok(())
}
