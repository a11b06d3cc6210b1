//! What a backend's packets change of what is known of a connection: answered, refused, reset, closed, a turn answered,
//! windows, segments sent again. May not alter the verdict.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::BackendId,
    layout::{
        Control, Expected, FLOW_UDP, FlowSeen, FlowState, SEEN_FAULT, SEEN_FIN, SEEN_LATER, SEEN_PACKET, SEEN_REPEATED,
        SEEN_SEGMENT, SEEN_TURN, SEEN_ZERO_WINDOW, ServiceEntry, Signal, Timing, turn_time, turn_us,
    },
};

use crate::{
    count::Signals,
    flow::{ENTRIES, Found},
    helpers, maps,
    packet::Packet,
    parse::{TCP_ACK, TCP_FIN, TCP_LEN, TCP_RST, TCP_SYN, UDP_LEN},
    peek::{self, Answer, Payload},
    signals::{self, Subject, judge_if},
    stages,
};

/// One flow in so many is watched for repeated segments; a power of two.
const WATCHED_ONE_IN: u64 = 8;

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
        signals::set_backend(control, index, seen);
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
        let times = times.read();
        let us = turn_us(times.turn, turn_time(helpers::clock_ns()));
        let is_first = payload.is_first || payload.is_udp;
        subject.signals.time(if is_first { Timing::FirstResponse } else { Timing::LaterResponse }, us);
        // Behind its time: who reads counts before times never finds more of these than times.
        if times.is_marked_overdue() {
            subject.signals.count(Signal::OverdueAnswered);
        }
    }
    true
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
