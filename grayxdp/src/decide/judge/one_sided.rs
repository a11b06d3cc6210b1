//! Is a rate higher than a known one? For absolute limits, and for a version against its own past.
//!
//! e of n went bad; under the null hypothesis with a chance of at most p0 each. Then `θ^e · exp(−(θ−1)·p0·n)` has an
//! expectation of at most one for every θ > 1. Errors that come later than their connections make it smaller.

use serde::{Deserialize, Serialize};

use super::mixture::Mixture;

/// How many times p0, and what part of the evidence looks for that.
const TIMES: [f64; 5] = [1.25, 1.7, 3.0, 8.0, 40.0];
const PRIORS: [f64; 5] = [0.2; 5];

/// Evidence that a rate is too high.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct TooHigh {
    mixture: Mixture,
    n: u64,
    e: u64,
    recent_n: f64,
    recent_e: f64,
}

/// What was counted of late weighs half when so many bad ones were to be expected of it.
const RECENT_EXPECTED: f64 = 100.0;

impl TooHigh {
    pub(super) fn new() -> Self {
        Self { mixture: Mixture::new(&PRIORS), n: 0, e: 0, recent_n: 0.0, recent_e: 0.0 }
    }

    /// Takes a tick in; no more evidence than the cap is kept, so that better times take it back soon.
    pub(super) fn absorb(&mut self, n: u64, e: u64, limit: f64, dispersion: f64, cap: f64) {
        if n == 0 && e == 0 {
            return;
        }
        self.n = self.n.saturating_add(n);
        self.e = self.e.saturating_add(e);
        let (n, e) = (n as f64, e as f64);
        let expected = limit * n;
        self.recent_n += n;
        self.recent_e += e;
        if self.recent_n * limit > RECENT_EXPECTED {
            self.recent_n /= 2.0;
            self.recent_e /= 2.0;
        }
        self.mixture.absorb(&PRIORS, (e + expected) / dispersion, cap, |index| {
            let times = TIMES[index];
            (e * times.ln() - (times - 1.0) * expected) / dispersion
        });
    }

    /// The logarithm of the evidence.
    pub(super) fn log_value(&self) -> f64 {
        self.mixture.log_value()
    }

    /// How many there were, and how many of them went bad.
    pub(super) const fn counted(&self) -> (u64, u64) {
        (self.n, self.e)
    }

    /// The rate of late; zero before anything was counted.
    pub(super) fn rate(&self) -> f64 {
        if self.recent_n > 0.0 { self.recent_e / self.recent_n } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_above_the_limit_is_found_and_one_below_is_not() {
        for (e, expected) in [(5, false), (9, false), (20, true), (100, true)] {
            let mut test = TooHigh::new();
            for _ in 0..60 {
                test.absorb(1000, e, 0.01, 1.0, f64::INFINITY);
            }
            assert_eq!(test.log_value() > 100f64.ln(), expected, "{e}: {}", test.log_value());
        }
    }

    #[test]
    fn under_a_cap_better_times_take_it_back() {
        let mut test = TooHigh::new();
        for _ in 0..600 {
            test.absorb(1000, 500, 0.01, 1.0, 8.0);
        }
        assert!(test.log_value() > 7.0);
        for _ in 0..20 {
            test.absorb(1000, 10, 0.01, 1.0, 8.0);
        }
        assert!(test.log_value() < 3.0, "{}", test.log_value());
    }
}
