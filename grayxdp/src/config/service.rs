//! The `[[service]]` tables, each for itself.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use grayxdp_common::limits::{BACKENDS_PER_VERSION_MAX, SHARDS_PER_SERVICE_MAX};
use sha2::{Digest as _, Sha256};
use toml::Spanned;

use super::{
    Backend, HealthCheck, Key, Mode, Pool, Protocol, ServiceConfig, health, release,
    section::{Item, Section},
    value,
};
use crate::decide::schedule::Schedule;

pub(super) const KEYS: &[&str] = &[
    "name",
    "vip",
    "port",
    "protocol",
    "mode",
    "key",
    "shards",
    "hash_seed",
    "udp_idle",
    "v1",
    "v2",
    "release",
    "health",
];

const MODE_DEFAULT: Mode = Mode::Nat;
const KEY_DEFAULT: Key = Key::SourceIp;
const SHARD_COUNT_DEFAULT: u32 = 16;
const UDP_IDLE_DEFAULT: Duration = Duration::from_secs(60);
const BACKEND_WEIGHT_DEFAULT: u32 = 1;
const BACKEND_WEIGHT_MAX: u32 = 1000;

/// A service as far as it could be read; what is `None` has been noted as a problem.
pub(super) struct RawService {
    pub(super) name: Option<Spanned<String>>,
    pub(super) vip: Option<Spanned<IpAddr>>,
    pub(super) port: Option<Spanned<u16>>,
    pub(super) protocol: Option<Spanned<Protocol>>,
    mode: Option<Spanned<Mode>>,
    key: Option<Spanned<Key>>,
    shard_count: Option<u32>,
    hash_seed: Option<Spanned<String>>,
    udp_idle: Option<Spanned<Duration>>,
    pub(super) v1: RawPool,
    pub(super) v2: RawPool,
    schedule: Option<Schedule>,
    health: Option<Option<HealthCheck>>,
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
    let modes = [(Mode::Nat.name(), Mode::Nat)];
    let keys = [Key::SourceIp, Key::Connection].map(|key| (key.name(), key));
    let protocols = [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol.name(), protocol));
    let protocol = section.required("protocol", "\"tcp\"", |value| value::choice(value, &protocols));
    RawService {
        name: section.required("name", "\"web\"", value::service_name),
        vip: section.required("vip", "\"203.0.113.10\"", value::address),
        port: section.required("port", "80", value::port),
        mode: section.or("mode", MODE_DEFAULT, |value| value::choice(value, &modes)),
        key: section.or("key", KEY_DEFAULT, |value| value::choice(value, &keys)),
        shard_count: shard_count(section),
        hash_seed: section.required("hash_seed", "\"any text, the same on every host of a fleet\"", value::text),
        udp_idle: udp_idle(section, protocol.as_ref().map(Spanned::get_ref)),
        v1: pool(section, "v1"),
        v2: pool(section, "v2"),
        schedule: match section.optional_item("release") {
            Some(item) => release::read(&item.section(release::KEYS)),
            None => Some(Schedule::Manual),
        },
        health: health::read(section, protocol.as_ref().map(Spanned::get_ref)),
        protocol,
    }
}

fn shard_count(section: &Section<'_>) -> Option<u32> {
    let Some(item) = section.optional_item("shards") else {
        return Some(SHARD_COUNT_DEFAULT);
    };
    let shards = item.section(&["method", "count"]);
    let method = shards.or("method", (), |value| value::choice(value, &[("hash", ())]));
    let count = shards.or("count", SHARD_COUNT_DEFAULT, |value| value::integer(value, 1..=SHARDS_PER_SERVICE_MAX));
    method.and(count).map(Spanned::into_inner)
}

fn udp_idle(section: &Section<'_>, protocol: Option<&Protocol>) -> Option<Spanned<Duration>> {
    if let (Some(item), Some(Protocol::Tcp)) = (section.optional_item("udp_idle"), protocol) {
        item.note(
            format!("{} means nothing: the protocol is `tcp`", item.what()),
            "remove it, or write `protocol = \"udp\"`",
        );
    }
    section.or("udp_idle", UDP_IDLE_DEFAULT, value::udp_idle)
}

fn pool(section: &Section<'_>, version: &str) -> RawPool {
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
    let backends: Vec<RawBackend> = elements.iter().filter_map(backend).collect();
    RawPool { complete: !backends.is_empty() && backends.len() == elements.len(), backends }
}

fn backend(item: &Item<'_>) -> Option<RawBackend> {
    let section = item.section(&["address", "weight"]);
    let address = section.required("address", "\"10.0.1.10:8080\"", value::socket_address);
    let weight = section.or("weight", BACKEND_WEIGHT_DEFAULT, |value| value::integer(value, 1..=BACKEND_WEIGHT_MAX));
    Some(RawBackend { address: address?, weight: weight?.into_inner() })
}

impl RawService {
    /// `None` if anything of it was wrong.
    pub(super) fn into_config(self) -> Option<ServiceConfig> {
        let name = self.name?.into_inner();
        Some(ServiceConfig {
            hash_key: hash_key(&name, &self.hash_seed?.into_inner()),
            name,
            vip: self.vip?.into_inner(),
            port: self.port?.into_inner(),
            protocol: self.protocol?.into_inner(),
            mode: self.mode?.into_inner(),
            key: self.key?.into_inner(),
            shard_count: self.shard_count?,
            udp_idle: self.udp_idle?.into_inner(),
            v1: self.v1.into_config()?,
            v2: self.v2.into_config()?,
            schedule: self.schedule?,
            health: self.health?,
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
