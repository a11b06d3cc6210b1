//! Webhooks that are asked before a release begins, rises or is promoted: who has said yes to what.
//!
//! A raise waits until every hook of its moment has said yes to that very raise. A hook that cannot be reached, is late or
//! says no keeps the weight where it is; it is asked again after a while.

use std::time::Duration;

use grayxdp_common::weight::Weight;

/// How long to wait before a hook that said no, or nothing, is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// When a webhook is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Moment {
    /// Before the first raise of a release; its answer decides.
    BeforeRelease,
    /// Before every raise; its answer decides.
    BeforeStep,
    /// Before all goes to v2; its answer decides.
    BeforePromotion,
    /// When a release is rolled back; told, not asked.
    Rollback,
    /// At every event; told, not asked.
    Event,
}

impl Moment {
    /// All.
    pub const ALL: [Self; 5] =
        [Self::BeforeRelease, Self::BeforeStep, Self::BeforePromotion, Self::Rollback, Self::Event];

    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeRelease => "before-release",
            Self::BeforeStep => "before-step",
            Self::BeforePromotion => "before-promotion",
            Self::Rollback => "rollback",
            Self::Event => "event",
        }
    }

    /// Whether its answer decides.
    pub const fn is_asked(self) -> bool {
        matches!(self, Self::BeforeRelease | Self::BeforeStep | Self::BeforePromotion)
    }

    /// Whether a raise is one that a hook of this moment is asked about.
    pub fn covers(self, raise: Raise) -> bool {
        match self {
            Self::BeforeRelease => raise.from == Weight::ZERO,
            Self::BeforeStep => true,
            Self::BeforePromotion => raise.to == Weight::FULL,
            Self::Rollback | Self::Event => false,
        }
    }
}

/// A raise of v2's weight that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raise {
    /// What v2 has; the mean over shards.
    pub from: Weight,
    /// What it is to get.
    pub to: Weight,
}

/// What one hook has said.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Nothing,
    Asked { raise: Raise, number: u64 },
    Yes(Raise),
    No { raise: Raise, why: String, again_in: Duration },
}

/// The hooks of a release that are asked, in the order of the config.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Permits {
    hooks: Vec<(String, Moment, Said)>,
    /// Questions so far.
    asked: u64,
}

/// A call to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Which hook, by its place in the order given to [`Permits::new`].
    pub hook: usize,
    /// No other question has this number: an answer to a former one of the same words is not taken for one to this.
    pub number: u64,
}

/// Whether a raise may be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Permission {
    /// Every hook has said yes.
    Granted,
    /// Not yet.
    Wait {
        /// What is waited for: a sentence's end.
        reason: String,
        /// The calls to make now.
        call: Vec<Question>,
    },
}

impl Permits {
    /// Of hooks with these names and moments. Those that are told, and not asked, count for nothing here, but keep their
    /// place in the order.
    pub fn new(hooks: impl IntoIterator<Item = (String, Moment)>) -> Self {
        Self { hooks: hooks.into_iter().map(|(name, moment)| (name, moment, Said::Nothing)).collect(), asked: 0 }
    }

    /// Whether this raise may be made now, and whom to call.
    pub fn ask(&mut self, raise: Raise) -> Permission {
        let mut reasons = Vec::new();
        let mut call = Vec::new();
        for (hook, (name, moment, said)) in self.hooks.iter_mut().enumerate() {
            if !moment.covers(raise) {
                continue;
            }
            let asks = match said {
                Said::Yes(granted) if *granted == raise => continue,
                Said::Asked { raise: asked, .. } if *asked == raise => {
                    reasons.push(format!("webhook `{name}` has not answered yet"));
                    false
                }
                Said::No { raise: refused, why, again_in } if *refused == raise => {
                    reasons.push(format!("webhook `{name}`: {why}"));
                    again_in.is_zero()
                }
                _ => {
                    reasons.push(format!("webhook `{name}` is asked"));
                    true
                }
            };
            if asks {
                self.asked += 1;
                *said = Said::Asked { raise, number: self.asked };
                call.push(Question { hook, number: self.asked });
            }
        }
        if reasons.is_empty() { Permission::Granted } else { Permission::Wait { reason: reasons.join("; "), call } }
    }

    /// Takes an answer in: yes, or why not. One to another question than the hook's last is of no use.
    pub fn answer(&mut self, question: Question, answer: Result<(), String>) {
        let Some((_, _, said)) = self.hooks.get_mut(question.hook) else { return };
        if let Said::Asked { raise, number } = *said
            && number == question.number
        {
            *said = match answer {
                Ok(()) => Said::Yes(raise),
                Err(why) => Said::No { raise, why, again_in: ASK_AGAIN_AFTER },
            };
        }
    }

    /// Lets time pass.
    pub fn elapsed(&mut self, passed: Duration) {
        for (_, _, said) in &mut self.hooks {
            if let Said::No { again_in, .. } = said {
                *again_in = again_in.saturating_sub(passed);
            }
        }
    }

    /// Forgets what was said: the raise was made, or the release has stopped; what is asked next is another question.
    pub fn forget(&mut self) {
        for (_, _, said) in &mut self.hooks {
            *said = Said::Nothing;
        }
    }
}
