//! A pcapng writer (draft-ietf-opsawg-pcapng): one section, interfaces as they appear, packets with comments.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// LINKTYPE_ETHERNET and LINKTYPE_RAW (bare IP packets).
const LINKTYPE_ETHERNET: u16 = 1;
const LINKTYPE_RAW: u16 = 101;

/// Writes packets to `out`.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    interfaces: BTreeMap<(String, bool), u32>,
}

impl<W: Write> Writer<W> {
    /// Starts a file.
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        body.extend_from_slice(&1u16.to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        option(&mut body, 4, b"ferronet"); // shb_userappl
        option(&mut body, 0, b"");
        block(&mut out, 0x0a0d_0d0a, &body)?;
        Ok(Writer { out, interfaces: BTreeMap::new() })
    }

    /// Adds a packet; `bytes` are its first ones, `len` its length on the wire, `time_ns` since 1970.
    pub(crate) fn packet(
        &mut self,
        interface: &str,
        time_ns: u64,
        bytes: &[u8],
        len: u32,
        comment: Option<&str>,
    ) -> io::Result<()> {
        let ethernet = is_ethernet(bytes);
        let id = self.interface(interface, ethernet)?;
        let mut body = Vec::with_capacity(bytes.len() + 64);
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(&((time_ns >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(time_ns as u32).to_le_bytes());
        body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(&len.max(bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        if let Some(c) = comment {
            option(&mut body, 1, &c.as_bytes()[..c.len().min(60_000)]); // opt_comment
            option(&mut body, 0, b"");
        }
        block(&mut self.out, 6, &body)
    }

    /// Writes what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn interface(&mut self, name: &str, ethernet: bool) -> io::Result<u32> {
        let key = (name.to_owned(), ethernet);
        if let Some(id) = self.interfaces.get(&key) {
            return Ok(*id);
        }
        let id = self.interfaces.len() as u32;
        let mut body = Vec::new();
        body.extend_from_slice(&(if ethernet { LINKTYPE_ETHERNET } else { LINKTYPE_RAW }).to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&0u32.to_le_bytes());
        option(&mut body, 2, name.as_bytes()); // if_name
        option(&mut body, 9, &[9]); // if_tsresol: nanoseconds
        option(&mut body, 0, b"");
        block(&mut self.out, 1, &body)?;
        self.interfaces.insert(key, id);
        Ok(id)
    }
}

/// A record starts with the link header on devices and with the IP header in between.
fn is_ethernet(bytes: &[u8]) -> bool {
    let ip = |at: usize| bytes.get(at).is_some_and(|b| matches!(b >> 4, 4 | 6));
    match bytes.get(12..14) {
        Some([0x08, 0x00] | [0x86, 0xdd]) => ip(14),
        Some([0x08, 0x06]) => true,
        _ => !ip(0),
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&len)?;
    out.write_all(body)?;
    out.write_all(&len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_framed_and_interfaces_written_once() {
        let mut w = Writer::new(Vec::new()).unwrap();
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        w.packet("eth0", 1_700_000_000_123_456_789, &frame, 1500, Some("rx eth0")).unwrap();
        w.packet("eth0", 5, &frame[14..], 46, None).unwrap();
        w.packet("eth0", 6, &frame, 60, None).unwrap();
        let mut rest = w.out.as_slice();
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let len = word(4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(len - 4) as usize, len);
            kinds.push(word(0));
            rest = &rest[len..];
        }
        // Section, Ethernet interface, packet, raw interface, packet, packet.
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 1, 6, 6]);
    }
}
