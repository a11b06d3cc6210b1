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

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    hash::client_group,
    ids::{BackendId, ServiceId, Version},
    layout::{
        Address, Control, Expected, FLOW_ONE_SIDED, FLOW_SEVER, FLOW_UDP, FlowOwner, FlowSeen, FlowState, FlowTimes,
        SEEN_FAULT, SEEN_FIN, SEEN_LATER, SEEN_PACKET, SEEN_REPEATED, SEEN_RST, SEEN_SEGMENT, SEEN_TURN,
        SEEN_ZERO_WINDOW, SERVICE_SIGNALS, ServiceEntry, Signal, Timing, begin_time, begin_us, long_flow_tick,
        turn_time, turn_us,
    },
    limits::FLOW_ENTRIES_PER_BUCKET,
};

use crate::{
    count::{self, OfGroup, Signals},
    flow::{self, Found},
    fuse, helpers, maps,
    packet::Packet,
    parse::{Parsed, Step, TCP_ACK, TCP_FIN, TCP_LEN, TCP_RST, TCP_SYN, UDP_LEN},
    peek::{self, Answer, Payload},
    stages,
};

#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const ENTRIES: u32 = FLOW_ENTRIES_PER_BUCKET as u32;
/// One flow in so many is watched for repeated segments; a power of two.
const WATCHED_ONE_IN: u64 = 8;

/// Where what is seen of a flow is counted.
#[derive(Clone, Copy)]
struct Subject {
    control: &'static Control,
    signals: Signals,
    id: ServiceId,
    service: &'static ServiceEntry,
    version: Version,
    /// Of the flow's entry.
    index: u32,
}

impl Subject {
    /// `None` where the backend's service is not watched.
    #[inline(always)]
    fn of(control: &'static Control, backend: BackendId, index: u32) -> Option<Self> {
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
    fn error(&self, signal: Signal) {
        self.signals.count(signal);
        self.group_error();
    }

    /// Counts a failure for the fuse; returns whether it is to be judged.
    #[inline(always)]
    fn failure(&self) -> bool {
        fuse::failed(self.control, self.id, self.service, self.version, flow::now())
    }

    #[inline(always)]
    fn group_error(&self) {
        if let Some(times) = maps::flow_times(self.index) {
            count::group(self.control, self.id, self.version, times.read().group(), OfGroup::Error);
        }
    }

    /// Takes the time of a flow that ends.
    #[inline(always)]
    fn ended(&self) {
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
    fn new(backend: BackendId, group: u8, is_known_to_be_repeated: bool) -> Self {
        let known = u64::from(is_known_to_be_repeated) << 24;
        Self(u64::from(backend.raw()) | u64::from(group) << 16 | known)
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
}

/// Counts a flow that got its entry.
#[inline(always)]
pub(crate) fn enter(
    service: &ServiceEntry,
    client: Address,
    index: u32,
    seen: FlowSeen,
    backend: BackendId,
    former: Former,
) {
    let is_repeated = seen.client & SEEN_REPEATED != 0;
    if let Some(lost) = former.owner.backend()
        && !is_repeated
    {
        stages::grayxdp_lost(index, former.seen.to_word(), lost.raw().into());
    }
    let is_known_to_be_repeated = former.seen.client & SEEN_REPEATED != 0;
    let entrant = Entrant::new(backend, client_group(service.hash_key, client), is_known_to_be_repeated);
    let is_due = stages::grayxdp_entered(index, entrant.0, seen.to_word());
    judge_if(is_due, service);
}

/// Counts what a client's packet of a known flow changes.
#[inline(always)]
pub(crate) fn speak(entry: &Found, spoken: Spoken, backend: BackendId) {
    stages::grayxdp_spoken(entry.index, spoken.raw(), entry.seen.to_word(), backend.raw().into());
}

/// Counts what a backend's packet of a known flow changes.
#[inline(always)]
pub(crate) fn hear(context: &XdpContext, service: &ServiceEntry, entry: &Found, heard: Heard, backend: BackendId) {
    let seen = entry.seen.to_word();
    let is_due = stages::grayxdp_heard(context.ctx, heard.0, entry.index, seen, backend.raw().into());
    judge_if(is_due, service);
}

/// Looks at data that a backend sent, if the flow is watched for repetition.
#[inline(always)]
pub(crate) fn watch_if(context: &XdpContext, entry: &Found, heard: Heard, tcp_flags: u8, backend: BackendId) {
    if heard.payload_len() == 0 || tcp_flags & TCP_RST != 0 || !is_watched(entry) {
        return;
    }
    if let Some(tcp) = Packet::new(context).window::<TCP_LEN>(heard.l4_offset()) {
        // What is said of them, in one register: the low half of the flow's fingerprint, and the first sequence number.
        let data = (entry.owner.0 >> 16) << 32 | u64::from(u32::from_be(tcp.u32::<4>()));
        stages::grayxdp_watch(entry.index, data, heard.payload_len(), backend.raw().into());
    }
}

/// Counts that an ICMP error said that the flow's packets do not arrive.
#[inline(always)]
pub(crate) fn hear_unreachable(service: &ServiceEntry, entry: &Found, backend: BackendId) {
    let is_due = stages::grayxdp_unreachable(entry.index, entry.seen.to_word(), backend.raw().into());
    judge_if(is_due, service);
}

#[inline(always)]
fn judge_if(is_due: u64, service: &ServiceEntry) {
    if is_due != 0 {
        stages::grayxdp_judge(service.pools.into(), flow::now());
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
    } else if former.state() == FlowState::Established && former.owes_response() && former.kind & FLOW_SEVER == 0 {
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
        flow::set_client(control, index, (seen ^ SEEN_TURN) | later);
        maps::flow_times(index)?.set_turn(turn_time(helpers::clock_ns()));
        subject.signals.count(Signal::Requests);
    }
    Some(())
}

/// What of a backend's packet matters here, in one register: where its transport header begins, and how many bytes of
/// payload it has.
#[derive(Clone, Copy)]
pub(crate) struct Heard(u32);

impl Heard {
    #[inline(always)]
    pub(crate) fn new(l4_offset: u32, payload_len: u16) -> Self {
        Self((l4_offset & 0xffff) | u32::from(payload_len) << 16)
    }

    #[inline(always)]
    pub(crate) fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    #[inline(always)]
    fn l4_offset(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    #[inline(always)]
    fn payload_len(self) -> u32 {
        self.0 >> 16
    }
}

/// Whether a backend's packet changes what is known of its flow, but for segments that are watched for repetition.
#[inline(always)]
pub(crate) fn is_news(found: &Found, tcp_flags: u8, carries_payload: bool, has_zero_window: bool) -> bool {
    let before = found.seen;
    let had_zero_window = before.backend & SEEN_ZERO_WINDOW != 0;
    (carries_payload && before.owes_response())
        || has_zero_window != had_zero_window
        || before.backend & SEEN_PACKET == 0
        || tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) != 0
}

/// Whether the flow is one of those that are watched for repeated segments.
#[inline(always)]
fn is_watched(found: &Found) -> bool {
    found.seen.kind & FLOW_UDP == 0 && (found.owner.0 >> 16) & (WATCHED_ONE_IN - 1) == 0
}

/// A backend's packet of a known flow, which has been noted already: `before` is what was seen before it. Returns whether
/// the fuse is to be judged.
#[inline(always)]
pub(crate) fn heard(
    context: &XdpContext,
    control: &'static Control,
    packet: Heard,
    index: u32,
    before: FlowSeen,
    backend: BackendId,
) -> Option<bool> {
    let subject = Subject::of(control, backend, index)?;
    let is_first = before.backend & SEEN_PACKET == 0;
    if before.state() == FlowState::Closing {
        return None;
    }
    let mut seen = before.backend | SEEN_PACKET;
    let mut payload = Payload {
        offset: packet.l4_offset() + UDP_LEN,
        len: packet.payload_len() as usize,
        is_udp: before.kind & FLOW_UDP != 0,
        is_first: before.client & SEEN_LATER == 0,
    };
    if payload.is_udp {
        if is_first {
            subject.signals.count(Signal::Established);
        }
    } else {
        let tcp = Packet::new(context).window::<TCP_LEN>(packet.l4_offset())?;
        let flags = tcp.u8::<13>();
        payload.offset = packet.l4_offset() + usize::from(tcp.u8::<12>() >> 4) * 4;
        if flags & TCP_RST != 0 {
            return Some(reset(&subject, before, is_first));
        }
        let segment = Segment { flags, has_zero_window: tcp.u16::<14>() == 0 };
        seen |= segment_heard(&subject, segment, before, is_first);
        if segment.has_zero_window != (seen & SEEN_ZERO_WINDOW != 0) && flags & TCP_SYN == 0 {
            seen ^= SEEN_ZERO_WINDOW;
            if segment.has_zero_window {
                subject.signals.count(Signal::ZeroWindows);
            }
        }
    }
    if (payload.len != 0 || payload.is_udp) && before.owes_response() && answered(context, &subject, payload) {
        seen ^= SEEN_TURN;
    }
    if seen != before.backend {
        flow::set_backend(control, index, seen);
    }
    Some(false)
}

/// What matters of a segment's header.
#[derive(Clone, Copy)]
struct Segment {
    flags: u8,
    has_zero_window: bool,
}

/// A RST: it refuses the connection, or ends it. Returns whether the fuse is to be judged.
#[inline(always)]
fn reset(subject: &Subject, before: FlowSeen, is_first: bool) -> bool {
    if before.backend & SEEN_FAULT != 0 {
        return false;
    }
    if !is_first {
        subject.error(Signal::ServerResets);
        subject.ended();
    } else if before.client & SEEN_SEGMENT == 0 {
        subject.error(Signal::Refused);
    } else {
        // A flow that was met in its middle was never counted as one.
        return false;
    }
    // Where its SYN had to be repeated, the fuse has had its failure.
    before.client & SEEN_REPEATED == 0 && subject.failure()
}

/// SYN-ACK and FIN. Returns the flags that it leaves behind.
#[inline(always)]
fn segment_heard(subject: &Subject, segment: Segment, before: FlowSeen, is_first: bool) -> u8 {
    if segment.flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK && is_first && before.client & SEEN_SEGMENT == 0 {
        subject.signals.count(Signal::Established);
        if let Some(times) = maps::flow_times(subject.index) {
            let us = turn_us(times.read().turn, turn_time(helpers::clock_ns()));
            subject.signals.time(Timing::Handshake, us);
        }
    }
    if segment.flags & TCP_FIN != 0 && before.backend & SEEN_FIN == 0 && before.client & SEEN_FIN != 0 {
        subject.signals.count(Signal::Closes);
        subject.ended();
    }
    let fin = if segment.flags & TCP_FIN != 0 { SEEN_FIN } else { 0 };
    SEEN_SEGMENT | fin
}

/// Whether data that a watched flow's server sends has been sent before. Of two watched flows in a bucket, the one that
/// spoke last is known. Lean, for long downloads come through here with every packet.
#[inline(always)]
pub(crate) fn watch(control: &Control, index: u32, data: u64, len: u32, backend: BackendId) -> Option<()> {
    let cell = maps::expected(index / ENTRIES)?;
    let signals = Signals::of(control, backend)?;
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    let (flow, sequence) = ((data >> 32) as u32, data as u32);
    let expected = cell.read();
    signals.count(Signal::WatchedSegments);
    // Half of the sequence numbers are before any one (RFC 9293 3.4).
    if expected.flow == flow && sequence.wrapping_sub(expected.sequence) >= 1 << 31 {
        signals.count(Signal::Retransmissions);
    } else {
        cell.set(Expected { sequence: sequence.wrapping_add(len), flow });
    }
    Some(())
}

/// A turn is answered: takes its time, and looks into it. Returns whether the turn is over.
#[inline(always)]
fn answered(context: &XdpContext, subject: &Subject, payload: Payload) -> bool {
    let answer = peek::answer(Packet::new(context), payload, subject.service.flags);
    match answer {
        Answer::Interim => return false,
        Answer::None => {}
        Answer::Good => subject.signals.count(Signal::AnswersGood),
        Answer::ClientError => subject.signals.count(Signal::AnswersClientError),
        Answer::ServerError => {
            subject.signals.count(Signal::AnswersServerError);
            subject.group_error();
        }
        Answer::Unknown => subject.signals.count(Signal::AnswersUnknown),
    }
    subject.signals.count(Signal::Responses);
    if let Some(times) = maps::flow_times(subject.index) {
        let us = turn_us(times.read().turn, turn_time(helpers::clock_ns()));
        let is_first = payload.is_first || payload.is_udp;
        subject.signals.time(if is_first { Timing::FirstResponse } else { Timing::LaterResponse }, us);
    }
    true
}

/// An ICMP error of the backend's side said that the flow's packets do not arrive. Returns whether the fuse is to be judged.
#[inline(always)]
pub(crate) fn unreachable(control: &'static Control, index: u32, before: FlowSeen, backend: BackendId) -> Option<bool> {
    let subject = Subject::of(control, backend, index)?;
    if !before.is_unanswered() {
        return None;
    }
    subject.error(Signal::IcmpUnreachable);
    flow::set_backend(control, index, before.backend | SEEN_FAULT);
    Some(before.client & SEEN_REPEATED == 0 && subject.failure())
}

const _: () = assert!(SEEN_RST & (SEEN_TURN | SEEN_LATER | SEEN_REPEATED | SEEN_FAULT | SEEN_ZERO_WINDOW) == 0);
