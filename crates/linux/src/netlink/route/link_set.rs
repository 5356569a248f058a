//! RTM_NEWLINK, RTM_SETLINK, RTM_DELLINK and alternative names (`rtnl_newlink`, `do_setlink`).

use ferronet_core::sysctl::Conf6;
use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_stack::dev::{DevKind, Device};
use ferronet_stack::world::link::LinkSpec;
use ferronet_wire::MacAddr;

use super::super::Req;
use super::super::codec::{AttrIter, Attrs, Fields, Strictness, nlm_f, parse};
use super::link::{IFINFO, POLICY, ifla};
use super::{ifindex, rtm};
use crate::kernel::NsRef;

type Tb<'a> = Attrs<'a, 70>;

/// `struct ifinfomsg`, as far as requests use it.
#[derive(Clone, Copy, Debug)]
struct IfInfo {
    index: i32,
    flags: u32,
    change: u32,
}

fn ifinfo(head: &[u8]) -> IfInfo {
    let mut f = Fields(head);
    let _ = (f.u8(), f.u8(), f.u16());
    IfInfo { index: f.i32(), flags: f.u32(), change: f.u32() }
}

fn read<'a>(r: &mut Req<'a, '_>) -> Result<(IfInfo, Tb<'a>), Errno> {
    let (head, attrs) = r.split(IFINFO).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    Ok((ifinfo(head), tb))
}

/// The namespace that `IFLA_TARGET_NETNSID` names.
pub(super) fn target_netnsid(r: &mut Req<'_, '_>, tb: &Tb<'_>) -> Result<Option<NsId>, Errno> {
    let Some(a) = tb.get(ifla::TARGET_NETNSID) else { return Ok(None) };
    match r.kernel.nl.nsids.by_id(r.ns, a.i32()) {
        Some(ns) => Ok(Some(ns)),
        None => r.ext.err_at(Errno::EINVAL, a.off, "Invalid target network namespace id"),
    }
}

/// The namespace that a link goes to (`rtnl_link_get_net`).
fn link_net(r: &mut Req<'_, '_>, tb: &Tb<'_>) -> Result<Option<NsId>, Errno> {
    let (reference, e) = if let Some(a) = tb.get(ifla::NET_NS_PID) {
        (NsRef::Pid(a.u32()), Errno::ESRCH)
    } else if let Some(a) = tb.get(ifla::NET_NS_FD) {
        (NsRef::Fd(a.i32()), Errno::EBADF)
    } else {
        return target_netnsid(r, tb);
    };
    r.kernel.ns_resolve(r.caller, reference).map(Some).ok_or(e)
}

/// The device a request is about, by index or name. `Ok(None)`: it names none.
fn find(r: &Req<'_, '_>, i: IfInfo, tb: &Tb<'_>) -> Result<Option<Result<IfIndex, Errno>>, Errno> {
    let net = r.net()?;
    let name = tb.get(ifla::IFNAME).or(tb.get(ifla::ALT_IFNAME)).map(|a| a.str());
    Ok(match (i.index, name) {
        (n, _) if n > 0 => {
            Some(ifindex(n).and_then(|n| net.devs.get(n)).map(|d| d.index).ok_or(Errno::ENODEV))
        }
        (_, Some(n)) => Some(net.devs.by_name(&n).map(|d| d.index).ok_or(Errno::ENODEV)),
        (_, None) => None,
    })
}

/// RTM_SETLINK (`rtnl_setlink`).
pub(super) fn setlink(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let (i, tb) = read(r)?;
    let dev = find(r, i, &tb)?.ok_or(Errno::EINVAL)??;
    validate(r, dev, &tb)?;
    do_setlink(r, i, dev, &tb)
}

/// RTM_NEWLINK: changes the device when there is one, else makes it (`__rtnl_newlink`).
pub(super) fn newlink(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let (i, tb) = read(r)?;
    let info = tb.get(ifla::LINKINFO);
    let part = |ty| info.and_then(|a| a.nested().find(|a| a.ty == ty));
    let kind = part(1).map(|a| a.str());
    if i.index < 0 {
        return r.ext.err(Errno::EINVAL, "ifindex can't be negative");
    }
    let found = find(r, i, &tb)?;
    if let Some(Ok(dev)) = found {
        if r.has(nlm_f::EXCL) {
            return Err(Errno::EEXIST);
        }
        if r.has(nlm_f::REPLACE) {
            return Err(Errno::EOPNOTSUPP);
        }
        validate(r, dev, &tb)?;
        if part(2).is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        return do_setlink(r, i, dev, &tb);
    }
    if !r.has(nlm_f::CREATE) {
        return match tb.u32(ifla::GROUP) {
            Some(g) if found.is_none() => change_group(r, i, g, &tb),
            _ => Err(Errno::ENODEV),
        };
    }
    if tb.has(ifla::MAP) || tb.has(ifla::PROTINFO) {
        return Err(Errno::EOPNOTSUPP);
    }
    let data = part(2).map(|a| a.nested());
    match kind.as_deref() {
        Some("veth") => new_veth(r, i, &tb, data),
        Some("dummy") => {
            let ns = link_net(r, &tb)?.unwrap_or(r.ns);
            let spec = spec(r, i, &tb)?;
            let dev = r.kernel.world.link_add(ns, &spec, DevKind::Dummy)?;
            configure(r, ns, i, dev, &tb)
        }
        Some("tun") => Err(Errno::EOPNOTSUPP),
        Some(_) | None => r.ext.err(Errno::EOPNOTSUPP, "Unknown device type"),
    }
}

/// `rtnl_group_changelink`.
fn change_group(r: &mut Req<'_, '_>, i: IfInfo, group: u32, tb: &Tb<'_>) -> Result<(), Errno> {
    let all: Vec<IfIndex> = r.net()?.devs.iter().filter(|d| d.group == group).map(|d| d.index).collect();
    for dev in all {
        validate(r, dev, tb)?;
        do_setlink(r, i, dev, tb)?;
    }
    Ok(())
}

fn mac(data: &[u8]) -> Option<MacAddr> {
    data.first_chunk::<6>().map(|b| MacAddr(*b))
}

/// What a new device shall be like (`rtnl_create_link`).
fn spec(r: &mut Req<'_, '_>, i: IfInfo, tb: &Tb<'_>) -> Result<LinkSpec, Errno> {
    let mac = match tb.get(ifla::ADDRESS) {
        Some(a) if a.data.len() < 6 => return Err(Errno::EINVAL),
        Some(a) => mac(a.data),
        None => None,
    };
    let name = tb.get(ifla::IFNAME).map(|a| a.str()).unwrap_or_default();
    if tb.has(ifla::IFNAME) && !name.is_empty() && !name_ok(&name) {
        return Err(Errno::EINVAL);
    }
    let _ = r;
    Ok(LinkSpec {
        name,
        mac,
        mtu: tb.u32(ifla::MTU),
        index: u32::try_from(i.index).unwrap_or(0),
        tx_queue_len: tb.u32(ifla::TXQLEN),
    })
}

/// A name, or a pattern with one `%d`.
fn name_ok(n: &str) -> bool {
    ferronet_stack::world::link::dev_valid_name(n)
}

/// `veth_newlink`.
fn new_veth(r: &mut Req<'_, '_>, i: IfInfo, tb: &Tb<'_>, data: Option<AttrIter<'_>>) -> Result<(), Errno> {
    const VETH_INFO_PEER: u16 = 1;
    let ns = link_net(r, tb)?.unwrap_or(r.ns);
    let own = spec(r, i, tb)?;
    let peer_info = data.and_then(|mut d| d.find(|a| a.ty == VETH_INFO_PEER));
    let mut peer = LinkSpec::default();
    // Without a namespace of its own a described peer stays with the caller, wherever the device goes.
    let mut peer_ns = if peer_info.is_some() { r.ns } else { ns };
    let mut peer_i = IfInfo { index: 0, flags: 0, change: 0 };
    let mut peer_tb = None;
    if let Some(p) = peer_info {
        let head = p.data.get(..IFINFO).ok_or(Errno::EINVAL)?;
        peer_i = ifinfo(head);
        let rest = p.data.get(IFINFO..).unwrap_or_default();
        let t = parse(AttrIter::new(rest, p.off + 4 + IFINFO), &POLICY, Strictness::Liberal, &mut r.ext)?;
        peer = spec(r, peer_i, &t)?;
        if let Some(n) = link_net(r, &t)? {
            peer_ns = n;
        }
        peer_tb = Some(t);
    } else {
        // Without a description the peer gets what the device gets, except name and address.
        peer.mtu = own.mtu;
        peer.tx_queue_len = own.tx_queue_len;
    }
    let (a, b) = r.kernel.world.link_add_veth(ns, &own, peer_ns, &peer)?;
    if let Some(t) = peer_tb {
        configure(r, peer_ns, peer_i, b, &t)?;
    }
    configure(r, ns, i, a, tb)
}

/// What is set on a device just made: group, alias, flags (`rtnl_configure_link`).
fn configure(r: &mut Req<'_, '_>, ns: NsId, i: IfInfo, dev: IfIndex, tb: &Tb<'_>) -> Result<(), Errno> {
    let n = r.kernel.world.ns_mut(ns).ok_or(Errno::ENODEV)?;
    n.devs.update(dev, |d| {
        if let Some(g) = tb.u32(ifla::GROUP) {
            d.group = g;
        }
        if let Some(a) = tb.get(ifla::IFALIAS) {
            d.alias = a.str();
        }
    });
    af_spec(r, ns, dev, tb)?;
    if i.flags != 0 || i.change != 0 {
        change_flags(r, ns, dev, i)?;
    }
    Ok(())
}

/// `validate_linkmsg`.
fn validate(r: &Req<'_, '_>, dev: IfIndex, tb: &Tb<'_>) -> Result<(), Errno> {
    let d = r.net()?.devs.get(dev).ok_or(Errno::ENODEV)?;
    let need = if d.has_ethernet() { 6 } else { 0 };
    for ty in [ifla::ADDRESS, ifla::BROADCAST] {
        if tb.get(ty).is_some_and(|a| a.data.len() < need) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// `dev_change_flags` with `rtnl_dev_combine_flags`.
fn change_flags(r: &mut Req<'_, '_>, ns: NsId, dev: IfIndex, i: IfInfo) -> Result<(), Errno> {
    let d = r.kernel.world.ns(ns).and_then(|n| n.devs.get(dev)).ok_or(Errno::ENODEV)?;
    // A change mask of 0 means all, as old programs send.
    let mask = if i.change == 0 { u32::MAX } else { i.change };
    let want = (i.flags & mask) | (d.flags & !mask);
    r.kernel.world.dev_change_flags(ns, dev, want)
}

/// `IFLA_AF_SPEC`: address generation of IPv6, tunables of IPv4 (`inet6_set_link_af`, `inet_set_link_af`).
fn af_spec(r: &mut Req<'_, '_>, ns: NsId, dev: IfIndex, tb: &Tb<'_>) -> Result<(), Errno> {
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    let Some(spec) = tb.get(ifla::AF_SPEC) else { return Ok(()) };
    for af in spec.nested() {
        match af.ty {
            2 => {}
            10 => {
                let Some(mode) = af.nested().find(|a| a.ty == IFLA_INET6_ADDR_GEN_MODE) else { continue };
                if mode.u8() > 3 {
                    return Err(Errno::EINVAL);
                }
                let set = |d: &mut Device| {
                    if let Some(v) = d.conf6.0.get_mut(Conf6::AddrGenMode as usize) {
                        *v = i32::from(mode.u8());
                    }
                };
                let n = r.kernel.world.ns_mut(ns).ok_or(Errno::ENODEV)?;
                n.devs.update(dev, set).ok_or(Errno::ENODEV)?;
            }
            _ => return Err(Errno::EAFNOSUPPORT),
        }
    }
    Ok(())
}

/// `do_setlink`, in the kernel's order.
fn do_setlink(r: &mut Req<'_, '_>, i: IfInfo, mut dev: IfIndex, tb: &Tb<'_>) -> Result<(), Errno> {
    let mut ns = r.ns;
    let name = tb.get(ifla::IFNAME).map(|a| a.str()).filter(|n| !n.is_empty());
    if let Some(to) = link_net(r, tb)?.filter(|to| *to != ns) {
        if r.net()?.devs.get(dev).is_some_and(Device::is_loopback) {
            return r.ext.err(Errno::EINVAL, "The interface netns is immutable");
        }
        dev = r.kernel.world.link_set_netns(ns, dev, to, name.as_deref())?;
        ns = to;
    }
    if let Some(a) = tb.get(ifla::ADDRESS) {
        let has = r.kernel.world.ns(ns).and_then(|n| n.devs.get(dev)).is_some_and(Device::has_ethernet);
        let new = mac(a.data).filter(|_| has).ok_or(Errno::EOPNOTSUPP)?;
        r.kernel.world.link_set_address(ns, dev, new)?;
    }
    if let Some(mtu) = tb.u32(ifla::MTU) {
        set_mtu(r, ns, dev, mtu)?;
    }
    if let Some(g) = tb.u32(ifla::GROUP) {
        change(r, ns, dev, |d| d.group = g)?;
    }
    if let Some(n) = name.filter(|_| i.index > 0) {
        if n.contains('%') {
            return Err(Errno::EINVAL);
        }
        r.kernel.world.link_set_name(ns, dev, &n)?;
    }
    if let Some(a) = tb.get(ifla::IFALIAS) {
        change(r, ns, dev, |d| d.alias = a.str())?;
    }
    if i.flags != 0 || i.change != 0 {
        change_flags(r, ns, dev, i)?;
    }
    if tb.u32(ifla::MASTER).is_some_and(|m| m != 0) {
        return Err(Errno::EOPNOTSUPP);
    }
    if tb.has(ifla::CARRIER) {
        return Err(Errno::EOPNOTSUPP);
    }
    if let Some(q) = tb.u32(ifla::TXQLEN) {
        change(r, ns, dev, |d| d.tx_queue_len = q)?;
    }
    af_spec(r, ns, dev, tb)?;
    if tb.has(ifla::PROTO_DOWN) {
        return r.ext.err(Errno::EOPNOTSUPP, "Protodown not supported by device");
    }
    Ok(())
}

/// Changes a field of a device and tells the listeners.
fn change(r: &mut Req<'_, '_>, ns: NsId, dev: IfIndex, f: impl FnOnce(&mut Device)) -> Result<(), Errno> {
    r.kernel.world.ns_mut(ns).ok_or(Errno::ENODEV)?.netdev_state_change(dev, f)
}

/// `dev_validate_mtu`.
fn set_mtu(r: &mut Req<'_, '_>, ns: NsId, dev: IfIndex, mtu: u32) -> Result<(), Errno> {
    let d = r.kernel.world.ns(ns).and_then(|n| n.devs.get(dev)).ok_or(Errno::ENODEV)?;
    if d.mtu == mtu {
        return Ok(());
    }
    if let Err(sentence) = d.kind.info().validate_mtu(mtu) {
        return r.ext.err(Errno::EINVAL, sentence);
    }
    r.kernel.world.link_set_mtu(ns, dev, mtu)
}

/// RTM_DELLINK (`rtnl_dellink`).
pub(super) fn dellink(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let (i, tb) = read(r)?;
    let ns = target_netnsid(r, &tb)?.unwrap_or(r.ns);
    match find(r, i, &tb)? {
        Some(dev) => r.kernel.world.link_del(ns, dev?),
        None => {
            let group = tb.u32(ifla::GROUP).ok_or(Errno::EINVAL)?;
            let all: Vec<&Device> = r.net()?.devs.iter().filter(|d| d.group == group).collect();
            if all.is_empty() {
                return Err(Errno::ENODEV);
            }
            if all.iter().any(|d| d.is_loopback()) {
                return Err(Errno::EOPNOTSUPP);
            }
            let all: Vec<IfIndex> = all.iter().map(|d| d.index).collect();
            for d in all {
                // A veth may have gone with its partner.
                let _ = r.kernel.world.link_del(ns, d);
            }
            Ok(())
        }
    }
}

/// RTM_NEWLINKPROP, RTM_DELLINKPROP: alternative names (`rtnl_linkprop`).
pub(super) fn linkprop(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    const ALTNAMES: usize = 1024;
    let (i, tb) = read(r)?;
    let dev = find(r, i, &tb)?.ok_or(Errno::EINVAL)??;
    let Some(list) = tb.get(ifla::PROP_LIST) else { return Ok(()) };
    let add = r.hdr.ty == rtm::NEWLINKPROP;
    for a in list.nested().filter(|a| a.ty == ifla::ALT_IFNAME) {
        if a.data.len() > 128 {
            return Err(Errno::ERANGE);
        }
        let name = a.str();
        let n = r.net_mut()?;
        let taken = n.devs.by_name(&name).map(|d| d.index);
        let d = n.devs.get(dev).ok_or(Errno::ENODEV)?;
        if add {
            let bad = name.is_empty() || name.contains(['/', ':']) || name.contains(char::is_whitespace);
            if bad || d.altnames.len() >= ALTNAMES {
                return Err(Errno::EINVAL);
            }
            if taken.is_some() {
                return Err(Errno::EEXIST);
            }
            n.netdev_state_change(dev, |d| d.altnames.push(name))?;
        } else {
            if !d.altnames.contains(&name) {
                return Err(if taken == Some(dev) { Errno::EINVAL } else { Errno::ENOENT });
            }
            n.netdev_state_change(dev, |d| d.altnames.retain(|o| *o != name))?;
        }
    }
    Ok(())
}
