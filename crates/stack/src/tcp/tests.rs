//! TCP between two namespaces of one world: handshake, queues, data, close, TIME_WAIT.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use bytes::Bytes;
use ferronet_core::{DropReason, Errno, Mib, NsId, Sysctl};
use ferronet_tcp::State;

use super::user;
use crate::dev::IfAddr;
use crate::dev::addr_ops::inet_insert_ifa;
use crate::sock::{NewSock, Proto, SockKey, create, poll, ports};
use crate::world::link::LinkSpec;
use crate::{Namespace, World};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

struct Two {
    w: World,
    a: NsId,
    b: NsId,
}

impl Two {
    fn new() -> Two {
        let mut w = World::new(1, 0);
        let (a, b) = (w.ns_create().unwrap(), w.ns_create().unwrap());
        let spec = |n: &str| LinkSpec { name: n.into(), ..LinkSpec::default() };
        let (i, j) = w.link_add_veth(a, &spec("v0"), b, &spec("v1")).unwrap();
        for (n, d, ip) in [(a, i, 1), (b, j, 2)] {
            w.link_set_up(n, d, true).unwrap();
            let addr = IfAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, ip)), 24);
            inet_insert_ifa(w.ns_mut(n).unwrap(), d, addr).unwrap();
        }
        w.set_now(ferronet_core::Instant::from_millis(1));
        Two { w, a, b }
    }
    fn run(&mut self) {
        while self.w.run_softirq(10_000) {}
    }
    fn pass(&mut self, d: Duration) {
        let end = self.w.now() + d;
        loop {
            self.run();
            match self.w.next_timeout().filter(|t| *t <= end) {
                Some(t) => self.w.set_now(t.max(self.w.now() + Duration::from_nanos(1))),
                None => break,
            }
        }
        self.w.set_now(end);
        self.run();
    }
    fn client(&mut self) -> &mut Namespace {
        self.w.ns_mut(self.a).unwrap()
    }
    fn server(&mut self) -> &mut Namespace {
        self.w.ns_mut(self.b).unwrap()
    }
    fn listen(&mut self, backlog: i32) -> SockKey {
        let n = self.server();
        let l = tcp(n);
        ports::bind(n, l, SERVER, 80, true).unwrap();
        user::listen(n, l, backlog).unwrap();
        l
    }
    fn connect(&mut self) -> SockKey {
        let n = self.client();
        let c = tcp(n);
        assert_eq!(user::connect(n, c, SERVER, 80), Err(Errno::EINPROGRESS));
        self.run();
        c
    }
    fn mib(&self, n: NsId, m: Mib) -> u64 {
        self.w.ns(n).unwrap().env.mib.get(m)
    }
}

fn tcp(n: &mut Namespace) -> SockKey {
    let new = NewSock { family: 2, protocol: 6, uid: 0, token: 1 };
    create(n, new, Proto::Tcp(Box::default())).unwrap()
}

fn take(n: &mut Namespace, k: SockKey) -> Result<usize, Errno> {
    user::recv(n, k, 1 << 16, &mut |s| s.iter().map(|x| x.len()).sum())
}

#[test]
fn handshake_data_close_and_time_wait() {
    let mut t = Two::new();
    let l = t.listen(8);
    let c = t.connect();
    assert_eq!(user::state(t.client(), c), Some(State::Established));
    assert_eq!(user::poll_bits(t.server(), l), poll::IN);
    let s = user::accept(t.server(), l).unwrap();
    assert_eq!(user::accept(t.server(), l), Err(Errno::EAGAIN));
    assert_eq!(user::send(t.client(), c, Bytes::from_static(b"hello"), user::SendHow::Plain), Ok(5));
    t.run();
    assert_eq!(take(t.server(), s), Ok(5));
    assert_eq!(take(t.server(), s), Err(Errno::EAGAIN));
    user::close(t.client(), c);
    t.run();
    assert_eq!(take(t.server(), s), Ok(0));
    assert_eq!(user::state(t.server(), s), Some(State::CloseWait));
    user::close(t.server(), s);
    t.run();
    assert_eq!(t.client().socks.tcp.time_wait.len(), 1);
    assert_eq!(t.client().socks.socks.len(), 0);
    t.pass(Duration::from_millis(59_900));
    assert_eq!(t.client().socks.tcp.time_wait.len(), 1, "TIME_WAIT lasts 60 s");
    t.pass(Duration::from_millis(200));
    assert_eq!(t.client().socks.tcp.time_wait.len(), 0);
    assert_eq!(t.client().env.timers.len(), t.server().env.timers.len());
}

/// Linux: with backlog 8 nine connections wait, and what comes then is counted and dropped.
#[test]
fn a_full_accept_queue_drops_and_counts() {
    let mut t = Two::new();
    let l = t.listen(8);
    for _ in 0..100 {
        t.connect();
    }
    let (queued, limit) = user::queues(t.server(), l);
    assert_eq!((queued, limit), (9, 8));
    let b = t.b;
    assert!(t.mib(b, Mib::TcpExtListenOverflows) >= 91, "{}", t.mib(b, Mib::TcpExtListenOverflows));
    assert_eq!(t.mib(b, Mib::TcpExtListenOverflows), t.mib(b, Mib::TcpExtListenDrops));
    assert!(t.server().env.drops.get(DropReason::TcpListenOverflow) >= 91);
}

#[test]
fn a_closed_port_refuses() {
    let mut t = Two::new();
    let c = t.connect();
    assert_eq!(user::state(t.client(), c), Some(State::Close));
    assert_eq!(user::take_error(t.client(), c), Some(Errno::ECONNREFUSED));
    let b = t.b;
    assert_eq!(t.mib(b, Mib::TcpOutRsts), 1);
}

#[test]
fn a_full_syn_queue_answers_with_cookies() {
    let mut t = Two::new();
    t.server().env.sysctl.set(Sysctl::TcpSyncookies, 2);
    let l = t.listen(8);
    let c = t.connect();
    assert_eq!(user::state(t.client(), c), Some(State::Established));
    let b = t.b;
    assert_eq!(t.mib(b, Mib::TcpExtSyncookiesSent), 1);
    assert_eq!(t.mib(b, Mib::TcpExtSyncookiesRecv), 1);
    let s = user::accept(t.server(), l).unwrap();
    assert_eq!(
        user::send(t.client(), c, Bytes::from(vec![3; 300_000]), user::SendHow::Plain).map(|n| n > 0),
        Ok(true)
    );
    t.run();
    assert!(take(t.server(), s).is_ok_and(|n| n > 0));
}

#[test]
fn a_megabyte_crosses_without_loss_or_copies_of_boxes() {
    let mut t = Two::new();
    let l = t.listen(8);
    let c = t.connect();
    let s = user::accept(t.server(), l).unwrap();
    let data = Bytes::from(vec![9u8; 64 << 10]);
    let (mut sent, mut got) = (0usize, 0usize);
    while got < 4 << 20 {
        while sent < 4 << 20 {
            match user::send(t.client(), c, data.clone(), user::SendHow::Plain) {
                Ok(n) => sent += n,
                Err(e) => {
                    assert_eq!(e, Errno::EAGAIN);
                    break;
                }
            }
        }
        t.run();
        while let Ok(n) = take(t.server(), s) {
            got += n;
        }
        t.pass(Duration::from_micros(50));
    }
    let (a, b) = (t.a, t.b);
    assert_eq!(t.mib(a, Mib::TcpRetransSegs), 0);
    for n in [a, b] {
        assert_eq!(t.w.ns(n).unwrap().env.drops.iter().count(), 0);
    }
}

/// The loop woke up late: the ACK was on its way all the time, so nothing is sent again.
#[test]
fn frames_come_before_timers() {
    let mut t = Two::new();
    t.listen(8);
    let c = t.connect();
    assert_eq!(user::send(t.client(), c, Bytes::from(vec![0; 10_000]), user::SendHow::Plain), Ok(10_000));
    let late = t.w.now() + Duration::from_millis(500);
    t.w.set_now(late);
    t.run();
    assert_eq!(t.mib(t.a, Mib::TcpExtTCPLossProbes), 0);
    assert_eq!(t.mib(t.a, Mib::TcpRetransSegs), 0);
}

/// Time passes without a look at each namespace; those with something due are run.
#[test]
fn a_namespace_learns_the_time_when_it_is_run() {
    use ferronet_core::Instant;
    use ferronet_core::env::TimerKey;
    let mut w = World::new(1, 0);
    let (a, b) = (w.ns_create().unwrap(), w.ns_create().unwrap());
    let at = Instant::from_millis(5);
    let mut id = w.ns_mut(a).unwrap().env.timers.arm(at, TimerKey::NeighGc);
    assert!(w.next_timeout().is_some_and(|t| t <= at));
    w.run_softirq(10);
    assert!(w.next_timeout().is_some_and(|t| t <= at));
    w.set_now(at);
    w.run_softirq(10);
    assert_eq!(w.ns(a).unwrap().env.now, at);
    assert!(!w.ns_mut(a).unwrap().env.timers.cancel(&mut id), "it fired");
    assert_eq!(w.ns(b).unwrap().env.now, Instant::ZERO, "nothing was due there");
    w.touch(b);
    assert_eq!(w.ns(b).unwrap().env.now, at);
    // A timer that went with its namespace wakes nobody.
    w.ns_mut(b).unwrap().env.timers.arm(Instant::from_millis(9), TimerKey::NeighGc);
    w.run_softirq(10);
    assert!(w.next_timeout().is_some_and(|t| t <= Instant::from_millis(9)));
    w.ns_destroy(b);
    assert_eq!(w.next_timeout(), w.ns(a).unwrap().env.timers.next_timeout());
}

/// TCP_DEFER_ACCEPT: the bare ACK is dropped and counted; data makes the connection.
#[test]
fn a_deferred_listener_accepts_with_the_data() {
    let mut t = Two::new();
    let l = t.listen(8);
    super::opts::set(t.server(), l, |o| o.defer_accept = 3);
    let c = t.connect();
    assert_eq!(user::state(t.client(), c), Some(State::Established));
    assert_eq!(user::poll_bits(t.server(), l), 0);
    assert_eq!(t.mib(t.b, Mib::TcpExtTCPDeferAcceptDrop), 1);
    let synacks = t.mib(t.b, Mib::TcpRetransSegs);
    t.pass(Duration::from_millis(1500));
    assert_eq!(t.mib(t.b, Mib::TcpRetransSegs), synacks, "it answered; it is not asked again yet");
    assert_eq!(user::send(t.client(), c, Bytes::from_static(b"hello"), user::SendHow::Plain), Ok(5));
    t.run();
    let s = user::accept(t.server(), l).unwrap();
    assert_eq!(take(t.server(), s), Ok(5));
}

/// shutdown(SHUT_RDWR): what the peer still sends is answered with a reset, which tells both.
#[test]
fn data_for_a_reader_that_left_is_reset() {
    let mut t = Two::new();
    let l = t.listen(8);
    let c = t.connect();
    let s = user::accept(t.server(), l).unwrap();
    user::shutdown(t.client(), c, user::RCV_SHUTDOWN | user::SEND_SHUTDOWN).unwrap();
    t.run();
    assert_eq!(user::send(t.server(), s, Bytes::from_static(b"x"), user::SendHow::Plain), Ok(1));
    t.run();
    assert_eq!(user::take_error(t.client(), c), Some(Errno::ECONNRESET));
    assert_eq!(user::state(t.client(), c), Some(State::Close));
    // It was in CLOSE_WAIT.
    assert_eq!(user::take_error(t.server(), s), Some(Errno::EPIPE));
    assert_eq!(user::send(t.server(), s, Bytes::from_static(b"x"), user::SendHow::Plain), Err(Errno::EPIPE));
}

/// After a refused attempt the socket is as new: no address, no port; the next attempt may succeed.
#[test]
fn a_refused_socket_connects_again() {
    let mut t = Two::new();
    let c = t.connect();
    assert_eq!(user::connect(t.client(), c, SERVER, 80), Err(Errno::ECONNREFUSED));
    assert_eq!(user::poll_bits(t.client(), c), poll::OUT | poll::HUP);
    let common = t.client().socks.common(c).unwrap();
    assert!(common.local.is_unspecified() && common.lport == 0 && common.peer.is_none());
    t.listen(8);
    assert_eq!(user::connect(t.client(), c, SERVER, 80), Err(Errno::EINPROGRESS));
    t.run();
    assert_eq!(user::state(t.client(), c), Some(State::Established));
    user::disconnect(t.client(), c).unwrap();
    t.run();
    assert!(t.client().socks.common(c).unwrap().local.is_unspecified());
    assert_eq!(user::state(t.client(), c), Some(State::Close));
}
