//! What a decision rests on, and what the judge can say.

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

/// The figures behind one judgement. Kept with every decision, printed with every event.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// What was compared: `errors`, `latency`, `saturation`, `share`, `max_error_rate`, the name of a metric …
    pub signal: String,
    /// By which rule: `e-process`, `limit`, `fuse`, `query` …
    pub rule: String,
    /// What was counted of v1: connections or requests.
    pub n1: u64,
    /// The same of v2.
    pub n2: u64,
    /// How many of v1's were bad.
    pub e1: u64,
    /// How many of v2's were bad.
    pub e2: u64,
    /// v2's rate over v1's; `None` where it is undefined.
    pub ratio: Option<f64>,
    /// Where that ratio lies, at any time, at the confidence of the false-alarm budget.
    #[serde(serialize_with = "finite_interval")]
    pub interval: Option<(f64, f64)>,
    /// The evidence against the null hypothesis; or the value that was measured, for a limit.
    #[serde(serialize_with = "finite")]
    pub value: f64,
    /// What `value` must not reach.
    #[serde(serialize_with = "finite")]
    pub limit: f64,
    /// The backend that stands out among its version's, if one does.
    pub backend: Option<SocketAddr>,
    /// What of this is recent, where that is less than all: a fault that began late shows there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lately: Option<Lately>,
}

/// The counts of the last seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lately {
    /// How many seconds.
    pub seconds: u64,
    /// What was counted of v1.
    pub n1: u64,
    /// The same of v2.
    pub n2: u64,
    /// How many of v1's were bad.
    pub e1: u64,
    /// How many of v2's were bad.
    pub e2: u64,
}

/// JSON has no infinity: the largest number stands for it.
fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(clamped(*value))
}

fn finite_interval<S: Serializer>(interval: &Option<(f64, f64)>, serializer: S) -> Result<S::Ok, S::Error> {
    interval.map(|(low, high)| (clamped(low), clamped(high))).serialize(serializer)
}

/// What is no number at all says nothing, in favour of nobody.
fn clamped(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(-f64::MAX, f64::MAX) }
}

impl fmt::Display for Evidence {
    /// As events say it: `errors v2/v1 0.9 [0.6, 1.3] over 41,200 connections`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signal, rule, n1, n2, e1, e2, ratio, interval, value, limit, backend, lately } = self;
        match (ratio, interval) {
            (Some(ratio), Some((low, high))) => {
                write!(f, "{signal} v2/v1 {ratio:.1} [{low:.1}, {high:.1}] over {} connections", thousands(n1 + n2))?;
                write!(f, " (")?;
                write_counts(f, (*e2, *n2), (*e1, *n1))?;
                if let Some(Lately { seconds, n1, n2, e1, e2 }) = *lately {
                    write!(f, "; in the last {seconds} s ")?;
                    write_counts(f, (e2, n2), (e1, n1))?;
                }
                write!(f, ")")?;
            }
            _ if n1 + n2 > 0 => {
                write!(f, "{signal} by {rule}: {value:.4} (limit {limit:.4}) over {} connections", thousands(n1 + n2))?;
            }
            _ => write!(f, "{signal} by {rule}: {value:.4} (limit {limit:.4})")?,
        }
        match backend {
            Some(backend) => write!(f, ", most of them at {backend}"),
            None => Ok(()),
        }
    }
}

fn write_counts(f: &mut fmt::Formatter<'_>, v2: (u64, u64), v1: (u64, u64)) -> fmt::Result {
    let [e2, n2, e1, n1] = [v2.0, v2.1, v1.0, v1.1].map(thousands);
    write!(f, "v2 {e2} of {n2}, v1 {e1} of {n1}")
}

/// A number with commas, as people read it.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What the judge says of v2, of all that it has seen since the release began.
#[derive(Clone, PartialEq, Debug)]
pub enum Judgement {
    /// v2 is worse than v1, or breaks an absolute limit that v1 keeps.
    Harmful(Box<Evidence>),
    /// Both versions break an absolute limit, or fail alike: no reason to blame v2, and none to go on.
    BothBad(Box<Evidence>),
    /// The share of connections that v2 got is not the weight: what is measured cannot be trusted.
    Untrusted(Box<Evidence>),
    /// v2 is proven no worse than v1 by more than the margin, on every signal that can be judged.
    NoWorse(Box<Evidence>),
    /// Neither is proven.
    NotYet(NotYet),
}

impl Judgement {
    /// The figures behind it; `None` before there were any.
    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            Self::Harmful(evidence) | Self::BothBad(evidence) | Self::Untrusted(evidence) | Self::NoWorse(evidence) => {
                Some(evidence)
            }
            Self::NotYet(NotYet { evidence, .. }) => evidence.as_deref(),
        }
    }

    /// As in output, metrics and API.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Harmful(_) => "harmful",
            Self::BothBad(_) => "both-bad",
            Self::Untrusted(_) => "untrusted",
            Self::NoWorse(_) => "no-worse",
            Self::NotYet(_) => "not-yet",
        }
    }
}

/// How far a judgement is away.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NotYet {
    /// The figures so far, of the signal that is farthest behind; `None` before there were any.
    pub evidence: Option<Box<Evidence>>,
    /// More connections, of both versions, until v2 is proven no worse if it is as good as v1; `None` where no number is
    /// enough, or it cannot be told.
    pub samples: Option<u64>,
    /// The time for them at the present rate and weight.
    pub time: Option<Duration>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of errors that prove nothing.
    pub(crate) fn sample() -> Evidence {
        Evidence {
            signal: "errors".to_owned(),
            rule: "e-process".to_owned(),
            n1: 31_000,
            n2: 10_200,
            e1: 310,
            e2: 92,
            ratio: Some(0.9),
            interval: Some((0.6, 1.3)),
            value: 0.2,
            limit: 100.0,
            backend: None,
            lately: None,
        }
    }

    #[test]
    fn evidence_reads_as_a_sentence() {
        let evidence = sample();
        let said = "errors v2/v1 0.9 [0.6, 1.3] over 41,200 connections (v2 92 of 10,200, v1 310 of 31,000)";
        assert_eq!(evidence.to_string(), said);
        let late = Lately { seconds: 20, n1: 1000, n2: 330, e1: 10, e2: 33 };
        let worse_of_late = Evidence { lately: Some(late), ..evidence.clone() };
        let said_of_late = said.replace(')', "; in the last 20 s v2 33 of 330, v1 10 of 1,000)");
        assert_eq!(worse_of_late.to_string(), said_of_late);
        let one_backend = Evidence { backend: Some(([10, 0, 0, 7], 80).into()), ..evidence };
        assert_eq!(one_backend.to_string(), format!("{said}, most of them at 10.0.0.7:80"));
    }

    #[test]
    fn evidence_survives_the_way_through_json_whatever_its_numbers() {
        let evidence = Evidence {
            signal: "errors".to_owned(),
            rule: "e-process".to_owned(),
            n1: u64::MAX,
            n2: 1,
            e1: 0,
            e2: 1,
            ratio: None,
            interval: Some((0.1, f64::INFINITY)),
            value: f64::INFINITY,
            limit: f64::NAN,
            backend: Some(([10, 0, 0, 7], 80).into()),
            lately: Some(Lately { seconds: 1, n1: 0, n2: 0, e1: 0, e2: u64::MAX }),
        };
        let json = serde_json::to_string(&evidence).expect("writable");
        let read: Evidence = serde_json::from_str(&json).expect("readable");
        let expected = Evidence { interval: Some((0.1, f64::MAX)), value: f64::MAX, limit: 0.0, ..evidence };
        assert_eq!(read, expected);
    }

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
