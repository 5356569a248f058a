//! `ferronet tool ping`: ICMP echo through a ping socket (SOCK_DGRAM, IPPROTO_ICMP), which needs no right; where the
//! group is outside net.ipv4.ping_group_range through a raw socket, which needs CAP_NET_RAW (inside a stack everybody has
//! it); and without either by a UDP packet to a closed port.

use crate::args::PingArgs;
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

/// ICMP echo request and reply (RFC 792), ICMPv6 (RFC 4443 §4).
const ECHO: [(u8, u8); 2] = [(8, 0), (128, 129)];

/// How echoes are sent.
enum Way {
    /// A ping socket: the kernel fills in identifier and checksum.
    Icmp { fd: OwnedFd, to: SocketAddr, size: usize },
    /// A raw socket: identifier and (IPv4) checksum are ours, and so is the choice of what concerns us.
    Raw { fd: OwnedFd, to: SocketAddr, size: usize, id: u16 },
    /// A UDP packet to a port where nobody listens; the answer is the ICMP error.
    Udp { socket: UdpSocket },
}

/// Pings and prints; 0 when at least one answer came.
pub(super) fn run(args: &PingArgs) -> Result<u8, String> {
    let to = resolve(&args.host)?;
    if !(0.0..1e6).contains(&args.interval) || !(0.0..1e6).contains(&args.timeout) {
        return Err("--interval and --timeout are numbers of seconds".to_owned());
    }
    let way = open(to, usize::from(args.size))?;
    let mut times: Vec<f64> = Vec::new();
    if !args.json {
        say(&format!("PING {} ({to}): {} data bytes", args.host, args.size))?;
    }
    for seq in 1..=args.count {
        let sent = Instant::now();
        let last = seq == args.count;
        let wait = Duration::from_secs_f64(if last { args.timeout } else { args.interval });
        match echo(&way, seq, sent, wait) {
            Ok(Some(rtt)) => {
                let ms = rtt.as_secs_f64() * 1e3;
                times.push(ms);
                if !args.json {
                    say(&format!("answer from {to}: seq={seq} time={ms:.3} ms"))?;
                }
                if !last {
                    pause(wait.saturating_sub(sent.elapsed()));
                }
            }
            Ok(None) if !args.json => say(&format!("no answer from {to}: seq={seq}"))?,
            Ok(None) => {}
            Err(e) => {
                if !args.json {
                    say(&format!("seq={seq}: {e}"))?;
                }
                if !last {
                    pause(wait.saturating_sub(sent.elapsed()));
                }
            }
        }
    }
    summary(args, &way, &times)?;
    Ok(u8::from(times.is_empty()))
}

fn say(line: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|e| format!("standard output: {e}"))
}

/// Waits without anything to wait for: the pace of the requests.
fn pause(d: Duration) {
    std::thread::park_timeout(d);
}

fn resolve(host: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let mut all = (host, 0).to_socket_addrs().map_err(|e| format!("`{host}`: {e}"))?;
    all.next().map(|a| a.ip()).ok_or_else(|| format!("`{host}` has no address"))
}

fn open(to: IpAddr, size: usize) -> Result<Way, String> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let denied = |e| matches!(e, rustix::io::Errno::ACCESS | rustix::io::Errno::PERM);
    let at = SocketAddr::new(to, 0);
    match rustix::net::socket(family, SocketType::DGRAM, Some(protocol)) {
        Ok(fd) => return Ok(Way::Icmp { fd, to: at, size }),
        Err(e) if denied(e) => {}
        Err(e) => return Err(format!("cannot open a ping socket: {e}")),
    }
    match rustix::net::socket(family, SocketType::RAW, Some(protocol)) {
        Ok(fd) => return Ok(Way::Raw { fd, to: at, size, id: std::process::id() as u16 }),
        Err(e) if denied(e) => {}
        Err(e) => return Err(format!("cannot open a raw socket: {e}")),
    }
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).map_err(|e| format!("cannot open a UDP socket: {e}"))?;
    // Port 9 (discard) is closed practically everywhere.
    socket.connect((to, 9)).map_err(|e| format!("{to}: {e}"))?;
    Ok(Way::Udp { socket })
}

/// Sends one request and waits for its answer; late answers to earlier ones are skipped.
fn echo(way: &Way, seq: u16, sent: Instant, wait: Duration) -> io::Result<Option<Duration>> {
    let took = |found: bool| found.then(|| sent.elapsed());
    match way {
        Way::Icmp { fd, to, size } => {
            let v6 = to.is_ipv6();
            exchange(fd, to, &request(v6, 0, seq, *size), sent + wait, |m| is_reply(m, v6, seq)).map(took)
        }
        Way::Raw { fd, to, size, id } => {
            let v6 = to.is_ipv6();
            let ours = |m: &[u8]| {
                // On a raw IPv4 socket the IP header comes along.
                let header = if v6 { 0 } else { m.first().map_or(0, |b| usize::from(b & 15) * 4) };
                let m = m.get(header..).unwrap_or_default();
                is_reply(m, v6, seq) && m[4..6] == id.to_be_bytes()
            };
            exchange(fd, to, &request(v6, *id, seq, *size), sent + wait, ours).map(took)
        }
        Way::Udp { socket } => {
            socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
            socket.send(&seq.to_be_bytes())?;
            match socket.recv(&mut [0; 16]) {
                // Port unreachable, or even an answer: the host is there.
                Ok(_) => Ok(Some(sent.elapsed())),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(Some(sent.elapsed())),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
                Err(e) => Err(e),
            }
        }
    }
}

/// Sends and waits until the deadline for a message that `ours` takes.
fn exchange(
    fd: &OwnedFd,
    to: &SocketAddr,
    message: &[u8],
    deadline: Instant,
    ours: impl Fn(&[u8]) -> bool,
) -> io::Result<bool> {
    rustix::net::sendto(fd, message, SendFlags::empty(), to)?;
    let mut buffer = [0u8; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        set_socket_timeout(fd, Timeout::Recv, Some(left.max(Duration::from_millis(1))))?;
        match rustix::net::recv(fd, &mut buffer, RecvFlags::empty()) {
            Ok((n, _)) if ours(&buffer[..n]) => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// An echo request; on a ping socket the kernel writes identifier and checksum, for ICMPv6 always the checksum.
fn request(v6: bool, id: u16, seq: u16, size: usize) -> Vec<u8> {
    let mut m = vec![0u8; 8 + size];
    m[0] = ECHO[usize::from(v6)].0;
    m[4..6].copy_from_slice(&id.to_be_bytes());
    m[6..8].copy_from_slice(&seq.to_be_bytes());
    for (i, b) in m[8..].iter_mut().enumerate() {
        *b = i as u8;
    }
    if !v6 {
        let check = internet_checksum(&m);
        m[2..4].copy_from_slice(&check.to_be_bytes());
    }
    m
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let word = |c: &[u8]| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn is_reply(m: &[u8], v6: bool, seq: u16) -> bool {
    m.len() >= 8 && m[0] == ECHO[usize::from(v6)].1 && m[6..8] == seq.to_be_bytes()
}

fn summary(args: &PingArgs, way: &Way, times: &[f64]) -> Result<(), String> {
    let (sent, got) = (usize::from(args.count), times.len());
    let loss = 100.0 * (sent - got) as f64 / sent.max(1) as f64;
    let min = times.iter().copied().fold(f64::INFINITY, f64::min);
    let max = times.iter().copied().fold(0.0, f64::max);
    let avg = times.iter().sum::<f64>() / got.max(1) as f64;
    let method = match way {
        Way::Icmp { .. } | Way::Raw { .. } => "icmp",
        Way::Udp { .. } => "udp",
    };
    if args.json {
        let rtt = (got > 0).then(|| serde_json::json!({"min_ms": min, "avg_ms": avg, "max_ms": max}));
        return say(&serde_json::json!({"host": args.host, "method": method, "sent": sent, "received": got, "loss_percent": loss, "rtt": rtt}).to_string());
    }
    say(&format!("{sent} sent, {got} received, {loss:.0}% lost ({method})"))?;
    if got > 0 {
        say(&format!("round trip min/avg/max = {min:.3}/{avg:.3}/{max:.3} ms"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies() {
        let m = request(false, 7, 258, 56);
        assert_eq!((m.len(), m[0], &m[6..8]), (64, 8, &[1, 2][..]));
        let mut reply = m.clone();
        reply[0] = 0;
        assert_eq!(internet_checksum(&m), 0, "a message with its checksum sums up to nothing");
        assert!(is_reply(&reply, false, 258));
        assert!(!is_reply(&reply, false, 257));
        assert!(!is_reply(&reply, true, 258));
        assert!(!is_reply(&reply[..7], false, 258));
    }

    #[test]
    fn addresses_need_no_resolver() {
        assert_eq!(resolve("::1"), Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert!(resolve("no such name").is_err());
    }
}
