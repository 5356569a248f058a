//! The little HTTP/1.1 (RFC 9112) that serve and fetch need: heads with limits, and bodies.

use std::io::{self, BufRead};

/// Bytes a head (request or status line and fields) may have.
const HEAD_LIMIT: usize = 16 * 1024;

/// A start line with its fields; names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the connection ends after this message (RFC 9112 §9.3).
    pub(super) fn closes(&self) -> bool {
        let connection = self.field("connection").unwrap_or_default().to_ascii_lowercase();
        let old = self.start.contains("HTTP/1.0");
        connection.contains("close") || (old && !connection.contains("keep-alive"))
    }
}

/// Reads a head; `None` when the peer closed before the first byte.
pub(super) fn read_head(r: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut lines: Vec<String> = Vec::new();
    let mut total = 0;
    loop {
        let mut line = Vec::new();
        let n = io::Read::take(&mut *r, (HEAD_LIMIT - total) as u64).read_until(b'\n', &mut line)?;
        total += n;
        if n == 0 && lines.is_empty() && total < HEAD_LIMIT {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            let text =
                if total >= HEAD_LIMIT { "the HTTP head is too long" } else { "the HTTP head ends early" };
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if line.is_empty() {
            if lines.is_empty() {
                continue; // RFC 9112 §2.2: an empty line before the request is ignored
            }
            break;
        }
        lines.push(line);
    }
    let start = lines.remove(0);
    let fields = lines
        .iter()
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    Ok(Some(Head { start, fields }))
}

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Reads the body that belongs to a response's head and hands its pieces on; returns its length.
pub(super) fn read_body(
    r: &mut impl BufRead,
    head: &Head,
    f: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    match framing(head)? {
        Framing::Length(n) => copy(r, Some(n), f),
        Framing::UntilClose => copy(r, None, f),
        Framing::Chunked => {
            let mut total = 0;
            loop {
                let size = chunk_size(&line(r)?)?;
                if size == 0 {
                    while !line(r)?.is_empty() {}
                    return Ok(total);
                }
                total += copy(r, Some(size), f)?;
                if !line(r)?.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a chunk is longer than its size",
                    ));
                }
            }
        }
    }
}

fn framing(head: &Head) -> io::Result<Framing> {
    if head.field("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
        return Ok(Framing::Chunked);
    }
    match head.field("content-length") {
        Some(n) => n.parse().map(Framing::Length).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("content-length `{n}` is not a number"))
        }),
        None => Ok(Framing::UntilClose),
    }
}

fn chunk_size(line: &str) -> io::Result<u64> {
    let digits = line.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("`{digits}` is not a chunk size")))
}

/// A short line without its end.
fn line(r: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Read::take(&mut *r, 1024).read_until(b'\n', &mut bytes)?;
    if bytes.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends early"));
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())
}

/// Hands on `limit` bytes, or all until the end.
fn copy(
    r: &mut impl BufRead,
    limit: Option<u64>,
    f: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut done = 0u64;
    while limit.is_none_or(|l| done < l) {
        let piece = r.fill_buf()?;
        if piece.is_empty() {
            let Some(l) = limit else { break };
            let text = format!("the connection ended after {done} of {l} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let n =
            limit.map_or(piece.len(), |l| piece.len().min(usize::try_from(l - done).unwrap_or(usize::MAX)));
        f(&piece[..n])?;
        r.consume(n);
        done += n as u64;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Result<(u64, Vec<u8>), String> {
        let mut r = text.as_bytes();
        let head = read_head(&mut r).map_err(|e| e.to_string())?.ok_or("nothing")?;
        let mut all = Vec::new();
        let mut keep = |b: &[u8]| {
            all.extend_from_slice(b);
            Ok(())
        };
        let n = read_body(&mut r, &head, &mut keep).map_err(|e| e.to_string())?;
        Ok((n, all))
    }

    #[test]
    fn three_framings() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"), Ok((3, b"abc".to_vec())));
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nabc"), Ok((3, b"abc".to_vec())));
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: 1\r\n\r\n";
        assert_eq!(body(chunked), Ok((3, b"abc".to_vec())));
    }

    #[test]
    fn broken_bodies_are_errors() {
        assert!(body("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").unwrap_err().contains("3 of 4"));
        assert!(body("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc").is_err());
        assert!(body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").is_err());
        assert!(body("HTTP/1.1 200").unwrap_err().contains("ends early"));
        assert!(
            body(&format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000)))
                .unwrap_err()
                .contains("too long")
        );
    }

    #[test]
    fn connection_persistence() {
        let head = |t: &str| read_head(&mut t.as_bytes()).unwrap().unwrap();
        assert!(!head("GET / HTTP/1.1\r\n\r\n").closes());
        assert!(head("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").closes());
        assert!(head("GET / HTTP/1.0\r\n\r\n").closes());
        assert!(!head("\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").closes());
    }
}
