//! RTM_GETLINK and the content of RTM_NEWLINK (`rtnl_fill_ifinfo`).

use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_stack::dev::{DevKind, DevStats, Device, iff};
use ferronet_stack::notify::LinkThen;

use super::super::Req;
use super::super::codec::{Fields, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Out, Source};
use super::super::notify;
use super::link_af::{fill_af, fill_inet6};
use super::{ifindex, pf, rtm};
use crate::kernel::Kernel;

/// Attributes of a link (`IFLA_*`).
#[allow(missing_docs, reason = "linux/if_link.h")]
pub(in super::super) mod ifla {
    pub(crate) const ADDRESS: u16 = 1;
    pub(crate) const BROADCAST: u16 = 2;
    pub(crate) const IFNAME: u16 = 3;
    pub(crate) const MTU: u16 = 4;
    pub(crate) const LINK: u16 = 5;
    pub(crate) const QDISC: u16 = 6;
    pub(crate) const STATS: u16 = 7;
    pub(crate) const MASTER: u16 = 10;
    pub(crate) const PROTINFO: u16 = 12;
    pub(crate) const TXQLEN: u16 = 13;
    pub(crate) const MAP: u16 = 14;
    pub(crate) const OPERSTATE: u16 = 16;
    pub(crate) const LINKMODE: u16 = 17;
    pub(crate) const LINKINFO: u16 = 18;
    pub(crate) const NET_NS_PID: u16 = 19;
    pub(crate) const IFALIAS: u16 = 20;
    pub(crate) const STATS64: u16 = 23;
    pub(crate) const AF_SPEC: u16 = 26;
    pub(crate) const GROUP: u16 = 27;
    pub(crate) const NET_NS_FD: u16 = 28;
    pub(crate) const EXT_MASK: u16 = 29;
    pub(crate) const CARRIER: u16 = 33;
    pub(crate) const PROTO_DOWN: u16 = 39;
    pub(crate) const LINK_NETNSID: u16 = 37;
    pub(crate) const XDP: u16 = 43;
    pub(crate) const NEW_NETNSID: u16 = 45;
    pub(crate) const TARGET_NETNSID: u16 = 46;
    pub(crate) const NEW_IFINDEX: u16 = 49;
    pub(crate) const PROP_LIST: u16 = 52;
    pub(crate) const ALT_IFNAME: u16 = 53;
}

/// Bytes of `struct ifinfomsg`.
pub(super) const IFINFO: usize = 16;

/// `ifla_policy`.
#[rustfmt::skip]
pub(super) const POLICY: [Policy; 70] = {
    use Policy::{Any, Binary, Flag, Min, Nested, Reject, S32, Str, U8, U16, U32, U64};
    [
        Any, Binary(32), Binary(32), Str(15), U32, U32, Any, Any, Any, Any, // 0 to 9
        U32, Any, Any, U32, Min(24), U32, U8, U8, Nested, U32, // 10 to 19
        Binary(255), Any, Nested, Any, Nested, Nested, Nested, U32, U32, U32, // 20 to 29
        U32, U32, U32, U8, Binary(32), U32, Binary(32), S32, Str(15), U8, // 30 to 39
        U32, U32, Any, Nested, U32, S32, S32, U32, U32, S32, // 40 to 49
        U32, U32, Nested, Str(127), Reject, Nested, Reject, Any, U32, U32, // 50 to 59
        U32, Reject, Any, U32, U32, Reject, U64, U8, U16, Flag, // 60 to 69
    ]
};

/// What one `RTM_NEWLINK` is made for.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct View {
    /// `RTM_NEWLINK` or `RTM_DELLINK`.
    pub(in super::super) ty: u16,
    pub(in super::super) flags: u16,
    pub(in super::super) seq: u32,
    pub(in super::super) portid: u32,
    /// `ifi_change`.
    pub(in super::super) change: u32,
    /// `IFLA_EXT_MASK` of the asker.
    pub(in super::super) ext_mask: u32,
}

/// `ARPHRD_*` of a device.
pub(in super::super) fn dev_type(d: &Device) -> u16 {
    d.kind.info().arphrd
}

/// The name of the device's kind, as `ip link add type KIND` knows it.
pub(super) fn kind_name(d: &Device) -> Option<&'static str> {
    d.kind.info().name
}

/// Has the partner in the same namespace a carrier? `None` when there is no such partner.
fn peer_carrier(k: &Kernel, ns: NsId, d: &Device) -> Option<bool> {
    let (_, peer) = d.peer().filter(|p| p.1 != d.index)?;
    k.world.ns(ns)?.devs.get(peer).map(|p| p.carrier)
}

/// RFC 2863 operational state (`default_operstate`).
fn operstate(d: &Device, peer_carrier: Option<bool>) -> u8 {
    const UNKNOWN: u8 = 0;
    const DOWN: u8 = 2;
    const LOWERLAYERDOWN: u8 = 3;
    const UP: u8 = 6;
    let is_veth = matches!(d.kind, DevKind::Veth(_));
    match (d.is_up(), d.carrier, peer_carrier) {
        (false, ..) => DOWN,
        // Devices whose carrier was never off have no link event that would say more.
        (true, true, _) => {
            if is_veth {
                UP
            } else {
                UNKNOWN
            }
        }
        (true, false, Some(false)) => LOWERLAYERDOWN,
        (true, false, Some(true) | None) => DOWN,
    }
}

/// Name of the queueing discipline: `noop` before the device was up for the first time.
fn qdisc(d: &Device) -> &'static str {
    match &d.netem {
        Some(n) if !n.params().is_transparent() => "netem",
        _ if !d.activated => "noop",
        _ if matches!(d.kind, DevKind::Backend { .. }) => "pfifo_fast",
        _ => "noqueue",
    }
}

fn ifinfo(m: &mut Msg, family: u8, d: &Device, flags: u32, change: u32) {
    m.raw(&[family, 0]);
    // `raw` pads to four bytes: the type belongs into the second half of the first word.
    let at = m.len() - 2;
    m.patch(at, &dev_type(d).to_ne_bytes());
    m.raw(&d.index.0.to_ne_bytes());
    m.raw(&flags.to_ne_bytes());
    m.raw(&change.to_ne_bytes());
}

/// The number of the namespace of a veth's partner, when that is another; given out when needed.
fn link_netnsid(k: &mut Kernel, ns: NsId, d: Option<(NsId, IfIndex)>) -> Option<i32> {
    d.filter(|p| p.0 != ns).map(|p| notify::peernet2id_alloc(k, ns, p.0))
}

/// The message about a device; `None` when it is not there. Numbers the peer's namespace when needed.
pub(in super::super) fn fill(k: &mut Kernel, ns: NsId, dev: IfIndex, v: View) -> Option<Vec<u8>> {
    let peer = k.world.ns(ns)?.devs.get(dev)?.peer();
    let netnsid = link_netnsid(k, ns, peer);
    let d = k.world.ns(ns)?.devs.get(dev)?;
    let about = About { netnsid, operstate: operstate(d, peer_carrier(k, ns, d)), ..About::default() };
    Some(message(d, v, about))
}

/// The message about what a device was when something happened to it.
pub(in super::super) fn fill_then(k: &mut Kernel, ns: NsId, then: &LinkThen, v: View) -> Vec<u8> {
    let d = &then.dev;
    let netnsid = link_netnsid(k, ns, d.peer());
    let moved = then.moved.map(|(to, i)| (notify::peernet2id_alloc(k, ns, to), i));
    let lower_up = then.lower_up;
    message(d, v, About { netnsid, operstate: operstate(d, then.peer_carrier), lower_up, moved })
}

/// What a message says beyond the device itself.
#[derive(Clone, Copy, Default)]
struct About {
    netnsid: Option<i32>,
    operstate: u8,
    /// There is a carrier that the operational state does not know of yet.
    lower_up: bool,
    /// Where it went: `IFLA_NEW_NETNSID`, `IFLA_NEW_IFINDEX`.
    moved: Option<(i32, IfIndex)>,
}

/// `rtnl_fill_ifinfo`.
fn message(d: &Device, v: View, about: About) -> Vec<u8> {
    let gone = v.ty == rtm::DELLINK;
    let mut m = Msg::new(v.ty, v.flags, v.seq, v.portid);
    let flags = d.dev_flags() | if about.lower_up { iff::LOWER_UP } else { 0 };
    ifinfo(&mut m, pf::UNSPEC, d, flags, v.change);
    fill_device(&mut m, d, about);
    fill_stats(&mut m, &d.stats);
    let xdp = m.nest(ifla::XDP);
    m.u8(2, 0);
    m.end(xdp);
    fill_linkinfo(&mut m, d);
    if let Some(id) = about.netnsid {
        m.i32(ifla::LINK_NETNSID, id);
    }
    if let Some((id, i)) = about.moved {
        m.i32(ifla::NEW_NETNSID, id);
        m.u32(ifla::NEW_IFINDEX, i.0);
    }
    match d.peer() {
        Some((_, i)) if about.netnsid.is_some() || i != d.index => m.u32(ifla::LINK, i.0),
        None if matches!(d.kind, DevKind::Veth(None)) => m.u32(ifla::LINK, 0),
        Some(_) | None => {}
    }
    m.str(ifla::QDISC, qdisc(d));
    if gone {
        // The protocols left it before it was unregistered.
        let n = m.nest(ifla::AF_SPEC);
        m.end(n);
    } else {
        fill_af(&mut m, d, v.ext_mask);
    }
    m.put(ifla::MAP, &[0; 32]);
    if !d.altnames.is_empty() {
        let n = m.nest(ifla::PROP_LIST | super::super::codec::NLA_F_NESTED);
        for a in &d.altnames {
            m.str(ifla::ALT_IFNAME, a);
        }
        m.end(n);
    }
    // IFLA_DEVLINK_PORT and IFLA_DPLL_PIN: nested and empty.
    m.put(62 | super::super::codec::NLA_F_NESTED, &[]);
    m.put(65 | super::super::codec::NLA_F_NESTED, &[]);
    m.finish()
}

/// The attributes up to the counters.
fn fill_device(m: &mut Msg, d: &Device, about: About) {
    let (min, max) = (d.kind.info().min_mtu, d.kind.info().max_mtu);
    let tso = if matches!(d.kind, DevKind::Backend { .. }) { 65536 } else { 0x7fff8 };
    m.str(ifla::IFNAME, &d.name);
    m.u32(ifla::TXQLEN, d.tx_queue_len);
    m.u8(ifla::OPERSTATE, about.operstate);
    m.u8(ifla::LINKMODE, 0);
    // IFLA_NETNS_IMMUTABLE.
    m.u8(67, u8::from(d.is_loopback()));
    m.u32(ifla::MTU, d.mtu);
    m.u32(50, min);
    m.u32(51, max);
    m.u32(ifla::GROUP, d.group);
    // IFLA_PROMISCUITY, IFLA_ALLMULTI: counts of users.
    m.u32(30, u32::from(d.flags & iff::PROMISC != 0));
    m.u32(61, u32::from(d.flags & iff::ALLMULTI != 0));
    m.u32(31, 1);
    // GSO_MAX_SEGS, GSO_MAX_SIZE, GRO_MAX_SIZE, their IPv4 counterparts, TSO_MAX_SIZE, TSO_MAX_SEGS.
    for (ty, v) in
        [(40, 65535), (41, 65536), (58, 65536), (63, 65536), (64, 65536), (59, tso), (60, 65535), (66, 0)]
    {
        m.u32(ty, v);
    }
    m.u32(32, 1);
    m.u8(ifla::CARRIER, u8::from(d.carrier || about.lower_up));
    if !d.alias.is_empty() {
        m.str(ifla::IFALIAS, &d.alias);
    }
    let [up, down] = d.carrier_changes;
    m.u32(35, up.wrapping_add(down));
    m.u32(47, up);
    m.u32(48, down);
    // IFLA_HEADROOM, IFLA_TAILROOM, IFLA_PROTO_DOWN.
    m.u16(68, 0);
    m.u16(69, 0);
    m.u8(39, 0);
    if d.has_ethernet() {
        m.put(ifla::ADDRESS, &d.mac.0);
        m.put(ifla::BROADCAST, if d.is_loopback() { &[0; 6] } else { &[0xff; 6] });
    }
}

/// `struct rtnl_link_stats64` and the 32-bit one.
fn fill_stats(m: &mut Msg, s: &DevStats) {
    let v = stats64(s);
    let wide: Vec<u8> = v.iter().flat_map(|n| n.to_ne_bytes()).collect();
    m.put(ifla::STATS64, &wide);
    let narrow: Vec<u8> = v.iter().take(24).flat_map(|n| (*n as u32).to_ne_bytes()).collect();
    m.put(ifla::STATS, &narrow);
}

fn stats64(s: &DevStats) -> [u64; 25] {
    [
        s.rx_packets,
        s.tx_packets,
        s.rx_bytes,
        s.tx_bytes,
        s.rx_errors,
        s.tx_errors,
        s.rx_dropped,
        s.tx_dropped,
        s.multicast,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        s.tx_carrier_errors,
        0,
        0,
        0,
        0,
        0,
        s.rx_nohandler,
        0,
    ]
}

fn fill_linkinfo(m: &mut Msg, d: &Device) {
    let Some(kind) = kind_name(d) else { return };
    let info = m.nest(ifla::LINKINFO);
    m.str(1, kind);
    if let DevKind::Backend { ethernet, .. } = d.kind {
        let data = m.nest(2);
        // IFLA_TUN_TYPE, PI, VNET_HDR, PERSIST, MULTI_QUEUE.
        let [pi, vnet_hdr, persist] = [d.tun.pi, d.tun.vnet_hdr, d.tun.persist].map(u8::from);
        for (ty, v) in [(3, if ethernet { 2 } else { 1 }), (4, pi), (5, vnet_hdr), (6, persist), (7, 0)] {
            m.u8(ty, v);
        }
        m.end(data);
    }
    m.end(info);
}

/// The message of `ip -6 link` (`inet6_fill_ifinfo`).
fn fill6(k: &Kernel, ns: NsId, d: &Device, v: View) -> Vec<u8> {
    let mut m = Msg::new(v.ty, v.flags, v.seq, v.portid);
    ifinfo(&mut m, pf::INET6, d, d.dev_flags(), 0);
    m.str(ifla::IFNAME, &d.name);
    if d.has_ethernet() {
        m.put(ifla::ADDRESS, &d.mac.0);
    }
    m.u32(ifla::MTU, d.mtu);
    if let Some((_, i)) = d.peer().filter(|p| p.1 != d.index) {
        m.u32(ifla::LINK, i.0);
    }
    m.u8(ifla::OPERSTATE, operstate(d, peer_carrier(k, ns, d)));
    let n = m.nest(ifla::PROTINFO);
    fill_inet6(&mut m, d, 0);
    m.end(n);
    m.finish()
}

/// RTM_GETLINK for one device (`rtnl_getlink`).
pub(super) fn get(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let Some((head, attrs)) = r.split(IFINFO) else {
        return r.ext.err(Errno::EINVAL, "Invalid header for get link");
    };
    let mut f = Fields(head);
    let (_, pad, ty, index, flags, change) = (f.u8(), f.u8(), f.u16(), f.i32(), f.u32(), f.u32());
    let how = if r.strict { Strictness::Strict } else { Strictness::Liberal };
    if r.strict && (pad != 0 || ty != 0 || flags != 0 || change != 0) {
        return r.ext.err(Errno::EINVAL, "Invalid values in header for get link request");
    }
    let tb = parse(attrs, &POLICY, how, &mut r.ext)?;
    let fits = |t| [ifla::IFNAME, ifla::EXT_MASK, ifla::ALT_IFNAME, ifla::TARGET_NETNSID].contains(&t);
    if r.strict && tb.iter().any(|a| !fits(a.ty)) {
        return r.ext.err(Errno::EINVAL, "Unsupported attribute in get link request");
    }
    let ns = super::link_set::target_netnsid(r, &tb)?.unwrap_or(r.ns);
    let net = r.kernel.world.ns(ns).ok_or(Errno::ENODEV)?;
    let name = tb.get(ifla::IFNAME).or(tb.get(ifla::ALT_IFNAME)).map(|a| a.str());
    let dev = match (index, name) {
        (i, _) if i > 0 => ifindex(i).and_then(|i| net.devs.get(i)),
        (_, Some(n)) => net.devs.by_name(&n),
        (_, None) => return Err(Errno::EINVAL),
    };
    let dev = dev.ok_or(Errno::ENODEV)?.index;
    let v = View {
        ty: rtm::NEWLINK,
        flags: 0,
        seq: r.hdr.seq,
        portid: r.portid,
        change: 0,
        ext_mask: tb.u32(ifla::EXT_MASK).unwrap_or(0),
    };
    let m = fill(r.kernel, ns, dev, v).ok_or(Errno::ENODEV)?;
    r.replies.push(m);
    Ok(())
}

/// RTM_GETLINK for all devices (`rtnl_dump_ifinfo`, `inet6_dump_ifinfo`).
pub(super) fn dump(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    if pf == pf::BRIDGE {
        // No bridges: no ports.
        r.start(super::super::dump::Nothing::default());
        return Ok(());
    }
    let mut d = LinkDump { ns: r.ns, v6: pf == pf::INET6, ..LinkDump::default() };
    if let Err(e) = dump_filter(r, &mut d) {
        r.fail_dump(e, false);
        return Ok(());
    }
    r.start(d);
    Ok(())
}

fn dump_filter(r: &mut Req<'_, '_>, d: &mut LinkDump) -> Result<(), Errno> {
    let full = r.split(IFINFO);
    if r.strict && !d.v6 {
        let Some((head, _)) = full else {
            return r.ext.err(Errno::EINVAL, "Invalid header for link dump");
        };
        let mut f = Fields(head);
        let (_, pad, ty, index, flags, change) = (f.u8(), f.u8(), f.u16(), f.i32(), f.u32(), f.u32());
        if pad != 0 || ty != 0 || flags != 0 || change != 0 {
            return r.ext.err(Errno::EINVAL, "Invalid values in header for link dump request");
        }
        if index != 0 {
            return r.ext.err(Errno::EINVAL, "Filter by device index not supported for link dump");
        }
    }
    if d.v6 {
        return Ok(());
    }
    // Old programs send struct rtgenmsg instead of struct ifinfomsg.
    let Some((_, attrs)) = full.or_else(|| r.split(1)) else { return Ok(()) };
    let how = if r.strict { Strictness::Strict } else { Strictness::Liberal };
    let tb = match parse(attrs, &POLICY, how, &mut r.ext) {
        Ok(tb) => tb,
        Err(e) if r.strict => return Err(e),
        Err(_) => return Ok(()),
    };
    let fits = |t| [ifla::TARGET_NETNSID, ifla::EXT_MASK, ifla::MASTER, ifla::LINKINFO].contains(&t);
    if r.strict && tb.iter().any(|a| !fits(a.ty)) {
        return r.ext.err(Errno::EINVAL, "Unsupported attribute in link dump request");
    }
    if let Some(ns) = super::link_set::target_netnsid(r, &tb)? {
        d.ns = ns;
    }
    d.ext_mask = tb.u32(ifla::EXT_MASK).unwrap_or(0);
    d.master = tb.u32(ifla::MASTER).filter(|m| *m != 0);
    let kind = tb.get(ifla::LINKINFO).and_then(|a| a.nested().find(|a| a.ty == 1)).map(|a| a.str());
    d.kind = kind.filter(|k| ["veth", "dummy", "tun"].contains(&k.as_str()));
    Ok(())
}

#[derive(Debug, Default)]
struct LinkDump {
    ns: NsId,
    v6: bool,
    ext_mask: u32,
    master: Option<u32>,
    kind: Option<String>,
    after: u32,
}

impl Source for LinkDump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        let all: Vec<IfIndex> = net
            .devs
            .iter()
            .filter(|d| d.index.0 > self.after)
            .filter(|d| self.master.is_none() && self.kind.as_deref().is_none_or(|k| kind_name(d) == Some(k)))
            .map(|d| d.index)
            .collect();
        for i in all {
            if out.bytes() >= want {
                return Ok(false);
            }
            let v = View {
                ty: rtm::NEWLINK,
                flags: nlm_f::MULTI,
                seq: cx.seq,
                portid: cx.portid,
                change: 0,
                ext_mask: self.ext_mask,
            };
            let m = if self.v6 {
                let d = cx.kernel.world.ns(self.ns).and_then(|n| n.devs.get(i));
                d.map(|d| fill6(cx.kernel, self.ns, d, v))
            } else {
                fill(cx.kernel, self.ns, i, v)
            };
            if let Some(m) = m {
                out.push(m);
            }
            self.after = i.0;
        }
        Ok(true)
    }
    fn generation(&self, k: &Kernel, ns: NsId) -> u64 {
        super::generation(k, ns)
    }
    fn done_in_last(&self) -> bool {
        self.v6
    }
    fn filtered(&self) -> bool {
        self.master.is_some() || self.kind.is_some()
    }
}
