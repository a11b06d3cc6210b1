//! Weights, their thresholds in the kernel, and the arithmetic from a hash to shard, version and slot.
//!
//! A key's 64-bit hash is used in three places that must not depend on each other: the low half is compared with the
//! threshold, the high half picks the shard, and a multiplicative mix of all of it picks the Maglev slot.

use crate::{
    ids::{ShardId, Version},
    layout::ServiceEntry,
};

/// The share of a shard's new connections that goes to v2, in hundredths of a percent: 0 to 10,000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Weight(u16);

impl Weight {
    /// Nothing to v2.
    pub const ZERO: Self = Self(0);
    /// Everything to v2.
    pub const FULL: Self = Self(10_000);

    /// `None` above 100 %.
    pub const fn from_hundredths(hundredths_of_percent: u16) -> Option<Self> {
        if hundredths_of_percent <= Self::FULL.0 { Some(Self(hundredths_of_percent)) } else { None }
    }

    /// Hundredths of a percent, 0 to 10,000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// What is left for v1.
    #[must_use]
    pub const fn rest(self) -> Self {
        Self(Self::FULL.0 - self.0)
    }

    /// The threshold that lets this share of all hashes through.
    pub const fn threshold(self) -> Threshold {
        Threshold(((self.0 as u64) << 32) / Self::FULL.0 as u64)
    }
}

impl core::fmt::Display for Weight {
    /// Percent with two decimals, without the sign.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A weight as the kernel reads it: keys whose [`KeyHash::fraction`] lies under it go to v2. 0 to 2³².
///
/// One aligned 8-byte store changes a weight. Raising it only moves keys from v1 to v2, lowering it only back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Threshold(u64);

impl Threshold {
    /// As it stands in the weight map.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// As it stands in the weight map.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The version of a key.
    #[inline(always)]
    pub const fn version(self, hash: KeyHash) -> Version {
        if (hash.fraction() as u64) < self.0 { Version::V2 } else { Version::V1 }
    }

    /// The weight that this threshold was made from; `None` where it was made from none.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be at most 10,000")]
    pub const fn weight(self) -> Option<Weight> {
        // Rounded up: `Weight::threshold` rounds down.
        let hundredths = (self.0 * Weight::FULL.0 as u64).div_ceil(1 << 32);
        if hundredths > Weight::FULL.0 as u64 {
            return None;
        }
        let weight = Weight(hundredths as u16);
        if weight.threshold().0 == self.0 { Some(weight) } else { None }
    }
}

/// The keyed hash of a client's address, or of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Compared with the threshold; uniform over 0 to 2³² - 1.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    pub const fn fraction(self) -> u32 {
        self.0 as u32
    }

    /// The shard, by a multiplication in place of a division (Lemire 2019).
    #[inline(always)]
    pub const fn shard(self, shard_count: u32) -> ShardId {
        ShardId((((self.0 >> 32) * shard_count as u64) >> 32) as u32)
    }

    /// The slot of the Maglev table. The odd multiplier makes the slot independent of shard and fraction.
    #[inline(always)]
    pub const fn maglev_slot(self, slots: u32) -> u32 {
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((mixed * slots as u64) >> 32) as u32
    }
}

impl ServiceEntry {
    /// Where a shard's threshold lies in the map of weights.
    #[inline(always)]
    pub const fn weight_slot(&self, shard: ShardId) -> u32 {
        self.shard_first.wrapping_add(shard.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{MAGLEV_SIZES, SHARDS_PER_SERVICE_MAX};

    #[test]
    fn every_weight_comes_back_from_its_threshold() {
        for hundredths in 0..=10_000 {
            let weight = Weight::from_hundredths(hundredths).expect("in range");
            assert_eq!(weight.threshold().weight(), Some(weight), "{weight}");
        }
    }

    #[test]
    fn ends_of_the_scale_are_exact() {
        assert_eq!(Weight::ZERO.threshold().version(KeyHash(0)), Version::V1);
        assert_eq!(Weight::FULL.threshold().version(KeyHash(u64::MAX)), Version::V2);
        assert_eq!(Weight::from_hundredths(10_001), None);
        assert_eq!(Threshold::from_raw(12_345).weight(), None);
        assert_eq!(Threshold::from_raw(u64::MAX >> 16).weight(), None);
    }

    #[test]
    fn a_weight_prints_as_percent_with_two_decimals() {
        for (hundredths, text) in [(0, "0.00"), (1, "0.01"), (1250, "12.50"), (10_000, "100.00")] {
            assert_eq!(Weight::from_hundredths(hundredths).expect("in range").to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_higher_weight_keeps_every_v2_key(a in 0..=10_000u16, b in 0..=10_000u16, hash in any::<u64>()) {
            let (low, high) = (Weight(a.min(b)), Weight(a.max(b)));
            if low.threshold().version(KeyHash(hash)) == Version::V2 {
                prop_assert_eq!(high.threshold().version(KeyHash(hash)), Version::V2);
            }
        }

        #[test]
        fn shard_and_slot_stay_in_range(hash in any::<u64>(), count in 1..=SHARDS_PER_SERVICE_MAX) {
            prop_assert!(KeyHash(hash).shard(count).0 < count);
            for slots in MAGLEV_SIZES {
                prop_assert!(KeyHash(hash).maglev_slot(slots) < slots);
            }
        }
    }
}
