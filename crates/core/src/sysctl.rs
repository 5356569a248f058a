//! The sysctl registry: one table; `/proc/sys/net`, documentation and the tools are rendered from it.

pub mod effect;
mod parse;
mod table;
pub mod text;
pub use effect::{Tunable, effective};
pub use parse::{parse_int, scalar, vector};
pub use table::{Conf4, Conf6, NeighParm, Sysctl};

use crate::Errno;

/// Shape and range of a tunable, after the handler the kernel has for it (`kernel/sysctl.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One signed integer in an inclusive range (`proc_dointvec_minmax`).
    Int(i64, i64),
    /// One unsigned integer (`proc_douintvec_minmax`, `proc_dou8vec_minmax`).
    Uint(i64, i64),
    /// One unsigned long (`proc_doulongvec_minmax`).
    Ulong(u64, u64),
    /// Milliseconds from the least on (`proc_dointvec_ms_jiffies`): any number, kept modulo 2^32.
    Ms(i64),
    /// Clock ticks of 10 ms (`proc_dointvec_userhz_jiffies`).
    Clock,
    /// Several integers (2 or 3), separated by a tab, each in the range.
    Ints(u8, i64, i64),
    /// Text.
    Text(Text),
}

impl Kind {
    /// What may be written, in words.
    #[must_use]
    pub fn range(self) -> String {
        const MAX: i64 = i32::MAX as i64;
        match self {
            Kind::Int(lo, MAX) if lo == i64::from(i32::MIN) => "any integer".to_owned(),
            Kind::Int(lo, MAX) => format!("from {lo}"),
            Kind::Int(lo, hi) | Kind::Uint(lo, hi) => format!("{lo} to {hi}"),
            Kind::Ulong(lo, u64::MAX) => format!("from {lo}"),
            Kind::Ulong(lo, hi) => format!("{lo} to {hi}"),
            Kind::Ms(_) => "milliseconds".to_owned(),
            Kind::Clock => "ticks of 10 ms".to_owned(),
            Kind::Ints(n, lo, hi) if hi >= MAX => format!("{n} numbers from {lo}"),
            Kind::Ints(n, lo, hi) => format!("{n} numbers from {lo} to {hi}"),
            Kind::Text(t) => match t {
                Text::Plain => "text".to_owned(),
                Text::Qdisc => "a queueing discipline".to_owned(),
                Text::Congestion => "one of tcp_available_congestion_control".to_owned(),
                Text::FastopenKey => "one or two keys x-x-x-x".to_owned(),
                Text::Bitmap(limit) => format!("numbers and ranges below {limit}: 1,5-7"),
                Text::CpuMask => "a set of processors in hexadecimal".to_owned(),
                Text::Flush => "any text: an action".to_owned(),
            },
        }
    }
}

impl Def {
    /// The default value as it reads.
    #[must_use]
    pub fn default_text(&self) -> String {
        match (self.default, self.kind) {
            (Default::S(s), _) => s.to_owned(),
            (Default::N(n), Kind::Ints(count, ..)) => {
                let some: Vec<String> = n.iter().take(usize::from(count)).map(i64::to_string).collect();
                some.join(" ")
            }
            (Default::N(n), _) => n[0].to_string(),
        }
    }
}

/// What a text tunable takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// Anything up to 255 bytes.
    Plain,
    /// A queueing discipline we have.
    Qdisc,
    /// A congestion control algorithm out of `tcp_available_congestion_control`.
    Congestion,
    /// One or two TCP Fast Open keys: `x-x-x-x[,x-x-x-x]`, 32 bits each.
    FastopenKey,
    /// A set of numbers below the limit: `1,5-7`.
    Bitmap(u32),
    /// A set of processors in hexadecimal.
    CpuMask,
    /// Writing is an action; there is nothing to read.
    Flush,
}

/// Who sees and who may change a tunable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// 0644 in every namespace.
    Rw,
    /// 0444 in every namespace.
    Ro,
    /// 0200: an action.
    Wo,
    /// 0600: root only.
    Secret,
    /// 0644, only in the initial namespace; the value holds for all.
    Init,
    /// 0444, only in the initial namespace.
    InitRo,
    /// 0644 in the initial namespace, 0444 elsewhere; the value holds for all.
    Shared,
}

impl Access {
    /// Mode bits; `None` when the file does not exist there.
    #[must_use]
    pub const fn mode(self, init: bool) -> Option<u16> {
        match (self, init) {
            (Access::Rw, _) | (Access::Init | Access::Shared, true) => Some(0o644),
            (Access::Ro, _) | (Access::InitRo, true) | (Access::Shared, false) => Some(0o444),
            (Access::Wo, _) => Some(0o200),
            (Access::Secret, _) => Some(0o600),
            (Access::Init | Access::InitRo, false) => None,
        }
    }
    /// One value for all namespaces?
    #[must_use]
    pub const fn global(self) -> bool {
        matches!(self, Access::Init | Access::InitRo | Access::Shared)
    }
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
    /// Who sees it.
    pub access: Access,
    /// Shape and range.
    pub kind: Kind,
    /// Default value.
    pub default: Default,
}

macro_rules! access {
    (rw) => {
        $crate::sysctl::Access::Rw
    };
    (ro) => {
        $crate::sysctl::Access::Ro
    };
    (wo) => {
        $crate::sysctl::Access::Wo
    };
    (secret) => {
        $crate::sysctl::Access::Secret
    };
    (init) => {
        $crate::sysctl::Access::Init
    };
    (init_ro) => {
        $crate::sysctl::Access::InitRo
    };
    (shared) => {
        $crate::sysctl::Access::Shared
    };
}
macro_rules! sysctl_table {
    ($($id:ident = $path:literal, $access:ident, $kind:expr, $def:expr;)*) => {
        /// A tunable of the namespace, named after its file.
        #[allow(missing_docs, reason = "ip-sysctl.rst documents them; the table holds names and ranges")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Sysctl { $($id),* }
        impl Sysctl {
            /// All tunables, sorted by path within a directory.
            pub const ALL: &[Sysctl] = &[$(Sysctl::$id),*];
            /// The table itself, indexed by `Sysctl as usize`.
            pub const DEFS: &[$crate::sysctl::Def] = &[$($crate::sysctl::Def {
                path: $path, access: $crate::sysctl::access!($access), kind: $kind, default: $def,
            }),*];
        }
    };
}
macro_rules! conf_table {
    ($(#[$doc:meta])* $name:ident { $($id:ident = $file:literal, $access:ident, $kind:expr, $def:literal;)* }) => {
        $(#[$doc])*
        #[allow(missing_docs, reason = "ip-sysctl.rst documents them; the table holds names and defaults")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($id),* }
        impl $name {
            /// All of them, in the order of the table.
            pub const ALL: &[$name] = &[$($name::$id),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// File names.
            pub const NAMES: &[&str] = &[$($file),*];
            /// Shapes and ranges.
            pub const KINDS: &[$crate::sysctl::Kind] = &[$($kind),*];
            /// Who may change them.
            pub const ACCESS: &[$crate::sysctl::Access] = &[$($crate::sysctl::access!($access)),*];
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
use {access, conf_table, sysctl_table};

impl Sysctl {
    /// The row of the table.
    #[inline]
    #[must_use]
    pub fn def(self) -> &'static Def {
        &Self::DEFS[self as usize]
    }
    /// The tunable whose file is `path` below `/proc/sys/net`.
    #[must_use]
    pub fn by_path(path: &str) -> Option<Sysctl> {
        Self::DEFS.iter().position(|d| d.path == path).map(|i| Self::ALL[i])
    }
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
    /// The text of a `Text` tunable, empty for others.
    #[must_use]
    pub fn text(&self, s: Sysctl) -> &str {
        self.strs.iter().find(|(k, _)| *k == s).map_or("", |(_, v)| v)
    }
    /// Sets the (first) integer without a range check (for defaults, effects and tests).
    pub fn set(&mut self, s: Sysctl, v: i64) {
        self.ints[s as usize][0] = v;
        self.generation += 1;
    }
    /// Takes one tunable's value over from another namespace.
    pub fn copy_from(&mut self, s: Sysctl, from: &SysctlTable) {
        self.ints[s as usize] = from.ints[s as usize];
        if let (Some(to), Some((_, v))) =
            (self.strs.iter_mut().find(|(k, _)| *k == s), from.strs.iter().find(|(k, _)| *k == s))
        {
            to.1.clone_from(v);
        }
        self.generation += 1;
    }

    /// What a read of the file returns, with the newline; empty for actions.
    #[must_use]
    pub fn read(&self, s: Sysctl) -> String {
        let v = self.ints[s as usize];
        match s.def().kind {
            Kind::Int(..) | Kind::Uint(..) | Kind::Ulong(..) | Kind::Ms(_) | Kind::Clock => {
                format!("{}\n", v[0])
            }
            Kind::Ints(2, ..) => format!("{}\t{}\n", v[0], v[1]),
            Kind::Ints(..) => format!("{}\t{}\t{}\n", v[0], v[1], v[2]),
            Kind::Text(Text::Flush) => String::new(),
            Kind::Text(_) => format!("{}\n", self.text(s)),
        }
    }

    /// A write to the file; whether it may be written is decided by [`Access::mode`] before. An empty write
    /// changes nothing.
    ///
    /// # Errors
    /// `EINVAL` for text that is not a number or out of range; `ENOENT` for an unknown algorithm.
    pub fn write(&mut self, s: Sysctl, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        match s.def().kind {
            k @ (Kind::Int(..) | Kind::Uint(..) | Kind::Ulong(..) | Kind::Ms(_) | Kind::Clock) => {
                let v = parse::scalar(k, data)?;
                self.check(s, [v, 0, 0])?;
                self.ints[s as usize][0] = v;
            }
            Kind::Ints(n, lo, hi) => {
                let mut v = self.ints[s as usize];
                if s == Sysctl::IpLocalPortRange {
                    v = [0; 3];
                }
                parse::vector(&mut v[..usize::from(n)], lo, hi, data)?;
                self.check(s, v)?;
                // A group range that is empty is stored as "1 0" (ipv4_ping_group_range).
                self.ints[s as usize] =
                    if s == Sysctl::PingGroupRange && v[1] < v[0] { [1, 0, 0] } else { v };
            }
            Kind::Text(t) => {
                let new = parse::text(t, data, self.text(Sysctl::TcpAvailableCongestionControl))?;
                if let Some((_, v)) = self.strs.iter_mut().find(|(k, _)| *k == s) {
                    *v = new;
                }
            }
        }
        self.generation += 1;
        Ok(())
    }

    /// Rules between tunables.
    fn check(&self, s: Sysctl, v: [i64; 3]) -> Result<(), Errno> {
        let ok = match s {
            // ipv4_local_port_range: in order, and not into the privileged ports.
            Sysctl::IpLocalPortRange => v[0] <= v[1] && v[0] >= self.get(Sysctl::IpUnprivilegedPortStart),
            // ipv4_privileged_ports: not into the local range.
            Sysctl::IpUnprivilegedPortStart => v[0] <= self.get(Sysctl::IpLocalPortRange),
            // The thresholds bound each other (inet_frags_init_net, extra1/extra2).
            Sysctl::IpfragHighThresh => v[0] >= self.get(Sysctl::IpfragLowThresh),
            Sysctl::IpfragLowThresh => v[0] <= self.get(Sysctl::IpfragHighThresh),
            Sysctl::Ip6Ip6fragHighThresh => v[0] >= self.get(Sysctl::Ip6Ip6fragLowThresh),
            Sysctl::Ip6Ip6fragLowThresh => v[0] <= self.get(Sysctl::Ip6Ip6fragHighThresh),
            _ => true,
        };
        if ok { Ok(()) } else { Err(Errno::EINVAL) }
    }
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
mod tests;
