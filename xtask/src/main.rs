//! The project's own commands: `cargo xtask help` lists them.
//!
//! Light on purpose: it must build on a machine that can't build anything else of this workspace yet.

mod check;
mod ci;
mod e2e;
mod fuzz;
mod kernels;
mod leftovers;
mod programs;
mod setup;
mod suites;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building and testing need; the commands below do it themselves
    Setup,
    /// Builds the release binary, target/release/grayxdp
    Build,
    /// Moves real HTTP traffic from v1 to v2 in network namespaces (needs root)
    #[command(disable_help_flag = true)]
    Demo {
        /// Passed to the demo: `cargo xtask demo --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Unit and property tests, packet tests, end-to-end tests (needs root), and their counts
    Test {
        /// Only the tests that need neither root nor namespaces
        #[arg(long)]
        no_e2e: bool,
        /// Instead: packet tests and a smoke on these of Debian's kernels, in emulation (no root); on all if none is named
        #[arg(long, value_name = "KERNEL", num_args = 0.., value_parser = kernels::parse)]
        #[arg(conflicts_with_all = ["no_e2e", "filter", "harness_args"])]
        kernels: Option<Vec<kernels::Release>>,
        /// Only tests whose name contains this
        filter: Option<String>,
        /// Passed to the test programs, for instance `-- --nocapture`
        #[arg(last = true)]
        harness_args: Vec<String>,
    },
    /// Random packets through the packet program and its reference model, and where the two differ (needs root)
    Fuzz {
        /// How many packets
        #[arg(long, default_value_t = 1_000_000)]
        packets: u64,
        /// What they are made from; the same packets for the same seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measures nanoseconds a packet (--packet-path), HTTP beside others (--whole-path), the judge's false alarms and delays
    /// (--judge, which needs no root), the agent's CPU time (--agent), or all of them
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed to the benchmark: `cargo xtask bench --packet-path --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Format, lints, unit tests, tidy; needs no root
    Check,
    /// Holds the tree to the code map and to the rules of the house
    Tidy,
    /// Just what CI runs: check, then test, within a time limit
    Ci,
    /// Removes namespaces and pins that killed tests left behind (needs root)
    CleanUp,
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::command(),
        Command::Build => programs::build_command(),
        Command::Demo { args } => programs::demo(&args),
        Command::Bench { args } => programs::bench(&args),
        Command::Test { kernels: Some(kernels), .. } => kernels::test(&kernels),
        Command::Test { no_e2e, filter, harness_args, kernels: None } => {
            let scope = if no_e2e { e2e::Scope::WithoutRoot } else { e2e::Scope::All };
            e2e::test(scope, filter.as_deref(), &harness_args)
        }
        Command::Fuzz { packets, seed } => fuzz::command(packets, seed),
        Command::Check => check::command(),
        Command::Tidy => tidy::command(),
        Command::Ci => ci::command(),
        Command::CleanUp => leftovers::command(),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
