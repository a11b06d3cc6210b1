//! From evidence to a judgement, and the figures behind it.

use std::time::Duration;

use super::{
    Judge,
    alarm::BothFail,
    comparison::{Comparison, Kind},
    limits::Limit,
    mixture::log_sum,
    planning::{MIXTURE_COST, Traffic},
    ratio::RatioTest,
};
use crate::decide::evidence::{Evidence, Judgement, NotYet};

/// The share test's part of the budget, before it is scaled to what there is.
const SHARE_BUDGET: f64 = 0.02;
/// A signal with fewer things to compare than this part of the connections cannot hold a release up.
const WORTH_WAITING: f64 = 0.01;
/// Evidence is printed up to here.
const LOG_VALUE_MOST: f64 = 700.0;

/// A judgement without its figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// See [`Judgement::Harmful`].
    Harmful,
    /// See [`Judgement::BothBad`].
    BothBad,
    /// See [`Judgement::Untrusted`].
    Untrusted,
    /// See [`Judgement::NoWorse`].
    NoWorse,
    /// See [`Judgement::NotYet`].
    NotYet,
}

impl Judge {
    /// What is to be said now, without anything new.
    pub fn judgement(&self) -> Judgement {
        let of_now = match self.verdict() {
            Verdict::Harmful => self.harm.clone().map(|evidence| Judgement::Harmful(Box::new(evidence))),
            Verdict::BothBad => self.both_bad().map(|evidence| Judgement::BothBad(Box::new(evidence))),
            Verdict::Untrusted => Some(Judgement::Untrusted(Box::new(self.share_evidence()))),
            Verdict::NoWorse => self.least_cleared().map(|(evidence, _)| Judgement::NoWorse(Box::new(evidence))),
            Verdict::NotYet => None,
        };
        of_now.unwrap_or_else(|| Judgement::NotYet(self.not_yet()))
    }

    /// The same without its figures, for a fraction of the work.
    pub fn verdict(&self) -> Verdict {
        let enough = self.log_limit();
        if self.harm.is_some() {
            Verdict::Harmful
        } else if self.failing_alike().is_some() || self.broken_limits().next().is_some() {
            Verdict::BothBad
        } else if self.part(SHARE_BUDGET).ln() + self.share.log_value() >= enough {
            Verdict::Untrusted
        } else if self.least_log_no_worse().is_some_and(|least| least >= enough) {
            Verdict::NoWorse
        } else {
            Verdict::NotYet
        }
    }

    /// The signals whose clearing a release has to wait for.
    fn waited_for(&self) -> impl Iterator<Item = &Comparison> {
        self.comparisons.iter().filter(|each| self.is_worth_waiting(each))
    }

    fn least_log_no_worse(&self) -> Option<f64> {
        self.waited_for().filter_map(|each| Some(each.log_no_worse()?.0)).min_by(f64::total_cmp)
    }

    /// The figures of the signal for whose harmlessness there is least evidence, and that evidence.
    fn least_cleared(&self) -> Option<(Evidence, f64)> {
        let cleared = self.waited_for().filter_map(|each| Some((each.kind, each.log_no_worse()?)));
        let (kind, (log_value, test)) = cleared.min_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
        Some((self.comparison_evidence(kind, test, log_value), log_value))
    }

    fn not_yet(&self) -> NotYet {
        let Some((evidence, _)) = self.least_cleared() else { return NotYet::default() };
        let longest = |most: Duration, each| Some(most.max(self.time_to_clear(each)?));
        let time = self.waited_for().try_fold(Duration::ZERO, longest);
        let samples = time.map(|time| whole((self.rates.0 + self.rates.1) * time.as_secs_f64()));
        NotYet { evidence: Some(Box::new(evidence)), samples, time }
    }

    /// The evidence that is enough to blame v2, if there is.
    pub(super) fn proven_harm(&self) -> Option<Evidence> {
        let weighted = |each: &Comparison| self.part(each.kind.budget()).ln() + each.log_worse();
        let all = self.comparisons.iter().map(weighted).fold(f64::NEG_INFINITY, log_sum);
        if all >= self.log_limit() {
            let worst = self.comparisons.iter().max_by(|a, b| weighted(a).total_cmp(&weighted(b)))?;
            let test = worst.worst(&self.config)?;
            let evidence = self.comparison_evidence(worst.kind, test, all);
            let backend = self.backends.outstanding(worst.kind);
            return Some(Evidence { backend, lately: test.ledger().lately(), ..evidence });
        }
        let broken = self.broken_limits().find(|limit| !limit.v1_breaks_it_too())?;
        Some(limit_evidence(broken))
    }

    /// How large the part of the budget is, if all that is watched is to have all of it.
    pub(super) fn part(&self, budget: f64) -> f64 {
        let comparisons = self.comparisons.iter().map(|each| each.kind.budget());
        let limits = self.limits.iter().map(|limit| limit.kind.budget());
        budget / comparisons.chain(limits).chain([SHARE_BUDGET]).sum::<f64>()
    }

    fn broken_limits(&self) -> impl Iterator<Item = &Limit> {
        let is_broken = |limit: &&Limit| self.part(limit.kind.budget()).ln() + limit.v2.log_value() >= self.log_limit();
        self.limits.iter().filter(is_broken)
    }

    fn failing_alike(&self) -> Option<(&BothFail, Kind)> {
        let failing = [(&self.both_errors, Kind::Errors), (&self.both_answers, Kind::Answers)];
        failing.into_iter().find(|(both, _)| both.log_value() >= self.log_limit())
    }

    fn both_bad(&self) -> Option<Evidence> {
        let alike = self.failing_alike().map(|(both, kind)| both_evidence(both, kind));
        alike.or_else(|| self.broken_limits().next().map(limit_evidence))
    }

    fn share_evidence(&self) -> Evidence {
        let (n1, n2, expected2) = self.share.counted();
        let n = (n1 as f64 + n2 as f64).max(1.0);
        Evidence { n1, n2, value: n2 as f64 / n, limit: expected2 / n, ..plain("share", "e-process") }
    }

    fn is_worth_waiting(&self, comparison: &Comparison) -> bool {
        let of = |kind: Kind| self.comparisons.iter().find(|each| each.kind == kind).map(Comparison::counted);
        let flows = of(Kind::Errors).unwrap_or_default();
        let counted = comparison.counted();
        counted.all() > 0.0 && counted.all() >= WORTH_WAITING * flows.all()
    }

    fn comparison_evidence(&self, kind: Kind, test: &RatioTest, log_value: f64) -> Evidence {
        let counted = test.ledger().counted();
        let (ratio, interval) = test.ledger().ratio(self.config.false_alarm).unzip();
        Evidence {
            n1: counted.n1,
            n2: counted.n2,
            e1: counted.e1,
            e2: counted.e2,
            ratio,
            interval,
            value: log_value.min(LOG_VALUE_MOST).exp(),
            limit: 1.0 / self.config.false_alarm,
            ..plain(kind.name(), "e-process")
        }
    }

    /// How long until this signal is proven no worse, if v2 goes on as v1 does.
    fn time_to_clear(&self, comparison: &Comparison) -> Option<Duration> {
        let (log_value, test) = comparison.log_no_worse()?;
        let missing = self.log_limit() - log_value;
        if missing <= 0.0 {
            return Some(Duration::ZERO);
        }
        // At first most of the evidence goes to waste on what does not fit.
        let progress = (log_value / self.log_limit()).clamp(0.0, 1.0);
        let missing = missing + MIXTURE_COST * (1.0 - progress);
        let flows = self.comparisons.first().map(Comparison::counted).unwrap_or_default();
        let counted = test.ledger().counted();
        let per_flow = counted.all() / flows.all().max(1.0);
        let base = counted.e1 as f64 / (counted.n1 as f64).max(1.0);
        let traffic = Traffic { rate1: self.rates.0 * per_flow, rate2: self.rates.1 * per_flow, base };
        let dispersion = self.dispersion_of(comparison);
        let drift = traffic.drift_of_clearing(self.config.margin).max(traffic.drift_of_rarity(self.config.negligible));
        let seconds = missing * dispersion / drift;
        Duration::try_from_secs_f64(seconds).ok().filter(|_| seconds < 1e9)
    }

    fn dispersion_of(&self, comparison: &Comparison) -> f64 {
        let of_groups = match comparison.kind {
            Kind::Errors if !self.config.correlated => 1.0,
            Kind::Errors | Kind::Answers | Kind::ClientResets => self.groups.of_errors(),
            _ => 1.0,
        };
        comparison.dispersion().max(of_groups)
    }
}

fn plain(signal: &str, rule: &str) -> Evidence {
    Evidence {
        signal: signal.to_owned(),
        rule: rule.to_owned(),
        n1: 0,
        n2: 0,
        e1: 0,
        e2: 0,
        ratio: None,
        interval: None,
        value: 0.0,
        limit: 0.0,
        backend: None,
        lately: None,
    }
}

fn limit_evidence(limit: &Limit) -> Evidence {
    let ((n1, e1), (n2, e2)) = (limit.v1.counted(), limit.v2.counted());
    Evidence { n1, n2, e1, e2, value: limit.v2.rate(), limit: limit.most, ..plain(limit.kind.name(), "limit") }
}

fn both_evidence(both: &BothFail, kind: Kind) -> Evidence {
    let ((n1, e1), (n2, e2)) = both.counted();
    Evidence { n1, n2, e1, e2, value: both.now(), limit: both.usual(), ..plain(kind.name(), "v1's past") }
}

/// Rounded up; the largest number for what is too large.
fn whole(number: f64) -> u64 {
    // A length of time is the one number of the standard library that turns into an integer checked.
    Duration::try_from_secs_f64(number.ceil()).map_or(u64::MAX, |length| length.as_secs())
}
