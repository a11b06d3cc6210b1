//! The state machine of a release: from state, event, schedule and policy to the next state. No clock, no kernel, no store.
//!
//! What holds whatever happens: only [`Event::Elapsed`] in [`State::Progressing`], [`Event::Start`],
//! [`Event::SetWeight`], [`Event::SetShardWeight`], [`Event::Promote`], and [`Event::Resume`] up to the schedule's first
//! weight can raise a weight; a rollback works from every state; a release that is not progressing moves by itself at the
//! end of a gate's time only. With a judge, time raises nothing unless the judge has spoken within [`FRESH_MAX`], and found
//! neither harm nor trouble; once harm was found, nothing goes up without a person.

mod commands;
mod decision;
mod elapse;
mod observe;
mod policy;
mod refusal;
mod release;
mod take_over;
mod wait;

use std::time::Duration;

use grayxdp_common::weight::Weight;

pub use self::{
    decision::Decision,
    elapse::FRESH_MAX,
    observe::{is_judged, is_open, needs_new_evidence},
    policy::{Analysis, Gate, OnDeadline, OnFailure, Pause, Policy, Terms},
    refusal::Refusal,
    release::{Cause, Held, NoProgress, Outside, Progress, Release, Rule, State, Verdict},
    take_over::{Left, Same, take_over},
    wait::{Wait, wait},
};
use super::{
    evidence::{Evidence, Judgement},
    weights::Weights,
};

/// What can happen to a release.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// So much time has passed since the last event.
    Elapsed(Duration),
    /// The judge has looked at the latest signals.
    Judged(Judgement),
    /// The kernel itself has stopped v2, and sends all new connections to v1.
    FuseBlown(Box<Evidence>),
    /// What other systems say now.
    External(External),
    /// The kernel has not taken the weights of a rollback.
    WeightsRefused,
    /// The kernel has taken them at last.
    WeightsTaken,
    /// Begin, or try again after a rollback.
    Start,
    /// Stop where it stands.
    Freeze,
    /// Go on.
    Resume,
    /// Let it through the gate.
    Approve,
    /// Take this weight, in all shards.
    SetWeight(Weight),
    /// Take this weight in one shard.
    SetShardWeight {
        /// Which; it must exist.
        shard: usize,
        /// Its weight.
        weight: Weight,
    },
    /// Everything back to v1.
    Rollback,
    /// Everything to v2.
    Promote,
}

impl Event {
    /// The figures that it brings.
    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            Self::Judged(judgement) => judgement.evidence(),
            Self::FuseBlown(evidence) => Some(evidence),
            Self::External(External { fail, .. }) => fail.as_deref(),
            _ => None,
        }
    }
}

/// What other systems say of a release, all of them together.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct External {
    /// Why it is to wait; `None` if nothing speaks against going on.
    pub hold: Option<String>,
    /// Why a person has to look.
    pub freeze: Option<String>,
    /// The harm that was found.
    pub fail: Option<Box<Evidence>>,
}

/// What becomes of a release when something happens. Only commands are refused.
pub fn step(terms: Terms<'_>, release: &Release, event: Event) -> Result<Release, Refusal> {
    let plan = terms.plan;
    match event {
        Event::Elapsed(passed) => Ok(elapse::elapsed(terms, release, passed)),
        Event::Judged(judgement) => Ok(observe::judged(terms, release, &judgement)),
        Event::FuseBlown(evidence) => Ok(observe::fuse_blown(terms.policy, release, &evidence)),
        Event::External(external) => Ok(observe::external(terms, release, external)),
        Event::WeightsRefused => Ok(observe::weights_refused(release)),
        Event::WeightsTaken => Ok(observe::weights_taken(release)),
        Event::Start => commands::start(terms, release),
        Event::Freeze => commands::freeze(release),
        Event::Resume => commands::resume(terms, release),
        Event::Approve => commands::approve(terms, release),
        Event::SetWeight(weight) => {
            Ok(commands::set_weights(plan, release, Weights::equal(weight), format!("set to {weight} % by hand")))
        }
        Event::SetShardWeight { shard, weight } => {
            let weights = release.weights.with(shard, plan.shards.count(), weight);
            let reason = format!("shard `{}` set to {weight} % by hand", plan.shards.name(shard));
            Ok(commands::set_weights(plan, release, weights, reason))
        }
        Event::Rollback => Ok(commands::rollback(release)),
        Event::Promote => Ok(commands::promote(release)),
    }
}

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
