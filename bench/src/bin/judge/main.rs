//! The benchmark of the judge: how often it blames an equal version, and how soon it finds a worse one, beside Wald's bound
//! and three rules that others go by, on the same streams. Needs no root.

mod cost;
mod equal;
mod power;
mod report;
mod rivals;
mod watch;

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::report::Report;

/// Simulates releases and counts what the judge says of them.
#[derive(Parser, Debug)]
#[command(name = "judge", after_help = "Exit codes: 0 all targets met; 1 some missed, or could not measure; 2 usage.")]
struct Args {
    /// Releases with two equal versions, all cases together.
    #[arg(long, value_name = "N", default_value_t = 120_000, value_parser = clap::value_parser!(u32).range(100..))]
    equal: u32,
    /// Releases with a worse v2, in each cell.
    #[arg(long, value_name = "N", default_value_t = 1001, value_parser = clap::value_parser!(u32).range(11..))]
    runs: u32,
    /// Of the random numbers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the section of BENCHMARKS.md to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("judge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<ExitCode> {
    let report = Report {
        runs: args.runs,
        seed: args.seed,
        tick_ms: cost::tick_ms()?,
        cells: power::cells(args.runs, args.seed),
        latencies: power::latencies(args.runs, args.seed),
        wrong: power::wrong(args.runs, args.seed),
        equal: equal::all(args.equal, args.seed),
    };
    let markdown = report.markdown();
    let mut out = std::io::stdout().lock();
    write!(out, "{markdown}").and_then(|()| out.flush()).context("cannot print")?;
    if let Some(path) = &args.markdown {
        fs::write(path, &markdown).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report.json())?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let missed = report.missed();
    missed.iter().for_each(|target| eprintln!("judge: missed: {target}"));
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
