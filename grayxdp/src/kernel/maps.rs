//! The maps of a loaded program: typed reads and writes, and the order of stores that keeps every packet right. Knows
//! their layout, not what the values are for.
//!
//! What packets read while it changes is a memory map ([`Mapped`]); a value of more than one word is written beside the
//! one in use, and one store points the program to it. Memory that it was pointed away from is written again only after
//! no packet can still be reading it ([`Grace`]).

use aya::{
    Ebpf,
    maps::{
        Array, DevMapHash, IterableMap as _, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, lpm_trie,
        lpm_trie::LpmTrie,
    },
};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        Address, BackendCounters, BackendEntry, Control, Endpoint, IdleTicks, MaglevSlots, Meta, NetworkKey, NextHop,
        OwnerBucket, Owners, PoolTable, Route, ServiceEntry, Tracing,
    },
    limits::{OWNER_BUCKETS, ROUTES_MAX},
    verdict::Verdict,
    weight::Threshold,
};

use super::{
    KernelError, batch,
    flows::FlowTable,
    fuses::Fuses,
    grace::Grace,
    mapped::Mapped,
    pools::Change,
    signals::{Shape, SignalMaps},
    slots::SourceSlots,
};
use crate::decide::owners::OwnerTable;

mod explain;

/// Maps that outlive programs; pinned under their names.
pub(super) const STATE_MAPS: [&str; 7] = ["META", "FLOWS", "FLOW_TIMES", "EXPECTED", "VERDICTS", "COUNTERS", "FUSES"];
/// Maps of one program that the next agent reads; pinned under their names and the program's number.
pub(super) const INVENTORY_MAPS: [&str; 8] =
    ["CONTROL", "SERVICES", "WEIGHTS", "BACKENDS", "SOURCES", "SOURCE_SLOTS", "SIGNALS", "GROUPS"];

// Words of values that are changed under a running program.
const CONTROL_ROUTES: usize = std::mem::offset_of!(Control, routes) / 8;
const CONTROL_IDLE: usize = std::mem::offset_of!(Control, idle_ticks) / 8;
const CONTROL_LEASE: usize = std::mem::offset_of!(Control, hops_until) / 8;
const CONTROL_TRACE: usize = std::mem::offset_of!(Control, trace) / 8;
const SERVICE_FLAGS: usize = std::mem::offset_of!(ServiceEntry, flags) / 8;
const SERVICE_DSCP: usize = std::mem::offset_of!(ServiceEntry, dscp_pins) / 8;
const BACKEND_FLAGS: usize = std::mem::offset_of!(BackendEntry, flags) / 8;
const BACKEND_HOP: usize = std::mem::offset_of!(BackendEntry, next_hop) / 8;
const HOP_INTERFACE: usize = std::mem::offset_of!(NextHop, interface) / 8;

const _: () = {
    assert!(std::mem::offset_of!(Control, owners) == 0);
    assert!(std::mem::offset_of!(Control, hops_until) % 8 == 4, "it shares a word with the source ports");
    assert!(std::mem::offset_of!(Control, idle_ticks) % 8 == 0 && size_of::<IdleTicks>() == 8);
    assert!(std::mem::offset_of!(Control, hops_until) % 8 == 4);
    assert!(std::mem::offset_of!(ServiceEntry, dscp_pins) % 8 == 0);
    assert!(std::mem::offset_of!(BackendEntry, endpoint) + std::mem::offset_of!(Endpoint, protocol) == 18);
    assert!(BACKEND_FLAGS == 2 && std::mem::offset_of!(BackendEntry, service) / 8 == BACKEND_FLAGS);
    assert!(std::mem::offset_of!(BackendEntry, next_hop) % 8 == 0 && HOP_INTERFACE == 2);
};

/// All maps that the agent reads or writes.
pub(super) struct Maps {
    meta: Array<MapData, Meta>,
    control: Mapped<Control>,
    owners: Mapped<OwnerBucket>,
    services: Mapped<ServiceEntry>,
    weights: Mapped<u64>,
    pools: Mapped<PoolTable>,
    tables: Mapped<MaglevSlots>,
    backends: Mapped<BackendEntry>,
    pins: LpmTrie<MapData, NetworkKey, u32>,
    ranges: LpmTrie<MapData, NetworkKey, u32>,
    routes: Mapped<Route>,
    sources: Mapped<Address>,
    interfaces: DevMapHash<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, BackendCounters>,
    grace: Grace,
    pub(super) slots: SourceSlots,
    pub(super) flows: FlowTable,
    pub(super) signals: SignalMaps,
    pub(super) fuses: Fuses,
    pub(super) events: Option<RingBuf<MapData>>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, shape: Shape) -> Result<Self, KernelError> {
        Ok(Self {
            meta: typed(take(ebpf, "META")?)?,
            control: mapped(ebpf, "CONTROL")?,
            owners: mapped(ebpf, "OWNERS")?,
            services: mapped(ebpf, "SERVICES")?,
            weights: mapped(ebpf, "WEIGHTS")?,
            pools: mapped(ebpf, "POOLS")?,
            tables: mapped(ebpf, "TABLES")?,
            backends: mapped(ebpf, "BACKENDS")?,
            pins: typed(take(ebpf, "PINS")?)?,
            ranges: typed(take(ebpf, "RANGES")?)?,
            routes: mapped(ebpf, "ROUTES")?,
            sources: mapped(ebpf, "SOURCES")?,
            interfaces: typed(take(ebpf, "INTERFACES")?)?,
            verdicts: typed(take(ebpf, "VERDICTS")?)?,
            counters: typed(take(ebpf, "COUNTERS")?)?,
            grace: Grace::default(),
            slots: SourceSlots::new(&array("SOURCE_SLOTS", take(ebpf, "SOURCE_SLOTS")?)?)?,
            flows: FlowTable::new(&array("FLOWS", take(ebpf, "FLOWS")?)?)?,
            signals: SignalMaps::take(ebpf, shape)?,
            fuses: Fuses::take(ebpf, shape)?,
            events: Some(take_ring(ebpf, "EVENTS")?),
        })
    }

    /// Packets come from now on. Returns when none is under way in a former program any more.
    pub(super) fn go_live(&mut self) {
        self.grace.go_live();
        self.grace.begin();
        self.grace.wait();
    }

    /// Says what the pins are: they are whole from now on.
    pub(super) fn set_meta(&mut self, meta: Meta) -> Result<(), KernelError> {
        self.meta.set(0, meta, 0).map_err(KernelError::map("mark the maps as filled"))
    }

    /// Writes what holds for all services. Only while no packet comes.
    pub(super) fn set_control(&self, control: &Control) {
        self.control.store(0, control);
    }

    /// Makes another table of owners the one in use.
    pub(super) fn set_owners(&mut self, table: &OwnerTable) {
        let in_use = Owners(self.control_word(0)).table();
        let next = Owners::new(1 - in_use, table.owners.0);
        self.grace.wait();
        for (index, bucket) in (next.table() * OWNER_BUCKETS..).zip(&table.buckets) {
            self.owners.store(index, bucket);
        }
        self.control.store_word(0, 0, next.0);
        self.grace.begin();
    }

    /// Writes new tables of a service, and points both versions to them.
    pub(super) fn set_tables(&mut self, service: ServiceId, change: &Change) {
        self.grace.wait();
        for (first, groups) in &change.groups {
            for (index, group) in (*first..).zip(groups) {
                self.tables.store(index, group);
            }
        }
        for (index, word) in (service.0 * 2..).zip(change.words) {
            self.pools.store_word(index, 0, word.0);
        }
        self.grace.begin();
    }

    /// Makes another list of routes the one in use: at most [`ROUTES_MAX`], the first that covers an address counts.
    pub(super) fn set_routes(&mut self, routes: &[Route]) {
        let word = self.control_word(CONTROL_ROUTES);
        let table = 1 - (word >> 32 & 1);
        self.grace.wait();
        let mut count = 0;
        for (index, route) in (0..ROUTES_MAX).zip(routes) {
            self.routes.store(u32::try_from(table).unwrap_or(0) * ROUTES_MAX + index, route);
            count += 1;
        }
        self.control.store_word(0, CONTROL_ROUTES, word & u64::from(u32::MAX) | (table | count << 8) << 32);
        self.grace.begin();
    }

    /// Says until when next hops and routes may be gone by, in flow ticks that do not wrap.
    pub(super) fn set_hops_until(&self, tick: u32) {
        let word = self.control_word(CONTROL_LEASE) & u64::from(u32::MAX);
        self.control.store_word(0, CONTROL_LEASE, word | u64::from(tick) << 32);
    }

    /// Changes how long flows may be idle.
    pub(super) fn set_idle(&self, idle_ticks: IdleTicks) {
        self.control.store_word_of(0, CONTROL_IDLE, &Control { idle_ticks, ..Control::default() });
    }

    /// Changes what is traced.
    pub(super) fn set_trace(&self, tracing: Tracing) {
        self.control.store_word(0, CONTROL_TRACE, tracing.to_word());
    }

    /// Lets next hops and routes in the maps be gone by for as long as the clock counts.
    #[cfg(feature = "bench")]
    pub(super) fn trust_next_hops(&self) {
        self.set_hops_until(u32::MAX);
    }

    fn control_word(&self, nth: usize) -> u64 {
        self.control.word(0, nth).map_or(0, |word| word.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Writes a service. Only while no packet comes.
    pub(super) fn set_service(&self, id: ServiceId, entry: &ServiceEntry) {
        self.services.store(id.0, entry);
    }

    /// Changes a service's pins but for its networks, each word by one store.
    pub(super) fn set_service_pins(&self, id: ServiceId, entry: &ServiceEntry) {
        for nth in [SERVICE_DSCP, SERVICE_DSCP + 1, SERVICE_FLAGS] {
            self.services.store_word_of(id.0, nth, entry);
        }
    }

    /// A shard's weight, by its place in the map.
    pub(super) fn threshold(&self, slot: u32) -> Option<Threshold> {
        self.weights.load(slot).map(Threshold::from_raw)
    }

    /// Changes a shard's weight by one store.
    pub(super) fn set_threshold(&self, slot: u32, threshold: Threshold) {
        self.weights.store_word(slot, 0, threshold.raw());
    }

    /// Writes a backend that nothing in the maps names yet.
    pub(super) fn set_backend(&self, id: BackendId, entry: &BackendEntry) {
        self.backends.store(id.raw().into(), entry);
    }

    /// Changes service, version and flags of a backend by one store; its endpoint stays.
    pub(super) fn set_backend_standing(&self, id: BackendId, entry: &BackendEntry) {
        self.backends.store_word_of(id.raw().into(), BACKEND_FLAGS, entry);
    }

    /// Changes the way to a backend. Between the stores, packets ask the kernel.
    pub(super) fn set_next_hop(&self, id: BackendId, entry: &BackendEntry) {
        let index = id.raw().into();
        self.backends.store_word(index, BACKEND_HOP + HOP_INTERFACE, 0);
        for nth in [BACKEND_HOP, BACKEND_HOP + 1, BACKEND_HOP + HOP_INTERFACE] {
            self.backends.store_word_of(index, nth, entry);
        }
    }

    /// Writes a source address.
    pub(super) fn set_source(&self, index: u32, address: Address) {
        self.sources.store(index, &address);
    }

    /// Pins a network of a service to a version, by its number.
    pub(super) fn set_pin(&mut self, (prefix_len, key): (u32, NetworkKey), version: u32) -> Result<(), KernelError> {
        let key = lpm_trie::Key::new(prefix_len, key);
        self.pins.insert(&key, version, 0).map_err(KernelError::map("write a pinned network"))
    }

    /// Forgets a pinned network.
    pub(super) fn remove_pin(&mut self, (prefix_len, key): (u32, NetworkKey)) -> Result<(), KernelError> {
        match self.pins.remove(&lpm_trie::Key::new(prefix_len, key)) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(KernelError::map("remove a pinned network")(error)),
        }
    }

    /// Puts a network of a service into a shard.
    pub(super) fn set_range(&mut self, (prefix_len, key): (u32, NetworkKey), shard: u32) -> Result<(), KernelError> {
        let key = lpm_trie::Key::new(prefix_len, key);
        self.ranges.insert(&key, shard, 0).map_err(KernelError::map("write a network of a shard"))
    }

    /// Lets packets leave by an interface.
    pub(super) fn add_interface(&mut self, index: u32) -> Result<(), KernelError> {
        self.interfaces.insert(index, index, None, 0).map_err(KernelError::map("write an interface"))
    }

    /// Lets a backend's counters begin anew.
    pub(super) fn clear_counters(&mut self, id: BackendId) -> Result<(), KernelError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| KernelError::io("read", "/sys/devices/system/cpu")(error))?;
        let zero = PerCpuValues::try_from(vec![BackendCounters::default(); cpus])
            .map_err(|error| KernelError::Map { what: "count the CPUs", reason: error.to_string() })?;
        self.counters.set(id.raw().into(), zero, 0).map_err(KernelError::map("reset a backend's counters"))
    }

    /// Counters of the backends of all numbers below `end`, by number, summed over the CPUs.
    pub(super) fn counters(&self, end: u32) -> Result<Vec<BackendCounters>, KernelError> {
        batch::sums("read the backends' counters", self.counters.map(), end, BackendCounters::plus)
    }

    /// Packets by verdict, summed over the CPUs.
    pub(super) fn verdicts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        let read = |verdict: Verdict| {
            let values = self.verdicts.get(&verdict.index(), 0).map_err(KernelError::map("read the verdicts"))?;
            Ok((verdict, values.iter().fold(0, |sum: u64, &one| sum.wrapping_add(one))))
        };
        Verdict::ALL.into_iter().map(read).collect()
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T, KernelError> {
    T::try_from(map).map_err(KernelError::map("use a map of the program"))
}

/// Takes an array and maps it into memory.
pub(super) fn mapped<T: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mapped<T>, KernelError> {
    Mapped::new(name, &array(name, take(ebpf, name)?)?)
}

/// Takes a ring buffer.
pub(super) fn take_ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    typed(take(ebpf, name)?)
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Map { what: "find a map of the program", reason: name.to_owned() })
}

/// The data of an array map.
pub(super) fn array(name: &'static str, map: Map) -> Result<MapData, KernelError> {
    match map {
        Map::Array(data) => Ok(data),
        _ => Err(KernelError::Map { what: "use a map of the program", reason: format!("{name} is no array") }),
    }
}
