//! The state machine of a release: from state, event and schedule to the next state. No clock, no kernel, no store.
//!
//! What holds whatever happens: only [`Event::Elapsed`] in [`State::Progressing`], [`Event::Start`],
//! [`Event::Resume`], [`Event::SetWeight`] and [`Event::Promote`] can raise the weight; a rollback works from every
//! state; a release that is not progressing does not move by itself.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use super::schedule::Schedule;

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
    /// The weight that is wanted now.
    pub weight: Weight,
    /// Why it stands where it stands: a sentence for people.
    pub reason: String,
}

impl Release {
    /// A release that has not started.
    pub fn idle() -> Self {
        Self {
            state: State::Idle,
            schedule_time: Duration::ZERO,
            weight: Weight::ZERO,
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
    /// Take this weight.
    SetWeight(Weight),
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
        "the release has already started: it is {} at {weight} %. `resume` goes on, `rollback` sends everything back to v1",
        state.name()
    )]
    AlreadyStarted {
        /// Where it stands.
        state: State,
        /// At which weight.
        weight: Weight,
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
pub fn step(schedule: &Schedule, release: &Release, event: Event) -> Result<Release, Refusal> {
    match event {
        Event::Elapsed(passed) => Ok(elapsed(schedule, release, passed)),
        Event::Start => start(schedule, release),
        Event::Freeze => freeze(release),
        Event::Resume => resume(schedule, release),
        Event::SetWeight(weight) => Ok(set_weight(schedule, release, weight)),
        Event::Rollback => Ok(rollback(release)),
        Event::Promote => Ok(promote(release)),
    }
}

fn elapsed(schedule: &Schedule, release: &Release, passed: Duration) -> Release {
    if release.state != State::Progressing {
        return release.clone();
    }
    let time = release.schedule_time.saturating_add(passed);
    follow(schedule, release.weight, time, release.reason.clone())
}

/// The release at a moment of the schedule. Never below `weight_min`, the weight that it already has.
fn follow(schedule: &Schedule, weight_min: Weight, time: Duration, reason: String) -> Release {
    let weight = schedule.weight_at(time).max(weight_min);
    match schedule.duration() {
        Some(end) if time >= end => {
            let (state, reason) = if weight == Weight::FULL {
                (State::Promoted, "schedule ended at 100.00 %: v2 gets everything".to_owned())
            } else {
                (State::Paused, format!("schedule ended at {weight} %; `promote` or `rollback`"))
            };
            Release { state, schedule_time: end, weight, reason }
        }
        _ => Release { state: State::Progressing, schedule_time: time, weight, reason },
    }
}

fn start(schedule: &Schedule, release: &Release) -> Result<Release, Refusal> {
    match release.state {
        State::Idle | State::RolledBack => {
            let reason = match schedule {
                Schedule::Manual => "started; `set-weight` moves the weight".to_owned(),
                _ => format!("follows the schedule ({})", schedule.kind()),
            };
            Ok(follow(schedule, Weight::ZERO, Duration::ZERO, reason))
        }
        State::Promoted => Err(Refusal::AlreadyPromoted),
        State::Progressing | State::Frozen | State::Paused => {
            Err(Refusal::AlreadyStarted { state: release.state, weight: release.weight })
        }
    }
}

fn freeze(release: &Release) -> Result<Release, Refusal> {
    let command = "freeze";
    match release.state {
        State::Progressing => Ok(Release {
            state: State::Frozen,
            reason: format!("frozen at {} % by hand; `resume` goes on from there", release.weight),
            ..release.clone()
        }),
        // Both stand still already.
        State::Frozen | State::Paused => Ok(release.clone()),
        State::Idle | State::RolledBack => Err(Refusal::NotStarted { command, state: release.state }),
        State::Promoted => Err(Refusal::Finished { command }),
    }
}

fn resume(schedule: &Schedule, release: &Release) -> Result<Release, Refusal> {
    let command = "resume";
    match release.state {
        State::Frozen | State::Paused => {
            let time = resume_time(schedule, release);
            let resumed = follow(schedule, release.weight, time, format!("resumed at {} %", release.weight));
            if resumed.state == State::Paused {
                return Err(Refusal::ScheduleEnded { last: schedule.last_weight() });
            }
            Ok(resumed)
        }
        State::Progressing => Ok(release.clone()),
        State::Idle | State::RolledBack => Err(Refusal::NotStarted { command, state: release.state }),
        State::Promoted => Err(Refusal::Finished { command }),
    }
}

/// Where the schedule goes on: where it stopped, unless what it plans there is not the weight that the release has.
fn resume_time(schedule: &Schedule, release: &Release) -> Duration {
    let Release { schedule_time, weight, .. } = *release;
    let fits = schedule.weight_at(schedule_time) <= weight
        && schedule.next_change(schedule_time).is_none_or(|(_, next)| weight < next);
    if fits { schedule_time } else { schedule.place_of(weight) }
}

/// The schedule's time moves with the weight: it goes on from where that weight lies, for the whole of that period.
fn set_weight(schedule: &Schedule, release: &Release, weight: Weight) -> Release {
    let (state, schedule_time, reason) = match schedule {
        Schedule::Manual => (State::Progressing, release.schedule_time, format!("set to {weight} % by hand")),
        _ => (
            State::Frozen,
            schedule.place_of(weight),
            format!("set to {weight} % by hand; `resume` goes on from there"),
        ),
    };
    Release { state, schedule_time, weight, reason }
}

fn rollback(release: &Release) -> Release {
    if release.state == State::RolledBack {
        return release.clone();
    }
    Release {
        state: State::RolledBack,
        schedule_time: release.schedule_time,
        weight: Weight::ZERO,
        reason: format!("rolled back from {} % by hand; `start` begins anew", release.weight),
    }
}

fn promote(release: &Release) -> Release {
    if release.state == State::Promoted {
        return release.clone();
    }
    Release {
        state: State::Promoted,
        schedule_time: release.schedule_time,
        weight: Weight::FULL,
        reason: format!("promoted from {} % by hand", release.weight),
    }
}

/// What a new agent finds of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Left {
    /// As the last agent stored it.
    pub stored: Release,
    /// The weight before a raise that was stored, and of which it is not known whether the kernel got it.
    pub raised_from: Option<Weight>,
    /// What the kernel's weight map says; `None` where it knows nothing of the service.
    pub kernel: Option<Weight>,
    /// Whether the schedule is the one that the release was stored under.
    pub schedule: SameSchedule,
}

/// Whether a release goes on under the schedule that it was stored under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SameSchedule {
    /// It does.
    Yes,
    /// The config has another one now.
    No,
}

/// The release that a new agent goes on with.
///
/// Of two weights that differ the lower wins, for lowering v2's weight is always safe, and the release is frozen for a
/// person to look at. One difference is no reason to stop: that of an agent that was killed when it had stored a raise
/// and not yet written it to the kernel. It is told apart from a lowering that reached the kernel only (a rollback, say)
/// by what was stored with the raise; and a kernel that has 0 % is never raised again without a person.
pub fn take_over(schedule: &Schedule, left: Left) -> Release {
    let same = left.schedule;
    let mut release = match left.kernel {
        Some(kernel) if kernel != left.stored.weight => reconcile(schedule, left, kernel),
        _ => left.stored,
    };
    if same == SameSchedule::No {
        release.schedule_time = schedule.place_of(release.weight);
    }
    release
}

fn reconcile(schedule: &Schedule, left: Left, kernel: Weight) -> Release {
    let stored = left.stored;
    let weight = kernel.min(stored.weight);
    let unfinished_raise = left.raised_from == Some(kernel) && kernel < stored.weight && kernel != Weight::ZERO;
    match stored.state {
        // What was decided stays decided; only its write to the kernel had not come through.
        State::RolledBack => Release { weight, ..stored },
        State::Progressing if left.schedule == SameSchedule::Yes && unfinished_raise => {
            Release { schedule_time: schedule.place_of(weight), weight, ..stored }
        }
        _ => Release {
            state: State::Frozen,
            schedule_time: schedule.place_of(weight),
            weight,
            reason: format!(
                "frozen at the start of the agent: the kernel had {kernel} %, the store {} % ({}), and the lower counts; \
                 `resume` goes on from there",
                stored.weight,
                stored.state.name()
            ),
        },
    }
}

#[cfg(test)]
mod tests;
