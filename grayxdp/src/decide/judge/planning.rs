//! How long will it take? Drift of the log-evidence, and the times that follow from it.
//!
//! v1 and v2 get r1 and r2 connections a second, R together, of which a part p goes bad. Then the evidence against a v2
//! that is θ times as bad grows by `D(θ) = p·(r2·θ·ln θ − (r1+r2θ)·ln((r1+r2θ)/R))` a second, and no sequential test that
//! keeps to α finds it in less than `ln(1/α)/D` in the mean (Wald 1945). Ours has to find out θ, too, and watches more than
//! errors; this costs some more evidence. The evidence that a v2 as good as v1 is no worse than θ1 times as bad
//! grows by `p·(R·ln((r1+r2θ1)/R) − r2·ln θ1)`.

use std::time::Duration;

use super::{JudgeConfig, ratio::RARE};

/// Traffic and its usual errors.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Traffic {
    /// Connections a second, of v1.
    pub rate1: f64,
    /// Connections a second, of v2.
    pub rate2: f64,
    /// The part of them that fails anyway, 0 to 1.
    pub base: f64,
}

/// What is searched for in many ways at once costs so much evidence more, as a logarithm: alternatives, beginnings.
pub const MIXTURE_COST: f64 = 1.4;

impl Traffic {
    /// Of all connections a second, this part going to v2.
    pub fn at_weight(rate: f64, weight: f64, base: f64) -> Self {
        Self { rate1: rate * (1.0 - weight), rate2: rate * weight, base }
    }

    /// Growth of the evidence a second, as a logarithm, if v2 is this many times as bad.
    pub fn drift_of_harm(&self, ratio: f64) -> f64 {
        let Self { rate1, rate2, base } = *self;
        let (all, bad) = (rate1 + rate2, rate1 + rate2 * ratio);
        if all <= 0.0 {
            return 0.0;
        }
        (base * (rate2 * ratio * ratio.ln() - bad * (bad / all).ln())).max(0.0)
    }

    /// Growth of the evidence a second that v2 is no worse than the margin, if it is as good as v1.
    pub fn drift_of_clearing(&self, margin: f64) -> f64 {
        let Self { rate1, rate2, base } = *self;
        let all = rate1 + rate2;
        if all <= 0.0 {
            return 0.0;
        }
        (base * (all * ((rate1 + rate2 * margin) / all).ln() - rate2 * margin.ln())).max(0.0)
    }

    /// Growth of the evidence a second that v2's rate is below a negligible one, if it is as good as v1.
    pub fn drift_of_rarity(&self, negligible: f64) -> f64 {
        let growth = |part: f64| self.base * part.ln() + (1.0 - part) * negligible;
        self.rate2 * RARE.into_iter().map(growth).fold(0.0, f64::max)
    }

    /// The least time in which any test can find a v2 that is this many times as bad: Wald's bound.
    pub fn bound(&self, ratio: f64, alpha: f64) -> Option<Duration> {
        seconds((1.0 / alpha).ln() / self.drift_of_harm(ratio))
    }

    /// How long it takes the judge to find a v2 that is this many times as bad, in errors of independent connections; `None`
    /// for what is tolerated.
    pub fn time_to_find(&self, ratio: f64, judge: &JudgeConfig) -> Option<Duration> {
        if ratio <= judge.tolerate {
            return None;
        }
        let drift = self.drift_of_harm(ratio) - self.drift_of_harm_towards(ratio, judge.tolerate);
        seconds(((1.0 / judge.false_alarm).ln() + MIXTURE_COST) / drift)
    }

    /// What the tolerated ratio explains of that growth: none if it is one.
    fn drift_of_harm_towards(&self, ratio: f64, tolerate: f64) -> f64 {
        let Self { rate1, rate2, base } = *self;
        let (all, bad) = (rate1 + rate2, rate1 + rate2 * ratio);
        if all <= 0.0 {
            return 0.0;
        }
        base * (rate2 * ratio * tolerate.ln() - bad * ((rate1 + rate2 * tolerate) / all).ln())
    }

    /// How long it takes the judge to prove that a v2 as good as v1 is no worse.
    pub fn time_to_clear(&self, judge: &JudgeConfig) -> Option<Duration> {
        let drift = self.drift_of_clearing(judge.margin).max(self.drift_of_rarity(judge.negligible));
        seconds(((1.0 / judge.false_alarm).ln() + MIXTURE_COST) / drift)
    }
}

/// `None` where it would take for ever.
fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|_| seconds < 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_were_worked_out_by_hand() {
        let traffic = Traffic::at_weight(1000.0, 0.05, 0.005);
        for (ratio, expected) in [(1.5, 180.0), (2.0, 51.0), (5.0, 5.0)] {
            let found = traffic.bound(ratio, 0.01).expect("some time").as_secs_f64();
            assert!((found / expected - 1.0).abs() < 0.05, "{ratio}: {found}");
        }
        let clearing = |weight| (1.0 / 0.01f64).ln() / Traffic::at_weight(1000.0, weight, 0.005).drift_of_clearing(1.5);
        assert!((clearing(0.05) - 208.0).abs() < 3.0 && (clearing(0.5) - 45.0).abs() < 1.0);
    }

    #[test]
    fn what_nothing_is_known_of_takes_for_ever() {
        for traffic in [
            Traffic::at_weight(0.0, 0.05, 0.005),
            Traffic::at_weight(1000.0, 0.0, 0.005),
            Traffic::at_weight(1000.0, 1.0, 0.005),
            Traffic::at_weight(1000.0, 0.05, 0.0),
        ] {
            assert_eq!(traffic.bound(2.0, 0.01), None, "{traffic:?}");
        }
    }
}
