//! The state machine of a release: from state, event and schedule to the next state. No clock, no kernel, no store.
//!
//! What holds whatever happens: only [`Event::Elapsed`] in [`State::Progressing`], [`Event::Start`],
//! [`Event::Resume`], [`Event::SetWeight`], [`Event::SetShardWeight`] and [`Event::Promote`] can raise a weight; a rollback
//! works from every state; a release that is not progressing does not move by itself.

mod take_over;

use std::time::Duration;

use grayxdp_common::weight::Weight;

pub use self::take_over::{Left, Same, take_over};
use super::{
    plan::{Order, Plan},
    schedule::Schedule,
    weights::Weights,
};

/// Where a release stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Not started.
    Idle,
    /// The weight follows the schedule.
    Progressing,
    /// Stopped by a person, or because what was found at a start-up needs one.
    Frozen,
    /// The schedule has ended below 100 %; a person decides.
    Paused,
    /// All new connections go to v1 again.
    RolledBack,
    /// All new connections go to v2.
    Promoted,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Progressing, Self::Frozen, Self::Paused, Self::RolledBack, Self::Promoted];

    /// As in output, metrics, API and store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Progressing => "progressing",
            Self::Frozen => "frozen",
            Self::Paused => "paused",
            Self::RolledBack => "rolled-back",
            Self::Promoted => "promoted",
        }
    }

    /// The state of that [`State::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A release, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// Where it stands.
    pub state: State,
    /// How far the schedule has come; stands still while the release does.
    pub schedule_time: Duration,
    /// The weights that are wanted now.
    pub weights: Weights,
    /// Why it stands where it stands: a sentence for people.
    pub reason: String,
}

impl Release {
    /// A release that has not started.
    pub fn idle() -> Self {
        Self {
            state: State::Idle,
            schedule_time: Duration::ZERO,
            weights: Weights::ZERO,
            reason: "not started yet".to_owned(),
        }
    }
}

impl Default for Release {
    fn default() -> Self {
        Self::idle()
    }
}

/// What can happen to a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// So much time has passed since the last event.
    Elapsed(Duration),
    /// Begin.
    Start,
    /// Stop where it stands.
    Freeze,
    /// Go on.
    Resume,
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

/// Why a command does not fit the state; each message says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// `start` while a release is on its way.
    #[error(
        "the release has already started: it is {} at {weights}. `resume` goes on, `rollback` sends everything back to v1",
        state.name()
    )]
    AlreadyStarted {
        /// Where it stands.
        state: State,
        /// At which weights.
        weights: Weights,
    },
    /// `start` when everything is on v2.
    #[error(
        "the release is promoted: v2 already gets everything. For the next release, make the new version `v2` and the \
         present one `v1` in the config; or send everything back to v1 with `rollback`, then `start` again"
    )]
    AlreadyPromoted,
    /// `freeze` or `resume` with no release on its way.
    #[error("there is nothing to {command}: the release is {}. `start` begins one", state.name())]
    NotStarted {
        /// `freeze` or `resume`.
        command: &'static str,
        /// Where it stands.
        state: State,
    },
    /// `freeze` or `resume` when everything is on v2.
    #[error("there is nothing to {command}: the release is promoted. `rollback` sends everything back to v1")]
    Finished {
        /// `freeze` or `resume`.
        command: &'static str,
    },
    /// `resume` with nothing left of the schedule.
    #[error("nothing is left of the schedule, which ends at {last} %: `promote`, `rollback`, or `set-weight` by hand")]
    ScheduleEnded {
        /// The last weight of the schedule.
        last: Weight,
    },
}

/// What becomes of a release when something happens.
pub fn step(plan: Plan<'_>, release: &Release, event: Event) -> Result<Release, Refusal> {
    match event {
        Event::Elapsed(passed) => Ok(elapsed(plan, release, passed)),
        Event::Start => start(plan, release),
        Event::Freeze => freeze(release),
        Event::Resume => resume(plan, release),
        Event::SetWeight(weight) => {
            Ok(set_weights(plan, release, Weights::equal(weight), format!("set to {weight} % by hand")))
        }
        Event::SetShardWeight { shard, weight } => {
            let weights = release.weights.with(shard, plan.shards.count(), weight);
            let reason = format!("shard `{}` set to {weight} % by hand", plan.shards.name(shard));
            Ok(set_weights(plan, release, weights, reason))
        }
        Event::Rollback => Ok(rollback(release)),
        Event::Promote => Ok(promote(release)),
    }
}

fn elapsed(plan: Plan<'_>, release: &Release, passed: Duration) -> Release {
    if release.state != State::Progressing {
        return release.clone();
    }
    let time = release.schedule_time.saturating_add(passed);
    follow(plan, &release.weights, time, release.reason.clone())
}

/// The release at a moment of the schedule. No shard below the weight that it already has.
fn follow(plan: Plan<'_>, already: &Weights, time: Duration, reason: String) -> Release {
    let weights = plan.weights_at(time).max(already);
    match plan.duration() {
        Some(end) if time >= end => {
            let (state, reason) = if weights == Weights::FULL {
                (State::Promoted, "schedule ended at 100.00 %: v2 gets everything".to_owned())
            } else {
                (State::Paused, format!("schedule ended at {weights}; `promote` or `rollback`"))
            };
            Release { state, schedule_time: end, weights, reason }
        }
        _ => Release { state: State::Progressing, schedule_time: time, weights, reason },
    }
}

fn start(plan: Plan<'_>, release: &Release) -> Result<Release, Refusal> {
    match release.state {
        State::Idle | State::RolledBack => {
            let reason = match plan.schedule {
                Schedule::Manual => "started; `set-weight` moves the weight".to_owned(),
                schedule if plan.order == Order::OneByOne => {
                    format!("follows the schedule ({}), shard by shard", schedule.kind())
                }
                schedule => format!("follows the schedule ({})", schedule.kind()),
            };
            Ok(follow(plan, &Weights::ZERO, Duration::ZERO, reason))
        }
        State::Promoted => Err(Refusal::AlreadyPromoted),
        State::Progressing | State::Frozen | State::Paused => {
            Err(Refusal::AlreadyStarted { state: release.state, weights: release.weights.clone() })
        }
    }
}

fn freeze(release: &Release) -> Result<Release, Refusal> {
    let command = "freeze";
    match release.state {
        State::Progressing => Ok(Release {
            state: State::Frozen,
            reason: format!("frozen at {} by hand; `resume` goes on from there", release.weights),
            ..release.clone()
        }),
        // Both stand still already.
        State::Frozen | State::Paused => Ok(release.clone()),
        State::Idle | State::RolledBack => Err(Refusal::NotStarted { command, state: release.state }),
        State::Promoted => Err(Refusal::Finished { command }),
    }
}

fn resume(plan: Plan<'_>, release: &Release) -> Result<Release, Refusal> {
    let command = "resume";
    match release.state {
        State::Frozen | State::Paused => {
            let time = resume_time(plan, release);
            let resumed = follow(plan, &release.weights, time, format!("resumed at {}", release.weights));
            if resumed.state == State::Paused {
                return Err(Refusal::ScheduleEnded { last: plan.schedule.last_weight() });
            }
            Ok(resumed)
        }
        State::Progressing => Ok(release.clone()),
        State::Idle | State::RolledBack => Err(Refusal::NotStarted { command, state: release.state }),
        State::Promoted => Err(Refusal::Finished { command }),
    }
}

/// Where the schedule goes on: where it stopped, unless what it plans there is not what the release has.
fn resume_time(plan: Plan<'_>, release: &Release) -> Duration {
    let Release { schedule_time, weights, .. } = release;
    let fits = plan.weights_at(*schedule_time).at_most(weights)
        && plan.next_change(*schedule_time).is_none_or(|(_, next)| !next.at_most(weights));
    if fits { *schedule_time } else { plan.place_of(weights) }
}

/// The schedule's time moves with the weights: it goes on from where they lie, for the whole of that period.
fn set_weights(plan: Plan<'_>, release: &Release, weights: Weights, deed: String) -> Release {
    let (state, schedule_time, reason) = match plan.schedule {
        Schedule::Manual => (State::Progressing, release.schedule_time, deed),
        _ => (State::Frozen, plan.place_of(&weights), format!("{deed}; `resume` goes on from there")),
    };
    Release { state, schedule_time, weights, reason }
}

fn rollback(release: &Release) -> Release {
    if release.state == State::RolledBack {
        return release.clone();
    }
    Release {
        state: State::RolledBack,
        schedule_time: release.schedule_time,
        weights: Weights::ZERO,
        reason: format!("rolled back from {} by hand; `start` begins anew", release.weights),
    }
}

fn promote(release: &Release) -> Release {
    if release.state == State::Promoted {
        return release.clone();
    }
    Release {
        state: State::Promoted,
        schedule_time: release.schedule_time,
        weights: Weights::FULL,
        reason: format!("promoted from {} by hand", release.weights),
    }
}

#[cfg(test)]
mod tests;
