//! What the running program's own maps say, should one run: its numbers, weights and source addresses.
//!
//! Its maps are found by the program's number, which a pinned link tells, under the pins that its agent made. The kernel
//! would hand maps out by their ids too, but to holders of CAP_SYS_ADMIN only.
//!
//! Should an agent have died between two devices, two programs run. The younger one's word counts; of the older one, what
//! the younger one does not know is kept too, for its flows live on.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use aya::maps::{Array, Map, MapData};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{Address, BackendEntry, Control, Endpoint, ServiceEntry},
    limits::{BACKENDS_MAX, SERVICES_MAX},
    weight::{Threshold, Weight},
};

use super::{
    KernelError,
    flows::FlowTable,
    inventory::Numbered,
    pins::Pins,
    setup::SourcePorts,
    signals::{Rows, Shape},
    slots::{Move, SourceSlots},
};

/// All that the running programs know.
#[derive(Default)]
pub(super) struct Former {
    pub(super) numbered: Numbered,
    /// Of each service, the weight of each shard.
    weights: HashMap<Endpoint, Vec<Weight>>,
    /// Indices of source addresses.
    pub(super) sources: HashMap<IpAddr, u32>,
    /// Of each program, the younger one first.
    slots: Vec<(SourcePorts, SourceSlots)>,
    /// What each program counted. To be dropped when it has been taken over, for it keeps their maps.
    pub(super) signals: Vec<Rows>,
}

impl Former {
    /// Reads the maps of these programs, the younger one first, and of the flow table that all share.
    pub(super) fn read(pins: &Pins, shown: &Path, programs: &[u32]) -> Result<Self, KernelError> {
        let mut former = Self::default();
        for &program in programs {
            let maps = ProgramMaps { pins, shown, program };
            former.add_services(&maps)?;
            former.add_backends(&maps)?;
            former.add_sources(&maps)?;
        }
        if !programs.is_empty() {
            let map = MapData::from_pin(pins.map("FLOWS")).map_err(KernelError::map("open the pinned flow table"))?;
            former.numbered.in_flows = FlowTable::new(&map)?.records().map(|record| record.backend).collect();
        }
        Ok(former)
    }

    fn add_services(&mut self, maps: &ProgramMaps<'_>) -> Result<(), KernelError> {
        let services: Array<MapData, ServiceEntry> = maps.open("SERVICES")?;
        let weights: Array<MapData, u64> = maps.open("WEIGHTS")?;
        for id in 0..SERVICES_MAX {
            let entry = services.get(&id, 0).map_err(KernelError::map("read the services"))?;
            if !entry.is_used() {
                continue;
            }
            let known = &mut self.numbered.services;
            if !known.iter().any(|(known, endpoint)| known.0 == id || *endpoint == entry.endpoint) {
                known.push((ServiceId(id), entry.endpoint));
            }
            let of_shard = |shard| weights.get(&(entry.shard_first + shard), 0).ok().map(Threshold::from_raw)?.weight();
            // One that no agent wrote makes all of them unknown.
            if let Some(weights) = (0..entry.shard_count).map(of_shard).collect::<Option<Vec<_>>>() {
                self.weights.entry(entry.endpoint).or_insert(weights);
            }
        }
        Ok(())
    }

    fn add_backends(&mut self, maps: &ProgramMaps<'_>) -> Result<(), KernelError> {
        let backends: Array<MapData, BackendEntry> = maps.open("BACKENDS")?;
        let mut ids: HashSet<BackendId> = self.numbered.backends.iter().map(|(id, _)| *id).collect();
        let mut endpoints: HashSet<Endpoint> = self.numbered.backends.iter().map(|(_, entry)| entry.endpoint).collect();
        for raw in 1..BACKENDS_MAX {
            let entry = backends.get(&raw, 0).map_err(KernelError::map("read the backends"))?;
            let id = u16::try_from(raw).ok().and_then(BackendId::from_raw).filter(|_| entry.is_used());
            if let Some(id) = id
                && !ids.contains(&id)
                && endpoints.insert(entry.endpoint)
            {
                ids.insert(id);
                self.numbered.backends.push((id, entry));
            }
        }
        Ok(())
    }

    fn add_sources(&mut self, maps: &ProgramMaps<'_>) -> Result<(), KernelError> {
        let sources: Array<MapData, Address> = maps.open("SOURCES")?;
        for index in 0..sources.len() {
            let address = sources.get(&index, 0).map_err(KernelError::map("read the source addresses"))?;
            if address != Address::NONE {
                self.sources.entry(address.into()).or_insert(index);
            }
        }
        let control: Array<MapData, Control> = maps.open("CONTROL")?;
        let control = control.get(&0, 0).map_err(KernelError::map("read what holds for all services"))?;
        let ports = SourcePorts { first: control.source_port_first, count: control.source_port_count };
        self.slots.push((ports, SourceSlots::new(&maps.data("SOURCE_SLOTS")?)?));
        self.signals.push(Rows::of_program(Shape::of(&control), &maps.data("SIGNALS")?, &maps.data("GROUPS")?)?);
        Ok(())
    }

    /// The weights of a service's shards; `None` where no program has the service.
    pub(super) fn weights(&self, service: &Endpoint) -> Option<&[Weight]> {
        self.weights.get(service).map(Vec::as_slice)
    }

    /// Copies what flows hold of the source addresses that keep their index.
    pub(super) fn copy_slots(&self, to: &SourceSlots, sources: &HashMap<u32, IpAddr>, new: SourcePorts) -> u64 {
        let mut copied = 0;
        for (&address, ip) in sources.iter().filter(|(index, ip)| self.sources.get(ip) == Some(index)) {
            for (ports, slots) in &self.slots {
                copied += to.copy_from(slots, Move { address, former: *ports, new });
            }
            tracing::debug!(address = %ip, copied, "source_ports_copied");
        }
        copied
    }
}

/// The pins of one program's maps.
struct ProgramMaps<'a> {
    pins: &'a Pins,
    shown: &'a Path,
    program: u32,
}

impl ProgramMaps<'_> {
    fn data(&self, name: &str) -> Result<MapData, KernelError> {
        MapData::from_pin(self.pins.program_map(name, self.program)).map_err(|error| KernelError::FormerMaps {
            path: self.shown.to_owned(),
            map: name.to_owned(),
            program: self.program,
            reason: super::error::causes(&error),
        })
    }

    fn open<T: aya::Pod>(&self, name: &str) -> Result<Array<MapData, T>, KernelError> {
        Map::Array(self.data(name)?).try_into().map_err(KernelError::map("read the running program's maps"))
    }
}
