//! The judge of one service's release, and the reading of the counters up to which it has seen: from cumulative readings to
//! what came in between, and from there to a judgement.
//!
//! Judge and reading are stored together, in one transaction with the release. So an agent that is killed loses nothing and
//! counts nothing twice: the next one goes on with what has come since the stored reading.

use std::{net::SocketAddr, time::Duration};

use grayxdp_common::weight::Weight;
use serde::{Deserialize, Serialize};

use crate::decide::{
    evidence::{Judgement, NotYet},
    judge::{Judge, JudgeConfig, RestoreError, Tick},
    signals::{Counts, ServiceSignals, Signals},
    weights::Weights,
};

/// The judge, and what it has seen.
#[derive(Debug)]
pub(super) struct Analysis {
    judge: Judge,
    /// The reading that the judge has taken in last; what comes after it is the next tick's.
    seen: Option<ServiceSignals>,
    /// The weights since then.
    in_force: InForce,
    judgement: Option<Judgement>,
    /// Nothing is counted of the service that could be judged.
    is_blind: bool,
    /// The store knows less.
    is_unsaved: bool,
    /// The store knows no reading at all.
    is_first: bool,
}

/// The lowest and the highest weights that were in force for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct InForce {
    /// The mean over the shards.
    mean: (Weight, Weight),
    /// Of any shard.
    shards: (Weight, Weight),
}

/// What is stored behind the judge's own line.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// `None` where counting has still to begin.
    seen: Option<ServiceSignals>,
    /// Lowest and highest mean weight since, in hundredths of a percent.
    weight: (u16, u16),
    /// The same of any shard.
    shards: (u16, u16),
}

/// The same to be written, without a copy.
#[derive(Serialize)]
struct StoredBy<'a> {
    seen: Option<&'a ServiceSignals>,
    weight: (u16, u16),
    shards: (u16, u16),
}

impl InForce {
    fn of(weights: &Weights) -> Self {
        let mean = weights.mean();
        Self { mean: (mean, mean), shards: (weights.lowest(), weights.highest()) }
    }

    fn or(self, other: Self) -> Self {
        let both = |one: (Weight, Weight), other: (Weight, Weight)| (one.0.min(other.0), one.1.max(other.1));
        Self { mean: both(self.mean, other.mean), shards: both(self.shards, other.shards) }
    }
}

/// Why what was stored of an analysis is of no use; it begins anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnalysisError {
    #[error("what was stored of the analysis cannot be read: {0}. It begins anew")]
    Unreadable(#[from] serde_json::Error),
    #[error(transparent)]
    Judge(#[from] RestoreError),
}

impl Analysis {
    /// One that has seen nothing, of a release with these weights.
    pub(super) fn new(config: JudgeConfig, weights: &Weights) -> Self {
        Self {
            judge: Judge::new(config),
            seen: None,
            in_force: InForce::of(weights),
            judgement: None,
            is_blind: false,
            is_unsaved: false,
            is_first: true,
        }
    }

    /// Goes on from what another agent has stored, with the weights that there are now.
    pub(super) fn restored(config: JudgeConfig, text: &str, weights: &Weights) -> Result<Self, AnalysisError> {
        let (judge, rest) = text.split_once('\n').unwrap_or((text, ""));
        let mut judge = Judge::from_json(config, judge)?;
        judge.taken_over();
        let Stored { seen, weight, shards } = serde_json::from_str(rest)?;
        let known = |hundredths: u16| Weight::from_hundredths(hundredths).unwrap_or(weights.mean());
        let both = |(lowest, highest): (u16, u16)| (known(lowest), known(highest));
        let in_force = InForce { mean: both(weight), shards: both(shards) }.or(InForce::of(weights));
        let is_first = seen.is_none();
        Ok(Self { judge, seen, in_force, judgement: None, is_blind: false, is_unsaved: false, is_first })
    }

    /// Forgets all evidence: a release begins. Connections of the last one may still fail, so its weights are not forgotten.
    pub(super) fn begin_anew(&mut self, weights: &Weights) {
        self.judge.begin_anew();
        self.weights_changed(weights);
        self.seen = None;
        self.judgement = None;
        self.is_blind = false;
        self.is_unsaved = true;
        self.is_first = true;
    }

    /// Lets time pass in which nothing is judged. What is counted in it is nothing to go on from.
    pub(super) fn pass(&mut self, weights: &Weights, elapsed: Duration) {
        self.judge.pass(elapsed, self.in_force.mean);
        self.in_force = InForce::of(weights);
        self.seen = None;
    }

    /// Takes note of other weights.
    pub(super) fn weights_changed(&mut self, weights: &Weights) {
        self.in_force = self.in_force.or(InForce::of(weights));
    }

    /// What is to be said with this reading, cumulative; `None` where nothing is counted of the service.
    pub(super) fn look(
        &mut self,
        reading: Option<&ServiceSignals>,
        weights: &Weights,
        elapsed: Duration,
    ) -> &Judgement {
        self.is_blind = reading.is_none();
        let judgement = match reading {
            None => Judgement::NotYet(NotYet::default()),
            Some(reading) => {
                let judgement = self.take_in(reading, elapsed);
                // Where nothing came, what is stored is as good: the time in between says nothing of v2.
                if self.seen.as_ref() != Some(reading) {
                    self.seen.get_or_insert_default().clone_from(reading);
                    self.is_unsaved = true;
                }
                self.in_force = InForce::of(weights);
                judgement
            }
        };
        self.judgement.insert(judgement)
    }

    /// The first reading is only where counting begins: it holds what came before the release.
    fn take_in(&mut self, now: &ServiceSignals, elapsed: Duration) -> Judgement {
        let InForce { mean: weight, shards } = self.in_force;
        let Some(before) = &self.seen else {
            self.judge.pass(elapsed, weight);
            return self.judge.judgement();
        };
        let backends = now.backends.iter().enumerate();
        let backends: Vec<(SocketAddr, Counts)> = backends
            .map(|(place, (address, counts))| (*address, counts_since(place, *address, *counts, before)))
            .collect();
        let (v1, v2): (Signals, Signals) = (now.v1.since(&before.v1), now.v2.since(&before.v2));
        self.judge.tick(&Tick { elapsed, weight, shards, v1: &v1, v2: &v2, backends: &backends })
    }

    /// Whether nothing is counted of the service that could be judged.
    pub(super) const fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// What the judge said last.
    pub(super) const fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_ref()
    }

    /// Whether the store does not know yet where counting has begun.
    pub(super) const fn is_first_unsaved(&self) -> bool {
        self.is_first && self.seen.is_some()
    }

    /// What to store, where the store knows less; it does not from now on.
    pub(super) fn take_unsaved(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.is_unsaved) {
            return None;
        }
        let seen = self.seen.as_ref();
        self.is_first = seen.is_none();
        let hundredths = |(lowest, highest): (Weight, Weight)| (lowest.hundredths(), highest.hundredths());
        let InForce { mean, shards } = self.in_force;
        let stored = StoredBy { seen, weight: hundredths(mean), shards: hundredths(shards) };
        // Plain numbers and texts, which can always be written; else it would begin anew at the next start.
        let rest = serde_json::to_string(&stored).unwrap_or_default();
        Some(format!("{}\n{rest}", self.judge.to_json()))
    }
}

/// Of the backend at a place in the list, which mostly is the former list's, too.
fn counts_since(place: usize, address: SocketAddr, counts: Counts, before: &ServiceSignals) -> Counts {
    let is_same = |former: &&(SocketAddr, Counts)| former.0 == address;
    let former = before.backends.get(place).filter(is_same).or_else(|| before.backends.iter().find(is_same));
    former.and_then(|(_, former)| counts.since(former)).unwrap_or(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(flows: u64) -> ServiceSignals {
        let mut reading = ServiceSignals::default();
        let backend = "10.0.2.10:8080".parse().expect("an address");
        reading.v1.counts.flows = 9 * flows;
        reading.v1.handshake.record_us(250, 9 * flows);
        reading.v2.counts.flows = flows;
        reading.v2.counts.unweighted = flows / 10;
        reading.backends = vec![(backend, reading.v2.counts)];
        reading
    }

    #[test]
    fn what_was_seen_survives_the_way_through_the_store() {
        let config = JudgeConfig::default();
        let weights = |hundredths| weights(&[hundredths]);
        let mut analysis = Analysis::new(config, &weights(1000));
        assert_eq!(analysis.take_unsaved(), None, "there is nothing to save");
        for flows in [1000, 1100] {
            analysis.look(Some(&reading(flows)), &weights(1000), Duration::from_secs(1));
        }
        analysis.weights_changed(&weights(2000));
        let text = analysis.take_unsaved().expect("something");
        assert_eq!(analysis.take_unsaved(), None, "it is saved");
        let restored = Analysis::restored(config, &text, &weights(1500)).expect("as written");
        // But what is recent: nobody knows how long the next tick will have been.
        analysis.judge.taken_over();
        assert_eq!((&restored.judge, &restored.seen), (&analysis.judge, &analysis.seen));
        let between = (weights(1000).mean(), weights(2000).mean());
        assert_eq!(restored.in_force, InForce { mean: between, shards: between });
        // Nothing new is nothing to save.
        analysis.look(Some(&reading(1100)), &weights(2000), Duration::from_secs(1));
        assert_eq!(analysis.take_unsaved(), None);

        let other = JudgeConfig { margin: 3.0, ..config };
        for (config, text) in [(other, text.as_str()), (config, "x"), (config, text.lines().next().expect("a line"))] {
            Analysis::restored(config, text, &weights(1000)).expect_err(text);
        }
        analysis.begin_anew(&weights(0));
        let text = analysis.take_unsaved().expect("that it began");
        let mut restored = Analysis::restored(config, &text, &weights(0)).expect("as written");
        analysis.judge.taken_over();
        assert_eq!((&restored.judge, &restored.seen), (&analysis.judge, &None), "nor are the last one's weights lost");
        restored.look(Some(&reading(1200)), &weights(0), Duration::from_secs(1));
        assert!(restored.is_first_unsaved(), "where counting has begun");
    }

    #[test]
    fn harm_of_the_first_seconds_is_not_said_twice() {
        let mut analysis = Analysis::new(JudgeConfig::default(), &weights(&[1000]));
        analysis.begin_anew(&weights(&[1000]));
        let mut bad = reading(1100);
        bad.v2.counts.refused = 100;
        for reading in [reading(1000), bad] {
            analysis.look(Some(&reading), &weights(&[1000]), Duration::from_secs(1));
        }
        match &analysis.judgement {
            Some(Judgement::Harmful(evidence)) => assert_eq!((evidence.e2, evidence.lately), (100, None)),
            other => panic!("{other:?}"),
        }
    }

    fn weights(hundredths: &[u16]) -> Weights {
        Weights::of_shards(hundredths.iter().map(|&each| Weight::from_hundredths(each).expect("in range")).collect())
    }

    /// A service whose connections are reset five seconds after they began, one in so many.
    struct Scene {
        analysis: Analysis,
        reading: ServiceSignals,
        /// Of v1 and v2, by the second.
        flows: Vec<(u64, u64)>,
        one_in: (u64, u64),
    }

    impl Scene {
        fn new(first: &Weights) -> Self {
            let config = JudgeConfig { correlated: false, ..JudgeConfig::default() };
            let reading = ServiceSignals::default();
            Self { analysis: Analysis::new(config, first), reading, flows: Vec::new(), one_in: (100, 100) }
        }

        /// A second with so many connections of v1 and v2.
        fn count(&mut self, n1: u64, n2: u64) {
            self.flows.push((n1, n2));
            let (then1, then2) = self.flows.len().checked_sub(6).map_or((0, 0), |then| self.flows[then]);
            let ServiceSignals { v1, v2, .. } = &mut self.reading;
            v1.counts.flows += n1;
            v2.counts.flows += n2;
            v1.counts.server_resets += then1 / self.one_in.0;
            v2.counts.server_resets += then2 / self.one_in.1;
        }

        /// The same, looked at.
        fn look(&mut self, weights: &Weights, n1: u64, n2: u64) -> Judgement {
            self.count(n1, n2);
            self.analysis.look(Some(&self.reading), weights, Duration::from_secs(1)).clone()
        }
    }

    #[test]
    fn shards_need_not_have_equal_traffic() {
        for (each, n2, is_trusted) in [
            (&[10_000, 0][..], 100, true),
            (&[10_000, 0], 9_900, true),
            (&[1000, 2000], 1900, true),
            (&[1000, 2000], 5000, false),
            (&[1000, 2000], 300, false),
            (&[1500, 1500], 5000, false),
        ] {
            let weights = weights(each);
            let mut scene = Scene::new(&weights);
            let said: Vec<Judgement> = (0..60).map(|_| scene.look(&weights, 10_000 - n2, n2)).collect();
            let untrusted = said.iter().find(|judgement| matches!(judgement, Judgement::Untrusted(_)));
            assert_eq!(untrusted.is_none(), is_trusted, "{each:?} {n2}: {untrusted:?}");
        }
    }

    /// What fails then began when v2 had half of all.
    #[test]
    fn late_errors_of_a_release_that_was_stopped_do_not_blame_the_next() {
        for seconds_off in [None, Some(0), Some(3), Some(30), Some(300)] {
            let (half, few) = (weights(&[5000]), weights(&[1000]));
            let mut scene = Scene::new(&half);
            for _ in 0..60 {
                let said = scene.look(&half, 500, 500);
                assert!(!matches!(said, Judgement::Harmful(_)), "{said:?}");
            }
            if let Some(seconds) = seconds_off {
                scene.analysis.weights_changed(&Weights::ZERO);
                for _ in 0..seconds {
                    scene.count(1000, 0);
                    scene.analysis.pass(&Weights::ZERO, Duration::from_secs(1));
                }
            }
            scene.analysis.begin_anew(&few);
            for second in 0..60 {
                let said = scene.look(&few, 900, 100);
                assert!(!matches!(said, Judgement::Harmful(_)), "{seconds_off:?} second {second}: {said:?}");
            }
            // What was before is forgotten in the end.
            scene.one_in.1 = 10;
            let within = if seconds_off == Some(300) { 20 } else { 300 };
            let is_found = (0..within).any(|_| matches!(scene.look(&few, 900, 100), Judgement::Harmful(_)));
            assert!(is_found, "{seconds_off:?}");
        }
    }
}
