//! From the running program to the new one: which flows can go on, and which cannot.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{FLOW_ONE_SIDED, NO_SERVICE},
};

use super::{
    flows::Record,
    inventory::Inventory,
    setup::{ForwardMode, ServiceSetup, SourcePorts},
    sources::Placement,
};

/// What a flow's entry must agree with to go on.
pub(super) struct Survival {
    /// Mode of each backend's service: whether it changes the source, whether it sees replies.
    modes: HashMap<BackendId, (bool, bool)>,
    /// Indices of source addresses that went to another address, or to none.
    lost_sources: HashSet<u8>,
    ports: SourcePorts,
}

impl Survival {
    pub(super) fn new(
        setup: &[ServiceSetup],
        inventory: &Inventory,
        former_sources: &HashMap<IpAddr, u32>,
        placement: &Placement,
        ports: SourcePorts,
    ) -> Self {
        let mode = |service: u16| {
            let index = inventory.service_index(ServiceId(service.into())).filter(|_| service != NO_SERVICE)?;
            let service = setup.get(index)?;
            Some((matches!(service.mode, ForwardMode::FullNat { .. }), service.sees_replies()))
        };
        let modes = inventory.entries().filter_map(|(id, entry)| Some((id, mode(entry.service)?))).collect();
        let lost = |(address, index): (&IpAddr, &u32)| {
            (placement.addresses.get(index) != Some(address)).then(|| u8::try_from(*index).ok())?
        };
        Self { modes, lost_sources: former_sources.iter().filter_map(lost).collect(), ports }
    }

    /// Whether a flow that a former program began finds what it needs.
    pub(super) fn goes_on(&self, record: &Record) -> bool {
        let Some(&(changes_source, sees_replies)) = self.modes.get(&record.backend) else { return false };
        let seen = record.entry.seen;
        let port = seen.source_port.to_host();
        let has_source = port != 0;
        let port_stays = port.checked_sub(self.ports.first).is_some_and(|nth| nth < self.ports.count);
        let source_stays = !has_source || (port_stays && !self.lost_sources.contains(&seen.source));
        let is_one_sided = seen.kind & FLOW_ONE_SIDED != 0;
        has_source == changes_source && source_stays && is_one_sided != sees_replies
    }
}

#[cfg(test)]
mod tests {
    use grayxdp_common::{
        ids::Be16,
        layout::{FlowEntry, FlowSeen},
    };

    use super::*;

    fn id(raw: u16) -> BackendId {
        BackendId::from_raw(raw).expect("not zero")
    }

    #[test]
    fn a_flow_goes_on_only_where_backend_mode_and_source_are_what_they_were() {
        let survival = Survival {
            modes: HashMap::from([(id(1), (false, true)), (id(2), (true, true)), (id(3), (false, false))]),
            lost_sources: HashSet::from([5]),
            ports: SourcePorts { first: 1000, count: 100 },
        };
        for (backend, kind, source, port, expected) in [
            (1, 0, 0, 0, true),
            (9, 0, 0, 0, false),
            (1, FLOW_ONE_SIDED, 0, 0, false),
            (1, 0, 4, 1000, false),
            (2, 0, 0, 0, false),
            (2, 0, 4, 1000, true),
            (2, 0, 4, 1099, true),
            (2, 0, 4, 1100, false),
            (2, 0, 4, 999, false),
            (2, 0, 5, 1000, false),
            (3, FLOW_ONE_SIDED, 0, 0, true),
            (3, 0, 0, 0, false),
        ] {
            let seen = FlowSeen { kind, source, source_port: Be16::new(port), ..FlowSeen::default() };
            let entry = FlowEntry { seen, ..FlowEntry::default() };
            let record = Record { bucket: 0, slot: 0, entry, backend: id(backend) };
            assert_eq!(survival.goes_on(&record), expected, "{backend} {kind} {source} {port}");
        }
    }

    #[test]
    fn source_addresses_that_do_not_keep_their_index_are_lost() {
        let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
        let former = HashMap::from([(ip(1), 1), (ip(2), 2), (ip(3), 3)]);
        let addresses = [(1, ip(1)), (2, ip(9)), (4, ip(3))].into();
        let placement = Placement { addresses, ranges: Vec::new() };
        let ports = SourcePorts { first: 1, count: 2 };
        let survival = Survival::new(&[], &Inventory::default(), &former, &placement, ports);
        assert_eq!(survival.lost_sources, HashSet::from([2, 3]));
    }
}
