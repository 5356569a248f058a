//! Generic netlink: the controller, which knows only itself (`net/netlink/genetlink.c`). Programs that look for a
//! family learn that it is not there.

use ferronet_core::{Errno, NsId};

use super::Req;
use super::codec::{Msg, Policy, Strictness, nlm_f, parse};
use super::dump::{DumpCx, Out, Source};
use crate::kernel::Kernel;

/// `GENL_ID_CTRL`.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const POLICY: [Policy; 3] = [Policy::Any, Policy::U16, Policy::Str(15)];

/// A request of a program.
pub(super) fn rcv_msg(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    if r.hdr.ty != GENL_ID_CTRL {
        return Err(Errno::ENOENT);
    }
    let (head, attrs) = r.split(4).ok_or(Errno::EINVAL)?;
    let cmd = head.first().copied().unwrap_or(0);
    let dump = r.hdr.flags & nlm_f::DUMP == nlm_f::DUMP;
    if cmd != CTRL_CMD_GETFAMILY {
        return Err(Errno::EOPNOTSUPP);
    }
    if dump {
        r.start(Families);
        return Ok(());
    }
    let tb = parse(attrs, &POLICY, Strictness::Liberal, &mut r.ext)?;
    let id = tb.get(CTRL_ATTR_FAMILY_ID).map(|a| a.u16());
    let name = tb.get(CTRL_ATTR_FAMILY_NAME).map(|a| a.str());
    match (id, name.as_deref()) {
        (_, Some("nlctrl")) | (Some(GENL_ID_CTRL), None) => {
            let m = ctrl_fill_info(r.hdr.seq, r.portid, 0);
            r.replies.push(m);
            Ok(())
        }
        (None, None) => Err(Errno::EINVAL),
        _ => Err(Errno::ENOENT),
    }
}

/// The description of the controller.
fn ctrl_fill_info(seq: u32, portid: u32, flags: u16) -> Vec<u8> {
    let mut m = Msg::new(GENL_ID_CTRL, flags, seq, portid);
    m.raw(&[CTRL_CMD_NEWFAMILY, 2, 0, 0]);
    m.str(CTRL_ATTR_FAMILY_NAME, "nlctrl");
    m.u16(CTRL_ATTR_FAMILY_ID, GENL_ID_CTRL);
    // Version, size of the header, largest attribute.
    m.u32(3, 2);
    m.u32(4, 0);
    m.u32(5, 10);
    let ops = m.nest(6);
    for (i, (id, flags)) in [(u32::from(CTRL_CMD_GETFAMILY), 0xe_u32), (10, 0xc)].into_iter().enumerate() {
        let op = m.nest(i as u16 + 1);
        m.u32(1, id);
        m.u32(2, flags);
        m.end(op);
    }
    m.end(ops);
    let groups = m.nest(7);
    let group = m.nest(1);
    m.u32(2, u32::from(GENL_ID_CTRL));
    m.str(1, "notify");
    m.end(group);
    m.end(groups);
    m.finish()
}

/// Dump of the families.
#[derive(Debug)]
struct Families;

impl Source for Families {
    fn fill(&mut self, cx: &mut DumpCx<'_>, _want: usize, out: &mut Out) -> Result<bool, Errno> {
        out.push(ctrl_fill_info(cx.seq, cx.portid, nlm_f::MULTI));
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
}
