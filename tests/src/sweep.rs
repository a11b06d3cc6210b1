//! Cleaning up after processes that could not do it themselves: killed, aborted, interrupted.
//!
//! A process that makes namespaces is watched by a small shell, which waits for the end of a pipe that only this
//! process holds. Leftovers of processes that died together with their watcher go with the next `sweep`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};

const SCRIPT: &str = include_str!("sweep.sh");

/// Where namespaces have their names.
pub const NETNS_DIRECTORY: &str = "/run/netns";
/// The file system of pins.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Our end of the watcher's pipe; closed by the kernel when this process ends.
static WATCHER: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// The prefix of everything that this process makes.
pub fn prefix() -> String {
    format!("gx-{}-", std::process::id())
}

/// A name that no other caller gets: `gx-<pid>-<n>`.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}", prefix(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A new directory for temporary files, readable by all: servers drop their rights.
pub fn temporary_directory(name: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(name);
    fs::create_dir(&path).with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}

/// Starts the watcher of this process, once; every maker of things calls this first.
pub fn watch_this_process() -> Result<()> {
    let mut watcher = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
    if watcher.is_none() {
        let mut child = script(std::process::id(), "wait")
            .stdin(Stdio::piped())
            // Its own group: Ctrl-C on the terminal must not end it.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        *watcher = child.stdin.take();
    }
    Ok(())
}

/// Removes what processes that are dead by now have left behind. Returns their ids.
pub fn sweep() -> Result<Vec<u32>> {
    let temporary = std::env::temp_dir();
    let mut owners = BTreeSet::new();
    for directory in [Path::new(NETNS_DIRECTORY), Path::new(BPFFS), &temporary] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        owners.extend(entries.flatten().filter_map(|entry| owner_of(&entry.file_name().to_string_lossy())));
    }
    let dead: Vec<u32> = owners.into_iter().filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()).collect();
    for pid in &dead {
        script(*pid, "now").stdin(Stdio::null()).status().context("cannot start sh")?;
    }
    Ok(dead)
}

/// What exists of a process's making: namespaces, pins, files. Empty after a clean end.
pub fn leftovers_of(pid: u32) -> Vec<PathBuf> {
    let temporary = std::env::temp_dir();
    [Path::new(NETNS_DIRECTORY), Path::new(BPFFS), &temporary]
        .into_iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| owner_of(&entry.file_name().to_string_lossy()) == Some(pid))
        .map(|entry| entry.path())
        .collect()
}

fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix("gx-")?.split_once('-')?.0.parse().ok()
}

fn script(pid: u32, when: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "gx-sweep", &pid.to_string()])
        .arg(std::env::temp_dir())
        .arg(when)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_process_id_have_an_owner() {
        for (name, expected) in [
            ("gx-12-0-lb", Some(12)),
            ("gx-12-0", Some(12)),
            ("gx-12", None),
            ("gx-lb-0", None),
            ("other-12-0", None),
            ("", None),
        ] {
            assert_eq!(owner_of(name), expected, "{name}");
        }
    }
}
