//! `linux/rtnetlink.h`: routes.

names! {
    /// Metrics of a route (`RTA_METRICS`).
    RTAX_NAMES: u16;
    RTAX_UNSPEC = 0,
    RTAX_LOCK = 1,
    RTAX_MTU = 2,
    RTAX_WINDOW = 3,
    RTAX_RTT = 4,
    RTAX_RTTVAR = 5,
    RTAX_SSTHRESH = 6,
    RTAX_CWND = 7,
    RTAX_ADVMSS = 8,
    RTAX_REORDERING = 9,
    RTAX_HOPLIMIT = 10,
    RTAX_INITCWND = 11,
    RTAX_FEATURES = 12,
    RTAX_RTO_MIN = 13,
    RTAX_INITRWND = 14,
    RTAX_QUICKACK = 15,
    RTAX_CC_ALGO = 16,
    RTAX_FASTOPEN_NO_COOKIE = 17,
}

names! {
    /// Types of routes (`rtm_type`).
    RTN_NAMES: u8;
    RTN_UNSPEC = 0,
    RTN_UNICAST = 1,
    RTN_LOCAL = 2,
    RTN_BROADCAST = 3,
    RTN_ANYCAST = 4,
    RTN_MULTICAST = 5,
    RTN_BLACKHOLE = 6,
    RTN_UNREACHABLE = 7,
    RTN_PROHIBIT = 8,
    RTN_THROW = 9,
    RTN_NAT = 10,
    RTN_XRESOLVE = 11,
}

names! {
    /// Flags of a next hop (`rtnh_flags`).
    RTNH_F_NAMES: u8;
    RTNH_F_DEAD = 1,
    RTNH_F_PERVASIVE = 2,
    RTNH_F_ONLINK = 4,
    RTNH_F_OFFLOAD = 8,
    RTNH_F_LINKDOWN = 16,
    RTNH_F_UNRESOLVED = 32,
    RTNH_F_TRAP = 64,
}
