//! The maps, and who writes them. Typed access only, no policy.
//!
//! Values are copied out or lent for the length of one packet. The agent replaces whole values; a reader sees the old or
//! the new one (hash maps), or a value whose parts are read once each (arrays).

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE},
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        BackendCounters, BackendEntry, Endpoint, EndpointOwner, FlowEntry, FlowKey, MaglevTable, Meta, ServiceEntry,
    },
    limits::{BACKENDS_MAX, ENDPOINTS_MAX, INTERFACES_MAX, POOLS_MAX, SERVICES_MAX, VERDICTS_MAX, WEIGHT_SLOTS},
    weight::Threshold,
};

/// What the pins are. Written by the agent.
#[btf_map]
pub(crate) static META: Array<Meta, 1> = Array::new();

/// Where services are met and backends answer from. Written by the agent.
#[btf_map]
static ENDPOINTS: HashMap<Endpoint, EndpointOwner, { ENDPOINTS_MAX as usize }> = HashMap::new();

/// Written by the agent.
#[btf_map]
static SERVICES: Array<ServiceEntry, { SERVICES_MAX as usize }> = Array::new();

/// Thresholds of all shards. Written by the agent, by one aligned store through a memory map.
#[btf_map]
static WEIGHTS: Array<u64, { WEIGHT_SLOTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One Maglev table for each version of each service. Swapped whole by the agent.
#[btf_map]
static POOLS: ArrayOfMaps<Array<MaglevTable, 1>, { POOLS_MAX as usize }> = ArrayOfMaps::new();

/// Written by the agent.
#[btf_map]
static BACKENDS: Array<BackendEntry, { BACKENDS_MAX as usize }> = Array::new();

/// Flows and their backends. Written by `flow.rs` alone. The agent sets the capacity.
#[btf_map]
static FLOWS: LruHashMap<FlowKey, FlowEntry, { 1 << 20 }> = LruHashMap::new();

/// Interfaces that packets may leave by. Written by the agent.
#[btf_map]
static INTERFACES: DevMapHash<{ INTERFACES_MAX as usize }> = DevMapHash::new();

/// Written by `count.rs`.
#[btf_map]
static VERDICTS: PerCpuArray<u64, { VERDICTS_MAX as usize }> = PerCpuArray::new();

/// Written by `count.rs`.
#[btf_map]
static COUNTERS: PerCpuArray<BackendCounters, { BACKENDS_MAX as usize }> = PerCpuArray::new();

/// VERIFIER: by value. A reference into the parsed packet would keep all of it in memory, packet pointers included, where
/// the compiler stores them in halves.
#[inline(always)]
pub(crate) fn endpoint_owner(endpoint: Endpoint) -> Option<EndpointOwner> {
    // SAFETY: copied at once; the agent never changes a value's kind and id in place.
    unsafe { ENDPOINTS.get(endpoint) }.copied()
}

/// `None` for a service that left the config.
#[inline(always)]
pub(crate) fn service(id: ServiceId) -> Option<&'static ServiceEntry> {
    SERVICES.get(id.0).filter(|service| service.shard_count != 0)
}

#[inline(always)]
pub(crate) fn threshold(slot: u32) -> Option<Threshold> {
    let pointer = WEIGHTS.get_ptr(slot)?;
    // SAFETY: the lookup gave an aligned element; volatile, since the agent stores to it at any moment.
    Some(Threshold::from_raw(unsafe { pointer.read_volatile() }))
}

#[inline(always)]
pub(crate) fn maglev_table(pool: u32) -> Option<&'static MaglevTable> {
    POOLS.get_value(pool, &0)
}

#[inline(always)]
pub(crate) fn backend(id: BackendId) -> Option<&'static BackendEntry> {
    BACKENDS.get(id.raw().into())
}

#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<FlowEntry> {
    // SAFETY: copied at once. An entry evicted meanwhile may be another flow's; its backend is checked by the caller.
    unsafe { FLOWS.get(key) }.copied()
}

/// Stores a flow; an error number where the map has no place.
#[inline(always)]
pub(crate) fn store_flow(key: &FlowKey, entry: &FlowEntry) -> Result<(), i32> {
    FLOWS.insert(key, entry, BPF_ANY.into())
}

/// The interface itself, where packets may leave by it.
#[inline(always)]
pub(crate) fn own_interface(ifindex: u32) -> Option<u32> {
    INTERFACES.get_ifindex(ifindex)
}

/// The XDP action that sends the packet out of an interface.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> u32 {
    INTERFACES.redirect(ifindex, 0).unwrap_or_else(|action| action)
}

#[inline(always)]
pub(crate) fn verdict_counter(index: u32) -> Option<*mut u64> {
    VERDICTS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn backend_counters(id: BackendId) -> Option<*mut BackendCounters> {
    COUNTERS.get_ptr_mut(id.raw().into())
}
