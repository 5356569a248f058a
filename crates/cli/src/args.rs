//! The command line: names, help texts and examples; no behaviour.

use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

/// The Linux network stack in user space.
#[derive(Debug, Parser)]
#[command(
    name = "ferronet",
    version,
    arg_required_else_help = true,
    about = "The Linux network stack in user space: unmodified programs run on it, without root",
    after_help = "\
Examples:
  ferronet shell                          an interactive shell on a fresh stack
  ferronet run -- ip addr                 one command on a fresh stack
  ferronet up examples/web.toml           a whole network from one file
  ferronet ps                             what is running
  ferronet exec web -- ss -tanp           join a running stack
  ferronet trace --name web tcp port 80   the way of each packet
  ferronet drops --name web               what was dropped, and why"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start an interactive shell on a fresh stack
    #[command(after_help = "\
Examples:
  ferronet shell
      ip link set lo up; ping -c 1 127.0.0.1
      ip netns add test; ip link add veth0 type veth peer name veth1; ip link set veth1 netns test
  ferronet shell --name lab               then, from another terminal: ferronet exec lab -- ss -tan")]
    Shell(StackArgs),
    /// Run one command on a fresh stack; its exit status is passed on
    #[command(after_help = "\
Examples:
  ferronet run -- ip addr
  ferronet run -- sh -c 'ip link set lo up && ping -c 2 127.0.0.1'
  ferronet run --name web -- ./serve.sh   then: ferronet exec web -- curl http://127.0.0.1/
  ferronet run --pcapng all.pcapng -- ./test.sh
  ferronet run --tap tap0 -- ./serve.sh   the host's kernel as neighbour; there: ip addr add 10.0.0.1/24 dev tap0")]
    Run(RunArgs),
    /// Build a network from a file, run its programs, show a summary
    #[command(after_help = "\
Examples:
  ferronet up examples/web.toml
  ferronet up examples/tap.toml --keep    the host's kernel as neighbour (as root); there: curl http://10.77.0.2/
  ferronet up lab.toml --check            only read the file
  ferronet up lab.toml --keep             stay up afterwards, until Ctrl-C; then: ferronet exec lab -- ip netns
  ferronet up lab.toml --json > result.json")]
    Up(UpArgs),
    /// List running stacks
    #[command(after_help = "\
Examples:
  ferronet ps
  ferronet ps --json")]
    Ps(PsArgs),
    /// Run a command on a running stack
    #[command(after_help = "\
Examples:
  ferronet exec web -- ss -tanp
  ferronet exec web --ns router -- ip route
  ferronet exec 4711 -- bash              by process number
  ferronet exec --ns router -- ip route   on the stack one is on, or the only one

The exit status is the command's; 127 when it is not found, 126 when it is no program, 125 when the
stack ended under it (which is said on standard error), 1 when there is no such stack.")]
    Exec(ExecArgs),
    /// Show the packets' ways through a running stack, stage by stage
    #[command(after_help = "\
Filters (words are joined with `and`; `or`, `not` and parentheses work):
  arp ip ip6 icmp icmp6 tcp udp           protocol
  host ADDR, src ADDR, dst ADDR           address; ADDR/LEN a network
  port N, sport N, dport N                TCP or UDP port
  dev NAME, ns NAME                       where the packet was
  drop, drop REASON                       packets that were dropped

Examples:
  ferronet trace tcp port 80
  ferronet trace --name web --count 10 drop
  ferronet trace --pcapng way.pcapng      each packet with its way as a comment (Wireshark shows it)
  ferronet trace --json icmp or icmp6")]
    Trace(TraceArgs),
    /// Show dropped packets by reason, with the meaning and the setting that matters
    #[command(after_help = "\
Examples:
  ferronet drops
  ferronet drops --name web --json
  ferronet drops --explain                every reason there is")]
    Drops(DropsArgs),
    /// Explain the settings below /proc/sys/net
    #[command(after_help = "\
Examples:
  ferronet sysctl --explain               all of them
  ferronet sysctl --explain tcp_rmem      those whose name contains the text
  ferronet run -- sysctl -w net.ipv4.ip_forward=1   settings are read and written with the ordinary sysctl")]
    Sysctl(SysctlArgs),
    /// Small network programs, so that nothing needs installing
    #[command(subcommand)]
    Tool(Tool),
}

/// A new stack; these are all the options of `shell`.
#[derive(Debug, Args)]
pub(crate) struct StackArgs {
    /// Name of the stack, for exec, trace and drops
    #[arg(long)]
    pub name: Option<String>,
    /// Write every packet to this file
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,
    /// Add the device NAME whose other end is the host's TAP interface HOSTIF (NAME when not given)
    #[arg(long, value_name = "NAME[=HOSTIF]")]
    pub tap: Vec<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub stack: StackArgs,
    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub cmd: Vec<String>,
}

/// `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The file that describes the network
    pub file: PathBuf,
    /// Name of the stack; the file's name without .toml when it is not given
    #[arg(long)]
    pub name: Option<String>,
    /// Only read the file and say what it would build
    #[arg(long)]
    pub check: bool,
    /// Stay up after the programs have ended, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// The summary as JSON on standard output; the programs' output goes to standard error
    #[arg(long)]
    pub json: bool,
}

/// `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// One JSON array
    #[arg(long)]
    pub json: bool,
}

/// `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Name or process number of the stack (see ferronet ps); not needed on a stack or when only one runs
    pub name: Option<String>,
    /// Run in this network namespace of the stack (see ip netns)
    #[arg(long, value_name = "NAMESPACE")]
    pub ns: Option<String>,
    /// The command with its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub cmd: Vec<String>,
}

/// `trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Name or process number of the stack; not needed on a stack or when only one runs
    #[arg(long)]
    pub name: Option<String>,
    /// Stop after this many packets
    #[arg(long, value_name = "K")]
    pub count: Option<u64>,
    /// Write the packets to this file, each with its way as a comment
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,
    /// One JSON object per packet
    #[arg(long)]
    pub json: bool,
    /// Which packets; all when it is not given
    #[arg(trailing_var_arg = true)]
    pub filter: Vec<String>,
}

/// `drops`.
#[derive(Debug, Args)]
pub(crate) struct DropsArgs {
    /// Name or process number of the stack; not needed on a stack or when only one runs
    #[arg(long)]
    pub name: Option<String>,
    /// One JSON array
    #[arg(long)]
    pub json: bool,
    /// Every reason there is, with its meaning; needs no running stack
    #[arg(long)]
    pub explain: bool,
}

/// `sysctl`.
#[derive(Debug, Args)]
pub(crate) struct SysctlArgs {
    /// Explain the settings: default, range, what they do
    #[arg(long, required = true)]
    pub explain: bool,
    /// One JSON array
    #[arg(long)]
    pub json: bool,
    /// Only settings whose name contains this text
    pub name: Option<String>,
}

/// `tool`.
#[derive(Debug, Subcommand)]
pub(crate) enum Tool {
    /// A small HTTP/1.1 server: files of a directory, or generated data
    #[command(after_help = "\
Examples:
  ferronet tool serve --port 8080 --size 64MiB    every path answers 64 MiB
  ferronet tool serve --port 8080                 /1MiB answers 1 MiB, /10 ten bytes
  ferronet tool serve --port 8080 --dir ./public  files")]
    Serve(ServeArgs),
    /// An HTTP client that prints bytes and seconds
    #[command(after_help = "\
Examples:
  ferronet tool fetch http://10.0.2.2/64MiB --sha256
  ferronet tool fetch http://[fd00::2]:8080/1MiB --count 100 --parallel 4
  ferronet tool fetch http://10.0.2.2/file -o file")]
    Fetch(FetchArgs),
    /// ICMP echo requests, through an unprivileged ping socket
    #[command(after_help = "\
Examples:
  ferronet tool ping 10.0.2.2
  ferronet tool ping fd00::2 --count 10 --interval 0.2")]
    Ping(PingArgs),
}

/// `tool serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// TCP port; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, default_value = "::")]
    pub bind: IpAddr,
    /// Answer every path with this many generated bytes (64MiB, 10kB, 1000)
    #[arg(long, value_parser = crate::units::size, conflicts_with = "dir")]
    pub size: Option<u64>,
    /// Serve the files of this directory
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Connections at the same time; further ones wait
    #[arg(long, default_value_t = 128)]
    pub connections: usize,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Print nothing for each request
    #[arg(long, short)]
    pub quiet: bool,
}

/// `tool fetch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FetchArgs {
    /// What to fetch.
    #[arg(help = "http://HOST[:PORT]/PATH")]
    pub url: String,
    /// Write the body here (- for standard output)
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the body's sha256
    #[arg(long)]
    pub sha256: bool,
    /// Requests in all, over one connection each worker (keep-alive)
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// Workers
    #[arg(long, default_value_t = 1)]
    pub parallel: u32,
    /// Seconds without any progress after which to give up
    #[arg(long, default_value_t = 30.0)]
    pub timeout: f64,
    /// The result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `tool ping`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PingArgs {
    /// Address or name
    pub host: String,
    /// Requests to send
    #[arg(long, short, default_value_t = 4)]
    pub count: u16,
    /// Seconds between requests
    #[arg(long, short, default_value_t = 1.0)]
    pub interval: f64,
    /// Seconds to wait for the last answer
    #[arg(long, short = 'W', default_value_t = 2.0)]
    pub timeout: f64,
    /// Bytes of data in each request
    #[arg(long, short, default_value_t = 56, value_parser = clap::value_parser!(u16).range(16..=65_000))]
    pub size: u16,
    /// The result as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn check(c: &clap::Command) {
            if c.get_subcommands().next().is_none() {
                let help = c.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:\n  ferronet "), "{} has no examples", c.get_name());
            }
            c.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn commands_keep_their_options() {
        let cli = Cli::parse_from(["ferronet", "run", "--name", "x", "ls", "-l", "--color"]);
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.cmd, ["ls", "-l", "--color"]);
        let cli = Cli::parse_from(["ferronet", "run", "--", "ip", "-j", "addr"]);
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.cmd, ["ip", "-j", "addr"]);
        let cli = Cli::parse_from(["ferronet", "exec", "web", "--", "ss", "-tan"]);
        let Command::Exec(exec) = cli.command else { panic!("not exec") };
        assert_eq!((exec.name.as_deref(), exec.cmd.len()), (Some("web"), 2));
        let cli = Cli::parse_from(["ferronet", "exec", "--ns", "router", "--", "ss"]);
        let Command::Exec(exec) = cli.command else { panic!("not exec") };
        assert_eq!((exec.name, exec.cmd), (None, vec!["ss".to_owned()]));
    }
}
