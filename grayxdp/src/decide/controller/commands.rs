//! What people ask for.

use std::time::Duration;

use super::{
    elapse::{behind, follow, gate_in_the_way, interrupted, settle, through_gate},
    policy::Terms,
    refusal::Refusal,
    release::{Outside, Progress, Release, Rule, State},
};
use crate::decide::{
    plan::{Order, Plan},
    schedule::Schedule,
    weights::Weights,
};

/// From the beginning, with whatever was seen before forgotten.
pub(super) fn start(terms: Terms<'_>, release: &Release) -> Result<Release, Refusal> {
    let plan = terms.plan;
    match release.state {
        State::Idle | State::RolledBack | State::Failed => {
            let reason = match plan.schedule {
                Schedule::Manual => "started; `set-weight` moves the weight".to_owned(),
                schedule if plan.order == Order::OneByOne => {
                    format!("follows the schedule ({}), shard by shard", schedule.kind())
                }
                schedule => format!("follows the schedule ({})", schedule.kind()),
            };
            let anew = Release {
                state: State::Progressing,
                reason,
                rule: Rule::Command,
                outside: anew(&release.outside),
                ..Release::idle()
            };
            if terms.policy.asks_first {
                let progress = Progress { since_raise: Duration::MAX, ..anew.progress };
                return Ok(Release { progress, ..anew });
            }
            if terms.policy.interrupts() {
                // No raise was before the first one.
                let progress = Progress { since_raise: Duration::MAX, ..anew.progress };
                return Ok(by_hand(interrupted(terms, Release { progress, ..anew }, Duration::ZERO)));
            }
            Ok(by_hand(follow(terms, anew, Duration::ZERO)))
        }
        State::Promoted => Err(Refusal::AlreadyPromoted),
        State::RollingBack => Err(Refusal::StillRollingBack),
        State::Progressing | State::Frozen | State::Paused => {
            Err(Refusal::AlreadyStarted { state: release.state, weights: release.weights.clone() })
        }
    }
}

/// The first weight of a schedule is the person's who starts it.
fn by_hand(release: Release) -> Release {
    if release.state == State::Progressing { Release { rule: Rule::Command, ..release } } else { release }
}

/// Nothing has been judged yet; what other systems said holds.
fn anew(outside: &Outside) -> Outside {
    Outside { hold: outside.hold.clone(), ..Outside::default() }
}

pub(super) fn freeze(release: &Release) -> Result<Release, Refusal> {
    let command = "freeze";
    match release.state {
        State::Progressing => Ok(Release {
            state: State::Frozen,
            reason: format!("frozen at {} by hand; `resume` goes on from there", release.weights),
            rule: Rule::Command,
            ..release.clone()
        }),
        // A gate that is over opens for nobody who is frozen.
        State::Paused if release.progress.at_gate.is_some() => Ok(Release {
            state: State::Frozen,
            reason: format!("frozen at {}, at a gate, by hand; `resume` goes back to the gate", release.weights),
            rule: Rule::Command,
            ..release.clone()
        }),
        // Both stand still already.
        State::Frozen | State::Paused => Ok(release.clone()),
        State::Idle | State::RollingBack | State::RolledBack | State::Failed => {
            Err(Refusal::NotStarted { command, state: release.state })
        }
        State::Promoted => Err(Refusal::Finished { command }),
    }
}

pub(super) fn resume(terms: Terms<'_>, release: &Release) -> Result<Release, Refusal> {
    let command = "resume";
    let Terms { plan, policy } = terms;
    match release.state {
        State::Paused if release.progress.at_gate.is_some() => {
            Err(Refusal::AtGate { at: gate_in_the_way(policy, release).map_or(release.weights.mean(), |gate| gate.at) })
        }
        State::Frozen if release.progress.at_gate.is_some() => Ok(Release {
            state: State::Paused,
            reason: format!("at the gate again, at {}", release.weights),
            rule: Rule::Command,
            progress: going_on(release.progress),
            outside: anew_after_harm(release),
            ..release.clone()
        }),
        State::Frozen | State::Paused => {
            let resumed = Release {
                state: State::Progressing,
                reason: format!("resumed at {}", release.weights),
                rule: Rule::Command,
                progress: going_on(release.progress),
                outside: anew_after_harm(release),
                ..release.clone()
            };
            let time = resume_time(plan, release);
            let resumed = if policy.interrupts() || policy.asks_first {
                settle(terms, Release { schedule_time: time, ..resumed })
            } else {
                follow(terms, resumed, time)
            };
            if resumed.state == State::Paused && resumed.progress.at_gate.is_none() {
                return Err(Refusal::ScheduleEnded { last: plan.schedule.last_weight() });
            }
            Ok(by_hand(resumed))
        }
        State::Progressing => Ok(release.clone()),
        State::Idle | State::RollingBack | State::RolledBack | State::Failed => {
            Err(Refusal::NotStarted { command, state: release.state })
        }
        State::Promoted => Err(Refusal::Finished { command }),
    }
}

/// Deadlines begin anew when a person lets a release go on.
fn going_on(progress: Progress) -> Progress {
    Progress { not_yet: Duration::ZERO, held: Duration::ZERO, healthy: Duration::ZERO, ..progress }
}

fn anew_after_harm(release: &Release) -> Outside {
    if release.rule.is_harm() { anew(&release.outside) } else { release.outside.clone() }
}

/// Where the schedule goes on: where it stopped, unless what it plans there is not what the release has.
fn resume_time(plan: Plan<'_>, release: &Release) -> Duration {
    let Release { schedule_time, weights, .. } = release;
    let fits = plan.weights_at(*schedule_time).at_most(weights)
        && plan.next_change(*schedule_time).is_none_or(|(_, next)| !next.at_most(weights));
    let place = || plan.place_of(weights);
    // In the middle of a raise that is taken in parts, or put off.
    let in_parts = || behind(plan, release) && plan.next_change(place()).is_some_and(|(at, _)| at == *schedule_time);
    if fits || in_parts() { *schedule_time } else { place() }
}

pub(super) fn approve(terms: Terms<'_>, release: &Release) -> Result<Release, Refusal> {
    match (release.state, release.progress.at_gate) {
        (State::Paused, Some(_)) => {
            let reason = format!("approved at {} by hand", release.weights);
            Ok(through_gate(terms.policy, release, Rule::Command, reason))
        }
        _ => Err(Refusal::NotAtGate { state: release.state, weights: release.weights.clone() }),
    }
}

/// The schedule's time moves with the weights: it goes on from where they lie, for the whole of that period. Gates below
/// what a person sets are passed.
pub(super) fn set_weights(plan: Plan<'_>, release: &Release, weights: Weights, deed: String) -> Release {
    let (state, schedule_time, reason) = match plan.schedule {
        Schedule::Manual => (State::Progressing, release.schedule_time, deed),
        _ => (State::Frozen, plan.place_of(&weights), format!("{deed}; `resume` goes on from there")),
    };
    let former = if release.state.is_off() { Progress::default() } else { release.progress };
    let progress = Progress {
        since_raise: Duration::ZERO,
        gates_passed: former.gates_passed.max(weights.highest()),
        at_gate: None,
        healthy: Duration::ZERO,
        since_promotion: Duration::ZERO,
        ..former
    };
    let begins = release.state.is_off();
    let outside = if begins { anew(&release.outside) } else { anew_after_harm(release) };
    Release { state, schedule_time, weights, reason, rule: Rule::Command, progress, outside }
}

pub(super) fn rollback(release: &Release) -> Release {
    if release.state == State::RolledBack {
        return release.clone();
    }
    rolled_back(release, Rule::Command, format!("rolled back from {} by hand; `start` begins anew", release.weights))
}

/// Everything to v1.
pub(super) fn rolled_back(release: &Release, rule: Rule, reason: String) -> Release {
    Release {
        state: State::RolledBack,
        schedule_time: release.schedule_time,
        weights: Weights::ZERO,
        reason,
        rule,
        progress: Progress::default(),
        outside: anew(&release.outside),
    }
}

pub(super) fn promote(release: &Release) -> Release {
    if release.state == State::Promoted {
        return release.clone();
    }
    Release {
        state: State::Promoted,
        schedule_time: release.schedule_time,
        weights: Weights::FULL,
        reason: format!("promoted from {} by hand", release.weights),
        rule: Rule::Command,
        progress: Progress::default(),
        outside: anew_after_harm(release),
    }
}
