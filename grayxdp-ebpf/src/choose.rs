//! Where a new flow goes: key, shard, weight, version, backend. Writes nothing.

use grayxdp_common::{
    hash::key_hash,
    ids::{BackendId, Be16, ServiceId},
    layout::{Address, BackendEntry, ServiceEntry},
    verdict::Verdict,
    weight::weight_slot,
};

use crate::maps;

/// The backend of a flow not seen before, by today's weights.
#[inline(always)]
pub(crate) fn backend_for_new_flow(
    id: ServiceId,
    service: &ServiceEntry,
    client: Address,
    client_port: Be16,
) -> Result<(BackendId, &'static BackendEntry), Verdict> {
    let hash = key_hash(service.hash_key, service.key, client, client_port);
    let slot = weight_slot(id, hash.shard(service.shard_count)).ok_or(Verdict::DroppedNoBackend)?;
    let version = maps::threshold(slot).ok_or(Verdict::DroppedNoBackend)?.version(hash);
    let table = maps::maglev_table(id.pool(version)).ok_or(Verdict::DroppedNoBackend)?;
    let raw = table.slots.get(hash.maglev_slot() as usize).copied().unwrap_or(0);
    let backend = BackendId::from_raw(raw).ok_or(Verdict::DroppedNoBackend)?;
    maps::backend(backend).map(|entry| (backend, entry)).ok_or(Verdict::DroppedNoBackend)
}
