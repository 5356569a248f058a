//! Files that say the same everywhere here: headers of tables that are empty by nature, and constants.

use ferronet_stack::Namespace;

use crate::kernel::Kernel;

macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* pub(super) fn $name(_k: &Kernel, _ns: &Namespace) -> Vec<u8> {
            $text.as_bytes().to_vec()
        })*
    };
}

fixed! {
    /// Anycast addresses joined by programs.
    anycast6 = "";
    /// Flow labels leased by programs.
    ip6_flowlabel = "Label S Owner  Users  Linger Expires  Dst                              Opt\n";
    /// IPv6 multicast routing cache.
    ip6_mr_cache = "Group                            Origin                           Iif      Pkts  Bytes     \
                    Wrong  Oifs\n";
    /// IPv6 multicast routing devices.
    ip6_mr_vif = "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags\n";
    /// Multicast routing cache.
    ip_mr_cache = "Group    Origin   Iif     Pkts    Bytes    Wrong Oifs\n";
    /// Multicast routing devices.
    ip_mr_vif = "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags Local    Remote\n";
    /// Units of packet scheduling: ticks of 64 ns, 1 GHz.
    psched = "000003e8 00000040 000f4240 3b9aca00\n";
    /// Protocol handlers.
    ptype = "Type Device      Function\n0800          ip_rcv\n0806          arp_rcv\n86dd          ipv6_rcv\n";
    /// Unix sockets belong to the host's kernel.
    unix = "Num       RefCount Protocol Flags    Type St Inode Path\n";
}

/// The route cache went in 3.6; the header stayed (`rt_cache_seq_show`).
pub(super) fn rt_cache(_k: &Kernel, _ns: &Namespace) -> Vec<u8> {
    let head = "Iface\tDestination\tGateway \tFlags\t\tRefCnt\tUse\tMetric\tSource\t\tMTU\tWindow\tIRTT\tTOS\tHHRef\t\
                HHUptod\tSpecDst";
    format!("{head:<127}\n").into_bytes()
}

/// Counters by route realm, which we do not have: 256 times four numbers of 32 bits.
pub(super) fn rt_acct(_k: &Kernel, _ns: &Namespace) -> Vec<u8> {
    vec![0; 4096]
}

/// `stat/rt_cache`: one processor.
pub(super) fn stat_rt_cache(_k: &Kernel, _ns: &Namespace) -> Vec<u8> {
    let names = "entries  in_hit   in_slow_tot in_slow_mc in_no_route in_brd   in_martian_dst in_martian_src out_hit  \
                 out_slow_tot out_slow_mc gc_total gc_ignored gc_goal_miss gc_dst_overflow in_hlist_search \
                 out_hlist_search\n";
    let z = "00000000";
    format!(
        "{names}{z} {z} {z}    {z}   {z}    {z} {z}       {z}       {z} {z}     {z}    {z} {z}   {z}     {z}        \
         {z}        {z}\n"
    )
    .into_bytes()
}
