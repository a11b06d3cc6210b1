//! The demo keeps its promises, and leaves nothing behind, however it ends.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    process::{Process, Signal, output_within, run, wait_until},
    sweep,
};
use serde_json::Value;

#[test]
fn the_demo_releases_v2_on_ipv4() -> Result<()> {
    releases(&["--json", "--seconds", "10"])
}

#[test]
fn the_demo_releases_v2_on_ipv6() -> Result<()> {
    releases(&["--json", "--seconds", "10", "--ipv6"])
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() -> Result<()> {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let (log, mut demo) = running_demo()?;
        assert!(!sweep::leftovers_of(demo.id()).is_empty());
        demo.signal(signal)?;
        let status = demo.wait_within(Duration::from_secs(30))?;
        assert_eq!(status.code(), code, "{}", demo.log_tail());
        assert_nothing_left(&demo)?;
        fs::remove_dir_all(log)?;
    }
    Ok(())
}

#[test]
fn a_demo_whose_agent_dies_says_so_and_leaves_nothing_behind() -> Result<()> {
    let (log, mut demo) = running_demo()?;
    let namespaces = fs::read_dir(sweep::NETNS_DIRECTORY)?.flatten().map(|entry| entry.file_name());
    let (own, lb) = (format!("gx-{}-", demo.id()), "-lb");
    let mut names = namespaces.map(|name| name.to_string_lossy().into_owned());
    let lb = names.find(|name| name.starts_with(&own) && name.ends_with(lb)).context("no lb")?;
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -9 $(ip netns pids \"$1\")", "sh", &lb]);
    run(kill)?;
    let status = demo.wait_within(Duration::from_secs(30))?;
    let said = fs::read_to_string(log.join("output"))?;
    assert!(status.code() == Some(1) && said.contains("demo: grayxdp run ended"), "{status}: {said}");
    assert_nothing_left(&demo)?;
    Ok(fs::remove_dir_all(log)?)
}

#[test]
fn a_demo_without_root_says_what_to_do() -> Result<()> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_demo")]);
    // The binary may lie where only root may look.
    let readable = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "test", "-x", env!("CARGO_BIN_EXE_demo")])
        .stdin(Stdio::null())
        .status()?;
    if !readable.success() {
        eprintln!("the demo's binary is not accessible to other users here");
        return Ok(());
    }
    let output = output_within(command, Duration::from_secs(30))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("root") && said.lines().count() == 1, "{said}");
    Ok(())
}

#[test]
fn a_demo_without_the_agents_binary_says_what_to_do() -> Result<()> {
    let mut command = demo(&[]);
    command.env("GRAYXDP_BIN", "/nonexistent/grayxdp");
    let output = output_within(command, Duration::from_secs(30))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("cargo build"), "{said}");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_process_that_was_swept_away() -> Result<()> {
    assert!(sweep::leftovers_of(u32::MAX).is_empty());
    // Far above the kernel's largest process id: nobody's.
    let path = std::env::temp_dir().join("gx-4294967290-0-files");
    fs::create_dir_all(&path)?;
    thread::scope(|scope| scope.spawn(sweep::sweep).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))?;
    assert!(!path.exists());
    Ok(())
}

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments);
    command
}

/// A demo whose release has begun, and the directory with its output.
fn running_demo() -> Result<(PathBuf, Process)> {
    sweep::watch_this_process()?;
    let log = sweep::temporary_directory(&sweep::unique_name())?;
    let output = log.join("output");
    let mut demo = Process::spawn("demo", demo(&[]), &output)?;
    demo.wait_until("the release runs", Duration::from_secs(60), || {
        ensure!(fs::read_to_string(&output)?.contains("progressing"), "no progress");
        Ok(())
    })?;
    Ok((log, demo))
}

/// After a kill its watcher cleans up, a moment later.
fn assert_nothing_left(demo: &Process) -> Result<()> {
    wait_until("everything is removed", Duration::from_secs(10), || {
        let left = sweep::leftovers_of(demo.id());
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    })
}

fn releases(arguments: &[&str]) -> Result<()> {
    let output: Output = output_within(demo(arguments), Duration::from_secs(90))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    eprintln!("{printed}{said}");
    assert!(output.status.success(), "{}", output.status);
    assert!(!printed.contains('\x1b'), "no colours in a pipe");
    let last: Value = serde_json::from_str(printed.lines().last().context("nothing was printed")?)?;
    assert_eq!(
        (&last["failed"], &last["final_weight"], &last["final_v2_share"]),
        (&0.into(), &100.0.into(), &100.0.into()),
        "{last}"
    );
    assert!(last["requests"].as_u64() > Some(1000), "{last}");
    assert!(last["max_share_error"].as_f64() < Some(15.0), "{last}");
    Ok(())
}
