//! Releases against modelled traffic: the same judge and the same controller as the agent's, thousands of times over.
//!
//! Pure: what is random comes from a seed, so that a run can be had again, on any number of threads.

mod chance;
mod driver;
mod latency;
mod release;
mod summary;
mod traffic;

use std::{num::NonZero, thread, time::Duration};

use crate::decide::{controller::Policy, plan::Plan};

pub use self::{
    driver::Driver,
    latency::LatencyModel,
    release::{Outcome, PATH_POINTS, Run, run},
    summary::{Quantiles, Summary},
    traffic::{Fault, Stream, TrafficModel},
};

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Scenario<'a> {
    /// How many releases.
    pub runs: u32,
    /// How long each is watched.
    pub duration: Duration,
    /// How often the judge looks.
    pub tick: Duration,
    /// The same seed, the same releases.
    pub seed: u64,
    /// Traffic of both versions.
    pub traffic: &'a TrafficModel,
    /// How v2's weight is to move.
    pub plan: Plan<'a>,
    /// What stops, ends and undoes a release, and what the judge goes by.
    pub policy: &'a Policy,
}

/// All releases of a scenario, on all processors.
pub fn all(scenario: &Scenario<'_>) -> Vec<Run> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(scenario.runs.max(1) as usize);
    let of_thread = |thread: usize| {
        let numbers = (0..scenario.runs).skip(thread).step_by(threads);
        numbers.map(|number| run(scenario, number)).collect::<Vec<_>>()
    };
    let mut by_thread: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
        // A thread that panics has found a fault of the program: it goes on to the caller.
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).into_iter())
            .collect()
    });
    // In the order of their numbers, whatever the number of threads.
    (0..scenario.runs as usize).filter_map(|number| by_thread[number % threads].next()).collect()
}

#[cfg(test)]
mod tests;
