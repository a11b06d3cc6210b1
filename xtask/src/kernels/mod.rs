//! `cargo xtask test --kernels`: packet tests and a smoke of the whole path on Debian's kernels, in emulation.
//!
//! For each kernel: fetch it (cached under `target/kernels`), make an initial file system of the static test program,
//! the static agent and the scripts of `guest/`, boot it in qemu, and read the verdict off its console.
//! What cannot be fetched is "skipped", with the reason, and never "passed". Needs no root.

mod apt;
mod cache;
mod cpio;
mod initrd;
mod kernel;
mod mirror;
mod programs;
mod qemu;
mod releases;
mod tools;
mod verdict;

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{setup, suites::Tally, workspace};
use apt::Apt;
use cache::Cache;
use kernel::Kernel;
use programs::Programs;
pub(crate) use releases::{Release, parse};
use tools::Tools;
use verdict::Verdict;

/// Runs the tests on each of the kernels; on all where none is named.
pub(crate) fn test(named: &[Release]) -> Result<ExitCode> {
    let releases = if named.is_empty() { &releases::ALL[..] } else { named };
    let cache = Cache::new(workspace::target_dir()?.join("kernels"));
    let lock_path = cache.path("lock");
    fs::create_dir_all(cache.path("")).context("the kernels' cache")?;
    // Two runs at once would unpack into each other.
    let lock = File::create(&lock_path).with_context(|| format!("{}", lock_path.display()))?;
    lock.lock().with_context(|| format!("{}", lock_path.display()))?;

    // Fetched first, all of it: what can't be had is known before minutes go into building.
    let apt = open_apt(&cache);
    let tools = Tools::fetch(&apt, &cache);
    let (mut kernels, mut skipped) = (Vec::new(), 0);
    for release in releases {
        let fetched = match &tools {
            Ok(_) => Kernel::fetch(*release, &apt, &cache),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        match fetched {
            Ok(kernel) => kernels.push(kernel),
            Err(reason) => {
                say(&format!("kernel {}: skipped: {reason:#}", release.name))?;
                skipped += 1;
            }
        }
    }
    let mut tally = Tally::default();
    if let Ok(tools) = &tools
        && !kernels.is_empty()
    {
        setup::ensure()?;
        let programs = programs::build()?;
        for kernel in &kernels {
            tally.add(run_and_say(tools, kernel, &programs, &cache)?);
        }
    }
    if skipped > 0 {
        say(&format!("{skipped} of {} kernels skipped, see above", releases.len()))?;
    }
    tally.print()?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lists of packages; an error says why nothing can be fetched.
fn open_apt(cache: &Cache) -> Result<Apt> {
    ensure!(env::consts::ARCH == "x86_64", "only x86-64 machines run these kernels, and this is {}", env::consts::ARCH);
    Apt::open(cache.path("apt"))
}

fn run_and_say(tools: &Tools, kernel: &Kernel, programs: &Programs, cache: &Cache) -> Result<Tally> {
    say(&format!("kernel {kernel}: boots in emulation"))?;
    let begin = Instant::now();
    let tally = run(tools, kernel, programs, cache).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Tally { failed: 1, ..Tally::default() }
    });
    let (Tally { passed, failed, ignored }, seconds) = (tally, begin.elapsed().as_secs());
    say(&format!("kernel {kernel}: {passed} passed, {failed} failed, {ignored} ignored in {seconds} s"))?;
    Ok(tally)
}

fn run(tools: &Tools, kernel: &Kernel, programs: &Programs, cache: &Cache) -> Result<Tally> {
    let initrd = cache.path(&format!("{}.initrd", kernel.release.name));
    let log = cache.path(&format!("{}.log", kernel.release.name));
    fs::write(&initrd, initrd::make(tools, kernel, programs)?).with_context(|| format!("{}", initrd.display()))?;
    let mut verdict = Verdict::default();
    let end = qemu::run(tools, kernel, &initrd, &log, |line| {
        verdict.read(line);
        say_plain(line)
    })?;
    let (tally, complaint) = verdict.end(&end);
    if let Some(complaint) = complaint {
        eprintln!("error: kernel {kernel}: {complaint}; its console is in {}", log.display());
    }
    Ok(tally)
}

/// Prints a line of this program's own.
fn say(text: &str) -> Result<()> {
    say_plain(&format!("kernels: {text}"))
}

/// Prints a line at once.
fn say_plain(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}
