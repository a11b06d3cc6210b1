//! The flow table: which backend did a flow begin on, and what was seen of it? The only writer of the flow map but for
//! the agent's sweeper.
//!
//! Races, and the worst that each can do:
//! - Two CPUs see the first packet of one flow at once: both may insert it; each looks again afterwards, and the later
//!   entry is taken back. Between the two, packets find the earlier one, for entries are looked through in order. Where
//!   one found no place in the first bucket and the other did, the second bucket's entry is left behind until it expires.
//! - A packet of a flow whose entry is being given to another flow stores a tick or a flag into the new flow's entry: it
//!   seems seen a moment later than it was, or closed; then it may lose its entry early, and goes by hash.
//! - The sweeper frees an entry whose flow comes back to life: that packet, or the next, is a miss, and goes by hash.
//! - The sweeper makes a freed entry an empty one while a flow of its bucket goes to the second one: the flow's packets
//!   find no entry, and go by hash. The agent looks again after the store; see `grayxdp/src/kernel/flows.rs`.
//! - Two CPUs store flags of the same side at once (a FIN and data that overtook it): one flag may be lost. The flow then
//!   lives on until its time-out.

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId},
    layout::{
        Address, Control, FLOW_ONE_SIDED, FLOW_UDP, FlowHash, FlowOwner, FlowSeen, FlowState, SEEN_FIN, SEEN_PACKET,
        SEEN_RST, SEEN_SEGMENT, SEEN_TURN, SERVICE_SIGNALS, ServiceEntry,
    },
    limits::FLOW_ENTRIES_PER_BUCKET,
};

use crate::{
    cells::{BucketCell, FlowCell},
    clock, helpers, maps,
    parse::{Parsed, Step, TCP_FIN, TCP_RST},
    stages,
};

#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub(crate) const ENTRIES: u32 = FLOW_ENTRIES_PER_BUCKET as u32;

/// Whose packet it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    #[inline(always)]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// Where a flow's entry is, or would be.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) control: &'static Control,
    bucket: BucketCell,
    bucket_index: u32,
    /// The flow in this bucket, on no backend.
    flow: FlowOwner,
    /// In flow ticks that do not wrap.
    pub(crate) now: u32,
}

/// A flow's entry, as it was a moment ago.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) cell: FlowCell,
    pub(crate) owner: FlowOwner,
    pub(crate) seen: FlowSeen,
    /// Bucket times entries per bucket, plus the place there.
    pub(crate) index: u32,
}

impl Place {
    /// Of a client's flow at a service. `None` only where the agent has made no table.
    #[inline(always)]
    pub(crate) fn of(
        control: &'static Control,
        service: ServiceId,
        client: Address,
        client_port: Be16,
    ) -> Option<Self> {
        Self::at(control, service, (client, client_port), clock::now())
    }

    /// The same, at a moment that is known already.
    #[inline(always)]
    pub(crate) fn at(
        control: &'static Control,
        service: ServiceId,
        (client, client_port): (Address, Be16),
        now: u32,
    ) -> Option<Self> {
        let hash = FlowHash::new(control.flow_key, client, client_port, service);
        let bucket_index = hash.bucket(control.flow_buckets);
        let bucket = maps::flow_bucket(bucket_index)?;
        Some(Self { control, bucket, bucket_index, flow: FlowOwner::of(hash), now })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "entries hold ticks that wrap")]
    fn now_tick(&self) -> u16 {
        self.now as u16
    }

    /// Where the flow's entry is, or would be, if it finds no place here. `None` where a look here is enough: an empty
    /// entry says that none of this bucket's flows was turned away.
    #[inline(always)]
    pub(crate) fn second(&self) -> Option<Self> {
        let mut at = 0;
        while at < FLOW_ENTRIES_PER_BUCKET {
            if self.owner(at) == FlowOwner::EMPTY {
                return None;
            }
            at += 1;
        }
        let bucket_index = FlowHash::second_bucket(self.bucket_index);
        let bucket = maps::flow_bucket(bucket_index)?;
        Some(Self { bucket, bucket_index, flow: self.flow.in_second(), ..*self })
    }

    /// The flow's entry, in this bucket or in the second one.
    ///
    /// VERIFIER: a function of its own looks for it, so that its loops are not looked through for every caller.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "an entry's index")]
    pub(crate) fn find(&self) -> Option<Found> {
        let index = stages::grayxdp_find(self.flow.0, self.bucket_index);
        if index == NO_ENTRY {
            return None;
        }
        let (_, found) = entry_at(self.control, index as u32)?;
        let is_its = found.owner.names(self.flow) || found.owner.names(self.flow.in_second());
        (is_its && found.backend().is_some()).then_some(found)
    }

    /// The flow's entry in this bucket.
    #[inline(always)]
    pub(crate) fn find_here(&self) -> Option<Found> {
        let mut found_at = 0;
        let mut owner = FlowOwner::EMPTY;
        let mut at = 0;
        while at < FLOW_ENTRIES_PER_BUCKET {
            let candidate = self.owner(at);
            if candidate.names(self.flow) && candidate.backend().is_some() {
                found_at = at;
                owner = candidate;
                break;
            }
            at += 1;
        }
        // VERIFIER: all parts have values on both paths. Where they had none, the compiler would store what it never set.
        let entry = self.entry(self.opaque_place(found_at));
        let found = Found { owner, seen: entry.cell.seen(), ..entry };
        if owner == FlowOwner::EMPTY { None } else { Some(found) }
    }

    /// Whether the flow has been idle for longer than its state allows.
    #[inline(always)]
    pub(crate) fn is_expired(&self, found: &Found, udp_idle_ticks: u16) -> bool {
        let mut limits = self.control.idle_ticks;
        limits.udp = udp_idle_ticks;
        found.seen.is_expired(self.now_tick(), &limits)
    }

    /// Notes a packet of the flow.
    #[inline(always)]
    pub(crate) fn note(&self, found: &Found, side: Side, packet: &Parsed) {
        self.note_seen(found, side, packet.step, packet.tcp_flags);
    }

    /// Notes a packet of the flow, of which this much is known.
    #[inline(always)]
    pub(crate) fn note_seen(&self, found: &Found, side: Side, step: Step, tcp_flags: u8) {
        let bits = flags_seen(step, tcp_flags);
        let before = match side {
            Side::Client => found.seen.client,
            Side::Backend => found.seen.backend,
        };
        self.touch(found);
        if before | bits != before {
            store_flags(found.cell, side, before | bits);
        }
    }

    /// Marks what was done to one side of the flow.
    #[inline(always)]
    pub(crate) fn mark(&self, found: &Found, side: Side, bits: u8) {
        let before = match side {
            Side::Client => found.seen.client,
            Side::Backend => found.seen.backend,
        };
        self.touch(found);
        store_flags(found.cell, side, before | bits);
    }

    /// A line that two CPUs share is written at most once a tick: with every packet it would cost more than all else.
    #[inline(always)]
    fn touch(&self, found: &Found) {
        if found.seen.last_tick != self.now_tick() {
            found.cell.set_last_tick(self.now_tick());
        }
    }

    /// Gives the flow's present entry to the same flow on another backend. `None` where another CPU was faster.
    #[inline(always)]
    pub(crate) fn move_to(&self, found: &Found, backend: BackendId, seen: FlowSeen) -> Option<Found> {
        self.take(*found, found.owner.on(backend), seen)
    }

    /// Makes an entry, in this bucket or in the second one. Returns its index, or [`NO_ENTRY`] where both are full of flows
    /// that must not be evicted, or another CPU was faster.
    #[inline(always)]
    pub(crate) fn begin(&self, backend: BackendId, seen: FlowSeen) -> u64 {
        let index = stages::grayxdp_insert(self.flow.on(backend).0, self.bucket_index, seen.to_word());
        if index != NO_ENTRY {
            return index;
        }
        let Some(second) = self.second() else { return NO_ENTRY };
        stages::grayxdp_insert(second.flow.on(backend).0, second.bucket_index, seen.to_word())
    }

    /// Makes an entry in this bucket.
    ///
    /// An empty entry is taken first, then an expired or closing one, then the half-open one idle for the longest; an
    /// established flow never loses its entry before its time-out. Says whose the entry was.
    #[inline(always)]
    fn begin_here(&self, owner: FlowOwner, seen: FlowSeen) -> Option<Found> {
        // 0: nothing yet; half-open entries score by their age; expired and closing ones more; empty ones the most.
        let mut best_score = 0;
        let mut best_at = 0;
        let mut best_owner = FlowOwner::EMPTY;
        let mut at = 0;
        while at < FLOW_ENTRIES_PER_BUCKET {
            let owner = self.owner(at);
            if owner.backend().is_none() {
                best_owner = owner;
                best_score = EMPTY_SCORE;
                best_at = self.opaque_place(at);
                break;
            }
            at += 1;
        }
        // Most buckets have an empty entry.
        at = if best_score == 0 { 0 } else { FLOW_ENTRIES_PER_BUCKET };
        while at < FLOW_ENTRIES_PER_BUCKET {
            let owner = self.owner(at);
            let score = if owner.backend().is_none() { EMPTY_SCORE } else { self.score(at) };
            if score > best_score {
                best_owner = owner;
                best_score = score;
                best_at = self.opaque_place(at);
            }
            at += 1;
        }
        if best_score == 0 {
            return None;
        }
        let former = self.entry(best_at).cell.seen();
        let best = Found { owner: best_owner, ..self.entry(best_at) };
        let made = self.take(best, owner, seen)?;
        if let Some(backend) = best_owner.backend() {
            stages::grayxdp_lost(made.index, former.to_word(), backend.raw().into());
        }
        Some(self.first_of_both(made))
    }

    /// The same where an entry is empty, as most often one is; `None` elsewhere.
    #[inline(always)]
    pub(crate) fn begin_in_empty(&self, backend: BackendId, seen: FlowSeen) -> Option<Found> {
        let mut at = 0;
        while at < FLOW_ENTRIES_PER_BUCKET && self.owner(at) != FlowOwner::EMPTY {
            at += 1;
        }
        if at == FLOW_ENTRIES_PER_BUCKET {
            return None;
        }
        let made = self.take(self.entry(self.opaque_place(at)), self.flow.on(backend), seen)?;
        Some(self.first_of_both(made))
    }

    /// The same flow, inserted by another CPU meanwhile in a place before this one, is the one that packets find.
    #[inline(always)]
    fn first_of_both(&self, made: Found) -> Found {
        match self.find_here() {
            Some(first) if first.index < made.index => {
                made.cell.exchange_owner(made.owner, FlowOwner::FREED);
                first
            }
            _ => made,
        }
    }

    /// Has the times of the bucket's flows come into the cache: a new flow's are about to be written.
    #[inline(always)]
    pub(crate) fn fetch_times(&self) {
        if let Some(times) = maps::flow_times(self.bucket_index * ENTRIES) {
            times.read();
        }
    }

    /// Whether a new flow would find a place, in this bucket or in the second one.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        let is_free = |place: &Self| stages::grayxdp_has_room(place.bucket_index) != 0;
        is_free(self) || self.second().is_some_and(|second| is_free(&second))
    }

    #[inline(always)]
    fn has_room_here(&self) -> bool {
        let mut at = 0;
        while at < FLOW_ENTRIES_PER_BUCKET {
            if self.owner(at).backend().is_none() || self.score(at) != 0 {
                return true;
            }
            at += 1;
        }
        false
    }

    /// Frees an entry that was made in vain.
    #[inline(always)]
    pub(crate) fn undo(&self, made: &Found) {
        made.cell.exchange_owner(made.owner, FlowOwner::FREED);
    }

    /// How readily the entry at a place of the bucket is given up; zero: not at all.
    ///
    /// VERIFIER: a function of its own. Kernels up to 6.1 would look at all that follows once for each of the states that
    /// each of the entries may be in.
    #[inline(always)]
    fn score(&self, at: usize) -> u64 {
        stages::grayxdp_score(self.entry(at).cell.seen().to_word(), self.now)
    }

    #[inline(always)]
    fn take(&self, found: Found, owner: FlowOwner, seen: FlowSeen) -> Option<Found> {
        if !found.cell.exchange_owner(found.owner, owner) {
            return None;
        }
        let seen = FlowSeen { last_tick: self.now_tick(), ..seen };
        found.cell.set_seen(seen);
        Some(Found { owner, seen, ..found })
    }

    /// The entry at a place of the bucket; neither its owner nor what was seen of it.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a place in a bucket")]
    fn entry(&self, at: usize) -> Found {
        let at = at & (FLOW_ENTRIES_PER_BUCKET - 1);
        let index = self.bucket_index * ENTRIES + at as u32;
        Found { cell: self.bucket.entry(at), owner: FlowOwner::EMPTY, seen: FlowSeen::default(), index }
    }

    /// Whose entry is at a place of the bucket.
    #[inline(always)]
    fn owner(&self, at: usize) -> FlowOwner {
        self.bucket.entry(at).owner()
    }

    /// The same place, of which the verifier does not know which one it is; see [`helpers::opaque`].
    #[inline(always)]
    fn opaque_place(&self, at: usize) -> usize {
        helpers::opaque(at, self.flow.0) & (FLOW_ENTRIES_PER_BUCKET - 1)
    }
}

/// How readily an empty entry is taken.
const EMPTY_SCORE: u64 = u64::MAX;

/// How readily an entry is given up; zero: not at all. `now` in flow ticks.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "entries hold ticks that wrap")]
pub(crate) fn score(seen: FlowSeen, now: u32, control: &Control) -> u64 {
    const GIVEN_UP: u64 = 1 << 20;
    let now_tick = now as u16;
    let state = seen.state();
    if state == FlowState::Closing || seen.is_expired(now_tick, &control.idle_ticks) {
        GIVEN_UP
    } else if state == FlowState::HalfOpen {
        u64::from(seen.idle_ticks(now_tick)) + 1
    } else {
        0
    }
}

/// In place of an entry's index: there is none.
pub(crate) const NO_ENTRY: u64 = u64::MAX;

/// The index of the entry of a flow whose first bucket this is, or [`NO_ENTRY`].
#[inline(always)]
pub(crate) fn locate(control: &'static Control, flow: FlowOwner, bucket_index: u32) -> u64 {
    let Some(bucket) = maps::flow_bucket(bucket_index) else { return NO_ENTRY };
    let place = Place { control, bucket, bucket_index, flow, now: 0 };
    if let Some(found) = place.find_here() {
        return found.index.into();
    }
    let Some(second) = place.second() else { return NO_ENTRY };
    second.find_here().map_or(NO_ENTRY, |found| found.index.into())
}

/// Makes an entry for this owner in this bucket. Returns its index, or [`NO_ENTRY`].
#[inline(always)]
pub(crate) fn insert(control: &'static Control, owner: FlowOwner, bucket_index: u32, seen: FlowSeen) -> u64 {
    let Some(bucket) = maps::flow_bucket(bucket_index) else { return NO_ENTRY };
    let place = Place { control, bucket, bucket_index, flow: owner, now: clock::now() };
    place.begin_here(owner, seen).map_or(NO_ENTRY, |made| made.index.into())
}

/// Whether a new flow would find a place in this bucket.
#[inline(always)]
pub(crate) fn has_room(control: &'static Control, bucket_index: u32) -> bool {
    let Some(bucket) = maps::flow_bucket(bucket_index) else { return false };
    Place { control, bucket, bucket_index, flow: FlowOwner::EMPTY, now: clock::now() }.has_room_here()
}

/// The entry of this index, and whose it is.
#[inline(always)]
pub(crate) fn entry_at(control: &'static Control, index: u32) -> Option<(Place, Found)> {
    let bucket_index = index / ENTRIES;
    let bucket = maps::flow_bucket(bucket_index)?;
    let place = Place { control, bucket, bucket_index, flow: FlowOwner::EMPTY, now: clock::now() };
    let at = (index % ENTRIES) as usize;
    let owner = place.owner(at);
    let found = place.entry(at);
    Some((place, Found { owner, seen: found.cell.seen(), ..found }))
}

/// The entry of this index, if it is still this flow's.
#[inline(always)]
pub(crate) fn entry_of(control: &'static Control, index: u32, owner: FlowOwner) -> Option<(Place, Found)> {
    let (place, found) = entry_at(control, index)?;
    if found.owner == owner && owner != FlowOwner::EMPTY { Some((place, found)) } else { None }
}

impl Found {
    /// The backend; the caller has seen that there is one.
    #[inline(always)]
    pub(crate) fn backend(&self) -> Option<BackendId> {
        self.owner.backend()
    }

    /// Notes the source address and port of a `full-nat` flow.
    #[inline(always)]
    pub(crate) fn set_source(&self, source: u8, port: Be16) {
        // Until the port is there, packets of the flow have no way.
        self.cell.set_source(source, port);
    }
}

/// What is seen of a flow that this packet begins, or would have begun.
#[inline(always)]
pub(crate) fn first_seen(step: Step, tcp_flags: u8, service: &ServiceEntry) -> FlowSeen {
    let one_sided = if service.sees_replies() { 0 } else { FLOW_ONE_SIDED };
    let udp = if step == Step::Datagram { FLOW_UDP } else { 0 };
    // A conversation's first datagram asks for an answer.
    let is_asking = udp != 0 && one_sided == 0 && service.flags & SERVICE_SIGNALS != 0;
    let client = flags_seen(step, tcp_flags) | if is_asking { SEEN_TURN } else { 0 };
    FlowSeen { client, kind: one_sided | udp, ..FlowSeen::default() }
}

#[inline(always)]
fn flags_seen(step: Step, tcp_flags: u8) -> u8 {
    if step == Step::Datagram {
        return SEEN_PACKET;
    }
    let mut bits = SEEN_PACKET;
    if step != Step::Syn {
        bits |= SEEN_SEGMENT;
    }
    if tcp_flags & TCP_FIN != 0 {
        bits |= SEEN_FIN;
    }
    if tcp_flags & TCP_RST != 0 {
        bits |= SEEN_RST;
    }
    bits
}

#[inline(always)]
fn store_flags(cell: FlowCell, side: Side, flags: u8) {
    match side {
        Side::Client => cell.set_client(flags),
        Side::Backend => cell.set_backend(flags),
    }
}
