//! Who may know whom (ARCHITECTURE.md), which libraries are allowed below `host`, and no Cargo features there.

use super::{Finding, below_host, short_name};
use crate::cargo::Package;

/// `(crate, crates it may depend on)`.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("core", &["wire"]),
    ("tcp", &["wire", "core"]),
    ("netfilter", &["wire", "core"]),
    ("bpf", &["wire", "core"]),
    ("bpf-jit", &["bpf"]),
    ("stack", &["wire", "core", "tcp", "netfilter", "bpf", "bpf-jit"]),
    ("linux", &["wire", "core", "tcp", "netfilter", "bpf", "bpf-jit", "stack"]),
    ("host", &["wire", "core", "tcp", "netfilter", "bpf", "bpf-jit", "stack", "linux"]),
    ("cli", &["wire", "core", "tcp", "netfilter", "bpf", "bpf-jit", "stack", "linux", "host"]),
    ("sim", &["wire", "core", "tcp", "netfilter", "bpf", "bpf-jit", "stack", "linux"]),
    ("bench", &["wire", "core", "tcp", "netfilter", "stack", "linux", "sim"]),
    ("xtask", &[]),
];

/// The test kit may be used by tests of the two crates at the edge.
const DEV_ARROWS: &[(&str, &str)] = &[("host", "sim"), ("cli", "sim")];

/// Libraries that code up to `linux` may use; tests may use others.
const LIBRARIES: &[&str] = &["zerocopy", "bytes", "slotmap", "smallvec", "bitflags", "hashbrown"];

/// Checks all members.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut out = Vec::new();
    for p in packages {
        let me = short_name(&p.name);
        let manifest = format!("{}/Cargo.toml", p.dir);
        let mut say = |rule, text| out.push(Finding::new(&manifest, 0, rule, text));
        let Some((_, allowed)) = ARROWS.iter().find(|(c, _)| *c == me) else {
            say(
                "arrow",
                format!("crate `{me}` is not in ARCHITECTURE.md; add it there and in xtask's ARROWS"),
            );
            continue;
        };
        for (dep, dev) in &p.deps {
            let to = short_name(dep);
            let own = packages.iter().any(|q| q.name == *dep);
            if own && !allowed.contains(&to) && !(*dev && DEV_ARROWS.contains(&(me, to))) {
                say("arrow", format!("`{me}` may not know `{to}`; {me} -> {}", list(allowed)));
            }
            if !own && !dev && below_host(&p.name) && !LIBRARIES.contains(&dep.as_str()) {
                let text = format!(
                    "`{me}` may not use the library `{dep}`; up to linux there are {}",
                    list(LIBRARIES)
                );
                say("library", text);
            }
        }
        if below_host(&p.name) {
            for f in &p.features {
                say(
                    "feature",
                    format!("feature `{f}`: there are none up to linux; make it a sysctl or a value"),
                );
            }
            if p.targets.iter().any(|(kind, _)| kind == "custom-build") {
                say(
                    "feature",
                    "a build script: there are none up to linux; generate the file and commit it".into(),
                );
            }
        }
    }
    out
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, deps: &[(&str, bool)]) -> Package {
        Package {
            name: name.to_owned(),
            dir: format!("crates/{}", short_name(name)),
            deps: deps.iter().map(|(d, dev)| ((*d).to_owned(), *dev)).collect(),
            ..Package::default()
        }
    }

    #[test]
    fn the_planned_arrows_pass() {
        let all = [
            package("ferronet-wire", &[("zerocopy", false), ("proptest", true)]),
            package("ferronet-core", &[("ferronet-wire", false)]),
            package("ferronet-sim", &[("ferronet-core", false)]),
            package("ferronet-host", &[("ferronet-core", false), ("rustix", false), ("ferronet-sim", true)]),
            package("ferronet", &[("ferronet-host", false), ("clap", false)]),
        ];
        assert_eq!(check(&all), []);
    }

    #[test]
    fn a_wrong_arrow_is_named_with_its_manifest() {
        let all = [package("ferronet-core", &[]), package("ferronet-wire", &[("ferronet-core", false)])];
        let f = check(&all);
        assert_eq!(f.len(), 1);
        assert_eq!((f[0].path.as_str(), f[0].rule), ("crates/wire/Cargo.toml", "arrow"));
        assert!(f[0].text.contains("`wire` may not know `core`"), "{}", f[0].text);
    }

    #[test]
    fn sim_never_knows_host_not_even_in_tests() {
        let all = [package("ferronet-host", &[]), package("ferronet-sim", &[("ferronet-host", true)])];
        assert_eq!(check(&all).len(), 1);
    }

    #[test]
    fn libraries_features_and_unknown_crates_are_found() {
        let mut tcp = package("ferronet-tcp", &[("rand", false), ("proptest", true)]);
        tcp.features = vec!["ipv6".to_owned()];
        tcp.targets = vec![("custom-build".to_owned(), "build-script-build".to_owned())];
        let rules: Vec<_> = check(&[tcp, package("ferronet-extra", &[])]).iter().map(|f| f.rule).collect();
        assert_eq!(rules, ["library", "feature", "feature", "arrow"]);
    }
}
