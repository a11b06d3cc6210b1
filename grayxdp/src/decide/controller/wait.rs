//! What a release waits for, and how long that will take.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use super::{
    elapse::{behind, gate_in_the_way, real, spacing, speed},
    policy::{Pause, Terms},
    release::{Release, State},
};
use crate::decide::{schedule::Schedule, weights::Weights};

/// What a release waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    /// In words.
    pub what: String,
    /// How long that will be, if all stays as it is; `None` where nobody knows.
    pub time: Option<Duration>,
    /// The weight that comes then by itself, where one does.
    pub weight: Option<Weight>,
    /// Whether only a person can end it.
    pub needs_person: bool,
}

impl Wait {
    fn until(what: impl Into<String>, time: Duration) -> Self {
        Self { what: what.into(), time: Some(time), weight: None, needs_person: false }
    }

    fn of_unknown_length(what: impl Into<String>) -> Self {
        Self { what: what.into(), time: None, weight: None, needs_person: false }
    }

    fn for_person(what: impl Into<String>) -> Self {
        Self { needs_person: true, ..Self::of_unknown_length(what) }
    }
}

/// What a release waits for; `None` where it is over, or has not begun.
pub fn wait(terms: Terms<'_>, release: &Release) -> Option<Wait> {
    let policy = terms.policy;
    match release.state {
        State::Idle | State::RolledBack | State::Failed => None,
        State::Progressing => Some(progressing(terms, release)),
        State::Frozen => Some(Wait::for_person("a person: `resume`, `rollback`, `promote` or `set-weight`")),
        State::Paused => Some(paused(terms, release)),
        State::RollingBack => Some(Wait::of_unknown_length("the kernel to take 0 %, which is tried every second")),
        State::Promoted => {
            let left = policy.rollback_window.saturating_sub(release.progress.since_promotion);
            // Judge, fuse or another system: whoever finds harm.
            (!left.is_zero()).then(|| Wait::until("the end of the window in which harm still rolls back", left))
        }
    }
}

fn progressing(terms: Terms<'_>, release: &Release) -> Wait {
    let Terms { plan, policy } = terms;
    if let Some(held) = &release.outside.held {
        return Wait::of_unknown_length(held.why.clone());
    }
    if *plan.schedule == Schedule::Manual {
        return Wait { needs_person: false, ..Wait::for_person("a weight by hand (`set-weight`)") };
    }
    let since_raise = release.progress.since_raise;
    let left = |time: Duration| {
        let scheduled = real(time.saturating_sub(release.schedule_time), speed(policy, &release.outside));
        scheduled.max(spacing(terms, release).saturating_sub(since_raise))
    };
    let next = if behind(plan, release) {
        Some((release.schedule_time, plan.weights_at(release.schedule_time)))
    } else {
        plan.next_change(release.schedule_time)
    };
    match next {
        Some((at, weights)) => {
            // No shard falls: one that a person has set higher stays where it is.
            let cap = policy.max_step.map_or(Weights::FULL, |step| release.weights.plus(step, plan.shards.count()));
            let gate = gate_in_the_way(policy, release).map_or(Weight::FULL, |gate| gate.at);
            let weight = weights.min(&cap).min(&Weights::equal(gate)).max(&release.weights).mean();
            Wait { weight: Some(weight), ..Wait::until(format!("the next step, to {weight} %"), left(at)) }
        }
        None if release.weights == Weights::FULL => {
            let left = policy.promote_after.saturating_sub(release.progress.healthy);
            Wait::until("100.00 % to have gone well for long enough", left)
        }
        None => Wait::until("the end of the schedule", left(plan.duration().unwrap_or_default())),
    }
}

fn paused(terms: Terms<'_>, release: &Release) -> Wait {
    let gate = gate_in_the_way(terms.policy, release);
    match (release.progress.at_gate, gate) {
        (Some(waited), Some(gate)) => match gate.pause {
            Pause::Approve => {
                Wait::for_person(format!("a person at the gate at {} %: `approve` or `rollback`", gate.at))
            }
            Pause::For(time) => Wait::until(format!("the gate at {} % to open", gate.at), time.saturating_sub(waited)),
        },
        _ => Wait::for_person("a person: `promote` or `rollback`"),
    }
}
