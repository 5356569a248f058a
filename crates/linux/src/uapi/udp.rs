//! `linux/udp.h`: options at `IPPROTO_UDP` (udp(7), udplite(7)).

names! {
    /// Options.
    UDP_NAMES: i32;
    UDP_CORK = 1,
    UDP_ENCAP = 100,
    UDP_NO_CHECK6_TX = 101,
    UDP_NO_CHECK6_RX = 102,
    UDP_SEGMENT = 103,
    UDP_GRO = 104,
}

names! {
    /// Options of UDP-Lite, which UDP sockets answer too.
    UDPLITE_NAMES: i32;
    UDPLITE_SEND_CSCOV = 10,
    UDPLITE_RECV_CSCOV = 11,
}
