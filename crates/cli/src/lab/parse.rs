//! From a file's text to a checked [`Lab`].

use super::doc::{At, LabError, Table, Text, scalar, strings};
use super::{End, Impairment, Lab, Link, Namespace, Program, Ready, Route, Tap};
use crate::units;
use std::collections::BTreeSet;
use std::net::IpAddr;
use toml::de::DeTable;

/// Limits that keep a mistake in a file from taking the machine.
const MAX_NAMESPACES: usize = 1000;
const MAX_PROGRAMS: usize = 1000;

/// Reads a lab file. The first error is returned, with its place and what to do.
pub(crate) fn parse(file: &str, text: &str) -> Result<Lab, Box<LabError>> {
    read(Text { file, text }).map_err(Box::new)
}

fn read(text: Text<'_>) -> Result<Lab, LabError> {
    let root = DeTable::parse(text.text).map_err(|e| {
        let why = e.message().lines().collect::<Vec<_>>().join("; ");
        text.error(e.span().unwrap_or(0..1), format!("this is not TOML: {why}"))
    })?;
    let mut t = Table::new(text, root.get_ref(), 0..1, "the file");
    let seed = t.number("seed", 0..=u64::MAX)?;
    let timeout = t.duration("timeout")?;
    let namespaces = t.tables("namespace", "a [[namespace]]")?;
    let links = t.tables("link", "a [[link]]")?;
    let taps = t.tables("tap", "a [[tap]]")?;
    let programs = t.tables("program", "a [[program]]")?;
    t.finish()?;
    if namespaces.is_empty() {
        return Err(t.error("there is no namespace; start with [[namespace]] and name = \"client\""));
    }
    let mut reader = Reader { text, lab: Lab { seed, timeout, ..Lab::default() }, devices: BTreeSet::new() };
    // Names first: links and programs refer to them.
    let mut tables = Vec::new();
    for mut n in namespaces {
        let name = n.required("name", "\"client\"")?;
        reader.name(&name, "namespace", 64, |l| l.namespaces.iter().map(|n| n.name.as_str()).collect())?;
        if reader.lab.namespaces.len() >= MAX_NAMESPACES {
            return Err(n.error(format!("there are more than {MAX_NAMESPACES} namespaces")));
        }
        reader.lab.namespaces.push(Namespace {
            name: name.value,
            addresses: Vec::new(),
            routes: Vec::new(),
            sysctls: Vec::new(),
        });
        tables.push(n);
    }
    for l in links {
        let link = reader.link(l)?;
        reader.lab.links.push(link);
    }
    for t in taps {
        let tap = reader.tap(t)?;
        reader.lab.taps.push(tap);
    }
    for (i, n) in tables.into_iter().enumerate() {
        reader.namespace(i, n)?;
    }
    reader.programs(programs)?;
    Ok(reader.lab)
}

struct Reader<'a> {
    text: Text<'a>,
    lab: Lab,
    /// `(namespace, device)` that links and TAP devices have made.
    devices: BTreeSet<(usize, String)>,
}

impl Reader<'_> {
    fn fail<T>(&self, at: &At<T>, text: impl Into<String>) -> LabError {
        self.text.error(at.span.clone(), text)
    }

    /// A new name: letters, digits, `-`, `_` and `.`, not used before.
    fn name(
        &self,
        name: &At<String>,
        what: &str,
        limit: usize,
        used: fn(&Lab) -> Vec<&str>,
    ) -> Result<(), LabError> {
        let n = &name.value;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if n.is_empty() || n.len() > limit || !n.chars().all(good) || n.starts_with(['-', '.']) {
            return Err(self.fail(
                name,
                format!("`{n}` is not a name for a {what}: up to {limit} letters, digits, - and _"),
            ));
        }
        if used(&self.lab).contains(&n.as_str()) {
            return Err(self.fail(name, format!("there is already a {what} `{n}`; names are used once")));
        }
        Ok(())
    }

    /// The index of a namespace.
    fn find_namespace(&self, name: &At<String>) -> Result<usize, LabError> {
        let all = &self.lab.namespaces;
        all.iter().position(|n| n.name == name.value).ok_or_else(|| {
            let hint = match units::closest(&name.value, all.iter().map(|n| n.name.as_str())) {
                Some(n) => format!("did you mean `{n}`?"),
                None => format!("add a [[namespace]] with name = \"{}\"", name.value),
            };
            self.fail(name, format!("there is no namespace `{}`; {hint}", name.value))
        })
    }

    fn link(&mut self, mut t: Table<'_, '_>) -> Result<Link, LabError> {
        let ends = t.strings("ends")?;
        let [a, b] = ends.as_slice() else {
            let text = "a [[link]] has two ends, for example ends = [\"client:eth0\", \"router:eth0\"]";
            return Err(ends.first().map_or_else(|| t.error(text), |e| self.fail(e, text)));
        };
        let ends = [self.end(a)?, self.end(b)?];
        let mtu = t.number("mtu", 68..=65535)?.map(|n| n as u32);
        let impairment = impairment(&mut t)?;
        Ok(Link { ends, mtu, impairment })
    }

    fn tap(&mut self, mut t: Table<'_, '_>) -> Result<Tap, LabError> {
        let end = t.required("end", "\"server:eth0\"")?;
        let end = self.end(&end)?;
        let host = t.required("host_name", "\"ferro0\"")?;
        if !device_name(&host.value) {
            let text = format!("`{}` is not an interface name: up to 15 letters and digits", host.value);
            return Err(self.fail(&host, text));
        }
        if self.lab.taps.iter().any(|t| t.host_name == host.value) {
            let text = format!("another [[tap]] already has the host's interface `{}`", host.value);
            return Err(self.fail(&host, text));
        }
        let mut host_addresses = Vec::new();
        for a in t.strings("host_address")? {
            host_addresses.push(prefix(&a.value).map_err(|e| self.fail(&a, e))?);
        }
        // The host's driver allows no more (drivers/net/tun.c, MAX_MTU and the link header).
        let mtu = t.number("mtu", 68..=65521)?.map(|n| n as u32);
        let impairment = impairment(&mut t)?;
        Ok(Tap { end, host_name: host.value, host_addresses, mtu, impairment })
    }

    /// `client:eth0`, a new device.
    fn end(&mut self, at: &At<String>) -> Result<End, LabError> {
        let Some((ns, dev)) = at.value.split_once(':') else {
            return Err(self.fail(
                at,
                format!(
                    "`{}` is not an end of a link; write NAMESPACE:DEVICE, for example client:eth0",
                    at.value
                ),
            ));
        };
        let namespace = self.find_namespace(&At::new(ns.to_owned(), at.span.clone()))?;
        if !device_name(dev) {
            return Err(self.fail(at, format!("`{dev}` is not a device name: up to 15 letters and digits")));
        }
        if matches!(dev, "lo" | "all" | "default") || !self.devices.insert((namespace, dev.to_owned())) {
            return Err(self.fail(at, format!("`{ns}` already has a device `{dev}`; choose another name")));
        }
        Ok(End { namespace, device: dev.to_owned() })
    }

    /// Everything but the name.
    fn namespace(&mut self, index: usize, mut t: Table<'_, '_>) -> Result<(), LabError> {
        for (dev, value) in t.entries("addresses", "{ eth0 = \"10.0.1.2/24\" }")? {
            self.device(index, &dev)?;
            for a in strings(self.text, &dev.value, value)? {
                let (ip, len) = prefix(&a.value).map_err(|e| self.fail(&a, e))?;
                self.lab.namespaces[index].addresses.push((dev.value.clone(), ip, len));
            }
        }
        for r in t.strings("routes")? {
            let route = self.route(index, &r)?;
            self.lab.namespaces[index].routes.push(route);
        }
        for (key, value) in t.entries("sysctls", "{ \"net.ipv4.ip_forward\" = 1 }")? {
            let value = scalar(self.text, &key.value, value)?;
            let path = key.value.replace('.', "/");
            let Some(path) = path.strip_prefix("net/") else {
                return Err(self.fail(
                    &key,
                    format!(
                        "`{}` is not a network setting; they start with net. (see ferronet sysctl --explain)",
                        key.value
                    ),
                ));
            };
            self.lab.namespaces[index].sysctls.push((path.to_owned(), value));
        }
        t.finish()
    }

    /// A device that exists in a namespace.
    fn device(&self, namespace: usize, dev: &At<String>) -> Result<(), LabError> {
        if dev.value == "lo" || self.devices.contains(&(namespace, dev.value.clone())) {
            return Ok(());
        }
        let mine = self.devices.iter().filter(|(n, _)| *n == namespace).map(|(_, d)| d.as_str());
        let name = &self.lab.namespaces[namespace].name;
        let hint = match units::closest(&dev.value, mine) {
            Some(d) => format!("did you mean `{d}`?"),
            None => format!("add a [[link]] or [[tap]] with the end \"{name}:{}\"", dev.value),
        };
        Err(self.fail(dev, format!("`{name}` has no device `{}`; {hint}", dev.value)))
    }

    /// `default via 10.0.1.1`, `10.3.0.0/16 dev eth0 metric 10`.
    fn route(&self, namespace: usize, at: &At<String>) -> Result<Route, LabError> {
        let mut words = at.value.split_whitespace();
        let to = match words.next() {
            Some("default") => None,
            Some(p) => Some(prefix(p).map_err(|e| self.fail(at, e))?),
            None => return Err(self.fail(at, "a route is for example \"default via 10.0.1.1\"")),
        };
        let mut r = Route { to, via: None, dev: None, metric: None };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| self.fail(at, format!("`{word}` needs a value")))?;
            match word {
                "via" => {
                    r.via = Some(
                        value.parse().map_err(|_| self.fail(at, format!("`{value}` is not an address")))?,
                    )
                }
                "dev" => {
                    self.device(namespace, &At::new(value.to_owned(), at.span.clone()))?;
                    r.dev = Some(value.to_owned());
                }
                "metric" => {
                    r.metric =
                        Some(value.parse().map_err(|_| self.fail(at, format!("`{value}` is not a metric")))?)
                }
                _ => {
                    return Err(self.fail(
                        at,
                        format!("`{word}` is not part of a route here; there are via, dev and metric"),
                    ));
                }
            }
        }
        if r.via.is_none() && r.dev.is_none() {
            return Err(self.fail(at, "a route needs `via ADDRESS` or `dev DEVICE`"));
        }
        if let (Some((to, _)), Some(via)) = (r.to, r.via)
            && to.is_ipv4() != via.is_ipv4()
        {
            return Err(self.fail(at, "destination and gateway are of different families"));
        }
        Ok(r)
    }

    fn programs(&mut self, tables: Vec<Table<'_, '_>>) -> Result<(), LabError> {
        let mut after = Vec::new();
        for t in tables {
            let (program, names) = self.program(t)?;
            if self.lab.programs.len() >= MAX_PROGRAMS {
                return Err(self.text.error(0..1, format!("there are more than {MAX_PROGRAMS} programs")));
            }
            self.lab.programs.push(program);
            after.push(names);
        }
        for (i, names) in after.iter().enumerate() {
            for name in names {
                let found = self.lab.programs.iter().position(|p| p.name == name.value).ok_or_else(|| {
                    let hint = match units::closest(
                        &name.value,
                        self.lab.programs.iter().map(|p| p.name.as_str()),
                    ) {
                        Some(n) => format!("did you mean `{n}`?"),
                        None => format!("add a [[program]] with name = \"{}\"", name.value),
                    };
                    self.fail(name, format!("there is no program `{}`; {hint}", name.value))
                })?;
                self.lab.programs[i].after.push(found);
            }
        }
        // A program that waits for itself, by whatever way, never starts.
        for (i, names) in after.iter().enumerate() {
            if let Some(first) = names.first()
                && self.reaches(i, i)
            {
                return Err(self.fail(first, format!("`{}` waits for itself", self.lab.programs[i].name)));
            }
        }
        Ok(())
    }

    /// Whether a program waits, directly or through others, for `goal`.
    fn reaches(&self, from: usize, goal: usize) -> bool {
        let mut seen = vec![false; self.lab.programs.len()];
        let mut todo = self.lab.programs[from].after.clone();
        while let Some(i) = todo.pop() {
            if i == goal {
                return true;
            }
            if !std::mem::replace(&mut seen[i], true) {
                todo.extend(&self.lab.programs[i].after);
            }
        }
        false
    }

    /// A program and the names in its `after`.
    fn program(&self, mut t: Table<'_, '_>) -> Result<(Program, Vec<At<String>>), LabError> {
        let name = t.required("name", "\"server\"")?;
        self.name(&name, "program", 32, |l| l.programs.iter().map(|p| p.name.as_str()).collect())?;
        let ns = t.required("ns", "\"client\"")?;
        let namespace = self.find_namespace(&ns)?;
        let cmd = match t.get("cmd") {
            None => {
                return Err(t.error("a [[program]] needs `cmd`, for example cmd = \"ping -c 3 10.0.2.2\""));
            }
            Some(v) => {
                let list = strings(self.text, "cmd", v)?;
                match list.as_slice() {
                    [one] if !matches!(v.get_ref(), toml::de::DeValue::Array(_)) => {
                        split_command(&one.value).map_err(|e| self.fail(one, e))?
                    }
                    _ => list.into_iter().map(|a| a.value).collect(),
                }
            }
        };
        if cmd.first().is_none_or(String::is_empty) {
            return Err(t.error("`cmd` is empty"));
        }
        let ready = match t.string("ready")? {
            None => None,
            Some(r) => Some(ready(&r.value).map_err(|e| self.fail(&r, e))?),
        };
        let after = t.strings("after")?;
        let must_succeed = t.boolean("must_succeed", true)?;
        let stop_at_end = t.boolean("stop_at_end", false)?;
        let timeout = t.duration("timeout")?;
        let mut env = Vec::new();
        for (key, value) in t.entries("env", "{ KEY = \"value\" }")? {
            let value = scalar(self.text, &key.value, value)?;
            env.push((key.value, value));
        }
        t.finish()?;
        let name = name.value;
        Ok((
            Program {
                name,
                namespace,
                cmd,
                after: Vec::new(),
                ready,
                must_succeed,
                stop_at_end,
                timeout,
                env,
            },
            after,
        ))
    }
}

/// The settings of an emulated link, the last ones of their table; they must agree with each other.
fn impairment(t: &mut Table<'_, '_>) -> Result<Impairment, LabError> {
    let i = Impairment {
        delay: t.duration("delay")?.unwrap_or_default(),
        jitter: t.duration("jitter")?.unwrap_or_default(),
        rate: t.unit("rate", units::rate)?.unwrap_or(0),
        queue: t.number("queue", 1..=1_000_000)?.unwrap_or(0) as u32,
        loss: t.unit("loss", units::probability)?.unwrap_or(0),
        duplicate: t.unit("duplicate", units::probability)?.unwrap_or(0),
        reorder: t.unit("reorder", units::probability)?.unwrap_or(0),
    };
    t.finish()?;
    if i.jitter > i.delay {
        return Err(t.error("`jitter` is more than `delay`; the delay varies by jitter either way"));
    }
    if i.reorder > 0 && i.delay.is_zero() {
        return Err(t.error("`reorder` needs a `delay`: packets overtake those that are delayed"));
    }
    if i.queue > 0 && i.rate == 0 {
        return Err(t.error("`queue` needs a `rate`: without one no packet waits"));
    }
    Ok(i)
}

/// `dev_valid_name`: up to 15 bytes, no slash, colon or blank.
fn device_name(dev: &str) -> bool {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    !dev.is_empty() && dev.len() <= 15 && dev.chars().all(good) && dev != "." && dev != ".."
}

/// `tcp:80`, `udp:53`, `output:text`.
fn ready(text: &str) -> Result<Ready, String> {
    let wrong = || format!("`{text}` is not a sign of readiness; write tcp:PORT, udp:PORT or output:TEXT");
    let (kind, value) = text.split_once(':').ok_or_else(wrong)?;
    let port = || {
        value.trim().parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| format!("`{value}` is not a port"))
    };
    match kind {
        "tcp" => Ok(Ready::Tcp(port()?)),
        "udp" => Ok(Ready::Udp(port()?)),
        "output" if !value.is_empty() => Ok(Ready::Output(value.to_owned())),
        _ => Err(wrong()),
    }
}

/// `10.0.1.2/24`, `fd00::1/64`; without a length the whole address.
fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (ip, len) = match text.split_once('/') {
        Some((ip, len)) => (ip, Some(len)),
        None => (text, None),
    };
    let ip: IpAddr =
        ip.parse().map_err(|_| format!("`{ip}` is not an address; write for example 10.0.1.2/24"))?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    match len {
        None => Ok((ip, whole)),
        Some(l) => match l.parse::<u8>() {
            Ok(n) if n <= whole => Ok((ip, n)),
            _ => Err(format!("`/{l}` is not a prefix length; it is from 0 to {whole}")),
        },
    }
}

/// Splits a command as a shell would: blanks, quotes and backslashes; nothing is expanded.
fn split_command(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(q), c) if q == c => quote = None,
            (None | Some('"'), '\\') => match chars.next() {
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("the command ends with a backslash".to_owned()),
            },
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '|' | '&' | ';' | '<' | '>' | '$' | '`') => {
                return Err(format!(
                    "`{c}` means nothing here: no shell runs the command; write [\"sh\", \"-c\", \"…\"]"
                ));
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote in the command is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests;
