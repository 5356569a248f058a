//! `/proc/sys/net` of a fresh namespace, file by file, against a real one: names, modes, values, and what a list of
//! good and bad writes answers and leaves.

mod real;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use ferronet_core::{Errno, NsId};
use ferronet_linux::kernel::Config;
use ferronet_linux::{Caller, Kernel};
use real::RealNs;

/// Parts of the tree that come with modules and protocols we do not have.
const NOT_OURS: &[&str] = &["bridge", "mptcp", "netfilter", "nf_conntrack_max"];

/// Values that follow the machine: memory, the administrator's choice in the initial namespace.
const BY_MACHINE: &[&str] = &[
    "ipv4/tcp_congestion_control",
    "ipv4/tcp_available_congestion_control",
    "ipv4/tcp_allowed_congestion_control",
    "ipv4/tcp_ehash_entries",
    "ipv4/udp_hash_entries",
    "ipv4/tcp_rmem",
    "ipv4/tcp_wmem",
    "core/rmem_default",
    "core/rmem_max",
    "core/wmem_default",
    "core/wmem_max",
];

/// What is written to every file, each followed by the default again.
const WRITES: &[&str] = &[
    "",
    "\n",
    " ",
    "x",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "5",
    "31",
    "64",
    "127",
    "255",
    "256",
    "1000",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "99999999999",
    "1 2 3",
    "1 2",
    "1x",
    "0x10",
    "010",
    "+1",
    " 8 \n",
    "1,2",
    "4-8\n",
    "-2147483648",
    "-2147483649",
    "0000000000000000000001",
    "\t4\t8\n",
    "1 2 3 4",
    "reno\n",
    "1-2-3-4",
    "2001:db8::1\n",
    "32768 61000",
    "8 4",
];

/// What a file answers: the errno or 0, then what it reads.
type Answer = (u16, String);

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    dir: bool,
    mode: u16,
    value: Answer,
    writes: Vec<Answer>,
}

fn errno(e: &std::io::Error) -> u16 {
    e.raw_os_error().unwrap_or(5) as u16
}

fn read_real(p: &Path) -> Answer {
    match fs::read_to_string(p) {
        Ok(s) => (0, s),
        Err(e) => (errno(&e), String::new()),
    }
}

fn write_real(p: &Path, data: &str) -> u16 {
    let r = fs::OpenOptions::new().write(true).open(p).and_then(|mut f| f.write(data.as_bytes()));
    r.map_or_else(|e| errno(&e), |_| 0)
}

fn walk_real(root: &Path, rel: &str, out: &mut BTreeMap<String, Seen>) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut entries: Vec<_> = fs::read_dir(root.join(rel)).expect("a directory").flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for e in entries {
        let name = e.file_name().to_string_lossy().into_owned();
        let path = if rel.is_empty() { name } else { format!("{rel}/{name}") };
        if NOT_OURS.contains(&path.as_str()) {
            continue;
        }
        let file = root.join(&path);
        let meta = fs::metadata(&file).expect("it was listed");
        let mode = (meta.permissions().mode() & 0o777) as u16;
        let mut seen = Seen { dir: meta.is_dir(), mode, value: (0, String::new()), writes: Vec::new() };
        if seen.dir {
            out.insert(path.clone(), seen);
            walk_real(root, &path, out);
            continue;
        }
        // A write-only file opens for root, and then there is nothing to read.
        seen.value = read_real(&file);
        if mode & 0o200 != 0 {
            for w in WRITES {
                let r = write_real(&file, w);
                seen.writes.push((r, read_real(&file).1));
                if seen.value.0 == 0 {
                    write_real(&file, &seen.value.1);
                }
            }
        }
        out.insert(path, seen);
    }
}

fn call<R>(k: &mut Kernel, ns: NsId, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> R) -> R {
    let mut none = |_| None;
    f(k, &mut Caller { ns, pid: 1, uid: 0, caps: &ferronet_linux::Caps::all, resolve_ns: &mut none })
}

fn read_ours(k: &mut Kernel, ns: NsId, path: &str) -> Answer {
    match call(k, ns, |k, c| k.proc_open(c, path)) {
        Ok(b) => (0, String::from_utf8(b).expect("text")),
        Err(e) => (e.0, String::new()),
    }
}

fn write_ours(k: &mut Kernel, ns: NsId, path: &str, data: &str) -> u16 {
    let r = call(k, ns, |k, c| k.proc_write(c, path, data.as_bytes()));
    r.map_or_else(|e: Errno| e.0, |_| 0)
}

fn walk_ours(k: &mut Kernel, ns: NsId, rel: &str, out: &mut BTreeMap<String, Seen>) {
    let list = k.proc_list(ns, &format!("sys/net/{rel}")).expect("a directory");
    for (name, dir) in list {
        let path = if rel.is_empty() { name } else { format!("{rel}/{name}") };
        let file = format!("sys/net/{path}");
        let st = k.proc_stat(ns, &file).expect("it was listed");
        let mut seen = Seen { dir, mode: st.mode, value: (0, String::new()), writes: Vec::new() };
        assert_eq!(st.dir, dir, "{path}");
        if dir {
            out.insert(path.clone(), seen);
            walk_ours(k, ns, &path, out);
            continue;
        }
        seen.value = read_ours(k, ns, &file);
        if st.mode & 0o200 != 0 {
            for w in WRITES {
                let r = write_ours(k, ns, &file, w);
                seen.writes.push((r, read_ours(k, ns, &file).1));
                if seen.value.0 == 0 {
                    let default = seen.value.1.clone();
                    write_ours(k, ns, &file, &default);
                }
            }
        }
        out.insert(path, seen);
    }
}

/// The kernel counts jiffies: a time in milliseconds is rounded up to 4 at HZ 250, a tick of 10 ms to what 4 ms
/// steps give, and values beyond an int come out as accidents. We keep the number.
fn rounded(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    let ticks = ["anycast_delay", "locktime", "proxy_delay", "retrans_time"];
    file.ends_with("_ms") || ticks.contains(&file) || file.ends_with("ratelimit") || file.starts_with("mldv")
}

/// A processor mask that is refused is half taken over.
fn accident(path: &str, real: &Answer) -> bool {
    path == "core/rps_default_mask" && real.0 != 0
}

fn difference(path: &str, real: &Seen, ours: &Seen, out: &mut Vec<String>) {
    if (real.dir, real.mode) != (ours.dir, ours.mode) {
        out.push(format!("{path}: mode {:o}, ours {:o}", real.mode, ours.mode));
    }
    let machine = BY_MACHINE.contains(&path);
    if real.value != ours.value && !machine {
        out.push(format!("{path}: value {:?}, ours {:?}", real.value, ours.value));
    }
    for ((w, r), o) in WRITES.iter().zip(&real.writes).zip(&ours.writes) {
        // With another default, only values that were written and kept are the same.
        let kept = r.1.trim() == w.trim();
        let same = r.0 == o.0 && (r.1 == o.1 || (machine && !kept) || rounded(path) || accident(path, r));
        if !same {
            out.push(format!("{path}: writing {w:?} gives {r:?}, ours {o:?}"));
        }
    }
}

#[test]
fn every_sysctl_file_answers_like_the_kernels() {
    let Some(ns) = RealNs::new("sysctl_twin") else { return };
    let mut real = BTreeMap::new();
    ns.inside(|| walk_real(Path::new("/proc/sys/net"), "", &mut real));
    let mut k = Kernel::new(Config { seed: 1, ..Config::default() });
    k.ns_create(1).expect("the initial one");
    let id = k.ns_create(2).expect("a second one");
    let mut ours = BTreeMap::new();
    walk_ours(&mut k, id, "", &mut ours);
    let mut diff = Vec::new();
    for (path, r) in &real {
        match ours.get(path) {
            Some(o) => difference(path, r, o, &mut diff),
            None => diff.push(format!("{path}: not ours")),
        }
    }
    diff.extend(ours.keys().filter(|p| !real.contains_key(*p)).map(|p| format!("{p}: only ours")));
    assert!(real.len() > 400, "{}", real.len());
    assert!(diff.is_empty(), "{} differences:\n{}", diff.len(), diff.join("\n"));
}
