//! Brings the machine to where everything builds and all tests run.
//!
//! Three things: Debian packages with the programs that tests start, a Rust compiler with its library
//! sources (`core` is built for the bpf target), and a bpf-linker of the same LLVM version.
//! Nothing is touched when all are there. Says each thing that it installs, on stderr.

mod linker;
mod packages;
mod toolchain;

use std::{fs::File, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::workspace;
use packages::Apt;

/// What a run of setup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing was missing.
    Ready,
    /// Something was missing and is there now.
    Installed,
}

pub(crate) fn command() -> Result<ExitCode> {
    if ensure()? == Outcome::Ready {
        say("everything is here");
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing; silent when nothing is.
pub(crate) fn ensure() -> Result<Outcome> {
    if is_ready() {
        return Ok(Outcome::Ready);
    }
    // Two checks at once would build the linker twice.
    let lock = File::create(workspace::target_dir()?.join("xtask-setup.lock")).context("the lock of setup")?;
    lock.lock().context("the lock of setup")?;
    if is_ready() {
        return Ok(Outcome::Ready);
    }
    install()?;
    say("done");
    Ok(Outcome::Installed)
}

fn is_ready() -> bool {
    packages::missing_tools().is_empty() && toolchain::installed().is_some_and(|compiler| linker::works_with(&compiler))
}

fn install() -> Result<()> {
    let mut apt = Apt::default();
    let tools = packages::install_tools(&mut apt);
    let built = toolchain::ensure(&mut apt).and_then(|compiler| linker::ensure(&compiler, &mut apt));
    // One error for all that a person has to install by hand.
    if !apt.refused.is_empty() {
        let names = apt.refused.join(" ");
        bail!(
            "these Debian packages are missing, and {}: {names}. \
             Run `apt-get update && apt-get install -y --no-install-recommends {names}` as root, \
             then `cargo xtask setup` again",
            apt.refusal()
        );
    }
    tools.and(built)
}

fn say(text: &str) {
    eprintln!("setup: {text}");
}
