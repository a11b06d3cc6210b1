//! The maps, and who writes them. Typed access only, no policy.
//!
//! State (`META`, `FLOWS` and what goes with it, `VERDICTS`, `COUNTERS`, `FUSES`) is pinned and outlives the program; all other maps are the program's
//! own: a new agent fills new ones, and puts the new program in the old one's place when they are whole. What the agent
//! changes under a running program is changed by aligned stores through a memory map, each of which leaves the value
//! right before and after.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, xdp_action::XDP_TX},
    btf_maps::{Array, DevMapHash, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
    macros::btf_map,
};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        Address, BackendCounters, BackendEntry, Control, Expected, FlowBucket, FlowTimes, FragmentEntry, FragmentKey,
        FuseAlarm, FuseCell, FuseWindow, GroupRow, MaglevSlots, Meta, NetworkKey, OwnerBucket, PoolTable, Route,
        ServiceEntry, SignalRow, SourceSlot, TraceEvent,
    },
    limits::{
        BACKENDS_MAX, FRAGMENTS_MAX, INTERFACES_MAX, NETWORKS_MAX, OWNER_BUCKETS, POOLS_MAX, ROUTES_MAX,
        SERVICE_ENTRIES, SERVICES_MAX, SOURCE_ADDRESSES_MAX, VERDICTS_MAX,
    },
    weight::Threshold,
};

use crate::{
    cells::{BucketCell, ExpectedCell, FuseWord, SourceCell, TimesCell, TracingCell},
    helpers,
    scratch::Scratch,
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// What the pins are. Written by the agent; not read here.
#[btf_map]
pub(crate) static META: Array<Meta, 1> = Array::new();

/// Written by the agent; a trace that is over is ended by `trace.rs`.
#[btf_map]
static CONTROL: Array<Control, 1, MAPPED> = Array::new();

/// Two tables of owners, one of them in use. Written by the agent.
#[btf_map]
static OWNERS: Array<OwnerBucket, { OWNER_BUCKETS as usize * 2 }, MAPPED> = Array::new();

/// Written by the agent.
#[btf_map]
static SERVICES: Array<ServiceEntry, { SERVICE_ENTRIES as usize }, MAPPED> = Array::new();

/// Thresholds of all shards. Written by the agent, which sets the capacity.
#[btf_map]
static WEIGHTS: Array<u64, 1, MAPPED> = Array::new();

/// Where the Maglev table of each version of each service is. Written by the agent.
#[btf_map]
static POOLS: Array<PoolTable, { POOLS_MAX as usize }, MAPPED> = Array::new();

/// All Maglev tables. Written by the agent, which sets the capacity, and never writes to a table that is in use.
#[btf_map]
static TABLES: Array<MaglevSlots, 1, MAPPED> = Array::new();

/// Written by the agent.
#[btf_map]
static BACKENDS: Array<BackendEntry, { BACKENDS_MAX as usize }, MAPPED> = Array::new();

/// Networks that are pinned to a version. Written by the agent.
#[btf_map]
static PINS: LpmTrie<NetworkKey, u32, { NETWORKS_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();

/// Networks of range shards. Written by the agent.
#[btf_map]
static RANGES: LpmTrie<NetworkKey, u32, { NETWORKS_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();

/// Two tables of routes for replies, one of them in use. Written by the agent.
#[btf_map]
static ROUTES: Array<Route, { ROUTES_MAX as usize * 2 }, MAPPED> = Array::new();

/// `full-nat`: source addresses. Written by the agent.
#[btf_map]
static SOURCES: Array<Address, { SOURCE_ADDRESSES_MAX as usize }, MAPPED> = Array::new();

/// `full-nat`: who has which source port. Written by `source.rs`; the agent sets the capacity.
#[btf_map]
static SOURCE_SLOTS: Array<SourceSlot, 1, MAPPED> = Array::new();

/// The flow table. Written by `flow.rs`, and by the agent's sweeper; the agent sets the capacity.
#[btf_map]
static FLOWS: Array<FlowBucket, 1, MAPPED> = Array::new();

/// When things of flows began, by their index in `FLOWS`. Written by `signals.rs`, and by the agent's sweeper,
/// which marks turns; the agent sets the capacity.
#[btf_map]
static FLOW_TIMES: Array<FlowTimes, 1, MAPPED> = Array::new();

/// What watched flows' servers are to send next, by the bucket's index in `FLOWS`. Written by `signals.rs`; the agent sets
/// the capacity.
#[btf_map]
static EXPECTED: Array<Expected, 1, MAPPED> = Array::new();

/// Signals of backends, in stripes. Written by `count.rs`, each stripe by its CPU, and the last one by the agent, which sets
/// the capacity.
#[btf_map]
static SIGNALS: Array<SignalRow, 1, MAPPED> = Array::new();

/// Groups of clients by service and version, in the same way.
#[btf_map]
static GROUPS: Array<GroupRow, 1, MAPPED> = Array::new();

/// What each CPU counts for fuses, in the same way. Written by `fuse.rs`.
#[btf_map]
static FUSE_WINDOWS: Array<FuseWindow, 1, MAPPED> = Array::new();

/// Fuses by service. Written by `fuse.rs`, and reset by the agent.
#[btf_map]
static FUSES: Array<FuseCell, { SERVICES_MAX as usize }, MAPPED> = Array::new();

/// Blown fuses, for the agent. Written by `fuse.rs`.
#[btf_map]
static ALARMS: RingBuf<FuseAlarm, 4096> = RingBuf::new();

/// Where first fragments went. Written by `fragment.rs`.
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, { FRAGMENTS_MAX as usize }> = LruHashMap::new();

/// Interfaces that packets may leave by. Written by the agent.
#[btf_map]
static INTERFACES: DevMapHash<{ INTERFACES_MAX as usize }> = DevMapHash::new();

/// Written by `count.rs`.
#[btf_map]
static VERDICTS: PerCpuArray<u64, { VERDICTS_MAX as usize }> = PerCpuArray::new();

/// Written by `count.rs`.
#[btf_map]
static COUNTERS: PerCpuArray<BackendCounters, { BACKENDS_MAX as usize }> = PerCpuArray::new();

/// Traced packets, for the agent. Written by `trace.rs`.
#[btf_map]
static EVENTS: RingBuf<TraceEvent, { 1 << 20 }> = RingBuf::new();

/// What is too large for the stack. See `scratch.rs`.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0).map(helpers::in_place)
}

#[inline(always)]
pub(crate) fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

#[inline(always)]
pub(crate) fn tracing() -> Option<TracingCell> {
    CONTROL.get_ptr_mut(0).map(TracingCell::new)
}

#[inline(always)]
pub(crate) fn owners(bucket: u32) -> Option<&'static OwnerBucket> {
    OWNERS.get(bucket)
}

/// `None` for a service that left the config.
#[inline(always)]
pub(crate) fn service(id: ServiceId) -> Option<&'static ServiceEntry> {
    SERVICES.get(id.0).filter(|service| service.is_used())
}

#[inline(always)]
pub(crate) fn threshold(slot: u32) -> Option<Threshold> {
    let pointer = WEIGHTS.get_ptr(slot)?;
    // SAFETY: the lookup gave an aligned element; volatile, since the agent stores to it at any moment.
    Some(Threshold::from_raw(unsafe { pointer.read_volatile() }))
}

#[inline(always)]
pub(crate) fn pool_table(pool: u32) -> Option<PoolTable> {
    let pointer = POOLS.get_ptr(pool)?;
    // SAFETY: the lookup gave an aligned element; volatile, since the agent stores to it at any moment.
    Some(unsafe { pointer.read_volatile() })
}

#[inline(always)]
pub(crate) fn maglev_slots(group: u32) -> Option<MaglevSlots> {
    TABLES.get(group).copied()
}

/// `None` for a number that stands for no backend.
#[inline(always)]
pub(crate) fn backend(id: BackendId) -> Option<&'static BackendEntry> {
    BACKENDS.get(id.raw().into()).filter(|backend| backend.is_used())
}

/// The version (as a number) that the longest pinned network around an address is pinned to.
#[inline(always)]
pub(crate) fn pinned_version(service: ServiceId, client: Address) -> Option<u32> {
    PINS.get(&Key::new(NetworkKey::WHOLE, NetworkKey { service: service.0, address: client })).copied()
}

/// The shard of the longest network around an address.
#[inline(always)]
pub(crate) fn range_shard(service: ServiceId, client: Address) -> Option<u32> {
    RANGES.get(&Key::new(NetworkKey::WHOLE, NetworkKey { service: service.0, address: client })).copied()
}

#[inline(always)]
pub(crate) fn route(index: u32) -> Option<&'static Route> {
    ROUTES.get(index)
}

#[inline(always)]
pub(crate) fn source_address(index: u32) -> Option<&'static Address> {
    SOURCES.get(index)
}

#[inline(always)]
pub(crate) fn source_slot(index: u32) -> Option<SourceCell> {
    SOURCE_SLOTS.get_ptr_mut(index).map(SourceCell::new)
}

#[inline(always)]
pub(crate) fn flow_bucket(index: u32) -> Option<BucketCell> {
    FLOWS.get_ptr_mut(index).map(BucketCell::new)
}

#[inline(always)]
pub(crate) fn fragment(key: &FragmentKey) -> Option<FragmentEntry> {
    // SAFETY: copied at once. An entry evicted meanwhile may be another datagram's: one fragment too many somewhere.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Remembers where a first fragment went. Where that fails, the following ones are passed to the kernel, which drops them.
#[inline(always)]
pub(crate) fn store_fragment(key: &FragmentKey, entry: &FragmentEntry) {
    // VERIFIER: copied, for kernels up to 6.1 store nothing that was lent to a function; volatile, or it would be no copy.
    // SAFETY: a reference to plain integers.
    let entry = unsafe { core::ptr::from_ref(entry).read_volatile() };
    let _ = FRAGMENTS.insert(key, entry, 0);
}

/// The interface itself, where packets may leave by it.
#[inline(always)]
pub(crate) fn own_interface(interface: u32) -> Option<u32> {
    INTERFACES.get_ifindex(interface)
}

/// The XDP action that sends the packet out of an interface.
#[inline(always)]
pub(crate) fn redirect(interface: u32) -> u32 {
    INTERFACES.redirect(interface, 0).unwrap_or_else(|action| action)
}

/// The XDP action that sends the packet back out of the interface that it came in on, as if it had been redirected there.
/// Where packets must not leave by it, it is XDP_TX, which the helper takes from its flags.
#[inline(always)]
pub(crate) fn redirect_back(interface: u32) -> u32 {
    INTERFACES.redirect(interface, u64::from(XDP_TX)).unwrap_or_else(|action| action)
}

#[inline(always)]
pub(crate) fn verdict_counter(index: u32) -> Option<*mut u64> {
    VERDICTS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn backend_counters(id: BackendId) -> Option<*mut BackendCounters> {
    COUNTERS.get_ptr_mut(id.raw().into())
}

#[inline(always)]
pub(crate) fn flow_times(index: u32) -> Option<TimesCell> {
    FLOW_TIMES.get_ptr_mut(index).map(TimesCell::new)
}

#[inline(always)]
pub(crate) fn expected(bucket: u32) -> Option<ExpectedCell> {
    EXPECTED.get_ptr_mut(bucket).map(ExpectedCell::new)
}

#[inline(always)]
pub(crate) fn signal_row(index: u32) -> Option<*mut SignalRow> {
    SIGNALS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn group_row(index: u32) -> Option<*mut GroupRow> {
    GROUPS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn fuse_window(index: u32) -> Option<*mut FuseWindow> {
    FUSE_WINDOWS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn fuse(service: u32) -> Option<FuseWord> {
    FUSES.get_ptr_mut(service).map(FuseWord::new)
}

/// Tells the agent that a fuse has blown; where it does not listen, it will find it in the map.
#[inline(always)]
pub(crate) fn send_alarm(alarm: &FuseAlarm) {
    let _ = ALARMS.output(alarm, 0);
}

/// Tells the agent; where it does not keep up, it hears nothing of this packet.
#[inline(always)]
pub(crate) fn send_event(event: &TraceEvent) {
    let _ = EVENTS.output(event, 0);
}
