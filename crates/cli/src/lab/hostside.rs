//! The host's side of `[[tap]]`: opens the interfaces, attaches them, and sets up their ends in the host where the user may.

use super::{Lab, Tap, build};
use crate::rtnl;
use ferronet_core::{Errno, NsId};
use ferronet_host::Session;
use ferronet_stack::dev::netem;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};
use std::net::{IpAddr, UdpSocket};

const RTM_NEWLINK: u16 = 16;
/// NLM_F_REQUEST | NLM_F_ACK.
const CHANGE: u16 = 0x1 | 0x4;
const IFF_UP: u32 = 0x1;
const IFLA_MTU: u16 = 4;

/// Opens the host's ends of all TAP devices.
pub(crate) fn open(lab: &Lab) -> Result<Vec<ferronet_host::Tap>, String> {
    let one = |t: &Tap| {
        let tap = ferronet_host::Tap::open(&t.host_name)?;
        if !build::params(t.impairment).is_transparent() {
            tap.without_segmentation()?;
        }
        Ok(tap)
    };
    lab.taps.iter().map(|t| one(t).map_err(|e: ferronet_host::HostError| e.to_string())).collect()
}

/// Makes the devices in their namespaces, up, with their emulation; then the host's ends.
pub(crate) fn attach(
    session: &mut Session,
    lab: &Lab,
    ids: &[NsId],
    taps: Vec<ferronet_host::Tap>,
) -> Result<(), String> {
    for (spec, tap) in lab.taps.iter().zip(taps) {
        let ns = ids[spec.end.namespace];
        let dev = session.attach_tap(ns, &spec.end.device, tap).map_err(|e| e.to_string())?;
        let failed = |e: Errno| {
            let name = &lab.namespaces[spec.end.namespace].name;
            format!("tap {name}:{}: {}", spec.end.device, build::text(e))
        };
        let kernel = session.kernel();
        if let Some(mtu) = spec.mtu {
            kernel.world.link_set_mtu(ns, dev, mtu).map_err(failed)?;
        }
        if let Some(n) = kernel.world.ns_mut(ns) {
            let params = build::params(spec.impairment);
            netem::configure(n, dev, Some(params), true);
            netem::configure_rx(n, dev, Some(params), true);
        }
        kernel.world.link_set_up(ns, dev, true).map_err(failed)?;
        host_end(spec)?;
    }
    Ok(())
}

/// Sets the host's interface up with its addresses. Without the permission it is enough that somebody did it before.
fn host_end(spec: &Tap) -> Result<(), String> {
    let name = &spec.host_name;
    let step = |what: &str| format!("the host's interface {name}: {what}");
    // Protocol 0 is NETLINK_ROUTE.
    let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|e| step(&format!("opening a netlink socket: {e}")))?;
    let index = netdevice::name_to_index(&socket, name).map_err(|e| step(&e.to_string()))?;
    // struct ifinfomsg: family, padding, type, index, flags, which flags to change.
    let mut link = vec![0; 4];
    for word in [index, IFF_UP, IFF_UP] {
        link.extend_from_slice(&word.to_ne_bytes());
    }
    if let Some(mtu) = spec.mtu {
        rtnl::attribute(&mut link, IFLA_MTU, &mtu.to_ne_bytes());
    }
    match talk(&socket, RTM_NEWLINK, CHANGE, &link) {
        // Without an address to set there may be a plan of somebody else; with one it shows below.
        Ok(()) | Err(Errno::EPERM) => {}
        Err(e) => return Err(step(&format!("setting it up: {}", build::text(e)))),
    }
    for &(ip, len) in &spec.host_addresses {
        match talk(&socket, rtnl::RTM_NEWADDR, rtnl::NEW, &rtnl::address(index, ip, len)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::EPERM) if is_ours(ip) => {}
            Err(Errno::EPERM) => {
                return Err(step(&format!(
                    "you may not set its address {ip}/{len}; as root, once: ip tuntap add dev {name} mode tap user $USER \
                     vnet_hdr; ip addr add {ip}/{len} dev {name}; ip link set {name} up"
                )));
            }
            Err(e) => return Err(step(&format!("setting the address {ip}/{len}: {}", build::text(e)))),
        }
    }
    Ok(())
}

/// Whether an address is one of the host's: only such can be bound.
fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Sends a request to the host's kernel and reads its acknowledgement.
fn talk(socket: &rustix::fd::OwnedFd, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
    let errno = |e: rustix::io::Errno| Errno(u16::try_from(e.raw_os_error()).unwrap_or(Errno::EIO.0));
    net::send(socket, &rtnl::message(kind, flags, 1, body), SendFlags::empty()).map_err(errno)?;
    let mut answer = [0u8; 4096];
    let (n, _) = net::recv(socket, &mut answer, RecvFlags::empty()).map_err(errno)?;
    rtnl::acknowledged(&answer[..n])
}
