//! Settings: [`Config`] is what a namespace's sysctls say, [`SockOpts`] what the program set on its socket.

use core::time::Duration;

/// Congestion control algorithms (`net.ipv4.tcp_congestion_control`, `TCP_CONGESTION`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CongAlg {
    /// RFC 5681 with byte counting.
    Reno,
    /// RFC 9438.
    #[default]
    Cubic,
}

impl CongAlg {
    /// The name programs use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CongAlg::Reno => "reno",
            CongAlg::Cubic => "cubic",
        }
    }
    /// The algorithm of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<CongAlg> {
        match name {
            "reno" => Some(CongAlg::Reno),
            "cubic" => Some(CongAlg::Cubic),
            _ => None,
        }
    }
}

/// The `net.ipv4.tcp_*` sysctls that one connection looks at. Read at each use, as in Linux, so that a
/// changed sysctl has effect on existing connections where it has there.
#[derive(Clone, Debug)]
pub struct Config {
    /// `tcp_rmem`: receive buffer minimum, initial, maximum; bytes.
    pub rmem: [u32; 3],
    /// `tcp_wmem`: send buffer minimum, initial, maximum; bytes.
    pub wmem: [u32; 3],
    /// `net.core.rmem_max`: bounds the window scale for a locked receive buffer; bytes.
    pub rmem_max: u32,
    /// `tcp_moderate_rcvbuf`: receive buffer auto-tuning.
    pub moderate_rcvbuf: bool,
    /// `tcp_sack`.
    pub sack: bool,
    /// `tcp_dsack`.
    pub dsack: bool,
    /// `tcp_timestamps`.
    pub timestamps: bool,
    /// `tcp_window_scaling`.
    pub window_scaling: bool,
    /// `tcp_ecn`: 0 off, 1 ask and accept, 2 accept.
    pub ecn: u8,
    /// `tcp_slow_start_after_idle`.
    pub slow_start_after_idle: bool,
    /// `tcp_retries1`: retransmissions before the route is doubted.
    pub retries1: u8,
    /// `tcp_retries2`: retransmissions before the connection is given up.
    pub retries2: u8,
    /// `tcp_syn_retries`.
    pub syn_retries: u8,
    /// `tcp_synack_retries`.
    pub synack_retries: u8,
    /// `tcp_syn_linear_timeouts`: SYN retransmissions before the timeout doubles.
    pub syn_linear_timeouts: u8,
    /// `tcp_orphan_retries`; 0 means 8.
    pub orphan_retries: u8,
    /// `tcp_fin_timeout`: how long an orphan stays in FIN_WAIT2.
    pub fin_timeout: Duration,
    /// `tcp_keepalive_time`.
    pub keepalive_time: Duration,
    /// `tcp_keepalive_intvl`.
    pub keepalive_intvl: Duration,
    /// `tcp_keepalive_probes`.
    pub keepalive_probes: u8,
    /// `tcp_rto_min_us`.
    pub rto_min: Duration,
    /// `tcp_rto_max_ms`.
    pub rto_max: Duration,
    /// `tcp_congestion_control`.
    pub congestion: CongAlg,
    /// `tcp_reordering`: initial duplicate ACK threshold.
    pub reordering: u32,
    /// `tcp_max_reordering`.
    pub max_reordering: u32,
    /// `tcp_recovery`: bit 0 RACK, bit 1 a static reordering window, bit 2 no duplicate ACK threshold.
    pub recovery: u8,
    /// `tcp_early_retrans`: 3 or 4 enable tail loss probes.
    pub early_retrans: u8,
    /// `tcp_frto`.
    pub frto: bool,
    /// `tcp_invalid_ratelimit`: least time between two ACKs that answer invalid segments.
    pub invalid_ratelimit: Duration,
    /// `tcp_min_snd_mss`; bytes.
    pub min_snd_mss: u16,
    /// `tcp_pingpong_thresh`.
    pub pingpong_thresh: u8,
    /// `tcp_rfc1337`: ignore RST in TIME_WAIT.
    pub rfc1337: bool,
    /// `tcp_notsent_lowat`; bytes.
    pub notsent_lowat: u32,
    /// `tcp_tso_win_divisor`: most of the congestion window that may be kept back for a larger packet.
    pub tso_win_divisor: u32,
    /// `tcp_retrans_collapse`: small segments are joined when they are sent again.
    pub retrans_collapse: bool,
    /// `tcp_min_tso_segs`: segments that a packet for segmentation holds at least.
    pub min_tso_segs: u32,
    /// `tcp_tso_rtt_log`: up to 2^this microseconds of round trip, packets are as large as can be.
    pub tso_rtt_log: u32,
    /// `tcp_stdurg`: the urgent pointer points at the last urgent byte (RFC 1122) and not behind it.
    pub stdurg: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            rmem: [4096, 131_072, 6_291_456],
            wmem: [4096, 16_384, 4_194_304],
            rmem_max: 212_992,
            moderate_rcvbuf: true,
            sack: true,
            dsack: true,
            timestamps: true,
            window_scaling: true,
            ecn: 2,
            slow_start_after_idle: true,
            retries1: 3,
            retries2: 15,
            syn_retries: 6,
            synack_retries: 5,
            syn_linear_timeouts: 4,
            orphan_retries: 0,
            fin_timeout: Duration::from_secs(60),
            keepalive_time: Duration::from_secs(7200),
            keepalive_intvl: Duration::from_secs(75),
            keepalive_probes: 9,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            congestion: CongAlg::Cubic,
            reordering: 3,
            max_reordering: 300,
            recovery: 1,
            early_retrans: 3,
            frto: true,
            invalid_ratelimit: Duration::from_millis(500),
            min_snd_mss: 48,
            pingpong_thresh: 1,
            rfc1337: false,
            notsent_lowat: u32::MAX,
            tso_win_divisor: 3,
            retrans_collapse: true,
            min_tso_segs: 2,
            tso_rtt_log: 9,
            stdurg: false,
        }
    }
}

/// What a program set on its socket. Zero and `None` mean "as the sysctl says".
#[derive(Clone, Copy, Debug, Default)]
pub struct SockOpts {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// `TCP_CORK`.
    pub cork: bool,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `SO_OOBINLINE`.
    pub oobinline: bool,
    /// `TCP_SYNCNT`.
    pub syn_retries: u8,
    /// `TCP_DEFER_ACCEPT`: SYN-ACKs for which a listener waits for data after the handshake's ACK.
    pub defer_accept: u8,
    /// `TCP_KEEPCNT`.
    pub keepcnt: u8,
    /// `TCP_CONGESTION`.
    pub congestion: Option<CongAlg>,
    /// `TCP_MAXSEG`; bytes.
    pub user_mss: u16,
    /// `TCP_KEEPIDLE`; seconds.
    pub keepidle: u16,
    /// `TCP_KEEPINTVL`; seconds.
    pub keepintvl: u16,
    /// `TCP_LINGER2`; seconds, negative: no FIN_WAIT2 for orphans.
    pub linger2: i32,
    /// `TCP_FASTOPEN`: connections made by their SYN that a listener may have at once; 0: none.
    pub fastopen_qlen: u32,
    /// `TCP_FASTOPEN_NO_COOKIE`.
    pub fastopen_no_cookie: bool,
    /// `TCP_RTO_MAX_MS`; milliseconds, 0: the namespace's.
    pub rto_max_ms: u32,
    /// `TCP_USER_TIMEOUT`; milliseconds.
    pub user_timeout_ms: u32,
    /// `SO_RCVBUF` as stored (already doubled); bytes.
    pub rcvbuf: u32,
    /// `SO_SNDBUF` as stored (already doubled); bytes.
    pub sndbuf: u32,
    /// `SO_RCVLOWAT`; bytes.
    pub rcvlowat: u32,
    /// `TCP_NOTSENT_LOWAT`; bytes.
    pub notsent_lowat: u32,
    /// `TCP_WINDOW_CLAMP`; bytes.
    pub window_clamp: u32,
}
