//! What was judged, what a release waits for, and what was decided.

use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::{
    decide::{
        controller::Wait,
        evidence::{Evidence, Judgement, NotYet, thousands},
    },
    percent::percent,
    store::Recorded,
};

/// What the judge says of a release.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JudgementStatus {
    /// `harmful`, `both-bad`, `untrusted`, `no-worse` or `not-yet`.
    pub verdict: String,
    /// The same with its figures, for people.
    pub sentence: String,
    /// The figures; `null` before there were any.
    pub evidence: Option<Evidence>,
    /// `not-yet`: more connections, of both versions, until v2 is proven no worse if it is as good as v1; `null` where that
    /// cannot be told.
    pub samples: Option<u64>,
    /// The time for them at the present rate and weight.
    pub time_s: Option<f64>,
    /// What it cannot judge on, by the names in evidence, for replies do not pass here. Empty where they do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
}

impl JudgementStatus {
    /// Of a service of which nothing is counted that could be judged.
    pub fn blind() -> Self {
        let sentence = "v2 cannot be judged: replies do not pass here; the release goes by its schedule".to_owned();
        Self { sentence, ..Self::from(&Judgement::NotYet(NotYet::default())) }
    }

    /// The same, which does not rest on these.
    #[must_use]
    pub fn without(mut self, unseen: &[&str]) -> Self {
        if !unseen.is_empty() {
            self.sentence.push_str(&format!("; not judged, for replies do not pass here: {}", unseen.join(", ")));
        }
        self.unseen = unseen.iter().map(|&name| name.to_owned()).collect();
        self
    }
}

impl From<&Judgement> for JudgementStatus {
    fn from(judgement: &Judgement) -> Self {
        let (samples, time) = match judgement {
            Judgement::NotYet(NotYet { samples, time, .. }) => (*samples, *time),
            _ => (None, None),
        };
        let evidence = judgement.evidence();
        let mut sentence = match judgement {
            Judgement::Harmful(_) => "v2 does harm",
            Judgement::BothBad(_) => "v1 fails as v2 does",
            Judgement::Untrusted(_) => "what is measured cannot be trusted",
            Judgement::NoWorse(_) => "v2 is no worse",
            Judgement::NotYet(_) => "neither harm nor its absence is proven yet",
        }
        .to_owned();
        if let Some(evidence) = evidence {
            sentence.push_str(&format!(": {evidence}"));
        }
        if let Some(samples) = samples {
            sentence.push_str(&format!("; about {} more connections", thousands(samples)));
        }
        if let Some(time) = time {
            // To the second; the rate is not known better.
            let time = std::time::Duration::from_secs(time.as_secs().max(1));
            sentence.push_str(&format!(", {} at the present rate", humantime::format_duration(time)));
        }
        Self {
            verdict: judgement.name().to_owned(),
            sentence,
            evidence: evidence.cloned(),
            samples,
            time_s: time.map(|time| super::rounded(time.as_secs_f64())),
            unseen: Vec::new(),
        }
    }
}

/// What a release waits for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WaitStatus {
    /// In words.
    pub what: String,
    /// How long, if all stays as it is; `null` where nobody knows.
    pub time_s: Option<f64>,
    /// Whether only a person can end it.
    pub needs_person: bool,
}

impl From<Wait> for WaitStatus {
    fn from(Wait { what, time, needs_person, .. }: Wait) -> Self {
        Self { what, time_s: time.map(|time| super::rounded(time.as_secs_f64())), needs_person }
    }
}

/// How many decisions are listed where nobody says another number.
pub const HISTORY_LIMIT_DEFAULT: u32 = 50;
/// No more are listed at once.
pub const HISTORY_LIMIT_MAX: u32 = 10_000;

/// Query of `GET /v1/history`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Of this service only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// With a higher id only: what has come since that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// The latest so many, 0 to 10000; 50 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Answer of `GET /v1/history`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// In the order in which they were made.
    pub decisions: Vec<DecisionStatus>,
}

/// A change of a release, or a deed that concerns it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// Grows with each decision, of whichever service.
    pub id: i64,
    /// When: RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// Of which service.
    pub service: String,
    /// The command's name, or what happened.
    pub event: String,
    /// Weight before, in percent; where shards differ, their mean.
    pub from: f64,
    /// Weight after.
    pub to: f64,
    /// State after.
    pub state: String,
    /// `schedule`, `analysis`, `fuse`, `operator`, `store`, `external` or `agent`.
    pub cause: String,
    /// By which rule.
    pub rule: String,
    /// The figures that it rests on; `null` where there are none.
    pub evidence: Option<Evidence>,
    /// Who.
    pub actor: String,
    /// All of it, for people.
    pub sentence: String,
}

impl From<Recorded> for DecisionStatus {
    fn from(Recorded { id, at, service, decision }: Recorded) -> Self {
        Self {
            id,
            // Nothing is recorded before 1970.
            time: humantime::format_rfc3339_millis(at.max(UNIX_EPOCH)).to_string(),
            sentence: decision.sentence(&service),
            service,
            event: decision.event,
            from: percent(decision.from),
            to: percent(decision.to),
            state: decision.state.name().to_owned(),
            cause: decision.rule.cause().name().to_owned(),
            rule: decision.rule.name().to_owned(),
            evidence: decision.evidence,
            actor: decision.actor,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_judgement_says_what_is_still_needed() {
        let not_yet = NotYet { evidence: None, samples: Some(1234), time: Some(Duration::from_millis(83_400)) };
        let status = JudgementStatus::from(&Judgement::NotYet(not_yet));
        assert_eq!(
            status.sentence,
            "neither harm nor its absence is proven yet; about 1,234 more connections, 1m 23s at the present rate"
        );
        assert_eq!((status.verdict.as_str(), status.samples, status.time_s), ("not-yet", Some(1234), Some(83.4)));
    }
}
