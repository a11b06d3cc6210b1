//! Runs `cargo test`, shows its output as it comes, and counts what it says.

use std::{
    io::{self, BufRead as _, BufReader, Write},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::workspace;

/// Counts over any number of test programs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Ends a run; scripts read the last line.
    pub(crate) fn print(self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.ignored > 0 {
            writeln!(stdout, "{} ignored", self.ignored)?;
        }
        writeln!(stdout, "{} passed, {} failed", self.passed, self.failed)?;
        stdout.flush()
    }
}

/// Runs a `cargo test` command to its end. A program that does not build, or dies, counts as one failure.
pub(crate) fn run(cargo_test: &mut Command) -> Result<Tally> {
    run_and_show(cargo_test, &mut io::stdout().lock())
}

fn run_and_show(cargo_test: &mut Command, shown: &mut dyn Write) -> Result<Tally> {
    let name = workspace::describe(cargo_test);
    let mut child = cargo_test.stdout(Stdio::piped()).spawn().with_context(|| format!("`{name}` does not start"))?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("the output of `{name}`"))?;
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        shown.flush()?;
        if let Some(result) = result_in(&String::from_utf8_lossy(&line)) {
            tally.add(result);
        }
    }
    let status = child.wait().with_context(|| format!("`{name}`"))?;
    if !status.success() && tally.failed == 0 {
        eprintln!("error: `{name}` failed before it could count ({status})");
        tally.failed = 1;
    }
    Ok(tally)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`; a test's own output may precede it on the line.
pub(crate) fn result_in(line: &str) -> Option<Tally> {
    let counts = &line[line.find("test result: ")?..];
    let count = |what: &str| {
        let before = &counts[..counts.find(what)?];
        before.rsplit(' ').next()?.parse().ok()
    };
    Some(Tally { passed: count(" passed;")?, failed: count(" failed;")?, ignored: count(" ignored;")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_other_lines_are_not() {
        for (line, expected) in [
            (
                "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s",
                Some(Tally { passed: 12, failed: 0, ignored: 3 }),
            ),
            (
                "noise test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured",
                Some(Tally { passed: 1, failed: 2, ignored: 0 }),
            ),
            ("test result_is_read ... ok", None),
            ("test result: odd", None),
            ("", None),
        ] {
            assert_eq!(result_in(line), expected, "{line}");
        }
    }

    #[test]
    fn a_program_that_dies_without_a_result_counts_as_a_failure() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'; exit 1";
        let mut shown = Vec::new();
        let tally = run_and_show(Command::new("sh").args(["-c", script]), &mut shown);
        assert_eq!(tally.unwrap(), Tally { passed: 2, failed: 1, ignored: 0 });
        assert!(shown.ends_with(b"ignored;\n"));
    }
}
