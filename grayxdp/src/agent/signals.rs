//! From the kernel's counters to what a release is judged by. Pure: time is an argument, and what is read is cumulative.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use grayxdp_common::{ids::Version, layout::BackendCounters};

use crate::kernel::BackendReading;

/// How far back the measured share looks.
pub(super) const SHARE_WINDOW: Duration = Duration::from_secs(10);

/// The sums of a service's backends, by version.
pub(super) fn version_sums(readings: &[BackendReading], service: usize) -> [BackendCounters; 2] {
    let mut sums = [BackendCounters::default(); 2];
    for reading in readings.iter().filter(|reading| reading.service == service) {
        let sum = sum_of(&mut sums, reading.version);
        *sum = sum.plus(reading.counters);
    }
    sums
}

fn sum_of<T>(both: &mut [T; 2], version: Version) -> &mut T {
    let [v1, v2] = both;
    match version {
        Version::V1 => v1,
        Version::V2 => v2,
    }
}

/// What a counter is of.
type Source = (usize, Version, SocketAddr);

/// New flows of the last seconds, by service and version.
#[derive(Debug)]
pub(super) struct ShareWindow {
    length: Duration,
    last_readings: HashMap<Source, u64>,
    growths: VecDeque<Growth>,
}

/// What came between two readings.
#[derive(Debug)]
struct Growth {
    until: Duration,
    new_flows: HashMap<usize, [u64; 2]>,
}

impl ShareWindow {
    /// An empty window of this length.
    pub(super) fn new(length: Duration) -> Self {
        Self { length, last_readings: HashMap::new(), growths: VecDeque::new() }
    }

    /// Takes readings in, made at this moment (any clock that does not go back).
    ///
    /// The first reading of a counter is only where counting begins: it holds flows from before the window. A counter
    /// that has fallen was reset, and what it shows has come since.
    pub(super) fn observe(&mut self, at: Duration, readings: &[BackendReading]) {
        let mut growth = Growth { until: at, new_flows: HashMap::new() };
        for reading in readings {
            let source = (reading.service, reading.version, reading.address);
            let now = reading.counters.new_flows;
            if let Some(before) = self.last_readings.insert(source, now) {
                let grown = now.checked_sub(before).unwrap_or(now);
                let counts = growth.new_flows.entry(reading.service).or_default();
                *sum_of(counts, reading.version) += grown;
            }
        }
        self.growths.push_back(growth);
        let oldest = at.saturating_sub(self.length);
        // A growth lies in the window if it ended after the window's start.
        while self.growths.front().is_some_and(|growth| growth.until <= oldest) {
            self.growths.pop_front();
        }
    }

    /// Percent of a service's new flows that went to v2; `None` when there were no new flows.
    pub(super) fn measured_share(&self, service: usize) -> Option<f64> {
        let counts = self.growths.iter().filter_map(|growth| growth.new_flows.get(&service));
        let [v1, v2] = counts.fold([0u64; 2], |[v1, v2], &[more_v1, more_v2]| [v1 + more_v1, v2 + more_v2]);
        let all = v1 + v2;
        (all > 0).then(|| 100.0 * v2 as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(service: usize, version: Version, port: u16, new_flows: u64) -> BackendReading {
        BackendReading {
            service,
            version,
            address: SocketAddr::from(([10, 0, 0, 1], port)),
            counters: BackendCounters { new_flows, packets_in: 2 * new_flows, ..BackendCounters::default() },
        }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn sums_keep_services_and_versions_apart() {
        let readings = [
            reading(0, Version::V1, 1, 5),
            reading(0, Version::V1, 2, 7),
            reading(0, Version::V2, 3, 1),
            reading(1, Version::V2, 4, 100),
        ];
        let [v1, v2] = version_sums(&readings, 0);
        assert_eq!((v1.new_flows, v1.packets_in, v2.new_flows), (12, 24, 1));
        assert_eq!(version_sums(&readings, 2), [BackendCounters::default(); 2]);
    }

    #[test]
    fn the_first_reading_only_sets_where_counting_begins() {
        let mut window = ShareWindow::new(SHARE_WINDOW);
        window.observe(S * 100, &[reading(0, Version::V1, 1, 1_000_000), reading(0, Version::V2, 2, 5)]);
        assert_eq!(window.measured_share(0), None);
        window.observe(S * 101, &[reading(0, Version::V1, 1, 1_000_075), reading(0, Version::V2, 2, 30)]);
        assert_eq!(window.measured_share(0), Some(25.0));
        assert_eq!(window.measured_share(1), None);
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut window = ShareWindow::new(SHARE_WINDOW);
        window.observe(S, &[reading(0, Version::V1, 1, 0), reading(0, Version::V2, 2, 0)]);
        window.observe(S * 2, &[reading(0, Version::V1, 1, 100), reading(0, Version::V2, 2, 0)]);
        window.observe(S * 3, &[reading(0, Version::V1, 1, 100), reading(0, Version::V2, 2, 100)]);
        assert_eq!(window.measured_share(0), Some(50.0));
        window.observe(S * 12, &[reading(0, Version::V1, 1, 100), reading(0, Version::V2, 2, 100)]);
        assert_eq!(window.measured_share(0), Some(100.0));
        window.observe(S * 13, &[reading(0, Version::V1, 1, 100), reading(0, Version::V2, 2, 100)]);
        assert_eq!(window.measured_share(0), None);
        assert!(window.growths.len() <= 2, "the window does not grow for ever");
    }

    #[test]
    fn a_counter_that_fell_was_reset() {
        let mut window = ShareWindow::new(SHARE_WINDOW);
        window.observe(S, &[reading(0, Version::V1, 1, 1000), reading(0, Version::V2, 2, 1000)]);
        window.observe(S * 2, &[reading(0, Version::V1, 1, 30), reading(0, Version::V2, 2, 1010)]);
        assert_eq!(window.measured_share(0), Some(25.0));
    }
}
