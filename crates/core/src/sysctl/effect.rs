//! Which tunables have an effect. Everything else is accepted, checked and shown, but nothing reads it;
//! `ferronet sysctl --explain` says so. A test in `stack` proves that each one named here is read there.

use super::{Conf4, Conf6, NeighParm, Sysctl};

/// A tunable of any of the tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tunable {
    /// Of the namespace.
    Net(Sysctl),
    /// `net.ipv4.conf.DEV`.
    Conf4(Conf4),
    /// `net.ipv6.conf.DEV`.
    Conf6(Conf6),
    /// `net.ipv4.neigh.DEV`, `net.ipv6.neigh.DEV`.
    Neigh(NeighParm),
}

/// Does anything read it?
#[must_use]
pub fn effective(t: Tunable) -> bool {
    match t {
        Tunable::Net(s) => NET.contains(&s),
        Tunable::Conf4(c) => CONF4.contains(&c),
        Tunable::Conf6(c) => CONF6.contains(&c),
        Tunable::Neigh(n) => NEIGH.contains(&n),
    }
}

/// Of the namespace.
#[rustfmt::skip]
pub const NET: &[Sysctl] = &[
    Sysctl::DevconfInheritInitNet, Sysctl::FwmarkReflect, Sysctl::IcmpEchoIgnoreAll,
    Sysctl::IcmpEchoIgnoreBroadcasts, Sysctl::IcmpErrorsUseInboundIfaddr, Sysctl::IcmpMsgsBurst,
    Sysctl::IcmpMsgsPerSec, Sysctl::IcmpRatelimit, Sysctl::IcmpRatemask, Sysctl::IgmpLinkLocalMcastReports,
    Sysctl::IgmpMaxMemberships, Sysctl::IgmpQrv, Sysctl::Ip6AnycastSrcEchoReply, Sysctl::Ip6AutoFlowlabels,
    Sysctl::Ip6Bindv6only, Sysctl::Ip6FlowlabelReflect, Sysctl::Ip6FwmarkReflect,
    Sysctl::Ip6IcmpEchoIgnoreAll, Sysctl::Ip6IcmpEchoIgnoreAnycast, Sysctl::Ip6IcmpEchoIgnoreMulticast,
    Sysctl::Ip6IcmpRatelimit, Sysctl::Ip6IcmpRatemask, Sysctl::Ip6Ip6fragHighThresh, Sysctl::Ip6Ip6fragTime,
    Sysctl::Ip6IpNonlocalBind, Sysctl::Ip6MaxDstOptsLength, Sysctl::Ip6MaxDstOptsNumber,
    Sysctl::Ip6MaxHbhLength, Sysctl::Ip6MaxHbhOptsNumber, Sysctl::Ip6RouteFlush, Sysctl::Ip6RouteMtuExpires,
    Sysctl::IpDefaultTtl, Sysctl::IpForward, Sysctl::IpLocalPortRange, Sysctl::IpLocalReservedPorts,
    Sysctl::IpNoPmtuDisc, Sysctl::IpNonlocalBind, Sysctl::IpUnprivilegedPortStart, Sysctl::IpfragHighThresh,
    Sysctl::IpfragMaxDist, Sysctl::IpfragTime, Sysctl::Neigh4GcThresh1, Sysctl::Neigh4GcThresh2,
    Sysctl::Neigh4GcThresh3, Sysctl::Neigh6GcThresh1, Sysctl::Neigh6GcThresh2, Sysctl::Neigh6GcThresh3,
    Sysctl::NetdevMaxBacklog, Sysctl::PingGroupRange, Sysctl::RmemDefault, Sysctl::RmemMax,
    Sysctl::RouteFlush, Sysctl::RouteMinPmtu, Sysctl::RouteMtuExpires, Sysctl::Somaxconn,
    Sysctl::TcpAbortOnOverflow, Sysctl::TcpCongestionControl, Sysctl::TcpFinTimeout,
    Sysctl::TcpKeepaliveIntvl, Sysctl::TcpKeepaliveProbes, Sysctl::TcpKeepaliveTime, Sysctl::TcpMaxSynBacklog,
    Sysctl::TcpMaxTwBuckets, Sysctl::TcpRmem, Sysctl::TcpSynRetries, Sysctl::TcpSyncookies,
    Sysctl::TcpTwReuse, Sysctl::TcpTwReuseDelay, Sysctl::TcpWmem, Sysctl::WmemDefault, Sysctl::WmemMax,
];

/// IPv4, of a device.
#[rustfmt::skip]
pub const CONF4: &[Conf4] = &[
    Conf4::AcceptLocal, Conf4::AcceptRedirects, Conf4::AcceptSourceRoute, Conf4::ArpAccept,
    Conf4::ArpAnnounce, Conf4::ArpEvictNocarrier, Conf4::ArpFilter, Conf4::ArpIgnore, Conf4::ArpNotify,
    Conf4::BcForwarding, Conf4::BootpRelay, Conf4::DropGratuitousArp, Conf4::DropUnicastInL2Multicast,
    Conf4::ForceIgmpVersion, Conf4::Forwarding, Conf4::Igmpv2UnsolicitedReportInterval,
    Conf4::Igmpv3UnsolicitedReportInterval, Conf4::IgnoreRoutesWithLinkdown, Conf4::LogMartians,
    Conf4::McForwarding, Conf4::MediumId, Conf4::PromoteSecondaries, Conf4::ProxyArp, Conf4::ProxyArpPvlan,
    Conf4::RouteLocalnet, Conf4::RpFilter, Conf4::SecureRedirects, Conf4::SendRedirects, Conf4::SharedMedia,
    Conf4::SrcValidMark, Conf4::Tag,
];

/// IPv6, of a device.
#[rustfmt::skip]
pub const CONF6: &[Conf6] = &[
    Conf6::AcceptDad, Conf6::AcceptRa, Conf6::AcceptRaDefrtr, Conf6::AcceptRaFromLocal,
    Conf6::AcceptRaMinHopLimit, Conf6::AcceptRaMinLft, Conf6::AcceptRaMtu, Conf6::AcceptRaPinfo,
    Conf6::AcceptRaRtrPref, Conf6::AcceptRedirects, Conf6::AddrGenMode, Conf6::Autoconf, Conf6::DadTransmits,
    Conf6::DisableIpv6, Conf6::DropUnicastInL2Multicast, Conf6::DropUnsolicitedNa, Conf6::EnhancedDad,
    Conf6::ForceForwarding, Conf6::ForceMldVersion, Conf6::ForceTllao, Conf6::Forwarding, Conf6::HopLimit,
    Conf6::IgnoreRoutesWithLinkdown, Conf6::KeepAddrOnDown, Conf6::MaxAddresses,
    Conf6::Mldv1UnsolicitedReportInterval, Conf6::Mldv2UnsolicitedReportInterval, Conf6::Mtu,
    Conf6::NdiscNotify, Conf6::NdiscTclass, Conf6::RaDefrtrMetric, Conf6::RouterSolicitationDelay,
    Conf6::RouterSolicitationInterval, Conf6::RouterSolicitationMaxInterval, Conf6::RouterSolicitations,
    Conf6::SuppressFragNdisc, Conf6::UseOifAddrsOnly, Conf6::UseTempaddr,
];

/// Neighbours of a device.
#[rustfmt::skip]
pub const NEIGH: &[NeighParm] = &[
    NeighParm::AppSolicit, NeighParm::BaseReachableTimeMs, NeighParm::DelayFirstProbeTime,
    NeighParm::GcStaleTime, NeighParm::Locktime, NeighParm::McastResolicit, NeighParm::McastSolicit,
    NeighParm::RetransTimeMs, NeighParm::UcastSolicit, NeighParm::UnresQlenBytes,
];
