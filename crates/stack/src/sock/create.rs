//! Making and closing sockets.

use ferronet_core::{Errno, Sysctl};

use super::{MAX_SOCKS, Proto, Sock, SockCommon, SockKey};
use crate::ns::Namespace;

/// What a new socket is.
#[derive(Clone, Copy, Debug)]
pub struct NewSock {
    /// `AF_INET` 2, `AF_INET6` 10, `AF_PACKET` 17.
    pub family: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Owner.
    pub uid: u32,
    /// What the program's side knows it by; not 0.
    pub token: u64,
}

/// Makes a socket; `proto` is its fresh protocol part.
///
/// # Errors
/// `ENFILE` when there are too many.
pub fn create(ns: &mut Namespace, new: NewSock, proto: Proto) -> Result<SockKey, Errno> {
    if ns.socks.socks.len() >= MAX_SOCKS {
        return Err(Errno::ENFILE);
    }
    let clip = |v: i64| i32::try_from(v).unwrap_or(i32::MAX);
    let mut common = SockCommon::new(new.family, new.protocol);
    common.uid = new.uid;
    common.token = new.token;
    let s = &ns.env.sysctl;
    (common.rcvbuf, common.sndbuf) = match proto {
        Proto::Tcp(_) => (clip(s.get3(Sysctl::TcpRmem)[1]), clip(s.get3(Sysctl::TcpWmem)[1])),
        Proto::Udp(_) | Proto::Raw(_) | Proto::Ping(_) | Proto::Packet(_) => {
            (clip(s.get(Sysctl::RmemDefault)), clip(s.get(Sysctl::WmemDefault)))
        }
    };
    Ok(ns.socks.socks.insert(Sock { common, proto }))
}

/// The last descriptor was closed.
pub fn close(ns: &mut Namespace, key: SockKey) {
    super::ports::release(ns, key);
    ns.socks.socks.remove(key);
}
