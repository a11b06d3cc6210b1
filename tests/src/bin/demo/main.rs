//! The demo: a release from v1 to v2 under real traffic, in network namespaces of this machine.
//!
//! Ends with exit code 0 only if no request failed and the measured share followed the weight.

mod args;
mod preflight;
mod record;
mod release;
mod screen;
mod share;
mod summary;

use std::{process::ExitCode, thread};

use anyhow::{Context, Result};
use clap::Parser;
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
    let summary = Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::select! {
            // Dropped half-way, it still removes all that it made.
            summary = release::run(args, &mut screen) => summary.map(Some),
            _ = interrupted => Ok(None),
        }
    })?;
    let Some(summary) = summary else {
        eprintln!("demo: interrupted; everything is removed");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    summary.print(&mut screen);
    if args.json {
        screen.line(&summary.json().to_string());
    }
    Ok(if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
