//! `linux/icmp.h`, `linux/icmpv6.h`: options of raw sockets (raw(7), RFC 3542).

names! {
    /// At `SOL_RAW`.
    ICMP_NAMES: i32;
    ICMP_FILTER = 1,
}

names! {
    /// At `SOL_ICMPV6`.
    ICMPV6_NAMES: i32;
    ICMPV6_FILTER = 1,
}
