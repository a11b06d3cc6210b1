//! When a sweep is, as the times of flows are told.

use grayxdp_common::layout::{OVERDUE_US, begin_age, begin_time, turn_time};

/// Half-open flows older than this have not been answered in time: 4 s, in units of [`begin_time`]. A SYN is repeated after
/// one second, and after two more.
const HANDSHAKE_MAX: u32 = 15_259;
/// Larger ages are those of flows that begin now.
const AGE_MAX: u32 = 1 << 23;
/// The age of a turn that is overdue, in units of [`turn_time`].
const OVERDUE: u32 = turn_time(OVERDUE_US as u64 * 1000);

/// A sweep's moment, and that of the one before.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Moment {
    begin: u32,
    turn: u32,
    turn_before: Option<u32>,
}

impl Moment {
    /// Of a sweep at this time of the monotonic clock.
    pub(in crate::kernel) fn new(now_ns: u64, before: Option<Self>) -> Self {
        let turn_before = before.map(|before| before.turn);
        Self { begin: begin_time(now_ns), turn: turn_time(now_ns), turn_before }
    }

    /// Whether a flow that began at this [`begin_time`], and is still half open, should have been answered by now.
    pub(super) fn is_handshake_overdue(&self, begun: u32) -> bool {
        // One that begins now may seem to begin later than this look began.
        begun != 0 && (HANDSHAKE_MAX..AGE_MAX).contains(&begin_age(begun, self.begin))
    }

    /// Whether a turn that began at this [`turn_time`] has become overdue since the sweep before; or has not been so yet, in
    /// the last sweep of its flow. At one sweep each turn has, but for those that last longer than the time wraps; at the
    /// first sweep none has.
    pub(super) fn is_turn_overdue(&self, begun: u32, is_last: bool) -> bool {
        let Some(before) = self.turn_before else { return false };
        let (age, since) = (self.turn.wrapping_sub(begun), self.turn.wrapping_sub(before));
        let was_overdue = age >= since && age - since >= OVERDUE;
        (age >= OVERDUE || is_last) && !was_overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_becomes_overdue_at_one_sweep_whenever_it_begins() {
        let ms = |ms: u64| ms * 1_000_000;
        // The third one begins where the time wraps.
        for start in [ms(10_000), ms(123_456_789), ((1 << 32) - 1_000_000) << 10] {
            for offset in [0, 1, 499, 500, 999] {
                let begun = turn_time(start + ms(offset));
                let mut before = None;
                let mut overdue_at = Vec::new();
                for sweep in (0..20_000).step_by(1000) {
                    let moment = Moment::new(start + ms(500) + ms(sweep), before);
                    if moment.is_turn_overdue(begun, false) {
                        overdue_at.push(500 + sweep - offset);
                    }
                    before = Some(moment);
                }
                assert_eq!(overdue_at.len(), 1, "{start} {offset}: {overdue_at:?}");
                assert!((3000..4000).contains(&overdue_at[0]), "{start} {offset}: {overdue_at:?}");
            }
        }
    }

    #[test]
    fn the_last_sweep_of_a_flow_is_the_last_chance() {
        let at = |ms: u64, before: Option<u64>| {
            Moment::new(ms * 1_000_000, before.map(|ms| Moment::new(ms * 1_000_000, None)))
        };
        let begun = turn_time(1_000_000_000);
        for (moment, is_last, expected) in [
            (at(2000, Some(1500)), false, false),
            (at(2000, Some(1500)), true, true),
            (at(4500, Some(3500)), true, true),
            // The sweep before has told of it.
            (at(6000, Some(5000)), true, false),
            (at(6000, None), true, false),
        ] {
            assert_eq!(moment.is_turn_overdue(begun, is_last), expected, "{moment:?} {is_last}");
        }
    }
}
