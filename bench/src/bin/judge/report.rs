//! Figures to a section of BENCHMARKS.md, to JSON, and to targets. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    equal::{Case, SECONDS},
    power::{Cell, Slower, Wrong},
    rivals::NAMES,
};

/// Everything that was found out.
pub(crate) struct Report {
    pub(crate) runs: u32,
    pub(crate) seed: u64,
    pub(crate) tick_ms: f64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) latencies: Vec<Slower>,
    pub(crate) wrong: Vec<Wrong>,
    pub(crate) equal: Vec<Case>,
}

/// CPU milliseconds of a tick, at most.
const TICK_MS_MOST: f64 = 20.0;
/// For shorter bounds, how often one looks says more than how well.
const FACTOR_SECONDS_LEAST: f64 = 5.0;

impl Report {
    /// All cases with the same limit as one.
    fn together(&self, wanted: f64) -> Case {
        let cases = || self.equal.iter().filter(|case| (case.wanted - wanted).abs() < 1e-9);
        Case {
            name: "all of these".to_owned(),
            runs: cases().map(|case| case.runs).sum(),
            blamed: cases().map(|case| case.blamed).sum(),
            wanted,
        }
    }

    /// What was promised and is not so.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for case in [self.together(0.01), self.together(0.02)] {
            if case.upper() > case.wanted {
                missed.push(format!("{:.2} % of equal versions blamed, at most {}", 100.0 * case.upper(), case.wanted));
            }
        }
        for case in self.equal.iter().filter(|case| case.rate() > case.wanted) {
            missed.push(format!("{}: {} of {} blamed", case.name, case.blamed, case.runs));
        }
        for Cell { rate, weight, ratio, bound, medians, .. } in self.cells.iter().filter(|cell| !cell.is_met()) {
            missed.push(format!("{rate}/s {weight} % x{ratio}: {:?} s, bound {bound:.1} s", medians[0]));
        }
        for slower in self.latencies.iter().filter(|slower| slower.median.is_none_or(|median| median > slower.most)) {
            missed.push(format!("{}: {:?} s, at most {}", slower.name, slower.median, slower.most));
        }
        if self.tick_ms > TICK_MS_MOST {
            missed.push(format!("{:.1} ms a tick, at most {TICK_MS_MOST}", self.tick_ms));
        }
        missed
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "### Two equal versions\n\nA look every second for ten minutes, while the weight rises by 5 % each minute from 5 %; \
             `false_alarm` is 1 %.\n\n| traffic | releases | blamed | upper 99 % limit of the rate |\n| --- | --- | --- | --- |\n",
        );
        let together = [self.together(0.01), self.together(0.02)];
        let bursts = |case: &Case| case.wanted > 0.01;
        let cases = self.equal.iter().filter(|case| !bursts(case)).chain([&together[0]]);
        for case in cases.chain(self.equal.iter().filter(|case| bursts(case))).chain([&together[1]]) {
            let upper = 100.0 * case.upper();
            let _ = writeln!(text, "| {} | {} | {} | {upper:.2} % |", case.name, case.runs, case.blamed);
        }
        let _ = writeln!(
            text,
            "\n### A worse v2\n\nMedian seconds until v2 is blamed, of {} releases in each row, on the same streams; v1 fails in \
             0.5 % of connections. Wald's bound is the least mean time of any test that keeps to 1 %;\nin brackets, the ratio to it, where it is 5 s or more. The knowing test is Wald's, told v2's ratio and share.\n\n\
             | rate | weight | v2's errors | Wald's bound | knowing test | judge | {} |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            self.runs,
            NAMES.join(" | ")
        );
        for cell in &self.cells {
            let seconds = |median: &Option<u32>| median.map_or("-".to_owned(), |median| median.to_string());
            let factor = cell.factor().filter(|_| cell.bound >= FACTOR_SECONDS_LEAST);
            let factor = factor.map_or(String::new(), |factor| format!(" ({factor:.2})"));
            let rivals: Vec<String> = cell.medians[1..].iter().map(seconds).collect();
            let &Cell { rate, weight, ratio, bound, .. } = cell;
            let judge = seconds(&cell.medians[0]);
            let rivals = rivals.join(" | ");
            let knowing = seconds(&cell.knowing);
            let _ = writeln!(
                text,
                "| {rate}/s | {weight} % | x{ratio} | {bound:.1} | {knowing} | {judge}{factor} | {rivals} |"
            );
        }
        text.push_str("\nThe short delays of the rivals have their price: equal versions that are blamed within an hour at 5 % weight.\n\n");
        let _ = writeln!(text, "| traffic | judge | {} |\n| --- | --- | --- | --- | --- |", NAMES.join(" | "));
        for Wrong { rate, base_error, blamed } in &self.wrong {
            let part = |count: &usize| format!("{:.1} %", 100.0 * *count as f64 / f64::from(self.runs));
            let parts: Vec<String> = blamed.iter().map(part).collect();
            let _ = writeln!(text, "| {rate}/s, {} % errors | {} |", base_error * 100.0, parts.join(" | "));
        }
        text.push_str("\nSlower responses, 1,000 connections/s, 5 % weight, lognormal with σ 0.8:\n\n");
        text.push_str("| v2 | median seconds | at most |\n| --- | --- | --- |\n");
        for Slower { name, median, most } in &self.latencies {
            let _ =
                writeln!(text, "| {name} | {} | {most} |", median.map_or("-".to_owned(), |median| median.to_string()));
        }
        let met = self.cells.iter().filter(|cell| cell.is_met()).count();
        let _ = writeln!(
            text,
            "\n{met} of {} rows are within 1.4 of the bound and the second between two looks. \
             Judging 100 services with 50 backends each takes {:.1} ms of CPU, which is not all of a look.",
            self.cells.len(),
            self.tick_ms
        );
        text
    }

    pub(crate) fn json(&self) -> Value {
        let equal = |case: &Case| json!({ "name": case.name, "runs": case.runs, "blamed": case.blamed, "upper_99": case.upper(), "wanted": case.wanted });
        let cell = |cell: &Cell| {
            let rivals: serde_json::Map<String, Value> = NAMES
                .iter()
                .zip(&cell.medians[1..])
                .map(|(name, median)| ((*name).to_owned(), json!(median)))
                .collect();
            json!({
                "rate": cell.rate, "weight": cell.weight, "ratio": cell.ratio, "bound_s": cell.bound,
                "knowing_s": cell.knowing, "judge_s": cell.medians[0], "factor": cell.factor(), "met": cell.is_met(), "rivals_s": rivals,
            })
        };
        let slower = |slower: &Slower| json!({ "name": slower.name, "median_s": slower.median, "most_s": slower.most });
        let wrong = |wrong: &Wrong| json!({ "rate": wrong.rate, "base_error": wrong.base_error, "runs": self.runs, "blamed": wrong.blamed });
        json!({
            "seed": self.seed,
            "runs": self.runs,
            "seconds": SECONDS,
            "equal": self.equal.iter().map(equal).collect::<Vec<_>>(),
            "power": self.cells.iter().map(cell).collect::<Vec<_>>(),
            "latency": self.latencies.iter().map(slower).collect::<Vec<_>>(),
            "wrong": self.wrong.iter().map(wrong).collect::<Vec<_>>(),
            "tick_ms": self.tick_ms,
            "missed": self.missed(),
        })
    }
}
