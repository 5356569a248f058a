//! Two connections and the link between them, in simulated time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use ferronet_core::rng::Rng;
use ferronet_core::time::{Duration, Instant};
use ferronet_wire::tcp::SeqNr;

use super::{Env, seg_of};
use crate::{Kind, Open, Payload, ReqVerdict, RequestSock, Segment, SockOpts, State, Tcb, Transmit};

/// Behaviour of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) loss_ppm: u32,
    pub(super) dup_ppm: u32,
    pub(super) reorder_ppm: u32,
    pub(super) delay: Duration,
    /// Bits per second; 0: no limit.
    pub(super) rate: u64,
    /// Queue in bytes before the rate limit.
    pub(super) queue: u64,
    /// Cut GSO segments before the link, as a real device would.
    pub(super) cut: bool,
    /// Marks with "congestion experienced" what may be marked.
    pub(super) ce_ppm: u32,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            loss_ppm: 0,
            dup_ppm: 0,
            reorder_ppm: 0,
            delay: Duration::from_millis(10),
            rate: 0,
            queue: 256 * 1024,
            cut: true,
            ce_ppm: 0,
        }
    }
}

#[derive(Debug)]
struct Flying {
    at: Instant,
    n: u64,
    to: usize,
    seg: Segment,
    payload: Payload,
}
impl PartialEq for Flying {
    fn eq(&self, o: &Self) -> bool {
        (self.at, self.n) == (o.at, o.n)
    }
}
impl Eq for Flying {}
impl PartialOrd for Flying {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Flying {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        (self.at, self.n).cmp(&(o.at, o.n))
    }
}

/// Two ends, 0 connects to 1.
#[derive(Debug)]
pub(super) struct World {
    pub(super) env: [Env; 2],
    pub(super) tcb: [Option<Tcb>; 2],
    pub(super) tw: [Option<crate::TimeWait>; 2],
    pub(super) req: Option<RequestSock>,
    pub(super) link: Link,
    pub(super) rng: Rng,
    pub(super) now: Instant,
    free_at: [Instant; 2],
    flying: BinaryHeap<Reverse<Flying>>,
    n: u64,
    pub(super) mss: u16,
    /// FNV of everything that went over the link.
    pub(super) hash: u64,
    pub(super) sent: u64,
}

impl World {
    pub(super) fn new(seed: u64, link: Link) -> World {
        World {
            env: [Env::new(), Env::new()],
            tcb: [None, None],
            tw: [None, None],
            req: None,
            link,
            rng: Rng::new(seed),
            now: Instant::from_millis(1000),
            free_at: [Instant::ZERO; 2],
            flying: BinaryHeap::new(),
            n: 0,
            mss: 1460,
            hash: 0xcbf2_9ce4_8422_2325,
            sent: 0,
        }
    }

    pub(super) fn connect(&mut self) {
        let iss = SeqNr(self.rng.next_u32());
        let open = Open { iss, ts_offset: self.rng.next_u32(), path_mss: self.mss };
        let t = Tcb::connect(&mut self.env[0].cx(), SockOpts::default(), open);
        self.tcb[0] = Some(t);
        self.pump(0);
    }

    /// Runs `f` on one end and sends what comes of it.
    pub(super) fn with<R>(&mut self, end: usize, f: impl FnOnce(&mut Tcb, &mut crate::Cx<'_>) -> R) -> R {
        self.env[end].now = self.now;
        let t = self.tcb[end].as_mut().expect("open");
        let r = f(t, &mut self.env[end].cx());
        self.pump(end);
        r
    }

    pub(super) fn pump(&mut self, end: usize) {
        self.env[end].now = self.now;
        let mut n = 0;
        while let Some(t) = self.tcb[end].as_mut().and_then(|t| t.poll_transmit(&mut self.env[end].cx())) {
            n += 1;
            assert!(n < 10_000, "a sender that never stops: {:?} {:?} {:?}", t.kind, t.seq, self.info(end));
            self.transmit(end, t);
        }
        if let Some(t) = self.tcb[end].as_mut()
            && let Some(tw) = t.to_time_wait(&mut self.env[end].cx())
        {
            self.tw[end] = Some(tw);
        }
    }

    /// What the stack does for a connection that is only a small record, or gone.
    fn deliver_closed(&mut self, to: usize, seg: &Segment) {
        let reply = match self.tw[to].as_mut() {
            Some(tw) => match tw.rcv(&mut self.env[to].cx(), seg) {
                crate::TwVerdict::Ack(t) => Some(*t),
                crate::TwVerdict::Rst { reset, .. } => reset.map(|t| *t),
                crate::TwVerdict::Drop(_) | crate::TwVerdict::End | crate::TwVerdict::Reopen(_) => None,
            },
            None => crate::reset_for(seg),
        };
        if let Some(t) = reply {
            self.transmit(to, t);
        }
    }

    pub(super) fn transmit(&mut self, from: usize, t: Transmit) {
        assert_eq!(t.payload.iter().map(Bytes::len).sum::<usize>(), t.len as usize, "{t:?}");
        assert!(t.payload.len() <= crate::MAX_PIECES);
        let mut seg = seg_of(&t);
        seg.ce = t.ect && self.rng.chance_ppm(self.link.ce_ppm);
        match t.gso_size {
            Some(g) if self.link.cut => {
                let whole: Vec<u8> = t.payload.iter().flat_map(|b| b.iter().copied()).collect();
                let n = whole.len().div_ceil(usize::from(g));
                for (i, c) in whole.chunks(usize::from(g)).enumerate() {
                    let mut s = seg;
                    s.seq = seg.seq + (i * usize::from(g)) as u32;
                    s.len = c.len() as u32;
                    s.gso_size = 0;
                    if i + 1 < n {
                        s.flags &= !(ferronet_wire::tcp::TcpFlags::PSH | ferronet_wire::tcp::TcpFlags::FIN);
                    }
                    self.fly(from, s, [Bytes::copy_from_slice(c)].into_iter().collect(), t.kind);
                }
            }
            _ => self.fly(from, seg, t.payload, t.kind),
        }
    }

    fn fly(&mut self, from: usize, seg: Segment, payload: Payload, kind: Kind) {
        for v in [
            u64::from(seg.seq.0),
            u64::from(seg.ack.0),
            u64::from(seg.flags.bits()),
            u64::from(seg.len),
            self.now.0,
            kind as u64,
        ] {
            self.hash = (self.hash ^ v).wrapping_mul(0x0100_0000_01b3);
        }
        self.sent += 1;
        if self.rng.chance_ppm(self.link.loss_ppm) {
            return;
        }
        let copies = 1 + usize::from(self.rng.chance_ppm(self.link.dup_ppm));
        for _ in 0..copies {
            let mut at = self.now;
            if self.link.rate > 0 {
                let free = self.free_at[from].max(self.now);
                let waiting = (free - self.now).as_nanos() as u64 * self.link.rate / 8_000_000_000;
                if waiting > self.link.queue {
                    return;
                }
                let ns = u64::from(seg.len + 60) * 8_000_000_000 / self.link.rate;
                at = free + Duration::from_nanos(ns);
                self.free_at[from] = at;
            }
            at += self.link.delay;
            if self.rng.chance_ppm(self.link.reorder_ppm) {
                at += Duration::from_micros(u64::from(
                    self.rng.below(1 + 2 * self.link.delay.as_micros() as u32),
                ));
            }
            self.n += 1;
            self.flying.push(Reverse(Flying { at, n: self.n, to: 1 - from, seg, payload: payload.clone() }));
        }
    }

    /// Next thing that happens: an arrival or a timer.
    pub(super) fn next_event(&self) -> Option<Instant> {
        let mut at = self.flying.peek().map(|f| f.0.at);
        for t in self.tcb.iter().flatten().filter_map(Tcb::next_deadline) {
            at = Some(at.map_or(t, |a| a.min(t)));
        }
        if let Some(r) = &self.req {
            at = Some(at.map_or(r.deadline(), |a| a.min(r.deadline())));
        }
        at
    }

    /// Moves time on to the next event and handles it. False: nothing will ever happen again.
    pub(super) fn step(&mut self) -> bool {
        let Some(at) = self.next_event() else { return false };
        self.now = self.now.max(at);
        self.env[0].now = self.now;
        self.env[1].now = self.now;
        while self.flying.peek().is_some_and(|f| f.0.at <= self.now) {
            let Some(Reverse(f)) = self.flying.pop() else { break };
            self.deliver(f.to, &f.seg, f.payload);
        }
        for end in 0..2 {
            if self.tcb[end].as_ref().and_then(Tcb::next_deadline).is_some_and(|d| d <= self.now) {
                if let Some(t) = self.tcb[end].as_mut() {
                    t.on_timeout(&mut self.env[end].cx());
                }
                self.pump(end);
            }
        }
        if let Some(mut r) = self.req
            && r.deadline() <= self.now
        {
            match r.on_timeout(&mut self.env[1].cx(), &SockOpts::default()) {
                crate::ReqTimeout::Resend => {
                    let t = r.syn_ack(&mut self.env[1].cx());
                    self.req = Some(r);
                    self.transmit(1, t);
                }
                crate::ReqTimeout::Wait => self.req = Some(r),
                crate::ReqTimeout::Expired => self.req = None,
            }
        }
        true
    }

    fn deliver(&mut self, to: usize, seg: &Segment, payload: Payload) {
        if self.tcb[to].is_none() {
            if to == 1 {
                self.deliver_listen(seg, payload);
            }
            return;
        }
        if self.state(to) == State::Close {
            return self.deliver_closed(to, seg);
        }
        if let Some(t) = self.tcb[to].as_mut() {
            let _ = t.rcv(&mut self.env[to].cx(), seg, payload);
            check(t);
        }
        self.pump(to);
    }

    fn deliver_listen(&mut self, seg: &Segment, payload: Payload) {
        use ferronet_wire::tcp::TcpFlags as F;
        let Some(mut r) = self.req else {
            if seg.flags & (F::SYN | F::ACK | F::RST) == F::SYN {
                let open = Open { iss: SeqNr(self.rng.next_u32()), ts_offset: 7, path_mss: self.mss };
                let mut r = RequestSock::new(&self.env[1].cx(), &SockOpts::default(), seg, open);
                let t = r.syn_ack(&mut self.env[1].cx());
                self.req = Some(r);
                self.transmit(1, t);
            }
            return;
        };
        let v = r.rcv(&mut self.env[1].cx(), seg);
        self.req = Some(r);
        match v {
            ReqVerdict::ResendSynAck => {
                let t = r.syn_ack(&mut self.env[1].cx());
                self.req = Some(r);
                self.transmit(1, t);
            }
            ReqVerdict::Ack(t) | ReqVerdict::Rst(t) => self.transmit(1, *t),
            ReqVerdict::Drop(_) => {}
            ReqVerdict::End(_) => self.req = None,
            ReqVerdict::Established => {
                self.req = None;
                let mut t = Tcb::from_request(&mut self.env[1].cx(), SockOpts::default(), &r);
                let _ = t.rcv(&mut self.env[1].cx(), seg, payload);
                self.tcb[1] = Some(t);
                self.pump(1);
            }
        }
    }

    pub(super) fn info(&self, end: usize) -> Option<crate::TcpInfo> {
        self.tcb[end].as_ref().map(|t| t.info(self.env[end].now))
    }
    pub(super) fn state(&self, end: usize) -> State {
        self.tcb[end].as_ref().map_or(State::Close, Tcb::state)
    }
}

/// What always holds.
pub(super) fn check(t: &Tcb) {
    let packets: u32 = t.txq.iter().map(|s| u32::from(s.pcount)).sum();
    assert_eq!(packets, t.txq.packets);
    let count = |f: u8| t.txq.iter().filter(|s| s.is(f)).map(|s| u32::from(s.pcount)).sum::<u32>();
    if t.sack_on {
        assert_eq!(count(crate::sack::SACKED), t.rec.sacked_out, "sacked_out");
    }
    assert_eq!(count(crate::sack::LOST), t.rec.lost_out, "lost_out");
    assert_eq!(count(crate::sack::RETRANS), t.rec.retrans_out, "retrans_out");
    let mut at = t.snd.una;
    for s in t.txq.iter() {
        assert_eq!(s.seq, at, "records have no gaps");
        assert!(s.end > s.seq);
        at = s.end;
    }
    if !t.txq.is_empty() {
        assert_eq!(at, t.snd.nxt);
    }
    let mut end = t.rcv.nxt;
    for (&s, e) in &t.rcv.ofo {
        assert!(s >= end && e.end > s, "out-of-order entries overlap");
        end = e.end;
    }
    assert!(t.rcv.mem <= t.rcv.rcvbuf + 2 * 65536 + 4096, "memory {} of {}", t.rcv.mem, t.rcv.rcvbuf);
    let queued: usize = t.rcv.q.iter().map(Bytes::len).sum::<usize>() + t.rcv.tail.len();
    if !t.orphan {
        assert_eq!(queued, t.inq() as usize, "readable bytes");
        let pieces = t.rcv.q.len() as u32 * crate::rcv::data::PIECE_OVERHEAD;
        let ofo = t.ofo_cost();
        assert_eq!(t.rcv.mem, queued as u32 + pieces + ofo, "memory is charged exactly");
    }
}
