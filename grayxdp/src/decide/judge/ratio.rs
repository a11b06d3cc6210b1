//! Is v2's rate of something bad higher than v1's, is it surely not, and where is the ratio?
//!
//! In a tick, n1 and n2 things could go bad, e1 and e2 did; ρ = n2/(n1+n2), e = e1+e2. If there is no difference, the bad
//! ones are a random choice among all, and e2 is hypergeometric, whatever the base rate was. As `θ^x` is convex,
//! `E θ^e2 ≤ (1−ρ+ρθ)^e` (Hoeffding 1963, theorem 4), so `L(θ) = θ^e2 / (1−ρ+ρθ)^e` has an expectation of at most one: no
//! approximation, no least count, and the base rate may move as it likes, since v1 and v2 are only compared within a tick.
//! To tolerate a ratio θ0, `L(θ)/L(θ0)` is taken; that is exact for Poisson counts, and for rare errors as good as exact.
//!
//! The same with the roles exchanged proves that v2 is no worse than a margin θ1: null hypothesis θ ≥ θ1, alternatives below.
//!
//! Where ρ is known to lie in a range only, harm is tested by its upper end and the absence of harm by its lower one: both
//! factors are largest in expectation there.

use serde::{Deserialize, Serialize};

use super::{
    ledger::Ledger,
    mixture::{Mixture, log_sum},
};

/// How many times as bad as what is tolerated, and what part of the evidence looks for that.
const WORSE: [f64; 8] = [1.15, 1.35, 1.6, 2.1, 3.0, 5.0, 12.0, 45.0];
const WORSE_PRIORS: [f64; 8] = [0.06, 0.10, 0.16, 0.16, 0.14, 0.13, 0.13, 0.12];
/// Ratios to v1 that are no worse, and the same of these.
const BETTER: [f64; 4] = [0.25, 0.7, 1.0, 1.15];
const BETTER_PRIORS: [f64; 4] = [0.1, 0.2, 0.5, 0.2];
/// Parts of the rate that is negligible, and the same of these.
pub(super) const RARE: [f64; 2] = [0.05, 0.4];
const RARE_PRIORS: [f64; 2] = [0.5, 0.5];
/// Evidence for v2 is gathered so far beyond what is needed, so that a turn for the worse takes it back within moments.
const BEYOND: f64 = 3.0;

/// What is compared with what.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Bounds {
    /// θ0.
    pub(super) tolerate: f64,
    /// θ1.
    pub(super) margin: f64,
    /// What is good as a rate, whatever v1's is.
    pub(super) negligible: f64,
    /// The chance of each proof to be wrong.
    pub(super) alpha: f64,
}

/// A tick's counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) n1: u64,
    pub(super) n2: u64,
    pub(super) e1: u64,
    pub(super) e2: u64,
}

impl Counted {
    /// v2's share of what could go bad; `None` if nothing could.
    pub(super) fn share(&self) -> Option<f64> {
        let n = self.n1 + self.n2;
        (n > 0).then(|| self.n2 as f64 / n as f64)
    }

    /// Adds what came later.
    pub(super) const fn add(&mut self, more: &Self) {
        self.n1 = self.n1.saturating_add(more.n1);
        self.n2 = self.n2.saturating_add(more.n2);
        self.e1 = self.e1.saturating_add(more.e1);
        self.e2 = self.e2.saturating_add(more.e2);
    }
}

/// In which range v2's share lay, when that began from which the bad ones came.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Share {
    pub(super) low: f64,
    pub(super) mean: f64,
    pub(super) high: f64,
}

impl Share {
    pub(super) const fn exactly(share: f64) -> Self {
        Self { low: share, mean: share, high: share }
    }
}

/// One comparison of two rates.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct RatioTest {
    worse: Mixture,
    no_worse: Mixture,
    rare: Mixture,
    ledger: Ledger,
}

impl RatioTest {
    pub(super) fn new() -> Self {
        Self {
            worse: Mixture::new(&WORSE_PRIORS),
            no_worse: Mixture::new(&BETTER_PRIORS),
            rare: Mixture::new(&RARE_PRIORS),
            ledger: Ledger::default(),
        }
    }

    /// Takes a tick in. `past` is how many of v2's things are old enough to have gone bad by now; `dispersion`, at least
    /// one, is how many bad ones count as one.
    pub(super) fn absorb(&mut self, bounds: &Bounds, counted: &Counted, share: Share, past: f64, dispersion: f64) {
        let e2 = counted.e2 as f64;
        let e = counted.e1 as f64 + e2;
        let cap = (1.0 / bounds.alpha).ln() + BEYOND;
        if past > 0.0 || e2 > 0.0 {
            let expected = bounds.negligible * past;
            self.rare.absorb(&RARE_PRIORS, (e2 + expected) / dispersion, cap, |index| {
                (e2 * RARE[index].ln() + (1.0 - RARE[index]) * expected) / dispersion
            });
        }
        self.ledger.count(counted);
        if e <= 0.0 {
            return;
        }
        let log_norm = |share: f64, ratio: f64| (1.0 + share * (ratio - 1.0)).ln();
        // Without connections of v2 that could have gone bad, or of v1, there is nothing to compare with.
        if share.high > 0.0 && share.high < 1.0 {
            let tolerated = log_norm(share.high, bounds.tolerate);
            self.worse.absorb(&WORSE_PRIORS, e / dispersion, f64::INFINITY, |index| {
                let times = WORSE[index];
                (e2 * times.ln() + e * (tolerated - log_norm(share.high, times * bounds.tolerate))) / dispersion
            });
            self.ledger.add(e2, e, share.mean, dispersion);
        }
        if share.low > 0.0 && share.low < 1.0 {
            let at_margin = log_norm(share.low, bounds.margin);
            self.no_worse.absorb(&BETTER_PRIORS, e / dispersion, cap, |index| {
                let ratio = BETTER[index].min(bounds.margin);
                (e2 * (ratio / bounds.margin).ln() + e * (at_margin - log_norm(share.low, ratio))) / dispersion
            });
        }
    }

    /// The logarithm of the evidence that v2 is worse than what is tolerated.
    pub(super) fn log_worse(&self) -> f64 {
        self.worse.log_value()
    }

    /// The logarithm of the evidence that v2's rate is below the margin, or negligible.
    pub(super) fn log_no_worse(&self) -> f64 {
        log_sum(self.no_worse.log_value(), self.rare.log_value()) - std::f64::consts::LN_2
    }

    /// All that was counted, and where the ratio is.
    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
