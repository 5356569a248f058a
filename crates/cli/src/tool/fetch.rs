//! `ferronet tool fetch`: an HTTP/1.1 client that measures.

use super::http::{read_body, read_head};
use super::sha256::Sha256;
use crate::args::FetchArgs;
use crate::units;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The parts of `http://HOST[:PORT]/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    host: String,
    port: u16,
    path: String,
}

/// Reads a URL.
fn url(text: &str) -> Result<Url, String> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("`{scheme}` is not spoken here; use http://")),
        None => text,
    };
    let (authority, path) = match rest.find('/') {
        Some(i) => (&rest[..i], &rest[i..]),
        None => (rest, "/"),
    };
    let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((v6, after)) => (v6, after.strip_prefix(':')),
        None => match authority.split_once(':') {
            Some((h, p)) => (h, Some(p)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(format!("`{text}` names no host; write for example http://10.0.2.2:8080/"));
    }
    let port = match port {
        Some(p) => p.parse().map_err(|_| format!("`{p}` is not a port"))?,
        None => 80,
    };
    Ok(Url { host: host.to_owned(), port, path: path.to_owned() })
}

/// What the requests of all workers brought.
#[derive(Debug, Default, Clone)]
struct Totals {
    requests: u32,
    failed: u32,
    bytes: u64,
    /// Status line of the last response.
    status: String,
    sha256: Option<String>,
    error: Option<String>,
}

/// Fetches and prints; 0 when every response was a success.
pub(super) fn run(args: &FetchArgs) -> Result<u8, String> {
    let target = url(&args.url)?;
    if args.output.is_some() && args.count != 1 {
        return Err("--output is for one request; leave --count out".to_owned());
    }
    if !(args.timeout > 0.0 && args.timeout < 1e6) {
        return Err("--timeout is a number of seconds greater than 0".to_owned());
    }
    let next = AtomicU32::new(0);
    let started = Instant::now();
    let mut totals = Totals::default();
    std::thread::scope(|s| {
        let workers: Vec<_> =
            (0..args.parallel.clamp(1, 1024)).map(|_| s.spawn(|| worker(&target, args, &next))).collect();
        for w in workers {
            match w.join() {
                Ok(t) => totals.add(t),
                Err(_) => totals.error = Some("a worker panicked".to_owned()),
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    report(args, &totals, seconds)?;
    match totals.error {
        Some(e) => Err(format!("{}: {e}", args.url)),
        None => Ok(u8::from(totals.failed > 0)),
    }
}

impl Totals {
    fn add(&mut self, o: Totals) {
        self.requests += o.requests;
        self.failed += o.failed;
        self.bytes += o.bytes;
        if !o.status.is_empty() {
            self.status = o.status;
        }
        self.sha256 = o.sha256.or(self.sha256.take());
        self.error = self.error.take().or(o.error);
    }
}

/// Takes requests until none is left, over one connection as long as the server keeps it.
fn worker(target: &Url, args: &FetchArgs, next: &AtomicU32) -> Totals {
    let mut t = Totals::default();
    let mut connection = None;
    while t.error.is_none() && next.fetch_add(1, Ordering::Relaxed) < args.count {
        if let Err(e) = request(target, args, &mut connection, &mut t) {
            t.error = Some(e.to_string());
        }
    }
    t
}

/// One request and its response.
fn request(
    target: &Url,
    args: &FetchArgs,
    connection: &mut Option<BufReader<TcpStream>>,
    t: &mut Totals,
) -> io::Result<()> {
    let reader = match connection {
        Some(c) => c,
        None => connection.insert(BufReader::with_capacity(256 * 1024, connect(target, args)?)),
    };
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let text = format!(
        "GET {} HTTP/1.1\r\nHost: {host}:{}\r\nUser-Agent: ferronet\r\n\r\n",
        target.path, target.port
    );
    reader.get_mut().write_all(text.as_bytes())?;
    let head = read_head(reader)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed without an answer"))?;
    let mut hash = args.sha256.then(Sha256::new);
    let mut file: Option<Box<dyn Write>> = match &args.output {
        Some(p) if p.as_os_str() == "-" => Some(Box::new(io::stdout().lock())),
        Some(p) => Some(Box::new(File::create(p)?)),
        None => None,
    };
    let mut sink = |piece: &[u8]| {
        if let Some(h) = &mut hash {
            h.update(piece);
        }
        match &mut file {
            Some(f) => f.write_all(piece),
            None => Ok(()),
        }
    };
    t.bytes += read_body(reader, &head, &mut sink)?;
    t.requests += 1;
    let status = head.start.split_once(' ').map_or("", |(_, s)| s);
    t.failed += u32::from(!status.starts_with('2'));
    t.status = status.to_owned();
    t.sha256 = hash.map(Sha256::finish);
    let framed = head.field("content-length").is_some() || head.field("transfer-encoding").is_some();
    if head.closes() || !framed {
        *connection = None;
    }
    Ok(())
}

/// Connects to the first address that answers.
fn connect(target: &Url, args: &FetchArgs) -> io::Result<TcpStream> {
    let timeout = Duration::from_secs_f64(args.timeout);
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{}` has no address", target.host));
    for at in (target.host.as_str(), target.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&at, timeout) {
            Ok(s) => {
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(timeout))?;
                s.set_write_timeout(Some(timeout))?;
                return Ok(s);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn report(args: &FetchArgs, t: &Totals, seconds: f64) -> Result<(), String> {
    let rate = t.bytes as f64 * 8.0 / seconds.max(1e-9);
    let line = if args.json {
        serde_json::json!({
            "url": args.url, "status": t.status, "requests": t.requests, "failed": t.failed, "bytes": t.bytes,
            "seconds": seconds, "bits_per_second": rate, "sha256": t.sha256, "error": t.error,
        })
        .to_string()
    } else {
        let requests = if t.requests == 1 { String::new() } else { format!("{} requests, ", t.requests) };
        let hash = t.sha256.as_ref().map(|h| format!(", sha256 {h}")).unwrap_or_default();
        format!(
            "{}: {requests}{} bytes in {seconds:.3} s ({}){hash}",
            t.status,
            t.bytes,
            units::show_rate(rate)
        )
    };
    // With the body on standard output the figures go elsewhere.
    if args.output.as_ref().is_some_and(|p| p.as_os_str() == "-") {
        eprintln!("{line}");
        Ok(())
    } else {
        writeln!(io::stdout(), "{line}").map_err(|e| format!("standard output: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let u = |h: &str, port, p: &str| Ok(Url { host: h.to_owned(), port, path: p.to_owned() });
        assert_eq!(url("http://10.0.0.1/x?y"), u("10.0.0.1", 80, "/x?y"));
        assert_eq!(url("http://[fd00::1]:8080"), u("fd00::1", 8080, "/"));
        assert_eq!(url("name:81/a"), u("name", 81, "/a"));
        assert!(url("https://x/").unwrap_err().contains("`https`"));
        assert!(url("http:///x").is_err());
        assert!(url("http://x:y/").unwrap_err().contains("`y` is not a port"));
    }
}
