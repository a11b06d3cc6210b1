//! Runs all tests: unit and property tests as they are, packet tests and end-to-end tests as root.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    leftovers,
    programs::{self, BINARY_VARIABLE},
    setup,
    suites::{self, Tally},
    workspace,
};

/// Which tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    All,
    /// No namespaces, no packet program.
    WithoutRoot,
}

pub(crate) fn test(scope: Scope, filter: Option<&str>, harness_args: &[String]) -> Result<ExitCode> {
    if scope == Scope::All {
        workspace::require_root(
            "the packet and end-to-end tests",
            ", or only the other tests with `cargo xtask test --no-e2e`",
        )?;
    }
    setup::ensure()?;
    let mut tally = suites::run(with(&mut workspace::cargo(["test", "--no-fail-fast"]), filter, harness_args))?;
    if scope == Scope::All {
        tally.add(as_root(filter, harness_args)?);
    }
    if let Some(filter) = filter.filter(|_| tally.passed + tally.failed == 0) {
        eprintln!("error: no test's name contains `{filter}`");
        tally.failed = 1;
    }
    tally.print()?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_root(filter: Option<&str>, harness_args: &[String]) -> Result<Tally> {
    let grayxdp = match programs::build(&[]) {
        Ok(path) => path,
        Err(error) => {
            // The counts of the other tests are worth printing all the same.
            eprintln!("error: {error:#}");
            return Ok(Tally { failed: 1, ..Tally::default() });
        }
    };
    leftovers::sweep();
    let mut cargo = workspace::cargo(["test", "--package", "grayxdp-tests", "--release", "--no-fail-fast"]);
    cargo.env(BINARY_VARIABLE, grayxdp);
    let tally = suites::run(with(&mut cargo, filter, harness_args));
    leftovers::sweep();
    tally
}

fn with<'a>(cargo: &'a mut Command, filter: Option<&str>, harness_args: &[String]) -> &'a mut Command {
    cargo.args(filter);
    if !harness_args.is_empty() {
        cargo.arg("--").args(harness_args);
    }
    cargo
}
