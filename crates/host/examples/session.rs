//! Runs one command in a fresh session with `lo` up: `session CMD ARGS…`. The smallest use of the crate; tests use it too.

use ferronet_host::{Command, Config, HostError, Session};

fn run() -> Result<i32, HostError> {
    let mut session = Session::new(&Config::default())?;
    let first = session.first_ns();
    // lo has the first index of every namespace.
    let _ = session.kernel().world.link_set_up(first, ferronet_core::IfIndex(1), true);
    let pid = session.spawn(&Command::new(std::env::args_os().skip(1)))?;
    Ok(session.run_until_exit(pid)?.code())
}

fn main() {
    match run() {
        Ok(code) => std::process::exit(code),
        Err(e) => {
            eprintln!("session: {e}");
            std::process::exit(e.exit_code());
        }
    }
}
