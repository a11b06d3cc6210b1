//! What the data plane is to do, in the words of the maps: the typed input of [`super::DataPlane`]. Checked by the config
//! already; here it is only translated.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use grayxdp_common::{
    ids::{ShardId, Version},
    layout::{FLOW_TICK_SHIFT, IdleTicks},
    limits::IDLE_TICKS_MAX,
};

use crate::{
    cidr,
    config::{self, Backend, Config, Fuse, Key, Observe, Pool, Protocol, ServiceConfig, XdpMode},
    decide::{
        pin::{Pin, PinRule},
        shards::Sharding,
        signals::Sight,
    },
};

/// The whole data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Names of the devices, each once.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Folder of the pins.
    pub bpffs: PathBuf,
    /// Flows that the flow table is sized for.
    pub max_flows: u32,
    /// How long flows may be idle.
    pub idle: IdleTicks,
    /// Ports of the source addresses of `full-nat`.
    pub source_ports: SourcePorts,
    /// With unique endpoints, at most [`grayxdp_common::limits::SERVICES_MAX`].
    pub services: Vec<ServiceSetup>,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePorts {
    /// The lowest one; not 0.
    pub first: u16,
    /// How many; the last one is at most 65,535.
    pub count: u16,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSetup {
    /// Where clients connect to.
    pub vip: IpAddr,
    /// Its port; not 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// A second port, all of whose clients meet v2.
    pub canary_port: Option<u16>,
    /// How packets reach the backends.
    pub mode: ForwardMode,
    /// What is hashed to place a client.
    pub key: Key,
    /// Key of that hash.
    pub hash_key: [u64; 2],
    /// How its clients are divided.
    pub shards: Shards,
    /// Who meets one version whatever the weight.
    pub pins: PinRules,
    /// UDP: a conversation idle for longer begins anew.
    pub udp_idle: Duration,
    /// Slots of its Maglev tables: one of [`grayxdp_common::limits::MAGLEV_SIZES`].
    pub maglev_slots: u32,
    /// What becomes of new flows to a version without a live backend.
    pub when_empty: WhenEmpty,
    /// What is counted of its flows.
    pub signals: SignalSetup,
    /// Backends of v1 and of v2.
    pub pools: [Vec<BackendSetup>; 2],
}

/// What is counted of a service's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalSetup {
    /// Whether anything is. Off only where the cost is measured.
    pub enabled: bool,
    /// What responses are looked into for.
    pub observe: Observe,
    /// When the kernel itself sends new flows back to v1.
    pub fuse: Option<Fuse>,
}

impl Default for SignalSetup {
    fn default() -> Self {
        Self { enabled: true, observe: Observe::None, fuse: None }
    }
}

/// How packets reach the backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardMode {
    /// The destination is rewritten, and replies are rewritten back.
    Nat,
    /// The source is rewritten too.
    FullNat {
        /// Addresses of this host, of the backends' family: 1 to 16, the same list as, or none of, another service's.
        sources: Vec<IpAddr>,
    },
    /// Only the MAC addresses are rewritten.
    Dsr,
    /// IP in IP.
    Ipip {
        /// Outer source in front of IPv4 backends.
        outer_v4: Option<Network>,
        /// Outer source in front of IPv6 backends.
        outer_v6: Option<Network>,
    },
}

/// A network: an address, and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Its first address.
    pub address: IpAddr,
    /// 0 to 32, or to 128.
    pub prefix_len: u8,
}

/// How a service's clients are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shards {
    /// By the key's hash.
    Hash {
        /// 1 to [`grayxdp_common::limits::SHARDS_PER_SERVICE_MAX`].
        count: u32,
    },
    /// By the client's address; shard 0 gets everyone else.
    Range {
        /// As for `Hash`, shard 0 included.
        count: u32,
        /// Whose shard each network is; the longest prefix counts.
        networks: Vec<(Network, ShardId)>,
    },
    /// Not at all: the version of each new flow is drawn.
    Random,
}

impl Shards {
    /// How many weights there are.
    pub const fn count(&self) -> u32 {
        match self {
            Self::Hash { count } | Self::Range { count, .. } => *count,
            Self::Random => 1,
        }
    }
}

/// Who meets one version whatever the weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinRules {
    /// Of clients' addresses; the longest prefix counts.
    pub networks: Vec<(Network, Version)>,
    /// DSCP values, 0 to 63.
    pub dscp: Vec<(u8, Version)>,
}

/// What becomes of new flows to a version without a live backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenEmpty {
    /// The other version takes them.
    OtherVersion,
    /// They are dropped.
    Drop,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendSetup {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share among its pool's backends; not 0.
    pub weight: u32,
    /// Whether it gets new flows.
    pub standing: Standing,
}

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Serving,
    /// It keeps its flows, and gets no new ones.
    Draining,
    /// Its health checks fail: as draining, and half-open connections and UDP conversations go elsewhere.
    Down,
}

impl ServiceSetup {
    /// The backends of a version.
    pub const fn pool(&self, version: Version) -> &Vec<BackendSetup> {
        let [v1, v2] = &self.pools;
        match version {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }

    /// Whether replies pass through this host.
    pub(super) const fn sees_replies(&self) -> bool {
        matches!(self.mode, ForwardMode::Nat | ForwardMode::FullNat { .. })
    }

    /// What of its flows passes through this host.
    pub(super) const fn sight(&self) -> Sight {
        match (self.sees_replies(), self.protocol) {
            (true, _) if !matches!(self.signals.observe, Observe::None) => Sight::Answers,
            (true, _) => Sight::Both,
            (false, Protocol::Tcp) => Sight::ClientSegments,
            (false, Protocol::Udp) => Sight::ClientDatagrams,
        }
    }

    /// Source addresses for `full-nat`.
    pub(super) fn sources(&self) -> &[IpAddr] {
        match &self.mode {
            ForwardMode::FullNat { sources } => sources,
            _ => &[],
        }
    }
}

/// A length of time in flow ticks, from 1 to [`IDLE_TICKS_MAX`].
pub fn idle_ticks(time: Duration) -> u16 {
    let ticks = u16::try_from(time.as_nanos() >> FLOW_TICK_SHIFT).unwrap_or(IDLE_TICKS_MAX);
    ticks.clamp(1, IDLE_TICKS_MAX)
}

impl From<&Config> for Setup {
    fn from(config: &Config) -> Self {
        let udp_idle = config.services.iter().map(|service| service.udp_idle).max().unwrap_or_default();
        Self {
            interfaces: config.agent.interfaces.clone(),
            xdp_mode: config.agent.xdp_mode,
            bpffs: config.agent.bpffs.clone(),
            max_flows: config.agent.max_flows,
            idle: IdleTicks {
                half_open: idle_ticks(config.timeouts.tcp_half_open),
                established: idle_ticks(config.timeouts.tcp_established),
                closing: idle_ticks(config.timeouts.tcp_closing),
                // The longest of all: the program goes by each service's own.
                udp: idle_ticks(udp_idle),
            },
            source_ports: SourcePorts {
                first: config.agent.source_ports.first,
                count: config.agent.source_ports.last - config.agent.source_ports.first + 1,
            },
            services: config.services.iter().map(ServiceSetup::from).collect(),
        }
    }
}

impl From<&ServiceConfig> for ServiceSetup {
    fn from(service: &ServiceConfig) -> Self {
        let pool = |pool: &Pool| pool.backends.iter().map(BackendSetup::from).collect();
        Self {
            vip: service.vip,
            port: service.port,
            protocol: service.protocol,
            canary_port: service.canary_port,
            mode: ForwardMode::from(&service.mode),
            key: service.key,
            hash_key: service.hash_key,
            shards: match service.sharding {
                Sharding::Hash => Shards::Hash { count: service.shard_count },
                Sharding::Random => Shards::Random,
                Sharding::Range { .. } => Shards::Range {
                    count: service.shard_count,
                    networks: service.shards().networks(service.vip).map(shard_network).collect(),
                },
            },
            pins: PinRules::from(&*service.pins),
            udp_idle: service.udp_idle,
            maglev_slots: service.maglev_slots,
            when_empty: match service.when_empty {
                config::WhenEmpty::OtherVersion => WhenEmpty::OtherVersion,
                config::WhenEmpty::Drop => WhenEmpty::Drop,
            },
            signals: SignalSetup { enabled: true, observe: service.observe, fuse: service.fuse },
            pools: [pool(&service.v1), pool(&service.v2)],
        }
    }
}

fn shard_network((network, shard): (cidr::Network, usize)) -> (Network, ShardId) {
    (network.into(), ShardId(u32::try_from(shard).unwrap_or(0)))
}

impl From<cidr::Network> for Network {
    fn from(network: cidr::Network) -> Self {
        Self { address: network.address(), prefix_len: network.prefix_len() }
    }
}

impl From<&config::Mode> for ForwardMode {
    fn from(mode: &config::Mode) -> Self {
        match mode {
            config::Mode::Nat => Self::Nat,
            config::Mode::FullNat { source_addresses } => Self::FullNat { sources: source_addresses.clone() },
            config::Mode::Dsr => Self::Dsr,
            config::Mode::Ipip { outer_source, outer_source_v6 } => Self::Ipip {
                outer_v4: Some(Network::from(*outer_source)),
                outer_v6: Some(Network::from(*outer_source_v6)),
            },
        }
    }
}

impl From<&[Pin]> for PinRules {
    fn from(pins: &[Pin]) -> Self {
        let mut rules = Self::default();
        for pin in pins {
            match pin.rule {
                PinRule::Source(network) => rules.networks.push((network.into(), pin.version)),
                PinRule::Dscp(value) => rules.dscp.push((value, pin.version)),
            }
        }
        rules
    }
}

impl From<&Backend> for BackendSetup {
    fn from(backend: &Backend) -> Self {
        Self { address: backend.address, weight: backend.weight, standing: Standing::Serving }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_become_ticks_that_the_clock_can_count() {
        for (seconds, ticks) in [(0, 1), (1, 1), (60, 55), (7200, 6705), (28_800, 26_822), (1_000_000, IDLE_TICKS_MAX)]
        {
            assert_eq!(idle_ticks(Duration::from_secs(seconds)), ticks, "{seconds} s");
        }
    }
}
