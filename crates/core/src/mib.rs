//! MIB counters. `/proc/net/{snmp,snmp6,netstat}` are rendered from the table in `mib/table.rs`.

mod table;
pub use table::Mib;

/// A named group of counters: a line of `/proc/net/snmp` or a prefix of `/proc/net/snmp6`.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// `Ip`, `TcpExt`, `Icmp6`, …
    pub name: &'static str,
    /// Index of its first counter.
    pub first: usize,
    /// Counter names without the group prefix, in the kernel's order.
    pub names: &'static [&'static str],
}

macro_rules! mib_table {
    ($($group:ident { $($id:ident = $name:literal),* $(,)? })*) => {
        /// A counter, named group + name as `nstat` prints it.
        #[allow(missing_docs, reason = "snmp_counter.rst and RFC 4293/4022/4113 document them")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Mib { $($($id),*),* }
        impl Mib {
            /// The groups in the kernel's order.
            pub const GROUPS: &[$crate::mib::Group] = &[$($crate::mib::Group {
                name: stringify!($group),
                first: [$(Mib::$id as usize),*][0],
                names: &[$($name),*],
            }),*];
            /// Number of counters.
            pub const COUNT: usize = 0 $($(+ { let _ = Mib::$id; 1 })*)*;
        }
    };
}
use mib_table;

/// The counters of one namespace.
#[derive(Clone, Debug)]
pub struct MibTable {
    counters: Box<[u64; Mib::COUNT]>,
    /// `IcmpMsg`: counts by ICMP type, `[0]` received, `[1]` sent.
    pub icmpmsg: Box<[[u64; 256]; 2]>,
    /// `Icmp6InTypeN` / `Icmp6OutTypeN`.
    pub icmp6msg: Box<[[u64; 256]; 2]>,
}

impl Default for MibTable {
    fn default() -> Self {
        let zero = || Box::new([[0; 256]; 2]);
        MibTable { counters: Box::new([0; Mib::COUNT]), icmpmsg: zero(), icmp6msg: zero() }
    }
}

impl MibTable {
    /// Adds one.
    #[inline]
    pub fn inc(&mut self, m: Mib) {
        self.counters[m as usize] += 1;
    }
    /// Adds `n`.
    #[inline]
    pub fn add(&mut self, m: Mib, n: u64) {
        self.counters[m as usize] += n;
    }
    /// Subtracts one (gauges such as `TcpCurrEstab`).
    #[inline]
    pub fn dec(&mut self, m: Mib) {
        self.counters[m as usize] = self.counters[m as usize].saturating_sub(1);
    }
    /// Current value.
    #[inline]
    #[must_use]
    pub fn get(&self, m: Mib) -> u64 {
        self.counters[m as usize]
    }
    /// The values of a group, in order.
    #[must_use]
    pub fn group(&self, g: &Group) -> &[u64] {
        &self.counters[g.first..g.first + g.names.len()]
    }
}
