//! `/proc/sys/net` of a namespace: which files there are, what they say, and what a write does
//! (`net/ipv4/devinet.c`, `net/ipv6/addrconf.c`, `net/core/neighbour.c`; values and ranges are tables in `core`).

mod effects;
pub use effects::inet_forward_change;
pub(crate) use effects::inherit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ferronet_core::sysctl::{Access, Conf4, Conf6, Kind, NeighParm, NeighParms, Tunable, scalar};
use ferronet_core::{Errno, IfIndex, NsId, Sysctl};

use crate::fib::Family;
use crate::ns::Namespace;
use crate::world::World;

/// Jiffies per second of the kernel we look like: the unit of `net.ipv6.neigh.DEV.retrans_time`.
const HZ: i64 = 250;
/// `SKB_TRUESIZE(ETH_FRAME_LEN)`: what `unres_qlen` counts a packet as, in bytes.
const ETH_TRUESIZE: i64 = 2090;

/// A row of the per-device tunables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// `all`.
    All,
    /// `default`.
    Default,
    /// A device.
    Dev(IfIndex),
}

/// A file under `neigh/DEV`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighFile {
    /// A parameter as it is kept.
    Parm(NeighParm),
    /// `base_reachable_time`: the parameter in seconds.
    BaseReachableTime,
    /// `retrans_time`: ticks of 10 ms (IPv4) or jiffies (IPv6).
    RetransTime,
}

/// What a path below `/proc/sys/net` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory.
    Dir,
    /// A tunable of the namespace.
    Net(Sysctl),
    /// `ipv4/conf`.
    Conf4(Row, Conf4),
    /// `ipv6/conf`.
    Conf6(Row, Conf6),
    /// `ipv6/conf/*/stable_secret`.
    StableSecret(Row),
    /// `ipv4/neigh`, `ipv6/neigh`.
    Neigh(Family, Row, NeighFile),
}

impl Node {
    /// The tunable behind it, for documentation.
    #[must_use]
    pub fn tunable(self) -> Option<Tunable> {
        match self {
            Node::Dir | Node::StableSecret(_) => None,
            Node::Net(s) => Some(Tunable::Net(s)),
            Node::Conf4(_, c) => Some(Tunable::Conf4(c)),
            Node::Conf6(_, c) => Some(Tunable::Conf6(c)),
            Node::Neigh(_, _, f) => Some(Tunable::Neigh(f.parm())),
        }
    }
}

impl NeighFile {
    fn by_name(name: &str) -> Option<NeighFile> {
        match name {
            "base_reachable_time" => Some(NeighFile::BaseReachableTime),
            "retrans_time" => Some(NeighFile::RetransTime),
            _ => NeighParm::by_name(name).map(NeighFile::Parm),
        }
    }
    /// The parameter it shows.
    #[must_use]
    pub fn parm(self) -> NeighParm {
        match self {
            NeighFile::Parm(p) => p,
            NeighFile::BaseReachableTime => NeighParm::BaseReachableTimeMs,
            NeighFile::RetransTime => NeighParm::RetransTimeMs,
        }
    }
    fn kind(self, f: Family) -> Kind {
        match (self, f) {
            (NeighFile::Parm(p), _) => NeighParm::KINDS[p as usize],
            (NeighFile::BaseReachableTime, _) => NeighParm::KINDS[NeighParm::GcStaleTime as usize],
            (NeighFile::RetransTime, Family::V4) => Kind::Clock,
            (NeighFile::RetransTime, Family::V6) => Kind::Int(i64::from(i32::MIN), i64::from(i32::MAX)),
        }
    }
    /// Milliseconds per unit, where it is another view of a parameter in milliseconds.
    fn unit_ms(self, f: Family) -> Option<i64> {
        match (self, f) {
            (NeighFile::Parm(_), _) => None,
            (NeighFile::BaseReachableTime, _) => Some(1000),
            (NeighFile::RetransTime, Family::V4) => Some(10),
            (NeighFile::RetransTime, Family::V6) => Some(1000 / HZ),
        }
    }
}

impl Namespace {
    /// What `path` (below `/proc/sys/net`, without a leading slash) is; `None` when there is no such file.
    #[must_use]
    pub fn sysctl_node(&self, path: &str) -> Option<Node> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match parts.as_slice() {
            [] => Some(Node::Dir),
            ["ipv4" | "ipv6", "conf"] => Some(Node::Dir),
            [v @ ("ipv4" | "ipv6"), "conf", row, rest @ ..] => {
                let row = self.row(row)?;
                match (*v, rest) {
                    (_, []) => Some(Node::Dir),
                    ("ipv4", [file]) => Some(Node::Conf4(row, Conf4::by_name(file)?)),
                    (_, ["stable_secret"]) => Some(Node::StableSecret(row)),
                    (_, [file]) => Some(Node::Conf6(row, Conf6::by_name(file)?)),
                    _ => None,
                }
            }
            [v @ ("ipv4" | "ipv6"), "neigh", rest @ ..] => {
                let family = if *v == "ipv4" { Family::V4 } else { Family::V6 };
                let row = match rest.first() {
                    None => return Some(Node::Dir),
                    Some(r) => self.row(r).filter(|r| *r != Row::All)?,
                };
                if row == Row::Default && !self.init {
                    return None;
                }
                match rest.get(1..)? {
                    [] => Some(Node::Dir),
                    [file] => match NeighFile::by_name(file) {
                        Some(f) => Some(Node::Neigh(family, row, f)),
                        None => self.net_node(&parts.join("/")),
                    },
                    _ => None,
                }
            }
            _ => self.net_node(&parts.join("/")),
        }
    }

    /// A file or directory of the table of the namespace.
    fn net_node(&self, path: &str) -> Option<Node> {
        if let Some(s) = Sysctl::by_path(path) {
            return s.def().access.mode(self.init).map(|_| Node::Net(s));
        }
        let below = |d: &&str| d.strip_prefix(path).is_some_and(|r| r.starts_with('/'));
        let visible = Sysctl::DEFS.iter().filter(|d| d.access.mode(self.init).is_some());
        visible.map(|d| d.path).any(|p| below(&p)).then_some(Node::Dir)
    }

    fn row(&self, name: &str) -> Option<Row> {
        match name {
            "all" => Some(Row::All),
            "default" => Some(Row::Default),
            _ => self.devs.iter().find(|d| d.name == name).map(|d| Row::Dev(d.index)),
        }
    }

    /// Mode bits of a file, 0555 for directories.
    #[must_use]
    pub fn sysctl_mode(&self, node: Node) -> u16 {
        match node {
            Node::Dir => 0o555,
            Node::Net(s) => s.def().access.mode(self.init).unwrap_or(0),
            Node::Conf4(_, c) => Conf4::ACCESS[c as usize].mode(true).unwrap_or(0),
            Node::Conf6(_, c) => Conf6::ACCESS[c as usize].mode(true).unwrap_or(0),
            Node::StableSecret(_) => 0o600,
            Node::Neigh(..) => Access::Rw.mode(true).unwrap_or(0),
        }
    }

    /// The entries of a directory, sorted: name, is it a directory. `None` when it is not a directory.
    #[must_use]
    pub fn sysctl_list(&self, path: &str) -> Option<Vec<(String, bool)>> {
        if self.sysctl_node(path)? != Node::Dir {
            return None;
        }
        let path = path.trim_matches('/');
        let mut out: BTreeMap<String, bool> = BTreeMap::new();
        for d in Sysctl::DEFS.iter().filter(|d| d.access.mode(self.init).is_some()) {
            let rest = if path.is_empty() {
                Some(d.path)
            } else {
                d.path.strip_prefix(path).and_then(|r| r.strip_prefix('/'))
            };
            if let Some(rest) = rest {
                let (name, dir) = rest.split_once('/').map_or((rest, false), |(n, _)| (n, true));
                out.insert(name.to_owned(), dir);
            }
        }
        let parts: Vec<&str> = path.split('/').collect();
        let devices = self.devs.iter().map(|d| (d.name.clone(), true));
        match parts.as_slice() {
            ["ipv4" | "ipv6"] => out.extend([("conf".to_owned(), true), ("neigh".to_owned(), true)]),
            ["ipv4" | "ipv6", "conf"] => {
                out.extend([("all".to_owned(), true), ("default".to_owned(), true)]);
                out.extend(devices);
            }
            ["ipv4" | "ipv6", "neigh"] => {
                out.extend(self.init.then(|| ("default".to_owned(), true)));
                out.extend(devices);
            }
            ["ipv4", "conf", _] => out.extend(Conf4::NAMES.iter().map(|n| ((*n).to_owned(), false))),
            ["ipv6", "conf", _] => {
                out.extend(Conf6::NAMES.iter().map(|n| ((*n).to_owned(), false)));
                out.insert("stable_secret".to_owned(), false);
            }
            ["ipv4" | "ipv6", "neigh", _] => {
                out.extend(NeighParm::NAMES.iter().map(|n| ((*n).to_owned(), false)));
                out.extend(["base_reachable_time", "retrans_time"].map(|n| (n.to_owned(), false)));
            }
            _ => {}
        }
        Some(out.into_iter().collect())
    }

    /// What a read of the file returns, with the newline.
    ///
    /// # Errors
    /// `EISDIR`; `EIO` for a stable secret that is not set; `EACCES` for an action.
    pub fn sysctl_read(&self, node: Node) -> Result<String, Errno> {
        let int = |kind: Kind, v: i32| match kind {
            // Unsigned tunables beyond i32 are kept as their bits.
            Kind::Uint(..) => format!("{}\n", v as u32),
            Kind::Int(..) | Kind::Ulong(..) | Kind::Ms(_) | Kind::Clock | Kind::Ints(..) | Kind::Text(_) => {
                format!("{v}\n")
            }
        };
        match node {
            Node::Dir => Err(Errno::EISDIR),
            Node::Net(s) if s.def().access == Access::Wo => Err(Errno::EACCES),
            Node::Net(s) => Ok(self.env.sysctl.read(s)),
            Node::Conf4(row, c) => {
                let v = match row {
                    Row::All => self.conf.all4.get(c),
                    Row::Default => self.conf.default4.get(c),
                    Row::Dev(d) => self.devs.get(d).ok_or(Errno::ENOENT)?.conf4.get(c),
                };
                Ok(int(Conf4::KINDS[c as usize], v))
            }
            Node::Conf6(row, c) => {
                let v = match row {
                    Row::All => self.conf.all6.get(c),
                    Row::Default => self.conf.default6.get(c),
                    Row::Dev(d) => self.devs.get(d).ok_or(Errno::ENOENT)?.conf6.get(c),
                };
                Ok(int(Conf6::KINDS[c as usize], v))
            }
            Node::StableSecret(row) => {
                let secret = self.conf.stable_secret.iter().find(|(r, _)| *r == row).ok_or(Errno::EIO)?.1;
                // proc: "%pI6", all eight groups in full.
                let groups: Vec<String> = secret.segments().iter().map(|g| format!("{g:04x}")).collect();
                Ok(format!("{}\n", groups.join(":")))
            }
            Node::Neigh(family, row, f) => {
                let parms = self.neigh_parms(family, row).ok_or(Errno::ENOENT)?;
                let v = i64::from(parms.get(f.parm()));
                let v = match (f, f.unit_ms(family)) {
                    (_, Some(unit)) => v / unit,
                    (NeighFile::Parm(NeighParm::UnresQlen), None) => {
                        i64::from(parms.get(NeighParm::UnresQlenBytes)) / ETH_TRUESIZE
                    }
                    (_, None) => v,
                };
                Ok(format!("{v}\n"))
            }
        }
    }

    fn neigh_parms(&self, family: Family, row: Row) -> Option<&NeighParms> {
        match (row, family) {
            (Row::All, _) => None,
            (Row::Default, Family::V4) => Some(&self.conf.neigh4),
            (Row::Default, Family::V6) => Some(&self.conf.neigh6),
            (Row::Dev(d), Family::V4) => self.devs.get(d).map(|d| &d.neigh4),
            (Row::Dev(d), Family::V6) => self.devs.get(d).map(|d| &d.neigh6),
        }
    }

    /// A write to the file of this path, with all its effects in this namespace. Values that hold for all
    /// namespaces need [`World::sysctl_write`].
    ///
    /// # Errors
    /// `ENOENT` for an unknown file; `EISDIR`; `EACCES` for a read-only one; `EINVAL` for a bad value.
    pub fn sysctl_write(&mut self, path: &str, data: &[u8]) -> Result<(), Errno> {
        let node = self.sysctl_node(path).ok_or(Errno::ENOENT)?;
        if node == Node::Dir {
            return Err(Errno::EISDIR);
        }
        if self.sysctl_mode(node) & 0o200 == 0 {
            return Err(Errno::EACCES);
        }
        if data.is_empty() && !matches!(node, Node::StableSecret(_)) {
            return Ok(());
        }
        match node {
            Node::Dir => Err(Errno::EISDIR),
            Node::Net(s) => self.write_net(s, data),
            Node::Conf4(row, c) => self.write_conf4(row, c, data),
            Node::Conf6(row, c) => self.write_conf6(row, c, data),
            Node::StableSecret(row) => self.write_stable_secret(row, data),
            Node::Neigh(family, row, f) => {
                let v = scalar(f.kind(family), data)?;
                self.write_neigh(family, row, f, v)
            }
        }
    }
}

impl World {
    /// A write to a file of a namespace; what holds for all namespaces reaches all.
    ///
    /// # Errors
    /// As [`Namespace::sysctl_write`]; `ENOENT` for an unknown namespace.
    pub fn sysctl_write(&mut self, ns: NsId, path: &str, data: &[u8]) -> Result<(), Errno> {
        let n = self.ns_mut(ns).ok_or(Errno::ENOENT)?;
        n.sysctl_write(path, data)?;
        match n.sysctl_node(path) {
            Some(Node::Net(s)) if s.def().access.global() => {
                let values = n.env.sysctl.clone();
                for other in self.iter_mut().filter(|o| !o.init) {
                    other.env.sysctl.copy_from(s, &values);
                }
            }
            // neigh/default is the template of new devices everywhere (neigh_parms_alloc).
            Some(Node::Neigh(_, Row::Default, _)) => {
                let (v4, v6) = (n.conf.neigh4.clone(), n.conf.neigh6.clone());
                for other in self.iter_mut().filter(|o| !o.init) {
                    other.conf.neigh4 = v4.clone();
                    other.conf.neigh6 = v6.clone();
                }
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}
