//! Debian packages: which are missing, and their installation, which starts no daemon.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::say;
use crate::workspace;

/// A program that building, tests or the demo start, and the packages that have it, best first.
struct Tool {
    program: &'static str,
    packages: &'static [&'static str],
}

const fn tool(program: &'static str, packages: &'static [&'static str]) -> Tool {
    Tool { program, packages }
}

const TOOLS: [Tool; 18] = [
    tool("cc", &["build-essential"]),
    tool("pkg-config", &["pkg-config", "pkgconf"]),
    tool("ip", &["iproute2"]),
    tool("tc", &["iproute2"]),
    tool("ethtool", &["ethtool"]),
    tool("bpftool", &["bpftool", "linux-tools-generic"]),
    tool("nsenter", &["util-linux"]),
    tool("capsh", &["libcap2-bin"]),
    tool("curl", &["curl"]),
    tool("nginx", &["nginx-light", "nginx"]),
    tool("wrk", &["wrk"]),
    tool("nft", &["nftables"]),
    tool("haproxy", &["haproxy"]),
    tool("iperf3", &["iperf3"]),
    tool("dig", &["bind9-dnsutils", "dnsutils"]),
    tool("dnsmasq", &["dnsmasq-base"]),
    tool("prometheus", &["prometheus"]),
    tool("promtool", &["prometheus"]),
];

/// Installs "$@" as root. Packages with daemons ask `policy-rc.d` before they start one, and 101 means no.
/// A policy of the machine's own is put back, also after Ctrl-C; after a `kill -9`, by the next run.
const INSTALL_SCRIPT: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
exec 9</var/lib/dpkg
flock 9
policy=/usr/sbin/policy-rc.d
saved=$policy.before-grayxdp
log=$(mktemp)
restore() { rm -f "$policy" "$log"; if [ -e "$saved" ]; then mv "$saved" "$policy"; fi; }
if [ -e "$policy" ] && ! grep -q 'grayxdp setup' "$policy"; then mv "$policy" "$saved"; fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
printf '#!/bin/sh\n# Written by grayxdp setup, for the time of an installation.\nexit 101\n' >"$policy"
chmod 755 "$policy"
new=
for unit in nginx prometheus haproxy; do
    [ -e "/lib/systemd/system/$unit.service" ] || new="$new $unit"
done
apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
    install -y --no-install-recommends "$@" >"$log" 2>&1 9<&- || { cat "$log" >&2; exit 1; }
# Nor at the next boot: tests start their own.
for unit in $new; do
    if [ -e "/lib/systemd/system/$unit.service" ] && command -v systemctl >/dev/null; then
        systemctl disable --quiet "$unit.service" >&2 || true
    fi
done
"#;

/// Debian's package manager; the package lists are fetched once, and only when something is missing.
#[derive(Default)]
pub(super) struct Apt {
    lists: Lists,
    /// Packages that could not be installed here.
    pub(super) refused: Vec<String>,
}

#[derive(Default, PartialEq, Eq)]
enum Lists {
    #[default]
    Unknown,
    Fresh,
}

impl Apt {
    /// Why nothing can be installed.
    pub(super) fn refusal(&self) -> &'static str {
        if workspace::find_program("apt-get").is_none() {
            "there is no apt-get here"
        } else if root_command("true").is_none() {
            "this is neither root nor is there sudo"
        } else {
            "no package source offers them"
        }
    }

    /// The first of the packages that can be installed; the first of all where none can.
    pub(super) fn best<'a>(&mut self, alternatives: &[&'a str]) -> &'a str {
        let offered = alternatives.iter().find(|name| self.candidate(name).is_some());
        offered.or(alternatives.first()).copied().unwrap_or_default()
    }

    /// The version that would be installed.
    pub(super) fn candidate(&mut self, package: &str) -> Option<String> {
        self.fetch_lists();
        let output = Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]).output().ok()?;
        candidate_in(&String::from_utf8_lossy(&output.stdout))
    }

    fn fetch_lists(&mut self) {
        if self.lists == Lists::Fresh {
            return;
        }
        self.lists = Lists::Fresh;
        let Some(mut update) = root_command("apt-get") else { return };
        update.args(["-qq", "-o", "Acquire::Retries=3", "update"]).stdout(Stdio::null());
        say("fetching Debian's package lists (apt-get update)");
        if let Err(error) = workspace::run(&mut update) {
            say(&format!("going on with the package lists that are here: {error:#}"));
        }
    }

    /// Installs, or notes in `refused` what a person has to install.
    pub(super) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let names = packages.join(" ");
        let Some(mut shell) = root_command("sh") else { return self.refuse(packages) };
        let unknown: Vec<&str> = packages.iter().copied().filter(|name| self.candidate(name).is_none()).collect();
        if !unknown.is_empty() {
            return self.refuse(&unknown);
        }
        say(&format!("installing Debian packages: {names}"));
        shell.args(["-c", INSTALL_SCRIPT, "setup"]).args(packages).stdin(Stdio::null());
        let status = shell.status().context("sh does not start")?;
        if !status.success() {
            bail!("the installation of {names} failed ({status}); apt-get says above why");
        }
        Ok(())
    }

    fn refuse(&mut self, packages: &[&str]) -> Result<()> {
        for name in packages.iter().map(|name| (*name).to_owned()) {
            if !self.refused.contains(&name) {
                self.refused.push(name);
            }
        }
        bail!("Debian packages {} are missing", packages.join(" "))
    }
}

/// The tools that are not here.
pub(super) fn missing_tools() -> Vec<&'static str> {
    missing().map(|tool| tool.program).collect()
}

fn missing() -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().filter(|tool| workspace::find_program(tool.program).is_none())
}

/// Installs the packages of the tools that are not here.
pub(super) fn install_tools(apt: &mut Apt) -> Result<()> {
    let mut packages: Vec<&str> = missing().map(|tool| apt.best(tool.packages)).collect();
    packages.sort_unstable();
    packages.dedup();
    apt.install(&packages)?;
    let still_missing = missing_tools();
    if !still_missing.is_empty() {
        bail!("the packages {} are installed but have no {}", packages.join(" "), still_missing.join(", "));
    }
    Ok(())
}

/// Those of the packages that are not installed; all of them where there is no dpkg.
pub(super) fn not_installed<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |package: &str| {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f=${db:Status-Status} ", package]).stderr(Stdio::null());
        query.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).split(' ').any(|s| s == "installed"))
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

/// A command that runs as root, if that can be had.
fn root_command(program: &str) -> Option<Command> {
    workspace::find_program("apt-get")?;
    if workspace::is_root() {
        return Some(workspace::command(program));
    }
    let mut sudo = workspace::command(workspace::find_program("sudo")?);
    sudo.arg(program);
    Some(sudo)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_read_from_the_policy() {
        for (policy, expected) in [
            ("nginx-light:\n  Installed: (none)\n  Candidate: 1.22.1-9\n  Version table:\n", Some("1.22.1-9")),
            ("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n", None),
            ("", None),
        ] {
            assert_eq!(candidate_in(policy).as_deref(), expected, "{policy:?}");
        }
    }

    #[test]
    fn the_install_script_is_valid_shell() {
        let status = Command::new("sh").args(["-n", "-c", INSTALL_SCRIPT]).status().unwrap();
        assert!(status.success());
    }
}
