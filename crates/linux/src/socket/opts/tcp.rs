//! `IPPROTO_TCP` (`tcp_setsockopt`, tcp(7)).

use ferronet_core::{Errno, Sysctl};
use ferronet_stack::Namespace;
use ferronet_stack::tcp::{self, opts};
use ferronet_tcp::CongAlg;

use super::{Who, int, to_int};
use crate::uapi::tcp::*;

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
    if name == TCP_QUICKACK {
        return Ok(int(i32::from(opts::quickack(ns, w.key))));
    }
    let o = opts::get(ns, w.key).ok_or(Errno::EBADF)?;
    let sysctl = |s: Sysctl| ns.env.sysctl.get(s) as i32;
    let or = |v: i32, s: Sysctl| int(if v != 0 { v } else { sysctl(s) });
    Ok(match name {
        TCP_NODELAY => int(i32::from(o.nodelay)),
        TCP_MAXSEG => int(i32::from(opts::mss(ns, w.key))),
        TCP_CORK => int(i32::from(o.cork)),
        TCP_KEEPIDLE => or(i32::from(o.keepidle), Sysctl::TcpKeepaliveTime),
        TCP_KEEPINTVL => or(i32::from(o.keepintvl), Sysctl::TcpKeepaliveIntvl),
        TCP_KEEPCNT => or(i32::from(o.keepcnt), Sysctl::TcpKeepaliveProbes),
        TCP_SYNCNT => or(i32::from(o.syn_retries), Sysctl::TcpSynRetries),
        TCP_LINGER2 => or(o.linger2, Sysctl::TcpFinTimeout),
        TCP_DEFER_ACCEPT => int(retrans_to_secs(o.defer_accept)),
        TCP_WINDOW_CLAMP => int(o.window_clamp as i32),
        TCP_INFO => super::tcp_info::bytes(&tcp::user::info(ns, w.key).ok_or(Errno::EBADF)?, w.v6()),
        TCP_CONGESTION => {
            let mut v = opts::congestion(ns, w.key).name().as_bytes().to_vec();
            v.resize(CA_NAME_MAX, 0);
            v
        }
        TCP_FASTOPEN => int(o.fastopen_qlen as i32),
        TCP_FASTOPEN_NO_COOKIE => int(i32::from(o.fastopen_no_cookie)),
        TCP_THIN_LINEAR_TIMEOUTS
        | TCP_THIN_DUPACK
        | TCP_REPAIR
        | TCP_SAVE_SYN
        | TCP_FASTOPEN_CONNECT
        | TCP_INQ
        | TCP_TX_DELAY
        | TCP_IS_MPTCP => int(0),
        TCP_USER_TIMEOUT => int(o.user_timeout_ms as i32),
        TCP_TIMESTAMP => int((ns.env.now.millis()) as i32),
        TCP_NOTSENT_LOWAT => int(o.notsent_lowat as i32),
        TCP_SAVED_SYN | TCP_ULP | TCP_FASTOPEN_KEY | TCP_CC_INFO => Vec::new(),
        TCP_RTO_MAX_MS => or(o.rto_max_ms as i32, Sysctl::TcpRtoMaxMs),
        TCP_REPAIR_QUEUE | TCP_QUEUE_SEQ | TCP_REPAIR_WINDOW | TCP_ZEROCOPY_RECEIVE => {
            return Err(Errno::EINVAL);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// `setsockopt`.
pub(super) fn set(ns: &mut Namespace, w: Who, name: i32, val: &[u8]) -> Result<(), Errno> {
    match name {
        TCP_CONGESTION => return set_congestion(ns, w, val),
        // TCP_ULP: no upper layer protocol module is here.
        TCP_ULP => return Err(Errno::ENOENT),
        _ => {}
    }
    let v = to_int(val)?;
    let on = v != 0;
    let within = |lo: i32, hi: i32| if (lo..=hi).contains(&v) { Ok(v) } else { Err(Errno::EINVAL) };
    match name {
        TCP_NODELAY => opts::set(ns, w.key, |o| o.nodelay = on),
        // TCP_MIN_MSS, MAX_TCP_WINDOW
        TCP_MAXSEG => {
            let v = if v == 0 { 0 } else { within(88, 32767)? };
            opts::set(ns, w.key, |o| o.user_mss = v as u16);
        }
        TCP_CORK => opts::set(ns, w.key, |o| o.cork = on),
        TCP_KEEPIDLE => {
            let v = within(1, MAX_SECS)?;
            opts::set(ns, w.key, |o| o.keepidle = v as u16);
        }
        TCP_KEEPINTVL => {
            let v = within(1, MAX_SECS)?;
            opts::set(ns, w.key, |o| o.keepintvl = v as u16);
        }
        TCP_KEEPCNT => {
            let v = within(1, MAX_COUNT)?;
            opts::set(ns, w.key, |o| o.keepcnt = v as u8);
        }
        TCP_SYNCNT => {
            let v = within(1, MAX_COUNT)?;
            opts::set(ns, w.key, |o| o.syn_retries = v as u8);
        }
        // TCP_FIN_TIMEOUT_MAX: two minutes.
        TCP_LINGER2 => opts::set(ns, w.key, |o| o.linger2 = if v < 0 { -1 } else { v.min(120) }),
        TCP_DEFER_ACCEPT => opts::set(ns, w.key, |o| o.defer_accept = secs_to_retrans(v)),
        TCP_WINDOW_CLAMP => {
            // tcp_set_window_clamp: not below half of the smallest receive buffer; 0 only while closed.
            let closed = tcp::user::state(ns, w.key) == Some(ferronet_tcp::State::Close);
            if v == 0 && !closed {
                return Err(Errno::EINVAL);
            }
            let clamp = if v == 0 { 0 } else { (v as u32).max(1152) };
            opts::set(ns, w.key, |o| o.window_clamp = clamp);
        }
        TCP_QUICKACK => opts::set_quickack(ns, w.key, on),
        TCP_USER_TIMEOUT if v < 0 => return Err(Errno::EINVAL),
        TCP_USER_TIMEOUT => opts::set(ns, w.key, |o| o.user_timeout_ms = v as u32),
        TCP_NOTSENT_LOWAT => opts::set(ns, w.key, |o| o.notsent_lowat = v as u32),
        TCP_THIN_LINEAR_TIMEOUTS
        | TCP_THIN_DUPACK
        | TCP_FASTOPEN_CONNECT
        | TCP_FASTOPEN_NO_COOKIE
        | TCP_INQ
            if !(0..=1).contains(&v) =>
        {
            return Err(Errno::EINVAL);
        }
        TCP_SAVE_SYN if !(0..=2).contains(&v) => return Err(Errno::EINVAL),
        TCP_FASTOPEN | TCP_TX_DELAY if v < 0 => return Err(Errno::EINVAL),
        TCP_FASTOPEN | TCP_FASTOPEN_NO_COOKIE if !may_listen(ns, w) => return Err(Errno::EINVAL),
        // fastopen_queue_tune
        TCP_FASTOPEN => {
            let max = ns.env.sysctl.get(Sysctl::Somaxconn) as i32;
            opts::set(ns, w.key, |o| o.fastopen_qlen = v.min(max) as u32);
        }
        TCP_FASTOPEN_NO_COOKIE => opts::set(ns, w.key, |o| o.fastopen_no_cookie = on),
        // TCP_RTO_MAX_MS: a second to TCP_RTO_MAX_SEC.
        TCP_RTO_MAX_MS => {
            let v = within(1000, 120_000)?;
            opts::set(ns, w.key, |o| o.rto_max_ms = v as u32);
        }
        // Off, which both are; then TCP_REPAIR and what belongs to it.
        TCP_FASTOPEN_CONNECT | TCP_REPAIR if v <= 0 => {}
        TCP_REPAIR if v > 1 => return Err(Errno::EINVAL),
        TCP_REPAIR_QUEUE | TCP_TIMESTAMP | TCP_REPAIR_WINDOW => return Err(Errno::EPERM),
        // TCP_MD5SIG and Fast Open keys want structures.
        TCP_MD5SIG | TCP_QUEUE_SEQ | TCP_REPAIR_OPTIONS | TCP_MD5SIG_EXT | TCP_FASTOPEN_KEY => {
            return Err(Errno::EINVAL);
        }
        TCP_THIN_LINEAR_TIMEOUTS | TCP_THIN_DUPACK | TCP_SAVE_SYN | TCP_INQ | TCP_TX_DELAY => {}
        TCP_REPAIR => return Err(Errno::EPERM),
        TCP_FASTOPEN_CONNECT => return Err(Errno::EOPNOTSUPP),
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
