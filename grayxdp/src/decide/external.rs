//! Metrics of others: what answers to queries mean for a release. Pure: answers come in, a standing comes out.
//!
//! Whatever is missing, late or wrong holds the weight, and never raises it. Only a good answer lets a release go on; only
//! so many bad ones in a row, each a real number, blame v2.

pub mod hook;
pub mod prometheus;

use std::{fmt, time::Duration};

use super::evidence::Evidence;

/// What came back for one query.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// One finite number.
    Value(f64),
    /// One number that is none: NaN or infinite.
    NotFinite(String),
    /// An empty result.
    NoData,
    /// So many series where one was wanted.
    Many(usize),
    /// The server says that it cannot answer.
    Refused(String),
    /// Not what such a server answers.
    Malformed(String),
    /// No answer within the time-out.
    TimedOut(Duration),
    /// No connection, or it broke.
    Unreachable(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::NotFinite(text) => write!(f, "the answer is {text}, which is no number to compare"),
            Self::NoData => f.write_str("the answer is empty: no series matches, or it has no samples"),
            Self::Many(count) => {
                write!(f, "the answer has {count} series where one is wanted: aggregate, by `sum(…)` for one")
            }
            Self::Refused(why) => write!(f, "the server refused the query: {why}"),
            Self::Malformed(why) => write!(f, "the answer is not Prometheus' JSON: {why}"),
            Self::TimedOut(after) => write!(f, "no answer within {}", humantime::format_duration(*after)),
            Self::Unreachable(why) => write!(f, "cannot reach the server: {why}"),
        }
    }
}

/// What v2's number has to keep to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// Neither below nor above these, where given.
    Limits {
        /// The least that is well.
        min: Option<f64>,
        /// The most that is well.
        max: Option<f64>,
    },
    /// At most so many times v1's number, which is asked for at the same moment.
    AtMostTimesV1(f64),
    /// At least so many times v1's number.
    AtLeastTimesV1(f64),
}

impl Rule {
    /// Whether v1's number is needed, too.
    pub const fn compares(self) -> bool {
        !matches!(self, Self::Limits { .. })
    }
}

/// What to do when the answers are missing or wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnMissing {
    /// Stand still until a good answer comes.
    Hold,
    /// After as many in a row as it takes bad answers: freeze, so that a person looks.
    Freeze,
    /// After as many in a row: roll back.
    Rollback,
}

impl OnMissing {
    /// All.
    pub const ALL: [Self; 3] = [Self::Hold, Self::Freeze, Self::Rollback];

    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Freeze => "freeze",
            Self::Rollback => "rollback",
        }
    }
}

/// When a query's answers count, and for what.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// Unique in its release.
    pub name: String,
    /// What the number has to keep to.
    pub rule: Rule,
    /// How often it is asked; an answer older than three times this is missing.
    pub every: Duration,
    /// So many bad answers in a row blame v2; at least 1.
    pub failures: u32,
    /// What to do without answers.
    pub on_missing: OnMissing,
}

/// The answers of one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Answers {
    /// For v1; `None` where the rule does not need it.
    pub v1: Option<Answer>,
    /// For v2.
    pub v2: Answer,
}

/// What the answers so far mean.
#[derive(Clone, PartialEq, Debug)]
pub enum Standing {
    /// The release may go on.
    Pass,
    /// The weight must not rise, for this reason.
    Hold(String),
    /// A person has to look, for this reason.
    Freeze(String),
    /// v2 is to blame, or the config wants a rollback without answers.
    Fail(Box<Evidence>),
}

/// The answers to one query, over time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Watch {
    bad_in_a_row: u32,
    missing_in_a_row: u32,
    last: Option<Seen>,
    age: Duration,
}

#[derive(Clone, PartialEq, Debug)]
enum Seen {
    Good,
    Bad { evidence: Box<Evidence>, said: String },
    Missing(String),
}

impl Watch {
    /// Takes the answers of a moment in.
    pub fn take(&mut self, policy: &Policy, answers: &Answers) {
        self.age = Duration::ZERO;
        let seen = judge(policy, answers);
        match &seen {
            Seen::Good => {
                self.bad_in_a_row = 0;
                self.missing_in_a_row = 0;
            }
            Seen::Bad { .. } => {
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
                self.missing_in_a_row = 0;
            }
            // Silence is neither good nor bad: it does not end a row of bad answers.
            Seen::Missing(_) => self.missing_in_a_row = self.missing_in_a_row.saturating_add(1),
        }
        self.last = Some(seen);
    }

    /// Lets time pass.
    pub fn elapsed(&mut self, passed: Duration) {
        self.age = self.age.saturating_add(passed);
    }

    /// What it means now.
    pub fn standing(&self, policy: &Policy) -> Standing {
        let name = &policy.name;
        if self.age > policy.every.saturating_mul(3) {
            return Standing::Hold(format!(
                "query `{name}`: the last answer is {} old",
                humantime::format_duration(Duration::from_secs(self.age.as_secs()))
            ));
        }
        match &self.last {
            None => Standing::Hold(format!("query `{name}`: no answer yet")),
            Some(Seen::Good) => Standing::Pass,
            Some(Seen::Bad { evidence, .. }) if self.bad_in_a_row >= policy.failures => {
                Standing::Fail(evidence.clone())
            }
            Some(Seen::Bad { said, .. }) => {
                Standing::Hold(format!("query `{name}`: {said}, {} of {} in a row", self.bad_in_a_row, policy.failures))
            }
            Some(Seen::Missing(why)) => self.standing_without(policy, why),
        }
    }

    fn standing_without(&self, policy: &Policy, why: &str) -> Standing {
        let said = format!("query `{}`: {why}", policy.name);
        if self.missing_in_a_row < policy.failures {
            return Standing::Hold(said);
        }
        match policy.on_missing {
            OnMissing::Hold => Standing::Hold(said),
            OnMissing::Freeze => Standing::Freeze(said),
            OnMissing::Rollback => Standing::Fail(Box::new(Evidence {
                rule: format!("query without an answer {} times in a row ({why})", self.missing_in_a_row),
                ..evidence(policy, f64::from(self.missing_in_a_row), f64::from(policy.failures), None)
            })),
        }
    }
}

fn judge(policy: &Policy, answers: &Answers) -> Seen {
    let v2 = match &answers.v2 {
        Answer::Value(value) => *value,
        missing => return Seen::Missing(format!("v2: {missing}")),
    };
    let bad = |limit: f64, ratio: Option<f64>, said: String| Seen::Bad {
        evidence: Box::new(evidence(policy, v2, limit, ratio)),
        said,
    };
    let (factor, is_ceiling) = match policy.rule {
        Rule::Limits { min, max } => {
            return match (min.filter(|min| v2 < *min), max.filter(|max| v2 > *max)) {
                (Some(min), _) => bad(min, None, format!("{v2} is below {min}")),
                (None, Some(max)) => bad(max, None, format!("{v2} is above {max}")),
                (None, None) => Seen::Good,
            };
        }
        Rule::AtMostTimesV1(factor) => (factor, true),
        Rule::AtLeastTimesV1(factor) => (factor, false),
    };
    let v1 = match &answers.v1 {
        Some(Answer::Value(value)) => *value,
        Some(missing) => return Seen::Missing(format!("v1: {missing}")),
        None => return Seen::Missing("v1 was not asked for".to_owned()),
    };
    let limit = v1 * factor;
    let is_good = if is_ceiling { v2 <= limit } else { v2 >= limit };
    if is_good {
        return Seen::Good;
    }
    let ratio = (v1 != 0.0).then(|| v2 / v1);
    let side = if is_ceiling { "above" } else { "below" };
    bad(limit, ratio, format!("v2's {v2} is {side} {factor} times v1's {v1}"))
}

fn evidence(policy: &Policy, value: f64, limit: f64, ratio: Option<f64>) -> Evidence {
    Evidence {
        signal: policy.name.clone(),
        rule: "query".to_owned(),
        n1: 0,
        n2: 0,
        e1: 0,
        e2: 0,
        ratio,
        interval: None,
        value,
        limit,
        backend: None,
        lately: None,
    }
}

/// Puts values in the places of `{{service}}`, `{{version}}` and `{{interval}}`.
pub fn fill_in(template: &str, service: &str, version: &str, interval: Duration) -> String {
    let interval = format!("{}s", interval.as_secs().max(1));
    template.replace("{{service}}", service).replace("{{version}}", version).replace("{{interval}}", &interval)
}

/// The first placeholder of a template that means nothing, if there is one.
pub fn unknown_placeholder(template: &str) -> Option<&str> {
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        let from = &rest[start..];
        let end = from.find("}}").map_or(from.len(), |end| end + 2);
        let placeholder = &from[..end];
        if !["{{service}}", "{{version}}", "{{interval}}"].contains(&placeholder) {
            return Some(placeholder);
        }
        rest = &from[end..];
    }
    None
}

#[cfg(test)]
mod tests;
