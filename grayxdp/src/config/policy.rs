//! The rest of the `[service.release]` table: what stops, ends and undoes a release.

use std::time::Duration;

use grayxdp_common::weight::Weight;
use toml::{Spanned, de::DeValue};

use super::{
    External, Key, ModeKind, Observe,
    section::{Item, Section},
    value::{self, Wrong},
};
use crate::decide::{
    controller::{Analysis, Gate, OnDeadline, OnFailure, Pause, Policy},
    judge::JudgeConfig,
    schedule::{Millionths, Schedule},
};

/// How long after a promotion harm still rolls back.
const ROLLBACK_WINDOW_DEFAULT: Duration = Duration::from_secs(600);
pub(super) const ANALYSIS_KEYS: &[&str] = &[
    "enabled",
    "false_alarm",
    "margin",
    "tolerate",
    "tolerate_latency",
    "negligible_latency",
    "negligible",
    "max_error_rate",
    "max_p99",
    "on_failure",
    "freeze_after",
    "accelerate",
];
/// Keys that say something of replies.
const OF_REPLIES: [&str; 4] = ["max_p99", "tolerate_latency", "negligible_latency", "accelerate"];
/// Keys that steer a schedule, of which a manual one has none.
const STEERING: [&str; 4] = ["hold", "max_step", "gates", "promote_after"];

/// The policy, as far as it is known without the service's other keys.
pub(super) struct RawPolicy(Policy);

impl Default for RawPolicy {
    fn default() -> Self {
        let analysis = Analysis { enabled: true, ..Policy::bare().analysis };
        Self(Policy { analysis, rollback_window: ROLLBACK_WINDOW_DEFAULT, ..Policy::bare() })
    }
}

impl RawPolicy {
    /// Of a service that places clients so, and looks for this in responses, which pass here or do not.
    pub(super) fn of_service(self, key: Key, mode: ModeKind, observe: Observe, external: &External) -> Policy {
        let Policy { analysis, .. } = self.0;
        let (correlated, peeks) = (key == Key::SourceIp, observe != Observe::None);
        let judge = JudgeConfig { correlated, peeks, one_sided: !mode.sees_replies(), ..analysis.judge };
        // What is not seen to answer is not sped up to.
        let accelerate = if mode.sees_replies() { analysis.accelerate } else { Millionths::ONE };
        Policy { analysis: Analysis { judge, accelerate, ..analysis }, asks_first: external.asks(), ..self.0 }
    }
}

/// `None` after a problem was noted.
pub(super) fn read(section: &Section<'_>, mode: Option<ModeKind>, schedule: Option<&Schedule>) -> Option<RawPolicy> {
    let RawPolicy(default) = RawPolicy::default();
    let deadlines = [OnDeadline::Freeze, OnDeadline::Fail].map(|choice| (choice.name(), choice));
    let analysis = match section.optional_item("analysis") {
        Some(item) => analysis(&item.section(ANALYSIS_KEYS), mode, &default.analysis),
        None => Some(default.analysis),
    };
    let hold = section.or("hold", default.hold, value::length);
    let max_step = match section.optional_item("max_step") {
        Some(item) => item.read(above_zero).map(|step| Some(step.into_inner())),
        None => Some(default.max_step),
    };
    let gates = match section.optional_item("gates") {
        Some(item) => gates(&item, schedule),
        None => Some(default.gates),
    };
    let promote_after = section.or("promote_after", default.promote_after, value::length);
    let progress_deadline =
        section.or("progress_deadline", default.progress_deadline, |value| some(value::period(value)));
    let on_deadline = section.or("on_deadline", default.on_deadline, |value| value::choice(value, &deadlines));
    let rollback_window = section.or("rollback_window", default.rollback_window, value::length);
    let fits = schedule.is_none_or(|schedule| fits(section, schedule));
    let policy = Policy {
        analysis: analysis?,
        hold: hold?.into_inner(),
        max_step: max_step?,
        gates: gates?,
        promote_after: promote_after?.into_inner(),
        progress_deadline: progress_deadline?.into_inner(),
        on_deadline: on_deadline?.into_inner(),
        rollback_window: rollback_window?.into_inner(),
        asks_first: default.asks_first,
    };
    fits.then_some(RawPolicy(policy))
}

/// Whether nothing in the analysis needs replies where they do not pass; a problem was noted if something does.
fn fits_mode(section: &Section<'_>, mode: ModeKind) -> bool {
    if mode.sees_replies() {
        return true;
    }
    let vain: Vec<Item<'_>> = OF_REPLIES.iter().filter_map(|key| section.optional_item(key)).collect();
    for item in &vain {
        item.note(format!("{} needs replies, which do not pass in mode `{}`", item.what(), mode.name()), "remove it");
    }
    vain.is_empty()
}

fn some<T>(read: Result<T, Wrong>) -> Result<Option<T>, Wrong> {
    read.map(Some)
}

/// Whether what steers the schedule has something to steer; a problem was noted if not.
fn fits(section: &Section<'_>, schedule: &Schedule) -> bool {
    match schedule {
        Schedule::Manual => {
            let vain: Vec<Item<'_>> = STEERING.iter().filter_map(|key| section.optional_item(key)).collect();
            for item in &vain {
                item.note(
                    format!("{} means nothing: a manual schedule moves no weight", item.what()),
                    "remove it, or write another schedule",
                );
            }
            vain.is_empty()
        }
        Schedule::Smooth { .. } => {
            let Some(item) = section.optional_item("hold") else { return true };
            if item.read(value::length).is_none_or(|hold| hold.get_ref().is_zero()) {
                return true;
            }
            item.note(
                format!(
                    "{} does not go with a smooth schedule, which raises the weight by 0.01 % at a time",
                    item.what()
                ),
                "remove it and make `over` longer, or take a linear schedule",
            );
            false
        }
        Schedule::Linear { .. } | Schedule::Step { .. } | Schedule::Exponential { .. } => true,
    }
}

/// `None` after a problem was noted.
fn analysis(section: &Section<'_>, mode: Option<ModeKind>, default: &Analysis) -> Option<Analysis> {
    let fits = mode.is_none_or(|mode| fits_mode(section, mode));
    let judge = default.judge;
    let choices = [OnFailure::Rollback, OnFailure::Freeze].map(|choice| (choice.name(), choice));
    let enabled = section.or("enabled", default.enabled, value::boolean);
    let false_alarm = section.or("false_alarm", judge.false_alarm, |value| part(value, 0.0001..=50.0, "1"));
    let margin = section.or("margin", judge.margin, |value| value::real(value, 1.01..=100.0, "1.5"));
    let tolerate = section.or("tolerate", judge.tolerate, |value| value::real(value, 1.0..=100.0, "1.1"));
    let tolerate_latency =
        section.or("tolerate_latency", judge.tolerate_latency, |value| value::real(value, 1.0..=100.0, "1.1"));
    let negligible_latency = section.or("negligible_latency", judge.negligible_latency, slack);
    let negligible = section.or("negligible", judge.negligible, |value| part(value, 0.0..=50.0, "0.1"));
    let max_error_rate =
        section.or("max_error_rate", judge.max_error_rate, |value| some(part(value, 0.0001..=100.0, "2")));
    let max_p99 = section.or("max_p99", judge.max_p99, |value| some(value::period(value)));
    let on_failure = section.or("on_failure", default.on_failure, |value| value::choice(value, &choices));
    let freeze_after = section.or("freeze_after", default.freeze_after, |value| some(value::period(value)));
    let accelerate = section.or("accelerate", default.accelerate, value::speed);
    let (margin, tolerate, tolerate_latency) =
        (margin?.into_inner(), tolerate?.into_inner(), tolerate_latency?.into_inner());
    let (key, most) =
        if tolerate_latency > tolerate { ("tolerate_latency", tolerate_latency) } else { ("tolerate", tolerate) };
    if margin <= most {
        section.note(
            format!("`margin` ({margin}) of {} is not above `{key}` ({most})", section.what()),
            format!("nothing could be proven in between: write a larger `margin`, or a smaller `{key}`"),
        );
        return None;
    }
    fits.then_some(())?;
    Some(Analysis {
        enabled: enabled?.into_inner(),
        judge: JudgeConfig {
            false_alarm: false_alarm?.into_inner(),
            tolerate,
            tolerate_latency,
            negligible_latency: negligible_latency?.into_inner(),
            margin,
            negligible: negligible?.into_inner(),
            max_error_rate: max_error_rate?.into_inner(),
            max_p99: max_p99?.into_inner(),
            ..judge
        },
        on_failure: on_failure?.into_inner(),
        freeze_after: freeze_after?.into_inner(),
        accelerate: accelerate?.into_inner(),
    })
}

/// How much longer v2's responses may take.
fn slack(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    const MAX: Duration = Duration::from_secs(1);
    let slack = value::duration(value)?;
    if slack <= MAX {
        return Ok(slack);
    }
    Err(Wrong::new("a duration of at most 1s", "write \"250us\" or \"2ms\", for one"))
}

/// A percent, as a part of one.
fn part(value: &DeValue<'_>, range: std::ops::RangeInclusive<f64>, example: &str) -> Result<f64, Wrong> {
    let expected = format!("a percent from {} to {}", range.start(), range.end());
    let percent = value::real(value, range, example).map_err(|Wrong { help, .. }| Wrong::new(expected, help))?;
    Ok(percent / 100.0)
}

fn above_zero(value: &DeValue<'_>) -> Result<Weight, Wrong> {
    match value::percent(value)? {
        Weight::ZERO => Err(Wrong::new("more than 0", "write 0.01 for the smallest there is, or 10, for one")),
        weight => Ok(weight),
    }
}

/// `None` after a problem was noted.
fn gates(item: &Item<'_>, schedule: Option<&Schedule>) -> Option<Vec<Gate>> {
    let example = "gates = [{ at = 10, pause = \"approve\" }, { at = 50, pause = \"10m\" }]";
    let items = item.list("gate", example)?;
    let read: Vec<Option<(Spanned<Weight>, Pause)>> = items.iter().map(gate).collect();
    let last = schedule.filter(|schedule| **schedule != Schedule::Manual).map(Schedule::last_weight);
    let mut sound = true;
    let mut before = Weight::ZERO;
    for (gate, item) in read.iter().zip(&items) {
        let Some((at, _)) = gate else { continue };
        let at = *at.get_ref();
        if at <= before {
            item.note(
                format!("{}: expected more than the {before} % of the gate before it, found {at} %", item.what()),
                "list each gate once, from the lowest weight to the highest",
            );
            sound = false;
        } else if let Some(last) = last.filter(|last| at > *last) {
            item.note(
                format!("{} at {at} % is never reached: the schedule ends at {last} %", item.what()),
                "remove it, or give it a weight that the schedule comes to",
            );
            sound = false;
        }
        before = before.max(at);
    }
    let gates = read.into_iter().collect::<Option<Vec<_>>>().filter(|_| sound)?;
    Some(gates.into_iter().map(|(at, pause)| Gate { at: at.into_inner(), pause }).collect())
}

fn gate(item: &Item<'_>) -> Option<(Spanned<Weight>, Pause)> {
    let section = item.section(&["at", "pause"]);
    let at = section.required("at", "10", above_zero);
    let pause = section.required("pause", "\"approve\"", pause);
    Some((at?, pause?.into_inner()))
}

fn pause(value: &DeValue<'_>) -> Result<Pause, Wrong> {
    if value.as_str() == Some("approve") {
        return Ok(Pause::Approve);
    }
    value::period(value).map(Pause::For).map_err(|_| {
        Wrong::new("`approve` or a duration", "write \"approve\" to wait for a person, or a duration such as \"10m\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigErrors, sample};

    const LINEAR: &str = r#"{ kind = "linear", from = 0, to = 50, step = 10, every = "30s" }"#;

    fn parse(schedule: &str, lines: &str) -> Result<Policy, ConfigErrors> {
        // Lines from 16 on.
        let rest =
            format!("\nkey = \"connection\"\nobserve = \"http1\"\n[service.release]\nschedule = {schedule}\n{lines}");
        Config::parse("lb.toml", &sample::text("tcp", &rest)).map(|mut config| config.services.remove(0).policy)
    }

    #[test]
    fn every_key_is_read() {
        let policy = parse(
            LINEAR,
            r#"
hold = "30s"
max_step = 2.5
gates = [{ at = 10, pause = "approve" }, { at = 50, pause = "10m" }]
promote_after = "1h"
progress_deadline = "2h"
on_deadline = "fail"
rollback_window = "0s"
[service.release.analysis]
enabled = false
false_alarm = 0.5
margin = 2
tolerate = 1.1
tolerate_latency = 1.2
negligible_latency = "2ms"
negligible = 0
max_error_rate = 2.5
max_p99 = "250ms"
on_failure = "freeze"
freeze_after = "1h"
accelerate = 2.5
"#,
        );
        let weight = |percent: f64| crate::percent::weight_from_percent(percent).expect("a weight");
        let seconds = Duration::from_secs;
        let expected = Policy {
            analysis: Analysis {
                enabled: false,
                judge: JudgeConfig {
                    false_alarm: 0.005,
                    margin: 2.0,
                    tolerate: 1.1,
                    tolerate_latency: 1.2,
                    negligible_latency: Duration::from_millis(2),
                    negligible: 0.0,
                    max_error_rate: Some(0.025),
                    max_p99: Some(Duration::from_millis(250)),
                    correlated: false,
                    peeks: true,
                    ..JudgeConfig::default()
                },
                on_failure: OnFailure::Freeze,
                freeze_after: Some(seconds(3600)),
                accelerate: Millionths(2_500_000),
            },
            hold: seconds(30),
            max_step: Some(weight(2.5)),
            gates: vec![
                Gate { at: weight(10.0), pause: Pause::Approve },
                Gate { at: weight(50.0), pause: Pause::For(seconds(600)) },
            ],
            promote_after: seconds(3600),
            progress_deadline: Some(seconds(7200)),
            on_deadline: OnDeadline::Fail,
            rollback_window: Duration::ZERO,
            asks_first: false,
        };
        assert_eq!(policy.expect("valid"), expected);
    }

    #[test]
    fn what_is_left_out_leaves_the_schedule_alone() {
        let policy = parse(LINEAR, "").expect("valid");
        assert!(policy.analysis.enabled && !policy.interrupts());
        assert_eq!((policy.promote_after, policy.progress_deadline), (Duration::ZERO, None));
        assert_eq!((policy.analysis.on_failure, policy.analysis.freeze_after), (OnFailure::Rollback, None));
    }

    /// Schedule, lines of the table, line of the only error, and parts of its text.
    type Case = (&'static str, &'static str, usize, &'static [&'static str]);

    const MANUAL: &str = r#"{ kind = "manual" }"#;
    const SMOOTH: &str = r#"{ kind = "smooth", from = 0, to = 100, over = "10m" }"#;
    const CASES: &[Case] = &[
        (LINEAR, "analysis = true", 16, &["expected a table, found `true`"]),
        (LINEAR, "analysis = { enabld = true }", 16, &["unknown key `enabld`", "did you mean `enabled`?"]),
        (LINEAR, "analysis = { enabled = \"yes\" }", 16, &["true or false"]),
        (LINEAR, "analysis = { false_alarm = 0 }", 16, &["`false_alarm` of", "a percent from 0.0001 to 50"]),
        (LINEAR, "analysis = { false_alarm = 51 }", 16, &["a percent from 0.0001 to 50", "found `51`"]),
        (LINEAR, "analysis = { false_alarm = nan }", 16, &["a percent"]),
        (LINEAR, "analysis = { max_error_rate = inf }", 16, &["a percent from 0.0001 to 100"]),
        (LINEAR, "analysis = { max_error_rate = -1 }", 16, &["a percent from 0.0001 to 100"]),
        (LINEAR, "analysis = { max_p99 = 250 }", 16, &["a duration", "add a unit"]),
        (LINEAR, "analysis = { margin = 1 }", 16, &["a number from 1.01 to 100"]),
        (LINEAR, "analysis = { tolerate = 0.9 }", 16, &["a number from 1 to 100"]),
        (
            LINEAR,
            "analysis = { tolerate = 2 }",
            16,
            &["`margin` (1.5)", "not above `tolerate` (2)", "a larger `margin`"],
        ),
        (
            LINEAR,
            "analysis = { tolerate = 1.2, tolerate_latency = 3 }",
            16,
            &["`margin` (1.5)", "not above `tolerate_latency` (3)", "a smaller `tolerate_latency`"],
        ),
        (LINEAR, "analysis = { tolerate = 3, tolerate_latency = 2 }", 16, &["not above `tolerate` (3)"]),
        (LINEAR, "analysis = { negligible_latency = \"2s\" }", 16, &["a duration of at most 1s", "found `\"2s\"`"]),
        (LINEAR, "analysis = { on_failure = \"abort\" }", 16, &["one of `rollback`, `freeze`"]),
        (LINEAR, "analysis = { accelerate = 0.5 }", 16, &["a factor from 1 to 100"]),
        (LINEAR, "analysis = { freeze_after = \"0s\" }", 16, &["a duration from 10ms"]),
        (LINEAR, "hold = 30", 16, &["`hold` of", "a duration", "\"30s\""]),
        (LINEAR, "max_step = 0", 16, &["more than 0"]),
        (LINEAR, "max_step = 0.001", 16, &["at most two decimals"]),
        (LINEAR, "gates = { at = 10 }", 16, &["a list of at least one gate"]),
        (LINEAR, "gates = [{ at = 10 }]", 16, &["`pause` is missing in gate 1"]),
        (LINEAR, "gates = [{ pause = \"approve\" }]", 16, &["`at` is missing in gate 1", "add `at = 10`"]),
        (LINEAR, "gates = [{ at = 10, pause = \"aprove\" }]", 16, &["`approve` or a duration", "found `\"aprove\"`"]),
        (LINEAR, "gates = [{ at = 0, pause = \"approve\" }]", 16, &["more than 0"]),
        (
            LINEAR,
            "gates = [{ at = 20, pause = \"1m\" }, { at = 20, pause = \"1m\" }]",
            16,
            &["gate 2", "expected more than the 20.00 %", "found 20.00 %"],
        ),
        (LINEAR, "gates = [{ at = 60, pause = \"1m\" }]", 16, &["never reached", "the schedule ends at 50.00 %"]),
        (LINEAR, "promote_after = \"400days\"", 16, &["at most 365days"]),
        (LINEAR, "on_deadline = \"rollback\"", 16, &["one of `freeze`, `fail`"]),
        (MANUAL, "hold = \"30s\"", 16, &["`hold` of", "means nothing", "a manual schedule"]),
        (MANUAL, "gates = [{ at = 10, pause = \"1m\" }]", 16, &["`gates` of", "means nothing"]),
        (SMOOTH, "hold = \"30s\"", 16, &["`hold` of", "does not go with a smooth schedule", "`over`"]),
    ];

    #[test]
    fn each_mistake_is_said_with_its_line_and_what_to_do() {
        for (schedule, line, expected_line, parts) in CASES {
            let errors = parse(schedule, line).expect_err(line);
            assert_eq!(errors.errors().len(), 1, "{line}: {errors}");
            let text = errors.to_string();
            let at = format!("lb.toml:{expected_line}:");
            for part in parts.iter().chain([&at.as_str()]) {
                assert!(text.contains(part), "{line}: {part}: {text}");
            }
        }
        let several =
            parse(LINEAR, "hold = 30\nmax_step = 0\nanalysis = { margin = 1, tolerate = 0 }").expect_err("wrong");
        assert_eq!(several.errors().len(), 4, "{several}");
    }

    #[test]
    fn what_needs_replies_is_refused_where_they_do_not_pass() {
        let parse = |mode: &str, lines: &str| {
            let rest = format!("\nkey = \"connection\"\nmode = \"{mode}\"\n{lines}");
            Config::parse("lb.toml", &sample::text("tcp", &rest).replace(":8080", ":80"))
        };
        let release =
            |line: &str| format!("[service.release]\nschedule = {LINEAR}\n[service.release.analysis]\n{line}");
        for line in ["max_p99 = \"200ms\"", "tolerate_latency = 1.2", "negligible_latency = \"1ms\"", "accelerate = 4"]
        {
            let key = line.split(' ').next().expect("a key");
            let refused = parse("dsr", &release(line)).expect_err("refused").to_string();
            assert!(refused.contains(&format!("`{key}` of ")), "{refused}");
            assert!(refused.contains("needs replies, which do not pass in mode `dsr`"), "{refused}");
            assert!(parse("nat", &release(line)).is_ok(), "{line}");
        }
        let refused = parse("dsr", "observe = \"http1\"").expect_err("refused").to_string();
        assert!(refused.contains("`observe`") && refused.contains("needs replies"), "{refused}");
        assert!(parse("dsr", "observe = \"none\"").is_ok());
        let config = parse("dsr", &release("max_error_rate = 2")).expect("valid");
        assert_eq!(config.services[0].policy.analysis.accelerate, Millionths::ONE);
    }
}
