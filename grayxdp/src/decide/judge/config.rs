//! What the judge goes by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{comparison::Kind, ratio::Bounds};

/// Two racks are farther apart than this.
const HANDSHAKE_SLACK: Duration = Duration::from_millis(1);

/// What the judge goes by. [`JudgeConfig::default`] says each default, and why.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// How likely a release whose v2 is as good as v1 may be blamed, by all tests together and however often one looks;
    /// between 0 and 1. Default 1 %.
    pub false_alarm: f64,
    /// v2's error rate may be so many times v1's; at least 1. Default 1: two equal versions stay within `false_alarm`
    /// exactly, and what is more than that is worse. With very many connections, differences that nobody minds are found,
    /// too; 1.1 leaves them alone, and finds errors that are half as many again in about twice the time.
    pub tolerate: f64,
    /// The same of the share of responses that are slower than v1's median, 90th and 99th percentile; at least 1.
    /// Default 1.02: no two builds are equally fast, which errors can be.
    pub tolerate_latency: f64,
    /// Responses may take so much longer on v2 before they count as slow; at most 1 s. Default 250 µs: with enough of them
    /// even the cold caches of a server with little traffic would be found, and nobody minds those. For handshakes, which
    /// tell of the way more than of the version, it is at least 1 ms.
    pub negligible_latency: Duration,
    /// v2 is no worse when its rate is proven to be below so many times v1's; more than `tolerate`. Default 1.5.
    pub margin: f64,
    /// A rate that is proven to be below this one is good, whatever v1's is: where errors are very rare, a ratio could not
    /// be proven in days. Between 0 and 1. Default 0.1 %.
    pub negligible: f64,
    /// No more of v2's connections, or peeked responses, may fail than this part; 0 to 1. Default none.
    pub max_error_rate: Option<f64>,
    /// No more than 1 % of v2's responses may take longer. Default none.
    pub max_p99: Option<Duration>,
    /// Clients are placed by their address, so that a client's errors fall on one version together. Default yes.
    pub correlated: bool,
    /// Responses are peeked into. Default no.
    pub peeks: bool,
    /// Replies do not pass here: unanswered connections and clients' resets are all that can be compared. Default no.
    #[serde(default)]
    pub one_sided: bool,
    /// How long after its connection began an error may be seen. Default 15 s.
    pub lag: Duration,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            false_alarm: 0.01,
            tolerate: 1.0,
            tolerate_latency: 1.02,
            negligible_latency: Duration::from_micros(250),
            margin: 1.5,
            negligible: 0.001,
            max_error_rate: None,
            max_p99: None,
            correlated: true,
            peeks: false,
            one_sided: false,
            lag: Duration::from_secs(15),
        }
    }
}

impl JudgeConfig {
    /// Whether this can be compared.
    pub(super) const fn sees(&self, kind: Kind) -> bool {
        match kind {
            Kind::Errors => true,
            Kind::ClientResets => self.one_sided,
            Kind::Answers => self.peeks && !self.one_sided,
            _ => !self.one_sided,
        }
    }

    /// What would be judged if replies passed here, by the names that evidence has for it.
    pub fn unseen(&self) -> Vec<&'static str> {
        let seen = Self { one_sided: false, ..*self };
        let kinds = Kind::ALL.into_iter().filter(|kind| seen.sees(*kind) && !self.sees(*kind)).map(Kind::name);
        kinds.chain((self.one_sided && self.max_p99.is_some()).then_some("max_p99")).collect()
    }

    /// What a comparison goes by.
    pub(super) const fn bounds(&self, kind: Kind) -> Bounds {
        Bounds {
            tolerate: if kind.is_latency() { self.tolerate_latency } else { self.tolerate },
            margin: self.margin,
            negligible: self.negligible,
            alpha: self.false_alarm,
        }
    }

    /// How much longer v2's may take before it counts as slow.
    pub(super) fn slack(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Handshake => self.negligible_latency.max(HANDSHAKE_SLACK),
            _ => self.negligible_latency,
        }
    }
}
