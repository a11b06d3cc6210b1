//! The release build, and the programs that show and measure it: `build`, `demo`, `bench`.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Error, Result, bail};

use crate::{leftovers, setup, workspace};

/// Names the binary for the tests, the demo and the benchmark.
pub(crate) const BINARY_VARIABLE: &str = "GRAYXDP_BIN";

pub(crate) fn build_command() -> Result<ExitCode> {
    setup::ensure()?;
    let binary = build(&[])?;
    eprintln!("built {}", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds `grayxdp` and more binaries (package, name) in one go; returns the path of `grayxdp`.
pub(crate) fn build(more: &[(&str, &str)]) -> Result<PathBuf> {
    let mut cargo = workspace::cargo(["build", "--release", "--package", "grayxdp", "--bin", "grayxdp"]);
    for (package, binary) in more {
        cargo.args(["--package", package, "--bin", binary]);
    }
    workspace::run(&mut cargo)?;
    path_of("grayxdp")
}

fn path_of(binary: &str) -> Result<PathBuf> {
    let path = workspace::target_dir()?.join("release").join(binary);
    if !path.exists() {
        bail!("cargo built {binary}, but not as {}: is a build target set in a cargo config?", path.display());
    }
    Ok(path)
}

pub(crate) fn demo(args: &[String]) -> Result<ExitCode> {
    run_binary("the demo", "grayxdp-tests", "demo", args)
}

pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    run_binary("the benchmark", "grayxdp-tests", "bench", args)
}

/// Becomes the program, so that signals and the exit code are its own.
fn run_binary(what: &str, package: &str, binary: &str, args: &[String]) -> Result<ExitCode> {
    if !args.iter().any(|arg| arg == "--help" || arg == "-h") {
        workspace::require_root(what, "")?;
    }
    setup::ensure()?;
    let grayxdp = build(&[(package, binary)])?;
    leftovers::sweep();
    let mut program = workspace::command(path_of(binary)?);
    program.args(args).env(BINARY_VARIABLE, grayxdp);
    let error = program.exec();
    Err(Error::new(error)).with_context(|| format!("{} does not start", workspace::describe(&program)))
}
