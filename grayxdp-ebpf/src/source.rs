//! `full-nat`: source addresses and ports. The only writer of the map of source ports.
//!
//! A port belongs to one flow of the host, whatever its backend. It is taken by compare-and-swap, and given back by
//! nobody: a slot is free when the flow table no longer holds the flow that took it, or holds it as closing. So no port
//! can leak, whoever dies when. When a port is taken, a late packet to its former flow may reach the new flow's client,
//! whose TCP discards it.

use grayxdp_common::{
    ids::{Be16, ServiceId},
    layout::{Address, Control, Endpoint, FlowOwner, FlowState, ServiceEntry, SourceSlot},
    limits::SOURCE_PORT_PROBES,
};

use crate::{
    flow::{self, Found, Place},
    helpers, maps,
};

/// The client behind a source port.
#[derive(Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) service: ServiceId,
    pub(crate) client: Endpoint,
    pub(crate) place: Place,
    pub(crate) flow: Found,
}

/// Finds a free port for the flow of this entry, and notes it there; `client` becomes the flow's source. Returns zero, and
/// frees the entry, where no port is free.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_take_source(client: *mut Endpoint, service: u32, entry: u64) -> u64 {
    // SAFETY: `grayxdp_begin` has just been given it; see `lib.rs`.
    let Some(client) = (unsafe { client.as_mut() }) else { return 0 };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return 0 };
    #[expect(clippy::cast_possible_truncation, reason = "an index, as `grayxdp_enter` widened it")]
    let Some((place, flow)) = flow::entry_at(control, entry as u32) else { return 0 };
    match take(control, service, id, *client, &flow) {
        Some(source) => {
            *client = source;
            1
        }
        None => {
            place.undo(&flow);
            0
        }
    }
}

#[inline(always)]
fn take(control: &Control, service: &ServiceEntry, id: ServiceId, client: Endpoint, flow: &Found) -> Option<Endpoint> {
    let ports = u32::from(control.source_port_count);
    let random = helpers::random();
    let nth = scale(random >> 16, u32::from(service.source_count));
    let address_index = u32::from(service.source_first) + nth;
    let mut port = scale(random & 0xffff, ports);
    let mut probes = 0;
    while probes < SOURCE_PORT_PROBES {
        if port >= ports {
            port = 0;
        }
        if grayxdp_take_slot(&client, id.0, address_index * ports + port, flow.index) != 0 {
            #[expect(clippy::cast_possible_truncation, reason = "under the count of ports, and of addresses")]
            let (source, wire) = (address_index as u8, Be16::new(control.source_port_first + port as u16));
            flow.set_source(source, wire);
            return endpoint(source, wire, client.protocol);
        }
        port += 1;
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
    // SAFETY: a map's value. Where another flow takes the slot meanwhile, the entry that it names is not this owner's.
    let slot = unsafe { slot.read() };
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
    const ADDRESSES_PER_SERVICE_MAX: u32 = 16;
    let mut nth = 0;
    while nth < ADDRESSES_PER_SERVICE_MAX && nth < u32::from(service.source_count) {
        let index = u32::from(service.source_first) + nth;
        if maps::source_address(index).is_some_and(|own| own.is(&address)) {
            return Some(index);
        }
        nth += 1;
    }
    None
}

/// Takes a slot for the flow of this entry, if it is free. Returns zero where it is not.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_take_slot(client: *const Endpoint, service: u32, index: u32, entry: u32) -> u64 {
    // SAFETY: `take` has just been given it; see `lib.rs`.
    let (Some(client), Some(control)) = (unsafe { client.as_ref() }, maps::control()) else { return 0 };
    let (Some(slot), Some((_, flow))) = (maps::source_slot(index), flow::entry_at(control, entry)) else { return 0 };
    // SAFETY: an aligned word of a map's value; volatile, since other CPUs write it.
    let owner = FlowOwner(unsafe { slot.cast::<u64>().read_volatile() });
    // SAFETY: as above; where it is stale, the comparison of owners that follows fails.
    let holder = unsafe { (&raw const (*slot).entry).read_volatile() };
    if let Some((place, holder)) = flow::entry_of(control, holder, owner) {
        let is_held = holder.index != flow.index
            && holder.seen.state() != FlowState::Closing
            && !place.is_expired(&holder, control.idle_ticks.udp);
        if is_held {
            return 0;
        }
    }
    // SAFETY: an aligned word of a map's value.
    if unsafe { helpers::compare_exchange(slot.cast(), owner.0, flow.owner.0) } != owner.0 {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "far fewer services than 2^16")]
    let taken = SourceSlot {
        owner: flow.owner,
        client: client.address,
        entry: flow.index,
        client_port: client.port,
        service: service as u16,
    };
    // SAFETY: this CPU has just taken the slot.
    unsafe { slot.write(taken) };
    1
}

/// A number under `count`, from one of 16 bits.
#[inline(always)]
fn scale(random: u32, count: u32) -> u32 {
    (random * count) >> 16
}
