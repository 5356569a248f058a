//! A packet as a script says it: a kind and named values, in the order they print.

use core::fmt;

/// A packet, or a pattern for one: what is not named is not constrained.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pkt {
    /// The flow by name; empty: the unnamed one, or none when addresses are given.
    pub flow: String,
    /// `SRC > DST`, when the packet belongs to no flow.
    pub addrs: Option<(String, String)>,
    /// Values of the IP and link header.
    pub ip: Vec<(String, String)>,
    /// `tcp`, `udp`, `icmp`, `icmp6`, `igmp`, `arp`, `proto`, `hex`.
    pub kind: String,
    /// Values of what is inside.
    pub attrs: Vec<(String, String)>,
}

/// Words without a value.
const FLAGS: &[&str] = &["badsum", "df", "mf", "router", "solicited", "override"];
/// Kinds whose first word behind the name is a value of its own.
const POSITIONAL: &[(&str, &str)] = &[
    ("icmp", "type"),
    ("icmp6", "type"),
    ("igmp", "type"),
    ("arp", "op"),
    ("proto", "number"),
    ("hex", "bytes"),
];

impl Pkt {
    /// A value of the inner header.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        find(&self.attrs, key)
    }
    /// A value of the IP header.
    #[must_use]
    pub fn ip(&self, key: &str) -> Option<&str> {
        find(&self.ip, key)
    }
    /// Adds a value to the inner header.
    pub(super) fn set(&mut self, key: &str, value: impl fmt::Display) {
        self.attrs.push((key.to_owned(), value.to_string()));
    }
    /// Adds a value to the IP header.
    pub(super) fn set_ip(&mut self, key: &str, value: impl fmt::Display) {
        self.ip.push((key.to_owned(), value.to_string()));
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Pkt, String> {
        let mut t = tokens(text)?;
        let mut p = Pkt::default();
        if let Some(name) = t.first().and_then(|w| w.strip_suffix(':')).filter(|n| !n.contains(':')) {
            name.clone_into(&mut p.flow);
            t.remove(0);
        }
        if t.get(1).is_some_and(|w| w == ">") && t.len() > 3 {
            p.addrs = Some((t[0].clone(), t[2].clone()));
            t.drain(..3);
        }
        if let Some(inner) = t.first().and_then(|w| w.strip_prefix('[')).and_then(|w| w.strip_suffix(']')) {
            for part in inner.split(',').map(str::trim).filter(|s| !s.is_empty()) {
                let (k, v) = part.split_once(' ').unwrap_or((part, ""));
                p.set_ip(k, v.trim());
            }
            t.remove(0);
        }
        let mut words = t.into_iter();
        let first = words.next().ok_or("a packet needs a kind, such as `S` or `udp`")?;
        if first.bytes().all(|b| b"SFRP.UECA-".contains(&b)) {
            "tcp".clone_into(&mut p.kind);
            p.set("flags", &first);
            let seq = words.next().ok_or("a TCP packet needs FIRST:END(LENGTH)")?;
            if seq != "*" && !(seq.contains(':') && seq.ends_with(')')) {
                return Err(format!("`{seq}` is no FIRST:END(LENGTH)"));
            }
            p.set("range", seq);
        } else if let Some((_, name)) = POSITIONAL.iter().find(|(k, _)| *k == first) {
            p.set(name, words.next().ok_or_else(|| format!("{first} needs its {name}"))?);
            p.kind = first;
        } else if first == "udp" {
            p.kind = first;
        } else {
            return Err(format!("`{first}` is no kind of packet"));
        }
        while let Some(w) = words.next() {
            if let Some(o) = w.strip_prefix('<').and_then(|w| w.strip_suffix('>')) {
                p.set("opts", o);
            } else if let Some(l) = w.strip_prefix('(').and_then(|w| w.strip_suffix(')')) {
                p.set("len", l);
            } else if FLAGS.contains(&w.trim_start_matches('!')) {
                p.set(&w, "");
            } else {
                let v = words.next().ok_or_else(|| format!("`{w}` needs a value"))?;
                p.set(&w, v);
            }
        }
        Ok(p)
    }

    /// Whether `actual` is what this pattern says; otherwise the values that differ: name, expected, actual.
    #[must_use]
    pub fn differences(&self, actual: &Pkt) -> Vec<(String, String, String)> {
        let mut out = Vec::new();
        if self.kind != actual.kind {
            out.push(("kind".to_owned(), self.kind.clone(), actual.kind.clone()));
            return out;
        }
        if self.flow != actual.flow {
            out.push(("flow".to_owned(), self.flow.clone(), actual.flow.clone()));
        }
        if let Some((s, d)) = &self.addrs {
            let (a, b) = actual.addrs.clone().unwrap_or_default();
            if !glob(s, &a) || !glob(d, &b) {
                out.push(("addresses".to_owned(), format!("{s} > {d}"), format!("{a} > {b}")));
            }
        }
        for (want, have) in [(&self.ip, &actual.ip), (&self.attrs, &actual.attrs)] {
            for (k, v) in want {
                let (key, not) = k.strip_prefix('!').map_or((k.as_str(), false), |k| (k, true));
                match find(have, key) {
                    Some(_) if not => out.push((key.to_owned(), "absent".to_owned(), "present".to_owned())),
                    Some(a) if glob(v, a) => {}
                    None if not => {}
                    a => out.push((k.clone(), v.clone(), a.unwrap_or("absent").to_owned())),
                }
            }
        }
        out
    }
}

fn find<'a>(list: &'a [(String, String)], key: &str) -> Option<&'a str> {
    list.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

/// `*` in the pattern stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|p| text.strip_prefix(p)) else { return false };
    let mut last = None;
    for p in parts {
        if let Some(l) = last {
            let Some(at) = rest.find(l) else { return false };
            rest = rest.get(at + str::len(l)..).unwrap_or_default();
        }
        last = Some(p);
    }
    match last {
        None => rest.is_empty(),
        Some(l) => rest.ends_with(l),
    }
}

/// Words, with `<…>`, `[…]` and `(…)` kept whole; options without blanks behind their commas.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        let close = match c {
            '<' => '>',
            '[' => ']',
            '(' => ')',
            _ => ' ',
        };
        let end = if close == ' ' {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        } else {
            let e = rest.find(close).map(|e| e + 1).ok_or_else(|| format!("`{c}` without `{close}`"))?;
            // The port behind an IPv6 address.
            e + rest.get(e..).and_then(|r| r.find(char::is_whitespace)).unwrap_or(rest.len() - e)
        };
        let word = rest.get(..end).unwrap_or_default();
        out.push(if c == '<' { word.replace(", ", ",") } else { word.to_owned() });
        rest = rest.get(end..).unwrap_or_default().trim_start();
    }
    Ok(out)
}

impl fmt::Display for Pkt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.flow.is_empty() {
            write!(f, "{}: ", self.flow)?;
        }
        if let Some((s, d)) = &self.addrs {
            write!(f, "{s} > {d} ")?;
        }
        if !self.ip.is_empty() {
            let parts: Vec<String> =
                self.ip.iter().map(|(k, v)| format!("{k} {v}").trim_end().to_owned()).collect();
            write!(f, "[{}] ", parts.join(", "))?;
        }
        let mut sep = "";
        if self.kind != "tcp" {
            write!(f, "{}", self.kind)?;
            sep = " ";
        }
        for (k, v) in &self.attrs {
            f.write_str(sep)?;
            match k.as_str() {
                "flags" | "range" | "type" | "op" | "number" | "bytes" => f.write_str(v)?,
                "opts" => write!(f, "<{v}>")?,
                "len" => write!(f, "({v})")?,
                _ if v.is_empty() => f.write_str(k)?,
                _ => write!(f, "{k} {v}")?,
            }
            sep = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_there_and_back() {
        for t in [
            "S. 0:0(0) ack 1 win 65160 <mss 1460,sackOK,TS val ~ ecr 100,nop,wscale 7>",
            "b: [ttl 64, df] . 1:1001(1000) ack 1 win 502",
            "10.0.0.1 > 10.0.0.9 [ttl 64] icmp 3/1 quote 28 (28)",
            "arp request sip 10.0.0.1 tip 10.0.0.2",
            "udp (10) badsum",
            "- *",
        ] {
            assert_eq!(Pkt::parse(t).unwrap().to_string(), t);
        }
        for t in ["", "S", "S 1", "what 3", "S 0:0(0) win", "S 0:0(0) <mss 3"] {
            assert!(Pkt::parse(t).is_err(), "{t}");
        }
    }

    #[test]
    fn patterns_say_what_differs() {
        let actual = Pkt::parse("[ttl 64, df] . 1:1(0) ack 1 win 502 <nop,nop,TS val ~ ecr 7>").unwrap();
        let diff = |t: &str| Pkt::parse(t).unwrap().differences(&actual);
        assert_eq!(diff(". 1:1(0) ack 1 <nop,nop,TS val * ecr 7>"), []);
        assert_eq!(diff("[df, ttl 64] . *"), []);
        assert_eq!(diff(". *  win 501"), [("win".into(), "501".into(), "502".into())]);
        assert_eq!(diff("[!df] . *"), [("df".into(), "absent".into(), "present".into())]);
        assert_eq!(diff("udp (1)")[0].0, "kind");
        assert!(glob("a*c*e", "abcde") && !glob("a*c*e", "abde") && glob("*", "") && !glob("", "a"));
    }
}
