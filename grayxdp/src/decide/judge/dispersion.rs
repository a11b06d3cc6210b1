//! How many bad ones count as one.
//!
//! What is random is which version a client, or a connection, goes to; what is counted is connections and responses. Where
//! a client's errors come in bursts, or a server's, they are not independent, and a test that takes them for so raises
//! false alarms by the dozen. So log-evidence is divided by the dispersion φ: how much more the counts vary than
//! independent ones would. For errors in bursts of B each, φ = E[B²]/E[B]. This is a quasi-likelihood: right for large
//! numbers, not exact. (Since `x^(1/φ)` is concave for φ ≥ 1, it never makes a valid test invalid.)
//!
//! Two ways to measure it, both within a version, so that a difference between the versions does not count:
//! [`Groups`] by how unevenly errors fall upon groups of clients. Each group is a control group, compared with all others
//! of its version; the usual two control groups of the canary's size are one such pair, of more than thirty thousand.
//! [`Residual`] by how much v2's part of the bad ones jumps from tick to tick, where groups are not counted.

use serde::{Deserialize, Serialize};

use crate::decide::signals::GroupCounts;

/// φ until errors say otherwise, and as how many errors that counts. One burst alone never makes a case then.
const GROUPS_PRIOR: f64 = 4.0;
const GROUPS_PRIOR_ERRORS: f64 = 5.0;

/// Flows and errors by groups of clients since the release began.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Groups {
    v1: Vec<(u64, u64)>,
    v2: Vec<(u64, u64)>,
    errors: f64,
    flows: f64,
}

impl Groups {
    /// Takes a tick in.
    pub(super) fn absorb(&mut self, v1: &[GroupCounts], v2: &[GroupCounts]) {
        if v1.is_empty() && v2.is_empty() {
            return;
        }
        add(&mut self.v1, v1);
        add(&mut self.v2, v2);
        self.errors = (GROUPS_PRIOR_ERRORS * GROUPS_PRIOR + errors_squared(&self.v1) + errors_squared(&self.v2))
            / (GROUPS_PRIOR_ERRORS + errors(&self.v1) + errors(&self.v2));
        self.flows = flows_dispersion(&self.v1);
    }

    /// φ of errors, at least one.
    pub(super) fn of_errors(&self) -> f64 {
        if self.v1.is_empty() { GROUPS_PRIOR } else { self.errors.max(1.0) }
    }

    /// φ of v1's connections themselves, at least one: some clients make many.
    pub(super) fn of_flows(&self) -> f64 {
        self.flows.max(1.0)
    }
}

fn add(sums: &mut Vec<(u64, u64)>, more: &[GroupCounts]) {
    if sums.len() < more.len() {
        sums.resize(more.len(), (0, 0));
    }
    for ((flows, errors), group) in sums.iter_mut().zip(more) {
        *flows = flows.saturating_add(group.flows);
        *errors = errors.saturating_add(group.errors);
    }
}

fn errors(groups: &[(u64, u64)]) -> f64 {
    groups.iter().map(|(_, errors)| errors).sum::<u64>() as f64
}

/// `Σ (e_g − p·f_g)²`, the sum of squares about what each group's flows let expect.
fn errors_squared(groups: &[(u64, u64)]) -> f64 {
    let errors = errors(groups);
    let flows = groups.iter().map(|(flows, _)| flows).sum::<u64>() as f64;
    if errors <= 0.0 {
        return 0.0;
    }
    let rate = if flows > 0.0 { errors / flows } else { 0.0 };
    let squares = groups.iter().map(|&(flows, errors)| (errors as f64 - rate * flows as f64).powi(2));
    squares.sum()
}

fn flows_dispersion(groups: &[(u64, u64)]) -> f64 {
    let count = groups.len() as f64;
    let flows = groups.iter().map(|(flows, _)| flows).sum::<u64>() as f64;
    if flows <= 0.0 || count < 2.0 {
        return 1.0;
    }
    let mean = flows / count;
    let squares: f64 = groups.iter().map(|&(flows, _)| (flows as f64 - mean).powi(2)).sum();
    squares / (mean * (count - 1.0))
}

/// So much variance is to be expected of a step from one batch of ticks to the next: enough to tell its size.
const BATCH_VARIANCE: f64 = 1.0;
const RESIDUAL_PRIOR_STEPS: f64 = 10.0;
/// Old steps weigh half after so many.
const STEPS_KEPT: f64 = 512.0;
/// A single step counts as no more than so many times what is usual: a fault that begins is one step.
const STEP_MOST: f64 = 16.0;

/// Dispersion from batch to batch: half the mean square of the steps of v2's standardised excess (von Neumann), which a
/// constant difference between the versions leaves as it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Residual {
    prior: f64,
    excess: f64,
    variance: f64,
    last: Option<f64>,
    steps: f64,
    squares: f64,
}

impl Residual {
    /// φ is so much until enough was seen.
    pub(super) const fn new(prior: f64) -> Self {
        Self { prior, excess: 0.0, variance: 0.0, last: None, steps: 0.0, squares: 0.0 }
    }

    /// Takes a tick in: e2 of e bad ones were v2's, whose share of n was this.
    pub(super) fn absorb(&mut self, e2: f64, e: f64, n: f64, share: f64) {
        if e <= 0.0 || n <= 0.0 {
            return;
        }
        self.excess += e2 - share * e;
        // As if drawn without replacement.
        self.variance += e * share * (1.0 - share) * (1.0 - e / n).max(0.0);
        if self.variance < BATCH_VARIANCE {
            return;
        }
        let excess = self.excess / self.variance.sqrt();
        if let Some(last) = self.last {
            let square = (excess - last).powi(2) / 2.0;
            self.squares += square.min(STEP_MOST * self.mean());
            self.steps += 1.0;
        }
        if self.steps > STEPS_KEPT {
            self.steps /= 2.0;
            self.squares /= 2.0;
        }
        (self.excess, self.variance, self.last) = (0.0, 0.0, Some(excess));
    }

    fn mean(&self) -> f64 {
        let prior = RESIDUAL_PRIOR_STEPS * self.prior;
        (self.squares + prior) / (self.steps + RESIDUAL_PRIOR_STEPS)
    }

    /// φ, at least one; more only where that is no chance of the steps seen.
    pub(super) fn value(&self) -> f64 {
        let by_chance = 2.0 * (2.0 / (self.steps + RESIDUAL_PRIOR_STEPS)).sqrt();
        let mean = self.mean();
        if mean > 1.0 + by_chance { mean } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(errors: impl Fn(u64) -> u64) -> Vec<GroupCounts> {
        (0..256).map(|group| GroupCounts { flows: 1000, errors: errors(group) }).collect()
    }

    #[test]
    fn bursts_of_ten_count_as_ten_and_even_errors_as_one() {
        for (v1, least, most) in [
            (groups(|group| group % 2), 1.0, 1.2),
            (groups(|group| if group % 16 == 0 { 10 } else { 0 }), 8.5, 10.0),
            (groups(|_| 50), 1.0, 1.0),
        ] {
            let mut sums = Groups::default();
            sums.absorb(&v1, &[]);
            let found = sums.of_errors();
            assert!((least..=most).contains(&found), "{found} {least} {most}");
        }
    }

    #[test]
    fn few_errors_leave_the_prior_and_a_fault_of_v2_alone_does_not_count() {
        assert!((Groups::default().of_errors() - GROUPS_PRIOR).abs() < 1e-9);
        let mut sums = Groups::default();
        sums.absorb(&groups(|_| 0), &groups(|_| 500));
        assert!((sums.of_errors() - 1.0).abs() < 1e-9, "{sums:?}");
        let mut one_burst = Groups::default();
        one_burst.absorb(&groups(|_| 0), &groups(|group| if group == 7 { 30 } else { 0 }));
        assert!(one_burst.of_errors() > 20.0);
    }

    #[test]
    fn steps_tell_bursts_but_not_a_constant_difference() {
        // Of 100 bad ones 5 are expected to be v2's; give or take two would be chance.
        for (even, odd, least, most) in [(3.0, 7.0, 1.0, 2.0), (23.0, 27.0, 1.0, 2.0), (0.0, 20.0, 20.0, 60.0)] {
            let mut residual = Residual::new(1.0);
            for tick in 0..200 {
                residual.absorb(if tick % 2 == 0 { even } else { odd }, 100.0, 1e6, 0.05);
            }
            let found = residual.value();
            assert!((least..=most).contains(&found), "{even} {odd}: {found}");
        }
    }

    #[test]
    fn one_step_as_a_fault_begins_changes_little() {
        let mut residual = Residual::new(1.0);
        for tick in 0..100 {
            let noise = if tick % 2 == 0 { 2.0 } else { -2.0 };
            residual.absorb(if tick < 50 { 5.0 } else { 90.0 } + noise, 100.0, 1e6, 0.05);
        }
        assert!(residual.value() < 2.0, "{residual:?}");
    }
}
