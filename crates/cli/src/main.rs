//! The `ferronet` command.
#![forbid(unsafe_code)]

mod args;
mod capture;
mod lab;
mod pcapng;
mod remote;
mod rtnl;
mod serve;
mod session;
mod sysctl;
mod tool;
mod trace;
mod units;

use args::{Cli, Command, UpArgs};
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
        Command::Shell(args) => session::shell(&args),
        Command::Run(args) => session::run(&args),
        Command::Up(args) => up(&args),
        Command::Ps(args) => remote::ps(&args),
        Command::Exec(args) => remote::exec(&args),
        Command::Trace(args) => remote::trace(&args),
        Command::Drops(args) => remote::drops(&args),
        Command::Sysctl(args) => sysctl::explain(&args),
        Command::Tool(tool) => tool::run(tool),
    }
}

/// Reads the lab file and runs it.
fn up(args: &UpArgs) -> Result<u8, String> {
    let file = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|e| format!("cannot read the lab file {file}: {e} (examples are in examples/)"))?;
    let lab = lab::parse(&file, &text).map_err(|e| format!("the lab file has an error\n{e}"))?;
    if args.check {
        let (n, l, p) = (lab.namespaces.len(), lab.links.len(), lab.programs.len());
        println!("{file} is good: {n} namespaces, {l} links, {p} programs");
        return Ok(0);
    }
    lab::up(args, &lab)
}
