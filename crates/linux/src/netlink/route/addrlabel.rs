//! RTM_GETADDRLABEL for all: the policy table of source address selection (`net/ipv6/addrlabel.c`). It is the kernel's
//! initial one and cannot be changed.

use core::net::{IpAddr, Ipv6Addr};

use ferronet_core::{Errno, NsId};
use ferronet_stack::ipv6::addr::addr_label;

use super::super::Req;
use super::super::codec::{Msg, nlm_f};
use super::super::dump::{DumpCx, Nothing, Out, Source};
use super::{pf, rtm};
use crate::kernel::Kernel;

/// Prefixes that have a label of their own, in the order of the kernel's list (RFC 6724 section 2.1 and older ones).
const PREFIXES: [(Ipv6Addr, u8); 10] = [
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::UNSPECIFIED, 0),
];

/// Attributes (`IFAL_*`).
const ADDRESS: u16 = 1;
const LABEL: u16 = 2;
/// The label of everything else.
const DEFAULT: u8 = 1;

/// `ip6addrlbl_dump`.
pub(super) fn dump(r: &mut Req<'_, '_>, family: u8) -> Result<(), Errno> {
    match family {
        pf::UNSPEC | pf::INET6 => r.start(Labels { done: 0 }),
        _ => r.start(Nothing::default()),
    }
    Ok(())
}

#[derive(Debug)]
struct Labels {
    done: usize,
}

impl Source for Labels {
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno> {
        for (prefix, len) in PREFIXES.iter().skip(self.done) {
            if out.bytes() >= want {
                return Ok(false);
            }
            let mut m = Msg::new(rtm::NEWADDRLABEL, nlm_f::MULTI, cx.seq, cx.portid);
            // struct ifaddrlblmsg: family, reserved, length, flags, device, sequence number of the list.
            m.raw(&[pf::INET6, 0, *len, 0]);
            m.raw(&[0; 8]);
            m.ip(ADDRESS, IpAddr::V6(*prefix));
            let label = if *len == 0 { DEFAULT } else { addr_label(*prefix) };
            m.u32(LABEL, u32::from(label));
            out.push(m.finish());
            self.done += 1;
        }
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
}
