//! One simulated release, from its start to its end.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use super::{Driver, Fault, Scenario, Stream};
use crate::decide::{
    controller::State,
    judge::{Judge, Tick},
};

/// How a release ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All on v2.
    Promoted,
    /// All on v1: for harm, or because the progress deadline has passed where that fails a release.
    RolledBack,
    /// Neither in the time that there was.
    Undecided,
}

/// What became of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// When, from its start.
    pub at: Duration,
    /// v2's weight at so many moments, evenly over the whole duration, each as it was just before it; see [`PATH_POINTS`].
    pub path: Vec<Weight>,
}

/// How long one looks more closely after a fault has begun, and how often.
const CLOSE_LOOK: Duration = Duration::from_secs(120);
const CLOSE_TICK: Duration = Duration::from_secs(1);

/// Points of a weight path.
pub const PATH_POINTS: u32 = 68;

/// The release with this number.
pub fn run(scenario: &Scenario<'_>, number: u32) -> Run {
    let &Scenario { duration, seed, traffic, plan, policy, .. } = scenario;
    let mut stream = Stream::new(traffic, seed, number);
    let mut judge = Judge::new(policy.analysis.judge);
    let mut driver = Driver::start(plan, policy);
    let (mut says, mut judgement) = (judge.verdict(), judge.judgement());
    let mut path = Vec::with_capacity(PATH_POINTS as usize);
    let mut now = Duration::ZERO;
    let mut note = |now: Duration, weight| {
        while let Ok(point) = u32::try_from(path.len())
            && point < PATH_POINTS
            && duration * point / (PATH_POINTS - 1) <= now
        {
            path.push(weight);
        }
    };
    while now < duration && !is_over(driver.state()) {
        let weight = driver.weight();
        note(now, weight);
        let passed = tick_at(scenario, now).min(duration - now);
        now += passed;
        let share = f64::from(weight.hundredths()) / f64::from(Weight::FULL.hundredths());
        let (v1, v2) = stream.next(passed, share);
        judge.absorb(&Tick {
            elapsed: passed,
            weight: (weight, weight),
            shards: (weight, weight),
            v1,
            v2,
            backends: &[],
        });
        // The figures are for people; they are worked out where the verdict is another.
        let now_says = judge.verdict();
        if now_says != says {
            (says, judgement) = (now_says, judge.judgement());
        }
        driver.go_on(passed, &judgement);
    }
    note(duration, driver.weight());
    let outcome = match driver.state() {
        State::Promoted => Outcome::Promoted,
        State::RolledBack | State::Failed => Outcome::RolledBack,
        _ => Outcome::Undecided,
    };
    Run { outcome, at: now, path }
}

/// For a while after a fault begins, each second counts.
fn tick_at(scenario: &Scenario<'_>, now: Duration) -> Duration {
    let Fault { at, .. } = scenario.traffic.fault;
    let is_close = scenario.traffic.fault.is_any() && now >= at && now < at + CLOSE_LOOK;
    if is_close { scenario.tick.min(CLOSE_TICK) } else { scenario.tick }
}

fn is_over(state: State) -> bool {
    matches!(state, State::Promoted | State::RolledBack | State::Failed)
}
