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

/// What is read of a service at a look.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Reading {
    /// Since the counters were made.
    pub(super) signals: ServiceSignals,
    /// New flows of v1 and of v2 that no weight placed, since the counters were made.
    pub(super) unweighted: (u64, u64),
}

/// The judge, and what it has seen.
#[derive(Debug)]
pub(super) struct Analysis {
    judge: Judge,
    /// The reading that the judge has taken in last; what comes after it is the next tick's.
    seen: Option<Reading>,
    /// The lowest and the highest mean weight since then.
    weight: (Weight, Weight),
    judgement: Option<Judgement>,
    /// Nothing is counted of the service that could be judged.
    is_blind: bool,
    /// The store knows less.
    is_unsaved: bool,
    /// The store knows no reading at all.
    is_first: bool,
}

/// What is stored behind the judge's own line.
#[derive(Serialize, Deserialize)]
struct Stored {
    seen: Reading,
    /// Lowest and highest weight since, in hundredths of a percent.
    weight: (u16, u16),
}

/// The same to be written, without a copy.
#[derive(Serialize)]
struct StoredBy<'a> {
    seen: &'a Reading,
    weight: (u16, u16),
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
        let weight = weights.mean();
        Self {
            judge: Judge::new(config),
            seen: None,
            weight: (weight, weight),
            judgement: None,
            is_blind: false,
            is_unsaved: false,
            is_first: true,
        }
    }

    /// Goes on from what another agent has stored, with the weights that there are now.
    pub(super) fn restored(config: JudgeConfig, text: &str, weights: &Weights) -> Result<Self, AnalysisError> {
        let (judge, rest) = text.split_once('\n').unwrap_or((text, ""));
        let judge = Judge::from_json(config, judge)?;
        let Stored { seen, weight: (lowest, highest) } = serde_json::from_str(rest)?;
        let known = |hundredths: u16| Weight::from_hundredths(hundredths).unwrap_or(weights.mean());
        let weight = (known(lowest), known(highest));
        let mut restored = Self {
            judge,
            seen: Some(seen),
            weight,
            judgement: None,
            is_blind: false,
            is_unsaved: false,
            is_first: false,
        };
        restored.weights_changed(weights);
        Ok(restored)
    }

    /// Forgets all: a release begins.
    pub(super) fn begin_anew(&mut self, weights: &Weights) {
        *self = Self { is_unsaved: true, ..Self::new(*self.judge.config(), weights) };
    }

    /// Takes note of other weights.
    pub(super) fn weights_changed(&mut self, weights: &Weights) {
        let (mean, (lowest, highest)) = (weights.mean(), self.weight);
        self.weight = (lowest.min(mean), highest.max(mean));
    }

    /// What is to be said with this reading; `None` where nothing is counted of the service.
    pub(super) fn look(&mut self, reading: Option<Reading>, weights: &Weights, elapsed: Duration) -> &Judgement {
        self.is_blind = reading.is_none();
        let judgement = match reading {
            None => Judgement::NotYet(NotYet::default()),
            Some(reading) => {
                let judgement = self.take_in(&reading, elapsed);
                // Where nothing came, what is stored is as good: the time in between says nothing of v2.
                self.is_unsaved |= self.seen.as_ref() != Some(&reading);
                self.seen = Some(reading);
                self.weight = (weights.mean(), weights.mean());
                judgement
            }
        };
        self.judgement.insert(judgement)
    }

    /// The first reading is only where counting begins: it holds what came before the release.
    fn take_in(&mut self, reading: &Reading, elapsed: Duration) -> Judgement {
        let Some(seen) = &self.seen else { return self.judge.judgement() };
        let (now, before) = (&reading.signals, &seen.signals);
        let backends: Vec<(SocketAddr, Counts)> =
            now.backends.iter().map(|(address, counts)| (*address, counts_since(*address, *counts, before))).collect();
        let unweighted =
            (grown(reading.unweighted.0, seen.unweighted.0), grown(reading.unweighted.1, seen.unweighted.1));
        let (v1, v2): (Signals, Signals) = (now.v1.since(&before.v1), now.v2.since(&before.v2));
        self.judge.tick(&Tick { elapsed, weight: self.weight, v1: &v1, v2: &v2, unweighted, backends: &backends })
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
        let Some(seen) = &self.seen else { return Some(String::new()) };
        self.is_first = false;
        let (lowest, highest) = self.weight;
        let stored = StoredBy { seen, weight: (lowest.hundredths(), highest.hundredths()) };
        // Plain numbers and texts, which can always be written; else it would begin anew at the next start.
        let rest = serde_json::to_string(&stored).unwrap_or_default();
        Some(format!("{}\n{rest}", self.judge.to_json()))
    }
}

/// A counter that has fallen was reset: what it holds has come since.
fn grown(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn counts_since(address: SocketAddr, counts: Counts, before: &ServiceSignals) -> Counts {
    let former = before.backends.iter().find(|(of, _)| *of == address);
    former.and_then(|(_, former)| counts.since(former)).unwrap_or(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(flows: u64) -> Reading {
        let mut reading = Reading { signals: ServiceSignals::default(), unweighted: (0, flows / 10) };
        let backend = "10.0.2.10:8080".parse().expect("an address");
        reading.signals.v1.counts.flows = 9 * flows;
        reading.signals.v1.handshake.record_us(250, 9 * flows);
        reading.signals.v2.counts.flows = flows;
        reading.signals.backends = vec![(backend, reading.signals.v2.counts)];
        reading
    }

    #[test]
    fn what_was_seen_survives_the_way_through_the_store() {
        let config = JudgeConfig::default();
        let weights = |hundredths| Weights::equal(Weight::from_hundredths(hundredths).expect("in range"));
        let mut analysis = Analysis::new(config, &weights(1000));
        assert_eq!(analysis.take_unsaved(), None, "there is nothing to save");
        for flows in [1000, 1100] {
            analysis.look(Some(reading(flows)), &weights(1000), Duration::from_secs(1));
        }
        analysis.weights_changed(&weights(2000));
        let text = analysis.take_unsaved().expect("something");
        assert_eq!(analysis.take_unsaved(), None, "it is saved");
        let restored = Analysis::restored(config, &text, &weights(1500)).expect("as written");
        assert_eq!((&restored.judge, &restored.seen), (&analysis.judge, &analysis.seen));
        assert_eq!(restored.weight, (weights(1000).mean(), weights(2000).mean()));
        // Nothing new is nothing to save.
        analysis.look(Some(reading(1100)), &weights(2000), Duration::from_secs(1));
        assert_eq!(analysis.take_unsaved(), None);

        let other = JudgeConfig { margin: 3.0, ..config };
        for (config, text) in [(other, text.as_str()), (config, "x"), (config, text.lines().next().expect("a line"))] {
            Analysis::restored(config, text, &weights(1000)).expect_err(text);
        }
        analysis.begin_anew(&weights(0));
        assert_eq!(analysis.take_unsaved().as_deref(), Some(""));
    }
}
