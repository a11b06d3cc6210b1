//! What becomes of connections, counted when it happens: begun, established, refused, reset, closed, a turn begun or
//! answered. Packets between these touch nothing of this. May not alter the verdict.
//!
//! A turn begins with the client's payload while nothing is owed, and ends with the server's next payload. One bit in each
//! side's own flags says so: the client turns its bit over, the server's answer makes its own the same. So no packet needs
//! more than the flow's entry to know that it changes nothing.
//!
//! Races, and the worst that each can do: two packets of one side on two CPUs change their flags at once, and a turn is
//! counted twice or not at all; a flow's entry is given away between its packet's look and its count, and the count or the
//! time is another flow's.

use grayxdp_common::{
    hash::client_group,
    ids::{BackendId, ServiceId, Version},
    layout::{
        Address, Control, FLOW_ONE_SIDED, FLOW_SEVER, FLOW_UDP, FlowOwner, FlowSeen, FlowState, FlowTimes, SEEN_FAULT,
        SEEN_FIN, SEEN_LATER, SEEN_PACKET, SEEN_REPEATED, SEEN_RST, SEEN_SEGMENT, SEEN_TURN, SEEN_ZERO_WINDOW,
        SERVICE_SIGNALS, ServiceEntry, Signal, Timing, begin_time, begin_us, long_flow_tick, turn_time,
    },
};

use crate::{
    choose::Placed,
    clock,
    count::{self, OfGroup, Signals},
    flow::{self, Found},
    fuse, helpers, maps,
    parse::{Parsed, Step, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
    stages,
};

/// Where what is seen of a flow is counted.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    control: &'static Control,
    pub(crate) signals: Signals,
    id: ServiceId,
    pub(crate) service: &'static ServiceEntry,
    version: Version,
    /// Of the flow's entry.
    pub(crate) index: u32,
}

impl Subject {
    /// `None` where the backend's service is not watched.
    #[inline(always)]
    pub(crate) fn of(control: &'static Control, backend: BackendId, index: u32) -> Option<Self> {
        let entry = maps::backend(backend)?;
        let id = ServiceId(u32::from(entry.service));
        let service = maps::service(id)?;
        if service.flags & SERVICE_SIGNALS == 0 {
            return None;
        }
        let version = if entry.version == Version::V2 as u8 { Version::V2 } else { Version::V1 };
        Some(Self { control, signals: Signals::of(control, backend)?, id, service, version, index })
    }

    /// Counts an error of the flow, and of the client's group.
    #[inline(always)]
    pub(crate) fn error(&self, signal: Signal) {
        self.signals.count(signal);
        self.group_error();
    }

    /// Counts a failure for the fuse; returns whether it is to be judged.
    #[inline(always)]
    pub(crate) fn failure(&self) -> bool {
        fuse::failed(self.control, self.id, self.service, self.version, clock::now())
    }

    #[inline(always)]
    pub(crate) fn group_error(&self) {
        if let Some(times) = maps::flow_times(self.index) {
            count::group(self.control, self.id, self.version, times.read().group(), OfGroup::Error);
        }
    }

    /// Takes the time of a flow that ends.
    #[inline(always)]
    pub(crate) fn ended(&self) {
        let Some(times) = maps::flow_times(self.index) else { return };
        let begun = times.read().begun();
        if begun != 0 {
            self.signals.time(Timing::Duration, begin_us(begun, begin_time(helpers::clock_ns())));
        }
    }
}

/// What the same client had an entry for before: its backend, and what was seen of it.
#[derive(Clone, Copy)]
pub(crate) struct Former {
    pub(crate) owner: FlowOwner,
    pub(crate) seen: FlowSeen,
}

impl Former {
    /// Nobody.
    pub(crate) const NONE: Self = Self { owner: FlowOwner::EMPTY, seen: FlowSeen::from_word(0) };
}

/// Whether a SYN is the one of before, sent again for want of an answer.
#[inline(always)]
pub(crate) fn is_repeated(former: &Found, packet: &Parsed, backend: BackendId, is_expired: bool) -> bool {
    packet.step == Step::Syn
        && !is_expired
        && former.backend() == Some(backend)
        && former.seen.kind & (FLOW_UDP | FLOW_SEVER) == 0
        && former.seen.state() == FlowState::HalfOpen
        && former.seen.client & SEEN_SEGMENT == 0
}

/// What is seen of a flow whose SYN came again.
#[inline(always)]
pub(crate) fn seen_again(former: &Found, seen: FlowSeen) -> FlowSeen {
    FlowSeen { client: seen.client | SEEN_REPEATED, backend: former.seen.backend & SEEN_FAULT, ..seen }
}

/// Who got an entry, in one register.
#[derive(Clone, Copy)]
pub(crate) struct Entrant(pub(crate) u64);

#[expect(clippy::cast_possible_truncation, reason = "shifted to the bits that are wanted")]
impl Entrant {
    #[inline(always)]
    fn new(placed: Placed, group: u8, is_known_to_be_repeated: bool) -> Self {
        let known = u64::from(is_known_to_be_repeated) << 24;
        let unweighted = u64::from(placed.is_unweighted) << 25;
        Self(u64::from(placed.backend.raw()) | u64::from(group) << 16 | known | unweighted)
    }

    #[inline(always)]
    fn backend(self) -> Option<BackendId> {
        BackendId::from_raw(self.0 as u16)
    }

    #[inline(always)]
    fn group(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Whether the fuse has had the failure of a flow whose SYN comes again.
    #[inline(always)]
    fn is_known_to_be_repeated(self) -> bool {
        self.0 & 1 << 24 != 0
    }

    /// Whether no weight sent it there.
    #[inline(always)]
    fn is_unweighted(self) -> bool {
        self.0 & 1 << 25 != 0
    }
}

/// Counts a flow that got its entry.
#[inline(always)]
pub(crate) fn enter(
    service: &ServiceEntry,
    client: Address,
    index: u32,
    seen: FlowSeen,
    placed: Placed,
    former: Former,
) {
    let is_repeated = seen.client & SEEN_REPEATED != 0;
    if let Some(lost) = former.owner.backend()
        && !is_repeated
    {
        stages::grayxdp_lost(index, former.seen.to_word(), lost.raw().into());
    }
    let is_known_to_be_repeated = former.seen.client & SEEN_REPEATED != 0;
    let entrant = Entrant::new(placed, client_group(service.hash_key, client), is_known_to_be_repeated);
    let is_due = stages::grayxdp_entered(index, entrant.0, seen.to_word());
    judge_if(is_due, service);
}

/// Counts what a client's packet of a known flow changes.
#[inline(always)]
pub(crate) fn speak(entry: &Found, spoken: Spoken, backend: BackendId) {
    stages::grayxdp_spoken(entry.index, spoken.raw(), entry.seen.to_word(), backend.raw().into());
}

/// Counts that an ICMP error said that the flow's packets do not arrive.
#[inline(always)]
pub(crate) fn hear_unreachable(service: &ServiceEntry, entry: &Found, backend: BackendId) {
    let is_due = stages::grayxdp_unreachable(entry.index, entry.seen.to_word(), backend.raw().into());
    judge_if(is_due, service);
}

#[inline(always)]
pub(crate) fn judge_if(is_due: u64, service: &ServiceEntry) {
    if is_due != 0 {
        stages::grayxdp_judge(service.pools.into(), clock::now());
    }
}

/// A flow got its entry, or its SYN came again: `seen` says what was seen of it. Returns whether the fuse is to be judged.
#[inline(always)]
pub(crate) fn entered(control: &'static Control, index: u32, entrant: Entrant, seen: FlowSeen) -> Option<bool> {
    let subject = Subject::of(control, entrant.backend()?, index);
    if seen.client & SEEN_REPEATED != 0 {
        let subject = subject?;
        subject.signals.count(Signal::SynRetransmissions);
        return Some(!entrant.is_known_to_be_repeated() && subject.failure());
    }
    let is_beginning = seen.client & SEEN_SEGMENT == 0;
    let now = helpers::clock_ns();
    let begun = if is_beginning { begin_time(now) } else { 0 };
    let group = entrant.group();
    maps::flow_times(index)?.set(FlowTimes::new(turn_time(now), begun, group));
    let subject = subject?;
    if is_beginning {
        subject.signals.count(Signal::Flows);
        if entrant.is_unweighted() {
            subject.signals.count(Signal::Unweighted);
        }
        count::group(control, subject.id, subject.version, group, OfGroup::Flow);
        fuse::began(control, subject.id, subject.service, subject.version, long_flow_tick(now));
        if seen.client & SEEN_TURN != 0 {
            subject.signals.count(Signal::Requests);
        }
    }
    Some(false)
}

/// A flow lost its entry to another one, or begins anew: counts what nobody will see the end of.
#[inline(always)]
pub(crate) fn lost(control: &'static Control, index: u32, former: FlowSeen, backend: BackendId) -> Option<()> {
    let subject = Subject::of(control, backend, index)?;
    if former.is_unanswered() {
        subject.error(Signal::Unanswered);
    } else if former.dies_owing() {
        // Unless it is severed, only an idle one can lose its entry.
        subject.error(Signal::IdleDeaths);
    }
    Some(())
}

/// What of a client's packet matters here.
#[derive(Clone, Copy)]
pub(crate) struct Spoken {
    pub(crate) tcp_flags: u8,
    pub(crate) carries_payload: bool,
}

impl Spoken {
    #[inline(always)]
    pub(crate) fn from_raw(raw: u32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "eight bits")]
        Self { tcp_flags: raw as u8, carries_payload: raw >> 8 != 0 }
    }

    #[inline(always)]
    fn raw(self) -> u32 {
        u32::from(self.tcp_flags) | u32::from(self.carries_payload) << 8
    }

    /// Whether the packet changes what is known of its flow.
    #[inline(always)]
    pub(crate) fn is_news(self, before: FlowSeen) -> bool {
        let begins_one_sided = before.kind & FLOW_ONE_SIDED != 0 && before.client & SEEN_SEGMENT == 0;
        self.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) != 0
            || is_turn(before, self.carries_payload)
            || (begins_one_sided && before.kind & FLOW_UDP == 0)
    }
}

/// Whether a client's payload begins a turn.
#[inline(always)]
fn is_turn(before: FlowSeen, carries_payload: bool) -> bool {
    carries_payload && !before.owes_response() && before.kind & FLOW_ONE_SIDED == 0
}

/// A client's packet of a known flow, which has been noted already: `before` is what was seen before it.
#[inline(always)]
pub(crate) fn spoken(
    control: &'static Control,
    packet: Spoken,
    index: u32,
    before: FlowSeen,
    backend: BackendId,
) -> Option<()> {
    let subject = Subject::of(control, backend, index)?;
    let state = before.state();
    let is_udp = before.kind & FLOW_UDP != 0;
    if state == FlowState::Closing {
        return None;
    }
    let mut seen = before.client | SEEN_PACKET;
    if !is_udp {
        if packet.tcp_flags & TCP_RST != 0 {
            if state == FlowState::Established {
                subject.signals.count(Signal::ClientResets);
                if before.kind & FLOW_ONE_SIDED != 0 {
                    // There, it is half of what there is to judge by.
                    subject.group_error();
                }
                subject.ended();
            }
            return None;
        }
        if packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
            subject.signals.count(Signal::SynRetransmissions);
            return None;
        }
        let is_one_sided = before.kind & FLOW_ONE_SIDED != 0;
        if is_one_sided && before.client & SEEN_SEGMENT == 0 {
            subject.signals.count(Signal::Established);
        }
        seen |= SEEN_SEGMENT;
        if packet.tcp_flags & TCP_FIN != 0 && before.client & SEEN_FIN == 0 {
            seen |= SEEN_FIN;
            if is_one_sided || before.backend & SEEN_FIN != 0 {
                subject.signals.count(Signal::Closes);
                subject.ended();
            }
        }
    }
    if is_turn(before, packet.carries_payload) {
        let later = if seen & SEEN_TURN != 0 { SEEN_LATER } else { 0 };
        // The time first: a sweep in between would take the turn for as old as the one before.
        maps::flow_times(index)?.set_turn(turn_time(helpers::clock_ns()));
        set_client(control, index, (seen ^ SEEN_TURN) | later);
        subject.signals.count(Signal::Requests);
    }
    Some(())
}

/// An ICMP error of the backend's side said that the flow's packets do not arrive. Returns whether the fuse is to be judged.
#[inline(always)]
pub(crate) fn unreachable(control: &'static Control, index: u32, before: FlowSeen, backend: BackendId) -> Option<bool> {
    let subject = Subject::of(control, backend, index)?;
    if !before.is_unanswered() {
        return None;
    }
    subject.error(Signal::IcmpUnreachable);
    set_backend(control, index, before.backend | SEEN_FAULT);
    Some(before.client & SEEN_REPEATED == 0 && subject.failure())
}

/// Stores the client's flags of an entry.
#[inline(always)]
fn set_client(control: &'static Control, index: u32, flags: u8) {
    if let Some((_, found)) = flow::entry_at(control, index) {
        found.cell.set_client(flags);
    }
}

/// Stores the backend's flags of an entry.
#[inline(always)]
pub(crate) fn set_backend(control: &'static Control, index: u32, flags: u8) {
    if let Some((_, found)) = flow::entry_at(control, index) {
        found.cell.set_backend(flags);
    }
}

const _: () = assert!(SEEN_RST & (SEEN_TURN | SEEN_LATER | SEEN_REPEATED | SEEN_FAULT | SEEN_ZERO_WINDOW) == 0);
