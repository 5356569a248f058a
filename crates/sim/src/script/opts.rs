//! TCP options as text, both ways, written apart from the crate under test.

use super::flow::{Flow, REMOTE_ISN};

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// The options of a packet that came out; SACK blocks count from the remote's first sequence number.
pub(super) fn to_text(mut b: &[u8], flow: Option<&mut Flow>) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut tsval = None;
    while let Some(&kind) = b.first() {
        if kind < 2 {
            out.push(["eol", "nop"][usize::from(kind)].to_owned());
            b = &b[1..];
            continue;
        }
        let len = usize::from(b.get(1).copied().unwrap_or(0));
        let Some(o) = b.get(..len).filter(|_| len >= 2) else {
            out.push(format!("broken {kind}"));
            break;
        };
        b = &b[len..];
        out.push(match (kind, len) {
            (2, 4) => format!("mss {}", be16(o, 2).unwrap_or(0)),
            (3, 3) => format!("wscale {}", o[2]),
            (4, 2) => "sackOK".to_owned(),
            (5, _) => {
                let blocks = o[2..].chunks_exact(8).map(|c| {
                    let at = |i| be32(c, i).unwrap_or(0).wrapping_sub(REMOTE_ISN);
                    format!("{}:{}", at(0), at(4))
                });
                format!("sack {}", blocks.collect::<Vec<_>>().join(" "))
            }
            (8, 10) => {
                tsval = be32(o, 2);
                format!("TS val ~ ecr {}", be32(o, 6).unwrap_or(0))
            }
            _ => format!("opt {kind} {}", hex(&o[2..])),
        });
    }
    if let (Some(f), Some(v)) = (flow, tsval) {
        f.last_tsval = v;
    }
    out.join(",")
}

/// Bytes as digits.
pub(super) fn hex(b: &[u8]) -> String {
    b.iter().map(|x| format!("{x:02x}")).collect()
}

/// Digits as bytes.
pub(super) fn unhex(s: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = s.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    if !digits.len().is_multiple_of(2) || digits.len() != s.len() {
        return Err(format!("`{s}` are no hexadecimal bytes"));
    }
    Ok(digits.chunks_exact(2).map(|c| c[0] << 4 | c[1]).collect())
}

/// The options of a packet that goes in, padded to words; SACK blocks count from our first sequence number.
pub(super) fn from_text(text: &str, flow: &Flow) -> Result<Vec<u8>, String> {
    let isn = flow.local_isn.unwrap_or(0);
    let mut b = Vec::new();
    for o in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
        let w: Vec<&str> = o.split_whitespace().collect();
        let num = |i: usize| -> Result<u32, String> {
            w.get(i).and_then(|s| s.parse().ok()).ok_or_else(|| format!("option `{o}`: a number is missing"))
        };
        match w[0] {
            "eol" => b.push(0),
            "nop" => b.push(1),
            "mss" => {
                b.extend([2, 4]);
                b.extend((num(1)? as u16).to_be_bytes());
            }
            "wscale" => b.extend([3, 3, num(1)? as u8]),
            "sackOK" => b.extend([4, 2]),
            "sack" => {
                b.extend([5, (2 + 8 * (w.len() - 1)) as u8]);
                for block in &w[1..] {
                    let (s, e) = block.split_once(':').ok_or("a SACK block is FIRST:END")?;
                    for x in [s, e] {
                        let x: u32 = x.parse().map_err(|_| format!("`{block}` is no SACK block"))?;
                        b.extend(isn.wrapping_add(x).to_be_bytes());
                    }
                }
            }
            "TS" => {
                let ecr = match w.get(4) {
                    Some(&"~") => flow.last_tsval,
                    _ => num(4)?,
                };
                b.extend([8, 10]);
                b.extend(num(2)?.to_be_bytes());
                b.extend(ecr.to_be_bytes());
            }
            "opt" => {
                let data = unhex(w.get(2).copied().unwrap_or(""))?;
                b.extend([num(1)? as u8, 2 + data.len() as u8]);
                b.extend(data);
            }
            _ => return Err(format!("`{o}` is no option")),
        }
    }
    // Zeros behind the last option end the list.
    b.resize(b.len().next_multiple_of(4), 0);
    Ok(b)
}
