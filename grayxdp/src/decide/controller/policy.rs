//! What the config says of how a release moves and ends, beside its schedule.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use crate::decide::{judge::JudgeConfig, plan::Plan, schedule::Millionths};

/// What the controller goes by: the plan, and the rules that hold while it is followed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Terms<'a> {
    /// Where the weights are to go.
    pub plan: Plan<'a>,
    /// What may stop or end that.
    pub policy: &'a Policy,
}

/// The rules of a release.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// What is made of the judge's answers.
    pub analysis: Analysis,
    /// The least time between two raises; schedule time waits for it. Zero: as the schedule says.
    pub hold: Duration,
    /// The largest raise of a shard at once, above zero; a larger one is taken in parts. `None`: as the schedule says.
    pub max_step: Option<Weight>,
    /// Where to stop on the way; weights above zero, ascending.
    pub gates: Vec<Gate>,
    /// How long 100 % must go well before the release counts as promoted.
    pub promote_after: Duration,
    /// How long schedule time may be held up, gates and people apart; `None`: for ever.
    pub progress_deadline: Option<Duration>,
    /// What happens then.
    pub on_deadline: OnDeadline,
    /// How long after the promotion harm still rolls back.
    pub rollback_window: Duration,
    /// Others are asked before v2 gets more, so that a command leaves the raise that it would bring to time.
    pub asks_first: bool,
}

impl Policy {
    /// Nothing but the schedule: nobody judges, nothing stops.
    pub fn bare() -> Self {
        Self {
            analysis: Analysis {
                enabled: false,
                judge: JudgeConfig::default(),
                on_failure: OnFailure::Rollback,
                freeze_after: None,
                accelerate: Millionths::ONE,
            },
            hold: Duration::ZERO,
            max_step: None,
            gates: Vec::new(),
            promote_after: Duration::ZERO,
            progress_deadline: None,
            on_deadline: OnDeadline::Freeze,
            rollback_window: Duration::ZERO,
            asks_first: false,
        }
    }

    /// Whether a raise can be cut short or put off.
    pub(crate) fn interrupts(&self) -> bool {
        !self.hold.is_zero() || self.max_step.is_some() || !self.gates.is_empty()
    }
}

/// How v2 is compared with v1, and what is made of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Analysis {
    /// Whether there is a judge.
    pub enabled: bool,
    /// What it goes by.
    pub judge: JudgeConfig,
    /// What harm does.
    pub on_failure: OnFailure,
    /// How long neither harm nor its absence may be proven, while both versions get traffic, before a person has to look;
    /// `None`: for ever.
    pub freeze_after: Option<Duration>,
    /// How many times as fast schedule time runs while v2 is proven no worse; at least 1.
    pub accelerate: Millionths,
}

/// What harm does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OnFailure {
    /// All new connections go to v1.
    Rollback,
    /// The weight stays where it is, for a person to look.
    Freeze,
}

impl OnFailure {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Freeze => "freeze",
        }
    }
}

/// What a passed progress deadline does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OnDeadline {
    /// The weight stays where it is, for a person to look.
    Freeze,
    /// The release has failed: all new connections go to v1.
    Fail,
}

impl OnDeadline {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Fail => "fail",
        }
    }
}

/// A place on the way where a release stops. The first shard that reaches it stops all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// The weight that is not passed.
    pub at: Weight,
    /// Until when.
    pub pause: Pause,
}

/// How long a gate is shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// Until a person approves.
    Approve,
    /// For so long, or until a person approves.
    For(Duration),
}
