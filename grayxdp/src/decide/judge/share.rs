//! Does v2 get the share of connections that its weight says? Where not, something is wrong with hash, program or counts, and
//! what is measured cannot be trusted (a "sample ratio mismatch").
//!
//! n2 of n connections went to v2, each with the chance w. `(θ/θm)^n2 · ((1−w+wθm)/(1−w+wθ))^n` has an expectation of at
//! most one as long as the odds are off by no more than the factor θm; and likewise to the other side.

use serde::{Deserialize, Serialize};

use super::mixture::{Mixture, log_sum};

/// Odds may be off by this much, by rounding of weights and the moment at which one moved.
const TOLERATED: f64 = 1.1;
/// The same where clients are placed by address: some make many connections, and there may be few.
const TOLERATED_OF_CLIENTS: f64 = 2.0;
/// So many may go the wrong way at a weight of zero or one.
const ODD_ONES: f64 = 0.001;
/// New beginnings need not be that frequent.
const CONNECTIONS_AS_ONE: f64 = 50.0;
/// How far beyond that.
const BEYOND: [f64; 4] = [1.1, 1.4, 3.0, 20.0];
const PRIORS: [f64; 4] = [0.25; 4];

/// Evidence that the share is not the weight.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct ShareTest {
    tolerated: f64,
    more: Mixture,
    less: Mixture,
    n1: u64,
    n2: u64,
    /// The nearest to `n2` that the weights allow.
    expected2: f64,
}

impl ShareTest {
    pub(super) fn new(correlated: bool) -> Self {
        Self {
            tolerated: if correlated { TOLERATED_OF_CLIENTS } else { TOLERATED },
            more: Mixture::new(&PRIORS),
            less: Mixture::new(&PRIORS),
            n1: 0,
            n2: 0,
            expected2: 0.0,
        }
    }

    /// Takes a tick's connections in, but for those that no weight placed. The weights were from the lowest to the highest,
    /// by the moment or by the shard; any share in between is as it should be. Beyond the cap no evidence is kept, so that the
    /// alarm ends when its cause does.
    pub(super) fn absorb(&mut self, n1: u64, n2: u64, (low, high): (f64, f64), dispersion: f64, cap: f64) {
        self.n1 = self.n1.saturating_add(n1);
        self.n2 = self.n2.saturating_add(n2);
        let (n1, n2) = (n1 as f64, n2 as f64);
        let n = n1 + n2;
        if n <= 0.0 {
            return;
        }
        self.expected2 += n2.max(n * low).min(n * high);
        let tolerated = self.tolerated;
        let log_factor = |mine: f64, all: f64, weight: f64, index: usize| {
            let beyond = tolerated * BEYOND[index];
            let log_norm = |odds: f64| (1.0 + weight * (odds - 1.0)).ln();
            (mine * BEYOND[index].ln() + all * (log_norm(tolerated) - log_norm(beyond))) / dispersion
        };
        // Under a weight of zero one connection would be proof, though it may have begun a moment before.
        let (of_v1, of_v2) = ((1.0 - low).max(ODD_ONES), high.max(ODD_ONES));
        self.more.absorb(&PRIORS, n / (CONNECTIONS_AS_ONE * dispersion), cap, |index| log_factor(n2, n, of_v2, index));
        self.less.absorb(&PRIORS, n / (CONNECTIONS_AS_ONE * dispersion), cap, |index| log_factor(n1, n, of_v1, index));
    }

    /// The logarithm of the evidence: the mean of both sides.
    pub(super) fn log_value(&self) -> f64 {
        log_sum(self.more.log_value(), self.less.log_value()) - std::f64::consts::LN_2
    }

    /// Connections of v1, of v2, and how many of v2 the weights let expect: where they allow several numbers, the nearest.
    pub(super) const fn counted(&self) -> (u64, u64, f64) {
        (self.n1, self.n2, self.expected2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_not_the_weight_is_found_within_seconds() {
        for (n2, weight, expected) in [
            (50, (0.05, 0.05), false),
            (53, (0.05, 0.05), false),
            (100, (0.05, 0.05), true),
            (20, (0.05, 0.05), true),
            (0, (0.05, 0.05), true),
            (100, (0.05, 0.1), false),
            (0, (0.0, 0.0), false),
            (1, (0.0, 0.0), false),
            (100, (0.0, 0.0), true),
            (1000, (1.0, 1.0), false),
            (500, (1.0, 1.0), true),
        ] {
            let mut test = ShareTest::new(false);
            for _ in 0..20 {
                test.absorb(1000 - n2, n2, weight, 1.0, f64::INFINITY);
            }
            assert_eq!(test.log_value() > 2500f64.ln(), expected, "{n2} {weight:?}: {}", test.log_value());
        }
    }

    #[test]
    fn clients_that_make_many_connections_raise_no_alarm() {
        let mut test = ShareTest::new(true);
        for tick in 0..600 {
            let n2 = if tick % 20 == 0 { 400 } else { 40 };
            test.absorb(1000 - n2, n2, (0.05, 0.05), 10.0, f64::INFINITY);
        }
        assert!(test.log_value() < 3.0, "{}", test.log_value());
    }
}
