//! `ioctl(2)`: queue lengths and timestamps of a socket, and the interface requests of netdevice(7)
//! (`net/core/dev_ioctl.c`, `devinet_ioctl`).

use core::net::{IpAddr, Ipv4Addr};

use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_stack::dev::{Device, IfAddr, addr_ops, ifa_f, iff};
use ferronet_stack::sock::Proto;
use ferronet_stack::{Namespace, tcp};
use ferronet_wire::MacAddr;

use super::addr;
use crate::kernel::{Caller, Caps, Kernel, SockId, af};
use crate::uapi::sockios::*;

/// Bytes of `struct ifreq`, and where its union begins.
const IFREQ: usize = 40;
const UNION: usize = 16;

/// The last of the 16 requests that belong to a driver.
const SIOCDEVPRIVATE_LAST: u32 = SIOCDEVPRIVATE + 15;

/// A `struct ifreq`, in and out.
struct Ifreq([u8; IFREQ]);

impl Ifreq {
    fn parse(arg: &[u8]) -> Result<Ifreq, Errno> {
        let mut b: [u8; IFREQ] = arg.first_chunk().copied().ok_or(Errno::EFAULT)?;
        // The kernel ends the name itself.
        b[15] = 0;
        Ok(Ifreq(b))
    }
    /// The name as given, such as `eth0:1`.
    fn label(&self) -> &str {
        let name = self.0.split(|b| *b == 0).next().unwrap_or(&[]);
        core::str::from_utf8(name).unwrap_or("")
    }
    /// The device's part of it.
    fn device<'a>(&self, ns: &'a Namespace) -> Result<&'a Device, Errno> {
        let name = self.label().split(':').next().unwrap_or("");
        ns.devs.by_name(name).ok_or(Errno::ENODEV)
    }
    fn int(&self) -> i32 {
        let mut b = [0; 4];
        b.copy_from_slice(&self.0[UNION..UNION + 4]);
        i32::from_ne_bytes(b)
    }
    fn flags(&self) -> u32 {
        u32::from(u16::from_ne_bytes([self.0[UNION], self.0[UNION + 1]]))
    }
    fn family(&self) -> i32 {
        self.flags() as i32
    }
    fn addr4(&self) -> Ipv4Addr {
        let a = &self.0[UNION + 4..UNION + 8];
        Ipv4Addr::new(a[0], a[1], a[2], a[3])
    }
    /// With another union.
    fn with(mut self, b: &[u8]) -> Vec<u8> {
        let n = b.len().min(IFREQ - UNION);
        self.0[UNION..UNION + n].copy_from_slice(&b[..n]);
        self.0.to_vec()
    }
    fn with_int(self, v: i32) -> Vec<u8> {
        self.with(&v.to_ne_bytes())
    }
    fn with_addr(self, a: Ipv4Addr) -> Vec<u8> {
        self.with(&addr::print(af::INET, IpAddr::V4(a), 0, IfIndex::NONE))
    }
}

fn mask_of(len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0))
}

/// Prefix length of a mask; `None` when it has holes (`bad_mask`).
fn len_of(mask: Ipv4Addr) -> Option<u8> {
    let m = mask.to_bits();
    (m.leading_ones() + m.trailing_zeros() >= 32).then_some(m.leading_ones() as u8)
}

/// The prefix an address had by its class (`inet_abc_len`).
fn class_len(a: Ipv4Addr) -> Option<u8> {
    Some(match a.octets()[0] {
        0 => 0,
        1..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        224..=239 => return None,
        240..=255 => 32,
    })
}

/// The IPv4 address a request means: the one with this label, else the first of the device.
fn find_addr<'a>(d: &'a Device, r: &Ifreq) -> Option<&'a IfAddr> {
    let v4 = || d.addrs.iter().filter(|a| a.local.is_ipv4());
    v4().find(|a| a.label == r.label()).or_else(|| v4().next().filter(|_| d.name == r.label()))
}

fn v4(a: IpAddr) -> Ipv4Addr {
    match a {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

impl Kernel {
    /// `ioctl(2)` of a socket or, without one, of a device (`SIOCGIF*` on any socket). `arg` has
    /// [`Kernel::ioctl_arg_len`] bytes; returns the bytes to write back. `SIOCGIFCONF` takes the size of the program's
    /// buffer as an int and returns the array of `struct ifreq` that goes into it.
    ///
    /// # Errors
    /// `ENOTTY` for an unknown command, `ENODEV`, `EPERM`.
    pub fn ioctl(
        &mut self,
        c: &mut Caller<'_>,
        s: Option<SockId>,
        cmd: u32,
        arg: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        if let Some(s) = s
            && let Some(r) = self.sock_ioctl(s, cmd)
        {
            return r;
        }
        let ns_id = match s {
            Some(s) => self.files.get(s).ok_or(Errno::EBADF)?.ns,
            None => c.ns,
        };
        match cmd {
            SIOCGIFCONF => {
                let room = arg.first_chunk().map(|b| i32::from_ne_bytes(*b)).ok_or(Errno::EFAULT)?;
                let ns = self.world.ns(ns_id).ok_or(Errno::ENXIO)?;
                Ok(ifconf(ns, usize::try_from(room).map_err(|_| Errno::EINVAL)?))
            }
            SIOCGIFNAME => {
                let mut r = Ifreq::parse(arg)?;
                let ns = self.world.ns(ns_id).ok_or(Errno::ENXIO)?;
                let d = ns.devs.get(IfIndex(r.int() as u32)).ok_or(Errno::ENODEV)?;
                r.0[..UNION].fill(0);
                r.0[..d.name.len().min(15)].copy_from_slice(&d.name.as_bytes()[..d.name.len().min(15)]);
                Ok(r.0.to_vec())
            }
            // The request is behind a pointer, which the edge has followed: struct ethtool_value comes behind the ifreq.
            SIOCETHTOOL => {
                const ETHTOOL_GLINK: u32 = 10;
                let r = Ifreq::parse(arg)?;
                let ns = self.world.ns(ns_id).ok_or(Errno::ENXIO)?;
                let d = r.device(ns)?;
                let value = arg.get(IFREQ..IFREQ + 8).ok_or(Errno::EFAULT)?;
                if value.first_chunk() != Some(&ETHTOOL_GLINK.to_ne_bytes()) {
                    return Err(Errno::EOPNOTSUPP);
                }
                let link = u32::from(d.is_up() && d.carrier);
                Ok([ETHTOOL_GLINK.to_ne_bytes(), link.to_ne_bytes()].concat())
            }
            SIOCGIFFLAGS..=SIOCSIFTXQLEN | SIOCGIFMAP if is_get(cmd) => {
                let r = Ifreq::parse(arg)?;
                let ns = self.world.ns(ns_id).ok_or(Errno::ENXIO)?;
                get(ns, cmd, r)
            }
            SIOCSIFFLAGS..=SIOCSIFTXQLEN => {
                let r = Ifreq::parse(arg)?;
                if !c.capable(Caps::NET_ADMIN) {
                    return Err(Errno::EPERM);
                }
                self.set_ifreq(ns_id, cmd, &r)?;
                Ok(r.0.to_vec())
            }
            // Routes, ARP entries, bridges and tunnels are managed over netlink; wireless there is none.
            SIOCADDRT
            | SIOCDELRT
            | SIOCGMIIPHY..=SIOCWANDEV
            | SIOCDARP..=SIOCSARP
            | SIOCADDDLCI..=SIOCDEVPRIVATE_LAST
            | SIOCIWFIRST..=SIOCIWLAST => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// Bytes behind the argument of an ioctl (`struct ifreq`: 40; an int: 4).
    #[must_use]
    pub fn ioctl_arg_len(cmd: u32) -> usize {
        match cmd {
            SIOCGIFCONF | SIOCOUTQNSD | FIOSETOWN..=SIOCGSTAMPNS_OLD => 4,
            _ if cmd >> 8 == 0x89 || cmd >> 8 == 0x8b => IFREQ,
            _ => 4,
        }
    }

    /// Requests about the socket itself; `None` for others.
    fn sock_ioctl(&mut self, s: SockId, cmd: u32) -> Option<Result<Vec<u8>, Errno>> {
        let int = |v: u32| Some(Ok((v as i32).to_ne_bytes().to_vec()));
        // Netlink sockets have only the interface requests.
        let Ok((ns, key)) = self.inet_ref(s) else { return None };
        let x = ns.socks.socks.get(key)?;
        match (cmd, &x.proto) {
            (SIOCINQ, Proto::Tcp(t)) if t.is_listening() => Some(Err(Errno::EINVAL)),
            (SIOCINQ, Proto::Tcp(_)) => int(tcp::user::inq_outq(ns, key).0),
            (SIOCINQ, _) => int(x.proto.rx().and_then(|q| q.front()).map_or(0, |p| p.len() as u32)),
            (SIOCOUTQ | SIOCOUTQNSD, Proto::Tcp(t)) if t.is_listening() => Some(Err(Errno::EINVAL)),
            (SIOCOUTQ, Proto::Tcp(_)) => int(tcp::user::inq_outq(ns, key).1),
            (SIOCOUTQNSD, Proto::Tcp(_)) => int(tcp::opts::notsent(ns, key)),
            // What a message socket sends is with the device at once.
            (SIOCOUTQ, _) => int(0),
            (SIOCATMARK, Proto::Tcp(_)) => int(u32::from(tcp::user::at_mark(ns, key))),
            // The time of the last message; NEW has 64 bits on every machine.
            (SIOCGSTAMP_OLD | SIOCGSTAMPNS_OLD | SIOCGSTAMP_NEW | SIOCGSTAMPNS_NEW, _) => {
                let stamp = x.common.opts.as_ref().map_or(0, |o| o.stamp);
                if stamp == 0 {
                    if let Ok(c) = self.inet(s).and_then(|(ns, key)| ns.socks.common_mut(key)) {
                        // From now on the arrival of messages is remembered.
                        c.rare();
                    }
                    return Some(Err(Errno::ENOENT));
                }
                let unit = if matches!(cmd, SIOCGSTAMP_OLD | SIOCGSTAMP_NEW) { 1000 } else { 1 };
                let mut v = (stamp / 1_000_000_000).to_ne_bytes().to_vec();
                v.extend_from_slice(&(stamp % 1_000_000_000 / unit).to_ne_bytes());
                Some(Ok(v))
            }
            // FIOGETOWN, SIOCGPGRP: nobody gets signals; the edge sees to those itself.
            (FIOGETOWN | SIOCGPGRP, _) => int(0),
            (FIOSETOWN | SIOCSPGRP, _) => Some(Ok(Vec::new())),
            _ => None,
        }
    }

    /// The requests that change a device.
    fn set_ifreq(&mut self, id: NsId, cmd: u32, r: &Ifreq) -> Result<(), Errno> {
        let ns = self.world.ns(id).ok_or(Errno::ENXIO)?;
        let d = r.device(ns)?;
        let dev = d.index;
        match cmd {
            SIOCSIFFLAGS => self.world.dev_change_flags(id, dev, r.flags()),
            SIOCSIFADDR | SIOCSIFDSTADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK => self.set_addr(id, dev, cmd, r),
            SIOCSIFMTU => {
                self.world.link_set_mtu(id, dev, u32::try_from(r.int()).map_err(|_| Errno::EINVAL)?)
            }
            SIOCSIFNAME => {
                let name = r.0[UNION..UNION + 16].split(|b| *b == 0).next().unwrap_or(&[]);
                let name = core::str::from_utf8(name).map_err(|_| Errno::EINVAL)?.to_owned();
                self.world.link_set_name(id, dev, &name)
            }
            SIOCSIFHWADDR => {
                let mac = MacAddr::from_slice(&r.0[UNION + 2..UNION + 8]).ok_or(Errno::EINVAL)?;
                self.world.link_set_address(id, dev, mac)
            }
            SIOCSIFTXQLEN => {
                let n = u32::try_from(r.int()).map_err(|_| Errno::EINVAL)?;
                self.world.dev_change_tx_queue_len(id, dev, n)
            }
            // Metrics other than 0 are not supported; mappings and slaves neither.
            SIOCSIFMETRIC if r.int() == 0 => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// `SIOCSIFADDR`, `-DSTADDR`, `-BRDADDR`, `-NETMASK`: the address goes and comes back changed (`devinet_ioctl`).
    fn set_addr(&mut self, id: NsId, dev: IfIndex, cmd: u32, r: &Ifreq) -> Result<(), Errno> {
        if r.family() != af::INET {
            return Err(Errno::EINVAL);
        }
        let ns = self.world.ns_mut(id).ok_or(Errno::ENXIO)?;
        let d = ns.devs.get(dev).ok_or(Errno::ENODEV)?;
        let a = r.addr4();
        let old = find_addr(d, r).cloned();
        let label = r.label().to_owned();
        let mut new = match (&old, cmd) {
            (None, SIOCSIFADDR) => IfAddr { label, ..IfAddr::new(IpAddr::V4(a), 32) },
            (None, _) => return Err(Errno::EADDRNOTAVAIL),
            (Some(o), _) => o.clone(),
        };
        match cmd {
            SIOCSIFADDR => {
                if a.is_unspecified() {
                    return old
                        .map_or(Ok(()), |o| addr_ops::inet_del_ifa(ns, dev, o.local, Some(o.prefix_len)));
                }
                new.local = IpAddr::V4(a);
                new.peer = new.local;
                new.prefix_len = class_len(a).ok_or(Errno::EINVAL)?;
                new.broadcast = (d.flags & iff::BROADCAST != 0 && new.prefix_len < 31)
                    .then(|| Ipv4Addr::from_bits(a.to_bits() | !mask_of(new.prefix_len).to_bits()));
            }
            SIOCSIFDSTADDR => new.peer = IpAddr::V4(a),
            SIOCSIFBRDADDR => new.broadcast = Some(a),
            _ => {
                new.prefix_len = len_of(a).ok_or(Errno::EINVAL)?;
                if let (Some(_), true) = (new.broadcast, new.prefix_len < 31) {
                    let l = v4(new.local).to_bits() | !mask_of(new.prefix_len).to_bits();
                    new.broadcast = Some(Ipv4Addr::from_bits(l));
                }
            }
        }
        if let Some(o) = old {
            addr_ops::inet_del_ifa(ns, dev, o.local, Some(o.prefix_len))?;
        }
        new.flags |= ifa_f::PERMANENT;
        addr_ops::inet_insert_ifa(ns, dev, new)
    }
}

fn is_get(cmd: u32) -> bool {
    matches!(
        cmd,
        SIOCGIFFLAGS
            | SIOCGIFADDR
            | SIOCGIFDSTADDR
            | SIOCGIFBRDADDR
            | SIOCGIFNETMASK
            | SIOCGIFMETRIC
            | SIOCGIFMTU
            | SIOCGIFHWADDR
            | SIOCGIFINDEX
            | SIOCGIFTXQLEN
            | SIOCGIFMAP
    )
}

/// The requests that only look.
fn get(ns: &Namespace, cmd: u32, r: Ifreq) -> Result<Vec<u8>, Errno> {
    let d = r.device(ns)?;
    let address = || find_addr(d, &r).ok_or(Errno::EADDRNOTAVAIL);
    Ok(match cmd {
        SIOCGIFFLAGS => {
            let f = d.dev_flags() as u16;
            r.with(&f.to_ne_bytes())
        }
        SIOCGIFADDR => {
            let a = v4(address()?.local);
            r.with_addr(a)
        }
        SIOCGIFDSTADDR => {
            let a = v4(address()?.peer);
            r.with_addr(a)
        }
        SIOCGIFBRDADDR => {
            let a = address()?.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED);
            r.with_addr(a)
        }
        SIOCGIFNETMASK => {
            let a = mask_of(address()?.prefix_len);
            r.with_addr(a)
        }
        SIOCGIFMETRIC => r.with_int(0),
        SIOCGIFMTU => r.with_int(d.mtu as i32),
        SIOCGIFHWADDR => {
            let mut b = [0; 16];
            b[..2].copy_from_slice(&super::message::hatype(ns, d.index).to_ne_bytes());
            b[2..8].copy_from_slice(&d.mac.octets());
            r.with(&b)
        }
        SIOCGIFINDEX => r.with_int(d.index.0 as i32),
        SIOCGIFTXQLEN => r.with_int(d.tx_queue_len as i32),
        _ => r.with(&[0; 24]),
    })
}

/// `SIOCGIFCONF`: an entry for each IPv4 address, as many as fit (`inet_gifconf`).
fn ifconf(ns: &Namespace, room: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for a in ns.devs.iter().flat_map(|d| &d.addrs).filter(|a| a.local.is_ipv4()) {
        if out.len() + IFREQ > room {
            break;
        }
        let mut r = Ifreq([0; IFREQ]);
        let n = a.label.len().min(15);
        r.0[..n].copy_from_slice(&a.label.as_bytes()[..n]);
        out.extend(r.with_addr(v4(a.local)));
    }
    out
}
