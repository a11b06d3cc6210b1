//! What holds for all services: one cache line that every packet reads.

use super::{IdleTicks, Owners};

/// The one value of the control map. Written by the agent, word by word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct Control {
    /// The table of owners that is in use.
    pub owners: Owners,
    /// Key of the flow hash.
    pub flow_key: [u64; 2],
    /// Buckets of the flow table.
    pub flow_buckets: u32,
    /// The table of routes in use (0 or 1).
    pub routes: u32,
    /// How long flows may be idle.
    pub idle_ticks: IdleTicks,
    /// What is traced. Changed by the packet program, too, which ends what is over.
    pub trace: Tracing,
    /// `full-nat`: the lowest source port.
    pub source_port_first: u16,
    /// `full-nat`: how many source ports an address has.
    pub source_port_count: u16,
    /// Until when (monotonic clock, in flow ticks that do not wrap) next hops and routes in the maps may be gone by. The
    /// agent moves it on while it lives; afterwards the kernel is asked, for a neighbour's MAC address may have changed
    /// with nobody there to notice.
    pub hops_until: u32,
    /// Rows of one stripe of signals: backends with a higher number have none.
    pub signal_rows: u16,
    /// Services of one stripe of groups and fuses: those with a higher number have none.
    pub signal_services: u16,
    /// Stripes of signals, groups and fuses: one for each CPU. The agent's own comes behind them.
    pub signal_stripes: u32,
}

/// What is traced, and until when: one word, so that all of it changes at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Tracing {
    /// One packet in so many; zero: none.
    pub one_in: u32,
    /// [`TRACE_ALL`], or the number of the one service that is traced.
    pub service: u16,
    /// The flow tick (which wraps) from which on it is over. The agent moves it on while somebody reads, so that nothing is
    /// traced for long when the agent is gone.
    pub until: u16,
}

/// [`Tracing::service`]: packets of all services, and of none.
pub const TRACE_ALL: u16 = u16::MAX;

impl Tracing {
    /// Nothing is traced.
    pub const OFF: Self = Self { one_in: 0, service: TRACE_ALL, until: 0 };

    /// From the whole word.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "shifted to the bits that are wanted")]
    pub const fn from_word(word: u64) -> Self {
        Self { one_in: word as u32, service: (word >> 32) as u16, until: (word >> 48) as u16 }
    }

    /// The whole word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.one_in as u64 | (self.service as u64) << 32 | (self.until as u64) << 48
    }

    /// Whether its time is over. The first packet after that ends it for good: nine hours later, the tick has wrapped.
    #[inline(always)]
    pub const fn is_over(self, now_tick: u16) -> bool {
        now_tick.wrapping_sub(self.until) < 1 << 15
    }
}

const _: () = assert!(size_of::<Tracing>() == 8 && core::mem::offset_of!(Control, trace) % 8 == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_over_when_its_tick_has_come_also_across_the_wrap() {
        for (until, now, expected) in
            [(10, 9, false), (10, 10, true), (10, 500, true), (3, 65_530, false), (65_530, 3, true)]
        {
            let tracing = Tracing { one_in: 7, service: 3, until };
            assert_eq!(tracing.is_over(now), expected, "{until} {now}");
            assert_eq!(Tracing::from_word(tracing.to_word()), tracing);
        }
    }
}

/// The one value of the pinned map that says what the pins are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Meta {
    /// [`crate::LAYOUT_VERSION`]; zero until the maps are filled for the first time.
    pub layout_version: u32,
    /// Buckets of the flow table.
    pub flow_buckets: u32,
    /// Key of the flow hash, drawn when the flow table was made.
    pub flow_key: [u64; 2],
}
