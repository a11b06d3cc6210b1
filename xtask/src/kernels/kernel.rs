//! One of Debian's kernels: fetched, with its modules in the order in which they load.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    apt::{Apt, output_of},
    cache::Cache,
    releases::{Release, Suite},
    say,
    tools::Tools,
};

/// An unpacked kernel. Displayed as exactly which one it is.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) release: Release,
    /// As `uname -r` says.
    pub(super) uname: String,
    /// Of Debian's package.
    version: String,
    dir: PathBuf,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (Debian {})", self.uname, self.version)
    }
}

impl Kernel {
    /// The newest build of a release; an older one of the cache where it cannot be had.
    pub(super) fn fetch(release: Release, apt: &Result<Apt>, cache: &Cache) -> Result<Self> {
        let newest = match apt {
            Ok(apt) => Self::fetch_newest(release, apt, cache),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        newest.or_else(|error| {
            let Some(contents) = cache.contents(release.name) else { return Err(error) };
            say(&format!("kernel {}: that of the cache, for none can be fetched: {error:#}", release.name))?;
            Self::from_contents(release, &contents, cache.path(release.name))
        })
    }

    fn fetch_newest(release: Release, apt: &Apt, cache: &Cache) -> Result<Self> {
        let prefix = format!("{}.", release.name);
        let versions = apt.versions(release.package)?;
        let newest = versions.into_iter().find(|candidate| candidate.version.starts_with(&prefix));
        let newest = newest.with_context(|| format!("the mirror has no kernel {}", release.name))?;
        let image = newest.depends.iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{} names no kernel", release.package))?;
        let contents = format!("{image} {}", newest.version);
        let dir = cache.fill(release.name, &contents, |dir| {
            say(&format!("fetching {contents}"))?;
            apt.unpack(&[format!("{image}={}", newest.version)], dir)
        })?;
        Self::from_contents(release, &contents, dir)
    }

    fn from_contents(release: Release, contents: &str, dir: PathBuf) -> Result<Self> {
        let parts = contents.strip_prefix("linux-image-").and_then(|contents| contents.split_once(' '));
        let (uname, version) = parts.with_context(|| format!("{contents:?} does not say which kernel it is"))?;
        Ok(Self { release, uname: uname.to_owned(), version: version.to_owned(), dir })
    }

    /// What qemu boots.
    pub(super) fn image(&self) -> PathBuf {
        self.dir.join("boot").join(format!("vmlinuz-{}", self.uname))
    }

    /// What the guest is for.
    pub(super) fn suite(&self) -> Suite {
        self.release.suite
    }

    /// The files of the named modules and of those that they need, in the order in which they load.
    pub(super) fn modules(&self, names: &[&str], tools: &Tools) -> Result<Vec<PathBuf>> {
        // The package comes without the index; installing it would make one.
        output_of(tools.command_as("bin/kmod", "depmod").arg("-b").arg(&self.dir).arg(&self.uname))?;
        let mut paths = Vec::new();
        for name in names {
            let mut modprobe = tools.command_as("bin/kmod", "modprobe");
            // Without the settings of this machine, which would be options behind the paths.
            modprobe.args(["-C", "/dev/null"]).arg("-d").arg(&self.dir).args([
                "-S",
                &self.uname,
                "--show-depends",
                name,
            ]);
            let shown = output_of(&mut modprobe).with_context(|| format!("module {name} of kernel {self}"))?;
            for path in module_files(&shown) {
                ensure!(path.exists(), "module {name} of kernel {self} needs {}, which is not there", path.display());
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        Ok(paths)
    }
}

/// Reads `insmod PATH`; `builtin NAME` is in the kernel already.
fn module_files(shown: &str) -> Vec<PathBuf> {
    let path = |line: &str| Some(Path::new(line.strip_prefix("insmod ")?.trim()).to_owned());
    shown.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::releases::ALL;

    #[test]
    fn what_the_cache_has_says_which_kernel_it_is() {
        let read = |contents: &str| Kernel::from_contents(ALL[0], contents, PathBuf::from("d"));
        let kernel = read("linux-image-6.1.0-56-cloud-amd64 6.1.192-2").unwrap();
        assert_eq!(kernel.to_string(), "6.1.0-56-cloud-amd64 (Debian 6.1.192-2)");
        assert_eq!(kernel.image(), Path::new("d/boot/vmlinuz-6.1.0-56-cloud-amd64"));
        assert!(read("linux-image-6.1.0").is_err());
    }

    #[test]
    fn modules_keep_the_order_of_modprobe() {
        let shown = "insmod /m/tunnel4.ko \nbuiltin ipv6\ninsmod /m/ipip.ko.xz \n";
        assert_eq!(module_files(shown), [Path::new("/m/tunnel4.ko"), Path::new("/m/ipip.ko.xz")]);
    }
}
