//! sock_diag: sockets for `ss` (`net/core/sock_diag.c`, sock_diag(7)).

mod bytecode;
mod inet;
mod rows;

use ferronet_core::Errno;

use super::Req;
use super::codec::nlm_f;
use super::dump::Nothing;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: u8 = 16;
const AF_PACKET: u8 = 17;

/// `sock_diag_rcv_msg`.
pub(super) fn rcv_msg(r: &mut Req<'_, '_>) -> Result<(), Errno> {
    if r.hdr.ty != SOCK_DIAG_BY_FAMILY && r.hdr.ty != SOCK_DESTROY {
        return Err(Errno::EINVAL);
    }
    // struct sock_diag_req.
    let &[family, ..] = r.body().first_chunk::<2>().ok_or(Errno::EINVAL)?;
    let dump = r.hdr.flags & nlm_f::DUMP != 0;
    match family {
        AF_INET | AF_INET6 if r.hdr.ty == SOCK_DESTROY => inet::destroy(r),
        AF_INET | AF_INET6 if dump => inet::dump(r),
        AF_INET | AF_INET6 => inet::get(r),
        // These sockets are the host's own, or say nothing that `ss` needs.
        AF_UNIX | AF_NETLINK | AF_PACKET if dump => {
            r.start(Nothing::default());
            Ok(())
        }
        AF_UNIX | AF_NETLINK | AF_PACKET => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOENT),
    }
}
