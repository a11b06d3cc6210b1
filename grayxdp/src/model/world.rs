//! What there is: services, backends, and where a new flow goes.

use std::net::IpAddr;

use grayxdp_common::{
    hash::key_hash,
    ids::{BackendId, Be16, Version},
    layout::{BackendCounters, KEY_CONNECTION, KEY_SOURCE_IP},
    weight::{KeyHash, Weight},
};
use siphasher::sip::SipHasher13;

use super::wire::Endpoint;
use crate::{
    config::{Key, Protocol},
    decide::{maglev, signals::Counts},
    kernel::{BackendSetup, ForwardMode, Network, ServiceSetup, Setup, Shards, Standing, WhenEmpty},
};

/// A service's port, or its canary port.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) endpoint: Endpoint,
    /// Index of the service.
    pub(super) service: usize,
    pub(super) is_canary: bool,
}

/// A service, with what its setup leads to.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) setup: ServiceSetup,
    pub(super) weights: Vec<Weight>,
    /// Maglev tables of v1 and v2: numbers of backends plus one.
    tables: [Vec<u16>; 2],
}

#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) endpoint: Endpoint,
    pub(super) service: usize,
    pub(super) version: Version,
    pub(super) setup: BackendSetup,
    pub(super) counters: BackendCounters,
    pub(super) signals: Counts,
}

/// Where a new flow goes, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) backend: usize,
    pub(super) is_pinned: bool,
    pub(super) is_fallback: bool,
}

/// What a choice depends on.
#[derive(Clone, Copy)]
pub(super) struct Newcomer {
    pub(super) client: IpAddr,
    pub(super) port: u16,
    pub(super) dscp: u8,
    pub(super) begins: bool,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) doors: Vec<Door>,
    pub(super) services: Vec<Service>,
    pub(super) backends: Vec<Backend>,
}

pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => super::wire::TCP,
        Protocol::Udp => super::wire::UDP,
    }
}

impl World {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut world = Self { doors: Vec::new(), services: Vec::new(), backends: Vec::new() };
        for (service, setup) in setup.services.iter().enumerate() {
            let protocol = number(setup.protocol);
            for (port, is_canary) in [(Some(setup.port), false), (setup.canary_port, true)] {
                let endpoint = port.map(|port| Endpoint { address: setup.vip, port, protocol });
                world.doors.extend(endpoint.map(|endpoint| Door { endpoint, service, is_canary }));
            }
            for (version, pool) in Version::ALL.into_iter().zip(&setup.pools) {
                world.backends.extend(pool.iter().map(|&setup| Backend {
                    endpoint: Endpoint { address: setup.address.ip(), port: setup.address.port(), protocol },
                    service,
                    version,
                    setup,
                    counters: BackendCounters::default(),
                    signals: Counts::default(),
                }));
            }
            let weights = vec![Weight::ZERO; setup.shards.count() as usize];
            world.services.push(Service { setup: setup.clone(), weights, tables: [Vec::new(), Vec::new()] });
        }
        for service in 0..world.services.len() {
            world.turn_tables(service);
        }
        world
    }

    fn turn_tables(&mut self, service: usize) {
        let tables = Version::ALL.map(|version| self.table(service, version));
        if let Some(service) = self.services.get_mut(service) {
            let [v1, v2] = &tables;
            let takes_over = service.setup.when_empty == WhenEmpty::OtherVersion;
            let (from_v1, from_v2) = (takes_over && v1.is_empty(), takes_over && v2.is_empty());
            service.tables =
                [if from_v1 { v2.clone() } else { v1.clone() }, if from_v2 { v1.clone() } else { v2.clone() }];
        }
    }

    fn table(&self, service: usize, version: Version) -> Vec<u16> {
        let serves = |backend: &Backend| {
            backend.service == service && backend.version == version && backend.setup.standing == Standing::Serving
        };
        let pool: Vec<_> = (1..)
            .zip(&self.backends)
            .filter(|(_, backend)| serves(backend))
            .filter_map(|(number, backend)| {
                let identity = SipHasher13::new_with_keys(0, 0).hash(backend.setup.address.to_string().as_bytes());
                Some((BackendId::from_raw(number)?, backend.setup.weight, identity))
            })
            .collect();
        let slots = self.services.get(service).map_or(0, |service| service.setup.maglev_slots);
        maglev::table(&pool, slots)
    }

    /// The port that clients meet here.
    pub(super) fn door(&self, endpoint: Endpoint) -> Option<usize> {
        self.doors.iter().position(|door| door.endpoint == endpoint)
    }

    /// The backend that answers from here, where answers pass this host.
    pub(super) fn backend(&self, endpoint: Endpoint) -> Option<usize> {
        let answers = |backend: &Backend| {
            let mode = self.services.get(backend.service).map(|service| &service.setup.mode);
            matches!(mode, Some(ForwardMode::Nat | ForwardMode::FullNat { .. }))
        };
        self.backends.iter().position(|backend| backend.endpoint == endpoint && answers(backend))
    }

    pub(super) fn is_vip(&self, address: IpAddr) -> bool {
        self.doors.iter().any(|door| door.endpoint.address == address)
    }

    pub(super) fn service_of(&self, door: usize) -> Option<(&Door, &Service)> {
        let door = self.doors.get(door)?;
        Some((door, self.services.get(door.service)?))
    }

    /// The backend of a new flow; `drawn` says which version it is where that is left to chance.
    pub(super) fn choose(
        &self,
        door: usize,
        new: Newcomer,
        drawn: impl Fn([Option<usize>; 2]) -> Version,
    ) -> Option<Choice> {
        let (door, service) = self.service_of(door)?;
        let setup = &service.setup;
        let kind = match setup.key {
            Key::SourceIp => KEY_SOURCE_IP,
            Key::Connection => KEY_CONNECTION,
        };
        let hash = key_hash(setup.hash_key, kind, new.client.into(), Be16::new(new.port));
        let pin = if door.is_canary { Some(Version::V2) } else { pin(setup, new) };
        let version = match pin {
            Some(version) => version,
            None => {
                by_weight(service, hash, new, || drawn(Version::ALL.map(|version| service.backend(version, hash))))?
            }
        };
        let backend = service.backend(version, hash)?;
        let is_fallback = self.backends.get(backend)?.version != version;
        Some(Choice { backend, is_pinned: pin.is_some(), is_fallback })
    }
}

impl Service {
    fn backend(&self, version: Version, hash: KeyHash) -> Option<usize> {
        let table = self.tables.get(version as usize)?;
        let slot = hash.maglev_slot(u32::try_from(table.len()).ok()?);
        usize::from(*table.get(slot as usize)?).checked_sub(1)
    }
}

/// Whether a network has an address.
pub(super) fn covers(network: &Network, address: IpAddr) -> bool {
    fn same<const N: usize>(a: [u8; N], b: [u8; N], bits: u8) -> bool {
        (0..usize::from(bits)).all(|bit| {
            let (byte, mask) = (bit / 8, 0x80 >> (bit % 8));
            a.get(byte).zip(b.get(byte)).is_some_and(|(a, b)| (a ^ b) & mask == 0)
        })
    }
    match (network.address, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.octets(), b.octets(), network.prefix_len),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.octets(), b.octets(), network.prefix_len),
        _ => false,
    }
}

/// What the longest network says that has the address.
fn most_specific<T: Copy>(networks: &[(Network, T)], address: IpAddr) -> Option<T> {
    let covering = networks.iter().filter(|(network, _)| covers(network, address));
    covering.max_by_key(|(network, _)| network.prefix_len).map(|(_, value)| *value)
}

fn pin(setup: &ServiceSetup, new: Newcomer) -> Option<Version> {
    let dscp = || {
        let of = |version| setup.pins.dscp.contains(&(new.dscp, version)).then_some(version);
        of(Version::V2).or_else(|| of(Version::V1))
    };
    most_specific(&setup.pins.networks, new.client).or_else(dscp)
}

fn by_weight(service: &Service, hash: KeyHash, new: Newcomer, drawn: impl Fn() -> Version) -> Option<Version> {
    let shard = match &service.setup.shards {
        Shards::Hash { count } => hash.shard(*count).0,
        Shards::Range { networks, .. } => most_specific(networks, new.client).map_or(0, |shard| shard.0),
        Shards::Random => 0,
    };
    let weight = *service.weights.get(shard as usize)?;
    if service.setup.shards == Shards::Random && new.begins && weight != Weight::ZERO && weight != Weight::FULL {
        return Some(drawn());
    }
    Some(weight.threshold().version(hash))
}
