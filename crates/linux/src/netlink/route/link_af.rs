//! What a link says of the protocols on it: `IFLA_AF_SPEC` and `IFLA_PROTINFO` (`inet_fill_link_af`,
//! `inet6_fill_ifla6_attrs`).

use ferronet_core::sysctl::{Conf4, Conf6, NeighParm};
use ferronet_stack::dev::Device;

use super::super::codec::Msg;
use super::link::ifla;
use super::{hundredths, pf};

/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATS: u32 = 8;

/// Order of the values in `IFLA_INET_CONF` (`IPV4_DEVCONF_*`, linux/ip.h).
const CONF4: [Conf4; 33] = [
    Conf4::Forwarding,
    Conf4::McForwarding,
    Conf4::ProxyArp,
    Conf4::AcceptRedirects,
    Conf4::SecureRedirects,
    Conf4::SendRedirects,
    Conf4::SharedMedia,
    Conf4::RpFilter,
    Conf4::AcceptSourceRoute,
    Conf4::BootpRelay,
    Conf4::LogMartians,
    Conf4::Tag,
    Conf4::ArpFilter,
    Conf4::MediumId,
    Conf4::DisableXfrm,
    Conf4::DisablePolicy,
    Conf4::ForceIgmpVersion,
    Conf4::ArpAnnounce,
    Conf4::ArpIgnore,
    Conf4::PromoteSecondaries,
    Conf4::ArpAccept,
    Conf4::ArpNotify,
    Conf4::AcceptLocal,
    Conf4::SrcValidMark,
    Conf4::ProxyArpPvlan,
    Conf4::RouteLocalnet,
    Conf4::Igmpv2UnsolicitedReportInterval,
    Conf4::Igmpv3UnsolicitedReportInterval,
    Conf4::IgnoreRoutesWithLinkdown,
    Conf4::DropUnicastInL2Multicast,
    Conf4::DropGratuitousArp,
    Conf4::BcForwarding,
    Conf4::ArpEvictNocarrier,
];

/// Order of the values in `IFLA_INET6_CONF` (`DEVCONF_*`, linux/ipv6.h), by the name of the tunable; empty for what
/// has no number there.
const CONF6: [&str; 60] = [
    "forwarding",
    "hop_limit",
    "mtu",
    "accept_ra",
    "accept_redirects",
    "autoconf",
    "dad_transmits",
    "router_solicitations",
    "router_solicitation_interval",
    "router_solicitation_delay",
    "use_tempaddr",
    "temp_valid_lft",
    "temp_prefered_lft",
    "regen_max_retry",
    "max_desync_factor",
    "max_addresses",
    "force_mld_version",
    "accept_ra_defrtr",
    "accept_ra_pinfo",
    "accept_ra_rtr_pref",
    "router_probe_interval",
    "accept_ra_rt_info_max_plen",
    "proxy_ndp",
    "optimistic_dad",
    "accept_source_route",
    "mc_forwarding",
    "disable_ipv6",
    "accept_dad",
    "force_tllao",
    "ndisc_notify",
    "mldv1_unsolicited_report_interval",
    "mldv2_unsolicited_report_interval",
    "suppress_frag_ndisc",
    "accept_ra_from_local",
    "use_optimistic",
    "accept_ra_mtu",
    "",
    "use_oif_addrs_only",
    "accept_ra_min_hop_limit",
    "ignore_routes_with_linkdown",
    "drop_unicast_in_l2_multicast",
    "drop_unsolicited_na",
    "keep_addr_on_down",
    "router_solicitation_max_interval",
    "seg6_enabled",
    "seg6_require_hmac",
    "enhanced_dad",
    "addr_gen_mode",
    "disable_policy",
    "accept_ra_rt_info_min_plen",
    "ndisc_tclass",
    "rpl_seg_enabled",
    "ra_defrtr_metric",
    "ioam6_enabled",
    "ioam6_id",
    "ioam6_id_wide",
    "ndisc_evict_nocarrier",
    "accept_untracked_na",
    "accept_ra_min_lft",
    "force_forwarding",
];

fn conf6_value(d: &Device, name: &str) -> i32 {
    let Some(c) = Conf6::by_name(name) else { return 0 };
    let v = d.conf6.get(c);
    match name {
        // Seconds there, milliseconds here.
        "router_solicitation_interval"
        | "router_solicitation_delay"
        | "router_solicitation_max_interval"
        | "router_probe_interval" => v.saturating_mul(1000),
        // ipv6_add_dev: devices without DAD and temporary addresses.
        "use_tempaddr" | "accept_dad" if d.is_loopback() => -1,
        "mtu" => d.mtu.cast_signed(),
        _ => v,
    }
}

/// `IFLA_AF_SPEC`: tunables and, unless skipped, counters of IPv4 and IPv6.
pub(super) fn fill_af(m: &mut Msg, d: &Device, ext_mask: u32) {
    let af = m.nest(ifla::AF_SPEC);
    let inet = m.nest(u16::from(pf::INET));
    let conf: Vec<u8> = CONF4
        .iter()
        .flat_map(|c| {
            match c {
                // inet_init_net: loopback needs no transformation and no policy.
                Conf4::DisableXfrm | Conf4::DisablePolicy if d.is_loopback() => 1,
                _ => d.conf4.get(*c),
            }
            .to_ne_bytes()
        })
        .collect();
    m.put(1, &conf);
    m.end(inet);
    let inet6 = m.nest(u16::from(pf::INET6));
    fill_inet6(m, d, ext_mask);
    m.end(inet6);
    m.end(af);
}

/// `inet6_fill_ifla6_attrs`.
pub(super) fn fill_inet6(m: &mut Msg, d: &Device, ext_mask: u32) {
    const IF_RS_SENT: u32 = 0x10;
    const IF_READY: u32 = 0x8000_0000;
    let ready = d.is_up() && d.carrier;
    let mut flags = 0;
    if ready {
        flags |= IF_READY;
        if !d.is_loopback() {
            flags |= IF_RS_SENT;
        }
    }
    m.u32(1, flags);
    let created = hundredths(d.created);
    let reachable = d.neigh6.get(NeighParm::BaseReachableTimeMs);
    let info: Vec<u8> =
        [65535, created, reachable.cast_unsigned(), 1000].iter().flat_map(|v| v.to_ne_bytes()).collect();
    m.put(5, &info);
    let conf: Vec<u8> = CONF6.iter().flat_map(|c| conf6_value(d, c).to_ne_bytes()).collect();
    m.put(2, &conf);
    if ext_mask & SKIP_STATS == 0 {
        // IFLA_INET6_STATS and IFLA_INET6_ICMP6STATS: the first number counts the numbers.
        for (ty, n) in [(3, 38_u64), (6, 7)] {
            let words: Vec<u8> = core::iter::once(n)
                .chain(core::iter::repeat_n(0, n as usize - 1))
                .flat_map(u64::to_ne_bytes)
                .collect();
            m.put(ty, &words);
        }
    }
    m.put(7, &[0; 16]);
    m.u8(8, d.conf6.get(Conf6::AddrGenMode) as u8);
}
