//! What can go wrong between the agent and the kernel: one sentence what, one what to do.

use std::{io, path::PathBuf};

/// An error of the data plane's control side. Traffic is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process may not do what it must.
    #[error(
        "missing {} {}. Run as root, or grant them: `setcap cap_bpf,cap_net_admin,cap_perfmon+ep $(command -v grayxdp)`.",
        if missing.len() == 1 { "capability" } else { "capabilities" }, missing.join(", ")
    )]
    MissingCapabilities {
        /// Names as in capabilities(7).
        missing: Vec<&'static str>,
    },
    /// The kernel lacks what the program needs.
    #[error(
        "kernel {found} is too old: grayxdp needs {needed} or newer, the oldest whose verifier is known to take its packet \
         program. Boot a newer kernel."
    )]
    KernelTooOld {
        /// As `uname -r` says.
        found: String,
        /// Oldest that will do.
        needed: &'static str,
    },
    /// A device of the config does not exist.
    #[error("interface `{name}` does not exist here; there are: {}. Correct `agent.interfaces`.", known.join(", "))]
    UnknownInterface {
        /// From the config.
        name: String,
        /// All that exist in this network namespace.
        known: Vec<String>,
    },
    /// The kernel's route look-up answers only where forwarding is on.
    #[error("forwarding is off on interface `{interface}`. Switch it on: `sysctl -w {sysctl}=1`.")]
    ForwardingOff {
        /// Device.
        interface: String,
        /// Key for sysctl(8).
        sysctl: String,
    },
    /// The pins need a BPF file system.
    #[error(
        "{path} is not on a BPF file system. Mount one (`mount -t bpf bpf {mount_point}`), or set `agent.bpffs` to a folder on one."
    )]
    NotBpffs {
        /// Of the config.
        path: PathBuf,
        /// Where to mount.
        mount_point: PathBuf,
    },
    /// Somebody holds the lock on the pins.
    #[error("another agent runs on the pins at {path}. Stop it first, or set another `agent.bpffs`.")]
    AgentRunning {
        /// Folder of the pins.
        path: PathBuf,
    },
    /// The pins are of another release of grayxdp.
    #[error(
        "maps pinned at {path} have layout {found}; this agent needs {expected}. Run `grayxdp detach --bpffs {path}`, then start again (connections will break)."
    )]
    LayoutMismatch {
        /// Folder of the pins.
        path: PathBuf,
        /// In the pins.
        found: u32,
        /// Of this agent.
        expected: u32,
    },
    /// The flow map cannot be resized under traffic.
    #[error(
        "the flow map pinned at {path} holds {found} flows, the config says `max_flows = {wanted}`. Set it back, or run `grayxdp detach --bpffs {path}` and start again (connections will break)."
    )]
    FlowsResized {
        /// Folder of the pins.
        path: PathBuf,
        /// In the pins.
        found: u32,
        /// In the config.
        wanted: u32,
    },
    /// The driver has no native XDP, and the config insists.
    #[error(
        "interface `{name}` cannot run XDP in native mode: {reason}. Set `xdp_mode = \"auto\"` or \"generic\", or mend that (see `dmesg`)."
    )]
    NativeUnsupported {
        /// Device.
        name: String,
        /// The kernel's words.
        reason: String,
    },
    /// One XDP program for each device.
    #[error(
        "interface `{name}` already has an XDP program that is not grayxdp's. See `ip -details link show {name}`; take it off first: stop its owner, or `ip link set dev {name} xdp off`; where `bpftool link` shows an xdp link on the device, its owner or a pin holds it, and only that can let go."
    )]
    InterfaceBusy {
        /// Device.
        name: String,
    },
    /// Switching modes would leave the device bare for a moment.
    #[error(
        "interface `{name}` runs in {found} mode, the config says `xdp_mode = \"{wanted}\"`. Set it back, or run `grayxdp detach --bpffs {path}` and start again (connections will break)."
    )]
    ModeDiffers {
        /// Device.
        name: String,
        /// Of the running attachment.
        found: &'static str,
        /// Of the config.
        wanted: &'static str,
        /// Folder of the pins.
        path: PathBuf,
    },
    /// The running program's maps are not where its agent left them.
    #[error(
        "cannot open map {map} of the running program {program}, pinned at {path}: {reason}. Without it, connections cannot be kept: run `grayxdp detach --bpffs {path}`, then start again (connections will break)."
    )]
    FormerMaps {
        /// Folder of the pins.
        path: PathBuf,
        /// Which one.
        map: String,
        /// Number of the program.
        program: u32,
        /// The kernel's words.
        reason: String,
    },
    /// Source addresses that no place can be found for.
    #[error("source addresses of `full-nat`: {reason}.")]
    Sources {
        /// What is wrong and what to do.
        reason: String,
    },
    /// Attaching failed otherwise.
    #[error("cannot attach to interface `{name}`: {reason}. `dmesg` may say more (MTU, queues, LRO).")]
    Attach {
        /// Device.
        name: String,
        /// The kernel's words.
        reason: String,
    },
    /// The program or its maps were refused.
    #[error("the kernel refused the packet program: {reason}")]
    Load {
        /// The kernel's words, verifier log included.
        reason: String,
    },
    /// More than the maps hold.
    #[error(
        "no room for another {what}: {limit} are in use, those included that left the config and still hold flows. Run `grayxdp detach --bpffs {path}` and start again to drop them (connections will break)."
    )]
    Full {
        /// Service or backend.
        what: &'static str,
        /// Capacity.
        limit: u32,
        /// Folder of the pins.
        path: PathBuf,
    },
    /// A reply must tell whose it is.
    #[error(
        "backend {address} is there twice: each may be in one pool of one service only. Take one out, or give the server a second address or port."
    )]
    BackendTwice {
        /// Where it listens.
        address: std::net::SocketAddr,
    },
    /// A map operation failed.
    #[error("cannot {what}: {reason}")]
    Map {
        /// What was tried.
        what: &'static str,
        /// The kernel's words.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl KernelError {
    /// For `map_err` on file operations.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err` on map operations.
    pub(super) fn map<E: std::error::Error>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Map { what, reason: causes(&error) }
    }
}

/// An error with all its causes, which aya keeps apart from its message.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}
