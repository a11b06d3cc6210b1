//! When a sweep is, as the times of flows are told.

use grayxdp_common::layout::{OVERDUE_US, begin_age, begin_time, turn_time};

/// Half-open flows older than this have not been answered in time: 4 s, in units of [`begin_time`]. A SYN is repeated after
/// one second, and after two more.
const HANDSHAKE_MAX: u32 = 15_259;
/// Larger ages are those of flows that begin now.
const AGE_MAX: u32 = 1 << 23;
/// The age of a turn that is overdue, in units of [`turn_time`].
const OVERDUE_AGE: u32 = turn_time(OVERDUE_US as u64 * 1000);
/// Larger ages are those of turns that begin now.
const TURN_AGE_MAX: u32 = 1 << 31;

/// A sweep's moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Moment {
    begin: u32,
    turn: u32,
}

impl Moment {
    /// Of a sweep at this time of the monotonic clock.
    pub(in crate::kernel) const fn new(now_ns: u64) -> Self {
        Self { begin: begin_time(now_ns), turn: turn_time(now_ns) }
    }

    /// Whether a flow that began at this [`begin_time`], and is still half open, should have been answered by now.
    pub(super) fn is_handshake_overdue(&self, begun: u32) -> bool {
        // One that begins now may seem to begin later than this look began.
        begun != 0 && (HANDSHAKE_MAX..AGE_MAX).contains(&begin_age(begun, self.begin))
    }

    /// Whether a turn that began at this [`turn_time`] is overdue.
    pub(super) fn is_turn_overdue(&self, begun: u32) -> bool {
        (OVERDUE_AGE..TURN_AGE_MAX).contains(&self.turn.wrapping_sub(begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_overdue_three_seconds_after_it_began_and_not_before_it_began() {
        let ms = |ms: u64| ms * 1_000_000;
        // The third one begins where the time wraps.
        for start in [ms(10_000), ms(123_456_789), ((1 << 32) - 1_000_000) << 10] {
            let begun = turn_time(start);
            let overdue = |after_ms| Moment::new(start + ms(after_ms)).is_turn_overdue(begun);
            let found = [0, 1, 2_999, 3_001, 60_000, 1_800_000].map(overdue);
            assert_eq!(found, [false, false, false, true, true, true], "{start}");
            assert!(!Moment::new(start - ms(5)).is_turn_overdue(begun), "{start}");
        }
    }
}
