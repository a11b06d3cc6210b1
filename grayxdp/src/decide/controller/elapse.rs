//! Time passes: the schedule goes on, or waits, and gates, holds and deadlines end.

use std::time::Duration;

use super::{
    commands::rolled_back,
    policy::{Gate, OnDeadline, Pause, Policy, Terms},
    release::{Held, Outside, Progress, Release, Rule, State, Verdict},
};
use crate::decide::{plan::Plan, schedule::Millionths, weights::Weights};

/// How old the judge's last word may be for v2 to get more.
pub const FRESH_MAX: Duration = Duration::from_secs(3);
/// The least time between two parts of a raise, where no hold is longer.
pub(super) const PARTS_EVERY: Duration = Duration::from_secs(1);

pub(super) fn elapsed(terms: Terms<'_>, release: &Release, passed: Duration) -> Release {
    let after = match release.state {
        State::Progressing => progressing(terms, release, passed),
        State::Paused => at_gate(terms.policy, release, passed),
        State::Promoted => after_promotion(terms.policy, release, passed),
        _ => release.clone(),
    };
    if !terms.policy.analysis.enabled {
        return after;
    }
    let age = after.outside.age.saturating_add(passed);
    Release { outside: Outside { age, ..after.outside }, ..after }
}

fn progressing(terms: Terms<'_>, release: &Release, passed: Duration) -> Release {
    let policy = terms.policy;
    if let Some(held) = held(policy, &release.outside) {
        return hold_up(policy, release, held, passed);
    }
    let mut next = release.clone();
    next.outside.held = None;
    next.progress.held = Duration::ZERO;
    if let Some(frozen) = undecided(policy, &mut next, passed) {
        return frozen;
    }
    if is_complete(terms.plan, &next) && !policy.promote_after.is_zero() {
        next.progress.healthy = next.progress.healthy.saturating_add(passed);
    }
    if policy.interrupts() {
        return interrupted(terms, next, passed);
    }
    let time = next.schedule_time.saturating_add(scheduled(passed, speed(policy, &next.outside)));
    follow(terms, next, time)
}

/// Why schedule time must stand still now.
fn held(policy: &Policy, outside: &Outside) -> Option<Held> {
    if let Some(why) = &outside.hold {
        return Some(Held { rule: Rule::ExternalHold, why: why.clone() });
    }
    if !policy.analysis.enabled {
        return None;
    }
    let held = |rule: Rule, why: String| Some(Held { rule, why });
    match &outside.verdict {
        None => held(Rule::NoData, "the judge has not judged yet".to_owned()),
        Some(_) if outside.age > FRESH_MAX => held(
            Rule::NoData,
            format!("the judge has had no reading of the kernel's counters for {} s", outside.age.as_secs()),
        ),
        Some(Verdict::BothBad(how)) => held(Rule::BothBad, format!("v1 fails as v2 does: {how}")),
        Some(Verdict::Untrusted(why)) => held(Rule::Untrusted, format!("what is measured cannot be trusted: {why}")),
        Some(Verdict::NoWorse | Verdict::NotYet) => None,
    }
}

fn hold_up(policy: &Policy, release: &Release, held: Held, passed: Duration) -> Release {
    let time = release.progress.held.saturating_add(passed);
    let progress = Progress { held: time, healthy: Duration::ZERO, ..release.progress };
    let deadline = policy.progress_deadline.filter(|deadline| time >= *deadline);
    let Some(deadline) = deadline else {
        return Release {
            progress,
            outside: Outside { held: Some(held), ..release.outside.clone() },
            ..release.clone()
        };
    };
    let (weights, why) = (&release.weights, held.why);
    let deadline = humantime::format_duration(deadline);
    match policy.on_deadline {
        OnDeadline::Freeze => Release {
            state: State::Frozen,
            reason: format!(
                "frozen at {weights}: held up for the {deadline} of its progress deadline ({why}); `resume` goes on from \
                 there"
            ),
            rule: Rule::ProgressDeadline,
            progress,
            outside: Outside { held: None, ..release.outside.clone() },
            ..release.clone()
        },
        OnDeadline::Fail => {
            let reason = format!(
                "failed at {weights}: held up for the {deadline} of its progress deadline ({why}); all new connections \
                 go to v1, and `start` tries again"
            );
            Release { state: State::Failed, ..rolled_back(release, Rule::ProgressDeadline, reason) }
        }
    }
}

/// Counts how long the judge has not known; the frozen release where that has taken too long.
fn undecided(policy: &Policy, release: &mut Release, passed: Duration) -> Option<Release> {
    let freeze_after = policy.analysis.freeze_after?;
    let compares = release.weights != Weights::ZERO && release.weights != Weights::FULL;
    match release.outside.verdict {
        Some(Verdict::NotYet) if compares => {}
        _ => {
            release.progress.not_yet = Duration::ZERO;
            return None;
        }
    }
    release.progress.not_yet = release.progress.not_yet.saturating_add(passed);
    (release.progress.not_yet >= freeze_after).then(|| Release {
        state: State::Frozen,
        reason: format!(
            "frozen at {}: v2 was proven neither worse nor no worse within {}; `resume` waits once more, `rollback` gives \
             up",
            release.weights,
            humantime::format_duration(freeze_after)
        ),
        rule: Rule::FreezeAfter,
        ..release.clone()
    })
}

/// How many times as fast as time the schedule runs now.
pub(super) fn speed(policy: &Policy, outside: &Outside) -> Millionths {
    match outside.verdict {
        Some(Verdict::NoWorse) => policy.analysis.accelerate,
        _ => Millionths::ONE,
    }
}

fn scheduled(time: Duration, speed: Millionths) -> Duration {
    ratio(time, speed.0, Millionths::ONE.0)
}

/// The time that the schedule takes for some of its own, to the next nanosecond.
pub(super) fn real(time: Duration, speed: Millionths) -> Duration {
    if speed == Millionths::ONE {
        return time;
    }
    ratio(time, Millionths::ONE.0, speed.0.max(1)).saturating_add(Duration::from_nanos(1))
}

fn ratio(time: Duration, times: u32, by: u32) -> Duration {
    const NANOS: u128 = 1_000_000_000;
    let nanos = time.as_nanos().saturating_mul(times.into()) / u128::from(by);
    let rest = u32::try_from(nanos % NANOS).unwrap_or_default();
    u64::try_from(nanos / NANOS).map_or(Duration::MAX, |seconds| Duration::new(seconds, rest))
}

/// The release at a moment of the schedule. No shard below the weight that it already has.
pub(super) fn follow(terms: Terms<'_>, release: Release, time: Duration) -> Release {
    let weights = terms.plan.weights_at(time).max(&release.weights);
    let raised = weights != release.weights;
    let rule = if raised { Rule::Schedule } else { release.rule };
    settle(terms, Release { schedule_time: time, weights, rule, ..release })
}

/// What becomes of a release that has come to the end of its schedule; any other one stays what it is.
pub(super) fn settle(terms: Terms<'_>, release: Release) -> Release {
    let Terms { plan, policy } = terms;
    let Some(end) = plan.duration().filter(|end| release.state == State::Progressing && release.schedule_time >= *end)
    else {
        return release;
    };
    if !plan.last().at_most(&release.weights) || gate_reached(policy, &release).is_some() {
        return release;
    }
    let release = Release { schedule_time: end, ..release };
    if release.weights != Weights::FULL {
        let reason = format!("schedule ended at {}; `promote` or `rollback`", release.weights);
        return Release { state: State::Paused, rule: Rule::ScheduleEnd, reason, ..release };
    }
    let after = humantime::format_duration(policy.promote_after);
    if release.progress.healthy < policy.promote_after {
        let reason = format!("schedule ended at 100.00 %; promoted when that has gone well for {after}");
        return Release { reason, ..release };
    }
    let (rule, reason) = if policy.promote_after.is_zero() {
        (Rule::ScheduleEnd, "schedule ended at 100.00 %: v2 gets everything".to_owned())
    } else {
        (Rule::PromoteAfter, format!("100.00 % has gone well for {after}: v2 gets everything"))
    };
    Release { state: State::Promoted, rule, reason, progress: Progress::default(), ..release }
}

fn is_complete(plan: Plan<'_>, release: &Release) -> bool {
    release.weights == Weights::FULL && plan.duration().is_some_and(|end| release.schedule_time >= end)
}

/// Whether the plan has more for now than the release, because a raise is taken in parts, or put off.
pub(super) fn behind(plan: Plan<'_>, release: &Release) -> bool {
    !plan.weights_at(release.schedule_time).at_most(&release.weights)
}

/// The next gate on the way; the release may stand at it.
pub(super) fn gate_in_the_way(policy: &Policy, release: &Release) -> Option<Gate> {
    policy.gates.iter().find(|gate| gate.at > release.progress.gates_passed).copied()
}

fn gate_reached(policy: &Policy, release: &Release) -> Option<Gate> {
    gate_in_the_way(policy, release).filter(|gate| gate.at <= release.weights.highest())
}

/// The least time from the last raise to the next one.
pub(super) fn spacing(terms: Terms<'_>, release: &Release) -> Duration {
    let parts = terms.policy.max_step.is_some() && behind(terms.plan, release);
    terms.policy.hold.max(if parts { PARTS_EVERY } else { Duration::ZERO })
}

/// Follows the schedule by one raise after the other, none too large or too early, up to the next gate.
pub(super) fn interrupted(terms: Terms<'_>, mut release: Release, passed: Duration) -> Release {
    let Terms { plan, policy } = terms;
    let speed = speed(policy, &release.outside);
    let mut left = passed;
    loop {
        if let Some(gate) = gate_reached(policy, &release) {
            return stopped_at(gate, release);
        }
        let since_raise = release.progress.since_raise;
        let next = if behind(plan, &release) {
            Some((release.schedule_time, plan.weights_at(release.schedule_time)))
        } else {
            plan.next_change(release.schedule_time)
        };
        // Where nothing is to come, time passes up to the end.
        let (at, wanted) = next.unwrap_or_else(|| {
            (plan.duration().unwrap_or(Duration::MAX).max(release.schedule_time), release.weights.clone())
        });
        let raises = !wanted.at_most(&release.weights);
        let spacing = if raises { spacing(terms, &release) } else { Duration::ZERO };
        let wait = real(at.saturating_sub(release.schedule_time), speed).max(spacing.saturating_sub(since_raise));
        let ended = !raises && at <= release.schedule_time;
        if wait > left || ended {
            release.schedule_time = release.schedule_time.saturating_add(scheduled(left, speed)).min(at);
            release.progress.since_raise = since_raise.saturating_add(left);
            return settle(terms, release);
        }
        left -= wait;
        release.schedule_time = at;
        release.progress.since_raise = since_raise.saturating_add(wait);
        if raises {
            release = raised(policy, release, &wanted, plan.shards.count());
        }
    }
}

/// As far as it may go at once.
fn raised(policy: &Policy, release: Release, wanted: &Weights, shards: usize) -> Release {
    let gate = gate_in_the_way(policy, &release).map(|gate| Weights::equal(gate.at));
    let step = policy.max_step.map(|step| release.weights.plus(step, shards));
    let capped = [gate, step].into_iter().flatten().fold(wanted.clone(), |wanted, most| wanted.min(&most));
    let progress = Progress { since_raise: Duration::ZERO, ..release.progress };
    Release { weights: capped.max(&release.weights), rule: Rule::Schedule, progress, ..release }
}

fn stopped_at(gate: Gate, release: Release) -> Release {
    let at = gate.at;
    let reason = match gate.pause {
        Pause::Approve => format!("at the gate at {at} %; `approve` lets it through"),
        Pause::For(time) => {
            format!("at the gate at {at} % for {}; `approve` lets it through earlier", humantime::format_duration(time))
        }
    };
    let progress = Progress { at_gate: Some(Duration::ZERO), ..release.progress };
    Release { state: State::Paused, rule: Rule::Gate, reason, progress, ..release }
}

/// Behind the gate.
pub(super) fn through_gate(policy: &Policy, release: &Release, rule: Rule, reason: String) -> Release {
    let gate = gate_reached(policy, release).map_or(release.weights.highest(), |gate| gate.at);
    let progress =
        Progress { gates_passed: gate.max(release.progress.gates_passed), at_gate: None, ..release.progress };
    Release { state: State::Progressing, rule, reason, progress, ..release.clone() }
}

fn at_gate(policy: &Policy, release: &Release, passed: Duration) -> Release {
    // The schedule has ended.
    let Some(waited) = release.progress.at_gate else { return release.clone() };
    let waited = waited.saturating_add(passed);
    let since_raise = release.progress.since_raise.saturating_add(passed);
    let progress = Progress { at_gate: Some(waited), since_raise, ..release.progress };
    let waits = Release { progress, ..release.clone() };
    match gate_reached(policy, release) {
        None => {
            let reason = format!("at {}, where the config has no gate any more", release.weights);
            through_gate(policy, &waits, Rule::GateOver, reason)
        }
        Some(Gate { pause: Pause::For(time), at }) if waited >= time => {
            let reason = format!("through the gate at {at} % after {}", humantime::format_duration(time));
            through_gate(policy, &waits, Rule::GateOver, reason)
        }
        Some(_) => waits,
    }
}

fn after_promotion(policy: &Policy, release: &Release, passed: Duration) -> Release {
    let since_promotion = release.progress.since_promotion.saturating_add(passed).min(policy.rollback_window);
    let progress = Progress { since_promotion, ..release.progress };
    Release { progress, ..release.clone() }
}
