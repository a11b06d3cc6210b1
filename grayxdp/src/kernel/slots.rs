//! The source ports of `full-nat`, and how they pass from one program to the next.
//!
//! Slots lie by source address, then port; a new program has a new map, as large as its addresses and ports ask for. What
//! flows hold in the running program's map is copied over twice: before the programs change, and again after. A slot that
//! the old program gives away in between is copied by the second pass, unless the new one has given the same port to
//! another flow by then: that flow's replies win, and the older flow breaks.

use std::sync::atomic::Ordering;

use aya::maps::MapData;
use grayxdp_common::layout::SourceSlot;

use super::{KernelError, mapped::Mapped, setup::SourcePorts};

/// Words of a slot behind its owner.
const REST: std::ops::Range<usize> = 1..size_of::<SourceSlot>() / 8;

/// All slots.
pub(super) struct SourceSlots {
    slots: Mapped<SourceSlot>,
}

/// Where an address's slots lie in the former map and in the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    /// Index of the address; the same in both, since flows name it.
    pub(super) address: u32,
    pub(super) former: SourcePorts,
    pub(super) new: SourcePorts,
}

impl SourceSlots {
    pub(super) fn new(map: &MapData) -> Result<Self, KernelError> {
        Mapped::new("SOURCE_SLOTS", map).map(|slots| Self { slots })
    }

    /// Copies the slots of an address that were ever taken and are still free here. Returns how many.
    pub(super) fn copy_from(&self, former: &Self, step: Move) -> u64 {
        let mut copied = 0;
        let first = step.former.first.max(step.new.first);
        let last = |ports: SourcePorts| u32::from(ports.first) + u32::from(ports.count);
        for port in u32::from(first)..last(step.former).min(last(step.new)) {
            let index = |ports: SourcePorts| step.address * u32::from(ports.count) + port - u32::from(ports.first);
            let Some(slot) = former.slots.load(index(step.former)) else { continue };
            if slot.owner.0 != 0 && self.take(index(step.new), &slot) {
                copied += 1;
            }
        }
        copied
    }

    /// One slot; `None` behind the end.
    pub(super) fn load(&self, index: u32) -> Option<SourceSlot> {
        self.slots.load(index)
    }

    /// Takes a slot as the packet program does: the owner first, by compare-and-swap.
    fn take(&self, index: u32, slot: &SourceSlot) -> bool {
        let Some(owner) = self.slots.word(index, 0) else { return false };
        if owner.compare_exchange(0, slot.owner.0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        for nth in REST {
            self.slots.store_word_of(index, nth, slot);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use grayxdp_common::{
        ids::Be16,
        layout::{Address, FlowOwner},
    };

    use super::*;

    fn slot(owner: u64) -> SourceSlot {
        let client = Address::from(std::net::IpAddr::from([198, 51, 100, 7]));
        SourceSlot { owner: FlowOwner(owner), client, entry: 5, client_port: Be16::new(40_000), service: 3 }
    }

    #[test]
    fn taken_slots_are_copied_where_the_new_map_has_the_port_and_nobody_took_it() {
        let (old, new) = (SourcePorts { first: 1000, count: 10 }, SourcePorts { first: 1005, count: 20 });
        let from = SourceSlots { slots: Mapped::private(20) };
        let to = SourceSlots { slots: Mapped::private(40) };
        // Ports 1003, 1005, 1009 of address 1.
        for (index, owner) in [(13, 1), (15, 2), (19, 3)] {
            from.slots.store(index, &slot(owner));
        }
        // Port 1009 of address 1 is another flow's here.
        to.slots.store(24, &slot(9));
        assert_eq!(to.copy_from(&from, Move { address: 1, former: old, new }), 1);
        assert_eq!(to.slots.load(20), Some(slot(2)));
        assert_eq!(to.slots.load(24), Some(slot(9)));
        assert_eq!(to.copy_from(&from, Move { address: 1, former: old, new }), 0, "the second pass finds nothing new");
        assert_eq!(to.copy_from(&from, Move { address: 0, former: old, new }), 0);
    }
}
