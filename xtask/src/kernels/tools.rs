//! qemu, and the programs that guests start: unpacked beside the system, never installed, for installing them would
//! change what else the machine has. They run with their own C library, whatever this machine's is.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::{Apt, output_of},
    cache::Cache,
    say,
};
use crate::workspace;

/// busybox is for small things only: its shell and its nsenter would take `ip` and `tc` for applets of its own, and its
/// wget, being static, crashes in the resolver.
const PACKAGES: [&str; 9] =
    ["qemu-system-x86", "busybox-static", "dash", "util-linux", "iproute2", "bpftool", "ethtool", "kmod", "curl"];
const ENTRY: &str = "tools";
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// A root directory with all of them.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) root: PathBuf,
}

impl Tools {
    /// Of the cache, or fetched.
    pub(super) fn fetch(apt: &Result<Apt>, cache: &Cache) -> Result<Self> {
        let contents = PACKAGES.join(" ");
        let root = cache.fill(ENTRY, &contents, |dir| match apt {
            Ok(apt) => {
                say("fetching qemu and the programs of the guests (50 MB)")?;
                apt.unpack_with_dependencies(&PACKAGES, dir)
            }
            Err(error) => bail!("{error:#}"),
        })?;
        Ok(Self { root })
    }

    /// Starts one of the programs, by its path from the root.
    pub(super) fn command(&self, program: &str) -> Command {
        self.command_as(program, program)
    }

    /// Starts a program that has several names.
    pub(super) fn command_as(&self, program: &str, name: &str) -> Command {
        let mut command = self.loader();
        command.args(["--argv0", name]).arg(self.root.join(program));
        command
    }

    /// The loader and the libraries of a program: path in the guest, file here.
    pub(super) fn libraries(&self, program: &str) -> Result<Vec<(String, PathBuf)>> {
        let listed = output_of(self.loader().arg("--list").arg(self.root.join(program)))
            .with_context(|| format!("the libraries of {program}"))?;
        let mut files = vec![("lib64/ld-linux-x86-64.so.2".to_owned(), self.root.join(LOADER))];
        for path in library_files(&listed) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            files.extend(name.map(|name| (format!("{}/{name}", LIBRARIES[0]), path)));
        }
        Ok(files)
    }

    fn loader(&self) -> Command {
        let mut loader = workspace::command(self.root.join(LOADER));
        loader.arg("--library-path").arg(LIBRARIES.map(|dir| self.root.join(dir).display().to_string()).join(":"));
        loader
    }
}

/// Reads `libm.so.6 => /path/libm.so.6 (0x…)`.
fn library_files(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| Some(Path::new(line.split_once(" => ")?.1.rsplit_once(" (")?.0).to_owned());
    listed.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibm.so.6 => /a b/libm.so.6 (0x7f00)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(library_files(listed), [Path::new("/a b/libm.so.6")]);
    }
}
