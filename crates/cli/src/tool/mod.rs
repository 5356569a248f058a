//! `ferronet tool`: ordinary programs on std::net, so that examples need nothing installed.

mod fetch;
mod http;
mod ping;
mod serve;
pub(crate) mod sha256;

use crate::args::Tool;

/// Runs a tool; the error is one sentence.
pub(crate) fn run(tool: Tool) -> Result<u8, String> {
    match tool {
        Tool::Serve(args) => serve::run(&args),
        Tool::Fetch(args) => fetch::run(&args),
        Tool::Ping(args) => ping::run(&args),
    }
}
