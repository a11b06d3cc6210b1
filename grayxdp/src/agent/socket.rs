//! The control socket: who may use it, and that only one agent has it.
//!
//! The socket file of a dead agent looks like that of a live one, and two agents may start at the same time. So a lock
//! on a file beside it decides; the system drops it with the process, however that ends.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody has it.
    #[error(
        "another agent is running on this socket: {}. Stop it first (`grayxdp --socket {} status` shows its pid), or set \
         another `socket` under [agent]",
        path.display(), path.display()
    )]
    AgentRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is there and no socket. Remove it, or set another `socket` under [agent]", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The group of the config does not exist.
    #[error(
        "there is no group `{name}`. Create it (`groupadd --system {name}`), or correct `socket_group` under [agent]"
    )]
    UnknownGroup {
        /// From the config.
        name: String,
    },
    /// The system refuses.
    #[error("cannot {what} {}: {source}. Correct that, or set another `socket` under [agent]", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The listening socket's file and lock; both go on drop.
#[derive(Debug)]
pub(super) struct SocketGuard {
    path: PathBuf,
    _lock: File,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        // Only tidiness: the next agent replaces what is left.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on the socket, for root and the group of the config only. Needs a running tokio runtime.
pub(super) fn listen(path: &Path, group: Option<&str>) -> Result<(UnixListener, SocketGuard), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    let group = group.map(group_id).transpose()?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(failed("create the directory of the control socket"))?;
    }
    let lock = lock(path)?;
    remove_stale(path)?;
    // Closed to others from its first moment on; opened to the group below.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener.map_err(failed("listen on the control socket"))?;
    let guard = SocketGuard { path: path.to_owned(), _lock: lock };
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed("give the group the control socket"))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o660))
            .map_err(failed("give the group the control socket"))?;
    }
    Ok((listener, guard))
}

fn lock(socket: &Path) -> Result<File, SocketError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(|source| {
            SocketError::Io { what: "open the lock of the control socket", path: path.clone(), source }
        })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(SocketError::AgentRunning { path: socket.to_owned() }),
        Err(error) => Err(SocketError::Io { what: "lock the control socket by", path, source: error.into() }),
    }
}

/// With the lock held, whoever made the socket file is dead, unless it was no agent at all.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at the control socket")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    if is_listened_on(path).map_err(failed("try the control socket"))? {
        return Err(SocketError::AgentRunning { path: path.to_owned() });
    }
    std::fs::remove_file(path).map_err(failed("remove the control socket of a dead agent at"))
}

fn is_listened_on(path: &Path) -> io::Result<bool> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // Would block: its queue is full, for it hangs or is stopped. It lives.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// By name, or as a number.
fn group_id(name: &str) -> Result<u32, SocketError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(SocketError::UnknownGroup { name: name.to_owned() }),
        Err(error) => Err(SocketError::Io {
            what: "look the group up in",
            path: PathBuf::from("/etc/group"),
            source: error.into(),
        }),
    }
}
