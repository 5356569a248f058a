//! What writes do besides storing a value.

use core::net::Ipv6Addr;

use ferronet_core::sysctl::{Conf4, Conf6, Kind, NeighParm, scalar};
use ferronet_core::{Errno, IfIndex, Sysctl};

use super::{ETH_TRUESIZE, NeighFile, Row};
use crate::dev::Device;
use crate::fib::Family;
use crate::notify::ConfChange;
use crate::ns::Namespace;

/// Tunables of a fresh namespace that follow the initial one: values that hold everywhere, and what the
/// kernel copies (`tcp_sk_init`, `devinet_init_net` with `devconf_inherit_init_net` 0).
pub(crate) fn inherit(ns: &mut Namespace, init: &Namespace) {
    for &s in Sysctl::ALL {
        let copied = matches!(s, Sysctl::TcpCongestionControl | Sysctl::TcpRmem | Sysctl::TcpWmem);
        if copied || s.def().access.global() {
            ns.env.sysctl.copy_from(s, &init.env.sysctl);
        }
    }
    let mode = init.env.sysctl.get(Sysctl::DevconfInheritInitNet);
    if mode != 2 {
        ns.conf.all4 = init.conf.all4.clone();
        ns.conf.default4 = init.conf.default4.clone();
        ns.env.sysctl.set(Sysctl::IpForward, i64::from(ns.conf.all4.get(Conf4::Forwarding)));
        let default = ns.conf.default4.clone();
        if let Some(lo) = ns.devs.get_mut(IfIndex::LO) {
            for c in Conf4::ALL.iter().filter(|c| !matches!(c, Conf4::DisablePolicy | Conf4::DisableXfrm)) {
                lo.conf4.0[*c as usize] = default.get(*c);
            }
        }
    }
    if mode == 1 {
        ns.conf.all6 = init.conf.all6.clone();
        ns.conf.default6 = init.conf.default6.clone();
    }
    ns.conf.neigh4 = init.conf.neigh4.clone();
    ns.conf.neigh6 = init.conf.neigh6.clone();
}

impl Namespace {
    pub(super) fn write_net(&mut self, s: Sysctl, data: &[u8]) -> Result<(), Errno> {
        if s == Sysctl::IpForward {
            return self.write_conf4(Row::All, Conf4::Forwarding, data);
        }
        if s == Sysctl::Ip6RouteFlush {
            // A number is expected (ipv6_sysctl_rtcache_flush).
            scalar(Kind::Int(i64::from(i32::MIN), i64::from(i32::MAX)), data)?;
        }
        self.env.sysctl.write(s, data)?;
        let t = &mut self.env.sysctl;
        match s {
            // rt_cache_flush, fib6_run_gc: whoever cached a route looks it up anew.
            Sysctl::RouteFlush | Sysctl::Ip6RouteFlush => {
                self.inet6.redirects.flush();
                self.fib.rt_cache_flush();
                self.pmtu.flush();
            }
            // Two views of one time.
            Sysctl::Ip6RouteGcMinInterval => {
                t.set(Sysctl::Ip6RouteGcMinIntervalMs, t.get(s).saturating_mul(1000))
            }
            Sysctl::Ip6RouteGcMinIntervalMs => t.set(Sysctl::Ip6RouteGcMinInterval, t.get(s) / 1000),
            Sysctl::RouteGcMinInterval => t.set(Sysctl::RouteGcMinIntervalMs, t.get(s).saturating_mul(1000)),
            Sysctl::RouteGcMinIntervalMs => t.set(Sysctl::RouteGcMinInterval, t.get(s) / 1000),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn write_conf4(&mut self, row: Row, c: Conf4, data: &[u8]) -> Result<(), Errno> {
        let v = scalar(Conf4::KINDS[c as usize], data)? as i32;
        let bit = 1u64 << (c as u32);
        let old = match row {
            Row::All => self.conf.all4.get(c),
            Row::Default => self.conf.default4.get(c),
            Row::Dev(dev) => self.devs.get(dev).ok_or(Errno::ENOENT)?.conf4.get(c),
        };
        match row {
            Row::All if c == Conf4::Forwarding => {
                if old != v {
                    inet_forward_change(self, v);
                }
            }
            Row::All => self.conf.all4.0[c as usize] = v,
            Row::Default => {
                self.conf.default4.0[c as usize] = v;
                self.conf.default4_set |= bit;
                // devinet_copy_dflt_conf: devices whose own value was never set follow.
                if c != Conf4::Forwarding {
                    for d in self.devs.iter_mut().filter(|d| d.conf4_set & bit == 0) {
                        d.conf4.0[c as usize] = v;
                    }
                }
            }
            Row::Dev(dev) => {
                let d = self.devs.get_mut(dev).ok_or(Errno::ENOENT)?;
                d.conf4.0[c as usize] = v;
                d.conf4_set |= bit;
            }
        }
        // devinet_conf_proc, devinet_sysctl_forward.
        let told = match c {
            Conf4::Forwarding if row != Row::All => Some(ConfChange::Forwarding),
            Conf4::RpFilter => Some(ConfChange::RpFilter),
            Conf4::ProxyArp => Some(ConfChange::ProxyNeigh),
            Conf4::IgnoreRoutesWithLinkdown => Some(ConfChange::IgnoreRoutesWithLinkdown),
            _ => None,
        };
        if let Some(what) = told.filter(|_| old != v) {
            self.notify_netconf(Family::V4, row, what);
        }
        self.devs.generation += 1;
        Ok(())
    }

    pub(super) fn write_conf6(&mut self, row: Row, c: Conf6, data: &[u8]) -> Result<(), Errno> {
        let v = scalar(Conf6::KINDS[c as usize], data)?;
        let v = v as u32 as i32;
        // addrconf_sysctl_mtu: not above the device's.
        if let (Row::Dev(dev), Conf6::Mtu) = (row, c)
            && self.devs.get(dev).is_some_and(|d| i64::from(v) > i64::from(d.mtu))
        {
            return Err(Errno::EINVAL);
        }
        let told = match c {
            Conf6::Forwarding => Some(ConfChange::Forwarding),
            Conf6::ProxyNdp => Some(ConfChange::ProxyNeigh),
            Conf6::IgnoreRoutesWithLinkdown => Some(ConfChange::IgnoreRoutesWithLinkdown),
            _ => None,
        };
        let was = |ns: &Namespace, row: Row| match row {
            Row::All => ns.conf.all6.get(c),
            Row::Default => ns.conf.default6.get(c),
            Row::Dev(d) => ns.devs.get(d).map_or(v, |d| d.conf6.get(c)),
        };
        if let Some(what) = told {
            let mut changed = Vec::new();
            // addrconf_fixup_forwarding tells of `default` first and of `all` last; addrconf_fixup_linkdown not of it.
            let spread = row == Row::All && what != ConfChange::ProxyNeigh;
            if spread && what == ConfChange::Forwarding {
                changed.push(Row::Default);
            }
            if spread {
                changed.extend(self.devs.iter().map(|d| Row::Dev(d.index)));
            }
            changed.push(row);
            changed.retain(|r| was(self, *r) != v);
            // The values are read when the message is made, when all are set.
            for row in changed {
                self.notify_netconf(Family::V6, row, what);
            }
        }
        let dev = match row {
            Row::All => {
                self.conf.all6.0[c as usize] = v;
                // These reach default and every device (addrconf_fixup_forwarding, addrconf_disable_ipv6, ...).
                let spreads = matches!(
                    c,
                    Conf6::Forwarding
                        | Conf6::ForceForwarding
                        | Conf6::DisableIpv6
                        | Conf6::DisablePolicy
                        | Conf6::AddrGenMode
                        | Conf6::IgnoreRoutesWithLinkdown
                );
                if spreads {
                    self.conf.default6.0[c as usize] = v;
                    let all: Vec<IfIndex> = self.devs.iter().map(|d| d.index).collect();
                    for d in all {
                        self.set_conf6(d, c, v);
                    }
                }
                None
            }
            Row::Default => {
                self.conf.default6.0[c as usize] = v;
                None
            }
            Row::Dev(d) => Some(d),
        };
        if let Some(d) = dev {
            self.set_conf6(d, c, v);
        }
        self.devs.generation += 1;
        Ok(())
    }

    fn set_conf6(&mut self, dev: IfIndex, c: Conf6, v: i32) {
        let Some(d) = self.devs.get_mut(dev) else { return };
        let old = core::mem::replace(&mut d.conf6.0[c as usize], v);
        crate::ipv6::addrconf::conf6_changed(self, dev, c, old);
    }

    pub(super) fn write_stable_secret(&mut self, row: Row, data: &[u8]) -> Result<(), Errno> {
        // addrconf_sysctl_stable_secret: `all` has none to set.
        if row == Row::All {
            return Err(Errno::EIO);
        }
        let text = core::str::from_utf8(data).map_err(|_| Errno::EIO)?;
        // An empty write leaves all zeros, as the kernel's buffer does.
        let secret = if text.is_empty() { Ok(Ipv6Addr::UNSPECIFIED) } else { text.trim().parse() };
        let secret = secret.map_err(|_| Errno::EIO)?;
        let list = &mut self.conf.stable_secret;
        list.retain(|(r, _)| match r {
            Row::Dev(d) => *r != row && self.devs.get(*d).is_some(),
            Row::All | Row::Default => *r != row,
        });
        list.push((row, secret));
        // IN6_ADDR_GEN_MODE_STABLE_PRIVACY from now on, of the device or of all.
        for d in self.devs.iter_mut().filter(|d| row == Row::Default || row == Row::Dev(d.index)) {
            d.conf6.0[Conf6::AddrGenMode as usize] = 2;
        }
        Ok(())
    }

    pub(super) fn write_neigh(&mut self, f: Family, row: Row, file: NeighFile, v: i64) -> Result<(), Errno> {
        let values: Vec<(NeighParm, i64)> = match (file, file.unit_ms(f)) {
            (_, Some(unit)) => vec![(file.parm(), v.saturating_mul(unit))],
            (NeighFile::Parm(NeighParm::UnresQlen), None) => {
                vec![(NeighParm::UnresQlen, v), (NeighParm::UnresQlenBytes, v * ETH_TRUESIZE)]
            }
            (NeighFile::Parm(p), None) => vec![(p, v)],
            (NeighFile::BaseReachableTime | NeighFile::RetransTime, None) => Vec::new(),
        };
        for (p, v) in values {
            self.set_neigh_parm(f, row, p, v)?;
        }
        Ok(())
    }

    /// Sets a parameter of neighbours, of a device or of `default` and with it of those devices that never had one of
    /// their own (`neigh_proc_update`, `neightbl_set`). In milliseconds, bytes or a number.
    ///
    /// # Errors
    /// `ENOENT` for `all` and unknown devices.
    pub fn set_neigh_parm(&mut self, f: Family, row: Row, p: NeighParm, v: i64) -> Result<(), Errno> {
        let clamp = |v: i64| v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        {
            let bit = 1u32 << (p as u32);
            let v = clamp(v);
            let set = |d: &mut Device, explicit: bool| {
                let (parms, seen) = match f {
                    Family::V4 => (&mut d.neigh4, &mut d.neigh4_set),
                    Family::V6 => (&mut d.neigh6, &mut d.neigh6_set),
                };
                if explicit || *seen & bit == 0 {
                    parms.0[p as usize] = v;
                }
                if explicit {
                    *seen |= bit;
                }
            };
            match row {
                Row::All => return Err(Errno::ENOENT),
                Row::Default => {
                    let parms = match f {
                        Family::V4 => &mut self.conf.neigh4,
                        Family::V6 => &mut self.conf.neigh6,
                    };
                    parms.0[p as usize] = v;
                    // neigh_copy_dflt_parms.
                    self.devs.iter_mut().for_each(|d| set(d, false));
                }
                Row::Dev(dev) => set(self.devs.get_mut(dev).ok_or(Errno::ENOENT)?, true),
            }
        }
        Ok(())
    }
}

/// `net.ipv4.ip_forward`: sets `forwarding` of every device, `all` and `default` (`inet_forward_change`).
pub fn inet_forward_change(ns: &mut Namespace, v: i32) {
    ns.env.sysctl.set(Sysctl::IpForward, i64::from(v));
    ns.conf.all4.0[Conf4::Forwarding as usize] = v;
    ns.conf.all4.0[Conf4::AcceptRedirects as usize] = i32::from(v == 0);
    ns.conf.default4.0[Conf4::Forwarding as usize] = v;
    for d in ns.devs.iter_mut() {
        d.conf4.0[Conf4::Forwarding as usize] = v;
    }
    let devs: Vec<Row> = ns.devs.iter().map(|d| Row::Dev(d.index)).collect();
    for row in [Row::All, Row::Default].into_iter().chain(devs) {
        ns.notify_netconf(Family::V4, row, ConfChange::Forwarding);
    }
    ns.devs.generation += 1;
}
