//! Reading a script.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::calls::{self, Call};
use super::flow::Flows;
use super::packet::Pkt;

/// What stands before the first step.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The conversations.
    pub flows: Flows,
    /// Below `/proc/sys`: path, value.
    pub sysctls: Vec<(String, String)>,
    /// MTU of the device.
    pub mtu: u32,
    /// Further addresses.
    pub addrs: Vec<(IpAddr, u8)>,
    /// Routes: destination, length, gateway.
    pub routes: Vec<(IpAddr, u8, IpAddr)>,
    /// The remote's link address is known.
    pub neigh: bool,
    /// Protocols that belong to the script beside IP: `arp`, `nd`, `mld`, `igmp`.
    pub show: Vec<String>,
    /// Added to what a packet may be from its time: where the kernel chooses at random.
    pub tolerance: Duration,
    /// What ferronet is known to do otherwise than Linux here. The twin insists that it still does.
    pub known: Option<String>,
    /// The advertised windows are not compared: they grow with the size of the driver's buffers.
    pub windows: bool,
    /// Counters that the twin does not compare, with the reason in the script's comments.
    pub uncounted: Vec<String>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum What {
    /// The remote sends.
    In(Pkt),
    /// This must come out.
    Out(Pkt),
    /// The program calls.
    Call(Call),
    /// Path below `/proc/sys`, value.
    Sysctl(String, String),
    /// How far counters moved since the start.
    Counters(Vec<(String, i64)>),
    /// A file below `/proc` has a line with this text.
    Text(String, String),
    /// Time passes.
    Nothing,
}

/// A line of a script.
#[derive(Clone, Debug)]
pub struct Step {
    /// 1-based.
    pub line: usize,
    /// Since the start.
    pub at: Duration,
    /// As it stands there, without the time.
    pub text: String,
    /// What it says.
    pub what: What,
}

/// A script.
#[derive(Clone, Debug)]
pub struct Script {
    /// Name of its file.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// The directives.
    pub setup: Setup,
    /// The steps in order of time.
    pub steps: Vec<Step>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// `NAME:LINE: what is wrong`.
    pub fn parse(name: &str, text: &str) -> Result<Script, String> {
        let mut s = Script {
            name: name.to_owned(),
            text: text.to_owned(),
            setup: Setup::default(),
            steps: Vec::new(),
        };
        let mut now = Duration::ZERO;
        for (i, l) in text.lines().enumerate() {
            let line = l.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let at = |e: String| format!("{name}:{}: {e}\n    {l}", i + 1);
            if s.setup.directive(line).map_err(at)? {
                continue;
            }
            let (t, rest) = time(line, now).map_err(at)?;
            now = t;
            let what = step(rest).map_err(at)?;
            s.steps.push(Step { line: i + 1, at: t, text: rest.to_owned(), what });
        }
        Ok(s)
    }
}

/// The time of a step and what is behind it.
fn time(line: &str, now: Duration) -> Result<(Duration, &str), String> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (digits, base) = match word.strip_prefix('+') {
        Some(d) => (d, now),
        None => (word, Duration::ZERO),
    };
    let Ok(secs) = digits.parse::<f64>() else { return Ok((now, line)) };
    let t = base + Duration::try_from_secs_f64(secs).map_err(|e| e.to_string())?;
    if t < now {
        return Err("time goes back".to_owned());
    }
    Ok((t, rest.trim()))
}

fn step(text: &str) -> Result<What, String> {
    if text.is_empty() {
        return Ok(What::Nothing);
    }
    if let Some(p) = text.strip_prefix('<') {
        return Pkt::parse(p).map(What::In);
    }
    if let Some(p) = text.strip_prefix('>') {
        return Pkt::parse(p).map(What::Out);
    }
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match first {
        "sysctl" => sysctl(rest).map(|(p, v)| What::Sysctl(p, v)),
        "counters" => {
            let w: Vec<&str> = rest.split_whitespace().collect();
            let pair = |c: &[&str]| -> Result<(String, i64), String> {
                let v = c.get(1).and_then(|v| v.parse().ok()).ok_or("counters are NAME VALUE")?;
                Ok((c[0].to_owned(), v))
            };
            w.chunks(2).map(pair).collect::<Result<_, _>>().map(What::Counters)
        }
        "text" => {
            let (path, line) = rest.split_once(char::is_whitespace).ok_or("text is PATH LINE")?;
            Ok(What::Text(path.to_owned(), line.trim().to_owned()))
        }
        _ => match first.strip_suffix(':') {
            Some(name) => calls::parse(name, rest).map(What::Call),
            None => Err(format!("`{first}` is no step")),
        },
    }
}

/// `net.ipv4.conf.all.rp_filter 1`: the path below `/proc`, and the value.
fn sysctl(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(char::is_whitespace).ok_or("sysctl is NAME VALUE")?;
    Ok((format!("sys/{}", name.replace('.', "/")), value.trim().to_owned()))
}

fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (a, l) = text.split_once('/').ok_or_else(|| format!("`{text}` is no ADDRESS/LENGTH"))?;
    match (a.parse(), l.parse()) {
        (Ok(a), Ok(l)) => Ok((a, l)),
        _ => Err(format!("`{text}` is no ADDRESS/LENGTH")),
    }
}

impl Default for Setup {
    fn default() -> Self {
        let mut flows = Flows::default();
        flows.add("", ([10, 0, 0, 2], 40000).into(), ([10, 0, 0, 1], 8080).into());
        Setup {
            flows,
            sysctls: Vec::new(),
            mtu: 1500,
            addrs: Vec::new(),
            routes: Vec::new(),
            neigh: true,
            show: Vec::new(),
            tolerance: Duration::ZERO,
            known: None,
            windows: true,
            uncounted: Vec::new(),
        }
    }
}

impl Setup {
    /// Takes a directive; `false` when the line is none.
    fn directive(&mut self, line: &str) -> Result<bool, String> {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let w: Vec<&str> = rest.split_whitespace().collect();
        match (first, w.as_slice()) {
            ("flow", [.., remote, local]) => {
                let name = if w.len() == 3 { w[0] } else { "" };
                let end = |t: &str| -> Result<SocketAddr, String> {
                    let t = t.strip_suffix(":*").map_or_else(|| t.to_owned(), |a| format!("{a}:0"));
                    t.parse().map_err(|_| format!("`{t}` is no ADDRESS:PORT"))
                };
                self.flows.add(name, end(remote)?, end(local)?);
            }
            ("sysctl", _) => self.sysctls.push(sysctl(rest.trim())?),
            ("mtu", [n]) => self.mtu = n.parse().map_err(|_| "mtu is a number")?,
            ("addr", [a]) => self.addrs.push(prefix(a)?),
            ("route", [dst, "via", gw]) => {
                let (a, l) = prefix(dst)?;
                self.routes.push((a, l, gw.parse().map_err(|_| format!("`{gw}` is no address"))?));
            }
            ("neigh", ["off"]) => self.neigh = false,
            ("show", [list]) => self.show = list.split(',').map(str::to_owned).collect(),
            ("tolerance", [t]) => {
                let t: f64 = t.parse().map_err(|_| "tolerance is a time in seconds")?;
                self.tolerance = Duration::try_from_secs_f64(t).map_err(|e| e.to_string())?;
            }
            ("windows", ["free"]) => self.windows = false,
            ("known", [_, ..]) => self.known = Some(rest.trim().to_owned()),
            ("uncounted", names) => self.uncounted.extend(names.iter().map(|n| (*n).to_owned())),
            ("flow" | "mtu" | "addr" | "route" | "neigh" | "show" | "tolerance" | "known" | "windows", _) => {
                return Err(format!("`{first}`: see the module's page for its form"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Tunables of every player: a new device is quiet (no router solicitations, no duplicate address detection).
pub const QUIET: &[(&str, &str)] = &[
    ("sys/net/ipv6/conf/tap0/router_solicitations", "0"),
    ("sys/net/ipv6/conf/tap0/accept_dad", "0"),
    ("sys/net/ipv6/conf/tap0/addr_gen_mode", "1"),
];

/// How long a new device sends reports of its groups.
pub const SETTLE: Duration = Duration::from_millis(50);
