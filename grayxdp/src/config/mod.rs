//! The config file: TOML text -> [`Config`], checked once. Pure; reading the file is the caller's.
//!
//! Every default value is here and in [`service`], nowhere else. Each error has a place in the text, says what was
//! expected and what to do, and all errors of a file are reported together.

mod agent;
mod health;
mod network;
mod problems;
mod release;
mod section;
mod service;
mod value;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use grayxdp_common::ids::Version;

pub use self::agent::{BPFFS_DEFAULT, SOCKET_DEFAULT};
pub use self::health::{Check, HealthCheck, StatusRange};
pub use self::problems::{ConfigError, ConfigErrors};
use self::{
    problems::Problems,
    section::{ROOT, Section},
    service::RawService,
};
use crate::decide::schedule::Schedule;

/// All that a config file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The agent's own settings.
    pub agent: AgentConfig,
    /// At least one, with unique names and endpoints, in the order of the file.
    pub services: Vec<ServiceConfig>,
}

/// The agent's own settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentConfig {
    /// Where clients' and backends' packets arrive. At least one, each once.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Directory for the pins, on a BPF file system.
    pub bpffs: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Members of this group may use the socket, besides root.
    pub socket_group: Option<String>,
    /// Where metrics are served.
    pub metrics: SocketAddr,
    /// The database file.
    pub state: PathBuf,
    /// Places in the flow table.
    pub max_flows: u32,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver where it can, else in the kernel's generic path.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic path.
    Generic,
}

/// A service and its release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceConfig {
    /// Unique; lower-case letters, digits and hyphens.
    pub name: String,
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// The port that clients connect to; not 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: Mode,
    /// What is hashed to place a client.
    pub key: Key,
    /// Shards, 1 to [`grayxdp_common::limits::SHARDS_PER_SERVICE_MAX`].
    pub shard_count: u32,
    /// Key of the hash, made from the seed and the service's name.
    pub hash_key: [u64; 2],
    /// UDP: a conversation idle for longer begins anew. Whole seconds.
    pub udp_idle: Duration,
    /// The running version's backends.
    pub v1: Pool,
    /// The canary's backends.
    pub v2: Pool,
    /// How v2's weight is to move.
    pub schedule: Schedule,
    /// How the backends are checked; `None` if they are not.
    pub health: Option<HealthCheck>,
}

impl ServiceConfig {
    /// The backends of a version.
    pub const fn pool(&self, version: Version) -> &Pool {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }
}

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How packets reach the backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The destination is rewritten, and replies are rewritten back on their way through this host.
    Nat,
}

impl Mode {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
        }
    }
}

/// What is hashed to place a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// The client's address: all its connections go to one version.
    SourceIp,
    /// The client's address and port: each connection for itself.
    Connection,
}

impl Key {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceIp => "source-ip",
            Self::Connection => "connection",
        }
    }
}

/// The backends of one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// At least one, at most [`grayxdp_common::limits::BACKENDS_PER_VERSION_MAX`].
    pub backends: Vec<Backend>,
}

/// A server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Where it listens: of the VIP's address family, and in one pool only.
    pub address: SocketAddr,
    /// Its share among its pool's backends, 1 to 1000.
    pub weight: u32,
}

impl Config {
    /// Reads and checks the text of a config file; the name is for the errors.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let problems = Problems::new(text);
        let config = read(&problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems.into_errors(file_name)),
        }
    }
}

/// `None` only after a problem was noted.
fn read(problems: &Problems<'_>) -> Option<Config> {
    let document = problems.parse()?;
    let root = Section::new(problems, ROOT, &document, &["agent", "service"]);
    let agent = root.required_section("agent", agent::KEYS, "begin with `[agent]` and `interfaces = [\"eth0\"]`");
    let agent = agent.and_then(|section| agent::read(&section));
    let services: Option<Vec<RawService>> = root
        .required_sections("service", service::KEYS, "add a `[[service]]` with `name`, `vip`, `port` and so on")
        .map(|sections| sections.iter().map(service::read).collect());
    network::check(problems, services.as_deref().unwrap_or_default());
    let services = services?.into_iter().map(RawService::into_config).collect::<Option<Vec<_>>>();
    Some(Config { agent: agent?, services: services? })
}

#[cfg(test)]
mod tests;
