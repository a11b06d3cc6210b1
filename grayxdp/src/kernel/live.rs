//! What the agent changes while packets come: backends, pins, ways, time-outs, tracing. Weights are in `mod.rs`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use grayxdp_common::{
    ids::BackendId,
    layout::{Address, BackendEntry, IdleTicks, NextHop, Route, TRACE_ALL, Tracing},
    limits::ROUTES_MAX,
};

use super::{
    BackendSetup, DataPlane, KernelError, PinRules, entries, failure, fill, flows, inventory, no_service,
    observe::Sweep, signals::serves_as,
};

impl DataPlane {
    /// Makes these the backends of v1 and v2 of a service. Whoever is new gets new flows; whoever left keeps the flows that
    /// it has, and its number until a sweep has found none.
    ///
    /// The order is that no packet is led astray: backends that are new, or serve again, first; then whose the endpoints
    /// are; then the tables; then what became of the others.
    ///
    /// # Errors
    /// Where there is no such service, or no room; then nothing has changed.
    pub fn set_backends(&mut self, service: usize, pools: [Vec<BackendSetup>; 2]) -> Result<(), KernelError> {
        let mut services = self.setup.services.clone();
        services.get_mut(service).ok_or_else(|| no_service("change backends", service))?.pools = pools;
        let before = self.blueprint.inventory.numbered(self.named_by_flows());
        let mut after = inventory::take(&services, &before).map_err(|refusal| refusal.into_error(&self.setup.bpffs))?;
        self.give_next_hops(&mut after);
        let owners = fill::owner_table(&services, &after, self.flow_key[0])?;
        let known: HashMap<BackendId, BackendEntry> = before.backends.into_iter().collect();
        for &id in &after.renumbered {
            self.maps.clear_counters(id)?;
        }
        // Before the number stands for somebody else, or for another version.
        let is_other =
            |id: &BackendId, entry: &BackendEntry| known.get(id).is_none_or(|known| !serves_as(entry, known));
        for (id, _) in after.entries().filter(|(id, entry)| is_other(id, entry)) {
            self.maps.signals.rows.retire(id, known.get(&id));
        }
        for id in &after.dropped {
            self.maps.signals.rows.retire(*id, known.get(id));
        }
        for (id, entry) in after.entries().filter(|(id, entry)| !is_same(known.get(id), entry)) {
            self.maps.set_backend(id, &entry);
        }
        let changed = after.entries().filter(|(id, entry)| known.get(id).is_some_and(|known| known != entry));
        let (serving, others): (Vec<_>, Vec<_>) = changed.partition(|(_, entry)| entry.flags == 0);
        for (id, entry) in &serving {
            self.maps.set_backend_standing(*id, entry);
        }
        self.maps.set_owners(&owners);
        self.turn_tables(&services, &after, service);
        for (id, entry) in &others {
            self.maps.set_backend_standing(*id, entry);
        }
        for &id in &after.dropped {
            self.maps.set_backend(id, &BackendEntry::default());
        }
        self.note_retired(&after);
        self.setup.services = services;
        self.blueprint.inventory = after;
        Ok(())
    }

    /// Backends that leave the tables of the running program may get flows until no packet is under way that saw the
    /// tables before; a sweep that began later, and found none, says that there will be none.
    fn named_by_flows(&self) -> HashSet<BackendId> {
        let is_gone = |id: &BackendId| {
            let since = self.retired_at.get(id);
            let found_none = |sweep: &Sweep, since: &Instant| sweep.began > *since && sweep.census.of(*id) == 0;
            self.last_sweep.as_ref().zip(since).is_some_and(|(sweep, since)| found_none(sweep, since))
        };
        self.blueprint.inventory.retired.iter().map(|(id, _)| *id).filter(|id| !is_gone(id)).collect()
    }

    fn note_retired(&mut self, after: &inventory::Inventory) {
        let now = Instant::now();
        let retired: HashSet<BackendId> = after.retired.iter().map(|(id, _)| *id).collect();
        self.retired_at.retain(|id, _| retired.contains(id));
        for id in retired {
            self.retired_at.entry(id).or_insert(now);
        }
    }

    fn turn_tables(&mut self, services: &[super::ServiceSetup], inventory: &inventory::Inventory, service: usize) {
        let Some((setup, slot)) = services.get(service).zip(inventory.services.get(service)) else { return };
        let [v1, v2] = entries::tables(setup, inventory, service);
        if let Some(change) = self.blueprint.regions.change(service, [&v1, &v2], setup.when_empty) {
            self.maps.set_tables(slot.id, &change);
        }
    }

    fn give_next_hops(&self, inventory: &mut inventory::Inventory) {
        for (_, entry) in inventory.entries_mut() {
            entry.next_hop = self.next_hops.get(&entry.endpoint.address).copied().unwrap_or_default();
        }
    }

    /// Makes these the pins of a service, its canary port's apart.
    ///
    /// # Errors
    /// Where there is no such service, or a map is full; then some of the networks may be pinned already.
    pub fn set_pins(&mut self, service: usize, pins: PinRules) -> Result<(), KernelError> {
        let slot = self.blueprint.inventory.services.get(service).ok_or_else(|| no_service("change pins", service))?;
        let setup = self.setup.services.get_mut(service).ok_or_else(|| no_service("change pins", service))?;
        for (network, version) in &pins.networks {
            self.maps.set_pin(entries::network(slot.id, *network), *version as u32)?;
        }
        let wanted: HashSet<_> = pins.networks.iter().map(|(network, _)| *network).collect();
        let former = std::mem::replace(&mut setup.pins, pins);
        let place = self.blueprint.places.get(service).copied().unwrap_or_default();
        self.maps.set_service_pins(slot.id, &entries::service(setup, slot, place));
        for (network, _) in former.networks.iter().filter(|(network, _)| !wanted.contains(network)) {
            self.maps.remove_pin(entries::network(slot.id, *network))?;
        }
        Ok(())
    }

    /// Tells the ways to backends, by their addresses. What is not named stays as it is; `None` leaves it to the kernel.
    pub fn set_next_hops(&mut self, hops: &[(IpAddr, Option<NextHop>)]) {
        for (address, hop) in hops {
            let address = Address::from(*address);
            match hop {
                Some(hop) => drop(self.next_hops.insert(address, *hop)),
                None => drop(self.next_hops.remove(&address)),
            }
        }
        let known = &self.next_hops;
        let changed = |(_, entry): &(BackendId, &mut BackendEntry)| {
            known.get(&entry.endpoint.address).copied().unwrap_or_default() != entry.next_hop
        };
        for (id, entry) in self.blueprint.inventory.entries_mut().filter(changed) {
            entry.next_hop = known.get(&entry.endpoint.address).copied().unwrap_or_default();
            self.maps.set_next_hop(id, entry);
        }
    }

    /// Lets packets go by next hops and routes for so long from now on; zero: the kernel is asked from now on.
    pub fn lease_hops(&mut self, time: Duration) {
        let until = if time.is_zero() { 0 } else { flows::tick_after(time) };
        self.maps.set_hops_until(until);
    }

    /// Makes these the routes of replies; the most specific that covers an address counts. To addresses that none covers,
    /// the kernel is asked.
    ///
    /// # Errors
    /// Where there are more than [`ROUTES_MAX`]; then nothing has changed.
    pub fn set_routes(&mut self, routes: &[Route]) -> Result<(), KernelError> {
        let routes_max = usize::try_from(ROUTES_MAX).unwrap_or(0);
        if routes.len() > routes_max {
            let reason = format!("there are {}, and room for {routes_max}", routes.len());
            return Err(failure("write routes", reason));
        }
        self.maps.set_routes(&most_specific_first(routes));
        Ok(())
    }

    /// Changes how long flows may be idle, in flow ticks.
    pub fn set_idle(&mut self, idle: IdleTicks) {
        self.setup.idle = idle;
        self.maps.set_idle(idle);
    }

    /// Traces one packet in so many, of one service or of all, for so long from now on; 0: none. See
    /// [`Self::trace_events`].
    ///
    /// # Errors
    /// Where there is no such service.
    pub fn set_trace(&mut self, one_in: u32, service: Option<usize>, time: Duration) -> Result<(), KernelError> {
        let number = match service {
            None => TRACE_ALL,
            Some(service) => {
                let slot = self.blueprint.inventory.services.get(service);
                let id = slot.ok_or_else(|| no_service("trace packets", service))?.id;
                u16::try_from(id.0).unwrap_or(TRACE_ALL)
            }
        };
        let [low, high, ..] = flows::tick_after(time).to_le_bytes();
        self.maps.set_trace(Tracing { one_in, service: number, until: u16::from_le_bytes([low, high]) });
        Ok(())
    }
}

fn is_same(known: Option<&BackendEntry>, entry: &BackendEntry) -> bool {
    known.is_some_and(|known| known.endpoint == entry.endpoint)
}

fn most_specific_first(routes: &[Route]) -> Vec<Route> {
    let mut routes = routes.to_vec();
    let bits = |route: &Route| route.mask.words().map(u32::count_ones).iter().sum::<u32>();
    routes.sort_by_key(|route| std::cmp::Reverse(bits(route)));
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mask_comes_first_and_equals_stay_in_order() {
        let route = |network: [u8; 4], prefix_len: u32| {
            let mask = Address::from_v6_wire([
                u32::MAX,
                u32::MAX,
                u32::MAX,
                (!0_u32).checked_shl(32 - prefix_len).unwrap_or(0).to_be(),
            ]);
            Route { network: IpAddr::from(network).into(), mask, next_hop: NextHop::default() }
        };
        let routes =
            [route([0, 0, 0, 0], 0), route([10, 0, 0, 0], 8), route([11, 0, 0, 0], 8), route([10, 1, 0, 0], 16)];
        let sorted: Vec<IpAddr> = most_specific_first(&routes).iter().map(|route| route.network.into()).collect();
        let expected: [IpAddr; 4] = [[10, 1, 0, 0], [10, 0, 0, 0], [11, 0, 0, 0], [0, 0, 0, 0]].map(IpAddr::from);
        assert_eq!(sorted, expected);
    }
}
