//! Typed reads and writes of the maps. Knows their layout, not what the values are for.

use std::{
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use grayxdp_common::{
    LAYOUT_VERSION,
    ids::{BackendId, ServiceId, Version},
    layout::{BackendCounters, BackendEntry, Endpoint, EndpointOwner, MaglevTable, Meta, ServiceEntry},
    limits::{BACKENDS_MAX, SERVICES_MAX, WEIGHT_SLOTS},
    verdict::Verdict,
    weight::{Threshold, Weight, weight_slot},
};
use rustix::mm::{MapFlags, ProtFlags};

use super::{
    KernelError,
    inventory::{BackendSlot, Pinned},
};

/// Names of all maps of the program.
pub(super) const MAPS: [&str; 10] =
    ["META", "ENDPOINTS", "SERVICES", "WEIGHTS", "POOLS", "BACKENDS", "FLOWS", "INTERFACES", "VERDICTS", "COUNTERS"];

/// All maps that the agent reads or writes.
pub(super) struct Maps {
    meta: Array<MapData, Meta>,
    endpoints: HashMap<MapData, Endpoint, EndpointOwner>,
    services: Array<MapData, ServiceEntry>,
    weights: WeightMap,
    pools: ArrayOfMaps<MapData, Array<MapData, MaglevTable>>,
    backends: Array<MapData, BackendEntry>,
    interfaces: DevMapHash<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, BackendCounters>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut map = |name: &'static str| {
            ebpf.take_map(name).ok_or(KernelError::Map { what: "find a map of the program", reason: name.to_owned() })
        };
        let wrong = KernelError::map::<MapError>("use a map of the program");
        let weights = WeightMap::new(map("WEIGHTS")?)?;
        let take = || -> Result<Self, MapTakeError> {
            Ok(Self {
                meta: map("META")?.try_into()?,
                endpoints: map("ENDPOINTS")?.try_into()?,
                services: map("SERVICES")?.try_into()?,
                weights,
                pools: map("POOLS")?.try_into()?,
                backends: map("BACKENDS")?.try_into()?,
                interfaces: map("INTERFACES")?.try_into()?,
                verdicts: map("VERDICTS")?.try_into()?,
                counters: map("COUNTERS")?.try_into()?,
            })
        };
        take().map_err(|error| match error {
            MapTakeError::Missing(error) => error,
            MapTakeError::Wrong(error) => wrong(error),
        })
    }

    /// What the maps hold from a former agent.
    pub(super) fn pinned(&self) -> Result<Pinned, KernelError> {
        let mut pinned = Pinned::default();
        for id in 0..SERVICES_MAX {
            let entry = self.services.get(&id, 0).map_err(KernelError::map("read the services"))?;
            if entry.shard_count != 0 {
                pinned.services.push((ServiceId(id), entry.endpoint));
            }
        }
        for raw in 1..BACKENDS_MAX {
            let entry = self.backends.get(&raw, 0).map_err(KernelError::map("read the backends"))?;
            if let Some(id) = u16::try_from(raw).ok().and_then(BackendId::from_raw)
                && entry.endpoint.protocol != 0
            {
                pinned.backends.push((id, entry));
            }
        }
        Ok(pinned)
    }

    /// Says that the maps are whole and of this layout.
    pub(super) fn mark_filled(&mut self) -> Result<(), KernelError> {
        let meta = Meta { layout_version: LAYOUT_VERSION, reserved: 0 };
        self.meta.set(0, meta, 0).map_err(KernelError::map("mark the maps as filled"))
    }

    /// Writes a backend, and makes its replies known.
    pub(super) fn set_backend(&mut self, id: BackendId, entry: BackendEntry) -> Result<(), KernelError> {
        let owner = EndpointOwner { kind: grayxdp_common::layout::OWNER_BACKEND, id: id.raw().into() };
        self.backends.set(id.raw().into(), entry, 0).map_err(KernelError::map("write a backend"))?;
        self.endpoints.insert(entry.endpoint, owner, 0).map_err(KernelError::map("write a backend's endpoint"))
    }

    /// Forgets the backend that had this number before, its counters included.
    pub(super) fn clear_backend(&mut self, id: BackendId, former: &BackendEntry) -> Result<(), KernelError> {
        self.remove_endpoint(&former.endpoint)?;
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| KernelError::io("read", "/sys/devices/system/cpu")(error))?;
        let zero = PerCpuValues::try_from(vec![BackendCounters::default(); cpus])
            .map_err(|error| KernelError::Map { what: "count the CPUs", reason: error.to_string() })?;
        self.counters.set(id.raw().into(), zero, 0).map_err(KernelError::map("reset a backend's counters"))
    }

    /// Swaps the Maglev table of a version, as a whole.
    pub(super) fn set_pool(
        &mut self,
        service: ServiceId,
        version: Version,
        table: &MaglevTable,
    ) -> Result<(), KernelError> {
        let mut inner =
            Array::<MapData, MaglevTable>::create(1, 0).map_err(KernelError::map("create a Maglev table"))?;
        inner.set(0, *table, 0).map_err(KernelError::map("fill a Maglev table"))?;
        self.pools.set(service.pool(version), &inner, 0).map_err(KernelError::map("swap a Maglev table"))
    }

    /// Writes a service, and makes it known: the last step before clients' packets are taken.
    pub(super) fn set_service(&mut self, id: ServiceId, entry: ServiceEntry) -> Result<(), KernelError> {
        let owner = EndpointOwner { kind: grayxdp_common::layout::OWNER_SERVICE, id: id.0 };
        self.services.set(id.0, entry, 0).map_err(KernelError::map("write a service"))?;
        self.endpoints.insert(entry.endpoint, owner, 0).map_err(KernelError::map("write a service's endpoint"))
    }

    /// Takes a service off: its packets pass from now on.
    pub(super) fn remove_service(&mut self, id: ServiceId, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.remove_endpoint(endpoint)?;
        let nobody = Endpoint::new(std::net::IpAddr::from([0; 4]).into(), grayxdp_common::ids::Be16::new(0), 0);
        let unused = ServiceEntry { hash_key: [0; 2], endpoint: nobody, key: 0, shard_count: 0, udp_idle_ticks: 0 };
        self.services.set(id.0, unused, 0).map_err(KernelError::map("clear a service"))
    }

    fn remove_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        match self.endpoints.remove(endpoint) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(KernelError::map("remove an endpoint")(error)),
        }
    }

    /// Lets packets leave by exactly these interfaces.
    pub(super) fn set_interfaces(&mut self, wanted: &[u32]) -> Result<(), KernelError> {
        let former: Vec<u32> = self.interfaces.keys().filter_map(Result::ok).collect();
        for &index in wanted {
            self.interfaces.insert(index, index, None, 0).map_err(KernelError::map("write an interface"))?;
        }
        for index in former.into_iter().filter(|index| !wanted.contains(index)) {
            self.interfaces.remove(index).map_err(KernelError::map("remove an interface"))?;
        }
        Ok(())
    }

    /// The weight of a service's shards, all of which have the same; `None` where it is none that an agent wrote.
    pub(super) fn weight(&self, service: ServiceId) -> Option<Weight> {
        let slot = weight_slot(service, grayxdp_common::ids::ShardId(0))?;
        self.weights.load(slot)?.weight()
    }

    /// Gives all shards of a service one weight, each by one aligned store. Cannot fail halfway.
    pub(super) fn set_weight(&self, service: ServiceId, shard_count: u32, weight: Weight) {
        for shard in 0..shard_count {
            if let Some(slot) = weight_slot(service, grayxdp_common::ids::ShardId(shard)) {
                self.weights.store(slot, weight.threshold());
            }
        }
    }

    /// Counters of a backend, summed over the CPUs.
    pub(super) fn counters(&self, slot: &BackendSlot) -> Result<BackendCounters, KernelError> {
        let values =
            self.counters.get(&slot.id.raw().into(), 0).map_err(KernelError::map("read a backend's counters"))?;
        Ok(values.iter().fold(BackendCounters::default(), |sum, &one| sum.plus(one)))
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

/// Two kinds of errors on the way to a typed map.
enum MapTakeError {
    Missing(KernelError),
    Wrong(MapError),
}

impl From<KernelError> for MapTakeError {
    fn from(error: KernelError) -> Self {
        Self::Missing(error)
    }
}

impl From<MapError> for MapTakeError {
    fn from(error: MapError) -> Self {
        Self::Wrong(error)
    }
}

/// The weight map, as memory: a system call's copy is not promised to be one store.
struct WeightMap {
    slots: NonNull<AtomicU64>,
}

// SAFETY: shared memory of atomics; no thread owns it.
unsafe impl Send for WeightMap {}

impl WeightMap {
    const BYTES: usize = WEIGHT_SLOTS as usize * size_of::<u64>();

    fn new(map: Map) -> Result<Self, KernelError> {
        let Map::Array(data) = map else {
            return Err(KernelError::Map { what: "use the weight map", reason: "it is not an array".to_owned() });
        };
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel refuses a map that is shorter.
        let memory = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), Self::BYTES, protection, MapFlags::SHARED, data.fd().as_fd(), 0)
        };
        let memory = memory.map_err(KernelError::map("map the weights into memory"))?;
        let slots = NonNull::new(memory.cast()).ok_or(KernelError::Map {
            what: "map the weights into memory",
            reason: "the kernel gave address zero".to_owned(),
        })?;
        Ok(Self { slots })
    }

    fn slot(&self, slot: u32) -> Option<&AtomicU64> {
        if slot >= WEIGHT_SLOTS {
            return None;
        }
        // SAFETY: within the mapping, page-aligned at its start, and only ever accessed as aligned 8-byte words.
        Some(unsafe { self.slots.add(slot as usize).as_ref() })
    }

    fn load(&self, slot: u32) -> Option<Threshold> {
        self.slot(slot).map(|slot| Threshold::from_raw(slot.load(Ordering::Relaxed)))
    }

    fn store(&self, slot: u32, threshold: Threshold) {
        if let Some(slot) = self.slot(slot) {
            slot.store(threshold.raw(), Ordering::Release);
        }
    }
}

impl Drop for WeightMap {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no reference to it outlives `self`. It fails only for a wrong range.
        let _ = unsafe { rustix::mm::munmap(self.slots.as_ptr().cast(), Self::BYTES) };
    }
}
