//! Where a response counts as slow: v1's quantiles so far, fixed before the tick that is judged by them.

use serde::{Deserialize, Serialize};

use crate::decide::signals::Histogram;

/// Parts of v1's responses that are slow, at most.
const SLOW: [f64; CUTS] = [0.5, 0.1, 0.01];
pub(super) const CUTS: usize = 3;
/// With fewer responses of v1, its 99th percentile is not known.
const COUNT_LEAST: u64 = 200;
/// The past weighs half when there is so much of it.
const COUNT_MOST: u64 = 200_000;

/// v1's responses, and the cuts that follow from them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Cuts {
    buckets: Vec<u64>,
    count: u64,
    /// Buckets from which on a response is slow.
    cuts: [usize; CUTS],
    /// How many responses the cuts were last taken from; zero before that.
    taken_from: u64,
}

impl Cuts {
    /// The cuts, once they are known.
    pub(super) fn known(&self) -> Option<&[usize; CUTS]> {
        (self.taken_from > 0).then_some(&self.cuts)
    }

    /// Takes a tick's responses of v1 in, for the ticks to come.
    pub(super) fn learn(&mut self, tick: &Histogram, count: u64) {
        if count == 0 {
            return;
        }
        self.buckets.resize(tick.buckets().len(), 0);
        for (bucket, more) in self.buckets.iter_mut().zip(tick.buckets()) {
            *bucket = bucket.saturating_add(*more);
        }
        self.count = self.count.saturating_add(count);
        if self.count > COUNT_MOST {
            self.buckets.iter_mut().for_each(|bucket| *bucket /= 2);
            self.count = self.buckets.iter().sum();
            self.taken_from = self.taken_from.min(self.count);
        }
        // Nothing moves much before a tenth has been added.
        if self.count >= COUNT_LEAST && self.count >= self.taken_from + self.taken_from / 10 {
            self.cuts = SLOW.map(|slow| self.first_rarer_than(slow));
            self.taken_from = self.count;
        }
    }

    /// The first bucket from which on there is no more than this part.
    fn first_rarer_than(&self, part: f64) -> usize {
        let most = part * self.count as f64;
        let mut from_here = 0;
        for (bucket, count) in self.buckets.iter().enumerate().rev() {
            from_here += count;
            if from_here as f64 > most {
                return bucket + 1;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use grayxdp_common::histogram::bucket_of;

    use super::*;

    #[test]
    fn cuts_are_quantiles_known_after_enough_responses() {
        let mut cuts = Cuts::default();
        let mut tick = Histogram::default();
        for us in 1..=100 {
            tick.record_us(us * 100, 1);
        }
        cuts.learn(&tick, 100);
        assert_eq!(cuts.known(), None);
        cuts.learn(&tick, 100);
        let expected = [bucket_of(5000) + 1, bucket_of(9000) + 1, bucket_of(10_000) + 1];
        assert_eq!(cuts.known(), Some(&expected));
        for _ in 0..10_000 {
            cuts.learn(&tick, 100);
        }
        assert_eq!((cuts.known(), cuts.count <= COUNT_MOST), (Some(&expected), true));
    }

    #[test]
    fn where_all_responses_are_alike_slower_ones_are_slow() {
        let mut cuts = Cuts::default();
        let mut tick = Histogram::default();
        tick.record_us(100, 1000);
        cuts.learn(&tick, 1000);
        assert_eq!(cuts.known(), Some(&[bucket_of(100) + 1; CUTS]));
    }
}
