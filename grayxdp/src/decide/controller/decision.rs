//! What was decided of a release, by whom, and on which figures: kept in the history, told to people.

use grayxdp_common::weight::Weight;

use super::release::{Rule, State};
use crate::decide::evidence::Evidence;

/// A change of a release, or a deed that concerns it.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// The command's name, or what happened.
    pub event: String,
    /// Weight before; where shards differ, their mean.
    pub from: Weight,
    /// Weight after.
    pub to: Weight,
    /// State after.
    pub state: State,
    /// What brought it about; [`Rule::cause`] says who is behind that.
    pub rule: Rule,
    /// The figures that it rests on; `None` where there are none.
    pub evidence: Option<Evidence>,
    /// Why, as a sentence.
    pub reason: String,
    /// Who: a user at the socket, the schedule, the judge, or the agent.
    pub actor: String,
}

impl Decision {
    /// As people read it: `web: v2 25.00 % → 35.00 %: errors v2/v1 0.9 [0.6, 1.3] over 41,200 connections (…)`.
    pub fn sentence(&self, service: &str) -> String {
        let Self { from, to, state, rule, evidence, reason, .. } = self;
        let weight =
            if from == to { format!("v2 {to} % ({})", state.name()) } else { format!("v2 {from} % → {to} %") };
        match evidence {
            // What a raise rests on says more than that the schedule goes on.
            Some(evidence) if *rule == Rule::Schedule => format!("{service}: {weight}: {evidence}"),
            _ => format!("{service}: {weight}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::evidence::tests::sample;

    fn weight(percent: u16) -> Weight {
        Weight::from_hundredths(percent * 100).expect("in range")
    }

    #[test]
    fn a_decision_reads_as_a_sentence() {
        let raise = Decision {
            event: "weight_changed".to_owned(),
            from: weight(25),
            to: weight(35),
            state: State::Progressing,
            rule: Rule::Schedule,
            evidence: Some(sample()),
            reason: "follows the schedule (linear)".to_owned(),
            actor: "schedule".to_owned(),
        };
        assert_eq!(
            raise.sentence("web"),
            "web: v2 25.00 % → 35.00 %: errors v2/v1 0.9 [0.6, 1.3] over 41,200 connections (v2 92 of 10,200, v1 310 of \
             31,000)"
        );
        let blind = Decision { evidence: None, ..raise.clone() };
        assert_eq!(blind.sentence("web"), "web: v2 25.00 % → 35.00 %: follows the schedule (linear)");
        let reason = "frozen at 35.00 % by hand; `resume` goes on from there".to_owned();
        let frozen = Decision { from: weight(35), state: State::Frozen, rule: Rule::Command, reason, ..raise };
        assert_eq!(
            frozen.sentence("web"),
            "web: v2 35.00 % (frozen): frozen at 35.00 % by hand; `resume` goes on from there"
        );
    }
}
