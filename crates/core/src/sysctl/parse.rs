//! Reading what programs write into the files (`kernel/sysctl.c`).

use super::{Kind, Text};
use crate::Errno;

/// Bytes of a number at most (`TMPBUFLEN` - 1, and that many are refused).
const NUMBER_MAX: usize = 21;

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn skip_spaces(b: &[u8]) -> &[u8] {
    let n = b.iter().take_while(|&&c| is_space(c)).count();
    b.get(n..).unwrap_or_default()
}

/// One number (`proc_get_long`): an optional minus, then decimal, `0x` or octal digits, then a space, tab,
/// newline or the end. Returns sign, magnitude and the rest.
fn get_long(b: &[u8]) -> Result<(bool, u64, &[u8]), Errno> {
    let (neg, digits) = match b.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some(_) | None => (false, b),
    };
    let token = digits.iter().take_while(|c| c.is_ascii_alphanumeric()).count();
    let (number, rest) = digits.split_at(token);
    if token + usize::from(neg) >= NUMBER_MAX {
        return Err(Errno::EINVAL);
    }
    let v = unsigned(number).ok_or(Errno::EINVAL)?;
    match rest.first() {
        None | Some(b' ' | b'\t' | b'\n') => Ok((neg, v, rest)),
        Some(_) => Err(Errno::EINVAL),
    }
}

/// Digits with the prefix rules of `strtoul(, 0)`.
fn unsigned(number: &[u8]) -> Option<u64> {
    if !number.first()?.is_ascii_digit() {
        return None;
    }
    let text = core::str::from_utf8(number).ok()?;
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

fn signed(neg: bool, v: u64) -> Result<i64, Errno> {
    let v = i64::try_from(v).map_err(|_| Errno::EINVAL)?;
    Ok(if neg { -v } else { v })
}

/// The value of a one-number tunable; what follows the number after a space is ignored, as in the kernel.
///
/// # Errors
/// `EINVAL` when it is not a number or out of range.
pub fn scalar(kind: Kind, data: &[u8]) -> Result<i64, Errno> {
    let b = skip_spaces(data);
    let (neg, v, _) = get_long(b)?;
    let within = |v: i64, lo: i64, hi: i64| if (lo..=hi).contains(&v) { Ok(v) } else { Err(Errno::EINVAL) };
    match kind {
        Kind::Int(lo, hi) => within(signed(neg, v)?, lo, hi),
        Kind::Uint(lo, hi) => within(if neg { -1 } else { signed(false, v)? }, lo, hi),
        Kind::Ulong(lo, hi) if !neg && (lo..=hi).contains(&v) => Ok(i64::try_from(v).unwrap_or(i64::MAX)),
        // do_proc_dointvec_ms_jiffies_minmax_conv: what is left of it in an int must not be below the least.
        Kind::Ms(least) => {
            let low = (v & 0xffff_ffff) as u32 as i32;
            let v = if neg { low.wrapping_neg() } else { low };
            within(i64::from(v), least, i64::from(i32::MAX))
        }
        Kind::Clock if v < 1 << 62 => {
            let v = i64::from((v & 0xffff_ffff) as u32 & i32::MAX as u32);
            Ok(if neg { -v } else { v })
        }
        Kind::Ulong(..) | Kind::Clock | Kind::Ints(..) | Kind::Text(_) => Err(Errno::EINVAL),
    }
}

/// Several numbers; those that are not given keep their value (`proc_dointvec_minmax` on a vector).
///
/// # Errors
/// `EINVAL` when there is none, or one is not a number or out of range.
pub fn vector(out: &mut [i64], lo: i64, hi: i64, data: &[u8]) -> Result<(), Errno> {
    let mut b = data;
    let mut first = true;
    for slot in out {
        b = skip_spaces(b);
        if b.is_empty() {
            break;
        }
        let (neg, v, rest) = get_long(b)?;
        let v = signed(neg, v)?;
        if !(lo..=hi).contains(&v) {
            return Err(Errno::EINVAL);
        }
        *slot = v;
        first = false;
        b = rest;
    }
    if first { Err(Errno::EINVAL) } else { Ok(()) }
}

/// What a text tunable becomes.
pub(super) fn text(kind: Text, data: &[u8], algorithms: &str) -> Result<String, Errno> {
    let line = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let line = line.split('\n').next().unwrap_or_default();
    match kind {
        Text::Plain if line.len() <= 255 => Ok(line.to_owned()),
        // tcp_set_default_congestion_control, qdisc_set_default: an unknown name is ENOENT.
        Text::Congestion if algorithms.split(' ').any(|a| a == line.trim()) => Ok(line.trim().to_owned()),
        Text::Congestion => Err(Errno::ENOENT),
        Text::Qdisc if matches!(line.trim(), "pfifo_fast" | "noqueue" | "pfifo" | "bfifo") => {
            Ok(line.trim().to_owned())
        }
        Text::Qdisc => Err(Errno::ENOENT),
        Text::FastopenKey => fastopen_key(line.trim()),
        Text::Bitmap(limit) => bitmap(line, limit),
        Text::CpuMask => cpu_mask(line),
        Text::Flush => Ok(String::new()),
        Text::Plain => Err(Errno::EINVAL),
    }
}

/// `proc_tcp_fastopen_key`: one or two keys of four groups of up to eight hexadecimal digits.
fn fastopen_key(t: &str) -> Result<String, Errno> {
    let keys: Vec<&str> = t.split(',').collect();
    if keys.len() > 2 {
        return Err(Errno::EINVAL);
    }
    let mut out = Vec::new();
    for k in keys {
        let groups: Vec<u32> = k
            .split('-')
            .map(|g| if g.len() <= 8 { u32::from_str_radix(g, 16).ok() } else { None })
            .collect::<Option<_>>()
            .ok_or(Errno::EINVAL)?;
        if groups.len() != 4 || k.contains('+') {
            return Err(Errno::EINVAL);
        }
        out.push(groups.iter().map(|g| format!("{g:08x}")).collect::<Vec<_>>().join("-"));
    }
    Ok(out.join(","))
}

/// `proc_do_large_bitmap`: numbers and ranges separated by commas; empty clears all. Rendered merged.
fn bitmap(t: &str, limit: u32) -> Result<String, Errno> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    if !t.is_empty() {
        for part in t.split(',') {
            // The kernel tolerates a comma at the end.
            if part.is_empty() && !ranges.is_empty() {
                continue;
            }
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            let get = |s: &str| {
                if s.len() >= NUMBER_MAX {
                    return Err(Errno::EINVAL);
                }
                let v = unsigned(s.as_bytes()).ok_or(Errno::EINVAL)?;
                u32::try_from(v).ok().filter(|v| *v < limit).ok_or(Errno::EINVAL)
            };
            let (a, b) = (get(a)?, get(b)?);
            if b < a {
                return Err(Errno::EINVAL);
            }
            ranges.push((a, b));
        }
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (a, b) in ranges {
        match merged.last_mut() {
            Some(last) if a <= last.1.saturating_add(1) => last.1 = last.1.max(b),
            Some(_) | None => merged.push((a, b)),
        }
    }
    let show = |(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    Ok(merged.iter().map(show).collect::<Vec<_>>().join(","))
}

/// `cpumask_parse` with the two processors we show: hexadecimal, more is `EOVERFLOW`.
fn cpu_mask(t: &str) -> Result<String, Errno> {
    let t = t.trim_matches('\0');
    let separator = |c: char| c == ',' || c.is_ascii_whitespace();
    if !t.chars().all(|c| c.is_ascii_hexdigit() || c == '-' || separator(c)) {
        return Err(Errno::EINVAL);
    }
    let mut mask = 0;
    for word in t.split(separator).filter(|w| !w.is_empty()) {
        if word.len() > 8 {
            return Err(Errno::EOVERFLOW);
        }
        let chunk = u32::from_str_radix(word, 16).map_err(|_| Errno::EINVAL)?;
        mask = mask << 32 | u64::from(chunk);
        if mask > 3 {
            return Err(Errno::EOVERFLOW);
        }
    }
    Ok(format!("{mask:x}"))
}

/// One integer as `proc_dointvec` reads it: decimal, 0x or 0 prefixes, a leading minus.
///
/// # Errors
/// `EINVAL` when it is not a number or outside `lo..=hi`.
pub fn parse_int(text: &str, lo: i64, hi: i64) -> Result<i64, Errno> {
    scalar(Kind::Int(lo, hi), text.as_bytes())
}
