//! Which tunables have an effect, and what it is in one line. Everything else is accepted, checked and shown, but
//! nothing reads it; `ferronet sysctl --explain` says so. A test in `stack` proves that each one named here is read.

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

/// A row of [`EFFECTIVE`].
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// The tunable.
    pub tunable: Tunable,
    /// What it does, one line.
    pub doc: &'static str,
}

/// What a tunable does; `None` when nothing reads it.
#[must_use]
pub fn effect(t: Tunable) -> Option<&'static str> {
    EFFECTIVE.iter().find(|e| e.tunable == t).map(|e| e.doc)
}

macro_rules! effects {
    ($($kind:ident::$id:ident = $doc:literal;)*) => {
        /// All tunables with an effect.
        pub const EFFECTIVE: &[Effect] = &[$(Effect { tunable: effects!(@ $kind $id), doc: $doc }),*];
    };
    (@ Sysctl $id:ident) => { Tunable::Net(Sysctl::$id) };
    (@ Conf4 $id:ident) => { Tunable::Conf4(Conf4::$id) };
    (@ Conf6 $id:ident) => { Tunable::Conf6(Conf6::$id) };
    (@ NeighParm $id:ident) => { Tunable::Neigh(NeighParm::$id) };
}

effects! {
    Sysctl::FwmarkReflect = "answers made by the kernel carry the mark of the packet they answer";
    Sysctl::IcmpEchoIgnoreAll = "do not answer echo requests";
    Sysctl::IcmpEchoIgnoreBroadcasts = "do not answer echo requests to broadcast and multicast addresses";
    Sysctl::IcmpErrorsUseInboundIfaddr = "ICMP errors come from the address of the device the packet came in on";
    Sysctl::IcmpMsgsBurst = "ICMP messages that may be sent at once, all destinations together";
    Sysctl::IcmpMsgsPerSec = "ICMP messages a second, all destinations together";
    Sysctl::IcmpRatelimit = "least milliseconds between ICMP errors to one destination; 0 for no limit";
    Sysctl::IcmpRatemask = "bits of the ICMP types that are limited";
    Sysctl::IpDefaultTtl = "time to live of packets that we send";
    Sysctl::IpForward = "forward packets between devices; sets forwarding of all, default and every device";
    Sysctl::IpNoPmtuDisc = "path MTU discovery: 0 on, 1 off, 2 pinned to min_pmtu, 3 hardened";
    Sysctl::IpLocalPortRange = "ports that are chosen for sockets without one";
    Sysctl::IpUnprivilegedPortStart = "first port that needs no privilege to bind";
    Sysctl::Neigh4GcThresh1 = "below this many ARP entries none is collected";
    Sysctl::Neigh4GcThresh2 = "above this many ARP entries idle ones are collected after 5 seconds";
    Sysctl::Neigh4GcThresh3 = "most ARP entries";
    Sysctl::Neigh6GcThresh1 = "below this many IPv6 neighbours none is collected";
    Sysctl::Neigh6GcThresh2 = "above this many IPv6 neighbours idle ones are collected after 5 seconds";
    Sysctl::Neigh6GcThresh3 = "most IPv6 neighbours";
    Sysctl::NetdevMaxBacklog = "packets that wait for the receive loop at most";
    Sysctl::RouteMinPmtu = "least path MTU that is believed";
    Sysctl::RouteMtuExpires = "seconds that a learned path MTU is kept";
    Conf4::AcceptLocal = "accept packets from the network with one of our source addresses";
    Conf4::AcceptSourceRoute = "accept packets with a source route option";
    Conf4::ArpAccept = "make entries from gratuitous ARP: 1 always, 2 from the same subnet";
    Conf4::ArpAnnounce = "which source address ARP requests carry: 0 any, 1 same subnet first, 2 the best";
    Conf4::ArpIgnore = "which ARP requests are answered: 0 any local address, 1 of the device, 2 and same subnet";
    Conf4::DropGratuitousArp = "drop gratuitous ARP";
    Conf4::Forwarding = "forward packets that come in on the device";
    Conf4::PromoteSecondaries = "a secondary address takes over when its primary is deleted";
    Conf4::ProxyArp = "answer ARP for what we route to through another device";
    Conf4::ProxyArpPvlan = "answer ARP for what we route back through the same device";
    Conf4::RouteLocalnet = "127/8 is not martian on the device";
    Conf4::RpFilter = "reverse path filter: 0 off, 1 strict, 2 loose; the larger of all and DEV holds";
    Conf4::SendRedirects = "send ICMP redirects when a packet leaves where it came in";
    Conf4::SrcValidMark = "the reverse path filter looks the packet's mark up too";
    NeighParm::AppSolicit = "probes given to a user space daemon";
    NeighParm::BaseReachableTimeMs = "milliseconds (times 0.5 to 1.5) that a confirmed neighbour stays reachable";
    NeighParm::DelayFirstProbeTime = "seconds between use of a stale neighbour and its first probe";
    NeighParm::Locktime = "ticks of 10 ms that an ARP entry is kept against a change";
    NeighParm::McastResolicit = "broadcast probes after the unicast ones failed";
    NeighParm::McastSolicit = "broadcast probes before a neighbour has failed";
    NeighParm::RetransTimeMs = "milliseconds between probes";
    NeighParm::UcastSolicit = "unicast probes before asking by broadcast";
    NeighParm::UnresQlenBytes = "bytes that wait for an unknown neighbour at most";
}
