//! The policy table of source address selection (RFC 6724 §2.1; `net/ipv6/addrlabel.c`).

use core::net::Ipv6Addr;

use ferronet_core::{Errno, IfIndex};

/// `IPV6_ADDR_LABEL_DEFAULT`: what no prefix covers.
pub const DEFAULT: u32 = u32::MAX;
/// Prefixes at most; the kernel stops where memory ends.
const LIMIT: usize = 4096;

/// A prefix and its label (`struct ip6addrlbl_entry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrLabel {
    /// Its bits beyond `len` are zero.
    pub prefix: Ipv6Addr,
    /// 0 to 128.
    pub len: u8,
    /// Only for addresses of this device; none for all.
    pub dev: IfIndex,
    /// Anything but [`DEFAULT`].
    pub label: u32,
}

/// The kernel's initial table, in the order of its list.
const INITIAL: [(Ipv6Addr, u8, u32); 10] = [
    (Ipv6Addr::LOCALHOST, 128, 0),
    (Ipv6Addr::UNSPECIFIED, 96, 3),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 4),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 6),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, 7),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 12),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 2),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 11),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 5),
    (Ipv6Addr::UNSPECIFIED, 0, 1),
];

/// The table of a namespace: longer prefixes first.
#[derive(Clone, Debug)]
pub struct AddrLabels {
    list: Vec<AddrLabel>,
    /// Counts changes (`ip6addrlbl_table.seq`).
    pub seq: u32,
}

impl Default for AddrLabels {
    fn default() -> Self {
        let of = |&(prefix, len, label)| AddrLabel { prefix, len, dev: IfIndex::NONE, label };
        AddrLabels { list: INITIAL.iter().map(of).collect(), seq: INITIAL.len() as u32 }
    }
}

fn masked(a: Ipv6Addr, len: u8) -> Ipv6Addr {
    let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
    Ipv6Addr::from_bits(a.to_bits() & !host)
}

impl AddrLabels {
    /// In the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &AddrLabel> {
        self.list.iter()
    }

    /// The entry that holds for an address on a device (`__ipv6_addr_label`).
    #[must_use]
    pub fn get(&self, a: Ipv6Addr, dev: IfIndex) -> Option<&AddrLabel> {
        self.list.iter().find(|l| (l.dev.is_none() || l.dev == dev) && masked(a, l.len) == l.prefix)
    }

    /// The label of an address (`ipv6_addr_label`).
    #[must_use]
    pub fn label(&self, a: Ipv6Addr, dev: IfIndex) -> u32 {
        self.get(a, dev).map_or(DEFAULT, |l| l.label)
    }

    /// `__ip6addrlbl_add`.
    ///
    /// # Errors
    /// `EEXIST` unless `replace`, `EINVAL` for a mapped prefix beyond 96 bits, `ENOMEM`.
    pub fn add(&mut self, mut new: AddrLabel, replace: bool) -> Result<(), Errno> {
        if new.len > 96 && new.prefix.to_ipv4_mapped().is_some() {
            return Err(Errno::EINVAL);
        }
        new.prefix = masked(new.prefix, new.len);
        for (i, l) in self.list.iter_mut().enumerate() {
            if (l.len, l.dev, l.prefix) == (new.len, new.dev, new.prefix) {
                if !replace {
                    return Err(Errno::EEXIST);
                }
                *l = new;
                self.seq = self.seq.wrapping_add(1);
                return Ok(());
            }
            if l.len < new.len || (l.len == new.len && l.dev.is_none()) {
                return self.insert(i, new);
            }
        }
        self.insert(self.list.len(), new)
    }

    fn insert(&mut self, at: usize, new: AddrLabel) -> Result<(), Errno> {
        if self.list.len() >= LIMIT {
            return Err(Errno::ENOMEM);
        }
        self.list.insert(at, new);
        self.seq = self.seq.wrapping_add(1);
        Ok(())
    }

    /// `ip6addrlbl_del`: whatever its label is.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn del(&mut self, prefix: Ipv6Addr, len: u8, dev: IfIndex) -> Result<(), Errno> {
        let key = (len, dev, masked(prefix, len));
        let at = self.list.iter().position(|l| (l.len, l.dev, l.prefix) == key).ok_or(Errno::ESRCH)?;
        self.list.remove(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Ipv6Addr {
        s.parse().expect("an address")
    }

    #[test]
    fn labels_of_the_initial_table() {
        let t = AddrLabels::default();
        let cases = [
            ("::1", 0),
            ("fe80::1", 1),
            ("fec0::1", 11),
            ("fd00::1", 5),
            ("2001:db8::1", 1),
            ("2001::1", 6),
            ("2001:10::1", 7),
            ("2002::1", 2),
            ("::10.0.0.1", 3),
            ("::ffff:10.0.0.1", 4),
            ("ff05::2", 1),
        ];
        for (s, label) in cases {
            assert_eq!(t.label(a(s), IfIndex::LO), label, "{s}");
        }
    }

    #[test]
    fn entries_of_a_device_and_longer_prefixes_come_first() {
        let mut t = AddrLabels::default();
        let new = |s, len, dev, label| AddrLabel { prefix: a(s), len, dev: IfIndex(dev), label };
        t.add(new("2001:db8::5", 32, 0, 99), false).expect("new");
        assert_eq!(t.add(new("2001:db8::6", 32, 0, 98), false), Err(Errno::EEXIST));
        t.add(new("2001:db8::", 32, 7, 97), false).expect("of a device");
        assert_eq!(t.label(a("2001:db8::1"), IfIndex(7)), 97);
        assert_eq!(t.label(a("2001:db8::1"), IfIndex(8)), 99);
        assert_eq!(t.del(a("2001:db8::"), 32, IfIndex(3)), Err(Errno::ESRCH));
        t.del(a("2001:db8::"), 32, IfIndex::NONE).expect("there");
        t.del(a("::"), 0, IfIndex::NONE).expect("there");
        assert_eq!(t.label(a("2001:db8::1"), IfIndex(8)), DEFAULT);
    }
}
