//! RTM_GETNETCONF: tunables of devices as `ip netconf` shows them (`inet_netconf_fill_devconf`,
//! `inet6_netconf_fill_devconf`).

use ferronet_core::sysctl::{Conf4, Conf6};
use ferronet_core::{Errno, NsId};
use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;
use ferronet_stack::notify::{ConfChange, NetConf};
use ferronet_stack::sysctl::Row;

use super::super::Req;
use super::super::codec::{Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Out, Source};
use super::{family, ifindex, pf, pf_of, rtm};
use crate::kernel::Kernel;

/// Attributes (`NETCONFA_*`).
mod netconfa {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const FORWARDING: u16 = 2;
    pub(super) const RP_FILTER: u16 = 3;
    pub(super) const MC_FORWARDING: u16 = 4;
    pub(super) const PROXY_NEIGH: u16 = 5;
    pub(super) const IGNORE_ROUTES_WITH_LINKDOWN: u16 = 6;
    pub(super) const BC_FORWARDING: u16 = 8;
}

/// `NETCONFA_IFINDEX_ALL`: the row that holds for all devices.
const ALL: i32 = -1;
/// `NETCONFA_IFINDEX_DEFAULT`: the row that new devices copy.
const DEFAULT: i32 = -2;

const POLICY: [Policy; 2] = [Policy::Any, Policy::S32];

/// The message about a change, or about values that went with their device.
pub(in super::super) fn notice(net: &Namespace, n: NetConf, (portid, seq): (u32, u32)) -> Option<Vec<u8>> {
    let ty = if n.gone { rtm::DELNETCONF } else { rtm::NEWNETCONF };
    let mut m = Msg::new(ty, 0, seq, portid);
    let index = match n.row {
        Row::All => ALL,
        Row::Default => DEFAULT,
        Row::Dev(i) => i.0.cast_signed(),
    };
    if n.gone {
        m.raw(&[pf_of(n.family), 0, 0, 0]);
        m.i32(netconfa::IFINDEX, index);
        return Some(m.finish());
    }
    let only = n.what.map(|w| match w {
        ConfChange::Forwarding => netconfa::FORWARDING,
        ConfChange::RpFilter => netconfa::RP_FILTER,
        ConfChange::ProxyNeigh => netconfa::PROXY_NEIGH,
        ConfChange::IgnoreRoutesWithLinkdown => netconfa::IGNORE_ROUTES_WITH_LINKDOWN,
    });
    fill(net, n.family, (index, only), m)
}

/// The values of a device, or of one of the two rows; all or `only` one. `None` when there is no such device.
fn fill(net: &Namespace, f: Family, (index, only): (i32, Option<u16>), mut m: Msg) -> Option<Vec<u8>> {
    m.raw(&[pf_of(f), 0, 0, 0]);
    m.i32(netconfa::IFINDEX, index);
    let dev = ifindex(index).and_then(|i| net.devs.get(i));
    if index > 0 && dev.is_none() {
        return None;
    }
    let rows: Vec<(u16, i32)> = match f {
        Family::V4 => {
            let conf = match (index, dev) {
                (ALL, _) => &net.conf.all4,
                (_, Some(d)) => &d.conf4,
                _ => &net.conf.default4,
            };
            vec![
                (netconfa::FORWARDING, conf.get(Conf4::Forwarding)),
                (netconfa::RP_FILTER, conf.get(Conf4::RpFilter)),
                (netconfa::MC_FORWARDING, conf.get(Conf4::McForwarding)),
                (netconfa::BC_FORWARDING, conf.get(Conf4::BcForwarding)),
                (netconfa::PROXY_NEIGH, conf.get(Conf4::ProxyArp)),
                (netconfa::IGNORE_ROUTES_WITH_LINKDOWN, conf.get(Conf4::IgnoreRoutesWithLinkdown)),
            ]
        }
        Family::V6 => {
            let conf = match (index, dev) {
                (ALL, _) => &net.conf.all6,
                (_, Some(d)) => &d.conf6,
                _ => &net.conf.default6,
            };
            vec![
                (netconfa::FORWARDING, conf.get(Conf6::Forwarding)),
                (netconfa::MC_FORWARDING, conf.get(Conf6::McForwarding)),
                (netconfa::PROXY_NEIGH, conf.get(Conf6::ProxyNdp)),
                (netconfa::IGNORE_ROUTES_WITH_LINKDOWN, conf.get(Conf6::IgnoreRoutesWithLinkdown)),
            ]
        }
    };
    for (ty, v) in rows.into_iter().filter(|r| only.is_none_or(|o| o == r.0)) {
        m.i32(ty, v);
    }
    Some(m.finish())
}

/// One device or row.
pub(super) fn get(r: &mut Req<'_, '_>, f: Family) -> Result<(), Errno> {
    let (_, attrs) = r.split(4).or_else(|| r.split(1)).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let index = tb.get(netconfa::IFINDEX).map(|a| a.i32()).ok_or(Errno::EINVAL)?;
    if index == 0 || index < DEFAULT {
        return Err(Errno::EINVAL);
    }
    let m = r.answer(rtm::NEWNETCONF, 0);
    let m = fill(r.net()?, f, (index, None), m).ok_or(Errno::EINVAL)?;
    r.replies.push(m);
    Ok(())
}

/// All devices, then the two rows; of both families when none is named.
pub(super) fn dump(r: &mut Req<'_, '_>, family_wanted: u8) -> Result<(), Errno> {
    let families = match family(family_wanted) {
        Some(f) => vec![f],
        None if family_wanted == pf::UNSPEC => vec![Family::V4, Family::V6],
        None => return Err(Errno::EOPNOTSUPP),
    };
    let net = r.net()?;
    let devices = net.devs.iter().map(|d| d.index.0.cast_signed());
    let rows: Vec<i32> = devices.chain([ALL, DEFAULT]).collect();
    let all = families.into_iter().flat_map(|f| rows.iter().map(move |i| (f, *i))).collect();
    r.start(Rows { ns: r.ns, all, done: 0 });
    Ok(())
}

#[derive(Debug)]
struct Rows {
    ns: NsId,
    all: Vec<(Family, i32)>,
    done: usize,
}

impl Source for Rows {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        for (f, index) in self.all.iter().skip(self.done) {
            if out.bytes() >= want {
                return Ok(false);
            }
            let m = Msg::new(rtm::NEWNETCONF, nlm_f::MULTI, cx.seq, cx.portid);
            if let Some(m) = fill(net, *f, (*index, None), m) {
                out.push(m);
            }
            self.done += 1;
        }
        Ok(true)
    }
    fn generation(&self, k: &Kernel, ns: NsId) -> u64 {
        super::generation(k, ns)
    }
}
