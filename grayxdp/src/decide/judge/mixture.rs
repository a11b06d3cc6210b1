//! A test martingale over several alternatives and several beginnings at once.
//!
//! For each alternative `g` of a grid it keeps `A_g = Σ_k w_k π_g Π_{ticks from beginning k} L(g)`. As long as each factor
//! `L` has an expectation of at most one under the null hypothesis, so has the sum over all, which with the weight of the
//! beginnings to come starts at one: it exceeds `1/α` ever in at most a fraction `α` of all releases (Ville 1939), however
//! often one looks. Beginnings that lie in mid-release find what was good at first and is no more: the good time before is
//! not held in its favour.

use serde::{Deserialize, Serialize};

/// Weight of the beginning of the release; the later beginnings share the rest.
const FIRST: f64 = 0.92;
/// A new beginning after so many events: fine enough to miss little, and few enough to cost little.
const EVENTS_BETWEEN: f64 = 8.0;
/// Sums stay finite, however much evidence there is.
const MOST: f64 = 1e300;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Mixture {
    /// `A_g`.
    values: Vec<f64>,
    /// Later beginnings so far.
    beginnings: u32,
    /// Events since the last beginning.
    events: f64,
    /// The weight of the beginnings to come.
    to_come: f64,
}

impl Mixture {
    /// With the prior weights of its alternatives, whose sum is one.
    pub(super) fn new(priors: &[f64]) -> Self {
        let values = priors.iter().map(|prior| FIRST * prior).collect();
        Self { values, beginnings: 0, events: 0.0, to_come: later_weight(0) }
    }

    /// Multiplies by a tick's factors, given as logarithms. `events` is how many things there were to learn from;
    /// beyond the cap, a logarithm, nothing is gathered.
    pub(super) fn absorb(&mut self, priors: &[f64], events: f64, cap: f64, log_factor: impl Fn(usize) -> f64) {
        if self.events >= EVENTS_BETWEEN {
            self.begin(priors);
        }
        self.events += events;
        let most = cap.exp().min(MOST);
        for (index, value) in self.values.iter_mut().enumerate() {
            *value = (*value * log_factor(index).exp()).min(most);
        }
    }

    fn begin(&mut self, priors: &[f64]) {
        self.beginnings = self.beginnings.saturating_add(1);
        self.events = 0.0;
        let left = later_weight(self.beginnings);
        let weight = self.to_come - left;
        self.to_come = left;
        for (value, prior) in self.values.iter_mut().zip(priors) {
            *value += weight * prior;
        }
    }

    /// The logarithm of the e-value.
    pub(super) fn log_value(&self) -> f64 {
        (self.values.iter().sum::<f64>() + self.to_come).ln()
    }
}

/// What is left of the weight of later beginnings after so many of them. It falls as slowly as one over the logarithm, so
/// that a late beginning costs little more than the logarithm of how late it is.
fn later_weight(beginnings: u32) -> f64 {
    (1.0 - FIRST) / (1.0 + f64::from(beginnings).ln_1p())
}

/// `ln(exp a + exp b)`.
pub(super) fn log_sum(a: f64, b: f64) -> f64 {
    let (most, least) = if a > b { (a, b) } else { (b, a) };
    if most == f64::NEG_INFINITY { most } else { most + (least - most).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIORS: [f64; 2] = [0.5, 0.5];

    #[test]
    fn it_begins_at_one_and_beginnings_do_not_change_that() {
        let mut mixture = Mixture::new(&PRIORS);
        for _ in 0..1000 {
            assert!(mixture.log_value().abs() < 1e-9, "{mixture:?}");
            mixture.absorb(&PRIORS, 10.0, f64::INFINITY, |_| 0.0);
        }
    }

    #[test]
    fn a_late_beginning_forgets_the_good_time_before() {
        let mut late = Mixture::new(&PRIORS);
        for _ in 0..1000 {
            late.absorb(&PRIORS, 10.0, f64::INFINITY, |_| -1.0);
        }
        let good = late.log_value();
        let mut ticks = 0;
        while late.log_value() < 5.0 {
            late.absorb(&PRIORS, 10.0, f64::INFINITY, |_| 1.0);
            ticks += 1;
        }
        assert!(good < 0.0 && ticks < 20, "{good} {ticks}");
    }

    #[test]
    fn nothing_is_gathered_beyond_the_cap() {
        let mut mixture = Mixture::new(&PRIORS);
        for _ in 0..100 {
            mixture.absorb(&PRIORS, 1.0, 3.0, |_| 1.0);
        }
        assert!(mixture.log_value() < 3.0 + 2f64.ln() + 0.1, "{mixture:?}");
    }
}
