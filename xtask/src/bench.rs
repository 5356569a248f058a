//! `cargo xtask bench`: runs the bench binaries and writes BENCHMARKS.md.
//!
//! A bench is a binary of any member named `bench` or `bench-…`. It prints one JSON object per figure on standard
//! output (other lines are shown and ignored):
//!
//! `{"group":"TCP","name":"one flow over veth","value":35.1,"unit":"Gbit/s","peer":"smoltcp 0.14","peer_value":13.9,
//!   "ratio":2.52,"goal":">= 2.5 x","met":true}`
//!
//! `peer`, `peer_value`, `ratio`, `goal` and `met` may be missing; `why` in the place of `value` says why a figure was not
//! measured. Only ratios against a peer of the same run and
//! instruction counts mean something on a shared machine; the table says so.

use crate::cargo::{cargo, must, packages, root, show};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    group: String,
    name: String,
    /// The figure and its unit, or why there is none.
    value: Result<(f64, String), String>,
    peer: Option<(String, f64)>,
    ratio: Option<f64>,
    goal: Option<String>,
    met: Option<bool>,
}

/// Reads a figure; `None` when the line is ordinary output.
fn row(line: &str) -> Option<Row> {
    let v: Value = serde_json::from_str(line.trim()).ok()?;
    let text = |k: &str| v[k].as_str().map(str::to_owned);
    Some(Row {
        group: text("group")?,
        name: text("name")?,
        value: match text("why") {
            Some(why) => Err(why),
            None => Ok((v["value"].as_f64()?, text("unit")?)),
        },
        peer: text("peer").zip(v["peer_value"].as_f64()),
        ratio: v["ratio"].as_f64(),
        goal: text("goal"),
        met: v["met"].as_bool(),
    })
}

/// Runs all benches; `--out FILE` writes elsewhere.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let out = match args {
        [] => root().join("BENCHMARKS.md"),
        [o, file] if o == "--out" => file.into(),
        _ => return Err("usage: cargo xtask bench [--out FILE]".to_owned()),
    };
    let mut rows = Vec::new();
    let mut commands = Vec::new();
    // Benches of whole programs start the command itself.
    must(cargo().args(["build", "--release", "--quiet", "-p", "ferronet"]))?;
    for p in packages()? {
        for (kind, bin) in &p.targets {
            if kind == "bin" && (bin == "bench" || bin.starts_with("bench-")) {
                commands.push(one(&p.name, bin, &mut rows)?);
            }
        }
    }
    if rows.is_empty() {
        return Err("no bench binary printed a figure; nothing was written".to_owned());
    }
    std::fs::write(&out, render(&machine(), &commands, &rows))
        .map_err(|e| format!("{}: {e}", out.display()))?;
    println!("{} figures in {}", rows.len(), out.display());
    let missed: Vec<&str> = rows.iter().filter(|r| r.met == Some(false)).map(|r| r.name.as_str()).collect();
    if !missed.is_empty() {
        println!("goals not met: {}", missed.join("; "));
    }
    Ok(())
}

/// Runs one bench binary, shows its output and collects its figures.
fn one(package: &str, bin: &str, rows: &mut Vec<Row>) -> Result<String, String> {
    let mut c = cargo();
    c.args(["run", "--release", "--quiet", "-p", package, "--bin", bin]).stdout(Stdio::piped());
    let shown = show(&c);
    println!("+ {shown}");
    let mut child = c.spawn().map_err(|e| format!("`{shown}` did not start: {e}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|e| format!("reading the output of `{shown}`: {e}"))?;
            println!("{line}");
            rows.extend(row(&line));
        }
    }
    let status = child.wait().map_err(|e| format!("waiting for `{shown}`: {e}"))?;
    if status.success() { Ok(shown) } else { Err(format!("`{shown}` ended with {status}")) }
}

/// What the figures were measured on.
fn machine() -> String {
    let read = |f: &str| std::fs::read_to_string(f).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory = read("/proc/meminfo");
    let kib = memory.split_whitespace().nth(1).and_then(|k| k.parse::<u64>().ok()).unwrap_or(0);
    format!(
        "{}, {cores} processor(s), {} GiB, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kib / (1 << 20),
        kernel.trim()
    )
}

/// The page.
fn render(machine: &str, commands: &[String], rows: &[Row]) -> String {
    let mut s = format!(
        "# Benchmarks\n\nWritten by `cargo xtask bench`. Machine: {machine}.\n\nWall time on shared machines varies \
         by a factor of two: only a ratio against a peer measured in the same run, and instruction counts, can be \
         compared between runs.\n"
    );
    for c in commands {
        let _ = write!(s, "\n    {c}\n");
    }
    let mut groups: Vec<&str> = Vec::new();
    for r in rows {
        if !groups.contains(&r.group.as_str()) {
            groups.push(&r.group);
        }
    }
    for g in groups {
        let _ = write!(s, "\n## {g}\n\n| what | figure | peer | ratio | goal |\n|---|---|---|---|---|\n");
        for r in rows.iter().filter(|r| r.group == g) {
            let (value, unit) = match &r.value {
                Ok(v) => v,
                Err(why) => {
                    let _ = writeln!(s, "| {} | not measured: {why} |  |  |  |", r.name);
                    continue;
                }
            };
            let peer =
                r.peer.as_ref().map(|(n, v)| format!("{n}: {} {unit}", number(*v))).unwrap_or_default();
            let ratio = r.ratio.map(|x| format!("{x:.2}")).unwrap_or_default();
            let met = match r.met {
                Some(true) => " (met)",
                Some(false) => " (**not met**)",
                None => "",
            };
            let goal = r.goal.clone().unwrap_or_default();
            let _ =
                writeln!(s, "| {} | {} {unit} | {peer} | {ratio} | {goal}{met} |", r.name, number(*value));
        }
    }
    s
}

/// Three figures are enough; whole numbers from 100 on.
fn number(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_and_other_lines_are_not() {
        let r = row(r#"{"group":"TCP","name":"one flow","value":35,"unit":"Gbit/s","peer":"smoltcp","peer_value":14.0,"ratio":2.5,"goal":">= 2.5 x","met":true}"#).unwrap();
        assert_eq!(r.peer, Some(("smoltcp".to_owned(), 14.0)));
        assert_eq!(row("warming up"), None);
        assert_eq!(row(r#"{"group":"TCP"}"#), None);
        let page = render("a machine", &["cargo run".to_owned()], &[r]);
        assert!(
            page.contains("| one flow | 35.0 Gbit/s | smoltcp: 14.0 Gbit/s | 2.50 | >= 2.5 x (met) |"),
            "{page}"
        );
    }

    #[test]
    fn a_figure_that_was_not_measured_says_why() {
        let r = row(r#"{"group":"G","name":"n","why":"needs root"}"#).unwrap();
        assert!(render("m", &[], &[r]).contains("| n | not measured: needs root |"));
    }

    #[test]
    fn a_missed_goal_is_shown() {
        let r = row(r#"{"group":"G","name":"n","value":130,"unit":"ns","goal":"<= 120 ns","met":false}"#)
            .unwrap();
        assert!(render("m", &[], &[r]).contains("| n | 130 ns |  |  | <= 120 ns (**not met**) |"));
    }
}
