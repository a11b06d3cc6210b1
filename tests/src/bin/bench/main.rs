//! The benchmark of the whole path: HTTP through grayxdp, beside nftables DNAT, HAProxy and plain routing on the same
//! hosts.
//!
//! The contenders take turns in every round, for machines are noisy: compare them within one run, by ratio.

mod contender;
mod wrk;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use grayxdp_tests::{agent, scene::Scene};
use serde_json::{Value, json};

use crate::{
    contender::Contender,
    wrk::{Connections, Figures},
};

/// Measures HTTP through grayxdp beside nftables DNAT, HAProxy and plain routing, in network namespaces of this machine.
#[derive(Parser, Debug)]
#[command(name = "bench", after_help = "Exit codes: 0 measured; 1 could not measure; 2 usage.")]
struct Args {
    /// Rounds; the median of each figure is printed.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Length of each measurement.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What was measured of one contender with one kind of connections.
struct Row {
    contender: Contender,
    connections: Connections,
    rounds: Vec<Figures>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match bench(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    agent::ensure_bpffs().context("the kernel's file system of pins cannot be mounted")?;
    let scene = Scene::new()?;
    let mut rows = Vec::new();
    for contender in Contender::ALL {
        for connections in Connections::ALL {
            rows.push(Row { contender, connections, rounds: Vec::new() });
        }
    }
    for round in 1..=args.rounds {
        for contender in Contender::ALL {
            eprintln!("round {round} of {}: {}", args.rounds, contender.name());
            let path = contender.set_up(&scene)?;
            for row in rows.iter_mut().filter(|row| row.contender == contender) {
                let length = Duration::from_secs(args.seconds.into());
                row.rounds.push(wrk::measure(&scene.topology.client, path.target(), row.connections, length)?);
            }
        }
    }
    print(&rows, args.json).context("cannot print")
}

fn print(rows: &[Row], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<12} {:<12} {:>12} {:>9} {:>9} {:>9} {:>10}",
        "path", "connections", "requests/s", "MB/s", "p50", "p99", "vs routed"
    )?;
    for row in rows {
        let figures = Figures::median(&row.rounds);
        let ratio = figures.requests_per_s / routed(rows, row.connections);
        writeln!(
            out,
            "{:<12} {:<12} {:>12.0} {:>9.1} {:>6.0} µs {:>6.0} µs {:>9.2}×",
            row.contender.name(),
            row.connections.name(),
            figures.requests_per_s,
            figures.mb_per_s,
            figures.p50_us,
            figures.p99_us,
            ratio,
        )?;
    }
    if as_json {
        let cases: Vec<Value> = rows.iter().map(|row| case(row, routed(rows, row.connections))).collect();
        writeln!(out, "{}", json!({ "cases": cases }))?;
    }
    out.flush()
}

fn routed(rows: &[Row], connections: Connections) -> f64 {
    let row = rows.iter().find(|row| row.contender == Contender::Routed && row.connections == connections);
    row.map_or(f64::NAN, |row| Figures::median(&row.rounds).requests_per_s)
}

fn case(row: &Row, routed: f64) -> Value {
    let median = Figures::median(&row.rounds);
    json!({
        "path": row.contender.name(),
        "connections": row.connections.name(),
        "requests_per_s": median.requests_per_s,
        "mb_per_s": median.mb_per_s,
        "p50_us": median.p50_us,
        "p99_us": median.p99_us,
        "vs_routed": median.requests_per_s / routed,
    })
}
