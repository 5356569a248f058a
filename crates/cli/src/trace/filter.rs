//! Which packets to show: `tcp port 80 and not host 10.0.0.1`.

use super::dissect::Dissected;
use crate::units;
use std::net::IpAddr;

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    All,
    /// `tcp`, `ip6`, …
    Proto(&'static str),
    /// Direction and network.
    Host(Side, IpAddr, u8),
    Port(Side, u16),
    Dev(String),
    Ns(String),
    /// Dropped, for this reason if one is given.
    Drop(Option<String>),
    Not(Box<Filter>),
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
}

/// Which end is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Either,
    Source,
    Destination,
}

/// A packet as a filter sees it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub packet: &'a Dissected,
    /// Devices it touched.
    pub devices: &'a [String],
    pub namespace: &'a str,
    /// Why it was dropped, if it was.
    pub dropped: Option<&'a str>,
}

const PROTOCOLS: [&str; 8] = ["arp", "ip", "ip6", "tcp", "udp", "icmp", "icmp6", "igmp"];
const WORDS: [&str; 20] = [
    "arp", "ip", "ip6", "tcp", "udp", "icmp", "icmp6", "igmp", "host", "src", "dst", "port", "sport",
    "dport", "dev", "ns", "drop", "and", "or", "not",
];

/// Reads a filter. The error says which word is wrong.
pub(crate) fn parse(words: &[String]) -> Result<Filter, String> {
    let text = words.join(" ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = text.split_whitespace().collect();
    if tokens.is_empty() {
        return Ok(Filter::All);
    }
    let mut p = Parser { tokens: &tokens, at: 0, depth: 0 };
    let filter = p.or()?;
    match p.next() {
        None => Ok(filter),
        Some(")") => Err("the filter has a `)` without a `(`".to_owned()),
        Some(t) => Err(unknown(t)),
    }
}

fn unknown(token: &str) -> String {
    match units::closest(token, WORDS) {
        Some(w) => format!("`{token}` is not a word of filters; did you mean `{w}`?"),
        None => format!("`{token}` is not a word of filters (see ferronet trace --help)"),
    }
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    at: usize,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let t = self.peek();
        self.at += usize::from(t.is_some());
        t
    }

    fn or(&mut self) -> Result<Filter, String> {
        let mut left = self.and()?;
        while self.peek() == Some("or") {
            self.at += 1;
            left = Filter::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    /// Words side by side mean `and`.
    fn and(&mut self) -> Result<Filter, String> {
        let mut left = self.not()?;
        loop {
            match self.peek() {
                Some("and") => self.at += 1,
                None | Some("or" | ")") => return Ok(left),
                Some(_) => {}
            }
            left = Filter::And(Box::new(left), Box::new(self.not()?));
        }
    }

    fn not(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > 100 {
            return Err("the filter is nested too deeply".to_owned());
        }
        let found = match self.next() {
            Some("not") => Filter::Not(Box::new(self.not()?)),
            Some("(") => {
                let inner = self.or()?;
                if self.next() != Some(")") {
                    return Err("the filter has a `(` without a `)`".to_owned());
                }
                inner
            }
            Some(word) => self.term(word)?,
            None => return Err("the filter ends where a word is needed".to_owned()),
        };
        self.depth -= 1;
        Ok(found)
    }

    fn term(&mut self, word: &str) -> Result<Filter, String> {
        if let Some(p) = PROTOCOLS.iter().find(|p| **p == word) {
            return Ok(Filter::Proto(p));
        }
        if word == "drop" || word == "dropped" {
            // A reason is a word in CamelCase, as `ferronet drops` prints it.
            let reason = self.peek().filter(|t| t.starts_with(|c: char| c.is_ascii_uppercase()));
            self.at += usize::from(reason.is_some());
            return Ok(Filter::Drop(reason.map(str::to_owned)));
        }
        let value = |p: &mut Self| p.next().ok_or_else(|| format!("`{word}` needs a value"));
        match word {
            "host" => network(Side::Either, value(self)?),
            "src" => network(Side::Source, value(self)?),
            "dst" => network(Side::Destination, value(self)?),
            "port" => port(Side::Either, value(self)?),
            "sport" => port(Side::Source, value(self)?),
            "dport" => port(Side::Destination, value(self)?),
            "dev" => Ok(Filter::Dev(value(self)?.to_owned())),
            "ns" => Ok(Filter::Ns(value(self)?.to_owned())),
            other => Err(unknown(other)),
        }
    }
}

fn network(side: Side, text: &str) -> Result<Filter, String> {
    let (ip, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let ip: IpAddr = ip.parse().map_err(|_| format!("`{ip}` is not an address"))?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Some(whole), |l| l.parse().ok().filter(|n| *n <= whole));
    len.map(|n| Filter::Host(side, ip, n))
        .ok_or_else(|| format!("`{text}` has no prefix length from 0 to {whole}"))
}

fn port(side: Side, text: &str) -> Result<Filter, String> {
    text.parse().map(|p| Filter::Port(side, p)).map_err(|_| format!("`{text}` is not a port"))
}

impl Filter {
    /// Whether the packet is to be shown.
    pub(crate) fn matches(&self, s: &Subject<'_>) -> bool {
        let p = s.packet;
        match self {
            Filter::All => true,
            Filter::Proto(name) => p.network == *name || p.transport == *name,
            Filter::Host(side, net, len) => either(*side, p.src, p.dst, |ip| within(*ip, *net, *len)),
            Filter::Port(side, port) => either(*side, p.sport, p.dport, |x| x == port),
            Filter::Dev(name) => s.devices.iter().any(|d| d == name),
            Filter::Ns(name) => s.namespace == name,
            Filter::Drop(None) => s.dropped.is_some(),
            Filter::Drop(Some(why)) => s.dropped == Some(why),
            Filter::Not(f) => !f.matches(s),
            Filter::And(a, b) => a.matches(s) && b.matches(s),
            Filter::Or(a, b) => a.matches(s) || b.matches(s),
        }
    }
}

fn either<T>(side: Side, src: Option<T>, dst: Option<T>, f: impl Fn(&T) -> bool) -> bool {
    let (s, d) = (src.as_ref().is_some_and(&f), dst.as_ref().is_some_and(&f));
    match side {
        Side::Either => s || d,
        Side::Source => s,
        Side::Destination => d,
    }
}

fn within(ip: IpAddr, net: IpAddr, len: u8) -> bool {
    match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let shift = 32 - u32::from(len);
            (a.to_bits() ^ n.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let shift = 128 - u32::from(len);
            (a.to_bits() ^ n.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Result<Filter, String> {
        parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    /// A dropped TCP packet from 10.0.0.1:4711 to 10.0.1.2:80 on eth0 of `client`.
    fn shows(text: &str) -> bool {
        let packet = Dissected {
            network: "ip",
            transport: "tcp",
            src: Some("10.0.0.1".parse().unwrap()),
            dst: Some("10.0.1.2".parse().unwrap()),
            sport: Some(4711),
            dport: Some(80),
            text: String::new(),
        };
        let devices = ["eth0".to_owned()];
        filter(text).unwrap().matches(&Subject {
            packet: &packet,
            devices: &devices,
            namespace: "client",
            dropped: Some("IpTtl"),
        })
    }

    #[test]
    fn terms() {
        for yes in [
            "",
            "tcp",
            "ip",
            "host 10.0.0.1",
            "src 10.0.0.0/24",
            "dst 10.0.0.0/16",
            "port 80",
            "sport 4711",
            "dev eth0",
            "ns client",
            "drop",
            "drop IpTtl",
            "host 0.0.0.0/0",
        ] {
            assert!(shows(yes), "{yes}");
        }
        for no in [
            "udp",
            "ip6",
            "src 10.0.1.2",
            "dport 4711",
            "dev eth1",
            "ns router",
            "drop NoSocket",
            "host ::/0",
            "host 10.0.2.0/24",
        ] {
            assert!(!shows(no), "{no}");
        }
    }

    #[test]
    fn words_join_and_parentheses_group() {
        assert!(shows("tcp port 80"));
        assert!(!shows("tcp and not port 80"));
        assert!(shows("udp or tcp port 80"));
        assert!(!shows("(udp or tcp) port 53"));
        assert!(shows("not (udp or icmp)"));
        assert!(shows("drop tcp"));
    }

    #[test]
    fn wrong_filters_are_named() {
        assert_eq!(filter("tpc").unwrap_err(), "`tpc` is not a word of filters; did you mean `tcp`?");
        assert_eq!(filter("port").unwrap_err(), "`port` needs a value");
        assert_eq!(filter("port x").unwrap_err(), "`x` is not a port");
        assert_eq!(filter("host x").unwrap_err(), "`x` is not an address");
        assert!(filter("host 10.0.0.0/33").unwrap_err().contains("0 to 32"));
        assert!(filter("(tcp").unwrap_err().contains("without a `)`"));
        assert!(filter("tcp )").unwrap_err().contains("without a `(`"));
        assert!(filter("tcp and").unwrap_err().contains("ends where"));
        assert!(filter(&"( ".repeat(500)).unwrap_err().contains("nested"));
    }
}
