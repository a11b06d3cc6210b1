//! What is counted of connections, for the judge: rows of counts and histograms, times of flows, groups of clients, fuses.
//!
//! Rows are striped by CPU by hand, so that the agent maps all of them and sums by plain loads; one stripe more, behind
//! those of the CPUs, is the agent's own: what its sweeps find, and what was counted before this program.

use crate::{histogram::HISTOGRAM_BUCKETS, ids::Version};

macro_rules! signals {
    ($($(#[$doc:meta])* $signal:ident: $name:literal),+ $(,)?) => {
        /// What is counted of a backend's flows. A flow adds to at most one of `Refused`, `Unanswered`, `ServerResets`,
        /// `IcmpUnreachable`, `IdleDeaths` and `ClosedUnanswered`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Signal {
            $($(#[$doc])* $signal),+
        }

        impl Signal {
            /// All, in order.
            pub const ALL: [Self; [$(Self::$signal),+].len()] = [$(Self::$signal),+];

            /// As in output and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$signal => $name),+
                }
            }
        }
    };
}

signals! {
    /// New connections (TCP: first SYNs) and conversations (UDP).
    Flows: "flows",
    /// TCP: answered by a SYN-ACK. UDP: answered. Where replies do not pass: the client went on after its SYN.
    Established: "established",
    /// RST in answer to a SYN.
    Refused: "refused",
    /// No answer to the SYN, or to the first datagram, in time.
    Unanswered: "unanswered",
    /// RST from the server after the connection was established.
    ServerResets: "server_resets",
    /// RST from the client after the connection was established; no error.
    ClientResets: "client_resets",
    /// ICMP errors from the backend's side that ended the wait for an answer.
    IcmpUnreachable: "icmp_unreachable",
    /// Established connections that ended by time-out while a response was owed.
    IdleDeaths: "idle_deaths",
    /// Closed by FIN from both sides.
    Closes: "closes",
    /// SYNs seen again.
    SynRetransmissions: "syn_retransmissions",
    /// Server segments with data that were watched for repetition.
    WatchedSegments: "watched_segments",
    /// Of these, those seen before.
    Retransmissions: "retransmissions",
    /// Zero windows that the server advertised.
    ZeroWindows: "zero_windows",
    /// Turns begun: client payload while no response was owed. UDP: a datagram, the same.
    Requests: "requests",
    /// Turns answered: the first server payload of each.
    Responses: "responses",
    /// Peeked responses that say that all is well.
    AnswersGood: "answers_good",
    /// Peeked responses that blame the client.
    AnswersClientError: "answers_client_error",
    /// Peeked responses that are the server's fault.
    AnswersServerError: "answers_server_error",
    /// Responses that were peeked into and could not be read.
    AnswersUnknown: "answers_unknown",
    /// Connections that the client closed or reset while its first request was still unanswered, where responses are peeked
    /// into, so that one is known to be owed. Found by the agent's sweeps.
    ClosedUnanswered: "closed_unanswered",
    /// First turns of connections that have had no answer for [`OVERDUE_US`], and may still get one; of conversations with an
    /// answer all turns, where responses are peeked into. Found by the agent's sweeps, each once.
    OverdueWaiting: "overdue_waiting",
    /// The same of connections that were reset by the client, or closed from both sides, by then.
    OverdueGone: "overdue_gone",
    /// Of those that might still get one, those that did: they are in the histogram, too.
    OverdueAnswered: "overdue_answered",
    /// Of the flows, those that no weight sent there: a pin did, or that the other version had no live backend.
    Unweighted: "unweighted",
}

/// A turn that has had no answer for so many microseconds is overdue.
pub const OVERDUE_US: u32 = 3_000_000;

/// Places for counts in a row: whole cache lines together with what says which lines of histograms are written.
pub const SIGNAL_SLOTS: usize = 30;

/// What is measured of a backend's flows; each has a histogram in the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Timing {
    /// First SYN to first SYN-ACK.
    Handshake,
    /// The first turn of a connection. UDP: every turn.
    FirstResponse,
    /// Later turns.
    LaterResponse,
    /// Begin to end of flows that were closed or reset.
    Duration,
}

impl Timing {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Handshake, Self::FirstResponse, Self::LaterResponse, Self::Duration];
}

/// Buckets of a histogram in one cache line.
pub const BUCKETS_PER_LINE: usize = 8;

/// Signals of a backend. Index of the map: stripe times rows of a stripe, plus [`crate::ids::BackendId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct SignalRow {
    /// By [`Signal`].
    pub counts: [u64; SIGNAL_SLOTS],
    /// By [`Timing`]: which lines of its histogram have ever been written (bit n: line n).
    pub lines: [u32; Timing::ALL.len()],
    /// By [`Timing`], by bucket.
    pub times: [[u64; HISTOGRAM_BUCKETS]; Timing::ALL.len()],
}

/// Groups of clients of a service's version, whose flows and errors are counted apart.
pub const CLIENT_GROUPS: usize = 256;

/// Flows and errors of one group of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct GroupCell {
    /// New flows.
    pub flows: u32,
    /// Transport errors, and peeked server errors.
    pub errors: u32,
}

/// All groups of a version of a service. Index of the map: (stripe times services of a stripe plus
/// [`crate::ids::ServiceId`]) times two plus [`Version`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct GroupRow {
    /// By group.
    pub groups: [GroupCell; CLIENT_GROUPS],
}

/// When things of a flow began, and whose it is. Index of the map: the entry's in the flow table.
///
/// One word: a new flow's cost is mostly the wait for memory, and for the page tables that lead to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct FlowTimes {
    /// When the SYN came, or the turn began: [`turn_time`], and in its lowest bit whether a sweep has found it overdue.
    pub turn: u32,
    /// When the flow began: [`begin_time`] in the upper bits, zero where that is not known, for it was met in its middle;
    /// the client's group in the low eight.
    pub origin: u32,
}

impl FlowTimes {
    /// Of a flow whose beginning was seen, or (zero) was not.
    #[inline(always)]
    pub const fn new(turn: u32, begun: u32, group: u8) -> Self {
        Self { turn, origin: begun << 8 | group as u32 }
    }

    /// When it began, as [`begin_time`]; zero: not known.
    #[inline(always)]
    pub const fn begun(&self) -> u32 {
        self.origin >> 8
    }

    /// The client's group.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    pub const fn group(&self) -> u8 {
        self.origin as u8
    }

    /// Whether a sweep has found the turn overdue.
    #[inline(always)]
    pub const fn is_marked_overdue(&self) -> bool {
        self.turn & TURN_OVERDUE != 0
    }

    /// The same, found overdue.
    #[must_use]
    pub const fn marked_overdue(self) -> Self {
        Self { turn: self.turn | TURN_OVERDUE, ..self }
    }

    /// As the map's word.
    pub const fn to_word(self) -> u64 {
        self.turn as u64 | (self.origin as u64) << 32
    }
}

/// The lowest bit of [`FlowTimes::turn`].
const TURN_OVERDUE: u32 = 1;

/// What a watched flow's server is to send next. Index of the map: the bucket's; the first of two watched flows in a bucket
/// that speaks has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Expected {
    /// The sequence number that its next new data has.
    pub sequence: u32,
    /// The low half of the flow's fingerprint.
    pub flow: u32,
}

/// A moment in units of 1.024 µs, of which only the even ones are told apart; it wraps after 73 minutes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "wraps, as said above")]
pub const fn turn_time(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 10) as u32 & !TURN_OVERDUE
}

/// Microseconds between two moments of [`turn_time`]; the first one's mark is left aside.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the larger ones are cut off")]
pub const fn turn_us(from: u32, to: u32) -> u32 {
    // 1.024 = 67,109 / 2¹⁶, nearly.
    let us = (to.wrapping_sub(from & !TURN_OVERDUE) as u64 * 67_109) >> 16;
    if us > u32::MAX as u64 { u32::MAX } else { us as u32 }
}

/// Bits of [`begin_time`].
const BEGIN_BITS: u32 = 24;

/// A moment in units of 262 µs, of 24 bits, which wrap after 73 minutes; never zero. Of flows that last longer, one in 65
/// seems to have lasted less than the longest time that is told apart.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "wraps, as said above")]
pub const fn begin_time(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 18) as u32 & ((1 << BEGIN_BITS) - 1) | 1
}

/// Microseconds between two moments of [`begin_time`].
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "24 bits times 262")]
pub const fn begin_us(from: u32, to: u32) -> u32 {
    // 262.144 = 67,109 / 2⁸, nearly.
    ((begin_age(from, to) as u64 * 67_109) >> 8) as u32
}

/// Units of [`begin_time`] between two of its moments.
#[inline(always)]
pub const fn begin_age(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) & ((1 << BEGIN_BITS) - 1)
}

/// New flows and failures of both versions over some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FuseTally {
    /// New connections, by [`Version`].
    pub flows: [u32; 2],
    /// Of these, those that were refused, reset by the server, or whose SYN had to be repeated; by [`Version`].
    pub failures: [u32; 2],
}

impl FuseTally {
    /// Both, added.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        let ([a, b], [c, d]) = (self.flows, more.flows);
        let ([e, f], [g, h]) = (self.failures, more.failures);
        Self { flows: [a.wrapping_add(c), b.wrapping_add(d)], failures: [e.wrapping_add(g), f.wrapping_add(h)] }
    }

    /// Whether v2 has failed at least `budget` times, and far more often than v1: over four times as often, one failure of
    /// one connection more given to v1, so that few connections prove nothing. Where v1 shows no failure at all, it is
    /// enough that over half of v2's connections fail.
    #[inline(always)]
    pub const fn is_too_much(&self, budget: u32) -> bool {
        let ([n1, n2], [f1, f2]) = (self.flows, self.failures);
        let (n1, n2, f1, f2) = (n1 as u64, n2 as u64, f1 as u64, f2 as u64);
        let is_far_worse = f2 * (n1 + 1) > 4 * (f1 + 1) * n2;
        let is_broken = f1 == 0 && 2 * f2 > n2;
        budget != 0 && f2 >= budget as u64 && (is_far_worse || is_broken)
    }
}

/// What one CPU counts for the fuse of a service: this window's tally and that of the one before. Index of the map: stripe
/// times services of a stripe, plus [`crate::ids::ServiceId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct FuseWindow {
    /// When `now` began, in flow ticks that do not wrap.
    pub since: u32,
    /// Zero.
    pub reserved: u32,
    /// Since then.
    pub now: FuseTally,
    /// In the window before.
    pub before: FuseTally,
}

/// The fuse of a service, shared by all CPUs. Index of the map: [`crate::ids::ServiceId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct FuseCell {
    /// When it blew (monotonic clock, ns); zero: it has not.
    pub blown_ns: u64,
    /// What made it blow.
    pub tally: FuseTally,
}

/// A fuse has blown: an event of a ring buffer of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct FuseAlarm {
    /// Monotonic clock, in nanoseconds.
    pub time_ns: u64,
    /// [`crate::ids::ServiceId`].
    pub service: u32,
    /// Zero.
    pub reserved: u32,
    /// What made it blow.
    pub tally: FuseTally,
}

const _: () = assert!(Signal::ALL.len() <= SIGNAL_SLOTS);
const _: () = assert!(HISTOGRAM_BUCKETS / BUCKETS_PER_LINE <= 32, "a bit for each line");
const _: () = assert!(Version::ALL.len() == 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_microseconds_within_a_thousandth_also_across_the_wrap() {
        for (ns, tolerance_us) in [(0u64, 1), (1_024, 2), (250_000, 3), (1_000_000_000, 10), (60_000_000_000, 1000)] {
            for start in [0u64, 5_000_000_000, (1 << 42) - 70_000] {
                let us = u64::from(turn_us(turn_time(start), turn_time(start + ns)));
                assert!(us.abs_diff(ns / 1000) <= tolerance_us, "{ns} from {start}: {us}");
                let us = u64::from(begin_us(begin_time(start), begin_time(start + ns)));
                assert!(us.abs_diff(ns / 1000) <= tolerance_us + 600, "{ns} from {start}: {us}");
            }
        }
        assert_ne!(begin_time(0), 0);
        let times = FlowTimes::new(7, begin_time(u64::MAX), 200);
        assert_eq!((times.turn, times.begun(), times.group()), (7, begin_time(u64::MAX), 200));
    }

    #[test]
    fn a_mark_changes_nothing_but_itself() {
        let (begun, now) = (turn_time(5_000_003_000), turn_time(9_000_000_000));
        let times = FlowTimes::new(begun, begin_time(1), 200);
        let marked = times.marked_overdue();
        assert!(!times.is_marked_overdue() && marked.is_marked_overdue());
        assert_eq!(turn_us(marked.turn, now), turn_us(begun, now));
        assert_eq!((marked.origin, marked.marked_overdue()), (times.origin, marked));
        let words = [times, marked].map(FlowTimes::to_word);
        assert_eq!(words[1] - words[0], 1);
    }

    #[test]
    fn a_fuse_needs_its_budget_and_a_v1_that_does_far_better() {
        let tally = |n1, f1, n2, f2| FuseTally { flows: [n1, n2], failures: [f1, f2] };
        for (tally, expected) in [
            (tally(20, 0, 20, 20), true),
            (tally(20, 0, 19, 19), false),
            // Few of v1's connections, but none failed, and most of v2's do.
            (tally(0, 0, 20, 20), true),
            (tally(2, 0, 38, 20), true),
            (tally(2, 0, 41, 20), false),
            // A fault that v1 shares.
            (tally(20, 20, 20, 20), false),
            (tally(1, 1, 50, 50), false),
            (tally(1_000, 60, 1_000, 200), false),
            (tally(1_000, 40, 1_000, 200), true),
            // A base rate that v1 had too few connections to show.
            (tally(1_000, 0, 99_000, 20), false),
            (tally(1_000, 0, 1_000, 20), true),
        ] {
            assert_eq!(tally.is_too_much(20), expected, "{tally:?}");
        }
        assert!(!tally(20, 0, 20, 20).is_too_much(0), "no fuse");
    }
}
