//! What webhooks get: CloudEvents 1.0, in the structured JSON form.
//! Format: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.

use std::{
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use serde::{Serialize, Serializer};

use crate::{
    decide::{
        controller::Release,
        evidence::{Evidence, Lately},
        external::hook::Raise,
    },
    percent::percent,
};

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/json";

/// What an event is about; part of its type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::agent) enum Kind {
    /// May the weight be raised? The answer decides.
    Question,
    /// Something was decided, by this name: `weight_changed`, `rollback` …
    Decision(String),
}

/// One event. Its type is `grayxdp.release.question` or `grayxdp.release.NAME`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(in crate::agent) struct CloudEvent {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type", serialize_with = "type_name")]
    kind: Kind,
    subject: String,
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    datacontenttype: &'static str,
    data: Data,
}

/// The event's own contents.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(in crate::agent) struct Data {
    /// From the config.
    pub(in crate::agent) service: String,
    /// Where the release stands.
    pub(in crate::agent) state: String,
    /// v2's mean weight before, in percent.
    pub(in crate::agent) from: f64,
    /// And after.
    pub(in crate::agent) to: f64,
    /// A sentence.
    pub(in crate::agent) reason: String,
    /// Who or what is behind it.
    pub(in crate::agent) actor: String,
    /// The figures behind it, if it rests on any.
    pub(in crate::agent) evidence: Option<EvidenceData>,
}

/// [`Evidence`], for programs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(in crate::agent) struct EvidenceData {
    metric: String,
    rule: String,
    n1: u64,
    n2: u64,
    e1: u64,
    e2: u64,
    ratio: Option<f64>,
    ci: Option<(f64, f64)>,
    value: f64,
    limit: f64,
    backend: Option<String>,
    lately: Option<Lately>,
    sentence: String,
}

impl From<&Evidence> for EvidenceData {
    fn from(evidence: &Evidence) -> Self {
        Self {
            metric: evidence.signal.clone(),
            rule: evidence.rule.clone(),
            n1: evidence.n1,
            n2: evidence.n2,
            e1: evidence.e1,
            e2: evidence.e2,
            ratio: evidence.ratio,
            ci: evidence.interval,
            value: evidence.value,
            limit: evidence.limit,
            backend: evidence.backend.map(|address| address.to_string()),
            lately: evidence.lately,
            sentence: evidence.to_string(),
        }
    }
}

impl CloudEvent {
    /// An event of this moment. Its id is unique among all of this host.
    pub(in crate::agent) fn new(host: &str, kind: Kind, time: SystemTime, data: Data) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            specversion: SPEC_VERSION,
            id: format!("{host}-{}-{since}-{number}", process::id()),
            source: format!("/grayxdp/{host}"),
            kind,
            subject: data.service.clone(),
            time,
            datacontenttype: CONTENT_TYPE,
            data,
        }
    }
}

impl Data {
    /// About a raise that is due.
    pub(in crate::agent) fn of_raise(service: &str, state: &str, raise: Raise, reason: String) -> Self {
        Self {
            service: service.to_owned(),
            state: state.to_owned(),
            from: percent(raise.from),
            to: percent(raise.to),
            reason,
            actor: "schedule".to_owned(),
            evidence: None,
        }
    }

    /// About a change that was made.
    pub(in crate::agent) fn of_change(
        service: &str,
        before: &Release,
        after: &Release,
        actor: &str,
        evidence: Option<&Evidence>,
    ) -> Self {
        Self {
            service: service.to_owned(),
            state: after.state.name().to_owned(),
            from: percent(before.weights.mean()),
            to: percent(after.weights.mean()),
            reason: after.reason.clone(),
            actor: actor.to_owned(),
            evidence: evidence.map(EvidenceData::from),
        }
    }
}

fn type_name<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    let name = match kind {
        Kind::Question => "question",
        Kind::Decision(name) => name,
    };
    serializer.collect_str(&format_args!("grayxdp.release.{name}"))
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}
