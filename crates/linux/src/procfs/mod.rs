//! `/proc/net` and `/proc/sys/net`, rendered as Linux 6.18 prints them.
//!
//! Paths are relative to `/proc`: `net/tcp`, `net/dev_snmp6/eth0`, `sys/net/ipv4/ip_forward`.

mod addr;
mod datagram;
mod dev;
mod fib_trie;
mod fixed;
mod route;
mod snmp;
mod sockstat;
mod tcp;
#[cfg(test)]
mod tests;

use ferronet_core::{Errno, NsId};
use ferronet_stack::Namespace;
use ferronet_stack::sysctl::Node;

use crate::kernel::{Caller, Caps, Kernel};

/// What `stat(2)` says about a file below `/proc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcStat {
    /// A directory.
    pub dir: bool,
    /// Permission bits; owner and group are root.
    pub mode: u16,
}

/// Renders one file.
type Render = fn(&Kernel, &Namespace) -> Vec<u8>;

/// The files of `/proc/net`, sorted by name.
const FILES: &[(&str, Render)] = &[
    ("anycast6", fixed::anycast6),
    ("arp", addr::arp),
    ("dev", dev::dev),
    ("dev_mcast", dev::dev_mcast),
    ("fib_trie", fib_trie::fib_trie),
    ("fib_triestat", fib_trie::fib_triestat),
    ("icmp", datagram::icmp),
    ("icmp6", datagram::icmp6),
    ("if_inet6", addr::if_inet6),
    ("igmp", addr::igmp),
    ("igmp6", addr::igmp6),
    ("ip6_flowlabel", fixed::ip6_flowlabel),
    ("ip6_mr_cache", fixed::ip6_mr_cache),
    ("ip6_mr_vif", fixed::ip6_mr_vif),
    ("ip_mr_cache", fixed::ip_mr_cache),
    ("ip_mr_vif", fixed::ip_mr_vif),
    ("ipv6_route", route::ipv6_route),
    ("mcfilter", addr::mcfilter),
    ("mcfilter6", addr::mcfilter6),
    ("netstat", snmp::netstat),
    ("packet", datagram::packet),
    ("protocols", sockstat::protocols),
    ("psched", fixed::psched),
    ("ptype", fixed::ptype),
    ("raw", datagram::raw),
    ("raw6", datagram::raw6),
    ("route", route::route),
    ("rt6_stats", route::rt6_stats),
    ("rt_acct", fixed::rt_acct),
    ("rt_cache", fixed::rt_cache),
    ("snmp", snmp::snmp),
    ("snmp6", snmp::snmp6),
    ("sockstat", sockstat::sockstat),
    ("sockstat6", sockstat::sockstat6),
    ("softnet_stat", dev::softnet_stat),
    ("tcp", tcp::tcp),
    ("tcp6", tcp::tcp6),
    ("udp", datagram::udp),
    ("udp6", datagram::udp6),
    ("udplite", datagram::udplite),
    ("udplite6", datagram::udplite6),
    ("unix", fixed::unix),
    ("xfrm_stat", snmp::xfrm_stat),
];

/// A path below `/proc/net`.
enum NetPath<'a> {
    Root,
    File(Render),
    DevSnmp6,
    DevSnmp6Of(&'a str),
    StatDir,
    StatRtCache,
}

fn net_path<'a>(ns: &Namespace, path: &'a str) -> Option<NetPath<'a>> {
    match path {
        "" => Some(NetPath::Root),
        "dev_snmp6" => Some(NetPath::DevSnmp6),
        "stat" => Some(NetPath::StatDir),
        "stat/rt_cache" => Some(NetPath::StatRtCache),
        _ => match path.strip_prefix("dev_snmp6/") {
            Some(dev) => ns.devs.iter().any(|d| d.name == dev).then_some(NetPath::DevSnmp6Of(dev)),
            None => {
                let i = FILES.binary_search_by_key(&path, |f| f.0).ok()?;
                FILES.get(i).map(|f| NetPath::File(f.1))
            }
        },
    }
}

/// Splits off what is ours: `Ok` below `/proc/net`, `Err` below `/proc/sys/net`.
fn split(path: &str) -> Option<Result<&str, &str>> {
    let path = path.trim_matches('/');
    let below = |dir: &str| match path.strip_prefix(dir)? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    };
    below("net").map(Ok).or_else(|| below("sys/net").map(Err))
}

impl Kernel {
    /// Opens and reads a file below `/proc`: its whole text.
    ///
    /// # Errors
    /// `ENOENT`: not ours or no such file; `EISDIR`; `EACCES` when `c` may not read it; `EIO` for an IPv6 stable
    /// secret that is not set.
    pub fn proc_open(&mut self, c: &mut Caller<'_>, path: &str) -> Result<Vec<u8>, Errno> {
        self.world.touch(c.ns);
        let ns = self.world.ns(c.ns).ok_or(Errno::ENOENT)?;
        match split(path).ok_or(Errno::ENOENT)? {
            Ok(net) => match net_path(ns, net).ok_or(Errno::ENOENT)? {
                NetPath::Root | NetPath::DevSnmp6 | NetPath::StatDir => Err(Errno::EISDIR),
                NetPath::File(render) => Ok(render(self, ns)),
                NetPath::DevSnmp6Of(dev) => Ok(snmp::dev_snmp6(ns, dev)),
                NetPath::StatRtCache => Ok(fixed::stat_rt_cache(self, ns)),
            },
            Err(sys) => {
                let node = ns.sysctl_node(sys).ok_or(Errno::ENOENT)?;
                let mode = ns.sysctl_mode(node);
                if node != Node::Dir && mode & (if owns_sysctls(c) { 0o400 } else { 0o004 }) == 0 {
                    return Err(Errno::EACCES);
                }
                ns.sysctl_read(node).map(String::into_bytes)
            }
        }
    }

    /// The text of a file below `/proc` (`net/tcp`, `sys/net/ipv4/ip_forward`); `None`: not ours, or an error
    /// that [`Kernel::proc_open`] names.
    pub fn proc_read(&mut self, c: &mut Caller<'_>, path: &str) -> Option<Vec<u8>> {
        self.proc_open(c, path).ok()
    }

    /// What `path` is; `None`: not ours or no such file.
    #[must_use]
    pub fn proc_stat(&self, ns: NsId, path: &str) -> Option<ProcStat> {
        let ns = self.world.ns(ns)?;
        match split(path)? {
            Ok(net) => Some(match net_path(ns, net)? {
                NetPath::Root | NetPath::DevSnmp6 | NetPath::StatDir => ProcStat { dir: true, mode: 0o555 },
                NetPath::File(_) | NetPath::DevSnmp6Of(_) | NetPath::StatRtCache => {
                    ProcStat { dir: false, mode: 0o444 }
                }
            }),
            Err(sys) => {
                let node = ns.sysctl_node(sys)?;
                Some(ProcStat { dir: node == Node::Dir, mode: ns.sysctl_mode(node) })
            }
        }
    }

    /// The entries of a directory, sorted: name, is it a directory. `None`: not ours or not a directory.
    pub fn proc_list(&mut self, ns: NsId, path: &str) -> Option<Vec<(String, bool)>> {
        let ns = self.world.ns(ns)?;
        match split(path)? {
            Ok(net) => match net_path(ns, net)? {
                NetPath::Root => {
                    let files = FILES.iter().map(|f| (f.0.to_owned(), false));
                    let dirs = ["dev_snmp6", "stat"].map(|d| (d.to_owned(), true));
                    let mut all: Vec<_> = files.chain(dirs).collect();
                    all.sort();
                    Some(all)
                }
                NetPath::DevSnmp6 => Some(ns.devs.iter().map(|d| (d.name.clone(), false)).collect()),
                NetPath::StatDir => Some(vec![("rt_cache".to_owned(), false)]),
                NetPath::File(_) | NetPath::DevSnmp6Of(_) | NetPath::StatRtCache => None,
            },
            Err(sys) => ns.sysctl_list(sys),
        }
    }

    /// A write at the start of a file below `/proc/sys/net`, all of it. (The kernel ignores writes further on,
    /// `sysctl_writes_strict`; the host does not hand them down.)
    ///
    /// # Errors
    /// `ENOENT` for an unknown file; `EACCES` for a read-only one or when `c` is not root; `EISDIR`; `EINVAL`
    /// for a bad value.
    pub fn proc_write(&mut self, c: &mut Caller<'_>, path: &str, data: &[u8]) -> Result<usize, Errno> {
        match split(path).ok_or(Errno::ENOENT)? {
            Ok(net) => {
                let ns = self.world.ns(c.ns).ok_or(Errno::ENOENT)?;
                match net_path(ns, net).ok_or(Errno::ENOENT)? {
                    NetPath::Root | NetPath::DevSnmp6 | NetPath::StatDir => Err(Errno::EISDIR),
                    // Root may open a 0444 file for writing; there is no write method (proc_reg_write).
                    NetPath::File(_) | NetPath::DevSnmp6Of(_) | NetPath::StatRtCache if c.uid == 0 => {
                        Err(Errno::EIO)
                    }
                    NetPath::File(_) | NetPath::DevSnmp6Of(_) | NetPath::StatRtCache => Err(Errno::EACCES),
                }
            }
            Err(sys) => {
                let ns = self.world.ns(c.ns).ok_or(Errno::ENOENT)?;
                let node = ns.sysctl_node(sys).ok_or(Errno::ENOENT)?;
                if node != Node::Dir && !owns_sysctls(c) {
                    return Err(Errno::EACCES);
                }
                self.world.sysctl_write(c.ns, sys, data)?;
                Ok(data.len())
            }
        }
    }
}

/// `net_ctl_permissions`: whom the owner's bits of a file are for.
fn owns_sysctls(c: &Caller<'_>) -> bool {
    c.uid == 0 || c.capable(Caps::NET_ADMIN)
}

/// What `ferronet sysctl --explain` says about one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explain {
    /// The present value, without the newline.
    pub value: String,
    /// The value of a fresh namespace.
    pub default: String,
    /// What may be written, in words.
    pub range: String,
    /// Something reads it.
    pub effective: bool,
    /// One line: what it does.
    pub doc: &'static str,
}

impl Kernel {
    /// Explains a tunable by its path below `/proc/sys/net` (`ipv4/ip_forward`, `ipv4/conf/eth0/rp_filter`).
    #[must_use]
    pub fn sysctl_explain(&self, ns: NsId, path: &str) -> Option<Explain> {
        use ferronet_core::sysctl::{Conf4, Conf6, NeighParm, Tunable, effective, text};
        let ns = self.world.ns(ns)?;
        let node = ns.sysctl_node(path)?;
        let t = node.tunable()?;
        let named = |prefix: &str, names: &[&str], i: usize| {
            format!("{prefix}.DEV.{}", names.get(i).copied().unwrap_or_default())
        };
        let of = |kinds: &[ferronet_core::sysctl::Kind], i: usize| {
            kinds.get(i).map(|k| k.range()).unwrap_or_default()
        };
        let (name, default, range) = match t {
            Tunable::Net(s) => {
                let d = s.def();
                (format!("net.{}", d.path.replace('/', ".")), d.default_text(), d.kind.range())
            }
            Tunable::Conf4(c) => (
                named("net.ipv4.conf", Conf4::NAMES, c as usize),
                Conf4::DEFAULTS.get(c as usize)?.to_string(),
                of(Conf4::KINDS, c as usize),
            ),
            Tunable::Conf6(c) => (
                named("net.ipv6.conf", Conf6::NAMES, c as usize),
                Conf6::DEFAULTS.get(c as usize)?.to_string(),
                of(Conf6::KINDS, c as usize),
            ),
            Tunable::Neigh(c) => (
                named("net.ipv4.neigh", NeighParm::NAMES, c as usize),
                NeighParm::DEFAULTS.get(c as usize)?.to_string(),
                of(NeighParm::KINDS, c as usize),
            ),
        };
        let value = ns.sysctl_read(node).unwrap_or_default().trim_end().to_owned();
        Some(Explain { value, default, range, effective: effective(t), doc: text::meaning(&name) })
    }
}
