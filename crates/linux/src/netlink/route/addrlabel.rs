//! RTM_NEWADDRLABEL, RTM_DELADDRLABEL, RTM_GETADDRLABEL: the policy table of source address selection
//! (`net/ipv6/addrlabel.c`).

use core::net::IpAddr;

use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_stack::ipv6::addrlabel::{AddrLabel, DEFAULT};

use super::super::Req;
use super::super::codec::{Fields, Msg, Policy, Strictness, nlm_f, parse};
use super::super::dump::{DumpCx, Nothing, Out, Source};
use super::{pf, rtm};
use crate::kernel::Kernel;

/// Attributes (`IFAL_*`).
const ADDRESS: u16 = 1;
const LABEL: u16 = 2;
/// Bytes of `struct ifaddrlblmsg`.
const HDR: usize = 12;
/// `ifal_policy`.
const POLICY: [Policy; 3] = [Policy::Any, Policy::Min(16), Policy::Min(4)];

/// `ip6addrlbl_newdel`.
pub(super) fn newdel(r: &mut Req<'_, '_>, new: bool) -> Result<(), Errno> {
    let (head, attrs) = r.split(HDR).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let mut f = Fields(head);
    let (_, _, len, _, dev) = (f.u8(), f.u8(), f.u8(), f.u8(), IfIndex(f.u32()));
    let prefix = tb.get(ADDRESS).and_then(|a| a.ip6()).ok_or(Errno::EINVAL)?;
    let label = tb.u32(LABEL).filter(|l| *l != DEFAULT).ok_or(Errno::EINVAL)?;
    if len > 128 {
        return Err(Errno::EINVAL);
    }
    let replace = r.hdr.flags & nlm_f::REPLACE != 0;
    let net = r.net_mut()?;
    if !new {
        return net.inet6.labels.del(prefix, len, dev);
    }
    if !dev.is_none() && net.devs.get(dev).is_none() {
        return Err(Errno::EINVAL);
    }
    net.inet6.labels.add(AddrLabel { prefix, len, dev, label }, replace)
}

/// `ip6addrlbl_fill`.
fn fill(mut m: Msg, l: &AddrLabel, seq: u32) -> Vec<u8> {
    m.raw(&[pf::INET6, 0, l.len, 0]);
    m.raw(&l.dev.0.to_ne_bytes());
    m.raw(&seq.to_ne_bytes());
    m.ip(ADDRESS, IpAddr::V6(l.prefix));
    m.u32(LABEL, l.label);
    m.finish()
}

/// The entry that holds for an address (`ip6addrlbl_get`).
pub(super) fn get(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let (head, attrs) = r.split(HDR).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let mut f = Fields(head);
    let (_, _, len, _, dev) = (f.u8(), f.u8(), f.u8(), f.u8(), IfIndex(f.u32()));
    if len != 128 || (!dev.is_none() && r.net()?.devs.get(dev).is_none()) {
        return Err(Errno::EINVAL);
    }
    let a = tb.get(ADDRESS).and_then(|a| a.ip6()).ok_or(Errno::EINVAL)?;
    let m = r.answer(rtm::NEWADDRLABEL, 0);
    let labels = &r.net()?.inet6.labels;
    let m = fill(m, labels.get(a, dev).ok_or(Errno::ESRCH)?, labels.seq);
    r.replies.push(m);
    Ok(())
}

/// `ip6addrlbl_dump`.
pub(super) fn dump(r: &mut Req<'_, '_>, family: u8) -> Result<(), Errno> {
    match family {
        pf::UNSPEC | pf::INET6 => r.start(Labels { ns: r.ns, done: 0 }),
        _ => r.start(Nothing::default()),
    }
    Ok(())
}

#[derive(Debug)]
struct Labels {
    ns: NsId,
    done: usize,
}

impl Source for Labels {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let Some(net) = cx.kernel.world.ns(self.ns) else { return Ok(true) };
        for l in net.inet6.labels.iter().skip(self.done) {
            if out.bytes() >= want {
                return Ok(false);
            }
            let m = Msg::new(rtm::NEWADDRLABEL, nlm_f::MULTI, cx.seq, cx.portid);
            out.push(fill(m, l, net.inet6.labels.seq));
            self.done += 1;
        }
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
}
