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
//! Where the things are counted together with what went bad of them, the other of Hoeffding's bounds is as good: v2's are n2
//! drawn from all, of which a part p = e/n is bad, and `E θ^e2 ≤ (1−p+pθ)^n2`. The bound with the larger of ρ and p is the
//! smaller one. With θ0, ρ becomes q = ρθ0/(1−ρ+ρθ0), and p becomes e·q/n2.
//!
//! Where ρ is known to lie in a range only, harm is tested by its upper end and the absence of harm by its lower one: both
//! factors are largest in expectation there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ledger::Ledger,
    mixture::{Mixture, log_sum},
};

/// How many times as bad as what is tolerated, and what part of the evidence looks for that. A ratio that lies between two
/// of them is found by both. The largest ones have most: they should be found by their first two or three bad ones, each of
/// which is worth so much that a little less evidence costs a whole one more. The smallest are found late, when their share
/// hardly matters.
const WORSE: [f64; 7] = [1.2, 1.48, 2.1, 3.3, 7.0, 14.0, 52.0];
/// Their logarithms.
const LOG_WORSE: [f64; 7] = [
    0.182_321_556_793_954_6,
    0.392_042_087_776_023_7,
    0.741_937_344_729_377_3,
    1.193_922_468_472_434_6,
    1.945_910_149_055_313_2,
    2.639_057_329_615_258_4,
    3.951_243_718_581_427_5,
];
const WORSE_PRIORS: [f64; 7] = [0.05, 0.165, 0.12, 0.095, 0.11, 0.21, 0.25];
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
        (self.all() > 0.0).then(|| self.n2 as f64 / self.all())
    }

    /// How many there were, of both versions.
    pub(super) const fn all(&self) -> f64 {
        self.n1 as f64 + self.n2 as f64
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
    /// So many of v2's can have gone bad, and no others; `None` where the bad ones may belong to other ticks.
    pub(super) among: Option<f64>,
}

impl Share {
    pub(super) const fn exactly(share: f64) -> Self {
        Self { low: share, mean: share, high: share, among: None }
    }
}

/// The expectation of `r^e2`, at most: v2 has this share of e bad ones if it is so many times as bad as v1.
#[derive(Clone, Copy, Debug)]
struct Chance {
    /// So many draws, each with this chance.
    draws: f64,
    chance: f64,
}

impl Chance {
    fn new(bad: f64, share: f64, ratio: f64, among: Option<f64>) -> Self {
        let of_v2 = share * ratio / (1.0 + share * (ratio - 1.0));
        match among.filter(|among| *among > 0.0).map(|among| (among, bad * of_v2 / among)) {
            Some((draws, chance)) if chance > of_v2 && chance <= 1.0 => Self { draws, chance },
            _ => Self { draws: bad, chance: of_v2 },
        }
    }

    fn log_mean(&self, base: f64) -> f64 {
        self.draws * (1.0 + self.chance * (base - 1.0)).ln()
    }
}

/// One comparison of two rates.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct RatioTest {
    worse: Mixture,
    no_worse: Mixture,
    rare: Mixture,
    ledger: Ledger,
    /// Of `worse`, which is asked for at every tick.
    log_worse: f64,
}

impl RatioTest {
    pub(super) fn new() -> Self {
        Self {
            worse: Mixture::new(&WORSE_PRIORS),
            no_worse: Mixture::new(&BETTER_PRIORS),
            rare: Mixture::new(&RARE_PRIORS),
            ledger: Ledger::default(),
            log_worse: 0.0,
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
        // Without connections of v2 that could have gone bad, or of v1, there is nothing to compare with.
        if share.high > 0.0 && share.high < 1.0 {
            let tolerated = Chance::new(e, share.high, bounds.tolerate, share.among);
            self.worse.absorb(&WORSE_PRIORS, e / dispersion, f64::INFINITY, |index| {
                (e2 * LOG_WORSE[index] - tolerated.log_mean(WORSE[index])) / dispersion
            });
            self.log_worse = self.worse.log_value();
            self.ledger.add(e2, e, share.mean, dispersion);
        }
        if share.low > 0.0 && share.low < 1.0 {
            let at_margin = Chance::new(e, share.low, bounds.margin, share.among);
            self.no_worse.absorb(&BETTER_PRIORS, e / dispersion, cap, |index| {
                let part = (BETTER[index] / bounds.margin).min(1.0);
                (e2 * part.ln() - at_margin.log_mean(part)) / dispersion
            });
        }
    }

    /// Time passes, in which comes what is taken in next.
    pub(super) fn pass(&mut self, elapsed: Duration) {
        self.ledger.pass(elapsed);
    }

    /// What was counted of late is not shown as that; see [`super::recent::Recent::forget`].
    pub(super) fn forget_lately(&mut self, is_next_doubtful: bool) {
        self.ledger.forget_lately(is_next_doubtful);
    }

    /// The logarithm of the evidence that v2 is worse than what is tolerated.
    pub(super) const fn log_worse(&self) -> f64 {
        self.log_worse
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { tolerate: 1.0, margin: 1.5, negligible: 0.001, alpha: 0.01 };

    #[test]
    fn logarithms_are_those_of_the_ratios() {
        for (ratio, log) in WORSE.iter().zip(LOG_WORSE) {
            assert!((ratio.ln() - log).abs() < 1e-15, "{ratio}");
        }
        for priors in [&WORSE_PRIORS[..], &BETTER_PRIORS, &RARE_PRIORS] {
            assert!((priors.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{priors:?}");
        }
    }

    /// C(n, k), small.
    fn choose(n: u64, k: u64) -> f64 {
        (0..k).map(|each| (n - each) as f64 / (each + 1) as f64).product()
    }

    /// The heart of it: over all ways in which bad ones can fall upon two equal versions, the mean factor is at most one.
    #[test]
    fn the_expectation_of_each_factor_is_at_most_one() {
        for (n1, n2, e) in [(8u64, 2u64, 1u64), (8, 2, 3), (5, 5, 5), (5, 5, 9), (2, 8, 4), (30, 1, 20), (19, 1, 1)] {
            for together in [false, true] {
                let mut mean_worse = 0.0;
                for e2 in e.saturating_sub(n1)..=e.min(n2) {
                    let probability = choose(n2, e2) * choose(n1, e - e2) / choose(n1 + n2, e);
                    let mut test = RatioTest::new();
                    let counted = Counted { n1, n2, e1: e - e2, e2 };
                    let share = counted.share().expect("some");
                    let among = together.then_some(n2 as f64);
                    test.absorb(&BOUNDS, &counted, Share { among, ..Share::exactly(share) }, 0.0, 1.0);
                    mean_worse += probability * test.log_worse().exp();
                }
                assert!(mean_worse <= 1.0 + 1e-12, "{n1} {n2} {e}: {mean_worse}");
            }
        }
    }

    /// The same at the margin: e2 of e are v2's, by the chance that it has when it is θ1 times as bad.
    #[test]
    fn a_version_at_the_margin_is_not_cleared() {
        for (share, e) in [(0.05f64, 20u64), (0.5, 20), (0.9, 7)] {
            let of_v2 = share * BOUNDS.margin / (1.0 + share * (BOUNDS.margin - 1.0));
            let mut mean = 0.0;
            for e2 in 0..=e {
                let (good, bad) = (i32::try_from(e - e2).expect("small"), i32::try_from(e2).expect("small"));
                let probability = choose(e, e2) * of_v2.powi(bad) * (1.0 - of_v2).powi(good);
                let mut test = RatioTest::new();
                test.absorb(&BOUNDS, &Counted { n1: 0, n2: 0, e1: e - e2, e2 }, Share::exactly(share), 0.0, 1.0);
                mean += probability * test.no_worse.log_value().exp();
            }
            assert!(mean <= 1.0 + 1e-12, "{share} {e}: {mean}");
        }
    }

    #[test]
    fn a_range_of_shares_speaks_for_harm_less_than_its_upper_end_and_for_v2_less_than_its_lower_one() {
        let counted = Counted { n1: 950, n2: 50, e1: 10, e2: 5 };
        let absorbed = |share| {
            let mut test = RatioTest::new();
            test.absorb(&BOUNDS, &counted, share, 0.0, 1.0);
            (test.log_worse(), test.no_worse.log_value())
        };
        let range = absorbed(Share { low: 0.02, mean: 0.05, high: 0.1, among: None });
        assert_eq!(range, (absorbed(Share::exactly(0.1)).0, absorbed(Share::exactly(0.02)).1));
        assert!(range.0 < absorbed(Share::exactly(0.05)).0 && range.1 < absorbed(Share::exactly(0.05)).1);
    }

    #[test]
    fn without_one_of_the_versions_nothing_is_said() {
        for share in [0.0, 1.0] {
            let mut test = RatioTest::new();
            test.absorb(&BOUNDS, &Counted { n1: 100, n2: 100, e1: 50, e2: 50 }, Share::exactly(share), 0.0, 1.0);
            assert_eq!((test.log_worse(), test.ledger().ratio(0.01)), (0.0, None), "{share}");
        }
    }

    /// What is left of it after the other signals have had their part must be a hundred.
    #[test]
    fn two_bad_ones_of_a_version_with_one_connection_in_a_hundred_prove_harm_beside_two_of_the_other() {
        let mut test = RatioTest::new();
        let counted = Counted { n1: 990, n2: 10, e1: 2, e2: 2 };
        test.absorb(&BOUNDS, &counted, Share::exactly(0.01), 10.0, 1.0);
        assert!(test.log_worse() > 120f64.ln(), "{}", test.log_worse().exp());
    }

    #[test]
    fn rare_errors_are_cleared_by_rarity() {
        let mut test = RatioTest::new();
        let mut ticks = 0;
        while test.log_no_worse() < 100f64.ln() && ticks < 10_000 {
            test.absorb(&BOUNDS, &Counted { n1: 950, n2: 50, e1: 0, e2: 0 }, Share::exactly(0.05), 50.0, 1.0);
            ticks += 1;
        }
        assert!((100..200).contains(&ticks), "{ticks}");
    }
}
