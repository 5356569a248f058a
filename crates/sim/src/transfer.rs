//! TCP transfers in both directions over bad links, every byte checked.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use bytes::Bytes;
use ferronet_core::rng::Rng;
use ferronet_core::{Errno, NsId};
use ferronet_linux::{Kernel, SockId};
use ferronet_stack::dev::netem::Params;

use crate::net::{Net, random_params};

/// What a transfer came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Everything observable, folded: two runs of a seed must agree.
    pub hash: u64,
    /// Simulated time it took.
    pub took: Duration,
    /// Bytes delivered, both directions.
    pub bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// One direction: so many bytes of a sequence that both ends can compute.
#[derive(Debug)]
struct Stream {
    from: SockId,
    to: Option<SockId>,
    total: u64,
    sent: u64,
    got: u64,
    seed: u64,
    shut: bool,
    eof: bool,
}

/// Byte `at` of the stream with this seed.
fn byte(seed: u64, at: u64) -> u8 {
    let x = (at ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x >> 56) as u8
}

fn mix(h: u64, v: u64) -> u64 {
    (h ^ v).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(17)
}

impl Stream {
    /// Sends what fits.
    fn pump_out(&mut self, k: &mut Kernel, chunk: usize) -> Result<(), String> {
        while self.sent < self.total {
            let n = (self.total - self.sent).min(chunk as u64);
            let data: Vec<u8> = (0..n).map(|i| byte(self.seed, self.sent + i)).collect();
            match k.stream_send(self.from, Bytes::from(data)) {
                Ok(done) => {
                    self.sent += done as u64;
                    if (done as u64) < n {
                        return Ok(());
                    }
                }
                Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EINPROGRESS) => return Ok(()),
                Err(e) => return Err(format!("send after {} bytes: {e}", self.sent)),
            }
        }
        if !self.shut {
            self.shut = k.shutdown(self.from, 1).is_ok();
        }
        Ok(())
    }

    /// Reads what is there and compares it.
    fn pump_in(&mut self, k: &mut Kernel, chunk: usize) -> Result<(), String> {
        let Some(to) = self.to else { return Ok(()) };
        while !self.eof {
            let (seed, got, total) = (self.seed, self.got, self.total);
            let mut bad = None;
            let r = k.stream_recv(to, chunk, &mut |slices| {
                let mut at = got;
                for &b in slices.iter().copied().flatten() {
                    if b != byte(seed, at) || at >= total {
                        bad = bad.or(Some(at));
                    }
                    at += 1;
                }
                (at - got) as usize
            });
            if let Some(at) = bad {
                return Err(format!("byte {at} differs"));
            }
            match r {
                Ok(0) => {
                    self.eof = true;
                    if self.got != self.total {
                        return Err(format!("end of stream after {} of {} bytes", self.got, self.total));
                    }
                }
                Ok(n) => self.got += n as u64,
                Err(Errno::EAGAIN | Errno::ENOTCONN) => return Ok(()),
                Err(e) => return Err(format!("recv after {} bytes: {e}", self.got)),
            }
        }
        Ok(())
    }
}

/// Links and sizes of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Bytes each way.
    pub bytes: [u64; 2],
    /// Each direction of the link.
    pub link: [Params; 2],
    /// Simulated time after which it counts as stuck.
    pub limit: Duration,
    /// Bytes per call of send and receive.
    pub chunk: usize,
}

/// A setup drawn from a seed: up to 20 % loss, duplication and reordering.
#[must_use]
pub fn random_setup(seed: u64, max_bytes: u32) -> Setup {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let worst = [0, 10_000, 50_000, 200_000][rng.below(4) as usize];
    Setup {
        bytes: [u64::from(rng.below(max_bytes) + 1), u64::from(rng.below(max_bytes))],
        link: [random_params(&mut rng, worst), random_params(&mut rng, worst)],
        limit: Duration::from_secs(3 * 3600),
        chunk: 1 + rng.below(20_000) as usize,
    }
}

/// Two hosts on a bad link send each other their bytes and close.
///
/// # Errors
/// A sentence that says what was lost, changed or stuck, and when.
pub fn transfer(seed: u64, s: &Setup) -> Result<Outcome, String> {
    let mut net = Net::new(seed);
    let (a, b) = (net.ns(), net.ns());
    let (aip, bip) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
    let (i, j) = net.link((a, "eth0", aip), (b, "eth0", bip));
    net.impair(a, i, s.link[0]);
    net.impair(b, j, s.link[1]);
    for n in [a, b] {
        // Three lost requests would end the connect(2), as on Linux (EHOSTUNREACH).
        let path = "sys/net/ipv4/neigh/eth0/mcast_solicit";
        net.call(n, |k, c| k.proc_write(c, path, b"50")).map_err(|e| format!("{path}: {e}"))?;
    }
    let start = net.now();
    let err = |what: &str, e: Errno| format!("{what}: {e}");
    let addr = SocketAddr::from((bip, 80));
    let listener = net.listen(b, addr, 8).map_err(|e| err("listen", e))?;
    let client = net.connect(a, addr).map_err(|e| err("connect", e))?;
    let stream =
        |from, to, total, seed| Stream { from, to, total, sent: 0, got: 0, seed, shut: false, eof: false };
    let mut up = stream(client, None, s.bytes[0], seed);
    let mut down: Option<Stream> = None;
    let mut hash = seed;
    loop {
        net.run();
        if down.is_none()
            && let Ok((server, _)) = net.kernel.accept(listener)
        {
            up.to = Some(server);
            down = Some(stream(server, Some(client), s.bytes[1], seed ^ 1));
        }
        let at = |net: &Net, e: String| format!("seed {seed} at {:?}: {e}", net.now());
        up.pump_out(&mut net.kernel, s.chunk).map_err(|e| at(&net, e))?;
        up.pump_in(&mut net.kernel, s.chunk).map_err(|e| at(&net, e))?;
        if let Some(d) = &mut down {
            d.pump_out(&mut net.kernel, s.chunk).map_err(|e| at(&net, e))?;
            d.pump_in(&mut net.kernel, s.chunk).map_err(|e| at(&net, e))?;
            hash = mix(hash, net.now().0);
            hash = mix(hash, (up.got << 32) ^ d.got);
            if up.eof && d.eof {
                break;
            }
        }
        net.run();
        net.step(Duration::from_secs(3600));
        if net.now() - start > s.limit {
            return Err(at(&net, format!("stuck: {} of {} bytes up", up.got, up.total)));
        }
    }
    let took = net.now() - start;
    net.kernel.close(client);
    if let Some(s) = up.to {
        net.kernel.close(s);
    }
    // Everything ends: TIME_WAIT too.
    net.sleep(Duration::from_secs(200));
    let retransmits = [a, b].iter().map(|&n| counter(&net, n, ferronet_core::Mib::TcpRetransSegs)).sum();
    for n in [a, b] {
        hash = fold_counters(hash, &net, n);
    }
    let bytes = s.bytes[0] + s.bytes[1];
    Ok(Outcome { hash, took, bytes, retransmits })
}

fn counter(net: &Net, ns: NsId, m: ferronet_core::Mib) -> u64 {
    net.kernel.world.ns(ns).map_or(0, |n| n.env.mib.get(m))
}

fn fold_counters(mut hash: u64, net: &Net, ns: NsId) -> u64 {
    let Some(n) = net.kernel.world.ns(ns) else { return hash };
    for g in ferronet_core::Mib::GROUPS {
        for v in n.env.mib.group(g) {
            hash = mix(hash, *v);
        }
    }
    for (r, c) in n.env.drops.iter() {
        hash = mix(hash, r as u64 ^ c << 8);
    }
    hash
}
