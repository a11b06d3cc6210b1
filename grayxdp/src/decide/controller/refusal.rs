//! Why a command does not fit.

use grayxdp_common::weight::Weight;

use super::release::State;
use crate::decide::weights::Weights;

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
    /// `start` while the kernel has not taken the rollback yet.
    #[error(
        "the release is still rolling back: the kernel has not taken 0 % yet, which is tried every second. Wait until \
         `status` says `rolled-back`, then `start`"
    )]
    StillRollingBack,
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
    /// `resume` at a gate.
    #[error(
        "the release stands at the gate at {at} %: `approve` lets it through, `rollback` sends everything back to v1"
    )]
    AtGate {
        /// The gate's weight.
        at: Weight,
    },
    /// `approve` elsewhere than at a gate.
    #[error(
        "there is nothing to approve: the release is {} at {weights}, and waits at no gate. `status` says what it waits \
         for",
        state.name()
    )]
    NotAtGate {
        /// Where it stands.
        state: State,
        /// At which weights.
        weights: Weights,
    },
}
