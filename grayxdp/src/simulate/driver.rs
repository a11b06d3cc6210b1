//! The controller as a simulated release drives it. The only place that knows what becomes of a judgement.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use crate::decide::{
    controller::{Event, Policy, Release, State, Terms, step},
    evidence::Judgement,
    plan::Plan,
};

/// A release on its way.
#[derive(Clone, Debug)]
pub struct Driver<'a> {
    terms: Terms<'a>,
    release: Release,
}

impl<'a> Driver<'a> {
    /// One that has just begun.
    pub fn start(plan: Plan<'a>, policy: &'a Policy) -> Self {
        let mut driver = Self { terms: Terms { plan, policy }, release: Release::idle() };
        // An idle release can always be started.
        driver.happens(Event::Start);
        driver
    }

    /// What becomes of it when so much time has passed and the judge has said this.
    pub fn go_on(&mut self, passed: Duration, judgement: &Judgement) {
        self.happens(Event::Judged(judgement.clone()));
        self.happens(Event::Elapsed(passed));
    }

    fn happens(&mut self, event: Event) {
        if let Ok(next) = step(self.terms, &self.release, event) {
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
