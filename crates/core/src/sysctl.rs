//! The sysctl registry: one table; `/proc/sys/net`, documentation and the tools are rendered from it.

mod table;
pub use table::{Conf4, Conf6, NeighParm, Sysctl};

use crate::Errno;

/// Shape and range of a tunable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One integer in an inclusive range.
    Int(i64, i64),
    /// Several integers (2 or 3), separated by a tab.
    Ints(u8),
    /// Text up to 255 bytes.
    Str,
}

/// Default value.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// Up to three integers.
    N([i64; 3]),
    /// Text.
    S(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Def {
    /// Path below `/proc/sys/net`, such as `ipv4/ip_forward`.
    pub path: &'static str,
    /// Mode bits are 0644 when `true`, else 0444.
    pub writable: bool,
    /// Shape and range.
    pub kind: Kind,
    /// Default value.
    pub default: Default,
}

macro_rules! sysctl_table {
    ($($id:ident = $path:literal, $rw:ident, $kind:expr, $def:expr;)*) => {
        /// A tunable of the namespace, named after its file.
        #[allow(missing_docs, reason = "ip-sysctl.rst documents them; the table holds names and ranges")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Sysctl { $($id),* }
        impl Sysctl {
            /// All tunables, sorted by path within a directory.
            pub const ALL: &[Sysctl] = &[$(Sysctl::$id),*];
            /// The table itself, indexed by `Sysctl as usize`.
            pub const DEFS: &[$crate::sysctl::Def] = &[$($crate::sysctl::Def {
                path: $path, writable: $crate::sysctl::writable(stringify!($rw)), kind: $kind, default: $def,
            }),*];
        }
    };
}
macro_rules! conf_table {
    ($(#[$doc:meta])* $name:ident { $($id:ident = $file:literal, $def:literal;)* }) => {
        $(#[$doc])*
        #[allow(missing_docs, reason = "ip-sysctl.rst documents them; the table holds names and defaults")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name { $($id),* }
        impl $name {
            /// All of them, in the order of the table.
            pub const ALL: &[$name] = &[$($name::$id),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// File names.
            pub const NAMES: &[&str] = &[$($file),*];
            /// Values of a fresh namespace.
            pub const DEFAULTS: [i32; Self::COUNT] = [$($def as i64 as i32),*];
            /// The tunable whose file is `name`.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                Self::NAMES.iter().position(|n| *n == name).map(|i| Self::ALL[i])
            }
        }
    };
}
use {conf_table, sysctl_table};

const fn writable(s: &str) -> bool {
    matches!(s.as_bytes(), b"rw")
}

/// The values of one namespace.
#[derive(Clone, Debug)]
pub struct SysctlTable {
    ints: Box<[[i64; 3]]>,
    strs: Vec<(Sysctl, String)>,
    /// Bumped at every write: readers that cache derived values compare it.
    pub generation: u64,
}

impl core::default::Default for SysctlTable {
    fn default() -> Self {
        let mut t = SysctlTable {
            ints: vec![[0; 3]; Sysctl::ALL.len()].into_boxed_slice(),
            strs: Vec::new(),
            generation: 0,
        };
        for (i, d) in Sysctl::DEFS.iter().enumerate() {
            match d.default {
                Default::N(v) => t.ints[i] = v,
                Default::S(s) => t.strs.push((Sysctl::ALL[i], s.to_owned())),
            }
        }
        t
    }
}

impl SysctlTable {
    /// The (first) integer.
    #[inline]
    #[must_use]
    pub fn get(&self, s: Sysctl) -> i64 {
        self.ints[s as usize][0]
    }
    /// The integer as a truth value.
    #[inline]
    #[must_use]
    pub fn on(&self, s: Sysctl) -> bool {
        self.get(s) != 0
    }
    /// All three integers (unused ones are 0).
    #[inline]
    #[must_use]
    pub fn get3(&self, s: Sysctl) -> [i64; 3] {
        self.ints[s as usize]
    }
    /// The text of a `Str` tunable, empty for others.
    #[must_use]
    pub fn text(&self, s: Sysctl) -> &str {
        self.strs.iter().find(|(k, _)| *k == s).map_or("", |(_, v)| v)
    }
    /// Sets the integers without a range check (for defaults and tests).
    pub fn set(&mut self, s: Sysctl, v: i64) {
        self.ints[s as usize][0] = v;
        self.generation += 1;
    }

    /// What a read of the file returns, with the newline.
    #[must_use]
    pub fn read(&self, s: Sysctl) -> String {
        let v = self.ints[s as usize];
        match Sysctl::DEFS[s as usize].kind {
            Kind::Int(..) => format!("{}\n", v[0]),
            Kind::Ints(2) => format!("{}\t{}\n", v[0], v[1]),
            Kind::Ints(_) => format!("{}\t{}\t{}\n", v[0], v[1], v[2]),
            Kind::Str => format!("{}\n", self.text(s)),
        }
    }

    /// A write to the file.
    ///
    /// # Errors
    /// `EINVAL` for text that is not a number, out of range, or too short or too long (`proc_dointvec_minmax`),
    /// `EACCES` for a read-only file.
    pub fn write(&mut self, s: Sysctl, data: &[u8]) -> Result<(), Errno> {
        let d = &Sysctl::DEFS[s as usize];
        if !d.writable {
            return Err(Errno::EACCES);
        }
        let text =
            core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim_matches(['\n', ' ', '\t', '\0']);
        match d.kind {
            Kind::Int(lo, hi) => self.ints[s as usize][0] = parse_int(text, lo, hi)?,
            Kind::Ints(n) => self.write_ints(s, text, usize::from(n))?,
            Kind::Str => self.write_str(s, text)?,
        }
        self.generation += 1;
        Ok(())
    }

    fn write_ints(&mut self, s: Sysctl, text: &str, n: usize) -> Result<(), Errno> {
        let mut v = self.ints[s as usize];
        let mut count = 0;
        for (i, w) in text.split_ascii_whitespace().enumerate() {
            if i >= n {
                return Err(Errno::EINVAL);
            }
            let lo = if s == Sysctl::PingGroupRange { 0 } else { 1 };
            v[i] = parse_int(w, lo, i64::from(i32::MAX))?;
            count += 1;
        }
        // ipv4_local_port_range: both ends, in order, within 1..65535 (net/ipv4/sysctl_net_ipv4.c).
        if count == 0 || (s == Sysctl::IpLocalPortRange && (count < 2 || v[0] > v[1] || v[1] > 65535)) {
            return Err(Errno::EINVAL);
        }
        self.ints[s as usize] = v;
        Ok(())
    }

    fn write_str(&mut self, s: Sysctl, text: &str) -> Result<(), Errno> {
        if text.len() > 255 {
            return Err(Errno::EINVAL);
        }
        // tcp_set_default_congestion_control: an unknown name is ENOENT.
        if s == Sysctl::TcpCongestionControl
            && !self.text(Sysctl::TcpAvailableCongestionControl).split(' ').any(|n| n == text)
        {
            return Err(Errno::ENOENT);
        }
        if let Some((_, v)) = self.strs.iter_mut().find(|(k, _)| *k == s) {
            text.clone_into(v);
        }
        Ok(())
    }
}

/// One integer as `proc_dointvec` reads it: decimal, 0x or 0 prefixes, a leading minus.
///
/// # Errors
/// `EINVAL` when it is not a number or outside `lo..=hi`.
pub fn parse_int(text: &str, lo: i64, hi: i64) -> Result<i64, Errno> {
    let (neg, t) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let v = if let Some(h) = t.strip_prefix("0x") {
        i64::from_str_radix(h, 16)
    } else if t.len() > 1 && t.starts_with('0') {
        i64::from_str_radix(&t[1..], 8)
    } else if t.starts_with('+') {
        return Err(Errno::EINVAL);
    } else {
        t.parse()
    };
    let v = v.map_err(|_| Errno::EINVAL)?;
    let v = if neg { -v } else { v };
    if v < lo || v > hi { Err(Errno::EINVAL) } else { Ok(v) }
}

/// Per-device tunables with the kernel's `all` and `default` rows.
#[derive(Clone, Debug)]
pub struct Conf<const N: usize>(pub [i32; N]);

/// IPv4 tunables of one device.
pub type DevConf4 = Conf<{ Conf4::COUNT }>;
/// IPv6 tunables of one device.
pub type DevConf6 = Conf<{ Conf6::COUNT }>;
/// Neighbour parameters of one device.
pub type NeighParms = Conf<{ NeighParm::COUNT }>;

impl DevConf4 {
    /// Value of one tunable.
    #[inline]
    #[must_use]
    pub fn get(&self, c: Conf4) -> i32 {
        self.0[c as usize]
    }
}
impl DevConf6 {
    /// Value of one tunable.
    #[inline]
    #[must_use]
    pub fn get(&self, c: Conf6) -> i32 {
        self.0[c as usize]
    }
}
impl NeighParms {
    /// Value of one parameter.
    #[inline]
    #[must_use]
    pub fn get(&self, c: NeighParm) -> i32 {
        self.0[c as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_checked_like_the_kernels() {
        let mut t = SysctlTable::default();
        assert_eq!(t.write(Sysctl::IpForward, b"1\n"), Ok(()));
        assert_eq!(t.read(Sysctl::IpForward), "1\n");
        assert_eq!(t.write(Sysctl::IpForward, b"x"), Err(Errno::EINVAL));
        assert_eq!(t.write(Sysctl::Somaxconn, b"-1"), Err(Errno::EINVAL));
        assert_eq!(t.write(Sysctl::Somaxconn, b""), Err(Errno::EINVAL));
        assert_eq!(t.write(Sysctl::IpLocalPortRange, b"9 5"), Err(Errno::EINVAL));
        assert_eq!(t.write(Sysctl::IpLocalPortRange, b"1024 2048"), Ok(()));
        assert_eq!(t.read(Sysctl::IpLocalPortRange), "1024\t2048\n");
        assert_eq!(t.write(Sysctl::TcpCongestionControl, b"nope"), Err(Errno::ENOENT));
        assert_eq!(t.write(Sysctl::TcpRmem, b"4096 131072 6291456"), Ok(()));
        assert_eq!(t.read(Sysctl::TcpRmem), "4096\t131072\t6291456\n");
        assert_eq!(t.write(Sysctl::TcpAvailableCongestionControl, b"x"), Err(Errno::EACCES));
    }
}
