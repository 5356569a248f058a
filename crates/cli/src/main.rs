//! The `ferronet` command.
#![forbid(unsafe_code)]

mod args;
mod lab;
mod tool;
mod trace;
mod units;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            eprintln!("ferronet: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command; `Ok` is the exit status, the error is a sentence for a person.
fn run(cli: Cli) -> Result<u8, String> {
    match cli.command {
        Command::Tool(tool) => tool::run(tool),
        Command::Up(args) => {
            let file = args.file.display().to_string();
            let text = std::fs::read_to_string(&args.file).map_err(|e| format!("{file}: {e}"))?;
            let lab = lab::parse(&file, &text).map_err(|e| e.to_string())?;
            println!("{lab:?}");
            Ok(0)
        }
        _ => Ok(0),
    }
}
