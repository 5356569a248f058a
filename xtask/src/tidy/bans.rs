//! What code may not name: hosts' things below `host`, and unsafe anywhere but at the edge.

use super::lexer::{Source, words};
use super::{Finding, below_host, short_name};

/// `(path, rule, advice)`; a path matches itself and everything below it.
const PATHS: &[(&str, &str, &str)] = &[
    ("std::net::TcpStream", "std-net", "sockets belong to host; addresses (IpAddr …) are fine"),
    ("std::net::TcpListener", "std-net", "sockets belong to host"),
    ("std::net::UdpSocket", "std-net", "sockets belong to host"),
    ("std::net::ToSocketAddrs", "std-net", "name resolution belongs to host"),
    ("std::net::*", "std-net", "name the addresses you need"),
    ("std::time::Instant", "clock", "`now` arrives as a value: ferronet_core::time::Instant"),
    ("std::time::SystemTime", "clock", "wall-clock time arrives as a value"),
    ("std::time::UNIX_EPOCH", "clock", "wall-clock time arrives as a value"),
    ("std::time::*", "clock", "name the types you need"),
    ("std::thread", "thread", "threads belong to host; only thread::panicking is allowed"),
    ("std::fs", "fs", "files belong to host"),
    ("std::io::stdout", "print", "return text; the command prints it"),
    ("std::io::stderr", "print", "return text; the command prints it"),
    ("std::process", "process", "processes belong to host"),
    ("std::env", "process", "the environment belongs to host; options arrive as values"),
    ("std::os", "fd", "descriptors belong to host"),
    ("std::collections::HashMap", "hashmap", "use hashbrown with the seeded hasher of ferronet_core"),
    ("std::collections::HashSet", "hashmap", "use hashbrown with the seeded hasher of ferronet_core"),
    ("std::collections::hash_map", "hashmap", "use hashbrown with the seeded hasher of ferronet_core"),
    ("std::hash::RandomState", "hashmap", "use the seeded hasher of ferronet_core"),
    ("std::collections::*", "hashmap", "name the types you need"),
    ("std::sync::Mutex", "lock", "whoever holds &mut Namespace is the kernel"),
    ("std::sync::RwLock", "lock", "whoever holds &mut Namespace is the kernel"),
    ("std::sync::atomic", "lock", "whoever holds &mut Namespace is the kernel"),
    ("core::sync::atomic", "lock", "whoever holds &mut Namespace is the kernel"),
];

/// Macros nobody below `host` calls.
const MACROS: &[(&str, &str, &str)] = &[
    ("println", "print", "return text; the command prints it"),
    ("eprintln", "print", "return text; the command prints it"),
    ("print", "print", "return text; the command prints it"),
    ("eprint", "print", "return text; the command prints it"),
    ("dbg", "print", "a debugging aid was left behind"),
    ("thread_local", "thread", "state belongs to a Namespace"),
];

/// Checks one file of a package.
pub(super) fn check(package: &str, s: &Source) -> Vec<Finding> {
    let mut out = Vec::new();
    if !matches!(short_name(package), "host" | "bpf-jit") {
        for at in words(&s.code, "unsafe") {
            let text =
                "unsafe belongs to host (and bpf-jit); find a safe way or move the code there".to_owned();
            out.push(Finding::new(&s.path, s.line(at), "unsafe", text));
        }
    }
    for (name, advice) in
        [("todo", "finish it"), ("unimplemented", "finish it, or return an error that says so")]
    {
        for at in macro_calls(&s.code, name) {
            out.push(Finding::new(&s.path, s.line(at), "todo", format!("`{name}!`: {advice}")));
        }
    }
    if below_host(package) {
        sans_io(s, &mut out);
    }
    out
}

/// The bans for everything up to `linux`; tests may print, read files and use other maps, but not the clock.
fn sans_io(s: &Source, out: &mut Vec<Finding>) {
    for (at, path) in s.paths() {
        let path = path.strip_prefix("::").unwrap_or(&path).replacen("alloc::", "std::", 1);
        let hit = PATHS
            .iter()
            .find(|(p, ..)| path == *p || path.strip_prefix(p).is_some_and(|r| r.starts_with("::")));
        let Some((_, rule, advice)) = hit else { continue };
        let panicking = path == "std::thread::panicking";
        let in_test = s.in_test(at) && matches!(*rule, "fs" | "hashmap" | "print" | "process" | "lock");
        if !(panicking || in_test) {
            out.push(Finding::new(&s.path, s.line(at), rule, format!("`{path}`: {advice}")));
        }
    }
    for (name, rule, advice) in MACROS {
        for at in macro_calls(&s.code, name).filter(|at| !s.in_test(*at)) {
            out.push(Finding::new(&s.path, s.line(at), rule, format!("`{name}!`: {advice}")));
        }
    }
    for word in ["cfg", "cfg_attr"] {
        for at in words(&s.code, word) {
            let rest = s.code[at + word.len()..].trim_start_matches('!').trim_start();
            let argument =
                rest.strip_prefix('(').map(|r| r.trim_start().split([',', ')']).next().unwrap_or("").trim());
            if argument.is_some_and(|a| a != "test") {
                let text =
                    "cfg other than test: there are none up to linux; make it a sysctl or a value".to_owned();
                out.push(Finding::new(&s.path, s.line(at), "cfg", text));
            }
        }
    }
    for at in words(&s.code, "async").chain(words(&s.code, "RefCell")) {
        if !s.in_test(at) {
            let text = "no async and no RefCell up to linux: state is owned and passed as &mut".to_owned();
            out.push(Finding::new(&s.path, s.line(at), "ownership", text));
        }
    }
    if s.path.ends_with("src/lib.rs") && !s.code.replace(' ', "").contains("#![forbid(unsafe_code)]") {
        let text = "a crate up to linux starts with #![forbid(unsafe_code)]".to_owned();
        out.push(Finding::new(&s.path, 1, "unsafe", text));
    }
}

/// Where a macro is called.
fn macro_calls<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    words(code, name).filter(move |at| {
        code[at + name.len()..].starts_with('!') && !code[at + name.len()..].starts_with("!=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(package: &str, text: &str) -> Vec<(&'static str, usize)> {
        check(package, &Source::new("crates/x/src/a.rs", text)).iter().map(|f| (f.rule, f.line)).collect()
    }

    #[test]
    fn hosts_things_are_found_below_host_only() {
        let text = "use std::time::{Duration, Instant};\nuse std::net::{IpAddr, TcpStream};\nfn f() { std::thread::spawn(g); }\n\
                    use std::fs;\nuse std::collections::{BTreeMap, HashMap};\nfn g() { println!(\"\"); }\n";
        let want = [("clock", 1), ("std-net", 2), ("fs", 4), ("hashmap", 5), ("thread", 3), ("print", 6)];
        assert_eq!(rules("ferronet-tcp", text), want);
        assert_eq!(rules("ferronet-host", text), []);
    }

    #[test]
    fn allowed_things_pass() {
        let text = "//! println! std::fs\nuse core::time::Duration;\nfn f() { if std::thread::panicking() {} let s = \"unsafe\"; }\n\
                    #[cfg(test)]\nmod tests { fn t() { println!(\"{}\", std::fs::read(\"x\").len()); } }\n";
        assert_eq!(rules("ferronet-tcp", text), []);
    }

    #[test]
    fn unsafe_cfg_async_and_todo() {
        let text = "fn f() { unsafe { g() } }\n#[cfg(feature = \"x\")]\nfn a() { todo!() }\nasync fn b() {}\n#[cfg_attr(test, derive(Debug))]\nstruct S;\n";
        assert_eq!(rules("ferronet-stack", text), [("unsafe", 1), ("todo", 3), ("cfg", 2), ("ownership", 4)]);
        assert_eq!(rules("ferronet", text), [("unsafe", 1), ("todo", 3)]);
        assert_eq!(rules("ferronet-host", text), [("todo", 3)]);
    }

    #[test]
    fn lib_rs_forbids_unsafe() {
        let lib = |t| check("ferronet-wire", &Source::new("crates/wire/src/lib.rs", t)).len();
        assert_eq!((lib("#![forbid(unsafe_code)]"), lib("//! #![forbid(unsafe_code)]")), (0, 1));
    }
}
