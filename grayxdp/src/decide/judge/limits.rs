//! Absolute limits: guard rails that v2 must keep, and that say nothing against it where v1 breaks them alike.

use grayxdp_common::histogram::{HISTOGRAM_BUCKETS, bucket_of, lower_bound_us};
use serde::{Deserialize, Serialize};

use super::{JudgeConfig, comparison::Kind, one_sided::TooHigh};
use crate::decide::signals::{Counts, Overdue, Signals};

/// So many of all responses may be beyond `max_p99`.
const SLOW_MOST: f64 = 0.01;

/// Which limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum LimitKind {
    Errors,
    Answers,
    P99,
}

impl LimitKind {
    /// As in evidence.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Errors | Self::Answers => "max_error_rate",
            Self::P99 => "max_p99",
        }
    }

    /// Its part of the budget, before it is scaled to what there is.
    pub(super) const fn budget(self) -> f64 {
        match self {
            Self::Errors | Self::P99 => 0.04,
            Self::Answers => 0.02,
        }
    }
}

/// A limit, and the evidence that each version breaks it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) kind: LimitKind,
    /// The highest part that may go bad.
    pub(super) most: f64,
    /// For [`LimitKind::P99`]: the bucket from which on a response is too slow.
    bucket: usize,
    /// For [`LimitKind::P99`]: whether what a client sends first needs an answer, so that one that is overdue is too slow.
    takes_overdue: bool,
    pub(super) v1: TooHigh,
    pub(super) v2: TooHigh,
}

impl Limit {
    /// Those that are set.
    pub(super) fn all(config: &JudgeConfig) -> Vec<Self> {
        let takes_overdue = config.peeks;
        let new =
            |kind, most, bucket| Self { kind, most, bucket, takes_overdue, v1: TooHigh::new(), v2: TooHigh::new() };
        let errors = config.max_error_rate.map(|most| new(LimitKind::Errors, most, 0));
        let answers =
            config.max_error_rate.filter(|_| config.sees(Kind::Answers)).map(|most| new(LimitKind::Answers, most, 0));
        let p99 = config.max_p99.filter(|_| config.sees(Kind::FirstResponse)).map(|longest| {
            let us = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
            let bucket = bucket_of(us);
            // What is in the limit's own bucket may have kept it.
            let begins_there = lower_bound_us(bucket) > u64::from(us);
            new(LimitKind::P99, SLOW_MOST, if begins_there { bucket } else { (bucket + 1).min(HISTOGRAM_BUCKETS) })
        });
        errors.into_iter().chain(answers).chain(p99).collect()
    }

    /// Takes a tick in. No more evidence than the cap is kept, so that better times take it back.
    pub(super) fn absorb(&mut self, v1: &Signals, v2: &Signals, of_errors: f64, cap: f64) {
        let dispersion = if self.kind == LimitKind::P99 { 1.0 } else { of_errors };
        for (version, signals) in [(&mut self.v1, v1), (&mut self.v2, v2)] {
            let (n, e) = match self.kind {
                LimitKind::Errors => (signals.counts.flows, signals.counts.transport_errors()),
                LimitKind::Answers => {
                    let bad = signals.counts.answers_server_error;
                    (signals.counts.answers_good + signals.counts.answers_client_error + bad, bad)
                }
                LimitKind::P99 => {
                    let (first, later) = (&signals.first_response, &signals.later_response);
                    let slow = first.count_from(self.bucket) + later.count_from(self.bucket);
                    // Not those whose client has gone: it may have done so at once.
                    let Counts { overdue_waiting: found, overdue_answered: answered, .. } = signals.counts;
                    let overdue = if self.takes_overdue { Overdue { found, answered } } else { Overdue::NONE };
                    let overdue = overdue.beyond(self.bucket);
                    (overdue.with(first.count() + later.count()), overdue.with(slow))
                }
            };
            version.absorb(n, e, self.most, dispersion, cap);
        }
    }

    /// Whether v1 is no better off: there is evidence against it, too, or its rate of late is above the limit.
    pub(super) fn v1_breaks_it_too(&self) -> bool {
        self.v1.log_value() > 1.0 || self.v1.rate() > self.most
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_limits_that_are_set_are_watched() {
        let kinds = |config: &JudgeConfig| Limit::all(config).iter().map(|limit| limit.kind).collect::<Vec<_>>();
        let none = JudgeConfig::default();
        let all = JudgeConfig {
            max_error_rate: Some(0.01),
            max_p99: Some(Duration::from_millis(100)),
            peeks: true,
            ..JudgeConfig::default()
        };
        assert_eq!(kinds(&none), []);
        assert_eq!(kinds(&all), [LimitKind::Errors, LimitKind::Answers, LimitKind::P99]);
    }

    #[test]
    fn responses_in_the_limits_own_bucket_keep_it() {
        let config = JudgeConfig { max_p99: Some(Duration::from_millis(100)), ..JudgeConfig::default() };
        let mut limit = Limit::all(&config).pop().expect("one");
        let mut at_limit = Signals::default();
        at_limit.first_response.record_us(100_000, 1000);
        let mut beyond = Signals::default();
        beyond.later_response.record_us(120_000, 1000);
        limit.absorb(&at_limit, &beyond, 1.0, 9.0);
        assert_eq!((limit.v1.counted(), limit.v2.counted()), ((1000, 0), (1000, 1000)));
    }

    #[test]
    fn what_is_overdue_is_beyond_the_limit_once_where_it_needs_an_answer_and_that_is_certain() {
        let peeking = JudgeConfig { max_p99: Some(Duration::from_millis(100)), peeks: true, ..JudgeConfig::default() };
        let lenient = JudgeConfig { max_p99: Some(Duration::from_secs(4)), ..peeking };
        // Five were found, three of which are answered later; nine had been left by their clients.
        let found = Signals {
            counts: Counts { overdue_waiting: 5, overdue_gone: 9, ..Counts::default() },
            ..Signals::default()
        };
        let mut answered =
            Signals { counts: Counts { overdue_answered: 3, ..Counts::default() }, ..Signals::default() };
        answered.first_response.record_us(5_000_000, 3);
        answered.first_response.record_us(1_000, 10);
        for (config, expected) in
            [(peeking, (15, 5)), (lenient, (13, 3)), (JudgeConfig { peeks: false, ..peeking }, (13, 3))]
        {
            let mut limit = Limit::all(&config).pop().expect("one");
            for signals in [&found, &answered] {
                limit.absorb(signals, signals, 1.0, 9.0);
            }
            assert_eq!(limit.v2.counted(), expected, "{config:?}");
        }
    }

    #[test]
    fn v1_breaks_a_limit_too_when_its_rate_is_as_high() {
        let config = JudgeConfig { max_error_rate: Some(0.01), ..JudgeConfig::default() };
        for (v1_errors, expected) in [(0, false), (50, false), (200, true), (5000, true)] {
            let mut limit = Limit::all(&config).pop().expect("one");
            let v1 = Signals {
                counts: Counts { flows: 10_000, refused: v1_errors, ..Counts::default() },
                ..Signals::default()
            };
            limit.absorb(&v1, &Signals::default(), 1.0, 9.0);
            assert_eq!(limit.v1_breaks_it_too(), expected, "{v1_errors}");
        }
    }
}
