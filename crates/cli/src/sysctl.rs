//! `ferronet sysctl --explain`: the registry, with what each setting does.

mod text;

use crate::args::SysctlArgs;
use ferronet_core::Sysctl;
use ferronet_core::sysctl::{Conf4, Conf6, Default, Kind, NeighParm};
use serde_json::{Value, json};
use std::io::{self, Write};

/// One setting.
struct Setting {
    /// As sysctl(8) writes it.
    name: String,
    default: String,
    range: String,
    writable: bool,
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
        let one = |s: &Setting| json!({"name": s.name, "default": s.default, "range": s.range, "writable": s.writable, "meaning": text::meaning(&s.name)});
        out = Value::Array(found.iter().map(one).collect()).to_string() + "\n";
    } else {
        for s in &found {
            let access = if s.writable { "" } else { ", read-only" };
            out += &format!(
                "{} = {} ({}{access})\n    {}\n",
                s.name,
                s.default,
                s.range,
                text::meaning(&s.name)
            );
        }
    }
    match io::stdout().write_all(out.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other.map(|()| 0).map_err(|e| format!("standard output: {e}")),
    }
}

fn all() -> Vec<Setting> {
    let mut all: Vec<Setting> = Sysctl::DEFS
        .iter()
        .map(|d| Setting {
            name: format!("net.{}", d.path.replace('/', ".")),
            default: match (d.default, d.kind) {
                (Default::S(s), _) => format!("\"{s}\""),
                (Default::N(n), Kind::Ints(count)) => {
                    n.iter().take(usize::from(count)).map(i64::to_string).collect::<Vec<_>>().join(" ")
                }
                (Default::N(n), Kind::Int(..) | Kind::Str) => n[0].to_string(),
            },
            range: match d.kind {
                Kind::Int(lo, i64::MAX) => format!("from {lo}"),
                Kind::Int(lo, hi) if hi == i64::from(i32::MAX) => format!("from {lo}"),
                Kind::Int(lo, hi) => format!("{lo} to {hi}"),
                Kind::Ints(n) => format!("{n} numbers"),
                Kind::Str => "text".to_owned(),
            },
            writable: d.writable,
        })
        .collect();
    let device = |prefix: &str, name: &str, default: i32| Setting {
        name: format!("{prefix}.DEV.{name}"),
        default: default.to_string(),
        range: "for each device DEV, and for `default` (new devices) and `all`".to_owned(),
        writable: true,
    };
    all.extend(Conf4::NAMES.iter().zip(Conf4::DEFAULTS).map(|(n, d)| device("net.ipv4.conf", n, d)));
    all.extend(Conf6::NAMES.iter().zip(Conf6::DEFAULTS).map(|(n, d)| device("net.ipv6.conf", n, d)));
    all.extend(NeighParm::NAMES.iter().zip(NeighParm::DEFAULTS).map(|(n, d)| device("net.ipv4.neigh", n, d)));
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
