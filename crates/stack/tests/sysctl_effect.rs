//! What `ferronet sysctl --explain` calls effective is read by the stack.

use std::collections::BTreeSet;
use std::path::Path;

use ferronet_core::sysctl::effect::{CONF4, CONF6, NEIGH, NET};

fn sources(dir: &Path, out: &mut Vec<String>) {
    for e in std::fs::read_dir(dir).expect("the crate's sources").map(|e| e.expect("an entry").path()) {
        if e.is_dir() {
            sources(&e, out);
        } else if e.extension().is_some_and(|x| x == "rs") && !e.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&e).expect("text");
            out.push(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned());
        }
    }
}

/// All `Enum::Name` of the four tables.
fn mentioned() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for c in ["src", "../tcp/src", "../linux/src"] {
        sources(&root.join(c), &mut texts);
    }
    let mut out = BTreeSet::new();
    for t in &texts {
        for kind in ["Sysctl", "Conf4", "Conf6", "NeighParm"] {
            for (at, _) in t.match_indices(&format!("{kind}::")) {
                let rest =
                    t[at + kind.len() + 2..].split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                // Constants and functions of the tables are not tunables.
                if rest.chars().any(char::is_lowercase) && rest.starts_with(char::is_uppercase) {
                    out.insert(format!("{kind}::{rest}"));
                }
            }
        }
    }
    out
}

#[test]
fn effective_tunables_are_read_by_the_stack() {
    let mut said = BTreeSet::new();
    said.extend(NET.iter().map(|s| format!("Sysctl::{s:?}")));
    said.extend(CONF4.iter().map(|s| format!("Conf4::{s:?}")));
    said.extend(CONF6.iter().map(|s| format!("Conf6::{s:?}")));
    said.extend(NEIGH.iter().map(|s| format!("NeighParm::{s:?}")));
    let read = mentioned();
    let idle: Vec<_> = said.difference(&read).collect();
    assert!(idle.is_empty(), "core/src/sysctl/effect.rs names tunables that nothing reads: {idle:?}");
}
