//! Connection scripts: one connection, and a peer that says exactly what the script says.
//!
//! Sequence numbers are relative: ours and the peer's SYN have number 0, the first byte 1.

use bytes::Bytes;
use ferronet_core::time::{Duration, Instant};
use ferronet_core::{DropReason, Errno, Mib};
use ferronet_wire::tcp::{SackBlock, SeqNr, TcpFlags as F, TcpOptions, Timestamps};

use super::Env;
use super::link::check;
use crate::{
    CaState, Events, Kind, Open, ReqVerdict, RequestSock, Segment, SockOpts, State, Tcb, Transmit, TwVerdict,
};

const OURS: u32 = 0xffff_ff00; // wraps during the tests
const PEER: u32 = 0x7fff_fff0;

struct Script {
    env: Env,
    t: Tcb,
    ts: bool,
    last: Option<Result<(), DropReason>>,
}

/// A segment from the peer: `send!(s, F::ACK, seq, ack, [wnd: n], [data: n], [sack: [(a, b)]], [ts: n])`.
macro_rules! send {
    ($s:expr, $flags:expr, $seq:expr, $ack:expr $(, $k:ident: $v:expr)*) => {{
        #[allow(unused_mut)]
        let mut p = Peer { flags: $flags, seq: $seq, ack: $ack, ..Peer::default() };
        $(p.$k = $v;)*
        $s.inject(p)
    }};
}
/// The next segment from us must be this one.
macro_rules! recv {
    ($s:expr, $kind:ident, $flags:expr, $seq:expr, $ack:expr, $len:expr) => {{
        let t = $s.next().unwrap_or_else(|| panic!("nothing was sent; {:?}", $s.t.info($s.env.now)));
        let got = (t.kind, t.flags, t.seq.0.wrapping_sub(OURS), t.ack.0.wrapping_sub(PEER), t.len);
        assert_eq!(got, (Kind::$kind, $flags, $seq, $ack, $len), "{t:?}");
        t
    }};
}
macro_rules! silent {
    ($s:expr) => {{
        let t = $s.next();
        assert!(t.is_none(), "unexpected {t:?}");
    }};
}

#[derive(Debug)]
struct Peer {
    flags: F,
    seq: u32,
    ack: u32,
    wnd: u16,
    data: u32,
    sack: Vec<(u32, u32)>,
    ts: (u32, u32),
    opts: TcpOptions,
    urg: u16,
}

impl Default for Peer {
    fn default() -> Self {
        Peer {
            flags: F::ACK,
            seq: 0,
            ack: 0,
            wnd: 60000,
            data: 0,
            sack: Vec::new(),
            ts: (0, 0),
            opts: TcpOptions::default(),
            urg: 0,
        }
    }
}

impl Script {
    #[track_caller]
    fn inject(&mut self, p: Peer) -> Result<(), DropReason> {
        let mut seg = Segment {
            seq: SeqNr(PEER.wrapping_add(p.seq)),
            ack: SeqNr(OURS.wrapping_add(p.ack)),
            flags: p.flags,
            wnd: p.wnd,
            urg: p.urg,
            len: p.data,
            opts: p.opts,
            ..Segment::default()
        };
        for (a, b) in p.sack {
            let at = |x| SeqNr(OURS.wrapping_add(x));
            seg.opts.sack.push(SackBlock { start: at(a), end: at(b) });
        }
        if self.ts && p.opts.timestamps.is_none() {
            seg.opts.timestamps = Some(Timestamps { tsval: p.ts.0, tsecr: p.ts.1 });
        }
        let payload = if p.data > 0 {
            [Bytes::from(vec![b'x'; p.data as usize])].into_iter().collect()
        } else {
            Default::default()
        };
        let r = self.t.rcv(&mut self.env.cx(), &seg, payload);
        check(&self.t);
        self.last = Some(r);
        r
    }
    fn next(&mut self) -> Option<Transmit> {
        let t = self.t.poll_transmit(&mut self.env.cx());
        check(&self.t);
        t
    }
    fn after(&mut self, ms: u64) {
        self.env.now += Duration::from_millis(ms);
        if self.t.next_deadline().is_some_and(|d| d <= self.env.now) {
            self.t.on_timeout(&mut self.env.cx());
        }
    }
    /// Runs timers one after the other until `ms` from now.
    fn run(&mut self, ms: u64) {
        let end = self.env.now + Duration::from_millis(ms);
        while let Some(d) = self.t.next_deadline()
            && d <= end
        {
            self.env.now = self.env.now.max(d);
            self.t.on_timeout(&mut self.env.cx());
            if self.t.owed.rst.is_some() {
                return;
            }
            while self.next().is_some() {}
        }
        self.env.now = end;
    }
    fn write(&mut self, n: usize) -> Result<usize, Errno> {
        self.t.send(&mut self.env.cx(), Bytes::from(vec![b'y'; n]), false)
    }
    fn read(&mut self, max: usize) -> Result<usize, Errno> {
        self.t.recv_slices(&mut self.env.cx(), max, &mut |s| s.iter().map(|b| b.len()).sum())
    }
    fn mib(&self, m: Mib) -> u64 {
        self.env.mib.get(m)
    }
    fn now_ts(&self) -> u32 {
        self.t.ts_now(self.env.now)
    }
}

fn open(path_mss: u16) -> Open {
    Open { iss: SeqNr(OURS), ts_offset: 0, path_mss }
}

/// After `connect`, before the SYN went out.
fn connecting(opts: SockOpts, tune: impl FnOnce(&mut Env)) -> Script {
    let mut env = Env::new();
    tune(&mut env);
    let t = Tcb::connect(&mut env.cx(), opts, open(1460));
    Script { env, t, ts: false, last: None }
}

fn peer_syn(mss: u16, sack: bool, wscale: Option<u8>) -> TcpOptions {
    TcpOptions { mss: Some(mss), sack_permitted: sack, wscale, ..TcpOptions::default() }
}

/// Established over a path of 10 ms, without timestamps; MSS 1000.
fn established(opts: SockOpts) -> Script {
    let mut s = connecting(opts, |_| {});
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    s.env.now += Duration::from_millis(10);
    send!(s, F::SYN | F::ACK, 0, 1, opts: peer_syn(1000, true, Some(0))).expect("taken");
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(s.t.state(), State::Established);
    s.t.take_events();
    s
}

#[test]
fn active_open_options_and_counters() {
    let mut s = connecting(SockOpts::default(), |_| {});
    let syn = recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    assert_eq!(syn.opts.mss, Some(1460));
    assert_eq!(syn.opts.wscale, Some(7));
    assert!(syn.opts.sack_permitted && syn.opts.timestamps.is_some());
    assert_eq!(syn.wnd, 64240);
    silent!(s);
    assert_eq!(s.write(1), Err(Errno::EAGAIN));
    s.ts = true;
    s.env.now += Duration::from_millis(3);
    let ecr = syn.opts.timestamps.map_or(0, |t| t.tsval);
    let mut o = peer_syn(1460, true, Some(9));
    o.timestamps = Some(Timestamps { tsval: 77, tsecr: ecr });
    send!(s, F::SYN | F::ACK, 0, 1, opts: o).expect("taken");
    let ack = recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(ack.opts.timestamps.map(|t| t.tsecr), Some(77));
    assert_eq!(ack.wnd, 502); // 64240 >> 7, rounded up, as Linux shows it
    let i = s.t.info(s.env.now);
    assert_eq!((i.snd_mss, i.snd_wscale, i.rcv_wscale, i.options), (1448, 9, 7, 7));
    assert_eq!(i.rtt, 3000);
    assert!(s.t.take_events().contains(Events::WRITABLE));
    assert_eq!((s.mib(Mib::TcpActiveOpens), s.mib(Mib::TcpCurrEstab)), (1, 1));
}

#[test]
fn syn_is_repeated_and_given_up() {
    let mut s = connecting(SockOpts::default(), |_| {});
    let start = s.env.now;
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    let mut at = Vec::new();
    while s.t.state() == State::SynSent {
        let d = s.t.next_deadline().expect("timer");
        s.env.now = d;
        s.t.on_timeout(&mut s.env.cx());
        if s.next().is_some() {
            at.push((d - start).as_secs());
        }
    }
    // tcp_syn_linear_timeouts 4: 1 s each, then doubling; tcp_syn_retries 6.
    assert_eq!(at, [1, 2, 3, 4, 5, 7, 11, 19, 35, 67]);
    assert_eq!(s.t.take_error(), Some(Errno::ETIMEDOUT));
    assert_eq!(s.mib(Mib::TcpAttemptFails), 1);
}

/// When SYNs went out, and when the attempt ended; milliseconds. As Linux 6.18 shows them.
fn syns(opts: SockOpts) -> (Vec<u64>, u64) {
    let mut s = connecting(opts, |_| {});
    let start = s.env.now;
    let (mut at, mut ended) = (Vec::new(), 0);
    while s.t.state() == State::SynSent {
        while s.next().is_some() {
            at.push((s.env.now - start).as_millis() as u64);
        }
        s.env.now = s.t.next_deadline().expect("timer");
        s.t.on_timeout(&mut s.env.cx());
        ended = (s.env.now - start).as_millis() as u64;
    }
    assert_eq!(s.t.take_error(), Some(Errno::ETIMEDOUT));
    (at, ended)
}

#[test]
fn syncnt_and_user_timeout_bound_an_attempt() {
    let syncnt = |n| syns(SockOpts { syn_retries: n, ..SockOpts::default() });
    assert_eq!(syncnt(1), (vec![0, 1000, 2000], 3000));
    assert_eq!(syncnt(2), (vec![0, 1000, 2000, 3000, 4000, 5000], 7000));
    let user = |ms| syns(SockOpts { user_timeout_ms: ms, ..SockOpts::default() });
    assert_eq!(user(800), (vec![0, 1000], 1004));
    assert_eq!(user(1500), (vec![0, 1000], 1500));
    assert_eq!(user(3500), (vec![0, 1000, 2000, 3000], 3500));
}

#[test]
fn user_timeout_cuts_the_last_timeout() {
    for ms in [500, 3000] {
        let mut s = established(SockOpts { user_timeout_ms: ms, ..SockOpts::default() });
        assert_eq!(s.write(10), Ok(10));
        recv!(s, Data, F::ACK | F::PSH, 1, 1, 10);
        let mut first = None;
        while s.t.state() != State::Close {
            s.env.now = s.t.next_deadline().expect("timer");
            s.t.on_timeout(&mut s.env.cx());
            if s.mib(Mib::TcpExtTCPTimeouts) > 0 {
                first.get_or_insert(s.env.now);
            }
            while s.next().is_some() {}
        }
        let since = s.env.now - first.expect("a timeout");
        assert_eq!(since, Duration::from_millis(u64::from(ms)));
        assert_eq!(s.t.take_error(), Some(Errno::ETIMEDOUT));
    }
}

#[test]
fn refused() {
    let mut s = connecting(SockOpts::default(), |_| {});
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    assert_eq!(send!(s, F::RST, 0, 0), Err(DropReason::TcpReset));
    assert_eq!(s.t.state(), State::SynSent, "a RST without ACK is nothing");
    assert_eq!(send!(s, F::RST | F::ACK, 0, 2), Err(DropReason::TcpTooNewAck));
    silent!(s);
    assert_eq!(send!(s, F::RST | F::ACK, 0, 1), Err(DropReason::TcpReset));
    assert_eq!((s.t.state(), s.t.take_error()), (State::Close, Some(Errno::ECONNREFUSED)));
    silent!(s);
}

#[test]
fn wrong_ack_in_syn_sent_is_reset() {
    let mut s = connecting(SockOpts::default(), |_| {});
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    assert_eq!(send!(s, F::SYN | F::ACK, 0, 5), Err(DropReason::TcpTooNewAck));
    let t = s.next().expect("reset");
    assert_eq!((t.kind, t.flags, t.seq), (Kind::Rst, F::RST, SeqNr(OURS.wrapping_add(5))));
    assert_eq!(s.t.state(), State::SynSent);
}

#[test]
fn simultaneous_open() {
    let mut s = connecting(SockOpts::default(), |_| {});
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    send!(s, F::SYN, 0, 0, opts: peer_syn(1000, true, Some(3))).expect("taken");
    assert_eq!(s.t.state(), State::SynRecv);
    recv!(s, Retrans, F::SYN | F::ACK, 0, 1, 0);
    // Its SYN comes a second time, which is said with D-SACK.
    let r = send!(s, F::SYN | F::ACK, 0, 1, opts: peer_syn(1000, true, Some(3)));
    assert_eq!(r, Err(DropReason::TcpOldSequence));
    assert_eq!(s.t.state(), State::Established);
    let t = recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(t.opts.sack.as_slice(), [SackBlock { start: SeqNr(PEER), end: SeqNr(PEER.wrapping_add(1)) }]);
    assert_eq!(s.write(10), Ok(10));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 10);
}

#[test]
fn nagle_minshall_nodelay_and_cork() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(100), Ok(100));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 100);
    assert_eq!(s.write(100), Ok(100));
    silent!(s);
    assert_eq!(s.write(950), Ok(950));
    // A full segment goes, the rest waits.
    recv!(s, Data, F::ACK, 101, 1, 1000);
    silent!(s);
    send!(s, F::ACK, 1, 101).expect("taken");
    recv!(s, Data, F::ACK | F::PSH, 1101, 1, 50);
    s.t.opts.nodelay = true;
    assert_eq!(s.write(5), Ok(5));
    recv!(s, Data, F::ACK | F::PSH, 1151, 1, 5);
    s.t.opts.cork = true;
    assert_eq!(s.write(5), Ok(5));
    silent!(s);
    send!(s, F::ACK, 1, 1156).expect("taken");
    silent!(s);
    // What is corked leaves after 200 ms in any case.
    s.run(250);
    assert_eq!(s.t.notsent_bytes(), 0);
    send!(s, F::ACK, 1, 1161).expect("taken");
    s.t.opts.cork = false;
    assert_eq!(s.t.send(&mut s.env.cx(), Bytes::from_static(b"abc"), true), Ok(3));
    silent!(s);
    assert_eq!(s.write(3), Ok(3));
    recv!(s, Data, F::ACK | F::PSH, 1161, 1, 6);
}

#[test]
fn delayed_and_quick_acks() {
    let mut s = established(SockOpts::default());
    let mut seq = 1;
    // Quick ACKs at the start: half of the window in segments, at most 16.
    for _ in 0..16 {
        send!(s, F::ACK, seq, 1, data: 1000).expect("taken");
        seq += 1000;
        recv!(s, Ack, F::ACK, 1, seq, 0);
        assert_eq!(s.read(9999), Ok(1000));
    }
    // The window's growth keeps quick ACKs alive; end that phase.
    s.t.ack.quick = 0;
    s.t.rcv.ssthresh = 65_536;
    s.t.rcv.clamp = 65_536;
    s.t.rcv.rcvbuf = 400_000;
    send!(s, F::ACK, seq, 1, data: 500).expect("taken");
    seq += 500;
    silent!(s);
    assert!(s.t.next_deadline().is_some_and(|d| d - s.env.now <= Duration::from_millis(40)));
    s.after(40);
    recv!(s, Ack, F::ACK, 1, seq, 0);
    assert_eq!(s.mib(Mib::TcpExtDelayedACKs), 1);
    // More than one full segment: at once, when the program keeps up.
    assert_eq!(s.read(99_999), Ok(500));
    send!(s, F::ACK, seq, 1, data: 1000).expect("taken");
    silent!(s);
    assert_eq!(s.read(99_999), Ok(1000));
    send!(s, F::ACK, seq + 1000, 1, data: 1000).expect("taken");
    recv!(s, Ack, F::ACK, 1, seq + 2000, 0);
}

#[test]
fn fast_retransmit_by_sack_and_recovery_ends() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(10_000), Ok(10_000));
    // No more than half of the window in one packet.
    let t = recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
    assert_eq!(t.gso_size, Some(1000));
    s.env.now += Duration::from_millis(10);
    send!(s, F::ACK, 1, 1, sack: vec![(1001, 2001)]).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Disorder);
    silent!(s);
    send!(s, F::ACK, 1, 1, sack: vec![(1001, 3001)]).expect("taken");
    silent!(s);
    send!(s, F::ACK, 1, 1, sack: vec![(1001, 4001)]).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Recovery);
    recv!(s, Retrans, F::ACK, 1, 1, 1000);
    silent!(s);
    let i = s.t.info(s.env.now);
    assert_eq!((i.unacked, i.sacked, i.lost, i.retrans, i.total_retrans), (10, 3, 1, 1, 1));
    assert_eq!((s.mib(Mib::TcpExtTCPFastRetrans), s.mib(Mib::TcpExtTCPSackRecovery)), (1, 1));
    s.env.now += Duration::from_millis(10);
    send!(s, F::ACK, 1, 10_001).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Open);
    let (cwnd, ssthresh) = s.t.cwnd();
    assert!(ssthresh == 7 && (7..=8).contains(&cwnd), "0.7 of 10");
    assert_eq!(s.t.next_deadline(), None);
    assert!(s.t.snd.wq.capacity() == 0 && s.t.txq.is_empty(), "no memory while idle");
}

#[test]
fn newreno_without_sack() {
    let mut s = connecting(SockOpts::default(), |e| e.cfg.sack = false);
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    s.env.now += Duration::from_millis(10);
    send!(s, F::SYN | F::ACK, 0, 1, opts: peer_syn(1000, false, None)).expect("taken");
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(s.write(10_000), Ok(10_000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
    s.env.now += Duration::from_millis(10);
    // The first still updates the window and so is no duplicate.
    for _ in 0..4 {
        assert!(s.t.ca_state() < CaState::Recovery);
        send!(s, F::ACK, 1, 1).expect("taken");
    }
    assert_eq!(s.t.ca_state(), CaState::Recovery);
    recv!(s, Retrans, F::ACK, 1, 1, 1000);
    // A partial ACK: the next hole is retransmitted at once (RFC 6582).
    send!(s, F::ACK, 1, 3001).expect("taken");
    recv!(s, Retrans, F::ACK, 3001, 1, 1000);
    send!(s, F::ACK, 1, 10_001).expect("taken");
    send!(s, F::ACK, 1, 10_001).expect("taken");
    assert_ne!(s.t.ca_state(), CaState::Loss);
}

#[test]
fn rto_backs_off_and_gives_up() {
    let mut s = established(SockOpts::default());
    s.env.cfg.early_retrans = 0;
    s.env.cfg.retries2 = 5;
    let start = s.env.now;
    assert_eq!(s.write(1000), Ok(1000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 1000);
    let mut at = Vec::new();
    while s.t.state() == State::Established {
        s.env.now = s.t.next_deadline().expect("timer");
        s.t.on_timeout(&mut s.env.cx());
        if let Some(t) = s.next() {
            assert_eq!((t.kind, t.len), (Kind::Retrans, 1000));
            at.push((s.env.now - start).as_millis());
        }
    }
    // 210 ms, doubling: RTT 10 ms plus the floor of 200 ms.
    assert_eq!(at[..5], [210, 630, 1470, 3150, 6510]);
    assert_eq!(s.t.take_error(), Some(Errno::ETIMEDOUT));
    assert_eq!(s.mib(Mib::TcpExtTCPAbortOnTimeout), 1);
    assert_eq!(s.mib(Mib::TcpCurrEstab), 0);
}

#[test]
fn spurious_rto_is_undone_by_timestamps() {
    let mut s = connecting(SockOpts::default(), |e| e.cfg.early_retrans = 0);
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    s.ts = true;
    s.env.now += Duration::from_millis(10);
    let mut o = peer_syn(1012, true, Some(0));
    o.timestamps = Some(Timestamps { tsval: 1, tsecr: 1000 });
    send!(s, F::SYN | F::ACK, 0, 1, opts: o).expect("taken");
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(s.write(10_000), Ok(10_000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
    let sent = s.now_ts();
    s.after(300);
    recv!(s, Retrans, F::ACK, 1, 1, 1000);
    assert_eq!(s.t.ca_state(), CaState::Loss);
    // The ACK echoes the original transmission: nothing was lost.
    send!(s, F::ACK, 1, 1001, ts: (2, sent)).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Open);
    assert!(s.t.cwnd().0 >= 10);
    assert_eq!(s.mib(Mib::TcpExtTCPLossUndo), 1);
    silent!(s);
}

#[test]
fn tail_loss_probe() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(3000), Ok(3000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 3000);
    s.after(25);
    silent!(s);
    s.after(1);
    // 2 SRTT + 2 ms, in ticks of 4 ms and half of one: the last segment again.
    recv!(s, Retrans, F::ACK | F::PSH, 2001, 1, 1000);
    assert_eq!(s.mib(Mib::TcpExtTCPLossProbes), 1);
    s.env.now += Duration::from_millis(10);
    // Two of three were lost: the probe's SACK starts recovery.
    send!(s, F::ACK, 1, 1, sack: vec![(2001, 3001)]).expect("taken");
    assert_eq!(s.t.info(s.env.now).lost, 2);
    // Proportional rate reduction: one delivered, one sent. The probe itself is not in flight as a retransmission.
    assert_eq!(s.t.info(s.env.now).retrans, 0);
    recv!(s, Retrans, F::ACK, 1, 1, 1000);
    silent!(s);
    assert_eq!(s.t.info(s.env.now).retrans, 1);
    send!(s, F::ACK, 1, 1001, sack: vec![(2001, 3001)]).expect("taken");
    recv!(s, Retrans, F::ACK, 1001, 1, 1000);
    send!(s, F::ACK, 1, 3001).expect("taken");
    silent!(s);
}

#[test]
fn zero_window_is_probed_until_it_opens() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(5000), Ok(5000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    send!(s, F::ACK, 1, 5001, wnd: 0).expect("taken");
    assert_eq!(s.write(5000), Ok(5000));
    silent!(s);
    let mut probes = 0;
    let mut at = Vec::new();
    for _ in 0..6 {
        let d = s.t.next_deadline().expect("persist timer");
        at.push((d - s.env.now).as_millis());
        s.env.now = d;
        s.t.on_timeout(&mut s.env.cx());
        recv!(s, Probe, F::ACK, 5000, 1, 0);
        probes += 1;
        send!(s, F::ACK, 1, 5001, wnd: 0).expect("taken");
        silent!(s);
    }
    assert_eq!(probes, 6);
    assert!(at.windows(2).all(|w| w[1] >= w[0]), "{at:?}");
    assert_eq!(s.mib(Mib::TcpExtTCPWinProbe), 6);
    send!(s, F::ACK, 1, 5001, wnd: 60000).expect("taken");
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
}

#[test]
fn a_small_window_is_not_filled_with_a_silly_segment() {
    let mut s = established(SockOpts::default());
    send!(s, F::ACK, 1, 1, wnd: 300).expect("taken");
    assert_eq!(s.write(5000), Ok(5000));
    silent!(s);
    // The persist timer sends what fits.
    s.env.now = s.t.next_deadline().expect("persist timer");
    s.t.on_timeout(&mut s.env.cx());
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 300);
}

#[test]
fn receive_window_closes_and_opens() {
    let mut s = established(SockOpts { rcvbuf: 8000, ..SockOpts::default() });
    let mut seq = 1;
    let mut last = 60000u32;
    for _ in 0..100 {
        let n = s.t.receive_window().min(500);
        if n == 0 {
            break;
        }
        send!(s, F::ACK, seq, 1, data: n).expect("taken");
        seq += n;
        s.run(50);
        s.t.ack.now = true;
        while let Some(t) = s.next() {
            let edge = t.ack.0.wrapping_sub(PEER) + (u32::from(t.wnd) << s.t.rcv.wscale);
            assert!(edge >= last || last == 60000, "the window's edge went back");
            last = edge;
        }
    }
    s.run(300);
    assert!(s.t.rcv.mem <= 8000 + 2000);
    assert_eq!(s.t.receive_window(), 0);
    assert!(s.mib(Mib::TcpExtTCPToZeroWindowAdv) > 0);
    assert!(send!(s, F::ACK, seq, 1, data: 500).is_err());
    assert!(s.mib(Mib::TcpExtBeyondWindow) > 0);
    while s.next().is_some() {}
    assert!(s.read(100_000).is_ok_and(|n| n > 3000));
    let t = s.next().expect("window update");
    assert!(t.wnd > 0);
    assert!(s.mib(Mib::TcpExtTCPFromZeroWindowAdv) > 0);
}

#[test]
fn out_of_order_sack_and_dsack() {
    let mut s = established(SockOpts::default());
    send!(s, F::ACK, 1001, 1, data: 1000).expect("taken");
    let t = recv!(s, Ack, F::ACK, 1, 1, 0);
    let rel = |t: &Transmit| -> Vec<(u32, u32)> {
        let r = |n: SeqNr| n.0.wrapping_sub(PEER);
        t.opts.sack.as_slice().iter().map(|b| (r(b.start), r(b.end))).collect()
    };
    assert_eq!(rel(&t), [(1001, 2001)]);
    send!(s, F::ACK, 3001, 1, data: 1000).expect("taken");
    let t = recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(rel(&t), [(3001, 4001), (1001, 2001)]);
    // Repeated: D-SACK first.
    assert_eq!(send!(s, F::ACK, 1001, 1, data: 1000), Err(DropReason::TcpOldSequence));
    let t = recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(rel(&t)[0], (1001, 2001));
    send!(s, F::ACK, 1, 1, data: 1000).expect("taken");
    let t = recv!(s, Ack, F::ACK, 1, 2001, 0);
    assert_eq!(rel(&t), [(3001, 4001)]);
    // Overlaps both what is there and what is missing.
    send!(s, F::ACK, 1501, 1, data: 2000).expect("taken");
    let t = recv!(s, Ack, F::ACK, 1, 4001, 0);
    assert_eq!(rel(&t), [(1501, 2001)]);
    assert_eq!(s.read(10_000), Ok(4000));
    // All received before: D-SACK below the ACK.
    assert_eq!(send!(s, F::ACK, 1, 1, data: 1000), Err(DropReason::TcpOldSequence));
    let t = recv!(s, Ack, F::ACK, 1, 4001, 0);
    assert_eq!(rel(&t), [(1, 1001)]);
    assert!(s.mib(Mib::TcpExtTCPDSACKOldSent) >= 2);
}

#[test]
fn passive_close() {
    let mut s = established(SockOpts::default());
    send!(s, F::FIN | F::ACK, 1, 1, data: 10).expect("taken");
    assert_eq!(s.t.state(), State::CloseWait);
    s.run(300);
    assert_eq!(s.t.rcv.wup, s.t.rcv.nxt, "the FIN was acknowledged");
    assert_eq!((s.read(100), s.read(100)), (Ok(10), Ok(0)));
    assert_eq!(s.write(5), Ok(5));
    recv!(s, Data, F::ACK | F::PSH, 1, 12, 5);
    s.t.close(&mut s.env.cx(), false);
    assert_eq!(s.t.state(), State::LastAck);
    recv!(s, Data, F::FIN | F::ACK, 6, 12, 0);
    let _ = send!(s, F::ACK, 12, 7);
    assert_eq!(s.t.state(), State::Close);
    silent!(s);
}

#[test]
fn active_close_time_wait() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(5), Ok(5));
    s.t.close(&mut s.env.cx(), false);
    recv!(s, Data, F::FIN | F::ACK | F::PSH, 1, 1, 5);
    assert_eq!(s.t.state(), State::FinWait1);
    send!(s, F::ACK, 1, 7).expect("taken");
    assert_eq!(s.t.state(), State::FinWait2);
    send!(s, F::FIN | F::ACK, 1, 7).expect("taken");
    recv!(s, Ack, F::ACK, 7, 2, 0);
    assert_eq!(s.t.state(), State::TimeWait);
    let mut tw = s.t.to_time_wait(&mut s.env.cx()).expect("time wait");
    assert_eq!(s.t.state(), State::Close);
    assert_eq!(tw.deadline - s.env.now, Duration::from_secs(60));
    let seg = |flags, seq: u32, ack: u32| Segment {
        seq: SeqNr(PEER.wrapping_add(seq)),
        ack: SeqNr(OURS.wrapping_add(ack)),
        flags,
        ..Segment::default()
    };
    // A repeated FIN is acknowledged again; what has no data not without limit.
    s.env.now += Duration::from_secs(10);
    let v = tw.rcv(&mut s.env.cx(), &seg(F::FIN | F::ACK, 1, 7));
    assert!(
        matches!(v, TwVerdict::Ack(t) if t.ack == SeqNr(PEER + 2) && t.seq == SeqNr(OURS.wrapping_add(7)))
    );
    assert_eq!(tw.deadline - s.env.now, Duration::from_secs(60));
    let v = tw.rcv(&mut s.env.cx(), &seg(F::FIN | F::ACK, 1, 7));
    assert!(matches!(v, TwVerdict::Ack(_)));
    let v = tw.rcv(&mut s.env.cx(), &seg(F::ACK, 1, 7));
    assert!(matches!(v, TwVerdict::Ack(_)));
    let v = tw.rcv(&mut s.env.cx(), &seg(F::ACK, 1, 7));
    assert!(matches!(v, TwVerdict::Drop(_)));
    // A new SYN above the old numbers opens again; one below is answered with an ACK.
    assert!(
        matches!(tw.rcv(&mut s.env.cx(), &seg(F::SYN, 100_000, 0)), TwVerdict::Reopen(n) if n.gt(SeqNr(OURS.wrapping_add(65535))))
    );
    s.env.now += Duration::from_secs(1);
    assert!(matches!(tw.rcv(&mut s.env.cx(), &seg(F::SYN, 0u32.wrapping_sub(100), 0)), TwVerdict::Ack(_)));
    assert!(matches!(tw.rcv(&mut s.env.cx(), &seg(F::RST, 2, 0)), TwVerdict::End));
}

#[test]
fn simultaneous_close() {
    let mut s = established(SockOpts::default());
    s.t.close(&mut s.env.cx(), false);
    recv!(s, Data, F::FIN | F::ACK, 1, 1, 0);
    send!(s, F::FIN | F::ACK, 1, 1).expect("taken");
    assert_eq!(s.t.state(), State::Closing);
    recv!(s, Ack, F::ACK, 2, 2, 0);
    send!(s, F::ACK, 2, 2).expect("taken");
    assert_eq!(s.t.state(), State::TimeWait);
}

#[test]
fn orphan_in_fin_wait2() {
    let mut s = established(SockOpts::default());
    s.t.close(&mut s.env.cx(), false);
    recv!(s, Data, F::FIN | F::ACK, 1, 1, 0);
    send!(s, F::ACK, 1, 2).expect("taken");
    assert_eq!(s.t.state(), State::FinWait2);
    let mut tw = s.t.to_time_wait(&mut s.env.cx()).expect("small record");
    assert_eq!((tw.state, tw.deadline - s.env.now), (State::FinWait2, Duration::from_secs(60)));
    let fin = Segment {
        seq: SeqNr(PEER + 1),
        ack: SeqNr(OURS.wrapping_add(2)),
        flags: F::FIN | F::ACK,
        ..Segment::default()
    };
    let mut data = fin;
    data.flags = F::ACK;
    data.len = 10;
    assert!(matches!(tw.clone().rcv(&mut s.env.cx(), &data), TwVerdict::Rst { end: true, .. }));
    assert!(matches!(tw.rcv(&mut s.env.cx(), &fin), TwVerdict::Ack(_)));
    assert_eq!(tw.state, State::TimeWait);
}

#[test]
fn data_after_close_is_reset() {
    let mut s = established(SockOpts::default());
    s.t.close(&mut s.env.cx(), false);
    recv!(s, Data, F::FIN | F::ACK, 1, 1, 0);
    assert_eq!(send!(s, F::ACK, 1, 2, data: 10), Err(DropReason::TcpAbortOnData));
    let t = s.next().expect("reset");
    assert_eq!((t.kind, t.flags, t.seq), (Kind::Rst, F::RST, SeqNr(OURS.wrapping_add(2))));
    assert_eq!((s.t.state(), s.mib(Mib::TcpExtTCPAbortOnData)), (State::Close, 1));
}

#[test]
fn close_with_unread_data_and_linger_zero() {
    let mut s = established(SockOpts::default());
    send!(s, F::ACK, 1, 1, data: 10).expect("taken");
    s.t.close(&mut s.env.cx(), false);
    recv!(s, Rst, F::RST | F::ACK, 1, 11, 0);
    assert_eq!(s.mib(Mib::TcpExtTCPAbortOnClose), 1);
    let mut s = established(SockOpts::default());
    s.t.close(&mut s.env.cx(), true);
    recv!(s, Rst, F::RST | F::ACK, 1, 1, 0);
    silent!(s);
}

#[test]
fn rst_and_syn_rules_of_rfc5961() {
    let mut s = established(SockOpts::default());
    assert_eq!(send!(s, F::RST, 70_000, 0), Err(DropReason::TcpReset));
    silent!(s);
    assert_eq!(send!(s, F::RST, 100, 0), Err(DropReason::TcpReset));
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(s.mib(Mib::TcpExtTCPChallengeACK), 1);
    // Limited to one in 500 ms.
    assert_eq!(send!(s, F::SYN, 100, 0), Err(DropReason::TcpInvalidSyn));
    silent!(s);
    assert_eq!(s.mib(Mib::TcpExtTCPACKSkippedChallenge), 1);
    s.env.now += Duration::from_millis(501);
    assert_eq!(send!(s, F::SYN, 0u32.wrapping_sub(5), 0), Err(DropReason::TcpInvalidSyn));
    recv!(s, Ack, F::ACK, 1, 1, 0);
    s.env.now += Duration::from_millis(501);
    // An ACK from before any window we offered.
    assert_eq!(send!(s, F::ACK, 1, 0u32.wrapping_sub(70_000)), Err(DropReason::TcpOldAck));
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(send!(s, F::ACK, 1, 2), Err(DropReason::TcpTooNewAck));
    silent!(s);
    assert_eq!(send!(s, F::RST, 1, 0), Err(DropReason::TcpReset));
    assert_eq!((s.t.state(), s.t.take_error()), (State::Close, Some(Errno::ECONNRESET)));
    assert_eq!(s.mib(Mib::TcpEstabResets), 1);
}

#[test]
fn paws_drops_old_duplicates() {
    let mut s = connecting(SockOpts::default(), |_| {});
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    s.ts = true;
    let mut o = peer_syn(1000, true, Some(0));
    o.timestamps = Some(Timestamps { tsval: 1000, tsecr: 1000 });
    send!(s, F::SYN | F::ACK, 0, 1, opts: o).expect("taken");
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(send!(s, F::ACK, 1, 1, data: 10, ts: (900, 1000)), Err(DropReason::TcpPaws));
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(s.mib(Mib::TcpExtPAWSEstab), 1);
    send!(s, F::ACK, 1, 1, data: 10, ts: (1001, 1000)).expect("taken");
    // A clock that was silent for 24 days may have started again.
    s.env.now += Duration::from_secs(25 * 24 * 3600);
    send!(s, F::ACK, 11, 1, data: 10, ts: (5, 1000)).expect("taken");
}

#[test]
fn keepalive_probes_and_gives_up() {
    let mut s = established(SockOpts { keepidle: 10, keepintvl: 2, keepcnt: 3, ..SockOpts::default() });
    s.t.opts.keepalive = true;
    s.t.update_keepalive(&s.env.cx());
    s.after(9_999);
    silent!(s);
    s.after(1);
    recv!(s, Probe, F::ACK, 0, 1, 0);
    send!(s, F::ACK, 1, 1).expect("taken");
    s.run(2_000);
    assert_eq!(s.t.probes(), 0, "answered: the idle time counts again");
    s.run(12_500);
    assert_eq!(s.t.probes(), 3);
    s.after(2_000);
    recv!(s, Rst, F::RST | F::ACK, 1, 1, 0);
    assert_eq!((s.t.state(), s.t.take_error()), (State::Close, Some(Errno::ETIMEDOUT)));
}

#[test]
fn user_timeout_bounds_retransmission() {
    let mut s = established(SockOpts { user_timeout_ms: 3000, ..SockOpts::default() });
    assert_eq!(s.write(10), Ok(10));
    while s.next().is_some() {}
    let start = s.env.now;
    while s.t.state() == State::Established {
        s.env.now = s.t.next_deadline().expect("timer");
        s.t.on_timeout(&mut s.env.cx());
        while s.next().is_some() {}
    }
    let took = s.env.now - start;
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn request_sock() {
    let mut env = Env::new();
    let syn = Segment {
        seq: SeqNr(PEER),
        flags: F::SYN,
        wnd: 5000,
        opts: peer_syn(1300, true, Some(2)),
        ..Segment::default()
    };
    let mut r = RequestSock::new(&env.cx(), &SockOpts::default(), &syn, open(1460));
    let sa = r.syn_ack(&mut env.cx());
    assert_eq!((sa.flags, sa.seq, sa.ack), (F::SYN | F::ACK, SeqNr(OURS), SeqNr(PEER + 1)));
    assert_eq!((sa.opts.mss, sa.opts.wscale, sa.opts.timestamps), (Some(1460), Some(7), None));
    assert!(matches!(r.rcv(&mut env.cx(), &syn), ReqVerdict::ResendSynAck));
    let mut ack = Segment {
        seq: SeqNr(PEER + 1),
        ack: SeqNr(OURS.wrapping_add(1)),
        flags: F::ACK,
        wnd: 5000,
        ..Segment::default()
    };
    let mut bad = ack;
    bad.ack = SeqNr(1);
    assert!(matches!(r.rcv(&mut env.cx(), &bad), ReqVerdict::Rst(t) if t.seq == SeqNr(1)));
    bad = ack;
    bad.seq = SeqNr(PEER + 100_000);
    env.now += Duration::from_secs(1);
    assert!(matches!(r.rcv(&mut env.cx(), &bad), ReqVerdict::Ack(_)));
    let rst = Segment { flags: F::RST, ..ack };
    assert!(matches!(r.clone().rcv(&mut env.cx(), &rst), ReqVerdict::End(None)));
    ack.len = 3;
    assert!(matches!(r.rcv(&mut env.cx(), &ack), ReqVerdict::Established));
    let mut t = Tcb::from_request(&mut env.cx(), SockOpts::default(), &r);
    t.rcv(&mut env.cx(), &ack, [Bytes::from_static(b"abc")].into_iter().collect()).expect("taken");
    assert_eq!((t.state(), t.inq(), t.mss()), (State::Established, 3, 1300));
    assert_eq!(t.info(env.now).snd_wnd, 20_000);
    // SYN-ACKs go out again after 1, 3, 7, 15, 31 s and are given up after 63.
    let start = Instant::from_millis(1000);
    let mut r2 = RequestSock::new(&Env::new().cx(), &SockOpts::default(), &syn, open(1460));
    let mut at = Vec::new();
    loop {
        env.now = r2.deadline();
        at.push((env.now - start).as_secs());
        if r2.on_timeout(&mut env.cx(), &SockOpts::default()) == crate::ReqTimeout::Expired {
            break;
        }
    }
    assert_eq!(at, [1, 3, 7, 15, 31, 63]);
}

#[test]
fn path_mtu_shrinks() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(4000), Ok(4000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 4000);
    s.t.mtu_reduced(&mut s.env.cx(), 500);
    let t = recv!(s, Retrans, F::ACK | F::PSH, 1, 1, 4000);
    assert_eq!(t.gso_size, Some(500));
    send!(s, F::ACK, 1, 4001).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Open);
}

#[test]
fn icmp_errors() {
    let mut s = connecting(SockOpts::default(), |_| {});
    recv!(s, Syn, F::SYN, 0, 0u32.wrapping_sub(PEER), 0);
    s.t.icmp_error(&mut s.env.cx(), Errno::EHOSTUNREACH);
    assert_eq!((s.t.state(), s.t.take_error()), (State::Close, Some(Errno::EHOSTUNREACH)));
    let mut s = established(SockOpts::default());
    s.t.icmp_error(&mut s.env.cx(), Errno::EHOSTUNREACH);
    assert_eq!((s.t.state(), s.t.error()), (State::Established, None));
}

#[test]
fn recovery_without_retransmission_is_undone() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(10_000), Ok(10_000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
    s.env.now += Duration::from_millis(10);
    send!(s, F::ACK, 1, 1, sack: vec![(1001, 4001)]).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Recovery);
    // Before anything was sent again the late segment arrives: it was reordering.
    send!(s, F::ACK, 1, 4001).expect("taken");
    send!(s, F::ACK, 1, 10_001).expect("taken");
    assert_eq!(s.t.ca_state(), CaState::Open);
    assert!(s.t.cwnd().0 >= 10, "{:?}", s.t.cwnd());
    assert_eq!(s.mib(Mib::TcpRetransSegs), 0);
    assert!(s.t.info(s.env.now).reord_seen > 0);
}

#[test]
fn overtaken_acks_are_no_dsack() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(10_000), Ok(10_000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
    s.env.now += Duration::from_millis(10);
    send!(s, F::ACK, 1, 5001).expect("taken");
    send!(s, F::ACK, 1, 1, sack: vec![(1001, 3001)]).expect("old but fine");
    assert_eq!(s.mib(Mib::TcpExtTCPDSACKRecv) + s.mib(Mib::TcpExtTCPSACKDiscard), 0);
    assert_eq!(s.t.ca_state(), CaState::Open);
}

/// RFC 2883 §4: segments are sent again by the dozen, and D-SACKs tell of each that was not needed.
#[test]
fn a_dsack_counts_for_a_part_of_a_retransmission() {
    let mut s = established(SockOpts::default());
    assert_eq!(s.write(10_000), Ok(10_000));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 5000);
    recv!(s, Data, F::ACK | F::PSH, 5001, 1, 5000);
    s.env.now += Duration::from_millis(10);
    send!(s, F::ACK, 1, 1, sack: vec![(7001, 10_001)]).expect("taken");
    recv!(s, Retrans, F::ACK | F::PSH, 1, 1, 3000);
    silent!(s);
    // The first copies of two of them were only late.
    s.env.now += Duration::from_millis(1);
    send!(s, F::ACK, 1, 1, sack: vec![(1001, 3001), (7001, 10_001)]).expect("taken");
    while s.next().is_some() {}
    let before = s.t.rec.undo_retrans;
    for (a, b, left) in [(1001, 2001, 1), (2001, 3001, 2)] {
        send!(s, F::ACK, 1, 1, sack: vec![(a, b), (1001, 3001), (7001, 10_001)]).expect("taken");
        assert_eq!(s.t.rec.undo_retrans, before - left, "one of the copies was not needed");
    }
    assert_eq!(s.mib(Mib::TcpExtTCPDSACKOfoRecv), 2);
}

/// Small segments sent while SACK blocks took room of each one are joined when there is more: the result is one segment.
#[test]
fn joined_segments_are_of_the_larger_size() {
    let mut s = established(SockOpts { nodelay: true, ..SockOpts::default() });
    send!(s, F::ACK, 101, 1, data: 100).expect("out of order");
    recv!(s, Ack, F::ACK, 1, 1, 0);
    assert_eq!(s.write(500), Ok(500));
    recv!(s, Data, F::ACK | F::PSH, 1, 1, 500);
    assert_eq!(s.write(499), Ok(499));
    recv!(s, Data, F::ACK | F::PSH, 501, 1, 499);
    send!(s, F::ACK, 1, 1, data: 100).expect("the hole is filled");
    recv!(s, Ack, F::ACK, 1000, 201, 0);
    s.after(300);
    // The loss probe comes before the timeout.
    recv!(s, Retrans, F::ACK | F::PSH, 501, 201, 499);
    s.after(300);
    recv!(s, Retrans, F::ACK | F::PSH, 1, 201, 999);
    assert_eq!(s.t.info(s.env.now).unacked, 1);
    send!(s, F::ACK, 201, 6).expect("part of it");
    assert_eq!(s.t.info(s.env.now).unacked, 1);
    send!(s, F::ACK, 201, 1000).expect("all of it");
    assert_eq!(s.t.info(s.env.now).unacked, 0);
}

/// A D-SACK of more than any window is a lie; it neither counts nor, often repeated, overflows the count.
#[test]
fn absurd_dsacks_do_not_count() {
    let mut s = established(SockOpts::default());
    for _ in 0..40 {
        assert_eq!(s.write(10_000), Ok(10_000));
        while s.next().is_some() {}
        let una = (s.t.snd.nxt - s.t.snd.iss) as u32;
        send!(s, F::ACK, 1, una).expect("taken");
    }
    let una = (s.t.snd.nxt - s.t.snd.iss) as u32;
    assert!(una > 3 * s.t.snd.max_wnd, "{una}");
    send!(s, F::ACK, 1, una, sack: vec![(1, una)]).expect("taken");
    assert_eq!(s.t.stats.dsack_dups, 0);
    s.t.stats.dsack_dups = u32::MAX;
    send!(s, F::ACK, 1, una, sack: vec![(una - 2000, una)]).expect("taken");
    assert_eq!(s.t.stats.dsack_dups, u32::MAX);
    assert_eq!(s.mib(Mib::TcpExtTCPDSACKIgnoredDubious), 2);
}
