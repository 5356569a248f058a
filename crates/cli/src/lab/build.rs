//! Makes a lab's links, addresses, routes and settings on a stack.

use super::{Impairment, Lab, Ready};
use crate::rtnl::{self, Rtnl};
use ferronet_core::{Errno, IfIndex, NsId};
use ferronet_linux::Kernel;
use ferronet_stack::dev::netem::{self, Params};
use ferronet_stack::world::link::LinkSpec;
use std::net::{IpAddr, Ipv4Addr};

/// Builds everything; `ids` are the namespaces in the order of the lab.
pub(crate) fn build(kernel: &mut Kernel, lab: &Lab, ids: &[NsId]) -> Result<(), String> {
    for &ns in ids {
        let failed = |e: Errno| format!("setting lo up: {}", text(e));
        kernel.world.link_set_up(ns, IfIndex::LO, true).map_err(failed)?;
    }
    for link in &lab.links {
        let [a, b] = &link.ends;
        let name =
            |i: usize| format!("{}:{}", lab.namespaces[link.ends[i].namespace].name, link.ends[i].device);
        let failed = |e: Errno| format!("link {} to {}: {}", name(0), name(1), text(e));
        let spec = |device: &str| LinkSpec { name: device.to_owned(), mtu: link.mtu, ..LinkSpec::default() };
        let (na, nb) = (ids[a.namespace], ids[b.namespace]);
        let (i, j) =
            kernel.world.link_add_veth(na, &spec(&a.device), nb, &spec(&b.device)).map_err(failed)?;
        for (ns, dev) in [(na, i), (nb, j)] {
            // Before it goes up, so that not even the first frame escapes the emulation.
            if let Some(n) = kernel.world.ns_mut(ns) {
                netem::configure(n, dev, Some(params(link.impairment)), true);
            }
        }
        for (ns, dev) in [(na, i), (nb, j)] {
            kernel.world.link_set_up(ns, dev, true).map_err(failed)?;
        }
    }
    for (n, &ns) in lab.namespaces.iter().zip(ids) {
        for (path, value) in &n.sysctls {
            rtnl::proc_write(kernel, ns, &format!("sys/net/{path}"), value)
                .map_err(|e| format!("{}: net/{path} = {value}: {}", n.name, text(e)))?;
        }
    }
    for (n, &ns) in lab.namespaces.iter().zip(ids) {
        addresses_and_routes(kernel, n, ns)?;
    }
    Ok(())
}

fn addresses_and_routes(kernel: &mut Kernel, n: &super::Namespace, ns: NsId) -> Result<(), String> {
    let device = |kernel: &Kernel, name: &str| {
        let found = kernel.world.ns(ns).and_then(|n| n.devs.by_name(name)).map(|d| d.index.0);
        found.ok_or_else(|| format!("{}: there is no device {name}", n.name))
    };
    for (dev, ip, len) in &n.addresses {
        let index = device(kernel, dev)?;
        let done = Rtnl::open(kernel, ns).and_then(|mut r| r.add_address(index, *ip, *len));
        done.map_err(|e| format!("{}: address {ip}/{len} on {dev}: {}", n.name, text(e)))?;
    }
    for r in &n.routes {
        let any = match r.via {
            Some(IpAddr::V6(_)) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let to = r.to.unwrap_or((any, 0));
        let dev = r.dev.as_deref().map(|d| device(kernel, d)).transpose()?;
        let done = Rtnl::open(kernel, ns).and_then(|mut s| s.add_route(to, r.via, dev, r.metric));
        done.map_err(|e| {
            let hint = if e == Errno::ENETUNREACH { "; is the gateway on one of its links?" } else { "" };
            format!("{}: route to {}/{}: {}{hint}", n.name, to.0, to.1, text(e))
        })?;
    }
    Ok(())
}

pub(super) fn params(i: Impairment) -> Params {
    Params {
        delay: i.delay,
        jitter: i.jitter,
        rate_bps: i.rate,
        limit: i.queue,
        loss_ppm: i.loss,
        duplicate_ppm: i.duplicate,
        reorder_ppm: i.reorder,
    }
}

/// An error number as the C library words it.
pub(super) fn text(e: Errno) -> String {
    let io = std::io::Error::from_raw_os_error(i32::from(e.0)).to_string();
    io.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Whether somebody listens on the port (or has it bound) in a namespace.
pub(crate) fn is_ready(kernel: &mut Kernel, ns: NsId, ready: &Ready) -> bool {
    let (files, port, state) = match ready {
        // TCP_LISTEN is 0A, an unconnected UDP socket 07 (include/net/tcp_states.h).
        Ready::Tcp(port) => (["net/tcp", "net/tcp6"], *port, "0A"),
        Ready::Udp(port) => (["net/udp", "net/udp6"], *port, "07"),
        Ready::Output(_) => return false,
    };
    files.iter().any(|f| rtnl::proc_read(kernel, ns, f).is_some_and(|t| has_port(&t, port, state)))
}

/// Whether a table of /proc/net has a socket with this local port and state.
fn has_port(table: &str, port: u16, state: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|l| l.rsplit_once(':')).map(|(_, p)| u16::from_str_radix(p, 16));
        local == Some(Ok(port)) && words.nth(1) == Some(state)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_proc_net_tcp() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
                     1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 2 1\n";
        assert!(has_port(table, 80, "0A"));
        assert!(!has_port(table, 8080, "0A"));
        assert!(has_port(table, 8080, "01"));
        assert!(!has_port("", 80, "0A"));
    }
}
