//! The `[[service.release.query]]` and `[[service.release.webhook]]` tables: what others measure, and who is asked or told.

use std::{ops::RangeInclusive, time::Duration};

use reqwest::Url;
use toml::{Spanned, de::DeValue};

use super::{
    section::{Item, Section},
    value::{self, Wrong},
};
use crate::decide::external::{OnMissing, Policy, Rule, hook::Moment, unknown_placeholder};

const QUERY_KEYS: &[&str] = &[
    "name",
    "url",
    "query",
    "min",
    "max",
    "at_most_times_v1",
    "at_least_times_v1",
    "every",
    "timeout",
    "failures",
    "on_missing",
];
const WEBHOOK_KEYS: &[&str] = &["name", "url", "on", "timeout", "retries", "backoff"];

const EVERY_DEFAULT: Duration = Duration::from_secs(15);
const EVERY_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const QUERY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const HOOK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const FAILURES_DEFAULT: u32 = 3;
const FAILURES_MAX: u32 = 100;
const RETRIES_DEFAULT: u32 = 2;
const RETRIES_MAX: u32 = 10;
const BACKOFF_DEFAULT: Duration = Duration::from_secs(1);
const BACKOFF_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const QUERY_EXAMPLE: &str = "'sum(rate(errors_total{service=\"{{service}}\",version=\"{{version}}\"}[{{interval}}]))'";

/// A Prometheus query, and what its answers mean.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    /// Where the server's API is; `/api/v1/query` is appended.
    pub url: Url,
    /// With `{{service}}`, `{{version}}` and `{{interval}}`.
    pub template: String,
    /// How long an answer may take: 100 ms to 60 s.
    pub timeout: Duration,
    /// What answers mean, and how often to ask.
    pub policy: Policy,
}

/// An address that is called with a CloudEvent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// Unique in its release.
    pub name: String,
    /// Where to POST.
    pub url: Url,
    /// When.
    pub on: Moment,
    /// How long an answer may take: 100 ms to 60 s.
    pub timeout: Duration,
    /// How often a call that failed is tried again, 0 to 10.
    pub retries: u32,
    /// How long to wait before the first retry; twice as long before each next one. 100 ms to 60 s.
    pub backoff: Duration,
}

/// Both, of a release.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct External {
    /// In the order of the file.
    pub queries: Vec<Query>,
    /// In the order of the file.
    pub webhooks: Vec<Webhook>,
}

impl External {
    /// Whether somebody is asked before v2 gets more.
    pub fn asks(&self) -> bool {
        self.webhooks.iter().any(|webhook| webhook.on.is_asked())
    }
}

/// `None` after a problem was noted.
pub(super) fn read(release: &Section<'_>) -> Option<External> {
    let queries = all(release, "query", QUERY_KEYS, query);
    let webhooks = all(release, "webhook", WEBHOOK_KEYS, webhook);
    let (queries, webhooks) = (queries?, webhooks?);
    let mut unique = true;
    for names in [queries.iter().map(|(name, _)| name).collect(), webhooks.iter().map(|(name, _)| name).collect()] {
        let names: Vec<&Spanned<String>> = names;
        for (at, name) in names.iter().enumerate() {
            if names[..at].iter().any(|before| before.get_ref() == name.get_ref()) {
                let message = format!("the name `{}` is there twice in {}", name.get_ref(), release.what());
                release.note_at(name.span(), message, "give each a name of its own: messages and metrics carry it");
                unique = false;
            }
        }
    }
    let without_names = |queries: Vec<(Spanned<String>, Query)>| queries.into_iter().map(|(_, query)| query).collect();
    unique.then(|| External {
        queries: without_names(queries),
        webhooks: webhooks.into_iter().map(|(_, webhook)| webhook).collect(),
    })
}

fn all<'a, T>(
    release: &Section<'a>,
    key: &str,
    keys: &[&str],
    read: impl Fn(&Section<'a>) -> Option<(Spanned<String>, T)>,
) -> Option<Vec<(Spanned<String>, T)>> {
    let sections = release.optional_sections(key, keys)?;
    let read: Vec<_> = sections.iter().map(read).collect();
    read.into_iter().collect()
}

fn query(section: &Section<'_>) -> Option<(Spanned<String>, Query)> {
    let name = section.required("name", "\"cpu\"", value::name);
    let url = section.required("url", "\"http://127.0.0.1:9090\"", url);
    let template = section.required("query", QUERY_EXAMPLE, template);
    let rule = rule(section);
    let every = section.or("every", EVERY_DEFAULT, |value| within(value, &EVERY_RANGE));
    let timeout = section.or("timeout", QUERY_TIMEOUT_DEFAULT, |value| within(value, &TIMEOUT_RANGE));
    let failures = section.or("failures", FAILURES_DEFAULT, |value| value::integer(value, 1..=FAILURES_MAX));
    let choices = OnMissing::ALL.map(|choice| (choice.name(), choice));
    let on_missing = section.or("on_missing", OnMissing::Hold, |value| value::choice(value, &choices));
    let (name, rule) = (name?, rule?);
    let policy = Policy {
        name: name.get_ref().clone(),
        rule,
        every: every?.into_inner(),
        failures: failures?.into_inner(),
        on_missing: on_missing?.into_inner(),
    };
    let template = template?.into_inner();
    if rule.compares() && !template.contains("{{version}}") {
        section.optional_item("query")?.note(
            "the query says nothing of the version, so that v2 would be compared with itself",
            "write `{{version}}` where the label's value stands: it becomes `v1` and `v2`",
        );
        return None;
    }
    Some((name, Query { url: url?.into_inner(), template, timeout: timeout?.into_inner(), policy }))
}

/// `None` after a problem was noted.
fn rule(section: &Section<'_>) -> Option<Rule> {
    let number = |key| section.optional_item(key).map(|item| (item.read(number).map(Spanned::into_inner), item));
    let (min, max) = (number("min"), number("max"));
    let (at_most, at_least) = (number("at_most_times_v1"), number("at_least_times_v1"));
    let help = "write `max = 0.8` to limit v2's number, or `at_most_times_v1 = 1.5` to compare it with v1's";
    match (min, max, at_most, at_least) {
        (None, None, None, None) => {
            let keys = "`min`, `max`, `at_most_times_v1`, `at_least_times_v1`";
            section.note(format!("{}: none of {keys} says what the number has to keep to", section.what()), help);
            None
        }
        (None, None, Some((factor, item)), None) => Some(Rule::AtMostTimesV1(above_zero(factor?, &item)?)),
        (None, None, None, Some((factor, item))) => Some(Rule::AtLeastTimesV1(above_zero(factor?, &item)?)),
        (min, max, None, None) => limits(min, max),
        (min, max, at_most, at_least) => {
            if let Some((_, item)) = [at_least, at_most, max, min].into_iter().flatten().next() {
                item.note(format!("{} is one rule too many for one query", item.what()), help);
            }
            None
        }
    }
}

type Number<'a> = (Option<f64>, Item<'a>);

fn limits(min: Option<Number<'_>>, max: Option<Number<'_>>) -> Option<Rule> {
    // The outer `None`: a number that could not be read.
    let read = |number: &Option<Number<'_>>| match number {
        Some((number, _)) => number.map(Some),
        None => Some(None),
    };
    let (least, most) = (read(&min)?, read(&max)?);
    if let (Some(least), Some(most), Some((_, item))) = (least, most, &max)
        && least > most
    {
        item.note(format!("`max` ({most}) is below `min` ({least})"), "no number would pass: swap the two");
        return None;
    }
    Some(Rule::Limits { min: least, max: most })
}

fn above_zero(factor: f64, item: &Item<'_>) -> Option<f64> {
    if factor > 0.0 {
        return Some(factor);
    }
    item.note(format!("{}: expected more than 0, found {factor}", item.what()), "write 1.5 for half as much again");
    None
}

fn webhook(section: &Section<'_>) -> Option<(Spanned<String>, Webhook)> {
    let name = section.required("name", "\"smoke-test\"", value::name);
    let url = section.required("url", "\"https://ci.example.org/smoke-test\"", url);
    let moments = Moment::ALL.map(|moment| (moment.name(), moment));
    let on = section.required("on", "\"before-step\"", |value| value::choice(value, &moments));
    let timeout = section.or("timeout", HOOK_TIMEOUT_DEFAULT, |value| within(value, &TIMEOUT_RANGE));
    let retries = section.or("retries", RETRIES_DEFAULT, |value| value::integer(value, 0..=RETRIES_MAX));
    let backoff = section.or("backoff", BACKOFF_DEFAULT, |value| within(value, &BACKOFF_RANGE));
    let name = name?;
    let webhook = Webhook {
        name: name.get_ref().clone(),
        url: url?.into_inner(),
        on: on?.into_inner(),
        timeout: timeout?.into_inner(),
        retries: retries?.into_inner(),
        backoff: backoff?.into_inner(),
    };
    Some((name, webhook))
}

fn url(value: &DeValue<'_>) -> Result<Url, Wrong> {
    let url = value.as_str().and_then(|text| text.parse::<Url>().ok());
    url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host()).ok_or_else(|| {
        Wrong::new("an http or https address", "write one with scheme and host, such as \"http://127.0.0.1:9090\"")
    })
}

fn template(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = value::text(value)?;
    match unknown_placeholder(&text) {
        None => Ok(text),
        Some(unknown) => Err(Wrong::new(
            "a query with no placeholders but `{{service}}`, `{{version}}` and `{{interval}}`",
            format!("remove `{unknown}`, or write it exactly so, without blanks"),
        )),
    }
}

fn number(value: &DeValue<'_>) -> Result<f64, Wrong> {
    value::number(value)
        .filter(|number| number.is_finite())
        .ok_or_else(|| Wrong::new("a number", "write one such as 0.8, no quotes"))
}

fn within(value: &DeValue<'_>, range: &RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let found = value::duration(value)?;
    if range.contains(&found) {
        return Ok(found);
    }
    let [least, most] = [range.start(), range.end()].map(|end| humantime::format_duration(*end));
    Err(Wrong::new(format!("a duration from {least} to {most}"), format!("write \"{least}\", for one")))
}

#[cfg(test)]
mod tests;
