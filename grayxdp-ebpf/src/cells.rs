//! Values of maps that several CPUs write at once: flow entries and what goes with them, source slots, fuses, what
//! is traced. Single loads, stores and compare-exchanges of aligned words and of parts of them; what they mean is for
//! `flow.rs`, `signals.rs`, `source.rs`, `fuse.rs` and `trace.rs`.

use grayxdp_common::{
    ids::Be16,
    layout::{
        Control, Expected, FlowBucket, FlowEntry, FlowOwner, FlowSeen, FlowTimes, FuseCell, FuseTally, SourceSlot,
        Tracing,
    },
    limits::FLOW_ENTRIES_PER_BUCKET,
};

use crate::helpers;

/// A bucket of the flow table.
#[derive(Clone, Copy)]
pub(crate) struct BucketCell(*mut FlowBucket);

impl BucketCell {
    /// Of a value that a map's lookup gave.
    #[inline(always)]
    pub(crate) fn new(bucket: *mut FlowBucket) -> Self {
        Self(bucket)
    }

    /// The entry at a place; places wrap.
    #[inline(always)]
    pub(crate) fn entry(self, at: usize) -> FlowCell {
        // SAFETY: masked to the bucket's length.
        FlowCell(unsafe { self.0.cast::<FlowEntry>().add(at & (FLOW_ENTRIES_PER_BUCKET - 1)) })
    }
}

const _: () = assert!(FLOW_ENTRIES_PER_BUCKET.is_power_of_two(), "places are masked");

/// An entry of the flow table.
#[derive(Clone, Copy)]
pub(crate) struct FlowCell(*mut FlowEntry);

impl FlowCell {
    #[inline(always)]
    pub(crate) fn owner(self) -> FlowOwner {
        // SAFETY: an aligned word of a map's value; volatile, since other CPUs write it.
        FlowOwner(unsafe { self.0.cast::<u64>().read_volatile() })
    }

    /// Gives the entry to another owner, if `old` still has it.
    #[inline(always)]
    pub(crate) fn exchange_owner(self, old: FlowOwner, new: FlowOwner) -> bool {
        // SAFETY: an aligned word of a map's value.
        unsafe { helpers::compare_exchange(self.0.cast(), old.0, new.0) == old.0 }
    }

    #[inline(always)]
    pub(crate) fn seen(self) -> FlowSeen {
        // SAFETY: an aligned word of a map's value; volatile, since other CPUs write its parts.
        FlowSeen::from_word(unsafe { self.0.cast::<u64>().wrapping_add(1).read_volatile() })
    }

    #[inline(always)]
    pub(crate) fn set_seen(self, seen: FlowSeen) {
        // SAFETY: an aligned word of a map's value.
        unsafe { self.0.cast::<u64>().wrapping_add(1).write_volatile(seen.to_word()) };
    }

    #[inline(always)]
    pub(crate) fn set_last_tick(self, tick: u16) {
        // SAFETY: a field of a map's value, aligned.
        unsafe { (&raw mut (*self.0).seen.last_tick).write_volatile(tick) };
    }

    #[inline(always)]
    pub(crate) fn set_client(self, flags: u8) {
        // SAFETY: a field of a map's value, of one byte.
        unsafe { (&raw mut (*self.0).seen.client).write_volatile(flags) };
    }

    #[inline(always)]
    pub(crate) fn set_backend(self, flags: u8) {
        // SAFETY: a field of a map's value, of one byte.
        unsafe { (&raw mut (*self.0).seen.backend).write_volatile(flags) };
    }

    /// The address first: a port is what says that there is a source.
    #[inline(always)]
    pub(crate) fn set_source(self, source: u8, port: Be16) {
        // SAFETY: fields of a map's value, aligned.
        unsafe {
            (&raw mut (*self.0).seen.source).write_volatile(source);
            (&raw mut (*self.0).seen.source_port).write_volatile(port);
        }
    }
}

/// A slot of the source ports.
#[derive(Clone, Copy)]
pub(crate) struct SourceCell(*mut SourceSlot);

impl SourceCell {
    /// Of a value that a map's lookup gave.
    #[inline(always)]
    pub(crate) fn new(slot: *mut SourceSlot) -> Self {
        Self(slot)
    }

    #[inline(always)]
    pub(crate) fn owner(self) -> FlowOwner {
        // SAFETY: an aligned word of a map's value; volatile, since other CPUs write it.
        FlowOwner(unsafe { self.0.cast::<u64>().read_volatile() })
    }

    #[inline(always)]
    pub(crate) fn entry(self) -> u32 {
        // SAFETY: a field of a map's value, aligned; volatile, since other CPUs write it.
        unsafe { (&raw const (*self.0).entry).read_volatile() }
    }

    /// All of it; should it be taken meanwhile, parts of both.
    #[inline(always)]
    pub(crate) fn read(self) -> SourceSlot {
        // SAFETY: a map's value of plain integers.
        unsafe { self.0.read() }
    }

    /// Takes the slot, if `old` still has it.
    #[inline(always)]
    pub(crate) fn take(self, old: FlowOwner, new: SourceSlot) -> Option<()> {
        // SAFETY: an aligned word of a map's value.
        if unsafe { helpers::compare_exchange(self.0.cast(), old.0, new.owner.0) } != old.0 {
            return None;
        }
        // SAFETY: a map's value, which this CPU has just taken.
        unsafe { self.0.write(new) };
        Some(())
    }
}

/// When things of a flow began.
#[derive(Clone, Copy)]
pub(crate) struct TimesCell(*mut FlowTimes);

impl TimesCell {
    /// Of a value that a map's lookup gave.
    #[inline(always)]
    pub(crate) fn new(times: *mut FlowTimes) -> Self {
        Self(times)
    }

    #[inline(always)]
    pub(crate) fn read(self) -> FlowTimes {
        // SAFETY: an aligned word of a map's value; volatile, since other CPUs write its parts.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn set(self, times: FlowTimes) {
        // SAFETY: an aligned word of a map's value.
        unsafe { self.0.write_volatile(times) };
    }

    #[inline(always)]
    pub(crate) fn set_turn(self, turn: u32) {
        // SAFETY: a field of a map's value, aligned.
        unsafe { (&raw mut (*self.0).turn).write_volatile(turn) };
    }
}

/// What a watched flow's server is to send next.
#[derive(Clone, Copy)]
pub(crate) struct ExpectedCell(*mut Expected);

impl ExpectedCell {
    /// Of a value that a map's lookup gave.
    #[inline(always)]
    pub(crate) fn new(expected: *mut Expected) -> Self {
        Self(expected)
    }

    #[inline(always)]
    pub(crate) fn read(self) -> Expected {
        // SAFETY: an aligned word of a map's value; volatile, since other CPUs write it.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn set(self, expected: Expected) {
        // SAFETY: an aligned word of a map's value.
        unsafe { self.0.write_volatile(expected) };
    }
}

/// The fuse of a service.
#[derive(Clone, Copy)]
pub(crate) struct FuseWord(*mut FuseCell);

impl FuseWord {
    /// Of a value that a map's lookup gave.
    #[inline(always)]
    pub(crate) fn new(fuse: *mut FuseCell) -> Self {
        Self(fuse)
    }

    #[inline(always)]
    pub(crate) fn is_blown(self) -> bool {
        // SAFETY: an aligned word of a map's value; volatile, since other CPUs write it.
        unsafe { (&raw const (*self.0).blown_ns).read_volatile() != 0 }
    }

    /// Blows it; `false` where it had blown already.
    #[inline(always)]
    pub(crate) fn blow(self, now_ns: u64, tally: FuseTally) -> bool {
        // SAFETY: an aligned word of a map's value.
        let was = unsafe { helpers::compare_exchange((&raw mut (*self.0).blown_ns).cast(), 0, now_ns) };
        if was == 0 {
            // SAFETY: a field of a map's value; only who blew the fuse writes it.
            unsafe { (&raw mut (*self.0).tally).write_volatile(tally) };
        }
        was == 0
    }
}

/// What is traced.
#[derive(Clone, Copy)]
pub(crate) struct TracingCell(*mut u64);

impl TracingCell {
    /// Of a value that a map's lookup gave.
    #[inline(always)]
    pub(crate) fn new(control: *mut Control) -> Self {
        // SAFETY: a field of a map's value; the address only.
        Self(unsafe { &raw mut (*control).trace }.cast())
    }

    #[inline(always)]
    pub(crate) fn read(self) -> Tracing {
        // SAFETY: an aligned word of a map's value; volatile, since the agent stores to it at any moment.
        Tracing::from_word(unsafe { self.0.read_volatile() })
    }

    /// Ends it, unless the agent has said something else meanwhile.
    #[inline(always)]
    pub(crate) fn end(self, found: Tracing) {
        // SAFETY: an aligned word of a map's value.
        unsafe { helpers::compare_exchange(self.0, found.to_word(), Tracing::OFF.to_word()) };
    }
}
