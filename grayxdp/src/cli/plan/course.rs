//! How a release goes if nothing is found of it: its schedule, with all that the policy puts on top. The controller itself
//! is asked, event by event.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use crate::{
    config::ServiceConfig,
    decide::controller::{self, Event, Policy, Release, State, Terms},
};

/// More than that is not reckoned with: a schedule that goes shard by shard has up to 2,560,000 changes.
const EVENTS_MAX: usize = 50_000;

/// A release from its start to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Course {
    /// When v2's weight changes (the mean of all shards), and to what, the beginning included.
    pub(super) steps: Vec<(Duration, Weight)>,
    /// Gates at which a person has to approve; each is taken to be approved at once.
    pub(super) approvals: Vec<Weight>,
    /// When it is promoted, or stands at the end of a schedule that ends below 100 %.
    pub(super) end: Duration,
    /// Where it stands then.
    pub(super) state: State,
}

impl Course {
    /// Of a service's next release; `None` where its weight is moved by hand, and where it has too many steps to go through.
    pub(super) fn of(service: &ServiceConfig) -> Option<Self> {
        service.plan().duration()?;
        let mut policy: Policy = service.policy.clone();
        policy.analysis.enabled = false;
        let terms = Terms { plan: service.plan(), policy: &policy };
        let mut release = controller::step(terms, &Release::idle(), Event::Start).ok()?;
        let mut course = Self {
            steps: vec![(Duration::ZERO, release.weights.mean())],
            approvals: Vec::new(),
            end: Duration::ZERO,
            state: release.state,
        };
        for _ in 0..EVENTS_MAX {
            course.state = release.state;
            let is_at_gate = release.progress.at_gate.is_some();
            if release.state == State::Promoted || (release.state == State::Paused && !is_at_gate) {
                return Some(course);
            }
            let wait = controller::wait(terms, &release)?;
            let event = match wait.time {
                Some(time) => {
                    course.end = course.end.saturating_add(time);
                    Event::Elapsed(time)
                }
                None if is_at_gate => {
                    course.approvals.push(release.weights.highest());
                    Event::Approve
                }
                None => return None,
            };
            release = controller::step(terms, &release, event).ok()?;
            let weight = release.weights.mean();
            if course.steps.last().is_some_and(|(_, last)| *last != weight) {
                course.steps.push((course.end, weight));
            }
        }
        None
    }

    /// The weight at a time.
    pub(super) fn weight_at(&self, time: Duration) -> Weight {
        let begun = self.steps.partition_point(|(at, _)| *at <= time);
        self.steps.get(begun.saturating_sub(1)).map_or(Weight::ZERO, |(_, weight)| *weight)
    }
}

/// What the config puts on top of a schedule, in its words; none where the schedule is all there is.
pub(super) fn on_top(policy: &Policy) -> Vec<&'static str> {
    let parts = [
        ("hold", !policy.hold.is_zero()),
        ("max_step", policy.max_step.is_some()),
        ("gates", !policy.gates.is_empty()),
        ("promote_after", !policy.promote_after.is_zero()),
    ];
    parts.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
}
