//! The folder on the BPF file system: where it is, who holds it, what lies in it.
//!
//! Pins must outlive the agent. An agent started inside a mount namespace of its own (`ip netns exec` makes one, and
//! hides the BPF file system) would take a file system mounted there down with it; the folder is then looked for, and
//! mounted, in the mount namespace that the agent was started from: process 1's, or that of the oldest process above the
//! agent that may be looked into.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rustix::{
    fs::{FlockOperation, flock, statfs},
    io::Errno,
};

use super::{
    KernelError, lingering,
    link_info::{self, LinkInfo},
    maps::{INVENTORY_MAPS, STATE_MAPS},
};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const DEFAULT_MOUNT_POINT: &str = "/sys/fs/bpf";
const LINK_PREFIX: &str = "link";
/// In file names, for a dot in an interface's name: a BPF file system allows no dots, the kernel no colons in names of
/// interfaces.
const DOT: &str = ":";

/// How the program runs on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// After the kernel has made a socket buffer: slower, for drivers that cannot.
    Generic,
}

impl AttachedMode {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// A link that is pinned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinkPin {
    /// As it was named when the pin was made.
    pub(super) interface: String,
    pub(super) mode: AttachedMode,
    pub(super) path: PathBuf,
    /// `None` where the kernel does not tell.
    pub(super) info: Option<LinkInfo>,
}

/// The folder of the pins, locked for this process.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    /// Held until the agent ends, however it ends.
    _lock: File,
}

impl Pins {
    /// Makes the folder where it is missing, and locks it.
    pub(super) fn claim(configured: &Path) -> Result<Self, KernelError> {
        let folder = locate(configured)?;
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(KernelError::io("create", configured)(error));
            }
            _ => {}
        }
        Self::lock(configured, folder)
    }

    /// Locks the folder where it exists.
    pub(super) fn claim_existing(configured: &Path) -> Result<Option<Self>, KernelError> {
        let folder = reachable(configured);
        if !folder.is_dir() {
            return Ok(None);
        }
        if !is_on_bpffs(&folder) {
            return Err(KernelError::NotBpffs { path: configured.to_owned(), mount_point: configured.to_owned() });
        }
        Self::lock(configured, folder).map(Some)
    }

    fn lock(configured: &Path, folder: PathBuf) -> Result<Self, KernelError> {
        let lock = File::open(&folder).map_err(KernelError::io("open", configured))?;
        // A process that was being started when the last holder ended has a copy of its lock until it becomes the new program.
        let is_held = lingering::stays(|| match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(KernelError::io("lock", configured)(errno.into())),
        })?;
        if is_held {
            return Err(KernelError::AgentRunning { path: configured.to_owned() });
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a map of one program is pinned.
    pub(super) fn program_map(&self, name: &str, program: u32) -> PathBuf {
        self.folder.join(format!("{name}-{program}"))
    }

    /// Where the link of an interface is pinned. The mode is part of the name: the kernel does not tell it of a link.
    pub(super) fn link(&self, interface: &str, mode: AttachedMode) -> PathBuf {
        self.folder.join(link_name(interface, mode))
    }

    /// A name that no interface has, for a link that must make way for another one.
    pub(super) fn link_aside(&self, mode: AttachedMode, info: Option<LinkInfo>) -> PathBuf {
        let interface = info.map_or(0, |info| info.interface);
        (0..=u32::MAX)
            .map(|nth| self.link(&format!("..{interface}.{nth}"), mode))
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.link("..", mode))
    }

    /// All pinned links.
    pub(super) fn links(&self) -> Result<Vec<LinkPin>, KernelError> {
        let mut links = Vec::new();
        for path in self.files()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some((mode, interface)) = link_in(&name) {
                let info = link_info::read(&path);
                links.push(LinkPin { interface: interface.replace(DOT, "."), mode, path, info });
            }
        }
        links.sort_by(|a, b| a.interface.cmp(&b.interface));
        Ok(links)
    }

    /// Removes every pin, links first: nothing runs on maps that are half gone.
    pub(super) fn remove_all(self) -> Result<(), KernelError> {
        let is_link = |path: &PathBuf| path.file_name().is_some_and(|name| link_in(&name.to_string_lossy()).is_some());
        let (links, others): (Vec<_>, Vec<_>) = self.files()?.into_iter().partition(is_link);
        for path in links.into_iter().chain(others) {
            remove(&path)?;
        }
        fs::remove_dir(&self.folder).map_err(KernelError::io("remove", &self.folder))
    }

    /// Removes the pins of maps, where none of them is in use yet.
    pub(super) fn remove_maps(&self) -> Result<(), KernelError> {
        self.files()?.iter().try_for_each(|path| remove(path))
    }

    /// Numbers of the programs whose maps are pinned.
    pub(super) fn programs(&self) -> Result<Vec<u32>, KernelError> {
        let program = |path: &PathBuf| program_in(&path.file_name()?.to_string_lossy());
        let mut programs: Vec<u32> = self.files()?.iter().filter_map(program).collect();
        programs.sort_unstable();
        programs.dedup();
        Ok(programs)
    }

    /// Removes the pins of the maps of all programs but these.
    pub(super) fn remove_programs_but(&self, kept: &[u32]) -> Result<(), KernelError> {
        for path in self.files()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if program_in(&name).is_some_and(|program| !kept.contains(&program)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// grayxdp's own files; whatever else lies in the folder is left alone.
    fn files(&self) -> Result<Vec<PathBuf>, KernelError> {
        let entries = fs::read_dir(&self.folder).map_err(KernelError::io("read", &self.folder))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(KernelError::io("read", &self.folder))?.path();
            if path.file_name().is_some_and(|name| is_own(&name.to_string_lossy())) {
                files.push(path);
            }
        }
        Ok(files)
    }
}

fn remove(path: &Path) -> Result<(), KernelError> {
    fs::remove_file(path).map_err(KernelError::io("remove", path))
}

fn is_own(name: &str) -> bool {
    STATE_MAPS.contains(&name) || link_in(name).is_some() || program_in(name).is_some()
}

fn link_name(interface: &str, mode: AttachedMode) -> String {
    format!("{LINK_PREFIX}-{}-{}", mode.name(), interface.replace('.', DOT))
}

/// Mode and interface that a link's file name tells.
fn link_in(name: &str) -> Option<(AttachedMode, &str)> {
    let rest = name.strip_prefix(LINK_PREFIX)?.strip_prefix('-')?;
    AttachedMode::ALL.into_iter().find_map(|mode| {
        let interface = rest.strip_prefix(mode.name())?.strip_prefix('-')?;
        (!interface.is_empty()).then_some((mode, interface))
    })
}

/// The program whose map has this file name.
fn program_in(name: &str) -> Option<u32> {
    let (map, program) = name.rsplit_once('-')?;
    INVENTORY_MAPS.contains(&map).then(|| program.parse().ok())?
}

/// The folder as this process reaches it, on a BPF file system that outlives it.
fn locate(configured: &Path) -> Result<PathBuf, KernelError> {
    let folder = reachable(configured);
    if is_on_bpffs(&folder) {
        return Ok(folder);
    }
    if configured.starts_with(DEFAULT_MOUNT_POINT) && mount_bpffs().is_ok() {
        let folder = reachable(configured);
        if is_on_bpffs(&folder) {
            tracing::info!(mount_point = DEFAULT_MOUNT_POINT, "bpffs_mounted");
            return Ok(folder);
        }
    }
    let mount_point =
        if configured.starts_with(DEFAULT_MOUNT_POINT) { Path::new(DEFAULT_MOUNT_POINT) } else { configured };
    Err(KernelError::NotBpffs { path: configured.to_owned(), mount_point: mount_point.to_owned() })
}

/// The path itself, or the same path in the mount namespace that this process was started from.
fn reachable(configured: &Path) -> PathBuf {
    match (configured.strip_prefix("/"), outer_root()) {
        (Ok(relative), Some(root)) if !is_on_bpffs(configured) => root.join(relative),
        _ => configured.to_owned(),
    }
}

/// The root folder of the mount namespace that this process was started from, should that be another than its own. It is
/// held open, so that it can be reached when the process that it was found by has ended.
fn outer_root() -> Option<&'static Path> {
    static ROOT: OnceLock<Option<(File, PathBuf)>> = OnceLock::new();
    let open = || {
        let root = File::open(format!("/proc/{}/root", outer_process()?)).ok()?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        Some((root, path))
    };
    ROOT.get_or_init(open).as_ref().map(|(_, path)| path.as_path())
}

/// The oldest process above this one that may be looked into, if its mount namespace is another one.
fn outer_process() -> Option<u32> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let parent = |process: &u32| parent_in(&fs::read_to_string(format!("/proc/{process}/status")).ok()?);
    let own = namespace("self")?;
    let ancestors = std::iter::successors(Some(std::process::id()), parent).skip(1);
    let (oldest, its) = ancestors.filter_map(|process| Some((process, namespace(&process.to_string())?))).last()?;
    (its != own).then_some(oldest)
}

fn parent_in(status: &str) -> Option<u32> {
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    (parent != 0).then_some(parent)
}

fn is_on_bpffs(folder: &Path) -> bool {
    let existing = if folder.exists() { Some(folder) } else { folder.parent() };
    existing.and_then(|path| statfs(path).ok()).is_some_and(|stat| stat.f_type == BPF_FS_MAGIC)
}

fn mount_bpffs() -> io::Result<()> {
    if let Some(process) = outer_process() {
        let namespace = format!("--mount=/proc/{process}/ns/mnt");
        let output =
            Command::new("nsenter").args([&namespace, "mount", "-t", "bpf", "bpf", DEFAULT_MOUNT_POINT]).output()?;
        return if output.status.success() { Ok(()) } else { Err(io::Error::other("nsenter failed")) };
    }
    let flags =
        rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("bpf", DEFAULT_MOUNT_POINT, "bpf", flags, c"mode=0700").map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grayxdps_own_files_are_ever_removed() {
        for (name, own) in [
            ("META", true),
            ("SERVICES-12", true),
            ("SERVICES", false),
            ("SERVICES-", false),
            ("OTHER-12", false),
            ("link-native-eth0", true),
            ("link-generic-", false),
            ("link", false),
            ("grayxdp.toml", false),
        ] {
            assert_eq!(is_own(name), own, "{name}");
        }
    }

    #[test]
    fn a_links_name_tells_mode_and_interface() {
        for interface in ["eth0", "eth0.100", "native-eth0", "a-b"] {
            for mode in AttachedMode::ALL {
                let name = link_name(interface, mode);
                assert!(!name.contains('.'), "{name}");
                let (found, encoded) = link_in(&name).expect("a link's name");
                assert_eq!((found, encoded.replace(DOT, ".")), (mode, interface.to_owned()));
            }
        }
        assert_eq!(link_in("link-offload-eth0"), None);
    }

    #[test]
    fn the_parent_is_read_from_the_status_page() {
        assert_eq!(parent_in("Name:\tx\nPid:\t7\nPPid:\t3\n"), Some(3));
        assert_eq!(parent_in("PPid:\t0\n"), None);
        assert_eq!(parent_in(""), None);
    }
}
