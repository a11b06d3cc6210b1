//! The config file: TOML text -> [`Config`], checked once. Pure; reading the file is the caller's.
//!
//! Every default value is here, nowhere else. Each error has a place in the text, says what was
//! expected and what to do, and all errors of a file are reported together.

mod agent;
mod external;
mod health;
mod mode;
mod network;
mod pins;
mod policy;
mod problems;
mod release;
#[cfg(test)]
pub(crate) mod sample;
mod section;
mod service;
mod shards;
mod signals;
mod simulation;
mod timeouts;
mod value;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use grayxdp_common::ids::Version;

pub use self::agent::{BPFFS_DEFAULT, SOCKET_DEFAULT};
pub use self::external::{External, Query, Webhook};
pub use self::health::{Check, HealthCheck, StatusRange};
pub use self::mode::Mode;
pub use self::problems::{ConfigError, ConfigErrors};
pub use self::service::{BACKEND_WEIGHT_DEFAULT, BACKEND_WEIGHT_MAX, BackendAddressError};
pub use self::signals::{Fuse, Observe};
pub use self::simulation::{SimulatedService, Simulation, part_from_text, rate_from_text};
pub use self::timeouts::Timeouts;
use self::{
    problems::Problems,
    section::{ROOT, Section},
    service::RawService,
};
use crate::decide::{
    controller::{Policy, Terms},
    pin::Pin,
    plan::{Order, Plan},
    schedule::Schedule,
    settings::Member,
    shards::{Sharding, Shards},
};

/// All that a config file says.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The agent's own settings.
    pub agent: AgentConfig,
    /// How long flows may be idle.
    pub timeouts: Timeouts,
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
    /// Ports of the source addresses of `full-nat`.
    pub source_ports: PortRange,
}

/// A range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// The lowest one, at least 1024.
    pub first: u16,
    /// The highest one, not below the first.
    pub last: u16,
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
#[derive(Clone, PartialEq, Debug)]
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
    /// How clients fall into shards.
    pub sharding: Sharding,
    /// How many shards that makes, 1 to [`grayxdp_common::limits::SHARDS_PER_SERVICE_MAX`].
    pub shard_count: u32,
    /// Key of the hash, made from the seed and the service's name.
    pub hash_key: [u64; 2],
    /// UDP: a conversation idle for longer begins anew. Whole seconds, 1 s to 8 h.
    pub udp_idle: Duration,
    /// A second port of the VIP, all of whose clients meet v2; no other service is there.
    pub canary_port: Option<u16>,
    /// Each rule once.
    pub pins: Vec<Pin>,
    /// What becomes of new connections to a version without a live backend.
    pub when_empty: WhenEmpty,
    /// Slots of the tables that spread new connections over a version's backends: one of [`grayxdp_common::limits::MAGLEV_SIZES`].
    pub maglev_slots: u32,
    /// The running version's backends.
    pub v1: Pool,
    /// The canary's backends.
    pub v2: Pool,
    /// How v2's weight is to move.
    pub schedule: Schedule,
    /// Whether the shards move together.
    pub order: Order,
    /// What a rollback does to v2's open connections.
    pub on_rollback: OnRollback,
    /// What stops, ends and undoes its release beside the schedule.
    pub policy: Policy,
    /// What others measure of the release, and who is asked or told about it.
    pub external: External,
    /// How the backends are checked; `None` if they are not.
    pub health: Option<HealthCheck>,
    /// What responses are looked into for.
    pub observe: Observe,
    /// When the kernel itself sends new connections back to v1; `None` if it never does.
    pub fuse: Option<Fuse>,
}

impl ServiceConfig {
    /// Its shards.
    pub fn shards(&self) -> Shards<'_> {
        Shards::new(&self.sharding, self.shard_count)
    }

    /// Its schedule, for all of its shards.
    pub fn plan(&self) -> Plan<'_> {
        Plan { schedule: &self.schedule, order: self.order, shards: self.shards() }
    }

    /// What its release goes by.
    pub fn terms(&self) -> Terms<'_> {
        Terms { plan: self.plan(), policy: &self.policy }
    }

    /// All backends, v1's first.
    pub fn members(&self) -> Vec<Member> {
        let of = |version: Version| {
            let backends = self.pool(version).backends.iter();
            backends.map(move |&Backend { address, weight }| Member { version, address, weight })
        };
        of(Version::V1).chain(of(Version::V2)).collect()
    }

    /// Whether its clients connect to this address, by its port or its canary port.
    pub fn meets_clients_at(&self, address: SocketAddr) -> bool {
        address.ip() == self.vip && (address.port() == self.port || Some(address.port()) == self.canary_port)
    }

    /// The address of a backend of this service, from what a person wrote; checked as one of the config.
    pub fn backend_address(&self, text: &str) -> Result<SocketAddr, BackendAddressError> {
        service::backend_address(self, text)
    }

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

/// Which [`Mode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModeKind {
    /// [`Mode::Nat`].
    Nat,
    /// [`Mode::FullNat`].
    FullNat,
    /// [`Mode::Dsr`].
    Dsr,
    /// [`Mode::Ipip`].
    Ipip,
}

impl ModeKind {
    /// All.
    pub const ALL: [Self; 4] = [Self::Nat, Self::FullNat, Self::Dsr, Self::Ipip];

    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
        }
    }

    /// Whether packets get the backend's port. Where not, a backend listens on the service's.
    pub const fn rewrites_ports(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether replies pass through this host.
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether a backend of one family can serve a VIP of another: only in a tunnel, and only IPv4 in IPv6.
    pub const fn carries(self, vip: IpAddr, backend: IpAddr) -> bool {
        vip.is_ipv4() == backend.is_ipv4() || (matches!(self, Self::Ipip) && vip.is_ipv4())
    }
}

/// What becomes of new connections to a version without a live backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenEmpty {
    /// The other version takes them.
    OtherVersion,
    /// They are dropped, and counted.
    Drop,
}

impl WhenEmpty {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherVersion => "other-version",
            Self::Drop => "drop",
        }
    }
}

/// What a rollback does to v2's open connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnRollback {
    /// They go on until they end.
    Keep,
    /// TCP connections are reset at both ends; UDP conversations go to v1.
    Sever,
}

impl OnRollback {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Sever => "sever",
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
    /// Where it listens: of a family that the mode carries, and in one pool only.
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
    let root = Section::new(problems, ROOT, &document, &["agent", "timeouts", "service"]);
    let agent = root.required_section("agent", agent::KEYS, "begin with `[agent]` and `interfaces = [\"eth0\"]`");
    let agent = agent.and_then(|section| agent::read(&section));
    let timeouts = match root.optional_item("timeouts") {
        Some(item) => timeouts::read(&item.section(timeouts::KEYS)),
        None => Some(Timeouts::default()),
    };
    let services: Option<Vec<RawService>> = root
        .required_sections("service", service::KEYS, "add a `[[service]]` with `name`, `vip`, `port` and so on")
        .map(|sections| sections.iter().map(service::read).collect());
    network::check(problems, services.as_deref().unwrap_or_default());
    let timeouts = timeouts?;
    let services = services?.into_iter().map(|service| service.into_config(&timeouts)).collect::<Option<Vec<_>>>();
    Some(Config { agent: agent?, timeouts, services: services? })
}

#[cfg(test)]
mod tests;
