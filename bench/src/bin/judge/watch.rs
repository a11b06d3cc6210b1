//! Releases that are watched: a look every second, by the judge and by its rivals.

use std::{num::NonZero, thread, time::Duration};

use grayxdp::{
    decide::judge::{Judge, JudgeConfig, Tick, Verdict},
    simulate::{Stream, TrafficModel},
};
use grayxdp_common::weight::Weight;

use crate::rivals::Rival;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Errors and connections of a tick.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) n1: f64,
    pub(crate) n2: f64,
    pub(crate) e1: f64,
    pub(crate) e2: f64,
}

/// When a release was found harmful, in seconds: by the judge, then by each rival. `None` where it was not.
pub(crate) type Found = Vec<Option<u32>>;

/// What is watched, and for how long at most.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub(crate) model: &'a TrafficModel,
    pub(crate) judge: JudgeConfig,
    /// v2's weight in percent, by the second.
    pub(crate) weight: &'a (dyn Fn(u32) -> u16 + Sync),
    pub(crate) seconds: u32,
    pub(crate) seed: u64,
}

impl Watch<'_> {
    /// The release with this number.
    pub(crate) fn release(&self, number: u32, mut rivals: Vec<Box<dyn Rival>>) -> Found {
        let mut stream = Stream::new(self.model, self.seed, number);
        let mut judge = Judge::new(self.judge);
        let mut found: Found = vec![None; 1 + rivals.len()];
        for second in 1..=self.seconds {
            let percent = (self.weight)(second - 1).min(100);
            let weight = Weight::from_hundredths(percent * 100).unwrap_or_default();
            let (v1, v2) = stream.next(SECOND, f64::from(percent) / 100.0);
            let counted = Counted {
                n1: v1.counts.flows as f64,
                n2: v2.counts.flows as f64,
                e1: v1.counts.transport_errors() as f64,
                e2: v2.counts.transport_errors() as f64,
            };
            if found[0].is_none() {
                let tick =
                    Tick { elapsed: SECOND, weight: (weight, weight), shards: (weight, weight), v1, v2, backends: &[] };
                judge.absorb(&tick);
                found[0] = (judge.verdict() == Verdict::Harmful).then_some(second);
            }
            for (rival, found) in rivals.iter_mut().zip(&mut found[1..]) {
                if found.is_none() && rival.blames(second, &counted) {
                    *found = Some(second);
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }

    /// So many of them, on all processors.
    pub(crate) fn releases(&self, runs: u32, rivals: impl Fn() -> Vec<Box<dyn Rival>> + Sync) -> Vec<Found> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let of_thread = |thread: usize| -> Vec<Found> {
            (0..runs).skip(thread).step_by(threads).map(|number| self.release(number, rivals())).collect()
        };
        thread::scope(|scope| {
            let of_thread = &of_thread;
            let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
            let joined = started.into_iter().map(|thread| thread.join());
            joined.flat_map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// The median of the times of one watcher; `None` if fewer than half were found.
pub(crate) fn median(found: &[Found], watcher: usize) -> Option<u32> {
    let mut times: Vec<u32> = found.iter().filter_map(|found| found[watcher]).collect();
    times.sort_unstable();
    times.get(found.len() / 2).copied()
}
