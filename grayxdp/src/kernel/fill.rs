//! Fills the maps of a program that nothing runs on yet, completely: what the program finds when it takes over is whole.

use std::{collections::HashMap, net::IpAddr};

use grayxdp_common::{
    LAYOUT_VERSION,
    ids::BackendId,
    layout::{Control, Meta, Owners, Tracing},
    limits::BACKENDS_MAX,
    weight::Weight,
};

use super::{
    KernelError, entries,
    entries::Place,
    flows,
    former::Former,
    inventory::{self, Inventory},
    load::Capacities,
    maps::Maps,
    pools::Regions,
    preflight::Interface,
    setup::{ServiceSetup, Setup, Shards},
    signals::Shape,
    sources::{self, Placement, Refusal},
};
use crate::decide::owners::{self, OwnerTable};

/// Everything that is decided before a program is loaded.
pub(super) struct Blueprint {
    pub(super) inventory: Inventory,
    pub(super) sources: Placement,
    pub(super) regions: Regions,
    /// In the order of the setup.
    pub(super) places: Vec<Place>,
    pub(super) signals: Shape,
    /// The weight of each shard of each service, in order.
    weights: Vec<Weight>,
}

impl Blueprint {
    /// Numbers the setup; whatever the running program has keeps its number, and services their weights.
    pub(super) fn new(setup: &Setup, former: &Former) -> Result<Self, KernelError> {
        let inventory =
            inventory::take(&setup.services, &former.numbered).map_err(|refusal| refusal.into_error(&setup.bpffs))?;
        let lists: Vec<_> = setup.services.iter().map(ServiceSetup::sources).collect();
        let sources = sources::place(&lists, &former.sources).map_err(|refusal| KernelError::Sources {
            reason: match refusal {
                Refusal::Shared(address) => format!(
                    "{address} is in two lists that are not the same; give both services the same list, or lists without a \
                     common address"
                ),
                Refusal::TooMany => format!(
                    "more than {} over all services; take some out",
                    grayxdp_common::limits::SOURCE_ADDRESSES_MAX
                ),
            },
        })?;
        let mut blueprint = Self {
            regions: Regions::new(setup.services.iter().map(|service| service.maglev_slots)),
            signals: Shape::new(&inventory)?,
            inventory,
            sources,
            places: Vec::new(),
            weights: Vec::new(),
        };
        for ((service, slot), sources) in
            setup.services.iter().zip(&blueprint.inventory.services).zip(&blueprint.sources.ranges)
        {
            let shard_first = u32::try_from(blueprint.weights.len()).unwrap_or(0);
            blueprint.places.push(Place { shard_first, sources: *sources });
            let former = former.weights(&slot.endpoint).filter(|_| slot.known && !slot.canary_replaced);
            blueprint.weights.extend(carried(former.unwrap_or_default(), service.shards.count()));
        }
        Ok(blueprint)
    }

    pub(super) fn capacities(&self, setup: &Setup) -> Capacities {
        let addresses = self.sources.addresses.keys().last().map_or(0, |last| last + 1);
        Capacities {
            buckets: flows::buckets_for(setup.max_flows),
            weights: u32::try_from(self.weights.len()).unwrap_or(u32::MAX),
            groups: self.regions.groups(),
            source_slots: addresses * u32::from(setup.source_ports.count),
            signals: self.signals,
        }
    }

    /// Source addresses by index.
    pub(super) fn source_addresses(&self) -> HashMap<u32, IpAddr> {
        self.sources.addresses.iter().map(|(index, address)| (*index, *address)).collect()
    }
}

/// The weights that the shards of a service begin with, after what they had. Where there are more shards or fewer than
/// before, and they did not all have one weight, all get the lowest: nobody may meet v2 uninvited.
fn carried(former: &[Weight], count: u32) -> Vec<Weight> {
    let count = usize::try_from(count).unwrap_or(0);
    if former.len() == count {
        return former.to_vec();
    }
    vec![former.iter().min().copied().unwrap_or_default(); count]
}

/// Writes everything; `meta` last, for it says that the state is whole.
pub(super) fn fill(
    maps: &mut Maps,
    setup: &Setup,
    blueprint: &mut Blueprint,
    interfaces: &[Interface],
    meta: Meta,
) -> Result<(), KernelError> {
    maps.set_control(&Control {
        owners: Owners::default(),
        flow_key: meta.flow_key,
        flow_buckets: meta.flow_buckets,
        routes: 0,
        idle_ticks: setup.idle,
        trace: Tracing::OFF,
        source_port_first: setup.source_ports.first,
        source_port_count: setup.source_ports.count,
        hops_until: 0,
        signal_rows: blueprint.signals.rows,
        signal_services: blueprint.signals.services,
        signal_stripes: blueprint.signals.stripes,
    });
    for (&index, &address) in &blueprint.sources.addresses {
        maps.set_source(index, address.into());
    }
    for (id, entry) in blueprint.inventory.entries() {
        maps.set_backend(id, &entry);
    }
    for &id in &blueprint.inventory.renumbered {
        maps.clear_counters(id)?;
    }
    for (slot, weight) in (0..).zip(&blueprint.weights) {
        maps.set_threshold(slot, weight.threshold());
    }
    for (index, service) in setup.services.iter().enumerate() {
        fill_service(maps, service, blueprint, index)?;
    }
    maps.set_owners(&owner_table(&setup.services, &blueprint.inventory, meta.flow_key[0])?);
    for interface in interfaces {
        maps.add_interface(interface.index)?;
    }
    maps.set_meta(meta)
}

fn fill_service(
    maps: &mut Maps,
    service: &ServiceSetup,
    blueprint: &mut Blueprint,
    index: usize,
) -> Result<(), KernelError> {
    let Some((slot, place)) = blueprint.inventory.services.get(index).zip(blueprint.places.get(index)) else {
        return Ok(());
    };
    let id = slot.id;
    let entry = entries::service(service, slot, *place);
    maps.set_service(id, &entry);
    if let Some(canary) = entries::canary(service, &entry) {
        maps.set_service(id.canary(), &canary);
    }
    let [v1, v2] = entries::tables(service, &blueprint.inventory, index);
    if let Some(change) = blueprint.regions.change(index, [&v1, &v2], service.when_empty) {
        maps.set_tables(id, &change);
    }
    for (network, version) in &service.pins.networks {
        maps.set_pin(entries::network(id, *network), *version as u32)?;
    }
    if let Shards::Range { networks, .. } = &service.shards {
        for (network, shard) in networks {
            maps.set_range(entries::network(id, *network), shard.0)?;
        }
    }
    Ok(())
}

/// Whose every endpoint is.
pub(super) fn owner_table(setup: &[ServiceSetup], inventory: &Inventory, seed: u64) -> Result<OwnerTable, KernelError> {
    owners::table(&entries::owners(setup, inventory), seed).map_err(KernelError::map("place the endpoints"))
}

/// Forgets the flows that a former program left when nothing tells any more what their backends' numbers meant, and with
/// them the backends' counters.
pub(super) fn forget_state(maps: &mut Maps) -> Result<u64, KernelError> {
    for id in (1..BACKENDS_MAX).filter_map(|raw| BackendId::from_raw(u16::try_from(raw).ok()?)) {
        maps.clear_counters(id)?;
    }
    Ok(maps.flows.forget(|_| true))
}

/// What the pins are, for a flow table that is made now.
pub(super) fn new_meta(buckets: u32) -> Result<Meta, KernelError> {
    let mut flow_key = [0_u64; 2];
    // SAFETY: the kernel writes as many bytes as it is told; any are fine.
    let filled = unsafe { libc::getrandom(flow_key.as_mut_ptr().cast(), size_of_val(&flow_key), 0) };
    if usize::try_from(filled).ok() != Some(size_of_val(&flow_key)) {
        return Err(KernelError::Map {
            what: "draw the key of the flow table",
            reason: std::io::Error::last_os_error().to_string(),
        });
    }
    Ok(Meta { layout_version: LAYOUT_VERSION, flow_buckets: buckets, flow_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_carried_over_and_never_rise_with_the_number_of_shards() {
        let weights = |list: &[u16]| -> Vec<Weight> {
            list.iter().map(|&hundredths| Weight::from_hundredths(hundredths).expect("a weight")).collect()
        };
        for (former, count, expected) in [
            (&[100, 200][..], 2, &[100, 200][..]),
            (&[500, 500], 3, &[500, 500, 500]),
            (&[100, 200], 1, &[100]),
            (&[300, 200], 4, &[200, 200, 200, 200]),
            (&[], 2, &[0, 0]),
        ] {
            assert_eq!(carried(&weights(former), count), weights(expected), "{former:?} to {count}");
        }
    }

    #[test]
    fn every_flow_table_has_a_key_of_its_own() {
        let (one, other) = (new_meta(128).expect("randomness"), new_meta(128).expect("randomness"));
        assert_ne!(one.flow_key, other.flow_key);
        assert_eq!((one.layout_version, one.flow_buckets), (LAYOUT_VERSION, 128));
    }
}
