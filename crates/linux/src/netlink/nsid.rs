//! Numbers that a namespace gives to others (`net/core/net_namespace.c`: `peernet2id`, `RTM_NEWNSID`).

use std::collections::BTreeMap;

use ferronet_core::{Errno, NsId};

use super::Req;
use super::codec::{Msg, Policy, Strictness, nlm_f, parse};
use super::dump::{DumpCx, Out, Source};
use crate::kernel::{Kernel, NsRef};

/// `NETNSA_NSID_NOT_ASSIGNED`.
pub(super) const NOT_ASSIGNED: i32 = -1;
const RTM_NEWNSID: u16 = 88;
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;
const NETNSA_FD: u16 = 3;
const NETNSA_TARGET_NSID: u16 = 4;
const NETNSA_CURRENT_NSID: u16 = 5;
const POLICY: [Policy; 5] = [Policy::Any, Policy::S32, Policy::U32, Policy::U32, Policy::S32];

/// The numbers: by the namespace that gives them, then by number.
#[derive(Debug, Default)]
pub(super) struct Nsids(BTreeMap<NsId, BTreeMap<i32, NsId>>);

impl Nsids {
    /// The number of `other` in `ns`.
    pub(super) fn get(&self, ns: NsId, other: NsId) -> Option<i32> {
        self.0.get(&ns)?.iter().find(|(_, n)| **n == other).map(|(id, _)| *id)
    }
    pub(super) fn by_id(&self, ns: NsId, id: i32) -> Option<NsId> {
        self.0.get(&ns)?.get(&id).copied()
    }
    /// The number of `other` in `ns`, given when there is none (`peernet2id_alloc`). `true`: it is new.
    pub(super) fn alloc(&mut self, ns: NsId, other: NsId) -> (i32, bool) {
        if let Some(id) = self.get(ns, other) {
            return (id, false);
        }
        let map = self.0.entry(ns).or_default();
        let id = (0..).find(|i| !map.contains_key(i)).unwrap_or(i32::MAX);
        map.insert(id, other);
        (id, true)
    }
    fn set(&mut self, ns: NsId, other: NsId, id: i32) -> bool {
        let map = self.0.entry(ns).or_default();
        if map.contains_key(&id) {
            return false;
        }
        map.insert(id, other);
        true
    }
}

/// A namespace is gone.
pub(super) fn forget(k: &mut Kernel, gone: NsId) {
    k.nl.nsids.0.remove(&gone);
    let mut told = Vec::new();
    for (ns, map) in &mut k.nl.nsids.0 {
        map.retain(|id, n| {
            if *n == gone {
                told.push((*ns, *id));
            }
            *n != gone
        });
    }
    for (ns, id) in told {
        super::notify::nsid_event(k, ns, id, false);
    }
}

/// `rtnl_net_fill`.
pub(super) fn fill(ty: u16, flags: u16, seq: u32, portid: u32, id: i32) -> Vec<u8> {
    let mut m = Msg::new(ty, flags, seq, portid);
    m.raw(&[0; 4]);
    m.i32(NETNSA_NSID, id);
    m.finish()
}

/// The namespace that a request names by descriptor, process or number.
fn peer(r: &mut Req<'_, '_>, with_id: bool) -> Result<(NsId, Option<i32>, usize), Errno> {
    let (_, attrs) = r.split(4).or_else(|| r.split(1)).ok_or(Errno::EINVAL)?;
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let id = tb.get(NETNSA_NSID).map(|a| a.i32());
    let (reference, off) = if let Some(a) = tb.get(NETNSA_PID) {
        (NsRef::Pid(a.u32()), a.off)
    } else if let Some(a) = tb.get(NETNSA_FD) {
        (NsRef::Fd(a.i32()), a.off)
    } else if let (Some(a), true) = (tb.get(NETNSA_NSID), with_id) {
        let found = r.kernel.nl.nsids.by_id(r.ns, a.i32());
        let Some(ns) = found else {
            return r.ext.err_at(Errno::ENOENT, a.off, "Peer netns reference is invalid");
        };
        return Ok((ns, id, a.off));
    } else {
        return r.ext.err(Errno::EINVAL, "Peer netns reference is missing");
    };
    match r.kernel.ns_resolve(r.caller, reference) {
        Some(ns) => Ok((ns, id, off)),
        None => {
            let e = if matches!(reference, NsRef::Fd(_)) { Errno::EINVAL } else { Errno::ESRCH };
            r.ext.err_at(e, off, "Peer netns reference is invalid")
        }
    }
}

/// `RTM_NEWNSID`.
pub(super) fn new_nsid(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let (peer, id, off) = peer(r, false)?;
    let Some(id) = id else { return r.ext.err(Errno::EINVAL, "nsid is missing") };
    if r.kernel.nl.nsids.get(r.ns, peer).is_some() {
        return r.ext.err_at(Errno::EEXIST, off, "Peer netns already has a nsid assigned");
    }
    let id = if id < 0 { None } else { Some(id) };
    let id = match id {
        None => r.kernel.nl.nsids.alloc(r.ns, peer).0,
        Some(id) if r.kernel.nl.nsids.set(r.ns, peer, id) => id,
        Some(_) => return r.ext.err(Errno::EEXIST, "The specified nsid is already used"),
    };
    super::notify::nsid_event(r.kernel, r.ns, id, true);
    Ok(())
}

/// `RTM_GETNSID` for one namespace.
pub(super) fn get_nsid(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let (peer, _, _) = peer(r, true)?;
    let id = r.kernel.nl.nsids.get(r.ns, peer).unwrap_or(NOT_ASSIGNED);
    let m = fill(RTM_NEWNSID, 0, r.hdr.seq, r.portid, id);
    r.replies.push(m);
    Ok(())
}

/// `RTM_GETNSID` for all; `NETNSA_TARGET_NSID` asks for those of another namespace.
pub(super) fn dump_nsid(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    let mut target = r.ns;
    let mut current = None;
    if let Some((_, attrs)) = r.split(4).or_else(|| r.split(1)) {
        let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
        if let Some(a) = tb.get(NETNSA_TARGET_NSID) {
            let Some(ns) = r.kernel.nl.nsids.by_id(r.ns, a.i32()) else {
                r.ext.bad(a.off, "Target netns reference is invalid");
                r.fail_dump(Errno::EINVAL, true);
                return Ok(());
            };
            current = Some(r.ns);
            target = ns;
        }
    }
    r.start(Dump { target, current, after: None });
    Ok(())
}

#[derive(Debug)]
struct Dump {
    target: NsId,
    /// With a target: the asker, whose numbers are given too.
    current: Option<NsId>,
    after: Option<i32>,
}

impl Source for Dump {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        let ids = &cx.kernel.nl.nsids;
        let Some(map) = ids.0.get(&self.target) else { return Ok(true) };
        for (id, ns) in map {
            if self.after.is_some_and(|a| *id <= a) {
                continue;
            }
            if out.bytes() >= want {
                return Ok(false);
            }
            let mut m = Msg::new(RTM_NEWNSID, nlm_f::MULTI, cx.seq, cx.portid);
            m.raw(&[0; 4]);
            m.i32(NETNSA_NSID, *id);
            if let Some(c) = self.current {
                m.i32(NETNSA_CURRENT_NSID, ids.get(c, *ns).unwrap_or(NOT_ASSIGNED));
            }
            out.push(m.finish());
            self.after = Some(*id);
        }
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
    fn filtered(&self) -> bool {
        self.current.is_some()
    }
    fn done_in_last(&self) -> bool {
        true
    }
}
