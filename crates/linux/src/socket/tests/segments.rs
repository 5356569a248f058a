//! What an option changes in the segments of TCP, as a packet socket on `lo` sees them.

use ferronet_core::{Errno, IfIndex};

use super::{Lab, sin, sin6};
use crate::uapi::in4::{IP_TOS, IP_TTL};
use crate::uapi::in6::{IPV6_TCLASS, IPV6_UNICAST_HOPS};
use crate::uapi::socket::{SOL_IP, SOL_IPV6};

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_PACKET: i32 = 17;
const SOCK_STREAM: i32 = 1;
const SOCK_RAW: i32 = 3;
/// `htons(ETH_P_ALL)`.
const ALL_PROTOCOLS: i32 = 0x0300;
const PORT: u16 = 8000;

/// `(TTL or hop limit, TOS or traffic class)` of the SYN and of the SYN-ACK of a handshake over `lo`, when `option` was
/// set on the client and on the listener.
fn handshake(family: i32, option: (i32, i32, [i32; 2])) -> [(u8, u8); 2] {
    let mut l = Lab::new();
    let ns = l.empty();
    let tap = l.socket(ns, AF_PACKET, SOCK_RAW, ALL_PROTOCOLS).unwrap();
    l.bind(tap, &super::super::message::print_ll(3, IfIndex::LO, 0, 0, &[])).unwrap();
    let server = if family == AF_INET { sin("127.0.0.1", PORT) } else { sin6("::1", PORT) };
    let (listener, client) = (l.socket(ns, family, SOCK_STREAM, 0), l.socket(ns, family, SOCK_STREAM, 0));
    let (listener, client) = (listener.unwrap(), client.unwrap());
    let (level, name, [of_client, of_listener]) = option;
    l.set(client, level, name, &of_client.to_ne_bytes()).unwrap();
    l.set(listener, level, name, &of_listener.to_ne_bytes()).unwrap();
    l.bind(listener, &server).unwrap();
    l.k.listen(listener, 4).unwrap();
    assert_eq!(l.connect(client, &server), Err(Errno::EINPROGRESS));
    l.run();
    let mut seen = [None; 2];
    while let Ok(r) = l.recv(tap, 0) {
        let ip = &r.data[14..];
        let (proto, fields, tcp) = match family {
            AF_INET if r.data[12..14] == [8, 0] => (ip[9], (ip[8], ip[1]), &ip[20..]),
            AF_INET6 if r.data[12..14] == [0x86, 0xdd] => {
                (ip[6], (ip[7], ip[0] << 4 | ip[1] >> 4), &ip[40..])
            }
            _ => continue,
        };
        if proto == 6 {
            match tcp[13] & 0x12 {
                0x02 => seen[0] = Some(fields),
                0x12 => seen[1] = Some(fields),
                _ => {}
            }
        }
    }
    seen.map(|s| s.expect("both segments were seen"))
}

#[test]
fn header_fields_of_ipv4_segments_are_the_sockets() {
    assert_eq!(handshake(AF_INET, (SOL_IP, IP_TTL, [7, 9])).map(|s| s.0), [7, 9]);
    assert_eq!(handshake(AF_INET, (SOL_IP, IP_TOS, [0x10, 0x08])).map(|s| s.1), [0x10, 0x08]);
}

#[test]
fn header_fields_of_ipv6_segments_are_the_sockets() {
    assert_eq!(handshake(AF_INET6, (SOL_IPV6, IPV6_UNICAST_HOPS, [7, 9])).map(|s| s.0), [7, 9]);
    assert_eq!(handshake(AF_INET6, (SOL_IPV6, IPV6_TCLASS, [0x20, 0x40])).map(|s| s.1), [0x20, 0x40]);
    // IP_TTL of an AF_INET6 socket is for IPv4-mapped peers.
    assert_eq!(handshake(AF_INET6, (SOL_IP, IP_TTL, [7, 9])).map(|s| s.0), [64, 64]);
}
