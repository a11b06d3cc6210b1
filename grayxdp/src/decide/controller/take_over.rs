//! The release that a new agent goes on with, given what the last one stored and what the kernel's weight map says.

use super::{Release, Rule, State};
use crate::decide::{plan::Plan, weights::Weights};

/// What a new agent finds of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Left {
    /// As the last agent stored it.
    pub stored: Release,
    /// The weights before a raise that was stored, and of which it is not known whether the kernel got it.
    pub raised_from: Option<Weights>,
    /// What the kernel's weight map says; `None` where it knows nothing of the service.
    pub kernel: Option<Weights>,
    /// Whether the schedule is the one that the release was stored under.
    pub schedule: Same,
    /// Whether the shards are those that the weights were stored for.
    pub shards: Same,
}

/// Whether something is what it was when it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Same {
    /// It is.
    Yes,
    /// The config has another one now.
    No,
}

impl Same {
    /// As said.
    pub const fn when(same: bool) -> Self {
        if same { Self::Yes } else { Self::No }
    }
}

/// The release that a new agent goes on with.
///
/// Of two weights of a shard that differ the lower wins, for lowering v2's weight is always safe, and the release is
/// frozen for a person to look at. One difference is no reason to stop: that of an agent that was killed when it had
/// stored a raise and not yet written it to the kernel. It is told apart from a lowering that reached the kernel only (a
/// rollback, say) by what was stored with the raise; and a kernel that has 0 % is never raised again without a person.
///
/// Weights that differ between shards are worth nothing where the shards are others now: the lowest counts for all.
pub fn take_over(plan: Plan<'_>, left: Left) -> Release {
    let same_schedule = left.schedule;
    let left = if left.shards == Same::No { with_other_shards(plan, left) } else { left };
    let mut release = match left.kernel.clone().map(|kernel| kernel.fitted(plan.shards.count())) {
        Some(kernel) if kernel != left.stored.weights => reconcile(plan, left, &kernel),
        _ => left.stored,
    };
    if same_schedule == Same::No {
        release.schedule_time = plan.place_of(&release.weights);
    }
    release
}

fn with_other_shards(plan: Plan<'_>, left: Left) -> Left {
    let lowest = |weights: &Weights| Weights::equal(weights.lowest());
    let mut stored = left.stored;
    if stored.weights.differing().is_some() {
        let weights = lowest(&stored.weights);
        stored = Release {
            state: State::Frozen,
            schedule_time: plan.place_of(&weights),
            reason: format!(
                "frozen at the start of the agent: the config divides clients into other shards than those that had {}; \
                 the lowest, {weights}, counts for all, and `resume` goes on from there",
                stored.weights
            ),
            weights,
            rule: found(&stored),
            ..stored
        };
    }
    Left {
        stored,
        raised_from: left.raised_from.as_ref().map(lowest),
        kernel: left.kernel.as_ref().map(lowest),
        ..left
    }
}

fn reconcile(plan: Plan<'_>, left: Left, kernel: &Weights) -> Release {
    let unfinished =
        left.raised_from.as_ref().is_some_and(|from| is_unfinished_raise(plan, from, &left.stored, kernel));
    let stored = left.stored;
    let weights = kernel.min(&stored.weights);
    match stored.state {
        // What was decided stays decided; only its write to the kernel had not come through.
        State::RolledBack | State::RollingBack | State::Failed => Release { weights, ..stored },
        State::Progressing if left.schedule == Same::Yes && unfinished => {
            Release { schedule_time: plan.place_of(&weights), weights, ..stored }
        }
        _ => Release {
            state: State::Frozen,
            schedule_time: plan.place_of(&weights),
            reason: format!(
                "frozen at the start of the agent: the kernel had {kernel}, the store {} ({}), and the lower counts; \
                 `resume` goes on from there",
                stored.weights,
                stored.state.name()
            ),
            weights,
            rule: found(&stored),
            ..stored
        },
    }
}

/// Harm stays what stopped a release.
const fn found(stored: &Release) -> Rule {
    if stored.rule.is_harm() { stored.rule } else { Rule::TakeOver }
}

/// Each shard has what it had before the raise, or what the raise gives it: the kernel gets them one after the other.
fn is_unfinished_raise(plan: Plan<'_>, from: &Weights, stored: &Release, kernel: &Weights) -> bool {
    (0..plan.shards.count()).all(|shard| {
        let (found, wanted) = (kernel.of(shard), stored.weights.of(shard));
        found == wanted || (found == from.of(shard) && found < wanted && found.hundredths() != 0)
    })
}
