//! The release build, and the programs that show and measure it: `build`, `demo`, `bench`.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

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

/// A benchmark: its option, its package and its binary.
const BENCHES: [(&str, &str, &str); 4] = [
    ("--packet-path", "grayxdp-bench", "grayxdp-bench"),
    ("--whole-path", "grayxdp-tests", "bench"),
    ("--judge", "grayxdp-bench", JUDGE_BENCH),
    ("--agent", "grayxdp-tests", "bench-agent"),
];
/// Simulates all that it measures: it needs no root.
const JUDGE_BENCH: &str = "judge";

/// One benchmark, with its arguments; or all, the packet path first.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    let chosen: Vec<_> = BENCHES.iter().filter(|(option, ..)| args.iter().any(|arg| arg == option)).collect();
    let rest: Vec<String> =
        args.iter().filter(|arg| !BENCHES.iter().any(|(option, ..)| arg == option)).cloned().collect();
    match chosen[..] {
        [(_, package, binary)] => run_binary("the benchmark", package, binary, &rest),
        _ if !rest.is_empty() => {
            bail!("arguments belong to one benchmark: say --packet-path, --whole-path, --judge or --agent as well")
        }
        _ => {
            for (_, package, binary) in BENCHES {
                workspace::run(&mut prepare("the benchmark", package, binary, &[])?)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Becomes the program, so that signals and the exit code are its own.
fn run_binary(what: &str, package: &str, binary: &str, args: &[String]) -> Result<ExitCode> {
    let mut program = prepare(what, package, binary, args)?;
    let error = program.exec();
    Err(Error::new(error)).with_context(|| format!("{} does not start", workspace::describe(&program)))
}

/// Builds a program, and says how it is started.
fn prepare(what: &str, package: &str, binary: &str, args: &[String]) -> Result<Command> {
    if binary != JUDGE_BENCH && !args.iter().any(|arg| arg == "--help" || arg == "-h") {
        workspace::require_root(what, "")?;
    }
    setup::ensure()?;
    let grayxdp = build(&[(package, binary)])?;
    if binary != JUDGE_BENCH {
        leftovers::sweep();
    }
    let mut program = workspace::command(path_of(binary)?);
    program.args(args).env(BINARY_VARIABLE, grayxdp);
    Ok(program)
}
