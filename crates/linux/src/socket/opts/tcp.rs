//! `IPPROTO_TCP` (`tcp_setsockopt`, tcp(7)).

use ferronet_core::{Errno, Sysctl};
use ferronet_stack::Namespace;
use ferronet_stack::tcp::{self, opts};
use ferronet_tcp::CongAlg;

use super::{Who, int, to_int};

/// `TCP_CA_NAME_MAX`.
const CA_NAME_MAX: usize = 16;
/// `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`, and `MAX_TCP_KEEPCNT`, `MAX_TCP_SYNCNT`.
const MAX_SECS: i32 = 32767;
const MAX_COUNT: i32 = 127;

/// How many SYN-ACKs go out in `secs` seconds: the timer starts with one second, doubles, and stays at two minutes
/// (`secs_to_retrans`).
fn secs_to_retrans(secs: i32) -> u8 {
    (0..u8::MAX).find(|n| retrans_to_secs(*n) >= secs).unwrap_or(u8::MAX)
}

/// The reverse, to the end of the last period.
fn retrans_to_secs(n: u8) -> i32 {
    (0..i32::from(n)).map(|i| (1 << i.min(7)).min(120)).sum()
}

/// `getsockopt`.
pub(super) fn get(ns: &mut Namespace, w: Who, name: i32) -> Result<Vec<u8>, Errno> {
    if name == 12 {
        return Ok(int(i32::from(opts::quickack(ns, w.key))));
    }
    let o = opts::get(ns, w.key).ok_or(Errno::EBADF)?;
    let sysctl = |s: Sysctl| ns.env.sysctl.get(s) as i32;
    let or = |v: i32, s: Sysctl| int(if v != 0 { v } else { sysctl(s) });
    Ok(match name {
        1 => int(i32::from(o.nodelay)),
        2 => int(i32::from(opts::mss(ns, w.key))),
        3 => int(i32::from(o.cork)),
        4 => or(i32::from(o.keepidle), Sysctl::TcpKeepaliveTime),
        5 => or(i32::from(o.keepintvl), Sysctl::TcpKeepaliveIntvl),
        6 => or(i32::from(o.keepcnt), Sysctl::TcpKeepaliveProbes),
        7 => or(i32::from(o.syn_retries), Sysctl::TcpSynRetries),
        8 => or(o.linger2, Sysctl::TcpFinTimeout),
        9 => int(retrans_to_secs(o.defer_accept)),
        10 => int(o.window_clamp as i32),
        11 => super::tcp_info::bytes(&tcp::user::info(ns, w.key).ok_or(Errno::EBADF)?, w.v6()),
        13 => {
            let mut v = opts::congestion(ns, w.key).name().as_bytes().to_vec();
            v.resize(CA_NAME_MAX, 0);
            v
        }
        23 => int(o.fastopen_qlen as i32),
        34 => int(i32::from(o.fastopen_no_cookie)),
        16 | 17 | 19 | 27 | 30 | 36 | 37 | 43 => int(0),
        18 => int(o.user_timeout_ms as i32),
        24 => int((ns.env.now.millis()) as i32),
        25 => int(o.notsent_lowat as i32),
        28 | 31 | 33 | 26 => Vec::new(),
        44 => or(o.rto_max_ms as i32, Sysctl::TcpRtoMaxMs),
        20 | 21 | 29 | 35 => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// `setsockopt`.
pub(super) fn set(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    match name {
        13 => return set_congestion(ns, w, val),
        // TCP_ULP: no upper layer protocol module is here.
        31 => return Err(Errno::ENOENT),
        _ => {}
    }
    let v = to_int(val)?;
    let on = v != 0;
    let within = |lo: i32, hi: i32| if (lo..=hi).contains(&v) { Ok(v) } else { Err(Errno::EINVAL) };
    match name {
        1 => opts::set(ns, w.key, |o| o.nodelay = on),
        // TCP_MIN_MSS, MAX_TCP_WINDOW
        2 => {
            let v = if v == 0 { 0 } else { within(88, 32767)? };
            opts::set(ns, w.key, |o| o.user_mss = v as u16);
        }
        3 => opts::set(ns, w.key, |o| o.cork = on),
        4 => {
            let v = within(1, MAX_SECS)?;
            opts::set(ns, w.key, |o| o.keepidle = v as u16);
        }
        5 => {
            let v = within(1, MAX_SECS)?;
            opts::set(ns, w.key, |o| o.keepintvl = v as u16);
        }
        6 => {
            let v = within(1, MAX_COUNT)?;
            opts::set(ns, w.key, |o| o.keepcnt = v as u8);
        }
        7 => {
            let v = within(1, MAX_COUNT)?;
            opts::set(ns, w.key, |o| o.syn_retries = v as u8);
        }
        // TCP_FIN_TIMEOUT_MAX: two minutes.
        8 => opts::set(ns, w.key, |o| o.linger2 = if v < 0 { -1 } else { v.min(120) }),
        9 => opts::set(ns, w.key, |o| o.defer_accept = secs_to_retrans(v)),
        10 => {
            // tcp_set_window_clamp: not below half of the smallest receive buffer; 0 only while closed.
            let closed = tcp::user::state(ns, w.key) == Some(ferronet_tcp::State::Close);
            if v == 0 && !closed {
                return Err(Errno::EINVAL);
            }
            let clamp = if v == 0 { 0 } else { (v as u32).max(1152) };
            opts::set(ns, w.key, |o| o.window_clamp = clamp);
        }
        12 => opts::set_quickack(ns, w.key, on),
        18 if v < 0 => return Err(Errno::EINVAL),
        18 => opts::set(ns, w.key, |o| o.user_timeout_ms = v as u32),
        25 => opts::set(ns, w.key, |o| o.notsent_lowat = v as u32),
        16 | 17 | 30 | 34 | 36 if !(0..=1).contains(&v) => return Err(Errno::EINVAL),
        27 if !(0..=2).contains(&v) => return Err(Errno::EINVAL),
        23 | 37 if v < 0 => return Err(Errno::EINVAL),
        23 | 34 if !may_listen(ns, w) => return Err(Errno::EINVAL),
        // fastopen_queue_tune
        23 => {
            let max = ns.env.sysctl.get(Sysctl::Somaxconn) as i32;
            opts::set(ns, w.key, |o| o.fastopen_qlen = v.min(max) as u32);
        }
        34 => opts::set(ns, w.key, |o| o.fastopen_no_cookie = on),
        // TCP_RTO_MAX_MS: a second to TCP_RTO_MAX_SEC.
        44 => {
            let v = within(1000, 120_000)?;
            opts::set(ns, w.key, |o| o.rto_max_ms = v as u32);
        }
        30 if v == 0 => {}
        // TCP_REPAIR and what belongs to it.
        19 if v <= 0 => {}
        19 if v > 1 => return Err(Errno::EINVAL),
        20 | 24 | 29 => return Err(Errno::EPERM),
        // TCP_MD5SIG and Fast Open keys want structures.
        14 | 21 | 22 | 32 | 33 => return Err(Errno::EINVAL),
        16 | 17 | 27 | 36 | 37 => {}
        19 => return Err(Errno::EPERM),
        30 => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// In CLOSE or LISTEN.
fn may_listen(ns: &Namespace, w: Who) -> bool {
    use ferronet_tcp::State;
    matches!(tcp::user::state(ns, w.key), Some(State::Close | State::Listen))
}

/// `TCP_CONGESTION`: a name out of `tcp_available_congestion_control`.
fn set_congestion(ns: &mut Namespace, w: Who, val: &[u8]) -> Result<(), Errno> {
    let name = val.split(|b| *b == 0).next().unwrap_or(&[]);
    let name = name.get(..name.len().min(CA_NAME_MAX - 1)).unwrap_or(name);
    if val.is_empty() {
        return Err(Errno::EINVAL);
    }
    let alg = core::str::from_utf8(name).ok().and_then(CongAlg::from_name).ok_or(Errno::ENOENT)?;
    opts::set(ns, w.key, |o| o.congestion = Some(alg));
    Ok(())
}
