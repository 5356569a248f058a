//! What cargo knows about the workspace, and how to call it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's directory: the parent of xtask's own manifest.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A `cargo` command in the workspace's directory (the same cargo that runs xtask).
pub(crate) fn cargo() -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(root());
    c
}

/// Runs a command with its output shown; an error names the command and how it ended.
pub(crate) fn must(cmd: &mut Command) -> Result<(), String> {
    let shown = show(cmd);
    println!("+ {shown}");
    match cmd.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("`{shown}` ended with {s}")),
        Err(e) => Err(format!("`{shown}` did not start: {e}")),
    }
}

/// The command as a person would type it.
pub(crate) fn show(cmd: &Command) -> String {
    let program = Path::new(cmd.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    cmd.get_args().fold(program, |s, a| s + " " + &a.to_string_lossy())
}

/// One member of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    /// Package name, for example `ferronet-tcp`.
    pub name: String,
    /// Directory relative to the workspace.
    pub dir: String,
    /// `(name, is a dev-dependency)` of every dependency.
    pub deps: Vec<(String, bool)>,
    /// Names of Cargo features it declares.
    pub features: Vec<String>,
    /// `(kind, name)` of every target: ("bin", "bench").
    pub targets: Vec<(String, String)>,
}

/// Asks `cargo metadata` for the members of the workspace.
pub(crate) fn packages() -> Result<Vec<Package>, String> {
    let out = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|e| format!("`cargo metadata` did not start: {e}"))?;
    if !out.status.success() {
        return Err(format!("`cargo metadata` failed:\n{}", String::from_utf8_lossy(&out.stderr)));
    }
    parse_metadata(&out.stdout, &root())
}

/// Reads the members out of `cargo metadata`'s JSON.
pub(crate) fn parse_metadata(json: &[u8], root: &Path) -> Result<Vec<Package>, String> {
    let v: Value = serde_json::from_slice(json).map_err(|e| format!("`cargo metadata` is not JSON: {e}"))?;
    let list = v["packages"].as_array().ok_or("`cargo metadata` has no packages")?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Ok(list
        .iter()
        .map(|p| {
            let manifest = PathBuf::from(text(&p["manifest_path"]));
            let dir = manifest.parent().unwrap_or(root);
            let each = |key: &str| p[key].as_array().cloned().unwrap_or_default();
            Package {
                name: text(&p["name"]),
                dir: dir.strip_prefix(root).unwrap_or(dir).to_string_lossy().into_owned(),
                deps: each("dependencies").iter().map(|d| (text(&d["name"]), d["kind"] == "dev")).collect(),
                features: p["features"].as_object().map(|f| f.keys().cloned().collect()).unwrap_or_default(),
                targets: each("targets").iter().map(|t| (text(&t["kind"][0]), text(&t["name"]))).collect(),
            }
        })
        .collect())
}
