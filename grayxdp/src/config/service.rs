//! The `[[service]]` tables, each for itself.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use grayxdp_common::limits::{BACKENDS_PER_VERSION_MAX, MAGLEV_SIZES, MAGLEV_SLOTS};
use sha2::{Digest as _, Sha256};
use toml::{Spanned, de::DeValue};

use super::{
    Backend, Fuse, HealthCheck, Key, ModeKind, Observe, Pool, Protocol, ServiceConfig, Timeouts, WhenEmpty, health,
    mode::{self, RawMode},
    pins, release,
    section::{Item, Section},
    shards, signals,
    value::{self, Wrong},
};
use crate::{
    cidr::family,
    decide::{pin::Pin, shards::Sharding},
};

pub(super) const KEYS: &[&str] = &[
    "name",
    "vip",
    "port",
    "protocol",
    "mode",
    "source_addresses",
    "outer_source",
    "outer_source_v6",
    "key",
    "shards",
    "hash_seed",
    "udp_idle",
    "canary_port",
    "pins",
    "when_empty",
    "maglev_slots",
    "v1",
    "v2",
    "release",
    "health",
    "observe",
    "fuse",
];

const MODE_DEFAULT: ModeKind = ModeKind::Nat;
const KEY_DEFAULT: Key = Key::SourceIp;
const WHEN_EMPTY_DEFAULT: WhenEmpty = WhenEmpty::OtherVersion;
/// A backend's share among its version's backends where nobody says another.
pub const BACKEND_WEIGHT_DEFAULT: u32 = 1;
/// The largest share.
pub const BACKEND_WEIGHT_MAX: u32 = 1000;

/// A service as far as it could be read; what is `None` has been noted as a problem.
pub(super) struct RawService {
    pub(super) name: Option<Spanned<String>>,
    pub(super) vip: Option<Spanned<IpAddr>>,
    pub(super) port: Option<Spanned<u16>>,
    pub(super) protocol: Option<Spanned<Protocol>>,
    pub(super) mode: Option<RawMode>,
    key: Option<Spanned<Key>>,
    pub(super) sharding: Option<(Sharding, u32)>,
    hash_seed: Option<Spanned<String>>,
    udp_idle: Option<Spanned<Option<Duration>>>,
    pub(super) canary_port: Option<Spanned<Option<u16>>>,
    pub(super) pins: Option<Vec<Pin>>,
    when_empty: Option<Spanned<WhenEmpty>>,
    maglev_slots: Option<Spanned<u32>>,
    pub(super) v1: RawPool,
    pub(super) v2: RawPool,
    release: Option<release::Release>,
    health: Option<Option<HealthCheck>>,
    observe: Option<Observe>,
    fuse: Option<Option<Fuse>>,
}

/// The backends of a version as far as they could be read.
#[derive(Default)]
pub(super) struct RawPool {
    pub(super) backends: Vec<RawBackend>,
    complete: bool,
}

pub(super) struct RawBackend {
    pub(super) address: Spanned<SocketAddr>,
    weight: u32,
}

pub(super) fn read(section: &Section<'_>) -> RawService {
    let modes = ModeKind::ALL.map(|mode| (mode.name(), mode));
    let keys = [Key::SourceIp, Key::Connection].map(|key| (key.name(), key));
    let protocols = [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol.name(), protocol));
    let answers = [WhenEmpty::OtherVersion, WhenEmpty::Drop].map(|answer| (answer.name(), answer));
    let name = section.required("name", "\"web\"", value::name);
    let vip = section.required("vip", "\"203.0.113.10\"", value::address);
    let port = section.required("port", "80", value::port);
    let protocol = section.required("protocol", "\"tcp\"", |value| value::choice(value, &protocols));
    let mode = section.or("mode", MODE_DEFAULT, |value| value::choice(value, &modes)).map(Spanned::into_inner);
    let vip_address = vip.as_ref().map(|vip| *vip.get_ref());
    let ports = Ports { mode, service: port.as_ref().map(|port| *port.get_ref()) };
    RawService {
        mode: mode::read(section, mode, vip_address),
        key: section.or("key", KEY_DEFAULT, |value| value::choice(value, &keys)),
        sharding: shards::read(section),
        hash_seed: section.required("hash_seed", "\"any text, the same on every host of a fleet\"", value::text),
        udp_idle: udp_idle(section, protocol.as_ref().map(Spanned::get_ref)),
        canary_port: section.or("canary_port", None, |value| value::port(value).map(Some)),
        pins: pins::read(section, vip_address),
        when_empty: section.or("when_empty", WHEN_EMPTY_DEFAULT, |value| value::choice(value, &answers)),
        maglev_slots: section.or("maglev_slots", MAGLEV_SLOTS, |value| value::one_of(value, &MAGLEV_SIZES)),
        v1: pool(section, "v1", ports),
        v2: pool(section, "v2", ports),
        release: match section.optional_item("release") {
            Some(item) => release::read(&item.section(release::KEYS), mode),
            None => Some(release::Release::default()),
        },
        health: health::read(section, protocol.as_ref().map(Spanned::get_ref)),
        observe: signals::observe(section, protocol.as_ref().map(Spanned::get_ref), mode),
        fuse: signals::fuse(section),
        name,
        vip,
        port,
        protocol,
    }
}

/// Where backends may listen, as far as that is known.
#[derive(Clone, Copy)]
struct Ports {
    mode: Option<ModeKind>,
    /// The service's own.
    service: Option<u16>,
}

impl Ports {
    fn read(self, value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
        match self.mode {
            Some(mode) if mode.rewrites_ports() => value::socket_address(value),
            // A port that cannot be read has been noted: any will do here.
            Some(mode) => match self.service {
                Some(port) => value::same_port_address(value, port, mode.name()),
                None => value::socket_address(value).or_else(|_| value::same_port_address(value, 1, mode.name())),
            },
            None => value::socket_address(value).or_else(|_| value::same_port_address(value, 1, "")),
        }
    }
}

/// Why a text is no address of a backend.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected {expected} for a backend, found `{found}`: {help}")]
pub struct BackendAddressError {
    expected: String,
    found: String,
    help: String,
}

/// Checks what a person wrote as if it stood in the config.
pub(super) fn backend_address(service: &ServiceConfig, text: &str) -> Result<SocketAddr, BackendAddressError> {
    let ports = Ports { mode: Some(service.mode.kind()), service: Some(service.port) };
    let wrong = |Wrong { expected, help }| BackendAddressError { expected, found: text.to_owned(), help };
    let address = ports.read(&DeValue::String(text.into())).map_err(wrong)?;
    if !service.mode.kind().carries(service.vip, address.ip()) {
        let expected = format!("an address of the VIP's family, {},", family(service.vip));
        return Err(wrong(Wrong::new(expected, "only mode `ipip` carries another one, IPv4 in IPv6")));
    }
    Ok(address)
}

/// `Some(None)` where it is the default of all services.
fn udp_idle(section: &Section<'_>, protocol: Option<&Protocol>) -> Option<Spanned<Option<Duration>>> {
    if let (Some(item), Some(Protocol::Tcp)) = (section.optional_item("udp_idle"), protocol) {
        item.note(
            format!("{} means nothing: the protocol is `tcp`", item.what()),
            "remove it, or write `protocol = \"udp\"`",
        );
    }
    section.or("udp_idle", None, |value| value::timeout(value).map(Some))
}

fn pool(section: &Section<'_>, version: &str, ports: Ports) -> RawPool {
    let example = "backends = [{ address = \"10.0.1.10:8080\" }]";
    let help = format!("add `{version} = {{ {example} }}`");
    let backends = section
        .required_section(version, &["backends"], &help)
        .and_then(|pool| pool.required_item("backends", &format!("add `{example}`")));
    let Some(item) = backends else {
        return RawPool::default();
    };
    let elements = item.elements("backend", example).unwrap_or_default();
    if elements.len() > BACKENDS_PER_VERSION_MAX {
        item.note(
            format!("{} has {} backends: at most {BACKENDS_PER_VERSION_MAX} are possible", item.what(), elements.len()),
            "spread the rest over another service",
        );
    }
    let backends: Vec<RawBackend> = elements.iter().filter_map(|item| backend(item, ports)).collect();
    RawPool { complete: !backends.is_empty() && backends.len() == elements.len(), backends }
}

fn backend(item: &Item<'_>, ports: Ports) -> Option<RawBackend> {
    let section = item.section(&["address", "weight"]);
    let address = section.required("address", "\"10.0.1.10:8080\"", |value| ports.read(value));
    let weight = section.or("weight", BACKEND_WEIGHT_DEFAULT, |value| value::integer(value, 1..=BACKEND_WEIGHT_MAX));
    Some(RawBackend { address: address?, weight: weight?.into_inner() })
}

impl RawService {
    /// `None` if anything of it was wrong.
    pub(super) fn into_config(self, timeouts: &Timeouts) -> Option<ServiceConfig> {
        let name = self.name?.into_inner();
        let (sharding, shard_count) = self.sharding?;
        let release = self.release?;
        let (key, mode, observe) = (self.key?.into_inner(), self.mode?.mode, self.observe?);
        Some(ServiceConfig {
            hash_key: hash_key(&name, &self.hash_seed?.into_inner()),
            name,
            vip: self.vip?.into_inner(),
            port: self.port?.into_inner(),
            protocol: self.protocol?.into_inner(),
            key,
            sharding,
            shard_count,
            udp_idle: self.udp_idle?.into_inner().unwrap_or(timeouts.udp),
            canary_port: self.canary_port?.into_inner(),
            pins: self.pins?,
            when_empty: self.when_empty?.into_inner(),
            maglev_slots: self.maglev_slots?.into_inner(),
            v1: self.v1.into_config()?,
            v2: self.v2.into_config()?,
            schedule: release.schedule,
            order: release.order,
            on_rollback: release.on_rollback,
            policy: release.policy.of_service(key, mode.kind(), observe, &release.external),
            mode,
            external: release.external,
            health: self.health?,
            observe,
            fuse: self.fuse?,
        })
    }
}

impl RawPool {
    fn into_config(self) -> Option<Pool> {
        let backend = |RawBackend { address, weight }: RawBackend| Backend { address: address.into_inner(), weight };
        self.complete.then(|| Pool { backends: self.backends.into_iter().map(backend).collect() })
    }
}

/// The first 16 bytes of SHA-256(name, a zero byte, seed), least significant byte first: the same on every host.
fn hash_key(name: &str, seed: &str) -> [u64; 2] {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(seed).finalize();
    let mut words = digest.chunks_exact(8).map(|bytes| bytes.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b)));
    [words.next().unwrap_or_default(), words.next().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'web\0seed' | sha256sum` begins with these bytes.
    #[test]
    fn the_hash_key_is_the_head_of_the_digest() {
        let digest = Sha256::digest(b"web\0seed");
        let expected = [&digest[..8], &digest[8..16]].map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8")));
        assert_eq!(hash_key("web", "seed"), expected);
        assert_ne!(hash_key("web", "seed"), hash_key("dns", "seed"));
    }
}
