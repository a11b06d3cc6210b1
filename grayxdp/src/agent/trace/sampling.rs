//! How many packets to leave out between two that are traced. Pure.

use std::time::{Duration, Instant};

use super::ADAPT_EVERY;

/// Packets a second that an automatic rate aims at, at most.
const WANTED_PER_SECOND: f64 = 500.0;
/// How long the traffic is measured before an automatic trace begins.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The least rate: one in a million.
const ONE_IN_MAX: u32 = 1 << 20;

/// A rate of samples: as it was asked for, or after the traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sampling {
    is_automatic: bool,
    one_in: Option<u32>,
    measured_at: Instant,
    /// Packets up to then.
    packets: u64,
}

impl Sampling {
    /// `packets` is what the host has seen up to now.
    pub(super) fn new(one_in: Option<u32>, now: Instant, packets: u64) -> Self {
        Self { is_automatic: one_in.is_none(), one_in, measured_at: now, packets }
    }

    /// The present rate; `None` before there is one.
    pub(super) const fn one_in(&self) -> Option<u32> {
        self.one_in
    }

    /// Whether the traffic is to be measured.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let wait = if self.one_in.is_none() { FIRST_LOOK } else { ADAPT_EVERY };
        self.is_automatic && now.duration_since(self.measured_at) >= wait
    }

    /// Another rate, if the traffic asks for one.
    pub(super) fn next(&mut self, now: Instant, packets: u64) -> Option<u32> {
        let passed = now.duration_since(self.measured_at).as_secs_f64();
        let per_second = packets.saturating_sub(self.packets) as f64 / passed.max(0.001);
        (self.measured_at, self.packets) = (now, packets);
        let one_in = one_in_for(per_second);
        if self.one_in == Some(one_in) {
            return None;
        }
        self.one_in = Some(one_in);
        self.one_in
    }
}

/// A power of two, so that it does not change with every whim of the traffic.
fn one_in_for(packets_per_second: f64) -> u32 {
    let mut one_in = 1;
    while one_in < ONE_IN_MAX && packets_per_second / f64::from(one_in) > WANTED_PER_SECOND {
        one_in *= 2;
    }
    one_in
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_hosts_are_sampled_and_quiet_ones_are_not() {
        for (packets_per_second, one_in) in
            [(0.0, 1), (500.0, 1), (501.0, 2), (100_000.0, 256), (10_000_000.0, 32_768), (1e18, ONE_IN_MAX)]
        {
            assert_eq!(one_in_for(packets_per_second), one_in, "{packets_per_second}");
        }
    }

    #[test]
    fn an_automatic_rate_follows_the_traffic_and_one_by_hand_stays() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut sampling = Sampling::new(None, start, 1_000_000);
        assert!(!sampling.is_due(after(99)) && sampling.is_due(after(100)));
        assert_eq!(sampling.next(after(100), 1_000_010), Some(1), "100 packets a second");
        assert!(!sampling.is_due(after(1_000)) && sampling.is_due(after(1_100)));
        assert_eq!(sampling.next(after(1_100), 1_000_020), None);
        assert_eq!(sampling.next(after(2_100), 1_100_020), Some(256));
        assert!(!Sampling::new(Some(7), start, 0).is_due(after(10_000)));
    }
}
