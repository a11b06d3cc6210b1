//! What can go wrong with a command: what a person reads, what a program reads, and the exit code.

use std::{io, path::PathBuf};

use serde_json::{Value, json};

use super::{client::ClientError, wait::WaitError};
use crate::{agent::AgentError, config::ConfigErrors, kernel::KernelError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The agent cannot be reached, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A config file cannot be read.
    #[error("cannot read {}: {source}. Give the path of a config file that you may read", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A config file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A config file has no such service.
    #[error("no service `{name}` in {}; there are: {}", path.display(), services.join(", "))]
    NoSuchService {
        /// As asked for.
        name: String,
        /// The file.
        path: PathBuf,
        /// What there is.
        services: Vec<String>,
    },
    /// The agent could not start, or had to end.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The kernel side could not be taken down.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A capture file cannot be written.
    #[error("cannot write {}: {why}. Give a file in a folder that you may write to, on a disk with room", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A release that was waited for did not get there.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The result could not be written.
    #[error("cannot write the result: {0}. Is the disk full, or the output closed?")]
    Print(#[source] io::Error),
}

impl CliError {
    /// 5 when the agent cannot be reached, else 1; waiting has codes of its own. Wrong usage never comes this far.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.is_unreachable() => 5,
            Self::Wait(error) => error.exit_code(),
            _ => 1,
        }
    }

    /// For programs; the agent's own codes are passed on.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Client(error) => error.code(),
            Self::ConfigFile { .. } => "config_file",
            Self::Config(_) => "config",
            Self::NoSuchService { .. } => "unknown_service",
            Self::Agent(_) => "agent",
            Self::Kernel(_) => "kernel",
            Self::Capture { .. } => "capture",
            Self::Wait(error) => error.code(),
            Self::Print(_) => "output",
        }
    }

    /// As it is printed with `-o json`.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": { "code": self.code(), "message": self.to_string() } })
    }
}
