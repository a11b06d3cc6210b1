//! The controller as a simulated release drives it. The only place that knows what becomes of a judgement.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use crate::decide::{
    controller::{Event, Release, State, step},
    evidence::Judgement,
    plan::Plan,
};

/// A release on its way.
#[derive(Clone, Debug)]
pub struct Driver<'a> {
    plan: Plan<'a>,
    release: Release,
}

impl<'a> Driver<'a> {
    /// One that has just begun.
    pub fn start(plan: Plan<'a>) -> Self {
        let idle = Release::idle();
        // An idle release can always be started.
        let release = step(plan, &idle, Event::Start).unwrap_or(idle);
        Self { plan, release }
    }

    /// What becomes of it when so much time has passed and the judge has said this.
    pub fn go_on(&mut self, passed: Duration, judgement: &Judgement) {
        let event = match judgement {
            Judgement::Harmful(_) => Event::Rollback,
            // Held: nobody is to blame, and nothing is known that would allow more.
            Judgement::BothBad(_) | Judgement::Untrusted(_) => return,
            Judgement::NoWorse(_) | Judgement::NotYet(_) => Event::Elapsed(passed),
        };
        if let Ok(next) = step(self.plan, &self.release, event) {
            self.release = next;
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.release.state
    }

    /// v2's weight, of all shards in the mean.
    pub fn weight(&self) -> Weight {
        self.release.weights.mean()
    }
}
