//! The packet program against the reference model: runs the test that does it, with as many packets as wanted.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{leftovers, setup, workspace};

/// The name of the test in `tests/tests/packets`.
const TEST: &str = "differential::fuzz";
/// How its last word begins; scripts read it as the last line.
const RESULT: &str = "fuzz: packets ";

pub(crate) fn command(packets: u64, seed: u64) -> Result<ExitCode> {
    workspace::require_root("the packet program's tests", "")?;
    setup::ensure()?;
    leftovers::sweep();
    let mut cargo = workspace::cargo(["test", "--package", "grayxdp-tests", "--release", "--test", "packets", "--"]);
    cargo.args([TEST, "--exact", "--ignored", "--nocapture"]);
    cargo.env("GRAYXDP_FUZZ_PACKETS", packets.to_string()).env("GRAYXDP_FUZZ_SEED", seed.to_string());
    let name = workspace::describe(&cargo);
    let mut child = cargo.stdout(Stdio::piped()).spawn().with_context(|| format!("`{name}` does not start"))?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    let mut stdout = io::stdout().lock();
    let mut result = None;
    for line in BufReader::new(output).lines() {
        let line = line.with_context(|| format!("the output of `{name}`"))?;
        if line.starts_with(RESULT) {
            result = Some(line);
        } else {
            writeln!(stdout, "{line}")?;
        }
    }
    let status = child.wait().with_context(|| format!("`{name}`"))?;
    leftovers::sweep();
    let result = result.with_context(|| format!("`{name}` ended before it had a result ({status})"))?;
    writeln!(stdout, "{result}")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
