//! `full-nat`: source addresses and ports. The only writer of the map of source ports.
//!
//! A port belongs to one flow of the host, whatever its backend. It is taken by compare-and-swap, and given back by
//! nobody: a slot is free when the flow table no longer holds the flow that took it, or holds it as closing. So no port
//! can leak, whoever dies when. When a port is taken, a late packet to its former flow may reach the new flow's client,
//! whose TCP discards it.

use grayxdp_common::{
    ids::{Be16, ServiceId},
    layout::{Address, Control, Endpoint, FlowState, ServiceEntry, SourceSlot},
    limits::{SOURCE_ADDRESSES_PER_SERVICE_MAX, SOURCE_PORT_PROBES},
};

use crate::{
    flow::{self, Found, Place},
    helpers, maps, stages,
};

/// The client behind a source port.
#[derive(Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) service: ServiceId,
    pub(crate) client: Endpoint,
    pub(crate) place: Place,
    pub(crate) flow: Found,
}

/// Finds a free port for the flow of this entry, and notes it there. Frees the entry where none is free.
#[inline(always)]
pub(crate) fn take(
    control: &'static Control,
    service: &ServiceEntry,
    id: ServiceId,
    client: Endpoint,
    entry: u32,
) -> Option<Endpoint> {
    let (place, flow) = flow::entry_at(control, entry)?;
    let source = find(control, service, id, client, &flow);
    if source.is_none() {
        place.undo(&flow);
    }
    source
}

#[inline(always)]
fn find(control: &Control, service: &ServiceEntry, id: ServiceId, client: Endpoint, flow: &Found) -> Option<Endpoint> {
    let ports = u32::from(control.source_port_count);
    let random = helpers::random();
    let nth = scale(random >> 16, u32::from(service.source_count));
    let address_index = u32::from(service.source_first) + nth;
    let start = scale(random & 0xffff, ports);
    let mut probes = 0;
    while probes < SOURCE_PORT_PROBES {
        // VERIFIER: from the start each time. A port that is carried on and wraps has a history for each place where it may
        // have wrapped.
        let port = (start + probes).checked_rem(ports)?;
        if stages::grayxdp_take_slot(&client, id.0, address_index * ports + port, flow.index) != 0 {
            #[expect(clippy::cast_possible_truncation, reason = "under the count of ports, and of addresses")]
            let (source, wire) = (address_index as u8, Be16::new(control.source_port_first + port as u16));
            flow.set_source(source, wire);
            return endpoint(source, wire, client.protocol);
        }
        probes += 1;
    }
    None
}

/// The source that a flow's entry names.
#[inline(always)]
pub(crate) fn endpoint(source: u8, port: Be16, protocol: u8) -> Option<Endpoint> {
    if port.to_wire() == 0 {
        return None;
    }
    maps::source_address(u32::from(source)).map(|address| Endpoint::new(*address, port, protocol))
}

/// Who has this source address and port.
#[inline(always)]
pub(crate) fn holder(control: &'static Control, service: &ServiceEntry, source: Endpoint) -> Option<Holder> {
    let ports = u32::from(control.source_port_count);
    let port = u32::from(source.port.to_host()).wrapping_sub(u32::from(control.source_port_first));
    if port >= ports {
        return None;
    }
    let address_index = index_of(service, source.address)?;
    let slot = maps::source_slot(address_index * ports + port)?;
    // Where another flow takes the slot meanwhile, the entry that it names is not this owner's.
    let slot = slot.read();
    let (place, flow) = flow::entry_of(control, slot.entry, slot.owner)?;
    if flow.seen.source_port.to_wire() != source.port.to_wire() || u32::from(flow.seen.source) != address_index {
        return None;
    }
    let client = Endpoint::new(slot.client, slot.client_port, source.protocol);
    Some(Holder { service: ServiceId(u32::from(slot.service)), client, place, flow })
}

/// The index of one of a service's source addresses.
#[inline(always)]
fn index_of(service: &ServiceEntry, address: Address) -> Option<u32> {
    let mut nth = 0;
    while nth < SOURCE_ADDRESSES_PER_SERVICE_MAX && nth < u32::from(service.source_count) {
        let index = u32::from(service.source_first) + nth;
        if maps::source_address(index).is_some_and(|own| own.is(&address)) {
            return Some(index);
        }
        nth += 1;
    }
    None
}

/// Takes a slot for the flow of this entry, if it is free.
#[inline(always)]
pub(crate) fn take_slot(
    control: &'static Control,
    client: &Endpoint,
    service: ServiceId,
    index: u32,
    entry: u32,
) -> Option<()> {
    let slot = maps::source_slot(index)?;
    let (_, flow) = flow::entry_at(control, entry)?;
    let owner = slot.owner();
    if let Some((place, holder)) = flow::entry_of(control, slot.entry(), owner) {
        let is_held = holder.index != flow.index
            && holder.seen.state() != FlowState::Closing
            && !place.is_expired(&holder, control.idle_ticks.udp);
        if is_held {
            return None;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "far fewer services than 2^16")]
    let taken = SourceSlot {
        owner: flow.owner,
        client: client.address,
        entry: flow.index,
        client_port: client.port,
        service: service.0 as u16,
    };
    slot.take(owner, taken)
}

/// A number under `count`, from one of 16 bits.
#[inline(always)]
fn scale(random: u32, count: u32) -> u32 {
    (random * count) >> 16
}
