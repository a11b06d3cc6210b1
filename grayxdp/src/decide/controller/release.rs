//! Where a release stands, and why.

use std::{fmt, str::FromStr, time::Duration};

use grayxdp_common::weight::Weight;

use crate::decide::weights::Weights;

/// Where a release stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Not started.
    Idle,
    /// The weight follows the schedule, or waits to.
    Progressing,
    /// Stopped by a person, or because what was found needs one.
    Frozen,
    /// At a gate; or the schedule has ended below 100 %, and a person decides.
    Paused,
    /// All new connections shall go to v1, and the kernel has not taken that yet.
    RollingBack,
    /// All new connections go to v1 again.
    RolledBack,
    /// All new connections go to v2.
    Promoted,
    /// Given up without progress: all new connections go to v1 again.
    Failed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Progressing,
        Self::Frozen,
        Self::Paused,
        Self::RolledBack,
        Self::Promoted,
        Self::RollingBack,
        Self::Failed,
    ];

    /// As in output, metrics, API and store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Progressing => "progressing",
            Self::Frozen => "frozen",
            Self::Paused => "paused",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
            Self::Promoted => "promoted",
            Self::Failed => "failed",
        }
    }

    /// The state of that [`State::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether v2 is to get nothing: before a release, and after one that did not come through.
    pub const fn is_off(self) -> bool {
        matches!(self, Self::Idle | Self::RollingBack | Self::RolledBack | Self::Failed)
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident $name:literal $cause:ident),+ $(,)?) => {
        /// What brings a release where it stands.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Rule {
            $($(#[$doc])* $rule,)+
        }

        impl Rule {
            /// All.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$rule),+];

            /// As in output, API and store.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)+
                }
            }

            /// Who or what is behind it.
            pub const fn cause(self) -> Cause {
                match self {
                    $(Self::$rule => Cause::$cause,)+
                }
            }
        }
    };
}

rules! {
    /// A person's command.
    Command "command" Operator,
    /// The next step of the schedule.
    Schedule "schedule" Schedule,
    /// The schedule has ended.
    ScheduleEnd "schedule-end" Schedule,
    /// A gate was reached.
    Gate "gate" Schedule,
    /// A gate's time is over.
    GateOver "gate-over" Schedule,
    /// 100 % has gone well for long enough.
    PromoteAfter "promote-after" Schedule,
    /// Schedule time goes on after it was held up.
    GoesOn "goes-on" Analysis,
    /// v2 was found harmful.
    Harm "harm" Analysis,
    /// Both versions fail.
    BothBad "both-bad" Analysis,
    /// What is measured cannot be trusted.
    Untrusted "untrusted" Analysis,
    /// The judge has had nothing to judge on lately.
    NoData "no-data" Analysis,
    /// Neither harm nor its absence was proven in time.
    FreezeAfter "freeze-after" Analysis,
    /// Schedule time was held up for too long.
    ProgressDeadline "progress-deadline" Analysis,
    /// The kernel had stopped v2 by itself.
    Fuse "fuse" Fuse,
    /// Something outside asks to wait.
    ExternalHold "external-hold" External,
    /// Something outside has found harm.
    ExternalFailure "external-failure" External,
    /// What a new agent found.
    TakeOver "take-over" Store,
    /// The agent's own doing: it stops, or could not do what was wanted.
    Agent "agent" Agent,
}

impl Rule {
    /// The rule of that [`Rule::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// Whether v2 was found to do harm: by the judge, the kernel, or something outside.
    pub const fn is_harm(self) -> bool {
        matches!(self, Self::Harm | Self::Fuse | Self::ExternalFailure)
    }

    /// Whether a deadline has passed without a proof.
    pub const fn is_deadline(self) -> bool {
        matches!(self, Self::FreezeAfter | Self::ProgressDeadline)
    }
}

/// Who or what is behind a decision.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The plan, its gates and its end.
    Schedule,
    /// The judge.
    Analysis,
    /// The limit of failures in the kernel.
    Fuse,
    /// A person.
    Operator,
    /// What a former agent had left.
    Store,
    /// Another system that was asked.
    External,
    /// The agent itself.
    Agent,
}

impl Cause {
    /// As in output, API and store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Analysis => "analysis",
            Self::Fuse => "fuse",
            Self::Operator => "operator",
            Self::Store => "store",
            Self::External => "external",
            Self::Agent => "agent",
        }
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
    /// What brought it there.
    pub rule: Rule,
    /// What it has been through since it began.
    pub progress: Progress,
    /// What of the outside holds it up, or lets it go on. Not stored: a new agent hears it anew.
    pub outside: Outside,
}

impl Release {
    /// A release that has not started.
    pub fn idle() -> Self {
        Self {
            state: State::Idle,
            schedule_time: Duration::ZERO,
            weights: Weights::ZERO,
            reason: "not started yet".to_owned(),
            rule: Rule::Command,
            progress: Progress::default(),
            outside: Outside::default(),
        }
    }
}

impl Default for Release {
    fn default() -> Self {
        Self::idle()
    }
}

/// What a release has been through since it began. Times are of the agent's clock, and stand still while no agent runs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Since the last raise; counted where something asks for it.
    pub since_raise: Duration,
    /// The highest gate that was passed; zero before the first.
    pub gates_passed: Weight,
    /// How long it has stood at a gate; `None` if it does not.
    pub at_gate: Option<Duration>,
    /// How long neither harm nor its absence was proven.
    pub not_yet: Duration,
    /// How long schedule time was held up.
    pub held: Duration,
    /// How long 100 % has gone well.
    pub healthy: Duration,
    /// Since the promotion; counted up to the end of the window in which harm rolls back.
    pub since_promotion: Duration,
}

/// Why a text is no progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected `name=number` words: milliseconds, and `gates_passed` in hundredths of a percent")]
pub struct NoProgress;

impl fmt::Display for Progress {
    /// As the store keeps it: what is zero is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since_raise, gates_passed, at_gate, not_yet, held, healthy, since_promotion } = self;
        let times = [
            ("since_raise", *since_raise),
            ("not_yet", *not_yet),
            ("held", *held),
            ("healthy", *healthy),
            ("since_promotion", *since_promotion),
        ];
        let mut words: Vec<String> = times
            .into_iter()
            .filter(|(_, time)| !time.is_zero())
            .map(|(name, time)| format!("{name}={}", milliseconds(time)))
            .collect();
        if *gates_passed != Weight::ZERO {
            words.push(format!("gates_passed={}", gates_passed.hundredths()));
        }
        words.extend(at_gate.map(|time| format!("at_gate={}", milliseconds(time))));
        f.write_str(&words.join(" "))
    }
}

/// Rounded up, so that what is not zero stays so.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl FromStr for Progress {
    type Err = NoProgress;

    fn from_str(text: &str) -> Result<Self, NoProgress> {
        let mut progress = Self::default();
        for word in text.split_whitespace() {
            let (name, number) = word.split_once('=').ok_or(NoProgress)?;
            let number: u64 = number.parse().map_err(|_| NoProgress)?;
            let time = Duration::from_millis(number);
            match name {
                "since_raise" => progress.since_raise = time,
                "not_yet" => progress.not_yet = time,
                "held" => progress.held = time,
                "healthy" => progress.healthy = time,
                "since_promotion" => progress.since_promotion = time,
                "at_gate" => progress.at_gate = Some(time),
                "gates_passed" => {
                    let weight = u16::try_from(number).ok().and_then(Weight::from_hundredths);
                    progress.gates_passed = weight.ok_or(NoProgress)?;
                }
                _ => return Err(NoProgress),
            }
        }
        Ok(progress)
    }
}

/// What of the outside holds a release up, or lets it go on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outside {
    /// What the judge said last; `None` before it has said anything.
    pub verdict: Option<Verdict>,
    /// How long ago that was.
    pub age: Duration,
    /// Why another system wants it to wait.
    pub hold: Option<String>,
    /// Why schedule time stands still, as of the last moment that passed; `None` if it does not.
    pub held: Option<Held>,
}

/// What the judge said, as far as the weights depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Proven no worse.
    NoWorse,
    /// Neither is proven.
    NotYet,
    /// Both versions fail: how.
    BothBad(String),
    /// What is measured cannot be trusted: why.
    Untrusted(String),
}

/// Why schedule time stands still.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// What holds it.
    pub rule: Rule,
    /// A sentence for people.
    pub why: String,
}
