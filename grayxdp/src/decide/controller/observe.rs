//! What is found out about a release: by the judge, the kernel, and other systems.

use std::time::Duration;

use super::{
    External,
    commands::rolled_back,
    policy::{OnFailure, Policy, Terms},
    release::{Outside, Release, Rule, State, Verdict},
};
use crate::decide::evidence::{Evidence, Judgement};

/// Whether the judge is to look at a release: while v2 may get traffic, and for a while after the promotion.
pub fn is_judged(policy: &Policy, release: &Release) -> bool {
    policy.analysis.enabled && is_open(policy, release)
}

/// Whether harm still means something, be there a judge or not.
pub fn is_open(policy: &Policy, release: &Release) -> bool {
    match release.state {
        State::Progressing | State::Frozen | State::Paused => true,
        State::Promoted => release.progress.since_promotion < policy.rollback_window,
        State::Idle | State::RollingBack | State::RolledBack | State::Failed => false,
    }
}

/// Whether a change begins a release, or lets one go on in spite of harm: what was seen before counts no more.
pub fn needs_new_evidence(before: &Release, after: &Release) -> bool {
    let begins = before.state.is_off() && !after.state.is_off();
    begins || (before.rule.is_harm() && !after.rule.is_harm() && !after.state.is_off())
}

pub(super) fn judged(terms: Terms<'_>, release: &Release, judgement: &Judgement) -> Release {
    if !is_judged(terms.policy, release) {
        return release.clone();
    }
    let verdict = match judgement {
        Judgement::Harmful(evidence) => return harm(terms.policy, release, Rule::Harm, evidence),
        Judgement::BothBad(evidence) => Verdict::BothBad(evidence.to_string()),
        Judgement::Untrusted(evidence) => Verdict::Untrusted(evidence.to_string()),
        Judgement::NoWorse(_) => Verdict::NoWorse,
        Judgement::NotYet(_) => Verdict::NotYet,
    };
    let outside = Outside { verdict: Some(verdict), age: Duration::ZERO, ..release.outside.clone() };
    Release { outside, ..release.clone() }
}

pub(super) fn external(terms: Terms<'_>, release: &Release, external: External) -> Release {
    let outside = Outside { hold: external.hold, ..release.outside.clone() };
    let release = Release { outside, ..release.clone() };
    match external.fail {
        Some(evidence) if is_open(terms.policy, &release) => {
            harm(terms.policy, &release, Rule::ExternalFailure, &evidence)
        }
        _ => match external.freeze {
            Some(why) if release.state == State::Progressing => frozen(&release, &why),
            _ => release,
        },
    }
}

fn frozen(release: &Release, why: &str) -> Release {
    Release {
        state: State::Frozen,
        rule: Rule::ExternalHold,
        reason: format!("frozen at {}: {why}; `resume` goes on from there", release.weights),
        outside: Outside { held: None, ..release.outside.clone() },
        ..release.clone()
    }
}

fn harm(policy: &Policy, release: &Release, rule: Rule, evidence: &Evidence) -> Release {
    let weights = &release.weights;
    match policy.analysis.on_failure {
        OnFailure::Rollback => {
            let reason = format!("rolled back from {weights}, for v2 does harm: {evidence}; `start` tries again");
            rolled_back(release, rule, reason)
        }
        // Found again.
        OnFailure::Freeze if release.state == State::Frozen && release.rule.is_harm() => release.clone(),
        OnFailure::Freeze => Release {
            state: State::Frozen,
            rule,
            reason: format!(
                "frozen at {weights}, for v2 does harm: {evidence}; `rollback` sends everything back to v1, `resume` goes \
                 on with evidence gathered anew"
            ),
            outside: Outside { verdict: None, held: None, ..release.outside.clone() },
            ..release.clone()
        },
    }
}

/// Whatever the config says: the kernel has done it already.
pub(super) fn fuse_blown(policy: &Policy, release: &Release, evidence: &Evidence) -> Release {
    if !is_open(policy, release) {
        return release.clone();
    }
    let reason = format!(
        "rolled back from {}, for the fuse in the kernel has blown: {evidence}; `start` tries again",
        release.weights
    );
    rolled_back(release, Rule::Fuse, reason)
}

pub(super) fn weights_refused(release: &Release) -> Release {
    match release.state {
        State::RolledBack | State::Failed => Release { state: State::RollingBack, ..release.clone() },
        _ => release.clone(),
    }
}

pub(super) fn weights_taken(release: &Release) -> Release {
    let state = match (release.state, release.rule) {
        (State::RollingBack, Rule::ProgressDeadline) => State::Failed,
        (State::RollingBack, _) => State::RolledBack,
        (state, _) => state,
    };
    Release { state, ..release.clone() }
}
