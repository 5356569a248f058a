//! RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH (`net/core/neighbour.c`).

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, Instant, NsId};
use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;
use ferronet_stack::ipv6::mcast;
use ferronet_stack::neigh::output::{neigh_event_send, neigh_update};
use ferronet_stack::neigh::proxy::Proxy;
use ferronet_stack::neigh::{Neigh, NeighKey, News, Update, nud};
use ferronet_stack::notify::Notify;
use ferronet_wire::MacAddr;
use ferronet_wire::ipv6::solicited_node;

use super::super::Req;
use super::super::codec::{Attrs, Fields, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Out, Source};
use super::{family, ifindex, pf, pf_of, rtm};
use crate::kernel::Kernel;

/// Attributes of a neighbour (`NDA_*`).
mod nda {
    pub(super) const DST: u16 = 1;
    pub(super) const LLADDR: u16 = 2;
    pub(super) const CACHEINFO: u16 = 3;
    pub(super) const PROBES: u16 = 4;
    pub(super) const IFINDEX: u16 = 8;
    pub(super) const MASTER: u16 = 9;
    pub(super) const PROTOCOL: u16 = 12;
    pub(super) const FLAGS_EXT: u16 = 15;
}

/// `NTF_EXT_MANAGED`.
const EXT_MANAGED: u32 = 1;

/// Neighbour flags (`NTF_*`).
mod ntf {
    pub(super) const USE: u8 = 0x01;
    pub(super) const EXT_LEARNED: u8 = 0x10;
    pub(super) const PROXY: u8 = 0x08;
    pub(super) const ROUTER: u8 = 0x80;
}

/// Bytes of `struct ndmsg`.
const NDMSG: usize = 12;
const POLICY: [Policy; 16] = {
    use Policy::{Any, Binary, Nested, U8, U16, U32};
    [Any, Binary(32), Binary(32), Any, U32, U16, U32, U32, U32, U32, Any, Any, U8, Any, Nested, U32]
};

/// Writes an entry into a message that has only its netlink header (`neigh_fill_info`).
fn fill(mut m: Msg, n: &Neigh, multicast_kind: u8, now: Instant) -> Vec<u8> {
    let f = Family::of(n.key.addr);
    m.raw(&[pf_of(f), 0, 0, 0]);
    m.raw(&n.key.dev.0.to_ne_bytes());
    let [a, b] = u16::from(n.state).to_ne_bytes();
    let mut flags = if n.router { ntf::ROUTER } else { 0 };
    if n.ext_learned {
        flags |= ntf::EXT_LEARNED;
    }
    m.raw(&[a, b, flags, multicast_kind]);
    m.ip(nda::DST, n.key.addr);
    if n.state & nud::VALID != 0 {
        m.put(nda::LLADDR, &n.mac.0);
    }
    m.u32(nda::PROBES, n.probes);
    let ticks = |t: Instant| u32::try_from((now - t).as_millis() / 10).unwrap_or(u32::MAX);
    // Who holds the entry besides the table: its timer.
    let holders = u32::from(n.state & nud::IN_TIMER != 0);
    let info: Vec<u8> = [ticks(n.confirmed), ticks(n.used), ticks(n.updated), holders]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    m.put(nda::CACHEINFO, &info);
    if n.protocol != 0 {
        m.u8(nda::PROTOCOL, n.protocol);
    }
    m.finish()
}

/// The `ndm_type`: 1 unicast, 3 broadcast, 5 multicast.
fn kind(a: IpAddr) -> u8 {
    match a {
        a if a.is_multicast() => 5,
        IpAddr::V4(a) if a.is_broadcast() => 3,
        _ => 1,
    }
}

/// The message about an entry; without details when it is gone.
pub(in super::super) fn fill_key(mut m: Msg, net: &Namespace, key: NeighKey) -> Vec<u8> {
    if let Some(n) = net.neigh.get(key) {
        return fill(m, n, kind(key.addr), net.env.now);
    }
    m.raw(&[pf_of(Family::of(key.addr)), 0, 0, 0]);
    m.raw(&key.dev.0.to_ne_bytes());
    let [a, b] = u16::from(nud::FAILED).to_ne_bytes();
    m.raw(&[a, b, 0, kind(key.addr)]);
    m.ip(nda::DST, key.addr);
    m.finish()
}

/// The message about an entry that went with its device.
pub(in super::super) fn fill_gone(m: Msg, n: &Neigh, now: Instant) -> Vec<u8> {
    fill(m, n, kind(n.key.addr), now)
}

/// `struct ndmsg` and its attributes.
struct NdReq<'a> {
    dev: Option<IfIndex>,
    state: u8,
    flags: u8,
    tb: Attrs<'a, 16>,
}

fn read<'a>(r: &mut Req<'a, '_>) -> Result<NdReq<'a>, Errno> {
    let (head, attrs) = r.split(NDMSG).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let mut h = Fields(head);
    h.u32();
    let (index, state, flags) = (h.i32(), h.u16(), h.u8());
    Ok(NdReq { dev: ifindex(index), state: state as u8, flags, tb })
}

/// The address of a request.
fn dst(q: &NdReq<'_>, f: Family) -> Option<IpAddr> {
    let a = q.tb.get(nda::DST)?;
    match f {
        Family::V4 => a.ip4().map(IpAddr::V4),
        Family::V6 => a.ip6().map(IpAddr::V6),
    }
}

/// RTM_NEWNEIGH (`neigh_add`).
pub(super) fn newneigh(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let q = read(r)?;
    if !q.tb.has(nda::DST) {
        return r.ext.err(Errno::EINVAL, "Network address not specified");
    }
    if let Some(dev) = q.dev {
        r.net()?.devs.get(dev).ok_or(Errno::ENODEV)?;
    }
    let d = q.dev.and_then(|d| r.net().ok()?.devs.get(d));
    let (ethernet, lo) = d.map_or((false, false), |d| (d.has_ethernet(), d.is_loopback()));
    let lladdr = match q.tb.get(nda::LLADDR) {
        Some(a) if ethernet && a.data.len() < 6 => return r.ext.err(Errno::EINVAL, "Invalid link address"),
        Some(a) => a.data.first_chunk::<6>().map(|b| MacAddr(*b)),
        None => None,
    };
    if pf == pf::BRIDGE {
        return Err(Errno::EOPNOTSUPP);
    }
    let f = family(pf).ok_or(Errno::EAFNOSUPPORT)?;
    let Some(addr) = dst(&q, f) else { return r.ext.err(Errno::EINVAL, "Invalid network address") };
    if q.flags & ntf::PROXY != 0 {
        return add_proxy(r, &q, addr);
    }
    let Some(dev) = q.dev else { return r.ext.err(Errno::EINVAL, "Device not specified") };
    let mut key = NeighKey { dev, addr };
    let (create, excl, replace) = (r.has(nlm_f::CREATE), r.has(nlm_f::EXCL), r.has(nlm_f::REPLACE));
    let net = r.net_mut()?;
    if net.neigh.get(key).is_some() {
        if excl {
            return Err(Errno::EEXIST);
        }
    } else if !create {
        return Err(Errno::ENOENT);
    } else {
        // arp_constructor: a device without link addresses has one entry for all.
        if lo && f == Family::V4 {
            key.addr = f.any();
        }
        net.neigh.create(&mut net.env, key).ok_or(Errno::ENOBUFS)?;
    }
    if let Some(n) = net.neigh.get_mut(key) {
        n.protocol = q.tb.get(nda::PROTOCOL).map_or(n.protocol, |p| p.u8());
        n.ext_learned |= q.flags & ntf::EXT_LEARNED != 0;
    }
    if q.flags & ntf::USE != 0 || q.tb.u32(nda::FLAGS_EXT).unwrap_or(0) & EXT_MANAGED != 0 {
        neigh_event_send(net, key);
        return Ok(());
    }
    let old = net.neigh.get(key).map_or(nud::NONE, |n| n.state);
    if q.state & nud::VALID != 0 && lladdr.is_none() && old & nud::VALID == 0 && ethernet {
        return r.ext.err(Errno::EINVAL, "No link layer address given");
    }
    let mut how = Update {
        override_lladdr: true,
        weak_override: false,
        is_router: Some(q.flags & ntf::ROUTER != 0),
        admin: true,
    };
    if !replace && !create {
        how.override_lladdr = false;
    }
    neigh_update(net, key, true, News { lladdr, state: q.state, how });
    Ok(())
}

/// Which proxy entry a request is about; without a device it holds for all.
fn proxy_key(q: &NdReq<'_>, addr: IpAddr) -> NeighKey {
    NeighKey { dev: q.dev.unwrap_or(IfIndex::NONE), addr }
}

/// `ip neigh add proxy`.
fn add_proxy(r: &mut Req<'_, '_>, q: &NdReq<'_>, addr: IpAddr) -> Result<(), Errno> {
    let key = proxy_key(q, addr);
    let p =
        Proxy { router: q.flags & ntf::ROUTER != 0, protocol: q.tb.get(nda::PROTOCOL).map_or(0, |p| p.u8()) };
    let net = r.net_mut()?;
    let new = net.neigh.proxies.get(key).is_none();
    net.neigh.proxies.add(key, p)?;
    // pndisc_constructor: questions for the address must reach us.
    if let (IpAddr::V6(a), true, true) = (addr, new, q.dev.is_some()) {
        mcast::ipv6_dev_mc_inc(net, key.dev, solicited_node(&a));
    }
    Ok(())
}

/// `ip neigh del proxy`.
fn del_proxy(r: &mut Req<'_, '_>, q: &NdReq<'_>, addr: IpAddr) -> Result<(), Errno> {
    let key = proxy_key(q, addr);
    let net = r.net_mut()?;
    net.neigh.proxies.remove(key)?;
    if let (IpAddr::V6(a), true) = (addr, q.dev.is_some()) {
        mcast::ipv6_dev_mc_dec(net, key.dev, solicited_node(&a));
    }
    Ok(())
}

/// `pneigh_fill_info`.
fn fill_proxy(mut m: Msg, key: NeighKey, p: Proxy) -> Vec<u8> {
    m.raw(&[pf_of(Family::of(key.addr)), 0, 0, 0]);
    m.raw(&key.dev.0.to_ne_bytes());
    let flags = ntf::PROXY | if p.router { ntf::ROUTER } else { 0 };
    // NUD_NONE, RTN_UNICAST.
    m.raw(&[0, 0, flags, 1]);
    m.ip(nda::DST, key.addr);
    if p.protocol != 0 {
        m.u8(nda::PROTOCOL, p.protocol);
    }
    m.finish()
}

/// RTM_DELNEIGH (`neigh_delete`).
pub(super) fn delneigh(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let q = read(r)?;
    if !q.tb.has(nda::DST) {
        return r.ext.err(Errno::EINVAL, "Network address not specified");
    }
    if let Some(dev) = q.dev {
        r.net()?.devs.get(dev).ok_or(Errno::ENODEV)?;
    }
    if pf == pf::BRIDGE {
        return Err(Errno::EOPNOTSUPP);
    }
    let f = family(pf).ok_or(Errno::EAFNOSUPPORT)?;
    let Some(addr) = dst(&q, f) else { return r.ext.err(Errno::EINVAL, "Invalid network address") };
    if q.flags & ntf::PROXY != 0 {
        return del_proxy(r, &q, addr);
    }
    let dev = q.dev.ok_or(Errno::EINVAL)?;
    let key = NeighKey { dev, addr };
    let net = r.net_mut()?;
    if net.neigh.get(key).is_none() {
        return Err(Errno::ENOENT);
    }
    // The kernel tells that the entry failed, then that it is gone.
    let how = Update { override_lladdr: true, admin: true, ..Update::default() };
    neigh_update(net, key, false, News { lladdr: None, state: nud::FAILED, how });
    net.neigh.remove(&mut net.env, key);
    net.notify.push(Notify::NeighDel(key));
    Ok(())
}

/// RTM_GETNEIGH for one entry (`neigh_get`).
pub(super) fn getneigh(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    if r.split(NDMSG).is_none() {
        return r.ext.err(Errno::EINVAL, "Invalid header for neighbor get request");
    }
    let q = read(r)?;
    if q.state != 0 || q.flags & !ntf::PROXY != 0 {
        return r.ext.err(Errno::EINVAL, "Invalid values in header for neighbor get request");
    }
    if !q.tb.has(nda::DST) {
        r.ext.miss_type = Some(u32::from(nda::DST));
        return Err(Errno::EINVAL);
    }
    let Some(f) = family(pf) else {
        return r.ext.err(Errno::EAFNOSUPPORT, "Unsupported family in header for neighbor get request");
    };
    let Some(addr) = dst(&q, f) else {
        return r.ext.err(Errno::EINVAL, "Invalid network address in neighbor get request");
    };
    if q.dev.is_some_and(|d| r.net().is_ok_and(|n| n.devs.get(d).is_none())) {
        return r.ext.err(Errno::ENODEV, "Unknown device ifindex");
    }
    if q.flags & ntf::PROXY != 0 {
        let key = proxy_key(&q, addr);
        let Some(p) = r.net()?.neigh.proxies.lookup(key) else {
            return r.ext.err(Errno::ENOENT, "Proxy neighbour entry not found");
        };
        let m = fill_proxy(r.answer(rtm::NEWNEIGH, 0), key, p);
        r.replies.push(m);
        return Ok(());
    }
    let Some(dev) = q.dev else { return r.ext.err(Errno::EINVAL, "No device specified") };
    let net = r.net()?;
    let Some(n) = net.neigh.get(NeighKey { dev, addr }) else {
        return r.ext.err(Errno::ENOENT, "Neighbour entry not found");
    };
    let m = fill(r.answer(rtm::NEWNEIGH, 0), n, kind(addr), net.env.now);
    r.replies.push(m);
    Ok(())
}

/// RTM_GETNEIGH for all (`neigh_dump_info`).
pub(super) fn dump(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let f = family(pf);
    if pf != pf::UNSPEC && f.is_none() {
        r.start(super::super::dump::Nothing::default());
        return Ok(());
    }
    let mut d = NeighDump { ns: r.ns, family: f, ..NeighDump::default() };
    match dump_filter(r, &mut d) {
        Ok(()) => r.start(d),
        Err(e) => r.fail_dump(e, false),
    }
    Ok(())
}

/// `neigh_valid_dump_req`.
fn dump_filter(r: &mut Req<'_, '_>, d: &mut NeighDump) -> Result<(), Errno> {
    let Some((head, attrs)) = r.split(NDMSG) else {
        if r.strict {
            return r.ext.err(Errno::EINVAL, "Invalid header for neighbor dump request");
        }
        return Ok(());
    };
    let mut h = Fields(head);
    let (_, pad1, pad2, index, state) = (h.u8(), h.u8(), h.u16(), h.i32(), h.u16());
    let (flags, kind) = (h.u8(), h.u8());
    d.proxies = flags & ntf::PROXY != 0;
    if r.strict {
        if pad1 != 0 || pad2 != 0 || index != 0 || state != 0 || kind != 0 {
            return r.ext.err(Errno::EINVAL, "Invalid values in header for neighbor dump request");
        }
        if flags & !ntf::PROXY != 0 {
            return r.ext.err(Errno::EINVAL, "Invalid flags in header for neighbor dump request");
        }
    }
    let how = if r.strict { Strictness::Strict } else { Strictness::Liberal };
    let tb = match parse(attrs, &POLICY, how, &mut r.ext) {
        Ok(tb) => tb,
        Err(e) if r.strict => return Err(e),
        Err(_) => return Ok(()),
    };
    if r.strict && tb.iter().any(|a| a.ty != nda::IFINDEX && a.ty != nda::MASTER) {
        return r.ext.err(Errno::EINVAL, "Unsupported attribute in neighbor dump request");
    }
    d.dev = tb.u32(nda::IFINDEX).filter(|i| *i != 0).map(IfIndex);
    d.master = tb.u32(nda::MASTER).filter(|i| *i != 0);
    Ok(())
}

#[derive(Debug, Default)]
struct NeighDump {
    ns: NsId,
    family: Option<Family>,
    dev: Option<IfIndex>,
    master: Option<u32>,
    proxies: bool,
    after: Option<(Family, NeighKey)>,
}

impl NeighDump {
    /// The proxies; `true` at the end.
    fn fill_proxies(
        &mut self,
        (net, seq, portid): (&Namespace, u32, u32),
        flags: u16,
        want: usize,
        out: &mut Out,
    ) -> bool {
        for f in [Family::V4, Family::V6].into_iter().filter(|f| self.family.is_none_or(|w| w == *f)) {
            for (key, p) in net.neigh.proxies.iter(f) {
                let at = (f, key);
                if self.after.is_some_and(|a| at <= a) || self.dev.is_some_and(|d| d != key.dev) {
                    continue;
                }
                if out.bytes() >= want {
                    return false;
                }
                out.push(fill_proxy(Msg::new(rtm::NEWNEIGH, flags, seq, portid), key, p));
                self.after = Some(at);
            }
        }
        true
    }
}

impl Source for NeighDump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        if self.master.is_some() {
            return Ok(true);
        }
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        let flags = nlm_f::MULTI | if self.filtered() { nlm_f::DUMP_FILTERED } else { 0 };
        if self.proxies {
            return Ok(self.fill_proxies((net, cx.seq, cx.portid), flags, want, out));
        }
        let mut all = net.neigh.sorted();
        all.retain(|n| self.family.is_none_or(|f| f == Family::of(n.key.addr)));
        all.sort_by_key(|n| (Family::of(n.key.addr), n.key));
        for n in all {
            let at = (Family::of(n.key.addr), n.key);
            let skip = self.after.is_some_and(|a| at <= a) || self.dev.is_some_and(|d| d != n.key.dev);
            if skip {
                continue;
            }
            if out.bytes() >= want {
                return Ok(false);
            }
            out.push(fill(
                Msg::new(rtm::NEWNEIGH, flags, cx.seq, cx.portid),
                n,
                kind(n.key.addr),
                net.env.now,
            ));
            self.after = Some(at);
        }
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
    fn done_in_last(&self) -> bool {
        true
    }
    fn filtered(&self) -> bool {
        self.dev.is_some() || self.master.is_some()
    }
}
