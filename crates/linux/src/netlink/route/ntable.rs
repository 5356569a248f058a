//! RTM_GETNEIGHTBL, RTM_SETNEIGHTBL: the tables of neighbours and their parameters, `ip ntable`
//! (`neightbl_dump_info`, `neightbl_set` of `net/core/neighbour.c`).

use ferronet_core::sysctl::{NeighParm, NeighParms};
use ferronet_core::{Errno, NsId, Sysctl};
use ferronet_stack::Namespace;
use ferronet_stack::fib::Family;
use ferronet_stack::sysctl::Row;

use super::super::Req;
use super::super::codec::{AttrIter, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Out, Source};
use super::{family, ifindex, pf_of, rtm};
use crate::kernel::Kernel;

/// Attributes of a table (`NDTA_*`).
mod ndta {
    pub(super) const NAME: u16 = 1;
    pub(super) const THRESH1: u16 = 2;
    pub(super) const THRESH2: u16 = 3;
    pub(super) const THRESH3: u16 = 4;
    pub(super) const CONFIG: u16 = 5;
    pub(super) const PARMS: u16 = 6;
    pub(super) const STATS: u16 = 7;
    pub(super) const GC_INTERVAL: u16 = 8;
}

/// Attributes of parameters (`NDTPA_*`).
mod ndtpa {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const REFCNT: u16 = 2;
    pub(super) const REACHABLE_TIME: u16 = 3;
    pub(super) const QUEUE_LEN: u16 = 8;
    pub(super) const QUEUE_LENBYTES: u16 = 16;
}

/// `nl_neightbl_policy`.
const POLICY: [Policy; 9] = {
    use Policy::{Any, Nested, Str, U32, U64};
    [Any, Str(0), U32, U32, U32, Any, Nested, Any, U64]
};
/// `nl_ntbl_parm_policy`.
#[rustfmt::skip]
const PARM_POLICY: [Policy; 20] = {
    use Policy::{Any, U32, U64};
    [
        Any, U32, Any, Any, U64, U64, U64, U64, U32, U32,
        U32, U32, U64, U64, U32, U64, U32, U32, Any, U64,
    ]
};
/// Bytes of an unresolved packet that `queue` counts (`SKB_TRUESIZE(ETH_FRAME_LEN)`).
const ETH_TRUESIZE: u32 = 2090;

/// Numbers, in the order of the kernel's message.
const NUMBERS: [(u16, NeighParm); 5] = [
    (14, NeighParm::ProxyQlen),
    (9, NeighParm::AppSolicit),
    (10, NeighParm::UcastSolicit),
    (11, NeighParm::McastSolicit),
    (17, NeighParm::McastResolicit),
];
/// Times, likewise, with the milliseconds that one unit of the stored value is.
const TIMES: [(u16, NeighParm, u64); 8] = [
    (4, NeighParm::BaseReachableTimeMs, 1),
    (6, NeighParm::GcStaleTime, 1000),
    (7, NeighParm::DelayFirstProbeTime, 1000),
    (5, NeighParm::RetransTimeMs, 1),
    (12, NeighParm::AnycastDelay, 10),
    (13, NeighParm::ProxyDelay, 10),
    (15, NeighParm::Locktime, 10),
    (19, NeighParm::IntervalProbeTimeMs, 1),
];

fn name(f: Family) -> &'static str {
    match f {
        Family::V4 => "arp_cache",
        Family::V6 => "ndisc_cache",
    }
}

/// `neightbl_fill_parms`.
fn parms(m: &mut Msg, p: &NeighParms, dev: Option<u32>) {
    let value = |n| u64::try_from(p.get(n)).unwrap_or(0);
    let nest = m.nest(ndta::PARMS);
    if let Some(i) = dev {
        m.u32(ndtpa::IFINDEX, i);
    }
    m.u32(ndtpa::REFCNT, 1);
    let bytes = p.get(NeighParm::UnresQlenBytes).cast_unsigned();
    m.u32(ndtpa::QUEUE_LENBYTES, bytes);
    m.u32(ndtpa::QUEUE_LEN, bytes / ETH_TRUESIZE);
    for (ty, n) in NUMBERS {
        m.u32(ty, p.get(n).cast_unsigned());
    }
    // The time in use is drawn anew for each neighbour here, around the base.
    m.u64(ndtpa::REACHABLE_TIME, value(NeighParm::BaseReachableTimeMs));
    for (ty, n, unit) in TIMES {
        m.u64(ty, value(n) * unit);
    }
    m.end(nest);
}

/// `neightbl_fill_info`: the table with the parameters of `default`.
fn table(mut m: Msg, net: &Namespace, f: Family) -> Vec<u8> {
    let (keys, t, p) = match f {
        Family::V4 => (
            4_u16,
            [Sysctl::Neigh4GcThresh1, Sysctl::Neigh4GcThresh2, Sysctl::Neigh4GcThresh3],
            &net.conf.neigh4,
        ),
        Family::V6 => (
            16,
            [Sysctl::Neigh6GcThresh1, Sysctl::Neigh6GcThresh2, Sysctl::Neigh6GcThresh3],
            &net.conf.neigh6,
        ),
    };
    m.raw(&[pf_of(f), 0, 0, 0]);
    m.str(ndta::NAME, name(f));
    // neigh_periodic_work runs twice a minute.
    m.u64(ndta::GC_INTERVAL, 30_000);
    for (ty, s) in [ndta::THRESH1, ndta::THRESH2, ndta::THRESH3].into_iter().zip(t) {
        m.u32(ty, u32::try_from(net.env.sysctl.get(s)).unwrap_or(0));
    }
    // struct ndt_config: sizes and entries; hashes are not told. struct ndt_stats: not counted by table.
    let entries = u32::try_from(net.neigh.count(f)).unwrap_or(u32::MAX);
    let mut config = [0; 32];
    for (slot, b) in config
        .iter_mut()
        .zip(keys.to_ne_bytes().into_iter().chain((332 + keys).to_ne_bytes()).chain(entries.to_ne_bytes()))
    {
        *slot = b;
    }
    m.put(ndta::CONFIG, &config);
    m.put(ndta::STATS, &[0; 88]);
    parms(&mut m, p, None);
    m.finish()
}

/// `neightbl_fill_param_info`: the parameters of one device.
fn param(mut m: Msg, f: Family, p: &NeighParms, dev: u32) -> Vec<u8> {
    m.raw(&[pf_of(f), 0, 0, 0]);
    m.str(ndta::NAME, name(f));
    parms(&mut m, p, Some(dev));
    m.finish()
}

/// All tables, each followed by its devices, the newest first.
pub(super) fn dump(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let wanted = family(pf);
    let net = r.net()?;
    let mut devs: Vec<u32> = net.devs.iter().map(|d| d.index.0).collect();
    devs.reverse();
    let families = [Family::V4, Family::V6].into_iter().filter(|f| wanted.is_none_or(|w| w == *f));
    let rows = |f| core::iter::once((f, None)).chain(devs.iter().map(move |d| (f, Some(*d))));
    let all = families.flat_map(rows).collect();
    r.start(Tables { ns: r.ns, all, done: 0 });
    Ok(())
}

#[derive(Debug)]
struct Tables {
    ns: NsId,
    all: Vec<(Family, Option<u32>)>,
    done: usize,
}

impl Source for Tables {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        for (f, dev) in self.all.iter().skip(self.done) {
            if out.bytes() >= want {
                return Ok(false);
            }
            let m = Msg::new(rtm::NEWNEIGHTBL, nlm_f::MULTI, cx.seq, cx.portid);
            match dev {
                None => out.push(table(m, net, *f)),
                Some(i) => {
                    if let Some(d) = net.devs.get(ferronet_core::IfIndex(*i)) {
                        let p = if *f == Family::V4 { &d.neigh4 } else { &d.neigh6 };
                        out.push(param(m, *f, p, *i));
                    }
                }
            }
            self.done += 1;
        }
        Ok(true)
    }
    fn generation(&self, k: &Kernel, ns: NsId) -> u64 {
        super::generation(k, ns)
    }
}

/// `neightbl_set`.
pub(super) fn set(r: &mut Req<'_, '_>, pf: u8) -> Result<(), Errno> {
    let (_, attrs) = r.split(4).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let named = tb.get(ndta::NAME).map(|a| a.str()).ok_or(Errno::EINVAL)?;
    let f = [Family::V4, Family::V6]
        .into_iter()
        .find(|f| family(pf).is_none_or(|w| w == *f) && name(*f) == named)
        .ok_or(Errno::ENOENT)?;
    if let Some(nest) = tb.get(ndta::PARMS) {
        set_parms(r, f, nest.nested())?;
    }
    let thresholds = match f {
        Family::V4 => [Sysctl::Neigh4GcThresh1, Sysctl::Neigh4GcThresh2, Sysctl::Neigh4GcThresh3],
        Family::V6 => [Sysctl::Neigh6GcThresh1, Sysctl::Neigh6GcThresh2, Sysctl::Neigh6GcThresh3],
    };
    let any = [ndta::THRESH1, ndta::THRESH2, ndta::THRESH3, ndta::GC_INTERVAL].iter().any(|t| tb.has(*t));
    let net = r.net_mut()?;
    if any && !net.init {
        // They hold for all namespaces and belong to the initial one.
        return Err(Errno::ENOENT);
    }
    for (ty, s) in [ndta::THRESH1, ndta::THRESH2, ndta::THRESH3].into_iter().zip(thresholds) {
        if let Some(v) = tb.u32(ty) {
            net.env.sysctl.set(s, i64::from(v.cast_signed().max(0)));
        }
    }
    Ok(())
}

fn set_parms(r: &mut Req<'_, '_>, f: Family, attrs: AttrIter<'_>) -> Result<(), Errno> {
    let tb = parse(attrs, &PARM_POLICY, Strictness::Liberal, &mut r.ext)?;
    let index = tb.u32(ndtpa::IFINDEX).unwrap_or(0);
    let net = r.net_mut()?;
    let row = match ifindex(index.cast_signed()) {
        Some(i) if net.devs.get(i).is_some() => Row::Dev(i),
        // lookup_neigh_parms: those of the table itself belong to the initial namespace.
        None if index == 0 && net.init => Row::Default,
        Some(_) | None => return Err(Errno::ENOENT),
    };
    let mut values: Vec<(NeighParm, u64)> = Vec::new();
    for a in tb.iter() {
        match a.ty {
            ndtpa::QUEUE_LEN => {
                let n = u64::from(a.u32());
                values.push((NeighParm::UnresQlenBytes, n.saturating_mul(u64::from(ETH_TRUESIZE))));
            }
            ndtpa::QUEUE_LENBYTES => values.push((NeighParm::UnresQlenBytes, u64::from(a.u32()))),
            _ => {
                let number = NUMBERS.iter().find(|n| n.0 == a.ty).map(|n| (n.1, u64::from(a.u32())));
                let word = a.data.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b));
                let time = TIMES.iter().find(|t| t.0 == a.ty).map(|t| (t.1, word / t.2));
                values.extend(number.or(time));
            }
        }
    }
    for (p, v) in values {
        net.set_neigh_parm(f, row, p, i64::try_from(v).unwrap_or(i64::MAX))?;
    }
    Ok(())
}
