//! What has been seen so far, by request.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use grayxdp_tests::{
    load::{Event, Kind, Sample},
    topology::Version,
};

/// Over how long the live share is taken.
const RECENT: Duration = Duration::from_secs(1);
/// Causes of failures that are kept for the summary.
const CAUSES_MAX: usize = 5;

#[derive(Debug, Default)]
pub(crate) struct Record {
    /// All requests, failed ones too.
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// The first few causes.
    pub(crate) causes: Vec<String>,
    /// Requests on connections of their own.
    pub(crate) short: Vec<Sample>,
    pub(crate) keep_alive_requests: u64,
    /// Keep-alive connections and where they began; a moved one is a failure.
    pub(crate) keep_alive: BTreeMap<usize, Version>,
    pub(crate) slowest: Duration,
    failures: Vec<Instant>,
    recent: VecDeque<(Instant, Version)>,
}

impl Record {
    pub(crate) fn take(&mut self, events: Vec<Event>) {
        for event in events {
            self.requests += 1;
            match event {
                Event::Failed { started, cause } => {
                    self.failed += 1;
                    self.failures.push(started);
                    if self.causes.len() < CAUSES_MAX {
                        self.causes.push(cause);
                    }
                }
                Event::Answered(sample) => self.take_sample(sample),
            }
        }
    }

    /// Share of v2 among the latest new connections, in percent, and their number.
    pub(crate) fn recent_share(&mut self, now: Instant) -> Option<(f64, usize)> {
        while self.recent.front().is_some_and(|(connected, _)| now.duration_since(*connected) > RECENT) {
            self.recent.pop_front();
        }
        let count = self.recent.len();
        let v2 = self.recent.iter().filter(|(_, version)| *version == Version::V2).count();
        (count > 0).then(|| (100.0 * v2 as f64 / count as f64, count))
    }

    /// Failed requests that began from this moment on.
    pub(crate) fn failed_since(&self, moment: Instant) -> u64 {
        self.failures.iter().filter(|started| **started >= moment).count() as u64
    }

    pub(crate) fn keep_alive_on(&self, version: Version) -> usize {
        self.keep_alive.values().filter(|began| **began == version).count()
    }

    fn take_sample(&mut self, sample: Sample) {
        self.slowest = self.slowest.max(sample.finished - sample.started);
        match sample.kind {
            Kind::Short => {
                self.recent.push_back((sample.connected, sample.version));
                self.short.push(sample);
            }
            Kind::KeepAlive { connection } => {
                self.keep_alive_requests += 1;
                self.keep_alive.entry(connection).or_insert(sample.version);
            }
        }
    }
}
