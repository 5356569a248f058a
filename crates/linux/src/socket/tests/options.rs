//! Options of fresh sockets, every level and number, against the kernel's own answers (`options.txt`).

use super::*;

/// What differs, and why: (kind or "", level, name, get differs, set differs).
const KNOWN: &[(&str, i32, i32, bool, bool)] = &[
    // SO_COOKIE: any number.
    ("", 1, 57, true, false),
    // No eBPF programs: a descriptor is not looked at.
    ("", 1, 50, false, true),
    ("", 1, 52, false, true),
    // Zero copy would need completions.
    ("", 1, 60, false, true),
    // TCP_INFO and TCP_CC_INFO of a closed socket, TCP_CONGESTION: defaults of the machine; TCP_TIMESTAMP: a clock.
    ("", 6, 11, true, false),
    ("", 6, 13, true, false),
    ("", 6, 26, true, false),
    ("", 6, 24, true, false),
    // TCP_REPAIR, TCP_FASTOPEN_CONNECT: refused.
    ("", 6, 19, false, true),
    ("", 6, 30, false, true),
    // UDP_ENCAP: no ESP. IPV6_HDRINCL, PACKET_VNET_HDR, rings: refused.
    ("", 17, 100, false, true),
    ("raw6", 41, 36, false, true),
    ("packet", 263, 15, false, true),
];

fn kind(k: &str) -> (i32, i32, i32) {
    match k {
        "tcp" => (2, 1, 0),
        "tcp6" => (10, 1, 0),
        "udp" => (2, 2, 0),
        "udp6" => (10, 2, 0),
        "raw" => (2, 3, 1),
        "raw6" => (10, 3, 58),
        _ => (17, 3, 0),
    }
}

#[test]
fn every_option_answers_as_linux_does() {
    let mut l = Lab::new();
    let mut wrong = Vec::new();
    // Which entries of KNOWN still stand for a difference: of get, of set.
    let mut needed = vec![(false, false); KNOWN.len()];
    for row in include_str!("options.txt").lines().filter(|r| !r.starts_with('#')) {
        let f: Vec<&str> = row.split(' ').collect();
        let [k, level, name, get, set] = f[..] else { panic!("{row}") };
        let (level, name): (i32, i32) = (level.parse().unwrap(), name.parse().unwrap());
        let known = |set: bool| {
            KNOWN.iter().position(|e| {
                (e.0.is_empty() || e.0 == k) && (e.1, e.2) == (level, name) && if set { e.4 } else { e.3 }
            })
        };
        let (fam, ty, proto) = kind(k);
        // Only lo, as in the empty namespace that was asked.
        let a = l.empty();
        let s = l.socket(a, fam, ty, proto).unwrap();
        let got = match l.k.getsockopt(s, level, name, 64) {
            Ok(v) if v.is_empty() => "-".to_owned(),
            Ok(v) => v.iter().map(|b| format!("{b:02x}")).collect(),
            Err(e) => format!("!{}", e.0),
        };
        l.k.close(s);
        if got != get {
            match known(false) {
                Some(i) => needed[i].0 = true,
                None => wrong.push(format!("{k} {level} {name}: get {got}, Linux {get}")),
            }
        }
        let mut codes = Vec::new();
        for v in [
            &[255; 4][..],
            &[0; 4],
            &[1, 0, 0, 0],
            &[2, 0, 0, 0],
            &300i32.to_ne_bytes(),
            &70000i32.to_ne_bytes(),
            &[1],
        ] {
            let s = l.socket(a, fam, ty, proto).unwrap();
            codes.push(l.set(s, level, name, v).map_or_else(|e| e.0.to_string(), |()| "0".to_owned()));
            l.k.close(s);
        }
        let got = codes.join(",");
        if got != set {
            match known(true) {
                Some(i) => needed[i].1 = true,
                None => wrong.push(format!("{k} {level} {name}: set {got}, Linux {set}")),
            }
        }
    }
    for (e, n) in KNOWN.iter().zip(needed) {
        if (e.3, e.4) != n {
            wrong.push(format!("KNOWN is stale: {e:?}, differing {n:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
