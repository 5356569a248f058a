//! Link operations: what `ip link` does, with effects in more than one namespace
//! (`net/core/dev.c`, `drivers/net/veth.c`).

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_wire::MacAddr;

use super::World;
use crate::dev::{DevKind, Device, iff};
use crate::fib::Family;
use crate::notify::{LinkThen, NetConf, Notify};
use crate::ns::Namespace;
use crate::sysctl::Row;

/// `IFNAMSIZ` − 1.
pub const MAX_NAME: usize = 15;

/// A valid device name (`dev_valid_name`).
#[must_use]
pub fn dev_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace())
}

/// One end of a new link.
#[derive(Clone, Debug, Default)]
pub struct LinkSpec {
    /// Name; a pattern such as `veth%d`, or empty for the kind's default pattern.
    pub name: String,
    /// Link address; random when `None`.
    pub mac: Option<MacAddr>,
    /// MTU; the kind's default when `None`.
    pub mtu: Option<u32>,
    /// Index to take; any when 0.
    pub index: u32,
    /// `txqueuelen`.
    pub tx_queue_len: Option<u32>,
}

impl World {
    fn new_device(&mut self, ns: NsId, spec: &LinkSpec, kind: DevKind) -> Result<IfIndex, Errno> {
        let stem = kind.info().stem;
        let n = self.ns_mut(ns).ok_or(Errno::ENOENT)?;
        let pattern = if spec.name.is_empty() { format!("{stem}%d") } else { spec.name.clone() };
        let name = if pattern.ends_with("%d") { n.devs.alloc_name(&pattern) } else { pattern };
        if !dev_valid_name(&name) {
            return Err(Errno::EINVAL);
        }
        if n.devs.by_name(&name).is_some() {
            return Err(Errno::EEXIST);
        }
        if spec.index != 0 && n.devs.get(IfIndex(spec.index)).is_some() {
            return Err(Errno::EBUSY);
        }
        let r = n.env.rng.next_u64().to_le_bytes();
        let mac = match spec.mac {
            Some(m) if !m.is_valid() => return Err(Errno::EADDRNOTAVAIL),
            Some(m) => m,
            None => MacAddr::from_random([r[0], r[1], r[2], r[3], r[4], r[5]]),
        };
        let mut d = Device::new(name, kind, mac, &n.conf);
        d.index = IfIndex(spec.index);
        d.created = n.env.now;
        if let Some(m) = spec.mtu {
            check_mtu(&d, m)?;
            d.set_mtu(m);
        }
        if let Some(q) = spec.tx_queue_len {
            d.tx_queue_len = q;
        }
        let i = n.devs.insert(d).ok_or(Errno::ENFILE)?;
        n.notify_netconf_dev(i, false);
        n.notify_link(i, u32::MAX, false);
        Ok(i)
    }

    /// `ip link add type dummy` and its like.
    ///
    /// # Errors
    /// `EEXIST` for a name in use, `EINVAL` for a bad name or MTU, `EADDRNOTAVAIL` for a bad address.
    pub fn link_add(&mut self, ns: NsId, spec: &LinkSpec, kind: DevKind) -> Result<IfIndex, Errno> {
        match kind {
            DevKind::Dummy | DevKind::Backend { .. } => self.new_device(ns, spec, kind),
            DevKind::Veth(_) | DevKind::Loopback => Err(Errno::EOPNOTSUPP),
        }
    }

    /// `ip link add type veth`: both ends, the peer perhaps in another namespace.
    ///
    /// # Errors
    /// As [`World::link_add`]; nothing is left when the second end cannot be made.
    pub fn link_add_veth(
        &mut self,
        ns: NsId,
        spec: &LinkSpec,
        peer_ns: NsId,
        peer: &LinkSpec,
    ) -> Result<(IfIndex, IfIndex), Errno> {
        let j = self.new_device(peer_ns, peer, DevKind::Veth(None))?;
        let i = match self.new_device(ns, spec, DevKind::Veth(Some((peer_ns, j)))) {
            Ok(i) => i,
            Err(e) => {
                if let Some(n) = self.ns_mut(peer_ns) {
                    n.devs.remove(j);
                }
                return Err(e);
            }
        };
        if let Some(d) = self.ns_mut(peer_ns).and_then(|n| n.devs.get_mut(j)) {
            d.kind = DevKind::Veth(Some((ns, i)));
        }
        Ok((i, j))
    }

    /// `ip link del`; a veth takes its partner along.
    ///
    /// # Errors
    /// `ENODEV`; `EOPNOTSUPP` for `lo` and devices that the host owns.
    pub fn link_del(&mut self, ns: NsId, dev: IfIndex) -> Result<(), Errno> {
        let d = self.ns(ns).and_then(|n| n.devs.get(dev)).ok_or(Errno::ENODEV)?;
        let peer = match &d.kind {
            DevKind::Loopback => return Err(Errno::EOPNOTSUPP),
            DevKind::Veth(p) => *p,
            DevKind::Dummy | DevKind::Backend { .. } => None,
        };
        let both: Vec<(NsId, IfIndex)> = core::iter::once((ns, dev)).chain(peer).collect();
        // veth_dellink: they part first; both are closed before either goes (unregister_netdevice_many).
        for (ns, dev) in &both {
            if let Some(d) = self.ns_mut(*ns).and_then(|n| n.devs.get_mut(*dev))
                && let DevKind::Veth(p) = &mut d.kind
            {
                *p = None;
            }
        }
        for (ns, dev) in &both {
            let _ = self.link_set_up(*ns, *dev, false);
        }
        for (ns, dev) in both {
            self.link_forget(ns, dev);
        }
        Ok(())
    }

    /// Takes a device out of its namespace with all that hangs on it (`unregister_netdevice`).
    pub(super) fn link_forget(&mut self, ns: NsId, dev: IfIndex) {
        let _ = self.link_set_up(ns, dev, false);
        let Some(n) = self.ns_mut(ns) else { return };
        crate::dev::addr_ops::flush_addrs(n, dev);
        if let Some(d) = n.devs.remove(dev) {
            n.neigh.flush_dev(&mut n.env, &mut n.notify, dev, false);
            n.notify_netconf_dev(dev, true);
            notify_gone(n, d, None);
        }
    }

    /// `ip link set DEV up|down` (`dev_open`, `dev_close`); a veth's partner sees the carrier.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn link_set_up(&mut self, ns: NsId, dev: IfIndex, up: bool) -> Result<(), Errno> {
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        let d = n.devs.get_mut(dev).ok_or(Errno::ENODEV)?;
        if d.is_up() == up {
            return Ok(());
        }
        d.flags = if up { d.flags | iff::UP } else { d.flags & !iff::UP };
        d.activated |= up;
        let peer = d.peer();
        if !up && matches!(d.kind, DevKind::Veth(None)) {
            d.carrier = false;
        }
        n.devs.generation += 1;
        let peer_up = peer.is_some_and(|(pns, pdev)| {
            self.ns(pns).and_then(|n| n.devs.get(pdev)).is_some_and(Device::is_up)
        });
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        // __dev_notify_flags: the message comes before what follows from the change.
        n.notify_link(dev, iff::UP, up && peer_up);
        if up {
            crate::dev::addr_ops::dev_up(n, dev);
        } else {
            crate::dev::addr_ops::dev_down(n, dev);
        }
        if let Some((pns, pdev)) = peer {
            self.set_carrier(ns, dev, up && peer_up);
            self.set_carrier(pns, pdev, up && peer_up);
        }
        Ok(())
    }

    /// `netif_carrier_on|off`, with what follows when the device is up.
    pub fn set_carrier(&mut self, ns: NsId, dev: IfIndex, on: bool) {
        let Some(n) = self.ns_mut(ns) else { return };
        let Some(d) = n.devs.get_mut(dev) else { return };
        if d.carrier == on {
            return;
        }
        d.carrier = on;
        d.carrier_changes[usize::from(!on)] += 1;
        n.devs.generation += 1;
        if n.devs.get(dev).is_some_and(Device::is_up) {
            crate::dev::addr_ops::carrier_changed(n, dev, on);
            n.notify.push(Notify::LinkNew(dev, 0));
        }
    }

    /// `ip link set DEV netns NS`: down, addresses gone, then into the other namespace under the same or a new
    /// name (`dev_change_net_namespace`).
    ///
    /// # Errors
    /// `ENODEV`, `EINVAL` for `lo`, `EEXIST` when the name is taken there.
    pub fn link_set_netns(
        &mut self,
        ns: NsId,
        dev: IfIndex,
        to: NsId,
        new_name: Option<&str>,
    ) -> Result<IfIndex, Errno> {
        let d = self.ns(ns).and_then(|n| n.devs.get(dev)).ok_or(Errno::ENODEV)?;
        if d.is_loopback() {
            return Err(Errno::EINVAL);
        }
        if ns == to {
            return Ok(dev);
        }
        let name = new_name.unwrap_or(&d.name).to_owned();
        let target = self.ns(to).ok_or(Errno::EINVAL)?;
        if target.devs.by_name(&name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.link_set_up(ns, dev, false)?;
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        crate::dev::addr_ops::flush_addrs(n, dev);
        n.neigh.flush_dev(&mut n.env, &mut n.notify, dev, false);
        let mut d = n.devs.remove(dev).ok_or(Errno::ENODEV)?;
        n.notify_netconf_dev(dev, true);
        let then = n.notify.listening.then(|| d.clone());
        let t = self.ns_mut(to).ok_or(Errno::EINVAL)?;
        d.name = name;
        d.activated = false;
        d.conf4 = t.conf.default4.clone();
        d.conf6 = t.conf.default6.clone();
        d.set_mtu(d.mtu);
        let peer = d.peer();
        let new = t.devs.insert(d).ok_or(Errno::ENFILE)?;
        t.notify_netconf_dev(new, false);
        t.notify_link(new, u32::MAX, false);
        if let Some((n, d)) = self.ns_mut(ns).zip(then) {
            notify_gone(n, d, Some((to, new)));
        }
        if let Some((pns, pdev)) = peer
            && let Some(p) = self.ns_mut(pns).and_then(|n| n.devs.get_mut(pdev))
        {
            p.kind = DevKind::Veth(Some((to, new)));
        }
        Ok(new)
    }

    /// `ip link set DEV name NAME`.
    ///
    /// # Errors
    /// `ENODEV`, `EINVAL`, `EEXIST`.
    pub fn link_set_name(&mut self, ns: NsId, dev: IfIndex, name: &str) -> Result<(), Errno> {
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        let old = n.devs.get(dev).ok_or(Errno::ENODEV)?.name.clone();
        if old == name {
            return Ok(());
        }
        if !dev_valid_name(name) {
            return Err(Errno::EINVAL);
        }
        if n.devs.by_name(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let Some(d) = n.devs.get_mut(dev) else { return Err(Errno::ENODEV) };
        name.clone_into(&mut d.name);
        for a in d.addrs.iter_mut().filter(|a| matches!(a.local, IpAddr::V4(_))) {
            // devinet_rename: a label that begins with the old name follows it.
            if let Some(rest) = a.label.strip_prefix(&old) {
                a.label = format!("{name}{rest}");
            }
        }
        n.devs.generation += 1;
        n.notify.push(Notify::LinkNew(dev, 0));
        // inetdev_changename, then the tunables under their new name.
        let v4: Vec<(IpAddr, u8)> = n.devs.get(dev).map_or_else(Vec::new, |d| {
            let v4 = d.addrs.iter().filter(|a| matches!(a.local, IpAddr::V4(_)));
            v4.map(|a| (a.local, a.prefix_len)).collect()
        });
        for (a, len) in v4 {
            n.notify.push(Notify::AddrNew(dev, a, len));
        }
        for family in [Family::V4, Family::V6] {
            for gone in [true, false] {
                n.notify.push(Notify::NetConf(NetConf { family, row: Row::Dev(dev), what: None, gone }));
            }
        }
        Ok(())
    }

    /// `ip link set DEV mtu N`.
    ///
    /// # Errors
    /// `ENODEV`, `EINVAL` outside the device's range.
    pub fn link_set_mtu(&mut self, ns: NsId, dev: IfIndex, mtu: u32) -> Result<(), Errno> {
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        let d = n.devs.get(dev).ok_or(Errno::ENODEV)?;
        if d.mtu == mtu {
            return Ok(());
        }
        check_mtu(d, mtu)?;
        n.netdev_state_change(dev, |d| d.set_mtu(mtu))
    }

    /// `ip link set DEV address MAC`.
    ///
    /// # Errors
    /// `ENODEV`, `EADDRNOTAVAIL` for a group or zero address.
    pub fn link_set_address(&mut self, ns: NsId, dev: IfIndex, mac: MacAddr) -> Result<(), Errno> {
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        let d = n.devs.get(dev).ok_or(Errno::ENODEV)?;
        if !d.is_loopback() && !mac.is_valid() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        n.neigh.flush_dev(&mut n.env, &mut n.notify, dev, true);
        n.netdev_state_change(dev, |d| d.mac = mac)
    }

    /// `ip link set DEV arp|multicast|promisc|allmulticast|up`, and `SIOCSIFFLAGS`: sets those flags to what `flags`
    /// (`IFF_*`) says; the others stay (`dev_change_flags`).
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn dev_change_flags(&mut self, ns: NsId, dev: IfIndex, flags: u32) -> Result<(), Errno> {
        const PLAIN: u32 = iff::NOARP | iff::MULTICAST | iff::PROMISC | iff::ALLMULTI;
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        let changed = (n.devs.get(dev).ok_or(Errno::ENODEV)?.flags ^ flags) & PLAIN;
        if changed != 0 {
            n.devs.update(dev, |d| d.flags ^= changed);
            // __dev_notify_flags.
            n.notify.push(Notify::LinkNew(dev, changed));
        }
        self.link_set_up(ns, dev, flags & iff::UP != 0)
    }

    /// `SIOCSIFTXQLEN`: sets the length of a device's transmit queue in packets. Listeners hear of a new length only
    /// (`dev_change_tx_queue_len`).
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn dev_change_tx_queue_len(&mut self, ns: NsId, dev: IfIndex, len: u32) -> Result<(), Errno> {
        let n = self.ns_mut(ns).ok_or(Errno::ENODEV)?;
        if n.devs.get(dev).ok_or(Errno::ENODEV)?.tx_queue_len == len {
            return Ok(());
        }
        n.netdev_state_change(dev, |d| d.tx_queue_len = len)
    }
}

/// RTM_DELLINK: the device as it was unregistered, without queueing discipline.
fn notify_gone(n: &mut Namespace, mut dev: Device, moved: Option<(NsId, IfIndex)>) {
    dev.activated = false;
    let then = LinkThen { dev, gone: true, change: u32::MAX, peer_carrier: None, lower_up: false, moved };
    n.notify.push(Notify::Link(Box::new(then)));
}

fn check_mtu(d: &Device, mtu: u32) -> Result<(), Errno> {
    d.kind.info().validate_mtu(mtu).map_err(|_| Errno::EINVAL)
}
