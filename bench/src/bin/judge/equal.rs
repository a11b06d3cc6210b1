//! Two equal versions: how often is v2 blamed?

use grayxdp::{
    decide::judge::JudgeConfig,
    simulate::{LatencyModel, TrafficModel},
};

use crate::{rivals, watch::Watch};

/// How long each release is watched.
pub(crate) const SECONDS: u32 = 600;
const INDEPENDENT: JudgeConfig = JudgeConfig {
    false_alarm: 0.01,
    tolerate: 1.0,
    tolerate_latency: 1.0,
    negligible_latency: std::time::Duration::ZERO,
    margin: 1.5,
    negligible: 0.001,
    max_error_rate: None,
    max_p99: None,
    correlated: false,
    one_sided: false,
    peeks: false,
    lag: std::time::Duration::from_secs(15),
};

/// One case, and what came of it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) runs: u32,
    pub(crate) blamed: u32,
    /// What the rate may be at most.
    pub(crate) wanted: f64,
}

impl Case {
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.blamed) / f64::from(self.runs.max(1))
    }

    /// The upper 99 % limit of the rate (Clopper and Pearson).
    pub(crate) fn upper(&self) -> f64 {
        let (mut low, mut high) = (self.rate(), 1.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if at_most(self.blamed, self.runs, middle) > 0.01 { low = middle } else { high = middle }
        }
        high
    }
}

/// The chance of at most k of n, each with this probability.
fn at_most(k: u32, n: u32, probability: f64) -> f64 {
    let (n, odds) = (f64::from(n), (probability / (1.0 - probability)).ln());
    let mut log_term = n * (-probability).ln_1p();
    let mut sum = log_term.exp();
    for each in 1..=k {
        let each = f64::from(each);
        log_term += ((n - each + 1.0) / each).ln() + odds;
        sum += log_term.exp();
    }
    sum
}

/// Weights as a release has them: 5 % more each minute.
fn rising(second: u32) -> u16 {
    u16::try_from(5 + second / 60 * 5).unwrap_or(100)
}

/// All cases, and so many releases over all of them.
pub(crate) fn all(runs: u32, seed: u64) -> Vec<Case> {
    let plain = TrafficModel { latency: None, ..TrafficModel::default() };
    let mut cases = Vec::new();
    for base_error in [0.0, 0.001, 0.005, 0.05, 0.2] {
        for rate in [50.0, 1000.0] {
            for drift in [0.0, 0.5] {
                let drifts = if drift > 0.0 { ", drifting" } else { "" };
                let name = format!("{} % errors, {rate}/s{drifts}", base_error * 100.0);
                cases.push((name, TrafficModel { base_error, rate, drift, ..plain }, INDEPENDENT, 0.01));
            }
        }
    }
    for (sigma, rate) in [(0.8, 500.0), (2.0, 50.0), (2.0, 500.0)] {
        let latency = Some(LatencyModel { sigma, ..LatencyModel::default() });
        let name = format!("0.5 % errors, {rate}/s, response times lognormal, σ {sigma}");
        cases.push((name, TrafficModel { rate, latency, ..plain }, INDEPENDENT, 0.01));
    }
    for (base_error, rate) in [(0.001, 1000.0), (0.005, 50.0), (0.005, 1000.0), (0.05, 1000.0)] {
        let name = format!("{} % errors in bursts of mean 10 from one client, {rate}/s", base_error * 100.0);
        let bursts = TrafficModel { base_error, rate, burst_mean: 10.0, groups: true, ..plain };
        cases.push((name, bursts, JudgeConfig { correlated: true, ..INDEPENDENT }, 0.02));
    }
    let each = runs.div_ceil(u32::try_from(cases.len()).unwrap_or(1));
    let measured = cases.into_iter().map(|(name, model, judge, wanted)| {
        let watch = Watch { model: &model, judge, weight: &rising, seconds: SECONDS, seed };
        let found = watch.releases(each, rivals::none);
        let blamed = found.iter().filter(|found| found[0].is_some()).count();
        let case = Case { name, runs: each, blamed: u32::try_from(blamed).unwrap_or(u32::MAX), wanted };
        eprintln!("{}: {} of {}", case.name, case.blamed, case.runs);
        case
    });
    measured.collect()
}
