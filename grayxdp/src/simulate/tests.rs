//! Rates of false alarms and delays, by simulation; fixed seeds.

use grayxdp_common::weight::Weight;

use super::*;
use crate::decide::{
    controller::{Analysis, OnDeadline},
    judge::{Judge, JudgeConfig, Tick, Verdict},
    plan::Order,
    schedule::Schedule,
    shards::{Sharding, Shards},
};

const SECOND: Duration = Duration::from_secs(1);

/// How many of so many releases that stay at a weight are found harmful within so many seconds, looked at each second; and
/// the median time until they are.
fn harmful(model: &TrafficModel, judge: JudgeConfig, weight: u16, seconds: u32, runs: u32) -> (u32, Option<u32>) {
    let weight = Weight::from_hundredths(weight * 100).expect("at most 100 %");
    let mut found: Vec<u32> = Vec::new();
    for run in 0..runs {
        let mut stream = Stream::new(model, 1, run);
        let mut judge = Judge::new(judge);
        let is_found = |_: &u32| {
            let (v1, v2) = stream.next(SECOND, f64::from(weight.hundredths()) / 1e4);
            let tick =
                Tick { elapsed: SECOND, weight: (weight, weight), shards: (weight, weight), v1, v2, backends: &[] };
            judge.absorb(&tick);
            judge.verdict() == Verdict::Harmful
        };
        found.extend((1..=seconds).find(is_found));
    }
    found.sort_unstable();
    let count = u32::try_from(found.len()).expect("few");
    (count, found.get(runs as usize / 2).copied())
}

/// More would be a chance of less than one in ten thousand at the rate of false alarms that is configured.
fn most_by_chance(runs: u32, rate: f64) -> u32 {
    let mean = f64::from(runs) * rate;
    (0..).find(|count| f64::from(*count) > mean + 3.72 * mean.sqrt() + 2.0).expect("some number")
}

/// 2,000 releases whose v2 is as good as v1.
#[test]
fn equal_versions_are_blamed_no_more_often_than_configured() {
    let independent = JudgeConfig { correlated: false, ..JudgeConfig::default() };
    let plain = TrafficModel { latency: None, ..TrafficModel::default() };
    let slow_tail = Some(LatencyModel { sigma: 2.0, ..LatencyModel::default() });
    let bursts = TrafficModel { burst_mean: 10.0, groups: true, ..plain };
    let mut all = 0;
    for (model, judge, weight, runs) in [
        (TrafficModel { base_error: 0.0, rate: 200.0, ..plain }, independent, 5, 100),
        (TrafficModel { base_error: 0.001, rate: 50.0, ..plain }, independent, 50, 300),
        (TrafficModel { base_error: 0.005, ..plain }, independent, 5, 400),
        (TrafficModel { base_error: 0.05, drift: 0.5, ..plain }, independent, 20, 400),
        (TrafficModel { base_error: 0.2, drift: 0.5, ..plain }, independent, 50, 400),
        (TrafficModel { rate: 100.0, latency: slow_tail, ..plain }, independent, 20, 100),
        (bursts, JudgeConfig::default(), 5, 150),
        (TrafficModel { base_error: 0.05, ..bursts }, JudgeConfig::default(), 50, 150),
    ] {
        let (found, _) = harmful(&model, judge, weight, 150, runs);
        assert!(found <= most_by_chance(runs, 0.01), "{found} of {runs}: {model:?}");
        all += found;
    }
    assert!(all <= most_by_chance(2000, 0.01), "{all} of 2000");
}

/// The fault of the test above: without what is done about bursts, they would be found harmful by the dozen.
#[test]
fn bursts_taken_for_independent_errors_raise_false_alarms() {
    let bursts = TrafficModel { latency: None, burst_mean: 10.0, groups: true, ..TrafficModel::default() };
    let (found, _) = harmful(&bursts, JudgeConfig { correlated: false, ..JudgeConfig::default() }, 5, 300, 50);
    assert!(found > 15, "{found} of 50");
}

#[test]
fn worse_versions_are_found_in_little_more_than_the_least_time() {
    let judge = JudgeConfig { correlated: false, ..JudgeConfig::default() };
    let latency = Some(LatencyModel::default());
    let errors = |error_ratio| Fault { error_ratio, ..Fault::default() };
    let slower = |latency_ratio, latency_part| Fault { latency_ratio, latency_part, ..Fault::default() };
    for (fault, latency, most_seconds) in [
        // 1.4 of Wald's bounds, and a tick.
        (errors(2.0), None, 72),
        (errors(5.0), None, 8),
        (slower(1.2, 1.0), latency, 25),
        (slower(10.0, 0.02), latency, 60),
    ] {
        let model = TrafficModel { fault, latency, ..TrafficModel::default() };
        let (_, median) = harmful(&model, judge, 5, 4 * most_seconds, 101);
        assert!(median.is_some_and(|median| median <= most_seconds), "{fault:?}: {median:?} of {most_seconds}");
    }
}

#[test]
fn a_scenario_is_the_same_on_any_number_of_threads_and_its_fault_is_found_when_it_comes() {
    let schedule = Schedule::Linear {
        from: Weight::from_hundredths(500).expect("5 %"),
        to: Weight::FULL,
        step: Weight::from_hundredths(500).expect("5 %"),
        every: Duration::from_secs(30),
    };
    let judge = JudgeConfig { correlated: false, ..JudgeConfig::default() };
    let policy = Policy { analysis: Analysis { enabled: true, judge, ..Policy::bare().analysis }, ..Policy::bare() };
    let sharding = Sharding::Hash;
    let plan = Plan { schedule: &schedule, order: Order::Together, shards: Shards::new(&sharding, 1) };
    let at = Duration::from_secs(120);
    let fault = Fault { error_ratio: 10.0, at, ..Fault::default() };
    let scenario = |traffic| Scenario {
        runs: 20,
        duration: Duration::from_secs(900),
        tick: Duration::from_secs(3),
        seed: 7,
        traffic,
        plan,
        policy: &policy,
    };
    let traffic = TrafficModel { fault, ..TrafficModel::default() };
    let runs = all(&scenario(&traffic));
    let alone: Vec<Run> = (0..20).map(|number| run(&scenario(&traffic), number)).collect();
    assert_eq!(runs, alone);
    let found = Summary::of(&runs, &fault);
    assert_eq!((found.rolled_back, found.wrong_rollbacks, found.missed_faults), (20, 0, 0));
    assert!(found.detection.is_some_and(|times| times.p50 <= Duration::from_secs(4)), "{found:?}");
    let healthy = TrafficModel::default();
    let found = Summary::of(&all(&scenario(&healthy)), &healthy.fault);
    assert_eq!((found.promoted, found.undecided), (20, 0), "{found:?}");
    assert!(found.mean_path.is_sorted() && found.mean_path.last() == Some(&Weight::FULL), "{found:?}");
}

#[test]
fn a_release_that_fails_at_its_deadline_ends_there_as_one_rolled_back() {
    let schedule = Schedule::Linear {
        from: Weight::from_hundredths(2000).expect("20 %"),
        to: Weight::FULL,
        step: Weight::from_hundredths(500).expect("5 %"),
        every: Duration::from_secs(300),
    };
    // Both versions fail more often than either may: nobody is to blame, and nothing is raised.
    let judge = JudgeConfig { max_error_rate: Some(0.01), correlated: false, ..JudgeConfig::default() };
    let analysis = Analysis { enabled: true, judge, ..Policy::bare().analysis };
    let deadline = Duration::from_secs(60);
    let policy =
        Policy { analysis, progress_deadline: Some(deadline), on_deadline: OnDeadline::Fail, ..Policy::bare() };
    let sharding = Sharding::Hash;
    let traffic = TrafficModel { base_error: 0.1, latency: None, ..TrafficModel::default() };
    let scenario = Scenario {
        runs: 3,
        duration: Duration::from_secs(900),
        tick: SECOND,
        seed: 7,
        traffic: &traffic,
        plan: Plan { schedule: &schedule, order: Order::Together, shards: Shards::new(&sharding, 1) },
        policy: &policy,
    };
    let runs = all(&scenario);
    for run in &runs {
        assert_eq!(run.outcome, Outcome::RolledBack, "{run:?}");
        assert!((deadline..deadline * 2).contains(&run.at), "{:?}", run.at);
    }
    let found = Summary::of(&runs, &traffic.fault);
    assert_eq!((found.rolled_back, found.undecided), (3, 0), "{found:?}");
}
