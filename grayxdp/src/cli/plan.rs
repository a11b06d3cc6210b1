//! `grayxdp plan`: schedules as tables and curves.

mod course;
mod detection;

use std::{fmt::Write as _, path::Path, time::Duration};

use grayxdp_common::weight::Weight;
use serde_json::{Value, json};

use super::{
    args::Output,
    check::load,
    curve::{self, Curve, time},
    error::CliError,
    print::{self, Align},
};
use crate::{
    config::{Config, ServiceConfig},
    decide::{
        controller::State,
        plan::{Order, Plan},
        schedule::Schedule,
    },
    percent::percent,
};

use self::course::Course;
pub(super) use self::detection::Expected;

/// Points of a smooth schedule in JSON, besides its beginning: it has up to 10,000 changes.
const SMOOTH_POINTS: u32 = 100;
/// Longer tables are thinned out for people.
const ROWS_MAX: usize = 41;
const TURNS_MAX: usize = 17;
const DETECTION_ROWS_MAX: usize = 21;

pub(super) fn execute(
    path: &Path,
    only: Option<&str>,
    expected: Option<Expected>,
    output: Output,
) -> Result<(), CliError> {
    let config = load(path)?;
    let services = chosen(&config, only, path)?;
    match output {
        Output::Json => {
            let plans: Vec<Value> = services.into_iter().map(|service| to_json(service, expected)).collect();
            print::json(&json!({ "services": plans }))
        }
        Output::Text => {
            let plans: Vec<String> = services.into_iter().map(|service| to_text(service, expected)).collect();
            print::text(&plans.join("\n"))
        }
    }
}

fn chosen<'a>(config: &'a Config, only: Option<&str>, path: &Path) -> Result<Vec<&'a ServiceConfig>, CliError> {
    let Some(name) = only else {
        return Ok(config.services.iter().collect());
    };
    match config.services.iter().find(|service| service.name == name) {
        Some(service) => Ok(vec![service]),
        None => Err(CliError::NoSuchService {
            name: name.to_owned(),
            path: path.to_owned(),
            services: config.services.iter().map(|service| service.name.clone()).collect(),
        }),
    }
}

/// When the weight changes, and to what, the beginning included. A smooth schedule is sampled. Empty for a manual one.
fn steps(schedule: &Schedule) -> Vec<(Duration, Weight)> {
    let Some(end) = schedule.duration() else {
        return Vec::new();
    };
    let mut steps = vec![(Duration::ZERO, schedule.first_weight())];
    if matches!(schedule, Schedule::Smooth { .. }) {
        steps.extend(
            (1..=SMOOTH_POINTS).map(|point| end * point / SMOOTH_POINTS).map(|at| (at, schedule.weight_at(at))),
        );
    } else {
        steps.extend(std::iter::successors(schedule.next_change(Duration::ZERO), |(at, _)| schedule.next_change(*at)));
    }
    steps
}

/// Whose turn begins when, where shards go one by one: each takes all the steps, from the beginning of its turn. Empty
/// where they go together.
fn turns(plan: Plan<'_>) -> Vec<(Duration, String)> {
    let (Order::OneByOne, Some(each)) = (plan.order, plan.schedule.duration()) else {
        return Vec::new();
    };
    let shards = plan.shards;
    let begins = (0u32..).map(|turn| each.saturating_mul(turn));
    begins.zip((0..shards.count()).map(|place| shards.name(shards.in_turn(place)).into_owned())).collect()
}

/// How the release goes where the config puts something on top of the schedule.
fn course(service: &ServiceConfig) -> Option<Course> {
    (!course::on_top(&service.policy).is_empty()).then(|| Course::of(service)).flatten()
}

/// The steps of a table: of each shard in its turn where shards go one by one, else of the release.
fn shown_steps(service: &ServiceConfig, course: Option<&Course>) -> Vec<(Duration, Weight)> {
    match (course, service.plan().order, &service.schedule) {
        (None, _, _) | (_, Order::OneByOne, _) => steps(&service.schedule),
        (Some(course), Order::Together, Schedule::Smooth { .. }) => thinned(&course.steps, 2 * SMOOTH_POINTS as usize),
        (Some(course), Order::Together, _) => course.steps.clone(),
    }
}

/// What else than the schedule the plan rests on.
fn say_what_is_on_top(text: &mut String, service: &ServiceConfig, course: Option<&Course>) {
    let on_top = course::on_top(&service.policy).join(", ");
    if on_top.is_empty() {
        return;
    }
    let Some(Course { approvals, .. }) = course else {
        let _ = writeln!(text, "The schedule alone. On top of it come: {on_top}.");
        return;
    };
    let _ = match service.plan().order {
        Order::Together => writeln!(text, "With {on_top}; what holds it up comes on top."),
        Order::OneByOne => writeln!(text, "With {on_top}; the times below are without."),
    };
    for at in approvals {
        let _ = writeln!(text, "At {at} % a person has to approve; that time is not counted.");
    }
}

fn to_json(service: &ServiceConfig, expected: Option<Expected>) -> Value {
    let (schedule, plan) = (&service.schedule, service.plan());
    let step = |(at, weight): (Duration, Weight)| json!({ "at_s": at.as_secs_f64(), "weight": percent(weight) });
    let turn = |(at, shard): (Duration, String)| json!({ "at_s": at.as_secs_f64(), "shard": shard });
    let course = course(service);
    let steps = shown_steps(service, course.as_ref());
    let approvals = course.as_ref().map_or(&[][..], |course| &course.approvals);
    let end = if course::on_top(&service.policy).is_empty() {
        plan.duration()
    } else {
        course.as_ref().map(|course| course.end)
    };
    let mut plan_json = json!({
        "service": service.name,
        "kind": schedule.kind(),
        "order": plan.order.name(),
        "duration_s": plan.duration().map(|duration| duration.as_secs_f64()),
        "end_s": end.map(|end| end.as_secs_f64()),
        "approvals": approvals.iter().map(|at| percent(*at)).collect::<Vec<_>>(),
        "steps": steps.iter().copied().map(step).collect::<Vec<_>>(),
        "turns": turns(plan).into_iter().map(turn).collect::<Vec<_>>(),
    });
    if let (Some(expected), Some(object)) = (expected, plan_json.as_object_mut()) {
        object.insert("detection".to_owned(), detection::to_json(service, &steps, expected));
    }
    plan_json
}

fn to_text(service: &ServiceConfig, expected: Option<Expected>) -> String {
    let schedule = &service.schedule;
    let Some(end) = schedule.duration() else {
        return format!(
            "{}: manual; the weight moves by `grayxdp set-weight {} PERCENT`\n",
            service.name, service.name
        );
    };
    let plan = service.plan();
    let turns = turns(plan);
    let course = course(service);
    let is_promoted =
        course.as_ref().map_or(schedule.last_weight() == Weight::FULL, |course| course.state == State::Promoted);
    let at_end = if is_promoted { "promoted" } else { "paused" };
    let whole = course.as_ref().map(|course| course.end).or(plan.duration()).unwrap_or(end);
    let mut text = format!("{}: {plan}; {at_end} after {}\n", service.name, time(whole));
    say_what_is_on_top(&mut text, service, course.as_ref());
    if !turns.is_empty() {
        let _ = writeln!(text, "Each shard takes {} in its turn; those behind it wait at the first weight.", time(end));
    }
    text.push('\n');
    // A course of all shards is drawn; where they go one by one, that of each in its turn.
    let drawn = course.as_ref().filter(|_| plan.order == Order::Together);
    let end = drawn.map_or(end, |course| course.end);
    let weight = |column: usize| {
        let at = end * u32::try_from(column).unwrap_or(curve::COLUMNS) / (curve::COLUMNS - 1);
        drawn.map_or_else(|| schedule.weight_at(at), |course| course.weight_at(at))
    };
    curve::draw(&mut text, &Curve { weight: &weight, end });
    text.push('\n');
    let all = shown_steps(service, course.as_ref());
    let shown = thinned(&all, ROWS_MAX);
    let rows: Vec<Vec<String>> = shown.iter().map(|(at, weight)| vec![time(*at), format!("{weight} %")]).collect();
    text.push_str(&print::table(&[("TIME", Align::Right), ("WEIGHT", Align::Right)], &rows));
    if shown.len() < all.len() && !matches!(schedule, Schedule::Smooth { .. }) {
        let _ = writeln!(text, "({} of {} changes; -o json has them all)", shown.len(), all.len());
    }
    if !turns.is_empty() {
        text.push('\n');
        // Few enough to stay on one screen with the rest.
        let shown = thinned(&turns, TURNS_MAX);
        let rows: Vec<Vec<String>> = shown.iter().map(|(at, shard)| vec![time(*at), shard.clone()]).collect();
        text.push_str(&print::table(&[("TURN AT", Align::Right), ("SHARD", Align::Left)], &rows));
        if shown.len() < turns.len() {
            let _ = writeln!(text, "({} of {} shards; -o json has them all)", shown.len(), turns.len());
        }
    }
    if let Some(expected) = expected {
        text.push('\n');
        text.push_str(&detection::to_text(service, &thinned(&all, DETECTION_ROWS_MAX), expected));
    }
    text
}

/// Evenly chosen ones of a table that is longer than so many rows, the first and the last among them.
fn thinned<T: Clone>(rows: &[T], rows_max: usize) -> Vec<T> {
    if rows.len() <= rows_max {
        return rows.to_vec();
    }
    let (shown, last) = (rows_max.div_ceil(2), rows.len() - 1);
    (0..shown).map(|row| rows[row * last / (shown - 1)].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;

    fn service(schedule: &str) -> ServiceConfig {
        sample::service(&format!("release.schedule = {schedule}"))
    }

    #[test]
    fn a_plan_is_drawn_like_this() {
        let found = to_text(&service(r#"{ kind = "step", weights = [1, 10, 30, 50], every = "5m" }"#), None);
        let expected = [
            "web: step 1.00 → 10.00 → 30.00 → 50.00 %, one every 5m; paused after 15m",
            "",
            "100 % ┤",
            "      │",
            "      │",
            "      │",
            "      │",
            " 50 % ┤                                                                   █",
            "      │                                                                   █",
            "      │                                             ███████████████████████",
            "      │                                             ███████████████████████",
            "      │▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁█████████████████████████████████████████████",
            "  0 % └────────────────────────────────────────────────────────────────────",
            "       0s                             7m 30s                            15m",
            "",
            "TIME   WEIGHT",
            "  0s   1.00 %",
            "  5m  10.00 %",
            " 10m  30.00 %",
            " 15m  50.00 %",
        ];
        assert_eq!(found.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_plan_is_json_like_this() {
        for (schedule, expected) in [
            (
                r#"{ kind = "linear", from = 0, to = 25, step = 12.5, every = "500ms" }"#,
                json!({ "service": "web", "kind": "linear", "order": "together", "duration_s": 1.0, "end_s": 1.0, "approvals": [], "steps": [
                    { "at_s": 0.0, "weight": 0.0 }, { "at_s": 0.5, "weight": 12.5 }, { "at_s": 1.0, "weight": 25.0 },
                ], "turns": []}),
            ),
            (
                r#"{ kind = "manual" }"#,
                json!({ "service": "web", "kind": "manual", "order": "together", "duration_s": null, "end_s": null, "approvals": [], "steps": [], "turns": [] }),
            ),
            (
                r#"{ kind = "step", weights = [1, 100], every = "10s" }
                shards = { method = "range", ranges = { internal = ["10.0.0.0/8"] } }
                release.order = "one-by-one""#,
                json!({ "service": "web", "kind": "step", "order": "one-by-one", "duration_s": 20.0, "end_s": 20.0, "approvals": [], "steps": [
                    { "at_s": 0.0, "weight": 1.0 }, { "at_s": 10.0, "weight": 100.0 },
                ], "turns": [{ "at_s": 0.0, "shard": "internal" }, { "at_s": 10.0, "shard": "rest" }]}),
            ),
        ] {
            assert_eq!(to_json(&service(schedule), None), expected);
        }
    }

    #[test]
    fn a_plan_goes_by_all_that_the_config_puts_on_top_of_the_schedule() {
        let schedule = r#"{ kind = "step", weights = [10, 50, 100], every = "5m" }"#;
        let policy = r#"
            release.hold = "10m"
            release.promote_after = "1m"
            release.gates = [{ at = 30, pause = "approve" }, { at = 50, pause = "2m" }]"#;
        let service = service(&format!("{schedule}{policy}"));
        let text = to_text(&service, None);
        // To 30 % after the hold, on to 50 % after another one (the approval comes at once), and so on.
        assert!(text.starts_with("web: step 10.00 → 50.00 → 100.00 %, one every 5m; promoted after 31m\n"), "{text}");
        for line in [
            "With hold, gates, promote_after; what holds it up comes on top.",
            "At 30.00 % a person has to approve; that time is not counted.",
            "  0s   10.00 %",
            " 10m   30.00 %",
            " 20m   50.00 %",
            " 30m  100.00 %",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("31m\n"), "the curve's end\n{text}");
        let json = to_json(&service, None);
        assert_eq!((&json["end_s"], &json["approvals"]), (&json!(1860.0), &json!([30.0])));
        assert_eq!(json["steps"][3], json!({ "at_s": 1800.0, "weight": 100.0 }));
    }

    #[test]
    fn a_plan_that_is_too_long_to_go_through_says_what_is_missing() {
        let schedule = r#"{ kind = "linear", from = 0, to = 100, step = 0.01, every = "1s" }
            shards = { count = 16 }
            release.order = "one-by-one"
            release.hold = "2s""#;
        let text = to_text(&service(schedule), None);
        assert!(text.contains("The schedule alone. On top of it come: hold.\n"), "{text}");
    }

    #[test]
    fn a_plan_shard_by_shard_says_whose_turn_is_when() {
        let text = to_text(
            &service(
                "{ kind = \"step\", weights = [1, 100], every = \"10s\" }\nshards = { count = 40 }\nrelease.order = \"one-by-one\"",
            ),
            None,
        );
        assert!(
            text.starts_with("web: step 1.00 → 100.00 %, one every 10s, shard by shard; promoted after 6m 40s\n"),
            "{text}"
        );
        for line in [
            "Each shard takes 10s in its turn; those behind it wait at the first weight.",
            "TURN AT  SHARD",
            "     0s  0",
            " 6m 30s  39",
            "(9 of 40 shards; -o json has them all)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.lines().count() < 60, "{text}");
    }

    #[test]
    fn every_plan_fits_a_terminal_and_ends_where_the_schedule_does() {
        for schedule in [
            r#"{ kind = "linear", from = 0, to = 100, step = 0.01, every = "1h 7m 13s 11ms" }"#,
            r#"{ kind = "linear", from = 0, to = 100, step = 10, every = "30s" }"#,
            r#"{ kind = "linear", from = 7, to = 7, step = 10, every = "30s" }"#,
            r#"{ kind = "exponential", from = 0.01, to = 100, factor = 1.01, every = "365d" }"#,
            r#"{ kind = "exponential", from = 0, to = 99.99, rate = 0.2, every = "1m" }"#,
            r#"{ kind = "smooth", from = 0, to = 100, over = "10m" }"#,
            r#"{ kind = "step", weights = [100], every = "1s" }"#,
            r#"{ kind = "manual" }"#,
        ] {
            let service = service(schedule);
            let text = to_text(&service, None);
            let drawn = text.lines().skip(2).map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(drawn <= 80 && text.lines().count() < 60, "{text}");
            if let Some(&(at, weight)) = steps(&service.schedule).last() {
                assert_eq!(
                    (Some(at), weight),
                    (service.schedule.duration(), service.schedule.last_weight()),
                    "{schedule}"
                );
                assert!(
                    text.lines()
                        .any(|line| line.trim_start().starts_with(&time(at)) && line.ends_with(&format!("{weight} %"))),
                    "{text}"
                );
            }
        }
    }
}
