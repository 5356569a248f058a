//! Every way to lose a packet has a name, a meaning and, where there is one, the tunable that matters.

macro_rules! drop_reasons {
    ($($name:ident: $mib:expr, $text:literal, $tunable:literal;)*) => {
        /// Why a packet ended. The names follow the kernel's `enum skb_drop_reason` where it has one.
        #[allow(missing_docs, reason = "DropReason::meaning documents each")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($name),* }
        impl DropReason {
            /// All reasons.
            pub const ALL: &[DropReason] = &[$(DropReason::$name),*];
            /// The name as `ferronet drops` prints it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => stringify!($name)),* }
            }
            /// One line: what happened.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(DropReason::$name => $text),* }
            }
            /// The sysctl or command that matters, or "".
            #[must_use]
            pub const fn tunable(self) -> &'static str {
                match self { $(DropReason::$name => $tunable),* }
            }
            /// The MIB counter that moves with it, when it is the same for every place.
            #[must_use]
            pub const fn mib(self) -> Option<crate::Mib> {
                match self { $(DropReason::$name => $mib),* }
            }
        }
    };
}

use crate::Mib as M;

drop_reasons! {
    PktTooSmall: None, "the frame is shorter than its headers", "";
    OtherHost: None, "the frame was for another link address", "ip link set DEV promisc on";
    UnhandledProto: None, "no handler for this EtherType", "";
    DevDown: None, "the device is down", "ip link set DEV up";
    DevGone: None, "the device no longer exists", "";
    NoCarrier: None, "the other end of the link is down", "ip link set PEER up";
    MtuExceeded: None, "larger than the device's MTU and not a GSO packet", "ip link set DEV mtu N";
    TxQueueFull: None, "the transmit queue is full", "ip link set DEV txqueuelen N";
    CpuBacklog: None, "the receive backlog is full", "net.core.netdev_max_backlog";
    QdiscDrop: None, "dropped by the queueing discipline", "tc qdisc";
    LinkLoss: None, "lost on the emulated link", "the link's loss setting";
    LinkQueue: None, "the emulated link's queue is full", "the link's queue and rate settings";
    NoLinkAddress: None, "no route to the link: the device needs an address", "";
    IpHdr: Some(M::IpInHdrErrors), "bad IPv4 header", "";
    IpCsum: Some(M::IpInHdrErrors), "bad IPv4 header checksum", "";
    IpTruncated: Some(M::IpExtInTruncatedPkts), "the packet is shorter than its IP length", "";
    IpOptions: Some(M::IpInHdrErrors), "bad IPv4 options", "";
    IpSourceRoute: None, "a source route that is not allowed", "net.ipv4.conf.DEV.accept_source_route";
    IpInAddr: Some(M::IpInAddrErrors), "the packet is not for us and forwarding is off", "net.ipv4.ip_forward";
    IpMartianSource: None, "impossible source address", "net.ipv4.conf.DEV.log_martians";
    IpMartianDest: None, "impossible destination address", "net.ipv4.conf.DEV.route_localnet";
    IpRpFilter: Some(M::TcpExtIPReversePathFilter), "the source is not reached through this device", "net.ipv4.conf.DEV.rp_filter";
    IpNoRoute: Some(M::IpExtInNoRoutes), "no route to the destination", "ip route";
    IpOutNoRoute: Some(M::IpOutNoRoutes), "no route for a locally sent packet", "ip route";
    IpRouteBlackhole: None, "the route is a blackhole", "ip route";
    IpRouteUnreachable: None, "the route is of type unreachable", "ip route";
    IpRouteProhibit: None, "the route is of type prohibit", "ip route";
    IpTtl: Some(M::IpInHdrErrors), "the time to live ran out", "";
    IpNeedFrag: Some(M::IpFragFails), "larger than the path MTU and fragmentation is forbidden", "ip link set DEV mtu N";
    IpFragFail: Some(M::IpFragFails), "could not be fragmented", "";
    IpNoProto: Some(M::IpInUnknownProtos), "no handler for this IP protocol", "";
    IpRedirectLoop: None, "the packet would go back to its sender", "";
    FragOverlap: None, "fragments overlap", "";
    FragDuplicate: None, "this fragment was here already", "";
    FragTimeout: None, "reassembly did not finish in time", "net.ipv4.ipfrag_time";
    FragMemory: None, "reassembly memory is used up", "net.ipv4.ipfrag_high_thresh";
    FragInvalid: None, "an impossible fragment", "";
    FragEvicted: None, "the fragment's queue was given up", "net.ipv4.ipfrag_high_thresh";
    Ip6Hdr: Some(M::Ip6InHdrErrors), "bad IPv6 header", "";
    Ip6Truncated: Some(M::Ip6InTruncatedPkts), "the packet is shorter than its IPv6 length", "";
    Ip6ExtHdr: Some(M::Ip6InHdrErrors), "bad or forbidden IPv6 extension header", "net.ipv6.max_hbh_opts_number";
    Ip6InAddr: Some(M::Ip6InAddrErrors), "impossible address or not for us with forwarding off", "net.ipv6.conf.all.forwarding";
    Ip6NoRoute: Some(M::Ip6InNoRoutes), "no IPv6 route to the destination", "ip -6 route";
    Ip6OutNoRoute: Some(M::Ip6OutNoRoutes), "no IPv6 route for a locally sent packet", "ip -6 route";
    Ip6HopLimit: Some(M::Ip6InHdrErrors), "the hop limit ran out", "";
    Ip6TooBig: Some(M::Ip6InTooBigErrors), "larger than the path MTU", "ip link set DEV mtu N";
    Ip6NoProto: Some(M::Ip6InUnknownProtos), "no handler for this IPv6 next header", "";
    Ip6Disabled: None, "IPv6 is disabled on this device", "net.ipv6.conf.DEV.disable_ipv6";
    Ip6NotMember: None, "a group that this device did not join", "ip maddr";
    Ip6FragFail: None, "could not be fragmented, or may not", "ip link set DEV mtu N";
    ArpInvalid: None, "bad ARP packet", "";
    ArpIgnored: None, "an ARP packet that asks for nothing of ours", "net.ipv4.conf.DEV.arp_ignore";
    NdiscInvalid: None, "bad neighbour discovery message", "";
    NeighFailed: None, "the neighbour did not answer", "ip neigh";
    NeighQueueFull: None, "too many packets wait for the neighbour's address", "net.ipv4.neigh.DEV.unres_qlen_bytes";
    NeighTableFull: None, "the neighbour table is full", "net.ipv4.neigh.default.gc_thresh3";
    NeighDead: None, "the neighbour entry went away", "";
    IcmpInvalid: Some(M::IcmpInErrors), "bad ICMP message", "";
    IcmpCsum: Some(M::IcmpInCsumErrors), "bad ICMP checksum", "";
    IcmpIgnored: None, "an ICMP message that the settings ignore", "net.ipv4.icmp_echo_ignore_all";
    Icmp6Invalid: Some(M::Icmp6InErrors), "bad ICMPv6 message", "";
    Icmp6Csum: Some(M::Icmp6InCsumErrors), "bad ICMPv6 checksum", "";
    UdpHdr: None, "bad UDP header or length", "";
    UdpCsum: None, "bad UDP checksum", "";
    NoSocket: None, "no socket is bound to this address and port", "ss -tulnp";
    SocketRcvbuff: None, "the socket's receive buffer is full", "net.core.rmem_max, SO_RCVBUF";
    SocketClosed: None, "the socket went away with data unread", "";
    SocketFilter: None, "not of interest to the socket", "";
    TcpHdr: Some(M::TcpInErrs), "bad TCP header", "";
    TcpCsum: Some(M::TcpInCsumErrors), "bad TCP checksum", "";
    TcpFlags: None, "impossible TCP flags in this state", "";
    TcpOldSequence: None, "TCP data from before the window", "";
    TcpOutOfWindow: None, "TCP data from beyond the window", "";
    TcpPaws: None, "an old TCP timestamp (PAWS)", "net.ipv4.tcp_timestamps";
    TcpOldAck: None, "an acknowledgement from before the window", "";
    TcpTooNewAck: None, "an acknowledgement of what was never sent", "";
    TcpInvalidSyn: None, "a SYN inside an established connection", "";
    TcpReset: None, "a RST: it ended the connection, or was outside the window", "";
    TcpZeroWindow: Some(M::TcpExtTCPZeroWindowDrop), "TCP data into a closed window", "";
    TcpOfoDrop: Some(M::TcpExtTCPOFODrop), "the out-of-order queue is full", "net.ipv4.tcp_rmem";
    TcpRcvQDrop: Some(M::TcpExtTCPRcvQDrop), "TCP receive memory is used up", "net.ipv4.tcp_rmem";
    TcpDeferAccept: Some(M::TcpExtTCPDeferAcceptDrop), "the handshake is complete, the listener waits for data", "TCP_DEFER_ACCEPT";
    TcpListenOverflow: Some(M::TcpExtListenOverflows), "the accept queue is full", "net.core.somaxconn, listen(2) backlog";
    TcpReqQFull: None, "the SYN queue is full", "net.ipv4.tcp_max_syn_backlog, net.ipv4.tcp_syncookies";
    TcpBadCookie: Some(M::TcpExtSyncookiesFailed), "not a valid SYN cookie", "net.ipv4.tcp_syncookies";
    TcpTimeWait: None, "an old duplicate for a connection in TIME_WAIT", "";
    TcpClosed: None, "data for a connection that is closed", "";
    TcpAbortOnData: None, "data after the program closed", "";
    Netfilter: None, "dropped by a firewall rule", "nft list ruleset";
    NetfilterMemory: None, "no memory for connection tracking", "net.netfilter.nf_conntrack_max";
    PacketSockError: None, "a packet socket could not take it", "";
    TapFull: None, "the host's TAP device did not take it", "";
    NsGone: None, "the namespace at the other end is gone", "";
    NoMemory: None, "a limit on memory was reached", "";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_something() {
        for r in DropReason::ALL {
            assert!(!r.meaning().is_empty() && !r.name().is_empty());
        }
        assert!(DropReason::ALL.len() < 256);
    }
}
