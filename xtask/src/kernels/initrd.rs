//! The guest's file system: tools, modules, the programs under test, and all files of `guest/`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};

use super::{cpio::Archive, kernel::Kernel, programs::Programs, tools::Tools};
use crate::workspace;

/// Scripts, and the list of modules; a new case is a new file there.
const GUEST: &str = "xtask/src/kernels/guest";
const MODULES: &str = "modules.list";

/// From the tools' root to the same place in the guest, libraries besides.
const TOOLS: [&str; 9] = [
    "bin/dash",
    "bin/ip",
    "sbin/tc",
    "sbin/ethtool",
    "bin/kmod",
    "usr/sbin/bpftool",
    "usr/bin/curl",
    "usr/bin/nsenter",
    "bin/busybox",
];
const LINKS: [(&str, &str); 3] = [("bin/sh", "dash"), ("sbin/insmod", "/bin/kmod"), ("sbin/modprobe", "/bin/kmod")];
const DIRS: [&str; 8] = ["proc", "sys", "dev", "run", "tmp", "applets", "usr/bin", "var/lib"];

/// Its bytes.
pub(super) fn make(tools: &Tools, kernel: &Kernel, programs: &Programs) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in DIRS {
        archive.dir(dir);
    }
    // Process 1 gets its output from here, before it can mount anything.
    archive.device("dev/console", (5, 1));
    let guest = workspace::root().join(GUEST);
    add_tools(&mut archive, tools)?;
    add_modules(&mut archive, tools, kernel, &guest)?;
    for (path, program) in [("bin/grayxdp", &programs.agent), ("bin/packets", &programs.packets)] {
        archive.file(path, 0o755, &read(program)?);
    }
    archive.file("init", 0o755, &read(&guest.join("init"))?);
    archive.file("guest/lib.sh", 0o644, &read(&guest.join("lib.sh"))?);
    let suite = kernel.suite().name();
    for entry in fs::read_dir(guest.join(suite)).with_context(|| format!("the directory {GUEST}/{suite}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        archive.file(&format!("guest/{suite}/{name}"), 0o644, &read(&entry.path())?);
    }
    Ok(archive.finish())
}

fn add_tools(archive: &mut Archive, tools: &Tools) -> Result<()> {
    let mut added: Vec<String> = Vec::new();
    for tool in TOOLS {
        let file = tools.root.join(tool);
        let permissions = file.metadata().with_context(|| format!("{}", file.display()))?.permissions().mode() & 0o777;
        archive.file(tool, permissions, &read(&file)?);
        let is_static = tool == "bin/busybox";
        for (path, file) in if is_static { Vec::new() } else { tools.libraries(tool)? } {
            if !added.contains(&path) {
                archive.file(&path, 0o755, &read(&file)?);
                added.push(path);
            }
        }
    }
    for (path, target) in LINKS {
        archive.symlink(path, target);
    }
    Ok(())
}

/// The files, and a list of them in the order in which they load.
fn add_modules(archive: &mut Archive, tools: &Tools, kernel: &Kernel, guest: &Path) -> Result<()> {
    let list = fs::read_to_string(guest.join(MODULES)).with_context(|| format!("{GUEST}/{MODULES}"))?;
    let names: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut in_order = String::new();
    for file in kernel.modules(&names, tools)? {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        archive.file(&format!("modules/{name}"), 0o644, &read(&file)?);
        in_order += &format!("/modules/{name}\n");
    }
    archive.file("guest/modules", 0o644, in_order.as_bytes());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{}", path.display()))
}
