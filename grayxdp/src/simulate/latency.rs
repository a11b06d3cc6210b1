//! Response times: by bucket of the judge's histogram, v1's and those of a slower v2.

use grayxdp_common::histogram::{HISTOGRAM_BUCKETS, lower_bound_us};

use super::chance::Chance;
use crate::decide::signals::Histogram;

/// Cells that are rarer than this are left out.
const RAREST: f64 = 1e-6;
/// So few responses are drawn one by one.
const FEW: u64 = 400;
/// Entries of the table that says where to look for a probability.
const GUIDES: usize = 256;

/// How long responses take: lognormal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LatencyModel {
    /// The median in microseconds.
    pub median_us: f64,
    /// The standard deviation of its natural logarithm: 0.8 is usual, 2 has a very heavy tail.
    pub sigma: f64,
}

impl Default for LatencyModel {
    fn default() -> Self {
        Self { median_us: 20_000.0, sigma: 0.8 }
    }
}

/// The buckets that there are, how probable each is if none before it was met, and the sums of their probabilities.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Cells {
    buckets: Vec<usize>,
    conditional: Vec<f64>,
    cumulative: Vec<f64>,
    /// The first cell that reaches into each 256th of all responses.
    guides: Vec<usize>,
}

impl Cells {
    /// Of responses of which a part takes so many times as long; so many buckets are one cell.
    pub(super) fn new(model: &LatencyModel, times: f64, part: f64, width: usize) -> Self {
        let below = |us: f64, times: f64| normal_below((us / (model.median_us * times)).ln() / model.sigma);
        let below = |bucket: usize| match bucket {
            0 => 0.0,
            HISTOGRAM_BUCKETS => 1.0,
            _ => {
                let us = lower_bound_us(bucket) as f64;
                (1.0 - part) * below(us, 1.0) + part * below(us, times)
            }
        };
        let mut cells =
            Self { buckets: Vec::new(), conditional: Vec::new(), cumulative: Vec::new(), guides: Vec::new() };
        let probable = (0..HISTOGRAM_BUCKETS)
            .step_by(width)
            .map(|bucket| (bucket, below((bucket + width).min(HISTOGRAM_BUCKETS)) - below(bucket)));
        let probable: Vec<_> = probable.filter(|(_, probability)| *probability > RAREST).collect();
        let mut left: f64 = probable.iter().map(|(_, probability)| probability).sum();
        let all = left;
        for (bucket, probability) in probable {
            cells.buckets.push(bucket);
            cells.conditional.push((probability / left).clamp(0.0, 1.0));
            left -= probability;
            cells.cumulative.push(1.0 - left / all);
        }
        // One cell less, for what rounding might make of a word that lies just at a border.
        let first_beyond = |guide: usize| {
            let part = guide as f64 / GUIDES as f64;
            cells.cumulative.partition_point(|below| *below <= part).saturating_sub(1)
        };
        cells.guides = (0..GUIDES).map(first_beyond).collect();
        cells
    }

    /// So many responses.
    pub(super) fn draw(&self, chance: &mut Chance, responses: u64, histogram: &mut Histogram) {
        if responses <= FEW {
            for _ in 0..responses {
                let word = chance.word();
                let part = f64::from(word) / f64::from(u32::MAX);
                let mut cell = self.guides[(word >> 24) as usize];
                while cell + 1 < self.buckets.len() && self.cumulative[cell] <= part {
                    cell += 1;
                }
                histogram.add_to_bucket(self.buckets[cell.min(self.buckets.len() - 1)], 1);
            }
            return;
        }
        let mut left = responses;
        for (bucket, conditional) in self.buckets.iter().zip(&self.conditional) {
            let here = chance.binomial(left, *conditional);
            histogram.add_to_bucket(*bucket, here);
            left -= here;
            if left == 0 {
                break;
            }
        }
        // Rounding may have left the last ones over.
        histogram.add_to_bucket(self.buckets.last().copied().unwrap_or(0), left);
    }
}

/// The normal distribution function, to seven digits (Abramowitz and Stegun 26.2.17).
fn normal_below(z: f64) -> f64 {
    let t = 1.0 / 0.231_641_9f64.mul_add(z.abs(), 1.0);
    let series = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let sum = series.into_iter().fold(0.0, |sum, term| t.mul_add(sum, term)) * t;
    let above = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum;
    if z > 0.0 { 1.0 - above } else { above }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_the_normal_one() {
        for (z, expected) in [(0.0, 0.5), (1.0, 0.841_344_746), (-1.96, 0.024_997_895), (3.0, 0.998_650_102)] {
            assert!((normal_below(z) - expected).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn medians_are_drawn_as_they_are_set_and_slower_ones_are_slower() {
        let model = LatencyModel::default();
        for (times, part, median) in [(1.0, 1.0, 20_000.0), (2.0, 1.0, 40_000.0), (10.0, 0.02, 20_400.0)] {
            for draw in [1u64, 100_000] {
                let mut histogram = Histogram::default();
                let mut chance = Chance::new(1, 1);
                let cells = Cells::new(&model, times, part, 1);
                for _ in 0..100_000 / draw {
                    cells.draw(&mut chance, draw, &mut histogram);
                }
                let found = histogram.quantile_us(0.5).expect("not empty");
                assert_eq!(histogram.count(), 100_000);
                assert!((found / median - 1.0).abs() < 0.08, "{times} {part}: {found}");
            }
        }
    }
}
