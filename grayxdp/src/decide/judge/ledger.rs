//! What was counted so far, and where the ratio of both rates lies.
//!
//! The likelihood of a ratio is that of [`super::ratio`], over the whole release. Its confidence sequence is the set of all
//! ratios that a mixture over ratios has not refuted: it holds at all times at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ratio::Counted, recent::Recent};
use crate::decide::evidence::Lately;

/// Bad ones are kept by v2's share: this many bins, evenly over the logit from -LOGIT_MAX to LOGIT_MAX. Within a bin the mean
/// share is kept, too, so that the likelihood is right to the second order.
const BINS: usize = 24;
const LOGIT_MAX: f64 = 7.2;
/// The mixture: ratios from 2^-GRID_OCTAVES to 2^GRID_OCTAVES.
const GRID_OCTAVES: i32 = 7;
const GRID_PER_OCTAVE: i32 = 3;

#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Bin {
    /// Bad ones of both versions, over the dispersion.
    bad: f64,
    /// The same, times v2's share.
    share: f64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Ledger {
    counted: Counted,
    recent: Recent,
    /// v2's bad ones, over the dispersion.
    bad2: f64,
    bins: Vec<Bin>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { counted: Counted::default(), recent: Recent::default(), bad2: 0.0, bins: vec![Bin::default(); BINS] }
    }
}

impl Ledger {
    pub(super) fn count(&mut self, counted: &Counted) {
        self.counted.add(counted);
        self.recent.count(counted);
    }

    /// Time passes, in which comes what is counted next.
    pub(super) fn pass(&mut self, elapsed: Duration) {
        self.recent.pass(elapsed);
    }

    /// What was counted of late is not shown as that; see [`Recent::forget`].
    pub(super) fn forget_lately(&mut self, is_next_doubtful: bool) {
        self.recent.forget(is_next_doubtful);
    }

    /// What was counted of late; `None` where that is all, or is not known.
    pub(super) fn lately(&self) -> Option<Lately> {
        self.recent.of(&self.counted)
    }

    pub(super) fn add(&mut self, e2: f64, e: f64, share: f64, dispersion: f64) {
        let logit = (share.max(1e-9) / (1.0 - share).max(1e-9)).ln().clamp(-LOGIT_MAX, LOGIT_MAX);
        let place = (logit + LOGIT_MAX) / (2.0 * LOGIT_MAX) * BINS as f64;
        if let Some(bin) = self.bins.get_mut(index_of(place)) {
            bin.bad += e / dispersion;
            bin.share += e * share / dispersion;
        }
        self.bad2 += e2 / dispersion;
    }

    /// All that was counted.
    pub(super) const fn counted(&self) -> Counted {
        self.counted
    }

    fn log_likelihood(&self, log_ratio: f64) -> f64 {
        let ratio = log_ratio.exp();
        let filled = self.bins.iter().filter(|bin| bin.bad > 0.0);
        let norm: f64 = filled.map(|bin| bin.bad * (1.0 + bin.share / bin.bad * (ratio - 1.0)).ln()).sum();
        self.bad2 * log_ratio - norm
    }

    /// The likeliest ratio of v2's rate to v1's, and where it lies at this confidence; `None` before anything was bad, or
    /// where it is undefined. An end beyond 1/128 or 128 is cut off there.
    pub(super) fn ratio(&self, alpha: f64) -> Option<(f64, (f64, f64))> {
        if self.bins.iter().all(|bin| bin.bad <= 0.0) {
            return None;
        }
        let step = std::f64::consts::LN_2 / f64::from(GRID_PER_OCTAVE);
        let grid: Vec<(f64, f64)> = (-GRID_OCTAVES * GRID_PER_OCTAVE..=GRID_OCTAVES * GRID_PER_OCTAVE)
            .map(|point| f64::from(point) * step)
            .map(|log_ratio| (log_ratio, self.log_likelihood(log_ratio)))
            .collect();
        let &(near, most) = grid.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let (least_ratio, most_ratio) = (grid.first()?.0, grid.last()?.0);
        let sum: f64 = grid.iter().map(|(_, log)| (log - most).exp()).sum();
        let refuted_below = most + (sum / grid.len() as f64).ln() - (1.0 / alpha).ln();
        let best = self.peak((near - step).max(least_ratio), (near + step).min(most_ratio));
        let low = self.crossing(best, least_ratio, refuted_below);
        let high = self.crossing(best, most_ratio, refuted_below);
        Some((best.exp(), (low.exp(), high.exp())))
    }

    /// The likelihood has one peak: golden section.
    fn peak(&self, mut low: f64, mut high: f64) -> f64 {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        for _ in 0..24 {
            let (a, b) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
            if self.log_likelihood(a) < self.log_likelihood(b) { low = a } else { high = b }
        }
        f64::midpoint(low, high)
    }

    /// Where the likelihood falls to this level between its peak and an end; the end if it does not.
    fn crossing(&self, peak: f64, end: f64, level: f64) -> f64 {
        if self.log_likelihood(end) >= level {
            return end;
        }
        let (mut inside, mut outside) = (peak, end);
        for _ in 0..24 {
            let middle = f64::midpoint(inside, outside);
            if self.log_likelihood(middle) >= level { inside = middle } else { outside = middle }
        }
        outside
    }
}

/// A place in a table of [`BINS`], from a number that may lie outside.
fn index_of(place: f64) -> usize {
    (0..BINS - 1).find(|&bin| place < (bin + 1) as f64).unwrap_or(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_lies_in_its_interval_and_more_errors_narrow_it() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.ratio(0.01), None);
        let mut width = f64::INFINITY;
        for _ in 0..4 {
            for share in [0.02, 0.1, 0.5] {
                // Of 1000 bad ones so many are v2's if it is twice as bad.
                let bad2 = 1000.0 * 2.0 * share / (1.0 + share);
                ledger.add(bad2, 1000.0, share, 1.0);
            }
            let (ratio, (low, high)) = ledger.ratio(0.01).expect("something was bad");
            assert!((ratio - 2.0).abs() < 0.02 && low < 2.0 && 2.0 < high, "{ratio} {low} {high}");
            assert!(high - low < width, "{low} {high}");
            width = high - low;
        }
    }

    #[test]
    fn with_no_bad_ones_of_one_version_an_end_is_open() {
        let mut ledger = Ledger::default();
        ledger.add(0.0, 100.0, 0.5, 1.0);
        let (ratio, (low, high)) = ledger.ratio(0.01).expect("something was bad");
        assert!(ratio < 0.02 && low <= 1.0 / 127.0 && high < 0.2, "{ratio} {low} {high}");
    }

    #[test]
    fn dispersed_errors_say_less() {
        let of = |dispersion| {
            let mut ledger = Ledger::default();
            ledger.add(20.0, 200.0, 0.1, dispersion);
            ledger.ratio(0.01).expect("something was bad").1
        };
        assert!(of(5.0).0 < of(1.0).0 && of(5.0).1 > of(1.0).1);
    }
}
