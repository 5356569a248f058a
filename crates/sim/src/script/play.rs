//! Playing a script: its inputs at their times, and everything that happens, in order.

use core::time::Duration;
use std::collections::BTreeMap;

use super::build::build;
use super::calls::{Call, Op, info_field, name, show_name};
use super::decode::decode;
use super::flow::Flows;
use super::packet::Pkt;
use super::parse::{Script, Setup, Step, What};
use super::pattern;

/// A call as the kernel's ABI has it. Descriptors are what [`Answer::value`] said; sockets do not block.
#[derive(Debug)]
pub enum SysCall<'a> {
    /// Family, type, protocol.
    Socket(i32, i32, i32),
    /// Descriptor, `struct sockaddr`.
    Bind(i64, &'a [u8]),
    /// Descriptor, backlog.
    Listen(i64, i32),
    /// Descriptor, `struct sockaddr`.
    Connect(i64, &'a [u8]),
    /// Descriptor.
    Accept(i64),
    /// Descriptor, data, `MSG_*`, `struct sockaddr` or nothing.
    Send(i64, &'a [u8], i32, &'a [u8]),
    /// Descriptor, room, `MSG_*`.
    Recv(i64, usize, i32),
    /// Descriptor, how.
    Shutdown(i64, i32),
    /// Descriptor.
    Close(i64),
    /// Descriptor, level, name, value.
    SetOpt(i64, i32, i32, &'a [u8]),
    /// Descriptor, level, name, room.
    GetOpt(i64, i32, i32, usize),
    /// Descriptor; the value is the `POLL*` bits.
    Poll(i64),
}

/// What a call returned.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The return value.
    pub value: i64,
    /// Received data, or an option's value.
    pub data: Vec<u8>,
    /// Source address.
    pub name: Vec<u8>,
}

/// A network stack with one Ethernet device `tap0`, whose other end is the script.
pub trait Player {
    /// Makes the device, addresses, routes and tunables.
    ///
    /// # Errors
    /// What could not be made.
    fn setup(&mut self, s: &Setup) -> Result<(), String>;
    /// Time since the start of the script.
    fn now(&self) -> Duration;
    /// Lets time pass until `until`, or until `enough` frames are in `out` (then the moment it was so).
    fn wait(&mut self, until: Duration, enough: usize, out: &mut Vec<(Duration, Vec<u8>)>);
    /// A frame from the remote, handled before this returns.
    fn inject(&mut self, frame: &[u8]);
    /// A system call. `Err` is the errno.
    ///
    /// # Errors
    /// The errno.
    fn call(&mut self, c: &SysCall<'_>) -> Result<Answer, i32>;
    /// The text of a file below `/proc`.
    fn read(&mut self, path: &str) -> String;
    /// Writes a file below `/proc/sys`.
    ///
    /// # Errors
    /// The errno.
    fn write(&mut self, path: &str, text: &str) -> Result<(), i32>;
}

/// What an item of a trace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A packet from the remote.
    In,
    /// A packet that came out.
    Out,
    /// A call with its result, a counter, a text.
    Result,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Item {
    /// Since the start.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// Index of the step, for inputs.
    pub step: Option<usize>,
    /// In the script's words, without time.
    pub text: String,
    /// The packet that came out.
    pub pkt: Option<Pkt>,
}

/// All that happened.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// In order.
    pub items: Vec<Item>,
    /// How far the counters of `/proc/net/{snmp,netstat,snmp6}` moved, by nstat's names.
    pub counters: BTreeMap<String, i64>,
}

/// How long an input waits for a packet that is to come before it, beyond its time.
const GRACE: Duration = Duration::from_millis(60);

struct Sock {
    fd: i64,
    stream: bool,
    sent: u64,
    received: u64,
}

struct Game<'a> {
    player: &'a mut dyn Player,
    script: &'a Script,
    flows: Flows,
    socks: BTreeMap<String, Sock>,
    base: BTreeMap<String, i64>,
    trace: Trace,
    /// Packets that came out since the last input.
    fresh: usize,
}

/// Plays the inputs of a script.
///
/// # Errors
/// When the player cannot be set up, or an input cannot be made.
pub fn play(script: &Script, player: &mut dyn Player) -> Result<Trace, String> {
    player.setup(&script.setup)?;
    let mut g = Game {
        player,
        script,
        flows: script.setup.flows.clone(),
        socks: BTreeMap::new(),
        base: BTreeMap::new(),
        trace: Trace::default(),
        fresh: 0,
    };
    g.base = g.counters();
    let mut due = 0;
    for (i, s) in script.steps.iter().enumerate() {
        if let What::Out(_) = s.what {
            due += 1;
            continue;
        }
        g.wait(s.at, due);
        due = 0;
        g.fresh = 0;
        let text = g.step(s).map_err(|e| format!("{}:{}: {e}\n    {}", script.name, s.line, s.text))?;
        let kind = if let What::In(_) = s.what { Kind::In } else { Kind::Result };
        if let Some(text) = text {
            g.trace.items.push(Item { at: g.player.now(), kind, step: Some(i), text, pkt: None });
        }
    }
    let end = script.steps.last().map_or(Duration::ZERO, |s| s.at);
    g.wait(end, due);
    let now = g.counters();
    for (k, v) in now {
        let moved = v - g.base.get(&k).copied().unwrap_or(0);
        if moved != 0 {
            g.trace.counters.insert(k, moved);
        }
    }
    Ok(g.trace)
}

impl Game<'_> {
    /// Waits for a time, and a little longer for packets that should be there.
    fn wait(&mut self, until: Duration, due: usize) {
        let mut frames = Vec::new();
        self.player.wait(until, usize::MAX, &mut frames);
        self.take(&mut frames);
        let limit = until + GRACE + until / 8;
        while self.fresh < due && self.player.now() < limit {
            self.player.wait(limit, 1, &mut frames);
            self.take(&mut frames);
        }
    }

    fn take(&mut self, frames: &mut Vec<(Duration, Vec<u8>)>) {
        for (at, f) in frames.drain(..) {
            let last = self.flows.last_out.clone();
            let (tag, pkt) = decode(&f, &mut self.flows);
            if tag != "ip" && !self.script.setup.show.iter().any(|s| s == tag) {
                self.flows.last_out = last;
                continue;
            }
            self.fresh += 1;
            let text = format!("> {pkt}");
            self.trace.items.push(Item { at, kind: Kind::Out, step: None, text, pkt: Some(pkt) });
        }
    }

    /// Does an input; its text for the trace.
    fn step(&mut self, s: &Step) -> Result<Option<String>, String> {
        Ok(Some(match &s.what {
            What::Out(_) | What::Nothing => return Ok(None),
            What::In(p) => {
                let frame = build(p, &mut self.flows)?;
                self.player.inject(&frame);
                format!("< {p}")
            }
            What::Call(c) => {
                let left = s.text.split('=').next().unwrap_or_default().trim_end();
                match &c.op {
                    Op::Info(fields) => format!("{}: info{}", c.sock, self.info(&c.sock, fields)?),
                    _ => format!("{left} = {}", self.call(c)?),
                }
            }
            What::Sysctl(path, v) => {
                self.player.write(path, v).map_err(|e| format!("errno {e}"))?;
                format!("sysctl {} {v}", path.trim_start_matches("sys/").replace('/', "."))
            }
            What::Counters(list) => {
                let now = self.counters();
                let moved = |k: &String| {
                    let at = |m: &BTreeMap<String, i64>| m.get(k).copied().unwrap_or(0);
                    at(&now) - at(&self.base)
                };
                let parts: Vec<String> = list.iter().map(|(k, _)| format!("{k} {}", moved(k))).collect();
                format!("counters {}", parts.join(" "))
            }
            What::Text(path, want) => {
                let text = self.player.read(path);
                if text.lines().any(|l| l.contains(want.as_str())) {
                    format!("text {path} {want}")
                } else {
                    format!("text {path} is:\n{text}")
                }
            }
        }))
    }

    fn fd(&self, name: &str) -> Result<i64, String> {
        self.socks.get(name).map(|s| s.fd).ok_or_else(|| format!("no socket `{name}`"))
    }

    fn info(&mut self, sock: &str, fields: &[(String, Option<String>)]) -> Result<String, String> {
        let fd = self.fd(sock)?;
        Ok(match self.player.call(&SysCall::GetOpt(fd, 6, 11, 280)) {
            Ok(a) => fields.iter().map(|(f, _)| format!(" {f} {}", info_field(&a.data, f))).collect(),
            Err(e) => format!(" = {}", errno(e)),
        })
    }

    /// Makes a call; its result.
    fn call(&mut self, c: &Call) -> Result<String, String> {
        match &c.op {
            Op::Socket(f, t, p) => {
                let r = self.player.call(&SysCall::Socket(*f, *t, *p));
                return Ok(self.open(&c.sock, r, *t == 1));
            }
            Op::Accept(l) => {
                let fd = self.fd(l)?;
                let r = self.player.call(&SysCall::Accept(fd));
                return Ok(self.open(&c.sock, r, true));
            }
            _ => {}
        }
        let fd = self.fd(&c.sock)?;
        let s = self.socks.get_mut(&c.sock).ok_or("no such socket")?;
        let p = &mut *self.player;
        let call = match &c.op {
            Op::Socket(..) | Op::Accept(_) | Op::Info(_) => return Err("made elsewhere".to_owned()),
            Op::Bind(a) => return Ok(result(&p.call(&SysCall::Bind(fd, &name(*a))))),
            Op::Connect(a) => return Ok(result(&p.call(&SysCall::Connect(fd, &name(*a))))),
            Op::Send(len, flags, to) => {
                let from = if s.stream { s.sent } else { 0 };
                let data: Vec<u8> = (from..from + *len as u64).map(pattern).collect();
                let to = to.map(name).unwrap_or_default();
                let r = p.call(&SysCall::Send(fd, &data, *flags, &to));
                s.sent += r.as_ref().map_or(0, |a| a.value.max(0) as u64);
                return Ok(result(&r));
            }
            Op::Recv(len, flags) => {
                let r = p.call(&SysCall::Recv(fd, *len, *flags));
                return Ok(received(s, *flags, &r));
            }
            Op::Get(l, n) => {
                let r = p.call(&SysCall::GetOpt(fd, *l, *n, 4)).map(|a| {
                    let v = a.data.first_chunk().map_or(-1, |b| i32::from_ne_bytes(*b));
                    Answer { value: v.into(), ..Answer::default() }
                });
                return Ok(result(&r));
            }
            Op::Poll => {
                let r = p.call(&SysCall::Poll(fd));
                return Ok(r.map_or_else(|e| errno(e).to_owned(), |a| poll_bits(a.value)));
            }
            Op::Listen(n) => SysCall::Listen(fd, *n),
            Op::Shutdown(how) => SysCall::Shutdown(fd, *how),
            Op::Close => SysCall::Close(fd),
            Op::Set(l, n, v) => SysCall::SetOpt(fd, *l, *n, v),
        };
        Ok(result(&p.call(&call)))
    }

    /// A new socket under a name.
    fn open(&mut self, name: &str, r: Result<Answer, i32>, stream: bool) -> String {
        match r {
            Ok(a) => {
                self.socks.insert(name.to_owned(), Sock { fd: a.value, stream, sent: 0, received: 0 });
                "0".to_owned()
            }
            Err(e) => errno(e).to_owned(),
        }
    }
    /// All counters by nstat's names.
    fn counters(&mut self) -> BTreeMap<String, i64> {
        let mut out = BTreeMap::new();
        for f in ["net/snmp", "net/netstat"] {
            let text = self.player.read(f);
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks_exact(2) {
                let (Some((group, names)), Some((_, values))) =
                    (pair[0].split_once(':'), pair[1].split_once(':'))
                else {
                    continue;
                };
                for (n, v) in names.split_whitespace().zip(values.split_whitespace()) {
                    out.insert(format!("{group}{n}"), v.parse().unwrap_or(0));
                }
            }
        }
        for l in self.player.read("net/snmp6").lines() {
            let mut w = l.split_whitespace();
            if let (Some(n), Some(v)) = (w.next(), w.next()) {
                out.insert(n.to_owned(), v.parse().unwrap_or(0));
            }
        }
        out
    }
}

/// The value or the name of the error.
fn result(r: &Result<Answer, i32>) -> String {
    match r {
        Ok(a) => a.value.to_string(),
        Err(e) => errno(*e).to_owned(),
    }
}

fn errno(e: i32) -> &'static str {
    ferronet_core::Errno(e as u16).name()
}

/// How much came, from whom, and whether it is what was sent.
fn received(s: &mut Sock, flags: i32, r: &Result<Answer, i32>) -> String {
    let Ok(a) = r else { return result(r) };
    let from = if s.stream { s.received } else { 0 };
    let mut out = a.value.to_string();
    if !s.stream {
        out += &format!(" from {}", show_name(&a.name));
    }
    let oob = flags & 1 != 0;
    if oob || a.data.iter().zip(from..).any(|(b, i)| *b != pattern(i)) {
        out += &format!(" data {}", super::opts::hex(a.data.get(..a.data.len().min(16)).unwrap_or_default()));
    }
    // Neither looking nor urgent data moves the stream.
    if flags & 3 == 0 {
        s.received += a.value.max(0) as u64;
    }
    out
}

fn poll_bits(v: i64) -> String {
    let names = [(1, "IN"), (2, "PRI"), (4, "OUT"), (8, "ERR"), (0x10, "HUP"), (0x2000, "RDHUP")];
    let set: Vec<&str> = names.iter().filter(|(b, _)| v & b != 0).map(|(_, n)| *n).collect();
    if set.is_empty() { "0".to_owned() } else { set.join("|") }
}
