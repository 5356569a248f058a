//! `cargo xtask docs`: the API documentation, with warnings as errors.

use crate::cargo::{cargo, must};

/// Builds the documentation of all members; `--open` shows it.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut c = cargo();
    c.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--no-deps", "--workspace"]);
    match args {
        [] => {}
        [a] if a == "--open" => {
            c.arg("--open");
        }
        _ => return Err("the only option is --open".to_owned()),
    }
    must(&mut c)
}
