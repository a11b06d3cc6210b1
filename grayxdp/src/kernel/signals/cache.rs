//! The last readings, kept, so that a reading costs what has moved since.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use grayxdp_common::{
    ids::{BackendId, ServiceId, Version},
    layout::{BackendEntry, SIGNAL_SLOTS},
};

use super::rows::{Rows, Sinks, serves_as};
use crate::{
    decide::signals::{ServiceSignals, Signals},
    kernel::{
        DataPlane,
        inventory::{BackendSlot, Inventory, ServiceSlot},
    },
};

/// Backends whose rows are fetched together: as much as a first-level cache holds.
const BACKENDS_AT_ONCE: usize = 16;

/// What was counted of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSignals {
    /// Index into the config's services.
    pub service: usize,
    /// The version that it serves.
    pub version: Version,
    /// Where it serves.
    pub address: SocketAddr,
    /// Since it serves this version; without groups.
    pub signals: Signals,
}

/// All signals, cumulative: [`Signals::since`] tells what came between two readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignalReadings {
    /// In the order of the config.
    pub services: Vec<ServiceSignals>,
    /// The backends of the config.
    pub backends: Vec<BackendSignals>,
}

/// The last readings, so that only rows that have moved are read anew.
#[derive(Default)]
pub(in crate::kernel) struct SignalCache {
    pub(super) readings: SignalReadings,
    /// The numbers that they are of: the backends of the config, in order; and those that left. Another list, and all are
    /// read anew.
    numbers: Vec<(BackendId, BackendEntry)>,
    /// The counts that each was read at; empty where it never was.
    counts: Vec<Option<[u64; SIGNAL_SLOTS]>>,
    /// Signals of backends that left, which follow those of the config.
    retired: Vec<Signals>,
    /// Of all backends of each version, by the service's number.
    sums: HashMap<u16, [Signals; Version::ALL.len()]>,
}

impl SignalCache {
    /// Reads what has moved. Returns the numbers of the services that it is of, or `None` for all.
    pub(super) fn refresh(&mut self, rows: &Rows, inventory: &Inventory) -> Option<HashSet<u16>> {
        let is_same = |(known, now): (&(BackendId, BackendEntry), (BackendId, BackendEntry))| {
            known.0 == now.0 && serves_as(&known.1, &now.1)
        };
        // Somebody may leave whose place in the list stays the same.
        let is_known = self.readings.backends.len() == inventory.backends.len()
            && self.numbers.len() == inventory.entries().count()
            && self.numbers.iter().zip(inventory.entries()).all(is_same);
        if !is_known {
            self.numbers = inventory.entries().collect();
            self.counts = vec![None; self.numbers.len()];
            self.retired = vec![Signals::default(); inventory.retired.len()];
            self.sums.clear();
            let backend = |slot: &BackendSlot| BackendSignals {
                service: slot.service,
                version: slot.version,
                address: slot.setup.address,
                signals: Signals::default(),
            };
            self.readings.backends = inventory.backends.iter().map(backend).collect();
        }
        let mut moved = HashSet::new();
        let places = self.readings.backends.iter_mut().map(|one| &mut one.signals).chain(&mut self.retired);
        let mut backends: Vec<_> = self.numbers.iter().zip(&mut self.counts).zip(places).collect();
        for some in backends.chunks_mut(BACKENDS_AT_ONCE) {
            let rows_of = |id: BackendId| rows.shape.rows_of(id);
            rows.fetch_counts(some.iter().flat_map(|(((id, _), _), _)| rows_of(*id)));
            let news = some.iter_mut().filter_map(|(((id, entry), known), signals)| {
                let now = rows.counts(rows_of(*id));
                (**known != Some(now)).then(|| (*id, entry, *known.insert(now), &mut **signals))
            });
            let news: Vec<_> = news.collect();
            news.iter().for_each(|(id, .., signals)| rows.fetch_times(rows_of(*id), signals));
            for (id, entry, slots, signals) in news {
                let [v1, v2] = self.sums.entry(entry.service).or_default();
                let sum = if entry.serves() == Version::V2 { v2 } else { v1 };
                rows.read_into(rows_of(id), &slots, Sinks { signals, sum });
                moved.insert(entry.service);
            }
        }
        is_known.then_some(moved)
    }

    /// A version of a service: backends of now and of former times, added.
    pub(super) fn version(&self, rows: &Rows, number: u16, version: Version, into: &mut Signals) {
        let service = ServiceId(number.into());
        match self.sums.get(&number) {
            Some([v1, v2]) => into.clone_from(if version == Version::V2 { v2 } else { v1 }),
            None => *into = Signals::default(),
        }
        if let Some(past) = rows.past(service, version) {
            into.add(&past);
        }
        into.groups = rows.groups(rows.shape.groups_of(service, version));
    }
}

impl DataPlane {
    /// All signals as they are now. Where little has moved since the last time, this costs little.
    pub fn signals(&mut self) -> &SignalReadings {
        let (rows, cache) = (&self.maps.signals.rows, &mut self.signal_cache);
        let inventory = &self.blueprint.inventory;
        let moved = cache.refresh(rows, inventory);
        let mut services = std::mem::take(&mut cache.readings.services);
        services.resize_with(inventory.services.len(), ServiceSignals::default);
        let number = |slot: &ServiceSlot| u16::try_from(slot.id.0).ok();
        let has_moved = |number: &u16| moved.as_ref().is_none_or(|moved| moved.contains(number));
        for ((service, reading), (setup, slot)) in
            services.iter_mut().enumerate().zip(self.setup.services.iter().zip(&inventory.services))
        {
            let Some(number) = number(slot).filter(has_moved) else { continue };
            (reading.service, reading.sight) = (service, setup.sight());
            cache.version(rows, number, Version::V1, &mut reading.v1);
            cache.version(rows, number, Version::V2, &mut reading.v2);
            reading.backends.clear();
        }
        for backend in cache.readings.backends.iter().filter(|backend| backend.version == Version::V2) {
            let slot = inventory.services.get(backend.service);
            if slot.and_then(number).filter(has_moved).is_some()
                && let Some(reading) = services.get_mut(backend.service)
            {
                reading.backends.push((backend.address, backend.signals.counts));
            }
        }
        cache.readings.services = services;
        &cache.readings
    }
}
