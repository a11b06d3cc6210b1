//! The flow table: buckets of one or two cache lines, entries of 16 bytes, one entry for both directions.
//!
//! An entry's first word says which flow it is and where it goes. It is written by compare-and-swap only and does not
//! change until the entry is given to another flow, so one load gives both, never torn. The second word is what was seen
//! of the flow; each part of it has one direction as its writer, and is stored by itself.
//!
//! A flow whose bucket is full of flows that must not be evicted may have its entry in a second bucket, the neighbour.
//! Nobody needs to look there as long as the first bucket has an entry that was never used: an entry that loses its flow
//! becomes [`FlowOwner::FREED`], which is free but says nothing, and the sweeper alone turns it into
//! [`FlowOwner::EMPTY`] again, once the second bucket holds no flow of the first.

use super::Address;
use crate::{
    ids::{BackendId, Be16, ServiceId},
    limits::FLOW_ENTRIES_PER_BUCKET,
};

/// A flow tick is 2³⁰ ns, about 1.07 s: a shift where a division would cost on every packet.
pub const FLOW_TICK_SHIFT: u32 = 30;

/// The present flow tick, which does not wrap for 146 years.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "as said above")]
pub const fn long_flow_tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> FLOW_TICK_SHIFT) as u32
}

/// The present flow tick. 16 bits wrap after 19.5 hours; time-outs are at most [`crate::limits::IDLE_TICKS_MAX`].
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "wraps, as said above")]
pub const fn flow_tick(monotonic_ns: u64) -> u16 {
    (monotonic_ns >> FLOW_TICK_SHIFT) as u16
}

/// The keyed hash of a flow: which bucket, and which fingerprint in it.
///
/// For an IPv4 client, address, port and service are 64 bits, and the hash is a bijection of them (odd multiplications and
/// xor-shifts): in a table of at least 2¹⁶ buckets, bucket and fingerprint together name one flow, so no two flows are
/// ever taken for each other. For IPv6, a false match has a chance of about 10⁻¹⁴ a lookup. The key is drawn at random when
/// the table is made and never leaves the host; who cannot observe buckets cannot aim at one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// The hash of a client's flow at a service.
    #[inline(always)]
    pub const fn new(key: [u64; 2], client: Address, client_port: Be16, service: ServiceId) -> Self {
        let [a, b, c, d] = client.words();
        let tail = d as u64 | (client_port.to_wire() as u64) << 32 | (service.0 as u64) << 48;
        let mut hash = tail ^ key[0];
        if !client.is_v4() {
            let head = (a as u64 | (b as u64) << 32) ^ key[1];
            let folded = head.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash ^= ((folded ^ folded >> 32) ^ c as u64).wrapping_mul(key[0] | 1);
        }
        hash = hash.wrapping_mul(key[1] | 1);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(MIX);
        Self(hash ^ hash >> 29)
    }

    /// The bucket, among this many.
    #[inline(always)]
    pub const fn bucket(self, buckets: u32) -> u32 {
        (((self.0 >> 32) * buckets as u64) >> 32) as u32
    }

    /// The fingerprint, in the place that it has in an entry's first word.
    #[inline(always)]
    pub const fn fingerprint(self) -> u64 {
        self.0 << 16
    }

    /// The bucket where a flow may be for which there was no place in this one; each is the other's. Behind the table's
    /// end if the number of buckets is odd.
    #[inline(always)]
    pub const fn second_bucket(bucket: u32) -> u32 {
        bucket ^ 1
    }

    /// The IPv4 client whose flow at this service has its entry in this bucket: the hash, undone.
    ///
    /// From 2¹⁶ buckets on, bucket and fingerprint leave one hash open; in smaller tables several, of which the service
    /// tells most apart. `None` where it does not, or where the entry is none of this service's. An IPv6 client cannot be
    /// found, and must not be looked for: some IPv4 address may fit.
    pub const fn client_v4(
        key: [u64; 2],
        service: ServiceId,
        buckets: u32,
        bucket: u32,
        owner: FlowOwner,
    ) -> Option<(Address, Be16)> {
        let bucket = if owner.is_in_second() { Self::second_bucket(bucket) } else { bucket };
        if buckets == 0 || bucket >= buckets {
            return None;
        }
        let first = ((bucket as u64) << 32).div_ceil(buckets as u64);
        let end = ((bucket as u64 + 1) << 32).div_ceil(buckets as u64);
        let low = owner.0 >> 48;
        let mut high = (first & !0xffff) | low;
        if high < first {
            high += 1 << 16;
        }
        let mut found = None;
        while high < end {
            let tail = Self(high << 32 | ((owner.0 >> 16) & 0xffff_ffff)).tail_v4(key);
            if tail >> 48 == service.0 as u64 {
                if found.is_some() {
                    return None;
                }
                found = Some(Self::client_of(tail));
            }
            high += 1 << 16;
        }
        found
    }

    /// Undoes [`Self::new`] for an IPv4 client: each step backwards.
    const fn tail_v4(self, key: [u64; 2]) -> u64 {
        // A shift by 29 must be undone twice, one by 32 once.
        let hash = self.0 ^ self.0 >> 29 ^ self.0 >> 58;
        let hash = hash.wrapping_mul(inverse(MIX));
        let hash = hash ^ hash >> 32;
        hash.wrapping_mul(inverse(key[1] | 1)) ^ key[0]
    }

    #[expect(clippy::cast_possible_truncation, reason = "shifted to the bits that are wanted")]
    const fn client_of(tail: u64) -> (Address, Be16) {
        (Address::from_v4_wire(tail as u32), Be16::from_wire((tail >> 32) as u16))
    }
}

const MIX: u64 = 0x94d0_49bb_1331_11eb;

/// The number that undoes the multiplication by an odd one (Newton's iteration; each step doubles the bits that are right,
/// from three on).
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut bits = 3;
    while bits < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
}

/// An entry's first word: fingerprint, whether it is in the flow's second bucket, and backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct FlowOwner(pub u64);

impl FlowOwner {
    /// Nobody, and no flow of this bucket was ever turned away while it was so.
    pub const EMPTY: Self = Self(0);
    /// Nobody any more.
    pub const FREED: Self = Self(Self::SECOND);
    const SECOND: u64 = 1 << 15;
    const BACKEND: u16 = 0x7fff;

    /// A flow on a backend.
    #[inline(always)]
    pub const fn new(hash: FlowHash, backend: BackendId) -> Self {
        Self(hash.fingerprint() | backend.raw() as u64)
    }

    /// A flow, on no backend yet.
    #[inline(always)]
    pub const fn of(hash: FlowHash) -> Self {
        Self(hash.fingerprint())
    }

    /// The same flow in its second bucket.
    #[inline(always)]
    #[must_use]
    pub const fn in_second(self) -> Self {
        Self(self.0 | Self::SECOND)
    }

    /// Whether the entry is in its flow's second bucket.
    #[inline(always)]
    pub const fn is_in_second(self) -> bool {
        self.0 & Self::SECOND != 0
    }

    /// The same flow in the same bucket, on a backend.
    #[inline(always)]
    #[must_use]
    pub const fn on(self, backend: BackendId) -> Self {
        Self((self.0 & !(Self::BACKEND as u64)) | backend.raw() as u64)
    }

    /// Whether it is this flow in its first bucket.
    #[inline(always)]
    pub const fn is(self, hash: FlowHash) -> bool {
        self.names(Self::of(hash))
    }

    /// Whether both are the same flow in the same one of its buckets.
    #[inline(always)]
    pub const fn names(self, flow: Self) -> bool {
        // An empty entry could only be taken for the one flow of fingerprint zero, and then has no backend.
        (self.0 ^ flow.0) >> 15 == 0
    }

    /// Its backend; `None` where it is nobody's.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    pub const fn backend(self) -> Option<BackendId> {
        BackendId::from_raw(self.0 as u16 & Self::BACKEND)
    }
}

/// An entry's second word: what was seen of the flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct FlowSeen {
    /// When a packet was last seen, in flow ticks. Written at most once a tick.
    pub last_tick: u16,
    /// Bits `SEEN_…` of the client's packets.
    pub client: u8,
    /// Bits `SEEN_…` of the backend's packets.
    pub backend: u8,
    /// Bits `FLOW_…`, fixed when the entry is made.
    pub kind: u8,
    /// `full-nat`: index of its source address.
    pub source: u8,
    /// `full-nat`: its source port.
    pub source_port: Be16,
}

/// [`FlowSeen::client`], [`FlowSeen::backend`]: any packet.
pub const SEEN_PACKET: u8 = 1;
/// A packet other than the first SYN: the handshake is over, as far as this side is concerned.
pub const SEEN_SEGMENT: u8 = 1 << 1;
/// A FIN.
pub const SEEN_FIN: u8 = 1 << 2;
/// A RST.
pub const SEEN_RST: u8 = 1 << 3;
/// A RST was sent to this side on behalf of the other, for the flow was severed.
pub const SEEN_SEVERED: u8 = 1 << 4;

/// The number of turns that this side has begun (the client) or answered (the backend) is odd. While the bits of both sides
/// differ, a response is owed.
pub const SEEN_TURN: u8 = 1 << 5;
/// [`FlowSeen::client`]: the turn under way is not the flow's first.
pub const SEEN_LATER: u8 = 1 << 6;
/// [`FlowSeen::client`]: its SYN came again before it was answered.
pub const SEEN_REPEATED: u8 = 1 << 7;
/// [`FlowSeen::backend`]: the flow has been counted as an error, for what the backend has not sent.
pub const SEEN_FAULT: u8 = 1 << 6;
/// [`FlowSeen::backend`]: its window was zero when it last spoke.
pub const SEEN_ZERO_WINDOW: u8 = 1 << 7;

/// [`FlowSeen::kind`]: a UDP conversation.
pub const FLOW_UDP: u8 = 1;
/// [`FlowSeen::kind`]: replies do not pass here.
pub const FLOW_ONE_SIDED: u8 = 1 << 1;
/// [`FlowSeen::kind`]: to be severed. Set by the agent.
pub const FLOW_SEVER: u8 = 1 << 2;

/// Where a flow is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FlowState {
    /// TCP or UDP: the backend has not answered yet.
    HalfOpen,
    /// TCP: both sides were seen, and it was not closed.
    Established,
    /// TCP: reset, or closed from both sides.
    Closing,
    /// UDP: both sides were seen.
    Udp,
}

impl FlowState {
    /// All.
    pub const ALL: [Self; 4] = [Self::HalfOpen, Self::Established, Self::Closing, Self::Udp];

    /// As in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Udp => "udp",
        }
    }
}

const _: () = assert!(cfg!(target_endian = "little"), "the word's parts are taken in this order");

impl FlowSeen {
    /// From the whole word, so that one load gives all parts.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "shifted to the bits that are wanted")]
    pub const fn from_word(word: u64) -> Self {
        Self {
            last_tick: word as u16,
            client: (word >> 16) as u8,
            backend: (word >> 24) as u8,
            kind: (word >> 32) as u8,
            source: (word >> 40) as u8,
            source_port: Be16::from_wire((word >> 48) as u16),
        }
    }

    /// The whole word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.last_tick as u64
            | (self.client as u64) << 16
            | (self.backend as u64) << 24
            | (self.kind as u64) << 32
            | (self.source as u64) << 40
            | (self.source_port.to_wire() as u64) << 48
    }

    /// What the flow's flags say. Where replies do not pass, a client that goes on after its SYN counts as answered, and
    /// its own FIN as the end.
    #[inline(always)]
    pub const fn state(&self) -> FlowState {
        let one_sided = self.kind & FLOW_ONE_SIDED != 0;
        let answered = self.backend & SEEN_PACKET != 0 || (one_sided && self.client & SEEN_SEGMENT != 0);
        let both_fin = self.client & SEEN_FIN != 0 && (one_sided || self.backend & SEEN_FIN != 0);
        if self.kind & FLOW_UDP != 0 {
            if answered { FlowState::Udp } else { FlowState::HalfOpen }
        } else if (self.client | self.backend) & SEEN_RST != 0 || both_fin {
            FlowState::Closing
        } else if answered {
            FlowState::Established
        } else {
            FlowState::HalfOpen
        }
    }

    /// Whether a response is owed.
    #[inline(always)]
    pub const fn owes_response(&self) -> bool {
        (self.client ^ self.backend) & SEEN_TURN != 0
    }

    /// Whether the client has spoken, nobody has answered, and that has not been counted as an error yet. A connection that
    /// was met in its middle, or is severed, is none of these; nor is a conversation whose answers do not pass here.
    #[inline(always)]
    pub const fn is_unanswered(&self) -> bool {
        matches!(self.state(), FlowState::HalfOpen)
            && self.client & (SEEN_SEGMENT | SEEN_RST) == 0
            && self.backend & SEEN_FAULT == 0
            && self.kind & FLOW_SEVER == 0
            && self.kind & (FLOW_UDP | FLOW_ONE_SIDED) != FLOW_UDP | FLOW_ONE_SIDED
    }

    /// Whether the client has gone, its first request still unanswered, and that has not been counted as an error yet. Both
    /// have closed, or the client has reset the connection; or it has closed its side and nothing was seen for `patience`
    /// ticks, for one that shuts down only its own side may still be answered. Of later turns nothing is said: what is sent
    /// in them, such as a farewell, may need no answer.
    #[inline(always)]
    pub const fn is_closed_unanswered(&self, now_tick: u16, patience: u16) -> bool {
        let is_over = match self.state() {
            FlowState::Closing => true,
            FlowState::Established => self.client & SEEN_FIN != 0 && self.idle_ticks(now_tick) > patience,
            FlowState::HalfOpen | FlowState::Udp => false,
        };
        is_over
            && self.owes_response()
            && self.client & SEEN_LATER == 0
            && self.backend & SEEN_PACKET != 0
            && self.backend & (SEEN_FAULT | SEEN_RST) == 0
            && self.kind & (FLOW_UDP | FLOW_ONE_SIDED | FLOW_SEVER) == 0
    }

    /// Whether the turn under way waits for its answer: a connection's first one, whether its client still waits or not; of
    /// a conversation with an answer any. In later turns of connections nothing need be answered: what is sent in them may
    /// be a farewell, or news. What a RST of the server ended does not wait.
    #[inline(always)]
    pub const fn is_waiting(&self) -> bool {
        self.owes_response()
            && !matches!(self.state(), FlowState::HalfOpen)
            && self.backend & SEEN_RST == 0
            && self.kind & (FLOW_ONE_SIDED | FLOW_SEVER) == 0
            && (self.client & SEEN_LATER == 0 || self.kind & FLOW_UDP != 0)
    }

    /// Whether the connection stands and a response is owed, so that it is an error should it end by its time-out.
    #[inline(always)]
    pub const fn dies_owing(&self) -> bool {
        matches!(self.state(), FlowState::Established)
            && self.owes_response()
            && self.backend & SEEN_FAULT == 0
            && self.kind & FLOW_SEVER == 0
    }

    /// Ticks since a packet was seen. A late store of an earlier tick is no age of 19 hours.
    #[inline(always)]
    pub const fn idle_ticks(&self, now_tick: u16) -> u16 {
        let idle = now_tick.wrapping_sub(self.last_tick);
        if idle >= 0xff00 { 0 } else { idle }
    }

    /// Whether it has been idle for longer than its state allows.
    #[inline(always)]
    pub const fn is_expired(&self, now_tick: u16, limits: &IdleTicks) -> bool {
        self.idle_ticks(now_tick) > limits.of(self)
    }
}

/// How long a flow may be idle, in flow ticks, by its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct IdleTicks {
    /// TCP, not answered yet.
    pub half_open: u16,
    /// TCP, answered.
    pub established: u16,
    /// TCP, reset or closed from both sides.
    pub closing: u16,
    /// UDP.
    pub udp: u16,
}

impl IdleTicks {
    /// The limit for a flow.
    #[inline(always)]
    pub const fn of(&self, seen: &FlowSeen) -> u16 {
        match seen.state() {
            FlowState::HalfOpen if seen.kind & FLOW_UDP == 0 => self.half_open,
            FlowState::Established => self.established,
            FlowState::Closing => self.closing,
            FlowState::Udp | FlowState::HalfOpen => self.udp,
        }
    }
}

/// One flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FlowEntry {
    /// Which flow, and where it goes.
    pub owner: FlowOwner,
    /// What was seen of it.
    pub seen: FlowSeen,
}

/// Two cache lines. Entries are filled from the front, so that most lookups read the first line only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct FlowBucket {
    /// In no order.
    pub entries: [FlowEntry; FLOW_ENTRIES_PER_BUCKET],
}

impl FlowBucket {
    /// Whether a flow of this bucket may be in the second one.
    pub fn may_have_turned_away(&self) -> bool {
        self.entries.iter().all(|entry| entry.owner != FlowOwner::EMPTY)
    }
}

/// `full-nat`: who has a source port. Index: source address, then port.
///
/// It is taken by compare-and-swap on `owner`, and never given back: a slot whose flow is no longer in the flow table is
/// free, whoever took it. So none can leak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(32))]
pub struct SourceSlot {
    /// The flow's first word; zero while it was never used.
    pub owner: FlowOwner,
    /// The client.
    pub client: Address,
    /// Where the flow's entry is: bucket times [`FLOW_ENTRIES_PER_BUCKET`], plus its place there.
    pub entry: u32,
    /// The client's port.
    pub client_port: Be16,
    /// The [`ServiceId`].
    pub service: u16,
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: [u64; 2] = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
    const LIMITS: IdleTicks = IdleTicks { half_open: 10, established: 3600, closing: 9, udp: 60 };

    fn seen(client: u8, backend: u8, kind: u8) -> FlowSeen {
        FlowSeen { client, backend, kind, ..FlowSeen::default() }
    }

    #[test]
    fn flags_tell_the_state() {
        let both = SEEN_PACKET | SEEN_SEGMENT;
        for (client, backend, kind, expected) in [
            (SEEN_PACKET, 0, 0, FlowState::HalfOpen),
            (both, 0, 0, FlowState::HalfOpen),
            (SEEN_PACKET, both, 0, FlowState::Established),
            (both | SEEN_FIN, both, 0, FlowState::Established),
            (both | SEEN_FIN, both | SEEN_FIN, 0, FlowState::Closing),
            (SEEN_PACKET, SEEN_PACKET | SEEN_RST, 0, FlowState::Closing),
            (both | SEEN_RST, both, 0, FlowState::Closing),
            (SEEN_PACKET, SEEN_FAULT, 0, FlowState::HalfOpen),
            (both | SEEN_TURN, both, 0, FlowState::Established),
            (SEEN_PACKET, 0, FLOW_ONE_SIDED, FlowState::HalfOpen),
            (both, 0, FLOW_ONE_SIDED, FlowState::Established),
            (both | SEEN_FIN, 0, FLOW_ONE_SIDED, FlowState::Closing),
            (SEEN_PACKET, 0, FLOW_UDP, FlowState::HalfOpen),
            (SEEN_PACKET, SEEN_PACKET, FLOW_UDP, FlowState::Udp),
        ] {
            assert_eq!(seen(client, backend, kind).state(), expected, "{client:#x} {backend:#x} {kind}");
        }
    }

    #[test]
    fn only_who_could_be_seen_to_be_answered_is_unanswered() {
        for (client, backend, kind, expected) in [
            (SEEN_PACKET, 0, 0, true),
            (SEEN_PACKET, 0, FLOW_UDP, true),
            (SEEN_PACKET, 0, FLOW_ONE_SIDED, true),
            (SEEN_PACKET | SEEN_SEGMENT, 0, FLOW_ONE_SIDED, false),
            (SEEN_PACKET, 0, FLOW_UDP | FLOW_ONE_SIDED, false),
            (SEEN_PACKET, SEEN_FAULT, 0, false),
            (SEEN_PACKET, 0, FLOW_SEVER, false),
            (SEEN_PACKET | SEEN_RST, 0, 0, false),
            (SEEN_PACKET, SEEN_PACKET, FLOW_UDP, false),
        ] {
            assert_eq!(seen(client, backend, kind).is_unanswered(), expected, "{client:#x} {backend:#x} {kind}");
        }
    }

    #[test]
    fn who_waits_is_who_is_owed_the_first_answer_of_a_connection_or_any_of_a_conversation() {
        let (both, turn, later) = (SEEN_PACKET | SEEN_SEGMENT, SEEN_TURN, SEEN_LATER);
        for (client, backend, kind, expected) in [
            (both | turn, both, 0, true),
            (both | turn, both | turn, 0, false),
            (both, both, 0, false),
            // Whether the client still waits, has shut its side, has gone, or both have.
            (both | turn | SEEN_FIN, both, 0, true),
            (both | turn | SEEN_RST, both, 0, true),
            (both | turn | SEEN_FIN, both | SEEN_FIN, 0, true),
            (both | later, both | turn, 0, false),
            (both | turn | later, both, 0, false),
            (both | turn, both | SEEN_RST, 0, false),
            (SEEN_PACKET | turn, 0, 0, false),
            (both | turn, 0, FLOW_ONE_SIDED, false),
            (both | turn, both, FLOW_SEVER, false),
            (SEEN_PACKET | turn, SEEN_PACKET, FLOW_UDP, true),
            (SEEN_PACKET | later, SEEN_PACKET | turn, FLOW_UDP, true),
            (SEEN_PACKET | turn, 0, FLOW_UDP, false),
        ] {
            assert_eq!(seen(client, backend, kind).is_waiting(), expected, "{client:#x} {backend:#x} {kind}");
        }
    }

    #[test]
    fn an_entry_names_its_flow_its_bucket_and_its_backend() {
        let (hash, other) = (FlowHash(0x1234_5678_9abc_def0), FlowHash(0x1234_5678_9abc_def1));
        let [first, last] = [1, 0x7fff].map(|raw| BackendId::from_raw(raw).expect("not zero"));
        for backend in [first, last] {
            let home = FlowOwner::new(hash, backend);
            let away = FlowOwner::of(hash).in_second().on(backend);
            assert_eq!((home.backend(), away.backend()), (Some(backend), Some(backend)));
            assert_eq!((home.is_in_second(), away.is_in_second()), (false, true));
            assert!(home.is(hash) && !home.is(other) && !away.is(hash));
            assert!(away.names(FlowOwner::of(hash).in_second()) && !away.names(FlowOwner::of(other).in_second()));
            assert_eq!((home.on(first), away.on(last).is_in_second()), (FlowOwner::new(hash, first), true));
        }
        for nobody in [FlowOwner::EMPTY, FlowOwner::FREED] {
            assert_eq!(nobody.backend(), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_seen_is_its_word(word in any::<u64>()) {
            let seen = FlowSeen::from_word(word);
            prop_assert_eq!(seen.to_word(), word);
            let entry = FlowEntry { owner: FlowOwner::EMPTY, seen };
            // SAFETY: plain integers of 16 bytes.
            let words: [u64; 2] = unsafe { core::mem::transmute(entry) };
            prop_assert_eq!(words, [0, word]);
        }
    }

    #[test]
    fn a_flow_expires_after_its_states_time_out_also_across_the_wrap() {
        let flow = FlowSeen { last_tick: u16::MAX - 2, ..seen(SEEN_PACKET, 0, 0) };
        assert!(!flow.is_expired(7, &LIMITS));
        assert!(flow.is_expired(8, &LIMITS));
        // A store that came late.
        assert!(!flow.is_expired(u16::MAX - 4, &LIMITS));
    }

    proptest! {
        /// What makes false matches impossible for IPv4.
        #[test]
        fn bucket_and_fingerprint_name_one_ipv4_flow(
            flows in prop::collection::hash_set((any::<u32>(), any::<u16>(), 0..512u32), 2..200),
            buckets in (1u32 << 16)..(1 << 22),
            key in any::<[u64; 2]>(),
        ) {
            let mut places = HashSet::new();
            for (client, port, service) in flows {
                let client = Address::from_v4_wire(client);
                let hash = FlowHash::new(key, client, Be16::new(port), ServiceId(service));
                prop_assert!(hash.bucket(buckets) < buckets);
                let bucket = hash.bucket(buckets);
                let second = FlowHash::second_bucket(bucket);
                prop_assert!(places.insert((bucket, FlowOwner::of(hash).0)));
                prop_assert!(places.insert((second, FlowOwner::of(hash).in_second().0)));
            }
        }

        #[test]
        fn an_ipv4_client_is_found_from_its_flows_entry(
            client in any::<u32>(),
            port in any::<u16>(),
            service in 0..512u32,
            buckets in (1u32 << 16)..(1 << 24),
            key in any::<[u64; 2]>(),
        ) {
            let (client, port, service) = (Address::from_v4_wire(client), Be16::new(port), ServiceId(service));
            let hash = FlowHash::new(key, client, port, service);
            let owner = FlowOwner::new(hash, BackendId::from_raw(77).expect("not zero"));
            let bucket = hash.bucket(buckets);
            let found = |service| FlowHash::client_v4(key, service, buckets, bucket, owner);
            prop_assert_eq!(found(service), Some((client, port)));
            let second = FlowHash::second_bucket(bucket);
            if second < buckets {
                let found = FlowHash::client_v4(key, service, buckets, second, owner.in_second());
                prop_assert_eq!(found, Some((client, port)));
            }
            prop_assert_eq!(found(ServiceId(service.0 ^ 1)), None);
        }

        #[test]
        fn in_a_small_table_an_ipv4_client_is_found_or_unknown_but_never_another(
            client in any::<u32>(),
            port in any::<u16>(),
            buckets in 1u32..(1 << 16),
            key in any::<[u64; 2]>(),
        ) {
            let (client, port, service) = (Address::from_v4_wire(client), Be16::new(port), ServiceId(9));
            let hash = FlowHash::new(key, client, port, service);
            let owner = FlowOwner::new(hash, BackendId::from_raw(1).expect("not zero"));
            let found = FlowHash::client_v4(key, service, buckets, hash.bucket(buckets), owner);
            prop_assert!(found.is_none_or(|found| found == (client, port)));
        }

        #[test]
        fn every_part_of_an_ipv6_flow_counts(address in any::<u128>(), bit in 0..128u32, port in any::<u16>()) {
            let hash = |address: u128, port, service| {
                FlowHash::new(KEY, Address::from(IpAddr::from(address.to_be_bytes())), Be16::new(port), ServiceId(service))
            };
            let flow = hash(address, port, 3);
            prop_assert_ne!(flow, hash(address ^ 1 << bit, port, 3));
            prop_assert_ne!(flow, hash(address, port ^ 1, 3));
            prop_assert_ne!(flow, hash(address, port, 4));
        }
    }

    /// χ² of neighbouring clients over the buckets: the 99.9 % quantile for 255 degrees of freedom is 330.5.
    #[test]
    fn neighbouring_flows_spread_evenly_over_the_buckets() {
        let mut counts = [0u32; 256];
        for client in 0..4096u32 {
            for port in 0..16u16 {
                let address = Address::from(IpAddr::from((0x0a00_0000 + client).to_be_bytes()));
                let hash = FlowHash::new(KEY, address, Be16::new(40_000 + port), ServiceId(1));
                counts[hash.bucket(256) as usize] += 1;
            }
        }
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - 256.0).powi(2) / 256.0).sum();
        assert!(chi_square < 330.5, "{chi_square}");
    }
}
