//! Is v2 worse than v1? Said of what both did over the same ticks, at every look, at a known rate of false alarms.
//!
//! Each signal is a comparison of two rates: errors of connections, errors of peeked responses, responses that are slower
//! than v1's quantiles, closed windows, repeated segments; where replies do not pass, unanswered connections and resets by
//! clients. Each comparison gathers evidence as a number that exceeds
//! `1/α` ever, in all of a release, with a chance of at most α if v2 is as good as v1 ([`ratio`], [`mixture`]). The weighted
//! mean of such numbers is one, too: by it all signals share one budget, [`JudgeConfig::false_alarm`]. Limits and the
//! connections' share have parts of the budget of their own.
//!
//! What is random is where a client, or a connection, goes; [`dispersion`] says what becomes of counts that are not
//! independent, [`exposure`] what becomes of errors that are seen late, and of weights that move meanwhile.
//!
//! Harm is proven once and for all: better times later do not take it back. All other judgements are of now.

mod alarm;
mod backends;
mod comparison;
mod config;
mod cuts;
mod dispersion;
mod exposure;
mod ledger;
mod limits;
mod mixture;
mod one_sided;
pub mod planning;
mod ratio;
mod recent;
mod share;
mod state;
mod verdict;

use std::{net::SocketAddr, time::Duration};

use grayxdp_common::weight::Weight;
use serde::{Deserialize, Serialize};

use self::{
    alarm::BothFail,
    backends::Backends,
    comparison::{Circumstances, Comparison, Kind},
    dispersion::Groups,
    exposure::Exposure,
    limits::Limit,
    share::ShareTest,
};
pub use self::{config::JudgeConfig, state::RestoreError, verdict::Verdict};
use super::{
    evidence::{Evidence, Judgement},
    signals::{Counts, Signals},
};

/// What came in between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// How long it was. Zero, or far too long, does no harm: it only says what is recent.
    pub elapsed: Duration,
    /// The lowest and the highest of v2's weights that were in force meanwhile; of differing shards, their means.
    pub weight: (Weight, Weight),
    /// The lowest and the highest weight that any shard had meanwhile; as `weight` where shards do not differ. They need not
    /// have equal traffic, so v2's share may be anything in between.
    pub shards: (Weight, Weight),
    /// What v1's signals have grown by.
    pub v1: &'a Signals,
    /// What v2's signals have grown by.
    pub v2: &'a Signals,
    /// What the counts of each of v2's backends have grown by; may be empty.
    pub backends: &'a [(SocketAddr, Counts)],
}

/// The judge of one release: all that it has seen since the release began, in some kilobytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Judge {
    config: JudgeConfig,
    exposure: Exposure,
    groups: Groups,
    comparisons: Vec<Comparison>,
    limits: Vec<Limit>,
    share: ShareTest,
    both_errors: BothFail,
    both_answers: BothFail,
    backends: Backends,
    /// Connections a second of late, of v1 and v2.
    rates: (f64, f64),
    /// What proved harm.
    harm: Option<Evidence>,
}

impl Judge {
    /// One that has seen nothing. It believes that until now nothing went to v2.
    pub fn new(config: JudgeConfig) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| config.sees(*kind));
        Self {
            config,
            exposure: Exposure::new(config.lag.as_secs_f64()),
            groups: Groups::default(),
            comparisons: kinds.map(Comparison::new).collect(),
            limits: Limit::all(&config),
            share: ShareTest::new(config.correlated),
            both_errors: BothFail::new(),
            both_answers: BothFail::new(),
            backends: Backends::default(),
            rates: (0.0, 0.0),
            harm: None,
        }
    }

    /// Forgets all evidence: another release begins. But what the last one's weights were is not forgotten, since its
    /// connections may still fail.
    pub fn begin_anew(&mut self) {
        let exposure = self.exposure.clone();
        *self = Self { exposure, ..Self::new(self.config) };
    }

    /// Takes note of a time of which nothing is judged, in which v2's weights were from the lowest to the highest of these.
    pub fn pass(&mut self, elapsed: Duration, weight: (Weight, Weight)) {
        self.exposure.absorb(elapsed.as_secs_f64(), 0.0, 0.0, shares(weight));
        self.forget_lately(false);
    }

    /// Another agent has gathered what there is: nobody knows how long the next tick will have been.
    pub fn taken_over(&mut self) {
        self.forget_lately(true);
    }

    fn forget_lately(&mut self, is_next_doubtful: bool) {
        self.comparisons.iter_mut().for_each(|comparison| comparison.forget_lately(is_next_doubtful));
    }

    /// What it judges by.
    pub const fn config(&self) -> &JudgeConfig {
        &self.config
    }

    /// Takes in what came since the last look, and judges.
    pub fn tick(&mut self, tick: &Tick<'_>) -> Judgement {
        self.absorb(tick);
        self.judgement()
    }

    /// Takes in what came since the last look.
    pub fn absorb(&mut self, tick: &Tick<'_>) {
        let Tick { elapsed, weight, shards, v1, v2, backends } = *tick;
        let weight = shares(weight);
        let of_shards = shares(shards);
        let of_shards = (of_shards.0.min(weight.0), of_shards.1.max(weight.1));
        let (n1, n2) = (v1.counts.flows, v2.counts.flows);
        let exposed = self.exposure.absorb(elapsed.as_secs_f64(), n1 as f64, n2 as f64, weight);
        self.rates = exposed.rates;
        self.groups.absorb(&v1.groups, &v2.groups);
        let of_clients = self.groups.of_errors();
        let of_errors = if self.config.correlated { of_clients } else { 1.0 };
        let around = Circumstances {
            elapsed,
            flows_share: exposed.share,
            past: exposed.past,
            fell: exposed.fell,
            of_errors,
            // Responses of one connection are no more independent than clients are, wherever connections go.
            of_answers: if v1.groups.is_empty() { of_errors } else { of_clients },
        };
        for comparison in &mut self.comparisons {
            comparison.absorb(&self.config, v1, v2, &around);
        }
        let cap = self.log_limit() + KEPT_BEYOND;
        for limit in &mut self.limits {
            limit.absorb(v1, v2, of_errors, cap);
        }
        let of_flows = if self.config.correlated { self.groups.of_flows() } else { 1.0 };
        let weighted = |signals: &Signals| signals.counts.flows.saturating_sub(signals.counts.unweighted);
        self.share.absorb(weighted(v1), weighted(v2), of_shards, of_flows, cap);
        let log_limit = self.log_limit();
        let errors = |signals: &Signals| Kind::Errors.counts(&signals.counts);
        let answers = |signals: &Signals| Kind::Answers.counts(&signals.counts);
        self.both_errors.absorb(errors(v1), errors(v2), of_errors, log_limit);
        self.both_answers.absorb(answers(v1), answers(v2), around.of_answers, log_limit);
        self.backends.absorb(backends);
        if self.harm.is_none() {
            self.harm = self.proven_harm();
        }
    }

    /// `ln(1/α)`: how much evidence is enough.
    fn log_limit(&self) -> f64 {
        (1.0 / self.config.false_alarm).ln()
    }
}

/// As parts of one, the lower one first.
fn shares((one, other): (Weight, Weight)) -> (f64, f64) {
    let share = |weight: Weight| f64::from(weight.hundredths()) / f64::from(Weight::FULL.hundredths());
    (share(one.min(other)), share(one.max(other)))
}

/// Evidence about what may pass is kept so far beyond what is enough: the more, the longer it takes to pass.
const KEPT_BEYOND: f64 = 5.0;

#[cfg(test)]
mod tests;
