//! One signal of both versions, compared.

use std::time::Duration;

use grayxdp_common::histogram::{bucket_of, lower_bound_us};
use serde::{Deserialize, Serialize};

use super::{
    config::JudgeConfig,
    cuts::{CUTS, Cuts},
    dispersion::Residual,
    mixture::log_sum,
    ratio::{Bounds, Counted, RatioTest, Share},
};
use crate::decide::signals::{Counts, Histogram, Overdue, Signals};

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Kind {
    Errors,
    Answers,
    FirstResponse,
    LaterResponse,
    Handshake,
    ZeroWindows,
    Retransmissions,
    /// Connections that their clients gave up: no error by itself, but where replies do not pass there is little else.
    ClientResets,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Errors,
        Self::Answers,
        Self::FirstResponse,
        Self::LaterResponse,
        Self::Handshake,
        Self::ZeroWindows,
        Self::Retransmissions,
        Self::ClientResets,
    ];

    /// As in evidence.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Answers => "answers",
            Self::FirstResponse => "latency-first",
            Self::LaterResponse => "latency-later",
            Self::Handshake => "latency-handshake",
            Self::ZeroWindows => "zero-windows",
            Self::Retransmissions => "retransmissions",
            Self::ClientResets => "client-resets",
        }
    }

    /// Its part of the budget, before it is scaled to what there is. What tells most gets most.
    pub(super) const fn budget(self) -> f64 {
        match self {
            Self::Errors => 0.86,
            Self::Answers => 0.28,
            Self::FirstResponse => 0.08,
            Self::ClientResets => 0.11,
            Self::LaterResponse => 0.03,
            Self::Handshake => 0.015,
            Self::ZeroWindows | Self::Retransmissions => 0.0075,
        }
    }

    pub(super) const fn is_latency(self) -> bool {
        matches!(self, Self::FirstResponse | Self::LaterResponse | Self::Handshake)
    }

    /// φ before it is known. Windows that close and segments that get lost do not come alone; nor do slow responses, which
    /// wait in one queue, and clients that are tired of waiting for them.
    const fn dispersion_prior(self) -> f64 {
        match self {
            Self::ZeroWindows | Self::Retransmissions => 5.0,
            Self::FirstResponse | Self::LaterResponse | Self::ClientResets => 2.0,
            _ => 1.0,
        }
    }

    fn histogram(self, signals: &Signals) -> &Histogram {
        match self {
            Self::LaterResponse => &signals.later_response,
            Self::Handshake => &signals.handshake,
            _ => &signals.first_response,
        }
    }

    /// Turns that have had no answer for so long that they are slow, whatever becomes of them. Without these a version that
    /// answers nothing any more would have no slow answer either. First turns only, as a rule: each is of a connection that
    /// the weight has placed. Other turns may need no answer, unless responses are peeked into, and old connections are v1's.
    const fn overdue(self, counts: &Counts) -> Overdue {
        match self {
            Self::FirstResponse => {
                Overdue { found: counts.overdue_waiting + counts.overdue_gone, answered: counts.overdue_answered }
            }
            _ => Overdue::NONE,
        }
    }

    /// What could go bad, and what did; of latencies only what is known without histograms.
    pub(super) const fn counts(self, counts: &Counts) -> (u64, u64) {
        match self {
            Self::Errors => (counts.flows, counts.transport_errors()),
            Self::Answers => {
                let bad = counts.answers_server_error;
                (counts.answers_good + counts.answers_client_error + bad, bad)
            }
            Self::ZeroWindows => {
                let segments = counts.watched_segments;
                (if segments > counts.responses { segments } else { counts.responses }, counts.zero_windows)
            }
            Self::Retransmissions => (counts.watched_segments, counts.retransmissions),
            Self::ClientResets => (counts.established, counts.client_resets),
            Self::FirstResponse | Self::LaterResponse | Self::Handshake => {
                (counts.established, self.overdue(counts).found)
            }
        }
    }
}

/// Evidence of a factor of 7 is worth being shown.
const TELLING: f64 = 2.0;

/// A signal's evidence.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Comparison {
    pub(super) kind: Kind,
    /// One; of a latency one for each cut.
    tests: Vec<Line>,
    cuts: Option<Cuts>,
}

/// One test, and how its bad ones are dispersed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Line {
    ratio: RatioTest,
    residual: Residual,
}

/// What a tick says besides its counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// How long it was.
    pub(super) elapsed: Duration,
    /// Of connections, with those that may fail later; `None` where there were none.
    pub(super) flows_share: Option<Share>,
    /// Connections of v2 that have had their time to fail.
    pub(super) past: f64,
    /// The weight has fallen of late.
    pub(super) fell: bool,
    /// φ of errors by groups of clients; one where connections are independent.
    pub(super) of_errors: f64,
    /// The same where a client's responses are no more independent than clients are.
    pub(super) of_answers: f64,
}

impl Comparison {
    pub(super) fn new(kind: Kind) -> Self {
        let line = Line { ratio: RatioTest::new(), residual: Residual::new(kind.dispersion_prior()) };
        let tests = if kind.is_latency() { CUTS } else { 1 };
        Self { kind, tests: vec![line; tests], cuts: kind.is_latency().then(Cuts::default) }
    }

    /// Takes a tick in.
    pub(super) fn absorb(&mut self, config: &JudgeConfig, v1: &Signals, v2: &Signals, around: &Circumstances) {
        let bounds = &config.bounds(self.kind);
        self.tests.iter_mut().for_each(|line| line.ratio.pass(around.elapsed));
        if let Some(cuts) = &mut self.cuts {
            let (one, two) = (self.kind.histogram(v1), self.kind.histogram(v2));
            let (n1, n2) = (one.count(), two.count());
            let overdue = (self.kind.overdue(&v1.counts), self.kind.overdue(&v2.counts));
            if n1 + n2 + overdue.0.found + overdue.1.found == 0 {
                return;
            }
            if let Some(cuts) = cuts.known() {
                // Slow answers are still to come from connections of a time when v2 had more.
                if !around.fell {
                    let slack = config.slack(self.kind);
                    for (line, &cut) in self.tests.iter_mut().zip(cuts) {
                        let cut2 = later(cut, slack);
                        let (of_v1, of_v2) = (overdue.0.beyond(cut2), overdue.1.beyond(cut2));
                        let (e1, e2) = (of_v1.with(one.count_from(cut)), of_v2.with(two.count_from(cut2)));
                        let counted = Counted { n1: of_v1.with(n1), n2: of_v2.with(n2), e1, e2 };
                        line.absorb(bounds, &counted, 1.0);
                    }
                }
            }
            cuts.learn(one, n1);
            return;
        }
        let ((n1, e1), (n2, e2)) = (self.kind.counts(&v1.counts), self.kind.counts(&v2.counts));
        let counted = Counted { n1, n2, e1, e2 };
        let Some(line) = self.tests.first_mut() else { return };
        match (self.kind, around.flows_share) {
            (Kind::Errors, Some(share)) => line.ratio.absorb(bounds, &counted, share, around.past, around.of_errors),
            // Errors without connections to hold them against.
            (Kind::Errors, None) => {}
            // A client resets when it is through, long after its connection was counted.
            (Kind::ClientResets, Some(share)) => {
                let dispersion = line.residual.value().max(around.of_answers);
                line.ratio.absorb(bounds, &counted, share, around.past, dispersion);
                line.residual.absorb(e2 as f64, e1 as f64 + e2 as f64, counted.all(), share.mean);
            }
            (Kind::ClientResets, None) => {}
            (Kind::Answers, _) if around.fell => {}
            (Kind::Answers, _) => line.absorb(bounds, &counted, around.of_answers),
            _ => line.absorb(bounds, &counted, 1.0),
        }
    }

    /// The logarithm of the evidence that v2 is worse: the mean over the cuts.
    pub(super) fn log_worse(&self) -> f64 {
        let sum = self.tests.iter().map(|line| line.ratio.log_worse()).fold(f64::NEG_INFINITY, log_sum);
        sum - (self.tests.len() as f64).ln()
    }

    /// The logarithm of the evidence that v2 is no worse, at the cut where there is least of it, and that cut's test.
    pub(super) fn log_no_worse(&self) -> Option<(f64, &RatioTest)> {
        let with_value = self.tests.iter().map(|line| (line.ratio.log_no_worse(), &line.ratio));
        with_value.min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// The test to show where v2 is blamed: of those with some evidence against it, the one whose ratio most surely exceeds
    /// one. Where all slow responses are very slow ones, the median's test may have as much evidence as the others, of a
    /// ratio that says little.
    pub(super) fn worst(&self, config: &JudgeConfig) -> Option<&RatioTest> {
        let most = self.tests.iter().map(|line| line.ratio.log_worse()).fold(f64::NEG_INFINITY, f64::max);
        let lowest = |test: &RatioTest| test.ledger().ratio(config.false_alarm).map_or(0.0, |(_, (low, _))| low);
        let shown = self.tests.iter().filter(|line| line.ratio.log_worse() >= most.min(TELLING));
        shown.map(|line| &line.ratio).max_by(|a, b| lowest(a).total_cmp(&lowest(b)))
    }

    /// What was counted of late is not shown as that; see [`super::recent::Recent::forget`].
    pub(super) fn forget_lately(&mut self, is_next_doubtful: bool) {
        self.tests.iter_mut().for_each(|line| line.ratio.forget_lately(is_next_doubtful));
    }

    /// How many things it has compared.
    pub(super) fn counted(&self) -> Counted {
        self.tests.first().map(|line| line.ratio.ledger().counted()).unwrap_or_default()
    }

    /// φ from tick to tick, without that of groups.
    pub(super) fn dispersion(&self) -> f64 {
        self.tests.iter().map(|line| line.residual.value()).fold(1.0, f64::max)
    }
}

impl Line {
    /// What goes bad as soon as it is counted: v2's share is that of the tick.
    fn absorb(&mut self, bounds: &Bounds, counted: &Counted, of_groups: f64) {
        let Some(share) = counted.share() else { return };
        let bad = Counted { e1: counted.e1.min(counted.n1), e2: counted.e2.min(counted.n2), ..*counted };
        let dispersion = self.residual.value().max(of_groups);
        let among = bad.n2 as f64;
        self.ratio.absorb(bounds, &bad, Share { among: Some(among), ..Share::exactly(share) }, among, dispersion);
        self.residual.absorb(bad.e2 as f64, bad.e1 as f64 + bad.e2 as f64, bad.all(), share);
    }
}

/// The bucket whose begin is nearest to so much after another's. Where buckets are wide beside that, it is the same one:
/// times that long are not told apart so finely.
fn later(bucket: usize, slack: Duration) -> usize {
    let wanted = u128::from(lower_bound_us(bucket)) + slack.as_micros();
    let before = bucket_of(u32::try_from(wanted).unwrap_or(u32::MAX)).max(bucket);
    let begin = |bucket: usize| u128::from(lower_bound_us(bucket));
    if wanted.saturating_sub(begin(before)) * 2 > begin(before + 1) - begin(before) { before + 1 } else { before }
}

#[cfg(test)]
mod tests {
    use grayxdp_common::histogram::HISTOGRAM_BUCKETS;

    use super::*;

    #[test]
    fn slow_is_later_by_the_slack_as_finely_as_buckets_tell() {
        for (cut, slack_us, expected) in [(100, 0, 100), (100, 250, 350), (1000, 250, 1250), (20_000, 250, 20_000)] {
            let found = later(bucket_of(cut), Duration::from_micros(slack_us));
            let off = lower_bound_us(found).abs_diff(expected);
            assert!(off <= expected / 12, "{cut} + {slack_us}: {}", lower_bound_us(found));
            assert!(found >= bucket_of(cut));
        }
        assert_eq!(later(bucket_of(20_000), Duration::from_micros(250)), bucket_of(20_000));
        assert_eq!(later(HISTOGRAM_BUCKETS, Duration::ZERO), HISTOGRAM_BUCKETS);
    }
}
