//! Which number in the maps stands for which service and backend of the config. Pure.
//!
//! Flows name their backend by number, so numbers stay: a service keeps its own by its endpoint, a backend by its
//! endpoint too. A backend that left the config keeps its number, retired, for the flows that it still has.

use std::collections::{HashMap, HashSet};

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId, Version},
    layout::{BackendEntry, Endpoint},
    limits::{BACKENDS_MAX, SERVICES_MAX},
};

use crate::config::{Backend, ServiceConfig};

/// What the maps hold so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Pinned {
    pub(super) services: Vec<(ServiceId, Endpoint)>,
    pub(super) backends: Vec<(BackendId, BackendEntry)>,
}

/// A service of the config and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSlot {
    pub(super) id: ServiceId,
    pub(super) endpoint: Endpoint,
    /// Whether the maps held it already.
    pub(super) known: bool,
    /// Whether none of v2's former backends is v2's any more: v2 is another canary than the weight was given to.
    pub(super) canary_replaced: bool,
}

/// A backend and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendSlot {
    pub(super) id: BackendId,
    /// Index into the config's services.
    pub(super) service: usize,
    pub(super) version: Version,
    pub(super) config: Backend,
    pub(super) entry: BackendEntry,
}

/// The config, numbered.
#[derive(Clone, Debug, Default)]
pub(super) struct Inventory {
    /// In the order of the config.
    pub(super) services: Vec<ServiceSlot>,
    pub(super) backends: Vec<BackendSlot>,
    /// Services that left the config.
    pub(super) removed_services: Vec<(ServiceId, Endpoint)>,
    /// Backends that left the config, as they are to stand in the map.
    pub(super) retired: Vec<(BackendId, BackendEntry)>,
}

/// What ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    Services,
    Backends,
}

/// Numbers the config, keeping every number that the maps hold.
pub(super) fn take(config: &[ServiceConfig], pinned: &Pinned) -> Result<Inventory, Full> {
    let mut inventory = Inventory::default();
    let known: HashMap<Endpoint, ServiceId> = pinned.services.iter().map(|&(id, endpoint)| (endpoint, id)).collect();
    let used: HashSet<u32> = pinned.services.iter().map(|(id, _)| id.0).collect();
    let mut free = (0..SERVICES_MAX).filter(|id| !used.contains(id)).map(ServiceId);
    for service in config {
        let endpoint = endpoint(service.vip.into(), service.port, service);
        let known = known.get(&endpoint).copied();
        let id = known.or_else(|| free.next()).ok_or(Full::Services)?;
        let canary_replaced = known.is_some() && canary_replaced(service, id, pinned);
        inventory.services.push(ServiceSlot { id, endpoint, known: known.is_some(), canary_replaced });
    }
    let kept: HashSet<ServiceId> = inventory.services.iter().map(|slot| slot.id).collect();
    inventory.removed_services = pinned.services.iter().filter(|(id, _)| !kept.contains(id)).copied().collect();
    number_backends(config, pinned, &mut inventory)?;
    Ok(inventory)
}

fn number_backends(config: &[ServiceConfig], pinned: &Pinned, inventory: &mut Inventory) -> Result<(), Full> {
    let by_endpoint: HashMap<Endpoint, BackendId> =
        pinned.backends.iter().map(|(id, entry)| (entry.endpoint, *id)).collect();
    let wanted: Vec<(usize, Version, Backend, Endpoint)> = wanted(config).collect();
    let kept: HashSet<BackendId> =
        wanted.iter().filter_map(|(.., endpoint)| by_endpoint.get(endpoint).copied()).collect();
    let used: HashSet<BackendId> = pinned.backends.iter().map(|(id, _)| *id).collect();
    let unused = (1..BACKENDS_MAX).filter_map(|raw| BackendId::from_raw(u16::try_from(raw).ok()?));
    let unused = unused.filter(|id| !used.contains(id));
    // Numbers of backends that left long ago are the last to be given away: flows may still name them.
    let retired =
        pinned.backends.iter().filter(|(id, entry)| entry.retired != 0 && !kept.contains(id)).map(|(id, _)| *id);
    let mut free = unused.chain(retired.collect::<Vec<_>>());
    let mut taken = HashSet::new();
    for (service, version, backend, endpoint) in wanted {
        let id = by_endpoint.get(&endpoint).copied().or_else(|| free.next()).ok_or(Full::Backends)?;
        taken.insert(id);
        let slot = inventory.services.get(service).map_or(0, |slot| slot.id.0);
        let entry = BackendEntry { endpoint, service: slot, version: version as u32, retired: 0 };
        inventory.backends.push(BackendSlot { id, service, version, config: backend, entry });
    }
    let left = pinned.backends.iter().filter(|(id, _)| !taken.contains(id));
    let removed: HashSet<u32> = inventory.removed_services.iter().map(|(id, _)| id.0).collect();
    // A removed service's number may go to another service: its backends must not answer for that one.
    let service = |entry: &BackendEntry| if removed.contains(&entry.service) { u32::MAX } else { entry.service };
    let retire =
        |&(id, entry): &(BackendId, BackendEntry)| (id, BackendEntry { retired: 1, service: service(&entry), ..entry });
    inventory.retired = left.map(retire).collect();
    Ok(())
}

fn wanted(config: &[ServiceConfig]) -> impl Iterator<Item = (usize, Version, Backend, Endpoint)> {
    config.iter().enumerate().flat_map(|(index, service)| {
        Version::ALL.into_iter().flat_map(move |version| {
            service.pool(version).backends.iter().map(move |backend| {
                let endpoint = endpoint(backend.address.ip().into(), backend.address.port(), service);
                (index, version, *backend, endpoint)
            })
        })
    })
}

fn endpoint(address: grayxdp_common::layout::Address, port: u16, service: &ServiceConfig) -> Endpoint {
    Endpoint::new(address, Be16::new(port), service.protocol.number())
}

fn canary_replaced(service: &ServiceConfig, id: ServiceId, pinned: &Pinned) -> bool {
    let is_former =
        |entry: &BackendEntry| entry.service == id.0 && entry.version == Version::V2 as u32 && entry.retired == 0;
    let mut former = pinned.backends.iter().map(|(_, entry)| entry).filter(|entry| is_former(entry)).peekable();
    let now: HashSet<Endpoint> = service
        .v2
        .backends
        .iter()
        .map(|backend| endpoint(backend.address.ip().into(), backend.address.port(), service))
        .collect();
    former.peek().is_some() && !former.any(|entry| now.contains(&entry.endpoint))
}
