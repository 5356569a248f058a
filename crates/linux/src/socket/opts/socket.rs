//! `SOL_SOCKET` (`net/core/sock.c`, socket(7)). Numbers of asm-generic/socket.h.

use ferronet_core::{Errno, IfIndex, Sysctl};
use ferronet_stack::sock::{BpfInsn, BpfProg, SockFlags, ports};
use ferronet_stack::{Namespace, tcp};
use slotmap::Key;

use super::{Who, flag, int, set_bind_flag, set_flag, to_int, u32_at};
use crate::kernel::{af, sock_type};

/// `SOCK_MIN_RCVBUF` and `SOCK_MIN_SNDBUF`.
const MIN_RCVBUF: i32 = 2304;
const MIN_SNDBUF: i32 = 4608;

/// Options that are a flag and nothing else.
fn flag_of(name: i32) -> Option<SockFlags> {
    Some(match name {
        1 => SockFlags::DEBUG,
        5 => SockFlags::DONTROUTE,
        6 => SockFlags::BROADCAST,
        11 => SockFlags::NO_CHECK,
        40 => SockFlags::RXQ_OVFL,
        41 => SockFlags::WIFI_STATUS,
        45 => SockFlags::SELECT_ERR,
        75 => SockFlags::RCVMARK,
        82 => SockFlags::RCVPRIORITY,
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
    if name == 4 {
        let e = tcp::user::take_error(ns, w.key).or_else(|| ns.socks.common_mut(w.key).ok()?.take_err());
        return Ok(int(e.map_or(0, |e| i32::from(e.0))));
    }
    let c = ns.socks.common(w.key)?;
    let on = |f: SockFlags| Ok(int(i32::from(c.flags.contains(f))));
    let o = c.opts.as_deref();
    Ok(match name {
        2 => return on(SockFlags::REUSEADDR),
        15 => return on(SockFlags::REUSEPORT),
        3 => int(w.ty),
        7 => int(buffers(ns, w)?.1),
        8 => int(buffers(ns, w)?.0),
        9 => return on(SockFlags::KEEPALIVE),
        10 => return on(SockFlags::OOBINLINE),
        12 => int(c.priority as i32),
        13 => [int(i32::from(c.flags.contains(SockFlags::LINGER))), int(i32::from(c.linger))].concat(),
        14 | 43 | 46 | 56 | 69 | 73 => int(0),
        // SO_PEERCRED of a socket without peer credentials.
        17 => [0i32, -1, -1].iter().flat_map(|v| v.to_ne_bytes()).collect(),
        18 => int(o.map_or(1, |o| o.rcvlowat)),
        19 => int(1),
        20 | 66 => timeval(o.map_or(0, |o| o.rcvtimeo)),
        21 | 67 => timeval(o.map_or(0, |o| o.sndtimeo)),
        25 => match ns.devs.get(c.bound_dev) {
            Some(d) => [d.name.as_bytes(), &[0]].concat(),
            None => Vec::new(),
        },
        26 => o.and_then(|o| o.filter.as_ref()).map_or_else(Vec::new, |f| {
            f.insns()
                .iter()
                .flat_map(|i| {
                    let k = i.k.to_ne_bytes();
                    let c = i.code.to_ne_bytes();
                    [c[0], c[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
                })
                .collect()
        }),
        28 => return Err(if c.peer.is_some() { Errno::ENOPROTOOPT } else { Errno::ENOTCONN }),
        29 | 63 | 35 | 64 => {
            let (nano, new) = (matches!(name, 35 | 64), matches!(name, 63 | 64));
            let is = c.flags.contains(SockFlags::TIMESTAMP)
                && c.flags.contains(SockFlags::TIMESTAMPNS) == nano
                && c.flags.contains(SockFlags::TSTAMP_NEW) == new;
            int(i32::from(is))
        }
        30 => int(i32::from(tcp::user::is_listening(ns, w.key))),
        36 => int(c.mark as i32),
        37 | 65 => [int(o.map_or(0, |o| o.tsflags as i32)), int(0)].concat(),
        38 => int(w.proto),
        39 => int(w.family),
        42 if no_peek_off(w) => return Err(Errno::EOPNOTSUPP),
        42 => int(o.map_or(-1, |o| o.peek_off)),
        44 => return on(SockFlags::LOCK_FILTER),
        47 => o.map_or(u64::MAX, |o| o.max_pacing_rate).to_ne_bytes().to_vec(),
        48 => int(64),
        49 => int(o.map_or(-1, |o| o.incoming_cpu)),
        55 => meminfo(ns, w)?,
        57 => w.key.data().as_ffi().to_ne_bytes().to_vec(),
        59 | 77 => return Err(Errno::ENODATA),
        60 => return on(SockFlags::ZEROCOPY),
        61 => vec![0; 8],
        62 => int(c.bound_dev.0 as i32),
        71 => (ns.id.0 + 1).to_ne_bytes().to_vec(),
        72 => int(i32::from(c.flags.contains(SockFlags::SNDBUF_LOCK))
            | i32::from(c.flags.contains(SockFlags::RCVBUF_LOCK)) << 1),
        74 if w.stream() => int(1),
        16 | 34 | 74 | 76 | 83 => return Err(Errno::EOPNOTSUPP),
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
    if name == 25 {
        return bind_to_device(ns, w, val);
    }
    if let Some(f) = flag_of(name) {
        return set_flag(ns, w.key, f, to_int(val)? != 0);
    }
    // An int at least, whatever the option.
    let v = to_int(val)?;
    let on = v != 0;
    match name {
        2 => set_bind_flag(ns, w.key, SockFlags::REUSEADDR, on),
        15 if w.family == af::PACKET && on => Err(Errno::EOPNOTSUPP),
        15 => set_bind_flag(ns, w.key, SockFlags::REUSEPORT, on),
        7 | 32 | 8 | 33 => set_buffer(ns, w, name, v),
        9 | 10 => set_tcp_flag(ns, w, name, on),
        13 => {
            let secs = u32_at(val, 4)? as i32;
            let c = ns.socks.common_mut(w.key)?;
            c.flags.set(SockFlags::LINGER, on);
            if on {
                c.linger = u16::try_from(secs).unwrap_or(u16::MAX);
            }
            Ok(())
        }
        14 | 41 | 43 => Ok(()),
        3 | 4 | 38 | 39 | 30 | 19 | 28 => Err(Errno::ENOPROTOOPT),
        12 | 36 => {
            if !w.raw_or_admin() && (name == 36 || !(0..=6).contains(&v)) {
                return Err(Errno::EPERM);
            }
            let c = ns.socks.common_mut(w.key)?;
            *(if name == 12 { &mut c.priority } else { &mut c.mark }) = v as u32;
            Ok(())
        }
        18 => {
            let n = if v < 0 { i32::MAX } else { v.max(1) };
            ns.socks.common_mut(w.key)?.rare().rcvlowat = n;
            if w.stream() {
                tcp::opts::set(ns, w.key, |o| o.rcvlowat = n as u32);
            }
            Ok(())
        }
        20 | 66 | 21 | 67 => {
            let t = parse_timeval(val)?;
            let o = ns.socks.common_mut(w.key)?.rare();
            *(if matches!(name, 20 | 66) { &mut o.rcvtimeo } else { &mut o.sndtimeo }) = t;
            Ok(())
        }
        26 | 27 => set_filter(ns, w, name, val),
        29 | 63 | 35 | 64 => {
            let c = ns.socks.common_mut(w.key)?;
            c.flags.set(SockFlags::TIMESTAMP, on);
            c.flags.set(SockFlags::TIMESTAMPNS, on && matches!(name, 35 | 64));
            c.flags.set(SockFlags::TSTAMP_NEW, on && matches!(name, 63 | 64));
            Ok(())
        }
        62 => {
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
        37 | 65 if v as u32 >> 18 != 0 || v & (1 << 16 | 1 << 7) == 1 << 16 => return Err(Errno::EINVAL),
        37 | 65 => c.rare().tsflags = v as u32,
        42 if no_peek_off(w) => return Err(Errno::EOPNOTSUPP),
        42 => c.rare().peek_off = v,
        44 if v == 0 && c.flags.contains(SockFlags::LOCK_FILTER) => return Err(Errno::EPERM),
        44 => c.flags.set(SockFlags::LOCK_FILTER, v != 0),
        46 if v < 0 => return Err(Errno::EINVAL),
        46 => c.rare().busy_poll = v,
        47 => {
            c.rare().max_pacing_rate = match val.first_chunk() {
                Some(b) => u64::from_ne_bytes(*b),
                None if v == -1 => u64::MAX,
                None => u64::from(v as u32),
            };
        }
        49 => c.rare().incoming_cpu = v,
        70 if !(0..=0xffff).contains(&v) => return Err(Errno::EINVAL),
        72 if v & !3 != 0 => return Err(Errno::EINVAL),
        72 => {
            c.flags.set(SockFlags::SNDBUF_LOCK, v & 1 != 0);
            c.flags.set(SockFlags::RCVBUF_LOCK, v & 2 != 0);
        }
        73 => return Err(if v < 0 { Errno::EINVAL } else { Errno::EOPNOTSUPP }),
        53 | 69 | 70 => {}
        // eBPF programs, transmission times, device memory: what they need is not here.
        50 | 51 | 52 | 61 | 68 => return Err(Errno::EINVAL),
        80 => return Err(if w.stream() { Errno::EINVAL } else { Errno::EBADF }),
        60 if !no_peek_off(w) && !(0..=1).contains(&v) => return Err(Errno::EINVAL),
        60 if no_peek_off(w) => return Err(Errno::EOPNOTSUPP),
        74 if (-1..=1).contains(&v) && w.stream() => {}
        74 if w.stream() => return Err(Errno::EINVAL),
        // Without completions on the error queue programs would wait for ever.
        60 if v == 0 => {}
        16 | 34 | 60 | 74 | 76 | 83 => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// `SO_SNDBUF`, `SO_RCVBUF` and their `FORCE` variants: doubled for overhead, bounded by sysctls and minima.
fn set_buffer(ns: &mut Namespace, w: Who, name: i32, v: i32) -> Result<(), Errno> {
    let force = matches!(name, 32 | 33);
    let send = matches!(name, 7 | 32);
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
    let f = if name == 9 { SockFlags::KEEPALIVE } else { SockFlags::OOBINLINE };
    set_flag(ns, w.key, f, on)?;
    if w.stream() {
        tcp::opts::set(ns, w.key, |o| if name == 9 { o.keepalive = on } else { o.oobinline = on });
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
    if name == 27 {
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
