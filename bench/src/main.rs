//! The benchmark of the packet path: nanoseconds of a packet, by BPF_PROG_TEST_RUN, beside two baselines.

mod case;
mod grayxdp;
mod host;
mod lru;
mod measure;
mod rig;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::{
    case::Subject,
    measure::{Plan, Rig},
};

#[derive(Parser, Debug)]
struct Args {
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    filters: Vec<String>,
}

fn main() -> ExitCode {
    match bench(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: Args) -> Result<()> {
    host::settle()?;
    let plan = Plan { rounds: args.rounds, filters: args.filters };
    for subject in Subject::ALL {
        let mut rig = Rig::new(subject)?;
        let program = rig.program();
        eprintln!("{subject:?}: {} verified", rig::load(rig.ebpf()?, program)?);
        let rows = measure::subject(&plan, subject, &mut rig, |m| {
            eprintln!(
                "{:<28} {:7.1} {:7.1} {:7.1}  ({:.1})",
                m.case.to_string(),
                m.net.median,
                m.net.min,
                m.net.max,
                m.net.harness
            )
        })?;
        for m in rows {
            println!("{} {:.1}", m.case, m.net.median);
        }
    }
    Ok(())
}
