//! `ferronet sysctl --explain`: the registry, with what each setting does.

use crate::args::SysctlArgs;
use ferronet_core::Sysctl;
use ferronet_core::sysctl::{Conf4, Conf6, NeighParm, Tunable, effective, text};
use serde_json::{Value, json};
use std::io::{self, Write};

/// One setting.
struct Setting {
    /// As sysctl(8) writes it.
    name: String,
    default: String,
    range: String,
    writable: bool,
    /// The stack reads it.
    effective: bool,
}

/// Prints the settings.
pub(crate) fn explain(args: &SysctlArgs) -> Result<u8, String> {
    let wanted = args.name.as_deref().unwrap_or_default().replace('/', ".");
    let found: Vec<Setting> = all().into_iter().filter(|s| s.name.contains(&wanted)).collect();
    if found.is_empty() {
        return Err(format!("no setting has `{wanted}` in its name"));
    }
    let mut out = String::new();
    if args.json {
        let one = |s: &Setting| json!({"name": s.name, "default": s.default, "range": s.range, "writable": s.writable, "effective": s.effective, "meaning": text::meaning(&s.name)});
        out = Value::Array(found.iter().map(one).collect()).to_string() + "\n";
    } else {
        for s in &found {
            let access = if s.writable { "" } else { ", read-only" };
            let note = if s.effective { "" } else { " (no effect here: checked and kept only)" };
            let meaning = text::meaning(&s.name);
            out += &format!("{} = {} ({}{access})\n    {meaning}{note}\n", s.name, s.default, s.range);
        }
    }
    match io::stdout().write_all(out.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other.map(|()| 0).map_err(|e| format!("standard output: {e}")),
    }
}

fn all() -> Vec<Setting> {
    let mut all: Vec<Setting> = Sysctl::ALL
        .iter()
        .map(|s| (s, s.def()))
        .map(|(s, d)| Setting {
            name: format!("net.{}", d.path.replace('/', ".")),
            default: d.default_text(),
            range: d.kind.range(),
            writable: d.access.mode(true).is_some_and(|m| m & 0o200 != 0),
            effective: effective(Tunable::Net(*s)),
        })
        .collect();
    let device = |prefix: &str, name: &str, default: i32, t: Tunable| Setting {
        name: format!("{prefix}.DEV.{name}"),
        default: default.to_string(),
        range: "for each device DEV, and for `default` (new devices) and `all`".to_owned(),
        writable: true,
        effective: effective(t),
    };
    let named = |c: usize, names: &[&'static str]| names.get(c).copied().unwrap_or_default();
    for (c, d) in Conf4::ALL.iter().zip(Conf4::DEFAULTS) {
        all.push(device("net.ipv4.conf", named(*c as usize, Conf4::NAMES), d, Tunable::Conf4(*c)));
    }
    for (c, d) in Conf6::ALL.iter().zip(Conf6::DEFAULTS) {
        all.push(device("net.ipv6.conf", named(*c as usize, Conf6::NAMES), d, Tunable::Conf6(*c)));
    }
    for (c, d) in NeighParm::ALL.iter().zip(NeighParm::DEFAULTS) {
        all.push(device("net.ipv4.neigh", named(*c as usize, NeighParm::NAMES), d, Tunable::Neigh(*c)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        let missing: Vec<String> =
            all().into_iter().map(|s| s.name).filter(|n| text::find(n).is_none()).collect();
        assert!(missing.is_empty(), "no text in sysctl/text.rs for: {missing:#?}");
    }

    #[test]
    fn every_text_belongs_to_a_setting() {
        let names: Vec<String> = all().into_iter().map(|s| s.name).collect();
        let stray: Vec<String> = text::names().filter(|t| !names.iter().any(|n| n == t)).collect();
        assert!(stray.is_empty(), "sysctl/text.rs explains what is not there: {stray:?}");
    }
}
