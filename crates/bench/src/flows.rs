//! TCP between two namespaces: one bulk flow, short connections, idle connections.

use core::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use ferronet_core::{Errno, Instant, NsId};
use ferronet_linux::SockId;
use ferronet_sim::Net;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 80;

struct Pair {
    net: Net,
    client: NsId,
    listener: SockId,
    now: Instant,
}

fn pair() -> Pair {
    let mut net = Net::new(7);
    let (a, b) = (net.ns(), net.ns());
    net.link((a, "eth0", Ipv4Addr::new(10, 0, 0, 1)), (b, "eth0", SERVER));
    let listener = net.listen(b, SocketAddr::from((SERVER, PORT)), 4096).expect("listen");
    // Ports for more connections than the default range holds at once.
    for n in [a, b] {
        let n = net.kernel.world.ns_mut(n).expect("namespace exists");
        n.env.sysctl.write(ferronet_core::Sysctl::IpLocalPortRange, b"1024 65535").expect("a valid range");
    }
    let now = net.now();
    Pair { net, client: a, listener, now }
}

impl Pair {
    fn tick(&mut self, nanos: u64) {
        self.now = Instant(self.now.0 + nanos);
        self.net.kernel.set_now(self.now);
    }

    fn connect(&mut self, port: u16) -> (SockId, SockId) {
        let c = self.net.connect(self.client, SocketAddr::from((SERVER, port))).expect("connect");
        self.net.run();
        let (s, _) = self.net.kernel.accept(self.listener).expect("the handshake is complete");
        (c, s)
    }
}

/// Whether a program's bytes are copied from and to its own memory, as `send` and `recv` do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Copied once into the stack and once out of it.
    Copies,
    /// The stack takes what the program owns, and the program reads where the stack keeps it.
    Lends,
}

/// Gbit/s of one flow of `total` bytes through both stacks.
pub(crate) fn bulk(total: u64, user: User) -> f64 {
    let mut p = pair();
    let (c, s) = p.connect(PORT);
    let source = Bytes::from(vec![7u8; 64 << 10]);
    let mut sink = vec![0u8; 256 << 10];
    let (mut sent, mut got) = (0u64, 0u64);
    let start = std::time::Instant::now();
    let began = p.now;
    while got < total {
        // A program's turn: four writes of 64 KiB.
        for _ in 0..4 {
            if sent == total {
                break;
            }
            let n = (total - sent).min(source.len() as u64) as usize;
            let data = match user {
                User::Copies => Bytes::copy_from_slice(&source[..n]),
                User::Lends => source.slice(..n),
            };
            match p.net.kernel.stream_send(c, data) {
                Ok(k) => {
                    sent += k as u64;
                    if k < n {
                        break;
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(e) => panic!("send: {e}"),
            }
        }
        p.net.run();
        loop {
            let r = p.net.kernel.stream_recv(s, sink.len(), &mut |slices| {
                let mut at = 0;
                for x in slices {
                    if user == User::Copies {
                        sink[at..at + x.len()].copy_from_slice(x);
                    }
                    at += x.len();
                }
                at
            });
            match r {
                Ok(n) if n > 0 => got += n as u64,
                Ok(_) | Err(_) => break,
            }
        }
        p.net.run();
        let real = Instant(began.0 + start.elapsed().as_nanos() as u64);
        p.tick(real.0.saturating_sub(p.now.0));
    }
    got as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}

/// Connections per second: connect, one byte each way, close.
pub(crate) fn connections(count: u64) -> f64 {
    let mut p = pair();
    rate(&mut p, count)
}

fn rate(p: &mut Pair, count: u64) -> f64 {
    let start = std::time::Instant::now();
    for _ in 0..count {
        let (c, s) = p.connect(PORT);
        byte(p, c, s);
        byte(p, s, c);
        p.net.kernel.close(c);
        p.net.run();
        p.net.kernel.close(s);
        p.net.run();
        // TIME_WAIT ends in time for the ports: 60 s for 60,000 of them.
        p.tick(2_000_000);
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn byte(p: &mut Pair, from: SockId, to: SockId) {
    p.net.kernel.stream_send(from, Bytes::from_static(b"x")).expect("room for a byte");
    p.net.run();
    let got = p.net.kernel.stream_recv(to, 16, &mut |s| s.iter().map(|x| x.len()).sum());
    assert_eq!(got, Ok(1));
}

/// What idle connections cost.
pub(crate) struct Idle {
    /// Resident bytes of one end.
    pub(crate) bytes: f64,
    /// Connections per second beside them.
    pub(crate) with_idle: f64,
    /// Connections per second without.
    pub(crate) empty: f64,
}

/// `count` established connections, then new ones beside them.
pub(crate) fn idle(count: u64) -> Idle {
    let (mut p, mut other) = (pair(), pair());
    // Several server ports: one pair of addresses has only so many client ports.
    let mut more = Vec::new();
    let before = resident();
    let mut made = 0;
    let mut port = 8000;
    while made < count {
        let addr = SocketAddr::from((SERVER, port));
        let ns = p.net.kernel.world.iter().nth(1).map(|n| n.id).expect("two namespaces");
        let l = p.net.listen(ns, addr, 4096).expect("listen");
        for _ in 0..(count - made).min(30_000) {
            let c = p.net.connect(p.client, addr).expect("connect");
            p.net.run();
            let (s, _) = p.net.kernel.accept(l).expect("accepted");
            more.push((c, s));
            made += 1;
        }
        port += 1;
        p.tick(1_000_000);
    }
    // Quick acknowledgements and their timers come to rest.
    let bytes = (resident() - before) as f64 / (2 * count) as f64;
    // By turns, so that a machine that changes speed changes both.
    let (mut with_idle, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        with_idle.push(rate(&mut p, 3_000));
        empty.push(rate(&mut other, 3_000));
    }
    Idle { bytes, with_idle: crate::median(&mut with_idle), empty: crate::median(&mut empty) }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0) * 4096
}
