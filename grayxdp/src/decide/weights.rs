//! The weights of a service's shards: one number as long as they are equal.

use std::{fmt, str::FromStr};

use grayxdp_common::weight::Weight;

/// A weight for each shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Weights(Inner);

/// Two values are equal exactly if all weights are: those that do not differ are always [`Inner::Equal`].
#[derive(Clone, PartialEq, Eq, Debug)]
enum Inner {
    Equal(Weight),
    /// At least two that differ.
    Differing(Vec<Weight>),
}

/// Why a text is no weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected hundredths of a percent, 0 to 10000, separated by spaces")]
pub struct NoWeights;

impl Weights {
    /// Nothing to v2.
    pub const ZERO: Self = Self::equal(Weight::ZERO);
    /// Everything to v2.
    pub const FULL: Self = Self::equal(Weight::FULL);

    /// The same for every shard.
    pub const fn equal(weight: Weight) -> Self {
        Self(Inner::Equal(weight))
    }

    /// One for each shard, in their order; zero for none at all.
    pub fn of_shards(weights: Vec<Weight>) -> Self {
        let first = weights.first().copied().unwrap_or_default();
        if weights.iter().all(|weight| *weight == first) {
            return Self::equal(first);
        }
        Self(Inner::Differing(weights))
    }

    /// A shard's weight; zero for one that there is not.
    pub fn of(&self, shard: usize) -> Weight {
        match &self.0 {
            Inner::Equal(weight) => *weight,
            Inner::Differing(weights) => weights.get(shard).copied().unwrap_or_default(),
        }
    }

    /// The weights where they differ.
    pub fn differing(&self) -> Option<&[Weight]> {
        match &self.0 {
            Inner::Equal(_) => None,
            Inner::Differing(weights) => Some(weights),
        }
    }

    /// The weights of so many shards.
    pub fn each(&self, shards: usize) -> impl Iterator<Item = Weight> {
        (0..shards).map(|shard| self.of(shard))
    }

    /// With another weight for one of so many shards.
    #[must_use]
    pub fn with(&self, shard: usize, shards: usize, weight: Weight) -> Self {
        Self::of_shards((0..shards).map(|each| if each == shard { weight } else { self.of(each) }).collect())
    }

    /// If they are made for another number of shards, the lowest of them for all: less of v2 is always safe.
    #[must_use]
    pub fn fitted(self, shards: usize) -> Self {
        match &self.0 {
            Inner::Differing(weights) if weights.len() != shards => Self::equal(self.lowest()),
            _ => self,
        }
    }

    /// The mean over the shards, to the nearest hundredth of a percent; but 0 and 100 % only where all are.
    pub fn mean(&self) -> Weight {
        let Inner::Differing(weights) = &self.0 else { return self.lowest() };
        let sum: u64 = weights.iter().map(|weight| u64::from(weight.hundredths())).sum();
        let count = u64::try_from(weights.len()).unwrap_or(u64::MAX).max(1);
        let mean = ((sum + count / 2) / count).clamp(1, u64::from(Weight::FULL.hundredths()) - 1);
        u16::try_from(mean).ok().and_then(Weight::from_hundredths).unwrap_or_default()
    }

    /// The lowest of all.
    pub fn lowest(&self) -> Weight {
        match &self.0 {
            Inner::Equal(weight) => *weight,
            Inner::Differing(weights) => weights.iter().min().copied().unwrap_or_default(),
        }
    }

    /// The highest of all.
    pub fn highest(&self) -> Weight {
        match &self.0 {
            Inner::Equal(weight) => *weight,
            Inner::Differing(weights) => weights.iter().max().copied().unwrap_or_default(),
        }
    }

    /// So much more in each of so many shards, at most 100 %.
    #[must_use]
    pub fn plus(&self, more: Weight, shards: usize) -> Self {
        let raised = |weight: Weight| {
            let sum = weight.hundredths().saturating_add(more.hundredths());
            Weight::from_hundredths(sum).unwrap_or(Weight::FULL)
        };
        Self::of_shards(self.each(shards).map(raised).collect())
    }

    /// Shard by shard, the lower of both.
    #[must_use]
    pub fn min(&self, other: &Self) -> Self {
        self.join(other, Weight::min)
    }

    /// Shard by shard, the higher of both.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        self.join(other, Weight::max)
    }

    /// Whether no shard has more than it has there.
    pub fn at_most(&self, other: &Self) -> bool {
        self.max(other) == *other
    }

    fn join(&self, other: &Self, choose: fn(Weight, Weight) -> Weight) -> Self {
        match (&self.0, &other.0) {
            (Inner::Equal(one), Inner::Equal(two)) => Self::equal(choose(*one, *two)),
            (Inner::Differing(weights), _) | (_, Inner::Differing(weights)) => {
                Self::of_shards((0..weights.len()).map(|shard| choose(self.of(shard), other.of(shard))).collect())
            }
        }
    }

    /// As the store keeps them: hundredths of a percent, one number or one for each shard.
    pub fn to_text(&self) -> String {
        match &self.0 {
            Inner::Equal(weight) => weight.hundredths().to_string(),
            Inner::Differing(weights) => {
                weights.iter().map(|weight| weight.hundredths().to_string()).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Weights {
    /// For people, with the sign: `20.00 %`, or `35.00 % on average`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_average = if self.differing().is_some() { " on average" } else { "" };
        write!(f, "{} %{on_average}", self.mean())
    }
}

impl FromStr for Weights {
    type Err = NoWeights;

    fn from_str(text: &str) -> Result<Self, NoWeights> {
        let weight = |word: &str| word.parse().ok().and_then(Weight::from_hundredths).ok_or(NoWeights);
        let weights = text.split_whitespace().map(weight).collect::<Result<Vec<_>, _>>()?;
        if weights.is_empty() { Err(NoWeights) } else { Ok(Self::of_shards(weights)) }
    }
}

#[cfg(test)]
pub(in crate::decide) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::decide) fn any_weights(shards: usize) -> impl Strategy<Value = Weights> {
        let weight = (0..=10_000u16).prop_map(|weight| Weight::from_hundredths(weight).expect("in range"));
        prop_oneof![
            weight.clone().prop_map(Weights::equal),
            prop::collection::vec(weight, shards).prop_map(Weights::of_shards),
        ]
    }

    fn weights(hundredths: &[u16]) -> Weights {
        Weights::of_shards(hundredths.iter().map(|&each| Weight::from_hundredths(each).expect("in range")).collect())
    }

    #[test]
    fn weights_that_do_not_differ_are_one() {
        assert_eq!(weights(&[500, 500]), Weights::equal(Weight::from_hundredths(500).expect("in range")));
        assert_eq!(weights(&[500, 500]).differing(), None);
        assert_eq!(weights(&[500, 0]).with(1, 2, weights(&[500]).of(0)), weights(&[500]));
        assert_eq!(weights(&[500]).with(1, 3, Weight::ZERO), weights(&[500, 0, 500]));
        assert_eq!(weights(&[500, 0, 700]).fitted(2), weights(&[0]));
        assert_eq!(weights(&[]), Weights::ZERO);
    }

    #[test]
    fn the_mean_is_0_or_100_only_where_all_are() {
        for (each, expected) in [
            (&[0, 0][..], "0.00 %"),
            (&[10_000, 10_000], "100.00 %"),
            (&[0, 10_000], "50.00 % on average"),
            (&[0, 0, 1], "0.01 % on average"),
            (&[10_000, 10_000, 9_999], "99.99 % on average"),
            (&[1000, 2000, 2001], "16.67 % on average"),
        ] {
            assert_eq!(weights(each).to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn lower_and_higher_are_shard_by_shard(a in any_weights(5), b in any_weights(5)) {
            for shard in 0..5 {
                prop_assert_eq!(a.min(&b).of(shard), a.of(shard).min(b.of(shard)));
                prop_assert_eq!(a.max(&b).of(shard), a.of(shard).max(b.of(shard)));
            }
            prop_assert!(a.min(&b).at_most(&a) && a.at_most(&a.max(&b)));
            prop_assert_eq!(a.at_most(&b), (0..5).all(|shard| a.of(shard) <= b.of(shard)));
            prop_assert_eq!(a.to_text().parse(), Ok(a));
        }
    }
}
