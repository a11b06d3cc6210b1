//! Do both versions fail, who were well before? Then something that both need has failed: v2 is not to blame, and a moment
//! to go on it is not.

use serde::{Deserialize, Serialize};

use super::one_sided::TooHigh;

/// A base rate may grow by so many times and still count as drift.
const DRIFT: f64 = 2.0;
/// v1's past is known after so many connections, and weighs half when there is so much of it.
const PAST_LEAST: f64 = 500.0;
const PAST_MOST: f64 = 1e6;
/// While there is this much evidence of trouble, the past does not learn from it.
const TROUBLE: f64 = 1.0;
/// More evidence than this beyond the alarm is not kept, so that it ends soon after the trouble.
const BEYOND: f64 = 3.0;

/// Both versions' error rates against v1's past.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct BothFail {
    past_n: f64,
    past_e: f64,
    v1: TooHigh,
    v2: TooHigh,
}

impl BothFail {
    pub(super) fn new() -> Self {
        Self { past_n: 0.0, past_e: 0.0, v1: TooHigh::new(), v2: TooHigh::new() }
    }

    /// Takes a tick in: connections, or responses, and errors of v1 and of v2.
    pub(super) fn absorb(&mut self, (n1, e1): (u64, u64), (n2, e2): (u64, u64), dispersion: f64, log_limit: f64) {
        if self.past_n >= PAST_LEAST {
            // As if one more had failed: a past without errors does not forbid the first one.
            let usual = DRIFT * (self.past_e + dispersion) / self.past_n;
            let cap = log_limit + BEYOND;
            self.v1.absorb(n1, e1, usual.min(1.0), dispersion, cap);
            self.v2.absorb(n2, e2, usual.min(1.0), dispersion, cap);
        }
        if self.v1.log_value() < TROUBLE {
            self.past_n += n1 as f64;
            self.past_e += e1 as f64;
            if self.past_n > PAST_MOST {
                self.past_n /= 2.0;
                self.past_e /= 2.0;
            }
        }
    }

    /// The logarithm of the evidence that both fail: that of the version for which there is less.
    pub(super) fn log_value(&self) -> f64 {
        self.v1.log_value().min(self.v2.log_value())
    }

    /// Of v1 and of v2, since v1's past is known: how many there were, and how many of them went bad.
    pub(super) const fn counted(&self) -> ((u64, u64), (u64, u64)) {
        (self.v1.counted(), self.v2.counted())
    }

    /// v1's rate of late.
    pub(super) fn now(&self) -> f64 {
        self.v1.rate()
    }

    /// v1's usual rate.
    pub(super) fn usual(&self) -> f64 {
        if self.past_n > 0.0 { self.past_e / self.past_n } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: f64 = 5.0;

    fn after(ticks: &[(usize, u64, u64)]) -> BothFail {
        let mut both = BothFail::new();
        for &(count, e1, e2) in ticks {
            for _ in 0..count {
                both.absorb((1900, e1), (100, e2), 1.0, LIMIT);
            }
        }
        both
    }

    #[test]
    fn both_fail_only_if_both_do_and_until_they_recover() {
        for (ticks, expected) in [
            (vec![(60, 2, 0)], false),
            (vec![(60, 2, 0), (5, 600, 30)], true),
            (vec![(60, 2, 0), (600, 600, 30)], true),
            (vec![(60, 2, 0), (600, 600, 30), (60, 2, 0)], false),
            (vec![(60, 2, 0), (5, 600, 0)], false),
            (vec![(60, 2, 0), (5, 2, 30)], false),
            (vec![(60, 190, 10), (60, 280, 15)], false),
            (vec![(1, 600, 30)], false),
        ] {
            let both = after(&ticks);
            assert_eq!(both.log_value() >= LIMIT, expected, "{ticks:?}: {both:?}");
        }
    }
}
