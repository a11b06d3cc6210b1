//! `full-nat`: source addresses and ports. The only writer of the map of source ports.
//!
//! A port belongs to one flow of the host, whatever its backend. It is taken by compare-and-swap, and given back by
//! nobody: a slot is free when the flow table no longer holds the flow that took it, or holds it as closing. So no port
//! can leak, whoever dies when. Where the search begins is a hint of this CPU's own (`Cursor`). When a port is taken, a late
//! packet to its former flow may reach the new flow's client, whose TCP discards it.

use grayxdp_common::{
    ids::{Be16, ServiceId},
    layout::{Address, Control, Endpoint, FlowOwner, FlowState, ServiceEntry, SourceSlot},
    limits::{SOURCE_ADDRESSES_MAX, SOURCE_ADDRESSES_PER_SERVICE_MAX, SOURCE_PORT_PROBES},
};

use crate::{
    flow::{self, Found, Place},
    helpers, maps, scratch, stages,
};

/// Slots side by side that are looked at before the search goes on somewhere else: the neighbours of one that is held are
/// held more often than others.
const RUN: u32 = 4;
const RUNS: u32 = SOURCE_PORT_PROBES / RUN;
/// Ports of each address that a CPU gives out until its search moves somewhere else.
const PORTS_PER_DRAW: u16 = 64;
/// From a port that was taken to where the next search begins, at most. Longer steps leave gaps, and the ports between
/// them are met by searches that come from elsewhere.
const STEP_MAX: u32 = 2;
/// In place of a port: none of the run was free.
pub(crate) const NO_PORT: u64 = u64::MAX;

const _: () = assert!(RUN * RUNS == SOURCE_PORT_PROBES, "runs are whole");
const _: () = assert!(SOURCE_ADDRESSES_PER_SERVICE_MAX.is_power_of_two(), "numbers are masked");
const _: () = assert!(SOURCE_ADDRESSES_MAX.is_power_of_two(), "so are indices");

/// The client behind a source port.
#[derive(Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) service: ServiceId,
    pub(crate) client: Endpoint,
    pub(crate) place: Place,
    pub(crate) flow: Found,
}

/// Where a CPU looks for a free port first, in a list of source addresses. Flows that begin one after the other get the
/// addresses in turn, and ports near each other, whose slots share cache lines and pages: one that is far away costs as much
/// as all else of a new flow.
#[repr(C)]
pub(crate) struct Cursor {
    /// Counted from the first port; behind the last one it goes on with the first.
    port: u32,
    /// Number of the address in its list.
    nth: u16,
    /// Until it moves somewhere else.
    ports_left: u16,
}

impl Cursor {
    /// Moves it somewhere, at random.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "under the count of addresses")]
    fn draw(&mut self, service: &ServiceEntry, ports: u32) {
        let random = helpers::random();
        self.port = scale(random & 0xffff, ports);
        self.nth = scale(random >> 16, u32::from(service.source_count)) as u16;
        self.ports_left = PORTS_PER_DRAW;
    }

    /// Behind a port that was taken. The noise makes ports no counter.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "under twice the count of ports")]
    fn advance(&mut self, service: &ServiceEntry, port: u64, noise: u64) {
        self.nth = self.nth.wrapping_add(1);
        self.port = port as u32;
        if self.nth >= service.source_count {
            self.nth = 0;
            self.port += 1 + noise as u32 % STEP_MAX;
            self.ports_left = self.ports_left.wrapping_sub(1);
        }
    }
}

/// A source that was taken, in one register: index of its address, and port as on the wire. Zero: none was free.
#[derive(Clone, Copy)]
pub(crate) struct Taken(pub(crate) u64);

impl Taken {
    pub(crate) const NONE: Self = Self(0);

    #[inline(always)]
    fn new(source: u8, port: Be16) -> Self {
        Self(u64::from(source) << 16 | u64::from(port.to_wire()))
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the parts")]
    pub(crate) fn source(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    pub(crate) fn port(self) -> Be16 {
        Be16::from_wire(self.0 as u16)
    }
}

/// Finds a free port for the flow of this entry, and notes it there. Frees the entry where none is free. The client lies
/// in `scratch.rs`.
#[inline(always)]
pub(crate) fn take(control: &'static Control, service: &ServiceEntry, id: ServiceId, entry: u32) -> Option<Taken> {
    let (place, flow) = flow::entry_at(control, entry)?;
    let taken = find(control, service, id, &flow);
    match taken {
        Some(taken) => flow.set_source(taken.source(), taken.port()),
        None => place.undo(&flow),
    }
    taken
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "under the count of ports, and of addresses")]
fn find(control: &Control, service: &ServiceEntry, id: ServiceId, flow: &Found) -> Option<Taken> {
    let ports = u32::from(control.source_port_count);
    // VERIFIER (6.1): a mask in place of a comparison, which it forgets of what lies on the stack.
    let first =
        helpers::opaque(usize::from(service.source_first), u64::from(ports)) & (SOURCE_ADDRESSES_MAX as usize - 1);
    let cursor = scratch::cursors()?.get_mut(first)?;
    if cursor.ports_left == 0 || cursor.nth >= service.source_count {
        cursor.draw(service, ports);
    }
    let mut runs = 0;
    while runs < RUNS {
        let address_index = u32::from(service.source_first) + u32::from(cursor.nth);
        let port = stages::grayxdp_take_slot(id.0, address_index * ports, cursor.port, flow.index);
        if port != NO_PORT {
            // The flow's fingerprint is keyed.
            cursor.advance(service, port, flow.owner.0 >> 16);
            return Some(Taken::new(address_index as u8, Be16::new(control.source_port_first + port as u16)));
        }
        if ports <= SOURCE_PORT_PROBES {
            // All of them are looked at.
            cursor.port = cursor.port.wrapping_add(RUN);
        } else {
            cursor.draw(service, ports);
        }
        runs += 1;
    }
    None
}

/// The source that a flow's entry names.
#[inline(always)]
pub(crate) fn endpoint(source: u8, port: Be16, protocol: u8) -> Option<Endpoint> {
    address(source, port).map(|address| Endpoint::new(*address, port, protocol))
}

/// The address of the source that a flow's entry names. `None` while it has no port.
#[inline(always)]
pub(crate) fn address(source: u8, port: Be16) -> Option<&'static Address> {
    if port.to_wire() == 0 { None } else { maps::source_address(u32::from(source)) }
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
#[expect(clippy::cast_possible_truncation, reason = "under the greatest count of addresses")]
fn index_of(service: &ServiceEntry, address: Address) -> Option<u32> {
    let mut nth = 0;
    while nth < SOURCE_ADDRESSES_PER_SERVICE_MAX && nth < u32::from(service.source_count) {
        let index = u32::from(service.source_first) + nth;
        if maps::source_address(index).is_some_and(|own| own.is(&address)) {
            // VERIFIER: or all that follows would be looked at once for each address.
            let nth = helpers::opaque(nth as usize, u64::from(service.source_count)) as u32;
            return Some(u32::from(service.source_first) + (nth & (SOURCE_ADDRESSES_PER_SERVICE_MAX - 1)));
        }
        nth += 1;
    }
    None
}

/// Takes the first free slot of a run for the flow of this entry. `first` is the slot of an address's first port, and
/// `start` the port to begin with. Returns which port it was.
#[inline(always)]
pub(crate) fn take_slot(
    control: &'static Control,
    service: ServiceId,
    (first, start): (u32, u32),
    entry: u32,
) -> Option<u32> {
    let (_, flow) = flow::entry_at(control, entry)?;
    let ports = u32::from(control.source_port_count);
    let mut probes = 0;
    while probes < RUN {
        // VERIFIER: from the start each time. A port that is carried on and wraps has a history for each place where it may
        // have wrapped.
        let port = start.wrapping_add(probes).checked_rem(ports)?;
        let slot = maps::source_slot(first + port)?;
        let owner = slot.owner();
        let entry = slot.entry();
        // Of one that was never used, no entry need be looked at.
        let is_free = owner == FlowOwner::EMPTY || entry == flow.index || stages::grayxdp_holds(entry, owner.0) == 0;
        if is_free {
            let client = scratch::source()?;
            #[expect(clippy::cast_possible_truncation, reason = "far fewer services than 2^16")]
            let taken = SourceSlot {
                owner: flow.owner,
                client: client.address,
                entry: flow.index,
                client_port: client.port,
                service: service.0 as u16,
            };
            if slot.take(owner, taken).is_some() {
                return Some(port);
            }
        }
        probes += 1;
    }
    None
}

/// Whether the owner of a slot still has the entry that the slot names, and needs its port.
#[inline(always)]
pub(crate) fn holds(control: &'static Control, entry: u32, owner: FlowOwner) -> bool {
    let Some((place, holder)) = flow::entry_of(control, entry, owner) else { return false };
    holder.seen.state() != FlowState::Closing && !place.is_expired(&holder, control.idle_ticks.udp)
}

/// A number under `count`, from one of 16 bits.
#[inline(always)]
fn scale(random: u32, count: u32) -> u32 {
    (random * count) >> 16
}
