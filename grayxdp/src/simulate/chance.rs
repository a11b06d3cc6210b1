//! Random numbers from a seed.

use rand_distr::{Binomial, Distribution as _, Geometric, Poisson, StandardNormal, StandardUniform};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng as _};

/// A stream of random numbers. The same seed and number give the same stream on every machine.
#[derive(Clone, Debug)]
pub(super) struct Chance(Xoshiro256PlusPlus);

impl Chance {
    pub(super) fn new(seed: u64, number: u32) -> Self {
        // The seeding spreads neighbouring numbers over the whole state.
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ (u64::from(number) << 32)))
    }

    /// 32 random bits.
    pub(super) fn word(&mut self) -> u32 {
        StandardUniform.sample(&mut self.0)
    }

    /// A place among so many, which is more than none.
    pub(super) fn place(&mut self, places: usize) -> usize {
        // The high half of the product: no bias that could be seen.
        usize::try_from((u64::from(self.word()) * places as u64) >> 32).unwrap_or(0)
    }

    /// Mean zero, variance one.
    pub(super) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// How many of n come to pass, each with this probability.
    pub(super) fn binomial(&mut self, n: u64, probability: f64) -> u64 {
        if n == 0 || probability <= 0.0 {
            return 0;
        }
        if probability >= 1.0 {
            return n;
        }
        let variance = n as f64 * probability * (1.0 - probability);
        if variance > NEARLY_NORMAL {
            // Far faster, and no test could tell: the skewness is below a twelfth.
            let drawn = (n as f64).mul_add(probability, 0.5) + variance.sqrt() * self.normal();
            return whole(drawn.max(0.0)).min(n);
        }
        Binomial::new(n, probability).map_or(0, |binomial| binomial.sample(&mut self.0))
    }

    /// How many events of this mean number.
    pub(super) fn poisson(&mut self, mean: f64) -> u64 {
        if mean > NEARLY_NORMAL {
            return whole((mean + 0.5 + mean.sqrt() * self.normal()).max(0.0));
        }
        Poisson::new(mean).map_or(0, |poisson| whole(poisson.sample(&mut self.0)))
    }

    /// One or more, of this mean.
    pub(super) fn burst(&mut self, mean: f64) -> u64 {
        Geometric::new((1.0 / mean).min(1.0)).map_or(1, |geometric| 1 + geometric.sample(&mut self.0))
    }
}

/// Counts of a larger variance are drawn from the normal distribution.
const NEARLY_NORMAL: f64 = 150.0;

/// Rounded down.
fn whole(number: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(number).map_or(0, |length| length.as_secs())
}
