//! The demo: a release from v1 to v2 under real traffic, in network namespaces of this machine.
//!
//! Ends with exit code 0 only if no request failed and the measured share followed the weight.

mod args;
mod fault;
mod preflight;
mod record;
mod release;
mod screen;
mod share;
mod summary;

use std::{process::ExitCode, thread};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::Value;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{args::Args, screen::Screen};

const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    match demo(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &Args) -> Result<ExitCode> {
    preflight::check()?;
    let interrupted = hear_signals()?;
    let mut screen = Screen::new();
    let ended = Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::select! {
            // Dropped half-way, it still removes all that it made.
            ended = show(args, &mut screen) => ended.map(Some),
            _ = interrupted => Ok(None),
        }
    })?;
    let Some((json, is_good)) = ended else {
        eprintln!("demo: interrupted; everything is removed");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if args.json {
        screen.line(&json.to_string());
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs and prints it; returns the facts, and whether all promises held.
async fn show(args: &Args, screen: &mut Screen) -> Result<(Value, bool)> {
    if let Some(kind) = args.fault {
        let summary = fault::run(args, kind, screen).await?;
        summary.print(screen);
        return Ok((summary.json(), summary.is_good()));
    }
    let summary = release::run(args, screen).await?;
    summary.print(screen);
    Ok((summary.json(), summary.is_good()))
}

/// The first SIGINT or SIGTERM is told to the receiver; the second ends the process, and leaves the cleaning up to
/// its watcher.
fn hear_signals() -> Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    };
    let listener = thread::Builder::new().name("signals".to_owned());
    let job = move || {
        runtime.block_on(async {
            next().await;
            sender.send(()).ok();
            next().await;
            std::process::exit(INTERRUPTED.into());
        });
    };
    listener.spawn(job).context("cannot start the thread that hears signals")?;
    Ok(receiver)
}
