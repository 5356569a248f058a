//! A small rtnetlink client that speaks to the stack directly: labs configure their namespaces with the messages that
//! `ip` sends (rtnetlink(7)).

use bytes::Bytes;
use ferronet_core::{Errno, NsId};
use ferronet_linux::kernel::{af, sock_type};
use ferronet_linux::{Caller, Kernel, NsRef, RecvReq, SendMsg, SockId};
use std::net::IpAddr;

const NETLINK_ROUTE: i32 = 0;
const NLMSG_ERROR: u16 = 2;
pub(crate) const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL.
pub(crate) const NEW: u16 = 0x1 | 0x4 | 0x400 | 0x200;
const IFA_F_NODAD: u32 = 0x02;
const MSG_DONTWAIT: i32 = 0x40;

/// A netlink socket in one namespace.
pub(crate) struct Rtnl<'a> {
    kernel: &'a mut Kernel,
    ns: NsId,
    socket: SockId,
    sequence: u32,
}

/// Runs `f` as root of a namespace.
fn call<T>(kernel: &mut Kernel, ns: NsId, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T) -> T {
    let mut none = |_: NsRef| None;
    f(kernel, &mut Caller { ns, pid: 0, uid: 0, caps: &ferronet_linux::Caps::all, resolve_ns: &mut none })
}

impl<'a> Rtnl<'a> {
    /// Opens the socket.
    pub(crate) fn open(kernel: &'a mut Kernel, ns: NsId) -> Result<Self, Errno> {
        let socket = call(kernel, ns, |k, c| k.socket(c, af::NETLINK, sock_type::RAW, NETLINK_ROUTE))?;
        Ok(Rtnl { kernel, ns, socket, sequence: 0 })
    }

    /// `ip addr add`, without duplicate address detection: a lab's addresses are unique.
    pub(crate) fn add_address(&mut self, dev: u32, ip: IpAddr, prefix_len: u8) -> Result<(), Errno> {
        self.talk(RTM_NEWADDR, &address(dev, ip, prefix_len))
    }

    /// `ip route add TO via VIA dev DEV metric METRIC`.
    pub(crate) fn add_route(
        &mut self,
        to: (IpAddr, u8),
        via: Option<IpAddr>,
        dev: Option<u32>,
        metric: Option<u32>,
    ) -> Result<(), Errno> {
        // struct rtmsg: family, dst_len, src_len, tos, table main, protocol static, scope, type unicast, flags.
        let scope = if via.is_some() || to.0.is_ipv6() { 0 } else { 253 };
        let mut m = vec![family(to.0), to.1, 0, 0, 254, 4, scope, 1, 0, 0, 0, 0];
        if to.1 > 0 {
            attribute(&mut m, 1, &octets(to.0)); // RTA_DST
        }
        if let Some(gw) = via {
            attribute(&mut m, 5, &octets(gw)); // RTA_GATEWAY
        }
        if let Some(d) = dev {
            attribute(&mut m, 4, &d.to_ne_bytes()); // RTA_OIF
        }
        if let Some(p) = metric {
            attribute(&mut m, 6, &p.to_ne_bytes()); // RTA_PRIORITY
        }
        self.talk(RTM_NEWROUTE, &m)
    }

    /// Sends a request and reads its acknowledgement.
    fn talk(&mut self, kind: u16, body: &[u8]) -> Result<(), Errno> {
        self.sequence += 1;
        let m = message(kind, NEW, self.sequence, body);
        let send = SendMsg { name: &[], data: Bytes::from(m), control: &[], flags: 0 };
        let socket = self.socket;
        call(self.kernel, self.ns, |k, c| k.sendmsg(c, socket, send))?;
        let answer =
            self.kernel.recvmsg(socket, RecvReq { len: 8192, control_len: 0, flags: MSG_DONTWAIT })?;
        acknowledged(&answer.data)
    }
}

impl Drop for Rtnl<'_> {
    fn drop(&mut self) {
        self.kernel.close(self.socket);
    }
}

/// A message with its header (struct nlmsghdr).
pub(crate) fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(16 + body.len());
    m.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    m.extend_from_slice(&kind.to_ne_bytes());
    m.extend_from_slice(&flags.to_ne_bytes());
    m.extend_from_slice(&sequence.to_ne_bytes());
    m.extend_from_slice(&[0; 4]);
    m.extend_from_slice(body);
    m
}

/// The body of RTM_NEWADDR, without duplicate address detection.
pub(crate) fn address(dev: u32, ip: IpAddr, prefix_len: u8) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut m = vec![family(ip), prefix_len, 0, 0];
    m.extend_from_slice(&dev.to_ne_bytes());
    attribute(&mut m, 2, &octets(ip)); // IFA_LOCAL
    attribute(&mut m, 1, &octets(ip)); // IFA_ADDRESS
    if let IpAddr::V4(a) = ip
        && prefix_len < 31
    {
        let broadcast = a.to_bits() | (u32::MAX >> prefix_len);
        attribute(&mut m, 4, &broadcast.to_be_bytes()); // IFA_BROADCAST
    }
    if ip.is_ipv6() {
        attribute(&mut m, 8, &IFA_F_NODAD.to_ne_bytes()); // IFA_FLAGS
    }
    m
}

/// The error number in an acknowledgement; 0 is success.
pub(crate) fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(e)) => Err(Errno(u16::try_from(-e).unwrap_or(Errno::EINVAL.0))),
        _ => Err(Errno::EPROTO),
    }
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { af::INET } else { af::INET6 }) as u8
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Appends an attribute, padded to four bytes.
pub(crate) fn attribute(m: &mut Vec<u8>, kind: u16, value: &[u8]) {
    m.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    m.extend_from_slice(&kind.to_ne_bytes());
    m.extend_from_slice(value);
    m.resize(m.len().next_multiple_of(4), 0);
}

/// Reads a file below /proc as root of a namespace.
pub(crate) fn proc_read(kernel: &mut Kernel, ns: NsId, path: &str) -> Option<String> {
    let bytes = call(kernel, ns, |k, c| k.proc_read(c, path))?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file below /proc as root of a namespace.
pub(crate) fn proc_write(kernel: &mut Kernel, ns: NsId, path: &str, value: &str) -> Result<(), Errno> {
    call(kernel, ns, |k, c| k.proc_write(c, path, value.as_bytes())).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_lengths_are_not() {
        let mut m = Vec::new();
        attribute(&mut m, 3, b"eth0\0");
        assert_eq!(m.len(), 12);
        assert_eq!(m[..2], 9u16.to_ne_bytes());
    }

    #[test]
    fn acknowledgements() {
        let ack = |e: i32| {
            let mut m = vec![0; 4];
            m.extend_from_slice(&2u16.to_ne_bytes());
            m.resize(16, 0);
            m.extend_from_slice(&e.to_ne_bytes());
            acknowledged(&m)
        };
        assert_eq!(ack(0), Ok(()));
        assert_eq!(ack(-17), Err(Errno::EEXIST));
        assert_eq!(acknowledged(&[0; 7]), Err(Errno::EPROTO));
    }
}
