//! System calls in scripts: reading them, and the numbers behind the names.

use core::net::{IpAddr, SocketAddr};

use crate::net::sockaddr;

/// What a program does with a socket. Every socket is non-blocking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Family, type, protocol.
    Socket(i32, i32, i32),
    /// `bind(2)`.
    Bind(SocketAddr),
    /// `listen(2)`.
    Listen(i32),
    /// `connect(2)`.
    Connect(SocketAddr),
    /// `accept(2)` from the listener of that name.
    Accept(String),
    /// Bytes of the pattern, `MSG_*`, destination.
    Send(usize, i32, Option<SocketAddr>),
    /// Room, `MSG_*`.
    Recv(usize, i32),
    /// `shutdown(2)`.
    Shutdown(i32),
    /// `close(2)`.
    Close,
    /// Level, name, value.
    Set(i32, i32, Vec<u8>),
    /// Level and name of an integer.
    Get(i32, i32),
    /// Fields of `TCP_INFO`, with the values expected.
    Info(Vec<(String, Option<String>)>),
    /// `poll(2)`.
    Poll,
}

/// A call of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The socket's name.
    pub sock: String,
    /// What.
    pub op: Op,
    /// What it must answer; without it, it must not fail.
    pub expect: Option<String>,
}

/// `MSG_*` of a word.
const MSG: &[(&str, i32)] = &[("oob", 1), ("peek", 2), ("trunc", 0x20), ("more", 0x8000)];

/// Socket options: name, level, number.
const OPTIONS: &[(&str, i32, i32)] = &[
    ("SO_REUSEADDR", 1, 2),
    ("SO_ERROR", 1, 4),
    ("SO_BROADCAST", 1, 6),
    ("SO_SNDBUF", 1, 7),
    ("SO_RCVBUF", 1, 8),
    ("SO_KEEPALIVE", 1, 9),
    ("SO_OOBINLINE", 1, 10),
    ("SO_LINGER", 1, 13),
    ("SO_REUSEPORT", 1, 15),
    ("SO_RCVLOWAT", 1, 18),
    ("TCP_NODELAY", 6, 1),
    ("TCP_MAXSEG", 6, 2),
    ("TCP_CORK", 6, 3),
    ("TCP_KEEPIDLE", 6, 4),
    ("TCP_KEEPINTVL", 6, 5),
    ("TCP_KEEPCNT", 6, 6),
    ("TCP_SYNCNT", 6, 7),
    ("TCP_LINGER2", 6, 8),
    ("TCP_DEFER_ACCEPT", 6, 9),
    ("TCP_WINDOW_CLAMP", 6, 10),
    ("TCP_QUICKACK", 6, 12),
    ("TCP_USER_TIMEOUT", 6, 18),
    ("TCP_FASTOPEN", 6, 23),
    ("TCP_NOTSENT_LOWAT", 6, 25),
    ("TCP_RTO_MAX_MS", 6, 44),
    ("IP_TOS", 0, 1),
    ("IP_TTL", 0, 2),
    ("IP_HDRINCL", 0, 3),
    ("IP_MTU_DISCOVER", 0, 10),
    ("IP_RECVERR", 0, 11),
    ("IP_MTU", 0, 14),
    ("IP_ADD_MEMBERSHIP", 0, 35),
    ("IP_DROP_MEMBERSHIP", 0, 36),
    ("IPV6_UNICAST_HOPS", 41, 16),
    ("IPV6_JOIN_GROUP", 41, 20),
    ("IPV6_LEAVE_GROUP", 41, 21),
    ("IPV6_MTU", 41, 24),
    ("IPV6_V6ONLY", 41, 26),
];

/// `struct tcp_info` (uapi/linux/tcp.h): name, offset, bytes.
const INFO: &[(&str, usize, usize)] = &[
    ("state", 0, 1),
    ("ca_state", 1, 1),
    ("retransmits", 2, 1),
    ("probes", 3, 1),
    ("backoff", 4, 1),
    ("options", 5, 1),
    ("wscale", 6, 1),
    ("rto", 8, 4),
    ("ato", 12, 4),
    ("snd_mss", 16, 4),
    ("rcv_mss", 20, 4),
    ("unacked", 24, 4),
    ("sacked", 28, 4),
    ("lost", 32, 4),
    ("retrans", 36, 4),
    ("pmtu", 60, 4),
    ("rcv_ssthresh", 64, 4),
    ("rtt", 68, 4),
    ("rttvar", 72, 4),
    ("snd_ssthresh", 76, 4),
    ("snd_cwnd", 80, 4),
    ("advmss", 84, 4),
    ("reordering", 88, 4),
    ("rcv_space", 96, 4),
    ("total_retrans", 100, 4),
    ("bytes_acked", 120, 8),
    ("bytes_received", 128, 8),
    ("segs_out", 136, 4),
    ("segs_in", 140, 4),
    ("notsent_bytes", 144, 4),
    ("data_segs_in", 152, 4),
    ("data_segs_out", 156, 4),
    ("delivered", 192, 4),
    ("bytes_sent", 200, 8),
    ("bytes_retrans", 208, 8),
    ("dsack_dups", 216, 4),
    ("reord_seen", 220, 4),
    ("rcv_ooopack", 224, 4),
    ("snd_wnd", 228, 4),
    ("rcv_wnd", 232, 4),
];

/// A field of `TCP_INFO`; `?` when the structure is too short.
pub(super) fn info_field(b: &[u8], name: &str) -> String {
    let of = |&(_, at, len): &(&str, usize, usize)| {
        let mut x = [0; 8];
        x[..len].copy_from_slice(b.get(at..at + len)?);
        Some(u64::from_le_bytes(x).to_string())
    };
    INFO.iter().find(|f| f.0 == name).and_then(of).unwrap_or_else(|| "?".to_owned())
}

fn addr(w: Option<&&str>) -> Result<SocketAddr, String> {
    let w = w.ok_or("an address is missing")?;
    w.parse()
        .or_else(|_| w.parse::<IpAddr>().map(|a| SocketAddr::new(a, 0)))
        .map_err(|_| format!("`{w}` is no address"))
}

fn int(w: Option<&&str>) -> Result<i32, String> {
    let w = w.ok_or("a number is missing")?;
    w.parse().map_err(|_| format!("`{w}` is no number"))
}

fn msg_flags(words: &[&str]) -> Result<i32, String> {
    words.iter().try_fold(0, |f, w| {
        MSG.iter().find(|(n, _)| n == w).map(|(_, v)| f | v).ok_or_else(|| format!("`{w}` is no MSG_ flag"))
    })
}

fn option(w: Option<&&str>) -> Result<(i32, i32), String> {
    let w = w.ok_or("an option is missing")?;
    OPTIONS.iter().find(|o| o.0 == *w).map(|o| (o.1, o.2)).ok_or_else(|| format!("`{w}` is no known option"))
}

/// The bytes of an option: integers one after the other, addresses as they are.
fn value(words: &[&str]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for w in words {
        match w.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) => out.extend(a.octets()),
            Ok(IpAddr::V6(a)) => out.extend(a.octets()),
            Err(_) => out.extend(int(Some(w))?.to_ne_bytes()),
        }
    }
    Ok(out)
}

fn socket(w: &[&str]) -> Result<Op, String> {
    let (family, ty) = match *w.first().ok_or("a kind of socket is missing")? {
        "tcp" => (2, 1),
        "tcp6" => (10, 1),
        "udp" => (2, 2),
        "udp6" => (10, 2),
        "raw" => (2, 3),
        "raw6" => (10, 3),
        k => return Err(format!("`{k}` is no kind of socket")),
    };
    Ok(Op::Socket(family, ty, w.get(1).map_or(Ok(0), |_| int(w.get(1)))?))
}

/// Reads `CALL ARGUMENTS [= RESULT]`.
pub(super) fn parse(sock: &str, text: &str) -> Result<Call, String> {
    let (call, expect) = match text.split_once('=') {
        Some((c, e)) => (c, Some(e.trim().to_owned())),
        None => (text, None),
    };
    let w: Vec<&str> = call.split_whitespace().collect();
    let (name, a) = w.split_first().ok_or("a call is missing")?;
    let op = match *name {
        "socket" => socket(a)?,
        "bind" => Op::Bind(addr(a.first())?),
        "listen" => Op::Listen(int(a.first())?),
        "connect" => Op::Connect(addr(a.first())?),
        "accept" => Op::Accept((*a.first().ok_or("accept needs a listener")?).to_owned()),
        "send" => Op::Send(int(a.first())? as usize, msg_flags(&a[1..])?, None),
        "sendto" => Op::Send(int(a.get(1))? as usize, msg_flags(&a[2..])?, Some(addr(a.first())?)),
        "recv" => Op::Recv(int(a.first())? as usize, msg_flags(&a[1..])?),
        "shutdown" => Op::Shutdown(match a.first() {
            Some(&"rd") => 0,
            Some(&"wr") => 1,
            Some(&"rdwr") => 2,
            _ => return Err("shutdown takes rd, wr or rdwr".to_owned()),
        }),
        "close" => Op::Close,
        "set" => {
            let (l, n) = option(a.first())?;
            Op::Set(l, n, value(&a[1..])?)
        }
        "get" => {
            let (l, n) = option(a.first())?;
            Op::Get(l, n)
        }
        "info" => Op::Info(info(a)?),
        "poll" => Op::Poll,
        n => return Err(format!("`{n}` is no call")),
    };
    Ok(Call { sock: sock.to_owned(), op, expect })
}

fn info(words: &[&str]) -> Result<Vec<(String, Option<String>)>, String> {
    let mut out: Vec<(String, Option<String>)> = Vec::new();
    for w in words {
        if INFO.iter().any(|f| f.0 == *w) {
            out.push(((*w).to_owned(), None));
        } else {
            let last = out.last_mut().ok_or_else(|| format!("`{w}` is no field of tcp_info"))?;
            if last.1.is_some() || !(*w == "*" || w.bytes().all(|b| b.is_ascii_digit())) {
                return Err(format!("`{w}` is no field of tcp_info"));
            }
            last.1 = Some((*w).to_owned());
        }
    }
    Ok(out)
}

/// `struct sockaddr` of an address.
pub(super) fn name(a: SocketAddr) -> Vec<u8> {
    sockaddr(a)
}

/// The address of a `struct sockaddr`, as text.
pub(super) fn show_name(b: &[u8]) -> String {
    let port = super::decode::be16(b, 2);
    match b.len() {
        16 => SocketAddr::from((core::net::Ipv4Addr::from(super::decode::be32(b, 4)), port)).to_string(),
        28 => {
            let o: [u8; 16] = b[8..24].try_into().unwrap_or_default();
            SocketAddr::from((core::net::Ipv6Addr::from(o), port)).to_string()
        }
        _ => String::new(),
    }
}
