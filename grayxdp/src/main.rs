//! The binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    grayxdp::cli::run(grayxdp::cli::Cli::parse())
}
