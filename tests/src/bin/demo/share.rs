//! How well the measured share followed the weight; pure.
//!
//! The agent's weight is read again and again. Between two readings of the same weight it cannot have been another one,
//! for the ramp only rises: connections that were made wholly within such a plateau were chosen by that weight, and
//! no allowance for a lag is needed. Their number on v2 is then binomial, client addresses being hashed one by one.

use std::time::Instant;

use grayxdp_tests::{
    load::{Kind, Sample},
    topology::Version,
};

/// How far off the share may be, in standard deviations of the binomial: five are passed once in a million times.
pub(crate) const DEVIATIONS_MAX: f64 = 5.0;
/// Plateaus with fewer connections say nothing.
pub(crate) const CONNECTIONS_MIN: u32 = 100;

/// The kernel's weight as the agent told it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    pub(crate) weight_percent: f64,
}

/// A time of constant weight.
#[derive(Clone, Copy, Debug)]
struct Plateau {
    weight_percent: f64,
    from: Instant,
    until: Instant,
    connections: u32,
    v2: u32,
}

/// One weight, what was measured at it, and what chance allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) weight_percent: f64,
    pub(crate) connections: u32,
    pub(crate) share_percent: f64,
    /// Allowed distance, in percentage points.
    pub(crate) tolerance: f64,
}

impl Share {
    /// Distance from the weight, in percentage points.
    pub(crate) fn error(&self) -> f64 {
        (self.share_percent - self.weight_percent).abs()
    }

    pub(crate) fn is_within(&self) -> bool {
        // At 0 and 100 % chance allows nothing; the rest of a division does.
        self.error() <= self.tolerance + 1e-9
    }
}

/// The measured share at each weight that was held long enough.
pub(crate) fn shares(readings: &[Reading], samples: &[Sample]) -> Vec<Share> {
    let mut plateaus = plateaus(readings);
    for sample in samples.iter().filter(|sample| sample.kind == Kind::Short) {
        let next = plateaus.partition_point(|plateau| plateau.from <= sample.started);
        let Some(plateau) = next.checked_sub(1).and_then(|index| plateaus.get_mut(index)) else { continue };
        if sample.connected <= plateau.until {
            plateau.connections += 1;
            plateau.v2 += u32::from(sample.version == Version::V2);
        }
    }
    plateaus.iter().filter(|plateau| plateau.connections >= CONNECTIONS_MIN).map(share).collect()
}

fn plateaus(readings: &[Reading]) -> Vec<Plateau> {
    let mut plateaus: Vec<Plateau> = Vec::new();
    for reading in readings {
        match plateaus.last_mut() {
            Some(last) if last.weight_percent == reading.weight_percent => last.until = reading.asked,
            _ => plateaus.push(Plateau {
                weight_percent: reading.weight_percent,
                from: reading.answered,
                until: reading.asked,
                connections: 0,
                v2: 0,
            }),
        }
    }
    plateaus
}

fn share(plateau: &Plateau) -> Share {
    let (count, weight) = (f64::from(plateau.connections), plateau.weight_percent / 100.0);
    Share {
        weight_percent: plateau.weight_percent,
        connections: plateau.connections,
        share_percent: 100.0 * f64::from(plateau.v2) / count,
        tolerance: 100.0 * DEVIATIONS_MAX * (weight * (1.0 - weight) / count).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(base: Instant, started_ms: u64, version: Version) -> Sample {
        let started = base + Duration::from_millis(started_ms);
        let connected = started + Duration::from_millis(1);
        Sample { kind: Kind::Short, started, connected, finished: connected, version }
    }

    fn readings(base: Instant, weights: &[f64]) -> Vec<Reading> {
        let at = |ms: usize| base + Duration::from_millis(ms as u64);
        weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Reading {
                asked: at(index * 100),
                answered: at(index * 100 + 10),
                weight_percent: *weight,
            })
            .collect()
    }

    #[test]
    fn connections_count_for_the_weight_that_surely_held() {
        let base = Instant::now();
        let readings = readings(base, &[0.0, 0.0, 50.0, 50.0]);
        let mut samples: Vec<Sample> = (0..100).map(|_| sample(base, 50, Version::V1)).collect();
        // Between the last reading of 0 and the first of 50 either may have held.
        samples.extend((0..100).map(|_| sample(base, 150, Version::V2)));
        samples.extend((0..100).map(|n| sample(base, 250, if n < 52 { Version::V2 } else { Version::V1 })));
        let shares = shares(&readings, &samples);
        let found: Vec<_> =
            shares.iter().map(|share| (share.weight_percent, share.connections, share.share_percent)).collect();
        assert_eq!(found, [(0.0, 100, 0.0), (50.0, 100, 52.0)]);
        assert_eq!(shares[1].tolerance, 25.0);
        assert!(shares.iter().all(Share::is_within));
    }

    #[test]
    fn a_single_connection_on_v2_at_weight_0_is_too_much() {
        let base = Instant::now();
        let mut samples: Vec<Sample> = (0..1000).map(|_| sample(base, 50, Version::V1)).collect();
        samples.push(sample(base, 60, Version::V2));
        let shares = shares(&readings(base, &[0.0, 0.0]), &samples);
        assert!(shares.len() == 1 && !shares[0].is_within(), "{shares:?}");
    }

    #[test]
    fn plateaus_with_few_connections_are_left_out() {
        let base = Instant::now();
        let samples: Vec<Sample> = (0..CONNECTIONS_MIN - 1).map(|_| sample(base, 50, Version::V2)).collect();
        assert!(shares(&readings(base, &[0.0, 0.0]), &samples).is_empty());
    }
}
