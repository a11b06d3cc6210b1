//! What many releases come to.

use std::time::Duration;

use grayxdp_common::weight::Weight;

use super::{Fault, Outcome, Run, release::PATH_POINTS};

/// Three quantiles of some times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quantiles {
    /// The median.
    pub p50: Duration,
    /// Nine of ten are no longer.
    pub p90: Duration,
    /// 99 of 100 are no longer.
    pub p99: Duration,
}

impl Quantiles {
    /// Of these times; `None` of none.
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let quantile = |hundredths: usize| times.get((times.len() * hundredths).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: quantile(50)?, p90: quantile(90)?, p99: quantile(99)? })
    }
}

/// What many releases came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// How many there were.
    pub runs: u32,
    /// All on v1 at their ends.
    pub rolled_back: u32,
    /// All on v2 at their ends.
    pub promoted: u32,
    /// Neither.
    pub undecided: u32,
    /// Rolled back with no fault yet.
    pub wrong_rollbacks: u32,
    /// Not rolled back, with a fault.
    pub missed_faults: u32,
    /// From the fault to the rollback; `None` if there was none.
    pub detection: Option<Quantiles>,
    /// v2's mean weight over the duration, evenly spaced.
    pub mean_path: Vec<Weight>,
}

impl Summary {
    /// Of the releases of a scenario with this fault.
    pub fn of(runs: &[Run], fault: &Fault) -> Self {
        let with = |outcome: Outcome| runs.iter().filter(move |run| run.outcome == outcome);
        let count = |runs: usize| u32::try_from(runs).unwrap_or(u32::MAX);
        let is_right = |run: &&Run| fault.is_any() && run.at > fault.at;
        let detected: Vec<_> = with(Outcome::RolledBack).filter(is_right).map(|run| run.at - fault.at).collect();
        let rolled_back = count(with(Outcome::RolledBack).count());
        Self {
            runs: count(runs.len()),
            rolled_back,
            promoted: count(with(Outcome::Promoted).count()),
            undecided: count(with(Outcome::Undecided).count()),
            wrong_rollbacks: rolled_back - count(detected.len()),
            missed_faults: if fault.is_any() { count(runs.len()) - rolled_back } else { 0 },
            detection: Quantiles::of(detected),
            mean_path: (0..PATH_POINTS as usize).map(|point| mean(runs, point)).collect(),
        }
    }
}

fn mean(runs: &[Run], point: usize) -> Weight {
    let weights = runs.iter().filter_map(|run| run.path.get(point));
    let sum: u64 = weights.map(|weight| u64::from(weight.hundredths())).sum();
    let mean = sum / (runs.len() as u64).max(1);
    u16::try_from(mean).ok().and_then(Weight::from_hundredths).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_fault_is_wrong_and_what_never_comes_is_missed() {
        let run = |outcome, seconds| Run { outcome, at: Duration::from_secs(seconds), path: vec![Weight::FULL] };
        let runs = [
            run(Outcome::RolledBack, 50),
            run(Outcome::RolledBack, 130),
            run(Outcome::RolledBack, 110),
            run(Outcome::Promoted, 600),
            run(Outcome::Undecided, 900),
        ];
        let fault = Fault { error_ratio: 2.0, at: Duration::from_secs(100), ..Fault::default() };
        let found = Summary::of(&runs, &fault);
        assert_eq!((found.runs, found.rolled_back, found.promoted, found.undecided), (5, 3, 1, 1));
        assert_eq!((found.wrong_rollbacks, found.missed_faults), (1, 2));
        let [p50, p90, p99] = [10, 30, 30].map(Duration::from_secs);
        assert_eq!(found.detection, Some(Quantiles { p50, p90, p99 }));
        assert_eq!((found.mean_path.len(), found.mean_path[0]), (PATH_POINTS as usize, Weight::FULL));
        let healthy = Summary::of(&runs, &Fault::default());
        assert_eq!((healthy.wrong_rollbacks, healthy.missed_faults, healthy.detection), (3, 0, None));
    }
}
