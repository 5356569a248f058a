//! `ps`, `exec`, `drops` and `trace`: what another terminal, or a program on the stack itself, asks a running stack.

use crate::args::{DropsArgs, ExecArgs, PsArgs, TraceArgs};
use crate::lab::report::table;
use crate::pcapng;
use crate::trace::filter;
use crate::units;
use ferronet_core::DropReason;
use ferronet_host::control::{self, Client, Reply};
use ferronet_host::{Command, HostError, Net};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// A running stack.
struct Found {
    name: String,
    info: Value,
    /// The caller runs on it.
    own: bool,
}

impl Found {
    fn connect(&self) -> Result<Client, String> {
        let client = if self.own { Client::here() } else { Client::connect(&self.name).map(Some) };
        match client {
            Ok(Some(client)) if !self.is_silent() => Ok(client),
            Ok(Some(_)) => Err(HostError::Silent(self.name.clone()).to_string()),
            Err(e @ HostError::Silent(_)) => Err(e.to_string()),
            // It answered a moment ago.
            Ok(None) | Err(_) => Err(format!("the stack `{}` has ended", self.name)),
        }
    }

    /// It did not say what it is: it is stopped, or stuck.
    fn is_silent(&self) -> bool {
        self.info.is_null()
    }

    fn is(&self, wanted: &str) -> bool {
        self.name == wanted || self.info["pid"].as_u64().is_some_and(|p| p.to_string() == wanted)
    }
}

/// Asks every running stack what it is. Inside one there is only that one.
fn running() -> Result<Vec<Found>, String> {
    if let Some(own) = own()? {
        return Ok(vec![own]);
    }
    let names = control::sessions().map_err(|e| e.to_string())?;
    // All at once: ten that stand still cost no more than one.
    let asked: Vec<_> = names.into_iter().map(|name| std::thread::spawn(move || ask(name))).collect();
    Ok(asked.into_iter().filter_map(|t| t.join().ok().flatten()).collect())
}

/// What a stack says it is; `Value::Null` when it does not answer, `None` when it has ended.
fn ask(name: String) -> Option<Found> {
    let told = Client::connect(&name).and_then(|c| lines(&c, &["info"]));
    let info = match told {
        Ok(lines) => lines.into_iter().next()?,
        Err(HostError::Silent(_)) => Value::Null,
        Err(_) => return None,
    };
    Some(Found { name, info, own: false })
}

/// The stack the caller runs on, if it does.
fn own() -> Result<Option<Found>, String> {
    let denied = |e| format!("only root of this stack may ask it ({e})");
    let Some(client) = Client::here().map_err(denied)? else { return Ok(None) };
    let info = lines(&client, &["info"]).map_err(|e| e.to_string())?.into_iter().next().unwrap_or_default();
    let name = info["name"].as_str().unwrap_or_default().to_owned();
    Ok(Some(Found { name, info, own: true }))
}

/// All lines of an answer.
fn lines(client: &Client, request: &[&str]) -> Result<Vec<Value>, HostError> {
    client.request(request)?;
    let mut text = Vec::new();
    while let Some(Reply::Data(d)) = client.reply()? {
        text.extend_from_slice(&d);
    }
    Ok(text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect())
}

/// The stack that is meant: by name, by process number, or the only one there is.
fn choose(wanted: Option<&str>) -> Result<Found, String> {
    let mut all = running()?;
    let list = all.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, all.len()) {
        (Some(w), _) => {
            if let Some(i) = all.iter().position(|f| f.is(w)) {
                return Ok(all.swap_remove(i));
            }
            if let Some(own) = all.iter().find(|f| f.own) {
                return Err(format!(
                    "this is a program on the stack `{}`, which sees only that one; ask `{w}` from another terminal",
                    own.name
                ));
            }
            let hint = match units::closest(w, all.iter().map(|f| f.name.as_str())) {
                Some(n) => format!("did you mean `{n}`?"),
                None if all.is_empty() => "none is running; start one with `ferronet shell`".to_owned(),
                None => format!("there are {list}"),
            };
            Err(format!("there is no running stack `{w}`; {hint}"))
        }
        (None, 1) => Ok(all.swap_remove(0)),
        (None, 0) => {
            Err("no stack is running; start one with `ferronet shell` or `ferronet up FILE.toml`".to_owned())
        }
        (None, _) => Err(format!("several stacks are running; choose one by its name: {list}")),
    }
}

fn say(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("standard output: {e}")),
    }
}

/// `ferronet ps`.
pub(crate) fn ps(args: &PsArgs) -> Result<u8, String> {
    let all = running()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = |f: &Found| now.saturating_sub(f.info["started"].as_u64().unwrap_or(now));
    if args.json {
        let list: Vec<Value> = all
            .iter()
            .map(|f| json!({"name": f.name, "answers": !f.is_silent(), "pid": f.info["pid"], "seconds": age(f), "what": f.info["what"], "namespaces": f.info["namespaces"]}))
            .collect();
        say(&format!("{}\n", Value::Array(list)))?;
        return Ok(0);
    }
    if all.is_empty() {
        eprintln!("no stack is running");
        return Ok(0);
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|f| {
            if f.is_silent() {
                let unknown = || "?".to_owned();
                return vec![f.name.clone(), unknown(), unknown(), unknown(), "does not answer".to_owned()];
            }
            let ns: Vec<String> = f.info["namespaces"].as_array().into_iter().flatten().map(text).collect();
            vec![
                f.name.clone(),
                text(&f.info["pid"]),
                format!("{} s", age(f)),
                ns.join(","),
                text(&f.info["what"]),
            ]
        })
        .collect();
    let mut out = String::new();
    table(&mut out, &["NAME", "PID", "AGE", "NAMESPACES", "WHAT"], &rows);
    say(&out)?;
    Ok(0)
}

/// `ferronet exec`.
pub(crate) fn exec(args: &ExecArgs) -> Result<u8, String> {
    let found = choose(args.name.as_deref())?;
    let net = match args.ns.as_deref() {
        None | Some("main") => Net::First,
        Some(ns) => {
            // Asked for first, because joining would make a namespace that is not there.
            let names = found.info["namespaces"].as_array();
            let known: Vec<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
            if !known.contains(&ns) {
                let hint =
                    units::closest(ns, known.iter().copied()).map(|n| format!("; did you mean `{n}`?"));
                let hint = hint.unwrap_or_else(|| format!("; there are {}", known.join(", ")));
                return Err(format!("`{}` has no namespace `{ns}`{hint}", found.name));
            }
            Net::Named(ns.to_owned())
        }
    };
    let client = found.connect()?;
    let env = Some(crate::session::environment(Some(&found.name)));
    let cmd = Command { net, env, foreground: io::stdin().is_terminal(), ..Command::new(args.cmd.clone()) };
    let ended = if found.own { client.replace(&cmd).map(|never| match never {}) } else { client.exec(&cmd) };
    match ended {
        Ok(exit) => Ok(u8::try_from(exit.code()).unwrap_or(u8::MAX)),
        Err(HostError::StackEnded) => {
            eprintln!("ferronet: the stack `{}` has ended, and {} with it", found.name, args.cmd[0]);
            Ok(125)
        }
        Err(e) => crate::session::failed_to_start(&e),
    }
}

/// `ferronet drops`.
pub(crate) fn drops(args: &DropsArgs) -> Result<u8, String> {
    if args.explain {
        return explain_drops(args.json);
    }
    let client = choose(args.name.as_deref())?.connect()?;
    let mut all = lines(&client, &["drops"]).map_err(|e| e.to_string())?;
    all.sort_by_key(|v| std::cmp::Reverse(v["packets"].as_u64()));
    if args.json {
        say(&format!("{}\n", Value::Array(all)))?;
        return Ok(0);
    }
    if all.is_empty() {
        say("nothing was dropped\n")?;
        return Ok(0);
    }
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let row =
        |v: &Value| ["packets", "namespace", "reason", "meaning", "setting"].map(|k| text(&v[k])).to_vec();
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let mut out = String::new();
    table(&mut out, &["PACKETS", "NAMESPACE", "REASON", "MEANING", "SETTING THAT MATTERS"], &rows);
    say(&out)?;
    Ok(0)
}

fn explain_drops(as_json: bool) -> Result<u8, String> {
    let all = DropReason::ALL;
    if as_json {
        let list: Vec<Value> = all
            .iter()
            .map(|r| json!({"reason": r.name(), "meaning": r.meaning(), "setting": r.tunable()}))
            .collect();
        say(&format!("{}\n", Value::Array(list)))?;
        return Ok(0);
    }
    let row = |r: &DropReason| [r.name(), r.meaning(), r.tunable()].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let mut out = String::new();
    table(&mut out, &["REASON", "MEANING", "SETTING THAT MATTERS"], &rows);
    say(&out)?;
    Ok(0)
}

/// `ferronet trace`.
pub(crate) fn trace(args: &TraceArgs) -> Result<u8, String> {
    // Wrong filters are told here, before anything is asked of the stack.
    filter::parse(&args.filter)?;
    let found = choose(args.name.as_deref())?;
    let name = &found.name;
    let client = found.connect()?;
    let mut words = vec!["trace"];
    words.extend(args.filter.iter().map(String::as_str));
    client.request(&words).map_err(|e| e.to_string())?;
    client.wait_for_ever().map_err(|e| e.to_string())?;
    let mut sink = Sink::new(args)?;
    if io::stderr().is_terminal() {
        eprintln!("tracing `{name}`; Ctrl-C ends it");
    }
    let mut partial = Vec::new();
    loop {
        match client.reply().map_err(|e| e.to_string())? {
            Some(Reply::Data(d)) => partial.extend_from_slice(&d),
            Some(Reply::End(status)) => return Ok(u8::try_from(status).unwrap_or(1)),
            None => return Err(format!("`{name}` has ended")),
        }
        while let Some(end) = partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            let Ok(way) = serde_json::from_slice::<Value>(&line) else { continue };
            if let Some(e) = way["error"].as_str() {
                return Err(e.to_owned());
            }
            if sink.way(&way)? {
                return Ok(0);
            }
        }
        sink.flush()?;
    }
}

/// Where ways go.
struct Sink {
    json: bool,
    left: Option<u64>,
    file: Option<pcapng::Writer<BufWriter<File>>>,
    first_ns: Option<u64>,
}

impl Sink {
    fn new(args: &TraceArgs) -> Result<Sink, String> {
        let open = |path: &std::path::PathBuf| {
            let made = File::create(path).and_then(|f| pcapng::Writer::new(BufWriter::new(f)));
            made.map_err(|e| format!("cannot write the capture {}: {e}", path.display()))
        };
        let file = args.pcapng.as_ref().map(open).transpose()?;
        Ok(Sink { json: args.json, left: args.count, file, first_ns: None })
    }

    /// Shows one way; true when it was the last one asked for.
    fn way(&mut self, way: &Value) -> Result<bool, String> {
        if self.left == Some(0) {
            return Ok(true);
        }
        if let Some(w) = &mut self.file {
            let device = format!(
                "{}:{}",
                way["namespace"].as_str().unwrap_or("?"),
                way["steps"][0]["dev"].as_str().unwrap_or("?")
            );
            let bytes = unhex(way["bytes"].as_str().unwrap_or_default());
            let (time, len) = (way["time_ns"].as_u64().unwrap_or(0), way["len"].as_u64().unwrap_or(0) as u32);
            w.packet(&device, time, &bytes, len, Some(&steps(way)))
                .map_err(|e| format!("writing the capture: {e}"))?;
        }
        if self.json {
            say(&format!("{way}\n"))?;
        } else if self.file.is_none() {
            say(&self.text(way))?;
        }
        self.left = self.left.map(|n| n - 1);
        let last = self.left == Some(0);
        if last {
            self.flush()?;
        }
        Ok(last)
    }

    fn text(&mut self, way: &Value) -> String {
        let time = way["time_ns"].as_u64().unwrap_or(0);
        let since = time.saturating_sub(*self.first_ns.get_or_insert(time));
        let (ns, packet) = (way["namespace"].as_str().unwrap_or("?"), way["packet"].as_str().unwrap_or("?"));
        format!("{:>10.6} {ns:<10} {packet}\n{:21} {}\n", since as f64 / 1e9, "", steps(way))
    }

    fn flush(&mut self) -> Result<(), String> {
        match &mut self.file {
            Some(w) => w.flush().map_err(|e| format!("writing the capture: {e}")),
            None => Ok(()),
        }
    }
}

/// `rx eth0 > route unicast dev eth1 > tx eth1`.
fn steps(way: &Value) -> String {
    let one = |s: &Value| {
        let (dev, what) = (s["dev"].as_str().unwrap_or_default(), s["what"].as_str().unwrap_or_default());
        if matches!(what, "rx" | "tx") { format!("{what} {dev}") } else { what.to_owned() }
    };
    let all: Vec<String> = way["steps"].as_array().into_iter().flatten().map(one).collect();
    all.join(" > ")
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks_exact(2).filter_map(|p| Some(digit(p[0])? << 4 | digit(p[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_shown_in_one_line() {
        let way = json!({"steps": [{"dev": "eth0", "what": "rx"}, {"dev": "eth0", "what": "route unicast dev eth1"}, {"dev": "eth1", "what": "tx"}]});
        assert_eq!(steps(&way), "rx eth0 > route unicast dev eth1 > tx eth1");
        assert_eq!(unhex("00ff10zz"), [0, 255, 16]);
    }
}
