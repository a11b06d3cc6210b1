//! The binary: run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    grayxdp::cli::main()
}
