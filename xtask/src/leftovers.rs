//! What killed tests leave behind: namespaces, pins and files named `gx-<pid>-…`, of a process that is gone.
//!
//! Tests clean up themselves, also when they are interrupted; this is for what was killed together with its watcher.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::Result;

use crate::workspace;

/// The one description of what tests make; theirs.
const SCRIPT: &str = include_str!("../../tests/src/sweep.sh");

pub(crate) fn command() -> Result<ExitCode> {
    workspace::require_root("the removal of namespaces", "")?;
    sweep();
    Ok(ExitCode::SUCCESS)
}

/// Removes what is left. A failure is only said: it must not hide the result of the tests.
pub(crate) fn sweep() {
    if !workspace::is_root() {
        return;
    }
    let temporary = env::temp_dir();
    let dirs = [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), &temporary];
    for pid in dirs.into_iter().flat_map(dead_owners_in).collect::<BTreeSet<u32>>() {
        let mut shell = workspace::command("sh");
        shell.args(["-c", SCRIPT, "clean-up", &pid.to_string()]).arg(&temporary).arg("now").stdin(Stdio::null());
        if let Err(error) = shell.status() {
            eprintln!("could not remove what process {pid} left behind: sh does not start: {error}");
        }
    }
}

fn dead_owners_in(dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| owner(&name)).filter(|pid| !process_dir(*pid).exists()).collect()
}

fn process_dir(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// The process that made it.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("gx-")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_the_number_of_a_process_have_an_owner() {
        for (name, expected) in [
            ("gx-123-client", Some(123)),
            ("gx-7-a-b", Some(7)),
            ("gx-123", None),
            ("gx--a", None),
            ("gx-web-1", None),
            ("grayxdp", None),
            ("other-12-x", None),
        ] {
            assert_eq!(owner(name), expected, "{name}");
        }
    }

    #[test]
    fn what_a_living_process_made_is_left_alone() {
        let dir = env::temp_dir().join(format!("xtask-leftovers-{}", std::process::id()));
        let living = format!("gx-{}-x", std::process::id());
        for name in [living.as_str(), "gx-4294967295-x", "unrelated"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        assert_eq!(dead_owners_in(&dir), [u32::MAX]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
