//! A trace against its script, two traces against each other, and a script written from a trace.

use core::fmt::Write as _;
use core::time::Duration;

use super::calls::Op;
use super::packet::Pkt;
use super::parse::{Script, Step, What};
use super::play::{Item, Kind, Trace};

/// How far a packet may be from its time: a base, and an eighth of the time since the step before.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance(pub Duration);

impl Tolerance {
    /// With what the script allows beyond.
    fn of(self, script: &Script) -> Tolerance {
        Tolerance(self.0 + script.setup.tolerance)
    }
    fn allows(self, want: Duration, have: Duration, before: Duration) -> bool {
        want.abs_diff(have) <= self.0 + want.saturating_sub(before) / 8
    }
}

fn secs(t: Duration) -> String {
    format!("{:8.3}", t.as_secs_f64())
}

/// Holds a trace against what the script expects.
///
/// # Errors
/// The first difference: the script's line, the expected and the actual packet, what differs, and the trace.
pub fn check(script: &Script, trace: &Trace, tol: Tolerance) -> Result<(), String> {
    let tol = tol.of(script);
    let mut items = trace.items.iter().peekable();
    let mut before = Duration::ZERO;
    for (i, s) in script.steps.iter().enumerate() {
        let fail = |what: String| Err(report(script, s, &what, trace));
        if let What::Out(want) = &s.what {
            match items.next_if(|it| it.kind == Kind::Out) {
                None => {
                    let next = items.peek().map_or("the end", |it| it.text.as_str());
                    return fail(format!("expected {}\n    actual nothing until {next}", s.text));
                }
                Some(it) => packet(want, s, it, (before, tol)).or_else(fail)?,
            }
        } else if !matches!(s.what, What::Nothing) {
            if let Some(it) = items.next_if(|it| it.kind == Kind::Out) {
                return fail(format!("before this, unexpected at {}: {}", secs(it.at), it.text));
            }
            match items.next() {
                Some(it) if it.step == Some(i) => result(s, it).or_else(fail)?,
                other => return fail(format!("not played: {other:?}")),
            }
        }
        before = s.at;
    }
    match items.next() {
        Some(it) => {
            let last = script.steps.last().map_or(0, |s| s.line);
            Err(format!(
                "{}:{last}: behind the last step, unexpected at {}: {}\n{}",
                script.name,
                secs(it.at),
                it.text,
                show(trace)
            ))
        }
        None => Ok(()),
    }
}

fn packet(want: &Pkt, s: &Step, it: &Item, (before, tol): (Duration, Tolerance)) -> Result<(), String> {
    let Some(have) = &it.pkt else { return Ok(()) };
    let diff = want.differences(have);
    let mut out = String::new();
    for (name, w, h) in &diff {
        let _ = write!(out, "\n    {name}: expected {w}, actual {h}");
    }
    if !tol.allows(s.at, it.at, before) {
        let _ = write!(out, "\n    time: expected {}, actual {}", secs(s.at), secs(it.at));
    }
    if out.is_empty() {
        return Ok(());
    }
    Err(format!("expected {}\n    actual   {}{out}", s.text, it.text))
}

fn result(s: &Step, it: &Item) -> Result<(), String> {
    let differ = |want: &str| Err(format!("expected {want}\n    actual   {}", it.text));
    match &s.what {
        What::Call(c) => {
            let have = it.text.rsplit_once(" = ").map_or(it.text.as_str(), |x| x.1);
            match (&c.op, &c.expect) {
                (Op::Info(fields), _) => {
                    let mut w = it.text.split_whitespace().skip(2);
                    for (f, want) in fields {
                        let (_, have) = (w.next(), w.next().unwrap_or("?"));
                        if want.as_ref().is_some_and(|x| x != "*" && x != have) {
                            return differ(&format!("{f} {}", want.clone().unwrap_or_default()));
                        }
                    }
                    Ok(())
                }
                (_, Some(want)) if want == have => Ok(()),
                (_, Some(want)) => differ(&format!("= {want}")),
                (_, None) if have.starts_with('E') => differ("no error"),
                (_, None) => Ok(()),
            }
        }
        What::Counters(list) => {
            let want: Vec<String> = list.iter().map(|(k, v)| format!("{k} {v}")).collect();
            let want = format!("counters {}", want.join(" "));
            if want == it.text { Ok(()) } else { differ(&want) }
        }
        What::Text(path, line) => {
            let want = format!("text {path} {line}");
            if want == it.text { Ok(()) } else { differ(&want) }
        }
        What::In(_) | What::Out(_) | What::Sysctl(..) | What::Nothing => Ok(()),
    }
}

fn report(script: &Script, s: &Step, what: &str, trace: &Trace) -> String {
    format!("{}:{}: at {} s\n    {what}\n{}", script.name, s.line, secs(s.at).trim(), show(trace))
}

fn show(trace: &Trace) -> String {
    let mut out = String::from("  what happened:\n");
    for it in &trace.items {
        let _ = writeln!(out, "  {} {}", secs(it.at), it.text);
    }
    out
}

/// Widest left column.
const COLUMN: usize = 96;

/// Two traces of the same script side by side when they differ: packets, results, times and counters. `=` marks equal
/// rows, `!` different ones, `t` those at another time.
///
/// # Errors
/// The two columns.
pub fn compare(
    script: &Script,
    ours: (&str, &Trace),
    theirs: (&str, &Trace),
    tol: Tolerance,
) -> Result<(), String> {
    let tol = tol.of(script);
    let (a, b) = (&ours.1.items, &theirs.1.items);
    let mut rows: Vec<(String, char, String)> = Vec::new();
    let (mut before, mut differ) = (Duration::ZERO, false);
    let line = |it: &Item| format!("{} {}", secs(it.at), it.text);
    let free = !script.setup.windows;
    for (x, y) in align(a, b, free) {
        let mark = match (x, y) {
            (Some(x), Some(y)) if said(x, free) != said(y, free) => '!',
            (Some(x), Some(y)) if x.kind == Kind::Out && !tol.allows(x.at, y.at, before) => 't',
            (Some(_), Some(_)) => '=',
            _ => '!',
        };
        differ |= mark != '=';
        before = x.or(y).map_or(before, |it| it.at);
        rows.push((x.map(line).unwrap_or_default(), mark, y.map(line).unwrap_or_default()));
    }
    let names: std::collections::BTreeSet<&String> =
        ours.1.counters.keys().chain(theirs.1.counters.keys()).collect();
    for n in names {
        let at = |t: &Trace| t.counters.get(n).copied().unwrap_or(0);
        let (x, y) = (at(ours.1), at(theirs.1));
        if x != y && !uncounted(n) && !script.setup.uncounted.contains(n) {
            differ = true;
            rows.push((format!("{n} {x}"), '!', format!("{n} {y}")));
        }
    }
    if !differ {
        return Ok(());
    }
    let width = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0).min(COLUMN);
    let mut out =
        format!("{}: {} and {} differ\n{:width$}   {}\n", script.name, ours.0, theirs.0, ours.0, theirs.0);
    for (l, m, r) in rows {
        if l.chars().count() > width {
            let _ = writeln!(out, "{l}\n{:width$} {m} {r}", "");
        } else {
            let _ = writeln!(out, "{l:width$} {m} {r}");
        }
    }
    Err(out)
}

/// Counters that depend on the machine and not on the protocol.
fn uncounted(name: &str) -> bool {
    // How the work was done: header prediction, merging of buffers in the queues.
    const INSIDE: &[&str] = &[
        "TcpExtTCPHPHits",
        "TcpExtTCPHPAcks",
        "TcpExtTCPPureAcks",
        "TcpExtTCPRcvCoalesce",
        "TcpExtTCPSackMerged",
        "TcpExtTCPSackShifted",
        "TcpExtTCPSackShiftFallback",
        "TcpExtTCPBacklogCoalesce",
    ];
    // Octets include the noise (neighbour discovery, group reports) that packets are compared without.
    const NOISE: &[&str] = &[
        "Ip6InReceives",
        "Ip6OutRequests",
        "Ip6OutTransmits",
        "Ip6InDelivers",
        "Ip6InMcastPkts",
        "Ip6OutMcastPkts",
        "Ip6InOctets",
        "Ip6OutOctets",
        "Ip6InMcastOctets",
        "Ip6OutMcastOctets",
        "Ip6InNoECTPkts",
        "Icmp6InMsgs",
        "Icmp6OutMsgs",
        "Icmp6OutMLDv2Reports",
        "Icmp6OutType143",
    ];
    INSIDE.contains(&name) || NOISE.contains(&name)
}

/// What is compared of an item; `free`: without the window of a segment that is no SYN.
fn said(it: &Item, free: bool) -> String {
    match &it.pkt {
        Some(p) if free && !p.get("flags").is_some_and(|f| f.contains('S')) => {
            let mut p = p.clone();
            p.attrs.retain(|(k, _)| k != "win");
            p.to_string()
        }
        _ => it.text.clone(),
    }
}

/// Pairs the items of two traces so that as many as possible are equal.
fn align<'a>(a: &'a [Item], b: &'a [Item], free: bool) -> Vec<(Option<&'a Item>, Option<&'a Item>)> {
    // Longest common subsequence; scripts have at most some hundred items.
    let mut len = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            len[i][j] = if said(&a[i], free) == said(&b[j], free) {
                len[i + 1][j + 1] + 1
            } else {
                len[i + 1][j].max(len[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) if said(x, free) == said(y, free) || len[i + 1][j + 1] == len[i][j] => {
                // Equal, or different without losing an equal pair further on.
                out.push((Some(x), Some(y)));
                (i, j) = (i + 1, j + 1);
            }
            (Some(x), Some(_)) if len[i + 1][j] >= len[i][j + 1] => {
                out.push((Some(x), None));
                i += 1;
            }
            (Some(x), None) => {
                out.push((Some(x), None));
                i += 1;
            }
            (_, y) => {
                out.push((None, y));
                j += 1;
            }
        }
    }
    out
}

/// The script with what a player answered: inputs, comments and directives stay, expectations are written anew.
#[must_use]
pub fn record(script: &Script, trace: &Trace) -> String {
    let mut out = String::new();
    let mut now = Duration::ZERO;
    let mut items = trace.items.iter().peekable();
    let mut steps = script.steps.iter().enumerate().peekable();
    let stamp = |now: &mut Duration, t: Duration, text: &str| {
        let d = t.saturating_sub(*now);
        // What comes at once has no time of its own.
        let ms = if d < Duration::from_millis(6) { 0 } else { (d.as_micros() + 500) as u64 / 1000 };
        *now += Duration::from_millis(ms);
        let d = if ms == 0 { "+0".to_owned() } else { format!("+{}", ms as f64 / 1000.0) };
        format!("{d:<6} {text}\n")
    };
    for (n, l) in script.text.lines().enumerate() {
        let Some((i, s)) = steps.next_if(|(_, s)| s.line == n + 1) else {
            out += l;
            out.push('\n');
            continue;
        };
        if let What::Out(_) = s.what {
            continue;
        }
        while let Some(it) = items.next_if(|it| it.step != Some(i) && it.kind == Kind::Out) {
            out += &stamp(&mut now, it.at, &brief(it, script));
        }
        let text = match items.next_if(|it| it.step == Some(i)) {
            Some(it) if it.kind == Kind::Result && !it.text.ends_with(" = 0") => it.text.clone(),
            _ => s.text.clone(),
        };
        let comment = l.find(" #").and_then(|at| l.get(at..)).unwrap_or_default();
        let line = stamp(&mut now, s.at, &(text + comment));
        out += &line;
    }
    for it in items {
        out += &stamp(&mut now, it.at, &brief(it, script));
    }
    out
}

/// A packet that came out without what nearly every packet has.
fn brief(it: &Item, script: &Script) -> String {
    let Some(mut p) = it.pkt.clone() else { return it.text.clone() };
    let syn = p.get("flags").is_some_and(|f| f.contains('S'));
    for (k, v) in &mut p.attrs {
        if k == "win" && !script.setup.windows && !syn {
            "*".clone_into(v);
        }
    }
    p.ip.retain(|(k, v)| {
        !(k == "ttl" && v == "64" || k == "id" || k == "df" && p.kind == "tcp" || k == "label")
    });
    format!("> {p}")
}
