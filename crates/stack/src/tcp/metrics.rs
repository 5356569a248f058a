//! Settings of the protocol, read from the sysctl registry once per change.

use core::time::Duration;

use ferronet_core::Sysctl as S;
use ferronet_core::sysctl::SysctlTable;
use ferronet_tcp::Config;

/// The `Config` that the registry's present values stand for.
#[must_use]
pub fn config_from_sysctl(t: &SysctlTable) -> Config {
    let bytes3 = |s| t.get3(s).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    let u8_of = |s| u8::try_from(t.get(s)).unwrap_or(u8::MAX);
    let u32_of = |s| u32::try_from(t.get(s)).unwrap_or(u32::MAX);
    let secs = |s| Duration::from_secs(u64::try_from(t.get(s)).unwrap_or(0));
    let millis = |s| Duration::from_millis(u64::try_from(t.get(s)).unwrap_or(0));
    Config {
        rmem: bytes3(S::TcpRmem),
        wmem: bytes3(S::TcpWmem),
        rmem_max: u32_of(S::RmemMax),
        moderate_rcvbuf: t.on(S::TcpModerateRcvbuf),
        sack: t.on(S::TcpSack),
        dsack: t.on(S::TcpDsack),
        timestamps: t.on(S::TcpTimestamps),
        window_scaling: t.on(S::TcpWindowScaling),
        ecn: u8_of(S::TcpEcn),
        slow_start_after_idle: t.on(S::TcpSlowStartAfterIdle),
        retries1: u8_of(S::TcpRetries1),
        retries2: u8_of(S::TcpRetries2),
        syn_retries: u8_of(S::TcpSynRetries),
        synack_retries: u8_of(S::TcpSynackRetries),
        syn_linear_timeouts: u8_of(S::TcpSynLinearTimeouts),
        orphan_retries: u8_of(S::TcpOrphanRetries),
        fin_timeout: secs(S::TcpFinTimeout),
        keepalive_time: secs(S::TcpKeepaliveTime),
        keepalive_intvl: secs(S::TcpKeepaliveIntvl),
        keepalive_probes: u8_of(S::TcpKeepaliveProbes),
        rto_min: Duration::from_micros(u64::try_from(t.get(S::TcpRtoMinUs)).unwrap_or(200_000)),
        rto_max: millis(S::TcpRtoMaxMs),
        congestion: super::default_congestion(t),
        reordering: u32_of(S::TcpReordering),
        max_reordering: u32_of(S::TcpMaxReordering),
        recovery: u8_of(S::TcpRecovery),
        early_retrans: u8_of(S::TcpEarlyRetrans),
        frto: t.on(S::TcpFrto),
        invalid_ratelimit: millis(S::TcpInvalidRatelimit),
        min_snd_mss: u16::try_from(t.get(S::TcpMinSndMss)).unwrap_or(48),
        pingpong_thresh: u8_of(S::TcpPingpongThresh),
        rfc1337: t.on(S::TcpRfc1337),
        notsent_lowat: u32_of(S::TcpNotsentLowat),
        tso_win_divisor: u32_of(S::TcpTsoWinDivisor),
        retrans_collapse: t.on(S::TcpRetransCollapse),
        min_tso_segs: u32_of(S::TcpMinTsoSegs),
        tso_rtt_log: u32_of(S::TcpTsoRttLog),
        stdurg: t.on(S::TcpStdurg),
    }
}
