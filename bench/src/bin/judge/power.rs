//! A worse v2: how soon is it found?

use grayxdp::{
    decide::judge::{JudgeConfig, planning::Traffic},
    simulate::{Fault, LatencyModel, TrafficModel},
};

use crate::{
    rivals::{self, Knowing, Rival},
    watch::{Found, Watch, median},
};

const BASE_ERROR: f64 = 0.005;
const RATIOS: [f64; 5] = [1.5, 2.0, 5.0, 10.0, 50.0];
const WEIGHTS: [u16; 4] = [1, 5, 20, 50];
const RATES: [f64; 4] = [50.0, 200.0, 1000.0, 10_000.0];
/// Cells in which no test could do it in this time are left out.
const SECONDS_MOST: f64 = 7200.0;

fn independent() -> JudgeConfig {
    JudgeConfig { correlated: false, ..JudgeConfig::default() }
}

/// A rate, a weight, a fault; and the median seconds until it was found: by the judge, then by each rival.
pub(crate) struct Cell {
    pub(crate) rate: f64,
    pub(crate) weight: u16,
    pub(crate) ratio: f64,
    /// Wald's.
    pub(crate) bound: f64,
    pub(crate) medians: Vec<Option<u32>>,
    /// The same of the test that knows the ratio.
    pub(crate) knowing: Option<u32>,
}

impl Cell {
    /// Over the bound.
    pub(crate) fn factor(&self) -> Option<f64> {
        Some(f64::from(self.medians[0]?) / self.bound)
    }

    /// At most 1.4 times the bound; and since one looks once a second, a second more.
    pub(crate) fn is_met(&self) -> bool {
        self.medians[0].is_some_and(|median| f64::from(median) <= 1.4 * self.bound + 1.0)
    }
}

fn medians(found: &[Found]) -> Vec<Option<u32>> {
    (0..=rivals::NAMES.len()).map(|watcher| median(found, watcher)).collect()
}

pub(crate) fn cells(runs: u32, seed: u64) -> Vec<Cell> {
    let judge = independent();
    let mut cells = Vec::new();
    for rate in RATES {
        for weight in WEIGHTS {
            for ratio in RATIOS {
                let traffic = Traffic::at_weight(rate, f64::from(weight) / 100.0, BASE_ERROR);
                let bound = traffic.bound(ratio, judge.false_alarm).map(|bound| bound.as_secs_f64());
                let Some(bound) = bound.filter(|bound| *bound <= SECONDS_MOST) else { continue };
                let fault = Fault { error_ratio: ratio, ..Fault::default() };
                let model =
                    TrafficModel { rate, base_error: BASE_ERROR, latency: None, fault, ..TrafficModel::default() };
                let seconds = u32::try_from(std::time::Duration::from_secs_f64(3.0 * bound).as_secs()).unwrap_or(0);
                let watch = Watch { model: &model, judge, weight: &|_| weight, seconds: seconds.max(1800), seed };
                let knowing = || Knowing::new(ratio, f64::from(weight) / 100.0, judge.false_alarm);
                let all = || rivals::all().into_iter().chain([Box::new(knowing()) as Box<dyn Rival>]).collect();
                let found = watch.releases(runs, all);
                let (medians, knowing) = (medians(&found), median(&found, 1 + rivals::NAMES.len()));
                eprintln!("{rate}/s {weight} % x{ratio}: {medians:?}, knowing {knowing:?}, bound {bound:.1}");
                cells.push(Cell { rate, weight, ratio, bound, medians, knowing });
            }
        }
    }
    cells
}

/// Slower responses, and the median seconds until they were found.
pub(crate) struct Slower {
    pub(crate) name: &'static str,
    pub(crate) median: Option<u32>,
    pub(crate) most: u32,
}

pub(crate) fn latencies(runs: u32, seed: u64) -> Vec<Slower> {
    let cases = [("all responses x1.2", 1.2, 1.0, 25), ("2 % of responses x10", 10.0, 0.02, 60)];
    let measured = cases.map(|(name, latency_ratio, latency_part, most)| {
        let fault = Fault { latency_ratio, latency_part, ..Fault::default() };
        let latency = Some(LatencyModel::default());
        let model = TrafficModel { rate: 1000.0, base_error: BASE_ERROR, latency, fault, ..TrafficModel::default() };
        let watch = Watch { model: &model, judge: independent(), weight: &|_| 5, seconds: 600, seed };
        let median = median(&watch.releases(runs, rivals::none), 0);
        eprintln!("{name}: {median:?}");
        Slower { name, median, most }
    });
    measured.into()
}

/// How many releases of an hour whose versions are equal are blamed, by the judge and by each rival, of so many.
pub(crate) struct Wrong {
    pub(crate) rate: f64,
    pub(crate) base_error: f64,
    pub(crate) blamed: Vec<usize>,
}

pub(crate) fn wrong(runs: u32, seed: u64) -> Vec<Wrong> {
    let cases = [(1000.0, 0.005), (1000.0, 0.008), (50.0, 0.001)];
    let measured = cases.map(|(rate, base_error)| {
        let model = TrafficModel { rate, base_error, latency: None, ..TrafficModel::default() };
        let watch = Watch { model: &model, judge: independent(), weight: &|_| 5, seconds: 3600, seed };
        let found = watch.releases(runs, rivals::all);
        let blamed_by = |watcher: usize| found.iter().filter(|found| found[watcher].is_some()).count();
        Wrong { rate, base_error, blamed: (0..=rivals::NAMES.len()).map(blamed_by).collect() }
    });
    measured.into()
}
