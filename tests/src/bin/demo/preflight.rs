//! What must be there before anything is made; each lack is one message that says what to do.

use std::{env, path::Path};

use anyhow::{Context, Result, bail, ensure};
use grayxdp_tests::{agent, sweep};

const TOOLS: [&str; 4] = ["nginx", "ip", "ethtool", "nft"];

pub(crate) fn check() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo makes network namespaces and loads a kernel program: run it as root (`sudo cargo xtask demo`)"
    );
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !is_installed(tool)).collect();
    if !missing.is_empty() {
        bail!("not installed: {}. Run `cargo xtask setup`, then try again", missing.join(", "));
    }
    agent::binary()?;
    agent::ensure_bpffs().context("the kernel's file system of pins cannot be mounted")?;
    sweep::sweep().context("leftovers of a former run cannot be removed")?;
    Ok(())
}

fn is_installed(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // The system's own directories too: a plain user's PATH, kept by sudo, leaves them out.
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(|p| Path::new(p).to_owned()))
        .any(|d| d.join(tool).is_file())
}
