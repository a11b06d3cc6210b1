//! The benchmark of the packet path: nanoseconds of a packet, by BPF_PROG_TEST_RUN, beside two baselines.
//!
//! Figures are net of the harness that feeds the packets (`bench-ebpf/src/harness.rs`), and comparable within one run.

mod case;
mod chart;
mod grayxdp;
mod host;
mod instructions;
mod lru;
mod measure;
mod memory;
mod report;
mod rig;
mod world;

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::{
    host::Machine,
    measure::{Plan, Samples},
    report::Report,
};

/// Measures the packet path in nanoseconds a packet, beside an empty program and a lean one on a BPF LRU hash.
#[derive(Parser, Debug)]
#[command(
    name = "packet-path",
    after_help = "Exit codes: 0 measured; 1 could not measure, or a program grew; 2 usage."
)]
struct Args {
    /// Rounds; the median of each figure is printed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures of nat/tcp4 and lru/tcp4 into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Only these cases (`nat/tcp4/hit/1`), or those under these names (`nat/tcp4`).
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
}

fn main() -> ExitCode {
    match bench(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("packet-path: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: Args) -> Result<ExitCode> {
    let machine = Machine::this()?;
    host::settle()?;
    let plan = Plan { rounds: args.rounds, filters: args.cases };
    let mut report = Report {
        machine,
        floor_ns: measure::floor(plan.rounds)?,
        measured: Vec::new(),
        map_bytes: Vec::new(),
        instructions: Vec::new(),
    };
    let mut samples = Samples::default();
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        let mut rigs = measure::load(&plan)?;
        if round == 1 {
            for (subject, rig) in &mut rigs {
                let program = rig.program();
                report.map_bytes.push((*subject, memory::map_bytes(rig.ebpf()?, program)?));
                if !report.instructions.iter().any(|(name, _)| *name == program) {
                    report.instructions.push((program, rig::load(rig.ebpf()?, program)?));
                }
            }
        }
        measure::round(&plan, &mut rigs, &mut samples)?;
    }
    report.measured = samples.measured();
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report.text()).and_then(|()| out.flush()).context("cannot print")?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report.json())?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        let svg = chart::draw(&report);
        fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let complaints = instructions::complaints(&report.instructions);
    complaints.iter().for_each(|complaint| eprintln!("packet-path: {complaint}"));
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
