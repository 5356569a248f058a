//! Packet scripts: what the remote sends, what the local program calls, what must come out, and when.
//!
//! A script is a text file, one step a line, played by a [`Player`]: ferronet in simulated time
//! ([`ours::Ferronet`]) or a real kernel (the twin, `crates/host/tests/kernel`). Playing takes only the script's
//! inputs and gives a [`Trace`]; [`check`] holds a trace against the script's expectations, [`compare`] holds two
//! traces against each other, [`record`] writes a script with what a player answered.
//!
//! ```text
//! # A comment. Directives come first; everything has a default.
//! flow 10.0.0.2:40000 10.0.0.1:8080       remote and local end of the unnamed flow (`*`: a port to be learned)
//! flow b 10.0.0.2:40001 10.0.0.1:8080     another one, by name
//! sysctl net.ipv4.tcp_sack 0              before the first step
//! known TEXT                              ferronet still differs from Linux here: checked on Linux only
//! tolerance 0.1 | uncounted COUNTER…       times that the kernel chooses at random; counters not compared
//! windows free                            advertised windows follow the driver's buffers: not compared
//! mtu 1300 | addr 10.9.0.1/24 | route 10.5.0.0/16 via 10.0.0.3 | neigh off | show arp,mld,nd
//!
//! +0    s: socket tcp                     calls: NAME: CALL ARGUMENTS [= RESULT]
//! +0    s: bind 10.0.0.1:8080
//! +0    s: listen 1
//! +0.1  < S 0:0(0) win 32792 <mss 1000>   a packet from the remote, 0.1 s after the step before
//! +0    > S. 0:0(0) ack 1 win * <mss 1460>  a packet that must come out; what is not named may be anything
//! +0    < . 1:1(0) ack 1 win 257
//! +0    c: accept s
//! +0    counters TcpPassiveOpens 1        how much counters moved since the start, by nstat's names
//! ```
//!
//! Sequence numbers count from the initial ones. Data is the pattern byte(i) = i mod 251. `TS val ~` stands for the
//! local clock, `ecr ~` in a sent packet echoes the last timestamp that came out. In front of a packet may stand
//! `NAME:` (a flow), `SRC > DST` (addresses) and `[ttl 1, tos 2, df, id 7, frag 0:24+, badsum, mac MAC]` (the IP
//! header; `frag` sends just that piece of the packet's payload; `!df` demands that it is not set).
//! ICMP: `icmp 3/4 mtu 1200 quote 28 (28)`, where `quote` takes so many bytes of the last packet of the other
//! side. ARP: `arp request sip A tip B`. Other protocols: `proto 200 (8)`. Raw bytes: `hex 4500…` (IP).

mod build;
mod calls;
mod check;
mod decode;
mod flow;
mod opts;
pub mod ours;
mod packet;
mod parse;
mod play;
#[cfg(test)]
mod tests;

pub use calls::{Call, Op};
pub use check::{Tolerance, check, compare, record};
pub use flow::{Flows, LOCAL_MAC, REMOTE_MAC};
pub use packet::Pkt;
pub use parse::{QUIET, SETTLE, Script, Setup, Step, What};
pub use play::{Answer, Item, Kind, Player, SysCall, Trace, play};

/// The byte at position `i` of every stream and message.
#[must_use]
pub fn pattern(i: u64) -> u8 {
    (i % 251) as u8
}

/// Calls the macro with the names of all scripts in `crates/sim/scripts`.
#[macro_export]
macro_rules! for_each_script {
    ($m:ident) => {
        $m! {
            tcp_passive_open
            tcp_active_open
            tcp_options_off
            tcp_options_some
            tcp_simultaneous_open
            tcp_closed_port
            tcp_syn_retransmit
            tcp_synack_retransmit
            tcp_out_of_order
            tcp_dsack
            tcp_fast_retransmit
            tcp_rto
            tcp_rto_max
            tcp_fastopen_server
            tcp_zero_window
            tcp_fin_half_close
            tcp_fin_simultaneous
            tcp_reset
            tcp_challenge_ack
            tcp_paws
            tcp_syn_in_established
            tcp_delayed_ack
            tcp_quickack
            tcp_nagle
            tcp_cork
            tcp_keepalive
            tcp_time_wait
            tcp_time_wait_reuse
            tcp_listen_overflow
            tcp_syncookies
            tcp_peek_urgent
            tcp_urgent
            tcp_window_update
            tcp_initial_cwnd
            tcp_tail_loss_probe
            tcp_pmtu
            tcp_user_errors
            tcp_ipv6
            tcp_bad_segments
            tcp_close_unread
            tcp_fin_wait2
            tcp_zero_window_timeout
            tcp_keepalive_user_timeout
            tcp_user_timeout
            tcp_syncookies_overflow
            tcp_sack_renege
            tcp_dsack_undo
            tcp_ecn
            tcp_ecn_client
            tcp_time_wait_assassination
            tcp_abort_on_overflow
            tcp_fin_wait2_timeout
            tcp_orphan_retries
            tcp_reordering
            tcp_limited_transmit
            tcp_frto
            tcp_retrans_collapse
            tcp_reno_recovery
            tcp_linger
            tcp_defer_accept
            tcp_idle_restart
            udp_closed_port
            udp_echo
            udp6
            udp_bad_packets
            icmp_echo
            icmp6_echo
            icmp_unknown_protocol
            ip_fragments
            ip_fragments_overlap
            ip6_fragments
            ip_ttl_exceeded
            ip_bad_header
            ip_martian
            arp
            arp_probe
            ndisc
            igmp_join
            mld_join
            ip_options
            udp_fragmented_send
        }
    };
}

macro_rules! all {
    ($($name:ident)*) => {
        /// The scripts of `crates/sim/scripts` by name.
        pub const ALL: &[&str] = &[$(stringify!($name)),*];
    };
}
for_each_script!(all);

/// Reads a script of `crates/sim/scripts`.
///
/// # Errors
/// What is wrong with the file or the script.
pub fn load(name: &str) -> Result<Script, String> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let path = dir.join(name).with_extension("pkt");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Script::parse(name, &text)
}
