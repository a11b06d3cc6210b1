//! Which connections are errors to be held against? An error is seen when it happens, up to seconds after its connection
//! began; meanwhile the weight may have moved.
//!
//! An error of this tick belongs to a connection of one of the last ticks, nobody knows which. So v2's share is taken of
//! all connections of that time. Where the weight was the same throughout, that is all. Where it moved, the share of each
//! moment is the measured one times that moment's weight over the mean weight; the lowest and the highest of them are the
//! range that is handed on, and the tests keep what they promise for every share in it.
//!
//! A connection that fails later than [`super::JudgeConfig::lag`] says may be held against another weight than its own. Where
//! the weight has risen since, that speaks for v2. Where it has fallen, it would speak against v2; so a high weight stays in
//! the range for [`PEAK_SECONDS`], from one release to the next, too. What fails later still after the weight fell is held
//! against the lower one: resets of long connections, and deaths of idle ones, which come an hour after their last packet by
//! default. There, an equal v2 may be blamed. A longer memory would take that away, and leave a release that goes on at a
//! lower weight without a test of errors for as long.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::ratio::Share;

/// A weight that has fallen is remembered for so long: some of its connections may still fail.
const PEAK_SECONDS: f64 = 300.0;
/// So many slots at most; shorter ticks share one.
const SLOTS: f64 = 30.0;

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Slot {
    seconds: f64,
    n1: f64,
    n2: f64,
    low: f64,
    high: f64,
}

/// The connections of the last seconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Exposure {
    lag_seconds: f64,
    /// The oldest one first.
    slots: VecDeque<Slot>,
    /// Weights, each higher than all that came later, and for how many seconds they are still remembered.
    peaks: VecDeque<(f64, f64)>,
}

/// What errors of this tick are held against.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Exposed {
    /// v2's share; `None` without connections.
    pub(super) share: Option<Share>,
    /// So many connections of v2 have had their time to fail, in this tick.
    pub(super) past: f64,
    /// The weight has fallen within the lag.
    pub(super) fell: bool,
    /// Connections a second, of v1 and v2.
    pub(super) rates: (f64, f64),
}

impl Exposure {
    /// As if nothing had gone to v2 until now.
    pub(super) fn new(lag_seconds: f64) -> Self {
        let nothing = Slot { seconds: lag_seconds, n1: 0.0, n2: 0.0, low: 0.0, high: 0.0 };
        Self { lag_seconds, slots: VecDeque::from([nothing]), peaks: VecDeque::new() }
    }

    /// Takes a tick's connections in; weights are 0 to 1.
    pub(super) fn absorb(&mut self, seconds: f64, n1: f64, n2: f64, (low, high): (f64, f64)) -> Exposed {
        self.remember(seconds, high);
        self.push(Slot { seconds, n1, n2, low, high });
        let past = self.expire();
        let sum = |of: fn(&Slot) -> f64| self.slots.iter().map(of).sum::<f64>();
        let (n1, n2, covered) = (sum(|slot| slot.n1), sum(|slot| slot.n2), sum(|slot| slot.seconds));
        let expected = sum(|slot| (slot.n1 + slot.n2) * f64::midpoint(slot.low, slot.high));
        let lowest = self.slots.iter().fold(1.0, |least, slot| slot.low.min(least));
        let highest_of_late = self.slots.iter().fold(0.0, |most, slot| slot.high.max(most));
        let highest = self.peaks.front().map_or(high, |(weight, _)| *weight);
        let n = n1 + n2;
        let share = (n > 0.0).then(|| {
            let mean = n2 / n;
            if lowest >= highest {
                return Share::exactly(mean);
            }
            // Nothing was placed by weight: what there is was pinned.
            let scale = |weight: f64| if expected > 0.0 { weight * n / expected } else { 1.0 };
            let (low, high) = (mean * scale(lowest), mean * scale(highest));
            Share { low: low.min(mean), mean, high: high.clamp(mean, 1.0), among: None }
        });
        let span = covered.max(1e-3);
        Exposed { share, past, fell: low < highest_of_late, rates: (n1 / span, n2 / span) }
    }

    fn remember(&mut self, seconds: f64, high: f64) {
        for (_, left) in &mut self.peaks {
            *left -= seconds;
        }
        self.peaks.retain(|&(weight, left)| weight > high && left > 0.0);
        self.peaks.push_back((high, PEAK_SECONDS));
    }

    fn push(&mut self, tick: Slot) {
        let slot_seconds = self.lag_seconds / SLOTS;
        match self.slots.back_mut() {
            Some(last) if last.seconds + tick.seconds <= slot_seconds => {
                last.seconds += tick.seconds;
                last.n1 += tick.n1;
                last.n2 += tick.n2;
                last.low = last.low.min(tick.low);
                last.high = last.high.max(tick.high);
            }
            _ => self.slots.push_back(tick),
        }
    }

    /// Drops what is older than the lag; says how many connections of v2 were in it.
    fn expire(&mut self) -> f64 {
        let mut covered: f64 = self.slots.iter().map(|slot| slot.seconds).sum();
        let mut past = 0.0;
        while self.slots.len() > 1
            && let Some(oldest) = self.slots.front()
            && covered - oldest.seconds >= self.lag_seconds
        {
            covered -= oldest.seconds;
            past += oldest.n2;
            self.slots.pop_front();
        }
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ticks: &[(f64, f64, f64, f64)]) -> Exposed {
        let mut exposure = Exposure::new(10.0);
        let absorbed =
            ticks.iter().map(|&(seconds, n1, n2, weight)| exposure.absorb(seconds, n1, n2, (weight, weight)));
        absorbed.last().expect("at least one tick")
    }

    #[test]
    fn at_a_steady_weight_the_share_is_the_measured_one() {
        let exposed = after(&[(1.0, 94.0, 6.0, 0.05); 30]);
        assert_eq!(exposed.share, Some(Share::exactly(0.06)));
        assert_eq!((exposed.past, exposed.rates, exposed.fell), (6.0, (94.0, 6.0), false));
    }

    #[test]
    fn at_first_nothing_is_surely_old_enough() {
        let exposed = after(&[(1.0, 95.0, 5.0, 0.05); 5]);
        assert_eq!((exposed.share.map(|share| share.low), exposed.past), (Some(0.0), 0.0));
    }

    #[test]
    fn a_moved_weight_leaves_a_range_around_all_that_it_was() {
        let mut ticks = vec![(1.0, 95.0, 5.0, 0.05); 20];
        ticks.extend([(1.0, 90.0, 10.0, 0.1); 5]);
        let share = after(&ticks).share.expect("connections");
        assert!((share.low - 0.05).abs() < 1e-9 && (share.high - 0.1).abs() < 1e-9, "{share:?}");
        ticks.extend([(1.0, 95.0, 5.0, 0.05); 60]);
        let exposed = after(&ticks);
        let share = exposed.share.expect("connections");
        assert!((share.high - 0.1).abs() < 1e-9 && (share.low - 0.05).abs() < 1e-9 && !exposed.fell, "{exposed:?}");
        ticks.extend([(1.0, 95.0, 5.0, 0.05); 300]);
        assert_eq!(after(&ticks).share, Some(Share::exactly(0.05)));
    }

    #[test]
    fn odd_times_do_no_harm() {
        for seconds in [0.0, 1e-9, 1e9] {
            let exposed = after(&[(seconds, 95.0, 5.0, 0.05); 100]);
            let share = exposed.share.expect("connections");
            assert!((share.mean - 0.05).abs() < 1e-9 && exposed.rates.0.is_finite(), "{seconds} {exposed:?}");
        }
        assert_eq!(after(&[(1.0, 0.0, 0.0, 0.05); 3]).share, None);
    }

    #[test]
    fn only_pinned_connections_have_the_share_that_they_have() {
        assert_eq!(after(&[(1.0, 90.0, 10.0, 0.0); 30]).share, Some(Share::exactly(0.1)));
    }
}
