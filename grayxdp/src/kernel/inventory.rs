//! Which number in the maps stands for which service and backend. Pure.
//!
//! Flows name their backend by number, so numbers stay: a service keeps its own by its endpoint, a backend by its
//! endpoint too. A backend that left keeps its number, retired, as long as flows name it; only then can the number go to
//! another one.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
};

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId, Version},
    layout::{Address, BACKEND_DOWN, BACKEND_RETIRED, BackendEntry, Endpoint, NO_SERVICE, NextHop},
    limits::{BACKENDS_MAX, SERVICES_MAX},
};

use super::{
    KernelError,
    setup::{BackendSetup, ServiceSetup, Standing},
};

/// What the maps of the running program hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbered {
    pub(super) services: Vec<(ServiceId, Endpoint)>,
    pub(super) backends: Vec<(BackendId, BackendEntry)>,
    /// Numbers that flows name, or may come to name.
    pub(super) in_flows: HashSet<BackendId>,
}

/// A service and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSlot {
    pub(super) id: ServiceId,
    pub(super) endpoint: Endpoint,
    /// Whether the running program had it already.
    pub(super) known: bool,
    /// Whether none of v2's former backends is v2's any more: v2 is another canary than the weight was given to.
    pub(super) canary_replaced: bool,
}

/// A backend and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendSlot {
    pub(super) id: BackendId,
    /// Index into the setup's services.
    pub(super) service: usize,
    pub(super) version: Version,
    pub(super) setup: BackendSetup,
    pub(super) entry: BackendEntry,
}

/// The setup, numbered.
#[derive(Clone, Debug, Default)]
pub(super) struct Inventory {
    /// In the order of the setup.
    pub(super) services: Vec<ServiceSlot>,
    pub(super) backends: Vec<BackendSlot>,
    /// Backends that left, as they are to stand in the map.
    pub(super) retired: Vec<(BackendId, BackendEntry)>,
    /// Numbers that stand for another backend than before; their counters begin anew.
    pub(super) renumbered: Vec<BackendId>,
    /// Numbers that stand for none any more.
    pub(super) dropped: Vec<BackendId>,
}

/// Why a setup cannot be numbered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    NoService,
    NoBackend,
    /// A reply from there could not tell whose it is.
    Twice(Endpoint),
}

impl Refusal {
    /// As an error about the pins at this path.
    pub(super) fn into_error(self, path: &Path) -> KernelError {
        let full = |what, limit| KernelError::Full { what, limit, path: path.to_owned() };
        match self {
            Self::NoService => full("service", SERVICES_MAX),
            Self::NoBackend => full("backend", BACKENDS_MAX - 1),
            Self::Twice(endpoint) => {
                KernelError::BackendTwice { address: SocketAddr::new(endpoint.address.into(), endpoint.port.to_host()) }
            }
        }
    }
}

/// Numbers a setup, keeping every number that may matter.
pub(super) fn take(setup: &[ServiceSetup], former: &Numbered) -> Result<Inventory, Refusal> {
    let mut inventory = Inventory::default();
    let known: HashMap<Endpoint, ServiceId> = former.services.iter().map(|&(id, endpoint)| (endpoint, id)).collect();
    let used: HashSet<u32> = former.services.iter().map(|(id, _)| id.0).collect();
    let mut free = (0..SERVICES_MAX).filter(|id| !used.contains(id)).map(ServiceId);
    // Numbers of services that leave are given away last: a program that was not replaced yet still knows them.
    let wanted: HashSet<Endpoint> = setup.iter().map(endpoint_of).collect();
    let leaving: Vec<_> = former.services.iter().filter(|(_, endpoint)| !wanted.contains(endpoint)).collect();
    let mut leaving = leaving.into_iter().map(|(id, _)| *id);
    for service in setup {
        let endpoint = endpoint_of(service);
        let known = known.get(&endpoint).copied();
        let id = known.or_else(|| free.next()).or_else(|| leaving.next()).ok_or(Refusal::NoService)?;
        let canary_replaced = known.is_some() && canary_replaced(service, id, former);
        inventory.services.push(ServiceSlot { id, endpoint, known: known.is_some(), canary_replaced });
    }
    number_backends(setup, former, &mut inventory)?;
    retire(former, &mut inventory);
    Ok(inventory)
}

fn number_backends(setup: &[ServiceSetup], former: &Numbered, inventory: &mut Inventory) -> Result<(), Refusal> {
    let by_endpoint: HashMap<Endpoint, (BackendId, NextHop)> =
        former.backends.iter().map(|(id, entry)| (entry.endpoint, (*id, entry.next_hop))).collect();
    let wanted: Vec<_> = wanted(setup).collect();
    let mut kept = HashSet::new();
    if let Some((.., endpoint)) = wanted.iter().find(|(.., endpoint)| !kept.insert(*endpoint)) {
        return Err(Refusal::Twice(*endpoint));
    }
    let used: HashSet<BackendId> = former.backends.iter().map(|(id, _)| *id).chain(former.in_flows.clone()).collect();
    let unused = (1..BACKENDS_MAX).filter_map(|raw| BackendId::from_raw(u16::try_from(raw).ok()?));
    let unused = unused.filter(|id| !used.contains(id));
    // Numbers that the running program knows are the last to be given away.
    let droppable = former
        .backends
        .iter()
        .filter(|(id, entry)| is_droppable(*id, entry, former) && !kept.contains(&entry.endpoint));
    let mut free = unused.chain(droppable.map(|(id, _)| *id));
    for (service, version, setup, endpoint) in wanted {
        let (id, next_hop) = match by_endpoint.get(&endpoint) {
            Some(&known) => known,
            None => {
                let id = free.next().ok_or(Refusal::NoBackend)?;
                inventory.renumbered.push(id);
                (id, NextHop::default())
            }
        };
        let number = inventory.services.get(service).and_then(|slot| u16::try_from(slot.id.0).ok());
        let entry = BackendEntry {
            endpoint,
            service: number.unwrap_or(NO_SERVICE),
            version: version as u8,
            flags: if setup.standing == Standing::Down { BACKEND_DOWN } else { 0 },
            next_hop,
        };
        inventory.backends.push(BackendSlot { id, service, version, setup, entry });
    }
    Ok(())
}

fn retire(former: &Numbered, inventory: &mut Inventory) {
    let taken: HashSet<BackendId> = inventory.backends.iter().map(|slot| slot.id).collect();
    let staying: HashMap<ServiceId, Endpoint> =
        inventory.services.iter().map(|slot| (slot.id, slot.endpoint)).collect();
    let former_endpoints: HashMap<ServiceId, Endpoint> = former.services.iter().copied().collect();
    // A removed service's number may go to another service: its backends must not answer for that one.
    let stays = |service: u16| {
        let id = ServiceId(service.into());
        former_endpoints.get(&id).is_some_and(|endpoint| staying.get(&id) == Some(endpoint))
    };
    for &(id, entry) in former.backends.iter().filter(|(id, _)| !taken.contains(id)) {
        if is_droppable(id, &entry, former) {
            inventory.dropped.push(id);
            continue;
        }
        let service = if stays(entry.service) { entry.service } else { NO_SERVICE };
        inventory.retired.push((id, BackendEntry { service, flags: entry.flags | BACKEND_RETIRED, ..entry }));
    }
}

/// Whether nothing can name this backend any more: it got no new flows for some time, and the old ones are gone.
fn is_droppable(id: BackendId, entry: &BackendEntry, former: &Numbered) -> bool {
    entry.flags & BACKEND_RETIRED != 0 && !former.in_flows.contains(&id)
}

fn wanted(setup: &[ServiceSetup]) -> impl Iterator<Item = (usize, Version, BackendSetup, Endpoint)> {
    setup.iter().enumerate().flat_map(|(index, service)| {
        Version::ALL.into_iter().flat_map(move |version| {
            let backend = move |backend: &BackendSetup| (index, version, *backend, backend_endpoint(service, backend));
            service.pool(version).iter().map(backend)
        })
    })
}

/// Where clients meet a service.
pub(super) fn endpoint_of(service: &ServiceSetup) -> Endpoint {
    Endpoint::new(service.vip.into(), Be16::new(service.port), service.protocol.number())
}

fn backend_endpoint(service: &ServiceSetup, backend: &BackendSetup) -> Endpoint {
    let address = Address::from(backend.address.ip());
    Endpoint::new(address, Be16::new(backend.address.port()), service.protocol.number())
}

fn canary_replaced(service: &ServiceSetup, id: ServiceId, former: &Numbered) -> bool {
    let is_former = |entry: &BackendEntry| {
        u32::from(entry.service) == id.0 && entry.version == Version::V2 as u8 && entry.flags & BACKEND_RETIRED == 0
    };
    let mut before = former.backends.iter().map(|(_, entry)| entry).filter(|entry| is_former(entry)).peekable();
    let now: HashSet<Endpoint> =
        service.pool(Version::V2).iter().map(|backend| backend_endpoint(service, backend)).collect();
    before.peek().is_some() && !before.any(|entry| now.contains(&entry.endpoint))
}

impl Inventory {
    /// What the maps hold once they are filled with this; `in_flows` as in [`Numbered`].
    pub(super) fn numbered(&self, in_flows: HashSet<BackendId>) -> Numbered {
        let services = self.services.iter().map(|slot| (slot.id, slot.endpoint)).collect();
        Numbered { services, backends: self.entries().collect(), in_flows }
    }

    /// Every backend that stands in the map, retired ones included.
    pub(super) fn entries(&self) -> impl Iterator<Item = (BackendId, BackendEntry)> {
        self.backends.iter().map(|slot| (slot.id, slot.entry)).chain(self.retired.iter().copied())
    }

    /// Every entry, to be changed.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = (BackendId, &mut BackendEntry)> {
        let retired = self.retired.iter_mut().map(|(id, entry)| (*id, entry));
        self.backends.iter_mut().map(|slot| (slot.id, &mut slot.entry)).chain(retired)
    }

    /// Index into the setup's services, by number.
    pub(super) fn service_index(&self, id: ServiceId) -> Option<usize> {
        self.services.iter().position(|slot| slot.id == id)
    }

    /// The same, for who asks for every backend: by the number that backends name.
    pub(super) fn service_indices(&self) -> HashMap<u16, usize> {
        self.services
            .iter()
            .zip(0..)
            .filter_map(|(slot, index)| Some((u16::try_from(slot.id.0).ok()?, index)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
