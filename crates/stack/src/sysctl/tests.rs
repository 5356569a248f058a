//! Effects of writes; the whole tree is compared with a real namespace in `crates/sim/tests`.

use ferronet_core::sysctl::{Conf4, Conf6};
use ferronet_core::{Errno, IfIndex, NsId, Sysctl};

use crate::ns::Namespace;
use crate::world::World;

fn read(ns: &Namespace, path: &str) -> String {
    let node = ns.sysctl_node(path).expect("the file exists");
    ns.sysctl_read(node).expect("it can be read")
}

#[test]
fn ip_forward_is_conf_all_forwarding() {
    let mut ns = Namespace::new(NsId(0), 1);
    assert_eq!(ns.sysctl_write("ipv4/ip_forward", b"1\n"), Ok(()));
    for p in [
        "ipv4/ip_forward",
        "ipv4/conf/all/forwarding",
        "ipv4/conf/lo/forwarding",
        "ipv4/conf/default/forwarding",
    ] {
        assert_eq!(read(&ns, p), "1\n", "{p}");
    }
    assert_eq!(read(&ns, "ipv4/conf/all/accept_redirects"), "0\n");
    assert_eq!(ns.sysctl_write("ipv4/conf/all/forwarding", b"0"), Ok(()));
    assert!(!ns.env.sysctl.on(Sysctl::IpForward));
    assert_eq!(ns.devs.get(IfIndex::LO).map(|d| d.conf4.get(Conf4::Forwarding)), Some(0));
}

#[test]
fn default_reaches_devices_that_were_not_set() {
    let mut ns = Namespace::new(NsId(0), 1);
    assert_eq!(ns.sysctl_write("ipv4/conf/default/rp_filter", b"2"), Ok(()));
    assert_eq!(read(&ns, "ipv4/conf/lo/rp_filter"), "2\n");
    assert_eq!(ns.sysctl_write("ipv4/conf/lo/rp_filter", b"1"), Ok(()));
    assert_eq!(ns.sysctl_write("ipv4/conf/default/rp_filter", b"0"), Ok(()));
    assert_eq!(read(&ns, "ipv4/conf/lo/rp_filter"), "1\n");
}

#[test]
fn ipv6_all_spreads_where_the_kernel_does() {
    let mut ns = Namespace::new(NsId(0), 1);
    assert_eq!(ns.sysctl_write("ipv6/conf/all/forwarding", b"1"), Ok(()));
    assert_eq!(read(&ns, "ipv6/conf/lo/forwarding"), "1\n");
    assert_eq!(ns.sysctl_write("ipv6/conf/all/accept_ra", b"2"), Ok(()));
    assert_eq!(read(&ns, "ipv6/conf/lo/accept_ra"), "1\n");
    assert_eq!(ns.sysctl_write("ipv6/conf/lo/mtu", b"70000"), Err(Errno::EINVAL));
    assert_eq!(ns.sysctl_write("ipv6/conf/lo/mtu", b"1279"), Err(Errno::EINVAL));
    assert_eq!(ns.devs.get(IfIndex::LO).map(|d| d.conf6.get(Conf6::Mtu)), Some(65536));
    assert_eq!(read(&ns, "ipv6/conf/lo/ioam6_id_wide"), "4294967295\n");
}

#[test]
fn neighbour_times_have_two_views() {
    let mut ns = Namespace::new(NsId(0), 1);
    ns.init = true;
    assert_eq!(read(&ns, "ipv4/neigh/lo/retrans_time"), "100\n");
    assert_eq!(read(&ns, "ipv6/neigh/lo/retrans_time"), "250\n");
    assert_eq!(read(&ns, "ipv4/neigh/lo/unres_qlen"), "101\n");
    assert_eq!(ns.sysctl_write("ipv4/neigh/lo/base_reachable_time", b"7"), Ok(()));
    assert_eq!(read(&ns, "ipv4/neigh/lo/base_reachable_time_ms"), "7000\n");
    assert_eq!(ns.sysctl_write("ipv4/neigh/default/ucast_solicit", b"9"), Ok(()));
    assert_eq!(read(&ns, "ipv4/neigh/lo/ucast_solicit"), "9\n");
    assert_eq!(ns.sysctl_write("ipv4/neigh/all/ucast_solicit", b"9"), Err(Errno::ENOENT));
}

#[test]
fn secrets_and_read_only_files() {
    let mut ns = Namespace::new(NsId(0), 1);
    let node = ns.sysctl_node("ipv6/conf/lo/stable_secret").expect("exists");
    assert_eq!(ns.sysctl_read(node), Err(Errno::EIO));
    assert_eq!(ns.sysctl_write("ipv6/conf/lo/stable_secret", b"2001:db8::1\n"), Ok(()));
    assert_eq!(read(&ns, "ipv6/conf/lo/stable_secret"), "2001:0db8:0000:0000:0000:0000:0000:0001\n");
    assert_eq!(ns.sysctl_write("ipv4/conf/lo/mc_forwarding", b"1"), Err(Errno::EACCES));
    assert_eq!(ns.sysctl_write("ipv4/nope", b"1"), Err(Errno::ENOENT));
    assert_eq!(ns.sysctl_write("ipv4", b"1"), Err(Errno::EISDIR));
    assert_eq!(ns.sysctl_write("core/netdev_max_backlog", b"1"), Err(Errno::ENOENT));
}

#[test]
fn global_values_reach_every_namespace() {
    let mut w = World::new(1, 0);
    let a = w.ns_create().expect("first");
    let b = w.ns_create().expect("second");
    assert_eq!(w.sysctl_write(a, "core/rmem_max", b"300000"), Ok(()));
    assert_eq!(w.ns(b).map(|n| n.env.sysctl.get(Sysctl::RmemMax)), Some(300_000));
    assert_eq!(w.sysctl_write(b, "core/rmem_max", b"1"), Err(Errno::EACCES));
    assert_eq!(w.sysctl_write(a, "ipv4/tcp_congestion_control", b"reno"), Ok(()));
    let c = w.ns_create().expect("third");
    assert_eq!(read(w.ns(c).expect("third"), "ipv4/tcp_congestion_control"), "reno\n");
    assert_eq!(read(w.ns(b).expect("second"), "ipv4/tcp_congestion_control"), "cubic\n");
}

#[test]
fn directories_list_what_nodes_find() {
    let ns = Namespace::new(NsId(0), 1);
    let mut todo = vec![String::new()];
    let mut files = 0;
    while let Some(dir) = todo.pop() {
        for (name, is_dir) in ns.sysctl_list(&dir).expect("a directory") {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let node = ns.sysctl_node(&path).unwrap_or_else(|| panic!("{path} is listed"));
            assert_eq!(node == super::Node::Dir, is_dir, "{path}");
            files += 1;
            if is_dir {
                todo.push(path);
            }
        }
    }
    assert!(files > 500, "{files}");
}
