//! The flow table as the agent sees it: what flows there are, who is idle for too long, whom to sever.
//!
//! The table is mapped into memory, and the packet program works on it at the same time. Entries are only ever freed by
//! compare-and-swap, so a flow that takes an entry over meanwhile keeps it. A flow that comes back to life between the look
//! at its age and the swap loses its entry, and goes by hash.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::MapData;
use grayxdp_common::{
    ids::{BackendId, Version},
    layout::{
        FLOW_SEVER, FLOW_TICK_SHIFT, FLOW_UDP, FlowBucket, FlowEntry, FlowOwner, FlowSeen, FlowState, IdleTicks,
        SEEN_FAULT, Signal, flow_tick, long_flow_tick,
    },
    limits::{BACKENDS_MAX, FLOW_ENTRIES_PER_BUCKET},
};

use super::{KernelError, mapped::Mapped};

/// Of the least table: below, one busy bucket would turn flows away.
const BUCKETS_MIN: u32 = 128;
/// Half the entries stay free at the flows that the table is sized for. Then one flow in about 120 finds its bucket full
/// and looks for a place in the second one, and one in about 1,200 finds none there either (measured: 892 of 1,048,576): it
/// goes by hash, both ways, and is counted.
const FLOWS_PER_BUCKET: u32 = 4;

/// So many ticks, three to four seconds, a client that has closed its own side only may still be answered.
const PATIENCE_TICKS: u16 = 3;

/// Byte of an entry that says of what kind the flow is.
const KIND_BYTE: usize = std::mem::offset_of!(FlowEntry, seen) + std::mem::offset_of!(FlowSeen, kind);
/// Byte of an entry that says what the backend sent.
const BACKEND_BYTE: usize = std::mem::offset_of!(FlowEntry, seen) + std::mem::offset_of!(FlowSeen, backend);

/// Buckets of a table for so many flows; 32 bytes a flow. Even, so that each has a second one.
pub(super) fn buckets_for(max_flows: u32) -> u32 {
    max_flows.div_ceil(FLOWS_PER_BUCKET).max(BUCKETS_MIN).next_multiple_of(2)
}

/// The most flows that a table of so many buckets is made for; what to write as `max_flows` to get it.
pub(super) const fn flows_of(buckets: u32) -> u32 {
    buckets.saturating_mul(FLOWS_PER_BUCKET)
}

/// Entries of a table of so many buckets.
pub(super) fn entries_of(buckets: u32) -> u32 {
    buckets.saturating_mul(u32::try_from(FLOW_ENTRIES_PER_BUCKET).unwrap_or(1))
}

/// The present flow tick, by the clock that the packet program reads.
pub(super) fn now_tick() -> u16 {
    flow_tick(now_ns())
}

/// The flow tick, not wrapping, that will have passed when this time has.
pub(super) fn tick_after(time: Duration) -> u32 {
    let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    long_flow_tick(now_ns().saturating_add(time_ns))
}

/// The clock that the packet program reads, in nanoseconds.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec. The call fails only for a clock that it does not know.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// A flow, as far as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Index into the setup's services; `None` where that has left.
    pub service: Option<usize>,
    /// Whether the client came by the canary port.
    pub by_canary_port: bool,
    /// Of its backend.
    pub version: Version,
    /// Its backend.
    pub backend: SocketAddr,
    /// Where it is in its life.
    pub state: FlowState,
    /// Since a packet was last seen; in steps of about a second.
    pub idle: Duration,
    /// Whether it is to be severed.
    pub severed: bool,
    /// `full-nat`: its source.
    pub source: Option<SocketAddr>,
    /// Its client; `None` for an IPv6 client outside `full-nat`, and now and then in a small table.
    pub client: Option<SocketAddr>,
}

/// An entry that is in use, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) bucket: u32,
    /// Place in the bucket.
    pub(super) slot: u32,
    pub(super) entry: FlowEntry,
    pub(super) backend: BackendId,
}

/// How many flows there were, and what a sweep did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    active: Vec<[u32; FlowState::ALL.len()]>,
    /// Entries of flows that were idle for too long; freed.
    pub expired: u64,
    /// Entries that are left.
    pub live: u64,
}

impl Default for Census {
    fn default() -> Self {
        Self { active: vec![[0; FlowState::ALL.len()]; BACKENDS_MAX as usize], expired: 0, live: 0 }
    }
}

impl Census {
    fn count(&mut self, backend: BackendId, state: FlowState) {
        if let Some(count) =
            self.active.get_mut(usize::from(backend.raw())).and_then(|states| states.get_mut(state as usize))
        {
            *count += 1;
            self.live += 1;
        }
    }

    /// Flows of a backend in a state.
    pub fn active(&self, backend: BackendId, state: FlowState) -> u32 {
        self.active.get(usize::from(backend.raw())).and_then(|states| states.get(state as usize)).copied().unwrap_or(0)
    }

    /// Flows of a backend, whatever their state.
    pub fn of(&self, backend: BackendId) -> u32 {
        FlowState::ALL.into_iter().map(|state| self.active(backend, state)).sum()
    }
}

/// What a sweep asks about flows, and whom it tells what it finds. Entries are named by their index.
pub(super) trait Watch {
    /// How long a backend's flows may be idle.
    fn limits(&self, backend: BackendId) -> IdleTicks;
    /// Whether a flow that is half open should have been answered by now.
    fn is_handshake_overdue(&self, entry: u32) -> bool;
    /// Whether a backend's clients are owed an answer, by what they speak with it.
    fn is_answer_owed(&self, backend: BackendId) -> bool;
    /// Is told of an error.
    fn tell(&self, entry: u32, backend: BackendId, error: Signal);
    /// Is told of a turn that waits for its answer, and whether that could still come. Whether it is overdue, or was found to
    /// be so before, is for the watch to know.
    fn tell_waiting(&self, entry: u32, backend: BackendId, is_over: bool);
}

/// The flow table, mapped.
pub(super) struct FlowTable {
    buckets: Mapped<FlowBucket>,
}

impl FlowTable {
    pub(super) fn new(map: &MapData) -> Result<Self, KernelError> {
        Mapped::new("FLOWS", map).map(|buckets| Self { buckets })
    }

    pub(super) const fn buckets(&self) -> u32 {
        self.buckets.len()
    }

    /// All words, bucket after bucket.
    #[cfg(feature = "bench")]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.buckets.words()
    }

    /// One bucket, each of its words for itself; `None` behind the end.
    pub(super) fn bucket(&self, index: u32) -> Option<FlowBucket> {
        self.buckets.load(index)
    }

    /// First and second word of every entry, in order.
    fn entries(&self) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
        self.entries_from(0)
    }

    fn entries_from(&self, first: usize) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
        self.buckets.words().get(first * 2..).unwrap_or_default().chunks_exact(2).filter_map(|words| match words {
            [owner, seen] => Some((owner, seen)),
            _ => None,
        })
    }

    /// Every flow, while the table goes on changing.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.records_in(0..self.buckets.len())
    }

    /// Those of some buckets.
    pub(super) fn records_in(&self, buckets: std::ops::Range<u32>) -> impl Iterator<Item = Record> {
        let first = buckets.start.min(self.buckets.len()) as usize * FLOW_ENTRIES_PER_BUCKET;
        let located = buckets.flat_map(|bucket| {
            (0..u32::try_from(FLOW_ENTRIES_PER_BUCKET).unwrap_or(0)).map(move |slot| (bucket, slot))
        });
        located.zip(self.entries_from(first)).filter_map(|((bucket, slot), (owner, seen))| {
            let owner = FlowOwner(owner.load(Ordering::Acquire));
            let backend = owner.backend()?;
            let entry = FlowEntry { owner, seen: FlowSeen::from_word(seen.load(Ordering::Acquire)) };
            Some(Record { bucket, slot, entry, backend })
        })
    }

    /// Frees what has been idle for longer than its backend's limits, and counts the rest. Tells the watch of flows that
    /// nobody answered in time, once each: those that are half open and late; those whose client went without the answer
    /// that it was owed; and those that go. And of turns that wait for their answers.
    pub(super) fn sweep(&self, now_tick: u16, watch: &impl Watch) -> Census {
        let mut census = Census::default();
        let mut entries = (0..).zip(self.entries());
        for first in (0..self.buckets.len() as usize).step_by(2) {
            // First, so that what is freed now stays so until the next sweep.
            self.forget_freed(first);
            self.forget_freed(first + 1);
            for (index, words) in entries.by_ref().take(2 * FLOW_ENTRIES_PER_BUCKET) {
                self.look_at(index, words, now_tick, watch, &mut census);
            }
        }
        census
    }

    /// Sweeps one entry.
    fn look_at(
        &self,
        index: u32,
        (owner, seen): (&AtomicU64, &AtomicU64),
        now_tick: u16,
        watch: &impl Watch,
        census: &mut Census,
    ) {
        let found = owner.load(Ordering::Acquire);
        let Some(backend) = FlowOwner(found).backend() else { return };
        let seen = FlowSeen::from_word(seen.load(Ordering::Acquire));
        let is_left = || seen.is_closed_unanswered(now_tick, PATIENCE_TICKS) && watch.is_answer_owed(backend);
        if !seen.is_expired(now_tick, &watch.limits(backend)) {
            census.count(backend, seen.state());
            let fault = if seen.is_unanswered() && watch.is_handshake_overdue(index) {
                Some(Signal::Unanswered)
            } else {
                is_left().then_some(Signal::ClosedUnanswered)
            };
            if let Some(signal) = fault
                && self.mark_fault(index, seen.backend)
            {
                watch.tell(index, backend, signal);
            }
        } else if free(owner, found) {
            census.expired += 1;
            if let Some(signal) = if is_left() { Some(Signal::ClosedUnanswered) } else { loss(&seen) } {
                watch.tell(index, backend, signal);
            }
        } else {
            // Another flow has just begun there; the next sweep sees it.
            census.live += 1;
            return;
        }
        // Of datagrams nobody knows which need an answer, unless that is looked into.
        if seen.is_waiting() && (seen.kind & FLOW_UDP == 0 || watch.is_answer_owed(backend)) {
            watch.tell_waiting(index, backend, seen.state() == FlowState::Closing);
        }
    }

    /// Notes that a flow has been counted as an error for what its backend has not sent; `false` where it has sent something
    /// since `found` was.
    fn mark_fault(&self, index: u32, found: u8) -> bool {
        let byte = self.buckets.byte(index as usize * size_of::<FlowEntry>() + BACKEND_BYTE);
        let marked = found | SEEN_FAULT;
        byte.is_some_and(|byte| byte.compare_exchange(found, marked, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Turns a bucket's entries that are free into empty ones where the second bucket holds no flow of theirs, so that packets
    /// need not look there.
    ///
    /// A flow goes to the second bucket only where the first has no free entry, and what is free here has been so since the
    /// last sweep. Should one have come there all the same between the look and the store, the entry is made a freed one
    /// again; later than that, its packets go by hash.
    fn forget_freed(&self, bucket: usize) {
        let words = self.buckets.words();
        let of = |bucket: usize| {
            let first = bucket * FLOW_ENTRIES_PER_BUCKET * 2;
            words.get(first..first + FLOW_ENTRIES_PER_BUCKET * 2).unwrap_or_default().iter().step_by(2)
        };
        let has_strangers =
            |bucket| of(bucket).any(|owner| is_taken_by_neighbour(FlowOwner(owner.load(Ordering::Acquire))));
        let swap = |owner: &AtomicU64, from: FlowOwner, to: FlowOwner| {
            owner.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let freed = |owner: &&AtomicU64| owner.load(Ordering::Acquire) == FlowOwner::FREED.0;
        if !of(bucket).any(|owner| freed(&owner)) || has_strangers(bucket ^ 1) {
            return;
        }
        for owner in of(bucket).filter(freed) {
            if swap(owner, FlowOwner::FREED, FlowOwner::EMPTY) && has_strangers(bucket ^ 1) {
                swap(owner, FlowOwner::EMPTY, FlowOwner::FREED);
            }
        }
    }

    /// Marks the TCP flows of these backends to be severed, and forgets their UDP conversations. Returns how many.
    ///
    /// An entry that is given to another flow while it is marked may leave that flow marked: one connection too many, in a
    /// gap of nanoseconds.
    pub(super) fn sever(&self, picks: impl Fn(BackendId) -> bool) -> u64 {
        let mut severed = 0;
        for (nth, (owner, seen)) in self.entries().enumerate() {
            let found = owner.load(Ordering::Acquire);
            if !FlowOwner(found).backend().is_some_and(&picks) {
                continue;
            }
            let kind = FlowSeen::from_word(seen.load(Ordering::Acquire)).kind;
            if kind & FLOW_UDP != 0 {
                severed += u64::from(free(owner, found));
            } else if let Some(byte) = self.buckets.byte(nth * size_of::<FlowEntry>() + KIND_BYTE) {
                byte.store(kind | FLOW_SEVER, Ordering::Release);
                if owner.load(Ordering::Acquire) == found {
                    severed += 1;
                } else {
                    byte.store(kind, Ordering::Release);
                }
            }
        }
        severed
    }

    /// Forgets the flows that are picked. Returns how many.
    pub(super) fn forget(&self, picks: impl Fn(&Record) -> bool) -> u64 {
        let words = self.buckets.words();
        let forget = |record: &Record| {
            let entry = record.bucket as usize * FLOW_ENTRIES_PER_BUCKET + record.slot as usize;
            words.get(entry * 2).is_some_and(|owner| free(owner, record.entry.owner.0))
        };
        self.records().filter(|record| picks(record) && forget(record)).fold(0, |sum, _| sum + 1)
    }
}

/// The error that a flow is which ends by its time-out.
fn loss(seen: &FlowSeen) -> Option<Signal> {
    if seen.is_unanswered() {
        Some(Signal::Unanswered)
    } else if seen.dies_owing() {
        Some(Signal::IdleDeaths)
    } else {
        None
    }
}

/// Whether the entry is of a flow whose first bucket is the other one.
fn is_taken_by_neighbour(owner: FlowOwner) -> bool {
    owner.is_in_second() && owner.backend().is_some()
}

/// Frees an entry, if it is still this flow's.
fn free(owner: &AtomicU64, found: u64) -> bool {
    owner.compare_exchange(found, FlowOwner::FREED.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Flow ticks as time.
pub(super) const fn duration_of(ticks: u16) -> Duration {
    Duration::from_nanos((ticks as u64) << FLOW_TICK_SHIFT)
}

#[cfg(test)]
mod tests;
