//! `struct tcp_info` (uapi/linux/tcp.h, 280 bytes in 6.18), for `TCP_INFO` and sock_diag.

use ferronet_tcp::TcpInfo;

/// Bytes of the structure.
pub(crate) const LEN: usize = 280;

/// Renders the values. `v6`: header sizes for the path MTU.
pub(crate) fn bytes(i: &TcpInfo, v6: bool) -> Vec<u8> {
    let mut b = Vec::with_capacity(LEN);
    b.extend_from_slice(&[i.state, i.ca_state, i.retransmits, i.probes, i.backoff, i.options]);
    b.push(i.snd_wscale & 15 | i.rcv_wscale << 4);
    b.push(u8::from(i.delivery_rate_app_limited));
    let pmtu = if i.path_mss == 0 { 0 } else { i.path_mss + if v6 { 60 } else { 40 } };
    let mut words = |w: &[u32]| {
        for x in w {
            b.extend_from_slice(&x.to_ne_bytes());
        }
    };
    words(&[i.rto, i.ato, i.snd_mss, i.rcv_mss, i.unacked, i.sacked, i.lost, i.retrans, 0]);
    words(&[i.last_data_sent, 0, i.last_data_recv, i.last_ack_recv]);
    words(&[pmtu, i.rcv_ssthresh, i.rtt, i.rttvar, i.snd_ssthresh, i.snd_cwnd, i.advmss, i.reordering]);
    words(&[i.rcv_rtt, i.rcv_space, i.total_retrans]);
    for x in [i.pacing_rate, i.max_pacing_rate, i.bytes_acked, i.bytes_received] {
        b.extend_from_slice(&x.to_ne_bytes());
    }
    for x in [i.segs_out, i.segs_in, i.notsent_bytes, i.min_rtt, i.data_segs_in, i.data_segs_out] {
        b.extend_from_slice(&x.to_ne_bytes());
    }
    for x in [i.delivery_rate, i.busy_time, i.rwnd_limited, i.sndbuf_limited] {
        b.extend_from_slice(&x.to_ne_bytes());
    }
    b.extend_from_slice(&i.delivered.to_ne_bytes());
    b.extend_from_slice(&i.delivered_ce.to_ne_bytes());
    b.extend_from_slice(&i.bytes_sent.to_ne_bytes());
    b.extend_from_slice(&i.bytes_retrans.to_ne_bytes());
    for x in [i.dsack_dups, i.reord_seen, i.rcv_ooopack, i.snd_wnd, i.rcv_wnd] {
        b.extend_from_slice(&x.to_ne_bytes());
    }
    // Rehashes, RTO recovery and AccECN counters: features that are not here.
    b.resize(LEN, 0);
    b
}
