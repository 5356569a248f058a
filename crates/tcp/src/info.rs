//! `TCP_INFO`.

use ferronet_core::time::Instant;

use crate::recovery::CaState;
use crate::state::{State, Tcb};
use crate::timers::{ATO_MIN, Rtx};

/// `TCPI_OPT_*` bits.
const OPT_TIMESTAMPS: u8 = 1;
const OPT_SACK: u8 = 2;
const OPT_WSCALE: u8 = 4;
const OPT_ECN: u8 = 8;
const OPT_ECN_SEEN: u8 = 16;

/// `struct tcp_info` (uapi/linux/tcp.h) as plain values; names without `tcpi_`.
#[allow(missing_docs, reason = "uapi/linux/tcp.h and tcp(7) document the fields")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    pub snd_wscale: u8,
    pub rcv_wscale: u8,
    pub delivery_rate_app_limited: bool,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub last_data_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    /// Path MSS without options; the caller adds its header sizes for `tcpi_pmtu`.
    pub path_mss: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_rtt: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub pacing_rate: u64,
    pub max_pacing_rate: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivery_rate: u64,
    pub busy_time: u64,
    pub rwnd_limited: u64,
    pub sndbuf_limited: u64,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub rcv_ooopack: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
}

/// The timer that `/proc/net/tcp` and `ss -o` show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerInfo {
    /// None runs.
    Off,
    /// Retransmission, loss probe or reordering (`on`).
    Retrans(Instant),
    /// `keepalive`.
    Keepalive(Instant),
    /// `persist`.
    Persist(Instant),
}

fn ms_since(now: Instant, t: Instant) -> u32 {
    (now - t).as_millis().min(u128::from(u32::MAX)) as u32
}

impl Tcb {
    /// What `TCP_INFO` and `ss -i` show.
    #[must_use]
    pub fn info(&self, now: Instant) -> TcpInfo {
        let (s, r) = (&self.stats, &self.rcv);
        let mut options = 0;
        for (on, bit) in [
            (self.ts_on, OPT_TIMESTAMPS),
            (self.sack_on, OPT_SACK),
            (self.wscale_on, OPT_WSCALE),
            (self.ecn.ok, OPT_ECN),
            (self.ecn.seen, OPT_ECN_SEEN),
        ] {
            if on {
                options |= bit;
            }
        }
        let mss = u32::from(self.snd.mss);
        let rate = |n: u32, us: u32| u64::from(n) * u64::from(mss) * 1_000_000 / u64::from(us.max(1));
        let busy = self.stats.busy_since.map_or(0, |t| (now - t).as_micros() as u64);
        TcpInfo {
            state: self.state as u8,
            ca_state: self.rec.state as u8,
            retransmits: self.rec.retransmits,
            probes: self.rec.probes_out,
            backoff: self.rtt.backoff,
            options,
            snd_wscale: self.snd.wscale,
            rcv_wscale: r.wscale,
            delivery_rate_app_limited: self.app_limited(),
            rto: self.rtt.rto.as_micros().min(u128::from(u32::MAX)) as u32,
            ato: if self.ack.ato_us == 0 { 0 } else { self.ack.ato_us.min(ATO_MIN.as_micros() as u32 * 5) },
            snd_mss: mss,
            rcv_mss: u32::from(self.ack.rcv_mss),
            unacked: self.txq.packets,
            sacked: self.rec.sacked_out,
            lost: self.rec.lost_out,
            retrans: self.rec.retrans_out,
            last_data_sent: self.lastsnd(now),
            last_data_recv: ms_since(now, self.ack.last_rx),
            last_ack_recv: ms_since(now, s.last_ack_rx),
            path_mss: u32::from(self.snd.path_mss),
            rcv_ssthresh: r.ssthresh,
            rtt: self.rtt.srtt_us(),
            rttvar: self.rtt.rttvar_us(),
            snd_ssthresh: self.w.ssthresh,
            snd_cwnd: self.w.cwnd,
            advmss: u32::from(r.advmss),
            reordering: self.rec.reordering,
            rcv_rtt: r.rtt8_us >> 3,
            rcv_space: r.space,
            total_retrans: s.total_retrans,
            pacing_rate: self.pacing_rate(),
            max_pacing_rate: u64::MAX,
            bytes_acked: s.bytes_acked,
            bytes_received: s.bytes_received,
            segs_out: s.segs_out,
            segs_in: s.segs_in,
            notsent_bytes: self.notsent_bytes(),
            min_rtt: self.rtt.min_us(),
            data_segs_in: s.data_segs_in,
            data_segs_out: s.data_segs_out,
            delivery_rate: if s.rate_interval_us == 0 {
                0
            } else {
                rate(s.rate_delivered, s.rate_interval_us)
            },
            busy_time: s.busy_us + busy,
            rwnd_limited: 0,
            sndbuf_limited: 0,
            delivered: self.rec.delivered,
            delivered_ce: s.delivered_ce,
            bytes_sent: s.bytes_sent,
            bytes_retrans: s.bytes_retrans,
            dsack_dups: s.dsack_dups,
            reord_seen: s.reord_seen,
            rcv_ooopack: s.rcv_ooopack,
            snd_wnd: self.snd.wnd,
            rcv_wnd: r.wnd,
        }
    }

    /// Milliseconds since data was sent; while none was, since the connection came up.
    fn lastsnd(&self, now: Instant) -> u32 {
        let never = self.snd.last_tx == Instant::ZERO;
        ms_since(now, if never { self.stats.last_ack_rx } else { self.snd.last_tx })
    }

    /// What Linux would pace at (`tcp_update_pacing_rate`): twice the rate of the window in slow start, 1.2 times
    /// otherwise; bytes per second. Shown, not enforced.
    pub(crate) fn pacing_rate(&self) -> u64 {
        let srtt = u64::from(self.rtt.srtt_us());
        if srtt == 0 {
            return u64::MAX;
        }
        let ratio = if self.w.cwnd < self.w.ssthresh / 2 { 200 } else { 120 };
        // As of the last ACK: what happens to the window while nothing is sent does not change the rate.
        let now = self.w.cwnd.max(self.txq.packets);
        let cwnd = u64::from(if self.rec.pacing_cwnd == 0 { now } else { self.rec.pacing_cwnd });
        u64::from(self.snd.mss) * cwnd * 1_000_000 / srtt * ratio / 100
    }

    /// The timer to show.
    #[must_use]
    pub fn timer(&self) -> TimerInfo {
        match self.timers.rtx {
            Rtx::Retrans | Rtx::LossProbe | Rtx::Reo => TimerInfo::Retrans(self.timers.rtx_at),
            Rtx::Probe0 => TimerInfo::Persist(self.timers.rtx_at),
            Rtx::None => {
                let k = self.timers.keep_at.min(self.timers.fin_at);
                if k == Instant::NEVER { TimerInfo::Off } else { TimerInfo::Keepalive(k) }
            }
        }
    }

    /// The congestion control in use.
    #[must_use]
    pub fn congestion(&self) -> crate::CongAlg {
        self.cong.alg()
    }
    /// `TCP_CONGESTION`.
    pub fn set_congestion(&mut self, alg: crate::CongAlg) {
        self.opts.congestion = Some(alg);
        if self.cong.alg() != alg {
            self.cong = crate::cong::Congestion::new(alg);
        }
    }
    /// Payload of a full segment (`TCP_MAXSEG`).
    #[must_use]
    pub fn mss(&self) -> u16 {
        if self.state == State::SynSent { 536 } else { self.snd.mss }
    }
    /// Timeouts in a row (`/proc/net/tcp`).
    #[must_use]
    pub fn retransmits(&self) -> u8 {
        self.rec.retransmits
    }
    /// Unanswered probes.
    #[must_use]
    pub fn probes(&self) -> u8 {
        self.rec.probes_out
    }
    /// Congestion window and slow start threshold, segments.
    #[must_use]
    pub fn cwnd(&self) -> (u32, u32) {
        (self.w.cwnd, self.w.ssthresh)
    }
    /// Recovery state.
    #[must_use]
    pub fn ca_state(&self) -> CaState {
        self.rec.state
    }
    /// ACK delay in ms, and "quick ACKs left, interactive" as `/proc/net/tcp` packs it.
    #[must_use]
    pub fn ack_info(&self) -> (u32, u32) {
        let inter = u32::from(self.ack.pingpong > 0);
        (self.ack.ato_us / 1000, u32::from(self.ack.quick) << 1 | inter)
    }
    /// RTO without and with backoff.
    #[must_use]
    pub fn rto(&self) -> core::time::Duration {
        self.rtt.rto
    }
    /// An end of stream waits behind the readable data.
    #[must_use]
    pub fn fin_received(&self) -> bool {
        self.rcv.fin
    }
    /// It opened passively.
    #[must_use]
    pub fn is_passive(&self) -> bool {
        self.passive
    }
}
