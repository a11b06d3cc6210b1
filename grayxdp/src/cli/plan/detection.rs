//! How long the judge takes at each weight of a plan, by the planning formula.

use std::{fmt::Write as _, time::Duration};

use grayxdp_common::weight::Weight;
use serde_json::{Value, json};

use crate::{
    cli::print::{self, Align},
    config::ServiceConfig,
    decide::judge::{JudgeConfig, planning::Traffic},
    percent::percent,
};

/// Faults: how many times v1's error rate.
const RATIOS: [f64; 5] = [1.5, 2.0, 5.0, 10.0, 50.0];

/// Traffic to reckon with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Connections a second.
    pub(crate) rate: f64,
    /// The part of v1's that fails, 0 to 1.
    pub(crate) base_error: f64,
}

/// What is to be said of one weight.
struct Row {
    at: Duration,
    weight: Weight,
    /// Until a fault of each ratio is found.
    found: [Option<Duration>; RATIOS.len()],
    cleared: Option<Duration>,
}

fn row(judge: &JudgeConfig, expected: Expected, &(at, weight): &(Duration, Weight)) -> Row {
    let Expected { rate, base_error } = expected;
    let share = f64::from(weight.hundredths()) / f64::from(Weight::FULL.hundredths());
    let traffic = Traffic::at_weight(rate, share, base_error);
    // More than all of them cannot fail.
    let possible = |ratio: f64| if base_error > 0.0 { ratio.min(1.0 / base_error) } else { ratio };
    let found = RATIOS.map(|ratio| traffic.time_to_find(possible(ratio), judge));
    Row { at, weight, found, cleared: traffic.time_to_clear(judge) }
}

fn rows(service: &ServiceConfig, steps: &[(Duration, Weight)], expected: Expected) -> Vec<Row> {
    steps.iter().map(|step| row(&service.policy.analysis.judge, expected, step)).collect()
}

/// For each step.
pub(super) fn to_json(service: &ServiceConfig, steps: &[(Duration, Weight)], expected: Expected) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let row = |row: Row| {
        let found = RATIOS.iter().zip(row.found);
        let found = found.map(|(ratio, time)| json!({ "error_ratio": ratio, "found_s": seconds(time) }));
        json!({
            "at_s": row.at.as_secs_f64(),
            "weight": percent(row.weight),
            "faults": found.collect::<Vec<_>>(),
            "cleared_s": seconds(row.cleared),
        })
    };
    let steps: Vec<Value> = rows(service, steps, expected).into_iter().map(row).collect();
    json!({ "rate": expected.rate, "base_error": expected.base_error, "steps": steps })
}

/// A table with a row for each step.
pub(super) fn to_text(service: &ServiceConfig, steps: &[(Duration, Weight)], expected: Expected) -> String {
    let judge = &service.policy.analysis.judge;
    let mut text = format!(
        "At {} connections/s of which {:.4} % fail, a v2 that fails so many times as often is found after:\n\n",
        expected.rate,
        expected.base_error * 100.0
    );
    let titles = RATIOS.map(|ratio| format!("x{ratio}"));
    let mut columns = vec![("TIME", Align::Right), ("WEIGHT", Align::Right)];
    columns.extend(titles.iter().map(|title| (title.as_str(), Align::Right)));
    columns.push(("CLEARED", Align::Right));
    let cells = |row: Row| {
        let times = row.found.into_iter().chain([row.cleared]).map(rough);
        [super::time(row.at), format!("{} %", row.weight)].into_iter().chain(times).collect::<Vec<_>>()
    };
    let rows: Vec<_> = rows(service, steps, expected).into_iter().map(cells).collect();
    text.push_str(&print::table(&columns, &rows));
    let _ = writeln!(
        text,
        "\nCLEARED: a v2 as good as v1 is proven to fail less than {} times as often.\n\
         At least one look of the judge; false alarms of {} % a release. Errors in bursts take longer.",
        judge.margin,
        judge.false_alarm * 100.0
    );
    text
}

/// To the second, or coarser; the judge looks each second.
fn rough(time: Option<Duration>) -> String {
    let Some(time) = time else { return "never".to_owned() };
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1);
    let coarse = match seconds {
        0..600 => seconds,
        600..36_000 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    super::time(Duration::from_secs(coarse)).split(' ').take(2).collect::<Vec<_>>().join(" ")
}
