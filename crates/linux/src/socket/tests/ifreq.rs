//! What changes a device by ioctl is seen from outside: listeners are told, and limits are those of netlink.

use ferronet_core::Errno;
use ferronet_stack::dev::{DevKind, iff};
use ferronet_stack::notify::Notify;
use ferronet_stack::world::link::LinkSpec;

use super::Lab;

const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFTXQLEN: u32 = 0x8943;
const AF_INET: i32 = 2;
const SOCK_DGRAM: i32 = 2;

/// `struct ifreq` with a name and the bytes of its union.
fn ifreq(name: &str, value: &[u8]) -> Vec<u8> {
    let mut v = vec![0; 40];
    v[..name.len()].copy_from_slice(name.as_bytes());
    v[16..16 + value.len()].copy_from_slice(value);
    v
}

/// A namespace with a device `dev0` of this kind, whose changes are kept for listeners, and a socket for requests.
fn lab(kind: DevKind) -> (Lab, crate::SockId, ferronet_core::NsId) {
    let mut l = Lab::new();
    let ns = l.empty();
    let spec = LinkSpec { name: "dev0".into(), ..LinkSpec::default() };
    l.k.world.link_add(ns, &spec, kind).unwrap();
    let s = l.socket(ns, AF_INET, SOCK_DGRAM, 0).unwrap();
    l.k.world.ns_mut(ns).unwrap().notify.listening = true;
    (l, s, ns)
}

/// The `ifi_change` of each RTM_NEWLINK since the last look.
fn told(l: &mut Lab, ns: ferronet_core::NsId) -> Vec<u32> {
    let all = l.k.world.ns_mut(ns).unwrap().notify.take();
    all.iter().filter_map(|n| if let Notify::LinkNew(_, change) = n { Some(*change) } else { None }).collect()
}

#[test]
fn flags_set_by_ioctl_are_told_once() {
    let (mut l, s, ns) = lab(DevKind::Dummy);
    let generation = l.k.world.ns(ns).unwrap().devs.generation();
    let flags = (iff::BROADCAST | iff::NOARP | iff::ALLMULTI) as u16;
    l.ioctl(s, SIOCSIFFLAGS, &ifreq("dev0", &flags.to_ne_bytes())).unwrap();
    assert_eq!(told(&mut l, ns), [iff::ALLMULTI]);
    assert!(l.k.world.ns(ns).unwrap().devs.generation() > generation, "routes are looked up again");
    l.ioctl(s, SIOCSIFFLAGS, &ifreq("dev0", &flags.to_ne_bytes())).unwrap();
    assert_eq!(told(&mut l, ns), [] as [u32; 0], "nothing changed");
}

#[test]
fn a_queue_length_set_by_ioctl_is_told_once() {
    let (mut l, s, ns) = lab(DevKind::Dummy);
    for _ in 0..2 {
        l.ioctl(s, SIOCSIFTXQLEN, &ifreq("dev0", &77_i32.to_ne_bytes())).unwrap();
    }
    assert_eq!(told(&mut l, ns), [0], "dev_change_tx_queue_len: the same length again is no change");
}

#[test]
fn mtu_set_by_ioctl_has_the_range_of_the_kind() {
    for (ethernet, largest) in [(true, 65521), (false, 65535)] {
        let (mut l, s, ns) = lab(DevKind::Backend { ethernet, attached: true });
        let mut set = |mtu: i32| l.ioctl(s, SIOCSIFMTU, &ifreq("dev0", &mtu.to_ne_bytes())).map(drop);
        assert_eq!(set(67), Err(Errno::EINVAL));
        assert_eq!(set(68), Ok(()));
        assert_eq!(set(68), Ok(()), "no change");
        assert_eq!(set(largest), Ok(()));
        assert_eq!(set(largest + 1), Err(Errno::EINVAL));
        assert_eq!(told(&mut l, ns), [0, 0]);
    }
}
