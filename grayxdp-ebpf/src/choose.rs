//! Where a new flow goes: pin, or key, shard, weight, version; then backend. Writes nothing.

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId, ShardId, Version},
    layout::{
        Address, BackendEntry, METHOD_HASH, METHOD_RANDOM, METHOD_RANGE, PIN_NONE, SERVICE_CIDR_PINS,
        SERVICE_DSCP_PINS, ServiceEntry,
    },
    verdict::Verdict,
    weight::KeyHash,
};

use crate::{fuse, helpers, maps};

/// A backend for a new flow, and how it was come to.
pub(crate) struct Choice {
    pub(crate) id: BackendId,
    pub(crate) backend: &'static BackendEntry,
    /// By a pin, not by the weight.
    pub(crate) is_pinned: bool,
    /// The backend is of the other version, for the chosen one has none that is live.
    pub(crate) is_fallback: bool,
}

impl Choice {
    /// What is kept of it.
    #[inline(always)]
    pub(crate) fn placed(&self) -> Placed {
        Placed { backend: self.id, is_unweighted: self.is_pinned || self.is_fallback }
    }
}

/// A new flow's backend.
#[derive(Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) backend: BackendId,
    /// No weight sent it there.
    pub(crate) is_unweighted: bool,
}

impl Placed {
    /// In one register.
    #[inline(always)]
    pub(crate) const fn to_word(self) -> u64 {
        self.backend.raw() as u64 | (self.is_unweighted as u64) << 16
    }

    /// The same, read.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits")]
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        Some(Self { backend: BackendId::from_raw(word as u16)?, is_unweighted: word >> 16 != 0 })
    }
}

/// What a choice depends on.
#[derive(Clone, Copy)]
pub(crate) struct Newcomer {
    pub(crate) client: Address,
    pub(crate) client_port: Be16,
    pub(crate) dscp: u8,
    /// Whether it begins a flow. The version of one that is under way is not drawn, should its service draw versions.
    pub(crate) is_beginning: bool,
}

/// The backend of a flow not seen before, by today's pins and weights.
#[inline(always)]
pub(crate) fn backend_for_new_flow(service: &ServiceEntry, newcomer: Newcomer) -> Result<Choice, Verdict> {
    let hash = service.key_hash(newcomer.client, newcomer.client_port);
    let pin = pin(service, newcomer);
    let version = match pin {
        Some(version) => version,
        None => version_by_weight(service, hash, newcomer).ok_or(Verdict::DroppedNoBackend)?,
    };
    of_version(service, version, hash, pin.is_some())
}

/// The same where neither pin, network nor chance has a say, as with most services; `None` where one has, or where there
/// is no backend.
#[inline(always)]
pub(crate) fn backend_by_hash(service: &ServiceEntry, client: Address, client_port: Be16) -> Option<Choice> {
    let may_be_pinned = service.pinned != PIN_NONE || service.flags & (SERVICE_CIDR_PINS | SERVICE_DSCP_PINS) != 0;
    if service.method != METHOD_HASH || may_be_pinned {
        return None;
    }
    let hash = service.key_hash(client, client_port);
    let version = maps::threshold(service.weight_slot(hash.shard(service.shard_count)))?.version(hash);
    let version = unless_blown(service, version);
    of_version(service, version, hash, false).ok()
}

#[inline(always)]
fn of_version(service: &ServiceEntry, version: Version, hash: KeyHash, is_pinned: bool) -> Result<Choice, Verdict> {
    let table = maps::pool_table(service.pool(version)).ok_or(Verdict::DroppedNoBackend)?;
    let slot = hash.maglev_slot(table.slots());
    let slots = maps::maglev_slots(table.first().wrapping_add(slot >> 2)).ok_or(Verdict::DroppedNoBackend)?;
    // A table without slots leads to slot 0 of whatever is there.
    let raw = if table.slots() == 0 { 0 } else { slots.slot(slot) };
    let id = BackendId::from_raw(raw).ok_or(Verdict::DroppedNoBackend)?;
    let backend = maps::backend(id).ok_or(Verdict::DroppedNoBackend)?;
    let is_fallback = u32::from(backend.version) != version as u32;
    Ok(Choice { id, backend, is_pinned, is_fallback })
}

/// The version that the port, the client's network or the DSCP value is pinned to, in this order.
#[inline(always)]
fn pin(service: &ServiceEntry, newcomer: Newcomer) -> Option<Version> {
    if let Some(version) = service.port_pin() {
        return Some(version);
    }
    if service.flags & SERVICE_CIDR_PINS != 0
        && let Some(version) = maps::pinned_version(networks(service), newcomer.client)
    {
        return Some(if version == Version::V2 as u32 { Version::V2 } else { Version::V1 });
    }
    if service.flags & SERVICE_DSCP_PINS != 0 { service.dscp_pin(newcomer.dscp) } else { None }
}

#[inline(always)]
fn version_by_weight(service: &ServiceEntry, hash: KeyHash, newcomer: Newcomer) -> Option<Version> {
    let (shard, hash) = match service.method {
        METHOD_RANGE => (ShardId(maps::range_shard(networks(service), newcomer.client).unwrap_or(0)), hash),
        METHOD_RANDOM if newcomer.is_beginning => (ShardId(0), KeyHash(u64::from(helpers::random()))),
        METHOD_RANDOM => (ShardId(0), hash),
        _ => (hash.shard(service.shard_count), hash),
    };
    if shard.0 >= service.shard_count {
        return None;
    }
    Some(unless_blown(service, maps::threshold(service.weight_slot(shard))?.version(hash)))
}

/// A blown fuse is a weight of zero: who is pinned to v2 goes there all the same.
#[inline(always)]
fn unless_blown(service: &ServiceEntry, version: Version) -> Version {
    if version == Version::V2 && fuse::is_blown(ServiceId(u32::from(service.pools))) { Version::V1 } else { version }
}

/// Networks are kept for the service that the pools belong to.
#[inline(always)]
fn networks(service: &ServiceEntry) -> ServiceId {
    ServiceId(u32::from(service.pools))
}
