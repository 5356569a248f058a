//! `ferronet tool serve`: HTTP/1.1, one thread for each connection, bounded.

use super::http::{Head, read_head};
use crate::args::ServeArgs;
use crate::units;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An idle keep-alive connection is closed after this time.
const IDLE: Duration = Duration::from_secs(60);
/// Generated data is written in pieces of this size; a multiple of eight.
const PIECE: usize = 256 * 1024;

/// Serves until it is stopped, or until `--requests` were answered.
pub(super) fn run(args: &ServeArgs) -> Result<u8, String> {
    let (listener, at) = listen(args)?;
    println!("serving on http://{at}/");
    let workers = args.connections.clamp(1, 4096);
    let (done, finished) = channel();
    let (send, receive) = std::sync::mpsc::sync_channel::<(TcpStream, SocketAddr)>(0);
    let receive = Arc::new(Mutex::new(receive));
    if let Some(dir) = args.dir.as_deref().filter(|d| !d.is_dir()) {
        return Err(format!("cannot serve {}: it is no directory", dir.display()));
    }
    let site = Arc::new(Site { size: args.size, dir: args.dir.clone(), quiet: args.quiet });
    let counted = args.requests;
    std::thread::Builder::new()
        .name("accept".to_owned())
        .spawn(move || {
            let mut started = 0;
            loop {
                let conn = match listener.accept() {
                    Ok(c) => c,
                    Err(e) => {
                        eprintln!("accept: {e}");
                        continue;
                    }
                };
                // A worker is started only when all others are busy, up to the limit.
                match send.try_send(conn) {
                    Ok(()) => {}
                    Err(e) => {
                        let (std::sync::mpsc::TrySendError::Full(c)
                        | std::sync::mpsc::TrySendError::Disconnected(c)) = e;
                        if started < workers {
                            started += 1;
                            worker(receive.clone(), site.clone(), done.clone());
                        }
                        if send.send(c).is_err() {
                            return;
                        }
                    }
                }
            }
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    let mut answered = 0;
    while counted.is_none_or(|n| answered < n) {
        if finished.recv().is_err() {
            break;
        }
        answered += 1;
    }
    Ok(0)
}

/// Listens; `::` falls back to `0.0.0.0` where there is no IPv6.
fn listen(args: &ServeArgs) -> Result<(TcpListener, SocketAddr), String> {
    let want = SocketAddr::new(args.bind, args.port);
    let listener = TcpListener::bind(want).or_else(|e| {
        if args.bind.is_ipv6() && args.bind.is_unspecified() {
            TcpListener::bind(("0.0.0.0", args.port)).map_err(|_| e)
        } else {
            Err(e)
        }
    });
    let listener = listener.map_err(|e| format!("cannot listen on {want}: {e}"))?;
    let at = listener.local_addr().map_err(|e| format!("cannot read the address: {e}"))?;
    Ok((listener, at))
}

/// What is served.
#[derive(Debug)]
struct Site {
    size: Option<u64>,
    dir: Option<PathBuf>,
    quiet: bool,
}

type Connections = Arc<Mutex<Receiver<(TcpStream, SocketAddr)>>>;

/// A thread that serves one connection after the other.
fn worker(from: Connections, site: Arc<Site>, done: Sender<()>) {
    let work = move || {
        loop {
            let next = match from.lock() {
                Ok(r) => r.recv(),
                Err(_) => return,
            };
            let Ok((stream, peer)) = next else { return };
            if let Err(e) = connection(&stream, peer, &site, &done)
                && !site.quiet
            {
                eprintln!("{peer}: {e}");
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("serve".to_owned()).spawn(work) {
        eprintln!("cannot start a thread: {e}");
    }
}

/// Answers the requests of one connection.
fn connection(stream: &TcpStream, peer: SocketAddr, site: &Site, done: &Sender<()>) -> io::Result<()> {
    // An IPv4 client of a socket for both families is shown as one.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let head = match read_head(&mut reader) {
            Ok(Some(h)) => h,
            Ok(None) => return Ok(()),
            // An idle connection is closed without a word.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let Answer { status, length, close } = answer(&mut &*stream, &head, site)?;
        if !site.quiet {
            println!("{peer} \"{}\" {status} {length}", head.start);
        }
        let _ = done.send(());
        if close {
            return Ok(());
        }
    }
}

/// Where a body comes from.
enum Body {
    Text(String),
    Generated(u64),
    File(File, u64),
}

/// What was answered.
struct Answer {
    status: u16,
    length: u64,
    close: bool,
}

/// Writes one answer.
fn answer(out: &mut impl Write, head: &Head, site: &Site) -> io::Result<Answer> {
    let mut words = head.start.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let has_body =
        head.field("content-length").is_some_and(|n| n != "0") || head.field("transfer-encoding").is_some();
    let (status, body) = match method {
        "GET" | "HEAD" if target.starts_with('/') && !has_body => find(target, site),
        "GET" | "HEAD" => (400, Body::Text("a request is GET or HEAD, a path, and no body\n".to_owned())),
        _ => (405, Body::Text(format!("`{method}` is not served here; use GET or HEAD\n"))),
    };
    // The body of a request is not read, so the connection cannot go on after it.
    let close = head.closes() || has_body;
    let length = match &body {
        Body::Text(t) => t.len() as u64,
        Body::Generated(n) | Body::File(_, n) => *n,
    };
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Method Not Allowed",
    };
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nContent-Type: application/octet-stream\r\n\
         Connection: {connection}\r\n\r\n"
    );
    if method == "HEAD" {
        out.write_all(head.as_bytes())?;
        return Ok(Answer { status, length, close });
    }
    match body {
        // One write, so that a small answer is one segment.
        Body::Text(t) => out.write_all((head + &t).as_bytes())?,
        Body::Generated(n) => generated(out, head.as_bytes(), n)?,
        Body::File(f, n) => {
            out.write_all(head.as_bytes())?;
            let sent = io::copy(&mut f.take(n), out)?;
            if sent < n {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
            }
        }
    }
    Ok(Answer { status, length, close })
}

/// The body for a path.
fn find(target: &str, site: &Site) -> (u16, Body) {
    let path = target.split('?').next().unwrap_or_default();
    if let Some(n) = site.size {
        return (200, Body::Generated(n));
    }
    if let Some(dir) = &site.dir {
        return match open_below(dir, path) {
            Ok((f, n)) => (200, Body::File(f, n)),
            Err(e) => (404, Body::Text(format!("{path}: {e}\n"))),
        };
    }
    match units::size(path.trim_start_matches('/')) {
        Ok(n) => (200, Body::Generated(n)),
        Err(_) if path == "/" => (200, Body::Text("ask for a size: /1MiB\n".to_owned())),
        Err(e) => (404, Body::Text(format!("{e}\n"))),
    }
}

/// Opens a regular file below a directory; `..` and links out of it do not lead out.
fn open_below(dir: &Path, path: &str) -> io::Result<(File, u64)> {
    let not_found = || io::Error::from(io::ErrorKind::NotFound);
    let inside = Path::new(path.trim_start_matches('/'));
    if !inside.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(not_found());
    }
    let full = dir.join(inside).canonicalize()?;
    if !full.starts_with(dir.canonicalize()?) {
        return Err(not_found());
    }
    let full = if full.is_dir() { full.join("index.html") } else { full };
    let file = File::open(full)?;
    let meta = file.metadata()?;
    if meta.is_file() { Ok((file, meta.len())) } else { Err(not_found()) }
}

/// `n` bytes: the offset of each eight bytes as a big-endian number, so that lost, doubled or swapped pieces show.
fn generated(out: &mut impl Write, head: &[u8], n: u64) -> io::Result<()> {
    let mut piece = Vec::with_capacity(head.len() + PIECE);
    piece.extend_from_slice(head);
    let mut offset = 0u64;
    loop {
        let len = (n - offset).min(PIECE as u64);
        let mut at = offset;
        while at < offset + len {
            let left = usize::try_from((offset + len - at).min(8)).unwrap_or(8);
            piece.extend_from_slice(&at.to_be_bytes()[..left]);
            at += 8;
        }
        out.write_all(&piece)?;
        offset += len;
        if offset >= n {
            return Ok(());
        }
        piece.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(request: &str, site: &Site) -> (u16, String, Vec<u8>) {
        let head = read_head(&mut request.as_bytes()).unwrap().unwrap();
        let mut out = Vec::new();
        let Answer { status, length, .. } = answer(&mut out, &head, site).unwrap();
        let end = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let body = out.split_off(end);
        if !request.starts_with("HEAD") {
            assert_eq!(body.len() as u64, length);
        }
        (status, String::from_utf8(out).unwrap(), body)
    }

    #[test]
    fn sizes_and_errors() {
        let site = Site { size: None, dir: None, quiet: true };
        let (status, head, body) = get("GET /20 HTTP/1.1\r\n\r\n", &site);
        assert_eq!((status, body.len()), (200, 20));
        assert!(head.contains("Connection: keep-alive"));
        assert_eq!(body[8..16], 8u64.to_be_bytes());
        assert_eq!(get("GET /1MiB HTTP/1.1\r\n\r\n", &site).2.len(), 1 << 20);
        assert_eq!(get("HEAD /1MiB HTTP/1.1\r\n\r\n", &site).2.len(), 0);
        assert_eq!(get("GET /what HTTP/1.1\r\n\r\n", &site).0, 404);
        assert_eq!(get("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", &site).0, 400);
        assert_eq!(get("DELETE / HTTP/1.1\r\n\r\n", &site).0, 405);
        assert!(get("GET /1 HTTP/1.0\r\n\r\n", &site).1.contains("Connection: close"));
    }

    #[test]
    fn files_stay_below_their_directory() {
        let base = std::env::temp_dir().join(format!("ferronet-serve-{}", std::process::id()));
        let dir = base.join("site");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(base.join("secret"), "no").unwrap();
        std::fs::write(dir.join("file"), "yes").unwrap();
        std::os::unix::fs::symlink(base.join("secret"), dir.join("link")).unwrap();
        let site = Site { size: None, dir: Some(dir), quiet: true };
        assert_eq!(get("GET /file?x=1 HTTP/1.1\r\n\r\n", &site).2, b"yes");
        for path in ["/../secret", "/link", "/none", "/", "/./../secret"] {
            assert_eq!(get(&format!("GET {path} HTTP/1.1\r\n\r\n"), &site).0, 404, "{path}");
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}
