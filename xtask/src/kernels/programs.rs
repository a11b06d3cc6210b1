//! What is tested, linked statically: it runs in a guest that has no libraries of this machine.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::say;
use crate::workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they were built.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// The agent and its command line.
    pub(super) agent: PathBuf,
    /// The packet tests.
    pub(super) packets: PathBuf,
}

/// Builds them in release mode, which the other tests use too.
pub(super) fn build() -> Result<Programs> {
    say("building the agent and the packet tests, static")?;
    let mut cargo = workspace::cargo(["build", "--release", "--target", TARGET]);
    cargo.args(["--package", "grayxdp", "--bin", "grayxdp", "--package", "grayxdp-tests", "--test", "packets"]);
    cargo.arg("--message-format=json-render-diagnostics");
    // For the target only: build scripts and macros stay those of the other builds. These two would win over it.
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let messages = messages_of(&mut cargo)?;
    let built = |name: &str| {
        executable_in(&messages, name).with_context(|| format!("cargo does not say where it has built {name}"))
    };
    Ok(Programs { agent: built("grayxdp")?, packets: built("packets")? })
}

fn messages_of(cargo: &mut Command) -> Result<String> {
    let name = workspace::describe(cargo);
    let output = cargo.stderr(Stdio::inherit()).output().with_context(|| format!("`{name}` does not start"))?;
    if !output.status.success() {
        bail!("`{name}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of `{name}`"))
}

/// Reads one JSON object a line; a library of that name has no executable.
fn executable_in(messages: &str, target: &str) -> Option<PathBuf> {
    let name = format!(r#""name":"{target}""#);
    let executable = |line: &str| {
        let path = line.split_once(r#""executable":""#)?.1.split_once('"')?.0;
        Some(PathBuf::from(path.replace(r"\\", r"\")))
    };
    messages.lines().filter(|line| line.contains(&name)).find_map(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_of_a_target_is_found() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"grayxdp"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"packets"},"executable":"/t/deps/packets-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"grayxdp"},"executable":"/t/grayxdp"}"#;
        assert_eq!(executable_in(messages, "grayxdp"), Some(PathBuf::from("/t/grayxdp")));
        assert_eq!(executable_in(messages, "packets"), Some(PathBuf::from("/t/deps/packets-1")));
        assert_eq!(executable_in(messages, "pack"), None);
    }
}
