//! How long the judge takes at each weight of a plan, by the planning formula.

use std::{fmt::Write as _, time::Duration};

use grayxdp_common::weight::Weight;
use serde_json::{Value, json};

use crate::{
    cli::print::{self, Align},
    config::{Protocol, ServiceConfig},
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

/// Why nothing of the service is judged, if nothing is.
fn unjudged(service: &ServiceConfig) -> Option<&'static str> {
    let analysis = &service.policy.analysis;
    if !analysis.enabled {
        return Some("`analysis.enabled` is false");
    }
    // Of datagrams that only come, nothing tells good from bad.
    (analysis.judge.one_sided && service.protocol == Protocol::Udp)
        .then_some("replies do not pass here, and UDP has no more")
}

/// For each step; null where nothing is judged.
pub(super) fn to_json(service: &ServiceConfig, steps: &[(Duration, Weight)], expected: Expected) -> Value {
    if unjudged(service).is_some() {
        return Value::Null;
    }
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
    if let Some(why) = unjudged(service) {
        return format!("v2 is not judged ({why}): the release goes by its schedule.\n");
    }
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
    let unseen = judge.unseen();
    if !unseen.is_empty() {
        let _ = writeln!(text, "Replies do not pass here. Not judged: {}.", unseen.join(", "));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, sample};

    fn service(analysis: &str) -> ServiceConfig {
        let schedule = r#"{ kind = "step", weights = [1, 5, 50], every = "5m" }"#;
        sample::service(&format!("release.schedule = {schedule}\nrelease.analysis = {analysis}"))
    }

    fn steps() -> Vec<(Duration, Weight)> {
        let weights = [0, 100, 500, 5000, 10_000].map(|weight| Weight::from_hundredths(weight).expect("at most 100 %"));
        (0u32..).map(|minute| Duration::from_secs(60) * minute).zip(weights).collect()
    }

    const EXPECTED: Expected = Expected { rate: 1000.0, base_error: 0.005 };

    #[test]
    fn larger_faults_and_larger_weights_are_found_sooner_and_at_the_ends_nothing_is() {
        let found = to_json(&service("{}"), &steps(), EXPECTED);
        let seconds = |step: usize, fault: usize| found["steps"][step]["faults"][fault]["found_s"].as_f64();
        for step in [0, 4] {
            assert_eq!((seconds(step, 0), found["steps"][step]["cleared_s"].as_f64()), (None, None), "{found}");
        }
        for (step, fault) in [(1, 0), (1, 3), (2, 1), (2, 3)] {
            assert!(seconds(step, fault) > seconds(step, fault + 1), "{found}");
            assert!(seconds(step, fault) > seconds(step + 1, fault), "{found}");
        }
        // Worked out by hand: Wald's bound of 51 s, and what the mixture costs.
        assert!(seconds(2, 1).is_some_and(|seconds| (60.0..72.0).contains(&seconds)), "{found}");
    }

    #[test]
    fn what_is_tolerated_takes_longer_to_be_found_or_is_not() {
        let of = |analysis: &str| to_json(&service(analysis), &steps(), EXPECTED)["steps"][2]["faults"].clone();
        let (strict, tolerant) = (of("{}"), of("{ tolerate = 1.6, margin = 2 }"));
        assert_eq!(tolerant[0]["found_s"], Value::Null);
        assert!(tolerant[2]["found_s"].as_f64() > strict[2]["found_s"].as_f64(), "{tolerant}");
    }

    #[test]
    fn people_read_a_table() {
        let text = to_text(&service("{}"), &steps(), EXPECTED);
        let rows = ["x1.5", "x50", "CLEARED", "never", " 5.00 %"];
        assert!(rows.iter().all(|part| text.contains(part)) && text.lines().all(|line| line.len() <= 110), "{text}");
    }

    #[test]
    fn nothing_is_promised_where_nothing_is_judged() {
        let expected = Expected { rate: 1000.0, base_error: 0.005 };
        let steps = [(Duration::ZERO, Weight::from_hundredths(1000).expect("a weight"))];
        let read = |protocol: &str, rest: &str| {
            let mut config = Config::parse("lb.toml", &sample::text(protocol, rest)).expect("valid");
            config.services.remove(0)
        };
        for (service, says) in [
            (read("udp", "mode = \"dsr\""), "v2 is not judged (replies do not pass here"),
            (
                read("tcp", "[service.release]\nanalysis.enabled = false\nschedule = { kind = \"manual\" }"),
                "v2 is not judged (`an",
            ),
        ] {
            let text = to_text(&service, &steps, expected);
            assert!(text.starts_with(says), "{text}");
            assert_eq!(to_json(&service, &steps, expected), Value::Null);
        }
        let text = to_text(&read("tcp", "mode = \"dsr\""), &steps, expected);
        assert!(
            text.contains("Not judged: answers, latency-first") || text.contains("Not judged: latency-first"),
            "{text}"
        );
        assert!(!to_text(&read("tcp", ""), &steps, expected).contains("Not judged"));
    }
}
