//! All that can be checked without root; every step runs, so that one call shows every complaint.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{setup, suites, tidy, workspace};

pub(crate) fn command() -> Result<ExitCode> {
    require_components()?;
    setup::ensure()?;
    // The packet program is linted on its own: it has no standard library and no tests, and can't be linked for this machine.
    let packet_program = ["clippy", "--package", "grayxdp-ebpf", "--", "-D", "warnings"];
    let the_rest = ["clippy", "--workspace", "--exclude", "grayxdp-ebpf", "--all-targets", "--", "-D", "warnings"];
    let mut failed = Vec::new();
    for (name, args) in [
        ("format", &["fmt", "--all", "--check"][..]),
        ("lints", &the_rest[..]),
        ("lints of the packet program", &packet_program[..]),
    ] {
        eprintln!("check: {name}");
        if let Err(error) = workspace::run(&mut workspace::cargo(args)) {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    eprintln!("check: tidy");
    if tidy::report()? > 0 {
        failed.push("tidy");
    }
    eprintln!("check: unit tests");
    let tally = suites::run(&mut workspace::cargo(["test", "--no-fail-fast"]))?;
    tally.print()?;
    if tally.failed > 0 {
        failed.push("unit tests");
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn require_components() -> Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let mut cargo = workspace::cargo([command, "--version"]);
        if !cargo.output().is_ok_and(|output| output.status.success()) {
            bail!("`cargo {command}` does not run: install it with `rustup component add {component}`");
        }
    }
    Ok(())
}
