//! `grayxdp simulate`: many releases against modelled traffic, and what becomes of them.

use std::{fmt::Write as _, fs, path::Path, time::Instant};

use serde_json::{Value, json};

use super::{
    args::Output,
    curve::{self, Curve},
    error::CliError,
    print::{self, Align},
};
use crate::{
    config::{SimulatedService, Simulation},
    decide::judge::planning::Traffic,
    percent::percent,
    simulate::{self, Quantiles, Summary},
};

pub(super) fn execute(path: &Path, only: Option<&str>, output: Output) -> Result<(), CliError> {
    let text = fs::read_to_string(path).map_err(|source| CliError::ConfigFile { path: path.to_owned(), source })?;
    let simulation = Simulation::parse(&path.to_string_lossy(), &text)?;
    let service = chosen(&simulation, only, path)?;
    let begun = Instant::now();
    let runs = simulate::all(&simulation.scenario(service));
    let took = begun.elapsed().as_secs_f64();
    let summary = Summary::of(&runs, &simulation.traffic.fault);
    match output {
        Output::Json => print::json(&to_json(&simulation, service, &summary, took)),
        Output::Text => print::text(&to_text(&simulation, service, &summary, took)),
    }
}

/// The one that is asked for, else the first.
fn chosen<'a>(simulation: &'a Simulation, only: Option<&str>, path: &Path) -> Result<&'a SimulatedService, CliError> {
    let found = simulation.services.iter().find(|service| only.is_none_or(|name| service.name == name));
    found.ok_or_else(|| CliError::NoSuchService {
        name: only.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        services: simulation.services.iter().map(|service| service.name.clone()).collect(),
    })
}

fn part(some: u32, all: u32) -> f64 {
    f64::from(some) / f64::from(all.max(1))
}

fn to_json(simulation: &Simulation, service: &SimulatedService, summary: &Summary, took: f64) -> Value {
    let quantiles = |times: Quantiles| json!({ "p50": times.p50.as_secs_f64(), "p90": times.p90.as_secs_f64(), "p99": times.p99.as_secs_f64() });
    let step = simulation.duration / u32::try_from(summary.mean_path.len()).unwrap_or(1).saturating_sub(1).max(1);
    let points = (0u32..).zip(&summary.mean_path);
    let path =
        points.map(|(point, weight)| json!({ "at_s": (step * point).as_secs_f64(), "weight": percent(*weight) }));
    json!({
        "service": service.name,
        "runs": summary.runs,
        "rolled_back": summary.rolled_back,
        "promoted": summary.promoted,
        "undecided": summary.undecided,
        "wrong_rollbacks": summary.wrong_rollbacks,
        "wrong_rollback_rate": part(summary.wrong_rollbacks, summary.runs),
        "missed_faults": summary.missed_faults,
        "missed_fault_rate": part(summary.missed_faults, summary.runs),
        "detection_s": summary.detection.map(quantiles),
        "weight_path": path.collect::<Vec<_>>(),
        "seed": simulation.seed,
        "tick_s": simulation.tick.as_secs_f64(),
        "took_s": took,
    })
}

fn to_text(simulation: &Simulation, service: &SimulatedService, summary: &Summary, took: f64) -> String {
    let Simulation { traffic, duration, .. } = simulation;
    let fault = &traffic.fault;
    let mut text = format!(
        "{}: {} releases of up to {}, {} connections/s, {:.4} % of them fail\n",
        service.name,
        summary.runs,
        curve::time(*duration),
        traffic.rate,
        traffic.base_error * 100.0
    );
    let _ = writeln!(text, "schedule: {}", service.plan());
    if fault.is_any() {
        let errors = (fault.error_ratio > 1.0).then(|| format!("{} times the errors", fault.error_ratio));
        let slower = (fault.latency_ratio > 1.0).then(|| format!("responses {} times as long", fault.latency_ratio));
        let what: Vec<String> = errors.into_iter().chain(slower).collect();
        let _ = writeln!(text, "v2: {}, from {} on", what.join(" and "), curve::time(fault.at));
    } else {
        text.push_str("v2: as good as v1\n");
    }
    text.push_str("\nv2's weight, mean of all releases:\n\n");
    let weights = summary.mean_path.clone();
    let at = |point: usize| weights.get(point).copied().unwrap_or_default();
    curve::draw(&mut text, &Curve { weight: &at, end: *duration });
    text.push('\n');
    let row = |what: &str, count: u32| {
        vec![what.to_owned(), count.to_string(), format!("{:.2} %", 100.0 * part(count, summary.runs))]
    };
    let mut rows = vec![
        row("promoted", summary.promoted),
        row("rolled back", summary.rolled_back),
        row("undecided", summary.undecided),
        row("wrong rollbacks", summary.wrong_rollbacks),
    ];
    if fault.is_any() {
        rows.push(row("missed faults", summary.missed_faults));
    }
    let columns = [("OUTCOME", Align::Left), ("RELEASES", Align::Right), ("PART", Align::Right)];
    text.push_str(&print::table(&columns, &rows));
    if let Some(Quantiles { p50, p90, p99 }) = summary.detection {
        let [p50, p90, p99] = [p50, p90, p99].map(curve::time);
        let _ = writeln!(text, "\nFrom the fault to the rollback: median {p50}, 90 % within {p90}, 99 % within {p99}.");
        let first = service.schedule.weight_at(fault.at);
        let alpha = service.policy.analysis.judge.false_alarm;
        let share = f64::from(first.hundredths()) / 1e4;
        let bound = Traffic::at_weight(traffic.rate, share, traffic.base_error).bound(fault.error_ratio, alpha);
        if let Some(bound) = bound.filter(|_| fault.error_ratio > 1.0) {
            let _ = writeln!(
                text,
                "No test could do it in less than {:.1} s in the mean, at {first} %.",
                bound.as_secs_f64()
            );
        }
    }
    let per_second = f64::from(summary.runs) / took.max(1e-9);
    let tick = curve::time(simulation.tick);
    let _ = writeln!(text, "\nSeed {}, a look every {tick}; {per_second:.0} releases a second.", simulation.seed);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(text: &str) -> (Simulation, Summary) {
        let simulation = Simulation::parse("sim.toml", text).unwrap_or_else(|errors| panic!("{errors}"));
        let runs = simulate::all(&simulation.scenario(&simulation.services[0]));
        let summary = Summary::of(&runs, &simulation.traffic.fault);
        (simulation, summary)
    }

    const FAULTY: &str = "[simulate]\nruns = 20\nduration = \"10m\"\nv2_error_ratio = 20\nfault_at = \"1m\"\n";

    #[test]
    fn json_has_what_scripts_read() {
        let (simulation, summary) = summary(FAULTY);
        let found = to_json(&simulation, &simulation.services[0], &summary, 0.5);
        assert_eq!((&found["runs"], &found["rolled_back"], &found["promoted"]), (&json!(20), &json!(20), &json!(0)));
        assert_eq!((&found["undecided"], &found["missed_fault_rate"]), (&json!(0), &json!(0.0)));
        for quantile in ["p50", "p90", "p99"] {
            let seconds = found["detection_s"][quantile].as_f64().expect("a number");
            assert!((0.5..30.0).contains(&seconds), "{found}");
        }
        assert_eq!(found["weight_path"][0], json!({ "at_s": 0.0, "weight": 5.0 }));
    }

    #[test]
    fn without_a_rollback_there_is_no_delay() {
        let (simulation, summary) = summary("[simulate]\nruns = 5\nduration = \"1m\"");
        let found = to_json(&simulation, &simulation.services[0], &summary, 0.5);
        assert_eq!((&found["detection_s"], &found["undecided"]), (&Value::Null, &json!(5)));
    }

    #[test]
    fn people_read_it_on_a_terminal() {
        let (simulation, summary) = summary(FAULTY);
        let text = to_text(&simulation, &simulation.services[0], &summary, 0.5);
        for part in
            ["20 times the errors, from 1m on", "missed faults", "From the fault to the rollback: median", "50 % ┤"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
