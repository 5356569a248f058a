//! The names of `ferronet_linux::uapi` have the values that `libc` and the headers of the machine give them.

use std::collections::BTreeMap;

use ferronet_linux::uapi;

/// Compares names of one table with those of `libc`.
macro_rules! same {
    ($table:ident: $($name:ident),+) => {
        $(assert_eq!(i128::from(uapi::$table::$name), i128::from(libc::$name), stringify!($name));)+
    };
}

#[test]
fn libc_gives_the_same_values() {
    same!(
        genetlink: CTRL_CMD_UNSPEC, CTRL_CMD_NEWFAMILY, CTRL_CMD_DELFAMILY, CTRL_CMD_GETFAMILY, CTRL_CMD_NEWOPS,
        CTRL_CMD_DELOPS, CTRL_CMD_GETOPS, CTRL_CMD_NEWMCAST_GRP, CTRL_CMD_DELMCAST_GRP,
        CTRL_CMD_GETMCAST_GRP, CTRL_ATTR_UNSPEC, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME,
        CTRL_ATTR_VERSION, CTRL_ATTR_HDRSIZE, CTRL_ATTR_MAXATTR, CTRL_ATTR_OPS, CTRL_ATTR_MCAST_GROUPS,
        CTRL_ATTR_OP_UNSPEC, CTRL_ATTR_OP_ID, CTRL_ATTR_OP_FLAGS, CTRL_ATTR_MCAST_GRP_UNSPEC,
        CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID
    );
    same!(
        if_packet: PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP, PACKET_RECV_OUTPUT, PACKET_RX_RING,
        PACKET_STATISTICS, PACKET_COPY_THRESH, PACKET_AUXDATA, PACKET_ORIGDEV, PACKET_VERSION,
        PACKET_HDRLEN, PACKET_RESERVE, PACKET_TX_RING, PACKET_LOSS, PACKET_VNET_HDR, PACKET_TX_TIMESTAMP,
        PACKET_TIMESTAMP, PACKET_FANOUT, PACKET_TX_HAS_OFF, PACKET_QDISC_BYPASS, PACKET_ROLLOVER_STATS,
        PACKET_IGNORE_OUTGOING, PACKET_FANOUT_DATA, PACKET_VNET_HDR_SZ, TP_STATUS_KERNEL, TP_STATUS_USER,
        TP_STATUS_COPY, TP_STATUS_LOSING, TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID
    );
    same!(
        in4: IP_TOS, IP_TTL, IP_HDRINCL, IP_OPTIONS, IP_ROUTER_ALERT, IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO,
        IP_PKTOPTIONS, IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MTU, IP_FREEBIND,
        IP_IPSEC_POLICY, IP_XFRM_POLICY, IP_PASSSEC, IP_TRANSPARENT, IP_ORIGDSTADDR, IP_RECVORIGDSTADDR,
        IP_MINTTL, IP_NODEFRAG, IP_CHECKSUM, IP_BIND_ADDRESS_NO_PORT, IP_RECVFRAGSIZE, IP_MULTICAST_IF,
        IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP, IP_UNBLOCK_SOURCE,
        IP_BLOCK_SOURCE, IP_ADD_SOURCE_MEMBERSHIP, IP_DROP_SOURCE_MEMBERSHIP, IP_MSFILTER, MCAST_JOIN_GROUP,
        MCAST_BLOCK_SOURCE, MCAST_UNBLOCK_SOURCE, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP,
        MCAST_LEAVE_SOURCE_GROUP, MCAST_MSFILTER, IP_MULTICAST_ALL, IP_UNICAST_IF, IP_PMTUDISC_DONT,
        IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE, IP_PMTUDISC_INTERFACE, IP_PMTUDISC_OMIT
    );
    same!(
        in6: IPV6_ADDRFORM, IPV6_2292PKTINFO, IPV6_2292HOPOPTS, IPV6_2292DSTOPTS, IPV6_2292RTHDR,
        IPV6_2292PKTOPTIONS, IPV6_CHECKSUM, IPV6_2292HOPLIMIT, IPV6_NEXTHOP, IPV6_AUTHHDR, IPV6_FLOWINFO,
        IPV6_UNICAST_HOPS, IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP, IPV6_ADD_MEMBERSHIP,
        IPV6_DROP_MEMBERSHIP, IPV6_ROUTER_ALERT, IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR, IPV6_V6ONLY,
        IPV6_JOIN_ANYCAST, IPV6_LEAVE_ANYCAST, IPV6_MULTICAST_ALL, IPV6_ROUTER_ALERT_ISOLATE,
        IPV6_FLOWLABEL_MGR, IPV6_FLOWINFO_SEND, IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY, IPV6_HDRINCL,
        IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_RECVHOPOPTS, IPV6_HOPOPTS,
        IPV6_RTHDRDSTOPTS, IPV6_RECVRTHDR, IPV6_RTHDR, IPV6_RECVDSTOPTS, IPV6_DSTOPTS, IPV6_RECVPATHMTU,
        IPV6_PATHMTU, IPV6_DONTFRAG, IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_AUTOFLOWLABEL,
        IPV6_ADDR_PREFERENCES, IPV6_MINHOPCOUNT, IPV6_ORIGDSTADDR, IPV6_RECVORIGDSTADDR, IPV6_TRANSPARENT,
        IPV6_UNICAST_IF, IPV6_RECVFRAGSIZE, IPV6_FREEBIND
    );
    same!(
        netlink: NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_NETFILTER, NETLINK_GENERIC, NETLINK_ADD_MEMBERSHIP,
        NETLINK_DROP_MEMBERSHIP, NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS,
        NETLINK_RX_RING, NETLINK_TX_RING, NETLINK_LISTEN_ALL_NSID, NETLINK_LIST_MEMBERSHIPS,
        NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK
    );
    same!(
        rtnetlink: RTN_UNSPEC, RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST, RTN_BLACKHOLE,
        RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW, RTN_NAT, RTN_XRESOLVE
    );
    same!(
        socket: SOL_IP, SOL_SOCKET, SOL_TCP, SOL_UDP, SOL_IPV6, SOL_ICMPV6, SOL_RAW, SOL_PACKET, SOL_NETLINK,
        SO_DEBUG, SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_DONTROUTE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF,
        SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_KEEPALIVE, SO_OOBINLINE, SO_NO_CHECK, SO_PRIORITY, SO_LINGER,
        SO_BSDCOMPAT, SO_REUSEPORT, SO_PASSCRED, SO_PEERCRED, SO_RCVLOWAT, SO_SNDLOWAT,
        SO_SECURITY_AUTHENTICATION, SO_SECURITY_ENCRYPTION_TRANSPORT, SO_SECURITY_ENCRYPTION_NETWORK,
        SO_BINDTODEVICE, SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_PEERNAME, SO_ACCEPTCONN, SO_PEERSEC,
        SO_PASSSEC, SO_MARK, SO_PROTOCOL, SO_DOMAIN, SO_RXQ_OVFL, SO_WIFI_STATUS, SO_PEEK_OFF, SO_NOFCS,
        SO_LOCK_FILTER, SO_SELECT_ERR_QUEUE, SO_BUSY_POLL, SO_MAX_PACING_RATE, SO_BPF_EXTENSIONS,
        SO_INCOMING_CPU, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF, SO_CNX_ADVICE,
        SO_MEMINFO, SO_INCOMING_NAPI_ID, SO_COOKIE, SO_PEERGROUPS, SO_ZEROCOPY, SO_TXTIME, SO_BINDTOIFINDEX,
        SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW, SO_TIMESTAMPING_NEW, SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW,
        SO_DETACH_REUSEPORT_BPF, SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET, SO_NETNS_COOKIE, SO_BUF_LOCK,
        SO_RESERVE_MEM, SO_TXREHASH, SO_RCVMARK, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING, SO_RCVTIMEO,
        SO_SNDTIMEO, SO_PASSPIDFD, SO_PEERPIDFD, SO_DEVMEM_LINEAR, SO_DEVMEM_DMABUF, SO_DEVMEM_DONTNEED,
        MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_CTRUNC, MSG_TRUNC, MSG_DONTWAIT, MSG_EOR, MSG_WAITALL,
        MSG_CONFIRM, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_MORE, SCM_RIGHTS, SCM_CREDENTIALS, SCM_TXTIME
    );
    same!(
        sockios: SIOCADDRT, SIOCDELRT, SIOCGIFNAME, SIOCSIFLINK, SIOCGIFCONF, SIOCGIFFLAGS, SIOCSIFFLAGS,
        SIOCGIFADDR, SIOCSIFADDR, SIOCGIFDSTADDR, SIOCSIFDSTADDR, SIOCGIFBRDADDR, SIOCSIFBRDADDR,
        SIOCGIFNETMASK, SIOCSIFNETMASK, SIOCGIFMETRIC, SIOCSIFMETRIC, SIOCGIFMEM, SIOCSIFMEM, SIOCGIFMTU,
        SIOCSIFMTU, SIOCSIFNAME, SIOCSIFHWADDR, SIOCGIFENCAP, SIOCSIFENCAP, SIOCGIFHWADDR, SIOCGIFSLAVE,
        SIOCSIFSLAVE, SIOCADDMULTI, SIOCDELMULTI, SIOCGIFINDEX, SIOCSIFPFLAGS, SIOCGIFPFLAGS,
        SIOCSIFHWBROADCAST, SIOCGIFCOUNT, SIOCGIFBR, SIOCSIFBR, SIOCGIFTXQLEN, SIOCSIFTXQLEN, SIOCETHTOOL,
        SIOCGMIIPHY, SIOCGMIIREG, SIOCSMIIREG, SIOCWANDEV, SIOCOUTQNSD, SIOCDARP, SIOCGARP, SIOCSARP,
        SIOCDRARP, SIOCGRARP, SIOCSRARP, SIOCGIFMAP, SIOCSIFMAP, SIOCSHWTSTAMP, SIOCGHWTSTAMP, SIOCGSKNS,
        SIOCIWFIRST, SIOCIWLAST
    );
    same!(
        tcp: TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT,
        TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_INFO, TCP_QUICKACK, TCP_CONGESTION, TCP_MD5SIG,
        TCP_THIN_LINEAR_TIMEOUTS, TCP_THIN_DUPACK, TCP_USER_TIMEOUT, TCP_REPAIR, TCP_REPAIR_QUEUE,
        TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS, TCP_FASTOPEN, TCP_TIMESTAMP, TCP_NOTSENT_LOWAT, TCP_CC_INFO,
        TCP_SAVE_SYN, TCP_SAVED_SYN, TCP_REPAIR_WINDOW, TCP_FASTOPEN_CONNECT, TCP_ULP, TCP_MD5SIG_EXT,
        TCP_FASTOPEN_KEY, TCP_FASTOPEN_NO_COOKIE, TCP_ZEROCOPY_RECEIVE, TCP_INQ
    );
    same!(udp: UDP_CORK, UDP_ENCAP, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX, UDP_SEGMENT, UDP_GRO);
}

/// Removes comments.
fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((code, after)) = rest.split_once("/*") {
        out.push_str(code);
        rest = after.split_once("*/").map_or("", |(_, r)| r);
    }
    out.push_str(rest);
    out
}

/// A number as headers write it, or a name that was given before.
fn value(s: &str, known: &BTreeMap<String, i64>) -> Option<i64> {
    let s = s.trim().trim_end_matches(['U', 'L']);
    if let Some(h) = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")) {
        return i64::from_str_radix(h, 16).ok();
    }
    if let Some((l, r)) = s.trim_matches(['(', ')']).split_once("<<") {
        return Some(value(l, known)? << value(r, known)?);
    }
    s.parse().ok().or_else(|| known.get(s).copied())
}

/// What a header defines, as far as it is a plain number: `#define` and `enum`.
fn defined(text: &str) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    let mut next = None;
    for line in without_comments(text).lines() {
        let line = line.trim();
        if let Some(d) = line.strip_prefix('#') {
            let mut words = d.trim().splitn(3, char::is_whitespace);
            if let (Some("define"), Some(name), Some(v)) = (words.next(), words.next(), words.next())
                && let Some(v) = value(v, &found)
            {
                found.entry(name.to_owned()).or_insert(v);
            }
            continue;
        }
        if line.starts_with("enum") || line.starts_with("typedef enum") {
            next = Some(0);
            continue;
        }
        if line.starts_with('}') {
            next = None;
        }
        let Some(n) = &mut next else { continue };
        for item in line.split(',').map(str::trim).filter(|i| !i.is_empty() && *i != "{") {
            let (name, v) = match item.split_once('=') {
                Some((name, v)) => (name.trim(), value(v, &found)),
                None => (item, Some(*n)),
            };
            let Some(v) = v else { continue };
            found.insert(name.to_owned(), v);
            *n = v + 1;
        }
    }
    found
}

#[test]
fn headers_of_the_machine_give_the_same_values() {
    const HEADERS: &[&str] = &[
        "asm-generic/socket.h",
        "asm-generic/sockios.h",
        "linux/genetlink.h",
        "linux/icmp.h",
        "linux/icmpv6.h",
        "linux/if_link.h",
        "linux/if_packet.h",
        "linux/in.h",
        "linux/in6.h",
        "linux/netlink.h",
        "linux/rtnetlink.h",
        "linux/sockios.h",
        "linux/tcp.h",
        "linux/udp.h",
    ];
    let mut all = BTreeMap::new();
    for h in HEADERS {
        let path = format!("/usr/include/{h}");
        let Ok(text) = std::fs::read_to_string(&path) else {
            ferronet_sim::need::skip("headers_of_the_machine_give_the_same_values", &path);
            return;
        };
        all.extend(defined(&text));
    }
    let mut checked = 0;
    for (name, ours) in uapi::ALL.iter().copied().flatten() {
        // The headers choose these by the size of time_t.
        let sized = matches!(
            *name,
            "SO_TIMESTAMP" | "SO_TIMESTAMPNS" | "SO_TIMESTAMPING" | "SO_RCVTIMEO" | "SO_SNDTIMEO"
        );
        let theirs = if sized { all.get(&format!("{name}_OLD")) } else { all.get(*name) };
        if let Some(theirs) = theirs {
            assert_eq!(ours, theirs, "{name}");
            checked += 1;
        }
    }
    assert!(checked > 350, "only {checked} names were found");
}
